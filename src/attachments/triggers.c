/*-------------------------------------------------------------------------
 *
 * triggers.c
 *	  The triggers on attached tables: created and dropped.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "attachments/attachment.h"
#include "attachments/triggers.h"

static void run(const char *fmt,...) pg_attribute_printf(1, 2);

/* Run a utility command through SPI, which is connected. */
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

/*
 * The triggers for the document of this name: its own table's, or those of a
 * dependent one.  They belong to the extension, as far as DROP goes: DROP EXTENSION takes
 * them along.
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
	if (!dependent || linitial_oid(ec_attachment_tables(name)) != relid)
	{
		snprintf(trigger[n], NAMEDATALEN, "echocache_truncate_%s%s",
				 dependent ? "dependent_" : "", suffix);
		run("CREATE TRIGGER %s BEFORE TRUNCATE ON %s FOR EACH STATEMENT "
			"EXECUTE FUNCTION %s.echocache_truncate_trigger('%s')", trigger[n++], rel, functions,
			name);
	}
	for (int i = 0; i < n; i++)
	{
		/* ONLY: early releases of 14 fail for partitions, which do not have the second trigger */
		run("ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %s", rel, trigger[i]);
		run("ALTER TRIGGER %s ON %s DEPENDS ON EXTENSION echocache", trigger[i], rel);
	}
	run("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", rel, trigger[0]);
	SPI_finish();
}

/*
 * Drop the triggers for the document of this name, whatever they are called; of a table that is
 * its own dependent, with dependent only those that make it one.
 */
void
ec_triggers_drop(Oid relid, const char *name, bool dependent)
{
	Relation	rel = table_open(relid, AccessShareLock);
	char	   *schema = get_namespace_name(RelationGetNamespace(rel));
	const char *qualified = quote_qualified_identifier(schema, RelationGetRelationName(rel));
	bool		own = dependent && linitial_oid(ec_attachment_tables(name)) == relid;
	List	   *found = NIL;
	ListCell   *lc;

	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		Trigger    *t = &rel->trigdesc->triggers[i];
		char	   *function = get_func_name(t->tgfoid);

		if (t->tgnargs == 1 && strcmp(t->tgargs[0], name) == 0 && !t->tgisclone &&
			(strcmp(function, "echocache_dependent_trigger") == 0 ||
			 (!own && (strcmp(function, "echocache_row_trigger") == 0 ||
					   strcmp(function, "echocache_truncate_trigger") == 0))))
			found = lappend(found, pstrdup(t->tgname));
	}
	table_close(rel, NoLock);
	SPI_connect();
	foreach(lc, found)
		run("DROP TRIGGER %s ON %s", quote_identifier(lfirst(lc)), qualified);
	SPI_finish();
}
