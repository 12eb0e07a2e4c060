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
 * Record the dependencies of the attachment, which may be unresolved, unless they are, or there
 * is none.  Locks its table in AccessShareLock to the end of the transaction; with wait = false
 * only if that means no waiting, or else it returns false.  A filter that cannot be parsed has
 * no dependencies.  Throws what ec_act_guarded() and writing pg_depend throw.
 */
extern bool ec_depend_record(EcAttachment *att, bool wait);

/* The same for all attachments, without waiting: false if it is to be done once more. */
extern bool ec_depend_record_all(void);

/* Have the builder do it when this transaction commits. */
extern void ec_depend_record_at_commit(void);

/* The transaction is over.  Never throws. */
extern void ec_depend_at_end(bool committed);

/* Have the builder do it now, if any attachment may have dependencies.  Reads the configuration. */
extern void ec_depend_hand_over(void);

#endif							/* ECHOCACHE_ATTACHMENTS_DEPEND_H */
