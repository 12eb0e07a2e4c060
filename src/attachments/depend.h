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
 * AccessShareLock to the end of the transaction; with wait = false only if that means no waiting,
 * or else it returns false.  A filter that cannot be parsed has no dependencies.  Throws what
 * ec_act_guarded() and writing pg_depend throw.
 */
extern bool ec_depend_record(EcAttachment *att, bool anew, bool wait);

/*
 * The worker's: the same for all attachments, without waiting, in transactions of its own.  false:
 * a table was busy, so it is to be done once more.
 */
extern bool ec_depend_record_all(bool anew);

/* Have the worker do it when this transaction commits. */
extern void ec_depend_record_at_commit(bool anew);

/* The transaction is over.  Never throws. */
extern void ec_depend_at_end(bool committed);

#endif							/* ECHOCACHE_ATTACHMENTS_DEPEND_H */
