/*-------------------------------------------------------------------------
 *
 * storage.h
 *	  Relations that are given another file, past all triggers and hooks of ours.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_STORAGE_H
#define ECHOCACHE_ATTACHMENTS_STORAGE_H

#include "utils/snapshot.h"

extern void ec_storage_init(void);
extern void ec_storage_at_pre_commit(void);
extern void ec_storage_at_end(void);
extern uint64 ec_storage_now(void);
extern bool ec_storage_replaced(uint64 since, Snapshot snapshot);

#endif							/* ECHOCACHE_ATTACHMENTS_STORAGE_H */
