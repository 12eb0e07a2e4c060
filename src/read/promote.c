/*-------------------------------------------------------------------------
 *
 * promote.c
 *	  From memcached into the second tier.
 *
 * What memcached has answered may be old by the time that it would be put into shared memory: a
 * writer that comes meanwhile marks only what is there.  So memcached is asked once more with the
 * key held in store mode.  Then no writer of the document is between its marker and its end, and
 * what memcached has is the newest there is.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"

#include "attachments/attachment.h"
#include "attachments/slot.h"
#include "commit/locks.h"
#include "net/request.h"
#include "read/encoding.h"
#include "read/local.h"
#include "read/promote.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "waitpoint.h"

/*
 * Documents that one call promotes.  Each takes a lock while memcached is asked, for which commits
 * wait; and a hit must not fail for want of locks, of which there are 64 for each backend.
 */
#define PROMOTE_MAX		50

static int	lock_keys(EcAttachment *att, EcItem *items, int n, EcRequest *reqs);
static void take(EcAttachment *att, EcItem *item, EcRequest *req);

/*
 * Lock the keys of what memcached has answered, none with waiting, claim their places, and prepare
 * a request for each.  Returns how many are locked.
 */
static int
lock_keys(EcAttachment *att, EcItem *items, int n, EcRequest *reqs)
{
	int			locked = 0;

	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];

		ec_hit_request(&reqs[i], EC_REQUEST_INSPECT, item);
		reqs[i].skip = !item->remote || locked == PROMOTE_MAX ||
			!ec_locks_key(item->hash, EC_LOCK_STORE, false);
		if (reqs[i].skip)
			continue;
		locked++;
		item->claim = ec_local_claim(att, item->hash);
	}
	return locked;
}

/* Put what memcached has answered under the locks, if that is a document. */
static void
take(EcAttachment *att, EcItem *item, EcRequest *req)
{
	int64		ttl = ec_attachment_ttl(att);

	if (req->result != EC_DONE)
	{
		ec_local_forgo(att, item->hash, item->claim);
		return;
	}
	/* the keys may have been somebody else's when the server answered */
	if (req->lifetime != 0 && ec_state_is_still(item->server, item->word) &&
		ec_hit_is_document(att, item, req) &&
		ec_encoding_is_utf8(VARDATA(req->found), req->found_len))
		ec_local_put(att, item->hash, item->claim, item->id, VARDATA(req->found),
					 req->found_len, req->lifetime > 0 ? req->lifetime : ttl, true);
	else
		ec_local_forgo(att, item->hash, item->claim);
	pfree(req->found);
}

/*
 * Put into the second tier what memcached has just answered, as far as it is worth it.  Where a
 * lock is not to be had, or there is no room, nothing happens.  The topology is entered.  Throws
 * what an exchange, and the key's type, throw.
 */
void
ec_promote(EcAttachment *att, EcItem *items, int n, EcPatience *patience)
{
	EcRequest	one;
	EcRequest  *reqs;
	bool		any = false;

	Assert(ec_topology_is_entered());
	for (int i = 0; i < n; i++)
	{
		items[i].remote = items[i].remote &&
			ec_local_is_worth(att, items[i].hash,
							  items[i].json ? VARSIZE_ANY_EXHDR(items[i].json) : 0);
		any |= items[i].remote;
	}
	if (!any || !ec_hit_time_is_left(patience) ||
		TransactionIdIsValid(GetTopTransactionIdIfAny()) ||
		!ec_locks_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE, false))
		return;
	reqs = n == 1 ? &one : palloc(n * sizeof(EcRequest));
	/* whoever changes the attachment does so under its lock */
	if (ec_attachment_by_name(att->name) == att && lock_keys(att, items, n, reqs) > 0)
	{
		ec_waitpoint("promote-locked");
		(void) ec_hit_exchange(patience, reqs, n);
		for (int i = 0; i < n; i++)
		{
			if (reqs[i].skip)
				continue;
			take(att, &items[i], &reqs[i]);
			ec_locks_release_key(items[i].hash, EC_LOCK_STORE);
		}
	}
	ec_locks_release_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE);
	if (reqs != &one)
		pfree(reqs);
}
