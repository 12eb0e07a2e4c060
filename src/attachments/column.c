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
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "attachments/column.h"
#include "attachments/configuration.h"
#include "read/act.h"

/* The column's value of this text.  Throws what the type's input function throws. */
Datum
ec_column_datum(EcColumn *column, const char *text)
{
	return InputFunctionCall(&column->in, unconstify(char *, text), column->ioparam,
							 column->typmod);
}

/*
 * The text that the column's own type makes of this input, under the settings that
 * documents are rendered with.  Throws what the type's input function throws.
 */
char *
ec_column_canonical(EcAttachment *att, EcColumn *column, const char *input)
{
	bool		built_in = column->type < FirstNormalObjectId;
	int			nestlevel = built_in && !column->plain ? ec_act_begin_output(att) : 0;
	EcActing	before;
	char	   *text;

	if (!built_in)
		ec_act_begin(att, true, &before);
	text = OutputFunctionCall(&column->out, ec_column_datum(column, input));
	if (!built_in)
		ec_act_end(&before);
	ec_act_end_output(nestlevel);
	return text;
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
