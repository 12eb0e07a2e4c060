/*-------------------------------------------------------------------------
 *
 * failure.h
 *	  Why a request was refused or not answered.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_NET_FAILURE_H
#define ECHOCACHE_NET_FAILURE_H

#include "shmem.h"

typedef struct EcFailure
{
	int			sqlstate;		/* what an error about it is to carry */
	bool		timed_out;
	bool		ours;			/* this process was short of something, a connection perhaps: how
								 * the server serves others is not known */
	bool		no_room;		/* and it was one of the server's connections */
	char		reason[EC_ERROR_MAX];	/* a phrase, for a message's detail and for last_error */
} EcFailure;

extern void ec_failure_set(EcFailure *failure, int sqlstate, const char *fmt,...)
			pg_attribute_printf(3, 4);
extern const EcFailure *ec_failure_copy(const EcFailure *failure);

#endif							/* ECHOCACHE_NET_FAILURE_H */
