/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  The worker of a database.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"

#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "deadline.h"
#include "guc.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"
#include "sql/kv_keys.h"
#include "worker/database.h"
#include "worker/recovery.h"
#include "worker/worker.h"

#define WORKER_NAP_MS		10000	/* when all is well */

static Oid	my_dboid;

static void worker_exit(int code, Datum arg);
static bool extension_exists(void);

/* Nobody need wake us any more, nor wait for us, should we end in the middle of an exchange. */
static void
worker_exit(int code, Datum arg)
{
	ec_topology_at_end(0);
	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	for (int i = 0; i < EC_MAX_DATABASES; i++)
		if (ec_shmem->database[i].dboid == my_dboid)
			ec_shmem->database[i].worker_pid = 0;
	LWLockRelease(ec_shmem->lock);
}

/* Is the extension in this database? */
static bool
extension_exists(void)
{
	bool		exists;

	StartTransactionCommand();
	exists = OidIsValid(get_extension_oid("echocache", true)) &&
		OidIsValid(ec_catalog_document(true));
	CommitTransactionCommand();
	return exists;
}

void
echocache_worker_main(Datum arg)
{
	EcDatabase *db;
	MemoryContext context;
	EcDeadline	retry_at[EC_MAX_SERVERS] = {0};
	uint64		generation = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	my_dboid = DatumGetObjectId(arg);
	if (ec_database_is_banned(my_dboid))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(my_dboid, InvalidOid, 0);
	/* while a worker starts PostgreSQL lets it ignore SIGHUP: a reload then is not lost */
	ProcessConfigFile(PGC_SIGHUP);
	if (!extension_exists())
	{
		ec_database_free(my_dboid);
		proc_exit(0);
	}
	/*
	 * One worker of an earlier launcher may still be about to go; and a generation about
	 * to come, in which nobody has the prefix of a slot any more that was given up.
	 */
	while (ec_database_has_other_worker() || ec_shmem->republish)
	{
		if (ec_shmem->launcher_pid != MyBgworkerEntry->bgw_notify_pid)
			proc_exit(0);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 EC_WAIT_FOR_LOCK_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	db = ec_database_claim();
	if (db == NULL)
	{
		ereport(LOG,
				(errmsg("echocache: more than %d databases have the extension",
						EC_MAX_DATABASES),
				 errdetail("The documents of database %u are not cached.", my_dboid)));
		proc_exit(0);
	}
	before_shmem_exit(worker_exit, (Datum) 0);

	/* from now on nobody stores anything else under the keys of our documents */
	StartTransactionCommand();
	ec_attachment_claim_slots();
	ec_kv_keys_await();
	CommitTransactionCommand();
	pgstat_report_activity(STATE_IDLE, NULL);
	context = AllocSetContextCreate(TopMemoryContext, "echocache worker",
									ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		long		nap = WORKER_NAP_MS;
		bool		all_up = true;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(context);
		MemoryContextReset(context);

		/*
		 * After a reload begin anew, to see ALTER DATABASE ... SET as well; the
		 * launcher starts another at once.  The states stay as they are.
		 */
		if (ConfigReloadPending)
		{
			db->reloading = true;
			proc_exit(0);
		}
		if (ec_shmem->launcher_pid != MyBgworkerEntry->bgw_notify_pid)
			proc_exit(0);		/* the launcher has begun anew, and so do its workers */
		if (ec_database_is_banned(my_dboid) || !extension_exists())
		{
			ec_database_free(my_dboid);
			proc_exit(0);
		}

		if (ec_placement_enter())
		{
			bool		standby = db->standby && RecoveryInProgress();

			if (generation != ec_placement_generation())
				memset(retry_at, 0, sizeof(retry_at));
			generation = ec_placement_generation();
			for (int i = 0; i < ec_placement_size(); i++)
			{
				int			retry_ms = ec_guc_retry_interval;

				if (!standby && EC_STATE(ec_state_word(db, i)) == EC_UP)
					continue;
				if (ec_deadline_left(retry_at[i]) == 0)
				{
					if (standby)
						ec_recovery_watch(db, i);
					else if (ec_recovery_run(db, i, &retry_ms))
						continue;
					retry_at[i] = ec_deadline_in(retry_ms);
				}
				all_up = false;
				nap = Min(nap, Max(ec_deadline_left(retry_at[i]), 1));
			}
			if (all_up && generation > db->old_prefix_generation)
				db->has_old_prefix = false; /* purged everywhere, and used by nobody */
			if (!standby)
				ec_recovery_clear_late_rows(db);
			ec_topology_leave();
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, nap,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
