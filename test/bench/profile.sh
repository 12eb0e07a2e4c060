#!/bin/bash
#
# profile.sh [--functions] [--keep FOLDER] [--memory MB]
#	  Where the time of a hit and of a commit goes: instructions and system calls of one.
#
# Counts, unlike times, come out the same on a busy machine.  A private PostgreSQL runs
# under callgrind; sessions that do the same thing 200 and 400 times differ by 200 of
# it, so that start and end of a session do not count.  Instructions are the
# backend's in user space; system calls are seen by strace in a server without callgrind.
#
#	--functions      with what the functions of the extension take, callees included
#	--keep FOLDER    leave callgrind's files there, for callgrind_annotate or kcachegrind
#	--memory MB      echocache.local_memory: with it a hit is one of the second tier (0)
#
# Needs valgrind, strace and pgmemcache.
#
# Copyright (c) 2026, echocache developers

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../lib.sh
. "$here/../lib.sh"
export LC_ALL=C

functions=0
keep=
memory=0
while [ $# -gt 0 ]; do
	case $1 in
		--functions) functions=1 ;;
		--keep) keep=${2:-}; shift ;;
		--memory) memory=${2:-}; shift ;;
		*) ec_die "usage: profile.sh [--functions] [--keep FOLDER] [--memory MB]" ;;
	esac
	shift
done
for tool in valgrind callgrind_annotate strace; do
	command -v $tool >/dev/null || ec_die "there is no $tool"
done

# What is measured: a name, and the statement that is executed for $1.
names=("select 1" "hit, 1 KB" "by primary key, 1 KB" "UPDATE, no trigger" "UPDATE, write-through"
	"UPDATE, invalidate" "UPDATE, write-through, filter" "UPDATE, write-through, other types"
	"UPDATE, pgmemcache set")
update="SET updated_at = clock_timestamp() WHERE id = \$1"
statements=("SELECT 1 WHERE \$1 > 0" "SELECT echocache_get('hit', \$1)"
	"SELECT row_to_json(h) FROM hits h WHERE id = \$1" "UPDATE updates_bare $update"
	"UPDATE updates_through $update" "UPDATE updates_invalidate $update"
	"UPDATE updates_filter $update" "UPDATE updates_types $update" "UPDATE updates_set $update")

start_postgres()
{
	local host

	host=127.0.0.1:$(ec_memcached_port main)
	ec_pg_start profile "autovacuum = off" "jit = off" "echocache.timeout = '10s'" \
		"echocache.local_memory = '${memory}MB'" "echocache.hosts = '$host'" "echocache.enabled = on" "pgmemcache.default_servers = '$host'"
	ec_pg_env profile
}

wait_up()
{
	for _ in $(seq 600); do
		[ "$(ec_sql -c "SELECT min(state) FROM echocache_servers")" != UP ] || return 0
		sleep 0.1
	done
	ec_die "the server does not come UP"
}

# session I N [PSQL COMMAND]: print the backend's PID, run the command, then statement I N times.
session()
{
	{
		echo "SELECT pg_backend_pid();"
		echo "PREPARE p(bigint) AS ${statements[$1]};"
		echo "\\o /dev/null"
		echo "${3:-}"
		yes "EXECUTE p(7);" | head -n "$2"
	} | ec_sql
}

# instructions I N
instructions()
{
	local pid file

	pid=$(session "$1" "$2")
	file=$folder/callgrind.$pid
	for _ in $(seq 600); do
		grep -q '^totals:' "$file" 2>/dev/null && break
		sleep 0.1
	done
	sed -n 's/^totals: //p' "$file"
	echo "$pid" >"$folder/last"
}

# calls I N: "NUMBER NAME" for each system call of the session's backend.
calls()
{
	local pid

	rm -f "$folder"/{strace,pid,attached}
	# it begins when strace is attached
	session "$1" "$2" "\\! while [ ! -s $folder/attached ]; do sleep 0.05; done" >"$folder/pid" &
	while [ ! -s "$folder/pid" ]; do sleep 0.05; done
	pid=$(cat "$folder/pid")
	ec_as_postgres strace -c -o "$folder/strace" -p "$pid" 2>"$folder/attached" || true
	wait
	awk 'seen && $1 ~ /^[0-9.]+$/ { print $4, $NF } /^---/ { seen = 1 }' "$folder/strace" | grep -v total
}

ec_begin
ec_build
folder=$EC_TMP/callgrind
mkdir "$folder"
chmod 777 "$folder"
ec_memcached_start main
start_postgres
ec_sql >/dev/null <<'SQL'
CREATE EXTENSION echocache;
CREATE TABLE hits (id bigint PRIMARY KEY, body text);
INSERT INTO hits SELECT i, repeat('x', 1004) FROM generate_series(1, 100) i;
CREATE TABLE updates_bare (id bigint PRIMARY KEY, user_id bigint NOT NULL, updated_at timestamptz, body text);
CREATE INDEX ON updates_bare (user_id, updated_at);
CREATE TABLE updates_through (LIKE updates_bare INCLUDING ALL);
CREATE TABLE updates_invalidate (LIKE updates_bare INCLUDING ALL);
CREATE TABLE updates_filter (LIKE updates_bare INCLUDING ALL, is_deleted boolean NOT NULL DEFAULT false);
CREATE TABLE updates_types (LIKE updates_bare INCLUDING ALL, f float8 DEFAULT 0.5, t text[] DEFAULT '{a,b}');
CREATE TABLE updates_set (LIKE updates_bare INCLUDING ALL);
INSERT INTO updates_bare SELECT i, i, now(), repeat('x', 900) FROM generate_series(1, 100) i;
INSERT INTO updates_through SELECT * FROM updates_bare;
INSERT INTO updates_invalidate SELECT * FROM updates_bare;
INSERT INTO updates_filter SELECT * FROM updates_bare;
INSERT INTO updates_types SELECT * FROM updates_bare;
INSERT INTO updates_set SELECT * FROM updates_bare;
CREATE EXTENSION pgmemcache;
CREATE FUNCTION set_in_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM memcache_set('set:' || NEW.id, row_to_json(NEW)::text);
    RETURN NULL;
END $$;
CREATE TRIGGER naive AFTER UPDATE ON updates_set FOR EACH ROW EXECUTE FUNCTION set_in_trigger();
SELECT echocache_attach('hits', 'hit'), echocache_attach('updates_through', 'through'),
    echocache_attach('updates_invalidate', 'invalidate', policy => 'invalidate'),
    echocache_attach('updates_filter', 'filter', filter => 'NOT is_deleted'), echocache_attach('updates_types', 'types');
SQL
wait_up
declare -a syscalls
for i in "${!statements[@]}"; do
	syscalls[i]=$(calls "$i" 1000 | awk '$1 >= 500 { printf "%s%g %s", sep, int($1 / 1000 + 0.5), $2; sep = ", " }')
done
ec_pg_stop profile

EC_PIN="valgrind --quiet --tool=callgrind --trace-children=yes --callgrind-out-file=$folder/callgrind.%p"
start_postgres
wait_up
echo "| one | instructions | system calls |"
echo "|---|---|---|"
for i in "${!statements[@]}"; do
	few=$(instructions "$i" 200)
	many=$(instructions "$i" 400)
	cp "$folder/callgrind.$(cat "$folder/last")" "$folder/$i"
	printf '| %s | %d | %s |\n' "${names[i]}" $(((many - few) / 200)) "${syscalls[i]}"
done
ec_pg_stop profile immediate
if [ $functions = 1 ]; then
	for i in 1 4; do
		echo
		echo "${names[i]}: instructions with callees, of 400"
		callgrind_annotate --inclusive=yes --threshold=100 "$folder/$i" 2>/dev/null |
			sed -n '/echocache\.so/ { s| \[.*||; s|/[^ ]*/||; p }' | sed -n 1,60p
	done
fi
if [ -n "$keep" ]; then
	mkdir -p "$keep"
	for i in "${!statements[@]}"; do
		cp "$folder/$i" "$keep/callgrind.out.$(tr -cs 'a-zA-Z0-9\n' - <<<"${names[i]}")"
	done
fi
