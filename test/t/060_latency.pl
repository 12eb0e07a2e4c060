# How long reads and commits take: what is timed, how often, and how right; that it is gone after a
# reset, a restart, a crash and a detach; and what waits are called in pg_stat_activity.
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
my $proxy = proxy($memcached);
my $node = new_node('main', hosts => [$proxy], conf => qq{
	echocache.max_write_through = 10
	max_prepared_transactions = 5
	restart_after_crash = on
	log_statement = none
});
my ($s, $other);

sub sessions { $_ = session($node) for $s, $other; return; }

sessions();
$s->run(q{
	CREATE EXTENSION echocache;
	CREATE TABLE item (id int PRIMARY KEY, v text);
	INSERT INTO item SELECT g, 'first' FROM generate_series(1, 40) g;
	CREATE TABLE tag (id int PRIMARY KEY, v text);
	INSERT INTO tag VALUES (1, 'first');
	SELECT echocache_attach('item', 'item');
	SELECT echocache_attach('tag', 'tag');
	CREATE ROLE bare});
wait_state($s, 'UP');

# What was timed of a document, without what was not: "fill 7, hit 3".
sub timed
{
	my ($name) = @_;

	return $s->run(qq{SELECT coalesce(string_agg(kind || ' ' || count, ', ' ORDER BY kind), '')
		FROM echocache_latency WHERE count > 0 AND name = '} . ($name // 'item') . q{'});
}

# Test: this is what was timed since the last time.
sub timed_is
{
	my ($expected, $what, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(timed($name), $expected, $what);
	$s->run('SELECT echocache_stats_reset()');
	return;
}

sub get { my ($session, @ids) = @_; $session->run(join ';', map { "SELECT echocache_get('item', $_)" } @ids); return; }

#
# What counts as what.
#
$s->run('SELECT echocache_stats_reset()');
timed_is('', 'nothing was timed yet');
get($s, 1 .. 7);
timed_is('fill 7', 'seven reads of what is not cached');
get($_, 1 .. 7) for $s, $other;
timed_is('hit 14', 'and of what is, by two sessions');
$s->run(q{SELECT count(*) FROM echocache_get_many('item', '{1,2,3,4}'::bigint[])});
timed_is('hit 1', 'many at once are one read');
$s->run(q{SELECT count(*) FROM echocache_get_many('item', '{1,2,8,9}'::bigint[])});
timed_is('fill 1', 'for which the table was asked, too');
$s->run(q{SELECT count(*) FROM echocache_get_many('item', '{}'::bigint[])});
timed_is('', 'none are none');
get($s, 99, 99);
timed_is('fill 2', 'a row that there is not is asked of the table each time');
$s->run(q{BEGIN; UPDATE item SET v = 'own' WHERE id = 1});
get($s, 1);
$s->run('ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ');
get($s, 1);
$s->run('ROLLBACK');
timed_is('', 'what the cache may not answer is not timed, nor is a rollback');
$s->run('SET ROLE bare');
isnt($s->error(q{SELECT echocache_get('item', 1)}), 'no error', 'a read fails');
$s->run('RESET ROLE');
timed_is('', 'and is not timed');

$s->run(qq{UPDATE item SET v = '$_' WHERE id = $_}) for 1 .. 5;
timed_is('marker 5, store 5', 'five commits');
$s->run(q{UPDATE item SET v = 'several' WHERE id <= 3});
timed_is('marker 1, store 1', 'of several documents');
$s->run(q{BEGIN; UPDATE item SET v = 'both' WHERE id <= 3; UPDATE tag SET v = 'both'; COMMIT});
is(timed('tag'), 'marker 1, store 1', 'of two tables: it is timed for the one');
timed_is('marker 1, store 1', 'and for the other');
$s->run(q{UPDATE item SET v = 'many'});
timed_is('marker 1', 'of more than are written through');
$s->run(q{BEGIN; UPDATE item SET v = 'prepared' WHERE id = 1; PREPARE TRANSACTION 'one'; COMMIT PREPARED 'one'});
timed_is('marker 1', 'by PREPARE TRANSACTION');
$s->run(q{BEGIN; TRUNCATE tag; INSERT INTO tag VALUES (1, 'first'); COMMIT});
is(timed('tag'), 'marker 1', 'of all documents');
setting($s, 'echocache.enabled' => 'off');
$s->run('SELECT echocache_stats_reset()');
$s->run(q{UPDATE item SET v = 'off' WHERE id = 1});
get($s, 1);
timed_is('', 'nothing is timed while the cache is off');
setting($s, 'echocache.enabled' => 'on');
wait_state($s, 'UP');

#
# How right it is.  The proxy lets answers come 50 ms later.  What is timed is within what the
# caller waits, and is told by the bound of a bucket, which is more by a quarter at most.
#
$s->run(q{
	CREATE TABLE took (kind text, ms float8);
	CREATE PROCEDURE take(n int) LANGUAGE plpgsql AS $$
		DECLARE
			before timestamptz;
		BEGIN
			FOR i IN 1 .. n LOOP
				before := clock_timestamp();
				PERFORM echocache_get('item', i);
				INSERT INTO took VALUES ('hit', 1000 * extract(epoch FROM clock_timestamp() - before));
				COMMIT;
				UPDATE item SET v = 'delayed' WHERE id = i;
				before := clock_timestamp();
				COMMIT;
				INSERT INTO took VALUES ('marker', 1000 * extract(epoch FROM clock_timestamp() - before));
				COMMIT;
			END LOOP;
		END $$});
get($s, 1 .. 40);
$s->run('SELECT echocache_stats_reset()');
$proxy->tell('delay down 50');
$s->run('CALL take(20)');
$proxy->tell('pass');

for my $kind ('hit', 'marker')
{
	my ($count, $p50) = split /\|/, $s->run("SELECT count, p50 FROM echocache_latency WHERE name = 'item' AND kind = '$kind'");

	is($count, 20, "twenty of kind $kind, whose answers are delayed");
	cmp_ok($p50, '>=', 50, 'half of them take as long as that');
	cmp_ok($p50, '<=', $s->run("SELECT 1.25 * percentile_disc(0.5) WITHIN GROUP (ORDER BY ms) FROM took WHERE kind = '$kind'"),
		'and not longer than their callers waited');
}
is($s->run(q{SELECT p50 < 50 FROM echocache_latency WHERE name = 'item' AND kind = 'store'}), 't',
	'nobody waits for the answer to a store');
is($s->run(q{SELECT count(*) FROM echocache_latency
	WHERE count > 0 AND NOT (0 < p50 AND p50 <= p95 AND p95 <= p99 AND p99 <= p999 AND p999 <= max)}), 0, 'percentiles grow');
is($s->run(q{SELECT count(*) FROM echocache_latency
	WHERE count = 0 AND (p50 IS NOT NULL OR p95 IS NOT NULL OR p99 IS NOT NULL OR p999 IS NOT NULL OR max IS NOT NULL)}),
	0, 'and are NULL where there is nothing');

# The buckets say the same.
is($s->run(q{SELECT count(*) FROM echocache_latency l WHERE (SELECT count(*) FROM echocache_latency_buckets b
	WHERE (b.name, b.kind) = (l.name, l.kind)) <> 20}), 0, 'twenty buckets each');
is($s->run(q{SELECT count(*) FROM (SELECT count - lag(count) OVER w AS more, le > lag(le) OVER w AS wider
	FROM echocache_latency_buckets WINDOW w AS (PARTITION BY name, kind ORDER BY le)) b WHERE more < 0 OR NOT wider}), 0,
	'counts are cumulative');
is($s->run(q{SELECT count(*) FROM echocache_latency l JOIN echocache_latency_buckets b USING (name, kind)
	WHERE le = 'Infinity' AND (l.count <> b.count OR (b.sum > 0) <> (l.count > 0) OR 1000 * b.sum > l.count * l.max + 0.001)}), 0,
	'the last one has all, and the sum is in bounds');
is($s->run(q{SELECT max(count) FILTER (WHERE le < 0.03), bool_and(sum BETWEEN 1 AND 20 * (SELECT max FROM echocache_latency
		WHERE name = 'item' AND kind = 'marker'))
	FROM echocache_latency_buckets WHERE name = 'item' AND kind = 'marker'}), '0|t', 'none of the commits is in a bucket below the delay');

# A read that is not answered in time is one, too: it goes to the table.
setting($s, 'echocache.timeout' => '200ms');
$s->run('SELECT echocache_stats_reset()');
$proxy->tell('hold down');
get($s, 25);
$proxy->tell('pass');
is($s->run(q{SELECT count, max >= 200 FROM echocache_latency WHERE name = 'item' AND kind = 'fill'}), '1|t',
	'a read that waits for memcached in vain is timed, with its wait');
setting($s, 'echocache.timeout' => '5s');
wait_state($s, 'UP');

#
# When it is gone: a detach, a restart, a crash.
#
get($s, 1 .. 3);
isnt(timed(), '', 'something was timed');
$s->run(q{SELECT echocache_detach('item')});
is($s->run(q{SELECT count(*) FROM echocache_latency WHERE name = 'item'}), 0, 'a detach');
# as a commit this is timed itself
$s->run(q{SELECT echocache_attach('item', 'item')});
timed_is('marker 1', 'attached again, it begins anew');

# With a second tier.
$s->run(q{ALTER SYSTEM SET echocache.local_memory = '16MB'});
get($s, 1 .. 3);
isnt(timed(), '', 'something was timed');
$node->restart;
sessions();
wait_state($s, 'UP');
timed_is('', 'a restart');
get($s, 1 .. 3);		# these may have been in memcached
get($s, 1 .. 3);
like($s->run(q{SELECT local_hits FROM echocache_stats WHERE name = 'item'}), qr/\A[1-9]/, 'shared memory has documents');
$s->run('SELECT echocache_stats_reset()');
$_->run(q{SELECT count(echocache_get('item', 1)) FROM generate_series(1, 160)}) for $s, $other;
is($s->run(q{SELECT local_hits FROM echocache_stats WHERE name = 'item'}), 320, 'all of 320 reads are from there');
timed_is('local_hit 20', 'one in sixteen is timed, in each session');
get($s, 30);
timed_is('fill 1', 'one that is not there is, as ever');

my $victim = session($node);
get($s, 31);
isnt(timed(), '', 'something was timed');
kill 'KILL', $victim->pid;
wait_for('the crash', sub { return !defined eval { $s->attempt('SELECT 1') } });
wait_for('PostgreSQL', sub { return $node->psql('postgres', 'SELECT 1') == 0 });
sessions();
wait_state($s, 'UP');
is(timed(), '', 'a crash');
get($s, 32);
like(timed(), qr/fill 1|hit 1/, 'and it goes on');

#
# What waits are called.
#
my $named = $node->pg_version >= 17;
my $events = q{SELECT string_agg(DISTINCT wait_event, ',') FROM pg_stat_activity WHERE wait_event_type = 'Extension'};

# Test: a process of these waits, under this name.
sub waits_as
{
	my ($name, $where, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my $event = $named ? "Echocache$name" : 'Extension';
	return eventually("$what: $event", sub {
		return $other->run("SELECT count(*) FROM pg_stat_activity WHERE wait_event = '$event' AND $where") > 0;
	});
}

waits_as('LauncherMain', q{backend_type = 'echocache launcher'}, 'the launcher has nothing to do');
waits_as('WorkerMain', q{backend_type = 'echocache worker'}, 'the worker has nothing to do');
$s->run(q{
	CREATE FUNCTION slowly(tag) RETURNS json LANGUAGE plpgsql STABLE AS
		$$ BEGIN PERFORM pg_sleep(2); RETURN row_to_json($1); END $$;
	SELECT echocache_detach('tag');
	SELECT echocache_attach('tag', 'tag', document => 'slowly')});
$s->send(q{SELECT echocache_get('tag', 1)});
wait_for('the function', sub { return $other->run('SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $s->pid) eq 'PgSleep' });
my $second = session($node);
$second->send(q{SELECT echocache_get('tag', 1)});
waits_as('Fill', 'pid = ' . $second->pid, 'another makes the document');
$_->finish for $s, $second;
$s->run(q{CREATE OR REPLACE FUNCTION slowly(tag) RETURNS json LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN row_to_json($1); END $$});
$s->run(q{UPDATE tag SET v = 'built'});
waits_as('BuilderMain', q{backend_type = 'echocache builder'}, 'the builder has nothing to do');

# What is not in shared memory is asked of memcached.
for my $case ([ 'Read', q{SELECT echocache_get('item', 40)} ], [ 'Marker', q{UPDATE item SET v = 'held' WHERE id = 40} ])
{
	my ($name, $sql) = @$case;

	$proxy->tell('hold down');
	$s->send($sql);
	waits_as($name, 'pid = ' . $s->pid, $sql);
	$proxy->tell('pass');
	$s->finish;
	wait_state($s, 'UP');
}

# A server that says nothing is tried again and again; one that is spoken to by TLS, and does not
# understand it, says nothing either.
$proxy->tell('hold down');
setting($s, 'echocache.timeout' => '100ms', 'echocache.retry_interval' => '1s');
waits_as('Recovery', q{backend_type = 'echocache worker'}, 'a server is silent')
  if defined $s->run(q{UPDATE item SET v = 'away' WHERE id = 1});
setting($s, 'echocache.timeout' => '2s', 'echocache.tls' => 'on', 'echocache.tls_verify' => 'none');
waits_as('TlsHandshake', q{backend_type = 'echocache worker'}, 'the handshake of TLS');
is($other->run($events), 'Extension', 'no wait has a name before 17') if !$named;
unlike($other->run($events), qr/\b(?!Echocache)\w+/, 'and no wait of ours is without one from 17 on') if $named;

done_testing();
