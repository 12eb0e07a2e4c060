# debian.sh: where Debian's packages come from; to be sourced.
#
# Copyright (c) 2026, echocache developers
# shellcheck shell=bash

# The mirror of Debian that this machine's apt uses; nothing if it uses none, or has no lists yet.
ec_debian_mirror()
{
	# shellcheck disable=SC2016 # apt-get expands it
	apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' |
		sed -n 's/^Debian Debian \(http.*\)$/\1/p' | head -n 1
}
