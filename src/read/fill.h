/*-------------------------------------------------------------------------
 *
 * fill.h
 *	  Fills: read the table, and store what it says.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_FILL_H
#define ECHOCACHE_READ_FILL_H

#include "attachments/configuration.h"
#include "read/hit.h"
#include "read/owner.h"

extern bool ec_fill_enter(EcAttachment **att, EcItem *items, int n, bool *as_owner);
extern bool ec_fill_begin(EcAttachment *att, EcItem *items, int n, const EcOwner *owner,
						  EcPatience *patience);
extern void ec_fill_forgo(EcAttachment *att, EcItem *item);
extern int	ec_fill_read(EcAttachment *att, EcItem *items, int n, const char *owner,
						 bool as_owner, uint64 generation, EcPatience *patience);

#endif							/* ECHOCACHE_READ_FILL_H */
