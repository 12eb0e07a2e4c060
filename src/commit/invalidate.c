/*-------------------------------------------------------------------------
 *
 * invalidate.c
 *	  Take documents out of the cache, or note in the outbox that they must go.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "attachments/slot.h"
#include "commit/invalidate.h"
#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "protocol/key.h"
#include "servers/exchange.h"
#include "servers/outbox.h"
#include "servers/placement.h"
#include "servers/purge.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"

/* Outbox rows of one transaction and server; above, whole documents are noted. */
#define EC_OUTBOX_KEYS		1000

static void count_failure(EcCommit *commit, const EcRequest *req);
static void lock_outbox(int server);
static void note_keys(EcCommit *commit, EcRequest *reqs, int n, int server);

/* A server has just failed us: it shows at each document of the transaction. */
static void
count_failure(EcCommit *commit, const EcRequest *req)
{
	for (int d = 0; d < commit->n; d++)
		ec_slot_count(commit->touched[d].att->slot, req->failure->timed_out ? EC_TIMEOUTS : EC_ERRORS, 1);
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
note_keys(EcCommit *commit, EcRequest *reqs, int n, int server)
{
	const char *name = ec_placement_name(server);

	if (ec_state_all_noted(server) || commit->outbox_keys[server] < 0)
		return;
	for (int i = 0; i < n; i++)
	{
		if (reqs[i].server != server || reqs[i].result != EC_FAILED)
			continue;
		if (++commit->outbox_keys[server] > EC_OUTBOX_KEYS)
		{
			for (int d = 0; d < commit->n; d++)
				ec_outbox_add(name, commit->touched[d].att->name, NULL, 0);
			commit->outbox_keys[server] = -1;
			return;
		}
		ec_outbox_add(name, reqs[i].arg, reqs[i].key, reqs[i].keylen);
	}
}

/*
 * Step A for one batch: every key carries a marker, or is gone, confirmed; or it
 * is in the outbox of its server, which is DOWN, and whose worker invalidates it
 * before anybody reads from there again.  A server that is DOWN already is not
 * waited for.  req->arg is the document's name.  meanwhile runs while the markers are
 * on their way.  With fallback = off throws where the outbox would be needed.
 */
void
ec_invalidate_mark(EcCommit *commit, EcRequest *reqs, int n, void (*meanwhile) (void *arg),
				   void *arg)
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
			count_failure(commit, &reqs[i]);
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
		note_keys(commit, reqs, n, server);
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
	EcFailure	failure;

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
				if (ec_purge(i, heads, removed, &failure))
					break;
				/* if it did not fail, it does not tell its keys: that is as bad */
				ec_state_down(ec_placement_generation(), i, failure.reason);
			}
			else if (locked || (!note && ec_guc_fallback))
				give_up = true;
			else
			{
				lock_outbox(i);
				locked = true;
			}
			if (give_up || !ec_shmem_is_current(ec_placement_generation()))
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
