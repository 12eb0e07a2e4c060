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

EcTopology	ec_topology;

static memcached_st *placement = NULL;	/* NULL: a single server */
static Conn conns[EC_MAX_SERVERS];

/* An exchange is under way, and its caller's "meanwhile" is running. */
static bool in_meanwhile = false;

static int64 now_us(void);
static void load_prefix(void);
static bool load_topology(uint64 generation);
static void disconnect_at_exit(int code, Datum arg);
static void wait_for(Conn **active, int n, EcDeadline deadline);

/* ---------------------------------------------------------------- time */

static int64
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

EcDeadline
ec_deadline(int ms)
{
	return now_us() + (int64) ms * 1000;
}

/* Milliseconds left, rounded up; 0 when it is over. */
int
ec_remaining(EcDeadline deadline)
{
	int64		left = deadline - now_us();

	return left <= 0 ? 0 : (int) ((left + 999) / 1000);
}

int64
ec_wire_ttl(int64 seconds)
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
	EcDatabase *db = ec_my_database();

	strlcpy(ec_topology.prefix, db ? db->prefix : ec_key_prefix, sizeof(ec_topology.prefix));
	ec_topology.has_slot = db != NULL;
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

	if (ec_topology.server == NULL)
	{
		before_shmem_exit(disconnect_at_exit, (Datum) 0);
		pfree(MemoryContextAlloc(TopMemoryContext, EC_KEEP_FREE / 2));
	}
	ec_cluster_disconnect();

	servers = MemoryContextAlloc(TopMemoryContext, sizeof(EcServer) * EC_MAX_SERVERS);
	LWLockAcquire(ec_shared->lock, LW_SHARED);
	if (!ec_topology_is_current(generation))
	{
		LWLockRelease(ec_shared->lock);
		pfree(servers);
		return false;
	}
	ec_topology.generation = 0; /* until all is done */
	enabled = ec_shared->enabled;
	n = ec_shared->nservers;
	memcpy(servers, ec_shared->server, n * sizeof(EcServer));
	load_prefix();
	LWLockRelease(ec_shared->lock);

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
	if (ec_topology.server)
		pfree(ec_topology.server);
	placement = memc;
	ec_topology.server = servers;
	ec_topology.nservers = n;
	ec_topology.enabled = enabled;
	ec_topology.generation = generation;
	return true;
}

bool
ec_cluster_enter_always(void)
{
	for (;;)
	{
		uint64		generation = ec_topology_enter();

		if (generation == ec_topology.generation || load_topology(generation))
			break;
		ec_topology_leave();
	}
	if (!ec_topology.has_slot)
	{
		/* has the database got one meanwhile? */
		LWLockAcquire(ec_shared->lock, LW_SHARED);
		load_prefix();
		LWLockRelease(ec_shared->lock);
	}
	return ec_topology.enabled && ec_topology_is_served(ec_topology.generation);
}

bool
ec_cluster_enter(void)
{
	if (in_meanwhile)
		return false;
	if (ec_cluster_enter_always())
		return true;
	ec_topology_leave();
	return false;
}

int
ec_cluster_size(void)
{
	return ec_topology.nservers;
}

uint64
ec_cluster_generation(void)
{
	return ec_topology.generation;
}

/* What this database's keys begin with, in the topology that we have entered. */
const char *
ec_cluster_prefix(void)
{
	return ec_topology.prefix;
}

const char *
ec_cluster_name(int server)
{
	return ec_topology.server[server].name;
}

/* The server that the key lives on. */
int
ec_cluster_place(const char *key, int keylen)
{
	return placement ? (int) memcached_generate_hash(placement, key, keylen) : 0;
}

static void
disconnect_at_exit(int code, Datum arg)
{
	ec_cluster_disconnect();
}

const char *
ec_cluster_last_failure(bool *timed_out)
{
	if (timed_out)
		*timed_out = ec_last_failure_timed_out;
	return ec_last_failure;
}

/* Close every connection; returns how many were open. */
int
ec_cluster_disconnect(void)
{
	int			n = 0;

	for (int i = 0; i < ec_topology.nservers; i++)
	{
		if (conns[i].state == CONN_CLOSED)
			continue;
		n += conns[i].state == CONN_READY;
		ec_conn_close(&conns[i]);
	}
	return n;
}

/*
 * At the end of a transaction: what an error left in the middle of an exchange
 * is closed, and so is what goes beyond pool_size.  Never throws.
 */
void
ec_cluster_at_xact_end(void)
{
	in_meanwhile = false;
	for (int i = 0; i < ec_topology.nservers; i++)
		if (conns[i].state != CONN_CLOSED && (conns[i].busy || !conns[i].kept))
			ec_conn_close(&conns[i]);
}

/* ---------------------------------------------------------------- exchanges */

/*
 * Wait until one of the connections can go on, the deadline is over, or there is
 * an interrupt to serve.
 */
static void
wait_for(Conn **active, int n, EcDeadline deadline)
{
	WaitEventSet *set = active[0]->set;
	WaitEvent	event;

	if (n == 1)
	{
		uint32		events = ec_conn_events(active[0]);

		if (events != active[0]->waiting_for)
			ModifyWaitEvent(set, 2, events, NULL);
		active[0]->waiting_for = events;
	}
	else
	{
		set = ec_create_wait_set(n + 2);
		AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
		for (int i = 0; i < n; i++)
			AddWaitEventToSet(set, ec_conn_events(active[i]), active[i]->fd, NULL, NULL);
	}
	if (WaitEventSetWait(set, ec_remaining(deadline), &event, 1, PG_WAIT_EXTENSION) == 1 &&
		(event.events & WL_LATCH_SET))
		ResetLatch(MyLatch);
	if (n > 1)
		FreeWaitEventSet(set);
	CHECK_FOR_INTERRUPTS();
}

void
ec_op_mark(EcOp *op, int server, const char *key, int keylen)
{
	memset(op, 0, sizeof(EcOp));
	op->kind = EC_OP_MARK;
	op->server = server;
	op->key = key;
	op->keylen = keylen;
	op->value = EC_MARKER;
	op->valuelen = EC_MARKER_LEN;
	op->ttl = ec_marker_ttl;
}

/*
 * Would the server take a value of this size?  As far as it has told its
 * item_size_max; an item carries some 50 bytes of its own.
 */
bool
ec_cluster_fits(int server, int keylen, size_t valuelen)
{
	uint64		max = pg_atomic_read_u64(&ec_shared->server[server].item_max);

	return max == 0 || valuelen + keylen + 64 <= max;
}

/*
 * Send each request to its server and wait for the answers, on all servers at
 * once and under one deadline; results are in the ops.  A server whose exchange
 * fails is DOWN from here on.  Returns whether every request was answered.
 *
 * Throws only what CHECK_FOR_INTERRUPTS throws.
 */
bool
ec_exchange(EcOp *ops, int nops, EcDeadline deadline, int flags)
{
	return ec_exchange_meanwhile(ops, nops, deadline, flags, NULL, NULL);
}

/*
 * The same, but something else is done between sending and waiting, which the
 * servers' answers need not wait for: the deadline starts anew after it.  What it
 * calls finds the cache disabled.  Throws what it throws.
 */
bool
ec_exchange_meanwhile(EcOp *ops, int nops, EcDeadline deadline, int flags,
					  void (*meanwhile) (void *arg), void *arg)
{
	Conn	   *active[EC_MAX_SERVERS];
	int			nactive = 0;
	bool		ok = true;

	for (int i = 0; i < nops; i++)
	{
		EcOp	   *op = &ops[i];
		Conn	   *c;
		int			a;

		if (op->skip)
			continue;
		op->result = EC_PENDING;
		op->next = -1;
		c = &conns[op->server];
		for (a = 0; a < nactive && active[a] != c; a++)
			;
		if (a < nactive)
		{
			ops[c->last_op].next = i;
			c->last_op = i;
		}
		else
		{
			ec_conn_begin(c, op->server);
			c->last_op = c->send_op = c->recv_op = i;
			c->retried = op->once;
			active[nactive++] = c;
		}
	}

	/* the answer may be there at once, where we share a CPU; but not before meanwhile */
	for (bool look = meanwhile == NULL;; look = true)
	{
		Conn	   *waiting[EC_MAX_SERVERS];
		int			nwaiting = 0;
		bool		linger = nactive == 1 && ec_remaining(deadline) >= EC_LINGER_MS;

		for (int a = 0; a < nactive; a++)
		{
			Conn	   *c = active[a];

			while (!c->failed && c->recv_op >= 0)
			{
				if (ec_conn_step(c, ops, look, linger))
				{
					if (c->recv_op >= 0)
						waiting[nwaiting++] = c;
					break;
				}
				if (!ec_conn_retry(c))
					c->failed = true;
			}
		}
		if (meanwhile)
		{
			in_meanwhile = true;
			meanwhile(arg);
			in_meanwhile = false;
			meanwhile = NULL;
			deadline = ec_deadline(ec_timeout);
			continue;
		}
		if (nwaiting == 0)
			break;
		if ((flags & EC_RENEW_DEADLINE) && waiting[0]->progress > 0)
			waiting[0]->retried = true; /* too late to ask anew */
		if ((flags & EC_RENEW_DEADLINE) && waiting[0]->progress >= RENEW_BYTES)
		{
			deadline = ec_deadline(ec_timeout);
			waiting[0]->progress = 0;
		}
		if (ec_remaining(deadline) == 0)
		{
			for (int w = 0; w < nwaiting; w++)
				ec_conn_fail(waiting[w], true,
							 waiting[w]->state == CONN_HANDSHAKE ?
							 "no TLS handshake within %d ms" : "no answer within %d ms",
							 ec_timeout);
			break;
		}
		wait_for(waiting, nwaiting, deadline);
	}

	for (int a = 0; a < nactive; a++)
	{
		for (int i = active[a]->recv_op; i >= 0; i = ops[i].next)
			ops[i].result = EC_FAILED;
		ok &= ec_conn_end(active[a]);
	}
	return ok;
}

/*
 * The same for requests to set markers, with which the caller withdraws documents: those that
 * are not EC_FAILED afterwards carry a marker, or are gone.  Returns whether all do.
 * Throws out of memory, too.
 */
bool
ec_mark(EcOp *ops, int nops, EcDeadline deadline, void (*meanwhile) (void *arg), void *arg)
{
	bool		ok = ec_exchange_meanwhile(ops, nops, deadline, 0, meanwhile, arg);
	bool		refused = false;
	EcOp	   *deletes;

	for (int i = 0; i < nops; i++)
		refused |= !ops[i].skip && ops[i].result == EC_REFUSED;
	if (!refused)
		return ok;

	/* a server out of memory may refuse even a marker; then the key must go */
	deletes = palloc(nops * sizeof(EcOp));
	memcpy(deletes, ops, nops * sizeof(EcOp));
	for (int i = 0; i < nops; i++)
	{
		deletes[i].skip |= ops[i].result != EC_REFUSED;
		deletes[i].kind = EC_OP_DELETE;
		deletes[i].quiet = false;
		deletes[i].value = NULL;
	}
	ok &= ec_exchange(deletes, nops, ec_deadline(ec_timeout), 0);
	for (int i = 0; i < nops; i++)
		if (!deletes[i].skip && deletes[i].result == EC_FAILED)
			ops[i].result = EC_FAILED;
	pfree(deletes);
	return ok;
}

/*
 * One request that must not be carried out twice, so that it is never asked anew
 * on another connection.  That would be for a kept connection that was closed
 * meanwhile; so where it may have been, or where it still owes answers to ec_send(),
 * whose errors could be taken for ours, a barrier goes first.  EC_PENDING: it did not come
 * through, and nothing was sent; EC_FAILED: it may have been carried out.
 */
void
ec_exchange_once(EcOp *op)
{
	EcDeadline	deadline = ec_deadline(ec_timeout);
	char		request[EC_REQUEST_MAX];
	EcOp		barrier = {.kind = EC_OP_COMMAND, .server = op->server, .key = request};

	barrier.keylen = (int) ec_wire_barrier(request);
	op->result = EC_PENDING;
	op->once = true;
	if (ec_conn_is_idle(&conns[op->server]) || ec_exchange(&barrier, 1, deadline, 0))
		(void) ec_exchange(op, 1, deadline, 0);
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
ec_send(EcOp *ops, int nops, EcDeadline deadline)
{
	for (int i = 0; i < nops; i++)
	{
		Conn	   *c = &conns[ops[i].server];
		int			first = i;

		/* chain up those for this connection */
		if (ops[i].skip || ops[i].result != EC_PENDING)
			continue;
		for (int j = i, last = -1; j < nops; j++)
		{
			if (ops[j].skip || ops[j].server != ops[i].server)
				continue;
			ops[j].result = EC_FAILED;
			ops[j].next = -1;
			if (last >= 0)
				ops[last].next = j;
			last = j;
		}
		if (!ec_conn_is_ready(c))
			continue;
		ec_conn_begin(c, ops[i].server);
		c->send_op = first;
		c->quiet = true;
		while (ec_conn_write(c, ops) && ec_conn_wants_write(c))
		{
			struct pollfd p = {.fd = c->fd,.events = POLLOUT};

			if (ec_remaining(deadline) == 0)
				ec_conn_fail(c, true, "no room to send within %d ms", ec_timeout);
			if (c->failed)
				break;
			(void) poll(&p, 1, ec_remaining(deadline));
		}
		c->quiet = false;
		if (!ec_conn_end(c))
			continue;
		for (int j = first; j >= 0; j = ops[j].next)
			ops[j].result = EC_DONE;
	}
}

/*
 * Send one request of another kind and hand each line of its answer to the
 * callback, up to the line that ends it.  The deadline starts anew with every
 * RENEW_BYTES that arrive.  EC_DONE: answered to the end; EC_REFUSED: the server does
 * not do this (now), ec_cluster_last_failure() has what it said; EC_FAILED: it is
 * DOWN.  Throws what the callback and CHECK_FOR_INTERRUPTS throw.
 */
EcOpResult
ec_command(int server, const char *request, size_t len, EcLineCallback callback, void *arg)
{
	EcOp		op = {.kind = EC_OP_COMMAND, .server = server};

	op.key = request;
	op.keylen = (int) len;
	op.callback = callback;
	op.arg = arg;
	(void) ec_exchange(&op, 1, ec_deadline(ec_timeout), EC_RENEW_DEADLINE);
	return op.result;
}

/*
 * Have the server forget every item that it holds.  EC_DONE: confirmed;
 * EC_REFUSED and EC_FAILED as above.
 */
EcOpResult
ec_flush(int server)
{
	char		request[EC_REQUEST_MAX];
	EcOp		op = {.kind = EC_OP_FLUSH, .server = server, .key = request};

	op.keylen = (int) ec_wire_flush(request);
	(void) ec_exchange(&op, 1, ec_deadline(ec_timeout), 0);
	return op.result;
}
