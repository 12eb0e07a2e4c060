#!/bin/bash
#
# run.sh [SECONDS]
#	  The concurrent checker against a running cluster, and the proof that its
#	  verdict means something: the same run against naive triggers must fail,
#	  and without any cache it must not.
#
# The cluster is the one of libpq's environment (PGHOST, PGPORT, ..., a superuser) with
# echocache preloaded and enabled, its echocache.hosts the one memcached of
# MEMCACHED_HOST and MEMCACHED_PORT, which must be ours alone: it is flushed between runs.
# The naive triggers need pgmemcache (Debian: postgresql-15-pgmemcache).
#
#   COHERENCE_SEED    the seed (default: the time)
#   COHERENCE_MODES   which runs (default: all, "echocache uncached naive-set naive-delete")
#   BUILD             where the checker is built (default: test/build)
#
# Prints TAP; exit status 1 if a test failed.
#
# Copyright (c) 2026, echocache developers

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
seconds=${1:-10}
seed=${COHERENCE_SEED:-$(date +%s)}
modes=${COHERENCE_MODES:-echocache uncached naive-set naive-delete}
control_seconds=$((seconds < 4 ? seconds : 4))
export BUILD=${BUILD:-$here/../build}
export MEMCACHED_HOST=${MEMCACHED_HOST:-127.0.0.1} MEMCACHED_PORT=${MEMCACHED_PORT:-11211}
admin_db=${PGDATABASE:-postgres}
db=echocache_coherence
out=$(mktemp)
tests=0
failed=0

# shellcheck disable=SC2317 # called by trap
cleanup()
{
	rm -f "$out"
	drop_database
}

# sql DATABASE [psql argument...]
sql()
{
	psql -X -q -A -t -v ON_ERROR_STOP=1 -d "$@"
}

drop_database()
{
	sql "$admin_db" -c "SET client_min_messages = error" \
		-c "DROP DATABASE IF EXISTS $db WITH (FORCE)" >/dev/null
}

# ok CONDITION NAME: one line of TAP.
ok()
{
	tests=$((tests + 1))
	if [ "$1" = true ]; then
		echo "ok $tests - $2"
	else
		echo "not ok $tests - $2"
		failed=1
	fi
}

skip()
{
	tests=$((tests + 1))
	echo "ok $tests - $1 # SKIP $2"
}

# The figure NAME of the last run's JSON line; 0 if there is none.
figure()
{
	local n

	n=$(sed -n "1s/.*\"$1\":\([0-9]*\)[,.}].*/\1/p" "$out")
	echo "${n:-0}"
}

# more FIGURE THAN: true or false.
more()
{
	if [ "$(figure "$1")" -gt "$2" ]; then echo true; else echo false; fi
}

have_pgmemcache()
{
	[ "$(sql "$admin_db" -c "SELECT count(*) FROM pg_available_extensions
		WHERE name = 'pgmemcache'")" = 1 ]
}

flush_memcached()
{
	local reply

	exec 3<>"/dev/tcp/$MEMCACHED_HOST/$MEMCACHED_PORT"
	printf 'flush_all\r\n' >&3
	read -r reply <&3
	exec 3>&-
	[ "${reply%$'\r'}" = OK ]
}

# What both kinds of run work on.  version comes before body, whose text uses its number.
make_database()
{
	drop_database
	sql "$admin_db" -c "CREATE DATABASE $db"
	sql "$db" <<-'SQL'
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
	SQL
}

attach_echocache()
{
	sql "$db" <<-'SQL' >/dev/null || return 1
		CREATE EXTENSION echocache;
		SELECT echocache_attach('coherence.sessions', filter => 'NOT is_deleted',
		                        exclude => '{secret}');
	SQL
	# The worker has to find the new database and to purge what an earlier one has left.
	for _ in $(seq 100); do
		[ "$(sql "$db" -c "SELECT echocache_is_available()")" = t ] && return
		sleep 0.1
	done
	echo "# no server of echocache is UP after 10 s"
	return 1
}

# The triggers that everyone writes first.  naive-set stores the row when the
# statement runs, naive-delete removes the key then; readers fill by set.
attach_naive()
{
	sql "$db" -v servers="$MEMCACHED_HOST:$MEMCACHED_PORT" -v store="$([ "$1" = naive-set ] &&
		echo true || echo false)" <<-'SQL'
		CREATE EXTENSION pgmemcache;
		ALTER DATABASE :"DBNAME" SET pgmemcache.default_servers = :'servers';
		CREATE FUNCTION coherence.document(s coherence.sessions) RETURNS text LANGUAGE sql STABLE
		AS $$
		    SELECT row_to_json(d)::text
		    FROM (SELECT s.id, s.version, s.is_deleted, s.updated_at, s.body) d
		    WHERE NOT s.is_deleted
		$$;
		CREATE FUNCTION coherence.naive() RETURNS trigger LANGUAGE plpgsql AS $$
		DECLARE
		    document text;
		BEGIN
		    IF TG_OP <> 'INSERT' THEN
		        PERFORM memcache_delete('session:' || OLD.id);
		    END IF;
		    IF TG_OP <> 'DELETE' THEN
		        document := coherence.document(NEW);
		        IF TG_ARGV[0]::boolean AND document IS NOT NULL THEN
		            PERFORM memcache_set('session:' || NEW.id, document);
		        ELSE
		            PERFORM memcache_delete('session:' || NEW.id);
		        END IF;
		    END IF;
		    RETURN NULL;
		END $$;
		CREATE TRIGGER naive AFTER INSERT OR UPDATE OR DELETE ON coherence.sessions
		    FOR EACH ROW EXECUTE FUNCTION coherence.naive(:store);
		CREATE FUNCTION coherence.get(wanted bigint) RETURNS text LANGUAGE plpgsql AS $$
		DECLARE
		    document text := memcache_get('session:' || wanted);
		BEGIN
		    IF document IS NULL THEN
		        SELECT coherence.document(s) INTO document FROM coherence.sessions s
		        WHERE s.id = wanted;
		        IF document IS NOT NULL THEN
		            PERFORM memcache_set('session:' || wanted, document);
		        END IF;
		    END IF;
		    RETURN document;
		END $$;
	SQL
}

# No cache at all.
attach_nothing()
{
	sql "$db" <<-'SQL'
		CREATE FUNCTION coherence.get(wanted bigint) RETURNS json LANGUAGE sql AS $$
		    SELECT row_to_json(d)
		    FROM (SELECT id, version, is_deleted, updated_at, body FROM coherence.sessions) d
		    WHERE id = wanted AND NOT is_deleted
		$$;
	SQL
}

# check MODE SECONDS: run the checker; its report goes to the TAP stream as diagnostics.
# The status is the checker's: 0 nothing found, 1 something found, 2 could not tell.
check()
{
	local status=0

	PGDATABASE=$db "$BUILD/checker" --mode "$1" --seconds "$2" --seed "$seed" \
		>"$out" 2>&1 || status=$?
	sed 's/^/# /' "$out"
	return "$status"
}

make -s -C "$here"
trap cleanup EXIT
echo "TAP version 13"
for mode in $modes; do
	case $mode in
		echocache)
			make_database
			flush_memcached
			status=0
			if attach_echocache; then check "$mode" "$seconds" || status=$?; else status=2; fi
			ok "$([ "$status" = 0 ] && echo true || echo false)" \
				"echocache: ${seconds} s without a wrong answer, and right at rest (seed $seed)"
			# That would say little if nothing had happened.
			ok "$(more committed 100)" "echocache: transactions committed"
			ok "$(more rolled_back 10)" "echocache: transactions rolled back"
			ok "$(more savepoints_rolled_back 10)" "echocache: savepoints rolled back"
			ok "$(more plain_hits 100)" "echocache: plain clients got documents"
			ok "$(more sql_reads 100)" "echocache: SQL readers got answers"
			# A run may end with an empty table; what rows there are have been read.
			ok "$([ "$(figure cached_at_rest)" = "$(figure rows_at_rest)" ] && [ "$status" != 2 ] &&
				echo true || echo false)" "echocache: SQL reads have filled the cache at rest"
			;;
		uncached)
			make_database
			flush_memcached
			attach_nothing
			status=0
			check "$mode" "$control_seconds" || status=$?
			ok "$([ "$status" = 0 ] && echo true || echo false)" \
				"uncached: the checker finds nothing where nothing is wrong"
			;;
		naive-set | naive-delete)
			if ! have_pgmemcache; then
				skip "$mode: the checker finds what is wrong" "pgmemcache is not installed"
				continue
			fi
			make_database
			flush_memcached
			attach_naive "$mode"
			status=0
			check "$mode" "$control_seconds" || status=$?
			kind=$([ "$mode" = naive-set ] && echo dirty || echo stale)
			ok "$([ "$status" = 1 ] && more "$kind" 0 || echo false)" \
				"$mode: the checker finds what is wrong, $kind reads among it"
			;;
		*)
			ok false "$mode is a mode"
			;;
	esac
done
echo "1..$tests"
exit "$failed"
