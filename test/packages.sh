#!/usr/bin/env bash
#
# packages.sh [MAJOR...]
#	  The Debian packages, in the release of Debian whose own PostgreSQL is version MAJOR (15 and
#	  17): built as `make deb` builds them, and looked at by lintian, in a chroot that has the
#	  tools (the RPM spec file by rpmlint, too); installed, used, upgraded under a server that runs, and purged in one that is as
#	  debootstrap makes it.  As root, with the network.  Prints TAP.
#
# Copyright (c) 2026, echocache developers
#
# What check runs shellcheck does not see being run.
# shellcheck disable=SC2317

set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
failed=0

# check NAME COMMAND...: a test; what the command says is shown if it fails.
check()
{
	local name=$1 said

	shift
	if said=$("$@" 2>&1 </dev/null); then
		echo "ok - Debian $codename: $name"
	else
		echo "not ok - Debian $codename: $name"
		tail -n 40 <<<"$said" | sed 's/^/# /'
		failed=1
	fi
}

#
# In the fresh chroot: "packages.sh --inside MAJOR", the packages are in /tmp/files.
#

# All files but those that apt, dpkg and the servers keep for themselves.
files()
{
	find / -xdev \( -path /tmp -o -path /proc -o -path /root -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/cache -o \
		-path /var/log -o -path /run -o -path /var/lib/postgresql -o -path /etc/ld.so.cache \) -prune -o -print | sort
}

purged()
{
	dpkg --purge "$package" "$package-dbgsym" && ! dpkg -s "$package" && diff /tmp/files.before <(files)
}

# The flags of a release: nothing of the tests, no bitcode, hardened.
released()
{
	local library=/usr/lib/postgresql/$major/lib/echocache.so

	! grep -q wait_point "$library" && [ ! -e "/usr/lib/postgresql/$major/lib/bitcode/echocache" ] &&
		grep -q __stack_chk_fail "$library"
}

sql()
{
	runuser -u postgres -- psql -h /tmp/server -d postgres -X -q -A -t -v ON_ERROR_STOP=1 -c "$1"
}

server()
{
	runuser -u postgres -- "/usr/lib/postgresql/$major/bin/pg_ctl" -D /tmp/server/data -l /tmp/server/log -w -s "$@" </dev/null
}

# A cluster that goes on while its library is replaced.
server_starts()
{
	mkdir /tmp/server
	chown postgres /tmp/server
	memcached -d -u nobody -a 0777 -s /tmp/server.memcached
	runuser -u postgres -- "/usr/lib/postgresql/$major/bin/initdb" -D /tmp/server/data -A trust -N
	cat >>/tmp/server/data/postgresql.conf <<-'CONF'
		listen_addresses = ''
		unix_socket_directories = '/tmp/server'
		shared_preload_libraries = 'echocache'
		echocache.enabled = on
		echocache.hosts = '/tmp/server.memcached'
		echocache.lease = '1s'
	CONF
	server start
	sql "CREATE EXTENSION echocache; CREATE TABLE orders (id bigint PRIMARY KEY, status text); SELECT echocache_attach('orders', 'orders')"
	sql "INSERT INTO orders VALUES (1, 'new')"
}

# server_works STATUS: a new session writes, and in the end it is read from the cache.
server_works()
{
	for _ in $(seq 600); do
		[ "$(sql 'SELECT echocache_is_available()')" != t ] || break
		sleep 0.1
	done
	sql "UPDATE orders SET status = '$1'" || return
	for _ in $(seq 600); do
		[ "$(sql "SELECT echocache_get('orders', 1)")" = "{\"id\":1,\"status\":\"$1\"}" ] || return
		[ "$(sql "SELECT hits + local_hits > 0 FROM echocache_stats WHERE name = 'orders'")" != t ] || return 0
		sleep 0.1
	done
	return 1
}

# library_is PATTERN: what a new session has mapped.
library_is()
{
	sql "SELECT pg_read_file('/proc/self/maps')" | grep 'echocache\.so' | sort -u -k 6 | grep -E "$1"
}

inside()
{
	local codename package=postgresql-$major-echocache older newer

	# shellcheck source=/dev/null
	codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
	older=$(echo /tmp/files/older/"${package}"_*.deb)
	newer=$(echo /tmp/files/"${package}"_*.deb)
	mkdir -p /etc/postgresql-common
	echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
	check 'what it depends on is installed' sh -c "apt-get -q update && apt-get -q -y --no-install-recommends install \
		postgresql-$major memcached perl libmemcached11* && apt-get -q -y --simulate install '$older' | grep '^Inst' | grep -vc '$package' | grep -x 0"
	files >/tmp/files.before
	check 'an older package is installed' apt-get -q -y install "$older"
	check 'and used' sh debian/tests/use
	check 'a server runs' server_starts
	check 'and caches' server_works one
	check 'the package is upgraded under it' apt-get -q -y install "$newer"
	check 'its version is the new one' sh -c "dpkg-query -W -f '\${Version}' $package | grep -v older"
	check 'the server goes on' server_works two
	check 'with the library that it was started with, in new sessions, too' library_is '\(deleted\)$'
	check 'it is restarted' server restart
	check 'and has the new library' library_is 'echocache\.so$'
	check 'and works' server_works three
	server stop
	check 'the new package is used' sh debian/tests/use
	check 'it is built as a release' released
	check 'it is purged, and nothing is left' purged
	echo 1 >/tmp/files.done
}

#
# Outside.
#

# built MAJOR FOLDER: build, and have lintian look; the packages, and an older one, into the folder.
built()
{
	local file

	bash "$here/chroot.sh" "$1" bash -c '
		bash packaging/deb.sh /tmp/out >&2 && lintian --version >&2 &&
		lintian --tag-display-limit 0 --fail-on error,warning /tmp/out/*.changes >&2 &&
		rpmspec -P packaging/echocache.spec >/tmp/spec && rpmlint packaging/echocache.spec >&2 &&
		cd /tmp/out && tar -cf - ./*.deb' | tar -C "$2" -xf - || return
	mkdir "$2/older"
	for file in "$2"/*.deb; do
		[[ $file != *-dbgsym_* ]] || continue
		rm -rf "$2/unpacked"
		dpkg-deb -R "$file" "$2/unpacked"
		sed -i 's/^Version: .*/Version: 1.0~older-1/' "$2/unpacked/DEBIAN/control"
		dpkg-deb -b "$2/unpacked" "$2/older/$(basename "$file" | sed 's/_[^_]*_/_1.0~older-1_/')" || return
	done
	rm -rf "$2/unpacked"
	ls -R "$2"
}

finish()
{
	rm -rf "${folder:-}"
}

if [ "${1:-}" = --inside ]; then
	major=$2
	inside
	exit "$failed"
fi
[ "$(id -u)" = 0 ] || { echo "packages.sh: only root can make and enter a chroot" >&2; exit 1; }
trap finish EXIT
[ $# -gt 0 ] || set -- 15 17
for major in "$@"; do
	folder=$(mktemp -d "${TMPDIR:-/tmp}/echocache.XXXXXX")
	codename="with PostgreSQL $major"
	check 'the packages are built, lintian has nothing against them, nor rpmlint against the spec file' built "$major" "$folder"
	EC_CHROOT_FILES=$folder bash "$here/chroot.sh" --fresh "$major" bash test/packages.sh --inside "$major" || failed=1
	rm -rf "$folder"
done
exit "$failed"
