/*-------------------------------------------------------------------------
 *
 * rename.h
 *	  Columns and functions of documents get other names, and columns other types.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_RENAME_H
#define ECHOCACHE_ATTACHMENTS_RENAME_H

#include "nodes/parsenodes.h"

/*
 * Before the command, while it holds no lock: what attachments have by name and may be about to
 * get another one, in the current memory context: functions of documents, and filters, as
 * expressions.  NIL if the statement renames nothing that these can have.  A filter that cannot
 * be parsed stays as it is.  Locks the tables of filters that may have the name in AccessShareLock,
 * one after the other, waiting, and releases them: ec_rename_follow() looks whether anything has
 * changed meanwhile.  Throws what ec_act_guarded() throws.
 */
extern List *ec_rename_note(Node *stmt);

/*
 * After the command: write these names, as they are now, into the configuration.  Makes visible
 * what the command did.  No permission is looked at.  Takes RowExclusiveLock on
 * echocache.document; expects no lock.  Throws what writing there throws, 40001 when another
 * rename came in between, and 42704 when the extension is gone; with NIL it does nothing.
 */
extern void ec_rename_follow(List *noted);

/*
 * Before columns of this table, which is locked, get other types: the filters that will be read
 * anew, in the current memory context.  One that cannot be parsed stays as it is.  Locks attached
 * tables, of which this one may be a part, in AccessShareLock, waiting, and releases them.  Throws
 * what ec_act_guarded() throws.
 *
 * ec_rename_follow_types() writes the configuration after the command, whose doing is visible, as
 * ec_rename_follow() does, and keeps these locks.  A filter that calls other functions for the new
 * types is a NOTICE; one that they do not fit throws what parsing it throws, which refuses the
 * command.
 */
extern List *ec_rename_note_types(Oid relid);
extern void ec_rename_follow_types(List *noted);

/*
 * Before the rename of a column: find and lock its table in AccessExclusiveLock, as the
 * command will, waiting.  InvalidOid: there is no such table.  Throws, before it locks,
 * unless the current role owns the table.
 */
extern Oid	ec_rename_lock(RenameStmt *stmt);

/*
 * What is needed after the rename of a column of this table, which is locked; NIL for
 * nothing.  The filters of its attachments are taken as they are now, and not as ec_rename_note()
 * has noted them.  Locks the attached tables in AccessShareLock for that, to the end of the
 * transaction, waiting.  Throws what opening them and parsing a filter throw.
 *
 * ec_rename_follow_column() writes the configuration after the command, under these locks.
 */
extern List *ec_rename_begin_column(Oid relid, List *noted);
extern void ec_rename_follow_column(List *renames, RenameStmt *stmt);

#endif							/* ECHOCACHE_ATTACHMENTS_RENAME_H */
