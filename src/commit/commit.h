/*-------------------------------------------------------------------------
 *
 * commit.h
 *	  The fence: what a transaction does to the cache around its commit.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_COMMIT_COMMIT_H
#define ECHOCACHE_COMMIT_COMMIT_H

extern void ec_commit_pre(bool prepare);
extern void ec_commit_post(void);
extern void ec_commit_at_end(void);

#endif							/* ECHOCACHE_COMMIT_COMMIT_H */
