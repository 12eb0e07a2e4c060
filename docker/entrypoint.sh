#!/bin/bash
#
# entrypoint.sh
#	  From the environment to PostgreSQL's configuration, and the first start.
#
# The MEMCACHED_ variables become $PGDATA/echocache.conf, written anew at every
# start and included by postgresql.conf; a variable that is unset or empty
# leaves the extension's default.  ALTER SYSTEM comes after it, as usual.  Here only
# the form of a value is checked.  What it may be is the extension's to say: a
# set of values that this data directory has not seen yet is first tried on a
# server without clients, and refused when PostgreSQL refuses it.
#
# The cluster is made next to $PGDATA and renamed when it is complete, so a
# first start that is interrupted or fails leaves nothing behind that looks
# like a database; the next start begins again.
#
# Copyright (c) 2026, echocache developers
#
set -euo pipefail
shopt -s inherit_errexit nullglob

fail()
{
	printf 'entrypoint: %s\n' "$@" >&2
	exit 1
}

say()
{
	printf 'entrypoint: %s\n' "$*"
}

#-------------------------------------------------------------------------
# Settings: each function takes a variable's name and the setting's, and adds
# to settings or to problems.
#-------------------------------------------------------------------------
settings=''
problems=()

# In a configuration file both quote and backslash must be escaped.
add_setting()
{
	local value="${2//\\/\\\\}"

	settings+="$1 = '${value//\'/\'\'}'"$'\n'
}

boolean_setting()
{
	local value="${!1:-}"

	case "${value,,}" in
		'') ;;
		on | off | true | false | yes | no | 1 | 0) add_setting "$2" "${value,,}" ;;
		*) problems+=("$1 must be true or false, not \"$value\"") ;;
	esac
}

integer_setting()
{
	local value="${!1:-}"

	if [[ $value =~ ^[0-9]+$ ]]; then
		add_setting "$2" "$value"
	elif [[ -n $value ]]; then
		problems+=("$1 must be a whole number, not \"$value\"")
	fi
}

# The third and fourth argument are the unit of a bare number, and that unit's name.
time_setting()
{
	local value="${!1:-}"

	if [[ $value =~ ^[0-9]+$ ]]; then
		add_setting "$2" "$value$3"
	elif [[ $value =~ ^[0-9]+\ *(ms|s|min|h|d)$ ]]; then
		add_setting "$2" "$value"
	elif [[ -n $value ]]; then
		problems+=("$1 must be a whole number of $4, or have a unit (ms, s, min, h, d), not \"$value\"")
	fi
}

text_setting()
{
	local value="${!1:-}"

	if [[ $value == *[[:cntrl:]]* ]]; then
		problems+=("$1 must not contain control characters")
	elif [[ -n $value ]]; then
		add_setting "$2" "$value"
	fi
}

collect_settings()
{
	boolean_setting MEMCACHED_ENABLED echocache.enabled
	text_setting MEMCACHED_HOSTS echocache.hosts
	time_setting MEMCACHED_TTL echocache.ttl s seconds
	boolean_setting MEMCACHED_FALLBACK echocache.fallback
	integer_setting MEMCACHED_POOL_SIZE echocache.pool_size
	time_setting MEMCACHED_TIMEOUT echocache.timeout ms milliseconds

	if ((${#problems[@]} > 0)); then
		fail "${problems[@]}"
	fi
}

# The user and database names are written into pg_hba.conf and SQL.
collect_names()
{
	local variable

	POSTGRES_USER="${POSTGRES_USER:-postgres}"
	POSTGRES_DB="${POSTGRES_DB:-$POSTGRES_USER}"
	for variable in POSTGRES_USER POSTGRES_DB; do
		if [[ ! ${!variable} =~ ^[A-Za-z_][A-Za-z0-9_.-]{0,62}$ ]]; then
			fail "$variable must be 1 to 63 letters, digits, \"_\", \".\" or \"-\"," \
				"and begin with a letter or \"_\", not \"${!variable}\""
		fi
	done
	export POSTGRES_USER POSTGRES_DB
}

# From POSTGRES_PASSWORD, or from the file (a secret) that POSTGRES_PASSWORD_FILE names.
read_password()
{
	password="${POSTGRES_PASSWORD:-}"

	if [[ -n ${POSTGRES_PASSWORD_FILE:-} ]]; then
		if [[ -n $password ]]; then
			fail 'POSTGRES_PASSWORD and POSTGRES_PASSWORD_FILE are both set'
		fi
		password="$(<"$POSTGRES_PASSWORD_FILE")"
	fi
	if [[ -z $password ]]; then
		fail 'POSTGRES_PASSWORD is not set: no database is made without a password for its superuser' \
			'give it with -e POSTGRES_PASSWORD=..., or name a file that holds it in POSTGRES_PASSWORD_FILE'
	fi
	if [[ $password == *$'\n'* ]]; then
		fail 'the password must be one line'
	fi
}

#-------------------------------------------------------------------------
# A server without clients: no TCP, its socket in a folder of its own, and no
# word to memcached.
#-------------------------------------------------------------------------
private_data=''
private_socket=''

start_private()
{
	private_socket="$(mktemp --directory)"
	# Crash recovery may take its time; whoever waits for the container can stop it.
	pg_ctl start --pgdata "$1" --silent --wait --timeout=86400 --options \
		"-c listen_addresses='' -c unix_socket_directories='$private_socket' -c echocache.enabled=off"
	# Only now: before, postmaster.pid may be a dead server's, and name this very process.
	private_data="$1"
}

stop_private()
{
	if [[ -n $private_data ]]; then
		pg_ctl stop --pgdata "$private_data" --silent --mode=fast --wait --timeout=86400
	fi
	if [[ -n $private_socket ]]; then
		rm -rf -- "$private_socket"
	fi
	private_data=''
	private_socket=''
}

# Write the settings into the data directory $1, and see that postgresql.conf includes them.
write_settings()
{
	{
		echo '# Written by the container at every start, from its environment.'
		echo '# To override: ALTER SYSTEM.'
		echo "listen_addresses = '*'"
		echo "unix_socket_directories = '/tmp'"
		echo "shared_preload_libraries = 'echocache'"
		printf '%s' "$settings"
	} >"$1/echocache.conf"

	if ! grep -qxF "include 'echocache.conf'" "$1/postgresql.conf"; then
		echo "include 'echocache.conf'" >>"$1/postgresql.conf"
	fi
}

# Ask the private server; remember its consent.
check_settings()
{
	if ! PGHOST="$private_socket" healthcheck.sh; then
		fail 'the settings are not accepted; PostgreSQL says above why'
	fi
	cp "$private_data/echocache.conf" "$private_data/echocache.conf.checked"
}

# Run what the image, or a volume in its place, wants done in a new database.
run_init_files()
(
	local file

	export PGHOST="$private_socket" PGUSER="$POSTGRES_USER" PGDATABASE="$POSTGRES_DB"
	for file in /docker-entrypoint-initdb.d/*; do
		say "running $file"
		case "$file" in
			*.sql) psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --output /dev/null --file "$file" ;;
			*.sh) bash "$file" ;;
			*) fail "$file is neither .sql nor .sh" ;;
		esac
	done
)

first_start()
{
	local new="$PGDATA.new"

	read_password

	# The last step is a rename, which needs the place free.
	if [[ -e $PGDATA ]] && ! rmdir -- "$PGDATA"; then
		fail "$PGDATA is in the way: it is no database, and cannot be removed" \
			'mount the volume at /var/lib/postgresql'
	fi
	if [[ -e $new ]]; then
		say "removing $new, left by a first start that did not finish"
		rm -rf -- "$new"
	fi
	mkdir -p -- "${PGDATA%/*}"

	say 'making the database'
	initdb --pgdata "$new" --username "$POSTGRES_USER" --pwfile <(printf '%s\n' "$password") \
		--auth-local=peer --auth-host=scram-sha-256 \
		--encoding=UTF8 --locale=C.UTF-8 --data-checksums >/dev/null
	unset password

	# Inside the container the system's postgres is the superuser; everybody else gives a password.
	cat >"$new/pg_hba.conf" <<-EOF
		local  all,replication  "$POSTGRES_USER"  peer map=container
		local  all              all               scram-sha-256
		host   all              all  all          scram-sha-256
	EOF
	echo "container  postgres  \"$POSTGRES_USER\"" >"$new/pg_ident.conf"

	write_settings "$new"
	start_private "$new"
	check_settings
	if [[ $POSTGRES_DB != postgres ]]; then
		createdb --host "$private_socket" --username "$POSTGRES_USER" \
			--maintenance-db postgres -- "$POSTGRES_DB"
	fi
	run_init_files
	stop_private
	mv --no-target-directory -- "$new" "$PGDATA"
	say "database \"$POSTGRES_DB\" is made"
}

later_start()
{
	write_settings "$PGDATA"
	if ! cmp --silent -- "$PGDATA/echocache.conf" "$PGDATA/echocache.conf.checked"; then
		say 'trying the new settings'
		start_private "$PGDATA"
		check_settings
		stop_private
	fi
}

if [[ ${1:-} == -* ]]; then
	set -- postgres "$@"
fi

if [[ ${1:-} == postgres ]]; then
	if ((EUID == 0)); then
		fail 'PostgreSQL does not run as root; leave the user to the image'
	fi
	trap 'exit 143' INT TERM
	trap stop_private EXIT

	collect_settings
	collect_names
	if [[ -s $PGDATA/PG_VERSION ]]; then
		later_start
	else
		first_start
	fi

	trap - EXIT INT TERM
	unset POSTGRES_PASSWORD POSTGRES_PASSWORD_FILE
fi

exec "$@"
