/*-------------------------------------------------------------------------
 *
 * admin.h
 *	  SQL functions about the cache itself.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SQL_ADMIN_H
#define ECHOCACHE_SQL_ADMIN_H

#include "fmgr.h"

/* SQL functions. */
extern Datum echocache_check_version(PG_FUNCTION_ARGS);
extern Datum echocache_check_install(PG_FUNCTION_ARGS);
extern Datum echocache_is_available(PG_FUNCTION_ARGS);
extern Datum echocache_health(PG_FUNCTION_ARGS);
extern Datum echocache_connect(PG_FUNCTION_ARGS);
extern Datum echocache_disconnect(PG_FUNCTION_ARGS);
extern Datum echocache_purge(PG_FUNCTION_ARGS);

#endif							/* ECHOCACHE_SQL_ADMIN_H */
