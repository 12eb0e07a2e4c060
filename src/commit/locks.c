/*-------------------------------------------------------------------------
 *
 * locks.c
 *	  The locks of the fence: on keys and on attachments; and that of fills.
 *
 * They are heavyweight locks on tags of our own, in the space of advisory locks, with a
 * fourth field that SQL cannot produce.  So a prepared transaction keeps them, deadlocks
 * among them are detected, and pg_locks shows them.  commit.c has the order in which they
 * are taken, and who may wait for which.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"

#include "commit/locks.h"

static void key_tag(LOCKTAG *tag, uint64 hash);
static void fill_tag(LOCKTAG *tag, uint64 hash);
static void attachment_tag(LOCKTAG *tag, Oid relid);
static bool acquire(const LOCKTAG *tag, LOCKMODE mode, bool wait);
static void release(const LOCKTAG *tag, LOCKMODE mode);

/* The identity of a key's lock.  Two keys that share one only get in each other's way. */
uint64
ec_locks_hash(Oid relid, const char *id, int idlen)
{
	return hash_bytes_extended((const unsigned char *) id, idlen, relid);
}

static void
key_tag(LOCKTAG *tag, uint64 hash)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 EC_LOCKTAG_KEY);
}

static void
fill_tag(LOCKTAG *tag, uint64 hash)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 EC_LOCKTAG_FILL);
}

static void
attachment_tag(LOCKTAG *tag, Oid relid)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, relid, 0, EC_LOCKTAG_ATTACHMENT);
}

/*
 * Take a lock, which CurrentResourceOwner owns until it is released or the transaction
 * ends.  Without wait, returns false if the lock is not to be had at once.  Throws what
 * waiting for a lock throws, and out of shared memory.
 */
static bool
acquire(const LOCKTAG *tag, LOCKMODE mode, bool wait)
{
	return LockAcquire(tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

/* Release a lock that the caller holds. */
static void
release(const LOCKTAG *tag, LOCKMODE mode)
{
	bool		held PG_USED_FOR_ASSERTS_ONLY = LockRelease(tag, mode, false);

	Assert(held);
}

/* Lock a key, as acquire() says. */
bool
ec_locks_key(uint64 hash, LOCKMODE mode, bool wait)
{
	LOCKTAG		tag;

	Assert(mode == EC_LOCK_INVALIDATE || mode == EC_LOCK_STORE);
	/* whoever waits for a storer must not be one: see the order of locks in commit.c */
	Assert(!wait || mode == EC_LOCK_INVALIDATE);
	key_tag(&tag, hash);
	return acquire(&tag, mode, wait);
}

/* Lock an attachment, as acquire() says. */
bool
ec_locks_attachment(Oid relid, LOCKMODE mode, bool wait)
{
	LOCKTAG		tag;

	attachment_tag(&tag, relid);
	return acquire(&tag, mode, wait);
}

/*
 * Take the lock by which one process at a time fills a document, without waiting.  Fills alone
 * take it, and hold it for as long as they make the document.  Throws as acquire() does.
 */
bool
ec_locks_fill(uint64 hash)
{
	LOCKTAG		tag;

	fill_tag(&tag, hash);
	return acquire(&tag, ExclusiveLock, false);
}

/* Does nobody fill this document?  Throws as acquire() does. */
bool
ec_locks_fill_is_free(uint64 hash)
{
	LOCKTAG		tag;

	fill_tag(&tag, hash);
	if (!acquire(&tag, ShareLock, false))
		return false;
	release(&tag, ShareLock);
	return true;
}

/* Release that lock. */
void
ec_locks_release_fill(uint64 hash)
{
	LOCKTAG		tag;

	fill_tag(&tag, hash);
	release(&tag, ExclusiveLock);
}

/* Release a key's lock before the transaction ends. */
void
ec_locks_release_key(uint64 hash, LOCKMODE mode)
{
	LOCKTAG		tag;

	key_tag(&tag, hash);
	release(&tag, mode);
}

/* Release an attachment lock before the transaction ends. */
void
ec_locks_release_attachment(Oid relid, LOCKMODE mode)
{
	LOCKTAG		tag;

	attachment_tag(&tag, relid);
	release(&tag, mode);
}
