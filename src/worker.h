/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  The launcher, and a worker for each database that has the extension.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_WORKER_H
#define ECHOCACHE_WORKER_H

extern void ec_launcher_init(void);
extern void ec_worker_rescan_at_commit(void);
extern void ec_worker_leave_database(Oid dboid);
extern void ec_worker_return_to_database(void);
extern bool ec_worker_is_banned(Oid dboid);
extern void ec_worker_free_slot(Oid dboid);

extern PGDLLEXPORT void echocache_launcher_main(Datum arg);
extern PGDLLEXPORT void echocache_worker_main(Datum arg);

#endif							/* ECHOCACHE_WORKER_H */
