--
-- The key/value client: every function, its NULLs, its errors; lifetimes; which
-- keys it does not touch.
--
\set ECHO none
\i test/sql/include/prefix.sql
\set ECHO all
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS echocache;
RESET client_min_messages;
CREATE SCHEMA kv;
SET search_path = kv, public;

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
	RAISE NOTICE '%', regexp_replace(concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM,
		'DETAIL:  ' || NULLIF(detail, ''), 'HINT:  ' || NULLIF(hint, '')), 'server "[^"]*"', 'server "a server"', 'g');
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
CALL wait_until('(SELECT bool_and(state = ''UP'') FROM echocache_servers)');
SELECT echocache_flush_all();

-- Set and get; text and bytea are the same bytes.
SELECT echocache_kv_get('a'), echocache_kv_get_bytea('a');
SELECT echocache_kv_set('a', 'one'), echocache_kv_get('a'), echocache_kv_get_bytea('a');
SELECT echocache_kv_set('a', '\x00ff00'::bytea), echocache_kv_get_bytea('a');
SELECT echocache_kv_set('a', ''), echocache_kv_get('a') = '' AS empty, echocache_kv_get_bytea('a') = '' AS empty;
SELECT echocache_kv_set('a', 'Zürich, 東京'), echocache_kv_get('a') = 'Zürich, 東京' AS same, echocache_kv_get_bytea('a');
SELECT echocache_kv_set('a', E'two\r\nlines\r\nEND\r\n'), echocache_kv_get_bytea('a');
SELECT echocache_kv_set('a', 'varchar'::varchar), echocache_kv_get('a'::varchar);

-- What is no text.
SELECT echocache_kv_set('a', '\xc3'::bytea), echocache_kv_set('b', 'a NUL \000 in it'::bytea), echocache_kv_set('c', 'fine');
CALL fails($$SELECT echocache_kv_get('a')$$);
CALL fails($$SELECT echocache_kv_get('b')$$);
CALL fails($$SELECT * FROM echocache_kv_gets('a')$$);
CALL fails($$SELECT * FROM echocache_kv_get_multi('{c,a}')$$);
CALL fails($$SELECT echocache_kv_get_and_touch('a', interval '1 h')$$);
SELECT echocache_kv_get_bytea('a'), echocache_kv_get_bytea('b'), echocache_kv_get_and_touch_bytea('a', interval '1 h');
SELECT value, cas > 0 AS cas FROM echocache_kv_gets_bytea('b');
SELECT key, value, cas > 0 AS cas FROM echocache_kv_get_multi_bytea('{c,a,absent,b}');

-- Add, replace, append, prepend, delete.
SELECT echocache_kv_delete('a'), echocache_kv_delete('a');
SELECT echocache_kv_replace('a', 'x'), echocache_kv_append('a', 'x'), echocache_kv_prepend('a', 'x'), echocache_kv_get('a');
SELECT echocache_kv_add('a', 'added'), echocache_kv_add('a', 'twice'), echocache_kv_get('a');
SELECT echocache_kv_replace('a', 'replaced'), echocache_kv_get('a');
SELECT echocache_kv_append('a', ' end'), echocache_kv_prepend('a', 'begin '), echocache_kv_get('a');
SELECT echocache_kv_append('a', '\x00'::bytea), echocache_kv_prepend('a', '\xff'::bytea), echocache_kv_get_bytea('a');
SELECT echocache_kv_replace('a', '\x01'::bytea), echocache_kv_add('d', '\x02'::bytea), echocache_kv_get_bytea('a'), echocache_kv_get_bytea('d');

-- CAS.
SELECT echocache_kv_set('a', 'one');
SELECT cas FROM echocache_kv_gets('a') \gset
SELECT echocache_kv_cas('a', 'two', :cas), echocache_kv_get('a');
SELECT echocache_kv_cas('a', 'three', :cas), echocache_kv_get('a');
SELECT echocache_kv_cas('absent', 'x', :cas), echocache_kv_get('absent');
SELECT cas AS now FROM echocache_kv_gets('a') \gset
SELECT echocache_kv_cas('a', '\xff'::bytea, :now, interval '1 h'), echocache_kv_get_bytea('a');
CALL fails($$SELECT echocache_kv_cas('a', 'x', 0)$$);
SELECT echocache_kv_cas('a', 'x', -1);
SELECT count(*) FROM echocache_kv_gets('absent');

-- Many: the order asked, as often as asked, without those that are absent.
SELECT echocache_kv_set('k' || i, 'v' || i) FROM generate_series(1, 3) i;
SELECT key, value, cas > 0 AS cas FROM echocache_kv_get_multi(ARRAY['k3', 'absent', NULL, 'k1', 'k3']);
SELECT count(*) FROM echocache_kv_get_multi('{}');
SELECT count(*) FROM echocache_kv_get_multi(NULL);
SELECT * FROM echocache_kv_get_multi_bytea('{NULL}');
-- More than one exchange takes.
SELECT bool_and(echocache_kv_set('many' || i, repeat('x', i % 7) || i)) FROM generate_series(1, 3500) i;
SELECT count(*), bool_and(key = 'many' || n AND value = repeat('x', n::int % 7) || n) AS right
FROM echocache_kv_get_multi((SELECT array_agg('many' || i ORDER BY i) FROM generate_series(1, 3500) i))
	WITH ORDINALITY r(key, value, cas, n);
SELECT count(*) FROM echocache_kv_get_multi((SELECT array_agg(CASE WHEN i % 2 = 0 THEN 'many' || i END) FROM generate_series(1, 2500) i));

-- Numbers.
SELECT echocache_kv_incr('n'), echocache_kv_decr('n'), echocache_kv_get('n');
SELECT echocache_kv_set('n', '10'), echocache_kv_incr('n'), echocache_kv_incr('n', 9), echocache_kv_decr('n'), echocache_kv_decr('n', 15);
SELECT echocache_kv_incr('n', 0), echocache_kv_decr('n', 100), echocache_kv_get('n');
SELECT echocache_kv_set('n', '9223372036854775800'), echocache_kv_incr('n', 7);
CALL fails($$SELECT echocache_kv_incr('n')$$);
-- (Of one that is larger memcached 1.6.18 may say that it is no number.)
SELECT echocache_kv_set('n', '9223372036854775807'), echocache_kv_decr('n', 9223372036854775807);
CALL fails($$SELECT echocache_kv_incr('n', -1)$$);
CALL fails($$SELECT echocache_kv_decr('n', -1)$$);
-- One that is none is an error, and neither the connection nor the server suffers.
SELECT echocache_kv_set('n', 'ten');
SELECT pg_backend_pid() AS pid, echocache_connect() AS connected \gset
CALL fails($$SELECT echocache_kv_incr('n')$$);
CALL fails($$SELECT echocache_kv_decr('n', 3)$$);
SELECT echocache_kv_set('n', '-5');
CALL fails($$SELECT echocache_kv_incr('n')$$);
SELECT state, echocache_disconnect() FROM echocache_servers;

-- Lifetimes: as an interval and as a point in time.  (How long they are: test/t/021_kv.pl.)
CREATE FUNCTION left_of(key text) RETURNS text LANGUAGE sql AS $$SELECT coalesce(echocache_kv_get(key), 'absent')$$;
SELECT echocache_kv_set('t', 'x', NULL::interval), echocache_kv_set('u', 'x', interval '0'), echocache_kv_set('v', 'x', timestamptz 'infinity'),
	echocache_kv_set('w', 'x', NULL::timestamptz), echocache_kv_set('y', 'x', interval '1000 days'), echocache_kv_set('z', 'x', now() + interval '1000 days');
SELECT left_of('t'), left_of('u'), left_of('v'), left_of('w'), left_of('y'), left_of('z');
SELECT echocache_kv_set('t', 'x', now() - interval '1 s'), echocache_kv_set('u', 'x', now()), echocache_kv_set('v', 'x', '-infinity'::timestamptz),
	echocache_kv_set('w', '\x00'::bytea, timestamptz '1969-07-20');
SELECT left_of('t'), left_of('u'), left_of('v'), left_of('w');
SELECT echocache_kv_add('t', 'x', now() - interval '1 s'), echocache_kv_replace('y', 'x', now() - interval '1 s'), left_of('t'), left_of('y');
-- a literal or parameter without a type is an interval
SELECT echocache_kv_set('u', 'v', '1 h'), echocache_kv_set('u', 'v', ttl => '1 h'), echocache_kv_touch('u', '2 h'), echocache_kv_get_and_touch('u', '3 h');
PREPARE untyped AS SELECT echocache_kv_set($1, $2, $3);
EXECUTE untyped('u', 'w', '1 h');
CALL fails($$SELECT echocache_kv_set('u', 'v', 'tomorrow')$$);
SELECT echocache_kv_touch('t', interval '1 h'), echocache_kv_touch('z', interval '1 h'), echocache_kv_touch('z', timestamptz 'infinity');
SELECT echocache_kv_get_and_touch('z', interval '1 h'), echocache_kv_get_and_touch('z', now() + interval '1 h'), echocache_kv_get_and_touch('t', interval '1 h');
SELECT echocache_kv_get_and_touch('z', now() - interval '1 h'), left_of('z');
SELECT echocache_kv_set('z', 'x'), echocache_kv_touch('z', now() - interval '1 h'), left_of('z');
SELECT echocache_kv_set('z', 'x'), echocache_kv_set('z', 'y', interval '0.4 s'), left_of('z');
CALL wait_until($$echocache_kv_get('z') IS NULL$$);
-- named, where a literal alone could be either
SELECT echocache_kv_set('z', 'x', ttl => '1 h'), echocache_kv_set('z', 'x', expires => 'tomorrow');
CALL fails($$SELECT echocache_kv_set('z', 'not stored', interval '-1 s')$$);
CALL fails($$SELECT echocache_kv_set('z', 'not stored', interval '-0.5 s')$$);
CALL fails($$SELECT echocache_kv_set('z', 'not stored', interval '1 day -24:00:00.000001')$$);
CALL fails($$SELECT echocache_kv_set('z', 'not stored', interval '1 month')$$);
CALL fails($$SELECT echocache_kv_touch('z', interval '-0.000001 s')$$);
CALL fails($$SELECT echocache_kv_cas('z', 'not stored', 1, interval '30000 days')$$);
SELECT echocache_kv_set('z', 'stored', interval '1 day -23:59:59.5'), left_of('z');

-- NULL: nothing is sent, NULL comes back.
SELECT echocache_kv_set('z', 'there');
SELECT echocache_kv_get(NULL), echocache_kv_get_bytea(NULL), echocache_kv_set(NULL, 'x'), echocache_kv_set('z', NULL::text), echocache_kv_set('z', NULL::bytea),
	echocache_kv_add(NULL, 'x'), echocache_kv_replace('z', NULL::text), echocache_kv_append('z', NULL::text), echocache_kv_prepend(NULL, 'x'),
	echocache_kv_cas('z', 'x', NULL), echocache_kv_cas(NULL, 'x', 1), echocache_kv_touch(NULL, interval '1 h'), echocache_kv_get_and_touch(NULL, interval '1 h'),
	echocache_kv_delete(NULL), echocache_kv_incr(NULL), echocache_kv_incr('z', NULL), echocache_kv_decr('z', NULL);
SELECT count(*) FROM echocache_kv_gets(NULL);
SELECT echocache_kv_get('z');
SELECT echocache_kv_touch('z', NULL::interval), echocache_kv_get('z');

-- Keys.
SELECT echocache_kv_set(repeat('k', 250), 'long'), echocache_kv_get(repeat('k', 250)), echocache_kv_set('!~', 'first and last'), echocache_kv_get('!~');
CALL fails($$SELECT echocache_kv_get('')$$);
CALL fails($$SELECT echocache_kv_get(repeat('k', 251))$$);
CALL fails($$SELECT echocache_kv_set('a b', 'x')$$);
CALL fails($$SELECT echocache_kv_set(E'a\r\nflush_all', 'x')$$);
CALL fails($$SELECT echocache_kv_set('é', 'x')$$);
CALL fails($$SELECT echocache_kv_set(E'\x7f', 'x')$$);
CALL fails($$SELECT * FROM echocache_kv_get_multi('{a,"b c"}')$$);
CALL fails($$SELECT echocache_kv_get('_echocache_health:1')$$);
CALL fails($$SELECT echocache_kv_set('_echocache', 'x')$$);
SELECT echocache_kv_set('_echocach', 'not reserved');

-- Those of documents: from the moment it is attached to the moment it is not any more.
SELECT echocache_kv_set('regress.session:1', 'nobody''s'), echocache_kv_set('regress.sess', 'x');
CREATE TABLE session (id int PRIMARY KEY, title text);
SELECT echocache_attach('session');
INSERT INTO session VALUES (2, 'two');
CALL fails($$SELECT echocache_kv_get('regress.session:1')$$);
SELECT echocache_get_session(1), echocache_get_session(2);
CREATE TABLE refused (call text);
INSERT INTO refused VALUES ('get(%L)'), ('get_bytea(%L)'), ('gets(%L)'), ('gets_bytea(%L)'), ('get_multi(ARRAY[''a'', %L])'), ('get_multi_bytea(ARRAY[%L])'),
	('set(%L, ''{}'')'), ('add(%L, ''{}'')'), ('replace(%L, ''{}'')'), ('append(%L, ''{}'')'), ('prepend(%L, ''{}'')'), ('cas(%L, ''{}'', 1)'),
	('touch(%L, interval ''1 h'')'), ('get_and_touch(%L, interval ''1 h'')'), ('get_and_touch_bytea(%L, now())'), ('delete(%L)'), ('incr(%L)'), ('decr(%L)');
-- every function of one key or many is in that list
SELECT proname FROM pg_proc p WHERE proname LIKE 'echocache\_kv\_%' AND proname <> 'echocache_kv_stats'
AND NOT EXISTS (SELECT FROM refused WHERE proname = 'echocache_kv_' || split_part(call, '(', 1));
CREATE FUNCTION refusals(key text) RETURNS TABLE (error text, functions bigint) LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	CREATE TEMP TABLE errors (error text);
	FOR r IN SELECT format('SELECT count(*) FROM echocache_kv_' || call, key) AS sql FROM refused LOOP
		BEGIN
			EXECUTE r.sql;
			INSERT INTO errors VALUES ('none: ' || r.sql);
		EXCEPTION WHEN OTHERS THEN
			INSERT INTO errors VALUES (SQLSTATE || ': ' || SQLERRM);
		END;
	END LOOP;
	RETURN QUERY SELECT e.error, count(*) FROM errors e GROUP BY 1;
	DROP TABLE errors;
END $$;
SELECT * FROM refusals('regress.session:2');
SELECT * FROM refusals('regress.session:');
SELECT * FROM refusals('_echocache_x');
SELECT echocache_get_session(2);
SELECT echocache_kv_get('regress.sess'), echocache_kv_get('regress.session'), echocache_kv_get('xregress.session:2'), echocache_kv_get('regress.Session:2');
-- Not yet committed, it is refused all the same.
BEGIN;
CREATE TABLE other (id int PRIMARY KEY);
SELECT echocache_attach('other', 'other');
SAVEPOINT s;
SELECT echocache_kv_set('regress.other:1', 'x');
ROLLBACK TO s;
COMMIT;
CALL fails($$SELECT echocache_kv_set('regress.other:1', 'x')$$);
SELECT echocache_detach('other') >= 0 AS detached;
SELECT echocache_kv_set('regress.other:1', 'x');
-- Rolled back, it is nobody's; and it stays a document's if its detach is rolled back.
BEGIN;
SELECT echocache_attach('other', 'other');
ROLLBACK;
SELECT echocache_kv_set('regress.other:1', 'x');
BEGIN;
SAVEPOINT s;
SELECT echocache_attach('other', 'other');
ROLLBACK TO s;
COMMIT;
SELECT echocache_kv_set('regress.other:1', 'x');
BEGIN;
SAVEPOINT s;
SELECT echocache_attach('other', 'other');
RELEASE s;
COMMIT;
BEGIN;
SAVEPOINT s;
SELECT echocache_detach('other') >= 0 AS detached;
ROLLBACK TO s;
COMMIT;
SELECT name, hits FROM echocache_stats WHERE name = 'other';
BEGIN;
SELECT echocache_detach('other') >= 0 AS detached;
SELECT echocache_attach('other', 'other');
COMMIT;
SELECT name, hits FROM echocache_stats WHERE name = 'other';
CALL fails($$SELECT echocache_kv_set('regress.other:1', 'x')$$);
DROP TABLE other;
SELECT echocache_kv_set('regress.other:1', 'x');
SELECT count(*) FROM echocache.stats();
DROP TABLE session;
SELECT echocache_kv_set('regress.session:2', 'x'), echocache_kv_get('regress.session:2');

-- Not transactional.
BEGIN;
SELECT echocache_kv_set('z', 'rolled back?');
ROLLBACK;
SELECT echocache_kv_get('z');
BEGIN READ ONLY;
SELECT echocache_kv_set('z', 'read only');
COMMIT;

-- Too large: not even sent.
SELECT echocache_kv_set('z', 'there');
CALL fails($$SELECT echocache_kv_set('z', repeat('x', 2000000))$$);
SELECT echocache_kv_get('z'), echocache_kv_set('big', repeat('x', 900000)), length(echocache_kv_get('big'));

-- The servers.
SELECT count(DISTINCT server), count(*) > 20 AS many, bool_and(value IS NOT NULL) AS valued FROM echocache_kv_stats();
SELECT value > '1.6' AS version FROM echocache_kv_stats() WHERE name = 'version';
SELECT echocache_flush_all(), echocache_kv_get('z');

-- Who may.
CREATE ROLE kv_nobody;
GRANT USAGE ON SCHEMA kv TO kv_nobody;
SELECT proname FROM pg_proc WHERE (proname LIKE 'echocache\_kv%' OR proname = 'echocache_flush_all') AND has_function_privilege('kv_nobody', oid, 'EXECUTE');
SELECT count(*), bool_and(provolatile = 'v' AND proparallel = 'r') AS marked, bool_and(obj_description(oid) LIKE '%not transactional' OR proname LIKE '%stats') AS commented
FROM pg_proc WHERE proname LIKE 'echocache\_kv%' OR proname = 'echocache_flush_all';
GRANT EXECUTE ON FUNCTION echocache_flush_all(), echocache_kv_get(text) TO kv_nobody;
SET ROLE kv_nobody;
SELECT echocache_kv_get('z');
CALL fails('SELECT echocache_flush_all()');
RESET ROLE;

-- Switched off.
ALTER SYSTEM SET echocache.enabled = off;
SELECT pg_reload_conf();
CALL wait_until('NOT echocache_is_available()');
CALL fails($$SELECT echocache_kv_get('z')$$);
CALL fails('SELECT count(*) FROM echocache_kv_stats()');
CALL fails('SELECT echocache_flush_all()');
ALTER SYSTEM RESET echocache.enabled;
SELECT pg_reload_conf();
CALL wait_until('echocache_is_available()');

SET client_min_messages = warning;
REVOKE ALL ON FUNCTION echocache_flush_all(), echocache_kv_get(text) FROM kv_nobody;
DROP SCHEMA kv CASCADE;
DROP ROLE kv_nobody;
SELECT count(*) FROM echocache_documents;
