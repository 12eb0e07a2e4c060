#!/bin/bash
#
# control.sh
#	  Does to the servers what faults.c asks for: commands on standard input, each answered by
#	  a line "ok" when it has been done.  The end of the input ends it.
#
#	hello
#	memcached freeze|thaw|kill|start N
#	proxy COMMAND               to proxy.pl, which stands before the last memcached
#	kill9 PID
#	pg stop|start               stop: immediate
#	standby                     make one, and let it follow
#	detach                      the standby receives no more
#	promote                     stop the primary, promote the standby; says how to connect
#
# Environment: EC_TMP and EC_STAGE (test/lib.sh), CHECK_MEMCACHED (memcached's arguments).  The
# servers are memcached 0 and 1, the cluster "main", and a proxy that run.sh has started.
#
# Copyright (c) 2026, echocache developers

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$here/../lib.sh"
exec 3>&1 1>&2
cluster=main
standbys=0

exec 5>"$EC_TMP/proxy.in" 6<"$EC_TMP/proxy.out"

memcached_do()
{
	case $1 in
		freeze) kill -STOP "$(ec_memcached_pid "$2")" ;;
		thaw) kill -CONT "$(ec_memcached_pid "$2")" ;;
		kill) ec_memcached_stop "$2" KILL ;;
		start)
			# shellcheck disable=SC2086 # several words
			ec_memcached_start "$2" $CHECK_MEMCACHED 3>&- 5>&- 6<&-
			;;
	esac
}

proxy_do()
{
	local answer

	echo "$*" >&5
	read -r answer <&6
	[ "$answer" = ok ]
}

# A new cluster that follows the present one.
make_standby()
{
	local dir

	standbys=$((standbys + 1))
	dir=$EC_TMP/pg-standby$standbys
	mkdir "$dir"
	[ "$(id -u)" != 0 ] || chown postgres "$dir"
	(
		ec_pg_env "$cluster"
		ec_as_postgres "$ec_bindir/pg_basebackup" -D "$dir/data" -R -c fast -X stream
	)
	ec_pg_start "standby$standbys" "unix_socket_directories = '$dir'" 3>&- 5>&- 6<&-
}

# What the primary commits from here on is not for the standby.
detach_standby()
{
	(
		ec_pg_env "standby$standbys"
		ec_sql -c "ALTER SYSTEM SET primary_conninfo = ''" -c "SELECT pg_reload_conf()" >/dev/null
		for _ in $(seq 100); do
			[ "$(ec_sql -c "SELECT count(*) FROM pg_stat_wal_receiver")" != 0 ] || exit 0
			sleep 0.02
		done
		exit 1
	)
}

# The primary is gone for good, with its data.
promote_standby()
{
	ec_pg_stop "$cluster" immediate
	rm -rf "$EC_TMP/pg-$cluster/data"
	cluster=standby$standbys
	ec_as_postgres "$ec_bindir/pg_ctl" -D "$EC_TMP/pg-$cluster/data" -w -s promote
}

while read -r verb rest; do
	answer=
	# shellcheck disable=SC2086 # several words
	case $verb in
		hello) ;;
		memcached) memcached_do $rest ;;
		proxy) proxy_do $rest ;;
		kill9) kill -KILL "$rest" 2>/dev/null || true ;;
		pg)
			if [ "$rest" = stop ]; then
				ec_pg_stop "$cluster" immediate
			else
				ec_pg_start "$cluster" 3>&- 5>&- 6<&-
			fi
			;;
		standby) make_standby ;;
		detach) detach_standby ;;
		promote)
			promote_standby
			answer=" host=$EC_TMP/pg-$cluster port=$(cat "$EC_TMP/pg-$cluster.port")"
			;;
		*) ec_die "control.sh does not know \"$verb\"" ;;
	esac
	echo "ok$answer" >&3
done
