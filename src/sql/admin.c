/*-------------------------------------------------------------------------
 *
 * admin.c
 *	  SQL functions about the cache itself.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/tupdesc.h"
#include "catalog/namespace.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "attachments/attachment.h"
#include "attachments/slot.h"
#include "commit/invalidate.h"
#include "commit/locks.h"
#include "commit/pending.h"
#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "protocol/wire.h"
#include "servers/exchange.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"
#include "sql/admin.h"
#include "sql/batch.h"
#include "sql/support.h"
#include "version.h"
#include "worker/database.h"

PG_FUNCTION_INFO_V1(echocache_check_version);
PG_FUNCTION_INFO_V1(echocache_check_install);
PG_FUNCTION_INFO_V1(echocache_is_available);
PG_FUNCTION_INFO_V1(echocache_health);
PG_FUNCTION_INFO_V1(echocache_connect);
PG_FUNCTION_INFO_V1(echocache_disconnect);
PG_FUNCTION_INFO_V1(echocache_purge);

static bool try_op(EcRequest *req);

/*
 * Each script of the extension, to install it or to update it, calls this before anything else,
 * with the version that it leads to: the library that the server runs may be of an older one.
 * Throws 55000 then.
 */
Datum
echocache_check_version(PG_FUNCTION_ARGS)
{
	char	   *objects = text_to_cstring(PG_GETARG_TEXT_PP(0));

	if (!ec_version_fits(objects))
		ec_version_report(ERROR, objects);
	PG_RETURN_VOID();
}

/*
 * The script of the extension calls this before it makes anything.  The schema of its own must
 * not be there, since whoever made it could have put anything into it.  And there must be a
 * slot for the database, as far as that is known: databases claim theirs a moment later.
 */
Datum
echocache_check_install(PG_FUNCTION_ARGS)
{
	if (OidIsValid(get_namespace_oid("echocache", true)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_SCHEMA),
				 errmsg("schema \"echocache\" exists already"),
				 errdetail("The extension makes a schema of this name for its tables."),
				 errhint("Drop or rename that schema, and run CREATE EXTENSION echocache, with "
						 "SCHEMA and another name for its functions if need be.")));
	if (ec_shmem != NULL && !ec_database_has_room())
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many databases have the extension \"echocache\""),
				 errdetail("There can be %d in a cluster.", EC_MAX_DATABASES),
				 errhint("Drop the extension where it is not needed.")));
	PG_RETURN_VOID();
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
	(void) ec_exchange(req, 1, ec_deadline_in(ec_guc_timeout), EC_COUNTED);
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
		EcRequest	req = {.server = i,.key = key,.keylen = (int) strlen(key)};
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
			values[6] = CStringGetTextDatum(ec_request_reason(&req));
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
			n += ec_exchange_command(i, request, len, NULL, NULL, EC_COUNTED) == EC_DONE;
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

/*
 * Invalidate all documents of a name from all servers, now and not at the commit; returns how
 * many keys there were.  From a server that is away they are invalidated before anybody reads
 * there again, if this transaction commits; until then nobody stores any.
 */
Datum
echocache_purge(PG_FUNCTION_ARGS)
{
	const char *function = "echocache_purge()";
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	List	   *tables;
	Oid			relid;
	int64		removed = 0;

	ec_shmem_require();
	while ((tables = ec_attachment_tables(name)) == NIL)
		(void) ec_attachment_require(name);	/* throws, unless it has come just now */
	relid = linitial_oid(tables);
	PreventCommandDuringRecovery(function);
	(void) ec_locks_attachment(relid, EC_LOCK_ATTACHMENT_INVALIDATE, true);
	ec_slot_begin_epoch_of_table(relid);
	ec_batch_topology(function);
	if (ec_invalidate_all(name, &removed, false))
		ec_locks_release_attachment(relid, EC_LOCK_ATTACHMENT_INVALIDATE);
	else
		ec_pending_purge(name);
	ec_topology_leave();
	PG_RETURN_INT64(removed);
}
