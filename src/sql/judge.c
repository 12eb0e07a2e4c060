/*-------------------------------------------------------------------------
 *
 * judge.c
 *	  Is a document right that a server holds?
 *
 * Each key is looked at in this order: is the server UP, the value and its token, a snapshot, the
 * row, the topology.  What differs is removed by the token, and was wrong if it was there still, on
 * a server that has been UP all the time: a writer whose change the snapshot shows would have taken
 * the token away before.  src/README.md has the whole argument.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "utils/builtins.h"

#include "attachments/column.h"
#include "attachments/configuration.h"
#include "commit/locks.h"
#include "net/request.h"
#include "protocol/wire.h"
#include "read/act.h"
#include "read/encoding.h"
#include "read/local.h"
#include "read/render.h"
#include "servers/state.h"
#include "sql/batch.h"
#include "sql/judge.h"
#include "sql/verify_keys.h"
#include "waitpoint.h"

/* What classify() is asked for, and its answer. */
typedef struct Classify
{
	EcVerify   *verify;
	EcVerifyKey *key;
	EcRequest  *req;
	bool		ours;
} Classify;

static void classify(void *arg);
static void ask_for(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n);
static void find_rows(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n);
static void compare(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n);

/*
 * Is the value a JSON object that has this id as its key?  By SQL, which knows both the
 * JSON and the type.  Throws what these throw.
 */
static void
classify(void *arg)
{
	Classify   *c = arg;
	EcVerify   *verify = c->verify;
	EcAttachment *att = verify->batch.att;
	size_t		len = c->req->found_len;
	const char *value = ec_encoding_from_utf8(VARDATA(c->req->found), &len);
	Datum		values[3];
	EcActing	before;
	bool		isnull;

	if (value == NULL || memchr(value, '\0', len) != NULL)
		return;
	values[0] = PointerGetDatum(cstring_to_text_with_len(value, (int) len));
	values[1] = CStringGetTextDatum(NameStr(att->key.name));
	ec_act_begin(att, true, &before);
	values[2] = ec_column_datum(&att->key, c->key->id);
	ec_act_end(&before);
	if (ec_batch_query(&verify->batch, &verify->query, values, NULL) == 1)
		c->ours = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
											 &isnull)) && !isnull;
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Could we have written this, some time, for this key?  The caller is connected to SPI.  The
 * topology is not entered, nor any lock held: an owner's code may run, and take its time.  Throws
 * what ec_act_guarded() throws.
 */
bool
ec_judge_is_ours(EcVerify *verify, EcVerifyKey *key, EcRequest *req)
{
	Classify	c = {verify, key, req, false};

	if (key->id == NULL || req->client_flags != 0)
		return false;
	if (verify->query.att != verify->batch.att)
	{
		Oid			argtypes[3] = {TEXTOID, TEXTOID, verify->batch.att->key.type};

		ec_batch_prepare(&verify->batch, &verify->query,
						 "SELECT CASE WHEN pg_catalog.json_typeof(j) OPERATOR(pg_catalog.=) "
						 "'object' THEN (j OPERATOR(pg_catalog.->) $2)::pg_catalog.jsonb "
						 "OPERATOR(pg_catalog.=) pg_catalog.to_jsonb($3) END "
						 "FROM (SELECT $1::pg_catalog.json AS j) AS v",
						 3, argtypes);
	}
	return ec_act_guarded(classify, &c) && c.ours;
}

/*
 * Prepare the requests for what the servers hold under those keys that are not done.  The state
 * is read before: a writer that could not set its marker has made the server DOWN before it
 * committed, and the server is UP again only when the worker has made up for that.
 */
static void
ask_for(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n)
{
	for (int i = 0; i < n; i++)
	{
		EcVerifyKey *key = &keys[i];
		EcRequest  *req = &reqs[i];

		ec_request_init(req, EC_REQUEST_INSPECT, key->server, key->key, key->keylen);
		req->valuelen = key->size;
		req->skip = key->done;
		if (key->done)
			continue;
		key->done = true;
		key->word = ec_state_seen(key->server);
		if (EC_STATE(key->word) != EC_UP)
		{
			req->skip = true;
			verify->left_out++;
		}
	}
}

/*
 * Find the rows of the documents that the servers hold.  Everything that is held, and is no
 * marker, counts as wrong until it is known to be right.
 */
static void
find_rows(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n)
{
	EcRow	   *rows = palloc(n * sizeof(EcRow));
	int			nrows = 0;

	for (int i = 0; i < n; i++)
	{
		EcVerifyKey *key = &keys[i];
		EcRequest  *req = &reqs[i];

		key->row = NULL;
		key->wrong = false;
		verify->left_out += req->result == EC_FAILED;
		if (req->result != EC_DONE ||
			(req->found_len == EC_MARKER_LEN &&
			 memcmp(VARDATA(req->found), EC_MARKER, EC_MARKER_LEN) == 0))
			continue;
		if (!ec_state_is_still(key->server, key->word))
		{
			verify->left_out++;	/* it may be somebody else's document */
			continue;
		}
		key->wrong = true;
		if (key->id != NULL)
		{
			key->row = &rows[nrows++];
			key->row->id = key->id;
		}
	}
	ec_waitpoint("verify-got");
	ec_batch_fetch(&verify->batch, rows, nrows);
}

/* Compare what the servers hold to the rows: what is the same is not wrong. */
static void
compare(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n)
{
	for (int i = 0; i < n; i++)
	{
		EcVerifyKey *key = &keys[i];
		EcRequest  *req = &reqs[i];
		const char *value;
		size_t		len;

		if (key->wrong && key->row != NULL && req->client_flags == 0 &&
			ec_render_cacheable(key->row, &value, &len) && len == req->found_len &&
			memcmp(value, VARDATA(req->found), len) == 0)
		{
			key->wrong = false;
			verify->matching++;
		}
	}
}

/*
 * Look at those keys that are not done: wrong says which of them seem to be, before
 * ec_judge_invalidate().  The caller has begun a batch (ec_batch_enter()), whose lock is released
 * here.  The topology is entered before and afterwards.  Throws what ec_batch_fetch() and
 * ec_verify_keys_check_topology() throw, and interrupts.
 */
void
ec_judge_look(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n)
{
	ask_for(verify, keys, reqs, n);
	ec_batch_exchange(reqs, n);
	ec_batch_unlock(&verify->batch);
	find_rows(verify, keys, reqs, n);
	ec_verify_keys_check_topology(verify);
	compare(verify, keys, reqs, n);
}

/*
 * Invalidate by its token what ec_judge_look() has found wrong; then nothing stays in shared
 * memory either.  What is not there any more may have been right when it was asked for, and so may
 * what a server has that has been DOWN since: that is not wrong afterwards.  Returns how many keys
 * are left for another try.  The topology is entered.  Throws for interrupts.
 */
int
ec_judge_invalidate(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n)
{
	EcAttachment *att = verify->batch.att;
	EcRequest  *removals = palloc(n * sizeof(EcRequest));
	int			open = 0;

	for (int i = 0; i < n; i++)
	{
		EcVerifyKey *key = &keys[i];

		ec_request_init(&removals[i], EC_REQUEST_REMOVE, key->server, key->key, key->keylen);
		removals[i].token = reqs[i].token;
		removals[i].connection = reqs[i].connection;
		removals[i].skip = !key->wrong;
	}
	ec_batch_exchange(removals, n);
	for (int i = 0; i < n; i++)
	{
		EcVerifyKey *key = &keys[i];
		bool		still;

		if (!key->wrong)
			continue;
		/* it may have been promoted before it was removed */
		if (key->id != NULL)
			ec_local_drop(att, ec_locks_hash(att->relid, key->id, (int) strlen(key->id)));
		still = ec_state_is_still(key->server, key->word);
		if (removals[i].result == EC_DONE && still)
			verify->invalidated++;
		else
			key->wrong = false;
		if (removals[i].result == EC_FAILED || (removals[i].result == EC_DONE && !still))
			verify->left_out++;
		else if (removals[i].result != EC_DONE)
		{
			key->done = false;
			open++;
		}
	}
	return open;
}
