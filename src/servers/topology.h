/*-------------------------------------------------------------------------
 *
 * topology.h
 *	  Which servers there are, and who goes by which list of them.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SERVERS_TOPOLOGY_H
#define ECHOCACHE_SERVERS_TOPOLOGY_H

#include "guc.h"
#include "shmem.h"

/* By the postmaster, then by the launcher. */
extern void ec_topology_init(void);
extern void ec_topology_publish(bool all);
extern void ec_topology_take_addresses(int server, const EcAddress *address, int n);
extern void ec_topology_take_found(const EcHost *h, const EcAddress *address, int naddresses);

/* With ec_shmem->lock held. */
extern EcDatabase *ec_topology_prefix_owner(const EcDatabase *db);
extern bool ec_topology_has_attachments(const EcDatabase *db);

/* By everybody who places keys. */
extern uint64 ec_topology_enter(void);
extern void ec_topology_leave(void);
extern bool ec_topology_is_entered(void);
extern void ec_topology_without_launcher(void);
extern void ec_topology_at_end(int level);
extern bool ec_topology_all_left(uint64 before, int *pid, Oid *dboid);

#endif							/* ECHOCACHE_SERVERS_TOPOLOGY_H */
