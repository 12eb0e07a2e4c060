/*-------------------------------------------------------------------------
 *
 * recovery.c
 *	  Bring a server back, and clear its outbox.
 *
 * A server goes from DOWN to UP in these steps:
 *
 *	1. Of its addresses the one that everybody uses accepts connections; else another one takes
 *	   its place, in a new generation (servers/address.c).
 *	2. The keys on the server are this database's: it has the lease (servers/lease.c).
 *	   RECOVERING: writers send markers again, readers still stay away.
 *	3. Everybody has left older generations of the topology, and nobody holds the outbox lock.
 *	4. A new snapshot of the outbox; its keys are invalidated, confirmed; just these rows are
 *	   deleted; again, until there are none.  Where more may have changed than the
 *	   outbox knows (a start, other servers, a promotion) the server is purged of all keys of
 *	   the database; of one that was UP by the list before, and is in the new one, only the keys
 *	   that live elsewhere now are removed (ec_state_let_keep()).
 *	5. UP.
 *
 * Every change of state is a compare-and-swap on the word that the worker has seen, so that
 * whatever goes wrong meanwhile, in any backend, is not overlooked.  The model
 * (test/model/recovery.pml) shows what each step is for: it fails without it.
 *
 * No transaction is open while the worker waits for the network: read, commit, send, then
 * acknowledge by deleting what was read.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/xact.h"
#include "pgstat.h"

#include "attachments/attachment.h"
#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "protocol/key.h"
#include "protocol/reply.h"
#include "protocol/wire.h"
#include "servers/address.h"
#include "servers/exchange.h"
#include "servers/lease.h"
#include "servers/outbox.h"
#include "servers/placement.h"
#include "servers/purge.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"
#include "worker/database.h"
#include "worker/recovery.h"
#include "worker/waiting.h"

/* Rows of a server that is DOWN, above which whole attachments are noted instead. */
#define COLLAPSE_ROWS		10000

static List *attachment_names(void);
static List *add_head(List *heads, const char *prefix, const char *name);
static List *key_heads(EcDatabase *db, List *rows);
static List *read_rows(const char *server, int limit);
static void delete_rows(List *rows);
static void append(EcFailure *failure, const char *advice);
static bool flush_instead(EcDatabase *db, int server, EcFailure *failure);
static bool mark(EcRequest *reqs, int n);
static bool invalidate(EcDatabase *db, int server, List *rows, bool purge, int64 *removed,
		   EcFailure *failure);
static bool take_setting(const EcReply *line, void *arg);
static void collapse(EcDatabase *db, int server);
static void purge_old_prefix(EcDatabase *db, int server);
static bool own(EcDatabase *db, int server, int *retry_ms);

/* The names of this database's attachments, in a transaction of its own. */
static List *
attachment_names(void)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *names;

	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	names = ec_attachment_names();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return names;
}

/* Add the head of the keys with this prefix and name, unless it is there. */
static List *
add_head(List *heads, const char *prefix, const char *name)
{
	char	   *head = palloc0(EC_PREFIX_MAX + EC_NAME_MAX + 2);
	ListCell   *lc;

	(void) ec_key_head(head, prefix, name);
	foreach(lc, heads)
		if (strcmp(lfirst(lc), head) == 0)
			return heads;
	return lappend(heads, head);
}

/* The heads of all keys of this database that a server may have, those in rows included. */
static List *
key_heads(EcDatabase *db, List *rows)
{
	List	   *names = attachment_names();
	List	   *heads = NIL;
	ListCell   *lc;

	foreach(lc, rows)
		names = lappend(names, ((EcOutboxRow *) lfirst(lc))->document);
	foreach(lc, names)
	{
		heads = add_head(heads, db->prefix, lfirst(lc));
		if (db->has_old_prefix)
			heads = add_head(heads, db->old_prefix, lfirst(lc));
	}
	return heads;
}

/* Rows of the outbox, in a transaction of their own: the newest snapshot. */
static List *
read_rows(const char *server, int limit)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *rows;

	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	rows = ec_outbox_read(server, limit);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return rows;
}

/* Delete just these rows, which have been dealt with. */
static void
delete_rows(List *rows)
{
	MemoryContext context = CurrentMemoryContext;

	StartTransactionCommand();
	ec_outbox_delete(rows);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

/* Add what the operator can do about it; what does not fit is cut off. */
static void
append(EcFailure *failure, const char *advice)
{
	strlcat(failure->reason, advice, sizeof(failure->reason));
}

/*
 * The server cannot be purged, for the reason in *failure: it refuses to tell its keys, perhaps.
 * If a superuser has run echocache_flush_all() since the server became RECOVERING, the worker
 * flushes it here; or if echocache.flush_on_start says so, and it does refuse, for good.  false:
 * the worker may not, or the flush was not confirmed; *failure says what the operator can do.
 *
 * The superuser's own flush would not do.  It may have come before everybody had left older
 * topologies, or before the last transaction ended whose rows are in the outbox, so what it
 * left behind may be outdated.  The worker's flush stands in the purge's place, at the same
 * point of the sequence, and removes all that a purge would.  What is stored later went
 * through the fence or a fill.  A store of before that is still on its way carries the token
 * of a marker that is gone now, and fails.  (memcached compares the token and numbers the new
 * item without a lock that the flush would take: a store that is just between the two
 * survives.  Single keys of the outbox are therefore invalidated all the same.)
 *
 * The superuser's permission is for one state word.  Nobody has given it for what makes the
 * server RECOVERING the next time.
 */
static bool
flush_instead(EcDatabase *db, int server, EcFailure *failure)
{
	bool		hides = failure->sqlstate == ERRCODE_FEATURE_NOT_SUPPORTED;

	if (pg_atomic_read_u64(&db->may_flush[server]) != ec_state_word(db, server) &&
		!(ec_guc_flush_on_start && hides))
	{
		if (hides)
			append(failure, "; allow it, run echocache_flush_all(), or set "
				   "echocache.flush_on_start");
		return false;
	}
	if (ec_exchange_flush(server, failure) == EC_DONE)
	{
		ereport(LOG,
				(errmsg("echocache: server \"%s\" was flushed, since it does not tell its keys",
						ec_placement_name(server))));
		return true;
	}
	if (failure->sqlstate == ERRCODE_FEATURE_NOT_SUPPORTED)
		append(failure, "; nor does it tell its keys (lru_crawler metadump): allow one of the two");
	return false;
}

/*
 * Set these markers.  false: the server has failed.  It has as long as for a commit, but not so
 * long that the leases on other servers would lapse.
 */
static bool
mark(EcRequest *reqs, int n)
{
	int			ms = Min(ec_guc_commit_timeout, Max(ec_guc_timeout, ec_guc_lease / 10));

	return ec_exchange_marks(reqs, n, ec_deadline_in(ms), NULL, NULL);
}

/*
 * Invalidate on the server what the rows say, or with purge all keys of this database.  true:
 * confirmed.  false: the server has failed, or does not tell its keys and *failure has what it
 * said.  *removed grows by how many keys there were.
 */
static bool
invalidate(EcDatabase *db, int server, List *rows, bool purge, int64 *removed,
		   EcFailure *failure)
{
	List	   *whole = NIL;
	EcRequest  *reqs;
	int			n = 0;
	ListCell   *lc;
	bool		ok = true;

	if (purge && ec_purge(server, key_heads(db, rows), removed, failure))
		return true;
	if (purge && !flush_instead(db, server, failure))
		return false;

	reqs = palloc0(EC_MARK_BATCH * sizeof(EcRequest));
	foreach(lc, rows)
	{
		EcOutboxRow *row = lfirst(lc);

		if (row->key == NULL)
		{
			if (!purge)
				whole = add_head(whole, db->prefix, row->document);
			continue;
		}
		ec_request_mark(&reqs[n], server, row->key, (int) strlen(row->key));
		reqs[n].quiet = true;
		if (++n == EC_MARK_BATCH)
		{
			ok = ok && mark(reqs, n);
			*removed += n;
			n = 0;
			ec_lease_renew(db);
		}
	}
	ok = ok && mark(reqs, n);
	*removed += n;
	pfree(reqs);
	return ok && (ec_purge(server, whole, removed, failure) || flush_instead(db, server, failure));
}

/* Callback for a line of "stats settings": note how large an item may be. */
static bool
take_setting(const EcReply *line, void *arg)
{
	const char	name[] = "item_size_max ";
	uint64		value = 0;

	if (line->kind != EC_REPLY_STAT || line->text_len <= strlen(name) ||
		memcmp(line->text, name, strlen(name)) != 0)
		return true;
	for (size_t i = strlen(name); i < line->text_len && isdigit((unsigned char) line->text[i]); i++)
		value = value * 10 + (line->text[i] - '0');
	pg_atomic_write_u64((pg_atomic_uint64 *) arg, value);
	return false;
}

/*
 * The server is still DOWN, or UNOWNED.  So that the outbox does not grow without end, one row
 * for each attachment takes the place of many.  Writers need add no more for as long as the
 * state is this very word: the worker takes the rows up only after the word has changed, and
 * after all transactions that hold the outbox lock have ended.
 */
static void
collapse(EcDatabase *db, int server)
{
	MemoryContext context = CurrentMemoryContext;
	const char *name = ec_placement_name(server);
	uint64		word;
	List	   *rows;
	List	   *names;
	ListCell   *lc;

	if (!ec_state_read(db, server, ec_placement_generation(), &word) ||
		(EC_STATE(word) != EC_DOWN && EC_STATE(word) != EC_UNOWNED) ||
		pg_atomic_read_u64(&db->whole_noted[server]) == word)
		return;
	rows = read_rows(name, EC_OUTBOX_BATCH);
	if (list_length(rows) < COLLAPSE_ROWS)
		return;
	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	names = ec_attachment_names();
	foreach(lc, rows)
	{
		EcOutboxRow *row = lfirst(lc);
		ListCell   *other;

		foreach(other, names)
			if (strcmp(lfirst(other), row->document) == 0)
				break;
		if (other == NULL)
			names = lappend(names, row->document);
	}
	foreach(lc, names)
		ec_outbox_add(name, lfirst(lc), NULL, 0);
	ec_outbox_delete(rows);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	pg_atomic_write_u64(&db->whole_noted[server], word);
}

/*
 * The keys of another prefix, in use until this generation, were ours.  While those of the present
 * prefix are somebody else's they are purged here, since the recovery does not come to that.
 */
static void
purge_old_prefix(EcDatabase *db, int server)
{
	static uint64 purged[EC_MAX_SERVERS];	/* in which generation */
	uint64		generation = ec_placement_generation();
	List	   *heads = NIL;
	List	   *names;
	ListCell   *lc;
	int64		removed = 0;
	EcFailure	failure;

	if (!db->has_old_prefix || purged[server] == generation || ec_waiting_is_needed(server))
		return;
	names = attachment_names();
	foreach(lc, names)
		heads = add_head(heads, db->old_prefix, lfirst(lc));
	if (ec_purge(server, heads, &removed, &failure))
		purged[server] = generation;
}

/*
 * Get the lease on this server, or go on with one that is good.  false: the server is as far
 * as it goes for now, and *retry_ms is when to try again.
 */
static bool
own(EcDatabase *db, int server, int *retry_ms)
{
	if (db->lease_held[server] && ec_state_is_owned(ec_placement_generation(), server) &&
		EC_STATE(ec_state_word(db, server)) == EC_RECOVERING)
		return true;
	if (!db->owns_prefix)
		ec_lease_refuse(db, server, ec_database_owner_reason(db));
	else if (EC_STATE(ec_state_word(db, server)) == EC_DOWN &&
			 !ec_address_choose(server, ec_placement_generation()))
	{
		collapse(db, server);
		return false;
	}
	else
		switch (ec_lease_step(db, server))
		{
			case EC_LEASE_OURS:
				return true;
			case EC_LEASE_FAILED:
				collapse(db, server);
				return false;
			case EC_LEASE_NOT_OURS:
				break;
		}
	*retry_ms = Min(*retry_ms, ec_guc_lease / 3);
	purge_old_prefix(db, server);
	collapse(db, server);
	return false;
}

/*
 * Take a server that is not UP as far as it goes.  Returns whether it is UP now; if not,
 * *retry_ms is when to try again.  The topology is entered, no transaction is open.  Throws
 * what the extension's tables throw, and for interrupts; then the process exits.
 */
bool
ec_recovery_run(EcDatabase *db, int server, int *retry_ms)
{
	char		request[EC_REQUEST_MAX];
	char		activity[EC_SERVER_NAME_MAX + 32];
	const char *name = ec_placement_name(server);
	uint64		word;
	int64		removed = 0;
	bool		ours;
	bool		purge;
	List	   *rows;
	EcFailure	failure = {0};

	*retry_ms = ec_guc_retry_interval;
	if (!ec_state_read(db, server, ec_placement_generation(), &word))
		return false;			/* the word is another server's by now */
	if (EC_STATE(word) == EC_UP)
		return true;
	snprintf(activity, sizeof(activity), "recovering server %s", name);
	pgstat_report_activity(STATE_RUNNING, activity);
	ours = own(db, server, retry_ms);
	pgstat_report_activity(STATE_IDLE, NULL);
	if (!ours)
		return false;
	if (!ec_state_read(db, server, ec_placement_generation(), &word))
		return false;
	purge = EC_MUST_PURGE(word);
	if (EC_STATE(word) != EC_RECOVERING && !ec_state_swap(db, server, &word, EC_RECOVERING, purge))
		return false;

	/* from here on nobody begins to write rows, or to use an older topology */
	if (ec_waiting_is_needed(server))
	{
		*retry_ms = EC_WAIT_FOR_LOCK_MS;
		return false;
	}
	pgstat_report_activity(STATE_RUNNING, activity);
	/* a server that does not tell its settings is just not asked first */
	if (ec_exchange_command(server, request, ec_wire_stats(request, "settings"), take_setting,
							&ec_shmem->server[server].item_max, 0) == EC_FAILED)
	{
		pgstat_report_activity(STATE_IDLE, NULL);
		return false;
	}
	/* one that has been UP by an older list, too, has nothing old but what lives elsewhere now */
	if (purge && ec_state_may_keep(db, server) &&
		ec_purge_misplaced(server, key_heads(db, NIL), &removed, &failure))
		purge = false;
	for (;;)
	{
		rows = read_rows(name, EC_OUTBOX_BATCH);
		if (rows == NIL && !purge)
			break;
		if (!invalidate(db, server, rows, purge, &removed, &failure))
		{
			/* it is DOWN if it failed; one that does not tell its keys stays RECOVERING */
			if (ec_state_word(db, server) == word)
				ec_state_set_error(server, failure.reason);
			pgstat_report_activity(STATE_IDLE, NULL);
			return false;
		}
		if (rows != NIL)
			delete_rows(rows);
		purge = false;
	}
	pgstat_report_activity(STATE_IDLE, NULL);
	if (!ec_state_swap(db, server, &word, EC_UP, false))
		return false;
	ec_lease_renew_soon(server);	/* for standbys, which wait for this */
	ec_state_retry_unclaimed(server);
	ec_state_tell_up(server, removed);
	return true;
}

/*
 * Clear the rows that have come to servers that are UP, and those of servers that are not in
 * the topology any more: such a server would be purged before it is used again.
 */
void
ec_recovery_clear_late_rows(EcDatabase *db)
{
	List	   *rows = read_rows(NULL, EC_OUTBOX_BATCH);

	if (rows == NIL)
		return;
	for (int i = 0; i < ec_placement_size(); i++)
	{
		List	   *mine = NIL;
		int64		removed = 0;
		EcFailure	failure = {0};
		ListCell   *lc;

		foreach(lc, rows)
		{
			EcOutboxRow *row = lfirst(lc);

			if (strcmp(row->server, ec_placement_name(i)) != 0)
				continue;
			mine = lappend(mine, row);
			rows = foreach_delete_current(rows, lc);
		}
		if (mine != NIL && EC_STATE(ec_state_word(db, i)) == EC_UP &&
			invalidate(db, i, mine, false, &removed, &failure))
			delete_rows(mine);
	}
	if (rows != NIL)
		delete_rows(rows);
}

/* On a standby, which cannot write: the server is UP while it answers and no row waits for it. */
void
ec_recovery_watch(EcDatabase *db, int server)
{
	uint64		word;
	EcLeaseResult lease;
	bool		up;

	if (!ec_state_read(db, server, ec_placement_generation(), &word))
		return;
	lease = ec_lease_watch(db, server);
	if (lease == EC_LEASE_FAILED && EC_STATE(word) == EC_UP)
		return;					/* DOWN by now; or slow, and what was seen before counts on */
	up = lease == EC_LEASE_OURS && read_rows(ec_placement_name(server), 1) == NIL;
	if (up != (EC_STATE(word) == EC_UP))
		(void) ec_state_swap(db, server, &word, up ? EC_UP : EC_RECOVERING, true);
}
