/*-------------------------------------------------------------------------
 *
 * resolver.h
 *	  Names of servers are looked up by children of the launcher.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_WORKER_RESOLVER_H
#define ECHOCACHE_WORKER_RESOLVER_H

extern void ec_resolver_begin(void);
extern void ec_resolver_restart(void);
extern void ec_resolver_run(void);
extern void ec_resolver_nap(int ms);

#endif							/* ECHOCACHE_WORKER_RESOLVER_H */
