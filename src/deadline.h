/*-------------------------------------------------------------------------
 *
 * deadline.h
 *	  Absolute times, by which waits end.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_DEADLINE_H
#define ECHOCACHE_DEADLINE_H

#include "waitevent.h"

/* An absolute time, in microseconds of the monotonic clock. */
typedef int64 EcDeadline;

extern int64 ec_deadline_clock(void);
extern EcDeadline ec_deadline_at(int64 clock);
extern EcDeadline ec_deadline_in(int ms);
extern int	ec_deadline_left(EcDeadline deadline);
extern void ec_deadline_nap(int ms, EcWaitEvent why);

#endif							/* ECHOCACHE_DEADLINE_H */
