/*-------------------------------------------------------------------------
 *
 * depend.c
 *	  What an attachment's filter and function use cannot be dropped without it.
 *
 * An attachment is a row of a table, and only an object can depend on others.  So the object
 * is the row trigger on the attached table: DROP of a function, a type or an operator that the
 * filter uses, or of the document's function, is refused as for a view, and with CASCADE it
 * takes the trigger along, and that the attachment (see ec_object_detach_untriggered()).
 * pg_dump orders by these dependencies, but does not restore them; it restores an attachment and
 * its trigger in either order, perhaps in two sessions.  So what echocache_attach() records the
 * database's worker records, too: after a commit of either one, and when it starts, as after
 * pg_upgrade.  (Parsing a filter runs no code of its owner's.)
 *
 * The filter's columns are not among them: PostgreSQL would refuse to change the type of a
 * column on which a trigger depends.  object.c and ddl.c see to the columns.
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
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/configuration.h"
#include "attachments/depend.h"
#include "attachments/filter.h"
#include "attachments/triggers.h"
#include "read/act.h"
#include "worker/database.h"

/* What an attachment uses. */
typedef struct Used
{
	const char *name;			/* the attachment's */
	Oid			relid;
	Oid			function;		/* that makes its documents, or InvalidOid */
	Node	   *filter;			/* with names in it, or NULL */
} Used;

/* This transaction, if it commits, leaves something to be recorded; [1]: anew. */
static bool at_commit[2];

static SysScanDesc scan_trigger(Relation rel, Oid trigger);
static bool is_ours(Form_pg_depend depend);
static bool is_recorded(Oid trigger);
static bool uses_objects(const EcAttachment *att);
static void look(void *arg);
static void forget(Oid trigger);

/* Begin to scan what the trigger depends on. */
static SysScanDesc
scan_trigger(Relation rel, Oid trigger)
{
	ScanKeyData key[2];

	ScanKeyInit(&key[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(TriggerRelationId));
	ScanKeyInit(&key[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(trigger));
	return systable_beginscan(rel, DependDependerIndexId, true, NULL, 2, key);
}

/* Is this dependency of a row trigger one that is recorded here? */
static bool
is_ours(Form_pg_depend depend)
{
	return depend->deptype == DEPENDENCY_NORMAL &&
		!(depend->refclassid == ProcedureRelationId &&
		  ec_catalog_is_trigger_function(depend->refobjid));
}

/* Does the trigger depend on more than its own function? */
static bool
is_recorded(Oid trigger)
{
	Relation	rel = table_open(DependRelationId, AccessShareLock);
	SysScanDesc scan = scan_trigger(rel, trigger);
	HeapTuple	tuple;
	bool		found = false;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		found |= is_ours((Form_pg_depend) GETSTRUCT(tuple));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* May the attachment, which may be unresolved, use objects of users'? */
static bool
uses_objects(const EcAttachment *att)
{
	return att->function_name != NULL || ec_filter_has_names(att);
}

/* Find out what the attachment uses.  Parses the filter, as the owner. */
static void
look(void *arg)
{
	Used	   *used = arg;
	EcAttachment *att = ec_attachment_by_name(used->name);
	Relation	rel;
	EcActing	before;

	if (att == NULL || att->relid != used->relid)
		return;
	used->function = att->function;
	if (!ec_filter_has_names(att))
		return;
	ec_act_begin(att, true, &before);
	rel = table_open(att->relid, NoLock);
	used->filter = (Node *) ec_filter_expr(att, rel);
	table_close(rel, NoLock);
	ec_act_end(&before);
}

/* Delete what is recorded for the trigger, but for its own function. */
static void
forget(Oid trigger)
{
	Relation	rel = table_open(DependRelationId, RowExclusiveLock);
	SysScanDesc scan = scan_trigger(rel, trigger);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		if (is_ours((Form_pg_depend) GETSTRUCT(tuple)))
			CatalogTupleDelete(rel, &tuple->t_self);
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
}

bool
ec_depend_record(EcAttachment *att, bool anew, bool wait)
{
	Used		used = {att->name, att->relid};
	ObjectAddress trigger = {TriggerRelationId, InvalidOid, 0};

	if (!uses_objects(att) ||
		(!anew && is_recorded(ec_triggers_row(att->relid, att->name))))
		return true;
	if (wait)
		LockRelationOid(used.relid, AccessShareLock);
	else if (!ConditionalLockRelationOid(used.relid, AccessShareLock))
		return false;
	trigger.objectId = ec_triggers_row(used.relid, used.name);
	if (!OidIsValid(trigger.objectId) || !ec_act_guarded(look, &used))
		return true;
	forget(trigger.objectId);
	if (OidIsValid(used.function))
	{
		ObjectAddress function = {ProcedureRelationId, used.function, 0};

		recordDependencyOn(&trigger, &function, DEPENDENCY_NORMAL);
	}
	if (used.filter)
	{
		recordDependencyOnSingleRelExpr(&trigger, used.filter, used.relid, DEPENDENCY_NORMAL,
										DEPENDENCY_NORMAL, false);
		CommandCounterIncrement();	/* to see those on columns */
		(void) deleteDependencyRecordsForSpecific(TriggerRelationId, trigger.objectId,
												  DEPENDENCY_NORMAL, RelationRelationId,
												  used.relid);
	}
	return true;
}

bool
ec_depend_record_all(bool anew)
{
	List	   *names;
	ListCell   *lc;
	bool		done = true;
	MemoryContext context = CurrentMemoryContext;

	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	names = ec_attachment_names();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	foreach(lc, names)
	{
		ListCell   *la;

		/* one each, so that no lock is held while another table is looked at */
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		foreach(la, ec_attachment_all())
			if (strcmp(((EcAttachment *) lfirst(la))->name, lfirst(lc)) == 0)
				done &= ec_depend_record(lfirst(la), anew, false);
		PopActiveSnapshot();
		CommitTransactionCommand();
		MemoryContextSwitchTo(context);
	}
	return done;
}

void
ec_depend_record_at_commit(bool anew)
{
	at_commit[anew] = true;
}

void
ec_depend_at_end(bool committed)
{
	for (int anew = 0; anew < 2; anew++)
	{
		if (at_commit[anew] && committed)
			ec_database_demand_dependencies(anew);
		at_commit[anew] = false;
	}
}
