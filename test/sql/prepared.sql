--
-- A prepared transaction has invalidated what it changes.  Until it ends the table answers, and
-- stores nothing.  (prepared_1.out is of a server with max_prepared_transactions = 0.)
--
SELECT current_setting('max_prepared_transactions')::int = 0 AS skipped \gset
\if :skipped
\echo max_prepared_transactions is 0: skipped
\quit
\endif
\set ECHO none
\set schema prepared
\i test/sql/include/prelude.sql

CREATE TABLE session (id int PRIMARY KEY, title text);
INSERT INTO session VALUES (1, 'one');
SELECT echocache_attach('session');
SELECT echocache_get_session(1);
SELECT echocache_stats_reset();
BEGIN;
UPDATE session SET title = 'prepared';
PREPARE TRANSACTION 'prepared';
SELECT echocache_get_session(1), echocache_get_session(1);
SELECT counted();
COMMIT PREPARED 'prepared';
SELECT echocache_get_session(1), echocache_get_session(1);
SELECT counted();
BEGIN;
UPDATE session SET title = 'never';
PREPARE TRANSACTION 'prepared';
ROLLBACK PREPARED 'prepared';
SELECT echocache_get_session(1), echocache_get_session(1);
SELECT counted();
SELECT echocache_detach() >= 0 AS detached;

SET client_min_messages = warning;
DROP SCHEMA prepared CASCADE;
SELECT count(*) FROM echocache_documents;
