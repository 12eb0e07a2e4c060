-- echocache 1.0: everything that CREATE EXTENSION echocache makes.
\echo Use "CREATE EXTENSION echocache" to load this file. \quit

-- Names in this script, and in what it makes, are qualified as far as somebody could have planted
-- another object that fits better: functions and operators always are.  A type needs no schema, since
-- pg_catalog comes first for types whatever else is in the path.

-- ---------------------------------------------------------------- configuration

CREATE FUNCTION @extschema@.echocache_check_version(version text) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C;
SELECT @extschema@.echocache_check_version('1.0');
DROP FUNCTION @extschema@.echocache_check_version(text);

CREATE FUNCTION @extschema@.echocache_check_install() RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C;
SELECT @extschema@.echocache_check_install();
DROP FUNCTION @extschema@.echocache_check_install();

CREATE SCHEMA echocache;
REVOKE ALL ON SCHEMA echocache FROM PUBLIC;
COMMENT ON SCHEMA echocache IS 'tables of the extension echocache; not for direct use';

-- The order of the columns is known to src/attachments/catalog.h.
CREATE TABLE echocache.document (
    name            text PRIMARY KEY,
    relation        regclass NOT NULL UNIQUE,
    key_column      name NOT NULL,
    owner_column    name,
    filter          text,
    filter_columns  name[] NOT NULL,
    filter_calls    text NOT NULL,
    exclude         name[] NOT NULL,
    ttl             integer,
    policy          text NOT NULL CHECK (policy OPERATOR(pg_catalog.=) 'write-through' OR
                                           policy OPERATOR(pg_catalog.=) 'invalidate'),
    document        text,
    touch_on_read   boolean NOT NULL
);
COMMENT ON TABLE echocache.document IS 'attached tables; written by echocache_attach() and echocache_detach()';
SELECT pg_catalog.pg_extension_config_dump('echocache.document', '');

-- The order of the columns is known to src/attachments/catalog.h.
CREATE TABLE echocache.dependent (
    document    text NOT NULL,
    relation    regclass NOT NULL,
    key_column  name NOT NULL,
    PRIMARY KEY (document, relation, key_column)
);
COMMENT ON TABLE echocache.dependent IS
    'tables whose rows are part of a document; written by echocache_attach_dependent() and echocache_detach_dependent()';
SELECT pg_catalog.pg_extension_config_dump('echocache.dependent', '');

-- Not dumped: what belongs to the attachments of a restored dump is purged.  src/servers/outbox.c
-- knows the order of the columns.
CREATE TABLE echocache.outbox (
    id        bigint NOT NULL,
    server    text NOT NULL,
    document  text NOT NULL,
    key       text,
    since     timestamptz NOT NULL
);
COMMENT ON TABLE echocache.outbox IS
    'keys (NULL: all of the document) still to be invalidated on a server that was away; the worker clears it';

CREATE FUNCTION echocache.document_trigger() RETURNS trigger
    AS 'MODULE_PATHNAME', 'echocache_document_trigger' LANGUAGE C;
COMMENT ON FUNCTION echocache.document_trigger() IS 'makes every backend load the attachments anew';
CREATE TRIGGER document_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON echocache.document
    FOR EACH STATEMENT EXECUTE FUNCTION echocache.document_trigger();
ALTER TABLE echocache.document ENABLE ALWAYS TRIGGER document_changed;
CREATE TRIGGER dependent_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON echocache.dependent
    FOR EACH STATEMENT EXECUTE FUNCTION echocache.document_trigger();
ALTER TABLE echocache.dependent ENABLE ALWAYS TRIGGER dependent_changed;

-- A publication FOR ALL TABLES publishes these, too; a subscriber must not apply that.
CREATE FUNCTION echocache.replication_trigger() RETURNS trigger
    AS 'MODULE_PATHNAME', 'echocache_replication_trigger' LANGUAGE C;
COMMENT ON FUNCTION echocache.replication_trigger() IS
    'keeps out what logical replication brings, which is about another cluster';
CREATE TRIGGER not_replicated BEFORE INSERT OR UPDATE OR DELETE ON echocache.document
    FOR EACH ROW EXECUTE FUNCTION echocache.replication_trigger();
ALTER TABLE echocache.document ENABLE ALWAYS TRIGGER not_replicated;
CREATE TRIGGER not_replicated BEFORE INSERT OR UPDATE OR DELETE ON echocache.dependent
    FOR EACH ROW EXECUTE FUNCTION echocache.replication_trigger();
ALTER TABLE echocache.dependent ENABLE ALWAYS TRIGGER not_replicated;
CREATE TRIGGER not_replicated BEFORE INSERT OR UPDATE OR DELETE ON echocache.outbox
    FOR EACH ROW EXECUTE FUNCTION echocache.replication_trigger();
ALTER TABLE echocache.outbox ENABLE ALWAYS TRIGGER not_replicated;

-- ---------------------------------------------------------------- attach and detach

CREATE FUNCTION echocache_row_trigger() RETURNS trigger
    AS 'MODULE_PATHNAME' LANGUAGE C;
COMMENT ON FUNCTION echocache_row_trigger() IS 'of the triggers that echocache_attach() creates';

CREATE FUNCTION echocache_truncate_trigger() RETURNS trigger
    AS 'MODULE_PATHNAME' LANGUAGE C;
COMMENT ON FUNCTION echocache_truncate_trigger() IS 'of the triggers that echocache_attach() creates';

CREATE FUNCTION echocache_dependent_trigger() RETURNS trigger
    AS 'MODULE_PATHNAME' LANGUAGE C;
COMMENT ON FUNCTION echocache_dependent_trigger() IS 'of the triggers that echocache_attach_dependent() creates';

CREATE FUNCTION echocache_attach(relation regclass, name text = 'session', key_column name = NULL,
                                 owner_column name = NULL, filter text = NULL, exclude name[] = '{}',
                                 ttl interval = NULL, policy text = 'write-through', document regproc = NULL,
                                 touch_on_read boolean = false) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION echocache_attach(regclass, text, name, name, text, name[], interval, text, regproc, boolean) IS
    'keep the rows of a table, or what a function makes of each, in memcached as JSON documents, under <name>:<key>';

CREATE FUNCTION echocache_attach_dependent(relation regclass, key_column name, name text = 'session') RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION echocache_attach_dependent(regclass, name, text) IS
    'a change of a row of this table is a change of the document whose key the row has in this column';

CREATE FUNCTION echocache_detach_dependent(relation regclass, name text = 'session') RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION echocache_detach_dependent(regclass, text) IS
    'rows of this table are no part of the document any more';

CREATE FUNCTION echocache_detach(name text = 'session') RETURNS bigint
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION echocache_detach(text) IS
    'invalidate all documents of that name and stop following their table; returns how many keys there were';

-- ---------------------------------------------------------------- read
--
-- Overloads for text, uuid and bigint: an untyped parameter of a driver resolves to text.
-- VOLATILE, since a hit may be newer than the statement's snapshot; PARALLEL RESTRICTED, since
-- connections belong to the leader.

CREATE FUNCTION echocache_get_session(id text) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get_session(text) IS
    'the session with this id, from the cache or else from the table; NULL if absent';
CREATE FUNCTION echocache_get_session(id uuid) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get_session(uuid) IS
    'the session with this id, from the cache or else from the table; NULL if absent';
CREATE FUNCTION echocache_get_session(id bigint) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get_session(bigint) IS
    'the session with this id, from the cache or else from the table; NULL if absent';
CREATE FUNCTION echocache_get_session(id text, owner text) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get_session(text, text) IS
    'the same if it belongs to this owner, else NULL';
CREATE FUNCTION echocache_get_session(id text, owner uuid) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get_session(text, uuid) IS
    'the same if it belongs to this owner, else NULL';
CREATE FUNCTION echocache_get_session(id text, owner bigint) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get_session(text, bigint) IS
    'the same if it belongs to this owner, else NULL';
CREATE FUNCTION echocache_get_session(id uuid, owner text) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get_session(uuid, text) IS
    'the same if it belongs to this owner, else NULL';
CREATE FUNCTION echocache_get_session(id uuid, owner uuid) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get_session(uuid, uuid) IS
    'the same if it belongs to this owner, else NULL';
CREATE FUNCTION echocache_get_session(id uuid, owner bigint) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get_session(uuid, bigint) IS
    'the same if it belongs to this owner, else NULL';
CREATE FUNCTION echocache_get_session(id bigint, owner text) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get_session(bigint, text) IS
    'the same if it belongs to this owner, else NULL';
CREATE FUNCTION echocache_get_session(id bigint, owner uuid) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get_session(bigint, uuid) IS
    'the same if it belongs to this owner, else NULL';
CREATE FUNCTION echocache_get_session(id bigint, owner bigint) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get_session(bigint, bigint) IS
    'the same if it belongs to this owner, else NULL';

CREATE FUNCTION echocache_get(name text, id text) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get(text, text) IS
    'the document of that name with this id, from the cache or else from the table; NULL if absent';
CREATE FUNCTION echocache_get(name text, id uuid) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get(text, uuid) IS
    'the document of that name with this id, from the cache or else from the table; NULL if absent';
CREATE FUNCTION echocache_get(name text, id bigint) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get(text, bigint) IS
    'the document of that name with this id, from the cache or else from the table; NULL if absent';
CREATE FUNCTION echocache_get(name text, id text, owner text) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get(text, text, text) IS
    'the same if it belongs to this owner, else NULL';
CREATE FUNCTION echocache_get(name text, id text, owner uuid) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get(text, text, uuid) IS
    'the same if it belongs to this owner, else NULL';
CREATE FUNCTION echocache_get(name text, id text, owner bigint) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get(text, text, bigint) IS
    'the same if it belongs to this owner, else NULL';
CREATE FUNCTION echocache_get(name text, id uuid, owner text) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get(text, uuid, text) IS
    'the same if it belongs to this owner, else NULL';
CREATE FUNCTION echocache_get(name text, id uuid, owner uuid) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get(text, uuid, uuid) IS
    'the same if it belongs to this owner, else NULL';
CREATE FUNCTION echocache_get(name text, id uuid, owner bigint) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get(text, uuid, bigint) IS
    'the same if it belongs to this owner, else NULL';
CREATE FUNCTION echocache_get(name text, id bigint, owner text) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get(text, bigint, text) IS
    'the same if it belongs to this owner, else NULL';
CREATE FUNCTION echocache_get(name text, id bigint, owner uuid) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get(text, bigint, uuid) IS
    'the same if it belongs to this owner, else NULL';
CREATE FUNCTION echocache_get(name text, id bigint, owner bigint) RETURNS json
    AS 'MODULE_PATHNAME', 'echocache_get' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_get(text, bigint, bigint) IS
    'the same if it belongs to this owner, else NULL';

CREATE FUNCTION echocache_get_sessions(ids text[]) RETURNS TABLE (id text, session json)
    AS 'MODULE_PATHNAME', 'echocache_get_sessions' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_sessions(text[]) IS
    'the documents with these ids, in the order asked; those that are absent are left out';
CREATE FUNCTION echocache_get_sessions(ids uuid[]) RETURNS TABLE (id text, session json)
    AS 'MODULE_PATHNAME', 'echocache_get_sessions' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_sessions(uuid[]) IS
    'the documents with these ids, in the order asked; those that are absent are left out';
CREATE FUNCTION echocache_get_sessions(ids bigint[]) RETURNS TABLE (id text, session json)
    AS 'MODULE_PATHNAME', 'echocache_get_sessions' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_sessions(bigint[]) IS
    'the documents with these ids, in the order asked; those that are absent are left out';
CREATE FUNCTION echocache_get_sessions(ids text[], owner text) RETURNS TABLE (id text, session json)
    AS 'MODULE_PATHNAME', 'echocache_get_sessions' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_sessions(text[], text) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_sessions(ids text[], owner uuid) RETURNS TABLE (id text, session json)
    AS 'MODULE_PATHNAME', 'echocache_get_sessions' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_sessions(text[], uuid) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_sessions(ids text[], owner bigint) RETURNS TABLE (id text, session json)
    AS 'MODULE_PATHNAME', 'echocache_get_sessions' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_sessions(text[], bigint) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_sessions(ids uuid[], owner text) RETURNS TABLE (id text, session json)
    AS 'MODULE_PATHNAME', 'echocache_get_sessions' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_sessions(uuid[], text) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_sessions(ids uuid[], owner uuid) RETURNS TABLE (id text, session json)
    AS 'MODULE_PATHNAME', 'echocache_get_sessions' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_sessions(uuid[], uuid) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_sessions(ids uuid[], owner bigint) RETURNS TABLE (id text, session json)
    AS 'MODULE_PATHNAME', 'echocache_get_sessions' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_sessions(uuid[], bigint) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_sessions(ids bigint[], owner text) RETURNS TABLE (id text, session json)
    AS 'MODULE_PATHNAME', 'echocache_get_sessions' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_sessions(bigint[], text) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_sessions(ids bigint[], owner uuid) RETURNS TABLE (id text, session json)
    AS 'MODULE_PATHNAME', 'echocache_get_sessions' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_sessions(bigint[], uuid) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_sessions(ids bigint[], owner bigint) RETURNS TABLE (id text, session json)
    AS 'MODULE_PATHNAME', 'echocache_get_sessions' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_sessions(bigint[], bigint) IS
    'the same, without those that do not belong to this owner';
-- an array as a literal: what a driver's untyped parameter resolves to
CREATE FUNCTION echocache_get_sessions(ids text) RETURNS TABLE (id text, session json)
    AS 'MODULE_PATHNAME', 'echocache_get_sessions' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_sessions(text) IS
    'the same; the ids are an array as text, such as {a,b}';
CREATE FUNCTION echocache_get_sessions(ids text, owner text) RETURNS TABLE (id text, session json)
    AS 'MODULE_PATHNAME', 'echocache_get_sessions' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_sessions(text, text) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_sessions(ids text, owner uuid) RETURNS TABLE (id text, session json)
    AS 'MODULE_PATHNAME', 'echocache_get_sessions' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_sessions(text, uuid) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_sessions(ids text, owner bigint) RETURNS TABLE (id text, session json)
    AS 'MODULE_PATHNAME', 'echocache_get_sessions' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_sessions(text, bigint) IS
    'the same, without those that do not belong to this owner';

CREATE FUNCTION echocache_get_many(name text, ids text[]) RETURNS TABLE (id text, document json)
    AS 'MODULE_PATHNAME', 'echocache_get_many' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_many(text, text[]) IS
    'the documents with these ids, in the order asked; those that are absent are left out';
CREATE FUNCTION echocache_get_many(name text, ids uuid[]) RETURNS TABLE (id text, document json)
    AS 'MODULE_PATHNAME', 'echocache_get_many' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_many(text, uuid[]) IS
    'the documents with these ids, in the order asked; those that are absent are left out';
CREATE FUNCTION echocache_get_many(name text, ids bigint[]) RETURNS TABLE (id text, document json)
    AS 'MODULE_PATHNAME', 'echocache_get_many' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_many(text, bigint[]) IS
    'the documents with these ids, in the order asked; those that are absent are left out';
CREATE FUNCTION echocache_get_many(name text, ids text[], owner text) RETURNS TABLE (id text, document json)
    AS 'MODULE_PATHNAME', 'echocache_get_many' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_many(text, text[], text) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_many(name text, ids text[], owner uuid) RETURNS TABLE (id text, document json)
    AS 'MODULE_PATHNAME', 'echocache_get_many' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_many(text, text[], uuid) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_many(name text, ids text[], owner bigint) RETURNS TABLE (id text, document json)
    AS 'MODULE_PATHNAME', 'echocache_get_many' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_many(text, text[], bigint) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_many(name text, ids uuid[], owner text) RETURNS TABLE (id text, document json)
    AS 'MODULE_PATHNAME', 'echocache_get_many' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_many(text, uuid[], text) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_many(name text, ids uuid[], owner uuid) RETURNS TABLE (id text, document json)
    AS 'MODULE_PATHNAME', 'echocache_get_many' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_many(text, uuid[], uuid) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_many(name text, ids uuid[], owner bigint) RETURNS TABLE (id text, document json)
    AS 'MODULE_PATHNAME', 'echocache_get_many' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_many(text, uuid[], bigint) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_many(name text, ids bigint[], owner text) RETURNS TABLE (id text, document json)
    AS 'MODULE_PATHNAME', 'echocache_get_many' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_many(text, bigint[], text) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_many(name text, ids bigint[], owner uuid) RETURNS TABLE (id text, document json)
    AS 'MODULE_PATHNAME', 'echocache_get_many' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_many(text, bigint[], uuid) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_many(name text, ids bigint[], owner bigint) RETURNS TABLE (id text, document json)
    AS 'MODULE_PATHNAME', 'echocache_get_many' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_many(text, bigint[], bigint) IS
    'the same, without those that do not belong to this owner';
-- an array as a literal: what a driver's untyped parameter resolves to
CREATE FUNCTION echocache_get_many(name text, ids text) RETURNS TABLE (id text, document json)
    AS 'MODULE_PATHNAME', 'echocache_get_many' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_many(text, text) IS
    'the same; the ids are an array as text, such as {a,b}';
CREATE FUNCTION echocache_get_many(name text, ids text, owner text) RETURNS TABLE (id text, document json)
    AS 'MODULE_PATHNAME', 'echocache_get_many' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_many(text, text, text) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_many(name text, ids text, owner uuid) RETURNS TABLE (id text, document json)
    AS 'MODULE_PATHNAME', 'echocache_get_many' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_many(text, text, uuid) IS
    'the same, without those that do not belong to this owner';
CREATE FUNCTION echocache_get_many(name text, ids text, owner bigint) RETURNS TABLE (id text, document json)
    AS 'MODULE_PATHNAME', 'echocache_get_many' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_get_many(text, text, bigint) IS
    'the same, without those that do not belong to this owner';

-- a row of the table's type, from the document; the first argument is there for its type only
CREATE FUNCTION echocache_get_row(type anyelement, id text) RETURNS SETOF anyelement
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION echocache_get_row(anyelement, text) IS
    'the row with this id, as the document shows it (NULL::table names the table); no row if absent';
CREATE FUNCTION echocache_get_row(type anyelement, id text, owner text) RETURNS SETOF anyelement
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION echocache_get_row(anyelement, text, text) IS
    'the same if it belongs to this owner, else no row';
CREATE FUNCTION echocache_get_row(type anyelement, id text, owner uuid) RETURNS SETOF anyelement
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION echocache_get_row(anyelement, text, uuid) IS
    'the same if it belongs to this owner, else no row';
CREATE FUNCTION echocache_get_row(type anyelement, id text, owner bigint) RETURNS SETOF anyelement
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION echocache_get_row(anyelement, text, bigint) IS
    'the same if it belongs to this owner, else no row';
CREATE FUNCTION echocache_get_row(type anyelement, id uuid) RETURNS SETOF anyelement
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION echocache_get_row(anyelement, uuid) IS
    'the row with this id, as the document shows it (NULL::table names the table); no row if absent';
CREATE FUNCTION echocache_get_row(type anyelement, id uuid, owner text) RETURNS SETOF anyelement
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION echocache_get_row(anyelement, uuid, text) IS
    'the same if it belongs to this owner, else no row';
CREATE FUNCTION echocache_get_row(type anyelement, id uuid, owner uuid) RETURNS SETOF anyelement
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION echocache_get_row(anyelement, uuid, uuid) IS
    'the same if it belongs to this owner, else no row';
CREATE FUNCTION echocache_get_row(type anyelement, id uuid, owner bigint) RETURNS SETOF anyelement
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION echocache_get_row(anyelement, uuid, bigint) IS
    'the same if it belongs to this owner, else no row';
CREATE FUNCTION echocache_get_row(type anyelement, id bigint) RETURNS SETOF anyelement
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION echocache_get_row(anyelement, bigint) IS
    'the row with this id, as the document shows it (NULL::table names the table); no row if absent';
CREATE FUNCTION echocache_get_row(type anyelement, id bigint, owner text) RETURNS SETOF anyelement
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION echocache_get_row(anyelement, bigint, text) IS
    'the same if it belongs to this owner, else no row';
CREATE FUNCTION echocache_get_row(type anyelement, id bigint, owner uuid) RETURNS SETOF anyelement
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION echocache_get_row(anyelement, bigint, uuid) IS
    'the same if it belongs to this owner, else no row';
CREATE FUNCTION echocache_get_row(type anyelement, id bigint, owner bigint) RETURNS SETOF anyelement
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION echocache_get_row(anyelement, bigint, bigint) IS
    'the same if it belongs to this owner, else no row';

-- ---------------------------------------------------------------- touch, invalidate, reload

CREATE FUNCTION echocache_touch_session(id text, ttl interval = NULL) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_touch_session' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_touch_session(text, interval) IS
    'renew the lifetime of a cached session; false if it is not cached';
CREATE FUNCTION echocache_touch_session(id uuid, ttl interval = NULL) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_touch_session' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_touch_session(uuid, interval) IS
    'renew the lifetime of a cached session; false if it is not cached';
CREATE FUNCTION echocache_touch_session(id bigint, ttl interval = NULL) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_touch_session' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_touch_session(bigint, interval) IS
    'renew the lifetime of a cached session; false if it is not cached';
CREATE FUNCTION echocache_touch(name text, id text, ttl interval = NULL) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_touch' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_touch(text, text, interval) IS
    'renew the lifetime of a cached document; false if it is not cached';
CREATE FUNCTION echocache_touch(name text, id uuid, ttl interval = NULL) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_touch' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_touch(text, uuid, interval) IS
    'renew the lifetime of a cached document; false if it is not cached';
CREATE FUNCTION echocache_touch(name text, id bigint, ttl interval = NULL) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_touch' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_touch(text, bigint, interval) IS
    'renew the lifetime of a cached document; false if it is not cached';
CREATE FUNCTION echocache_invalidate_session(id text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_invalidate_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_invalidate_session(text) IS
    'take a session out of the cache; false if it was not cached';
CREATE FUNCTION echocache_invalidate_session(id uuid) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_invalidate_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_invalidate_session(uuid) IS
    'take a session out of the cache; false if it was not cached';
CREATE FUNCTION echocache_invalidate_session(id bigint) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_invalidate_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_invalidate_session(bigint) IS
    'take a session out of the cache; false if it was not cached';
CREATE FUNCTION echocache_invalidate(name text, id text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_invalidate' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_invalidate(text, text) IS
    'take a document out of the cache; false if it was not cached';
CREATE FUNCTION echocache_invalidate(name text, id uuid) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_invalidate' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_invalidate(text, uuid) IS
    'take a document out of the cache; false if it was not cached';
CREATE FUNCTION echocache_invalidate(name text, id bigint) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_invalidate' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_invalidate(text, bigint) IS
    'take a document out of the cache; false if it was not cached';
CREATE FUNCTION echocache_refresh_session(id text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_refresh_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_refresh_session(text) IS
    'load a session from its row into the cache; false if it is not there now';
CREATE FUNCTION echocache_refresh_session(id uuid) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_refresh_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_refresh_session(uuid) IS
    'load a session from its row into the cache; false if it is not there now';
CREATE FUNCTION echocache_refresh_session(id bigint) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_refresh_session' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_refresh_session(bigint) IS
    'load a session from its row into the cache; false if it is not there now';
CREATE FUNCTION echocache_refresh(name text, id text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_refresh' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_refresh(text, text) IS
    'load a document from its row into the cache; false if it is not there now';
CREATE FUNCTION echocache_refresh(name text, id uuid) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_refresh' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_refresh(text, uuid) IS
    'load a document from its row into the cache; false if it is not there now';
CREATE FUNCTION echocache_refresh(name text, id bigint) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_refresh' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_refresh(text, bigint) IS
    'load a document from its row into the cache; false if it is not there now';

-- ---------------------------------------------------------------- all documents of a name

CREATE FUNCTION echocache_warm(name text, max bigint = NULL) RETURNS bigint
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION echocache_warm(text, bigint) IS
    'load the documents of that name into the cache, in the order of their keys; returns how many were stored';

CREATE FUNCTION echocache_purge(name text) RETURNS bigint
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION echocache_purge(text) IS
    'invalidate all documents of that name on every server, at once; returns how many keys there were';

CREATE FUNCTION echocache_verify(name text, sample bigint = NULL, keys boolean = false)
    RETURNS TABLE (checked bigint, cached bigint, matching bigint, stale bigint, "foreign" bigint, busy bigint,
                   invalidated bigint, keys text[])
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION echocache_verify(text, bigint, boolean) IS
    'compare the cached documents of that name, or a sample of them, to their rows, and invalidate what is wrong';

-- ---------------------------------------------------------------- key/value client
--
-- For what is no document.  Not transactional: what was sent has happened, whatever becomes of the
-- transaction.  Those whose last argument may be NULL (no expiry) are not STRICT; a key or value that
-- is NULL gives NULL from them as well.

CREATE FUNCTION echocache_kv_get(key text) RETURNS text
    AS 'MODULE_PATHNAME', 'echocache_kv_get' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_get(text) IS
    'the value of a key of memcached as text; NULL if absent; not transactional';
CREATE FUNCTION echocache_kv_get_bytea(key text) RETURNS bytea
    AS 'MODULE_PATHNAME', 'echocache_kv_get_bytea' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_get_bytea(text) IS
    'the value of a key of memcached; NULL if absent; not transactional';
CREATE FUNCTION echocache_kv_gets(key text) RETURNS TABLE (value text, cas bigint)
    AS 'MODULE_PATHNAME', 'echocache_kv_gets' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION echocache_kv_gets(text) IS
    'the value of a key and its token for echocache_kv_cas(); no row if absent; not transactional';
CREATE FUNCTION echocache_kv_gets_bytea(key text) RETURNS TABLE (value bytea, cas bigint)
    AS 'MODULE_PATHNAME', 'echocache_kv_gets_bytea' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION echocache_kv_gets_bytea(text) IS
    'the value of a key and its token for echocache_kv_cas(); no row if absent; not transactional';
CREATE FUNCTION echocache_kv_get_multi(keys text[]) RETURNS TABLE (key text, value text, cas bigint)
    AS 'MODULE_PATHNAME', 'echocache_kv_get_multi' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_kv_get_multi(text[]) IS
    'the values of many keys, in the order asked; those that are absent are left out; not transactional';
CREATE FUNCTION echocache_kv_get_multi_bytea(keys text[]) RETURNS TABLE (key text, value bytea, cas bigint)
    AS 'MODULE_PATHNAME', 'echocache_kv_get_multi_bytea' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_kv_get_multi_bytea(text[]) IS
    'the values of many keys, in the order asked; those that are absent are left out; not transactional';
CREATE FUNCTION echocache_kv_set(key text, value text, ttl interval = NULL) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_set' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_set(text, text, interval) IS
    'store a value, whatever is there; returns true; not transactional';
CREATE FUNCTION echocache_kv_set(key text, value text, ttl text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_set' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_set(text, text, text) IS
    'store a value, whatever is there; returns true; not transactional';
CREATE FUNCTION echocache_kv_set(key text, value text, expires timestamptz) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_set' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_set(text, text, timestamptz) IS
    'store a value, whatever is there; returns true; not transactional';
CREATE FUNCTION echocache_kv_set(key text, value bytea, ttl interval = NULL) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_set' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_set(text, bytea, interval) IS
    'store a value, whatever is there; returns true; not transactional';
CREATE FUNCTION echocache_kv_set(key text, value bytea, ttl text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_set' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_set(text, bytea, text) IS
    'store a value, whatever is there; returns true; not transactional';
CREATE FUNCTION echocache_kv_set(key text, value bytea, expires timestamptz) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_set' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_set(text, bytea, timestamptz) IS
    'store a value, whatever is there; returns true; not transactional';
CREATE FUNCTION echocache_kv_add(key text, value text, ttl interval = NULL) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_add' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_add(text, text, interval) IS
    'store a value if the key is absent; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_add(key text, value text, ttl text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_add' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_add(text, text, text) IS
    'store a value if the key is absent; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_add(key text, value text, expires timestamptz) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_add' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_add(text, text, timestamptz) IS
    'store a value if the key is absent; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_add(key text, value bytea, ttl interval = NULL) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_add' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_add(text, bytea, interval) IS
    'store a value if the key is absent; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_add(key text, value bytea, ttl text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_add' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_add(text, bytea, text) IS
    'store a value if the key is absent; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_add(key text, value bytea, expires timestamptz) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_add' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_add(text, bytea, timestamptz) IS
    'store a value if the key is absent; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_replace(key text, value text, ttl interval = NULL) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_replace' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_replace(text, text, interval) IS
    'store a value if the key is present; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_replace(key text, value text, ttl text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_replace' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_replace(text, text, text) IS
    'store a value if the key is present; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_replace(key text, value text, expires timestamptz) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_replace' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_replace(text, text, timestamptz) IS
    'store a value if the key is present; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_replace(key text, value bytea, ttl interval = NULL) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_replace' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_replace(text, bytea, interval) IS
    'store a value if the key is present; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_replace(key text, value bytea, ttl text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_replace' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_replace(text, bytea, text) IS
    'store a value if the key is present; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_replace(key text, value bytea, expires timestamptz) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_replace' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_replace(text, bytea, timestamptz) IS
    'store a value if the key is present; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_append(key text, value text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_append' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_append(text, text) IS
    'put something after the value of a key; false if absent; not transactional';
CREATE FUNCTION echocache_kv_append(key text, value bytea) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_append' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_append(text, bytea) IS
    'put something after the value of a key; false if absent; not transactional';
CREATE FUNCTION echocache_kv_prepend(key text, value text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_prepend' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_prepend(text, text) IS
    'put something before the value of a key; false if absent; not transactional';
CREATE FUNCTION echocache_kv_prepend(key text, value bytea) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_prepend' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_prepend(text, bytea) IS
    'put something before the value of a key; false if absent; not transactional';
CREATE FUNCTION echocache_kv_cas(key text, value text, cas bigint, ttl interval = NULL) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_cas' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_cas(text, text, bigint, interval) IS
    'store a value if the key still has this token; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_cas(key text, value text, cas bigint, ttl text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_cas' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_cas(text, text, bigint, text) IS
    'store a value if the key still has this token; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_cas(key text, value text, cas bigint, expires timestamptz) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_cas' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_cas(text, text, bigint, timestamptz) IS
    'store a value if the key still has this token; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_cas(key text, value bytea, cas bigint, ttl interval = NULL) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_cas' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_cas(text, bytea, bigint, interval) IS
    'store a value if the key still has this token; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_cas(key text, value bytea, cas bigint, ttl text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_cas' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_cas(text, bytea, bigint, text) IS
    'store a value if the key still has this token; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_cas(key text, value bytea, cas bigint, expires timestamptz) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_cas' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_cas(text, bytea, bigint, timestamptz) IS
    'store a value if the key still has this token; was it stored?; not transactional';
CREATE FUNCTION echocache_kv_touch(key text, ttl interval) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_touch' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_touch(text, interval) IS
    'give a key another lifetime; false if absent; not transactional';
CREATE FUNCTION echocache_kv_touch(key text, ttl text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_touch' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_touch(text, text) IS
    'give a key another lifetime; false if absent; not transactional';
CREATE FUNCTION echocache_kv_touch(key text, expires timestamptz) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_touch' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_touch(text, timestamptz) IS
    'give a key another lifetime; false if absent; not transactional';
CREATE FUNCTION echocache_kv_get_and_touch(key text, ttl interval) RETURNS text
    AS 'MODULE_PATHNAME', 'echocache_kv_get_and_touch' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_get_and_touch(text, interval) IS
    'the value of a key, which gets another lifetime; NULL if absent; not transactional';
CREATE FUNCTION echocache_kv_get_and_touch(key text, ttl text) RETURNS text
    AS 'MODULE_PATHNAME', 'echocache_kv_get_and_touch' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_get_and_touch(text, text) IS
    'the value of a key, which gets another lifetime; NULL if absent; not transactional';
CREATE FUNCTION echocache_kv_get_and_touch(key text, expires timestamptz) RETURNS text
    AS 'MODULE_PATHNAME', 'echocache_kv_get_and_touch' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_get_and_touch(text, timestamptz) IS
    'the value of a key, which gets another lifetime; NULL if absent; not transactional';
CREATE FUNCTION echocache_kv_get_and_touch_bytea(key text, ttl interval) RETURNS bytea
    AS 'MODULE_PATHNAME', 'echocache_kv_get_and_touch_bytea' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_get_and_touch_bytea(text, interval) IS
    'the value of a key, which gets another lifetime; NULL if absent; not transactional';
CREATE FUNCTION echocache_kv_get_and_touch_bytea(key text, ttl text) RETURNS bytea
    AS 'MODULE_PATHNAME', 'echocache_kv_get_and_touch_bytea' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_get_and_touch_bytea(text, text) IS
    'the value of a key, which gets another lifetime; NULL if absent; not transactional';
CREATE FUNCTION echocache_kv_get_and_touch_bytea(key text, expires timestamptz) RETURNS bytea
    AS 'MODULE_PATHNAME', 'echocache_kv_get_and_touch_bytea' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_get_and_touch_bytea(text, timestamptz) IS
    'the value of a key, which gets another lifetime; NULL if absent; not transactional';
CREATE FUNCTION echocache_kv_delete(key text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_kv_delete' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_delete(text) IS
    'remove a key; was it there?; not transactional';
CREATE FUNCTION echocache_kv_incr(key text, delta bigint = 1) RETURNS bigint
    AS 'MODULE_PATHNAME', 'echocache_kv_incr' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_incr(text, bigint) IS
    'add to the number that the value of a key is; returns the new one, NULL if absent; not transactional';
CREATE FUNCTION echocache_kv_decr(key text, delta bigint = 1) RETURNS bigint
    AS 'MODULE_PATHNAME', 'echocache_kv_decr' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_kv_decr(text, bigint) IS
    'subtract from the number that the value of a key is, down to 0; returns the new one, NULL if absent; not transactional';
CREATE FUNCTION echocache_kv_stats() RETURNS TABLE (server text, name text, value text)
    AS 'MODULE_PATHNAME', 'echocache_kv_stats' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION echocache_kv_stats() IS
    'what every memcached that answers says of itself';
CREATE FUNCTION echocache_flush_all() RETURNS integer
    AS 'MODULE_PATHNAME', 'echocache_flush_all' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_flush_all() IS
    'have every memcached forget all it holds, documents included; returns how many did; not transactional';

-- ---------------------------------------------------------------- the cache itself

CREATE FUNCTION echocache_is_available() RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_is_available() IS 'is the cache enabled, and at least one server UP?';

CREATE FUNCTION echocache_health(OUT server text, OUT state text, OUT test_set boolean, OUT test_get boolean,
                                 OUT test_delete boolean, OUT milliseconds double precision, OUT error text)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_health() IS 'set, get and delete a key of its own on every server, now';

CREATE FUNCTION echocache_connect() RETURNS integer
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_connect() IS 'connect this session to the servers that are not DOWN; returns to how many';

CREATE FUNCTION echocache_disconnect() RETURNS integer
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_disconnect() IS 'close this session''s connections; returns how many there were';

CREATE FUNCTION echocache_stats_reset() RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_stats_reset() IS 'set the counters of echocache_stats and echocache_latency to zero';

CREATE FUNCTION echocache.servers(OUT server text, OUT weight integer, OUT state text, OUT since timestamptz,
                                  OUT connections integer, OUT kept integer, OUT last_error text,
                                  OUT last_error_at timestamptz)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'echocache_servers_internal' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache.servers() IS 'behind the view echocache_servers';

CREATE VIEW echocache_servers AS
    SELECT s.*, o.waiting, o.waiting_since
    FROM echocache.servers() s
    CROSS JOIN LATERAL (SELECT pg_catalog.count(*) AS waiting, pg_catalog.min(since) AS waiting_since
                        FROM echocache.outbox
                        WHERE outbox.server OPERATOR(pg_catalog.=) s.server) o;
COMMENT ON VIEW echocache_servers IS 'the memcached servers, as this database sees them';

-- The order of the counters is that of EcCounter in src/shmem.h.
CREATE FUNCTION echocache.stats(OUT relation oid, OUT hits bigint, OUT local_hits bigint, OUT misses bigint,
                                OUT bypass_disabled bigint,
                                OUT bypass_server bigint, OUT bypass_isolation bigint, OUT bypass_own_change bigint,
                                OUT bypass_row_security bigint, OUT bypass_key bigint, OUT bypass_owner bigint,
                                OUT fills bigint, OUT fills_refused bigint, OUT write_throughs bigint,
                                OUT invalidations bigint, OUT markers bigint, OUT errors bigint, OUT timeouts bigint,
                                OUT foreign_hits bigint, OUT builds bigint, OUT build_errors bigint,
                                OUT builds_dropped bigint, OUT local_evictions bigint, OUT audited bigint,
                                OUT audit_stale bigint, OUT audit_foreign bigint, OUT builds_waiting bigint,
                                OUT stats_reset timestamptz)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'echocache_stats_internal' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache.stats() IS 'behind the view echocache_stats';

CREATE FUNCTION echocache.latency(OUT relation oid, OUT kind text, OUT count bigint, OUT p50 double precision,
                                  OUT p95 double precision, OUT p99 double precision, OUT p999 double precision,
                                  OUT max double precision, OUT since timestamptz)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'echocache_latency_internal' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache.latency() IS 'behind the view echocache_latency';

CREATE FUNCTION echocache.latency_buckets(OUT relation oid, OUT kind text, OUT le double precision, OUT count bigint,
                                          OUT sum double precision)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'echocache_latency_buckets_internal' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache.latency_buckets() IS 'behind the view echocache_latency_buckets';

CREATE FUNCTION echocache.memory(OUT relation oid, OUT size bigint, OUT used bigint, OUT entries bigint, OUT evictions bigint)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'echocache_memory_internal' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache.memory() IS 'behind the view echocache_memory';

CREATE FUNCTION echocache.warming(OUT relation oid, OUT warm_pid integer, OUT warm_started timestamptz,
                                  OUT warm_total bigint, OUT warm_done bigint, OUT warm_stored bigint)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'echocache_warming_internal' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache.warming() IS 'behind the view echocache_documents';

CREATE FUNCTION echocache.suspended(name text) RETURNS text
    AS 'MODULE_PATHNAME', 'echocache_suspended_internal' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION echocache.suspended(text) IS 'behind the view echocache_documents';

CREATE VIEW echocache_documents AS
    SELECT d.name, d.relation, d.key_column, d.owner_column, d.filter, d.exclude,
           pg_catalog.make_interval(secs => d.ttl) AS ttl, d.policy, d.document, d.touch_on_read,
           (SELECT pg_catalog.array_agg(x.relation ORDER BY x.relation::pg_catalog.text)
            FROM (SELECT DISTINCT relation FROM echocache.dependent
                  WHERE dependent.document OPERATOR(pg_catalog.=) d.name) x) AS dependents,
           echocache.suspended(d.name) AS suspended, w.warm_pid, w.warm_started, w.warm_total, w.warm_done, w.warm_stored
    FROM echocache.document d LEFT JOIN echocache.warming() w
         ON w.relation OPERATOR(pg_catalog.=) d.relation::pg_catalog.oid;
COMMENT ON VIEW echocache_documents IS 'the attached tables';

CREATE VIEW echocache_stats AS
    SELECT d.name, s.hits, s.local_hits, s.misses, s.bypass_disabled, s.bypass_server, s.bypass_isolation,
           s.bypass_own_change, s.bypass_row_security, s.bypass_key, s.bypass_owner, s.fills,
           s.fills_refused, s.write_throughs, s.invalidations, s.markers, s.errors, s.timeouts,
           s.foreign_hits, s.builds, s.build_errors, s.builds_dropped,
           s.local_evictions, s.audited, s.audit_stale, s.audit_foreign, s.builds_waiting, s.stats_reset
    FROM echocache.document d JOIN echocache.stats() s
         ON s.relation OPERATOR(pg_catalog.=) d.relation::pg_catalog.oid;
COMMENT ON VIEW echocache_stats IS 'what has happened to each document since stats_reset';

CREATE VIEW echocache_latency AS
    SELECT d.name, l.kind, l.count, l.p50, l.p95, l.p99, l.p999, l.max, l.since
    FROM echocache.document d JOIN echocache.latency() l
         ON l.relation OPERATOR(pg_catalog.=) d.relation::pg_catalog.oid;
COMMENT ON VIEW echocache_latency IS
    'how long reads and commits take, in milliseconds; of reads that shared memory answers, one in 16 is timed';

CREATE VIEW echocache_latency_buckets AS
    SELECT d.name, l.kind, l.le, l.count, l.sum
    FROM echocache.document d JOIN echocache.latency_buckets() l
         ON l.relation OPERATOR(pg_catalog.=) d.relation::pg_catalog.oid;
COMMENT ON VIEW echocache_latency_buckets IS
    'how many reads and commits took up to le seconds, and the sum of all; of reads that shared memory answers, one in 16 is timed';

CREATE VIEW echocache_memory AS
    SELECT d.name, m.size, m.used, m.entries, m.evictions
    FROM echocache.memory() m LEFT JOIN echocache.document d ON m.relation OPERATOR(pg_catalog.=) d.relation::pg_catalog.oid
    WHERE m.relation IS NULL OR d.name IS NOT NULL;
COMMENT ON VIEW echocache_memory IS 'the documents in shared memory: in all, without a name, and of each attachment';

-- ---------------------------------------------------------------- the report

-- Operators and functions are those of pg_catalog, whatever the caller's search_path.
CREATE FUNCTION echocache_report() RETURNS text
    LANGUAGE sql VOLATILE STRICT PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
AS $report$
    WITH setting AS (
        SELECT coalesce(max(setting) FILTER (WHERE name = 'echocache.enabled'), 'off') = 'on' AS enabled,
               max(setting) FILTER (WHERE name = 'echocache.timeout')::numeric AS timeout,
               max(setting) FILTER (WHERE name = 'echocache.commit_timeout')::numeric AS commit_timeout,
               max(setting) FILTER (WHERE name = 'echocache.max_write_through')::numeric AS written,
               max(setting) FILTER (WHERE name = 'max_locks_per_transaction')::numeric AS locks,
               max(setting) FILTER (WHERE name = 'max_worker_processes')::integer AS workers,
               max(setting) FILTER (WHERE name = 'echocache.audit_rate')::integer AS audit_rate,
               coalesce(max(setting) FILTER (WHERE name = 'echocache.username'), '') <> ''
                   AND coalesce(max(setting) FILTER (WHERE name = 'echocache.tls'), '') = 'off'
                   AND EXISTS (SELECT FROM unnest(string_to_array(max(setting) FILTER (WHERE name = 'echocache.hosts'), ',')) h
                               WHERE trim(h) !~ '^(/|localhost(:|$)|127\.|\[::1\])') AS clear_text
        FROM pg_settings
    ), document AS (
        SELECT d.name, d.relation, d.suspended, s.hits, s.local_hits, s.misses, s.build_errors, s.audited, s.audit_stale,
               s.audit_foreign, s.local_hits + s.hits AS answered,
               s.local_hits + s.hits + s.misses + s.bypass_disabled + s.bypass_server + s.bypass_isolation
                   + s.bypass_own_change + s.bypass_row_security + s.bypass_key + s.bypass_owner AS reads,
               (SELECT string_agg(format('%s %s', label, count), ', ' ORDER BY count DESC)
                FROM (VALUES ('misses', s.misses), ('bypass_disabled', s.bypass_disabled), ('bypass_server', s.bypass_server),
                             ('bypass_isolation', s.bypass_isolation), ('bypass_own_change', s.bypass_own_change),
                             ('bypass_row_security', s.bypass_row_security), ('bypass_key', s.bypass_key),
                             ('bypass_owner', s.bypass_owner)) v (label, count) WHERE count > 0) AS others,
               (SELECT count(*) FROM pg_partition_tree(d.relation) WHERE isleaf) AS leaves
        FROM @extschema@.echocache_documents d LEFT JOIN @extschema@.echocache_stats s ON s.name = d.name
    ), slowest AS (
        SELECT DISTINCT ON (kind) kind, name, count, p50, p99, max
        FROM @extschema@.echocache_latency WHERE count > 0 ORDER BY kind, p99 DESC, name
    ), line (part, at, told, todo) AS (
        -- todo: something is to be done about it, and what
        SELECT 1, '', 'The cache is off: echocache.enabled.',
               'ALTER SYSTEM SET echocache.enabled = on; SELECT pg_reload_conf();'
        FROM setting WHERE NOT enabled
        UNION ALL
        SELECT 1, '', 'No table is attached.', 'SELECT echocache_attach(''table'', ''name''); README.md has an example.'
        WHERE NOT EXISTS (SELECT FROM document)
        UNION ALL
        SELECT 1, name, format('%s: not cached, since %s', name, suspended),
               'Mend that: until then all reads go to the table. (failures.md)'
        FROM document WHERE suspended IS NOT NULL
        UNION ALL
        SELECT 1, name, format('%s: %s', name, CASE WHEN coalesce(reads, 0) = 0 THEN 'no reads by SQL yet'
                   ELSE format('%s %% of %s reads by SQL answered by the cache (shared memory %s %%, memcached %s %%)',
                               round(100.0 * answered / reads, 1), to_char(reads, 'FM999,999,999,999,999'),
                               round(100.0 * local_hits / reads, 1), round(100.0 * hits / reads, 1)) END),
               CASE WHEN reads >= 1000 AND answered < reads / 2
                   THEN format('The others, by reason: %s. monitoring.md says what each means.', others) END
        FROM document WHERE suspended IS NULL
        UNION ALL
        SELECT 1, name, format('%s: %s documents could not be built', name, build_errors),
               'The server''s log has the error of its function.'
        FROM document WHERE build_errors > 0
        UNION ALL
        SELECT 2, server, format('%s: %s since %s%s%s', server, state, date_trunc('second', since),
                   CASE WHEN state <> 'UP' THEN ', ' || coalesce(last_error, 'no reason known') ELSE '' END,
                   CASE WHEN waiting > 0 THEN format('; %s entries in the outbox', waiting) ELSE '' END),
               CASE state WHEN 'DOWN' THEN 'Its documents are read from the table. Does memcached run there, and can this machine reach it? (failures.md)'
                   WHEN 'RECOVERING' THEN 'Its documents are read from the table until what it waits for is over. (monitoring.md)' END
        FROM @extschema@.echocache_servers
        UNION ALL
        SELECT 3, kind, format('%s: half within %s ms, 99 %% within %s ms, at most %s ms; %s timed (%s of %s)',
                   CASE kind WHEN 'hit' THEN 'reads answered by memcached' WHEN 'local_hit' THEN 'reads answered by shared memory'
                       WHEN 'fill' THEN 'reads of the table' WHEN 'marker' THEN 'commits that invalidate'
                       WHEN 'store' THEN 'commits that store, afterwards' ELSE kind END,
                   round(p50::numeric, 4), round(p99::numeric, 4), round(max::numeric, 4), to_char(count, 'FM999,999,999,999,999'), kind, name),
               CASE WHEN kind = 'hit' AND p99 > timeout THEN format('echocache.timeout is %s ms: slow answers are not waited for. Find out what is slow, or raise it.', timeout)
                   WHEN kind = 'marker' AND p99 > commit_timeout THEN format('echocache.commit_timeout is %s ms: a commit that waits longer takes the server for DOWN. Find out what is slow, or raise it.', commit_timeout) END
        FROM slowest, setting
        UNION ALL
        SELECT 4, '', CASE WHEN audit_rate = 0 THEN 'The auditor is off: echocache.audit_rate is 0.'
                   WHEN sum(audited) > 0 THEN format('%s documents compared to their rows: %s',
                       to_char(sum(audited), 'FM999,999,999,999,999'), CASE WHEN sum(audit_stale + audit_foreign) > 0
                           THEN format('%s were stale, %s foreign', sum(audit_stale), sum(audit_foreign)) ELSE 'none was wrong' END)
                   ELSE 'No document was compared to its row yet.' END,
               CASE WHEN sum(audit_stale + audit_foreign) > 0
                   THEN 'They were invalidated, and are in the server''s log by key. (failures.md, "When the auditor finds something")' END
        FROM document, setting GROUP BY audit_rate
        UNION ALL
        SELECT 5, '', format('shared memory: %s of %s used by %s documents', pg_size_pretty(used), pg_size_pretty(size), entries),
               CASE WHEN evictions > (SELECT sum(misses + hits) / 2 FROM document) AND evictions > 1000
                   THEN format('%s documents had to go: raise echocache.local_memory. (monitoring.md, "What size to choose")', evictions) END
        FROM @extschema@.echocache_memory WHERE name IS NULL AND size > 0
        UNION ALL
        SELECT 6, '', format('max_worker_processes is %s, and no worker of echocache is in this database', workers),
               'Raise it, and restart: without a worker nothing is cached. (configuration.md)'
        FROM setting WHERE enabled AND NOT pg_is_in_recovery() AND EXISTS (SELECT FROM document)
            AND NOT EXISTS (SELECT FROM pg_stat_activity
                            WHERE backend_type = 'echocache worker' AND datname = current_database())
        UNION ALL
        SELECT 6, '', format('max_locks_per_transaction is %s, echocache.max_write_through %s', locks, written),
               'A commit may lock so many documents: raise the former, or lower the latter. (configuration.md)'
        FROM setting WHERE written > locks
        UNION ALL
        SELECT 6, name, format('max_locks_per_transaction is %s, and %s has %s partitions', locks, relation, leaves),
               'A read that misses may lock each of them: raise it. (configuration.md)'
        FROM document, setting WHERE leaves > locks
        UNION ALL
        SELECT 6, '', 'The password for memcached goes over the network in clear text.',
               'Turn echocache.tls on. (security.md)'
        FROM setting WHERE clear_text
    ), part (part, title) AS (
        VALUES (1, 'Documents'), (2, 'Servers'), (3, 'Slowest waits'), (4, 'Auditor'), (5, 'Memory'), (6, 'Settings')
    ), count AS (
        SELECT count(*) AS n FROM line WHERE todo IS NOT NULL
    )
    SELECT format(E'echocache %s, database "%s"%s, %s\n%s\n%s', extversion, current_database(),
                  CASE WHEN pg_is_in_recovery() THEN ' (a standby)' ELSE '' END,
                  date_trunc('second', clock_timestamp()),
                  CASE n WHEN 0 THEN 'All is well.' WHEN 1 THEN 'One thing is to be looked at: it has a "!".'
                      ELSE format('%s things are to be looked at: each has a "!".', n) END,
                  (SELECT string_agg(format(E'\n%s\n%s', title, lines), '' ORDER BY part)
                   FROM (SELECT part, string_agg(format(E'%s %s\n%s', CASE WHEN todo IS NULL THEN ' ' ELSE '!' END, told,
                                                        '    -> ' || todo || E'\n'), '' ORDER BY at, told) AS lines
                         FROM line GROUP BY part) l JOIN part USING (part)))
    FROM pg_extension, count WHERE extname = 'echocache'
$report$;
COMMENT ON FUNCTION echocache_report() IS
    'what is attached, whether it is cached and why not, servers, waits, and what to do about each; for a person';

-- ---------------------------------------------------------------- privileges

REVOKE ALL ON FUNCTION echocache_report(), echocache_health(), echocache_connect(), echocache_disconnect(), echocache_stats_reset(),
    echocache.servers(), echocache.stats(), echocache.latency(), echocache.latency_buckets(), echocache.memory(),
    echocache.document_trigger(), echocache.replication_trigger() FROM PUBLIC;
REVOKE ALL ON FUNCTION echocache_warm(text, bigint), echocache_purge(text), echocache_verify(text, bigint, boolean),
    echocache.warming(), echocache.suspended(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION
    echocache_kv_get(text), echocache_kv_get_bytea(text), echocache_kv_gets(text),
    echocache_kv_gets_bytea(text), echocache_kv_get_multi(text[]), echocache_kv_get_multi_bytea(text[]),
    echocache_kv_set(text, text, interval), echocache_kv_set(text, text, text),
    echocache_kv_set(text, text, timestamptz), echocache_kv_set(text, bytea, interval),
    echocache_kv_set(text, bytea, text), echocache_kv_set(text, bytea, timestamptz),
    echocache_kv_add(text, text, interval), echocache_kv_add(text, text, text),
    echocache_kv_add(text, text, timestamptz), echocache_kv_add(text, bytea, interval),
    echocache_kv_add(text, bytea, text), echocache_kv_add(text, bytea, timestamptz),
    echocache_kv_replace(text, text, interval), echocache_kv_replace(text, text, text),
    echocache_kv_replace(text, text, timestamptz), echocache_kv_replace(text, bytea, interval),
    echocache_kv_replace(text, bytea, text), echocache_kv_replace(text, bytea, timestamptz),
    echocache_kv_append(text, text), echocache_kv_append(text, bytea), echocache_kv_prepend(text, text),
    echocache_kv_prepend(text, bytea), echocache_kv_cas(text, text, bigint, interval),
    echocache_kv_cas(text, text, bigint, text), echocache_kv_cas(text, text, bigint, timestamptz),
    echocache_kv_cas(text, bytea, bigint, interval), echocache_kv_cas(text, bytea, bigint, text),
    echocache_kv_cas(text, bytea, bigint, timestamptz), echocache_kv_touch(text, interval),
    echocache_kv_touch(text, text), echocache_kv_touch(text, timestamptz),
    echocache_kv_get_and_touch(text, interval), echocache_kv_get_and_touch(text, text),
    echocache_kv_get_and_touch(text, timestamptz), echocache_kv_get_and_touch_bytea(text, interval),
    echocache_kv_get_and_touch_bytea(text, text), echocache_kv_get_and_touch_bytea(text, timestamptz),
    echocache_kv_delete(text), echocache_kv_incr(text, bigint), echocache_kv_decr(text, bigint),
    echocache_kv_stats(), echocache_flush_all() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION echocache_report(), echocache_health(), echocache.servers(), echocache.stats(), echocache.latency(),
    echocache.latency_buckets(), echocache.memory() TO pg_monitor;
GRANT EXECUTE ON FUNCTION echocache.warming(), echocache.suspended(text) TO pg_monitor;
GRANT USAGE ON SCHEMA echocache TO pg_monitor;
GRANT SELECT ON echocache_documents, echocache_servers, echocache_stats, echocache_latency, echocache_latency_buckets,
    echocache_memory TO pg_monitor;
