#!/bin/bash
#
# core.sh [--quick] [--check]
#	  What the extension costs and gains, next to no cache at all and to pgmemcache.
#
# Starts a private PostgreSQL (fsync on) with both extensions and a memcached, and
# measures in interleaved rounds.  Only ratios within one run mean something: what is
# compared runs on the same CPUs in turns, and a ratio is taken within each round.
#
#	--quick   fewer and shorter rounds: under a minute, for a first look
#	--check   exit status 1 when a target is missed
#
# Environment: BENCH_SEED (of pgbench, default 1), EC_STAGE and others, see test/lib.sh.
#
# Copyright (c) 2026, echocache developers

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../lib.sh
. "$here/../lib.sh"

seed=${BENCH_SEED:-1}
check=0
hit_rounds=15 hit_calls=1500
many_rounds=15 many_calls=30
update_rounds=6 update_seconds=4
bulk_rounds=5
for arg in "$@"; do
	case $arg in
		--quick)
			hit_rounds=5 hit_calls=400
			many_rounds=5 many_calls=10
			update_rounds=2 update_seconds=2
			bulk_rounds=2
			;;
		--check) check=1 ;;
		*) ec_die "usage: core.sh [--quick] [--check]" ;;
	esac
done

# The CPUs we may use; single-connection measurements run all on the first of them.
all=$(taskset -cp $$ | sed 's/.*: //')
one=${all%%[!0-9]*}

# pin CPUS: all that is running of both servers, and so what PostgreSQL starts from now on.
pin()
{
	local postmaster

	postmaster=$(head -1 "$EC_TMP/pg-bench/data/postmaster.pid")
	for pid in "$postmaster" $(pgrep -P "$postmaster") "$(ec_memcached_pid bench)"; do
		# A backend may have ended meanwhile.
		taskset -acp "$1" "$pid" >/dev/null 2>&1 || [ ! -d "/proc/$pid" ]
	done
}

# memcached's own count of hits.
get_hits()
{
	local word name value

	exec 3<>"/dev/tcp/127.0.0.1/$(ec_memcached_port bench)"
	printf 'stats\r\n' >&3
	while read -r word name value <&3; do
		[ "$name" = get_hits ] && echo "${value%$'\r'}"
		[ "${word%$'\r'}" != END ] || break
	done
	exec 3>&-
}

# report TITLE FILE BASE [NAME OPERATOR LIMIT]...: FILE has lines of round, name, value.
# For each name min, median and max over the rounds, and its ratio to BASE of the same
# round; then each target, a bound for the median ratio of NAME.
report()
{
	local title=$1 file=$2 base=$3

	shift 3
	echo
	awk -v title="$title" -v base="$base" -v targets="$*" '
		function sort(a, n,    i, j, t) {
			for (i = 2; i <= n; i++)
				for (j = i; j > 1 && a[j - 1] > a[j]; j--) {
					t = a[j]; a[j] = a[j - 1]; a[j - 1] = t
				}
		}
		function median(a, n) {
			return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
		}
		{
			value[$1, $2] = $3
			if ($1 > rounds) rounds = $1
			if (!($2 in known)) { known[$2]; names[++n] = $2 }
		}
		END {
			printf "%s, %d rounds\n", title, rounds
			for (i = 1; i <= n; i++) {
				for (r = 1; r <= rounds; r++) {
					v[r] = value[r, names[i]]
					q[r] = v[r] / value[r, base]
				}
				sort(v, rounds); sort(q, rounds)
				ratio[names[i]] = median(q, rounds)
				printf "  %-12s min %10.1f  median %10.1f  max %10.1f", names[i],
					v[1], median(v, rounds), v[rounds]
				if (names[i] != base)
					printf "   ratio %.3f (%.3f to %.3f)", ratio[names[i]], q[1], q[rounds]
				print ""
			}
			m = split(targets, t, " ")
			for (i = 1; i + 2 <= m; i += 3) {
				# A limit that is a name stands for the ratio of that name.
				limit = t[i + 2] in ratio ? ratio[t[i + 2]] : t[i + 2] + 0
				good = t[i + 1] == "<=" ? ratio[t[i]] <= limit : ratio[t[i]] >= limit
				printf "  target: %s %s %s of %s: %s\n", t[i], t[i + 1],
					t[i + 2] in ratio ? "that of " t[i + 2] ", both" : t[i + 2], base,
					good ? "met" : "MISSED"
			}
		}' "$file" | tee -a "$EC_TMP/report"
}

ec_begin
export BUILD=$EC_TMP/clients
make -s -C "$here"
ec_build
EC_PIN="taskset -c $one"
ec_memcached_start bench -m 1024
ec_pg_start bench "fsync = on" "timezone = 'UTC'" "synchronous_commit = on" "shared_buffers = 512MB" \
	"max_wal_size = 8GB" "checkpoint_timeout = 1h" "autovacuum = off" \
	"echocache.hosts = '127.0.0.1:$(ec_memcached_port bench)'" "echocache.enabled = on"
ec_pg_env bench
ec_sql -c "CREATE EXTENSION echocache" -c "CREATE EXTENSION pgmemcache"
ec_sql -c "ALTER DATABASE postgres
	SET pgmemcache.default_servers = '127.0.0.1:$(ec_memcached_port bench)'"

echo "machine:    $(nproc) CPUs, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)," \
	"$(awk '/MemTotal/ { printf "%.0f GB", $2 / 1048576 }' /proc/meminfo), Linux $(uname -r | sed 's/[^0-9.].*//')," \
	"load $(cut -d' ' -f1 /proc/loadavg)"
echo "versions:   $(ec_sql -c "SELECT 'PostgreSQL ' || current_setting('server_version') || ', '
	|| string_agg(extname || ' ' || extversion, ', ' ORDER BY extname)
	FROM pg_extension WHERE extname IN ('echocache', 'pgmemcache')"), $(memcached -V)"
echo "pinned to:  CPU $one for one connection, CPUs $all for eight; pgbench seed $seed"

# ids 1 to 100: 1 KB; 1001, 1010 and 1100: documents of exactly 1, 10 and 100 KB.
# updates_ and bulk_ tables are alike; only what happens upon an UPDATE differs.
ec_sql >/dev/null <<'SQL'
CREATE FUNCTION text_of(bytes int, seed bigint) RETURNS text LANGUAGE sql AS $$
    SELECT left(string_agg(md5(seed || ' ' || i), ''), bytes)
    FROM generate_series(0, bytes / 32) i
$$;
CREATE TABLE hits (id bigint PRIMARY KEY, body text);
INSERT INTO hits SELECT i, text_of(1000, i) FROM generate_series(1, 100) i;
INSERT INTO hits
SELECT i, text_of(kb * 1024 - length('{"id":1001,"body":""}'), i)
FROM (VALUES (1001, 1), (1010, 10), (1100, 100)) v (i, kb);
SELECT echocache_attach('hits');

-- As an application has it: an update moves the row in an index, so it is not HOT.
CREATE TABLE updates_none (
    id bigint PRIMARY KEY, user_id bigint NOT NULL, updated_at timestamptz NOT NULL, body text);
CREATE INDEX ON updates_none (user_id, updated_at);
CREATE TABLE updates_echocache (LIKE updates_none INCLUDING ALL);
CREATE TABLE updates_pgmemcache (LIKE updates_none INCLUDING ALL);
CREATE TABLE bulk_none (LIKE updates_none INCLUDING ALL);
CREATE TABLE bulk_echocache (LIKE updates_none INCLUDING ALL);
INSERT INTO bulk_none
SELECT i, i / 10, 'epoch', text_of(1000, i) FROM generate_series(1, 50000) i;
INSERT INTO bulk_echocache SELECT * FROM bulk_none;
INSERT INTO updates_none SELECT * FROM bulk_none WHERE id <= 10000;
INSERT INTO updates_echocache SELECT * FROM updates_none;
INSERT INTO updates_pgmemcache SELECT * FROM updates_none;
SELECT echocache_attach('updates_echocache', 'updates');
SELECT echocache_attach('bulk_echocache', 'bulk');
CREATE FUNCTION set_in_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM memcache_set('pgmemcache:' || NEW.id, row_to_json(NEW)::text);
    RETURN NULL;
END $$;
CREATE TRIGGER naive AFTER UPDATE ON updates_pgmemcache
    FOR EACH ROW EXECUTE FUNCTION set_in_trigger();
VACUUM ANALYZE;
CHECKPOINT;
SQL

# The server has to be UP again after the attaches, and the documents in the cache.
for _ in $(seq 100); do
	warm=$(ec_sql -c "SELECT count(echocache_get_session(id)) FROM hits" -c "SELECT count(*)
		FROM hits h WHERE memcache_get('session:' || id) = row_to_json(h)::text" | tail -1)
	[ "$warm" != 103 ] || break
	sleep 0.1
done
[ "$warm" = 103 ] || ec_die "only $warm of 103 documents are in the cache after 10 s"

# --- a hit by SQL, against memcache_get of the same item
pin "$one"
for kb in 1 10 100; do
	id=$((1000 + kb))
	before=$(get_hits)
	taskset -c "$one" "$BUILD/load" turns $hit_rounds $hit_calls \
		pgmemcache 1 "session:$id" "SELECT memcache_get(\$1::text)" \
		echocache 1 $id "SELECT echocache_get_session(\$1::bigint)" >"$EC_TMP/hit.$kb"
	[ $(($(get_hits) - before)) -ge $((2 * hit_rounds * hit_calls)) ] ||
		ec_die "not every read of $kb KB was a hit"
	report "hit of $kb KB by SQL, µs per call" "$EC_TMP/hit.$kb" pgmemcache echocache "<=" 1.05
done

# --- 100 documents in one call, against 100 calls
ids="{$(seq -s, 1 100)}"
taskset -c "$one" "$BUILD/load" turns $many_rounds $many_calls \
	one_call 1 "$ids" "SELECT id, session FROM echocache_get_sessions(\$1::bigint[])" \
	hundred 100 "" "SELECT echocache_get_session(\$1::bigint)" >"$EC_TMP/many"
report "100 documents of 1 KB, µs in all" "$EC_TMP/many" one_call hundred ">=" 10

# --- one-row UPDATE, 8 clients
pin "$all"
for table in none echocache pgmemcache; do
	cat >"$EC_TMP/update.$table" <<-END
		\\set id random(1, 10000)
		UPDATE updates_$table SET updated_at = clock_timestamp() WHERE id = :id;
	END
done
order="none echocache pgmemcache"
for table in $order; do			# the first second makes the files grow: it does not count
	pgbench -n -M prepared -c 8 -T 1 -f "$EC_TMP/update.$table" >/dev/null 2>&1
done
for round in $(seq $update_rounds); do
	for table in $order; do
		ec_sql -c "VACUUM updates_$table" -c CHECKPOINT
		taskset -c "$all" pgbench -n -M prepared -c 8 -j 2 -T $update_seconds \
			--random-seed="$((seed + round))" -f "$EC_TMP/update.$table" 2>"$EC_TMP/pgbench.err" |
			awk -v round="$round" -v name="$table" \
				'/^tps/ { print round "\t" name "\t" $3; n++ } END { exit n != 1 }' \
				>>"$EC_TMP/updates" || { cat "$EC_TMP/pgbench.err" >&2; ec_die "pgbench failed"; }
	done
	order=$(echo "$order" | awk '{ print $2, $3, $1 }')
done
written=$(ec_sql -c "SELECT count(*) FROM updates_echocache u
	WHERE updated_at > 'epoch' AND memcache_get('updates:' || id) = row_to_json(u)::text")
updated=$(ec_sql -c "SELECT count(*) FROM updates_echocache WHERE updated_at > 'epoch'")
[ $((written * 10)) -ge $((updated * 9)) ] ||
	ec_die "only $written of $updated updated documents are in the cache: that is no write-through"
report "one-row UPDATE, 8 clients, fsync on, per second" "$EC_TMP/updates" none \
	echocache ">=" 0.75 echocache ">=" pgmemcache

# --- UPDATE of 50,000 rows in one statement
pin "$one"
bulk=(- 1 "" "VACUUM bulk_none" - 1 "" "VACUUM bulk_echocache" - 1 "" "CHECKPOINT"
	none 1 "" "UPDATE bulk_none SET updated_at = clock_timestamp()"
	echocache 1 "" "UPDATE bulk_echocache SET updated_at = clock_timestamp()")
# The first round makes the files grow: it does not count.
taskset -c "$one" "$BUILD/load" turns 1 1 "${bulk[@]}" >/dev/null
taskset -c "$one" "$BUILD/load" turns $bulk_rounds 1 "${bulk[@]}" >"$EC_TMP/bulk"
report "UPDATE of 50,000 rows in one statement, µs" "$EC_TMP/bulk" none echocache "<=" 1.6

if grep -q MISSED "$EC_TMP/report"; then
	echo
	echo "some targets were missed"
	exit "$check"
fi
