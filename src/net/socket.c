/*-------------------------------------------------------------------------
 *
 * socket.c
 *	  One connection to a memcached server: open, send, receive, close.
 *
 * A connection is opened by the exchange that needs it and within that exchange's deadline:
 * CONNECTING, HANDSHAKE (with TLS), AUTHENTICATING (with a user name).  Each step is taken
 * as far as it goes without waiting.  No request is sent before all have been taken.
 *
 * Invariant: what is sent and received, plain or by TLS, passes ec_socket_send() and
 * ec_socket_recv().  Both are tried before anybody waits for the socket, so nothing that TLS
 * has read already is waited for.  Once something has gone wrong nothing is sent or received
 * any more.
 *
 * Nothing here serves an interrupt.  ec_socket_send() and ec_socket_close() may be called in
 * the COMMIT callback: they do not throw, and allocate nothing.
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
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"

#include "compat.h"
#include "guc.h"
#include "net/answer.h"
#include "net/auth.h"
#include "net/socket.h"
#include "protocol/wire.h"
#include "servers/placement.h"

/* When a connection that is idle is probed, and again while there is no answer. */
#define KEEPALIVE_IDLE_S		60
#define KEEPALIVE_INTERVAL_S	10

static void close_socket(EcConnection *c);
static void count_open(EcConnection *c);
static void lack(EcConnection *c, const char *fmt,...) pg_attribute_printf(2, 3);
static bool prepare_socket(pgsocket fd, int family);
static bool begin_connect(EcConnection *c);
static bool go_on_connecting(EcConnection *c);
static bool go_on_handshake(EcConnection *c);
static bool begin_login(EcConnection *c);
static bool go_on_authenticating(EcConnection *c);
static bool now_open(EcConnection *c);
static const char *closed(const EcConnection *c);
static ssize_t tls_moved(EcConnection *c, EcTlsResult result, size_t done, const char *verb);

/*
 * Close a connection, if it is open.  What is noted of its exchange and its failure stays.
 * Never throws.
 */
void
ec_socket_close(EcConnection *c)
{
	EcServer   *s = &ec_shmem->server[c->server];

	if (c->state == EC_CONNECTION_CLOSED)
		return;
	close_socket(c);
	if (c->buffers)
		explicit_bzero(ec_socket_out(c), EC_REQUEST_MAX);	/* a password, perhaps */
	free(c->buffers);
	c->buffers = NULL;
	c->state = EC_CONNECTION_CLOSED;

	/* publishing a topology has set the counters to zero */
	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	if (ec_shmem_is_current(ec_placement.generation))
	{
		pg_atomic_fetch_sub_u32(&s->connections, 1);
		if (c->kept)
			pg_atomic_fetch_sub_u32(&s->kept, 1);
	}
	LWLockRelease(ec_shmem->lock);
}

/* Close the socket and what goes with it; the buffers stay. */
static void
close_socket(EcConnection *c)
{
	if (c->set)
		FreeWaitEventSet(c->set);
	c->set = NULL;
	if (c->tls)
		ec_tls_close(c->tls, c->state == EC_CONNECTION_IDLE || c->state == EC_CONNECTION_BUSY);
	c->tls = NULL;
	if (c->fd == PGINVALID_SOCKET)
		return;
	close(c->fd);
	ReleaseExternalFD();
	c->fd = PGINVALID_SOCKET;
}

/* The connection has failed, for this reason.  Never throws or allocates. */
void
ec_socket_fail(EcConnection *c, const char *fmt,...)
{
	va_list		args;

	Assert(c->state != EC_CONNECTION_CLOSED);
	va_start(args, fmt);
	vsnprintf(c->failure.reason, sizeof(c->failure.reason), fmt, args);
	va_end(args);
	c->failure.sqlstate = ERRCODE_CONNECTION_FAILURE;
	c->failure.timed_out = c->failure.ours = c->failure.no_room = false;
	c->state = EC_CONNECTION_FAILED;
}

/* The connection has failed, but not by the server: this process is short of something. */
static void
lack(EcConnection *c, const char *fmt,...)
{
	va_list		args;

	va_start(args, fmt);
	vsnprintf(c->failure.reason, sizeof(c->failure.reason), fmt, args);
	va_end(args);
	c->failure.sqlstate = ERRCODE_INSUFFICIENT_RESOURCES;
	c->failure.timed_out = c->failure.no_room = false;
	c->failure.ours = true;
	c->state = EC_CONNECTION_FAILED;
}

/*
 * Count the connection in shared memory: against pool_size, or, where that is used up, as
 * one that lasts for this transaction only.  The generation that the backend has entered may
 * not be in force any more; then its connections are counted nowhere.
 */
static void
count_open(EcConnection *c)
{
	EcServer   *shared = &ec_shmem->server[c->server];

	c->kept = false;
	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	if (ec_shmem_is_current(ec_placement.generation))
	{
		pg_atomic_fetch_add_u32(&shared->connections, 1);
		c->kept = pg_atomic_fetch_add_u32(&shared->kept, 1) < (uint32) ec_guc_pool_size;
		if (!c->kept)
			pg_atomic_fetch_sub_u32(&shared->kept, 1);
		/* an address may have been resolved since the topology was published */
		if (ec_placement.server[c->server].naddresses == 0)
			ec_placement.server[c->server] = *shared;
	}
	LWLockRelease(ec_shmem->lock);
}

/*
 * Begin to connect.  false: the connection has failed.  Throws only where the kernel does not
 * give a descriptor, or memory, for the set of events to wait for.
 */
bool
ec_socket_open(EcConnection *c, int server)
{
	static uint64 opened = 0;

	Assert(c->state == EC_CONNECTION_CLOSED);
	c->serial = ++opened;
	c->server = server;
	c->fd = PGINVALID_SOCKET;
	c->state = EC_CONNECTION_CONNECTING;
	c->settings = ec_guc_transport_serial;
	c->answered = false;
	c->version = 0;
	c->used_at = 0;
	c->opaque_send = c->opaque_recv = c->opaque_silent = 0;
	count_open(c);
	c->buffers = malloc(EC_OUT_SIZE + EC_IN_SIZE);
	if (c->buffers == NULL)
	{
		lack(c, "out of memory");
		return false;
	}
	if (ec_placement.server[server].naddresses == 0)
	{
		ec_socket_fail(c, "the host name does not resolve");
		return false;
	}
	return begin_connect(c);
}

/*
 * Set the socket's options.  Probes keep a network from forgetting a connection that is idle,
 * as a NAT does after some minutes, and find one that it has forgotten.  false: errno says why.
 */
static bool
prepare_socket(pgsocket fd, int family)
{
	int			on = 1;
	int			idle_s = KEEPALIVE_IDLE_S;
	int			interval_s = KEEPALIVE_INTERVAL_S;

	if (!pg_set_noblock(fd) || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return false;
	return family == AF_UNIX ||
		(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0 &&
		 setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) == 0 &&
		 setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s)) == 0 &&
		 setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s)) == 0);
}

/* Begin to connect to the address that everybody uses.  false: that has failed at once. */
static bool
begin_connect(EcConnection *c)
{
	const EcServer *s = &ec_placement.server[c->server];
	const EcAddress *a = &s->address[s->chosen];

	if (!AcquireExternalFD())
	{
		lack(c, "too many open files");
		return false;
	}
	c->fd = socket(a->addr.ss_family, SOCK_STREAM, 0);
	if (c->fd == PGINVALID_SOCKET)
	{
		int			error = errno;

		ReleaseExternalFD();
		if (error == EAFNOSUPPORT)
			ec_socket_fail(c, "could not create a socket: %s", strerror(error));
		else
			lack(c, "could not create a socket: %s", strerror(error));
		return false;
	}
	if (!prepare_socket(c->fd, a->addr.ss_family))
	{
		ec_socket_fail(c, "could not prepare a socket: %s", strerror(errno));
		return false;
	}
	if (connect(c->fd, (const struct sockaddr *) &a->addr, a->len) < 0 && errno != EINPROGRESS)
	{
		if (errno == EADDRNOTAVAIL || errno == ENOMEM || errno == ENOBUFS)
			lack(c, "could not connect: %s", strerror(errno));
		else
			ec_socket_fail(c, "could not connect: %s", strerror(errno));
		return false;
	}
	/* the set of events needs a descriptor, and is not made without */
	if (!AcquireExternalFD())
	{
		lack(c, "too many open files");
		return false;
	}
	ReleaseExternalFD();
	c->set = ec_compat_create_wait_set(3);
	AddWaitEventToSet(c->set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(c->set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(c->set, WL_SOCKET_WRITEABLE, c->fd, NULL, NULL);
	c->waiting_for = WL_SOCKET_WRITEABLE;
	return true;
}

/* The connecting socket became writable: has it succeeded?  false: the connection has failed. */
static bool
go_on_connecting(EcConnection *c)
{
	int			error = 0;
	socklen_t	len = sizeof(error);
	struct pollfd p = {.fd = c->fd,.events = POLLOUT};
	EcServer   *s = &ec_placement.server[c->server];
	char		failure[EC_ERROR_MAX];

	if (poll(&p, 1, 0) == 0)
		return true;			/* not yet */
	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (error != 0)
	{
		ec_socket_fail(c, "could not connect: %s", strerror(error));
		return false;
	}
	/* a unix socket's other end is on this machine: there TLS would protect from nobody */
	if (!ec_guc_tls || s->port == 0)
		return begin_login(c);
	c->tls = ec_tls_open(c->fd, s->found_by[0] ? s->found_by : s->host, failure);
	if (c->tls == NULL)
	{
		ec_socket_fail(c, "%s", failure);
		return false;
	}
	c->state = EC_CONNECTION_HANDSHAKE;
	return true;
}

/* Go on with the handshake of TLS.  false: the connection has failed. */
static bool
go_on_handshake(EcConnection *c)
{
	switch (ec_tls_handshake(c->tls))
	{
		case EC_TLS_DONE:
			return begin_login(c);
		case EC_TLS_WAITS:
			return true;
		case EC_TLS_CLOSED:
			ec_socket_fail(c, "the server closed the connection in the TLS handshake");
			return false;
		case EC_TLS_FAILED:
			ec_socket_fail(c, "TLS handshake: %s", c->tls->failure);
			return false;
	}
	return false;
}

/*
 * The server has been reached.  Unless it is to be told who we are, the connection is open.
 * false: the connection has failed.
 */
static bool
begin_login(EcConnection *c)
{
	char		failure[EC_ERROR_MAX];

	if (!ec_auth_wanted())
		return now_open(c);
	c->state = EC_CONNECTION_AUTHENTICATING;
	c->out_len = ec_auth_request(ec_socket_out(c), failure);
	if (c->out_len == 0)
		ec_socket_fail(c, "%s", failure);
	return c->out_len > 0;
}

/*
 * Say who we are, and be welcome or not.  What the server says is not repeated: it has just
 * been told a password.  false: the connection has failed.
 */
static bool
go_on_authenticating(EcConnection *c)
{
	EcReply		reply;
	ssize_t		n;

	while (c->out_sent < c->out_len)
	{
		n = ec_socket_send(c, ec_socket_out(c) + c->out_sent, c->out_len - c->out_sent);
		if (n <= 0)
			return n == 0;
		c->out_sent += n;
		if (c->out_sent == c->out_len)
			explicit_bzero(ec_socket_out(c), c->out_len);
	}
	for (;;)
	{
		ec_reply_parse(ec_socket_in(c), c->in_end, &reply);
		if (reply.kind != EC_REPLY_INCOMPLETE)
			break;
		n = ec_socket_recv(c, ec_socket_in(c) + c->in_end, EC_IN_SIZE - c->in_end, false);
		if (n <= 0)
			return n == 0;
		c->in_end += n;
	}
	if (ec_answer_is_no_room(&reply, &c->failure))
	{
		c->state = EC_CONNECTION_FAILED;
		return false;
	}
	if (reply.kind != EC_REPLY_STORED || c->in_end != reply.line_len)
	{
		ec_socket_fail(c, reply.kind == EC_REPLY_CLIENT_ERROR ?
					   "the server refused the user name or password (echocache.username)" :
					   "an answer to the authentication that is not understood");
		return false;
	}
	c->out_len = c->out_sent = c->in_end = 0;
	return now_open(c);
}

/*
 * From here on a plain recv() waits that does not say otherwise.  false: the connection has
 * failed.
 */
static bool
now_open(EcConnection *c)
{
	struct timeval linger = {.tv_usec = EC_LINGER_MS * 1000};

	if (c->tls == NULL &&
		(!pg_set_block(c->fd) ||
		 setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &linger, sizeof(linger)) < 0))
	{
		ec_socket_fail(c, "could not prepare a socket: %s", strerror(errno));
		return false;
	}
	c->state = EC_CONNECTION_BUSY;
	return true;
}

/*
 * Take a connection as far towards BUSY as it goes without waiting.  false: it has failed.
 * Throws what ec_socket_open() throws.
 */
bool
ec_socket_establish(EcConnection *c)
{
	EcConnectionState before;

	do
	{
		before = c->state;
		if (before == EC_CONNECTION_CONNECTING && !go_on_connecting(c))
			return false;
		if (before == EC_CONNECTION_HANDSHAKE && !go_on_handshake(c))
			return false;
		if (before == EC_CONNECTION_AUTHENTICATING && !go_on_authenticating(c))
			return false;
	} while (c->state != before);
	return true;
}

/* What it may mean that the server closed the connection. */
static const char *
closed(const EcConnection *c)
{
	return c->state == EC_CONNECTION_BUSY && !c->answered && c->version == 0
		? "the server closed the connection and answered nothing: is it a proxy that does not "
		"know memcached's meta commands, or does it speak TLS?"
		: "the server closed the connection";
}

/* How many bytes TLS has moved: what ec_socket_send() and ec_socket_recv() return. */
static ssize_t
tls_moved(EcConnection *c, EcTlsResult result, size_t done, const char *verb)
{
	switch (result)
	{
		case EC_TLS_DONE:
			return (ssize_t) done;
		case EC_TLS_WAITS:
			return 0;
		case EC_TLS_CLOSED:
			ec_socket_fail(c, "%s", closed(c));
			return -1;
		case EC_TLS_FAILED:
			ec_socket_fail(c, "could not %s: %s", verb, c->tls->failure);
			return -1;
	}
	return -1;
}

/*
 * Send some of len bytes.  Returns how many, 0 if none can be sent now, -1 if the connection
 * has failed.  Never waits, throws or allocates.
 */
ssize_t
ec_socket_send(EcConnection *c, const char *data, size_t len)
{
	if (c->tls)
	{
		size_t		done = 0;
		EcTlsResult result = ec_tls_send(c->tls, data, len, &done);

		return tls_moved(c, result, done, "send");
	}
	for (;;)
	{
		ssize_t		n = send(c->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n >= 0)
			return n;
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			return 0;
		if (errno != EINTR)
		{
			ec_socket_fail(c, "could not send: %s", strerror(errno));
			return -1;
		}
	}
}

/*
 * Receive up to room bytes.  Returns how many, 0 if there are none yet, -1 if the connection
 * has failed.  wait: where it is plain, wait for EC_LINGER_MS; a signal ends that.
 */
ssize_t
ec_socket_recv(EcConnection *c, char *data, size_t room, bool wait)
{
	if (c->tls)
	{
		size_t		done = 0;
		EcTlsResult result = ec_tls_recv(c->tls, data, room, &done);

		return tls_moved(c, result, done, "receive");
	}
	for (;;)
	{
		ssize_t		n = recv(c->fd, data, room, wait ? 0 : MSG_DONTWAIT);

		if (n > 0)
			return n;
		if (n == 0)
		{
			ec_socket_fail(c, "%s", closed(c));
			return -1;
		}
		/* interrupted while it waited: there is something to serve first */
		if (errno == EAGAIN || errno == EWOULDBLOCK || (errno == EINTR && wait))
			return 0;
		if (errno != EINTR)
		{
			ec_socket_fail(c, "could not receive: %s", strerror(errno));
			return -1;
		}
	}
}
