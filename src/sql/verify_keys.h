/*-------------------------------------------------------------------------
 *
 * verify_keys.h
 *	  The keys that servers hold for a name, and whose documents they are.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SQL_VERIFY_KEYS_H
#define ECHOCACHE_SQL_VERIFY_KEYS_H

#include "access/tupdesc.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "utils/tuplestore.h"

#include "attachments/configuration.h"
#include "protocol/key.h"
#include "protocol/reply.h"
#include "read/render.h"
#include "sql/batch.h"

/* A key of the batch. */
typedef struct EcVerifyKey
{
	int			server;
	int			keylen;
	char	   *key;
	const char *id;				/* NULL: it is no key that we would make, or not there */
	uint64		word;			/* the server's state, before it was asked */
	size_t		size;			/* of what the server holds */
	bool		done;
	EcRow	   *row;			/* of this id; NULL: not looked for */
	bool		wrong;
} EcVerifyKey;

typedef struct EcVerify
{
	EcBatch		batch;
	MemoryContext context;		/* of what outlives a batch */
	uint64		generation;		/* of the topology that the keys are from */
	char		head[EC_PREFIX_MAX + EC_NAME_MAX + 1];	/* of all keys of the attachment */
	int			headlen;

	TupleDesc	desc;
	Tuplestorestate *found;		/* the keys: server, key */
	TupleTableSlot *slot;
	int			server;			/* whose keys are being collected */
	int64		nfound;
	int64		nread;
	int64		missing;		/* of the sample */
	uint64		random;

	EcQuery		query;			/* of judge.c's classify() */

	int64		matching;
	int64		stale;
	int64		foreign;
	int64		busy;
	int64		invalidated;
	int64		no_row;			/* what is wrong and no row's */
	int64		left_out;		/* whose server went away */
	bool		want_keys;
	Datum	   *keys;
	int			nkeys;
} EcVerify;

extern void ec_verify_keys_remember_topology(EcVerify *verify);
extern void ec_verify_keys_check_topology(EcVerify *verify);
extern int	ec_verify_keys_of_line(EcVerify *verify, const EcReply *line, char *dst);
extern uint64 ec_verify_keys_random(EcVerify *verify);
extern void ec_verify_keys_collect(EcVerify *verify);
extern bool ec_verify_keys_next(EcVerify *verify, EcVerifyKey *key);
extern int	ec_verify_keys_compare(const void *a, const void *b);
extern void ec_verify_keys_find_ids(EcVerify *verify, EcVerifyKey *keys, int n);
extern int	ec_verify_keys_look(EcVerify *verify, EcVerifyKey *keys, int n);

#endif							/* ECHOCACHE_SQL_VERIFY_KEYS_H */
