/*-------------------------------------------------------------------------
 *
 * outbox.c
 *	  The durable list of keys that a server still holds against the truth.
 *
 * A transaction that cannot confirm its markers on a server, because that is DOWN, writes one
 * row for each such key into echocache.outbox, as part of itself.  Rows are never merged, nor
 * left out because one is there: the worker may just have dealt with that one.  There are two
 * exceptions, where that cannot be.  The worker itself has put one row for each attachment in
 * place of many, and the state is still the word under which it did so (ec_state_all_noted()).
 * Or there is no worker, and the one that comes will purge the server (ec_state_is_unattended()).
 * Then one row is left, for hot standbys: they take a row that has been replayed as a sign that
 * the server cannot be believed.
 *
 * Each server has an outbox lock.  A writer takes it in share mode, as its last lock, before
 * it reads the state DOWN that makes it write rows, and keeps it to its end (a prepared
 * transaction, beyond that).  The worker makes the server RECOVERING first and then waits
 * until nobody holds the lock, without ever queueing for it; so the snapshot that it takes
 * then has every row that was written under a DOWN from before, and whoever comes later does
 * not read DOWN.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "attachments/catalog.h"
#include "commit/locks.h"
#include "servers/outbox.h"

#define EC_OUTBOX_SHARE		ShareLock
#define EC_OUTBOX_ALONE		ExclusiveLock

enum
{
	Anum_outbox_id = 1,
	Anum_outbox_server,
	Anum_outbox_document,
	Anum_outbox_key,
	Anum_outbox_since,
	Natts_outbox = Anum_outbox_since
};

static void
outbox_tag(LOCKTAG *tag, const char *server)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) server, strlen(server), 0);

	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 EC_LOCKTAG_OUTBOX);
}

/*
 * Take the server's outbox lock in share mode, waiting, to the end of the transaction.  It is
 * the writer's last lock.  Throws what waiting for a lock throws, and out of shared memory.
 */
void
ec_outbox_lock(const char *server)
{
	LOCKTAG		tag;

	outbox_tag(&tag, server);
	(void) LockAcquire(&tag, EC_OUTBOX_SHARE, false, false);
}

/*
 * Does nobody hold the server's outbox lock now?  If somebody does, *holder says who, as far
 * as that can be found out.  For the worker, in a transaction: tries the lock exclusively,
 * without waiting, and does not keep it.  Throws what a query throws, and out of shared
 * memory.
 */
bool
ec_outbox_is_free(const char *server, EcOutboxHolder *holder)
{
	static const char query[] =
		"SELECT o.pid, p.gid FROM pg_catalog.pg_locks AS o "
		"LEFT JOIN pg_catalog.pg_locks AS x "
		"ON x.virtualtransaction OPERATOR(pg_catalog.=) o.virtualtransaction "
		"AND x.locktype OPERATOR(pg_catalog.=) 'transactionid' AND x.pid IS NULL "
		"LEFT JOIN pg_catalog.pg_prepared_xacts AS p "
		"ON p.transaction OPERATOR(pg_catalog.=) x.transactionid "
		"WHERE o.locktype OPERATOR(pg_catalog.=) 'advisory' "
		"AND o.database OPERATOR(pg_catalog.=) $1 AND o.classid OPERATOR(pg_catalog.=) $2 "
		"AND o.objid OPERATOR(pg_catalog.=) $3 AND o.objsubid OPERATOR(pg_catalog.=) $4 "
		"AND (o.pid IS NOT NULL OR p.gid IS NOT NULL) ORDER BY o.pid NULLS FIRST LIMIT 1";
	LOCKTAG		tag;
	Oid			types[4] = {OIDOID, OIDOID, OIDOID, INT2OID};
	Datum		values[4];

	memset(holder, 0, sizeof(EcOutboxHolder));
	outbox_tag(&tag, server);
	if (LockAcquire(&tag, EC_OUTBOX_ALONE, false, true) != LOCKACQUIRE_NOT_AVAIL)
	{
		LockRelease(&tag, EC_OUTBOX_ALONE, false);
		return true;
	}
	values[0] = ObjectIdGetDatum(MyDatabaseId);
	values[1] = ObjectIdGetDatum(tag.locktag_field2);
	values[2] = ObjectIdGetDatum(tag.locktag_field3);
	values[3] = Int16GetDatum((int16) tag.locktag_field4);	/* as pg_locks shows it */
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (SPI_execute_with_args(query, 4, types, values, NULL, true, 1) == SPI_OK_SELECT &&
		SPI_processed == 1)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		Datum		pid = SPI_getbinval(tuple, desc, 1, &isnull);

		if (!isnull)
			holder->pid = DatumGetInt32(pid);
		else
			strlcpy(holder->gid, SPI_getvalue(tuple, desc, 2), sizeof(holder->gid));
	}
	PopActiveSnapshot();
	SPI_finish();
	return false;
}

/*
 * Note a key, or with NULL all keys of the attachment, in the current transaction, whatever
 * the role's privileges are.  Takes no outbox lock: a writer for whose sake a recovery has to
 * wait holds it already.  The table is locked for the insert only.  Throws 42704 without the
 * extension, and what the insert throws.
 */
void
ec_outbox_add(const char *server, const char *document, const char *key, int keylen)
{
	Relation	rel = ec_catalog_open(EC_CATALOG_OUTBOX, RowExclusiveLock);
	Datum		values[Natts_outbox];
	bool		nulls[Natts_outbox] = {false};
	int64		id;

	/* not of a sequence, which a transaction that has become read-only could not use */
	if (!pg_strong_random(&id, sizeof(id)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random number")));
	values[Anum_outbox_id - 1] = Int64GetDatum(id);
	values[Anum_outbox_server - 1] = CStringGetTextDatum(server);
	values[Anum_outbox_document - 1] = CStringGetTextDatum(document);
	nulls[Anum_outbox_key - 1] = key == NULL;
	if (key)
		values[Anum_outbox_key - 1] = PointerGetDatum(cstring_to_text_with_len(key, keylen));
	values[Anum_outbox_since - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	PushActiveSnapshot(GetLatestSnapshot());	/* for TOAST */
	simple_heap_insert(rel, heap_form_tuple(RelationGetDescr(rel), values, nulls));
	PopActiveSnapshot();
	table_close(rel, RowExclusiveLock);
}

/* Is the text this string? */
static bool
is_text(Datum value, const char *string)
{
	text	   *t = DatumGetTextPP(value);

	return VARSIZE_ANY_EXHDR(t) == strlen(string) &&
		memcmp(VARDATA_ANY(t), string, VARSIZE_ANY_EXHDR(t)) == 0;
}

/*
 * Has the outbox a row for this server, of a transaction that has committed or of this one?
 * With document: a row for all keys of that attachment?  May miss one that comes during
 * the scan.  Looks at the newest rows first, since there may be thousands about other servers.
 * Not by an MVCC snapshot, which a serializable transaction would answer for.  In a transaction;
 * the table is locked for the scan only.  Throws 42704 without the extension, and what the scan
 * throws.
 */
bool
ec_outbox_has(const char *server, const char *document)
{
	Relation	rel = ec_catalog_open(EC_CATALOG_OUTBOX, AccessShareLock);
	TableScanDesc scan = table_beginscan_strat(rel, SnapshotSelf, 0, NULL, true, false);
	HeapTuple	tuple;
	bool		found = false;

	while (!found && HeapTupleIsValid(tuple = heap_getnext(scan, BackwardScanDirection)))
	{
		Datum		values[Natts_outbox];
		bool		nulls[Natts_outbox];

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		found = is_text(values[Anum_outbox_server - 1], server) &&
			(document == NULL || (nulls[Anum_outbox_key - 1] &&
								  is_text(values[Anum_outbox_document - 1], document)));
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * The rows of a server, or with NULL of all, as of now; at most limit.  In a transaction; the
 * result is in the caller's context.  The table is locked for the scan only.  Throws 42704
 * without the extension, and what the scan throws.
 */
List *
ec_outbox_read(const char *server, int limit)
{
	Relation	rel = ec_catalog_open(EC_CATALOG_OUTBOX, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	List	   *rows = NIL;

	while (list_length(rows) < limit && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[Natts_outbox];
		bool		nulls[Natts_outbox];
		EcOutboxRow *row;

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		row = palloc(sizeof(EcOutboxRow));
		row->server = TextDatumGetCString(values[Anum_outbox_server - 1]);
		if (server != NULL && strcmp(row->server, server) != 0)
			continue;
		row->id = DatumGetInt64(values[Anum_outbox_id - 1]);
		row->document = TextDatumGetCString(values[Anum_outbox_document - 1]);
		row->key = nulls[Anum_outbox_key - 1] ? NULL
			: TextDatumGetCString(values[Anum_outbox_key - 1]);
		rows = lappend(rows, row);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return rows;
}

static int
compare_ids(const ListCell *a, const ListCell *b)
{
	int64		x = ((EcOutboxRow *) lfirst(a))->id;
	int64		y = ((EcOutboxRow *) lfirst(b))->id;

	return x < y ? -1 : x > y;
}

/*
 * Delete exactly these rows; the list is sorted on the way.  In a transaction; the table is
 * locked for the scan only.  Throws 42704 without the extension, and an error if somebody else
 * deletes one of them at the same time.
 */
void
ec_outbox_delete(List *rows)
{
	Relation	rel = ec_catalog_open(EC_CATALOG_OUTBOX, RowExclusiveLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	list_sort(rows, compare_ids);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		int64		id = DatumGetInt64(heap_getattr(tuple, Anum_outbox_id, RelationGetDescr(rel),
													&isnull));
		int			low = 0;
		int			high = list_length(rows);

		while (low < high)
		{
			int			middle = (low + high) / 2;

			if (((EcOutboxRow *) list_nth(rows, middle))->id < id)
				low = middle + 1;
			else
				high = middle;
		}
		if (low < list_length(rows) && ((EcOutboxRow *) list_nth(rows, low))->id == id)
			simple_heap_delete(rel, &tuple->t_self);
	}
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
}
