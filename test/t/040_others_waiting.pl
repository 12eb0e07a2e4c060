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
my $node = new_node('main', hosts => [$memcached], conf => <<'CONF');
max_worker_processes = 20
echocache.timeout = '1s'
wal_level = replica
max_wal_senders = 1
synchronous_standby_names = 'nobody'
synchronous_commit = local
CONF
my $s = session($node);
my ($other, $second);

# What plain clients find under this key, on any server.
sub plain
{
	my ($key) = @_;

	return join ' ', grep { defined && $_ ne 'null' } map { $_->get($key) } $memcached, $second;
}

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
			IF current_setting('application_name') = 'slow' OR EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4077) THEN
				PERFORM pg_sleep(600);
			END IF;
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
$second = memcached();
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
my @now = ($memcached);

# Publish another list of servers, and test that all of them come to be UP, in both databases.
sub others_go_on
{
	my ($who) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	@now = @now == 1 ? @all : ($memcached);
	$node->append_conf('postgresql.conf', 'echocache.hosts = \'' . join(',', map { $_->address } @now) . "'\n");
	$node->reload;
	wait_for('the list', sub { return $s->run('SELECT count(*) FROM echocache_servers') eq scalar @now });
	return eventually("$who keeps no server from being UP, here or in another database", sub {
		return !grep { $_->run(q{SELECT bool_and(state = 'UP') FROM echocache_servers}) ne 't' } $s, $other;
	});
}

# Send a statement, and wait until somebody's slow code runs in it.
sub run_slowly
{
	my ($session, $sql) = @_;

	$session->run('SET application_name = slow');
	$session->send($sql);
	wait_for('the code', sub { return $s->run('SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $session->pid) eq 'PgSleep' });
	return;
}

for my $case ([ 'fill', '', q{SELECT echocache_get('slow', 1)} ],
	[ 'read that stores nothing', q{BEGIN; CREATE TABLE of_this_transaction ()}, q{SELECT echocache_get('slow', 1)} ],
	[ 'hit', '', q{SELECT echocache_get('by_domain', '1')} ])
{
	my ($what, $before, $sql) = @$case;

	$s->run(q{SELECT echocache_invalidate('slow', 1)});
	$reader->run("RESET application_name; $before");
	run_slowly($reader, $sql);
	others_go_on("slow code of somebody's in a $what");
	$s->run('SELECT pg_cancel_backend(' . $reader->pid . ')');
	$reader->finish;
	$reader->run('ROLLBACK');
	is($s->run(q{SELECT echocache_get('slow', 1)}), '{"id":1,"v":"a"}', 'the document can be read by others');
}

# From the moment on when all of what is cached has been read.
my $holder = session($node);

$_->set('by_domain:1', '{"id":1,"v":"stale"}') for @now;
$reader->run('RESET application_name');
stop_at($holder, 'verify-got', $reader, q{SELECT * FROM echocache_verify('by_domain')});
$s->run('SELECT pg_advisory_lock(4077)');
$holder->run('SELECT pg_advisory_unlock_all()');
wait_for('the code', sub { return $s->run('SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $reader->pid) eq 'PgSleep' });
others_go_on(q{slow code of somebody's in a verify});
$s->run('SELECT pg_advisory_unlock_all(), pg_cancel_backend(' . $reader->pid . ')');
$reader->finish;
$reader->run('RESET echocache.wait_point');

#
# A commit while a fill runs slow code; the builder, which does; a commit that waits for a standby.
#
my $writer = session($node);

$s->run(q{SELECT echocache_invalidate('slow', 1)});
run_slowly($reader, q{SELECT echocache_get('slow', 1)});
is($writer->error(q{UPDATE slow SET v = 'b'}), 'no error', 'a commit does not wait for a slow fill');
others_go_on('who fills the document of a commit');
$s->run('SELECT pg_cancel_backend(' . $reader->pid . ')');
$reader->finish;
is($s->run(q{SELECT echocache_get('slow', 1)}), '{"id":1,"v":"b"}', 'and what was written is read');
$s->run('SELECT pg_advisory_lock(4077)');
$writer->run(q{UPDATE slow SET v = 'c'});
wait_for('the builder', sub { return $s->run(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'echocache builder' AND wait_event = 'PgSleep'}) eq '1' });
others_go_on('a builder at work on slow code');
$s->run(q{SELECT pg_advisory_unlock_all(), pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'echocache builder'});
is($s->run(q{SELECT echocache_get('slow', 1)}), '{"id":1,"v":"c"}', 'what it was to make is read');

# Send a statement whose commit waits for a standby that does not come.
sub commit_slowly
{
	my ($sql) = @_;

	$writer->run('SET synchronous_commit = on');
	$writer->send($sql);
	wait_for('the commit', sub { return $s->run('SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $writer->pid) eq 'SyncRep' });
	return;
}

commit_slowly(q{UPDATE session SET v = 'replicated'});
others_go_on('a commit that waits for a standby');
is($s->run(q{SELECT echocache_get_session(1)}), '{"id":1,"v":"d"}', 'what it has written is not visible yet');
$s->run('SELECT pg_cancel_backend(' . $writer->pid . ')');
isnt($writer->finish, undef, 'it ends');
is($s->run(q{SELECT echocache_get_session(1)}), '{"id":1,"v":"replicated"}', 'and is read');
eventually('and cached', sub { $s->run(q{SELECT echocache_get_session(1)}); return plain('session:1') eq '{"id":1,"v":"replicated"}' });

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
eventually('who waits for a lock of a table holds none that a commit looks at', sub {
	# -5115 is the one that fills alone take
	return $s->run("SELECT count(*) FROM pg_locks WHERE pid = $pid AND locktype = 'advisory' AND objsubid <> -5115") eq '0';
});
is($locker->error('COMMIT'), 'no error', 'the holder commits');
like($reader->finish, qr/{"id":1,"v":"[ab]"}/, 'and the reader reads');

#
# Who attaches a table is waited for to the end, and named.
#
$s->run('CREATE TABLE attached (id int PRIMARY KEY)');
commit_slowly(q{SELECT echocache_attach('attached', 'attached')});
$pid = $writer->pid;
$node->append_conf('postgresql.conf', 'echocache.hosts = \'' . $second->address . "'\n");
$node->reload;
wait_for('the name of who holds it up', sub {
	return $s->run('SELECT state, last_error FROM echocache_servers') eq
		qq{RECOVERING|waiting for process $pid in database "postgres", which uses an older list of servers};
});
pass('last_error names the process and its database');
$s->run("SELECT pg_cancel_backend($pid)");
$writer->finish;
wait_state($s, 'UP', $second);
# The worker of each database says so, and takes it back when it has looked again.
eventually('and forgets it afterwards', sub { return $s->run(q{SELECT coalesce(last_error, '') FROM echocache_servers}) eq ''; });

done_testing();
