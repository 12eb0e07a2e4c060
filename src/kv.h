/*-------------------------------------------------------------------------
 *
 * kv.h
 *	  The plain key/value client.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_KV_H
#define ECHOCACHE_KV_H

extern void ec_kv_keys_await(void);

#endif							/* ECHOCACHE_KV_H */
