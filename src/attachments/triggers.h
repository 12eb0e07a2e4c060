/*-------------------------------------------------------------------------
 *
 * triggers.h
 *	  The triggers on attached tables: created and dropped.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_TRIGGERS_H
#define ECHOCACHE_ATTACHMENTS_TRIGGERS_H

extern void ec_triggers_create(Oid relid, const char *name, const char *schema,
							   bool dependent);
extern Oid	ec_triggers_row(Oid relid, const char *name);
extern void ec_triggers_enable(Oid relid);
extern void ec_triggers_drop(Oid relid, const char *name, bool dependent);

#endif							/* ECHOCACHE_ATTACHMENTS_TRIGGERS_H */
