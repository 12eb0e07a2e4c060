/*-------------------------------------------------------------------------
 *
 * sql_read.c
 *	  The SQL functions that read, touch, invalidate and reload documents.
 *
 * Ids and owners come as text, uuid or bigint, in overloads that share one C
 * function each: the argument's declared type is looked up once per call site.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/parallel.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "attachments/attachment.h"
#include "attachments/column.h"
#include "attachments/configuration.h"
#include "read/act.h"
#include "read/hit.h"
#include "read/permission.h"
#include "read/read.h"
#include "shmem.h"
#include "sql/sql_read.h"
#include "sql/support.h"

PG_FUNCTION_INFO_V1(echocache_get);
PG_FUNCTION_INFO_V1(echocache_get_session);
PG_FUNCTION_INFO_V1(echocache_get_many);
PG_FUNCTION_INFO_V1(echocache_get_sessions);
PG_FUNCTION_INFO_V1(echocache_get_row);
PG_FUNCTION_INFO_V1(echocache_touch);
PG_FUNCTION_INFO_V1(echocache_touch_session);
PG_FUNCTION_INFO_V1(echocache_invalidate);
PG_FUNCTION_INFO_V1(echocache_invalidate_session);
PG_FUNCTION_INFO_V1(echocache_refresh);
PG_FUNCTION_INFO_V1(echocache_refresh_session);

#define SESSION "session"

static Oid	declared_type(FunctionCallInfo fcinfo, int arg);
static char *id_text(Oid type, Datum value);
static char *id_argument(FunctionCallInfo fcinfo, int arg);
static Datum get(FunctionCallInfo fcinfo, const char *name, int arg);
static Datum get_many(FunctionCallInfo fcinfo, const char *name, int arg);
static EcAttachment *attachment_of_row(FunctionCallInfo fcinfo);
static void put_row(void *arg);
static Datum touch(FunctionCallInfo fcinfo, const char *name, int arg);

/* The type that an argument is declared with: which overload was called. */
static Oid
declared_type(FunctionCallInfo fcinfo, int arg)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(fcinfo->flinfo->fn_oid));
	Oid			type;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", fcinfo->flinfo->fn_oid);
	type = ((Form_pg_proc) GETSTRUCT(tuple))->proargtypes.values[arg];
	ReleaseSysCache(tuple);
	return type;
}

/* An id or owner as text, by its declared type. */
static char *
id_text(Oid type, Datum value)
{
	switch (type)
	{
		case TEXTOID:
			return TextDatumGetCString(value);
		case UUIDOID:
			return DatumGetCString(DirectFunctionCall1(uuid_out, value));
		case INT8OID:
			return DatumGetCString(DirectFunctionCall1(int8out, value));
		default:
			elog(ERROR, "unexpected type %u of an id", type);
	}
}

/*
 * The text of an id or owner that is an argument and no array.  The argument's type is looked
 * up once per call site.
 */
static char *
id_argument(FunctionCallInfo fcinfo, int arg)
{
	FmgrInfo   *flinfo = fcinfo->flinfo;
	Oid		   *types = flinfo->fn_extra;

	if (types == NULL)
	{
		types = MemoryContextAlloc(flinfo->fn_mcxt, PG_NARGS() * sizeof(Oid));
		for (int i = 0; i < PG_NARGS(); i++)
			types[i] = declared_type(fcinfo, i);
		flinfo->fn_extra = types;
	}
	return id_text(types[arg], PG_GETARG_DATUM(arg));
}

/* The functions are STRICT: no argument is NULL. */
static Datum
get(FunctionCallInfo fcinfo, const char *name, int arg)
{
	EcAttachment *att = ec_attachment_require(name);
	EcItem		item;

	ec_permission_check(att);
	item.id = ec_column_canonical(att, &att->key, id_argument(fcinfo, arg));
	ec_read(name, &item, 1, PG_NARGS() > arg + 1 ? id_argument(fcinfo, arg + 1) : NULL);
	if (item.json == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(item.json);
}

Datum
echocache_get(PG_FUNCTION_ARGS)
{
	return get(fcinfo, text_to_cstring(PG_GETARG_TEXT_PP(0)), 1);
}

Datum
echocache_get_session(PG_FUNCTION_ARGS)
{
	return get(fcinfo, SESSION, 0);
}

/* The ids asked for, in order, and the distinct ones of them. */
typedef struct Many
{
	int			n;
	const char **ids;			/* NULL: asked for NULL */
	int		   *item_of;
	EcItem	   *items;
} Many;

static int
compare_ids(const void *a, const void *b, void *arg)
{
	const char **ids = arg;

	return strcmp(ids[*(const int *) a], ids[*(const int *) b]);
}

/* An array of ids; as text, it is the literal of a text[]. */
static ArrayType *
ids_argument(FunctionCallInfo fcinfo, int arg)
{
	Oid			input,
				ioparam;

	if (declared_type(fcinfo, arg) != TEXTOID)
		return PG_GETARG_ARRAYTYPE_P(arg);
	getTypeInputInfo(TEXTARRAYOID, &input, &ioparam);
	return DatumGetArrayTypeP(OidInputFunctionCall(input,
												   text_to_cstring(PG_GETARG_TEXT_PP(arg)),
												   ioparam, -1));
}

/* Read what an array of ids asks for, each distinct one once. */
static Many *
read_many(FunctionCallInfo fcinfo, const char *name, int arg, const char *owner)
{
	EcAttachment *att = ec_attachment_require(name);
	Many	   *many = palloc0(sizeof(Many));
	ArrayType  *array = ids_argument(fcinfo, arg);
	Oid			type = ARR_ELEMTYPE(array);
	Datum	   *elems;
	bool	   *nulls;
	int		   *sorted;
	int			nids = 0;
	int			nitems = 0;
	int16		len;
	bool		byval;
	char		align;

	ec_permission_check(att);
	get_typlenbyvalalign(type, &len, &byval, &align);
	deconstruct_array(array, type, len, byval, align, &elems, &nulls, &many->n);
	many->ids = palloc0((many->n + 1) * sizeof(char *));
	many->item_of = palloc0((many->n + 1) * sizeof(int));
	many->items = palloc_extended((many->n + 1) * sizeof(EcItem), MCXT_ALLOC_HUGE);
	sorted = palloc((many->n + 1) * sizeof(int));
	for (int i = 0; i < many->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (nulls[i])
			continue;
		many->ids[i] = ec_column_canonical(att, &att->key, id_text(type, elems[i]));
		sorted[nids++] = i;
	}
	qsort_interruptible(sorted, nids, sizeof(int), compare_ids, many->ids);
	for (int i = 0; i < nids; i++)
	{
		const char *id = many->ids[sorted[i]];

		if (nitems == 0 || strcmp(many->items[nitems - 1].id, id) != 0)
			many->items[nitems++].id = id;
		many->item_of[sorted[i]] = nitems - 1;
	}
	ec_read(name, many->items, nitems, owner);
	return many;
}

/*
 * A row for each id asked for, in that order and as often; an id that is NULL gives a row of
 * NULLs, one without a document none.
 */
static Datum
get_many(FunctionCallInfo fcinfo, const char *name, int arg)
{
	TupleDesc	desc;
	Tuplestorestate *rows = ec_support_begin_rows(fcinfo, &desc);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "echocache ids",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Many	   *many = read_many(fcinfo, name, arg,
								 PG_NARGS() > arg + 1 ? id_argument(fcinfo, arg + 1) : NULL);

	for (int i = 0; i < many->n; i++)
	{
		const char *id = many->ids[i];
		text	   *json = id ? many->items[many->item_of[i]].json : NULL;
		Datum		values[2] = {0};
		bool		nulls[2] = {id == NULL, json == NULL};

		CHECK_FOR_INTERRUPTS();
		if (id != NULL && json == NULL)
			continue;
		if (id != NULL)
		{
			values[0] = CStringGetTextDatum(id);
			values[1] = PointerGetDatum(json);
		}
		tuplestore_putvalues(rows, desc, values, nulls);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return (Datum) 0;
}

Datum
echocache_get_many(PG_FUNCTION_ARGS)
{
	return get_many(fcinfo, text_to_cstring(PG_GETARG_TEXT_PP(0)), 1);
}

Datum
echocache_get_sessions(PG_FUNCTION_ARGS)
{
	return get_many(fcinfo, SESSION, 0);
}

/* The attachment whose table has the row type of the first argument. */
static EcAttachment *
attachment_of_row(FunctionCallInfo fcinfo)
{
	Oid			type = get_fn_expr_argtype(fcinfo->flinfo, 0);
	Oid			relid = get_typ_typrelid(type);
	EcAttachment *att;

	ec_shmem_require();
	att = OidIsValid(relid) ? ec_attachment_by_relid(relid) : NULL;
	if (att == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("%s is not the row type of an attached table", format_type_be(type)),
				 errhint("Write NULL::the_table as the first argument; the view "
						 "echocache_documents lists what is attached.")));
	if (att->function_name)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("documents of table \"%s\" are not its rows", get_rel_name(relid)),
				 errdetail("They are made by function %s.", att->function_name),
				 errhint("Use echocache_get('%s', ...).", att->name)));
	return att;
}

/* A document, and where the row that it shows goes. */
typedef struct RowSink
{
	EcAttachment *att;
	text	   *json;
	TupleDesc	desc;			/* what the caller expects */
	Tuplestorestate *rows;
} RowSink;

/*
 * Add the row that this document shows; the columns that it does not show are NULL.
 * The table is locked.  Throws what the types of the columns throw for what the document
 * says, which may be a stranger's.  As the table's owner, whose code checks domains.
 */
static void
put_row(void *arg)
{
	RowSink    *sink = arg;
	EcAttachment *att = sink->att;
	Datum		values[2] = {(Datum) 0, PointerGetDatum(sink->json)};
	TupleDesc	now = lookup_rowtype_tupdesc_copy(sink->desc->tdtypeid, sink->desc->tdtypmod);
	EcActing	before;
	HeapTupleData tuple = {0};
	bool		isnull;

	if (!equalTupleDescs(now, sink->desc))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the table of document \"%s\" was altered meanwhile", att->name),
				 errhint("Read the row again.")));
	ec_act_begin(att, true, &before);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (att->plan_row == NULL)
	{
		const char *sql = "SELECT pg_catalog.json_populate_record($1, $2)";
		Oid			types[2] = {now->tdtypeid, JSONOID};
		SPIPlanPtr	plan = SPI_prepare(sql, 2, types);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
		att->plan_row = plan;
	}
	if (SPI_execute_plan(att->plan_row, values, "n ", true, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not read a row from a document of \"%s\"", att->name);
	tuple.t_data = DatumGetHeapTupleHeader(SPI_getbinval(SPI_tuptable->vals[0],
														 SPI_tuptable->tupdesc, 1, &isnull));
	tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
	tuplestore_puttuple(sink->rows, &tuple);
	SPI_finish();
	ec_act_end(&before);
}

/*
 * One row, or none; not STRICT, since the first argument is there for its type only.
 * Cached bytes that are no row of the table are invalidated, and the table answers.
 */
Datum
echocache_get_row(PG_FUNCTION_ARGS)
{
	RowSink		sink;
	const char *owner;
	EcItem		item;

	sink.att = attachment_of_row(fcinfo);
	sink.rows = ec_support_begin_rows(fcinfo, &sink.desc);
	if (PG_ARGISNULL(1) || (PG_NARGS() > 2 && PG_ARGISNULL(2)))
		return (Datum) 0;
	ec_permission_check(sink.att);
	owner = PG_NARGS() > 2 ? id_argument(fcinfo, 2) : NULL;
	item.id = ec_column_canonical(sink.att, &sink.att->key, id_argument(fcinfo, 1));
	for (int tries = 1;; tries++)
	{
		ec_read(sink.att->name, &item, 1, owner);
		if (item.json == NULL)
			return (Datum) 0;
		/* the row has the types that the table has now, and is handed on as the caller's */
		LockRelationOid(sink.att->relid, AccessShareLock);
		sink.json = item.json;
		if (tries > 1 || IsInParallelMode())
		{
			put_row(&sink);
			return (Datum) 0;
		}
		if (ec_act_guarded(put_row, &sink))
			return (Datum) 0;
		(void) ec_read_invalidate(sink.att, item.id);
	}
}

/* Not STRICT: a TTL that is NULL is the document's own. */
static Datum
touch(FunctionCallInfo fcinfo, const char *name, int arg)
{
	int64		ttl = -1;

	if (PG_ARGISNULL(arg))
		PG_RETURN_NULL();
	if (PG_NARGS() > arg + 1 && !PG_ARGISNULL(arg + 1))
		ttl = ec_support_seconds(PG_GETARG_INTERVAL_P(arg + 1));
	PG_RETURN_BOOL(ec_read_touch(ec_attachment_require(name), id_argument(fcinfo, arg), ttl));
}

Datum
echocache_touch(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	return touch(fcinfo, text_to_cstring(PG_GETARG_TEXT_PP(0)), 1);
}

Datum
echocache_touch_session(PG_FUNCTION_ARGS)
{
	return touch(fcinfo, SESSION, 0);
}

Datum
echocache_invalidate(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ec_read_invalidate(ec_attachment_require(text_to_cstring(PG_GETARG_TEXT_PP(0))),
										id_argument(fcinfo, 1)));
}

Datum
echocache_invalidate_session(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ec_read_invalidate(ec_attachment_require(SESSION), id_argument(fcinfo, 0)));
}

Datum
echocache_refresh(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ec_read_refresh(ec_attachment_require(text_to_cstring(PG_GETARG_TEXT_PP(0))),
									 id_argument(fcinfo, 1)));
}

Datum
echocache_refresh_session(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ec_read_refresh(ec_attachment_require(SESSION), id_argument(fcinfo, 0)));
}
