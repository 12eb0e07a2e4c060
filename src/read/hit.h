/*-------------------------------------------------------------------------
 *
 * hit.h
 *	  Hits: ask the cache for documents, and believe only what is one.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_HIT_H
#define ECHOCACHE_READ_HIT_H

#include "attachments/configuration.h"
#include "deadline.h"
#include "net/request.h"
#include "protocol/wire.h"
#include "read/member.h"
#include "read/owner.h"

/*
 * How long one read has waited for the cache.  All exchanges of a read together wait no
 * longer than echocache.timeout; a server that answers each of them just in time must not make
 * that a multiple.  A read that waits for another's fill begins anew when it looks after that, and
 * so does one that was not answered by a server that answers others: it waits for at most
 * fill_wait and two timeouts.  (For a long list see ec_hit_exchange().)  A read owns its own, so a
 * nested read does not change it.
 */
typedef struct EcPatience
{
	int64		spent_us;
	EcDeadline	answered_at;	/* when the last exchange ended; 0: there was none */
	bool		asked_before;	/* for an item, which was not answered */
	int64		began;			/* when it first looked into the second tier, by
								 * ec_deadline_clock(); 0: not yet */
} EcPatience;

/* One document that a read wants.  The ids of one read are distinct. */
typedef struct EcItem
{
	const char *id;				/* the key column's text, canonical */
	text	   *json;			/* the document, server encoding; NULL: none, or another's */

	/* private to read/ */
	const EcShown *shown;		/* how documents show the id; NULL: not made yet */
	enum
	{
		EC_ITEM_ASK,			/* the cache may answer */
		EC_ITEM_UNANSWERED,		/* it has not done so in time: as TABLE, but where somebody else
								 * fills the item just now, that is waited for */
		EC_ITEM_TABLE,			/* the table answers, nothing is stored */
		EC_ITEM_AWAY,			/* its server is away: as TABLE, but for the second tier */
		EC_ITEM_LONE,			/* as AWAY, and the fill lock is held, so that others wait */
		EC_ITEM_FILL,			/* our marker is set, and the fill lock held: fill it */
		EC_ITEM_DONE
	}			state;
	uint64		hash;
	uint64		token;
	uint64		connection;		/* on which it was learned */
	uint64		word;			/* the server's state, before it was asked */
	bool		locked;			/* we hold its key, to fill it */
	uint64		claim;			/* on a place in the second tier; 0: none */
	bool		remote;			/* DONE by memcached's answer */
	int			server;
	int			keylen;
	char		key[EC_KEY_MAX];
} EcItem;

extern bool ec_hit_exchange(EcPatience *patience, EcRequest *reqs, int n);
extern bool ec_hit_time_is_left(const EcPatience *patience);
extern void ec_hit_show(EcAttachment *att, EcItem *item);
extern void ec_hit_begin(EcAttachment *att, EcItem *items, int n);
extern void ec_hit_local(EcAttachment *att, EcItem *items, int n, const EcOwner *owner,
						 EcPatience *patience);
extern void ec_hit_classify(EcAttachment *att, EcItem *items, int n);
extern void ec_hit_request(EcRequest *req, EcRequestKind kind, const EcItem *item);
extern bool ec_hit_is_document(EcAttachment *att, const EcItem *item, const EcRequest *req);
extern void ec_hit_ask(EcAttachment *att, EcItem *items, int n, const EcOwner *owner,
					   EcPatience *patience);

#endif							/* ECHOCACHE_READ_HIT_H */
