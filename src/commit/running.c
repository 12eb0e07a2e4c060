/*-------------------------------------------------------------------------
 *
 * running.c
 *	  Statements under way that change rows whose triggers have not fired yet.
 *
 * Our row triggers note which documents a transaction changes, and a read of such a document
 * goes to the table.  But PostgreSQL queues the events of AFTER triggers and fires them when
 * the statement has changed all of its rows, in order of the triggers' names.  Until ours has
 * fired for a row, SQL sees the new row and nothing is noted.  Code that runs in between, and
 * reads documents, must not get the old ones: a trigger of the user's, a function in RETURNING
 * or beside a data-modifying CTE.
 *
 * So while a statement that changes rows is under way, PostgreSQL is asked whether events are
 * pending for the attached table or for one that its documents are made of.  The hooks below
 * only find out whether such a statement is under way.  Without that the question would be
 * asked after the statement, too, where deferred constraints may have left a long queue.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "replication/logicalworker.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "commit/running.h"
#include "compat.h"

/*
 * A statement under way that changes rows.  Each is on the stack of the hook that runs it, and
 * is taken off the list however the statement ends.
 */
typedef struct Running
{
	struct Running *outer;		/* the statement within which it runs */
	Oid			relid;			/* the attachment that was asked about last, by its table, */
	List	   *tables;			/* and the tables of its documents, in TopTransactionContext */
	Oid			changed;		/* of the outermost: the attachment last found to have changed */
} Running;

static Running *running = NULL;

static ExecutorRun_hook_type prev_executor_run = NULL;
static ExecutorFinish_hook_type prev_executor_finish = NULL;
static ProcessUtility_hook_type prev_process_utility = NULL;

static bool changes_rows(QueryDesc *query);
static void leave(Running *this);
static void run_next(QueryDesc *query, ec_compat_executor_run_args);
static void executor_run(QueryDesc *query, ec_compat_executor_run_args);
static void finish_next(QueryDesc *query);
static void executor_finish(QueryDesc *query);
static void utility_next(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
						 ProcessUtilityContext context, ParamListInfo params,
						 QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc);
static void process_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
							ProcessUtilityContext context, ParamListInfo params,
							QueryEnvironment *queryEnv, DestReceiver *dest,
							QueryCompletion *qc);
static List *add_family(List *tables, Oid relid);
static List *tables_of(EcAttachment *att);

/* Install the hooks: once, from _PG_init. */
void
ec_running_init(void)
{
	prev_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = executor_run;
	prev_executor_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = executor_finish;
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}

/* ---------------------------------------------------------------- hooks */

static bool
changes_rows(QueryDesc *query)
{
	return query->operation != CMD_SELECT || query->plannedstmt->hasModifyingCTE;
}

/* The statement is over, or has failed. */
static void
leave(Running *this)
{
	running = this->outer;
	list_free(this->tables);
}

static void
run_next(QueryDesc *query, ec_compat_executor_run_args)
{
	if (prev_executor_run)
		prev_executor_run(query, ec_compat_executor_run_values);
	else
		standard_ExecutorRun(query, ec_compat_executor_run_values);
}

/* The rows of a statement are changed, and the events of their triggers are queued. */
static void
executor_run(QueryDesc *query, ec_compat_executor_run_args)
{
	Running		this = {.outer = running};

	if (!changes_rows(query))
	{
		run_next(query, ec_compat_executor_run_values);
		return;
	}
	running = &this;
	PG_TRY();
	{
		run_next(query, ec_compat_executor_run_values);
	}
	PG_FINALLY();
	{
		leave(&this);
	}
	PG_END_TRY();
}

static void
finish_next(QueryDesc *query)
{
	if (prev_executor_finish)
		prev_executor_finish(query);
	else
		standard_ExecutorFinish(query);
}

/* The AFTER triggers of a statement fire. */
static void
executor_finish(QueryDesc *query)
{
	Running		this = {.outer = running};

	if (!changes_rows(query))
	{
		finish_next(query);
		return;
	}
	running = &this;
	PG_TRY();
	{
		finish_next(query);
	}
	PG_FINALLY();
	{
		leave(&this);
	}
	PG_END_TRY();
}

static void
utility_next(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
			 ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *queryEnv,
			 DestReceiver *dest, QueryCompletion *qc)
{
	if (prev_process_utility)
		prev_process_utility(pstmt, queryString, readOnlyTree, context, params, queryEnv,
							 dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context, params, queryEnv,
								dest, qc);
}

/* COPY FROM changes rows, and fires their triggers, without the executor. */
static void
process_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	Running		this = {.outer = running};

	if (!IsA(pstmt->utilityStmt, CopyStmt) || !((CopyStmt *) pstmt->utilityStmt)->is_from)
	{
		utility_next(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
		return;
	}
	running = &this;
	PG_TRY();
	{
		utility_next(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
	}
	PG_FINALLY();
	{
		leave(&this);
	}
	PG_END_TRY();
}

/* ---------------------------------------------------------------- the question */

/* A table and its partitions: events are queued for the partition that a row is in. */
static List *
add_family(List *tables, Oid relid)
{
	if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
		return list_concat(tables, find_all_inheritors(relid, NoLock, NULL));
	return lappend_oid(tables, relid);
}

/* The tables that documents of the attachment are made of, as far as we know them. */
static List *
tables_of(EcAttachment *att)
{
	List	   *tables = add_family(NIL, att->relid);
	ListCell   *lc;

	foreach(lc, att->dependents)
		tables = add_family(tables, ((EcDependent *) lfirst(lc))->relid);
	return tables;
}

/*
 * Has a statement under way changed rows that documents of the attachment are made of, so that
 * our triggers are still to fire?  Once it has, the answer stays to the end of the outermost
 * statement: to ask for each of many rows would take time that grows with their square.
 * Throws out of memory.  Takes no lock.
 */
bool
ec_running_changes(EcAttachment *att)
{
	Running		alone = {0};	/* an apply worker has no statements */
	Running    *this = running ? running : &alone;
	Running    *outermost = this;
	ListCell   *lc;

	if ((running == NULL && !IsLogicalWorker()) ||
		!TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return false;
	while (outermost->outer)
		outermost = outermost->outer;
	if (outermost->changed == att->relid)
		return true;
	if (this->relid != att->relid)
	{
		MemoryContext old = CurrentMemoryContext;
		List	   *tables;

		if (running)
			MemoryContextSwitchTo(TopTransactionContext);
		tables = tables_of(att);
		MemoryContextSwitchTo(old);
		list_free(this->tables);
		this->tables = tables;
		this->relid = att->relid;
	}
	foreach(lc, this->tables)
	{
		if (!AfterTriggerPendingOnRel(lfirst_oid(lc)))
			continue;
		outermost->changed = att->relid;
		return true;
	}
	return false;
}
