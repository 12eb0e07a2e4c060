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

/* An absolute time, in microseconds of the monotonic clock. */
typedef int64 EcDeadline;

extern EcDeadline ec_deadline_in(int ms);
extern int	ec_deadline_left(EcDeadline deadline);
extern void ec_deadline_nap(int ms);

#endif							/* ECHOCACHE_DEADLINE_H */
