# What others do for long does not keep a server from being UP, and who does is named.
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
my $node = new_node('main', hosts => [$memcached], conf => "max_worker_processes = 20\nechocache.timeout = '1s'\n");
my $s = session($node);
my $other;

$s->run(q{
	CREATE EXTENSION echocache;
	CREATE ROLE alice LOGIN;
	GRANT CREATE ON SCHEMA public TO alice;
	SET ROLE alice;
	CREATE TABLE session (id int PRIMARY KEY, v text);
	INSERT INTO session VALUES (1, 'a');
	SELECT echocache_attach('session');
	CREATE TABLE held (id int PRIMARY KEY, v text);
	INSERT INTO held VALUES (1, 'a');
	SELECT echocache_attach('held', 'held');
	CREATE FUNCTION slow(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
		BEGIN
			IF current_setting('application_name') = 'slow' THEN PERFORM pg_sleep(600); END IF;
			RETURN true;
		END $$;
	CREATE TABLE slow (id int PRIMARY KEY, v text);
	INSERT INTO slow VALUES (1, 'a');
	SELECT echocache_attach('slow', 'slow', filter => 'public.slow(v)');
	RESET ROLE});
wait_state($s, 'UP', $memcached);

#
# A detach in a transaction that stays open, while the server is away.
#
my $detacher = session($node);
is($s->run(q{SELECT echocache_get('held', 1)}), '{"id":1,"v":"a"}', 'a document is cached');
$memcached->stop;
$s->run(q{UPDATE session SET v = 'b'});
$detacher->run(q{BEGIN; SELECT echocache_detach('held')});
$memcached->start;
wait_state($s, 'UP', $memcached);
pass('a detach that is left open does not keep the server from being UP');
is($s->run(q{SELECT echocache_get_session(1)}), '{"id":1,"v":"b"}', 'another table is read');
is($s->run(q{SELECT echocache_get_session(1)}), '{"id":1,"v":"b"}', 'again');
holds($memcached, 'session:1', '{"id":1,"v":"b"}', 'and cached');
$memcached->set('held:1', '{"id":1,"v":"stale"}');
$detacher->run('COMMIT');
is($memcached->get('held:1'), undef, 'the commit of the detach takes its documents out of the cache');

# The same while the server is away to the end: the worker does it.
$s->run(q{SELECT echocache_attach('held', 'held')});
$s->run(q{SELECT echocache_get('held', 1)});
$memcached->freeze;
$s->run(q{UPDATE session SET v = 'c'});
$s->run(q{SELECT echocache_detach('held')});
is($s->run(q{SELECT count(*) FROM echocache.outbox WHERE document = 'held'}), 1, 'a detach while the server is away is in the outbox');
$memcached->thaw;
wait_for('the outbox', sub { return $s->run('SELECT count(*) FROM echocache.outbox') eq '0' });
is($memcached->get('held:1'), undef, 'from where the worker takes it');

# Rolled back, in a subtransaction and as a whole.
$s->run(q{SELECT echocache_attach('held', 'held')});
$memcached->stop;
$s->run(q{UPDATE session SET v = 'd'});
$s->run(q{
	BEGIN;
	SAVEPOINT a;
	SELECT echocache_detach('held');
	ROLLBACK TO a;
	COMMIT});
is($s->run(q{SELECT count(*) FROM echocache.outbox WHERE document = 'held'}), 0, 'a detach that is rolled back leaves nothing in the outbox');
is($s->run(q{SELECT count(*) FROM echocache_documents WHERE name = 'held'}), 1, 'nor anything undone');
$memcached->start;
wait_state($s, 'UP', $memcached);

#
# A filter that takes its time in a fill, while the list of servers changes.
#
my $reader = session($node);
my $second = memcached();
my $pid;

$s->run('CREATE DATABASE other');
$s->run(q{ALTER DATABASE other SET echocache.key_prefix = 'other/'});
$other = session($node, dbname => 'other');
$other->run(q{CREATE EXTENSION echocache});
$s->run(q{
	SET ROLE alice;
	CREATE DOMAIN slow_key AS numeric CHECK (public.slow(value::text));
	CREATE TABLE by_domain (id slow_key PRIMARY KEY, v text);
	INSERT INTO by_domain VALUES (1, 'a');
	SELECT echocache_attach('by_domain', 'by_domain');
	SELECT echocache_get('by_domain', '1');
	RESET ROLE});
holds($memcached, 'by_domain:1', '{"id":1,"v":"a"}', 'a key with a check of its own');

my @all = ($memcached, $second);
for my $case ([ 'fill', '', q{SELECT echocache_get('slow', 1)} ],
	[ 'read that stores nothing', q{BEGIN; CREATE TABLE of_this_transaction ()}, q{SELECT echocache_get('slow', 1)} ],
	[ 'hit', '', q{SELECT echocache_get('by_domain', '1')} ])
{
	my ($what, $before, $read) = @$case;
	my @now = $what =~ /stores/ ? ($memcached) : @all;

	$s->run(q{SELECT echocache_invalidate('slow', 1)});
	$reader->run("SET application_name = slow; $before");
	my $pid = $reader->run('SELECT pg_backend_pid()');
	$reader->send($read);
	wait_for('the code', sub { return $s->run("SELECT wait_event FROM pg_stat_activity WHERE pid = $pid") eq 'PgSleep' });
	$node->append_conf('postgresql.conf', 'echocache.hosts = \'' . join(',', map { $_->address } @now) . "'\n");
	$node->reload;
	wait_for('the list', sub { return $s->run('SELECT count(*) FROM echocache_servers') eq scalar @now });
	wait_state($other, 'UP', @now);
	wait_state($s, 'UP', @now);
	pass("slow code of somebody's in a $what keeps no server from being UP, here or in another database");
	$s->run("SELECT pg_cancel_backend($pid)");
	$reader->finish;
	$reader->run('ROLLBACK');
	is($s->run(q{SELECT echocache_get('slow', 1)}), '{"id":1,"v":"a"}', 'the document can be read by others');
}

#
# A filter's function that waits for a lock, whose holder commits a change of the document.
#
$s->run(q{
	SET ROLE alice;
	CREATE TABLE setting (v text);
	CREATE FUNCTION as_set(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
		BEGIN
			PERFORM 1 FROM public.setting;
			RETURN true;
		END $$;
	CREATE TABLE filtered (id int PRIMARY KEY, v text);
	INSERT INTO filtered VALUES (1, 'a');
	SELECT echocache_attach('filtered', 'filtered', filter => 'public.as_set(v)');
	RESET ROLE});
my $locker = session($node);
$reader->run('RESET application_name');
$locker->run(q{BEGIN; LOCK TABLE setting; UPDATE filtered SET v = 'b'});
$pid = $reader->run('SELECT pg_backend_pid()');
$reader->send(q{SELECT echocache_get('filtered', 1)});
wait_for('the reader', sub { return $s->run("SELECT count(*) FROM pg_locks WHERE pid = $pid AND NOT granted AND relation = 'setting'::regclass") eq '1' });
eventually('who waits for a lock of a table has given up its own', sub {
	return $s->run("SELECT count(*) FROM pg_locks WHERE pid = $pid AND locktype = 'advisory' AND mode <> 'AccessShareLock'") eq '0';
});
is($locker->error('COMMIT'), 'no error', 'the holder commits');
like($reader->finish, qr/{"id":1,"v":"[ab]"}/, 'and the reader reads');

#
# A commit of somebody's that takes its time is waited for, and named.
#
my $writer = session($node);
$writer->run(q{SET application_name = slow});
$pid = $writer->run('SELECT pg_backend_pid()');
$writer->send(q{UPDATE slow SET v = 'b'});
wait_for('the filter', sub { return $s->run("SELECT wait_event FROM pg_stat_activity WHERE pid = $pid") eq 'PgSleep' });
$node->append_conf('postgresql.conf', 'echocache.hosts = \'' . $memcached->address . "'\n");
$node->reload;
wait_for('the name of who holds it up', sub {
	return $s->run('SELECT state, last_error FROM echocache_servers') eq
		qq{RECOVERING|waiting for process $pid in database "postgres", which uses an older list of servers};
});
pass('last_error names the process and its database');
$s->run("SELECT pg_terminate_backend($pid)");
wait_state($s, 'UP', $memcached);
# The worker of each database says so, and takes it back when it has looked again.
eventually('and forgets it afterwards', sub { return $s->run(q{SELECT coalesce(last_error, '') FROM echocache_servers}) eq ''; });

done_testing();
