/*-------------------------------------------------------------------------
 *
 * kv.h
 *	  The key/value client: SQL functions for what is no document.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SQL_KV_H
#define ECHOCACHE_SQL_KV_H

#include "fmgr.h"

/* SQL functions. */
extern Datum echocache_kv_get(PG_FUNCTION_ARGS);
extern Datum echocache_kv_get_bytea(PG_FUNCTION_ARGS);
extern Datum echocache_kv_get_and_touch(PG_FUNCTION_ARGS);
extern Datum echocache_kv_get_and_touch_bytea(PG_FUNCTION_ARGS);
extern Datum echocache_kv_gets(PG_FUNCTION_ARGS);
extern Datum echocache_kv_gets_bytea(PG_FUNCTION_ARGS);
extern Datum echocache_kv_get_multi(PG_FUNCTION_ARGS);
extern Datum echocache_kv_get_multi_bytea(PG_FUNCTION_ARGS);
extern Datum echocache_kv_set(PG_FUNCTION_ARGS);
extern Datum echocache_kv_add(PG_FUNCTION_ARGS);
extern Datum echocache_kv_replace(PG_FUNCTION_ARGS);
extern Datum echocache_kv_append(PG_FUNCTION_ARGS);
extern Datum echocache_kv_prepend(PG_FUNCTION_ARGS);
extern Datum echocache_kv_cas(PG_FUNCTION_ARGS);
extern Datum echocache_kv_touch(PG_FUNCTION_ARGS);
extern Datum echocache_kv_delete(PG_FUNCTION_ARGS);
extern Datum echocache_kv_incr(PG_FUNCTION_ARGS);
extern Datum echocache_kv_decr(PG_FUNCTION_ARGS);

#endif							/* ECHOCACHE_SQL_KV_H */
