/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  What goes over all documents of a name shares this: warm and verify.
 *
 * A function that goes over all documents is one statement, in batches.  Of each batch it
 * keeps nothing but counts.  Between two batches it holds no lock of ours and is in no
 * topology, nor while it reads the table, so that nobody waits for more than one exchange.
 * What it stores goes by the fence as a fill does: the marker, under the attachment lock in
 * share mode and keys in store mode, neither with waiting; a snapshot that is taken after that;
 * the document, by its token.
 *
 * The table's owner reads, since these functions show their caller no document.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "attachments/attachment.h"
#include "attachments/configuration.h"
#include "commit/locks.h"
#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "read/act.h"
#include "read/build.h"
#include "read/fetch.h"
#include "read/render.h"
#include "read/usercode.h"
#include "servers/exchange.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "sql/batch.h"

/* How often, and for how long in all, a batch waits for a bulk writer. */
#define LOCK_NAP_MS	10
#define LOCK_TRIES		10

/* Values of one exchange: so much arrives in time on any network worth its name. */
#define PIECE_BYTES		(256 * 1024)

static void check_transaction(const char *function);

/*
 * Throws where a fill would be refused: nobody else may see yet what this transaction has
 * written, and an old snapshot shows old rows.
 */
static void
check_transaction(const char *function)
{
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run in a transaction that has written anything", function),
				 errhint("Run it in a transaction of its own.")));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s must run in isolation level READ COMMITTED", function)));
}

/*
 * Begin to go over the documents of the attachment of this name.  The name stays with its
 * table until the function is done, or else ec_batch_attachment() throws.  Throws where the
 * function cannot run: see its entry in doc/functions.md.
 */
void
ec_batch_begin(EcBatch *batch, const char *function, const char *name)
{
	memset(batch, 0, sizeof(EcBatch));
	batch->function = function;
	batch->name = name;
	(void) ec_attachment_require(name);
	PreventCommandDuringRecovery(function);
	check_transaction(function);
	ec_batch_attachment(batch);
	ec_batch_topology(function);	/* is there one? */
	ec_topology_leave();
}

/*
 * Have the attachment as it is now, and a lock on its table.  May wait for that; the caller
 * holds none of ours.  Throws 55000 when the attachment is not cached, has become that of
 * another table, or has documents that this session must not make.
 */
void
ec_batch_attachment(EcBatch *batch)
{
	EcAttachment *att;

	while ((att = ec_attachment_require(batch->name)) != batch->att)
	{
		if (batch->att != NULL && batch->att->relid != att->relid)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("document \"%s\" was attached to another table meanwhile",
							batch->name)));
		LockRelationOid(att->relid, AccessShareLock);
		(void) ec_usercode_runs(att);	/* checks the functions of the filter */
		batch->att = att;
	}
	if (att->suspended)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("document \"%s\" is not cached", batch->name),
				 errdetail("It is suspended: %s.", att->suspended)));
	if (!ec_build_may_store(att))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s cannot make documents of \"%s\" in this session", batch->function,
						batch->name),
				 errdetail("It has temporary tables, and the search_path of function %s lacks "
						   "pg_temp.", att->function_name),
				 errhint("Connect anew, or put pg_temp last in that search_path.")));
}

/* Enter the topology; 55000 when there is none. */
void
ec_batch_topology(const char *function)
{
	if (!ec_placement_enter())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s needs the cache, which is off", function),
				 errhint("Set echocache.enabled = on, then SELECT pg_reload_conf().")));
}

/*
 * Begin a batch: serve interrupts, see what may have changed, enter the topology, until
 * ec_batch_leave(), and take the attachment lock in share mode, until ec_batch_unlock().
 * false: a bulk writer holds that lock, and has held it for as long as it is worth to wait; then
 * nothing is entered or held.
 *
 * The attachment is looked up under its lock once more: whoever changes it in a way that its
 * documents do not show takes that lock first.
 *
 * The caller holds no lock of the fence.  Throws what check_transaction(),
 * ec_batch_attachment() and ec_batch_topology() throw, interrupts, and out of shared memory.
 */
bool
ec_batch_enter(EcBatch *batch)
{
	for (int tries = 1;; tries++)
	{
		EcAttachment *att;

		CHECK_FOR_INTERRUPTS();
		check_transaction(batch->function);
		ec_batch_attachment(batch);
		att = batch->att;
		ec_batch_topology(batch->function);
		if (ec_locks_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE, false))
		{
			if (ec_attachment_by_name(batch->name) == att)
			{
				batch->lock_busy = false;
				return true;
			}
			ec_locks_release_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE);
		}
		ec_topology_leave();
		if (batch->lock_busy || tries == LOCK_TRIES)
			break;
		ec_deadline_nap(LOCK_NAP_MS, EC_WAIT_KEY);
	}
	batch->lock_busy = true;
	return false;
}

/* The markers are set; the caller has released its keys. */
void
ec_batch_unlock(EcBatch *batch)
{
	ec_locks_release_attachment(batch->att->relid, EC_LOCK_ATTACHMENT_SHARE);
}

/* The batch is over. */
void
ec_batch_leave(EcBatch *batch)
{
	ec_topology_leave();
}

/*
 * Send many requests, and wait for the answers.  They go in pieces with a deadline each, so
 * that a slow network is not taken for a dead server; a request's valuelen says how much it will
 * carry in either direction.  A server that is DOWN, since just now perhaps, or has not answered a
 * piece before is not asked: its requests are EC_FAILED.  Throws for interrupts.
 */
void
ec_batch_exchange(EcRequest *reqs, int n)
{
	bool		failed[EC_MAX_SERVERS] = {false};
	int			end;

	for (int first = 0; first < n; first = end)
	{
		size_t		bytes = 0;

		for (end = first; end < n && (end == first || bytes + reqs[end].valuelen <= PIECE_BYTES);
			 end++)
		{
			EcRequest  *req = &reqs[end];

			if (req->skip)
				continue;
			bytes += req->valuelen;
			req->skip = failed[req->server] || ec_state_is_away(req->server);
			if (req->skip)
				req->result = EC_FAILED;
		}
		(void) ec_exchange(reqs + first, end - first, ec_deadline_in(ec_guc_timeout), EC_COUNTED);
		for (int i = first; i < end; i++)
			failed[reqs[i].server] |= !reqs[i].skip && reqs[i].result == EC_FAILED;
	}
}

/*
 * Read the rows with these distinct ids as they are now: the snapshot has every commit that
 * came before.  The caller holds no lock of the fence.  Throws what the query, or the function,
 * throws, and 55000 when the topology is another one afterwards, or tables were rewritten.
 */
void
ec_batch_fetch(EcBatch *batch, EcRow *rows, int n)
{
	uint64		generation = ec_placement_generation();

	/* the owner's code may take its time, and whoever is in an older generation is waited for */
	ec_topology_leave();
	if (!ec_fetch_latest(batch->att, rows, n, true))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("tables were rewritten again and again while %s was running",
						batch->function),
				 errhint("Run it again.")));
	if (!ec_placement_enter_again(generation))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the cache was configured anew while %s was running", batch->function),
				 errhint("Run it again.")));
}

/*
 * Prepare a query of ours, for as long as the caller is connected to SPI, in the place of the
 * one that is there, if any.  It is planned anew for its values each time: a plan for an unknown
 * limit is bad for a few rows behind some key.  It is prepared as the table's owner.  Throws what
 * parsing the query throws.
 */
void
ec_batch_prepare(EcBatch *batch, EcQuery *query, const char *sql, int nargs,
				 const Oid *argtypes)
{
	MemoryContext context = CurrentMemoryContext;
	EcActing	before;

	ec_query_free(query);
	ec_act_begin(batch->att, true, &before);
	ec_query_prepare(query, batch->att, sql, nargs, argtypes, CURSOR_OPT_CUSTOM_PLAN);
	ec_act_end(&before);
	MemoryContextSwitchTo(context); /* SPI has left us in its own */
}

/*
 * Run a query of ours as the table's owner, with the newest snapshot.  Returns how many rows
 * it gives; they are in SPI_tuptable.  Throws what the query throws.
 */
uint64
ec_batch_query(EcBatch *batch, EcQuery *query, const Datum *values, const char *nulls)
{
	MemoryContext context = CurrentMemoryContext;
	EcActing	before;

	ec_act_begin(batch->att, true, &before);
	PushActiveSnapshot(GetLatestSnapshot());
	(void) ec_query_run(query, values, nulls, 0);
	PopActiveSnapshot();
	ec_act_end(&before);
	MemoryContextSwitchTo(context);
	return SPI_processed;
}

/* The rows that have documents, as a FROM and a WHERE clause; the table's alias is t. */
char *
ec_batch_from(EcAttachment *att)
{
	return psprintf("FROM %s%s AS t WHERE t.%s IS NOT NULL AND $0",
					att->partitioned ? "" : "ONLY ", ec_attachment_table(att),
					quote_identifier(NameStr(att->key.name)));
}
