--
-- Documents as rows of their table, and whose documents they are.
--
\set ECHO none
\set schema rows
\i test/sql/include/prelude.sql
\set ECHO all

--
-- Every type comes back as it was, by a miss and by a hit, whatever the session's settings are.
--
CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy');
CREATE TYPE point3 AS (x float8, "the y" text, z int[]);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN corner AS point3 CHECK ((VALUE).x > 0);
CREATE TABLE types (id int PRIMARY KEY, c_smallint smallint, gone text, c_bigint bigint, c_numeric numeric, c_numeric_2 numeric(10,2), c_real real,
	c_double float8, c_money money, c_text text, c_varchar varchar(5), c_char char(5), c_name name, c_bytea bytea, c_boolean boolean, c_date date,
	c_time time, c_timetz timetz, c_timestamp timestamp, c_timestamptz timestamptz, c_interval interval, c_uuid uuid, c_inet inet, c_mood mood,
	c_moods mood[], c_row point3, c_rows point3[], c_corner corner, c_positive positive, c_range int4range, c_tsrange tstzrange,
	c_multirange nummultirange, c_ints int[], c_texts text[], c_matrix int[], c_stamps timestamptz[], c_json json, c_jsonb jsonb, c_bit bit(4),
	c_varbit varbit, c_point point, c_xid xid, c_oid oid, c_tsvector tsvector, c_null text, secret text, c_generated int GENERATED ALWAYS AS (id * 2) STORED);
ALTER TABLE types DROP COLUMN gone;
INSERT INTO types VALUES
	(1, -7, 9007199254740993, 'NaN', 1.5, 1.1, 0.1, '-12.34', E'q"\\ \t Ä', 'v', 'c', 'n', '\x00ff5c', true, '2024-02-29', '12:34:56.789', '12:34:56+05:30',
	'2024-02-29 12:34:56.789', '2024-02-29 12:34:56.789+01', '1 year -2 mons 3 days 04:05:06.7', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '::1/64', 'so so',
	'{sad,so so}', ROW(0.1, 'a "b", (c)', '{1,NULL}'), ARRAY[ROW(1, NULL, NULL), NULL]::point3[], ROW(1, 'corner', '{}'), 3, '[1,9)', '[2024-01-01 00:00+00,)', '{[1,2),(3.5,4]}',
	'{1,NULL,-3}', '{a,"b c",NULL,"NULL",""}', '{{1,2},{3,4}}', '{2024-02-29 12:00+02,infinity}', '{"a": [1, 2.50], "a": null}', '{"b": "\\u00e9"}', '1010', '1', '(1,-2.5)', '42', '7',
	'''a b'':1 c:2A', NULL, 'hush'),
	(2, NULL, NULL, 'Infinity', NULL, 'Infinity', '-Infinity', NULL, '', '', '', NULL, '', false, 'infinity', '24:00', NULL, '-infinity', 'infinity', '0', NULL, NULL, NULL,
	'{}', NULL, '{}', NULL, NULL, 'empty', NULL, '{}', '{}', '{}', '{}', NULL, '"text"', '[]', NULL, '', NULL, NULL, NULL, '', NULL, 'hush');
SELECT echocache_attach('types', 'types', exclude => '{secret}');
-- Which columns differ from the row, but for the one that is not shown.
CREATE FUNCTION differing(key int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	SELECT string_agg(a.key || ': ' || a.value || ' instead of ' || b.value, ', ') INTO result
	FROM echocache_get_row(NULL::types, key::bigint) r, json_each_text(row_to_json(r)) a, types t, json_each_text(row_to_json(t)) b
	WHERE t.id = differing.key AND a.key = b.key AND a.value IS DISTINCT FROM b.value AND NOT (a.key = 'secret' AND a.value IS NULL);
	RETURN COALESCE(result, 'none');
END $$;
SELECT differing(1), differing(2), counted('types');
SELECT differing(1), differing(2), counted('types');
SELECT count(*), count(secret) AS secrets, count(c_text) AS texts FROM echocache_get_row(NULL::types, 1);
SET TimeZone = 'America/New_York';
SET DateStyle = 'SQL, DMY';
SET IntervalStyle = 'sql_standard';
SET bytea_output = 'escape';
SET extra_float_digits = -5;
SELECT differing(1), differing(2);
SELECT echocache_invalidate('types', 1);
SELECT differing(1), differing(1);
RESET TimeZone;
RESET DateStyle;
RESET IntervalStyle;
RESET bytea_output;
RESET extra_float_digits;
-- What JSON cannot tell apart: the JSON value null from NULL, where an array begins.
INSERT INTO types (id, c_json, c_jsonb, c_ints) VALUES (3, 'null', 'null', '[0:1]={5,6}');
SELECT c_json IS NULL AS json, c_jsonb IS NULL AS jsonb, c_ints FROM echocache_get_row(NULL::types, 3);
-- A type with a cast to json of its own is shown as that, and does not come back.
CREATE TYPE tone AS ENUM ('low', 'high');
CREATE FUNCTION tone_json(tone) RETURNS json LANGUAGE sql IMMUTABLE AS $$SELECT '{"tone":1}'::json$$;
CREATE CAST (tone AS json) WITH FUNCTION tone_json(tone);
CREATE TABLE stored (id int PRIMARY KEY, t tone);
SELECT echocache_attach('stored', 'stored');
INSERT INTO stored VALUES (1, 'high'), (2, NULL);
SELECT echocache_get('stored', 1);
CALL fails('SELECT * FROM echocache_get_row(NULL::stored, 1)');
SELECT * FROM echocache_get_row(NULL::stored, 2);
DROP TABLE stored;
DROP TABLE types;

--
-- Ways to call it.
--
CREATE TABLE session (id uuid PRIMARY KEY, who int, title text, hidden boolean NOT NULL DEFAULT false, secret text);
SELECT echocache_attach('session', owner_column => 'who', filter => 'NOT hidden', exclude => '{hidden,secret}');
INSERT INTO session VALUES ('00000000-0000-0000-0000-00000000000A', 7, 'mine', false, 'x'), ('00000000-0000-0000-0000-00000000000B', NULL, 'nobody''s', false, 'y'),
	('00000000-0000-0000-0000-00000000000C', 7, 'deleted', true, 'z');
\set a '\'00000000-0000-0000-0000-00000000000A\''
\set b '\'00000000-0000-0000-0000-00000000000B\''
\set c '\'00000000-0000-0000-0000-00000000000C\''
SELECT * FROM echocache_get_row(NULL::session, :a);
SELECT * FROM echocache_get_row(NULL::session, :a::uuid);
SELECT * FROM echocache_get_row(NULL::session, :a, 7);
SELECT * FROM echocache_get_row(NULL::session, :a, '7');
SELECT * FROM echocache_get_row(NULL::session, :a, 8);
SELECT * FROM echocache_get_row(NULL::session, :c);
SELECT * FROM echocache_get_row(NULL::session, '00000000-0000-0000-0000-00000000000D');
SELECT * FROM echocache_get_row(NULL::session, NULL::uuid);
SELECT * FROM echocache_get_row(NULL::session, :a, NULL::int);
-- Of the row that is given only the type is looked at.
SELECT * FROM echocache_get_row(ROW(:b, 8, 'other', true, 's')::session, :a);
SELECT (echocache_get_row(NULL::session, :a)).title;
SELECT s.title, r.title FROM session s LEFT JOIN LATERAL echocache_get_row(NULL::session, s.id, s.who) r ON true ORDER BY s.id;
PREPARE by_id AS SELECT title FROM echocache_get_row(NULL::session, $1);
EXECUTE by_id(:a);
PREPARE by_owner AS SELECT title FROM echocache_get_row(NULL::session, $1, $2);
EXECUTE by_owner(:a, 7);
EXECUTE by_owner(:a, 8);
CREATE VIEW titles AS SELECT r.* FROM (SELECT id FROM session) s (of), echocache_get_row(NULL::session, of) r;
SELECT * FROM titles ORDER BY id;
-- The table gets a column: the view has those that it had.
ALTER TABLE session ADD COLUMN more int;
SELECT * FROM titles ORDER BY id;
EXECUTE by_id(:a);
SELECT * FROM echocache_get_row(NULL::session, :a);
DROP VIEW titles;
ALTER TABLE session DROP COLUMN who CASCADE;
CALL fails('EXECUTE by_owner(1, 8)');
SELECT echocache_attach('session', exclude => '{hidden,secret}');
SELECT * FROM echocache_get_row(NULL::session, :a);
-- In the transaction that has changed it, in REPEATABLE READ.
BEGIN;
UPDATE session SET title = 'changed' WHERE id = :a;
SELECT title FROM echocache_get_row(NULL::session, :a);
ROLLBACK;
SELECT title FROM echocache_get_row(NULL::session, :a);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT title FROM echocache_get_row(NULL::session, :a);
COMMIT;
-- Not a row of an attached table.
CALL fails('SELECT * FROM echocache_get_row(NULL::positive, 1)');
CALL fails('SELECT * FROM echocache_get_row(NULL::point3, 1)');
CALL fails('SELECT * FROM echocache_get_row(1, 1)');
CALL fails('SELECT * FROM echocache_get_row(NULL, 1)');
CALL fails('SELECT * FROM echocache_get_row(NULL::pg_class, 1)');
CALL fails('SELECT * FROM echocache_get_row(NULL::session[], 1)');
CALL fails($$SELECT * FROM echocache_get_row(NULL::session, 'no uuid')$$);
CALL fails(format('SELECT * FROM echocache_get_row(NULL::session, %L, 7)', :a));
SELECT echocache_detach();
CALL fails('SELECT * FROM echocache_get_row(NULL::session, 1)');
CREATE FUNCTION doc(s session) RETURNS json LANGUAGE sql STABLE AS $$SELECT row_to_json(s)$$;
SELECT echocache_attach('session', document => 'doc');
CALL fails(format('SELECT * FROM echocache_get_row(NULL::session, %L)', :a));
DROP TABLE session CASCADE;
-- A partitioned table, whose partition is no attached table.
CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE part_1 (v text, id int NOT NULL);
ALTER TABLE part ATTACH PARTITION part_1 FOR VALUES FROM (0) TO (10);
SELECT echocache_attach('part', 'part');
INSERT INTO part VALUES (1, 'one');
SELECT * FROM echocache_get_row(NULL::part, 1);
CALL fails('SELECT * FROM echocache_get_row(NULL::part_1, 1)');
DROP TABLE part;

--
-- Ownership: who is asked for must be the row's owner, and NULL is nobody.
--
CREATE TABLE owned (id int PRIMARY KEY, who text, v int);
CREATE FUNCTION owned_doc(o owned) RETURNS json LANGUAGE sql STABLE AS $$SELECT row_to_json(o)$$;
CREATE PROCEDURE ask(owner text) LANGUAGE plpgsql AS $$
DECLARE
	answer text;
	called text;
	results text = '';
BEGIN
	FOREACH called IN ARRAY ARRAY['SELECT string_agg(i::text, '','') FROM generate_series(1, 4) i WHERE echocache_get(''owned'', i::bigint, %1$s) IS NOT NULL',
								  'SELECT string_agg(id, '','') FROM echocache_get_many(''owned'', ''{1,2,3,4}''::bigint[], %1$s)',
								  'SELECT string_agg(r.id::text, '','') FROM generate_series(1, 4) i, echocache_get_row(NULL::owned, i::bigint, %1$s) r'] LOOP
		BEGIN
			EXECUTE format(called, owner) INTO answer;
		EXCEPTION WHEN OTHERS THEN
			answer := SQLSTATE || ': ' || SQLERRM;
		END;
		results := concat_ws(' | ', NULLIF(results, ''), COALESCE(answer, 'none'));
	END LOOP;
	RAISE NOTICE '%: %', owner, results;
END $$;
CREATE PROCEDURE ask_all() LANGUAGE plpgsql AS $$
BEGIN
	CALL ask($q$'ann'$q$);
	CALL ask($q$'Ann'$q$);
	CALL ask($q$'ann '$q$);
	CALL ask($q$''$q$);
	CALL ask($q$'null'$q$);
	CALL ask($q$'q"\'$q$);
	CALL ask('NULL::text');
	CALL ask('5::bigint');
	CALL ask('NULL::bigint');
	CALL ask($q$'00000000-0000-0000-0000-000000000001'::uuid$q$);
	CALL ask('1.5');
END $$;
INSERT INTO owned VALUES (1, 'ann', 1), (2, NULL, 2), (3, '5', 3), (4, 'q"\', 4);
SELECT echocache_attach('owned', 'owned', owner_column => 'who');
CALL ask_all();
CALL ask_all();
-- An owner who changes.
UPDATE owned SET who = 'bob' WHERE id = 1;
CALL ask($$'ann'$$);
CALL ask($$'bob'$$);
UPDATE owned SET who = NULL WHERE id = 1;
CALL ask($$'bob'$$);
-- By number: what is no number is no owner, but an error.
ALTER TABLE owned DROP COLUMN v;
SELECT echocache_detach('owned');
DELETE FROM owned WHERE id = 4;
ALTER TABLE owned ALTER who TYPE int USING length(who) + 4;
SELECT echocache_attach('owned', 'owned', owner_column => 'who');
CALL ask('5::bigint');
CALL ask($$'5'$$);
CALL ask($$' +05 '$$);
CALL ask($$'ann'$$);
CALL ask('9000000000');
CALL ask('NULL::text');
SELECT echocache_detach('owned');
-- Made by a function.
SELECT echocache_attach('owned', 'owned', owner_column => 'who', document => 'owned_doc');
SELECT echocache_get('owned', 3, 5), echocache_get('owned', 3, 5), echocache_get('owned', 3, 6), echocache_get('owned', 2, 5), echocache_get('owned', 2);
SELECT counted('owned') IS NOT NULL AS reset;
SELECT echocache_get('owned', 3, 5), echocache_get('owned', 3, 6), echocache_get('owned', 2, 5);
SELECT counted('owned');
SELECT echocache_detach('owned');
-- Without an owner column nobody owns any, also where there is nothing to own.
SELECT echocache_attach('owned', 'owned');
CALL ask('5::bigint');
CALL ask('NULL::text');
CALL fails($$SELECT echocache_get('owned', 99, 5)$$);

SET client_min_messages = warning;
DROP SCHEMA rows CASCADE;
