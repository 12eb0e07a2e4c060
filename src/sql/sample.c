/*-------------------------------------------------------------------------
 *
 * sample.c
 *	  Some of the keys that an attachment may have documents under, at random.
 *
 * There are two ways to them.  The rows of a page of the table cost next to nothing, but a key
 * without a row is not among them.  A server's own list has every key; it costs the server as much
 * as a purge, whatever is taken from it.
 *
 * The caller has begun a batch, so that the table is locked, and is not in the topology.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "attachments/attachment.h"
#include "attachments/configuration.h"
#include "net/request.h"
#include "protocol/key.h"
#include "read/act.h"
#include "servers/placement.h"
#include "servers/purge.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "sql/batch.h"
#include "sql/sample.h"
#include "sql/verify_keys.h"

/* How often to look for a partition that has rows, and is not locked by others. */
#define PARTITION_TRIES	5

/* Keys that are taken from a list; each was equally likely to be among them. */
typedef struct Listing
{
	EcVerify   *verify;
	EcVerifyKey *keys;
	int			n;
	int			max;
	int64		nfound;			/* keys of the attachment's so far */
	int64		lines;			/* keys of anybody's so far */
} Listing;

static Relation open_part(EcVerify *verify);
static int	take_ids(EcVerify *verify, Relation rel, const char **ids, int max);
static bool take_line(const EcReply *line, void *arg);

/*
 * Open the table, or a partition of it at random.  NULL: there was none with rows of its own that
 * nobody has locked.
 */
static Relation
open_part(EcVerify *verify)
{
	EcAttachment *att = verify->batch.att;
	List	   *parts = NIL;

	if (!att->partitioned)
		return get_rel_relkind(att->relid) == RELKIND_RELATION ? table_open(att->relid, NoLock)
			: NULL;
	parts = find_all_inheritors(att->relid, NoLock, NULL);
	for (int tries = 0; tries < PARTITION_TRIES; tries++)
	{
		Oid			part = list_nth_oid(parts, ec_verify_keys_random(verify) % list_length(parts));

		if (get_rel_relkind(part) != RELKIND_RELATION ||
			!ConditionalLockRelationOid(part, AccessShareLock))
			continue;
		if (get_rel_relkind(part) == RELKIND_RELATION)	/* still */
			return table_open(part, NoLock);
		UnlockRelationOid(part, AccessShareLock);
	}
	return NULL;
}

/*
 * The ids of the rows on a page of the table's at random; returns how many.  Nothing but the output
 * function of the key's type is called, as the table's owner.
 */
static int
take_ids(EcVerify *verify, Relation rel, const char **ids, int max)
{
	EcAttachment *att = verify->batch.att;
	AttrNumber	attno = get_attnum(RelationGetRelid(rel), NameStr(att->key.name));
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);
	TupleTableSlot *slot;
	TableScanDesc scan;
	ItemPointerData first;
	ItemPointerData last;
	BlockNumber block;
	EcActing	before;
	int			n = 0;

	if (nblocks == 0 || attno == InvalidAttrNumber || rel->rd_tableam->scan_set_tidrange == NULL)
		return 0;
	block = (BlockNumber) (ec_verify_keys_random(verify) % nblocks);
	ItemPointerSet(&first, block, FirstOffsetNumber);
	ItemPointerSet(&last, block, MaxOffsetNumber);
	slot = table_slot_create(rel, NULL);
	ec_act_begin(att, true, &before);
	scan = table_beginscan_tidrange(rel, GetActiveSnapshot(), &first, &last);
	while (n < max && table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		Datum		key = slot_getattr(slot, attno, &isnull);

		if (!isnull)
			ids[n++] = OutputFunctionCall(&att->key.out, key);
	}
	table_endscan(scan);
	ec_act_end(&before);
	ExecDropSingleTupleTableSlot(slot);
	return n;
}

/*
 * The keys of rows on one page of the table, with their ids and servers.  Whether there are any
 * documents under them is not known.  Returns how many; they are in the current memory context.
 * Throws what reading the table throws.
 */
int
ec_sample_rows(EcVerify *verify, EcVerifyKey *keys, int max)
{
	const char **ids = palloc(max * sizeof(char *));
	Relation	rel = open_part(verify);
	int			found;
	int			n = 0;

	if (rel == NULL)
		return 0;
	found = take_ids(verify, rel, ids, max);
	table_close(rel, NoLock);
	ec_batch_topology(verify->batch.function);
	ec_verify_keys_remember_topology(verify);
	for (int i = 0; i < found; i++)
	{
		EcVerifyKey *key = &keys[n];

		memset(key, 0, sizeof(EcVerifyKey));
		key->id = ids[i];
		key->key = palloc(EC_KEY_MAX + 1);
		key->keylen = ec_attachment_key(verify->batch.att, ids[i], key->key);
		if (key->keylen == 0)
			continue;
		key->key[key->keylen] = '\0';
		key->server = ec_placement_of(key->key, key->keylen);
		n++;
	}
	ec_topology_leave();
	return n;
}

/* A line of a server's list: perhaps it takes the place of one before (Vitter's algorithm R). */
static bool
take_line(const EcReply *line, void *arg)
{
	Listing    *listing = arg;
	EcVerifyKey *key;
	char		found[EC_KEY_MAX];
	int			len;
	uint64		place;

	listing->lines++;
	len = ec_verify_keys_of_line(listing->verify, line, found);
	if (len < 0)
		return true;
	place = listing->n < listing->max ? (uint64) listing->n++
		: ec_verify_keys_random(listing->verify) % (listing->nfound + 1);
	listing->nfound++;
	if (place >= listing->max)
		return true;
	key = &listing->keys[place];
	memcpy(key->key, found, len);
	key->key[len] = '\0';
	key->keylen = len;
	key->server = listing->verify->server;
	return true;
}

/*
 * Have some keys of the attachment's from the servers that are UP, and do not list for somebody
 * else, and find their ids: ec_verify_keys_find_ids().  *lines: so many keys they have in all.
 * Returns how many; they are in the current memory context.  Throws for interrupts.
 */
int
ec_sample_list(EcVerify *verify, EcVerifyKey *keys, int max, int64 *lines)
{
	Listing		listing = {.verify = verify,.keys = keys,.max = max};
	EcFailure	failure;

	memset(keys, 0, max * sizeof(EcVerifyKey));
	for (int i = 0; i < max; i++)
		keys[i].key = palloc(EC_KEY_MAX + 1);
	ec_batch_topology(verify->batch.function);
	ec_verify_keys_remember_topology(verify);
	for (verify->server = 0; verify->server < ec_placement_size(); verify->server++)
		if (ec_state_of(verify->server) == EC_UP)
			(void) ec_purge_list_keys(verify->server, 0, take_line, &listing, &failure);
	ec_topology_leave();
	*lines = listing.lines;
	ec_verify_keys_find_ids(verify, keys, listing.n);
	return listing.n;
}
