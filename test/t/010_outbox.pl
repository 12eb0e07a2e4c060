# The durable outbox: what a commit could not invalidate from a server is noted in
# the same transaction, survives whatever happens to PostgreSQL, and is invalidated
# before the server is used again.  And requests that arrive when their sender
# has long given up: they cost a miss, and nothing else.
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

# What is not the wait for a server takes less, on a machine that is not busy.
my $slack = 1.5;

# Two servers, one of them behind a proxy.
my @memcached = map { memcached() } 1 .. 2;
my $proxy = proxy($memcached[1]);
my $node = new_node('main', hosts => [ $memcached[0], $proxy ],
	conf => "echocache.timeout = '2s'\nlog_statement = none\nautovacuum = off\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, title text);
	SELECT echocache_attach('session');
	CREATE ROLE writer LOGIN;
	GRANT SELECT, INSERT, UPDATE ON session TO writer});
wait_state($s, 'UP');
$s->run(q{INSERT INTO session SELECT g, 'first' FROM generate_series(1, 3000) g});
coherent($s, \@memcached, 'all documents are cached', filled => 1);

# Which ids are on which server; the first two of each have names.
my @ids = map { [ sort { $a <=> $b } map { /^session:(\d+)/ } $_->keys ] } @memcached;
cmp_ok(scalar @{ $ids[0] }, '>', 1001, 'more than a thousand on the first server');
my ($on_a, $also_on_a) = @{ $ids[0] };
my ($on_b, $also_on_b) = @{ $ids[1] };
$s->run(qq{CREATE TABLE on_a AS SELECT unnest('{@{[ join ',', @{ $ids[0] } ]}}'::bigint[]) AS id});

sub row { my ($id, $title) = @_; return qq({"id":$id,"title":"$title"}); }
sub waiting { return $s->run('SELECT count(*) FROM echocache.outbox'); }

#
# One row for a transaction and key, in that transaction.
#
my ($a, $b) = @memcached;
$a->stop;
my $began = $s->run('SELECT clock_timestamp()');
my $writer = session($node, user => 'writer');
is($writer->error(qq{UPDATE session SET title = 'down' WHERE id IN ($on_a, $on_b)}), 'no error',
	'a role without any privilege on the extension commits while a server is away');
is($s->run('SELECT server, document, key FROM echocache.outbox'), $a->address . "|session|session:$on_a",
	'the key of that server is noted, and no other');
is($s->run("SELECT o.xmin = s.xmin FROM echocache.outbox o, session s WHERE s.id = $on_a"), 't', 'by the same transaction');
holds($b, "session:$on_b", row($on_b, 'down'), 'the document on the other server is written through');
is($writer->error('SELECT * FROM echocache.outbox') =~ s/:.*//sr, '42501', 'the outbox is nobody\'s to read');
is($s->run("SELECT waiting, waiting_since BETWEEN '$began' AND now() FROM echocache_servers ORDER BY server = '@{[ $a->address ]}' DESC"),
	"1|t\n0|", 'echocache_servers shows how many keys wait, and since when');
my $since = $s->run('SELECT max(waiting_since) FROM echocache_servers');

$writer->run(qq{UPDATE session SET title = 'again' WHERE id = $on_a});
is(waiting(), 2, 'another transaction notes the same key again');
is($s->run('SELECT max(waiting_since) FROM echocache_servers'), $since, 'since when does not change by that');
is($writer->error(qq{BEGIN; UPDATE session SET title = 'read only' WHERE id = $on_a; SET TRANSACTION READ ONLY; COMMIT}), 'no error',
	'a transaction that has become read-only commits');
is(waiting(), 3, 'and notes its key');
is($writer->error(qq{SET default_transaction_isolation = 'serializable';
	UPDATE session SET title = 'serializable' WHERE id = $on_a}), 'no error', 'so does a serializable one');
is(waiting(), 4, 'which notes its key');

# Rolled back with it.
$writer->run(qq{BEGIN; UPDATE session SET title = 'never' WHERE id = $on_a; ROLLBACK});
is(waiting(), 4, 'a transaction that is rolled back notes nothing');
$writer->run(qq{BEGIN; UPDATE session SET title = 'savepoint' WHERE id = $on_a;
	SAVEPOINT x; UPDATE session SET title = 'never' WHERE id = $also_on_a; ROLLBACK TO x; COMMIT});
is($s->run("SELECT count(*), count(*) FILTER (WHERE key = 'session:$also_on_a') FROM echocache.outbox"), '5|0',
	'nor does a subtransaction that is rolled back');
my $holder = session($node);
my $victim = session($node);
stop_at($holder, 'before-commit', $victim, qq{UPDATE session SET title = 'never' WHERE id = $on_a});
$holder->run('SELECT pg_cancel_backend(' . $victim->pid . ')');
is($victim->finish, undef, 'a transaction is cancelled after it has noted its key');
like($victim->messages, qr/^57014/, 'by the cancel');
go_on($holder, $victim);
is(waiting(), 5, 'and the note is gone with it');
is($s->run("SELECT title FROM session WHERE id = $on_a"), 'savepoint', 'as is its change');

$a->start;
wait_state($s, 'UP');
is(waiting(), 0, 'when the server is UP nothing waits any more');
is($s->run('SELECT count(waiting_since) FROM echocache_servers'), 0, 'since never');
coherent($s, \@memcached, 'started again: the cache is what the table is', filled => 1);

#
# Drained before UP.  The proxy lets the worker's probe pass, but not its markers.
#
holds($b, "session:$_", row($_, $_ == $on_b ? 'down' : 'first'), "session:$_ is cached") for $on_b, $also_on_b;
$proxy->tell('hold up');
my $took = EchoCache::seconds(sub { $s->run(qq{UPDATE session SET title = 'cut off' WHERE id IN ($on_b, $also_on_b)}) });
in_time($s, $took, 2 + $slack, 'a server that is cut off while a transaction commits: waited for once');
is(waiting(), 2, 'both keys are noted');
holds($b, "session:$on_b", row($on_b, 'down'), 'what the server holds is old now');
$proxy->tell('reset');
$proxy->tell('hold up ^ms session:');
$proxy->holding('up');
like($s->run("SELECT state, waiting FROM echocache_servers WHERE server = '@{[ $proxy->address ]}'"), qr/^(?:RECOVERING|DOWN)\|2$/,
	'reachable again, it is not used while keys wait');
is($s->run("SELECT echocache_get_session($on_b)"), row($on_b, 'cut off'), 'the table answers');
$proxy->tell('pass');
wait_state($s, 'UP');
is(waiting(), 0, 'UP when they have been invalidated');
isnt($b->get("session:$_") // 'null', row($_, 'first'), "session:$_: the old document is gone") for $on_b, $also_on_b;
coherent($s, \@memcached, 'drained: the cache is what the table is', filled => 1);

#
# What is noted outlives PostgreSQL, however that ends.
#
for my $mode (qw(immediate fast))
{
	$_->freeze for @memcached;
	$s->run(qq{UPDATE session SET title = 'before $mode' WHERE id IN ($on_a, $on_b)});
	is(waiting(), 2, "stop $mode: two keys are noted");
	$node->stop($mode);
	$node->start;
	$_ = session($node) for $s, $holder, $writer;
	is(waiting(), 2, 'and still are after the restart');
	is($s->run("SELECT echocache_get_session($on_a), echocache_get_session($on_b)"),
		row($on_a, "before $mode") . '|' . row($on_b, "before $mode"), 'SQL reads the table');
	$_->thaw for @memcached;
	wait_state($s, 'UP');
	is(waiting(), 0, 'the keys are invalidated before the servers are UP');
	coherent($s, \@memcached, 'the cache is what the table is', filled => 1);
}

#
# Many keys.  Above a thousand of one transaction and server, one row stands for
# all of the document.
#
sub peak { return slurp_file('/proc/' . $_[0]->pid . '/status') =~ /^VmHWM:\s+(\d+) kB/m ? $1 : die; }

my $many = 100_000;
my $insert = "INSERT INTO session SELECT g, 'many' FROM generate_series(%d, %d) g";
my $bulk = session($node);
$bulk->run(sprintf $insert, 100_001, 100_000 + $many);
my $peak_up = peak($bulk);
$bulk->quit;

$a->freeze;
$bulk = session($node);
$took = EchoCache::seconds(sub { $bulk->run(sprintf $insert, 300_001, 300_000 + $many) });
note "$many keys while a server is frozen: $took s";
is($s->run(q{SELECT count(*), count(*) FILTER (WHERE key IS NULL AND document = 'session') FROM echocache.outbox}), '1001|1',
	"$many keys while a server is away: a thousand rows, and one for the document");
cmp_ok(peak($bulk), '<', $peak_up + 32 * 1024, 'with no more memory than without a fault');
$bulk->quit;
is($s->run(q{SELECT echocache_get_session(400000)}), row(400000, 'many'), 'and they are read');
$s->run('DELETE FROM session WHERE id > 100000');
$a->thaw;
wait_state($s, 'UP');
is(waiting(), 0, 'drained');
coherent($s, \@memcached, 'the cache is what the table is', filled => 1);

# The limit.
$a->freeze;
$s->run(q{UPDATE session SET title = 'a thousand' WHERE id IN (SELECT id FROM on_a ORDER BY id LIMIT 1000)});
is($s->run('SELECT count(*), count(key) FROM echocache.outbox'), '1000|1000', 'a thousand keys are noted one by one');
$s->run(q{UPDATE session SET title = 'one more' WHERE id IN (SELECT id FROM on_a ORDER BY id LIMIT 1001)});
is($s->run('SELECT count(*), count(key) FROM echocache.outbox'), '2001|2000', 'with one more, the document is');

# The backlog of a server that stays away is bounded too.  (The limit is passed with the last of
# these: one that was under way then would leave its rows.)
$s->run("UPDATE session SET title = 'backlog $_' WHERE id IN (SELECT id FROM on_a ORDER BY id LIMIT 1000)") for 1 .. 8;
eventually('a backlog of ten thousand rows becomes one for each document', sub {
	return $s->run('SELECT count(*), count(key) FROM echocache.outbox') eq '1|0';
});
cmp_ok($s->run('SELECT max(waiting) FROM echocache_servers'), '==', 1, 'which echocache_servers shows');
$s->run(qq{UPDATE session SET title = 'after' WHERE id = $also_on_a});
is(waiting(), 1, 'and later transactions need add nothing');
# That they need not was known to shared memory only.
$node->stop('immediate');
$node->start;
$_ = session($node) for $s, $holder, $writer;
is(waiting(), 1, 'the row outlives a crash');
$s->run(qq{UPDATE session SET title = 'after the crash' WHERE id = $on_a});
isnt($a->{pid}, undef, 'the server is still frozen');
$a->thaw;
wait_state($s, 'UP');
is(waiting(), 0, 'drained');
isnt($a->get("session:$also_on_a") // 'null', row($also_on_a, 'first'), 'the document changed last is invalidated too');
coherent($s, \@memcached, 'the cache is what the table is', filled => 1);

#
# Requests that arrive when their sender has given up: the hardest case, since
# nobody can take them back.  Each is held by the proxy until everything is over.
#
sub fill { $s->run("SELECT echocache_get_session($on_b)"); return; }

# A commit's marker.
fill();
$proxy->tell("hold up ^ms session:$on_b 4 ");
$s->run(qq{UPDATE session SET title = 'late marker' WHERE id = $on_b});
cmp_ok($proxy->state->{held_up}, '>', 0, 'a commit has given up on its marker');
$proxy->tell('keep up');
wait_state($s, 'UP');
wait_for('the document to be cached', sub { fill(); return ($b->get("session:$on_b") // '') eq row($on_b, 'late marker') });
$proxy->tell('release up');
eventually('which arrives now, and costs a miss', sub { return $b->get("session:$on_b") eq 'null' });
coherent($s, \@memcached, 'and nothing else', filled => 1);

# A commit's store: the commit does not wait for it, and another has long come and gone.
$proxy->tell("hold up ^ms session:$on_b \\d\\d+ .*C\\d");
$took = EchoCache::seconds(sub { $s->run(qq{UPDATE session SET title = 'late store' WHERE id = $on_b}) });
$proxy->holding('up');
in_time($s, $took, $slack, 'a commit does not wait for its store');
marked($b, "session:$on_b", 'until then a plain client finds a marker');
$proxy->tell('keep up');
is($holder->run("SELECT echocache_get_session($on_b)"), row($on_b, 'late store'), 'and SQL the new document');
$holder->run(qq{UPDATE session SET title = 'the newest' WHERE id = $on_b});
holds($b, "session:$on_b", row($on_b, 'the newest'), 'a later commit stores its document');
my $up = $b->stats->{cmd_set};
$proxy->tell('release up');
wait_for('the store to arrive', sub { return $b->stats->{cmd_set} > $up || $b->stats->{cas_badval} > 0 });
holds($b, "session:$on_b", row($on_b, 'the newest'), 'the late store does not replace it');
is($holder->run("SELECT echocache_get_session($on_b)"), row($on_b, 'the newest'), 'for SQL neither');

# A fill's store: the reader gives up, and the server is DOWN when somebody commits.
for my $order ('before the server is back', 'after it is back')
{
	$b->delete("session:$on_b");
	$proxy->tell("hold up ^(?:mn|ms session:$on_b \\d\\d+ )");
	my $old = $holder->run("SELECT title FROM session WHERE id = $on_b");
	is($s->run("SELECT echocache_get_session($on_b)"), row($on_b, $old), 'a reader gives up on its store');
	$proxy->holding('up');
	$holder->run(qq{UPDATE session SET title = 'while filling: $order' WHERE id = $on_b});
	is($holder->run("SELECT echocache_get_session($on_b)"), row($on_b, "while filling: $order"), 'a commit changes the document');
	if ($order =~ /^after/)
	{
		$proxy->tell('keep up');
		wait_state($s, 'UP');
		wait_for('the document to be cached', sub { fill(); return ($b->get("session:$on_b") // '') eq row($on_b, "while filling: $order") });
	}
	$proxy->tell('pass');
	wait_state($s, 'UP');
	coherent($s, \@memcached, "the store arrives $order: the cache is what the table is", filled => 1);
}

# The worker's own markers.
$b->freeze;
$s->run(qq{UPDATE session SET title = 'late worker' WHERE id = $on_b});
$proxy->tell('hold up ^ms session:');
$b->thaw;
$proxy->holding('up');
$proxy->tell('keep up');
wait_state($s, 'UP');
wait_for('the document to be cached', sub { fill(); return ($b->get("session:$on_b") // '') eq row($on_b, 'late worker') });
$proxy->tell('release up');
eventually('a late marker of the worker costs a miss', sub { return ($b->get("session:$on_b") // 'null') eq 'null' });
coherent($s, \@memcached, 'and nothing else', filled => 1);

# The request arrives, its answer does not.
for my $fault ('hold down', 'shut down', 'shut up')
{
	fill();
	$proxy->tell($fault);
	$s->run(qq{UPDATE session SET title = '$fault' WHERE id = $on_b});
	is($holder->run("SELECT echocache_get_session($on_b)"), row($on_b, $fault), "$fault: SQL reads the new document");
	isnt($b->get("session:$on_b") // 'null', row($on_b, 'late worker'), 'a plain client not the first one');
	$proxy->tell('pass');
	wait_state($s, 'UP');
	coherent($s, \@memcached, 'the cache is what the table is', filled => 1);
}

$s->quit;
$node->stop;
done_testing();
