/*-------------------------------------------------------------------------
 *
 * fill.c
 *	  Fills: read the table, and store what it says.
 *
 * A read takes what a server that is UP holds; everything else comes from the
 * table.  What a cache holds never raises an error: bytes that are not a document
 * of ours are a miss, and are invalidated.
 *
 * A fill holds the key in store mode from before its marker to after its store,
 * so that no writer of the document is between its marker and its end; its
 * snapshot is taken under the lock, after the marker.  Whatever happens to its
 * requests on the way, the store succeeds only over that marker.  The locks of a
 * fill are conditional, and released at once.
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
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
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
#include "servers/exchange.h"
#include "servers/placement.h"
#include "servers/topology.h"
#include "shmem.h"
#include "waitpoint.h"

/* Documents that one call fills: each takes a lock, of which there are not many. */
#define EC_FILL_MAX		500

typedef enum FillLock
{
	FILL_LOCKED,				/* class and key are ours */
	FILL_BUSY,					/* somebody else is about to store */
	FILL_NO						/* not now */
} FillLock;

static bool may_fill(EcAttachment *att);
static FillLock lock_item(EcAttachment *att, EcItem *item);
static void unlock_item(EcAttachment *att, EcItem *item);
static void unlock_fills(EcAttachment *att, EcItem *items, int n);
static void lock_table(Oid relid);

/* No fill in recovery, nor in a transaction that has written anything, nor ahead of the disk. */
static bool
may_fill(EcAttachment *att)
{
	return att->slot != NULL && !att->suspended && !RecoveryInProgress() &&
		!TransactionIdIsValid(GetTopTransactionIdIfAny()) && ec_build_may_store(att);
}

/* Take the class in share mode and the key in store mode, neither with waiting. */
static FillLock
lock_item(EcAttachment *att, EcItem *item)
{
	FillLock	result = FILL_NO;

	if (!ec_locks_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE, false))
		return FILL_NO;			/* a bulk writer is at work */
	if (ec_locks_key(item->hash, EC_LOCK_STORE, false))
	{
		/*
		 * G4: read under the lock, so that who published before us is seen; likewise
		 * who has changed what we know of the document
		 */
		if (ec_slot_is_flushed(att->slot) && ec_attachment_by_name(att->name) == att)
			return FILL_LOCKED;
		ec_locks_release_key(item->hash, EC_LOCK_STORE);
	}
	else if (ec_locks_key(item->hash, EC_LOCK_INVALIDATE, false))
	{
		/* invalidators only, perhaps a prepared transaction for hours: do not wait */
		ec_locks_release_key(item->hash, EC_LOCK_INVALIDATE);
	}
	else
		result = FILL_BUSY;		/* somebody is about to store */
	ec_locks_release_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE);
	return result;
}

static void
unlock_item(EcAttachment *att, EcItem *item)
{
	ec_locks_release_key(item->hash, EC_LOCK_STORE);
	ec_locks_release_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE);
}

/* Give up all fills: the table is to answer. */
static void
unlock_fills(EcAttachment *att, EcItem *items, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (items[i].state != EC_ITEM_FILL)
			continue;
		unlock_item(att, &items[i]);
		items[i].state = EC_ITEM_TABLE;
	}
}

/*
 * Lock what is still in state ASK for filling: FILL where that succeeds, else
 * TABLE.  A single item whose key is held by somebody who is about to store is
 * waited for, by looking again from time to time and outside the lock's queue:
 * DONE, if that brings it.  So of many who miss a document, one builds it.
 */
void
ec_fill_lock(EcAttachment *att, EcItem *items, int n, const EcOwner *owner,
			 EcPatience *patience)
{
	bool		fill = may_fill(att);
	EcDeadline	deadline = ec_deadline_in(ec_guc_fill_wait);
	int			delay = 1;
	int			fills = 0;

	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];
		FillLock	lock = FILL_NO;
		bool		waited = false;

		if (item->state != EC_ITEM_ASK)
			continue;
		ec_slot_count(att->slot, EC_MISSES, 1);
		while (fill && fills < EC_FILL_MAX && ec_hit_time_is_left(patience) &&
			   (lock = lock_item(att, item)) == FILL_BUSY && n == 1 &&
			   ec_deadline_left(deadline) > 0)
		{
			ec_deadline_nap(Min(delay, ec_deadline_left(deadline)));
			delay = Min(delay * 2, 20);
			waited = true;
			patience->spent_us = 0;		/* how often is bounded by fill_wait, each by its own time */
			ec_hit_ask(att, item, 1, owner, patience);
			if (item->state != EC_ITEM_ASK)
				break;
		}
		if (lock == FILL_LOCKED && waited)
			ec_hit_ask(att, item, 1, owner, patience); /* it has probably just been stored */
		if (item->state != EC_ITEM_ASK)
		{
			if (lock == FILL_LOCKED)
				unlock_item(att, item);
			continue;
		}
		item->state = lock == FILL_LOCKED ? EC_ITEM_FILL : EC_ITEM_TABLE;
		fills += lock == FILL_LOCKED;
		if (lock != FILL_LOCKED)
			ec_slot_count(att->slot, EC_FILLS_REFUSED, 1);
	}
}

/*
 * Read from the table what is in state TABLE or FILL; store the latter, and
 * release the locks.  as_owner: the table's owner reads.  Returns how many were
 * stored.
 */
int
ec_fill_read(EcAttachment *att, EcItem *items, int n, const char *owner, bool as_owner,
			 EcPatience *patience)
{
	EcRequest	   *reqs = palloc(n * sizeof(EcRequest));
	EcRow	   *rows = palloc(n * sizeof(EcRow));
	EcItem	  **wanted = palloc(n * sizeof(EcItem *));
	int			nrows = 0;
	int			fills = 0;
	int			stored = 0;
	int			refused = 0;

	for (int i = 0; i < n; i++)
	{
		ec_hit_request(&reqs[i], EC_REQUEST_MARK, &items[i]);
		reqs[i].skip = items[i].state != EC_ITEM_FILL;
		fills += !reqs[i].skip;
		if (items[i].state == EC_ITEM_DONE)
			continue;
		wanted[nrows] = &items[i];
		rows[nrows++].id = items[i].id;
	}
	if (nrows == 0)
		return 0;

	if (fills > 0)
	{
		ec_waitpoint("fill-locked");
		(void) ec_hit_exchange(patience, reqs, n);
		ec_slot_count(att->slot, EC_MARKERS, fills);
		for (int i = 0; i < n; i++)
			items[i].token = reqs[i].result == EC_DONE ? reqs[i].token : 0;
		ec_waitpoint("fill-marked");
	}

	/* a fresh snapshot, after the marker; but in REPEATABLE READ, the transaction's own */
	if (!IsInParallelMode())
		CommandCounterIncrement();
	if (fills > 0 && att->function_name &&
		ec_fetch_guarded(att, rows, nrows, false) == EC_FETCH_BLOCKED)
	{
		/* somebody has locked what the function reads, and may wait for us: no fill */
		unlock_fills(att, items, n);
		ec_slot_count(att->slot, EC_FILLS_REFUSED, fills);
		fills = 0;
	}
	if (fills == 0 || !att->function_name)
		ec_fetch(att, rows, nrows, IsInParallelMode() ? GetActiveSnapshot() :
						  IsolationUsesXactSnapshot() ? GetTransactionSnapshot() :
						  GetLatestSnapshot(), as_owner);

	for (int r = 0; r < nrows; r++)
	{
		EcItem	   *item = wanted[r];
		EcRequest	   *req = &reqs[item - items];

		if (rows[r].matches > 1 && IsolationUsesXactSnapshot() &&
			ec_pending_has(att->relid, item->id, (int) strlen(item->id)))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access to document \"%s\" with %s \"%s\"",
							att->name, NameStr(att->key.name), item->id),
					 errdetail("Others have deleted its row after this transaction's snapshot, "
							   "which still shows it beside the one that was inserted here."),
					 errhint("The transaction might succeed if retried.")));
		if (rows[r].matches > 1)
			ereport(ERROR,
					(errcode(ERRCODE_CARDINALITY_VIOLATION),
					 errmsg("document \"%s\" has more than one row with %s \"%s\"",
							att->name, NameStr(att->key.name), item->id),
					 errhint("The key column of an attached table must be unique.")));
		if (rows[r].matches == 1 &&
			(owner == NULL || (rows[r].owner && strcmp(rows[r].owner, owner) == 0)))
			item->json = rows[r].json;

		req->skip = true;
		if (item->state == EC_ITEM_FILL && item->token != 0)
		{
			const char *value = NULL;
			size_t		len = 0;
			bool		store = ec_render_cacheable(&rows[r], &value, &len) &&
				ec_placement_fits(item->server, item->keylen, len);

			ec_hit_request(req, store ? EC_REQUEST_STORE : EC_REQUEST_REMOVE, item);
			if (!store)
				continue;		/* a value behind a removal would be taken for requests */
			req->value = value;
			req->valuelen = len;
			req->ttl = ec_request_ttl(ec_attachment_ttl(att));
		}
	}
	if (fills > 0)
	{
		ec_waitpoint("fill-read");
		if (ec_hit_time_is_left(patience))
			(void) ec_hit_exchange(patience, reqs, n);
		else
			ec_exchange_send(reqs, n, ec_deadline_in(ec_guc_timeout / 4));	/* it may as well come late */
		for (int i = 0; i < n; i++)
		{
			if (items[i].state != EC_ITEM_FILL)
				continue;
			if (reqs[i].kind == EC_REQUEST_STORE && reqs[i].result == EC_DONE)
				stored++;
			else if (items[i].json != NULL)
				refused++;
			unlock_item(att, &items[i]);
		}
		ec_slot_count(att->slot, EC_FILLS, stored);
		ec_slot_count(att->slot, EC_FILLS_REFUSED, refused);
	}
	pfree(reqs);
	pfree(rows);
	pfree(wanted);
	return stored;
}

/* This table, its partitions and their indexes, for reading. */
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
 * All that the document's query will lock, as far as we know, so that it waits for
 * none of it while we hold a lock of ours, whose holder others may wait for: somebody
 * who has locked a partition or an index, and then commits.
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
 * A fill reads the table, so it takes the table's lock as any query does; that
 * may take long, and nothing else is held meanwhile.  Then enter the topology
 * again.  false: what we knew of the document or the servers has changed; nothing
 * is entered, the table is to answer.
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
