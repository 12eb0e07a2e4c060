/*-------------------------------------------------------------------------
 *
 * changed.h
 *	  Objects that documents depend on have changed: the documents are invalidated.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_CHANGED_H
#define ECHOCACHE_ATTACHMENTS_CHANGED_H

/*
 * All documents that depend on this table, or composite type, are invalidated when this
 * transaction commits, and every backend looks anew whether the triggers see every change.
 * Does nothing if there are none.  Throws what reading the extension's tables throws, and
 * 25000 once the commit has begun.  Takes no lock on the table: whoever changes the table
 * has one that lasts as long as the transaction.
 */
extern void ec_changed_relation(Oid relid);

/*
 * Documents change with this transaction: all of them; those that show values of this type;
 * those that show names of objects, as columns of type regclass and the like do.  These
 * throw as ec_changed_relation() does.
 */
extern void ec_changed_everything(void);
extern void ec_changed_type(Oid type);
extern void ec_changed_names(void);


/* The object access hook's, of a trigger, a cast and a function. */
extern void ec_changed_trigger(Oid trigger, bool created, bool dropped);
extern void ec_changed_cast(Oid cast, bool created);
extern void ec_changed_function(Oid function);

extern bool ec_changed_has_name(Oid classId);

#endif							/* ECHOCACHE_ATTACHMENTS_CHANGED_H */
