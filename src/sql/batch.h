/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  What goes over all documents of a name shares this: warm and verify.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SQL_BATCH_H
#define ECHOCACHE_SQL_BATCH_H

#include "attachments/configuration.h"
#include "net/request.h"
#include "read/query.h"
#include "read/render.h"

/* Documents of one batch: each takes a lock, of which there are not many. */
#define EC_BATCH_MAX	500

/* About so much of documents is in memory at once. */
#define EC_BATCH_BYTES	(4 * 1024 * 1024)

typedef struct EcBatch
{
	const char *function;		/* for messages */
	const char *name;
	EcAttachment *att;			/* as it is now; its table is locked */
	bool		lock_busy;		/* the attachment lock was busy for long: do not wait again */
} EcBatch;

extern void ec_batch_begin(EcBatch *batch, const char *function, const char *name);
extern void ec_batch_attachment(EcBatch *batch);
extern void ec_batch_topology(const char *function);
extern bool ec_batch_enter(EcBatch *batch);
extern void ec_batch_unlock(EcBatch *batch);
extern void ec_batch_leave(EcBatch *batch);
extern void ec_batch_exchange(EcRequest *reqs, int n);
extern void ec_batch_fetch(EcBatch *batch, EcRow *rows, int n);
extern void ec_batch_prepare(EcBatch *batch, EcQuery *query, const char *sql, int nargs,
							 const Oid *argtypes);
extern uint64 ec_batch_query(EcBatch *batch, EcQuery *query, const Datum *values,
							 const char *nulls);
extern char *ec_batch_from(EcAttachment *att);

#endif							/* ECHOCACHE_SQL_BATCH_H */
