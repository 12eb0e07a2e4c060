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
 *				2. Step A: it sets a marker on each of them.  The servers confirm the markers
 *				   before anybody can see the change.  A server that is away is not waited
 *				   for: its keys go into its outbox.
 *				3. While the markers are on their way, it renders the documents.
 *	commit		4. PostgreSQL commits.  The change is visible, the locks are still held.
 *	COMMIT		5. Step C: where the writer holds a key in store mode, the document replaces
 *				   the writer's own marker.
 *	ABORT		Nothing happens.  A marker that is left behind costs nothing, and the next
 *				fill takes it over.
 *
 * Only a holder of the store mode stores, and nobody ever waits for a holder of the
 * invalidate mode.
 *
 * Why two writers of one document cannot both store: the store mode has one holder, with no
 * invalidator beside it, and both writers take their lock before step A and keep it through
 * step C.  Why no reader puts an old document back: a fill holds the store mode while it
 * reads the row, so no change of the document is between its step A and its end at that
 * time.  src/README.md has the whole argument.
 *
 * Everybody takes the locks of the fence in one order: first those on attachments, by OID,
 * then those on keys, by hash.  Only a bulk writer waits for an attachment lock, and a bulk
 * writer holds nothing in store mode.  A fill never waits for a lock while it holds one.  So
 * there is no cycle.
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
#include "attachments/slot.h"
#include "commit/commit.h"
#include "commit/invalidate.h"
#include "commit/locks.h"
#include "commit/pending.h"
#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "protocol/wire.h"
#include "read/build.h"
#include "read/fetch.h"
#include "read/render.h"
#include "servers/exchange.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "sql/kv_keys.h"
#include "waitpoint.h"

/* A changed document of a transaction that is not a bulk. */
typedef struct FenceKey
{
	int			touched;		/* index in commit.touched */
	uint64		hash;
	const EcPendingKey *pending;
	const char *id;
	bool		store;			/* the writer holds the key in store mode */
	uint64		token;			/* of the writer's marker; 0: not confirmed */
	EcRow	   *row;			/* what step C stores; NULL: the marker stays */
	int			server;
	int			keylen;
	char		key[EC_KEY_MAX];
} FenceKey;

/*
 * The state of the fence, from PRE_COMMIT to the end of the transaction.  The transaction
 * owns both variables: what they point to is in TopTransactionContext, ec_commit_pre() fills
 * them once in each transaction, at nesting level 1, and ec_commit_at_end() releases them
 * however the transaction ends.  No call can nest in between, since nothing that runs after
 * PRE_COMMIT can begin another commit.
 */

/* The attached tables that this transaction has changed. */
static EcCommit commit;

/* What step C has to do.  Everything is allocated before, since the COMMIT callback may not. */
static struct
{
	int			n;
	EcRequest  *reqs;
	int		   *touched;		/* of each request, its index in commit.touched */
}			step_c;

/* One batch of a bulk's step A, filled from the pending keys. */
typedef struct MarkBatch
{
	int			n;
	EcRequest	reqs[EC_MARK_BATCH];
	char		keys[EC_MARK_BATCH][EC_KEY_MAX];
} MarkBatch;

/* The transaction's few keys. */
typedef struct KeyList
{
	int			n;
	FenceKey   *keys;
} KeyList;

static int	compare_tables(const void *a, const void *b);
static int	compare_keys(const void *a, const void *b);
static int	find_touched(Oid relid);
static bool collect_touched(void);
static void mark_one(const EcPendingKey *key, void *arg);
static void invalidate_whole(EcTouched *touched);
static void pre_commit_bulk(void);
static void add_key(const EcPendingKey *pending, void *arg);
static KeyList collect_keys(void);
static void pre_commit_off(bool bulk);
static void render(void *arg);
static void prepare_step_c(FenceKey *keys, int n);
static bool may_store(EcAttachment *att);
static void lock_keys(KeyList *list);
static void pre_commit_keys(bool prepare);

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
	uint64		x = ((const FenceKey *) a)->hash;
	uint64		y = ((const FenceKey *) b)->hash;

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
 * Steps 1 and 2 for many documents, or for all of one attachment.  The writer takes the
 * attachment locks in invalidate mode, and waits for those who store at this moment.  From
 * then on nobody stores a document of these attachments until the transaction has ended, and
 * the writer itself stores none either.
 */
static void
pre_commit_bulk(void)
{
	MarkBatch  *batch;

	for (int d = 0; d < commit.n; d++)
		(void) ec_locks_attachment(commit.touched[d].att->relid,
								   EC_LOCK_ATTACHMENT_INVALIDATE, true);
	ec_waitpoint("after-locks");

	batch = palloc0(sizeof(MarkBatch));
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
	ec_waitpoint("after-markers");
}

/* Add a changed key to the list, unless its table was detached in this transaction. */
static void
add_key(const EcPendingKey *pending, void *arg)
{
	KeyList    *list = arg;
	FenceKey   *key = &list->keys[list->n];

	memset(key, 0, offsetof(FenceKey, key));
	key->touched = find_touched(pending->relid);
	if (key->touched < 0)
		return;
	key->pending = pending;
	key->id = pnstrdup(pending->id, pending->idlen);
	key->hash = ec_locks_hash(pending->relid, pending->id, pending->idlen);
	list->n++;
	key->keylen = ec_attachment_key(commit.touched[key->touched].att, key->id, key->key);
	if (key->keylen == 0)
		return;					/* too long to be cached; under another prefix it may not be */
	key->server = ec_placement_of(key->key, key->keylen);
	commit.touched[key->touched].keys++;
}

/* The changed keys, in the order in which everybody locks keys. */
static KeyList
collect_keys(void)
{
	KeyList		list = {0};

	list.keys = palloc((ec_pending_count() + 1) * sizeof(FenceKey));
	ec_pending_each(add_key, &list);
	qsort(list.keys, list.n, sizeof(FenceKey), compare_keys);
	return list;
}

/*
 * Step 1 while the cache is off; nothing is sent.  The cache may be switched on before the
 * change is visible, and a prepared transaction can stay invisible for long.  An old document
 * could then be stored; the locks bar that.
 */
static void
pre_commit_off(bool bulk)
{
	KeyList		list = {0};

	for (int d = 0; bulk && d < commit.n; d++)
		(void) ec_locks_attachment(commit.touched[d].att->relid,
								   EC_LOCK_ATTACHMENT_INVALIDATE, true);
	if (!bulk)
		list = collect_keys();
	for (int i = 0; i < list.n; i++)
		(void) ec_locks_key(list.keys[i].hash, EC_LOCK_INVALIDATE, true);
	for (int d = 0; d < commit.n; d++)
		commit.touched[d].keys = 0; /* no marker is set on them */
}

/*
 * Step 3: render the documents whose keys the writer holds in store mode.  The writer holds
 * these locks and its row locks, so what the newest snapshot and its own changes show is
 * what will be committed.
 *
 * Documents are rendered here, and not by the statement that changed the row, because of
 * documents of several tables.  Of two transactions that each add a message to one session,
 * each sees only its own message until the other has committed.  The second one to come here
 * has waited for the first one's store lock, which is released after the first one's rows
 * became visible, so the second one's snapshot has both messages.  (The model shows the
 * counterexample: a document rendered before the lock lacks the first message, and stays.)
 */
static void
render(void *arg)
{
	KeyList    *list = arg;
	EcRow	   *rows = palloc(list->n * sizeof(EcRow));
	int			used = 0;

	CommandCounterIncrement();
	for (int d = 0; d < commit.n; d++)
	{
		EcAttachment *att = commit.touched[d].att;
		int			first = used;

		for (int i = 0; i < list->n; i++)
		{
			FenceKey   *key = &list->keys[i];

			if (key->touched != d || !key->store || ec_state_is_away(key->server))
				continue;
			key->row = &rows[used];
			rows[used].place = key->pending->place;
			rows[used++].id = key->id;
		}
		if (used > first && !(att->function_name
							  ? ec_fetch_guarded(att, rows + first, used - first, true)
							  : ec_render_written(att, rows + first, used - first)))
		{
			/* the markers stay; the next reader builds the document, or gets the error */
			for (int i = 0; i < list->n; i++)
				if (list->keys[i].touched == d)
					list->keys[i].row = NULL;
		}
	}
}

/*
 * Prepare everything that step C will need.  Each confirmed marker is replaced by the
 * document; or removed, where the row has none and where the policy is "invalidate"; or left
 * for the next fill.
 */
static void
prepare_step_c(FenceKey *keys, int n)
{
	step_c.reqs = palloc0(n * sizeof(EcRequest));
	step_c.touched = palloc(n * sizeof(int));
	for (int i = 0; i < n; i++)
	{
		FenceKey   *key = &keys[i];
		EcAttachment *att = commit.touched[key->touched].att;
		EcRequest  *req = &step_c.reqs[step_c.n];
		const char *value;
		size_t		len;

		if (key->token == 0)
			continue;
		req->kind = EC_REQUEST_REMOVE;
		if (att->policy == EC_WRITE_THROUGH)
		{
			if (key->row == NULL)
				continue;		/* the writer may not store it: the marker stays */
			if (key->row->matches > 0)
			{
				if (!ec_render_cacheable(key->row, &value, &len) ||
					!ec_placement_fits(key->server, key->keylen, len))
					continue;
				req->kind = EC_REQUEST_STORE;
				req->value = value;
				req->valuelen = len;
				req->ttl = ec_request_ttl(ec_attachment_ttl(att));
			}
		}
		req->server = key->server;
		req->key = key->key;
		req->keylen = key->keylen;
		req->token = key->token;
		step_c.touched[step_c.n++] = key->touched;
	}
}

/*
 * May this transaction store documents of the attachment?  If so it holds the attachment lock
 * in share mode afterwards, and a lock on the table itself: rendering needs the table, which
 * DML on a partition need not have locked.  Waits for neither lock; a bulk writer may hold
 * the first, and then the documents are only invalidated.
 *
 * A function may read by the transaction's own snapshot, which must not be an old one.  What
 * the backend knows of the attachment is from before the lock; whoever has changed the
 * attachment since has done so under that lock, so the attachment is looked up again.
 */
static bool
may_store(EcAttachment *att)
{
	return att->policy == EC_WRITE_THROUGH && !att->suspended &&
		!(att->function_name && IsolationUsesXactSnapshot()) && ec_build_may_store(att) &&
		ConditionalLockRelationOid(att->relid, AccessShareLock) &&
		ec_locks_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE, false) &&
		ec_attachment_by_relid(att->relid) == att;
}

/*
 * Step 1: lock each key in store mode, or else in invalidate mode.  The writer waits for a
 * storer only, which is brief; it waits for no invalidator.  Once it has waited it tries
 * the store mode again.
 */
static void
lock_keys(KeyList *list)
{
	for (int i = 0; i < list->n; i++)
	{
		FenceKey   *key = &list->keys[i];
		bool		share = commit.touched[key->touched].share;

		key->store = share && ec_locks_key(key->hash, EC_LOCK_STORE, false);
		if (key->store)
			continue;
		(void) ec_locks_key(key->hash, EC_LOCK_INVALIDATE, true);
		key->store = share && ec_locks_key(key->hash, EC_LOCK_STORE, false);
	}
}

/* Steps 1 to 3 for a few documents. */
static void
pre_commit_keys(bool prepare)
{
	KeyList		list = collect_keys();
	int			cached = 0;
	EcRequest  *reqs;

	for (int d = 0; d < commit.n; d++)
		commit.touched[d].share = !prepare && may_store(commit.touched[d].att);
	lock_keys(&list);
	ec_waitpoint("after-locks");

	/* from here on only the documents that have a cache key */
	for (int i = 0; i < list.n; i++)
		if (list.keys[i].keylen > 0)
			list.keys[cached++] = list.keys[i];
	list.n = cached;

	reqs = palloc0(list.n * sizeof(EcRequest));
	for (int i = 0; i < list.n; i++)
	{
		FenceKey   *key = &list.keys[i];

		ec_request_mark(&reqs[i], key->server, key->key, key->keylen);
		reqs[i].arg = commit.touched[key->touched].att->name;
	}
	/* the documents are rendered while the markers are on their way */
	ec_invalidate_mark(&commit, reqs, list.n, render, &list);
	for (int i = 0; i < list.n; i++)
		list.keys[i].token = reqs[i].result == EC_DONE ? reqs[i].token : 0;
	ec_waitpoint("after-markers");

	if (!prepare)
		prepare_step_c(list.keys, list.n);
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
 * May throw, which aborts the transaction: for interrupts, lock_timeout, out of memory, for
 * what rendering a row throws, and with fallback = off for a server that is not there.
 */
void
ec_commit_pre(bool prepare)
{
	bool		bulk = ec_pending_count() > ec_guc_max_write_through;
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	ResourceOwner owner = CurrentResourceOwner;

	Assert(GetCurrentTransactionNestLevel() == 1);
	Assert(step_c.n == 0 && commit.n == 0);

	/* the locks must last to the end of the transaction */
	CurrentResourceOwner = TopTransactionResourceOwner;

	memset(&commit, 0, sizeof(commit));
	bulk |= collect_touched();
	if (commit.n > 0 || ec_pending_purges() != NIL)
	{
		bool		on = ec_placement_enter_always();

		Assert(ec_topology_is_entered());
		if (ec_placement_generation() == EC_FIRST_GENERATION)
			ec_topology_without_launcher();
		ec_waitpoint("before-locks");
		ec_invalidate_rest(on);
		if (!on)
			pre_commit_off(bulk);
		else if (bulk)
			pre_commit_bulk();
		else
			pre_commit_keys(prepare);
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
 */
void
ec_commit_post(void)
{
	bool		flushed = !XLogNeedsFlush(XactLastCommitEnd);

	Assert(InterruptHoldoffCount > 0);
	if (flushed && step_c.n > 0)
	{
		Assert(ec_topology_is_entered());
		ec_waitpoint("before-store");
		for (int i = 0; i < step_c.n; i++)
			step_c.reqs[i].skip = !ec_state_is_owned(ec_placement_generation(),
													 step_c.reqs[i].server);
		ec_exchange_send(step_c.reqs, step_c.n, ec_deadline_in(ec_guc_timeout));
		for (int i = 0; i < step_c.n; i++)
			if (step_c.reqs[i].kind == EC_REQUEST_STORE && step_c.reqs[i].result == EC_DONE)
				commit.touched[step_c.touched[i]].stored++;
	}
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
 * The transaction is over, however it ended: forget the state of the fence.  Its memory goes
 * with TopTransactionContext, its locks with the transaction.  Never throws.
 */
void
ec_commit_at_end(void)
{
	step_c.reqs = NULL;
	step_c.n = 0;
	commit.touched = NULL;
	commit.n = 0;
}
