/*-------------------------------------------------------------------------
 *
 * verify.h
 *	  Compare the documents that the servers hold to the rows that there are.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SQL_VERIFY_H
#define ECHOCACHE_SQL_VERIFY_H

#include "fmgr.h"

/* SQL functions. */
extern Datum echocache_verify(PG_FUNCTION_ARGS);

#endif							/* ECHOCACHE_SQL_VERIFY_H */
