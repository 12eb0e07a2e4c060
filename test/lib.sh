# shellcheck shell=bash
#
# lib.sh
#	  Private servers for tests, benchmarks and the demo: to be sourced by bash.
#
# What is started here lives in one folder, EC_TMP, on free ports of 127.0.0.1,
# and is found again by the files in it, never by a variable, so every function
# also works from a subshell and from a second script given the same EC_TMP.
# Nothing is installed into the system: the extension is staged into EC_STAGE.
#
# Environment that is looked at:
#   PG_CONFIG, PG_MAJOR   the PostgreSQL to build against and to start; see postgres.sh
#   EC_STAGE    a tree where the extension is installed already: do not build again
#   EC_KEEP     1: leave EC_TMP and its log files behind (the servers stop all the same)
#   EC_PIN      a prefix for every server started, such as "taskset -c 1"
#
# Typical use:
#   . "$(dirname "$0")/../lib.sh"
#   ec_begin                                 # EC_TMP, and a trap that removes it
#   ec_build WAIT_POINTS=1                   # EC_STAGE
#   ec_memcached_start a -m 64
#   ec_pg_start main "echocache.hosts = '127.0.0.1:$(ec_memcached_port a)'" \
#       "echocache.enabled = on"
#   ec_pg_env main                           # PGHOST, PGPORT, ... for psql and libpq
#
# Copyright (c) 2026, echocache developers

ec_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=postgres.sh
. "$ec_root/test/postgres.sh"

# A diagnostic, in a form that does not disturb TAP on stdout.
ec_note()
{
	printf '# %s\n' "$*" >&2
}

ec_die()
{
	ec_note "$*"
	exit 1
}

if ! ec_choose_postgres; then
	ec_die "no PostgreSQL ${PG_MAJOR:-${ec_supported[-1]} to ${ec_supported[0]}} is installed with its headers;" \
		"as root: bash test/install-deps.sh"
fi
ec_bindir=$("$PG_CONFIG" --bindir)
ec_major=$(ec_major_of "$PG_CONFIG")

# ec_begin [FOLDER]: set EC_TMP.  With a FOLDER what is in it outlives this
# script (the demo); without, it is a new one that goes when the script ends.
ec_begin()
{
	if [ $# -gt 0 ]; then
		mkdir -p "$1"
		EC_TMP=$(cd "$1" && pwd)
	else
		EC_TMP=$(mktemp -d "${TMPDIR:-/tmp}/echocache.XXXXXX")
		trap ec_end EXIT
		trap 'exit 129' HUP
		trap 'exit 130' INT
		trap 'exit 143' TERM
	fi
	chmod 755 "$EC_TMP"			# PostgreSQL may run as another user than we do
	export EC_TMP
}

# Stop every server of EC_TMP and remove the folder.
ec_end()
{
	local f

	for f in "$EC_TMP"/mc-*.pid; do
		[ -e "$f" ] || continue
		f=${f##*/mc-}
		ec_memcached_stop "${f%.pid}" KILL
	done
	for f in "$EC_TMP"/pg-*/data/postmaster.pid; do
		[ -e "$f" ] || continue
		f=${f#"$EC_TMP"/pg-}
		ec_pg_stop "${f%%/*}" immediate || true
	done
	if [ "${EC_KEEP:-0}" = 1 ]; then
		ec_note "kept $EC_TMP"
	else
		rm -rf "$EC_TMP"
	fi
}

# Run a command as a user that PostgreSQL accepts.
ec_as_postgres()
{
	if [ "$(id -u)" = 0 ]; then
		runuser -u postgres -- "$@"
	else
		"$@"
	fi
}

# ec_copy_source FOLDER: the source tree without what an earlier build left in it.
ec_copy_source()
{
	tar -C "$ec_root" -cf - --exclude=.git --exclude=./test/build \
		--exclude='*.o' --exclude='*.so' --exclude='*.bc' . | tar -C "$1" -xf -
}

# ec_build [MAKE ARGUMENT...]: build a copy of the source tree and stage it.
# Sets EC_STAGE, and EC_BUILD to the copy (for pg_regress and the like).
ec_build()
{
	if [ -n "${EC_STAGE:-}" ]; then
		[ -d "$EC_STAGE" ] || ec_die "EC_STAGE=$EC_STAGE is not there"
		return
	fi
	EC_BUILD=$EC_TMP/build
	EC_STAGE=$EC_TMP/stage
	mkdir -p "$EC_BUILD" "$EC_STAGE"
	ec_copy_source "$EC_BUILD"
	if ! { make -C "$EC_BUILD" -j2 PG_CONFIG="$PG_CONFIG" with_llvm=no "$@" &&
		umask 022 &&
		make -C "$EC_BUILD" PG_CONFIG="$PG_CONFIG" with_llvm=no DESTDIR="$EC_STAGE" "$@" install
	} >"$EC_TMP/build.log" 2>&1; then
		tail -30 "$EC_TMP/build.log" >&2
		ec_die "the extension does not build"
	fi
	export EC_BUILD EC_STAGE
}

# The lines of postgresql.conf by which a server finds a staged extension.
# Debian's packages have extension_destdir; from 18 PostgreSQL has a setting of its own.
ec_stage_conf()
{
	echo "dynamic_library_path = '$EC_STAGE$("$PG_CONFIG" --pkglibdir):\$libdir'"
	if [ "$ec_major" -ge 18 ]; then
		echo "extension_control_path = '$EC_STAGE$("$PG_CONFIG" --sharedir):\$system'"
	else
		echo "extension_destdir = '$EC_STAGE'"
	fi
	echo "shared_preload_libraries = 'echocache'"
}

# Does something listen on this port of 127.0.0.1?
ec_listening()
{
	(exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# A port that nobody listens on now, outside the kernel's ephemeral range.  The
# starters try another one if somebody takes it before they do.
ec_port()
{
	local p

	while :; do
		p=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
		ec_listening "$p" || break
	done
	echo "$p"
}

# ec_memcached_start NAME [ARGUMENT...]: start one, or start it again on the port it had.
ec_memcached_start()
{
	local base=$EC_TMP/mc-$1 port pid try user=()

	shift
	[ "$(id -u)" = 0 ] && user=(-u nobody)
	for try in 1 2 3 4 5 6 7 8; do
		port=$(cat "$base.port" 2>/dev/null || ec_port)
		# shellcheck disable=SC2086 # EC_PIN is several words
		${EC_PIN:-} memcached -l 127.0.0.1 -p "$port" -U 0 "${user[@]}" "$@" \
			</dev/null >>"$base.log" 2>&1 &
		pid=$!
		# Ours, and not somebody else's on that port: it is still there once the port answers.
		for _ in $(seq 100); do
			kill -0 "$pid" 2>/dev/null || break
			if ec_listening "$port" && kill -0 "$pid" 2>/dev/null; then
				echo "$pid" >"$base.pid"
				echo "$port" >"$base.port"
				return
			fi
			sleep 0.05
		done
		kill -KILL "$pid" 2>/dev/null || true
		[ -e "$base.port" ] && sleep 0.25
	done
	cat "$base.log" >&2
	ec_die "memcached does not start after $try attempts"
}

ec_memcached_port()
{
	cat "$EC_TMP/mc-$1.port"
}

ec_memcached_pid()
{
	cat "$EC_TMP/mc-$1.pid"
}

# ec_memcached_stop NAME [SIGNAL]: and wait until it has gone; its port stays reserved for it.
ec_memcached_stop()
{
	local base=$EC_TMP/mc-$1 pid

	pid=$(cat "$base.pid" 2>/dev/null) || return 0
	rm -f "$base.pid"
	[ "$(cat "/proc/$pid/comm" 2>/dev/null)" = memcached ] || return 0
	kill "-${2:-TERM}" "$pid" 2>/dev/null || return 0
	kill -CONT "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.02
	done
}

# ec_pg_start NAME [LINE OF postgresql.conf...]: a new cluster with the staged
# extension preloaded (when there is an EC_STAGE), or the one of that name
# again; further lines are added to its configuration, the last one wins.
ec_pg_start()
{
	local name=$1 dir=$EC_TMP/pg-$1 line port

	shift
	if [ ! -d "$dir/data" ]; then
		mkdir "$dir"
		[ "$(id -u)" = 0 ] && chown postgres "$dir"
		ec_as_postgres "$ec_bindir/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 \
			--no-locale -N >"$EC_TMP/pg-$name.initdb.log" 2>&1 ||
			{ cat "$EC_TMP/pg-$name.initdb.log" >&2; ec_die "initdb failed"; }
		{
			echo "listen_addresses = '127.0.0.1'"
			echo "unix_socket_directories = '$dir'"
			echo "fsync = off"
			[ -z "${EC_STAGE:-}" ] || ec_stage_conf
		} >>"$dir/data/postgresql.conf"
	fi
	for line in "$@"; do
		echo "$line" >>"$dir/data/postgresql.conf"
	done
	for _ in 1 2 3 4 5; do
		port=$(cat "$dir.port" 2>/dev/null || ec_port)
		# shellcheck disable=SC2086 # EC_PIN is several words
		if ec_as_postgres ${EC_PIN:-} "$ec_bindir/pg_ctl" -D "$dir/data" -w -s -o "-p $port" \
			-l "$dir/log" start >"$EC_TMP/pg-$name.start.log" 2>&1; then
			echo "$port" >"$dir.port"
			return
		fi
		grep -q 'could not bind' "$dir/log" || break
	done
	cat "$EC_TMP/pg-$name.start.log" >&2
	tail -20 "$dir/log" >&2
	ec_die "PostgreSQL does not start"
}

# ec_pg_stop NAME [MODE]: smart, fast (the default) or immediate.
ec_pg_stop()
{
	ec_as_postgres "$ec_bindir/pg_ctl" -D "$EC_TMP/pg-$1/data" -w -s -m "${2:-fast}" stop
}

# Point psql, libpq and pgbench at the cluster NAME, as its superuser.
ec_pg_env()
{
	export PGHOST=$EC_TMP/pg-$1 PGUSER=postgres PGDATABASE=postgres
	PGPORT=$(cat "$EC_TMP/pg-$1.port")
	export PGPORT
	PATH=$ec_bindir:$PATH
}

# ec_sql [psql argument...]: quiet, unaligned, stopping at the first error.
ec_sql()
{
	psql -X -q -A -t -v ON_ERROR_STOP=1 "$@"
}
