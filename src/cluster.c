/*-------------------------------------------------------------------------
 *
 * cluster.c
 *	  The memcached servers: placement, and exchanges with a deadline.
 *
 * Placement is libmemcached's (weighted ketama), so that every client built on
 * it finds our keys; the exchanges are our own, on non-blocking sockets
 * (connection.c), with all servers at once and under one deadline.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>
#include <time.h>

#include <libmemcached/memcached.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"

#include "cluster.h"
#include "compat.h"
#include "connection.h"
#include "guc.h"

/* A long answer has a deadline for each so many bytes; a trickle is a dead server. */
#define RENEW_BYTES		(16 * 1024)

/*
 * So much free memory a backend keeps that reads or writes documents.  glibc returns what is
 * above 128 kB to the kernel, and memory for the next document of some size, and for all
 * copies of it on its way to the client, is faulted in again page by page, which takes most of
 * the time.  It keeps as much as twice the largest block that it had from mmap() and that
 * was freed; so we have and free one of half the size, once.
 */
#define EC_KEEP_FREE	(2 * 1024 * 1024)

EcPlacement	ec_placement;

static memcached_st *placement = NULL;	/* NULL: a single server */
static EcConnection conns[EC_MAX_SERVERS];

/* An exchange is under way, and its caller's "meanwhile" is running. */
static bool in_meanwhile = false;

static int64 now_us(void);
static void load_prefix(void);
static bool load_topology(uint64 generation);
static void disconnect_at_exit(int code, Datum arg);
static void wait_for(EcConnection **active, int n, EcDeadline deadline);

/* ---------------------------------------------------------------- time */

static int64
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

EcDeadline
ec_deadline_in(int ms)
{
	return now_us() + (int64) ms * 1000;
}

/* Milliseconds left, rounded up; 0 when it is over. */
int
ec_deadline_left(EcDeadline deadline)
{
	int64		left = deadline - now_us();

	return left <= 0 ? 0 : (int) ((left + 999) / 1000);
}

int64
ec_request_ttl(int64 seconds)
{
	if (seconds > 30 * 24 * 3600)
		return (int64) time(NULL) + seconds;
	return seconds;
}

/* ---------------------------------------------------------------- topology */

/* What this database's keys begin with; the lock is held. */
static void
load_prefix(void)
{
	EcDatabase *db = ec_state_database();

	strlcpy(ec_placement.prefix, db ? db->prefix : ec_guc_key_prefix, sizeof(ec_placement.prefix));
	ec_placement.has_slot = db != NULL;
}

/*
 * Copy the topology of this generation, which we have entered, and make the
 * placement for it.  Connections of the one before are closed.  false: there is a newer
 * one, which is to be entered instead.
 */
static bool
load_topology(uint64 generation)
{
	memcached_st *memc = NULL;
	EcServer   *servers;
	bool		enabled;
	int			n;

	if (ec_placement.server == NULL)
	{
		before_shmem_exit(disconnect_at_exit, (Datum) 0);
		pfree(MemoryContextAlloc(TopMemoryContext, EC_KEEP_FREE / 2));
	}
	ec_exchange_disconnect();

	servers = MemoryContextAlloc(TopMemoryContext, sizeof(EcServer) * EC_MAX_SERVERS);
	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	if (!ec_topology_is_current(generation))
	{
		LWLockRelease(ec_shmem->lock);
		pfree(servers);
		return false;
	}
	ec_placement.generation = 0; /* until all is done */
	enabled = ec_shmem->enabled;
	n = ec_shmem->nservers;
	memcpy(servers, ec_shmem->server, n * sizeof(EcServer));
	load_prefix();
	LWLockRelease(ec_shmem->lock);

	if (n > 1)
	{
		memcached_return_t rc = MEMCACHED_MEMORY_ALLOCATION_FAILURE;

		memc = memcached_create(NULL);
		if (memc != NULL)
			rc = memcached_behavior_set(memc, MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED, 1);
		for (int i = 0; i < n && rc == MEMCACHED_SUCCESS; i++)
		{
			if (servers[i].port == 0)
				rc = memcached_server_add_unix_socket_with_weight(memc, servers[i].host,
																  servers[i].weight);
			else
				rc = memcached_server_add_with_weight(memc, servers[i].host,
													  servers[i].port, servers[i].weight);
		}
		if (rc != MEMCACHED_SUCCESS)
		{
			const char *why = memcached_strerror(NULL, rc);

			if (memc)
				memcached_free(memc);
			pfree(servers);
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("could not compute the placement of cache keys: %s", why)));
		}
	}
	if (placement)
		memcached_free(placement);
	if (ec_placement.server)
		pfree(ec_placement.server);
	placement = memc;
	ec_placement.server = servers;
	ec_placement.nservers = n;
	ec_placement.enabled = enabled;
	ec_placement.generation = generation;
	return true;
}

bool
ec_placement_enter_always(void)
{
	for (;;)
	{
		uint64		generation = ec_topology_enter();

		if (generation == ec_placement.generation || load_topology(generation))
			break;
		ec_topology_leave();
	}
	if (!ec_placement.has_slot)
	{
		/* has the database got one meanwhile? */
		LWLockAcquire(ec_shmem->lock, LW_SHARED);
		load_prefix();
		LWLockRelease(ec_shmem->lock);
	}
	return ec_placement.enabled && ec_topology_is_served(ec_placement.generation);
}

bool
ec_placement_enter(void)
{
	if (in_meanwhile)
		return false;
	if (ec_placement_enter_always())
		return true;
	ec_topology_leave();
	return false;
}

int
ec_placement_size(void)
{
	return ec_placement.nservers;
}

uint64
ec_placement_generation(void)
{
	return ec_placement.generation;
}

/* What this database's keys begin with, in the topology that we have entered. */
const char *
ec_placement_prefix(void)
{
	return ec_placement.prefix;
}

const char *
ec_placement_name(int server)
{
	return ec_placement.server[server].name;
}

/* The server that the key lives on. */
int
ec_placement_of(const char *key, int keylen)
{
	return placement ? (int) memcached_generate_hash(placement, key, keylen) : 0;
}

static void
disconnect_at_exit(int code, Datum arg)
{
	ec_exchange_disconnect();
}

const char *
ec_exchange_last_failure(bool *timed_out)
{
	if (timed_out)
		*timed_out = ec_connection_last_failure_timed_out;
	return ec_connection_last_failure;
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
	in_meanwhile = false;
	for (int i = 0; i < ec_placement.nservers; i++)
		if (conns[i].state != EC_CONNECTION_CLOSED && (conns[i].busy || !conns[i].kept))
			ec_socket_close(&conns[i]);
}

/* ---------------------------------------------------------------- exchanges */

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

void
ec_request_mark(EcRequest *req, int server, const char *key, int keylen)
{
	memset(req, 0, sizeof(EcRequest));
	req->kind = EC_REQUEST_MARK;
	req->server = server;
	req->key = key;
	req->keylen = keylen;
	req->value = EC_MARKER;
	req->valuelen = EC_MARKER_LEN;
	req->ttl = ec_guc_marker_ttl;
}

/*
 * Would the server take a value of this size?  As far as it has told its
 * item_size_max; an item carries some 50 bytes of its own.
 */
bool
ec_placement_fits(int server, int keylen, size_t valuelen)
{
	uint64		max = pg_atomic_read_u64(&ec_shmem->server[server].item_max);

	return max == 0 || valuelen + keylen + 64 <= max;
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
			in_meanwhile = true;
			meanwhile(arg);
			in_meanwhile = false;
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
		for (int i = active[a]->recv_op; i >= 0; i = reqs[i].next)
			reqs[i].result = EC_FAILED;
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
			reqs[i].result = EC_FAILED;
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
 * not do this (now), ec_exchange_last_failure() has what it said; EC_FAILED: it is
 * DOWN.  Throws what the callback and CHECK_FOR_INTERRUPTS throw.
 */
EcResult
ec_exchange_command(int server, const char *request, size_t len, EcLineCallback callback, void *arg)
{
	EcRequest		req = {.kind = EC_REQUEST_COMMAND, .server = server};

	req.key = request;
	req.keylen = (int) len;
	req.callback = callback;
	req.arg = arg;
	(void) ec_exchange(&req, 1, ec_deadline_in(ec_guc_timeout), EC_RENEW_DEADLINE);
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
