--
-- The chat product's sessions: run once, in POSTGRES_DB, when the cluster is made.
--
-- A session that is not deleted is in memcached under "session:<session_id>".
-- Through SQL, for its user and nobody else's:
--
--   SELECT echocache_get_session(session_id, user_id);
--
CREATE EXTENSION echocache;

CREATE TABLE chat_sessions (
	session_id	uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	user_id		uuid NOT NULL,
	messages	jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(messages) = 'array'),
	is_deleted	boolean NOT NULL DEFAULT false,
	created_at	timestamptz NOT NULL DEFAULT now(),
	updated_at	timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX chat_sessions_by_user ON chat_sessions (user_id, updated_at DESC)
	WHERE NOT is_deleted;

SELECT echocache_attach('chat_sessions',
						owner_column => 'user_id',
						filter => 'NOT is_deleted');
