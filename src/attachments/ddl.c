/*-------------------------------------------------------------------------
 *
 * ddl.c
 *	  What DDL does to attached tables, and to the workers.
 *
 * A change of an attached table's definition changes all of its documents: they are invalidated
 * at that commit, by the fence, as by TRUNCATE.  DDL holds the table exclusively, and the
 * fence the class, so nobody stores one of the old shape meanwhile.  What would leave an
 * attachment without what it needs is refused before the command; what is dropped is
 * object.c's, what gets another name rename.c's. Where a trigger of ours is disabled or dropped
 * the document is not cached for as long as that lasts (EcAttachment.suspended).
 *
 * Commands that need a database for themselves ask its worker to leave first.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parse_type.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "attachments/affected.h"
#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/configuration.h"
#include "attachments/ddl.h"
#include "attachments/dependent.h"
#include "attachments/object.h"
#include "attachments/rename.h"
#include "commit/pending.h"
#include "compat.h"
#include "worker/database.h"

static ProcessUtility_hook_type prev_process_utility_hook = NULL;

static void process_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
							ProcessUtilityContext context, ParamListInfo params,
							QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc);
static char *suspended(Oid relid);
static void warn_suspended(Oid relid);
static void inherited(Node *stmt);
static void enum_value_renamed(AlterEnumStmt *stmt);
static bool may_have_database(Oid dboid, bool copy);
static bool leave_database(Node *stmt);
static Oid	altered_table(Node *stmt);
static void check_own_names(Node *stmt);
static void check_alter(AlterTableStmt *stmt, Oid relid);
static void check_keys(Oid relid);

/* Once, from _PG_init. */
void
ec_ddl_init(void)
{
	prev_process_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}

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

	check_own_names(stmt);
	left = leave_database(stmt);
	relid = altered_table(stmt);
	if (OidIsValid(relid) && IsA(stmt, AlterTableStmt) &&
		ec_compat_owns_relation(relid, GetUserId()))
		check_alter((AlterTableStmt *) stmt, relid);
	else if (OidIsValid(relid) && IsA(stmt, RenameStmt))
		renames = ec_rename_begin((RenameStmt *) stmt, relid);
	if (IsA(stmt, DropStmt))
		ec_object_check_drop_function((DropStmt *) stmt);
	made = ec_rename_functions(stmt);

	if (prev_process_utility_hook)
		prev_process_utility_hook(pstmt, queryString, readOnlyTree, context, params, queryEnv,
								  dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context, params, queryEnv,
								dest, qc);

	if (left)
		ec_database_unban();
	if (IsA(stmt, AlterEnumStmt) && ((AlterEnumStmt *) stmt)->oldVal != NULL)
		enum_value_renamed((AlterEnumStmt *) stmt);
	ec_rename_follow_functions(made);
	inherited(stmt);
	ec_object_drop_leftovers();
	if (!OidIsValid(relid))
		return;
	if (renames)
		ec_rename_follow(renames, (RenameStmt *) stmt);
	if (IsA(stmt, AlterTableStmt))
		check_keys(relid);
	if (!IsA(stmt, DropStmt) || suspended(relid) != NULL)
		ec_object_relation_changed(relid);
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
	if (parents == NIL || !OidIsValid(ec_catalog_document(true)))
		return;
	CommandCounterIncrement();
	foreach(lc, parents)
	{
		Oid			relid = RangeVarGetRelid(lfirst_node(RangeVar, lc), NoLock, true);
		bool		dependent = false;
		ListCell   *ld;

		if (!OidIsValid(relid))
			continue;
		foreach(ld, ec_affected_by_table(relid))
			dependent |= (ec_affected_role(lfirst(ld), relid) & EC_ROLE_DEPENDENT) != 0;
		if (!dependent)
			continue;
		ec_object_relation_changed(relid);
		warn_suspended(relid);
	}
}

/* A document that the table is part of, but one of its triggers does not fire any more. */
static char *
suspended(Oid relid)
{
	ListCell   *lc;

	foreach(lc, ec_affected_by_table(relid))
	{
		EcAttachment *att = lfirst(lc);

		if (att->relid != relid && ec_affected_role(att, relid) != EC_ROLE_DEPENDENT)
			continue;
		att = ec_attachment_by_name(att->name);
		if (att != NULL && att->slot != NULL && att->suspended)
			return pstrdup(att->name);
	}
	return NULL;
}

/* A value has another name, in every document that shows the type. */
static void
enum_value_renamed(AlterEnumStmt *stmt)
{
	ListCell   *lc;

	if (!OidIsValid(ec_catalog_document(true)))
		return;
	foreach(lc, ec_affected_by_type(typenameTypeId(NULL,
													makeTypeNameFromNameList(stmt->typeName))))
		ec_pending_whole(((EcAttachment *) lfirst(lc))->relid);
}

/* May the current role have this database for itself, to copy it or for anything else? */
static bool
may_have_database(Oid dboid, bool copy)
{
	HeapTuple	tuple;
	bool		createdb;

	if (ec_compat_owns_database(dboid, GetUserId()))
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
	ec_database_ban(dboid);
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
	if (relation == NULL || !OidIsValid(ec_catalog_document(true)))
		return InvalidOid;
	relid = RangeVarGetRelid(relation, NoLock, true);
	if (!OidIsValid(relid) || ec_affected_by_table(relid) == NIL)
		return InvalidOid;
	return relid;
}

/* The extension's schema, and what is in it, is found by name, and keeps it. */
static void
check_own_names(Node *stmt)
{
	RangeVar   *relation = NULL;
	bool		own = false;

	if (IsA(stmt, RenameStmt) && ((RenameStmt *) stmt)->renameType == OBJECT_SCHEMA)
		own = strcmp(((RenameStmt *) stmt)->subname, "echocache") == 0;
	else if (IsA(stmt, RenameStmt))
		relation = ((RenameStmt *) stmt)->relation;
	else if (IsA(stmt, AlterObjectSchemaStmt))
		relation = ((AlterObjectSchemaStmt *) stmt)->relation;
	if (relation != NULL)
	{
		Oid			relid = RangeVarGetRelid(relation, NoLock, true);

		own = OidIsValid(relid) && OidIsValid(get_rel_namespace(relid)) &&
			get_rel_namespace(relid) == get_namespace_oid("echocache", true);
	}
	if (own && !creating_extension && OidIsValid(ec_catalog_document(true)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot rename or move what belongs to schema \"echocache\""),
				 errdetail("The extension finds its configuration by these names.")));
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

		foreach(ld, ec_affected_by_table(relid))
		{
			EcAttachment *att = lfirst(ld);

			if (ec_affected_role(att, relid) == 0)
				continue;		/* it merely has a column of the row type */
			switch (cmd->subtype)
			{
				case AT_DropColumn:
					ec_object_check_drop_column(att, relid, cmd);
					break;
				case AT_SetUnLogged:
					ereport(ERROR,
							(errcode(ERRCODE_OBJECT_IN_USE),
							 errmsg("cannot make table \"%s\" unlogged", get_rel_name(relid)),
							 errdetail("A crash would empty it without document \"%s\" "
									   "being told.", att->name),
							 errhint("Run SELECT echocache_detach('%s') first.", att->name)));
					break;
				case AT_AddOf:
					ereport(ERROR,
							(errcode(ERRCODE_OBJECT_IN_USE),
							 errmsg("cannot make \"%s\" a typed table", get_rel_name(relid)),
							 errdetail("Its columns would change without document \"%s\" "
									   "being told.", att->name),
							 errhint("Run SELECT echocache_detach('%s') first.", att->name)));
					break;
				case AT_DisableTrig:
				case AT_DisableTrigAll:
				case AT_DisableTrigUser:
				case AT_EnableTrig:
				case AT_EnableReplicaTrig:
				case AT_EnableTrigAll:
				case AT_EnableTrigUser:
					if (list_member_oid(ec_attachment_tables(att->name), relid))
						break;	/* EcAttachment.suspended */
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
							 errdetail("Document \"%s\" follows it by a trigger.", att->name),
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
	foreach(lc, ec_affected_by_table(relid))
		names = lappend(names, pstrdup(((EcAttachment *) lfirst(lc))->name));
	foreach(lc, names)
	{
		EcAttachment *att = ec_attachment_by_name(lfirst(lc));

		if (att != NULL)
			ec_dependent_check_keys(att);
	}
}
