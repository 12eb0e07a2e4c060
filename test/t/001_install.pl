# Installing, moving and removing: the extension comes and goes without a trace,
# in any schema; what is attached survives a rename and a dump; and a server
# that was started without the library says so instead of doing half of its work.
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
my $s = session($node);

# What DROP EXTENSION must not leave behind, in any schema.
my $traces = q{
	SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE proname ~ 'echocache'
	UNION ALL SELECT 'relation ' || oid::regclass FROM pg_class WHERE relname ~ 'echocache'
		OR relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname = 'echocache')
	UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE NOT tgisinternal
	UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger
	UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname = 'echocache'
	UNION ALL SELECT 'type ' || typname FROM pg_type WHERE typname ~ 'echocache'
	ORDER BY 1};

# Every function and view of the extension, called with some value for each
# argument: a list of "what: how it failed".
sub call_everything
{
	my ($session) = @_;
	my @calls = split /\n/, $session->run(q{
		SELECT format('SELECT * FROM %I.%I(%s)', nspname, proname,
			(SELECT string_agg(CASE format_type(t, NULL)
				WHEN 'regclass' THEN quote_literal('public.plain')
				WHEN 'text' THEN quote_literal('session')
				WHEN 'name' THEN quote_literal('id')
				WHEN 'interval' THEN quote_literal('1 s')
				WHEN 'timestamp with time zone' THEN quote_literal('infinity')
				WHEN 'bytea' THEN quote_literal('x')
				WHEN 'uuid' THEN quote_literal('00000000-0000-0000-0000-000000000001')
				WHEN 'text[]' THEN quote_literal('{a}')
				WHEN 'name[]' THEN quote_literal('{id}')
				WHEN 'uuid[]' THEN quote_literal('{00000000-0000-0000-0000-000000000001}')
				WHEN 'bigint[]' THEN quote_literal('{1}')
				ELSE '1' END || '::' || format_type(t, NULL), ', ' ORDER BY n)
			FROM unnest(proargtypes) WITH ORDINALITY a(t, n)))
		FROM pg_proc p JOIN pg_namespace s ON s.oid = pronamespace
			JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
			JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
		WHERE extname = 'echocache' AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
		UNION ALL
		SELECT format('SELECT * FROM %s', v::regclass)
		FROM unnest(ARRAY['echocache_documents', 'echocache_servers', 'echocache_stats', 'echocache_latency', 'echocache_latency_buckets', 'echocache_memory']) v
		ORDER BY 1});

	return map { "$_: " . $session->error($_) } @calls;
}

# In a schema of its choice.
$s->run(q{CREATE SCHEMA tools;
	CREATE EXTENSION echocache SCHEMA tools;
	CREATE TABLE session (id bigint PRIMARY KEY, title text);
	CREATE TABLE part (id bigint PRIMARY KEY, title text) PARTITION BY RANGE (id);
	CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (100);
	SET search_path = tools, public});
wait_state($s, 'UP');
is($s->run(q{SELECT count(*) FROM pg_proc WHERE proname ~ '^echocache_' AND pronamespace <> 'tools'::regnamespace
		AND pronamespace <> coalesce(to_regnamespace('echocache'), 0)}),
	0, 'functions live in the schema given and in no third one');
$s->run(q{SELECT echocache_attach('session');
	SELECT echocache_attach('part', 'part');
	INSERT INTO session VALUES (1, 'one');
	INSERT INTO part VALUES (1, 'one')});
holds($memcached, 'session:1', '{"id":1,"title":"one"}', 'works in a schema of its own');
holds($memcached, 'part:1', '{"id":1,"title":"one"}', 'and on a partitioned table');
$s->run('SET search_path = public');
is($s->run(q{SELECT tools.echocache_get_session(1)}), '{"id":1,"title":"one"}',
	'its functions do not need their schema in search_path');
$s->run(q{UPDATE session SET title = 'uno'});
holds($memcached, 'session:1', '{"id":1,"title":"uno"}', 'nor do its triggers');

# A rename changes nothing for those who read.
$s->run('ALTER TABLE session RENAME TO conversation');
$s->run(q{CREATE SCHEMA app; ALTER TABLE conversation SET SCHEMA app;
	UPDATE app.conversation SET title = 'renamed'});
wait_state(session($node, sql => 'SET search_path = tools'), 'UP');
is($s->run('SELECT tools.echocache_get_session(1)'), '{"id":1,"title":"renamed"}',
	'the read follows a table that was renamed and moved');
holds($memcached, 'session:1', '{"id":1,"title":"renamed"}', 'and so does the cache');
is($s->run(q{SELECT relation FROM tools.echocache_documents WHERE name = 'session'}),
	'app.conversation', 'echocache_documents shows the new name');

# Of the key column neither, but that it shows in the documents.
$s->run('ALTER TABLE app.conversation RENAME id TO conversation_id');
invalidated($memcached, 'session:1', 'the key column was renamed: documents with the old name are invalidated');
is($s->run(q{SELECT key_column FROM tools.echocache_documents WHERE name = 'session'}), 'conversation_id',
	'the attachment follows');
is($s->run('SELECT tools.echocache_get_session(1)'), '{"conversation_id":1,"title":"renamed"}', 'so does a read');
$s->run(q{UPDATE app.conversation SET title = 'x'});
holds($memcached, 'session:1', '{"conversation_id":1,"title":"x"}', 'and a write');
$s->run(q{ALTER TABLE app.conversation RENAME conversation_id TO id; UPDATE app.conversation SET title = 'renamed'});
holds($memcached, 'session:1', '{"id":1,"title":"renamed"}', 'named as before it is as before');

# Dump and restore: attachments, triggers and all.
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
$s->run('CREATE DATABASE restored');
$s->run(q{ALTER DATABASE restored SET echocache.key_prefix = 'two:'});
$node->command_ok(
	[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('restored') ],
	'the dump restores');
my $r = session($node, dbname => 'restored', sql => 'SET search_path = tools, public');
my $documents = 'SELECT * FROM tools.echocache_documents ORDER BY name';
is($r->run($documents), $s->run($documents), 'the attachments are the same');
wait_state($r, 'UP');
$r->run(q{INSERT INTO app.conversation VALUES (2, 'in the copy')});
holds($memcached, 'two:session:2', '{"id":2,"title":"in the copy"}',
	'and write through, under the key prefix of that database');
misses($memcached, 'session:2', 'without disturbing the first one');
$r->run(q{INSERT INTO part VALUES (2, 'in the copy')});
holds($memcached, 'two:part:2', '{"id":2,"title":"in the copy"}', 'partitioned tables as well');
$r->quit;

# A custom-format dump of one table does not break without the extension's tables.
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dump.custom", $node->connstr('postgres') ],
	'pg_dump, custom format');
$s->run('CREATE DATABASE restored2');
$s->run(q{ALTER DATABASE restored2 SET echocache.key_prefix = 'three:'});
$node->command_ok([ 'pg_restore', '-j', '2', '-d', $node->connstr('restored2'), "$dump.custom" ],
	'pg_restore in parallel');
$r = session($node, dbname => 'restored2');
is($r->run($documents), $s->run($documents), 'the attachments are the same');
$r->quit;

# Without the library.  The triggers are still there, and a write that cannot be
# seen by the cache must not be made.
$node->safe_psql('postgres', 'CREATE TABLE public.plain (id bigint PRIMARY KEY)');
$s->quit;
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
$s = session($node, sql => 'SET search_path = tools, public');
my $refusal = qr/55000: .*\n(?:DETAIL:.*\n)?HINT:  .*shared_preload_libraries = 'echocache'/;
my @refusals = call_everything($s);
cmp_ok(scalar @refusals, '>', 20, 'every function is called');
like($_, $refusal, 'without the library') for @refusals;
for my $write (q{INSERT INTO app.conversation VALUES (3, 'x')}, q{UPDATE app.conversation SET title = 'x'},
	'DELETE FROM app.conversation', 'TRUNCATE app.conversation', 'UPDATE part SET id = id')
{
	like($s->error($write), $refusal, "without the library: $write");
}
is($s->run('SELECT title FROM app.conversation'), 'renamed', 'the table itself can be read');
is($s->error('CREATE TABLE app.other (id int); ALTER TABLE app.other ADD x int; DROP TABLE app.other'),
	'no error', 'and nobody else is disturbed');

# Removed even so, it leaves nothing.
is($s->error('DROP EXTENSION echocache'), 'no error', 'DROP EXTENSION without the library');
is($s->run($traces), '', 'nothing of it is left');
is($s->error(q{UPDATE app.conversation SET title = 'free'}), 'no error', 'the table is an ordinary one again');
like($s->error('CREATE EXTENSION echocache SCHEMA tools'), qr/^no error$|$refusal/,
	'CREATE EXTENSION without the library works or says why');
$s->attempt('DROP EXTENSION echocache');

# With it again: removed and created again, in another schema.
$s->quit;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'echocache'");
$node->restart;
$s = session($node);
$s->run('CREATE EXTENSION echocache');
wait_state($s, 'UP');
$s->run(q{SELECT echocache_attach('app.conversation');
	SELECT echocache_attach('part', 'part');
	UPDATE app.conversation SET title = 'again'});
holds($memcached, 'session:1', '{"id":1,"title":"again"}', 'created and attached again');
is($s->error('DROP EXTENSION echocache'), 'no error', 'DROP EXTENSION');
like($s->messages, qr/NOTICE:  00000: document "session" of table "conversation" is detached/, 'says which tables it lets go of');
like($s->messages, qr/NOTICE:  00000: document "part" of table "part" is detached/, 'all of them');
invalidated($memcached, 'session:1', 'and invalidates their documents');
is($s->run($traces), '', 'nothing of it is left');
is($s->error(q{UPDATE app.conversation SET title = 'free'; TRUNCATE part}), 'no error',
	'the tables are ordinary ones again');

# Created again right away: a worker that has not noticed yet is no obstacle.
$s->run('CREATE EXTENSION echocache');
wait_state($s, 'UP');
is($s->run('SELECT count(*) FROM echocache_documents'), 0, 'a new extension has nothing attached');
is($s->run('DROP DATABASE restored; DROP DATABASE restored2; SELECT 1'), 1,
	'a database with the extension can be dropped');

done_testing();
