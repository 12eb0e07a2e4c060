/*-------------------------------------------------------------------------
 *
 * helper.c
 *	  What the helpers of a database share: they come and go, and owners' code runs in them.
 *
 * The launcher starts them: the builder when there is something to make, the auditor from time to
 * time.  They do their work in short transactions, each of which has a limit in time.  Code that
 * goes on all the same, since it catches the error, takes the process with it at twice that time.
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
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "servers/state.h"
#include "shmem.h"
#include "worker/database.h"
#include "worker/helper.h"
#include "worker/session.h"

/* Which helper this process is. */
static EcHelper self;

/* Code has not ended at its limit: this timeout ends the process. */
static TimeoutId overrun;

static void helper_exit(int code, Datum arg);
static void end_process(void);

/* Before this process exits: the database has no such helper any more. */
static void
helper_exit(int code, Datum arg)
{
	ec_database_helper_gone(self);
}

/* The handler of that timeout, in a signal handler. */
static void
end_process(void)
{
	(void) kill(MyProcPid, SIGTERM);
}

/* Connect to the database and become its helper.  Exits where it needs none, or has one. */
void
ec_helper_begin(EcHelper helper)
{
	self = helper;
	ec_session_begin(DatumGetObjectId(MyBgworkerEntry->bgw_main_arg));
	if (!ec_database_begin_helper(self))
		proc_exit(0);
	before_shmem_exit(helper_exit, (Datum) 0);
	overrun = RegisterTimeout(USER_TIMEOUT, end_process);
}

/*
 * Has this process to end, since somebody needs the database for himself, or the launcher is
 * another?  Takes up a reload of the configuration, and serves interrupts.
 */
bool
ec_helper_is_over(void)
{
	EcDatabase *db = ec_state_database();

	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	return !ec_session_launcher_is_ours() || ec_database_is_banned(MyDatabaseId) ||
		db == NULL || db->helper_pid[self] != MyProcPid;
}

/*
 * Do some work in a transaction of its own, for so long at most; 0: without a limit.  Returns what
 * it threw, in the current memory context, or NULL.
 */
ErrorData *
ec_helper_run(void (*work) (void *arg), void *arg, int limit_ms)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	SetCurrentStatementStartTimestamp();
	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		if (limit_ms > 0)
		{
			enable_timeout_after(STATEMENT_TIMEOUT, limit_ms);
			enable_timeout_after(overrun, 2 * limit_ms);
		}
		work(arg);
		disable_all_timeouts(false);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		disable_all_timeouts(false);
		QueryCancelPending = false; /* the timeout may have come just now */
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	QueryCancelPending = false;
	MemoryContextSwitchTo(context);
	(void) pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
	return error;
}
