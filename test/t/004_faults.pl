# A memcached that is killed, freezes, talks nonsense or is switched off: the
# database goes on, no statement waits longer than echocache.timeout, nobody waits
# twice, and what comes back is never stale.
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

# What is not the wait for a server takes less, on a machine that is not busy.
my $slack = 0.8;

my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached], conf => "echocache.timeout = '1s'\nlog_statement = none\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, owner bigint, title text);
	SELECT echocache_attach('session', owner_column => 'owner')});
my $other = session($node);
wait_state($s, 'UP');
$s->run(q{INSERT INTO session SELECT g, 7, 'first' FROM generate_series(1, 40) g});
my $read = 'SELECT echocache_get_session(1)';

sub row { my ($id, $title) = @_; return qq({"id":$id,"owner":7,"title":"$title"}); }

# The state as this session sees it.
sub state_of { return $_[0]->run('SELECT state FROM echocache_servers'); }

#
# Killed.
#
is($s->run($read), row(1, 'first'), 'a hit');
is($s->run('SELECT echocache_is_available()'), 't', 'available');
$memcached->stop;
my $took = seconds(sub { is($s->run($read), row(1, 'first'), 'killed: the table answers') });
in_time($s, $took, 1 + $slack, 'after echocache.timeout at most');
is(state_of($other), 'DOWN', 'every other backend sees it DOWN');
is($s->run('SELECT echocache_is_available()'), 'f', 'not available');
isnt($s->run('SELECT last_error FROM echocache_servers'), '', 'with the reason');
cmp_ok($s->run('SELECT extract(epoch FROM now() - since) FROM echocache_servers'), '<', 10, 'and since when');
is($s->run(q{UPDATE session SET title = 'while down' WHERE id = 1; SELECT title FROM session WHERE id = 1}), 'while down',
	'killed: a commit goes on');
is($s->run(q{SELECT session FROM echocache_get_sessions('{1,2,99}'::bigint[])}), row(1, 'while down') . "\n" . row(2, 'first'),
	'get_sessions too');
is($s->run('SELECT echocache_get_session(1, 7)'), row(1, 'while down'), 'the right owner');
is($s->run('SELECT echocache_get_session(1, 8)'), '', 'and a wrong one');
is($s->run('SELECT echocache_touch_session(1)'), 'f', 'touch finds nothing');
is($s->error('SELECT echocache_invalidate_session(1), echocache_refresh_session(1)'), 'no error', 'invalidate and refresh go on');
$memcached->start;
wait_state($s, 'UP');
is($s->run($read), row(1, 'while down'), 'started again: read through');
holds($memcached, 'session:1', row(1, 'while down'), 'and cached');
$s->run(q{UPDATE session SET title = 'up again' WHERE id = 1});
holds($memcached, 'session:1', row(1, 'up again'), 'and written through');
is(state_of($other), 'UP', 'every other backend sees it UP');

# Down and up between two statements of one session: its kept connection is dead.
$memcached->stop;
$memcached->start;
is($s->run($read), row(1, 'up again'), 'restarted between two statements: the read is right');
$s->run(q{UPDATE session SET title = 'after restart' WHERE id = 1});
wait_state($s, 'UP');
is($s->run($read), row(1, 'after restart'), 'so is the next');
wait_for('the document to be cached', sub { $s->run($read); return ($memcached->get('session:1') // '') eq row(1, 'after restart') });
is($other->run($read), row(1, 'after restart'), 'and for a session that had nothing to do with it');

# Inside a transaction, which goes on.
$s->run(q{BEGIN; UPDATE session SET title = 'in transaction' WHERE id = 2; SELECT echocache_get_session(3)});
$memcached->stop;
is($s->run('SELECT echocache_get_session(3)'), row(3, 'first'), 'killed in mid-transaction: the read is right');
is($s->error('COMMIT'), 'no error', 'and the commit goes on');
is($s->run('SELECT title FROM session WHERE id = 2'), 'in transaction', 'with its change');
$memcached->start;
wait_state($s, 'UP');

# Several commits as the first to notice, and rollbacks.
$memcached->stop;
$took = seconds(sub { $s->run(q{UPDATE session SET title = 'noticed by a commit' WHERE id = 4}) });
in_time($s, $took, 1 + $slack, 'a commit that notices waits for echocache.timeout at most');
is(state_of($other), 'DOWN', 'and tells everybody');
$memcached->start;
wait_state($s, 'UP');
is($s->run('SELECT echocache_get_session(4)'), row(4, 'noticed by a commit'), 'its document is the new one');

#
# Frozen: it accepts connections and never answers, and its memory stays.
#
$s->run('SELECT echocache_get_sessions(ARRAY(SELECT id FROM session))');
holds($memcached, 'session:5', row(5, 'first'), 'cached before');
$memcached->freeze;
$took = seconds(sub { is($s->run('SELECT echocache_get_session(5)'), row(5, 'first'), 'frozen: the table answers') });
cmp_ok($took, '>', 0.8, 'after waiting for it');
in_time($s, $took, 1 + $slack, 'for echocache.timeout once');
$s->run('SELECT echocache_get_session(5)') for 2 .. 3;
is(state_of($other), 'DOWN', 'the third such read in a row is the last: every other backend sees it DOWN');
my $failures = q{SELECT sum(timeouts + errors) FROM echocache_stats};
my $before = $s->run($failures);
$took = seconds(sub {
	for my $id (6 .. 15)
	{
		$other->run("SELECT echocache_get_session($id)");
		$s->run("UPDATE session SET title = 'while frozen' WHERE id = $id");
	}
});
is($s->run($failures), $before, 'twenty statements later nobody has asked it again');
in_time($s, $took, 5, 'let alone waited each time');
my $new = session($node);
$took = seconds(sub { $new->run($read) });
in_time($s, $took, $slack, 'nor does a new backend');
$new->quit;
$memcached->thaw;
is($s->run('SELECT echocache_get_session(6)'), row(6, 'while frozen'), 'thawed: SQL reads the new document at once');
wait_state($s, 'UP');
for my $id (6 .. 15)
{
	isnt($memcached->get("session:$id") // 'null', row($id, 'first'), "session:$id: the old document is gone when the server is UP");
	is($s->run("SELECT echocache_get_session($id)"), row($id, 'while frozen'), 'the new one is read');
	holds($memcached, "session:$id", row($id, 'while frozen'), 'and cached');
}

# Frozen while a commit is to invalidate.
holds($memcached, 'session:16', row(16, 'first'), 'cached before') if $s->run('SELECT echocache_get_session(16)');
$memcached->freeze;
$took = seconds(sub { $s->run(q{UPDATE session SET title = 'committed frozen' WHERE id = 16}) });
cmp_ok($took, '>', 0.8, 'frozen: a commit waits');
in_time($s, $took, 1 + $slack, 'for echocache.timeout once');
is($other->run('SELECT echocache_get_session(16)'), row(16, 'committed frozen'), 'and is seen by SQL');
$memcached->thaw;
wait_state($s, 'UP');
# What had been sent before the freeze is applied late; it may cost a miss, no more.
sleep 0.2;
isnt($memcached->get('session:16') // 'null', row(16, 'first'), 'a plain client does not find the old one');
is($s->run('SELECT echocache_get_session(16)'), row(16, 'committed frozen'), 'nor does SQL');

# A transaction of many keys and of several statements: one wait for each at most.
$memcached->freeze;
$took = seconds(sub { $s->run(q{BEGIN; UPDATE session SET title = 'many' WHERE id BETWEEN 20 AND 39;
	SELECT count(*) FROM echocache_get_sessions('{1,2,3}'::bigint[]); SELECT echocache_get_session(1); COMMIT}) });
in_time($s, $took, 3 + $slack, 'one wait for each list of keys, each read, and the commit');
$memcached->thaw;
wait_state($s, 'UP');

# Frozen between the two steps of a commit: it is committed, and the document
# that was to be stored is not.
SKIP:
{
	skip 'built without wait points', 3
	  if $s->run(q{SELECT count(*) FROM pg_settings WHERE name = 'echocache.wait_point'}) == 0;
	my $point = 'before-store';
	$other->run("SELECT pg_advisory_lock(hashtext('$point'))");
	$s->run("SET echocache.wait_point = '$point'");
	$s->send(q{UPDATE session SET title = 'stored late' WHERE id = 17});
	wait_for('the commit to reach its wait point', sub {
		return $other->run("SELECT wait_event FROM pg_stat_activity WHERE pid = " . $s->pid) eq 'advisory';
	});
	marked($memcached, 'session:17', 'between the steps of a commit a plain client finds a marker');
	$memcached->freeze;
	$took = seconds(sub { $other->run("SELECT pg_advisory_unlock_all()"); isnt($s->finish, undef, 'the commit succeeds') });
	in_time($s, $took, 1 + $slack, 'after echocache.timeout at most');
	$s->run('RESET echocache.wait_point');
	$memcached->thaw;
	wait_state($s, 'UP');
	is($s->run('SELECT echocache_get_session(17)'), row(17, 'stored late'), 'and its document is the new one');
}

#
# A wait ends when the user says so.
#
setting($s, 'echocache.timeout' => '15 s');
$memcached->freeze;
$took = seconds(sub { like($s->error(q{SET statement_timeout = '300 ms'; SELECT echocache_get_session(1)}), qr/^57014: .*statement timeout/,
	'statement_timeout ends a wait') });
in_time($other, $took, 0.3 + 2 * $slack, 'in time');
$s->run('RESET statement_timeout');
$memcached->thaw;
wait_state($s, 'UP');
is($s->run('SELECT echocache_get_session(1)'), row(1, 'after restart'), 'the session goes on');

for my $wait ([ 'a read', 'SELECT echocache_get_session(18)' ],
	[ 'a commit', q{UPDATE session SET title = 'cancelled' WHERE id = 18} ])
{
	my ($what, $sql) = @$wait;
	$memcached->freeze;
	$s->send($sql);
	wait_for("$what to wait for the server", sub {
		return $other->run('SELECT state || wait_event_type FROM pg_stat_activity WHERE pid = ' . $s->pid) eq 'activeExtension';
	});
	$took = seconds(sub {
		$other->run('SELECT pg_cancel_backend(' . $s->pid . ')');
		is($s->finish, undef, "cancel ends the wait of $what");
	});
	like($s->messages, qr/^57014: .*user request/, 'and is an ordinary cancel');
	in_time($s, $took, 2 * $slack, 'in time');
	$memcached->thaw;
	wait_state($s, 'UP');
	is($s->run('SELECT title FROM session WHERE id = 18'), 'first', 'nothing was changed');
	is($s->run('SELECT echocache_get_session(18)'), row(18, 'first'), 'and that is what is read');
}
setting($s, 'echocache.timeout' => '300 ms');

#
# Servers that say something else.  The answer to one exchange must never be
# taken for the answer to the next.
#
my $mute = rogue();
for my $case (
	[ 'never answers', $mute ],
	[ 'talks nonsense', rogue(answer => "220 mail.example.org ESMTP\r\n") ],
	[ 'answers without end', rogue(answer => 'x' x 10000) ],
	[ 'answers with a document for everything', rogue(answer => qq(VA 18 c1 O1 f0\r\n{"forged":"value"}\r\n)) ],
	[ 'says HD to everything', rogue(answer => "HD\r\n") ],
	[ 'says HD with a token to everything', rogue(answer => "HD c1\r\n") ],
	[ 'announces a huge value', rogue(answer => "VA 4294967295 c1\r\n") ],
	[ 'announces a negative value', rogue(answer => "VA -1 c1\r\n") ],
	[ 'says SERVER_ERROR', rogue(answer => "SERVER_ERROR out of memory\r\n") ])
{
	my ($what, $rogue) = @$case;
	setting($s, 'echocache.hosts' => $rogue->address);
	wait_for('the new server to appear', sub { return $s->run('SELECT server FROM echocache_servers') eq $rogue->address });
	wait_for('a connection', sub { return $rogue->connections > 0 });
	sleep 0.2;
	for my $i (1 .. 3)
	{
		is($s->run("SELECT echocache_get_session(19)"), row(19, $i == 1 ? 'first' : 'rogue ' . ($i - 1)), "a server that $what: read $i");
		$s->run("UPDATE session SET title = 'rogue $i' WHERE id = 19");
	}
	$s->run(q{UPDATE session SET title = 'first' WHERE id = 19});
	isnt(state_of($s), 'UP', 'is not trusted');
}

#
# fallback = off.
#
setting($s, 'echocache.hosts' => $memcached->address, 'echocache.fallback' => 'off', 'echocache.timeout' => '2 s');
wait_for('the old server to appear', sub { return $s->run('SELECT server FROM echocache_servers') eq $memcached->address });
wait_state($s, 'UP');
is($s->run($read), row(1, 'after restart'), 'fallback = off: a read');
$s->run(q{UPDATE session SET title = 'strict' WHERE id = 1});
holds($memcached, 'session:1', row(1, 'strict'), 'and a write, while the server is there');
my $refusal = qr/^(?:58030|08006): .*(?s:.*)HINT:  /;
$memcached->stop;
like($s->error($read), $refusal, 'fallback = off: a read fails');
like($s->error($read), $refusal, 'and the next');
like($s->error(q{SELECT * FROM echocache_get_sessions('{1,2}'::bigint[])}), $refusal, 'get_sessions too');
like($s->error(q{UPDATE session SET title = 'aborted' WHERE id = 1}), $refusal, 'a commit is aborted');
like($s->error(q{BEGIN; UPDATE session SET title = 'aborted' WHERE id = 1; COMMIT}), $refusal, 'an explicit one too');
is($s->run('SELECT title FROM session WHERE id = 1'), 'strict', 'and nothing was changed');
is($s->error('CREATE TABLE unrelated (id int); INSERT INTO unrelated VALUES (1); SELECT * FROM session'), 'no error',
	'what does not need the cache goes on');
$memcached->start;
wait_state($s, 'UP');
is($s->run($read), row(1, 'strict'), 'started again: a read');
$s->run(q{UPDATE session SET title = 'strict again' WHERE id = 1});
holds($memcached, 'session:1', row(1, 'strict again'), 'and a write');
$memcached->freeze;
$took = seconds(sub { like($s->error(q{UPDATE session SET title = 'aborted' WHERE id = 1}), $refusal, 'frozen: a commit is aborted') });
in_time($s, $took, 2 + $slack, 'after echocache.timeout at most');
$took = seconds(sub { like($s->error($read), $refusal, 'and a read fails') });
in_time($s, $took, $slack, 'at once');
$memcached->thaw;
wait_state($s, 'UP');
is($s->run($read), row(1, 'strict again'), 'thawed: the document of the last commit');
setting($s, 'echocache.fallback' => 'on');

#
# enabled = off: not one byte, not one connection.
#
my $listener = rogue();
my $off = new_node('off', hosts => [$listener], conf => "echocache.enabled = off\n");
my $o = session($off, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, owner bigint, title text);
	SELECT echocache_attach('session', owner_column => 'owner')});
is($o->run(q{INSERT INTO session VALUES (1, 7, 'a'), (2, 7, 'b'); SELECT echocache_get_session(1)}), row(1, 'a'), 'enabled = off: reads from the table');
is($o->run('SELECT echocache_get_session(1, 8)'), '', 'with the same checks');
is($o->run(q{SELECT count(*) FROM echocache_get_sessions('{1,2}'::bigint[])}), 2, 'get_sessions');
is($o->run('SELECT echocache_is_available()'), 'f', 'not available');
is($o->run('SELECT echocache_touch_session(1)'), 'f', 'touch');
is($o->error(q{SELECT echocache_invalidate_session(1); SELECT echocache_refresh_session(1); SELECT * FROM echocache_servers;
	SELECT * FROM echocache_stats; UPDATE session SET title = 'c'; DELETE FROM session; TRUNCATE session}), 'no error', 'everything else');
# Whatever workers do regularly, they would have done by now.
sleep 1;
is($listener->connections, 0, 'nobody has connected to the server');

# Switched off, changed, switched on again: nothing old comes back.
$s->run(q{SELECT echocache_get_session(1); SELECT echocache_get_session(3)});
holds($memcached, 'session:3', row(3, 'first'), 'cached before');
setting($s, 'echocache.enabled' => 'off');
wait_for('the cache to be off', sub { return $s->run('SELECT echocache_is_available()') eq 'f' });
my $traffic_before = $memcached->traffic;
$s->run(q{UPDATE session SET title = 'while off' WHERE id = 3; SELECT echocache_get_session(3)});
sleep 0.3;
is($memcached->traffic, $traffic_before, 'enabled = off: not one byte');
is($s->run('SELECT echocache_get_session(3)'), row(3, 'while off'), 'and the table answers');
setting($s, 'echocache.enabled' => 'on');
wait_for('the cache to be on', sub { return $s->run('SELECT echocache_is_available()') eq 't' });
is($s->run('SELECT echocache_get_session(3)'), row(3, 'while off'), 'switched on again: nothing old comes back');
isnt($memcached->get('session:3') // 'null', row(3, 'first'), 'for a plain client neither');

# What was logged: connections and states, not operations.
$memcached->stop;
$s->run($read);
wait_state($s, 'DOWN');
my $log = slurp_file($node->logfile);
my $address = quotemeta $memcached->address;
like($log, qr/LOG:  .*$address.*/, 'states are logged with the server');
unlike($log, qr/PANIC|TRAP|terminated by signal/, 'no backend crashed');
cmp_ok(scalar(() = $log =~ /LOG:  .*echocache/g), '<', 400, 'and not a line for each operation');

done_testing();
