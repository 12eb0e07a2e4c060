/*-------------------------------------------------------------------------
 *
 * fetch.h
 *	  Rows by id, by a query, and the documents that are made of them.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_FETCH_H
#define ECHOCACHE_READ_FETCH_H

#include "utils/snapshot.h"

#include "attachments/configuration.h"
#include "read/render.h"

extern bool ec_fetch(EcAttachment *att, EcRow *rows, int n, Snapshot snapshot, uint64 since,
					 bool as_owner);
extern bool ec_fetch_latest(EcAttachment *att, EcRow *rows, int n, bool as_owner);
extern void ec_fetch_try(EcAttachment *att);

#endif							/* ECHOCACHE_READ_FETCH_H */
