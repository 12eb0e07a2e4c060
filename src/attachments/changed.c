/*-------------------------------------------------------------------------
 *
 * changed.c
 *	  Objects that documents depend on have changed: the documents are invalidated.
 *
 * Documents that look different after a change of some object are invalidated when the
 * transaction that changes it commits.  Too many are invalidated rather than too few.
 * Attachments are copied to a list of OIDs first, since a lookup in between may load the
 * configuration anew.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_cast.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_ts_config.h"
#include "catalog/pg_ts_dict.h"
#include "catalog/pg_type.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "attachments/affected.h"
#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/changed.h"
#include "attachments/command.h"
#include "attachments/configuration.h"
#include "commit/pending.h"

/* A row of pg_trigger. */
typedef struct TriggerRow
{
	bool		ours;			/* this transaction has written it */
	FormData_pg_trigger form;
} TriggerRow;

static void whole(List *atts);
static bool read_object(Oid catalog, Oid index, AttrNumber column, Oid oid, Snapshot snapshot,
						void (*read) (HeapTuple tuple, void *arg), void *arg);
static void read_trigger(HeapTuple tuple, void *arg);
static void read_cast(HeapTuple tuple, void *arg);

/* Are there reg types (regclass, ...) whose text is the name of such an object? */
bool
ec_changed_has_name(Oid classId)
{
	switch (classId)
	{
		case RelationRelationId:
		case ProcedureRelationId:
		case TypeRelationId:
		case OperatorRelationId:
		case CollationRelationId:
		case NamespaceRelationId:
		case AuthIdRelationId:
		case TSConfigRelationId:
		case TSDictionaryRelationId:
			return true;
		default:
			return false;
	}
}

/* Every document of these attachments changes with this transaction. */
static void
whole(List *atts)
{
	List	   *relids = NIL;
	ListCell   *lc;

	foreach(lc, atts)
		relids = lappend_oid(relids, ((EcAttachment *) lfirst(lc))->relid);
	foreach(lc, relids)
		ec_pending_whole(lfirst_oid(lc));
}

/* An object has another name, or none any more: documents that show names change. */
void
ec_changed_names(void)
{
	whole(ec_affected_by_names());
}

/* Every document changes. */
void
ec_changed_everything(void)
{
	if (ec_catalog_is_present())
		whole(ec_attachment_all());
}

/* The values of a type are shown in another way, by another code perhaps. */
void
ec_changed_type(Oid type)
{
	List	   *atts = ec_affected_by_type(type);

	whole(atts);
	if (atts != NIL)
		ec_attachment_reload();
}

void
ec_changed_relation(Oid relid)
{
	List	   *atts = ec_catalog_is_present() ? ec_affected_by_table(relid) : NIL;

	if (atts == NIL)
		return;
	whole(atts);
	ec_attachment_reload();
}

/*
 * A function is created, replaced or altered.  Perhaps it is a document's function, or one that was
 * missing.
 */
void
ec_changed_function(Oid function)
{
	if (ec_affected_by_function(InvalidOid) != NIL)
		ec_attachment_reload();
	whole(ec_affected_by_function(function));
}

/* Read an object's row in this catalog, as the snapshot (NULL: the catalogs') has it. */
static bool
read_object(Oid catalog, Oid index, AttrNumber column, Oid oid, Snapshot snapshot,
			void (*read) (HeapTuple tuple, void *arg), void *arg)
{
	Relation	rel = table_open(catalog, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	ScanKeyInit(&key, column, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, index, true, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	if (found)
		read(tuple, arg);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

static void
read_trigger(HeapTuple tuple, void *arg)
{
	TriggerRow *row = arg;

	row->form = *(Form_pg_trigger) GETSTRUCT(tuple);
	row->ours = TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
}

static void
read_cast(HeapTuple tuple, void *arg)
{
	*(FormData_pg_cast *) arg = *(Form_pg_cast) GETSTRUCT(tuple);
}

/*
 * A trigger of ours is disabled, enabled, replaced or dropped: is every change still seen?
 * One that is merely created, on a new partition for example, changes no document, but a
 * table that was without it may be cached again.
 *
 * When a trigger is replaced the catalogs still show what it was.  When it is created they
 * may show it already, written by this transaction, or not yet.
 */
void
ec_changed_trigger(Oid trigger, bool created, bool dropped)
{
	TriggerRow	row;

	if (read_object(TriggerRelationId, TriggerOidIndexId, Anum_pg_trigger_oid, trigger, NULL,
					read_trigger, &row) &&
		ec_catalog_is_trigger_function(row.form.tgfoid) && !(created && row.ours))
	{
		ec_changed_relation(row.form.tgrelid);
		ec_command_note(EC_COMMAND_TRIGGERED, row.form.tgrelid);
		if (dropped && row.form.tgfoid == ec_catalog_function(EC_CATALOG_ROW_TRIGGER))
			ec_command_note(EC_COMMAND_UNTRIGGERED, row.form.tgrelid);
	}
	else if (created && ec_affected_any_suspended())
		ec_attachment_reload();
}

/* row_to_json() uses a cast to json for a type that is not built in. */
void
ec_changed_cast(Oid cast, bool created)
{
	FormData_pg_cast form;

	if (read_object(CastRelationId, CastOidIndexId, Anum_pg_cast_oid, cast,
					created ? SnapshotSelf : NULL, read_cast, &form) &&
		form.casttarget == JSONOID)
		ec_changed_type(form.castsource);
}
