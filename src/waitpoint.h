/*-------------------------------------------------------------------------
 *
 * waitpoint.h
 *	  Named wait points: where a test stops a backend between two steps.
 *
 * Wait points compile to nothing without -DECHOCACHE_WAIT_POINTS.  With it, a backend whose
 * echocache.wait_point names the point stops there for as long as another session holds
 * pg_advisory_lock(hashtext(name)).  An isolation spec can hold and release that lock, and
 * sees the backend wait for it.  A point inside the COMMIT callback works likewise, but the
 * backend cannot be cancelled there.
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
