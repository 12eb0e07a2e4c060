# Servers that talk without end, lists without end, and a backend that is short of
# descriptors: nobody waits beyond the deadline, a cancel is served at once, and a sound
# server stays UP.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# echocache.timeout here, and what else a statement takes at most on a machine that is not busy.
my $timeout = 0.3;
my $slack = 2;

#
# A server that is an honest and empty memcached, until its folder has a file of a verb's
# name: then the answer to that verb has no end.  Each connection has a process of its own,
# since one that talks without end does not listen.
#
package Endless;

sub new
{
	my ($class) = @_;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, ReuseAddr => 1, Listen => 100)
	  or die "cannot listen on $port: $!";
	my $pid = fork // die "cannot fork: $!";

	if ($pid == 0)
	{
		setpgrp;
		$SIG{CHLD} = 'IGNORE';
		$SIG{PIPE} = 'IGNORE';
		while (1)
		{
			my $socket = $listener->accept or next;

			if (fork == 0)
			{
				serve($socket, $dir);
				POSIX::_exit(0);
			}
			close $socket;
		}
	}
	close $listener;
	return bless { port => $port, dir => $dir, pid => $pid }, $class;
}

sub address { return "127.0.0.1:$_[0]->{port}"; }

# Have no end in the answers to these verbs; items is how many keys it says that it has.
sub talk
{
	my ($self, $items, @verbs) = @_;

	unlink glob "$self->{dir}/*";
	PostgreSQL::Test::Utils::append_to_file("$self->{dir}/items", $items);
	PostgreSQL::Test::Utils::append_to_file("$self->{dir}/$_", '') for @verbs;
	return;
}

sub stop
{
	my ($self) = @_;

	kill 'KILL', -$self->{pid} if defined $self->{pid};
	waitpid delete $self->{pid}, 0 if defined $self->{pid};
	return;
}

sub serve
{
	my ($socket, $dir) = @_;
	my $in = '';
	my %answer = (
		mn => sub { "MN\r\n" },
		stats => sub { 'STAT curr_items ' . (-e "$dir/items" ? PostgreSQL::Test::Utils::slurp_file("$dir/items") : 0) . "\r\nEND\r\n" },
		lru_crawler => sub { "END\r\n" },
		mg => sub { 'EN O' . $_[0] . "\r\n" },
		ms => sub { $_[1] ? '' : "HD c1 O$_[0]\r\n" },
		md => sub { $_[1] ? '' : "HD O$_[0]\r\n" });

	while (sysread $socket, $in, 65536, length $in)
	{
		while ($in =~ s/\A(\S+)([^\r\n]*)\r\n//)
		{
			my ($verb, $rest) = ($1, $2);
			my ($opaque) = $rest =~ / O(\d+)/;
			my $n = 0;

			my $value = $verb eq 'ms' && $rest =~ /\A \S+ (\d+)/ ? substr $in, 0, $1 + 2, '' : '';
			# The key by which a worker knows whose the keys are is kept: else it would wait for ever.
			if ($rest =~ /\A _echocache / && ($verb eq 'ms' || !-e "$dir/$verb"))
			{
				my %kept;

				@kept{qw(token lease)} = split / /, PostgreSQL::Test::Utils::slurp_file("$dir/.lease"), 2 if -e "$dir/.lease";
				syswrite $socket, EchoCache::keep_lease(\%kept, $verb, $rest, $value);
				PostgreSQL::Test::Utils::append_to_file("$dir/.lease.new", "$kept{token} $kept{lease}") if %kept;
				rename "$dir/.lease.new", "$dir/.lease" if %kept;
				next;
			}
			if (!-e "$dir/$verb")
			{
				my $text = $answer{$verb} ? $answer{$verb}->($opaque, $rest =~ / q\b/) : "ERROR\r\n";
				syswrite $socket, $text x ($verb eq 'mg' && -e "$dir/twice" ? 2 : 1);
				next;
			}
			syswrite $socket, "VA 268435456 c1 O$opaque\r\n" if $verb eq 'mg';
			while (1)
			{
				my $more = $verb eq 'lru_crawler'
				  ? join '', map { "key=session:x" . $n++ . " exp=-1 la=0 cas=1 fetch=no cls=1 size=64\n" } 1 .. 500
				  : $verb eq 'mg' ? 'x' x 1_000_000
				  : "STAT endless 1\r\n" x 2000;

				defined syswrite $socket, $more or return;
			}
		}
	}
	return;
}

package main;

my $sound = memcached();
my $endless = Endless->new;
my $node = new_node('main', hosts => [$sound],
	conf => "echocache.timeout = '300ms'\nlog_statement = none\nlog_min_messages = debug1\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, title text);
	INSERT INTO session SELECT g, 'first' FROM generate_series(1, 1000) g;
	SELECT echocache_attach('session');
	CREATE ROLE reader LOGIN;
	GRANT SELECT ON session TO reader});
my $judge = session($node);
my $reason = "SELECT last_error FROM echocache_servers WHERE server = '" . $endless->address . "'";
my $state = "SELECT state FROM echocache_servers WHERE server = '" . $endless->address . "'";

# Both servers are UP, and this one is honest.
sub all_well
{
	$endless->talk(0);
	wait_state($s, 'UP');
	return;
}

# Have the session's statement cancelled while it is at work; how long that takes, of a few
# tries the shortest: what the machine adds is not ours.
sub cancelled
{
	my ($sql) = @_;
	my $best;

	for (1 .. 5)
	{
		$s->send($sql);
		wait_for('the statement to begin', sub { return $judge->run('SELECT state FROM pg_stat_activity WHERE pid = ' . $s->pid) eq 'active' });
		sleep 0.3;
		my $took = EchoCache::seconds(sub {
			$judge->run('SELECT pg_cancel_backend(' . $s->pid . ')');
			wait_for('the cancel', sub { return $judge->run('SELECT state FROM pg_stat_activity WHERE pid = ' . $s->pid) ne 'active' });
		});
		$s->finish;
		if ($s->{messages} !~ /57014/)
		{
			diag("not cancelled: $s->{messages}");
			return 'inf';
		}
		$best = $took if !defined $best || $took < $best;
	}
	return $best;
}

setting($s, 'echocache.hosts' => join ',', $sound->address, $endless->address);
wait_for('the new servers', sub { return $s->run('SELECT count(*) FROM echocache_servers') eq '2' });
all_well();

#
# Keys without end.
#
$endless->talk(3, 'lru_crawler');
my $took = EchoCache::seconds(sub { $s->run('TRUNCATE session') });
in_time($judge, $took, 5, 'TRUNCATE: a server that lists keys for ever is cut off');
like($s->run($reason), qr/^an answer without end: more than \d+ MB$/, 'and says so');
isnt($s->run($state), 'UP', 'it is not UP');
is($s->run("SELECT state FROM echocache_servers WHERE server = '" . $sound->address . "'"), 'UP', 'the sound one is');
$s->run(q{INSERT INTO session SELECT g, 'second' FROM generate_series(1, 1000) g});

# It says that it has a great many.
all_well();
$endless->talk('999999999999999999', 'lru_crawler');
in_time($judge, cancelled('TRUNCATE session'), 0.1, 'TRUNCATE is cancelled while the server talks');
in_time($judge, cancelled(q{SELECT * FROM echocache_verify('session')}), 0.1, 'so is echocache_verify()');
is($s->run('SELECT count(*) FROM session'), 1000, 'nothing was truncated');

#
# A value, and statistics, without end.
#
all_well();
for my $case ([ 'a value', 'mg', 'SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session)) WHERE session IS NOT NULL' ],
	[ 'statistics', 'stats', 'SELECT count(*) > 0 FROM echocache_kv_stats()' ])
{
	my ($what, $verb, $sql) = @$case;

	all_well();
	$endless->talk(3, $verb);
	my $from = -s $node->logfile;
	my $took = EchoCache::seconds(sub { $s->attempt($sql) });
	in_time($judge, $took, $timeout + $slack, "$what without end: nobody waits beyond the deadline");
	$s->attempt($sql) for 2 .. 3;
	like(substr(slurp_file($node->logfile), $from), qr/is down: (?:no answer within 300 ms|an answer without end|a value without an end)/, 'the server is DOWN');
}

# Answers that are too many, to the first request that a session makes.
all_well();
$endless->talk(3, 'twice');
for my $id (1 .. 8)
{
	wait_state($s, 'UP');
	my $fresh = session($node);
	is($fresh->run("SELECT echocache_get_session($id)"), qq({"id":$id,"title":"second"}), "a server that answers twice: a fresh session reads row $id");
	$fresh->quit;
}

#
# The worker purges such a server, and is told to go.
#
all_well();
$endless->talk('999999999999999999', 'lru_crawler');
$s->run(q{ALTER SYSTEM SET echocache.key_prefix = 'other_'});
$s->run('SELECT pg_reload_conf()');
eventually('the worker asks for keys', sub {
	return $s->run(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'echocache worker' AND query LIKE 'recovering%'}) > 0;
});
my $machine = machine_adds($judge);
$_->quit for $s, $judge;
$took = EchoCache::seconds(sub { $node->stop('fast') });
cmp_ok($took, '<', $slack + 1 + $machine, 'a fast shutdown does not wait for it');
$endless->stop;

#
# A list of ids without end, by somebody who may only read.
#
$node->adjust_conf('postgresql.auto.conf', 'echocache.hosts', "'" . $sound->address . "'");
$node->start;
$s = session($node, user => 'reader');
$judge = session($node);

# Run this until the server is not found DOWN meanwhile, with this timeout, and with
# three times as much and as long lists if the busy machine is too slow for that.
sub unhurried
{
	my ($code) = @_;
	my $log;

	for my $times (1, 3)
	{
		setting($judge, 'echocache.timeout' => 500 * $times . 'ms');
		wait_state($judge, 'UP');
		my $from = -s $node->logfile;
		$code->($times);
		$log = substr(slurp_file($node->logfile), $from);
		last if $log !~ /is down/;
	}
	return $log;
}

my @read;
my $log = unhurried(sub {
	my $ids = 'ARRAY(SELECT generate_series(1, ' . 1_000_000 * $_[0] . ')::bigint)';

	@read = map { $s->run("SELECT count(document), count(*) FROM echocache_get_many('session', $ids)") } 1 .. 2;
});
is_deeply(\@read, [ '1000|1000', '1000|1000' ], 'get_many of a million ids, twice');
is($judge->run('SELECT state FROM echocache_servers'), 'UP', 'the server is UP');
unlike($log, qr/is down/, 'and has been all the time');
setting($judge, 'echocache.timeout' => '500ms');
wait_state($judge, 'UP');
in_time($judge, cancelled(q{SELECT count(*) FROM echocache_get_many('session', ARRAY(SELECT generate_series(1, 3000000)::bigint))}), 0.1,
	'such a read is cancelled at once');

# Large documents: a piece is no larger than what arrives in time.
$judge->run(q{UPDATE session SET title = repeat('x', 300000) WHERE id <= 400});
$log = unhurried(sub {
	my $many = "ARRAY(SELECT n FROM generate_series(1, $_[0]), generate_series(1, 400) n)::bigint[]";

	@read = map { $judge->run("SELECT count(*) FROM echocache_get_many('session', $many) WHERE length(document::text) > 300000") / $_[0] } 1 .. 2;
});
is_deeply(\@read, [ 400, 400 ], 'many large documents, twice');
unlike($log, qr/is down/, 'and the server is UP all the time');
$_->quit for $s, $judge;
$node->stop;

#
# A backend that has no descriptors left for as many servers as there are.
#
my @many = map { memcached(host => "127.0.0.$_", args => [ '-t', '1' ]) } 2 .. 13;
$node->adjust_conf('postgresql.auto.conf', 'echocache.hosts', "'" . join(',', map { $_->address } @many) . "'");
$node->adjust_conf('postgresql.auto.conf', 'echocache.timeout', "'5s'");
# PostgreSQL inherits what whoever started us has left open.
my $inherited = grep { my ($flags) = (eval { slurp_file($_) } // '') =~ /^flags:\s+(\d+)/m; defined $flags && !(oct($flags) & 02000000) }
  grep { !m{/[012]\z} } glob '/proc/self/fdinfo/*';
$node->append_conf('postgresql.conf', 'max_files_per_process = ' . (62 + $inherited) . "\n");
$node->start;
$s = session($node);
my $from = -s $node->logfile;
is($s->run(q{SELECT count(document) FROM echocache_get_many('session', ARRAY(SELECT generate_series(1, 1000)::bigint))}), 1000,
	'a read from more servers than there are descriptors for');
unlike(substr(slurp_file($node->logfile), $from), qr/is down: too many open files/, 'makes no server DOWN');
# A writer must have its markers confirmed, so there a server is DOWN, until its worker has invalidated the keys.
$s->run(q{UPDATE session SET title = 'third'});
wait_state($s, 'UP');
is(join(' ', map { my %held = $_->contents('session:'); grep { $held{$_} ne 'null' && $held{$_} !~ /third/ } sort keys %held } @many), '',
	'a commit to more servers than there are descriptors for leaves no old document behind');
$s->quit;
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|server process .* exited with exit code/, 'nothing has crashed');
$node->stop;
done_testing();

END
{
	my $exit_code = $?;
	$endless->stop if $endless;
	$? = $exit_code;
}
