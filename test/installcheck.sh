#!/usr/bin/env bash
#
# installcheck.sh [wait-points | isolation | tap]
#	  Is the server ready for `make installcheck`?  Says in one line what it needs, if not.
#
# The server is the one of PGHOST, PGPORT and PGUSER, or of --host, --port and --user in
# EXTRA_REGRESS_OPTS, as for pg_regress.  The Makefile runs this first.
#
#	wait-points	ask only whether the server was built with WAIT_POINTS=1: "yes", or nothing
#	isolation	wait points are needed, too
#	tap			ask only whether the TAP tests can run; they start servers of their own
#
# Copyright (c) 2026, echocache developers

set -euo pipefail

pg_config=${PG_CONFIG:-pg_config}
for option in ${EXTRA_REGRESS_OPTS:-}; do
	case $option in
		--host=*) export PGHOST=${option#*=} ;;
		--port=*) export PGPORT=${option#*=} ;;
		--user=*) export PGUSER=${option#*=} ;;
	esac
done

needs()
{
	echo "make installcheck needs $*" >&2
	exit 1
}

# The database is the one that pg_regress connects to first.
sql()
{
	"$("$pg_config" --bindir)/psql" -X -q -A -t -v ON_ERROR_STOP=1 -d postgres -c "$1"
}

# setting NAME: its value, or nothing if the server does not know it
setting()
{
	sql "SELECT current_setting('$1', true)"
}

case ${1:-} in
	wait-points)
		sql "SELECT 'yes' FROM pg_settings WHERE name = 'echocache.wait_point'" 2>/dev/null || true
		exit 0
		;;
	tap)
		[ "$(id -u)" != 0 ] || needs "a user other than root for the TAP tests, since they start servers"
		perl -I "$(dirname "$("$pg_config" --pgxs)")/../test/perl" -MPostgreSQL::Test::Cluster -e1 2>/dev/null ||
			needs "PostgreSQL::Test::Cluster and IPC::Run for the TAP tests (Debian: postgresql-server-dev, libipc-run-perl)"
		exit 0
		;;
esac

#
# The server.
#
if ! found=$(sql 'SELECT 1' 2>&1); then
	needs "a running server, named by PGHOST, PGPORT and PGUSER: ${found%%$'\n'*}"
fi
major=$("$pg_config" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
running=$(sql "SELECT current_setting('server_version_num')::int / 10000")
[ "$running" = "$major" ] ||
	needs "the pg_config of the running server: it is PostgreSQL $running, and PG_CONFIG=$pg_config is of $major"
[ "$(sql 'SELECT rolsuper FROM pg_roles WHERE rolname = current_user')" = t ] ||
	needs "a superuser, and $(sql 'SELECT current_user') is none: set PGUSER"

#
# The extension in it.  A module that is not preloaded defines no setting.
#
[ -n "$(setting echocache.ttl)" ] ||
	needs "\"make install\", then shared_preload_libraries = 'echocache' in postgresql.conf, and a restart"
[ "$(setting echocache.enabled)" = on ] ||
	needs "echocache.enabled = on in postgresql.conf, and a reload"
[ "$(setting echocache.local_memory)" = 0 ] ||
	needs "echocache.local_memory = 0 in postgresql.conf, and a restart: the tests are about memcached"
own=$(sql "SELECT string_agg(name, ', ') FROM pg_file_settings
	WHERE name LIKE 'echocache.%' AND sourcefile LIKE '%/postgresql.auto.conf'")
[ -z "$own" ] ||
	needs "echocache's settings in postgresql.conf, as the tests reset those of ALTER SYSTEM: $own"
changed=$(sql "SELECT string_agg(name || ' = ' || setting, ', ') FROM pg_settings
	WHERE name IN ('echocache.ttl', 'echocache.fallback', 'echocache.max_write_through', 'echocache.username', 'echocache.tls')
	AND setting <> boot_val")
[ -z "$changed" ] || needs "the defaults of what the tests rely on, and not $changed"
taken=$(sql "SELECT string_agg(datname, ', ') FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase
	WHERE 'echocache.key_prefix=regress.' = ANY (setconfig) AND datname <> 'contrib_regression'")
[ -z "$taken" ] || needs "the prefix \"regress.\" for its database, and $taken has it: drop that database, or its prefix"

# What a run that was cut short has left there.
created=$(sed -nE "s/^CREATE (ROLE|DATABASE) (\w+).*/\2/p" "$(dirname "$0")"/sql/*.sql | paste -sd,)
left=$(sql "SELECT string_agg(kind || name, ', ') FROM
	(SELECT 'role ', rolname FROM pg_roles UNION ALL SELECT 'database ', datname FROM pg_database) there(kind, name)
	WHERE name = ANY ('{$created}')")
[ -z "$left" ] || needs "to create what is there already, and drop it in the end; drop it yourself: $left"

#
# The memcached, as the server sees it.
#
hosts=$(setting echocache.hosts)
case $hosts in
	*,* | /*) needs "one memcached in echocache.hosts, with a host and a port, and not \"$hosts\"" ;;
esac
[[ $hosts =~ ^(\[([^]]+)\]|([^:]*))(:([0-9]+))?(:[0-9]+)?$ ]]
host=${BASH_REMATCH[2]}${BASH_REMATCH[3]}
port=${BASH_REMATCH[5]:-11211}
answer=$(sql "CREATE TEMP TABLE answer (line text);
	COPY answer FROM PROGRAM 'bash -c \"(exec 3<>/dev/tcp/$host/$port && printf ''version\r\nquit\r\n'' >&3 && timeout 5 cat <&3) 2>/dev/null || true\"';
	SELECT min(line) FROM answer")
case $answer in
	VERSION*) ;;
	*) needs "a memcached at $hosts, and the server's machine reaches none there" ;;
esac

if [ -z "$(bash "$0" wait-points)" ]; then
	[ "${1:-}" != isolation ] ||
		needs "a server with wait points for the isolation tests: \"make clean\", \"make WAIT_POINTS=1 install\", and a restart"
	echo "# Without the isolation tests: the server is built without wait points."
fi
echo "# The tests empty the memcached at $hosts, and switch the cache of all databases off and on."
if [ "$(sql "SELECT setting::int < 1000 FROM pg_settings WHERE name = 'echocache.timeout'")" = t ]; then
	echo "# With echocache.timeout = $(setting echocache.timeout) some may fail on a busy machine, where memcached seems to be away."
fi
