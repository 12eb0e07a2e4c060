/*-------------------------------------------------------------------------
 *
 * purge.h
 *	  Invalidate every key with a given head from a server.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_PURGE_H
#define ECHOCACHE_PURGE_H

#include "nodes/pg_list.h"



extern bool ec_purge_list_keys(int server, int patience_ms, EcLineCallback callback, void *arg,
							   EcFailure *failure);
extern bool ec_purge(int server, List *heads, int64 *removed, EcFailure *failure);

#endif							/* ECHOCACHE_PURGE_H */
