/*-------------------------------------------------------------------------
 *
 * stats.c
 *	  SQL functions that show counters and servers.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/tupdesc.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "attachments/attachment.h"
#include "attachments/configuration.h"
#include "attachments/filter.h"
#include "attachments/latency.h"
#include "commit/handover.h"
#include "read/act.h"
#include "read/entries.h"
#include "servers/state.h"
#include "shmem.h"
#include "sql/stats.h"
#include "sql/support.h"
#include "worker/database.h"

PG_FUNCTION_INFO_V1(echocache_servers_internal);
PG_FUNCTION_INFO_V1(echocache_stats_internal);
PG_FUNCTION_INFO_V1(echocache_stats_reset);
PG_FUNCTION_INFO_V1(echocache_latency_internal);
PG_FUNCTION_INFO_V1(echocache_latency_buckets_internal);
PG_FUNCTION_INFO_V1(echocache_memory_internal);
PG_FUNCTION_INFO_V1(echocache_suspended_internal);

/*
 * What echocache_latency_buckets shows: so many buckets in one, which is about a factor of three,
 * up to the bound of this one: 17 s.  With the one that is open these are 20 rows.
 */
#define WIDTH		6
#define LAST_BOUND	(18 * WIDTH)

StaticAssertDecl(LAST_BOUND < EC_LATENCY_BUCKETS - 1, "there is no such bucket");

/* What look() is asked for, and its answer. */
typedef struct Look
{
	const char *name;
	const char *suspended;
	bool		resolved;		/* what is thrown from now on is about the filter */
} Look;

static void look(void *arg);

/* Behind the view echocache_servers: a row for each server of the topology. */
Datum
echocache_servers_internal(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Tuplestorestate *rows = ec_support_begin_rows(fcinfo, &desc);
	EcDatabase *db = ec_state_database();
	EcServer   *servers = palloc(sizeof(EcServer) * EC_MAX_SERVERS);
	bool		full = db == NULL && !ec_database_has_room();
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
		char		lease_error[EC_ERROR_MAX];
		TimestampTz lease_error_at;

		values[0] = CStringGetTextDatum(s->name);
		values[1] = Int32GetDatum(s->weight);
		values[2] = CStringGetTextDatum(!enabled ? "OFF" : ec_state_name(ec_state_of(i)));
		nulls[3] = db == NULL || db->since[i] == 0;
		values[3] = TimestampTzGetDatum(nulls[3] ? 0 : db->since[i]);
		values[4] = Int32GetDatum(pg_atomic_read_u32(&s->connections));
		values[5] = Int32GetDatum(pg_atomic_read_u32(&s->kept));
		if (enabled && ec_state_lease_error(i, lease_error, &lease_error_at))
		{
			strlcpy(s->last_error, lease_error, sizeof(s->last_error));
			s->last_error_at = lease_error_at;
		}
		nulls[6] = nulls[7] = s->last_error[0] == '\0';
		if (!nulls[6])
		{
			values[6] = CStringGetTextDatum(s->last_error);
			values[7] = TimestampTzGetDatum(s->last_error_at);
		}
		if (full)
		{
			values[6] = CStringGetTextDatum(psprintf(EC_DATABASE_NO_ROOM, EC_MAX_DATABASES));
			nulls[6] = false;
			nulls[7] = true;
		}
		tuplestore_putvalues(rows, desc, values, nulls);
	}
	return (Datum) 0;
}

/* Behind echocache_stats: the counters of this database's attachments, by table. */
Datum
echocache_stats_internal(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Tuplestorestate *rows = ec_support_begin_rows(fcinfo, &desc);

	for (int i = 0; i < EC_MAX_ATTACHMENTS; i++)
	{
		EcSlot	   *slot = &ec_shmem->slot[i];
		Datum		values[EC_NCOUNTERS + 3];
		bool		nulls[EC_NCOUNTERS + 3] = {0};

		if (slot->dboid != MyDatabaseId)
			continue;
		values[0] = ObjectIdGetDatum(slot->relid);
		for (int c = 0; c < EC_NCOUNTERS; c++)
			values[c + 1] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->counter[c]));
		values[EC_NCOUNTERS + 1] = Int64GetDatum(ec_handover_count(slot->relid));
		values[EC_NCOUNTERS + 2] = TimestampTzGetDatum(ec_shmem->stats_reset);
		tuplestore_putvalues(rows, desc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * Behind echocache_latency: what has been timed for this database's attachments, in milliseconds.
 */
Datum
echocache_latency_internal(PG_FUNCTION_ARGS)
{
	static const double parts[] = {0.5, 0.95, 0.99, 0.999, 1};
	TupleDesc	desc;
	Tuplestorestate *rows = ec_support_begin_rows(fcinfo, &desc);

	for (int i = 0; i < EC_MAX_ATTACHMENTS * EC_NLATENCIES; i++)
	{
		EcSlot	   *slot = &ec_shmem->slot[i / EC_NLATENCIES];
		EcLatencyKind kind = i % EC_NLATENCIES;
		EcLatency	latency;
		Datum		values[4 + lengthof(parts)];
		bool		nulls[4 + lengthof(parts)] = {0};

		if (slot->dboid != MyDatabaseId)
			continue;
		ec_latency_read(slot, kind, &latency);
		values[0] = ObjectIdGetDatum(slot->relid);
		values[1] = CStringGetTextDatum(ec_latency_name(kind));
		values[2] = Int64GetDatum((int64) latency.count);
		for (int p = 0; p < lengthof(parts); p++)
		{
			nulls[3 + p] = latency.count == 0;
			if (latency.count > 0)
				values[3 + p] = Float8GetDatum(ec_latency_percentile(&latency, parts[p]) / 1e6);
		}
		values[3 + lengthof(parts)] = TimestampTzGetDatum(ec_shmem->stats_reset);
		tuplestore_putvalues(rows, desc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * Behind echocache_latency_buckets: the same as cumulative counts, of fewer and wider buckets, in
 * seconds.
 */
Datum
echocache_latency_buckets_internal(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Tuplestorestate *rows = ec_support_begin_rows(fcinfo, &desc);

	for (int i = 0; i < EC_MAX_ATTACHMENTS * EC_NLATENCIES; i++)
	{
		EcSlot	   *slot = &ec_shmem->slot[i / EC_NLATENCIES];
		EcLatencyKind kind = i % EC_NLATENCIES;
		EcLatency	latency;
		uint64		count = 0;

		if (slot->dboid != MyDatabaseId)
			continue;
		ec_latency_read(slot, kind, &latency);
		for (int b = 0; b < EC_LATENCY_BUCKETS; b++)
		{
			bool		last = b == EC_LATENCY_BUCKETS - 1;
			Datum		values[5];
			bool		nulls[5] = {0};

			count += latency.bucket[b];
			if (!last && (b % WIDTH != 0 || b > LAST_BOUND))
				continue;
			values[0] = ObjectIdGetDatum(slot->relid);
			values[1] = CStringGetTextDatum(ec_latency_name(kind));
			values[2] = Float8GetDatum(last ? get_float8_infinity() : ec_latency_bound(b) / 1e9);
			values[3] = Int64GetDatum((int64) count);
			values[4] = Float8GetDatum(latency.sum_ns / 1e9);
			tuplestore_putvalues(rows, desc, values, nulls);
		}
	}
	return (Datum) 0;
}

/*
 * Behind echocache_memory: the second tier in all, then what each attachment of this database has
 * of it.
 */
Datum
echocache_memory_internal(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Tuplestorestate *rows = ec_support_begin_rows(fcinfo, &desc);
	uint64		evictions = 0;

	for (int i = 0; i < EC_MAX_ATTACHMENTS; i++)
		evictions += pg_atomic_read_u64(&ec_shmem->slot[i].counter[EC_LOCAL_EVICTIONS]);
	for (int i = -1; i < EC_MAX_ATTACHMENTS; i++)
	{
		EcSlot	   *slot = i < 0 ? NULL : &ec_shmem->slot[i];
		Datum		values[5];
		bool		nulls[5] = {0};
		EcEntriesUse	use;

		if (slot && slot->dboid != MyDatabaseId)
			continue;
		nulls[0] = slot == NULL;
		values[0] = ObjectIdGetDatum(slot ? slot->relid : InvalidOid);
		nulls[1] = slot != NULL;
		values[1] = Int64GetDatum((int64) ec_entries_use(slot ? slot->relid : InvalidOid, &use));
		values[2] = Int64GetDatum((int64) use.used);
		values[3] = Int64GetDatum(use.entries);
		if (slot)
			evictions = pg_atomic_read_u64(&slot->counter[EC_LOCAL_EVICTIONS]);
		values[4] = Int64GetDatum((int64) evictions);
		tuplestore_putvalues(rows, desc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * Why the attachment is not cached.  Throws what its filter throws, but looks at that only if the
 * table need not be waited for.
 */
static void
look(void *arg)
{
	Look	   *l = arg;
	EcAttachment *att = ec_attachment_by_name(l->name);

	l->suspended = att == NULL ? NULL : att->suspended;
	l->resolved = true;
	if (att != NULL && att->suspended == NULL && att->filter != NULL &&
		ConditionalLockRelationOid(att->relid, AccessShareLock) &&
		get_rel_relkind(att->relid) != '\0')
		(void) ec_filter_as_owner(att, NoLock);
}

/*
 * Behind echocache_documents: why the attachment is not cached.  NULL: it is.  One that cannot
 * be resolved does not keep the others from being seen.
 */
Datum
echocache_suspended_internal(PG_FUNCTION_ARGS)
{
	Look		l = {text_to_cstring(PG_GETARG_TEXT_PP(0))};
	ErrorData  *error;

	ec_shmem_require();
	error = ec_act_caught(look, &l);
	if (error != NULL && l.resolved)
		l.suspended = psprintf("its filter cannot be used: %s%s%s", error->message,
							   error->hint ? ". " : "", error->hint ? error->hint : "");
	else if (error != NULL)
		l.suspended = "its table, or a column of it, is gone";
	if (l.suspended == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(l.suspended));
}

/* All counters of this database's attachments back to zero, and nothing has been timed. */
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
		ec_latency_reset(&ec_shmem->slot[i]);
	}
	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	ec_shmem->stats_reset = GetCurrentTimestamp();
	LWLockRelease(ec_shmem->lock);
	PG_RETURN_VOID();
}
