/*-------------------------------------------------------------------------
 *
 * slot.h
 *	  Slots in shared memory: counters of an attachment, and its newest unflushed commit.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_SLOT_H
#define ECHOCACHE_ATTACHMENTS_SLOT_H

#include "access/xlogdefs.h"
#include "nodes/pg_list.h"

#include "shmem.h"

extern EcSlot *ec_slot_claim(Oid relid, const char *name);
extern bool ec_slot_try(Oid relid, const char *name);
extern void ec_slot_require(Oid relid, const char *name);
extern List *ec_slot_relids(void);
extern void ec_slot_free(Oid relid);
extern void ec_slot_count(EcSlot *slot, EcCounter what, uint64 by);
extern void ec_slot_begin_epoch_of_table(Oid relid);
extern void ec_slot_begin_epoch_of_all(void);
extern void ec_slot_publish_async(EcSlot *slot, XLogRecPtr lsn);
extern bool ec_slot_is_flushed(EcSlot *slot);
extern void ec_slot_note_attach(Oid relid);
extern void ec_slot_note_detach(Oid relid);
extern void ec_slot_at_subend(int level, bool commit);
extern void ec_slot_at_commit(void);
extern void ec_slot_at_end(void);

#endif							/* ECHOCACHE_ATTACHMENTS_SLOT_H */
