# Lifetimes: what each TTL of an attachment, of a touch and of the setting means to
# memcached, and that a read renews it, in its one round trip, where that was asked for.
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

my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached], conf => "wal_level = replica\nmax_wal_senders = 5\nlog_statement = none\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, v int DEFAULT 0);
	INSERT INTO session VALUES (1), (2), (3)});
my $day = 24 * 3600;

# Test: the key has this long to live (-1: for ever), but for what has passed of it; memcached
# counts whole seconds, by a clock that may be two off from that of dates.
sub lives
{
	my ($key, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $ttl = $memcached->ttl($key);

	return ok(defined $ttl && ($expected == -1 ? $ttl == -1 : $ttl <= $expected + ($expected > 30 * $day ? 2 : 0) && $ttl >= $expected - ($expected > 20 ? 20 : 1)), $name)
	  || diag("$key has " . ($ttl // 'gone') . " s, expected $expected s");
}

# Set what it has left, as a plain client could.
sub leave
{
	my ($key, $seconds) = @_;

	return $memcached->exchange("mg $key T$seconds t\r\n", qr/\r\n/) =~ /^(?:HD|OK) t$seconds\r/ || die "no $key";
}

sub attach { my ($arguments) = @_; return $s->run("SELECT echocache_attach('session'$arguments)"); }

wait_state(do { attach(''); $s }, 'UP');
$s->run('SELECT echocache_detach()');

#
# Of an attachment: by a fill, by a commit.
#
for ([ 'NULL', 1800, 'NULL: echocache.ttl' ], [ q{'0'}, -1, '0: for ever' ], [ q{'90 min'}, 5400, 'minutes' ],
	[ q{'30 days'}, 30 * $day, '30 days' ], [ q{'30 days 1 second'}, 30 * $day + 1, 'more than 30 days, which memcached would take for a date' ],
	[ q{'400 days'}, 400 * $day, 'more than a year' ], [ q{'61.2 s'}, 62, 'part of a second is a whole one' ])
{
	my ($ttl, $seconds, $name) = @$_;

	attach(", ttl => $ttl");
	$s->run('SELECT echocache_get_session(1)');
	lives('session:1', $seconds, "$name: loaded by a read");
	$s->run('UPDATE session SET v = v + 1 WHERE id = 2');
	holds($memcached, 'session:2', $s->run('SELECT row_to_json(session) FROM session WHERE id = 2'), 'written through');
	lives('session:2', $seconds, "$name: by a commit");
	leave('session:1', 60);
	is($s->run('SELECT echocache_touch_session(1)'), 't', 'touched');
	lives('session:1', $seconds, "$name: by a touch without a lifetime");
	is($s->run('SELECT echocache_refresh_session(2)'), 't', 'refreshed');
	lives('session:2', $seconds, "$name: by a refresh");
	$s->run('SELECT echocache_detach()');
}
# Less than a second is one, not none.
attach(q{, ttl => '0.001 s'});
is($s->run('SELECT echocache_get_session(1)'), $s->run('SELECT row_to_json(session) FROM session WHERE id = 1'), 'a millisecond');
cmp_ok($memcached->ttl('session:1') // 0, '<=', 1, 'is at most a second');
eventually('after which it is gone', sub { return !defined $memcached->get('session:1') });
is($s->run('SELECT ttl FROM echocache_documents'), '00:00:01', 'the view shows what is in force');
$s->run('SELECT echocache_detach()');
for ([ q{'-1 s'}, 'negative' ], [ q{'-0.001 s'}, 'negative by a little' ], [ q{'1 month'}, 'a month, which may be any of 28 to 31 days' ], [ q{'1 year'}, 'a year' ],
	[ q{'25000 days'}, 'more than fits' ])
{
	like($s->error("SELECT echocache_attach('session', ttl => $_->[0])"), qr/^22023: a lifetime /, "attach: $_->[1] is refused");
}

#
# Of a touch.
#
attach('');
$s->run('SELECT echocache_get_session(1)');
for ([ q{'5 min'}, 300 ], [ q{'0'}, -1 ], [ q{'31 days'}, 31 * $day ], [ 'NULL', 1800 ], [ q{'99.5 s'}, 100 ])
{
	is($s->run("SELECT echocache_touch_session(1, $_->[0])"), 't', "touch with $_->[0]");
	lives('session:1', $_->[1], 'is what the document has then');
}
for (q{'-1 s'}, q{'-0.001 s'}, q{'1 month'}, q{'25000 days'})
{
	like($s->error("SELECT echocache_touch_session(1, $_)"), qr/^22023: a lifetime /, "touch with $_ is refused");
}
lives('session:1', 100, 'and changes nothing');
is($s->run('SELECT echocache_touch_session(2)'), 'f', 'what is not cached is not touched');
is($s->run('SELECT echocache_touch_session(NULL::bigint), echocache_touch_session(NULL::bigint, NULL)'), '|', 'NULL is nothing to touch');
is($memcached->get('session:2'), undef, 'nor loaded');

#
# Of the setting, for documents that have none of their own.
#
for ([ '0', -1 ], [ '45 d', 45 * $day ], [ '70 s', 70 ])
{
	setting($s, 'echocache.ttl' => $_->[0]);
	$memcached->delete('session:1');
	$s->run('SELECT echocache_get_session(1)');
	lives('session:1', $_->[1], "echocache.ttl = $_->[0]");
}
setting($s, 'echocache.ttl' => '1800 s');
long_lease($s, $memcached);

#
# touch_on_read.
#
sub counters
{
	my $stats = $memcached->stats;

	return { traffic => $memcached->traffic, map { $_ => $stats->{$_} } qw(cmd_touch touch_hits) };
}

# What reading has made memcached do.
sub does
{
	my ($session, $sql) = @_;
	my $before = counters();

	$session->run($sql);
	my $after = counters();
	return { map { $_ => $after->{$_} - $before->{$_} } keys %$after };
}

my @reads = ('SELECT echocache_get_session(1)', q{SELECT echocache_get('session', 1)}, q{SELECT * FROM echocache_get_sessions('{1}'::bigint[])},
	'SELECT * FROM echocache_get_row(NULL::session, 1)');
my $request;	# bytes of one that touches nothing
$s->run('SELECT echocache_get_session(1)');
for my $read (@reads)
{
	leave('session:1', 60);
	my $did = does($s, $read);
	$request = $did->{traffic};
	is($did->{cmd_touch}, 0, "off: $read touches nothing");
	lives('session:1', 60, 'so the document lives no longer');
}
$s->run('SELECT echocache_detach()');
attach(q{, ttl => '1000 s', touch_on_read => true});
is($s->run('SELECT touch_on_read FROM echocache_documents'), 't', 'the view shows it');
is($s->run('SELECT count(*) FROM echocache_get_sessions(ARRAY[1,2,3]::bigint[])'), 3, 'all are cached');
for my $read (@reads)
{
	leave('session:1', 60);
	my $did = does($s, $read);
	is($did->{touch_hits}, 1, "on: $read renews the lifetime");
	cmp_ok($did->{traffic}, '<', $request + 12, 'in the same request, which is a few bytes longer');
	lives('session:1', 1000, 'to that of the document');
}
leave("session:$_", 60) for 1 .. 3;
my $did = does($s, 'SELECT count(*) FROM echocache_get_sessions(ARRAY[1,2,3,99]::bigint[])');
is($did->{touch_hits}, 3, 'reading many renews all');
lives("session:$_", 1000, "session:$_") for 1 .. 3;
# What is not answered from the cache renews nothing.
leave('session:1', 60);
$s->run('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT echocache_get_session(1); COMMIT');
lives('session:1', 60, 'a read that bypasses the cache renews nothing');

#
# On a standby, which writes nothing to the cache.
#
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
my $b = session($standby);
wait_state($b, 'UP');
leave('session:1', 60);
my $hits = $b->run('SELECT hits FROM echocache_stats');
is(does($b, 'SELECT echocache_get_session(1)')->{cmd_touch}, 0, 'a read on a standby touches nothing');
is($b->run('SELECT hits FROM echocache_stats') - $hits, 1, 'although it is a hit');
lives('session:1', 60, 'so the document lives no longer');
is($b->run('SELECT echocache_touch_session(1)'), 'f', 'nor does a touch');
lives('session:1', 60, 'as it says');

done_testing();
