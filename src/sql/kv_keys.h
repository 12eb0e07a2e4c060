/*-------------------------------------------------------------------------
 *
 * kv_keys.h
 *	  Which keys the key/value client may use.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SQL_KV_KEYS_H
#define ECHOCACHE_SQL_KV_KEYS_H

#include "fmgr.h"

#include "net/request.h"

extern void ec_kv_keys_await(void);
extern void ec_kv_keys_enter(void);
extern void ec_kv_keys_check(const char *key, int len);
extern void ec_kv_keys_too_large(const EcRequest *req, const char *detail);
extern void ec_kv_keys_begin(EcRequest *reqs, int n);
extern void ec_kv_keys_end(void);

#endif							/* ECHOCACHE_SQL_KV_KEYS_H */
