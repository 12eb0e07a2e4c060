/*-------------------------------------------------------------------------
 *
 * xact.h
 *	  The transaction callbacks, all of them.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_COMMIT_XACT_H
#define ECHOCACHE_COMMIT_XACT_H

extern void ec_xact_init(void);

#endif							/* ECHOCACHE_COMMIT_XACT_H */
