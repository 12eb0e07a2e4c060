/*-------------------------------------------------------------------------
 *
 * pending.c
 *	  What the current transaction has changed: ids of documents, by nesting level.
 *
 * This is bookkeeping; nothing is sent from here, and no lock is taken.
 *
 * An entry carries the outermost nesting level that has surely changed its document.  The
 * commit of a subtransaction hands its entries to its parent, its abort drops them.  As in
 * PostgreSQL's async.c there is one list for each level.  An entry too many costs one needless
 * marker, an entry too few a stale document.  Hence what is in doubt (an attachment beyond
 * EC_PENDING_MAX) is noted at level 1, from where nothing drops it.  The place where a row was
 * seen last is restored when the subtransaction that moved the row aborts.
 *
 * The transaction owns the variables of this file: they point into one memory context below
 * TopTransactionContext, which ec_pending_end() deletes.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "utils/memutils.h"

#include "commit/pending.h"

/* An entry of the hash table. */
typedef struct PendingEntry
{
	EcPendingKey *key;
	uint32		hash;
	char		status;
} PendingEntry;

static inline uint32
pending_hash(const EcPendingKey *key)
{
	return hash_combine(murmurhash32(key->relid),
						hash_bytes((const unsigned char *) key->id, key->idlen));
}

static inline bool
pending_equal(const EcPendingKey *a, const EcPendingKey *b)
{
	return a->relid == b->relid && a->idlen == b->idlen && memcmp(a->id, b->id, a->idlen) == 0;
}

#define SH_PREFIX pendinghash
#define SH_ELEMENT_TYPE PendingEntry
#define SH_KEY_TYPE EcPendingKey *
#define SH_KEY key
#define SH_HASH_KEY(tb, k) pending_hash(k)
#define SH_EQUAL(tb, a, b) pending_equal(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, e) (e)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* The context of everything that is noted; NULL: nothing is. */
static MemoryContext context = NULL;
static pendinghash_hash *keys;
static List *tables;			/* of EcPendingTable, few */
static List *purges;			/* of EcPendingPurge */

/* Where a document's row was seen last, before a level saw it again. */
typedef struct Moved
{
	EcPendingKey *key;
	int			seen_level;
	EcPlace		place;
	struct Moved *next;
} Moved;

typedef struct Level
{
	EcPendingKey *keys;			/* noted at this level first */
	Moved	   *moved;			/* noted further out, and again at this level; newest first */
} Level;

static Level *levels;
static int	nlevels;

/* The fence has set its markers, if any were needed: it is too late to note anything. */
static bool closed = false;

static void check_open(void);
static bool is_whole(Oid relid);
static void pending_begin(int level);
static EcPendingTable *pending_table(Oid relid);

/*
 * Throws 25000 once the markers are set.  Another extension's PRE_COMMIT callback may run
 * after ours, and must not write to an attached table.
 */
static void
check_open(void)
{
	if (closed)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cached documents were changed after their markers had been set"),
				 errdetail("Another extension writes to an attached table while the "
						   "transaction commits.")));
}

/* Is it noted that every document of the attached table changes? */
static bool
is_whole(Oid relid)
{
	ListCell   *lc;

	foreach(lc, ec_pending_tables())
	{
		EcPendingTable *table = lfirst(lc);

		if (table->relid == relid && table->whole_level > 0)
			return true;
	}
	return false;
}

/* Make room for the transaction's first entry, and for entries of this level. */
static void
pending_begin(int level)
{
	if (context == NULL)
	{
		MemoryContext new_context;

		new_context = AllocSetContextCreate(TopTransactionContext, "echocache pending keys",
											ALLOCSET_DEFAULT_SIZES);
		keys = pendinghash_create(new_context, 16, NULL);
		nlevels = 8;
		levels = MemoryContextAllocZero(new_context, nlevels * sizeof(Level));
		tables = NIL;
		purges = NIL;
		context = new_context;
	}
	if (level >= nlevels)
	{
		int			more = Max(level + 1, 2 * nlevels);

		levels = repalloc(levels, more * sizeof(Level));
		memset(levels + nlevels, 0, (more - nlevels) * sizeof(Level));
		nlevels = more;
	}
}

/* The entry of an attached table, made if need be. */
static EcPendingTable *
pending_table(Oid relid)
{
	EcPendingTable *table;
	MemoryContext old;
	ListCell   *lc;

	foreach(lc, tables)
	{
		table = lfirst(lc);
		if (table->relid == relid)
			return table;
	}
	old = MemoryContextSwitchTo(context);
	table = palloc0(sizeof(EcPendingTable));
	table->relid = relid;
	tables = lappend(tables, table);
	MemoryContextSwitchTo(old);
	return table;
}

/* Has the transaction noted anything, even if all of it was rolled back? */
bool
ec_pending_any(void)
{
	return context != NULL;
}

/*
 * Note that the document with this id changes at the current nesting level, and that its row
 * is at this place now.  Throws out of memory, and 25000 once the markers are set.
 */
void
ec_pending_key(Oid relid, const char *id, const EcPlace *place)
{
	int			idlen = (int) strlen(id);
	int			level = GetCurrentTransactionNestLevel();
	EcPendingTable *table;
	EcPendingKey *key;
	PendingEntry *entry;
	bool		found;

	check_open();
	pending_begin(level);
	table = pending_table(relid);
	if (table->whole_level == 1)
		return;
	if (table->nkeys >= EC_PENDING_MAX)
	{
		table->whole_level = 1;
		return;
	}

	key = MemoryContextAlloc(context, offsetof(EcPendingKey, id) + idlen);
	key->relid = relid;
	key->level = level;
	key->idlen = idlen;
	memcpy(key->id, id, idlen);
	entry = pendinghash_insert(keys, key, &found);
	if (found)
	{
		/* already noted, at this level or one further out */
		pfree(key);
		key = entry->key;
		if (key->seen_level < level)
		{
			Moved	   *moved = MemoryContextAlloc(context, sizeof(Moved));

			moved->key = key;
			moved->seen_level = key->seen_level;
			moved->place = key->place;
			moved->next = levels[level].moved;
			levels[level].moved = moved;
		}
	}
	key->seen_level = level;
	key->place = *place;
	if (found)
		return;
	entry->key = key;
	key->next = levels[level].keys;
	levels[level].keys = key;
	table->nkeys++;
}

/*
 * Note that every document of the attached table changes, at the current nesting level.
 * Throws out of memory, and 25000 once the markers are set, unless that was noted before: then
 * nobody stores a document of it until the transaction ends.  (ON COMMIT DROP drops a child of
 * an attached table after our part of the commit, in the transaction that has created it.)
 */
void
ec_pending_whole(Oid relid)
{
	int			level = GetCurrentTransactionNestLevel();
	EcPendingTable *table;

	if (closed && is_whole(relid))
		return;
	check_open();
	pending_begin(level);
	table = pending_table(relid);
	if (table->whole_level == 0)
		table->whole_level = level;
}

/*
 * Have all documents of this attachment invalidated by the commit, on the servers that could
 * not be reached now.  The caller holds the attachment lock to the end of the transaction, so
 * that nobody stores any until then.  Throws like ec_pending_key().
 */
void
ec_pending_purge(const char *name)
{
	int			level = GetCurrentTransactionNestLevel();
	EcPendingPurge *purge;
	MemoryContext old;

	check_open();
	pending_begin(level);
	old = MemoryContextSwitchTo(context);
	purge = palloc(sizeof(EcPendingPurge));
	purge->name = pstrdup(name);
	purge->level = level;
	purges = lappend(purges, purge);
	MemoryContextSwitchTo(old);
}

/* What ec_pending_purge() was told and was not rolled back, as a list of EcPendingPurge. */
List *
ec_pending_purges(void)
{
	return context ? purges : NIL;
}

/*
 * Does the transaction change the document with this id, as far as is noted and not rolled
 * back?  May say so of a document that it does not change, never the other way round.  Throws
 * out of memory, for an id over 512 bytes.
 */
bool
ec_pending_has(Oid relid, const char *id, int idlen)
{
	union
	{
		EcPendingKey key;
		char		space[offsetof(EcPendingKey, id) + 512];
	}			probe;
	EcPendingKey *key = &probe.key;
	bool		found;

	if (context == NULL)
		return false;
	if (is_whole(relid))
		return true;
	if (idlen > 512)
		key = palloc(offsetof(EcPendingKey, id) + idlen);
	key->relid = relid;
	key->idlen = idlen;
	memcpy(key->id, id, idlen);
	found = pendinghash_lookup(keys, key) != NULL;
	if (key != &probe.key)
		pfree(key);
	return found;
}

/* How many documents are noted one by one. */
int
ec_pending_count(void)
{
	return context ? (int) keys->members : 0;
}

/* The attached tables of which something was noted, as a list of EcPendingTable. */
List *
ec_pending_tables(void)
{
	return context ? tables : NIL;
}

/* Call this for every document that is noted by its id, in no order. */
void
ec_pending_each(void (*callback) (const EcPendingKey *key, void *arg), void *arg)
{
	pendinghash_iterator i;
	PendingEntry *entry;

	if (context == NULL)
		return;
	pendinghash_start_iterate(keys, &i);
	while ((entry = pendinghash_iterate(keys, &i)) != NULL)
		callback(entry->key, arg);
}

/* The subtransaction at this level has committed: hand its entries to its parent. */
void
ec_pending_subcommit(int level)
{
	EcPendingKey **last_key;
	Moved	  **last_moved;
	ListCell   *lc;

	if (context == NULL)
		return;
	foreach(lc, tables)
	{
		EcPendingTable *table = lfirst(lc);

		if (table->whole_level == level)
			table->whole_level = level - 1;
	}
	foreach(lc, purges)
	{
		EcPendingPurge *purge = lfirst(lc);

		purge->level = Min(purge->level, level - 1);
	}
	if (level >= nlevels)
		return;
	for (last_key = &levels[level].keys; *last_key; last_key = &(*last_key)->next)
		(*last_key)->level = (*last_key)->seen_level = level - 1;
	*last_key = levels[level - 1].keys;
	levels[level - 1].keys = levels[level].keys;
	for (last_moved = &levels[level].moved; *last_moved; last_moved = &(*last_moved)->next)
		(*last_moved)->key->seen_level = level - 1;
	*last_moved = levels[level - 1].moved;
	levels[level - 1].moved = levels[level].moved;
	memset(&levels[level], 0, sizeof(Level));
}

/* The subtransaction at this level has aborted: drop its entries. */
void
ec_pending_subabort(int level)
{
	EcPendingKey *key;
	Moved	   *moved;
	ListCell   *lc;

	if (context == NULL)
		return;
	foreach(lc, tables)
	{
		EcPendingTable *table = lfirst(lc);

		if (table->whole_level == level)
			table->whole_level = 0;
	}
	foreach(lc, purges)
		if (((EcPendingPurge *) lfirst(lc))->level >= level)
			purges = foreach_delete_current(purges, lc);
	if (level >= nlevels)
		return;
	while ((moved = levels[level].moved) != NULL)
	{
		Assert(moved->seen_level <= level);
		levels[level].moved = moved->next;
		moved->key->seen_level = moved->seen_level;
		moved->key->place = moved->place;
		pfree(moved);
	}
	while ((key = levels[level].keys) != NULL)
	{
		Assert(key->level == level);
		levels[level].keys = key->next;
		pending_table(key->relid)->nkeys--;
		pendinghash_delete(keys, key);
		pfree(key);
	}
}

/* The markers are set: from here to the end of the transaction noting is an error. */
void
ec_pending_close(void)
{
	closed = true;
}

/* The transaction is over: forget what was noted.  Never throws. */
void
ec_pending_end(void)
{
	closed = false;
	if (context)
		MemoryContextDelete(context);
	context = NULL;
}
