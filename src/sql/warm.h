/*-------------------------------------------------------------------------
 *
 * warm.h
 *	  Fill the cache from the table.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SQL_WARM_H
#define ECHOCACHE_SQL_WARM_H

#include "fmgr.h"

extern void ec_warm_at_end(int level);

/* SQL functions. */
extern Datum echocache_warm(PG_FUNCTION_ARGS);
extern Datum echocache_warming_internal(PG_FUNCTION_ARGS);

#endif							/* ECHOCACHE_SQL_WARM_H */
