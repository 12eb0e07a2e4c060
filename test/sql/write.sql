--
-- Writing: whatever changes a row, the document is right after the commit, and
-- untouched after a rollback.  What is sent shows in the counters; whether a read
-- was answered by the cache shows in them too.
--
\set ECHO none
\set schema write
\i test/sql/include/prelude.sql

CREATE TABLE session (id int PRIMARY KEY, title text, is_deleted boolean NOT NULL DEFAULT false, secret text);
SELECT echocache_attach('session', filter => 'NOT is_deleted', exclude => '{secret}');
SELECT echocache_stats_reset();

--
-- INSERT, UPDATE, DELETE
--
INSERT INTO session VALUES (1, 'one'), (2, 'two'), (3, 'three');
SELECT counted();
SELECT * FROM echocache_get_sessions('{1,2,3}'::bigint[]);
SELECT counted();
UPDATE session SET title = 'ONE' WHERE id = 1;
SELECT echocache_get_session(1);
SELECT counted();
DELETE FROM session WHERE id = 3;
SELECT counted();
SELECT echocache_get_session(3);
SELECT counted();

-- What is no change of the document sends nothing.
UPDATE session SET title = title;
UPDATE session SET title = title || '', secret = 'hush';
UPDATE session SET title = 'nobody' WHERE id = 99;
DELETE FROM session WHERE id = 99;
SELECT echocache_get_session(1);
SELECT counted();

-- Several statements on one row: one document.
BEGIN;
INSERT INTO session VALUES (4, 'four');
UPDATE session SET title = 'Four' WHERE id = 4;
UPDATE session SET title = 'FOUR' WHERE id = 4;
COMMIT;
SELECT counted();
SELECT echocache_get_session(4);
-- There and gone again.
BEGIN;
INSERT INTO session VALUES (5, 'five');
DELETE FROM session WHERE id = 5;
COMMIT;
SELECT echocache_get_session(5);
-- Gone and there again.
BEGIN;
DELETE FROM session WHERE id = 4;
INSERT INTO session VALUES (4, 'born again');
COMMIT;
SELECT counted();
SELECT echocache_get_session(4);
SELECT counted();

-- Rolled back: not one request, and what was cached still is.
BEGIN;
UPDATE session SET title = 'not so';
INSERT INTO session VALUES (6, 'six');
DELETE FROM session WHERE id = 1;
ROLLBACK;
SELECT counted();
SELECT * FROM echocache_get_sessions('{1,2,4,6}'::bigint[]);
SELECT counted();
-- The same if it fails at its end.
CREATE TABLE child (id int PRIMARY KEY, session int REFERENCES session ON UPDATE CASCADE ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);
BEGIN;
UPDATE session SET title = 'not so' WHERE id = 1;
INSERT INTO child VALUES (1, 99);
COMMIT;
SELECT echocache_get_session(1);
SELECT counted();

-- Soft delete, and back.
UPDATE session SET is_deleted = true WHERE id = 2;
SELECT counted();
SELECT echocache_get_session(2);
UPDATE session SET title = 'changed while deleted' WHERE id = 2;
SELECT echocache_stats_reset();
UPDATE session SET is_deleted = false WHERE id = 2;
SELECT counted();
SELECT echocache_get_session(2);
SELECT counted();
INSERT INTO session VALUES (7, 'deleted from the beginning', true);
SELECT echocache_get_session(7);

-- A key changes: old and new; and two change places.
UPDATE session SET id = 10 WHERE id = 1;
SELECT echocache_stats_reset();
SELECT echocache_get_session(1), echocache_get_session(10);
SELECT counted();
BEGIN;
UPDATE session SET id = -id WHERE id IN (2, 4);
UPDATE session SET id = CASE id WHEN -2 THEN 4 ELSE 2 END WHERE id IN (-2, -4);
COMMIT;
SELECT * FROM echocache_get_sessions('{2,4,-2,-4}'::bigint[]);
SELECT echocache_stats_reset();

-- ON CONFLICT
INSERT INTO session VALUES (2, 'upserted') ON CONFLICT (id) DO UPDATE SET title = excluded.title;
INSERT INTO session VALUES (4, 'nothing done') ON CONFLICT DO NOTHING;
SELECT counted();
SELECT * FROM echocache_get_sessions('{2,4}'::bigint[]);
SELECT counted();
-- COPY
COPY session (id, title) FROM stdin;
20	copied
21	copied too
\.
SELECT counted();
SELECT * FROM echocache_get_sessions('{20,21}'::bigint[]);
SELECT counted();
-- MERGE
MERGE INTO session USING (VALUES (20, 'merged'), (21, NULL), (24, 'new')) v (id, title) ON v.id = session.id
	WHEN MATCHED AND v.title IS NULL THEN DELETE
	WHEN MATCHED THEN UPDATE SET title = v.title
	WHEN NOT MATCHED THEN INSERT (id, title) VALUES (v.id, v.title);
SELECT counted();
SELECT * FROM echocache_get_sessions('{20,21,24}'::bigint[]);
-- UPDATE ... FROM, DELETE ... USING, WITH
UPDATE session SET title = v.title FROM (VALUES (20, 'from')) v (id, title) WHERE v.id = session.id;
DELETE FROM session USING (VALUES (24)) v (id) WHERE v.id = session.id;
WITH gone AS (DELETE FROM session WHERE id = 20 RETURNING *) INSERT INTO session SELECT 22, title FROM gone;
SELECT * FROM echocache_get_sessions('{20,22,24}'::bigint[]);

-- Changed by other triggers, BEFORE and AFTER, immediate and deferred.
CREATE FUNCTION before_change() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.title := NEW.title || ' (before)'; RETURN NEW; END$$;
CREATE FUNCTION after_change() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN UPDATE session SET title = 'after ' || NEW.id WHERE id = 22; RETURN NULL; END$$;
CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
CREATE TRIGGER a BEFORE UPDATE ON session FOR EACH ROW WHEN (NEW.id = 2) EXECUTE FUNCTION before_change();
CREATE CONSTRAINT TRIGGER z AFTER UPDATE ON session DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.id = 2) EXECUTE FUNCTION after_change();
SELECT echocache_stats_reset();
UPDATE session SET title = 'triggered' WHERE id = 2;
SELECT counted();
SELECT * FROM echocache_get_sessions('{2,22}'::bigint[]);
SELECT counted();
DROP TRIGGER a ON session;
DROP TRIGGER z ON session;
CREATE TRIGGER a BEFORE UPDATE OR DELETE ON session FOR EACH ROW EXECUTE FUNCTION suppress();
UPDATE session SET title = 'suppressed' WHERE id = 2;
DELETE FROM session WHERE id = 2;
SELECT counted();
DROP TRIGGER a ON session;
SELECT echocache_get_session(2);

-- Foreign keys' cascades on an attached table.
SELECT echocache_attach('child', 'child');
INSERT INTO child VALUES (1, 22), (2, 22), (3, 2);
SELECT * FROM echocache_get_many('child', '{1,2,3}'::bigint[]);
UPDATE session SET id = 23 WHERE id = 22;
SELECT * FROM echocache_get_many('child', '{1,2,3}'::bigint[]);
SELECT echocache_stats_reset();
-- Several attached tables in one transaction.
DELETE FROM session WHERE id = 23;
SELECT counted();
SELECT * FROM echocache_get_many('child', '{1,2,3}'::bigint[]);
SELECT echocache_get_session(23);
-- Neither session_replication_role nor a disabled USER trigger slips past.
SET session_replication_role = replica;
UPDATE session SET title = 'replicated' WHERE id = 2;
RESET session_replication_role;
SELECT echocache_get_session(2);
SELECT echocache_detach('child');

--
-- Savepoints and exception blocks.
--
SELECT echocache_stats_reset();
BEGIN;
UPDATE session SET title = 'kept' WHERE id = 2;
SAVEPOINT a;
UPDATE session SET title = 'dropped' WHERE id = 4;
UPDATE session SET title = 'dropped too' WHERE id = 2;
ROLLBACK TO a;
SAVEPOINT b;
UPDATE session SET title = 'released' WHERE id = 10;
RELEASE b;
COMMIT;
-- 2 and 10; nothing was sent for 4
SELECT counted();
SELECT * FROM echocache_get_sessions('{2,4,10}'::bigint[]);
SELECT counted();
-- Released into what is rolled back; touched at several levels.
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
UPDATE session SET title = 'lost' WHERE id = 2;
RELEASE b;
SAVEPOINT c;
UPDATE session SET title = 'lost' WHERE id = 4;
ROLLBACK TO a;
UPDATE session SET title = 'won' WHERE id = 4;
COMMIT;
SELECT counted();
SELECT * FROM echocache_get_sessions('{2,4}'::bigint[]);
SELECT counted();
-- All of it rolled back to a savepoint.
BEGIN;
SAVEPOINT a;
UPDATE session SET title = 'no';
TRUNCATE session, child;
ROLLBACK TO a;
SELECT echocache_get_session(4);
COMMIT;
SELECT counted();
DO $$
BEGIN
	UPDATE session SET title = 'outer' WHERE id = 2;
	BEGIN
		UPDATE session SET title = 'inner' WHERE id IN (2, 4);
		PERFORM 1 / 0;
	EXCEPTION WHEN division_by_zero THEN
		UPDATE session SET title = 'handled' WHERE id = 10;
	END;
END $$;
SELECT counted();
SELECT * FROM echocache_get_sessions('{2,4,10}'::bigint[]);
SELECT counted();
-- A read inside sees what its own transaction has done, and nothing of it reaches the cache.
BEGIN;
UPDATE session SET title = 'mine alone' WHERE id = 2;
SELECT echocache_get_session(2);
SAVEPOINT a;
UPDATE session SET title = 'deeper' WHERE id = 2;
SELECT echocache_get_session(2);
ROLLBACK TO a;
SELECT echocache_get_session(2);
ROLLBACK;
SELECT echocache_get_session(2);
SELECT counted();
-- A procedure that commits and rolls back inside.
CREATE PROCEDURE steps() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 4 LOOP
		UPDATE session SET title = 'step ' || i WHERE id = 2;
		IF i % 2 = 1 THEN COMMIT; ELSE ROLLBACK; END IF;
		RAISE NOTICE '%: %', i, echocache_get_session(2)->>'title';
	END LOOP;
END $$;
CALL steps();
SELECT counted();

--
-- TRUNCATE
--
SELECT count(*) FROM echocache_get_sessions('{2,4,10}'::bigint[]);
BEGIN;
TRUNCATE session CASCADE;
SELECT echocache_get_session(2);
ROLLBACK;
SELECT echocache_stats_reset();
SELECT count(*) FROM echocache_get_sessions('{2,4,10}'::bigint[]);
SELECT counted();
BEGIN;
TRUNCATE session CASCADE;
INSERT INTO session VALUES (2, 'after the flood');
COMMIT;
SELECT echocache_stats_reset();
SELECT * FROM echocache_get_sessions('{2,4,10}'::bigint[]);
SELECT counted();
-- By CASCADE from another table.
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE kid (id int PRIMARY KEY REFERENCES parent);
INSERT INTO parent VALUES (1);
INSERT INTO kid VALUES (1);
SELECT echocache_attach('kid', 'kid');
SELECT echocache_get('kid', 1);
TRUNCATE parent CASCADE;
SELECT echocache_get('kid', 1);
SELECT echocache_detach('kid');

--
-- Many documents in one transaction: invalidated, not stored.
--
SHOW echocache.max_write_through;
TRUNCATE session CASCADE;
SELECT echocache_stats_reset();
INSERT INTO session SELECT n, 'n ' || n FROM generate_series(1, 64) n;
SELECT counted();
SELECT count(*) FROM echocache_get_sessions((SELECT array_agg(n) FROM generate_series(1, 70) n)::bigint[]);
SELECT echocache_stats_reset();
INSERT INTO session VALUES (65, 'n 65');
SELECT count(*) FROM echocache_get_sessions((SELECT array_agg(n) FROM generate_series(1, 65) n)::bigint[]);
SELECT counted();
UPDATE session SET title = 'bulk';
SELECT counted();
SELECT count(*), min(session->>'title'), max(session->>'title') FROM echocache_get_sessions((SELECT array_agg(n) FROM generate_series(1, 65) n)::bigint[]);
SELECT counted();
DELETE FROM session;
SELECT counted();
SELECT count(*) FROM echocache_get_sessions((SELECT array_agg(n) FROM generate_series(1, 65) n)::bigint[]);
SELECT echocache_stats_reset();

--
-- Policy invalidate: invalidated, and filled by the next read.
--
SELECT echocache_detach() >= 0 AS detached;
SELECT echocache_attach('session', policy => 'invalidate');
INSERT INTO session VALUES (1, 'one');
SELECT counted();
SELECT echocache_get_session(1);
SELECT counted();
SELECT echocache_get_session(1);
UPDATE session SET title = 'ONE';
SELECT counted();
SELECT echocache_get_session(1);
SELECT counted();
SELECT echocache_detach() > 0 AS detached;

--
-- Partitioned tables: rows that move.
--
CREATE TABLE part (id int PRIMARY KEY, title text) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
SELECT echocache_attach('part', 'part');
-- a partition that comes later, with its columns in another order
CREATE TABLE part_2 (gone int, title text, id int NOT NULL);
ALTER TABLE part_2 DROP COLUMN gone;
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (10) TO (20);
INSERT INTO part VALUES (1, 'one'), (11, 'eleven');
SELECT counted('part');
UPDATE part SET id = 12 WHERE id = 1;
SELECT * FROM echocache_get_many('part', '{1,11,12}'::bigint[]);
UPDATE part_2 SET title = 'directly' WHERE id = 11;
INSERT INTO part_1 VALUES (2, 'directly');
SELECT echocache_stats_reset();
SELECT * FROM echocache_get_many('part', '{2,11,12}'::bigint[]);
SELECT counted('part');
-- One with a partition key of its own: the id stays, the row moves.
CREATE TABLE moving (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE moving_a PARTITION OF moving FOR VALUES IN ('a');
CREATE TABLE moving_b PARTITION OF moving FOR VALUES IN ('b');
SELECT echocache_attach('moving', 'moving', key_column => 'id');
INSERT INTO moving VALUES (1, 'a');
UPDATE moving SET region = 'b';
SELECT echocache_get('moving', 1);
SELECT echocache_detach('moving');
-- A partition that is truncated, detached, attached, dropped.
SELECT count(*) FROM echocache_get_many('part', '{2,11,12}'::bigint[]);
TRUNCATE part_1;
SELECT echocache_get('part', 2);
SELECT echocache_get('part', 11);
ALTER TABLE part DETACH PARTITION part_2;
SELECT echocache_get('part', 11);
UPDATE part_2 SET title = 'while detached';
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (10) TO (20);
SELECT echocache_get('part', 11);
UPDATE part SET title = 'attached' WHERE id = 11;
SELECT echocache_get('part', 11);
DROP TABLE part_2;
SELECT echocache_get('part', 11);
TRUNCATE part;
SELECT echocache_detach('part');

-- Two documents of one partition, by itself and by its parent.
SELECT echocache_attach('part', 'part');
SELECT echocache_attach('part_1', 'part_one');
INSERT INTO part VALUES (1, 'one');
SELECT echocache_get('part', 1), echocache_get('part_one', 1);
UPDATE part_1 SET title = 'ONE';
SELECT echocache_get('part', 1), echocache_get('part_one', 1);
DELETE FROM part;
SELECT echocache_get('part', 1), echocache_get('part_one', 1);
SELECT echocache_detach('part_one') >= 0 AS detached;
INSERT INTO part VALUES (1, 'again');
SELECT echocache_get('part', 1);
SELECT echocache_detach('part');

-- A key whose text depends on settings: whoever writes, the readers' document changes.
CREATE TABLE calendar (day date PRIMARY KEY, title text);
CREATE TABLE instants (at timestamptz PRIMARY KEY, title text);
CREATE TABLE spans (span interval PRIMARY KEY, title text);
SELECT echocache_attach('calendar', 'calendar');
SELECT echocache_attach('instants', 'instants');
SELECT echocache_attach('spans', 'spans');
INSERT INTO calendar VALUES ('2024-02-29', 'leap');
INSERT INTO instants VALUES ('2024-02-29 12:00+00', 'noon');
INSERT INTO spans VALUES ('1 day', 'day');
SET DateStyle = 'ISO';
SET TimeZone = 'UTC';
SET IntervalStyle = 'postgres';
SELECT echocache_get('calendar', '2024-02-29'), echocache_get('instants', '2024-02-29 12:00+00'), echocache_get('spans', '1 day');
SET DateStyle = 'SQL, DMY';
SET TimeZone = 'Asia/Kolkata';
SET IntervalStyle = 'iso_8601';
UPDATE calendar SET title = 'changed';
UPDATE instants SET title = 'changed';
UPDATE spans SET title = 'changed';
SET DateStyle = 'ISO';
SET TimeZone = 'UTC';
SET IntervalStyle = 'postgres';
SELECT echocache_get('calendar', '2024-02-29'), echocache_get('instants', '2024-02-29 12:00+00'), echocache_get('spans', '1 day');
RESET DateStyle;
RESET TimeZone;
RESET IntervalStyle;
SELECT echocache_detach('calendar') > 0, echocache_detach('instants') > 0, echocache_detach('spans') > 0;

-- What a commit stores is what row_to_json makes, byte for byte.  Characters of all kinds, at all places in a text.
CREATE TABLE texts (id int PRIMARY KEY, t text, v varchar, c char(70), n name, "a ""quoted\ name" "char");
ALTER TABLE texts ALTER t SET STORAGE EXTERNAL;
SELECT echocache_attach('texts', 'texts');
DO $$
BEGIN
	FOR start IN 1 .. 561 BY 60 LOOP
		INSERT INTO texts SELECT i, repeat('a', i % 37) || s || repeat('b', i % 31), s || s, s, s, chr(1 + i % 127)
		FROM generate_series(start, start + 59) i, LATERAL (VALUES (chr(CASE WHEN i < 280 THEN i ELSE i * 90 END))) v (s);
		COMMIT;
	END LOOP;
END $$;
INSERT INTO texts VALUES (1001, '', '', '', '', '');
INSERT INTO texts VALUES (1002);
INSERT INTO texts VALUES (1003, E'\x01\x1f\x7f\r\n\t\b\f"\\/', repeat('"', 33), repeat('\', 33), repeat(E'\x1f', 33), 'x');
INSERT INTO texts VALUES (1004, repeat(E'sixteen at once\n', 3000), repeat('compressed ', 30000));
SELECT counted('texts');
SELECT count(*), count(*) FILTER (WHERE echocache_get('texts', id)::text = row_to_json(x)::text) AS equal FROM texts x;
SELECT counted('texts');
SELECT checked, matching, stale FROM echocache_verify('texts');
-- Types of all kinds, whatever the settings of the session that writes.
CREATE TYPE mood AS ENUM ('sad', 'so "so"');
CREATE DOMAIN code AS text CHECK (VALUE <> '');
CREATE DOMAIN number AS int;
CREATE TYPE pair AS (at timestamptz, f float8);
CREATE TABLE kinds (id bigint PRIMARY KEY, a smallint, b int, c numeric, d bool, e uuid, f oid, g date, h timestamp, i timestamptz, j json, k jsonb);
CREATE TABLE more_kinds (LIKE kinds INCLUDING ALL, l float4, m float8, n time, o timetz, p interval, q bytea, r inet, s int[], t text[],
	u timestamptz[], v float8[], w mood, x code, y number, z pair, money money, int4range int4range, tstzrange tstzrange, tsvector tsvector);
CREATE TABLE settled_kinds (LIKE more_kinds INCLUDING ALL);
ALTER TABLE settled_kinds DROP money, DROP z, DROP int4range, DROP tstzrange, DROP tsvector;
SELECT echocache_attach('kinds', 'kinds'), echocache_attach('more_kinds', 'more_kinds'),
	echocache_attach('settled_kinds', 'settled_kinds', filter => $$b IS NULL OR w >= 'sad'$$);
SET TimeZone = 'America/New_York';
SET DateStyle = 'SQL, DMY';
SET IntervalStyle = 'iso_8601';
SET bytea_output = 'escape';
SET extra_float_digits = -5;
INSERT INTO more_kinds VALUES (-1);
INSERT INTO more_kinds VALUES (2, -7, 42, 1.50, true, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 5, '29.02.2024', '29.02.2024 12:00', '29.02.2024 12:00+01', '{"a" : 1}', '{"a" : 1.0}',
		0.1, 0.1::float8 + 0.2::float8, '12:00', '12:00+02', '1 day 02:03', '\x00ff22', '::1', '{1,NULL,2}', '{a,"\"",NULL}', '{29.02.2024 12:00+01}', '{0.1,NaN}',
		'so "so"', E'A\tB', 7, ROW('29.02.2024 12:00+01', 0.3), 1.5, '[1,3)', '[29.02.2024 12:00+01,)', 'a:1 b:2');
INSERT INTO more_kinds VALUES (9223372036854775807, 32767, -2147483648, 'NaN', false, '00000000-0000-0000-0000-000000000000', 4294967295, 'infinity', '-infinity', 'infinity', 'null', '"\u0022"',
		'NaN', '-Infinity', '24:00', '00:00:00.000001-15:59', '-1 mon', '', '10.0.0.0/8', '{{1},{2}}', '{}', NULL, NULL,
		'sad', 'x', -7, ROW(NULL, 'Infinity'), -1.5, 'empty', '(,)', '');
INSERT INTO kinds SELECT id, a, b, c, d, e, f, g, h, i, j, k FROM more_kinds;
INSERT INTO settled_kinds SELECT id, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x, y FROM more_kinds;
SHOW TimeZone;
SELECT '2024-02-29 12:00+01'::timestamptz, '1 day 02:03'::interval, '\x00ff22'::bytea, 1::float8 / 3;
-- An error leaves the session's settings alone, too.
CREATE TABLE risky (id int PRIMARY KEY, n int);
SELECT echocache_attach('risky', 'risky', filter => '1 / n > 0');
INSERT INTO risky VALUES (1, 0);
SELECT '2024-02-29 12:00+01'::timestamptz, '1 day 02:03'::interval, '\x00ff22'::bytea, 1::float8 / 3;
RESET TimeZone;
RESET DateStyle;
RESET IntervalStyle;
RESET bytea_output;
RESET extra_float_digits;
SELECT name, markers, write_throughs, hits, misses FROM echocache_stats WHERE name LIKE '%kinds' ORDER BY name COLLATE "C";
BEGIN;
SET LOCAL TimeZone = 'UTC';
SET LOCAL DateStyle = 'ISO, MDY';
SET LOCAL IntervalStyle = 'postgres';
SET LOCAL bytea_output = 'hex';
SET LOCAL extra_float_digits = 1;
SET LOCAL lc_monetary = 'C';
SELECT id, echocache_get('kinds', id)::text = row_to_json(it)::text AS equal FROM kinds it ORDER BY id;
SELECT id, echocache_get('more_kinds', id)::text = row_to_json(it)::text AS equal FROM more_kinds it ORDER BY id;
SELECT id, echocache_get('settled_kinds', id)::text = row_to_json(it)::text AS equal FROM settled_kinds it ORDER BY id;
SELECT name, markers, write_throughs, hits, misses FROM echocache_stats WHERE name LIKE '%kinds' ORDER BY name COLLATE "C";
COMMIT;
SELECT (SELECT stale FROM echocache_verify('kinds')), (SELECT stale FROM echocache_verify('more_kinds')), (SELECT stale FROM echocache_verify('settled_kinds'));
SELECT echocache_get('settled_kinds', 2);
SELECT echocache_detach('risky') >= 0, echocache_detach('settled_kinds') > 0, echocache_detach('texts') > 0, echocache_detach('kinds') > 0, echocache_detach('more_kinds') > 0;

SELECT echocache_attach('session');
-- Not on disk, not in the cache: an asynchronous commit leaves markers, and the next reads are right.
SET synchronous_commit = off;
UPDATE session SET title = 'not flushed';
RESET synchronous_commit;
SELECT echocache_get_session(1);
SELECT echocache_detach() >= 0 AS detached;

SET client_min_messages = warning;
DROP SCHEMA write CASCADE;
SELECT count(*) FROM echocache_documents;
