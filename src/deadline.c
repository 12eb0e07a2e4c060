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
#include "pgstat.h"
#include "storage/latch.h"

#include "compat.h"
#include "deadline.h"

static int64 now_us(void);

/* The monotonic clock. */
static int64
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/* The time that is so many milliseconds from now. */
EcDeadline
ec_deadline_in(int ms)
{
	return now_us() + (int64) ms * 1000;
}

/* Milliseconds left, rounded up; 0 when it is over. */
int
ec_deadline_left(EcDeadline deadline)
{
	int64		left = deadline - now_us();

	return left <= 0 ? 0 : (int) ((left + 999) / 1000);
}

/*
 * Sleep for so many milliseconds, or until this process is woken for anything.  Throws
 * for interrupts.
 */
void
ec_deadline_nap(int ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}
