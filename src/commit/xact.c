/*-------------------------------------------------------------------------
 *
 * xact.c
 *	  The transaction callbacks, all of them: who is called when, and in which order.
 *
 *	PRE_COMMIT, PRE_PREPARE
 *				commit.c sets the markers and renders the documents.  It may throw, which
 *				aborts the transaction.  From then on noting a change is an error, even if
 *				there was none before: callbacks run in the reverse order of their
 *				registration, so another extension's may run after ours.
 *	COMMIT		commit.c stores the documents, under the locks that it holds.  Slots of
 *				detached tables are given up, and the launcher is told of a new extension.
 *				An ERROR here would be a PANIC: nothing throws or allocates.
 *	ABORT		A marker that is left behind costs nothing: the next fill takes it over.
 *				Slots that an attach has claimed are given up.
 *	at the end of each
 *				What an error has left is released: entries into the topology, the progress
 *				of a warm, connections in the middle of an exchange.  Then the state of the
 *				transaction itself goes.
 *
 * A subtransaction hands what it has noted to its parent when it commits, and takes it back
 * when it aborts.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"

#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/depend.h"
#include "attachments/object.h"
#include "attachments/slot.h"
#include "attachments/storage.h"
#include "commit/commit.h"
#include "commit/pending.h"
#include "commit/xact.h"
#include "servers/exchange.h"
#include "servers/topology.h"
#include "sql/warm.h"
#include "worker/database.h"

static void xact_callback(XactEvent event, void *arg);
static void subxact_callback(SubXactEvent event, SubTransactionId mySubid,
							 SubTransactionId parentSubid, void *arg);
static void at_end(XactEvent event);

/* Register the callbacks: once per backend, from _PG_init. */
void
ec_xact_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

/*
 * The transaction is over, however it ended.  Of the entries into the topology only those of
 * level 1 and above belong to it: a worker is in the topology outside of transactions, too.
 * Nothing here throws.
 */
static void
at_end(XactEvent event)
{
	ec_topology_at_end(1);
	ec_warm_at_end(1);
	ec_exchange_at_xact_end();
	ec_attachment_at_xact_end();
	ec_catalog_at_end();
	ec_database_at_xact_end(event);
	ec_depend_at_end(event == XACT_EVENT_COMMIT);
	ec_object_forget_leftovers();
	ec_slot_at_end();
	ec_storage_at_end();
	ec_pending_end();
	ec_commit_at_end();
	Assert(!ec_pending_any());
}

/* What happens to the transaction, and what has to be done then: see the banner. */
static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			ec_storage_at_pre_commit();
			if (ec_pending_any())
				ec_commit_pre(false);
			ec_pending_close();
			break;
		case XACT_EVENT_PRE_PREPARE:
			ec_storage_at_pre_commit();
			if (ec_pending_any())
				ec_commit_pre(true);
			ec_pending_close();
			break;
		case XACT_EVENT_COMMIT:
			if (ec_pending_any())
				ec_commit_post();
			ec_slot_at_commit();
			at_end(event);
			break;
		case XACT_EVENT_ABORT:
			ec_slot_at_subend(1, false);
			at_end(event);
			break;
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			at_end(event);
			break;
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
			break;
	}
}

/*
 * A subtransaction has committed or aborted.  It is still the current one, so that its nesting
 * level is that of what it has noted.
 */
static void
subxact_callback(SubXactEvent event, SubTransactionId mySubid,
				 SubTransactionId parentSubid, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	switch (event)
	{
		case SUBXACT_EVENT_COMMIT_SUB:
			Assert(level > 1);
			ec_pending_subcommit(level);
			ec_slot_at_subend(level, true);
			break;
		case SUBXACT_EVENT_ABORT_SUB:
			Assert(level > 1);
			ec_pending_subabort(level);
			ec_slot_at_subend(level, false);
			ec_topology_at_end(level);
			ec_warm_at_end(level);
			ec_object_forget_leftovers();
			ec_catalog_at_end();
			break;
		case SUBXACT_EVENT_START_SUB:
		case SUBXACT_EVENT_PRE_COMMIT_SUB:
			break;
	}
}
