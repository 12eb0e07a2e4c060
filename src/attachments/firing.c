/*-------------------------------------------------------------------------
 *
 * firing.c
 *	  Do our triggers see every change of a table?
 *
 * A trigger sees every change only if it is as it was made, on the table and on each
 * partition of it.  Whoever owns the table may disable the trigger, or replace it by one for
 * other events or with a condition.  Then the attachment is suspended: not cached.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "attachments/catalog.h"
#include "attachments/firing.h"
#include "attachments/inherit.h"
#include "compat.h"

/* The row and the truncate triggers as ec_triggers_create() makes them; see pg_trigger.tgtype. */
#define ROW_TYPE	(TRIGGER_TYPE_ROW | TRIGGER_TYPE_AFTER | TRIGGER_TYPE_INSERT | \
					 TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE)
#define TRUNCATE_TYPE	(TRIGGER_TYPE_STATEMENT | TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_TRUNCATE)

#define NOT_FIRING	"a trigger of echocache on %s is disabled, changed or gone"

static bool is_unconditional(HeapTuple tuple, TupleDesc desc, const char *name);
static bool on_table_fire(Oid relid, const char *name, Oid row, Oid truncate);
static const char *problem_with(const char *fmt, Oid relid) pg_attribute_format_arg(1);

/* Does the trigger fire always, and is it for the attachment of this name? */
static bool
is_unconditional(HeapTuple tuple, TupleDesc desc, const char *name)
{
	Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);
	bool		isnull;
	Datum		args;

	if (trigger->tgenabled != TRIGGER_FIRES_ALWAYS || trigger->tgnargs != 1 ||
		trigger->tgattr.dim1 != 0 || trigger->tginitdeferred)
		return false;
	(void) heap_getattr(tuple, Anum_pg_trigger_tgqual, desc, &isnull);
	if (!isnull)
		return false;
	args = heap_getattr(tuple, Anum_pg_trigger_tgargs, desc, &isnull);
	return !isnull && strcmp(VARDATA_ANY(DatumGetByteaPP(args)), name) == 0;
}

/*
 * Are our triggers on this table, which call these functions, there, and as they were made?
 * InvalidOid for truncate: only the row trigger matters.
 */
static bool
on_table_fire(Oid relid, const char *name, Oid row, Oid truncate)
{
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		has_row = false;
	bool		has_truncate = !OidIsValid(truncate);

	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, TriggerRelidNameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);

		if ((trigger->tgfoid != row && trigger->tgfoid != truncate) ||
			!is_unconditional(tuple, RelationGetDescr(rel), name))
			continue;
		has_row |= trigger->tgfoid == row && trigger->tgtype == ROW_TYPE;
		has_truncate |= trigger->tgfoid == truncate && trigger->tgtype == TRUNCATE_TYPE;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return has_row && has_truncate;
}

/* What is wrong with our triggers on this table, palloc'd. */
static const char *
problem_with(const char *fmt, Oid relid)
{
	char	   *schema = get_namespace_name(get_rel_namespace(relid));
	char	   *name = get_rel_name(relid);

	/* no lock is held: it may have been dropped just now */
	if (schema == NULL || name == NULL)
		return psprintf("table %u is gone", relid);
	return psprintf(fmt, quote_qualified_identifier(schema, name));
}

/*
 * Do our triggers for the attachment of this name see every change of this table, which is
 * the attached one, or with dependent a dependent table?  Then NULL; else why they do not, for
 * people to read.  A function also sees rows of tables that inherit from a dependent table,
 * which our trigger there does not see.  Looks at every partition, so an attachment asks when
 * it is resolved only.  Takes no lock on a table.
 */
const char *
ec_firing_problem(Oid relid, const char *name, bool dependent)
{
	Oid			row = ec_catalog_function(dependent ? EC_CATALOG_DEPENDENT_TRIGGER :
										  EC_CATALOG_ROW_TRIGGER);
	Oid			truncate = ec_catalog_function(EC_CATALOG_TRUNCATE_TRIGGER);
	char		relkind = get_rel_relkind(relid);
	ListCell   *lc;

	if (!OidIsValid(row) || !on_table_fire(relid, name, row, truncate))
		return problem_with(NOT_FIRING, relid);
	if (relkind != RELKIND_PARTITIONED_TABLE)
		return !dependent || ec_inherit_children(relid) == NIL ? NULL :
			problem_with("other tables inherit from %s", relid);
	foreach(lc, ec_inherit_tree(relid))
		if (!on_table_fire(lfirst_oid(lc), name, row, InvalidOid))
			return problem_with(NOT_FIRING, lfirst_oid(lc));
	return NULL;
}
