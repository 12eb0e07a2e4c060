# Warm, purge and verify: beside writers, prepared transactions and servers that
# are away; what strangers put into the cache is found; nothing is left behind by one
# that was cancelled or killed; and memory does not grow with the table.
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
use Time::HiRes qw(sleep);

my ($one, $two) = (memcached(args => [ '-I', '2m' ]), memcached(args => [ '-I', '2m' ]));
my $node = new_node('main', hosts => [ $one, $two ], conf => <<'CONF');
log_statement = none
shared_buffers = 8MB
# outlasts the worker's wait for a server that is frozen
echocache.lease = 10s
max_prepared_transactions = 5
# asynchronous commits are not flushed by themselves while this test runs
wal_writer_delay = 10s
CONF
my $s = session($node, sql => 'CREATE EXTENSION echocache');
my $other = session($node);
my $third = session($node);

# Everybody's advisory locks: those of wait points are the test's own.
my $locks = q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid NOT IN (1, 2)};

sub verify
{
	my ($name, %opt) = @_;
	my $by = $opt{by} // $s;
	my $sample = $opt{sample} // 'NULL';

	return $by->run(qq{SELECT format('%s checked, %s cached, %s matching, %s stale, %s foreign, %s busy, %s invalidated',
		checked, cached, matching, stale, "foreign", busy, invalidated) FROM echocache_verify('$name', $sample)});
}

sub warm { return $s->run("SELECT echocache_warm('$_[0]')"); }

# Store something as a stranger could.
sub forge
{
	my ($server, $key, $value, $flags) = @_;

	$server->exchange("set $key " . ($flags // 0) . ' 0 ' . length($value) . "\r\n$value\r\n", qr/\r\n/) eq "STORED\r\n"
	  or die "could not set $key";
	return;
}

# The server that holds a key.
sub holder
{
	my ($key) = @_;
	my @holders = grep { defined $_->get($key) } $one, $two;

	return @holders == 1 ? $holders[0] : undef;
}

wait_state($s, 'UP');

#
# Several servers, keys that need encoding.
#
$s->run(q{
	CREATE TABLE txt (id text COLLATE "C" PRIMARY KEY, title text);
	INSERT INTO txt SELECT 'Zürich ' || g || ' %', 'größer' FROM generate_series(1, 200) g;
	SELECT echocache_attach('txt', 'txt', ttl => '1 hour')});
is(warm('txt'), 200, 'text keys with non-ASCII: all are stored');
is(verify('txt'), '200 checked, 200 cached, 200 matching, 0 stale, 0 foreign, 0 busy, 0 invalidated', 'and right');
cmp_ok(scalar($_->contents('txt:')), '>', 50, 'on both servers') for $one, $two;
is(holder('txt:Z%C3%BCrich%207%20%25')->get('txt:Z%C3%BCrich%207%20%25'), q({"id":"Zürich 7 %","title":"größer"}),
	'a plain client reads one');
cmp_ok(holder('txt:Z%C3%BCrich%207%20%25')->ttl('txt:Z%C3%BCrich%207%20%25'), '>', 3500, 'with the lifetime of the document');
is($s->run(q{SELECT echocache_purge('txt')}), 200, 'purge');
is_deeply([ map { $_->contents('txt:') } $one, $two ], [], 'nothing is left on either server');

#
# What strangers put there.  Each is found, told what it is, and invalidated.
#
$s->run(q{
	CREATE TABLE session (id uuid PRIMARY KEY, title text, hidden boolean NOT NULL DEFAULT false);
	CREATE TABLE num (id bigint PRIMARY KEY, title text, hidden boolean NOT NULL DEFAULT false);
	INSERT INTO num SELECT g, 'number ' || g FROM generate_series(1, 100) g;
	UPDATE num SET hidden = true WHERE id = 100;
	INSERT INTO session VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'a'), ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12', 'b');
	SELECT echocache_attach('session', exclude => '{hidden}'), echocache_attach('num', 'num', filter => 'NOT hidden')});
is(warm('num'), 99, 'warm');
is(warm('session'), 2, 'warm');

# at: 1 where the key belongs (by asking who holds it, or would), else on both servers
my %forged = (
	stale => {
		'num:1' => '{"id":1,"title":"an older one","hidden":false}',
		'num:2' => '{"id": 2, "title": "number 2", "hidden": false}',
		'num:3' => '{"id":3}',
		'num:4' => '{"title":"x","nested":{"id":5},"id":4}',
		'num:5' => '{"id":5,"title":"' . ('large ' x 100_000) . '"}',
		'num:100' => '{"id":100,"title":"number 100","hidden":true}',
		'num:101' => '{"id":101,"title":"of a row that is gone","hidden":false}',
	},
	foreign => {
		'num:10' => 'garbage',
		'num:11' => '',
		'num:12' => '[{"id":12}]',
		'num:13' => '{"id":14,"title":"number 13","hidden":false}',
		'num:14' => '{"id":"14"}',
		'num:15' => '{"id":15,"title":"number 15","hidden":false',
		'num:16' => '{"title":"number 16"}',
		'num:17' => "{\"id\":17,\"title\":\"\xff\xfe\"}",
		'num:18' => 'nul',
		'num:19' => 'nulls',
		'num:20' => 'true',
		'num:21' => '{"id":{"id":21}}',
		'num:22' => '"' . ('x' x 500_000) . '"',
		'num:23' => "{\"id\":23,\"title\":\"\0\"}",
		'num:24' => '{"id":24,"title":"\u0000","id":25}',
		'num:25' => ('[' x 100_000),
		'num:102' => 'of a row that is gone',
	},
	# keys that we would not make, whatever they hold
	key => {
		'num:01' => '{"id":1,"title":"number 1","hidden":false}',
		'num:+1' => '{"id":1}',
		'num:-0' => '{"id":0}',
		'num:abc' => '{"id":1}',
		'num:' => '{"id":1}',
		'num:1.0' => 'x',
		'num:%31' => '{"id":1,"title":"number 1","hidden":false}',
		'num:%' => 'x',
		'num:%zz' => 'x',
		'num:%00' => 'x',
		'num:1%00' => 'x',
		'num:%FF' => 'x',
		'num:99999999999999999999' => 'x',
		'num:' . '9' x 240 => 'x',
	});
my %expected;
for my $kind (sort keys %forged)
{
	for my $key (sort keys %{ $forged{$kind} })
	{
		# where the row's document is, else where it belongs is found out by trying both
		my @at = grep { defined } holder($key);

		@at = ($one, $two) unless @at;
		forge($_, $key, $forged{$kind}{$key}) for @at;
		$expected{$key} = @at;
	}
}
my ($stale, $foreign) = (scalar(keys %{ $forged{stale} }), scalar(keys %{ $forged{foreign} }) + scalar(keys %{ $forged{key} }));

# What is on the server where it does not belong is foreign even if it is well made.
$foreign += grep { $expected{$_} == 2 } keys %expected;
# Client flags: our bytes, but a client would decompress or unpickle them.
forge(holder('num:30'), 'num:30', holder('num:30')->get('num:30'), 2);
$foreign++;
$expected{'num:30'} = 1;
# A right document on the wrong server, beside the right one.
my ($right) = holder('num:31');
my ($wrong) = grep { $_ != $right } $one, $two;
forge($wrong, 'num:31', $right->get('num:31'));
$foreign++;
$expected{'num:31'} = 1;
# No concern of ours: markers, under whatever key, and keys of others.
forge($one, 'num:40x', 'null');
forge($_, 'number:1', 'x') for $one, $two;
forge($_, 'num', 'x') for $one, $two;
my $wrong_ones = $stale + $foreign;
my $result = $s->run(q{SELECT format('%s stale, %s foreign, %s invalidated, %s busy', stale, "foreign", invalidated, busy), array_to_string(keys, ' ')
	FROM echocache_verify('num', keys => true)});
my ($counts, $keys) = split /\|/, $result;
is($counts, "$stale stale, $foreign foreign, $wrong_ones invalidated, 0 busy", 'verify tells the stale from the foreign');
is_deeply([ sort split / /, $keys ], [ sort map { ($_) x $expected{$_} } keys %expected ], 'and names them all');
ok(!defined($_->get('num:31')), 'a document on the wrong server is invalidated') for $wrong;
ok(defined($right->get('num:31')), 'the one on the right server stays');
is($one->get('number:1'), 'x', 'keys of others stay') for $one, $two;
is(verify('num') =~ s/^\d+ checked, \d+ cached, \d+ matching, //r, '0 stale, 0 foreign, 0 busy, 0 invalidated', 'then all is well');
cmp_ok(warm('num'), '>', 15, 'what was invalidated can be loaded again');
is(verify('num'), '99 checked, 99 cached, 99 matching, 0 stale, 0 foreign, 0 busy, 0 invalidated', 'and is right');

# uuid: the same id in capitals is another key.
forge($_, 'session:A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{"id":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","title":"a"}') for $one, $two;
forge($_, 'session:a0eebc999c0b4ef8bb6d6bb9bd380a12', 'x') for $one, $two;
is(verify('session'), '6 checked, 6 cached, 2 matching, 0 stale, 4 foreign, 0 busy, 4 invalidated', 'uuids that are not written as we do are foreign');

# Many, and only so many by name; a sample of them.
for my $server ($one, $two)
{
	$server->exchange(join('', map { "set num:x$_ 0 0 1\r\nx\r\n" } 1 .. 600), qr/(?:STORED\r\n){600}/);
}
like(verify('num', sample => 50), qr/^50 checked, (\d+) cached, (\d+) matching, 0 stale, (\d+) foreign, 0 busy, \3 invalidated$/, 'a sample');
like($s->run(q{SELECT "foreign" || ' ' || cardinality(keys) FROM echocache_verify('num', keys => true)}), qr/^11[5-9]\d 1000$/, 'at most 1000 keys are named');

# Two writings of one collated text are two keys, of which the row has one.
$s->run(q{CREATE COLLATION insensitive (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE TABLE loose (id text COLLATE insensitive PRIMARY KEY, title text);
	INSERT INTO loose VALUES ('Straße', 'a'), ('ÉTÉ', 'b'), ('plain', 'c');
	SELECT echocache_attach('loose', 'loose')});
is(warm('loose'), 3, 'a nondeterministic collation: warm');
forge($_, 'loose:PLAIN', '{"id":"plain","title":"c"}') for $one, $two;
forge($_, 'loose:Plain', '{"id":"Plain","title":"c"}') for $one, $two;
is(verify('loose'), '7 checked, 7 cached, 3 matching, 1 stale, 3 foreign, 0 busy, 4 invalidated', 'and verify');
$s->run(q{SELECT echocache_detach('loose')});

#
# Writers meanwhile: never a false alarm.
#
$s->run(q{
	CREATE TABLE busy (id int PRIMARY KEY, n int NOT NULL, pad text);
	INSERT INTO busy SELECT g, 0, repeat('x', 200) FROM generate_series(1, 500) g;
	SELECT echocache_attach('busy', 'busy', filter => 'n % 7 <> 3');
	CREATE TABLE enough AS SELECT false AS yes;
	CREATE PROCEDURE write(seed float8) LANGUAGE plpgsql AS $$
	DECLARE
		ends timestamptz := clock_timestamp() + '3 min';
		r int := 0;
		i int;
	BEGIN
		PERFORM setseed(seed);
		WHILE NOT (SELECT yes FROM enough) AND clock_timestamp() < ends LOOP
			r := r + 1;
			i := 1 + (random() * 519)::int;
			PERFORM set_config('synchronous_commit', CASE WHEN r % 5 = 0 THEN 'off' ELSE 'on' END, false);
			CASE
				WHEN r % 40 = 0 THEN UPDATE busy SET n = n + 1 WHERE id % 5 = r / 40 % 5;
				WHEN r % 7 = 0 THEN DELETE FROM busy WHERE id = i;
				WHEN r % 3 = 0 THEN INSERT INTO busy VALUES (i, r, 'y') ON CONFLICT (id) DO UPDATE SET n = busy.n + 1;
				ELSE UPDATE busy SET n = n + 1 WHERE id = i;
			END CASE;
			IF r % 11 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
			PERFORM echocache_get('busy', 1 + (random() * 519)::int);
			COMMIT;
		END LOOP;
	END $$;
	CREATE PROCEDURE warm() LANGUAGE plpgsql AS $$
	DECLARE
		ends timestamptz := clock_timestamp() + '3 min';
	BEGIN
		WHILE NOT (SELECT yes FROM enough) AND clock_timestamp() < ends LOOP
			PERFORM echocache_warm('busy');
			COMMIT;
		END LOOP;
	END $$});
my @writers = map { session($node) } 1 .. 3;
$writers[$_]->send("CALL write(0.$_)") for 0, 1;
$writers[2]->send('CALL warm()');
my $writing = 'SELECT count(*) FROM pg_stat_activity WHERE state = \'active\' AND pid IN (' . join(',', map { $_->pid } @writers) . ')';
wait_for('the writers to be at work', sub { return $other->run($writing) == @writers });
my %sum = (cached => 0);
my $rounds = 0;
my $began = time;
# Three seconds at least, and as long as a busy machine needs.
do
{
	my @row = split /\|/, $s->run(q{SELECT cached, stale, "foreign", invalidated, busy FROM echocache_verify('busy')});
	$sum{$_} += shift @row for qw(cached stale foreign invalidated busy);
	$rounds++;
} while ($other->run($writing) == @writers
	&& (time < $began + 3 || $rounds <= 5 || $sum{cached} <= 1000));
$other->run('UPDATE enough SET yes = true');
is($_->finish // $_->messages, '', 'a writer has had no error') for @writers;
note "$rounds rounds: " . join ', ', map { "$sum{$_} $_" } sort keys %sum;
cmp_ok($rounds, '>', 5, 'verified many times while writers are at work');
cmp_ok($sum{cached}, '>', 1000, 'documents among them');
is("$sum{stale} $sum{foreign} $sum{invalidated}", '0 0 0', 'not once a false alarm');
warm('busy');
like(verify('busy'), qr/^(\d+) checked, \1 cached, \1 matching, 0 stale, 0 foreign, 0 busy, 0 invalidated$/, 'at rest all are cached and right');
$_->quit for @writers;

# A commit that comes between the value and the row does not wait, and is no false alarm.
stop_at($other, 'verify-got', $s, q{SELECT matching || ' ' || stale FROM echocache_verify('session')});
is($third->error(q{UPDATE session SET title = 'new' WHERE title = 'a'}), 'no error', 'a commit comes between the value and the row');
is(go_on($other, $s), '2 0', 'whose document is then looked at once more');
like(verify('session'), qr/^2 checked, 2 cached, 2 matching/, 'and is right');

# One that has begun has taken its document out of the cache.
stop_at($other, 'before-commit', $third, q{UPDATE session SET title = 'newer' WHERE title = 'new'});
is(verify('session'), '2 checked, 1 cached, 1 matching, 0 stale, 0 foreign, 0 busy, 0 invalidated', 'a document whose writer commits just now is not there');
go_on($other, $third);
is($s->run(q{SELECT count(*) FROM echocache_get('session', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11') d WHERE d ->> 'title' = 'newer'}), 1, 'and it has committed');

# A commit that is not flushed.
my $unflushed;
# Somebody may flush before we look, once in ten seconds.
for (1 .. 20)
{
	$third->run(q{SET synchronous_commit = off; UPDATE session SET title = 'not flushed' WHERE title IN ('newer', 'not flushed'); RESET synchronous_commit});
	$unflushed = $s->run('SELECT pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()');
	last if $unflushed eq 't';
}
is($unflushed, 't', 'a commit that is not on disk');
is(warm('session'), 1, 'warm has it flushed and stores it');
is($s->run('SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()'), 't', 'it is on disk then');

#
# Prepared transactions.
#
$third->run(q{BEGIN; UPDATE session SET title = 'prepared' WHERE title = 'b'; PREPARE TRANSACTION 'few'});
is(verify('session'), '2 checked, 1 cached, 1 matching, 0 stale, 0 foreign, 0 busy, 0 invalidated', 'a prepared transaction: its document is not there');
is(warm('session'), 0, 'and is not warmed');
$third->run(q{COMMIT PREPARED 'few'});
is(warm('session'), 1, 'but afterwards');
is($s->run(q{SELECT echocache_get('session', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12') ->> 'title'}), 'prepared', 'as it is then');
$third->run(q{BEGIN; UPDATE num SET title = 'bulk' WHERE id > 10; PREPARE TRANSACTION 'many'});
my $took = seconds(sub {
	is(warm('num'), 0, 'a prepared bulk writer: nothing is warmed');
	like(verify('num'), qr/^99 checked, 0 cached, 0 matching, 0 stale, 0 foreign, (?:99|10[01]) busy, 0 invalidated$/, 'all is busy');
});
in_time($s, $took, 3, 'and nobody waits for it for long', 100);
$third->run(q{ROLLBACK PREPARED 'many'});
is(warm('num'), 89, 'afterwards its markers are replaced');
is(verify('num'), '99 checked, 99 cached, 99 matching, 0 stale, 0 foreign, 0 busy, 0 invalidated', 'and all is right');

#
# A function that makes documents needs a table that somebody has locked: it is waited for as by
# any query, and nobody who may be waiting for us waits.
#
$s->run(q{
	CREATE TABLE locked (n int);
	CREATE TABLE made (id int PRIMARY KEY, title text);
	CREATE FUNCTION make(m made) RETURNS json LANGUAGE sql STABLE AS $$
		SELECT json_build_object('id', m.id, 'n', (SELECT count(*) FROM public.locked)) $$;
	INSERT INTO made SELECT g FROM generate_series(1, 20) g;
	SELECT echocache_attach('made', 'made', document => 'make');
	SELECT echocache_warm('made', 10)});
$third->run('BEGIN; LOCK TABLE locked');
$s->send(q{SELECT echocache_warm('made')});
wait_for('the warm to wait', sub { return $other->run('SELECT wait_event_type FROM pg_stat_activity WHERE pid = ' . $s->pid) eq 'Lock' });
$took = seconds(sub { is($other->error(q{UPDATE made SET title = 'x' WHERE id = 20}), 'no error', 'a commit while a warm waits for a table') });
in_time($other, $took, 1, 'does not wait for it');
$third->run('COMMIT');
# the last one by the builder, if that is first
like($s->finish, qr/^(9|10)$/, 'afterwards all is warmed');
await_builder($s);
is(verify('made'), '20 checked, 20 cached, 20 matching, 0 stale, 0 foreign, 0 busy, 0 invalidated', 'and right');

#
# One at a time, and its progress.
#
$s->run('ANALYZE num');
$s->run(q{SELECT echocache_purge('num')});
my $progress = q{SELECT warm_pid, warm_started < now(), warm_total, warm_done, warm_stored FROM echocache_documents WHERE name = 'num'};
stop_at($other, 'warm-marked', $s, q{SELECT echocache_warm('num')});
is($third->run($progress), $s->pid . '|t|100|0|0', 'the progress of a warm');
like($third->error(q{SELECT echocache_warm('num')}), qr/^55006: document "num" is being warmed already\nDETAIL:  By the backend with PID @{[ $s->pid ]}\./, 'only one at a time');
is($third->run(q{SELECT echocache_warm('txt', 1)}), 1, 'for each document');
$third->run('SELECT pg_cancel_backend(' . $s->pid . ')');
is($s->finish, undef, 'cancelled in the middle');
like($s->messages, qr/^57014: /, 'with that error');
is($third->run($locks), 0, 'no lock is left');
is($third->run($progress), '||||', 'nor the progress');
$other->run('SELECT pg_advisory_unlock_all()');
$s->run('RESET echocache.wait_point');
is(warm('num'), 99, 'and it can be done again');

$s->run(q{SELECT echocache_purge('num')});
my $doomed = session($node);
stop_at($other, 'warm-locked', $doomed, q{SELECT echocache_warm('num')});
$third->run('SELECT pg_terminate_backend(' . $doomed->pid . ')');
eventually('killed in the middle: no lock is left', sub { return $third->run($locks) == 0 });
is($third->run($progress), '||||', 'nor the progress');
$other->run('SELECT pg_advisory_unlock_all()');
is(warm('num'), 99, 'and another can do it');
eval { $doomed->quit };

#
# Reconfigured meanwhile: a verify does not trust what it knew.
#
stop_at($other, 'verify-got', $s, q{SELECT * FROM echocache_verify('num')});
my $hosts = join ',', $one->address, $two->address;
setting($third, 'echocache.hosts' => $two->address);
wait_for('the new servers', sub { return $third->run('SELECT count(*) FROM echocache_servers') == 1 });
is(go_on($other, $s), undef, 'another list of servers while it runs');
like($s->messages, qr/^55000: the cache was configured anew while echocache_verify\(\) was running/, 'is an error');
setting($third, 'echocache.hosts' => $hosts);
wait_for('the old servers', sub { return $third->run('SELECT count(*) FROM echocache_servers') == 2 });
wait_state($s, 'UP');

#
# Servers that are away.
#
# the server that was in both lists has kept its documents
$s->run(q{SELECT echocache_purge('num')});
is(warm('num'), 99, 'with both servers');
my $on_two = () = $two->contents('num:');
$on_two /= 2;
$s->run(q{SELECT echocache_purge('num')});
setting($s, 'echocache.timeout' => '1s');
$two->freeze;
$took = seconds(sub { is(warm('num'), 99 - $on_two, 'one server frozen: the documents of the other are stored') });
in_time($other, $took, 4, 'after three timeouts at most');
like($s->messages, qr/^WARNING:  01000: $on_two documents of "num" were left out\nDETAIL:  Not every cache server is UP;/, 'and says how many were not');
is(verify('num'), '99 checked, @ cached, @ matching, 0 stale, 0 foreign, 0 busy, 0 invalidated' =~ s/@/99 - $on_two/egr, 'verify looks at the other one');
like($s->messages, qr/^WARNING:  01000: documents on server "@{[ $two->address ]}" were not verified\nDETAIL:  It is not UP;/, 'and says so');
$one->freeze;
$s->run('SELECT echocache_get(\'num\', id) FROM num');
$took = seconds(sub { is(warm('num'), 0, 'no server UP: nothing is stored') });
in_time($other, $took, 1, 'at once');
like($s->messages, qr/^WARNING:  01000: documents of "num" were left out\nDETAIL:  No cache server is UP;/, 'and says so');
$_->thaw for $one, $two;
wait_state($s, 'UP');

# While it looks: a server that stops answering in the middle.
warm('num');
stop_at($other, 'verify-got', $s, q{SELECT matching < 99 OR busy = 0 FROM echocache_verify('num')});
$two->freeze;
go_on($other, $s);
$s->run(q{SELECT echocache_warm('num')});
$two->thaw;
# its end may be noticed only now
wait_for('all to be cached again', sub { warm('num'); return verify('num') =~ /^99 checked, 99 cached,/ });
is(verify('num'), '99 checked, 99 cached, 99 matching, 0 stale, 0 foreign, 0 busy, 0 invalidated', 'all is well again');

# Purge: what is away is invalidated when it is back, before anybody reads there.
$two->freeze;
$third->run('BEGIN');
is($third->run(q{SELECT echocache_purge('num')}), 99 - $on_two, 'one server frozen: purge invalidates from the other');
is($s->run(q{SELECT count(*) FROM echocache.outbox}), 0, 'nothing is seen before the commit');
isnt($s->run(q{SELECT echocache_get('num', 1), echocache_get('num', 2), echocache_get('num', 3)}), '', 'reads go on');
is_deeply([ $one->contents('num:') ], [], 'but nobody stores a document until then');
$third->run('COMMIT');
is($s->run(q{SELECT server, document, key IS NULL FROM echocache.outbox}), $two->address . '|num|t', 'then all documents are to be invalidated from the server');
my $before = $s->run(q{SELECT echocache_get('num', id) FROM num});
$two->thaw;
wait_state($s, 'UP');
is_deeply([ grep { $_ ne 'null' } map { my %h = $_->contents('num:'); values %h } $two ], [], 'back, it has none of them');
is($s->run(q{SELECT count(*) FROM echocache.outbox}), 0, 'and nothing is left to do');
setting($s, 'echocache.fallback' => 'off');
$two->freeze;
like($s->error(q{SELECT echocache_purge('num')}), qr/^08006: could not invalidate cached documents from server "@{[ $two->address ]}"/, 'with fallback = off that is an error');
$two->thaw;
setting($s, 'echocache.fallback' => 'on', 'echocache.timeout' => '5s');
wait_state($s, 'UP');

#
# Memory: neither the table's size nor the documents' matters.
#
sub peak
{
	return slurp_file('/proc/' . $_[0]->pid . '/status') =~ /^VmHWM:\s+(\d+) kB/m ? $1 / 1024 : die 'no VmHWM';
}

$s->run(q{
	CREATE TABLE large (id int PRIMARY KEY, a text, b text);
	ALTER TABLE large ALTER a SET STORAGE EXTERNAL;
	INSERT INTO large SELECT g, repeat('a', CASE WHEN g % 100 = 0 THEN 50000 ELSE 500 END), repeat('b', 200) FROM generate_series(1, 50000) g;
	SELECT echocache_attach('large', 'large')});
my $sweeper = session($node, sql => q{SET maintenance_work_mem = '1MB'; SELECT echocache_warm('num', 1); SELECT echocache_verify('num')});
my $peak = peak($sweeper);
is($sweeper->run(q{SELECT echocache_warm('large')}), 50000, '50,000 documents, 60 MB of them');
cmp_ok(peak($sweeper) - $peak, '<', 24, 'warm: some megabytes');
$peak = peak($sweeper);
like(verify('large', by => $sweeper), qr/^50000 checked, (\d+) cached, \1 matching, 0 stale, 0 foreign, 0 busy, 0 invalidated$/, 'all that has not been evicted is right');
cmp_ok(peak($sweeper) - $peak, '<', 24, 'verify: some megabytes');
is(verify('large', by => $sweeper, sample => 100), '100 checked, 100 cached, 100 matching, 0 stale, 0 foreign, 0 busy, 0 invalidated', 'a sample of them');
$s->run('TRUNCATE large; INSERT INTO large SELECT g, repeat(\'a\', 1000000), \'b\' FROM generate_series(1, 30) g');
$s->run(q{SELECT echocache_purge('large')});
is($sweeper->run(q{SELECT echocache_warm('large')}), 30, 'documents of 1 MB');
like(verify('large', by => $sweeper), qr/^30 checked, (\d+) cached, \1 matching, 0 stale, 0 foreign, 0 busy, 0 invalidated$/, 'are right, those that are not evicted');
cmp_ok(peak($sweeper) - $peak, '<', 64, 'in not much more memory');

is($s->run($locks), 0, 'no lock is left');
done_testing();
