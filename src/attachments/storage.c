/*-------------------------------------------------------------------------
 *
 * storage.c
 *	  Partitions that a logical replication worker has truncated.
 *
 * A statement trigger is not inherited, so TRUNCATE of a partition fires none of ours.  By
 * hand it calls the object access hook (object.c).  A worker that applies a publication's
 * TRUNCATE calls neither: it truncates just the tables that the publisher names, which are
 * the partitions unless publish_via_partition_root is on.
 *
 * What TRUNCATE does is a new file for the table, by an update of the table's row in
 * pg_class, which sends a relcache invalidation, to this backend as well.  So a worker
 * notes which relations were invalidated, and looks before its commit whether their rows in
 * pg_class are ones that its transaction has written.  Such workers carry out no DDL, so
 * there is no other reason for that, but for triggers that do.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "replication/logicalworker.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#include "attachments/changed.h"
#include "attachments/storage.h"

#define MAX_NOTED	256

/* The relations whose invalidations have come since this transaction got its id. */
static Oid	noted[MAX_NOTED];
static int	nnoted = 0;

static void note(Datum arg, Oid relid);
static bool is_written(Oid relid);

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
