/*-------------------------------------------------------------------------
 *
 * trigger.h
 *	  Triggers on attached tables: note what changes.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_COMMIT_TRIGGER_H
#define ECHOCACHE_COMMIT_TRIGGER_H

#include "fmgr.h"

/* SQL functions. */
extern Datum echocache_row_trigger(PG_FUNCTION_ARGS);
extern Datum echocache_truncate_trigger(PG_FUNCTION_ARGS);
extern Datum echocache_dependent_trigger(PG_FUNCTION_ARGS);
extern Datum echocache_document_trigger(PG_FUNCTION_ARGS);
extern Datum echocache_replication_trigger(PG_FUNCTION_ARGS);

#endif							/* ECHOCACHE_COMMIT_TRIGGER_H */
