--
-- The regression database has a prefix of its own, so that no other database has
-- documents with the same keys.  A backend knows it from its start.  To be included
-- with ECHO none; prelude.sql does so.
--
SELECT current_setting('echocache.key_prefix') <> 'regress.' AS unprefixed \gset
\if :unprefixed
DO $$ BEGIN
	EXECUTE format('ALTER DATABASE %I SET echocache.key_prefix = ''regress.''', current_database());
	PERFORM pg_reload_conf();
END $$;
\c -
\endif
