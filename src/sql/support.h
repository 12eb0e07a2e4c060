/*-------------------------------------------------------------------------
 *
 * support.h
 *	  What SQL functions share: arguments and result sets.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SQL_SUPPORT_H
#define ECHOCACHE_SQL_SUPPORT_H

#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "utils/tuplestore.h"

extern int64 ec_support_seconds(const Interval *interval);
extern Tuplestorestate *ec_support_begin_rows(FunctionCallInfo fcinfo, TupleDesc *desc);

#endif							/* ECHOCACHE_SQL_SUPPORT_H */
