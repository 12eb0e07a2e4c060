# The second tier and plain clients: what memcached does not have any more it gets again by a read
# of SQL's, although shared memory could answer that.
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
use Time::HiRes qw(sleep);

my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached], conf => "echocache.local_memory = '16MB'\nwal_writer_delay = '10ms'\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE item (id int PRIMARY KEY, v text);
	INSERT INTO item SELECT g, 'first' FROM generate_series(1, 10) g;
	SELECT echocache_attach('item', 'item')});

sub document { my ($id, $v) = @_; return qq({"id":$id,"v":"$v"}); }
sub get { my ($id) = @_; return $s->run("SELECT echocache_get('item', $id)"); }
sub local_hits { return $s->run(q{SELECT local_hits FROM echocache_stats WHERE name = 'item'}); }

# Test: a plain client finds the document in memcached.
sub loaded
{
	my ($id, $v, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is($memcached->get("item:$id"), document($id, $v), $name);
}

wait_state($s, 'UP');
get($_) for 1 .. 10;
my $before = local_hits();
get($_) for 1 .. 10;
is(local_hits() - $before, 10, 'all documents are in shared memory');
loaded(1, 'first', 'and in memcached');

# What leaves a marker there.
$s->run(q{BEGIN; UPDATE item SET v = 'never' WHERE id = 2; ROLLBACK});
loaded(2, 'first', 'a change that is rolled back before its commit leaves nothing');
$s->run(q{CREATE TABLE other (id int PRIMARY KEY REFERENCES item DEFERRABLE INITIALLY DEFERRED)});
isnt($s->error(q{BEGIN; UPDATE item SET v = 'never' WHERE id = 2; INSERT INTO other VALUES (77); COMMIT}), undef,
	'a commit fails');
is(get(2), document(2, 'first'), 'the document is as before');
loaded(2, 'first', 'for plain clients as well');
$s->run(q{SET synchronous_commit = off; UPDATE item SET v = 'lazy' WHERE id = 3; SET synchronous_commit = on});
is(get(3), document(3, 'lazy'), 'a commit that may not be flushed');
wait_for('it to be loaded', sub {
	$s->run('SELECT pg_switch_wal()');
	return 1 if ($memcached->get('item:3') // '') eq document(3, 'lazy');
	$s->run(q{SELECT echocache_invalidate('item', 3)});
	get(3);
	return 0;
});
loaded(3, 'lazy', 'is there for plain clients when it is flushed');

# While memcached is away shared memory answers, and is filled; afterwards memcached is, too.
$memcached->stop;
$s->run(q{UPDATE item SET v = 'away' WHERE id = 4});
is(get(4), document(4, 'away'), 'a change while memcached is away');
$before = local_hits();
is(get(4), document(4, 'away'), 'is kept');
is(local_hits() - $before, 1, 'in shared memory');
$memcached->start;
wait_state($s, 'UP');
is(get(4), document(4, 'away'), 'memcached is back');
loaded(4, 'away', 'and has it');

# It forgets something by itself: that is found out in 30 s.
$s->run(q{SELECT echocache_purge('item')});
get($_) for 1 .. 10;
$memcached->delete('item:5');
$before = local_hits();
is(get(5), document(5, 'first'), 'memcached has lost a document');
is(local_hits() - $before, 1, 'shared memory has it');
sleep 31;
is(get(5), document(5, 'first'), 'a while later');
loaded(5, 'first', 'so has memcached again');
$before = local_hits();
is(get(6), document(6, 'first'), 'another one, which it has not lost');
is(local_hits() - $before, 1, 'is answered by shared memory');

$s->quit;
$node->stop;
done_testing();
