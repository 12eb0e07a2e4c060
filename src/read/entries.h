/*-------------------------------------------------------------------------
 *
 * entries.h
 *	  Entries of the second tier: where they are in shared memory, and how they are found.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_ENTRIES_H
#define ECHOCACHE_READ_ENTRIES_H

#include "storage/condition_variable.h"

#include "attachments/configuration.h"
#include "deadline.h"
#include "read/blocks.h"

/* As the locks of the fence: what hashes to the same is one. */
typedef struct EcEntryKey
{
	uint64		hash;
	Oid			dboid;
	Oid			relid;
} EcEntryKey;

/* Where an entry is looked for: its key, and what that hashes to. */
typedef struct EcSpot
{
	EcEntryKey	key;
	uint32		code;
} EcSpot;

/* See local.c.  A chain has the length of the id in its first byte, the id, and the document. */
typedef struct EcEntry
{
	EcEntryKey	key;
	bool		taken;			/* it has a key */
	bool		used;			/* since the clock's hand was here */
	TransactionId writer;
	uint64		epoch;			/* of the attachment */
	uint64		claim;			/* whose fills may put the document here; 0: nobody's */
	EcChain		value;
	EcChain		next;
	EcDeadline	expires;		/* when the value does; 0: never */
	EcDeadline	next_expires;
	EcDeadline	renewed;		/* when memcached's lifetime was */
	EcDeadline	seen;			/* when memcached is known to have had it last; 0: is not known */
	bool		next_sent;		/* the commit sends the next one to memcached as well */
	int			slot;			/* of the attachment */
	int			free_next;		/* if it is not taken: the next one that is not; -1: none */
} EcEntry;

/* What the tier has, of one attachment or in all. */
typedef struct EcEntriesUse
{
	Size		used;			/* bytes in blocks that documents take */
	int64		entries;		/* documents */
} EcEntriesUse;

extern void ec_entries_init(void);
extern bool ec_entries_exist(void);
extern EcSpot ec_entries_spot(EcAttachment *att, uint64 hash);
extern LWLock *ec_entries_lock(const EcSpot *spot);
extern ConditionVariable *ec_entries_filled(const EcSpot *spot);
extern EcEntry *ec_entries_find(const EcSpot *spot);
extern EcEntry *ec_entries_enter(const EcSpot *spot, EcAttachment *att);
extern bool ec_entries_is_current(const EcEntry *entry, EcAttachment *att);
extern void ec_entries_clear(EcEntry *entry);
extern uint64 ec_entries_claim(EcEntry *entry);
extern void ec_entries_forgo(const EcSpot *spot, uint64 claim);
extern bool ec_entries_is_worth(const EcSpot *spot, size_t len);
extern bool ec_entries_write(const char *id, const char *value, size_t len, EcChain *chain);
extern bool ec_entries_is_of(const EcChain *chain, const char *id);
extern void ec_entries_hold(const EcChain *chain);
extern struct varlena *ec_entries_copy(const EcChain *chain, size_t *len);
extern void ec_entries_give(EcChain *chain);
extern Size ec_entries_use(Oid relid, EcEntriesUse *use);

#endif							/* ECHOCACHE_READ_ENTRIES_H */
