/*-------------------------------------------------------------------------
 *
 * read.c
 *	  The read path: the cache, a fill, or the table alone.
 *
 * A read takes what a server that is UP holds (hit.c).  Everything else comes from the
 * table, and is stored where that is allowed (fill.c).  Whatever the cache holds or a server
 * does, a read answers what the table says, or what it said when some writer committed that
 * document last.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"

#include "attachments/attachment.h"
#include "attachments/column.h"
#include "attachments/configuration.h"
#include "attachments/latency.h"
#include "attachments/slot.h"
#include "commit/locks.h"
#include "deadline.h"
#include "net/request.h"
#include "protocol/wire.h"
#include "read/fill.h"
#include "read/hit.h"
#include "read/local.h"
#include "read/owner.h"
#include "read/permission.h"
#include "read/promote.h"
#include "read/read.h"
#include "servers/placement.h"
#include "servers/topology.h"
#include "shmem.h"

/* How long the builder waits for those who hold a key. */
#define AWAIT_MS	64

/* Of reads that the second tier answers one in so many is timed, so that it costs them nothing. */
#define LOCAL_TIMED	16

static bool bypass_all(EcAttachment *att, EcItem *items, int n);
static void count_misses(EcAttachment *att, const EcItem *items, int n);
static bool are_done(const EcItem *items, int n);
static bool may_ask(const EcItem *items, int n);
static void time_hit(EcAttachment *att, bool local, const EcPatience *patience);
static bool one_item(EcAttachment *att, const char *id, EcItem *item, bool drop);
static bool await_key(const EcItem *item);

/*
 * Where the cache may not answer at all: count why, and leave all items to the table.
 * Returns false if it may; then the topology is entered.
 */
static bool
bypass_all(EcAttachment *att, EcItem *items, int n)
{
	EcCounter	why;

	if (ec_permission_by_row(att))
		why = EC_BYPASS_ROW_SECURITY;
	else if (IsolationUsesXactSnapshot() || IsInParallelMode())
		why = EC_BYPASS_ISOLATION;
	else if (att->suspended || !ec_placement_enter())
		why = EC_BYPASS_DISABLED;
	else
		return false;
	for (int i = 0; i < n; i++)
		items[i].state = EC_ITEM_TABLE;
	ec_slot_count(att->slot, why, n);
	return true;
}

/* Count what the cache did not have. */
static void
count_misses(EcAttachment *att, const EcItem *items, int n)
{
	int			misses = 0;

	for (int i = 0; i < n; i++)
		misses += items[i].state == EC_ITEM_ASK;
	ec_slot_count(att->slot, EC_MISSES, misses);
}

/* Is there nothing left to do? */
static bool
are_done(const EcItem *items, int n)
{
	for (int i = 0; i < n; i++)
		if (items[i].state != EC_ITEM_DONE)
			return false;
	return true;
}

/* Is there anything that the cache may answer? */
static bool
may_ask(const EcItem *items, int n)
{
	for (int i = 0; i < n; i++)
		if (items[i].state == EC_ITEM_ASK)
			return true;
	return false;
}

/*
 * The cache had all of it.  Time that: memcached's last answer was the end; or, local, where it was
 * in the second tier, it is now, for one in LOCAL_TIMED such reads of this process.
 */
static void
time_hit(EcAttachment *att, bool local, const EcPatience *patience)
{
	static uint32 local_hits = 0;

	if (!local)
		ec_latency_add(att->slot, EC_LATENCY_HIT, patience->answered_at * 1000 - patience->began);
	else if ((++local_hits + (uint32) MyProcPid) % LOCAL_TIMED == 0)
		ec_latency_add(att->slot, EC_LATENCY_LOCAL_HIT, ec_deadline_clock() - patience->began);
}

/*
 * Read n documents with distinct ids; with an owner, only documents of that owner.  Throws
 * what SQL throws for the table, privileges first, and with fallback = off 08006 if the cache
 * is not there.  Expects no lock; leaves those that a query leaves, and no entry in the
 * topology.
 *
 * A read that the cache may answer is timed, once, by the last that it had to ask: the second tier,
 * memcached (until its answer is there), or the table.
 */
void
ec_read(const char *name, EcItem *items, int n, const char *owner_text)
{
	EcAttachment *att = ec_attachment_require(name);
	EcOwner		owner;
	bool		as_owner;
	bool		timed = false;
	uint64		generation = 0;
	EcPatience	patience = {0};

	ec_permission_check(att);
	ec_owner_make(att, owner_text, &owner);
	for (int i = 0; i < n; i++)
	{
		items[i].json = NULL;
		items[i].claim = 0;		/* also where the cache is not used at all */
		ec_hit_show(att, &items[i]);
	}
	if (bypass_all(att, items, n))
		att = ec_permission_lock(att, &as_owner);
	else
	{
		bool		local;

		ec_hit_begin(att, items, n);
		timed = may_ask(items, n);
		ec_hit_local(att, items, n, &owner, &patience);
		local = are_done(items, n);
		if (!local)
		{
			ec_hit_classify(att, items, n);
			ec_hit_ask(att, items, n, &owner, &patience);
			ec_promote(att, items, n, &patience);
		}
		ec_topology_leave();
		/* else it has changed, and with it perhaps what the caller may see */
		if ((local || are_done(items, n)) && ec_attachment_by_name(name) == att)
		{
			if (timed)
				time_hit(att, local, &patience);
			return;
		}
		if (ec_fill_enter(&att, items, n, &as_owner))
		{
			generation = ec_placement_generation();
			count_misses(att, items, n);
			(void) ec_fill_begin(att, items, n, &owner, &patience);
			ec_topology_leave();
		}
	}
	(void) ec_fill_read(att, items, n, owner.text, as_owner, generation, &patience);
	if (timed)
		ec_latency_add(att->slot, EC_LATENCY_FILL, ec_deadline_clock() - patience.began);
}

/*
 * An item for a function that changes only the cache.  Returns true with the topology
 * entered; false: not for this role or on this server (row-level security, a standby), or not
 * now.  With drop what the second tier has of it is dropped in any case.  Throws what
 * ec_permission_check() and the type of the id throw.
 */
static bool
one_item(EcAttachment *att, const char *id, EcItem *item, bool drop)
{
	ec_permission_check(att);
	memset(item, 0, offsetof(EcItem, key));
	item->id = ec_column_canonical(att, &att->key, id);
	ec_hit_show(att, item);
	if (ec_permission_by_row(att) || IsInParallelMode() || RecoveryInProgress())
		return false;
	if (drop)
		ec_local_drop(att, ec_locks_hash(att->relid, item->id, (int) strlen(item->id)));
	if (att->suspended || !ec_placement_enter())
		return false;
	ec_hit_begin(att, item, 1);
	ec_hit_classify(att, item, 1);
	if (item->state == EC_ITEM_ASK)
		return true;
	ec_topology_leave();
	return false;
}

/*
 * Renew the lifetime of a cached document; -1: to that of the attachment.  Never stores
 * anything.  Returns whether there was a document.  Throws as one_item() does.
 */
bool
ec_read_touch(EcAttachment *att, const char *id, int64 ttl)
{
	EcItem		item;
	EcRequest	req;
	EcPatience	patience = {0};
	int64		seconds = ttl >= 0 ? ttl : ec_attachment_ttl(att);

	if (!one_item(att, id, &item, false))
		return false;
	ec_local_renew(att, item.hash, item.id, seconds);
	ec_hit_request(&req, EC_REQUEST_TOUCH, &item);
	req.ttl = ec_request_ttl(seconds);
	(void) ec_hit_exchange(&patience, &req, 1);
	ec_topology_leave();
	return req.result == EC_DONE && req.found_len != EC_MARKER_LEN;
}

/*
 * Invalidate a document.  Returns whether there was one, and is gone.  Throws as one_item()
 * does.
 */
bool
ec_read_invalidate(EcAttachment *att, const char *id)
{
	EcItem		item;
	EcRequest	reqs[2];
	EcPatience	patience = {0};
	bool		there;

	if (!one_item(att, id, &item, true))
		return false;
	ec_hit_request(&reqs[0], EC_REQUEST_GET, &item);
	ec_hit_request(&reqs[1], EC_REQUEST_MARK, &item);
	(void) ec_hit_exchange(&patience, reqs, 2);
	/* once more: what was there until now may have been promoted meanwhile */
	ec_local_drop(att, item.hash);
	there = reqs[0].result == EC_DONE && reqs[0].found_len != EC_MARKER_LEN;
	if (reqs[1].result == EC_DONE)
	{
		item.token = reqs[1].token;
		item.connection = reqs[1].connection;
		ec_hit_request(&reqs[0], EC_REQUEST_REMOVE, &item);
		(void) ec_hit_exchange(&patience, reqs, 1);
		ec_slot_count(att->slot, EC_INVALIDATIONS, there ? 1 : 0);
	}
	ec_topology_leave();
	return there && reqs[1].result == EC_DONE;
}

/*
 * Load a document from its row into the cache, whatever is there.  Returns whether it is
 * there now.  Where it cannot be stored (the row is absent, the transaction has written) it is
 * invalidated.  Throws as ec_read() does.
 */
bool
ec_read_refresh(EcAttachment *att, const char *id)
{
	const EcOwner nobody = {NULL};
	EcItem		item;
	bool		stored = false;
	bool		as_owner;
	EcPatience	patience = {0};

	if (IsolationUsesXactSnapshot())
	{
		/* what this transaction sees may be outdated */
		(void) ec_read_invalidate(att, id);
		return false;
	}
	if (!one_item(att, id, &item, true))
		return false;
	ec_topology_leave();
	if (ec_fill_enter(&att, &item, 1, &as_owner))
	{
		uint64		generation = ec_placement_generation();
		bool		begun;

		count_misses(att, &item, 1);
		begun = ec_fill_begin(att, &item, 1, &nobody, &patience);
		ec_topology_leave();
		ec_fill_forgo(att, &item);
		stored = begun && ec_fill_read(att, &item, 1, NULL, true, generation, &patience) == 1;
	}
	if (item.state == EC_ITEM_DONE)
		return item.json != NULL;	/* somebody else has just stored it */
	if (item.state == EC_ITEM_TABLE)
		(void) ec_read_invalidate(att, id);
	return stored;
}

/*
 * Wait until nobody is about to change or store the document, outside of the lock's queue.
 * false: somebody is for long.
 */
static bool
await_key(const EcItem *item)
{
	for (int delay = 1; delay <= AWAIT_MS / 2; delay *= 2)
	{
		if (ec_locks_key(item->hash, EC_LOCK_STORE, false))
		{
			ec_locks_release_key(item->hash, EC_LOCK_STORE);
			return true;
		}
		ec_deadline_nap(delay, EC_WAIT_KEY);
	}
	return false;
}

/*
 * Load a document that a commit has changed, whose key another commit may hold for a moment.
 * Throws as ec_read() does.
 */
EcBuilt
ec_read_build(EcAttachment *att, const char *id)
{
	const EcOwner nobody = {NULL};
	EcItem		item;
	EcRequest	look;
	EcPatience	patience = {0};
	uint64		generation;
	bool		as_owner;
	bool		begun;

	if (!one_item(att, id, &item, false))
		return EC_BUILT_NOTHING;
	ec_topology_leave();
	if (!await_key(&item))
		return EC_BUILT_LATER;
	if (!ec_fill_enter(&att, &item, 1, &as_owner))
		return EC_BUILT_NOTHING;
	generation = ec_placement_generation();
	/* the commit has left a marker: a document that is there is newer */
	ec_hit_request(&look, EC_REQUEST_LOOK, &item);
	(void) ec_hit_exchange(&patience, &look, 1);
	if (look.result == EC_DONE && look.found_len != EC_MARKER_LEN)
	{
		ec_topology_leave();
		return EC_BUILT_NOTHING;
	}
	patience.answered_at = 0;	/* not asked again, which would count as somebody's hit */
	begun = ec_fill_begin(att, &item, 1, &nobody, &patience);
	ec_topology_leave();
	ec_fill_forgo(att, &item);
	if (begun)
		return ec_fill_read(att, &item, 1, NULL, true, generation, &patience) == 1
			? EC_BUILT_STORED : EC_BUILT_NOTHING;
	/* a reader has just stored it, or somebody is at it for long */
	return item.state == EC_ITEM_DONE ? EC_BUILT_NOTHING : EC_BUILT_LATER;
}
