#!/usr/bin/env bash
# Fuzz src/protocol/: reply.c, wire.c and key.c: test/fuzz/run.sh [seconds], by default 60.
#
# Builds into test/build/fuzz, runs libFuzzer from a scratch copy of the corpus
# (what it finds interesting is not kept, what it finds wrong is), and prints
# "ok - fuzz: N executions" or "not ok - fuzz: ..." as its last line.  The exit
# status is 0 for the former only.  CLANG names the compiler, by default clang.
set -euo pipefail

seconds=${1:-60}
clang=${CLANG:-clang}
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
src=$here/../../src
build=$here/../build/fuzz

fail() {
	echo "not ok - fuzz: $*"
	exit 1
}

[[ $seconds =~ ^[1-9][0-9]*$ ]] || fail "not a number of seconds: $seconds"
command -v "$clang" >/dev/null || fail "$clang is not installed"

scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
mkdir -p "$build"

"$clang" -std=c99 -O1 -g -fno-omit-frame-pointer -Wall -Wextra -Werror \
	-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
	-I"$src" -o "$build/fuzz_wire" \
	"$here/fuzz_wire.c" "$src"/protocol/{reply,wire,key}.c || fail "it does not build"

cp -R -- "$here/corpus" "$scratch/corpus"

# Inputs a little over two lines of EC_LINE_MAX, so that the limit is reached.  It runs at the
# lowest priority: on a busy machine an input may wait for its turn for seconds.
status=0
"$build/fuzz_wire" -max_total_time="$seconds" -max_len=4500 -timeout=100 \
	-print_final_stats=1 -artifact_prefix="$build/" "$scratch/corpus" \
	>"$scratch/log" 2>&1 || status=$?

executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$scratch/log")
if [[ $status -ne 0 ]]; then
	tail -n 40 -- "$scratch/log"
	fail "a finding after ${executions:-an unknown number of} executions," \
		"the input is in test/build/fuzz"
fi
[[ ${executions:-0} -gt 0 ]] || fail "nothing was executed"
echo "ok - fuzz: $executions executions"
