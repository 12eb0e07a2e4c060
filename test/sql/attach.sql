--
-- Attaching and detaching: what can be attached, what is refused and why, what
-- becomes of the table's triggers.
--
\set ECHO none
\set schema attach
\i test/sql/include/prelude.sql

-- The extension's triggers on a table.
CREATE VIEW triggers AS
SELECT tgrelid::regclass AS "table", tgname, tgenabled, tgfoid::regproc AS function, tgparentid <> 0 AS clone
FROM pg_trigger JOIN pg_proc p ON p.oid = tgfoid
WHERE proname LIKE 'echocache%' AND tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'attach'::regnamespace);

--
-- The key: the primary key by itself, or a column that is unique.
--
CREATE TABLE plain (id int PRIMARY KEY, alias text UNIQUE, title text, other int);
SELECT echocache_attach('plain');
SELECT * FROM echocache_documents WHERE name = 'session';
SELECT * FROM triggers ORDER BY tgname COLLATE "C";
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'plain'::regclass ORDER BY tgname COLLATE "C";
INSERT INTO plain VALUES (1, 'one', 'first'), (2, 'two', 'second');
SELECT echocache_get_session(1);

-- It is attached; so is the name.
CALL fails($$SELECT echocache_attach('plain')$$);
CALL fails($$SELECT echocache_attach('plain', 'again')$$);
CREATE TABLE second (id int PRIMARY KEY);
CALL fails($$SELECT echocache_attach('second')$$);
SELECT count(*) FROM triggers WHERE "table" = 'second'::regclass;

-- Detaching tells how many keys there were, takes the triggers along, and frees the name.
SELECT echocache_detach();
SELECT * FROM triggers;
SELECT count(*) FROM echocache_documents WHERE relation IN ('plain'::regclass, 'second'::regclass);
CALL fails($$SELECT echocache_detach()$$);
CALL fails($$SELECT echocache_detach('nobody')$$);
SELECT echocache_detach(NULL);
SELECT echocache_attach('second');
SELECT echocache_detach('session');

-- A unique column instead of the primary key.
SELECT echocache_attach('plain', 'by_alias', key_column => 'alias');
SELECT echocache_get('by_alias', 'two');
SELECT key_column FROM echocache_documents WHERE name = 'by_alias';
SELECT echocache_detach('by_alias');
CALL fails($$SELECT echocache_attach('plain', key_column => 'title')$$);
CALL fails($$SELECT echocache_attach('plain', key_column => 'nothing')$$);
CALL fails($$SELECT echocache_attach('plain', key_column => 'ctid')$$);
-- Unique for some rows only, by an expression, together with another column; deferrable is unique at commit.
CREATE UNIQUE INDEX maybe ON plain (other) WHERE other > 0;
CALL fails($$SELECT echocache_attach('plain', key_column => 'other')$$);
DROP INDEX maybe;
CREATE UNIQUE INDEX maybe ON plain ((other + 1));
CALL fails($$SELECT echocache_attach('plain', key_column => 'other')$$);
DROP INDEX maybe;
CREATE UNIQUE INDEX maybe ON plain (other, title);
CALL fails($$SELECT echocache_attach('plain', key_column => 'other')$$);
DROP INDEX maybe;
CREATE UNIQUE INDEX maybe ON plain (other) INCLUDE (title);
SELECT echocache_attach('plain', key_column => 'other');
SELECT echocache_detach();
DROP INDEX maybe;
-- A column that was dropped.
ALTER TABLE plain DROP COLUMN other;
CALL fails($$SELECT echocache_attach('plain', key_column => 'other')$$);

CREATE TABLE pair (a int, b int UNIQUE, PRIMARY KEY (a, b));
CALL fails($$SELECT echocache_attach('pair')$$);
SELECT echocache_attach('pair', key_column => 'b');
SELECT echocache_detach();
CREATE TABLE keyless (id int);
CALL fails($$SELECT echocache_attach('keyless')$$);

--
-- Key types.
--
CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy');
CREATE DOMAIN code AS text CHECK (VALUE ~ '^[A-Z]+$');
CREATE TABLE types (n int, t text, v text);
INSERT INTO types VALUES
	(1, 'uuid', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'), (2, 'smallint', '-7'), (3, 'int', '42'), (4, 'bigint', '9000000000000'),
	(5, 'text', 'Ä b%c'), (6, 'varchar(9)', 'x:y'), (7, 'char(5)', 'ab'), (8, 'numeric', '1.50'), (9, 'date', '2024-02-29'),
	(10, 'timestamptz', '2024-02-29 12:00+01'), (11, 'timestamp', '2024-02-29 12:00'), (12, 'mood', 'so so'), (13, 'code', 'ABC'),
	(14, 'bytea', '\x00ff'), (15, 'boolean', 'true'), (16, 'float8', '0.123456789012345'), (17, 'inet', '::1'), (18, 'interval', '1 day'), (19, 'oid', '5'),
	(20, 'name', 'Nm'), (21, '"char"', 'c'), (22, 'int[]', '{1,2}'), (23, 'int4range', '[1,3)'), (24, 'jsonb', '{"a": 1}');
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS citext SCHEMA public;
RESET client_min_messages;
INSERT INTO types VALUES (25, 'citext', 'Mixed');
-- Read twice (a miss that fills, then a hit), changed, read, deleted, read; each a transaction of its own.
CREATE PROCEDURE try_type(type text, value text) LANGUAGE plpgsql AS $$
DECLARE
	first json;
	second json;
	third json;
	fourth json;
	many text;
	was echocache_stats;
BEGIN
	SET LOCAL client_min_messages = warning;
	DROP TABLE IF EXISTS typed;
	RESET client_min_messages;
	EXECUTE format('CREATE TABLE typed (id %s PRIMARY KEY, n int)', type);
	EXECUTE format('INSERT INTO typed VALUES (%L, 1)', value);
	PERFORM echocache_attach('typed', 'typed');
	COMMIT;
	SELECT echocache_get('typed', value) INTO first;
	SELECT echocache_get('typed', value) INTO second;
	SELECT id FROM echocache_get_many('typed', ARRAY[value]) INTO many;
	UPDATE typed SET n = 2;
	COMMIT;
	SELECT echocache_get('typed', value) INTO third;
	DELETE FROM typed;
	COMMIT;
	SELECT echocache_get('typed', value) INTO fourth;
	SELECT * FROM echocache_stats WHERE name = 'typed' INTO was;
	RAISE NOTICE '% [%]: % % % %, % misses, % hits, % written through', type, many, first,
		CASE WHEN second::text = first::text THEN '=' ELSE second::text END, third, COALESCE(fourth::text, 'gone'),
		was.misses, was.hits, was.write_throughs;
	PERFORM echocache_detach('typed');
	DROP TABLE typed;
	COMMIT;
END $$;
-- The id is the same text whatever the session's settings are.
SET TimeZone = 'America/New_York';
SET DateStyle = 'SQL, DMY';
SET IntervalStyle = 'iso_8601';
SET bytea_output = 'escape';
SET extra_float_digits = -5;
SELECT format('CALL try_type(%L, %L)', t, v) FROM types ORDER BY n
\gexec
RESET TimeZone;
RESET DateStyle;
RESET IntervalStyle;
RESET bytea_output;
RESET extra_float_digits;
-- A type without an equality operator cannot have a unique index either.
CREATE TABLE json_key (id json);
CALL fails($$SELECT echocache_attach('json_key', key_column => 'id')$$);

--
-- The owner.
--
CREATE TABLE owned (id int PRIMARY KEY, who text, whom uuid, what json, f float8, d date, secret text);
SELECT echocache_attach('owned', owner_column => 'who');
SELECT owner_column FROM echocache_documents WHERE name = 'session';
SELECT echocache_detach();
CALL fails($$SELECT echocache_attach('owned', owner_column => 'nothing')$$);
CALL fails($$SELECT echocache_attach('owned', owner_column => 'xmin')$$);
CALL fails($$SELECT echocache_attach('owned', owner_column => 'what')$$);
CALL fails($$SELECT echocache_attach('owned', owner_column => 'f')$$);
CALL fails($$SELECT echocache_attach('owned', owner_column => 'd')$$);

--
-- Excluded columns.
--
SELECT echocache_attach('owned', owner_column => 'who', exclude => '{secret,what,f,d}');
INSERT INTO owned VALUES (1, 'me', NULL, '1', 1, now(), 'hush');
SELECT echocache_get_session(1);
SELECT exclude FROM echocache_documents WHERE name = 'session';
SELECT echocache_detach();
SELECT echocache_attach('owned', exclude => NULL);
SELECT echocache_detach();
CALL fails($$SELECT echocache_attach('owned', exclude => '{nothing}')$$);
CALL fails($$SELECT echocache_attach('owned', exclude => '{ctid}')$$);
CALL fails($$SELECT echocache_attach('owned', exclude => '{secret,id}')$$);
CALL fails($$SELECT echocache_attach('owned', owner_column => 'who', exclude => '{who}')$$);
SELECT echocache_attach('owned', exclude => '{secret,secret,f,d,what,whom,NULL}');
SELECT echocache_get_session(1);
SELECT echocache_detach();

--
-- Lifetime and policy.
--
SELECT echocache_attach('owned', ttl => '1 day 2 hours 3.5 seconds', policy => 'invalidate');
SELECT ttl, policy FROM echocache_documents WHERE name = 'session';
SELECT echocache_detach();
SELECT echocache_attach('owned', ttl => '0', policy => NULL);
SELECT ttl, policy FROM echocache_documents WHERE name = 'session';
SELECT echocache_detach();
CALL fails($$SELECT echocache_attach('owned', ttl => '-1 second')$$);
CALL fails($$SELECT echocache_attach('owned', ttl => '1 month')$$);
CALL fails($$SELECT echocache_attach('owned', ttl => '2147483648 seconds')$$);
CALL fails($$SELECT echocache_attach('owned', ttl => '2147483647 days')$$);
CALL fails($$SELECT echocache_attach('owned', policy => 'write-behind')$$);
CALL fails($$SELECT echocache_attach('owned', policy => '')$$);

--
-- Names.
--
CALL fails($$SELECT echocache_attach('owned', '')$$);
CALL fails($$SELECT echocache_attach('owned', '1st')$$);
CALL fails($$SELECT echocache_attach('owned', '_x')$$);
CALL fails($$SELECT echocache_attach('owned', 'Session')$$);
CALL fails($$SELECT echocache_attach('owned', 'a:b')$$);
CALL fails($$SELECT echocache_attach('owned', 'a b')$$);
CALL fails($$SELECT echocache_attach('owned', 'a-b')$$);
CALL fails($$SELECT echocache_attach('owned', E'a\nb')$$);
CALL fails($$SELECT echocache_attach('owned', 'x'');DROP TABLE owned;--')$$);
CALL fails(format('SELECT echocache_attach(%L, %L)', 'owned', repeat('n', 64)));
CALL fails($$SELECT echocache_attach('owned', NULL)$$);
CALL fails($$SELECT echocache_attach(NULL)$$);
CALL fails($$SELECT echocache_attach('nowhere')$$);
CALL fails($$SELECT echocache_attach(1)$$);
CALL fails($$SELECT echocache_attach('owned', 'x', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)$$);
-- The longest, whose triggers' names are cut; two of them can be told apart.
SELECT repeat('n', 62) AS long \gset
CREATE TABLE third (id int PRIMARY KEY);
SELECT echocache_attach('owned', :'long' || 'a');
SELECT echocache_attach('third', :'long' || 'b');
SELECT "table", length(tgname) FROM triggers ORDER BY "table"::text, tgname COLLATE "C";
SELECT echocache_detach(:'long' || 'a');
SELECT count(*) FROM triggers WHERE "table" = 'third'::regclass;
SELECT echocache_detach(:'long' || 'b');
-- Names that must be quoted.
CREATE TABLE "odd "" table" ("the 'key" int PRIMARY KEY, "an "" owner" text, "a, column" int, "select" bool DEFAULT true);
SELECT echocache_attach('"odd "" table"', key_column => 'the ''key', owner_column => 'an " owner',
						exclude => ARRAY['a, column'::name], filter => '"select"');
INSERT INTO "odd "" table" VALUES (1, 'q"\' || E'\t', 5, true), (2, 'x', 6, false);
SELECT echocache_get_session(1), echocache_get_session(1, 'q"\' || E'\t') IS NOT NULL AS his, echocache_get_session(2);
SELECT echocache_detach();

--
-- The filter: one boolean expression over the row's columns, and nothing else.
--
CREATE TABLE filtered (id int PRIMARY KEY, is_deleted boolean NOT NULL DEFAULT false, n int, t text, at timestamptz, m mood);
CREATE FUNCTION volatile(int) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION stable(int) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT true';
CREATE FUNCTION immutable(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 > 0; END';
CREATE FUNCTION immutable_set(int) RETURNS SETOF boolean LANGUAGE sql IMMUTABLE AS 'VALUES (true)';
CREATE PROCEDURE filter_fails(filter text) LANGUAGE sql
AS $$CALL fails(format('SELECT echocache_attach(%L, filter => %L)', 'filtered', filter))$$;
-- What it becomes.
CREATE FUNCTION filter_becomes(filter text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	PERFORM echocache_attach('filtered', 'filtered', filter => filter_becomes.filter);
	SELECT d.filter FROM echocache_documents d WHERE name = 'filtered' INTO result;
	PERFORM echocache_detach('filtered');
	RETURN result;
END $$;
SELECT filter, filter_becomes(filter) FROM (VALUES
	(1, 'NOT is_deleted'), (2, 'filtered.n > 0 AND t LIKE ''a%'''), (3, 'immutable(n)'), (4, 'true'), (5, 'NULL'),
	(6, 'm = ''happy'''), (7, 'n IN (1, 2, NULL)'), (8, 'CASE WHEN n > 0 THEN t IS NULL ELSE lower(t) = t END'),
	(9, '(n, t) IS NOT NULL'), (10, 't COLLATE "C" > ''a'''), (11, '/* why */ NOT is_deleted -- so'), (12, 't ~ ''"$1''')) v (i, filter) ORDER BY i;
CALL filter_fails('');
CALL filter_fails('n');
CALL filter_fails('t');
CALL filter_fails('nothing');
CALL filter_fails('other.n > 0');
CALL filter_fails('n > ''x''');
CALL filter_fails('n >');
CALL filter_fails('NOT is_deleted, true');
CALL filter_fails('*');
CALL filter_fails('filtered.*');
CALL filter_fails('NOT is_deleted FROM filtered');
CALL filter_fails('NOT is_deleted WHERE true');
CALL filter_fails('true UNION SELECT true');
CALL filter_fails('true ORDER BY 1');
CALL filter_fails('true LIMIT 1');
CALL filter_fails('DISTINCT is_deleted');
CALL filter_fails('true INTO stolen');
CALL filter_fails('true; DROP TABLE filtered');
CALL filter_fails('true) OR (true');
CALL filter_fails('true) -- ');
CALL filter_fails('EXISTS (SELECT)');
CALL filter_fails('n = (SELECT 1)');
CALL filter_fails('n IN (SELECT 1)');
CALL filter_fails('count(*) > 0');
CALL filter_fails('row_number() OVER () > 0');
CALL filter_fails('generate_series(1, 2) > 0');
CALL filter_fails('immutable_set(n)');
CALL filter_fails('n = $1');
CALL filter_fails('volatile(n)');
CALL filter_fails('stable(n)');
CALL filter_fails('random() > 0.5');
CALL filter_fails('at > now()');
CALL filter_fails('at > ''2024-01-01''::date');
CALL filter_fails('t = current_user');
CALL filter_fails('ctid IS NOT NULL');
CALL filter_fails('xmin = ''1''');
CALL filter_fails('tableoid = 1');
CALL filter_fails('filtered IS NOT NULL');
CALL filter_fails('NOT is_deleted AS x');
CALL filter_fails('n = DEFAULT');
-- The error says where.
SELECT echocache_attach('filtered', filter => 'NOT is_deletd');
-- Nothing has been attached by all that.
SELECT count(*) FROM triggers;

-- What it means.  NULL is not true.
SELECT echocache_attach('filtered', filter => 'n > 0');
INSERT INTO filtered (id, n) VALUES (1, 1), (2, 0), (3, NULL);
SELECT id, session->'n' AS n FROM echocache_get_sessions('{1,2,3}'::bigint[]);
SELECT echocache_detach();

--
-- What cannot be attached.
--
CREATE VIEW view AS SELECT * FROM plain;
CREATE MATERIALIZED VIEW matview AS SELECT * FROM plain;
CREATE SEQUENCE sequence;
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
CREATE TEMP TABLE temporary (id int PRIMARY KEY);
CREATE TYPE composite AS (id int);
CREATE TABLE typed_table OF composite (PRIMARY KEY (id));
CREATE FOREIGN DATA WRAPPER attach_wrapper;
CREATE SERVER attach_server FOREIGN DATA WRAPPER attach_wrapper;
CREATE FOREIGN TABLE foreign_table (id int) SERVER attach_server;
CALL fails($$SELECT echocache_attach('view')$$);
CALL fails($$SELECT echocache_attach('typed_table')$$);
CALL fails($$SELECT echocache_attach('matview')$$);
CALL fails($$SELECT echocache_attach('sequence')$$);
CALL fails($$SELECT echocache_attach('unlogged')$$);
CALL fails($$SELECT echocache_attach('temporary')$$);
CALL fails($$SELECT echocache_attach('composite')$$);
CALL fails($$SELECT echocache_attach('foreign_table')$$);
CALL fails($$SELECT echocache_attach('plain_pkey')$$);
CALL fails($$SELECT echocache_attach('pg_class')$$);
CALL fails($$SELECT echocache_attach('echocache.document')$$);
CALL fails($$SELECT echocache_attach('echocache_documents')$$);
SELECT format('%s', reltoastrelid::regclass) AS toast FROM pg_class WHERE oid = 'plain'::regclass \gset
\set VERBOSITY sqlstate
SELECT echocache_attach(:'toast');
\set VERBOSITY default
DROP FOREIGN DATA WRAPPER attach_wrapper CASCADE;

--
-- Partitioned tables.
--
CREATE TABLE part (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
SELECT echocache_attach('part');
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (id);
CREATE TABLE part_2a PARTITION OF part_2 FOR VALUES FROM (100) TO (150);
CREATE TABLE part_3 (id int PRIMARY KEY, n int);
ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES FROM (200) TO (300);
SELECT "table", tgname, tgenabled, clone FROM triggers ORDER BY "table"::text COLLATE "C", tgname COLLATE "C";
INSERT INTO part VALUES (1, 1), (101, 1), (201, 1);
SELECT * FROM echocache_get_sessions('{1,101,201}'::bigint[]);
SELECT echocache_detach();
SELECT count(*) FROM triggers;
-- One partition alone.
SELECT echocache_attach('part_1');
SELECT echocache_get_session(1), echocache_get_session(101);
SELECT echocache_detach();
-- Where no unique index is possible on the key alone, one with the partition key is enough.
CREATE TABLE by_day (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CALL fails($$SELECT echocache_attach('by_day')$$);
SELECT echocache_attach('by_day', key_column => 'id');
SELECT echocache_detach();
CALL fails($$SELECT echocache_attach('by_day', key_column => 'day')$$);

-- A table with children by inheritance: they are no part of its documents.
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child () INHERITS (parent);
SELECT echocache_attach('parent');
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (2);
SELECT echocache_get_session(1), echocache_get_session(2);
SELECT echocache_detach();

--
-- Ownership.
--
CREATE ROLE attach_owner;
CREATE ROLE attach_member IN ROLE attach_owner;
CREATE ROLE attach_other;
GRANT ALL ON SCHEMA attach TO attach_owner, attach_other;
GRANT ALL ON plain TO attach_other;
SET ROLE attach_other;
CALL fails($$SELECT echocache_attach('plain')$$);
CALL fails($$SELECT echocache_attach('pg_class')$$);
SET ROLE attach_owner;
CREATE TABLE theirs (id int PRIMARY KEY);
SELECT echocache_attach('theirs', 'theirs');
SET ROLE attach_other;
CALL fails($$SELECT echocache_detach('theirs')$$);
SET ROLE attach_member;
SELECT echocache_detach('theirs');
SELECT echocache_attach('theirs', 'theirs');
RESET ROLE;
SELECT echocache_detach('theirs');
-- The configuration is nobody's to change or read directly.
SET ROLE attach_owner;
CALL fails('SELECT * FROM echocache.document');
CALL fails('DELETE FROM echocache.document');
CALL fails('SELECT * FROM echocache.outbox');
CALL fails('DELETE FROM echocache.outbox');
RESET ROLE;

--
-- In a transaction that is rolled back.
--
BEGIN;
SELECT echocache_attach('plain');
SELECT echocache_get_session(1);
UPDATE plain SET title = 'changed' WHERE id = 1;
SELECT echocache_get_session(1);
ROLLBACK;
CALL fails('SELECT echocache_get_session(1)');
SELECT count(*) FROM triggers;
SELECT echocache_attach('plain');
SELECT echocache_get_session(1);
BEGIN;
SELECT echocache_detach();
CALL fails('SELECT echocache_get_session(1)');
ROLLBACK;
SELECT echocache_get_session(1);
SELECT count(*) FROM triggers;
-- Detached and attached anew in one transaction.
BEGIN;
SELECT echocache_detach() >= 0 AS detached;
SELECT echocache_attach('plain', exclude => '{alias}');
COMMIT;
SELECT echocache_get_session(1);
-- Its counters are those of an attached table: also when detaching was rolled back.
SELECT echocache_get_session(1);
SELECT name, hits > 0 AS hits FROM echocache_stats;
BEGIN;
SAVEPOINT a;
SELECT echocache_detach() >= 0 AS detached;
ROLLBACK TO a;
SELECT echocache_get_session(1);
COMMIT;
SELECT echocache_get_session(1), echocache_get_session(1);
SELECT name, hits > 0 AS hits FROM echocache_stats;

--
-- What DDL does to an attached table.
--
ALTER TABLE plain RENAME TO renamed;
ALTER TABLE renamed RENAME COLUMN title TO heading;
SELECT relation FROM echocache_documents WHERE name = 'session';
SELECT echocache_get_session(1);
UPDATE renamed SET heading = 'new' WHERE id = 1;
SELECT echocache_get_session(1);
ALTER TABLE renamed ADD COLUMN more int DEFAULT 5;
SELECT echocache_get_session(1);
UPDATE renamed SET more = 6 WHERE id = 1;
SELECT echocache_get_session(1);
ALTER TABLE renamed DROP COLUMN more;
SELECT echocache_get_session(1);
CREATE SCHEMA attach_moved;
ALTER TABLE renamed SET SCHEMA attach_moved;
SELECT echocache_get_session(1);
SET client_min_messages = warning;
DROP SCHEMA attach_moved CASCADE;
RESET client_min_messages;
CALL fails('SELECT echocache_get_session(1)');
SELECT count(*) FROM echocache_documents WHERE name = 'session';
-- Columns that the attachment knows stay what they are under another name.
CREATE TABLE hiding (id int PRIMARY KEY, secret text, n int, who text, gone boolean DEFAULT false);
SELECT echocache_attach('hiding', owner_column => 'who', filter => 'NOT gone AND n > 0', exclude => '{secret}');
INSERT INTO hiding VALUES (1, 'hush', 1, 'me'), (2, 'hush', 0, 'me');
SELECT echocache_get_session(1);
ALTER TABLE hiding RENAME COLUMN secret TO hidden;
ALTER TABLE hiding RENAME COLUMN id TO "the id";
ALTER TABLE hiding RENAME who TO owner;
ALTER TABLE hiding RENAME gone TO "is gone";
ALTER TABLE hiding RENAME COLUMN n TO number;
SELECT key_column, owner_column, filter, exclude FROM echocache_documents WHERE name = 'session';
SELECT echocache_get_session(1, 'me'), echocache_get_session(1, 'you'), echocache_get_session(2);
UPDATE hiding SET number = 2;
SELECT * FROM echocache_get_sessions('{1,2}'::bigint[]);
BEGIN;
ALTER TABLE hiding RENAME COLUMN "the id" TO id;
SELECT echocache_get_session(1);
ROLLBACK;
SELECT echocache_get_session(1);
-- They cannot be dropped, but an excluded one can, and CASCADE detaches.
CALL fails('ALTER TABLE hiding DROP COLUMN "the id"');
CALL fails('ALTER TABLE hiding ADD COLUMN more int, DROP COLUMN owner RESTRICT');
CALL fails('ALTER TABLE hiding DROP COLUMN number');
CALL fails('ALTER TABLE hiding SET UNLOGGED');
CREATE TYPE like_hiding AS ("the id" int);
CALL fails('ALTER TABLE hiding OF like_hiding');
CALL fails('ALTER SCHEMA echocache RENAME TO other');
CALL fails('ALTER TABLE echocache.document RENAME TO other');
CALL fails('ALTER TABLE echocache.outbox SET SCHEMA public');
ALTER TABLE hiding DROP COLUMN hidden;
SELECT echocache_get_session(1);
BEGIN;
ALTER TABLE hiding DROP COLUMN owner CASCADE;
CALL fails('SELECT echocache_get_session(1)');
SELECT count(*) FROM triggers WHERE "table" = 'hiding'::regclass;
ROLLBACK;
SELECT echocache_get_session(1, 'me');
-- While a trigger of ours does not fire nothing is cached; when it does again, nothing old is.
ALTER TABLE hiding DISABLE TRIGGER echocache_row_session;
UPDATE hiding SET number = 3;
SELECT echocache_get_session(1), echocache_get_session(1);
UPDATE hiding SET number = 4;
SELECT echocache_get_session(1);
ALTER TABLE hiding ENABLE TRIGGER ALL;
SELECT echocache_stats_reset();
SELECT echocache_get_session(1), echocache_get_session(1);
SELECT misses, hits, fills, bypass_disabled FROM echocache_stats;
DROP TABLE hiding;
-- DROP TABLE rolled back.
CREATE TABLE dropped (id int PRIMARY KEY);
INSERT INTO dropped VALUES (1);
SELECT echocache_attach('dropped');
BEGIN;
DROP TABLE dropped;
ROLLBACK;
SELECT echocache_get_session(1);
DROP TABLE dropped;
CALL fails('SELECT echocache_get_session(1)');
-- Our triggers belong to the attachment, and the functions to the extension.
SELECT echocache_attach('second');
CALL fails('DROP FUNCTION echocache_row_trigger()');
CALL fails('SELECT echocache_row_trigger()');
CALL fails('CREATE TRIGGER wrong BEFORE INSERT ON third FOR EACH ROW EXECUTE FUNCTION echocache_row_trigger(); INSERT INTO third VALUES (1)');
CALL fails('CREATE TRIGGER wrong AFTER INSERT ON third FOR EACH ROW EXECUTE FUNCTION echocache_truncate_trigger(''x''); INSERT INTO third VALUES (1)');
SELECT echocache_detach();

SET client_min_messages = warning;
DROP SCHEMA attach CASCADE;
DROP ROLE attach_member, attach_owner, attach_other;
DROP EXTENSION citext;
SELECT count(*) FROM echocache_documents;
