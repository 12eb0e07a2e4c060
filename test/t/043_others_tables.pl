# What the owner of one table, function or type does to other people's: his types do not keep
# their DDL busy, his DDL does not invalidate their documents, and nobody locks another's tables.
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

done_testing();
