/*-------------------------------------------------------------------------
 *
 * render.c
 *	  From a row to its document: the same bytes, whoever asks.
 *
 * Hit or miss, in whatever session, a document is what row_to_json makes of the
 * row under one set of settings (ec_act_begin_output).  A reader finds rows by id,
 * with a query.  A writer, at commit, takes the row that it has written from where
 * its trigger saw it, without a query, which would need locks while others wait.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "pgtime.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/rls.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "build.h"
#include "compat.h"
#include "render.h"

/* What SQL means, and what functions return, depends on these too; see ec_act_begin(). */
static const char *const act_settings[][2] = {
	{"array_nulls", "on"},
	{"default_text_search_config", "pg_catalog.simple"},
	{"gin_fuzzy_search_limit", "0"},
	{"lc_numeric", "C"},
	{"lc_time", "C"},
	{"standard_conforming_strings", "on"},
	{"timezone_abbreviations", "Default"},
	{"transform_null_equals", "off"},
	{"xmlbinary", "base64"},
	{"xmloption", "content"},
};

static const char *convert(const char *s, size_t *len, int from, int to);
static void set_setting(const char *name, const char *value);
static void set_rendering(EcAttachment *att);
static int	begin_canonical(void);
static SPIPlanPtr make_plan(EcAttachment *att, bool many);
static int	compare_rows(const void *a, const void *b);
static void take_results(EcAttachment *att, EcRow **sorted, int n, MemoryContext context);
static void fetch_by_query(EcAttachment *att, EcRow **rows, int n, bool as_owner,
						   MemoryContext context);
static bool fetch_version(Relation rel, EcPlace *place, Snapshot snapshot,
						  TupleTableSlot *slot);
static void render_row(EcAttachment *att, EcRow *row, TupleTableSlot *slot, ExprState *filter,
					   ExprContext *econtext);
static void filter_error(void *arg);
static bool is_unique(Relation rel, AttrNumber attno);
static void make_shape(EcAttachment *att, Relation rel);

/* ---------------------------------------------------------------- encoding */

/*
 * Text in one encoding as another; the same pointer where there is nothing to
 * convert, NULL where it cannot be done.  Never throws for the content's sake.
 */
static const char *
convert(const char *s, size_t *len, int from, int to)
{
	Oid			proc;
	char	   *dst;
	size_t		size;

	if (from == to || from == PG_SQL_ASCII || to == PG_SQL_ASCII)
		return s;
	proc = FindDefaultConversionProc(from, to);
	size = *len * MAX_CONVERSION_GROWTH + 1;
	if (!OidIsValid(proc) || size > MaxAllocSize)
		return NULL;
	dst = palloc(size);
	if (pg_do_encoding_conversion_buf(proc, from, to, (unsigned char *) s, (int) *len,
									  (unsigned char *) dst, (int) size, true) != (int) *len)
		return NULL;
	*len = strlen(dst);
	return dst;
}

/* What the server encoding's bytes are in UTF-8, or NULL. */
const char *
ec_encoding_to_utf8(const char *s, size_t *len)
{
	if (GetDatabaseEncoding() == PG_SQL_ASCII && !pg_verify_mbstr(PG_UTF8, s, (int) *len, true))
		return NULL;
	return convert(s, len, GetDatabaseEncoding(), PG_UTF8);
}

/* And back, for bytes from the cache, which may be anything: NULL if they are not UTF-8. */
const char *
ec_encoding_from_utf8(const char *s, size_t *len)
{
	if (!pg_verify_mbstr(PG_UTF8, s, (int) *len, true))
		return NULL;
	return convert(s, len, PG_UTF8, GetDatabaseEncoding());
}

/* ---------------------------------------------------------------- rendering */

static void
set_setting(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
}

/* What text output depends on, as far as this document needs it. */
static void
set_rendering(EcAttachment *att)
{
	if (!att->render_all && !att->render_timezone)
		return;
	if (strcmp(pg_get_timezone_name(session_timezone), "UTC") != 0)
		set_setting("TimeZone", "UTC");
	if (!att->render_all)
		return;
	if (DateStyle != USE_ISO_DATES || DateOrder != DATEORDER_MDY)
		set_setting("datestyle", "ISO, MDY");
	if (IntervalStyle != INTSTYLE_POSTGRES)
		set_setting("intervalstyle", "postgres");
	/* as text: pg_locale.h has the variable, but wants the ICU headers */
	if (strcmp(GetConfigOption("lc_monetary", false, false), "C") != 0)
		set_setting("lc_monetary", "C");
	if (extra_float_digits != 1)
		set_setting("extra_float_digits", "1");
	if (bytea_output != BYTEA_OUTPUT_HEX)
		set_setting("bytea_output", "hex");
	set_setting("search_path", EC_SEARCH_PATH);
}

/*
 * From here to ec_act_end_output() text output does not depend on the session's
 * settings, as far as this document needs it.  An error in between restores
 * them, too.  (postgres_fdw's set_transmission_modes() is the precedent.)
 * For output and built-in types only: where code of a user's may run, see ec_act_begin().
 */
int
ec_act_begin_output(EcAttachment *att)
{
	int			nestlevel;

	if (!att->render_all && !att->render_timezone)
		return 0;
	nestlevel = NewGUCNestLevel();
	set_rendering(att);
	return nestlevel;
}

void
ec_act_end_output(int nestlevel)
{
	if (nestlevel > 0)
		AtEOXact_GUC(true, nestlevel);
}

/*
 * From here to ec_act_end(), or an error, code of the table's owner may run: a
 * filter, the function that makes the document, what checks the values of a
 * domain or casts a type.  Whoever reads or writes (a superuser, perhaps) must come
 * to no harm by it, nor the owner by them:
 *
 * - It runs as the owner, in a security-restricted operation, as CREATE INDEX
 *   would run it: nothing of it outlives the call, no setting, no trigger that is still to
 *   fire, no cursor, no temporary table.  It does not write.
 * - Names in it, and in our own queries, mean the same whoever calls: what he has
 *   planted in a schema of his is not found, and in pg_temp last.  Nor do the settings on
 *   which the meaning of SQL depends.
 *
 * Without as_owner, under row-level security, all that holds but for the role: the
 * caller reads by himself, as policies' functions run.
 */
void
ec_act_begin(EcAttachment *att, bool as_owner, EcActing *before)
{
	GetUserIdAndSecContext(&before->user, &before->sec_context);
	SetUserIdAndSecContext(as_owner ? att->relowner : before->user,
						   before->sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION | (as_owner ? SECURITY_NOFORCE_RLS : 0));
	before->nestlevel = NewGUCNestLevel();
	before->read_only = XactReadOnly;
	set_rendering(att);
	if (!att->render_all && !att->filter)
		return;					/* built-in types only, and names that are qualified */
	if (!att->render_all)
		set_setting("search_path", EC_SEARCH_PATH);
	for (int i = 0; i < lengthof(act_settings); i++)
		if (strcmp(GetConfigOption(act_settings[i][0], false, false), act_settings[i][1]) != 0)
			set_setting(act_settings[i][0], act_settings[i][1]);
	if (as_owner && !row_security)
		set_setting("row_security", "on");

	/*
	 * From 16 on this setting cannot be saved, so not as a setting.  After an error the end of the
	 * (sub)transaction restores it.
	 */
	XactReadOnly = true;
}

void
ec_act_end(const EcActing *before)
{
	AtEOXact_GUC(false, before->nestlevel); /* whatever it has set */
	XactReadOnly = before->read_only;
	SetUserIdAndSecContext(before->user, before->sec_context);
}

/* What the text of a stored filter depends on.  Returns the level for AtEOXact_GUC(). */
static int
begin_canonical(void)
{
	int			nestlevel = NewGUCNestLevel();

	set_setting("search_path", EC_SEARCH_PATH);
	set_setting("standard_conforming_strings", "on");
	set_setting("transform_null_equals", "off");
	return nestlevel;
}

/*
 * Do something that may throw for what some stranger has put into the cache;
 * returns whether it did not.  It must not write.  What is no fault of the input is
 * thrown all the same.
 */
bool
ec_act_guarded(void (*work) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool ok = true;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
		{
			case ERRCODE_TRANSACTION_ROLLBACK:
			case ERRCODE_INSUFFICIENT_RESOURCES:
			case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
			case ERRCODE_OPERATOR_INTERVENTION:
			case ERRCODE_SYSTEM_ERROR:
			case ERRCODE_INTERNAL_ERROR:
				PG_RE_THROW();
		}
		FlushErrorState();
		FreeErrorData(error);
		RollbackAndReleaseCurrentSubTransaction();
		ok = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return ok;
}

/* The document's table, qualified for a query.  Throws 42P01 when it is gone. */
char *
ec_attachment_table(EcAttachment *att)
{
	char	   *name = get_rel_name(att->relid);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table of document \"%s\" does not exist any more", att->name)));
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(att->relid)), name);
}

/*
 * The query for rows by id: key, JSON (or the row, if a function makes the document
 * of it), owner.  Every name in it is qualified, but for those of pg_catalog in the
 * filter.  A plain table's children are not part of its documents: triggers do not reach them.
 */
static SPIPlanPtr
make_plan(EcAttachment *att, bool many)
{
	StringInfoData sql;
	TypeCacheEntry *type = lookup_type_cache(att->key.type, TYPECACHE_EQ_OPR);
	Oid			argtype = many ? get_array_type(att->key.type) : att->key.type;
	const char *key = quote_identifier(NameStr(att->key.name));
	const char *table = ec_attachment_table(att);
	HeapTuple	operator;
	SPIPlanPtr	plan;

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
	operator = SearchSysCache1(OPEROID, ObjectIdGetDatum(type->eq_opr));
	if (!HeapTupleIsValid(operator))
		elog(ERROR, "cache lookup failed for operator %u", type->eq_opr);
	appendStringInfo(&sql, " FROM %s%s AS t WHERE t.%s OPERATOR(%s.%s) ",
					 att->partitioned ? "" : "ONLY ", table, key,
					 quote_identifier(get_namespace_name(
										  ((Form_pg_operator) GETSTRUCT(operator))->oprnamespace)),
					 NameStr(((Form_pg_operator) GETSTRUCT(operator))->oprname));
	ReleaseSysCache(operator);
	appendStringInfoString(&sql, many ? "ANY ($1)" : "$1");
	if (att->filter)
		appendStringInfo(&sql, " AND (%s)", att->filter);

	plan = SPI_prepare(sql.data, 1, &argtype);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare \"%s\": %s", sql.data, SPI_result_code_string(SPI_result));
	pfree(sql.data);
	return plan;
}

static int
compare_rows(const void *a, const void *b)
{
	return strcmp((*(EcRow *const *) a)->id, (*(EcRow *const *) b)->id);
}

/* Hand the query's rows to those who asked for their ids; results go to context. */
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

/* The rows with these distinct ids by the document's query; the active snapshot is set. */
static void
fetch_by_query(EcAttachment *att, EcRow **rows, int n, bool as_owner, MemoryContext context)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (n > 1 && att->key_exact)
	{
		Datum	   *ids = palloc(n * sizeof(Datum));
		Datum		array;
		int16		len;
		bool		byval;
		char		align;

		if (att->plan_many[as_owner] == NULL)
			att->plan_many[as_owner] = make_plan(att, true);
		qsort(rows, n, sizeof(EcRow *), compare_rows);
		for (int i = 0; i < n; i++)
			ids[i] = ec_column_datum(&att->key, rows[i]->id);
		get_typlenbyvalalign(att->key.type, &len, &byval, &align);
		array = PointerGetDatum(construct_array(ids, n, att->key.type, len, byval, align));
		if (SPI_execute_plan(att->plan_many[as_owner], &array, NULL, true, 0) != SPI_OK_SELECT)
			elog(ERROR, "could not read documents of \"%s\"", att->name);
		take_results(att, rows, n, context);
	}
	else
	{
		if (att->plan_one[as_owner] == NULL)
			att->plan_one[as_owner] = make_plan(att, false);
		for (int i = 0; i < n; i++)
		{
			Datum		id = ec_column_datum(&att->key, rows[i]->id);

			if (SPI_execute_plan(att->plan_one[as_owner], &id, NULL, true, 2) != SPI_OK_SELECT)
				elog(ERROR, "could not read documents of \"%s\"", att->name);
			take_results(att, &rows[i], 1, context);
			SPI_freetuptable(SPI_tuptable);
		}
	}
	SPI_finish();
}

#define FILTER_QUERY	"SELECT "

/* An error's position is one in the filter, not in the user's statement. */
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
 * The filter as an expression over the row: one boolean expression, or a syntax
 * error.  canonical: it is what ec_filter_deparse() has made, else names in it are the
 * caller's.  The relation is open and locked.
 */
Node *
ec_filter_parse(Relation rel, const char *filter, bool canonical)
{
	int			nestlevel = canonical ? begin_canonical() : 0;
	ParseState *pstate = make_parsestate(NULL);
	ErrorContextCallback context = {error_context_stack, filter_error,
	unconstify(char *, filter)};
	List	   *parsed;
	SelectStmt *select = NULL;
	ResTarget  *target;
	Node	   *expr;

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
	addNSItemToQuery(pstate, addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL,
														   false, true),
					 false, true, true);
	pstate->p_sourcetext = filter;
	expr = transformWhereClause(pstate, target->val, EXPR_KIND_CHECK_CONSTRAINT, "filter");
	assign_expr_collations(pstate, expr);
	free_parsestate(pstate);
	error_context_stack = context.previous;
	if (nestlevel > 0)
		AtEOXact_GUC(true, nestlevel);
	return expr;
}

/* And back to SQL, with every name qualified, so that it means the same in every session. */
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

/* Is there a unique index on just this column? */
static bool
is_unique(Relation rel, AttrNumber attno)
{
	bool		unique = false;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		unique |= index->rd_index->indisunique && index->rd_index->indisvalid &&
			index->rd_index->indnkeyatts == 1 && index->rd_index->indkey.values[0] == attno &&
			RelationGetIndexPredicate(index) == NIL;
		index_close(index, AccessShareLock);
	}
	return unique;
}

/* The columns that the document shows, as a record type of their own; the filter. */
static void
make_shape(EcAttachment *att, Relation rel)
{
	MemoryContext old = MemoryContextSwitchTo(att->context);
	TupleDesc	shape = CreateTemplateTupleDesc(bms_num_members(att->columns));
	int			attno = -1;
	AttrNumber	n = 0;

	while ((attno = bms_next_member(att->columns, attno)) >= 0)
		TupleDescCopyEntry(shape, ++n, RelationGetDescr(rel), attno);
	att->key_unique = is_unique(rel, get_attnum(att->relid, NameStr(att->key.name)));
	att->filter_expr = att->filter ? (Expr *) ec_filter_parse(rel, att->filter, true) : NULL;
	att->shape = BlessTupleDesc(shape);
	MemoryContextSwitchTo(old);
}

/*
 * The version of a row that this transaction has written last: where its trigger
 * saw it, or where that was moved on to by a trigger within a trigger.  If the table was
 * rewritten since (CLUSTER), there may be no such place any more, which takes a system
 * call to find out; in the file that the row was written to there is.
 */
static bool
fetch_version(Relation rel, EcPlace *place, Snapshot snapshot, TupleTableSlot *slot)
{
	bool		found = false;
	TableScanDesc scan;

	if (rel->rd_rel->relfilenode == place->filenode &&
		table_tuple_fetch_row_version(rel, &place->tid, snapshot, slot))
		return true;
	scan = table_beginscan_tid(rel, snapshot);
	if (table_tuple_tid_valid(scan, &place->tid))
	{
		table_tuple_get_latest_tid(scan, &place->tid);
		found = table_tuple_fetch_row_version(rel, &place->tid, snapshot, slot);
	}
	table_endscan(scan);
	return found;
}

/* Render one row, in the attached table's layout. */
static void
render_row(EcAttachment *att, EcRow *row, TupleTableSlot *slot, ExprState *filter,
		   ExprContext *econtext)
{
	Datum	   *values = palloc(att->shape->natts * sizeof(Datum));
	bool	   *nulls = palloc(att->shape->natts * sizeof(bool));
	AttrNumber	keyatt = get_attnum(att->relid, NameStr(att->key.name));
	int			attno = -1;
	int			a = 0;
	bool		isnull;
	Datum		key = slot_getattr(slot, keyatt, &isnull);

	if (isnull || strcmp(OutputFunctionCall(&att->key.out, key), row->id) != 0)
		return;
	row->same_id = true;
	if (filter)
	{
		econtext->ecxt_scantuple = slot;
		if (!ExecQual(filter, econtext))
			return;
	}
	while ((attno = bms_next_member(att->columns, attno)) >= 0)
	{
		values[a] = slot_getattr(slot, attno, &nulls[a]);
		a++;
	}
	row->matches = 1;
	row->json = DatumGetTextP(DirectFunctionCall1(row_to_json, HeapTupleGetDatum(
						toast_build_flattened_tuple(att->shape, values, nulls))));
}

/*
 * Render rows that this transaction has written, from where it has; no query,
 * and no lock that we do not hold: the caller has locked the attached table, and
 * its DML the one that it wrote to.  A row that is not found has no matches, which
 * may mean that it is deleted, or that it would take a query.
 */
void
ec_render_written(EcAttachment *att, EcRow *rows, int n, Snapshot snapshot)
{
	Relation	root;
	EState	   *estate = NULL;
	ExprState  *filter = NULL;
	EcActing	before;

	if (n == 0)
		return;
	ec_act_begin(att, true, &before);
	PushActiveSnapshot(snapshot);
	root = table_open(att->relid, NoLock);
	if (att->shape == NULL)
		make_shape(att, root);
	if (!att->key_unique)
	{
		/* perhaps another row has the same id: that takes a query */
		for (int i = 0; i < n; i++)
			rows[i].matches = 0;
		n = 0;
	}
	if (att->filter_expr)
	{
		estate = CreateExecutorState();
		filter = ExecPrepareQual(list_make1(att->filter_expr), estate);
	}
	for (int i = 0; i < n; i++)
	{
		EcRow	   *row = &rows[i];
		Relation	rel;
		TupleTableSlot *slot;

		row->matches = 0;
		row->same_id = false;
		row->json = NULL;
		/* a virtual column would take a query */
		if (!OidIsValid(row->place.table) || att->has_virtual)
			continue;
		rel = table_open(row->place.table, NoLock);
		slot = table_slot_create(rel, NULL);
		if (fetch_version(rel, &row->place, GetActiveSnapshot(), slot))
		{
			TupleTableSlot *mine = slot;
			TupleConversionMap *map = NULL;

			if (rel->rd_id != root->rd_id)
				map = convert_tuples_by_name(RelationGetDescr(rel), RelationGetDescr(root));
			if (map)
				mine = execute_attr_map_slot(map->attrMap, slot,
											 MakeSingleTupleTableSlot(RelationGetDescr(root),
																	  &TTSOpsVirtual));
			render_row(att, row, mine, filter, filter ? GetPerTupleExprContext(estate) : NULL);
			if (mine != slot)
				ExecDropSingleTupleTableSlot(mine);
		}
		ExecDropSingleTupleTableSlot(slot);
		table_close(rel, NoLock);
	}
	if (estate)
		FreeExecutorState(estate);
	table_close(root, NoLock);
	PopActiveSnapshot();
	ec_act_end(&before);
}

/*
 * Read the rows with these ids, as the snapshot shows them, and render them.
 * rows have distinct ids; what is not there, or does not pass the filter, has no
 * matches.  With as_owner the table's owner reads, whatever the caller may do;
 * the caller has made the checks.  Throws what a query may throw.
 */
void
ec_fetch(EcAttachment *att, EcRow *rows, int n, Snapshot snapshot, bool as_owner)
{
	EcRow	  **asked;
	EcActing	before;

	if (n == 0)
		return;
	ec_act_begin(att, as_owner, &before);
	PushActiveSnapshot(snapshot);

	asked = palloc(n * sizeof(EcRow *));
	for (int i = 0; i < n; i++)
	{
		asked[i] = &rows[i];
		rows[i].matches = 0;
		rows[i].same_id = false;
		rows[i].json = NULL;
		rows[i].owner = NULL;
	}
	fetch_by_query(att, asked, n, as_owner, CurrentMemoryContext);
	pfree(asked);

	PopActiveSnapshot();
	ec_act_end(&before);
}

/*
 * What of a row goes into the cache: its JSON in UTF-8.  false: nothing; several
 * rows have the id, the row's own id is another text (1.0 for 1.00, whose
 * changes invalidate another key), or UTF-8 cannot express it.
 */
bool
ec_render_cacheable(const EcRow *row, const char **value, size_t *len)
{
	if (row->matches != 1 || !row->same_id || row->json == NULL)
		return false;
	*len = VARSIZE_ANY_EXHDR(row->json);
	*value = *len > EC_VALUE_MAX ? NULL : ec_encoding_to_utf8(VARDATA_ANY(row->json), len);
	return *value != NULL;
}

/*
 * The member that row_to_json makes of this value of the column, "user_id":"..." say,
 * in the server encoding.  *namelen is the part up to and with the colon.  The
 * caller has called ec_act_begin_output().
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

/*
 * The member that a document of this owner shows, in UTF-8 as the cache has it.
 * owner is the column's canonical text.
 */
char *
ec_owner_member(EcAttachment *att, const char *owner, int *len, int *namelen)
{
	int			nestlevel = ec_act_begin_output(att);
	char	   *member = ec_column_member(&att->owner, ec_column_datum(&att->owner, owner), false,
										  len, namelen);
	size_t		namesize = *namelen;
	size_t		size = *len;

	ec_act_end_output(nestlevel);
	/* the name too may have grown */
	if (ec_encoding_to_utf8(member, &namesize) == NULL ||
		(member = unconstify(char *, ec_encoding_to_utf8(member, &size))) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("the owner cannot be expressed in UTF-8")));
	*len = (int) size;
	*namelen = (int) namesize;
	return member;
}

/* The id of some row that has a document; NULL: there is none. */
char *
any_id(EcAttachment *att)
{
	MemoryContext context = CurrentMemoryContext;
	const char *key = quote_identifier(NameStr(att->key.name));
	char	   *id = NULL;
	EcActing	before;

	ec_act_begin(att, true, &before);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(psprintf("SELECT t.%s FROM %s%s AS t WHERE t.%s IS NOT NULL AND (%s) LIMIT 1",
							 key, att->partitioned ? "" : "ONLY ", ec_attachment_table(att), key,
							 att->filter ? att->filter : "true"), true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read a row of \"%s\"", att->name);
	if (SPI_processed > 0)
	{
		id = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
		id = MemoryContextStrdup(context, id);
	}
	SPI_finish();
	ec_act_end(&before);
	return id;
}
