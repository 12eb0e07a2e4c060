/*-------------------------------------------------------------------------
 *
 * detach.c
 *	  echocache_detach(): detach a table.
 *
 * All its documents are invalidated before the transaction commits, and the attachment
 * lock keeps anybody from storing another one until it has ended.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/detach.h"
#include "attachments/slot.h"
#include "attachments/triggers.h"
#include "commit/invalidate.h"
#include "commit/locks.h"
#include "commit/pending.h"
#include "compat.h"
#include "servers/outbox.h"
#include "servers/placement.h"
#include "servers/topology.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(echocache_detach);

/*
 * Invalidate every document of a table that is being detached, and keep anybody from
 * storing another one until this transaction has ended, by the attachment lock, for which
 * this waits.  Returns how many keys there were.
 *
 * What a server that is away may hold is noted in the outbox; but not with extension, since
 * then the outbox goes, too, and a WARNING says what is left.  Throws what the exchange and
 * a cancel throw.
 */
int64
ec_detach_invalidate(const char *name, Oid relid, bool extension)
{
	int64		removed = 0;

	Assert(IsTransactionState());
	ec_slot_note_detach(relid);
	(void) ec_locks_attachment(relid, EC_LOCK_ATTACHMENT_INVALIDATE, true);
	ec_slot_begin_epoch_of_table(relid);
	if (!ec_placement_enter_always())
	{
		/* when the cache is on again, its purge will not know the name */
		for (int i = 0; i < ec_placement_size() && !extension; i++)
			ec_outbox_add(ec_placement_name(i), name, NULL, 0);
		ec_topology_leave();
	}
	else
	{
		bool		confirmed = ec_invalidate_all(name, &removed, false);

		ec_topology_leave();
		/* not now: the outbox lock is held for the length of a commit only */
		if (!confirmed && !extension)
			ec_pending_purge(name);
		else if (!confirmed)
			ereport(WARNING_CLIENT_ONLY,
					(errmsg("cached documents of \"%s\" could not be invalidated from every server",
							name),
					 errdetail("They can be read there until they expire.")));
	}
	return removed;
}

/*
 * Lock those of an attachment's tables that the current role owns, as DROP TRIGGER will, to the
 * end of the transaction; waits for the locks.  Returns them.  Tables of others are not locked
 * for anybody's sake: the attachment lock is what a detach needs, and their triggers stay and
 * do nothing.
 */
List *
ec_detach_lock(List *tables)
{
	List	   *own = NIL;
	ListCell   *lc;

	foreach(lc, tables)
	{
		if (get_rel_relkind(lfirst_oid(lc)) == '\0' ||
			!ec_compat_owns_relation(lfirst_oid(lc), GetUserId()))
			continue;			/* the first: it is dropped just now, and its attachment with it */
		LockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
		own = lappend_oid(own, lfirst_oid(lc));
	}
	return own;
}

/* SQL: detach the table of this name. */
Datum
echocache_detach(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	List	   *tables;
	List	   *own;
	Oid			relid;
	int64		removed;
	ListCell   *lc;

	ec_shmem_require();
	PreventCommandIfReadOnly("echocache_detach()");
	/* while this waits for the locks the name may become that of another role's table */
	do
	{
		while ((tables = ec_attachment_tables(name)) == NIL)
			(void) ec_attachment_require(name);	/* throws, unless it has come just now */
		relid = linitial_oid(tables);
		if (!superuser() && !ec_compat_owns_relation(relid, GetUserId()))
			aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(relid));
		own = ec_detach_lock(tables);
	} while (!equal(tables, ec_attachment_tables(name)));
	removed = ec_detach_invalidate(name, relid, false);
	ec_catalog_forget(name);
	foreach(lc, own)
		ec_triggers_drop(lfirst_oid(lc), name, false);
	PG_RETURN_INT64(removed);
}
