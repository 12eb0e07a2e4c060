/*-------------------------------------------------------------------------
 *
 * ddl.c
 *	  What DDL statements do to attached tables.
 *
 * A change of an attached table's definition changes all of its documents: they are
 * invalidated at that commit, as by TRUNCATE.  DDL holds the table exclusively, and the
 * commit the attachment lock, so nobody stores a document of the old shape meanwhile.
 *
 * What would leave an attachment without what it needs is refused before the command.  Of
 * what the command has done object.c is told by PostgreSQL, object by object; rename.c
 * follows names, vacate.c is about databases.  Where a trigger of ours does not fire the
 * attachment is not cached for as long as that lasts (EcAttachment.suspended).
 *
 * A statement's table is found and locked once, before the command, in the way in which
 * PostgreSQL does: it checks permission first.  From then on only its OID is used, and the
 * command is given the table's schema, so that it cannot find another one of that name.
 *
 * Nothing here does anything in a database without the extension, but for vacate.c.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "commands/extension.h"
#include "commands/tablecmds.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"

#include "attachments/affected.h"
#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/changed.h"
#include "attachments/command.h"
#include "attachments/configuration.h"
#include "attachments/ddl.h"
#include "attachments/depend.h"
#include "attachments/dependent.h"
#include "attachments/inherit.h"
#include "attachments/object.h"
#include "attachments/rename.h"
#include "attachments/storage.h"
#include "attachments/triggers.h"
#include "attachments/vacate.h"

/* What is known of a statement before its command is carried out. */
typedef struct Before
{
	PlannedStmt *pstmt;			/* the statement, or a copy of it with more in it */
	bool		present;		/* the extension was there */
	Oid			relid;			/* the table that it alters, locked; InvalidOid: none of interest */
	List	   *renames;		/* see rename.h */
	List	   *noted;
	List	   *retyped;
	Oid			altered;		/* the table of any ALTER TABLE, locked */
	List	   *parents;		/* OIDs: the tables that it inherits from */
} Before;

static ProcessUtility_hook_type prev_process_utility_hook = NULL;

static void process_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
							ProcessUtilityContext context, ParamListInfo params,
							QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc);
static void carry_out(Before *before, const char *queryString, bool readOnlyTree,
					  ProcessUtilityContext context, ParamListInfo params,
					  QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc);
static void before_command(Before *before);
static void after_command(const Before *before, const EcCommand *command, Node *stmt);
static bool creates_row_trigger(Node *stmt);
static void after_alter(const Before *before, Node *stmt);
static PlannedStmt *qualified(PlannedStmt *pstmt, Oid relid);
static void check_own(void);
static void check_alter(AlterTableStmt *stmt, Oid relid);
static void check_keys(Oid relid);
static bool detaches_concurrently(AlterTableStmt *stmt);
static bool changes_type(AlterTableStmt *stmt);
static bool enables_triggers(AlterTableStmt *stmt);
static void inherited(const Before *before, const EcCommand *command, Node *stmt);
static void warn_suspended(List *relids);

/* Once, from _PG_init. */
void
ec_ddl_init(void)
{
	ec_storage_init();
	prev_process_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}

/*
 * Hook: carry out a utility command, and see to the attachments before and after it.  What has
 * kept a worker away for the command's sake ends with the command, also after an error.
 */
static void
process_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	Before		before = {pstmt};
	EcCommand	command;

	ec_command_begin(&command);
	PG_TRY();
	{
		carry_out(&before, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
	}
	PG_FINALLY();
	{
		ec_command_end(&command);
		if (command.vacated)
			ec_vacate_end();
	}
	PG_END_TRY();
	if (command.own)
		CommandCounterIncrement();
	if (ec_catalog_is_present())
		after_command(&before, &command, stmt);
	else if (before.present)
		check_own();
}

/* What process_utility() does between the beginning of the command and its end. */
static pg_noinline void
carry_out(Before *before, const char *queryString, bool readOnlyTree,
		  ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *queryEnv,
		  DestReceiver *dest, QueryCompletion *qc)
{
	ec_vacate_for_statement(before->pstmt->utilityStmt, context == PROCESS_UTILITY_TOPLEVEL);
	/* what is read-only the command will say; nor does a standby lock as DDL does */
	before->present = ec_catalog_is_present();
	if (before->present && !XactReadOnly && !RecoveryInProgress())
		before_command(before);
	if (prev_process_utility_hook)
		prev_process_utility_hook(before->pstmt, queryString, readOnlyTree, context, params,
								  queryEnv, dest, qc);
	else
		standard_ProcessUtility(before->pstmt, queryString, readOnlyTree, context, params,
								queryEnv, dest, qc);
}

/*
 * Refuse what must not be, and find out what is not to be found out afterwards.  May replace
 * the statement by a copy of it.
 */
static void
before_command(Before *before)
{
	Node	   *stmt = before->pstmt->utilityStmt;

	if (!IsA(stmt, AlterTableStmt) && !IsA(stmt, RenameStmt) &&
		!IsA(stmt, AlterObjectSchemaStmt) && !IsA(stmt, AlterEnumStmt))
		return;
	/* triggers of our own tables are put right also while nothing is attached */
	if (ec_attachment_all() == NIL &&
		!(IsA(stmt, AlterTableStmt) && enables_triggers((AlterTableStmt *) stmt)))
		return;
	/* before any table is locked */
	before->noted = ec_rename_note(stmt);
	if (IsA(stmt, AlterTableStmt))
	{
		AlterTableStmt *alter = (AlterTableStmt *) stmt;
		Oid			relid = AlterTableLookupRelation(alter, AlterTableGetLockLevel(alter->cmds));

		if (!OidIsValid(relid))
			return;
		before->pstmt = qualified(before->pstmt, relid);
		before->altered = relid;
		before->parents = ec_inherit_parents(relid);
		if (ec_affected_by_table(relid) == NIL)
			return;
		before->relid = relid;
		check_alter(alter, relid);
		if (changes_type(alter))
			before->retyped = ec_rename_note_types(relid);
		/* the command commits on the way: that transaction hides the partition's rows */
		if (detaches_concurrently(alter))
			ec_changed_relation(relid);
	}
	else if (IsA(stmt, RenameStmt) && (((RenameStmt *) stmt)->renameType == OBJECT_COLUMN ||
									   ((RenameStmt *) stmt)->renameType == OBJECT_ATTRIBUTE))
	{
		Oid			relid = ec_rename_lock((RenameStmt *) stmt);

		if (!OidIsValid(relid))
			return;
		before->pstmt = qualified(before->pstmt, relid);
		before->renames = ec_rename_begin_column(relid, before->noted);
		if (ec_affected_by_table(relid) != NIL)
			before->relid = relid;
	}
}

/* The command has been carried out.  The extension is there, and perhaps was not before. */
static void
after_command(const Before *before, const EcCommand *command, Node *stmt)
{
	ListCell   *lc;

	if (IsA(stmt, AlterEnumStmt) && ((AlterEnumStmt *) stmt)->oldVal != NULL)
		foreach(lc, command->types)
			ec_changed_type(lfirst_oid(lc));
	if (IsA(stmt, RenameStmt) || IsA(stmt, AlterObjectSchemaStmt))
		ec_changed_names();
	ec_rename_follow(before->noted);
	inherited(before, command, stmt);
	if (command->triggered != NIL)
		CommandCounterIncrement();
	if (command->untriggered != NIL &&
		!(IsA(stmt, DropStmt) && ((DropStmt *) stmt)->removeType == OBJECT_TRIGGER))
		ec_object_detach_untriggered(command->untriggered);
	if (creates_row_trigger(stmt))
		ec_depend_record_at_commit(false);
	ec_object_drop_leftovers();
	if (OidIsValid(before->relid))
		after_alter(before, stmt);
	else if (IsA(stmt, AlterTableStmt) && OidIsValid(before->altered) &&
			 ec_catalog_is_own(before->altered) && enables_triggers((AlterTableStmt *) stmt))
	{
		CommandCounterIncrement();
		ec_triggers_enable(before->altered);
	}
	warn_suspended(list_difference_oid(command->triggered, list_make1_oid(before->relid)));
	if (IsA(stmt, TransactionStmt) &&
		(((TransactionStmt *) stmt)->kind == TRANS_STMT_COMMIT_PREPARED ||
		 ((TransactionStmt *) stmt)->kind == TRANS_STMT_ROLLBACK_PREPARED))
	{
		ec_attachment_free_slots();
		ec_depend_record_at_commit(false);
	}
}

/* Does the statement create the trigger of an attachment, as a restore does? */
static bool
creates_row_trigger(Node *stmt)
{
	return IsA(stmt, CreateTrigStmt) &&
		strcmp(strVal(llast(((CreateTrigStmt *) stmt)->funcname)), "echocache_row_trigger") == 0;
}

/* The table has been altered: its documents change, and its columns must still do. */
static void
after_alter(const Before *before, Node *stmt)
{
	if (before->renames)
		ec_rename_follow_column(before->renames, (RenameStmt *) stmt);
	if (IsA(stmt, AlterTableStmt))
	{
		check_keys(before->relid);	/* makes visible what the command did */
		if (changes_type((AlterTableStmt *) stmt))
		{
			ec_rename_follow_types(before->retyped);
			ec_depend_record_at_commit(true);	/* the filter may use another function by now */
		}
		if (enables_triggers((AlterTableStmt *) stmt))
			ec_triggers_enable(before->relid);
	}
	ec_changed_relation(before->relid);
	warn_suspended(list_make1_oid(before->relid));
}

/* A copy of the statement that names the schema of its table, unless it does so already. */
static PlannedStmt *
qualified(PlannedStmt *pstmt, Oid relid)
{
	RangeVar   *relation;
	char	   *schema = get_namespace_name(get_rel_namespace(relid));

	pstmt = copyObject(pstmt);
	relation = IsA(pstmt->utilityStmt, RenameStmt) ?
		((RenameStmt *) pstmt->utilityStmt)->relation :
		((AlterTableStmt *) pstmt->utilityStmt)->relation;
	if (relation->schemaname == NULL)
		relation->schemaname = schema;
	return pstmt;
}

/*
 * The command has made the extension's tables other than the code knows them, or taken them
 * out of the extension?  Then it fails: without them no change would be seen any more.  But
 * they may go together with the extension.  It also fails if it is an ALTER EXTENSION UPDATE to
 * a version that this library cannot use.
 */
static void
check_own(void)
{
	if (IsTransactionState() && !creating_extension &&
		OidIsValid(get_extension_oid("echocache", true)))
	{
		ec_catalog_report_version(ERROR);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot change or rename what belongs to extension \"echocache\""),
				 errhint("Use DROP EXTENSION or ALTER EXTENSION UPDATE.")));
	}
}

/* Refuse what would leave an attachment without what it needs. */
static void
check_alter(AlterTableStmt *stmt, Oid relid)
{
	ListCell   *lc;

	Assert(ec_catalog_is_present());
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
				default:
					break;
			}
		}
	}
}

/* Do the dependent tables still have the attachments' keys, in columns of such a type? */
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

		/* an attachment that is gone by now needs nothing */
		if (att != NULL)
			ec_dependent_check_keys(att);
	}
}

/* ALTER TABLE ... DETACH PARTITION ... CONCURRENTLY? */
static bool
detaches_concurrently(AlterTableStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_DetachPartition &&
			castNode(PartitionCmd, cmd->def)->concurrent)
			return true;
	}
	return false;
}

/* ALTER TABLE ... ALTER COLUMN ... TYPE? */
static bool
changes_type(AlterTableStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
		if (lfirst_node(AlterTableCmd, lc)->subtype == AT_AlterColumnType)
			return true;
	return false;
}

/* ALTER TABLE ... ENABLE TRIGGER ALL or USER? */
static bool
enables_triggers(AlterTableStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_EnableTrigAll || cmd->subtype == AT_EnableTrigUser)
			return true;
	}
	return false;
}

/*
 * A table begins or ceases to inherit from a dependent table: a document's function sees its
 * rows, the trigger on the dependent table does not.
 */
static void
inherited(const Before *before, const EcCommand *command, Node *stmt)
{
	List	   *parents = NIL;
	List	   *concerned = NIL;
	ListCell   *lc;

	if (!(IsA(stmt, CreateStmt) && ((CreateStmt *) stmt)->inhRelations != NIL &&
		  ((CreateStmt *) stmt)->partbound == NULL) && !IsA(stmt, AlterTableStmt))
		return;
	CommandCounterIncrement();
	foreach(lc, command->created)
		parents = list_concat_unique_oid(parents, ec_inherit_parents(lfirst_oid(lc)));
	if (OidIsValid(before->altered))
	{
		List	   *now = ec_inherit_parents(before->altered);

		parents = list_concat_unique_oid(parents, list_difference_oid(now, before->parents));
		parents = list_concat_unique_oid(parents, list_difference_oid(before->parents, now));
	}
	foreach(lc, parents)
	{
		Oid			relid = lfirst_oid(lc);
		bool		dependent = false;
		ListCell   *ld;

		foreach(ld, ec_affected_by_table(relid))
			dependent |= (ec_affected_role(lfirst(ld), relid) & EC_ROLE_DEPENDENT) != 0;
		if (!dependent)
			continue;
		ec_changed_relation(relid);
		concerned = lappend_oid(concerned, relid);
	}
	warn_suspended(concerned);
}

/* Warn of each attachment that is not cached since a trigger on one of these does not fire. */
static void
warn_suspended(List *relids)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, relids)
	{
		ListCell   *la;

		foreach(la, ec_affected_by_table(lfirst_oid(lc)))
			if (ec_affected_role(lfirst(la), lfirst_oid(lc)) != 0)
				names = lappend(names, makeString(pstrdup(((EcAttachment *) lfirst(la))->name)));
	}
	foreach(lc, list_union(NIL, names))
	{
		EcAttachment *att = ec_attachment_by_name(strVal(lfirst(lc)));

		if (att != NULL && att->slot != NULL && att->suspended)
			ereport(WARNING_CLIENT_ONLY,
					(errmsg("document \"%s\" is not cached while its triggers do not fire",
							att->name),
					 errhint("Enable them with ALTER TABLE ... ENABLE ALWAYS TRIGGER, or detach "
							 "the table and attach it again.")));
	}
}
