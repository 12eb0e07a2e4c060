/*-------------------------------------------------------------------------
 *
 * probe.h
 *	  Which of several addresses accepts connections.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_NET_PROBE_H
#define ECHOCACHE_NET_PROBE_H

#include "deadline.h"
#include "shmem.h"

extern int	ec_probe(const EcAddress *addresses, int n, int prefer, EcDeadline deadline);

#endif							/* ECHOCACHE_NET_PROBE_H */
