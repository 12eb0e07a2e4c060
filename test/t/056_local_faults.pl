# The second tier while things go wrong: memcached away or frozen, commits that wait for a standby
# that is not there, restarts, crashes, standbys and promotions; too little memory, and none; and
# many clients that miss one document.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $slack = 1.5;	# what a statement takes at most on a machine that is not busy
my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached], conf => qq{
	echocache.local_memory = '16MB'
	echocache.max_write_through = 10
	max_prepared_transactions = 5
	max_connections = 250
	max_wal_senders = 5
	wal_level = replica
	restart_after_crash = on
	log_statement = none
});
my ($s, $other);
sub sessions { $_ = session($node, sql => q{SET statement_timeout = '60 s'}) for $s, $other; return; }

sessions();
$s->run(q{
	CREATE EXTENSION echocache;
	CREATE TABLE item (id int PRIMARY KEY, v text);
	INSERT INTO item SELECT g, 'first' FROM generate_series(1, 30) g;
	SELECT echocache_attach('item', 'item')});

sub counted { return $s->run("SELECT $_[0] FROM echocache_stats WHERE name = 'item'"); }
sub entries { return $s->run(q{SELECT entries FROM echocache_memory WHERE name IS NULL}); }
sub get { my ($id) = @_; return "SELECT echocache_get('item', $id)"; }
sub document { my ($id) = @_; return $s->run("SELECT row_to_json(item) FROM item WHERE id = $id"); }

# Test: this read by this session has this result, and the tier has answered it, or not.
sub reads
{
	my ($session, $id, $expected, $local, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $before = counted('local_hits');

	is($session->run(get($id)), $expected, $name);
	return is(counted('local_hits') - $before, $local, $local ? 'by the tier' : 'not by the tier');
}

# How many of these ids are read as anything else than what the table has.
sub wrong
{
	my ($most) = @_;

	return $other->run("SELECT count(*) FROM (SELECT id::text, row_to_json(item)::text AS d FROM item) t
		FULL JOIN (SELECT id, document::text AS d FROM echocache_get_many('item', (SELECT array_agg(g::bigint) FROM generate_series(1, $most) g))) c USING (id)
		WHERE t.d IS DISTINCT FROM c.d");
}

sub keep
{
	my ($most) = @_;
	my $rows = $s->run('SELECT count(*) FROM item');

	wait_for('all documents to be kept', sub {
		my $before = counted('local_hits');
		wrong($most);
		return counted('local_hits') - $before == $rows;
	});
	return;
}

#
# memcached is frozen: who reads what the tier has waits for nothing.
#
wait_state($s, 'UP');
keep(40);
$memcached->freeze;
my $took = EchoCache::seconds(sub { reads($other, 1, document(1), 1, 'frozen') });
in_time($s, $took, $slack, 'at once');
$memcached->thaw;

#
# It is away.
#
keep(40);
$memcached->stop;
$other->run(q{SELECT echocache_invalidate('item', 20); SELECT echocache_get('item', 20)}) for 1 .. 3;
$s->run(q{UPDATE item SET v = v WHERE id = 30});
wait_state($s, 'DOWN');
reads($other, 1, document(1), 1, 'DOWN: hits go on');
reads($other, 77, '', 0, 'what there is not is not there');
$s->run(q{INSERT INTO item VALUES (31, 'down')});
reads($other, 31, document(31), 0, 'a miss reads the table');
reads($other, 31, document(31), 1, 'and fills the tier');
$s->run(q{UPDATE item SET v = 'written' WHERE id IN (1, 31)});
reads($other, $_, document($_), 1, 'a change is seen at once') for 1, 31;
$s->run(q{BEGIN; UPDATE item SET v = 'never' WHERE id = 1; ROLLBACK});
reads($other, 1, document(1), 1, 'one that is rolled back is not');
$s->run(q{DELETE FROM item WHERE id = 31});
reads($other, 31, '', 0, 'nor what is deleted');
for my $sql (q{UPDATE item SET v = 'bulk'}, q{TRUNCATE item; INSERT INTO item SELECT g, 'anew' FROM generate_series(1, 30) g},
	q{BEGIN; UPDATE item SET v = 'prepared' WHERE id < 4; PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'},
	q{ALTER TABLE item ADD COLUMN w int DEFAULT 7}, q{SELECT echocache_invalidate('item', 1)}, q{SELECT echocache_refresh('item', 1)},
	q{SELECT echocache_detach('item'); UPDATE item SET v = 'detached'; SELECT echocache_attach('item', 'item')})
{
	keep(40);
	$s->run($sql);
	is(wrong(40), 0, "DOWN: $sql");
	keep(40);
	is(wrong(40), 0, 'and kept again');
}
$s->run(q{BEGIN; UPDATE item SET v = 'prepared' WHERE id = 1; PREPARE TRANSACTION 'p'});
reads($other, 1, $other->run('SELECT row_to_json(item) FROM item WHERE id = 1'), 0, 'DOWN and prepared: the table') for 1 .. 2;
$s->run(q{COMMIT PREPARED 'p'});
is($other->run(get(1)), document(1), 'and committed');

# With fallback = off a read fails that neither answers, and only that.
keep(40);
$s->run(q{INSERT INTO item VALUES (32, 'down')});
setting($s, 'echocache.fallback' => 'off');
reads($other, 1, document(1), 1, 'fallback = off: what the tier answers is no failure');
like($other->error(get(32)), qr/^08006: /, 'what it does not is one');
like($other->error(q{SELECT * FROM echocache_get_many('item', '{1,32}'::bigint[])}), qr/^08006: /, 'so is a list with one of them');
is($other->run(q{SELECT string_agg(id, ',') FROM echocache_get_many('item', '{1,2}'::bigint[])}), '1,2', 'but not one without');
my $before = document(1);
like($s->error(q{UPDATE item SET v = 'refused' WHERE id = 1}), qr/^08006: /, 'a commit is refused');
reads($other, 1, $before, 1, 'and nobody reads it');
setting($s, 'echocache.fallback' => 'on');

# It is there again.
$memcached->start;
wait_state($s, 'UP');
is(wrong(40), 0, 'UP again: nothing old');
reads($other, 1, document(1), 1, 'what was kept is kept');

# With its old memory, which the tier must not believe.
$s->run(q{UPDATE item SET v = 'in both' WHERE id <= 5});
keep(40);
holds($memcached, 'item:33', undef, 'not in memcached');
$s->run(q{INSERT INTO item VALUES (33, 'stored')});
holds($memcached, 'item:33', document(33), 'in memcached, and there only');
$memcached->freeze;
setting($s, 'echocache.timeout' => '200ms', 'echocache.commit_timeout' => '200ms');
$s->run(q{UPDATE item SET v = 'while frozen' WHERE id IN (1, 2, 33); DELETE FROM item WHERE id = 3});
is(wrong(40), 0, 'written while it is frozen');
$memcached->thaw;
is(wrong(40), 0, 'thawed: nothing old') for 1 .. 20;
wait_state($s, 'UP');
keep(40);
is(wrong(40), 0, 'and UP: nothing old');
setting($s, 'echocache.timeout' => '5s', 'echocache.commit_timeout' => '5s');

#
# A commit that waits for a standby: its document is the old one until then, for as long as it takes.
#
keep(40);
$before = document(1);
my $writer = session($node);
my $remover = session($node);
$memcached->set('item:35', 'null');
setting($s, 'synchronous_standby_names' => 'nobody');
$writer->send(q{UPDATE item SET v = 'waits for nobody' WHERE id = 1});
$remover->send(q{DELETE FROM item WHERE id = 2});
wait_for('the commits to wait', sub { return $s->run(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'}) == 2 });
for (1 .. 3)
{
	$took = EchoCache::seconds(sub { reads($other, 1, $before, 1, 'a commit waits for a standby: the old document') });
	in_time($s, $took, $slack, 'at once');
	reads($other, 2, $other->run('SELECT row_to_json(item) FROM item WHERE id = 2'), 1, 'so is one that is deleted');
}
$s->run('SELECT pg_cancel_backend(' . $_->pid . ')') for $writer, $remover;
$_->finish for $writer, $remover;
setting($s, 'synchronous_standby_names' => '');
like(document(1), qr/waits for nobody/, 'it does not wait any more');
reads($other, 1, document(1), 1, 'the new document');
reads($other, 2, '', 0, 'and none');
$s->run(q{INSERT INTO item VALUES (2, 'back')});
$_->quit for $writer, $remover;

#
# A restart, and a crash: it is empty, and right.
#
for my $how ('a restart', 'an immediate stop', 'a backend that is killed')
{
	keep(40);
	cmp_ok(entries(), '>', 20, "before $how");
	if ($how =~ /backend/)
	{
		my $victim = session($node);
		$victim->run(q{BEGIN; UPDATE item SET v = 'lost' WHERE id = 1});
		kill 'KILL', $victim->pid;
		wait_for('the session to end', sub { return !kill 0, $victim->pid });
		$node->poll_query_until('postgres', 'SELECT true') or die 'PostgreSQL does not come back';
	}
	else
	{
		$_->quit for $s, $other;
		$how eq 'a restart' ? $node->restart : ($node->stop('immediate'), $node->start);
	}
	sessions();
	is(entries(), 0, "$how: it is empty");
	is(wrong(40), 0, 'and right');
	wait_state($s, 'UP');
	is(wrong(40), 0, 'and right') for 1 .. 2;
}

#
# A standby has none; a promotion begins one.
#
keep(40);
$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
my ($p, $standby_s) = ($s, session($standby));
sub on_standby { return $standby_s->run("SELECT $_[0]"); }
$node->wait_for_catchup($standby);
wait_for('the standby to use memcached', sub { return on_standby(q{state FROM echocache_servers}) eq 'UP' });
is($standby_s->run(get(1)), document(1), 'a standby reads') for 1 .. 5;
is(on_standby(q{local_hits FROM echocache_stats WHERE name = 'item'}), 0, 'without a second tier');
is(on_standby(q{entries FROM echocache_memory WHERE name IS NULL}), 0, 'in which there is nothing');
cmp_ok(on_standby(q{hits FROM echocache_stats WHERE name = 'item'}), '>', 0, 'but memcached\'s');
$s->run(q{UPDATE item SET v = 'replicated' WHERE id = 1; BEGIN; UPDATE item SET v = 'prepared' WHERE id = 4; PREPARE TRANSACTION 'p'});
$before = $s->run('SELECT row_to_json(item) FROM item WHERE id = 4');
$node->wait_for_catchup($standby);
is($standby_s->run(get(1)), document(1), 'a change of the primary is seen') for 1 .. 2;
my $expected = document(1);
$_->quit for $s, $other;
$node->stop;
$standby->promote;
wait_for('the promotion', sub { return on_standby('pg_is_in_recovery()') eq 'f' });
is($standby_s->run(get(1)), $expected, 'promoted: reads');
wait_for('the tier to begin', sub {
	$standby_s->run(get(1)) eq $expected or die 'wrong';
	return on_standby(q{local_hits FROM echocache_stats WHERE name = 'item'}) > 0;
});
is($standby_s->run(get(4)), $before, 'what was prepared before is not kept') for 1 .. 3;
$standby_s->run(q{COMMIT PREPARED 'p'});
like($standby_s->run(get(4)), qr/prepared/, 'but what it was committed to') for 1 .. 3;
$standby_s->run(q{UPDATE item SET v = 'promoted' WHERE id = 1});
like($standby_s->run(get(1)), qr/promoted/, 'a change is seen');
$standby_s->quit;
$standby->stop;

#
# None at all.
#
$node->append_conf('postgresql.conf', "echocache.local_memory = 0\n");
$node->start;
sessions();
wait_state($s, 'UP');
$other->run(get(1)) for 1 .. 5;
is($s->run(q{SELECT string_agg(m::text, ' ' ORDER BY name NULLS FIRST) FROM echocache_memory m}), '(,0,0,0,0) (item,,0,0,0)', 'local_memory = 0: nothing of it');
is(counted('local_hits'), 0, 'no local hits');
cmp_ok(counted('hits'), '>', 0, 'but memcached\'s');
$s->run(q{COMMIT PREPARED 'p'});
for my $bad (-1, 262145)
{
	like($s->error("ALTER SYSTEM SET echocache.local_memory = $bad"), qr/^22023: $bad MB is outside the valid range/, "$bad MB is refused");
}
like($s->error(q{SET echocache.local_memory = 1}), qr/^55P02: /, 'it takes a restart');

#
# Too little: documents come and go, and what is read is right.
#
$_->quit for $s, $other;
$node->append_conf('postgresql.conf', "echocache.local_memory = '1MB'\n");
$node->restart;
sessions();
wait_state($s, 'UP');
$s->run(q{TRUNCATE item; INSERT INTO item SELECT g, repeat(md5(g::text), 1 + g % 100) FROM generate_series(1, 3000) g;
	INSERT INTO item SELECT g, repeat(md5(g::text), 3000) FROM generate_series(3001, 3020) g});
for my $round (1 .. 5)
{
	is(wrong(3030), 0, '1 MB: all of many documents') for 1 .. 2;
	$s->run(q{UPDATE item SET v = reverse(v) WHERE id IN (SELECT (random() * 3000)::int FROM generate_series(1, 8))}) for 1 .. 50;
	is(wrong(3030), 0, 'and some changed');
	$s->run(q{UPDATE item SET v = v || 'x' WHERE id % 3 = 0; DELETE FROM item WHERE id % 500 = 17}) if $round == 3;
	my ($size, $used, $entries) = split /\|/, $s->run(q{SELECT size, used, entries FROM echocache_memory WHERE name IS NULL});
	cmp_ok($used, '<=', $size, 'no more is used than there is');
	cmp_ok($used, '>', $size / 2, 'but most of it');
}
cmp_ok(counted('local_evictions'), '>', 1000, 'evictions are counted');
is($s->run(q{SELECT evictions FROM echocache_memory WHERE name = 'item'}), counted('local_evictions'), 'in both views');
# what is read again and again stays, while others come and go
$other->run(get(5)) for 1 .. 3;
my $hits = counted('local_hits');
for my $i (1 .. 200) { $other->run(get(5) . '; ' . get(1000 + $i)); }
cmp_ok(counted('local_hits') - $hits, '>=', 190, 'what is read all the time stays');
# ids without a row take no place: there are 1024 in all
$s->run(q{CREATE TABLE few (id int PRIMARY KEY, v int); INSERT INTO few SELECT g, g FROM generate_series(1, 100) g; SELECT echocache_attach('few', 'few')});
my $few = q{SELECT count(*) FROM echocache_get_many('few', ARRAY(SELECT generate_series(%d, %d)))};
$s->run(sprintf $few, 1, 100) for 1 .. 3;
is($s->run(q{SELECT entries FROM echocache_memory WHERE name = 'few'}), 100, 'few documents are there');
$s->run(sprintf $few, 400 * $_, 400 * $_ + 399) for 1 .. 20;
$s->run('SELECT ' . join(', ', map { "echocache_get('few', -$_)" } 1 .. 1100));
is($s->run(q{SELECT entries FROM echocache_memory WHERE name = 'few'}), 100, 'and stay while somebody asks for thousands that there are not');
# Writers, readers and evictions at once: each reads what some transaction has committed, and never goes back.
append_to_file($node->basedir . '/load.sql', q{
\set id random(1, 400)
\set what random(1, 10)
\if :what = 1
BEGIN;
SELECT n AS was FROM counter WHERE id = :id FOR UPDATE \gset
UPDATE counter SET n = n + 1 WHERE id = :id;
END;
\else
SELECT n AS low FROM counter WHERE id = :id \gset
SELECT (echocache_get('counter', :id) ->> 'n')::int AS n \gset
SELECT CASE WHEN :n < :low THEN 1 / (:n - :n) END;
\endif
});
$s->run(q{CREATE TABLE counter (id int PRIMARY KEY, n int, pad text); INSERT INTO counter SELECT g, 0, repeat('x', 3000) FROM generate_series(1, 400) g;
	SELECT echocache_attach('counter', 'counter')});
$node->command_ok([ 'pgbench', '-n', '-c', '6', '-j', '2', '-T', '10', '-f', $node->basedir . '/load.sql', '-h', $node->host, '-p', $node->port, 'postgres' ],
	'under load nobody reads what was so before');
my $stats = $s->run(q{SELECT local_hits > 100 AND local_evictions > 100 FROM echocache_stats WHERE name = 'counter'});
is($stats, 't', 'with hits and evictions');

#
# Many clients miss one slow document at once: it is made once, and memcached hears of each once.
#
$_->quit for $s, $other;
$node->append_conf('postgresql.conf', "echocache.local_memory = '16MB'\nechocache.fill_wait = '30s'\nechocache.pool_size = 300\n");
$node->restart;
sessions();
wait_state($s, 'UP');
$s->run(q{
	CREATE TABLE slow (id bigint PRIMARY KEY);
	INSERT INTO slow VALUES (1), (2);
	CREATE FUNCTION slow_document(s slow) RETURNS json LANGUAGE plpgsql STABLE AS $$
	BEGIN
		IF s.id = 1 THEN
			RAISE LOG 'made';
			PERFORM pg_sleep(2);
		END IF;
		RETURN json_build_object('id', s.id);
	END $$;
	SELECT echocache_attach('slow', 'slow', document => 'slow_document')});
# all are connected to memcached before they miss it
append_to_file($node->basedir . '/slow.sql', q{
SELECT echocache_get('slow', 2);
SELECT pg_advisory_lock_shared(1);
SELECT echocache_get('slow', 1);
});
long_lease($s, $memcached);
my ($log, $requests);
$s->run(q{SELECT echocache_get('slow', 2); SELECT echocache_invalidate('slow', 1); SELECT pg_advisory_lock(1)});
$log = -s $node->logfile;
my $bench = IPC::Run::start([ 'pgbench', '-n', '-c', '200', '-j', '2', '-t', '1', '-f', $node->basedir . '/slow.sql', '-h', $node->host, '-p', $node->port, 'postgres' ],
	'>', \my $out, '2>', \my $err);
wait_for('200 clients', sub { return $other->run(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) == 200 });
sub requests { my $stats = $memcached->stats; return $stats->{cmd_get} + $stats->{cmd_set} + $stats->{cmd_touch}; }
sleep 0.5;
$requests = requests();
$s->run('SELECT pg_advisory_unlock(1)');
IPC::Run::finish($bench);
is($err =~ s/^pgbench.*\n//mgr, '', 'nothing fails');
like($out, qr{transactions actually processed: 200/200}, '200 clients that miss one document');
is(scalar(() = slurp_file($node->logfile, $log) =~ /LOG:  made/g), 1, 'it is made once');
$requests = requests() - $requests;
note("requests: $requests");
cmp_ok($requests, '>=', 100, 'requests are counted');
cmp_ok($requests, '<=', 210, 'memcached is sent one request by each at most');
is($other->run(q{SELECT echocache_get('slow', 1)}), '{"id" : 1}', 'and it is kept');
is($s->run(q{SELECT timeouts + errors FROM echocache_stats WHERE name = 'slow'}), 0, 'nothing was slow but the document');

$_->quit for $s, $other;
$node->stop;
done_testing();
