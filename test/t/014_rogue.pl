# Servers that are sick or worse, beside a sound one: they win the worker's trust
# and then talk nonsense, answer drop by drop, hang up in the middle of a word, or
# cannot be reached in unusual ways.  No backend crashes, no row is wrong, nobody
# waits beyond echocache.timeout, and the sound server goes on.
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
use Test::More;
use Time::HiRes qw(time);

# echocache.timeout here, and what else a statement takes at most on a machine that is not busy.
my $timeout = 1;
my $slack = 1.5;

my ($sound, $real) = map { memcached() } 1 .. 2;
my $proxy = proxy($real);
my $node = new_node('main', hosts => [$sound],
	conf => "echocache.timeout = '1s'\nechocache.lease = '3s'\nechocache.retry_interval = '10ms'\nechocache.max_write_through = 12\nlog_statement = none\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, title text);
	SELECT echocache_attach('session');
	INSERT INTO session SELECT g, 'first' FROM generate_series(1, 13) g});
my $judge = session($node);
my $round = 0;
my $longest;

# Run a statement; keep how long the longest of them takes.
sub timed
{
	my ($sql) = @_;
	my $result;
	my $took = EchoCache::seconds(sub { $result = $s->run($sql) });

	$longest = $took if $took > $longest;
	return $result;
}

sub row { my ($id) = @_; return qq({"id":$id,"title":"round $round"}); }

# The servers are the sound one and this.
sub hosts
{
	my ($bad) = @_;

	setting($s, 'echocache.hosts' => join ',', $sound->address, $bad);
	wait_for('the new servers', sub { return $s->run('SELECT server FROM echocache_servers') eq join "\n", $sound->address, $bad });
	wait_state($s, 'UP', $sound);
	return;
}

# Tests: with this server beside the sound one, every row is right, in time.
sub bearable
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @wrong;

	$longest = 0;
	for my $id (1 .. 12)
	{
		$round++;
		timed("UPDATE session SET title = 'round $round' WHERE id = $id");
		# Again, since the worker may have found it sound meanwhile.
		for (1 .. 2)
		{
			my $read = timed("SELECT echocache_get_session($id)");
			push @wrong, "session:$id is $read, not " . row($id) if $read ne row($id);
		}
	}
	# A bulk, whose markers are quiet, and a commit that writes through.
	for my $which ('true', 'id <= 12')
	{
		$round++;
		timed("UPDATE session SET title = 'round $round' WHERE $which");
		my $read = timed('SELECT session FROM echocache_get_sessions(ARRAY(SELECT generate_series(1, 12)))');
		push @wrong, "get_sessions: $read" if $read ne join "\n", map { row($_) } 1 .. 12;
	}
	is_deeply(\@wrong, [], "$what: every read is right");
	in_time($judge, $longest, $timeout + $slack, 'and no statement waits beyond the deadline');
	# None at all would mean that nothing is cached any more.
	cmp_ok(scalar(grep { my $v = $sound->settled("session:$_", 0.5); defined $v && $v eq row($_) } 1 .. 12), '>', 0,
		'the other server holds its documents');
	is($s->run("SELECT state FROM echocache_servers WHERE server = '@{[ $sound->address ]}'"), 'UP', 'and is UP');
	return;
}

#
# Servers that answer the worker well, and backends like this.
#
my %honest = (
	mn => sub { return "MN\r\n" },
	stats => sub { return "END\r\n" },
	lru_crawler => sub { return "END\r\n" },
	mg => sub { return "EN\r\n" },
	ms => sub { my ($opaque, $quiet) = @_; return $quiet ? '' : "HD c1 O$opaque\r\n" },
	md => sub { my ($opaque, $quiet) = @_; return $quiet ? '' : "HD O$opaque\r\n" });

# A server that is honest but for these verbs, and about the key by which the worker knows whose
# the keys are: else it would not be used at all.
sub impostor
{
	my %answer = (%honest, @_);
	my %kept;

	return rogue(answer => sub {
		return EchoCache::answer_requests(\%kept, $_[0], sub {
			my ($verb, $opaque, $rest) = @_;

			return $answer{$verb} ? $answer{$verb}->($opaque, $rest =~ / q\b/) : "ERROR\r\n";
		});
	});
}

# Each is [ what it does, the verbs it does it to, the answer for an opaque ].
for my $case (
	[ 'is honest, but forgets everything', [], undef ],
	[ 'answers a get with another opaque', ['mg'], sub { 'VA 2 c1 O' . ($_[0] + 1) . "\r\n{}\r\n" } ],
	[ 'answers a get without an opaque', ['mg'], sub { "VA 2 c1\r\n{}\r\n" } ],
	[ 'answers a miss with another opaque', ['mg'], sub { 'EN O' . ($_[0] + 1) . "\r\n" } ],
	[ 'answers everything with another opaque', [qw(mg ms md)], sub { 'HD c1 O' . ($_[0] + 1) . "\r\n" } ],
	[ 'answers a get with another key', ['mg'], sub { "VA 2 c1 O$_[0] ksession:99\r\n{}" } ],
	[ 'gives a value without a token', ['mg'], sub { "VA 2 O$_[0]\r\n{}\r\n" } ],
	[ 'announces a value of 4 GB', ['mg'], sub { "VA 4294967295 c1 O$_[0]\r\n{}\r\n" } ],
	[ 'announces one of 4 GB and two bytes', ['mg'], sub { "VA 4294967298 c1 O$_[0]\r\n{}\r\n" } ],
	[ 'announces one beyond 64 bits', ['mg'], sub { "VA 18446744073709551618 c1 O$_[0]\r\n{}\r\n" } ],
	[ 'announces a negative one', ['mg'], sub { "VA -2 c1 O$_[0]\r\n{}\r\n" } ],
	[ 'announces 200 MB and sends little', ['mg'], sub { "VA 200000000 c1 O$_[0]\r\n{}\r\n" } ],
	[ 'announces less than it sends', ['mg'], sub { "VA 2 c1 O$_[0]\r\n{\"a\":1}\r\n" } ],
	[ 'ends a value in something else', ['mg'], sub { "VA 2 c1 O$_[0]\r\n{}EN\r\n" } ],
	[ 'sends no line end', [qw(mg ms md)], sub { "HD c1 O$_[0]" } ],
	[ 'sends a line of 100 kB', [qw(mg ms)], sub { 'HD ' . 'x' x 100_000 } ],
	[ 'sends flags without end', [qw(mg ms)], sub { 'HD c1' . " O$_[0]" x 300 . "\r\n" } ],
	[ 'sends NUL bytes', [qw(mg ms)], sub { "\0" x 100 . "\r\n" } ],
	[ 'sends random bytes', [qw(mg ms)], sub { join '', map { chr(($_ * 7919 + $_[0] * 31) % 256) } 1 .. 500 } ],
	[ 'gives values that are no document', ['mg'], sub { "VA 5 c1 O$_[0]\r\n\xff\xfe{}\0\r\n" } ],
	[ 'gives documents that are no UTF-8', ['mg'], sub { "VA 4 c1 O$_[0]\r\n{\xff\xfe}\r\n" } ],
	[ 'gives empty values', ['mg'], sub { "VA 0 c1 O$_[0]\r\n\r\n" } ],
	[ 'confirms a set without a token', ['ms'], sub { "HD O$_[0]\r\n" } ],
	[ 'confirms a set with the token 0', ['ms'], sub { "HD c0 O$_[0]\r\n" } ],
	[ 'confirms a set with a token beyond 64 bits', ['ms'], sub { "HD c99999999999999999999 O$_[0]\r\n" } ],
	[ 'confirms a set twice', ['ms'], sub { "HD c1 O$_[0]\r\n" x 2 } ],
	[ 'answers a set as if it were a get', ['ms'], sub { "VA 2 c1 O$_[0]\r\n{}\r\n" } ],
	[ 'refuses every set', ['ms'], sub { "NS O$_[0]\r\n" } ],
	[ 'says that nothing is found', [qw(ms md)], sub { "NF O$_[0]\r\n" } ],
	[ 'is out of memory', ['ms'], sub { "SERVER_ERROR out of memory storing object\r\n" } ],
	[ 'refuses what is quiet', ['ms'], sub { my ($opaque, $quiet) = @_; $quiet ? "NS O$opaque\r\n" : "HD c1 O$opaque\r\n" } ],
	[ 'is out of memory for what is quiet', ['ms'],
		sub { my ($opaque, $quiet) = @_; $quiet ? "SERVER_ERROR out of memory storing object\r\n" : "HD c1 O$opaque\r\n" } ],
	[ 'answers what is quiet, out of turn', ['ms'], sub { my ($opaque) = @_; 'HD c1 O' . ($opaque + 3) . "\r\nHD c1 O$opaque\r\n" } ],
	[ 'knows no command of ours', [qw(mg ms md)], sub { "ERROR\r\n" } ],
	[ 'blames us', [qw(mg ms md)], sub { "CLIENT_ERROR bad command line format\r\n" } ],
	[ 'hides its keys', ['lru_crawler'], sub { "ERROR lru crawler disabled\r\n" } ],
	[ 'lists keys that are none', ['lru_crawler'],
		sub { "key=session:%zz exp=-1\nkey= exp=\nkey=session%3A" . 'x' x 300 . " exp=1\nkey=session:%00 exp=1\nEND\r\n" } ],
	[ 'has settings from another world', ['stats'],
		sub { "STAT item_size_max -1\r\nSTAT item_size_max 99999999999999999999999\r\nSTAT item_size_max x\r\nEND\r\n" } ])
{
	my ($what, $verbs, $answer) = @$case;
	my $bad = impostor(map { $_ => $answer } @$verbs);

	hosts($bad->address);
	wait_for('a connection', sub { return $bad->connections > 0 });
	wait_state($s, 'UP') unless grep { /^(?:lru_crawler|stats)$/ } @$verbs;
	bearable("a server that $what");
	$bad->stop;
}

#
# One that has no memory for a marker, and hangs up when the old document is to go instead.
#
{
	my $row = 'SELECT row_to_json(s) FROM session s WHERE id = 1';
	my $old = $s->run($row);
	my $bad = impostor(
		mg => sub { 'VA ' . length($old) . " c1 O$_[0]\r\n$old\r\n" },
		ms => sub { return "SERVER_ERROR out of memory storing object\r\n" },
		md => sub { return EchoCache::Rogue::HANG_UP });

	hosts($bad->address);
	wait_state($s, 'UP');
	is($s->run('SELECT echocache_get_session(1)'), $old, 'a server that has a document');
	$s->run("UPDATE session SET title = 'newer' WHERE id = 1");
	isnt($s->run($row), $old, 'which is changed');
	is($s->run('SELECT echocache_get_session(1)'), $s->run($row), 'and neither takes the marker nor confirms that it is gone: it is not believed');
	$bad->stop;
}

#
# The real thing behind a bad line: hanging up at every position of an answer, and
# of a request.
#
hosts($proxy->address);
wait_state($s, 'UP');
$s->run('SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session))');
# Not 13, which is not there after the TRUNCATE below.
my ($id) = grep { $_ <= 12 } map { /^session:(\d+)/ } $real->keys;
ok(defined $id, 'there is a document on the server behind the proxy');
for my $case ([ 'down', 80 ], [ 'up', 120 ])
{
	my ($way, $end) = @$case;
	my @wrong;
	my %cut;

	$longest = 0;
	for (my $n = 0; $n < $end; $n += 2)
	{
		$round++;
		# A hit, a commit, and a fill, each cut off after that many bytes.
		for my $what (qw(hit commit fill))
		{
			wait_state($s, 'UP');
			wait_for('the document to be cached', sub { return $s->run("SELECT echocache_get_session($id)") eq ($real->get("session:$id") // '') })
			  if $what eq 'hit';
			my $expect = $what eq 'hit' ? $real->get("session:$id") : row($id);
			$real->delete("session:$id") if $what eq 'fill';
			$proxy->tell("cut $way $n");
			timed("UPDATE session SET title = 'round $round' WHERE id = $id") if $what eq 'commit';
			my $read = timed("SELECT echocache_get_session($id)");
			push @wrong, "$what, cut after $n bytes: $read, not $expect" if $read ne $expect;
			$cut{$what}++ if $s->run('SELECT bool_and(state = \'UP\') FROM echocache_servers') ne 't';
			$proxy->tell('pass');
		}
		wait_state($s, 'UP');
		my $plain = $real->get("session:$id") // 'null';
		push @wrong, "cut after $n bytes: a plain client finds $plain" if $plain ne 'null' && $plain ne row($id);
	}
	is_deeply(\@wrong, [], "the line is cut at every position on the way $way: every read is right");
	is(scalar(grep { ($cut{$_} // 0) > 4 } qw(hit commit fill)), 3, 'in the middle of hits, commits and fills')
	  or diag(explain(\%cut));
	in_time($judge, $longest, $timeout + $slack, 'and no statement waits beyond the deadline');
}

#
# Drop by drop: every byte is in time, and there is no end to them.
#
wait_state($s, 'UP');
$s->run('SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session))');
for my $ms (2000, 200)
{
	wait_state($s, 'UP');
	$proxy->tell("trickle down $ms");
	bearable("a server that sends a byte every $ms ms");
	$proxy->tell('pass');
}
for my $case ([ 'detaching', 'SELECT echocache_detach()' ], [ 'attaching', q{SELECT echocache_attach('session')} ],
	[ 'TRUNCATE', 'TRUNCATE session' ])
{
	my ($what, $sql) = @$case;

	wait_state($s, 'UP');
	# Some that nobody knows, so that there is something to tell.
	$real->set("session:x$_", '{}') for 1 .. 20;
	$proxy->tell('trickle down 200');
	$s->send($sql);
	my $took = EchoCache::seconds(sub {
		local $EchoCache::patience = 20;
		# Idle after that statement, not before.
		eval { wait_for($what, sub { return $judge->run("SELECT state = 'idle' AND starts_with(query, \$\$$sql\$\$) FROM pg_stat_activity WHERE pid = " . $s->pid) eq 't' }) };
	});
	$judge->run('SELECT pg_cancel_backend(' . $s->pid . ')');
	isnt($s->finish, undef, "$what, for which such a server is asked for its keys");
	in_time($judge, $took, $timeout + $slack, 'waits no longer');
	$proxy->tell('pass');
}
wait_state($s, 'UP');
$s->run('SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session))');
$proxy->tell('trickle down 200');
$s->run(q{INSERT INTO session SELECT g, 'trickle' FROM generate_series(1, 12) g ON CONFLICT DO NOTHING});
$sound->stop;
$s->run("UPDATE session SET title = 'trickle again'");
$sound->start;
eventually('while the worker asks such a server for its keys, another one comes back', sub {
	return $s->run("SELECT state FROM echocache_servers WHERE server = '@{[ $sound->address ]}'") eq 'UP';
});
$proxy->tell('pass');
wait_state($s, 'UP');
coherent($s, [ $sound, $real ], 'the cache is what the table is', filled => 1);

# Answers that are late, but in time: three of them make one wait.
setting($s, 'echocache.timeout' => '2 s');
$round++;
$s->run("UPDATE session SET title = 'round $round'");
$real->flush;
$proxy->tell('delay down 1500');
$longest = 0;
is(timed("SELECT echocache_get_session($id)"), row($id), 'a server that answers just in time: the read is right');
in_time($judge, $longest, 2 + $slack, 'and waits no longer than for one answer that does not come');
$proxy->tell('pass');
setting($s, 'echocache.timeout' => '1 s');
wait_state($s, 'UP');

#
# Servers that cannot be reached in unusual ways.
#
{
	# Whose queue of connections is full: the kernel does not even answer.
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 1) or die $!;
	my @queue;
	my $full = 0;

	while (!$full && @queue < 100)
	{
		my $one = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 0.3);
		$full = 1 unless $one;
		push @queue, $one;
	}
	ok($full, 'a queue of connections is full');
	hosts("127.0.0.1:$port");
	bearable('a server whose listen backlog is full');
}

# Whose name means nothing.
hosts('no-such-host.invalid:11211');
bearable('a server whose name does not resolve');
like($s->run(q{SELECT last_error FROM echocache_servers WHERE server LIKE 'no-such-host%'}), qr/does not resolve/, 'and says so');

# In the end.
hosts($proxy->address);
wait_state($s, 'UP');
coherent($s, [ $sound, $real ], 'in the end the cache is what the table is', filled => 1);
$_->quit for $s, $judge;
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|server process .* exited with exit code/, 'nothing has crashed');
$node->stop;
done_testing();
