#!/bin/bash
#
# run.sh [--minutes M] [--seed N] [--faults NAME,...]
#	  The checker against echocache, quiet and under faults; and the proof that its verdict
#	  means something: the same checker against caches that people build, and against echocache
#	  without one of its rules, must find what is wrong, and without any cache it must not.
#
# Without --minutes a short run with seeds that are fixed (test/run.sh's suite "coherence").  With it,
# echocache alone for so long under faults, with each size of the second tier (0, 1 MB, 64 MB), then
# the controls.  Starts servers of its own (test/lib.sh), and builds the extension unless EC_STAGE has
# it.  The naive triggers need pgmemcache, and are left out without it.
# `bash test/install-deps.sh coherence` installs what it needs.
#
#   CHECK_RUNS   which runs (default: all; see the end)
#   CHECK_ARGS   further arguments of the checker for echocache, such as "--rate 100000"
#
# Prints TAP, the reports of the runs as comments, and a table of all; exit status 1 if a test failed.
#
# Copyright (c) 2026, echocache developers

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$here/../lib.sh"
unset EC_TMP
minutes=0
seed=
faults=
while [ $# -gt 0 ]; do
	case $1 in
		--minutes) minutes=$2 ;;
		--seed) seed=$2 ;;
		--faults) faults=$2 ;;
		*) ec_die "usage: run.sh [--minutes M] [--seed N] [--faults NAME,...]" ;;
	esac
	shift 2
done

db=echocache_coherence
tests=0
failed=0
told=true

# ok CONDITION NAME: one line of TAP, and after the first one the report of the run.
ok()
{
	tests=$((tests + 1))
	if [ "$1" = true ]; then
		echo "ok $tests - $2"
	else
		echo "not ok $tests - $2"
		failed=1
	fi
	if [ "$told" = false ]; then
		sed 's/^/# /' "$out"
		told=true
	fi
}

skip()
{
	tests=$((tests + 1))
	echo "ok $tests - $1 # SKIP $2"
}

# The figure NAME of the last run's JSON line; 0 if there is none.
figure()
{
	local n

	n=$(sed -n "s/^{.*\"$1\":\([0-9]*\)[,.}].*/\1/p" "$out")
	echo "${n:-0}"
}

# more FIGURE THAN: true or false.
more()
{
	if [ "$(figure "$1")" -gt "$2" ]; then echo true; else echo false; fi
}

is()
{
	if [ "$1" = "$2" ]; then echo true; else echo false; fi
}

have_pgmemcache()
{
	[ "$(ec_sql -c "SELECT count(*) FROM pg_available_extensions WHERE name = 'pgmemcache'")" = 1 ]
}

flush_memcached()
{
	local reply n

	for n in 0 1; do
		exec 4<>"/dev/tcp/127.0.0.1/$(ec_memcached_port "$n")"
		printf 'flush_all\r\n' >&4
		read -r reply <&4
		exec 4>&-
		[ "${reply%$'\r'}" = OK ]
	done
}

# A database with nothing but what setup.sql makes, and memcached empty.
make_database()
{
	export PGDATABASE=postgres
	# of a run that was cut short
	ec_sql -c "SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts" |
		while read -r end; do
			ec_sql -d "$db" -c "$end" </dev/null
		done
	ec_sql -c "SET client_min_messages = error" -c "DROP DATABASE IF EXISTS $db WITH (FORCE)"
	ec_sql -c "CREATE DATABASE $db"
	export PGDATABASE=$db
	# the numbers of checker.h: sessions 1 to keys, then threads of 5 registers each
	ec_sql -v register="SELECT $keys + (thread - 1) * 5 + slot + 1" -f "$here/setup.sql"
	flush_memcached
}

attach_echocache()
{
	ec_sql <<-'SQL' >/dev/null || return 1
		CREATE EXTENSION echocache;
		SELECT echocache_attach('coherence.sessions', filter => 'NOT is_deleted', exclude => '{secret}');
		SELECT echocache_attach('coherence.threads', 'thread', document => 'coherence.thread_document');
		SELECT echocache_attach_dependent('coherence.posts', 'thread', 'thread');
	SQL
}

# The triggers that everyone writes first, as pgmemcache's README has them.  naive-set stores the
# row when the statement runs, naive-delete removes the key then; readers fill by set.
attach_naive()
{
	ec_sql -v servers="127.0.0.1:$(ec_memcached_port 0)" \
		-v store="$([ "$1" = naive-set ] && echo true || echo false)" <<-'SQL'
		CREATE EXTENSION pgmemcache;
		ALTER DATABASE :"DBNAME" SET pgmemcache.default_servers = :'servers';
		CREATE FUNCTION coherence.naive() RETURNS trigger LANGUAGE plpgsql AS $$
		DECLARE
		    document text;
		BEGIN
		    IF TG_OP <> 'INSERT' THEN
		        PERFORM memcache_delete('session:' || OLD.id);
		    END IF;
		    IF TG_OP <> 'DELETE' THEN
		        document := coherence.session_document(NEW);
		        IF TG_ARGV[0]::boolean AND document IS NOT NULL THEN
		            PERFORM memcache_set('session:' || NEW.id, document);
		        ELSE
		            PERFORM memcache_delete('session:' || NEW.id);
		        END IF;
		    END IF;
		    RETURN NULL;
		END $$;
		CREATE TRIGGER naive AFTER INSERT OR UPDATE OR DELETE ON coherence.sessions
		    FOR EACH ROW EXECUTE FUNCTION coherence.naive(:store);
		CREATE FUNCTION coherence.get(wanted bigint) RETURNS text LANGUAGE plpgsql AS $$
		DECLARE
		    document text := memcache_get('session:' || wanted);
		BEGIN
		    IF document IS NULL THEN
		        SELECT coherence.session_document(s) INTO document FROM coherence.sessions s
		        WHERE s.id = wanted;
		        IF document IS NOT NULL THEN
		            PERFORM memcache_set('session:' || wanted, document);
		        END IF;
		    END IF;
		    RETURN document;
		END $$;
	SQL
}

# No cache at all.
attach_nothing()
{
	ec_sql <<-'SQL'
		CREATE FUNCTION coherence.get(wanted bigint) RETURNS json LANGUAGE sql AS $$
		    SELECT coherence.session_document(s) FROM coherence.sessions s WHERE id = wanted
		$$;
	SQL
}

# set_conf LINE...: further settings; those in force are not much different from each other.
set_conf()
{
	printf '%s\n' "$@" >>"$EC_TMP/pg-main/data/postgresql.conf"
	ec_sql -c "SELECT pg_reload_conf()" >/dev/null
}

# restart LINE...: settings that a running server does not take.
restart()
{
	ec_pg_stop main
	ec_pg_start main "$@" 5>&- 6>&-
}

# set_memory SIZE: of the second tier.
set_memory()
{
	[ "$memory" = "$1" ] || restart "echocache.local_memory = $1"
	memory=$1
}

# check MODE SECONDS SEED [ARGUMENT...]: run the checker; ok() shows its report.  Sets status, the checker's: 0 nothing found, 1 something found, 2 could not tell.
check()
{
	local mode=$1 for=$2 with=$3 servers

	shift 3
	servers=127.0.0.1:$(ec_memcached_port 0)
	[ "$mode" != echocache ] || servers+=,127.0.0.1:$(ec_memcached_port 1)
	status=0
	"$BUILD/checker" --mode "$mode" --servers "$servers" --seconds "$for" --seed "$with" \
		--keys "$keys" --table "$table" --log "$EC_TMP/pg-main/log" "$@" >"$out" 2>&1 </dev/null || status=$?
	told=false
}

# What the last run has had too little of: that would say little.  (TRUNCATE is too rare to be
# asked for.)  Of each fault in FAULT... there is to be one.
too_few()
{
	local n

	for n in committed:100 rolled_back:10 savepoints_rolled_back:10 prepared:5 bulk:1 moved:5 asynchronous:20 \
		autocommit:50 plain_hits:1000 plain_markers:10 sql_reads:500 sql_in_transactions:100 sql_repeatable:100 \
		sql_many:100 own_reads:10 audited:20; do
		[ "$(more "${n%:*}" "${n#*:}")" = true ] || printf ' %s' "${n%:*}"
	done
	[ "$memory" = 0 ] || [ "$(more local_hits 1000)" = true ] || printf ' local_hits'
	[ "$memory" != 1MB ] || [ "$(more local_evictions 1000)" = true ] || printf ' local_evictions'
	for n in "$@"; do
		[ "$(more "fault_$n" 0)" = true ] || printf ' %s' "$n"
	done
}

# What the auditor says of wrong documents, from this line of the logs on.
audit_alarms()
{
	tail -q -n "+$(($1 + 1))" "$EC_TMP/pg-main/log" | grep -h 'echocache: the cache had' || true
	cat "$EC_TMP"/pg-standby*/log 2>/dev/null | grep -h 'echocache: the cache had' || true
}

# echocache_run NAME SECONDS SEED [ARGUMENT...]: what must be so of each run with echocache.  On
# a busy machine it is done again, for longer, until enough has happened, faults in $want included.
echocache_run()
{
	local name=$1 seconds=$2 with=$3 try=0 few lines alarms

	shift 3
	lines=$(wc -l <"$EC_TMP/pg-main/log")
	while :; do
		make_database
		attach_echocache
		# shellcheck disable=SC2086 # several words
		check echocache "$seconds" "$with" "$@" --control "$here/control.sh" ${CHECK_ARGS:-}
		# shellcheck disable=SC2086 # several words
		if [ "$status" != 0 ] || [ $((++try)) = "${tries:-3}" ] || [ -z "$(too_few ${want:-})" ]; then
			break
		fi
		seconds=$((seconds * 2))
	done
	few=$(too_few)
	alarms=$(audit_alarms "$lines")
	ok "$(is "$status" 0)" "$name: not one wrong answer, and right at rest (seed $with)"
	ok "$([ "$status" != 2 ] && is "$(figure cached_at_rest)" "$(figure rows_at_rest)" || echo false)" \
		"$name: SQL reads have filled the cache at rest"
	ok "$([ -z "$alarms" ] && is "$(figure audit_alarms)" 0 || echo false)" "$name: no false alarm of the auditor${alarms:+: $alarms}"
	ok "$(is "$few" '')" "$name: transactions and reads of every kind${few:+, but too few:$few}"
	[ "$memory" != 0 ] || ok "$(is "$(figure local_hits)" 0)" "$name: without the second tier"
	# what was read at rest, all there is, is more than it has room for
	[ "$memory" != 1MB ] || ok "$(is "$(ec_sql -c "SELECT used > size * 0.9 FROM echocache_memory WHERE name IS NULL")" t)" \
		"$name: the second tier is full"
}

# Of each fault that was asked for there has been one.
saw_faults()
{
	local name=$1 f missing=

	shift
	for f in "$@"; do
		[ "$(more "fault_$f" 0)" = true ] || missing+=" $f"
	done
	ok "$(is "$missing" '')" "$name: faults of every kind$missing"
}

run_quiet()
{
	set_memory 0
	set_conf "echocache.timeout = '5s'" "echocache.commit_timeout = '5s'"
	echocache_run quiet "$1" "$2"
	ok "$(is "$(figure apart)" 0)" "quiet: no old answer to excuse"
}

# run_faults MEMORY SECONDS SEED
run_faults()
{
	local want='' name="faults $3" more=''

	set_memory "$1"
	[ "$1" = 0 ] || name+=", second tier of $1"
	# all documents together take more
	[ "$1" != 1MB ] || more='--least 14000'
	[ -n "$faults" ] || want='freeze kill flush evict cut hold delay reset terminate crash stop'
	set_conf "echocache.timeout = '200ms'" "echocache.commit_timeout = '400ms'"
	# shellcheck disable=SC2086 # several words
	echocache_run "$name" "$2" "$3" --faults "${faults:-all}" --pause 500 $more
	# shellcheck disable=SC2086 # several words
	[ -z "$want" ] || saw_faults "$name" $want
}

# With fallback = off nothing commits that cannot be invalidated: so there is nothing to excuse.
run_strict()
{
	set_memory 64MB
	set_conf "echocache.timeout = '200ms'" "echocache.commit_timeout = '400ms'" "echocache.fallback = off"
	echocache_run "fallback = off" "$1" "$2" --faults freeze,kill,cut,hold,delay --strict --pause 400
	ok "$(is "$(figure apart)" 0)" "fallback = off: no old answer to excuse"
	set_conf "echocache.fallback = on"
}

# The last of all, since the cluster is another one afterwards.
run_promote()
{
	local tries=1

	set_memory 64MB
	set_conf "echocache.timeout = '500ms'" "echocache.commit_timeout = '1s'"
	echocache_run promotion "$1" "$2" --faults promote --pause 500
	saw_faults promotion promote
}

run_uncached()
{
	make_database
	attach_nothing
	check uncached "$1" "$2"
	ok "$(is "$status" 0)" "uncached: the checker finds nothing where nothing is wrong"
}

# A control: something must be found, of this kind.  Few documents, so that it is soon.
run_control()
{
	local mode=$1 kind=$2 try

	if [[ $mode = naive-* ]] && ! have_pgmemcache; then
		skip "$mode: the checker finds what is wrong" "pgmemcache is not installed"
		return
	fi
	for try in 1 2 3; do
		make_database
		[[ $mode != naive-* ]] || attach_naive "$mode"
		check "$mode" $(($3 * try)) "$4" --keys 8 --think 200 --body 2000
		# On a busy machine it may not come to pass so soon.
		if [ "$status" = 2 ] || [ "$(more "$kind" 0)" = true ]; then
			break
		fi
	done
	ok "$([ "$status" = 1 ] && more "$kind" 0 || echo false)" \
		"$mode: the checker finds what is wrong, $kind reads among it"
}

# leave_out RULE: change the source in EC_TMP/changed so that it is without this rule.  Ends the
# script if there is nothing to change.
leave_out()
{
	local what to file files

	case $1 in
		# no rule: it takes a while until what is marked is visible, and then until it is settled, and
		# some commits fail at the last moment
		slow)
			leave_out slow-before
			leave_out slow-after
			return
			;;
		# no rule either: fills take a while
		slow-fill) what='fetch_rows(&fill, as_owner);' to='& pg_usleep(random() % 5000);' ;;
		slow-before)
			what='ec_waitpoint("before-commit");'
			to='pg_usleep(random() % 20000); if (random() % 20 < (list.n > 0)) ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE), errmsg("at the last moment")));'
			;;
		slow-after) what='ec_local_settle(true, flushed);' to='pg_usleep(random() % 20000); &' ;;
		# once the writer of a marked entry has committed, the old document is not right any more
		over) what='bool[[:space:]]*next = Trans.*' to='bool next = false;' ;;
		# as long as it is in progress, the new one is not right yet
		progress) what='over = !TransactionIdIsInProgress(known) .*' to='over = true;' ;;
		# a writer marks what it changes
		mark) what='ec_local_mark(att, key->hash)' to='false' ;;
		# and takes away the claim of a fill
		claim)
			leave_out slow-fill
			what='^	entry->claim = 0;' to=''
			;;
		# PREPARE drops it
		prepare) what='ec_local_drop(att, key->hash)' to='(void) 0' ;;
		# who changes very many, or all, begins an epoch
		epoch) what='ec_slot_begin_epoch_of_table(att->relid);' to=';' ;;
		# of what is rolled back nothing stays
		abort) what='ec_local_settle(false, false);' to='ec_local_settle(true, false);' ;;
		*) ec_die "there is no rule \"$1\"" ;;
	esac
	files=$(grep -rl --include='*.c' -e "$what" "$EC_TMP/changed/src") || ec_die "nothing in src is the rule \"$1\""
	for file in $files; do
		sed -i "s/$what/$to/" "$file"
	done
}

# use_without RULE...: let the server run on an echocache without these rules.  Of a build that is there
# only what has changed is built again.
use_without()
{
	local lines rule

	rm -rf "$EC_TMP/changed" "$EC_TMP/changed.stage"
	mkdir "$EC_TMP/changed"
	if [ -n "${EC_BUILD:-}" ]; then
		cp -a "$EC_BUILD/." "$EC_TMP/changed"
	else
		ec_copy_source "$EC_TMP/changed"
	fi
	for rule in "$@"; do
		leave_out "$rule"
	done
	(umask 022 && make -C "$EC_TMP/changed" PG_CONFIG="$PG_CONFIG" with_llvm=no DESTDIR="$EC_TMP/changed.stage" install) \
		>"$EC_TMP/changed.log" 2>&1 || { tail -n 30 "$EC_TMP/changed.log" >&2; ec_die "echocache does not build without $*"; }
	mapfile -t lines < <(EC_STAGE=$EC_TMP/changed.stage && ec_stage_conf)
	restart "${lines[@]}" "echocache.local_memory = 64MB"
	memory=64MB
}

use_all()
{
	local lines

	mapfile -t lines < <(ec_stage_conf)
	restart "${lines[@]}"
}

# What makes it likely that a rule is missed is not wrong by itself.
run_slow()
{
	set_conf "echocache.timeout = '5s'" "echocache.commit_timeout = '5s'"
	use_without slow slow-fill
	echocache_run "slow commits" "$1" "$2"
	use_all
}

# run_without RULE KIND SECONDS SEED: without a rule of the second tier, such a thing must be found.
run_without()
{
	local rule=$1 kind=$2 keys=$keys try

	# few documents, so that two read one within the short time for which it is wrong
	[ "$kind" != backwards ] || keys=24
	set_conf "echocache.timeout = '5s'" "echocache.commit_timeout = '5s'"
	use_without slow "$rule"
	for try in 1 2 3; do
		make_database
		attach_echocache
		check echocache $(($3 * try)) "$4"
		if [ "$status" = 2 ] || [ "$(more "$kind" 0)" = true ]; then
			break
		fi
	done
	ok "$([ "$status" = 1 ] && more "$kind" 0 || echo false)" \
		"without the rule $rule: the checker finds what is wrong, $kind reads among it"
	use_all
}

ec_begin
ec_build
export BUILD=$EC_TMP/checker.build
make -s -C "$here" PG_CONFIG="$PG_CONFIG"
out=$EC_TMP/out
table=$EC_TMP/table
keys=120
export CHECK_MEMCACHED='-m 8 -t 2'
for n in 0 1; do
	# shellcheck disable=SC2086 # several words
	ec_memcached_start "$n" $CHECK_MEMCACHED
done
# It ends when nobody can write to it any more.
mkfifo "$EC_TMP/proxy.in" "$EC_TMP/proxy.out"
exec 5<>"$EC_TMP/proxy.in" 6<>"$EC_TMP/proxy.out"
perl "$here/../fault/proxy.pl" "127.0.0.1:$(ec_memcached_port 1)" <"$EC_TMP/proxy.in" >"$EC_TMP/proxy.out" 5>&- 6>&- &
read -r _ proxy_port <&6
# The checker excuses what happens while a server is DOWN, of which each time is in the log.
ec_pg_start main "log_min_messages = debug1" "echocache.enabled = on" "echocache.lease = '5s'" "echocache.retry_interval = '100ms'" \
	"echocache.hosts = '127.0.0.1:$(ec_memcached_port 0):3, 127.0.0.1:$proxy_port'" \
	"echocache.marker_ttl = '1s'" "max_prepared_transactions = 50" "max_connections = 100" \
	"wal_writer_delay = '1s'" "wal_keep_size = '256MB'" "log_min_messages = warning" "echocache.audit_rate = 100" "max_worker_processes = 12" "fsync = off" \
	"log_min_error_statement = panic" "log_line_prefix = '%n [%p] %a '" 5>&- 6>&-
memory=
ec_pg_env main

echo "TAP version 13"
cat >"$table" <<-'EOT'
	| cache | second tier | seed | time | reads checked | local hits | local evictions | commits | faults | violations | stale | deleted | absent | dirty | ahead | backwards | torn | repeat | foreign | own | rest | old answers while cut off (oldest) |
	|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
EOT
if [ "$minutes" = 0 ]; then
	runs=${CHECK_RUNS:-quiet faults1 faults2 local1 local64 strict slow over uncached naive-set naive-delete client-delete client-set promote}
	time=
else
	runs=${CHECK_RUNS:-faults1 local1 local64 strict slow over progress mark claim prepare epoch abort uncached naive-set naive-delete client-delete client-set promote}
	time=$((minutes * 60))
fi
for run in $runs; do
	case $run in
		quiet) run_quiet 6 "${seed:-1}" ;;
		faults1) run_faults 0 "${time:-18}" "${seed:-1}" ;;
		faults2) run_faults 0 18 $((${seed:-1} + 1)) ;;
		local1) run_faults 1MB "${time:-18}" "${seed:-1}" ;;
		local64) run_faults 64MB "${time:-18}" "${seed:-2}" ;;
		slow) run_slow 6 "${seed:-1}" ;;
		over | progress) run_without "$run" backwards 6 "${seed:-1}" ;;
		abort) run_without "$run" dirty 6 "${seed:-1}" ;;
		mark | claim | prepare | epoch) run_without "$run" stale 6 "${seed:-1}" ;;
		strict) run_strict 6 "${seed:-1}" ;;
		promote) run_promote 8 "${seed:-1}" ;;
		uncached) run_uncached 2 "${seed:-1}" ;;
		naive-set) run_control naive-set dirty 3 "${seed:-1}" ;;
		*) run_control "$run" stale 3 "${seed:-1}" ;;
	esac
done
echo "#"
sed 's/^/# /' "$table"
echo "1..$tests"
exit "$failed"
