/*-------------------------------------------------------------------------
 *
 * admin.h
 *	  SQL functions about the cache itself.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ADMIN_H
#define ECHOCACHE_ADMIN_H

#include "access/tupdesc.h"
#include "fmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

/*
 * A lifetime in seconds, rounded up; throws 22023 for one that is negative, that
 * has months (a month has no fixed length) or that does not fit.
 */
extern int64 ec_support_seconds(const Interval *interval);

/*
 * For a function that returns all its rows at once: where to put them, and their
 * type.  Throws 55000 when the library is not preloaded.
 */
extern Tuplestorestate *ec_support_begin_rows(FunctionCallInfo fcinfo, TupleDesc *desc);

#endif							/* ECHOCACHE_ADMIN_H */
