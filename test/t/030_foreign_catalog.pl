# A database without the extension is left alone, whatever its owner creates there: a
# schema "echocache" with relations of the names of ours, of any kind and shape.  So is the
# middle of CREATE and DROP EXTENSION; and where the extension is, its tables stay as they are.
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
my $node = new_node('main', hosts => [$memcached]);
my $s = session($node);

$s->run('CREATE ROLE mallory LOGIN');
$s->run('CREATE DATABASE noext OWNER mallory');

# What our tables look like, to be imitated.
my $document = 'name text PRIMARY KEY, relation regclass NOT NULL UNIQUE, key_column name NOT NULL, owner_column name,
	filter text, filter_columns name[] NOT NULL, filter_calls text NOT NULL, exclude name[] NOT NULL, ttl integer, policy text NOT NULL,
	document text, touch_on_read boolean NOT NULL';
my $dependent = 'document text NOT NULL, relation regclass NOT NULL, key_column name NOT NULL';
my $outbox = 'id bigint NOT NULL, server text NOT NULL, document text NOT NULL, key text, since timestamptz NOT NULL';
my $wide = join ', ', map { "c$_ int8 DEFAULT 4702111234474983745" } 1 .. 200;
my $insert = q{INSERT INTO echocache.document VALUES ('t', 't', 'id', NULL, NULL, '{}', '', '{}', NULL, 'write-through', NULL, false)};

# name => statements that make the look-alike
my @shapes = (
	[ 'nothing' => '' ],
	[ 'an empty schema' => 'CREATE SCHEMA echocache' ],
	[ 'one column' => 'CREATE SCHEMA echocache; CREATE TABLE echocache.document(x int); CREATE TABLE echocache.dependent(x int);
		INSERT INTO echocache.document VALUES (1); INSERT INTO echocache.dependent VALUES (1)' ],
	[ '200 columns' => "CREATE SCHEMA echocache; CREATE TABLE echocache.document($wide); CREATE TABLE echocache.dependent($wide);
		CREATE TABLE echocache.outbox($wide); INSERT INTO echocache.document DEFAULT VALUES; INSERT INTO echocache.dependent DEFAULT VALUES" ],
	[ 'the very columns' => "CREATE SCHEMA echocache; CREATE TABLE echocache.document($document); CREATE TABLE echocache.dependent($dependent);
		CREATE TABLE echocache.outbox($outbox); CREATE TABLE t(id int PRIMARY KEY); $insert; DROP TABLE t" ],
	[ 'no dependent' => "CREATE SCHEMA echocache; CREATE TABLE echocache.document($document); CREATE TABLE t(id int PRIMARY KEY); $insert; DROP TABLE t" ],
	[ 'views' => 'CREATE SCHEMA echocache; CREATE VIEW echocache.document AS SELECT 1 / 0 AS x; CREATE VIEW echocache.dependent AS SELECT 1 AS x;
		CREATE VIEW echocache.outbox AS SELECT 1 AS x' ],
	[ 'a materialized view' => 'CREATE SCHEMA echocache; CREATE MATERIALIZED VIEW echocache.document AS SELECT 1 AS x' ],
	[ 'partitioned tables' => 'CREATE SCHEMA echocache; CREATE TABLE echocache.document(x int) PARTITION BY LIST (x);
		CREATE TABLE echocache.dependent(x int) PARTITION BY LIST (x)' ],
	[ 'a foreign table' => 'CREATE SCHEMA echocache; CREATE FOREIGN TABLE echocache.document(x int) SERVER nowhere' ],
	[ 'sequences' => 'CREATE SCHEMA echocache; CREATE SEQUENCE echocache.document; CREATE SEQUENCE echocache.dependent' ],
	[ 'a composite type' => 'CREATE SCHEMA echocache; CREATE TYPE echocache.document AS (x int)' ],
	[ 'an index' => 'CREATE SCHEMA echocache; CREATE TABLE echocache.x(x int); CREATE INDEX document ON echocache.x(x)' ],
	[ 'an unlogged table' => "CREATE SCHEMA echocache; CREATE UNLOGGED TABLE echocache.document($document)" ],
);

# Every kind of statement that a hook looks at: [ statement, what it says without echocache ].
my @statements = (
	'CREATE TABLE x(a int PRIMARY KEY)', 'ALTER TABLE x ADD b int', 'ALTER TABLE x RENAME b TO c', 'ALTER TABLE x RENAME TO y',
	'INSERT INTO y VALUES (1, 2)', 'ALTER TABLE y DROP c', 'TRUNCATE y', 'CREATE TABLE z() INHERITS (y)', 'ALTER TABLE z NO INHERIT y',
	"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
	'CREATE TRIGGER g AFTER INSERT ON y FOR EACH ROW EXECUTE FUNCTION f()', 'ALTER TABLE y DISABLE TRIGGER g', 'ALTER TRIGGER g ON y RENAME TO h',
	'DROP TRIGGER h ON y', 'ALTER FUNCTION f() RENAME TO g', 'DROP FUNCTION g()', "CREATE TYPE e AS ENUM ('a', 'b')", "ALTER TYPE e RENAME VALUE 'a' TO 'c'",
	'CREATE TYPE p AS (i int)', 'ALTER TYPE p ADD ATTRIBUTE j int', 'DROP TYPE p', 'DROP TYPE e', 'CREATE INDEX ON y(a)', 'ALTER TABLE z RENAME TO w',
	'DROP TABLE y, w', 'CREATE SCHEMA q', 'ALTER SCHEMA q RENAME TO r', 'DROP SCHEMA r',
);

my $super = session($node, dbname => 'noext', sql => 'CREATE EXTENSION postgres_fdw; CREATE SERVER nowhere FOREIGN DATA WRAPPER postgres_fdw;
	GRANT USAGE ON FOREIGN SERVER nowhere TO mallory; GRANT ALL ON SCHEMA public TO mallory');

for my $shape (@shapes)
{
	my ($name, $sql) = @$shape;
	my $m = session($node, dbname => 'noext', user => 'mallory');
	my @wrong;

	$m->run($_) for grep { /\S/ } split /;/, $sql;
	for my $who ($m, $super)
	{
		for my $statement (@statements)
		{
			my $error = $who->error($statement);

			push @wrong, "$statement: $error" if $error ne 'no error';
		}
		# a session that begins now, and one that is told to look again
		$who = session($node, dbname => 'noext', user => 'mallory') if $who == $m;
	}
	is(join("\n", @wrong), '', "$name: nothing fails");
	for my $statement ('ALTER TABLE echocache.document RENAME TO other', 'ALTER SCHEMA echocache RENAME TO other', 'DROP SCHEMA IF EXISTS other CASCADE',
		'DROP SCHEMA IF EXISTS echocache CASCADE')
	{
		my $error = $super->error($statement);

		push @wrong, "$statement: $error" if $error !~ /^no error|does not exist|is not a table|is a composite type/;
	}
	is(join("\n", @wrong), '', "$name: what is called as ours is renamed and dropped");
	is($super->error(q{SELECT 1}), 'no error', "$name: the server has not crashed");
	$super->run('DROP SCHEMA IF EXISTS echocache, other CASCADE');
}

# A look-alike stands in the way of the extension, and says so.
{
	my $m = session($node, dbname => 'noext', user => 'mallory', sql => 'CREATE SCHEMA echocache; CREATE TABLE echocache.document(x int)');

	like($super->error('CREATE EXTENSION echocache'), qr/^42P06: schema "echocache" exists already/, 'CREATE EXTENSION beside a look-alike');
	$m->run('DROP SCHEMA echocache CASCADE');
}

# With the extension: connected sessions see it come and go, in the middle of it as well.
{
	my $m = session($node, dbname => 'noext', user => 'mallory', sql => 'CREATE TABLE t(id int PRIMARY KEY, v int)');

	$super->run('CREATE EXTENSION echocache');
	wait_state($super, 'UP');
	is($m->error(q{SELECT echocache_attach('t', 't')}), 'no error', 'a connected session sees the extension come');
	$m->run('INSERT INTO t VALUES (1, 1)');
	wait_for('a hit', sub { $m->run(q{SELECT echocache_get('t', 1)}); return ($memcached->get('t:1') // '') eq '{"id":1,"v":1}' });
	$m->run('ALTER TABLE t ADD w int');
	invalidated($memcached, 't:1', 'DDL is seen');
	$super->run('BEGIN; DROP EXTENSION echocache; CREATE TABLE u(id int); ALTER TABLE u ADD v int; DROP TABLE u; ROLLBACK');
	$m->run('UPDATE t SET v = 2');
	holds($memcached, 't:1', '{"id":1,"v":2,"w":null}', 'after a DROP EXTENSION that was rolled back');
	$super->run('DROP EXTENSION echocache');
	invalidated($memcached, 't:1', 'DROP EXTENSION invalidates');
	is($m->error('ALTER TABLE t ADD x int'), 'no error', 'a connected session sees the extension go');
	is($m->error('UPDATE t SET v = 3'), 'no error', 'and writes');
	$super->run('BEGIN; CREATE EXTENSION echocache; CREATE TABLE u(id int PRIMARY KEY); SELECT echocache_attach(\'u\', \'u\'); ALTER TABLE u ADD v int; ROLLBACK');
	is($m->error('ALTER TABLE t ADD y int'), 'no error', 'a CREATE EXTENSION that was rolled back');
}

# The extension's own tables stay as the code knows them.
{
	$super->run('CREATE EXTENSION echocache');
	$super->run(q{SELECT echocache_attach('t', 't')});
	for my $statement ('ALTER TABLE echocache.document ADD x int', 'ALTER TABLE echocache.document DROP COLUMN ttl', 'ALTER TABLE echocache.outbox ALTER id DROP NOT NULL',
		'ALTER TABLE echocache.dependent ALTER key_column TYPE text', 'ALTER TABLE echocache.document SET UNLOGGED', 'ALTER TABLE echocache.document RENAME ttl TO x',
		'ALTER TABLE echocache.document RENAME TO x', 'ALTER TABLE echocache.outbox SET SCHEMA public', 'ALTER SCHEMA echocache RENAME TO x',
		'ALTER EXTENSION echocache DROP TABLE echocache.document', 'ALTER EXTENSION echocache DROP FUNCTION echocache_row_trigger()',
		'ALTER FUNCTION echocache_truncate_trigger() RENAME TO x')
	{
		like($super->error($statement), qr/^(55006: cannot change or rename what belongs|2BP01: cannot drop column ttl)/, $statement);
	}
	$super->run('CREATE TABLE other(id int PRIMARY KEY); ALTER TABLE echocache.document OWNER TO mallory');
	is($super->run(q{SELECT echocache_attach('other', 'other'); SELECT count(*) FROM echocache.document}), "\n2", 'the owner does not matter');
	$super->run('DROP EXTENSION echocache');
}

# An extension of another name may contain what it wants.
SKIP:
{
	my $dir = PostgreSQL::Test::Utils::tempdir;

	skip 'extension_control_path or extension_destdir is in use', 1 if $node->pg_version >= 18;
	my $ext = ($ENV{DESTDIR} // '') . $node->config_data('--sharedir') . '/extension';

	skip 'nowhere to put an extension', 1 unless -w $ext;
	PostgreSQL::Test::Utils::append_to_file("$ext/echolike.control", "default_version = '1'\nschema = pg_catalog\n");
	PostgreSQL::Test::Utils::append_to_file("$ext/echolike--1.sql", "CREATE SCHEMA echocache; CREATE TABLE echocache.document($document); CREATE TABLE echocache.dependent($dependent); CREATE TABLE echocache.outbox($outbox);");
	$super->run('CREATE EXTENSION echolike');
	$super->run($insert);
	is($super->error($_), 'no error', "beside another extension with such tables: $_") for @statements;
	$super->run('DROP EXTENSION echolike');
	unlink "$ext/echolike.control", "$ext/echolike--1.sql";
}

is($s->run('SELECT count(*) FROM pg_database'), '4', 'and nobody has crashed');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/terminated by signal|server process .* was terminated/, 'nor does the log say so');
$node->stop;
done_testing();
