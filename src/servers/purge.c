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

#include "deadline.h"
#include "net/request.h"
#include "protocol/reply.h"
#include "protocol/wire.h"
#include "servers/exchange.h"
#include "servers/purge.h"

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

typedef struct Collected
{
	List	   *heads;			/* of char * */
	char	   *keys;			/* each a length byte and the key */
	size_t		len;
	size_t		size;
	bool		full;			/* there were more */
} Collected;

/* What ec_purge_on_batch() was told: a purge may take long, and other things must go on. */
static void (*after_batch) (void) = NULL;

static bool collect(const EcReply *line, void *arg);
static bool take_count(const EcReply *line, void *arg);
static bool list_keys(int server, int patience_ms, EcDeadline last, EcLineCallback callback,
					  void *arg, EcFailure *failure);
static bool delete_keys(int server, const Collected *found, int64 *removed,
						EcFailure *failure);

/* Have this called between the batches of each purge of this process. */
void
ec_purge_on_batch(void (*callback) (void))
{
	after_batch = callback;
}

/* A line of the dump: keep the key if it has one of the heads.  Throws out of memory. */
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

/* A line of "stats": how many keys does the server say that it has? */
static bool
take_count(const EcReply *line, void *arg)
{
	const char	name[] = "curr_items ";
	size_t		skip = strlen(name);
	uint64		n = 0;

	if (line->kind != EC_REPLY_STAT || line->text_len <= skip ||
		memcmp(line->text, name, skip) != 0)
		return true;
	for (size_t i = skip; i < line->text_len && n < MOST_KEYS; i++)
	{
		if (line->text[i] < '0' || line->text[i] > '9')
			break;
		n = n * 10 + (line->text[i] - '0');
	}
	*(uint64 *) arg = Min(n, MOST_KEYS);
	return false;
}

/*
 * Ask the server for its keys, until last: a line EC_REPLY_DUMP for each.  A server that does
 * not answer at all is noticed first, by a question that any server answers at once.  The
 * crawler serves one client at a time; while it is busy for another one, ask again, for as long
 * as patience_ms.  false: the server failed or does not tell, *failure says why.  Throws what
 * the callback throws, and for interrupts.
 */
static bool
list_keys(int server, int patience_ms, EcDeadline last, EcLineCallback callback, void *arg,
		  EcFailure *failure)
{
	char		request[EC_REQUEST_MAX];
	size_t		len = ec_wire_stats(request, NULL);
	EcDeadline	patience = ec_deadline_in(patience_ms);
	uint64		count = 0;

	if (ec_exchange_command(server, request, len, take_count, &count, failure) == EC_FAILED)
		return false;
	len = ec_wire_metadump(request);
	for (;;)
	{
		EcRequest	req = {.kind = EC_REQUEST_COMMAND,.server = server,.key = request};

		req.keylen = (int) len;
		req.callback = callback;
		req.arg = arg;
		req.limit = SPARE_BYTES + 2 * count * LINE_BYTES;
		ec_exchange_list(&req, last, EC_PATIENT, failure);
		if (req.result == EC_DONE)
			return true;
		if (req.result == EC_FAILED || failure->sqlstate != ERRCODE_OBJECT_IN_USE ||
			ec_deadline_left(patience) == 0)
			return false;
		pg_usleep(CRAWLER_NAP_US);
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
		ok = ec_exchange(reqs, n, ec_deadline_in(ec_round_ms(EC_PATIENT)), EC_PATIENT);
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
 * Remove every key that begins with one of the heads.  true: confirmed, there is none left but
 * what was stored since; *removed grows by how many there were.  false: the server failed or
 * does not tell its keys, *failure says why.  Throws only for interrupts and out of memory.
 */
bool
ec_purge(int server, List *heads, int64 *removed, EcFailure *failure)
{
	Collected	found = {.heads = heads,.size = 64 * 1024};
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
