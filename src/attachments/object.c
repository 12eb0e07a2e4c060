/*-------------------------------------------------------------------------
 *
 * object.c
 *	  Objects that documents depend on are dropped, truncated or changed.
 *
 * Whatever drops an object, a statement or a CASCADE from anywhere, no attachment outlives
 * what it needs: the hook detaches it, and invalidates its documents, before the object is
 * gone; or after the command, where that has taken the row trigger along with what a filter
 * uses (depend.c).  A statement that drops a column that is needed is refused, unless it says
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

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_cast.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "attachments/affected.h"
#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/changed.h"
#include "attachments/command.h"
#include "attachments/configuration.h"
#include "attachments/detach.h"
#include "attachments/object.h"
#include "attachments/triggers.h"
#include "attachments/vacate.h"
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

static const char *needed_for(EcAttachment *att, Oid relid, const char *column);
static void object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
						  void *arg);
static bool is_echocache(Oid extension);
static bool is_temporary(Oid classId, Oid objectId);
static void object_dropped(Oid classId, Oid objectId, int subId);
static void own_changed(Oid objectId);
static void object_changed(Oid classId, Oid objectId, int subId, bool created);
static void detach(const char *name, Oid relid, bool extension);
static void detach_now(EcAttachment *att);
static void leave_triggers(const char *name, List *tables);
static bool lock_leftover(Oid relid);
static void leave_dependent(const char *name, Oid relid);
static void function_dropped(Oid function);
static void extension_dropped(void);
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

	if (what != NULL && cmd->behavior != DROP_CASCADE)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop column \"%s\" because document \"%s\" depends on it",
						cmd->name, att->name),
				 errdetail("It is the document's %s.", what),
				 errhint("Run SELECT echocache_detach('%s') first, or use DROP ... CASCADE to "
						 "detach the table too.", att->name)));
}

/* ---------------------------------------------------------------- objects */

/*
 * An object is created, altered, dropped or truncated.  PostgreSQL calls this after its
 * check of permission; but TRUNCATE calls it before, and then the error takes back what is
 * noted here.  In a database without the extension nothing happens, except that DROP
 * DATABASE may be about one that has it.
 */
static void
object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId, void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, classId, objectId, subId, arg);

	if (access == OAT_DROP && classId == DatabaseRelationId)
		ec_vacate_for_drop(objectId);
	if ((access == OAT_POST_CREATE || access == OAT_POST_ALTER) &&
		classId == ExtensionRelationId && is_echocache(objectId))
		ec_database_rescan_at_commit();
	if ((access != OAT_DROP && access != OAT_POST_CREATE && access != OAT_POST_ALTER &&
		 access != OAT_TRUNCATE) || !ec_catalog_is_present())
		return;
	if (access == OAT_DROP)
		object_dropped(classId, objectId, subId);
	else if (access == OAT_TRUNCATE)
		ec_changed_relation(objectId);
	else
		object_changed(classId, objectId, subId, access == OAT_POST_CREATE);
}

/* Is this extension ours?  It may have been created by this very command. */
static bool
is_echocache(Oid extension)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		ours;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	ours = HeapTupleIsValid(tuple) &&
		strcmp(NameStr(((Form_pg_extension) GETSTRUCT(tuple))->extname), "echocache") == 0;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return ours;
}

/* Is it a temporary relation, or the row type of one? */
static bool
is_temporary(Oid classId, Oid objectId)
{
	HeapTuple	tuple;
	Oid			schema = InvalidOid;

	if (classId == RelationRelationId)
		schema = get_rel_namespace(objectId);
	else if (classId == TypeRelationId)
	{
		tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(objectId));
		if (HeapTupleIsValid(tuple))
		{
			schema = ((Form_pg_type) GETSTRUCT(tuple))->typnamespace;
			ReleaseSysCache(tuple);
		}
	}
	return OidIsValid(schema) && isAnyTempNamespace(schema);
}

/* An object is about to be dropped; the catalogs still have it. */
static void
object_dropped(Oid classId, Oid objectId, int subId)
{
	if ((classId == RelationRelationId && subId == 0 && ec_catalog_is_own(objectId)) ||
		(classId == ProcedureRelationId && ec_catalog_is_trigger_function(objectId)))
	{
		extension_dropped();
		return;
	}
	switch (classId)
	{
		case RelationRelationId:
			if (subId > 0)
				column_dropped(objectId, subId);
			else
				relation_dropped(objectId);
			break;
		case ProcedureRelationId:
			function_dropped(objectId);
			break;
		case TriggerRelationId:
			ec_changed_trigger(objectId, false, true);
			break;
		case CastRelationId:
			ec_changed_cast(objectId, false);
			break;
		default:
			break;
	}
	/* what shows the object's name shows its number from now on */
	if (subId == 0 && ec_changed_has_name(classId) && !is_temporary(classId, objectId))
		ec_changed_names();
}

/*
 * An object of the extension's, or the extension, is other than it was: see check_own() in
 * ddl.c.
 */
static void
own_changed(Oid objectId)
{
	ec_catalog_look_again();
	ec_command_note(EC_COMMAND_OWN, objectId);
}

/* An object has been created or altered; the catalogs show that after the command. */
static void
object_changed(Oid classId, Oid objectId, int subId, bool created)
{
	switch (classId)
	{
		case RelationRelationId:
			/* a column, also of a view whose rows are in a column of a table */
			if (subId > 0)
				ec_changed_relation(objectId);
			else if (created)
				ec_command_note(EC_COMMAND_CREATED, objectId);
			else if (ec_catalog_is_own(objectId))
				own_changed(objectId);
			break;
		case NamespaceRelationId:
			if (!created && ec_catalog_is_own_schema(objectId))
				own_changed(objectId);
			break;
		case ProcedureRelationId:
			if (ec_catalog_is_trigger_function(objectId))
				own_changed(objectId);
			ec_changed_function(objectId);
			break;
		case TriggerRelationId:
			ec_changed_trigger(objectId, created, false);
			break;
		case CastRelationId:
			ec_changed_cast(objectId, created);
			break;
		case TypeRelationId:
			if (!created)
				ec_command_note(EC_COMMAND_TYPE, objectId);
			break;
		case ExtensionRelationId:
			if (is_echocache(objectId))
				own_changed(objectId);
			break;
		default:
			break;
	}
}

/* Detach, and say so.  The triggers are gone or about to go. */
static void
detach(const char *name, Oid relid, bool extension)
{
	char	   *copy = pstrdup(name);
	char	   *table = get_rel_name(relid);
	int64		removed = ec_detach_invalidate(copy, relid, extension);

	ereport(NOTICE,
			(errmsg("document \"%s\" of table \"%s\" is detached", copy, table ? table : "?"),
			 errdetail_plural("%lld cached document was invalidated.",
							  "%lld cached documents were invalidated.", removed,
							  (long long) removed)));
	if (!extension)
		ec_catalog_forget(copy);
}

/* Detach a table that stays.  An attachment that is gone meanwhile needs nothing. */
static void
detach_now(EcAttachment *att)
{
	char	   *name = pstrdup(att->name);
	Oid			relid = att->relid;
	List	   *tables;

	/* while this waits for the locks the name may become that of another table */
	do
	{
		tables = ec_attachment_tables(name);
		if (tables == NIL || linitial_oid(tables) != relid)
			return;
		(void) ec_detach_lock(tables);
	} while (!equal(tables, ec_attachment_tables(name)));
	detach(name, linitial_oid(tables), false);
	leave_triggers(name, tables);
}

void
ec_object_detach_untriggered(List *relids)
{
	ListCell   *lc;

	foreach(lc, ec_attachment_all())
	{
		EcAttachment *att = lfirst(lc);

		if (list_member_oid(relids, att->relid) && get_rel_relkind(att->relid) != '\0' &&
			!OidIsValid(ec_triggers_row(att->relid, att->name)))
			detach_now(att);
	}
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

/*
 * Lock a table, to drop triggers, unless that would mean to wait: the command has locks that
 * others may be waiting for.  False: it is busy, gone, or another role's.
 */
static bool
lock_leftover(Oid relid)
{
	if (get_rel_relkind(relid) == '\0' || !ec_compat_owns_relation(relid, GetUserId()) ||
		!ConditionalLockRelationOid(relid, AccessExclusiveLock))
		return false;
	/* that the lock was free says nothing about what has happened before */
	if (get_rel_relkind(relid) != '\0' && ec_compat_owns_relation(relid, GetUserId()))
		return true;
	UnlockRelationOid(relid, AccessExclusiveLock);
	return false;
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
			if (lock_leftover(lfirst_oid(lt)) &&
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
	List	   *tables = ec_attachment_tables(name);

	if (tables == NIL)
		return;
	ereport(NOTICE,
			(errmsg("table \"%s\" is not part of document \"%s\" any more",
					get_rel_name(relid), name)));
	ec_pending_whole(linitial_oid(tables));
	ec_catalog_forget_dependent(name, relid);
}

/*
 * The first of the extension's objects that the code needs goes, by DROP EXTENSION: all
 * attachments go with it.  From then on the extension counts as absent.
 */
static void
extension_dropped(void)
{
	ListCell   *lc;

	foreach(lc, ec_attachment_names())
	{
		List	   *tables = ec_attachment_tables(lfirst(lc));

		if (tables != NIL)
			detach(lfirst(lc), linitial_oid(tables), true);
	}
	ec_database_rescan_at_commit();
	ec_catalog_look_again();	/* at the next object that goes: this one is still there */
}

/* A table goes, and its attachment with it. */
static void
relation_dropped(Oid relid)
{
	ListCell   *lc;

	foreach(lc, ec_attachment_names())
	{
		const char *name = lfirst(lc);
		List	   *tables = ec_attachment_tables(name);

		if (tables == NIL)
			continue;			/* it has been detached just now */
		if (linitial_oid(tables) == relid)
		{
			detach(name, relid, false);
			leave_triggers(name, list_delete_first(tables));
		}
		else if (list_member_oid(tables, relid))
			leave_dependent(name, relid);
	}
	ec_changed_relation(relid); /* a partition, perhaps */
	/* or one that inherits from a dependent table */
	if (ec_affected_any_suspended())
		ec_attachment_reload();
}

/*
 * A column goes, perhaps with a type or a function by CASCADE.  An attachment that needs
 * the column goes, too; documents of others change.
 */
static void
column_dropped(Oid relid, AttrNumber attno)
{
	List	   *needing = NIL;
	List	   *changed = NIL;
	char	   *column = get_attname(relid, attno, true);
	ListCell   *lc;

	if (column == NULL)
		return;
	foreach(lc, ec_affected_by_table(relid))
	{
		EcAttachment *att = lfirst(lc);

		if (needed_for(att, relid, column))
			needing = lappend(needing, att);
		else
			changed = lappend_oid(changed, att->relid);
	}
	foreach(lc, changed)
		ec_pending_whole(lfirst_oid(lc));
	foreach(lc, needing)
		detach_now(lfirst(lc));
}

/* A function goes, and the attachments whose function it is. */
static void
function_dropped(Oid function)
{
	ListCell   *lc;

	foreach(lc, ec_affected_by_function(function))
		detach_now(lfirst(lc));
}
