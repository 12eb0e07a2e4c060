--
-- The cache itself: is it there, what is it doing; switched off, and not there.
--
\set ECHO none
\set schema admin
\i test/sql/include/prelude.sql

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

SELECT echocache_is_available();
SELECT server ~ '^[^ ]+:[0-9]+$' AS server, state, test_set, test_get, test_delete, milliseconds >= 0 AS milliseconds, error FROM echocache_health();
-- This backend's connections.
SELECT echocache_disconnect() >= 0 AS disconnected;
SELECT echocache_connect(), echocache_connect();
SELECT server ~ '^[^ ]+:[0-9]+$' AS server, weight > 0 AS weight, state, since <= now() AS since, connections >= 1 AS connections,
	kept BETWEEN 1 AND connections AS kept FROM echocache_servers;
SELECT echocache_disconnect(), echocache_disconnect();
SELECT echocache_connect();

-- Counters: those of this database's documents, from 0 when a table is attached.
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'echocache_stats'::regclass ORDER BY attnum;
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'echocache_servers'::regclass ORDER BY attnum;
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'echocache_documents'::regclass ORDER BY attnum;
SELECT proname, proargnames, format_type(prorettype, NULL) FROM pg_proc WHERE proname IN ('echocache_is_available', 'echocache_health', 'echocache_connect', 'echocache_disconnect', 'echocache_stats_reset') ORDER BY proname COLLATE "C";
SELECT * FROM echocache_stats;
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'echocache_latency'::regclass ORDER BY attnum;
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'echocache_latency_buckets'::regclass ORDER BY attnum;
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'echocache_memory'::regclass ORDER BY attnum;
-- 0 megabytes
SELECT * FROM echocache_memory ORDER BY name NULLS FIRST;
CREATE TABLE session (id int PRIMARY KEY, title text);
SELECT echocache_attach('session');
SELECT counted();
INSERT INTO session VALUES (1, 'one');
SELECT echocache_get_session(1), echocache_get_session(2);
SELECT hits, misses, fills, write_throughs FROM echocache_stats WHERE name = 'session';
-- One in sixteen local hits is timed; all else is.
SELECT kind, count, p50 > 0 AS p50, p50 <= p95 AND p95 <= p99 AND p99 <= p999 AND p999 <= max AS monotonic, since <= now() AS since
	FROM echocache_latency WHERE name = 'session' ORDER BY kind COLLATE "C";
SELECT kind, count(*), max(b.count), bool_and((b.sum > 0) = (all_of.count > 0)) AS sum FROM echocache_latency_buckets b
	JOIN echocache_latency all_of USING (name, kind) GROUP BY 1 ORDER BY kind COLLATE "C";
SELECT stats_reset AS was FROM echocache_stats \gset
SELECT echocache_stats_reset();
SELECT stats_reset > :'was' AS later, hits + misses + fills + write_throughs + markers AS sum FROM echocache_stats WHERE name = 'session';
SELECT kind, count, p50, p95, p99, p999, max, since > :'was' AS later FROM echocache_latency WHERE name = 'session' ORDER BY kind COLLATE "C";
SELECT count(*), sum(count) AS counts, sum(sum) AS sums FROM echocache_latency_buckets WHERE name = 'session';
SELECT le FROM echocache_latency_buckets WHERE name = 'session' AND kind = 'fill' ORDER BY le;
SELECT echocache_get_session(1) IS NOT NULL AS hit;
ALTER TABLE session RENAME TO renamed;
SELECT name, hits FROM echocache_stats;
ALTER TABLE renamed RENAME TO session;
SELECT echocache_detach();
SELECT count(*) FROM echocache_stats;
SELECT echocache_attach('session');
SELECT counted();

-- Switched off: not one call; the table answers, and writing goes on.
SELECT echocache_get_session(1) IS NOT NULL AS filled;
SELECT echocache_stats_reset();
ALTER SYSTEM SET echocache.enabled = off;
SELECT pg_reload_conf();
CALL wait_until('NOT echocache_is_available()');
SELECT echocache_get_session(1), echocache_get('session', 2);
SELECT * FROM echocache_get_sessions('{1,2,NULL}'::bigint[]);
SELECT echocache_touch_session(1), echocache_invalidate_session(1), echocache_refresh_session(1);
UPDATE session SET title = 'while off';
UPDATE session SET title = 'while off, again';
TRUNCATE session;
INSERT INTO session VALUES (1, 'anew'), (2, 'while off');
SELECT echocache_get_session(1);
SELECT counted();
SELECT echocache_connect(), echocache_disconnect() >= 0 AS disconnected, (SELECT count(*) FROM echocache_health()) AS health;
SELECT state FROM echocache_servers;
CREATE TABLE other (id int PRIMARY KEY);
SELECT echocache_attach('other', 'other');
INSERT INTO other VALUES (1);
SELECT echocache_get('other', 1);
SELECT echocache_detach('other');
-- And on again: nothing old is left.
ALTER SYSTEM RESET echocache.enabled;
SELECT pg_reload_conf();
CALL wait_until('echocache_is_available()');
SELECT echocache_stats_reset();
SELECT echocache_get_session(1), echocache_get_session(2);
SELECT counted();

-- No server there: the table answers, and commits go on.
ALTER SYSTEM SET echocache.hosts = '127.0.0.1:1:7';
SELECT pg_reload_conf();
CALL wait_until('(SELECT bool_and(server = ''127.0.0.1:1'' AND state = ''DOWN'') FROM echocache_servers)');
SELECT echocache_is_available(), echocache_connect();
SELECT server, weight, state, since IS NOT NULL AS since, connections, kept, last_error, last_error_at IS NOT NULL AS last_error_at FROM echocache_servers;
SELECT server, state, test_set, test_get, test_delete, error FROM echocache_health();
SELECT echocache_stats_reset();
SELECT echocache_get_session(1), echocache_get_session(2);
SELECT echocache_touch_session(1), echocache_invalidate_session(1), echocache_refresh_session(1);
UPDATE session SET title = 'without a cache' WHERE id = 1;
SELECT echocache_get_session(1);
SELECT hits, misses, bypass_server, fills, write_throughs FROM echocache_stats WHERE name = 'session';
-- Strict: a read that needs the cache fails, a commit that cannot invalidate is aborted.
ALTER SYSTEM SET echocache.fallback = off;
SELECT pg_reload_conf();
\c -
SET search_path = admin, public;
SHOW echocache.fallback;
CALL fails('SELECT echocache_get_session(1)');
CALL fails($$SELECT * FROM echocache_get_sessions('{1}'::bigint[])$$);
UPDATE session SET title = 'strictly not' WHERE id = 1;
\echo :LAST_ERROR_SQLSTATE
TRUNCATE session;
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM session ORDER BY id;
ALTER SYSTEM RESET echocache.fallback;
ALTER SYSTEM RESET echocache.hosts;
SELECT pg_reload_conf();
\c -
SET search_path = admin, public;
CALL wait_until('echocache_is_available() AND (SELECT bool_and(state = ''UP'') FROM echocache_servers)');
SELECT * FROM echocache_get_sessions('{1,2}'::bigint[]);
SELECT echocache_detach() > 0 AS detached;

SET client_min_messages = warning;
DROP SCHEMA admin CASCADE;
SELECT count(*) FROM echocache_documents;
