/*-------------------------------------------------------------------------
 *
 * hit.c
 *	  Hits: ask the cache for documents, and believe only what is one.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "attachments/attachment.h"
#include "attachments/configuration.h"
#include "attachments/slot.h"
#include "commit/locks.h"
#include "commit/pending.h"
#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "protocol/jsonscan.h"
#include "protocol/wire.h"
#include "read/encoding.h"
#include "read/hit.h"
#include "read/owner.h"
#include "servers/exchange.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "shmem.h"

static const EcFailure *first_failure(const EcRequest *reqs, int n);
static bool take_hit(EcAttachment *att, EcItem *item, EcRequest *req, const EcOwner *owner);

/* An exchange of this read, like ec_exchange(), of as many requests as there are. */
bool
ec_hit_exchange(EcPatience *patience, EcRequest *reqs, int n)
{
	EcDeadline	start = ec_deadline_in(0);
	int64		longest_us;
	bool		ok;

	ok = ec_exchange_pieces(reqs, n, start + Max(ec_guc_timeout * INT64CONST(1000) -
												 patience->spent_us, 1000), &longest_us);
	patience->spent_us += longest_us;
	return ok;
}

/* Is there so much of that left that a slow answer will not pass for none? */
bool
ec_hit_time_is_left(const EcPatience *patience)
{
	return patience->spent_us < ec_guc_timeout * INT64CONST(1000) / 2;
}

/* Which items may the cache answer?  The topology is entered. */
void
ec_hit_classify(EcAttachment *att, EcItem *items, int n)
{
	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];
		int			idlen = (int) strlen(item->id);

		item->state = EC_ITEM_TABLE;
		item->json = NULL;
		item->keylen = ec_attachment_key(att, item->id, item->key);
		if (item->keylen == 0)
			ec_slot_count(att->slot, EC_BYPASS_KEY, 1);
		else if (ec_pending_has(att->relid, item->id, idlen))
			ec_slot_count(att->slot, EC_BYPASS_OWN_CHANGE, 1);
		else
		{
			item->hash = ec_locks_hash(att->relid, item->id, idlen);
			item->server = ec_placement_of(item->key, item->keylen);
			if (ec_state_of(item->server) == EC_UP)
				item->state = EC_ITEM_ASK;
			else
				ec_slot_count(att->slot, EC_BYPASS_SERVER, 1);
			if (item->state == EC_ITEM_TABLE && !ec_guc_fallback)
				ereport(ERROR,
						(errcode(ERRCODE_CONNECTION_FAILURE),
						 errmsg("cache server \"%s\" is not available",
								ec_placement_name(item->server)),
						 errhint("The table is not read instead because echocache.fallback "
								 "is off.")));
		}
	}
}

void
ec_hit_request(EcRequest *req, EcRequestKind kind, const EcItem *item)
{
	memset(req, 0, sizeof(EcRequest));
	req->kind = kind;
	req->server = item->server;
	req->key = item->key;
	req->keylen = item->keylen;
	req->token = item->token;
	req->ttl = -1;
	if (kind == EC_REQUEST_MARK)
	{
		req->value = EC_MARKER;
		req->valuelen = EC_MARKER_LEN;
		req->ttl = ec_guc_marker_ttl;
	}
}

/* A value from the cache.  false: it is neither a document of ours nor a marker. */
static bool
take_hit(EcAttachment *att, EcItem *item, EcRequest *req, const EcOwner *owner)
{
	const char *value = VARDATA(req->found);
	size_t		len = req->found_len;
	const char *converted;

	if (len == EC_MARKER_LEN && memcmp(value, EC_MARKER, EC_MARKER_LEN) == 0)
	{
		pfree(req->found);
		return true;			/* a marker: still to be asked elsewhere */
	}
	if (len < 2 || len > MaxAllocSize - VARHDRSZ - 2 ||
		value[0] != '{' || value[len - 1] != '}' ||
		(converted = ec_encoding_from_utf8(value, &len)) == NULL)
	{
		pfree(req->found);
		return false;
	}
	if (owner->text != NULL)
	{
		switch (ec_jsonscan_member(value, req->found_len, owner->member, owner->memberlen,
							   owner->namelen))
		{
			case EC_MEMBER_EQUAL:
				break;
			case EC_MEMBER_DIFFERS:
				ec_slot_count(att->slot, EC_HITS, 1);
				item->state = EC_ITEM_DONE;
				pfree(req->found);
				return true;
			case EC_MEMBER_UNKNOWN:
				ec_slot_count(att->slot, EC_BYPASS_OWNER, 1);
				item->state = EC_ITEM_TABLE;
				pfree(req->found);
				return true;
		}
	}
	ec_slot_count(att->slot, EC_HITS, 1);
	item->state = EC_ITEM_DONE;
	item->json = converted == value ? (text *) req->found
		: cstring_to_text_with_len(converted, (int) len);
	return true;
}

/* Of an exchange in which not every request was answered: why the first was not. */
static const EcFailure *
first_failure(const EcRequest *reqs, int n)
{
	for (int i = 0; i < n; i++)
		if (!reqs[i].skip && reqs[i].result == EC_FAILED)
			return reqs[i].failure;
	return NULL;
}

/*
 * Ask the cache for every item in state ASK; hits become DONE.  What is there
 * but is no document is invalidated, by its token.
 */
void
ec_hit_ask(EcAttachment *att, EcItem *items, int n, const EcOwner *owner,
		   EcPatience *patience)
{
	EcRequest		one;
	EcRequest	   *reqs = n == 1 ? &one : palloc(n * sizeof(EcRequest));
	int			bad = 0;

	for (int i = 0; i < n; i++)
	{
		ec_hit_request(&reqs[i], EC_REQUEST_GET, &items[i]);
		reqs[i].skip = items[i].state != EC_ITEM_ASK;
		if (att->touch_on_read && !RecoveryInProgress())
			reqs[i].ttl = ec_request_ttl(ec_attachment_ttl(att));
	}
	if (!ec_hit_exchange(patience, reqs, n))
	{
		const EcFailure *failure = first_failure(reqs, n);

		ec_slot_count(att->slot, failure->timed_out ? EC_TIMEOUTS : EC_ERRORS, 1);
		if (!ec_guc_fallback)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not read from the cache: %s", failure->reason),
					 errhint("The table is not read instead because echocache.fallback is off.")));
	}
	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];
		EcRequest	   *req = &reqs[i];

		if (req->skip)
			continue;
		if (req->result == EC_FAILED)
			item->state = EC_ITEM_TABLE;
		else if (req->result == EC_DONE && !take_hit(att, item, req, owner))
		{
			item->token = req->token;
			ec_hit_request(req, EC_REQUEST_REMOVE, item);
			bad++;
			continue;
		}
		req->skip = true;
	}
	ec_slot_count(att->slot, EC_ERRORS, bad);
	if (bad > 0 && !RecoveryInProgress())
		(void) ec_hit_exchange(patience, reqs, n);
	if (reqs != &one)
		pfree(reqs);
}
