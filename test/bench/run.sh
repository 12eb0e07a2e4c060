#!/bin/bash
#
# run.sh [--quick | --full] [--only PART,...] [--out FOLDER] [--report] [--check]
#	  The benchmark: echocache next to PostgreSQL alone and to pgmemcache.
#
#	reads      one connection: a plain client, a hit by SQL, pgmemcache's get, the table
#	commit     what the triggers and the commit cost, 1 and 8 clients, fsync on and off
#	bulk       one UPDATE of 1 to 100,000 rows
#	large      one UPDATE of rows that are too large for memcached: time and memory
#	misses     a miss of a table with 300 partitions, and the SELECT
#	ycsb       YCSB A, B, C, D and F, throughput and open-loop latencies
#	scale      1 to 4 memcached servers, 1 to 200 connections, 10 to 1,000,000 keys
#	builder    how long after a commit a document made by the user's function is there
#	stampede   200 clients miss one slow document at once
#	local      hits and commits with the second tier, which no other part has
#
# Writes to FOLDER (results/ beside this file; after --quick or --only
# test/build/bench/) raw.tsv, every number of every round; summary.tsv; report.md, tables;
# and plots in SVG, if there is a gnuplot.
#
#	--quick    3 minutes, to see that it works: the figures mean nothing
#	--full     10,000,000 keys as well: 20 GB of disk, 8 GB of memory, 15 minutes more
#	--report   measure nothing: tables and plots once more from FOLDER/raw.tsv
#	--check    add a table of the targets: met, or missed
#
# The exit status is not 0 if a part could not be measured; a target that is missed
# does not change it.  Environment: BENCH_SEED (1), PG_CONFIG, TMPDIR (on a real file
# system), and others of test/lib.sh.
#
# Copyright (c) 2026, echocache developers

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../lib.sh
. "$here/../lib.sh"
export LC_ALL=C

all_parts=(reads commit bulk large misses ycsb scale builder stampede local)
parts=()
seed=${BENCH_SEED:-1}
size=default
out=
report_only=0
check=0
while [ $# -gt 0 ]; do
	case $1 in
		--quick) size=quick ;;
		--full) size=full ;;
		--only) IFS=, read -r -a parts <<<"${2:-}"; shift ;;
		--out) out=${2:-}; shift ;;
		--report) report_only=1 ;;
		--check) check=1 ;;
		*) ec_die "usage: run.sh [--quick | --full] [--only PART,...] [--out FOLDER] [--report] [--check]" ;;
	esac
	shift
done
if [ -z "$out" ]; then
	out=$here/results
	[ "$size" != quick ] && [ ${#parts[@]} = 0 ] || out=$here/../build/bench
fi
[ ${#parts[@]} -gt 0 ] || parts=("${all_parts[@]}")
for part in "${parts[@]}"; do
	[[ " ${all_parts[*]} " = *" $part "* ]] || ec_die "there is no part \"$part\""
done

# How much of everything.
reads_rounds=9 reads_calls=800
commit_rounds=5 commit_seconds=0.8
bulk_rounds=5 bulk_rows="1 10 100 1000 10000 50000 100000"
ycsb_rounds=3 ycsb_seconds=1.5 ycsb_records=100000 ycsb_sizes="1024 230"
scale_rounds=3 scale_seconds=1.2 scale_connections="1 8 32 100 200" scale_keys="10 1000 100000 1000000"
large_rounds=5 large_calls=20
misses_rounds=5 misses_calls=400
builder_rounds=3 builder_seconds=4
stampede_rounds=5 stampede_clients=200
local_rounds=5 local_seconds=1.2 local_commit_rounds=7 local_commit_seconds=2 local_documents=100000
local_zipfian_rounds=3 local_zipfian_seconds=3 local_zipfian_first=20 local_zipfian_documents=1000000
cache_mb=1024
case $size in
	quick)
		reads_rounds=3 reads_calls=100
		commit_rounds=1 commit_seconds=0.2
		bulk_rounds=1 bulk_rows="1 100 10000 50000"
		ycsb_rounds=1 ycsb_seconds=0.2 ycsb_records=10000
		scale_rounds=1 scale_seconds=0.2 scale_keys="10 1000 20000"
		large_rounds=1 large_calls=2
		misses_rounds=1 misses_calls=20
		builder_rounds=1 builder_seconds=2
		stampede_rounds=2 stampede_clients=50
		local_rounds=1 local_seconds=0.2 local_commit_rounds=1 local_commit_seconds=0.2 local_documents=10000
		local_zipfian_rounds=1 local_zipfian_seconds=1 local_zipfian_first=1 local_zipfian_documents=60000
		;;
	full)
		scale_keys="$scale_keys 10000000"
		cache_mb=6144
		;;
esac

# The CPUs we may use; where microseconds matter everything runs on the first of them, since
# a round trip between two CPUs takes several times as long, and which one it is is chance.
all_cpus=$(taskset -cp $$ | sed 's/.*: //')
one_cpu=${all_cpus%%[!0-9]*}

#
# Numbers.
#

# emit PART CASE SYSTEM METRIC ROUND VALUE
emit()
{
	local IFS=$'\t'

	printf '%s\n' "$*" >>"$raw"
}

# Clients of PostgreSQL and of memcached come the same way, over TCP; or else $via says
# which socket folder PostgreSQL's take.
#
# run_load PART CASE SYSTEM ROUND ARGUMENT...: load run, on the CPUs $cpus or else on all.
run_load()
{
	local part=$1 case=$2 system=$3 round=$4

	shift 4
	PGHOST=${via:-127.0.0.1} taskset -c "${cpus:-$all_cpus}" \
		"$BUILD/load" run -S $((seed * 1000 + round)) "$@" >"$EC_TMP/run.out"
	awk -v OFS='\t' -v part="$part" -v at="$case" -v peer="$system" -v round="$round" \
		'{ print part, at, peer, $1, round, $2 }' "$EC_TMP/run.out" >>"$raw"
}

# run_turns PART CASE FIRST ROUND ARGUMENT...: load turns, on one CPU.
run_turns()
{
	local part=$1 case=$2 first=$3

	shift 3
	PGHOST=${via:-127.0.0.1} taskset -c "$one_cpu" "$BUILD/load" turns "$@" >"$EC_TMP/turns.out"
	awk -F '\t' -v OFS='\t' -v part="$part" -v at="$case" -v first="$first" '{
			round = first + $1 - 1
			print part, at, $2, "us", round, $3
			print part, at, $2, "p99", round, $4
			print part, at, $2, "cpu_servers", round, $5
			print part, at, $2, "cpu_client", round, $6
		}' "$EC_TMP/turns.out" >>"$raw"
}

# rotated ROUND WORD...: the words, beginning with another one in each round.
rotated()
{
	local n=$(($1 - 1)) words

	shift
	words=("$@")
	n=$((n % $#))
	echo "${words[@]:n}" "${words[@]:0:n}"
}

#
# Servers.
#

# What listens for a cache: its entry in echocache.hosts.
host_of()
{
	case $1 in
		unix) echo "$EC_TMP/unix/socket" ;;
		*) echo "127.0.0.1:$(ec_memcached_port "$1")" ;;
	esac
}

# A memcached on a unix socket.
start_unix_memcached()
{
	local user=()

	[ "$(id -u)" != 0 ] || user=(-u nobody)
	mkdir "$EC_TMP/unix"
	chmod 777 "$EC_TMP/unix"
	memcached -s "$EC_TMP/unix/socket" -a 777 "${user[@]}" -m "$cache_mb" -c 2048 \
		</dev/null >>"$EC_TMP/mc-unix.log" 2>&1 &
	echo $! >"$EC_TMP/mc-unix.pid"
	for _ in $(seq 100); do
		[ ! -S "$EC_TMP/unix/socket" ] || return 0
		sleep 0.05
	done
	ec_die "memcached does not start on a unix socket"
}

# start_postgres NAME [SETTING...]: PostgreSQL with both extensions, for the memcached "main".
start_postgres()
{
	hosts=$(host_of main)
	ec_pg_start "$1" "fsync = on" "synchronous_commit = on" "timezone = 'UTC'" \
		"shared_buffers = 1GB" "max_wal_size = 8GB" "checkpoint_timeout = 1h" "autovacuum = off" \
		"max_connections = 300" "echocache.hosts = '$hosts'" "echocache.enabled = on" "${@:2}"
	ec_pg_env "$1"
	ec_sql -c "CREATE EXTENSION echocache" -c "CREATE EXTENSION pgmemcache" -c "ALTER DATABASE postgres
		SET pgmemcache.default_servers = '$hosts'"
	ec_sql <<-'SQL'
		CREATE FUNCTION text_of(bytes int, seed bigint) RETURNS text LANGUAGE sql AS $$
		    SELECT left(string_agg(md5(seed || ' ' || i), ''), bytes)
		    FROM generate_series(0, bytes / 32) i
		$$;
	SQL
}

# start_servers [SETTING...]: the memcached "main" and the PostgreSQL "bench".  Without other
# settings it has no second tier: what is measured is memcached.
start_servers()
{
	ec_memcached_start main -m "$cache_mb" -c 2048
	start_postgres bench "echocache.local_memory = 0" "$@"
}

# on NAME COMMAND...: with this PostgreSQL.
on()
{
	(ec_pg_env "$1" && shift && "$@")
}

# All that runs in EC_TMP, so that parts do not see each other.
stop_servers()
{
	local f

	for f in "$EC_TMP"/mc-*.pid; do
		[ -e "$f" ] || continue
		f=${f##*/mc-}
		ec_memcached_stop "${f%.pid}" KILL
	done
	rm -rf "$EC_TMP"/mc-* "$EC_TMP/unix"
	for f in "$EC_TMP"/pg-*/data/postmaster.pid; do
		[ -e "$f" ] || continue
		f=${f#"$EC_TMP"/pg-}
		ec_pg_stop "${f%%/*}" immediate || true
	done
	rm -rf "$EC_TMP"/pg-*
}

# pin CPUS: what runs of the servers, and so what PostgreSQL starts from now on.
pin()
{
	local postmasters pid

	postmasters=$(head -qn 1 "$EC_TMP"/pg-*/data/postmaster.pid)
	# shellcheck disable=SC2086 # words
	for pid in $postmasters $(pgrep -P "$(paste -sd, <<<"$postmasters")") $(cat "$EC_TMP"/mc-*.pid); do
		# A backend may have ended meanwhile.
		taskset -acp "$1" "$pid" >/dev/null 2>&1 || [ ! -d "/proc/$pid" ]
	done
}

# use_hosts CACHE...: these are echocache.hosts now; wait until all are UP.
use_hosts()
{
	local list='' cache

	for cache in "$@"; do
		list=$list,$(host_of "$cache")
	done
	hosts=${list#,}
	ec_sql -c "ALTER SYSTEM SET echocache.hosts = '$hosts'" -c "SELECT pg_reload_conf()" >/dev/null
	wait_up
}

wait_up()
{
	local n

	for _ in $(seq 400); do
		n=$(ec_sql -c "SELECT count(*) FROM echocache_servers
			WHERE state = 'UP' AND server = ANY (string_to_array('$hosts', ','))
			HAVING count(*) = (SELECT count(*) FROM echocache_servers)")
		[ "$n" != "$(awk -F, '{ print NF }' <<<"$hosts")" ] || return 0
		sleep 0.05
	done
	ec_die "not all of the cache servers are UP after 20 s"
}

# set_fsync on|off
set_fsync()
{
	ec_sql -c "ALTER SYSTEM SET fsync = $1" -c "SELECT pg_reload_conf()" >/dev/null
	for _ in $(seq 100); do
		[ "$(ec_sql -c "SHOW fsync")" != "$1" ] || break
		sleep 0.02
	done
	# What was not waited for shall not be waited for later.
	sync -f "$EC_TMP"
}

# warm NAME N: documents 1 to N of this name are in the cache.  A call loads 500 at most.
warm()
{
	local n before

	for _ in 1 2 3 4 5; do
		before=$(ec_sql -c "SELECT misses FROM echocache_stats WHERE name = '$1'")
		n=$(ec_sql -c "SELECT sum((SELECT count(*) FROM echocache_get_many('$1',
			ARRAY(SELECT generate_series(s, least(s + 499, $2))))))
			FROM generate_series(1, $2::bigint, 500) s")
		[ "$n" = "$2" ] || ec_die "only $n of $2 documents could be read"
		[ "$(ec_sql -c "SELECT misses FROM echocache_stats WHERE name = '$1'")" != "$before" ] || return 0
	done
	ec_die "the documents do not stay in the cache"
}

# emit_faults PART: since the last time, what the cache did not answer for a reason of its own.
# It does not belong in a measurement, so the report says it.
emit_faults()
{
	local name value

	ec_sql -F ' ' -c "SELECT v.* FROM (SELECT sum(bypass_server) b, sum(timeouts) t, sum(errors) e
		FROM echocache_stats) s, LATERAL (VALUES ('bypass_server', b), ('timeouts', t), ('errors', e)) v" |
		while read -r name value; do
			emit faults "$1" echocache "$name" 1 "$value"
		done
	ec_sql -c "SELECT echocache_stats_reset()" >/dev/null
}

# shellcheck source=parts.sh
. "$here/parts.sh"
# shellcheck source=local.sh
. "$here/local.sh"

#
# All of it.
#

# What was measured on what.  No names and no paths.
header()
{
	echo "# date: $(date -u +%Y-%m-%d), $size run, parts ${parts[*]}, seed $seed"
	echo "# machine: $(nproc) CPUs, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)," \
		"$(awk '/MemTotal/ { printf "%.0f GB", $2 / 1048576 }' /proc/meminfo)," \
		"load $(cut -d' ' -f1 /proc/loadavg) before the run"
	echo "# system: Linux $(uname -r | sed 's/[^0-9.].*//'), data on $(df --output=fstype "$EC_TMP" | tail -1)$(
		# It takes its share of every packet on the loopback, too.
		[ ! -e /proc/sys/net/netfilter/nf_conntrack_count ] || echo ", connection tracking on")"
	echo "# versions: $(ec_sql -c "SELECT 'PostgreSQL ' || current_setting('server_version') || ', '
		|| string_agg(extname || ' ' || extversion, ', ' ORDER BY extname)
		FROM pg_extension WHERE extname IN ('echocache', 'pgmemcache')"), $(memcached -V)," \
		"libmemcached $(pkg-config --modversion libmemcached 2>/dev/null || echo unknown), $(cc --version | head -1)"
	echo "# source: $(git -C "$here" rev-parse --short HEAD 2>/dev/null || echo "not a repository")$(
		git -C "$here" diff --quiet HEAD -- ../../src ../../sql . 2>/dev/null || echo ", changed since")"
	printf '# part\tcase\tsystem\tmetric\tround\tvalue\n'
}

# Tables and plots from $work/raw.tsv.
report()
{
	awk -v check=$check -v folder="$work" -f "$here/report.awk" "$work/raw.tsv" >"$work/report.md"
	if command -v gnuplot >/dev/null; then
		(cd "$work" && gnuplot "$here/plots.gp")
	else
		ec_note "no plots: there is no gnuplot (Debian: gnuplot-nox)"
	fi
	rm -f "$work"/*.dat
}

# However this ends.  The part's client ends with its servers.
finish()
{
	[ -z "$part_pid" ] || kill "$part_pid" 2>/dev/null || true
	ec_end
}

ec_begin
part_pid=
trap finish EXIT
work=$EC_TMP/out
raw=$work/raw.tsv
mkdir "$work"
failed=
if [ $report_only = 1 ]; then
	[ -e "$out/raw.tsv" ] || ec_die "there is no raw.tsv in $out"
	cp "$out/raw.tsv" "$raw"
else
	case $(df --output=fstype "$EC_TMP" | tail -1) in
		tmpfs | ramfs) ec_note "fsync costs nothing on this file system: set TMPDIR" ;;
	esac
	export BUILD=$EC_TMP/clients
	make -s -C "$here"
	ec_build
	(start_servers && header >"$raw")
	stop_servers
	for part in "${parts[@]}"; do
		ec_note "$part"
		began=$SECONDS
		# In a subshell that is no condition, so that the first error ends the part; in the
		# background, so that a signal ends us now and not after it.
		("part_$part") &
		part_pid=$!
		status=0
		wait $part_pid || status=$?
		part_pid=
		if [ $status != 0 ]; then
			failed="$failed $part"
			echo "# not measured to its end: $part" >>"$raw"
		fi
		stop_servers
		ec_note "$part: $((SECONDS - began)) s$([ $status = 0 ] || echo ", FAILED")"
	done
fi
report
mkdir -p "$out"
# Nothing of an earlier run beside this one.
(cd "$out" && rm -f raw.tsv summary.tsv report.md \
	{reads,commit,bulk,ycsb-throughput,ycsb-latency,scale,stampede}.svg)
cp "$work"/* "$out/"
cat "$out/report.md"
[ -z "$failed" ] || ec_die "not measured:$failed"
