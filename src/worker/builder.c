/*-------------------------------------------------------------------------
 *
 * builder.c
 *	  The builder of a database: makes the documents that commits do not.
 *
 * The launcher starts it when a commit has handed a key over (commit/handover.c), and it ends
 * when nothing has come for a while.  Each document is an ordinary fill in a transaction of its
 * own, as the table's owner, for at most echocache.build_timeout.  A function that goes on all
 * the same, since it catches the error, takes the builder with it at twice that time.  The
 * model's builder is a reader (test/model/fence.pml).  It keeps nobody waiting who does not
 * fill the same document, and nothing waits for it: what it does not make the next reader does.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/procarray.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "attachments/attachment.h"
#include "attachments/slot.h"
#include "commit/handover.h"
#include "deadline.h"
#include "guc.h"
#include "read/read.h"
#include "servers/state.h"
#include "shmem.h"
#include "worker/builder.h"
#include "worker/database.h"
#include "worker/session.h"

/* It ends when nothing has come for so long. */
#define IDLE_MS		10000

/* The attachment whose document is being made; NULL: none is. */
static EcSlot *making = NULL;

/* A function has not ended at echocache.build_timeout: this timeout ends the process. */
static TimeoutId overrun;

static void builder_exit(int code, Datum arg);
static void end_process(void);
static void begin(void);
static void complain(EcSlot *slot, const char *id, const ErrorData *error);
static void make(const EcBuildKey *key);
static void build(const EcBuildKey *key);

/* Before this process exits: the database has no builder any more. */
static void
builder_exit(int code, Datum arg)
{
	EcDatabase *db;

	if (making)
		ec_slot_count(making, EC_BUILD_ERRORS, 1);
	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	db = ec_database_find(MyDatabaseId);
	if (db && db->builder_pid == MyProcPid)
		db->builder_pid = 0;
	LWLockRelease(ec_shmem->lock);
}

/* The handler of that timeout, in a signal handler. */
static void
end_process(void)
{
	(void) kill(MyProcPid, SIGTERM);
}

/* Connect to the database and become its builder.  Exits where it needs none, or has one. */
static void
begin(void)
{
	Oid			dboid = DatumGetObjectId(MyBgworkerEntry->bgw_main_arg);
	EcDatabase *db;
	bool		needed;

	ec_session_begin(dboid);
	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	db = ec_database_find(dboid);
	needed = db != NULL &&
		(db->builder_pid == 0 || BackendPidGetProc(db->builder_pid) == NULL);
	if (needed)
		db->builder_pid = MyProcPid;
	LWLockRelease(ec_shmem->lock);
	if (!needed)
		proc_exit(0);
	before_shmem_exit(builder_exit, (Datum) 0);
	overrun = RegisterTimeout(USER_TIMEOUT, end_process);
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
make(const EcBuildKey *key)
{
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
build(const EcBuildKey *key)
{
	MemoryContext context = CurrentMemoryContext;

	SetCurrentStatementStartTimestamp();
	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		if (ec_guc_build_timeout > 0)
		{
			enable_timeout_after(STATEMENT_TIMEOUT, ec_guc_build_timeout);
			enable_timeout_after(overrun, 2 * ec_guc_build_timeout);
		}
		make(key);
		disable_all_timeouts(false);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		disable_all_timeouts(false);
		QueryCancelPending = false; /* the timeout may have come just now */
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(context);
		if (making)
		{
			ec_slot_count(making, EC_BUILD_ERRORS, 1);
			complain(making, pnstrdup(key->id, key->idlen), error);
		}
	}
	PG_END_TRY();
	making = NULL;
	QueryCancelPending = false;
	MemoryContextSwitchTo(context);
	(void) pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* The process: make what waits, until nothing has come for IDLE_MS. */
void
echocache_builder_main(Datum arg)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "echocache builder",
												  ALLOCSET_DEFAULT_SIZES);
	EcDeadline	end;

	begin();
	end = ec_deadline_in(IDLE_MS);
	while (ec_deadline_left(end) > 0)
	{
		EcBuildKey	key;
		EcDatabase *db;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		db = ec_state_database();
		if (!ec_session_launcher_is_ours() || ec_database_is_banned(MyDatabaseId) ||
			db == NULL || db->builder_pid != MyProcPid)
			break;
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
