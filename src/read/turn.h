/*-------------------------------------------------------------------------
 *
 * turn.h
 *	  Of many who miss one document, one makes it: whose turn it is.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_TURN_H
#define ECHOCACHE_READ_TURN_H

#include "read/hit.h"

extern void ec_turn_take(EcAttachment *att, EcItem *item, bool alone, const EcOwner *owner,
						 EcPatience *patience);
extern void ec_turn_end(EcAttachment *att, const EcItem *item);

#endif							/* ECHOCACHE_READ_TURN_H */
