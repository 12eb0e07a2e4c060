/*-------------------------------------------------------------------------
 *
 * promote.h
 *	  From memcached into the second tier.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_PROMOTE_H
#define ECHOCACHE_READ_PROMOTE_H

#include "read/hit.h"

extern void ec_promote(EcAttachment *att, EcItem *items, int n, EcPatience *patience);

#endif							/* ECHOCACHE_READ_PROMOTE_H */
