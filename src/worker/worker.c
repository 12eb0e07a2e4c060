/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  The worker of a database: its life, and when it looks at which server.
 *
 * Each database that has the extension has one worker.  The worker claims the database's slot,
 * makes the keys of its attachments known, and then sees to the servers: those that are not
 * UP are taken as far as they go (recovery.c), again and again.  Whoever makes a server DOWN
 * wakes the worker.
 *
 * The worker ends, and the launcher starts another, when the configuration is reloaded, since
 * only a new connection sees ALTER DATABASE ... SET, and when the launcher itself is another.
 * The states of the servers outlive it.  It also ends when the extension is gone, and when a
 * command needs the database for itself.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/depend.h"
#include "compat.h"
#include "deadline.h"
#include "guc.h"
#include "servers/lease.h"
#include "servers/placement.h"
#include "servers/purge.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"
#include "sql/kv_keys.h"
#include "worker/database.h"
#include "worker/recovery.h"
#include "worker/session.h"
#include "worker/worker.h"

#define WORKER_NAP_MS		10000	/* when all is well */
#define RECORD_MS			1000	/* from a demand to record dependencies until that is done */
#define PROMOTED_NAP_MS		100		/* until a promotion is published */

/* When each server of a generation is to be tried again. */
typedef struct Schedule
{
	uint64		generation;
	bool		all_up;			/* no server is to be tried again */
	EcDeadline	retry_at[EC_MAX_SERVERS];
} Schedule;

/* Dependencies that are to be recorded; when the worker starts, what is not there. */
typedef struct Recording
{
	uint64		demands[2];		/* as many there were; [1]: to do it anew */
	bool		due;
	bool		again;			/* another one was demanded while it was due */
	bool		anew;
	EcDeadline	at;				/* when to do it, or to try again */
	MemoryContext context;		/* of the next one */
	List	   *names;			/* of the attachments; NIL: all */
} Recording;

static bool extension_exists(void);
static void worker_exit(int code, Datum arg);
static EcDatabase *begin(void);
static void end_if_told(EcDatabase *db);
static int	see_to_servers(EcDatabase *db, Schedule *schedule);
static int	see_to_dependencies(EcDatabase *db, Recording *recording);
static void renew_leases(void);

/* Is the extension in this database, and can be used?  If not that, the log has why. */
static bool
extension_exists(void)
{
	bool		exists;

	StartTransactionCommand();
	exists = OidIsValid(get_extension_oid("echocache", true)) &&
		OidIsValid(ec_catalog_document(true));
	ec_catalog_report_version(LOG);
	CommitTransactionCommand();
	return exists;
}

/*
 * Before this process exits, perhaps in the middle of an exchange: nobody need wake it any
 * more, nor wait until it leaves the topology.
 */
static void
worker_exit(int code, Datum arg)
{
	ec_topology_at_end(0);
	ec_database_worker_gone();
}

/*
 * Connect to the database and claim its slot.  Exits where there is nothing to do for a
 * worker.
 */
static EcDatabase *
begin(void)
{
	Oid			dboid = DatumGetObjectId(MyBgworkerEntry->bgw_main_arg);
	EcDatabase *db;

	ec_session_begin(dboid);
	if (!extension_exists())
	{
		ec_database_free(dboid);
		proc_exit(0);
	}

	/*
	 * A worker of an earlier launcher may still be about to go.  And a generation may be about
	 * to come, in which nobody has the prefix of a slot any more that was given up.
	 */
	while (ec_database_has_other_worker() || ec_shmem->republish)
	{
		if (!ec_session_launcher_is_ours() || ec_database_is_banned(dboid))
			proc_exit(0);
		ec_deadline_nap(EC_WAIT_FOR_LOCK_MS, EC_WAIT_WORKER);
	}
	db = ec_database_claim();
	if (db == NULL)
		proc_exit(0);
	before_shmem_exit(worker_exit, (Datum) 0);

	/* from now on nobody stores anything else under the keys of this database's documents */
	StartTransactionCommand();
	ec_attachment_claim_slots();
	ec_kv_keys_await();
	CommitTransactionCommand();
	pgstat_report_activity(STATE_IDLE, NULL);
	return db;
}

/* Exits when this worker has to; see the banner. */
static void
end_if_told(EcDatabase *db)
{
	if (ConfigReloadPending)
	{
		db->reloading = true;
		proc_exit(0);
	}
	if (!ec_session_launcher_is_ours())
		proc_exit(0);
	if (ec_database_is_banned(MyDatabaseId) || !extension_exists())
	{
		ec_database_free(MyDatabaseId);
		proc_exit(0);
	}
}

/*
 * Take every server that is not UP one step further, if it is time to.  The topology is
 * entered throughout, outside of any transaction.  Returns in how many ms to look again.
 *
 * After a promotion nothing is done before the launcher has published it: the leases that
 * were watched until then are the old primary's.
 */
static int
see_to_servers(EcDatabase *db, Schedule *schedule)
{
	int			nap = WORKER_NAP_MS;
	bool		standby = db->standby;

	schedule->all_up = true;
	if (standby && !RecoveryInProgress())
		return PROMOTED_NAP_MS;
	if (!ec_placement_enter())
		return nap;
	if (schedule->generation != ec_placement_generation())
		memset(schedule, 0, sizeof(Schedule));
	schedule->generation = ec_placement_generation();
	schedule->all_up = true;
	for (int i = 0; i < ec_placement_size(); i++)
	{
		int			retry_ms = standby ? Min(ec_guc_retry_interval, ec_guc_lease / 3)
			: ec_guc_retry_interval;

		if (!standby)
			ec_lease_renew(db);
		/* what was not logged because the state had changed often */
		if (EC_STATE(ec_state_word(db, i)) == EC_DOWN)
			(void) ec_state_tell_down(i);
		if (EC_STATE(ec_state_word(db, i)) == EC_UP)
			ec_state_tell_up(i, 0);
		if (!standby && EC_STATE(ec_state_word(db, i)) == EC_UP)
			continue;
		if (ec_deadline_left(schedule->retry_at[i]) == 0)
		{
			if (standby)
				ec_recovery_watch(db, i);
			else if (ec_recovery_run(db, i, &retry_ms))
				continue;
			schedule->retry_at[i] = ec_deadline_in(retry_ms);
		}
		schedule->all_up = false;
		nap = Min(nap, Max(ec_deadline_left(schedule->retry_at[i]), 1));
	}
	if (schedule->all_up && schedule->generation > db->old_prefix_generation)
		db->has_old_prefix = false; /* purged everywhere, and used by nobody */
	if (!standby)
	{
		ec_recovery_clear_late_rows(db);
		nap = Min(nap, ec_lease_nap(db));
	}
	ec_topology_leave();
	return nap;
}

/*
 * Record what attachments depend on, if that is demanded.  Not at once: the one who has demanded
 * it may have committed just now, and what tells of that be on its way.  A busy table is tried
 * again.  Returns in how many ms to look again.
 */
static int
see_to_dependencies(EcDatabase *db, Recording *recording)
{
	MemoryContext old;

	if (RecoveryInProgress())
		return WORKER_NAP_MS;
	for (int anew = 0; anew < 2; anew++)
	{
		uint64		demands = pg_atomic_read_u64(&db->dependency_demands[anew]);

		if (recording->demands[anew] == demands)
			continue;
		recording->demands[anew] = demands;
		recording->anew |= anew;
		if (recording->due)
			recording->again = true;
		else
			recording->at = ec_deadline_in(RECORD_MS);
		recording->due = true;
		recording->names = NIL;
	}
	if (!recording->due)
		return WORKER_NAP_MS;
	if (ec_deadline_left(recording->at) > 0)
		return ec_deadline_left(recording->at);
	old = MemoryContextSwitchTo(recording->context);
	recording->names = ec_depend_record_all(recording->names, recording->anew);
	MemoryContextSwitchTo(old);
	recording->due = recording->names != NIL || recording->again;
	recording->at = ec_deadline_in(RECORD_MS);
	recording->again = false;
	if (recording->due)
		return RECORD_MS;
	recording->anew = false;
	MemoryContextReset(recording->context);
	memcpy(db->dependency_met, recording->demands, sizeof(db->dependency_met));
	return WORKER_NAP_MS;
}

/* Between the batches of a purge: the leases of all servers go on. */
static void
renew_leases(void)
{
	ec_lease_renew(ec_state_database());
}

void
echocache_worker_main(Datum arg)
{
	EcDatabase *db = begin();
	Schedule	schedule = {0};
	Recording	recording = {{db->dependency_met[0], db->dependency_met[1]}, true};
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "echocache worker",
												  ALLOCSET_DEFAULT_SIZES);

	recording.context = AllocSetContextCreate(TopMemoryContext, "echocache dependencies",
											  ALLOCSET_SMALL_SIZES);
	ec_purge_on_batch(renew_leases);
	for (;;)
	{
		int			nap;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
		end_if_told(db);
		nap = see_to_servers(db, &schedule);
		nap = Min(nap, see_to_dependencies(db, &recording));
		ec_deadline_nap(nap, schedule.all_up ? EC_WAIT_WORKER : EC_WAIT_RECOVERY);
	}
}
