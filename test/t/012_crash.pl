# PostgreSQL crashes: a backend killed at every wait point of a commit and of a
# fill, an immediate stop under load, and commits that were in no log yet.  What
# the cache holds afterwards is what the table has.
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
use Time::HiRes qw(sleep time);

my @memcached = map { memcached() } 1 .. 2;
my $node = new_node('main', hosts => \@memcached, conf => q{
echocache.timeout = '3s'
echocache.max_write_through = 10
max_prepared_transactions = 10
log_statement = none
restart_after_crash = on
});
my ($s, $victim);

# Once PostgreSQL accepts them.
sub sessions
{
	$node->poll_query_until('postgres', 'SELECT true') or die 'PostgreSQL does not come back';
	$_ = session($node) for $s, $victim;
	return;
}

sub row { my ($id, $title) = @_; return qq({"id":$id,"title":"$title"}); }

sessions();
$s->run(q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, title text);
	SELECT echocache_attach('session')});
plan(skip_all => 'built without wait points')
  if $s->run(q{SELECT count(*) FROM pg_settings WHERE name = 'echocache.wait_point'}) == 0;
wait_state($s, 'UP');
$s->run(q{INSERT INTO session SELECT g, 'first' FROM generate_series(1, 100) g});

#
# A backend is killed: the postmaster ends the others too, and starts anew.
#
my $fill = sub { return 'SELECT echocache_get_session(1)' };
my $few = sub { return "UPDATE session SET title = '$_[0]' WHERE id <= 3" };
my $bulk = sub { return "UPDATE session SET title = '$_[0]' WHERE id <= 50" };
my $all = sub { return "BEGIN; TRUNCATE session; INSERT INTO session SELECT g, '$_[0]' FROM generate_series(1, 100) g; COMMIT" };
my $warm = sub { return q{SELECT echocache_warm('session')} };
my $verify = sub { return q{SELECT echocache_verify('session')} };
my $prepare = sub { return "BEGIN; UPDATE session SET title = '$_[0]' WHERE id <= 3; PREPARE TRANSACTION 'p'" };

my @cases = (
	(map { [ 'a fill', $fill, $_ ] } qw(fill-locked fill-marked fetch-checked fill-read)),
	(map { [ 'a commit', $few, $_ ] } qw(before-locks after-locks before-markers after-markers before-commit before-store after-store)),
	(map { [ 'a bulk commit', $bulk, $_ ] } qw(after-locks after-markers before-commit)),
	(map { [ 'a TRUNCATE', $all, $_ ] } qw(after-locks after-markers)),
	[ 'a PREPARE', $prepare, 'before-commit' ],
	(map { [ 'a warm', $warm, $_ ] } qw(warm-locked warm-marked)),
	[ 'a verify', $verify, 'verify-got' ],
	(map { [ 'a commit past a frozen server', $few, $_, 'frozen' ] } qw(after-markers before-store)));
# With the second tier; row 101 is in memcached only.
my $new = sub { return 'SELECT echocache_get_session(101)' };
my @local_cases = (
	[ 'a promotion', $new, 'promote-locked' ],
	(map { [ 'a fill', $fill, $_ ] } qw(fill-locked fill-marked fill-read)),
	(map { [ 'a commit', $few, $_ ] } qw(after-locks before-commit before-settle before-store after-store)),
	[ 'a bulk commit', $bulk, 'before-commit' ],
	[ 'a PREPARE', $prepare, 'before-commit' ]);
my %points = map { $_->[2] => 1 } @cases, @local_cases;
my @source = map { slurp_file($_) =~ /ec_waitpoint\("([^"]+)"\)/g } glob "$FindBin::RealBin/../../src/{,*/}*.c";
is_deeply([ sort keys %points ], [ sort keys %{ { map { $_ => 1 } @source } } ], 'every wait point there is has its turn');

for my $case (@cases)
{
	my ($what, $sql, $point, $frozen) = @$case;
	my $round = "$what at $point";
	my $committed = $point =~ /-store$/;

	coherent($s, \@memcached, "$round: all documents are cached before", filled => 1);
	my %old = map { $_ => $s->run("SELECT title FROM session WHERE id = $_") } 1 .. 3;
	my ($home) = grep { defined $_->get('session:1') } @memcached;
	my ($other) = grep { $_ != $home } @memcached;
	$home->delete('session:1') if $sql == $fill || $sql == $warm;
	$other->freeze if $frozen;
	stop_at($s, $point, $victim, $sql->($round));
	kill 'KILL', $victim->pid;
	wait_for('the session to end', sub { return !kill 0, $victim->pid });
	my $plain = $home->get('session:1') // 'null';
	sessions();
	$other->thaw if $frozen;
	if ($point =~ /^(?:fill|fetch|warm|verify)|-locks$|^before-markers$/) { like($plain, qr/^(?:null|\Q@{[ row(1, $old{1}) ]}\E)$/, 'killed: a plain client finds the old document or none'); }
	elsif ($point eq 'after-store') { like($plain, qr/^(?:null|\Q@{[ row(1, $round) ]}\E)$/, 'killed: a plain client finds the new document or none'); }
	else { is($plain, 'null', 'killed: a plain client finds no document'); }
	is($s->run('SELECT title FROM session WHERE id = 1'), $committed ? $round : $old{1}, $committed ? 'it is committed' : 'it never was');
	is($s->run('SELECT count(*) FROM pg_prepared_xacts'), 0, 'nothing is prepared') if $sql == $prepare;
	coherent($s, \@memcached, 'SQL reads what the table has');
	wait_state($s, 'UP');
	coherent($s, \@memcached, 'and when the servers are UP', filled => 1);
}

#
# An immediate stop under load.
#
my $script = PostgreSQL::Test::Utils::tempdir() . '/load.sql';
append_to_file($script, q{
\set id random(1, 100)
\set other random(1, 100)
BEGIN;
UPDATE session SET title = 'load ' || txid_current() WHERE id = :id;
END;
SELECT echocache_get_session(:other);
});
for my $i (1 .. 2)
{
	my $load = IPC::Run::start([ 'pgbench', '-n', '-c', '6', '-T', '60', '-f', $script, $node->connstr('postgres') ],
		'>', \my $out, '2>', \my $err);
	wait_for('the load', sub { return $s->run(q{SELECT count(*) FROM session WHERE title LIKE 'load%'}) > 50 });
	sleep 0.5;
	$node->stop('immediate');
	$load->finish;
	$node->start;
	sessions();
	coherent($s, \@memcached, "stopped under load, $i: SQL reads what the table has");
	wait_state($s, 'UP');
	coherent($s, \@memcached, 'and when the servers are UP', filled => 1);
	$s->run(q{UPDATE session SET title = 'after load'});
}

#
# synchronous_commit = off: what is in no log yet is in no cache.
#
$node->append_conf('postgresql.conf', "wal_writer_delay = '10s'\nwal_writer_flush_after = '1GB'\nautovacuum = off\n");
for my $how ('immediate stop', 'kill of the postmaster')
{
	my $lost = 0;

	$node->restart;
	for my $try (1 .. 5)
	{
		sessions();
		wait_state($s, 'UP');
		# Whatever is committed by now is flushed with this.  (What an earlier try has
		# changed is not changed again by the same title, hence one for each: some of its
		# commits may have been flushed, those before the last.)
		my $title = "nor this, $how $try";
		$s->run("UPDATE session SET title = 'flushed' WHERE id <= 4");
		coherent($s, \@memcached, "$how: all documents are cached before", filled => 1);
		$victim->run(q{SET synchronous_commit = off});
		$victim->run(qq{UPDATE session SET title = 'not flushed' WHERE id <= 3; UPDATE session SET title = '$title'; DELETE FROM session WHERE id = 4});
		my $read = $s->run('SELECT echocache_get_session(1), echocache_get_session(4)');
		# By one exchange each: PostgreSQL flushes by itself after ten seconds.
		my @plain = map { my %held = $_->contents('session:'); values %held } @memcached;
		$how eq 'immediate stop' ? $node->stop('immediate') : $node->kill9;
		is($read, row(1, $title) . '|', 'before the flush SQL reads what is committed');
		if ($how ne 'immediate stop')
		{
			# Its children end by themselves.
			my $pids = sub { return grep { kill 0, $_ } $s->pid, $victim->pid };
			wait_for('the backends to end', sub { return !$pids->() });
			wait_for('PostgreSQL to start', sub { return $node->start(fail_ok => 1) });
		}
		else { $node->start; }
		sessions();
		# (something else may have flushed them, a checkpoint say)
		my %rows = map { $_ => 1 } split /\n/, $s->run('SELECT row_to_json(session) FROM session');
		is_deeply([ grep { $_ ne 'null' && !$rows{$_} } @plain ], [], 'what a plain client found before was flushed');
		$lost = $s->run('SELECT count(*) FROM session WHERE id = 4') == 1;
		wait_state($s, 'UP');
		coherent($s, \@memcached, 'after the restart the cache is what the table is', filled => 1);
		$s->run(q{INSERT INTO session VALUES (4, 'again') ON CONFLICT DO NOTHING});
		last if $lost;
	}
	ok($lost, "$how: a commit was lost indeed");
}

# Once it is flushed it is cached.
$victim->run(q{SET synchronous_commit = off; UPDATE session SET title = 'flushed later' WHERE id = 1});
is($s->run('SELECT echocache_get_session(1)'), row(1, 'flushed later'), 'synchronous_commit = off: SQL reads the new document');
$s->run('CREATE TABLE anything (); CHECKPOINT');
coherent($s, \@memcached, 'which is cached when its commit has been flushed', filled => 1);

#
# The second tier: it is empty after each of them, and right.
#
$node->append_conf('postgresql.conf', "echocache.local_memory = '16MB'\n");
$_->quit for $s, $victim;
$node->restart;
sessions();
sub entries { return $s->run('SELECT entries FROM echocache_memory WHERE name IS NULL'); }
for my $case (@local_cases)
{
	my ($what, $sql, $point) = @$case;
	my $round = "the second tier, $what at $point";

	wait_state($s, 'UP');
	$s->run(q{DELETE FROM session WHERE id = 101; INSERT INTO session VALUES (101, 'in memcached')});
	coherent($s, \@memcached, "$round: all documents are read before") for 1 .. 2;
	cmp_ok(entries(), '>', 90, 'and kept');
	$s->run(q{SELECT echocache_invalidate_session(1)}) if $sql == $fill;
	$s->run(q{UPDATE session SET title = 'stored' WHERE id = 101; SELECT echocache_invalidate_session(101);
		DELETE FROM session WHERE id = 101; INSERT INTO session VALUES (101, 'in memcached')}) if $sql == $new;
	my $old = $s->run('SELECT title FROM session WHERE id = 1');
	stop_at($s, $point, $victim, $sql->($round));
	kill 'KILL', $victim->pid;
	wait_for('the session to end', sub { return !kill 0, $victim->pid });
	sessions();
	is(entries(), 0, 'killed: it is empty');
	is($s->run('SELECT title FROM session WHERE id = 1'), $point =~ /settle|-store$/ ? $round : $old, $point =~ /settle|-store$/ ? 'it is committed' : 'it never was');
	coherent($s, \@memcached, 'SQL reads what the table has') for 1 .. 2;
}

$_->quit for $s, $victim;
$node->stop;
done_testing();
