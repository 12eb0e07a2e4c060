/*-------------------------------------------------------------------------
 *
 * pending.h
 *	  What the current transaction has changed: keys of documents, by nesting
 *	  level.  Pure bookkeeping; nothing is sent from here.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_PENDING_H
#define ECHOCACHE_PENDING_H

#include "nodes/pg_list.h"
#include "storage/itemptr.h"

/*
 * Above this many keys of one document in one transaction no more are noted:
 * the whole document is invalidated.  Bounds the memory (about 200 bytes a key).
 */
#define EC_PENDING_MAX		100000

/* Where a row was seen, which is a hint: it may have moved. */
typedef struct EcPlace
{
	Oid			table;			/* InvalidOid: nowhere */
	Oid			filenode;		/* the file that the table was in */
	ItemPointerData tid;
} EcPlace;

typedef struct EcPendingKey
{
	Oid			relid;			/* the attached table */
	int			level;			/* outermost nesting level that it stands for */
	struct EcPendingKey *next;	/* of the same level */
	int			seen_level;		/* the level at which its row was seen last, */
	EcPlace		place;			/* and where */
	int			idlen;
	char		id[FLEXIBLE_ARRAY_MEMBER];	/* the key column's text */
} EcPendingKey;

/* One attached table of this transaction. */
typedef struct EcPendingTable
{
	Oid			relid;			/* hash key */
	int			whole_level;	/* every document changes: since this level, 0: no */
	int			nkeys;
} EcPendingTable;

extern bool ec_pending_any(void);
extern void ec_pending_key(Oid relid, const char *id, const EcPlace *place);
extern void ec_pending_whole(Oid relid);
extern bool ec_pending_has(Oid relid, const char *id, int idlen);
extern int	ec_pending_count(void);
extern List *ec_pending_tables(void);
extern void ec_pending_each(void (*callback) (const EcPendingKey *key, void *arg), void *arg);

extern void ec_pending_subcommit(int level);
extern void ec_pending_subabort(int level);
extern void ec_pending_close(void);
extern void ec_pending_end(void);

#endif							/* ECHOCACHE_PENDING_H */
