/*-------------------------------------------------------------------------
 *
 * round.c
 *	  One exchange with all servers that it concerns, from its requests to their results.
 *
 * All connections go on as far as they can, then the backend waits for any of them.
 *
 * Invariant: nobody waits beyond the deadline, whatever a server does.  The deadline and
 * interrupts are looked at between two pieces of a stream, too, and what one exchange takes in
 * from a server is bounded, after the deadline as well as in all.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/fd.h"
#include "storage/latch.h"

#include "compat.h"
#include "net/connection.h"
#include "servers/placement.h"
#include "servers/round.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "waitevent.h"

/* A long answer has a deadline for each so many bytes; a trickle is a dead server. */
#define RENEW_BYTES		(16 * 1024)

/*
 * What has arrived by the deadline is taken, though it is not all read by then: this backend may
 * not have had a CPU.  The kernel's buffer for a socket holds some megabytes; so many steps of
 * ec_connection_step() take that much.
 */
#define LATE_STEPS		32

/* While there is no descriptor for a set of all connections, one is waited for, this long. */
#define ONE_OF_MANY_MS	5

/* How often a commit that waits looks whether somebody else has found the server DOWN. */
#define LOOK_MS			10

/* The connections of one exchange; those that have something to wait for. */
typedef struct Round
{
	EcConnection *active[EC_MAX_SERVERS];
	int			nactive;
	EcConnection *waiting[EC_MAX_SERVERS];
	int			nwaiting;
	bool		more;			/* one of these can go on at once */
	int			flags;
	EcDeadline	began;
	EcDeadline	doubt;			/* when those that had been idle are asked anew; 0: none is */
} Round;

static void make_room(EcConnection *conns);
static bool is_doubtful(const Round *round, const EcConnection *c);
static bool is_lost(const EcRequest *req, const EcConnection *c, bool active);
static void begin(Round *round, EcConnection *conns, EcRequest *reqs, int nreqs, int flags);
static void doubt(Round *round, EcDeadline deadline);
static void renew(Round *round);
static bool forsake(Round *round);
static void advance(Round *round, bool look, bool linger);
static void expire(Round *round, int ms, bool endless);
static bool finish(Round *round, EcRequest *reqs);
static uint32 wait_event(const EcConnection *c);
static int	wait_for_one(EcConnection *c, int ms, WaitEvent *event);
static int	wait_for_all(Round *round, int ms, WaitEvent *event);
static void wait_for(Round *round, EcDeadline deadline);

/*
 * A connection is about to be opened, which takes two descriptors.  Where this process has no
 * more, its idle connections give theirs up: else a worker that has connections to some servers
 * could never bring another one back.
 */
static void
make_room(EcConnection *conns)
{
	bool		one = AcquireExternalFD();
	bool		two = one && AcquireExternalFD();

	if (one)
		ReleaseExternalFD();
	if (two)
		ReleaseExternalFD();
	for (int i = 0; i < ec_placement.nservers && !two; i++)
		if (conns[i].state == EC_CONNECTION_IDLE)
			ec_socket_close(&conns[i]);
}

/*
 * Was the connection closed on which the request's token was learned?  The server may have begun
 * anew since, and then it numbers its tokens from 1 again: another item may have this one.
 * active: the connection is in use by this very exchange.
 */
static bool
is_lost(const EcRequest *req, const EcConnection *c, bool active)
{
	return ec_request_is_bound(req) &&
		(req->connection != c->serial || (!active && !ec_connection_is_ready(c)));
}

/*
 * Has the connection answered nothing yet in this exchange, and was it idle for so long before that
 * it may be dead without anybody knowing?  Then what it was asked may be asked once more on
 * another one, if it does no harm that the first request comes even later than that.
 */
static bool
is_doubtful(const Round *round, const EcConnection *c)
{
	const EcExchange *ex = &c->exchange;

	return (round->flags & (EC_COUNTED | EC_MARKING)) && !(round->flags & EC_PATIENT) &&
		ex->retry == EC_RETRY_ALWAYS && ex->taken == 0 && ex->idle_since != 0 &&
		round->began - ex->idle_since >= EC_IDLE_US && ec_request_may_be_late(&ex->reqs[ex->recv]);
}

/* Chain up the requests on their connections, which are opened where they are not. */
static void
begin(Round *round, EcConnection *conns, EcRequest *reqs, int nreqs, int flags)
{
	round->nactive = 0;
	round->flags = flags;
	round->began = ec_deadline_in(0);
	for (int i = 0; i < nreqs; i++)
	{
		EcRequest  *req = &reqs[i];
		EcConnection *c;
		int			a;

		if (req->skip || req->unasked)
			continue;
		Assert(req->server >= 0 && req->server < ec_placement.nservers);
		req->result = EC_PENDING;
		req->failure = NULL;
		req->next = -1;
		c = &conns[req->server];
		for (a = 0; a < round->nactive && round->active[a] != c; a++)
			;
		if (is_lost(req, c, a < round->nactive))
		{
			req->result = EC_MISMATCH;
			continue;
		}
		if (a < round->nactive)
			ec_connection_add(c, i);
		else
		{
			if (!ec_connection_is_ready(c))
				make_room(conns);
			ec_connection_begin(c, req->server, reqs, i, EC_ASK_USUAL,
								flags & EC_NO_RETRY ? EC_RETRY_NEVER : EC_RETRY_IF_UNCLEAR);
			round->active[round->nactive++] = c;
		}
	}
}

/* Take every connection some way without waiting; see ec_connection_step(). */
static void
advance(Round *round, bool look, bool linger)
{
	round->nwaiting = 0;
	round->more = false;
	for (int a = 0; a < round->nactive; a++)
	{
		EcConnection *c = round->active[a];

		while (ec_connection_is_waiting(c))
		{
			EcStep		step = ec_connection_step(c, look, linger);

			if (step == EC_STEP_FAILED)
			{
				if (!ec_connection_retry(c))
					break;
				continue;
			}
			round->more |= step == EC_STEP_MORE;
			if (ec_connection_is_waiting(c))
				round->waiting[round->nwaiting++] = c;
			break;
		}
	}
}

/* The waiting begins: when are connections that had been idle asked anew? */
static void
doubt(Round *round, EcDeadline deadline)
{
	round->doubt = 0;
	for (int a = 0; a < round->nactive; a++)
		if (is_doubtful(round, round->active[a]))
			round->doubt = ec_deadline_in(Max(ec_deadline_left(deadline) / 2, 1));
}

/*
 * Connections that had been idle have not answered for half of the time.  A NAT that has
 * forgotten them tells nobody, so what they were asked is asked once more on new ones.  A server
 * that was just slow carries it out twice.
 */
static void
renew(Round *round)
{
	round->doubt = 0;
	for (int w = 0; w < round->nwaiting; w++)
	{
		EcConnection *c = round->waiting[w];

		if (!is_doubtful(round, c))
			continue;
		ec_socket_fail(c, "no answer on a connection that was idle");
		(void) ec_connection_retry(c);
	}
}

/* A commit waits no more for servers that others have found DOWN.  Returns whether one is. */
static bool
forsake(Round *round)
{
	bool		any = false;

	for (int w = 0; w < round->nwaiting; w++)
	{
		EcConnection *c = round->waiting[w];

		if (!ec_shmem_is_listed(ec_placement_generation()) || !ec_state_is_away(c->server))
			continue;
		ec_socket_fail(c, "the server is known to be down");
		c->failure.timed_out = any = true;
	}
	return any;
}

/*
 * The deadline is over: what is still waited for has failed, after so many milliseconds, or,
 * endless, since its answer came as fast as it should and had no end.
 */
static void
expire(Round *round, int ms, bool endless)
{
	for (int w = 0; w < round->nwaiting; w++)
	{
		EcConnection *c = round->waiting[w];

		if (endless)
			ec_socket_fail(c, "an answer without end");
		else
			ec_socket_fail(c, c->state == EC_CONNECTION_HANDSHAKE ?
						   "no TLS handshake within %d ms" : "no answer within %d ms", ms);
		c->failure.timed_out = true;
	}
}

/*
 * A connection has failed, in an exchange with these flags that began at that time: what does
 * that say of the server?  It is DOWN, for everybody; unless the failure is ours, or a timeout
 * that is counted only, or a commit has ended its wait because the server is DOWN.  Never throws.
 */
void
ec_round_blame(const EcConnection *c, EcDeadline began, int flags)
{
	const EcFailure *failure = &c->failure;
	uint64		generation = ec_placement_generation();

	if (failure->ours)
	{
		if (!ec_shmem_is_listed(generation))
			return;
		ec_state_set_error(c->server, failure->reason);
		/* a read goes to the table, and needs none */
		if (failure->no_room && ((flags & EC_MARKING) || MyBgworkerEntry != NULL))
			pg_atomic_write_u32(&ec_shmem->server[c->server].room_wanted, 1);
	}
	else if ((flags & EC_ASKED_BEFORE) && failure->timed_out)
		return;
	else if ((flags & EC_COUNTED) && failure->timed_out)
		ec_state_slow(generation, c->server, began, failure->reason);
	else if (!(flags & EC_MARKING) || !ec_state_is_away(c->server))
		ec_state_down(generation, c->server, failure->reason);
}

/*
 * The exchange is over.  Returns whether every request was answered; if not, those that were not
 * say why.
 */
static bool
finish(Round *round, EcRequest *reqs)
{
	bool		ok = true;

	for (int a = 0; a < round->nactive; a++)
	{
		EcConnection *c = round->active[a];
		const EcFailure *failure = c->exchange.recv < 0 ? NULL : ec_failure_copy(&c->failure);

		for (int i = c->exchange.recv; i >= 0; i = reqs[i].next)
		{
			reqs[i].result = EC_FAILED;
			reqs[i].failure = failure;
		}
		/* one that has said more than it was asked is DOWN, but all is answered */
		ok &= c->exchange.recv < 0;
		if (!ec_connection_end(c))
			ec_round_blame(c, round->began, round->flags);
	}
	return ok;
}

/* What is waited for on this connection, for pg_stat_activity. */
static uint32
wait_event(const EcConnection *c)
{
	if (c->state == EC_CONNECTION_HANDSHAKE)
		return ec_waitevent_of(EC_WAIT_HANDSHAKE);
	if (c->state != EC_CONNECTION_BUSY)
		return ec_waitevent_of(EC_WAIT_CONNECT);
	return ec_waitevent_of(ec_request_wait(&c->exchange.reqs[c->exchange.recv]));
}

/* Wait for one connection, by its own set of events. */
static int
wait_for_one(EcConnection *c, int ms, WaitEvent *event)
{
	uint32		events = ec_connection_events(c);

	if (events != c->waiting_for)
		ModifyWaitEvent(c->set, 2, events, NULL);
	c->waiting_for = events;
	return WaitEventSetWait(c->set, ms, event, 1, wait_event(c));
}

/* Wait for several connections, by a set of events for this once. */
static int
wait_for_all(Round *round, int ms, WaitEvent *event)
{
	WaitEventSet *set;
	int			n;

	/* a set needs a descriptor, and throws without; then look at them in turn */
	if (!AcquireExternalFD())
		return wait_for_one(round->waiting[0], Min(ms, ONE_OF_MANY_MS), event);
	ReleaseExternalFD();
	set = ec_compat_create_wait_set(round->nwaiting + 2);
	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < round->nwaiting; i++)
		AddWaitEventToSet(set, ec_connection_events(round->waiting[i]), round->waiting[i]->fd,
						  NULL, NULL);
	n = WaitEventSetWait(set, ms, event, 1, wait_event(round->waiting[0]));
	FreeWaitEventSet(set);
	return n;
}

/*
 * Wait until one of the connections can go on, or there is something else to be done; then serve
 * interrupts.
 */
static void
wait_for(Round *round, EcDeadline deadline)
{
	WaitEvent	event;
	int			left = ec_deadline_left(round->doubt ? Min(round->doubt, deadline) : deadline);
	int			ms = round->flags & EC_MARKING ? Min(left, LOOK_MS) : left;
	int			n = round->nwaiting == 1 ? wait_for_one(round->waiting[0], ms, &event)
		: wait_for_all(round, ms, &event);

	if (n == 1 && (event.events & WL_LATCH_SET))
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Make an exchange: see ec_exchange().  conns has a connection for each server of the
 * topology, which the backend has entered.  With last other than 0 the deadline starts anew
 * with every RENEW_BYTES that arrive, but is never later than last.
 *
 * Between sending and waiting something else is done, which does not need the servers'
 * answers: meanwhile(arg), unless it is NULL.  What it calls finds the cache disabled.  The
 * deadline starts anew after it, and is ec_round_ms() then.
 *
 * Serves interrupts, which must be possible here.  Throws what they throw and what meanwhile
 * throws, and where the kernel gives no descriptor, or no memory, for a set of events.  An
 * error leaves connections in the middle of the exchange, which the end of the transaction
 * closes.
 */
bool
ec_round_run(EcConnection *conns, EcRequest *reqs, int nreqs, EcDeadline deadline,
			 EcDeadline last, int flags, void (*meanwhile) (void *arg), void *arg)
{
	Round		round;
	int			late = 0;

	Assert(ec_topology_is_entered());
	Assert(INTERRUPTS_CAN_BE_PROCESSED());
	begin(&round, conns, reqs, nreqs, flags);
	if (meanwhile)
	{
		advance(&round, false, false);
		ec_placement_bar(true);
		meanwhile(arg);
		ec_placement_bar(false);
		deadline = ec_deadline_in(ec_round_ms(flags));
	}
	doubt(&round, deadline);
	for (;;)
	{
		/* the answer may be there at once, where the server shares our CPU */
		advance(&round, true, round.nactive == 1 && ec_deadline_left(deadline) >= EC_LINGER_MS);
		if (round.nwaiting == 0)
			break;
		if (last != 0)
		{
			EcExchange *ex = &round.waiting[0]->exchange;

			if (ex->taken - ex->renewed >= RENEW_BYTES)
			{
				deadline = Min(ec_deadline_in(ec_round_ms(flags)), last);
				ex->renewed = ex->taken;
			}
		}
		if (round.doubt != 0 && ec_deadline_left(round.doubt) == 0)
		{
			renew(&round);
			continue;
		}
		if ((flags & EC_MARKING) && forsake(&round))
			continue;
		if (ec_deadline_left(deadline) == 0 && (!round.more || late++ >= LATE_STEPS))
		{
			expire(&round, ec_round_ms(flags), last != 0 && deadline == last);
			break;
		}
		if (round.more)
			CHECK_FOR_INTERRUPTS();
		else
			wait_for(&round, deadline);
	}
	return finish(&round, reqs);
}
