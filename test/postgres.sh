# shellcheck shell=bash
#
# postgres.sh
#	  Which PostgreSQL the scripts of test/ use: to be sourced by bash.
#
# In this order:
#   PG_CONFIG   this one, wherever it is
#   PG_MAJOR    this major version
#   otherwise   the newest supported version that is installed with its headers
#
# If there is none, install-deps.sh installs the distribution's own version, or the newest
# supported one that apt offers.
#
# Copyright (c) 2026, echocache developers

# The supported major versions, the newest first.
ec_supported=(18 17 16 15)

# Is this pg_config one of an installed server with headers?
ec_is_complete()
{
	local bindir pgxs

	bindir=$("$1" --bindir 2>/dev/null) || return 1
	pgxs=$("$1" --pgxs 2>/dev/null) || return 1
	[ -x "$bindir/postgres" ] && [ -e "$pgxs" ]
}

# The major version of a pg_config.
ec_major_of()
{
	"$1" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/'
}

# Set and export PG_CONFIG.  The status is 1 if no PostgreSQL fits.
ec_choose_postgres()
{
	local major candidate

	if [ -n "${PG_CONFIG:-}" ]; then
		ec_is_complete "$PG_CONFIG" || return 1
		export PG_CONFIG
		return 0
	fi
	# Debian's and Ubuntu's folder, then that of the RPM packages.
	for major in ${PG_MAJOR:-"${ec_supported[@]}"}; do
		for candidate in "/usr/lib/postgresql/$major" "/usr/pgsql-$major"; do
			candidate+=/bin/pg_config
			if ec_is_complete "$candidate"; then
				export PG_CONFIG=$candidate
				return 0
			fi
		done
	done
	# One of another make, in PATH.
	candidate=$(command -v pg_config) && ec_is_complete "$candidate" || return 1
	major=$(ec_major_of "$candidate")
	[[ " ${PG_MAJOR:-"${ec_supported[*]}"} " == *" $major "* ]] || return 1
	export PG_CONFIG=$candidate
}
