/*-------------------------------------------------------------------------
 *
 * exchange.c
 *	  Exchanges with all servers at once, under one deadline.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <libmemcached/memcached.h>
#include <poll.h>
#include <time.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"

#include "compat.h"
#include "deadline.h"
#include "guc.h"
#include "net/connection.h"
#include "net/request.h"
#include "net/socket.h"
#include "protocol/wire.h"
#include "servers/exchange.h"
#include "servers/placement.h"
#include "shmem.h"

/* A long answer has a deadline for each so many bytes; a trickle is a dead server. */
#define RENEW_BYTES		(16 * 1024)

static EcConnection conns[EC_MAX_SERVERS];

static void close_all(void);
static void disconnect_at_exit(int code, Datum arg);
static void wait_for(EcConnection **active, int n, EcDeadline deadline);

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

/* Close every connection; returns how many were open. */
int
ec_exchange_disconnect(void)
{
	int			n = 0;

	for (int i = 0; i < ec_placement.nservers; i++)
	{
		if (conns[i].state == EC_CONNECTION_CLOSED)
			continue;
		n += conns[i].state == EC_CONNECTION_READY;
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
		if (conns[i].state != EC_CONNECTION_CLOSED && (conns[i].busy || !conns[i].kept))
			ec_socket_close(&conns[i]);
}

/*
 * Wait until one of the connections can go on, the deadline is over, or there is
 * an interrupt to serve.
 */
static void
wait_for(EcConnection **active, int n, EcDeadline deadline)
{
	WaitEventSet *set = active[0]->set;
	WaitEvent	event;

	if (n == 1)
	{
		uint32		events = ec_connection_events(active[0]);

		if (events != active[0]->waiting_for)
			ModifyWaitEvent(set, 2, events, NULL);
		active[0]->waiting_for = events;
	}
	else
	{
		set = ec_compat_create_wait_set(n + 2);
		AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
		for (int i = 0; i < n; i++)
			AddWaitEventToSet(set, ec_connection_events(active[i]), active[i]->fd, NULL, NULL);
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
 * Throws only what CHECK_FOR_INTERRUPTS throws.
 */
bool
ec_exchange(EcRequest *reqs, int nreqs, EcDeadline deadline, int flags)
{
	return ec_exchange_meanwhile(reqs, nreqs, deadline, flags, NULL, NULL);
}

/*
 * The same, but something else is done between sending and waiting, which the
 * servers' answers need not wait for: the deadline starts anew after it.  What it
 * calls finds the cache disabled.  Throws what it throws.
 */
bool
ec_exchange_meanwhile(EcRequest *reqs, int nreqs, EcDeadline deadline, int flags,
					  void (*meanwhile) (void *arg), void *arg)
{
	EcConnection	   *active[EC_MAX_SERVERS];
	int			nactive = 0;
	bool		ok = true;

	for (int i = 0; i < nreqs; i++)
	{
		EcRequest	   *req = &reqs[i];
		EcConnection	   *c;
		int			a;

		if (req->skip)
			continue;
		req->result = EC_PENDING;
		req->failure = NULL;
		req->next = -1;
		c = &conns[req->server];
		for (a = 0; a < nactive && active[a] != c; a++)
			;
		if (a < nactive)
		{
			reqs[c->last_op].next = i;
			c->last_op = i;
		}
		else
		{
			ec_connection_begin(c, req->server);
			c->last_op = c->send_op = c->recv_op = i;
			c->retried = req->once;
			active[nactive++] = c;
		}
	}

	/* the answer may be there at once, where we share a CPU; but not before meanwhile */
	for (bool look = meanwhile == NULL;; look = true)
	{
		EcConnection	   *waiting[EC_MAX_SERVERS];
		int			nwaiting = 0;
		bool		linger = nactive == 1 && ec_deadline_left(deadline) >= EC_LINGER_MS;

		for (int a = 0; a < nactive; a++)
		{
			EcConnection	   *c = active[a];

			while (!c->failed && c->recv_op >= 0)
			{
				if (ec_connection_step(c, reqs, look, linger))
				{
					if (c->recv_op >= 0)
						waiting[nwaiting++] = c;
					break;
				}
				if (!ec_connection_retry(c))
					c->failed = true;
			}
		}
		if (meanwhile)
		{
			ec_placement_bar(true);
			meanwhile(arg);
			ec_placement_bar(false);
			meanwhile = NULL;
			deadline = ec_deadline_in(ec_guc_timeout);
			continue;
		}
		if (nwaiting == 0)
			break;
		if ((flags & EC_RENEW_DEADLINE) && waiting[0]->progress > 0)
			waiting[0]->retried = true; /* too late to ask anew */
		if ((flags & EC_RENEW_DEADLINE) && waiting[0]->progress >= RENEW_BYTES)
		{
			deadline = ec_deadline_in(ec_guc_timeout);
			waiting[0]->progress = 0;
		}
		if (ec_deadline_left(deadline) == 0)
		{
			for (int w = 0; w < nwaiting; w++)
				ec_socket_fail(waiting[w], true,
							 waiting[w]->state == EC_CONNECTION_HANDSHAKE ?
							 "no TLS handshake within %d ms" : "no answer within %d ms",
							 ec_guc_timeout);
			break;
		}
		wait_for(waiting, nwaiting, deadline);
	}

	for (int a = 0; a < nactive; a++)
	{
		const EcFailure *failure = active[a]->recv_op < 0 ? NULL
			: ec_failure_copy(&active[a]->failure);

		for (int i = active[a]->recv_op; i >= 0; i = reqs[i].next)
		{
			reqs[i].result = EC_FAILED;
			reqs[i].failure = failure;
		}
		ok &= ec_connection_end(active[a]);
	}
	return ok;
}

/*
 * The same for requests to set markers, with which the caller invalidates documents: those that
 * are not EC_FAILED afterwards carry a marker, or are gone.  Returns whether all do.
 * Throws out of memory, too.
 */
bool
ec_exchange_marks(EcRequest *reqs, int nreqs, EcDeadline deadline, void (*meanwhile) (void *arg), void *arg)
{
	bool		ok = ec_exchange_meanwhile(reqs, nreqs, deadline, 0, meanwhile, arg);
	bool		refused = false;
	EcRequest	   *deletes;

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
 * One request that must not be carried out twice, so that it is never asked anew
 * on another connection.  That would be for a kept connection that was closed
 * meanwhile; so where it may have been, or where it still owes answers to ec_exchange_send(),
 * whose errors could be taken for ours, a barrier goes first.  EC_PENDING: it did not come
 * through, and nothing was sent; EC_FAILED: it may have been carried out.
 */
void
ec_exchange_once(EcRequest *req)
{
	EcDeadline	deadline = ec_deadline_in(ec_guc_timeout);
	char		request[EC_REQUEST_MAX];
	EcRequest		barrier = {.kind = EC_REQUEST_COMMAND, .server = req->server, .key = request};

	barrier.keylen = (int) ec_wire_barrier(request);
	req->result = EC_PENDING;
	req->once = true;
	if (ec_connection_is_idle(&conns[req->server]) || ec_exchange(&barrier, 1, deadline, 0))
		(void) ec_exchange(req, 1, deadline, 0);
	else
		req->failure = barrier.failure;
}

/*
 * Send requests over connections that are open, quietly, and do not wait: what
 * is answered all the same, the next exchange finds in front of its own.  Only
 * for what may as well be lost or come late: stores and removals that carry a
 * token.  Ops that were sent are EC_DONE, the others EC_FAILED.
 *
 * For the COMMIT callback: never throws, allocates or serves an interrupt; waits
 * only for the kernel to take the bytes, and not beyond the deadline.
 */
void
ec_exchange_send(EcRequest *reqs, int nreqs, EcDeadline deadline)
{
	for (int i = 0; i < nreqs; i++)
	{
		EcConnection	   *c = &conns[reqs[i].server];
		int			first = i;

		/* chain up those for this connection */
		if (reqs[i].skip || reqs[i].result != EC_PENDING)
			continue;
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
		if (!ec_connection_is_ready(c))
			continue;
		ec_connection_begin(c, reqs[i].server);
		c->send_op = first;
		c->quiet = true;
		while (ec_connection_write(c, reqs) && ec_socket_wants_write(c))
		{
			struct pollfd p = {.fd = c->fd,.events = POLLOUT};

			if (ec_deadline_left(deadline) == 0)
				ec_socket_fail(c, true, "no room to send within %d ms", ec_guc_timeout);
			if (c->failed)
				break;
			(void) poll(&p, 1, ec_deadline_left(deadline));
		}
		c->quiet = false;
		if (!ec_connection_end(c))
			continue;
		for (int j = first; j >= 0; j = reqs[j].next)
			reqs[j].result = EC_DONE;
	}
}

/*
 * Send one request of another kind and hand each line of its answer to the
 * callback, up to the line that ends it.  The deadline starts anew with every
 * RENEW_BYTES that arrive.  EC_DONE: answered to the end; EC_REFUSED: the server does
 * not do this (now); EC_FAILED: it is DOWN; *failure says why, unless it is NULL.  Throws what the callback and CHECK_FOR_INTERRUPTS throw.
 */
EcResult
ec_exchange_command(int server, const char *request, size_t len, EcLineCallback callback,
					void *arg, EcFailure *failure)
{
	EcRequest		req = {.kind = EC_REQUEST_COMMAND, .server = server};

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
 * Have the server forget every item that it holds.  EC_DONE: confirmed;
 * EC_REFUSED and EC_FAILED as above.
 */
EcResult
ec_exchange_flush(int server)
{
	char		request[EC_REQUEST_MAX];
	EcRequest		req = {.kind = EC_REQUEST_FLUSH, .server = server, .key = request};

	req.keylen = (int) ec_wire_flush(request);
	(void) ec_exchange(&req, 1, ec_deadline_in(ec_guc_timeout), 0);
	return req.result;
}
