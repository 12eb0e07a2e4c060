# Clients of memcached, in the languages that people use: each reads our
# documents, a marker and a miss for what they are, takes a server that is down
# for a miss, and finds keys on several weighted servers where we put them, or
# does not, as doc/clients.md says.  Its lines of code are those in doc/clients.md.
#
# A client is a program in this folder, PROGRAM HOST:PORT:WEIGHT,... ID..., that
# prints a line of JSON for each id: what it got under "text", and what its
# language made of that, or a stand-in for the database's answer, under "session".
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use IO::Socket::IP;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $here = $FindBin::RealBin;
my $build = PostgreSQL::Test::Utils::tempdir();
my $count = 300;
my %proxy;

# How each is started.  Alone: it does not place keys as we do.
my @clients = (
	{ name => 'libmemcached', run => ["$build/c-libmemcached"] },
	{ name => 'pylibmc', run => [ '/usr/bin/python3', "$here/python-pylibmc.py" ] },
	{ name => 'pymemcache', run => [ '/usr/bin/python3', "$here/python-pymemcache.py" ] },
	{ name => 'php-memcached', run => [ 'php', "$here/php-memcached.php" ] },
	{ name => 'memjs', run => [ 'node', "$here/node-memjs.js" ] },
	{ name => 'node memcached', run => [ 'node', "$here/node-memcached.js" ] },
	{ name => 'dalli', run => [ 'ruby', "$here/ruby-dalli.rb" ], alone => 1 },
	{ name => 'Cache::Memcached::Fast', run => [ 'perl', "$here/perl-cache-memcached-fast.pl" ], alone => 1, proxy => 1 },
	{ name => 'gomemcache', run => ["$build/go-gomemcache"] });

# Those that are compiled or installed, meanwhile.
my $make_log = '';
my $make = IPC::Run::start(
	[ 'make', '-k', '-j2', '-C', $here, "BUILD=$build", 'clients' ],
	'<', \undef, '>', \$make_log, '2>&1', IPC::Run::timeout(1200));
$ENV{NODE_PATH} = "$build/node_modules";

# Start a client; finish() gives what it said, by id.
sub start
{
	my ($client, $servers, @ids) = @_;
	my %run = (client => $client, out => '', err => '');

	$run{handle} = IPC::Run::start([ @{ $client->{run} }, $servers, @ids ],
		'<', \undef, '>', \$run{out}, '2>', \$run{err}, IPC::Run::timeout(120));
	return \%run;
}

sub finish
{
	my ($run) = @_;
	my %said;

	my $done = eval { $run->{handle}->finish; 1 } or $run->{err} .= $@;
	diag "$run->{client}->{name}: $run->{err}" if $run->{err} ne '';
	if (!$done || $run->{handle}->full_result(0) != 0)
	{
		$run->{handle}->kill_kill unless $done;
		return {};
	}
	for my $line (split /\n/, $run->{out})
	{
		my $one = eval { decode_json($line) } or return {};
		$said{ $one->{id} } = $one;
	}
	return \%said;
}

# What each client says, two of them at a time: a list of pairs.  Some take a server that has
# not answered within half a second for a miss: on a busy machine they are asked again
# until they have got something for so many of the ids; not so one that looks in the wrong
# places.
sub ask
{
	my ($clients, $found, $servers, @ids) = @_;
	my (@running, @said);
	my $hear = sub {
		my ($run) = @_;
		my $client = $run->{client};
		my $said = finish($run);

		for (2 .. 5)
		{
			last if ($client->{alone} && $servers =~ /,/) || $found <= grep { defined $said->{$_}->{text} } @ids;
			note "$client->{name} is asked again";
			$said = finish(start($client, $servers, @ids));
		}
		push @said, [ $client, $said ];
	};

	for my $client (@$clients)
	{
		push @running, start($client, $servers, @ids);
		$hear->(shift @running) if @running >= 2;
	}
	$hear->($_) for @running;
	return @said;
}

# Test: the client has got exactly this document, and has decoded it.  The bytes
# are too many to print.
sub is_document
{
	my ($said, $bytes, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $text = $said->{text} // 'nothing';

	utf8::encode($text);
	ok($text eq $bytes, "$name: byte for byte") || diag(sprintf '%d bytes instead of %d: %.200s', length $text, length $bytes, $text);
	return ok(is_same($said->{session}, decode_json($bytes)), "$name: decoded") || diag(substr((explain($said->{session}))[0], 0, 500));
}

sub is_same
{
	my $json = JSON::PP->new->canonical->allow_nonref;

	return $json->encode($_[0]) eq $json->encode($_[1]);
}

# Test: the client has got just this text, or none, and asks the database.
sub is_nothing
{
	my ($said, $text, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is_deeply([ $said->{text}, $said->{session} ], [ $text, { from => 'database' } ], $name);
}

my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached], conf => "log_statement = none\nechocache.marker_ttl = '1h'\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id text PRIMARY KEY, title text, more json, at timestamptz DEFAULT '2026-03-01 12:00+01', score numeric, active boolean);
	SELECT echocache_attach('session')});
wait_state($s, 'UP');
my $made = eval { $make->finish; $make->full_result(0) == 0 };
if (!defined $made)
{
	$make_log .= $@;
	$make->kill_kill;
}
# One failure, whatever the reason: clients that are not there are not asked.  npm writes the
# hidden lock file last.
my (@there, @absent);
for my $client (@clients)
{
	my $file = $client->{run}->[0];

	$file = "$build/node_modules/.package-lock.json" if $file eq 'node';
	push @{ $made || $file !~ m{^\Q$build\E/} || -e $file ? \@there : \@absent }, $client;
}
ok($made, 'clients are compiled and installed')
  || diag('left out: ', join(', ', map { $_->{name} } @absent),
	'; memjs and memcached come from npm, whose registry must be within reach', "\n", $make_log);

#
# What they read: documents, a marker, a miss.
#
my %id = (
	plain => 'plain',
	percent => 'Z%C3%BCrich%20100%20%25/a?b',
	large => 'large',
	odd => 'odd',
	numbers => 'numbers');

$s->run(q{INSERT INTO session VALUES ('plain', 'Lisbon')});
$s->run(q{INSERT INTO session VALUES ('Zürich 100 %/a?b', 'Zürich, 東京, Łódź, القاهرة, 🙂👩‍👩‍👧')});
$s->run(q{INSERT INTO session SELECT 'large', string_agg('Straße "' || g || '" \\ 🙂 ', '') FROM generate_series(1, 6000) g});
$s->run(q{INSERT INTO session VALUES ('odd', E'a "quoted" \\\\ b\n\t\r\b\f\u0001\u007f\u2028\ufeff </script> %41 \\\\u0041', '{"empty": {}, "none": [], "": null}')});
$s->run(q{INSERT INTO session VALUES ('numbers', '', '[1, -0.5, 9007199254740991, true, null, "1"]', DEFAULT, 12.5, true)});
my %document = map { split /\t/, $_, 2 } split /\n/, $s->run(q{SELECT id || E'\t' || row_to_json(session) FROM session});
$document{percent} = delete $document{'Zürich 100 %/a?b'};
holds($memcached, "session:$id{$_}", $document{$_}, "the document $_ is cached") for sort keys %id;
cmp_ok(length $document{large}, '>', 140 * 1024, 'one of them is large');

# A bulk write leaves markers.
$s->run("INSERT INTO session SELECT g, 'title ' || g FROM generate_series(0, $count - 1) g");
marked($memcached, 'session:7', 'there is a marker');
misses($memcached, 'session:absent', 'and a key without anything');

for (ask(\@there, 1 + keys %id, $memcached->address . ':1', values %id, '7', 'absent'))
{
	my ($client, $said) = @$_;

	is_document($said->{ $id{$_} }, $document{$_}, "$client->{name}: the document $_") for sort keys %id;
	is_nothing($said->{7}, 'null', "$client->{name}: a marker sends it to the database");
	is_nothing($said->{absent}, undef, "$client->{name}: so does a miss");
}

# What the database then answers they get the next time.
my $answer = $s->run('SELECT echocache_get_session(7)');
like($answer, qr/"title 7"/, 'echocache_get_session answers instead of the marker');
is_document($_->[1]->{7}, $answer, "$_->[0]->{name}: after that the document")
  for ask(\@there, 1, $memcached->address . ':1', 7);

# Down, it is no worse than a miss.
my %up;
for my $client (@there)
{
	$up{ $client->{name} } = seconds(sub { finish(start($client, $memcached->address . ':1', 'plain', 'odd')) });
}
$memcached->stop;
for my $client (@there)
{
	my $said;
	my $took = seconds(sub { $said = finish(start($client, $memcached->address . ':1', 'plain', 'odd')) });

	is_nothing($said->{$_}, undef, "$client->{name}: so does memcached when it is down") for 'plain', 'odd';
	cmp_ok($took, '<', 10 + 2 * $up{ $client->{name} }, "$client->{name}: soon");
}

#
# Where they look on three servers with weights: those that are said to place as we
# do always find them.
#
sub placement
{
	my ($what, @servers) = @_;
	my @weight = (1, 2, 5);
	my $hosts = join ',', map { $servers[$_]->address . ":$weight[$_]" } 0 .. 2;
	my @ids = 0 .. $count - 1;

	setting($s, 'echocache.hosts' => $hosts);
	wait_for('the servers to appear', sub {
		return $s->run(q{SELECT string_agg(server || ':' || weight, ',' ORDER BY weight) FROM echocache_servers}) eq $hosts;
	});
	wait_state($s, 'UP', @servers);
	is($s->run(q{SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session WHERE id ~ '^\d'))}), $count,
		"$what: $count documents");
	my %where = map { my $server = $_; map { $_ => $server } $server->keys } @servers;
	is(scalar(grep { defined $where{"session:$_"} } @ids), $count, "$what: are in the cache");
	my %share;
	$share{ $_->address }++ for @where{ map { "session:$_" } @ids };
	note "$what: ", explain(\%share);
	ok($share{ $servers[2]->address } > $count / 2, "$what: most of them where the weight is");

	# How many of the documents a client has got; anything else must be a miss.
	my %row = map { split /\t/, $_, 2 } split /\n/, $s->run(q{SELECT id || E'\t' || row_to_json(session) FROM session});
	my $found = sub {
		my ($said) = @_;
		my @got = grep { defined $said->{$_}->{text} } @ids;

		return (grep { $said->{$_}->{text} ne $row{$_} } @got) ? 'wrong documents' : scalar @got;
	};
	for (ask(\@there, $count, $hosts, @ids))
	{
		my ($client, $said) = @$_;
		my $n = $found->($said);

		note "$client->{name} finds $n of $count";
		is(scalar keys %$said, $count, "$what: $client->{name} looks for all");
		if ($client->{alone})
		{
			like($n, qr/^\d+$/, "$what: $client->{name} finds nothing else");
			isnt($n, $count, "$what: $client->{name} looks for some in other places");
		}
		else
		{
			is($n, $count, "$what: $client->{name} finds all");
		}
	}

	# A proxy that places as libmemcached does serves those that do not.
	start_proxy($hosts);
	is($found->($_->[1]), $count, "$what: $_->[0]->{name} finds all by way of a proxy")
	  for ask([ grep { $_->{proxy} } @there ], $count, $proxy{address}, @ids);
	stop_proxy();
	return;
}

# Start nutcracker (twemproxy) before these servers.
sub start_proxy
{
	my ($hosts) = @_;
	my $address = '127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();
	my $file = "$build/nutcracker.yml";

	unlink $file;
	append_to_file($file, join "\n", 'sessions:', "  listen: $address", '  hash: md5', '  distribution: ketama',
		'  servers:', (map { "   - $_" } split /,/, $hosts), '');
	$proxy{address} = "$address:1";
	$proxy{handle} = IPC::Run::start(
		[ 'nutcracker', '-c', $file, '-o', "$build/nutcracker.log", '-a', '127.0.0.1', '-s', PostgreSQL::Test::Cluster::get_free_port() ],
		'<', \undef, '>', '/dev/null', '2>&1');
	wait_for('the proxy', sub { return IO::Socket::IP->new(PeerAddr => $address) });
	return;
}

sub stop_proxy
{
	my $handle = delete $proxy{handle} or return;

	$handle->kill_kill;
	return;
}

END
{
	my $exit_code = $?;
	stop_proxy();
	$? = $exit_code;
}

#
# doc/clients.md shows just these lines; comments at the beginning of a block are its own.
#
my ($section) = slurp_file("$here/../../doc/clients.md") =~ /^## How to read a session\n(.*)/ms;
my @blocks = $section =~ /^```\w+\n(.*?)^```$/gms;
is(scalar @blocks, scalar @clients, 'doc/clients.md shows each client');
for my $block (@blocks)
{
	my ($title, @lines) = split /\n/, $block;
	my ($file) = $title =~ m{^(?:#|//|/\*) ([\w.-]+)};
	my @program = map { s/^\s+//r } split /\n/, slurp_file("$here/$file");
	my @missing;

	# In this order.
	for my $line (map { s/^\s+//r } @lines)
	{
		shift @program while @program && $program[0] ne $line;
		push @missing, $line unless @program;
	}
	is_deeply(\@missing, [], "doc/clients.md has lines of $file");
}

# README's program, with a database to ask and calls of its function.
{
	my ($program) = slurp_file("$here/../../README.md") =~ /^```python\n(.*?)^```$/ms;
	my $server = memcached();
	my ($out, $err) = ('', '');

	$program =~ s/localhost:11211/$server->address/e or die 'README names no server';
	$server->set('shop.orders:1', '{"id":1}');
	$server->set('shop.orders:2', 'null');
	IPC::Run::run([ '/usr/bin/python3', '-' ], '<', \"$program\ndef from_database(id):\n    return f'ask for {id}'\n\nprint([order(id) for id in (1, 2, 3)])\n",
		'>', \$out, '2>', \$err, IPC::Run::timeout(120));
	is("$out$err", "[{'id': 1}, 'ask for 2', 'ask for 3']\n", 'README has a program that reads a document, a marker and a miss');
	$server->stop;
	IPC::Run::run([ '/usr/bin/python3', '-' ], '<', \"$program\ndef from_database(id):\n    return f'ask for {id}'\n\nprint(order(1))\n",
		'>', \$out, '2>', \$err, IPC::Run::timeout(120));
	is("$out$err", "ask for 1\n", 'and a server that is down for a miss');
}

placement('three servers', map { memcached() } 1 .. 3);

# Ketama leaves the default port out of a server's name.
my $net = join '.', 127, map { 1 + int rand 250 } 1 .. 2;
for (1 .. 3)
{
	die 'something listens on port 11211 of every address, the test needs that port of some of its own'
	  if IO::Socket::IP->new(PeerHost => "$net.$_", PeerPort => 11211);
}
placement('on the default port', map { memcached(host => "$net.$_", port => 11211) } 1 .. 3);

done_testing();
