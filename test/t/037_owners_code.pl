# What an owner's code does where documents are made, in the session of somebody who reads or
# writes: nothing of it stays, and nothing of that session's own is lost.  A document function, a
# filter, a domain's check and a cast to json; each with everything that a session can hold.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached], conf => "log_statement = none\n");
my $s = session($node, sql => 'CREATE EXTENSION echocache; CREATE ROLE alice LOGIN; CREATE SCHEMA alice AUTHORIZATION alice');
my $listener = session($node, sql => 'LISTEN noise');
my $alice = session($node, user => 'alice');

# Each table has documents for which do_it() runs, and that executes what the table "code" says.
$alice->run(q{
	CREATE TABLE alice.code (c text);
	INSERT INTO alice.code VALUES ('SELECT 1');
	CREATE TABLE alice.held (id int);
	CREATE FUNCTION alice.do_it() RETURNS boolean LANGUAGE plpgsql AS $$
	DECLARE
		code text;
	BEGIN
		SELECT c INTO code FROM alice.code;
		IF code LIKE 'CURSOR %' THEN
			DECLARE cur refcursor := 'leftover'; r record;
			BEGIN
				OPEN cur FOR SELECT * FROM alice.held;
				FETCH cur INTO r;
			END;
		ELSE
			EXECUTE code;
		END IF;
		RETURN true;
	END $$;
	CREATE TABLE alice.made (id int PRIMARY KEY, v int);
	CREATE FUNCTION alice.make(m alice.made) RETURNS json STABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM alice.do_it(); RETURN row_to_json(m); END $$;
	CREATE TABLE alice.filtered (id int PRIMARY KEY, v int);
	CREATE FUNCTION alice.good(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN alice.do_it(); END $$;
	CREATE FUNCTION alice.small(int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN IF $1 < 100 THEN RETURN alice.do_it(); END IF; RETURN true; END $$;
	CREATE DOMAIN alice.small AS int CHECK (alice.small(VALUE));
	CREATE TABLE alice.typed (id alice.small PRIMARY KEY, v int);
	CREATE TYPE alice.mood AS ENUM ('sad', 'ok');
	CREATE FUNCTION alice.mood_json(alice.mood) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM alice.do_it(); RETURN to_json($1::text); END $$;
	CREATE CAST (alice.mood AS json) WITH FUNCTION alice.mood_json(alice.mood);
	CREATE TABLE alice.cast_ (id alice.mood PRIMARY KEY, v int);
	SELECT echocache_attach('alice.made', 'made', document => 'alice.make'), echocache_attach('alice.filtered', 'filtered', filter => 'alice.good(v)'),
		echocache_attach('alice.typed', 'typed'), echocache_attach('alice.cast_', 'cast_');
	INSERT INTO alice.made VALUES (1, 1);
	INSERT INTO alice.filtered VALUES (1, 1);
	INSERT INTO alice.typed VALUES (1, 1);
	INSERT INTO alice.cast_ VALUES ('ok', 1)});
wait_state($s, 'UP');

# What the session holds of its own.
$s->run(q{SELECT pg_advisory_lock(1), pg_advisory_lock_shared(2, 3); LISTEN mine; PREPARE mine AS SELECT 1; SET work_mem = '5MB';
	CREATE TEMP TABLE mine (id int); DECLARE mine CURSOR WITH HOLD FOR SELECT generate_series(1, 3)});
my $state = q{SELECT concat_ws(E'\n',
	(SELECT 'locks ' || string_agg(concat_ws(' ', classid, objid, objsubid, mode), ', ' ORDER BY classid, objid) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objsubid < 3),
	(SELECT 'tables ' || count(*) FROM pg_locks WHERE relation = 'alice.held'::regclass AND pid = pg_backend_pid()),
	(SELECT 'cursors ' || string_agg(name, ', ' ORDER BY name) FROM pg_cursors WHERE name <> ''),
	(SELECT 'channels ' || string_agg(c, ', ' ORDER BY c) FROM pg_listening_channels() c),
	(SELECT 'statements ' || string_agg(name, ', ' ORDER BY name) FROM pg_prepared_statements),
	(SELECT 'temporary ' || string_agg(relname, ', ' ORDER BY relname) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
	'settings ' || concat_ws(' ', current_user, current_setting('work_mem'), current_setting('search_path'), current_setting('role')))};
my $mine = $s->run($state);
$s->run('SELECT setseed(0.25)');
my $seeded = $s->run('SELECT random()');

# The ways by which code of hers runs; the key of the document.
my %way = (
	'a document function' => [ 'made', '1', q{echocache_get('made', 1)} ],
	'a filter' => [ 'filtered', '1', q{echocache_get('filtered', 1)} ],
	"a domain's check" => [ 'typed', '1', q{echocache_get('typed', 1)} ],
	"a domain's check, for a row" => [ 'typed', '1', q{(SELECT r::text FROM echocache_get_row(NULL::alice.typed, 1) r)} ],
	'a cast' => [ 'cast_', 'ok', q{echocache_get('cast_', 'ok'::text)} ]);

# Tests: whatever this code does there, it is gone afterwards; refused => it must fail.
sub leaves_nothing
{
	my ($code, $refused) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$alice->run('UPDATE alice.code SET c = $code$' . $code . '$code$');
	for my $what (sort keys %way)
	{
		my ($name, $id, $get) = @{ $way{$what} };

		for my $cached (0, 1)
		{
			$cached ? $s->attempt("SELECT $get") : $memcached->delete("$name:$id");
			$s->run('SELECT setseed(0.25)');
			$s->run('BEGIN; SAVEPOINT a');
			my $done = defined $s->attempt("SELECT $get");
			my $messages = $s->messages;
			$s->run('ROLLBACK TO a') unless $done;
			ok(!$done, "$code in $what is refused") if $refused && !$cached;
			like($messages, $refused, 'with words') if ref $refused && !$cached;
			is($s->run($state), $mine, "$code in $what: a read leaves nothing");
			is($s->run('SELECT random()'), $seeded, 'not even a seed');
			$s->run('COMMIT');
		}
		# At a commit, where a function's error is none of the commit's.
		my $value = $s->attempt("UPDATE alice.$name SET v = v + 1 RETURNING v");
		ok(defined $value, "$code in $what: the change is committed") if !$refused || $name eq 'made';
		is($s->run("SELECT v FROM alice.$name"), $value, 'and is there') if defined $value;
		is($s->run($state), $mine, "$code in $what: a commit leaves nothing");
	}
	is($listener->run('SELECT 1'), '1', 'nobody is notified');
	return;
}

my $acts = qr/^0A000: function pg_\w+\(.*\) cannot be called where documents are made/;
leaves_nothing('SELECT 1');
leaves_nothing('SELECT pg_advisory_lock(4711)', $acts);
leaves_nothing('SELECT pg_try_advisory_lock_shared(4, 5)', $acts);
leaves_nothing('SELECT pg_advisory_unlock(1)', $acts);
leaves_nothing('SELECT pg_advisory_unlock_all()', $acts);
leaves_nothing('SELECT setseed(0.5)', qr/^0A000: function setseed\(double precision\) cannot be called/);
leaves_nothing('SELECT pg_advisory_xact_lock(4711)');
leaves_nothing('LOCK TABLE alice.held IN ACCESS SHARE MODE');
leaves_nothing('CURSOR in plpgsql');
leaves_nothing(q{SELECT set_config('work_mem', '6MB', false), set_config('search_path', 'alice', false)});
leaves_nothing(q{SELECT pg_notify('noise', 'loud')});
leaves_nothing('NOTIFY noise');
leaves_nothing($_, 1) for 'LISTEN theirs', 'UNLISTEN *', 'PREPARE theirs AS SELECT 1', 'DEALLOCATE ALL', 'DISCARD ALL', 'CREATE TEMP TABLE theirs (id int)',
	'DECLARE theirs CURSOR WITH HOLD FOR SELECT 1', 'CLOSE ALL', 'DROP TABLE pg_temp.mine', 'SET ROLE postgres', 'COMMIT';

# Those who go over all documents.
for my $code ('CURSOR in plpgsql', 'SELECT pg_advisory_lock(4711)', 'SELECT pg_advisory_unlock_all()')
{
	$alice->run('UPDATE alice.code SET c = $code$' . $code . '$code$');
	for my $name (qw(made filtered typed cast_))
	{
		$s->attempt("SELECT * FROM $_('$name')") for 'echocache_warm', 'echocache_verify';
	}
	is($s->run($state), $mine, "warm and verify leave nothing of $code");
}

# Elsewhere these functions do what they always did, in a restricted operation, too.
is($alice->run('SELECT pg_try_advisory_lock(4711), pg_advisory_unlock_all(), setseed(0.5)'), 't||', 'elsewhere they may be called');
$alice->run(q{CREATE TABLE alice.indexed (id int); INSERT INTO alice.indexed VALUES (1); CREATE FUNCTION alice.lock(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_lock(5); RETURN 1; END $$});
ok(defined $s->attempt('CREATE INDEX ON alice.indexed (alice.lock(id))'), 'by an index as ever');
unlike(slurp_file($node->logfile), qr/leak|PANIC|TRAP|snapshot .* still active/, 'no resource has leaked');

done_testing();
