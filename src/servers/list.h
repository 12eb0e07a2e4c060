/*-------------------------------------------------------------------------
 *
 * list.h
 *	  The list of servers that the settings and the resolver make.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SERVERS_LIST_H
#define ECHOCACHE_SERVERS_LIST_H

#include "guc.h"
#include "shmem.h"

extern void ec_list_name(char *name, const EcHost *h);
extern int	ec_list_make(EcServer *servers, const EcServer *known, int nknown);
extern const EcServer *ec_list_find(const EcServer *servers, int n, const char *name);
extern const char *ec_list_unsure(const EcServer *servers, int n, int server);
extern bool ec_list_is_same(const EcServer *a, const EcServer *b);
extern bool ec_list_is_found(const EcServer *s, const EcHost *h);
extern void ec_list_set_found(EcServer *s, const EcHost *h, const EcAddress *address);

#endif							/* ECHOCACHE_SERVERS_LIST_H */
