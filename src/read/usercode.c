/*-------------------------------------------------------------------------
 *
 * usercode.c
 *	  Does code of a user's run where a document is made?
 *
 * What is built in leaves nothing behind in a session, so making a document with nothing else
 * needs no subtransaction.  Most of that depends on a few variables of PostgreSQL's and on no
 * other setting, and then a commit need not set any.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"
#include "parser/parse_coerce.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "attachments/configuration.h"
#include "attachments/filter.h"
#include "attachments/typewalk.h"
#include "read/act.h"
#include "read/usercode.h"

static bool is_users(Oid function, void *arg);
static bool is_not_in_c(Oid function, void *arg);
static bool is_transparent(Node *node);
static bool contains(Node *node, void *arg);
static bool is_domain(Oid type, void *arg);
static bool makes_domains(Node *node, void *arg);
static bool is_cast_not_in_c(Oid type, void *arg);
static bool is_mutable(Oid function, void *arg);
static bool reads_settings(Node *node, void *arg);
static bool shows_settings(Oid type);
static void look(void *arg);

/* Is the function one that users have created? */
static bool
is_users(Oid function, void *arg)
{
	return function >= FirstNormalObjectId;
}

/* Is it one, and in a language in which anybody may write? */
static bool
is_not_in_c(Oid function, void *arg)
{
	HeapTuple	tuple;
	Oid			language;

	if (function < FirstNormalObjectId)
		return false;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		return true;
	language = ((Form_pg_proc) GETSTRUCT(tuple))->prolang;
	ReleaseSysCache(tuple);
	return language != INTERNALlanguageId && language != ClanguageId;
}

/*
 * A node whose code, if it runs any, is in the functions that check_functions_in_node() knows, or
 * is PostgreSQL's own.  (The comparisons of an array, a row or GREATEST are those of a class of
 * operators, which only a superuser creates.)  What is not listed here may call whatever it likes:
 * SQL/JSON does.
 */
static bool
is_transparent(Node *node)
{
	switch (nodeTag(node))
	{
		case T_ArrayCoerceExpr:
		case T_ArrayExpr:
		case T_BoolExpr:
		case T_BooleanTest:
		case T_CaseExpr:
		case T_CaseTestExpr:
		case T_CaseWhen:
		case T_CoalesceExpr:
		case T_CoerceViaIO:
		case T_CollateExpr:
		case T_Const:
		case T_DistinctExpr:
		case T_FieldSelect:
		case T_FuncExpr:
		case T_List:
		case T_MinMaxExpr:
		case T_NamedArgExpr:
		case T_NullIfExpr:
		case T_NullTest:
		case T_OpExpr:
		case T_RelabelType:
		case T_RowCompareExpr:
		case T_RowExpr:
		case T_ScalarArrayOpExpr:
		case T_SubscriptingRef:
		case T_Var:
			return true;
		default:
			return false;
	}
}

/* May the expression call a function that the checker, arg, says yes to? */
static bool
contains(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if (!is_transparent(node) ||
		check_functions_in_node(node, *(check_function_callback *) arg, NULL))
		return true;
	return expression_tree_walker(node, contains, arg);
}

static bool
is_domain(Oid type, void *arg)
{
	return get_typtype(type) == TYPTYPE_DOMAIN;
}

/* Does the expression, or parsing it, make values of a domain, whose checks run then? */
static bool
makes_domains(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if ((IsA(node, CoerceToDomain) || IsA(node, CoerceViaIO) || IsA(node, ArrayCoerceExpr) ||
		 IsA(node, ConvertRowtypeExpr) || IsA(node, RowExpr) || IsA(node, Const)) &&
		ec_typewalk_type(exprType(node), is_domain, NULL))
		return true;
	return expression_tree_walker(node, makes_domains, arg);
}

/* Does row_to_json() call such a function for this type?  It knows the built-in types itself. */
static bool
is_cast_not_in_c(Oid type, void *arg)
{
	Oid			function;

	return type >= FirstNormalObjectId &&
		find_coercion_pathway(JSONOID, type, COERCION_EXPLICIT, &function) ==
		COERCION_PATH_FUNC && is_not_in_c(function, NULL);
}

/* May the function's result depend on a setting?  Of what users have created nobody knows. */
static bool
is_mutable(Oid function, void *arg)
{
	return is_users(function, NULL) || func_volatile(function) != PROVOLATILE_IMMUTABLE;
}

/*
 * May what the expression comes to depend on a setting?  An immutable function's result does not,
 * but for those variables that ec_act_rendering() sets (float8out and byteaout pass for
 * immutable).  Of kinds of nodes only those are listed that are common in filters and call no
 * function but the one that check_functions_in_node() knows.
 */
static bool
reads_settings(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_BoolExpr:
		case T_BooleanTest:
		case T_CoalesceExpr:
		case T_Const:
		case T_DistinctExpr:
		case T_FuncExpr:
		case T_List:
		case T_NullTest:
		case T_OpExpr:
		case T_RelabelType:
		case T_ScalarArrayOpExpr:
		case T_Var:
			break;
		default:
			return true;
	}
	return check_functions_in_node(node, is_mutable, NULL) ||
		expression_tree_walker(node, reads_settings, arg);
}

/*
 * May the JSON of such a value depend on a setting, other than those variables?  That of an enum
 * is its label, unless there is a cast to json.
 */
static bool
shows_settings(Oid type)
{
	Oid			element;
	Oid			cast;

	type = getBaseType(type);
	element = get_element_type(type);
	if (OidIsValid(element))
		type = getBaseType(element);
	switch (type)
	{
		case BITOID:
		case BOOLOID:
		case BPCHAROID:
		case BYTEAOID:
		case CHAROID:
		case CIDROID:
		case DATEOID:
		case FLOAT4OID:
		case FLOAT8OID:
		case INETOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case INTERVALOID:
		case JSONBOID:
		case JSONOID:
		case NAMEOID:
		case NUMERICOID:
		case OIDOID:
		case TEXTOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case TIMETZOID:
		case UUIDOID:
		case VARBITOID:
		case VARCHAROID:
			return false;
		default:
			return get_typtype(type) != TYPTYPE_ENUM ||
				find_coercion_pathway(JSONOID, type, COERCION_EXPLICIT, &cast) ==
				COERCION_PATH_FUNC;
	}
}

/*
 * Look what makes a document of the attachment.  Locks the table, as making the document does.
 * Throws what the filter throws.
 */
static void
look(void *arg)
{
	EcAttachment *att = arg;
	check_function_callback users = is_users;
	check_function_callback not_in_c = is_not_in_c;
	Relation	rel;
	EcActing	before;
	int			attno = -1;

	/* the filter may name what is in a schema that the caller may not use, but the owner may */
	ec_act_begin(att, true, &before);
	rel = table_open(att->relid, AccessShareLock);
	att->runs_code = false;
	att->is_plain = true;
	att->by_variables = !shows_settings(att->key.type);
	if (att->filter)
	{
		Node	   *filter = (Node *) ec_filter_expr(att, rel);

		att->runs_code |= contains(filter, &users);
		att->is_plain &= !contains(filter, &not_in_c) && !makes_domains(filter, NULL);
		att->by_variables &= !reads_settings(filter, NULL);
	}
	while ((attno = bms_next_member(att->columns, attno)) >= 0)
	{
		Oid			type = get_atttype(att->relid, attno);

		att->runs_code |= type >= FirstNormalObjectId;
		att->is_plain &= !ec_typewalk_type(type, is_cast_not_in_c, NULL);
		att->by_variables &= !shows_settings(type);
	}
	att->code_known = true;
	table_close(rel, NoLock);
	ec_act_end(&before);
}

/*
 * May code of a user's run where a document is made: its function, one in the filter, a cast to
 * json?  At the attachment's first use it does and throws what look() does.
 */
bool
ec_usercode_runs(EcAttachment *att)
{
	if (!att->code_known)
		look(att);				/* also for the filter of a function's documents */
	return att->function_name != NULL || att->runs_code;
}

/*
 * Learn whether the document is plain, before a commit wants to know: made by PostgreSQL's own
 * functions, and such in C, which only a superuser creates.  What cannot be found out, for an
 * error or for a lock on the table that would have to be waited for, is not plain.  Throws
 * interrupts, and what is no fault of the filter's.
 */
void
ec_usercode_learn(EcAttachment *att)
{
	if (att->code_known || att->code_unknowable || att->function_name != NULL ||
		!ConditionalLockRelationOid(att->relid, AccessShareLock))
		return;
	att->code_unknowable = !ec_act_guarded(look, att);
	UnlockRelationOid(att->relid, AccessShareLock);
}

/* Is the document known to be plain?  Never throws. */
bool
ec_usercode_is_plain(const EcAttachment *att)
{
	return att->function_name == NULL && att->code_known && att->is_plain;
}
