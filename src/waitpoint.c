/*-------------------------------------------------------------------------
 *
 * waitpoint.c
 *	  Named wait points: where a test stops a backend between two steps.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef ECHOCACHE_WAIT_POINTS
#include "catalog/pg_collation.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "guc.h"
#include "waitpoint.h"

/* If this is the backend's wait point, stop while somebody holds its advisory lock. */
void
ec_waitpoint(const char *name)
{
	LOCKTAG		tag;
	int64		key;

	if (ec_guc_wait_point == NULL || strcmp(ec_guc_wait_point, name) != 0)
		return;
	key = DatumGetInt32(DirectFunctionCall1Coll(hashtext, DEFAULT_COLLATION_OID,
												PointerGetDatum(cstring_to_text(name))));
	/* as pg_advisory_lock(bigint) does */
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (key >> 32), (uint32) key, 1);
	(void) LockAcquire(&tag, ExclusiveLock, true, false);
	LockRelease(&tag, ExclusiveLock, true);
}
#endif
