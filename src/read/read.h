/*-------------------------------------------------------------------------
 *
 * read.h
 *	  The read path: the cache, a fill, or the table alone.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_READ_H
#define ECHOCACHE_READ_READ_H

#include "attachments/configuration.h"
#include "read/hit.h"

/* What has come of making a document for whoever reads it next. */
typedef enum EcBuilt
{
	EC_BUILT_STORED,
	EC_BUILT_NOTHING,			/* it need not be cached, or cannot be */
	EC_BUILT_LATER				/* somebody else is at the key, or the attachment, for long */
} EcBuilt;

extern void ec_read(const char *name, EcItem *items, int n, const char *owner_text);
extern bool ec_read_touch(EcAttachment *att, const char *id, int64 ttl);
extern bool ec_read_invalidate(EcAttachment *att, const char *id);
extern EcBuilt ec_read_build(EcAttachment *att, const char *id);
extern bool ec_read_refresh(EcAttachment *att, const char *id);

#endif							/* ECHOCACHE_READ_READ_H */
