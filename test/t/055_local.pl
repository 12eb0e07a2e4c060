# The second tier, documents in shared memory, means what memcached's hits mean: every kind of
# change, whoever reads, lifetimes, and what the switches do to it.  Each change is made while
# all documents are there; what is read first afterwards must be what the table has.
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

my $ids = 50;		# there may be these in "item"
my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached], conf => qq{
	echocache.local_memory = '64MB'
	echocache.max_write_through = 10
	max_prepared_transactions = 5
	log_statement = none
});
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE item (id int PRIMARY KEY, v text, n numeric DEFAULT 0);
	INSERT INTO item SELECT g, 'first' FROM generate_series(1, 20) g;
	SELECT echocache_attach('item', 'item')});
my $other = session($node);

# What has happened to the attachment since it was last asked.
my %seen;
sub happened
{
	my ($name) = @_;
	my @what = qw(local_hits hits misses fills);
	my @now = split /\|/, $s->run('SELECT ' . join(', ', @what) . " FROM echocache_stats WHERE name = '$name'");
	my $before = $seen{$name} // [ (0) x @what ];

	$seen{$name} = \@now;
	return { map { $what[$_] => $now[$_] - $before->[$_] } 0 .. $#what };
}

# Who has answered a read?
sub answered
{
	my ($name) = @_;
	my $happened = happened($name);

	return $happened->{local_hits} ? 'the tier' : $happened->{hits} ? 'memcached' : $happened->{fills} ? 'a fill' : 'the table';
}

# Test: this read by this session has this result, and is answered by whom.
sub reads
{
	my ($session, $sql, $expected, $who, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $of = $sql =~ /\('(\w+)'/ ? $1 : die $sql;

	happened($of);
	is($session->run($sql), $expected, $name);
	return is(answered($of), $who, "answered by $who");
}

sub get { my ($id, $of) = @_; return "SELECT echocache_get('" . ($of // 'item') . "', '$id')"; }
sub document { my ($id, $of) = @_; $of //= 'item'; return $s->run("SELECT row_to_json($of) FROM $of WHERE id = '$id'"); }

# How many of these ids are read as anything else than what the table has.
sub wrong
{
	my ($of) = @_;

	return $other->run("SELECT count(*) FROM (SELECT id::text, row_to_json($of)::text AS d FROM $of) t
		FULL JOIN (SELECT id, document::text AS d FROM echocache_get_many('$of', (SELECT array_agg(g::bigint) FROM generate_series(1, $ids) g))) c USING (id)
		WHERE t.d IS DISTINCT FROM c.d");
}

# Have all documents in the tier.
sub keep
{
	my ($of) = @_;
	my $rows = $s->run("SELECT count(*) FROM $of");

	wait_for('all documents to be kept', sub {
		happened($of);
		wrong($of);
		return happened($of)->{local_hits} == $rows;
	});
	return;
}

# Test: nothing wrong is read now, of which so many documents are the tier's (undef: it does not
# matter); nor when all of them are.
sub right
{
	my ($of, $name, $local) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	happened($of);
	is(wrong($of), 0, $name);
	is(happened($of)->{local_hits}, $local, "$local of the tier") if defined $local;
	keep($of);
	return is(wrong($of), 0, 'and kept again');
}

#
# How documents get there.
#
wait_state($s, 'UP');
reads($s, get(1), document(1), 'a fill', 'a miss');
reads($other, get(1), document(1), 'the tier', 'which is kept');
$s->run(q{INSERT INTO item VALUES (21, 'new')});
holds($memcached, 'item:21', document(21), 'a commit stores a document in memcached');
reads($other, get(21), document(21), 'memcached', 'where it is found first');
reads($s, get(21), document(21), 'the tier', 'and kept');
is($other->run(get(77)), '', 'no such document');
reads($other, get(77), '', 'the table', 'which is not kept');
$s->run('SELECT echocache_stats_reset()');
%seen = ();
$other->run(get(1)) for 1 .. 3;
is($s->run(q{SELECT local_hits, hits, misses FROM echocache_stats}), '3|0|0', 'counted as local_hits, and as nothing else');
%seen = ();
keep('item');
is($s->run(q{SELECT count(*) FROM item}), $s->run(q{SELECT entries FROM echocache_memory WHERE name = 'item'}), 'echocache_memory: every document');
is($s->run(q{SELECT size > 40 * 1024 * 1024 AND size <= 64 * 1024 * 1024, used = entries * 512, evictions FROM echocache_memory WHERE name IS NULL}), 't|t|0',
	'what there is, and what they take');
is($s->run(q{SELECT size IS NULL, used = entries * 512, evictions FROM echocache_memory WHERE name = 'item'}), 't|t|0', 'each attachment what it takes');
reads($other, q{SELECT string_agg(id, ',' ORDER BY ordinality) FROM ROWS FROM (echocache_get_many('item', '{3,77,1,3}'::bigint[])) WITH ORDINALITY},
	'3,1,3', 'the tier', 'a list has those that there are');
$s->run(q{SELECT echocache_invalidate('item', id) FROM item WHERE id IN (2, 4); INSERT INTO item VALUES (22, 'remote')});
holds($memcached, 'item:22', document(22), 'one in memcached only');
happened('item');
is($other->run(q{SELECT string_agg(id, ',') FROM echocache_get_many('item', '{1,22,2,77,3,4}'::bigint[])}), '1,22,2,3,4', 'a list of all kinds, in order');
is_deeply(happened('item'), { local_hits => 2, hits => 1, misses => 3, fills => 2 }, 'each from where it was');
reads($other, get(22), document(22), 'the tier', 'all of which are kept');

#
# Changes.  Each: what, the statements, and how many documents are the tier's afterwards.
#
sub rows { return $s->run('SELECT count(*) FROM item'); }
for (
	[ 'UPDATE', q{UPDATE item SET v = 'second' WHERE id <= 3}, 0 ],
	[ 'UPDATE and the same again', q{UPDATE item SET v = v WHERE id <= 3}, 0 ],
	[ 'UPDATE twice in a transaction', q{BEGIN; UPDATE item SET v = 'a' WHERE id = 1; UPDATE item SET v = 'b' WHERE id = 1; COMMIT}, 0 ],
	[ 'ROLLBACK', q{BEGIN; UPDATE item SET v = 'never' WHERE id <= 3; ROLLBACK}, 0 ],
	[ 'an error', q{BEGIN; UPDATE item SET v = 'never' WHERE id <= 3; SELECT 1 / 0; COMMIT}, 0 ],
	[ 'ROLLBACK TO a savepoint', q{BEGIN; UPDATE item SET v = 'kept' WHERE id = 1; SAVEPOINT a; UPDATE item SET v = 'never' WHERE id IN (1, 2);
		ROLLBACK TO a; COMMIT}, 0 ],
	[ 'savepoints', q{BEGIN; SAVEPOINT a; UPDATE item SET v = 'a' WHERE id = 1; SAVEPOINT b; UPDATE item SET v = 'b' WHERE id IN (1, 2);
		RELEASE b; RELEASE a; COMMIT}, 0 ],
	[ 'savepoints only, all rolled back', q{BEGIN; SAVEPOINT a; UPDATE item SET v = 'never' WHERE id = 1; ROLLBACK TO a; UPDATE item SET v = 'kept' WHERE id = 2; COMMIT}, 0 ],
	[ 'commits within a block', q{DO $$ BEGIN UPDATE item SET v = 'one' WHERE id = 1; COMMIT; UPDATE item SET v = 'two' WHERE id IN (1, 2); COMMIT;
		UPDATE item SET v = 'never' WHERE id = 3; ROLLBACK; UPDATE item SET v = 'three' WHERE id = 2; END $$}, 0 ],
	[ 'an exception that is caught', q{DO $$ BEGIN UPDATE item SET v = 'kept' WHERE id = 1;
		BEGIN UPDATE item SET v = 'never' WHERE id IN (1, 2); RAISE 'no'; EXCEPTION WHEN OTHERS THEN NULL; END; END $$}, 0 ],
	[ 'DELETE', q{DELETE FROM item WHERE id = 5}, 0 ],
	[ 'INSERT anew', q{INSERT INTO item VALUES (5, 'anew')}, 1 ],
	[ 'DELETE and INSERT', q{BEGIN; DELETE FROM item WHERE id = 5; INSERT INTO item VALUES (5, 'again'); COMMIT}, 0 ],
	[ 'another key', q{UPDATE item SET id = 45 WHERE id = 5}, 1 ],
	[ 'the key back', q{UPDATE item SET id = 5 WHERE id = 45}, 1 ],
	[ 'keys in a circle', q{BEGIN; UPDATE item SET id = 49 WHERE id = 5; UPDATE item SET id = 5 WHERE id = 6; UPDATE item SET id = 6 WHERE id = 49; COMMIT}, 0 ],
	[ 'ON CONFLICT', q{INSERT INTO item VALUES (5, 'upserted') ON CONFLICT (id) DO UPDATE SET v = excluded.v}, 0 ],
	[ 'a row lock', q{BEGIN; SELECT 1 FROM item WHERE id = 5 FOR UPDATE; COMMIT}, 0 ],
	[ 'a document that becomes large', q{UPDATE item SET v = (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 3000) g) WHERE id = 7}, 0 ],
	[ 'and small', q{UPDATE item SET v = 'small' WHERE id = 7}, 0 ],
	[ 'more than max_write_through', q{UPDATE item SET v = 'bulk'}, undef ],
	[ 'the same, rolled back', q{BEGIN; UPDATE item SET v = 'never'; ROLLBACK}, 0 ],
	[ 'PREPARE and COMMIT PREPARED', q{BEGIN; UPDATE item SET v = 'prepared' WHERE id <= 3; PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'}, 3 ],
	[ 'PREPARE and ROLLBACK PREPARED', q{BEGIN; UPDATE item SET v = 'never' WHERE id <= 3; PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p'}, 3 ],
	[ 'TRUNCATE', q{TRUNCATE item}, undef ],
	[ 'COPY', q{INSERT INTO item SELECT g, 'copied' FROM generate_series(1, 20) g}, undef ],
	[ 'TRUNCATE and INSERT', q{BEGIN; TRUNCATE item; INSERT INTO item SELECT g, 'new' FROM generate_series(1, 20) g; COMMIT}, undef ],
	[ 'TRUNCATE that is rolled back', q{BEGIN; TRUNCATE item; ROLLBACK}, 0 ],
	[ 'a new column', q{ALTER TABLE item ADD COLUMN w int DEFAULT 5}, undef ],
	[ 'a column of another name', q{ALTER TABLE item RENAME COLUMN w TO x}, undef ],
	[ 'a column of another type', q{ALTER TABLE item ALTER COLUMN x TYPE text}, undef ],
	[ 'a column less', q{ALTER TABLE item DROP COLUMN x}, undef ],
	[ 'a new column that is rolled back', q{BEGIN; ALTER TABLE item ADD COLUMN w int DEFAULT 5; ROLLBACK}, undef ],
	[ 'the table rewritten', q{VACUUM FULL item}, undef ],
	[ 'another name of the table', q{ALTER TABLE item RENAME TO thing; UPDATE thing SET v = 'renamed' WHERE id = 1; ALTER TABLE thing RENAME TO item}, undef ],
	[ 'triggers that did not see it', q{ALTER TABLE item DISABLE TRIGGER USER; UPDATE item SET v = 'unseen' WHERE id = 1; ALTER TABLE item ENABLE TRIGGER USER}, undef ],
	[ 'TRUNCATE and another table attached', q{BEGIN; SELECT echocache_detach('item'); DROP TABLE item; CREATE TABLE item (id int PRIMARY KEY, v text, n numeric DEFAULT 0);
		INSERT INTO item SELECT g, 'table' FROM generate_series(1, 20) g; SELECT echocache_attach('item', 'item'); COMMIT}, undef ],
	[ 'detached and changed and attached', q{SELECT echocache_detach('item'); UPDATE item SET v = 'meanwhile'; SELECT echocache_attach('item', 'item')}, 0 ],
	[ 'echocache_purge()', q{SELECT echocache_purge('item')}, 0 ],
	[ 'echocache_invalidate()', q{SELECT echocache_invalidate('item', 1)}, -1 ],
	[ 'echocache_refresh()', q{SELECT echocache_refresh('item', 1)}, 0 ],
	[ 'echocache_touch()', q{SELECT echocache_touch('item', 1)}, 0 ],
	[ 'echocache_warm()', q{SELECT echocache_warm('item')}, undef ],
	[ 'echocache_flush_all()', q{SELECT echocache_flush_all()}, 0 ],
	[ 'synchronous_commit = off', q{SET synchronous_commit = off; UPDATE item SET v = 'async' WHERE id <= 3; RESET synchronous_commit}, 3 ],
	[ 'enabled = off in between', 'off', undef ])
{
	my ($what, $sql, $less) = @$_;

	keep('item');
	if ($sql eq 'off')
	{
		setting($s, 'echocache.enabled' => 'off');
		wait_for('the cache to be off', sub { return $s->run('SELECT echocache_is_available()') eq 'f' });
		reads($other, get(1), document(1), 'the table', 'enabled = off');
		$s->run(q{UPDATE item SET v = 'off' WHERE id <= 3; DELETE FROM item WHERE id = 4; BEGIN; UPDATE item SET v = 'never' WHERE id = 8; ROLLBACK});
		setting($s, 'echocache.enabled' => 'on');
		wait_for('the cache to be on', sub { wrong('item') and fail('old'); return $s->run('SELECT echocache_is_available()') eq 't' });
	}
	else
	{
		$what eq 'an error' ? $s->error($sql) : $s->run($sql);
	}
	# what was there must go on being read from there, and what is gone must not be
	my $gone = $what =~ /^(?:echocache_purge|echocache_flush|detached)/;
	right('item', $what, !defined $less ? undef : $gone ? undef : rows() - abs $less);
}

# Entries that a transaction would change are read while it does.
keep('item');
my $before = document(1);
$s->run(q{BEGIN; UPDATE item SET v = 'own' WHERE id = 1; INSERT INTO item VALUES (30, 'own')});
reads($other, get(1), $before, 'the tier', 'not committed yet: others read as before');
reads($other, get(30), '', 'the table', 'and nothing new');
reads($s, get(1), document(1), 'the table', 'the transaction itself reads its own');
reads($s, get(2), document(2), 'the tier', 'and others from shared memory');
$s->run('COMMIT');
reads($other, get(1), document(1), 'the tier', 'committed');
like(document(1), qr/own/, 'all read that');
isnt($before, document(1), 'it is another one');
$s->run(q{DELETE FROM item WHERE id = 30});

# So are those of a prepared transaction, from the table.
$before = document(1);
$s->run(q{BEGIN; UPDATE item SET v = 'prepared' WHERE id = 1; PREPARE TRANSACTION 'p'});
reads($other, get(1), $before, 'the table', 'prepared: as before') for 1 .. 2;
$s->run(q{COMMIT PREPARED 'p'});
like($other->run(get(1)), qr/prepared/, 'committed');
right('item', 'all of them', undef);

# Two transactions that are prepared and not do not meet at one document, but one waits for the other.
$s->run(q{BEGIN; UPDATE item SET v = 'waits' WHERE id = 1});
my $third = session($node);
$third->send(q{UPDATE item SET v = 'waited' WHERE id = 1});
wait_for('the row lock', sub { return $other->run('SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = ' . $third->pid) == 1 });
$s->run('COMMIT');
$third->finish;
like($other->run(get(1)), qr/waited/, 'one waits for the other');
right('item', 'two writers one after the other', undef);

# What is forged in memcached is believed, as long as nobody looks: echocache_verify() does.
$s->run(q{SELECT echocache_invalidate('item', 2)});
$memcached->set('item:2', '{"id":2,"v":"forged"}');
is($other->run(get(2)), '{"id":2,"v":"forged"}', 'a forged document is believed, from shared memory, too') for 1 .. 2;
is($s->run(q{SELECT stale FROM echocache_verify('item')}), 1, 'echocache_verify() finds it');
is($other->run(get(2)), document(2), 'and takes it out of both') for 1 .. 2;

#
# Who reads, and how.
#
$s->run(q{CREATE ROLE reader; GRANT SELECT ON item TO reader});
keep('item');
$third->run('SET ROLE reader');
reads($third, get(1), document(1), 'the tier', 'who may read the table');
$s->run('REVOKE SELECT ON item FROM reader');
happened('item');
like($third->error(get(1)), qr/^42501: permission denied for table item/, 'who may not any more is refused');
is(happened('item')->{local_hits}, 0, 'before it is looked for');
$s->run('GRANT SELECT (id) ON item TO reader');
like($third->error(get(1)), qr/^42501: permission denied/, 'so is who may read a part');
$s->run('GRANT SELECT ON item TO reader; ALTER TABLE item ENABLE ROW LEVEL SECURITY; CREATE POLICY a_part ON item TO reader USING (id > 10)');
reads($third, get(1), '', 'the table', 'row-level security: what he may not see');
reads($third, get(11), document(11), 'the table', 'and what he may');
$s->run('ALTER TABLE item DISABLE ROW LEVEL SECURITY; DROP POLICY a_part ON item');
$third->run('RESET ROLE');
right('item', 'without it', undef);

$third->run('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM item');
$before = document(2);
$s->run(q{UPDATE item SET v = 'later' WHERE id = 2});
reads($other, get(2), document(2), 'the tier', 'changed');
reads($third, get(2), $before, 'the table', 'REPEATABLE READ: not for its snapshot');
$third->run('COMMIT');
reads($third, get(2), document(2), 'the tier', 'but afterwards');

# An owner.
$s->run(q{CREATE TABLE owned (id int PRIMARY KEY, owner text, v text); INSERT INTO owned SELECT g, 'me', g FROM generate_series(1, 10) g;
	SELECT echocache_attach('owned', 'owned', owner_column => 'owner')});
keep('owned');
reads($other, q{SELECT echocache_get('owned', 1, 'me')}, document(1, 'owned'), 'the tier', 'the right owner');
reads($other, q{SELECT echocache_get('owned', 1, 'you')}, '', 'the tier', 'the wrong one');
happened('owned');
is($other->run(q{SELECT echocache_get('owned', 1, NULL::text)}), '', 'NULL is nobody');
reads($other, q{SELECT string_agg(id, ',') FROM echocache_get_many('owned', '{1,2}'::bigint[], 'me')}, '1,2', 'the tier', 'of a list');
reads($other, q{SELECT string_agg(id, ',') FROM echocache_get_many('owned', '{1,2}'::bigint[], 'you')}, '', 'the tier', 'of a list, the wrong one');
$s->run(q{UPDATE owned SET owner = 'you' WHERE id = 1});
reads($other, q{SELECT echocache_get('owned', 1, 'me')}, '', 'the tier', 'it has another one');
reads($other, q{SELECT echocache_get('owned', 1, 'you')}, document(1, 'owned'), 'the tier', 'who reads it');

# Keys whose text is not the only one.
$s->run(q{CREATE TABLE num (id numeric PRIMARY KEY, v text); INSERT INTO num VALUES (1.0, 'one'), (2, 'two');
	SELECT echocache_attach('num', 'num')});
$other->run(get($_, 'num')) for '1.0', '1.0';
$s->run(q{UPDATE num SET v = 'changed' WHERE id = 1});
is($other->run(get($_, 'num')), document(1, 'num'), "numeric: $_ is 1.0") for '1.0', '1', '1.00', '1.00', '1';
$s->run(q{UPDATE num SET id = 1.00, v = 'other digits' WHERE id = 1});
is($other->run(get($_, 'num')), document(1, 'num'), "numeric: $_ is 1.00 now") for ('1.0', '1', '1.00') x 2;
$s->run(q{DELETE FROM num WHERE id = 1});
is($other->run(get($_, 'num')), '', "numeric: $_ is gone") for ('1.0', '1', '1.00') x 2;
if ($s->run(q{SELECT count(*) FROM pg_available_extensions WHERE name = 'citext'}) == 1)
{
	$s->run(q{CREATE EXTENSION citext; CREATE TABLE ci (id citext PRIMARY KEY, v text); INSERT INTO ci VALUES ('Abc', 'one');
		SELECT echocache_attach('ci', 'ci')});
	for my $sql ('', q{UPDATE ci SET v = 'two' WHERE id = 'abc'}, q{UPDATE ci SET id = 'ABC', v = 'three' WHERE id = 'abc'})
	{
		$s->run($sql) if $sql;
		is($other->run(get($_, 'ci')), document('abc', 'ci'), "citext: $_ is the same") for ('Abc', 'abc', 'ABC') x 2;
	}
	$s->run(q{DELETE FROM ci});
	is($other->run(get($_, 'ci')), '', "citext: $_ is gone") for ('Abc', 'abc', 'ABC') x 2;
}

#
# Lifetimes.
#
$s->run(q{CREATE TABLE brief (id int PRIMARY KEY, v text); INSERT INTO brief SELECT g, g FROM generate_series(1, 20) g;
	SELECT echocache_attach('brief', 'brief', ttl => '3 s')});
reads($other, get(1, 'brief'), document(1, 'brief'), 'a fill', 'a lifetime of 3 seconds');
reads($other, get(1, 'brief'), document(1, 'brief'), 'the tier', 'kept');
sleep 4;
reads($other, get(1, 'brief'), document(1, 'brief'), 'a fill', 'over');
$s->run(q{UPDATE brief SET v = 'begins' WHERE id = 1});
sleep 2;
reads($other, get(1, 'brief'), document(1, 'brief'), 'the tier', 'a change begins it anew');
sleep 2.2;
reads($other, get(1, 'brief'), document(1, 'brief'), 'a fill', 'and it ends');

# What memcached has left is what the tier has of it.
$s->run(q{SELECT echocache_detach('brief'); SELECT echocache_attach('brief', 'brief', ttl => '1 h')});
$s->run(q{INSERT INTO brief VALUES (30, 'in memcached')});
holds($memcached, 'brief:30', document(30, 'brief'), 'a document of memcached');
like($memcached->exchange("mg brief:30 T3 t\r\n", qr/\r\n/), qr/^HD/, 'which lives for 3 seconds more');
reads($other, get(30, 'brief'), document(30, 'brief'), 'memcached', 'found there');
reads($other, get(30, 'brief'), document(30, 'brief'), 'the tier', 'and kept');
$memcached->exchange("mg brief:30 T600 t\r\n", qr/\r\n/);
sleep 4;
reads($other, get(30, 'brief'), document(30, 'brief'), 'memcached', 'for no longer than it had left');
cmp_ok($memcached->ttl('brief:30'), '>', 500, 'though it lives');

# A touch.
$other->run(get(2, 'brief'));
is($s->run(q{SELECT echocache_touch('brief', 2, '2 s')}), 't', 'a touch gives it 2 seconds');
reads($other, get(2, 'brief'), document(2, 'brief'), 'the tier', 'which it has');
sleep 3.2;
reads($other, get(2, 'brief'), document(2, 'brief'), 'a fill', 'here as well as there');
is($s->run(q{SELECT echocache_touch('brief', 2, '2 s'), echocache_touch('brief', 2, '0')}), 't|t', 'and another one, for ever');
sleep 3.2;
reads($other, get(2, 'brief'), document(2, 'brief'), 'the tier', 'what it has then');

# touch_on_read: memcached's lifetime is kept up by reads that do not ask memcached, at times.
$s->run(q{SELECT echocache_detach('brief'); SELECT echocache_attach('brief', 'brief', ttl => '10 s', touch_on_read => true)});
$other->run(get($_, 'brief')) for 1, 2;
my ($touched, $reads) = ($memcached->stats->{cmd_touch}, 0);
my $end = Time::HiRes::time + 14;
happened('brief');
while (Time::HiRes::time < $end)
{
	$other->run(get(1, 'brief'));
	$reads++;
	sleep 0.05;
}
is(happened('brief')->{local_hits}, $reads, 'touch_on_read: all reads are the tier\'s, for longer than the lifetime');
cmp_ok($memcached->ttl('brief:1') // 0, '>=', 7, 'and the document lives in memcached, too');
is($memcached->get('brief:2'), undef, 'where one that nobody reads does not');
$touched = $memcached->stats->{cmd_touch} - $touched;
cmp_ok($touched, '<=', 14, 'with a touch a second at most');
cmp_ok($touched, '>=', 2, 'but some');

#
# Documents of several tables.
#
$s->run(q{
	CREATE TABLE head (id int PRIMARY KEY, v text);
	CREATE TABLE part (id int PRIMARY KEY, head int, v text);
	INSERT INTO head SELECT g, 'head' FROM generate_series(1, 10) g;
	INSERT INTO part SELECT g, 1 + g % 10, 'part' FROM generate_series(1, 30) g;
	CREATE FUNCTION whole(h head) RETURNS json LANGUAGE sql STABLE AS $$
		SELECT json_build_object('id', h.id, 'v', h.v, 'parts', (SELECT json_agg(p.v ORDER BY p.id) FROM public.part p WHERE p.head = h.id)) $$;
	SELECT echocache_attach('head', 'head', document => 'whole'), echocache_attach_dependent('part', 'head', 'head')});
sub whole { my ($id) = @_; return $s->run("SELECT whole(h) FROM head h WHERE id = $id"); }
is($other->run(get(1, 'head')), whole(1), 'composed') for 1 .. 2;
for my $sql (q{UPDATE part SET v = 'changed' WHERE head = 1}, q{DELETE FROM part WHERE id = 10}, q{UPDATE part SET head = 2 WHERE head = 1},
	q{INSERT INTO part VALUES (100, 1, 'new')}, q{UPDATE head SET v = 'changed' WHERE id = 1}, q{TRUNCATE part},
	q{CREATE OR REPLACE FUNCTION whole(h head) RETURNS json LANGUAGE sql STABLE AS 'SELECT json_build_object(''id'', h.id, ''new'', h.v)'})
{
	wait_for('it to be kept', sub { happened('head'); $other->run(get(1, 'head')); return answered('head') eq 'the tier' });
	$s->run($sql);
	is($other->run(get(1, 'head')), whole(1), "composed: $sql");
	is($other->run(get(2, 'head')), whole(2), 'and another one');
	await_builder($s);
	is($other->run(get(1, 'head')), whole(1), 'then from the builder');
}
# The builder puts what it makes where it is read.
wait_for('it to be kept', sub { happened('head'); $other->run(get(1, 'head')); return answered('head') eq 'the tier' });
$s->run(q{UPDATE head SET v = 'built' WHERE id = 1});
await_builder($s);
wait_for('the builder', sub { return ($memcached->get('head:1') // 'null') ne 'null' });
reads($other, get(1, 'head'), whole(1), 'the tier', 'the builder leaves it in shared memory');
is(happened('head')->{misses}, 0, 'which nobody has missed');

#
# Partitions, and types of columns.
#
$s->run(q{
	CREATE TYPE mood AS ENUM ('good', 'bad');
	CREATE TABLE parted (id int PRIMARY KEY, v text, m mood DEFAULT 'good') PARTITION BY RANGE (id);
	CREATE TABLE parted_a PARTITION OF parted FOR VALUES FROM (0) TO (10);
	CREATE TABLE parted_b PARTITION OF parted FOR VALUES FROM (10) TO (1000);
	INSERT INTO parted SELECT g, 'first' FROM generate_series(1, 20) g;
	SELECT echocache_attach('parted', 'parted')});
for my $sql (q{UPDATE parted SET v = 'a' WHERE id IN (1, 11)}, q{UPDATE parted_b SET v = 'b' WHERE id IN (12, 13)}, q{UPDATE parted SET id = 30 WHERE id = 2},
	q{UPDATE parted SET id = 2 WHERE id = 30}, q{DELETE FROM parted_a WHERE id = 3}, q{INSERT INTO parted_a VALUES (3, 'new')}, q{TRUNCATE parted_a},
	q{INSERT INTO parted SELECT g, 'second' FROM generate_series(1, 9) g}, q{ALTER TABLE parted DETACH PARTITION parted_a},
	q{UPDATE parted_a SET v = 'detached' WHERE id = 1; ALTER TABLE parted ATTACH PARTITION parted_a FOR VALUES FROM (0) TO (10)},
	q{DROP TABLE parted_a}, q{ALTER TYPE mood RENAME VALUE 'good' TO 'better'})
{
	keep('parted');
	$s->run($sql);
	is(wrong('parted'), 0, $sql);
	is(wrong('parted'), 0, 'and again');
}

#
# The policy "invalidate".
#
$s->run(q{SELECT echocache_detach('item'); SELECT echocache_attach('item', 'item', policy => 'invalidate')});
right('item', 'invalidate', undef);
keep('item');
$s->run(q{UPDATE item SET v = 'invalidated' WHERE id = 1});
misses($memcached, 'item:1', 'a change takes it out of memcached');
reads($other, get(1), document(1), 'a fill', 'and of shared memory');
reads($other, get(1), document(1), 'the tier', 'where it is again then');
$s->run(q{BEGIN; UPDATE item SET v = 'never' WHERE id = 1});
reads($other, get(1), $other->run('SELECT row_to_json(item) FROM item WHERE id = 1'), 'the tier', 'not committed yet');
$s->run('ROLLBACK');
reads($other, get(1), document(1), 'the tier', 'rolled back');

# Attached with other options.
$s->run(q{SELECT echocache_detach('item'); SELECT echocache_attach('item', 'item', exclude => '{n}')});
is($other->run(get(1)), $s->run(q{SELECT json_build_object('id', id, 'v', v)::text FROM item WHERE id = 1}) =~ s/ : /:/gr =~ s/, /,/gr, 'attached without a column') for 1 .. 2;
$s->run(q{SELECT echocache_detach('item'); SELECT echocache_attach('item', 'item', filter => 'id > 10')});
reads($other, get(1), '', 'the table', 'with a filter: what is not of it') for 1 .. 2;
$other->run(get(11));
reads($other, get(11), document(11), 'the tier', 'what is');
$s->run(q{SELECT echocache_detach('item')});
like($other->error(get(11)), qr/^42704: /, 'and detached: nothing');

#
# Sizes, from almost nothing to what does not fit.
#
$s->run(q{CREATE TABLE size (id int PRIMARY KEY, v text); INSERT INTO size SELECT g, left(repeat(md5(g::text), 90000), (2.2 ^ g)::int - 1) FROM generate_series(0, 19) g;
	SELECT echocache_attach('size', 'size', exclude => '{}')});
cmp_ok($s->run('SELECT max(length(v)) FROM size'), '>', 2_500_000, 'documents of several megabytes');
for my $id (0 .. 19)
{
	my $document = document($id, 'size');

	for my $n (1 .. 3)
	{
		is($other->run('SELECT md5((' . get($id, 'size') . ')::text)'), $s->run("SELECT md5(row_to_json(size)::text) FROM size WHERE id = $id"), "read $n of " . length($document) . ' bytes');
	}
	happened('size');
	$other->run('SELECT length((' . get($id, 'size') . ')::text)');
	is(answered('size'), 'the tier', 'kept') if length $document < 1_000_000;
}
$s->run(q{UPDATE size SET v = reverse(v) WHERE id BETWEEN 10 AND 19});
for my $id (10 .. 19)
{
	is($other->run('SELECT md5((' . get($id, 'size') . ')::text)'), $s->run("SELECT md5(row_to_json(size)::text) FROM size WHERE id = $id"), "document $id, changed") for 1 .. 2;
}
# A key as long as there can be.
$s->run(q{CREATE TABLE long (id text PRIMARY KEY, v text); INSERT INTO long SELECT repeat('x', g), g FROM generate_series(200, 260) g;
	SELECT echocache_attach('long', 'long')});
for my $length (200, 243, 244, 245, 246, 250, 255, 256, 260)
{
	my $id = 'x' x $length;

	is($other->run(get($id, 'long')), document($id, 'long'), "an id of $length bytes") for 1 .. 2;
	$s->run("UPDATE long SET v = 'changed' WHERE id = '$id'");
	is($other->run(get($id, 'long')), document($id, 'long'), 'changed') for 1 .. 2;
}

# Without the extension, and with it again.
$s->run(q{SELECT echocache_attach('item', 'item')});
keep('item');
$s->run(q{DROP EXTENSION echocache CASCADE; UPDATE item SET v = 'without'; CREATE EXTENSION echocache; SELECT echocache_attach('item', 'item')});
is(wrong('item'), 0, 'the extension dropped, and there again') for 1 .. 2;

$_->quit for $s, $other, $third;
$node->stop;
done_testing();
