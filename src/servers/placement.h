/*-------------------------------------------------------------------------
 *
 * placement.h
 *	  This backend's copy of the topology, and which server a key lives on.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SERVERS_PLACEMENT_H
#define ECHOCACHE_SERVERS_PLACEMENT_H

#include "protocol/key.h"
#include "shmem.h"

/* This backend's copy of the topology; written by placement.c, and by socket.c where it says. */
typedef struct EcPlacement
{
	uint64		generation;		/* 0: none yet */
	bool		enabled;
	int			nservers;
	EcServer   *server;			/* its counters and last_error mean nothing */
	char		prefix[EC_PREFIX_MAX + 1];	/* of this database's keys */
	bool		has_slot;		/* that is its slot's; else the database has none yet */
} EcPlacement;

extern EcPlacement ec_placement;

extern void ec_placement_on_change(void (*callback) (void));
extern void ec_placement_bar(bool bar);
extern bool ec_placement_enter_always(void);
extern bool ec_placement_enter(void);
extern bool ec_placement_enter_again(uint64 generation);
extern int	ec_placement_size(void);
extern uint64 ec_placement_generation(void);
extern const char *ec_placement_prefix(void);
extern const char *ec_placement_name(int server);
extern int	ec_placement_of(const char *key, int keylen);
extern size_t ec_placement_largest(void);
extern bool ec_placement_fits(int server, int keylen, size_t valuelen);

#endif							/* ECHOCACHE_SERVERS_PLACEMENT_H */
