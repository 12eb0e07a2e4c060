# shellcheck shell=bash disable=SC2154
#
# parts.sh
#	  The parts of the benchmark: to be sourced by run.sh, which has what they measure
#	  with.  Each runs in a subshell of its own, ends at the first error, and need not
#	  stop its servers.
#
# Copyright (c) 2026, echocache developers

# A document of read_tables.
chat=5c2e1a54-0f9e-4f6e-9c0b-6a1f0e2d7b11

# Documents of exactly 1, 10 and 100 KB, a chat session as jsonb, and one of 21 rows.
read_tables()
{
	ec_sql <<-'SQL' >/dev/null
		CREATE TABLE hits (id bigint PRIMARY KEY, body text);
		INSERT INTO hits
		SELECT i, text_of(kb * 1024 - length('{"id":1001,"body":""}'), i)
		FROM (VALUES (1001, 1), (1010, 10), (1100, 100)) v (i, kb);
		INSERT INTO hits SELECT i, text_of(1000, i) FROM generate_series(1, 100) i;
		SELECT echocache_attach('hits', 'hit');

		CREATE TABLE chats (
		    session_id uuid PRIMARY KEY, user_id bigint NOT NULL, title text, messages jsonb NOT NULL,
		    is_deleted boolean NOT NULL DEFAULT false, updated_at timestamptz NOT NULL DEFAULT 'epoch');
		INSERT INTO chats SELECT CASE s WHEN 1 THEN '5c2e1a54-0f9e-4f6e-9c0b-6a1f0e2d7b11' ELSE gen_random_uuid() END,
		    s / 10, 'Chat ' || s, (SELECT jsonb_agg(jsonb_build_object('role', CASE i % 2 WHEN 0 THEN 'user' ELSE 'assistant' END,
		        'content', text_of(200, s * 100 + i), 'tokens', i * 7)) FROM generate_series(1, 38) i)
		FROM generate_series(1, 100) s;
		SELECT echocache_attach('chats', 'chat', filter => 'NOT is_deleted', exclude => '{is_deleted}');

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
}

# Of read_tables all that is read, into the memcached that is used now.
warm_documents()
{
	ec_sql -c "SELECT echocache_refresh('hit', id), echocache_get('hit', id) FROM hits" \
		-c "SELECT echocache_refresh('thread', 1::bigint), echocache_get('thread', 1)" \
		-c "SELECT echocache_refresh('chat', '$chat'::uuid), echocache_get('chat', '$chat')" >/dev/null
}

# each_document COMMAND...: for each kind of document in read_tables, with its case, name, type of
# the id, id, and SQL that gives its bytes.
each_document()
{
	local kb

	for kb in 1 10 100; do
		"$@" "$kb KB" hit bigint $((1000 + kb)) "SELECT row_to_json(h) FROM hits h WHERE id = \$1::bigint"
	done
	"$@" "chat of 10 KB" chat uuid $chat \
		"SELECT row_to_json(d) FROM (SELECT session_id, user_id, title, messages, updated_at FROM chats
		WHERE session_id = \$1::uuid AND NOT is_deleted) d"
	"$@" "session with 20 messages" thread bigint 1 \
		"SELECT json_build_object('id', s.id, 'user_id', s.user_id, 'title', s.title, 'messages',
		(SELECT json_agg(json_build_object('author', m.author, 'body', m.body) ORDER BY m.id)
		FROM messages m WHERE m.session_id = s.id)) FROM sessions s WHERE s.id = \$1::bigint"
}

# one_read PART CACHE CASE DOCUMENT TYPE ID SQL: of this document, by everyone; all get the same bytes.
one_read()
{
	run_turns "$1" "$3" 1 -m "$hosts" -p "$(ec_memcached_pid "$2")" \
		-e "plain client,echocache,pgmemcache,PostgreSQL" $reads_rounds $reads_calls \
		"select 1" 1 "" "SELECT 1" \
		"plain client" 1 "$4:$6" get \
		echocache 1 "$6" "SELECT echocache_get('$4', \$1::$5)" \
		pgmemcache 1 "$4:$6" "SELECT memcache_get(\$1::text)" \
		PostgreSQL 1 "$6" "$7"
}

part_reads()
{
	local part cache via

	start_servers
	start_unix_memcached
	read_tables
	for part in reads reads-unix; do
		cache=main via=127.0.0.1
		[ $part = reads ] || cache=unix via=$EC_TMP/pg-bench
		use_hosts $cache
		ec_sql -c "ALTER DATABASE postgres SET pgmemcache.default_servers = '$hosts'"
		warm_documents
		pin "$one_cpu"
		each_document one_read $part $cache
		run_turns $part-many "1 KB" 1 $reads_rounds $((reads_calls / 40)) \
			"one call" 1 "{$(seq -s, 1 100)}" "SELECT id, document FROM echocache_get_many('hit', \$1::bigint[])" \
			"100 calls" 100 "" "SELECT echocache_get('hit', \$1::bigint)"
	done
	emit_faults reads
}

# Table updates_bare of 10,000 rows, and updates_through, which is attached.
update_tables()
{
	# As an application has it: an update moves the row in an index, so it is not HOT.
	ec_sql <<-'SQL' >/dev/null
		CREATE TABLE updates_bare (
		    id bigint PRIMARY KEY, user_id bigint NOT NULL, updated_at timestamptz NOT NULL, note text, body text);
		CREATE INDEX ON updates_bare (user_id, updated_at);
		CREATE TABLE updates_through (LIKE updates_bare INCLUDING ALL);
		INSERT INTO updates_bare
		SELECT i, i / 10, 'epoch', '', text_of(900, i) FROM generate_series(1, 10000) i;
		INSERT INTO updates_through SELECT * FROM updates_bare;
		SELECT echocache_attach('updates_through', 'through');
	SQL
}

# grow_updates TABLE...: the first time makes the files grow, and does not count.
grow_updates()
{
	local table

	for table in "$@"; do
		"$BUILD/load" run -c 8 -t $commit_seconds -n 10000 -x update=1 -s 20 \
			-U "UPDATE updates_$table SET updated_at = clock_timestamp(), note = \$2 WHERE id = \$1::bigint" >/dev/null
	done
}

# one_commit PART ROUND FSYNC CLIENTS TABLE SYSTEM
one_commit()
{
	local case="$4 clients, fsync $3" cpus=$all_cpus

	[ "$4" != 1 ] || case="1 client, fsync $3" cpus=$one_cpu
	ec_sql -c "VACUUM updates_$5" -c CHECKPOINT
	run_load "$1" "$case" "$6" "$2" -c "$4" -t $commit_seconds -n 10000 -x update=1 -s 20 \
		-U "UPDATE updates_$5 SET updated_at = clock_timestamp(), note = \$2 WHERE id = \$1::bigint"
}

part_commit()
{
	local round fsync clients table cached via=$EC_TMP/pg-bench

	start_servers
	start_unix_memcached
	update_tables
	ec_sql <<-'SQL' >/dev/null
		CREATE TABLE updates_invalidate (LIKE updates_bare INCLUDING ALL);
		CREATE TABLE updates_set (LIKE updates_bare INCLUDING ALL);
		CREATE TABLE updates_delete (LIKE updates_bare INCLUDING ALL);
		INSERT INTO updates_invalidate SELECT * FROM updates_bare;
		INSERT INTO updates_set SELECT * FROM updates_bare;
		INSERT INTO updates_delete SELECT * FROM updates_bare;
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
	grow_updates bare through invalidate set delete
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
						bare) one_commit commit "$round" $fsync $clients bare "no trigger" ;;
						through) one_commit commit "$round" $fsync $clients through "echocache write-through" ;;
						invalidate) one_commit commit "$round" $fsync $clients invalidate "echocache invalidate" ;;
						set) one_commit commit "$round" $fsync $clients set "pgmemcache set" ;;
						delete) one_commit commit "$round" $fsync $clients delete "pgmemcache delete" ;;
					esac
				done
			done
			use_hosts unix
			for clients in 1 8; do
				pin "$([ $clients = 1 ] && echo "$one_cpu" || echo "$all_cpus")"
				one_commit commit "$round" $fsync $clients through "echocache write-through, unix socket"
				one_commit commit "$round" $fsync $clients invalidate "echocache invalidate, unix socket"
			done
		done
	done
	emit_faults commit
}

part_bulk()
{
	local rows calls statements table via=$EC_TMP/pg-bench

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

# ycsb_arguments SYSTEM TABLE BYTES OF BODY: its statements, for a table and document of that name.
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
			wait_up
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

# third_of_slowest CASE: the rate of the open loop.
third_of_slowest()
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
			printf "%.0f\n", least / 3
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
				[ $loop = closed ] || rate=$(third_of_slowest "$case")
				for round in $(seq $ycsb_rounds); do
					for system in $(rotated "$round" PostgreSQL echocache pgmemcache); do
						ycsb_arguments "$system" "$table" $body
						arguments+=(-c 16 -t "$ycsb_seconds" -n "$ycsb_records" -x "$mix" -d "$distribution" -s "$field")
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
	emit_faults scale-servers
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
	done
	emit_faults scale-connections
	for round in $(seq $scale_rounds); do
		for n in $scale_keys; do
			for system in $(rotated "$round" PostgreSQL echocache); do
				ycsb_arguments "$system" scale 160
				run_load scale-keys "$n" "$system" "$round" "${arguments[@]}" -c 16 -t $scale_seconds \
					-n "$n" -x read=95,update=5 -d zipfian -s 20
			done
		done
	done
	emit_faults scale-keys
}

# composed_table NAME POLICY MS: 1,000 documents of a function that takes so long.
composed_table()
{
	ec_sql >/dev/null <<-SQL
		CREATE TABLE $1 (id bigint PRIMARY KEY, n bigint NOT NULL, note text) WITH (fillfactor = 50);
		INSERT INTO $1 SELECT i, 0, '' FROM generate_series(1, 1000) i;
		CREATE FUNCTION ${1}_document($1) RETURNS json LANGUAGE plpgsql STABLE AS \$\$
		BEGIN
		    PERFORM pg_sleep($3 / 1000.0);
		    RETURN json_build_object('id', \$1.id, 'n', \$1.n);
		END \$\$;
		SELECT echocache_attach('$1', '$1', document => '${1}_document', policy => '$2');
	SQL
}

# build_counts NAME: what the builder has made of it, once nothing waits for it any more.
build_counts()
{
	for _ in $(seq 600); do
		[ "$(ec_sql -c "SELECT builds_waiting FROM echocache_stats WHERE name = '$1'")" != 0 ] || break
		sleep 0.05
	done
	ec_sql -F ' ' -c "SELECT builds, builds_dropped, build_errors FROM echocache_stats
		WHERE name = '$1' AND builds_waiting = 0"
}

# reads_answer NAME: with what was committed when the statement began, or something newer.
reads_answer()
{
	local n

	n=$(ec_sql -c "SELECT count(*) FROM $1
		WHERE id <= 5 AND (echocache_get('$1', id)::json ->> 'n')::bigint >= n")
	[ "$n" = 5 ] || ec_die "only $n of 5 reads of $1 answer"
}

# one_build ROUND MS POLICY
one_build()
{
	local case="function of $2 ms" table=${3//-/_}_$2 counts before load status=0

	arguments=(-c 64 -r 200 -t "$builder_seconds" -n 1000 -x update=1 -s 20
		-U "UPDATE $table SET n = n + 1, note = \$2 WHERE id = \$1::bigint RETURNING n")
	case $3,$2 in
		write-through,1) arguments+=(-m "$hosts" -k "$table:" -p 0.3 -g 2000) ;;
		# Most of these do not come.  To ask more often would take the servers' CPU time.
		write-through,*) arguments+=(-m "$hosts" -k "$table:" -p 10 -g 200) ;;
	esac
	read -r -a before <<<"$(build_counts "$table")"
	run_load builder "$case" "$3" "$1" "${arguments[@]}" &
	load=$!
	# By now too many documents of 50 ms wait.
	sleep 2
	reads_answer "$table"
	wait $load || status=$?
	[ $status = 0 ] || ec_die "the updates of $table failed"
	read -r -a counts <<<"$(build_counts "$table")"
	[ ${#counts[@]} = 3 ] || ec_die "the builder does not come to an end with $table"
	emit builder "$case" "$3" builds "$1" $((counts[0] - before[0]))
	emit builder "$case" "$3" builds_dropped "$1" $((counts[1] - before[1]))
	emit builder "$case" "$3" build_errors "$1" $((counts[2] - before[2]))
}

part_builder()
{
	local round ms policy

	start_servers
	for ms in 1 50; do
		for policy in write-through invalidate; do
			composed_table ${policy//-/_}_$ms $policy $ms
		done
	done
	ec_sql -c "VACUUM ANALYZE" -c CHECKPOINT
	wait_up
	# The builder shall be there: it starts with the first key.
	ec_sql -c "UPDATE write_through_1 SET n = n + 1 WHERE id = 1"
	[ "$(build_counts write_through_1)" = "1 0 0" ] || ec_die "the builder does not make a document"
	for round in $(seq $builder_rounds); do
		for ms in 1 50; do
			for policy in $(rotated "$round" write-through invalidate); do
				one_build "$round" $ms "$policy"
			done
		done
	done
	emit_faults builder
}

part_large()
{
	local round system

	start_servers
	ec_sql <<-'SQL' >/dev/null
		CREATE TABLE large_bare (id int PRIMARY KEY, n int NOT NULL, body text);
		ALTER TABLE large_bare ALTER body SET STORAGE EXTERNAL;
		CREATE TABLE large_echocache (LIKE large_bare INCLUDING ALL);
		INSERT INTO large_bare SELECT i, 0, repeat(text_of(10000, i), 1000) FROM generate_series(1, 64) i;
		INSERT INTO large_echocache SELECT * FROM large_bare;
		SELECT echocache_attach('large_echocache', 'large');
		VACUUM ANALYZE;
		CHECKPOINT;
	SQL
	wait_up
	run_turns large "64 rows of 10 MB" 1 $large_rounds $large_calls \
		"no trigger" 1 "" "UPDATE large_bare SET n = n + 1" \
		echocache 1 "" "UPDATE large_echocache SET n = n + 1"
	# Of a backend that has done nothing else.
	for round in $(seq $large_rounds); do
		for system in $(rotated "$round" bare echocache); do
			emit large "64 rows of 10 MB" "$([ "$system" = bare ] && echo "no trigger" || echo echocache)" peak_kb "$round" \
				"$(ec_sql -q -c "UPDATE large_$system SET n = n + 1" \
					-c "SELECT substring(pg_read_file('/proc/self/status') FROM 'VmHWM:\s+(\d+)')")"
		done
	done
	emit_faults large
}

part_misses()
{
	start_servers
	ec_sql <<-'SQL' >/dev/null
		CREATE TABLE parts (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
		SELECT format('CREATE TABLE parts_%s PARTITION OF parts FOR VALUES FROM (%s) TO (%s)', i, 10 * i, 10 * i + 10)
		FROM generate_series(1, 300) i
		\gexec
		INSERT INTO parts SELECT i, text_of(1000, i) FROM generate_series(10, 3009) i;
		CREATE TABLE plain (LIKE parts INCLUDING ALL);
		INSERT INTO plain SELECT * FROM parts;
		SELECT echocache_attach('parts', 'parts'), echocache_attach('plain', 'plain');
		VACUUM ANALYZE;
		CHECKPOINT;
	SQL
	wait_up
	local table
	for table in parts plain; do
		run_turns misses "$([ $table = parts ] && echo "300 partitions" || echo "one table")" 1 $misses_rounds $misses_calls \
			"PostgreSQL, unprepared" 1 "" "SELECT row_to_json(t) FROM $table t WHERE id = 77" \
			- 1 "" "SELECT echocache_invalidate('$table', 77)" \
			echocache 1 "" "SELECT echocache_get('$table', 77)"
	done
	emit_faults misses
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

# downs: how often was a server found to be DOWN?
downs() { grep -c ' is down: ' "$EC_TMP/pg-bench/log" || true; }

part_stampede()
{
	local round system at before warm

	start_servers "track_functions = all" "log_min_messages = debug1"
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
		for at in "$stampede_clients clients" "$stampede_clients clients, their first statement"; do
			warm=(-w 2)
			[[ $at != *first* ]] || warm=()
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
				run_load stampede "$at" "$system" "$round" "${arguments[@]}" -c $stampede_clients -b -n 1 "${warm[@]}"
				emit stampede "$at" "$system" builds "$round" $(($(builds) - before))
			done
		done
	done
	emit stampede-downs "all rounds" echocache downs 1 "$(downs)"
	emit_faults stampede
}
