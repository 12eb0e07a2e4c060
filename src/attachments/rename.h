/*-------------------------------------------------------------------------
 *
 * rename.h
 *	  Columns, and functions that make documents, get other names.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_RENAME_H
#define ECHOCACHE_RENAME_H

#include "nodes/parsenodes.h"

/*
 * Before the command: what is needed after it, in the current memory context; NIL if no
 * function may get another name by it, or none makes documents.  Throws what reading the
 * extension's tables throws; takes no lock and expects none.
 */
extern List *ec_rename_functions(Node *stmt);

/*
 * After it: the configuration has these functions' names as they are now.  Makes visible
 * what the command did, and writes with nobody's permission, under RowExclusiveLock on
 * echocache.document while it does; expects no lock.  Throws what writing there throws,
 * and 42704 when the extension is gone; with NIL it does nothing.
 */
extern void ec_rename_follow_functions(List *makers);

/*
 * The same two for a column of this table.  The first is NIL, too, if the current role
 * does not own the table, which the command then says; else it locks the table in
 * AccessExclusiveLock, as the command will, and those of the documents in AccessShareLock
 * for their filters, all to the end of the transaction, waiting; throws what opening them
 * and parsing a filter throw, and 55006 if the name is another table's after that wait.
 * The second expects these locks, and writes echocache.dependent as well, in the same way.
 */
extern List *ec_rename_begin(RenameStmt *stmt, Oid relid);
extern void ec_rename_follow(List *renames, RenameStmt *stmt);

#endif							/* ECHOCACHE_RENAME_H */
