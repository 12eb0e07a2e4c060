/*-------------------------------------------------------------------------
 *
 * failure.c
 *	  Why a request was refused or not answered.
 *
 * A failure is a value that its owner passes on: a connection has one, a request
 * points to one.  No function here keeps any, so a nested read cannot change the
 * reason that an outer one reports.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "net/failure.h"

/*
 * Say why a request has failed, other than by a timeout.  Never throws or allocates: what
 * does not fit is cut off.
 */
void
ec_failure_set(EcFailure *failure, int sqlstate, const char *fmt,...)
{
	va_list		args;

	va_start(args, fmt);
	vsnprintf(failure->reason, sizeof(failure->reason), fmt, args);
	va_end(args);
	failure->sqlstate = sqlstate;
	failure->timed_out = failure->ours = failure->no_room = false;
}

/*
 * A copy that lasts as long as the current memory context, for the requests that the
 * failure is about.  Never throws: without memory the copy says just that.
 */
const EcFailure *
ec_failure_copy(const EcFailure *failure)
{
	static const EcFailure no_memory = {ERRCODE_OUT_OF_MEMORY, false, true, false, "out of memory"};
	EcFailure  *copy = palloc_extended(sizeof(EcFailure), MCXT_ALLOC_NO_OOM);

	if (copy == NULL)
		return &no_memory;
	*copy = *failure;
	return copy;
}
