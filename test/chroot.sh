#!/usr/bin/env bash
#
# chroot.sh [--fresh] MAJOR [COMMAND...]
#	  Run a command in the Debian release whose own PostgreSQL is version MAJOR, in a copy of
#	  this source tree; as root.
#
# Example:
#	test/chroot.sh 17 bash test/run.sh build regress
#
# The chroot is made with debootstrap under EC_CHROOTS (/var/cache/echocache-ci) and gets what
# test/install-deps.sh installs.  It is kept: a later call finds it, and makes it anew when it is
# older than a week or does not work.  Without a COMMAND that is all.
#
# With --fresh the chroot is as debootstrap makes it, with nothing of the tests.  The command has
# the machine's network, and what it changes is gone when it ends.  What is in the folder
# EC_CHROOT_FILES it finds in /tmp/files.
#
# The command has namespaces of its own.  It sees its own processes only, no network but the
# loopback device, and an empty /tmp with the copy of the source.  When it ends, or when this
# script does, whatever the reason, the kernel ends what it has started and drops the mounts.
#
# Copyright (c) 2026, echocache developers

set -euo pipefail

self=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/chroot.sh
source=$(dirname -- "$(dirname -- "$self")")
# shellcheck source-path=SCRIPTDIR source=debian.sh
. "${self%/*}/debian.sh"
chroots=${EC_CHROOTS:-/var/cache/echocache-ci}
days=7
fresh=${EC_CHROOT_FRESH:-0}

die()
{
	echo "chroot.sh: $*" >&2
	exit 1
}

#
# Inside the namespaces, still outside the chroot: "chroot.sh --inside ROOT COMMAND...".
#
inside()
{
	local root=$1

	shift
	if [ "$fresh" = 1 ]; then
		mount -t tmpfs tmpfs "$root.fresh"
		mkdir "$root.fresh/upper" "$root.fresh/work" "$root.fresh/root"
		mount -t overlay overlay -o "lowerdir=$root,upperdir=$root.fresh/upper,workdir=$root.fresh/work" "$root.fresh/root"
		root=$root.fresh/root
	fi
	mount --bind "$root" "$root"		# pivot_root wants a mount
	mount -t proc proc "$root/proc"
	mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
	mount -t tmpfs -o mode=1777,size=75% tmpfs "$root/tmp"
	mkdir "$root/tmp/echocache"
	tar -C "$source" -cf - --exclude=.git --exclude=./test/build --exclude='*.o' --exclude='*.so' \
		--exclude='*.bc' . | tar -C "$root/tmp/echocache" --no-same-owner -xf -
	if [ -n "${EC_CHROOT_FILES:-}" ]; then
		cp -R "$EC_CHROOT_FILES" "$root/tmp/files"
	fi
	ip link set lo up
	# Not chroot: in one nobody may make namespaces, as test/t/051_addresses.pl does.
	cd "$root"
	pivot_root . mnt
	cd /
	umount -l /mnt
	# This shell stays: it is process 1 here and reaps what loses its parent.
	# shellcheck disable=SC2016 # the inner shell expands it
	/usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
		${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
		sh -c 'cd /tmp/echocache && exec "$@"' sh "$@"
}

# namespaces [UNSHARE OPTION...] -- COMMAND...: run it there and wait for it.  unshare goes when
# this shell goes, and with unshare the first process of the namespaces and all the others.
namespaces()
{
	local options=()

	while [ "$1" != -- ]; do
		options+=("$1")
		shift
	done
	shift
	setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork \
		--kill-child=KILL --ipc "${options[@]}" -- "$@" </dev/null 9>&- &
	child=$!
	wait "$child" || return
	child=
}

# A chroot of an earlier call, neither too old nor broken.
usable()
{
	[ -n "$(find "$root.made" -mtime "-$days" 2>/dev/null)" ] &&
		[ -z "$(chroot "$root" dpkg --audit 2>&1)" ]
}

# Into $root.new first, so that a chroot that is there is complete.
make_chroot()
{
	local new=$root.new uri script=()

	echo "# making a chroot of Debian $release in $root"
	rm -rf --one-file-system "$root.made" "$root" "$new"
	uri=$(ec_debian_mirror)
	if [ -z "$uri" ]; then			# or its lists are not there yet
		apt-get -q update || true
		uri=$(ec_debian_mirror)
	fi
	# An older debootstrap does not know the release, which is made as sid is.
	[ -e "/usr/share/debootstrap/scripts/$release" ] || script=(/usr/share/debootstrap/scripts/sid)
	namespaces -- debootstrap --variant=minbase "$release" "$new" "$uri" "${script[@]}"
	# What apt needs here to reach the packages, it needs there, too.
	apt-config dump | grep '^Acquire::' >"$new/etc/apt/apt.conf.d/00host"
	if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
		cp /etc/ssl/certs/ca-certificates.crt "$new/etc/apt/host.crt"
		echo 'Acquire::https::CAInfo "/etc/apt/host.crt";' >>"$new/etc/apt/apt.conf.d/00host"
	fi
	cp -R /etc/apt/auth.conf.d "$new/etc/apt/" 2>/dev/null || true
	cp -L /etc/resolv.conf /etc/hosts "$new/etc/"
	printf '#!/bin/sh\nexit 101\n' >"$new/usr/sbin/policy-rc.d"
	chmod 755 "$new/usr/sbin/policy-rc.d"
	mv "$new" "$root"
	touch "$root.made"
}

# What the tests need, with the network of this machine.
prepare()
{
	bash "$source/test/install-deps.sh" chroot
	usable || make_chroot
	cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
	if [ "$fresh" = 1 ]; then
		mkdir -p "$root.fresh"
		return
	fi
	namespaces -- bash "$self" --inside "$root" \
		bash test/install-deps.sh build unit regress isolation demo tap packages
	if [ ! -e "$root/usr/lib/postgresql/$major/bin/postgres" ]; then
		echo "Debian $release does not have PostgreSQL $major but $(ls "$root/usr/lib/postgresql")"
		return 1
	fi
}

finish()
{
	if [ -n "${child:-}" ]; then
		kill -KILL "$child" 2>/dev/null || true
		wait "$child" 2>/dev/null || true
	fi
	[ "${preparing:-0}" = 0 ] || rm -rf --one-file-system "$root.new" || true
}

if [ "${1:-}" = --inside ]; then
	shift
	inside "$@"
	exit
fi

if [ "${1:-}" = --fresh ]; then
	shift
	fresh=1
fi
[ $# -gt 0 ] || die "usage: chroot.sh [--fresh] MAJOR [COMMAND...]"
[ "$(id -u)" = 0 ] || die "only root can make and enter a chroot"
major=$1
case $major in
	15) release=bookworm ;;
	17) release=trixie ;;
	18) release=forky ;;
	*) die "no release of Debian has PostgreSQL $major; there are 15, 17 and 18" ;;
esac
root=$chroots/$release
[ "$fresh" = 0 ] || root+=-fresh
shift

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p "$chroots"
exec 9>"$root.lock"
flock 9
log=$root.log
preparing=1
# In the background and not in a condition, where bash would go on after an error.
(prepare) >"$log" 2>&1 9>&- &
child=$!
if ! wait "$child"; then
	tail -n 20 "$log" >&2
	die "the chroot of Debian $release cannot be made, see above and $log"
fi
child=
preparing=0
[ $# -gt 0 ] || exit 0
# Several commands may run in it at a time, as long as nobody changes it.
flock -s 9
if [ "$fresh" = 1 ]; then
	EC_CHROOT_FRESH=1 namespaces -- bash "$self" --inside "$root" "$@"
else
	namespaces --net -- bash "$self" --inside "$root" "$@"
fi
