/*-------------------------------------------------------------------------
 *
 * recovery.h
 *	  Bring a server back, and clear its outbox.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_WORKER_RECOVERY_H
#define ECHOCACHE_WORKER_RECOVERY_H

#include "shmem.h"

#define EC_WAIT_FOR_LOCK_MS	50	/* how often the outbox lock is tried */

extern bool ec_recovery_run(EcDatabase *db, int server, int *retry_ms);
extern void ec_recovery_clear_late_rows(EcDatabase *db);
extern void ec_recovery_watch(EcDatabase *db, int server);

#endif							/* ECHOCACHE_WORKER_RECOVERY_H */
