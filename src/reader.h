/*-------------------------------------------------------------------------
 *
 * reader.h
 *	  The read path: hits, fills, and the table where the cache must not answer.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READER_H
#define ECHOCACHE_READER_H

#include "document.h"

/* One document that a read wants; distinct ids. */
typedef struct EcItem
{
	const char *id;				/* the key column's text, canonical */
	text	   *json;			/* the document, server encoding; NULL: absent, or not the owner's */

	/* private to reader.c */
	enum
	{
		EC_ITEM_ASK,			/* the cache may answer */
		EC_ITEM_TABLE,			/* the table answers, nothing is stored */
		EC_ITEM_FILL,			/* the key is locked in store mode: fill it */
		EC_ITEM_DONE
	}			state;
	uint64		hash;
	uint64		token;
	int			server;
	int			keylen;
	char		key[EC_KEY_MAX];
} EcItem;

extern void ec_permission_check(EcAttachment *att);
extern void ec_read(const char *name, EcItem *items, int n, const char *owner);
extern bool ec_read_touch(EcAttachment *att, const char *id, int64 ttl);
extern bool ec_read_invalidate(EcAttachment *att, const char *id);
extern bool ec_read_refresh(EcAttachment *att, const char *id);
extern void ec_fill_lock_tables(EcAttachment *att);

#endif							/* ECHOCACHE_READER_H */
