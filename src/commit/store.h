/*-------------------------------------------------------------------------
 *
 * store.h
 *	  Step C of the fence: documents that replace a writer's own markers.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_COMMIT_STORE_H
#define ECHOCACHE_COMMIT_STORE_H

#include "commit/invalidate.h"
#include "commit/pending.h"
#include "protocol/wire.h"
#include "read/render.h"

/* A changed document of a transaction that is not a bulk. */
typedef struct EcFenceKey
{
	int			touched;		/* index in EcCommit.touched */
	uint64		hash;
	const EcPendingKey *pending;
	const char *id;
	bool		store;			/* the writer holds the key in store mode */
	bool		local;			/* the document is in shared memory, marked as the writer's */
	uint64		token;			/* of the writer's marker; 0: not confirmed */
	uint64		connection;		/* on which it was learned */
	EcRow	   *row;			/* what step C stores; NULL: the marker stays */
	int			server;
	int			keylen;
	char		key[EC_KEY_MAX];
} EcFenceKey;

/* The few documents that a transaction has changed. */
typedef struct EcKeyList
{
	int			n;
	EcFenceKey *keys;
	uint64		generation;		/* of the topology by which they were placed */
	int64		rendering;		/* how long that has taken, in nanoseconds */
} EcKeyList;

extern void ec_store_render(const EcCommit *commit, EcKeyList *list);
extern void ec_store_prepare(const EcCommit *commit, const EcKeyList *list);
extern void ec_store_send(EcCommit *commit);
extern void ec_store_at_end(void);

#endif							/* ECHOCACHE_COMMIT_STORE_H */
