#!/bin/bash
#
# demo.sh
#	  The whole thing in a minute: a chat product's table, a private PostgreSQL,
#	  a private memcached, and what a plain memcached client sees of it all.
#
#	bash test/demo.sh			play it; a second time starts afresh
#	bash test/demo.sh stop		stop both servers and remove everything
#
# As root it has install-deps.sh install the packages that are missing, which takes one to
# three minutes on a fresh Debian and creates no cluster and starts no service.  As
# anybody else it expects them to be there.  All else happens in one folder,
# ${TMPDIR:-/tmp}/echocache-demo.  The output fits 80 columns.
#
# Every step is checked: a wrong outcome ends the demo with a message and a
# status other than 0, and leaves the servers as they are, to be looked at.
#
# Environment: NO_COLOR, SEED (of the generated conversations), and what
# lib.sh looks at.
#
# Copyright (c) 2026, echocache developers

set -Eeuo pipefail
export LC_ALL=C.UTF-8

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${TMPDIR:-/tmp}/echocache-demo

n_users=24
n_sessions=300
seed=${SEED:-7}

# The conversation of the story.
id=7d9f2c1e-4b5a-4c38-9e0d-6a1b8f3c2e47
key=session:$id

# --- What the reader sees -----------------------------------------------------

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
	bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' cyan=$'\e[36m' plain=$'\e[0m'
else
	bold='' dim='' red='' green='' cyan='' plain=''
fi
if [ -t 1 ]; then clear_line=$'\r\e[K'; else clear_line=''; fi
chapter=0

# The last column that is written to.
columns=80

# wrap FIRST OTHERS TEXT: in lines that begin with FIRST, and OTHERS from the second one on,
# which has the same width.  A word that is too long stays whole.
wrap()
{
	local word line='' begin=$1 room=$((columns - ${#2}))

	for word in $3; do
		if [ $((${#line} + ${#word})) -gt "$room" ] && [ -n "$line" ]; then
			printf '%s%s\n' "$begin" "${line% }"
			line='' begin=$2
		fi
		line+="$word "
	done
	printf '%s%s\n' "$begin" "${line% }"
}

# say TEXT: prose, one paragraph.
say()
{
	wrap '  ' '  ' "$*"
}

section()
{
	local rule=────────────────────────────────────────────────────────────────────────────────

	chapter=$((chapter + 1))
	printf '\n%s%2d  %s %s%s\n\n' "$bold" "$chapter" "$1" "${rule:0:$((columns - 5 - ${#1}))}" "$plain"
}

# A line of the preparations: what, and how it went.
item()
{
	local begin

	printf -v begin '  %-16s' "$1"
	printf '%s' "$clear_line"
	wrap "$begin" '                  ' "$2"
}

# The same while it goes on, for somebody who waits; the next item writes over it.
busy()
{
	[ -z "$clear_line" ] || printf '%s  %-16s%s …' "$clear_line" "$1" "$2"
}

ok()
{
	printf '%s%s%s\n' "$green" "$(wrap '  ✓ ' '    ' "$*")" "$plain"
}

# fail WHAT EXPECTED SEEN: the demo ends here.
fail()
{
	{
		printf '\n  %s✗ %s%s\n' "$red" "$1" "$plain"
		printf '    expected: %s\n    seen:     %s\n' "$2" "$3"
		post_mortem
	} >&2
	exit 1
}

post_mortem()
{
	if [ -d "$folder/pg-main" ]; then
		printf '\n  The servers are left as they are. Logs: %s\n' \
			"$folder/pg-main/log, $folder/mc-a.log"
		printf '  Remove them with: bash %s stop\n' "$here/demo.sh"
	fi
}

# 12345 as 12,345
commas()
{
	local n=$1

	while [[ $n =~ ^([0-9]+)([0-9]{3})(,.*)?$ ]]; do
		n=${BASH_REMATCH[1]},${BASH_REMATCH[2]}${BASH_REMATCH[3]:-}
	done
	printf '%s' "$n"
}

# A document on two lines: ids shortened, the middle and the last columns left out.  Some
# characters are two columns wide; there is room for two of them.
abbreviate()
{
	local v s=$1 indent=$2 end='' room=$((columns - 2 - ${#2}))

	if [ ${#s} -le $room ]; then
		printf '%s%s\n' "$indent" "$s"
		return
	fi
	v=$(sed -E 's/"([0-9a-f]{4})[0-9a-f]{4}-[0-9a-f-]{27}"/"\1…"/g' <<<"${s:0:240}")
	printf '%s%s …\n' "$indent" "${v:0:room - 2}"
	if [[ $s =~ ,\"is_deleted\":[^{}]*\}$ ]]; then
		s=${s%"${BASH_REMATCH[0]}"}
		end=', …}'
	fi
	printf '%s… %s%s\n' "$indent" "${s: -(room - 2 - ${#end})}" "$end"
}

# --- Preparing the machine ----------------------------------------------------

on_exit()
{
	local status=$?

	if [ "${interrupted:-0}" = 1 ] && [ -d "$folder" ]; then
		echo "interrupted: removing $folder" >&2
		remove_everything
	fi
	exit "$status"
}

on_error()
{
	printf '\n  %s✗ demo.sh, line %s: failed: %s%s\n' "$red" "$1" "${2%%$'\n'*}" "$plain" >&2
	post_mortem >&2
}

trap on_exit EXIT
trap 'on_error "$LINENO" "$BASH_COMMAND"' ERR
trap 'interrupted=1; exit 130' INT
trap 'interrupted=1; exit 143' TERM

install_packages()
{
	local line none=1

	busy packages "looking"
	while IFS= read -r line; do
		item packages "$line"
		none=0
	done < <(exec bash "$here/install-deps.sh" demo)
	wait "$!" || exit 1
	[ "$none" = 0 ] || item packages "all there"
}

# lib.sh asks PostgreSQL's pg_config who it is, so it comes after the packages.
load_library()
{
	# shellcheck source-path=SCRIPTDIR source=lib.sh
	. "$here/lib.sh"
}

# The folder has a name that anybody can guess: it must be ours, or not be there.
remove_everything()
{
	[ -e "$folder" ] || [ -L "$folder" ] || return 0
	if [ -L "$folder" ] || [ ! -d "$folder" ] || [ ! -O "$folder" ]; then
		echo "$folder belongs to somebody else; set TMPDIR to another place" >&2
		exit 1
	fi
	if [ ! -d "$folder/pg-main" ] && [ ! -e "$folder/mc-a.port" ]; then
		rm -rf "$folder"
		return
	fi
	load_library
	ec_begin "$folder"
	ec_end 2>/dev/null
}

# Who may connect: over the socket we (and postgres) without a password, over
# TCP the product's role with one.  Other users of this machine may not.
access_files()
{
	local me u

	me=$(id -un)
	password=$(od -An -N9 -tx1 /dev/urandom | tr -d ' \n')
	{
		echo "local all all peer map=demo"
		echo "host chat chat 127.0.0.1/32 scram-sha-256"
	} >"$folder/hba.conf"
	for u in "$me" postgres; do
		echo "demo $u postgres"
		echo "demo $u chat"
	done | sort -u >"$folder/ident.conf"
}

# --- The two clients ----------------------------------------------------------

# run STATEMENT: in the one session of the product.  Sets OUT to what psql
# prints, errors among it, and MS to the time it took.
run()
{
	local line eor=--end-of-result--

	OUT='' MS=0
	printf '%s\n\\echo %s\n' "$1" "$eor" >&"${PSQL[1]}"
	while :; do
		IFS= read -r -t 60 line <&"${PSQL[0]}" || fail "psql" "an answer within 60 s" "$OUT"
		[ "$line" = "$eor" ] && break
		if [[ $line =~ ^Time:\ ([0-9.]+)\ ms ]]; then
			MS=${BASH_REMATCH[1]}
		else
			OUT+=${OUT:+$'\n'}$line
		fi
	done
}

# sql STATEMENT: run it, and show it with its result and time.
sql()
{
	run "$1"
	MS=$(LC_ALL=C printf '%.1f' "$MS")
	printf '  %schat=>%s %s\n' "$cyan" "$plain" "${1//$'\n'/$'\n'         }"
	if [[ $OUT == '{'* ]]; then
		abbreviate "$OUT" '         '
		printf '         %s%s bytes, %s ms%s\n' "$dim" "$(commas "$(bytes "$OUT")")" "$MS" "$plain"
	else
		printf '         %s%s%s ms%s\n' "${OUT:+${OUT//$'\n'/$'\n'         }  }" "$dim" "$MS" "$plain"
	fi
}

# variable NAME VALUE: a psql variable, shown; the statements use it as :'NAME'.
variable()
{
	run "\\set $1 $2"
	expect "\\set" "" "$OUT"
	printf '  %schat=>%s \\set %-8s %s\n' "$cyan" "$plain" "$1" "$2"
}

bytes()
{
	local LC_ALL=C

	echo ${#1}
}

# What a plain client gets: bash, a TCP connection, and memcached's protocol.
# Sets SEEN to value, marker, nothing, refused or silent; VALUE, FLAGS, and TTL in seconds.
memcached_get()
{
	local fd line length

	SEEN=refused VALUE='' FLAGS='' TTL=''
	{ exec {fd}<>"/dev/tcp/127.0.0.1/$mc_port"; } 2>/dev/null || return 0
	printf 'get %s\r\nmg %s t\r\nquit\r\n' "$1" "$1" >&"$fd"
	SEEN=silent
	if read -r -t 2 line <&"$fd"; then
		SEEN=nothing
		if [[ $line == VALUE* ]]; then
			read -r _ _ FLAGS length <<<"${line%$'\r'}"
			VALUE=$(head -c "$length" <&"$fd")
			SEEN=value
			[ "$VALUE" != null ] || SEEN=marker
			{ read -r _ && read -r _ && read -r line; } <&"$fd"
			line=${line%$'\r'}
			TTL=${line#HD t}
		fi
	fi
	exec {fd}>&-
}

# cache: do so with the story's key, and show it.
cache()
{
	# when COMMIT returns the document is on its way, and the marker there for an instant
	for _ in {1..100}; do
		memcached_get "$key"
		[ "$SEEN" = marker ] || break
		sleep 0.02
	done
	printf '  %scache>%s get %s\n' "$cyan" "$plain" "$key"
	case $SEEN in
		value)
			abbreviate "$VALUE" '         '
			printf '         %s%s bytes, %s s to live%s\n' "$dim" \
				"$(commas "$(bytes "$VALUE")")" "$(commas "$TTL")" "$plain"
			;;
		marker) printf '         null  %s(ask the database)%s\n' "$dim" "$plain" ;;
		nothing) printf '         END  %s(nothing there)%s\n' "$dim" "$plain" ;;
		refused) printf '         connection refused\n' ;;
		silent) printf '         %s(no answer in 0.3 s)%s\n' "$dim" "$plain" ;;
	esac
}

# --- What must hold -----------------------------------------------------------

# The row itself, asked of the table and of nothing else.
row()
{
	run "SELECT row_to_json(s) FROM chat_sessions s WHERE session_id = :'id';"
	[[ $OUT == '{'* ]] || fail "the row of the story" "one row" "$OUT"
	ROW=$OUT
}

shorten()
{
	if [ ${#1} -le 200 ]; then echo "$1"; else echo "${1:0:60} … ${1: -120}"; fi
}

# expect_sql_row: the last statement gave the row as it is now.
expect_sql_row()
{
	local got=$OUT

	row
	[ "$got" = "$ROW" ] || fail "the answer" "$(shorten "$ROW")" "$(shorten "$got")"
}

# expect_cached [LEAST MOST]: the plain client saw the row as it is now, with so much time to live.
expect_cached()
{
	local least=${1:-1780} most=${2:-1800}

	row
	[ "$SEEN" = value ] || fail "the plain client" "the document" "$SEEN"
	[ "$VALUE" = "$ROW" ] || fail "the document in memcached" "$(shorten "$ROW")" "$(shorten "$VALUE")"
	[ "$FLAGS" = 0 ] || fail "client flags" 0 "$FLAGS"
	if [ "$TTL" -lt "$least" ] || [ "$TTL" -gt "$most" ]; then
		fail "seconds to live" "$least to $most" "$TTL"
	fi
}

expect()
{
	[ "$3" = "$2" ] || fail "$1" "$2" "$(shorten "$3")"
}

# expect_within MILLISECONDS WHAT: the last statement took no longer, but for what a busy
# machine adds: it may as well take what ten do that wait for nothing.
expect_within()
{
	local took=$MS limit=$1

	for _ in {1..10}; do
		run "SELECT 1;"
		limit=$((limit + ${MS%.*}))
	done
	[ "${took%.*}" -lt "$limit" ] || fail "time of $2" "under $limit ms" "$took ms"
}

# The counters of the document, for differences.
counters()
{
	run "SELECT local_hits, hits, misses FROM echocache_stats WHERE name = 'session';"
	[[ $OUT =~ ^([0-9]+)\|([0-9]+)\|([0-9]+)$ ]] || fail "echocache_stats" "local_hits|hits|misses" "$OUT"
	LOCAL=${BASH_REMATCH[1]} REMOTE=${BASH_REMATCH[2]} MISSES=${BASH_REMATCH[3]}
	HITS=$((LOCAL + REMOTE))
}

# Wait until PostgreSQL calls its memcached UP; sets TOOK.
wait_up()
{
	local began=${EPOCHREALTIME/./} now

	while :; do
		run "SELECT state FROM echocache_servers;"
		now=${EPOCHREALTIME/./}
		[ "$OUT" != UP ] || break
		[ $((now - began)) -lt 20000000 ] || fail "the server's state" "UP within 20 s" "$OUT"
		sleep 0.05
	done
	TOOK=$(LC_ALL=C printf '%.1f s' "$(((now - began) / 100000))e-1")
}

expect_down()
{
	table "SELECT server, state, last_error FROM echocache_servers;"
	run "SELECT state FROM echocache_servers;"
	expect "the server's state" DOWN "$OUT"
}

# table STATEMENT: shown with its result as psql draws tables, as the superuser.
table()
{
	printf '  %schat=#%s %s\n' "$cyan" "$plain" "${1//$'\n'/$'\n'         }"
	psql -X -q -P footer=off -P null=- -c "$1" chat | sed '/^$/d; s/^/         /'
}

# --- The chat product ---------------------------------------------------------

# What the clients of an ordinary morning do: nineteen reads to one write, some
# conversations far more popular than others.
traffic_sql()
{
	echo '\set n random_zipfian(1, :sessions, 1.1)'
	if [ "$1" = read ]; then
		echo "SELECT echocache_get_session(md5('session ' || :n));"
	else
		echo "UPDATE chat_sessions SET title = left(title, 40) || ' (' || :client_id || ')',"
		echo " updated_at = now() WHERE session_id = md5('session ' || :n)::uuid;"
	fi
}

# --- Setting the stage --------------------------------------------------------

prepare()
{
	local version

	printf '%sechocache: a chat table, a memcached, and nobody who writes the cache%s\n\n' \
		"$bold" "$plain"
	remove_everything
	install_packages
	mkdir -m 755 "$folder"
	load_library
	ec_begin "$folder"

	busy extension building
	SECONDS=0
	# shellcheck disable=SC2119 # no arguments for make
	ec_build
	item extension "built in $SECONDS s, staged in ${EC_STAGE:?}"
	access_files

	ec_memcached_start a -m 64
	mc_port=$(ec_memcached_port a)
	version=$(memcached -V)
	item memcached "${version#memcached }, 127.0.0.1:$mc_port, 64 MB"

	ec_pg_start main "fsync = on" "timezone = 'UTC'" \
		"hba_file = '$folder/hba.conf'" "ident_file = '$folder/ident.conf'" \
		"echocache.hosts = '127.0.0.1:$mc_port'" "echocache.enabled = on" "echocache.lease = '1s'"
	ec_pg_env main
	version=$("$PG_CONFIG" --version)
	version=${version#PostgreSQL }
	item PostgreSQL "${version%% *}, 127.0.0.1:$PGPORT, private, in $folder"

	# pg_monitor is for the views that the demo looks at; the product itself needs no privilege.
	ec_sql -c "CREATE ROLE chat LOGIN PASSWORD '$password' IN ROLE pg_monitor" \
		-c "CREATE DATABASE chat OWNER chat"
	ec_sql -c "CREATE EXTENSION echocache" chat
	PGOPTIONS="-c demo.users=$n_users -c demo.sessions=$n_sessions -c demo.seed=$seed" \
		ec_sql -U chat -f "$here/demo.sql" chat >/dev/null
	item "the product" "$(ec_sql -U chat chat -c "
		SELECT format('%s users, %s conversations of %s to %s KB (half of them under %s KB)',
			(SELECT count(*) FROM users), count(*),
			round(min(size) / 1000.0, 1), round(max(size) / 1000.0, 1),
			round(percentile_disc(0.5) WITHIN GROUP (ORDER BY size) / 1000.0, 0))
		FROM (SELECT octet_length(row_to_json(s)::text) AS size FROM chat_sessions s) s")"

	# One session for the whole story, as an application's connection would be.
	coproc PSQL { exec psql -X -A -t -U chat chat 2>&1; }
	run '\pset null NULL'
	run '\timing on'
	run "SELECT md5('user 1')::uuid, md5('user 2')::uuid;"
	[[ $OUT =~ ^([0-9a-f-]{36})\|([0-9a-f-]{36})$ ]] || fail "the users" "two ids" "$OUT"
	me=${BASH_REMATCH[1]} stranger=${BASH_REMATCH[2]}
}

# --- The story ----------------------------------------------------------------

act_attach()
{
	section "Attach the table"
	sql "SELECT echocache_attach('chat_sessions', owner_column => 'user_id',
                        filter => 'NOT is_deleted');"
	[[ $OUT != *ERROR* ]] || fail "echocache_attach" "success" "$OUT"
	wait_up
	ok "the product needs no other change; from here on it writes SQL and nothing else"
}

act_create()
{
	section "Create a conversation"
	variable id "$id"
	variable me "$me"
	sql "INSERT INTO chat_sessions (session_id, user_id, title, messages)
VALUES (:'id', :'me', 'Names for a cat', '[
  {\"role\": \"user\", \"content\": \"A name for our new grey cat?\"},
  {\"role\": \"assistant\", \"content\": \"Nimbus, Pebble or Earl Grey.\"}]');"
	expect "INSERT" "INSERT 0 1" "$OUT"
	cache
	expect_cached
	ok "cached by the commit, byte for byte what row_to_json gives"
}

act_hit()
{
	local local remote misses

	section "Read it"
	counters
	local=$LOCAL remote=$REMOTE misses=$MISSES
	sql "SELECT echocache_get_session(:'id', :'me');"
	expect_sql_row
	counters
	expect "local_hits, hits, misses" "0, 1, 0" "$((LOCAL - local)), $((REMOTE - remote)), $((MISSES - misses))"
	ok "from memcached: hits $remote → $REMOTE, misses $misses → $MISSES"
	say "From now on PostgreSQL has it in shared memory, too, and asks nobody:"
	sql "SELECT echocache_get_session(:'id', :'me');"
	expect_sql_row
	counters
	expect "local_hits, hits, misses" "1, 1, 0" "$((LOCAL - local)), $((REMOTE - remote)), $((MISSES - misses))"
	ok "from shared memory: local_hits $local → $LOCAL"
}

act_update()
{
	local before

	section "Add a message"
	sql "UPDATE chat_sessions SET updated_at = now(), messages = messages ||
  '{\"role\": \"user\", \"content\": \"Pebble it is! 🐈 And her brother?\"}'
 WHERE session_id = :'id';"
	expect "UPDATE" "UPDATE 1" "$OUT"
	before=$VALUE
	cache
	expect_cached
	[ "$VALUE" != "$before" ] || fail "the document" "the new one" "the one before"
	ok "the new document, there when COMMIT returned, with a whole TTL again"
}

act_rollback()
{
	local before

	section "Change one's mind"
	before=$VALUE
	sql "BEGIN;"
	sql "UPDATE chat_sessions SET title = 'Not this one', messages = '[]'
 WHERE session_id = :'id';"
	cache
	expect "the document before the end of the transaction" "$before" "$VALUE"
	sql "ROLLBACK;"
	expect "ROLLBACK" "ROLLBACK" "$OUT"
	cache
	expect_cached
	expect "the document after ROLLBACK" "$before" "$VALUE"
	ok "nobody saw it: neither before the rollback nor after"
}

act_owner()
{
	section "Ask as somebody else"
	variable stranger "$stranger"
	sql "SELECT echocache_get_session(:'id', :'stranger');"
	expect "a stranger's read" NULL "$OUT"
	sql "SELECT echocache_get_session(:'id', :'me');"
	expect_sql_row
	ok "the owner is checked on a hit as on a miss"
	say "${dim}memcached itself knows no owners: who reaches its port reads it all.$plain"
}

act_touch()
{
	section "Keep it longer"
	sql "SELECT echocache_touch_session(:'id', '1 hour');"
	expect "echocache_touch_session" t "$OUT"
	cache
	expect_cached 3580 3600
	ok "the same document, an hour to live"
}

act_delete()
{
	section "Delete it softly, and bring it back"
	sql "UPDATE chat_sessions SET is_deleted = true WHERE session_id = :'id';"
	expect "UPDATE" "UPDATE 1" "$OUT"
	cache
	[[ $SEEN == nothing || $SEEN == marker ]] ||
		fail "the plain client" "no document" "$SEEN: $(shorten "$VALUE")"
	sql "SELECT echocache_get_session(:'id', :'me');"
	expect "a deleted conversation" NULL "$OUT"
	ok "gone for everybody"
	sql "UPDATE chat_sessions SET is_deleted = false WHERE session_id = :'id';"
	cache
	expect_cached
	ok "and back"
}

# The shop runs: many clients at once, and then the whole cache is compared with the table.
act_traffic()
{
	local f hits misses rate took

	section "An ordinary morning"
	for f in read write; do
		traffic_sql "$f" >"$folder/$f.sql"
	done
	counters
	hits=$HITS misses=$MISSES
	say "pgbench: 4 clients, 4,000 transactions, 19 reads to 1 write," \
		"some conversations far more popular than others."
	pgbench -n -U chat -c 4 -j 2 -t 1000 -D "sessions=$n_sessions" --random-seed="$seed" \
		-f "$folder/read.sql@19" -f "$folder/write.sql@1" chat >"$folder/pgbench.log" 2>&1 ||
		fail "pgbench" "success" "$(tail -5 "$folder/pgbench.log")"
	grep -q 'processed: 4000/4000' "$folder/pgbench.log" ||
		fail "pgbench" "4000 transactions" "$(grep processed "$folder/pgbench.log")"
	rate=$(sed -n 's/^tps = \([0-9]*\).*/\1/p' "$folder/pgbench.log")
	took=$(sed -n 's/^latency average = //p' "$folder/pgbench.log")
	say "$(commas "$rate") transactions a second, $took each on average"
	counters
	hits=$((HITS - hits)) misses=$((MISSES - misses))
	[ $((10 * hits)) -ge $((8 * (hits + misses) + 1)) ] ||
		fail "hits among the reads" "80 % or more" "$hits hits, $misses misses"
	ok "$(commas "$hits") hits, $(commas "$misses") misses: the table was asked for $(
		)$((100 * misses / (hits + misses))) % of the reads"
	compare_everything
}

# Every document that a plain client can get is its row, byte for byte.
compare_everything()
{
	local sid sum cached=0

	while IFS='|' read -r sid sum; do
		memcached_get "session:$sid"
		[ "$SEEN" = value ] || continue
		cached=$((cached + 1))
		expect "MD5 of session:$sid" "$sum" "$(printf %s "$VALUE" | md5sum | cut -d ' ' -f 1)"
	done < <(ec_sql -U chat chat -c "
		SELECT session_id, md5(row_to_json(s)::text) FROM chat_sessions s ORDER BY 1")
	[ "$cached" -ge 50 ] || fail "documents in memcached" "50 or more" "$cached"
	ok "all $cached documents in memcached compared with their rows: no difference"
}

act_killed()
{
	section "memcached is killed"
	printf '  %sshell$%s kill -KILL %s\n' "$cyan" "$plain" "$(ec_memcached_pid a)"
	ec_memcached_stop a KILL
	cache
	expect "the plain client" refused "$SEEN"
	sql "SELECT echocache_get_session(:'id', :'me');"
	expect_sql_row
	expect_within 500 "the first read without memcached"
	sql "UPDATE chat_sessions
   SET updated_at = now(), title = 'Names for two cats'
 WHERE session_id = :'id';"
	expect "UPDATE" "UPDATE 1" "$OUT"
	expect_within 500 "a commit without memcached"
	expect_down
	ok "the table answers and takes writes; the server is DOWN for every backend"

	printf '\n  %sshell$%s memcached -p %s …\n' "$cyan" "$plain" "$mc_port"
	ec_memcached_start a -m 64
	wait_up
	sql "SELECT state FROM echocache_servers;"
	ok "UP again after $TOOK"
	sql "SELECT echocache_get_session(:'id', :'me');"
	expect_sql_row
	cache
	expect_cached
	ok "fresh: the first read put it back"
}

# The nasty one: a frozen memcached keeps its memory, and with it the old document.
act_frozen()
{
	local pid old

	section "memcached freezes"
	pid=$(ec_memcached_pid a)
	old=$VALUE
	printf '  %sshell$%s kill -STOP %s\n' "$cyan" "$plain" "$pid"
	kill -STOP "$pid"
	cache
	expect "the plain client" silent "$SEEN"
	sql "SELECT echocache_get_session(:'id', :'me');"
	expect_sql_row
	expect_within 500 "the first read of a frozen memcached"
	say "${dim}That one waited for echocache.timeout. Nobody waits again:$plain"
	sql "SELECT echocache_get_session(:'id', :'me');"
	expect_sql_row
	expect_within 100 "the second read"
	sql "UPDATE chat_sessions SET updated_at = now(), messages = messages ||
  '{\"role\": \"assistant\", \"content\": \"Pebble and Boulder.\"}'
 WHERE session_id = :'id';"
	expect "UPDATE" "UPDATE 1" "$OUT"
	expect_within 200 "a commit while memcached is frozen"
	sleep 2
	expect_down
	ok "the table answers, the commit did not wait, and only the worker asks whether it is back"

	printf '\n  %sshell$%s kill -CONT %s\n' "$cyan" "$plain" "$pid"
	kill -CONT "$pid"
	say "${dim}Its memory still holds the old document. PostgreSQL clears that before it uses" \
		"the server again:$plain"
	wait_up
	cache
	[ "$VALUE" != "$old" ] || fail "the repaired server" "anything but the old document" "the old one"
	ok "UP again after $TOOK, and the old document is gone"
	sql "SELECT echocache_get_session(:'id', :'me');"
	expect_sql_row
	cache
	expect_cached
	ok "fresh, with the message that was written while it was frozen"
}

act_figures()
{
	section "What it did"
	table "SELECT state, test_set, test_get, test_delete, milliseconds, error
  FROM echocache_health();"
	table "SELECT name, local_hits, hits, misses,
       round(100.0 * (local_hits + hits)
         / (local_hits + hits + misses), 1) AS \"hit ratio, %\"
  FROM echocache_stats;"
	run "SELECT echocache_is_available();"
	expect "echocache_is_available()" t "$OUT"
	counters
	[ "$HITS" -gt "$MISSES" ] || fail "the hit ratio" "over 50 %" "$HITS hits, $MISSES misses"
	ok "every step was checked"
}

how_to_go_on()
{
	section "Yours now"
	say "Both servers keep running."
	cat <<END

  PostgreSQL, as the product:
    psql 'postgresql://chat:$password@127.0.0.1:$PGPORT/chat'
  as the superuser:
    psql -h $PGHOST \\
      -p $PGPORT -U postgres chat
  memcached, with nothing but bash:
    key=$key
    (exec 3<>/dev/tcp/127.0.0.1/$mc_port
     printf 'get %s\r\nquit\r\n' \$key >&3; cat <&3)
  or with any client library, at 127.0.0.1:$mc_port.

  Remove everything:
    bash $here/demo.sh stop
END
}

# ------------------------------------------------------------------------------

case ${1:-} in
	'')
		prepare
		act_attach
		act_create
		act_hit
		act_update
		act_rollback
		act_owner
		act_touch
		act_delete
		act_traffic
		act_killed
		act_frozen
		act_figures
		how_to_go_on
		;;
	stop)
		[ -e "$folder" ] || { echo "nothing to stop: there is no $folder"; exit 0; }
		remove_everything
		echo "stopped; $folder is gone"
		;;
	*)
		echo "usage: bash test/demo.sh [stop]" >&2
		exit 2
		;;
esac
