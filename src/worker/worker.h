/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  The worker of a database.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_WORKER_WORKER_H
#define ECHOCACHE_WORKER_WORKER_H

extern PGDLLEXPORT void echocache_worker_main(Datum arg);

#endif							/* ECHOCACHE_WORKER_WORKER_H */
