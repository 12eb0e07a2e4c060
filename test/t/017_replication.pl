# Replication: what logical apply changes is invalidated from the subscriber's own
# memcached; a hot standby uses its primary's, and never writes to it; promoted, or
# started from an older copy beside the same memcached, a cluster trusts nothing that
# is there.
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

my ($m, $m_sub) = (memcached(), memcached());
my $conf = "wal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10\nmax_worker_processes = 20\n"
  . "max_prepared_transactions = 5\nlog_statement = none\n";
my $primary = new_node('primary', hosts => [$m], conf => $conf);
my $subscriber = new_node('subscriber', hosts => [$m_sub], conf => $conf);
my $tables = q{
	CREATE EXTENSION echocache;
	CREATE TABLE owner (id bigint PRIMARY KEY);
	CREATE TABLE session (id bigint PRIMARY KEY, owner bigint REFERENCES owner, v int);
	CREATE TABLE part (id bigint PRIMARY KEY, v int) PARTITION BY RANGE (id);
	CREATE TABLE part_a PARTITION OF part FOR VALUES FROM (0) TO (10);
	CREATE TABLE part_b PARTITION OF part FOR VALUES FROM (10) TO (1000);
	SELECT echocache_attach('session'), echocache_attach('part', 'part')};
my $p = session($primary, sql => $tables);
my $s = session($subscriber, sql => $tables);
$p->run(q{INSERT INTO owner VALUES (7); INSERT INTO session SELECT g, 7, 0 FROM generate_series(1, 5) g;
	INSERT INTO part SELECT g, 0 FROM generate_series(1, 15) g;
	CREATE PUBLICATION pub FOR TABLE owner, session, part WITH (publish_via_partition_root = true)});

# id => document of a table.
sub documents
{
	my ($session, $table) = @_;

	return { map { split /\|/, $_, 2 } split /\n/, $session->run("SELECT id, row_to_json(t) FROM $table t") };
}

# The same for what a plain client is given by a server, without markers.
sub plain
{
	my ($server, $name) = @_;
	my %found;

	for my $key (grep { /^$name:/ } $server->keys)
	{
		my $value = $server->get($key);
		$found{ $key =~ s/.*://r } = $value if defined $value && $value ne 'null';
	}
	return \%found;
}

# The same as SQL reads it through the cache.
sub read_through
{
	my ($session, $name, @ids) = @_;

	return { map { split /\|/, $_, 2 } split /\n/, $session->run("SELECT * FROM echocache_get_many('$name', '{" . join(',', @ids) . "}'::bigint[])") };
}

# Test: a plain client finds nothing that the table does not have, and SQL reads what it has.
sub nothing_old
{
	my ($session, $server, $label, %more) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	for my $table ('session', 'part')
	{
		my $found = plain($server, $table);
		my $expected = documents($session, $table);
		my %wrong = map { $_ => $found->{$_} } grep { ($expected->{$_} // '') ne $found->{$_} } keys %$found;
		my %ids = map { $_ => 1 } keys %$expected, 1 .. 20;

		is_deeply(\%wrong, {}, "$label: a plain client finds nothing old of $table");
		is_deeply(read_through($session, $table, keys %ids), $expected, "$label: nor does SQL");
	}
	return;
}

# Read until everything is cached.
sub warm
{
	my ($session, $server) = @_;

	wait_state($session, 'UP');
	for my $table ('session', 'part')
	{
		my @ids = keys %{ documents($session, $table) };
		wait_for("$table to be cached", sub {
			read_through($session, $table, @ids);
			return keys %{ plain($server, $table) } == @ids;
		});
	}
	return;
}

#
# Logical replication.
#
# The subscriber's synchronous_commit is off unless told otherwise: then nothing may be
# cached before it is on disk, and nothing old be kept either.
for my $synchronous ('off', 'local')
{
	my $label = "synchronous_commit = $synchronous";
	$s->run("TRUNCATE owner CASCADE; TRUNCATE part");
	warm($s, $m_sub);
	$s->run('CREATE SUBSCRIPTION sub CONNECTION $$' . $primary->connstr('postgres') . "\$\$ PUBLICATION pub WITH (synchronous_commit = $synchronous)");
	wait_for('the first copy', sub { return $s->run(q{SELECT bool_and(srsubstate IN ('r', 's')) FROM pg_subscription_rel}) eq 't'; });
	nothing_old($s, $m_sub, "$label: copied");
	is(keys %{ documents($s, 'session') }, 5, 'all of it');
	for my $change (
		[ 'INSERT', q{INSERT INTO session VALUES (6, 7, 0); INSERT INTO part VALUES (16, 0)} ],
		[ 'UPDATE', q{UPDATE session SET v = v + 1 WHERE id = 1; UPDATE part SET v = v + 1 WHERE id IN (1, 11)} ],
		[ 'DELETE', q{DELETE FROM session WHERE id = 2; DELETE FROM part WHERE id IN (2, 12)} ],
		[ 'a change of the key', q{UPDATE session SET id = 20 WHERE id = 3; UPDATE part SET id = 20 WHERE id = 3} ],
		[ 'the key and back', q{UPDATE session SET id = 3 WHERE id = 20; UPDATE part SET id = 3 WHERE id = 20} ],
		[ 'one transaction', q{BEGIN; UPDATE session SET v = 40 WHERE id = 4; SAVEPOINT a; UPDATE session SET v = 50 WHERE id = 5; ROLLBACK TO a;
			UPDATE part SET v = 70; COMMIT} ],
		[ 'a rollback', q{BEGIN; UPDATE session SET v = -1; ROLLBACK; UPDATE part SET v = v + 1 WHERE id = 1} ],
		[ 'more than max_write_through', q{INSERT INTO part SELECT g, 0 FROM generate_series(100, 250) g; UPDATE part SET v = v + 1} ],
		[ 'PREPARE and COMMIT PREPARED', q{BEGIN; UPDATE session SET v = v + 1; PREPARE TRANSACTION 'x'; COMMIT PREPARED 'x'} ],
		[ 'TRUNCATE', q{BEGIN; TRUNCATE part; INSERT INTO part SELECT g, 5 FROM generate_series(1, 15) g; COMMIT} ],
		[ 'TRUNCATE CASCADE', q{TRUNCATE owner CASCADE; INSERT INTO owner VALUES (7); INSERT INTO session SELECT g, 7, 0 FROM generate_series(1, 5) g} ])
	{
		my ($what, $sql) = @$change;

		warm($s, $m_sub);
		$p->run($sql);
		$primary->wait_for_catchup('sub');
		nothing_old($s, $m_sub, "$label: $what");
		warm($s, $m_sub);
		nothing_old($s, $m_sub, "$label: $what, cached again");
	}
	$m_sub->freeze;
	$p->run('UPDATE session SET v = v + 1; UPDATE part SET v = v + 1');
	$primary->wait_for_catchup('sub');
	is_deeply(read_through($s, 'session', 1 .. 20), documents($s, 'session'), "$label: applied with the server frozen: SQL reads the new");
	$m_sub->thaw;
	wait_state($s, 'UP');
	nothing_old($s, $m_sub, "$label: applied with the server frozen, thawed");
	$s->run('DROP SUBSCRIPTION sub');
}
wait_state($p, 'UP');
nothing_old($p, $m, 'the publisher');

#
# A hot standby beside the memcached of its primary.
#
warm($p, $m);
$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->start;
my $h = session($standby);
wait_state($h, 'UP');
is($h->run(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'echocache worker'}), 1, 'standby: there is a worker');

# What has ever been written to the server.
sub writes
{
	my $stats = $m->stats;

	return { map { $_ => $stats->{$_} } grep { /^(?:cmd_(?:set|touch|flush)|(?:cas|delete|touch|incr|decr)_\w+|total_items)$/ } keys %$stats };
}
long_lease($p, $m);
my $before = writes();
my $hits = $m->stats->{get_hits};
is_deeply(read_through($h, 'session', 1 .. 20), documents($h, 'session'), 'standby: reads');
is_deeply(read_through($h, 'part', 1 .. 20), documents($h, 'part'), 'standby: reads of a partitioned table');
cmp_ok($m->stats->{get_hits} - $hits, '>=', 20, 'standby: each of them was a hit');
is($h->run('SELECT sum(hits) FROM echocache_stats'), 20, 'standby: and counted as one');
is($h->run('SELECT echocache_touch_session(1)'), 'f', 'standby: touch does nothing');
for my $function ('invalidate', 'refresh')
{
	my $result = $h->attempt("SELECT echocache_${function}_session(1)");
	ok(defined $result ? $result eq 'f' : $h->messages =~ /^25006: /, "standby: $function says no");
}
is_deeply(writes(), $before, 'standby: nothing was written');

$m->delete('session:1');
$m->set('session:2', 'no document');
$m->set('session:3', 'null');
$before = writes();
for (1 .. 2)
{
	is_deeply(read_through($h, 'session', 1 .. 20), documents($h, 'session'), 'standby: misses, markers and rubbish are read from the table');
}
is($h->run('SELECT echocache_get_session(1)'), documents($h, 'session')->{1}, 'standby: one alone');
is_deeply(writes(), $before, 'standby: and not filled, nor invalidated');
is($m->get('session:1'), undef, 'it is a miss still');
is($h->run(q{SELECT fills, write_throughs, markers FROM echocache_stats WHERE name = 'session'}), '0|0|0', 'standby: nor counted');
like($h->error('SELECT echocache_attach(\'owner\', \'owner\')'), qr/^(?:25006|55000): /, 'standby: attach is refused');
like($h->error('SELECT echocache_detach()'), qr/^(?:25006|55000): /, 'standby: detach is refused');
like($h->error("SELECT echocache_$_('session')"), qr/^25006: /, "standby: $_ is refused") for qw(warm purge verify);
is_deeply(writes(), $before, 'standby: and not attempted');

# Of several addresses it does not know which one is in use: localhost has two.
my $address = $m->address;
setting($h, 'echocache.hosts' => $address =~ s/127\.0\.0\.1/localhost/r);
eventually('standby: a server with several addresses is not trusted', sub {
	return $h->run('SELECT state, last_error FROM echocache_servers') eq 'RECOVERING|which of its addresses is in use is not known';
});
is_deeply(read_through($h, 'session', 1 .. 20), documents($h, 'session'), 'standby: the table is read');
setting($h, 'echocache.hosts' => $address);
wait_state($h, 'UP');

# Written on the primary, read on the standby.
$p->run('SELECT echocache_invalidate_session(2), echocache_get_session(2); UPDATE session SET v = 11 WHERE id = 1');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
is($h->run('SELECT echocache_get_session(1)'), '{"id":1,"owner":7,"v":11}', 'standby: reads what the primary has written through');
$p->run('ALTER TABLE session ADD COLUMN w int');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
is($h->run('SELECT echocache_get_session(1)'), '{"id":1,"owner":7,"v":11,"w":null}', 'standby: and the new shape after DDL');

short_lease($p);
# While the primary has something to invalidate, which a prepared transaction holds up,
# the server is not UP on the standby either.
warm($p, $m);
$m->freeze;
$p->run(q{UPDATE session SET v = 12 WHERE id = 1; UPDATE session SET v = 12 WHERE id = 4; BEGIN; UPDATE session SET v = 13 WHERE id = 2; PREPARE TRANSACTION 'late'});
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
$m->thaw;
wait_state($p, 'RECOVERING');
eventually('primary: a prepared transaction holds up the server, and is named', sub {
	return $p->run('SELECT last_error FROM echocache_servers') =~ /"late"/;
});
# Ten times as long as it takes the standby to look at the server again.
sleep 0.5;
isnt($h->run('SELECT state FROM echocache_servers'), 'UP', 'nor is the server UP on the standby');
isnt($m->get('session:4'), undef, 'the server still has an old document');
isnt($m->get('session:4'), '{"id":4,"owner":7,"v":12,"w":null}', 'and not the new one');
is($h->run('SELECT echocache_get_session(4)'), '{"id":4,"owner":7,"v":12,"w":null}', 'standby: which is not read');
$p->run(q{COMMIT PREPARED 'late'});
wait_state($p, 'UP');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
wait_state($h, 'UP');
is($h->run('SELECT echocache_get_session(4)'), '{"id":4,"owner":7,"v":12,"w":null}', 'standby: the server is UP again');
is($h->run('SELECT echocache_get_session(2)'), '{"id":2,"owner":7,"v":13,"w":null}', 'and nothing on it is old');

# The server dies for the standby alone, so to say.
setting($h, 'echocache.timeout' => '500ms');
$m->freeze;
my $took = seconds(sub { is($h->run('SELECT echocache_get_session(1)'), '{"id":1,"owner":7,"v":12,"w":null}', 'standby: frozen: the table answers') });
in_time($h, $took, 1.5, 'in time');
setting($h, 'echocache.timeout' => '5s');
$m->thaw;
wait_state($h, 'UP');
wait_state($p, 'UP');

#
# Promoted, without the last commits of the primary.
#
warm($p, $m);
$h->run(q{ALTER SYSTEM SET primary_conninfo = ''});
$h->run('SELECT pg_reload_conf()');
wait_for('the receiver to stop', sub { return $h->run('SELECT count(*) FROM pg_stat_wal_receiver') == 0; });
$p->run('UPDATE session SET v = 99; INSERT INTO part VALUES (19, 99)');
$p->run('SELECT count(*) FROM echocache_get_many(\'part\', \'{19}\'::bigint[])');
holds($m, 'session:1', '{"id":1,"owner":7,"v":99,"w":null}', 'the primary caches its last commits');
holds($m, 'part:19', '{"id":19,"v":99}', 'new rows too');
$primary->stop('immediate');
$h->run('SELECT pg_promote()');
is($h->run('SELECT echocache_get_session(1)'), '{"id":1,"owner":7,"v":12,"w":null}', 'promoted: SQL reads what this timeline has, at once');
is($h->run(q{SELECT echocache_get('part', 19)}), '', 'and not what it does not have');
wait_state($h, 'UP');
nothing_old($h, $m, 'promoted');
my $fills = $h->run('SELECT sum(fills) FROM echocache_stats');
warm($h, $m);
cmp_ok($h->run('SELECT sum(fills) FROM echocache_stats'), '>', 0, 'promoted: reads fill');
nothing_old($h, $m, 'promoted and filled');
$h->run('UPDATE session SET v = 14 WHERE id = 1');
holds($m, 'session:1', '{"id":1,"owner":7,"v":14,"w":null}', 'promoted: written through');
is($h->run('SELECT echocache_touch_session(1)'), 't', 'and touched');

#
# An older copy of the data directory, started beside the same memcached.
#
$standby->stop('immediate');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($primary, 'copy');
$copy->start;
my $c = session($copy);
is($c->run('SELECT echocache_get_session(1)'), '{"id":1,"owner":7,"v":1}', 'an older copy: SQL reads what it has, at once');
wait_state($c, 'UP');
nothing_old($c, $m, 'an older copy');
warm($c, $m);
nothing_old($c, $m, 'an older copy, filled');

#
# A commit that waits for a synchronous standby, and is not going to be there if that is promoted: the
# wait ends because its process is to end.  Nobody has been told of the commit, nor are plain clients.
#
setting($c, 'synchronous_standby_names' => 'nobody');
for my $end ('terminated', 'killed')
{
	my $writer = session($copy);

	$writer->send(q{UPDATE session SET v = v + 76 WHERE id = 1});
	wait_for('the commit to wait for its standby', sub {
		return $c->run('SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $writer->pid) eq 'SyncRep' });
	marked($m, 'session:1', "$end: a commit waits for its standby");
	$end eq 'killed' ? $copy->kill9 : $c->run('SELECT pg_terminate_backend(' . $writer->pid . ')');
	wait_for('the process to end', sub { return !kill 0, $writer->pid });
	invalidated($m, 'session:1', "$end: plain clients are not told of it");
	eval { $writer->quit };
	is($c->run('SELECT echocache_get_session(1)'), '{"id":1,"owner":7,"v":77}', "$end: PostgreSQL goes on, and shows it") if $end ne 'killed';
}

for my $node ($primary, $subscriber, $standby, $copy)
{
	unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no backend of ' . $node->name . ' crashed');
}

done_testing();
