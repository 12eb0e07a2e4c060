/*-------------------------------------------------------------------------
 *
 * shmem.c
 *	  Shared state: allocation, server states, documents' counters.  The rules are in
 *	  shmem.h.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "topology.h"

/* Backends, autovacuum and background workers, auxiliary processes. */
#define EC_PROC_SLOTS	(MaxBackends + NUM_AUXILIARY_PROCS)

EcShared   *ec_shmem = NULL;

static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
static shmem_request_hook_type prev_shmem_request_hook = NULL;

static Size shmem_size(int nprocs);
static void shmem_request(void);
static void init_states(EcDatabase *db);
static void shmem_startup(void);
static bool make_down(EcDatabase *db, int server);

/* With room for the processes that there can be when MaxBackends is not known yet. */
static Size
shmem_size(int nprocs)
{
	return add_size(offsetof(EcShared, entered),
					mul_size(nprocs, sizeof(pg_atomic_uint64)));
}

#ifdef EC_NO_SHMEM_REQUEST_HOOK
/* As InitializeMaxBackends() will compute it, which has not run yet. */
static int
proc_slots_before_init(void)
{
	return MaxConnections + autovacuum_max_workers + 1 + max_worker_processes +
		max_wal_senders + NUM_AUXILIARY_PROCS;
}
#endif

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
#ifdef EC_NO_SHMEM_REQUEST_HOOK
	RequestAddinShmemSpace(shmem_size(proc_slots_before_init()));
#else
	RequestAddinShmemSpace(shmem_size(EC_PROC_SLOTS));
#endif
	RequestNamedLWLockTranche("echocache", 1);
}

/* Every server is RECOVERING, and must be purged. */
static void
init_states(EcDatabase *db)
{
	for (int i = 0; i < EC_MAX_SERVERS; i++)
	{
		pg_atomic_init_u64(&db->state[i], EC_STATE_WORD(1, true, EC_RECOVERING));
		pg_atomic_init_u64(&db->whole_noted[i], 0);
		pg_atomic_init_u64(&db->may_flush[i], 0);
	}
}

static void
shmem_startup(void)
{
	bool		found;
	Size		size = shmem_size(EC_PROC_SLOTS);

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	ec_shmem = ShmemInitStruct("echocache", size, &found);
	if (!found)
	{
		memset(ec_shmem, 0, size);
		ec_shmem->lock = &GetNamedLWLockTranche("echocache")->lock;
		for (int d = 0; d < EC_MAX_DATABASES; d++)
			init_states(&ec_shmem->database[d]);
		init_states(&ec_shmem->unclaimed);
		for (int d = 0; d < EC_MAX_ATTACHMENTS; d++)
		{
			pg_atomic_init_u64(&ec_shmem->slot[d].async_lsn, 0);
			for (int c = 0; c < EC_NCOUNTERS; c++)
				pg_atomic_init_u64(&ec_shmem->slot[d].counter[c], 0);
			pg_atomic_init_u32(&ec_shmem->slot[d].warm_pid, 0);
			pg_atomic_init_u64(&ec_shmem->slot[d].warm_started, 0);
			pg_atomic_init_u64(&ec_shmem->slot[d].warm_total, 0);
			pg_atomic_init_u64(&ec_shmem->slot[d].warm_done, 0);
			pg_atomic_init_u64(&ec_shmem->slot[d].warm_stored, 0);
		}
		ec_shmem->nprocs = EC_PROC_SLOTS;
		for (int i = 0; i < ec_shmem->nprocs; i++)
			pg_atomic_init_u64(&ec_shmem->entered[i], 0);
		ec_shmem->stats_reset = GetCurrentTimestamp();
		ec_topology_init();
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Install the hooks.  Called from _PG_init while libraries are preloaded. */
void
ec_shmem_init(void)
{
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
#ifdef EC_NO_SHMEM_REQUEST_HOOK
	shmem_request();
#else
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
#endif
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

/*
 * This database's slot, or NULL when its worker has not claimed one yet; the
 * launcher is then told.  Slots are claimed and freed under the lock; the oid
 * is checked without it, which at worst sees a slot a moment too late.
 */
EcDatabase *
ec_state_database(void)
{
	static EcDatabase *cached = NULL;

	if (cached != NULL && cached->dboid == MyDatabaseId)
		return cached;
	for (int i = 0; i < EC_MAX_DATABASES; i++)
	{
		if (ec_shmem->database[i].dboid == MyDatabaseId)
		{
			cached = &ec_shmem->database[i];
			return cached;
		}
	}
	return NULL;
}

/*
 * A server's state for this database.  Without a slot nobody makes it UP: what an
 * earlier life left in the cache must be invalidated, and nothing be read.
 */
EcState
ec_state_of(int server)
{
	EcDatabase *db = ec_state_database();

	if (db == NULL)
		db = &ec_shmem->unclaimed;
	if (db->standby && !RecoveryInProgress())
		return EC_RECOVERING;	/* just promoted: the launcher has not seen it yet */
	return EC_STATE(pg_atomic_read_u64(&db->state[server]));
}

uint64
ec_state_word(EcDatabase *db, int server)
{
	return pg_atomic_read_u64(&db->state[server]);
}

/*
 * The same, for one who has entered this generation: false if there is a newer one,
 * whose servers the words are about.  They are reset together with the generation, so
 * that a word from here cannot be swapped any more after that.
 */
bool
ec_state_read(EcDatabase *db, int server, uint64 generation, uint64 *word)
{
	bool		current;

	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	current = ec_topology_is_current(generation);
	*word = ec_state_word(db, server);
	LWLockRelease(ec_shmem->lock);
	return current;
}

/*
 * Change a state that is still what the caller saw, who gets the new word; the
 * epoch grows, so that whoever else works on the old one finds out.
 */
bool
ec_state_swap(EcDatabase *db, int server, uint64 *word, EcState to, bool purge)
{
	uint64		from = *word;
	uint64		new = EC_STATE_WORD(EC_EPOCH(from) + 1, purge, to);

	if (!pg_atomic_compare_exchange_u64(&db->state[server], &from, new))
		return false;
	*word = new;
	db->since[server] = GetCurrentTimestamp();
	return true;
}

/* Every server of this database is RECOVERING, and must be purged: a new start. */
void
ec_state_reset(EcDatabase *db)
{
	for (int i = 0; i < EC_MAX_SERVERS; i++)
	{
		uint64		word;

		do
			word = ec_state_word(db, i);
		while (!ec_state_swap(db, i, &word, EC_RECOVERING, true));
	}
}

/*
 * Has the outbox a row for every document as a whole, for as long as this server
 * stays DOWN?  To be asked under its outbox lock: the worker takes them up only
 * when the state has changed and we have ended.
 */
bool
ec_state_all_noted(int server)
{
	EcDatabase *db = ec_state_database();
	uint64		word;

	if (db == NULL)
		return false;
	word = ec_state_word(db, server);
	return EC_STATE(word) == EC_DOWN && pg_atomic_read_u64(&db->whole_noted[server]) == word;
}

/* Make a server DOWN for this database, unless it is.  Returns whether it was not. */
static bool
make_down(EcDatabase *db, int server)
{
	uint64		word;

	do
	{
		word = ec_state_word(db, server);
		if (EC_STATE(word) == EC_DOWN)
			return false;
	} while (!ec_state_swap(db, server, &word, EC_DOWN, EC_MUST_PURGE(word)));
	if (db->worker_pid != MyProcPid)
		ec_shmem_wake(db->worker_pid);
	return true;
}

/* A server that is UP for a database is worth a try for those that have no slot, too. */
void
ec_state_retry_unclaimed(int server)
{
	uint64		word = ec_state_word(&ec_shmem->unclaimed, server);

	if (EC_STATE(word) == EC_DOWN)
		(void) ec_state_swap(&ec_shmem->unclaimed, server, &word, EC_RECOVERING, true);
}

/*
 * An exchange with this server has failed: it is DOWN for every database, and
 * nobody waits for it again until a worker has brought it back.  Logged once,
 * by the one who changes the state.  May be called in the COMMIT callback.
 */
void
ec_state_down(uint64 generation, int server, const char *reason)
{
	bool		changed;
	EcServer   *s = &ec_shmem->server[server];

	if (!ec_topology_is_current(generation))
		return;					/* no server of the present topology */

	changed = make_down(&ec_shmem->unclaimed, server);
	for (int d = 0; d < EC_MAX_DATABASES; d++)
		if (OidIsValid(ec_shmem->database[d].dboid))
			changed |= make_down(&ec_shmem->database[d], server);

	ec_state_set_error(server, reason);
	if (changed)
		ereport(LOG,
				(errmsg("echocache: server \"%s\" is down: %s", s->name, reason),
				 errhidestmt(true), errhidecontext(true)));
}

/* Note why a server is not UP, for the view. */
void
ec_state_set_error(int server, const char *reason)
{
	EcServer   *s = &ec_shmem->server[server];

	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	strlcpy(s->last_error, reason, EC_ERROR_MAX);
	s->last_error_at = GetCurrentTimestamp();
	LWLockRelease(ec_shmem->lock);
}

/* And why it is not, palloc'd. */
char *
ec_state_error(int server)
{
	char		reason[EC_ERROR_MAX];

	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	strlcpy(reason, ec_shmem->server[server].last_error, sizeof(reason));
	LWLockRelease(ec_shmem->lock);
	return pstrdup(reason);
}

/* Set the latch of another backend or worker, if it is there. */
void
ec_shmem_wake(int pid)
{
	PGPROC	   *proc = pid ? BackendPidGetProc(pid) : NULL;

	if (proc)
		SetLatch(&proc->procLatch);
}

const char *
ec_state_name(EcState state)
{
	switch (state)
	{
		case EC_DOWN:
			return "DOWN";
		case EC_RECOVERING:
			return "RECOVERING";
		case EC_UP:
			return "UP";
	}
	return "?";
}

/* The prefix of a database's keys, as far as it is known. */
static const char *
prefix_of(Oid dboid)
{
	for (int i = 0; i < EC_MAX_DATABASES; i++)
		if (ec_shmem->database[i].dboid == dboid)
			return ec_shmem->database[i].prefix;
	return dboid == MyDatabaseId ? ec_guc_key_prefix : NULL;
}

/*
 * The slot of an attached document in this database, claimed if need be.  NULL:
 * all are taken, or another database has a document with the same keys.  A
 * document without a slot is neither read from the cache nor stored.
 */
EcSlot *
ec_slot_claim(Oid relid, const char *name)
{
	EcSlot *slot = NULL;
	EcSlot *free_slot = NULL;
	bool		taken = false;

	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	for (int i = 0; i < EC_MAX_ATTACHMENTS; i++)
	{
		EcSlot *d = &ec_shmem->slot[i];

		if (d->dboid == InvalidOid)
			free_slot = free_slot ? free_slot : d;
		else if (d->dboid == MyDatabaseId && d->relid == relid)
			slot = d;
		else if (d->dboid != MyDatabaseId && strcmp(d->name, name) == 0)
		{
			const char *mine = prefix_of(MyDatabaseId);
			const char *other = prefix_of(d->dboid);

			taken |= other != NULL && strcmp(mine, other) == 0;
		}
	}
	if (taken && slot == NULL)
		free_slot = NULL;
	if (slot == NULL && free_slot != NULL)
	{
		slot = free_slot;
		slot->dboid = MyDatabaseId;
		slot->relid = relid;
		pg_atomic_write_u64(&slot->async_lsn, 0);
		for (int c = 0; c < EC_NCOUNTERS; c++)
			pg_atomic_write_u64(&slot->counter[c], 0);
	}
	if (slot != NULL)
		strlcpy(slot->name, name, sizeof(slot->name));
	LWLockRelease(ec_shmem->lock);

	if (slot == NULL && taken)
		ereport(LOG,
				(errmsg("echocache: document \"%s\" is not cached in this database", name),
				 errdetail("Another database has a document of that name and the same "
						   "echocache.key_prefix."),
				 errhint("Use ALTER DATABASE ... SET echocache.key_prefix, then "
						 "SELECT pg_reload_conf().")));
	else if (slot == NULL)
		ereport(LOG,
				(errmsg("echocache: document \"%s\" is not cached", name),
				 errdetail("More than %d tables are attached in this cluster.",
						   EC_MAX_ATTACHMENTS)));
	return slot;
}

/* Has a table of this database a slot? */
bool
ec_slot_exists(Oid relid)
{
	bool		has = false;

	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	for (int i = 0; i < EC_MAX_ATTACHMENTS && !has; i++)
		has = ec_shmem->slot[i].dboid == MyDatabaseId &&
			ec_shmem->slot[i].relid == relid;
	LWLockRelease(ec_shmem->lock);
	return has;
}

/* Give up a document's slot, after it was detached. */
void
ec_slot_free(Oid relid)
{
	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	for (int i = 0; i < EC_MAX_ATTACHMENTS; i++)
	{
		EcSlot *d = &ec_shmem->slot[i];

		if (d->dboid == MyDatabaseId && d->relid == relid)
			d->dboid = InvalidOid;
	}
	LWLockRelease(ec_shmem->lock);
}

/* Count; a document without a slot is not counted. */
void
ec_slot_count(EcSlot *slot, EcCounter what, uint64 by)
{
	if (slot != NULL && by > 0)
		pg_atomic_fetch_add_u64(&slot->counter[what], by);
}

/*
 * G4: a commit that is not flushed yet has changed this document.  Called in
 * the COMMIT callback, with the locks held: who fills next sees it.
 */
void
ec_slot_publish_async(EcSlot *slot, XLogRecPtr lsn)
{
	uint64		old;

	if (slot == NULL)
		return;
	old = pg_atomic_read_u64(&slot->async_lsn);
	while (old < lsn && !pg_atomic_compare_exchange_u64(&slot->async_lsn, &old, lsn))
		;
}

/* May what the table says of this document be stored, as far as G4 goes? */
bool
ec_slot_is_flushed(EcSlot *slot)
{
	XLogRecPtr	lsn = pg_atomic_read_u64(&slot->async_lsn);

	return lsn == 0 || !XLogNeedsFlush(lsn);
}
