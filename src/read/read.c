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
 * Where the cache may not answer at all: count why, and leave all items to the table.
 * Returns false if it may; then the topology is entered.  *as_owner: may the table's owner
 * read for the caller?  Not under row-level security.
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
 * Read n documents with distinct ids; with an owner, only documents of that owner.  Throws
 * what SQL throws for the table, privileges first, and with fallback = off 08006 if the cache
 * is not there.  Expects no lock; leaves those that a query leaves, and no entry in the
 * topology.
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
	{
		items[i].json = NULL;
		ec_hit_show(att, &items[i]);
	}
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
		if (entered && !ec_fill_lock(att, items, n, &owner, &patience))
		{
			/* the owner's code may run now, and nobody is to wait for it */
			ec_topology_leave();
			entered = false;
		}
	}
	(void) ec_fill_read(att, items, n, owner.text, as_owner, &patience);
	if (entered)
		ec_topology_leave();
}

/*
 * An item for a function that changes only the cache.  Returns true with the topology
 * entered; false: not for this role or on this server (row-level security, a standby), or not
 * now.  Throws what ec_permission_check() and the type of the id throw.
 */
static bool
one_item(EcAttachment *att, const char *id, EcItem *item)
{
	ec_permission_check(att);
	memset(item, 0, offsetof(EcItem, key));
	item->id = ec_column_canonical(att, &att->key, id);
	ec_hit_show(att, item);
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
 * Renew the lifetime of a cached document; -1: to that of the attachment.  Never stores
 * anything.  Returns whether there was a document.  Throws as one_item() does.
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
	EcPatience	patience = {0};

	if (IsolationUsesXactSnapshot())
	{
		/* what this transaction sees may be outdated */
		(void) ec_read_invalidate(att, id);
		return false;
	}
	if (!one_item(att, id, &item))
		return false;
	ec_topology_leave();
	if (ec_fill_enter(&att, &item, 1))
	{
		if (ec_fill_lock(att, &item, 1, &nobody, &patience))
			stored = ec_fill_read(att, &item, 1, NULL, true, &patience) == 1;
		ec_topology_leave();
	}
	if (item.state == EC_ITEM_DONE)
		return item.json != NULL;	/* somebody else has just stored it */
	if (item.state == EC_ITEM_TABLE)
		(void) ec_read_invalidate(att, id);
	return stored;
}
