/*-------------------------------------------------------------------------
 *
 * storage.h
 *	  Partitions that a logical replication worker has truncated.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_STORAGE_H
#define ECHOCACHE_ATTACHMENTS_STORAGE_H

extern void ec_storage_init(void);
extern void ec_storage_at_pre_commit(void);
extern void ec_storage_at_end(void);

#endif							/* ECHOCACHE_ATTACHMENTS_STORAGE_H */
