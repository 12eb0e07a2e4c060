#!/usr/bin/env bash
#
# figures.sh
#	  What happens when a memcached, or PostgreSQL, fails: figures as a Markdown table.
#
# Starts a private PostgreSQL (fsync on, echocache's settings as they come), and
# for echocache and for pgmemcache a memcached each, which suffer every fault at
# the same time.  Both keep the documents of a table of their own: echocache
# attached to it, pgmemcache as its README advises, by a trigger that deletes and a
# reader that fills.  For each fault:
#
#	first wait      the longest that the first statement took after the fault
#	later waits     of the statements that followed, by this session and new ones: p50, max
#	failed          statements that ended in an error
#	stale reads     SQL reads during the fault that gave an older document
#	answers to UP   from the server's first answer to its use by everybody
#	stale at rest   documents in the server, once all is quiet, that differ from the table
#	lost            updates that succeeded and are not in the table
#
# Where there are several rounds (pgmemcache's long waits leave time for one), the
# figures are the worst of them.  Under three minutes.  `bash test/install-deps.sh fault`
# installs what it needs.  Environment: see test/lib.sh.
#
# Copyright (c) 2026, echocache developers

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../lib.sh
. "$here/../lib.sh"

rounds=3
documents=100

# ------------------------------------------------------------------ the two setups

# What echocache and pgmemcache are to talk to from now on: PORT PORT.
point_to()
{
	ec_sql -c "ALTER SYSTEM SET echocache.hosts = '127.0.0.1:$1'" -c "SELECT pg_reload_conf()" \
		-c "ALTER DATABASE postgres SET pgmemcache.default_servers = '127.0.0.1:$2'" >/dev/null
	for _ in $(seq 200); do
		[ "$(ec_sql -c "SELECT bool_and(server = '127.0.0.1:$1') FROM echocache_servers")" != t ] || return 0
		sleep 0.05
	done
	ec_die "the new server does not appear"
}

# Wait until echocache's server is UP; print when that was.
up_since()
{
	local since

	for _ in $(seq 1000); do
		since=$(ec_sql -c "SELECT extract(epoch FROM max(since)) FROM echocache_servers
			HAVING bool_and(state = 'UP')")
		if [ -n "$since" ]; then
			echo "$since"
			return 0
		fi
		sleep 0.02
	done
	ec_die "the server is not UP after 20 s"
}

# Have every document cached on both sides; what pgmemcache has is stale by now, and would stay.
warm()
{
	up_since >/dev/null
	(
		exec 3<>"/dev/tcp/127.0.0.1/$(ec_memcached_port pgmemcache)"
		printf 'delete session:%d\r\n' $(seq $documents) >&3
		head -n $documents <&3 >/dev/null
	)
	for _ in $(seq 100); do
		[ "$(ec_sql -c "SELECT count(echocache_get_session(id)), count(pgmemcache_get(id)) FROM session" |
			cut -d'|' -f2)" = $documents ] || ec_die "the documents cannot be read"
		[ "$(held echocache current)" = $documents ] && [ "$(held pgmemcache current)" = $documents ] &&
			return 0
		sleep 0.05
	done
	ec_die "the documents do not get into the cache"
}

# held SIDE current|stale: how many documents a plain client finds in its server that are
# as in the table, or differ from it.  A marker is neither.
held()
{
	ec_sql -F ' ' -c "SELECT id, row_to_json(t) FROM $([ "$1" = echocache ] && echo session || echo peer) t" |
		perl -MIO::Socket::INET -e '
			my ($port, $what) = @ARGV;
			my $s = IO::Socket::INET->new("127.0.0.1:$port") or die "no connection: $!";
			my %n = (current => 0, stale => 0);
			while (<STDIN>) {
				my ($id, $row) = /^(\S+) (.*)$/ or die;
				print $s "get session:$id\r\n";
				next if (<$s> // die "no answer") eq "END\r\n";
				my $value = <$s>;
				<$s> eq "END\r\n" or die "what is this?";
				$value =~ s/\r\n\z//;
				$n{ $value eq $row ? "current" : "stale" }++ if $value ne "null";
			}
			print "$n{$what}\n"' "$(ec_memcached_port "$1")" "$2"
}

# statements SIDE FIRST LAST: for each of these ids an update and a read, with times.
statements()
{
	local get=echocache_get_session table=session id

	[ "$1" = echocache ] || { get=pgmemcache_get table=peer; }
	printf '%s\n' '\timing on'
	for id in $(seq "$2" "$3"); do
		echo "UPDATE $table SET v = v + 1 WHERE id = $id;"
		echo "SELECT CASE WHEN ($get($id)->>'v')::int = v THEN 'fresh' ELSE 'STALE' END FROM $table WHERE id = $id;"
	done
}

# suffer SIDE FILE LAST: run them, the second half in a session of its own, and add to
# FILE what psql says.
suffer()
{
	local half=$(($3 / 2))

	statements "$1" 1 $half | psql -X -A -t >>"$2" 2>&1 || true
	statements "$1" $((half + 1)) "$3" | psql -X -A -t >>"$2" 2>&1 || true
}

# summary FILE: first wait, p50 and max of the others (ms), failed, stale reads, updates made.
summary()
{
	awk '
		/^Time: / { if (n++ == 0) first = $2; else print $2 | "sort -n >" sorted }
		/^(psql:.*)?ERROR:/ { failed++ }
		/^STALE/ { stale++ }
		/^UPDATE 1/ { updates++ }
		END {
			close("sort -n >" sorted)
			while ((getline line <sorted) > 0) later[++m] = line
			printf "%.1f %.1f %.1f %d %d %d\n", first, later[int((m + 1) / 2)], later[m], failed, stale, updates
		}' sorted="$1.sorted" "$1"
}

# What the updates of a side add up to in the table.
updates_of()
{
	ec_sql -c "SELECT sum(v) FROM $([ "$1" = echocache ] && echo session || echo peer)"
}

# Does the memcached of this side answer, on this port?
answers()
{
	(exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'version\r\n' >&3 && IFS= read -r -t 0.05 _ <&3) 2>/dev/null
}

# ------------------------------------------------------------------ the faults

# Each: break_NAME, mend_NAME; they concern both memcacheds.

break_killed() { ec_memcached_stop echocache KILL; ec_memcached_stop pgmemcache KILL; }
mend_killed() { ec_memcached_start echocache -m 64; ec_memcached_start pgmemcache -m 64; }

break_frozen() { kill -STOP "$(ec_memcached_pid echocache)" "$(ec_memcached_pid pgmemcache)"; }
mend_frozen() { kill -CONT "$(ec_memcached_pid echocache)" "$(ec_memcached_pid pgmemcache)"; }

# memcached's own warm restart: it saves its memory on SIGUSR1 and has it again, unless it is
# started within the same second.
break_restarted() { ec_memcached_stop echocache USR1; ec_memcached_stop pgmemcache USR1; }
mend_restarted()
{
	sleep 2
	ec_memcached_start pgmemcache -m 64 -e "$memory/pgmemcache"
	[ $(($(held pgmemcache current) + $(held pgmemcache stale))) -gt 0 ] ||
		ec_die "memcached has lost its old contents"
	ec_memcached_start echocache -m 64 -e "$memory/echocache"
}

# What is sent is lost, silently; plain clients still reach the servers.
break_cut() { steer echocache 'hold up'; steer pgmemcache 'hold up'; }
mend_cut()
{
	steer echocache reset
	steer echocache pass
	steer pgmemcache reset
	steer pgmemcache pass
}

# start_proxy SIDE: the connection that break_cut() cuts.
start_proxy()
{
	mkfifo "$EC_TMP/$1.in" "$EC_TMP/$1.out"
	perl "$here/proxy.pl" "127.0.0.1:$(ec_memcached_port "$1")" <"$EC_TMP/$1.in" >"$EC_TMP/$1.out" &
	if [ "$1" = echocache ]; then
		exec 5>"$EC_TMP/$1.in" 6<"$EC_TMP/$1.out"
	else
		exec 7>"$EC_TMP/$1.in" 8<"$EC_TMP/$1.out"
	fi
	proxy_answer "$1" | sed 's/port //' >"$EC_TMP/$1.proxy"
}

proxy_answer()
{
	local line

	IFS= read -r -t 5 -u "$([ "$1" = echocache ] && echo 6 || echo 8)" line || ec_die "the proxy says nothing"
	echo "$line"
}

steer()
{
	echo "$2" >&"$([ "$1" = echocache ] && echo 5 || echo 7)"
	proxy_answer "$1" >/dev/null
}

# ------------------------------------------------------------------ a fault from end to end

# line TITLE SIDE FIRST P50 MAX FAILED STALE UP REST LOST: a line of the table.
line()
{
	printf '| %s | %s | %s | %s / %s | %s | %s | %s | %s | %s |\n' "$@" | tee -a "$EC_TMP/table"
}

ms()
{
	awk -v ms="$1" 'BEGIN { if (ms >= 1000) printf "%.1f s", ms / 1000; else printf "%.*f ms", ms < 10, ms }'
}

# worst COLUMN FILE
worst()
{
	awk -v c="$1" 'NR == 1 || $c > max { max = $c } END { print max }' "$2"
}

# fault NAME TITLE PORT IDS: break, measure, mend, measure; PORT is where echocache's server
# answers, IDS how many documents pgmemcache updates and reads meanwhile.
fault()
{
	local name=$1 title=$2 port=$3 peer_last=$4 round peer_pid='' answered up before done_updates s

	for round in $(seq $rounds); do
		warm
		before=$(updates_of echocache)
		[ "$round" != 1 ] || updates_of pgmemcache >"$EC_TMP/$name.peer.before"
		"break_$name"
		if [ "$round" = 1 ]; then
			suffer pgmemcache "$EC_TMP/$name.peer" "$peer_last" &
			peer_pid=$!
		fi
		suffer echocache "$EC_TMP/$name.$round" 40
		[ -z "$peer_pid" ] || wait "$peer_pid"
		peer_pid=
		"mend_$name"
		until answers "$port"; do :; done
		answered=$(date +%s.%N)
		up=$(up_since)
		s=$(summary "$EC_TMP/$name.$round")
		done_updates=${s##* }
		# first, p50, max, failed, stale reads, to UP (ms), stale at rest, lost
		echo "${s% *} $(awk -v a="$answered" -v u="$up" 'BEGIN { t = (u - a) * 1000; print (t > 0 ? t : 0) }')" \
			"$(held echocache stale) $((done_updates - ($(updates_of echocache) - before)))" >>"$EC_TMP/$name.rounds"
		if [ "$round" = 1 ]; then
			s=$(summary "$EC_TMP/$name.peer")
			done_updates=${s##* }
			echo "${s% *} - $(held pgmemcache stale)" \
				"$((done_updates - ($(updates_of pgmemcache) - $(cat "$EC_TMP/$name.peer.before"))))" >"$EC_TMP/$name.peer.round"
		fi
	done
	s=$EC_TMP/$name.rounds
	line "$title" echocache "$(ms "$(worst 1 "$s")")" "$(ms "$(worst 2 "$s")")" "$(ms "$(worst 3 "$s")")" \
		"$(worst 4 "$s") of 80" "$(worst 5 "$s") of 40" "$(ms "$(worst 6 "$s")")" "$(worst 7 "$s")" "$(worst 8 "$s")"
	s=$EC_TMP/$name.peer.round
	line "" pgmemcache "$(ms "$(worst 1 "$s")")" "$(ms "$(worst 2 "$s")")" "$(ms "$(worst 3 "$s")")" \
		"$(worst 4 "$s") of $((2 * peer_last))" "$(worst 5 "$s") of $peer_last" "–" "$(worst 7 "$s")" "$(worst 8 "$s")"
	# What we promise; anything else is a failure of this script.
	awk '$4 + $5 + $7 + $8 > 0' "$EC_TMP/$name.rounds" >"$EC_TMP/$name.broken"
	[ ! -s "$EC_TMP/$name.broken" ] || broken="$broken $name"
}

# PostgreSQL dies under a load of updates and reads: kill -9 of all its processes, then a start.
crash()
{
	local round postmaster answered up known

	for round in $(seq $rounds); do
		warm
		for side in session peer; do
			cat >"$EC_TMP/crash.$side" <<-END
				\set id random(1, $documents)
				UPDATE $side SET v = v + 1 WHERE id = :id;
				SELECT $([ $side = session ] && echo echocache_get_session || echo pgmemcache_get)(:id);
			END
			ec_sql -c "SELECT sum(v) FROM $side" >"$EC_TMP/crash.$side.before"
			pgbench -n -c 4 -T 60 -l --log-prefix="$EC_TMP/crash.$side.$round" -f "$EC_TMP/crash.$side" \
				>/dev/null 2>&1 &
		done
		# Until both are at full speed.
		for side in session peer; do
			until [ "$(ec_sql -c "SELECT sum(v) FROM $side")" -gt $(($(cat "$EC_TMP/crash.$side.before") + 300)) ]; do
				sleep 0.05
			done
		done
		postmaster=$(head -1 "$EC_TMP/pg-main/data/postmaster.pid")
		# shellcheck disable=SC2046 # many words
		kill -KILL "$postmaster" $(pgrep -P "$postmaster") 2>/dev/null || true
		wait -n || true
		wait -n || true
		while kill -0 "$postmaster" 2>/dev/null; do sleep 0.02; done
		ec_pg_start main
		answered=$(date +%s.%N)
		up=$(up_since)
		for side in session peer; do
			# pgbench logs a script once it has heard of its end, and so of its update's commit.
			known=$(cat "$EC_TMP/crash.$side.$round".* | wc -l)
			echo "$(awk -v a="$answered" -v u="$up" 'BEGIN { t = (u - a) * 1000; print (t > 0 ? t : 0) }')" \
				"$(held "$([ $side = session ] && echo echocache || echo pgmemcache)" stale)" \
				"$(ec_sql -c "SELECT greatest(0, $known - (sum(v) - $(cat "$EC_TMP/crash.$side.before"))) FROM $side")" \
				>>"$EC_TMP/crash.$side.rounds"
		done
	done
	line "PostgreSQL is killed under load, and started again" echocache – – – – – \
		"$(ms "$(worst 1 "$EC_TMP/crash.session.rounds")")" "$(worst 2 "$EC_TMP/crash.session.rounds")" "$(worst 3 "$EC_TMP/crash.session.rounds")"
	line "" pgmemcache – – – – – – "$(worst 2 "$EC_TMP/crash.peer.rounds")" "$(worst 3 "$EC_TMP/crash.peer.rounds")"
	awk '$2 + $3 > 0' "$EC_TMP/crash.session.rounds" >"$EC_TMP/crash.broken"
	[ ! -s "$EC_TMP/crash.broken" ] || broken="$broken crash"
}

# What strict mode costs when all is well: updates per second of one and the other, in turns.
strict()
{
	local round fallback order='on off'

	cat >"$EC_TMP/strict.sql" <<-END
		\set id random(1, $documents)
		UPDATE session SET v = v + 1 WHERE id = :id;
	END
	warm
	for round in $(seq 8); do
		for fallback in $order; do
			ec_sql -c "ALTER SYSTEM SET echocache.fallback = $fallback" -c "SELECT pg_reload_conf()" >/dev/null
			pgbench -n -M prepared -c 4 -T 2 -f "$EC_TMP/strict.sql" 2>/dev/null |
				awk -v round="$round" -v name="$fallback" '/^tps/ { print round, name, $3; n++ } END { exit n != 1 }' \
					>>"$EC_TMP/strict"
		done
		order="${order#* } ${order% *}"
	done
	awk '{ tps[$1, $2] = $3 } END { for (r = 1; r <= 8; r++) print tps[r, "off"] / tps[r, "on"] }' "$EC_TMP/strict" | sort -n |
		awk '{ r[NR] = $1 } END { printf "\nStrict mode when all is well: %.2f times (%.2f to %.2f) as many updates per second with fallback = off as with on.\n",
			r[int((NR + 1) / 2)], r[1], r[NR] }'
	ec_sql -c "ALTER SYSTEM RESET echocache.fallback" -c "SELECT pg_reload_conf()" >/dev/null
}

# ------------------------------------------------------------------ the run

finish()
{
	jobs -p | xargs -r kill 2>/dev/null || true
	rm -rf "${memory:-}"
	ec_end
}

ec_begin
trap finish EXIT
memory=$(mktemp -d /dev/shm/echocache.XXXXXX)	# a warm restart needs it in memory
chmod 777 "$memory"
broken=
ec_build
ec_memcached_start echocache -m 64
ec_memcached_start pgmemcache -m 64
ec_pg_start main "fsync = on" "timezone = 'UTC'" "echocache.enabled = on" \
	"echocache.hosts = '127.0.0.1:$(ec_memcached_port echocache)'"
ec_pg_env main
ec_sql >/dev/null <<SQL
ALTER DATABASE postgres SET pgmemcache.default_servers = '127.0.0.1:$(ec_memcached_port pgmemcache)';
SET pgmemcache.default_servers = '127.0.0.1:$(ec_memcached_port pgmemcache)';
CREATE EXTENSION echocache;
CREATE EXTENSION pgmemcache;
CREATE TABLE session (id bigint PRIMARY KEY, v int NOT NULL, body text);
INSERT INTO session SELECT i, 0, repeat(md5(i::text), 32) FROM generate_series(1, $documents) i;
CREATE TABLE peer (LIKE session INCLUDING ALL);
INSERT INTO peer TABLE session;
SELECT echocache_attach('session');
CREATE FUNCTION delete_in_trigger() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
    PERFORM memcache_delete('session:' || NEW.id);
    RETURN NULL;
END \$\$;
CREATE TRIGGER peer AFTER UPDATE ON peer FOR EACH ROW EXECUTE FUNCTION delete_in_trigger();
CREATE FUNCTION pgmemcache_get(wanted bigint) RETURNS json LANGUAGE plpgsql AS \$\$
DECLARE
    document text := memcache_get('session:' || wanted);
BEGIN
    IF document IS NULL THEN
        SELECT row_to_json(p) INTO document FROM peer p WHERE id = wanted;
        PERFORM memcache_set('session:' || wanted, document);
    END IF;
    RETURN document::json;
END \$\$;
SQL

{
	echo "Machine: $(nproc) CPUs, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)," \
		"$(awk '/MemTotal/ { printf "%.0f GB", $2 / 1048576 }' /proc/meminfo), Linux $(uname -r)."
	echo "Versions: $(ec_sql -c "SELECT 'PostgreSQL ' || split_part(current_setting('server_version'), ' ', 1) || ', '
		|| string_agg(extname || ' ' || extversion, ', ' ORDER BY extname)
		FROM pg_extension WHERE extname IN ('echocache', 'pgmemcache')"), $(memcached -V)."
	echo "Settings: $(ec_sql -c "SELECT string_agg(name || ' = ' || current_setting(name), ', ' ORDER BY name DESC)
		FROM pg_settings WHERE name IN ('echocache.timeout', 'echocache.commit_timeout', 'echocache.retry_interval')"); the worst of $rounds rounds."
	echo
	echo '| fault | with | first wait | later waits, p50 / max | failed | stale reads | server answers to UP | stale at rest | commits lost |'
	echo '|---|---|---|---|---|---|---|---|---|'
}

direct=$(ec_memcached_port echocache)
fault killed "memcached is killed, and started empty" "$direct" 40
fault frozen "memcached freezes (SIGSTOP), and goes on" "$direct" 2
ec_memcached_stop echocache
ec_memcached_stop pgmemcache
ec_memcached_start echocache -m 64 -e "$memory/echocache"
ec_memcached_start pgmemcache -m 64 -e "$memory/pgmemcache"
fault restarted "memcached stops, and is back with its old contents" "$direct" 40
start_proxy echocache
start_proxy pgmemcache
point_to "$(cat "$EC_TMP/echocache.proxy")" "$(cat "$EC_TMP/pgmemcache.proxy")"
fault cut "memcached is cut off from PostgreSQL, silently" "$(cat "$EC_TMP/echocache.proxy")" 2
point_to "$direct" "$(ec_memcached_port pgmemcache)"
crash
strict

[ -z "$broken" ] || ec_die "echocache did not keep its promise:$broken"
