/*-------------------------------------------------------------------------
 *
 * exchange.c
 *	  Exchanges with all servers at once, under one deadline.
 *
 * This backend's connections are here, one for each server of the topology that it has
 * entered.  Whoever makes an exchange must be in the topology: requests name servers by their
 * index in it.
 *
 * Invariant: when an exchange is over, each of its requests has a result, and a server of
 * which one was not answered is DOWN, for everybody.  Nobody waits beyond the deadline.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"

#include "compat.h"
#include "deadline.h"
#include "guc.h"
#include "net/connection.h"
#include "protocol/wire.h"
#include "servers/exchange.h"
#include "servers/placement.h"
#include "servers/topology.h"

/* A long answer has a deadline for each so many bytes; a trickle is a dead server. */
#define RENEW_BYTES		(16 * 1024)

/* The connections of one exchange; those that have something to wait for. */
typedef struct Round
{
	EcConnection *active[EC_MAX_SERVERS];
	int			nactive;
	EcConnection *waiting[EC_MAX_SERVERS];
	int			nwaiting;
} Round;

static EcConnection conns[EC_MAX_SERVERS];

static void close_all(void);
static void disconnect_at_exit(int code, Datum arg);
static void begin(Round *round, EcRequest *reqs, int nreqs, int flags);
static void advance(Round *round, bool look, bool linger);
static void expire(Round *round);
static bool finish(Round *round, EcRequest *reqs);
static void wait_for(EcConnection **waiting, int n, EcDeadline deadline);

/* Once per backend, from _PG_init. */
void
ec_exchange_init(void)
{
	ec_placement_on_change(close_all);
}

/* Connections are of one generation: another one is about to take its place. */
static void
close_all(void)
{
	static bool registered = false;

	if (!registered)
		before_shmem_exit(disconnect_at_exit, (Datum) 0);
	registered = true;
	(void) ec_exchange_disconnect();
}

static void
disconnect_at_exit(int code, Datum arg)
{
	ec_exchange_disconnect();
}

/* Close every connection; returns how many were open.  Never throws. */
int
ec_exchange_disconnect(void)
{
	int			n = 0;

	for (int i = 0; i < ec_placement.nservers; i++)
	{
		n += conns[i].state == EC_CONNECTION_IDLE;
		ec_socket_close(&conns[i]);
	}
	return n;
}

/*
 * At the end of a transaction: what an error left in the middle of an exchange
 * is closed, and so is what goes beyond pool_size.  Never throws.
 */
void
ec_exchange_at_xact_end(void)
{
	ec_placement_bar(false);
	for (int i = 0; i < ec_placement.nservers; i++)
		if (conns[i].state != EC_CONNECTION_IDLE || !conns[i].kept)
			ec_socket_close(&conns[i]);
}

/* Chain up the requests on their connections, which are opened where they are not. */
static void
begin(Round *round, EcRequest *reqs, int nreqs, int flags)
{
	round->nactive = 0;
	for (int i = 0; i < nreqs; i++)
	{
		EcRequest  *req = &reqs[i];
		EcConnection *c;
		int			a;

		if (req->skip)
			continue;
		Assert(req->server >= 0 && req->server < ec_placement.nservers);
		req->result = EC_PENDING;
		req->failure = NULL;
		req->next = -1;
		c = &conns[req->server];
		for (a = 0; a < round->nactive && round->active[a] != c; a++)
			;
		if (a < round->nactive)
			ec_connection_add(c, i);
		else
		{
			ec_connection_begin(c, req->server, reqs, i, EC_ASK_USUAL,
								flags & EC_NO_RETRY ? EC_RETRY_NEVER : EC_RETRY_IF_UNCLEAR);
			round->active[round->nactive++] = c;
		}
	}
}

/* Take every connection as far as it goes without waiting; see ec_connection_step(). */
static void
advance(Round *round, bool look, bool linger)
{
	round->nwaiting = 0;
	for (int a = 0; a < round->nactive; a++)
	{
		EcConnection *c = round->active[a];

		while (ec_connection_is_waiting(c))
		{
			if (ec_connection_step(c, look, linger))
			{
				if (ec_connection_is_waiting(c))
					round->waiting[round->nwaiting++] = c;
				break;
			}
			if (!ec_connection_retry(c))
				break;
		}
	}
}

/* The deadline is over: what is still waited for has failed. */
static void
expire(Round *round)
{
	for (int w = 0; w < round->nwaiting; w++)
	{
		EcConnection *c = round->waiting[w];

		ec_socket_fail(c, c->state == EC_CONNECTION_HANDSHAKE ?
					   "no TLS handshake within %d ms" : "no answer within %d ms",
					   ec_guc_timeout);
		c->failure.timed_out = true;
	}
}

/* The exchange is over.  Returns whether every request was answered. */
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
		ok &= ec_connection_end(c);
	}
	return ok;
}

/*
 * Wait until one of the connections can go on, or the deadline is over; then serve
 * interrupts.
 */
static void
wait_for(EcConnection **waiting, int n, EcDeadline deadline)
{
	WaitEventSet *set = waiting[0]->set;
	WaitEvent	event;

	if (n == 1)
	{
		uint32		events = ec_connection_events(waiting[0]);

		if (events != waiting[0]->waiting_for)
			ModifyWaitEvent(set, 2, events, NULL);
		waiting[0]->waiting_for = events;
	}
	else
	{
		set = ec_compat_create_wait_set(n + 2);
		AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
		for (int i = 0; i < n; i++)
			AddWaitEventToSet(set, ec_connection_events(waiting[i]), waiting[i]->fd, NULL, NULL);
	}
	if (WaitEventSetWait(set, ec_deadline_left(deadline), &event, 1, PG_WAIT_EXTENSION) == 1 &&
		(event.events & WL_LATCH_SET))
		ResetLatch(MyLatch);
	if (n > 1)
		FreeWaitEventSet(set);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Send each request to its server and wait for the answers, on all servers at
 * once and under one deadline; results are in the reqs.  A server whose exchange
 * fails is DOWN from here on.  Returns whether every request was answered.
 *
 * Throws what CHECK_FOR_INTERRUPTS throws, and where PostgreSQL cannot make a set of events
 * to wait for.
 */
bool
ec_exchange(EcRequest *reqs, int nreqs, EcDeadline deadline, int flags)
{
	return ec_exchange_meanwhile(reqs, nreqs, deadline, flags, NULL, NULL);
}

/*
 * As ec_exchange(), but between sending and waiting something else is done, which does not
 * need the servers' answers: meanwhile(arg), unless it is NULL.  The deadline starts anew
 * after it.  What meanwhile calls finds the cache disabled.  Throws what meanwhile throws.
 */
bool
ec_exchange_meanwhile(EcRequest *reqs, int nreqs, EcDeadline deadline, int flags,
					  void (*meanwhile) (void *arg), void *arg)
{
	Round		round;

	Assert(ec_topology_is_entered());
	Assert(INTERRUPTS_CAN_BE_PROCESSED());
	begin(&round, reqs, nreqs, flags);
	if (meanwhile)
	{
		advance(&round, false, false);
		ec_placement_bar(true);
		meanwhile(arg);
		ec_placement_bar(false);
		deadline = ec_deadline_in(ec_guc_timeout);
	}
	for (;;)
	{
		EcConnection *first;

		/* the answer may be there at once, where the server shares our CPU */
		advance(&round, true, round.nactive == 1 && ec_deadline_left(deadline) >= EC_LINGER_MS);
		if (round.nwaiting == 0)
			break;
		first = round.waiting[0];
		if ((flags & EC_RENEW_DEADLINE) && first->exchange.progress >= RENEW_BYTES)
		{
			deadline = ec_deadline_in(ec_guc_timeout);
			first->exchange.progress = 0;
		}
		if (ec_deadline_left(deadline) == 0)
		{
			expire(&round);
			break;
		}
		wait_for(round.waiting, round.nwaiting, deadline);
	}
	return finish(&round, reqs);
}

/*
 * As ec_exchange_meanwhile(), for requests to set markers by which the caller invalidates
 * documents: keys whose requests are not EC_FAILED afterwards carry a marker, or are gone.
 * Returns whether all do.  Throws out of memory, too.
 */
bool
ec_exchange_marks(EcRequest *reqs, int nreqs, EcDeadline deadline,
				  void (*meanwhile) (void *arg), void *arg)
{
	bool		ok = ec_exchange_meanwhile(reqs, nreqs, deadline, 0, meanwhile, arg);
	bool		refused = false;
	EcRequest  *deletes;

	for (int i = 0; i < nreqs; i++)
		refused |= !reqs[i].skip && reqs[i].result == EC_REFUSED;
	if (!refused)
		return ok;

	/* a server out of memory may refuse even a marker; then the key must go */
	deletes = palloc(nreqs * sizeof(EcRequest));
	memcpy(deletes, reqs, nreqs * sizeof(EcRequest));
	for (int i = 0; i < nreqs; i++)
	{
		deletes[i].skip |= reqs[i].result != EC_REFUSED;
		deletes[i].kind = EC_REQUEST_DELETE;
		deletes[i].quiet = false;
		deletes[i].value = NULL;
	}
	ok &= ec_exchange(deletes, nreqs, ec_deadline_in(ec_guc_timeout), 0);
	for (int i = 0; i < nreqs; i++)
		if (!deletes[i].skip && deletes[i].result == EC_FAILED)
		{
			reqs[i].result = EC_FAILED;
			reqs[i].failure = deletes[i].failure;
		}
	pfree(deletes);
	return ok;
}

/*
 * One request that must not be carried out twice, so that it is never asked anew on another
 * connection.  Other requests are, since a kept connection may have been closed meanwhile.
 * Here a barrier goes first where that may be, or where the connection still owes answers to
 * ec_exchange_send(), whose errors could be taken for this request's.
 *
 * EC_PENDING: the barrier did not come through, and nothing was sent; EC_FAILED: the request
 * may have been carried out.  Throws what ec_exchange() throws.
 */
void
ec_exchange_once(EcRequest *req)
{
	EcDeadline	deadline = ec_deadline_in(ec_guc_timeout);
	char		request[EC_REQUEST_MAX];
	EcRequest	barrier = {.kind = EC_REQUEST_COMMAND,.server = req->server,.key = request};

	barrier.keylen = (int) ec_wire_barrier(request);
	req->result = EC_PENDING;
	if (ec_connection_is_clear(&conns[req->server]) || ec_exchange(&barrier, 1, deadline, 0))
		(void) ec_exchange(req, 1, deadline, EC_NO_RETRY);
	else
		req->failure = barrier.failure;
}

/*
 * Send requests over connections that are open, silently, and do not wait: what the server
 * answers all the same, the next exchange finds in front of its own answers.  Only for what
 * may as well be lost or come late: stores and removals that carry a token.  Requests that
 * were sent are EC_DONE, the others EC_FAILED.
 *
 * For the COMMIT callback: never throws, allocates or serves an interrupt; waits only for the
 * kernel to take the bytes, and not beyond the deadline.
 */
void
ec_exchange_send(EcRequest *reqs, int nreqs, EcDeadline deadline)
{
	Assert(ec_topology_is_entered());
	for (int i = 0; i < nreqs; i++)
	{
		EcConnection *c = &conns[reqs[i].server];

		if (reqs[i].skip || reqs[i].result != EC_PENDING)
			continue;
		/* chain up those for this connection */
		for (int j = i, last = -1; j < nreqs; j++)
		{
			if (reqs[j].skip || reqs[j].server != reqs[i].server)
				continue;
			reqs[j].result = EC_FAILED;
			reqs[j].next = -1;
			if (last >= 0)
				reqs[last].next = j;
			last = j;
		}
		/* one that is not ready would have to be opened, which throws, allocates and waits */
		if (!ec_connection_is_ready(c))
			continue;
		ec_connection_begin(c, reqs[i].server, reqs, i, EC_ASK_SILENT, EC_RETRY_NEVER);
		while (ec_connection_write(c) && ec_connection_wants_write(c))
		{
			struct pollfd p = {.fd = c->fd,.events = POLLOUT};

			if (ec_deadline_left(deadline) == 0)
			{
				ec_socket_fail(c, "no room to send within %d ms", ec_guc_timeout);
				c->failure.timed_out = true;
				break;
			}
			(void) poll(&p, 1, ec_deadline_left(deadline));
		}
		if (!ec_connection_end(c))
			continue;
		for (int j = i; j >= 0; j = reqs[j].next)
			reqs[j].result = EC_DONE;
	}
}

/*
 * Send one request of another kind and hand each line of its answer to the callback, unless
 * that is NULL, up to the line that ends the answer.  The deadline starts anew with every
 * RENEW_BYTES that arrive.
 *
 * EC_DONE: answered to the end; EC_REFUSED: the server does not do this (now); EC_FAILED: it
 * is DOWN.  *failure says why, unless it is NULL.  Throws what the callback and ec_exchange()
 * throw.
 */
EcResult
ec_exchange_command(int server, const char *request, size_t len, EcLineCallback callback,
					void *arg, EcFailure *failure)
{
	EcRequest	req = {.kind = EC_REQUEST_COMMAND,.server = server};

	req.key = request;
	req.keylen = (int) len;
	req.callback = callback;
	req.arg = arg;
	(void) ec_exchange(&req, 1, ec_deadline_in(ec_guc_timeout), EC_RENEW_DEADLINE);
	if (failure && req.failure)
		*failure = *req.failure;
	return req.result;
}

/*
 * Have the server forget every item that it holds.  EC_DONE: confirmed; EC_REFUSED and
 * EC_FAILED as ec_exchange_command() has them.  Throws what ec_exchange() throws.
 */
EcResult
ec_exchange_flush(int server)
{
	char		request[EC_REQUEST_MAX];
	EcRequest	req = {.kind = EC_REQUEST_FLUSH,.server = server,.key = request};

	req.keylen = (int) ec_wire_flush(request);
	(void) ec_exchange(&req, 1, ec_deadline_in(ec_guc_timeout), 0);
	return req.result;
}
