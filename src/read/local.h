/*-------------------------------------------------------------------------
 *
 * local.h
 *	  The second tier: documents in shared memory.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_LOCAL_H
#define ECHOCACHE_READ_LOCAL_H

#include "attachments/configuration.h"
#include "deadline.h"

/* A document that ec_local_read() has found. */
typedef struct EcLocalDocument
{
	struct varlena *bytes;		/* as memcached has them, palloc'd */
	size_t		len;
	bool		renew;			/* memcached's lifetime is to be renewed, by this read */
	bool		look;			/* this read is to see whether memcached has it still */
} EcLocalDocument;

extern bool ec_local_read(EcAttachment *att, uint64 hash, const char *id, EcDeadline now,
						  int64 renew_after, EcLocalDocument *found);
extern struct varlena *ec_local_peek(EcAttachment *att, uint64 hash, const char *id, size_t *len);
extern bool ec_local_is_worth(EcAttachment *att, uint64 hash, size_t len);
extern uint64 ec_local_claim(EcAttachment *att, uint64 hash);
extern void ec_local_forgo(EcAttachment *att, uint64 hash, uint64 claim);
extern void ec_local_put(EcAttachment *att, uint64 hash, uint64 claim, const char *id,
						 const char *value, size_t len, int64 ttl, bool there);
extern void ec_local_renew(EcAttachment *att, uint64 hash, const char *id, int64 ttl);
extern void ec_local_lost(EcAttachment *att, uint64 hash);
extern void ec_local_drop(EcAttachment *att, uint64 hash);
extern void ec_local_expect(int n);
extern bool ec_local_mark(EcAttachment *att, uint64 hash);
extern void ec_local_next(EcAttachment *att, uint64 hash, const char *id, const char *value,
						  size_t len, bool sent);
extern void ec_local_settle(bool commit, bool flushed);
extern bool ec_local_listen(EcAttachment *att, uint64 hash);
extern void ec_local_sleep(EcAttachment *att, uint64 hash, int ms);
extern void ec_local_wake(EcAttachment *att, uint64 hash);

#endif							/* ECHOCACHE_READ_LOCAL_H */
