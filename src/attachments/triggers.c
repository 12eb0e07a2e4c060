/*-------------------------------------------------------------------------
 *
 * triggers.c
 *	  The triggers on attached tables: created and dropped.
 *
 * A trigger is one of ours if it calls a function of the extension's and has the
 * attachment's name as its argument.  It is created with the current role's rights.
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
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/triggers.h"

static bool is_attached_as(Oid relid, const char *name);
static bool is_for(const Trigger *t, const char *name);
static void run(const char *fmt,...) pg_attribute_printf(1, 2);

/* Run a utility command through SPI, which is connected.  Throws what the command throws. */
static void
run(const char *fmt,...)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, fmt);
		needed = appendStringInfoVA(&sql, fmt, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&sql, needed);
	}
	if (SPI_execute(sql.data, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not run \"%s\"", sql.data);
	pfree(sql.data);
}

/* Is this the attached table of that name, rather than a dependent one? */
static bool
is_attached_as(Oid relid, const char *name)
{
	List	   *tables = ec_attachment_tables(name);

	return tables != NIL && linitial_oid(tables) == relid;
}

/*
 * Create the triggers for the attachment of this name, on the attached table or on a dependent
 * one, with the current role's rights.  DROP EXTENSION takes them along.  The caller has the
 * table locked and closed; the commands lock it as they do, to the end of the transaction.
 * Throws what CREATE TRIGGER and the commands after it throw.
 */
void
ec_triggers_create(Oid relid, const char *name, const char *schema, bool dependent)
{
	const char *functions = quote_identifier(schema);
	const char *rel = quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
												 get_rel_name(relid));
	const char *kind = dependent ? "dependent" : "row";
	char		suffix[41];
	char		trigger[2][NAMEDATALEN];
	int			n = 0;

	/* a table may be part of several documents, whose names may begin alike */
	snprintf(suffix, sizeof(suffix), "%s", name);
	if (dependent && strlen(name) > 33)
		snprintf(suffix, sizeof(suffix), "%.24s_%08x", name,
				 hash_bytes((const unsigned char *) name, (int) strlen(name)));
	SPI_connect();
	snprintf(trigger[n], NAMEDATALEN, "echocache_%s_%s", kind, suffix);
	run("CREATE TRIGGER %s AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW "
		"EXECUTE FUNCTION %s.echocache_%s_trigger('%s')", trigger[n++], rel, functions, kind, name);
	/* a table that is its own dependent has one already */
	if (!dependent || !is_attached_as(relid, name))
	{
		snprintf(trigger[n], NAMEDATALEN, "echocache_truncate_%s%s",
				 dependent ? "dependent_" : "", suffix);
		run("CREATE TRIGGER %s BEFORE TRUNCATE ON %s FOR EACH STATEMENT "
			"EXECUTE FUNCTION %s.echocache_truncate_trigger('%s')", trigger[n++], rel, functions,
			name);
	}
	for (int i = 0; i < n; i++)
	{
		/* ONLY: partitions do not have the second trigger */
		run("ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %s", rel, trigger[i]);
		run("ALTER TRIGGER %s ON %s DEPENDS ON EXTENSION echocache", trigger[i], rel);
	}
	run("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", rel, trigger[0]);
	SPI_finish();
}

/* Is this a trigger of ours for the attachment of this name? */
static bool
is_for(const Trigger *t, const char *name)
{
	return t->tgnargs == 1 && strcmp(t->tgargs[0], name) == 0 &&
		ec_catalog_is_trigger_function(t->tgfoid);
}

/*
 * The trigger that notes changes of rows of the attachment of this name, on its own table;
 * InvalidOid if there is none.  Locks nothing: who has not locked the table may find one that is
 * just being dropped.
 */
Oid
ec_triggers_row(Oid relid, const char *name)
{
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);
	Size		len = strlen(name) + 1;
	Oid			found = InvalidOid;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, TriggerRelidNameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);
		bool		isnull;
		bytea	   *args;

		if (form->tgfoid != ec_catalog_function(EC_CATALOG_ROW_TRIGGER))
			continue;
		args = DatumGetByteaPP(heap_getattr(tuple, Anum_pg_trigger_tgargs, RelationGetDescr(rel),
											&isnull));
		if (!isnull && VARSIZE_ANY_EXHDR(args) == len && memcmp(VARDATA_ANY(args), name, len) == 0)
			found = form->oid;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * ENABLE TRIGGER ALL or USER, as a restore or a fixture ends with, has enabled the triggers of
 * this table, but ours not in the way in which they were made: mend that, with the current
 * role's rights.  On the extension's own tables what has changed meanwhile was not seen, so
 * the trigger for it is fired now.  The caller has the table locked and closed; the command
 * locks it as it does, to the end of the transaction.  Throws what ALTER TABLE throws.
 */
void
ec_triggers_enable(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	char	   *schema = get_namespace_name(RelationGetNamespace(rel));
	const char *qualified = quote_qualified_identifier(schema, RelationGetRelationName(rel));
	bool		own = ec_catalog_is_own(relid);
	StringInfoData actions;

	initStringInfo(&actions);
	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		Trigger    *t = &rel->trigdesc->triggers[i];

		if (t->tgenabled == TRIGGER_FIRES_ON_ORIGIN && !t->tgisinternal &&
			(own || ec_catalog_is_trigger_function(t->tgfoid)))
			appendStringInfo(&actions, "%s ENABLE ALWAYS TRIGGER %s", actions.len > 0 ? "," : "",
							 quote_identifier(t->tgname));
	}
	table_close(rel, NoLock);
	if (actions.len == 0)
		return;
	SPI_connect();
	/* at once, or else the first one is warned of the others */
	run("ALTER TABLE %s%s", qualified, actions.data);
	if (own && get_attnum(relid, "document") != InvalidAttrNumber &&
		SPI_execute(psprintf("UPDATE %s SET document = document WHERE false", qualified), false,
					0) != SPI_OK_UPDATE)
		elog(ERROR, "could not update \"%s\"", qualified);
	SPI_finish();
	CommandCounterIncrement();	/* whoever looks whether they fire sees it */
}

/*
 * Drop the triggers for the attachment of this name on this table, whatever they are called.
 * With dependent only those that make it a dependent table, if it is the attached one, too.
 * Locks the table in AccessShareLock, and as DROP TRIGGER does if there are any, waiting, to
 * the end of the transaction.  The caller has it closed.  Throws what DROP TRIGGER throws, by
 * the current role's rights.
 */
void
ec_triggers_drop(Oid relid, const char *name, bool dependent)
{
	Relation	rel = table_open(relid, AccessShareLock);
	char	   *schema = get_namespace_name(RelationGetNamespace(rel));
	const char *qualified = quote_qualified_identifier(schema, RelationGetRelationName(rel));
	bool		own = dependent && is_attached_as(relid, name);
	List	   *found = NIL;
	ListCell   *lc;

	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		Trigger    *t = &rel->trigdesc->triggers[i];

		if (is_for(t, name) && !t->tgisclone &&
			(!own || t->tgfoid == ec_catalog_function(EC_CATALOG_DEPENDENT_TRIGGER)))
			found = lappend(found, pstrdup(t->tgname));
	}
	table_close(rel, NoLock);
	SPI_connect();
	foreach(lc, found)
		run("DROP TRIGGER %s ON %s", quote_identifier(lfirst(lc)), qualified);
	SPI_finish();
}
