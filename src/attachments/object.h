/*-------------------------------------------------------------------------
 *
 * object.h
 *	  Objects that documents depend on are dropped, truncated or changed.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_OBJECT_H
#define ECHOCACHE_OBJECT_H

#include "nodes/parsenodes.h"

#include "attachments/configuration.h"

extern void ec_object_init(void);

/*
 * Before the command: a function that makes documents is not dropped (2BP01), unless by
 * CASCADE.  Those are detached as it goes, and so are any that begin to use it after this.
 * Throws also what looking the functions up throws.  It acts on nothing, so any role may
 * come here; takes no lock and expects none.
 */
extern void ec_object_check_drop_function(DropStmt *stmt);

/*
 * The same for a column that the document, which may be unresolved, needs in this table;
 * but CASCADE detaches it here.  That locks all its tables in AccessExclusiveLock, to the
 * end of the transaction, and its class, waiting for both, and talks to servers: throws
 * what these throw.  So the current role owns the table; it need not be locked yet.
 */
extern void ec_object_check_drop_column(EcAttachment *att, Oid relid, AlterTableCmd *cmd);

/*
 * All documents that depend on this table, or composite type, are invalidated when this
 * transaction commits, and every backend looks anew whether their triggers see all;
 * nothing is done if there are none.  Throws what reading the extension's tables throws,
 * and 25000 once the transaction is fenced.  Takes no lock on the table: whoever changes
 * it has one that lasts as long as the transaction.
 */
extern void ec_object_relation_changed(Oid relid);

/*
 * After each command: the triggers that documents detached by it have left on tables of
 * the current role's are dropped.  Throws what DROP TRIGGER throws, and locks as it does,
 * in AccessExclusiveLock to the end of the transaction; expects no lock.
 */
extern void ec_object_drop_leftovers(void);
extern void ec_object_forget_leftovers(void);

#endif							/* ECHOCACHE_OBJECT_H */
