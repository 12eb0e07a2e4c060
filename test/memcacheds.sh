#!/usr/bin/env bash
#
# memcacheds.sh RELEASE
#	  Say the path of a program that runs the memcached of this release of Debian (bullseye, say)
#	  on this machine; as root.
#
# The package and the libraries that it needs, the C library included, are fetched by apt, which
# verifies them, and unpacked under EC_CHROOTS (/var/cache/echocache-ci), not installed.  They
# are kept, and fetched anew when they are older than a month.
#
# Copyright (c) 2026, echocache developers

set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=debian.sh
. "$here/debian.sh"
days=30

die()
{
	echo "memcacheds.sh: $*" >&2
	exit 1
}

# apt TOOL ARGUMENT...: with the lists of that release alone, and no package installed.
apt()
{
	local tool=$1

	shift
	"$tool" -q -o Dir::Etc::SourceList="$new/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::State="$new/apt/state" -o Dir::State::Status=/dev/null -o Dir::Cache="$new/apt/cache" \
		-o APT::Sandbox::User=root -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none \
		-o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false "$@" 9>&-
}

# The libraries that a package needs: of alternatives the first.
libraries_of()
{
	apt apt-cache show --no-all-versions "$1" | sed -nE 's/^(Pre-)?Depends: //p' | tr ',' '\n' |
		sed -E 's/[|(].*//; s/:any//; s/ //g' | grep '^lib' || true
}

# Set packages to memcached and all libraries that it and they need.
find_packages()
{
	local i name

	packages=(memcached)
	for ((i = 0; i < ${#packages[@]}; i++)); do
		for name in $(libraries_of "${packages[i]}"); do
			[[ " ${packages[*]} " == *" $name "* ]] || packages+=("$name")
		done
	done
}

# Into $new first, so that what is there is complete.
fetch()
{
	local uri package loader folders

	rm -rf --one-file-system "$new"
	mkdir -p "$new/apt/state/lists/partial" "$new/apt/cache/archives/partial" "$new/packages" "$new/root"
	uri=$(ec_debian_mirror)
	echo "deb [signed-by=$keyring] ${uri:-http://deb.debian.org/debian} $release main" >"$new/apt/sources.list"
	apt apt-get update
	find_packages
	(cd "$new/packages" && apt apt-get download "${packages[@]}")
	for package in "$new"/packages/*.deb; do
		dpkg-deb -x "$package" "$new/root"
	done
	# The loader is run by its name: the one that the program asks for is this machine's.
	loader=$(find "$new/root" -type f -name 'ld-*.so*' | head -n 1)
	folders=$(find "$new/root" -name 'lib*.so.*' -printf '%h\n' | sort -u | paste -sd:)
	printf '#!/bin/sh\nexec %q --inhibit-cache --library-path %q %q "$@"\n' "${loader/#$new/$root}" \
		"${folders//"$new"/"$root"}" "$root/root/usr/bin/memcached" >"$new/memcached"
	chmod 755 "$new/memcached"
	chmod -R go+rX "$new"
	rm -rf "$new/apt" "$new/packages"
	rm -rf --one-file-system "$root"
	mv "$new" "$root"
	"$root/memcached" -V
	touch "$root"
}

[ $# = 1 ] || die "usage: memcacheds.sh RELEASE"
[ "$(id -u)" = 0 ] || die "only root can fetch other memcacheds"
release=$1
root=${EC_CHROOTS:-/var/cache/echocache-ci}/memcached-$release
new=$root.new
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mkdir -p "$(dirname "$root")"
exec 9>"$root.lock"
flock 9
if [ -z "$(find "$root" -maxdepth 0 -mtime "-$days" 2>/dev/null)" ] || ! "$root/memcached" -V >/dev/null; then
	# Not in a condition, where bash would go on after an error.
	(fetch) >"$root.log" 2>&1 &
	wait $! || {
		tail -n 20 "$root.log" >&2
		die "the memcached of Debian $release cannot be had, see above and $root.log"
	}
fi
echo "$root/memcached"
