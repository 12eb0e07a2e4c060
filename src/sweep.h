/*-------------------------------------------------------------------------
 *
 * sweep.h
 *	  What goes over all documents of a name: warm, purge, verify.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SWEEP_H
#define ECHOCACHE_SWEEP_H

#include "cluster.h"
#include "document.h"
#include "render.h"

/* Documents of one batch: each takes a lock, of which there are not many. */
#define EC_SWEEP_MAX	500

/* About so much of documents is in memory at once. */
#define EC_SWEEP_BYTES	(4 * 1024 * 1024)

typedef struct EcSweep
{
	const char *function;		/* for messages */
	const char *name;
	EcDocument *doc;			/* as it is now; what its query reads is locked */
	bool		class_busy;		/* the class was busy for long: do not wait for it again */
} EcSweep;

extern void ec_sweep_begin(EcSweep *sweep, const char *function, const char *name);
extern void ec_sweep_document(EcSweep *sweep);
extern void ec_sweep_topology(const char *function);
extern bool ec_sweep_enter(EcSweep *sweep);
extern void ec_sweep_leave(EcSweep *sweep);
extern void ec_sweep_nap(int ms);
extern void ec_sweep_op(EcOp *op, EcOpKind kind, int server, const char *key, int keylen);
extern void ec_sweep_exchange(EcOp *ops, int n);
extern bool ec_sweep_fetch(EcSweep *sweep, EcRow *rows, int n);
extern SPIPlanPtr ec_sweep_prepare(EcSweep *sweep, const char *sql, int nargs, Oid *argtypes);
extern uint64 ec_sweep_query(EcSweep *sweep, SPIPlanPtr plan, Datum *values, const char *nulls);
extern char *ec_sweep_from(EcDocument *doc);
extern void ec_warm_at_end(int level);

#endif							/* ECHOCACHE_SWEEP_H */
