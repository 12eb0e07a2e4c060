/*-------------------------------------------------------------------------
 *
 * support.c
 *	  What SQL functions share: arguments and result sets.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/tupdesc.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/tuplestore.h"

#include "shmem.h"
#include "sql/support.h"

/*
 * A lifetime in seconds, rounded up; 0: no expiry.  Throws 22023 for months, for less than 0
 * and for more than INT_MAX.
 */
int64
ec_support_seconds(const Interval *interval)
{
	int64		seconds;

	if (interval->month != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a lifetime cannot have months or years"),
				 errhint("Use days, hours, minutes or seconds.")));
	seconds = (int64) interval->day * SECS_PER_DAY +
		interval->time / USECS_PER_SEC + (interval->time % USECS_PER_SEC > 0);
	/* an interval of less than a second below zero is rounded up to zero, and is negative */
	if (seconds < 0 || seconds > INT_MAX ||
		(seconds == 0 && interval->time % USECS_PER_SEC < 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a lifetime must be between 0 (no expiry) and %d seconds", INT_MAX)));
	return seconds;
}

/*
 * Begin the result of a function that returns rows: they go into the tuplestore, and *desc is
 * their type.  Both last as long as the query.  Throws 55000 unless the library was preloaded,
 * and 0A000 where the caller cannot take a set.
 */
Tuplestorestate *
ec_support_begin_rows(FunctionCallInfo fcinfo, TupleDesc *desc)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext old;

	ec_shmem_require();
	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo) ||
		!(rsinfo->allowedModes & SFRM_Materialize))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	old = MemoryContextSwitchTo(rsinfo->econtext->ecxt_per_query_memory);
	if (get_call_result_type(fcinfo, NULL, desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	rsinfo->returnMode = SFRM_Materialize;
	rsinfo->setResult = tuplestore_begin_heap(true, false, work_mem);
	rsinfo->setDesc = *desc;
	MemoryContextSwitchTo(old);
	return rsinfo->setResult;
}
