# dns+name: each address of a name is a server of its own.  One that comes or goes moves its share
# of the keys, and only that is purged; all others stay where they are, and are what the table is.
# What a resolver says in another order, or does not say, changes nothing.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PrivateNames;

use EchoCache;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $port = 11211;
my ($one, $two, $three) = map { memcached(host => "127.0.0.$_", port => $port) } 2 .. 4;
my %number = ($one => 2, $two => 3, $three => 4);

hosts('127.0.0.3 cache', '127.0.0.2 cache');
my $node = new_node('main', hosts => ["dns+cache:$port"],
	conf => "echocache.max_write_through = 10\nlog_statement = none\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, title text);
	SELECT echocache_attach('session');
	INSERT INTO session SELECT g, 'first' FROM generate_series(1, 300) g});
my $title = 'first';

sub row { my ($id, $title) = @_; return qq({"id":$id,"title":"$title"}); }
sub generations { my @all = slurp_file($node->logfile) =~ /echocache: the cache is on/g; return scalar @all; }

# What echocache_servers shows, without the port.
sub servers
{
	my $all = $s->run(q{SELECT string_agg(server, ' ') FROM echocache_servers});

	return $all =~ s/:$port\b//gr;
}

# These, and no others, are UP.
sub up
{
	my (@up) = @_;
	my $all = join ' ', map { "127.0.0.$number{$_}" } @up;

	wait_for("$all to be UP", sub {
		return servers() eq $all && $s->run('SELECT DISTINCT state FROM echocache_servers') eq 'UP';
	});
	return;
}

# Have all names looked up at once, by this hosts file.
sub look_up
{
	hosts(@_);
	$s->run('SELECT pg_reload_conf()');
	return;
}

# Every document is loaded, and each is on one server: which ids are on each of these.
sub placed
{
	my (@servers) = @_;
	my @ids;

	$s->run(q{SELECT echocache_warm('session')});
	@ids = map { my $m = $_; join ' ', sort { $a <=> $b } map { /^session:(\d+)/ } $m->keys } @servers;
	return @ids;
}

# The token of each document on a server: another one if it has been stored anew.
sub tokens
{
	my ($memcached) = @_;
	my %token;

	for my $key ($memcached->keys)
	{
		my ($cas) = $memcached->exchange("gets $key\r\n", qr/END\r\n/) =~ / (\d+)\r\n/;

		$token{$key} = $cas if defined $cas;
	}
	return \%token;
}

# Test: the documents of a server that have stayed there have not been touched.
sub kept
{
	my ($before, $memcached, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $after = tokens($memcached);
	my @kept = grep { exists $after->{$_} } keys %$before;

	is_deeply($after, { map { $_ => $before->{$_} } @kept }, $name);
	return scalar @kept;
}

# Test: SQL reads what is committed, also of another change.
sub right
{
	my ($name, @servers) = @_;
	my $all_up = $s->run(q{SELECT bool_and(state = 'UP') FROM echocache_servers}) eq 't';
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $read = sub {
		return $s->run(qq{SELECT count(*) FROM session s
			WHERE echocache_get('session', s.id::text)::text IS DISTINCT FROM row_to_json(s)::text});
	};

	is($read->(), 0, "$name: SQL reads what is committed");
	$title = $name =~ tr/a-z0-9 //cdr;
	$s->run("UPDATE session SET title = '$title' WHERE id = $_") for 1 .. 5;
	$s->run("UPDATE session SET title = '$title'");
	is($read->(), 0, 'and what is committed now');
	coherent($s, [@servers], 'the cache is what the table is', filled => $all_up);
	return;
}

#
# Each address is a server.
#
up($one, $two);
my ($on_a, $on_b) = placed($one, $two);
is(join(' ', sort { $a <=> $b } split(' ', $on_a), split(' ', $on_b)), join(' ', 1 .. 300), 'two addresses: each document is on one of two servers');
cmp_ok(scalar split(' ', $on_a), '>', 50, 'and each server has its share');
right('two addresses', $one, $two);

# A plain list of the same addresses is the same placement, and moves nothing.
placed($one, $two);
my ($tokens_a, $tokens_b) = map { tokens($_) } $one, $two;
my $log = -s $node->logfile;
setting($s, 'echocache.hosts' => "127.0.0.2:$port,127.0.0.3:$port");
wait_for('the list to be published', sub { return slurp_file($node->logfile, $log) =~ /the cache is on/; });
up($one, $two);
is(kept($tokens_a, $one, 'a list of the same addresses: what is cached stays') + kept($tokens_b, $two, 'on both'), 300, 'all of it');
$log = -s $node->logfile;
setting($s, 'echocache.hosts' => "dns+cache:$port");
wait_for('the name to be looked up', sub { return servers() eq '127.0.0.2 127.0.0.3' && slurp_file($node->logfile, $log) =~ /2 servers\n/; });
up($one, $two);

# The order of what a resolver says.
placed($one, $two);
my $before = generations();
look_up('127.0.0.2 cache', '127.0.0.3 cache', '127.0.0.3 cache', '127.0.0.9 other');
setting($s, 'echocache.hosts' => "dns+cache:$port,127.0.0.2:$port:1");
wait_for('the list to be published', sub { return generations() > $before; });
up($two, $one);
is($s->run('SELECT count(*) FROM echocache_servers'), 2, 'an address that is also in the list by itself is one server');
setting($s, 'echocache.hosts' => "dns+cache:$port");
wait_for('the list to be published', sub { return generations() > $before + 1; });
up($one, $two);
$before = generations();
for my $turn (1 .. 3)
{
	look_up($turn % 2 ? ('127.0.0.3 cache', '127.0.0.2 cache') : ('127.0.0.2 cache', '127.0.0.3 cache'));
	sleep 1;
}
is(generations(), $before, 'the same addresses in another order are no change');

#
# One comes, with old documents.
#
placed($one, $two);
($tokens_a, $tokens_b) = map { tokens($_) } $one, $two;
$three->set("session:$_", row($_, 'stale')) for 1 .. 300;
look_up('127.0.0.4 cache', '127.0.0.3 cache', '127.0.0.2 cache');
up($one, $two, $three);
is(generations(), $before + 1, 'an address comes: one new generation');
is(join(' ', $three->keys), '', 'what it had is purged');
my $kept = kept($tokens_a, $one, 'what stays on the first server is not purged') + kept($tokens_b, $two, 'nor on the second');
cmp_ok($kept, '>', 120, "most documents stay ($kept of 300)");
cmp_ok($kept, '<', 280, 'and a share moves');
my @placed = placed($one, $two, $three);
is(scalar split(' ', $placed[2]), 300 - $kept, 'just what was removed is on the new server');
right('three addresses', $one, $two, $three);

#
# One goes, and comes back with what it had.
#
placed($one, $two, $three);
($tokens_a, $tokens_b) = map { tokens($_) } $one, $two;
look_up('127.0.0.2 cache', '127.0.0.3 cache');
up($one, $two);
is(kept($tokens_a, $one, 'an address goes: what is on the first server stays') + kept($tokens_b, $two, 'and on the second'), $kept, 'all of it');
is_deeply([ placed($one, $two) ], [ $on_a, $on_b ], 'its share is where it was before');
right('one less', $one, $two);
isnt(scalar(grep { /^session/ } $three->keys), 0, 'what the third had is still there, and old');
look_up('127.0.0.3 cache', '127.0.0.2 cache', '127.0.0.4 cache');
up($one, $two, $three);
right('back with old documents', $one, $two, $three);

# It is gone, and its address as well.
$three->stop;
$s->run('SELECT echocache_get_sessions(ARRAY(SELECT id FROM session))');
wait_for('that to be known', sub { return $s->run(q{SELECT count(*) FROM echocache_servers WHERE state <> 'UP'}) == 1; });
right('an address is away', $one, $two);
look_up('127.0.0.3 cache', '127.0.0.2 cache');
up($one, $two);
right('and gone', $one, $two);

#
# The resolver does not say.
#
placed($one, $two);
$before = generations();
$log = -s $node->logfile;
look_up('127.0.0.9 other');
eventually('a name without an address: last_error says so', sub {
	return $s->run('SELECT DISTINCT last_error FROM echocache_servers') eq 'the name "cache" could not be looked up: its addresses are those of before';
});
up($one, $two);
is(generations(), $before, 'the addresses of before stay');
is(scalar(() = slurp_file($node->logfile, $log) =~ /LOG:.*the name "cache" could not be looked up/g), 1, 'and the log says so');
right('not looked up', $one, $two);
look_up('127.0.0.3 cache', '127.0.0.2 cache');

# It never has said.
setting($s, 'echocache.hosts' => "dns+unknown:$port");
wait_for('the list to be published', sub { return servers() eq 'dns+unknown'; });
$s->run("UPDATE session SET title = 'nowhere' WHERE id <= 3");
$s->run('SELECT echocache_get_session(1)');
eventually('a name that never had an address is a server that is DOWN', sub {
	return $s->run('SELECT state, last_error FROM echocache_servers') eq 'DOWN|the host name does not resolve';
});
hosts('127.0.0.2 unknown', '127.0.0.3 unknown');
up($one, $two);
right('found without a reload', $one, $two);

#
# More than there is room for.
#
$log = -s $node->logfile;
hosts((map { "127.0.1.$_ many" } 1 .. 70), '127.0.0.2 cache');
setting($s, 'echocache.hosts' => "dns+many:$port,127.0.0.2:$port,dns+cache:11212");
eventually('there are as many servers as there can be', sub { return $s->run('SELECT count(*) FROM echocache_servers') == 64; });
eventually('the log says what is left out', sub { return slurp_file($node->logfile, $log) =~ /"dns\+many:$port" has other addresses: 64, of which 62 are servers of it\n.*DETAIL:  An address is a server once, and there can be at most 64 servers/; });
eventually('each other entry has its place', sub { return $s->run(q{SELECT count(*) FROM echocache_servers WHERE server ~ '^127.0.0.2:'}) == 2; });

#
# What cannot be a name.
#
for my $bad ("dns+[::1]:$port", 'dns+/tmp/memcached', 'dns+', 'dns+:11211', 'dns+a,dns+a', 'DNS+a')
{
	like($s->error("ALTER SYSTEM SET echocache.hosts = '$bad'"), qr/^22023/, "'$bad' is refused");
}

done_testing();
