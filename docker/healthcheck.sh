#!/bin/bash
#
# healthcheck.sh
#	  Does PostgreSQL answer, and is every echocache setting of its files in force?
#
# A malformed value of an extension's setting does not stop a server that
# starts: PostgreSQL warns and goes on with the default.  Here it counts as a
# failure.  Whether memcached is up is not asked: the database is healthy
# without it.  PGHOST and the like select the server, as for psql.
#
# Copyright (c) 2026, echocache developers
#
set -euo pipefail

export PGCONNECT_TIMEOUT="${PGCONNECT_TIMEOUT:-3}"

refused="$(psql --no-psqlrc --no-password --quiet --no-align --tuples-only \
	--username "${POSTGRES_USER:-postgres}" --dbname postgres --command "
		SELECT format('%s = ''%s'': %s', name, setting, error)
		  FROM pg_catalog.pg_file_settings
		 WHERE name LIKE 'echocache.%' AND error IS NOT NULL")"

if [[ -n $refused ]]; then
	printf 'not in force: %s\n' "$refused" >&2
	exit 1
fi
