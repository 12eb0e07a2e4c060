/*-------------------------------------------------------------------------
 *
 * session.c
 *	  How the launcher and the workers begin: signals, and settings of their own.
 *
 * These processes run as superuser in databases that others own.  An owner can give a
 * database settings (ALTER DATABASE ... SET) that apply to every process that connects to
 * it, a worker included.  So whatever decides which objects a query of ours finds, whether
 * it may write, and how long it may take is set here, over all other sources, before the
 * first query.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"

#include "read/act.h"
#include "shmem.h"
#include "worker/database.h"
#include "worker/session.h"

static void override_settings(void);

/* The settings of ours, as they are in every version that we support. */
static const char *const settings[][2] = {
	{"search_path", EC_SEARCH_PATH},
	{"role", "none"},
	{"default_transaction_read_only", "off"},
	{"default_transaction_deferrable", "off"},
	{"default_transaction_isolation", "read committed"},
	{"row_security", "on"},
	{"statement_timeout", "0"},
	{"lock_timeout", "0"},
	{"idle_in_transaction_session_timeout", "0"},
	{"transaction_timeout", "0"},
	{"exit_on_error", "off"},
	/* what a worker writes has been done already: a standby that is away must not hold it up */
	{"synchronous_commit", "local"},
};

/* Once, right after the process has connected to its database, before any query. */
static void
override_settings(void)
{
	for (int i = 0; i < lengthof(settings); i++)
		/* not all are in every version */
		if (GetConfigOption(settings[i][0], true, false) != NULL)
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	if (!OidIsValid(MyDatabaseId))
		return;					/* the launcher, to which ALTER DATABASE ... SET does not apply */

	/*
	 * The session's user, too: a background worker has authenticated as superuser, so
	 * PostgreSQL lets a database's setting make it another.
	 */
	StartTransactionCommand();
	SetConfigOption("session_authorization", GetUserNameFromId(BOOTSTRAP_SUPERUSERID, false),
					PGC_SUSET, PGC_S_OVERRIDE);
	Assert(superuser());
	CommitTransactionCommand();
}

/*
 * Begin as a background worker does: end when told, note a reload; connect to the database,
 * InvalidOid: to none; have settings of our own.  Exits if the database is about to be dropped.
 */
void
ec_session_begin(Oid dboid)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	if (OidIsValid(dboid) && ec_database_is_banned(dboid))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	override_settings();
	/* while a worker starts PostgreSQL lets it ignore SIGHUP: a reload then is not lost */
	ProcessConfigFile(PGC_SIGHUP);
}

/* Does the launcher that has started this process still run? */
bool
ec_session_launcher_is_ours(void)
{
	return ec_shmem->launcher_pid == MyBgworkerEntry->bgw_notify_pid;
}
