# Documents that a function makes of several tables, where it takes time and things go
# wrong: many who miss one slow document build it once; an error, a cancel, a kill in
# the function; prepared transactions; dump and restore; and who may read what.
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
use Time::HiRes qw(time);

my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached], conf => qq{
	max_connections = 230
	max_prepared_transactions = 5
	echocache.fill_wait = '10s'
	log_statement = none
});
my ($s, $other);

sub sessions
{
	$_ = session($node, sql => q{SET statement_timeout = '60 s'}) for $s, $other;
	return;
}

# The function waits when the title says so, and says each time in the log that it runs.
sessions();
$s->run(q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, owner int, title text);
	CREATE TABLE message (id int PRIMARY KEY, session_id bigint REFERENCES session, body text);
	CREATE FUNCTION doc(s session) RETURNS json LANGUAGE plpgsql STABLE AS $$
	BEGIN
		RAISE LOG 'making session %', s.id;
		IF s.title LIKE 'sleep %' THEN PERFORM pg_sleep(substr(s.title, 7)::float8); END IF;
		IF s.title = 'fail' THEN RAISE 'no document for %', s.id; END IF;
		RETURN json_build_object('id', s.id, 'owner', s.owner, 'title', s.title,
			'messages', (SELECT json_agg(m.body ORDER BY m.id) FROM public.message m WHERE m.session_id = s.id));
	END $$;
	SELECT echocache_attach('session', owner_column => 'owner', document => 'doc'), echocache_attach_dependent('message', 'session_id')});
wait_state($s, 'UP');
$s->run(q{INSERT INTO session SELECT g, 7, 's' || g FROM generate_series(1, 9) g});

# As the function makes it.
sub document
{
	my ($id) = @_;

	return $s->run("SELECT doc(s) FROM session s WHERE id = $id");
}

# How often the function has run since this place in the log.
sub made
{
	my ($log) = @_;

	return scalar(() = slurp_file($node->logfile, $log) =~ /making session/g);
}

# Test: SQL reads the document as it is, and then it is cached.
sub cached
{
	my ($id, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $document = document($id);

	is($other->run("SELECT echocache_get_session($id)"), $document, $name);
	return eventually('and it is cached', sub {
		$other->run("SELECT echocache_get_session($id)");
		return ($memcached->get("session:$id") // '') eq $document;
	});
}

# Send what will run the function, and wait until it sleeps.
sub send_asleep
{
	my ($session, $sql) = @_;

	$session->send($sql);
	wait_for('the function to sleep', sub {
		return $s->run('SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $session->pid) eq 'PgSleep';
	});
	return;
}

#
# Many miss one slow document.
#
my $script = PostgreSQL::Test::Utils::tempdir() . '/read.sql';
append_to_file($script, "SELECT (echocache_get_session(1) ->> 'title' = 'sleep 0.3')::int AS right \\gset\nSELECT 1 / :right;\n");
$s->run(q{UPDATE session SET title = 'sleep 0.3' WHERE id = 1});
await_builder($s);
$memcached->delete('session:1');
$s->run('SELECT echocache_stats_reset()');
my $log = -s $node->logfile;
$node->command_ok([ 'pgbench', '-n', '-c', 200, '-j', 2, '-t', 1, '-f', $script, $node->connstr('postgres') ],
	'200 clients ask for a slow document that is not cached: all get it');
cmp_ok(made($log), '>=', 1, 'it was made');
cmp_ok(made($log), '<=', 2, 'but not by each of them');
is($s->run(q{SELECT hits + fills >= 199 FROM echocache_stats}), 't', 'the others had it from the cache');
holds($memcached, 'session:1', document(1), 'where it is');

# They do not wait longer than fill_wait; then they read for themselves.
setting($s, 'echocache.fill_wait' => '20ms');
$s->run(q{UPDATE session SET title = 'sleep 2' WHERE id = 1});
await_builder($s);
$memcached->delete('session:1');
my @clients = map { session($node) } 1 .. 4;
$log = -s $node->logfile;
my $took = EchoCache::seconds(sub {
	$_->send('SELECT echocache_get_session(1)') for @clients;
	is($_->finish, '{"id" : 1, "owner" : 7, "title" : "sleep 2", "messages" : null}', 'a client that does not wait for the others') for @clients;
});
is(made($log), 4, 'each has made it');
in_time($s, $took, 6, 'at the same time');
$_->quit for @clients;
setting($s, 'echocache.fill_wait' => '10s');
$s->run(q{UPDATE session SET title = 's1' WHERE id = 1});

#
# It fails.
#
is($s->error(q{UPDATE session SET title = 'fail' WHERE id = 2}), 'no error', 'a function that throws does not keep a change from being committed');
await_builder($s);
like(slurp_file($node->logfile), qr/WARNING:  echocache: document "session" with id "2" could not be made: no document for 2$/m, 'the log says so');
marked($memcached, 'session:2', 'the document is invalidated');
like($other->error('SELECT echocache_get_session(2)'), qr/^P0001: no document for 2/, 'who reads it has the error');
$s->run(q{INSERT INTO message VALUES (1, 2, 'to whom it fails')});
is($s->run('SELECT count(*) FROM message'), 1, 'a change of a dependent table is committed all the same');
$s->run(q{UPDATE session SET title = 'works' WHERE id = 2});
holds($memcached, 'session:2', document(2), 'when it works again the change is written through');

# A commit does not wait for it, and statement_timeout does not end it.
is($other->error(q{SET statement_timeout = '1s'; UPDATE session SET title = 'sleep 2' WHERE id = 3}), 'no error', 'a commit does not wait for a slow function');
await_builder($s);
holds($memcached, 'session:3', $s->run(q{SET statement_timeout = '60 s'; SELECT doc(s) FROM session s WHERE id = 3}), 'whose document is cached later');
$memcached->delete('session:3');
like($other->error('SELECT echocache_get_session(3)'), qr/^57014: canceling statement due to statement timeout/, 'but a read');
$other->run(q{SET statement_timeout = '60 s'});
cached(3, 'another one loads the document');

# Its backend is killed.
$s->run(q{UPDATE session SET title = 'sleep 5' WHERE id = 4});
await_builder($s);
$memcached->delete('session:4');
my $victim = session($node);
send_asleep($victim, 'SELECT echocache_get_session(4)');
is($s->run('SELECT pg_terminate_backend(' . $victim->pid . ', 60000)'), 't', 'the backend is killed while it makes a document for a read');
eval { $victim->finish };
is($s->run(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}), 0, 'it leaves no lock');
$s->run(q{UPDATE session SET title = 's4' WHERE id = 4});
cached(4, 'others go on');

#
# A backend that could not read the configuration, for a lock, reads it later.
#
$s->run(q{BEGIN; LOCK TABLE echocache.document; ALTER TABLE session ADD COLUMN more int; SAVEPOINT a});
$other->run(q{SET lock_timeout = '200ms'});
like($other->error(q{INSERT INTO message VALUES (2, 5, 'too early')}), qr/^55P03: /, 'a write that has to wait for the configuration is cut off');
$s->run('COMMIT');
$other->run('RESET lock_timeout');
is($other->error(q{INSERT INTO message VALUES (3, 5, 'later')}), 'no error', 'a later one is not');
holds($memcached, 'session:5', document(5), 'and is noted');

#
# Prepared transactions.
#
cached(5, 'cached before');
is($s->error(q{BEGIN; INSERT INTO message VALUES (4, 5, 'prepared'); UPDATE message SET session_id = 6 WHERE id = 3; PREPARE TRANSACTION 'p'}), 'no error',
	'a change of dependent rows is prepared');
for (1, 2)
{
	is($other->run("SELECT echocache_get_session($_)"), document($_), "session:$_, the old one, is read from the tables") for 5, 6;
}
invalidated($memcached, "session:$_", "session:$_ is not cached") for 5, 6;
$other->run(q{COMMIT PREPARED 'p'});
cached($_, "committed: session:$_") for 5, 6;
like(document(5), qr/\["prepared"\]/, 'which has the prepared change');

#
# As whom it runs, and who may read.
#
$s->run(q{
	CREATE ROLE app LOGIN; CREATE ROLE reader LOGIN; CREATE ROLE columns LOGIN; CREATE ROLE stranger LOGIN; CREATE ROLE definer;
	CREATE SCHEMA private AUTHORIZATION app; GRANT USAGE ON SCHEMA private TO reader, columns, definer;
	CREATE TABLE secret (id int, v text); INSERT INTO secret VALUES (1, 'known to the definer'); GRANT SELECT ON secret TO definer;
	GRANT CREATE ON SCHEMA private TO definer});
my %as = map { $_ => session($node, user => $_) } qw(app reader columns stranger);
$as{app}->run(q{
	CREATE TABLE private.thing (id bigint PRIMARY KEY, owner int, v text);
	CREATE TABLE private.part (id bigint PRIMARY KEY, thing_id bigint, v text);
	CREATE FUNCTION private.thing_doc(t private.thing) RETURNS json LANGUAGE plpgsql STABLE AS $$
	BEGIN
		RETURN json_build_object('id', t.id, 'v', t.v, 'by', current_user, 'parts', (SELECT json_agg(p.v ORDER BY id) FROM private.part p WHERE p.thing_id = t.id));
	END $$;
	REVOKE EXECUTE ON FUNCTION private.thing_doc FROM PUBLIC;
	SELECT echocache_attach('private.thing', 'thing', document => 'private.thing_doc'), echocache_attach_dependent('private.part', 'thing_id', 'thing');
	INSERT INTO private.thing VALUES (1, 7, 'one'), (2, 8, 'two');
	INSERT INTO private.part VALUES (1, 1, 'a'), (2, 2, 'b');
	GRANT SELECT ON private.thing TO reader, stranger;
	GRANT SELECT (id, v) ON private.thing TO columns});
my $one = '{"id" : 1, "v" : "one", "by" : "app", "parts" : ["a"]}';
sub thing { return "SELECT echocache_get('thing', 1)"; }
sub hits { return $s->run(q{SELECT hits FROM echocache_stats WHERE name = 'thing'}); }
for my $how ('hit', 'miss')
{
	my $prepare = sub {
		$how eq 'miss' ? $memcached->delete('thing:1') : $s->run(thing());
	};
	$as{app}->run('REVOKE EXECUTE ON FUNCTION private.thing_doc FROM reader, columns');
	$prepare->();
	like($as{reader}->error(thing()), qr/^42501: permission denied for function thing_doc/, "$how: SELECT on the table without EXECUTE on the function");
	like($as{reader}->error(q{SELECT * FROM echocache_get_many('thing', '{1}'::bigint[])}), qr/^42501: permission denied for function thing_doc/, "$how: nor many");
	like($as{stranger}->error(thing()), qr/^42501: permission denied for schema private/, "$how: without USAGE on the schema of the table");
	$as{app}->run('GRANT EXECUTE ON FUNCTION private.thing_doc TO reader, columns');
	like($as{columns}->error(thing()), qr/^42501: permission denied for table thing/, "$how: with some columns of the table");
	my $before = hits();
	is($as{reader}->run(thing()), $one, "$how: with both, what the function reads as the table's owner");
	is(hits() - $before, $how eq 'hit' ? 1 : 0, "was a $how");
	like($as{reader}->error('SELECT * FROM private.part'), qr/^42501: /, 'which is nothing that the reader may read himself');
}
for my $call (q{echocache_touch('thing', 1)}, q{echocache_invalidate('thing', 1)}, q{echocache_refresh('thing', 1)})
{
	like($as{columns}->error("SELECT $call"), qr/^42501: /, "$call needs the same");
}
# Row-level security of the parent: the table answers, and the function still runs as the owner.
$as{app}->run(q{ALTER TABLE private.thing ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON private.thing FOR SELECT TO reader USING (owner = 7)});
$s->run(q{SELECT echocache_get('thing', 1), echocache_get('thing', 2)});
my $before = hits();
is($as{reader}->run(thing()), $one, 'row-level security: a row that the policy shows');
is($as{reader}->run(q{SELECT echocache_get('thing', 2)}), '', 'a cached one that it does not');
is($as{reader}->run(q{SELECT string_agg(id, ',') FROM echocache_get_many('thing', '{1,2}'::bigint[])}), '1', 'nor with many');
is(hits() - $before, 0, 'without a look at the cache');
$as{app}->run('ALTER TABLE private.thing FORCE ROW LEVEL SECURITY');
$as{app}->run(q{UPDATE private.part SET v = 'A' WHERE id = 1});
is($as{app}->run(thing()), '', 'forced, it holds for the owner as well');
holds($memcached, 'thing:1', $one =~ s/"a"/"A"/r, 'but not for what is written through');
$as{app}->run('ALTER TABLE private.thing DISABLE ROW LEVEL SECURITY');
# A function that runs as somebody else.
$s->run(q{CREATE FUNCTION private.definer_doc(t private.thing) RETURNS json LANGUAGE sql STABLE SECURITY DEFINER AS $$
		SELECT json_build_object('id', t.id, 'by', current_user, 'secret', (SELECT v FROM public.secret s WHERE s.id = t.id)) $$;
	ALTER FUNCTION private.definer_doc OWNER TO definer;
	GRANT app TO definer});
$as{app}->run(q{SELECT echocache_detach('thing'); SELECT echocache_attach('private.thing', 'thing', document => 'private.definer_doc')});
my $definers = '{"id" : 1, "by" : "definer", "secret" : "known to the definer"}';
is($as{reader}->run(thing()), $definers, 'a SECURITY DEFINER function runs as its owner');
$as{app}->run(q{UPDATE private.thing SET v = 'x' WHERE id = 1});
holds($memcached, 'thing:1', $definers, 'at a commit too');

#
# Dump and restore: function, dependent tables, triggers.  Names are kept, no OIDs, so pg_upgrade is no different.
#
cached(1, 'cached before');
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
$s->run('CREATE DATABASE restored');
$s->run(q{ALTER DATABASE restored SET echocache.key_prefix = 'two.'});
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('restored') ], 'the dump restores');
my $r = session($node, dbname => 'restored');
my $documents = 'SELECT * FROM echocache_documents ORDER BY name';
is($r->run($documents), $s->run($documents), 'the documents are the same');
my $triggers = q{SELECT tgrelid::regclass, tgname, tgenabled FROM pg_trigger WHERE tgname LIKE 'echocache%' ORDER BY 1::text, 2};
is($r->run($triggers), $s->run($triggers), 'so are the triggers');
wait_state($r, 'UP');
$r->run(q{INSERT INTO message VALUES (100, 1, 'in the copy')});
holds($memcached, 'two.session:1', '{"id" : 1, "owner" : 7, "title" : "s1", "messages" : ["in the copy"]}', 'a change of a dependent table is written through');
# Over itself, as pg_dump --clean means it.
my ($rows, $attached, $on) = map { $r->run($_) } my @same = ('SELECT count(*), sum(id) FROM message', $documents, $triggers);
$node->command_ok([ 'pg_dump', '--clean', '--if-exists', '-f', "$dump.clean", $node->connstr('restored') ], 'pg_dump --clean');
$r->quit;
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dump.clean", $node->connstr('restored') ], 'is restored over itself');
$r = session($node, dbname => 'restored');
is_deeply([ map { $r->run($_) } @same ], [ $rows, $attached, $on ], 'rows, documents and triggers are the same');
wait_state($r, 'UP');
$r->run(q{INSERT INTO message VALUES (101, 1, 'once more')});
await_builder($r);
holds($memcached, 'two.session:1', '{"id" : 1, "owner" : 7, "title" : "s1", "messages" : ["in the copy", "once more"]}', 'and it is cached again');
is($r->error('DROP TABLE session CASCADE'), 'no error', 'the copy is dropped');
holds($memcached, 'session:1', document(1), 'the first one is as it was');
$r->quit;
$s->run('DROP DATABASE restored');

done_testing();
