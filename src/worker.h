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
extern void ec_database_rescan_at_commit(void);
extern void ec_database_ban(Oid dboid);
extern void ec_database_unban(void);
extern bool ec_database_is_banned(Oid dboid);
extern void ec_database_free(Oid dboid);

extern PGDLLEXPORT void echocache_launcher_main(Datum arg);
extern PGDLLEXPORT void echocache_worker_main(Datum arg);

#endif							/* ECHOCACHE_WORKER_H */
