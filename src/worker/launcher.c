/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The launcher: has the topology published, keeps a worker in every database.
 *
 * Every database is looked at once, and again when CREATE EXTENSION has run anywhere;
 * where the extension is, there is a worker (worker.c).
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"
#include "worker/database.h"
#include "worker/launcher.h"

#define LAUNCHER_NAP_MS		1000
#define SCAN_INTERVAL_MS	10000	/* how often new databases are looked for */
#define RESOLVE_INTERVAL_MS 30000	/* how often names are resolved again, */
#define RESOLVE_DOWN_MS		1000	/* while a server is down: it may have moved */
#define BACKOFF_MAX_MS		60000

/* What the launcher knows of a database. */
typedef struct Known
{
	Oid			dboid;			/* hash key */
	bool		seen;			/* in the present scan */
	bool		absent;			/* it has no extension, as far as we know */
	BackgroundWorkerHandle *handle; /* NULL: no worker */
	uint64		rescans;		/* of ec_shmem, when the worker was started */
	TimestampTz started_at;
	TimestampTz retry_at;
	int			backoff_ms;
} Known;

static bool any_down(void);
static void scan_databases(HTAB *known);
static void start_worker(Known *k);
static void mind_workers(HTAB *known);
static void launcher_exit(int code, Datum arg);

/* Once, from _PG_init. */
void
ec_launcher_init(void)
{
	BackgroundWorker worker = {0};

	strlcpy(worker.bgw_name, "echocache launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "echocache launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "echocache", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "echocache_launcher_main", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 1;
	RegisterBackgroundWorker(&worker);
}

/* Is any server DOWN, for any database? */
static bool
any_down(void)
{
	for (int d = 0; d < EC_MAX_DATABASES; d++)
		for (int i = 0; i < ec_shmem->nservers && ec_shmem->database[d].dboid; i++)
			if (EC_STATE(ec_state_word(&ec_shmem->database[d], i)) == EC_DOWN)
				return true;
	return false;
}

/* Bring the list of databases up to date. */
static void
scan_databases(HTAB *known)
{
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	HASH_SEQ_STATUS status;
	Known	   *k;

	hash_seq_init(&status, known);
	while ((k = hash_seq_search(&status)) != NULL)
		k->seen = false;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_database db = (Form_pg_database) GETSTRUCT(tuple);
		bool		found;

		if (!db->datallowconn || db->datistemplate)
			continue;
		k = hash_search(known, &db->oid, HASH_ENTER, &found);
		if (!found)
		{
			memset(k, 0, sizeof(Known));
			k->dboid = db->oid;
		}
		k->seen = true;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();

	hash_seq_init(&status, known);
	while ((k = hash_seq_search(&status)) != NULL)
	{
		if (k->seen || k->handle != NULL)
			continue;
		ec_database_free(k->dboid);
		hash_search(known, &k->dboid, HASH_REMOVE, NULL);
	}
}

/* Register a worker for this database. */
static void
start_worker(Known *k)
{
	BackgroundWorker worker = {0};

	snprintf(worker.bgw_name, BGW_MAXLEN, "echocache worker for database %u", k->dboid);
	strlcpy(worker.bgw_type, "echocache worker", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "echocache", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "echocache_worker_main", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = ObjectIdGetDatum(k->dboid);
	k->started_at = GetCurrentTimestamp();
	k->rescans = ec_shmem->rescans;
	if (RegisterDynamicBackgroundWorker(&worker, &k->handle))
		return;
	k->handle = NULL;
	ereport(LOG,
			(errmsg("echocache: no background worker slot is free for database %u", k->dboid),
			 errdetail("Its documents are not cached."),
			 errhint("Increase max_worker_processes.")));
	k->backoff_ms = BACKOFF_MAX_MS;
}

/*
 * See to the workers: start those that are missing, note which have ended.  Of
 * the databases that have not been looked at yet, one at a time.
 */
static void
mind_workers(HTAB *known)
{
	HASH_SEQ_STATUS status;
	Known	   *k;
	bool		looking = false;
	TimestampTz now = GetCurrentTimestamp();

	hash_seq_init(&status, known);
	while ((k = hash_seq_search(&status)) != NULL)
	{
		pid_t		pid;
		EcDatabase *slot;

		if (k->handle == NULL)
			continue;
		if (GetBackgroundWorkerPid(k->handle, &pid) != BGWH_STOPPED)
		{
			looking |= ec_database_find(k->dboid) == NULL;
			continue;
		}
		pfree(k->handle);
		k->handle = NULL;
		slot = ec_database_find(k->dboid);
		/* no extension there, unless CREATE EXTENSION has come since it looked */
		k->absent = slot == NULL && k->rescans == ec_shmem->rescans;
		if ((slot && slot->reloading) ||
			TimestampDifferenceExceeds(k->started_at, now, BACKOFF_MAX_MS))
			k->backoff_ms = 0;
		k->retry_at = TimestampTzPlusMilliseconds(now, k->backoff_ms);
		k->backoff_ms = Min(Max(k->backoff_ms * 2, 100), BACKOFF_MAX_MS);
		if (slot)
			slot->reloading = false;
	}
	hash_seq_init(&status, known);
	while ((k = hash_seq_search(&status)) != NULL)
	{
		if (k->handle != NULL || k->absent || now < k->retry_at || ec_database_is_banned(k->dboid))
			continue;
		if (ec_database_find(k->dboid) == NULL)
		{
			if (looking)
				continue;
			looking = true;
		}
		start_worker(k);
	}
}

/* Nobody need wake us any more. */
static void
launcher_exit(int code, Datum arg)
{
	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	ec_shmem->launcher_pid = 0;
	LWLockRelease(ec_shmem->lock);
}

void
echocache_launcher_main(Datum arg)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid),.entrysize = sizeof(Known)};
	HTAB	   *known;
	MemoryContext context;
	TimestampTz resolved_at = 0;
	TimestampTz scan_at = 0;
	uint64		seen_rescans = 0;
	bool		standby;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	ProcessConfigFile(PGC_SIGHUP);	/* as in worker.c */
	before_shmem_exit(launcher_exit, (Datum) 0);
	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	ec_shmem->launcher_pid = MyProcPid;
	LWLockRelease(ec_shmem->lock);

	context = AllocSetContextCreate(TopMemoryContext, "echocache launcher",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	known = hash_create("echocache databases", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	for (int d = 0; d < EC_MAX_DATABASES; d++)
		ec_shmem_wake(ec_shmem->database[d].worker_pid); /* of a launcher before us */
	standby = RecoveryInProgress();
	ec_topology_publish();

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		bool		rescan;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			bool		was_enabled = ec_guc_enabled;
			char	   *hosts = pstrdup(ec_guc_hosts);

			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			if (was_enabled != ec_guc_enabled || strcmp(hosts, ec_guc_hosts) != 0)
			{
				ec_topology_publish();
				resolved_at = 0;
			}
			pfree(hosts);
		}

		if (standby && !RecoveryInProgress())
		{
			/* promoted: the cache may hold what this timeline does not have */
			standby = false;
			ec_topology_publish();
		}

		LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
		rescan = ec_shmem->rescans != seen_rescans;
		seen_rescans = ec_shmem->rescans;
		if (ec_shmem->banned != InvalidOid && now >= ec_shmem->banned_until)
		{
			ec_shmem->banned = InvalidOid;
			rescan = true;
		}
		LWLockRelease(ec_shmem->lock);
		if (ec_shmem->republish)
			ec_topology_publish();
		if (rescan)
		{
			HASH_SEQ_STATUS status;
			Known	   *k;

			hash_seq_init(&status, known);
			while ((k = hash_seq_search(&status)) != NULL)
			{
				k->absent = false;
				k->backoff_ms = 0;
				k->retry_at = 0;
			}
		}
		if (rescan || now >= scan_at)
		{
			scan_databases(known);
			scan_at = TimestampTzPlusMilliseconds(now, SCAN_INTERVAL_MS);
		}
		mind_workers(known);
		if (TimestampDifferenceExceeds(resolved_at, now, any_down() ? RESOLVE_DOWN_MS
									   : RESOLVE_INTERVAL_MS))
		{
			ec_topology_resolve_names();
			resolved_at = GetCurrentTimestamp();
		}

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LAUNCHER_NAP_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
