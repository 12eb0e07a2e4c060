/*-------------------------------------------------------------------------
 *
 * database.c
 *	  Databases that have the extension: their slots, and which may have a worker.
 *
 * A database has its slot from its worker's first claim until the extension or the database is
 * gone; workers come and go meanwhile.  Slots are claimed and given up with ec_shmem->lock
 * held exclusively.  Backends read a slot's dboid without it, which at worst sees a change a
 * moment too late.
 *
 * The functions here take that lock where they need it, and release it: the caller does not
 * hold it.  None of them throws, but for ec_database_owner_reason().
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "storage/procarray.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"
#include "worker/database.h"

/* A database that is about to be dropped gets no worker for so long. */
#define BAN_MS	10000

static void end_helpers(const EcDatabase *db);

/* Set by a command of this transaction, carried out at its commit. */
static bool rescan_at_commit = false;

/* The extension comes, changes or goes: at this transaction's commit the launcher looks again. */
void
ec_database_rescan_at_commit(void)
{
	rescan_at_commit = true;
}

/* The transaction ends in this way.  Never throws. */
void
ec_database_at_xact_end(XactEvent event)
{
	EcDatabase *db;

	if (!rescan_at_commit || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
							  event != XACT_EVENT_PREPARE))
		return;
	rescan_at_commit = false;
	if (event == XACT_EVENT_ABORT)
		return;
	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	ec_shmem->rescans++;
	LWLockRelease(ec_shmem->lock);
	db = ec_state_database();
	if (db)
		ec_shmem_wake(db->worker_pid);
	ec_shmem_wake(ec_shmem->launcher_pid);
}

/* Have the worker of this database record dependencies; see attachments/depend.h.  Never throws. */
void
ec_database_demand_dependencies(bool anew)
{
	EcDatabase *db = ec_state_database();

	if (db == NULL)
		return;
	(void) pg_atomic_fetch_add_u64(&db->dependency_demands[anew], 1);
	ec_shmem_wake(db->worker_pid);
}

/* Tell the database's helpers to end.  The lock is held exclusively: the pids are still theirs. */
static void
end_helpers(const EcDatabase *db)
{
	for (int h = 0; h < EC_NHELPERS; h++)
		if (db->helper_pid[h] != 0)
			(void) kill(db->helper_pid[h], SIGTERM);
}

/*
 * This process becomes such a helper of its database.  false: the database has no slot, or one
 * helper already.
 */
bool
ec_database_begin_helper(EcHelper helper)
{
	EcDatabase *db;
	bool		needed;

	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	db = ec_database_find(MyDatabaseId);
	needed = db != NULL &&
		(db->helper_pid[helper] == 0 || BackendPidGetProc(db->helper_pid[helper]) == NULL);
	if (needed)
		db->helper_pid[helper] = MyProcPid;
	LWLockRelease(ec_shmem->lock);
	return needed;
}

/* This process was such a helper, and is no more. */
void
ec_database_helper_gone(EcHelper helper)
{
	EcDatabase *db;

	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	db = ec_database_find(MyDatabaseId);
	if (db && db->helper_pid[helper] == MyProcPid)
		db->helper_pid[helper] = 0;
	LWLockRelease(ec_shmem->lock);
}

/*
 * This backend needs the database for itself, to drop it perhaps: its worker and its
 * helpers are told to end, and no other is started before ec_database_unban(), or BAN_MS.  Does not
 * wait for that end.  A backend needs one at a time.  If too many do so at once, the oldest ban
 * is lifted early.
 */
void
ec_database_ban(Oid dboid)
{
	EcBan	   *ban = &ec_shmem->bans[0];

	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	for (int i = 1; i < EC_MAX_BANS; i++)
		if (ec_shmem->bans[i].until < ban->until)
			ban = &ec_shmem->bans[i];
	ban->dboid = dboid;
	ban->pid = MyProcPid;
	ban->until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BAN_MS);
	/* under the lock, without which neither exits: the pids are still their own */
	for (int i = 0; i < EC_MAX_DATABASES; i++)
	{
		EcDatabase *db = &ec_shmem->database[i];

		if (db->dboid == dboid && db->worker_pid != 0)
			(void) kill(db->worker_pid, SIGTERM);
		if (db->dboid == dboid)
			end_helpers(db);
	}
	LWLockRelease(ec_shmem->lock);
}

/* For this backend's part the database may have a worker again: the launcher sees to it. */
void
ec_database_unban(void)
{
	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	for (int i = 0; i < EC_MAX_BANS; i++)
		if (ec_shmem->bans[i].pid == MyProcPid)
			ec_shmem->bans[i].until = 0;
	LWLockRelease(ec_shmem->lock);
	ec_shmem_wake(ec_shmem->launcher_pid);
}

/* May there be no worker in this database for now? */
bool
ec_database_is_banned(Oid dboid)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		banned = false;

	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	for (int i = 0; i < EC_MAX_BANS; i++)
		banned |= ec_shmem->bans[i].dboid == dboid && now < ec_shmem->bans[i].until;
	LWLockRelease(ec_shmem->lock);
	return banned;
}

/* The slot that a worker has claimed for this database, or NULL.  Takes no lock. */
EcDatabase *
ec_database_find(Oid dboid)
{
	for (int i = 0; i < EC_MAX_DATABASES; i++)
		if (ec_shmem->database[i].dboid == dboid)
			return &ec_shmem->database[i];
	return NULL;
}

/* Has this database a slot, or could it have one? */
bool
ec_database_has_room(void)
{
	bool		room = false;

	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	for (int i = 0; i < EC_MAX_DATABASES; i++)
		room |= ec_shmem->database[i].dboid == MyDatabaseId ||
			ec_shmem->database[i].dboid == InvalidOid;
	LWLockRelease(ec_shmem->lock);
	return room;
}

/* Give up the slot of a database that is gone, or whose extension is, and its attachments'. */
void
ec_database_free(Oid dboid)
{
	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	for (int i = 0; i < EC_MAX_DATABASES; i++)
	{
		EcDatabase *db = &ec_shmem->database[i];

		if (db->dboid != dboid)
			continue;
		end_helpers(db);
		memset(db->helper_pid, 0, sizeof(db->helper_pid));
		db->dboid = InvalidOid;
		db->has_next_prefix = db->has_old_prefix = db->owns_prefix = false;
		/* the next to claim it may have another prefix, and backends still use this one's */
		ec_shmem->republish = true;
		ec_shmem->rescans++;	/* that may be one that has found no slot */
	}
	for (int i = 0; i < EC_MAX_ATTACHMENTS; i++)
		if (ec_shmem->slot[i].dboid == dboid)
			ec_shmem->slot[i].dboid = InvalidOid;
	LWLockRelease(ec_shmem->lock);
	if (ec_shmem->republish)
		ec_shmem_wake(ec_shmem->launcher_pid);
}

/* This process was the database's worker, and is no more. */
void
ec_database_worker_gone(void)
{
	EcDatabase *db = ec_database_find(MyDatabaseId);

	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	if (db)
		db->worker_pid = 0;
	LWLockRelease(ec_shmem->lock);
}

/* Is another worker at work in this database? */
bool
ec_database_has_other_worker(void)
{
	bool		other = false;

	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	for (int i = 0; i < EC_MAX_DATABASES; i++)
		other |= ec_shmem->database[i].dboid == MyDatabaseId &&
			ec_shmem->database[i].worker_pid != 0 &&
			BackendPidGetProc(ec_shmem->database[i].worker_pid) != NULL;
	LWLockRelease(ec_shmem->lock);
	return other;
}

/*
 * The worker's: claim this database's slot.  The slot that an earlier worker had is taken over,
 * and the states in it still hold; another prefix than before means other keys, and is published
 * by the launcher as a new generation.  NULL: all slots are taken, which is logged.
 */
EcDatabase *
ec_database_claim(void)
{
	EcDatabase *db = NULL;
	EcDatabase *free_db = NULL;

	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	for (int i = 0; i < EC_MAX_DATABASES && db == NULL; i++)
	{
		if (ec_shmem->database[i].dboid == MyDatabaseId)
			db = &ec_shmem->database[i];
		else if (ec_shmem->database[i].dboid == InvalidOid && free_db == NULL)
			free_db = &ec_shmem->database[i];
	}
	if (db == NULL && free_db != NULL)
	{
		db = free_db;
		strlcpy(db->prefix, ec_guc_key_prefix, sizeof(db->prefix));
		ec_state_reset(db);
		memset(db->lease_looked, 0, sizeof(db->lease_looked));
		memset(db->lease_once, 0, sizeof(db->lease_once));
		memset(db->lease_forced, 0, sizeof(db->lease_forced));
		db->audit_list_at = 0;
		db->dboid = MyDatabaseId;
		db->owns_prefix = ec_topology_prefix_owner(db) == NULL;
	}
	else if (db != NULL)
	{
		/* the launcher makes a new generation with it */
		strlcpy(db->next_prefix, ec_guc_key_prefix, sizeof(db->next_prefix));
		db->has_next_prefix = strcmp(db->prefix, ec_guc_key_prefix) != 0;
		ec_shmem->republish |= db->has_next_prefix;
	}
	if (db != NULL)
	{
		db->worker_pid = MyProcPid;
		db->standby = RecoveryInProgress();
	}
	LWLockRelease(ec_shmem->lock);
	if (ec_shmem->republish)
		ec_shmem_wake(ec_shmem->launcher_pid);
	if (db == NULL && ec_shmem_may_log(&ec_shmem->no_database_logged))
		ereport(LOG,
				(errmsg("echocache: " EC_DATABASE_NO_ROOM, EC_MAX_DATABASES),
				 errdetail("The documents of database %u are not cached.", MyDatabaseId)));
	return db;
}

/*
 * Why this database may not use the keys of its prefix: the database that does.  In no
 * transaction: it has one of its own.  The result is overwritten by the next call.  Throws
 * what a look at the system catalogs throws.
 */
const char *
ec_database_owner_reason(EcDatabase *db)
{
	static char reason[EC_ERROR_MAX];
	MemoryContext context = CurrentMemoryContext;
	EcDatabase *owner;
	Oid			dboid = InvalidOid;
	char	   *name = NULL;

	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	owner = ec_topology_prefix_owner(db);
	if (owner != NULL)
		dboid = owner->dboid;
	LWLockRelease(ec_shmem->lock);
	StartTransactionCommand();
	if (OidIsValid(dboid))
		name = get_database_name(dboid);
	snprintf(reason, sizeof(reason), "database \"%s\" of this cluster uses the keys that begin "
			 "with \"%s\"", name ? name : "?", db->prefix);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return reason;
}
