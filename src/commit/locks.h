/*-------------------------------------------------------------------------
 *
 * locks.h
 *	  The locks of the fence: on keys and on attachments.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_COMMIT_LOCKS_H
#define ECHOCACHE_COMMIT_LOCKS_H

#include "storage/lockdefs.h"

/* In a lock tag's fourth field; SQL's advisory locks have 1 and 2 there. */
#define EC_LOCKTAG_KEY			0xEC01
#define EC_LOCKTAG_ATTACHMENT	0xEC02
#define EC_LOCKTAG_OUTBOX		0xEC03	/* servers/outbox.c */
#define EC_LOCKTAG_KV			0xEC04	/* sql/kv_keys.h */
#define EC_LOCKTAG_FILL			0xEC05

/*
 * The two modes of a key's lock.  Invalidate says: "a change of this document is about to
 * commit, its marker is set"; it has any number of holders.  Store says: "what I read now may
 * be stored"; it has one holder, with no invalidator beside it, and is always held briefly.
 */
#define EC_LOCK_INVALIDATE	RowExclusiveLock
#define EC_LOCK_STORE		ShareRowExclusiveLock

/*
 * The two modes of the attachment lock, which stands for all keys of an attachment: bulk
 * writers take it to invalidate, whoever stores shares it.
 */
#define EC_LOCK_ATTACHMENT_INVALIDATE	RowExclusiveLock
#define EC_LOCK_ATTACHMENT_SHARE		ShareLock

extern uint64 ec_locks_hash(Oid relid, const char *id, int idlen);
extern bool ec_locks_key(uint64 hash, LOCKMODE mode, bool wait);
extern bool ec_locks_attachment(Oid relid, LOCKMODE mode, bool wait);
extern bool ec_locks_fill(uint64 hash);
extern bool ec_locks_fill_is_free(uint64 hash);
extern void ec_locks_release_fill(uint64 hash);
extern void ec_locks_release_key(uint64 hash, LOCKMODE mode);
extern void ec_locks_release_attachment(Oid relid, LOCKMODE mode);

#endif							/* ECHOCACHE_COMMIT_LOCKS_H */
