/*-------------------------------------------------------------------------
 *
 * kv_servers.c
 *	  Key/value functions about whole servers.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "attachments/slot.h"
#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "protocol/reply.h"
#include "protocol/wire.h"
#include "read/encoding.h"
#include "servers/exchange.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"
#include "sql/kv_keys.h"
#include "sql/kv_servers.h"
#include "sql/support.h"

PG_FUNCTION_INFO_V1(echocache_kv_stats);
PG_FUNCTION_INFO_V1(echocache_flush_all);

/* What one server has to say of itself. */
typedef struct Stats
{
	List	   *names;			/* of char * */
	List	   *values;
} Stats;

static int	begin_servers(EcRequest *reqs, EcRequestKind kind, const char *request,
						  size_t len);
static bool take_stat(const EcReply *line, void *arg);

/*
 * Enter the topology and make one request for every server of it, but for those that are
 * DOWN.  Returns how many servers there are.
 */
static int
begin_servers(EcRequest *reqs, EcRequestKind kind, const char *request, size_t len)
{
	ec_kv_keys_enter();
	memset(reqs, 0, EC_MAX_SERVERS * sizeof(EcRequest));
	for (int i = 0; i < ec_placement_size(); i++)
	{
		reqs[i].kind = kind;
		reqs[i].server = i;
		reqs[i].key = request;
		reqs[i].keylen = (int) len;
		reqs[i].result = EC_FAILED;
		reqs[i].skip = ec_state_of(i) == EC_DOWN;
	}
	return ec_placement_size();
}

/* A line of stats: its name, a space, its value. */
static bool
take_stat(const EcReply *line, void *arg)
{
	Stats	   *stats = arg;
	size_t		namelen;
	size_t		len;
	const char *space;
	const char *value;

	if (line->kind != EC_REPLY_STAT)
		return true;
	space = memchr(line->text, ' ', line->text_len);
	namelen = space ? (size_t) (space - line->text) : line->text_len;
	value = space ? space + 1 : line->text + line->text_len;
	len = line->text_len - (value - line->text);
	value = pnstrdup(value, len);
	stats->names = lappend(stats->names, pnstrdup(line->text, namelen));
	stats->values = lappend(stats->values, unconstify(char *, ec_encoding_from_utf8(value, &len)));
	return true;
}

/* What memcached says of itself, for every server that answers. */
Datum
echocache_kv_stats(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Tuplestorestate *rows = ec_support_begin_rows(fcinfo, &desc);
	char		request[EC_REQUEST_MAX];
	EcRequest	reqs[EC_MAX_SERVERS];
	Stats		stats[EC_MAX_SERVERS] = {{NIL, NIL}};
	int			n = begin_servers(reqs, EC_REQUEST_COMMAND, request, ec_wire_stats(request, NULL));

	for (int i = 0; i < n; i++)
	{
		reqs[i].callback = take_stat;
		reqs[i].arg = &stats[i];
	}
	(void) ec_exchange(reqs, n, ec_deadline_in(ec_guc_timeout), EC_COUNTED);
	for (int i = 0; i < n; i++)
	{
		ListCell   *name;
		ListCell   *value;

		if (reqs[i].result != EC_DONE)
			continue;
		forboth(name, stats[i].names, value, stats[i].values)
		{
			Datum		values[3];
			bool		nulls[3] = {false, false, lfirst(value) == NULL};

			values[0] = CStringGetTextDatum(ec_placement_name(i));
			values[1] = CStringGetTextDatum(lfirst(name));
			values[2] = nulls[2] ? (Datum) 0 : CStringGetTextDatum(lfirst(value));
			tuplestore_putvalues(rows, desc, values, nulls);
		}
	}
	ec_topology_leave();
	return (Datum) 0;
}

/*
 * Have every server that is not DOWN forget all it holds; returns how many did.
 * Throws when one refuses to, after the others have been flushed.
 *
 * Documents may vanish at any time: a marker that is gone lets nobody store, since the locks
 * bar that, and a store whose marker is gone fails.  Where a server is RECOVERING, the worker
 * may flush it as well: see flush_instead() in worker/recovery.c.
 */
Datum
echocache_flush_all(PG_FUNCTION_ARGS)
{
	char		request[EC_REQUEST_MAX];
	EcRequest	reqs[EC_MAX_SERVERS];
	int			flushed = 0;
	int			n;

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to flush cache servers")));
	n = begin_servers(reqs, EC_REQUEST_FLUSH, request, ec_wire_flush(request));
	(void) ec_exchange(reqs, n, ec_deadline_in(ec_guc_timeout), EC_COUNTED);
	/* afterwards: until then what the servers have may be promoted */
	ec_slot_begin_epoch_of_all();
	for (int i = 0; i < n; i++)
	{
		if (reqs[i].result != EC_DONE)
			continue;
		flushed++;
		for (int d = 0; d < EC_MAX_DATABASES; d++)
		{
			EcDatabase *db = &ec_shmem->database[d];
			uint64		word;

			if (OidIsValid(db->dboid) &&
				ec_state_read(db, i, ec_placement_generation(), &word) &&
				EC_STATE(word) == EC_RECOVERING)
				pg_atomic_write_u64(&db->may_flush[i], word);
		}
	}
	for (int i = 0; i < n; i++)
		if (reqs[i].result == EC_REFUSED)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cache server \"%s\" cannot be flushed", ec_placement_name(i)),
					 errdetail_internal("%s", ec_request_reason(&reqs[i])),
					 errhint("Perhaps it was started with --disable-flush-all.")));
	ec_topology_leave();
	PG_RETURN_INT32(flushed);
}
