/*-------------------------------------------------------------------------
 *
 * handover.c
 *	  What commits hand over to the builder: keys of documents that are to be made.
 *
 * Making a document that is not plain runs code of its owner's, which has no business in a
 * commit: it may take long, fail, or wait for a lock.  So the commit leaves its marker, and
 * hands the key over; the builder (worker/builder.c) makes the document a moment later, by a
 * fill as any reader's.  Each database has a ring of EC_RING_KEYS in shared memory.  A key for
 * which there is no room is dropped, which costs the next reader a miss: nothing depends on
 * the builder.
 *
 * None of these functions throws or allocates.  Each but ec_handover_is_empty() takes ring_lock;
 * the caller holds no lightweight lock.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "commit/handover.h"
#include "servers/state.h"

static EcRing *ring_of(EcDatabase *db);
static EcBuildKey *key_at(EcRing *ring, int i);
static bool is_in(EcRing *ring, Oid relid, const char *id, int idlen);
static void drop_first(EcRing *ring);

/* The ring of the database in this slot, empty if another one has left it. */
static EcRing *
ring_of(EcDatabase *db)
{
	EcRing	   *ring = &ec_shmem->ring[db - ec_shmem->database];

	Assert(LWLockHeldByMe(ec_shmem->ring_lock));
	if (ring->dboid != db->dboid)
	{
		ring->n = 0;
		ring->making = false;
	}
	ring->dboid = db->dboid;
	return ring;
}

/* The i-th key that waits. */
static EcBuildKey *
key_at(EcRing *ring, int i)
{
	return &ring->key[(ring->first + i) % EC_RING_KEYS];
}

/*
 * Does this key wait already?  One that the builder is at does not: what it makes may be older
 * than this commit, and is then not stored.
 */
static bool
is_in(EcRing *ring, Oid relid, const char *id, int idlen)
{
	for (int i = ring->making ? 1 : 0; i < ring->n; i++)
	{
		EcBuildKey *key = key_at(ring, i);

		if (key->relid == relid && key->idlen == idlen && memcmp(key->id, id, idlen) == 0)
			return true;
	}
	return false;
}

/* The builder is through with the first key. */
static void
drop_first(EcRing *ring)
{
	ring->first = (ring->first + 1) % EC_RING_KEYS;
	ring->n--;
	ring->making = false;
}

/*
 * Have the builder of this database make the document with this id.  false: there is no room,
 * or no builder can be.  A builder looks for more before it sleeps, so only the first key wakes
 * it; or, if there is none, the launcher, which starts it.
 */
bool
ec_handover_put(Oid relid, const char *id)
{
	EcDatabase *db = ec_state_database();
	int			idlen = (int) strlen(id);
	EcRing	   *ring;
	bool		room;
	bool		first;

	if (db == NULL || idlen > EC_KEY_MAX)
		return false;
	LWLockAcquire(ec_shmem->ring_lock, LW_EXCLUSIVE);
	if (db->dboid != MyDatabaseId)
	{
		LWLockRelease(ec_shmem->ring_lock);
		return false;			/* another database has the slot by now */
	}
	ring = ring_of(db);
	first = ring->n == 0;
	room = is_in(ring, relid, id, idlen);
	if (!room && ring->n < EC_RING_KEYS)
	{
		EcBuildKey *key = key_at(ring, ring->n++);

		key->relid = relid;
		key->idlen = idlen;
		memcpy(key->id, id, idlen);
		room = true;
	}
	LWLockRelease(ec_shmem->ring_lock);
	if (first)
		ec_shmem_wake(db->helper_pid[EC_BUILDER] != 0 ? db->helper_pid[EC_BUILDER]
					  : ec_shmem->launcher_pid);
	return room;
}

/*
 * The key that has waited longest, for the builder of this database.  The one that was taken
 * before is done with: it is made, or its builder has come to its end at it.  false: none waits.
 */
bool
ec_handover_take(EcBuildKey *key)
{
	EcDatabase *db = ec_state_database();
	EcRing	   *ring;
	bool		found;

	if (db == NULL)
		return false;
	LWLockAcquire(ec_shmem->ring_lock, LW_EXCLUSIVE);
	ring = ring_of(db);
	if (ring->making)
		drop_first(ring);
	found = ring->n > 0;
	if (found)
		*key = *key_at(ring, 0);
	ring->making = found;
	LWLockRelease(ec_shmem->ring_lock);
	return found;
}

/* How many keys of this table wait, or are just being made. */
int
ec_handover_count(Oid relid)
{
	EcDatabase *db = ec_state_database();
	EcRing	   *ring;
	int			n = 0;

	if (db == NULL)
		return 0;
	LWLockAcquire(ec_shmem->ring_lock, LW_EXCLUSIVE);
	ring = ring_of(db);
	for (int i = 0; i < ring->n; i++)
		n += key_at(ring, i)->relid == relid;
	LWLockRelease(ec_shmem->ring_lock);
	return n;
}

/* Does no key of the database in this slot wait?  As of a moment ago. */
bool
ec_handover_is_empty(const EcDatabase *db)
{
	const EcRing *ring = &ec_shmem->ring[db - ec_shmem->database];

	return ring->dboid != db->dboid || ring->n == 0;
}
