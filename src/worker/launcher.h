/*-------------------------------------------------------------------------
 *
 * launcher.h
 *	  The launcher: has the topology published, keeps a worker in every database.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_WORKER_LAUNCHER_H
#define ECHOCACHE_WORKER_LAUNCHER_H

extern void ec_launcher_init(void);
extern PGDLLEXPORT void echocache_launcher_main(Datum arg);

#endif							/* ECHOCACHE_WORKER_LAUNCHER_H */
