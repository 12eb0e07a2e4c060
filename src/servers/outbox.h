/*-------------------------------------------------------------------------
 *
 * outbox.h
 *	  The durable list of keys that a server still holds against the truth.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SERVERS_OUTBOX_H
#define ECHOCACHE_SERVERS_OUTBOX_H

#include "nodes/pg_list.h"

/* A row of echocache.outbox. */
typedef struct EcOutboxRow
{
	int64		id;
	char	   *server;
	char	   *document;
	char	   *key;			/* the cache key; NULL: every key of the attachment */
} EcOutboxRow;

/* Who holds a server's outbox lock: a process, or a prepared transaction. */
typedef struct EcOutboxHolder
{
	int			pid;			/* 0: no process */
	char		gid[200];		/* empty: no prepared transaction */
} EcOutboxHolder;

/* More rows of one server than this are not read at once. */
#define EC_OUTBOX_BATCH		100000

extern void ec_outbox_lock(const char *server);
extern bool ec_outbox_is_free(const char *server, EcOutboxHolder *holder);
extern void ec_outbox_add(const char *server, const char *document, const char *key, int keylen);
extern bool ec_outbox_has(const char *server, const char *document);
extern List *ec_outbox_read(const char *server, int limit);
extern void ec_outbox_delete(List *rows);

#endif							/* ECHOCACHE_SERVERS_OUTBOX_H */
