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
 * builder records, too: after a commit of either one, and when the database's worker starts, as
 * after pg_upgrade.  It is the builder's since a filter is parsed for it, as its owner.
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
#include "utils/lsyscache.h"

#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/configuration.h"
#include "attachments/depend.h"
#include "attachments/filter.h"
#include "attachments/triggers.h"
#include "commit/handover.h"
#include "read/act.h"

/* What an attachment uses. */
typedef struct Used
{
	const char *name;			/* the attachment's */
	Oid			relid;
	Oid			function;		/* that makes its documents, or InvalidOid */
	Node	   *filter;			/* with names in it, or NULL */
} Used;

/* This transaction, if it commits, leaves something to be recorded. */
static bool at_commit = false;

static bool is_recorded(Oid trigger);
static bool uses_objects(const EcAttachment *att);
static void look(void *arg);

/* Does the trigger depend on more than its own function? */
static bool
is_recorded(Oid trigger)
{
	Relation	rel = table_open(DependRelationId, AccessShareLock);
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&key[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(TriggerRelationId));
	ScanKeyInit(&key[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(trigger));
	scan = systable_beginscan(rel, DependDependerIndexId, true, NULL, 2, key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend depend = (Form_pg_depend) GETSTRUCT(tuple);

		found |= depend->deptype == DEPENDENCY_NORMAL &&
			!(depend->refclassid == ProcedureRelationId &&
			  ec_catalog_is_trigger_function(depend->refobjid));
	}
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

bool
ec_depend_record(EcAttachment *att, bool wait)
{
	Used		used = {att->name, att->relid};
	ObjectAddress trigger = {TriggerRelationId, InvalidOid, 0};

	if (!uses_objects(att))
		return true;
	if (wait)
		LockRelationOid(used.relid, AccessShareLock);
	else if (!ConditionalLockRelationOid(used.relid, AccessShareLock))
		return false;
	if (get_rel_relkind(used.relid) != '\0')
		trigger.objectId = ec_triggers_row(used.relid, used.name);
	if (!OidIsValid(trigger.objectId) || is_recorded(trigger.objectId) ||
		!ec_act_guarded(look, &used))
		return true;
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
ec_depend_record_all(void)
{
	bool		done = true;
	ListCell   *lc;

	foreach(lc, ec_attachment_all())
		done &= ec_depend_record(lfirst(lc), false);
	return done;
}

void
ec_depend_record_at_commit(void)
{
	at_commit = true;
}

void
ec_depend_at_end(bool committed)
{
	if (at_commit && committed)
		ec_handover_record();
	at_commit = false;
}

void
ec_depend_hand_over(void)
{
	ListCell   *lc;
	bool		any = false;

	foreach(lc, ec_attachment_all())
		any |= uses_objects(lfirst(lc));
	if (any)
		ec_handover_record();
}
