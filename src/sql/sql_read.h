/*-------------------------------------------------------------------------
 *
 * sql_read.h
 *	  The SQL functions that read, touch, invalidate and reload documents.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SQL_SQL_READ_H
#define ECHOCACHE_SQL_SQL_READ_H

#include "fmgr.h"

/* SQL functions. */
extern Datum echocache_get(PG_FUNCTION_ARGS);
extern Datum echocache_get_session(PG_FUNCTION_ARGS);
extern Datum echocache_get_many(PG_FUNCTION_ARGS);
extern Datum echocache_get_sessions(PG_FUNCTION_ARGS);
extern Datum echocache_get_row(PG_FUNCTION_ARGS);
extern Datum echocache_touch(PG_FUNCTION_ARGS);
extern Datum echocache_touch_session(PG_FUNCTION_ARGS);
extern Datum echocache_invalidate(PG_FUNCTION_ARGS);
extern Datum echocache_invalidate_session(PG_FUNCTION_ARGS);
extern Datum echocache_refresh(PG_FUNCTION_ARGS);
extern Datum echocache_refresh_session(PG_FUNCTION_ARGS);

#endif							/* ECHOCACHE_SQL_SQL_READ_H */
