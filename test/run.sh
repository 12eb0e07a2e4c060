#!/usr/bin/env bash
#
# run.sh [SUITE | TAP FILE]...
#	  Every test of echocache, or the suites named:
#
#	build      gcc and clang, without a warning; the shape of the sources
#	unit       the pure files, with sanitizers
#	regress    pg_regress: every function, setting and error
#	isolation  pg_isolation_regress: sessions in a given interleaving
#	demo       test/demo.sh plays to its end, within 80 columns
#	tap        test/t/*.pl: several servers, faults, plain clients
#	memcacheds some of test/t with the memcached of each release of Debian, from 1.6.9 on
#	clients    test/clients: other clients of memcached, in many languages
#	neighbours test/neighbours: beside PgBouncer, Patroni, pg_repack, logical replication and
#	           pg_basebackup
#	monitoring monitoring/: the PostgreSQL exporter, Prometheus and Chromium of Debian
#	coherence  the concurrent checker, short runs, quiet and under faults; and that it finds what
#	           is wrong with caches that others build
#	fuzz       libFuzzer on the wire format, for FUZZ_SECONDS (60)
#	model      the protocol in Spin, exhaustively, and that each rule of it is needed
#	packages   the Debian packages, built, installed, upgraded and purged in chroots of Debian 12 and
#	           13; as root, and only when it is named
#
# A test/t/NAME.pl or test/neighbours/NAME.pl instead of a suite runs that file alone.
#
# EC_VARIANT=asserts builds the library that is tested with its assertions, EC_VARIANT=ubsan
# with the sanitizer of undefined behaviour.  What they report anywhere is a failure.
# chroot.sh runs this script on another release of Debian, ../.ci/run runs it in all ways.
#
# Works from a clean clone on Debian 12, 13 and sid, and on Ubuntu with PGDG's packages;
# which PostgreSQL it takes says postgres.sh (PG_MAJOR and PG_CONFIG override).  As root
# it has install-deps.sh install what the suites asked for need, which says what that
# changes on the machine.  It builds in a copy, installs nothing itself, and starts servers
# of its own on free ports in a temporary folder (EC_KEEP=1 leaves that behind).
#
# How long, on two cores: build, unit, regress and isolation five minutes together, all
# of it 20; on a fresh machine three to ten more for the packages.
#
# The last line is "N passed, N failed", however this ends; the exit status is not 0 if a
# test failed, or if a suite ran none.
#
# Copyright (c) 2026, echocache developers

set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
export LC_ALL=C PGCTLTIMEOUT=300
unset EC_TMP EC_STAGE EC_BUILD
fuzz_seconds=${FUZZ_SECONDS:-60}
passed=0
failed=0
child=
fuzz_pid=
tap=tap						# the folder, and the name, of what TAP files say
# A signal can come while a suite writes to its log; what is to be said then goes here.
exec {stdout}>&1 {stderr}>&2

# Run a command so that a signal to this script is heeded at once, not at the command's end.
attend()
{
	local status=0

	"$@" <&0 &
	child=$!
	wait "$child" || status=$?
	child=
	return "$status"
}

#
# Results.
#

# result SUITE PASSED FAILED: add it up.  A suite that ran nothing has failed.
result()
{
	local ran=$(($2 + $3)) bad=$3

	if [ "$ran" = 0 ]; then
		echo "# $1: nothing was run"
		bad=1
	fi
	passed=$((passed + $2))
	failed=$((failed + bad))
	printf '%-28s %5d passed, %d failed\n' "$1" "$2" "$bad"
}

# tap_result SUITE STATUS LOG: count what a TAP stream says, show what failed.
# A program that ends badly has failed even if no test did.
tap_result()
{
	local good bad

	good=$(grep -c '^ok\b' "$3" || true)
	bad=$(grep -c '^not ok\b' "$3" || true)
	if [ "$2" != 0 ] && [ "$bad" = 0 ]; then
		echo "# $1: exit status $2"
		tail -n 30 "$3"
		bad=1
	fi
	# What failed, with the diagnostics that follow, and what was skipped.
	awk '/^ok/ { show = 0 } /^not ok/ { show = 1 } /^ok.* # (skip|SKIP)/ { print } show && ++n <= 200 { print }' "$3"
	result "$1" "$good" "$bad"
}

# regress_result SUITE STATUS LOG FOLDER: the same for pg_regress, which says "ok"
# or "FAILED" up to PostgreSQL 15 and speaks TAP from 16 on.
regress_result()
{
	local good bad

	good=$(grep -cE '^(test .*\.\.\. ok|ok [0-9]+)' "$3" || true)
	bad=$(grep -cE '^(test .*\.\.\. FAILED|not ok [0-9]+)' "$3" || true)
	if [ "$2" != 0 ]; then
		if [ "$bad" = 0 ]; then
			bad=1
		fi
		grep -E '\.\.\. FAILED|^not ok' "$3" || tail -n 30 "$3"
		[ ! -e "$4/regression.diffs" ] || head -n 300 "$4/regression.diffs"
		[ ! -e "$4/log/postmaster.log" ] || tail -n 20 "$4/log/postmaster.log"
	fi
	result "$1" "$good" "$bad"
}

#
# Suites.
#

# The variant of the library: what the test build is made with, and a symbol that it then uses.
choose_variant()
{
	variant=${EC_VARIANT:-}
	variant_make=()
	case $variant in
		'') ;;
		asserts)
			variant_make=('COPT=-DUSE_ASSERT_CHECKING=1')
			variant_symbol=ExceptionalCondition
			;;
		ubsan)
			# The runtime is within the library, since PostgreSQL's programs do not have it.
			variant_make=('COPT=-fsanitize=undefined -static-libubsan -fno-omit-frame-pointer')
			variant_symbol=__ubsan_handle
			;;
		*) stop "there is no variant \"$variant\"; there are asserts and ubsan" ;;
	esac
}

# What the variant reported, each place once.  Failed assertions stand in the logs of the
# servers, the sanitizer writes a file for each process.
variant_result()
{
	local log=$EC_TMP/variant.log bad=0

	case $variant in
		asserts)
			find "$EC_TMP" -type f -path '*/log/*' -exec grep -hs '^TRAP: ' {} + |
				sed 's/, PID: [0-9]*//' | sort | uniq -c >"$log" || true
			;;
		ubsan)
			# With the stack of the first one of a place.
			find "$EC_TMP/ubsan" -type f -exec cat {} + |
				awk '/runtime error:/ { show = !seen[$1]++ } show' >"$log"
			;;
	esac
	if ! grep -q "$variant_symbol" "$EC_STAGE$("$PG_CONFIG" --pkglibdir)/echocache.so"; then
		echo "the library was not built with $variant" >>"$log"
	fi
	if [ -s "$log" ]; then
		head -n 200 "$log"
		bad=1
	fi
	result "$variant" $((1 - bad)) "$bad"
}

# The test build goes first, whatever was asked for: the servers run on it.
test_build()
{
	if [ "$variant" = ubsan ]; then
		mkdir -m 1777 "$EC_TMP/ubsan"
		export UBSAN_OPTIONS=print_stacktrace=1:log_path=$EC_TMP/ubsan/report
	fi
	if (ec_build STRICT=1 WAIT_POINTS=1 "${variant_make[@]}"); then
		export EC_BUILD=$EC_TMP/build EC_STAGE=$EC_TMP/stage
		[ "$(id -u)" != 0 ] || chown -R postgres "$EC_BUILD"
		return 0
	fi
	result build 0 1
	return 1
}

# With gcc the test build, with clang one as users get it.
suite_build()
{
	local copy=$EC_TMP/clang log=$EC_TMP/clang.log bad=0 status=0

	if grep -q 'warning:' "$EC_TMP/build.log"; then
		grep -A5 'warning:' "$EC_TMP/build.log"
		bad=1
	fi
	mkdir "$copy"
	ec_copy_source "$copy"
	# PostgreSQL's own flags are gcc's; here are those of them that matter to clang, which
	# does not know the format attribute that pg_config.h found in gcc.
	if ! attend make -C "$copy" -j2 CC=clang STRICT=1 \
		CFLAGS='-O2 -g -Wall -Wmissing-prototypes -Wdeclaration-after-statement -fno-strict-aliasing -fwrapv -Wno-compound-token-split-by-macro -Wno-ignored-attributes' \
		>"$log" 2>&1 || grep -q 'warning:' "$log"; then
		grep -E -A5 'warning:|error:' "$log" || tail -n 30 "$log"
		bad=$((bad + 1))
	fi
	result build $((2 - bad)) "$bad"
	attend perl "$ec_root/test/structure.pl" >"$EC_TMP/structure.log" 2>&1 || status=$?
	tap_result structure "$status" "$EC_TMP/structure.log"
}

suite_unit()
{
	local log=$EC_TMP/unit.log status=0

	attend ec_as_postgres make -s -C "$EC_BUILD/test/unit" check >"$log" 2>&1 || status=$?
	tap_result unit "$status" "$log"
}

# temp_config SUITE MEGABYTES: what pg_regress's temporary instance is configured with, in a file;
# its second tier is so large.  Most tests are about memcached: they have none.
temp_config()
{
	ec_memcached_start "$1" -m 64
	{
		ec_stage_conf
		echo "echocache.enabled = on"
		echo "echocache.hosts = '127.0.0.1:$(ec_memcached_port "$1")'"
		echo "echocache.retry_interval = '100ms'"
		# a new cluster waits so long; a busy machine's worker does not come round in less
		echo "echocache.lease = '5s'"
		echo "echocache.local_memory = '$2MB'"
		echo "echocache.audit_rate = 0"
		echo "echocache.timeout = '5s'"	# nobody here is to be slow, but the machine may be
		echo "echocache.commit_timeout = '5s'"
		echo "echocache.build_timeout = '60s'"
		echo "fsync = off"
	} >"$EC_TMP/$1.conf"
	# The parent of the instance, its socket folder and its output belong to PostgreSQL's user.
	mkdir "$EC_TMP/$1"
	[ "$(id -u)" != 0 ] || chown postgres "$EC_TMP/$1"
}

# installcheck SUITE MEGABYTES MAKE ARGUMENT...: pg_regress or its sister on an instance of its own.
# Whatever hangs is ended: a step of a spec after two minutes, a suite after half an hour, which a busy machine needs.
installcheck()
{
	local suite=$1

	temp_config "$suite" "$2"
	shift 2
	PGISOLATIONTIMEOUT=120 attend ec_as_postgres timeout -k 10 1800 make -C "$EC_BUILD" installcheck \
		PG_CONFIG="$PG_CONFIG" DESTDIR="$EC_STAGE" "$@" \
		EXTRA_REGRESS_OPTS="--temp-instance=$EC_TMP/$suite/instance --temp-config=$EC_TMP/$suite.conf" \
		</dev/null >"$EC_TMP/$suite.log" 2>&1
}

suite_regress()
{
	local status=0

	installcheck regress 0 ISOLATION= TAP_TESTS= || status=$?
	regress_result regress "$status" "$EC_TMP/regress.log" "$EC_BUILD"
}

suite_isolation()
{
	local status=0

	installcheck isolation 0 REGRESS= TAP_TESTS= || status=$?
	regress_result isolation "$status" "$EC_TMP/isolation.log" "$EC_BUILD/output_iso"
	status=0
	installcheck isolation_local 16 REGRESS= TAP_TESTS= LOCAL=1 || status=$?
	regress_result isolation_local "$status" "$EC_TMP/isolation_local.log" "$EC_BUILD/output_iso"
}

# On the test build.  A character that takes two columns counts once.
suite_demo()
{
	local dir=$EC_TMP/demo log=$EC_TMP/demo.log bad=0 lines

	mkdir "$dir"
	chmod 755 "$dir"
	if ! TMPDIR=$dir attend bash "$here/demo.sh" </dev/null >"$log" 2>&1; then
		tail -n 30 "$log"
		bad=1
	fi
	lines=$(LC_ALL=C.UTF-8 grep -nE '.{81}' "$log" || true)
	if [ -n "$lines" ]; then
		echo "# wider than 80 columns:"
		echo "$lines"
		bad=$((bad + 1))
	fi
	TMPDIR=$dir bash "$here/demo.sh" stop </dev/null >>"$log" 2>&1 || bad=2
	result demo $((2 - bad)) "$bad"
}

# One TAP file, with the environment that PGXS gives it and a folder of its own.
tap_file()
{
	local name dir

	name=$(basename "$1" .pl)
	dir=$EC_TMP/$tap/$name
	mkdir "$dir"
	cd "$dir"
	TMPDIR=$dir TESTDIR=$dir TESTDATADIR=$dir/tmp_check TESTLOGDIR=$dir/tmp_check/log PATH=$ec_bindir:$PATH PGPORT=65432 DESTDIR=$EC_STAGE \
		PG_REGRESS="$(dirname "$("$PG_CONFIG" --pgxs)")/../test/regress/pg_regress" \
		timeout -k 10 1800 perl -I "$(dirname "$("$PG_CONFIG" --pgxs)")/../test/perl" "$EC_BUILD/test/${1#"$here"/}" \
		</dev/null >"$dir/tap" 2>&1 && echo 0 >"$dir/status" || echo $? >"$dir/status"
}

# suite_tap [FILE...]: two at a time.
suite_tap()
{
	local name dir log

	[ $# -gt 0 ] || set -- "$here"/t/*.pl
	mkdir -p "$EC_TMP/$tap"
	[ "$(id -u)" != 0 ] || chown postgres "$EC_TMP/$tap"
	export ec_bindir here tap
	export -f tap_file
	# shellcheck disable=SC2016 # the inner shell expands it
	attend ec_as_postgres xargs -0 -n 1 -P 2 bash -c 'tap_file "$1"' tap < <(printf '%s\0' "$@")
	for name in "$@"; do
		name=$(basename "$name" .pl)
		dir=$EC_TMP/$tap/$name
		tap_result "$tap $name" "$(cat "$dir/status")" "$dir/tap"
		[ "$(cat "$dir/status")" = 0 ] && continue
		for log in "$dir"/tmp_check/log/{regress_log_*,*.log}; do
			[ -e "$log" ] || continue
			echo "# the end of $(basename "$log"):"
			tail -n 20 "$log"
		done
	done
}

# With each release's memcached the files that depend on what it understands and answers.  The
# machine's own is that of all other suites.
suite_memcacheds()
{
	local release memcached version tap

	for release in bullseye bookworm trixie sid; do
		if ! memcached=$(attend bash "$here/memcacheds.sh" "$release"); then
			result "memcached of $release" 0 1
			continue
		fi
		version=$("$memcached" -V)
		if [ "$version" = "$(memcached -V)" ]; then
			echo "# $version, of Debian $release, is the machine's own"
			continue
		fi
		tap=${version#memcached }
		EC_MEMCACHED=$memcached suite_tap "$here"/t/{002_wire,003_writes,021_kv,022_sweep,067_memcacheds}.pl
	done
}

suite_clients()
{
	suite_tap "$here/clients/clients.pl"
}

suite_neighbours()
{
	suite_tap "$here"/neighbours/*.pl
}

suite_monitoring()
{
	suite_tap "$here/monitoring/monitoring.pl"
}

suite_coherence()
{
	local log=$EC_TMP/coherence.log status=0

	attend bash "$EC_BUILD/test/coherence/run.sh" </dev/null >"$log" 2>&1 || status=$?
	tap_result coherence "$status" "$log"
	sed -n 's/^# |/|/p' "$log"
}

# In the background from the beginning and at the lowest priority: it needs no server.
start_fuzz()
{
	ec_as_postgres nice -n 19 bash "$EC_BUILD/test/fuzz/run.sh" "$fuzz_seconds" </dev/null >"$EC_TMP/fuzz.log" 2>&1 &
	fuzz_pid=$!
}

suite_fuzz()
{
	local status=0

	wait "$fuzz_pid" || status=$?
	fuzz_pid=
	tail -n 1 "$EC_TMP/fuzz.log"
	tap_result fuzz "$status" "$EC_TMP/fuzz.log"
}

suite_model()
{
	local log=$EC_TMP/model.log status=0

	attend ec_as_postgres bash "$EC_BUILD/test/model/run.sh" </dev/null >"$log" 2>&1 || status=$?
	tap_result model "$status" "$log"
}

# It needs no test build of its own, but the others' is quickly made.
suite_packages()
{
	local log=$EC_TMP/packages.log status=0

	attend bash "$here/packages.sh" </dev/null >"$log" 2>&1 || status=$?
	tap_result packages "$status" "$log"
}

#
# What was asked for.
#
choose_suites()
{
	local arg folder suite

	suites=()
	files=()
	file_suites=()
	for arg in "$@"; do
		case $arg in
			build | unit | regress | isolation | demo | tap | memcacheds | clients | neighbours | monitoring | coherence | fuzz | model | packages) suites+=("$arg") ;;
			*.pl)
				folder=t suite=tap
				[[ $arg != *neighbours/* ]] || folder=neighbours suite=neighbours
				[ -e "$here/$folder/$(basename "$arg")" ] || stop "there is no test/$folder/$(basename "$arg")"
				files+=("$here/$folder/$(basename "$arg")")
				file_suites+=("$suite")
				;;
			*) stop "there is no suite \"$arg\"" ;;
		esac
	done
	[ $# -gt 0 ] || suites=(build unit regress isolation demo tap memcacheds clients neighbours monitoring coherence fuzz model)
}

stop()
{
	echo "# $*"
	exit 1
}

# End what a suite that was cut short has left: every process of ours has EC_TMP in its
# environment, this script has not.  PostgreSQL's are stopped by pg_ctl.
end_processes()
{
	local dir signal

	for signal in TERM KILL; do
		for dir in /proc/[0-9]*; do
			grep -qsFxz "EC_TMP=$EC_TMP" "$dir/environ" || continue
			[[ $(cat "$dir/comm" 2>/dev/null) = postgres ]] || kill "-$signal" "${dir#/proc/}" 2>/dev/null || true
		done
		[ "$signal" = KILL ] || sleep 2		# a TAP file stops its servers
	done
}

# However this ends, its servers stop and its last line is the sum.
finish()
{
	local status=$? data

	trap '' HUP INT TERM
	exec 1>&"$stdout" 2>&"$stderr"
	if [ -n "${EC_TMP:-}" ]; then
		[ -z "$child$fuzz_pid" ] || end_processes
		# Instances of suites that were cut short; ec_end knows its own.
		find "$EC_TMP" -name postmaster.pid -not -path "$EC_TMP/pg-*" -printf '%h\n' |
			while read -r data; do
				ec_as_postgres "$ec_bindir/pg_ctl" -D "$data" -s -m immediate stop || true
			done
		ec_end || true
	fi
	if [ "$status" != 0 ] && [ "$failed" = 0 ]; then
		failed=1
	fi
	echo "$passed passed, $failed failed"
	exit "$status"
}

trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
choose_suites "$@"
choose_variant
bash "$here/install-deps.sh" "${suites[@]}" "${file_suites[@]}" </dev/null
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
echo "# $("$PG_CONFIG" --version), $(memcached -V)${variant:+, the library built with $variant}"
# shellcheck disable=SC2119 # no folder
ec_begin
trap finish EXIT
if test_build; then
	[[ " ${suites[*]} " != *' fuzz '* ]] || start_fuzz
	for suite in "${suites[@]}"; do
		"suite_$suite"
	done
	[ ${#files[@]} = 0 ] || suite_tap "${files[@]}"
	[ -z "$variant" ] || variant_result
fi
[ "$failed" = 0 ]
