# The 65th database: an error where it is known, a reason in the view where it is not, and
# a place as soon as another database gives one up.
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

my $max = 64;	# EC_MAX_DATABASES
my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached], conf => <<'CONF');
max_worker_processes = 80
shared_buffers = 32MB
CONF
my $s = session($node);

# So that each has the extension from its first moment, they are copies of one.
$s->run('CREATE DATABASE pattern');
my $pattern = session($node, dbname => 'pattern', sql => 'CREATE EXTENSION echocache');
wait_state($pattern, 'UP');
$pattern->quit;
$s->run('ALTER DATABASE pattern IS_TEMPLATE true');
$s->run("CREATE DATABASE plain");	# without the extension
my $seconds = seconds(sub {
	$s->run("CREATE DATABASE db$_ TEMPLATE pattern STRATEGY file_copy") for 1 .. $max;
});
note "$max databases in $seconds s";
my $log = 'more than 64 databases have the extension';
my $has = sub { return $s->run(q{SELECT count(DISTINCT datname) FROM pg_stat_activity WHERE backend_type = 'echocache worker' AND datname ~ '^db'}) };
eventually("$max databases have a worker", sub { return $has->() == $max; });
my $extra = session($node, dbname => 'plain');
like($extra->error('CREATE EXTENSION echocache'), qr/^54000: too many databases have the extension "echocache"\nDETAIL:  There can be 64 in a cluster\.\nHINT:  Drop/,
	'where it is known, CREATE EXTENSION is an error');
is($extra->run('SELECT count(*) FROM pg_extension WHERE extname ~ \'echocache\''), 0, 'and makes nothing');

# One that comes to have it by another way.
$s->run("CREATE DATABASE db0 TEMPLATE pattern");
my $late = session($node, dbname => 'db0');
is($late->run('SELECT DISTINCT state, last_error, last_error_at FROM echocache_servers'), "RECOVERING|$log|", 'where it is not, the view has the reason');
eventually('and the log', sub { return slurp_file($node->logfile) =~ /echocache: \Q$log\E/; });
is($s->run("CREATE TABLE t ()"), '', 'others go on');
$late->run('CREATE TABLE t (id int PRIMARY KEY); SELECT echocache_attach($$t$$, $$t$$); INSERT INTO t VALUES (1)');
is($late->run('SELECT echocache_get($$t$$, 1)'), '{"id":1}', 'documents are read from their tables');
$s->run('DROP DATABASE db1');
wait_state($late, 'UP');
pass('a database that is dropped makes room for one that waits');
is($late->run('SELECT last_error FROM echocache_servers'), '', 'and the reason is gone');
session($node, dbname => 'db2')->run('DROP EXTENSION echocache');
eventually('room, when an extension is dropped', sub { return defined $extra->attempt('CREATE EXTENSION echocache'); });
# another database has the prefix, which only a worker of this one's can know
eventually('for the one that was refused', sub { return $extra->run('SELECT last_error FROM echocache_servers') =~ /of this cluster uses the keys/; });
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|was terminated by signal/, 'nothing has crashed');

done_testing();
