/*-------------------------------------------------------------------------
 *
 * local.c
 *	  The second tier: documents in shared memory.
 *
 * An entry has a document, perhaps the transaction that is changing it (writer), and perhaps the
 * document that it will be then (next).  As long as that transaction is in progress the document
 * is right, since a snapshot that is taken now shows it; from then on it is next, if the
 * transaction has committed, and else the document as before.  So a document that is written all
 * the time is a hit all the time, and a reader waits for nobody.
 *
 * Invariant: whatever is put into an entry is put under the key's store lock, or by a fill which
 * has claimed the entry under that lock and whose claim is still there.  A writer takes the claim
 * away, after it has locked the key and before its change is visible.  An entry may be dropped by
 * anybody at any time: that costs a miss.  Those who change all documents of an attachment, or
 * who end where we are not called (PREPARE), drop them before their change is visible, and hold
 * locks until it is under which nobody claims.  (The model: local.pml.)
 *
 * An entry belongs to an epoch of its attachment (EcSlot.epoch).  With another epoch all of them
 * are gone at once, whatever is put into them later.
 *
 * The bytes may be of a commit that is not flushed yet: what takes the commit back takes the
 * shared memory as well.  During recovery there is nothing here: nobody calls us when the
 * primary's changes become visible.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "utils/memutils.h"

#include "attachments/attachment.h"
#include "deadline.h"
#include "read/entries.h"
#include "read/local.h"
#include "waitevent.h"

/*
 * So long after memcached was last known to have a document, one read looks whether it has it
 * still: it may have been evicted there, or the server have begun anew.
 */
#define LOOK_US		(30 * USECS_PER_SEC)

/* An entry that this transaction has marked, from PRE_COMMIT to its end. */
typedef struct Mark
{
	EcSpot		spot;
	EcEntry    *entry;
} Mark;

/* In TopTransactionContext. */
static Mark *marks = NULL;
static int	nmarks = 0;
static int	max_marks = 0;

static bool has(EcAttachment *att);
static const EcChain *choose(const EcEntry *entry, TransactionId known, bool over,
							 EcDeadline *expires);

/* Is there a second tier, for this attachment? */
static bool
has(EcAttachment *att)
{
	return att->slot != NULL && ec_entries_exist();
}

/*
 * Which of its two documents is right?  NULL: it has none.  If there is a writer, it is known to
 * have been in progress, or, over, to have committed, since the read began.
 */
static const EcChain *
choose(const EcEntry *entry, TransactionId known, bool over, EcDeadline *expires)
{
	bool		next = TransactionIdIsValid(entry->writer) && entry->writer == known && over;
	const EcChain *chain = next ? &entry->next : &entry->value;

	*expires = next ? entry->next_expires : entry->expires;
	return chain->n > 0 ? chain : NULL;
}

/*
 * Find a document.  It is what a snapshot would show that is taken at some time during this call.
 * now is not much earlier.
 * found->renew: its lifetime in memcached was renewed longer than renew_after microseconds ago (0:
 * that does not matter).  found->look: it is not known to be in memcached.  No other reader is told
 * so for as long.  Returns whether there is one.
 */
bool
ec_local_read(EcAttachment *att, uint64 hash, const char *id, EcDeadline now,
			  int64 renew_after, EcLocalDocument *found)
{
	TransactionId known = InvalidTransactionId;
	bool		over = false;
	EcSpot		spot;

	if (!has(att))
		return false;
	spot = ec_entries_spot(att, hash);
	for (;;)
	{
		EcChain		held = {0};
		const EcChain *chain;
		EcDeadline	expires;
		EcEntry    *entry;

		LWLockAcquire(ec_entries_lock(&spot), LW_SHARED);
		entry = ec_entries_find(&spot);
		if (entry && TransactionIdIsValid(entry->writer) && entry->writer != known)
		{
			/* not with the lock held: it may take a look at the disk */
			known = entry->writer;
			LWLockRelease(ec_entries_lock(&spot));
			over = !TransactionIdIsInProgress(known) && TransactionIdDidCommit(known);
			continue;
		}
		if (entry && ec_entries_is_current(entry, att) &&
			(chain = choose(entry, known, over, &expires)) != NULL &&
			ec_entries_is_of(chain, id) && (expires == 0 || expires > now))
		{
			held = *chain;
			ec_entries_hold(&held);
			if (!entry->used)
				entry->used = true;
			found->renew = renew_after > 0 && entry->renewed + renew_after <= now;
			if (found->renew)
				entry->renewed = now;
			found->look = entry->seen + LOOK_US <= now;
			if (found->look || found->renew)
				entry->seen = now;
		}
		LWLockRelease(ec_entries_lock(&spot));
		if (held.n == 0)
			return false;
		found->bytes = ec_entries_copy(&held, &found->len);
		ec_entries_give(&held);
		return found->bytes != NULL;
	}
}

/*
 * What is here under this key, as memcached would have it, for the auditor: nothing of the entry
 * changes.  The caller holds the key in store mode and the attachment lock in share mode, so nobody
 * is changing the document: a snapshot taken under these locks shows it, or it is wrong.  NULL:
 * there is none.
 */
struct varlena *
ec_local_peek(EcAttachment *att, uint64 hash, const char *id, size_t *len)
{
	struct varlena *bytes = NULL;
	EcChain		held = {0};
	EcEntry    *entry;
	EcSpot		spot;

	if (!has(att))
		return NULL;
	spot = ec_entries_spot(att, hash);
	LWLockAcquire(ec_entries_lock(&spot), LW_SHARED);
	entry = ec_entries_find(&spot);
	if (entry && !TransactionIdIsValid(entry->writer) && ec_entries_is_current(entry, att) &&
		entry->value.n > 0 && ec_entries_is_of(&entry->value, id) &&
		(entry->expires == 0 || entry->expires > ec_deadline_in(0)))
	{
		held = entry->value;
		ec_entries_hold(&held);
	}
	LWLockRelease(ec_entries_lock(&spot));
	if (held.n > 0)
	{
		bytes = ec_entries_copy(&held, len);
		ec_entries_give(&held);
	}
	return bytes;
}

/* Memcached has a document of this length that is not here.  Is it to be promoted? */
bool
ec_local_is_worth(EcAttachment *att, uint64 hash, size_t len)
{
	EcSpot		spot;

	if (!has(att))
		return false;
	spot = ec_entries_spot(att, hash);
	return ec_entries_is_worth(&spot, len);
}

/*
 * Claim the place of a document, for whoever holds its key in store mode, and the attachment lock
 * in share mode.  The claim lasts until a writer comes, longer than these locks.  0: no place.
 */
uint64
ec_local_claim(EcAttachment *att, uint64 hash)
{
	uint64		claim = 0;
	EcEntry    *entry;
	EcSpot		spot;

	if (!has(att))
		return 0;
	spot = ec_entries_spot(att, hash);
	entry = ec_entries_enter(&spot, att);
	if (entry == NULL)
		return 0;
	if (!TransactionIdIsValid(entry->writer))
		claim = ec_entries_claim(entry);
	LWLockRelease(ec_entries_lock(&spot));
	return claim;
}

/*
 * Put a document where it was claimed, if it still is.  The caller has read it by a snapshot taken
 * after the claim, or from memcached under the locks of the claim, and knows that it is UTF-8, so
 * that no read has to look.  ttl in seconds; 0: for ever.  there: memcached has it, too, or will
 * have it.  Never throws.
 */
void
ec_local_put(EcAttachment *att, uint64 hash, uint64 claim, const char *id, const char *value,
			 size_t len, int64 ttl, bool there)
{
	EcDeadline	now = ec_deadline_in(0);
	EcChain		chain;
	EcEntry    *entry;
	EcSpot		spot;

	if (claim == 0 || !ec_entries_write(id, value, len, &chain))
		return;
	spot = ec_entries_spot(att, hash);
	LWLockAcquire(ec_entries_lock(&spot), LW_EXCLUSIVE);
	entry = ec_entries_find(&spot);
	if (entry && entry->claim == claim && ec_entries_is_current(entry, att))
	{
		ec_entries_clear(entry);
		entry->value = chain;
		entry->expires = ttl > 0 ? now + ttl * USECS_PER_SEC : 0;
		entry->renewed = now;
		entry->seen = there ? now : 0;
		chain.n = 0;
	}
	LWLockRelease(ec_entries_lock(&spot));
	ec_entries_give(&chain);
}

/* There is nothing to put where it was claimed. */
void
ec_local_forgo(EcAttachment *att, uint64 hash, uint64 claim)
{
	EcSpot		spot;

	if (claim == 0)
		return;
	spot = ec_entries_spot(att, hash);
	ec_entries_forgo(&spot, claim);
}

/* The document, if it is there, has this lifetime from now on. */
void
ec_local_renew(EcAttachment *att, uint64 hash, const char *id, int64 ttl)
{
	EcDeadline	now = ec_deadline_in(0);
	EcEntry    *entry;
	EcSpot		spot;

	if (!has(att))
		return;
	spot = ec_entries_spot(att, hash);
	LWLockAcquire(ec_entries_lock(&spot), LW_EXCLUSIVE);
	entry = ec_entries_find(&spot);
	if (entry && entry->value.n > 0 && ec_entries_is_of(&entry->value, id) &&
		(entry->expires == 0 || entry->expires > now))
	{
		entry->expires = entry->next_expires = ttl > 0 ? now + ttl * USECS_PER_SEC : 0;
		entry->renewed = now;
	}
	LWLockRelease(ec_entries_lock(&spot));
}

/* It is not known whether memcached has the document. */
void
ec_local_lost(EcAttachment *att, uint64 hash)
{
	EcEntry    *entry;
	EcSpot		spot;

	if (!has(att))
		return;
	spot = ec_entries_spot(att, hash);
	LWLockAcquire(ec_entries_lock(&spot), LW_SHARED);
	entry = ec_entries_find(&spot);
	if (entry)
		entry->seen = 0;
	LWLockRelease(ec_entries_lock(&spot));
}

/* The document is gone, and so is a claim on its place.  Never throws. */
void
ec_local_drop(EcAttachment *att, uint64 hash)
{
	EcEntry    *entry;
	EcSpot		spot;

	if (!ec_entries_exist())
		return;
	spot = ec_entries_spot(att, hash);
	LWLockAcquire(ec_entries_lock(&spot), LW_EXCLUSIVE);
	entry = ec_entries_find(&spot);
	if (entry)
		ec_entries_clear(entry);
	LWLockRelease(ec_entries_lock(&spot));
}

/* This transaction will mark so many entries at most.  Throws out of memory. */
void
ec_local_expect(int n)
{
	Assert(nmarks == 0);
	if (!ec_entries_exist())
		return;
	marks = MemoryContextAlloc(TopTransactionContext, Max(n, 1) * sizeof(Mark));
	max_marks = n;
}

/*
 * This transaction is about to change the document, and has locked its key: mark the entry.  A
 * second writer at the same time makes it nobody's.  Returns whether there is a document that
 * others go on to read until then; else the entry is empty, and nobody's claim is left.
 */
bool
ec_local_mark(EcAttachment *att, uint64 hash)
{
	TransactionId xid = GetTopTransactionIdIfAny();
	bool		marked = false;
	EcEntry    *entry;
	EcSpot		spot;

	if (!ec_entries_exist())
		return false;
	spot = ec_entries_spot(att, hash);
	LWLockAcquire(ec_entries_lock(&spot), LW_EXCLUSIVE);
	entry = ec_entries_find(&spot);
	if (entry)
	{
		/* without a slot here, others may have got one for the attachment since */
		marked = att->slot != NULL && entry->value.n > 0 && ec_entries_is_current(entry, att) &&
			nmarks < max_marks && TransactionIdIsValid(xid) &&
			!TransactionIdIsValid(entry->writer);
		if (marked)
		{
			entry->writer = xid;
			entry->claim = 0;
			marks[nmarks].spot = spot;
			marks[nmarks++].entry = entry;
		}
		else
			ec_entries_clear(entry);
	}
	LWLockRelease(ec_entries_lock(&spot));
	return marked;
}

/*
 * The document that an entry will have which this transaction has marked.  It holds the key in
 * store mode.  sent: once it has committed it sends the document to memcached.  Never throws.
 */
void
ec_local_next(EcAttachment *att, uint64 hash, const char *id, const char *value, size_t len,
			  bool sent)
{
	int64		ttl = ec_attachment_ttl(att);
	EcChain		chain;
	EcEntry    *entry;
	EcSpot		spot;

	if (!ec_entries_write(id, value, len, &chain))
		return;
	spot = ec_entries_spot(att, hash);
	LWLockAcquire(ec_entries_lock(&spot), LW_EXCLUSIVE);
	entry = ec_entries_find(&spot);
	if (entry && ec_entries_is_current(entry, att) && entry->writer == GetTopTransactionIdIfAny() &&
		entry->next.n == 0)
	{
		entry->next = chain;
		entry->next_sent = sent;
		entry->next_expires = ttl > 0 ? ec_deadline_in(0) + ttl * USECS_PER_SEC : 0;
		chain.n = 0;
	}
	LWLockRelease(ec_entries_lock(&spot));
	ec_entries_give(&chain);
}

/*
 * The transaction has ended, and its locks are still held: what it has marked is settled.  It may
 * leave a marker in memcached: one that has aborted does, and one that is not flushed.  For the
 * COMMIT and the ABORT callback.  Never throws or allocates.
 */
void
ec_local_settle(bool commit, bool flushed)
{
	TransactionId xid = GetTopTransactionIdIfAny();

	for (int m = 0; m < nmarks; m++)
	{
		Mark	   *mark = &marks[m];
		EcEntry    *entry = mark->entry;

		LWLockAcquire(ec_entries_lock(&mark->spot), LW_EXCLUSIVE);
		if (entry->taken && entry->writer == xid &&
			memcmp(&entry->key, &mark->spot.key, sizeof(EcEntryKey)) == 0)
		{
			if (commit)
			{
				ec_entries_give(&entry->value);
				entry->value = entry->next;
				entry->expires = entry->next_expires;
				entry->renewed = ec_deadline_in(0);
				entry->next.n = 0;
				entry->seen = flushed && entry->next_sent ? entry->renewed : 0;
			}
			else
			{
				ec_entries_give(&entry->next);
				entry->seen = 0;
			}
			entry->writer = InvalidTransactionId;
		}
		LWLockRelease(ec_entries_lock(&mark->spot));
	}
	marks = NULL;
	nmarks = max_marks = 0;
}

/*
 * Begin to wait for a fill of the document: from now on ec_local_wake() is heard.  Returns false
 * where there is no second tier.  The caller looks whether it has to wait, sleeps, and ends with
 * ConditionVariableCancelSleep(), as an error does.
 */
bool
ec_local_listen(EcAttachment *att, uint64 hash)
{
	EcSpot		spot;

	if (!has(att))
		return false;
	spot = ec_entries_spot(att, hash);
	ConditionVariablePrepareToSleep(ec_entries_filled(&spot));
	return true;
}

/*
 * Sleep until a fill of the document may be over, or so many milliseconds have passed.  Throws for
 * interrupts.
 */
void
ec_local_sleep(EcAttachment *att, uint64 hash, int ms)
{
	EcSpot		spot;

	spot = ec_entries_spot(att, hash);
	(void) ConditionVariableTimedSleep(ec_entries_filled(&spot), ms,
									   ec_waitevent_of(EC_WAIT_FILL));
}

/* A fill of the document is over: wake those who wait for it.  Never throws. */
void
ec_local_wake(EcAttachment *att, uint64 hash)
{
	EcSpot		spot;

	if (!has(att))
		return;
	spot = ec_entries_spot(att, hash);
	ConditionVariableBroadcast(ec_entries_filled(&spot));
}

