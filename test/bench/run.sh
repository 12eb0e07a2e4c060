#!/bin/bash
#
# run.sh [--quick | --full] [--only PART,...] [--out FOLDER] [--report] [--check]
#	  The benchmark: echocache next to PostgreSQL alone and to pgmemcache.
#
#	reads      one connection: a plain client, a hit by SQL, pgmemcache's get, the table
#	commit     what the triggers and the commit cost, 1 and 8 clients, fsync on and off
#	bulk       one UPDATE of 1 to 100,000 rows
#	ycsb       YCSB A, B, C, D and F, throughput and open-loop latencies
#	scale      1 to 4 memcached servers, 1 to 200 connections, 10 to 1,000,000 keys
#	stampede   200 clients miss one slow document at once
#	core       core.sh, on its own; only when named
#
# Writes to FOLDER (results/ beside this file; after --quick or --only
# test/build/bench/) raw.tsv, every number of every round; summary.tsv; report.md, tables;
# and plots in SVG, if there is a gnuplot.
#
#	--quick    2 minutes, to see that it works: the figures mean nothing
#	--full     10,000,000 keys as well: 10 GB of disk, 8 GB of memory, 10 minutes more
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

all_parts=(reads commit bulk ycsb scale stampede)
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
	[[ " ${all_parts[*]} core " = *" $part "* ]] || ec_die "there is no part \"$part\""
done

# How much of everything.
reads_rounds=11 reads_calls=1000
commit_rounds=5 commit_seconds=1
bulk_rounds=5 bulk_rows="1 10 100 1000 10000 50000 100000"
ycsb_rounds=3 ycsb_seconds=1.5 ycsb_records=100000 ycsb_sizes="1024 230"
scale_rounds=3 scale_seconds=1.5 scale_connections="1 8 32 100 200" scale_keys="10 1000 100000 1000000"
stampede_rounds=5 stampede_clients=200
cache_mb=1024
case $size in
	quick)
		reads_rounds=3 reads_calls=100
		commit_rounds=1 commit_seconds=0.2
		bulk_rounds=1 bulk_rows="1 100 10000 50000"
		ycsb_rounds=1 ycsb_seconds=0.2 ycsb_records=10000
		scale_rounds=1 scale_seconds=0.2 scale_keys="10 1000 20000"
		stampede_rounds=2 stampede_clients=50
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

# run_load PART CASE SYSTEM ROUND ARGUMENT...: load run, on the CPUs $cpus or else on all.
run_load()
{
	local part=$1 case=$2 system=$3 round=$4

	shift 4
	taskset -c "${cpus:-$all_cpus}" "$BUILD/load" run -S $((seed * 1000 + round)) "$@" >"$EC_TMP/run.out"
	awk -v OFS='\t' -v part="$part" -v at="$case" -v peer="$system" -v round="$round" \
		'{ print part, at, peer, $1, round, $2 }' "$EC_TMP/run.out" >>"$raw"
}

# run_turns PART CASE FIRST ROUND ARGUMENT...: load turns, on one CPU.
run_turns()
{
	local part=$1 case=$2 first=$3

	shift 3
	taskset -c "$one_cpu" "$BUILD/load" turns "$@" >"$EC_TMP/turns.out"
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

# start_servers [SETTING...]: PostgreSQL with both extensions and the memcached "main".
start_servers()
{
	ec_memcached_start main -m "$cache_mb" -c 2048
	hosts=$(host_of main)
	ec_pg_start bench "fsync = on" "synchronous_commit = on" "timezone = 'UTC'" \
		"shared_buffers = 1GB" "max_wal_size = 8GB" "checkpoint_timeout = 1h" "autovacuum = off" \
		"max_connections = 300" "echocache.hosts = '$hosts'" "echocache.enabled = on" "$@"
	ec_pg_env bench
	ec_sql -c "CREATE EXTENSION echocache" -c "CREATE EXTENSION pgmemcache" -c "ALTER DATABASE postgres
		SET pgmemcache.default_servers = '$hosts'"
	ec_sql <<-'SQL'
		CREATE FUNCTION text_of(bytes int, seed bigint) RETURNS text LANGUAGE sql AS $$
		    SELECT left(string_agg(md5(seed || ' ' || i), ''), bytes)
		    FROM generate_series(0, bytes / 32) i
		$$;
	SQL
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
	[ ! -e "$EC_TMP/pg-bench/data/postmaster.pid" ] || ec_pg_stop bench immediate
	rm -rf "$EC_TMP"/pg-bench*
}

# pin CPUS: what runs of the servers, and so what PostgreSQL starts from now on.
pin()
{
	local postmaster pid

	postmaster=$(head -1 "$EC_TMP/pg-bench/data/postmaster.pid")
	for pid in "$postmaster" $(pgrep -P "$postmaster") $(cat "$EC_TMP"/mc-*.pid); do
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

# warm NAME N: documents 1 to N of this name are in the cache.
warm()
{
	local n

	n=$(ec_sql -c "SELECT sum((SELECT count(*) FROM echocache_get_many('$1',
		ARRAY(SELECT generate_series(s, least(s + 999, $2))))))
		FROM generate_series(1, $2::bigint, 1000) s")
	[ "$n" = "$2" ] || ec_die "only $n of $2 documents could be read"
}

# What the cache did not answer for a reason of its own: it does not belong in a measurement.
emit_faults()
{
	local name value

	ec_sql -F ' ' -c "SELECT v.* FROM (SELECT sum(bypass_server) b, sum(timeouts) t, sum(errors) e
		FROM echocache_stats) s, LATERAL (VALUES ('bypass_server', b), ('timeouts', t), ('errors', e)) v" |
		while read -r name value; do
			emit "$1" faults echocache "$name" 1 "$value"
		done
}

#
# Parts.
#

part_reads()
{
	local kb id doc

	start_servers
	# Documents of exactly 1, 10 and 100 KB, and one of 21 rows.
	ec_sql <<-'SQL' >/dev/null
		CREATE TABLE hits (id bigint PRIMARY KEY, body text);
		INSERT INTO hits
		SELECT i, text_of(kb * 1024 - length('{"id":1001,"body":""}'), i)
		FROM (VALUES (1001, 1), (1010, 10), (1100, 100)) v (i, kb);
		SELECT echocache_attach('hits');

		CREATE TABLE sessions (id bigint PRIMARY KEY, user_id bigint NOT NULL, title text);
		CREATE TABLE messages (
		    id bigint PRIMARY KEY, session_id bigint NOT NULL REFERENCES sessions, author text, body text);
		CREATE INDEX ON messages (session_id, id);
		INSERT INTO sessions SELECT i, i / 10, 'Session ' || i FROM generate_series(1, 100) i;
		INSERT INTO messages SELECT i, 1 + i / 20, 'user', text_of(200, i) FROM generate_series(0, 1999) i;
		CREATE FUNCTION thread(sessions) RETURNS json LANGUAGE sql STABLE AS $$
		    SELECT json_build_object('id', $1.id, 'user_id', $1.user_id, 'title', $1.title, 'messages',
		        (SELECT json_agg(json_build_object('author', m.author, 'body', m.body) ORDER BY m.id)
		         FROM public.messages m WHERE m.session_id = $1.id))
		$$;
		SELECT echocache_attach('sessions', 'thread', document => 'thread');
		SELECT echocache_attach_dependent('messages', 'session_id', 'thread');
		VACUUM ANALYZE;
		CHECKPOINT;
	SQL
	wait_up
	ec_sql -c "SELECT echocache_get_session(id) FROM hits" -c "SELECT echocache_get('thread', 1)" >/dev/null
	pin "$one_cpu"
	for kb in 1 10 100; do
		id=$((1000 + kb))
		run_turns reads "$kb KB" 1 -m "$hosts" -p "$(ec_memcached_pid main)" \
			-e "plain client,echocache,pgmemcache,PostgreSQL" $reads_rounds $reads_calls \
			"select 1" 1 "" "SELECT 1" \
			"plain client" 1 "session:$id" get \
			echocache 1 $id "SELECT echocache_get_session(\$1::bigint)" \
			pgmemcache 1 "session:$id" "SELECT memcache_get(\$1::text)" \
			PostgreSQL 1 $id "SELECT row_to_json(h) FROM hits h WHERE id = \$1::bigint"
	done
	doc="session with 20 messages"
	run_turns reads "$doc" 1 -m "$hosts" -p "$(ec_memcached_pid main)" \
		-e "plain client,echocache,pgmemcache,PostgreSQL" $reads_rounds $reads_calls \
		"select 1" 1 "" "SELECT 1" \
		"plain client" 1 "thread:1" get \
		echocache 1 1 "SELECT echocache_get('thread', \$1::bigint)" \
		pgmemcache 1 "thread:1" "SELECT memcache_get(\$1::text)" \
		PostgreSQL 1 1 "SELECT json_build_object('id', s.id, 'user_id', s.user_id, 'title', s.title, 'messages',
			(SELECT json_agg(json_build_object('author', m.author, 'body', m.body) ORDER BY m.id)
			FROM messages m WHERE m.session_id = s.id)) FROM sessions s WHERE s.id = \$1::bigint"
	emit_faults reads
}

# one_commit ROUND FSYNC CLIENTS TABLE SYSTEM
one_commit()
{
	local case="$3 clients, fsync $2" cpus=$all_cpus

	[ "$3" != 1 ] || case="1 client, fsync $2" cpus=$one_cpu
	ec_sql -c "VACUUM updates_$4" -c CHECKPOINT
	run_load commit "$case" "$5" "$1" -c "$3" -t $commit_seconds -n 10000 -x update=1 -s 20 \
		-U "UPDATE updates_$4 SET updated_at = clock_timestamp(), note = \$2 WHERE id = \$1::bigint"
}

part_commit()
{
	local round fsync clients table cached

	start_servers
	start_unix_memcached
	# As an application has it: an update moves the row in an index, so it is not HOT.
	ec_sql <<-'SQL' >/dev/null
		CREATE TABLE updates_bare (
		    id bigint PRIMARY KEY, user_id bigint NOT NULL, updated_at timestamptz NOT NULL, note text, body text);
		CREATE INDEX ON updates_bare (user_id, updated_at);
		CREATE TABLE updates_through (LIKE updates_bare INCLUDING ALL);
		CREATE TABLE updates_invalidate (LIKE updates_bare INCLUDING ALL);
		CREATE TABLE updates_set (LIKE updates_bare INCLUDING ALL);
		CREATE TABLE updates_delete (LIKE updates_bare INCLUDING ALL);
		INSERT INTO updates_bare
		SELECT i, i / 10, 'epoch', '', text_of(900, i) FROM generate_series(1, 10000) i;
		INSERT INTO updates_through SELECT * FROM updates_bare;
		INSERT INTO updates_invalidate SELECT * FROM updates_bare;
		INSERT INTO updates_set SELECT * FROM updates_bare;
		INSERT INTO updates_delete SELECT * FROM updates_bare;
		SELECT echocache_attach('updates_through', 'through');
		SELECT echocache_attach('updates_invalidate', 'invalidate', policy => 'invalidate');
		CREATE FUNCTION set_in_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
		    PERFORM memcache_set('set:' || NEW.id, row_to_json(NEW)::text);
		    RETURN NULL;
		END $$;
		CREATE FUNCTION delete_in_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
		    PERFORM memcache_delete('delete:' || NEW.id);
		    RETURN NULL;
		END $$;
		CREATE TRIGGER naive AFTER UPDATE ON updates_set FOR EACH ROW EXECUTE FUNCTION set_in_trigger();
		CREATE TRIGGER naive AFTER UPDATE ON updates_delete FOR EACH ROW EXECUTE FUNCTION delete_in_trigger();
		VACUUM ANALYZE;
		CHECKPOINT;
	SQL
	wait_up
	# The first time makes the files grow: it does not count.
	for table in bare through invalidate set delete; do
		"$BUILD/load" run -c 8 -t $commit_seconds -n 10000 -x update=1 -s 20 \
			-U "UPDATE updates_$table SET updated_at = clock_timestamp(), note = \$2 WHERE id = \$1::bigint" >/dev/null
	done
	cached=$(ec_sql -c "SELECT 100 * count(memcache_get('through:' || id)) FILTER
		(WHERE memcache_get('through:' || id) = row_to_json(u)::text) / count(*)
		FROM updates_through u WHERE updated_at > 'epoch'")
	[ "$cached" -ge 90 ] || ec_die "only $cached % of the updated documents are in the cache: that is no write-through"
	for round in $(seq $commit_rounds); do
		for fsync in on off; do
			set_fsync $fsync
			use_hosts main
			for clients in 1 8; do
				pin "$([ $clients = 1 ] && echo "$one_cpu" || echo "$all_cpus")"
				for table in $(rotated "$round" bare through invalidate set delete); do
					case $table in
						bare) one_commit "$round" $fsync $clients bare "no trigger" ;;
						through) one_commit "$round" $fsync $clients through "echocache write-through" ;;
						invalidate) one_commit "$round" $fsync $clients invalidate "echocache invalidate" ;;
						set) one_commit "$round" $fsync $clients set "pgmemcache set" ;;
						delete) one_commit "$round" $fsync $clients delete "pgmemcache delete" ;;
					esac
				done
			done
			use_hosts unix
			for clients in 1 8; do
				pin "$([ $clients = 1 ] && echo "$one_cpu" || echo "$all_cpus")"
				one_commit "$round" $fsync $clients through "echocache write-through, unix socket"
				one_commit "$round" $fsync $clients invalidate "echocache invalidate, unix socket"
			done
		done
	done
	emit_faults commit
}

part_bulk()
{
	local rows calls statements table

	start_servers
	ec_sql <<-'SQL' >/dev/null
		CREATE TABLE bulk_bare (
		    id bigint PRIMARY KEY, user_id bigint NOT NULL, updated_at timestamptz NOT NULL, body text);
		CREATE INDEX ON bulk_bare (user_id, updated_at);
		CREATE TABLE bulk_echocache (LIKE bulk_bare INCLUDING ALL);
		CREATE TABLE bulk_set (LIKE bulk_bare INCLUDING ALL);
		INSERT INTO bulk_bare SELECT i, i / 10, 'epoch', text_of(1000, i) FROM generate_series(1, 100000) i;
		INSERT INTO bulk_echocache SELECT * FROM bulk_bare;
		INSERT INTO bulk_set SELECT * FROM bulk_bare;
		SELECT echocache_attach('bulk_echocache', 'bulk');
		CREATE FUNCTION set_in_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
		    PERFORM memcache_set('set:' || NEW.id, row_to_json(NEW)::text);
		    RETURN NULL;
		END $$;
		CREATE TRIGGER naive AFTER UPDATE ON bulk_set FOR EACH ROW EXECUTE FUNCTION set_in_trigger();
		VACUUM ANALYZE;
	SQL
	wait_up
	warm bulk 100000
	pin "$one_cpu"
	for rows in $bulk_rows; do
		calls=$((rows <= 10 ? 50 : rows <= 100 ? 20 : rows <= 1000 ? 5 : 1))
		statements=()
		for table in bare echocache set; do
			statements+=(- 1 "" "VACUUM bulk_$table")
		done
		statements+=(- 1 "" CHECKPOINT)
		for table in "no trigger:bare" "echocache:echocache" "pgmemcache set:set"; do
			statements+=("${table%%:*}" 1 "" "UPDATE bulk_${table##*:} SET updated_at = clock_timestamp()
				WHERE id <= $rows")
		done
		# The first round makes the files grow: it does not count.
		taskset -c "$one_cpu" "$BUILD/load" turns 1 1 "${statements[@]}" >/dev/null
		run_turns bulk "$rows" 1 $bulk_rounds $calls "${statements[@]}"
	done
	emit_faults bulk
}

# The statements of each system, for a table and document of that name.
#
# pgmemcache as its README has it: a trigger sets the new document; who misses reads
# the table and sets what he read.  It is not coherent.
ycsb_arguments()
{
	local system=$1 table=$2

	arguments=(
		-U "UPDATE ${table}_$system SET field = \$2 WHERE id = \$1::bigint"
		-I "INSERT INTO ${table}_$system VALUES (\$1::bigint, \$2, repeat('x', $3))"
	)
	case $system in
		PostgreSQL)
			arguments+=(-R "SELECT row_to_json(t) FROM ${table}_PostgreSQL t WHERE id = \$1::bigint")
			;;
		echocache)
			arguments+=(-m "$hosts" -k "$table:" -R "SELECT echocache_get('$table', \$1::bigint)")
			;;
		pgmemcache)
			arguments+=(-m "$hosts" -k "set.$table:" -R "SELECT doc, memcache_set('set.$table:' || \$1::bigint, doc)
				FROM (SELECT row_to_json(t)::text AS doc FROM ${table}_pgmemcache t
				WHERE id = \$1::bigint OFFSET 0) d")
			;;
	esac
}

# ycsb_table SYSTEM TABLE RECORDS BYTES OF FIELD, OF BODY
ycsb_table()
{
	# Room for updates in place, as a table has it that is updated.
	ec_sql -c "CREATE TABLE $2_$1 (id bigint PRIMARY KEY, field text, body text) WITH (fillfactor = 80)" \
		-c "INSERT INTO $2_$1 SELECT i, left(repeat(md5(i::text), 4), $4),
			left(repeat(md5((-i)::text), 40), $5) FROM generate_series(1, $3) i"
	case $1 in
		echocache) ec_sql -c "SELECT echocache_attach('$2_$1', '$2')" >/dev/null ;;
		pgmemcache)
			ec_sql >/dev/null <<-SQL
				CREATE FUNCTION set_$2() RETURNS trigger LANGUAGE plpgsql AS \$\$
				BEGIN
				    PERFORM memcache_set('set.$2:' || NEW.id, row_to_json(NEW)::text);
				    RETURN NULL;
				END \$\$;
				CREATE TRIGGER naive AFTER INSERT OR UPDATE ON $2_$1 FOR EACH ROW EXECUTE FUNCTION set_$2();
			SQL
			;;
	esac
}

# half_of_slowest CASE: the rate of the open loop.
half_of_slowest()
{
	awk -F '\t' -v at="$1" '
		$1 == "ycsb" && $2 == at && $4 == "throughput" { n[$3]++; value[$3, n[$3]] = $6 }
		END {
			for (peer in n) {
				for (i = 2; i <= n[peer]; i++)
					for (j = i; j > 1 && value[peer, j - 1] > value[peer, j]; j--) {
						t = value[peer, j]; value[peer, j] = value[peer, j - 1]; value[peer, j - 1] = t
					}
				median = value[peer, int((n[peer] + 1) / 2)]
				if (least == "" || median < least) least = median
			}
			printf "%.0f\n", least / 2
		}' "$raw"
}

part_ycsb()
{
	local bytes field body table letter mix distribution case loop round system rate last

	start_servers
	for bytes in $ycsb_sizes; do
		table=ycsb$bytes
		field=$((bytes >= 1000 ? 100 : 20))
		body=$((bytes - field - ${#ycsb_records} - $(printf '{"id":,"field":"","body":""}' | wc -c)))
		for system in PostgreSQL echocache pgmemcache; do
			ycsb_table $system "$table" $ycsb_records $field $body
		done
		ec_sql -c "VACUUM ANALYZE" -c CHECKPOINT
		wait_up
		warm "$table" $ycsb_records
		ec_sql >/dev/null -c "SELECT count(memcache_set('set.$table:' || id, row_to_json(t)::text))
			FROM ${table}_pgmemcache t"
		for letter in A B C F D; do
			distribution=zipfian
			case $letter in
				A) mix=read=50,update=50 ;;
				B) mix=read=95,update=5 ;;
				C) mix=read=1 ;;
				F) mix=read=50,rmw=50 ;;
				D) mix=read=95,insert=5 distribution=latest ;;
			esac
			case="$letter, $([ "$bytes" = 1024 ] && echo 1 KB || echo "$bytes B")"
			ec_sql -c "VACUUM ${table}_PostgreSQL, ${table}_echocache, ${table}_pgmemcache" -c CHECKPOINT
			for loop in closed open; do
				[ $loop = closed ] || rate=$(half_of_slowest "$case")
				for round in $(seq $ycsb_rounds); do
					for system in $(rotated "$round" PostgreSQL echocache pgmemcache); do
						ycsb_arguments "$system" "$table" $body
						arguments+=(-c 16 -t $ycsb_seconds -n $ycsb_records -x $mix -d $distribution -s $field)
						if [ $letter = D ]; then
							last=$(ec_sql -c "SELECT max(id) FROM ${table}_$system")
							arguments+=(-N "$last")
						fi
						if [ $loop = closed ]; then
							run_load ycsb "$case" "$system" "$round" "${arguments[@]}"
						else
							emit ycsb-open "$case" "$system" rate "$round" "$rate"
							run_load ycsb-open "$case" "$system" "$round" "${arguments[@]}" -r "$rate"
						fi
					done
				done
			done
		done
	done
	emit_faults ycsb
}

part_scale()
{
	local round n system records=${scale_keys##* } i

	start_servers
	for i in 2 3 4; do
		ec_memcached_start $i -m 256 -c 2048
	done
	for system in PostgreSQL echocache; do
		ycsb_table $system scale "$records" 20 160
	done
	ec_sql -c "VACUUM ANALYZE" -c CHECKPOINT
	for round in $(seq $scale_rounds); do
		for n in $(rotated "$round" 1 2 3 4); do
			# shellcheck disable=SC2046 # words
			use_hosts main $(seq 2 "$n")
			warm scale 20000
			ycsb_arguments echocache scale 160
			run_load scale-servers "$n" echocache "$round" "${arguments[@]}" -c 16 -t $scale_seconds -n 20000 \
				-x read=95,update=5 -d zipfian -s 20
			run_turns scale-many "$n" "$round" 1 50 echocache 1 "{$(seq -s, 1 100)}" \
				"SELECT id, document FROM echocache_get_many('scale', \$1::bigint[])"
		done
	done
	use_hosts main
	warm scale "$records"
	for round in $(seq $scale_rounds); do
		for n in $scale_connections; do
			for system in $(rotated "$round" PostgreSQL echocache); do
				ycsb_arguments "$system" scale 160
				run_load scale-connections "$n" "$system" "$round" "${arguments[@]}" -c "$n" -t $scale_seconds \
					-n 20000 -x read=95,update=5 -d zipfian -s 20
			done
		done
		for n in $scale_keys; do
			for system in $(rotated "$round" PostgreSQL echocache); do
				ycsb_arguments "$system" scale 160
				run_load scale-keys "$n" "$system" "$round" "${arguments[@]}" -c 16 -t $scale_seconds \
					-n "$n" -x read=95,update=5 -d zipfian -s 20
			done
		done
	done
	emit_faults scale
}

# builds: how often has the slow document been computed?
builds()
{
	# A backend's count is there once it has gone.
	for _ in $(seq 100); do
		[ "$(ec_sql -c "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")" != 1 ] || break
		sleep 0.05
	done
	ec_sql -c "SELECT calls FROM pg_stat_user_functions WHERE funcname = 'compute'"
}

part_stampede()
{
	local round system before

	start_servers "track_functions = all"
	# Document 1 takes some 20 ms of CPU; 2 is for connections to warm up with.
	ec_sql >/dev/null <<-'SQL'
		CREATE TABLE slow (id bigint PRIMARY KEY);
		INSERT INTO slow VALUES (1), (2);
		CREATE FUNCTION compute() RETURNS bigint LANGUAGE plpgsql STABLE AS $$
		BEGIN
		    RETURN (SELECT sum(length(md5(i::text))) FROM generate_series(1, 50000) i);
		END $$;
		CREATE FUNCTION slow_document(slow) RETURNS json LANGUAGE plpgsql STABLE AS $$
		BEGIN
		    RETURN json_build_object('id', $1.id, 'n', CASE $1.id WHEN 1 THEN public.compute() END);
		END $$;
		SELECT echocache_attach('slow', 'slow', document => 'slow_document');
	SQL
	wait_up
	for round in $(seq $stampede_rounds); do
		for system in $(rotated "$round" PostgreSQL echocache pgmemcache); do
			ec_sql -c "SELECT echocache_get('slow', 2), echocache_invalidate('slow', 1), memcache_delete('set.slow:1')" \
				>/dev/null
			case $system in
				PostgreSQL) arguments=(-R "SELECT slow_document(s) FROM slow s WHERE id = \$1::bigint") ;;
				echocache) arguments=(-m "$hosts" -k slow: -R "SELECT echocache_get('slow', \$1::bigint)") ;;
				pgmemcache)
					arguments=(-m "$hosts" -k set.slow: -R "SELECT doc, memcache_set('set.slow:' || \$1::bigint, doc)
						FROM (SELECT slow_document(s)::text AS doc FROM slow s WHERE id = \$1::bigint OFFSET 0) d")
					;;
			esac
			before=$(builds)
			run_load stampede "$stampede_clients clients" "$system" "$round" "${arguments[@]}" \
				-c $stampede_clients -b -n 1 -w 2
			emit stampede "$stampede_clients clients" "$system" builds "$round" $(($(builds) - before))
		done
	done
	emit_faults stampede
}

# core.sh has servers of its own.
part_core()
{
	bash "$here/core.sh" $([ $size != quick ] || echo --quick) | tee "$work/core.txt" >&2
}

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
		git -C "$here" diff --quiet HEAD -- "$ec_root/src" "$ec_root/sql" "$here" 2>/dev/null || echo ", changed since")"
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

ec_begin
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
		# In a subshell that is no condition, so that the first error ends the part.
		set +e
		(set -e; "part_$part")
		status=$?
		set -e
		[ $status = 0 ] || failed="$failed $part"
		stop_servers
		ec_note "$part: $((SECONDS - began)) s$([ $status = 0 ] || echo ", FAILED")"
	done
fi
report
mkdir -p "$out"
cp "$work"/* "$out/"
cat "$out/report.md"
[ -z "$failed" ] || ec_die "not measured:$failed"
