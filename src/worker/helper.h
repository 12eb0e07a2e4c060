/*-------------------------------------------------------------------------
 *
 * helper.h
 *	  What the helpers of a database share: they come and go, and owners' code runs in them.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_WORKER_HELPER_H
#define ECHOCACHE_WORKER_HELPER_H

#include "shmem.h"

extern void ec_helper_begin(EcHelper helper);
extern bool ec_helper_is_over(void);
extern ErrorData *ec_helper_run(void (*work) (void *arg), void *arg, int limit_ms);

#endif							/* ECHOCACHE_WORKER_HELPER_H */
