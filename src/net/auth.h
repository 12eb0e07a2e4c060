/*-------------------------------------------------------------------------
 *
 * auth.h
 *	  Who we are to the memcached servers.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_NET_AUTH_H
#define ECHOCACHE_NET_AUTH_H

#include "guc.h"

/* Are the servers to be told a user name and a password? */
static inline bool
ec_auth_wanted(void)
{
	return ec_guc_username[0] != '\0';
}

extern bool ec_auth_file_is_private(int mode);
extern size_t ec_auth_request(char *dst, char *failure);

#endif							/* ECHOCACHE_NET_AUTH_H */
