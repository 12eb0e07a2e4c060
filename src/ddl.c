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
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parse_func.h"
#include "parser/parse_type.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "attach.h"
#include "compat.h"
#include "ddl.h"
#include "dependent.h"
#include "document.h"
#include "fence.h"
#include "render.h"
#include "worker.h"

/* A column of a table that has a role for a document is being renamed. */
typedef struct Rename
{
	char	   *name;			/* the document's */
	Oid			relid;
	int			role;
	Node	   *filter;			/* as it was parsed with the old name */
} Rename;

/* A function that makes documents, which may be about to get another name. */
typedef struct Maker
{
	char	   *name;			/* the document's */
	Oid			function;
} Maker;

/* Triggers that a document leaves behind on its tables. */
typedef struct Leftover
{
	char	   *name;			/* the document's */
	List	   *tables;			/* OIDs */
} Leftover;

static List *leftovers = NIL;

static object_access_hook_type prev_object_access_hook = NULL;
static ProcessUtility_hook_type prev_process_utility_hook = NULL;

static void process_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
							ProcessUtilityContext context, ParamListInfo params,
							QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc);
static char *suspended(Oid relid);
static void warn_suspended(Oid relid);
static void inherited(Node *stmt);
static List *makers(Node *stmt);
static List *made_by(Oid function);
static void follow_makers(List *makers);
static void check_drop_function(DropStmt *stmt);
static void update_configuration(List *renames, RenameStmt *stmt, List *makers);
static void enum_value_renamed(AlterEnumStmt *stmt);
static bool may_have_database(Oid dboid, bool copy);
static bool leave_database(Node *stmt);
static Oid	altered_table(Node *stmt);
static const char *needed_for(EcDocument *doc, Oid relid, const char *column);
static void check_alter(AlterTableStmt *stmt, Oid relid);
static void check_keys(Oid relid);
static void check_drop_column(EcDocument *doc, Oid relid, AlterTableCmd *cmd);
static List *begin_rename(RenameStmt *stmt, Oid relid);
static void rename_keys(RenameStmt *stmt, List *renames);
static Datum renamed(Datum name, RenameStmt *stmt);
static Datum renamed_array(Datum names, RenameStmt *stmt);
static void object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
						  void *arg);
static void detach(const char *name, Oid relid, bool extension);
static void detach_now(EcDocument *doc);
static void leave_triggers(const char *name, List *tables);
static void drop_leftovers(void);
static void forget_leftovers(XactEvent event, void *arg);
static void keep_leftovers(SubXactEvent event, SubTransactionId mySubid,
						   SubTransactionId parentSubid, void *arg);
static void leave_dependent(const char *name, Oid relid);
static void function_changed(Oid function);
static void function_dropped(Oid function);
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
	RegisterXactCallback(forget_leftovers, NULL);
	RegisterSubXactCallback(keep_leftovers, NULL);
}

/* ---------------------------------------------------------------- utility statements */

static void
process_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	List	   *renames = NIL;
	List	   *made;
	Oid			relid;
	bool		left;

	left = leave_database(stmt);
	relid = altered_table(stmt);
	if (OidIsValid(relid) && IsA(stmt, AlterTableStmt) && ec_owns_relation(relid, GetUserId()))
		check_alter((AlterTableStmt *) stmt, relid);
	else if (OidIsValid(relid) && IsA(stmt, RenameStmt))
		renames = begin_rename((RenameStmt *) stmt, relid);
	if (IsA(stmt, DropStmt))
		check_drop_function((DropStmt *) stmt);
	made = makers(stmt);

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
	follow_makers(made);
	inherited(stmt);
	drop_leftovers();
	if (!OidIsValid(relid))
		return;
	if (renames)
	{
		update_configuration(renames, (RenameStmt *) stmt, NIL);
		rename_keys((RenameStmt *) stmt, renames);
	}
	if (IsA(stmt, AlterTableStmt))
		check_keys(relid);
	if (!IsA(stmt, DropStmt) || suspended(relid) != NULL)
		relation_changed(relid);
	warn_suspended(relid);
}

static void
warn_suspended(Oid relid)
{
	char	   *name = suspended(relid);

	if (name != NULL)
		ereport(WARNING,
				(errmsg("document \"%s\" is not cached while its triggers do not fire", name),
				 errhint("Enable them with ALTER TABLE ... ENABLE ALWAYS TRIGGER, or detach "
						 "the table and attach it again.")));
}

/*
 * A table inherits from others: rows of what is part of a document, which our trigger
 * there does not see.
 */
static void
inherited(Node *stmt)
{
	List	   *parents = NIL;
	ListCell   *lc;

	if (IsA(stmt, CreateStmt) && ((CreateStmt *) stmt)->partbound == NULL)
		parents = ((CreateStmt *) stmt)->inhRelations;
	else if (IsA(stmt, AlterTableStmt))
		foreach(lc, ((AlterTableStmt *) stmt)->cmds)
		{
			AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

			if (cmd->subtype == AT_AddInherit || cmd->subtype == AT_DropInherit)
				parents = lappend(parents, cmd->def);
		}
	if (parents == NIL || !OidIsValid(ec_document_catalog(true)))
		return;
	CommandCounterIncrement();
	foreach(lc, parents)
	{
		Oid			relid = RangeVarGetRelid(lfirst_node(RangeVar, lc), NoLock, true);
		bool		dependent = false;
		ListCell   *ld;

		if (!OidIsValid(relid))
			continue;
		foreach(ld, ec_documents_touching(relid))
			dependent |= (ec_document_role(lfirst(ld), relid) & EC_ROLE_DEPENDENT) != 0;
		if (!dependent)
			continue;
		relation_changed(relid);
		warn_suspended(relid);
	}
}

/* A document that the table is part of, but one of its triggers does not fire any more. */
static char *
suspended(Oid relid)
{
	ListCell   *lc;

	foreach(lc, ec_documents_touching(relid))
	{
		EcDocument *doc = lfirst(lc);

		if (doc->relid != relid && ec_document_role(doc, relid) != EC_ROLE_DEPENDENT)
			continue;
		doc = ec_document_by_name(doc->name);
		if (doc != NULL && doc->slot != NULL && doc->suspended)
			return pstrdup(doc->name);
	}
	return NULL;
}

/* The functions that make documents, if the statement may give one another name. */
static List *
makers(Node *stmt)
{
	List	   *list = NIL;
	ListCell   *lc;

	if (!(IsA(stmt, RenameStmt) || IsA(stmt, AlterObjectSchemaStmt)) ||
		!OidIsValid(ec_document_catalog(true)))
		return NIL;
	foreach(lc, ec_documents_with_function())
	{
		EcDocument *doc = lfirst(lc);
		Maker	   *maker = palloc(sizeof(Maker));

		maker->name = pstrdup(doc->name);
		maker->function = ec_document_function(doc);
		list = lappend(list, maker);
	}
	return list;
}

/* The documents that this function makes. */
static List *
made_by(Oid function)
{
	List	   *found = NIL;
	ListCell   *lc;

	foreach(lc, ec_documents_with_function())
		if (ec_document_function(lfirst(lc)) == function)
			found = lappend(found, lfirst(lc));
	return found;
}

/* They may have got one: the configuration has them by name. */
static void
follow_makers(List *makers)
{
	if (makers != NIL)
		update_configuration(NIL, NULL, makers);
}

/* Refuse to drop a function that makes documents; with CASCADE they are detached. */
static void
check_drop_function(DropStmt *stmt)
{
	ListCell   *lc;

	if ((stmt->removeType != OBJECT_FUNCTION && stmt->removeType != OBJECT_ROUTINE) ||
		stmt->behavior == DROP_CASCADE || !OidIsValid(ec_document_catalog(true)))
		return;
	foreach(lc, stmt->objects)
	{
		Oid			function = LookupFuncWithArgs(stmt->removeType,
												  lfirst_node(ObjectWithArgs, lc), true);
		List	   *docs = OidIsValid(function) ? made_by(function) : NIL;

		if (docs != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop function %s because document \"%s\" depends on it",
							format_procedure(function),
							((EcDocument *) linitial(docs))->name),
					 errhint("Run SELECT echocache_detach('%s') first, or use DROP ... CASCADE to "
							 "detach the table too.", ((EcDocument *) linitial(docs))->name)));
	}
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

/* May the current role have this database for itself, to copy it or for anything else? */
static bool
may_have_database(Oid dboid, bool copy)
{
	HeapTuple	tuple;
	bool		createdb;

	if (ec_owns_database(dboid, GetUserId()))
		return true;
	if (!copy)
		return false;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (!HeapTupleIsValid(tuple))
		return false;
	createdb = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
	ReleaseSysCache(tuple);
	return createdb;
}

/*
 * A command that wants a database for itself, and may be permitted to?  Then its worker
 * must not be in the way.
 */
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
	if (!OidIsValid(dboid) || !may_have_database(dboid, IsA(stmt, CreatedbStmt)))
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

/* What a document needs this column of this table for, or NULL. */
static const char *
needed_for(EcDocument *doc, Oid relid, const char *column)
{
	int			role = ec_document_role(doc, relid);
	ListCell   *lc;

	if (role & EC_ROLE_OWN)
	{
		if (strcmp(NameStr(doc->key.name), column) == 0)
			return "key";
		if (doc->has_owner && strcmp(NameStr(doc->owner.name), column) == 0)
			return "owner";
		foreach(lc, doc->filter_columns)
			if (strcmp(lfirst(lc), column) == 0)
				return "filter";
	}
	if (role & EC_ROLE_DEPENDENT)
		foreach(lc, doc->dependents)
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

			if (ec_document_role(doc, relid) == 0)
				continue;		/* it merely has a column of the row type */
			switch (cmd->subtype)
			{
				case AT_DropColumn:
					check_drop_column(doc, relid, cmd);
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
					if (list_member_oid(ec_document_tables(doc->name), relid))
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

/* Do the tables that are part of a document still have its keys, in columns of such a type? */
static void
check_keys(Oid relid)
{
	List	   *names = NIL;
	ListCell   *lc;

	CommandCounterIncrement();
	foreach(lc, ec_documents_touching(relid))
		names = lappend(names, pstrdup(((EcDocument *) lfirst(lc))->name));
	foreach(lc, names)
		ec_dependent_check_keys(ec_document_by_name(lfirst(lc)));
}

static void
check_drop_column(EcDocument *doc, Oid relid, AlterTableCmd *cmd)
{
	const char *what = needed_for(doc, relid, cmd->name);

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

		if (ec_document_role(doc, relid) == 0)
			continue;
		rename = palloc0(sizeof(Rename));
		rename->name = pstrdup(doc->name);
		rename->relid = doc->relid;
		rename->role = ec_document_role(doc, relid);
		if (doc->filter)
		{
			Relation	rel = relation_open(doc->relid, AccessShareLock);

			rename->filter = ec_filter_parse(rel, doc->filter, true);
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

/* Write the new names of columns, or of functions, into echocache.document. */
static void
update_configuration(List *renames, RenameStmt *stmt, List *makers)
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
		bool		changed = false;
		char	   *name;
		ListCell   *lc;

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		name = TextDatumGetCString(values[Anum_ec_document_name - 1]);
		foreach(lc, renames)
		{
			Rename	   *rename = lfirst(lc);

			if (strcmp(rename->name, name) != 0 || !(rename->role & EC_ROLE_OWN))
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
			changed = true;
		}
		foreach(lc, makers)
		{
			Maker	   *maker = lfirst(lc);
			Oid			schema = get_func_namespace(maker->function);
			char	   *qualified;

			if (strcmp(maker->name, name) != 0 || !OidIsValid(schema))
				continue;
			qualified = quote_qualified_identifier(get_namespace_name(schema),
												   get_func_name(maker->function));
			changed |= strcmp(qualified,
							  TextDatumGetCString(values[Anum_ec_document_document - 1])) != 0;
			values[Anum_ec_document_document - 1] = CStringGetTextDatum(qualified);
		}
		if (changed)
		{
			CatalogTupleUpdate(rel, &tuple->t_self,
							   heap_form_tuple(RelationGetDescr(rel), values, nulls));
			CacheInvalidateRelcache(rel);
		}
	}
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
}

/* The same for the key columns in echocache.dependent. */
static void
rename_keys(RenameStmt *stmt, List *renames)
{
	Relation	rel = table_open(ec_relation("dependent"), RowExclusiveLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[Natts_ec_dependent];
		bool		nulls[Natts_ec_dependent];
		Oid			relid;
		ListCell   *lc;

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		relid = DatumGetObjectId(values[Anum_ec_dependent_relation - 1]);
		foreach(lc, renames)
		{
			Rename	   *rename = lfirst(lc);

			if (strcmp(rename->name,
					   TextDatumGetCString(values[Anum_ec_dependent_document - 1])) != 0 ||
				!(rename->role & EC_ROLE_DEPENDENT) ||
				get_attnum(relid, NameStr(*DatumGetName(values[Anum_ec_dependent_key_column - 1])))
				!= InvalidAttrNumber)
				continue;
			/* the column of that name is gone, so it was this one */
			values[Anum_ec_dependent_key_column - 1] =
				renamed(values[Anum_ec_dependent_key_column - 1], stmt);
			CatalogTupleUpdate(rel, &tuple->t_self,
							   heap_form_tuple(RelationGetDescr(rel), values, nulls));
			CacheInvalidateRelcacheByRelid(ec_document_catalog(false));
		}
	}
	systable_endscan(scan);
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
	else if (access == OAT_DROP && classId == ProcedureRelationId)
		function_dropped(objectId);
	else if ((access == OAT_POST_CREATE || access == OAT_POST_ALTER) &&
			 classId == ProcedureRelationId)
		function_changed(objectId);
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

/* Detach a table that stays. */
static void
detach_now(EcDocument *doc)
{
	char	   *name = pstrdup(doc->name);
	Oid			relid = doc->relid;
	List	   *tables;
	ListCell   *lc;

	/* while we wait for the locks the name may become that of another table */
	do
	{
		tables = ec_document_tables(name);
		if (tables == NIL || linitial_oid(tables) != relid)
			return;
		foreach(lc, tables)
			LockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
	} while (!equal(tables, ec_document_tables(name)));
	detach(name, linitial_oid(tables), false);
	leave_triggers(name, tables);
}

/*
 * Triggers for this document are of no use any more.  They cannot be dropped while the
 * command drops other objects, which may be the very tables that they are on.
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
 * After the command: drop them, but not from another owner's table, where they do nothing
 * until they go with the extension, nor where an event trigger has attached it again.
 */
static void
drop_leftovers(void)
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
				ec_owns_relation(lfirst_oid(lt), GetUserId()) &&
				!list_member_oid(ec_document_tables(leftover->name), lfirst_oid(lt)))
				ec_attach_drop_triggers(lfirst_oid(lt), leftover->name, false);
	}
}

/* They were in TopTransactionContext. */
static void
forget_leftovers(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		leftovers = NIL;
}

/* The command has failed; what was to be dropped is attached. */
static void
keep_leftovers(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid,
			   void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		leftovers = NIL;
}

/* A dependent table goes. */
static void
leave_dependent(const char *name, Oid relid)
{
	ereport(NOTICE,
			(errmsg("table \"%s\" is not part of document \"%s\" any more",
					get_rel_name(relid), name)));
	ec_fence_note_whole(linitial_oid(ec_document_tables(name)));
	ec_dependent_forget(name, relid);
}

/* A table goes: its document with it. */
static void
relation_dropped(Oid relid)
{
	Oid			catalog = ec_document_catalog(true);
	ListCell   *lc;

	if (!OidIsValid(catalog))
		return;
	foreach(lc, ec_document_names())
	{
		const char *name = lfirst(lc);
		List	   *tables = ec_document_tables(name);

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
		ec_worker_rescan_at_commit();
	else
	{
		relation_changed(relid);	/* a partition, perhaps */
		/* or one that inherits from what is part of a document */
		if (ec_documents_suspended())
			ec_document_reload();
	}
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

		if (needed_for(doc, relid, column))
			needing = lappend(needing, doc);
		else
			ec_fence_note_whole(doc->relid);
	}
	foreach(lc, needing)
		detach_now(lfirst(lc));
}

/*
 * All documents that depend on this table change with this transaction, and every
 * backend looks anew whether their triggers see all.
 */
static void
relation_changed(Oid relid)
{
	List	   *relids = NIL;
	ListCell   *lc;

	foreach(lc, ec_documents_touching(relid))
		relids = lappend_oid(relids, ((EcDocument *) lfirst(lc))->relid);
	foreach(lc, relids)
		ec_fence_note_whole(lfirst_oid(lc));
	if (relids != NIL)
		ec_document_reload();
}

/*
 * A function is created, replaced or altered: perhaps it makes documents, or is one that
 * was missed.
 */
static void
function_changed(Oid function)
{
	ListCell   *lc;

	if (!OidIsValid(ec_document_catalog(true)))
		return;
	if (made_by(InvalidOid) != NIL)
		ec_document_reload();
	foreach(lc, made_by(function))
		ec_fence_note_whole(((EcDocument *) lfirst(lc))->relid);
}

/* A function goes, and the documents that it made with it. */
static void
function_dropped(Oid function)
{
	ListCell   *lc;

	if (!OidIsValid(ec_document_catalog(true)))
		return;
	foreach(lc, made_by(function))
		detach_now(lfirst(lc));
}
