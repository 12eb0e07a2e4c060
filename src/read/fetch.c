/*-------------------------------------------------------------------------
 *
 * fetch.c
 *	  Rows by id, by a query, and the documents that are made of them.
 *
 * The query is the attachment's own.  It runs as the table's owner, or under row-level
 * security as the caller, and always under the settings of act.c, so that the same row gives
 * the same bytes whoever asks.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "attachments/attachment.h"
#include "attachments/column.h"
#include "attachments/configuration.h"
#include "attachments/storage.h"
#include "read/act.h"
#include "read/build.h"
#include "read/fetch.h"
#include "read/query.h"
#include "read/render.h"
#include "read/usercode.h"
#include "waitpoint.h"

/* So often rows are read anew whose tables are given other files meanwhile. */
#define TRIES	5

/* What ec_fetch() is asked for. */
typedef struct Fetch
{
	EcAttachment *att;
	EcRow	   *rows;
	int			n;
	Snapshot	snapshot;
	bool		as_owner;
	uint64		since;			/* ec_storage_now() before the snapshot was taken */
	bool		whole;			/* no rows can be missing */
} Fetch;

static void make_query(EcAttachment *att, EcQuery *query, bool many);
static int	compare_rows(const void *a, const void *b);
static void take_results(EcAttachment *att, EcRow **sorted, int n, MemoryContext context);
static void fetch_by_query(EcAttachment *att, EcRow **rows, int n, bool as_owner,
						   MemoryContext context);
static void fetch_now(void *arg);
static void any_id(void *arg);

/*
 * The query for rows by id: key, JSON (or the row, if a function makes the document of it),
 * owner.  Every name in it is qualified.  The children of a plain table are not part of its
 * documents, since triggers do not reach them.  It is kept until the attachment is forgotten.
 */
static void
make_query(EcAttachment *att, EcQuery *query, bool many)
{
	StringInfoData sql;
	TypeCacheEntry *type = lookup_type_cache(att->key.type, TYPECACHE_EQ_OPR);
	Oid			argtype = many ? get_array_type(att->key.type) : att->key.type;
	const char *key = quote_identifier(NameStr(att->key.name));
	const char *table = ec_attachment_table(att);

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT t.%s, ", key);
	if (att->function_name)
		appendStringInfo(&sql, "(t.*)::%s, ", table);
	else if (att->exclude == NIL)
		appendStringInfoString(&sql, "pg_catalog.row_to_json(t.*), ");
	else
	{
		int			attno = -1;
		const char *comma = "";

		appendStringInfoString(&sql, "(SELECT pg_catalog.row_to_json(d.*) FROM (SELECT ");
		while ((attno = bms_next_member(att->columns, attno)) >= 0)
		{
			appendStringInfo(&sql, "%st.%s", comma,
							 quote_identifier(get_attname(att->relid, attno, false)));
			comma = ", ";
		}
		appendStringInfoString(&sql, ") AS d), ");
	}
	if (att->has_owner)
		appendStringInfo(&sql, "t.%s", quote_identifier(NameStr(att->owner.name)));
	else
		appendStringInfoString(&sql, "NULL");
	appendStringInfo(&sql, " FROM %s%s AS t WHERE %s AND $0",
					 att->partitioned ? "" : "ONLY ", table,
					 ec_column_comparison(psprintf("t.%s", key), type->eq_opr, "$1", many));

	/* a plan for any id locks every partition each time, one for this id its own */
	ec_query_prepare(query, att, sql.data, 1, &argtype,
					 att->partitioned ? CURSOR_OPT_CUSTOM_PLAN : 0);
	if (SPI_keepplan(query->plan) != 0)
		elog(ERROR, "could not keep \"%s\"", sql.data);
	pfree(sql.data);
}

static int
compare_rows(const void *a, const void *b)
{
	return strcmp((*(EcRow *const *) a)->id, (*(EcRow *const *) b)->id);
}

/* Hand the query's rows to the EcRows that ask for their ids; results go to context. */
static void
take_results(EcAttachment *att, EcRow **sorted, int n, MemoryContext context)
{
	FmgrInfo	function;

	if (att->function_name)
		ec_build_begin(att, &function);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		Datum		key = SPI_getbinval(tuple, desc, 1, &isnull);
		EcRow		probe;
		EcRow	   *wanted = &probe;
		EcRow	  **row = sorted;
		Datum		value;
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		if (isnull)
			continue;
		probe.id = OutputFunctionCall(&att->key.out, key);
		if (n > 1)
		{
			row = bsearch(&wanted, sorted, n, sizeof(EcRow *), compare_rows);
			if (row == NULL)
				continue;
		}
		(*row)->matches++;
		(*row)->same_id = strcmp(probe.id, (*row)->id) == 0;
		value = SPI_getbinval(tuple, desc, 2, &isnull);
		if (att->function_name)
			value = PointerGetDatum(ec_build(att, &function, value, &isnull));
		old = MemoryContextSwitchTo(context);
		(*row)->json = isnull ? NULL : DatumGetTextPCopy(value);
		MemoryContextSwitchTo(old);
		value = SPI_getbinval(tuple, desc, 3, &isnull);
		old = MemoryContextSwitchTo(context);
		(*row)->owner = isnull || !att->has_owner ? NULL
			: OutputFunctionCall(&att->owner.out, value);
		MemoryContextSwitchTo(old);
	}
}

/*
 * Fetch the rows with these distinct ids by the attachment's query, with the active snapshot.
 * Ids whose text may differ although they are equal are asked for one by one.
 */
static void
fetch_by_query(EcAttachment *att, EcRow **rows, int n, bool as_owner, MemoryContext context)
{
	Assert(ActiveSnapshotSet());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (n > 1 && att->key_exact)
	{
		Datum	   *ids = palloc(n * sizeof(Datum));
		Datum		array;
		int16		len;
		bool		byval;
		char		align;

		if (att->query_many[as_owner].plan == NULL)
			make_query(att, &att->query_many[as_owner], true);
		qsort(rows, n, sizeof(EcRow *), compare_rows);
		for (int i = 0; i < n; i++)
		{
			CHECK_FOR_INTERRUPTS();
			ids[i] = ec_column_datum(&att->key, rows[i]->id);
		}
		get_typlenbyvalalign(att->key.type, &len, &byval, &align);
		array = PointerGetDatum(construct_array(ids, n, att->key.type, len, byval, align));
		(void) ec_query_run(&att->query_many[as_owner], &array, NULL, 0);
		take_results(att, rows, n, context);
	}
	else
	{
		if (att->query_one[as_owner].plan == NULL)
			make_query(att, &att->query_one[as_owner], false);
		for (int i = 0; i < n; i++)
		{
			Datum		id = ec_column_datum(&att->key, rows[i]->id);

			(void) ec_query_run(&att->query_one[as_owner], &id, NULL, 2);
			take_results(att, &rows[i], 1, context);
			SPI_freetuptable(SPI_tuptable);
		}
	}
	SPI_finish();
}

/* Fetch the rows now, and leave what the owner's code leaves. */
static void
fetch_now(void *arg)
{
	Fetch	   *fetch = arg;
	EcRow	  **asked = palloc(fetch->n * sizeof(EcRow *));
	EcActing	before;

	ec_act_begin(fetch->att, fetch->as_owner, &before);
	PushActiveSnapshot(fetch->snapshot);
	for (int i = 0; i < fetch->n; i++)
	{
		asked[i] = &fetch->rows[i];
		asked[i]->matches = 0;
		asked[i]->same_id = false;
		asked[i]->json = NULL;
		asked[i]->owner = NULL;
	}
	ec_waitpoint("fetch-checked");
	fetch_by_query(fetch->att, asked, fetch->n, fetch->as_owner, CurrentMemoryContext);
	ec_act_end(&before);
	fetch->whole = !ec_storage_replaced(fetch->since, GetActiveSnapshot());
	PopActiveSnapshot();
	pfree(asked);
}

/*
 * Read the rows with these distinct ids, as the snapshot shows them, and make their
 * documents.  A row that is not there, or does not pass the filter, has no matches.  With
 * as_owner the table's owner reads, so the caller has checked the permission.  Returns false if
 * rows may be missing, since tables were given other files between the snapshot and when they
 * were locked (storage.c); since is ec_storage_now() from before the snapshot.  Throws what the
 * query and the function throw; if code of a user's runs, it leaves nothing behind.
 */
bool
ec_fetch(EcAttachment *att, EcRow *rows, int n, Snapshot snapshot, uint64 since, bool as_owner)
{
	Fetch		fetch = {att, rows, n, snapshot, as_owner, since, true};

	if (n > 0 && ec_usercode_runs(att))
		ec_act_contained(fetch_now, &fetch);
	else if (n > 0)
		fetch_now(&fetch);
	return fetch.whole;
}

/*
 * The same, as they are now: the snapshot has every commit that came before.  It is tried a few
 * times.
 */
bool
ec_fetch_latest(EcAttachment *att, EcRow *rows, int n, bool as_owner)
{
	for (int i = 0; i < TRIES; i++)
	{
		uint64		since = ec_storage_now();

		if (ec_fetch(att, rows, n, GetLatestSnapshot(), since, as_owner))
			return true;
	}
	return false;
}

/* What any_id() is asked for, and its answer. */
typedef struct AnyId
{
	EcAttachment *att;
	MemoryContext context;
	char	   *id;
} AnyId;

/* The id of some row that has a document; NULL: there is none. */
static void
any_id(void *arg)
{
	AnyId	   *any = arg;
	EcAttachment *att = any->att;
	const char *key = quote_identifier(NameStr(att->key.name));
	EcQuery		query;
	EcActing	before;

	ec_act_begin(att, true, &before);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	ec_query_prepare(&query, att,
					 psprintf("SELECT t.%s FROM %s%s AS t WHERE t.%s IS NOT NULL AND $0 LIMIT 1",
							  key, att->partitioned ? "" : "ONLY ", ec_attachment_table(att), key),
					 0, NULL, 0);
	if (ec_query_run(&query, NULL, NULL, 1) > 0)
		any->id = MemoryContextStrdup(any->context,
									  SPI_getvalue(SPI_tuptable->vals[0],
												   SPI_tuptable->tupdesc, 1));
	SPI_finish();
	ec_act_end(&before);
}

/*
 * Make the document of some row of a table that is being attached, if it has one: throws what
 * is wrong with the filter or the function.
 */
void
ec_fetch_try(EcAttachment *att)
{
	EcRow		row = {0};
	AnyId		any = {att, CurrentMemoryContext, NULL};

	ec_act_contained(any_id, &any);
	row.id = any.id;
	if (row.id != NULL)
		(void) ec_fetch_latest(att, &row, 1, true);
}
