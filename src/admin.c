/*-------------------------------------------------------------------------
 *
 * admin.c
 *	  SQL functions about the cache itself: is it there, what is it doing.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "admin.h"
#include "cluster.h"
#include "compat.h"
#include "document.h"
#include "guc.h"

PG_FUNCTION_INFO_V1(echocache_is_available);
PG_FUNCTION_INFO_V1(echocache_health);
PG_FUNCTION_INFO_V1(echocache_connect);
PG_FUNCTION_INFO_V1(echocache_disconnect);
PG_FUNCTION_INFO_V1(echocache_servers_internal);
PG_FUNCTION_INFO_V1(echocache_stats_internal);
PG_FUNCTION_INFO_V1(echocache_stats_reset);

static bool try_op(EcRequest *req);

int64
ec_support_seconds(const Interval *interval)
{
	int64		seconds;

	if (interval->month != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a lifetime cannot have months or years"),
				 errhint("Use days, hours, minutes or seconds.")));
	seconds = (int64) interval->day * SECS_PER_DAY +
		interval->time / USECS_PER_SEC + (interval->time % USECS_PER_SEC > 0);
	/* what is less than a second below zero is rounded up to it, and negative all the same */
	if (seconds < 0 || seconds > INT_MAX ||
		(seconds == 0 && interval->time % USECS_PER_SEC < 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a lifetime must be between 0 (no expiry) and %d seconds", INT_MAX)));
	return seconds;
}

Tuplestorestate *
ec_support_begin_rows(FunctionCallInfo fcinfo, TupleDesc *desc)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext old;

	ec_shmem_require();
	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo) ||
		!(rsinfo->allowedModes & SFRM_Materialize))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	old = MemoryContextSwitchTo(rsinfo->econtext->ecxt_per_query_memory);
	if (get_call_result_type(fcinfo, NULL, desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	rsinfo->returnMode = SFRM_Materialize;
	rsinfo->setResult = tuplestore_begin_heap(true, false, work_mem);
	rsinfo->setDesc = *desc;
	MemoryContextSwitchTo(old);
	return rsinfo->setResult;
}

/* Is the cache enabled, and at least one server UP for this database? */
Datum
echocache_is_available(PG_FUNCTION_ARGS)
{
	bool		up = false;

	ec_shmem_require();
	if (!ec_placement_enter())
		PG_RETURN_BOOL(false);
	for (int i = 0; i < ec_placement_size(); i++)
		up |= ec_state_of(i) == EC_UP;
	ec_topology_leave();
	PG_RETURN_BOOL(up);
}

static bool
try_op(EcRequest *req)
{
	req->token = 0;
	(void) ec_exchange(req, 1, ec_deadline_in(ec_guc_timeout), 0);
	return req->result == EC_DONE;
}

/*
 * Set, get and delete a key of our own on every server, whatever its state.  The
 * key is no document's: names of documents do not begin with an underscore.
 */
Datum
echocache_health(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Tuplestorestate *rows = ec_support_begin_rows(fcinfo, &desc);
	char		key[64];
	const char	value[] = "{\"echocache\":\"health\"}";

	snprintf(key, sizeof(key), "_echocache_health:%d", MyProcPid);
	if (!ec_placement_enter())
		return (Datum) 0;
	for (int i = 0; i < ec_placement_size(); i++)
	{
		Datum		values[7] = {0};
		bool		nulls[7] = {0};
		EcRequest		req = {.server = i,.key = key,.keylen = (int) strlen(key)};
		int64		start = ec_deadline_in(0);
		bool		got;

		values[0] = CStringGetTextDatum(ec_placement_name(i));

		req.kind = EC_REQUEST_SET;
		req.value = value;
		req.valuelen = strlen(value);
		req.ttl = ec_guc_marker_ttl;
		values[2] = BoolGetDatum(try_op(&req));

		req.kind = EC_REQUEST_GET;
		req.value = NULL;
		req.ttl = -1;
		got = DatumGetBool(values[2]) && try_op(&req) && req.found_len == strlen(value) &&
			memcmp(VARDATA(req.found), value, req.found_len) == 0;
		values[3] = BoolGetDatum(got);

		req.kind = EC_REQUEST_DELETE;
		values[4] = BoolGetDatum(got && try_op(&req));

		values[1] = CStringGetTextDatum(ec_state_name(ec_state_of(i)));
		values[5] = Float8GetDatum((ec_deadline_in(0) - start) / 1000.0);
		nulls[6] = DatumGetBool(values[4]);
		if (!nulls[6])
			values[6] = CStringGetTextDatum(ec_exchange_last_failure(NULL));
		tuplestore_putvalues(rows, desc, values, nulls);
	}
	ec_topology_leave();
	return (Datum) 0;
}

/* Connect this backend to every server that is not DOWN; returns to how many. */
Datum
echocache_connect(PG_FUNCTION_ARGS)
{
	char		request[EC_REQUEST_MAX];
	size_t		len = ec_wire_barrier(request);
	int			n = 0;

	ec_shmem_require();
	if (!ec_placement_enter())
		PG_RETURN_INT32(0);
	for (int i = 0; i < ec_placement_size(); i++)
		if (ec_state_of(i) != EC_DOWN)
			n += ec_exchange_command(i, request, len, NULL, NULL) == EC_DONE;
	ec_topology_leave();
	PG_RETURN_INT32(n);
}

/* Close this backend's connections; returns how many there were. */
Datum
echocache_disconnect(PG_FUNCTION_ARGS)
{
	ec_shmem_require();
	PG_RETURN_INT32(ec_exchange_disconnect());
}

/* Behind the view echocache_servers: a row for each server of the topology. */
Datum
echocache_servers_internal(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Tuplestorestate *rows = ec_support_begin_rows(fcinfo, &desc);
	EcDatabase *db = ec_state_database();
	EcServer   *servers = palloc(sizeof(EcServer) * EC_MAX_SERVERS);
	bool		enabled;
	int			n;

	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	enabled = ec_shmem->enabled;
	n = ec_shmem->nservers;
	memcpy(servers, ec_shmem->server, n * sizeof(EcServer));
	LWLockRelease(ec_shmem->lock);

	for (int i = 0; i < n; i++)
	{
		Datum		values[8] = {0};
		bool		nulls[8] = {0};
		EcServer   *s = &servers[i];

		values[0] = CStringGetTextDatum(s->name);
		values[1] = Int32GetDatum(s->weight);
		values[2] = CStringGetTextDatum(!enabled ? "OFF" : ec_state_name(ec_state_of(i)));
		nulls[3] = db == NULL || db->since[i] == 0;
		values[3] = TimestampTzGetDatum(nulls[3] ? 0 : db->since[i]);
		values[4] = Int32GetDatum(pg_atomic_read_u32(&s->connections));
		values[5] = Int32GetDatum(pg_atomic_read_u32(&s->kept));
		nulls[6] = nulls[7] = s->last_error[0] == '\0';
		if (!nulls[6])
		{
			values[6] = CStringGetTextDatum(s->last_error);
			values[7] = TimestampTzGetDatum(s->last_error_at);
		}
		tuplestore_putvalues(rows, desc, values, nulls);
	}
	return (Datum) 0;
}

/* Behind echocache_stats: the counters of this database's documents, by table. */
Datum
echocache_stats_internal(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Tuplestorestate *rows = ec_support_begin_rows(fcinfo, &desc);

	for (int i = 0; i < EC_MAX_ATTACHMENTS; i++)
	{
		EcSlot *slot = &ec_shmem->slot[i];
		Datum		values[EC_NCOUNTERS + 2];
		bool		nulls[EC_NCOUNTERS + 2] = {0};

		if (slot->dboid != MyDatabaseId)
			continue;
		values[0] = ObjectIdGetDatum(slot->relid);
		for (int c = 0; c < EC_NCOUNTERS; c++)
			values[c + 1] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->counter[c]));
		values[EC_NCOUNTERS + 1] = TimestampTzGetDatum(ec_shmem->stats_reset);
		tuplestore_putvalues(rows, desc, values, nulls);
	}
	return (Datum) 0;
}

/* All counters of this database's documents back to zero. */
Datum
echocache_stats_reset(PG_FUNCTION_ARGS)
{
	ec_shmem_require();
	for (int i = 0; i < EC_MAX_ATTACHMENTS; i++)
	{
		if (ec_shmem->slot[i].dboid != MyDatabaseId)
			continue;
		for (int c = 0; c < EC_NCOUNTERS; c++)
			pg_atomic_write_u64(&ec_shmem->slot[i].counter[c], 0);
	}
	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	ec_shmem->stats_reset = GetCurrentTimestamp();
	LWLockRelease(ec_shmem->lock);
	PG_RETURN_VOID();
}
