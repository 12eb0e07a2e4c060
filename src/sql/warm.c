/*-------------------------------------------------------------------------
 *
 * warm.c
 *	  Fill the cache from the table.
 *
 * The table is read in the order of its keys, each batch from where the last one ended, with a
 * snapshot of its own.  What is not cached is stored as a fill would store it (batch.c has the
 * rules).  How far the warm has got stands in the attachment's slot, where one backend at a
 * time writes.
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

#include "attachments/attachment.h"
#include "attachments/column.h"
#include "attachments/configuration.h"
#include "attachments/slot.h"
#include "commit/locks.h"
#include "net/request.h"
#include "protocol/wire.h"
#include "read/act.h"
#include "read/render.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "shmem.h"
#include "sql/batch.h"
#include "sql/support.h"
#include "sql/warm.h"
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
	Datum		value;			/* as the column has it */
	uint64		hash;			/* of its lock */
	int			server;
	bool		locked;			/* in store mode */
	uint64		connection;		/* on which the token was learned */
	uint64		token;			/* of our marker; 0: not confirmed */
	int			keylen;
	char		key[EC_KEY_MAX];	/* the last, since it is not cleared */
} WarmKey;

typedef struct Warm
{
	EcBatch		batch;
	MemoryContext context;		/* of what outlives a batch */
	EcQuery		query;
	Datum		last;			/* the greatest key that we are done with */
	bool		begun;			/* there is one */
	int			limit;			/* documents of the next batch */
	int64		stored;
	int64		left_out;		/* because their servers are not UP */
	bool		none_up;		/* no server is: there is no use in going on */
} Warm;

static void make_query(Warm *warm);
static int	next_keys(Warm *warm, WarmKey *keys);
static int	choose(Warm *warm, WarmKey *keys, int *n, int64 room);
static void fill(Warm *warm, WarmKey *keys, int n);
static int	warm_batch(Warm *warm, WarmKey *keys, int n, int64 room);
static void begin_progress(EcBatch *batch);
static uint64 estimate_rows(EcAttachment *att);

/* ---------------------------------------------------------------- progress */

/* The slot that shows our progress, and the nesting level that began it; or NULL. */
static EcSlot *warming = NULL;
static int	warming_level = 0;

/*
 * The (sub)transaction at this level, or one within it, has ended, and the warm in it has
 * too, if it has not ended by itself.  Never throws.
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
estimate_rows(EcAttachment *att)
{
	double		rows = 0;
	ListCell   *lc;

	foreach(lc, att->partitioned ? find_all_inheritors(att->relid, NoLock, NULL)
			: list_make1_oid(att->relid))
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

/* Show that this attachment is being warmed; only one backend may. */
static void
begin_progress(EcBatch *batch)
{
	EcSlot	   *slot = batch->att->slot;
	uint32		other = 0;

	if (warming != NULL || !pg_atomic_compare_exchange_u32(&slot->warm_pid, &other, MyProcPid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("document \"%s\" is being warmed already",
						warming != NULL ? warming->name : batch->name),
				 errdetail("By the backend with PID %d.",
						   warming != NULL ? MyProcPid : (int) other)));
	warming = slot;
	warming_level = GetCurrentTransactionNestLevel();
	pg_atomic_write_u64(&slot->warm_total, estimate_rows(batch->att));
	pg_atomic_write_u64(&slot->warm_started, (uint64) GetCurrentTimestamp());
}

/* Behind echocache_documents: the warms that are under way in this database. */
Datum
echocache_warming_internal(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Tuplestorestate *rows = ec_support_begin_rows(fcinfo, &desc);

	for (int i = 0; i < EC_MAX_ATTACHMENTS; i++)
	{
		EcSlot	   *slot = &ec_shmem->slot[i];
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
 * Prepare the query for the next keys: $1 the last one, unless $2 says that there is none,
 * $3 how many.
 */
static void
make_query(Warm *warm)
{
	EcAttachment *att = warm->batch.att;
	TypeCacheEntry *type = lookup_type_cache(att->key.type, TYPECACHE_LT_OPR | TYPECACHE_GT_OPR);
	const char *key = quote_identifier(NameStr(att->key.name));
	Oid			argtypes[3] = {att->key.type, BOOLOID, INT4OID};
	char	   *sql;

	if (!OidIsValid(type->lt_opr) || !OidIsValid(type->gt_opr))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("the type %s of column \"%s\" has no ordering",
						format_type_be(att->key.type), NameStr(att->key.name)),
				 errdetail("%s goes over the table in the order of its keys.",
						   warm->batch.function),
				 errhint("Create a default operator class for btree.")));
	sql = psprintf("SELECT t.%s %s AND ($2 OR %s) ORDER BY t.%s LIMIT $3", key,
				   ec_batch_from(att),
				   ec_column_comparison(psprintf("t.%s", key), type->gt_opr, "$1", false), key);
	ec_batch_prepare(&warm->batch, &warm->query, sql, 3, argtypes);
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
	EcAttachment *att;
	int			nestlevel;
	int16		len;
	bool		byval;
	int			n;

	ec_batch_attachment(&warm->batch);
	att = warm->batch.att;
	if (warm->query.att != att)
		make_query(warm);
	values[0] = warm->last;
	if (!warm->begun)
		nulls[0] = 'n';
	values[1] = BoolGetDatum(!warm->begun);
	values[2] = Int32GetDatum(warm->limit);
	n = (int) ec_batch_query(&warm->batch, &warm->query, values, nulls);

	get_typlenbyval(att->key.type, &len, &byval);
	nestlevel = att->key.plain ? 0 : ec_act_begin_output(att);
	for (int i = 0; i < n; i++)
	{
		WarmKey    *key = &keys[i];
		bool		isnull;

		memset(key, 0, offsetof(WarmKey, key));
		key->value = datumCopy(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1,
											 &isnull), byval, len);
		key->id = OutputFunctionCall(&att->key.out, key->value);
		/* two partitions may have a row with the same key, of which neither is cached */
		if (i > 0 && keys[i - 1].id && strcmp(keys[i - 1].id, key->id) == 0)
			key->id = NULL;
	}
	ec_act_end_output(nestlevel);
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
	EcAttachment *att = warm->batch.att;
	EcRequest  *reqs = palloc(*n * sizeof(EcRequest));
	int			locked = 0;

	warm->none_up = true;
	for (int i = 0; i < ec_placement_size(); i++)
		warm->none_up &= ec_state_of(i) != EC_UP;
	for (int i = 0; i < *n; i++)
	{
		WarmKey    *key = &keys[i];

		if (key->id != NULL && (key->keylen = ec_attachment_key(att, key->id, key->key)) == 0)
			key->id = NULL;		/* never cached */
		if (key->id != NULL)
		{
			key->server = ec_placement_of(key->key, key->keylen);
			key->hash = ec_locks_hash(att->relid, key->id, (int) strlen(key->id));
			key->away = ec_state_of(key->server) != EC_UP;
		}
		ec_request_init(&reqs[i], EC_REQUEST_LOOK, key->server, key->key, key->keylen);
		reqs[i].skip = key->id == NULL || key->away;
	}
	ec_batch_exchange(reqs, *n);
	for (int i = 0; i < *n; i++)
	{
		WarmKey    *key = &keys[i];

		if (key->id == NULL)
			continue;
		if (key->away || reqs[i].result == EC_FAILED)
			warm->left_out++;
		else if (reqs[i].result == EC_ABSENT || reqs[i].found_len == EC_MARKER_LEN)
		{
			if (locked == room)
			{
				*n = i;
				break;
			}
			key->locked = ec_locks_key(key->hash, EC_LOCK_STORE, false);
			locked += key->locked;
		}
	}
	return locked;
}

/* Set markers on the keys that are locked, unlock them, and store their documents. */
static void
fill(Warm *warm, WarmKey *keys, int n)
{
	EcAttachment *att = warm->batch.att;
	EcRequest  *reqs = palloc(n * sizeof(EcRequest));
	EcRow	   *rows = palloc(n * sizeof(EcRow));
	size_t		bytes = 0;
	int			nrows = 0;
	int			stored = 0;
	int			r = 0;

	for (int i = 0; i < n; i++)
	{
		ec_request_mark(&reqs[i], keys[i].server, keys[i].key, keys[i].keylen);
		reqs[i].skip = !keys[i].locked;
	}
	ec_batch_exchange(reqs, n);
	for (int i = 0; i < n; i++)
		if (keys[i].locked)
			ec_locks_release_key(keys[i].hash, EC_LOCK_STORE);
	ec_batch_unlock(&warm->batch);
	for (int i = 0; i < n; i++)
	{
		if (!keys[i].locked)
			continue;
		keys[i].token = reqs[i].result == EC_DONE ? reqs[i].token : 0;
		keys[i].connection = reqs[i].connection;
		if (keys[i].token != 0)
			rows[nrows++].id = keys[i].id;
		else
			warm->left_out += reqs[i].result == EC_FAILED;
	}
	ec_slot_count(att->slot, EC_MARKERS, nrows);
	ec_waitpoint("warm-marked");

	ec_batch_fetch(&warm->batch, rows, nrows);
	for (int i = 0; i < n; i++)
	{
		WarmKey    *key = &keys[i];
		EcRequest  *req = &reqs[i];
		const char *value;
		size_t		len;

		ec_request_init(req, EC_REQUEST_REMOVE, key->server, key->key, key->keylen);
		req->token = key->token;
		req->connection = key->connection;
		req->skip = key->token == 0;
		if (req->skip)
			continue;
		if (ec_render_cacheable(&rows[r], &value, &len))
		{
			bytes += len;
			if (ec_placement_fits(key->server, key->keylen, len) &&
				ec_state_is_owned(ec_placement_generation(), key->server))
			{
				req->kind = EC_REQUEST_STORE;
				req->value = value;
				req->valuelen = len;
				req->ttl = ec_request_ttl(ec_attachment_ttl(att));
			}
		}
		r++;
	}
	ec_batch_exchange(reqs, n);
	for (int i = 0; i < n; i++)
	{
		if (keys[i].token != 0)
		{
			stored += reqs[i].kind == EC_REQUEST_STORE && reqs[i].result == EC_DONE;
			warm->left_out += reqs[i].result == EC_FAILED;
		}
	}
	ec_slot_count(att->slot, EC_FILLS, stored);
	warm->stored += stored;

	/* the next batch is to be of some megabytes */
	if (nrows > 0)
		warm->limit = Min(warm->limit, Max((int64) EC_BATCH_BYTES * nrows / (bytes + 1), 1));
}

/* One batch: of n keys, store what can be, at most room; returns how many it is done with. */
static int
warm_batch(Warm *warm, WarmKey *keys, int n, int64 room)
{
	warm->limit = Min(warm->limit * 2, EC_BATCH_MAX);
	if (!ec_batch_enter(&warm->batch))
		return n;				/* a bulk writer's documents are loaded when they are read */
	if (choose(warm, keys, &n, room) > 0)
	{
		EcSlot	   *slot = warm->batch.att->slot;

		/* G4, for the writers that had the locks before */
		if (!ec_slot_is_flushed(slot))
			XLogFlush(pg_atomic_read_u64(&slot->async_lsn));
		ec_waitpoint("warm-locked");
		fill(warm, keys, n);
	}
	else
		ec_batch_unlock(&warm->batch);
	ec_batch_leave(&warm->batch);
	return n;
}

/* Fill the cache from the table, in key order; returns how many documents were stored. */
Datum
echocache_warm(PG_FUNCTION_ARGS)
{
	int64		max = PG_ARGISNULL(1) ? PG_INT64_MAX : PG_GETARG_INT64(1);
	Warm		warm = {.limit = WARM_FIRST};
	MemoryContext batch;
	EcSlot	   *slot;
	int64		done = 0;

	ec_shmem_require();
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (max < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the number of documents cannot be negative")));
	ec_batch_begin(&warm.batch, "echocache_warm()", text_to_cstring(PG_GETARG_TEXT_PP(0)));
	begin_progress(&warm.batch);
	slot = warm.batch.att->slot;
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

			get_typlenbyval(warm.batch.att->key.type, &len, &byval);
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
		ereport(WARNING_CLIENT_ONLY,
				(errmsg("documents of \"%s\" were left out", warm.batch.name),
				 errdetail("No cache server is UP; the view echocache_servers has the reason.")));
	else if (warm.left_out > 0)
		ereport(WARNING_CLIENT_ONLY,
				(errmsg_plural("%lld document of \"%s\" was left out",
							   "%lld documents of \"%s\" were left out",
							   (unsigned long) warm.left_out, (long long) warm.left_out,
							   warm.batch.name),
				 errdetail("Not every cache server is UP; the view echocache_servers has the "
						   "reason.")));
	PG_RETURN_INT64(warm.stored);
}
