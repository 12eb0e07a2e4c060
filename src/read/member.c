/*-------------------------------------------------------------------------
 *
 * member.c
 *	  The member by which a document shows a column's value.
 *
 * Whose document some cached bytes are, and of which owner, is checked on the bytes: they must
 * have the very member that row_to_json would make of the column's value.  This is done for
 * each hit.  For the types that most keys have the member is put together from the value's
 * text, and all others take the way through row_to_json.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

#include "attachments/column.h"
#include "attachments/configuration.h"
#include "read/act.h"
#include "read/encoding.h"
#include "read/member.h"

static void make_name(EcAttachment *att, EcColumn *column);
static void make_with_code(void *arg);
static void make_slowly(EcAttachment *att, EcColumn *column, const char *value, EcShown *shown);

/*
 * How row_to_json writes a value of this type, given its output function's text: as it is, or
 * as a JSON string.  row_to_json looks through domains, so the base type decides, and a
 * domain's checks are not run here.
 */
EcJsonKind
ec_member_kind(Oid type)
{
	switch (getBaseType(type))
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
			return EC_JSON_NUMBER;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case CHAROID:
		case NAMEOID:
		case UUIDOID:
		case OIDOID:
			return EC_JSON_STRING;
		default:
			return EC_JSON_OTHER;
	}
}

/* At the first use of a column: the part of its member that all values share. */
static void
make_name(EcAttachment *att, EcColumn *column)
{
	MemoryContext old = MemoryContextSwitchTo(att->context);
	EcJsonKind	kind = ec_member_kind(column->type);
	StringInfoData name;
	const char *converted;
	size_t		len;

	initStringInfo(&name);
	escape_json(&name, NameStr(column->name));
	appendStringInfoChar(&name, ':');
	len = name.len;
	converted = ec_encoding_to_utf8(name.data, &len);
	column->json_name = converted ? pnstrdup(converted, len) : NULL;
	column->json_namelen = converted ? (int) len : 0;
	column->json_kind = kind;	/* last: an error leaves it to be made again */
	MemoryContextSwitchTo(old);
}

/* What make_slowly() is asked for. */
typedef struct Slowly
{
	EcAttachment *att;
	EcColumn   *column;
	const char *value;
	EcShown    *shown;
} Slowly;

/* The member by row_to_json, where a domain's check or a cast to json may be a user's code. */
static void
make_with_code(void *arg)
{
	Slowly	   *slowly = arg;
	EcActing	before;

	ec_act_begin(slowly->att, true, &before);
	slowly->shown->text = ec_column_member(slowly->column,
										   ec_column_datum(slowly->column, slowly->value),
										   false, &slowly->shown->len, &slowly->shown->namelen);
	ec_act_end(&before);
}

/* The member by row_to_json, under the settings that documents are rendered with. */
static void
make_slowly(EcAttachment *att, EcColumn *column, const char *value, EcShown *shown)
{
	Slowly		slowly = {att, column, value, shown};
	size_t		size;

	if (column->type >= FirstNormalObjectId)
		ec_act_contained(make_with_code, &slowly);
	else
	{
		int			nestlevel = ec_act_begin_output(att);

		shown->text = ec_column_member(column, ec_column_datum(column, value), false,
									   &shown->len, &shown->namelen);
		ec_act_end_output(nestlevel);
	}
	size = shown->len;
	shown->text = ec_encoding_to_utf8(shown->text, &size);
	shown->len = (int) size;
	shown->namelen = column->json_namelen;
}

/*
 * The member that documents of the attachment show if the column has this value, which is the
 * column's canonical text.  It is made in the current memory context.  Throws what the column's
 * type throws.
 */
void
ec_member_make(EcAttachment *att, EcColumn *column, const char *value, EcShown *shown)
{
	StringInfoData member;
	const char *converted;
	size_t		len;

	if (column->json_kind == EC_JSON_UNKNOWN)
		make_name(att, column);
	shown->text = NULL;
	shown->len = shown->namelen = column->json_namelen;
	if (column->json_name == NULL)
		return;
	if (column->json_kind == EC_JSON_OTHER)
	{
		make_slowly(att, column, value, shown);
		return;
	}
	len = strlen(value);
	converted = ec_encoding_to_utf8(value, &len);
	if (converted == NULL)
		return;
	initStringInfo(&member);
	appendBinaryStringInfo(&member, column->json_name, column->json_namelen);
	if (column->json_kind == EC_JSON_NUMBER)
		appendBinaryStringInfo(&member, converted, len);
	else
		escape_json(&member, converted);
	shown->text = member.data;
	shown->len = member.len;
}
