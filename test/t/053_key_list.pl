# The list of keys: memcached's crawler waits for whoever has asked for it, with locks held that
# others need.  No process of ours leaves it waiting, nor asks while it waits for somebody else.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Socket qw(SOL_SOCKET SO_RCVBUF inet_aton pack_sockaddr_in);
use Test::More;
use Time::HiRes qw(sleep time);

# All clients of one thread: whom the list holds up, it holds up all.
my $memcached = memcached(args => [ '-t', '1', '-m', '256' ]);
my $proxy = proxy($memcached);
my $node = new_node('main', hosts => [$proxy], conf => "echocache.timeout = '60s'\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE doc (id int PRIMARY KEY, v int);
	SELECT echocache_attach('doc', 'doc')});
my $other = session($node);

wait_state($s, 'UP');
$s->run('INSERT INTO doc SELECT g, g FROM generate_series(1, 10) g');
$s->run(q{SELECT count(echocache_get('doc', id)) FROM doc});

my $version = $memcached->stats->{version};
my $is_old = $version =~ /^(\d+)\.(\d+)\.(\d+)/ && sprintf('%03d%03d%03d', $1, $2, $3) lt '001006019';
my @told = slurp_file($node->logfile) =~ /is a memcached before 1\.6\.19/g;
is(scalar @told, $is_old ? 1 : 0, "memcached $version: one before 1.6.19, and no other, is logged as such");

#
# An error in the middle of a list, though it is caught and the transaction goes on: the
# connection is closed at once, so that memcached waits no longer.
#
sub connections { return $other->run('SELECT connections FROM echocache_servers'); }

my $before = connections();
$proxy->tell('hold down key=');
$s->send(q{DO $$BEGIN
	PERFORM echocache_verify('doc');
EXCEPTION WHEN query_canceled THEN
	PERFORM pg_advisory_lock(1), pg_sleep(600);
END$$});
wait_for('the list to begin', sub { return $proxy->state->{held_down} > 0 });
is(connections(), $before, 'a backend has asked for the list, and waits for the rest of it');
$other->run('SELECT pg_cancel_backend(' . $s->pid . ')');
wait_for('the cancelled statement to be caught', sub {
	return $other->run(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND objsubid = 1 AND granted AND pid = } . $s->pid) == 1 });
is(connections(), $before - 1, 'the list is cancelled: its connection is closed, in the middle of the transaction');
$proxy->tell('pass');
$other->run('SELECT pg_cancel_backend(' . $s->pid . ')');
$s->finish;
$s->run('SELECT pg_advisory_unlock_all()');
eventually('the next list is whole', sub { return $s->run(q{SELECT cached, matching FROM echocache_verify('doc')}) eq '10|10' });

#
# Somebody else has asked for a list and does not take it in: memcached has the thread wait that
# is asked for another one, and all of its clients.
#
$memcached->exchange(join('', map { "set other:$_ 0 0 1 noreply\r\nx\r\n" } 1 .. 150_000) . "get other:150000\r\n", qr/END\r\n/);
my $lister = IO::Socket::INET->new(Proto => 'tcp');
setsockopt $lister, SOL_SOCKET, SO_RCVBUF, 4096 or die "no small buffer: $!";
connect $lister, pack_sockaddr_in($memcached->port, inet_aton('127.0.0.1')) or die "no connection: $!";
# not of the hash table: that would hold up plain clients by itself, before 1.6.19
wait_for('a list to begin', sub {
	syswrite $lister, "lru_crawler metadump all\r\n";
	sysread $lister, my $answer, 10;
	return $answer !~ /^BUSY/ || !sysread $lister, $answer, 100;
});
sleep 1;
is($memcached->stats->{lru_crawler_running}, 1, 'somebody else does not take in a list');

# The longest that a plain client waits for an answer, for some seconds.
sub longest_wait
{
	my ($end, $longest) = (time + $_[0], 0);
	local $EchoCache::patience = 20;

	while (time < $end)
	{
		my $took = eval { seconds(sub { $memcached->get('other:1') }) } // $EchoCache::patience;

		$longest = $took if $took > $longest;
		last if $took >= $EchoCache::patience;
		sleep 0.01;
	}
	return $longest;
}

$s->send(q{SELECT cached, matching FROM echocache_verify('doc')});
cmp_ok(longest_wait(3), '<', 10, 'a list that is asked for then holds up no plain client');
$other->send('TRUNCATE doc');
cmp_ok(longest_wait(3), '<', 10, 'nor does a TRUNCATE');
ok(defined $other->finish, 'which has waited for a while, and goes on without');
like($other->run(q{SELECT state, last_error FROM echocache_servers}), qr/^(?!UP).*crawler is at work for somebody else/, 'the server is not UP, and says why');
close $lister;
like($s->finish, qr/^\d+\|\d+$/, 'the list that was waited for comes');
wait_state($s, 'UP');
is_deeply([ grep { /^doc/ } $memcached->keys ], [], 'and so does the purge: the server is UP');

#
# Lists that are none.
#
my $journal = PostgreSQL::Test::Utils::tempdir() . '/lists';

# A server that is honest, has no keys, and gives the n-th list that it is asked for as told.
sub server_that
{
	my ($list) = @_;
	my (%kept, $asked);

	return rogue(answer => sub {
		return EchoCache::answer_requests(\%kept, $_[0], sub {
			my ($verb, $opaque, $rest) = @_;

			append_to_file($journal, '.') if $verb eq 'lru_crawler';
			return $verb eq 'mn' ? "MN\r\n"
			  : $verb eq 'stats' ? "END\r\n"
			  : $verb eq 'lru_crawler' ? $list->(++$asked)
			  : $verb eq 'mg' ? "EN\r\n"
			  : $rest =~ / q\b/ ? '' : "HD c1 O$opaque\r\n";
		});
	});
}

# 1.6.44 and newer
my $growing = server_that(sub { return $_[0] % 3 ? "OK\r\nERROR locked try again later\r\n" : "OK\r\nEND\r\n" });
my $log = -s $node->logfile;
setting($s, 'echocache.hosts' => $growing->address);
wait_state($s, 'UP', $growing);
$s->run('TRUNCATE doc');
unlike(slurp_file($node->logfile, $log), qr/is down/, 'a memcached that makes its hash table larger is asked again, and not taken for dead');

# 1.6.19 to 1.6.43, to a client who has not read for a while
my $confused = server_that(sub { return $_[0] == 2 ? "END\r\nther%3A1 exp=-1 size=1\nkey=doc:1 exp=-1 size=1\n" : "END\r\n" });
setting($s, 'echocache.hosts' => $confused->address);
wait_state($s, 'UP', $confused);
unlink $journal;
$s->run('TRUNCATE doc');
wait_state($s, 'UP', $confused);
is(-s $journal, 2, 'of a list that goes on after its end another one is asked for');

$_->quit for $s, $other;
$node->stop;
done_testing();
