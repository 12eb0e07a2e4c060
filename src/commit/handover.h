/*-------------------------------------------------------------------------
 *
 * handover.h
 *	  What commits hand over to the builder: keys of documents that are to be made.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_COMMIT_HANDOVER_H
#define ECHOCACHE_COMMIT_HANDOVER_H

#include "shmem.h"

/* By commits. */
extern bool ec_handover_put(Oid relid, const char *id);

/* By the builder and the launcher. */
extern bool ec_handover_take(EcBuildKey *key);
extern bool ec_handover_is_empty(const EcDatabase *db);

/* By anybody. */
extern int	ec_handover_count(Oid relid);

#endif							/* ECHOCACHE_COMMIT_HANDOVER_H */
