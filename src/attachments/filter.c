/*-------------------------------------------------------------------------
 *
 * filter.c
 *	  The filter of an attachment: from SQL to an expression, and back.
 *
 * A stored filter is canonical: it is parsed and deparsed under settings of ours, so that
 * no setting of the session, its search_path above all, changes what it means.  Its names are
 * looked up once for each time that an attachment is loaded: from then on there is only the
 * expression.
 *
 * Nor does a function change the meaning that somebody creates later.  ruleutils writes out the
 * implicit casts of arguments, so most overloads fit worse than the function that is meant.
 * Where that is polymorphic, or has default arguments, another one can fit better, and a cast or
 * an operator can be made anew.  So the functions that the filter calls are stored, too, by their
 * names and arguments (which a dump keeps): an expression that calls others is never used.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parse_type.h"
#include "parser/parser.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/ruleutils.h"

#include "attachments/filter.h"
#include "attachments/trust.h"
#include "attachments/typewalk.h"
#include "read/act.h"

#define FILTER_QUERY	"SELECT "

static int	begin_canonical(void);
static void filter_error(void *arg);
static bool check_function(Oid function, void *relowner);
static void check_type(Oid type, Oid relowner);
static bool is_no_constant(Oid type, void *arg);
static void check_literal(Oid type);
static bool check_named_types(Node *node, void *relowner);
static bool check_functions(Node *node, void *relowner);
static bool add_call(Oid function, void *calls);
static bool add_calls(Node *node, void *calls);
static char *line(const char *text);
static void check_calls(Node *expr, const char *calls);
static Node *parse(Relation rel, const char *filter, bool canonical, const char *calls);

/*
 * Set what the text of a stored filter depends on: names and the text of constants, and syntax.
 * Returns the level for AtEOXact_GUC(), which an error calls by itself.
 */
static int
begin_canonical(void)
{
	int			nestlevel = NewGUCNestLevel();

	ec_act_set_output();
	ec_act_set("standard_conforming_strings", "on");
	ec_act_set("transform_null_equals", "off");
	return nestlevel;
}

/* Error context: the position of an error is one in the filter, not in the statement. */
static void
filter_error(void *arg)
{
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(Max(position - (int) strlen(FILTER_QUERY), 1));
		internalerrquery(arg);
	}
	errcontext("filter \"%s\"", (char *) arg);
}

/*
 * Throws 42501 if the function belongs to a role that may not act as the table's owner.  The
 * filter runs as that owner, and its text has functions by name: if one is renamed or dropped,
 * somebody else may put a function of that name in its place.
 */
static bool
check_function(Oid function, void *relowner)
{
	Oid			stranger = ec_trust_function(function, *(Oid *) relowner);

	if (OidIsValid(stranger))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("function %s cannot be used in the filter", format_procedure(function)),
				 errdetail("It belongs to role \"%s\", and would run as the table's owner.",
						   GetUserNameFromId(stranger, true)),
				 errhint("Functions in a filter belong to the table's owner or to a superuser.")));
	return false;
}

/* The same for a type of which the filter makes values, as the checks of a domain run then. */
static void
check_type(Oid type, Oid relowner)
{
	Oid			stranger = ec_trust_type(type, relowner);

	if (OidIsValid(stranger))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("type %s cannot be used in the filter", format_type_be(type)),
				 errdetail("It belongs to role \"%s\", or contains a type that does, and checks "
						   "of that role's would run as the table's owner.",
						   GetUserNameFromId(stranger, true)),
				 errhint("Types in a filter belong to the table's owner or to a superuser.")));
}

/*
 * A domain, whose checks run where its values are made of text; or a type whose text is the name of
 * a role or a schema, which another one may have some day.
 */
static bool
is_no_constant(Oid type, void *arg)
{
	return get_typtype(type) == TYPTYPE_DOMAIN || type == REGROLEOID || type == REGNAMESPACEOID;
}

/*
 * Throws 0A000 if the filter cannot have a literal of this type, since it contains such a type.
 * (The checks of a domain itself do not run when a literal is parsed.)
 */
static void
check_literal(Oid type)
{
	if (ec_typewalk_type(getBaseType(type), is_no_constant, NULL))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the filter cannot have a constant of type %s", format_type_be(type)),
				 errdetail("It contains a domain, whose checks would run wherever the filter is "
						   "read, or names a role or a schema."),
				 errhint("Make the value of its parts, by ARRAY[...] or ROW(...); compare roles "
						 "and schemas by OID.")));
}

/*
 * Check the types that the text names.  Parsing makes values of its literals; a stored filter
 * says the type of each.
 */
static bool
check_named_types(Node *node, void *relowner)
{
	if (node == NULL)
		return false;
	if (IsA(node, TypeCast) && IsA(((TypeCast *) node)->arg, A_Const))
	{
		Oid			type = LookupTypeNameOid(NULL, ((TypeCast *) node)->typeName, true);

		if (OidIsValid(type))
		{
			check_type(type, *(Oid *) relowner);
			if (!((A_Const *) ((TypeCast *) node)->arg)->isnull)
				check_literal(type);
		}
	}
	if (IsA(node, TypeName))
	{
		Oid			type = LookupTypeNameOid(NULL, (TypeName *) node, true);

		if (OidIsValid(type))
			check_type(type, *(Oid *) relowner);
		return false;
	}
	return raw_expression_tree_walker(node, check_named_types, relowner);
}

/* Check all functions in the expression, those of operators and casts too, and all types. */
static bool
check_functions(Node *node, void *relowner)
{
	if (node == NULL)
		return false;
	if (IsA(node, CoerceToDomain) || IsA(node, CoerceViaIO) || IsA(node, ArrayCoerceExpr) ||
		IsA(node, ConvertRowtypeExpr) || IsA(node, RowExpr) || IsA(node, Const))
		check_type(exprType(node), *(Oid *) relowner);
	if (IsA(node, Const) && !((Const *) node)->constisnull)
		check_literal(exprType(node));
	(void) check_functions_in_node(node, check_function, relowner);
	return expression_tree_walker(node, check_functions, relowner);
}

/* Add the function to the list, unless it is PostgreSQL's own. */
static bool
add_call(Oid function, void *calls)
{
	if (function >= FirstNormalObjectId)
		appendStringInfo(calls, "%s\n", format_procedure_qualified(function));
	return false;
}

static bool
add_calls(Node *node, void *calls)
{
	if (node == NULL)
		return false;
	(void) check_functions_in_node(node, add_call, calls);
	return expression_tree_walker(node, add_calls, calls);
}

/*
 * The functions of users' that the expression calls, those of operators and casts too: each with
 * its schema and arguments on a line of its own, as often as it is called, in the order of the
 * expression.  The text depends on no setting.
 */
char *
ec_filter_calls(Node *expr)
{
	StringInfoData calls;

	initStringInfo(&calls);
	(void) add_calls(expr, &calls);
	return calls.data;
}

/* The first of these functions, for people to read. */
static char *
line(const char *text)
{
	return *text ? pnstrdup(text, strcspn(text, "\n")) : pstrdup("a built-in function");
}

/*
 * Throws 42725 unless the expression calls these functions, see ec_filter_calls(), and no others.
 * Where it does not, the names in its text mean something else than when the table was attached.
 */
static void
check_calls(Node *expr, const char *calls)
{
	const char *now = ec_filter_calls(expr);

	while (*now && strncmp(now, calls, strcspn(now, "\n") + 1) == 0)
	{
		calls += strcspn(now, "\n") + 1;
		now += strcspn(now, "\n") + 1;
	}
	if (*now || *calls)
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_FUNCTION),
				 errmsg("the filter would call %s in place of %s", line(now), line(calls)),
				 errdetail("It was attached with the latter, but its text means the former by "
						   "now."),
				 errhint("Drop or rename the former, or what has it called, such as a cast. To "
						 "have it used, detach the document and attach its table again.")));
}

/*
 * ec_filter_parse(); and throws 42725 if calls is not NULL, and the expression calls others than
 * these functions.
 */
static Node *
parse(Relation rel, const char *filter, bool canonical, const char *calls)
{
	int			nestlevel = canonical ? begin_canonical() : 0;
	ParseState *pstate = make_parsestate(NULL);
	ErrorContextCallback context = {error_context_stack, filter_error,
	unconstify(char *, filter)};
	List	   *parsed;
	SelectStmt *select = NULL;
	ResTarget  *target;
	Node	   *expr;

	Assert(CheckRelationLockedByMe(rel, AccessShareLock, true));
	error_context_stack = &context;
	parsed = raw_parser(psprintf(FILTER_QUERY "%s", filter), RAW_PARSE_DEFAULT);
	if (list_length(parsed) == 1)
		select = (SelectStmt *) linitial_node(RawStmt, parsed)->stmt;
	if (select == NULL || !IsA(select, SelectStmt) || list_length(select->targetList) != 1 ||
		select->fromClause || select->whereClause || select->groupClause ||
		select->havingClause || select->windowClause || select->valuesLists ||
		select->sortClause || select->limitCount || select->limitOffset ||
		select->lockingClause || select->withClause || select->distinctClause ||
		select->intoClause || select->op != SETOP_NONE ||
		(target = linitial_node(ResTarget, select->targetList))->name != NULL ||
		(IsA(target->val, ColumnRef) &&
		 IsA(llast(((ColumnRef *) target->val)->fields), A_Star)))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the filter is not one SQL expression"),
				 errhint("Write a condition over the row's columns, such as 'NOT is_deleted'.")));
	(void) check_named_types(target->val, &rel->rd_rel->relowner);
	addNSItemToQuery(pstate, addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL,
														   false, true),
					 false, true, true);
	pstate->p_sourcetext = filter;
	expr = transformWhereClause(pstate, target->val, EXPR_KIND_CHECK_CONSTRAINT, "filter");
	assign_expr_collations(pstate, expr);
	if (calls != NULL)
		check_calls(expr, calls);
	(void) check_functions(expr, &rel->rd_rel->relowner);
	free_parsestate(pstate);
	error_context_stack = context.previous;
	if (nestlevel > 0)
		AtEOXact_GUC(true, nestlevel);
	return expr;
}

/*
 * The filter as an expression over the row.  Throws unless it is one boolean expression whose
 * functions may run as the table's owner.  Runs none of these, nor any other code of a user's,
 * if the text is canonical.  canonical: ec_filter_deparse() has made the text;
 * else names in it are found by the caller's search_path.  The relation is open and locked.
 */
Node *
ec_filter_parse(Relation rel, const char *filter, bool canonical)
{
	return parse(rel, filter, canonical, NULL);
}

/*
 * Has the attachment a filter that may use users' objects?  A stored filter in which no name is
 * qualified has built-in ones only, but for its columns and what their types are cast by.
 */
bool
ec_filter_has_names(const EcAttachment *att)
{
	return att->filter != NULL &&
		(strchr(att->filter, '.') != NULL || att->filter_calls[0] != '\0');
}

/*
 * The stored filter as an expression; NULL: there is none.  It is made at first use and kept
 * with the attachment.  Whose code it runs is checked each time.  The relation is the attached
 * table, open and locked.  Throws as ec_filter_parse() does, 42725 if the text means other
 * functions than those that were attached, and 42883 if a function is gone.
 */
Expr *
ec_filter_expr(EcAttachment *att, Relation rel)
{
	Assert(RelationGetRelid(rel) == att->relid);
	if (att->filter_expr != NULL)
		(void) check_functions((Node *) att->filter_expr, &rel->rd_rel->relowner);
	else if (att->filter != NULL)
	{
		char	   *tree = nodeToString(parse(rel, att->filter, true, att->filter_calls));
		MemoryContext old = MemoryContextSwitchTo(att->context);

		/* so it has no positions: whoever shows the query would take them for those in its text */
		att->filter_expr = (Expr *) stringToNode(tree);
		MemoryContextSwitchTo(old);
		pfree(tree);
	}
	return att->filter_expr;
}

/* The same, as the table's owner; takes this lock on the table, waiting, if it is not NoLock. */
Expr *
ec_filter_as_owner(EcAttachment *att, LOCKMODE lockmode)
{
	Relation	rel;
	Expr	   *expr;
	EcActing	before;

	ec_act_begin(att, true, &before);
	rel = table_open(att->relid, lockmode);
	expr = ec_filter_expr(att, rel);
	table_close(rel, NoLock);
	ec_act_end(&before);
	return expr;
}

/*
 * The stored filter as an expression, made of its text as the owner whatever functions this means
 * by now.  NULL: there is none.  Locks the attached table in AccessShareLock, waiting, to the end
 * of the transaction.  Throws as ec_filter_parse() does.
 */
Node *
ec_filter_reread(EcAttachment *att)
{
	Relation	rel;
	Node	   *expr;
	EcActing	before;

	if (att->filter == NULL)
		return NULL;
	ec_act_begin(att, true, &before);
	rel = table_open(att->relid, AccessShareLock);
	expr = ec_filter_parse(rel, att->filter, true);
	table_close(rel, NoLock);
	ec_act_end(&before);
	return expr;
}

/* The expression as SQL, with every name qualified.  ec_filter_parse() reads it again. */
char *
ec_filter_deparse(Oid relid, Node *expr)
{
	int			nestlevel = begin_canonical();
	char	   *filter;

	filter = deparse_expression(expr, deparse_context_for(get_rel_name(relid), relid),
								false, false);
	AtEOXact_GUC(true, nestlevel);
	return filter;
}
