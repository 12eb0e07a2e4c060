/*-------------------------------------------------------------------------
 *
 * round.h
 *	  One exchange with all servers that it concerns, from its requests to their results.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SERVERS_ROUND_H
#define ECHOCACHE_SERVERS_ROUND_H

#include "deadline.h"
#include "net/socket.h"

/* A flag of ec_round_run() and ec_exchange() */
#define EC_NO_RETRY			0x01	/* not to be asked twice */

extern bool ec_round_run(EcConnection *conns, EcRequest *reqs, int nreqs, EcDeadline deadline,
						 EcDeadline last, int flags, void (*meanwhile) (void *arg), void *arg);

#endif							/* ECHOCACHE_SERVERS_ROUND_H */
