/*-------------------------------------------------------------------------
 *
 * shmem.c
 *	  Shared state: allocation, the topology's generations, server states,
 *	  documents' counters.  The rules are in shmem.h.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "shmem.h"

/* Backends, autovacuum and background workers, auxiliary processes. */
#define EC_PROC_SLOTS	(MaxBackends + NUM_AUXILIARY_PROCS)

/* By then the launcher has published something, or will not. */
#define FIRST_TOPOLOGY_MS	5000

EcShared   *ec_shared = NULL;

/*
 * How often this process has entered the topology (a read within a read, or
 * within what renders a document at commit), and at which nesting level first.
 */
static int	entered_depth = 0;
static int	entered_level = 0;

static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
static shmem_request_hook_type prev_shmem_request_hook = NULL;

static Size shmem_size(int nprocs);
static void shmem_request(void);
static void shmem_startup(void);

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

static void
shmem_startup(void)
{
	bool		found;
	Size		size = shmem_size(EC_PROC_SLOTS);

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	ec_shared = ShmemInitStruct("echocache", size, &found);
	if (!found)
	{
		memset(ec_shared, 0, size);
		ec_shared->lock = &GetNamedLWLockTranche("echocache")->lock;
		pg_atomic_init_u64(&ec_shared->generation, EC_FIRST_GENERATION);
		for (int i = 0; i < EC_MAX_SERVERS; i++)
		{
			pg_atomic_init_u32(&ec_shared->server[i].connections, 0);
			pg_atomic_init_u32(&ec_shared->server[i].kept, 0);
			pg_atomic_init_u64(&ec_shared->server[i].item_max, 0);
		}
		for (int d = 0; d < EC_MAX_DATABASES; d++)
			for (int i = 0; i < EC_MAX_SERVERS; i++)
			{
				pg_atomic_init_u64(&ec_shared->database[d].state[i],
								   EC_STATE_WORD(1, true, EC_RECOVERING));
				pg_atomic_init_u64(&ec_shared->database[d].whole_noted[i], 0);
				pg_atomic_init_u64(&ec_shared->database[d].may_flush[i], 0);
			}
		for (int d = 0; d < EC_MAX_DOCUMENTS; d++)
		{
			pg_atomic_init_u64(&ec_shared->document[d].async_lsn, 0);
			for (int c = 0; c < EC_NCOUNTERS; c++)
				pg_atomic_init_u64(&ec_shared->document[d].counter[c], 0);
			pg_atomic_init_u32(&ec_shared->document[d].warm_pid, 0);
			pg_atomic_init_u64(&ec_shared->document[d].warm_started, 0);
			pg_atomic_init_u64(&ec_shared->document[d].warm_total, 0);
			pg_atomic_init_u64(&ec_shared->document[d].warm_done, 0);
			pg_atomic_init_u64(&ec_shared->document[d].warm_stored, 0);
		}
		ec_shared->nprocs = EC_PROC_SLOTS;
		for (int i = 0; i < ec_shared->nprocs; i++)
			pg_atomic_init_u64(&ec_shared->entered[i], 0);
		ec_shared->started_at = ec_shared->stats_reset = GetCurrentTimestamp();
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
ec_require_preload(void)
{
	if (ec_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("echocache must be loaded via \"shared_preload_libraries\""),
				 errhint("Add the line shared_preload_libraries = 'echocache' to "
						 "postgresql.conf and restart the server.")));
}

/*
 * Right after a start a commit may come before the launcher has published the
 * first topology, and must withdraw what an earlier life left in the cache: wait
 * a moment, but not for a launcher that does not come.
 */
void
ec_topology_await_first(void)
{
	for (int waited = 0; waited < ec_timeout; waited++)
	{
		if (pg_atomic_read_u64(&ec_shared->generation) != EC_FIRST_GENERATION || !ec_enabled ||
			TimestampDifferenceExceeds(ec_shared->started_at, GetCurrentTimestamp(),
									   FIRST_TOPOLOGY_MS))
			return;
		pg_usleep(1000);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Enter the current topology: from here to ec_topology_leave() it stays the
 * one that counts for us, since nobody trusts a later one before we have left.
 * Returns its generation.  Never throws.
 */
uint64
ec_topology_enter(void)
{
	pg_atomic_uint64 *mine = &ec_shared->entered[ec_my_proc_slot()];
	uint64		generation;

	if (entered_depth > 0)
	{
		entered_depth++;
		return pg_atomic_read_u64(mine);
	}
	for (;;)
	{
		generation = pg_atomic_read_u64(&ec_shared->generation);
		pg_atomic_write_u64(mine, generation);
		pg_memory_barrier();	/* the entry is seen before the check is made */
		if (pg_atomic_read_u64(&ec_shared->generation) == generation)
			break;
	}
	entered_depth = 1;
	entered_level = GetCurrentTransactionNestLevel();
	return generation;
}

/* Leave it again. */
void
ec_topology_leave(void)
{
	Assert(entered_depth > 0);
	if (--entered_depth > 0)
		return;
	pg_memory_barrier();
	pg_atomic_write_u64(&ec_shared->entered[ec_my_proc_slot()], 0);
}

/* Is there none newer? */
bool
ec_topology_is_current(uint64 generation)
{
	return pg_atomic_read_u64(&ec_shared->generation) == generation;
}

/*
 * What was entered first in the (sub)transaction at this level, or below it, is
 * left with its end.  Deeper entries that an error has skipped stay counted until
 * the first one goes, which errs on the safe side.
 */
void
ec_topology_at_end(int level)
{
	if (entered_depth == 0 || entered_level < level)
		return;
	entered_depth = 1;
	ec_topology_leave();
}

/* Has everybody left the generations before this one? */
bool
ec_topology_all_left(uint64 before)
{
	pg_memory_barrier();
	for (int i = 0; i < ec_shared->nprocs; i++)
	{
		uint64		in = pg_atomic_read_u64(&ec_shared->entered[i]);

		if (in != 0 && in < before)
			return false;
	}
	return true;
}

/*
 * This database's slot, or NULL when its worker has not claimed one yet; the
 * launcher is then told.  Slots are claimed and freed under the lock; the oid
 * is checked without it, which at worst sees a slot a moment too late.
 */
EcDatabase *
ec_my_database(void)
{
	static EcDatabase *cached = NULL;

	if (cached != NULL && cached->dboid == MyDatabaseId)
		return cached;
	for (int i = 0; i < EC_MAX_DATABASES; i++)
	{
		if (ec_shared->database[i].dboid == MyDatabaseId)
		{
			cached = &ec_shared->database[i];
			return cached;
		}
	}
	return NULL;
}

/*
 * A server's state for this database.  Without a slot it is RECOVERING: what
 * an earlier life left in the cache must be withdrawn, and nothing be read.
 */
EcState
ec_server_state(int server)
{
	EcDatabase *db = ec_my_database();

	if (db == NULL || (db->standby && !RecoveryInProgress()))
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

	LWLockAcquire(ec_shared->lock, LW_SHARED);
	current = ec_topology_is_current(generation);
	*word = ec_state_word(db, server);
	LWLockRelease(ec_shared->lock);
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
ec_states_reset(EcDatabase *db)
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
ec_all_noted(int server)
{
	EcDatabase *db = ec_my_database();
	uint64		word;

	if (db == NULL)
		return false;
	word = ec_state_word(db, server);
	return EC_STATE(word) == EC_DOWN && pg_atomic_read_u64(&db->whole_noted[server]) == word;
}

/*
 * An exchange with this server has failed: it is DOWN for every database, and
 * nobody waits for it again until a worker has brought it back.  Logged once,
 * by the one who changes the state.  May be called in the COMMIT callback.
 */
void
ec_server_down(uint64 generation, int server, const char *reason)
{
	bool		changed = false;
	EcServer   *s = &ec_shared->server[server];

	if (!ec_topology_is_current(generation))
		return;					/* no server of the present topology */

	for (int d = 0; d < EC_MAX_DATABASES; d++)
	{
		EcDatabase *db = &ec_shared->database[d];

		if (db->dboid == InvalidOid)
			continue;
		for (;;)
		{
			uint64		word = ec_state_word(db, server);

			if (EC_STATE(word) == EC_DOWN)
				break;
			if (ec_state_swap(db, server, &word, EC_DOWN, EC_MUST_PURGE(word)))
			{
				changed = true;
				if (db->worker_pid != MyProcPid)
					ec_wake(db->worker_pid);
				break;
			}
		}
	}

	ec_server_error(server, reason);
	if (changed)
		ereport(LOG,
				(errmsg("echocache: server \"%s\" is down: %s", s->name, reason),
				 errhidestmt(true), errhidecontext(true)));
}

/* Note why a server is not UP, for the view. */
void
ec_server_error(int server, const char *reason)
{
	EcServer   *s = &ec_shared->server[server];

	LWLockAcquire(ec_shared->lock, LW_EXCLUSIVE);
	strlcpy(s->last_error, reason, EC_ERROR_MAX);
	s->last_error_at = GetCurrentTimestamp();
	LWLockRelease(ec_shared->lock);
}

/* And why it is not, palloc'd. */
char *
ec_server_reason(int server)
{
	char		reason[EC_ERROR_MAX];

	LWLockAcquire(ec_shared->lock, LW_SHARED);
	strlcpy(reason, ec_shared->server[server].last_error, sizeof(reason));
	LWLockRelease(ec_shared->lock);
	return pstrdup(reason);
}

/* Set the latch of another backend or worker, if it is there. */
void
ec_wake(int pid)
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
		if (ec_shared->database[i].dboid == dboid)
			return ec_shared->database[i].prefix;
	return dboid == MyDatabaseId ? ec_key_prefix : NULL;
}

/*
 * The slot of an attached document in this database, claimed if need be.  NULL:
 * all are taken, or another database has a document with the same keys.  A
 * document without a slot is neither read from the cache nor stored.
 */
EcDocumentSlot *
ec_document_slot(Oid relid, const char *name)
{
	EcDocumentSlot *slot = NULL;
	EcDocumentSlot *free_slot = NULL;
	bool		taken = false;

	LWLockAcquire(ec_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < EC_MAX_DOCUMENTS; i++)
	{
		EcDocumentSlot *d = &ec_shared->document[i];

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
	LWLockRelease(ec_shared->lock);

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
						   EC_MAX_DOCUMENTS)));
	return slot;
}

/* Has a table of this database a slot? */
bool
ec_document_has_slot(Oid relid)
{
	bool		has = false;

	LWLockAcquire(ec_shared->lock, LW_SHARED);
	for (int i = 0; i < EC_MAX_DOCUMENTS && !has; i++)
		has = ec_shared->document[i].dboid == MyDatabaseId &&
			ec_shared->document[i].relid == relid;
	LWLockRelease(ec_shared->lock);
	return has;
}

/* Give up a document's slot, after it was detached. */
void
ec_document_slot_free(Oid relid)
{
	LWLockAcquire(ec_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < EC_MAX_DOCUMENTS; i++)
	{
		EcDocumentSlot *d = &ec_shared->document[i];

		if (d->dboid == MyDatabaseId && d->relid == relid)
			d->dboid = InvalidOid;
	}
	LWLockRelease(ec_shared->lock);
}

/* Count; a document without a slot is not counted. */
void
ec_count(EcDocumentSlot *slot, EcCounter what, uint64 by)
{
	if (slot != NULL && by > 0)
		pg_atomic_fetch_add_u64(&slot->counter[what], by);
}

/*
 * G4: a commit that is not flushed yet has changed this document.  Called in
 * the COMMIT callback, with the locks held: who fills next sees it.
 */
void
ec_publish_async_commit(EcDocumentSlot *slot, XLogRecPtr lsn)
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
ec_commits_flushed(EcDocumentSlot *slot)
{
	XLogRecPtr	lsn = pg_atomic_read_u64(&slot->async_lsn);

	return lsn == 0 || !XLogNeedsFlush(lsn);
}
