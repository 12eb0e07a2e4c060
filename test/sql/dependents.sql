--
-- Tables whose rows are part of another table's documents: which can be, and that a plain
-- client never finds a document without a change of any of them.
--
\set ECHO none
\set schema dependents
\i test/sql/include/prelude.sql
\set ECHO all

CREATE TABLE session (id bigint PRIMARY KEY, title text);
CREATE TABLE message (id int PRIMARY KEY, session_id int REFERENCES session ON UPDATE CASCADE ON DELETE CASCADE,
	reply_in int, body text, seen int DEFAULT 0);
CREATE FUNCTION doc(s session) RETURNS json LANGUAGE sql STABLE AS $$
	SELECT json_build_object('id', s.id, 'title', s.title, 'messages',
		(SELECT json_agg(m.body ORDER BY m.id) FROM dependents.message m WHERE s.id IN (m.session_id, m.reply_in)))
$$;
-- What a plain client finds of a session, if it is what the function says now; else both.
CREATE FUNCTION session(id bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	found text := plain('session:' || id);
	made text := (SELECT doc(s)::text FROM session s WHERE s.id = session.id);
BEGIN
	RETURN CASE WHEN found IN ('null', 'nothing') OR found = made THEN found ELSE 'found ' || found || ', but it is ' || made END;
END $$;

--
-- What cannot be part of a document.
--
CALL fails($$SELECT echocache_attach_dependent('message', 'session_id')$$);
SELECT echocache_attach('session');
CALL fails($$SELECT echocache_attach_dependent('message', 'session_id')$$);
SELECT echocache_detach();
SELECT echocache_attach('session', document => 'doc');
CALL fails($$SELECT echocache_attach_dependent('message', 'session_id', 'nobody')$$);
CALL fails($$SELECT echocache_attach_dependent('nowhere', 'session_id')$$);
CALL fails($$SELECT echocache_attach_dependent(1, 'session_id')$$);
CALL fails($$SELECT echocache_attach_dependent('message', 'nothing')$$);
CALL fails($$SELECT echocache_attach_dependent('message', 'ctid')$$);
-- NULL does nothing.
SELECT echocache_attach_dependent(NULL, 'session_id'), echocache_attach_dependent('message', NULL), echocache_attach_dependent('message', 'session_id', NULL);
-- The type: ids of both must be the same texts.
CREATE TABLE types (a smallint, b int, c bigint, d numeric, e text, f varchar(9), g uuid, h char(5), i oid, j int[], k float8);
SELECT format('CALL fails($f$SELECT echocache_attach_dependent(%L, %L)$f$)', 'types', attname) FROM pg_attribute
WHERE attrelid = 'types'::regclass AND attnum > 3 ORDER BY attnum
\gexec
SELECT echocache_attach_dependent('types', 'a'), echocache_attach_dependent('types', 'b'), echocache_attach_dependent('types', 'c');
SELECT echocache_detach_dependent('types');
-- Nor keys of which equal ones can have different texts.
CREATE TABLE inexact (n numeric PRIMARY KEY);
CREATE TABLE inexact_part (n numeric);
CREATE FUNCTION inexact_doc(i inexact) RETURNS json LANGUAGE sql STABLE AS $$SELECT row_to_json(i)$$;
SELECT echocache_attach('inexact', 'inexact', document => 'inexact_doc');
CALL fails($$SELECT echocache_attach_dependent('inexact_part', 'n', 'inexact')$$);
DROP TABLE inexact CASCADE;
SET client_min_messages = warning;
CREATE EXTENSION citext SCHEMA dependents;
RESET client_min_messages;
CREATE TABLE inexact (n citext PRIMARY KEY);
CREATE FUNCTION inexact_doc(i inexact) RETURNS json LANGUAGE sql STABLE AS $$SELECT row_to_json(i)$$;
SELECT echocache_attach('inexact', 'inexact', document => 'inexact_doc');
CALL fails($$SELECT echocache_attach_dependent('inexact_part', 'n', 'inexact')$$);
DROP TABLE inexact, inexact_part CASCADE;
-- A grandchild does not have the key of the document, but its parent's.
CREATE TABLE attachment (id int PRIMARY KEY, message_id int REFERENCES message ON DELETE CASCADE, session_id int, name text);
CALL fails($$SELECT echocache_attach_dependent('attachment', 'message_id')$$);
-- Tables that triggers cannot follow.
CREATE TEMP TABLE temporary (session_id int);
CREATE UNLOGGED TABLE unlogged (session_id int);
CREATE VIEW view AS SELECT * FROM message;
CREATE FOREIGN DATA WRAPPER dependents_wrapper;
CREATE SERVER dependents_server FOREIGN DATA WRAPPER dependents_wrapper;
CREATE FOREIGN TABLE foreign_table (session_id int) SERVER dependents_server;
CREATE TABLE parent (session_id int);
CREATE TABLE child () INHERITS (parent);
CALL fails($$SELECT echocache_attach_dependent('temporary', 'session_id')$$);
CALL fails($$SELECT echocache_attach_dependent('unlogged', 'session_id')$$);
CALL fails($$SELECT echocache_attach_dependent('view', 'session_id')$$);
CALL fails($$SELECT echocache_attach_dependent('foreign_table', 'session_id')$$);
CALL fails($$SELECT echocache_attach_dependent('parent', 'session_id')$$);
CALL fails($$SELECT echocache_attach_dependent('pg_class', 'relname')$$);
DROP FOREIGN DATA WRAPPER dependents_wrapper CASCADE;
DROP TABLE parent, types CASCADE;
DROP VIEW view;
-- Both tables must be the caller's.
CREATE ROLE dependents_one;
CREATE ROLE dependents_two;
GRANT USAGE ON SCHEMA dependents TO dependents_one, dependents_two;
ALTER TABLE message OWNER TO dependents_one;
SET ROLE dependents_one;
CALL fails($$SELECT echocache_attach_dependent('message', 'session_id')$$);
CALL fails($$SELECT echocache_attach_dependent('session', 'id')$$);
RESET ROLE;
ALTER TABLE message OWNER TO CURRENT_USER;
BEGIN READ ONLY;
CALL fails($$SELECT echocache_attach_dependent('message', 'session_id')$$);
CALL fails($$SELECT echocache_detach_dependent('message')$$);
COMMIT;
-- None of that has left anything.
SELECT dependents FROM echocache_documents;
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'echocache%' AND tgrelid <> 'session'::regclass;
CALL fails($$SELECT echocache_detach_dependent('message')$$);
CALL fails($$SELECT echocache_detach_dependent('message', 'nobody')$$);

--
-- What is part of one.
--
INSERT INTO session VALUES (1, 'one'), (2, 'two'), (-3, 'minus three');
SELECT await_builder();
SELECT echocache_get_session(1);
SELECT echocache_attach_dependent('message', 'session_id');
-- What was cached before is invalidated: who knows what had changed.
SELECT session(1);
SELECT dependents FROM echocache_documents;
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'message'::regclass AND NOT tgisinternal ORDER BY tgname COLLATE "C";
CALL fails($$SELECT echocache_attach_dependent('message', 'session_id')$$);

INSERT INTO message VALUES (1, 1, NULL, 'first');
SELECT session(1);
SELECT counted() IS NOT NULL AS reset;
-- One document changes, however many of its rows do, and only that.
INSERT INTO message SELECT g, 1, NULL, 'many' FROM generate_series(100, 120) g;
SELECT counted();
DELETE FROM message WHERE id >= 100;
SELECT counted();
INSERT INTO message VALUES (2, 2, NULL, 'other'), (3, -3, NULL, 'third');
SELECT session(1), session(2), session(-3);
UPDATE message SET body = 'changed' WHERE id = 3;
SELECT session(-3);
SELECT counted() IS NOT NULL AS reset;
-- Nothing has changed: nothing is sent.
UPDATE message SET body = body;
SELECT counted();
-- What the document shows of a row is the function's secret: a column that it does not show counts as well.
UPDATE message SET seen = 1 WHERE id = 3;
SELECT counted();
-- A row moves to another document; to none; to one that is not there.
UPDATE message SET session_id = 2 WHERE id = 3;
SELECT session(2), session(-3);
SELECT counted();
UPDATE message SET session_id = NULL WHERE id = 3;
SELECT session(2);
SELECT counted();
UPDATE message SET seen = 2 WHERE id = 3;
SELECT counted();
ALTER TABLE message DROP CONSTRAINT message_session_id_fkey;
UPDATE message SET session_id = 99 WHERE id = 3;
SELECT session(99), echocache_get_session(99);
-- Its session comes later.
INSERT INTO session VALUES (99, 'late');
SELECT session(99);
DELETE FROM session WHERE id = 99;
SELECT session(99);
UPDATE message SET session_id = -3 WHERE id = 3;
ALTER TABLE message ADD FOREIGN KEY (session_id) REFERENCES session ON UPDATE CASCADE ON DELETE CASCADE;
-- The key of the document changes, and with it that of its rows; it is deleted, and they are.
UPDATE session SET id = 3 WHERE id = -3;
SELECT session(3), session(-3);
DELETE FROM session WHERE id = 3;
SELECT session(3), count(*) FROM message WHERE session_id = 3;
DROP TABLE attachment;
-- TRUNCATE.
TRUNCATE message;
SELECT session(1), session(2), echocache_get_session(1);
INSERT INTO message VALUES (1, 1, NULL, 'first'), (2, 2, NULL, 'second');
SELECT session(1), session(2);
TRUNCATE session CASCADE;
SELECT session(1), session(2), count(*) FROM message;
INSERT INTO session VALUES (1, 'one'), (2, 'two'), (3, 'three');
-- In one transaction, in subtransactions: what is rolled back is neither shown nor invalidated.
BEGIN;
INSERT INTO message VALUES (1, 1, NULL, 'kept');
SAVEPOINT a;
INSERT INTO message VALUES (2, 1, NULL, 'lost'), (3, 2, NULL, 'lost');
ROLLBACK TO a;
SAVEPOINT b;
INSERT INTO message VALUES (4, 3, NULL, 'released');
RELEASE b;
SELECT echocache_get_session(1), echocache_get_session(3);
SELECT plain('session:1'), plain('session:3');
SELECT counted() IS NOT NULL AS reset;
COMMIT;
SELECT session(1), session(2), session(3);
SELECT counted();
-- More documents than are written through.
INSERT INTO session SELECT g, 'bulk' FROM generate_series(1000, 1100) g;
INSERT INTO message SELECT g, g, NULL, 'bulk' FROM generate_series(1000, 1100) g;
SELECT session(1000), echocache_get_session(1000);
DELETE FROM session WHERE id >= 1000;
-- Several columns: a message is shown by the session that it replies in, too.
SELECT echocache_attach_dependent('message', 'reply_in');
SELECT dependents FROM echocache_documents;
UPDATE message SET reply_in = 2 WHERE id = 1;
SELECT session(1), session(2);
UPDATE message SET body = 'in both' WHERE id = 1;
SELECT session(1), session(2);
UPDATE message SET session_id = 3, reply_in = 1 WHERE id = 1;
SELECT session(1), session(2), session(3);
DELETE FROM message WHERE id = 1;
SELECT session(1), session(3);

-- One table in two documents, and a document whose name is as long as can be.
SELECT repeat('n', 63) AS long \gset
CREATE TABLE author (id smallint PRIMARY KEY);
CREATE FUNCTION author_doc(a author) RETURNS json LANGUAGE sql STABLE AS $$
	SELECT json_build_object('id', a.id, 'replies', (SELECT count(*) FROM dependents.message m WHERE m.reply_in = a.id)) $$;
SELECT echocache_attach('author', :'long', document => 'author_doc');
SELECT echocache_attach_dependent('message', 'reply_in', :'long');
INSERT INTO author VALUES (1);
INSERT INTO message VALUES (5, 1, 1, 'for both');
SELECT session(1), plain(:'long' || ':1');
SELECT counted() IS NOT NULL AS reset;
UPDATE message SET session_id = 2 WHERE id = 5;
SELECT counted(), session(1), session(2);
DELETE FROM message WHERE id = 5;
SELECT session(2), plain(:'long' || ':1');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'message'::regclass AND NOT tgisinternal;
SELECT echocache_detach(:'long');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'message'::regclass AND NOT tgisinternal ORDER BY tgname COLLATE "C";
INSERT INTO message VALUES (5, 2, 1, 'still followed');
SELECT session(2);
DROP TABLE author CASCADE;

-- A table that is a part of its own documents.
CREATE TABLE post (id text PRIMARY KEY, parent varchar(20), body text);
CREATE FUNCTION thread(p post) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT jsonb_build_object('id', p.id, 'body', p.body, 'answers',
		(SELECT jsonb_agg(a.body ORDER BY a.id) FROM dependents.post a WHERE a.parent = p.id)) $$;
SELECT echocache_attach('post', 'post', document => 'thread');
SELECT echocache_attach_dependent('post', 'parent', 'post');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'post'::regclass ORDER BY tgname COLLATE "C";
INSERT INTO post VALUES ('a b', NULL, 'question');
INSERT INTO post VALUES ('c', 'a b', 'answer'), ('d', 'a b', 'another');
SELECT plain('post:a%20b'), plain('post:c');
UPDATE post SET body = 'better' WHERE id = 'c';
SELECT plain('post:a%20b'), plain('post:c');
UPDATE post SET parent = 'c' WHERE id = 'd';
SELECT plain('post:a%20b'), plain('post:c');
UPDATE post SET id = 'C' WHERE id = 'c';
SELECT plain('post:a%20b'), plain('post:c'), plain('post:C');
SELECT echocache_detach_dependent('post', 'post');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'post'::regclass ORDER BY tgname COLLATE "C";
SELECT plain('post:a%20b');
SELECT echocache_attach_dependent('post', 'parent', 'post');
SELECT echocache_detach('post');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'post'::regclass;
DROP TABLE post CASCADE;

-- A partitioned one, with partitions of their own shape.
CREATE TABLE event (day int, session_id bigint, kind text) PARTITION BY RANGE (day);
CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (1) TO (10);
CREATE TABLE event_2 (gone int, kind text, session_id bigint, day int);
ALTER TABLE event_2 DROP COLUMN gone;
ALTER TABLE event ATTACH PARTITION event_2 FOR VALUES FROM (10) TO (20);
CREATE OR REPLACE FUNCTION doc(s session) RETURNS json LANGUAGE sql STABLE AS $$
	SELECT json_build_object('id', s.id, 'events', (SELECT json_agg(e.kind ORDER BY e.day) FROM dependents.event e WHERE e.session_id = s.id)) $$;
SELECT echocache_attach_dependent('event', 'session_id');
SELECT dependents FROM echocache_documents;
INSERT INTO event VALUES (1, 1, 'opened'), (11, 1, 'closed'), (2, 2, 'opened');
SELECT session(1), session(2);
UPDATE event_2 SET kind = 'left';
SELECT session(1);
UPDATE event SET day = 12, session_id = 2 WHERE session_id = 1 AND day = 1;
SELECT session(1), session(2);
CREATE TABLE event_3 PARTITION OF event FOR VALUES FROM (20) TO (30);
INSERT INTO event_3 VALUES (25, 1, 'again');
SELECT session(1);
TRUNCATE event_3;
SELECT session(1), echocache_get_session(1);
BEGIN;
ALTER TABLE event_1 DISABLE TRIGGER ALL;
ROLLBACK;
ALTER TABLE event DETACH PARTITION event_2;
SELECT session(1), session(2), echocache_get_session(1), echocache_get_session(2);
UPDATE event_2 SET kind = 'unseen';
SELECT session(1), counted() IS NOT NULL AS reset;
ALTER TABLE event ATTACH PARTITION event_2 FOR VALUES FROM (10) TO (20);
SELECT session(1), echocache_get_session(1);
DROP TABLE event_2;
SELECT session(1), echocache_get_session(1);

--
-- DDL.
--
-- Renamed: tables, columns, schema.
ALTER TABLE message RENAME session_id TO session;
ALTER TABLE message RENAME TO messages;
CREATE OR REPLACE FUNCTION doc(s session) RETURNS json LANGUAGE sql STABLE AS $$
	SELECT json_build_object('id', s.id, 'messages', (SELECT json_agg(m.body ORDER BY m.id) FROM dependents.messages m WHERE m.session = s.id)) $$;
SELECT * FROM echocache.dependent ORDER BY relation::text, key_column;
TRUNCATE messages;
INSERT INTO messages VALUES (1, 1, NULL, 'renamed');
SELECT session(1);
BEGIN;
ALTER TABLE messages RENAME session TO other;
ROLLBACK;
UPDATE messages SET body = 'and back';
SELECT session(1);
-- A column of the same name elsewhere is another column.
ALTER TABLE event RENAME session_id TO id;
ALTER TABLE event RENAME id TO session_id;
SELECT * FROM echocache.dependent ORDER BY relation::text, key_column;
-- A key column must stay one.
CALL fails('ALTER TABLE messages ALTER reply_in TYPE text');
CALL fails('ALTER TABLE event ALTER session_id TYPE numeric');
ALTER TABLE event ALTER session_id TYPE smallint;
CALL fails('ALTER TABLE event DROP COLUMN session_id');
CALL fails('ALTER TABLE messages SET UNLOGGED');
CALL fails('ALTER TABLE session SET UNLOGGED');
SELECT session(1), echocache_get_session(1);
-- Triggers that do not fire: nothing is cached, until they do again.
SET client_min_messages = error;
ALTER TABLE messages DISABLE TRIGGER echocache_dependent_session;
RESET client_min_messages;
SELECT session(1), counted() IS NOT NULL AS reset;
INSERT INTO messages VALUES (2, 1, NULL, 'unseen');
UPDATE session SET title = 'not stored' WHERE id = 1;
SELECT session(1);
SELECT echocache_get_session(1);
SELECT counted();
ALTER TABLE messages ENABLE TRIGGER echocache_dependent_session;
ALTER TABLE messages ENABLE ALWAYS TRIGGER echocache_dependent_session;
SELECT echocache_get_session(1);
SELECT session(1);
DROP TRIGGER echocache_truncate_dependent_session ON messages;
SELECT echocache_get_session(1);
SELECT session(1);
-- Attached anew it has them all.
SELECT echocache_detach_dependent('messages');
SELECT echocache_attach_dependent('messages', 'session');
SELECT echocache_get_session(1);
SELECT session(1);
-- A table that inherits from it has rows that no trigger of ours sees.
CREATE TABLE heir () INHERITS (messages);
SELECT session(1);
INSERT INTO heir VALUES (3, 1, NULL, 'inherited');
SELECT echocache_get_session(1);
SELECT session(1);
ALTER TABLE heir NO INHERIT messages;
SELECT echocache_get_session(1);
SELECT session(1);
ALTER TABLE heir INHERIT messages;
SELECT echocache_get_session(1);
SELECT session(1);
DROP TABLE heir;
SELECT echocache_get_session(1);
SELECT session(1);
-- A column that is none of the document's keys goes, then one that is: with it the document.
ALTER TABLE messages DROP COLUMN seen;
SELECT echocache_get_session(1);
BEGIN;
ALTER TABLE messages DROP COLUMN session CASCADE;
SELECT count(*) FROM echocache_documents;
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'echocache%' ORDER BY 1, 2;
ROLLBACK;
SELECT session(1), echocache_get_session(1);
-- A table goes: it is not part of the document any more.
DROP TABLE event;
SELECT dependents FROM echocache_documents;
SELECT session(1), echocache_get_session(1);
-- Detached: nobody notices any more.
SELECT echocache_detach_dependent('messages');
SELECT dependents FROM echocache_documents;
SELECT tgname FROM pg_trigger WHERE tgrelid = 'messages'::regclass AND NOT tgisinternal;
SELECT session(1), echocache_get_session(1);
INSERT INTO messages (id, session, body) VALUES (14, 1, 'unnoticed');
SELECT plain('session:1');
-- Detaching the document removes the triggers from all of its tables; so does dropping it.
SELECT echocache_attach_dependent('messages', 'session');
SELECT echocache_detach();
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'echocache%';
SELECT echocache_attach('session', document => 'doc');
SELECT echocache_attach_dependent('messages', 'session');
BEGIN;
DROP FUNCTION doc CASCADE;
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'echocache%';
ROLLBACK;
BEGIN;
DROP TABLE session CASCADE;
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'echocache%';
ROLLBACK;
BEGIN;
SAVEPOINT a;
DROP FUNCTION doc CASCADE;
ROLLBACK TO a;
COMMIT;
INSERT INTO messages (id, session, body) VALUES (15, 1, 'noticed');
SELECT session(1);
-- Somebody else's table keeps its triggers, which do nothing; there is a document of that name again.
ALTER TABLE messages OWNER TO dependents_two;
ALTER TABLE session OWNER TO dependents_one;
SET ROLE dependents_one;
DROP TABLE session CASCADE;
RESET ROLE;
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'echocache%' ORDER BY 2;
UPDATE messages SET body = 'free';
CREATE TABLE session (id bigint PRIMARY KEY, title text);
INSERT INTO session VALUES (1, 'one');
CREATE FUNCTION doc(s session) RETURNS json LANGUAGE sql STABLE AS $$
	SELECT json_build_object('id', s.id, 'messages', (SELECT json_agg(m.body ORDER BY m.id) FROM dependents.messages m WHERE m.session = s.id)) $$;
SELECT echocache_attach('session', document => 'doc');
SELECT echocache_attach_dependent('messages', 'session');
INSERT INTO messages (id, session, body) VALUES (16, 1, 'attached');
SELECT session(1);

SET client_min_messages = warning;
DROP SCHEMA dependents CASCADE;
SELECT count(*) FROM echocache_documents;
SELECT count(*) FROM echocache.dependent;
DROP ROLE dependents_one, dependents_two;
