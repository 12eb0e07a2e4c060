#!/usr/bin/env bash
#
# distcheck.sh ZIP
#	  Does the archive of `make dist` hold what META.json says and nothing that was built, and
#	  does it build and install?  Nothing is installed into the system.
#
# Copyright (c) 2026, echocache developers

set -euo pipefail

zip=$(realpath "$1")
name=$(basename "$zip" .zip)
pg_config=${PG_CONFIG:-pg_config}
folder=$(mktemp -d "${TMPDIR:-/tmp}/echocache.XXXXXX")
trap 'rm -rf "$folder"' EXIT

fail()
{
	echo "$(basename "$zip"): $*" >&2
	exit 1
}

command -v unzip >/dev/null || fail "unzip is needed to look into it"
cd "$folder"
unzip -q "$zip"
[ "$(ls)" = "$name" ] || fail "everything should be in one folder, $name"
cd "$name"

left=$(find . \( -name '*.o' -o -name '*.bc' -o -name '*.so' -o -name '.git*' -o -name '.ci' -o -name '*.zip' \
	-o -name 'regression.*' -o -name tmp_check \))
[ -z "$left" ] || fail "it should not have $left"
perl -MJSON::PP -0777 -ne '
	my $meta = decode_json($_);
	for (values %{$meta->{provides}}) { print "$_\n" for grep { defined } @$_{qw(file docfile)} }' META.json |
	while read -r file; do
		[ -e "$file" ] || fail "META.json names $file, which is not there"
	done
for file in README.md LICENSE Makefile; do
	[ -e "$file" ] || fail "$file is not there"
done

if ! { make PG_CONFIG="$pg_config" && make PG_CONFIG="$pg_config" DESTDIR="$folder/stage" install; } >"$folder/log" 2>&1; then
	tail -n 20 "$folder/log" >&2
	fail "it does not build and install"
fi
extension=$folder/stage$("$pg_config" --sharedir)/extension
for file in "$folder/stage$("$pg_config" --pkglibdir)/echocache.so" "$extension/echocache.control" "$extension"/echocache--*.sql; do
	[ -e "$file" ] || fail "${file#"$folder/stage"} is not installed"
done
echo "$(basename "$zip"): $(unzip -l "$zip" | tail -n 1 | awk '{ print $2 }') files; it builds and installs"
