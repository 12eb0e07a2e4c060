/*-------------------------------------------------------------------------
 *
 * kv.c
 *	  The key/value client: SQL functions for what is no document.
 *
 * The client is not transactional: what is sent has happened, whatever becomes of the
 * transaction.  There is no table to fall back to, so a server that does not answer is an
 * error, and a server that is known to be down is one at once.
 *
 * No function here touches a document's key; kv_keys.c sees to that.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "read/encoding.h"
#include "servers/exchange.h"
#include "servers/placement.h"
#include "shmem.h"
#include "sql/kv.h"
#include "sql/kv_keys.h"
#include "sql/support.h"

PG_FUNCTION_INFO_V1(echocache_kv_get);
PG_FUNCTION_INFO_V1(echocache_kv_get_bytea);
PG_FUNCTION_INFO_V1(echocache_kv_get_and_touch);
PG_FUNCTION_INFO_V1(echocache_kv_get_and_touch_bytea);
PG_FUNCTION_INFO_V1(echocache_kv_gets);
PG_FUNCTION_INFO_V1(echocache_kv_gets_bytea);
PG_FUNCTION_INFO_V1(echocache_kv_get_multi);
PG_FUNCTION_INFO_V1(echocache_kv_get_multi_bytea);
PG_FUNCTION_INFO_V1(echocache_kv_set);
PG_FUNCTION_INFO_V1(echocache_kv_add);
PG_FUNCTION_INFO_V1(echocache_kv_replace);
PG_FUNCTION_INFO_V1(echocache_kv_append);
PG_FUNCTION_INFO_V1(echocache_kv_prepend);
PG_FUNCTION_INFO_V1(echocache_kv_cas);
PG_FUNCTION_INFO_V1(echocache_kv_touch);
PG_FUNCTION_INFO_V1(echocache_kv_delete);
PG_FUNCTION_INFO_V1(echocache_kv_incr);
PG_FUNCTION_INFO_V1(echocache_kv_decr);

/* Keys in one exchange, which has one deadline. */
#define KV_BATCH		1000

/*
 * A TTL that memcached takes for an absolute time, in January 1970.  (-1 says the
 * same, but in a get it says here that the TTL is to stay.)
 */
#define KV_EXPIRED		(30 * 24 * 3600 + 1)

static void check_answered(const EcRequest *req);
static void run(EcRequest *req, EcRequestKind kind, text *key);
static Oid *argument_types(FunctionCallInfo fcinfo);
static int64 lifetime_argument(FunctionCallInfo fcinfo, int arg);
static Datum value_datum(const EcRequest *req, bool binary);
static Datum get(FunctionCallInfo fcinfo, bool binary, int64 ttl);
static Datum get_and_touch(FunctionCallInfo fcinfo, bool binary);
static Datum gets(FunctionCallInfo fcinfo, bool binary);
static Datum get_multi(FunctionCallInfo fcinfo, bool binary);
static bool store(FunctionCallInfo fcinfo, EcRequest *req, EcRequestKind kind, int ttl_arg);
static Datum store_mode(FunctionCallInfo fcinfo, char mode);
static Datum arithmetic(FunctionCallInfo fcinfo, EcRequestKind kind);

/* Throws unless the server has answered and not refused. */
static void
check_answered(const EcRequest *req)
{
	const char *reason = ec_request_reason(req);

	switch (req->result)
	{
		case EC_PENDING:
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("cache server \"%s\" is not available", ec_placement_name(req->server)),
					 errdetail_internal("%s", reason)));
			break;
		case EC_FAILED:
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("cache server \"%s\" has not answered",
							ec_placement_name(req->server)),
					 errdetail_internal("%s", reason),
					 req->kind == EC_REQUEST_GET && req->ttl < 0 ? 0 :
					 errhint("The request may have been carried out, or may be yet.")));
			break;
		case EC_REFUSED:
			if (req->failure->sqlstate == ERRCODE_PROGRAM_LIMIT_EXCEEDED)
				ec_kv_keys_too_large(req, reason);
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("cache server \"%s\" does not store key \"%.*s\"",
							ec_placement_name(req->server), req->keylen, req->key),
					 errdetail_internal("%s", reason)));
			break;
		case EC_DONE:
		case EC_ABSENT:
		case EC_MISMATCH:
			break;
	}
}

/*
 * Have a request for one key answered; the rest of the req is filled in already.  One that changes
 * anything is not carried out twice: the second time could come after what somebody else has done.
 */
static void
run(EcRequest *req, EcRequestKind kind, text *key)
{
	ec_shmem_require();
	req->kind = kind;
	req->key = VARDATA_ANY(key);
	req->keylen = (int) VARSIZE_ANY_EXHDR(key);
	ec_kv_keys_check(req->key, req->keylen);
	ec_kv_keys_begin(req, 1);
	if (kind == EC_REQUEST_GET && req->ttl < 0)
		(void) ec_exchange(req, 1, ec_deadline_in(ec_guc_timeout), EC_COUNTED);
	else
		ec_exchange_once(req);
	check_answered(req);
	ec_kv_keys_end();
}

/* The declared types of the arguments: which overload was called.  Once per call site. */
static Oid *
argument_types(FunctionCallInfo fcinfo)
{
	FmgrInfo   *flinfo = fcinfo->flinfo;

	if (flinfo->fn_extra == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(flinfo->fn_mcxt);
		Oid		   *types;
		int			n;

		(void) get_func_signature(flinfo->fn_oid, &types, &n);
		flinfo->fn_extra = types;
		MemoryContextSwitchTo(old);
	}
	return flinfo->fn_extra;
}

/*
 * A lifetime, an interval or a point in time, as memcached wants it.  NULL or left out: no
 * expiry.  Throws 22023 for an interval that is none.
 */
static int64
lifetime_argument(FunctionCallInfo fcinfo, int arg)
{
	TimestampTz expires;
	TimestampTz now;

	ec_shmem_require();
	if (PG_NARGS() <= arg || PG_ARGISNULL(arg))
		return 0;
	if (argument_types(fcinfo)[arg] == TEXTOID)
	{
		/* what an untyped parameter or literal resolves to */
		char	   *lifetime = text_to_cstring(PG_GETARG_TEXT_PP(arg));
		Datum		interval = DirectFunctionCall3(interval_in, CStringGetDatum(lifetime),
												   ObjectIdGetDatum(InvalidOid),
												   Int32GetDatum(-1));

		return ec_request_ttl(ec_support_seconds(DatumGetIntervalP(interval)));
	}
	if (argument_types(fcinfo)[arg] == INTERVALOID)
		return ec_request_ttl(ec_support_seconds(PG_GETARG_INTERVAL_P(arg)));
	expires = PG_GETARG_TIMESTAMPTZ(arg);
	if (TIMESTAMP_IS_NOEND(expires))
		return 0;
	now = GetCurrentTimestamp();
	if (expires <= now)
		return KV_EXPIRED;
	return ec_request_ttl((expires - now + USECS_PER_SEC - 1) / USECS_PER_SEC);
}

/*
 * The value that was found, as bytea or as text, which it must be.  Whatever client flags it
 * has: they are a convention among those who set them.
 */
static Datum
value_datum(const EcRequest *req, bool binary)
{
	size_t		len = req->found_len;
	const char *value = VARDATA(req->found);
	const char *converted;

	if (!binary)
	{
		converted = ec_encoding_from_utf8(value, &len);
		if (converted == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
					 errmsg("the value of cache key \"%.*s\" is not text", req->keylen, req->key),
					 errdetail("It is not valid UTF-8, or has characters that the encoding of "
							   "this database has not."),
					 errhint("Read it as bytea.")));
		if (converted != value)
			return PointerGetDatum(cstring_to_text_with_len(converted, (int) len));
	}
	return PointerGetDatum(req->found);
}

/* The value of a key, NULL if it is absent.  With ttl >= 0 the key's lifetime is renewed. */
static Datum
get(FunctionCallInfo fcinfo, bool binary, int64 ttl)
{
	EcRequest	req = {.ttl = ttl};

	run(&req, EC_REQUEST_GET, PG_GETARG_TEXT_PP(0));
	if (req.result != EC_DONE)
		PG_RETURN_NULL();
	return value_datum(&req, binary);
}

Datum
echocache_kv_get(PG_FUNCTION_ARGS)
{
	return get(fcinfo, false, -1);
}

Datum
echocache_kv_get_bytea(PG_FUNCTION_ARGS)
{
	return get(fcinfo, true, -1);
}

/* Not STRICT: a lifetime that is NULL is none. */
static Datum
get_and_touch(FunctionCallInfo fcinfo, bool binary)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	return get(fcinfo, binary, lifetime_argument(fcinfo, 1));
}

Datum
echocache_kv_get_and_touch(PG_FUNCTION_ARGS)
{
	return get_and_touch(fcinfo, false);
}

Datum
echocache_kv_get_and_touch_bytea(PG_FUNCTION_ARGS)
{
	return get_and_touch(fcinfo, true);
}

/* A row with the value and its CAS token, or none. */
static Datum
gets(FunctionCallInfo fcinfo, bool binary)
{
	TupleDesc	desc;
	Tuplestorestate *rows = ec_support_begin_rows(fcinfo, &desc);
	EcRequest	req = {.ttl = -1};
	Datum		values[2];
	bool		nulls[2] = {false, false};

	run(&req, EC_REQUEST_GET, PG_GETARG_TEXT_PP(0));
	if (req.result != EC_DONE)
		return (Datum) 0;
	values[0] = value_datum(&req, binary);
	values[1] = Int64GetDatum((int64) req.token);
	tuplestore_putvalues(rows, desc, values, nulls);
	return (Datum) 0;
}

Datum
echocache_kv_gets(PG_FUNCTION_ARGS)
{
	return gets(fcinfo, false);
}

Datum
echocache_kv_gets_bytea(PG_FUNCTION_ARGS)
{
	return gets(fcinfo, true);
}

/*
 * A row for each key, in the order asked and as often; a key that is NULL gives a
 * row of NULLs, one that is absent none.  All keys are looked at before any is
 * asked for.  One exchange with all servers at once for each KV_BATCH keys.
 */
static Datum
get_multi(FunctionCallInfo fcinfo, bool binary)
{
	TupleDesc	desc;
	Tuplestorestate *rows = ec_support_begin_rows(fcinfo, &desc);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "echocache values",
												  ALLOCSET_DEFAULT_SIZES);
	Datum	   *keys;
	bool	   *absent;
	int			n;
	EcRequest  *reqs;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT, &keys, &absent,
					  &n);
	for (int i = 0; i < n; i++)
	{
		if (absent[i])
			continue;
		keys[i] = PointerGetDatum(PG_DETOAST_DATUM_PACKED(keys[i]));
		ec_kv_keys_check(VARDATA_ANY(DatumGetPointer(keys[i])),
				  (int) VARSIZE_ANY_EXHDR(DatumGetPointer(keys[i])));
	}

	reqs = palloc(Min(n, KV_BATCH) * sizeof(EcRequest));
	for (int first = 0; first < n; first += KV_BATCH)
	{
		int			count = Min(n - first, KV_BATCH);
		MemoryContext old = MemoryContextSwitchTo(context);

		memset(reqs, 0, count * sizeof(EcRequest));
		for (int i = 0; i < count; i++)
		{
			Pointer		key = DatumGetPointer(keys[first + i]);

			reqs[i].skip = absent[first + i];
			if (reqs[i].skip)
				continue;
			reqs[i].kind = EC_REQUEST_GET;
			reqs[i].key = VARDATA_ANY(key);
			reqs[i].keylen = (int) VARSIZE_ANY_EXHDR(key);
			reqs[i].ttl = -1;
		}
		ec_kv_keys_begin(reqs, count);
		(void) ec_exchange_pieces(reqs, count, ec_deadline_in(ec_guc_timeout), 0, NULL);
		for (int i = 0; i < count; i++)
			if (!reqs[i].skip)
				check_answered(&reqs[i]);
		ec_kv_keys_end();

		for (int i = 0; i < count; i++)
		{
			Datum		values[3] = {0};
			bool		nulls[3] = {true, true, true};

			if (!reqs[i].skip)
			{
				if (reqs[i].result != EC_DONE)
					continue;
				values[0] = keys[first + i];
				values[1] = value_datum(&reqs[i], binary);
				values[2] = Int64GetDatum((int64) reqs[i].token);
				memset(nulls, false, sizeof(nulls));
			}
			tuplestore_putvalues(rows, desc, values, nulls);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	return (Datum) 0;
}

Datum
echocache_kv_get_multi(PG_FUNCTION_ARGS)
{
	return get_multi(fcinfo, false);
}

Datum
echocache_kv_get_multi_bytea(PG_FUNCTION_ARGS)
{
	return get_multi(fcinfo, true);
}

/*
 * Store the value, argument 1, in the way that the req says.  Returns whether it
 * was stored.
 */
static bool
store(FunctionCallInfo fcinfo, EcRequest *req, EcRequestKind kind, int ttl_arg)
{
	struct varlena *value = PG_GETARG_VARLENA_PP(1);

	req->value = VARDATA_ANY(value);
	req->valuelen = VARSIZE_ANY_EXHDR(value);
	if (argument_types(fcinfo)[1] == TEXTOID)
	{
		req->value = ec_encoding_to_utf8(req->value, &req->valuelen);
		if (req->value == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
					 errmsg("the value cannot be expressed in UTF-8"),
					 errhint("Store it as bytea.")));
	}
	req->ttl = lifetime_argument(fcinfo, ttl_arg);
	run(req, kind, PG_GETARG_TEXT_PP(0));
	return req->result == EC_DONE;
}

/* Not STRICT: a lifetime that is NULL is none. */
static Datum
store_mode(FunctionCallInfo fcinfo, char mode)
{
	EcRequest	req = {.mode = mode};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	PG_RETURN_BOOL(store(fcinfo, &req, EC_REQUEST_SET, 2));
}

Datum
echocache_kv_set(PG_FUNCTION_ARGS)
{
	return store_mode(fcinfo, 0);
}

Datum
echocache_kv_add(PG_FUNCTION_ARGS)
{
	return store_mode(fcinfo, 'E');
}

Datum
echocache_kv_replace(PG_FUNCTION_ARGS)
{
	return store_mode(fcinfo, 'R');
}

Datum
echocache_kv_append(PG_FUNCTION_ARGS)
{
	return store_mode(fcinfo, 'A');
}

Datum
echocache_kv_prepend(PG_FUNCTION_ARGS)
{
	return store_mode(fcinfo, 'P');
}

Datum
echocache_kv_cas(PG_FUNCTION_ARGS)
{
	EcRequest	req = {0};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_NULL();
	req.token = (uint64) PG_GETARG_INT64(2);
	if (req.token == 0)			/* with which memcached stores unconditionally */
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a CAS token cannot be 0"),
				 errhint("Use the token that echocache_kv_gets() has returned.")));
	PG_RETURN_BOOL(store(fcinfo, &req, EC_REQUEST_STORE, 3));
}

/* Not STRICT: a lifetime that is NULL is none. */
Datum
echocache_kv_touch(PG_FUNCTION_ARGS)
{
	EcRequest	req = {0};

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	req.ttl = lifetime_argument(fcinfo, 1);
	run(&req, EC_REQUEST_TOUCH, PG_GETARG_TEXT_PP(0));
	PG_RETURN_BOOL(req.result == EC_DONE);
}

Datum
echocache_kv_delete(PG_FUNCTION_ARGS)
{
	EcRequest	req = {0};

	run(&req, EC_REQUEST_DELETE, PG_GETARG_TEXT_PP(0));
	PG_RETURN_BOOL(req.result == EC_DONE);
}

/* Add to the number that a value is, or subtract: the new number, NULL without the key. */
static Datum
arithmetic(FunctionCallInfo fcinfo, EcRequestKind kind)
{
	EcRequest	req = {0};
	int64		delta = PG_GETARG_INT64(1);
	uint64		number;
	char	   *digits;
	char	   *rest;

	if (delta < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the amount cannot be negative"),
				 errhint("Use %s.", kind == EC_REQUEST_INCREMENT ? "echocache_kv_decr()"
						 : "echocache_kv_incr()")));
	req.token = (uint64) delta;
	run(&req, kind, PG_GETARG_TEXT_PP(0));
	if (req.result == EC_ABSENT)
		PG_RETURN_NULL();
	if (req.result == EC_MISMATCH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("the value of cache key \"%.*s\" is not a number", req.keylen, req.key),
				 errdetail_internal("%s", ec_request_reason(&req))));

	digits = pnstrdup(VARDATA(req.found), req.found_len);
	errno = 0;
	number = strtoull(digits, &rest, 10);
	if (*digits < '0' || *digits > '9' || *rest != '\0' || errno != 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("cache server does not answer with a number")));
	if (number > PG_INT64_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("the value of cache key \"%.*s\" is out of range for type bigint",
						req.keylen, req.key),
				 errdetail("It is %s now.", digits)));
	PG_RETURN_INT64((int64) number);
}

Datum
echocache_kv_incr(PG_FUNCTION_ARGS)
{
	return arithmetic(fcinfo, EC_REQUEST_INCREMENT);
}

Datum
echocache_kv_decr(PG_FUNCTION_ARGS)
{
	return arithmetic(fcinfo, EC_REQUEST_DECREMENT);
}
