--
-- Reading: by id, by owner, many at once; touch, invalidate, refresh; what is
-- rendered is the same bytes, hit or miss, whatever the session's settings are.
--
\set ECHO none
\set schema read
\i test/sql/include/prelude.sql

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS citext SCHEMA public;
RESET client_min_messages;
CREATE TABLE chat (id uuid PRIMARY KEY, owner uuid, title text);
CREATE TABLE numbered (id bigint PRIMARY KEY, owner bigint, title text);
CREATE TABLE named (id text PRIMARY KEY, owner text, title text);
INSERT INTO chat VALUES
	('00000000-0000-0000-0000-00000000000a', 'aaaaaaaa-0000-0000-0000-000000000001', 'first'),
	('00000000-0000-0000-0000-00000000000b', 'aaaaaaaa-0000-0000-0000-000000000002', 'second'),
	('00000000-0000-0000-0000-00000000000c', NULL, 'nobody''s');
INSERT INTO numbered VALUES (1, 7, 'one'), (2, 8, 'two'), (-9223372036854775808, NULL, 'least');
INSERT INTO named VALUES ('a', 'me', 'A'), ('B c%', 'you', 'escaped'), ('', 'me', 'empty');
SELECT echocache_attach('chat', owner_column => 'owner');
SELECT echocache_attach('numbered', 'numbered', owner_column => 'owner');
SELECT echocache_attach('named', 'named', owner_column => 'owner');
SELECT echocache_stats_reset();

--
-- One document: a miss that fills, then hits.
--
SELECT echocache_get_session('00000000-0000-0000-0000-00000000000a');
SELECT counted();
SELECT echocache_get_session('00000000-0000-0000-0000-00000000000a'::text);
SELECT echocache_get_session('00000000-0000-0000-0000-00000000000a'::uuid);
SELECT echocache_get_session('{00000000-0000-0000-0000-00000000000A}');
SELECT echocache_get('session', '00000000-0000-0000-0000-00000000000a');
SELECT echocache_get('session', '00000000-0000-0000-0000-00000000000a'::uuid);
SELECT counted();
SELECT pg_typeof(echocache_get_session('00000000-0000-0000-0000-00000000000a'));
SELECT echocache_get_session('00000000-0000-0000-0000-00000000000a')->>'title' AS title;
-- Absent: every time from the table.
SELECT echocache_get_session('00000000-0000-0000-0000-00000000000d');
SELECT echocache_get_session('00000000-0000-0000-0000-00000000000d');
SELECT counted();
-- NULL asks for nothing.
SELECT echocache_get_session(NULL::text), echocache_get_session(NULL::uuid), echocache_get_session(NULL::bigint),
	echocache_get(NULL, 'x'), echocache_get('session', NULL::text);
SELECT counted();
-- A bigint key, by bigint, int and text.
SELECT echocache_get('numbered', 1), echocache_get('numbered', 2::bigint), echocache_get('numbered', ' 1 '),
	echocache_get('numbered', -9223372036854775808);
SELECT counted('numbered');
-- A text key, by text, and by the text of the others.
INSERT INTO named VALUES ('1', 'n', 'number'), ('00000000-0000-0000-0000-00000000000a', 'u', 'uuid');
SELECT counted('named');
SELECT echocache_get('named', 'a'), echocache_get('named', 'A'), echocache_get('named', ''), echocache_get('named', 'B c%');
SELECT echocache_get('named', 1), echocache_get('named', '00000000-0000-0000-0000-00000000000A'::uuid);
SELECT counted('named');

-- An untyped parameter is text.
PREPARE one AS SELECT echocache_get_session($1);
PREPARE his AS SELECT echocache_get_session($1, $2);
PREPARE named AS SELECT echocache_get($1, $2);
PREPARE named_his AS SELECT echocache_get($1, $2, $3);
PREPARE touch AS SELECT echocache_touch($1, $2);
PREPARE invalidate AS SELECT echocache_invalidate_session($1);
PREPARE refresh AS SELECT echocache_refresh($1, $2);
SELECT name, parameter_types FROM pg_prepared_statements WHERE statement LIKE '%echocache\_%' ORDER BY name COLLATE "C";
EXECUTE one('00000000-0000-0000-0000-00000000000A');
EXECUTE his('00000000-0000-0000-0000-00000000000a', 'aaaaaaaa-0000-0000-0000-000000000001');
EXECUTE named('numbered', '2');
EXECUTE named_his('numbered', '2', '8');
PREPARE many AS SELECT * FROM echocache_get_sessions($1);
PREPARE many_his AS SELECT * FROM echocache_get_many($1, $2, $3);
EXECUTE many('{00000000-0000-0000-0000-00000000000b}');
EXECUTE many_his('numbered', '{1,2}', '8');
DEALLOCATE ALL;

--
-- With an owner: his, on a hit as on a miss.
--
SELECT echocache_invalidate('numbered', 1), echocache_get('numbered', 1, 7) AS his;
SELECT echocache_invalidate('numbered', 1), echocache_get('numbered', 1, 8) AS not_his;
SELECT counted('numbered');
SELECT echocache_get('numbered', 1, 7) AS his, echocache_get('numbered', 1, '7') AS by_text, echocache_get('numbered', 1, 8) AS not_his,
	echocache_get('numbered', 1, 70) AS longer, echocache_get('numbered', 1, -7) AS minus;
SELECT counted('numbered');
SELECT echocache_get_session('00000000-0000-0000-0000-00000000000a', 'aaaaaaaa-0000-0000-0000-000000000001'::uuid) AS by_uuid,
	echocache_get_session('00000000-0000-0000-0000-00000000000a'::uuid, 'AAAAAAAA-0000-0000-0000-000000000001') AS upper_case,
	echocache_get_session('00000000-0000-0000-0000-00000000000a'::uuid, 'aaaaaaaa-0000-0000-0000-000000000002'::uuid) AS not_his;
SELECT echocache_get('named', 'a', 'me') AS his, echocache_get('named', 'a', 'Me') AS not_his, echocache_get('named', 'a', 'm') AS beginning,
	echocache_get('named', 'a', '') AS empty, echocache_get('named', 'a', 'me"') AS quote;
-- A row without an owner is nobody's; asking for NULL's gives nothing.
SELECT echocache_get_session('00000000-0000-0000-0000-00000000000c', 'aaaaaaaa-0000-0000-0000-000000000001');
SELECT echocache_get_session('00000000-0000-0000-0000-00000000000c') IS NOT NULL AS there;
SELECT echocache_get_session('00000000-0000-0000-0000-00000000000c', 'aaaaaaaa-0000-0000-0000-000000000001');
SELECT echocache_get_session('00000000-0000-0000-0000-00000000000a', NULL::uuid), echocache_get('named', 'a', 'null'), echocache_get('named', 'a', NULL::text);
-- A member of the same name deeper in the document, or in a string, is not the owner.
CREATE TABLE nested (id int PRIMARY KEY, body jsonb, owner text, tail text);
INSERT INTO nested VALUES (1, '{"owner": "you", "x": [{"owner": "you"}], "y": "\"owner\":\"you\","}', 'me', '"owner":"you"');
SELECT echocache_attach('nested', 'nested', owner_column => 'owner');
SELECT echocache_get('nested', 1) IS NOT NULL AS filled;
SELECT echocache_get('nested', 1, 'you') AS not_his, echocache_get('nested', 1, 'me') AS his;
SELECT counted('nested');
SELECT echocache_detach('nested');
-- An owner of another type.
CALL fails($$SELECT echocache_get('numbered', 1, 'me')$$);
CALL fails($$SELECT echocache_get('numbered', 1, 'aaaaaaaa-0000-0000-0000-000000000001'::uuid)$$);
CALL fails($$SELECT echocache_get_session('00000000-0000-0000-0000-00000000000a', 7)$$);
SELECT echocache_get('named', 'a', 7), echocache_get('named', '1', 'aaaaaaaa-0000-0000-0000-000000000001'::uuid);

--
-- Many at once: in the order asked, as often as asked, absent ones left out, a row of NULLs for NULL.
--
SELECT echocache_stats_reset();
SELECT echocache_invalidate('numbered', 1), echocache_invalidate('numbered', 2);
SELECT counted('numbered');
SELECT * FROM echocache_get_many('numbered', '{2,1,3,NULL,2,-9223372036854775808,1,NULL}'::bigint[]);
SELECT counted('numbered');
SELECT * FROM echocache_get_many('numbered', ARRAY[' 2', '+1', '3', NULL, '02']);
SELECT counted('numbered');
SELECT * FROM echocache_get_many('numbered', '{2,1,3,NULL}'::bigint[], 7);
SELECT * FROM echocache_get_many('numbered', '{2,1,3,NULL}'::bigint[], '8');
SELECT counted('numbered');
SELECT * FROM echocache_get_sessions('{00000000-0000-0000-0000-00000000000B,00000000-0000-0000-0000-00000000000c,00000000-0000-0000-0000-00000000000d}'::uuid[]);
SELECT * FROM echocache_get_sessions('{00000000-0000-0000-0000-00000000000B}'::uuid[], 'aaaaaaaa-0000-0000-0000-000000000002'::uuid);
SELECT * FROM echocache_get_sessions('{00000000-0000-0000-0000-00000000000B}'::text[], 'aaaaaaaa-0000-0000-0000-000000000001');
SELECT * FROM echocache_get_many('named', '{B c%,"",a}'::text[], 'me');
SELECT * FROM echocache_get_sessions('{}'::uuid[]);
SELECT * FROM echocache_get_sessions(NULL::uuid[]);
SELECT * FROM echocache_get_sessions('{NULL}'::bigint[]);
SELECT * FROM echocache_get_many('numbered', '{{1,2},{2,NULL}}'::bigint[]);
SELECT * FROM echocache_get_many('numbered', '{1,2}'::bigint[], NULL::bigint);
SELECT * FROM echocache_get_many(NULL, '{1,2}'::bigint[]);
SELECT id FROM echocache_get_many('numbered', '{1,2,1}'::bigint[]) LIMIT 2;
SELECT (echocache_get_many('numbered', ARRAY[n, 1])).* FROM generate_series(1, 2) n;
SELECT n, m.id FROM generate_series(1, 3) n, LATERAL echocache_get_many('numbered', ARRAY[n]::bigint[]) m;
-- 6,000 ids in one call, of which it may lock, and so fill, 500.
CREATE TABLE lots (id int PRIMARY KEY, n int);
INSERT INTO lots SELECT n, -n FROM generate_series(1, 5000) n;
SELECT echocache_attach('lots', 'lots');
SELECT count(*), bool_and((document->>'n')::int = -id::int) AS right FROM echocache_get_many('lots', (SELECT array_agg(n ORDER BY n DESC) FROM generate_series(1, 6000) n)::bigint[]);
SELECT counted('lots');
SELECT count(*), bool_and((document->>'n')::int = -id::int) AS right FROM echocache_get_many('lots', (SELECT array_agg(n ORDER BY n DESC) FROM generate_series(1, 6000) n)::bigint[]);
SELECT counted('lots');
SELECT echocache_detach('lots');
CALL fails($$SELECT * FROM echocache_get_many('numbered', '{1,x}'::text[])$$);
CALL fails($$SELECT * FROM echocache_get_sessions('{1}'::bigint[])$$);
CALL fails($$SELECT * FROM echocache_get_many('numbered', '{1}'::bigint[], 'me')$$);

--
-- touch, invalidate, refresh
--
SELECT echocache_stats_reset();
SELECT echocache_get('numbered', 1) IS NOT NULL AS cached;
SELECT echocache_touch('numbered', 1), echocache_touch('numbered', '1', '1 hour'), echocache_touch('numbered', 1, NULL), echocache_touch('numbered', 1, '0');
SELECT echocache_touch('numbered', 3), echocache_touch('numbered', NULL::text), echocache_touch(NULL, '1');
SELECT echocache_touch_session('00000000-0000-0000-0000-00000000000a'), echocache_touch_session('00000000-0000-0000-0000-00000000000a'::uuid, ttl => '10 s');
SELECT echocache_invalidate('numbered', 1), echocache_invalidate('numbered', 1), echocache_invalidate('numbered', '3'), echocache_invalidate('numbered', NULL::text);
SELECT counted('numbered');
SELECT echocache_touch('numbered', 1) AS touch_stores_nothing;
SELECT echocache_invalidate_session('00000000-0000-0000-0000-00000000000A'), echocache_invalidate_session('00000000-0000-0000-0000-00000000000a'::uuid);
SELECT counted();
-- Refreshed: loaded from the row, whatever was cached, and whether anything was.
SELECT echocache_refresh('numbered', 1), echocache_refresh('numbered', '1'), echocache_refresh('numbered', 3), echocache_refresh('numbered', NULL::text);
SELECT counted('numbered');
SELECT echocache_get('numbered', 1);
SELECT echocache_refresh_session('00000000-0000-0000-0000-00000000000A'), echocache_refresh_session('00000000-0000-0000-0000-00000000000d'::uuid);
SELECT echocache_get_session('00000000-0000-0000-0000-00000000000a') IS NOT NULL AS there;
SELECT counted('numbered'), counted();
CALL fails($$SELECT echocache_touch('numbered', 1, '-1 s')$$);
CALL fails($$SELECT echocache_touch('numbered', 1, '1 year')$$);
CALL fails($$SELECT echocache_touch('numbered', 'x')$$);
CALL fails($$SELECT echocache_invalidate('numbered', 'x')$$);
CALL fails($$SELECT echocache_refresh('numbered', 'x')$$);

--
-- Unknown names, wrong types, no owner.
--
CALL fails($$SELECT echocache_get('nobody', 1)$$);
CALL fails($$SELECT * FROM echocache_get_many('nobody', '{1}'::bigint[])$$);
CALL fails($$SELECT * FROM echocache_get_many('nobody', '{}'::bigint[])$$);
CALL fails($$SELECT echocache_touch('nobody', 1)$$);
CALL fails($$SELECT echocache_invalidate('nobody', 1)$$);
CALL fails($$SELECT echocache_refresh('nobody', 1)$$);
CALL fails($$SELECT echocache_get('Session', 1)$$);
CALL fails($$SELECT echocache_get('', 1)$$);
CALL fails($$SELECT echocache_get_session(1)$$);
CALL fails($$SELECT echocache_get_session('1')$$);
CALL fails($$SELECT echocache_get('numbered', '00000000-0000-0000-0000-00000000000a'::uuid)$$);
CALL fails($$SELECT echocache_get('numbered', '')$$);
CALL fails($$SELECT echocache_get('numbered', '9223372036854775808')$$);
CALL fails($$SELECT echocache_get('numbered', '1.5')$$);
CREATE TABLE ownerless (id int PRIMARY KEY);
SELECT echocache_attach('ownerless', 'ownerless');
CALL fails($$SELECT echocache_get('ownerless', 1, 1)$$);
CALL fails($$SELECT * FROM echocache_get_many('ownerless', '{1}'::bigint[], 1)$$);
CALL fails($$SELECT echocache_get('ownerless', 3000000000)$$);
SELECT echocache_detach('ownerless');
SELECT echocache_detach('numbered') > 0 AS detached;
SELECT echocache_detach() > 0 AS detached;
CALL fails($$SELECT echocache_get_session('00000000-0000-0000-0000-00000000000a')$$);
CALL fails($$SELECT * FROM echocache_get_sessions('{1}'::bigint[])$$);
CALL fails($$SELECT echocache_touch_session(1)$$);
CALL fails($$SELECT echocache_invalidate_session(1)$$);
CALL fails($$SELECT echocache_refresh_session(1)$$);

-- An id that the column could not hold is absent, as in SQL; and so is one that it would round.
CREATE TABLE narrow (id varchar(3) PRIMARY KEY);
INSERT INTO narrow VALUES ('abc');
SELECT echocache_attach('narrow', 'narrow');
SELECT echocache_get('narrow', 'abc'), echocache_get('narrow', 'abcd');
SELECT echocache_detach('narrow');
CREATE TABLE rounded (id numeric(5, 2) PRIMARY KEY);
INSERT INTO rounded VALUES (1.01);
SELECT echocache_attach('rounded', 'rounded');
SELECT echocache_get('rounded', '1.01'), echocache_get('rounded', '1.0101');
SELECT echocache_detach('rounded');

-- Ids that are equal but not the same text: the row is found, and what is cached is never old.
CREATE TABLE equal_ids (id numeric PRIMARY KEY, n int);
INSERT INTO equal_ids VALUES (1.50, 1);
SELECT echocache_attach('equal_ids', 'equal_ids');
SELECT echocache_get('equal_ids', '1.5'), echocache_get('equal_ids', '1.500'), echocache_get('equal_ids', '1.50');
SELECT * FROM echocache_get_many('equal_ids', '{1.5,1.50}'::text[]);
UPDATE equal_ids SET n = 2;
SELECT echocache_get('equal_ids', '1.5'), echocache_get('equal_ids', '1.500'), echocache_get('equal_ids', '1.50');
SELECT echocache_detach('equal_ids');
-- A nondeterministic key: A is a, as in SQL.
CREATE TABLE ci (id citext PRIMARY KEY, n int);
INSERT INTO ci VALUES ('Abc', 1);
SELECT echocache_attach('ci', 'ci');
SELECT echocache_get('ci', 'Abc'), echocache_get('ci', 'ABC');
UPDATE ci SET n = 2;
SELECT echocache_get('ci', 'Abc'), echocache_get('ci', 'ABC');
SELECT * FROM echocache_get_many('ci', '{ABC,Abc}'::text[]);
SELECT echocache_detach('ci');
-- An id too long for a memcached key: never cached, always from the table.
INSERT INTO named VALUES (repeat('k', 236), 'long', 'fits'), (repeat('k', 237), 'long', 'too long'), (repeat(' ', 82), 'long', 'too long when encoded');
SELECT counted('named');
SELECT length(id) AS length, document->'title' AS title FROM echocache_get_many('named', ARRAY[repeat('k', 236), repeat('k', 237), repeat(' ', 82)]);
SELECT counted('named');
-- Two rows with one id, where no unique index could forbid it.
CREATE TABLE by_day (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE by_day_1 PARTITION OF by_day DEFAULT;
SELECT echocache_attach('by_day', 'by_day', key_column => 'id');
INSERT INTO by_day VALUES (1, '2024-01-01'), (1, '2024-01-02'), (2, '2024-01-01');
CALL fails($$SELECT echocache_get('by_day', 1)$$);
SELECT echocache_get('by_day', 2);
SELECT echocache_detach('by_day');

--
-- Who may not be answered from the cache.
--
SELECT echocache_get('named', 'a') IS NOT NULL AS cached;
SELECT echocache_stats_reset();
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT echocache_get('named', 'a');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT echocache_get('named', 'a');
COMMIT;
SELECT counted('named');
-- What does not read needs no snapshot.
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT echocache_touch('named', 'a'), echocache_invalidate('named', 'a');
COMMIT;
SELECT echocache_touch('named', 'a');
SELECT echocache_get('named', 'a') IS NOT NULL AS cached;
SELECT echocache_stats_reset();
BEGIN;
UPDATE named SET title = 'mine' WHERE id = 'a';
SELECT echocache_get('named', 'a'), echocache_get('named', '');
SELECT * FROM echocache_get_many('named', '{a,1}'::text[]);
ROLLBACK;
SELECT counted('named');
SELECT echocache_get('named', 'a');
SELECT counted('named');
-- A transaction that has written fills nothing, and refreshes nothing.
SELECT echocache_invalidate('named', 'a');
CREATE TABLE unrelated (n int);
SELECT echocache_stats_reset();
BEGIN;
INSERT INTO unrelated VALUES (1);
SELECT echocache_get('named', 'a');
SELECT echocache_refresh('named', 'a');
COMMIT;
SELECT counted('named');
SELECT echocache_get('named', 'a');
SELECT counted('named');
-- Read-only transactions do fill.
SELECT echocache_invalidate('named', 'a');
BEGIN READ ONLY;
SELECT echocache_get('named', 'a');
SELECT echocache_get('named', 'a');
COMMIT;
SELECT counted('named');
SELECT echocache_detach('named') > 0 AS detached;

--
-- The same bytes, whoever renders them.
--
CREATE TYPE pair AS (at timestamptz, f float8);
CREATE DOMAIN moment AS timestamptz;
CREATE TABLE rendered (
	id int PRIMARY KEY, tz timestamptz, ts timestamp, d date, t time, ttz timetz, i interval, f8 float8, f4 float4, n numeric, b bytea, bit varbit,
	r regclass, p regprocedure, ty regtype, range tstzrange, dates date[], zones timestamptz[], composite pair, domain moment, floats float8[],
	byteas bytea[], j json, jb jsonb, txt text, c char(4), x "char", boolean bool, u uuid, ip inet, nothing text, n_n int DEFAULT 5);
INSERT INTO rendered VALUES (1, '2024-02-29 23:30:00.123456+00', '2024-02-29 23:30:00', '2024-02-03', '23:30', '23:30+03', '1 year 2 mons -3 days 04:05:06.789',
	0.1::float8 + 0.2, 1.1, 1.10, '\x00ff5c', '101', 'read.rendered', 'read.counted(text)', 'read.pair', '[2024-02-29 23:30+00,)', '{2024-02-03}', '{2024-02-29 23:30+00}',
	('2024-02-29 23:30+00', 1.0 / 3), '2024-02-29 23:30+00', '{0.1,1e300,NaN,-Infinity}', '{"\\x00ff"}', '{ "b" : 1,  "a":2.0 }', '{ "b" : 1,  "a":2.0 }',
	E'"\\/\b\t\n\x01 <>&', 'ab', 'y', true, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '10.0.0.0/8', NULL);
SELECT echocache_attach('rendered', 'rendered');

SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SET IntervalStyle = 'postgres';
SET extra_float_digits = 1;
SET bytea_output = 'hex';
SET search_path = pg_catalog;
SELECT row_to_json(whole)::text AS truth FROM read.rendered whole \gset
SET search_path = read, public;
\pset format unaligned
SELECT :'truth' AS truth;
\pset format aligned
-- How this session renders it, and how the extension does for it: read on a miss, read on a hit, with others,
-- refreshed, written, in a transaction that has changed it, in one that the cache may not answer.
CREATE PROCEDURE compare(truth text) LANGUAGE plpgsql AS $$
DECLARE
	own text;
	miss text;
	hit text;
	many text;
	changed text;
	written text;
	refreshed text;
BEGIN
	own := row_to_json(whole)::text FROM rendered whole;
	PERFORM echocache_invalidate('rendered', 1);
	miss := echocache_get('rendered', 1);
	hit := echocache_get('rendered', 1);
	PERFORM echocache_invalidate('rendered', 1);
	many := document::text FROM echocache_get_many('rendered', '{2,1}'::bigint[]);
	PERFORM echocache_refresh('rendered', 1);
	refreshed := echocache_get('rendered', 1);
	UPDATE rendered SET n_n = -n_n;
	UPDATE rendered SET n_n = -n_n;
	changed := echocache_get('rendered', 1);
	COMMIT;
	written := echocache_get('rendered', 1);
	RAISE NOTICE 'own %, miss %, hit %, many %, refreshed %, changed %, written %', own = truth, miss = truth, hit = truth, many = truth,
		refreshed = truth, changed = truth, written = truth;
	RAISE NOTICE '%', counted('rendered');
	PERFORM echocache_get('rendered', 1);
END $$;
SELECT echocache_stats_reset();
CALL compare(:'truth');
SET TimeZone = 'Asia/Kolkata';
CALL compare(:'truth');
SET DateStyle = 'German';
CALL compare(:'truth');
SET DateStyle = 'SQL, DMY';
SET TimeZone = 'UTC';
CALL compare(:'truth');
SET DateStyle = 'ISO, DMY';
CALL compare(:'truth');
SET DateStyle = 'Postgres, MDY';
SET IntervalStyle = 'iso_8601';
CALL compare(:'truth');
SET DateStyle = 'ISO, MDY';
CALL compare(:'truth');
SET IntervalStyle = 'postgres';
SET extra_float_digits = -10;
CALL compare(:'truth');
SET extra_float_digits = 0;
CALL compare(:'truth');
SET extra_float_digits = 1;
SET bytea_output = 'escape';
CALL compare(:'truth');
SET bytea_output = 'hex';
SET search_path = public, read;
CALL compare(:'truth');
SET TimeZone = 'America/St_Johns';
SET DateStyle = 'SQL, DMY';
SET IntervalStyle = 'sql_standard';
SET extra_float_digits = 3;
SET bytea_output = 'escape';
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT echocache_get('rendered', 1)::text = :'truth' AS repeatable_read;
COMMIT;
-- The session's settings are as they were, after an error, too.
CALL fails($$SELECT echocache_get('rendered', 'x')$$);
SELECT name, setting FROM pg_settings WHERE name IN ('TimeZone', 'DateStyle', 'IntervalStyle', 'extra_float_digits', 'bytea_output', 'search_path') ORDER BY name COLLATE "C";
RESET ALL;
-- Without a column that depends on any setting.
SET client_min_messages = warning;
DROP TABLE read.rendered;
RESET client_min_messages;
SET search_path = read, public;
CREATE TABLE rendered (id int PRIMARY KEY, at timestamptz, n_n int);
INSERT INTO rendered VALUES (1, '2024-02-29 23:30+00', 1);
SELECT echocache_attach('rendered', 'rendered');
SET TimeZone = 'UTC';
SELECT row_to_json(whole)::text AS truth FROM read.rendered whole \gset
SELECT :'truth';
SET TimeZone = 'Asia/Kolkata';
SELECT echocache_stats_reset();
CALL compare(:'truth');
SHOW TimeZone;
RESET ALL;

SET client_min_messages = warning;
DROP SCHEMA read CASCADE;
DROP EXTENSION citext;
SELECT count(*) FROM echocache_documents;
