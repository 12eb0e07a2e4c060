--
-- Documents that a function makes: which functions may, as whom and how they run, what
-- becomes of what they return, and of what happens to them.
--
\set ECHO none
\set schema documents
\i test/sql/include/prelude.sql
\set ECHO all
SET DateStyle = 'ISO, MDY';

CREATE TABLE session (id bigint PRIMARY KEY, who int, title text, hidden boolean NOT NULL DEFAULT false);
INSERT INTO session VALUES (1, 7, 'one'), (-2, NULL, 'two');

--
-- What can be the function.
--
CREATE PROCEDURE attach_fails(function regproc, more text = '') LANGUAGE plpgsql
AS $$BEGIN CALL fails(format('SELECT echocache_attach(%L, document => %L %s)', 'session', function, more)); END$$;
CREATE FUNCTION takes_text(text) RETURNS json LANGUAGE sql STABLE AS $$SELECT '{}'::json$$;
CREATE FUNCTION takes_nothing() RETURNS json LANGUAGE sql STABLE AS $$SELECT '{}'::json$$;
CREATE FUNCTION takes_record(record) RETURNS json LANGUAGE plpgsql STABLE AS $$BEGIN RETURN '{}'; END$$;
CREATE FUNCTION takes_two(session, int = 1) RETURNS json LANGUAGE sql STABLE AS $$SELECT '{}'::json$$;
CREATE FUNCTION takes_many(VARIADIC session[]) RETURNS json LANGUAGE sql STABLE AS $$SELECT '{}'::json$$;
CREATE TABLE another (id bigint PRIMARY KEY);
CREATE FUNCTION takes_another(another) RETURNS json LANGUAGE sql STABLE AS $$SELECT '{}'::json$$;
CREATE FUNCTION gives_text(session) RETURNS text LANGUAGE sql STABLE AS $$SELECT '{}'$$;
CREATE FUNCTION gives_row(session) RETURNS session LANGUAGE sql STABLE AS $$SELECT $1$$;
CREATE FUNCTION gives_set(session) RETURNS SETOF json LANGUAGE sql STABLE AS $$SELECT '{}'::json$$;
CREATE FUNCTION gives_out(session, OUT json) LANGUAGE sql STABLE AS $$SELECT row_to_json($1)$$;
CREATE PROCEDURE procedure(session) LANGUAGE sql AS $$SELECT 1$$;
CREATE FUNCTION step(json, session) RETURNS json LANGUAGE sql STABLE AS $$SELECT '{}'::json$$;
CREATE AGGREGATE aggregate(session) (SFUNC = step, STYPE = json);
CALL attach_fails('takes_text');
CALL attach_fails('takes_nothing');
CALL attach_fails('takes_record');
CALL attach_fails('takes_two');
CALL attach_fails('takes_many');
CALL attach_fails('takes_another');
CALL attach_fails('gives_text');
CALL attach_fails('gives_row');
CALL attach_fails('gives_set');
CALL attach_fails('procedure');
CALL attach_fails('aggregate');
CALL fails($$SELECT echocache_attach('session', document => 1)$$);
CALL fails($$SELECT echocache_attach('session', document => 'no_such')$$);
CALL attach_fails('gives_out', $$, exclude => '{title}'$$);
CALL attach_fails('gives_out', $$, owner_column => 'nothing'$$);
DROP FUNCTION takes_text, takes_nothing, takes_record, takes_two, takes_many, takes_another, gives_text, gives_row, gives_set;
DROP ROUTINE procedure, aggregate, step;
-- None of that has left anything.
SELECT tgname FROM pg_trigger WHERE tgrelid = 'session'::regclass;
SELECT count(*) FROM echocache_documents;

-- An OUT parameter is a result; one that is declared VOLATILE (nobody has said otherwise) works, with a warning.
SELECT echocache_attach('session', document => 'gives_out');
SELECT document, exclude FROM echocache_documents;
SELECT echocache_get_session(1);
SELECT echocache_detach();
CREATE FUNCTION not_declared(session) RETURNS json LANGUAGE sql AS $$SELECT row_to_json($1)$$;
SELECT echocache_attach('session', document => 'not_declared');
SELECT echocache_get_session(1);
SELECT echocache_detach();
-- One of several with the name.
CREATE FUNCTION several(session) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$SELECT to_jsonb($1)$$;
CREATE FUNCTION several(another) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$SELECT to_jsonb($1)$$;
CALL fails($$SELECT echocache_attach('session', document => 'several')$$);
SELECT echocache_attach('session', document => 'several(session)'::regprocedure);
SELECT echocache_get_session(1);
SELECT echocache_detach();
-- Names that must be quoted.
CREATE SCHEMA "odd . schema";
CREATE FUNCTION "odd . schema"."odd "" function"(session) RETURNS json LANGUAGE sql STABLE AS $$SELECT row_to_json($1)$$;
SELECT echocache_attach('session', document => '"odd . schema"."odd "" function"');
SELECT document FROM echocache_documents;
SELECT echocache_get_session(1);
SELECT echocache_detach();
-- NULL is no function.
SELECT echocache_attach('session', document => NULL, touch_on_read => NULL);
SELECT document, touch_on_read FROM echocache_documents;
SELECT echocache_detach();

--
-- What it returns.  It is tried with one row when the table is attached.
--
CREATE FUNCTION returns(result text, returns text = 'json', arguments text = '') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	document text;
	again text;
BEGIN
	EXECUTE format('CREATE OR REPLACE FUNCTION made_%s(s session) RETURNS %1$s LANGUAGE sql STABLE AS %L', returns,
				   format('SELECT (%s)::%s', result, returns));
	EXECUTE format('SELECT echocache_attach(%L, document => %L %s)', 'session', 'made_' || returns, arguments);
	SELECT echocache_get_session(1) INTO document;
	PERFORM echocache_detach();
	RETURN document;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS again = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM, NULLIF(again, ''));
END $$;
DELETE FROM session WHERE id = -2;
\pset format unaligned
\pset tuples_only
SELECT returns($$'{"id":1,"title":"json"}'$$);
SELECT returns($$'{"id":1, "title":"jsonb", "a":[1,{"id":2}]}'$$, 'jsonb');
-- Spaces are its own affair, but for those around.
SELECT quote_literal(returns($$E' \n\t{ "id" :\n1 , "title" : " a " }\r\n '$$));
-- The key must be shown: at top level, once, as the row has it.
SELECT returns($$'{"title":"no key"}'$$);
SELECT returns($$'{"id":2}'$$);
SELECT returns($$'{"id":"1"}'$$);
SELECT returns($$'{"id":null}'$$);
SELECT returns($$'{"id":1,"x":2,"id":1}'$$);
SELECT returns($$'{"id":1,"x":2,"id":3}'$$);
SELECT returns($$'{"session":{"id":1}}'$$);
SELECT returns($$'{"x":"\"id\":1","y":[{"id":1}]}'$$);
SELECT returns($$'{"ID":1}'$$);
SELECT returns($$'{}'$$);
SELECT returns($$'{"x":"}{","a":"\\\"","id":1}'$$);
-- So must the owner, if there is one.
SELECT returns($$'{"id":1}'$$, 'json', $$, owner_column => 'who'$$);
SELECT returns($$'{"id":1,"who":"7"}'$$, 'json', $$, owner_column => 'who'$$);
SELECT returns($$'{"id":1,"who":8}'$$, 'json', $$, owner_column => 'who'$$);
SELECT returns($$'{"id":1,"in":{"who":7}}'$$, 'json', $$, owner_column => 'who'$$);
SELECT returns($$'{"id":1,"who":7,"who":8}'$$, 'json', $$, owner_column => 'who'$$);
SELECT returns($$'{"who":7,"id":1}'$$, 'jsonb', $$, owner_column => 'who'$$);
-- What is no object is no document; NULL is: the row has none.
SELECT returns($$'[1]'$$);
SELECT returns($$'1'$$);
SELECT returns($$'"{\"id\":1}"'$$);
SELECT returns($$'null'$$);
SELECT returns('NULL') IS NULL AS absent;
SELECT returns('NULL', 'jsonb') IS NULL AS absent;
-- It fails.
SELECT returns($$'{"id":1,"x":' || 1 / (s.id - 1) || '}'$$);
SELECT returns($$'{'$$);
-- It runs with the search path of documents: tables are found by their schema.
SELECT returns($$(SELECT row_to_json(x) FROM documents.session x WHERE id = s.id)$$);
\pset format aligned
\pset tuples_only
CREATE FUNCTION unqualified(s session) RETURNS json LANGUAGE plpgsql STABLE
AS $$BEGIN RETURN (SELECT row_to_json(x) FROM session x WHERE x.id = s.id); END$$;
SELECT echocache_attach('session', document => 'unqualified');
ALTER FUNCTION unqualified SET search_path = documents;
SELECT echocache_attach('session', document => 'unqualified');
-- What comes from a temporary table of the reader's is not for others.
CREATE TEMP TABLE session AS SELECT 1 AS id, 'planted' AS title;
SELECT echocache_get_session(1);
SELECT plain('session:1');
DROP TABLE pg_temp.session;
ALTER FUNCTION unqualified SET search_path = documents, pg_temp;
SELECT echocache_get_session(1);
SELECT plain('session:1');
SELECT echocache_detach();
DROP FUNCTION unqualified;
-- An empty table tries nothing; the first change shows what is wrong, to the reader as an error.
CREATE TABLE late (id int PRIMARY KEY, n int);
CREATE FUNCTION late(l late) RETURNS json LANGUAGE sql STABLE AS $$SELECT json_build_object('id', l.id, 'n', 10 / l.n)$$;
SELECT echocache_attach('late', 'late', document => 'late(late)'::regprocedure);
INSERT INTO late VALUES (1, 5), (2, 0);
SELECT count(*) FROM late;
SELECT plain('late:1'), plain('late:2');
SELECT builds, build_errors FROM echocache_stats WHERE name = 'late';
SELECT echocache_get('late', 1);
CALL fails($$SELECT echocache_get('late', 2)$$);
CALL fails($$SELECT * FROM echocache_get_many('late', '{1,2}'::bigint[])$$);
UPDATE late SET n = 2 WHERE id = 2;
SELECT plain('late:1'), plain('late:2');
DROP FUNCTION late CASCADE;

--
-- How it runs: as the owner of the table, read-only, under the settings of all documents.
--
CREATE FUNCTION circumstances(s session) RETURNS json LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN json_build_object('id', s.id, 'user', current_user, 'path', current_setting('search_path'), 'time zone', current_setting('TimeZone'),
		'date', to_char('2024-02-01'::date, 'YYYY-MM-DD'), 'interval', '1 day 02:03'::interval::text, 'style', current_setting('DateStyle'),
		'float', (0.1::float8 + 0.2::float8)::text, 'bytea', '\xff'::bytea::text, 'read only', current_setting('transaction_read_only'));
END $$;
CREATE ROLE documents_owner;
CREATE ROLE documents_reader;
GRANT USAGE ON SCHEMA documents TO documents_owner, documents_reader;
GRANT SELECT ON session TO documents_reader;
ALTER TABLE session OWNER TO documents_owner;
SELECT echocache_attach('session', document => 'circumstances');
SET TimeZone = 'Asia/Tokyo';
SET DateStyle = 'German';
SET IntervalStyle = 'iso_8601';
SET extra_float_digits = -3;
SET bytea_output = 'escape';
\pset format unaligned
SELECT echocache_get_session(1);
UPDATE session SET title = 'written';
SELECT plain('session:1');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT echocache_get_session(1);
COMMIT;
SET ROLE documents_reader;
SELECT echocache_invalidate_session(1);
SELECT echocache_get_session(1);
RESET ROLE;
-- They are the session's own again, also after an error.
SHOW TimeZone;
SHOW search_path;
SHOW transaction_read_only;
SELECT current_user = session_user AS same;
\pset format aligned
RESET TimeZone;
SET DateStyle = 'ISO, MDY';
RESET IntervalStyle;
RESET extra_float_digits;
RESET bytea_output;
-- It changes nothing.
CREATE TABLE journal (n int);
CREATE SEQUENCE counter;
GRANT ALL ON journal, counter TO documents_owner;
CREATE FUNCTION writes(s session) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
	CASE s.title
		WHEN 'insert' THEN INSERT INTO documents.journal VALUES (1);
		WHEN 'sequence' THEN PERFORM nextval('documents.counter');
		WHEN 'lock' THEN PERFORM FROM documents.journal FOR UPDATE;
		WHEN 'table' THEN CREATE TEMP TABLE t ();
		WHEN 'role' THEN SET ROLE documents_reader;
		WHEN 'read write' THEN SET transaction_read_only = off;
		WHEN 'commit' THEN COMMIT;
		ELSE NULL;
	END CASE;
	RETURN row_to_json(s);
END $$;
CREATE OR REPLACE FUNCTION circumstances(s session) RETURNS json LANGUAGE sql AS $$SELECT documents.writes(s)$$;
UPDATE session SET title = 'insert';
CALL fails('SELECT echocache_get_session(1)');
UPDATE session SET title = 'sequence';
UPDATE session SET title = 'lock';
UPDATE session SET title = 'table';
UPDATE session SET title = 'role';
UPDATE session SET title = 'read write';
UPDATE session SET title = 'commit';
SELECT plain('session:1');
UPDATE session SET title = 'nothing';
SELECT plain('session:1');
SELECT * FROM journal;
SELECT echocache_detach();

-- Others' rights: who may not call the function may not read what it makes; the owner must be able to.
GRANT documents_owner TO documents_reader;
REVOKE EXECUTE ON FUNCTION gives_out FROM PUBLIC;
CALL fails($$SELECT echocache_attach('session', document => 'gives_out')$$);
GRANT EXECUTE ON FUNCTION gives_out TO documents_owner;
SELECT echocache_attach('session', document => 'gives_out');
REVOKE documents_owner FROM documents_reader;
SET ROLE documents_reader;
CALL fails('SELECT echocache_get_session(1)');
RESET ROLE;
GRANT EXECUTE ON FUNCTION gives_out TO documents_reader;
SET ROLE documents_reader;
SELECT echocache_get_session(1);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION gives_out FROM documents_owner;
UPDATE session SET title = 'revoked';
CALL fails('SELECT echocache_get_session(1)');
GRANT EXECUTE ON FUNCTION gives_out TO documents_owner;
SELECT echocache_get_session(1);
-- Who writes need not reach the function's schema.
SELECT echocache_detach();
GRANT INSERT, UPDATE ON session TO documents_reader;
GRANT USAGE ON SCHEMA "odd . schema" TO documents_owner;
SELECT echocache_attach('session', document => '"odd . schema"."odd "" function"');
\c -
SET search_path = documents, public;
SET ROLE documents_reader;
UPDATE session SET title = 'from afar';
SELECT echocache_get_session(1);
RESET ROLE;
SELECT plain('session:1');
SELECT echocache_detach();

--
-- A function within a function: other documents may be read, its own not.
--
CREATE TABLE node (id int PRIMARY KEY, next int, n int DEFAULT 0);
CREATE FUNCTION chain(t node) RETURNS json LANGUAGE sql STABLE
AS $$SELECT json_build_object('id', t.id, 'n', t.n, 'next', public.echocache_get('node', t.next::bigint))$$;
SELECT echocache_attach('node', 'node', document => 'chain');
INSERT INTO node VALUES (1, 2), (2, 3), (3, NULL);
SELECT echocache_get('node', 1);
SELECT plain('node:1'), plain('node:3');
-- But a change of that is none of this one: that takes a dependent table.
UPDATE node SET n = 1 WHERE id = 3;
SELECT echocache_get('node', 1), echocache_get('node', 3);
-- A circle is an error, not the end of the stack.
UPDATE node SET next = 2 WHERE id IN (2, 3);
CALL fails($$SELECT echocache_get('node', 2)$$);
CALL fails($$SELECT echocache_get('node', 3)$$);
UPDATE node SET next = NULL WHERE id = 3;
SELECT echocache_get('node', 3);
DROP TABLE node CASCADE;

--
-- What happens to the function.
--
CREATE SCHEMA mine;
CREATE FUNCTION mine.doc(s session) RETURNS json LANGUAGE sql STABLE AS $$SELECT json_build_object('id', s.id, 'v', 1)$$;
SELECT echocache_attach('session', document => 'mine.doc', filter => 'NOT hidden');
SELECT echocache_get_session(1);
SELECT plain('session:1');
-- Replaced: what it has made is invalidated.
CREATE OR REPLACE FUNCTION mine.doc(s session) RETURNS json LANGUAGE sql STABLE AS $$SELECT json_build_object('id', s.id, 'v', 2)$$;
SELECT plain('session:1');
SELECT echocache_get_session(1);
ALTER FUNCTION mine.doc SET extra_float_digits = 3;
SELECT plain('session:1');
SELECT echocache_get_session(1);
-- But not before that commits, nor when it is rolled back.
BEGIN;
CREATE OR REPLACE FUNCTION mine.doc(s session) RETURNS json LANGUAGE sql STABLE AS $$SELECT json_build_object('id', s.id, 'v', 3)$$;
SELECT echocache_get_session(1);
SELECT plain('session:1');
ROLLBACK;
SELECT plain('session:1');
SELECT counted() IS NOT NULL AS reset;
SELECT echocache_get_session(1);
SELECT counted();
-- Renamed, itself, its schema, its table, its columns: it is still the one.
ALTER FUNCTION mine.doc RENAME TO "Doc";
SELECT document FROM echocache_documents;
ALTER SCHEMA mine RENAME TO "my own";
SELECT document FROM echocache_documents;
UPDATE session SET title = 'renamed';
SELECT plain('session:1');
ALTER FUNCTION "my own"."Doc" SET SCHEMA documents;
SELECT document FROM echocache_documents;
ALTER FUNCTION "Doc" RENAME TO doc;
BEGIN;
ALTER FUNCTION doc RENAME TO other;
ROLLBACK;
SELECT document FROM echocache_documents;
ALTER TABLE session RENAME TO chat;
UPDATE chat SET title = 'chat';
SELECT plain('session:1');
ALTER TABLE chat RENAME title TO subject;
UPDATE chat SET subject = 'subject';
SELECT plain('session:1');
-- The key has another name, which the function does not know.
ALTER TABLE chat RENAME id TO chat_id;
-- Not by what this session has cached of it.
\c -
SET search_path = documents, public;
SET DateStyle = 'ISO, MDY';
CALL fails('SELECT echocache_get_session(1)');
ALTER TABLE chat RENAME chat_id TO id;
SELECT echocache_get_session(1);
ALTER TABLE chat RENAME TO session;
-- A column that it does not know of is none of its business.
ALTER TABLE session ADD COLUMN more int DEFAULT 5;
SELECT plain('session:1');
SELECT echocache_get_session(1);
ALTER TABLE session DROP COLUMN subject;
UPDATE session SET more = 6;
SELECT plain('session:1');
-- Dropped: refused, or with all that it made.
CALL fails('DROP FUNCTION doc');
CALL fails('DROP FUNCTION several(another), doc(session)');
CALL fails('DROP ROUTINE doc');
BEGIN;
DROP FUNCTION doc CASCADE;
ROLLBACK;
SELECT echocache_get_session(1);
SELECT counted() IS NOT NULL AS reset;
SELECT echocache_get_session(1);
SELECT counted();
DROP FUNCTION doc CASCADE;
SELECT plain('session:1');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'session'::regclass;
-- With the table it goes, in whatever order the two are dropped.
DROP FUNCTION several(session), not_declared, gives_out, made_json, made_jsonb, circumstances, writes;
DROP SCHEMA "odd . schema" CASCADE;
DROP SCHEMA "my own";
CREATE FUNCTION doc(s session) RETURNS json LANGUAGE sql STABLE AS $$SELECT row_to_json(s)$$;
SELECT echocache_attach('session', document => 'doc(session)'::regprocedure);
CALL fails('DROP TABLE session');
BEGIN;
SET LOCAL client_min_messages = warning;
DROP TABLE session CASCADE;
SELECT count(*) FROM echocache_documents;
ROLLBACK;
SELECT echocache_get_session(1);
-- It is gone without our knowing: reads say so, writes go on, and it may come back.
UPDATE echocache.document SET document = 'documents.gone';
INSERT INTO session VALUES (3, 7);
SELECT plain('session:3');
CALL fails('SELECT echocache_get_session(3)');
CREATE FUNCTION gone(s session) RETURNS json LANGUAGE sql STABLE AS $$SELECT row_to_json(s)$$;
SELECT echocache_get_session(3);
UPDATE session SET more = 7 WHERE id = 3;
SELECT plain('session:3');
SELECT echocache_detach();

SELECT echocache_attach('session', document => 'doc');
SET client_min_messages = warning;
DROP SCHEMA documents CASCADE;
SELECT count(*) FROM echocache_documents;
DROP ROLE documents_owner, documents_reader;
