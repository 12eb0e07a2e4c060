--
-- What the other files begin with.  They include it with ECHO none and with the
-- name of a schema of their own in the variable "schema".  psql reads them from its
-- standard input, so the path is relative to where pg_regress was started.
--
\i test/sql/include/prefix.sql
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS echocache;
RESET client_min_messages;
CREATE SCHEMA :schema;
SET search_path = :schema, public;

-- Run a statement that must fail: its SQLSTATE, message, detail and hint.
CREATE PROCEDURE fails(sql text) LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE sql;
	RAISE WARNING 'no error: %', sql;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RAISE NOTICE '%', concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM,
								'DETAIL:  ' || NULLIF(detail, ''), 'HINT:  ' || NULLIF(hint, ''));
END $$;

-- A server is UP soon after a start.
DO $$
BEGIN
	FOR i IN 1 .. 300 LOOP
		EXIT WHEN echocache_is_available();
		PERFORM pg_sleep(0.1);
	END LOOP;
	IF NOT echocache_is_available() THEN
		RAISE EXCEPTION 'the cache is not available';
	END IF;
END $$;

-- Wait until the builder is through with what commits have handed over to it.
CREATE FUNCTION await_builder() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM echocache_stats WHERE builds_waiting > 0);
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;

-- What has been counted for a document since the last call: all that is not 0.
CREATE FUNCTION counted(document text = 'session') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	PERFORM await_builder();
	SELECT string_agg(value || ' ' || key, ', ' ORDER BY key COLLATE "C") INTO result
	FROM echocache_stats s, jsonb_each_text(to_jsonb(s) - 'name' - 'stats_reset')
	WHERE name = document AND value <> '0';
	PERFORM echocache_stats_reset();
	RETURN COALESCE(result, 'nothing');
END $$;

-- What a plain client finds under a key, which has the database's prefix: the value, or
-- nothing.  A commit does not wait until its document has arrived, so a marker is given a moment.
CREATE FUNCTION plain(key text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	PERFORM await_builder();
	FOR i IN 1 .. 20 LOOP
		CREATE TEMP TABLE answer (line text);
		EXECUTE format($copy$ COPY answer FROM PROGRAM
			'bash -c "exec 3<>/dev/tcp/%s; printf ''get %s%s\r\nquit\r\n'' >&3; cat <&3"' $copy$,
			(SELECT regexp_replace(server, '^\[?(.*?)\]?:(\d+)$', '\1/\2') FROM echocache_servers), current_setting('echocache.key_prefix'), replace(key, '%', '%%'));
		SELECT COALESCE(string_agg(line, ' ') FILTER (WHERE line !~ '^(VALUE |END$)'), 'nothing') INTO result FROM answer;
		DROP TABLE answer;
		EXIT WHEN result <> 'null';
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN result;
END $$;
\set ECHO all
