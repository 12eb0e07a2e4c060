# 200 sessions, each with 20 misses in a transaction that is still open, on a table of 300
# partitions: the lock table has room, at its default size.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $sessions = 200;
my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached], conf => "max_connections = 220\nechocache.timeout = '10s'\n");
my $s = session($node, sql => 'CREATE EXTENSION echocache; CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)');

$s->run("CREATE TABLE parts_$_ PARTITION OF parts FOR VALUES FROM (${_}0) TO (${_}9)") for 1 .. 300;
$s->run(q{SELECT echocache_attach('parts', 'parts'); INSERT INTO parts SELECT g * 10, 'v' FROM generate_series(1, 300) g});
is($s->run('SHOW max_locks_per_transaction'), 64, 'the default');
wait_state($s, 'UP');

# Each makes 20 documents, as a miss does, and then waits for the rest.
my $script = PostgreSQL::Test::Utils::tempdir() . '/misses.sql';
append_to_file($script, "BEGIN;\n" .
	join('', map { "\\set id 10 * random(1, 300)\nSELECT echocache_refresh('parts', :id);\n" } 1 .. 20) .
	"SELECT pg_advisory_xact_lock_shared(77);\nCOMMIT;\n");
$s->run('SELECT pg_advisory_lock(77)');
my $bench = IPC::Run::start([ 'pgbench', '-n', '-c', $sessions, '-j', 2, '-t', 1, '-f', $script, $node->connstr('postgres') ],
	'>', \my $out, '2>', \my $err, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
wait_for('all sessions to have missed', sub {
	return $s->run(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND objid = 77 AND NOT granted}) == $sessions;
});
cmp_ok($s->run('SELECT count(*) FROM pg_locks'), '>', 20 * $sessions, 'they have locks');
$s->run('SELECT pg_advisory_unlock_all()');
ok($bench->finish, 'all end well');
is($err =~ s/^pgbench \(.*\)\n//mr =~ s/^pgbench: .*(?:starting|connected|vacuum).*\n//mgr, '', 'without an error');
like($out, qr{number of transactions actually processed: $sessions/$sessions}, 'all are processed');
unlike(slurp_file($node->logfile), qr/out of shared memory/, 'there is always room for a lock');

$s->quit;
$node->stop;
done_testing();
