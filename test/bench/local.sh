# shellcheck shell=bash disable=SC2154
#
# local.sh
#	  The part "local" of the benchmark: the second tier.  To be sourced by run.sh, as
#	  parts.sh.
#
# Two PostgreSQL have the same tables and use the same memcached, side by side: "tier" with 64 MB
# for the second tier, and "bench" without, which is how a read was before there was one.  So all
# that is compared runs in turns.
#
# Copyright (c) 2026, echocache developers

without="echocache without the tier"
constant="a constant as long"

# both COMMAND...: with "bench", and with "tier".
both()
{
	on bench "$@"
	on tier "$@"
}

# both_use CACHE: each waits until it is UP.  Sets hosts.
both_use()
{
	on bench use_hosts "$1"
	use_hosts "$1"
}

# read_counts NAME: reads until now, of them hits of the second tier, and of memcached.
read_counts()
{
	ec_sql -F ' ' -c "SELECT local_hits + hits + misses + bypass_disabled + bypass_server + bypass_isolation
			+ bypass_own_change + bypass_row_security + bypass_key + bypass_owner, local_hits, hits, local_evictions
		FROM echocache_stats WHERE name = '$1'"
}

# counted PART CASE SYSTEM ROUND NAME COMMAND...: run it, and emit what has answered the reads of
# this name meanwhile.
counted()
{
	local part=$1 case=$2 system=$3 round=$4 name=$5 before after metric share

	shift 5
	read -r -a before <<<"$(read_counts "$name")"
	"$@"
	read -r -a after <<<"$(read_counts "$name")"
	while read -r metric share; do
		emit "$part" "$case" "$system" "$metric" "$round" "$share"
	done <<<"$(awk -v before="${before[*]}" -v after="${after[*]}" 'BEGIN {
			split(before, b, " ")
			split(after, a, " ")
			reads = a[1] - b[1]
			printf "local_share %.6f\nhit_share %.6f\n", (a[2] - b[2]) / reads, (a[2] - b[2] + a[3] - b[3]) / reads
			printf "evicted_share %.6f\n", (a[4] - b[4]) / reads
		}')"
}

# all_local PART: what was counted of "echocache" shall be hits of the second tier.
all_local()
{
	awk -F '\t' -v part="$1" '
		$1 == part && $3 == "echocache" && $4 == "local_share" {
			n++
			if ($6 < 0.99) { print "# only " $6 " of the reads of " $2 " were answered by the second tier"; bad = 1 }
		}
		END { exit bad || n == 0 }' "$raw" >&2 || ec_die "that does not measure the second tier"
}

# entries NAME: documents of it in the second tier.
entries()
{
	ec_sql -c "SELECT entries FROM echocache_memory WHERE name = '$1'"
}

# has_entries NAME N: are so many there, but for some that somebody was just writing?
has_entries()
{
	[ $((100 * $(entries "$1"))) -ge $((99 * $2)) ]
}

# fill_tier NAME N: documents 1 to N of this name are in memcached and in the second tier.  Where
# others have to go, they come in as they are asked for again, 50 in each call.
fill_tier()
{
	warm "$1" "$2"
	for _ in $(seq 20); do
		! has_entries "$1" "$2" || return 0
		ec_sql -c "SELECT count((SELECT count(*) FROM echocache_get_many('$1',
			ARRAY(SELECT generate_series(s, least(s + 49, $2))))))
			FROM generate_series(1, $2::bigint, 50) s" >/dev/null
	done
	ec_die "only $(entries "$1") of $2 documents are in the second tier"
}

# text_as_long DOCUMENT TYPE ID: a literal with as many bytes as the document has.
text_as_long()
{
	ec_sql -c "SELECT quote_literal(repeat('x', octet_length(echocache_get('$1', '$3'::$2)::text)))"
}

# one_tier_read PART CACHE CASE DOCUMENT TYPE ID SQL: as one_read; and a constant of as many bytes,
# since to send them takes its time whoever has them.
one_tier_read()
{
	counted "$1" "$3" echocache 1 "$4" \
		run_turns "$1" "$3" 1 -p "$(ec_memcached_pid "$2")" -o "$bench_port:$without" \
		-e "echocache,$without,pgmemcache,PostgreSQL" $reads_rounds $reads_calls \
		"select 1" 1 "" "SELECT 1" \
		"$constant" 1 "" "SELECT $(text_as_long "$4" "$5" "$6")" \
		echocache 1 "$6" "SELECT echocache_get('$4', \$1::$5)" \
		"$without" 1 "$6" "SELECT echocache_get('$4', \$1::$5)" \
		pgmemcache 1 "tier:$4:$6" "SELECT memcache_get(\$1::text)" \
		PostgreSQL 1 "$6" "$7"
}

tier_reads()
{
	local part cache

	for part in local local-unix; do
		cache=main via=127.0.0.1
		[ $part = local ] || cache=unix via=$EC_TMP/pg-bench
		both_use $cache
		ec_sql -c "ALTER DATABASE postgres SET pgmemcache.default_servers = '$hosts'"
		both warm_documents
		pin "$one_cpu"
		each_document one_tier_read $part $cache
		counted $part-many "1 KB" echocache 1 hit \
			run_turns $part-many "1 KB" 1 -o "$bench_port:100 calls without the tier" $reads_rounds $((reads_calls / 40)) \
			"one call" 1 "{$(seq -s, 1 100)}" "SELECT id, document FROM echocache_get_many('hit', \$1::bigint[])" \
			"PostgreSQL" 1 "{$(seq -s, 1 100)}" "SELECT id, row_to_json(h) FROM hits h WHERE id = ANY (\$1::bigint[])" \
			"100 calls" 100 "" "SELECT echocache_get('hit', \$1::bigint)" \
			"100 calls without the tier" 100 "" "SELECT echocache_get('hit', \$1::bigint)"
		all_local $part
		all_local $part-many
	done
	pin "$all_cpus"
}

# tier_clients CASE NAME N: 8 clients read documents 1 to N of this name.
tier_clients()
{
	local round system text

	text=$(text_as_long "$2" bigint 1)
	for round in $(seq $local_rounds); do
		for system in $(rotated "$round" select1 constant tier bench PostgreSQL); do
			arguments=(-c 8 -t "$local_seconds" -n "$3")
			case $system in
				select1) run_load local-clients "$1" "select 1" "$round" "${arguments[@]}" -q -R "SELECT 1" ;;
				constant)
					run_load local-clients "$1" "$constant" "$round" "${arguments[@]}" -q \
						-R "SELECT $text"
					;;
				tier)
					counted local-clients "$1" echocache "$round" "$2" \
						run_load local-clients "$1" echocache "$round" "${arguments[@]}" \
						-R "SELECT echocache_get('$2', \$1::bigint)"
					;;
				bench)
					on bench run_load local-clients "$1" "$without" "$round" "${arguments[@]}" \
						-R "SELECT echocache_get('$2', \$1::bigint)"
					;;
				PostgreSQL)
					run_load local-clients "$1" PostgreSQL "$round" "${arguments[@]}" \
						-R "SELECT row_to_json(t) FROM ${2}_echocache t WHERE id = \$1::bigint"
					;;
			esac
		done
	done
	all_local local-clients
}

# updates: how often the document was updated, and when that was asked, in s.
updates()
{
	ec_sql -F ' ' -c "SELECT n, extract(epoch FROM clock_timestamp()) FROM written"
}

# one_written ROUND SYSTEM: 8 clients read a document that another one updates.
one_written()
{
	local case="1,000 updates a second" writer status=0 before after

	# It begins before them and ends after them; what it has to say does not count.
	"$BUILD/load" run -c 1 -r 1000 -t "$(bc <<<"$local_seconds + 1.5")" -n 1 -x update=1 -s 20 \
		-U "UPDATE written SET n = n + 1, note = \$2 WHERE id = \$1::bigint" >/dev/null &
	writer=$!
	sleep 0.7
	read -r -a before <<<"$(updates)"
	counted local-written "$case" "$2" "$1" written \
		run_load local-written "$case" "$2" "$1" -c 8 -t "$local_seconds" -n 1 \
		-R "SELECT echocache_get('written', \$1::bigint)"
	read -r -a after <<<"$(updates)"
	wait $writer || status=$?
	[ $status = 0 ] || ec_die "the updates failed"
	emit local-written "$case" "$2" updates "$1" \
		"$(bc <<<"scale = 1; (${after[0]} - ${before[0]}) / (${after[1]} - ${before[1]})")"
}

tier_written()
{
	local round system

	# Otherwise it is the disk that says how often it can be updated.
	both set_fsync off
	both warm written 1
	for round in $(seq $local_rounds); do
		for system in $(rotated "$round" tier bench); do
			on "$system" one_written "$round" "$([ "$system" = tier ] && echo echocache || echo "$without")"
		done
	done
}

tier_commits()
{
	# For longer than other commits: 3 % of it shall show.
	local round fsync clients system commit_seconds=$local_commit_seconds

	on bench grow_updates bare through
	on bench warm through 10000
	grow_updates through
	fill_tier through 10000
	for round in $(seq $local_commit_rounds); do
		for fsync in on off; do
			both set_fsync $fsync
			for clients in 1 8; do
				pin "$([ $clients = 1 ] && echo "$one_cpu" || echo "$all_cpus")"
				for system in $(rotated "$round" tier bench bare); do
					case $system in
						tier) one_commit local-commit "$round" $fsync $clients through echocache ;;
						bench) on bench one_commit local-commit "$round" $fsync $clients through "$without" ;;
						bare) on bench one_commit local-commit "$round" $fsync $clients bare "no trigger" ;;
					esac
				done
			done
		done
	done
	# They have stayed there, so each commit had an entry to mark.
	has_entries through 10000 || ec_die "only $(entries through) of 10000 documents have stayed in the second tier"
	pin "$all_cpus"
	both set_fsync on
}

# thousands N: with commas.
thousands()
{
	sed -E ':again; s/([0-9])([0-9]{3})($|,)/\1,\2\3/; t again' <<<"$1"
}

# More documents than the second tier has room for.
tier_zipfian()
{
	local n=$local_zipfian_documents case round body there
	local read=(-c 8 -n "$local_zipfian_documents" -d zipfian -R "SELECT echocache_get('many', \$1::bigint)")

	case="$(thousands "$n") documents of 1 KB"
	body=$((1024 - 100 - ${#n} - $(printf '{"id":,"field":"","body":""}' | wc -c)))
	ycsb_table echocache many "$n" 100 $body
	ec_sql -c "VACUUM ANALYZE many_echocache" -c CHECKPOINT
	warm many "$n"
	# Until those are there that are read most.
	"$BUILD/load" run "${read[@]}" -t "$local_zipfian_first" >/dev/null
	for round in $(seq $local_zipfian_rounds); do
		counted local-zipfian "$case" echocache "$round" many \
			run_load local-zipfian "$case" echocache "$round" "${read[@]}" -t "$local_zipfian_seconds"
		there=$(entries many)
		emit local-zipfian "$case" echocache entries "$round" "$there"
		# What as many documents could answer, if they were always those that are read most.
		emit local-zipfian "$case" echocache most "$round" "$(awk -v n="$n" -v there="$there" 'BEGIN {
				for (i = 1; i <= n; i++) { sum += i ^ -0.99; if (i == there) best = sum }
				printf "%.6f\n", best / sum
			}')"
	done
}

part_local()
{
	local bench_port cache_mb=$cache_mb via=$EC_TMP/pg-bench

	# All of tier_zipfian.
	[ "$cache_mb" -ge 2048 ] || cache_mb=2048
	start_servers
	start_unix_memcached
	bench_port=$PGPORT
	# From here on "tier" is meant where no other one is named.  Its socket lies beside that of "bench".
	start_postgres tier "echocache.local_memory = 64MB" "echocache.key_prefix = 'tier:'" \
		"unix_socket_directories = '$EC_TMP/pg-tier, $EC_TMP/pg-bench'"
	both read_tables
	both update_tables
	both ycsb_table echocache single 1 100 $((1024 - 100 - 1 - $(printf '{"id":,"field":"","body":""}' | wc -c)))
	both ycsb_table echocache small "$local_documents" 20 160
	both ec_sql -c "CREATE TABLE written (id bigint PRIMARY KEY, n bigint NOT NULL, note text, body text)
			WITH (fillfactor = 10)" -c "INSERT INTO written VALUES (1, 0, '', text_of(950, 1))" \
		-c "SELECT echocache_attach('written', 'written')" -c "VACUUM ANALYZE" -c CHECKPOINT >/dev/null
	tier_reads
	both warm single 1
	both warm small 1
	tier_clients "one document of 1 KB" single 1
	tier_clients "one document of 230 B" small 1
	tier_written
	tier_commits
	tier_zipfian
	emit_faults local
	# 64 MB have room for 65,536 documents at most.
	ec_pg_stop tier
	ec_pg_start tier "echocache.local_memory = 128MB"
	wait_up
	on bench warm small "$local_documents"
	fill_tier small "$local_documents"
	tier_clients "$(thousands "$local_documents") documents of 230 B" small "$local_documents"
	emit_faults "local, 128 MB"
	on bench emit_faults "local, without the tier"
}
