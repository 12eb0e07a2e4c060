/*-------------------------------------------------------------------------
 *
 * slot.c
 *	  Slots in shared memory: counters of an attachment, and its newest unflushed commit.
 *
 * An attachment without a slot is neither read from the cache nor stored.  Two databases
 * with one prefix never both have a slot for one name.  A slot is claimed by the first
 * backend that uses the attachment, and given up at the commit of its detach, or at the
 * end of an attach that is rolled back.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogdefs.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"

#include "attachments/latency.h"
#include "attachments/slot.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"

/* A table that is attached or detached here, at this nesting level; in order. */
typedef struct SlotChange
{
	Oid			relid;
	int			level;
	bool		attach;
	char		name[EC_NAME_MAX + 1];	/* of the slot before; empty: there was none */
} SlotChange;

static List *slot_changes = NIL;

static EcSlot *find_or_claim(Oid relid, const char *name);
static void begin_epoch(EcSlot *slot);
static bool wants_prefix(void);
static void get_name(Oid relid, char *name);
static void set_name(Oid relid, const char *name);
static void ask_for_prefix(void);
static bool is_being_attached(Oid relid);
static void note_slot_change(Oid relid, bool attach);

/*
 * Does this database have attachments, while the keys of its prefix are another database's
 * that has none?  Then the next generation gives them to this one.  ec_shmem->lock is held.
 */
static bool
wants_prefix(void)
{
	EcDatabase *db = ec_state_database();
	EcDatabase *owner;

	if (db == NULL || db->owns_prefix)
		return false;
	owner = ec_topology_prefix_owner(db);
	return owner == NULL || !ec_topology_has_attachments(owner);
}

/* Have the launcher publish that generation, if it is wanted.  Never throws. */
static void
ask_for_prefix(void)
{
	bool		republish;

	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	republish = wants_prefix();
	ec_shmem->republish |= republish;
	LWLockRelease(ec_shmem->lock);
	if (republish)
		ec_shmem_wake(ec_shmem->launcher_pid);
}

/* Is the table attached by this transaction, which may still be rolled back? */
static bool
is_being_attached(Oid relid)
{
	ListCell   *lc;

	foreach(lc, slot_changes)
	{
		SlotChange *change = lfirst(lc);

		if (change->relid == relid && change->attach)
			return true;
	}
	return false;
}

/* The slot of this table, claimed if need be.  NULL: all slots are taken. */
static EcSlot *
find_or_claim(Oid relid, const char *name)
{
	EcSlot	   *slot = NULL;
	EcSlot	   *free_slot = NULL;

	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	for (int i = 0; i < EC_MAX_ATTACHMENTS; i++)
	{
		EcSlot	   *s = &ec_shmem->slot[i];

		if (s->dboid == InvalidOid)
			free_slot = free_slot ? free_slot : s;
		else if (s->dboid == MyDatabaseId && s->relid == relid)
			slot = s;
	}
	if (slot == NULL && free_slot != NULL)
	{
		slot = free_slot;
		slot->dboid = MyDatabaseId;
		slot->relid = relid;
		pg_atomic_write_u64(&slot->async_lsn, 0);
		begin_epoch(slot);
		pg_atomic_write_u64(&slot->build_logged, 0);
		pg_atomic_write_u64(&slot->audit_logged, 0);
		for (int c = 0; c < EC_NCOUNTERS; c++)
			pg_atomic_write_u64(&slot->counter[c], 0);
		ec_latency_reset(slot);
	}
	if (slot != NULL)
		strlcpy(slot->name, name, sizeof(slot->name));
	LWLockRelease(ec_shmem->lock);
	if (slot != NULL && !is_being_attached(relid))
		ask_for_prefix();
	return slot;
}

/* The slot of the attachment in this database, claimed if need be.  NULL: all are taken. */
EcSlot *
ec_slot_claim(Oid relid, const char *name)
{
	EcSlot	   *slot = find_or_claim(relid, name);

	if (slot == NULL && ec_shmem_may_log(&ec_shmem->no_slot_logged))
		ereport(LOG,
				(errmsg("echocache: document \"%s\" is not cached", name),
				 errdetail("More than %d tables are attached in this cluster.",
						   EC_MAX_ATTACHMENTS)));
	return slot;
}

/* Claim a slot for this table, if need be.  false: all are taken. */
bool
ec_slot_try(Oid relid, const char *name)
{
	return find_or_claim(relid, name) != NULL;
}

/* An attach needs a slot for this table.  Throws 54000 when all are taken. */
void
ec_slot_require(Oid relid, const char *name)
{
	if (!ec_slot_try(relid, name))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many tables are attached"),
				 errdetail("All databases of the cluster together can have %d.",
						   EC_MAX_ATTACHMENTS),
				 errhint("Detach another table first.")));
}

/*
 * The tables of this database that have a slot, as of now.  Takes ec_shmem->lock, and does not
 * keep it.  Throws out of memory only.
 */
List *
ec_slot_relids(void)
{
	Oid			relids[EC_MAX_ATTACHMENTS];
	int			n = 0;
	List	   *list = NIL;

	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	for (int i = 0; i < EC_MAX_ATTACHMENTS; i++)
		if (ec_shmem->slot[i].dboid == MyDatabaseId)
			relids[n++] = ec_shmem->slot[i].relid;
	LWLockRelease(ec_shmem->lock);
	for (int i = 0; i < n; i++)
		list = lappend_oid(list, relids[i]);
	return list;
}

/* The name in the slot of this table; empty: it has none. */
static void
get_name(Oid relid, char *name)
{
	name[0] = '\0';
	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	for (int i = 0; i < EC_MAX_ATTACHMENTS; i++)
		if (ec_shmem->slot[i].dboid == MyDatabaseId && ec_shmem->slot[i].relid == relid)
			strlcpy(name, ec_shmem->slot[i].name, EC_NAME_MAX + 1);
	LWLockRelease(ec_shmem->lock);
}

/*
 * Put this name into the slot of this table, if it has one.  Other databases know documents' keys
 * by it (kv_keys.c).  Never throws.
 */
static void
set_name(Oid relid, const char *name)
{
	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	for (int i = 0; i < EC_MAX_ATTACHMENTS; i++)
		if (ec_shmem->slot[i].dboid == MyDatabaseId && ec_shmem->slot[i].relid == relid)
			strlcpy(ec_shmem->slot[i].name, name, sizeof(ec_shmem->slot[i].name));
	LWLockRelease(ec_shmem->lock);
}

/* Give up the slot of this table, if it has one.  Never throws. */
void
ec_slot_free(Oid relid)
{
	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	for (int i = 0; i < EC_MAX_ATTACHMENTS; i++)
	{
		EcSlot	   *s = &ec_shmem->slot[i];

		if (s->dboid == MyDatabaseId && s->relid == relid)
			s->dboid = InvalidOid;
	}
	LWLockRelease(ec_shmem->lock);
}

/* Add to a counter.  NULL for the slot: nothing is counted. */
void
ec_slot_count(EcSlot *slot, EcCounter what, uint64 by)
{
	if (slot != NULL && by > 0)
		pg_atomic_fetch_add_u64(&slot->counter[what], by);
}

/*
 * G4: a commit that may not be flushed yet has changed a document of this slot.  Called in
 * the COMMIT callback, while the key's lock is held: the next fill sees the LSN.  Never
 * throws.
 */
void
ec_slot_publish_async(EcSlot *slot, XLogRecPtr lsn)
{
	uint64		old;

	Assert(InterruptHoldoffCount > 0);
	if (slot == NULL)
		return;
	old = pg_atomic_read_u64(&slot->async_lsn);
	while (old < lsn && !pg_atomic_compare_exchange_u64(&slot->async_lsn, &old, lsn))
		;
}

/*
 * All documents of the slot that are in shared memory are gone, and what is put there by whoever
 * has begun before.  Never throws.
 */
static void
begin_epoch(EcSlot *slot)
{
	pg_atomic_write_u64(&slot->epoch, pg_atomic_add_fetch_u64(&ec_shmem->epochs, 1));
}

/*
 * As begin_epoch(), for the slot that this table has now, which need not be known to this backend.
 * Never throws.
 */
void
ec_slot_begin_epoch_of_table(Oid relid)
{
	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	for (int i = 0; i < EC_MAX_ATTACHMENTS; i++)
	{
		EcSlot	   *slot = &ec_shmem->slot[i];

		if (slot->dboid == MyDatabaseId && slot->relid == relid)
			begin_epoch(slot);
	}
	LWLockRelease(ec_shmem->lock);
}

/* As begin_epoch(), for all slots of the cluster.  Never throws. */
void
ec_slot_begin_epoch_of_all(void)
{
	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	for (int i = 0; i < EC_MAX_ATTACHMENTS; i++)
		begin_epoch(&ec_shmem->slot[i]);
	LWLockRelease(ec_shmem->lock);
}

/* Is every commit flushed that has changed a document of this slot (G4)? */
bool
ec_slot_is_flushed(EcSlot *slot)
{
	XLogRecPtr	lsn = pg_atomic_read_u64(&slot->async_lsn);

	return lsn == 0 || !XLogNeedsFlush(lsn);
}

/* Note what this transaction does to the slot of the table, at this nesting level. */
static void
note_slot_change(Oid relid, bool attach)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	SlotChange *change = palloc(sizeof(SlotChange));

	change->relid = relid;
	change->level = GetCurrentTransactionNestLevel();
	change->attach = attach;
	get_name(relid, change->name);
	slot_changes = lappend(slot_changes, change);
	MemoryContextSwitchTo(old);
}

/*
 * The table is about to be attached.  The slot that it gets on the way is given up when the attach
 * is rolled back; one that it had has its name again.
 */
void
ec_slot_note_attach(Oid relid)
{
	note_slot_change(relid, true);
}

/* The table is detached in this transaction, and all its documents invalidated. */
void
ec_slot_note_detach(Oid relid)
{
	note_slot_change(relid, false);
}

/* The (sub)transaction at this level ends, with all below it.  Never throws. */
void
ec_slot_at_subend(int level, bool commit)
{
	Assert(level >= 1);
	/* from the last to the first, so that what was there first is there again */
	for (int i = list_length(slot_changes) - 1; i >= 0; i--)
	{
		SlotChange *change = list_nth(slot_changes, i);

		if (change->level < level)
			continue;
		if (commit)
		{
			change->level = level - 1;
			continue;
		}
		if (change->attach && change->name[0] == '\0')
			ec_slot_free(change->relid);
		else if (change->attach)
			set_name(change->relid, change->name);
		slot_changes = list_delete_nth_cell(slot_changes, i);
	}
}

/*
 * A table that was detached, and not attached again after it, gives up its slot.  One that was
 * attached is now a document of this database.  Called in the COMMIT callback: never throws.
 */
void
ec_slot_at_commit(void)
{
	bool		attached = false;

	Assert(InterruptHoldoffCount > 0);
	for (int i = 0; i < list_length(slot_changes); i++)
	{
		SlotChange *change = list_nth(slot_changes, i);
		bool		last = true;

		for (int j = i + 1; j < list_length(slot_changes); j++)
			last &= ((SlotChange *) list_nth(slot_changes, j))->relid != change->relid;
		if (last && !change->attach)
			ec_slot_free(change->relid);
		attached |= last && change->attach;
	}
	if (attached)
		ask_for_prefix();
}

/* The transaction is over, and TopTransactionContext goes with it.  Never throws. */
void
ec_slot_at_end(void)
{
	slot_changes = NIL;
}
