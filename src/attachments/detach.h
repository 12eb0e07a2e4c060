/*-------------------------------------------------------------------------
 *
 * detach.h
 *	  Detach a table: its documents are invalidated, its triggers dropped.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_DETACH_H
#define ECHOCACHE_ATTACHMENTS_DETACH_H

#include "fmgr.h"
#include "nodes/pg_list.h"

extern List *ec_detach_lock(List *tables);
extern int64 ec_detach_invalidate(const char *name, Oid relid, bool extension);

/* SQL functions. */
extern Datum echocache_detach(PG_FUNCTION_ARGS);

#endif							/* ECHOCACHE_ATTACHMENTS_DETACH_H */
