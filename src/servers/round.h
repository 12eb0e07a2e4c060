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
 * Flags of ec_round_run() and ec_exchange().
 *
 * EC_NO_RETRY: nothing is to be asked twice.
 *
 * EC_PATIENT: a server on a busy machine may be silent for a while in the middle of much work,
 * such as the list of its keys.  Where no read and no ordinary commit waits, it has as long as a
 * commit would wait, and at least EC_PATIENCE_MS.
 *
 * EC_COUNTED: nothing depends on the answer.  A timeout is not the server's end, but counted by
 * ec_state_slow().
 *
 * EC_ASKED_BEFORE: with EC_COUNTED, of a read that was not answered before, and is part of a crowd
 * that waits for one document.  Its timeout is not counted once more.
 *
 * EC_MARKING: a commit waits.  The server has echocache.commit_timeout, unless somebody else
 * finds it DOWN before.
 */
#define EC_NO_RETRY			0x01
#define EC_PATIENT			0x02
#define EC_COUNTED			0x04
#define EC_MARKING			0x08
#define EC_ASKED_BEFORE		0x10
#define EC_PATIENCE_MS		1000

/* How long a server has for an answer. */
static inline int
ec_round_ms(int flags)
{
	if (flags & EC_MARKING)
		return ec_guc_commit_timeout;
	if (flags & EC_PATIENT)
		return Max(Max(ec_guc_timeout, ec_guc_commit_timeout), EC_PATIENCE_MS);
	return ec_guc_timeout;
}

extern void ec_round_blame(const EcConnection *c, EcDeadline began, int flags);
extern bool ec_round_run(EcConnection *conns, EcRequest *reqs, int nreqs, EcDeadline deadline,
						 EcDeadline last, int flags, void (*meanwhile) (void *arg), void *arg);

#endif							/* ECHOCACHE_SERVERS_ROUND_H */
