/*-------------------------------------------------------------------------
 *
 * store.c
 *	  Step C of the fence: documents that replace a writer's own markers.
 *
 * What is stored is rendered and prepared before the commit, since the COMMIT callback may
 * neither throw nor allocate.  commit.c has the whole sequence.
 *
 * The writer has left the topology before its commit, and comes back to it for step C only if
 * it is still the same: then the servers, their connections and the owner of the keys are
 * those that the markers were sent to.  Otherwise the markers stay, where nobody looks any
 * more, or where they were purged.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/resowner.h"

#include "attachments/attachment.h"
#include "attachments/latency.h"
#include "attachments/slot.h"
#include "commit/handover.h"
#include "commit/locks.h"
#include "commit/store.h"
#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "read/act.h"
#include "read/local.h"
#include "read/render.h"
#include "servers/exchange.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "waitpoint.h"

/*
 * What step C has to do.  ec_store_prepare() fills it, in the memory of the transaction, whose
 * end forgets it.
 */
static struct
{
	uint64		generation;		/* of the topology in which the markers were set */
	int			n;
	EcRequest  *reqs;
	int		   *touched;		/* of each request, its index in EcCommit.touched */
	int			nbuilds;
	EcFenceKey **builds;		/* keys whose documents the builder is to make */
}			step_c;

/* What render_rows() is asked for. */
typedef struct Rows
{
	EcAttachment *att;
	EcRow	   *rows;
	int			n;
} Rows;

static void render_rows(void *arg);
static void render_attachment(EcAttachment *att, EcKeyList *list, int touched);
static void send_documents(EcCommit *commit);
static void hand_over(EcCommit *commit);

static void
render_rows(void *arg)
{
	Rows	   *rows = arg;

	ec_render_written(rows->att, rows->rows, rows->n, ec_placement_largest());
}

/* Render the documents of one attachment: see ec_store_render(). */
static void
render_attachment(EcAttachment *att, EcKeyList *list, int touched)
{
	Rows		rows = {att, palloc(list->n * sizeof(EcRow)), 0};

	for (int i = 0; i < list->n; i++)
	{
		EcFenceKey *key = &list->keys[i];

		if (key->touched != touched || !key->store ||
			(ec_state_is_away(key->server) && !key->local))
			continue;
		key->row = &rows.rows[rows.n++];
		key->row->place = key->pending->place;
		key->row->id = key->id;
	}
	if (rows.n == 0 || ec_act_demoted(att, render_rows, &rows))
		return;
	/* the markers stay; the next reader makes the document, or gets the error */
	for (int i = 0; i < list->n; i++)
		if (list->keys[i].touched == touched)
			list->keys[i].row = NULL;
}

/*
 * Step 3: render the plain documents whose keys the writer holds in store mode.  The writer
 * holds these locks and its row locks, so what the newest snapshot and its own changes show is
 * what will be committed.  Throws interrupts only.
 */
void
ec_store_render(const EcCommit *commit, EcKeyList *list)
{
	CommandCounterIncrement();
	for (int d = 0; d < commit->n; d++)
		if (commit->touched[d].share)
			render_attachment(commit->touched[d].att, list, d);
}

/*
 * Prepare everything that step C will need, and hand the documents over to the second tier, where
 * they are read from the commit on.  Each confirmed marker is replaced by the
 * document; or removed, where the row has none and where the policy is "invalidate"; or left
 * for the next fill.  Throws out of memory only.
 */
void
ec_store_prepare(const EcCommit *commit, const EcKeyList *list)
{
	Assert(step_c.n == 0 && step_c.nbuilds == 0);
	step_c.generation = list->generation;
	step_c.reqs = palloc0(list->n * sizeof(EcRequest));
	step_c.touched = palloc(list->n * sizeof(int));
	step_c.builds = palloc(list->n * sizeof(EcFenceKey *));
	for (int i = 0; i < list->n; i++)
	{
		EcFenceKey *key = &list->keys[i];
		EcAttachment *att = commit->touched[key->touched].att;
		EcRequest  *req = &step_c.reqs[step_c.n];
		const char *value;
		size_t		len;

		if (key->local && key->row && key->row->matches > 0 &&
			ec_render_cacheable(key->row, &value, &len))
			ec_local_next(att, key->hash, key->id, value, len,
						  key->token != 0 && ec_placement_fits(key->server, key->keylen, len));
		if (key->token == 0)
			continue;
		if (commit->touched[key->touched].build)
		{
			step_c.builds[step_c.nbuilds++] = key;
			continue;			/* the marker stays until then */
		}
		req->kind = EC_REQUEST_REMOVE;
		if (att->policy == EC_WRITE_THROUGH)
		{
			if (key->row == NULL)
				continue;		/* the writer may not store it: the marker stays */
			if (key->row->matches > 0)
			{
				if (!ec_render_cacheable(key->row, &value, &len) ||
					!ec_placement_fits(key->server, key->keylen, len))
					continue;
				req->kind = EC_REQUEST_STORE;
				req->value = value;
				req->valuelen = len;
				req->ttl = ec_request_ttl(ec_attachment_ttl(att));
			}
		}
		req->server = key->server;
		req->key = key->key;
		req->keylen = key->keylen;
		req->token = key->token;
		req->connection = key->connection;
		step_c.touched[step_c.n++] = key->touched;
	}
}

/*
 * Store and remove what is prepared, and count what was stored.  For each attachment that
 * has a part in it that is timed: until the kernel had all of it, or did not take it in time.
 */
static void
send_documents(EcCommit *commit)
{
	int64		began = ec_deadline_clock();
	int64		took;

	if (!ec_placement_enter_again(step_c.generation))
		return;
	for (int i = 0; i < step_c.n; i++)
		step_c.reqs[i].skip = !ec_state_is_owned(step_c.generation, step_c.reqs[i].server);
	ec_exchange_send(step_c.reqs, step_c.n, ec_deadline_in(ec_guc_timeout));
	took = ec_deadline_clock() - began;
	ec_topology_leave();
	for (int i = 0; i < step_c.n; i++)
	{
		EcTouched  *touched = &commit->touched[step_c.touched[i]];

		if (step_c.reqs[i].skip)
			continue;
		if (!touched->timed)
			ec_latency_add(touched->att->slot, EC_LATENCY_STORE, took);
		touched->timed = true;
		if (step_c.reqs[i].kind == EC_REQUEST_STORE && step_c.reqs[i].result == EC_DONE)
			touched->stored++;
	}
}

/*
 * Hand the keys over to the builder.  Each key's lock is released first, since the builder does
 * not wait for it for long: the change is visible, and the writer stores nothing.
 */
static void
hand_over(EcCommit *commit)
{
	ResourceOwner owner = CurrentResourceOwner;

	CurrentResourceOwner = TopTransactionResourceOwner;
	for (int i = 0; i < step_c.nbuilds; i++)
	{
		EcFenceKey *key = step_c.builds[i];
		EcAttachment *att = commit->touched[key->touched].att;

		ec_locks_release_key(key->hash, EC_LOCK_INVALIDATE);
		if (!ec_handover_put(att->relid, key->id))
			ec_slot_count(att->slot, EC_BUILDS_DROPPED, 1);
	}
	CurrentResourceOwner = owner;
}

/*
 * Step C, in the COMMIT callback of a commit that is flushed.  Never throws, allocates or
 * serves an interrupt.
 */
void
ec_store_send(EcCommit *commit)
{
	if (step_c.n == 0 && step_c.nbuilds == 0)
		return;
	ec_waitpoint("before-store");
	if (step_c.n > 0)
		send_documents(commit);
	if (step_c.nbuilds > 0)
		hand_over(commit);
	ec_waitpoint("after-store");
}

/* The transaction is over, however it ended: forget what step C was to do.  Never throws. */
void
ec_store_at_end(void)
{
	step_c.reqs = NULL;
	step_c.builds = NULL;
	step_c.n = step_c.nbuilds = 0;
}
