--
-- All documents of a name: warm, purge and verify.
--
\set ECHO none
\i test/sql/include/prefix.sql
\set ECHO all
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS echocache;
RESET client_min_messages;
CREATE SCHEMA sweep;
SET search_path = sweep, public;

-- Run a statement that must fail: its SQLSTATE, message, detail and hint.
CREATE PROCEDURE fails(sql text) LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE sql;
	RAISE WARNING 'no error: %', sql;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RAISE NOTICE '%', concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM,
								'DETAIL:  ' || NULLIF(detail, ''), 'HINT:  ' || NULLIF(hint, ''));
END $$;

CREATE PROCEDURE wait_until(condition text) LANGUAGE plpgsql AS $$
DECLARE
	met boolean;
BEGIN
	FOR i IN 1 .. 300 LOOP
		EXECUTE 'SELECT ' || condition INTO met;
		IF met THEN RETURN; END IF;
		PERFORM pg_sleep(0.1);
	END LOOP;
	RAISE EXCEPTION 'not met: %', condition;
END $$;

-- A server is UP soon after a start.
CALL wait_until('echocache_is_available()');

-- What has been counted for a document since the last call: all that is not 0.
CREATE FUNCTION counted(document text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	SELECT string_agg(value || ' ' || key, ', ' ORDER BY key COLLATE "C") INTO result
	FROM echocache_stats s, jsonb_each_text(to_jsonb(s) - 'name' - 'stats_reset')
	WHERE name = document AND value <> '0';
	PERFORM echocache_stats_reset();
	RETURN COALESCE(result, 'nothing');
END $$;

-- Which of these ids are cached?
CREATE FUNCTION cached(document text, VARIADIC ids text[]) RETURNS text LANGUAGE sql AS $$
	SELECT COALESCE(string_agg(id, ' ' ORDER BY n), 'none') FROM unnest(ids) WITH ORDINALITY i(id, n) WHERE echocache_touch(document, id)
$$;

SELECT proname, proargnames, proargmodes, format_type(prorettype, NULL), proretset, proisstrict, proparallel,
	obj_description(oid, 'pg_proc') FROM pg_proc
	WHERE proname IN ('echocache_warm', 'echocache_purge', 'echocache_verify') ORDER BY proname COLLATE "C";

--
-- Warm: in key order, with the filter, without what is there already.
--
CREATE TABLE item (id int PRIMARY KEY, title text, secret text, hidden boolean NOT NULL DEFAULT false);
INSERT INTO item SELECT g, 'item ' || g, 'x', g % 10 = 0 FROM generate_series(1, 1000) g;
SELECT echocache_attach('item', 'item', filter => 'NOT hidden', exclude => '{secret,hidden}');
SELECT echocache_warm('item', 0), cached('item', '1');
SELECT echocache_warm('item', 3), cached('item', '1', '2', '3', '4', '5', '11');
SELECT counted('item');
SELECT echocache_invalidate('item', 2);
SELECT echocache_warm('item', 3), cached('item', '1', '2', '3', '4', '5', '6', '10', '11');
SELECT echocache_warm('item', max => 1), cached('item', '6', '7', '8');
SELECT echocache_warm('item');
SELECT echocache_warm('item');
SELECT cached('item', '1', '10', '999', '1000', '1001');
SELECT echocache_get('item', 999);
SELECT echocache_stats_reset();
SELECT count(*) FROM (SELECT echocache_get('item', g) AS d FROM generate_series(1, 1000) g OFFSET 0) s WHERE d::text LIKE '%"title":"item %';
SELECT hits, misses FROM echocache_stats WHERE name = 'item';
SELECT warm_pid, warm_started, warm_total, warm_done, warm_stored FROM echocache_documents WHERE name = 'item';
-- Markers of a bulk writer are not documents.
UPDATE item SET title = 'changed ' || id WHERE id <= 100;
SELECT echocache_stats_reset();
SELECT echocache_warm('item');
SELECT counted('item');
SELECT echocache_get('item', 99);
-- Within a statement that asks for more than one document's.
SELECT n, echocache_warm('item', n) FROM unnest(ARRAY[1, 2]) n;
SELECT echocache_warm('item', NULL), echocache_warm(NULL), echocache_warm(NULL, 1);
CALL fails($$SELECT echocache_warm('item', -1)$$);
CALL fails($$SELECT echocache_warm('nothing')$$);

--
-- Verify.
--
SELECT echocache_purge('item') >= 900 AS purged, echocache_warm('item');
SELECT * FROM echocache_verify('item');
SELECT * FROM echocache_verify('item', keys => true);
SELECT * FROM echocache_verify('item', 10);
SELECT * FROM echocache_verify('item', 10, true);
SELECT * FROM echocache_verify('item', 0);
SELECT * FROM echocache_verify('item', 5000);
SELECT count(*) FROM echocache_verify(NULL);
SELECT * FROM echocache_verify('item', NULL, NULL);
SELECT (echocache_verify('item')).matching;
CALL fails($$SELECT echocache_verify('item', -1)$$);
CALL fails($$SELECT echocache_verify('nothing')$$);
-- What is not cached is not verified; a marker is not a document.
SELECT count(*) FROM (SELECT echocache_invalidate('item', g) AS was FROM generate_series(1, 50) g OFFSET 0) s WHERE was;
UPDATE item SET title = 'again ' || id WHERE id BETWEEN 901 AND 1000;
SELECT * FROM echocache_verify('item');
SELECT echocache_warm('item');

-- Documents that are wrong: a function that the filter calls has changed, which nobody notices.
CREATE FUNCTION visible(id int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT id > 0';
CREATE TABLE shown (id int PRIMARY KEY, title text);
INSERT INTO shown SELECT g, 'shown ' || g FROM generate_series(1, 20) g;
SELECT echocache_attach('shown', 'shown', filter => 'visible(id)');
SELECT echocache_warm('shown');
SELECT * FROM echocache_verify('shown');
CREATE OR REPLACE FUNCTION visible(id int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT id > 5';
SELECT checked, cached, matching, stale, "foreign", busy, invalidated, (SELECT array_agg(k ORDER BY k COLLATE "C") FROM unnest(keys) k) AS keys
	FROM echocache_verify('shown', keys => true);
SELECT * FROM echocache_verify('shown', keys => true);
SELECT cached('shown', '1', '5', '6', '20');
SELECT echocache_detach('shown');

--
-- Purge: at once, whatever becomes of the transaction.
--
-- (the markers of those that are filtered out among them)
SELECT echocache_purge('item') BETWEEN 900 AND 920 AS purged;
SELECT echocache_purge('item');
SELECT cached('item', '1', '999');
SELECT echocache_warm('item', 5);
BEGIN;
INSERT INTO item VALUES (2000, 'written before');
SELECT echocache_purge('item');
SELECT cached('item', '1', '2', '3', '4', '5');
ROLLBACK;
SELECT cached('item', '1', '2', '3', '4', '5');
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT echocache_purge('item');
COMMIT;
SELECT echocache_purge(NULL);
CALL fails($$SELECT echocache_purge('nothing')$$);
-- The lock is gone with it: others store at once.
BEGIN;
SELECT echocache_purge('item');
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
SELECT echocache_get('item', 1) IS NOT NULL AS read, cached('item', '1');
COMMIT;

--
-- Where a fill would be refused.
--
BEGIN;
INSERT INTO item VALUES (2000, 'written before');
CALL fails($$SELECT echocache_warm('item')$$);
CALL fails($$SELECT echocache_verify('item')$$);
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL fails($$SELECT echocache_warm('item')$$);
CALL fails($$SELECT echocache_verify('item')$$);
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
CALL fails($$SELECT echocache_warm('item')$$);
ROLLBACK;
BEGIN READ ONLY;
SELECT echocache_warm('item', 10);
SELECT cached, matching FROM echocache_verify('item');
COMMIT;
-- Rolled back, it has been written all the same, as far as the locks go.
BEGIN;
SAVEPOINT s;
INSERT INTO item VALUES (2000, 'written before');
ROLLBACK TO s;
CALL fails($$SELECT echocache_warm('item')$$);
ROLLBACK;

-- An error within leaves nothing behind.
CREATE TABLE bad (id int PRIMARY KEY, n int);
CREATE FUNCTION check_bad(n int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN 100 / n > 0; END $$;
INSERT INTO bad SELECT g, 1 FROM generate_series(1, 500) g;
SELECT echocache_attach('bad', 'bad', filter => 'check_bad(n)');
INSERT INTO bad VALUES (501, NULL);
CREATE OR REPLACE FUNCTION check_bad(n int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF n IS NULL THEN
		RAISE EXCEPTION 'progress: %', (SELECT format('%s of %s, %s stored, by us: %s, since: %s', warm_done, warm_total, warm_stored, warm_pid = pg_backend_pid(),
			warm_started BETWEEN now() AND clock_timestamp()) FROM public.echocache_documents WHERE name = 'bad');
	END IF;
	RETURN true;
END $$;
VACUUM ANALYZE bad;
CALL fails($$SELECT echocache_warm('bad')$$);
SELECT warm_pid, warm_started, warm_total, warm_done, warm_stored FROM echocache_documents WHERE name = 'bad';
DO $$
BEGIN
	PERFORM echocache_warm('bad');
EXCEPTION WHEN OTHERS THEN
	RAISE NOTICE '%, now: %, locks: %', SQLERRM, (SELECT warm_pid FROM echocache_documents WHERE name = 'bad'),
		(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid());
	PERFORM echocache_invalidate('bad', 1);
	RAISE NOTICE 'and it can begin again: %', echocache_warm('bad', 1);
END $$;
SELECT echocache_detach('bad') > 0 AS detached;

-- Not cached: a trigger is disabled.  Purging is no harm.
ALTER TABLE item DISABLE TRIGGER echocache_row_item;
CALL fails($$SELECT echocache_warm('item')$$);
CALL fails($$SELECT echocache_verify('item')$$);
SELECT echocache_purge('item');
ALTER TABLE item ENABLE ALWAYS TRIGGER echocache_row_item;
SELECT echocache_warm('item', 1);

--
-- Keys of all kinds: what is warmed is found, and is right.
--
CREATE PROCEDURE swept(type text, VARIADIC ids text[]) LANGUAGE plpgsql AS $$
DECLARE
	warmed bigint;
	again bigint;
	result record;
BEGIN
	EXECUTE format('CREATE TABLE keyed (id %s UNIQUE, title text, at timestamptz DEFAULT ''2026-01-31 12:00+01'')', type);
	EXECUTE format('INSERT INTO keyed (id, title) SELECT i::%s, i FROM unnest($1) i', regexp_replace(type, ' COLLATE.*', '')) USING ids;
	PERFORM echocache_attach('keyed', 'keyed', key_column => 'id');
	COMMIT;
	-- whatever the session's settings are
	SET timezone = 'Asia/Tokyo';
	SET datestyle = 'German';
	SET extra_float_digits = 0;
	warmed := echocache_warm('keyed');
	SET timezone = 'UTC';
	SET datestyle = 'ISO';
	again := echocache_warm('keyed');
	result := echocache_verify('keyed', keys => true);
	RAISE NOTICE '%: % warmed, then %; %', type, warmed, again, result;
	PERFORM echocache_detach('keyed');
	DROP TABLE keyed;
	COMMIT;
	RESET timezone;
	RESET datestyle;
	RESET extra_float_digits;
END $$;
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS citext;
RESET client_min_messages;
CREATE COLLATION IF NOT EXISTS insensitive (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE DOMAIN even AS int CHECK (VALUE % 2 = 0);
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CALL swept('bigint', '-9223372036854775808', '-1', '0', '1', '9223372036854775807');
CALL swept('smallint', '-5', '7', NULL, NULL);
CALL swept('uuid', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '00000000-0000-0000-0000-000000000000', 'FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF');
CALL swept('text', 'Zürich 100 %', 'a', 'A', '', 'ÿ', 'null', '%41', E'tab\there', repeat('long', 100));
CALL swept('text COLLATE insensitive', 'Zürich', 'ZURICH', 'straße', 'b', 'C');
CALL swept('varchar(10) COLLATE "C"', 'z', 'Z', 'é');
CALL swept('char(4)', 'a', 'ab', 'abcd');
CALL swept('citext', 'One', 'two', 'THREE');
CALL swept('numeric', '1.0', '1.10', '-3', 'NaN', '1e100');
CALL swept('float8', '0.1', '1e-300', '-Infinity', 'NaN');
CALL swept('timestamptz', '2026-01-31 12:00+01', '1999-12-31 23:59:59.999999+00', 'infinity');
CALL swept('date', '2026-01-31', '0044-03-15 BC');
CALL swept('interval', '1 day', '-3 hours');
CALL swept('bytea', '\x00ff', '\x');
CALL swept('boolean', 'true', 'false');
CALL swept('even', '2', '4');
CALL swept('mood', 'happy', 'sad');
CALL swept('int[]', '{1,2}', '{}', '{NULL}');
CALL swept('inet', '10.0.0.1', '::1/64');
CALL swept('jsonb', '{"a": 1}', '"a"');

-- Several rows with one key: none is cached, and the others are none the worse.
CREATE TABLE part (id int, region int, title text, UNIQUE (id, region)) PARTITION BY LIST (region);
CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part2 (title text, region int NOT NULL, id int, UNIQUE (id, region));
ALTER TABLE part ATTACH PARTITION part2 FOR VALUES IN (2);
INSERT INTO part SELECT g, g % 2 + 1, 'part ' || g FROM generate_series(1, 300) g;
INSERT INTO part VALUES (7, 1, 'the other one');
SELECT echocache_attach('part', 'part', key_column => 'id');
SELECT echocache_warm('part');
SELECT cached('part', '6', '7', '8');
SELECT * FROM echocache_verify('part', keys => true);
CREATE TABLE part3 PARTITION OF part FOR VALUES IN (3);
INSERT INTO part VALUES (301, 3, 'in a new one');
SELECT echocache_invalidate('part', 301), echocache_warm('part') > 0 AS warmed, cached('part', '301');
SELECT echocache_detach('part') > 0 AS detached;

-- A child's rows are not the parent's documents.
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
INSERT INTO parent VALUES (1), (2);
INSERT INTO child VALUES (3);
SELECT echocache_attach('parent', 'parent');
SELECT echocache_warm('parent');
SELECT * FROM echocache_verify('parent');
SELECT echocache_detach('parent');

-- Documents that a function makes of several tables.
CREATE TABLE thread (id int PRIMARY KEY, title text);
CREATE TABLE message (id int PRIMARY KEY, thread_id int, body text);
CREATE FUNCTION thread_document(t thread) RETURNS json LANGUAGE sql STABLE AS $$
	SELECT json_build_object('id', t.id, 'title', t.title, 'messages', (SELECT json_agg(body ORDER BY m.id) FROM sweep.message m WHERE thread_id = t.id))
$$;
INSERT INTO thread SELECT g, 'thread ' || g FROM generate_series(1, 100) g;
INSERT INTO message SELECT g, g % 50, 'message ' || g FROM generate_series(1, 200) g;
SELECT echocache_attach('thread', 'thread', document => 'thread_document'), echocache_attach_dependent('message', 'thread_id', 'thread');
SELECT echocache_warm('thread');
SELECT * FROM echocache_verify('thread', keys => true);
UPDATE message SET body = 'changed' WHERE id = 7;
DO $$ BEGIN FOR i IN 1 .. 1000 LOOP
	EXIT WHEN NOT EXISTS (SELECT FROM echocache_stats WHERE builds_waiting > 0);
	PERFORM pg_sleep(0.01);
END LOOP; END $$;
SELECT echocache_warm('thread');
SELECT * FROM echocache_verify('thread', keys => true);
SELECT echocache_get('thread', 7);
SELECT echocache_detach('thread') AS detached;

-- A type without an order of its own.
CREATE FUNCTION xid_number(xid) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT $1::text::bigint';
CREATE FUNCTION xid_less(xid, xid) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT sweep.xid_number($1) < sweep.xid_number($2)';
CREATE FUNCTION xid_less_equal(xid, xid) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT sweep.xid_number($1) <= sweep.xid_number($2)';
CREATE FUNCTION xid_greater(xid, xid) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT sweep.xid_number($1) > sweep.xid_number($2)';
CREATE FUNCTION xid_greater_equal(xid, xid) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT sweep.xid_number($1) >= sweep.xid_number($2)';
CREATE FUNCTION xid_compare(xid, xid) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT sign(sweep.xid_number($1) - sweep.xid_number($2))::int';
CREATE OPERATOR <# (LEFTARG = xid, RIGHTARG = xid, FUNCTION = xid_less);
CREATE OPERATOR <=# (LEFTARG = xid, RIGHTARG = xid, FUNCTION = xid_less_equal);
CREATE OPERATOR ># (LEFTARG = xid, RIGHTARG = xid, FUNCTION = xid_greater);
CREATE OPERATOR >=# (LEFTARG = xid, RIGHTARG = xid, FUNCTION = xid_greater_equal);
CREATE OPERATOR CLASS xid_order FOR TYPE xid USING btree AS OPERATOR 1 <#, OPERATOR 2 <=#, OPERATOR 3 =, OPERATOR 4 >=#, OPERATOR 5 >#,
	FUNCTION 1 xid_compare(xid, xid);
CREATE TABLE unordered (id xid NOT NULL, title text);
CREATE UNIQUE INDEX ON unordered (id xid_order);
INSERT INTO unordered VALUES ('1', 'one'), ('2', 'two');
SELECT echocache_attach('unordered', 'unordered', key_column => 'id');
CALL fails($$SELECT echocache_warm('unordered')$$);
SELECT echocache_get('unordered', 1);
SELECT * FROM echocache_verify('unordered');
SELECT echocache_detach('unordered');

--
-- Who may: nobody who was not granted it; EXECUTE is all it takes.  The table's owner reads.
--
CREATE ROLE sweep_owner;
CREATE ROLE sweep_operator;
CREATE ROLE sweep_monitor IN ROLE pg_monitor;
GRANT USAGE, CREATE ON SCHEMA sweep TO sweep_owner;
SET ROLE sweep_owner;
CREATE TABLE secret (id int PRIMARY KEY, owner text);
INSERT INTO secret SELECT g, 'me' FROM generate_series(1, 10) g;
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
ALTER TABLE secret FORCE ROW LEVEL SECURITY;
CREATE FUNCTION whoever(owner text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT current_user::text = 'sweep_owner' $$;
SELECT echocache_attach('secret', 'secret', filter => 'whoever(owner)');
RESET ROLE;
SET ROLE sweep_operator;
SELECT public.echocache_warm('secret');
SELECT public.echocache_purge('secret');
SELECT public.echocache_verify('secret');
SELECT * FROM echocache_documents;
RESET ROLE;
GRANT EXECUTE ON FUNCTION echocache_warm(text, bigint), echocache_purge(text), echocache_verify(text, bigint, boolean) TO sweep_operator;
SET ROLE sweep_operator;
SELECT public.echocache_warm('secret');
SELECT * FROM public.echocache_verify('secret');
SELECT public.echocache_purge('secret');
SELECT current_user;
RESET ROLE;
SET ROLE sweep_monitor;
SELECT count(*), count(warm_pid) FROM public.echocache_documents WHERE name IN ('item', 'secret');
RESET ROLE;
SELECT echocache_detach('secret');

--
-- Switched off: nothing is sent, so nothing can be said.
--
ALTER SYSTEM SET echocache.enabled = off;
SELECT pg_reload_conf();
CALL wait_until('NOT echocache_is_available()');
CALL fails($$SELECT echocache_warm('item')$$);
CALL fails($$SELECT echocache_verify('item')$$);
CALL fails($$SELECT echocache_purge('item')$$);
ALTER SYSTEM RESET echocache.enabled;
SELECT pg_reload_conf();
CALL wait_until('echocache_is_available()');
SELECT * FROM echocache_verify('item');
SELECT echocache_warm('item', 2), echocache_purge('item');

DROP OWNED BY sweep_owner, sweep_operator;
SET client_min_messages = warning;
DROP SCHEMA sweep CASCADE;
DROP ROLE sweep_owner, sweep_operator, sweep_monitor;
