/*-------------------------------------------------------------------------
 *
 * exchange.c
 *	  Exchanges with all servers at once, under one deadline.
 *
 * This backend's connections are here, one for each server of the topology that it has
 * entered.  Whoever makes an exchange must be in the topology: requests name servers by their
 * index in it.
 *
 * Invariant: when an exchange is over, each of its requests has a result.  A server that did
 * not answer one is DOWN, for everybody, unless nothing depends on the answer: see round.h.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"

#include "deadline.h"
#include "guc.h"
#include "net/connection.h"
#include "protocol/wire.h"
#include "servers/exchange.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "waitevent.h"

/* The answer to a command that is no list of keys may not take longer than this in all. */
#define COMMAND_MS		(10 * 1000)

/*
 * A piece of many requests: how many at first for each server, when it is not known how large the
 * answers are, and at most; and about how many bytes, which arrive in time on any network worth its
 * name.
 */
#define PIECE_FIRST		32
#define PIECE_MOST		1000
#define PIECE_BYTES		(256 * 1024)

/* How often a commit that has no connection tries to get one. */
#define ROOM_NAP_MS		10

static EcConnection conns[EC_MAX_SERVERS];

static void close_all(void);
static void disconnect_at_exit(int code, Datum arg);
static bool is_wanted(int server);
static bool is_ours(const EcRequest *req);
static bool try_for_room(EcRequest *reqs, int nreqs, EcDeadline deadline);
static bool delete_refused(EcRequest *reqs, int nreqs);
static void down_for_want(EcRequest *reqs, int nreqs);

/* Once per backend, from _PG_init. */
void
ec_exchange_init(void)
{
	ec_placement_on_change(close_all);
}

/*
 * Close every connection: another generation is about to take the place of the one whose
 * servers they are to.
 */
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
 * Does somebody need this open connection more than we do?  That is answered once.  Nobody needs
 * one more than the workers, which many transactions of others depend on.
 */
static bool
is_wanted(int server)
{
	pg_atomic_uint32 *wanted = &ec_shmem->server[server].room_wanted;

	return MyBgworkerEntry == NULL && conns[server].state == EC_CONNECTION_IDLE &&
		pg_atomic_read_u32(wanted) != 0 && pg_atomic_exchange_u32(wanted, 0) != 0;
}

/*
 * At the end of a transaction: what an error left in the middle of an exchange is closed, and
 * so is what goes beyond pool_size, or what a commit of somebody else waits for.  Never throws.
 */
void
ec_exchange_at_xact_end(void)
{
	ec_placement_bar(false);
	for (int i = 0; i < ec_placement.nservers; i++)
		if (conns[i].state != EC_CONNECTION_IDLE || !conns[i].kept || is_wanted(i))
			ec_socket_close(&conns[i]);
}

/*
 * Send each request to its server and wait for the answers, on all servers at once and under
 * one deadline; results are in the reqs.  What a failure means for the server is said by the
 * flags, and by ec_round_blame().  Returns whether every request was answered.
 *
 * Throws what CHECK_FOR_INTERRUPTS throws, and where the kernel does not give a descriptor, or
 * memory, for a set of events to wait for.
 */
bool
ec_exchange(EcRequest *reqs, int nreqs, EcDeadline deadline, int flags)
{
	return ec_round_run(conns, reqs, nreqs, deadline, 0, flags, NULL, NULL);
}

/*
 * As ec_exchange() with EC_COUNTED, for as many requests as the caller likes.  They are asked in
 * pieces, the first one under the given deadline, each of the others under one of its own, so that
 * a long list is not taken for a server's end.  A piece has no more requests than a sound server
 * answers in time: their number, and how large they have been so far, or, if valuelen says so,
 * will be.
 *
 * A server that is DOWN, since just now perhaps, or has failed in a piece before is not asked:
 * EC_FAILED.  *longest_us, unless it is NULL, is how long the longest piece took.  Throws what
 * ec_exchange() throws.
 */
bool
ec_exchange_pieces(EcRequest *reqs, int nreqs, EcDeadline deadline, int flags,
				   int64 *longest_us)
{
	static const EcFailure down = {ERRCODE_CONNECTION_FAILURE, false, false, false,
	"the server is known to be down"};
	const EcFailure *failed[EC_MAX_SERVERS] = {NULL};
	int			most = Min(PIECE_FIRST * ec_placement.nservers, PIECE_MOST);
	bool		ok = true;
	int			end;

	if (longest_us)
		*longest_us = 0;
	for (int first = 0; first < nreqs; first = end)
	{
		EcDeadline	start = ec_deadline_in(0);
		size_t		bytes = 0;
		int			asked = 0;

		CHECK_FOR_INTERRUPTS();
		for (end = first; end < nreqs && asked < most; end++)
		{
			EcRequest  *req = &reqs[end];

			if (req->skip)
				continue;
			if (asked > 0 && bytes + req->valuelen > PIECE_BYTES)
				break;
			bytes += req->valuelen;
			asked++;
			if (failed[req->server] == NULL && ec_state_of(req->server) == EC_DOWN)
				failed[req->server] = &down;
			req->unasked = failed[req->server] != NULL;
		}
		ok &= ec_exchange(reqs + first, end - first, deadline, flags | EC_COUNTED);
		bytes = 0;
		for (int i = first; i < end; i++)
		{
			if (reqs[i].skip)
				continue;
			if (reqs[i].unasked)
			{
				reqs[i].unasked = ok = false;
				reqs[i].result = EC_FAILED;
				reqs[i].failure = failed[reqs[i].server];
			}
			else if (reqs[i].result == EC_DONE)
				bytes += reqs[i].found_len;
			else if (reqs[i].result == EC_FAILED)
				failed[reqs[i].server] = reqs[i].failure;
		}
		if (asked > 0)
			most = (int) Max(Min(PIECE_BYTES / (bytes / asked + 1), PIECE_MOST), 1);
		if (longest_us)
			*longest_us = Max(*longest_us, ec_deadline_in(0) - start);
		deadline = ec_deadline_in(ec_guc_timeout);
	}
	return ok;
}

/*
 * A server that is out of memory may refuse even a marker: then the key must go.  Returns
 * whether all have.  Throws out of memory, too.
 */
static bool
delete_refused(EcRequest *reqs, int nreqs)
{
	EcRequest  *deletes = palloc(nreqs * sizeof(EcRequest));
	bool		ok;

	memcpy(deletes, reqs, nreqs * sizeof(EcRequest));
	for (int i = 0; i < nreqs; i++)
	{
		deletes[i].skip |= reqs[i].result != EC_REFUSED;
		deletes[i].kind = EC_REQUEST_DELETE;
		deletes[i].quiet = false;
		deletes[i].value = NULL;
	}
	ok = ec_exchange(deletes, nreqs, ec_deadline_in(ec_round_ms(EC_MARKING)), EC_MARKING);
	for (int i = 0; i < nreqs; i++)
	{
		if (deletes[i].skip || (deletes[i].result != EC_FAILED && deletes[i].result != EC_REFUSED))
			continue;
		ok = false;
		if (deletes[i].result == EC_REFUSED)
			ec_state_down(ec_placement.generation, deletes[i].server, deletes[i].failure->reason);
		reqs[i].result = EC_FAILED;
		reqs[i].failure = deletes[i].failure;
	}
	pfree(deletes);
	return ok;
}

/* Was the request not answered because this process is short of something? */
static bool
is_ours(const EcRequest *req)
{
	return !req->skip && req->result == EC_FAILED && req->failure != NULL && req->failure->ours;
}

/*
 * Markers are not confirmed because the server has no connection for this process.  Others are
 * asked for one by now (ec_round_blame()): try again until the deadline.  Returns whether all
 * markers are confirmed.  Throws what ec_exchange() throws.
 */
static bool
try_for_room(EcRequest *reqs, int nreqs, EcDeadline deadline)
{
	EcRequest  *again = palloc(nreqs * sizeof(EcRequest));
	bool		ok = true;

	while (ec_deadline_left(deadline) > ROOM_NAP_MS)
	{
		bool		any = false;

		memcpy(again, reqs, nreqs * sizeof(EcRequest));
		for (int i = 0; i < nreqs; i++)
		{
			again[i].skip = !is_ours(&reqs[i]) || !reqs[i].failure->no_room ||
				ec_state_is_away(reqs[i].server);
			any |= !again[i].skip;
		}
		if (!any)
			break;
		ec_deadline_nap(ROOM_NAP_MS, EC_WAIT_ROOM);
		(void) ec_round_run(conns, again, nreqs, deadline, 0, EC_MARKING, NULL, NULL);
		for (int i = 0; i < nreqs; i++)
		{
			if (again[i].skip)
				continue;
			reqs[i] = again[i];
			if (reqs[i].result != EC_FAILED)
				pg_atomic_write_u32(&ec_shmem->server[reqs[i].server].room_wanted, 0);
		}
	}
	pfree(again);
	for (int i = 0; i < nreqs; i++)
		ok &= reqs[i].skip || reqs[i].result != EC_FAILED;
	return ok;
}

/*
 * Markers are not confirmed because this process is short of something.  The server is as good
 * as any, but what it holds of these keys is about to be old: so it is DOWN until its worker
 * has invalidated them.
 */
static void
down_for_want(EcRequest *reqs, int nreqs)
{
	for (int i = 0; i < nreqs; i++)
		if (is_ours(&reqs[i]) && !ec_state_is_away(reqs[i].server))
			ec_state_down(ec_placement.generation, reqs[i].server, reqs[i].failure->reason);
}

/*
 * As ec_exchange(), for requests to set markers by which the caller invalidates documents:
 * keys whose requests are not EC_FAILED afterwards carry a marker, or are gone.  Returns
 * whether all do.  meanwhile(arg), unless it is NULL, runs between sending and waiting, as
 * ec_round_run() says.  Throws what meanwhile throws, and out of memory, too.
 */
bool
ec_exchange_marks(EcRequest *reqs, int nreqs, EcDeadline deadline,
				  void (*meanwhile) (void *arg), void *arg)
{
	bool		ok = ec_round_run(conns, reqs, nreqs, deadline, 0, EC_MARKING, meanwhile, arg);
	bool		refused = false;

	if (!ok)
		ok = try_for_room(reqs, nreqs, meanwhile ? ec_deadline_in(ec_round_ms(EC_MARKING))
						  : deadline);
	for (int i = 0; i < nreqs; i++)
		refused |= !reqs[i].skip && reqs[i].result == EC_REFUSED;
	if (refused)
		ok &= delete_refused(reqs, nreqs);
	if (!ok)
		down_for_want(reqs, nreqs);
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
	if (ec_connection_is_clear(&conns[req->server]) ||
		ec_exchange(&barrier, 1, deadline, EC_COUNTED))
		(void) ec_exchange(req, 1, deadline, EC_NO_RETRY | EC_COUNTED);
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
		EcDeadline	began;

		if (reqs[i].skip || reqs[i].result != EC_PENDING)
			continue;
		/* chain up those for this connection */
		for (int j = i, last = -1; j < nreqs; j++)
		{
			if (reqs[j].skip || reqs[j].server != reqs[i].server)
				continue;
			reqs[j].result = EC_FAILED;
			Assert(reqs[j].connection != 0);
			reqs[j].next = -1;
			if (last >= 0)
				reqs[last].next = j;
			last = j;
		}
		/* one that is not ready would have to be opened, which throws, allocates and waits */
		if (!ec_connection_is_ready(c) || reqs[i].connection != c->serial)
			continue;
		Assert(c->version != 0);	/* or the server would be asked for it, and waited for */
		ec_connection_begin(c, reqs[i].server, reqs, i, EC_ASK_SILENT, EC_RETRY_NEVER);
		began = ec_deadline_in(0);
		while (ec_connection_write(c) != EC_STEP_FAILED && ec_connection_wants_write(c))
		{
			struct pollfd p = {.fd = c->fd,.events = POLLOUT};

			if (ec_deadline_left(deadline) == 0)
			{
				ec_socket_fail(c, "no room to send within %d ms", ec_guc_timeout);
				c->failure.timed_out = true;
				break;
			}
			pgstat_report_wait_start(ec_waitevent_of(EC_WAIT_STORE));
			(void) poll(&p, 1, ec_deadline_left(deadline));
			pgstat_report_wait_end();
		}
		if (!ec_connection_end(c))
		{
			ec_round_blame(c, began, EC_COUNTED);
			continue;
		}
		for (int j = i; j >= 0; j = reqs[j].next)
			reqs[j].result = EC_DONE;
	}
}

/*
 * Send one request of another kind and hand each line of its answer to the callback, unless
 * that is NULL, up to the line that ends the answer.
 *
 * EC_DONE: answered to the end; EC_REFUSED: the server does not do this (now); EC_FAILED: it
 * has not answered.  Throws what the callback and ec_exchange() throw.
 */
EcResult
ec_exchange_command(int server, const char *request, size_t len, EcLineCallback callback,
					void *arg, int flags)
{
	EcRequest	req = {.kind = EC_REQUEST_COMMAND,.server = server};

	req.key = request;
	req.keylen = (int) len;
	req.callback = callback;
	req.arg = arg;
	ec_exchange_list(&req, ec_deadline_in(COMMAND_MS), flags, NULL);
	return req.result;
}

/*
 * As ec_exchange_command(), for an answer that may be long: the request has a limit of its
 * own.  The deadline starts anew as long as the answer does not trickle, up to last.
 *
 * What is thrown in the middle closes the connection here and now.  memcached's crawler waits
 * for whoever has asked for a list, and holds up others meanwhile; the transaction may go on
 * for long, if the error is caught.
 *
 * An answer that goes on after its end has failed: memcached 1.6.19 to 1.6.43 mix up the rest of
 * a list for a client who has not read for a second.
 */
void
ec_exchange_list(EcRequest *req, EcDeadline last, int flags, EcFailure *failure)
{
	EcDeadline	deadline = Min(ec_deadline_in(ec_round_ms(flags)), last);

	Assert(req->kind == EC_REQUEST_COMMAND);
	PG_TRY();
	{
		(void) ec_round_run(conns, req, 1, deadline, last, flags, NULL, NULL);
	}
	PG_CATCH();
	{
		ec_socket_close(&conns[req->server]);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (req->result == EC_DONE && conns[req->server].state != EC_CONNECTION_IDLE)
	{
		req->result = EC_FAILED;
		req->failure = ec_failure_copy(&conns[req->server].failure);
	}
	if (failure && req->failure)
		*failure = *req->failure;
}

/*
 * Have the server forget every item that it holds.  EC_DONE: confirmed; EC_REFUSED and
 * EC_FAILED as ec_exchange_command() has them, and *failure says why.  Throws what ec_exchange()
 * throws.
 */
EcResult
ec_exchange_flush(int server, EcFailure *failure)
{
	char		request[EC_REQUEST_MAX];
	EcRequest	req = {.kind = EC_REQUEST_FLUSH,.server = server,.key = request};

	req.keylen = (int) ec_wire_flush(request);
	(void) ec_exchange(&req, 1, ec_deadline_in(ec_guc_timeout), EC_COUNTED);
	if (req.failure)
		*failure = *req.failure;
	return req.result;
}
