#!/usr/bin/env bash
#
# deb.sh [FOLDER]
#	  Debian packages of this source, into the folder (packages), by Debian's own tools: one
#	  postgresql-NN-echocache for each PostgreSQL, 15 or later, that is installed with its headers.
#	  `make deb` runs it.
#
# Everything is done in a copy of the source.  What must be there, as Debian's packages are called:
# build-essential, debhelper, postgresql-server-dev-all, libmemcached-dev, libssl-dev.
#
# Environment that is looked at:
#   EC_DEB_VERSION   instead of the version in debian/changelog, such as 1.0~older-1
#
# Copyright (c) 2026, echocache developers

set -euo pipefail

source=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
target=${1:-$source/packages}
folder=$(mktemp -d "${TMPDIR:-/tmp}/echocache.XXXXXX")
trap 'rm -rf "$folder"' EXIT

die()
{
	echo "deb.sh: $*" >&2
	exit 1
}

for tool in dpkg-buildpackage dh pg_buildext; do
	command -v "$tool" >/dev/null ||
		die "$tool is needed: apt-get install build-essential debhelper postgresql-server-dev-all libmemcached-dev libssl-dev"
done
majors=()
for makefile in /usr/lib/postgresql/*/lib/pgxs/src/makefiles/pgxs.mk; do
	major=${makefile#/usr/lib/postgresql/}
	major=${major%%/*}
	[ ! -e "$makefile" ] || [ "$major" -lt 15 ] || majors+=("$major")
done
[ ${#majors[@]} -gt 0 ] || die "no PostgreSQL 15 or later is installed with its headers"
export PG_SUPPORTED_VERSIONS="${majors[*]}"

version=${EC_DEB_VERSION:-$(sed -n '1s/.*(\(.*\)).*/\1/p' "$source/debian/changelog")}
copy=$folder/echocache-${version%-*}
mkdir "$copy"
tar -C "$source" -cf - --exclude=.git --exclude=./test/build --exclude=./packages --exclude='*.o' --exclude='*.so' \
	--exclude='*.bc' --exclude='./*.zip' . | tar -C "$copy" --no-same-owner -xf -
tar -C "$folder" -cJf "$folder/echocache_${version%-*}.orig.tar.xz" --exclude="${copy##*/}/debian" "${copy##*/}"
cd "$copy"
sed -i "1s/(.*)/($version)/" debian/changelog
pg_buildext updatecontrol
dpkg-buildpackage --no-sign
mkdir -p "$target"
cp "$folder"/*.deb "$folder"/*.changes "$folder"/*.dsc "$folder"/*.buildinfo "$folder"/*.tar.xz "$target"
echo "in $target: $(cd "$folder" && echo ./*.deb)"
