/*-------------------------------------------------------------------------
 *
 * hit.c
 *	  Hits: ask the cache for documents, and believe only what is one.
 *
 * What a cache holds never raises an error.  Bytes that cannot be a document, and documents
 * of another key, are a miss, and are invalidated.  A document of another owner than the
 * caller asks for is none for the caller.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "attachments/attachment.h"
#include "attachments/configuration.h"
#include "attachments/slot.h"
#include "commit/locks.h"
#include "commit/pending.h"
#include "commit/running.h"
#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "protocol/jsonscan.h"
#include "protocol/wire.h"
#include "read/encoding.h"
#include "read/hit.h"
#include "read/local.h"
#include "read/member.h"
#include "read/owner.h"
#include "servers/exchange.h"
#include "servers/outbox.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"

/* When so much of its lifetime has passed, memcached hears of hits in the second tier. */
#define RENEW_PART	10

/* What a value from the cache was. */
typedef enum Taken
{
	TAKEN_WELL,					/* a document of the item's, or a marker */
	TAKEN_BAD,					/* no document at all */
	TAKEN_FOREIGN				/* a document, of another key */
} Taken;

static bool has_noted_keys(int server, char *noted);
static const EcFailure *first_failure(const EcRequest *reqs, int n);
static bool shows(const char *value, size_t len, const EcShown *shown);
static bool is_object(const char *value, size_t len);
static bool is_of_key(EcAttachment *att, const EcItem *item, const char *value, size_t len);
static void take_document(EcAttachment *att, EcItem *item, struct varlena *found,
						  size_t found_len, const char *converted, size_t len,
						  const EcOwner *owner, EcCounter what);
static Taken take_hit(EcAttachment *att, EcItem *item, EcRequest *req, const EcOwner *owner);
static void look_there(EcAttachment *att, EcItem *items, EcLocalDocument *found, int n,
					   EcPatience *patience);

/*
 * Make an exchange for this read, of any number of requests, in the time that the read has
 * left; at least a millisecond.  A long list goes in pieces: the first one has that time, each
 * other one echocache.timeout, and the longest counts as spent.  Returns whether every request
 * was answered.  The topology is entered.  Throws what ec_exchange_pieces() throws.
 */
bool
ec_hit_exchange(EcPatience *patience, EcRequest *reqs, int n)
{
	EcDeadline	start = ec_deadline_in(0);
	int64		left_us = ec_guc_timeout * INT64CONST(1000) - patience->spent_us;
	int64		longest_us;
	bool		ok;

	Assert(ec_topology_is_entered());
	ok = ec_exchange_pieces(reqs, n, start + Max(left_us, 1000),
							patience->asked_before ? EC_ASKED_BEFORE : 0, &longest_us);
	patience->spent_us += longest_us;
	patience->answered_at = ec_deadline_in(0);
	return ok;
}

/* Has the read so much time left that a slow answer will not pass for none? */
bool
ec_hit_time_is_left(const EcPatience *patience)
{
	return patience->spent_us < ec_guc_timeout * INT64CONST(1000) / 2;
}

/*
 * On a standby: has the outbox, as far as it has been replayed, a row for this server?  Then
 * the primary could not reach the server, and a session that has seen a change may find the
 * old document there.  The rows of a change are replayed together with it.  noted remembers
 * the answers of one call.
 */
static bool
has_noted_keys(int server, char *noted)
{
	if (!RecoveryInProgress())
		return false;
	if (noted[server] == 0)
		noted[server] = ec_outbox_read(ec_placement_name(server), 1) == NIL ? 'n' : 'y';
	return noted[server] == 'y';
}

/*
 * Before the topology is entered: if it takes code of an owner's to tell how documents show the
 * id of this item, have it done.  Throws what the key's type throws.
 */
void
ec_hit_show(EcAttachment *att, EcItem *item)
{
	EcShown    *shown;

	item->shown = NULL;
	if (att->key.type < FirstNormalObjectId)
		return;
	shown = palloc(sizeof(EcShown));
	ec_member_make(att, &att->key, item->id, shown);
	item->shown = shown;
}

/*
 * Begin with items whose ids are set: ASK, if what this transaction has done does not keep it from
 * what others may read, and the id can be that of a cached document; else TABLE.
 */
void
ec_hit_begin(EcAttachment *att, EcItem *items, int n)
{
	bool		changing = ec_running_changes(att);

	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];
		int			idlen = (int) strlen(item->id);

		item->state = EC_ITEM_TABLE;
		item->json = NULL;
		item->claim = 0;
		item->locked = item->remote = false;
		item->keylen = ec_attachment_key(att, item->id, item->key);
		if (item->keylen == 0)
			ec_slot_count(att->slot, EC_BYPASS_KEY, 1);
		else if (changing || ec_pending_has(att->relid, item->id, idlen))
			ec_slot_count(att->slot, EC_BYPASS_OWN_CHANGE, 1);
		else
		{
			item->hash = ec_locks_hash(att->relid, item->id, idlen);
			item->state = EC_ITEM_ASK;
		}
	}
}

/*
 * Decide for each item in state ASK whether memcached may answer it, or is AWAY, and place the
 * key.  The topology is entered.  With fallback = off throws 08006 if a key's server is not UP.
 */
void
ec_hit_classify(EcAttachment *att, EcItem *items, int n)
{
	char		noted[EC_MAX_SERVERS] = {0};

	Assert(ec_topology_is_entered());
	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];

		CHECK_FOR_INTERRUPTS();
		if (item->state != EC_ITEM_ASK)
			continue;
		item->server = ec_placement_of(item->key, item->keylen);
		item->word = ec_state_seen(item->server);
		if (EC_STATE(item->word) == EC_UP && !has_noted_keys(item->server, noted))
			continue;
		item->state = EC_ITEM_AWAY;
		ec_slot_count(att->slot, EC_BYPASS_SERVER, 1);
		if (!ec_guc_fallback)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("cache server \"%s\" is not available",
							ec_placement_name(item->server)),
					 errhint("The table is not read instead because echocache.fallback "
							 "is off.")));
	}
}

/* Make a request of this kind for an item, with the item's token. */
void
ec_hit_request(EcRequest *req, EcRequestKind kind, const EcItem *item)
{
	memset(req, 0, sizeof(EcRequest));
	req->kind = kind;
	req->server = item->server;
	req->key = item->key;
	req->keylen = item->keylen;
	req->token = item->token;
	if (kind == EC_REQUEST_STORE || kind == EC_REQUEST_REMOVE)
		req->connection = item->connection;
	req->ttl = -1;
	if (kind == EC_REQUEST_MARK)
	{
		req->value = EC_MARKER;
		req->valuelen = EC_MARKER_LEN;
		req->ttl = ec_guc_marker_ttl;
	}
}

/*
 * Does the document show this member?  Within the first or last EC_SCAN_MAX bytes that costs
 * little.  Where large columns stand on both sides of the key, all of the bytes are looked at,
 * which still costs less than to fetch and render such a row.
 */
static bool
shows(const char *value, size_t len, const EcShown *shown)
{
	EcMember	result;
	int			found;

	if (shown->text == NULL)
		return false;
	result = ec_jsonscan_member(value, len, shown->text, shown->len, shown->namelen);
	if (result == EC_MEMBER_UNKNOWN)
		result = ec_jsonscan_find(value, len, shown->text, shown->len, shown->namelen, &found);
	return result == EC_MEMBER_EQUAL;
}

/* May these bytes be a document: do they begin and end as a JSON object? */
static bool
is_object(const char *value, size_t len)
{
	return len >= 2 && value[0] == '{' && value[len - 1] == '}';
}

/*
 * Whose document is it that the cache has for this item?  A server or proxy that mixes up
 * answers, or a client that stores under wrong keys, can bring another row's document, whose
 * reader may be somebody else: so the document must show the id that was asked for.  Throws
 * what the key's type throws.
 */
static bool
is_of_key(EcAttachment *att, const EcItem *item, const char *value, size_t len)
{
	EcShown		key;

	if (item->shown)
		return shows(value, len, item->shown);
	ec_member_make(att, &att->key, item->id, &key);
	return shows(value, len, &key);
}

/*
 * Hand a document of the item's to it, which makes it DONE; or leave it to the table, if the owner
 * cannot be told from the bytes.  converted: the document in the server's encoding.
 */
static void
take_document(EcAttachment *att, EcItem *item, struct varlena *found, size_t found_len,
			  const char *converted, size_t len, const EcOwner *owner, EcCounter what)
{
	EcMember	mine = EC_MEMBER_EQUAL;

	if (owner->text != NULL)
		mine = ec_jsonscan_member(VARDATA(found), found_len, owner->shown.text, owner->shown.len,
								  owner->shown.namelen);
	if (mine == EC_MEMBER_UNKNOWN)
	{
		ec_slot_count(att->slot, EC_BYPASS_OWNER, 1);
		item->state = EC_ITEM_TABLE;
		return;
	}
	ec_slot_count(att->slot, what, 1);
	item->state = EC_ITEM_DONE;
	if (mine == EC_MEMBER_EQUAL)
		item->json = converted == VARDATA(found) ? (text *) found
			: cstring_to_text_with_len(converted, (int) len);
}

/*
 * Take a value from the cache.  A document of this item makes it DONE, or leaves it to the
 * table if the owner cannot be told from the bytes; a marker leaves the item as it is.
 */
static Taken
take_hit(EcAttachment *att, EcItem *item, EcRequest *req, const EcOwner *owner)
{
	const char *value = VARDATA(req->found);
	size_t		len = req->found_len;
	const char *converted;

	if (len == EC_MARKER_LEN && memcmp(value, EC_MARKER, EC_MARKER_LEN) == 0)
		return TAKEN_WELL;
	if (len > MaxAllocSize - VARHDRSZ - 2 || !is_object(value, len) ||
		(converted = ec_encoding_from_utf8(value, &len)) == NULL)
		return TAKEN_BAD;
	if (!is_of_key(att, item, value, req->found_len))
		return TAKEN_FOREIGN;
	take_document(att, item, req->found, req->found_len, converted, len, owner, EC_HITS);
	item->remote = item->state == EC_ITEM_DONE;
	return TAKEN_WELL;
}

/*
 * Ask memcached whether it still has those documents of the second tier for which that is due, and
 * renew their lifetime there.  What it has lost is dropped here, too, so that the read goes on to
 * fill both, and plain clients find it again.  Where memcached does not answer, that can wait.
 */
static void
look_there(EcAttachment *att, EcItem *items, EcLocalDocument *found, int n,
		   EcPatience *patience)
{
	int64		ttl = ec_attachment_ttl(att);
	EcRequest  *reqs = palloc(n * sizeof(EcRequest));

	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];
		bool		due = found[i].bytes != NULL && (found[i].renew || found[i].look);

		if (due)
			item->server = ec_placement_of(item->key, item->keylen);
		ec_hit_request(&reqs[i], found[i].renew ? EC_REQUEST_TOUCH : EC_REQUEST_LOOK, item);
		reqs[i].ttl = ec_request_ttl(ttl);
		reqs[i].skip = !due || ec_state_of(item->server) != EC_UP;
	}
	(void) ec_hit_exchange(patience, reqs, n);
	for (int i = 0; i < n; i++)
	{
		EcRequest  *req = &reqs[i];

		if (req->skip && found[i].bytes != NULL && (found[i].renew || found[i].look))
			ec_local_lost(att, items[i].hash);
		if (req->skip)
			continue;
		if (req->result == EC_ABSENT ||
			(req->result == EC_DONE && req->found_len == EC_MARKER_LEN))
		{
			pfree(found[i].bytes);
			found[i].bytes = NULL;
			ec_local_drop(att, items[i].hash);
		}
		else if (found[i].renew)
			ec_local_renew(att, items[i].hash, items[i].id, ttl);
	}
	pfree(reqs);
}

/*
 * Look in the second tier for every item in state ASK: DONE, if it is there.  The topology is
 * entered.  Throws what an exchange throws.
 */
void
ec_hit_local(EcAttachment *att, EcItem *items, int n, const EcOwner *owner,
			 EcPatience *patience)
{
	int64		clock = ec_deadline_clock();
	EcDeadline	now = ec_deadline_at(clock);
	int64		ttl = ec_attachment_ttl(att);
	int64		renew_after = att->touch_on_read ? ttl * USECS_PER_SEC / RENEW_PART : 0;
	EcLocalDocument one;
	EcLocalDocument *found = n == 1 ? &one : palloc(n * sizeof(EcLocalDocument));
	bool		any = false;

	Assert(ec_topology_is_entered());
	if (patience->began == 0)
		patience->began = clock;
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		memset(&found[i], 0, sizeof(EcLocalDocument));
		if (items[i].state == EC_ITEM_ASK &&
			ec_local_read(att, items[i].hash, items[i].id, now, renew_after,
						  &found[i]))
			any |= found[i].renew || found[i].look;
	}
	if (any)
		look_there(att, items, found, n, patience);
	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];
		const char *converted;
		size_t		len = found[i].len;

		if (found[i].bytes == NULL)
			continue;
		/* it was UTF-8 when it was put */
		converted = ec_encoding_of_utf8(VARDATA(found[i].bytes), &len);
		if (converted != NULL)
			take_document(att, item, found[i].bytes, found[i].len, converted, len, owner,
						  EC_LOCAL_HITS);
		if (item->json != (text *) found[i].bytes)
			pfree(found[i].bytes);
	}
	if (found != &one)
		pfree(found);
}

/*
 * Is this answer to EC_REQUEST_INSPECT a document of the item's?  Throws what the key's type
 * throws.
 */
bool
ec_hit_is_document(EcAttachment *att, const EcItem *item, const EcRequest *req)
{
	const char *value = VARDATA(req->found);

	return is_object(value, req->found_len) && is_of_key(att, item, value, req->found_len);
}

/* Of an exchange that has failed: why the first of its requests was not answered. */
static const EcFailure *
first_failure(const EcRequest *reqs, int n)
{
	for (int i = 0; i < n; i++)
		if (!reqs[i].skip && reqs[i].result == EC_FAILED)
			return reqs[i].failure;
	return NULL;
}

/*
 * Ask the cache for every item in state ASK.  Hits become DONE, and what a failed exchange
 * leaves open becomes UNANSWERED or TABLE.  What is there but is no document of the item is
 * invalidated, by its token.  The topology is entered.  Throws what an exchange throws, and with
 * fallback = off 08006 if it fails.
 */
void
ec_hit_ask(EcAttachment *att, EcItem *items, int n, const EcOwner *owner,
		   EcPatience *patience)
{
	EcRequest	one;
	EcRequest  *reqs = n == 1 ? &one : palloc(n * sizeof(EcRequest));
	int			bad = 0;
	int			foreign = 0;

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
		EcRequest  *req = &reqs[i];
		Taken		taken = TAKEN_WELL;

		CHECK_FOR_INTERRUPTS();
		if (req->skip)
			continue;
		if (req->result == EC_FAILED)
			item->state = req->failure->timed_out ? EC_ITEM_UNANSWERED : EC_ITEM_TABLE;
		else if (req->result == EC_DONE && !ec_state_is_still(item->server, item->word))
		{
			/* the keys may have been somebody else's when the server answered */
			item->state = EC_ITEM_TABLE;
			ec_slot_count(att->slot, EC_BYPASS_SERVER, 1);
		}
		else if (req->result == EC_DONE)
			taken = take_hit(att, item, req, owner);
		bad += taken == TAKEN_BAD;
		foreign += taken == TAKEN_FOREIGN;
		if (req->result == EC_DONE && item->json != (text *) req->found)
			pfree(req->found);
		if (taken == TAKEN_WELL)
		{
			req->skip = true;
			continue;
		}
		item->token = req->token;
		item->connection = req->connection;
		ec_hit_request(req, EC_REQUEST_REMOVE, item);
	}
	ec_slot_count(att->slot, EC_ERRORS, bad);
	ec_slot_count(att->slot, EC_FOREIGN_HITS, foreign);
	if (bad + foreign > 0 && !RecoveryInProgress())
		(void) ec_hit_exchange(patience, reqs, n);
	if (reqs != &one)
		pfree(reqs);
}
