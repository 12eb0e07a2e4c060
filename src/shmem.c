/*-------------------------------------------------------------------------
 *
 * shmem.c
 *	  The shared memory of the extension: its layout and its allocation.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "shmem.h"
#include "waitevent.h"

/* Backends, autovacuum and background workers, auxiliary processes. */
#define PROC_SLOTS	(MaxBackends + NUM_AUXILIARY_PROCS)

EcShared   *ec_shmem = NULL;

/* See ec_shmem_may_log(). */
#define LOG_AGAIN_MS	60000

static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
static shmem_request_hook_type prev_shmem_request_hook = NULL;

static Size shmem_size(void);
static void shmem_request(void);
static void init_states(EcDatabase *db);
static void init_slot(EcSlot *slot);
static void init_identity(EcIdentity *identity);
static void shmem_startup(void);

/* How much shared memory there is to be.  For after MaxBackends is known. */
static Size
shmem_size(void)
{
	return add_size(offsetof(EcShared, entered),
					mul_size(PROC_SLOTS, sizeof(pg_atomic_uint64)));
}

/* Hook: ask for the shared memory, and for the two locks in it. */
static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(shmem_size());
	RequestNamedLWLockTranche("echocache", 2);
}

/* Every server is RECOVERING, and must be purged; nothing is demanded of the worker. */
static void
init_states(EcDatabase *db)
{
	for (int i = 0; i < EC_MAX_SERVERS; i++)
	{
		pg_atomic_init_u64(&db->state[i], EC_STATE_WORD(1, true, EC_RECOVERING));
		pg_atomic_init_u64(&db->whole_noted[i], 0);
		pg_atomic_init_u64(&db->may_flush[i], 0);
		pg_atomic_init_u64(&db->may_keep[i], 0);
		pg_atomic_init_u64(&db->lease_until[i], 0);
	}
	for (int anew = 0; anew < 2; anew++)
		pg_atomic_init_u64(&db->dependency_demands[anew], 0);
}

/* Nothing has been counted, timed or changed. */
static void
init_slot(EcSlot *slot)
{
	pg_atomic_init_u64(&slot->async_lsn, 0);
	pg_atomic_init_u64(&slot->epoch, 0);
	for (int c = 0; c < EC_NCOUNTERS; c++)
		pg_atomic_init_u64(&slot->counter[c], 0);
	for (int k = 0; k < EC_NLATENCIES; k++)
	{
		for (int b = 0; b < EC_LATENCY_BUCKETS; b++)
			pg_atomic_init_u64(&slot->latency[k].bucket[b], 0);
		pg_atomic_init_u64(&slot->latency[k].sum_ns, 0);
		pg_atomic_init_u64(&slot->latency[k].max_ns, 0);
	}
	pg_atomic_init_u64(&slot->build_logged, 0);
	pg_atomic_init_u64(&slot->render_logged, 0);
	pg_atomic_init_u32(&slot->warm_pid, 0);
	pg_atomic_init_u64(&slot->warm_started, 0);
	pg_atomic_init_u64(&slot->warm_total, 0);
	pg_atomic_init_u64(&slot->warm_done, 0);
	pg_atomic_init_u64(&slot->warm_stored, 0);
}

/*
 * Which cluster this is: the data directory, on the kernel that runs, in this life.  Where the
 * kernel has no boot id the cluster is not told from itself before a restart.
 */
static void
init_identity(EcIdentity *identity)
{
	static const char boot_id_file[] = "/proc/sys/kernel/random/boot_id";
	struct stat st;
	uint8		random[EC_LEASE_RANDOM / 2];
	FILE	   *file = fopen(boot_id_file, "r");

	if (!pg_strong_random(random, sizeof(random)))
		ereport(FATAL,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random number")));
	(void) hex_encode((char *) random, sizeof(random), identity->life);
	if (file != NULL)
	{
		size_t		len = fread(identity->boot_id, 1, EC_LEASE_ID_MAX, file);

		identity->boot_id[len] = '\0';
		identity->boot_id[strspn(identity->boot_id, "0123456789abcdef-")] = '\0';
		(void) fclose(file);
	}
	if (stat(DataDir, &st) == 0)
	{
		identity->device = (uint64) st.st_dev;
		identity->inode = (uint64) st.st_ino;
	}
	else
		identity->boot_id[0] = '\0';
	identity->was_standby = access("standby.signal", F_OK) == 0;
}

/*
 * Hook: make what is in the shared memory, as the postmaster starts or begins anew after a
 * crash.  There is no topology yet: topology.c publishes the first one.
 */
static void
shmem_startup(void)
{
	bool		found;
	Size		size = shmem_size();

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	ec_shmem = ShmemInitStruct("echocache", size, &found);
	if (!found)
	{
		memset(ec_shmem, 0, size);
		ec_shmem->lock = &GetNamedLWLockTranche("echocache")[0].lock;
		ec_shmem->ring_lock = &GetNamedLWLockTranche("echocache")[1].lock;
		init_identity(&ec_shmem->identity);
		for (int d = 0; d < EC_MAX_DATABASES; d++)
			init_states(&ec_shmem->database[d]);
		init_states(&ec_shmem->unclaimed);
		for (int d = 0; d < EC_MAX_ATTACHMENTS; d++)
			init_slot(&ec_shmem->slot[d]);
		pg_atomic_init_u64(&ec_shmem->epochs, 0);
		ec_shmem->nprocs = PROC_SLOTS;
		for (int i = 0; i < ec_shmem->nprocs; i++)
			pg_atomic_init_u64(&ec_shmem->entered[i], 0);
		ec_shmem->stats_reset = GetCurrentTimestamp();
		pg_atomic_init_u64(&ec_shmem->generation, 0);
		pg_atomic_init_u64(&ec_shmem->list_generation, 0);
		pg_atomic_init_u64(&ec_shmem->no_launcher_logged, (uint64) ec_shmem->stats_reset);
		pg_atomic_init_u64(&ec_shmem->no_slot_logged, 0);
		pg_atomic_init_u64(&ec_shmem->no_database_logged, 0);
	}
	LWLockRelease(AddinShmemInitLock);
	ec_waitevent_init();
}

/* Install the hooks.  Called from _PG_init while libraries are preloaded. */
void
ec_shmem_init(void)
{
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
}

/* Throws 55000 unless the library was preloaded by the postmaster. */
void
ec_shmem_require(void)
{
	if (ec_shmem == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("echocache must be loaded via \"shared_preload_libraries\""),
				 errhint("Add the line shared_preload_libraries = 'echocache' to "
						 "postgresql.conf and restart the server.")));
}

/* Set the latch of another backend or worker, if it is there. */
void
ec_shmem_wake(int pid)
{
	PGPROC	   *proc = pid ? BackendPidGetProc(pid) : NULL;

	if (proc)
		SetLatch(&proc->procLatch);
}

/*
 * May what was logged last at this time, a TimestampTz, be logged again?  Once a minute; the
 * process that is told so is the one that logs.
 */
bool
ec_shmem_may_log(pg_atomic_uint64 *last)
{
	uint64		now = (uint64) GetCurrentTimestamp();
	uint64		logged = pg_atomic_read_u64(last);

	return TimestampDifferenceExceeds((TimestampTz) logged, (TimestampTz) now, LOG_AGAIN_MS) &&
		pg_atomic_compare_exchange_u64(last, &logged, now);
}
