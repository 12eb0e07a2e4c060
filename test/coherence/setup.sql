-- What the checker works on: sessions, of one row each, and threads with posts, made by a
-- function.  psql variable: register, an expression.  version comes before body, whose text uses its number.

CREATE SCHEMA coherence;
CREATE SEQUENCE coherence.version;
CREATE TABLE coherence.sessions (
    id bigint PRIMARY KEY,
    version bigint NOT NULL,
    is_deleted boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    secret text,
    body text NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE coherence.threads (
    id bigint PRIMARY KEY,
    version bigint NOT NULL,
    body text NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE coherence.posts (
    thread bigint,
    slot int,
    version bigint NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (thread, slot)
) WITH (fillfactor = 50);

-- The register of a thread (slot 0) or a post, see checker.h.
CREATE FUNCTION coherence.register(thread bigint, slot int) RETURNS bigint LANGUAGE sql IMMUTABLE
AS :'register';

CREATE FUNCTION coherence.session_document(s coherence.sessions) RETURNS json LANGUAGE sql STABLE
AS $$
    SELECT row_to_json(d)
    FROM (SELECT s.id, s.version, s.is_deleted, s.updated_at, s.body) d
    WHERE NOT s.is_deleted
$$;
CREATE FUNCTION coherence.thread_document(t coherence.threads) RETURNS json LANGUAGE sql STABLE
AS $$
    SELECT json_build_object('id', t.id, 'version', t.version, 'posts',
        (SELECT coalesce(string_agg(p.slot || ':' || p.version, ' ' ORDER BY p.slot), '')
         FROM coherence.posts p WHERE p.thread = t.id), 'body', t.body)
$$;
