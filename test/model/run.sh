#!/usr/bin/env bash
#
# run.sh [PATTERN]: check the models with Spin, exhaustively, two at a time (JOBS).
#
# Each line below is a run: that a model holds, or that it does not when a rule is
# left out (its name is a switch of the model).  One that holds must have been searched
# to the end; one that does not must end with the counterexample that is expected.
# With a PATTERN only those whose description matches it are run.
#
# Speaks TAP; the exit status is 0 only if every run came out as it should.
#
# Copyright (c) 2026, echocache developers

set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
jobs=${JOBS:-2}
pattern=${1:-}
runs=()

# holds MODEL SWITCHES DESCRIPTION
holds()
{
	[[ ! "$1: $3" =~ $pattern ]] || runs+=("holds|$1|$2|$3")
}

# fails MODEL SWITCHES WHAT GOES WRONG: the first switch names the rule that is left out.
fails()
{
	[[ ! "$1: $2: $3" =~ $pattern ]] || runs+=("fails|$1|$2|$3")
}

holds fence '-DWRITERS=2 -DBULKS=1 -DPREPARED=1' '2 writers, a bulk writer, a prepared transaction, a reader'
holds fence '-DWRITERS=2 -DREADERS=2 -DREADS=2' '2 writers, 2 readers of 2 reads'
holds fence '-DWRITERS=3' '3 writers, a reader'
holds fence '-DWRITERS=1 -DBULKS=1 -DPREPARED=1 -DREADERS=2' 'a writer, a bulk writer, a prepared transaction, 2 readers'
holds fence '-DREADS=2 -DSNAPSHOT_BEFORE_MARKER' 'a fill may take its snapshot before its marker, if it holds the lock'
fails fence '-DSTORE_WITHOUT_CAS' 'a store that is late puts an old document over a later marker'
fails fence '-DSTORE_WITHOUT_LOCK' 'two writers store in another order than they commit'
fails fence '-DDOCUMENT_BEFORE_LOCK' 'of two children added at once, the document loses one'
fails fence '-DUNLOCK_BEFORE_COMMIT' 'a fill reads the old row after the marker has been set, and lost'
fails fence '-DCOMMIT_BEFORE_CONFIRMED' 'COMMIT returns and the old document is still there'
fails fence '-DSNAPSHOT_BEFORE_LOCK' 'a fill stores what it read before a commit that has come and gone'
fails fence '-DFILL_WITHOUT_LOCK' 'a fill whose marker comes after the writer'"'"'s stores the old row'
fails fence '-DBULK_WITHOUT_ATTACHMENT_LOCK -DWRITERS=1 -DBULKS=1' 'a fill stores while a bulk writer commits'
fails fence '-DFILL_WITHOUT_ATTACHMENT_LOCK -DWRITERS=1 -DBULKS=1' 'the same, from the other side'
fails fence '-DPREPARE_DROPS_LOCK -DWRITERS=1 -DPREPARED=1' 'a fill stores between PREPARE and COMMIT PREPARED'

holds local '-DREADS=2' '2 writers, a reader of 2 reads'
holds local '-DWRITERS=1 -DREADERS=2 -DREADS=2' 'a writer, 2 readers of 2 reads'
holds local '-DWRITERS=1 -DBULKS=1 -DPREPARED=1' 'a writer, a bulk writer, a prepared transaction, a reader'
holds local '-DWRITERS=0 -DBULKS=1 -DPREPARED=1 -DREADERS=2' 'a bulk writer, a prepared transaction, 2 readers'
fails local '-DLOCAL_UNMARKED' 'a writer does not mark the entry: the old document after COMMIT'
fails local '-DOLD_WHILE_MARKED -DWRITERS=1 -DREADS=2' 'a reader goes back to the old document, since the entry is not settled yet'
fails local '-DNEXT_BEFORE_VISIBLE' 'a reader has what is not committed'
fails local '-DVERDICT_OF_ANOTHER' 'the same: what it knows is of the writer before'
fails local '-DPUT_WITHOUT_LOCK -DWRITERS=1 -DREADERS=2' 'what memcached answered is promoted when a commit has come and gone'
fails local '-DFILLER_KEPT -DWRITERS=1 -DREADERS=2' 'a fill puts what it has read before a commit'
fails local '-DCLAIM_AFTER_SNAPSHOT -DWRITERS=1 -DREADERS=2' 'the same: no writer could take its claim away'
fails local '-DBULK_KEEPS_LOCAL -DWRITERS=0 -DBULKS=1' 'nobody settles the entry after a bulk writer'
fails local '-DPREPARE_KEEPS_LOCAL -DWRITERS=0 -DPREPARED=1' 'nor after COMMIT PREPARED'
fails local '-DEPOCH_UNREAD -DWRITERS=0 -DBULKS=1' 'a reader takes an entry of the epoch before'
fails local '-DEPOCH_UNCHECKED -DWRITERS=0 -DBULKS=1 -DREADERS=2' 'a fill that has claimed in the epoch before puts into this one'
fails local '-DEPOCH_KEEPS_ENTRY -DWRITERS=0 -DBULKS=1 -DREADERS=2' 'who claims an entry of the epoch before leaves in it what it has'

holds locks '' '3 writers of 2 documents, one of them prepared, 2 bulk writers, 2 fills'
fails locks '-DKEYS_UNSORTED' 'two writers wait for each other'
fails locks '-DBULK_SHARES_FIRST' 'two bulk writers wait for each other'
fails locks '-DFILL_WAITS_FOR_ATTACHMENT_LOCK' 'a fill, a bulk writer and a writer wait in a circle'

holds flush '' '3 writers, synchronous or not, 2 fills'
fails flush '-DSTORE_UNFLUSHED' 'a writer stores a document that a crash would take back'
fails flush '-DFILL_UNFLUSHED' 'a fill does'
fails flush '-DFLUSH_SEEN_BEFORE_LOCK' 'a fill looks, and then such a commit comes'
fails flush '-DPUBLISHED_AFTER_UNLOCK' 'a fill looks before it is told'

holds recovery '-DWRITERS=2 -DREADS=2' '2 writers, a reader of 2 reads'
holds recovery '-DWRITERS=1 -DREADERS=2' 'a writer, 2 readers'
holds recovery '-DWRITERS=1 -DPREPARED=1' 'a writer, a prepared transaction, a reader'
holds recovery '-DWRITERS=2 -DREADERS=0 -DCRASHES=1 -DSTANDBY' '2 writers, a crash, a standby'
holds recovery '-DWRITERS=1 -DCRASHES=2' 'a writer, a reader, 2 crashes'
holds recovery '-DWRITERS=1 -DPREPARED=1 -DREADERS=0 -DCRASHES=1' 'a writer, a prepared transaction, a crash'
holds recovery '-DWRITERS=2 -DREADERS=0 -DUNCLAIMED=1 -DLEAVES=1 -DSTANDBY' 'a worker that comes late, and leaves: 2 writers, a standby'
holds recovery '-DWRITERS=1 -DUNCLAIMED=1 -DLEAVES=1 -DSTANDBY' 'the same: a writer, a reader, a standby'
holds recovery '-DWRITERS=1 -DPREPARED=1 -DREADERS=0 -DUNCLAIMED=1 -DLEAVES=1 -DSTANDBY' 'the same: a writer, a prepared transaction, a standby'
holds recovery '-DWRITERS=1 -DREADERS=0 -DCRASHES=1 -DUNCLAIMED=1 -DLEAVES=1 -DSTANDBY' 'the same: a writer, a crash, a standby'
fails recovery '-DWITHOUT_OUTBOX_LOCK' 'the row of one who read DOWN comes after the last look: UP with the old document'
fails recovery '-DSTATE_NOT_READ_AGAIN' 'the same, though he then has the lock'
fails recovery '-DSNAPSHOT_BEFORE_RECOVERING' 'the same, for one who reads DOWN after the snapshot'
fails recovery '-DUP_WITHOUT_SWAP' 'a failure that a writer has just met is overwritten'
fails recovery '-DROW_SKIPPED_IF_ONE_IS_THERE' 'the row that was there has just been dealt with'
fails recovery '-DWHOLE_NOTE_UNKEYED' 'the whole row was taken up in a recovery that failed afterwards'
fails recovery '-DCLAIM_WITHOUT_PURGE -DUNCLAIMED=1' 'a worker that comes late clears what the one row is about, and nothing else'
fails recovery '-DUNATTENDED_IS_ENOUGH -DLEAVES=1' 'the same, for one that comes back to its slot'
fails recovery '-DNO_ROW_AT_ALL -DUNCLAIMED=1 -DSTANDBY' 'a standby does not know that the primary could not invalidate'
fails recovery '-DPURGE_IS_ENOUGH -DLEAVES=1 -DSTANDBY' 'the same: a worker that is there deletes the row that was enough'
fails recovery '-DREADER_IGNORES_STATE' 'a reader takes the old document while its key is in the outbox'
fails recovery '-DSTART_STATE=UP -DWRITERS=1 -DCRASHES=1' 'readers hit what a row of before the crash is about'
fails recovery '-DPREPARE_DROPS_LOCK -DWRITERS=0 -DPREPARED=1' 'a fill stores between PREPARE and COMMIT PREPARED'
fails recovery '-DPREPARE_DROPS_OUTBOX_LOCK -DWRITERS=0 -DPREPARED=1' 'UP before the prepared row is visible'

holds topology '' 'a document that moves and comes back: a writer, a reader'
holds topology '-DWRITERS=0 -DPREPARED=1' 'the same: a prepared transaction, a reader'
holds topology '-DFAILURES -DGENERATIONS=2' 'a document that moves, exchanges that fail: a writer, a reader'
holds topology '-DWRITERS=0 -DATTACHERS=1' 'a table that is attached while its documents move: who attaches, a reader'
holds topology '-DOFF' 'off and on: a writer, a reader'
holds topology '-DOFF -DWRITERS=0 -DPREPARED=1' 'off and on: a prepared transaction, a reader'
holds topology '-DSAME -DFAILURES -DGENERATIONS=2' 'another database has another prefix, exchanges fail: a writer, a reader'
holds topology '-DKEEP' 'two servers in every list, a document that moves and comes back: a writer, a reader'
holds topology '-DKEEP -DWRITERS=0 -DPREPARED=1' 'the same: a prepared transaction, a reader'
holds topology '-DKEEP -DSTAY -DFAILURES -DGENERATIONS=2' 'a document that stays where it is, exchanges that fail: a writer, a reader'
fails topology '-DUP_WITHOUT_PURGE' 'readers hit what was left there in earlier times'
fails topology '-DUSED_BEFORE_ALL_HAVE_LEFT -DWRITERS=0 -DATTACHERS=1' 'who attaches by the old list purges where nobody looks any more'
fails topology '-DENTERED_WITHOUT_LOOKING_AGAIN -DWRITERS=0 -DATTACHERS=1' 'the same: he entered just as the worker had looked'
fails topology '-DATTACH_LEAVES_EARLY -DWRITERS=0 -DATTACHERS=1' 'the same: he has left, and what he attaches is not visible yet'
fails topology '-DUP_WITHOUT_EPOCH' 'a worker makes UP what has begun anew under its hands'
fails topology '-DWORD_OF_ANY_GENERATION' 'a worker by the old list makes a server of the new one UP'
fails topology '-DPLACE_AT_ONCE' 'another prefix is used before the new generation: readers hit what was left there'
fails topology '-DADDRESS_OF_EACH' 'of two addresses each process picks one for itself: readers hit what a writer has not marked'
fails topology '-DFAILURE_IS_FORGOTTEN -DSAME -DFAILURES -DGENERATIONS=2' 'a writer of the generation before cannot set its marker, and the server stays UP'
fails topology '-DKEPT_WHATEVER_IT_WAS -DKEEP' 'a server that has not been purged yet keeps what was left there'
fails topology '-DMISPLACED_STAYS -DKEEP' 'a document comes back to a server that has kept an old one'
fails topology '-DKEPT_IN_DOUBT -DKEEP -DSTAY -DFAILURES -DGENERATIONS=2' 'a writer by the old list cannot set its marker, and the server keeps the document'
fails topology '-DUNLOCKED_BY_LEAVING' 'a document of before the commit is stored by the new list, under its hands'
fails topology '-DOFF_IS_NOT_LOCKED -DOFF' 'a commit that found the cache off becomes visible when it is UP again'
fails topology '-DOFF_IS_NOT_LOCKED -DOFF -DWRITERS=0 -DPREPARED=1' 'the same, by COMMIT PREPARED'

holds lease '-DCRASHES -DFAILURES' 'two clusters, crashes, failed exchanges'
holds lease '-DRELEASE -DCRASHES -DVALID=3 -DWAIT=3' 'two clusters, crashes, shutdowns, in thirds of a lease'
holds lease '-DCRASHES -DSTORES=0' 'stores of one that loses the lease'
holds lease '-DCRASHES -DREADS=1 -DDOCUMENTS_OF=0' 'reads of one that loses the lease'
holds lease '-DPROMOTION -DCRASHES -DRELEASE' 'a primary and its promoted standby, crashes, shutdowns'
holds lease '-DPROMOTION -DSTORES=0' 'a promotion, stores of the old primary'
holds lease '-DPROMOTION -DREADS=0 -DDOCUMENTS_OF=1' 'a promotion, reads of the old primary'
holds lease '-DSTANDBY -DCRASHES -DDOCUMENTS_OF=1' 'a standby of one that loses the lease'
fails lease '-DNEVER_AT_ONCE -DCRASHES' 'who begins again has the lease at once (no rule: it must be possible)'
fails lease '-DPURGE_FIRST' 'a clone empties the cache of the owner'
fails lease '-DABSENT_IS_FREE' 'an item is lost, and a newcomer UP beside the owner'
fails lease '-DCOUNTS_ON' 'the same, for one who has waited, but not without a gap'
fails lease '-DREADD_LATE' 'one whose lease is over adds it again, beside a new owner'
fails lease '-DREADD_AS_LEASE -DCRASHES' 'a late addition is found after a restart, and taken for a lease'
fails lease '-DOWN_CLAIM_IS_A_LEASE -DCRASHES' 'a claim of before a restart is taken for a lease'
fails lease '-DWITHOUT_TOKEN' 'a late request overwrites the lease of a new owner'
fails lease '-DCOUNTED_FROM_ANSWER' 'the answer comes late, and the owner trusts for too long'
fails lease '-DVALID=3' 'an owner trusts its lease for longer than others wait'
fails lease '-DWITHOUT_DEADLINE' 'the worker stands still, and the backends go on'
fails lease '-DLOST_BUT_UP -DSTORES=0' 'the lease comes back, and what was stored meanwhile is read'
fails lease '-DUP_WITHOUT_PURGE -DSTORES=0' 'the new owner reads what the old one has left'
fails lease '-DSTORE_CHECKED_BEFORE_MARKER -DSTORES=0' 'a store comes into the cache of the new owner'
fails lease '-DHIT_CHECKED_BEFORE_ANSWER -DREADS=1 -DDOCUMENTS_OF=0' 'a read takes a document of the new owner'
fails lease '-DHIT_WITHOUT_WORD -DREADS=1 -DDOCUMENTS_OF=0' 'the same, when the lease has come back meanwhile'
fails lease '-DPROMOTED_AT_ONCE -DPROMOTION' 'a promoted standby is UP while the old primary is'
fails lease '-DFREE_WHILE_UP -DRELEASE -DPROMOTION' 'the same, after a shutdown that was too quick'
fails lease '-DCLAIM_MADE_FREE -DRELEASE -DPROMOTION' 'the lease is given away by one who does not have it'
fails lease '-DSTANDBY_TRUSTS_WHAT_IT_SEES -DSTANDBY -DDOCUMENTS_OF=1' 'a standby reads documents of the new owner'
fails lease '-DSTANDBY_IGNORES_READY -DSTANDBY -DDOCUMENTS_OF=1' 'a standby reads what was left by an earlier owner'

# check NUMBER KIND|MODEL|SWITCHES|DESCRIPTION: one run; its result is in $work/NUMBER.tap.
check()
{
	local number=$1 kind model switches description status=0 ok=not\ ok optimize=-O0 depth=20000 states
	local dir=$work/$1 TIMEFORMAT='%U %S'

	IFS='|' read -r kind model switches description <<<"$2"
	mkdir "$dir"
	cp "$here"/*.pml "$dir"
	cd "$dir"
	[ "$model" != lease ] || depth=1500000	# its processes never end
	if [ "$kind" = holds ]; then
		optimize=-O2			# those that do not hold take longer to compile than to fail
	else
		switches+=' -DPROMISE_ONLY'	# what breaks is to be the promise, not what keeps it
	fi
	{
		# shellcheck disable=SC2086 # several words
		time {
			spin $switches -a "$model.pml" &&
				gcc $optimize -w -DSAFETY -DCOLLAPSE -DMEMLIM=900 -o pan pan.c &&
				./pan -m$depth -n
		} >log 2>&1
	} 2>time || status=$?
	states=$(awk '/states, stored/ { print $1 }' log)

	if [ "$kind" = holds ]; then
		if [ "$status" = 0 ] && grep -q 'errors: 0$' log &&
			! grep -qE 'not completed|too small|reached -D' log; then
			ok=ok
		fi
	elif grep -q 'errors: 1$' log; then
		if [ "$model" = locks ]; then
			! grep -q '^pan:1: invalid end state' log || ok=ok
		else
			! grep -q '^pan:1: assertion violated' log || ok=ok
		fi
	fi
	{
		switches=${switches% -DPROMISE_ONLY}
		[ "$kind" = holds ] || description="with ${switches%% *}: $description"
		printf '%s %d - %s: %s (%s states, %s s of CPU)\n' "$ok" "$number" "$model" \
			"${description//-D/}" "${states:-no}" "$(awk '{ printf "%.1f", $1 + $2 }' time)"
		if [ "$ok" != ok ]; then
			sed 's/^/# /' log | tail -n 20
			if ls ./*.trail >/dev/null 2>&1; then
				# shellcheck disable=SC2086
				spin $switches -t -p "$model.pml" | tail -n 150 | sed 's/^/# /'
			fi
		fi
	} >"$work/$number.tap"
	rm -rf "$dir"
}

[ ${#runs[@]} -gt 0 ] || { echo "not ok - no run matches \"$pattern\""; exit 1; }
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
export -f check
export work here

for i in "${!runs[@]}"; do
	printf '%s\0%s\0' "$((i + 1))" "${runs[$i]}"
done | xargs -0 -n 2 -P "$jobs" bash -c 'check "$@"' check || true

bad=0
for i in "${!runs[@]}"; do
	if ! cat "$work/$((i + 1)).tap" || ! grep -q '^ok ' "$work/$((i + 1)).tap"; then
		bad=1
	fi
done
echo "1..${#runs[@]}"
exit "$bad"
