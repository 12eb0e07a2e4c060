/*-------------------------------------------------------------------------
 *
 * fill.c
 *	  Fills: read the table, and store what it says.
 *
 * A fill holds the key in store mode from before its marker to after its store, so that no
 * writer of the document is between its marker and its end meanwhile.  The fill's snapshot is
 * taken under that lock, after the marker: a writer that ended before the lock was taken is in
 * the snapshot, and a writer that comes later sets a marker of its own.  Whatever happens to
 * the fill's requests on the way, its store succeeds only over its own marker.
 *
 * The locks of a fill are taken without waiting and released at once.  A reader that cannot
 * have them reads the table and stores nothing.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"

#include "attachments/attachment.h"
#include "attachments/configuration.h"
#include "attachments/slot.h"
#include "commit/locks.h"
#include "commit/pending.h"
#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "read/build.h"
#include "read/fetch.h"
#include "read/fill.h"
#include "read/hit.h"
#include "read/owner.h"
#include "read/permission.h"
#include "read/render.h"
#include "read/usercode.h"
#include "servers/exchange.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"
#include "waitpoint.h"

/* Documents that one call fills: each takes a lock, of which there are not many. */
#define FILL_MAX		500

typedef enum FillLock
{
	FILL_LOCKED,				/* the attachment lock and the key's are held */
	FILL_BUSY,					/* somebody else is about to store */
	FILL_NO						/* not now */
} FillLock;

/* What ec_fill_read() works on. */
typedef struct Fill
{
	EcAttachment *att;
	EcItem	   *items;
	int			n;
	EcRequest  *reqs;			/* one for each item */
	EcRow	   *rows;			/* one for each item that is not DONE, in order */
	EcItem	  **wanted;			/* of each row, its item */
	int			nrows;
	int			fills;			/* items that are locked for filling */
	EcPatience *patience;
} Fill;

static bool may_fill(EcAttachment *att);
static FillLock lock_item(EcAttachment *att, EcItem *item);
static void unlock_item(EcAttachment *att, EcItem *item);
static void unlock_fills(Fill *fill);
static void lock_or_await(EcAttachment *att, EcItem *item, bool alone, const EcOwner *owner,
						  EcPatience *patience);
static void begin_fill(Fill *fill);
static void set_markers(Fill *fill);
static void fetch_rows(Fill *fill, bool as_owner);
static void read_outside(Fill *fill, bool as_owner);
static void take_row(EcAttachment *att, EcItem *item, const EcRow *row, const char *owner);
static void prepare_store(EcAttachment *att, EcItem *item, const EcRow *row, EcRequest *req);
static int	store_fills(Fill *fill);
static void lock_table(Oid relid);

/* No fill in recovery, nor in a transaction that has written anything, nor ahead of the disk. */
static bool
may_fill(EcAttachment *att)
{
	return att->slot != NULL && !att->suspended && !RecoveryInProgress() &&
		!TransactionIdIsValid(GetTopTransactionIdIfAny()) && ec_build_may_store(att);
}

/*
 * Take the attachment lock in share mode and the key's in store mode, neither with waiting.
 * FILL_LOCKED: both are held; else none is.
 */
static FillLock
lock_item(EcAttachment *att, EcItem *item)
{
	FillLock	result = FILL_NO;

	Assert(ec_topology_is_entered());
	if (!ec_locks_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE, false))
		return FILL_NO;			/* a bulk writer is at work */
	if (ec_locks_key(item->hash, EC_LOCK_STORE, false))
	{
		/*
		 * Both are looked at under the locks.  G4: a writer that published an unflushed commit
		 * did so before it released the key.  And whoever has changed the attachment has done
		 * so under the attachment lock.
		 */
		if (ec_slot_is_flushed(att->slot) && ec_attachment_by_name(att->name) == att)
			return FILL_LOCKED;
		ec_locks_release_key(item->hash, EC_LOCK_STORE);
	}
	else if (ec_locks_key(item->hash, EC_LOCK_INVALIDATE, false))
	{
		/* invalidators only, perhaps a transaction that is prepared for hours: do not wait */
		ec_locks_release_key(item->hash, EC_LOCK_INVALIDATE);
	}
	else
		result = FILL_BUSY;
	ec_locks_release_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE);
	return result;
}

/* Release the two locks that lock_item() has taken. */
static void
unlock_item(EcAttachment *att, EcItem *item)
{
	ec_locks_release_key(item->hash, EC_LOCK_STORE);
	ec_locks_release_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE);
}

/* Give up all fills: the table is to answer, and nothing is stored. */
static void
unlock_fills(Fill *fill)
{
	for (int i = 0; i < fill->n; i++)
	{
		if (fill->items[i].state != EC_ITEM_FILL)
			continue;
		unlock_item(fill->att, &fill->items[i]);
		fill->items[i].state = EC_ITEM_TABLE;
	}
	ec_slot_count(fill->att->slot, EC_FILLS_REFUSED, fill->fills);
	fill->fills = 0;
}

/*
 * Lock an item that may be filled: FILL where that succeeds, else TABLE.  If the item is
 * alone and somebody else is about to store it, wait for that; DONE, if the cache has the
 * document then.
 */
static void
lock_or_await(EcAttachment *att, EcItem *item, bool alone, const EcOwner *owner,
			  EcPatience *patience)
{
	EcDeadline	deadline = ec_deadline_in(ec_guc_fill_wait);
	FillLock	lock = FILL_NO;
	bool		waited = false;
	int			delay = 1;

	while (ec_hit_time_is_left(patience) && (lock = lock_item(att, item)) == FILL_BUSY &&
		   alone && ec_deadline_left(deadline) > 0)
	{
		ec_deadline_nap(Min(delay, ec_deadline_left(deadline)));
		delay = Min(delay * 2, 20);
		waited = true;
		/* fill_wait bounds how often the cache is asked, and each question has its own time */
		patience->spent_us = 0;
		ec_hit_ask(att, item, 1, owner, patience);
		if (item->state != EC_ITEM_ASK)
			return;
	}
	if (lock == FILL_LOCKED && waited)
	{
		/* the one that was waited for has probably just stored it */
		ec_hit_ask(att, item, 1, owner, patience);
		if (item->state != EC_ITEM_ASK)
		{
			unlock_item(att, item);
			return;
		}
	}
	item->state = lock == FILL_LOCKED ? EC_ITEM_FILL : EC_ITEM_TABLE;
	ec_slot_count(att->slot, EC_FILLS_REFUSED, lock == FILL_LOCKED ? 0 : 1);
}

/*
 * Lock what is still in state ASK for filling: FILL where that succeeds, else TABLE.
 *
 * A single item whose key is held by somebody who is about to store is waited for, at most
 * fill_wait, by looking again from time to time and outside the lock's queue: DONE, if that
 * brings it.  So of many readers that miss one document, one builds it.
 *
 * The topology is entered.  Returns whether any item is to be filled.  Throws what an exchange
 * and CHECK_FOR_INTERRUPTS throw.
 */
bool
ec_fill_lock(EcAttachment *att, EcItem *items, int n, const EcOwner *owner,
			 EcPatience *patience)
{
	bool		may = may_fill(att);
	int			fills = 0;

	Assert(ec_topology_is_entered());
	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];

		if (item->state != EC_ITEM_ASK)
			continue;
		ec_slot_count(att->slot, EC_MISSES, 1);
		if (may && fills < FILL_MAX)
			lock_or_await(att, item, n == 1, owner, patience);
		else
		{
			item->state = EC_ITEM_TABLE;
			ec_slot_count(att->slot, EC_FILLS_REFUSED, 1);
		}
		fills += item->state == EC_ITEM_FILL;
	}
	return fills > 0;
}

/* List the rows that are wanted, and count the fills. */
static void
begin_fill(Fill *fill)
{
	fill->reqs = palloc(fill->n * sizeof(EcRequest));
	fill->rows = palloc(fill->n * sizeof(EcRow));
	fill->wanted = palloc(fill->n * sizeof(EcItem *));
	for (int i = 0; i < fill->n; i++)
	{
		EcItem	   *item = &fill->items[i];

		ec_hit_request(&fill->reqs[i], EC_REQUEST_MARK, item);
		fill->reqs[i].skip = item->state != EC_ITEM_FILL;
		fill->fills += item->state == EC_ITEM_FILL;
		if (item->state == EC_ITEM_DONE)
			continue;
		fill->wanted[fill->nrows] = item;
		fill->rows[fill->nrows++].id = item->id;
	}
}

/* Set the fills' markers, and learn their tokens; an item whose marker failed has none. */
static void
set_markers(Fill *fill)
{
	ec_waitpoint("fill-locked");
	(void) ec_hit_exchange(fill->patience, fill->reqs, fill->n);
	ec_slot_count(fill->att->slot, EC_MARKERS, fill->fills);
	for (int i = 0; i < fill->n; i++)
		fill->items[i].token = fill->reqs[i].result == EC_DONE ? fill->reqs[i].token : 0;
	ec_waitpoint("fill-marked");
}

/*
 * Read the rows, after the markers are set, by a fresh snapshot.  In REPEATABLE READ and
 * above, where nothing is filled, by the transaction's own; in a parallel worker, by the
 * active one.
 *
 * The owner's code runs under the locks of the fills, so it waits for no lock for long.  If it
 * would have to, somebody has locked what the code reads, and may be waiting for us: then the
 * fills are given up, and the rows are read again without our locks.
 */
static void
fetch_rows(Fill *fill, bool as_owner)
{
	EcAttachment *att = fill->att;
	Snapshot	snapshot;

	if (!IsInParallelMode())
		CommandCounterIncrement();
	if (fill->fills > 0 && ec_usercode_runs(att))
	{
		if (ec_fetch_guarded(att, fill->rows, fill->nrows, false))
			return;
		unlock_fills(fill);
	}
	if (IsInParallelMode())
		snapshot = GetActiveSnapshot();
	else if (IsolationUsesXactSnapshot())
		snapshot = GetTransactionSnapshot();
	else
		snapshot = GetLatestSnapshot();
	Assert(fill->fills == 0 || as_owner);
	ec_fetch(att, fill->rows, fill->nrows, snapshot, as_owner);
}

/*
 * Read the rows, and be in the topology again if the fills are to go on.  It is left
 * meanwhile: the owner's code may take its time, and everybody waits for whoever is in an
 * older generation.  In another generation the fills are given up; in the same one it is as if
 * it had not been left.
 */
static void
read_outside(Fill *fill, bool as_owner)
{
	uint64		generation;

	if (fill->fills == 0)
	{
		fetch_rows(fill, as_owner);
		return;
	}
	generation = ec_placement_generation();
	ec_topology_leave();
	fetch_rows(fill, as_owner);
	(void) ec_placement_enter_always();
	if (fill->fills > 0 && ec_placement_generation() != generation)
		unlock_fills(fill);
}

/*
 * Hand a row's document to its item, unless the caller asks for another owner's.  Throws
 * 21000 if several rows have the id, and 40001 if only this transaction's old snapshot
 * shows several.
 */
static void
take_row(EcAttachment *att, EcItem *item, const EcRow *row, const char *owner)
{
	if (row->matches > 1 && IsolationUsesXactSnapshot() &&
		ec_pending_has(att->relid, item->id, (int) strlen(item->id)))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access to document \"%s\" with %s \"%s\"",
						att->name, NameStr(att->key.name), item->id),
				 errdetail("Others have deleted its row after this transaction's snapshot, "
						   "which still shows it beside the one that was inserted here."),
				 errhint("The transaction might succeed if retried.")));
	if (row->matches > 1)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("document \"%s\" has more than one row with %s \"%s\"",
						att->name, NameStr(att->key.name), item->id),
				 errhint("The key column of an attached table must be unique.")));
	if (row->matches == 1 &&
		(owner == NULL || (row->owner && strcmp(row->owner, owner) == 0)))
		item->json = row->json;
}

/*
 * The request that replaces a fill's marker, whose token is known: by the document, or by
 * nothing.  A document is stored while the keys are ours only.
 */
static void
prepare_store(EcAttachment *att, EcItem *item, const EcRow *row, EcRequest *req)
{
	const char *value = NULL;
	size_t		len = 0;
	bool		store = ec_state_is_owned(ec_placement_generation(), item->server) &&
		ec_render_cacheable(row, &value, &len) &&
		ec_placement_fits(item->server, item->keylen, len);

	ec_hit_request(req, store ? EC_REQUEST_STORE : EC_REQUEST_REMOVE, item);
	if (!store)
		return;					/* a value behind a removal would be taken for requests */
	req->value = value;
	req->valuelen = len;
	req->ttl = ec_request_ttl(ec_attachment_ttl(att));
}

/*
 * Send the stores and removals, and release the locks.  When little time is left they are
 * sent without waiting: they carry tokens, so they may as well come late.  Returns how many
 * documents were stored.
 */
static int
store_fills(Fill *fill)
{
	int			stored = 0;
	int			refused = 0;

	ec_waitpoint("fill-read");
	if (ec_hit_time_is_left(fill->patience))
		(void) ec_hit_exchange(fill->patience, fill->reqs, fill->n);
	else
		ec_exchange_send(fill->reqs, fill->n, ec_deadline_in(ec_guc_timeout / 4));
	for (int i = 0; i < fill->n; i++)
	{
		if (fill->items[i].state != EC_ITEM_FILL)
			continue;
		if (fill->reqs[i].kind == EC_REQUEST_STORE && fill->reqs[i].result == EC_DONE)
			stored++;
		else if (fill->items[i].json != NULL)
			refused++;
		unlock_item(fill->att, &fill->items[i]);
	}
	ec_slot_count(fill->att->slot, EC_FILLS, stored);
	ec_slot_count(fill->att->slot, EC_FILLS_REFUSED, refused);
	return stored;
}

/*
 * Read from the table what is in state TABLE or FILL; store the latter, and release their
 * locks.  With as_owner the table's owner reads.  If there are items in state FILL the
 * topology is entered.  Returns how many documents were stored.
 *
 * Throws what a query, the builder, an exchange and take_row() throw.  The locks then go with
 * the (sub)transaction, and the markers are left for the next fill.
 */
int
ec_fill_read(EcAttachment *att, EcItem *items, int n, const char *owner, bool as_owner,
			 EcPatience *patience)
{
	Fill		fill = {.att = att,.items = items,.n = n,.patience = patience};
	int			stored = 0;

	begin_fill(&fill);
	Assert(fill.fills == 0 || ec_topology_is_entered());
	if (fill.nrows == 0)
		return 0;
	if (fill.fills > 0)
		set_markers(&fill);
	read_outside(&fill, as_owner);
	for (int r = 0; r < fill.nrows; r++)
	{
		EcItem	   *item = fill.wanted[r];
		EcRequest  *req = &fill.reqs[item - items];

		take_row(att, item, &fill.rows[r], owner);
		req->skip = true;
		if (item->state == EC_ITEM_FILL && item->token != 0)
			prepare_store(att, item, &fill.rows[r], req);
	}
	if (fill.fills > 0)
		stored = store_fills(&fill);
	pfree(fill.reqs);
	pfree(fill.rows);
	pfree(fill.wanted);
	return stored;
}

/* Lock this table, its partitions and their indexes, for reading. */
static void
lock_table(Oid relid)
{
	ListCell   *lc;

	LockRelationOid(relid, AccessShareLock);
	foreach(lc, get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE
			? find_all_inheritors(relid, AccessShareLock, NULL) : list_make1_oid(relid))
	{
		Relation	rel = try_relation_open(lfirst_oid(lc), NoLock);
		ListCell   *li;

		if (rel == NULL)
			continue;
		foreach(li, RelationGetIndexList(rel))
			LockRelationOid(lfirst_oid(li), AccessShareLock);
		relation_close(rel, NoLock);
	}
}

/*
 * Lock everything that the document's query will lock, as far as that is known.  A fill must
 * not wait for any of it while it holds a lock of the fence: somebody else may have locked a
 * partition or an index and, at its commit, wait for that lock of the fence.  The caller holds
 * no lock of the fence.  Waits, and throws what waiting for a lock throws.
 */
void
ec_fill_lock_tables(EcAttachment *att)
{
	ListCell   *lc;

	lock_table(att->relid);
	foreach(lc, att->dependents)
		lock_table(((EcDependent *) lfirst(lc))->relid);
}

/*
 * Before a fill: lock the tables, as any query does, then enter the topology again.  Waiting
 * for a table may take long, so the topology must not be entered and no lock of the fence be
 * held meanwhile.
 *
 * *att is looked up again.  Returns false if the attachment or the topology has changed; then
 * nothing is entered, the caller's permission is checked for what is attached now, and the
 * table is to answer.  Throws 42704 if the attachment is gone, and what
 * ec_permission_check() throws.
 */
bool
ec_fill_enter(EcAttachment **att, EcItem *items, int n)
{
	EcAttachment *before = *att;
	uint64		generation = ec_placement_generation();

	ec_fill_lock_tables(before);
	*att = ec_attachment_require(before->name);
	if (*att == before && ec_placement_enter())
	{
		if (ec_placement_generation() == generation)
			return true;
		ec_topology_leave();
	}
	ec_permission_check(*att);
	for (int i = 0; i < n; i++)
		if (items[i].state == EC_ITEM_ASK)
			items[i].state = EC_ITEM_TABLE;
	return false;
}
