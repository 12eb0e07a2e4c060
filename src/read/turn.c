/*-------------------------------------------------------------------------
 *
 * turn.c
 *	  Of many who miss one document, one makes it: whose turn it is.
 *
 * That is a lock, which fills alone take, and which is not waited for in its queue.  Who finds it
 * taken is woken when it is free, through the second tier, where he finds the document.  Without a
 * second tier he looks at the lock from time to time, and then asks memcached once more.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/condition_variable.h"

#include "attachments/slot.h"
#include "commit/locks.h"
#include "deadline.h"
#include "guc.h"
#include "read/hit.h"
#include "read/local.h"
#include "read/owner.h"
#include "read/turn.h"
#include "servers/state.h"

/*
 * How often who waits for another's fill looks; and where the second tier wakes him, in case that
 * the other has failed.
 */
#define AWAIT_MAX_MS	20
#define LISTEN_MS		200

/* An answer is news for so long. */
#define NEWS_MS			2

/*
 * A server that has not answered a read in time has so long to answer somebody else, and so often
 * is looked whether it has: not often, since there may be hundreds who look.
 */
#define SIGN_MS			20
#define SIGN_NAP_MS		5

static bool await_fill(EcAttachment *att, const EcItem *item, EcDeadline deadline);
static bool gives_sign(const EcItem *item);
static bool is_local_now(EcAttachment *att, EcItem *item, const EcOwner *owner,
						 EcPatience *patience);
static void ask_again(EcAttachment *att, EcItem *item, const EcOwner *owner,
					  EcPatience *patience);

/* The fill is over, however it ended: the next one, and who waits. */
void
ec_turn_end(EcAttachment *att, const EcItem *item)
{
	ec_locks_release_fill(item->hash);
	ec_local_wake(att, item->hash);
}

/*
 * Wait until nobody fills the document, outside of the lock's queue.  false: somebody does at the
 * deadline.
 */
static bool
await_fill(EcAttachment *att, const EcItem *item, EcDeadline deadline)
{
	bool		woken = ec_local_listen(att, item->hash);
	bool		free = woken && ec_locks_fill_is_free(item->hash);

	for (int delay = woken ? LISTEN_MS : 1; !free && ec_deadline_left(deadline) > 0;
		 delay = Min(delay * 2, woken ? LISTEN_MS : AWAIT_MAX_MS))
	{
		int			ms = Min(delay, ec_deadline_left(deadline));

		if (woken)
			ec_local_sleep(att, item->hash, ms);
		else
			ec_deadline_nap(ms, EC_WAIT_FILL);
		free = ec_locks_fill_is_free(item->hash);
	}
	ConditionVariableCancelSleep();
	return free;
}

/*
 * The item was not answered.  Has somebody else had an answer since, or has now?  Then the server
 * is not silent, but has too much to do, or too little of a CPU.
 */
static bool
gives_sign(const EcItem *item)
{
	EcDeadline	deadline = ec_deadline_in(SIGN_MS);

	while (ec_state_is_silent(item->server) && ec_deadline_left(deadline) > 0)
		ec_deadline_nap(SIGN_NAP_MS, EC_WAIT_READ);
	return !ec_state_is_silent(item->server);
}

/* Has the second tier the item by now?  Then it is DONE, or the table's. */
static bool
is_local_now(EcAttachment *att, EcItem *item, const EcOwner *owner, EcPatience *patience)
{
	EcItem		look = *item;

	look.state = EC_ITEM_ASK;
	ec_hit_local(att, &look, 1, owner, patience);
	if (look.state == EC_ITEM_ASK)
		return false;
	*item = look;
	return true;
}

/* Ask once more, by the state that the server has now. */
static void
ask_again(EcAttachment *att, EcItem *item, const EcOwner *owner, EcPatience *patience)
{
	patience->asked_before |= item->state == EC_ITEM_UNANSWERED;
	item->state = EC_ITEM_ASK;
	ec_hit_classify(att, item, 1);
	if (item->state == EC_ITEM_ASK)
		ec_hit_ask(att, item, 1, owner, patience);
}

/*
 * Claim an item that may be filled: FILL where that succeeds, else TABLE.  If the item is alone
 * and somebody else fills it, wait for that; DONE, if the cache has the document then.  The cache
 * is not asked before: so it has that time to recover, and only one question of each who waits.
 * It is asked once more also where somebody may have filled the document since it was asked, or
 * while it did not answer.
 *
 * LONE where it still does not answer: so of all who wait, one at a time makes the document.
 */
void
ec_turn_take(EcAttachment *att, EcItem *item, bool alone, const EcOwner *owner,
			 EcPatience *patience)
{
	EcDeadline	deadline = ec_deadline_in(ec_guc_fill_wait);
	bool		missed = item->state == EC_ITEM_ASK;
	bool		waited = false;
	bool		claimed;

	while (!(claimed = ec_locks_fill(item->hash)) && alone && await_fill(att, item, deadline))
	{
		waited = true;
		if (is_local_now(att, item, owner, patience))
			return;
		if (item->state == EC_ITEM_UNANSWERED && !gives_sign(item))
			continue;
		/* fill_wait bounds how often that is, and each question has its own time */
		patience->spent_us = 0;
		ask_again(att, item, owner, patience);
		if (item->state != EC_ITEM_ASK && item->state != EC_ITEM_UNANSWERED)
			return;
	}
	if (claimed && alone && patience->answered_at != 0 &&
		is_local_now(att, item, owner, patience))
	{
		ec_turn_end(att, item);
		return;
	}
	/* who has waited asks even without a sign: perhaps nobody else asks, since all wait */
	if (claimed && alone && item->state == EC_ITEM_UNANSWERED && (waited || gives_sign(item)))
	{
		patience->spent_us = 0;
		ask_again(att, item, owner, patience);
	}
	else if (claimed && alone && item->state == EC_ITEM_ASK && patience->answered_at != 0 &&
			 ec_hit_time_is_left(patience) && ec_deadline_in(-NEWS_MS) > patience->answered_at)
		ask_again(att, item, owner, patience);
	if (claimed && item->state == EC_ITEM_ASK && ec_hit_time_is_left(patience))
		item->state = EC_ITEM_FILL;
	else if (claimed && alone && item->state != EC_ITEM_DONE)
		item->state = EC_ITEM_LONE;
	else
	{
		if (claimed)
			ec_turn_end(att, item);
		if (item->state == EC_ITEM_DONE)
			return;
		item->state = EC_ITEM_TABLE;
	}
	ec_slot_count(att->slot, EC_FILLS_REFUSED, missed && item->state != EC_ITEM_FILL ? 1 : 0);
}
