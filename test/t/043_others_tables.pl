# What the owner of one table, function or type does to other people's: his types do not keep
# their DDL busy, his DDL does not invalidate their documents, and nobody locks another's tables
# (but for what PostgreSQL does, where these depend on his function).
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
my $node = new_node('main', hosts => [$memcached]);
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE mallory LOGIN;
	GRANT CREATE ON SCHEMA public TO alice, bob, mallory});
my ($alice, $bob, $mallory) = map { session($node, user => $_) } qw(alice bob mallory);

wait_state($s, 'UP');

# Types that contain one another, with 2^30 ways from the first to the last.
$mallory->run(q{SELECT format('CREATE TYPE t%s AS ()', g) FROM generate_series(0, 30) g \gexec});
$mallory->run(q{
	CREATE TABLE evil (id int PRIMARY KEY, c t30);
	SELECT echocache_attach('evil', 'evil')});
$mallory->run(q{SELECT format('ALTER TYPE t%1$s ADD ATTRIBUTE a t%2$s, ADD ATTRIBUTE b t%2$s', g, g - 1)
	FROM generate_series(30, 1, -1) g \gexec});
my $start = time;
$bob->run(q{SET statement_timeout = '20s'; CREATE TABLE bobs (i int); DROP TABLE bobs});
$bob->run('CREATE TYPE bobs AS (i int); ALTER TYPE bobs ADD ATTRIBUTE j int; DROP TYPE bobs');
cmp_ok(time - $start, '<', 20, 'a type with very many ways to another keeps nobody busy');
$bob->run('RESET statement_timeout');
$mallory->run('INSERT INTO evil VALUES (1, NULL)');
is($mallory->run(q{SELECT echocache_get('evil', '1')}), '{"id":1,"c":null}', 'and is what it was');
$mallory->run(q{ALTER TYPE t0 ADD ATTRIBUTE z int});
is($mallory->run(q{SELECT echocache_detach('evil')}), '0', 'its innermost type invalidates the documents');

# The owner of one partition may try what PostgreSQL refuses him.
$alice->run(q{
	CREATE TABLE pr (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE pp1 PARTITION OF pr FOR VALUES FROM (0) TO (1000);
	SELECT echocache_attach('pr', 'pr', owner_column => 'v');
	INSERT INTO pr VALUES (1, 'a')});
$s->run('ALTER TABLE pp1 OWNER TO mallory');
is($alice->run(q{SELECT echocache_get('pr', '1')}), '{"id":1,"v":"a"}', 'a partition is given away');
holds($memcached, 'pr:1', '{"id":1,"v":"a"}', 'and its rows are cached');
my $error = $mallory->error('ALTER TABLE pp1 DROP COLUMN v CASCADE');
like($error, qr/cannot drop inherited column "v"/, 'her DROP COLUMN is refused');
unlike($error, qr/detached/, 'without a detach');
holds($memcached, 'pr:1', '{"id":1,"v":"a"}', 'and without an invalidation');
$s->run('ALTER TABLE pr DROP COLUMN v CASCADE');
like($s->messages, qr/document "pr" of table "pr" is detached/, 'the same for the whole table detaches it');
misses($memcached, 'pr:1', 'and its documents are gone');
is($s->run(q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'echocache%' AND tgrelid IN ('pr'::regclass, 'pp1'::regclass)}), '0', 'its triggers, too');

# A dependent table that belongs to somebody else by now.
$alice->run(q{
	SET lock_timeout = '5s';
	CREATE TABLE fd (id int PRIMARY KEY, v text);
	CREATE TABLE dep (fd int, v text);
	CREATE FUNCTION doc(fd) RETURNS json STABLE LANGUAGE sql AS 'SELECT row_to_json($1)';
	SELECT echocache_attach('fd', 'fd', document => 'public.doc'), echocache_attach_dependent('dep', 'fd', 'fd');
	INSERT INTO fd VALUES (1, 'a')});
$s->run('ALTER TABLE dep OWNER TO bob');
$bob->run(q{SET lock_timeout = '5s'; BEGIN; INSERT INTO dep VALUES (1, 'before')});
$alice->run(q{BEGIN; SELECT echocache_detach('fd')});
pass('a detach does not wait for it');
$bob->run('COMMIT; SELECT count(*) FROM dep');
pass('nor lock it');
$alice->run('COMMIT');
$bob->run(q{INSERT INTO dep VALUES (1, 'after'); TRUNCATE dep});
pass('the triggers that are left there do nothing');
is($s->run('SELECT count(*) FROM echocache.dependent'), '0', 'nothing depends on it');
$s->run('ALTER TABLE dep OWNER TO alice');
$alice->run(q{SELECT echocache_attach('fd', 'fd', document => 'public.doc'), echocache_attach_dependent('dep', 'fd', 'fd')});
pass('they do not keep it from being attached again');

# A function that is somebody else's by now.
$alice->run(q{SELECT echocache_get('fd', '1')});
holds($memcached, 'fd:1', '{"id":1,"v":"a"}', 'a document of a function');
$s->run('ALTER FUNCTION doc(fd) OWNER TO bob');
$bob->run('BEGIN; DROP FUNCTION doc(fd) CASCADE');
like($bob->messages, qr/document "fd" of table "fd" is detached/, 'who drops it detaches the table');
$alice->run(q{INSERT INTO dep VALUES (1, 'c')});
pass('and does not lock a dependent one');
like($alice->error(q{SET lock_timeout = '100ms'; SELECT count(*) FROM fd}), qr/^55P03/, 'but this one, as if it had a CHECK by that function');
$alice->run(q{SET lock_timeout = '5s'});
$bob->run('COMMIT');
$alice->run(q{UPDATE fd SET v = 'c'; INSERT INTO dep VALUES (1, 'd'); TRUNCATE fd, dep});
is($s->run('SELECT count(*) FROM echocache_documents'), '0', 'nothing is attached');
unlike($memcached->get('fd:1') // '', qr/"v"/, 'nor cached');

# Both tables' triggers that were left do not keep them from being attached again.
$alice->run(q{
	CREATE FUNCTION doc(fd) RETURNS json STABLE LANGUAGE sql AS 'SELECT row_to_json($1)';
	SELECT echocache_attach('fd', 'fd', document => 'public.doc'), echocache_attach_dependent('dep', 'fd', 'fd');
	DROP TABLE fd CASCADE});
is($s->run(q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'echocache%' AND tgrelid = 'dep'::regclass}), '0', 'no trigger is left where nobody is busy');

done_testing();
