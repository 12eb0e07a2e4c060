/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The launcher: has the topology published, keeps a worker in every database.
 *
 * Every database is looked at once, by a worker that ends where there is no extension, and
 * again when CREATE EXTENSION has run anywhere.  Where the extension is, there is a worker
 * (worker.c), and a builder when there is something to make (builder.c).  From time to time there
 * is an auditor (auditor.c), in one database of the cluster at a time.
 *
 * A database for which PostgreSQL has no slot for a background worker is tried again at every
 * turn, so that a slot that becomes free is taken up.  Who is waiting is logged once a minute.
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
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "commit/handover.h"
#include "guc.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"
#include "worker/auditor.h"
#include "worker/database.h"
#include "worker/launcher.h"
#include "worker/resolver.h"
#include "worker/session.h"

#define LAUNCHER_NAP_MS		1000
#define SCAN_INTERVAL_MS	10000	/* how often new databases are looked for */
#define BACKOFF_MAX_MS		60000
#define BUILDER_RETRY_MS	1000	/* how soon after a builder another one is started */
#define COMPLAIN_MS			60000	/* how often a lack of worker slots is logged */

/* What the launcher knows of a database. */
typedef struct Known
{
	Oid			dboid;			/* hash key */
	NameData	name;
	bool		seen;			/* in the present scan */
	bool		absent;			/* it has no extension, as far as we know */
	BackgroundWorkerHandle *handle; /* NULL: no worker */
	BackgroundWorkerHandle *builder;	/* NULL: no builder */
	TimestampTz builder_at;		/* when the last one was started */
	TimestampTz audited_at;		/* when the auditor was, or would have been */
	uint64		rescans;		/* of ec_shmem, when the worker was started */
	TimestampTz started_at;
	TimestampTz retry_at;
	int			backoff_ms;
} Known;

/* All of the launcher's state. */
typedef struct Launcher
{
	HTAB	   *known;			/* of Known */
	bool		standby;		/* it was one when we looked last */
	uint64		rescans;		/* of ec_shmem, as of the last scan */
	TimestampTz scan_at;		/* when to look for new databases */
	TimestampTz complained_at;	/* when a lack of worker slots was logged last */
	BackgroundWorkerHandle *auditor;	/* NULL: none */
} Launcher;

static void scan_databases(HTAB *known);
static bool start(Known *k, const char *type, const char *function,
				  BackgroundWorkerHandle **handle);
static bool start_worker(Known *k);
static bool start_builder(Known *k, TimestampTz now);
static bool may_be_audited(const Known *k);
static void start_auditor(Launcher *launcher, List *all, TimestampTz now);
static void forget_if_ended(BackgroundWorkerHandle **handle);
static bool note_ended(HTAB *known, TimestampTz now);
static int	compare_known(const ListCell *a, const ListCell *b);
static void note_waiting(StringInfo waiting, const Known *k);
static void start_missing(Launcher *launcher, bool looking, TimestampTz now);
static void complain(Launcher *launcher, const char *waiting, TimestampTz now);
static void launcher_exit(int code, Datum arg);
static void begin(Launcher *launcher);
static void follow_settings(Launcher *launcher);
static bool take_rescan(Launcher *launcher, TimestampTz now);

/* Once, from _PG_init. */
void
ec_launcher_init(void)
{
	BackgroundWorker worker = {0};

	if (IsBinaryUpgrade)
		return;					/* pg_upgrade wants nobody else at work */
	strlcpy(worker.bgw_name, "echocache launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "echocache launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "echocache", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "echocache_launcher_main", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 1;
	RegisterBackgroundWorker(&worker);
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
		k->name = db->datname;
		k->seen = true;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();

	hash_seq_init(&status, known);
	while ((k = hash_seq_search(&status)) != NULL)
	{
		if (k->seen || k->handle != NULL || k->builder != NULL)
			continue;
		ec_database_free(k->dboid);
		hash_search(known, &k->dboid, HASH_REMOVE, NULL);
	}
}

/* Register a background worker for this database.  false: PostgreSQL has no slot for it. */
static bool
start(Known *k, const char *type, const char *function, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker = {0};

	snprintf(worker.bgw_name, BGW_MAXLEN, "%s for database %u", type, k->dboid);
	strlcpy(worker.bgw_type, type, BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "echocache", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, function, BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = ObjectIdGetDatum(k->dboid);
	if (RegisterDynamicBackgroundWorker(&worker, handle))
		return true;
	*handle = NULL;
	return false;
}

/* Start the worker of this database.  false: PostgreSQL has no slot for it. */
static bool
start_worker(Known *k)
{
	k->started_at = GetCurrentTimestamp();
	k->rescans = ec_shmem->rescans;
	return start(k, EC_DATABASE_WORKER, "echocache_worker_main", &k->handle);
}

/*
 * Start the builder, if commits have handed anything over and it does not run.  One that has
 * ended badly is started again after a while.  false: PostgreSQL has no slot for it.
 */
static bool
start_builder(Known *k, TimestampTz now)
{
	EcDatabase *db = ec_database_find(k->dboid);

	forget_if_ended(&k->builder);
	if (k->builder != NULL || k->handle == NULL || db == NULL || ec_handover_is_empty(db) ||
		!TimestampDifferenceExceeds(k->builder_at, now, BUILDER_RETRY_MS) ||
		ec_database_is_banned(k->dboid))
		return true;
	k->builder_at = now;
	return start(k, EC_DATABASE_BUILDER, "echocache_builder_main", &k->builder);
}

/* Are there documents in this database that may be cached? */
static bool
may_be_audited(const Known *k)
{
	EcDatabase *db = ec_database_find(k->dboid);
	bool		may;

	if (k->handle == NULL || db == NULL || ec_database_is_banned(k->dboid))
		return false;
	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	may = ec_shmem->enabled && db->owns_prefix && ec_topology_has_attachments(db);
	LWLockRelease(ec_shmem->lock);
	return may;
}

/*
 * Start the auditor in the database whose turn it is.  If PostgreSQL has no slot for it, the
 * database's turn is left out, since nothing depends on it.
 */
static void
start_auditor(Launcher *launcher, List *all, TimestampTz now)
{
	Known	   *next = NULL;
	ListCell   *lc;

	forget_if_ended(&launcher->auditor);
	if (launcher->auditor != NULL || ec_guc_audit_rate == 0 || RecoveryInProgress())
		return;
	foreach(lc, all)
	{
		Known	   *k = lfirst(lc);

		if (!TimestampDifferenceExceeds(k->audited_at, now, ec_auditor_interval()))
			continue;
		if ((next == NULL || k->audited_at < next->audited_at) && may_be_audited(k))
			next = k;
	}
	if (next == NULL)
		return;
	next->audited_at = now;
	(void) start(next, EC_DATABASE_AUDITOR, "echocache_auditor_main", &launcher->auditor);
}

/* If this background worker has ended, its handle is NULL from now on. */
static void
forget_if_ended(BackgroundWorkerHandle **handle)
{
	pid_t		pid;

	if (*handle == NULL || GetBackgroundWorkerPid(*handle, &pid) != BGWH_STOPPED)
		return;
	pfree(*handle);
	*handle = NULL;
}

/* Note which workers have ended.  Returns whether one is still looking for the extension. */
static bool
note_ended(HTAB *known, TimestampTz now)
{
	HASH_SEQ_STATUS status;
	Known	   *k;
	bool		looking = false;

	hash_seq_init(&status, known);
	while ((k = hash_seq_search(&status)) != NULL)
	{
		EcDatabase *slot;

		if (k->handle == NULL)
			continue;
		forget_if_ended(&k->handle);
		slot = ec_database_find(k->dboid);
		if (k->handle != NULL)
		{
			looking |= slot == NULL;
			continue;
		}
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
	return looking;
}

static int
compare_known(const ListCell *a, const ListCell *b)
{
	Oid			x = ((Known *) lfirst(a))->dboid;
	Oid			y = ((Known *) lfirst(b))->dboid;

	return x < y ? -1 : x > y;
}

/* Add a database to the list of those for which PostgreSQL has no slot. */
static void
note_waiting(StringInfo waiting, const Known *k)
{
	appendStringInfo(waiting, "%s\"%s\"", waiting->len > 0 ? ", " : "", NameStr(k->name));
}

/*
 * Start the workers that are missing, the builders that are needed, and if all are there the
 * auditor; of the databases that have not been looked at yet, one at a time, in the order of their
 * OIDs.  So after each start the same one of several databases with one prefix comes first, and has
 * its keys.
 */
static void
start_missing(Launcher *launcher, bool looking, TimestampTz now)
{
	HASH_SEQ_STATUS status;
	Known	   *k;
	List	   *all = NIL;
	ListCell   *lc;
	StringInfoData waiting;

	initStringInfo(&waiting);
	hash_seq_init(&status, launcher->known);
	while ((k = hash_seq_search(&status)) != NULL)
		all = lappend(all, k);
	list_sort(all, compare_known);
	foreach(lc, all)
	{
		EcDatabase *slot;

		k = lfirst(lc);
		if (k->handle != NULL || k->absent || now < k->retry_at || ec_database_is_banned(k->dboid))
			continue;
		slot = ec_database_find(k->dboid);
		if (slot == NULL && looking)
			continue;
		if (start_worker(k))
		{
			looking |= slot == NULL;
			continue;
		}
		note_waiting(&waiting, k);
		if (slot != NULL && slot->worker_pid == 0)
			ec_state_demand_purge(slot);
	}
	/* no builder takes the place of a worker */
	foreach(lc, all)
		if (waiting.len == 0 && !start_builder(lfirst(lc), now))
			note_waiting(&waiting, lfirst(lc));
	if (waiting.len > 0)
		complain(launcher, waiting.data, now);
	else
		start_auditor(launcher, all, now);
	pfree(waiting.data);
	list_free(all);
}

/* There is no slot for the workers of these databases: say so, but not all the time. */
static void
complain(Launcher *launcher, const char *waiting, TimestampTz now)
{
	if (launcher->complained_at != 0 &&
		!TimestampDifferenceExceeds(launcher->complained_at, now, COMPLAIN_MS))
		return;
	launcher->complained_at = now;
	ereport(LOG,
			(errmsg("echocache: no background worker slot is free for database %s", waiting),
			 errdetail("Documents of a database without a worker are not cached, and without a "
					   "builder those that need one only when they are read."),
			 errhint("Increase max_worker_processes.")));
}

/* Before this process exits: nobody need wake it any more. */
static void
launcher_exit(int code, Datum arg)
{
	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	ec_shmem->launcher_pid = 0;
	LWLockRelease(ec_shmem->lock);
}

/* Take over from the postmaster, or from a launcher that has ended. */
static void
begin(Launcher *launcher)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(Known)};

	ec_session_begin(InvalidOid);
	before_shmem_exit(launcher_exit, (Datum) 0);
	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	ec_shmem->launcher_pid = MyProcPid;
	LWLockRelease(ec_shmem->lock);

	ec_resolver_begin();
	launcher->known = hash_create("echocache databases", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	for (int d = 0; d < EC_MAX_DATABASES; d++)
		ec_shmem_wake(ec_shmem->database[d].worker_pid); /* of the launcher before us */
	launcher->standby = RecoveryInProgress();
	ec_topology_publish(true);
}

/*
 * Publish another topology if the settings ask for it, a promotion, or a worker.  A reload has
 * all names looked up again.
 */
static void
follow_settings(Launcher *launcher)
{
	bool		publish = ec_shmem->republish;
	bool		promoted = false;

	if (ConfigReloadPending)
	{
		bool		was_enabled = ec_guc_enabled;
		char	   *hosts = pstrdup(ec_guc_hosts);

		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		publish |= was_enabled != ec_guc_enabled || strcmp(hosts, ec_guc_hosts) != 0;
		ec_resolver_restart();
		pfree(hosts);
	}
	if (launcher->standby && !RecoveryInProgress())
	{
		/* promoted: the cache may hold what this timeline does not have */
		launcher->standby = false;
		ec_shmem->promoted = ec_shmem->identity.was_standby;
		promoted = true;
	}
	if (publish || promoted)
		ec_topology_publish(promoted);
}

/*
 * Has somebody asked that all databases are looked at again, or is a ban over?  Then every
 * database may have a worker at once.
 */
static bool
take_rescan(Launcher *launcher, TimestampTz now)
{
	HASH_SEQ_STATUS status;
	Known	   *k;
	bool		rescan;

	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	rescan = ec_shmem->rescans != launcher->rescans;
	launcher->rescans = ec_shmem->rescans;
	for (int i = 0; i < EC_MAX_BANS; i++)
		if (ec_shmem->bans[i].dboid != InvalidOid && now >= ec_shmem->bans[i].until)
		{
			ec_shmem->bans[i] = (EcBan) {0};
			rescan = true;
		}
	LWLockRelease(ec_shmem->lock);
	if (!rescan)
		return false;
	hash_seq_init(&status, launcher->known);
	while ((k = hash_seq_search(&status)) != NULL)
	{
		k->absent = false;
		k->backoff_ms = 0;
		k->retry_at = 0;
	}
	return true;
}

void
echocache_launcher_main(Datum arg)
{
	Launcher	launcher = {0};

	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "echocache launcher",
												ALLOCSET_DEFAULT_SIZES));
	begin(&launcher);
	for (;;)
	{
		TimestampTz now;
		bool		rescan;

		CHECK_FOR_INTERRUPTS();
		follow_settings(&launcher);
		now = GetCurrentTimestamp();
		rescan = take_rescan(&launcher, now);
		if (rescan || now >= launcher.scan_at)
		{
			scan_databases(launcher.known);
			launcher.scan_at = TimestampTzPlusMilliseconds(now, SCAN_INTERVAL_MS);
		}
		start_missing(&launcher, note_ended(launcher.known, now), now);
		ec_resolver_run();
		ec_resolver_nap(LAUNCHER_NAP_MS);
	}
}
