/*-------------------------------------------------------------------------
 *
 * verify.c
 *	  Compare the documents that the servers hold to the rows that there are.
 *
 * The servers are asked which keys they hold, since the table cannot tell the keys of rows that
 * are gone.  What is right judge.c says.
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

#include "attachments/configuration.h"
#include "deadline.h"
#include "net/request.h"
#include "sql/batch.h"
#include "sql/judge.h"
#include "sql/support.h"
#include "sql/verify.h"
#include "sql/verify_keys.h"

PG_FUNCTION_INFO_V1(echocache_verify);

/* How often to try a key that is busy, and how long to wait in between. */
#define BUSY_TRIES		6
#define BUSY_NAP_MS		20

/* Keys that are reported by name, at most. */
#define KEYS_MAX		1000

static void report(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n);
static int	verify_now(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n);
static void verify_slice(EcVerify *verify, EcVerifyKey *keys, int n);
static int64 count_rows(EcVerify *verify, int64 limit);
static EcVerify *begin(FunctionCallInfo fcinfo);
static int	next_keys(EcVerify *verify, EcVerifyKey *keys);
static void verify_all(EcVerify *verify);

/*
 * Count the values that should not have been there.  The topology is not entered, nor any lock
 * held: what ec_judge_is_ours() calls may be an owner's code, and take its time.
 */
static void
report(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n)
{
	for (int i = 0; i < n; i++)
	{
		EcVerifyKey *key = &keys[i];

		if (!key->wrong)
			continue;
		if (ec_judge_is_ours(verify, key, &reqs[i]))
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
 * Look at those keys that are not done, and invalidate what is wrong; returns how many are left.
 * The topology is entered, and the attachment lock held in share mode until the servers have
 * answered.
 */
static int
verify_now(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n)
{
	ec_judge_look(verify, keys, reqs, n);
	return ec_judge_invalidate(verify, keys, reqs, n);
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
