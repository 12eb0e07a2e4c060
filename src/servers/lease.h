/*-------------------------------------------------------------------------
 *
 * lease.h
 *	  Whose the keys of a prefix are: the lease on each server.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SERVERS_LEASE_H
#define ECHOCACHE_SERVERS_LEASE_H

#include "shmem.h"

typedef enum EcLeaseResult
{
	EC_LEASE_FAILED,			/* the server has failed, or its topology is over */
	EC_LEASE_NOT_OURS,			/* somebody else's, or not ours yet; lease_error says why */
	EC_LEASE_OURS
} EcLeaseResult;

extern EcLeaseResult ec_lease_step(EcDatabase *db, int server);
extern void ec_lease_renew(EcDatabase *db);
extern void ec_lease_renew_soon(int server);
extern int	ec_lease_nap(EcDatabase *db);
extern EcLeaseResult ec_lease_watch(EcDatabase *db, int server);
extern void ec_lease_refuse(EcDatabase *db, int server, const char *why);

#endif							/* ECHOCACHE_SERVERS_LEASE_H */
