/*-------------------------------------------------------------------------
 *
 * ddl.c
 *	  What DDL does to attached tables, and to the workers.
 *
 * A change of an attached table's definition changes all of its documents: they
 * are withdrawn at that commit, by the fence, as by TRUNCATE.  DDL holds the table
 * exclusively, and the fence the class, so nobody stores one of the old shape
 * meanwhile.  Columns that are renamed are renamed in the configuration; dropping
 * one that the attachment needs is refused, unless CASCADE, which detaches.
 * Where a trigger of ours is disabled or dropped the document is not cached for as
 * long as that lasts (EcDocument.suspended).
 *
 * Commands that need a database for themselves ask its worker to leave first.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parse_type.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"

#include "attach.h"
#include "compat.h"
#include "ddl.h"
#include "document.h"
#include "fence.h"
#include "render.h"
#include "worker.h"

/* A column of an attached table that is being renamed. */
typedef struct Rename
{
	char	   *name;			/* the document's */
	Oid			relid;
	Node	   *filter;			/* as it was parsed with the old name */
} Rename;

static object_access_hook_type prev_object_access_hook = NULL;
static ProcessUtility_hook_type prev_process_utility_hook = NULL;

static void process_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
							ProcessUtilityContext context, ParamListInfo params,
							QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc);
static bool is_suspended(Oid relid);
static void enum_value_renamed(AlterEnumStmt *stmt);
static bool leave_database(Node *stmt);
static Oid	altered_table(Node *stmt);
static bool shows_row_type_only(EcDocument *doc, Oid relid);
static const char *needed_for(EcDocument *doc, const char *column);
static void check_alter(AlterTableStmt *stmt, Oid relid);
static void check_drop_column(EcDocument *doc, AlterTableCmd *cmd);
static List *begin_rename(RenameStmt *stmt, Oid relid);
static void end_rename(RenameStmt *stmt, List *renames);
static Datum renamed(Datum name, RenameStmt *stmt);
static Datum renamed_array(Datum names, RenameStmt *stmt);
static void object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
						  void *arg);
static void detach(const char *name, Oid relid, bool extension);
static void detach_now(EcDocument *doc);
static void relation_dropped(Oid relid);
static void column_dropped(Oid relid, AttrNumber attno);
static void relation_changed(Oid relid);

/* Once, from _PG_init. */
void
ec_ddl_init(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = object_access;
	prev_process_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}

/* ---------------------------------------------------------------- utility statements */

static void
process_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	List	   *renames = NIL;
	Oid			relid;
	bool		left;

	left = leave_database(stmt);
	relid = altered_table(stmt);
	if (OidIsValid(relid) && IsA(stmt, AlterTableStmt))
		check_alter((AlterTableStmt *) stmt, relid);
	else if (OidIsValid(relid) && IsA(stmt, RenameStmt))
		renames = begin_rename((RenameStmt *) stmt, relid);

	if (prev_process_utility_hook)
		prev_process_utility_hook(pstmt, queryString, readOnlyTree, context, params, queryEnv,
								  dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context, params, queryEnv,
								dest, qc);

	if (left)
		ec_worker_return_to_database();
	if (IsA(stmt, AlterEnumStmt) && ((AlterEnumStmt *) stmt)->oldVal != NULL)
		enum_value_renamed((AlterEnumStmt *) stmt);
	if (!OidIsValid(relid))
		return;
	if (renames)
		end_rename((RenameStmt *) stmt, renames);
	if (!IsA(stmt, DropStmt) || is_suspended(relid))
		relation_changed(relid);
	if (is_suspended(relid))
		ereport(WARNING,
				(errmsg("document \"%s\" is not cached while its triggers do not fire",
						ec_document_by_relid(relid)->name),
				 errhint("Enable them with ALTER TABLE ... ENABLE ALWAYS TRIGGER, or detach "
						 "the table and attach it again.")));
}

/* Is the table attached, but one of our triggers does not fire any more? */
static bool
is_suspended(Oid relid)
{
	EcDocument *doc = ec_document_by_relid(relid);

	return doc != NULL && doc->slot != NULL && doc->suspended;
}

/* A value has another name, in every document that shows the type. */
static void
enum_value_renamed(AlterEnumStmt *stmt)
{
	ListCell   *lc;

	if (!OidIsValid(ec_document_catalog(true)))
		return;
	foreach(lc, ec_documents_showing(typenameTypeId(NULL,
													makeTypeNameFromNameList(stmt->typeName))))
		ec_fence_note_whole(((EcDocument *) lfirst(lc))->relid);
}

/* A command that wants a database for itself?  Then its worker must not be in the way. */
static bool
leave_database(Node *stmt)
{
	const char *name = NULL;
	ListCell   *lc;
	Oid			dboid;

	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			name = ((DropdbStmt *) stmt)->dbname;
			break;
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
				name = ((RenameStmt *) stmt)->subname;
			break;
		case T_AlterDatabaseStmt:
			foreach(lc, ((AlterDatabaseStmt *) stmt)->options)
				if (strcmp(lfirst_node(DefElem, lc)->defname, "tablespace") == 0)
					name = ((AlterDatabaseStmt *) stmt)->dbname;
			break;
		case T_CreatedbStmt:
			foreach(lc, ((CreatedbStmt *) stmt)->options)
			{
				DefElem    *option = lfirst_node(DefElem, lc);

				if (strcmp(option->defname, "template") == 0 && option->arg)
					name = defGetString(option);
			}
			break;
		default:
			break;
	}
	if (name == NULL || !IsTransactionState())
		return false;
	dboid = get_database_oid(name, true);
	if (!OidIsValid(dboid))
		return false;
	ec_worker_leave_database(dboid);
	return true;
}

/* The table that the statement alters, if documents depend on it, else InvalidOid. */
static Oid
altered_table(Node *stmt)
{
	RangeVar   *relation = NULL;
	Oid			relid;

	if (IsA(stmt, AlterTableStmt))
		relation = ((AlterTableStmt *) stmt)->relation;
	else if (IsA(stmt, DropStmt) && ((DropStmt *) stmt)->removeType == OBJECT_TRIGGER)
	{
		/* the table's name, then the trigger's */
		List	   *names = list_copy(linitial_node(List, ((DropStmt *) stmt)->objects));

		relation = makeRangeVarFromNameList(list_truncate(names, list_length(names) - 1));
	}
	else if (IsA(stmt, RenameStmt) && (((RenameStmt *) stmt)->renameType == OBJECT_COLUMN ||
									  ((RenameStmt *) stmt)->renameType == OBJECT_ATTRIBUTE))
		relation = ((RenameStmt *) stmt)->relation;
	if (relation == NULL || !OidIsValid(ec_document_catalog(true)))
		return InvalidOid;
	relid = RangeVarGetRelid(relation, NoLock, true);
	if (!OidIsValid(relid) || ec_documents_touching(relid) == NIL)
		return InvalidOid;
	return relid;
}

/* Does the document merely have a column of the altered one's row type? */
static bool
shows_row_type_only(EcDocument *doc, Oid relid)
{
	return doc->relid != relid &&
		!list_member_oid(find_all_inheritors(relid, NoLock, NULL), doc->relid) &&
		!(get_rel_relispartition(relid) &&
		  list_member_oid(get_partition_ancestors(relid), doc->relid));
}

/* What a document needs this column for, or NULL. */
static const char *
needed_for(EcDocument *doc, const char *column)
{
	ListCell   *lc;

	if (strcmp(NameStr(doc->key.name), column) == 0)
		return "key";
	if (doc->has_owner && strcmp(NameStr(doc->owner.name), column) == 0)
		return "owner";
	foreach(lc, doc->filter_columns)
		if (strcmp(lfirst(lc), column) == 0)
			return "filter";
	return NULL;
}

/* Refuse what would leave an attachment without what it needs. */
static void
check_alter(AlterTableStmt *stmt, Oid relid)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);
		ListCell   *ld;

		foreach(ld, ec_documents_touching(relid))
		{
			EcDocument *doc = lfirst(ld);

			if (shows_row_type_only(doc, relid))
				continue;
			switch (cmd->subtype)
			{
				case AT_DropColumn:
					check_drop_column(doc, cmd);
					break;
				case AT_SetUnLogged:
					ereport(ERROR,
							(errcode(ERRCODE_OBJECT_IN_USE),
							 errmsg("cannot make table \"%s\" unlogged", get_rel_name(relid)),
							 errdetail("A crash would empty it without document \"%s\" "
									   "being told.", doc->name),
							 errhint("Run SELECT echocache_detach('%s') first.", doc->name)));
					break;
				case AT_DisableTrig:
				case AT_DisableTrigAll:
				case AT_DisableTrigUser:
				case AT_EnableTrig:
				case AT_EnableReplicaTrig:
				case AT_EnableTrigAll:
				case AT_EnableTrigUser:
					if (doc->relid == relid)
						break;	/* EcDocument.suspended */
					if (cmd->subtype == AT_DisableTrig || cmd->subtype == AT_EnableTrig ||
						cmd->subtype == AT_EnableReplicaTrig)
					{
						/* one that is not ours may be disabled */
						if (strncmp(cmd->name, "echocache_", 10) != 0)
							break;
					}
					ereport(ERROR,
							(errcode(ERRCODE_OBJECT_IN_USE),
							 errmsg("cannot change the triggers of partition \"%s\"",
									get_rel_name(relid)),
							 errdetail("Document \"%s\" follows it by a trigger.", doc->name),
							 errhint("Change those of the partitioned table.")));
					break;
				default:
					break;
			}
		}
	}
}

static void
check_drop_column(EcDocument *doc, AlterTableCmd *cmd)
{
	const char *what = needed_for(doc, cmd->name);

	if (what == NULL)
		return;
	if (cmd->behavior != DROP_CASCADE)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop column \"%s\" because document \"%s\" depends on it",
						cmd->name, doc->name),
				 errdetail("It is the document's %s.", what),
				 errhint("Run SELECT echocache_detach('%s') first, or use DROP ... CASCADE to "
						 "detach the table too.", doc->name)));
	detach_now(doc);
}

/*
 * A column of an attached table gets another name: the configuration must follow.
 * The filter is parsed while its old names are valid, with the lock that the
 * command will want.
 */
static List *
begin_rename(RenameStmt *stmt, Oid relid)
{
	List	   *renames = NIL;
	ListCell   *lc;

	if (!ec_owns_relation(relid, GetUserId()))
		return NIL;				/* the command says so */
	LockRelationOid(relid, AccessExclusiveLock);
	foreach(lc, ec_documents_touching(relid))
	{
		EcDocument *doc = lfirst(lc);
		Rename	   *rename;

		if (shows_row_type_only(doc, relid))
			continue;
		rename = palloc0(sizeof(Rename));
		rename->name = pstrdup(doc->name);
		rename->relid = doc->relid;
		if (doc->filter)
		{
			Relation	rel = relation_open(doc->relid, AccessShareLock);

			rename->filter = ec_filter_parse(rel, doc->filter);
			relation_close(rel, NoLock);
		}
		renames = lappend(renames, rename);
	}
	return renames;
}

static Datum
renamed(Datum name, RenameStmt *stmt)
{
	if (strcmp(NameStr(*DatumGetName(name)), stmt->subname) != 0)
		return name;
	return DirectFunctionCall1(namein, CStringGetDatum(stmt->newname));
}

static Datum
renamed_array(Datum names, RenameStmt *stmt)
{
	Datum	   *elems;
	bool	   *nulls;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(names), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR,
					  &elems, &nulls, &n);
	for (int i = 0; i < n; i++)
		elems[i] = renamed(elems[i], stmt);
	return PointerGetDatum(construct_array(elems, n, NAMEOID, NAMEDATALEN, false,
										   TYPALIGN_CHAR));
}

static void
end_rename(RenameStmt *stmt, List *renames)
{
	Relation	rel = table_open(ec_document_catalog(false), RowExclusiveLock);
	SysScanDesc scan;
	HeapTuple	tuple;

	CommandCounterIncrement();
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[Natts_ec_document];
		bool		nulls[Natts_ec_document];
		char	   *name;
		ListCell   *lc;

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		name = TextDatumGetCString(values[Anum_ec_document_name - 1]);
		foreach(lc, renames)
		{
			Rename	   *rename = lfirst(lc);

			if (strcmp(rename->name, name) != 0)
				continue;
			values[Anum_ec_document_key_column - 1] =
				renamed(values[Anum_ec_document_key_column - 1], stmt);
			if (!nulls[Anum_ec_document_owner_column - 1])
				values[Anum_ec_document_owner_column - 1] =
					renamed(values[Anum_ec_document_owner_column - 1], stmt);
			values[Anum_ec_document_filter_columns - 1] =
				renamed_array(values[Anum_ec_document_filter_columns - 1], stmt);
			values[Anum_ec_document_exclude - 1] =
				renamed_array(values[Anum_ec_document_exclude - 1], stmt);
			if (rename->filter)
				values[Anum_ec_document_filter - 1] =
					CStringGetTextDatum(ec_filter_deparse(rename->relid, rename->filter));
			CatalogTupleUpdate(rel, &tuple->t_self,
							   heap_form_tuple(RelationGetDescr(rel), values, nulls));
		}
	}
	systable_endscan(scan);
	CacheInvalidateRelcache(rel);
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
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
	else if (access == OAT_TRUNCATE && OidIsValid(ec_document_catalog(true)))
		relation_changed(objectId);
	else if (access == OAT_POST_CREATE && classId == ExtensionRelationId)
		ec_worker_rescan_at_commit();
}

/* Withdraw the documents and say so; the triggers are gone or about to go. */
static void
detach(const char *name, Oid relid, bool extension)
{
	char	   *document = pstrdup(name);
	char	   *table = get_rel_name(relid);
	int64		removed = ec_attach_withdraw(document, relid, extension);

	ereport(NOTICE,
			(errmsg("document \"%s\" of table \"%s\" is detached", document, table ? table : "?"),
			 errdetail_plural("%lld cached document was withdrawn.",
							  "%lld cached documents were withdrawn.", removed,
							  (long long) removed)));
	if (!extension)
		ec_attach_forget(document);
}

/* Detach a table that stays, its triggers last: nobody need be warned of that. */
static void
detach_now(EcDocument *doc)
{
	char	   *name = pstrdup(doc->name);
	Oid			relid = doc->relid;

	LockRelationOid(relid, AccessExclusiveLock);
	detach(name, relid, false);
	ec_attach_drop_triggers(relid, name);
}

static void
relation_dropped(Oid relid)
{
	Oid			catalog = ec_document_catalog(true);
	ListCell   *lc;

	if (!OidIsValid(catalog))
		return;
	foreach(lc, ec_document_names())
	{
		Oid			attached;

		if (ec_document_relid(lfirst(lc), &attached) && (attached == relid || relid == catalog))
			detach(lfirst(lc), attached, relid == catalog);
	}
	if (relid == catalog)
		ec_worker_rescan_at_commit();
	else
		relation_changed(relid);	/* a partition, perhaps */
}

/*
 * A column goes, perhaps with a type or a function by CASCADE: a document that
 * needs it goes too, others change.
 */
static void
column_dropped(Oid relid, AttrNumber attno)
{
	List	   *needing = NIL;
	char	   *column = get_attname(relid, attno, true);
	ListCell   *lc;

	if (column == NULL || !OidIsValid(ec_document_catalog(true)))
		return;
	foreach(lc, ec_documents_touching(relid))
	{
		EcDocument *doc = lfirst(lc);

		if (doc->relid == relid && needed_for(doc, column))
			needing = lappend(needing, doc);
		else
			ec_fence_note_whole(doc->relid);
	}
	foreach(lc, needing)
		detach_now(lfirst(lc));
}

/* All documents that depend on this table change with this transaction. */
static void
relation_changed(Oid relid)
{
	ListCell   *lc;

	foreach(lc, ec_documents_touching(relid))
		ec_fence_note_whole(((EcDocument *) lfirst(lc))->relid);
}
