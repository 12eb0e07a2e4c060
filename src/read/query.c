/*-------------------------------------------------------------------------
 *
 * query.c
 *	  Queries of ours on an attached table, which have its filter as an expression.
 *
 * A query is text, and PostgreSQL analyzes it anew whenever something that it uses has changed,
 * at any moment before it is carried out.  Names in it then mean what they mean at that moment:
 * somebody else's function, perhaps, that has just taken the place of one that is gone.  So the
 * filter's text is no part of the query.  It has $0 in its place, for which a hook of the parser
 * hands out the expression that was made when the attachment was loaded, and checks it.  The
 * same hook sees whether the table, which is the first of the query's FROM clause and by then
 * locked, is still the attached one.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/params.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "utils/lsyscache.h"

#include "attachments/filter.h"
#include "read/query.h"

static bool mark_columns(Node *node, void *pstate);
static Node *filter(EcAttachment *att, ParseState *pstate);
static Node *param_ref(ParseState *pstate, ParamRef *ref);
static void setup(ParseState *pstate, void *query);

/* The expression's columns are read: whoever runs the query needs the right to. */
static bool
mark_columns(Node *node, void *pstate)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
		markVarForSelectPriv(pstate, (Var *) node);
	return expression_tree_walker(node, mark_columns, pstate);
}

/* What $0 stands for; without a filter every row passes.  Throws if the table is another one. */
static Node *
filter(EcAttachment *att, ParseState *pstate)
{
	RangeTblEntry *first = linitial(pstate->p_rtable);
	Relation	rel;
	Node	   *expr;

	if (first->relid != att->relid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the table of document \"%s\" was renamed meanwhile", att->name),
				 errhint("Try again.")));
	if (att->filter == NULL)
		return makeBoolConst(true, false);
	rel = table_open(att->relid, NoLock);
	expr = copyObject((Node *) ec_filter_expr(att, rel));
	table_close(rel, NoLock);
	(void) mark_columns(expr, pstate);
	return expr;
}

/* Hook of the parser: what a $n stands for. */
static Node *
param_ref(ParseState *pstate, ParamRef *ref)
{
	EcQuery    *query = pstate->p_ref_hook_state;
	Param	   *param;

	if (ref->number == 0)
		return filter(query->att, pstate);
	Assert(ref->number <= query->nargs);
	param = makeNode(Param);
	param->paramkind = PARAM_EXTERN;
	param->paramid = ref->number;
	param->paramtype = query->argtypes[ref->number - 1];
	param->paramtypmod = -1;
	param->paramcollid = get_typcollation(param->paramtype);
	param->location = ref->location;
	return (Node *) param;
}

static void
setup(ParseState *pstate, void *query)
{
	pstate->p_paramref_hook = param_ref;
	pstate->p_ref_hook_state = query;
}

/*
 * Prepare a query, in which $0 is the attachment's filter.  SPI is connected; without
 * SPI_keepplan() the plan is gone when it is not any more.  The attachment, and what query
 * points to, live as long as the plan.  Throws what parsing the query throws.
 */
void
ec_query_prepare(EcQuery *query, EcAttachment *att, const char *sql, int nargs,
				 const Oid *argtypes, int cursor_options)
{
	Assert(nargs <= EC_QUERY_ARGS);
	query->att = att;
	query->nargs = nargs;
	for (int i = 0; i < nargs; i++)
		query->argtypes[i] = argtypes[i];
	query->plan = SPI_prepare_params(sql, setup, query, cursor_options);
	if (query->plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
}

/* Free the plan, if there is one. */
void
ec_query_free(EcQuery *query)
{
	if (query->plan != NULL)
		(void) SPI_freeplan(query->plan);
	query->plan = NULL;
}

/*
 * Run a query; nulls is NULL or as SPI_execute_plan() has it, and count the rows that are
 * wanted, 0: all.  SPI is connected, and a snapshot active.  Returns how many rows there are, in
 * SPI_tuptable.  Throws what the query throws.
 */
uint64
ec_query_run(EcQuery *query, const Datum *values, const char *nulls, long count)
{
	ParamListInfo params = makeParamList(query->nargs);

	for (int i = 0; i < query->nargs; i++)
	{
		params->params[i].value = values[i];
		params->params[i].isnull = nulls != NULL && nulls[i] == 'n';
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].ptype = query->argtypes[i];
	}
	if (SPI_execute_plan_with_paramlist(query->plan, params, true, count) != SPI_OK_SELECT)
		elog(ERROR, "could not read the table of document \"%s\"", query->att->name);
	if (params)
		pfree(params);
	return SPI_processed;
}
