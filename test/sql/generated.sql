--
-- Generated columns: a document shows them, and changes with the columns that they
-- are made of, even when it shows nothing of those.  From PostgreSQL 18 on they can be
-- virtual, and then are in no stored row; before that the same is shown for stored ones.
--
\set ECHO none
\set schema generated
\i test/sql/include/prelude.sql
SELECT CASE WHEN current_setting('server_version_num')::int >= 180000 THEN 'VIRTUAL' ELSE 'STORED' END AS kind \gset

-- The whole row.
CREATE TABLE whole (id int PRIMARY KEY, price int, tax int, total int GENERATED ALWAYS AS (price + tax) :kind);
SELECT echocache_attach('whole');
INSERT INTO whole VALUES (1, 10, 2);
SELECT echocache_get_session(1);
SELECT echocache_stats_reset();
SELECT echocache_get_session(1);
SELECT counted();
UPDATE whole SET tax = 3;
SELECT echocache_get_session(1);
SELECT echocache_stats_reset();
SELECT echocache_get_session(1);
SELECT counted();
BEGIN;
UPDATE whole SET tax = 4;
SELECT echocache_get_session(1);
ROLLBACK;
SELECT echocache_get_session(1);
SELECT echocache_detach();

-- Only what is generated, as a filter, the owner and a member.
CREATE TABLE part (id int PRIMARY KEY, price int, tax int, payer int,
	total int GENERATED ALWAYS AS (price + tax) :kind,
	is_cheap boolean GENERATED ALWAYS AS (price < 100) :kind,
	owner int GENERATED ALWAYS AS (payer % 100) :kind);
SELECT echocache_attach('part', filter => 'is_cheap', owner_column => 'owner', exclude => '{price,tax,payer,is_cheap}');
INSERT INTO part VALUES (1, 10, 2, 107), (2, 200, 40, 108);
SELECT * FROM echocache_get_sessions('{1,2}'::bigint[]);
SELECT echocache_get_session(1, 7::bigint), echocache_get_session(1, 8::bigint);
UPDATE part SET tax = 3 WHERE id = 1;
UPDATE part SET price = 20 WHERE id = 2;
SELECT * FROM echocache_get_sessions('{1,2}'::bigint[]);
UPDATE part SET price = 300 WHERE id = 1;
UPDATE part SET payer = 9 WHERE id = 2;
SELECT * FROM echocache_get_sessions('{1,2}'::bigint[]);
SELECT echocache_get_session(2, 8::bigint), echocache_get_session(2, 9::bigint);
SELECT echocache_detach() > 0 AS detached;

SET client_min_messages = warning;
DROP SCHEMA generated CASCADE;
SELECT count(*) FROM echocache_documents;
