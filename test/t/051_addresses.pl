# A name with several addresses is one server: everybody uses one address, another one only when
# that accepts no connections, and after a purge.  And nobody ever waits for a resolver.
#
# The test runs in namespaces of its own, for hosts, a resolver and memcacheds that no other
# program sees.  It is skipped where the kernel makes none for users.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PrivateNames qw(etc);

use EchoCache;
use IO::Select;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Socket qw(PF_INET SOCK_NONBLOCK SOCK_STREAM inet_aton pack_sockaddr_in);
use Test::More;
use Time::HiRes qw(sleep time);

#
# What is private to the namespaces.
#
my @sentinels = map { "later$_" } 1 .. 5;
my @looked_up;

# Which addresses a name has; all names that are not given have none.
sub hosts
{
	my (@lines) = @_;

	etc('hosts', @lines, map { "127.0.0.9 $_" } @looked_up);
	return;
}

etc('nsswitch.conf', 'hosts: files dns', 'passwd: files', 'group: files');
etc('resolv.conf', 'nameserver 127.0.0.1', 'options timeout:30 attempts:2');

my $port = 11211;
my ($a, $b, $c) = map { memcached(host => "127.0.0.$_", port => $port) } 2 .. 4;
my $server = "cache:$port";
hosts('127.0.0.3 cache', '127.0.0.2 cache');
my $node = new_node('main', hosts => [ $server, map { "$_:1" } @sentinels ],
	conf => "echocache.timeout = '2s'\nmax_worker_processes = 12\nlog_statement = none\nrestart_after_crash = on\n");
my $s = session($node, sql => 'CREATE EXTENSION echocache');

sub row { my ($id, $title) = @_; return qq({"id":$id,"title":"$title"}); }
sub up { my ($session) = @_; wait_for("$server to be UP", sub { return state($session // $s) eq 'UP' }); return; }
sub state { return $_[0]->run("SELECT state FROM echocache_servers WHERE server = '$server'"); }

# How many lists of servers have been published, or said that all begins anew.
sub generations { my @all = slurp_file($node->logfile) =~ /echocache: the cache is on/g; return scalar @all; }

# Have all names looked up by this hosts file, and wait until they have been: one more name has
# got its first address, where nobody listens.
sub look_up
{
	my (@lines) = @_;
	my $sentinel = shift @sentinels;

	push @looked_up, $sentinel;
	hosts(@lines);
	$s->run('SELECT pg_reload_conf()');
	wait_for("$sentinel to be looked up", sub {
		return $s->run("SELECT last_error FROM echocache_servers WHERE server = '$sentinel:1'") =~ /refused/;
	});
	return;
}

# Leave an old document under each key, as earlier times may have done.
sub plant { my ($memcached, @ids) = @_; $memcached->set("session:$_", row($_, 'stale')) for @ids; return; }

# Commit something.
my (@ids, $title);
sub change { $title = $_[0]; $s->run("UPDATE session SET title = '$title'"); return; }

# The ids whose documents SQL reads otherwise than they have been committed: an old session and a new one.
sub misread
{
	my $new = session($node);
	my @wrong = map { my $session = $_; grep { $session->run("SELECT echocache_get('session', $_)") ne row($_, $title) } @ids } $s, $new;

	$new->quit;
	return "@wrong";
}

# Test: what was committed is read, whatever was left somewhere; and what is committed now is at
# this memcached, and at none of the others.
sub used
{
	my ($memcached, $name, @others) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	local $EchoCache::quiet = 1;

	is(misread(), '', "$name: SQL reads what was committed before");
	change("at $name" =~ tr/a-z0-9 //cdr);
	is(misread(), '', 'and what is committed now');
	eventually('it is there', sub {
		misread();
		return !grep { ($memcached->get("session:$_") // '') ne row($_, $title) } @ids;
	});
	for my $other (@others)
	{
		is(join(' ', grep { ($other->get("session:$_") // '') eq row($_, $title) } @ids), '', 'and nowhere else');
	}
	return;
}

$s->run(q{CREATE TABLE session (id bigint PRIMARY KEY, title text);
	SELECT echocache_attach('session', 'session');
	INSERT INTO session SELECT g, '' FROM generate_series(1, 60) g});
up();
change('first');
$s->run('SELECT echocache_get_sessions(ARRAY(SELECT id FROM session))');
eventually('documents are at the first address in order, not in the resolver\'s', sub {
	return grep { /^session:/ } $a->keys;
}) or die 'no server to go on with';
@ids = grep { defined $a->get("session:$_") } 1 .. 60;
cmp_ok(scalar @ids, '>', 3, 'some documents live on this server');
is(join(' ', $b->keys), '', 'and the other address has none of them');
used($a, 'a name with two addresses', $b);

#
# What is no change (N2).
#
my $before = generations();
look_up('127.0.0.2 cache', '127.0.0.3 cache');
is(state($s), 'UP', 'the same addresses in another order: the server is UP');
look_up('127.0.0.4 cache', '127.0.0.3 cache', '127.0.0.2 cache');
is(state($s), 'UP', 'one more address: the server is UP');
is(join(' ', grep { ($a->get("session:$_") // '') ne row($_, $title) } @ids), '', 'nothing is purged');
is(generations(), $before, 'and no new generation is published');

#
# The address does not accept connections any more (N1).
#
plant($b, @ids);
$a->stop;
change('nowhere');
up();
like(slurp_file($node->logfile), qr/server "$server" does not accept connections at 127\.0\.0\.2, but at 127\.0\.0\.3/, 'the log says what has happened');
is(generations(), $before + 1, 'another address is one new generation');
used($b, 'another address, which has old documents', $c);
is(join(' ', grep { /stale/ } map { $b->get("session:$_") } @ids), '', 'and which was purged');

$a->start;
plant($a, @ids);
my $connections = $a->stats->{total_connections};
used($b, 'the first one is back, with old documents', $a, $c);
look_up('127.0.0.2 cache', '127.0.0.3 cache');
used($b, 'and its name is looked up once more', $a, $c);
is($a->stats->{total_connections}, $connections, 'nobody has connected to the first one meanwhile');
is(generations(), $before + 1, 'it is not changed back');

#
# The workers of several databases find out at the same time.
#
my @others = map { $s->run("CREATE DATABASE $_"); session($node, dbname => $_, sql => 'CREATE EXTENSION echocache') } qw(one two three);
$others[$_]->run("ALTER DATABASE " . (qw(one two three))[$_] . " SET echocache.key_prefix = '$_/'") for 0 .. 2;
$s->run('SELECT pg_reload_conf()');
up($_) for $s, @others;
$before = generations();
$b->stop;
change('nowhere');
up($_) for $s, @others;
used($a, 'four databases, and the address is gone', $c);
is(generations(), $before + 1, 'that is one new generation for all of them');
$_->quit for @others;

#
# An address that is silent: a queue of connections that is full (N4).
#
sub silent
{
	my ($host) = @_;
	my $listener = IO::Socket::INET->new(LocalAddr => $host, LocalPort => $port, ReuseAddr => 1, Listen => 1) or die "no listener: $!";
	my @queue;

	for (1 .. 8)
	{
		socket(my $socket, PF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0) or die "no socket: $!";
		connect $socket, pack_sockaddr_in($port, inet_aton($host));
		push @queue, $socket;
	}
	sleep 0.2;
	die 'nobody is kept waiting' if !grep { !defined getpeername $_ } @queue;
	return [ $listener, @queue ];
}

$b->start;
plant($b, @ids);
$a->stop;
my $silent = silent('127.0.0.2');
my $took = seconds(sub {
	change('silent');
	eventually('an address that is silent: the next one is used', sub { return state($s) eq 'UP'; })
	  or die 'no server to go on with';
});
note("UP at the next address after $took s");
in_time($s, $took, 15, 'after two timeouts of 2 s');
used($b, 'it has old documents', $c);
$s->quit;
$node->restart;
$s = session($node);
up();
used($b, 'likewise after a start', $c);
undef $silent;

#
# The name gets another address (N6).
#
plant($c, @ids);
$before = generations();
look_up('127.0.0.4 cache', '127.0.0.2 cache');
eventually('the name has other addresses: another generation', sub { return generations() > $before; });
like(slurp_file($node->logfile), qr/server "$server" has another address: 127\.0\.0\.2 instead of 127\.0\.0\.3/, 'and the log says so');
up();
used($c, 'of which the first one does not accept connections, with old documents', $b);
is(generations(), $before + 2, 'that makes two generations');
$before = generations();
look_up('127.0.0.4 cache');
is(state($s), 'UP', 'one less, which is not used: the server is UP');
is(generations(), $before, 'and no new generation is published');

# The way that README recommends: the old memcached is stopped, then the name is changed.
setting($s, 'echocache.fallback' => 'off');
my $writer = session($node);
plant($b, @ids);
$c->stop;
like($writer->error('UPDATE session SET title = \'nowhere\' WHERE id = ' . $ids[0]), qr/^08006/, 'fallback = off: while the address is gone nothing commits') for 1 .. 2;
hosts('127.0.0.3 cache');
up();
setting($s, 'echocache.fallback' => 'on');
used($b, 'while the server is DOWN its name is looked up all the time');
$writer->quit;

#
# localhost needs nobody to say what it is.
#
SKIP:
{
	skip 'this machine has no IPv6', 3 if !IO::Socket::IP->new(LocalHost => '::1', LocalPort => 0, Listen => 1);
	my $six = memcached(host => '::1', port => 11212);

	$server = 'localhost:11212';
	setting($s, 'echocache.hosts' => $server);
	up();
	@ids = 1 .. 3;
	used($six, 'localhost, which is in no hosts file, and by IPv6 alone');
	$six->stop;
}

#
# A resolver that never answers.
#
my $resolver = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 53, Proto => 'udp') or die "no resolver: $!";
my $resolving = sub {
	my ($launcher) = $s->run(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'echocache launcher'});
	my @pids;

	for my $dir (glob '/proc/[0-9]*')
	{
		my ($stat) = eval { slurp_file("$dir/stat") } or next;
		push @pids, { pid => $1, state => $2 } if $launcher && $stat =~ /^(\d+) \(.*\) (\S) $launcher /;
	}
	return @pids;
};
# Forget what the resolver was asked before; wait until it is asked, by the one process that is there.
sub forget { $resolver->recv(my $packet, 512) while IO::Select->new($resolver)->can_read(0); return; }
sub hang
{
	wait_for('the resolver to be asked', sub { return IO::Select->new($resolver)->can_read(0) && $resolving->() == 1; });
	return;
}

$server = "cache:$port";
hosts('127.0.0.3 cache');
$s->run('CREATE DATABASE victim');
my $slow = "slow.example:$port,$server";
$took = seconds(sub {
	setting($s, 'echocache.hosts' => $slow);
	wait_for('the new servers', sub { return $s->run('SELECT count(*) FROM echocache_servers') == 2; });
});
in_time($s, $took, 3, 'the list with a name that is not answered for is in force');
hang();
up();
$s->run('SELECT echocache_get_sessions(ARRAY(SELECT id FROM session))');
@ids = grep { defined $b->get("session:$_") } 1 .. 60;
used($b, 'the other name is looked up meanwhile');
$took = seconds(sub { $s->run('DROP DATABASE victim') });
note("DROP DATABASE: $took s");
in_time($s, $took, 3, 'DROP DATABASE does not wait for a resolver');
my @children = $resolving->();
is(scalar @children, 1, 'one process does');
$took = seconds(sub {
	setting($s, 'echocache.hosts' => '127.0.0.3:11211');
	wait_for('the new servers', sub { return $s->run('SELECT count(*) FROM echocache_servers') == 1; });
});
note("another list of servers: $took s");
in_time($s, $took, 3, 'nor does another list of servers');
eventually('that process has ended', sub { return !$resolving->(); });

forget();
setting($s, 'echocache.hosts' => $slow);
hang();
@children = $resolving->();
is(join(' ', map { $_->{state} } @children), 'S', 'another process waits for the resolver, and no zombie is left');
my $launcher = $s->run(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'echocache launcher'});
$s->quit;
kill 'KILL', $launcher;
eventually('the launcher is killed: the process ends as well', sub { return !-e "/proc/$children[0]{pid}"; });
wait_for('PostgreSQL to be back', sub {
	return $node->psql('postgres', 'SELECT 1') == 0;
});
$s = session($node);
forget();
hang();
@children = $resolving->();
$took = seconds(sub { $node->stop('fast') });
note("pg_ctl stop -m fast: $took s");
cmp_ok($took, '<', 10, 'a shutdown does not wait for a resolver');
eventually('and nothing is left', sub { return !grep { -e "/proc/$_->{pid}" } @children; });

done_testing();
