/*-------------------------------------------------------------------------
 *
 * address.h
 *	  The addresses of a server, and which one of them is used.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SERVERS_ADDRESS_H
#define ECHOCACHE_SERVERS_ADDRESS_H

#include "guc.h"
#include "shmem.h"

/* Room for an address as text. */
#define EC_ADDRESS_TEXT	64

extern bool ec_address_set_fixed(EcServer *s);
extern int	ec_address_look_up(const EcHost *h, EcAddress *list, int max);
extern int	ec_address_find(const EcServer *s, const EcAddress *address);
extern bool ec_address_is_same(const EcServer *a, const EcServer *b);
extern char *ec_address_text(const EcAddress *address, char *text);
extern bool ec_address_choose(int server, uint64 generation);

#endif							/* ECHOCACHE_SERVERS_ADDRESS_H */
