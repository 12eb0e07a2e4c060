/*-------------------------------------------------------------------------
 *
 * deadline.c
 *	  Absolute times, by which waits end.
 *
 * A deadline is a value that its caller hands on.  It is of the monotonic clock, which nobody
 * sets.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "miscadmin.h"
#include "storage/latch.h"

#include "compat.h"
#include "deadline.h"

/* The monotonic clock, in nanoseconds. */
int64
ec_deadline_clock(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64) ts.tv_sec * INT64CONST(1000000000) + ts.tv_nsec;
}

/* The time that this is on that clock. */
EcDeadline
ec_deadline_at(int64 clock)
{
	return clock / 1000;
}

/* The time that is so many milliseconds from now. */
EcDeadline
ec_deadline_in(int ms)
{
	return ec_deadline_at(ec_deadline_clock()) + (int64) ms * 1000;
}

/* Milliseconds left, rounded up; 0 when it is over. */
int
ec_deadline_left(EcDeadline deadline)
{
	int64		left = deadline - ec_deadline_in(0);

	return left <= 0 ? 0 : (int) ((left + 999) / 1000);
}

/*
 * Sleep for so many milliseconds, or until this process is woken for anything, and show as that
 * wait.  Throws for interrupts.
 */
void
ec_deadline_nap(int ms, EcWaitEvent why)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms,
					 ec_waitevent_of(why));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}
