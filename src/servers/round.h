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
#include "guc.h"
#include "net/socket.h"

/*
 * Flags of ec_round_run() and ec_exchange().  A server on a busy machine may be silent for a
 * while in the middle of much work, such as the list of its keys; where no read and no ordinary
 * commit waits, EC_PATIENT gives it EC_PATIENCE_MS for an answer, if echocache.timeout is
 * shorter.
 */
#define EC_NO_RETRY			0x01	/* not to be asked twice */
#define EC_PATIENT			0x02
#define EC_PATIENCE_MS		1000

/* How long a server has for an answer. */
static inline int
ec_round_ms(int flags)
{
	return flags & EC_PATIENT ? Max(ec_guc_timeout, EC_PATIENCE_MS) : ec_guc_timeout;
}

extern bool ec_round_run(EcConnection *conns, EcRequest *reqs, int nreqs, EcDeadline deadline,
						 EcDeadline last, int flags, void (*meanwhile) (void *arg), void *arg);

#endif							/* ECHOCACHE_SERVERS_ROUND_H */
