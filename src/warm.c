/*-------------------------------------------------------------------------
 *
 * warm.c
 *	  Fill the cache from the table.
 *
 * The table is read in the order of its keys, each batch from where the last one
 * ended, with a snapshot of its own.  What is not cached is stored as a fill would
 * (sweep.c has the rules).  How far it is stands in the document's slot, where one
 * backend at a time writes.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "admin.h"
#include "fence.h"
#include "sweep.h"
#include "waitpoint.h"

PG_FUNCTION_INFO_V1(echocache_warm);
PG_FUNCTION_INFO_V1(echocache_warming_internal);

/* Documents of the first batch; what comes after depends on their size. */
#define WARM_FIRST		16

/* A document that may be stored. */
typedef struct WarmKey
{
	const char *id;				/* the key column's text; NULL: not this one */
	bool		away;			/* because its server is not UP */
	Datum		value;			/* the same as the column has it */
	uint64		hash;			/* of its lock */
	int			server;
	bool		locked;			/* in store mode */
	uint64		token;			/* of our marker; 0: not confirmed */
	int			keylen;
	char		key[EC_KEY_MAX];	/* the last, since it is not cleared */
} WarmKey;

typedef struct Warm
{
	EcSweep		sweep;
	MemoryContext context;		/* of what outlives a batch */
	SPIPlanPtr	plan;
	EcDocument *planned;		/* of which document the plan is */
	Datum		last;			/* the greatest key that we are done with */
	bool		begun;			/* there is one */
	int			limit;			/* documents of the next batch */
	int64		stored;
	int64		left_out;		/* because their servers are not UP */
	bool		none_up;		/* no server is: there is no use in going on */
} Warm;

static SPIPlanPtr make_plan(EcSweep *sweep);
static int	next_keys(Warm *warm, WarmKey *keys);
static int	choose(Warm *warm, WarmKey *keys, int *n, int64 room);
static void fill(Warm *warm, WarmKey *keys, int n);
static int	warm_batch(Warm *warm, WarmKey *keys, int n, int64 room);
static void begin_progress(EcSweep *sweep);
static uint64 estimate_rows(EcDocument *doc);

/* ---------------------------------------------------------------- progress */

/* The slot that shows our progress, and the nesting level that began it; or NULL. */
static EcDocumentSlot *warming = NULL;
static int	warming_level = 0;

/*
 * The (sub)transaction at this level, or below, has ended: so has the warm in it,
 * if it has not ended by itself.  Never throws.
 */
void
ec_warm_at_end(int level)
{
	if (warming == NULL || warming_level < level)
		return;
	pg_atomic_write_u64(&warming->warm_started, 0);
	pg_atomic_write_u64(&warming->warm_total, 0);
	pg_atomic_write_u64(&warming->warm_done, 0);
	pg_atomic_write_u64(&warming->warm_stored, 0);
	pg_memory_barrier();
	pg_atomic_write_u32(&warming->warm_pid, 0);
	warming = NULL;
}

/* How many rows the table has, as far as VACUUM and ANALYZE know; 0: they do not. */
static uint64
estimate_rows(EcDocument *doc)
{
	double		rows = 0;
	ListCell   *lc;

	foreach(lc, doc->partitioned ? find_all_inheritors(doc->relid, NoLock, NULL)
			: list_make1_oid(doc->relid))
	{
		HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_class class;

		if (!HeapTupleIsValid(tuple))
			continue;
		class = (Form_pg_class) GETSTRUCT(tuple);
		if (class->relkind == RELKIND_RELATION)
			rows = class->reltuples < 0 || rows < 0 ? -1 : rows + class->reltuples;
		ReleaseSysCache(tuple);
	}
	return rows > 0 ? (uint64) rows : 0;
}

/* Show that this document is being warmed; only one backend may. */
static void
begin_progress(EcSweep *sweep)
{
	EcDocumentSlot *slot = sweep->doc->slot;
	uint32		other = 0;

	if (warming != NULL || !pg_atomic_compare_exchange_u32(&slot->warm_pid, &other, MyProcPid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("document \"%s\" is being warmed already",
						warming != NULL ? warming->name : sweep->name),
				 errdetail("By the backend with PID %d.",
						   warming != NULL ? MyProcPid : (int) other)));
	warming = slot;
	warming_level = GetCurrentTransactionNestLevel();
	pg_atomic_write_u64(&slot->warm_total, estimate_rows(sweep->doc));
	pg_atomic_write_u64(&slot->warm_started, (uint64) GetCurrentTimestamp());
}

/* Behind echocache_documents: the warms that are under way in this database. */
Datum
echocache_warming_internal(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Tuplestorestate *rows = ec_begin_rows(fcinfo, &desc);

	for (int i = 0; i < EC_MAX_DOCUMENTS; i++)
	{
		EcDocumentSlot *slot = &ec_shared->document[i];
		uint32		pid = pg_atomic_read_u32(&slot->warm_pid);
		uint64		started = pg_atomic_read_u64(&slot->warm_started);
		uint64		total = pg_atomic_read_u64(&slot->warm_total);
		Datum		values[6];
		bool		nulls[6] = {0};

		if (slot->dboid != MyDatabaseId || pid == 0)
			continue;
		values[0] = ObjectIdGetDatum(slot->relid);
		values[1] = Int32GetDatum((int32) pid);
		values[2] = TimestampTzGetDatum((TimestampTz) started);
		nulls[2] = started == 0;
		values[3] = Int64GetDatum((int64) total);
		nulls[3] = total == 0;
		values[4] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->warm_done));
		values[5] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->warm_stored));
		tuplestore_putvalues(rows, desc, values, nulls);
	}
	return (Datum) 0;
}

/* ---------------------------------------------------------------- the work */

/*
 * The query for the next keys: $1 the last one, unless $2 says that there is none,
 * $3 how many.
 */
static SPIPlanPtr
make_plan(EcSweep *sweep)
{
	EcDocument *doc = sweep->doc;
	TypeCacheEntry *type = lookup_type_cache(doc->key.type, TYPECACHE_LT_OPR | TYPECACHE_GT_OPR);
	const char *key = quote_identifier(NameStr(doc->key.name));
	Oid			argtypes[3] = {doc->key.type, BOOLOID, INT4OID};
	HeapTuple	operator;
	char	   *sql;

	if (!OidIsValid(type->lt_opr) || !OidIsValid(type->gt_opr))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("the type %s of column \"%s\" has no ordering",
						format_type_be(doc->key.type), NameStr(doc->key.name)),
				 errdetail("%s goes over the table in the order of its keys.", sweep->function),
				 errhint("Create a default operator class for btree.")));
	operator = SearchSysCache1(OPEROID, ObjectIdGetDatum(type->gt_opr));
	if (!HeapTupleIsValid(operator))
		elog(ERROR, "cache lookup failed for operator %u", type->gt_opr);
	sql = psprintf("SELECT t.%s %s AND ($2 OR t.%s OPERATOR(%s.%s) $1) ORDER BY t.%s LIMIT $3",
				   key, ec_sweep_from(doc), key,
				   quote_identifier(get_namespace_name(
										((Form_pg_operator) GETSTRUCT(operator))->oprnamespace)),
				   NameStr(((Form_pg_operator) GETSTRUCT(operator))->oprname), key);
	ReleaseSysCache(operator);
	return ec_sweep_prepare(sweep, sql, 3, argtypes);
}

/*
 * The keys of the next rows, at most warm->limit; returns how many.  In the batch's
 * context.
 */
static int
next_keys(Warm *warm, WarmKey *keys)
{
	Datum		values[3];
	char		nulls[3] = {' ', ' ', ' '};
	EcDocument *doc;
	int			nestlevel;
	int16		len;
	bool		byval;
	int			n;

	ec_sweep_document(&warm->sweep);
	doc = warm->sweep.doc;
	if (warm->planned != doc)
	{
		if (warm->plan)
			(void) SPI_freeplan(warm->plan);
		warm->plan = make_plan(&warm->sweep);
		warm->planned = doc;
	}
	values[0] = warm->last;
	if (!warm->begun)
		nulls[0] = 'n';
	values[1] = BoolGetDatum(!warm->begun);
	values[2] = Int32GetDatum(warm->limit);
	n = (int) ec_sweep_query(&warm->sweep, warm->plan, values, nulls);

	get_typlenbyval(doc->key.type, &len, &byval);
	nestlevel = doc->key.plain ? 0 : ec_render_begin(doc);
	for (int i = 0; i < n; i++)
	{
		WarmKey    *key = &keys[i];
		bool		isnull;

		memset(key, 0, offsetof(WarmKey, key));
		key->value = datumCopy(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1,
											 &isnull), byval, len);
		key->id = OutputFunctionCall(&doc->key.out, key->value);
		/* two partitions may have a row with the same key, of which neither is cached */
		if (i > 0 && keys[i - 1].id && strcmp(keys[i - 1].id, key->id) == 0)
			key->id = NULL;
	}
	ec_render_end(nestlevel);
	SPI_freetuptable(SPI_tuptable);
	return n;
}

/*
 * Which of the keys are to be stored?  Those that are not cached, on a server that
 * is UP, and whose lock is to be had at once; these are locked.  At most room, and
 * *n becomes how many were looked at for that.  Returns how many are locked.
 */
static int
choose(Warm *warm, WarmKey *keys, int *n, int64 room)
{
	EcDocument *doc = warm->sweep.doc;
	EcOp	   *ops = palloc(*n * sizeof(EcOp));
	int			locked = 0;

	warm->none_up = true;
	for (int i = 0; i < ec_cluster_size(); i++)
		warm->none_up &= ec_server_state(i) != EC_UP;
	for (int i = 0; i < *n; i++)
	{
		WarmKey    *key = &keys[i];

		if (key->id != NULL && (key->keylen = ec_document_key(doc, key->id, key->key)) == 0)
			key->id = NULL;		/* never cached */
		if (key->id != NULL)
		{
			key->server = ec_cluster_place(key->key, key->keylen);
			key->hash = ec_key_hash(doc->relid, key->id, (int) strlen(key->id));
			key->away = ec_server_state(key->server) != EC_UP;
		}
		ec_sweep_op(&ops[i], EC_OP_LOOK, key->server, key->key, key->keylen);
		ops[i].skip = key->id == NULL || key->away;
	}
	ec_sweep_exchange(ops, *n);
	for (int i = 0; i < *n; i++)
	{
		WarmKey    *key = &keys[i];

		if (key->id == NULL)
			continue;
		if (key->away || ops[i].result == EC_FAILED)
			warm->left_out++;
		else if (ops[i].result == EC_ABSENT || ops[i].found_len == EC_MARKER_LEN)
		{
			if (locked == room)
			{
				*n = i;
				break;
			}
			key->locked = ec_lock_key(key->hash, EC_LOCK_STORE, false);
			locked += key->locked;
		}
	}
	return locked;
}

/* Store the documents whose keys are locked, and unlock them. */
static void
fill(Warm *warm, WarmKey *keys, int n)
{
	EcDocument *doc = warm->sweep.doc;
	EcOp	   *ops = palloc(n * sizeof(EcOp));
	EcRow	   *rows = palloc(n * sizeof(EcRow));
	size_t		bytes = 0;
	int			nrows = 0;
	int			stored = 0;
	int			r = 0;

	for (int i = 0; i < n; i++)
	{
		ec_op_mark(&ops[i], keys[i].server, keys[i].key, keys[i].keylen);
		ops[i].skip = !keys[i].locked;
	}
	ec_sweep_exchange(ops, n);
	for (int i = 0; i < n; i++)
	{
		if (!keys[i].locked)
			continue;
		keys[i].token = ops[i].result == EC_DONE ? ops[i].token : 0;
		if (keys[i].token != 0)
			rows[nrows++].id = keys[i].id;
		else
			warm->left_out += ops[i].result == EC_FAILED;
	}
	ec_count(doc->slot, EC_MARKERS, nrows);
	ec_wait_point("warm-marked");

	if (!ec_sweep_fetch(&warm->sweep, rows, nrows))
	{
		/* only the markers go: these documents are loaded when they are read */
		for (int i = 0; i < nrows; i++)
			rows[i].matches = 0;
	}
	for (int i = 0; i < n; i++)
	{
		WarmKey    *key = &keys[i];
		EcOp	   *op = &ops[i];
		const char *value;
		size_t		len;

		ec_sweep_op(op, EC_OP_REMOVE, key->server, key->key, key->keylen);
		op->token = key->token;
		op->skip = key->token == 0;
		if (op->skip)
			continue;
		if (ec_document_cacheable(&rows[r], &value, &len))
		{
			bytes += len;
			if (ec_cluster_fits(key->server, key->keylen, len))
			{
				op->kind = EC_OP_STORE;
				op->value = value;
				op->valuelen = len;
				op->ttl = ec_wire_ttl(ec_document_ttl(doc));
			}
		}
		r++;
	}
	ec_sweep_exchange(ops, n);
	for (int i = 0; i < n; i++)
	{
		if (keys[i].token != 0)
		{
			stored += ops[i].kind == EC_OP_STORE && ops[i].result == EC_DONE;
			warm->left_out += ops[i].result == EC_FAILED;
		}
		if (keys[i].locked)
			ec_unlock_key(keys[i].hash, EC_LOCK_STORE);
	}
	ec_count(doc->slot, EC_FILLS, stored);
	warm->stored += stored;

	/* the next batch is to be of some megabytes */
	if (nrows > 0)
		warm->limit = Min(warm->limit, Max((int64) EC_SWEEP_BYTES * nrows / (bytes + 1), 1));
}

/* One batch: of n keys, store what can be, at most room; returns how many it is done with. */
static int
warm_batch(Warm *warm, WarmKey *keys, int n, int64 room)
{
	warm->limit = Min(warm->limit * 2, EC_SWEEP_MAX);
	if (!ec_sweep_enter(&warm->sweep))
		return n;				/* a bulk writer's documents are loaded when they are read */
	if (choose(warm, keys, &n, room) > 0)
	{
		EcDocumentSlot *slot = warm->sweep.doc->slot;

		/* G4, as far as it concerns those who had the locks before us */
		if (!ec_commits_flushed(slot))
			XLogFlush(pg_atomic_read_u64(&slot->async_lsn));
		ec_wait_point("warm-locked");
		fill(warm, keys, n);
	}
	ec_sweep_leave(&warm->sweep);
	return n;
}

/* Fill the cache from the table, in key order; returns how many documents were stored. */
Datum
echocache_warm(PG_FUNCTION_ARGS)
{
	int64		max = PG_ARGISNULL(1) ? PG_INT64_MAX : PG_GETARG_INT64(1);
	Warm		warm = {.limit = WARM_FIRST};
	MemoryContext batch;
	EcDocumentSlot *slot;
	int64		done = 0;

	ec_require_preload();
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (max < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the number of documents cannot be negative")));
	ec_sweep_begin(&warm.sweep, "echocache_warm()", text_to_cstring(PG_GETARG_TEXT_PP(0)));
	begin_progress(&warm.sweep);
	slot = warm.sweep.doc->slot;
	warm.context = CurrentMemoryContext;
	batch = AllocSetContextCreate(CurrentMemoryContext, "echocache warm", ALLOCSET_DEFAULT_SIZES);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");

	while (warm.stored < max && !warm.none_up)
	{
		MemoryContext old = MemoryContextSwitchTo(batch);
		WarmKey    *keys = palloc(warm.limit * sizeof(WarmKey));
		int			n = next_keys(&warm, keys);

		if (n == 0)
		{
			MemoryContextSwitchTo(old);
			break;
		}
		n = warm_batch(&warm, keys, n, max - warm.stored);
		if (n > 0)
		{
			int16		len;
			bool		byval;

			get_typlenbyval(warm.sweep.doc->key.type, &len, &byval);
			if (warm.begun && !byval)
				pfree(DatumGetPointer(warm.last));
			MemoryContextSwitchTo(warm.context);
			warm.last = datumCopy(keys[n - 1].value, byval, len);
			warm.begun = true;
		}
		done += n;
		pg_atomic_write_u64(&slot->warm_done, done);
		pg_atomic_write_u64(&slot->warm_stored, warm.stored);
		MemoryContextSwitchTo(old);
		MemoryContextReset(batch);
	}
	SPI_finish();
	MemoryContextDelete(batch);
	ec_warm_at_end(0);

	if (warm.none_up)
		ereport(WARNING,
				(errmsg("documents of \"%s\" were left out", warm.sweep.name),
				 errdetail("No cache server is UP; the view echocache_servers has the reason.")));
	else if (warm.left_out > 0)
		ereport(WARNING,
				(errmsg_plural("%lld document of \"%s\" was left out",
							   "%lld documents of \"%s\" were left out",
							   (unsigned long) warm.left_out, (long long) warm.left_out,
							   warm.sweep.name),
				 errdetail("Not every cache server is UP; the view echocache_servers has the "
						   "reason.")));
	PG_RETURN_INT64(warm.stored);
}
