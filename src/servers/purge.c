/*-------------------------------------------------------------------------
 *
 * purge.c
 *	  Invalidate every key with a given head from a server.
 *
 * The table cannot tell which keys a server holds: those of rows that are gone
 * are not in it.  So the server itself is asked, by "lru_crawler metadump hash",
 * which is complete: a key that stays where it is throughout is listed.
 * Whatever is stored meanwhile went through the fence or a fill and is right.
 *
 * The deletes are unconditional; one that is applied late costs a miss, or a
 * marker whose holder then stores nothing.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "utils/memutils.h"

#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "protocol/reply.h"
#include "protocol/wire.h"
#include "servers/exchange.h"
#include "servers/purge.h"

/* Keys collected in one pass over the server, and deleted in one exchange. */
#define PURGE_BYTES		(32 * 1024 * 1024)
#define PURGE_BATCH		1000

/* How long to wait before a server whose crawler was busy is asked again. */
#define CRAWLER_NAP_MS	5

typedef struct Collected
{
	List	   *heads;			/* of char * */
	char	   *keys;			/* each a length byte and the key */
	size_t		len;
	size_t		size;
	int64		n;
	bool		full;
} Collected;

/* What ec_purge_on_batch() was told: a purge may take long, and other things must go on. */
static void (*after_batch) (void) = NULL;

static bool collect(const EcReply *line, void *arg);

/* Have this called between the batches of each purge of this process. */
void
ec_purge_on_batch(void (*callback) (void))
{
	after_batch = callback;
}

/* A line of the dump: keep the key if it has one of the heads. */
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
		found->n++;
		break;
	}
	return true;
}

/*
 * Ask the server for its keys: a line EC_REPLY_DUMP for each.  The crawler serves
 * one at a time: while it is busy for somebody else, ask again, for as long as
 * patience_ms.  false: the server failed or does not tell, *failure says why.  Throws what the callback throws, and for
 * interrupts.
 */
bool
ec_purge_list_keys(int server, int patience_ms, EcLineCallback callback, void *arg,
				   EcFailure *failure)
{
	char		request[EC_REQUEST_MAX];
	size_t		len = ec_wire_metadump(request);
	EcDeadline	deadline = ec_deadline_in(patience_ms);

	for (;;)
	{
		switch (ec_exchange_command(server, request, len, callback, arg, failure))
		{
			case EC_DONE:
				return true;
			case EC_FAILED:
				return false;
			default:
				break;
		}
		if (ec_deadline_left(deadline) == 0)
			return false;
		ec_deadline_nap(CRAWLER_NAP_MS);
	}
}

/*
 * Remove every key that begins with one of the heads.  true: confirmed, there
 * is none left but what was stored since; *removed grows by how many there were.
 * false: the server failed or does not tell its keys, *failure says why.  Throws only for interrupts and out of memory.
 */
bool
ec_purge(int server, List *heads, int64 *removed, EcFailure *failure)
{
	Collected	found = {.heads = heads,.size = 64 * 1024};
	EcRequest	   *reqs = NULL;
	bool		ok = true;

	if (heads == NIL)
		return true;
	found.keys = palloc(found.size);
	do
	{
		const char *p;

		found.len = 0;
		found.n = 0;
		found.full = false;
		ok = ec_purge_list_keys(server, ec_guc_timeout, collect, &found, failure);
		if (ok && reqs == NULL && found.n > 0)
			reqs = palloc0(PURGE_BATCH * sizeof(EcRequest));
		p = found.keys;
		while (ok && p < found.keys + found.len)
		{
			int			n = 0;

			while (n < PURGE_BATCH && p < found.keys + found.len)
			{
				EcRequest	   *req = &reqs[n++];

				req->kind = EC_REQUEST_DELETE;
				req->server = server;
				req->keylen = (unsigned char) *p++;
				req->key = p;
				p += req->keylen;
			}
			ok = ec_exchange(reqs, n, ec_deadline_in(ec_guc_timeout), 0);
			for (int i = 0; i < n; i++)
			{
				*removed += ok && reqs[i].result == EC_DONE;
				if (reqs[i].failure)
					*failure = *reqs[i].failure;
			}
			if (after_batch)
				after_batch();
		}
	} while (ok && found.full);

	pfree(found.keys);
	if (reqs)
		pfree(reqs);
	return ok;
}
