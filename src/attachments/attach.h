/*-------------------------------------------------------------------------
 *
 * attach.h
 *	  Attach a table.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_ATTACH_H
#define ECHOCACHE_ATTACHMENTS_ATTACH_H

#include "fmgr.h"

/* SQL functions. */
extern Datum echocache_attach(PG_FUNCTION_ARGS);

#endif							/* ECHOCACHE_ATTACHMENTS_ATTACH_H */
