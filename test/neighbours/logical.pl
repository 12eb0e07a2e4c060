# Logical replication between two databases that both cache the table, in one memcached, with a prefix
# each: the first copy, row filters that rows enter and leave, transactions that are streamed while they
# run, or prepared, TRUNCATE of partitions, and documents of several tables.  Each reads its own rows.
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

my $m = memcached();
my $conf = "log_statement = none\nwal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10\nmax_worker_processes = 20\n"
  . "max_prepared_transactions = 5\nlogical_decoding_work_mem = '64kB'\nechocache.build_timeout = '60s'\n";
my %node = map { $_ => new_node($_, hosts => [$m], conf => "${conf}echocache.key_prefix = '$_/'\n") } qw(from to);
my $tables = q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id int PRIMARY KEY, shared boolean NOT NULL, v text);
	ALTER TABLE session REPLICA IDENTITY FULL;
	CREATE TABLE thread (id int PRIMARY KEY, v text);
	CREATE TABLE post (id int PRIMARY KEY, thread int, v text);
	ALTER TABLE post REPLICA IDENTITY FULL;
	CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE part_a PARTITION OF part FOR VALUES FROM (0) TO (10);
	CREATE TABLE part_b PARTITION OF part FOR VALUES FROM (10) TO (10000);
	CREATE FUNCTION made(t thread) RETURNS json STABLE LANGUAGE sql AS
		$$ SELECT json_build_object('id', t.id, 'v', t.v, 'posts', (SELECT string_agg(p.v, ' ' ORDER BY p.id) FROM public.post p WHERE p.thread = t.id)) $$;
	SELECT echocache_attach('session'), echocache_attach('part', 'part'), echocache_attach('thread', 'thread', document => 'made'),
		echocache_attach_dependent('post', 'thread', 'thread')};
my ($from, $to) = map { session($node{$_}, sql => $tables) } qw(from to);
my %document = (
	session => 'SELECT id, row_to_json(t) FROM session t',
	thread => 'SELECT id, made(t) FROM thread t',
	part => 'SELECT id, row_to_json(t) FROM part t');

# id => document, as SQL makes it, as it is read through the cache, and as a plain client has it.
sub made { my ($s, $name) = @_; return { map { split /\|/, $_, 2 } split /\n/, $s->run($document{$name}) }; }
sub read_all { my ($s, $name) = @_; return { map { split /\|/, $_, 2 } split /\n/, $s->run("SELECT * FROM echocache_get_many('$name', ARRAY(SELECT generate_series(1, 40)))") }; }
sub plain { my ($prefix, $name) = @_; my %held = $m->contents("$prefix/$name:"); return { map { s/.*://r => $held{$_} } grep { $held{$_} ne 'null' } keys %held }; }

# Test: on both sides everybody reads what the table there has, at once and when it is cached.
sub right
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	local $EchoCache::quiet = 1;

	for my $side ([ 'from', $from ], [ 'to', $to ])
	{
		my ($prefix, $s) = @$side;

		wait_state($s, 'UP');
		await_builder($s);
		for my $name (sort keys %document)
		{
			my %expected = %{ made($s, $name) };
			my %few = map { $_ => $expected{$_} } grep { $_ <= 40 } keys %expected;
			my $found = plain($prefix, $name);

			is_deeply({ map { $_ => $found->{$_} } grep { $found->{$_} ne ($expected{$_} // '') } keys %$found }, {}, "$what: a plain client finds nothing old of $prefix/$name");
			is_deeply(read_all($s, $name), \%few, "$what: SQL reads $prefix/$name");
			wait_for("$prefix/$name to be cached", sub { read_all($s, $name); my $held = plain($prefix, $name); return !grep { !defined $held->{$_} } keys %few });
			is_deeply(read_all($s, $name), \%few, "$what: also from the cache");
		}
	}
	return;
}

# Something at the publisher, and what it makes of both.
sub change
{
	my ($what, $sql) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$from->run($sql);
	$node{from}->wait_for_catchup('sub');
	right($what);
	return;
}

$from->run(q{
	INSERT INTO session SELECT g, g % 2 = 0, 'first' FROM generate_series(1, 20) g;
	INSERT INTO thread SELECT g, 'first' FROM generate_series(1, 20) g;
	INSERT INTO post SELECT g, 1 + g % 20, 'p' || g FROM generate_series(1, 60) g;
	INSERT INTO part SELECT g, 'first' FROM generate_series(1, 20) g;
	CREATE PUBLICATION pub FOR TABLE session WHERE (shared), thread, post, part});
# what the subscriber has of its own is cached when the copies come
$to->run(q{INSERT INTO session VALUES (31, true, 'own'); INSERT INTO thread VALUES (31, 'own'); INSERT INTO part VALUES (31, 'own')});
right('before');
my $streaming = $node{to}->pg_version >= 16 ? 'parallel' : 'on';
$to->run('CREATE SUBSCRIPTION sub CONNECTION $$' . $node{from}->connstr('postgres') . "\$\$ PUBLICATION pub WITH (streaming = $streaming, two_phase = on)");
wait_for('the copies', sub { return $to->run(q{SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel}) eq 't' });
right('copied');
is($to->run('SELECT string_agg(id::text, $$ $$ ORDER BY id) FROM session'), '2 4 6 8 10 12 14 16 18 20 31', 'the rows that the filter lets through');
wait_for('transactions to be prepared here, too', sub { return $to->run(q{SELECT subtwophasestate FROM pg_subscription}) eq 'e' });

change('a row that the filter does not let through', q{UPDATE session SET v = 'hidden' WHERE id = 1});
change('rows that enter and leave', q{UPDATE session SET shared = NOT shared, v = 'moved' WHERE id <= 6});
is($to->run(q{SELECT echocache_get_session(1) ->> 'v', coalesce(echocache_get_session(2)::text, 'none')}), 'moved|none', 'one has come, one has gone');
change('rows of several tables', q{BEGIN; UPDATE post SET v = v || '!' WHERE thread <= 3; UPDATE thread SET v = 'second' WHERE id = 2; DELETE FROM post WHERE id = 40; UPDATE post SET thread = 5 WHERE thread = 4; COMMIT});
change('TRUNCATE of a partition', q{TRUNCATE part_a});
change('TRUNCATE of all', q{BEGIN; TRUNCATE part, post; INSERT INTO part SELECT g, 'third' FROM generate_series(1, 20) g; INSERT INTO post VALUES (1, 1, 'only'); COMMIT});

# Prepared there and here: nobody stores it, and nobody waits.
$from->run(q{BEGIN; UPDATE session SET v = 'prepared' WHERE shared; UPDATE post SET v = 'prepared'; PREPARE TRANSACTION 'x'});
wait_for('it to be prepared at the subscriber', sub { return $to->run('SELECT count(*) FROM pg_prepared_xacts') eq '1' });
is($to->run(q{SELECT echocache_get_session(1) ->> 'v'}), 'moved', 'prepared: the old document is read');
invalidated($m, 'to/session:1', 'and no plain client reads it');
change('COMMIT PREPARED', q{COMMIT PREPARED 'x'});
is($to->run(q{SELECT echocache_get_session(1) ->> 'v'}), 'prepared', 'committed: the new one is read');
$from->run(q{BEGIN; UPDATE session SET v = 'never'; PREPARE TRANSACTION 'y'});
wait_for('it to be prepared at the subscriber', sub { return $to->run('SELECT count(*) FROM pg_prepared_xacts') eq '1' });
change('ROLLBACK PREPARED', q{ROLLBACK PREPARED 'y'});

# Large enough to be sent before it ends.
my $streams = q{SELECT stream_txns FROM pg_stat_replication_slots WHERE slot_name = 'sub'};
change('a large transaction', q{BEGIN; INSERT INTO part SELECT g, repeat('x', 100) FROM generate_series(100, 3000) g; UPDATE part SET v = 'large' WHERE id <= 20;
	SAVEPOINT a; UPDATE part SET v = 'never'; ROLLBACK TO a; UPDATE session SET v = 'large'; COMMIT});
eventually('was streamed', sub { $from->run($streams) > 0 });
change('a large one that is rolled back', q{BEGIN; UPDATE part SET v = 'never' || repeat('x', 100); UPDATE session SET v = 'never'; ROLLBACK});

# An origin's failure: what is applied twice, and not at all.
$to->run('ALTER SUBSCRIPTION sub DISABLE');
$from->run(q{UPDATE session SET v = 'while it was off'; UPDATE post SET v = 'while it was off'});
right('switched off');
$to->run('ALTER SUBSCRIPTION sub ENABLE');
change('and on', 'SELECT 1');
is($to->run(q{SELECT DISTINCT v FROM session WHERE id <> 31}), 'while it was off', 'everything has come');

# Nothing is one side's of the other.
is($_->[1]->run(q{SELECT state FROM echocache_servers}), 'UP', "$_->[0] uses the server") for [ 'the publisher', $from ], [ 'the subscriber', $to ];
for my $name (qw(from to))
{
	my $log = slurp_file($node{$name}->logfile);

	unlike($log, qr/PANIC|TRAP|terminated by signal/, "no backend of $name crashed");
	unlike($log, qr/ERROR|cluster uses the keys/, "$name has met no error");
}
$to->run('DROP SUBSCRIPTION sub');

$_->quit for $from, $to;
$_->stop for values %node;
done_testing();
