/*-------------------------------------------------------------------------
 *
 * object.c
 *	  Objects that documents depend on are dropped, truncated or changed.
 *
 * Whatever drops an object, a statement or a CASCADE from anywhere, no attachment outlives
 * what it needs: the hook detaches it, and invalidates its documents, before the object is
 * gone.  A statement that drops such a column or function is refused, unless it says
 * CASCADE.  Documents that merely look different afterwards are invalidated at the commit.
 *
 * A hook may load the configuration anew, by any lookup.  So it copies names and OIDs
 * before it acts, and an attachment that is gone by then needs nothing any more.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

#include "attachments/affected.h"
#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/configuration.h"
#include "attachments/detach.h"
#include "attachments/object.h"
#include "attachments/triggers.h"
#include "commit/pending.h"
#include "compat.h"
#include "worker/database.h"

/* Triggers that an attachment leaves behind on its tables. */
typedef struct Leftover
{
	char	   *name;			/* the attachment's */
	List	   *tables;			/* OIDs */
} Leftover;

static List *leftovers = NIL;

static object_access_hook_type prev_object_access_hook = NULL;

static List *made_by(Oid function);
static const char *needed_for(EcAttachment *att, Oid relid, const char *column);
static void object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
						  void *arg);
static void detach(const char *name, Oid relid, bool extension);
static void detach_now(EcAttachment *att);
static void leave_triggers(const char *name, List *tables);
static void leave_dependent(const char *name, Oid relid);
static void function_changed(Oid function);
static void function_dropped(Oid function);
static void relation_dropped(Oid relid);
static void column_dropped(Oid relid, AttrNumber attno);

/* Once, from _PG_init. */
void
ec_object_init(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = object_access;
}

/* ---------------------------------------------------------------- before the command */

/* The attachments whose builder this function is; they may be unresolved. */
static List *
made_by(Oid function)
{
	List	   *found = NIL;
	ListCell   *lc;

	foreach(lc, ec_affected_with_function())
		if (ec_configuration_function(lfirst(lc)) == function)
			found = lappend(found, lfirst(lc));
	return found;
}

void
ec_object_check_drop_function(DropStmt *stmt)
{
	ListCell   *lc;

	if ((stmt->removeType != OBJECT_FUNCTION && stmt->removeType != OBJECT_ROUTINE) ||
		stmt->behavior == DROP_CASCADE || !OidIsValid(ec_catalog_document(true)))
		return;
	foreach(lc, stmt->objects)
	{
		Oid			function = LookupFuncWithArgs(stmt->removeType,
												  lfirst_node(ObjectWithArgs, lc), true);
		List	   *atts = OidIsValid(function) ? made_by(function) : NIL;

		if (atts != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop function %s because document \"%s\" depends on it",
							format_procedure(function),
							((EcAttachment *) linitial(atts))->name),
					 errhint("Run SELECT echocache_detach('%s') first, or use DROP ... CASCADE to "
							 "detach the table too.", ((EcAttachment *) linitial(atts))->name)));
	}
}

/* What the attachment needs this column of this table for; NULL: for nothing. */
static const char *
needed_for(EcAttachment *att, Oid relid, const char *column)
{
	int			role = ec_affected_role(att, relid);
	ListCell   *lc;

	if (role & EC_ROLE_OWN)
	{
		if (strcmp(NameStr(att->key.name), column) == 0)
			return "key";
		if (att->has_owner && strcmp(NameStr(att->owner.name), column) == 0)
			return "owner";
		foreach(lc, att->filter_columns)
			if (strcmp(lfirst(lc), column) == 0)
				return "filter";
	}
	if (role & EC_ROLE_DEPENDENT)
		foreach(lc, att->dependents)
		{
			EcDependent *dependent = lfirst(lc);
			ListCell   *lk;

			if (dependent->relid != relid)
				continue;
			foreach(lk, dependent->keys)
				if (strcmp(lfirst(lk), column) == 0)
					return "key in a dependent table";
		}
	return NULL;
}

void
ec_object_check_drop_column(EcAttachment *att, Oid relid, AlterTableCmd *cmd)
{
	const char *what = needed_for(att, relid, cmd->name);

	if (what == NULL)
		return;
	if (cmd->behavior != DROP_CASCADE)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop column \"%s\" because document \"%s\" depends on it",
						cmd->name, att->name),
				 errdetail("It is the document's %s.", what),
				 errhint("Run SELECT echocache_detach('%s') first, or use DROP ... CASCADE to "
						 "detach the table too.", att->name)));
	detach_now(att);
}

/* ---------------------------------------------------------------- objects */

/*
 * An object is created, dropped, truncated.  DROP TABLE of an attached table detaches
 * it; DROP EXTENSION, which drops the configuration table, detaches all.  TRUNCATE
 * reaches partitions that have no trigger of ours.
 */
static void
object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId, void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, classId, objectId, subId, arg);

	if (access == OAT_DROP && classId == RelationRelationId && subId == 0)
		relation_dropped(objectId);
	else if (access == OAT_DROP && classId == RelationRelationId && subId > 0)
		column_dropped(objectId, subId);
	else if (access == OAT_DROP && classId == ProcedureRelationId)
		function_dropped(objectId);
	else if ((access == OAT_POST_CREATE || access == OAT_POST_ALTER) &&
			 classId == ProcedureRelationId)
		function_changed(objectId);
	else if (access == OAT_TRUNCATE && OidIsValid(ec_catalog_document(true)))
		ec_object_relation_changed(objectId);
	else if (access == OAT_POST_CREATE && classId == ExtensionRelationId)
		ec_database_rescan_at_commit();
}

/* Detach, and say so.  The triggers are gone or about to go. */
static void
detach(const char *name, Oid relid, bool extension)
{
	char	   *document = pstrdup(name);
	char	   *table = get_rel_name(relid);
	int64		removed = ec_detach_invalidate(document, relid, extension);

	ereport(NOTICE,
			(errmsg("document \"%s\" of table \"%s\" is detached", document, table ? table : "?"),
			 errdetail_plural("%lld cached document was invalidated.",
							  "%lld cached documents were invalidated.", removed,
							  (long long) removed)));
	if (!extension)
		ec_catalog_forget(document);
}

/* Detach a table that stays.  An attachment that is gone meanwhile needs nothing. */
static void
detach_now(EcAttachment *att)
{
	char	   *name = pstrdup(att->name);
	Oid			relid = att->relid;
	List	   *tables;
	ListCell   *lc;

	/* while this waits for the locks the name may become that of another table */
	do
	{
		tables = ec_attachment_tables(name);
		if (tables == NIL || linitial_oid(tables) != relid)
			return;
		foreach(lc, tables)
			LockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
	} while (!equal(tables, ec_attachment_tables(name)));
	detach(name, linitial_oid(tables), false);
	leave_triggers(name, tables);
}

/*
 * Triggers for this attachment are of no use any more.  They cannot be dropped while the
 * command drops other objects, which may be the very tables that they are on, so they
 * are noted for ec_object_drop_leftovers().
 */
static void
leave_triggers(const char *name, List *tables)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	Leftover   *leftover = palloc(sizeof(Leftover));

	leftover->name = pstrdup(name);
	leftover->tables = list_copy(tables);
	leftovers = lappend(leftovers, leftover);
	MemoryContextSwitchTo(old);
}

void
ec_object_drop_leftovers(void)
{
	List	   *list = leftovers;
	ListCell   *lc;

	leftovers = NIL;
	foreach(lc, list)
	{
		Leftover   *leftover = lfirst(lc);
		ListCell   *lt;

		foreach(lt, leftover->tables)
			if (get_rel_relkind(lfirst_oid(lt)) != '\0' &&
				ec_compat_owns_relation(lfirst_oid(lt), GetUserId()) &&
				!list_member_oid(ec_attachment_tables(leftover->name), lfirst_oid(lt)))
				ec_triggers_drop(lfirst_oid(lt), leftover->name, false);
	}
}

void
ec_object_forget_leftovers(void)
{
	leftovers = NIL;
}

/* A dependent table goes, and stops being part of the documents. */
static void
leave_dependent(const char *name, Oid relid)
{
	ereport(NOTICE,
			(errmsg("table \"%s\" is not part of document \"%s\" any more",
					get_rel_name(relid), name)));
	ec_pending_whole(linitial_oid(ec_attachment_tables(name)));
	ec_catalog_forget_dependent(name, relid);
}

/* A table goes, and its attachment with it. */
static void
relation_dropped(Oid relid)
{
	Oid			catalog = ec_catalog_document(true);
	ListCell   *lc;

	if (!OidIsValid(catalog))
		return;
	foreach(lc, ec_attachment_names())
	{
		const char *name = lfirst(lc);
		List	   *tables = ec_attachment_tables(name);

		if (relid == catalog)
			detach(name, linitial_oid(tables), true);
		else if (linitial_oid(tables) == relid)
		{
			detach(name, relid, false);
			leave_triggers(name, list_delete_first(tables));
		}
		else if (list_member_oid(tables, relid))
			leave_dependent(name, relid);
	}
	if (relid == catalog)
		ec_database_rescan_at_commit();
	else
	{
		ec_object_relation_changed(relid);	/* a partition, perhaps */
		/* or one that inherits from what is part of a document */
		if (ec_affected_any_suspended())
			ec_attachment_reload();
	}
}

/*
 * A column goes, perhaps with a type or a function by CASCADE.  An attachment that needs
 * the column goes, too; documents of others change.
 */
static void
column_dropped(Oid relid, AttrNumber attno)
{
	List	   *needing = NIL;
	char	   *column = get_attname(relid, attno, true);
	ListCell   *lc;

	if (column == NULL || !OidIsValid(ec_catalog_document(true)))
		return;
	foreach(lc, ec_affected_by_table(relid))
	{
		EcAttachment *att = lfirst(lc);

		if (needed_for(att, relid, column))
			needing = lappend(needing, att);
		else
			ec_pending_whole(att->relid);
	}
	foreach(lc, needing)
		detach_now(lfirst(lc));
}

void
ec_object_relation_changed(Oid relid)
{
	List	   *relids = NIL;
	ListCell   *lc;

	foreach(lc, ec_affected_by_table(relid))
		relids = lappend_oid(relids, ((EcAttachment *) lfirst(lc))->relid);
	foreach(lc, relids)
		ec_pending_whole(lfirst_oid(lc));
	if (relids != NIL)
		ec_attachment_reload();
}

/*
 * A function is created, replaced or altered.  Perhaps it is a builder, or one that was
 * missing.
 */
static void
function_changed(Oid function)
{
	ListCell   *lc;

	if (!OidIsValid(ec_catalog_document(true)))
		return;
	if (made_by(InvalidOid) != NIL)
		ec_attachment_reload();
	foreach(lc, made_by(function))
		ec_pending_whole(((EcAttachment *) lfirst(lc))->relid);
}

/* A function goes, and the attachments whose builder it is. */
static void
function_dropped(Oid function)
{
	ListCell   *lc;

	if (!OidIsValid(ec_catalog_document(true)))
		return;
	foreach(lc, made_by(function))
		detach_now(lfirst(lc));
}
