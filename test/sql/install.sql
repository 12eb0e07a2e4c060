--
-- CREATE EXTENSION in any schema, DROP EXTENSION that leaves nothing behind.
--
\set ECHO none
\i test/sql/include/prefix.sql
-- 18 adds the script's line to an error's context.
\set SHOW_CONTEXT never
\set ECHO all
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS echocache;
RESET client_min_messages;
CREATE SCHEMA install;
CREATE SCHEMA install_ext;
CREATE EXTENSION echocache SCHEMA install_ext;
SELECT DISTINCT nspname FROM pg_depend d JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
JOIN pg_namespace n ON n.oid = pronamespace
WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'echocache') AND d.deptype = 'e' ORDER BY 1;
-- Every object says what it is for.
SELECT pg_describe_object(classid, objid, objsubid) AS without_a_comment FROM pg_depend d
WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'echocache') AND d.deptype = 'e' AND
	classid IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_namespace'::regclass) AND
	obj_description(objid, classid::regclass::name) IS NULL AND
	-- an identity column's sequence is part of the column
	NOT EXISTS (SELECT FROM pg_depend i WHERE i.classid = d.classid AND i.objid = d.objid AND i.deptype = 'i') ORDER BY 1;
-- What pg_dump takes along.
SELECT c::regclass AS dumped FROM pg_extension, unnest(extconfig) c WHERE extname = 'echocache' ORDER BY c::regclass::text;

SET search_path = install;
CREATE PROCEDURE wait_available() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 300 LOOP
		IF install_ext.echocache_is_available() THEN
			RETURN;
		END IF;
		PERFORM pg_sleep(0.1);
	END LOOP;
	RAISE EXCEPTION 'the cache is not available';
END $$;
CALL wait_available();
-- It works without being on the search path, with names that look like its own on it.
CREATE FUNCTION echocache_row_trigger() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'not this one'; END$$;
CREATE TABLE session (id int PRIMARY KEY, title text);
CREATE TABLE second (id int PRIMARY KEY);
SELECT install_ext.echocache_attach('session');
SELECT install_ext.echocache_attach('second', 'second');
INSERT INTO session VALUES (1, 'one');
SELECT install_ext.echocache_get_session(1);
SELECT name, relation FROM install_ext.echocache_documents ORDER BY name;
SELECT name, hits, write_throughs FROM install_ext.echocache_stats ORDER BY name;

-- Created twice is refused; dropped is gone, with what belonged to it.
CREATE EXTENSION echocache;
DROP EXTENSION echocache RESTRICT;
SELECT tgname FROM pg_trigger WHERE tgrelid IN ('session'::regclass, 'second'::regclass);
SELECT count(*) FROM pg_proc WHERE proname LIKE 'echocache%' AND pronamespace <> 'install'::regnamespace;
SELECT count(*) FROM pg_namespace WHERE nspname = 'echocache';
SELECT count(*) FROM pg_class WHERE relname LIKE 'echocache%';
UPDATE session SET title = 'without the extension';
SELECT * FROM session;

-- Dropped and rolled back: all is as it was.
CREATE EXTENSION echocache SCHEMA install_ext;
CALL wait_available();
SELECT install_ext.echocache_attach('session');
BEGIN;
DROP EXTENSION echocache;
ROLLBACK;
SELECT install_ext.echocache_get_session(1);
UPDATE session SET title = 'still attached';
SELECT install_ext.echocache_get_session(1);
-- Dropped with its schema, made again, attached again: nothing of the earlier life is read.
DROP SCHEMA install_ext CASCADE;
UPDATE session SET title = 'in between';
CREATE EXTENSION echocache SCHEMA public;
SELECT public.echocache_attach('session');
SELECT public.echocache_get_session(1);
SELECT public.echocache_detach() >= 0 AS detached;

-- Dropped in a transaction that has changed documents, which at its end are none any more; then made again.
SELECT public.echocache_attach('session');
BEGIN;
UPDATE session SET title = 'at the end';
DROP EXTENSION echocache;
COMMIT;
CREATE EXTENSION echocache SCHEMA public;
SELECT public.echocache_attach('session');
UPDATE session SET title = 'noticed';
SELECT public.echocache_get_session(1);
SELECT public.echocache_detach() >= 0 AS detached;

-- A schema of the name of its own: refused, whatever it was made for; nothing is left, and another schema will do.
SET client_min_messages = warning;
DROP EXTENSION echocache;
RESET client_min_messages;
CREATE SCHEMA echocache;
CREATE EXTENSION echocache;
CREATE EXTENSION echocache SCHEMA echocache;
CREATE EXTENSION echocache SCHEMA public;
SELECT count(*) FROM pg_proc WHERE proname LIKE 'echocache%' AND pronamespace <> 'install'::regnamespace;
ALTER SCHEMA echocache RENAME TO mine;
CREATE EXTENSION echocache SCHEMA mine;
SELECT mine.echocache_attach('session');
SELECT name, relation FROM mine.echocache_documents;
SELECT mine.echocache_detach() >= 0 AS detached;

SET client_min_messages = warning;
DROP EXTENSION echocache;
DROP SCHEMA mine;
DROP SCHEMA install CASCADE;
