/*-------------------------------------------------------------------------
 *
 * storage.c
 *	  Relations that are given another file, past all triggers and hooks of ours.
 *
 * That is an update of the relation's row in pg_class, which sends a relcache invalidation, to
 * this backend as well.  It matters in two places.
 *
 * A worker that applies a publication's TRUNCATE.  A statement trigger is not inherited, so
 * TRUNCATE of a partition fires none of ours.  By hand it calls the object access hook
 * (object.c), but such a worker does not: it truncates just the tables that the publisher
 * names, which are the partitions unless publish_via_partition_root is on.  So it notes which
 * relations were invalidated, and looks before its commit whether their rows in pg_class are
 * ones that its transaction has written.  Such workers carry out no DDL, so there is no other
 * reason for that, but for triggers that do.
 *
 * A document that is made by an older snapshot.  In a file that pg_repack or a rewriting ALTER
 * TABLE has written all rows are of that transaction, so a snapshot from before its end shows
 * none of them.  A query locks its tables before it takes its snapshot; but a function's tables,
 * and partitions, are locked later.  So whoever makes a document asks afterwards whether any
 * such relation has come to its notice meanwhile.  Locking a table brings its invalidation.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "replication/logicalworker.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "attachments/changed.h"
#include "attachments/storage.h"

#define MAX_NOTED	256
#define RECENT		256

/* The relations whose invalidations have come since this transaction got its id. */
static Oid	noted[MAX_NOTED];
static int	nnoted = 0;

/* The last relations whose invalidations have come, InvalidOid for all; how many have come. */
static Oid	recent[RECENT];
static uint64 nrecent = 0;

static void note(Datum arg, Oid relid);
static bool is_written(Oid relid);
static bool is_replaced(Oid relid, Snapshot snapshot);

/* Once per backend. */
void
ec_storage_init(void)
{
	CacheRegisterRelcacheCallback(note, (Datum) 0);
}

/*
 * Relcache callback.  Never throws.  A transaction that truncates more relations than can be
 * noted has -1 of them: any may be one.
 */
static void
note(Datum arg, Oid relid)
{
	recent[nrecent++ % RECENT] = relid;
	if (nnoted < 0 || !IsLogicalWorker() || !TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return;
	for (int i = 0; i < nnoted; i++)
		if (noted[i] == relid)
			return;
	if (!OidIsValid(relid) || nnoted == MAX_NOTED)
		nnoted = -1;
	else
		noted[nnoted++] = relid;
}

/* Has this transaction written the relation's row in pg_class? */
static bool
is_written(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool		written;

	if (!HeapTupleIsValid(tuple))
		return false;
	written = TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
	ReleaseSysCache(tuple);
	return written;
}

/*
 * Before the commit, or PREPARE: documents of what was truncated change with this
 * transaction.  May throw what reading the configuration throws.
 */
void
ec_storage_at_pre_commit(void)
{
	if (nnoted == 0)
		return;
	if (nnoted < 0)
		ec_changed_everything();
	for (int i = 0; i < nnoted; i++)
		if (is_written(noted[i]))
			ec_changed_relation(noted[i]);
}

/* The transaction is over.  Never throws. */
void
ec_storage_at_end(void)
{
	nnoted = 0;
}

/* Has the relation a file that a transaction has given it which the snapshot does not show? */
static bool
is_replaced(Oid relid, Snapshot snapshot)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Form_pg_class form;
	bool		replaced;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_class) GETSTRUCT(tuple);
	/* not if it is its first one, nor if it is somebody's temporary table */
	replaced = form->relfilenode != relid && RELKIND_HAS_TABLE_AM(form->relkind) &&
		form->relpersistence != RELPERSISTENCE_TEMP &&
		XidInMVCCSnapshot(HeapTupleHeaderGetXmin(tuple->t_data), snapshot);
	ReleaseSysCache(tuple);
	return replaced;
}

/* For ec_storage_replaced(), before the snapshot is taken. */
uint64
ec_storage_now(void)
{
	return nrecent;
}

/*
 * May rows be missing from what was read by this snapshot, since then, because a table that was
 * locked meanwhile has got another file?  Rather yes than no.  Throws what a look into the
 * catalogs throws.
 */
bool
ec_storage_replaced(uint64 since, Snapshot snapshot)
{
	uint64		end = nrecent;

	if (end - since > RECENT)
		return true;
	for (uint64 i = since; i < end; i++)
	{
		Oid			relid = recent[i % RECENT];

		if (!OidIsValid(relid) || is_replaced(relid, snapshot))
			return true;
	}
	return nrecent - since > RECENT;	/* the looks may have brought more */
}
