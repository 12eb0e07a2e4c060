# Hosts, prefix and toggle change under those who still go by what was before: a
# commit that found the cache off and becomes visible when it is on; one that is prepared
# then; the same right after a start, when there is no launcher and no worker yet; a worker that waits for a server of the old list;
# TRUNCATE by a list whose server is gone; a prefix that is not published yet.
#
# Each was a counterexample of test/model/topology.pml before it was a test.
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

# A writer with synchronous_commit = on stops where its commit is durable and not yet
# visible, until it is cancelled there: there is no such standby.
my ($a, $b, $c, $d) = map { memcached() } 1 .. 4;
my @used = ($a, $b);
my $node = new_node('main', hosts => \@used, conf => q{
echocache.max_write_through = 10
max_prepared_transactions = 10
wal_level = replica
max_wal_senders = 1
synchronous_standby_names = 'nobody'
synchronous_commit = local
log_statement = none
});
my ($s, $holder, $writer, $reader);

sub sessions
{
	$_ = session($node) for $s, $holder, $writer, $reader;
	return;
}

sub row { my ($id, $title) = @_; return qq({"id":$id,"title":"$title"}); }
sub readable { my ($document, $id) = @_; return $s->run("SELECT echocache_get('$document', $id)"); }

# What plain clients find under this key, on any server of the list.
sub plain
{
	my ($key) = @_;

	return join ' ', grep { defined && $_ ne 'null' } map { $_->get($key) } @used;
}

# Change the list of servers and wait until it is published.
sub use_hosts
{
	@used = @_;
	setting($s, 'echocache.hosts' => join ',', map { $_->address } @used);
	wait_for('the new servers', sub {
		return $s->run('SELECT server FROM echocache_servers') eq join "\n", map { $_->address } @used;
	});
	return;
}

sub off
{
	setting($s, 'echocache.enabled' => 'off');
	wait_state($s, 'OFF');
	return;
}

sub on
{
	setting($s, 'echocache.enabled' => 'on');
	wait_for('the cache to be on', sub {
		return $s->run(q{SELECT count(*) FROM echocache_servers WHERE state = 'OFF'}) == 0;
	});
	return;
}

# Test: no server is used while somebody works with what was before.
sub none_up
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	local $EchoCache::quiet = 1;
	my $up = 0;

	# Ten times as long as the worker takes otherwise.
	for (1 .. 20)
	{
		$up = $s->run(q{SELECT count(*) FROM echocache_servers WHERE state = 'UP'}) and last;
		sleep 0.05;
	}
	return is($up, 0, $name);
}

# Test: SQL reads this from the table, twice, and stores nothing.
sub only_read
{
	my ($document, $id, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_deeply([ map { readable($document, $id) } 1 .. 2 ], [ $expected, $expected ], $name);
	return is(plain("$document:$id"), '', 'and a plain client is sent to the database');
}

# Test: SQL reads this, and so does a plain client when it has been filled.
sub cached
{
	my ($document, $id, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(readable($document, $id), $expected, $name);
	return eventually('and it is cached', sub {
		readable($document, $id);
		return plain("$document:$id") eq $expected;
	});
}

# Test: no row of this document is left, for anybody.
sub emptied
{
	my ($document, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(join('', map { readable($document, $_) } 1 .. 3), '', $name);
	return is(join('', map { plain("$document:$_") } 1 .. 40), '', 'and a plain client finds nothing');
}

# Send a statement that commits, and wait until its commit is durable.
sub commit_slowly
{
	my ($sql) = @_;

	$writer->run('SET synchronous_commit = on');
	$writer->send($sql);
	wait_for('the commit', sub {
		return $s->run('SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $writer->pid) eq 'SyncRep';
	});
	return;
}

# Let it become visible, and end.
sub commit_now
{
	$s->run('SELECT pg_cancel_backend(' . $writer->pid . ')');
	defined $writer->finish or die "the commit failed: $writer->{messages}";
	$writer->run('RESET synchronous_commit');
	return;
}

# The child of the postmaster that shows this in its title; 0 if there is none yet.
sub child
{
	my ($title) = @_;
	my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');

	for my $dir (glob '/proc/[0-9]*')
	{
		# Others come and go while we look.
		my ($stat, $command) = eval { map { slurp_file("$dir/$_") } qw(stat cmdline) } or next;
		return $dir =~ s{/proc/}{}r if $stat =~ /\) \S \Q$postmaster\E / && $command =~ /\Q$title\E/;
	}
	return 0;
}

sub stop_process
{
	my ($pid) = @_;

	kill 'STOP', $pid;
	wait_for("$pid to stop", sub { return slurp_file("/proc/$pid/stat") =~ /\) T /; });
	return;
}

sessions();
plan(skip_all => 'built without wait points')
  if $s->run(q{SELECT count(*) FROM pg_settings WHERE name = 'echocache.wait_point'}) == 0;
$s->run('CREATE EXTENSION echocache');
for my $document (qw(session many emptied))
{
	$s->run(qq{CREATE TABLE $document (id bigint PRIMARY KEY, title text);
		SELECT echocache_attach('$document', '$document');
		INSERT INTO $document SELECT g, 'first' FROM generate_series(1, 40) g});
}
wait_state($s, 'UP');

#
# Off and on: who found the cache off has invalidated nothing.  A few documents, more than
# max_write_through, all of a table.
#
my $few = "UPDATE session SET title = '%s' WHERE id <= 3";
my $bulk = "UPDATE many SET title = '%s'";
my $all = 'TRUNCATE emptied';
my %old = (session => 'first', many => 'first');

for my $crash (0, 1)
{
	my $title = $crash ? 'crashed' : 'prepared';
	my $when = $crash ? 'prepared while off, a crash, on' : 'prepared while off, on';

	for my $document (qw(session many emptied))
	{
		cached($document, 1, row(1, $old{$document} // 'first'), "$document is cached before");
	}
	off();
	$writer->run(sprintf "BEGIN; $few; PREPARE TRANSACTION 'few'", $title);
	$writer->run(sprintf "BEGIN; $bulk; PREPARE TRANSACTION 'bulk'", $title);
	$writer->run("BEGIN; $all; PREPARE TRANSACTION 'all'");
	if ($crash)
	{
		$node->stop('immediate');
		$node->start;
		sessions();
	}
	on();
	wait_state($s, 'UP');
	only_read($_, 1, row(1, $old{$_}), "$when: SQL reads the old $_ from the table") for qw(session many);
	cached('session', 40, row(40, 'first'), 'others are cached');
	$reader->send(q{SELECT echocache_get('emptied', 1)});
	wait_for('the reader to wait', sub {
		return $s->run('SELECT wait_event_type FROM pg_stat_activity WHERE pid = ' . $reader->pid) eq 'Lock';
	});
	$s->run("COMMIT PREPARED '$_'") for qw(few bulk all);
	$old{$_} = $title for qw(session many);
	cached($_, 1, row(1, $title), "COMMIT PREPARED: SQL reads the new $_") for qw(session many);
	is($reader->finish, '', 'who has waited for a prepared TRUNCATE reads nothing');
	emptied('emptied', 'nor does anybody else');
	$s->run(q{INSERT INTO emptied SELECT g, 'first' FROM generate_series(1, 40) g});
	coherent($s, \@used, 'the cache is what the table is', filled => 1);
}

for my $case ([ 'a commit', 'session', $few ], [ 'a bulk commit', 'many', $bulk ], [ 'a TRUNCATE', 'emptied', $all ])
{
	my ($what, $document, $sql) = @$case;
	my $truncate = $sql eq $all;

	cached($document, 1, row(1, $old{$document} // 'first'), "$document is cached before");
	off();
	commit_slowly($truncate ? $sql : sprintf $sql, 'in flight');
	on();
	if ($truncate) { none_up("$what that found the cache off is not visible yet, and it is on: no server is used"); }
	else
	{
		wait_state($s, 'UP');
		only_read($document, 1, row(1, $old{$document}), "$what that found the cache off is not visible yet, and the servers are UP");
	}
	commit_now();
	is(readable($document, 1), $truncate ? '' : row(1, 'in flight'), 'it is visible: SQL reads what it has done');
	wait_state($s, 'UP');
	if ($truncate) { emptied($document, 'and when the servers are UP'); }
	else { cached($document, 1, row(1, 'in flight'), 'and when the servers are UP'); }
}
coherent($s, \@used, 'the cache is what the table is', filled => 1);

#
# The same right after a start, before there is a launcher: by what the postmaster has
# published.  The launcher is held up as it starts, by PostgreSQL's own means, for long enough
# to be stopped.
#
my $left = sub {
	for my $id (1 .. 40) { defined $_->get("session:$id") and $_->set("session:$id", row($id, 'stale')) for @used }
};
my $timeouts = sub { return $s->run(q{SELECT timeouts FROM echocache_stats WHERE name = 'session'}) };
$left->();
$node->append_conf('postgresql.conf', "post_auth_delay = 10\nechocache.timeout = '1s'\n");
$node->restart;
my $launcher;
wait_for('the launcher to start', sub { return $launcher = child('echocache launcher'); });
stop_process($launcher);
{
	local $ENV{PGOPTIONS} = '-c post_auth_delay=0';
	sessions();
}
is($s->run('SELECT DISTINCT state FROM echocache_servers'), 'RECOVERING', 'PostgreSQL has started, and no server is used yet');
is(plain('session:1'), row(1, 'stale'), 'a plain client reads what earlier times have left');
is(readable('session', 1), row(1, 'in flight'), 'SQL reads the table');
$s->run(q{UPDATE session SET title = 'at once' WHERE id BETWEEN 4 AND 9});
is_deeply([ grep { /stale/ } map { plain("session:$_") } 4 .. 9 ], [], 'who commits then invalidates it');
$s->run(q{UPDATE session SET title = 'at once' WHERE id >= 10});
is(join('', map { plain("session:$_") } 10 .. 40), '', 'and so does a bulk');
$writer->run(sprintf "BEGIN; $few; PREPARE TRANSACTION 'few'", 'prepared early');
commit_slowly(sprintf $bulk, 'early');
$a->freeze;
$s->run(q{UPDATE session SET title = 'frozen' WHERE id BETWEEN 4 AND 40});
is($timeouts->(), 1, 'a server that does not answer then is waited for');
$s->run(q{UPDATE session SET title = 'frozen' WHERE id BETWEEN 4 AND 40});
is($timeouts->(), 1, 'once');
$a->thaw;
# However long it takes, a commit invalidates.  (One sleep may be interrupted.)
my $later = time + 5;
sleep 0.1 while time < $later;
$left->();
my ($id) = grep { defined $b->get("session:$_") } 4 .. 40;
is(plain("session:$id"), row($id, 'stale'), 'something old again');
$s->run("UPDATE session SET title = 'nobody comes' WHERE id = $id");
unlike(plain("session:$id"), qr/stale/, 'without a launcher commits invalidate all the same');
is(readable('session', $id), row($id, 'nobody comes'), 'and SQL reads the table');
$node->append_conf('postgresql.conf', "post_auth_delay = 0\nechocache.timeout = '5s'\n");
$node->reload;
kill 'CONT', $launcher;
wait_for('a worker', sub { return $s->run(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'echocache worker'}) == 1; });
wait_state($s, 'UP');
only_read('many', 1, row(1, 'in flight'), 'there are a launcher and a worker, but the commit is not visible yet: SQL reads the old document');
commit_now();
is(readable('many', 1), row(1, 'early'), 'it is visible: SQL reads what it has done');
wait_state($s, 'UP');
cached('many', 1, row(1, 'early'), 'and when the servers are UP');
only_read('session', 1, row(1, 'in flight'), 'that of the prepared one is read from the table');
$s->run(q{COMMIT PREPARED 'few'});
cached('session', 1, row(1, 'prepared early'), 'COMMIT PREPARED: SQL reads the new one');
coherent($s, \@used, 'the cache is what the table is', filled => 1);

#
# The worker waits for a server of the old list while the new one is published.  What it
# does next is about that server, not about the one that has its place in the new list.
#
$d->set("session:$_", row($_, 'stale')) for 1 .. 40;
$a->freeze;
off();
on();
wait_for('the worker to wait for a server', sub {
	return $s->run(q{SELECT count(*) FROM pg_stat_activity
		WHERE backend_type = 'echocache worker' AND query = 'recovering server } . $a->address . q{'}) == 1;
});
use_hosts($c, $d);
$a->thaw;
wait_state($s, 'UP');
is_deeply([ grep { readable('session', $_) =~ /stale/ } 1 .. 40 ], [],
	'the worker goes on by the old list: SQL reads no document of a server that was not purged');
is_deeply([ grep { plain("session:$_") =~ /stale/ } 1 .. 40 ], [], 'which was purged before it was UP');
coherent($s, \@used, 'the cache is what the table is', filled => 1);
cmp_ok(scalar(grep { /^session:/ } $d->keys), '>', 0, 'and some of it is on that server');

#
# Another prefix, under which old documents are left: nobody uses it before it is
# published.  The worker, which takes it up, is held up until the launcher is stopped.
#
my ($worker) = $s->run(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'echocache worker'});
my $stale = sub { $_->set("new:session:$_[0]", row($_[0], 'stale')) for @used; };
$stale->($_) for 1 .. 40;
is($reader->run('SELECT echocache_get_session(2)'), row(2, 'prepared early'), 'another session reads, too');
$holder->run('BEGIN; LOCK TABLE pg_extension');
$s->run(q{ALTER DATABASE postgres SET echocache.key_prefix = 'new:'});
$s->run('SELECT pg_reload_conf()');
wait_for('another worker', sub {
	# the one before may have come to the lock before it has seen the reload: let it go on
	$holder->run('COMMIT; BEGIN; LOCK TABLE pg_extension')
	  if $s->run("SELECT wait_event_type FROM pg_stat_activity WHERE pid = $worker") eq 'Lock';
	return $s->run(qq{SELECT count(*) FROM pg_stat_activity
		WHERE backend_type = 'echocache worker' AND pid <> $worker AND wait_event_type = 'Lock'}) == 1;
});
$launcher = $s->run(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'echocache launcher'});
stop_process($launcher);
$holder->run('COMMIT');
wait_for('the worker to take up the prefix', sub {
	return $s->run(q{SELECT count(*) FROM pg_stat_activity
		WHERE backend_type = 'echocache worker' AND state = 'idle' AND wait_event_type = 'Extension'}) == 1;
});
my $new = session($node);
my @sessions = ([ 'a session from before', $s ], [ 'another', $reader ], [ 'a new one', $new ]);
for (@sessions)
{
	my ($who, $session) = @$_;
	my %read = map { split /\t/ } split /\n/, $session->run(
		q{SELECT id || E'\t' || session FROM echocache_get_sessions(ARRAY(SELECT id FROM session))});

	is_deeply([ grep { $read{$_} =~ /stale/ } 1 .. 40 ], [], "a prefix that is not published: $who reads nothing that is left under it");
}
for (@sessions)
{
	my ($who, $session) = @$_;

	$session->run("UPDATE session SET title = 'by $who' WHERE id = 1");
	is($_->[1]->run('SELECT echocache_get_session(1)'), row(1, "by $who"), "what $who writes is read by $_->[0]") for @sessions;
	eventually('and by a plain client, under the old one', sub { return plain('session:1') eq row(1, "by $who"); });
}
kill 'CONT', $launcher;
eventually('it is published: the keys of the old one are purged', sub { return !grep { /^session:/ } map { $_->keys } @used; });
wait_state($s, 'UP');
for (@sessions)
{
	my ($who, $session) = @$_;
	my %read = map { split /\t/ } split /\n/, $session->run(
		q{SELECT id || E'\t' || session FROM echocache_get_sessions(ARRAY(SELECT id FROM session))});

	is_deeply([ grep { $read{$_} =~ /stale/ } 1 .. 40 ], [], "and what was left under the new one: $who reads none of it");
	$session->run("UPDATE session SET title = 'by $who again' WHERE id = 1");
	is($_->[1]->run('SELECT echocache_get_session(1)'), row(1, "by $who again"), "what $who writes is read by $_->[0]") for @sessions;
	eventually('and by a plain client, under the new one', sub { return plain('new:session:1') eq row(1, "by $who again"); });
}
is_deeply([ grep { plain("new:session:$_") =~ /stale/ } 1 .. 40 ], [], 'a plain client finds nothing that was left there');
is_deeply([ grep { /^session:/ } map { $_->keys } @used ], [], 'nobody uses the old one any more');
$new->quit;
$s->run('ALTER DATABASE postgres RESET echocache.key_prefix');
$s->run('SELECT pg_reload_conf()');
eventually('and back', sub { return !grep { /^new:session:/ } map { $_->keys } @used; });
wait_state($s, 'UP');
coherent($s, \@used, 'the cache is what the table is', filled => 1);

#
# A table that is attached by an old list.  Whoever purges the servers of the new one must know it.
#
use_hosts($a, $b);
wait_state($s, 'UP');
$s->run(q{CREATE TABLE late (id bigint PRIMARY KEY, title text); INSERT INTO late SELECT g, 'first' FROM generate_series(1, 40) g});
for my $id (1 .. 40) { $_->set("late:$id", row($id, 'stale')) for $c, $d }
commit_slowly(q{SELECT echocache_attach('late', 'late')});
use_hosts($c, $d);
none_up('a table is attached by an old list, which is not visible yet: no server of the new one is used');
commit_now();
wait_state($s, 'UP');
is_deeply([ grep { readable('late', $_) ne row($_, 'first') } 1 .. 40 ], [], 'SQL reads no document that was left there');
is_deeply([ grep { plain("late:$_") =~ /stale/ } 1 .. 40 ], [], 'nor does a plain client');
$s->run(q{SELECT echocache_detach('late')});

#
# TRUNCATE by an old list, whose server does not answer: it can be cancelled, and one that
# is gone is not waited for.
#
use_hosts($c);
wait_state($s, 'UP');
coherent($s, \@used, 'one server: all documents are cached', filled => 1);
stop_at($holder, 'before-markers', $writer, 'TRUNCATE session');
$c->freeze;
use_hosts($b);
$holder->run('SELECT pg_advisory_unlock_all()');
wait_for('TRUNCATE to wait', sub {
	return $s->run('SELECT wait_event_type FROM pg_stat_activity WHERE pid = ' . $writer->pid) eq 'Extension';
});
$s->run('SELECT pg_cancel_backend(' . $writer->pid . ')');
is($writer->finish, undef, 'TRUNCATE by an old list, whose server is frozen, is cancelled');
like($writer->messages, qr/^57014: /, 'with an error that says so');
$writer->run('RESET echocache.wait_point');
$c->thaw;
wait_state($s, 'UP');
coherent($s, \@used, 'the cache is what the table is', filled => 1);

use_hosts($a);
wait_state($s, 'UP');
coherent($s, \@used, 'another server: all documents are cached', filled => 1);
stop_at($holder, 'before-markers', $writer, 'TRUNCATE session');
$a->stop;
use_hosts($b);
$holder->run('SELECT pg_advisory_unlock_all()');
eventually('TRUNCATE by an old list, whose server is gone, ends', sub {
	return $s->run('SELECT state FROM pg_stat_activity WHERE pid = ' . $writer->pid) eq 'idle';
}) or die 'it goes round and round';
isnt($writer->finish, undef, 'and has committed');
is($s->run('SELECT echocache_get_session(1)'), '', 'SQL reads nothing');
wait_state($s, 'UP');
is($s->run('SELECT echocache_get_session(1)'), '', 'nor when the new server is UP');
is_deeply([ grep { /^session:/ && $b->get($_) ne 'null' } $b->keys ], [], 'nor does a plain client');

$_->quit for $s, $holder, $writer, $reader;
$node->stop;
done_testing();
