/*-------------------------------------------------------------------------
 *
 * kv_servers.h
 *	  Key/value functions about whole servers.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SQL_KV_SERVERS_H
#define ECHOCACHE_SQL_KV_SERVERS_H

#include "fmgr.h"

/* SQL functions. */
extern Datum echocache_kv_stats(PG_FUNCTION_ARGS);
extern Datum echocache_flush_all(PG_FUNCTION_ARGS);

#endif							/* ECHOCACHE_SQL_KV_SERVERS_H */
