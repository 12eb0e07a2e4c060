/*-------------------------------------------------------------------------
 *
 * waiting.h
 *	  Whom the recovery of a server waits for.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_WORKER_WAITING_H
#define ECHOCACHE_WORKER_WAITING_H

extern bool ec_waiting_is_needed(int server);

#endif							/* ECHOCACHE_WORKER_WAITING_H */
