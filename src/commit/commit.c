/*-------------------------------------------------------------------------
 *
 * commit.c
 *	  The fence: what a transaction does to the cache around its commit.
 *
 * One rule carries the coherence: the only unconditional write that anyone ever
 * sends to a document's key is "set marker" (or delete it).  Every store carries
 * the CAS token of a marker that this process set.  So a request that is applied
 * late can only cost a miss.
 *
 * 	PRE_COMMIT	locks, then step A: a marker on every changed key, confirmed, before
 * 				anybody can see the change; meanwhile the documents are rendered.
 * 				A server that is away is not waited for: its keys go into its outbox.
 * 	COMMIT		the change is visible, the locks are still held.  Step C: where we hold
 * 				the key in store mode, the document replaces our marker.
 * 	ABORT		nothing: a marker left behind costs nothing, and the next fill
 * 				takes it over.
 *
 * Only a holder of the store mode stores, and nobody ever waits for a holder of
 * the invalidate mode.  Why two writers of one document cannot both store: the
 * store mode has one holder and no invalidator beside it, and both take theirs
 * before step A and keep it through step C.  Why no reader puts an old document
 * back: a fill holds the store mode while it reads, so no change of the document
 * is between its step A and its end.  src/README.md has the whole argument.
 *
 * Locks of ours are taken in one order by everybody: the classes by OID, of which only
 * a bulk writer waits for any, then the keys by hash.  A bulk writer holds
 * nothing in store mode; a fill never waits for a lock while it holds one.  So
 * there is no cycle.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

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
#include "shmem.h"
#include "sql/kv_keys.h"
#include "waitpoint.h"

/* A changed document of a transaction that is not a bulk. */
typedef struct FenceKey
{
	int			touched;		/* index in commit.touched */
	uint64		hash;
	const EcPendingKey *pending;
	const char *id;
	bool		store;			/* we hold it in store mode */
	uint64		token;			/* of our marker; 0: not confirmed */
	EcRow	   *row;			/* what will be stored, if we may */
	int			server;
	int			keylen;
	char		key[EC_KEY_MAX];
} FenceKey;

/* What the COMMIT callback has to do; everything is allocated before. */
static EcRequest *step_c = NULL;
static int *step_c_touched;			/* of each req, its index in commit.touched */
static int	step_c_n = 0;

/* The attached tables that this transaction has changed; in TopTransactionContext. */
static EcCommit commit;

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
static void mark_one(const EcPendingKey *key, void *arg);
static void pre_commit_bulk(void);
static void add_key(const EcPendingKey *pending, void *arg);
static KeyList collect_keys(void);
static void pre_commit_off(bool bulk);
static void render(void *arg);
static void prepare_step_c(FenceKey *keys, int n);
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

/* Its index in atts, or -1: detached in this transaction. */
static int
find_touched(Oid relid)
{
	for (int d = 0; d < commit.n; d++)
		if (commit.touched[d].att->relid == relid)
			return d;
	return -1;
}

static void
mark_one(const EcPendingKey *key, void *arg)
{
	MarkBatch  *batch = arg;
	EcRequest	   *req = &batch->reqs[batch->n];
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
	ec_request_mark(req, ec_placement_of(batch->keys[batch->n], keylen), batch->keys[batch->n],
			   keylen);
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
 * Many documents, or all of one: invalidate on the classes, waiting for those who
 * store just now; then nobody stores any until we are done, nor do we.
 */
static void
pre_commit_bulk(void)
{
	MarkBatch  *batch;

	for (int i = 0; i < commit.n; i++)
		(void) ec_locks_attachment(commit.touched[i].att->relid, EC_LOCK_ATTACHMENT_INVALIDATE, true);
	ec_waitpoint("after-locks");

	batch = palloc0(sizeof(MarkBatch));
	ec_pending_each(mark_one, batch);
	ec_invalidate_mark(&commit, batch->reqs, batch->n, NULL, NULL);
	pfree(batch);

	for (int i = 0; i < commit.n; i++)
	{
		int64		removed = 0;
		ListCell   *lc;

		foreach(lc, ec_pending_tables())
		{
			EcPendingTable *table = lfirst(lc);

			if (table->relid != commit.touched[i].att->relid || table->whole_level == 0)
				continue;
			ec_kv_keys_await();		/* a new document: its keys were anybody's until now */
			(void) ec_invalidate_all(commit.touched[i].att->name, &removed, true);
		}
		commit.touched[i].keys += removed;
	}
	ec_waitpoint("after-markers");
}

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

/* In the order in which everybody locks them. */
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
 * The cache is off: nothing is sent.  But it may be on before we are visible, for long if we
 * are prepared, and an old document be cached then; the locks bar that.
 */
static void
pre_commit_off(bool bulk)
{
	KeyList		list = {0};

	for (int d = 0; bulk && d < commit.n; d++)
		(void) ec_locks_attachment(commit.touched[d].att->relid, EC_LOCK_ATTACHMENT_INVALIDATE, true);
	if (!bulk)
		list = collect_keys();
	for (int i = 0; i < list.n; i++)
		(void) ec_locks_key(list.keys[i].hash, EC_LOCK_INVALIDATE, true);
	for (int d = 0; d < commit.n; d++)
		commit.touched[d].keys = 0;		/* no marker is set on them */
}

/*
 * Step 4: render the documents whose keys we hold in store mode.  The locks are
 * held and our row locks too, so what the newest snapshot and our own changes
 * show is what will be committed.
 *
 * That is why this is done now, and not by the statement that changed the row: of
 * two transactions that each add a message to one session, each sees only its own
 * until the other has committed.  The second to come here has waited for the first one's
 * store lock, which is released after its rows became visible, so its snapshot has both.
 * (The model's counterexample: rendered before the lock, the second store lacks the
 * first message, and stays.)
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

			if (key->touched != d || !key->store || ec_state_of(key->server) == EC_DOWN)
				continue;
			key->row = &rows[used];
			rows[used].place = key->pending->place;
			rows[used++].id = key->id;
		}
		if (!att->function_name)
			ec_render_written(att, rows + first, used - first, GetLatestSnapshot());
		else if (used > first && ec_fetch_guarded(att, rows + first, used - first, true) != EC_FETCH_DONE)
		{
			/* the markers stay; the next reader builds it, or has the error */
			for (int i = 0; i < list->n; i++)
				if (list->keys[i].touched == d)
					list->keys[i].row = NULL;
		}
	}
}

/* All that step C will need. */
static void
prepare_step_c(FenceKey *keys, int n)
{
	step_c = palloc0(n * sizeof(EcRequest));
	step_c_touched = palloc(n * sizeof(int));
	for (int i = 0; i < n; i++)
	{
		FenceKey   *key = &keys[i];
		EcAttachment *att = commit.touched[key->touched].att;
		EcRequest	   *req = &step_c[step_c_n];
		const char *value;
		size_t		len;

		if (key->token == 0)
			continue;
		req->kind = EC_REQUEST_REMOVE;
		if (att->policy == EC_WRITE_THROUGH)
		{
			if (key->row == NULL)
				continue;		/* not ours to store: the marker stays */
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
		step_c_touched[step_c_n++] = key->touched;
	}
}

/* A few documents: lock each, set the markers, prepare what will replace them. */
static void
pre_commit_keys(bool prepare)
{
	KeyList		list = collect_keys();
	int			cached = 0;
	EcRequest	   *reqs;

	/* a bulk writer holds the class: then we invalidate, and store nothing */
	for (int d = 0; d < commit.n; d++)
	{
		EcAttachment *att = commit.touched[d].att;

		/*
		 * Rendering needs the table, which DML on a partition need not have locked.  A
		 * function may read by the transaction's own snapshot, which must not be old.
		 * What we know of the document is from before the lock, under which whoever has
		 * changed that since has invalidated it.
		 */
		commit.touched[d].share = !prepare && att->policy == EC_WRITE_THROUGH && !att->suspended &&
			!(att->function_name && IsolationUsesXactSnapshot()) && ec_build_may_store(att) &&
			ConditionalLockRelationOid(att->relid, AccessShareLock) &&
			ec_locks_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE, false) &&
			ec_attachment_by_relid(att->relid) == att;
	}
	for (int i = 0; i < list.n; i++)
	{
		FenceKey   *key = &list.keys[i];
		bool		share = commit.touched[key->touched].share;

		key->store = share && ec_locks_key(key->hash, EC_LOCK_STORE, false);
		if (key->store)
			continue;
		/* waits for a storer only, who is brief; invalidators bar nobody here */
		(void) ec_locks_key(key->hash, EC_LOCK_INVALIDATE, true);
		key->store = share && ec_locks_key(key->hash, EC_LOCK_STORE, false);
	}
	ec_waitpoint("after-locks");

	/* from here on only those that have a key */
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
 * Steps 2 to 4 of the fence.  For PREPARE (step 7) invalidate modes only: the locks,
 * an outbox lock among them, stay with the prepared transaction, bar every fill
 * until it ends, and make nobody wait.  May throw, which aborts the transaction: for
 * interrupts, lock_timeout, out of memory, what rendering a row throws, and with
 * fallback = off a server that is not there.
 */
void
ec_commit_pre(bool prepare)
{
	bool		bulk = ec_pending_count() > ec_guc_max_write_through;
	ListCell   *lc;
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	ResourceOwner owner = CurrentResourceOwner;

	/* the locks must last to the end of the transaction */
	CurrentResourceOwner = TopTransactionResourceOwner;

	memset(&commit, 0, sizeof(commit));
	commit.touched = palloc0((list_length(ec_pending_tables()) + 1) * sizeof(EcTouched));
	foreach(lc, ec_pending_tables())
	{
		EcPendingTable *table = lfirst(lc);
		EcAttachment *att;

		if (table->nkeys == 0 && table->whole_level == 0)
			continue;			/* all rolled back */
		if (table->whole_level > 0)
			bulk = true;
		att = ec_attachment_by_relid(table->relid);
		if (att != NULL)		/* else it was detached in this transaction */
			commit.touched[commit.n++].att = att;
	}
	qsort(commit.touched, commit.n, sizeof(EcTouched), compare_tables);

	if (commit.n > 0)
	{
		bool		on = ec_placement_enter_always();

		ec_waitpoint("before-locks");
		if (!on)
			pre_commit_off(bulk);
		else if (bulk)
			pre_commit_bulk();
		else
			pre_commit_keys(prepare);
		ec_waitpoint("before-commit");
	}
	ec_pending_close();
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(old);
}

/*
 * Step C.  The change is visible, our locks are still held, the client has not
 * heard of it.  An ERROR here would be a PANIC: nothing throws or allocates.
 *
 * A commit that is not flushed yet (synchronous_commit = off) must not be ahead
 * of the disk in the cache: its markers stay, and nobody fills one of these
 * documents before the flush.  That is published before the locks go.
 */
void
ec_commit_post(void)
{
	bool		flushed = !XLogNeedsFlush(XactLastCommitEnd);

	if (flushed && step_c_n > 0)
	{
		ec_waitpoint("before-store");
		ec_exchange_send(step_c, step_c_n, ec_deadline_in(ec_guc_timeout));
		for (int i = 0; i < step_c_n; i++)
			if (step_c[i].kind == EC_REQUEST_STORE && step_c[i].result == EC_DONE)
				commit.touched[step_c_touched[i]].stored++;
	}
	for (int d = 0; d < commit.n; d++)
	{
		EcSlot *slot = commit.touched[d].att->slot;

		if (!flushed)
			ec_slot_publish_async(slot, XactLastCommitEnd);
		ec_slot_count(slot, EC_MARKERS, commit.touched[d].keys);
		ec_slot_count(slot, EC_WRITE_THROUGHS, commit.touched[d].stored);
		ec_slot_count(slot, EC_INVALIDATIONS, commit.touched[d].keys - commit.touched[d].stored);
	}
}

/* However the transaction ended: forget it, its memory goes by itself.  Never throws. */
void
ec_commit_at_end(void)
{
	step_c = NULL;
	step_c_n = 0;
	commit.touched = NULL;
	commit.n = 0;
}
