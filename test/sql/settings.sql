--
-- Every setting: default, unit, bounds, context; malformed values are refused,
-- and the old value stays in force.
--
\set ECHO none
\set schema settings
\i test/sql/include/prelude.sql
-- The same for an error of PostgreSQL's own, whose words change between versions.
CREATE FUNCTION state(sql text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE sql;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END $$;

SELECT name, boot_val, unit, vartype, min_val, max_val, context FROM pg_settings
WHERE name LIKE 'echocache.%' AND name <> 'echocache.wait_point'	-- of test builds only
ORDER BY name COLLATE "C";
SELECT name, short_desc, extra_desc FROM pg_settings
WHERE name LIKE 'echocache.%' AND name <> 'echocache.wait_point' ORDER BY name COLLATE "C";
-- A name that is misspelt is not taken for somebody else's.
SELECT state('SET echocache.hots = 1') <> 'no error' AS misspelt_is_refused;

-- A value out of bounds, of the wrong unit or type.  ALTER SYSTEM takes no
-- transaction, so psql shows what it says.
\set VERBOSITY sqlstate
ALTER SYSTEM SET echocache.enabled = 'perhaps';
ALTER SYSTEM SET echocache.fallback = 'perhaps';
ALTER SYSTEM SET echocache.ttl = -1;
ALTER SYSTEM SET echocache.ttl = '1 kB';
ALTER SYSTEM SET echocache.pool_size = -1;
ALTER SYSTEM SET echocache.pool_size = 100001;
ALTER SYSTEM SET echocache.timeout = 0;
ALTER SYSTEM SET echocache.timeout = '61s';
ALTER SYSTEM SET echocache.retry_interval = '9ms';
ALTER SYSTEM SET echocache.retry_interval = '2h';
ALTER SYSTEM SET echocache.marker_ttl = 0;
ALTER SYSTEM SET echocache.marker_ttl = '2h';
ALTER SYSTEM SET echocache.fill_wait = -1;
ALTER SYSTEM SET echocache.fill_wait = '61s';
ALTER SYSTEM SET echocache.local_memory = -1;
ALTER SYSTEM SET echocache.local_memory = '257GB';
ALTER SYSTEM SET echocache.max_write_through = -1;
ALTER SYSTEM SET echocache.max_write_through = 10001;
ALTER SYSTEM SET echocache.tls = 'perhaps';
ALTER SYSTEM SET echocache.tls_verify = 'some';
ALTER SYSTEM SET echocache.username = 'a:b';
ALTER SYSTEM SET echocache.password = 'a b';
\set VERBOSITY default

-- No session may have a cache of its own.
SELECT name, state(format('SET %s = %L', name, setting)) FROM pg_settings
WHERE name LIKE 'echocache.%' AND context IN ('sighup', 'postmaster') ORDER BY name COLLATE "C";
-- Units are taken.
ALTER SYSTEM SET echocache.timeout = '1min';
ALTER SYSTEM RESET echocache.timeout;
ALTER SYSTEM SET echocache.ttl = '30d';
ALTER SYSTEM RESET echocache.ttl;

--
-- echocache.hosts
--
ALTER SYSTEM SET echocache.hosts = '';
ALTER SYSTEM SET echocache.hosts = 'a,,b';
ALTER SYSTEM SET echocache.hosts = 'a,';
ALTER SYSTEM SET echocache.hosts = ' , a';
ALTER SYSTEM SET echocache.hosts = 'a,b:0';
ALTER SYSTEM SET echocache.hosts = 'a:99999,b';
ALTER SYSTEM SET echocache.hosts = 'a:65536';
ALTER SYSTEM SET echocache.hosts = 'a:';
ALTER SYSTEM SET echocache.hosts = 'a:-1';
ALTER SYSTEM SET echocache.hosts = 'a:0x10';
ALTER SYSTEM SET echocache.hosts = 'a:11211x';
ALTER SYSTEM SET echocache.hosts = 'a: 11211';
ALTER SYSTEM SET echocache.hosts = 'a:11211:0';
ALTER SYSTEM SET echocache.hosts = 'a:11211:1001';
ALTER SYSTEM SET echocache.hosts = 'a:11211:';
ALTER SYSTEM SET echocache.hosts = 'a:11211:1:1';
ALTER SYSTEM SET echocache.hosts = 'a,[::1';
ALTER SYSTEM SET echocache.hosts = '[::1]11211';
ALTER SYSTEM SET echocache.hosts = '[]:11211';
ALTER SYSTEM SET echocache.hosts = '::1';
ALTER SYSTEM SET echocache.hosts = ':11211';
ALTER SYSTEM SET echocache.hosts = 'a b';
ALTER SYSTEM SET echocache.hosts = 'fe80::1';
ALTER SYSTEM SET echocache.hosts = 'a]:1';
ALTER SYSTEM SET echocache.hosts = 'run/memcached.sock';
ALTER SYSTEM SET echocache.hosts = './memcached.sock';
ALTER SYSTEM SET echocache.hosts = 'a:1,b:1, a:1';
ALTER SYSTEM SET echocache.hosts = 'a,a:11211:5';
ALTER SYSTEM SET echocache.hosts = '/run/m.sock,/run/m.sock';
SELECT string_agg('cache' || n, ',') AS many FROM generate_series(1, 64) n \gset
ALTER SYSTEM SET echocache.hosts = :'many';
ALTER SYSTEM RESET echocache.hosts;
SELECT string_agg('cache' || n, ',') AS many FROM generate_series(1, 65) n \gset
ALTER SYSTEM SET echocache.hosts = :'many';
SELECT repeat('h', 255) AS longest, repeat('h', 256) AS longer,
	'/' || repeat('s', 106) AS longest_path, '/' || repeat('s', 107) AS longer_path \gset
ALTER SYSTEM SET echocache.hosts = :'longest';
ALTER SYSTEM SET echocache.hosts = :'longer';
ALTER SYSTEM SET echocache.hosts = :'longest_path';
ALTER SYSTEM SET echocache.hosts = :'longer_path';
ALTER SYSTEM RESET echocache.hosts;
-- What is well formed.
ALTER SYSTEM SET echocache.hosts = 'localhost, 10.0.0.7:1,cache.example.org:65535:1000 ,[::1],[fe80::1]:11212:3,/run/memcached/memcached.sock';
ALTER SYSTEM RESET echocache.hosts;

-- A malformed list in the configuration file: the old one stays in force.
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
SELECT current_setting('echocache.hosts') AS hosts \gset
DO $$
BEGIN
	EXECUTE format('COPY (SELECT line FROM unnest(string_to_array(pg_read_file(%1$L), E''\n'')) AS line
						  WHERE line <> '''' UNION ALL VALUES (''echocache.hosts = ''''a,,b''''''),
																(''echocache.ttl = ''''1801s'''''')) TO %1$L',
				   current_setting('data_directory') || '/postgresql.auto.conf');
END $$;
SELECT setting, applied, error FROM pg_file_settings
WHERE name = 'echocache.hosts' AND sourcefile LIKE '%/postgresql.auto.conf';
SELECT pg_reload_conf();
\c -
SHOW echocache.ttl;		-- so the file has been read
SELECT current_setting('echocache.hosts') = :'hosts' AS old_list_in_force, echocache_is_available();
SELECT count(*), bool_and(state = 'UP') AS up FROM echocache_servers;
ALTER SYSTEM RESET echocache.hosts;
ALTER SYSTEM RESET echocache.ttl;
SELECT pg_reload_conf();
\c -
SET search_path = settings, public;
SHOW echocache.ttl;

--
-- echocache.key_prefix: one for a database, so not for a session to choose.
--
CALL fails($$SET echocache.key_prefix = 'mine:'$$);
CALL fails($$SET LOCAL echocache.key_prefix = 'mine:'$$);
CALL fails($$SELECT set_config('echocache.key_prefix', 'mine:', true)$$);
CALL fails($$CREATE FUNCTION prefixed() RETURNS int LANGUAGE sql SET echocache.key_prefix = 'mine:' AS 'SELECT 1'$$);
CALL fails(format('ALTER DATABASE %I SET echocache.key_prefix = %L', current_database(), 'with space'));
CALL fails(format('ALTER DATABASE %I SET echocache.key_prefix = %L', current_database(), 'per%cent'));
CALL fails(format('ALTER DATABASE %I SET echocache.key_prefix = %L', current_database(), E'control\x01'));
CALL fails(format('ALTER DATABASE %I SET echocache.key_prefix = %L', current_database(), 'é'));
CALL fails(format('ALTER DATABASE %I SET echocache.key_prefix = %L', current_database(), repeat('x', 65)));
-- in a database without a worker, which might take it up
SELECT current_database() AS here, repeat('x', 64) AS longest \gset
CREATE DATABASE settings_prefix TEMPLATE template0;
ALTER DATABASE settings_prefix SET echocache.key_prefix = :'longest';
\c settings_prefix
SHOW echocache.key_prefix;
ALTER DATABASE settings_prefix RESET echocache.key_prefix;
\c settings_prefix
SELECT current_setting('echocache.key_prefix') = :'longest' AS set;
\c :here
DROP DATABASE settings_prefix;
SET search_path = settings, public;
CREATE ROLE settings_user;
GRANT USAGE ON SCHEMA settings TO settings_user;
SET ROLE settings_user;
SELECT state($$SET echocache.key_prefix = 'mine:'$$);
RESET ROLE;
REVOKE USAGE ON SCHEMA settings FROM settings_user;
DROP ROLE settings_user;

SET client_min_messages = warning;
DROP SCHEMA settings CASCADE;
