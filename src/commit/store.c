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

#include "attachments/attachment.h"
#include "commit/store.h"
#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "read/fetch.h"
#include "read/render.h"
#include "read/usercode.h"
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
}			step_c;

static void render_attachment(EcAttachment *att, EcKeyList *list, int touched);

/* Render the documents of one attachment: see ec_store_render(). */
static void
render_attachment(EcAttachment *att, EcKeyList *list, int touched)
{
	EcRow	   *rows = palloc(list->n * sizeof(EcRow));
	int			n = 0;

	for (int i = 0; i < list->n; i++)
	{
		EcFenceKey *key = &list->keys[i];

		if (key->touched != touched || !key->store || ec_state_is_away(key->server))
			continue;
		key->row = &rows[n];
		rows[n].place = key->pending->place;
		rows[n++].id = key->id;
	}
	if (n == 0 || (att->function_name ? ec_fetch_guarded(att, rows, n, true)
				   : ec_render_written(att, rows, n, ec_placement_largest())))
		return;
	/* the markers stay; the next reader builds the document, or gets the error */
	for (int i = 0; i < list->n; i++)
		if (list->keys[i].touched == touched)
			list->keys[i].row = NULL;
}

/*
 * Step 3: render the documents whose keys the writer holds in store mode; those that run
 * users' code, or those that run none.  The writer holds these locks and its row locks, so
 * what the newest snapshot and its own changes show is what will be committed.
 *
 * Documents are rendered here, and not by the statement that changed the row, because of
 * documents of several tables.  Of two transactions that each add a message to one session,
 * each sees only its own message until the other has committed.  The second one to come here
 * has waited for the first one's store lock, which is released after the first one's rows
 * became visible, so the second one's snapshot has both messages.  (The model shows the
 * counterexample: a document rendered before the lock lacks the first message, and stays.)
 *
 * Users' code finds the cache off.  It runs under the locks of the fence, so that a fill within
 * it could wait for somebody who waits for this writer.  Throws what rendering throws.
 */
void
ec_store_render(const EcCommit *commit, EcKeyList *list, bool users_code)
{
	CommandCounterIncrement();
	if (users_code)
		ec_placement_bar(true);
	for (int d = 0; d < commit->n; d++)
		if (commit->touched[d].share && ec_usercode_runs(commit->touched[d].att) == users_code)
			render_attachment(commit->touched[d].att, list, d);
	if (users_code)
		ec_placement_bar(false);
}

/*
 * Prepare everything that step C will need.  Each confirmed marker is replaced by the
 * document; or removed, where the row has none and where the policy is "invalidate"; or left
 * for the next fill.  Throws out of memory only.
 */
void
ec_store_prepare(const EcCommit *commit, const EcKeyList *list)
{
	Assert(step_c.n == 0);
	step_c.generation = list->generation;
	step_c.reqs = palloc0(list->n * sizeof(EcRequest));
	step_c.touched = palloc(list->n * sizeof(int));
	for (int i = 0; i < list->n; i++)
	{
		EcFenceKey *key = &list->keys[i];
		EcAttachment *att = commit->touched[key->touched].att;
		EcRequest  *req = &step_c.reqs[step_c.n];
		const char *value;
		size_t		len;

		if (key->token == 0)
			continue;
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
		step_c.touched[step_c.n++] = key->touched;
	}
}

/*
 * Step C, in the COMMIT callback of a commit that is flushed: send what is prepared, and count
 * what was stored.  Never throws, allocates or serves an interrupt.
 */
void
ec_store_send(EcCommit *commit)
{
	if (step_c.n == 0)
		return;
	ec_waitpoint("before-store");
	if (!ec_placement_enter_again(step_c.generation))
		return;
	for (int i = 0; i < step_c.n; i++)
		step_c.reqs[i].skip = !ec_state_is_owned(step_c.generation, step_c.reqs[i].server);
	ec_exchange_send(step_c.reqs, step_c.n, ec_deadline_in(ec_guc_timeout));
	ec_topology_leave();
	for (int i = 0; i < step_c.n; i++)
		if (step_c.reqs[i].kind == EC_REQUEST_STORE && step_c.reqs[i].result == EC_DONE)
			commit->touched[step_c.touched[i]].stored++;
}

/* The transaction is over, however it ended: forget what step C was to do.  Never throws. */
void
ec_store_at_end(void)
{
	step_c.reqs = NULL;
	step_c.n = 0;
}
