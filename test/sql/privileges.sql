--
-- Who may do what: nobody is shown a row by the cache that SQL would not show.
--
\set ECHO none
\set schema privileges
\i test/sql/include/prelude.sql

CREATE ROLE privileges_owner;
CREATE ROLE privileges_reader;
CREATE ROLE privileges_columns;
CREATE ROLE privileges_writer;
CREATE ROLE privileges_nobody;
CREATE ROLE privileges_monitor IN ROLE pg_monitor;
CREATE ROLE privileges_bypass BYPASSRLS;
GRANT USAGE ON SCHEMA privileges TO PUBLIC;
GRANT CREATE ON SCHEMA privileges TO privileges_owner;
SET ROLE privileges_owner;
CREATE TABLE session (id int PRIMARY KEY, owner text, title text, secret text);
SELECT echocache_attach('session', owner_column => 'owner', exclude => '{secret}');
INSERT INTO session VALUES (1, 'me', 'one', 'hush'), (2, 'you', 'two', 'hush');
GRANT SELECT ON session TO privileges_reader, privileges_bypass;
GRANT SELECT (id, owner, title) ON session TO privileges_columns;
GRANT INSERT, UPDATE, DELETE ON session TO privileges_writer;
GRANT SELECT (id) ON session TO privileges_writer;
RESET ROLE;

--
-- What PUBLIC may call, and what not.
--
SELECT p.oid::regprocedure AS function FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'echocache'
WHERE NOT has_function_privilege('privileges_nobody', p.oid, 'EXECUTE') ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT DISTINCT proname AS public_may FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'echocache'
WHERE has_function_privilege('privileges_nobody', p.oid, 'EXECUTE') ORDER BY proname;
SET ROLE privileges_nobody;
SELECT echocache_is_available();
CALL fails('SELECT * FROM echocache_health()');
CALL fails('SELECT echocache_connect()');
CALL fails('SELECT echocache_disconnect()');
CALL fails('SELECT echocache_stats_reset()');
CALL fails('SELECT * FROM echocache_servers');
CALL fails('SELECT * FROM echocache_stats');
CALL fails('SELECT * FROM echocache_latency');
CALL fails('SELECT * FROM echocache_latency_buckets');
CALL fails('SELECT * FROM echocache_memory');
CALL fails('SELECT * FROM echocache_documents');
CALL fails('SELECT * FROM echocache.document');
CALL fails($$INSERT INTO echocache.invalidated VALUES (1, 'x')$$);
SET ROLE privileges_monitor;
SELECT count(*) FROM echocache_health();
SELECT count(*) FROM echocache_servers;
SELECT name, hits >= 0 AS counted FROM echocache_stats;
SELECT name, kind, count >= 0 AS counted FROM echocache_latency ORDER BY kind COLLATE "C";
SELECT name, count(*) FROM echocache_latency_buckets GROUP BY name;
SELECT name, entries >= 0 AS counted FROM echocache_memory ORDER BY name NULLS FIRST;
SELECT name, relation FROM echocache_documents;
CALL fails('SELECT echocache_stats_reset()');
CALL fails($$SELECT echocache_detach('session')$$);
RESET ROLE;

--
-- Reading takes SELECT on the table, or on each column that the document shows;
-- on a hit as on a miss, and so do touch, invalidate and refresh.
--
CREATE FUNCTION as_role(role name) RETURNS TABLE (call text, result text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', role);
	FOREACH call IN ARRAY ARRAY['echocache_get_session(1)', 'echocache_get_session(1, ''me'')', 'echocache_get(''session'', 1)',
		'(SELECT count(session) FROM echocache_get_sessions(''{1,2}''::bigint[]))', '(SELECT count(document) FROM echocache_get_many(''session'', ''{1,2}''::bigint[], ''you''))',
		'echocache_touch_session(1)', 'echocache_touch(''session'', 1, ''1 hour'')', 'echocache_refresh_session(1)', 'echocache_refresh(''session'', 1)',
		'echocache_invalidate_session(1)', 'echocache_invalidate(''session'', 1)']
	LOOP
		BEGIN
			EXECUTE 'SELECT ' || call INTO result;
		EXCEPTION WHEN OTHERS THEN
			result := SQLSTATE || ': ' || SQLERRM;
		END;
		RETURN NEXT;
	END LOOP;
	RESET ROLE;
END $$;
SELECT * FROM as_role('privileges_owner');
SELECT * FROM as_role('privileges_reader');
SELECT * FROM as_role('privileges_columns');
SELECT * FROM as_role('privileges_writer');
SELECT echocache_get_session(1) IS NOT NULL AS cached;
SELECT echocache_stats_reset();
SELECT * FROM as_role('privileges_nobody');
SELECT echocache_get_session(1) IS NOT NULL AS still;
SELECT counted();
SET ROLE privileges_nobody;
CALL fails($$SELECT * FROM echocache_get_sessions('{}'::bigint[])$$);
CALL fails($$SELECT * FROM echocache_get_sessions('{3}'::bigint[])$$);
RESET ROLE;

-- Grants that go are gone at once.
SET ROLE privileges_columns;
SELECT echocache_get_session(1) IS NOT NULL AS may;
RESET ROLE;
REVOKE SELECT (owner) ON session FROM privileges_columns;
SET ROLE privileges_columns;
CALL fails('SELECT echocache_get_session(1)');
RESET ROLE;
GRANT SELECT (owner) ON session TO privileges_columns;
-- A column more in the document is a column more to have the right to.
ALTER TABLE session ADD COLUMN more int;
SET ROLE privileges_columns;
CALL fails('SELECT echocache_get_session(1)');
RESET ROLE;
ALTER TABLE session DROP COLUMN more;

-- Who may only write keeps the cache right, without being able to read.
SET ROLE privileges_writer;
UPDATE session SET title = 'written' WHERE id = 1;
INSERT INTO session VALUES (3, 'me', 'three');
DELETE FROM session WHERE id = 2;
CALL fails('SELECT echocache_get_session(1)');
RESET ROLE;
SELECT * FROM echocache_get_sessions('{1,2,3}'::bigint[]);

-- SECURITY DEFINER lends what its owner may.
CREATE FUNCTION lend(int) RETURNS json LANGUAGE sql SECURITY DEFINER AS 'SELECT echocache_get_session($1)';
SET ROLE privileges_nobody;
SELECT lend(1);
RESET ROLE;
CREATE FUNCTION lower_rights(int) RETURNS json LANGUAGE sql SECURITY DEFINER AS 'SELECT public.echocache_get_session($1)';
ALTER FUNCTION lower_rights(int) OWNER TO privileges_nobody;
CALL fails('SELECT lower_rights(1)');

-- A filter and the rendering run as the table's owner, not as who reads or writes.
CREATE FUNCTION whoami(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF current_user <> 'privileges_owner' THEN
		RAISE EXCEPTION 'called by %', current_user;
	END IF;
	RETURN true;
END $$;
SELECT echocache_detach() > 0 AS detached;
SELECT echocache_attach('session', owner_column => 'owner', exclude => '{secret}', filter => 'whoami(title)');
UPDATE session SET title = 'by a superuser' WHERE id = 1;
SELECT echocache_get_session(1);
SELECT echocache_get_session(3);
SELECT echocache_detach() > 0 AS detached;
SELECT echocache_attach('session', owner_column => 'owner', exclude => '{secret}');

--
-- Row-level security: who is under it is answered by the table, as himself.
--
SET ROLE privileges_owner;
ALTER TABLE session ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON session FOR SELECT TO privileges_reader USING (owner = 'me' AND id <> 3);
RESET ROLE;
SELECT count(*) FROM echocache_get_sessions('{1,3}'::bigint[]);
SELECT echocache_stats_reset();
SET ROLE privileges_reader;
SELECT echocache_get_session(1), echocache_get_session(3), echocache_get_session(3, 'me');
SELECT * FROM echocache_get_sessions('{1,3}'::bigint[]);
SELECT echocache_touch_session(3), echocache_invalidate_session(3), echocache_refresh_session(3);
RESET ROLE;
SELECT counted();
-- Those to whom it does not apply are served by the cache: the owner, BYPASSRLS, superusers.
SET ROLE privileges_owner;
SELECT echocache_get_session(3);
SET ROLE privileges_bypass;
SELECT echocache_get_session(3);
RESET ROLE;
SELECT echocache_get_session(3);
SELECT counted();
-- FORCE: to the owner too; and the documents are what they were, whoever reads first.
ALTER TABLE session FORCE ROW LEVEL SECURITY;
SET ROLE privileges_owner;
SELECT echocache_get_session(3);
UPDATE session SET title = 'unseen';
RESET ROLE;
SELECT echocache_get_session(3);
UPDATE session SET title = 'seen' WHERE id = 3;
SELECT echocache_get_session(3);
SELECT echocache_invalidate_session(3);
SELECT echocache_get_session(3);
SET ROLE privileges_bypass;
SELECT echocache_get_session(3);
\c -
SET search_path = privileges, public;
SELECT echocache_invalidate_session(3);
SELECT echocache_get_session(3);
SET ROLE privileges_owner;
SELECT echocache_get_session(3);
SELECT * FROM echocache_get_sessions('{1,3}'::bigint[]);
RESET ROLE;
-- row_security = off: an error rather than fewer rows.
SET ROLE privileges_reader;
SET row_security = off;
CALL fails('SELECT echocache_get_session(1)');
RESET row_security;
RESET ROLE;
SELECT echocache_detach() > 0 AS detached;

SET client_min_messages = warning;
DROP SCHEMA privileges CASCADE;
DROP ROLE privileges_owner, privileges_reader, privileges_columns, privileges_writer, privileges_nobody, privileges_monitor, privileges_bypass;
SELECT count(*) FROM echocache_documents;
