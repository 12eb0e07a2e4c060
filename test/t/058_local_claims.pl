# The second tier is written to by those alone who have claimed a place in it.
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
my $node = new_node('main', hosts => [$memcached], conf => "echocache.local_memory = '64MB'\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE item (id int PRIMARY KEY, v text);
	SELECT echocache_attach('item', 'item')});
my $other = session($node);

wait_state($s, 'UP');

# Ids without a row have claimed places, and nobody puts anything there.  What a read makes of
# its memory when it may not use the cache at all must not be such a claim.
my $read = q{SELECT count(*) FROM echocache_get_many('item', ARRAY(SELECT generate_series(1, %d))::bigint[])};
for my $n (1, 18, 25, 100, 1000)
{
	my $sql = sprintf $read, $n;
	$s->run($sql) for 1 .. 3;
	$s->run('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$s->run(q{INSERT INTO item VALUES (1, 'never')});
	is($s->run($sql), 1, "a transaction reads its own row, of $n");
	is($other->run($sql), 0, 'and others do not');
	$s->run('ROLLBACK');
	is($other->run($sql), 0, 'nor after it is rolled back');
}
for (1 .. 3)
{
	$s->run(q{SELECT echocache_get('item', 1)}) for 1 .. 3;
	$s->run('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$s->run(q{INSERT INTO item VALUES (1, 'never')});
	is($s->run(q{SELECT echocache_get('item', 1)}), '{"id":1,"v":"never"}', 'a single one');
	is($other->run(q{SELECT echocache_get('item', 1)}), '', 'which others do not see');
	$s->run('ROLLBACK');
	is($other->run(q{SELECT echocache_get('item', 1)}), '', 'nor after it is rolled back');
}

sub local_hits { return $s->run(q{SELECT sum(local_hits) FROM echocache_stats}); }

# What verify finds to be wrong in memcached may have been promoted before.
$s->run(q{INSERT INTO item SELECT g, 'right' FROM generate_series(1, 10) g});
$memcached->set('item:5', '{"id":5,"v":"wrong"}');
is($other->run(q{SELECT echocache_get('item', 5)}), '{"id":5,"v":"wrong"}', 'a stranger has written to memcached');
is($s->run(q{SELECT stale FROM echocache_verify('item')}), 1, 'which verify finds');
is($other->run(q{SELECT echocache_get('item', 5)}), '{"id":5,"v":"right"}', 'and it is in shared memory no longer');

# A document that has expired is not renewed.
$s->run(q{
	CREATE TABLE brief (id int PRIMARY KEY, v text);
	INSERT INTO brief VALUES (1, 'one');
	SELECT echocache_attach('brief', 'brief', ttl => '1 second')});
$s->run(q{SELECT echocache_get('brief', 1)});
$s->run(q{SELECT pg_sleep(1.5)});
is($s->run(q{SELECT echocache_touch('brief', 1::bigint, '1 hour')}), 'f', 'a document has expired');
my $before = local_hits();
is($s->run(q{SELECT echocache_get('brief', 1)}), '{"id":1,"v":"one"}', 'it is read anew');
is(local_hits() - $before, 0, 'from the table');

# While memcached is away nobody waits for who makes a document, and they do not keep each other
# from putting it.
$s->run(q{
	CREATE TABLE slow (id int PRIMARY KEY, v text);
	INSERT INTO slow VALUES (1, 'one');
	CREATE FUNCTION slowly(slow) RETURNS json LANGUAGE plpgsql STABLE AS
		$$ BEGIN PERFORM pg_sleep(3); RETURN row_to_json($1); END $$;
	SELECT echocache_attach('slow', 'slow', document => 'slowly')});
$memcached->stop;
wait_state($s, 'DOWN');
my $sleeping = q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'};
my @readers = map { session($node) } 1 .. 2;
for my $n (0 .. 1)
{
	$readers[$n]->send(q{SELECT echocache_get('slow', 1)});
	wait_for("reader $n makes the document", sub { return $s->run($sleeping) == $n + 1; });
	$s->run('SELECT pg_sleep(1.5)') if $n == 0;
}
is($readers[0]->finish, '{"id":1,"v":"one"}', 'one of two has made the document');
$before = local_hits();
is($other->run(q{SELECT echocache_get('slow', 1)}), '{"id":1,"v":"one"}', 'it is read');
is(local_hits() - $before, 1, 'from shared memory');
is($readers[1]->finish, '{"id":1,"v":"one"}', 'the other one, too');

$_->quit for $s, $other, @readers;
$node->stop;
done_testing();
