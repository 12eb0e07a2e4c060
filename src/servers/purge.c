/*-------------------------------------------------------------------------
 *
 * purge.c
 *	  Invalidate every key with a given head on a server.
 *
 * The table cannot tell which keys a server holds: those of rows that are gone are not in it.
 * So the server itself is asked, by "lru_crawler metadump hash".  The list is complete: a key
 * that stays where it is throughout is in it.  Whatever is stored meanwhile went through the
 * fence or a fill and is right.
 *
 * memcached's crawler waits for whoever takes the list in, and holds up others meanwhile.  So
 * nothing is done with a line but to remember it, and no server is asked whose crawler is at
 * work for somebody else.
 *
 * The deletes are unconditional.  One that is applied late costs a miss, or a marker whose
 * holder then stores nothing.
 *
 * The caller is in the topology.  No lock is needed here; why none of the keys that are found
 * is of a newer document than the caller means is for the caller to know.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"

#include "deadline.h"
#include "net/request.h"
#include "protocol/reply.h"
#include "protocol/wire.h"
#include "servers/exchange.h"
#include "servers/placement.h"
#include "servers/purge.h"
#include "shmem.h"
#include "waitevent.h"

/* Keys collected in one pass over the server, and deleted in one exchange. */
#define PURGE_BYTES		(32 * 1024 * 1024)
#define PURGE_BATCH		1000

/*
 * A server that invents keys must come to an end, and one that has millions must not be cut
 * off.  So a list may have twice as many keys as the server says that it has, each in the
 * longest line that there is, and some that come meanwhile.  Since what it says may be invented
 * as well, there is a limit in time, in which a slow machine lists tens of millions.  A purge
 * that meets it has removed what it has seen; the worker goes on from there.
 */
#define MOST_KEYS		UINT64CONST(10000000000)
#define LINE_BYTES		1024
#define SPARE_BYTES		(32 * 1024 * 1024)
#define LIST_MS			(10 * 60 * 1000)

/*
 * How long a crawler that works for somebody else is waited for, who may have millions of keys
 * listed.  It is asked again this often, since whoever lists in a loop leaves only very short
 * gaps.
 */
#define CRAWLER_MS		10000
#define CRAWLER_NAP_US	100
#define CRAWLER_TRIES	5000	/* from then on a tenth as often */

/* Of all exchanges here.  What cannot be purged is DOWN by what the caller makes of it. */
#define PURGE_FLAGS		(EC_PATIENT | EC_COUNTED)

/* The answer to "stats": how long it may take in all, and the longest line that is looked at. */
#define STATS_MS		(10 * 1000)
#define STAT_TEXT_MAX	64

typedef struct Collected
{
	List	   *heads;			/* of char * */
	int			spared;			/* keys that live on this server stay; -1: none do */
	char	   *keys;			/* each a length byte and the key */
	size_t		len;
	size_t		size;
	bool		full;			/* there were more */
} Collected;

/* What a server says of itself. */
typedef struct ServerStats
{
	uint64		keys;			/* so many, MOST_KEYS at most */
	uint64		crawling;		/* not 0: the crawler is at work */
	bool		old;			/* a memcached before 1.6.19 */
} ServerStats;

/* What ec_purge_on_batch() was told: a purge may take long, and other things must go on. */
static void (*after_batch) (void) = NULL;

static bool collect(const EcReply *line, void *arg);
static bool take_number(const char *text, const char *name, uint64 *number);
static bool take_stat(const EcReply *line, void *arg);
static void tell_of_old(int server);
static bool ask_stats(int server, EcDeadline last, ServerStats *stats, EcFailure *failure);
static bool list_keys(int server, int patience_ms, EcDeadline last, EcLineCallback callback,
					  void *arg, EcFailure *failure);
static bool delete_keys(int server, const Collected *found, int64 *removed,
						EcFailure *failure);
static bool purge(int server, List *heads, int spared, int64 *removed, EcFailure *failure);

/* Have this called between the batches of each purge of this process. */
void
ec_purge_on_batch(void (*callback) (void))
{
	after_batch = callback;
}

/* A line of the dump: note the key if it has one of the heads.  Throws out of memory. */
static bool
collect(const EcReply *line, void *arg)
{
	Collected  *found = arg;
	char		key[EC_KEY_MAX];
	int			len;
	ListCell   *lc;

	if (line->kind != EC_REPLY_DUMP)
		return true;
	len = ec_wire_decode_key(key, line->text, line->text_len);
	if (len < 0)
		return true;			/* no key that we can have made */
	foreach(lc, found->heads)
	{
		size_t		headlen = strlen(lfirst(lc));

		if ((size_t) len < headlen || memcmp(key, lfirst(lc), headlen) != 0)
			continue;
		if (found->spared >= 0 && ec_placement_of(key, len) == found->spared)
			break;
		if (found->len + 1 + len > found->size)
		{
			if (found->size >= PURGE_BYTES)
			{
				found->full = true;
				return false;
			}
			found->size *= 2;
			found->keys = repalloc(found->keys, found->size);
		}
		found->keys[found->len++] = (char) len;
		memcpy(found->keys + found->len, key, len);
		found->len += len;
		break;
	}
	return true;
}

/* Is this the statistic of that name?  Then *number is its value, MOST_KEYS at most. */
static bool
take_number(const char *text, const char *name, uint64 *number)
{
	uint64		n = 0;

	if (strncmp(text, name, strlen(name)) != 0)
		return false;
	for (const char *p = text + strlen(name); *p >= '0' && *p <= '9' && n < MOST_KEYS; p++)
		n = n * 10 + (*p - '0');
	*number = Min(n, MOST_KEYS);
	return true;
}

/* A line of "stats". */
static bool
take_stat(const EcReply *line, void *arg)
{
	ServerStats *stats = arg;
	char		text[STAT_TEXT_MAX];
	const size_t name = strlen("version ");

	if (line->kind != EC_REPLY_STAT || line->text_len >= sizeof(text))
		return true;
	memcpy(text, line->text, line->text_len);
	text[line->text_len] = '\0';
	if (strncmp(text, "version ", name) == 0)
		stats->old = ec_reply_version(text + name, line->text_len - name) < EC_VERSION(1, 6, 19);
	else if (!take_number(text, "curr_items ", &stats->keys))
		(void) take_number(text, "lru_crawler_running ", &stats->crawling);
	return true;
}

/* Log, once in a generation, that this server's memcached is old.  Never throws. */
static void
tell_of_old(int server)
{
	uint64		generation = ec_placement_generation();

	if (pg_atomic_exchange_u64(&ec_shmem->server[server].told_old, generation) == generation)
		return;
	ereport(LOG,
			(errmsg("echocache: server \"%s\" is a memcached before 1.6.19, which stands still "
					"while whoever has asked for its keys does not take them in",
					ec_placement_name(server)),
			 errdetail("A process that is stopped, or loses its network, in the middle of a long "
					   "list, for a purge or for echocache_verify(), holds up all clients."),
			 errhint("Use memcached 1.6.19 or newer."),
			 errhidestmt(true), errhidecontext(true)));
}

/*
 * Ask the server what it says of itself.  One that does not tell has no keys and no crawler.
 * false: the server failed, *failure says why.  Throws for interrupts.
 */
static bool
ask_stats(int server, EcDeadline last, ServerStats *stats, EcFailure *failure)
{
	char		request[EC_REQUEST_MAX];
	EcRequest	req = {.kind = EC_REQUEST_COMMAND,.server = server,.key = request};

	memset(stats, 0, sizeof(ServerStats));
	req.keylen = (int) ec_wire_stats(request, NULL);
	req.callback = take_stat;
	req.arg = stats;
	ec_exchange_list(&req, Min(last, ec_deadline_in(STATS_MS)), PURGE_FLAGS, failure);
	return req.result != EC_FAILED;
}

/*
 * Ask the server for its keys, until last: a line EC_REPLY_DUMP for each.  A server that does
 * not answer at all is noticed first, by a question that any server answers at once.
 *
 * The crawler serves one client at a time; while it is busy for another one, ask again, for as
 * long as patience_ms.  Whether it is busy has to be known before the list is asked for: while the
 * crawler waits for a client, who may be stopped, the thread that is asked for another list waits
 * for the crawler, and all clients of that thread with it.
 *
 * false: the server failed or does not tell, *failure says why.  Throws what the callback
 * throws, and for interrupts.
 */
static bool
list_keys(int server, int patience_ms, EcDeadline last, EcLineCallback callback, void *arg,
		  EcFailure *failure)
{
	char		request[EC_REQUEST_MAX];
	EcDeadline	patience = ec_deadline_in(patience_ms);
	ServerStats stats;

	for (int tries = 0;; tries++)
	{
		EcRequest	req = {.kind = EC_REQUEST_COMMAND,.server = server,.key = request};

		if (!ask_stats(server, last, &stats, failure))
			return false;
		if (stats.old)
			tell_of_old(server);
		if (stats.crawling != 0)
			ec_failure_set(failure, ERRCODE_OBJECT_IN_USE,
						   "the server's crawler is at work for somebody else");
		else
		{
			req.keylen = (int) ec_wire_metadump(request);
			req.callback = callback;
			req.arg = arg;
			req.limit = SPARE_BYTES + 2 * stats.keys * LINE_BYTES;
			ec_exchange_list(&req, last, PURGE_FLAGS, failure);
			if (req.result == EC_DONE)
				return true;
			if (req.result == EC_FAILED || failure->sqlstate != ERRCODE_OBJECT_IN_USE)
				return false;
		}
		/* whoever waits for the topology to be left does not wait for a crawler */
		if (ec_deadline_left(patience) == 0 || !ec_shmem_is_listed(ec_placement_generation()))
			return false;
		pgstat_report_wait_start(ec_waitevent_of(EC_WAIT_CRAWLER));
		pg_usleep(tries < CRAWLER_TRIES ? CRAWLER_NAP_US : 10 * CRAWLER_NAP_US);
		pgstat_report_wait_end();
		CHECK_FOR_INTERRUPTS();
		if (after_batch)
			after_batch();
	}
}

/* Ask the server for its keys: see list_keys(). */
bool
ec_purge_list_keys(int server, int patience_ms, EcLineCallback callback, void *arg,
				   EcFailure *failure)
{
	return list_keys(server, patience_ms, ec_deadline_in(LIST_MS), callback, arg, failure);
}

/* Delete the keys that were collected.  false: the server failed or refused, *failure says why. */
static bool
delete_keys(int server, const Collected *found, int64 *removed, EcFailure *failure)
{
	EcRequest  *reqs = palloc(PURGE_BATCH * sizeof(EcRequest));
	const char *p = found->keys;
	bool		ok = true;
	bool		refused = false;

	while (ok && p < found->keys + found->len)
	{
		int			n = 0;

		while (n < PURGE_BATCH && p < found->keys + found->len)
		{
			int			len = (unsigned char) *p++;

			ec_request_init(&reqs[n++], EC_REQUEST_DELETE, server, p, len);
			p += len;
		}
		ok = ec_exchange(reqs, n, ec_deadline_in(ec_round_ms(PURGE_FLAGS)), PURGE_FLAGS);
		for (int i = 0; i < n; i++)
		{
			*removed += ok && reqs[i].result == EC_DONE;
			refused |= reqs[i].result == EC_REFUSED;
			if (reqs[i].failure)
				*failure = *reqs[i].failure;
		}
		ok &= !refused;
		if (after_batch)
			after_batch();
	}
	pfree(reqs);
	return ok;
}

/*
 * Remove every key that begins with one of the heads, but for those that live on the server
 * spared.  true: confirmed, there is none left but what was stored since; *removed grows by how
 * many there were.  false: the server failed or does not tell its keys, *failure says why.
 * Throws only for interrupts and out of memory.
 */
static bool
purge(int server, List *heads, int spared, int64 *removed, EcFailure *failure)
{
	Collected	found = {.heads = heads,.spared = spared,.size = 64 * 1024};
	EcDeadline	last = ec_deadline_in(LIST_MS);
	bool		ok;

	if (heads == NIL)
		return true;
	found.keys = palloc(found.size);
	do
	{
		found.len = 0;
		found.full = false;
		ok = list_keys(server, CRAWLER_MS, last, collect, &found, failure) &&
			delete_keys(server, &found, removed, failure);
	} while (ok && found.full);
	pfree(found.keys);
	return ok;
}

/* Remove every key that begins with one of the heads: see purge(). */
bool
ec_purge(int server, List *heads, int64 *removed, EcFailure *failure)
{
	return purge(server, heads, -1, removed, failure);
}

/* Likewise, but only those that live on other servers, in the topology that the caller is in. */
bool
ec_purge_misplaced(int server, List *heads, int64 *removed, EcFailure *failure)
{
	return purge(server, heads, server, removed, failure);
}
