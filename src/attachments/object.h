/*-------------------------------------------------------------------------
 *
 * object.h
 *	  Objects that documents depend on are dropped, truncated or changed.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_OBJECT_H
#define ECHOCACHE_ATTACHMENTS_OBJECT_H

#include "nodes/parsenodes.h"

#include "attachments/configuration.h"

extern void ec_object_init(void);

/*
 * Before the command: refuse (2BP01) to drop a column that the attachment, which may be
 * unresolved, needs in this table, unless by CASCADE.  With CASCADE the hook detaches it as
 * the column goes: PostgreSQL may yet refuse that, as in a partition.  Changes nothing, takes
 * no lock and expects none.  The current role owns the table.
 */
extern void ec_object_check_drop_column(EcAttachment *att, Oid relid, AlterTableCmd *cmd);

/*
 * After a command that has dropped row triggers on these tables, and is no DROP TRIGGER: they
 * went with what they depend on, and so do the attachments.  The tables are locked.  Throws what
 * a detach throws.
 */
extern void ec_object_detach_untriggered(List *relids);

/*
 * After each command: drop the triggers that attachments detached by it have left behind,
 * where the current role owns the table.  On another role's table they stay and do nothing
 * until they go with the extension.  They also stay where an event trigger has attached
 * the table again, and where the table is locked by somebody else.  Throws what DROP TRIGGER
 * throws, and locks as it does, in AccessExclusiveLock to the end of the transaction, but
 * never waits; expects no lock.
 */
extern void ec_object_drop_leftovers(void);

/*
 * The transaction is over, or the command has failed and what was to be dropped is
 * attached: forget the leftovers, which live in TopTransactionContext.  Never throws.
 */
extern void ec_object_forget_leftovers(void);

#endif							/* ECHOCACHE_ATTACHMENTS_OBJECT_H */
