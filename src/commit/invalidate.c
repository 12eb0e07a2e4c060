/*-------------------------------------------------------------------------
 *
 * invalidate.c
 *	  Take documents out of the cache, or note in the outbox that they must go.
 *
 * Afterwards one of two things holds for each document and each server: the server has
 * confirmed that the document is gone; or the server is DOWN, so that nobody reads from it,
 * and its outbox has a row by which its worker invalidates the document before the server is
 * UP again.  A writer that takes the second way holds the server's outbox lock in share mode
 * to the end of its transaction; the worker waits for that lock before it looks at the rows.
 * Where there is no worker, and the next one purges the server, a row of anybody's is enough.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "attachments/slot.h"
#include "commit/invalidate.h"
#include "commit/pending.h"
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

/* Outbox rows of one transaction and server; beyond it, whole attachments are noted. */
#define OUTBOX_KEYS		1000

static void count_failure(EcCommit *commit, const EcRequest *req);
static void lock_outbox(int server);
static List *key_heads(const char *name);
static void note_keys(EcCommit *commit, EcRequest *reqs, int n, int server);
static void note_all(const char *document, int server, bool locked);

/* A server has just failed: count that at each attachment of the transaction. */
static void
count_failure(EcCommit *commit, const EcRequest *req)
{
	EcCounter	what = req->failure->timed_out ? EC_TIMEOUTS : EC_ERRORS;

	for (int d = 0; d < commit->n; d++)
		ec_slot_count(commit->touched[d].att->slot, what, 1);
}

/*
 * Take the server's outbox lock, which is the transaction's last one.  Throws 08006 if
 * fallback is off, since the transaction must not commit then.
 */
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
 * Note in the outbox of this server, which is DOWN, those keys of the batch that are not
 * confirmed.  Beyond OUTBOX_KEYS all documents of the attachments are noted instead.  One row is
 * enough, and none is needed if there is one, where the next worker purges the server.  The
 * outbox lock is held.  Throws what the outbox throws.
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
		if (ec_state_is_unattended(server))
		{
			if (!ec_outbox_has(name, NULL))
				ec_outbox_add(name, reqs[i].arg, reqs[i].key, reqs[i].keylen);
			commit->outbox_keys[server] = -1;
			return;
		}
		if (++commit->outbox_keys[server] > OUTBOX_KEYS)
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
 * Note in the outbox of this server that all documents of the attachment must go.  A row that
 * says so already is enough if nobody deletes it before this transaction ends, for which the
 * outbox lock must be held: locked.  Throws what the outbox throws.
 */
static void
note_all(const char *document, int server, bool locked)
{
	const char *name = ec_placement_name(server);

	if (!locked || !ec_state_is_unattended(server) || !ec_outbox_has(name, document))
		ec_outbox_add(name, document, NULL, 0);
}

/*
 * Step A for one batch of requests to set markers, whose arg is the attachment's name.
 * Afterwards each key carries a marker or is gone, and the server has confirmed that; or the
 * key is in the outbox of its server, which is DOWN.  A server that is DOWN already is not
 * waited for.  meanwhile, if given, runs while the markers are on their way.
 *
 * The caller has entered the topology and holds the locks of step 1.  Throws what meanwhile
 * throws, what writing to the outbox throws, and with fallback = off 08006 where the outbox
 * would be needed.
 */
void
ec_invalidate_mark(EcCommit *commit, EcRequest *reqs, int n, void (*meanwhile) (void *arg),
				   void *arg)
{
	bool		unconfirmed[EC_MAX_SERVERS] = {0};
	bool		any = false;
	EcDeadline	deadline;

	Assert(ec_topology_is_entered());
	for (int i = 0; i < n; i++)
		ec_state_await_look(reqs[i].server);
	deadline = ec_deadline_in(ec_guc_commit_timeout);
	for (int i = 0; i < n; i++)
	{
		reqs[i].skip = ec_state_is_away(reqs[i].server);
		reqs[i].result = EC_FAILED;
	}
	(void) ec_exchange_marks(reqs, n, deadline, meanwhile, arg);
	for (int i = 0; i < n; i++)
	{
		if (reqs[i].result != EC_FAILED)
			continue;
		if (!unconfirmed[reqs[i].server] && !reqs[i].skip)
			count_failure(commit, &reqs[i]);
		unconfirmed[reqs[i].server] = any = true;
	}

	for (int server = 0; server < ec_placement_size(); server++)
	{
		if (!unconfirmed[server])
			continue;
		lock_outbox(server);
		if (!ec_state_is_away(server))
		{
			/* it is DOWN no longer: then markers as usual, and the outbox lock is kept */
			for (int i = 0; i < n; i++)
				reqs[i].skip = reqs[i].server != server || reqs[i].result != EC_FAILED;
			(void) ec_exchange_marks(reqs, n, deadline, NULL, NULL);
		}
		note_keys(commit, reqs, n, server);
	}
	if (any)
		ec_state_doubt(ec_placement_generation());
}

/* What the keys of an attachment begin with, in this generation and, if not purged yet, before. */
static List *
key_heads(const char *name)
{
	EcDatabase *db = ec_state_database();
	char	   *head = palloc(EC_PREFIX_MAX + EC_NAME_MAX + 2);
	char	   *old_head = palloc(EC_PREFIX_MAX + EC_NAME_MAX + 2);
	List	   *heads = list_make1(head);

	head[ec_key_head(head, ec_placement_prefix(), name)] = '\0';
	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	if (db && db->has_old_prefix)
	{
		old_head[ec_key_head(old_head, db->old_prefix, name)] = '\0';
		heads = lappend(heads, old_head);
	}
	LWLockRelease(ec_shmem->lock);
	return heads;
}

/*
 * Purge every key of an attachment from all servers; adds to *removed how many there were.
 * The caller holds the attachment lock in invalidate mode and has entered the topology.  A
 * server that cannot be purged is made DOWN, and with note its outbox gets a row for the
 * whole attachment.  Returns whether all servers have done it.
 *
 * Once there is another list of servers, no server of the caller's list is made DOWN any
 * more, or waited for: all servers of the newer one are purged after the caller has left its
 * generation, and keep nothing.  A row in the outbox covers the servers of both generations; a
 * detach needs it, since that purge does not know the attachment any more.
 *
 * Throws what CHECK_FOR_INTERRUPTS and writing to the outbox throw, and with fallback = off
 * 08006 where the outbox would be needed.
 */
bool
ec_invalidate_all(const char *name, int64 *removed, bool note)
{
	bool		all = true;
	List	   *heads = key_heads(name);
	EcFailure	failure;

	Assert(ec_topology_is_entered());
	for (int i = 0; i < ec_placement_size(); i++)
	{
		bool		locked = false;
		bool		give_up = false;

		ec_state_await_look(i);
		for (;;)
		{
			if (!ec_state_is_away(i))
			{
				if (ec_purge(i, heads, removed, &failure))
					break;
				/* it failed, or does not tell its keys, which is as bad */
				ec_state_down(ec_placement_generation(), i, failure.reason);
			}
			else if (locked || (!note && ec_guc_fallback))
				give_up = true;
			else
			{
				lock_outbox(i);
				locked = true;
			}
			if (give_up || !ec_shmem_is_listed(ec_placement_generation()))
			{
				all = false;
				if (note)
					note_all(name, i, locked);
				break;
			}
			CHECK_FOR_INTERRUPTS();
		}
	}
	if (!all)
		ec_state_doubt(ec_placement_generation());
	return all;
}

/*
 * Invalidate the attachments whose documents a detach or purge in this transaction could not
 * invalidate on every server (ec_pending_purge).  Where a server still cannot be reached, its
 * outbox gets a row.  That is done at the commit because an outbox lock that is held keeps its
 * server from being UP: a transaction may stay open for long, a commit does not.
 *
 * on says whether the cache is on in the topology that the caller has entered; if not, every
 * server gets a row, and none is asked.  The transaction has held the attachment locks since
 * the detach or purge; outbox locks are taken to its end.  Throws what ec_invalidate_all()
 * throws, or, while the cache is off, what writing to the outbox throws.
 */
void
ec_invalidate_rest(bool on)
{
	ListCell   *lc;

	foreach(lc, ec_pending_purges())
	{
		const char *name = ((EcPendingPurge *) lfirst(lc))->name;
		int64		removed = 0;

		if (on)
		{
			(void) ec_invalidate_all(name, &removed, true);
			continue;
		}
		for (int i = 0; i < ec_placement_size(); i++)
			ec_outbox_add(ec_placement_name(i), name, NULL, 0);
	}
}
