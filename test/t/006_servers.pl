# Several memcached servers: every document is where libmemcached's own clients
# look for it, one server's fault is not the others', and they may be reached by
# IPv4, IPv6 or a unix socket.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use IO::Socket::IP;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $clients = "$FindBin::RealBin/../clients";
my $build = PostgreSQL::Test::Utils::tempdir();
my $count = 10000;

my @servers = map { memcached() } 1 .. 3;
my @weighted = map { $servers[$_]->address . ':' . ($_ + 1) } 0 .. 2;
my $node = new_node('main', hosts => \@weighted, conf => "log_statement = none\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, title text);
	SELECT echocache_attach('session')});
wait_state($s, 'UP');
is($s->run('SELECT count(*) FROM echocache_servers'), 3, 'three servers');

# What a program prints as "key<TAB>server", in a hash.
sub placement
{
	my (@command) = @_;
	my ($out, $err);

	IPC::Run::run([ @command, $count, @weighted ], '>', \$out, '2>', \$err)
	  or die "@command failed: $err";
	return { map { split /\t/ } split /\n/, $out };
}

# Which server holds which keys, in a hash; a key that two hold is an error.
sub really
{
	my %where;

	for my $server (@servers)
	{
		for my $key ($server->keys)
		{
			die "$key is on two servers" if defined $where{$key};
			$where{$key} = $server->address;
		}
	}
	return \%where;
}

# How many keys two of them place differently.
sub disagree
{
	my ($a, $b) = @_;

	return scalar grep { ($a->{$_} // '') ne ($b->{$_} // '') } map { "session:$_" } 0 .. $count - 1;
}

#
# Placement.
#
system_or_bail('make', '-s', '-C', $clients, "BUILD=$build");
my $library = placement("$build/placement");
is(scalar keys %$library, $count, "$count keys are placed by libmemcached");

$s->run("INSERT INTO session SELECT g, 'filled' FROM generate_series(0, $count - 1) g");
$_->flush for @servers;
is($s->run("SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session ORDER BY id))"), $count,
	"get_sessions of $count documents across three servers");
is(scalar keys %{ really() }, 500, 'fills as many as one call may lock');
is($s->run("SELECT count(*) FROM generate_series(0, $count - 1, 500) first,
	LATERAL echocache_get_sessions(ARRAY(SELECT first + n FROM generate_series(0, 499) n)::bigint[])"), $count,
	'by calls of 500 each');
my $filled = really();
is(scalar keys %$filled, $count, 'it fills them all');
is(disagree($library, $filled), 0, 'each where libmemcached looks for it');

# What one row's write and one row's read do is the same.
$s->run("UPDATE session SET title = 'written' WHERE id = $_") for 0 .. 63;
is(scalar(grep {
	my $key = "session:$_";
	my ($server) = grep { $_->address eq $library->{$key} } @servers;
	$server->settled($key) ne qq({"id":$_,"title":"written"});
} 0 .. 63), 0, 'a write goes there too');
is(disagree($library, really()), 0, 'and nowhere else');

# The weights do count: 1 : 2 : 3, roughly.
my %share;
$share{$_}++ for values %$filled;
my @share = map { $share{ $_->address } / $count * 6 } @servers;
ok($share[$_] > ($_ + 1) * 0.7 && $share[$_] < ($_ + 1) * 1.3, "server $_ has its share") || diag("@share") for 0 .. 2;

#
# get_many over all servers.
#
my $before = $s->run(q{SELECT hits FROM echocache_stats});
is($s->run(q{SELECT string_agg(id, ' ') FROM echocache_get_sessions('{5,3,5,NULL,77777,1,2,3}'::bigint[])}),
	'5 3 5 1 2 3', 'in the order asked, duplicates included, absent rows left out');
is($s->run(q{SELECT hits FROM echocache_stats}) - $before, 4, 'as hits, each asked for once');
my @connections = map { $_->stats->{total_connections} } @servers;
$s->run(q{SELECT count(*) FROM echocache_get_sessions('{1,2,3,4,5,6,7,8,9}'::bigint[])});
is_deeply([ map { $_->stats->{total_connections} } @servers ], \@connections, 'over connections kept to each');

#
# One of them goes, the others go on.
#
sub on { my ($i) = @_; return (grep { $library->{"session:$_"} eq $servers[$i]->address } 100 .. 999)[0] }
my @id = map { on($_) } 0 .. 2;
is($s->run("SELECT echocache_get_session($id[1])"), qq({"id":$id[1],"title":"filled"}), 'a document of each server');
$servers[1]->stop;
is($s->run("SELECT count(*) FROM echocache_get_sessions(ARRAY[$id[0], $id[1], $id[2]]::bigint[])"), 3,
	'one server killed: get_sessions has all documents');
wait_state($s, 'DOWN', $servers[1]);
is($s->run(q{SELECT count(*) FROM echocache_servers WHERE state = 'UP'}), 2, 'the other two are UP');
is($s->run('SELECT echocache_is_available()'), 't', 'and the cache available');
$before = $s->run(q{SELECT hits FROM echocache_stats});
$s->run("SELECT echocache_get_session($id[$_])") for 0, 2;
is($s->run(q{SELECT hits FROM echocache_stats}) - $before, 2, 'their documents are still hits');
$s->run("UPDATE session SET title = 'two of three' WHERE id IN ($id[0], $id[1], $id[2])");
holds($servers[$_], "session:$id[$_]", qq({"id":$id[$_],"title":"two of three"}), "and server $_ is written through") for 0, 2;
$servers[1]->start;
wait_state($s, 'UP');
is($s->run("SELECT echocache_get_session($id[1])"), qq({"id":$id[1],"title":"two of three"}), 'started again it is right');
holds($servers[1], "session:$id[1]", qq({"id":$id[1],"title":"two of three"}), 'and filled');

# Frozen: one wait for an exchange with all of them, and only their own documents are read from the table.  That
# one server's keys come last, behind 80 others in the order in which they are asked, changes nothing.
setting($s, 'echocache.timeout' => '2 s');
my @others = (grep { $library->{"session:$_"} ne $servers[0]->address } 100 .. 999)[0 .. 79];
my @last = (grep { $library->{"session:$_"} eq $servers[0]->address } $others[-1] .. 999)[0 .. 9];
my $list = 'ARRAY[' . join(',', @others, @last) . ']::bigint[]';
$s->run("SELECT echocache_get_sessions($list)");
$servers[0]->freeze;
$servers[2]->freeze;
my $took = seconds(sub {
	is($s->run("SELECT count(*) FROM echocache_get_sessions($list)"), 90,
		'two of three frozen: get_sessions has all documents');
});
in_time($s, $took, 2 + 1.8, 'and waits for both at once');
$took = seconds(sub { $s->run(q{UPDATE session SET title = 'frozen' WHERE id < 60}) });
in_time($s, $took, 2 + 1.8, 'so does a commit over all of them');
$took = seconds(sub { $s->run(q{UPDATE session SET title = 'frozen' WHERE id < 60}) });
in_time($s, $took, 1.8, 'the next one waits no more');
$servers[0]->thaw;
$servers[2]->thaw;
wait_state($s, 'UP');
is($s->run(q{SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session WHERE id < 60)) WHERE session->>'title' = 'frozen'}),
	60, 'thawed: nothing old is read');

#
# The list changes: a key that has moved is never read from where it was.
#
$s->run('SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session WHERE id < 1000))');
setting($s, 'echocache.hosts' => join(',', @weighted[0, 1]));
wait_for('the third server to go', sub { return $s->run('SELECT count(*) FROM echocache_servers') == 2 });
wait_state($s, 'UP');
$s->run(q{UPDATE session SET title = 'two servers' WHERE id < 1000});
is($s->run(q{SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session WHERE id < 1000)) WHERE session->>'title' = 'two servers'}),
	1000, 'with one server less everything is right');
setting($s, 'echocache.hosts' => join(',', @weighted));
wait_for('the third server to come back', sub { return $s->run('SELECT count(*) FROM echocache_servers') == 3 });
is($s->run(q{SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session WHERE id < 1000)) WHERE session->>'title' = 'two servers'}),
	1000, 'with one more also, at once');
wait_state($s, 'UP');
is($s->run(q{SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session WHERE id < 1000)) WHERE session->>'title' = 'two servers'}),
	1000, 'and when it is UP, although it still had the old documents');
like($s->error(q{ALTER SYSTEM SET echocache.hosts = '127.0.0.1:1,,127.0.0.1:2'}), qr/^22023: /, 'a malformed list is refused');
$node->append_conf('postgresql.conf', "echocache.hosts = 'not/absolute'");
$s->run('ALTER SYSTEM RESET echocache.hosts; SELECT pg_reload_conf()');
wait_for('the refusal', sub { return slurp_file($node->logfile) =~ /invalid value for parameter "echocache.hosts"/ });
is($s->run('SELECT count(*) FROM echocache_servers'), 3, 'and the old one stays in force');

#
# Other ways to reach one.
#
my $socket = memcached(socket => 1);
$s->run("ALTER SYSTEM SET echocache.hosts = '" . $socket->address . "'; SELECT pg_reload_conf()");
wait_for('the socket to appear', sub { return $s->run('SELECT min(server) FROM echocache_servers') eq $socket->address });
wait_state($s, 'UP');
$s->run(q{UPDATE session SET title = 'by socket' WHERE id = 1});
holds($socket, 'session:1', '{"id":1,"title":"by socket"}', 'a unix socket');
$before = $s->run(q{SELECT hits FROM echocache_stats});
is($s->run('SELECT echocache_get_session(1)'), '{"id":1,"title":"by socket"}', 'is read from');
is($s->run(q{SELECT hits FROM echocache_stats}) - $before, 1, 'as a hit');
$socket->stop;
is($s->run('SELECT echocache_get_session(1)'), '{"id":1,"title":"by socket"}', 'and its loss is survived');
wait_state($s, 'DOWN');

SKIP:
{
	skip 'this machine has no IPv6', 3
	  unless IO::Socket::IP->new(LocalHost => '::1', LocalPort => 0, Listen => 1);
	my $six = memcached(host => '::1');
	setting($s, 'echocache.hosts' => $six->address);
	wait_for('the server to appear', sub { return $s->run('SELECT min(server) FROM echocache_servers') eq $six->address });
	wait_state($s, 'UP');
	$s->run(q{UPDATE session SET title = 'by IPv6' WHERE id = 1});
	holds($six, 'session:1', '{"id":1,"title":"by IPv6"}', 'IPv6');
	$before = $s->run(q{SELECT hits FROM echocache_stats});
	is($s->run('SELECT echocache_get_session(1)'), '{"id":1,"title":"by IPv6"}', 'is read from');
	is($s->run(q{SELECT hits FROM echocache_stats}) - $before, 1, 'as a hit');
}

# By name, which may have more than one address.
setting($s, 'echocache.hosts' => 'localhost:' . $servers[0]->port);
wait_for('the name to appear', sub { return $s->run('SELECT min(server) FROM echocache_servers') =~ /localhost/ });
wait_state($s, 'UP');
$s->run(q{UPDATE session SET title = 'by name' WHERE id = 1});
holds($servers[0], 'session:1', '{"id":1,"title":"by name"}', 'a host name');

# A name that does not exist is a server that is down.
setting($s, 'echocache.hosts' => $servers[0]->address . ',no-such-host.invalid:11211');
wait_for('the unknown name to appear', sub { return $s->run(q{SELECT count(*) FROM echocache_servers WHERE server ~ 'invalid'}) == 1 });
wait_state($s, 'UP', $servers[0]);
is($s->run(q{SELECT state FROM echocache_servers WHERE server ~ 'invalid'}), 'DOWN', 'a name that does not resolve is DOWN');
is($s->run(q{SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session WHERE id < 100))}), 100, 'and nobody minds');

# Health: really set, get and delete.
is($s->run(q{SELECT count(*) FROM echocache_health() WHERE test_set AND test_get AND test_delete}), 1, 'echocache_health finds the one that works');
is($s->run(q{SELECT count(*) FROM echocache_health() WHERE NOT coalesce(test_set, false)}), 1, 'and the one that does not');
is(join(' ', grep { !/^session:/ } $servers[0]->keys), '', 'and leaves nothing there');

done_testing();
