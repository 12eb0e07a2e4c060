/*-------------------------------------------------------------------------
 *
 * echocache.h
 *	  Module magic and _PG_init, which calls each module's init; nothing else.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ECHOCACHE_H
#define ECHOCACHE_ECHOCACHE_H

extern PGDLLEXPORT void _PG_init(void);

#endif							/* ECHOCACHE_ECHOCACHE_H */
