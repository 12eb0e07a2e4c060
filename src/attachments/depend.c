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
 * pg_upgrade.  (Parsing a filter runs no code of its owner's.)  A filter whose text means other
 * functions than it was attached with has none recorded in their place: it cannot be parsed.
 *
 * Columns of tables are not among them: PostgreSQL would refuse to change the type of a column on
 * which a trigger depends.  object.c and ddl.c see to those of the attached table.
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
#include "utils/lsyscache.h"
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
static void forget(Oid trigger, bool columns);
static bool record_alone(const char *name, bool anew);

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

	if (att == NULL || att->relid != used->relid)
		return;
	used->function = att->function;
	if (ec_filter_has_names(att))
		used->filter = (Node *) ec_filter_as_owner(att, NoLock);
}

/*
 * Delete what is recorded for the trigger: all of it but its own function, or just the columns of
 * tables.
 */
static void
forget(Oid trigger, bool columns)
{
	Relation	rel = table_open(DependRelationId, RowExclusiveLock);
	SysScanDesc scan = scan_trigger(rel, trigger);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend depend = (Form_pg_depend) GETSTRUCT(tuple);

		if (is_ours(depend) &&
			(!columns || (depend->refclassid == RelationRelationId && depend->refobjsubid > 0 &&
						  get_rel_relkind(depend->refobjid) != RELKIND_COMPOSITE_TYPE)))
			CatalogTupleDelete(rel, &tuple->t_self);
	}
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
	/* keeps CREATE and DROP TRIGGER away, and no writer */
	if (wait)
		LockRelationOid(used.relid, ShareUpdateExclusiveLock);
	else if (!ConditionalLockRelationOid(used.relid, ShareUpdateExclusiveLock))
		return false;
	trigger.objectId = ec_triggers_row(used.relid, used.name);
	if (!OidIsValid(trigger.objectId))
		return true;
	if (!ec_act_guarded(look, &used))
		return is_recorded(trigger.objectId);
	forget(trigger.objectId, false);
	if (OidIsValid(used.function))
	{
		ObjectAddress function = {ProcedureRelationId, used.function, 0};

		recordDependencyOn(&trigger, &function, DEPENDENCY_NORMAL);
	}
	if (used.filter)
	{
		recordDependencyOnSingleRelExpr(&trigger, used.filter, used.relid, DEPENDENCY_NORMAL,
										DEPENDENCY_NORMAL, false);
		CommandCounterIncrement();
		forget(trigger.objectId, true);
	}
	return true;
}

/* The same in a transaction of its own, in the worker, which no error in it ends. */
static bool
record_alone(const char *name, bool anew)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool done = true;

	PG_TRY();
	{
		ListCell   *lc;

		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		foreach(lc, ec_attachment_all())
			if (strcmp(((EcAttachment *) lfirst(lc))->name, name) == 0)
				done &= ec_depend_record(lfirst(lc), anew, false);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		errcontext("dependencies of document \"%s\"", name);
		EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return done;
}

List *
ec_depend_record_all(List *names, bool anew)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *busy = NIL;
	ListCell   *lc;

	if (names == NIL)
	{
		StartTransactionCommand();
		MemoryContextSwitchTo(context);
		names = ec_attachment_names();
		CommitTransactionCommand();
		MemoryContextSwitchTo(context);
	}
	foreach(lc, names)
		if (!record_alone(lfirst(lc), anew))
			busy = lappend(busy, lfirst(lc));
	list_free(names);
	return busy;
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
