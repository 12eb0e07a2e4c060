# A database that has no worker, for want of max_worker_processes, while a memcached is away:
# its outbox stays small however much is committed, nothing old is read, on a hot standby
# neither, and the worker that comes one day clears all of it.
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

# Place for the launcher and one worker.
my ($m_a, $m_b) = my @memcached = map { memcached() } 1 .. 2;
my $primary = new_node('primary', hosts => \@memcached, conf => <<'CONF');
max_worker_processes = 2
max_logical_replication_workers = 0
max_parallel_workers_per_gather = 0
max_parallel_maintenance_workers = 0
max_prepared_transactions = 2
wal_level = replica
max_wal_senders = 5
log_statement = none
autovacuum = off
echocache.timeout = '1s'
CONF
session($primary)->run('CREATE DATABASE app');

sub row { my ($id, $title) = @_; return qq({"id":$id,"title":"$title"}); }

my $s = session($primary, dbname => 'app', sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, title text);
	CREATE TABLE other (id bigint PRIMARY KEY);
	SELECT echocache_attach('session'), echocache_attach('other', 'other');
	CREATE PROCEDURE commits(of bigint, n int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. n LOOP
			UPDATE session SET title = 'commit ' || i WHERE id = of;
			COMMIT;
		END LOOP;
	END $$});

sub workers
{
	my $session = session($primary);
	my $result = $session->run(q{SELECT string_agg(datname, ' ') FROM pg_stat_activity WHERE backend_type = 'echocache worker'});

	$session->quit;
	return $result;
}

# How many rows of the outbox are about this server.
sub waiting
{
	my ($server) = @_;

	return $s->run("SELECT count(*) FROM echocache.outbox WHERE server = '@{[ $server->address ]}'");
}

sub restart
{
	my ($mode, $max_worker_processes) = @_;

	$primary->append_conf('postgresql.conf', "max_worker_processes = $max_worker_processes\n");
	$primary->stop($mode);
	$primary->start;
	$s = session($primary, dbname => 'app');
	return;
}

wait_state($s, 'UP');
$s->run(q{INSERT INTO session SELECT g, 'first' FROM generate_series(1, 3000) g});
coherent($s, \@memcached, 'all documents are cached', filled => 1);
my @on_a = sort { $a <=> $b } map { /^session:(\d+)/ } $m_a->keys;
my @on_b = sort { $a <=> $b } map { /^session:(\d+)/ } $m_b->keys;

# A standby that will believe its primary's lease for the next 54 seconds.
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf', "max_worker_processes = 8\n");
$standby->start;
my $hot = session($standby, dbname => 'app');
long_lease($s, @memcached);
wait_state($hot, 'UP');
is($hot->run("SELECT echocache_get_session(id) FROM session WHERE id IN ($on_a[6], $on_b[0]) ORDER BY id"),
	join("\n", map { row($_, 'first') } sort { $a <=> $b } $on_a[6], $on_b[0]), 'the standby reads the cache');

#
# Keys are noted one by one, and then there is no worker any more.
#
$_->freeze for @memcached;
$s->run("UPDATE session SET title = 'noted' WHERE id = $on_a[$_]") for 0 .. 4;
is(waiting($m_a), 5, 'five keys are noted, each by itself');
restart('fast', 1);
$s->run("UPDATE session SET title = 'not noted' WHERE id = $on_a[6]");
is(waiting($m_a), 5, 'without a worker a row that is there is enough, whatever key it is about');
is(waiting($m_b), 0, 'no key of the other server is noted');
$s->run("UPDATE session SET title = 'noted' WHERE id = $on_b[0]");
is(waiting($m_b), 1, 'where there is no row a commit adds one');
$s->run("UPDATE session SET title = 'not noted' WHERE id = $on_b[1]");
is(waiting($m_b), 1, 'which is enough for the next');
is(workers(), '', 'there is no worker');

# The standby reaches the servers again.
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
$_->thaw for @memcached;
for my $server (@memcached)
{
	my $gets = $server->stats->{cmd_get};

	# it asks whose the keys are
	wait_for('the standby to find the server answering', sub { return $server->stats->{cmd_get} > $gets + 3; });
}
for my $id ($on_a[6], $on_b[0], $on_b[1])
{
	my $title = $s->run("SELECT title FROM session WHERE id = $id");

	is($hot->run("SELECT echocache_get_session($id)"), row($id, $title), "the standby reads nothing old: $title");
}
$hot->quit;
$standby->stop;

#
# Thousands of commits, of sessions that stay and of sessions that come and go.
#
my @writers = map { session($primary, dbname => 'app') } 1 .. 3;
$writers[$_]->send("CALL commits($on_a[$_ + 10], 1000)") for 0 .. 2;
$_->finish for @writers;
session($primary, dbname => 'app')->run("CALL commits($on_a[20], 20); CALL commits($on_b[20], 20)") for 1 .. 10;
is(waiting($m_a) . ' ' . waiting($m_b), '5 1', 'after 3,400 commits not a row more');
$s->run(q{DELETE FROM echocache.outbox});
$writers[$_]->send("CALL commits($on_b[$_ + 10], 1000)") for 0 .. 2;
$_->finish for @writers;
my $rows = waiting($m_b);
ok($rows >= 1 && $rows <= 3, 'where none is there, one for each session that commits at that moment') or diag($rows);
$s->run(q{UPDATE session SET title = 'bulk'});
is(waiting($m_a) . ' ' . waiting($m_b), "1 $rows", 'a transaction of three thousand keys adds one');

# What changes as a whole, or is detached, is noted as such, once.
$s->run('TRUNCATE other') for 1 .. 3;
is(waiting($m_a) . ' ' . waiting($m_b), '2 ' . ($rows + 1), 'all documents of a name: one row');
$s->run(q{SELECT echocache_detach('other')});
is(waiting($m_a), 2, 'which is enough for a detach');
$s->run(q{SELECT echocache_attach('other', 'another'); SELECT echocache_detach('another')});
is(waiting($m_a), 3, 'another name is another row');
$s->run(q{SET default_transaction_isolation = 'serializable'; SET default_transaction_deferrable = off});
my $both = session($primary, dbname => 'app', sql => q{SET default_transaction_isolation = 'serializable'});
$s->run("BEGIN; UPDATE session SET title = 'serializable' WHERE id = $on_a[30]");
$both->run("BEGIN; UPDATE session SET title = 'serializable' WHERE id = $on_a[31]");
is($s->error('COMMIT') . ', ' . $both->error('COMMIT'), 'no error, no error', 'serializable transactions do not meet in the outbox');
is(waiting($m_a), 3, 'and need no row either');
$s->run('RESET default_transaction_isolation');

# A prepared transaction whose key is not noted either.
$s->run("BEGIN; UPDATE session SET title = 'prepared' WHERE id = $on_a[40]; PREPARE TRANSACTION 'p'");
is(waiting($m_a), 3, 'a prepared transaction adds nothing');
is($m_a->get("session:$on_a[40]"), row($on_a[40], 'first'), 'the servers answer by now, and what they hold is old');

#
# A crash, and there is a place for the worker.
#
restart('immediate', 2);
eventually('the worker comes, and waits for the prepared transaction', sub {
	return $s->run('SELECT last_error FROM echocache_servers') =~ /waiting for prepared transaction "p"/;
});
is($s->run("SELECT echocache_get_session($on_a[40])"), row($on_a[40], 'bulk'), 'SQL reads the table meanwhile');
$s->run(q{COMMIT PREPARED 'p'});
wait_state($s, 'UP');
is($s->run('SELECT count(*) FROM echocache.outbox'), 0, 'nothing waits any more');
is_deeply([ grep { /^(?:other|another):/ } map { $_->keys } @memcached ], [], 'nothing is left of what was detached');
coherent($s, \@memcached, 'all that was noted, and all that was not, is invalidated', filled => 1);

#
# A worker that has been there, and finds no place after a reload: another database has it.  That
# of the lowest OID comes first.
#
my $postgres = session($primary, sql => q{ALTER DATABASE postgres SET echocache.key_prefix = 'p:'});
$postgres->run('CREATE EXTENSION echocache');
eventually('another database has no worker', sub {
	return slurp_file($primary->logfile) =~ /no background worker slot is free for database "postgres"/;
});
$m_a->freeze;
$s->run("UPDATE session SET title = 'noted' WHERE id = $on_a[0]");
is(waiting($m_a), 1, 'a key is noted while there is a worker');
my $since = $s->run(q{SELECT min(since) FROM echocache_servers WHERE state = 'DOWN'});
$s->run('SELECT pg_reload_conf()');
eventually('after a reload the other one has the place', sub { return workers() eq 'postgres'; });
eventually('before long commits note nothing more', sub {
	my $before = waiting($m_a);

	$s->run("UPDATE session SET title = 'without a worker' WHERE id = $on_a[1]");
	return waiting($m_a) == $before;
});
$rows = waiting($m_a);
$writers[$_] = session($primary, dbname => 'app') for 0 .. 2;
$writers[$_]->send("CALL commits($on_a[$_ + 10], 1000)") for 0 .. 2;
$_->finish for @writers;
session($primary, dbname => 'app')->run("CALL commits($on_a[20], 20)") for 1 .. 5;
is(waiting($m_a), $rows, 'after 3,100 commits not a row more');
is($s->run(q{SELECT min(since) FROM echocache_servers WHERE state = 'DOWN'}), $since, 'it is DOWN since it is DOWN');
$postgres->run('DROP EXTENSION echocache');
eventually('the other one goes, and the place is free', sub { return workers() eq 'app'; });
$m_a->thaw;
wait_state($s, 'UP');
is(waiting($m_a), 0, 'nothing waits any more');
coherent($s, \@memcached, 'the cache is what the table is', filled => 1);

#
# The worker comes while a commit that has added no row is not visible yet.
#
$postgres->run('CREATE EXTENSION echocache');
$m_a->freeze;
restart('fast', 2);
eventually('after a restart the other database has the place', sub { return workers() eq 'postgres'; });
$s->run("UPDATE session SET title = 'noted again' WHERE id = $on_a[0]");
is(waiting($m_a), 1, 'a key is noted');
my ($holder, $late) = map { session($primary, dbname => 'app') } 1 .. 2;
stop_at($holder, 'before-commit', $late, "UPDATE session SET title = 'not noted' WHERE id = $on_a[1]");
session($primary)->run('DROP EXTENSION echocache');
$m_a->thaw;
eventually('a worker comes, and waits for the commit', sub {
	return $s->run('SELECT last_error FROM echocache_servers') =~ /waiting for the transaction of process @{[ $late->pid ]}/;
});
is(waiting($m_a), 1, 'the row that was enough for it is still there');
is($m_a->get("session:$on_a[1]"), row($on_a[1], $s->run("SELECT title FROM session WHERE id = $on_a[1]")), 'and the document that it changes');
go_on($holder, $late);
wait_state($s, 'UP');
is(waiting($m_a), 0, 'it is visible: the server is purged');
coherent($s, \@memcached, 'and the cache is what the table is', filled => 1);

$s->quit;
$primary->stop;
done_testing();
