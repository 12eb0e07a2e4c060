#!/usr/bin/env bash
#
# install-deps.sh [SUITE]...
#	  Install the packages that suites of test/run.sh need; without a SUITE those of all.
#	  `bench`, `fault`, `chroot` and `packages` stand for test/bench, test/fault, test/chroot.sh
#	  and packaging/deb.sh.
#
# Works on Debian and Ubuntu, with the distribution's PostgreSQL or with PGDG's; which
# version is taken says postgres.sh.  Only root can install.  It is quiet if nothing is
# missing.  On a fresh machine the demo's packages take one to three minutes, those of
# all suites three to ten.
#
# What changes on the machine: the packages are there, with what they depend on.  While
# they are installed, /usr/sbin/policy-rc.d forbids the start of services, and
# createcluster.conf the creation of a cluster; both are put back, however this ends.  A
# service that comes with a package is not enabled at boot; one that was there before
# stays as it was.  A signal is heeded once apt-get has ended: it leaves nothing half installed.
#
# Copyright (c) 2026, echocache developers

set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=postgres.sh
. "$here/postgres.sh"
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
export NEEDRESTART_SUSPEND=1		# Ubuntu's restarts services after an installation
all_suites=(build unit regress isolation demo tap memcacheds clients neighbours monitoring coherence fuzz model)

die()
{
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

#
# What a suite needs: a word is a package.  PG stands for "postgresql-", the major version,
# and what follows.  One with a question mark is left out if there is none.
#
server="PG PG-server libmemcached-dev libssl-dev gcc make libc6-dev memcached"
needs()
{
	case $1 in
		demo) echo "$server" ;;
		build) echo "$server clang" ;;
		unit | regress | isolation) echo "$server" ;;
		tap) echo "$server libipc-run-perl openssl sqlsmith" ;;
		memcacheds) echo "$server libipc-run-perl openssl debian-archive-keyring" ;;
		clients)
			echo "$server libipc-run-perl python3-pylibmc python3-pymemcache php-cli php-memcached ruby" \
				"ruby-dalli libcache-memcached-fast-perl golang-go golang-github-bradfitz-gomemcache-dev" \
				"nodejs nutcracker"
			# Some packages of nodejs contain it.
			command -v npm >/dev/null || echo npm
			;;
		neighbours)
			echo "$server libipc-run-perl python3-psycopg2 pgbouncer PG-repack patroni python3-etcd etcd-server"
			;;
		monitoring)
			echo "$server libipc-run-perl prometheus prometheus-postgres-exporter chromium"
			command -v npm >/dev/null || echo npm
			;;
		coherence) echo "$server perl PG-pgmemcache?" ;;
		fuzz) echo "$server clang libclang-rt-dev" ;;
		model) echo "$server spin" ;;
		packages) echo "$server build-essential debhelper lintian postgresql-server-dev-all rpm rpmlint" ;;
		bench) echo "$server PG-pgmemcache gnuplot-nox" ;;
		fault) echo "$server perl PG-pgmemcache" ;;
		chroot) echo "debootstrap iproute2 util-linux" ;;
		*) die "there is no suite \"$1\"; there are ${all_suites[*]} bench fault chroot packages" ;;
	esac
}

#
# What apt says.
#
is_installed()
{
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

is_offered()
{
	[[ $(apt-cache policy "$1" 2>/dev/null) =~ Candidate:\ [^\(] ]]
}

# The supported versions that apt has with headers, the newest first.
offered_versions()
{
	local major

	for major in "${ec_supported[@]}"; do
		if is_offered "postgresql-$major" && is_offered "postgresql-server-dev-$major"; then
			echo "$major"
		fi
	done
}

# The distribution's own version.
default_version()
{
	[[ ! $(apt-cache depends postgresql 2>/dev/null) =~ Depends:\ postgresql-([0-9]+) ]] ||
		echo "${BASH_REMATCH[1]}"
}

# Set major, and complete=1 if this PostgreSQL is there already.  The status is 1 if apt's
# lists do not say which one to take.
choose_version()
{
	local offered

	complete=0
	if ec_choose_postgres; then
		complete=1
		major=$(ec_major_of "$PG_CONFIG")
		[ "$major" -ge "${ec_supported[-1]}" ] ||
			die "$PG_CONFIG is of PostgreSQL $major; supported are ${ec_supported[-1]} to ${ec_supported[0]}"
		return 0
	fi
	if [ -n "${PG_CONFIG:-}" ]; then
		[[ $PG_CONFIG =~ ^/usr/lib/postgresql/([0-9]+)/bin/pg_config$ ]] ||
			die "PG_CONFIG=$PG_CONFIG is not the pg_config of a server that is installed with its headers"
		PG_MAJOR=${BASH_REMATCH[1]}
	fi
	mapfile -t offered < <(offered_versions)
	if [ -n "${PG_MAJOR:-}" ]; then
		major=$PG_MAJOR
		[[ " ${ec_supported[*]} " == *" $major "* ]] ||
			die "PostgreSQL $major is not supported; ${ec_supported[-1]} to ${ec_supported[0]} are"
	else
		major=$(default_version)
		[ -n "$major" ] && [[ " ${offered[*]} " == *" $major "* ]] || major=${offered[0]:-}
	fi
	[ -n "$major" ] && [[ " ${offered[*]} " == *" $major "* ]]
}

cannot_be_had()
{
	local offered

	offered=$(offered_versions | paste -sd' ')
	die "PostgreSQL ${PG_MAJOR:-${ec_supported[-1]} to ${ec_supported[0]}} with its headers" \
		"cannot be had here; apt offers ${offered:-none of the supported versions}" \
		"(others: https://wiki.postgresql.org/wiki/Apt)"
}

# Set missing to what is not installed of what the suites need.
find_missing()
{
	local suite word optional

	missing=()
	for suite in "${suites[@]}"; do
		for word in $(needs "$suite"); do
			optional=${word##*[!?]}
			word=${word%\?}
			case $word in
				PG | PG-server)
					[ "$complete" = 0 ] || continue
					word=${word/#PG-server/PG-server-dev}
					[ "$word" = PG ] && word=postgresql-$major || word=postgresql-server-dev-$major
					;;
				PG-*) word=postgresql-$major-${word#PG-} ;;
			esac
			[[ " ${missing[*]} " != *" $word "* ]] || continue
			! is_installed "$word" || continue
			[ -z "$optional" ] || is_offered "$word" || continue
			missing+=("$word")
		done
	done
}

#
# Files of the machine that say something else while packages are installed.  What was
# there is kept beside them, so that the next run puts it back if this one is killed.
#
mark="# By echocache's test/install-deps.sh, while it runs."
policy=/usr/sbin/policy-rc.d
cluster_conf=/etc/postgresql-common/createcluster.conf

is_there()
{
	[ -e "$1" ] || [ -L "$1" ]
}

put_back()
{
	if grep -qsF "$mark" "$1"; then
		rm -f "$1"
	fi
	if is_there "$1.echocache"; then
		mv -fT "$1.echocache" "$1"
	fi
}

forbid_services()
{
	put_back $policy
	! is_there $policy || mv -T $policy $policy.echocache
	printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >$policy
	chmod 755 $policy
}

# Only once postgresql-common is installed, for which the file is one of its own.
forbid_cluster()
{
	put_back $cluster_conf
	! is_there $cluster_conf || mv -T $cluster_conf $cluster_conf.echocache
	{
		[ ! -e $cluster_conf.echocache ] || cat $cluster_conf.echocache
		printf '\n%s\ncreate_main_cluster = false\n' "$mark"
	} >$cluster_conf
}

# The links by which services start at boot.
boot_links()
{
	find /etc/systemd/system /etc/rc[0-9S].d \( -path '*.wants/*' -o -path '*.d/S*' \) -type l \
		2>/dev/null | sort || true
}

# is_basic FILE: does this file belong to a package of the base system?
is_basic()
{
	local owner priority

	owner=$(dpkg-query -S "$1" 2>/dev/null | sed -n '1s/:.*//p') || true
	priority=$(dpkg-query -W -f '${Priority} ' "$owner" 2>/dev/null) || true
	[[ $priority =~ ^(required|important|standard) ]]
}

# Remove the links that have come, as `systemctl disable` and `update-rc.d disable` do.
# What a dependency brings of the base system stays as that wants it.  Sets disabled to
# the services' names.
disable_services()
{
	local link name

	disabled=()
	while IFS= read -r link; do
		name=$(basename "$link")
		case $link in
			'') continue ;;
			*.wants/*)
				! is_basic "*/systemd/system/$(basename "$(readlink "$link")")" || continue
				rm -f "$link"
				name=${name%.service}
				;;
			*)
				name=${name#S[0-9][0-9]}
				! is_basic "/etc/init.d/$name" || continue
				update-rc.d "$name" disable >>"$log" 2>&1 || true
				;;
		esac
		[[ " ${disabled[*]} " == *" $name "* ]] || disabled+=("$name")
	done < <(comm -13 <(printf '%s\n' "$links") <(boot_links))
	if [ ${#disabled[@]} -gt 0 ] && [ -d /run/systemd/system ]; then
		systemctl daemon-reload >>"$log" 2>&1 || true
	fi
}

finish()
{
	local status=$?

	trap '' HUP INT TERM
	put_back $policy
	put_back $cluster_conf
	if [ "${installing:-0}" = 1 ]; then
		disable_services
	fi
	rm -f "${log:-}"
	exit "$status"
}

#
# Installing.
#

# apt COMMAND...: its words go to the log.
apt()
{
	apt-get -q -y -o DPkg::Lock::Timeout=600 -o Dpkg::Options::=--force-confold \
		-o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 \
		"$@" </dev/null >>"$log" 2>&1 9<&-
}

# From where apt could not fetch something, and why, by its log; nothing if it could.
unreachable()
{
	sed -nE 's/^(W|E|Warning|Error): Failed to fetch [a-z+]+:\/\/([^/ ]+)[^ ]* +(.*)/\2: \3/p' "$log" |
		sed 's/ *\[IP: .*//' | sort -u | sed -n '1p'
}

# cannot_install: one line, after apt's own if it is not that its source is out of reach.
cannot_install()
{
	local why

	why=$(unreachable)
	[ -z "$why" ] || die "the packages are not installed, apt cannot fetch from $why"
	grep -E '^(E|Error):' "$log" >&2 || tail -n 20 "$log" >&2
	die "the packages are not installed, apt-get has failed"
}

install_missing()
{
	local p size

	for p in "${missing[@]}"; do
		if ! is_offered "$p"; then
			[ -z "$(unreachable)" ] || cannot_install
			die "apt has no package $p; is a part of the distribution missing in its sources?"
		fi
	done
	size=$(apt-get -q --assume-no --no-install-recommends install "${missing[@]}" \
		2>/dev/null </dev/null | sed -nE 's/^Need to get (.*) of archives.*/\1/p' || true)
	echo "installing ${missing[*]}: ${size:-unknown} to fetch, may take some minutes"
	links=$(boot_links)
	installing=1
	if [[ " ${missing[*]}" =~ \ postgresql-[0-9]+( |$) ]]; then
		apt --no-install-recommends install postgresql-common || cannot_install
		forbid_cluster
	fi
	apt --no-install-recommends install "${missing[@]}" || cannot_install
	put_back $policy
	put_back $cluster_conf
	disable_services
	installing=0
	echo "installed, without a cluster or a running service$(
		[ ${#disabled[@]} = 0 ] || echo "; not enabled at boot: ${disabled[*]}")"
}

suites=("$@")
[ $# -gt 0 ] || suites=("${all_suites[@]}")
for suite in "${suites[@]}"; do
	needs "$suite" >/dev/null
done

if ! command -v apt-get >/dev/null; then
	# Elsewhere what is needed is in place, or the build says what it misses.
	ec_choose_postgres || die "there is no apt-get here to install PostgreSQL with; set PG_CONFIG"
	exit 0
fi
if choose_version; then
	find_missing
	[ ${#missing[@]} -gt 0 ] || exit 0
fi
if [ "$(id -u)" != 0 ]; then
	[ -n "$major" ] || cannot_be_had
	[ "${missing+set}" = set ] || find_missing
	die "these packages are missing, and only root can install them: ${missing[*]}"
fi

log=$(mktemp "${TMPDIR:-/tmp}/echocache-apt.XXXXXX")
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
exec 9<"$(dirname $policy)"
flock 9					# one at a time on this machine
forbid_services
apt update || true			# one source that fails need not be one that is needed
if ! choose_version; then
	[ -z "$(unreachable)" ] || cannot_install
	cannot_be_had
fi
find_missing
[ ${#missing[@]} = 0 ] || install_missing
