/*-------------------------------------------------------------------------
 *
 * depend.h
 *	  What an attachment's filter and function use cannot be dropped without it.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_DEPEND_H
#define ECHOCACHE_ATTACHMENTS_DEPEND_H

#include "attachments/configuration.h"

/*
 * Record the dependencies of the attachment, which may be unresolved, unless there is none; those
 * that are recorded are replaced with anew = true, and else stay.  Locks its table in
 * ShareUpdateExclusiveLock to the end of the transaction; with wait = false only if that means no
 * waiting.  A filter that cannot be parsed leaves what is recorded.  Returns false if it should be
 * tried again: the table is busy, or nothing is recorded for such a filter.  Throws what
 * ec_act_guarded() and writing pg_depend throw.
 */
extern bool ec_depend_record(EcAttachment *att, bool anew, bool wait);

/*
 * The worker's: the same for the attachments of these names, NIL: all, without waiting, in
 * transactions of its own.  Returns the names, in the current memory context, of those that should
 * be tried again, and frees the list.  An error of one is logged.
 */
extern List *ec_depend_record_all(List *names, bool anew);

/* Have the worker do it when this transaction commits. */
extern void ec_depend_record_at_commit(bool anew);

/* The transaction is over.  Never throws. */
extern void ec_depend_at_end(bool committed);

#endif							/* ECHOCACHE_ATTACHMENTS_DEPEND_H */
