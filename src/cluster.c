/*-------------------------------------------------------------------------
 *
 * cluster.c
 *	  The memcached servers: placement, connections, exchanges with a deadline.
 *
 * Placement is libmemcached's (weighted ketama), so that every client built on
 * it finds our keys; the exchanges are our own, on non-blocking sockets.
 *
 * A connection belongs to one backend and one topology.  It carries requests
 * whose answers come in the same order; each is checked against its opaque.
 * At the first surprise (a timeout, an error, an answer that does not match, a
 * byte too many) it is closed, and nothing is ever read from it again.  While
 * an exchange is under way the connection is marked busy: an error thrown in
 * between (a cancelled query, say) leaves it so, and the end of the transaction
 * closes it.  So there is no clean-up to forget on any path.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <libmemcached/memcached.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/ipc.h"

#include "cluster.h"
#include "compat.h"
#include "guc.h"

#define EC_OUT_SIZE		(32 * 1024)
#define EC_IN_SIZE		(64 * 1024)

typedef enum ConnState
{
	CONN_CLOSED,
	CONN_CONNECTING,
	CONN_READY
} ConnState;

typedef struct Conn
{
	ConnState	state;
	int			server;
	pgsocket	fd;
	bool		kept;			/* counted against pool_size */
	bool		busy;			/* an exchange is (or was left) under way */
	bool		reused;			/* has served an exchange before this one */
	bool		announced;		/* its first answer is logged */
	int			address;		/* which of the server's addresses */
	WaitEventSet *set;			/* latch, postmaster, this socket */
	uint32		waiting_for;	/* the socket's events in it */
	char	   *buffers;		/* out, then in */
	size_t		out_len,
				out_sent;
	const char *big;			/* a value too large for out, sent from where it lies */
	size_t		big_len,
				big_sent;
	size_t		in_start,
				in_end;
	uint32		opaque_send,	/* of the next request, and of the next answer */
				opaque_recv;
	uint32		opaque_quiet;	/* from here to opaque_recv at its start: ec_send()'s */
	bool		quiet;			/* do not ask for an answer where all is well */

	/* the exchange under way */
	int			last_op,
				send_op,
				recv_op;		/* indexes into the caller's array, -1: none left */
	char	   *value;			/* GET: where the value goes, and how much is missing */
	size_t		value_missing;
	bool		retried;
	bool		progress;		/* something has arrived */
	bool		failed;			/* and why: */
	bool		timed_out;
	char		reason[EC_ERROR_MAX];
} Conn;

#define conn_out(c) ((c)->buffers)
#define conn_in(c)	((c)->buffers + EC_OUT_SIZE)

/* This backend's copy of the topology, and its connections. */
static uint64 my_generation = 0;
static int	my_nservers = 0;
static EcServer *my_server = NULL;
static memcached_st *placement = NULL;
static Conn conns[EC_MAX_SERVERS];

/* An exchange is under way, and its caller's "meanwhile" is running. */
static bool in_meanwhile = false;

/* Why the last exchange failed. */
static char last_failure[EC_ERROR_MAX];
static bool last_failure_timeout;

static void load_topology(uint64 generation);
static void conn_close(Conn *c);
static void conn_close_socket(Conn *c);
static void conn_close_at_exit(int code, Datum arg);
static bool conn_open(Conn *c, int server);
static bool conn_try_address(Conn *c);
static bool conn_connected(Conn *c);
static void conn_fail(Conn *c, bool timed_out, const char *fmt,...) pg_attribute_printf(3, 4);
static void conn_stage(Conn *c, EcOp *ops);
static bool conn_write(Conn *c, EcOp *ops);
static bool conn_read(Conn *c, EcOp *ops);
static bool conn_answer(Conn *c, EcOp *ops, const EcReply *reply);
static bool conn_command_line(Conn *c, EcOp *op, const EcReply *reply);
static bool conn_quiet_answer(Conn *c, const EcReply *reply);
static void conn_answered(Conn *c, const EcOp *op);
static bool conn_step(Conn *c, EcOp *ops);
static void conn_begin(Conn *c, int server);
static void conn_reset(Conn *c);
static bool conn_retry(Conn *c);
static bool conn_end(Conn *c);
static void wait_for(Conn **active, int n, EcDeadline deadline);

static inline bool
conn_wants_write(const Conn *c)
{
	return c->state == CONN_CONNECTING || c->out_sent < c->out_len ||
		c->big_sent < c->big_len;
}

static inline uint32
conn_events(const Conn *c)
{
	return (c->state == CONN_CONNECTING ? 0 : WL_SOCKET_READABLE) |
		(conn_wants_write(c) ? WL_SOCKET_WRITEABLE : 0);
}

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

/*
 * Copy the topology of this generation, which we have entered, and make the
 * placement for it.  Connections of the one before are closed.
 */
static void
load_topology(uint64 generation)
{
	memcached_st *memc = NULL;
	EcServer   *servers;
	int			n;

	if (my_server == NULL)
		before_shmem_exit(conn_close_at_exit, (Datum) 0);
	ec_cluster_disconnect();

	servers = MemoryContextAlloc(TopMemoryContext, sizeof(EcServer) * EC_MAX_SERVERS);
	LWLockAcquire(ec_shared->lock, LW_SHARED);
	n = ec_shared->nservers;
	memcpy(servers, ec_shared->server, n * sizeof(EcServer));
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
	if (my_server)
		pfree(my_server);
	placement = memc;
	my_server = servers;
	my_nservers = n;
	my_generation = generation;
}

bool
ec_cluster_enter(void)
{
	uint64		generation = in_meanwhile ? 0 : ec_topology_enter();

	if (generation == 0)
		return false;
	if (generation != my_generation)
		load_topology(generation);
	return true;
}

int
ec_cluster_size(void)
{
	return my_nservers;
}

uint64
ec_cluster_generation(void)
{
	return my_generation;
}

const char *
ec_cluster_name(int server)
{
	return my_server[server].name;
}

/* The server that the key lives on. */
int
ec_cluster_place(const char *key, int keylen)
{
	return placement ? (int) memcached_generate_hash(placement, key, keylen) : 0;
}

/* ---------------------------------------------------------------- connections */

/* Close a connection, if it is open.  What is noted of the exchange stays. */
static void
conn_close(Conn *c)
{
	EcServer   *s = &ec_shared->server[c->server];

	c->busy = false;
	if (c->state == CONN_CLOSED)
		return;
	conn_close_socket(c);
	free(c->buffers);
	c->buffers = NULL;
	c->state = CONN_CLOSED;

	/* publishing a topology has set the counters to zero */
	LWLockAcquire(ec_shared->lock, LW_SHARED);
	if (pg_atomic_read_u64(&ec_shared->generation) == my_generation)
	{
		pg_atomic_fetch_sub_u32(&s->connections, 1);
		if (c->kept)
			pg_atomic_fetch_sub_u32(&s->kept, 1);
	}
	LWLockRelease(ec_shared->lock);
}

static void
conn_close_socket(Conn *c)
{
	if (c->set)
		FreeWaitEventSet(c->set);
	c->set = NULL;
	if (c->fd == PGINVALID_SOCKET)
		return;
	close(c->fd);
	ReleaseExternalFD();
	c->fd = PGINVALID_SOCKET;
}

static void
conn_close_at_exit(int code, Datum arg)
{
	ec_cluster_disconnect();
}

/* The exchange on this connection has failed, for this reason. */
static void
conn_fail(Conn *c, bool timed_out, const char *fmt,...)
{
	va_list		args;

	va_start(args, fmt);
	vsnprintf(c->reason, sizeof(c->reason), fmt, args);
	va_end(args);
	c->timed_out = timed_out;
	c->failed = true;
}

const char *
ec_cluster_last_failure(bool *timed_out)
{
	if (timed_out)
		*timed_out = last_failure_timeout;
	return last_failure;
}

/*
 * Begin to connect.  false: failed, with the reason kept.  Counts against
 * pool_size; over that the connection lasts for this transaction only.
 */
static bool
conn_open(Conn *c, int server)
{
	EcServer   *shared = &ec_shared->server[server];
	bool		current;

	Assert(c->state == CONN_CLOSED);
	c->server = server;
	c->fd = PGINVALID_SOCKET;
	c->buffers = malloc(EC_OUT_SIZE + EC_IN_SIZE);
	if (c->buffers == NULL)
	{
		conn_fail(c, false, "out of memory");
		return false;
	}
	c->state = CONN_CONNECTING;
	c->address = -1;
	c->opaque_send = c->opaque_recv = c->opaque_quiet = 0;

	LWLockAcquire(ec_shared->lock, LW_SHARED);
	current = pg_atomic_read_u64(&ec_shared->generation) == my_generation;
	if (current)
	{
		pg_atomic_fetch_add_u32(&shared->connections, 1);
		c->kept = pg_atomic_fetch_add_u32(&shared->kept, 1) < (uint32) ec_pool_size;
		if (!c->kept)
			pg_atomic_fetch_sub_u32(&shared->kept, 1);
	}
	/* an address may have been resolved since the topology was published */
	if (current && my_server[server].naddresses == 0)
		my_server[server] = *shared;
	LWLockRelease(ec_shared->lock);

	if (my_server[server].naddresses == 0)
	{
		conn_fail(c, false, "the host name does not resolve");
		return false;
	}
	return conn_try_address(c);
}

/* Try the server's next address, then the one after.  false: none is left. */
static bool
conn_try_address(Conn *c)
{
	EcServer   *s = &my_server[c->server];

	for (;;)
	{
		EcAddress  *a;
		int			on = 1;

		conn_close_socket(c);
		if (++c->address >= s->naddresses)
			return false;		/* the reason is that of the last address */
		a = &s->address[c->address];
		c->failed = false;

		if (!AcquireExternalFD())
		{
			conn_fail(c, false, "too many open files");
			continue;
		}
		c->fd = socket(a->addr.ss_family, SOCK_STREAM, 0);
		if (c->fd == PGINVALID_SOCKET)
		{
			ReleaseExternalFD();
			conn_fail(c, false, "could not create a socket: %s", strerror(errno));
			continue;
		}
		if (!pg_set_noblock(c->fd) || fcntl(c->fd, F_SETFD, FD_CLOEXEC) < 0 ||
			(a->addr.ss_family != AF_UNIX &&
			 setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0))
		{
			conn_fail(c, false, "could not prepare a socket: %s", strerror(errno));
			continue;
		}
		if (connect(c->fd, (struct sockaddr *) &a->addr, a->len) < 0 && errno != EINPROGRESS)
		{
			conn_fail(c, false, "could not connect: %s", strerror(errno));
			continue;
		}

		c->set = ec_create_wait_set(3);
		AddWaitEventToSet(c->set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		AddWaitEventToSet(c->set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
		AddWaitEventToSet(c->set, WL_SOCKET_WRITEABLE, c->fd, NULL, NULL);
		c->waiting_for = WL_SOCKET_WRITEABLE;
		return true;
	}
}

/*
 * The connecting socket became writable: did it succeed?  If not, the next
 * address is tried.  false: failed for good.
 */
static bool
conn_connected(Conn *c)
{
	int			error = 0;
	socklen_t	len = sizeof(error);
	struct pollfd p = {.fd = c->fd, .events = POLLOUT};

	if (poll(&p, 1, 0) == 0)
		return true;			/* not yet */
	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (error != 0)
	{
		conn_fail(c, false, "could not connect: %s", strerror(error));
		return conn_try_address(c);
	}
	c->state = CONN_READY;
	c->announced = false;
	return true;
}

/* Close every connection; returns how many were open. */
int
ec_cluster_disconnect(void)
{
	int			n = 0;

	for (int i = 0; i < my_nservers; i++)
	{
		if (conns[i].state == CONN_CLOSED)
			continue;
		n += conns[i].state == CONN_READY;
		conn_close(&conns[i]);
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
	for (int i = 0; i < my_nservers; i++)
		if (conns[i].state != CONN_CLOSED && (conns[i].busy || !conns[i].kept))
			conn_close(&conns[i]);
}

/* ---------------------------------------------------------------- exchange */

/* Fill the output buffer with as many requests as fit. */
static void
conn_stage(Conn *c, EcOp *ops)
{
	if (c->out_sent == c->out_len)
		c->out_sent = c->out_len = 0;

	while (c->send_op >= 0 && c->big == NULL && EC_OUT_SIZE - c->out_len >= EC_REQUEST_MAX)
	{
		EcOp	   *op = &ops[c->send_op];
		char	   *dst = conn_out(c) + c->out_len;
		uint32		opaque = c->opaque_send++;
		size_t		room;

		switch (op->kind)
		{
			case EC_OP_COMMAND:
				memcpy(dst, op->key, op->keylen);
				c->out_len += op->keylen;
				break;
			case EC_OP_GET:
				c->out_len += ec_wire_get(dst, op->key, op->keylen, op->ttl, opaque);
				break;
			case EC_OP_TOUCH:
				c->out_len += ec_wire_touch(dst, op->key, op->keylen, op->ttl, opaque);
				break;
			case EC_OP_MARK:
			case EC_OP_SET:
			case EC_OP_STORE:
				c->out_len += ec_wire_set(dst, op->key, op->keylen, op->valuelen, 0,
										  op->kind == EC_OP_STORE ? op->token : 0,
										  op->ttl, c->quiet, opaque);
				break;
			case EC_OP_REMOVE:
			case EC_OP_DELETE:
				c->out_len += ec_wire_delete(dst, op->key, op->keylen,
											 op->kind == EC_OP_REMOVE ? op->token : 0,
											 c->quiet, opaque);
				break;
		}
		room = EC_OUT_SIZE - c->out_len;
		if (op->value != NULL)
		{
			if (op->valuelen + 2 <= room)
			{
				memcpy(conn_out(c) + c->out_len, op->value, op->valuelen);
				memcpy(conn_out(c) + c->out_len + op->valuelen, "\r\n", 2);
				c->out_len += op->valuelen + 2;
			}
			else
			{
				c->big = op->value;
				c->big_len = op->valuelen;
				c->big_sent = 0;
			}
		}
		c->send_op = op->next;
	}
}

/* Send what can be sent without blocking.  false: failed. */
static bool
conn_write(Conn *c, EcOp *ops)
{
	for (;;)
	{
		const char *p;
		size_t		len;
		ssize_t		n;

		if (c->out_sent == c->out_len && c->big == NULL)
		{
			conn_stage(c, ops);
			if (c->out_len == 0)
				return true;
		}
		if (c->out_sent < c->out_len)
		{
			p = conn_out(c) + c->out_sent;
			len = c->out_len - c->out_sent;
		}
		else if (c->big_sent < c->big_len)
		{
			p = c->big + c->big_sent;
			len = c->big_len - c->big_sent;
		}
		else
		{
			/* behind a big value: its line end, then the next requests */
			c->big = NULL;
			c->big_len = c->big_sent = 0;
			memcpy(conn_out(c), "\r\n", 2);
			c->out_sent = 0;
			c->out_len = 2;
			conn_stage(c, ops);
			continue;
		}
		n = send(c->fd, p, len, MSG_NOSIGNAL);
		if (n < 0)
		{
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN || errno == EWOULDBLOCK)
				return true;
			conn_fail(c, false, "could not send: %s", strerror(errno));
			return false;
		}
		if (c->out_sent < c->out_len)
			c->out_sent += n;
		else
			c->big_sent += n;
	}
}

/*
 * Take one answer: it must be the one to recv_op.  false: it is not, or it is
 * nothing that may follow such a request.
 */
static bool
conn_answer(Conn *c, EcOp *ops, const EcReply *reply)
{
	EcOp	   *op = &ops[c->recv_op];

	if (op->kind == EC_OP_COMMAND)
		return conn_command_line(c, op, reply);

	if (reply->has_opaque ? reply->opaque != c->opaque_recv
		: (reply->kind == EC_REPLY_HD || reply->kind == EC_REPLY_VA))
	{
		conn_fail(c, false, "an answer that belongs to another request");
		return false;
	}
	if (reply->kind == EC_REPLY_SERVER_ERROR && c->opaque_quiet != c->opaque_recv)
	{
		/* to which of the requests?  find out on a new connection */
		conn_fail(c, false, "an error that may belong to an earlier request");
		return false;
	}
	switch (reply->kind)
	{
		case EC_REPLY_HD:
			if (op->kind == EC_OP_GET ||
				((op->kind == EC_OP_MARK || op->kind == EC_OP_SET) && !reply->has_cas))
				break;
			if (reply->has_cas)
				op->token = reply->cas;
			op->found_len = reply->has_size ? reply->size : 0;
			op->result = EC_DONE;
			goto done;
		case EC_REPLY_VA:
			if (op->kind != EC_OP_GET || !reply->has_cas)
				break;
			op->token = reply->cas;
			op->found_len = reply->value_len;
			/* with room for the line end behind it; no error if there is no memory */
			op->found = palloc_extended(VARHDRSZ + reply->value_len + 2,
										MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
			if (op->found == NULL)
			{
				conn_fail(c, false, "out of memory for a value of %zu bytes", reply->value_len);
				return false;
			}
			SET_VARSIZE(op->found, VARHDRSZ + reply->value_len);
			c->value = VARDATA(op->found);
			c->value_missing = reply->value_len + 2;
			return true;
		case EC_REPLY_EN:
		case EC_REPLY_NF:
			if (reply->kind == EC_REPLY_EN && op->kind != EC_OP_GET && op->kind != EC_OP_TOUCH)
				break;
			if (reply->kind == EC_REPLY_NF && (op->kind == EC_OP_MARK || op->kind == EC_OP_SET))
				break;
			op->result = EC_ABSENT;
			goto done;
		case EC_REPLY_EX:
			if (op->kind != EC_OP_STORE && op->kind != EC_OP_REMOVE)
				break;
			op->result = EC_MISMATCH;
			goto done;
		case EC_REPLY_NS:
		case EC_REPLY_SERVER_ERROR:
			if (op->value == NULL)
				break;
			op->result = EC_REFUSED;
			goto done;
		default:
			break;
	}
	if (reply->kind == EC_REPLY_CLIENT_ERROR || reply->kind == EC_REPLY_SERVER_ERROR)
		conn_fail(c, false, "the server said \"%.*s\"",
				  (int) Min(reply->text_len, 100), reply->text);
	else
		conn_fail(c, false, "an answer that is not understood");
	return false;

done:
	conn_answered(c, op);
	return true;
}

/* recv_op has its whole answer: on to the next.  Older quiet requests are history. */
static void
conn_answered(Conn *c, const EcOp *op)
{
	c->opaque_quiet = ++c->opaque_recv;
	c->recv_op = op->next;
	if (!c->announced)
	{
		/* not before: what accepts connections need not be alive */
		c->announced = true;
		if (c->kept)
			ereport(LOG,
					(errmsg("echocache: connected to server \"%s\"",
							my_server[c->server].name),
					 errhidestmt(true), errhidecontext(true)));
	}
}

/* The same for a line of the answer to a command. */
static bool
conn_command_line(Conn *c, EcOp *op, const EcReply *reply)
{
	switch (reply->kind)
	{
		case EC_REPLY_STAT:
		case EC_REPLY_DUMP:
			if (op->callback && !op->callback(reply, op->arg))
				op->callback = NULL;
			return true;
		case EC_REPLY_END:
		case EC_REPLY_MN:
		case EC_REPLY_OK:
		case EC_REPLY_VERSION:
			op->result = EC_DONE;
			break;
		case EC_REPLY_ERROR:
		case EC_REPLY_BUSY:
		case EC_REPLY_CLIENT_ERROR:
		case EC_REPLY_SERVER_ERROR:
			snprintf(last_failure, sizeof(last_failure), "the server refuses \"%.*s\": %.*s",
					 op->keylen - 2, op->key, (int) Min(reply->text_len, 100),
					 reply->text ? reply->text : "");
			op->result = EC_REFUSED;
			break;
		default:
			conn_fail(c, false, "an answer that is not understood");
			return false;
	}
	conn_answered(c, op);
	return true;
}

/*
 * Is this the answer to one of ec_send()'s quiet requests?  They are answered
 * only when the token did not match, which is of no interest any more.
 */
static bool
conn_quiet_answer(Conn *c, const EcReply *reply)
{
	uint32		behind = c->opaque_recv - c->opaque_quiet;

	if (behind == 0 || !reply->has_opaque || reply->opaque - c->opaque_quiet >= behind ||
		(reply->kind != EC_REPLY_EX && reply->kind != EC_REPLY_NF && reply->kind != EC_REPLY_NS))
		return false;
	c->opaque_quiet = reply->opaque + 1;
	return true;
}

/* Read what has arrived.  false: failed. */
static bool
conn_read(Conn *c, EcOp *ops)
{
	while (c->recv_op >= 0)
	{
		char	   *dst;
		size_t		room;
		ssize_t		n;

		if (c->value_missing > 0 && c->in_end > c->in_start)
		{
			size_t		take = Min(c->value_missing, c->in_end - c->in_start);

			memcpy(c->value, conn_in(c) + c->in_start, take);
			c->in_start += take;
			c->value += take;
			c->value_missing -= take;
			if (c->value_missing > 0)
				continue;
		}
		else if (c->value_missing == 0 && c->in_end > c->in_start && c->value == NULL)
		{
			EcReply		reply;

			ec_wire_parse(conn_in(c) + c->in_start, c->in_end - c->in_start, &reply);
			if (reply.kind == EC_REPLY_MALFORMED)
			{
				conn_fail(c, false, "an answer that is not memcached's");
				return false;
			}
			if (reply.kind != EC_REPLY_INCOMPLETE)
			{
				c->in_start += reply.line_len;
				if (!conn_quiet_answer(c, &reply) && !conn_answer(c, ops, &reply))
					return false;
				continue;
			}
		}

		if (c->value != NULL && c->value_missing == 0)
		{
			if (c->value[-2] != '\r' || c->value[-1] != '\n')
			{
				conn_fail(c, false, "a value without an end");
				return false;
			}
			c->value = NULL;
			ops[c->recv_op].result = EC_DONE;
			conn_answered(c, &ops[c->recv_op]);
			continue;
		}

		if (c->value_missing > 0)
		{
			/* the rest of a value goes straight to its place */
			dst = c->value;
			room = c->value_missing;
		}
		else
		{
			if (c->in_start > 0)
			{
				memmove(conn_in(c), conn_in(c) + c->in_start, c->in_end - c->in_start);
				c->in_end -= c->in_start;
				c->in_start = 0;
			}
			dst = conn_in(c) + c->in_end;
			room = EC_IN_SIZE - c->in_end;
		}
		n = recv(c->fd, dst, room, 0);
		if (n < 0)
		{
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN || errno == EWOULDBLOCK)
				return true;
			conn_fail(c, false, "could not receive: %s", strerror(errno));
			return false;
		}
		if (n == 0)
		{
			conn_fail(c, false, "the server closed the connection");
			return false;
		}
		c->progress = true;
		if (c->value_missing > 0)
		{
			c->value += n;
			c->value_missing -= n;
		}
		else
			c->in_end += n;
	}
	if (c->in_end > c->in_start)
	{
		conn_fail(c, false, "more answers than requests");
		return false;
	}
	return true;
}

/* Do whatever can be done without waiting.  false: the connection has failed. */
static bool
conn_step(Conn *c, EcOp *ops)
{
	if (c->state == CONN_CONNECTING && !conn_connected(c))
		return false;
	if (c->state == CONN_CONNECTING)
		return true;
	return conn_write(c, ops) && conn_read(c, ops);
}

/* Ready for an exchange on this connection, which is opened if need be. */
static void
conn_begin(Conn *c, int server)
{
	if (c->state != CONN_CLOSED && (c->busy || c->state != CONN_READY))
		conn_close(c);
	c->server = server;
	c->reused = c->state == CONN_READY;
	c->retried = c->progress = c->failed = c->timed_out = false;
	conn_reset(c);
	if (c->state == CONN_CLOSED)
		(void) conn_open(c, server);
	c->busy = true;
}

/* Nothing sent, nothing received. */
static void
conn_reset(Conn *c)
{
	c->value = NULL;
	c->value_missing = 0;
	c->out_len = c->out_sent = c->in_start = c->in_end = 0;
	c->big = NULL;
	c->big_len = c->big_sent = 0;
	c->opaque_recv = c->opaque_send;
}

/*
 * A kept connection may have been closed since its last use: what is not
 * answered yet is asked once more on a new one.  Nothing we send does harm when
 * it is done twice.  false: no, it has failed.
 */
static bool
conn_retry(Conn *c)
{
	conn_close(c);
	if (!c->reused || c->retried)
		return false;
	c->retried = true;
	c->failed = false;
	conn_reset(c);
	c->busy = true;
	c->send_op = c->recv_op;
	return conn_open(c, c->server);
}

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
		uint32		events = conn_events(active[0]);

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
			AddWaitEventToSet(set, conn_events(active[i]), active[i]->fd, NULL, NULL);
	}
	if (WaitEventSetWait(set, ec_remaining(deadline), &event, 1, PG_WAIT_EXTENSION) == 1 &&
		(event.events & WL_LATCH_SET))
		ResetLatch(MyLatch);
	if (n > 1)
		FreeWaitEventSet(set);
	CHECK_FOR_INTERRUPTS();
}

/* The exchange is over: report a failure, after which the server is DOWN. */
static bool
conn_end(Conn *c)
{
	if (!c->failed)
	{
		c->busy = false;
		return true;
	}
	conn_close(c);
	strlcpy(last_failure, c->reason, sizeof(last_failure));
	last_failure_timeout = c->timed_out;
	ec_server_down(my_generation, c->server, c->reason);
	return false;
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
			conn_begin(c, op->server);
			c->last_op = c->send_op = c->recv_op = i;
			active[nactive++] = c;
		}
	}

	for (;;)
	{
		Conn	   *waiting[EC_MAX_SERVERS];
		int			nwaiting = 0;

		for (int a = 0; a < nactive; a++)
		{
			Conn	   *c = active[a];

			while (!c->failed && c->recv_op >= 0)
			{
				if (conn_step(c, ops))
				{
					if (c->recv_op >= 0)
						waiting[nwaiting++] = c;
					break;
				}
				if (!conn_retry(c))
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
		if ((flags & EC_RENEW_DEADLINE) && waiting[0]->progress)
		{
			deadline = ec_deadline(ec_timeout);
			waiting[0]->progress = false;
			waiting[0]->retried = true; /* too late to ask anew */
		}
		if (ec_remaining(deadline) == 0)
		{
			for (int w = 0; w < nwaiting; w++)
				conn_fail(waiting[w], true, "no answer within %d ms", ec_timeout);
			break;
		}
		wait_for(waiting, nwaiting, deadline);
	}

	for (int a = 0; a < nactive; a++)
	{
		for (int i = active[a]->recv_op; i >= 0; i = ops[i].next)
			ops[i].result = EC_FAILED;
		ok &= conn_end(active[a]);
	}
	return ok;
}

/*
 * Send requests over connections that are open, quietly, and do not wait: what
 * is answered all the same, the next exchange finds in front of its own.  Only for what may as well be
 * lost or come late: stores and removals that carry a token.  Ops that were sent
 * are EC_DONE, the others EC_FAILED.
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
		if (ops[i].result != EC_PENDING)
			continue;
		for (int j = i, last = -1; j < nops; j++)
		{
			if (ops[j].server != ops[i].server)
				continue;
			ops[j].result = EC_FAILED;
			ops[j].next = -1;
			if (last >= 0)
				ops[last].next = j;
			last = j;
		}
		if (c->state != CONN_READY || c->busy)
			continue;
		conn_begin(c, ops[i].server);
		c->send_op = first;
		c->quiet = true;
		while (conn_write(c, ops) && conn_wants_write(c))
		{
			struct pollfd p = {.fd = c->fd,.events = POLLOUT};

			if (ec_remaining(deadline) == 0)
				conn_fail(c, true, "no room to send within %d ms", ec_timeout);
			if (c->failed)
				break;
			(void) poll(&p, 1, ec_remaining(deadline));
		}
		c->quiet = false;
		if (!conn_end(c))
			continue;
		for (int j = first; j >= 0; j = ops[j].next)
			ops[j].result = EC_DONE;
	}
}

/*
 * Send one request of another kind and hand each line of its answer to the
 * callback, up to the line that ends it.  The deadline starts anew with every
 * piece that arrives.  EC_DONE: answered to the end; EC_REFUSED: the server does
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
