/*-------------------------------------------------------------------------
 *
 * fence.c
 *	  What a transaction does to the cache around its commit; the locks.
 *
 * One rule carries the coherence: the only unconditional write that anyone ever
 * sends to a document's key is "set marker" (or delete it).  Every store carries
 * the CAS token of a marker that this process set.  So a request that is applied
 * late can only cost a miss.
 *
 *	PRE_COMMIT	locks, then step A: a marker on every changed key, confirmed, before
 *				anybody can see the change; meanwhile the documents are rendered.
 *				A server that is away is not waited for: its keys go into its outbox.
 *	COMMIT		the change is visible, the locks are still held.  Step C: where we hold
 *				the key in store mode, the document replaces our marker.
 *	ABORT		nothing: a marker left behind costs nothing, and the next fill
 *				takes it over.
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
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "build.h"
#include "cluster.h"
#include "compat.h"
#include "document.h"
#include "fence.h"
#include "guc.h"
#include "kv.h"
#include "outbox.h"
#include "pending.h"
#include "purge.h"
#include "render.h"
#include "sweep.h"
#include "waitpoint.h"

/* Outbox rows of one transaction and server; above, whole documents are noted. */
#define EC_OUTBOX_KEYS		1000

/* A changed document of a transaction that is not a bulk. */
typedef struct FenceKey
{
	int			att;			/* index in atts */
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
static int *step_c_doc;			/* of each req, its index in atts */
static int	step_c_n = 0;

/* The attached tables that the transaction has changed. */
typedef struct Touched
{
	EcAttachment *att;
	bool		share;			/* we hold the class in share mode */
	uint64		keys;			/* changed, and not among the next */
	uint64		stored;			/* written through */
} Touched;

static Touched *atts = NULL;
static int	ntouched = 0;

/* A table that is attached or detached here, at this nesting level; in order. */
typedef struct SlotChange
{
	Oid			relid;
	int			level;
	bool		attach;
	bool		new_slot;		/* it had none before the attach */
} SlotChange;

static List *slot_changes = NIL;
static int	outbox_keys[EC_MAX_SERVERS];	/* rows written; -1: all documents are noted */
static bool fenced = false;		/* PRE_COMMIT is over: it is too late to note anything */

static void xact_callback(XactEvent event, void *arg);
static void subxact_callback(SubXactEvent event, SubTransactionId mySubid,
							 SubTransactionId parentSubid, void *arg);
static void pre_commit(bool prepare);
static int	find_doc(Oid relid);
static void pre_commit_off(bool bulk);
static void pre_commit_bulk(void);
static void pre_commit_keys(bool prepare);
static void set_markers(EcRequest *reqs, int n, void (*meanwhile) (void *arg), void *arg);
static void count_failure(void);
static void lock_outbox(int server);
static void note_keys(EcRequest *reqs, int n, int server);
static void render(void *arg);
static void prepare_step_c(FenceKey *keys, int n);
static void at_commit(void);
static void at_end(void);
static void note_slot_change(Oid relid, bool attach);
static void ec_slot_at_subend(int level, bool commit);
static void ec_slot_at_commit(void);

/* Once per backend. */
void
ec_fence_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

/* ---------------------------------------------------------------- locks */

/* The lock's identity; two keys that share one only get in each other's way. */
uint64
ec_locks_hash(Oid relid, const char *id, int idlen)
{
	return hash_bytes_extended((const unsigned char *) id, idlen, relid);
}

static void
key_tag(LOCKTAG *tag, uint64 hash)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 EC_LOCKTAG_KEY);
}

static void
class_tag(LOCKTAG *tag, Oid relid)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, relid, 0, EC_LOCKTAG_ATTACHMENT);
}

/*
 * Take a lock for the rest of the transaction; without wait, false if it is
 * not to be had at once.
 */
bool
ec_locks_key(uint64 hash, LOCKMODE mode, bool wait)
{
	LOCKTAG		tag;

	key_tag(&tag, hash);
	return LockAcquire(&tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

bool
ec_locks_attachment(Oid relid, LOCKMODE mode, bool wait)
{
	LOCKTAG		tag;

	class_tag(&tag, relid);
	return LockAcquire(&tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

void
ec_locks_release_key(uint64 hash, LOCKMODE mode)
{
	LOCKTAG		tag;

	key_tag(&tag, hash);
	LockRelease(&tag, mode, false);
}

void
ec_locks_release_attachment(Oid relid, LOCKMODE mode)
{
	LOCKTAG		tag;

	class_tag(&tag, relid);
	LockRelease(&tag, mode, false);
}

/* ---------------------------------------------------------------- notes */

/* Another extension's PRE_COMMIT callback may run after ours, and must not write. */
static void
check_not_fenced(void)
{
	if (fenced)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cached documents were changed after their markers had been set"),
				 errdetail("Another extension writes to an attached table while the "
						   "transaction commits.")));
}

/*
 * The document with this id changes in this transaction; its row is at that place now.
 * No network here.
 */
void
ec_fence_note_key(EcAttachment *att, const char *id, const EcPlace *place)
{
	check_not_fenced();
	ec_pending_key(att->relid, id, (int) strlen(id), GetCurrentTransactionNestLevel(), place);
}

/* Every document of this table changes in this transaction. */
void
ec_fence_note_whole(Oid relid)
{
	check_not_fenced();
	ec_pending_whole(relid, GetCurrentTransactionNestLevel());
}

/*
 * The table is about to be attached, and gets a slot in shared memory on the way,
 * which it must not keep when that is rolled back.  (A prepared transaction that is
 * rolled back leaves it behind.)
 */
void
ec_slot_note_attach(Oid relid)
{
	note_slot_change(relid, true);
}

/* The table is detached in this transaction, and all its documents invalidated. */
void
ec_slot_note_detach(Oid relid)
{
	note_slot_change(relid, false);
}

static void
note_slot_change(Oid relid, bool attach)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	SlotChange *change = palloc(sizeof(SlotChange));

	change->relid = relid;
	change->level = GetCurrentTransactionNestLevel();
	change->attach = attach;
	change->new_slot = attach && !ec_slot_exists(relid);
	slot_changes = lappend(slot_changes, change);
	MemoryContextSwitchTo(old);
}

/* The (sub)transaction at this level ends, with all below it. */
static void
ec_slot_at_subend(int level, bool commit)
{
	ListCell   *lc;

	foreach(lc, slot_changes)
	{
		SlotChange *change = lfirst(lc);

		if (change->level < level)
			continue;
		if (commit)
		{
			change->level = level - 1;
			continue;
		}
		if (change->new_slot)
			ec_slot_free(change->relid);
		slot_changes = foreach_delete_current(slot_changes, lc);
	}
}

/* Who was detached, and not attached again after it, gives up its slot.  Never throws. */
static void
ec_slot_at_commit(void)
{
	for (int i = 0; i < list_length(slot_changes); i++)
	{
		SlotChange *change = list_nth(slot_changes, i);
		bool		last = true;

		for (int j = i + 1; j < list_length(slot_changes); j++)
			last &= ((SlotChange *) list_nth(slot_changes, j))->relid != change->relid;
		if (last && !change->attach)
			ec_slot_free(change->relid);
	}
}

/* ---------------------------------------------------------------- before the commit */

static int
compare_docs(const void *a, const void *b)
{
	Oid			x = ((const Touched *) a)->att->relid;
	Oid			y = ((const Touched *) b)->att->relid;

	return x < y ? -1 : x > y;
}

static int
compare_keys(const void *a, const void *b)
{
	uint64		x = ((const FenceKey *) a)->hash;
	uint64		y = ((const FenceKey *) b)->hash;

	return x < y ? -1 : x > y;
}

/*
 * Steps 2 to 4 of the fence.  For PREPARE (step 7) invalidate modes only: the locks,
 * an outbox lock among them, stay with the prepared transaction, bar every fill
 * until it ends, and make nobody wait.  May throw, which aborts the transaction: for
 * interrupts, lock_timeout, out of memory, what rendering a row throws, and with
 * fallback = off a server that is not there.
 */
static void
pre_commit(bool prepare)
{
	bool		bulk = ec_pending_count() > ec_guc_max_write_through;
	ListCell   *lc;
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	ResourceOwner owner = CurrentResourceOwner;

	/* the locks must last to the end of the transaction */
	CurrentResourceOwner = TopTransactionResourceOwner;

	memset(outbox_keys, 0, sizeof(outbox_keys));
	atts = palloc0((list_length(ec_pending_tables()) + 1) * sizeof(Touched));
	ntouched = 0;
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
			atts[ntouched++].att = att;
	}
	qsort(atts, ntouched, sizeof(Touched), compare_docs);

	if (ntouched > 0)
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
	fenced = true;
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(old);
}

/* Its index in atts, or -1: detached in this transaction. */
static int
find_doc(Oid relid)
{
	for (int d = 0; d < ntouched; d++)
		if (atts[d].att->relid == relid)
			return d;
	return -1;
}

/* One batch of a bulk's step A, filled from the pending keys. */
typedef struct MarkBatch
{
	int			n;
	EcRequest		reqs[EC_MARK_BATCH];
	char		keys[EC_MARK_BATCH][EC_KEY_MAX];
} MarkBatch;

static void
mark_one(const EcPendingKey *key, void *arg)
{
	MarkBatch  *batch = arg;
	EcRequest	   *req = &batch->reqs[batch->n];
	char		id[1024];
	int			d = find_doc(key->relid);
	int			keylen;

	if (d < 0 || key->idlen >= (int) sizeof(id))
		return;					/* no cache key is as long as that */
	memcpy(id, key->id, key->idlen);
	id[key->idlen] = '\0';

	keylen = ec_attachment_key(atts[d].att, id, batch->keys[batch->n]);
	if (keylen == 0)
		return;
	ec_request_mark(req, ec_placement_of(batch->keys[batch->n], keylen), batch->keys[batch->n],
			   keylen);
	req->quiet = true;
	req->arg = atts[d].att->name;
	atts[d].keys++;
	if (++batch->n == EC_MARK_BATCH)
	{
		set_markers(batch->reqs, batch->n, NULL, NULL);
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

	for (int i = 0; i < ntouched; i++)
		(void) ec_locks_attachment(atts[i].att->relid, EC_LOCK_ATTACHMENT_INVALIDATE, true);
	ec_waitpoint("after-locks");

	batch = palloc0(sizeof(MarkBatch));
	ec_pending_each(mark_one, batch);
	set_markers(batch->reqs, batch->n, NULL, NULL);
	pfree(batch);

	for (int i = 0; i < ntouched; i++)
	{
		int64		removed = 0;
		ListCell   *lc;

		foreach(lc, ec_pending_tables())
		{
			EcPendingTable *table = lfirst(lc);

			if (table->relid != atts[i].att->relid || table->whole_level == 0)
				continue;
			ec_kv_keys_await();		/* a new document: its keys were anybody's until now */
			(void) ec_invalidate_all(atts[i].att->name, &removed, true);
		}
		atts[i].keys += removed;
	}
	ec_waitpoint("after-markers");
}

/* The transaction's few keys. */
typedef struct KeyList
{
	int			n;
	FenceKey   *keys;
} KeyList;

static void
add_key(const EcPendingKey *pending, void *arg)
{
	KeyList    *list = arg;
	FenceKey   *key = &list->keys[list->n];

	memset(key, 0, offsetof(FenceKey, key));
	key->att = find_doc(pending->relid);
	if (key->att < 0)
		return;
	key->pending = pending;
	key->id = pnstrdup(pending->id, pending->idlen);
	key->hash = ec_locks_hash(pending->relid, pending->id, pending->idlen);
	list->n++;
	key->keylen = ec_attachment_key(atts[key->att].att, key->id, key->key);
	if (key->keylen == 0)
		return;					/* too long to be cached; under another prefix it may not be */
	key->server = ec_placement_of(key->key, key->keylen);
	atts[key->att].keys++;
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

	for (int d = 0; bulk && d < ntouched; d++)
		(void) ec_locks_attachment(atts[d].att->relid, EC_LOCK_ATTACHMENT_INVALIDATE, true);
	if (!bulk)
		list = collect_keys();
	for (int i = 0; i < list.n; i++)
		(void) ec_locks_key(list.keys[i].hash, EC_LOCK_INVALIDATE, true);
	for (int d = 0; d < ntouched; d++)
		atts[d].keys = 0;		/* no marker is set on them */
}

/* A few documents: lock each, set the markers, prepare what will replace them. */
static void
pre_commit_keys(bool prepare)
{
	KeyList		list = collect_keys();
	int			cached = 0;
	EcRequest	   *reqs;

	/* a bulk writer holds the class: then we invalidate, and store nothing */
	for (int d = 0; d < ntouched; d++)
	{
		EcAttachment *att = atts[d].att;

		/*
		 * Rendering needs the table, which DML on a partition need not have locked.  A
		 * function may read by the transaction's own snapshot, which must not be old.
		 * What we know of the document is from before the lock, under which whoever has
		 * changed that since has invalidated it.
		 */
		atts[d].share = !prepare && att->policy == EC_WRITE_THROUGH && !att->suspended &&
			!(att->function_name && IsolationUsesXactSnapshot()) && ec_build_may_store(att) &&
			ConditionalLockRelationOid(att->relid, AccessShareLock) &&
			ec_locks_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE, false) &&
			ec_attachment_by_relid(att->relid) == att;
	}
	for (int i = 0; i < list.n; i++)
	{
		FenceKey   *key = &list.keys[i];
		bool		share = atts[key->att].share;

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
		reqs[i].arg = atts[key->att].att->name;
	}
	/* the documents are rendered while the markers are on their way */
	set_markers(reqs, list.n, render, &list);
	for (int i = 0; i < list.n; i++)
		list.keys[i].token = reqs[i].result == EC_DONE ? reqs[i].token : 0;
	ec_waitpoint("after-markers");

	if (!prepare)
		prepare_step_c(list.keys, list.n);
}

/*
 * Step A for one batch: every key carries a marker, or is gone, confirmed; or it
 * is in the outbox of its server, which is DOWN, and whose worker invalidates it
 * before anybody reads from there again.  A server that is DOWN already is not
 * waited for.  req->arg is the document's name.  meanwhile runs while the markers are
 * on their way.  With fallback = off throws where the outbox would be needed.
 */
static void
set_markers(EcRequest *reqs, int n, void (*meanwhile) (void *arg), void *arg)
{
	bool		unconfirmed[EC_MAX_SERVERS] = {0};
	EcDeadline	deadline = ec_deadline_in(ec_guc_timeout);

	for (int i = 0; i < n; i++)
	{
		reqs[i].skip = ec_state_of(reqs[i].server) == EC_DOWN;
		reqs[i].result = EC_FAILED;
	}
	(void) ec_exchange_marks(reqs, n, deadline, meanwhile, arg);
	for (int i = 0; i < n; i++)
	{
		if (reqs[i].result != EC_FAILED)
			continue;
		if (!unconfirmed[reqs[i].server] && !reqs[i].skip)
			count_failure();
		unconfirmed[reqs[i].server] = true;
	}

	for (int server = 0; server < ec_placement_size(); server++)
	{
		if (!unconfirmed[server])
			continue;
		lock_outbox(server);
		if (ec_state_of(server) != EC_DOWN)
		{
			/* no longer DOWN, and it was not we who made it so: then as usual */
			for (int i = 0; i < n; i++)
				reqs[i].skip = reqs[i].server != server || reqs[i].result != EC_FAILED;
			(void) ec_exchange_marks(reqs, n, deadline, NULL, NULL);
		}
		note_keys(reqs, n, server);
	}
}

/* A server has just failed us: it shows at each document of the transaction. */
static void
count_failure(void)
{
	bool		timed_out;

	(void) ec_exchange_last_failure(&timed_out);
	for (int d = 0; d < ntouched; d++)
		ec_slot_count(atts[d].att->slot, timed_out ? EC_TIMEOUTS : EC_ERRORS, 1);
}

/* On the way to a server's outbox: the lock, unless fallback is off. */
static void
lock_outbox(int server)
{
	if (!ec_guc_fallback)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not invalidate cached documents from server \"%s\"",
						ec_placement_name(server)),
				 errdetail_internal("%s", ec_state_error(server)),
				 errhint("The transaction is rolled back because echocache.fallback is off.")));
	ec_outbox_lock(ec_placement_name(server));
}

/*
 * Note the batch's keys that are not confirmed in the outbox of this server,
 * which is DOWN.  Above a limit, all documents of the tables instead.
 */
static void
note_keys(EcRequest *reqs, int n, int server)
{
	const char *name = ec_placement_name(server);

	if (ec_state_all_noted(server) || outbox_keys[server] < 0)
		return;
	for (int i = 0; i < n; i++)
	{
		if (reqs[i].server != server || reqs[i].result != EC_FAILED)
			continue;
		if (++outbox_keys[server] > EC_OUTBOX_KEYS)
		{
			for (int d = 0; d < ntouched; d++)
				ec_outbox_add(name, atts[d].att->name, NULL, 0);
			outbox_keys[server] = -1;
			return;
		}
		ec_outbox_add(name, reqs[i].arg, reqs[i].key, reqs[i].keylen);
	}
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
	for (int d = 0; d < ntouched; d++)
	{
		EcAttachment *att = atts[d].att;
		int			first = used;

		for (int i = 0; i < list->n; i++)
		{
			FenceKey   *key = &list->keys[i];

			if (key->att != d || !key->store || ec_state_of(key->server) == EC_DOWN)
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
				if (list->keys[i].att == d)
					list->keys[i].row = NULL;
		}
	}
}

/* All that step C will need. */
static void
prepare_step_c(FenceKey *keys, int n)
{
	step_c = palloc0(n * sizeof(EcRequest));
	step_c_doc = palloc(n * sizeof(int));
	for (int i = 0; i < n; i++)
	{
		FenceKey   *key = &keys[i];
		EcAttachment *att = atts[key->att].att;
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
		step_c_doc[step_c_n++] = key->att;
	}
}

/*
 * Purge every key of a document from all servers; *removed is how many there
 * were.  The caller holds the class in invalidate mode and has entered the
 * topology.  A server that cannot do it is DOWN, and with note its outbox gets a
 * row for the whole document.  Returns whether all have done it.
 *
 * If there is a newer topology no server of this one is DOWN any more, or waited for:
 * all of the newer one are purged after we have left.  A row is for those of both, should we
 * be a detach, after which the purge does not know the document.
 */
bool
ec_invalidate_all(const char *name, int64 *removed, bool note)
{
	char		head[EC_PREFIX_MAX + EC_NAME_MAX + 2];
	bool		all = true;
	List	   *heads;

	head[ec_key_head(head, ec_placement_prefix(), name)] = '\0';
	heads = list_make1(head);
	for (int i = 0; i < ec_placement_size(); i++)
	{
		bool		locked = false;
		bool		give_up = false;

		for (;;)
		{
			if (ec_state_of(i) != EC_DOWN)
			{
				if (ec_purge(i, heads, removed))
					break;
				/* if it did not fail, it does not tell its keys: that is as bad */
				ec_state_down(ec_placement_generation(), i, ec_exchange_last_failure(NULL));
			}
			else if (locked || (!note && ec_guc_fallback))
				give_up = true;
			else
			{
				lock_outbox(i);
				locked = true;
			}
			if (give_up || !ec_topology_is_current(ec_placement_generation()))
			{
				all = false;
				if (note)
					ec_outbox_add(ec_placement_name(i), name, NULL, 0);
				break;
			}
			CHECK_FOR_INTERRUPTS();
		}
	}
	return all;
}

/* ---------------------------------------------------------------- at the commit, and after */

/*
 * Step C.  The change is visible, our locks are still held, the client has not
 * heard of it.  An ERROR here would be a PANIC: nothing throws or allocates.
 *
 * A commit that is not flushed yet (synchronous_commit = off) must not be ahead
 * of the disk in the cache: its markers stay, and nobody fills one of these
 * documents before the flush.  That is published before the locks go.
 */
static void
at_commit(void)
{
	bool		flushed = !XLogNeedsFlush(XactLastCommitEnd);

	if (flushed && step_c_n > 0)
	{
		ec_waitpoint("before-store");
		ec_exchange_send(step_c, step_c_n, ec_deadline_in(ec_guc_timeout));
		for (int i = 0; i < step_c_n; i++)
			if (step_c[i].kind == EC_REQUEST_STORE && step_c[i].result == EC_DONE)
				atts[step_c_doc[i]].stored++;
	}
	for (int d = 0; d < ntouched; d++)
	{
		EcSlot *slot = atts[d].att->slot;

		if (!flushed)
			ec_slot_publish_async(slot, XactLastCommitEnd);
		ec_slot_count(slot, EC_MARKERS, atts[d].keys);
		ec_slot_count(slot, EC_WRITE_THROUGHS, atts[d].stored);
		ec_slot_count(slot, EC_INVALIDATIONS, atts[d].keys - atts[d].stored);
	}
}

/* However the transaction ended: forget it.  Never throws. */
static void
at_end(void)
{
	ec_topology_at_end(0);
	ec_warm_at_end(0);
	ec_exchange_at_xact_end();
	ec_attachment_at_xact_end();
	ec_pending_end();
	step_c = NULL;				/* it was in TopTransactionContext */
	step_c_n = 0;
	atts = NULL;
	ntouched = 0;
	slot_changes = NIL;
	fenced = false;
}

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (ec_pending_any())
				pre_commit(false);
			break;
		case XACT_EVENT_COMMIT:
			if (ec_pending_any())
				at_commit();
			ec_slot_at_commit();
			at_end();
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (ec_pending_any())
				pre_commit(true);
			break;
		case XACT_EVENT_ABORT:
			ec_slot_at_subend(1, false);
			at_end();
			break;
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			at_end();
			break;
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
			break;
	}
}

static void
subxact_callback(SubXactEvent event, SubTransactionId mySubid,
				 SubTransactionId parentSubid, void *arg)
{
	switch (event)
	{
		case SUBXACT_EVENT_COMMIT_SUB:
			ec_pending_subcommit(GetCurrentTransactionNestLevel());
			ec_slot_at_subend(GetCurrentTransactionNestLevel(), true);
			break;
		case SUBXACT_EVENT_ABORT_SUB:
			ec_pending_subabort(GetCurrentTransactionNestLevel());
			ec_slot_at_subend(GetCurrentTransactionNestLevel(), false);
			ec_topology_at_end(GetCurrentTransactionNestLevel());
			ec_warm_at_end(GetCurrentTransactionNestLevel());
			break;
		case SUBXACT_EVENT_START_SUB:
		case SUBXACT_EVENT_PRE_COMMIT_SUB:
			break;
	}
}
