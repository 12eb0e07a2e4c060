/*-------------------------------------------------------------------------
 *
 * purge.h
 *	  Invalidate every key with a given head on a server.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SERVERS_PURGE_H
#define ECHOCACHE_SERVERS_PURGE_H

#include "nodes/pg_list.h"

#include "net/request.h"

extern bool ec_purge_list_keys(int server, int patience_ms, EcLineCallback callback, void *arg,
							   EcFailure *failure);
extern void ec_purge_on_batch(void (*callback) (void));
extern bool ec_purge(int server, List *heads, int64 *removed, EcFailure *failure);
extern bool ec_purge_misplaced(int server, List *heads, int64 *removed, EcFailure *failure);

#endif							/* ECHOCACHE_SERVERS_PURGE_H */
