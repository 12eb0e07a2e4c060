# The cache is switched off and on, servers come, go and change places, and
# memcached loses its memory, all while transactions are in the middle of their
# commit: nobody trusts a placement that others still work with, and every server
# ends coherent without help.
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
use Time::HiRes qw(sleep time);

my ($a, $b, $c) = map { memcached() } 1 .. 3;
my @all = ($a, $b, $c);
my $node = new_node('main', hosts => [ $a, $b ],
	conf => "echocache.timeout = '2s'\nechocache.max_write_through = 10\nlog_statement = none\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, title text);
	SELECT echocache_attach('session')});
my $holder = session($node);
my $writer = session($node);
my $round = 0;

plan(skip_all => 'built without wait points')
  if $s->run(q{SELECT count(*) FROM pg_settings WHERE name = 'echocache.wait_point'}) == 0;

sub hosts { return join ',', map { ref $_ ? $_->address : $_ } @_; }

# Are all of these with their weights, and no others, what echocache_servers shows?
sub listed
{
	my (@hosts) = @_;
	my @names = map { ref $_ ? $_->address . ':1' : $_ } @hosts;

	return $s->run(q{SELECT server || ':' || weight FROM echocache_servers}) eq join "\n", @names;
}

# Test: no server of the new list is used while somebody works with the old one.
sub none_up
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	local $EchoCache::quiet = 1;
	my %seen;

	# Ten times as long as the worker takes otherwise.
	for (1 .. 20)
	{
		$seen{$_}++ for split /\n/, $s->run('SELECT DISTINCT state FROM echocache_servers');
		sleep 0.05;
	}
	return is(join(' ', sort keys %seen), 'RECOVERING', $name);
}

wait_state($s, 'UP');
$s->run(q{INSERT INTO session SELECT g, 'first' FROM generate_series(1, 200) g});
coherent($s, \@all, 'all documents are cached', filled => 1);

#
# The list of servers changes while a commit is at this point.  Every change
# begins with the list that the one before has left, so that a server that comes
# back has what it held then.
#
my $few = "UPDATE session SET title = '%s' WHERE id <= 8";
my $bulk = "UPDATE session SET title = '%s' WHERE id <= 50";
my @list = ($a, $b);

for my $change (
	[ 'a server is added', 'before-markers', $few, $a, $b, $c ],
	[ 'one is removed', 'after-markers', $few, $b, $c ],
	[ 'it comes back', 'before-commit', $few, $a, $b, $c ],
	[ 'all change places', 'after-markers', $few, $c, $b, $a ],
	[ 'all have other weights', 'before-store', $few, map { $_->address } ($c, $b, $a) ],
	[ 'one is removed', 'before-store', $few, $c, $a ],
	[ 'one is exchanged for another', 'after-locks', $few, $b, $a ],
	[ 'two change places', 'before-markers', $bulk, $a, $b ],
	[ 'two become one', 'after-markers', $bulk, $a ],
	[ 'one becomes three', 'before-commit', $bulk, $a, $b, $c ])
{
	my ($what, $point, $sql, @new) = @$change;
	my $title = 'round ' . ++$round;

	@new = map { $new[$_] . ':' . (1 + 2 * $_) } 0 .. $#new if $what =~ /weights/;
	coherent($s, [ grep { my $m = $_; grep { ref $_ ? $_ == $m : /^\Q@{[ $m->address ]}\E(?::|$)/ } @list } @all ],
		"$what while a commit is at $point: all documents are cached before", filled => 1);
	my $old = $s->run('SELECT title FROM session WHERE id = 1');
	stop_at($holder, $point, $writer, sprintf $sql, $title);
	setting($s, 'echocache.hosts' => hosts(@new));
	wait_for('the new servers', sub { return listed(@new) });
	if ($point eq 'before-markers') { none_up('no server is used while the commit goes by the old list'); }
	else
	{
		wait_state($s, 'UP');
		pass('the commit has left the old list: the servers are used');
	}
	like($s->run('SELECT echocache_get_session(1)'), $point eq 'before-store' ? qr/"$title"/ : qr/"$old"/,
		'SQL reads what is committed');
	# Others go on, by the new list.
	$s->run("UPDATE session SET title = '$title: another' WHERE id = 100");
	isnt(go_on($holder, $writer), undef, 'the commit goes on');
	is($s->run('SELECT echocache_get_session(1)'), qq({"id":1,"title":"$title"}), 'SQL reads its document');
	@list = @new;
	wait_state($s, 'UP');
	my @used = grep { my $m = $_; grep { ref $_ ? $_ == $m : /^\Q@{[ $m->address ]}\E(?::|$)/ } @list } @all;
	coherent($s, \@used, 'when the servers are UP, the cache is what the table is', filled => 1);
	my %held = map { $_ => 0 } 1 .. 200;
	$held{$_}++ for map { map { /^session:(\d+)/ } $_->keys } @used;
	is_deeply([ grep { $held{$_} != 1 } sort keys %held ], [], 'and every document is on one server');
}

# A server that was away, frozen, with old documents when the list changed.
$b->freeze;
setting($s, 'echocache.hosts' => hosts($a, $c));
wait_for('the new servers', sub { return listed($a, $c) });
wait_state($s, 'UP');
$s->run(q{UPDATE session SET title = 'while away'});
$b->thaw;
setting($s, 'echocache.hosts' => hosts($a, $b, $c));
wait_for('the old servers', sub { return listed($a, $b, $c) });
wait_state($s, 'UP');
coherent($s, \@all, 'a server that was frozen when it was removed comes back: the cache is what the table is', filled => 1);

#
# Off and on.
#
for my $point (qw(after-markers before-commit before-store))
{
	my $title = 'round ' . ++$round;

	stop_at($holder, $point, $writer, sprintf $few, $title);
	setting($s, 'echocache.enabled' => 'off');
	wait_for('the cache to be off', sub { return $s->run('SELECT echocache_is_available()') eq 'f' });
	# few, since a bulk writer waits for the one who is about to store
	$s->run("UPDATE session SET title = 'while off' WHERE id BETWEEN 146 AND 150");
	setting($s, 'echocache.enabled' => 'on');
	wait_for('the cache to be on', sub { return $s->run("SELECT count(*) FROM echocache_servers WHERE state = 'OFF'") == 0 });
	wait_state($s, 'UP');
	coherent($s, \@all, "off and on while a commit is at $point: the cache is what the table is");
	$s->run("UPDATE session SET title = 'on again' WHERE id = 150");
	isnt(go_on($holder, $writer), undef, 'the commit goes on');
	wait_state($s, 'UP');
	coherent($s, \@all, 'when the servers are UP, the cache is what the table is', filled => 1);
}

# One that begins while the cache is off, and ends when it is on.
setting($s, 'echocache.enabled' => 'off');
wait_for('the cache to be off', sub { return $s->run('SELECT echocache_is_available()') eq 'f' });
$writer->run(q{BEGIN; UPDATE session SET title = 'began off' WHERE id <= 8});
setting($s, 'echocache.enabled' => 'on');
wait_state($s, 'UP');
coherent($s, \@all, 'a transaction that began while off is open: its documents are the old ones', filled => 1);
$writer->run('COMMIT');
is($s->run('SELECT echocache_get_session(1)'), '{"id":1,"title":"began off"}', 'committed: SQL reads the new one');
coherent($s, \@all, 'and the cache is what the table is', filled => 1);

# And the other way round.
$writer->run(q{BEGIN; UPDATE session SET title = 'began on' WHERE id <= 8});
setting($s, 'echocache.enabled' => 'off');
wait_for('the cache to be off', sub { return $s->run('SELECT echocache_is_available()') eq 'f' });
$writer->run('COMMIT');
is($s->run('SELECT echocache_get_session(1)'), '{"id":1,"title":"began on"}', 'one that began while on commits while off: SQL reads its document');
setting($s, 'echocache.enabled' => 'on');
wait_state($s, 'UP');
coherent($s, \@all, 'on again: the cache is what the table is', filled => 1);

#
# memcached loses its memory, or does not, while a commit or a fill is under way.
#
my %faults = (
	'is restarted empty' => sub { $_->stop for @all; $_->start for @all; },
	'is flushed' => sub { $_->flush for @all; },
	'freezes, and goes on with its old contents' => sub { $_->freeze for @all; return sub { $_->thaw for @all; }; });
my $fill = 'SELECT echocache_get_session(1)';

for my $what (sort keys %faults)
{
	for my $case (
		[ $few, 'after-locks' ], [ $few, 'after-markers' ], [ $few, 'before-store' ], [ $bulk, 'after-markers' ],
		[ $fill, 'fill-marked' ], [ $fill, 'fill-read' ])
	{
		my ($sql, $point) = @$case;
		my $title = 'round ' . ++$round;

		if ($sql eq $fill) { $_->delete('session:1') for @all; }
		stop_at($holder, $point, $writer, $sql eq $fill ? $sql : sprintf $sql, $title);
		my $after = $faults{$what}->();
		isnt(go_on($holder, $writer), undef, "memcached $what at $point: the session goes on");
		is($s->run('SELECT echocache_get_session(1)'), '{"id":1,"title":"' . $s->run('SELECT title FROM session WHERE id = 1') . '"}',
			'SQL reads what the table has');
		$after->() if $after;
		wait_for('the servers to be found out', sub {
			$s->run('SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session))');
			return $s->run(q{SELECT bool_and(state = 'UP') FROM echocache_servers}) eq 't';
		});
		coherent($s, \@all, 'the cache is what the table is', filled => 1);
	}
}

$_->quit for $s, $holder, $writer;
$node->stop;
done_testing();
