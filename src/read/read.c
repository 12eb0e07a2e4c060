/*-------------------------------------------------------------------------
 *
 * read.c
 *	  The read path: the cache, a fill, or the table alone.
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

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "utils/rls.h"

#include "attachments/attachment.h"
#include "attachments/column.h"
#include "attachments/configuration.h"
#include "attachments/slot.h"
#include "net/request.h"
#include "protocol/wire.h"
#include "read/fill.h"
#include "read/hit.h"
#include "read/owner.h"
#include "read/permission.h"
#include "read/read.h"
#include "servers/placement.h"
#include "servers/topology.h"
#include "shmem.h"

static bool bypass_all(EcAttachment *att, EcItem *items, int n, bool *as_owner);
static bool one_item(EcAttachment *att, const char *id, EcItem *item);

/*
 * Where nobody may be answered from the cache: count why, mark all items, and
 * say whether the table's owner may read for us (not under row security).
 */
static bool
bypass_all(EcAttachment *att, EcItem *items, int n, bool *as_owner)
{
	EcCounter	why;

	*as_owner = true;
	if (check_enable_rls(att->relid, InvalidOid, true) == RLS_ENABLED)
	{
		*as_owner = false;
		why = EC_BYPASS_ROW_SECURITY;
	}
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

/*
 * Read n documents with distinct ids; with an owner, his only.  Throws what SQL
 * throws for the table (privileges first), and with fallback = off a cache that
 * is not there.
 */
void
ec_read(const char *name, EcItem *items, int n, const char *owner_text)
{
	EcAttachment *att = ec_attachment_require(name);
	EcOwner		owner;
	bool		as_owner;
	bool		entered = false;
	EcPatience	patience = {0};

	ec_permission_check(att);
	ec_owner_make(att, owner_text, &owner);
	for (int i = 0; i < n; i++)
		items[i].json = NULL;
	if (!bypass_all(att, items, n, &as_owner))
	{
		bool		done = true;

		ec_hit_classify(att, items, n);
		ec_hit_ask(att, items, n, &owner, &patience);
		for (int i = 0; i < n; i++)
			done &= items[i].state == EC_ITEM_DONE;
		ec_topology_leave();
		if (done)
			return;
		entered = ec_fill_enter(&att, items, n);
		if (entered)
			ec_fill_lock(att, items, n, &owner, &patience);
	}
	(void) ec_fill_read(att, items, n, owner.text, as_owner, &patience);
	if (entered)
		ec_topology_leave();
}

/*
 * An item for a function that changes the cache alone.  false: not here (row
 * security, a standby), or not now.
 */
static bool
one_item(EcAttachment *att, const char *id, EcItem *item)
{
	ec_permission_check(att);
	memset(item, 0, offsetof(EcItem, key));
	item->id = ec_column_canonical(att, &att->key, id);
	if (check_enable_rls(att->relid, InvalidOid, true) == RLS_ENABLED || IsInParallelMode() ||
		att->suspended || RecoveryInProgress() || !ec_placement_enter())
		return false;
	ec_hit_classify(att, item, 1);
	if (item->state == EC_ITEM_ASK)
		return true;
	ec_topology_leave();
	return false;
}

/*
 * Renew the TTL of a cached document; never stores anything.  Returns whether
 * there was one.
 */
bool
ec_read_touch(EcAttachment *att, const char *id, int64 ttl)
{
	EcItem		item;
	EcRequest	req;
	EcPatience	patience = {0};

	if (!one_item(att, id, &item))
		return false;
	ec_hit_request(&req, EC_REQUEST_TOUCH, &item);
	req.ttl = ec_request_ttl(ttl >= 0 ? ttl : ec_attachment_ttl(att));
	(void) ec_hit_exchange(&patience, &req, 1);
	ec_topology_leave();
	return req.result == EC_DONE && req.found_len != EC_MARKER_LEN;
}

/* Invalidate a document from the cache.  Returns whether there was one. */
bool
ec_read_invalidate(EcAttachment *att, const char *id)
{
	EcItem		item;
	EcRequest	reqs[2];
	EcPatience	patience = {0};
	bool		there;

	if (!one_item(att, id, &item))
		return false;
	ec_hit_request(&reqs[0], EC_REQUEST_GET, &item);
	ec_hit_request(&reqs[1], EC_REQUEST_MARK, &item);
	(void) ec_hit_exchange(&patience, reqs, 2);
	there = reqs[0].result == EC_DONE && reqs[0].found_len != EC_MARKER_LEN;
	if (reqs[1].result == EC_DONE)
	{
		item.token = reqs[1].token;
		ec_hit_request(&reqs[0], EC_REQUEST_REMOVE, &item);
		(void) ec_hit_exchange(&patience, reqs, 1);
		ec_slot_count(att->slot, EC_INVALIDATIONS, there ? 1 : 0);
	}
	ec_topology_leave();
	return there && reqs[1].result == EC_DONE;
}

/*
 * Load a document from its row into the cache, whatever is there.  Returns
 * whether it is there now; where it cannot be stored (the row is absent, the
 * transaction has written) it is invalidated.
 */
bool
ec_read_refresh(EcAttachment *att, const char *id)
{
	const EcOwner nobody = {NULL};
	EcItem		item;
	bool		stored = false;
	EcPatience	patience = {0};

	if (IsolationUsesXactSnapshot())
	{
		/* what we see may be outdated */
		(void) ec_read_invalidate(att, id);
		return false;
	}
	if (!one_item(att, id, &item))
		return false;
	ec_topology_leave();
	if (ec_fill_enter(&att, &item, 1))
	{
		ec_fill_lock(att, &item, 1, &nobody, &patience);
		if (item.state == EC_ITEM_FILL)
			stored = ec_fill_read(att, &item, 1, NULL, true, &patience) == 1;
		ec_topology_leave();
	}
	if (item.state == EC_ITEM_DONE)
		return item.json != NULL;	/* somebody else has just stored it */
	if (item.state == EC_ITEM_TABLE)
		(void) ec_read_invalidate(att, id);
	return stored;
}
