/*-------------------------------------------------------------------------
 *
 * fill.c
 *	  Fills: read the table, and store what it says.
 *
 * A fill sets a marker, reads the row, and stores the document by the marker's token.  It holds
 * the key in store mode while it sets the marker, and no longer: then no writer of the document
 * is between its own marker and its end.  A writer that ended before is in the fill's snapshot,
 * which is taken afterwards.  One that comes later sets a marker of its own before its change is
 * visible, and the fill's store finds another token.  So the document may take as long to make
 * as it likes, with no lock that a writer ever looks at, and outside of the topology.  (The
 * model: fence.pml.)
 *
 * That many readers do not make one document at the same time is a lock of its own, which fills
 * alone take.  It is not waited for in its queue; who finds it taken looks from time to time
 * whether it is free, and into the cache then.  A document whose key is a writer's is not waited
 * for: the table answers.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "utils/snapmgr.h"

#include "attachments/attachment.h"
#include "attachments/configuration.h"
#include "attachments/slot.h"
#include "attachments/storage.h"
#include "commit/locks.h"
#include "commit/pending.h"
#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "read/build.h"
#include "read/entries.h"
#include "read/fetch.h"
#include "read/fill.h"
#include "read/hit.h"
#include "read/local.h"
#include "read/owner.h"
#include "read/permission.h"
#include "read/render.h"
#include "read/turn.h"
#include "servers/exchange.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"
#include "waitpoint.h"

/* Documents that one call fills: each takes two locks, of which there are not many. */
#define FILL_MAX		500

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
	EcPatience *patience;
} Fill;

static bool may_fill(EcAttachment *att);
static void give_up(EcAttachment *att, EcItem *item);
static void do_without(EcAttachment *att, EcItem *item);
static int	lock_keys(EcAttachment *att, EcItem *items, int n);
static void set_markers(EcAttachment *att, EcItem *items, int n, EcPatience *patience);
static void list_rows(Fill *fill);
static bool fetch_rows(Fill *fill, bool as_owner);
static void take_row(EcAttachment *att, EcItem *item, const EcRow *row, const char *owner);
static void keep(EcAttachment *att, EcItem *item, const EcRow *row);
static void prepare_store(EcAttachment *att, EcItem *item, const EcRow *row, EcRequest *req);
static int	store_fills(Fill *fill, bool entered);

/* No fill in recovery, nor in a transaction that has written anything, nor ahead of the disk. */
static bool
may_fill(EcAttachment *att)
{
	return att->slot != NULL && !att->suspended && !RecoveryInProgress() &&
		!TransactionIdIsValid(GetTopTransactionIdIfAny()) && ec_build_may_store(att);
}

/* The item is not filled after all: the table is to answer, and nothing is stored. */
static void
give_up(EcAttachment *att, EcItem *item)
{
	ec_turn_end(att, item);
	item->state = EC_ITEM_TABLE;
	ec_slot_count(att->slot, EC_FILLS_REFUSED, 1);
}

/* The item's key is not to be had: a writer is at work, or another fill. */
static void
do_without(EcAttachment *att, EcItem *item)
{
	if (item->state == EC_ITEM_FILL)
		give_up(att, item);
	else if (item->state == EC_ITEM_AWAY)
		item->state = EC_ITEM_TABLE;
}

/*
 * Take the attachment lock in share mode and the keys of the items in state FILL, AWAY and LONE in
 * store mode, none with waiting.  Returns how many are locked; if none is, the attachment is not
 * either.
 */
static int
lock_keys(EcAttachment *att, EcItem *items, int n)
{
	bool		shared = ec_locks_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE, false);
	int			locked = 0;
	bool		may;

	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];

		if (item->state != EC_ITEM_FILL && item->state != EC_ITEM_AWAY &&
			item->state != EC_ITEM_LONE)
			continue;
		/* else a bulk writer is at work, or a writer of this document, perhaps prepared */
		item->locked = shared && ec_locks_key(item->hash, EC_LOCK_STORE, false);
		if (item->locked)
			locked++;
		else
			do_without(att, item);
	}

	/*
	 * Both are looked at under the locks.  G4: a writer that published an unflushed commit did
	 * so before it released the key.  And whoever has changed the attachment has done so under
	 * the attachment lock.
	 */
	may = locked > 0 && ec_slot_is_flushed(att->slot) && ec_attachment_by_name(att->name) == att;
	for (int i = 0; i < n && !may; i++)
	{
		if (!items[i].locked)
			continue;
		ec_locks_release_key(items[i].hash, EC_LOCK_STORE);
		items[i].locked = false;
		do_without(att, &items[i]);
	}
	if (shared && !may)
		ec_locks_release_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE);
	return may ? locked : 0;
}

/*
 * Claim the places of the locked items in the second tier, set the markers of those in state FILL,
 * learn their tokens, and release the locks.  An item whose marker failed has no token.
 */
static void
set_markers(EcAttachment *att, EcItem *items, int n, EcPatience *patience)
{
	EcRequest  *reqs = palloc(n * sizeof(EcRequest));
	int			fills = 0;

	ec_waitpoint("fill-locked");
	for (int i = 0; i < n; i++)
	{
		ec_hit_request(&reqs[i], EC_REQUEST_MARK, &items[i]);
		reqs[i].skip = items[i].state != EC_ITEM_FILL;
		fills += reqs[i].skip ? 0 : 1;
		if (items[i].locked)
			items[i].claim = ec_local_claim(att, items[i].hash);
	}
	if (fills > 0)
		(void) ec_hit_exchange(patience, reqs, n);
	ec_slot_count(att->slot, EC_MARKERS, fills);
	for (int i = 0; i < n; i++)
	{
		if (!items[i].locked)
			continue;
		items[i].token = !reqs[i].skip && reqs[i].result == EC_DONE ? reqs[i].token : 0;
		items[i].connection = reqs[i].connection;
		ec_locks_release_key(items[i].hash, EC_LOCK_STORE);
		items[i].locked = false;
	}
	ec_locks_release_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE);
	pfree(reqs);
	ec_waitpoint("fill-marked");
}

/*
 * Begin to fill what is still in state ASK: FILL where that succeeds, else TABLE.  What is
 * UNANSWERED becomes TABLE.
 *
 * A single item of either that somebody else fills is waited for, at most fill_wait, outside of the
 * lock's queue: DONE, if that brings it; LONE, if the table is to answer after all, and we are the
 * one whom others wait for.  So of many readers that miss one document, one makes it, also where so
 * many readers are too much for the server at first.
 *
 * The topology is entered.  What is in state FILL afterwards has our marker.  Returns whether any
 * item is.  The fill lock of what is FILL or LONE is held until ec_fill_read(), or, where nothing
 * is FILL, ec_fill_forgo().  Throws what an exchange and CHECK_FOR_INTERRUPTS throw.
 */
bool
ec_fill_begin(EcAttachment *att, EcItem *items, int n, const EcOwner *owner,
			  EcPatience *patience)
{
	bool		may = may_fill(att);
	bool		any = false;
	int			wanted = 0;

	Assert(ec_topology_is_entered());
	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];
		bool		unanswered = item->state == EC_ITEM_UNANSWERED;
		bool		away = item->state == EC_ITEM_AWAY;

		if (item->state != EC_ITEM_ASK && !unanswered && !away)
			continue;
		if (may && (unanswered ? n == 1 : wanted < FILL_MAX))
		{
			if (!away)
				ec_turn_take(att, item, n == 1, owner, patience);
		}
		else
		{
			item->state = EC_ITEM_TABLE;
			ec_slot_count(att->slot, EC_FILLS_REFUSED, unanswered || away ? 0 : 1);
		}
		wanted += item->state == EC_ITEM_FILL || item->state == EC_ITEM_LONE ||
			(item->state == EC_ITEM_AWAY && ec_entries_exist());
	}
	if (wanted > 0 && lock_keys(att, items, n) > 0)
		set_markers(att, items, n, patience);
	for (int i = 0; i < n; i++)
		any |= items[i].state == EC_ITEM_FILL;
	return any;
}

/* The caller does not need an item that ec_fill_begin() could not fill. */
void
ec_fill_forgo(EcAttachment *att, EcItem *item)
{
	if (item->state == EC_ITEM_LONE)
	{
		ec_turn_end(att, item);
		item->state = EC_ITEM_TABLE;
	}
}

/* List the rows that are wanted. */
static void
list_rows(Fill *fill)
{
	fill->reqs = palloc(fill->n * sizeof(EcRequest));
	fill->rows = palloc(fill->n * sizeof(EcRow));
	fill->wanted = palloc(fill->n * sizeof(EcItem *));
	for (int i = 0; i < fill->n; i++)
	{
		if (fill->items[i].state == EC_ITEM_DONE)
			continue;
		fill->wanted[fill->nrows] = &fill->items[i];
		fill->rows[fill->nrows++].id = fill->items[i].id;
	}
}

/*
 * Read the rows, after the markers are set, by a fresh snapshot.  In REPEATABLE READ and
 * above, where nothing is filled, by the transaction's own; in a parallel worker, by the
 * active one.  Returns whether what was read may be cached.
 */
static bool
fetch_rows(Fill *fill, bool as_owner)
{
	if (!IsInParallelMode())
		CommandCounterIncrement();
	if (!IsInParallelMode() && !IsolationUsesXactSnapshot())
		return ec_fetch_latest(fill->att, fill->rows, fill->nrows, as_owner);
	(void) ec_fetch(fill->att, fill->rows, fill->nrows,
					IsInParallelMode() ? GetActiveSnapshot() : GetTransactionSnapshot(),
					ec_storage_now(), as_owner);
	return false;
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

/* Put a row's document, if there is one, into the second tier, where its place was claimed. */
static void
keep(EcAttachment *att, EcItem *item, const EcRow *row)
{
	const char *value;
	size_t		len;

	if (item->claim == 0)
		return;
	if (ec_render_cacheable(row, &value, &len))
		ec_local_put(att, item->hash, item->claim, item->id, value, len,
					 ec_attachment_ttl(att), item->token != 0);
	else
		ec_local_forgo(att, item->hash, item->claim);
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
 * Send the stores and removals, if the topology is entered, and release the fill locks.  When
 * little time is left they are sent without waiting: they carry tokens, so they may as well
 * come late.  Returns how many documents were stored.
 */
static int
store_fills(Fill *fill, bool entered)
{
	int			stored = 0;
	int			refused = 0;

	if (entered && ec_hit_time_is_left(fill->patience))
		(void) ec_hit_exchange(fill->patience, fill->reqs, fill->n);
	else if (entered)
		ec_exchange_send(fill->reqs, fill->n, ec_deadline_in(ec_guc_timeout / 4));
	for (int i = 0; i < fill->n; i++)
	{
		if (fill->items[i].state != EC_ITEM_FILL)
			continue;
		if (entered && fill->reqs[i].kind == EC_REQUEST_STORE &&
			fill->reqs[i].result == EC_DONE)
			stored++;
		else if (fill->items[i].json != NULL)
			refused++;
		ec_turn_end(fill->att, &fill->items[i]);
	}
	ec_slot_count(fill->att->slot, EC_FILLS, stored);
	ec_slot_count(fill->att->slot, EC_FILLS_REFUSED, refused);
	return stored;
}

/*
 * Read from the table what is in state TABLE, LONE or FILL, and store the last, if the topology is
 * still of this generation, in which the markers were set.  With as_owner the table's owner
 * reads.  The topology is not entered.  Returns how many documents were stored.
 *
 * Throws what a query, the function, an exchange and take_row() throw.  The locks then go with
 * the (sub)transaction, and the markers are left for the next fill.
 */
int
ec_fill_read(EcAttachment *att, EcItem *items, int n, const char *owner, bool as_owner,
			 uint64 generation, EcPatience *patience)
{
	Fill		fill = {.att = att,.items = items,.n = n,.patience = patience};
	int			stored = 0;
	bool		fills = false;
	bool		cacheable;

	list_rows(&fill);
	if (fill.nrows == 0)
		return 0;
	cacheable = fetch_rows(&fill, as_owner);
	for (int r = 0; r < fill.nrows; r++)
	{
		if (cacheable)
			keep(att, fill.wanted[r], &fill.rows[r]);
		ec_fill_forgo(att, fill.wanted[r]);
		take_row(att, fill.wanted[r], &fill.rows[r], owner);
		fills |= fill.wanted[r]->state == EC_ITEM_FILL;
	}
	if (fills)
	{
		bool		entered;

		ec_waitpoint("fill-read");
		entered = cacheable && ec_placement_enter_again(generation);
		for (int i = 0; i < n; i++)
		{
			ec_hit_request(&fill.reqs[i], EC_REQUEST_REMOVE, &items[i]);
			fill.reqs[i].skip = true;
		}
		for (int r = 0; r < fill.nrows && entered; r++)
		{
			EcItem	   *item = fill.wanted[r];

			if (item->state == EC_ITEM_FILL && item->token != 0)
				prepare_store(att, item, &fill.rows[r], &fill.reqs[item - items]);
		}
		stored = store_fills(&fill, entered);
		if (entered)
			ec_topology_leave();
	}
	pfree(fill.reqs);
	pfree(fill.rows);
	pfree(fill.wanted);
	return stored;
}

/*
 * Before a fill: lock the table, then enter the topology again.  Waiting for the table may take
 * long, so neither is the topology entered nor a lock of the fence held meanwhile.
 *
 * *att is looked up again.  Returns false if the attachment or the topology has changed; then
 * nothing is entered, and the table is to answer.  If it is the attachment, that goes for what
 * the cache has answered as well: the caller may not be one who may see it.  *as_owner, and what
 * is thrown, as ec_permission_lock() says; without it nothing is filled.
 */
bool
ec_fill_enter(EcAttachment **att, EcItem *items, int n, bool *as_owner)
{
	EcAttachment *before = *att;
	uint64		generation = ec_placement_generation();

	*att = ec_permission_lock(before, as_owner);
	if (*att == before && *as_owner && ec_placement_enter())
	{
		if (ec_placement_generation() == generation)
			return true;
		ec_topology_leave();
	}
	for (int i = 0; i < n; i++)
		if (items[i].state == EC_ITEM_ASK || *att != before)
		{
			items[i].state = EC_ITEM_TABLE;
			items[i].json = NULL;
			items[i].claim = 0;
		}
	return false;
}
