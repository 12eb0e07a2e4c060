/*-------------------------------------------------------------------------
 *
 * verify.c
 *	  Compare the documents that the servers hold to the rows that there are.
 *
 * The servers are asked which keys they hold, since the table cannot tell the keys of rows that
 * are gone.  Each key is then looked at in this order: is the server UP, the value and its
 * token, a snapshot, the row.  What differs is removed by the token, and counts as wrong if it
 * was there still, on a server that has been UP all the time: a writer whose change the
 * snapshot shows would have taken the token away before.  src/README.md has the whole argument.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "attachments/column.h"
#include "attachments/configuration.h"
#include "commit/locks.h"
#include "deadline.h"
#include "net/request.h"
#include "protocol/wire.h"
#include "read/act.h"
#include "read/encoding.h"
#include "read/local.h"
#include "read/render.h"
#include "servers/state.h"
#include "shmem.h"
#include "sql/batch.h"
#include "sql/support.h"
#include "sql/verify.h"
#include "sql/verify_keys.h"
#include "waitpoint.h"

PG_FUNCTION_INFO_V1(echocache_verify);

/* How often to try a key that is busy, and how long to wait in between. */
#define BUSY_TRIES		6
#define BUSY_NAP_MS		20

/* Keys that are reported by name, at most. */
#define KEYS_MAX		1000

typedef struct Classify
{
	EcVerify   *verify;
	EcVerifyKey *key;
	EcRequest  *req;
	bool		ours;
} Classify;

static void classify(void *arg);
static bool is_ours(EcVerify *verify, EcVerifyKey *key, EcRequest *req);
static void report(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n);
static void ask_for(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n);
static void find_rows(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n);
static int	compare(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n);
static int	verify_now(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n);
static void verify_slice(EcVerify *verify, EcVerifyKey *keys, int n);
static int64 count_rows(EcVerify *verify, int64 limit);
static EcVerify *begin(FunctionCallInfo fcinfo);
static int	next_keys(EcVerify *verify, EcVerifyKey *keys);
static void verify_all(EcVerify *verify);

/*
 * Is the value a JSON object that has this id as its key?  By SQL, which knows both the
 * JSON and the type.  Throws what these throw.
 */
static void
classify(void *arg)
{
	Classify   *c = arg;
	EcVerify   *verify = c->verify;
	EcAttachment *att = verify->batch.att;
	size_t		len = c->req->found_len;
	const char *value = ec_encoding_from_utf8(VARDATA(c->req->found), &len);
	Datum		values[3];
	EcActing	before;
	bool		isnull;

	if (value == NULL || memchr(value, '\0', len) != NULL)
		return;
	values[0] = PointerGetDatum(cstring_to_text_with_len(value, (int) len));
	values[1] = CStringGetTextDatum(NameStr(att->key.name));
	ec_act_begin(att, true, &before);
	values[2] = ec_column_datum(&att->key, c->key->id);
	ec_act_end(&before);
	if (ec_batch_query(&verify->batch, &verify->query, values, NULL) == 1)
		c->ours = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
											 &isnull)) && !isnull;
	SPI_freetuptable(SPI_tuptable);
}

/* Could we have written this, some time, for this key? */
static bool
is_ours(EcVerify *verify, EcVerifyKey *key, EcRequest *req)
{
	Classify	c = {verify, key, req, false};

	if (key->id == NULL || req->client_flags != 0)
		return false;
	if (verify->query.att != verify->batch.att)
	{
		Oid			argtypes[3] = {TEXTOID, TEXTOID, verify->batch.att->key.type};

		ec_batch_prepare(&verify->batch, &verify->query,
						 "SELECT CASE WHEN pg_catalog.json_typeof(j) OPERATOR(pg_catalog.=) "
						 "'object' THEN (j OPERATOR(pg_catalog.->) $2)::pg_catalog.jsonb "
						 "OPERATOR(pg_catalog.=) pg_catalog.to_jsonb($3) END "
						 "FROM (SELECT $1::pg_catalog.json AS j) AS v",
						 3, argtypes);
	}
	return ec_act_guarded(classify, &c) && c.ours;
}

/*
 * Count the values that should not have been there.  The topology is not entered, nor any lock
 * held: what is_ours() calls may be an owner's code, and take its time.
 */
static void
report(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n)
{
	for (int i = 0; i < n; i++)
	{
		EcVerifyKey *key = &keys[i];

		if (!key->wrong)
			continue;
		if (is_ours(verify, key, &reqs[i]))
			verify->stale++;
		else
			verify->foreign++;
		verify->no_row += key->row == NULL || !key->row->same_id;
		if (verify->want_keys && verify->nkeys < KEYS_MAX)
		{
			MemoryContext old = MemoryContextSwitchTo(verify->context);

			verify->keys[verify->nkeys++] = CStringGetTextDatum(key->key);
			MemoryContextSwitchTo(old);
		}
	}
}

/*
 * Prepare the requests for what the servers hold under those keys that are not done.  The state
 * is read before: a writer that could not set its marker has made the server DOWN before it
 * committed, and the server is UP again only when the worker has made up for that.
 */
static void
ask_for(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n)
{
	for (int i = 0; i < n; i++)
	{
		EcVerifyKey *key = &keys[i];
		EcRequest  *req = &reqs[i];

		ec_request_init(req, EC_REQUEST_INSPECT, key->server, key->key, key->keylen);
		req->valuelen = key->size;
		req->skip = key->done;
		if (key->done)
			continue;
		key->done = true;
		key->word = ec_state_seen(key->server);
		if (EC_STATE(key->word) != EC_UP)
		{
			req->skip = true;
			verify->left_out++;
		}
	}
}

/*
 * Find the rows of the documents that the servers hold.  Everything that is held, and is no
 * marker, counts as wrong until it is known to be right.
 */
static void
find_rows(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n)
{
	EcRow	   *rows = palloc(n * sizeof(EcRow));
	int			nrows = 0;

	for (int i = 0; i < n; i++)
	{
		EcVerifyKey *key = &keys[i];
		EcRequest  *req = &reqs[i];

		key->row = NULL;
		key->wrong = false;
		verify->left_out += req->result == EC_FAILED;
		if (req->result != EC_DONE ||
			(req->found_len == EC_MARKER_LEN &&
			 memcmp(VARDATA(req->found), EC_MARKER, EC_MARKER_LEN) == 0))
			continue;
		if (!ec_state_is_still(key->server, key->word))
		{
			verify->left_out++;	/* it may be somebody else's document */
			continue;
		}
		key->wrong = true;
		if (key->id != NULL)
		{
			key->row = &rows[nrows++];
			key->row->id = key->id;
		}
	}
	ec_waitpoint("verify-got");
	ec_batch_fetch(&verify->batch, rows, nrows);
}

/*
 * Compare what the servers hold to the rows, and invalidate, by its token, what is wrong; then
 * nothing stays in shared memory either.  What is not there any more may have been right when it
 * was asked for, and so may what a server has that has been DOWN since.  Returns how many keys are
 * left for another try.
 */
static int
compare(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n)
{
	EcAttachment *att = verify->batch.att;
	EcRequest  *removals = palloc(n * sizeof(EcRequest));
	int			open = 0;

	for (int i = 0; i < n; i++)
	{
		EcVerifyKey *key = &keys[i];
		EcRequest  *req = &reqs[i];
		const char *value;
		size_t		len;

		if (key->row != NULL && req->client_flags == 0 &&
			ec_render_cacheable(key->row, &value, &len) && len == req->found_len &&
			memcmp(value, VARDATA(req->found), len) == 0)
		{
			key->wrong = false;
			verify->matching++;
		}
		ec_request_init(&removals[i], EC_REQUEST_REMOVE, key->server, key->key, key->keylen);
		removals[i].token = req->token;
		removals[i].connection = req->connection;
		removals[i].skip = !key->wrong;
	}
	ec_batch_exchange(removals, n);
	for (int i = 0; i < n; i++)
	{
		EcVerifyKey *key = &keys[i];
		bool		still;

		if (!key->wrong)
			continue;
		/* it may have been promoted before it was removed */
		if (key->id != NULL)
			ec_local_drop(att, ec_locks_hash(att->relid, key->id, (int) strlen(key->id)));
		still = ec_state_is_still(key->server, key->word);
		if (removals[i].result == EC_DONE && still)
			verify->invalidated++;
		else
			key->wrong = false;
		if (removals[i].result == EC_FAILED || (removals[i].result == EC_DONE && !still))
			verify->left_out++;
		else if (removals[i].result != EC_DONE)
		{
			key->done = false;
			open++;
		}
	}
	return open;
}

/*
 * Look at those keys that are not done; returns how many are left.  The topology is entered,
 * and the attachment lock held in share mode until the servers have answered.  The order is
 * that of the argument in src/README.md: state, value, snapshot, row, topology, removal.
 */
static int
verify_now(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n)
{
	ask_for(verify, keys, reqs, n);
	ec_batch_exchange(reqs, n);
	ec_batch_unlock(&verify->batch);
	find_rows(verify, keys, reqs, n);
	ec_verify_keys_check_topology(verify);
	return compare(verify, keys, reqs, n);
}

/* As many documents as are looked at together, with some patience for those that are busy. */
static void
verify_slice(EcVerify *verify, EcVerifyKey *keys, int n)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "echocache verify slice",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int			open = n;

	for (int tries = 1;; tries++)
	{
		EcRequest  *reqs = palloc(n * sizeof(EcRequest));

		if (!ec_batch_enter(&verify->batch))
			break;				/* a bulk writer, for long */
		ec_verify_keys_check_topology(verify);
		open = verify_now(verify, keys, reqs, n);
		ec_batch_leave(&verify->batch);
		report(verify, keys, reqs, n);
		MemoryContextReset(context);
		if (open == 0 || tries == BUSY_TRIES)
			break;
		ec_deadline_nap(BUSY_NAP_MS, EC_WAIT_KEY);
	}
	verify->busy += open;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* How many rows have a document; limit says how many are of interest. */
static int64
count_rows(EcVerify *verify, int64 limit)
{
	Oid			argtypes[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(limit)};
	EcQuery		query = {NULL};
	bool		isnull;

	ec_batch_attachment(&verify->batch);
	ec_batch_prepare(&verify->batch, &query,
					 psprintf("SELECT pg_catalog.count(*) FROM (SELECT 1 %s LIMIT $1) AS r",
							  ec_batch_from(verify->batch.att)), 1, argtypes);
	if (ec_batch_query(&verify->batch, &query, values, NULL) != 1)
		elog(ERROR, "could not count the rows of document \"%s\"", verify->batch.name);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* Everything that outlives a batch, in the current memory context. */
static EcVerify *
begin(FunctionCallInfo fcinfo)
{
	EcVerify   *verify = palloc0(sizeof(EcVerify));

	ec_batch_begin(&verify->batch, "echocache_verify()", text_to_cstring(PG_GETARG_TEXT_PP(0)));
	verify->context = CurrentMemoryContext;
	verify->want_keys = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	if (verify->want_keys)
		verify->keys = palloc(KEYS_MAX * sizeof(Datum));
	if (!pg_strong_random(&verify->random, sizeof(verify->random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random number")));
	verify->desc = CreateTemplateTupleDesc(2);
	TupleDescInitEntry(verify->desc, 1, "server", INT4OID, -1, 0);
	TupleDescInitEntry(verify->desc, 2, "key", TEXTOID, -1, 0);
	/* a temporary file that is slow would hold up the server while it lists its keys */
	verify->found = tuplestore_begin_heap(false, false, maintenance_work_mem);
	verify->slot = MakeSingleTupleTableSlot(verify->desc, &TTSOpsMinimalTuple);
	return verify;
}

/* The next batch of keys, distinct and in order; returns how many, 0 at the end. */
static int
next_keys(EcVerify *verify, EcVerifyKey *keys)
{
	int			n = 0;
	int			end = 1;

	while (n < EC_BATCH_MAX && ec_verify_keys_next(verify, &keys[n]))
		n++;
	if (n == 0)
		return 0;
	/* a server may tell a key twice, if its table grows meanwhile */
	qsort(keys, n, sizeof(EcVerifyKey), ec_verify_keys_compare);
	for (int i = 1; i < n; i++)
		if (ec_verify_keys_compare(&keys[end - 1], &keys[i]) != 0)
			keys[end++] = keys[i];
	return end;
}

/* Look at all keys that were collected, or at the sample of them, batch by batch. */
static void
verify_all(EcVerify *verify)
{
	MemoryContext context = AllocSetContextCreate(verify->context, "echocache verify",
												  ALLOCSET_DEFAULT_SIZES);
	EcVerifyKey *keys = palloc(EC_BATCH_MAX * sizeof(EcVerifyKey));
	int			n;
	int			end;

	MemoryContextSwitchTo(context);
	while ((n = next_keys(verify, keys)) > 0)
	{
		ec_batch_attachment(&verify->batch);
		ec_verify_keys_find_ids(verify, keys, n);
		n = ec_verify_keys_look(verify, keys, n);
		for (int first = 0; first < n; first = end)
		{
			size_t		bytes = 0;

			for (end = first; end < n; end++)
			{
				if (end > first && bytes + keys[end].size > EC_BATCH_BYTES)
					break;
				bytes += keys[end].size;
			}
			verify_slice(verify, keys + first, end - first);
		}
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(verify->context);
	MemoryContextDelete(context);
}

/* Compare what is cached to the table, and invalidate what is wrong; one row of counts. */
Datum
echocache_verify(PG_FUNCTION_ARGS)
{
	int64		sample = PG_ARGISNULL(1) ? PG_INT64_MAX : PG_GETARG_INT64(1);
	TupleDesc	desc;
	Tuplestorestate *result = ec_support_begin_rows(fcinfo, &desc);
	EcVerify   *verify;
	Datum		values[8];
	bool		nulls[8] = {false};
	int64		rows;

	if (PG_ARGISNULL(0))
		return (Datum) 0;
	if (sample < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the size of a sample cannot be negative")));
	verify = begin(fcinfo);
	ec_verify_keys_collect(verify);
	verify->missing = Min(sample, verify->nfound);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	verify_all(verify);
	rows = count_rows(verify, sample);
	SPI_finish();
	MemoryContextSwitchTo(verify->context);
	ExecDropSingleTupleTableSlot(verify->slot);
	tuplestore_end(verify->found);

	if (verify->left_out > 0)
		ereport(WARNING_CLIENT_ONLY,
				(errmsg_plural("%lld document of \"%s\" was not verified",
							   "%lld documents of \"%s\" were not verified",
							   (unsigned long) verify->left_out, (long long) verify->left_out,
							   verify->batch.name),
				 errdetail("A cache server is not UP any more; the view echocache_servers has the "
						   "reason.")));
	values[0] = Int64GetDatum(Min(sample, rows + verify->no_row));
	values[1] = Int64GetDatum(verify->matching + verify->stale + verify->foreign);
	values[2] = Int64GetDatum(verify->matching);
	values[3] = Int64GetDatum(verify->stale);
	values[4] = Int64GetDatum(verify->foreign);
	values[5] = Int64GetDatum(verify->busy);
	values[6] = Int64GetDatum(verify->invalidated);
	nulls[7] = !verify->want_keys;
	if (verify->want_keys)
		values[7] = PointerGetDatum(construct_array(verify->keys, verify->nkeys, TEXTOID, -1,
													false, TYPALIGN_INT));
	tuplestore_putvalues(result, desc, values, nulls);
	return (Datum) 0;
}
