/*-------------------------------------------------------------------------
 *
 * configuration.h
 *	  From the extension's tables and the catalogs to an attached document.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_CONFIGURATION_H
#define ECHOCACHE_CONFIGURATION_H

#include "document.h"

/*
 * All attached documents, unresolved, made in the current memory context, which becomes
 * each one's own.  catalog: the OID of echocache.document.  That a document's table is gone
 * is no error; throws what reading a table throws.  Locks the extension's own tables, in
 * AccessShareLock and only while they are read, and expects no lock.
 */
extern List *ec_configuration_read(Oid catalog);

/*
 * Set what is not in the configuration's tables, and claim a slot if one is to be had.
 * Throws when the document's table (42P01), its key or its owner column (42703) is gone,
 * and leaves it unresolved then.  Expects no lock on the table and takes none, so all may
 * have changed when it returns; then an invalidation tells.
 */
extern void ec_configuration_resolve(EcAttachment *att);

extern Oid	ec_configuration_function(EcAttachment *att);
extern List *ec_catalog_names(Datum array);

#endif							/* ECHOCACHE_CONFIGURATION_H */
