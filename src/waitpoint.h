/*-------------------------------------------------------------------------
 *
 * waitpoint.h
 *	  Named wait points: where a test stops a backend between two steps.
 *
 * They compile to nothing without -DECHOCACHE_WAIT_POINTS.  With it, a backend
 * whose echocache.wait_point names the point stops there for as long as another
 * session holds pg_advisory_lock(hashtext(name)), which is what an
 * isolation spec can hold and release; the session shows as waiting for it.
 * Points that lie inside the COMMIT callback take the lock the same way: it
 * cannot be cancelled there.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_WAITPOINT_H
#define ECHOCACHE_WAITPOINT_H

#ifdef ECHOCACHE_WAIT_POINTS
extern void ec_waitpoint(const char *name);
#else
#define ec_waitpoint(name) ((void) 0)
#endif

#endif							/* ECHOCACHE_WAITPOINT_H */
