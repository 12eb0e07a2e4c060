# Commands that need a database for themselves make its worker leave, if and only if
# PostgreSQL accepts them, and for as long as they run.  And what a role may not do changes
# nothing: no document is invalidated, no table locked, by a command that is refused.
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
my $s = session($node, sql => 'CREATE ROLE nobody LOGIN; CREATE ROLE maker LOGIN CREATEDB; CREATE ROLE keeper LOGIN CREATEDB; CREATE DATABASE shop OWNER keeper; CREATE DATABASE other OWNER keeper');
my $prefix = 0;

for my $db (qw(shop other))
{
	$s->run("ALTER DATABASE $db SET echocache.key_prefix = '$db'");
	session($node, dbname => $db, sql => 'CREATE EXTENSION echocache')->quit;
}

# The worker of a database, once it is there.
sub worker
{
	my ($db) = @_;
	my $pid;

	wait_for("the worker of $db", sub { return $pid = $s->run("SELECT pid FROM pg_stat_activity WHERE backend_type = 'echocache worker' AND datname = '$db'") });
	return $pid;
}

#
# Refused: the worker stays.
#
my ($shop, $other) = (worker('shop'), worker('other'));
my $nobody = session($node, user => 'nobody');
my $maker = session($node, user => 'maker');
my $keeper = session($node, user => 'keeper');

for ([ $nobody, 'CREATE DATABASE copy TEMPLATE shop', '42501' ], [ $maker, 'CREATE DATABASE copy TEMPLATE shop', '42501' ], [ $keeper, 'CREATE DATABASE other TEMPLATE shop', '42P04' ],
	[ $nobody, 'DROP DATABASE shop', '42501' ], [ $maker, 'DROP DATABASE shop WITH (FORCE)', '42501' ], [ $nobody, 'ALTER DATABASE shop RENAME TO mine', '42501' ], [ $maker, 'ALTER DATABASE shop RENAME TO mine', '42501' ],
	[ $keeper, 'ALTER DATABASE shop RENAME TO other', '42P04' ], [ $nobody, 'ALTER DATABASE shop SET TABLESPACE pg_default', '42501' ], [ $maker, 'ALTER DATABASE shop SET TABLESPACE pg_default', '42501' ],
	[ $keeper, 'BEGIN; DROP DATABASE shop', '25001' ], [ $keeper, 'BEGIN; CREATE DATABASE copy TEMPLATE shop', '25001' ], [ $keeper, 'BEGIN; ALTER DATABASE shop SET TABLESPACE pg_default', '25001' ],
	[ $keeper, 'SET default_transaction_read_only = on; DROP DATABASE shop', '25006' ], [ $keeper, 'CREATE DATABASE copy TEMPLATE shop', '25006' ], [ $keeper, 'ALTER DATABASE shop RENAME TO mine', '25006' ],
	[ $keeper, 'DROP DATABASE nowhere', '25006' ], [ $keeper, 'RESET default_transaction_read_only; DROP DATABASE nowhere', '3D000' ])
{
	my ($who, $sql, $state) = @$_;

	like($who->error($sql), qr/^$state: /, "$sql is refused");
	$who->attempt('ROLLBACK');
	is(worker('shop'), $shop, 'and the worker stays');
}
$s->run(q{UPDATE pg_database SET datistemplate = true WHERE datname = 'other'});
like($keeper->error('DROP DATABASE other'), qr/^42809: /, 'DROP DATABASE of a template is refused');
is(worker('other'), $other, 'and its worker stays');
$s->run(q{UPDATE pg_database SET datistemplate = false WHERE datname = 'other'});

#
# Accepted: it leaves, and comes back at once, however the command ends.
#
is($keeper->error('CREATE DATABASE copy TEMPLATE shop'), 'no error', 'CREATE DATABASE of its owner');
isnt(worker('shop'), $shop, 'the worker is back');
is(worker('other'), $other, 'another one has not been disturbed');
$shop = worker('shop');
is($keeper->error('ALTER DATABASE shop RENAME TO store'), 'no error', 'RENAME of its owner');
isnt(worker('store'), $shop, 'the worker is back');
is($keeper->error('DROP DATABASE copy WITH (FORCE)'), 'no error', 'DROP DATABASE WITH (FORCE) of its owner, no superuser');
{
	# Somebody else is connected: refused after five seconds, and the worker is back soon after.
	my $guest = session($node, dbname => 'store');
	my $seconds = seconds(sub { like($keeper->error('DROP DATABASE store'), qr/^55006: /, 'DROP DATABASE of one that is in use is refused') });
	my $back = seconds(sub { worker('store') });

	cmp_ok($seconds, '<', 9, 'after the time that PostgreSQL waits');
	cmp_ok($back, '<', 5, 'and the worker is back soon');
	$guest->quit;
	wait_for('the guest to be gone', sub { return $s->run(q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'store' AND backend_type = 'client backend'}) eq '0' });
}
is($keeper->error('DROP DATABASE store'), 'no error', 'DROP DATABASE of its owner');

#
# Within a database: a role without anything changes nothing.
#
my $o = session($node, dbname => 'other', sql => q{CREATE TABLE parent(id int PRIMARY KEY, v int, p text) PARTITION BY RANGE (id); CREATE TABLE leaf PARTITION OF parent FOR VALUES FROM (0) TO (10);
	CREATE TYPE pair AS (a int); CREATE TYPE mood AS ENUM ('glad'); CREATE TABLE t(id int PRIMARY KEY, v int, p pair, m mood); INSERT INTO t VALUES (1, 1, ROW(1), 'glad'); INSERT INTO parent VALUES (1, 1);
	CREATE FUNCTION doc(r t) RETURNS json STABLE LANGUAGE sql AS 'SELECT to_json(r)'; CREATE TABLE d(id int PRIMARY KEY, t int);
	SELECT echocache_attach('t', 't', document => 'doc'); SELECT echocache_attach_dependent('d', 't', 't'); SELECT echocache_attach('parent', 'parent')});
my $n = session($node, dbname => 'other', user => 'nobody');

wait_state($o, 'UP');
$o->run('GRANT SELECT ON t, parent, d TO nobody');
for my $name (qw(t parent))
{
	wait_for("$name to be cached", sub { $o->run("SELECT echocache_get('$name', 1)"); return ($memcached->get("other$name:1") // 'null') ne 'null' });
}
my %before = map { $_ => $memcached->get($_) } $memcached->keys;
my $generation = $o->run(q{SELECT string_agg(name || ' ' || invalidations, ', ') FROM echocache_stats});

for my $sql ('ALTER TABLE t ADD x int', 'ALTER TABLE t DROP COLUMN v', 'ALTER TABLE t DROP COLUMN id CASCADE', 'ALTER TABLE t SET UNLOGGED', 'ALTER TABLE t DISABLE TRIGGER ALL', 'ALTER TABLE d DROP COLUMN t CASCADE',
	'ALTER TABLE parent DETACH PARTITION leaf', 'ALTER TABLE parent DETACH PARTITION leaf CONCURRENTLY', 'ALTER TABLE parent DETACH PARTITION leaf FINALIZE', 'ALTER TABLE leaf ADD CHECK (id > 0)', 'ALTER TABLE t RENAME v TO w', 'ALTER TABLE d RENAME t TO u', 'ALTER TABLE t RENAME TO u',
	'ALTER TABLE t SET SCHEMA public', 'ALTER TYPE pair ADD ATTRIBUTE b int', 'ALTER TYPE pair RENAME ATTRIBUTE a TO b', q{ALTER TYPE mood RENAME VALUE 'glad' TO 'sad'}, 'ALTER TYPE mood RENAME TO spirit',
	'DROP TYPE mood CASCADE', 'DROP TYPE pair CASCADE', 'DROP FUNCTION doc(t)', 'DROP FUNCTION doc(t) CASCADE', 'ALTER FUNCTION doc(t) RENAME TO cod', 'ALTER FUNCTION doc(t) VOLATILE', q{CREATE OR REPLACE FUNCTION doc(r t) RETURNS json LANGUAGE sql AS 'SELECT NULL::json'},
	'DROP TABLE t', 'DROP TABLE d', 'DROP TABLE leaf', 'DROP TABLE parent CASCADE', 'TRUNCATE t', 'TRUNCATE leaf', 'TRUNCATE parent', 'DROP TRIGGER echocache_row_t ON t', 'ALTER TRIGGER echocache_row_t ON t RENAME TO x',
	q{CREATE TRIGGER x AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION echocache_row_trigger('t')}, 'CREATE TABLE heir() INHERITS (d)', 'CREATE CAST (mood AS json) WITH INOUT', 'DROP EXTENSION echocache', 'ALTER EXTENSION echocache DROP TABLE echocache.document',
	'ALTER TABLE echocache.document ADD x int', 'ALTER SCHEMA echocache RENAME TO x', 'DROP SCHEMA echocache CASCADE', 'CREATE INDEX ON t(v)', 'CLUSTER t USING t_pkey', 'REINDEX TABLE t', 'DROP OWNED BY keeper', 'REASSIGN OWNED BY keeper TO nobody', q{SELECT echocache_detach('t')},
	q{SELECT echocache_attach('d', 'd')}, q{SELECT echocache_detach_dependent('d', 't')}, q{SELECT echocache_attach_dependent('d', 'id', 't')})
{
	like($n->error($sql), qr/^(?:42501|55006|2BP01): /, "$sql is refused");
	# not in a subtransaction either
	$n->run("DO \$do\$ BEGIN EXECUTE \$x\$$sql\$x\$; EXCEPTION WHEN OTHERS THEN NULL; END \$do\$") if $sql !~ /CONCURRENTLY/;
}
is_deeply({ map { $_ => $memcached->get($_) } $memcached->keys }, \%before, 'nothing is invalidated');
is($o->run(q{SELECT string_agg(name || ' ' || invalidations, ', ') FROM echocache_stats}), $generation, 'nor counted');
{
	# Nor does a refused command wait for, or hold, a lock.
	my $holder = session($node, dbname => 'other', sql => 'BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE');

	for my $sql ('ALTER TABLE t ADD x int', 'ALTER TABLE t RENAME v TO w', 'ALTER TABLE t DROP COLUMN id CASCADE')
	{
		cmp_ok(seconds(sub { like($n->error("SET lock_timeout = '10s'; $sql"), qr/^42501: /, "$sql: refused") }), '<', 8, 'without waiting');
	}
	$holder->run('ROLLBACK');
}

$node->stop;
done_testing();
