/*-------------------------------------------------------------------------
 *
 * entries.c
 *	  Entries of the second tier: where they are in shared memory, and how they are found.
 *
 * A hash table has the number of each key's entry.  Entries that were not used for long give
 * their place to others, as a clock's hand goes round (CLOCK); so do those of documents that are
 * large until there is room for another.
 *
 * Locks: a partition's lock protects the entries of the keys in it, and is held for some steps
 * only: documents are copied without it.  Which entry has which key changes under entries->lock
 * and the partition's lock, taken in this order; the lock of the blocks comes last.  Nothing
 * throws with any of them held.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "attachments/slot.h"
#include "guc.h"
#include "read/entries.h"
#include "shmem.h"

#define PARTITIONS		128

/* So much of the memory there is an entry for: more of them would not find room for documents. */
#define BYTES_PER_ENTRY 1024

/* No document takes more than this part of the memory. */
#define LARGEST_PART	16

#define MEGABYTE		(1024 * 1024)

/*
 * While less than this part of the memory is free, a document is worth a place only if it was asked
 * for before.
 */
#define SHORT_PART		16

/*
 * So many entries are looked at for one that was not used: with gigabytes of memory, all of it
 * used, the hand would go round for seconds, with the lock held.
 */
#define LOOKS			256

/* In the hash table. */
typedef struct Place
{
	EcEntryKey	key;
	int			entry;
} Place;

typedef struct Entries
{
	LWLock	   *lock;			/* of which entry has which key, and of these four */
	int			nentries;
	int			nfresh;			/* this many at the end were never taken */
	int			free;			/* the first one that is not taken any more; -1: none */
	int			hand;
	LWLockPadded *partition;
	ConditionVariable filled[PARTITIONS];
	pg_atomic_uint64 claims;
	EcBlocks	blocks;
	pg_atomic_uint32 *asked;	/* a part of what each of nentries documents hashes to */
	EcEntry		entry[FLEXIBLE_ARRAY_MEMBER];
} Entries;

static Entries *entries = NULL; /* NULL: there is no second tier */
static HTAB *places = NULL;

static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
static shmem_request_hook_type prev_shmem_request_hook = NULL;

static int	count_entries(void);
static Size largest(void);
static void request(void);
static void startup(void);
static LWLock *partition(uint32 code);
static void forget(EcEntry *entry, uint32 code);
static bool evict(bool memory, int *freed);
static int	take_entry(void);
static void put_back(int i);
static EcEntry *make(const EcSpot *spot);

static int
count_entries(void)
{
	return (int) ((Size) ec_guc_local_memory * MEGABYTE / BYTES_PER_ENTRY);
}

/* So many bytes may a document have, with its id. */
static Size
largest(void)
{
	return Min((Size) ec_guc_local_memory * MEGABYTE / LARGEST_PART, MaxAllocSize / 2);
}

/* Hook: ask for the shared memory, and for the locks in it. */
static void
request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	if (ec_guc_local_memory == 0)
		return;
	RequestAddinShmemSpace((Size) ec_guc_local_memory * MEGABYTE);
	RequestNamedLWLockTranche("echocache_local", PARTITIONS + 2);
}

/*
 * Hook: make the tier, empty, as the postmaster starts or begins anew after a crash.  Of the
 * memory that was asked for the entries and their hash table take a part.
 */
static void
startup(void)
{
	Size		size = (Size) ec_guc_local_memory * MEGABYTE;
	int			n = count_entries();
	Size		places_size = hash_estimate_size(n, sizeof(Place));
	Size		asked = MAXALIGN(offsetof(Entries, entry) + n * sizeof(EcEntry));
	Size		head = MAXALIGN(asked + n * sizeof(pg_atomic_uint32));
	HASHCTL		ctl = {.keysize = sizeof(EcEntryKey),.entrysize = sizeof(Place),
	.num_partitions = PARTITIONS};
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	if (ec_guc_local_memory == 0)
		return;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	entries = ShmemInitStruct("echocache documents", size - places_size, &found);
	places = ShmemInitHash("echocache places of documents", n, n, &ctl,
						   HASH_ELEM | HASH_BLOBS | HASH_PARTITION | HASH_FIXED_SIZE);
	if (!found)
	{
		memset(entries, 0, head);
		entries->partition = GetNamedLWLockTranche("echocache_local");
		entries->lock = &entries->partition[PARTITIONS].lock;
		entries->nentries = entries->nfresh = n;
		entries->free = -1;
		pg_atomic_init_u64(&entries->claims, 0);
		entries->asked = (pg_atomic_uint32 *) ((char *) entries + asked);
		for (int i = 0; i < n; i++)
			pg_atomic_init_u32(&entries->asked[i], 0);
		for (int p = 0; p < PARTITIONS; p++)
			ConditionVariableInit(&entries->filled[p]);
		ec_blocks_make(&entries->blocks, &entries->partition[PARTITIONS + 1].lock,
					   (char *) entries + head, size - places_size - head);
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Install the hooks.  Called from _PG_init while libraries are preloaded. */
void
ec_entries_init(void)
{
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup;
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request;
}

/* Is there a second tier, here and now? */
bool
ec_entries_exist(void)
{
	return entries != NULL && !RecoveryInProgress();
}

/* Where the entry of a document is looked for.  There is a second tier. */
EcSpot
ec_entries_spot(EcAttachment *att, uint64 hash)
{
	EcSpot		spot = {{hash, MyDatabaseId, att->relid}, 0};

	spot.code = get_hash_value(places, &spot.key);
	return spot;
}

static LWLock *
partition(uint32 code)
{
	return &entries->partition[code % PARTITIONS].lock;
}

/* The lock of the entries that are looked for there. */
LWLock *
ec_entries_lock(const EcSpot *spot)
{
	return partition(spot->code);
}

/* Who waits for a document sleeps on this, and so do others. */
ConditionVariable *
ec_entries_filled(const EcSpot *spot)
{
	return &entries->filled[spot->code % PARTITIONS];
}

/* The entry that is there, or NULL.  Its lock is held. */
EcEntry *
ec_entries_find(const EcSpot *spot)
{
	Place	   *place = hash_search_with_hash_value(places, &spot->key, spot->code, HASH_FIND,
													NULL);

	return place ? &entries->entry[place->entry] : NULL;
}

/* The entry has no document any more.  Its lock is held exclusively.  Never throws. */
void
ec_entries_clear(EcEntry *entry)
{
	ec_blocks_give(&entries->blocks, &entry->value);
	ec_blocks_give(&entries->blocks, &entry->next);
	entry->writer = InvalidTransactionId;
	entry->claim = 0;
}

/* Is the entry of the attachment as it is now? */
bool
ec_entries_is_current(const EcEntry *entry, EcAttachment *att)
{
	return entry->epoch == pg_atomic_read_u64(&att->slot->epoch);
}

/*
 * Claim the entry, for a fill.  A claim that is there already is shared: no writer has come since
 * it was made, so whoever has it puts the same.  (Were it taken away, many who miss a document
 * while memcached is away, where nobody waits for anybody, would keep each other from putting
 * it.)  The entry's lock is held exclusively.
 */
uint64
ec_entries_claim(EcEntry *entry)
{
	if (entry->claim == 0)
		entry->claim = pg_atomic_add_fetch_u64(&entries->claims, 1);
	return entry->claim;
}

/* Take its key from an entry.  entries->lock and the entry's are held exclusively. */
static void
forget(EcEntry *entry, uint32 code)
{
	ec_entries_clear(entry);
	(void) hash_search_with_hash_value(places, &entry->key, code, HASH_REMOVE, NULL);
	entry->taken = false;
}

/*
 * Take its key from an entry that was not used since the hand was there last, and that no writer
 * has marked: such a one settles it soon.  Where memory is wanted, one without a document has none
 * to give, and perhaps a fill that is about to put one.  After LOOKS of them in vain the next one
 * goes all the same.  false: there is none.  entries->lock is held exclusively.
 */
static bool
evict(bool memory, int *freed)
{
	for (int looks = 0; looks < entries->nentries + LOOKS; looks++)
	{
		int			i = entries->hand;
		EcEntry	   *entry = &entries->entry[i];
		uint32		code;
		bool		gone;

		entries->hand = (i + 1) % entries->nentries;
		if (!entry->taken)
			continue;
		code = get_hash_value(places, &entry->key);
		LWLockAcquire(partition(code), LW_EXCLUSIVE);
		gone = !TransactionIdIsValid(entry->writer) &&
			(looks >= LOOKS || (!entry->used && (!memory || entry->value.n > 0)));
		entry->used = false;
		if (gone)
		{
			EcSlot	   *slot = &ec_shmem->slot[entry->slot];

			if (entry->value.n > 0 && pg_atomic_read_u64(&slot->epoch) == entry->epoch)
				ec_slot_count(slot, EC_LOCAL_EVICTIONS, 1);
			forget(entry, code);
		}
		LWLockRelease(partition(code));
		if (gone)
		{
			*freed = i;
			return true;
		}
	}
	return false;
}

/* An entry without a key; -1: there is none.  entries->lock is held exclusively. */
static int
take_entry(void)
{
	int			i = entries->free;

	if (i >= 0)
		entries->free = entries->entry[i].free_next;
	else if (entries->nfresh > 0)
		i = entries->nentries - entries->nfresh--;
	else if (!evict(false, &i))
		i = -1;
	return i;
}

/* Nobody has this entry.  entries->lock is held exclusively. */
static void
put_back(int i)
{
	entries->entry[i].free_next = entries->free;
	entries->free = i;
}

/*
 * Make an entry there, unless somebody else just has.  Returns with its lock held exclusively, or
 * NULL: every entry is being written.
 */
static EcEntry *
make(const EcSpot *spot)
{
	Place	   *place = NULL;
	bool		found = false;
	int			i;

	LWLockAcquire(entries->lock, LW_EXCLUSIVE);
	i = take_entry();
	LWLockAcquire(ec_entries_lock(spot), LW_EXCLUSIVE);
	if (i >= 0)
		place = hash_search_with_hash_value(places, &spot->key, spot->code, HASH_ENTER_NULL,
											&found);
	if (place && !found)
	{
		EcEntry    *entry = &entries->entry[i];

		place->entry = i;
		entry->key = spot->key;
		entry->taken = true;
		entry->used = false;
		entry->epoch = 0;		/* nobody's */
	}
	else if (i >= 0)
		put_back(i);
	LWLockRelease(entries->lock);
	if (place)
		return &entries->entry[place->entry];
	LWLockRelease(ec_entries_lock(spot));
	return NULL;
}

/*
 * The entry that is there, made if there is none, for the attachment as it is now.  Returns with
 * its lock held exclusively, or NULL: there is no place.
 */
EcEntry *
ec_entries_enter(const EcSpot *spot, EcAttachment *att)
{
	EcEntry    *entry;

	LWLockAcquire(ec_entries_lock(spot), LW_EXCLUSIVE);
	entry = ec_entries_find(spot);
	if (entry == NULL)
	{
		LWLockRelease(ec_entries_lock(spot));
		entry = make(spot);
	}
	if (entry && !ec_entries_is_current(entry, att))
	{
		ec_entries_clear(entry);
		entry->epoch = pg_atomic_read_u64(&att->slot->epoch);
		entry->slot = (int) (att->slot - ec_shmem->slot);
	}
	return entry;
}

/*
 * The claim comes to nothing: its entry, if it has nothing else, is free for others.  So what
 * there is no document of takes no place from what there is one of.
 */
void
ec_entries_forgo(const EcSpot *spot, uint64 claim)
{
	EcEntry    *entry;

	LWLockAcquire(entries->lock, LW_EXCLUSIVE);
	LWLockAcquire(ec_entries_lock(spot), LW_EXCLUSIVE);
	entry = ec_entries_find(spot);
	if (entry && entry->claim == claim && entry->value.n == 0)
	{
		forget(entry, spot->code);
		put_back((int) (entry - entries->entry));
	}
	LWLockRelease(ec_entries_lock(spot));
	LWLockRelease(entries->lock);
}

/*
 * Memcached has a document of this length that is not here.  Is it worth a place?  Where others
 * would have to go, only the second time that it is asked for, as far as that is remembered: so
 * what is read once costs one question, and keeps what is read often.
 */
bool
ec_entries_is_worth(const EcSpot *spot, size_t len)
{
	uint32		tag = (uint32) (spot->key.hash >> 32);
	pg_atomic_uint32 *asked = &entries->asked[spot->code % entries->nentries];

	if (len > largest())
		return false;			/* it would be asked for twice, each time */
	if (entries->blocks.nfree > entries->blocks.nblocks / SHORT_PART ||
		pg_atomic_read_u32(asked) == tag)
		return true;
	pg_atomic_write_u32(asked, tag);
	return false;
}

/*
 * Make a chain of a document, for which others may have to go.  false: it is too large, or all that
 * is there is being written.  No lock of ours is held.  Never throws.
 */
bool
ec_entries_write(const char *id, const char *value, size_t len, EcChain *chain)
{
	size_t		idlen = strlen(id);
	char		head[1 + UINT8_MAX];

	if (idlen > UINT8_MAX || 1 + idlen + len > largest())
		return false;
	while (!ec_blocks_take(&entries->blocks, 1 + idlen + len, chain))
	{
		int			i;
		bool		any;

		LWLockAcquire(entries->lock, LW_EXCLUSIVE);
		any = evict(true, &i);
		if (any)
			put_back(i);
		LWLockRelease(entries->lock);
		if (!any)
			return false;
	}
	head[0] = (char) idlen;
	memcpy(head + 1, id, idlen);
	ec_blocks_write(&entries->blocks, chain, 0, head, 1 + idlen);
	ec_blocks_write(&entries->blocks, chain, 1 + idlen, value, len);
	return true;
}

/* Is this the document with this id, rather than one whose id has the same hash? */
bool
ec_entries_is_of(const EcChain *chain, const char *id)
{
	const char *head = ec_blocks_first(&entries->blocks, chain);
	size_t		idlen = strlen(id);

	return (unsigned char) head[0] == idlen && memcmp(head + 1, id, idlen) == 0;
}

/*
 * Hold a document that was found, so that it can be copied when the lock is released: whoever has
 * to wait for the lock, a commit perhaps, does not wait for copies of large documents, one after
 * the other, for as long as somebody cares to read.  The entry's lock is held.
 */
void
ec_entries_hold(const EcChain *chain)
{
	ec_blocks_hold(&entries->blocks, chain);
}

/* A copy of a document that the caller holds, palloc'd.  NULL: there is no memory. */
struct varlena *
ec_entries_copy(const EcChain *chain, size_t *len)
{
	Size		at = 1 + (unsigned char) *ec_blocks_first(&entries->blocks, chain);
	struct varlena *bytes;

	*len = chain->len - at;
	bytes = palloc_extended(VARHDRSZ + *len, MCXT_ALLOC_NO_OOM);
	if (bytes == NULL)
		return NULL;
	SET_VARSIZE(bytes, VARHDRSZ + *len);
	ec_blocks_read(&entries->blocks, chain, at, VARDATA(bytes), *len);
	return bytes;
}

/* A chain that is held, was not put into an entry, or has left it.  Never throws. */
void
ec_entries_give(EcChain *chain)
{
	ec_blocks_give(&entries->blocks, chain);
}

/*
 * What the documents take of a table of this database, or, without one, of all.  Returns the size
 * of the memory in bytes; 0: there is none.
 */
Size
ec_entries_use(Oid relid, EcEntriesUse *use)
{
	memset(use, 0, sizeof(EcEntriesUse));
	if (entries == NULL)
		return 0;
	for (int i = 0; i < entries->nentries - entries->nfresh; i++)
	{
		EcEntry	   *entry = &entries->entry[i];

		CHECK_FOR_INTERRUPTS();
		/* a look without a lock: what is counted may change at any time */
		if (entry->taken && entry->value.n > 0 &&
			(!OidIsValid(relid) ||
			 (entry->key.dboid == MyDatabaseId && entry->key.relid == relid)))
		{
			use->used += (Size) (entry->value.n + entry->next.n) * EC_BLOCK_SIZE;
			use->entries++;
		}
	}
	return (Size) entries->blocks.nblocks * EC_BLOCK_SIZE;
}
