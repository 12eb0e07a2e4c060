/*-------------------------------------------------------------------------
 *
 * dependent.h
 *	  Tables whose rows are part of another table's documents.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_DEPENDENT_H
#define ECHOCACHE_ATTACHMENTS_DEPENDENT_H

#include "fmgr.h"

#include "attachments/configuration.h"

extern void ec_dependent_check_keys(EcAttachment *att);

/* SQL functions. */
extern Datum echocache_attach_dependent(PG_FUNCTION_ARGS);
extern Datum echocache_detach_dependent(PG_FUNCTION_ARGS);

#endif							/* ECHOCACHE_ATTACHMENTS_DEPENDENT_H */
