/*-------------------------------------------------------------------------
 *
 * shape.c
 *	  The document of a row, as row_to_json makes it.
 *
 * Every commit makes one, and row_to_json looks each column's type up in the catalogs, for each
 * row anew, and looks at each byte of a text by itself.  Here the types are looked up once, and
 * text is copied in pieces.
 *
 * Invariant: the bytes are those that row_to_json gives, since a fill asks PostgreSQL for
 * them, and echocache_verify() compares the two.  So only the types whose JSON is their text,
 * as it is or as a string, are written here; whatever else there is, to_json() writes, which
 * makes of a value what row_to_json makes of it as a column.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "read/member.h"
#include "read/shape.h"

/* So many bytes of a text are looked at together. */
#define PIECE		16

static void make_cell(EcCell *cell, Form_pg_attribute attr, bool first);
static inline bool is_special(unsigned char c);
static inline bool has_special(const char *piece);
static void append_escaped(StringInfo json, char c);
static void append_string(StringInfo json, const char *s, int len);
static void append_value(StringInfo json, EcCell *cell, Datum value);

/* Look up how values of a column are written. */
static void
make_cell(EcCell *cell, Form_pg_attribute attr, bool first)
{
	Oid			type = getBaseType(attr->atttypid);
	StringInfoData name;
	Oid			out;
	bool		varlena;

	cell->attno = attr->attnum;
	cell->kind = ec_member_kind(type);
	cell->is_text = type == TEXTOID || type == VARCHAROID || type == BPCHAROID;
	if (cell->kind == EC_JSON_OTHER)
	{
		Var		   *value = makeVar(1, attr->attnum, attr->atttypid, -1, InvalidOid, 0);

		/* to_json() learns the type of its argument from the call */
		fmgr_info(F_TO_JSON, &cell->function);
		fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSON, JSONOID, list_make1(value), InvalidOid,
												 InvalidOid, COERCE_EXPLICIT_CALL),
						   &cell->function);
	}
	else
	{
		getTypeOutputInfo(type, &out, &varlena);
		fmgr_info(out, &cell->function);
	}
	initStringInfo(&name);
	appendStringInfoChar(&name, first ? '{' : ',');
	escape_json(&name, NameStr(attr->attname));
	appendStringInfoChar(&name, ':');
	cell->name = name.data;
	cell->namelen = name.len;
}

/*
 * What documents of the attachment look like, in the current memory context, which is to last
 * as long as the attachment.  The table is open and locked.
 */
EcShape *
ec_shape_make(EcAttachment *att, Relation rel)
{
	EcShape    *shape = palloc0(offsetof(EcShape, cells) +
								bms_num_members(att->columns) * sizeof(EcCell));
	int			attno = -1;

	shape->key = get_attnum(att->relid, NameStr(att->key.name));
	while ((attno = bms_next_member(att->columns, attno)) >= 0)
	{
		make_cell(&shape->cells[shape->ncells], TupleDescAttr(RelationGetDescr(rel), attno - 1),
				  shape->ncells == 0);
		shape->ncells++;
	}
	return shape;
}

/*
 * Does JSON want this byte escaped?  A byte of a character of several bytes is none of these.
 * Without a branch, so that a compiler can look at many at once.
 */
static inline bool
is_special(unsigned char c)
{
	return (c < ' ') | (c == '"') | (c == '\\');
}

/* Is one of these PIECE bytes special?  (No bool: gcc 12 would take one byte after the other.) */
static inline bool
has_special(const char *piece)
{
	unsigned char any = 0;

	for (int i = 0; i < PIECE; i++)
		any |= is_special(piece[i]);
	return any;
}

/* A special byte, as escape_json() writes it. */
static void
append_escaped(StringInfo json, char c)
{
	switch (c)
	{
		case '\b':
			appendStringInfoString(json, "\\b");
			break;
		case '\f':
			appendStringInfoString(json, "\\f");
			break;
		case '\n':
			appendStringInfoString(json, "\\n");
			break;
		case '\r':
			appendStringInfoString(json, "\\r");
			break;
		case '\t':
			appendStringInfoString(json, "\\t");
			break;
		case '"':
			appendStringInfoString(json, "\\\"");
			break;
		case '\\':
			appendStringInfoString(json, "\\\\");
			break;
		default:
			appendStringInfo(json, "\\u%04x", (unsigned char) c);
	}
}

/* A text as a JSON string, as escape_json() writes it. */
static void
append_string(StringInfo json, const char *s, int len)
{
	const char *end = s + len;

	appendStringInfoChar(json, '"');
	while (s < end)
	{
		const char *start = s;

		while (end - s >= PIECE && !has_special(s))
			s += PIECE;
		while (s < end && !is_special(*s))
			s++;
		appendBinaryStringInfo(json, start, s - start);
		if (s < end)
			append_escaped(json, *s++);
	}
	appendStringInfoChar(json, '"');
}

/* A value that is not NULL. */
static void
append_value(StringInfo json, EcCell *cell, Datum value)
{
	if (cell->is_text)
	{
		text	   *t = DatumGetTextPP(value);

		append_string(json, VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t));
		if ((Pointer) t != DatumGetPointer(value))
			pfree(t);			/* it was compressed, or elsewhere, and may be large */
	}
	else if (cell->kind == EC_JSON_OTHER)
	{
		text	   *t = DatumGetTextPP(FunctionCall1(&cell->function, value));

		appendBinaryStringInfo(json, VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t));
		pfree(t);
	}
	else
	{
		char	   *s = OutputFunctionCall(&cell->function, value);

		if (cell->kind == EC_JSON_NUMBER)
			appendStringInfoString(json, s);
		else
			append_string(json, s, strlen(s));
		pfree(s);
	}
}

/*
 * The document of this row, which is in the attached table's layout, made in the current
 * memory context.  It has at least size bytes, as far as is known.  What its values depend on
 * is as act.h has it.  Throws what the types' output functions throw.
 */
text *
ec_shape_document(EcShape *shape, TupleTableSlot *slot, Size size)
{
	StringInfoData json;

	initStringInfo(&json);
	enlargeStringInfo(&json, VARHDRSZ + size);
	json.len = VARHDRSZ;
	for (int i = 0; i < shape->ncells; i++)
	{
		EcCell	   *cell = &shape->cells[i];
		bool		isnull;
		Datum		value = slot_getattr(slot, cell->attno, &isnull);

		appendBinaryStringInfo(&json, cell->name, cell->namelen);
		if (isnull)
			appendBinaryStringInfo(&json, "null", 4);
		else
			append_value(&json, cell, value);
	}
	appendStringInfoString(&json, shape->ncells > 0 ? "}" : "{}");
	SET_VARSIZE(json.data, json.len);
	return (text *) json.data;
}
