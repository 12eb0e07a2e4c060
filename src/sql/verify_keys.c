/*-------------------------------------------------------------------------
 *
 * verify_keys.c
 *	  The keys that servers hold for a name, and whose documents they are.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/tuplestore.h"

#include "attachments/attachment.h"
#include "attachments/column.h"
#include "attachments/configuration.h"
#include "net/request.h"
#include "protocol/key.h"
#include "protocol/reply.h"
#include "protocol/wire.h"
#include "read/act.h"
#include "read/encoding.h"
#include "servers/exchange.h"
#include "servers/placement.h"
#include "servers/purge.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"
#include "sql/batch.h"
#include "sql/verify_keys.h"

/* How long to wait for a server's crawler, which others may be using. */
#define CRAWLER_MS		60000

typedef struct IdRange
{
	EcVerify   *verify;
	EcVerifyKey *keys;
	int			n;
} IdRange;

static bool collect(const EcReply *line, void *arg);
static void find_ids_of(void *arg);
static void forget_ids_of_other_keys(EcVerify *verify, EcVerifyKey *keys, int n);

/* Remember what the keys depend on.  The topology is entered; verify->batch has begun. */
void
ec_verify_keys_remember_topology(EcVerify *verify)
{
	verify->generation = ec_placement_generation();
	verify->headlen = (int) ec_key_head(verify->head, ec_placement_prefix(), verify->batch.name);
}

/*
 * Throws 55000 unless the topology is still the one that the keys were collected in.  Under
 * another one keys are other keys, and commits invalidate those: what we look at is of no
 * concern to anybody.  To be asked after the snapshot: a commit that it shows was made under
 * what we find then, or before.  Takes no lock.
 */
void
ec_verify_keys_check_topology(EcVerify *verify)
{
	if (!ec_shmem_is_current(verify->generation))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the cache was configured anew while %s was running",
						verify->batch.function),
				 errhint("Run it again.")));
}

/*
 * The attachment's key of a line of a server's list, in dst, which holds EC_KEY_MAX bytes.  Returns
 * its length, or -1 if the line has none.
 */
int
ec_verify_keys_of_line(EcVerify *verify, const EcReply *line, char *dst)
{
	int			len;

	if (line->kind != EC_REPLY_DUMP)
		return -1;
	len = ec_wire_decode_key(dst, line->text, line->text_len);
	return len >= verify->headlen && memcmp(dst, verify->head, verify->headlen) == 0 ? len : -1;
}

/*
 * A line of a server's list: keep the key if it is the attachment's, and do nothing else, since
 * the server holds up others meanwhile.  Throws what writing a temporary file throws.
 */
static bool
collect(const EcReply *line, void *arg)
{
	EcVerify   *verify = arg;
	struct
	{
		int32		header;
		char		key[EC_KEY_MAX];
	}			found;
	Datum		values[2];
	bool		nulls[2] = {false, false};
	int			len = ec_verify_keys_of_line(verify, line, found.key);

	if (len < 0)
		return true;
	SET_VARSIZE(&found, VARHDRSZ + len);
	values[0] = Int32GetDatum(verify->server);
	values[1] = PointerGetDatum(&found);
	tuplestore_putvalues(verify->found, verify->desc, values, nulls);
	verify->nfound++;
	return true;
}

/* Have the keys of all servers that are UP; the others are warned of. */
void
ec_verify_keys_collect(EcVerify *verify)
{
	EcFailure	failure;

	ec_batch_topology(verify->batch.function);
	ec_verify_keys_remember_topology(verify);
	for (int i = 0; i < ec_placement_size(); i++)
	{
		verify->server = i;
		if (ec_state_of(i) != EC_UP)
			ereport(WARNING_CLIENT_ONLY,
					(errmsg("documents on server \"%s\" were not verified", ec_placement_name(i)),
					 errdetail("It is not UP; the view echocache_servers has the reason.")));
		else if (!ec_purge_list_keys(i, CRAWLER_MS, collect, verify, &failure))
			ereport(WARNING_CLIENT_ONLY,
					(errmsg("documents on server \"%s\" were not verified", ec_placement_name(i)),
					 errdetail("It does not tell which keys it has: %s.",
							   failure.reason)));
	}
	ec_topology_leave();
}

/* A number that nobody can have prepared for, if verify->random was one (splitmix64). */
uint64
ec_verify_keys_random(EcVerify *verify)
{
	uint64		z = (verify->random += UINT64CONST(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64CONST(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64CONST(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/*
 * The next key of those collected, or of the sample of them: each is taken with the
 * probability that leaves all samples equally likely (Knuth's algorithm S).
 */
bool
ec_verify_keys_next(EcVerify *verify, EcVerifyKey *key)
{
	while (verify->missing > 0)
	{
		uint64		left = verify->nfound - verify->nread++;
		MemoryContext old;
		bool		isnull;
		text	   *found;

		/* what the slot holds is the slot's to free, and must not go with the batch */
		old = MemoryContextSwitchTo(verify->context);
		(void) tuplestore_gettupleslot(verify->found, true, false, verify->slot);
		MemoryContextSwitchTo(old);
		if (ec_verify_keys_random(verify) % left >= verify->missing)
			continue;
		verify->missing--;
		memset(key, 0, sizeof(EcVerifyKey));
		key->server = DatumGetInt32(slot_getattr(verify->slot, 1, &isnull));
		found = DatumGetTextPP(slot_getattr(verify->slot, 2, &isnull));
		key->keylen = VARSIZE_ANY_EXHDR(found);
		key->key = pnstrdup(VARDATA_ANY(found), key->keylen);
		return true;
	}
	return false;
}

/* For qsort(): by key, then by server. */
int
ec_verify_keys_compare(const void *a, const void *b)
{
	const EcVerifyKey *x = a;
	const EcVerifyKey *y = b;
	int			order = strcmp(x->key, y->key);

	return order != 0 ? order : x->server - y->server;
}

/*
 * Whose documents are these?  There is no id in a key that has another writing of an id (an
 * upper-case uuid), or no id at all.  Throws what the column's type throws for the latter.
 */
static void
find_ids_of(void *arg)
{
	IdRange    *range = arg;
	EcAttachment *att = range->verify->batch.att;

	for (int i = 0; i < range->n; i++)
	{
		EcVerifyKey *key = &range->keys[i];
		char		bytes[EC_KEY_MAX + 1];
		int			headlen = range->verify->headlen;
		int			len = ec_key_decode(bytes, key->key + headlen, key->keylen - headlen);
		size_t		idlen = len;
		const char *converted;
		char	   *id;

		key->id = NULL;
		if (len < 0 || memchr(bytes, '\0', len) != NULL ||
			(converted = ec_encoding_from_utf8(bytes, &idlen)) == NULL)
			continue;
		id = pnstrdup(converted, idlen);
		if (strcmp(ec_column_canonical(att, &att->key, id), id) == 0)
			key->id = id;
	}
}

/*
 * The id of a key is the one that we would make that very key of.  The topology is entered for
 * this alone: what find_ids_of() calls may be an owner's code, and take its time.
 */
static void
forget_ids_of_other_keys(EcVerify *verify, EcVerifyKey *keys, int n)
{
	ec_batch_topology(verify->batch.function);
	for (int i = 0; i < n; i++)
	{
		char		again[EC_KEY_MAX];

		if (keys[i].id != NULL &&
			(ec_attachment_key(verify->batch.att, keys[i].id, again) != keys[i].keylen ||
			 memcmp(again, keys[i].key, keys[i].keylen) != 0))
			keys[i].id = NULL;
	}
	ec_topology_leave();
}

/*
 * Find the id of each of these keys; NULL for a key that we would not make.  The key's type
 * may throw at what a stranger has put into the cache, and with it a whole range fails: then
 * the keys are tried one by one, and one that throws has no id.  Each try is a subtransaction.
 * The topology is not entered.  Throws what ec_act_guarded() and ec_batch_topology() throw.
 */
void
ec_verify_keys_find_ids(EcVerify *verify, EcVerifyKey *keys, int n)
{
	IdRange		range = {verify, keys, n};

	if (!ec_act_guarded(find_ids_of, &range))
	{
		range.n = 1;
		for (int i = 0; i < n; i++)
		{
			range.keys = &keys[i];
			if (!ec_act_guarded(find_ids_of, &range))
				keys[i].id = NULL;
		}
	}
	forget_ids_of_other_keys(verify, keys, n);
}

/*
 * Ask the servers how much they hold under these keys.  Keeps in the array the keys under
 * which they hold anything, and returns how many these are.  A key that is not where we would
 * put it is none that we would make.
 */
int
ec_verify_keys_look(EcVerify *verify, EcVerifyKey *keys, int n)
{
	EcRequest  *reqs = palloc(n * sizeof(EcRequest));
	int			kept = 0;

	ec_batch_topology(verify->batch.function);
	ec_verify_keys_check_topology(verify);
	for (int i = 0; i < n; i++)
	{
		EcVerifyKey *key = &keys[i];

		if (ec_placement_of(key->key, key->keylen) != key->server)
			key->id = NULL;
		ec_request_init(&reqs[i], EC_REQUEST_LOOK, key->server, key->key, key->keylen);
	}
	ec_batch_exchange(reqs, n);
	ec_topology_leave();
	for (int i = 0; i < n; i++)
	{
		verify->left_out += reqs[i].result == EC_FAILED;
		if (reqs[i].result != EC_DONE)
			continue;
		keys[i].size = reqs[i].found_len;
		keys[kept++] = keys[i];
	}
	return kept;
}
