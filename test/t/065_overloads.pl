# A function, an operator or a cast that somebody creates later, and that fits what a filter has by
# name better than what was attached, is never used: it changes nothing, or else no document is made
# until it is gone.
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
my $node = new_node('main', hosts => [$memcached], conf => "max_wal_senders = 5\nwal_level = replica");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE ROLE owner LOGIN;
	CREATE ROLE deputy LOGIN IN ROLE owner;
	CREATE SCHEMA lib AUTHORIZATION owner;
	GRANT USAGE, CREATE ON SCHEMA lib TO PUBLIC;
	GRANT CREATE ON SCHEMA public TO owner;
	CREATE FUNCTION lib.plain(anyelement, anyelement) RETURNS boolean LANGUAGE internal IMMUTABLE AS 'textne';
	SET ROLE owner;
	CREATE TYPE lib.word AS ENUM ('shown', 'hidden');
	CREATE FUNCTION lib.exact(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN $1 <> 'hidden'; END$$;
	CREATE FUNCTION lib.poly(anyelement) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN $1::text <> 'hidden'; END$$;
	CREATE FUNCTION lib.more(text, boolean DEFAULT true) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN $1 <> 'hidden'; END$$;
	CREATE FUNCTION lib.list(VARIADIC text[]) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN 'hidden' <> ALL ($1); END$$;
	CREATE FUNCTION lib.differ(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 <> $2';
	CREATE FUNCTION lib.unlike(anyelement, anyelement) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN $1::text <> $2::text; END$$;
	CREATE FUNCTION lib.spell(lib.word) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT CASE $1 WHEN 'hidden' THEN 'hidden' ELSE 'shown' END$$;
	CREATE CAST (lib.word AS text) WITH FUNCTION lib.spell(lib.word);
	CREATE OPERATOR lib.!== (LEFTARG = text, RIGHTARG = text, FUNCTION = lib.differ);
	CREATE OPERATOR lib.!~~~ (LEFTARG = anyelement, RIGHTARG = anyelement, FUNCTION = lib.unlike);
	CREATE TABLE session (id int PRIMARY KEY, title varchar(20) NOT NULL, word lib.word NOT NULL);
	INSERT INTO session VALUES (1, 'shown', 'shown'), (2, 'hidden', 'hidden');
	RESET ROLE});
my $deputy = session($node, sql => 'SET ROLE deputy');
my $open = session($node);
my @documents = ('{"id":1,"title":"shown","word":"shown"}', '');
my $get = q{SELECT coalesce(echocache_get('session', %d)::text, '')};
my $why = q{SELECT suspended FROM echocache_documents WHERE name = 'session'};
my @others = (q{SELECT echocache_refresh('session', 1)}, q{SELECT echocache_warm('session')}, q{SELECT * FROM echocache_verify('session')});

# What would show row 2 and hide row 1, and says that it runs.
my $body = q{LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE LOG 'planted'; RETURN $1::text = 'hidden'; END$$};

wait_state($s, 'UP');

sub offset { return -s $node->logfile; }

# Everybody makes the documents that they should be.
sub works
{
	my ($name, @sessions) = @_;

	$s->run('SELECT echocache_flush_all()');
	for my $session (@sessions, session($node))
	{
		is($session->run(sprintf $get, $_), $documents[ $_ - 1 ], "$name: row $_") for 1, 2;
	}
	is($open->run('UPDATE session SET title = title'), '', "$name: a write");
	await_builder($s);
	is($open->run(sprintf $get, $_), $documents[ $_ - 1 ], "$name: row $_, after that") for 1, 2;
	is($s->run(q{SELECT echocache_flush_all(); SELECT echocache_warm('session')}) =~ s/.*\n//sr, 1, "$name: warm");
	holds($memcached, 'session:1', $documents[0], "$name: it is cached");
	is($s->run(q{SELECT stale, "foreign" FROM echocache_verify('session')}), '0|0', "$name: nothing is stale");
	is($s->run($why), '', "$name: it is not suspended");
	return;
}

# Nobody makes any; commits invalidate all the same.
sub refused
{
	my ($name, $error, @sessions) = @_;
	my $log = offset();

	for my $session (@sessions, session($node))
	{
		$memcached->set('session:1', $documents[0]);
		is($session->run(sprintf $get, 1), $documents[0], "$name: what is cached is read");
		like($session->error(sprintf $get, 2), qr/^42725: $error/, "$name: but no other");
		like($session->error($_), qr/^42725: $error/, "$name: $_") for @others;
		is($session->run('UPDATE session SET title = title'), '', "$name: a write");
		await_builder($s);
		marked($memcached, 'session:1', "$name: which has invalidated the document");
		like($session->error(sprintf $get, $_), qr/^42725: $error/, "$name: row $_") for 1, 2;
		like($session->run($why), qr/^its filter cannot be used: $error/, "$name: the view says why");
	}
	unlike(slurp_file($node->logfile, $log), qr/LOG:  planted/, "$name: it has not run");
	return;
}

# [ filter, what is created, what drops it, the error, or undef where it changes nothing ].
my @cases = (
	[ 'lib.exact(title)', "CREATE FUNCTION lib.exact(varchar) RETURNS boolean $body", 'DROP FUNCTION lib.exact(varchar)' ],
	[ q{lib.list(title, 'a')}, "CREATE FUNCTION lib.list(text, text) RETURNS boolean $body", 'DROP FUNCTION lib.list(text, text)' ],
	[ q{title OPERATOR(lib.!==) 'hidden'}, "CREATE FUNCTION lib.wrong(varchar, varchar) RETURNS boolean $body;
		CREATE OPERATOR lib.!== (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = lib.wrong)", 'DROP OPERATOR lib.!== (varchar, varchar); DROP FUNCTION lib.wrong' ],
	[ 'lib.poly(title)', "CREATE FUNCTION lib.poly(varchar) RETURNS boolean $body", 'DROP FUNCTION lib.poly(varchar)',
		'the filter would call lib\.poly\(character varying\) in place of lib\.poly\(pg_catalog\.anyelement\)' ],
	[ q{title::text OPERATOR(lib.!~~~) 'hidden'::text}, "CREATE FUNCTION lib.wrong(text, text) RETURNS boolean $body;
		CREATE OPERATOR lib.!~~~ (LEFTARG = text, RIGHTARG = text, FUNCTION = lib.wrong)", 'DROP OPERATOR lib.!~~~ (text, text); DROP FUNCTION lib.wrong',
		'the filter would call lib\.wrong\(pg_catalog\.text,pg_catalog\.text\) in place of lib\.unlike\(pg_catalog\.anyelement,pg_catalog\.anyelement\)' ],
	[ q{lib.plain(title::text, 'hidden'::text)}, "CREATE FUNCTION lib.plain(text, text) RETURNS boolean $body", 'DROP FUNCTION lib.plain(text, text)',
		'the filter would call lib\.plain\(pg_catalog\.text,pg_catalog\.text\) in place of lib\.plain\(pg_catalog\.anyelement,pg_catalog\.anyelement\)' ],
	[ 'lib.more(title)', "CREATE FUNCTION lib.more(text) RETURNS boolean $body", 'DROP FUNCTION lib.more(text)',
		'function lib\.more\(text\) is not unique' ],
	[ 'lib.more(title)', "CREATE FUNCTION lib.more(text, int DEFAULT 1) RETURNS boolean $body", 'DROP FUNCTION lib.more(text, int)',
		'function lib\.more\(text\) is not unique' ],
	[ q{word::text <> 'hidden'}, q{CREATE FUNCTION lib.wrong(lib.word) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE LOG 'planted'; RETURN 'a'; END$$;
		DROP CAST (lib.word AS text); CREATE CAST (lib.word AS text) WITH FUNCTION lib.wrong(lib.word)},
		'DROP CAST (lib.word AS text); CREATE CAST (lib.word AS text) WITH FUNCTION lib.spell(lib.word); DROP FUNCTION lib.wrong',
		'the filter would call lib\.wrong\(lib\.word\) in place of lib\.spell\(lib\.word\)' ],
	[ q{word::text <> 'hidden'}, 'DROP CAST (lib.word AS text)', 'CREATE CAST (lib.word AS text) WITH FUNCTION lib.spell(lib.word)',
		'the filter would call a built-in function in place of lib\.spell\(lib\.word\)' ]);

sub attach
{
	my ($filter) = @_;

	$s->run("SET ROLE owner; SELECT echocache_attach('session', filter => \$f\$$filter\$f\$); RESET ROLE");
	return;
}

for my $case (@cases)
{
	my ($filter, $create, $drop, $error) = @$case;
	my $log = offset();

	attach($filter);
	works($filter, $open);
	$deputy->run($create);
	$create =~ s/ (?:RETURNS|LANGUAGE).*?\$\$(?=;|\z)//gs;
	if (defined $error)
	{
		holds($memcached, 'session:1', $documents[0], "$filter: what is cached stays");
		refused("$filter, after $create", $error, $open);
	}
	else
	{
		works("$filter, after $create", $open);
		unlike(slurp_file($node->logfile, $log), qr/LOG:  planted/, 'it has not run');
	}
	$deputy->run($drop);
	works("$filter, after $drop", $open);
	$s->run(q{SELECT echocache_detach('session')});
}

# A function comes into the place by its name.
my $poly = "CREATE FUNCTION lib.poly(varchar) RETURNS boolean $body";
my $error = 'the filter would call lib\.poly\(character varying\) in place of lib\.poly\(pg_catalog\.anyelement\)';

attach('lib.poly(title)');
$deputy->run(q{SET ROLE owner; } . $poly =~ s/poly/pool/r . q{; ALTER FUNCTION lib.pool(varchar) RENAME TO poly; SET ROLE deputy});
refused('by a rename', $error, $open);
$s->run('ALTER FUNCTION lib.poly(varchar) RENAME TO pool');
works('and back', $open);

# Also one that the filter calls itself, so that it calls no other functions than before.
$s->run(q{SELECT echocache_detach('session');
	SET ROLE owner; CREATE OR REPLACE FUNCTION lib.pool(varchar) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN true; END'; RESET ROLE});
attach('lib.poly(title) AND lib.pool(title) AND lib.poly(id)');
works('both', $open);
$s->run('ALTER FUNCTION lib.pool(varchar) RENAME TO poly');
refused('both, by a rename', $error, $open);
$s->run(q{SELECT echocache_detach('session'); DROP FUNCTION lib.poly(varchar)});

# Nothing accepts what the text means by now as what was attached, but an attach.
attach('lib.poly(title)');
works('before', $open);
$deputy->run($poly);
my $recorded = q{SELECT string_agg(pg_describe_object(refclassid, refobjid, refobjsubid), ',') FROM pg_depend WHERE classid = 'pg_trigger'::regclass AND deptype = 'n'
	AND objid = (SELECT oid FROM pg_trigger WHERE tgname = 'echocache_row_session') AND refobjid <> 'echocache_row_trigger'::regproc};
my $calls = q{SELECT filter_calls FROM echocache.document WHERE name = 'session'};
my %before = map { $_ => $s->run($_) } $recorded, $calls;

is($before{$recorded}, 'function lib.poly(anyelement)', 'the catalog has the dependency');
$s->run(q{UPDATE echocache.document SET ttl = ttl; ALTER TABLE session ADD extra int; ALTER TABLE session DROP extra;
	ALTER TABLE session ALTER title TYPE varchar(30); ALTER SCHEMA lib RENAME TO lab; ALTER SCHEMA lab RENAME TO lib});
$node->restart;
$s = session($node);
$open = session($node);
$deputy = session($node, sql => 'SET ROLE deputy');
wait_state($s, 'UP');
sleep 3;	# the worker records dependencies a second after it was asked to
is($s->run($_), $before{$_}, "as before: $_") for $recorded, $calls;
refused('DDL and a restart', $error, $open);
like($s->error('DROP FUNCTION lib.poly(anyelement)'), qr/^2BP01: /, 'it is still needed');

# Nor does a standby, or who restores a dump.
my $dir = PostgreSQL::Test::Utils::tempdir();

$node->command_ok([ 'pg_dump', '-f', "$dir/dump", $node->connstr('postgres') ], 'pg_dump');
$s->run(q{CREATE DATABASE other; ALTER DATABASE other SET echocache.key_prefix = 'other:'});
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/dump", $node->connstr('other') ], 'a restore');
my $other = session($node, dbname => 'other');
wait_state($other, 'UP');
sleep 3;
like($other->error(sprintf $get, 1), qr/^42725: $error/, 'restored: no document');
like($other->run($why), qr/^its filter cannot be used: $error/, 'restored: the view says why');
is($other->run($recorded), '', 'restored: nothing is accepted');
$other->run('SET ROLE deputy; DROP FUNCTION lib.poly(varchar); RESET ROLE');
is($other->run(sprintf $get, $_), $documents[ $_ - 1 ], "restored, after a drop: row $_") for 1, 2;
is($other->run($why), '', 'restored, after a drop: it is not suspended');
eventually('restored, after a drop: the dependency is recorded', sub { return $other->run($recorded) eq $before{$recorded} });
$other->quit;

$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
my $there = session($standby);
like($there->error(sprintf $get, 1), qr/^42725: $error/, 'standby: no document');
like($there->run($why), qr/^its filter cannot be used: $error/, 'standby: the view says why');
$deputy->run('DROP FUNCTION lib.poly(varchar)');
$node->wait_for_catchup($standby);
is($there->run(sprintf $get, $_), $documents[ $_ - 1 ], "standby, after a drop: row $_") for 1, 2;
is($there->run($why), '', 'standby, after a drop: it is not suspended');
$there->quit;
$standby->stop;
works('after a drop', $open);

# Who attaches anew has what the text means then.
$deputy->run($poly);
$s->run(q{SELECT echocache_detach('session')});
attach('lib.poly(title)');
is($s->run(sprintf $get, 2), '{"id":2,"title":"hidden","word":"hidden"}', 'attached anew: the new one');
like($s->run($calls), qr/^lib\.poly\(character varying\)$/, 'as is recorded');

# A column's new type, as for a CHECK constraint: the filter is read for that.
like($s->error('ALTER TABLE session ALTER title TYPE text'), qr/^42725: function lib\.poly\(text\) is not unique/, 'a type that the filter does not fit is refused');
$s->run(q{SELECT echocache_detach('session'); DROP FUNCTION lib.poly(varchar)});
attach(q{lib.exact(title) AND word = 'shown'});
like($s->error('ALTER TABLE session ALTER word TYPE int USING 1'), qr/^42883: operator does not exist: integer = lib\.word/, 'another one');
$s->run('ALTER TABLE session ALTER title TYPE text');
unlike($s->{messages}, qr/NOTICE/, 'the same function: no notice');
works('another type', $open);
$s->run("CREATE FUNCTION lib.exact(varchar) RETURNS boolean $body; ALTER TABLE session ALTER title TYPE varchar(20)");
like($s->{messages}, qr/NOTICE:  00000: the filter of document "session" calls other functions, for the new types\nDETAIL:  Now it calls lib\.exact\(character varying\)\./, 'another function: a notice');
is($s->run(sprintf $get, 1), '', 'which is used');
$s->run(q{SELECT echocache_detach('session'); DROP FUNCTION lib.exact(varchar)});

# Renames are followed also in what the text does not show: a cast's function, the types of arguments.
attach(q{word::text <> 'hidden'});
$s->run('ALTER FUNCTION lib.spell(lib.word) RENAME TO utter');
works('the function of a cast is renamed', $open);
like($s->error('DROP FUNCTION lib.utter(lib.word)'), qr/^2BP01: (?s:.*)trigger echocache_row_session on table session depends on/, 'which is needed');
$s->run(q{ALTER FUNCTION lib.utter(lib.word) RENAME TO spell; SELECT echocache_detach('session');
	SET ROLE owner; CREATE DOMAIN lib.caption AS text; CREATE TABLE lib.pair (t text, u text);
	CREATE FUNCTION lib.shows(lib.caption, lib.pair) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN $1 <> 'hidden'; END$$;
	CREATE FUNCTION lib.two(text) RETURNS lib.pair LANGUAGE sql IMMUTABLE RETURN ROW($1, $1)::lib.pair; RESET ROLE});
attach('lib.shows(title::text, lib.two(title))');
$s->run("ALTER $_") for 'TABLE lib.pair RENAME TO couple', 'TYPE lib.caption RENAME TO heading';
works('the types of its arguments are renamed', $open);
is($s->run($calls), "lib.shows(lib.heading,lib.couple)\nlib.two(pg_catalog.text)\n", 'they are followed');
$s->run(q{SELECT echocache_detach('session')});

# Some operators cannot be written with a schema.
$s->run(q{CREATE FUNCTION lib.alike(varchar, varchar) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
	CREATE OPERATOR lib.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = lib.alike)});
like($s->error(qq{SET search_path = lib, pg_catalog, public; SELECT echocache_attach('session', filter => '$_')}),
	qr/^0A000: the filter cannot be stored\nDETAIL:  It would call other functions as /, "refused: $_")
  for 'title IS DISTINCT FROM title', 'NULLIF(title, title) IS NULL', 'CASE title WHEN title THEN true END';
is($s->error(q{SELECT echocache_attach('session', filter => 'title = title AND title IN (title, title)')}), 'no error', 'but others');
is($s->run($calls), "lib.alike(character varying,character varying)\n" x 3, 'as they are');

done_testing();
