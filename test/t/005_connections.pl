# How many connections a memcached gets: echocache.pool_size is kept open for the
# whole cluster, however many backends there are; the others borrow one; whoever
# exits closes his.
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
use Time::HiRes qw(sleep);

my $clients = 200;
my $pool = 20;

my $memcached = memcached(args => [ '-c', '1000' ]);
my $node = new_node('main', hosts => [$memcached],
	conf => "max_connections = 250\nechocache.pool_size = $pool\nechocache.timeout = '5s'\nlog_statement = none\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, n bigint);
	SELECT echocache_attach('session')});
wait_state($s, 'UP');
$s->run('INSERT INTO session SELECT g, 0 FROM generate_series(1, 1000) g');

# Connections that memcached has open, this test's own not counted.
sub connections { return $memcached->stats->{curr_connections} - 1; }

# With one session that has used the cache and a worker that may have.
my $alone = connections();
is($s->run('SELECT connections <= 2 FROM echocache_servers'), 't', 'one session holds one connection');

# Two hundred backends that have all read a document and then sit idle.
sub pgbench
{
	my ($script, @args) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/script.sql';
	my %run = (out => '', err => '');

	local $ENV{PGAPPNAME} = 'pgbench';
	append_to_file($file, $script);
	$run{handle} = IPC::Run::start([ 'pgbench', '-n', '-c', $clients, '-j', 2, '-M', 'prepared', '-f', $file, @args,
		$node->connstr('postgres') ], '<', \undef, '>', \$run{out}, '2>', \$run{err});
	return \%run;
}
my $stats = q{SELECT hits + misses FROM echocache_stats WHERE name = 'session'};
my $idle = q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'};
my ($run, $there, $open, $counted);
# They sit idle until we have looked: on a busy machine that takes longer.
for my $idle_for (6, 30, 120)
{
	my $before = $s->run($stats);

	$run->{handle}->finish if $run;
	$run = pgbench("SELECT echocache_get_session(1 + :client_id);\n\\sleep $idle_for s\n", '-t', 1);
	wait_for("$clients backends to have read", sub { return $s->run($stats) - $before >= $clients });
	# A backend over the limit closes its connection at the end of its transaction.
	wait_for('transactions to end', sub { return $s->run("$idle AND state <> 'idle'") == 0 });
	wait_for('connections to be closed', sub { return connections() <= $alone + $pool });
	$open = connections();
	$counted = $s->run('SELECT connections FROM echocache_servers');
	$there = $s->run($idle);
	last if $there == $clients;
}
is($there, $clients, "$clients idle backends");
cmp_ok($open, '<=', $alone + $pool, "keep $pool connections at the most");
cmp_ok($open, '>=', $pool - 2, 'and do keep that many');
cmp_ok($counted, '<=', $alone + $pool, 'echocache_servers counts the same');
$run->{handle}->finish;
like($run->{out}, qr{number of transactions actually processed: $clients/$clients}, 'all have been served');
eventually('backends that have exited have closed theirs', sub { return connections() <= $alone });
is($s->run('SELECT connections FROM echocache_servers'), $alone, 'in the count of echocache_servers too');

# All of them at work, reading and writing: nobody is refused, nothing leaks.
my $downs = () = slurp_file($node->logfile) =~ /DOWN/g;
$run = pgbench("\\set id random(1, 1000)\nUPDATE session SET n = n + 1 WHERE id = :id;\nSELECT echocache_get_session(:id);\n", '-t', 10);
$run->{handle}->finish;
like($run->{out}, qr{number of transactions actually processed: @{[ $clients * 10 ]}/}, 'two hundred backends at work');
unlike($run->{err}, qr/ERROR|aborted/, 'without an error');
wait_for('exited backends to close their connections', sub { return connections() <= $alone });
is($s->run('SELECT state FROM echocache_servers'), 'UP', 'the server was UP throughout');
is(scalar(() = slurp_file($node->logfile) =~ /DOWN/g), $downs, 'and never DOWN');
is($s->run('SELECT sum(n) FROM session'), $clients * 10, 'every change was made');
my @wrong = grep {
	my ($id) = /^session:(\d+)$/;
	my $value = $memcached->get($_) // 'null';
	$value ne 'null' && $value ne $s->run("SELECT row_to_json(s) FROM session s WHERE id = $id");
} grep { /^session:/ } $memcached->keys;
is("@wrong", '', 'and every cached document is the row');

# However a backend ends.
for my $case ([ 'leaves', sub { $_[0]->quit } ],
	[ 'is terminated', sub { $s->run('SELECT pg_terminate_backend(' . $_[0]->pid . ')') } ],
	[ 'fails in a transaction and leaves', sub { $_[0]->error('BEGIN; SELECT echocache_get_session(1), 1 / 0'); $_[0]->quit } ])
{
	my ($how, $end) = @$case;
	my $session = session($node, sql => 'SELECT echocache_get_session(1)');

	is(connections(), $alone + 1, 'a backend that reads has a connection');
	$end->($session);
	wait_for("the connection of a backend that $how to close", sub { return connections() == $alone });
	is($s->run('SELECT connections FROM echocache_servers'), $alone, "none is left of a backend that $how");
}

# Probes keep a network from forgetting a connection that is idle: the kernel's timer is theirs.
my $port = sprintf('%04X', $memcached->port);
# (while an answer is due another timer is shown)
wait_for('each connection of ours to have probes', sub { return (() = slurp_file('/proc/net/tcp') =~ /^\s*\d+: \S+ \S+:$port 01 \S+ 02:/mg) >= $alone });

# A backend may give its connection back and gets another when it needs one.
$s->run('SELECT echocache_get_session(1); SELECT echocache_disconnect()');
wait_for('the connection to be closed', sub { return connections() < $alone });
cmp_ok(connections(), '<', $alone, 'echocache_disconnect closes it');
$s->run('SELECT echocache_connect()');
eventually('echocache_connect opens it', sub { return connections() == $alone });
my $opened = $memcached->stats->{total_connections};
$s->run("SELECT echocache_get_session($_); UPDATE session SET n = 0 WHERE id = $_") for 1 .. 20;
is($memcached->stats->{total_connections}, $opened, 'and one connection serves transaction after transaction');

# A memcached that has no connection left serves those who have one.
my $small = memcached(args => [ '-c', '30', '-t', '1' ]);
my $full = new_node('full', hosts => [$small]);
my $admin = session($full, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id int PRIMARY KEY, n int);
	INSERT INTO session SELECT g, g FROM generate_series(1, 20) g;
	SELECT echocache_attach('session')});
wait_state($admin, 'UP');
$admin->run('SELECT echocache_get_session(1)');
my @many = map { session($full) } 1 .. 30;
is(join(' ', map { $_->run(q{SELECT echocache_get_session(1) ->> 'n'}) } @many, @many), join(' ', ('1') x 60), 'more sessions than it has connections for read');
is($admin->run('SELECT state FROM echocache_servers'), 'UP', 'the server is UP');
like($admin->run('SELECT last_error FROM echocache_servers'), qr/Too many open connections/, 'the view has its words');
unlike(slurp_file($full->logfile), qr/is down/, 'it was UP all the time');
$admin->run('UPDATE session SET n = 2 WHERE id = 1');
is(join(' ', map { $_->run(q{SELECT echocache_get_session(1) ->> 'n'}) } @many), join(' ', ('2') x 30), 'and nobody reads anything old');
$_->quit for @many;

# A commit that has no connection gets one of those who are at the end of a transaction.
my $script = PostgreSQL::Test::Utils::tempdir() . '/more';
append_to_file($script, "SELECT echocache_get_session(:client_id);\nUPDATE session SET n = n + 1 WHERE id = :client_id;\n");
$admin->run('INSERT INTO session SELECT g, g FROM generate_series(21, 45) g; INSERT INTO session VALUES (0, 0)');
my $log = -s $full->logfile;
$full->command_ok([ 'pgbench', '-n', '-c', 45, '-j', 2, '-t', 40, '-f', $script, $full->connstr('postgres') ],
	'more clients than it has connections for read and write');
unlike(slurp_file($full->logfile, $log), qr/is down/, 'the server was UP all the time');
is($admin->run(q{SELECT markers > 1700 FROM echocache_stats WHERE name = 'session'}), 't', 'and had nearly all markers');
coherent($admin, [$small], 'SQL reads what the table has');
$admin->quit;

done_testing();
