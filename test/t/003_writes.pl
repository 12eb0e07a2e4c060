# Every way to change a row: after its commit a plain client finds exactly the
# row as it is now, or is sent to the database; after a rollback it finds what it
# found before.  Never an older document, never one that was not committed.
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
my $node = new_node('main', hosts => [$memcached],
	conf => "max_prepared_transactions = 5\nwal_level = logical\nechocache.fill_wait = '10s'\n");
my $s = session($node, sql => 'CREATE EXTENSION echocache');

# What the table says, as a document: asked by a session with canonical settings.
my $truth = session($node, sql => q{SET TimeZone = 'UTC'; SET search_path = pg_catalog});
my %source = (
	session => 'SELECT row_to_json(s) FROM public.session s WHERE NOT is_deleted AND id::text = ',
	profile => 'SELECT row_to_json(x) FROM (SELECT id, name FROM public.account) x WHERE id::text = ',
	part => 'SELECT row_to_json(p) FROM public.part p WHERE id::text = ',
	note => 'SELECT row_to_json(n) FROM public.note n WHERE id::text = ');

sub row
{
	my ($key) = @_;
	my ($document, $id) = split /:/, $key, 2;
	my $row = $truth->run("$source{$document}'$id'");

	return $row eq '' ? undef : $row;
}

# Run SQL, and test what a plain client finds under each key: 'exact' (the
# document as the table has it; a miss when it has none), or 'invalidated' (a miss
# or a marker), after which a read by SQL must bring back the document.  All
# documents are in the cache before.
sub after
{
	my ($name, $sql, $expect, @keys) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for my $key (@keys)
	{
		my ($document, $id) = split /:/, $key;
		my $row = row($key);

		$s->run("SELECT echocache_get('$document', '$id')");
		holds($memcached, $key, $row, "$name: $key is cached before") if defined $row;
	}
	my $error = $s->error($sql);
	is($error, 'no error', $name) if $expect ne 'fails';
	for my $key (@keys)
	{
		my ($document, $id) = split /:/, $key;
		my $row = row($key);

		if ($expect eq 'invalidated')
		{
			invalidated($memcached, $key, "$name: $key is invalidated");
			is($s->run("SELECT echocache_get('$document', '$id')"), $row // '', "$name: $key by SQL");
		}
		else
		{
			holds($memcached, $key, $row, "$name: $key is the row");
		}
	}
	return $error;
}

$s->run(q{
	CREATE TABLE account (id bigint PRIMARY KEY, name text, seen int DEFAULT 0);
	CREATE TABLE session (id bigint PRIMARY KEY, account bigint REFERENCES account ON UPDATE CASCADE ON DELETE CASCADE,
		title text, n int DEFAULT 0, is_deleted boolean NOT NULL DEFAULT false);
	CREATE TABLE note (id bigint PRIMARY KEY, session bigint REFERENCES session ON DELETE SET NULL, body text);
	CREATE TABLE part (id bigint PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (100);
	CREATE TABLE part_high PARTITION OF part FOR VALUES FROM (100) TO (1000) PARTITION BY RANGE (id);
	CREATE TABLE part_high1 PARTITION OF part_high FOR VALUES FROM (100) TO (200);
	SELECT echocache_attach('session', filter => 'NOT is_deleted');
	SELECT echocache_attach('account', 'profile', exclude => '{seen}');
	SELECT echocache_attach('note', 'note');
	SELECT echocache_attach('part', 'part')});
wait_state($s, 'UP');

#
# The plain statements.
#
$s->run(q{INSERT INTO account SELECT g, 'account ' || g FROM generate_series(1, 9) g});
after('INSERT', q{INSERT INTO session SELECT g, 1 + g % 3, 'first ' || g FROM generate_series(1, 9) g},
	'exact', map { "session:$_" } 1 .. 9);
after('UPDATE', q{UPDATE session SET title = 'second' WHERE id = 1}, 'exact', 'session:1', 'session:2');
after('UPDATE of several rows', q{UPDATE session SET n = n + 1 WHERE id <= 5}, 'exact', map { "session:$_" } 1 .. 6);
after('UPDATE FROM', q{UPDATE session s SET title = a.name FROM account a WHERE a.id = s.account AND s.id < 4},
	'exact', map { "session:$_" } 1 .. 4);
after('DELETE', q{DELETE FROM session WHERE id = 9}, 'exact', 'session:9', 'session:8');
after('INSERT of a deleted key', q{INSERT INTO session VALUES (9, 1, 'back')}, 'exact', 'session:9');
after('ON CONFLICT DO UPDATE', q{INSERT INTO session VALUES (1, 1, 'x'), (10, 1, 'new')
	ON CONFLICT (id) DO UPDATE SET title = 'conflict ' || excluded.title}, 'exact', 'session:1', 'session:10');
after('ON CONFLICT DO NOTHING', q{INSERT INTO session VALUES (1, 1, 'lost'), (11, 1, 'new') ON CONFLICT DO NOTHING},
	'exact', 'session:1', 'session:11');
after('a writable CTE', q{WITH gone AS (DELETE FROM session WHERE id = 11 RETURNING *),
	more AS (UPDATE session SET title = 'cte' WHERE id = 2)
	INSERT INTO session SELECT 12, account, title FROM gone}, 'exact', 'session:2', 'session:11', 'session:12');

my $file = PostgreSQL::Test::Utils::tempdir() . '/copy';
append_to_file($file, "21\t1\tcopied\t0\tf\n22\t2\tcopied too\t5\tf\n23\t2\tdeleted already\t5\tt\n");
after('COPY FROM', "COPY session FROM '$file'", 'exact', map { "session:$_" } 21 .. 23);

SKIP:
{
	skip 'MERGE came with PostgreSQL 15', 1 if $node->pg_version < 15;
	after('MERGE', q{MERGE INTO session t USING (VALUES (21, 'merged'), (22, NULL), (24, 'new')) v(id, title) ON t.id = v.id
		WHEN MATCHED AND v.title IS NULL THEN DELETE
		WHEN MATCHED THEN UPDATE SET title = v.title
		WHEN NOT MATCHED THEN INSERT (id, account, title) VALUES (v.id, 1, v.title)},
		'exact', 'session:21', 'session:22', 'session:24');
}

#
# The key changes.
#
after('key change', q{UPDATE session SET id = 30 WHERE id = 21}, 'exact', 'session:21', 'session:30');
after('key change and back', q{BEGIN; UPDATE session SET id = 31 WHERE id = 30; UPDATE session SET id = 30 WHERE id = 31; COMMIT},
	'exact', 'session:30', 'session:31');
after('two keys exchanged', q{BEGIN; UPDATE session SET id = -1 WHERE id = 1; UPDATE session SET id = 1 WHERE id = 2;
	UPDATE session SET id = 2 WHERE id = -1; COMMIT}, 'exact', 'session:1', 'session:2', 'session:-1');

#
# Soft delete, which the filter hides.
#
after('soft delete', q{UPDATE session SET is_deleted = true WHERE id = 1}, 'exact', 'session:1');
is($s->run('SELECT echocache_get_session(1)'), '', 'soft delete: absent by SQL');
misses($memcached, 'session:1', 'soft delete: and a read caches nothing');
after('change of a hidden row', q{UPDATE session SET title = 'hidden' WHERE id = 1}, 'exact', 'session:1');
after('restored', q{UPDATE session SET is_deleted = false WHERE id = 1}, 'exact', 'session:1');
after('soft delete and key change', q{UPDATE session SET is_deleted = true, id = 40 WHERE id = 1}, 'exact',
	'session:1', 'session:40');
after('restored under the old key', q{UPDATE session SET is_deleted = false, id = 1 WHERE id = 40}, 'exact',
	'session:1', 'session:40');

#
# Through other tables.
#
after('foreign key ON UPDATE CASCADE', q{UPDATE account SET id = 100 WHERE id = 1}, 'exact',
	'profile:1', 'profile:100', 'session:3', 'session:9', 'session:10');
is($s->run(q{SELECT account FROM session WHERE id = 9}), 100, 'which did reach the session');
$s->run(q{INSERT INTO note VALUES (1, 9, 'a'), (2, 12, 'b')});
after('foreign key ON DELETE CASCADE and SET NULL', q{DELETE FROM account WHERE id = 100}, 'exact',
	'profile:100', 'session:3', 'session:9', 'session:10', 'session:12', 'note:1', 'note:2');
is($s->run(q{SELECT count(*) FROM note WHERE session IS NULL}), 2, 'which did reach the notes');

$s->run(q{
	CREATE FUNCTION count_notes() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		UPDATE session SET n = (SELECT count(*) FROM note WHERE session = coalesce(new.session, old.session))
			WHERE id = coalesce(new.session, old.session);
		RETURN NULL;
	END $$;
	CREATE TRIGGER z AFTER INSERT OR DELETE ON note FOR EACH ROW EXECUTE FUNCTION count_notes()});
after("another table's trigger", q{INSERT INTO note VALUES (3, 2, 'c'), (4, 2, 'd')}, 'exact',
	'session:2', 'note:3', 'note:4');
is($s->run('SELECT n FROM session WHERE id = 2'), 2, 'which did change the session');
$s->run(q{DROP TRIGGER z ON note;
	CREATE CONSTRAINT TRIGGER z AFTER INSERT OR DELETE ON note DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION count_notes()});
after("a deferred constraint's trigger", q{BEGIN; DELETE FROM note WHERE id = 3; SELECT echocache_get_session(2); COMMIT},
	'exact', 'session:2', 'note:3');
is($s->run('SELECT n FROM session WHERE id = 2'), 1, 'which did change the session');
$s->run(q{DROP TRIGGER z ON note;
	CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN new.title := upper(new.title); RETURN new; END $$;
	CREATE TRIGGER a BEFORE INSERT OR UPDATE ON session FOR EACH ROW EXECUTE FUNCTION shout();
	CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF pg_trigger_depth() = 1 THEN UPDATE session SET n = n + 100 WHERE id = new.id; END IF;
		RETURN NULL;
	END $$;
	CREATE TRIGGER zz AFTER UPDATE ON session FOR EACH ROW EXECUTE FUNCTION again()});
after("the table's own triggers", q{UPDATE session SET title = 'shout' WHERE id = 2}, 'exact', 'session:2');
is($s->run('SELECT title || n FROM session WHERE id = 2'), 'SHOUT101', 'which did change the row twice');
$s->run('DROP TRIGGER zz ON session');
after('a generated value', q{UPDATE session SET n = n + 1 WHERE id = 2}, 'exact', 'session:2');
$s->run('DROP TRIGGER a ON session');

after('session_replication_role', q{SET session_replication_role = replica; UPDATE session SET title = 'applied' WHERE id = 2;
	RESET session_replication_role}, 'exact', 'session:2');
$s->run(q{CREATE VIEW live AS SELECT * FROM session WHERE NOT is_deleted;
	CREATE RULE move AS ON DELETE TO live DO INSTEAD UPDATE session SET is_deleted = true WHERE id = old.id});
after('through a view and a rule', q{UPDATE live SET title = 'by view' WHERE id = 5; DELETE FROM live WHERE id = 4}, 'exact',
	'session:4', 'session:5');

#
# Transactions.
#
after('several statements on one row', q{BEGIN; INSERT INTO session VALUES (50, 2, 'a'); UPDATE session SET title = 'b' WHERE id = 50;
	UPDATE session SET title = 'c' WHERE id = 50; COMMIT}, 'exact', 'session:50');
after('deleted and made again', q{BEGIN; DELETE FROM session WHERE id = 50; INSERT INTO session VALUES (50, 2, 'd'); COMMIT},
	'exact', 'session:50');
after('made and deleted', q{BEGIN; INSERT INTO session VALUES (51, 2, 'a'); DELETE FROM session WHERE id = 51; COMMIT},
	'exact', 'session:51');
after('changed and changed back', q{BEGIN; UPDATE session SET title = 'x' WHERE id = 50; UPDATE session SET title = 'd' WHERE id = 50; COMMIT},
	'exact', 'session:50');
after('several tables in one transaction', q{BEGIN; UPDATE session SET n = 7 WHERE id = 50; UPDATE account SET name = 'renamed' WHERE id = 2;
	UPDATE note SET body = 'x'; INSERT INTO part VALUES (1, 'a'); COMMIT}, 'exact',
	'session:50', 'profile:2', 'note:1', 'note:2', 'part:1');
after('rollback', q{BEGIN; UPDATE session SET title = 'never'; DELETE FROM note; TRUNCATE part; ROLLBACK}, 'exact',
	'session:50', 'session:2', 'note:1', 'part:1');
like(after('an error', q{BEGIN; UPDATE session SET title = 'never' WHERE id = 50; SELECT 1 / 0; COMMIT}, 'fails', 'session:50'),
	qr/^22012/, 'the error was the one expected');
like(after('an error at the commit', q{BEGIN; SET CONSTRAINTS ALL DEFERRED;
	ALTER TABLE note ALTER CONSTRAINT note_session_fkey DEFERRABLE INITIALLY DEFERRED;
	UPDATE session SET title = 'never' WHERE id = 50; UPDATE note SET session = 12345 WHERE id = 1; COMMIT}, 'fails',
	'session:50', 'note:1'), qr/^23503/, 'the error was the one expected');

after('savepoint rolled back', q{BEGIN; UPDATE session SET title = 'kept' WHERE id = 50; SAVEPOINT a;
	UPDATE session SET title = 'lost' WHERE id = 50; UPDATE session SET title = 'lost' WHERE id = 2; ROLLBACK TO a; COMMIT},
	'exact', 'session:50', 'session:2');
after('savepoint released', q{BEGIN; SAVEPOINT a; UPDATE session SET title = 'released' WHERE id = 50; RELEASE a; COMMIT},
	'exact', 'session:50');
after('savepoints in each other', q{BEGIN; SAVEPOINT a; UPDATE session SET title = 'a' WHERE id = 50;
	SAVEPOINT b; UPDATE session SET title = 'b' WHERE id = 50; UPDATE session SET title = 'b' WHERE id = 2;
	SAVEPOINT c; UPDATE session SET title = 'c' WHERE id = 50; RELEASE c; ROLLBACK TO b;
	SAVEPOINT d; UPDATE session SET n = 77 WHERE id = 5; RELEASE d; RELEASE a; COMMIT}, 'exact',
	'session:50', 'session:2', 'session:5');
after('released into one that is rolled back', q{BEGIN; SAVEPOINT a; SAVEPOINT b; UPDATE session SET title = 'never' WHERE id = 50;
	RELEASE b; ROLLBACK TO a; COMMIT}, 'exact', 'session:50');
after('deleted in a savepoint that is rolled back', q{BEGIN; SAVEPOINT a; DELETE FROM session WHERE id = 50; ROLLBACK TO a;
	UPDATE session SET title = 'still here' WHERE id = 50; COMMIT}, 'exact', 'session:50');
after('PL/pgSQL exception blocks', q{DO $$
	BEGIN
		FOR i IN 1 .. 20 LOOP
			BEGIN
				UPDATE session SET title = 'block ' || i WHERE id = 50;
				UPDATE session SET title = 'lost ' || i WHERE id = 2;
				IF i % 2 = 0 THEN RAISE EXCEPTION 'even'; END IF;
				UPDATE session SET title = 'odd ' || i WHERE id = 2;
			EXCEPTION WHEN raise_exception THEN NULL;
			END;
		END LOOP;
	END $$}, 'exact', 'session:50', 'session:2');
is($s->run('SELECT title FROM session WHERE id = 2'), 'odd 19', 'the last odd one stayed');
after('a savepoint a row, deep', join(' ', 'BEGIN;',
	(map { "SAVEPOINT s$_; UPDATE session SET n = $_ WHERE id = 50;" } 1 .. 150), 'COMMIT'), 'exact', 'session:50');

$s->run(q{CREATE PROCEDURE steps() LANGUAGE plpgsql AS $$
	BEGIN
		UPDATE session SET title = 'step 1' WHERE id = 50;
		COMMIT;
		UPDATE session SET title = 'never' WHERE id = 50;
		UPDATE session SET title = 'never' WHERE id = 2;
		ROLLBACK;
		UPDATE session SET n = -1 WHERE id = 2;
		COMMIT;
		UPDATE session SET n = -2 WHERE id = 5;
	END $$});
after('a procedure that commits inside', 'CALL steps()', 'exact', 'session:50', 'session:2', 'session:5');
is($s->run('SELECT title FROM session WHERE id = 50'), 'step 1', 'and rolls back inside');
for my $level ('READ UNCOMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
	after("ISOLATION LEVEL $level", "BEGIN ISOLATION LEVEL $level; UPDATE session SET title = '$level' WHERE id = 50; COMMIT", 'exact', 'session:50');
}
after('COMMIT AND CHAIN', q{BEGIN; UPDATE session SET title = 'chain 1' WHERE id = 50; COMMIT AND CHAIN;
	UPDATE session SET title = 'chain 2' WHERE id = 2; COMMIT}, 'exact', 'session:50', 'session:2');
after('ROLLBACK AND CHAIN', q{BEGIN; UPDATE session SET title = 'never' WHERE id = 50; ROLLBACK AND CHAIN;
	UPDATE session SET title = 'chain 3' WHERE id = 2; COMMIT}, 'exact', 'session:50', 'session:2');
after('a cursor', q{BEGIN; DECLARE c CURSOR FOR SELECT * FROM session WHERE id IN (2, 50) FOR UPDATE; FETCH c;
	UPDATE session SET title = 'current' WHERE CURRENT OF c; COMMIT}, 'exact', 'session:2', 'session:50');

# Own changes are seen by the transaction that made them, and by nobody else.
my $other = session($node);
$s->run(q{SELECT echocache_get_session(50); BEGIN; UPDATE session SET title = 'mine' WHERE id = 50});
like($s->run('SELECT echocache_get_session(50)'), qr/"title":"mine"/, 'a transaction reads what it wrote');
unlike($other->run('SELECT echocache_get_session(50)'), qr/mine/, 'another one does not');
like($s->run(q{SELECT session FROM echocache_get_sessions('{50,2}'::bigint[]) WHERE id = '50'}), qr/"title":"mine"/,
	'nor does it miss that in get_sessions');
unlike($memcached->get('session:50'), qr/mine/, 'nor a plain client');
$s->run('ROLLBACK');
unlike($s->run('SELECT echocache_get_session(50)'), qr/mine/, 'nor anybody after the rollback');

# No WAL flush was waited for: the document is not stored, and not left old either.
after('asynchronous commit', q{SET synchronous_commit = off; UPDATE session SET title = 'async' WHERE id = 50; RESET synchronous_commit},
	'never old', 'session:2');
unlike($memcached->get('session:50') // '', qr/mine|chain|current/, 'asynchronous commit: no older document');
eventually('asynchronous commit: cached once it is flushed', sub {
	$s->run('SELECT echocache_get_session(50)');
	return ($memcached->get('session:50') // '') eq row('session:50');
});

#
# Too many for write-through.
#
$s->run(q{INSERT INTO session SELECT g, 2, 'bulk' FROM generate_series(1000, 1063) g});
holds($memcached, $_, row($_), "64 documents are still stored: $_") for map { "session:$_" } 1000, 1031, 1063;
after('65 documents', q{UPDATE session SET title = 'more' WHERE id BETWEEN 1000 AND 1063 OR id = 50}, 'invalidated',
	'session:50', 'session:1000', 'session:1031', 'session:1063');
after('5000 documents', q{INSERT INTO session SELECT g, 2, 'bulk' FROM generate_series(2000, 6999) g; UPDATE session SET n = n + 1 WHERE id >= 1000},
	'invalidated', map { "session:$_" } 1000, 2000, 4321, 6999);
{
	$s->run(q{SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session WHERE id >= 1000))});
	holds($memcached, 'session:4321', row('session:4321'), 'get_sessions brings them back');
	$s->run('DELETE FROM session WHERE id >= 1000');
	my @left = grep { /^session:\d{4}$/ && ($memcached->get($_) // 'null') ne 'null' } $memcached->keys;
	is("@left", '', 'a bulk delete leaves none of 5064 documents');
}
after('a bulk with a savepoint rolled back', q{BEGIN; UPDATE session SET title = 'kept in bulk' WHERE id = 50; SAVEPOINT a;
	INSERT INTO session SELECT g, 2, 'bulk' FROM generate_series(1000, 1100) g; ROLLBACK TO a; COMMIT}, 'exact', 'session:50');

#
# Partitions.
#
after('partitioned INSERT', q{DELETE FROM part; INSERT INTO part VALUES (1, 'low'), (2, 'low'), (150, 'high')}, 'exact', 'part:1', 'part:2', 'part:150');
after('partitioned UPDATE', q{UPDATE part SET v = 'changed'}, 'exact', 'part:1', 'part:150');
after('a partition written directly', q{UPDATE part_low SET v = 'direct' WHERE id = 1; INSERT INTO part_high1 VALUES (151, 'direct')},
	'exact', 'part:1', 'part:151');
after('a row moves to another partition', q{UPDATE part SET id = 160 WHERE id = 2}, 'exact', 'part:2', 'part:160');
after('a new partition', q{CREATE TABLE part_high2 PARTITION OF part_high FOR VALUES FROM (200) TO (300);
	INSERT INTO part VALUES (250, 'new')}, 'exact', 'part:250');
after('an attached partition', q{CREATE TABLE part_high3 (id bigint NOT NULL, v text); INSERT INTO part_high3 VALUES (350, 'before');
	ALTER TABLE part_high ATTACH PARTITION part_high3 FOR VALUES FROM (300) TO (400);
	UPDATE part SET v = 'after' WHERE id = 350}, 'exact', 'part:350');
after('TRUNCATE of a partition', 'TRUNCATE part_high', 'invalidated', 'part:150', 'part:250', 'part:350');
after('TRUNCATE of a partitioned table', 'TRUNCATE part', 'invalidated', 'part:1');
$s->run(q{INSERT INTO part VALUES (1, 'low'), (150, 'high')});
# The rows of a partition that goes are no longer in the table.
is($s->run(q{SELECT echocache_get('part', '150')}), '{"id":150,"v":"high"}', 'a row of a partition');
$s->run('ALTER TABLE part_high DETACH PARTITION part_high1');
is($s->run(q{SELECT echocache_get('part', '150')}), '', 'is absent once the partition is detached');
eventually('and leaves the cache', sub { return ($memcached->get('part:150') // 'null') eq 'null'; });
$s->run(q{DROP TABLE part_low});
is($s->run(q{SELECT echocache_get('part', '1')}), '', 'or dropped');
eventually('and leaves the cache', sub { return ($memcached->get('part:1') // 'null') eq 'null'; });

#
# TRUNCATE, and what else empties or reshapes a table.
#
$s->run(q{DELETE FROM session; INSERT INTO session SELECT g, 2, 'again' FROM generate_series(1, 100) g;
	DELETE FROM note; INSERT INTO note VALUES (1, 1, 'a'), (2, 2, 'b')});
is($s->run(q{SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session))}), 100, 'a hundred sessions');
after('TRUNCATE CASCADE', 'TRUNCATE account CASCADE', 'invalidated', 'profile:2', 'session:1', 'session:100', 'note:1');
is(join(' ', grep { $memcached->get($_) ne 'null' } grep { /^(session|note|profile):/ } $memcached->keys), '',
	'TRUNCATE CASCADE leaves no document of any of the tables');
$s->run(q{INSERT INTO account VALUES (2, 'two'); INSERT INTO session SELECT g, 2, 'again' FROM generate_series(1, 3) g});
after('TRUNCATE and INSERT', q{BEGIN; TRUNCATE session, note; INSERT INTO session VALUES (1, 2, 'only'); COMMIT},
	'invalidated', 'session:1', 'session:2');
after('TRUNCATE rolled back', q{BEGIN; TRUNCATE session, note; ROLLBACK}, 'exact', 'session:1');
after('TRUNCATE in a savepoint that is rolled back', q{BEGIN; SAVEPOINT a; TRUNCATE session, note; ROLLBACK TO a; COMMIT},
	'exact', 'session:1');
$s->run(q{ALTER TABLE session ADD COLUMN extra text DEFAULT 'new column'});
is($s->run('SELECT echocache_get_session(1)'), row('session:1'), 'a new column is there at once by SQL');
eventually('documents without the new column go', sub { return ($memcached->get('session:1') // 'null') =~ /^null$|extra/; });
$s->run(q{ALTER TABLE session ALTER extra DROP DEFAULT, ALTER extra TYPE int USING 5});
is($s->run('SELECT echocache_get_session(1)'), row('session:1'), 'so is a column with another type');
eventually('documents with the old type go', sub { return ($memcached->get('session:1') // 'null') =~ /^null$|"extra":5/; });
$s->run(q{ALTER TABLE session RENAME title TO heading});
is($s->run('SELECT echocache_get_session(1)'), row('session:1'), 'and one with another name');
eventually('documents with the old name go', sub { return ($memcached->get('session:1') // 'null') =~ /^null$|"heading"/; });
$s->run(q{ALTER TABLE session RENAME heading TO title; ALTER TABLE session DROP COLUMN extra});
is($s->run('SELECT echocache_get_session(1)'), row('session:1'), 'and one column less');
eventually('documents with the dropped column go', sub { return ($memcached->get('session:1') // 'null') !~ /extra/; });
wait_state($s, 'UP');

# Two documents of one transaction: neither while it runs, both when it has ended.
$s->run(q{INSERT INTO session VALUES (61, 2, 'a'), (62, 2, 'a');
	BEGIN; UPDATE session SET title = 'b' WHERE id IN (61, 62)});
like($memcached->settled("session:$_"), qr/"title":"a"/, "session:$_ is old before the commit") for 61, 62;
$s->run('COMMIT');
like($memcached->settled("session:$_"), qr/"title":"b"/, "session:$_ is new after it") for 61, 62;

#
# PREPARE TRANSACTION: invalidated from then on, whoever ends it, however that is.
# While it is open nobody waits for it, and nobody puts the old document back.
#
for my $case ([ 'COMMIT', 'prepared' ], [ 'ROLLBACK', 'b' ])
{
	my ($end, $title) = @$case;
	my ($old, $new) = map { qq({"id":61,"account":2,"title":"$_","n":0,"is_deleted":false}) } 'b', $title;

	is($s->run('SELECT echocache_get_session(61)'), $old, "$end PREPARED: the document");
	holds($memcached, 'session:61', $old, 'is cached before');
	$s->run(q{BEGIN; UPDATE session SET title = 'prepared' WHERE id = 61; PREPARE TRANSACTION 'p'});
	marked($memcached, 'session:61', 'prepared, a plain client is sent to the database');
	my $took = seconds(sub { is($s->run('SELECT echocache_get_session(61)'), $old, 'where the old row is still the right one') });
	in_time($s, $took, 0.8, 'at once, without waiting for echocache.fill_wait');
	marked($memcached, 'session:61', 'and is not stored');
	$s->run(q{UPDATE session SET title = title || '.' WHERE id = 62});
	like($memcached->settled('session:62'), qr/"title":"b\.+"/, 'other documents are written through as ever');
	session($node)->run("$end PREPARED 'p'");
	invalidated($memcached, 'session:61', "$end PREPARED, in another session: no old document");
	is($s->run('SELECT echocache_get_session(61)'), $new, 'the right one is read');
	holds($memcached, 'session:61', $new, 'and cached again');
	$s->run(q{UPDATE session SET title = 'b' WHERE id = 61});
}

# Across a crash, too.
$s->run(q{SELECT echocache_get_session(61);
	BEGIN; UPDATE session SET title = 'crashed' WHERE id = 61; PREPARE TRANSACTION 'p'});
$_->quit for $s, $truth;
$node->stop('immediate');
$node->start;
$s = session($node);
$truth = session($node, sql => q{SET TimeZone = 'UTC'; SET search_path = pg_catalog});
wait_state($s, 'UP');
like($s->run('SELECT echocache_get_session(61)'), qr/"title":"b"/, 'prepared, and the server has crashed: the old row');
invalidated($memcached, 'session:61', 'is still not stored');
$s->run(q{COMMIT PREPARED 'p'});
like($s->run('SELECT echocache_get_session(61)'), qr/"title":"crashed"/, 'committed after the crash: the new one is read');
like($memcached->settled('session:61'), qr/"title":"crashed"/, 'and cached');

# All of a table.
$s->run(q{CREATE TABLE prepared (id bigint PRIMARY KEY, v text); SELECT echocache_attach('prepared', 'prepared');
	INSERT INTO prepared VALUES (1, 'a'), (2, 'a')});
like($memcached->settled("prepared:$_"), qr/"v":"a"/, "prepared:$_ is cached") for 1, 2;
$s->run(q{BEGIN; ALTER TABLE prepared ADD COLUMN more int DEFAULT 7; PREPARE TRANSACTION 'p'});
invalidated($memcached, "prepared:$_", "prepared ALTER TABLE: prepared:$_ is invalidated") for 1, 2;
$s->run(q{COMMIT PREPARED 'p'});
is($s->run(q{SELECT echocache_get('prepared', 1)}), '{"id":1,"v":"a","more":7}', 'and has the new column when it is committed');
holds($memcached, 'prepared:1', '{"id":1,"v":"a","more":7}', 'and is cached with it');

# What changes no document concerns nobody.
is($s->run(q{CREATE TABLE unattached (id int); BEGIN; INSERT INTO unattached VALUES (1); SELECT echocache_get_session(62);
	PREPARE TRANSACTION 'q'; COMMIT PREPARED 'q'; SELECT count(*) FROM unattached}) =~ s/.*\n//sr, 1,
	'one that only reads documents can be prepared');
like($s->run('SELECT echocache_get_session(61)'), qr/"title":"crashed"/, 'a document');
$s->run(q{BEGIN; SAVEPOINT a; UPDATE session SET title = 'never' WHERE id = 61; ROLLBACK TO a; INSERT INTO unattached VALUES (2);
	PREPARE TRANSACTION 'q'});
like($memcached->settled('session:61'), qr/"title":"crashed"/, 'whose change was rolled back to a savepoint stays cached');
is($s->run(q{ROLLBACK PREPARED 'q'; SELECT count(*) FROM unattached}), 1, 'and is not in the way');

#
# Dropped and detached.
#
$s->run('SELECT echocache_get_session(61), echocache_get_session(62)');
is($s->run(q{SELECT echocache_detach('session') >= 2}), 't', 'detach says how many keys it invalidated');
invalidated($memcached, "session:$_", "session:$_ is invalidated by it") for 61, 62;
is($s->error(q{UPDATE session SET title = 'no longer watched'}), 'no error', 'the table goes on without');
$s->run(q{INSERT INTO note VALUES (5, NULL, 'e')});
holds($memcached, 'note:5', '{"id":5,"session":null,"body":"e"}', 'a note');
$s->run('DROP TABLE note');
eventually('a dropped table leaves the cache', sub { return ($memcached->get('note:5') // 'null') eq 'null'; });
is($s->run(q{SELECT count(*) FROM echocache_documents WHERE name = 'note'}), 0, 'and the list of documents');

done_testing();
