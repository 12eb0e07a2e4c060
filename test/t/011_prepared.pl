# Prepared transactions: their documents are invalidated from PREPARE to the end,
# across a crash and with memcached away at either moment; and one that is left
# open makes nobody wait.
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

# What "at once" is, on a machine that is not busy.
my $slack = 1.5;

my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached],
	conf => "echocache.timeout = '2s'\nlog_statement = none\nmax_prepared_transactions = 10\n");
my ($s, $other);

sub sessions
{
	$_ = session($node, sql => q{SET statement_timeout = '60 s'}) for $s, $other;
	return;
}

sub row { my ($id, $title) = @_; return qq({"id":$id,"title":"$title"}); }
sub readable { my ($id) = @_; return $other->run("SELECT echocache_get_session($id)"); }
sub prepare { my ($gid, $sql) = @_; return $s->error("BEGIN; $sql; PREPARE TRANSACTION '$gid'"); }

# Test: SQL reads this from the table, twice, and stores nothing.
sub only_read
{
	my ($id, $title, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @read = map { readable($id) } 1 .. 2;

	is("@read", row($id, $title) . ' ' . row($id, $title), $name);
	return invalidated($memcached, "session:$id", 'and a plain client is sent to the database');
}

# Test: SQL reads this and stores it.
sub cached
{
	my ($id, $title, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(readable($id), row($id, $title), $name);
	return eventually('and it is cached', sub {
		readable($id);
		return ($memcached->get("session:$id") // '') eq row($id, $title);
	});
}

sessions();
$s->run(q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, title text);
	SELECT echocache_attach('session')});
wait_state($s, 'UP');
$s->run(q{INSERT INTO session SELECT g, 'first' FROM generate_series(1, 300) g});
coherent($s, [$memcached], 'all documents are cached', filled => 1);

#
# All is well.
#
is(prepare('p', q{UPDATE session SET title = 'prepared' WHERE id = 1}), 'no error', 'PREPARE TRANSACTION');
only_read(1, 'first', 'prepared: SQL reads the old document, from the table');
is($other->error(q{COMMIT PREPARED 'p'}), 'no error', 'COMMIT PREPARED by another backend');
cached(1, 'prepared', 'committed: SQL reads the new one');

is(prepare('p', q{UPDATE session SET title = 'never' WHERE id = 1}), 'no error', 'PREPARE TRANSACTION');
only_read(1, 'prepared', 'prepared: SQL reads the old document');
is($other->error(q{ROLLBACK PREPARED 'p'}), 'no error', 'ROLLBACK PREPARED by another backend');
cached(1, 'prepared', 'rolled back: SQL reads the old one');

is(prepare('p', q{INSERT INTO session VALUES (1000, 'inserted'); DELETE FROM session WHERE id = 2;
	UPDATE session SET id = 1003 WHERE id = 3;
	SAVEPOINT a; UPDATE session SET title = 'never' WHERE id = 4; ROLLBACK TO a;
	SAVEPOINT b; UPDATE session SET title = 'subtransaction' WHERE id = 5; RELEASE b}), 'no error', 'inserts, deletes, a change of key, subtransactions');
is(readable(1000), '', 'prepared: the inserted row is not read');
only_read($_, 'first', "session:$_ is") for 2, 3, 5;
holds($memcached, 'session:4', row(4, 'first'), 'what was rolled back to a savepoint stays cached');
is($other->error(q{COMMIT PREPARED 'p'}), 'no error', 'COMMIT PREPARED');
cached(@$_) for [ 1000, 'inserted', 'inserted' ], [ 1003, 'first', 'its new key' ], [ 5, 'subtransaction', 'of a subtransaction' ];
is(readable($_), '', "session:$_ is gone") for 2, 3;
coherent($s, [$memcached], 'the cache is what the table is', filled => 1);

#
# PostgreSQL crashes in between.
#
for my $end ('COMMIT', 'ROLLBACK')
{
	my $title = $end eq 'COMMIT' ? 'crashed' : 'prepared';

	is(prepare('p', q{UPDATE session SET title = 'crashed' WHERE id = 1}), 'no error', 'PREPARE TRANSACTION');
	$node->stop('immediate');
	invalidated($memcached, 'session:1', 'PostgreSQL has crashed: a plain client is sent to the database');
	$node->start;
	sessions();
	wait_state($s, 'UP');
	only_read(1, 'prepared', 'after the restart SQL reads the old document');
	is($s->error("$end PREPARED 'p'"), 'no error', "$end PREPARED");
	cached(1, $title, 'SQL reads the right one');
	$s->run(q{UPDATE session SET title = 'prepared' WHERE id = 1});
}

#
# memcached is away when the transaction is prepared.
#
my $told = 0;
for my $fault (qw(frozen killed))
{
	for my $end ('COMMIT', 'ROLLBACK')
	{
		my $title = $end eq 'COMMIT' ? "$fault $end" : 'prepared';

		cached(6, $s->run('SELECT title FROM session WHERE id = 6'), 'cached before');
		$s->run(q{UPDATE session SET title = 'prepared' WHERE id = 6});
		my $log = -s $node->logfile;
		$fault eq 'frozen' ? $memcached->freeze : $memcached->stop;
		is(prepare("$fault $end", qq{UPDATE session SET title = '$fault $end' WHERE id = 6}), 'no error',
			"memcached is $fault: PREPARE TRANSACTION");
		is(readable(6), row(6, 'prepared'), 'SQL reads the old document');
		is($s->run('SELECT waiting FROM echocache_servers'), 0, 'the key that is noted is not visible yet');
		$fault eq 'frozen' ? $memcached->thaw : $memcached->start;
		wait_state($s, 'RECOVERING');
		eventually('memcached is back: echocache_servers names the prepared transaction', sub {
			return $s->run('SELECT last_error FROM echocache_servers') eq qq{waiting for prepared transaction "$fault $end" in database "postgres"};
		});
		is($s->run('SELECT state FROM echocache_servers'), 'RECOVERING', 'for which the server is RECOVERING');
		ok($told++ || $node->log_contains(qr/WARNING:.*prepared transaction "$fault $end" has ended/, $log), 'a warning names it too, once a minute');

		# Nobody waits for it.
		my $took = EchoCache::seconds(sub {
			for my $id (7 .. 26)
			{
				readable($id);
				$s->run("UPDATE session SET title = '$fault $end' WHERE id = $id");
			}
			readable(6);
			$s->run(qq{UPDATE session SET title = 'bulk $fault $end' WHERE id > 100});
		});
		in_time($s, $took, 41 * 0.05 + $slack, 'forty readers and writers and a bulk update go on at once', 100);
		is($s->run('SELECT waiting FROM echocache_servers'), 0, 'they note nothing, but invalidate');
		is($s->run('SELECT state FROM echocache_servers'), 'RECOVERING', 'the server is still RECOVERING');
		cmp_ok(() = slurp_file($node->logfile, $log) =~ /WARNING:.*prepared transaction/g, '<=', 1, 'and the log has no second warning');

		is($other->error("$end PREPARED '$fault $end'"), 'no error', "$end PREPARED");
		wait_state($s, 'UP');
		is($s->run('SELECT count(*) FROM echocache.outbox'), 0, 'then the server is UP, with nothing waiting');
		cached(6, $title, 'SQL reads the right document');
		coherent($s, [$memcached], 'the cache is what the table is', filled => 1);
	}
}

# And PostgreSQL crashes before it has ended.
$memcached->freeze;
is(prepare('crash', q{UPDATE session SET title = 'frozen and crashed' WHERE id = 6}), 'no error', 'memcached is frozen: PREPARE TRANSACTION');
$node->stop('immediate');
$node->start;
sessions();
$memcached->thaw;
eventually('after a crash echocache_servers names the prepared transaction', sub {
	return $s->run('SELECT state, last_error FROM echocache_servers') eq 'RECOVERING|waiting for prepared transaction "crash" in database "postgres"';
});
is($s->error(q{COMMIT PREPARED 'crash'}), 'no error', 'COMMIT PREPARED');
wait_state($s, 'UP');
cached(6, 'frozen and crashed', 'SQL reads the right document');
coherent($s, [$memcached], 'the cache is what the table is', filled => 1);

#
# memcached is away when it ends.
#
for my $end ('COMMIT', 'ROLLBACK')
{
	my $before = $s->run('SELECT title FROM session WHERE id = 6');
	my $title = $end eq 'COMMIT' ? "away at $end" : $before;

	is(prepare('p', qq{UPDATE session SET title = 'away at $end' WHERE id = 6}), 'no error', 'PREPARE TRANSACTION');
	$memcached->freeze;
	my $took = EchoCache::seconds(sub { is($other->error("$end PREPARED 'p'"), 'no error', "memcached is frozen: $end PREPARED") });
	in_time($s, $took, $slack, 'at once');
	is(readable(6), row(6, $title), 'SQL reads the right document');
	$memcached->thaw;
	wait_state($s, 'UP');
	cached(6, $title, 'and when memcached is back');
	coherent($s, [$memcached], 'the cache is what the table is', filled => 1);
}

#
# One that is left open, and all is well: of its documents it bars the filling,
# and nothing else.
#
is(prepare('open', q{UPDATE session SET title = 'open' WHERE id = 50}), 'no error', 'one is left open');
my $took = EchoCache::seconds(sub {
	for my $i (1 .. 20)
	{
		readable(50);
		$s->run(qq{UPDATE session SET title = 'beside $i' WHERE id = 51});
	}
	$s->run(q{UPDATE session SET title = 'bulk' WHERE id <> 50});
});
in_time($s, $took, 41 * 0.05 + $slack, 'readers of its document, writers of others and a bulk update go on at once', 100);
only_read(50, 'first', 'its document is read from the table');
$s->run(q{UPDATE session SET title = 'write-through' WHERE id = 51});
holds($memcached, 'session:51', row(51, 'write-through'), 'others are written through');

# One of many documents, or of all: nothing of this table is stored until it ends.
is(prepare('bulk', q{UPDATE session SET title = 'open bulk' WHERE id BETWEEN 200 AND 299}), 'no error', 'a bulk update is left open too');
$took = EchoCache::seconds(sub {
	readable($_) for 51 .. 70;
	$s->run("UPDATE session SET title = 'beside the bulk' WHERE id = $_") for 51 .. 70;
	$s->run(q{UPDATE session SET title = 'another bulk' WHERE id BETWEEN 71 AND 190});
	$s->run(q{SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session))});
});
in_time($s, $took, 42 * 0.05 + $slack, 'readers, writers and other bulk updates go on at once', 100);
only_read(51, 'beside the bulk', 'they read the table');
$s->run(q{COMMIT PREPARED 'bulk'});
cached(51, 'beside the bulk', 'when it ends, documents are cached again');
cached(200, 'open bulk', 'its own too');
$s->run(q{ROLLBACK PREPARED 'open'});
cached(50, 'first', 'and that of the other');

is(prepare('all', q{TRUNCATE session}), 'no error', 'TRUNCATE in a prepared transaction');
is($s->run(q{ROLLBACK PREPARED 'all'; SELECT count(*) FROM session}), 300, 'rolled back');
coherent($s, [$memcached], 'the cache is what the table is', filled => 1);
is(prepare('all', q{TRUNCATE session; INSERT INTO session VALUES (1, 'after truncate')}), 'no error', 'TRUNCATE again');
is($s->run(q{COMMIT PREPARED 'all'; SELECT count(*) FROM session}), 1, 'committed');
coherent($s, [$memcached], 'the cache is what the table is', filled => 1);

#
# fallback = off: what cannot be invalidated cannot be prepared.
#
setting($s, 'echocache.fallback' => 'off');
$memcached->stop;
like(prepare('strict', q{UPDATE session SET title = 'never' WHERE id = 1}), qr/^08006: /, 'fallback = off: PREPARE fails while memcached is away');
$s->attempt('ROLLBACK');
is($s->run('SELECT count(*) FROM pg_prepared_xacts'), 0, 'nothing was prepared');
$memcached->start;
wait_state($s, 'UP');
coherent($s, [$memcached], 'the cache is what the table is', filled => 1);

$_->quit for $s, $other;
$node->stop;
done_testing();
