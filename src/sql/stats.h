/*-------------------------------------------------------------------------
 *
 * stats.h
 *	  SQL functions that show counters and servers.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SQL_STATS_H
#define ECHOCACHE_SQL_STATS_H

#include "fmgr.h"

/* SQL functions. */
extern Datum echocache_servers_internal(PG_FUNCTION_ARGS);
extern Datum echocache_stats_internal(PG_FUNCTION_ARGS);
extern Datum echocache_stats_reset(PG_FUNCTION_ARGS);
extern Datum echocache_suspended_internal(PG_FUNCTION_ARGS);

#endif							/* ECHOCACHE_SQL_STATS_H */
