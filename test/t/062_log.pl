# What a role without rights, or the owner of a table, does again and again is in the log once in a
# minute at most; connections are not in it at all.  What the log says last of a server's state is
# so, however often it has changed.
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
use Time::HiRes qw(time);

my $memcached = memcached();
my $server = $memcached->address;
my $node = new_node('main', hosts => [$memcached],
	conf => "echocache.lease = '1s'\nmax_prepared_transactions = 5\nlog_statement = none\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, title text);
	SELECT echocache_attach('session', 'session');
	INSERT INTO session VALUES (1, 'secret');
	CREATE ROLE stranger;
	CREATE ROLE owner;
	GRANT ALL ON SCHEMA public TO owner;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO owner});
my $started = time;
my $log = -s $node->logfile;

wait_state($s, 'UP');

# Every line of the log that is no statement's error, without numbers: how often it is there.
sub lines
{
	my %lines;

	for my $line (slurp_file($node->logfile, $log) =~ /(?:LOG|WARNING|INFO|NOTICE):\s+(.*)/g)
	{
		next if $line =~ /received SIGHUP|parameter "|checkpoint/;
		$line =~ s/\d+/N/g;
		$lines{$line}++;
	}
	return \%lines;
}

sub repeated
{
	my $lines = lines();

	return join "\n", map { "$lines->{$_} times: $_" } grep { $lines->{$_} > 1 } sort keys %$lines;
}

#
# Their worst.
#
my $stranger = session($node, sql => 'SET SESSION AUTHORIZATION stranger');
my $owner = session($node, sql => q{SET SESSION AUTHORIZATION owner;
	CREATE TABLE risky (id int PRIMARY KEY, n int, t text);
	SELECT echocache_attach('risky', 'risky', filter => '10 / n > 0');
	CREATE TABLE built (id int PRIMARY KEY, n int);
	CREATE FUNCTION built_document(built) RETURNS json STABLE LANGUAGE sql SET search_path = pg_catalog, pg_temp
		AS 'SELECT json_build_object(''id'', $1.id, ''n'', 1 / $1.n)';
	SELECT echocache_attach('built', 'built', document => 'built_document');
	INSERT INTO risky VALUES (1, 1, ''), (2, 2, repeat('x', 3000000));
	INSERT INTO built VALUES (1, 1)});
my @strangers = (
	q{SELECT echocache_get('session', '1')},
	q{SELECT echocache_get('nothing', '1')},
	q{SELECT echocache_get_session(1)},
	q{SELECT echocache_get('session', repeat('x', 100000))},
	q{SELECT echocache_kv_get('session:1')},
	q{SELECT echocache_kv_set('session:1', 'x')},
	q{SELECT echocache_flush_all()},
	q{SELECT * FROM echocache_servers});
my @owners = (
	q{UPDATE risky SET n = 0 WHERE id = 1},
	q{UPDATE risky SET n = 1 WHERE id = 1},
	q{UPDATE risky SET t = t || 'x' WHERE id = 2},
	q{SELECT length(echocache_get('risky', '2')::text)},
	q{SELECT echocache_get('risky', 'no number')},
	q{UPDATE built SET n = 0},
	q{UPDATE built SET n = 1},
	q{SELECT echocache_warm('risky')},
	q{SELECT echocache_verify('risky')},
	q{ALTER TABLE risky DISABLE TRIGGER ALL; ALTER TABLE risky ENABLE ALWAYS TRIGGER ALL},
	q{SELECT echocache_kv_set('mine', repeat('x', 2000000))},
	q{BEGIN; UPDATE risky SET t = '' WHERE id = 1; PREPARE TRANSACTION 'p'},
	q{COMMIT PREPARED 'p'},
	q{SELECT echocache_disconnect()});

for my $round (1 .. 5)
{
	$stranger->attempt($_) for @strangers;
	$owner->attempt($_) for @owners;
	# the server comes and goes, and all go on
	$memcached->stop;
	$owner->attempt($_) for @owners;
	$stranger->attempt($_) for @strangers;
	$memcached->start;
	wait_state($s, 'UP');
	session($node)->quit for 1 .. 3;
}
my $all = lines();
cmp_ok(scalar(grep { /^echocache: server "\S+" is down/ } keys %$all), '>', 0, 'the log says that the server is DOWN');
SKIP:
{
	skip 'this machine took more than a minute', 1 if time - $started > 55;
	is(repeated(), '', 'nothing is there twice');
}
is(join(' ', grep { /connected to server/ } keys %$all), '', 'no connection is there');

#
# What the log says last is so, if it lasts: at once, or when a minute is over.
#
my $last = sub { my @all = slurp_file($node->logfile, $log) =~ /echocache: server "\Q$server\E" is (up|down)/g; return $all[-1]; };
my $down = sub {
	$memcached->stop;
	$s->run('SELECT echocache_get_session(1)');
	wait_state($s, 'DOWN');
	wait_for('the log to say so', sub { return $last->() eq 'down'; });
};
$down->();
pass('the server is DOWN, and that is what the log says');
$memcached->start;
wait_state($s, 'UP');
wait_for('the log to say so', sub { return $last->() eq 'up'; });
pass('it is UP again, and that is what the log says');
$down->();
like(slurp_file($node->logfile, $log), qr/DETAIL:  It went down \d+ times since this was logged last\./, 'and DOWN, with how often it was between');

done_testing();
