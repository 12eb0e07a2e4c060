/*-------------------------------------------------------------------------
 *
 * commit.c
 *	  The fence: what a transaction does to the cache around its commit.
 *
 * One rule carries the coherence.  The only unconditional writes that anybody ever sends
 * to a document's key are "set marker" and "delete".  Every store carries the CAS token of
 * a marker that the storing process has set itself.  A request that a server applies late
 * can therefore only cost a miss.
 *
 * The steps of a writer, numbered as in src/README.md:
 *
 *	PRE_COMMIT	1. The writer locks every key that it has changed.
 *				2. Step A: it enters the topology and sets a marker on each of them.  The servers
 *				   confirm the markers before anybody can see the change.  A server that is away
 *				   is not waited for: its keys go into its outbox.
 *				3. While the markers are on their way, it renders the documents, if they are
 *				   plain: nobody's code runs in a commit.
 *	commit		4. PostgreSQL commits.  The change is visible, the locks are still held.
 *	COMMIT		5. Step C (store.c): where the writer holds a key in store mode, the document
 *				   replaces the writer's own marker.  The lock of a key whose document is
 *				   not plain is released, and the key handed over to the builder (handover.c).
 *	ABORT		Nothing happens.  A marker that is left behind costs nothing, and the next
 *				fill takes it over.
 *
 * Only a marker that was set in store mode is stored over, and nobody ever waits for a holder of
 * the invalidate mode.
 *
 * Why two writers of one document cannot both store: the store mode has one holder, with no
 * invalidator beside it, and both writers take their lock before step A and keep it through
 * step C.  Why no reader puts an old document back: a fill holds the store mode while it sets
 * its marker, so no change of the document is between its step A and its end at that time; one
 * that comes later takes the fill's token away.  src/README.md has the whole argument.
 *
 * The writer is in the topology for as long as it takes to set the markers: not while it waits
 * for a lock, or for the commit to be flushed or replicated, since
 * no server of a newer list is UP before it has left.  A newer list may therefore be in force
 * when the change becomes visible, with all its servers purged.  They have no document of the
 * writer's keys then: none can be stored there under the writer's locks.  (The model shows it:
 * topology.pml.)  Only a writer that changes whole attachments stays to its end.  One that it
 * has just made is not known yet to whoever purges the servers of the newer list.
 *
 * Everybody takes the locks of the fence in one order: first those on attachments, by OID,
 * then those on keys, by hash.  Only a bulk writer waits for an attachment lock, and a bulk
 * writer holds nothing in store mode.  A fill waits for none of these, nor for anything else
 * while it holds one; for its own lock (fill.c) nobody waits.  So there is no cycle.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "attachments/attachment.h"
#include "attachments/configuration.h"
#include "attachments/latency.h"
#include "attachments/slot.h"
#include "commit/commit.h"
#include "commit/invalidate.h"
#include "commit/locks.h"
#include "commit/pending.h"
#include "commit/store.h"
#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "protocol/wire.h"
#include "read/local.h"
#include "read/usercode.h"
#include "servers/placement.h"
#include "servers/topology.h"
#include "sql/kv_keys.h"
#include "waitpoint.h"

/*
 * The attached tables that this transaction has changed, from PRE_COMMIT to its end.  What it
 * points to is in TopTransactionContext; ec_commit_pre() fills it once, at nesting level 1, and
 * ec_commit_at_end() releases it however the transaction ends.  No call can nest in between,
 * since nothing that runs after PRE_COMMIT can begin another commit.
 */
static EcCommit commit;

/* One batch of a bulk's step A, filled from the pending keys. */
typedef struct MarkBatch
{
	int			n;
	EcRequest	reqs[EC_MARK_BATCH];
	char		keys[EC_MARK_BATCH][EC_KEY_MAX];
} MarkBatch;

static int	compare_tables(const void *a, const void *b);
static int	compare_keys(const void *a, const void *b);
static int	find_touched(Oid relid);
static bool collect_touched(void);
static void mark_one(const EcPendingKey *key, void *arg);
static void invalidate_whole(EcTouched *touched);
static void lock_attachments(void);
static void mark_all(void);
static void add_key(const EcPendingKey *key, void *arg);
static void choose_maker(EcTouched *touched);
static EcKeyList lock_keys(bool prepare);
static void place_keys(EcKeyList *list);
static void render(void *arg);
static void mark_keys(EcKeyList *list);
static bool invalidate(bool bulk, bool whole, EcKeyList *list);

static int
compare_tables(const void *a, const void *b)
{
	Oid			x = ((const EcTouched *) a)->att->relid;
	Oid			y = ((const EcTouched *) b)->att->relid;

	return x < y ? -1 : x > y;
}

static int
compare_keys(const void *a, const void *b)
{
	uint64		x = ((const EcFenceKey *) a)->hash;
	uint64		y = ((const EcFenceKey *) b)->hash;

	return x < y ? -1 : x > y;
}

/* The table's index in commit.touched; -1: it was detached in this transaction. */
static int
find_touched(Oid relid)
{
	for (int d = 0; d < commit.n; d++)
		if (commit.touched[d].att->relid == relid)
			return d;
	return -1;
}

/*
 * Fill commit.touched with the attachments that the transaction has changed, in order of
 * OID.  Returns whether all documents of one of them change.  Throws what looking an
 * attachment up throws.
 */
static bool
collect_touched(void)
{
	bool		whole = false;
	ListCell   *lc;

	commit.touched = palloc0((list_length(ec_pending_tables()) + 1) * sizeof(EcTouched));
	foreach(lc, ec_pending_tables())
	{
		EcPendingTable *table = lfirst(lc);
		EcAttachment *att;

		if (table->nkeys == 0 && table->whole_level == 0)
			continue;			/* all rolled back */
		whole |= table->whole_level > 0;
		att = ec_attachment_by_relid(table->relid);
		if (att != NULL)		/* else it was detached in this transaction */
			commit.touched[commit.n++].att = att;
	}
	qsort(commit.touched, commit.n, sizeof(EcTouched), compare_tables);
	return whole;
}

/* Add a changed key to a bulk's batch of markers, and send the batch once it is full. */
static void
mark_one(const EcPendingKey *key, void *arg)
{
	MarkBatch  *batch = arg;
	EcRequest  *req = &batch->reqs[batch->n];
	char		id[1024];
	int			d = find_touched(key->relid);
	int			keylen;

	if (d < 0 || key->idlen >= (int) sizeof(id))
		return;					/* no cache key is as long as that */
	memcpy(id, key->id, key->idlen);
	id[key->idlen] = '\0';

	keylen = ec_attachment_key(commit.touched[d].att, id, batch->keys[batch->n]);
	if (keylen == 0)
		return;
	ec_request_mark(req, ec_placement_of(batch->keys[batch->n], keylen),
					batch->keys[batch->n], keylen);
	req->quiet = true;
	req->arg = commit.touched[d].att->name;
	commit.touched[d].keys++;
	if (++batch->n == EC_MARK_BATCH)
	{
		ec_invalidate_mark(&commit, batch->reqs, batch->n, NULL, NULL);
		batch->n = 0;
	}
}

/*
 * All documents of this attachment change: purge them.  Before the attachment its keys may
 * have been anybody's, so those who still use one through the key/value client are awaited.
 */
static void
invalidate_whole(EcTouched *touched)
{
	int64		removed = 0;

	ec_kv_keys_await();
	(void) ec_invalidate_all(touched->att->name, &removed, true);
	touched->keys += removed;
}

/*
 * Step 1 for many documents, or for all of one attachment.  The writer takes the attachment
 * locks in invalidate mode, and waits for those who store at this moment.  From then on nobody
 * stores a document of these attachments until the transaction has ended, and the writer
 * itself stores none either.  What is in shared memory is gone.
 */
static void
lock_attachments(void)
{
	for (int d = 0; d < commit.n; d++)
	{
		EcAttachment *att = commit.touched[d].att;

		(void) ec_locks_attachment(att->relid, EC_LOCK_ATTACHMENT_INVALIDATE, true);
		ec_slot_begin_epoch_of_table(att->relid);
	}
}

/* Step 2 for these. */
static void
mark_all(void)
{
	MarkBatch  *batch = palloc0(sizeof(MarkBatch));

	ec_pending_each(mark_one, batch);
	ec_invalidate_mark(&commit, batch->reqs, batch->n, NULL, NULL);
	pfree(batch);

	for (int d = 0; d < commit.n; d++)
	{
		ListCell   *lc;

		foreach(lc, ec_pending_tables())
		{
			EcPendingTable *table = lfirst(lc);

			if (table->relid == commit.touched[d].att->relid && table->whole_level > 0)
				invalidate_whole(&commit.touched[d]);
		}
	}
}

/* Add a changed key to the list, unless its table was detached in this transaction. */
static void
add_key(const EcPendingKey *pending, void *arg)
{
	EcKeyList  *list = arg;
	EcFenceKey *key = &list->keys[list->n];

	memset(key, 0, offsetof(EcFenceKey, key));
	key->touched = find_touched(pending->relid);
	if (key->touched < 0)
		return;
	key->pending = pending;
	key->id = pnstrdup(pending->id, pending->idlen);
	key->hash = ec_locks_hash(pending->relid, pending->id, pending->idlen);
	list->n++;
}

/*
 * Who makes the documents of this attachment?  The transaction itself, if they are plain: then
 * it holds the attachment lock in share mode afterwards, and a lock on the table, which DML on
 * a partition need not have locked.  Else the builder, after the commit.  Or nobody.  Waits for
 * neither lock; a bulk writer may hold the first, and then the documents are only invalidated.
 *
 * What the backend knows of the attachment is from before the lock; whoever has changed the
 * attachment since has done so under that lock, so the attachment is looked up again.
 */
static void
choose_maker(EcTouched *touched)
{
	EcAttachment *att = touched->att;

	if (att->policy != EC_WRITE_THROUGH || att->suspended)
		return;
	if (!ec_usercode_is_plain(att))
		touched->build = true;
	else if (ConditionalLockRelationOid(att->relid, AccessShareLock))
		touched->share = ec_locks_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE, false) &&
			ec_attachment_by_relid(att->relid) == att;
}

/*
 * Step 1 for a few documents, in the order in which everybody locks keys: lock each key in
 * store mode, or else in invalidate mode.  The writer waits for a storer only, which is brief;
 * it waits for no invalidator.  Once it has waited it tries the store mode again.
 *
 * This is done while the cache is off, too.  The cache may be switched on before the change is
 * visible, and a prepared transaction can stay invisible for long.  An old document could then
 * be stored; the locks bar that.
 */
static EcKeyList
lock_keys(bool prepare)
{
	EcKeyList	list = {0};

	list.keys = palloc((ec_pending_count() + 1) * sizeof(EcFenceKey));
	ec_pending_each(add_key, &list);
	ec_local_expect(list.n);
	qsort(list.keys, list.n, sizeof(EcFenceKey), compare_keys);
	for (int d = 0; d < commit.n && !prepare; d++)
		choose_maker(&commit.touched[d]);
	for (int i = 0; i < list.n; i++)
	{
		EcFenceKey *key = &list.keys[i];
		EcAttachment *att = commit.touched[key->touched].att;
		bool		share = commit.touched[key->touched].share;

		key->store = share && ec_locks_key(key->hash, EC_LOCK_STORE, false);
		if (!key->store)
		{
			(void) ec_locks_key(key->hash, EC_LOCK_INVALIDATE, true);
			key->store = share && ec_locks_key(key->hash, EC_LOCK_STORE, false);
		}
		/* whoever ends a prepared transaction does not call us */
		if (prepare)
			ec_local_drop(att, key->hash);
		else
			key->local = ec_local_mark(att, key->hash);
	}
	return list;
}

/*
 * Find out where the keys live, in the topology that was entered.  One that is too long to be
 * cached under this prefix leaves the list; its lock stays.
 */
static void
place_keys(EcKeyList *list)
{
	int			n = 0;

	for (int i = 0; i < list->n; i++)
	{
		EcFenceKey *key = &list->keys[i];
		EcTouched  *touched = &commit.touched[key->touched];

		key->keylen = ec_attachment_key(touched->att, key->id, key->key);
		if (key->keylen == 0)
			continue;
		key->server = ec_placement_of(key->key, key->keylen);
		touched->keys++;
		list->keys[n++] = *key;
	}
	list->n = n;
	list->generation = ec_placement_generation();
}

/* Step 3, while the markers are on their way. */
static void
render(void *arg)
{
	EcKeyList  *list = arg;
	int64		began = ec_deadline_clock();

	ec_store_render(&commit, list);
	list->rendering = ec_deadline_clock() - began;
}

/* Step 2 for a few documents, with step 3 while the markers are on their way. */
static void
mark_keys(EcKeyList *list)
{
	EcRequest  *reqs;

	place_keys(list);
	reqs = palloc0(list->n * sizeof(EcRequest));
	for (int i = 0; i < list->n; i++)
	{
		EcFenceKey *key = &list->keys[i];

		ec_request_mark(&reqs[i], key->server, key->key, key->keylen);
		reqs[i].arg = commit.touched[key->touched].att->name;
	}
	ec_invalidate_mark(&commit, reqs, list->n, render, list);
	for (int i = 0; i < list->n; i++)
	{
		list->keys[i].token = reqs[i].result == EC_DONE ? reqs[i].token : 0;
		list->keys[i].connection = reqs[i].connection;
	}
}

/*
 * Step 2: mark all that the transaction has changed, in the topology; nothing is sent while the
 * cache is off.  Returns whether it is on.  With whole the topology stays entered, to the end
 * of the transaction: see the banner.
 *
 * It is timed for each attachment how long all this keeps the transaction waiting: without the
 * rendering, which is work of its own.
 */
static bool
invalidate(bool bulk, bool whole, EcKeyList *list)
{
	bool		on = ec_placement_enter_always();
	int64		began;
	int64		waited;

	if (ec_placement_generation() == EC_FIRST_GENERATION)
		ec_topology_without_launcher();
	ec_waitpoint("before-markers");
	ec_invalidate_rest(on);
	began = ec_deadline_clock();
	if (on && bulk)
		mark_all();
	else if (on)
		mark_keys(list);
	waited = ec_deadline_clock() - began - list->rendering;
	for (int d = 0; on && d < commit.n; d++)
		ec_latency_add(commit.touched[d].att->slot, EC_LATENCY_MARKER, waited);
	if (!whole)
		ec_topology_leave();
	ec_waitpoint("after-markers");
	return on;
}

/*
 * Steps 1 to 3, in the PRE_COMMIT or PRE_PREPARE callback of a transaction that has noted
 * changes.  Expects no lock of the fence to be held; the locks that it takes last to the end
 * of the transaction.
 *
 * For PREPARE TRANSACTION it takes invalidate modes only.  The locks, an outbox lock among
 * them, stay with the prepared transaction; they bar every fill until it ends, and make
 * nobody wait.
 *
 * May throw, which aborts the transaction: for interrupts, lock_timeout, out of memory, and
 * with fallback = off for a server that is not there.
 */
void
ec_commit_pre(bool prepare)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	ResourceOwner owner = CurrentResourceOwner;
	bool		whole;

	Assert(GetCurrentTransactionNestLevel() == 1);
	Assert(commit.n == 0);

	/* the locks must last to the end of the transaction */
	CurrentResourceOwner = TopTransactionResourceOwner;

	memset(&commit, 0, sizeof(commit));
	whole = collect_touched();
	if (commit.n > 0 || ec_pending_purges() != NIL)
	{
		bool		bulk = whole || ec_pending_count() > ec_guc_max_write_through;
		EcKeyList	list = {0};

		ec_waitpoint("before-locks");
		if (bulk)
			lock_attachments();
		else
			list = lock_keys(prepare);
		ec_waitpoint("after-locks");
		if (invalidate(bulk, whole, &list) && !bulk && !prepare)
			ec_store_prepare(&commit, &list);
		ec_waitpoint("before-commit");
	}
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(old);
}

/*
 * Step 5, in the COMMIT callback.  The change is visible, the locks of the fence are still
 * held, the client has not heard of the commit.  An ERROR here would be a PANIC: nothing
 * throws, allocates or serves an interrupt.
 *
 * A commit that is not flushed yet (synchronous_commit = off) must not be ahead of the disk
 * in the cache (G4).  Its markers stay, and nobody fills one of these documents before the
 * flush: the commit's LSN is published before the locks go.
 *
 * Nor is anything stored by a process that is to end.  It may have been waiting for a synchronous
 * standby, to which the commit has not come: PostgreSQL ends that wait when the process is
 * terminated or the postmaster has died, and then a primary may follow that does not have it.
 */
void
ec_commit_post(void)
{
	bool		flushed = !XLogNeedsFlush(XactLastCommitEnd);

	Assert(InterruptHoldoffCount > 0);
	ec_waitpoint("before-settle");
	ec_local_settle(true, flushed);
	if (flushed && !ProcDiePending)
		ec_store_send(&commit);
	for (int d = 0; d < commit.n; d++)
	{
		EcTouched  *touched = &commit.touched[d];
		EcSlot	   *slot = touched->att->slot;

		Assert(touched->stored <= touched->keys);
		if (!flushed)
			ec_slot_publish_async(slot, XactLastCommitEnd);
		ec_slot_count(slot, EC_MARKERS, touched->keys);
		ec_slot_count(slot, EC_WRITE_THROUGHS, touched->stored);
		ec_slot_count(slot, EC_INVALIDATIONS, touched->keys - touched->stored);
	}
}

/*
 * The transaction is over, however it ended: forget the state of the fence.  What it has marked
 * in shared memory is as it was, unless it has committed.  Its memory goes with
 * TopTransactionContext, its locks with the transaction.  Never throws.
 */
void
ec_commit_at_end(void)
{
	ec_store_at_end();
	ec_local_settle(false, false);
	commit.touched = NULL;
	commit.n = 0;
}
