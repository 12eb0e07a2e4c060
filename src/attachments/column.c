/*-------------------------------------------------------------------------
 *
 * column.c
 *	  Columns that ids and owners are compared with: from text to value to JSON.
 *
 * A type that is not built in may be a domain, whose checks are code of the table's
 * owner: they run between ec_act_begin() and ec_act_end() only.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "attachments/column.h"
#include "attachments/configuration.h"
#include "read/act.h"

static void canonical_by_code(void *arg);
static char *cast(const char *operand, Oid type, const char *suffix);

/* The column's value of this text.  Throws what the type's input function throws. */
Datum
ec_column_datum(EcColumn *column, const char *text)
{
	return InputFunctionCall(&column->in, unconstify(char *, text), column->ioparam,
							 column->typmod);
}

/* What canonical_by_code() is asked for, and its answer. */
typedef struct Canonical
{
	EcAttachment *att;
	EcColumn   *column;
	const char *input;
	char	   *text;
} Canonical;

/* The column's own text, where a domain's check may be a user's code. */
static void
canonical_by_code(void *arg)
{
	Canonical  *canonical = arg;
	EcColumn   *column = canonical->column;
	EcActing	before;

	ec_act_begin(canonical->att, true, &before);
	canonical->text = OutputFunctionCall(&column->out, ec_column_datum(column, canonical->input));
	ec_act_end(&before);
}

/*
 * The text that the column's own type makes of this input, under the settings that
 * documents are rendered with.  Throws what the type's input function throws.  A type that is
 * not built in may be a domain, whose checks are the table owner's code; it leaves nothing
 * behind.
 */
char *
ec_column_canonical(EcAttachment *att, EcColumn *column, const char *input)
{
	Canonical	canonical = {att, column, input, NULL};
	int			nestlevel;

	if (column->type >= FirstNormalObjectId)
	{
		ec_act_contained(canonical_by_code, &canonical);
		return canonical.text;
	}
	nestlevel = column->plain ? 0 : ec_act_begin_output(att);
	canonical.text = OutputFunctionCall(&column->out, ec_column_datum(column, input));
	ec_act_end_output(nestlevel);
	return canonical.text;
}

/*
 * The member that row_to_json makes of this value of the column, such as "user_id":"...",
 * in the server encoding.  *len becomes its length, *namelen the length up to and with the
 * colon.  The caller has called ec_act_begin_output().
 */
char *
ec_column_member(EcColumn *column, Datum value, bool isnull, int *len, int *namelen)
{
	TupleDesc	desc = CreateTemplateTupleDesc(1);
	char	   *member;

	TupleDescInitEntry(desc, 1, NameStr(column->name), column->type, -1, 0);
	BlessTupleDesc(desc);
	member = TextDatumGetCString(DirectFunctionCall1(row_to_json,
													 HeapTupleGetDatum(heap_form_tuple(desc, &value,
																					   &isnull))));
	member++;					/* without the braces */
	*len = (int) strlen(member) - 1;
	member[*len] = '\0';
	for (*namelen = 1; member[*namelen] != '"'; (*namelen)++)
		if (member[*namelen] == '\\')
			(*namelen)++;
	*namelen += 2;
	return member;
}

/* The operand as a value of this type; as it is for a pseudo-type, which anything fits. */
static char *
cast(const char *operand, Oid type, const char *suffix)
{
	HeapTuple	tuple;
	Form_pg_type form;
	char	   *sql;

	if (get_typtype(type) == TYPTYPE_PSEUDO)
		return psprintf("(%s)", operand);
	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	form = (Form_pg_type) GETSTRUCT(tuple);
	/* not by format_type_be(): "character" would be one character */
	sql = psprintf("(%s::%s%s)", operand,
				   quote_qualified_identifier(get_namespace_name(form->typnamespace),
											  NameStr(form->typname)), suffix);
	ReleaseSysCache(tuple);
	return sql;
}

/*
 * SQL that compares two operands by this operator and no other: any says that the right one is
 * an array of which one element will do.  The operands are cast to what the operator takes.
 * Else whoever may create operators in the operator's schema could plant one of its name that
 * fits the column's type better, such as one for a domain.
 */
char *
ec_column_comparison(const char *left, Oid operator, const char *right, bool any)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	char	   *sql;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	sql = psprintf("%s OPERATOR(%s.%s) %s%s", cast(left, form->oprleft, ""),
				   quote_identifier(get_namespace_name(form->oprnamespace)),
				   NameStr(form->oprname), any ? "ANY " : "",
				   cast(right, form->oprright, any ? "[]" : ""));
	ReleaseSysCache(tuple);
	return sql;
}
