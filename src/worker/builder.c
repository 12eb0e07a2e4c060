/*-------------------------------------------------------------------------
 *
 * builder.c
 *	  The builder of a database: makes the documents that commits do not.
 *
 * The launcher starts it when a commit has handed a key over (commit/handover.c), and it ends
 * when nothing has come for a while.  Each document is an ordinary fill in a transaction of its
 * own, as the table's owner, for at most echocache.build_timeout (helper.c).  The model's builder
 * is a reader (test/model/fence.pml).  It keeps nobody waiting who does not fill the same
 * document, and nothing waits for it: what it does not make the next reader does.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "attachments/attachment.h"
#include "attachments/slot.h"
#include "commit/handover.h"
#include "deadline.h"
#include "guc.h"
#include "read/read.h"
#include "shmem.h"
#include "worker/builder.h"
#include "worker/helper.h"

/* It ends when nothing has come for so long. */
#define IDLE_MS		10000

/* The attachment whose document is being made; NULL: none is. */
static EcSlot *making = NULL;

static void builder_exit(int code, Datum arg);
static void complain(EcSlot *slot, const char *id, const ErrorData *error);
static void make(void *arg);
static void build(EcBuildKey *key);

/* Before this process exits, perhaps in the middle of a document: that is an error of it. */
static void
builder_exit(int code, Datum arg)
{
	if (making)
		ec_slot_count(making, EC_BUILD_ERRORS, 1);
}

/* Log what went wrong with a document, unless that attachment was complained of just now. */
static void
complain(EcSlot *slot, const char *id, const ErrorData *error)
{
	if (!ec_shmem_may_log(&slot->build_logged))
		return;
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("echocache: document \"%s\" with id \"%s\" could not be made: %s",
					slot->name, id, error->message),
			 errdetail("It is not cached.  Whoever reads it makes it, or gets the error.  More "
					   "errors of this document within a minute are only counted."),
			 errcontext_msg("%s", error->context ? error->context : "the builder")));
}

/* Make a document, in a transaction. */
static void
make(void *arg)
{
	const EcBuildKey *key = arg;
	EcAttachment *att = ec_attachment_by_relid(key->relid);
	EcBuilt		built;

	if (att == NULL)
		return;					/* it was detached since */
	pgstat_report_activity(STATE_RUNNING, psprintf("making document %s", att->name));
	making = att->slot;
	built = ec_read_build(att, pnstrdup(key->id, key->idlen));
	if (built == EC_BUILT_STORED)
		ec_slot_count(att->slot, EC_BUILDS, 1);
	else if (built == EC_BUILT_LATER)
		ec_slot_count(att->slot, EC_BUILDS_DROPPED, 1);
}

/* The same, in a transaction of its own, and whatever it throws but the end of this process. */
static void
build(EcBuildKey *key)
{
	ErrorData  *error = ec_helper_run(make, key, ec_guc_build_timeout);

	if (error != NULL && making)
	{
		ec_slot_count(making, EC_BUILD_ERRORS, 1);
		complain(making, pnstrdup(key->id, key->idlen), error);
	}
	making = NULL;
}

/* The process: make what waits, until nothing has come for IDLE_MS. */
void
echocache_builder_main(Datum arg)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "echocache builder",
												  ALLOCSET_DEFAULT_SIZES);
	EcDeadline	end;

	ec_helper_begin(EC_BUILDER);
	before_shmem_exit(builder_exit, (Datum) 0);
	end = ec_deadline_in(IDLE_MS);
	while (ec_deadline_left(end) > 0 && !ec_helper_is_over())
	{
		EcBuildKey	key;

		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
		if (!ec_handover_take(&key))
		{
			ec_deadline_nap(ec_deadline_left(end), EC_WAIT_BUILDER);
			continue;
		}
		build(&key);
		end = ec_deadline_in(IDLE_MS);
	}
	proc_exit(0);
}
