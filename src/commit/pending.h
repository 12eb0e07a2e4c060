/*-------------------------------------------------------------------------
 *
 * pending.h
 *	  What the current transaction has changed: ids of documents, by nesting level.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_COMMIT_PENDING_H
#define ECHOCACHE_COMMIT_PENDING_H

#include "nodes/pg_list.h"
#include "storage/itemptr.h"

/*
 * When a transaction changes more documents of one attachment than this, all documents of
 * the attachment are noted as changed.  This bounds the memory, at about 200 bytes a key.
 */
#define EC_PENDING_MAX		100000

/* Where a row was seen.  This is a hint: the row may have moved since. */
typedef struct EcPlace
{
	Oid			table;			/* InvalidOid: nowhere */
	Oid			filenode;		/* the file that the table was in */
	ItemPointerData tid;
} EcPlace;

/* A document that the transaction changes. */
typedef struct EcPendingKey
{
	Oid			relid;			/* the attached table */
	int			level;			/* the outermost nesting level that has changed it */
	struct EcPendingKey *next;	/* of the same level */
	int			seen_level;		/* the level at which its row was seen last, */
	EcPlace		place;			/* and where */
	int			idlen;
	char		id[FLEXIBLE_ARRAY_MEMBER];	/* the key column's text */
} EcPendingKey;

/* An attached table of which the transaction changes documents. */
typedef struct EcPendingTable
{
	Oid			relid;			/* hash key */
	int			whole_level;	/* the level since which every document changes; 0: none */
	int			nkeys;
} EcPendingTable;

/*
 * An attachment, perhaps detached already, whose documents could not be invalidated on every
 * server when that was asked for: the commit makes up for it.
 */
typedef struct EcPendingPurge
{
	char	   *name;
	int			level;			/* nesting level that asks for it */
} EcPendingPurge;

extern bool ec_pending_any(void);
extern void ec_pending_key(Oid relid, const char *id, const EcPlace *place);
extern void ec_pending_whole(Oid relid);
extern bool ec_pending_has(Oid relid, const char *id, int idlen);
extern int	ec_pending_count(void);
extern List *ec_pending_tables(void);
extern void ec_pending_each(void (*callback) (const EcPendingKey *key, void *arg), void *arg);

extern void ec_pending_subcommit(int level);
extern void ec_pending_subabort(int level);
extern void ec_pending_purge(const char *name);
extern List *ec_pending_purges(void);
extern void ec_pending_close(void);
extern void ec_pending_end(void);

#endif							/* ECHOCACHE_COMMIT_PENDING_H */
