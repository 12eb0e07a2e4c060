/*-------------------------------------------------------------------------
 *
 * invalidate.h
 *	  Take documents out of the cache, or note in the outbox that they must go.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_COMMIT_INVALIDATE_H
#define ECHOCACHE_COMMIT_INVALIDATE_H

#include "attachments/configuration.h"
#include "net/request.h"

/* An attached table that a transaction has changed. */
typedef struct EcTouched
{
	EcAttachment *att;
	bool		share;			/* the transaction holds the attachment lock in share mode */
	bool		build;			/* what has changed is to be made by the builder */
	uint64		keys;			/* documents that are changed */
	bool		timed;			/* how long step C took is counted */
	uint64		stored;			/* of these, those that were written through */
} EcTouched;

/* The attached tables that a transaction has changed, as it commits. */
typedef struct EcCommit
{
	int			n;
	EcTouched  *touched;
	int			outbox_keys[EC_MAX_SERVERS];	/* rows written; -1: no more are needed */
} EcCommit;

extern void ec_invalidate_mark(EcCommit *commit, EcRequest *reqs, int n,
							   void (*meanwhile) (void *arg), void *arg);
extern void ec_invalidate_rest(bool on);
extern bool ec_invalidate_all(const char *name, int64 *removed, bool note);

#endif							/* ECHOCACHE_COMMIT_INVALIDATE_H */
