/*-------------------------------------------------------------------------
 *
 * auth.h
 *	  Who we are to the memcached servers.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_AUTH_H
#define ECHOCACHE_AUTH_H

#include "guc.h"

/* Are the servers to be told a user name and a password? */
static inline bool
ec_auth_wanted(void)
{
	return ec_guc_username[0] != '\0';
}

extern size_t ec_auth_request(char *dst, const char **why);
extern bool ec_auth_file_is_private(int mode);

#endif							/* ECHOCACHE_AUTH_H */
