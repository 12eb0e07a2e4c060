/*-------------------------------------------------------------------------
 *
 * password.h
 *	  The setting echocache.password, kept out of sight.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_PASSWORD_H
#define ECHOCACHE_PASSWORD_H

#include "utils/guc.h"

extern void ec_password_init(void);
extern bool ec_password_check(char **newval, void **extra, GucSource source);
extern void ec_password_assign(void *extra);
extern const char *ec_password_secret(void);

#endif							/* ECHOCACHE_PASSWORD_H */
