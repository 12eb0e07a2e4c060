/*-------------------------------------------------------------------------
 *
 * locks.c
 *	  The locks of the fence: on keys and on attachments.
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
static void class_tag(LOCKTAG *tag, Oid relid);

/* The lock's identity; two keys that share one only get in each other's way. */
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
class_tag(LOCKTAG *tag, Oid relid)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, relid, 0, EC_LOCKTAG_ATTACHMENT);
}

/*
 * Take a lock for the rest of the transaction; without wait, false if it is
 * not to be had at once.
 */
bool
ec_locks_key(uint64 hash, LOCKMODE mode, bool wait)
{
	LOCKTAG		tag;

	key_tag(&tag, hash);
	return LockAcquire(&tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

bool
ec_locks_attachment(Oid relid, LOCKMODE mode, bool wait)
{
	LOCKTAG		tag;

	class_tag(&tag, relid);
	return LockAcquire(&tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

void
ec_locks_release_key(uint64 hash, LOCKMODE mode)
{
	LOCKTAG		tag;

	key_tag(&tag, hash);
	LockRelease(&tag, mode, false);
}

void
ec_locks_release_attachment(Oid relid, LOCKMODE mode)
{
	LOCKTAG		tag;

	class_tag(&tag, relid);
	LockRelease(&tag, mode, false);
}
