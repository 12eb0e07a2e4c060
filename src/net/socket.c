/*-------------------------------------------------------------------------
 *
 * socket.c
 *	  One connection to a memcached server: open, send, receive, close.
 *
 * CONNECTING, HANDSHAKE (with TLS), AUTHENTICATING (with a user name), READY: each step is
 * taken as far as it goes without waiting, within the deadline of the exchange that
 * needs the connection, and no request is sent before READY.  What is sent and
 * received, plain or by TLS, passes ec_socket_send() and ec_socket_recv().  Both are tried
 * before anybody waits for the socket, so nothing that TLS has read already
 * is waited for.
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
#include "storage/latch.h"

#include "compat.h"
#include "guc.h"
#include "net/auth.h"
#include "net/socket.h"
#include "net/tls.h"
#include "protocol/reply.h"
#include "protocol/wire.h"
#include "servers/placement.h"
#include "shmem.h"

static void conn_close_socket(EcConnection *c);
static bool conn_try_address(EcConnection *c);
static bool conn_connected(EcConnection *c);
static bool conn_handshake(EcConnection *c);
static bool conn_login(EcConnection *c);
static bool conn_authenticate(EcConnection *c);
static bool conn_ready(EcConnection *c);

/* Close a connection, if it is open.  What is noted of the exchange stays. */
void
ec_socket_close(EcConnection *c)
{
	EcServer   *s = &ec_shmem->server[c->server];

	c->busy = false;
	if (c->state == EC_CONNECTION_CLOSED)
		return;
	conn_close_socket(c);
	if (c->state == EC_CONNECTION_AUTHENTICATING)
		explicit_bzero(ec_socket_out(c), EC_REQUEST_MAX);
	free(c->buffers);
	c->buffers = NULL;
	c->state = EC_CONNECTION_CLOSED;

	/* publishing a topology has set the counters to zero */
	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	if (pg_atomic_read_u64(&ec_shmem->generation) == ec_placement.generation)
	{
		pg_atomic_fetch_sub_u32(&s->connections, 1);
		if (c->kept)
			pg_atomic_fetch_sub_u32(&s->kept, 1);
	}
	LWLockRelease(ec_shmem->lock);
}

static void
conn_close_socket(EcConnection *c)
{
	if (c->set)
		FreeWaitEventSet(c->set);
	c->set = NULL;
	if (c->tls)
		ec_tls_close(c->tls, c->state == EC_CONNECTION_READY && !c->failed);
	c->tls = NULL;
	c->recv_wants_write = false;
	if (c->fd == PGINVALID_SOCKET)
		return;
	close(c->fd);
	ReleaseExternalFD();
	c->fd = PGINVALID_SOCKET;
}

/* The exchange on this connection has failed, for this reason. */
void
ec_socket_fail(EcConnection *c, bool timed_out, const char *fmt,...)
{
	va_list		args;

	va_start(args, fmt);
	vsnprintf(c->failure.reason, sizeof(c->failure.reason), fmt, args);
	va_end(args);
	c->failure.sqlstate = ERRCODE_CONNECTION_FAILURE;
	c->failure.timed_out = timed_out;
	c->failed = true;
}

/*
 * Begin to connect.  false: failed, with the reason kept.  Counts against
 * pool_size; over that the connection lasts for this transaction only.
 */
bool
ec_socket_open(EcConnection *c, int server)
{
	EcServer   *shared = &ec_shmem->server[server];
	bool		current;

	Assert(c->state == EC_CONNECTION_CLOSED);
	c->server = server;
	c->fd = PGINVALID_SOCKET;
	c->buffers = malloc(EC_OUT_SIZE + EC_IN_SIZE);
	if (c->buffers == NULL)
	{
		ec_socket_fail(c, false, "out of memory");
		return false;
	}
	c->state = EC_CONNECTION_CONNECTING;
	c->settings = ec_guc_transport_serial;
	c->address = -1;
	c->opaque_send = c->opaque_recv = c->opaque_quiet = 0;

	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	current = pg_atomic_read_u64(&ec_shmem->generation) == ec_placement.generation;
	if (current)
	{
		pg_atomic_fetch_add_u32(&shared->connections, 1);
		c->kept = pg_atomic_fetch_add_u32(&shared->kept, 1) < (uint32) ec_guc_pool_size;
		if (!c->kept)
			pg_atomic_fetch_sub_u32(&shared->kept, 1);
	}
	/* an address may have been resolved since the topology was published */
	if (current && ec_placement.server[server].naddresses == 0)
		ec_placement.server[server] = *shared;
	LWLockRelease(ec_shmem->lock);

	if (ec_placement.server[server].naddresses == 0)
	{
		ec_socket_fail(c, false, "the host name does not resolve");
		return false;
	}
	return conn_try_address(c);
}

/* Try the server's next address, then the one after.  false: none is left. */
static bool
conn_try_address(EcConnection *c)
{
	EcServer   *s = &ec_placement.server[c->server];

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
			ec_socket_fail(c, false, "too many open files");
			continue;
		}
		c->fd = socket(a->addr.ss_family, SOCK_STREAM, 0);
		if (c->fd == PGINVALID_SOCKET)
		{
			ReleaseExternalFD();
			ec_socket_fail(c, false, "could not create a socket: %s", strerror(errno));
			continue;
		}
		if (!pg_set_noblock(c->fd) || fcntl(c->fd, F_SETFD, FD_CLOEXEC) < 0 ||
			(a->addr.ss_family != AF_UNIX &&
			 setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0))
		{
			ec_socket_fail(c, false, "could not prepare a socket: %s", strerror(errno));
			continue;
		}
		if (connect(c->fd, (struct sockaddr *) &a->addr, a->len) < 0 && errno != EINPROGRESS)
		{
			ec_socket_fail(c, false, "could not connect: %s", strerror(errno));
			continue;
		}

		c->set = ec_compat_create_wait_set(3);
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
conn_connected(EcConnection *c)
{
	int			error = 0;
	socklen_t	len = sizeof(error);
	struct pollfd p = {.fd = c->fd, .events = POLLOUT};
	EcServer   *s = &ec_placement.server[c->server];

	if (poll(&p, 1, 0) == 0)
		return true;			/* not yet */
	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (error != 0)
	{
		ec_socket_fail(c, false, "could not connect: %s", strerror(error));
		return conn_try_address(c);
	}
	c->announced = false;
	/* a unix socket's other end is on this machine: there TLS would protect from nobody */
	if (!ec_guc_tls || s->port == 0)
		return conn_login(c);
	c->tls = ec_tls_open(c->fd, s->host);
	if (c->tls == NULL)
	{
		ec_socket_fail(c, false, "%s", ec_tls_failure);
		return false;
	}
	c->state = EC_CONNECTION_HANDSHAKE;
	return true;
}

/* Go on with the handshake of TLS.  false: failed. */
static bool
conn_handshake(EcConnection *c)
{
	switch (ec_tls_handshake(c->tls))
	{
		case EC_TLS_DONE:
			return conn_login(c);
		case EC_TLS_WANTS_READ:
			c->handshake_events = WL_SOCKET_READABLE;
			return true;
		case EC_TLS_WANTS_WRITE:
			c->handshake_events = WL_SOCKET_WRITEABLE;
			return true;
		case EC_TLS_CLOSED:
			ec_socket_fail(c, false, "the server closed the connection in the TLS handshake");
			return false;
		case EC_TLS_FAILED:
			ec_socket_fail(c, false, "TLS handshake: %s", ec_tls_failure);
			return false;
	}
	return false;
}

/* The connection is there: ready, unless we are to say who we are.  false: failed. */
static bool
conn_login(EcConnection *c)
{
	const char *why;

	if (!ec_auth_wanted())
		return conn_ready(c);
	c->state = EC_CONNECTION_AUTHENTICATING;
	c->out_len = ec_auth_request(ec_socket_out(c), &why);
	if (c->out_len == 0)
		ec_socket_fail(c, false, "%s", why);
	return c->out_len > 0;
}

/*
 * Say who we are, and be welcome or not.  What the server says is not repeated: it
 * has just been told a password.  false: failed.
 */
static bool
conn_authenticate(EcConnection *c)
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
		n = ec_socket_recv(c, ec_socket_in(c) + c->in_end, EC_IN_SIZE - c->in_end);
		if (n <= 0)
			return n == 0;
		c->in_end += n;
	}
	if (reply.kind != EC_REPLY_STORED || c->in_end != reply.line_len)
	{
		ec_socket_fail(c, false, reply.kind == EC_REPLY_CLIENT_ERROR ?
					 "the server refused the user name or password (echocache.username)" :
					 "an answer to the authentication that is not understood");
		return false;
	}
	c->out_len = c->out_sent = c->in_end = 0;
	return conn_ready(c);
}

/* From here on, where it is plain, a recv() that does not say otherwise waits.  false: failed. */
static bool
conn_ready(EcConnection *c)
{
	struct timeval linger = {.tv_usec = EC_LINGER_MS * 1000};

	if (c->tls == NULL &&
		(!pg_set_block(c->fd) ||
		 setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &linger, sizeof(linger)) < 0))
	{
		ec_socket_fail(c, false, "could not prepare a socket: %s", strerror(errno));
		return false;
	}
	c->state = EC_CONNECTION_READY;
	return true;
}

/* Take a connection as far towards READY as it goes without waiting.  false: failed. */
bool
ec_socket_establish(EcConnection *c)
{
	EcConnectionState	before;

	do
	{
		before = c->state;
		if (before == EC_CONNECTION_CONNECTING && !conn_connected(c))
			return false;
		if (before == EC_CONNECTION_HANDSHAKE && !conn_handshake(c))
			return false;
		if (before == EC_CONNECTION_AUTHENTICATING && !conn_authenticate(c))
			return false;
	} while (c->state != before);
	return true;
}

/*
 * Send some of len bytes, as the connection does.  Returns how many, 0 if none can be
 * sent now, -1 if it has failed.
 */
ssize_t
ec_socket_send(EcConnection *c, const char *data, size_t len)
{
	if (c->tls)
	{
		size_t		done;

		switch (ec_tls_send(c->tls, data, len, &done))
		{
			case EC_TLS_DONE:
				return (ssize_t) done;
			case EC_TLS_WANTS_READ:
			case EC_TLS_WANTS_WRITE:
				return 0;
			case EC_TLS_CLOSED:
				ec_socket_fail(c, false, "the server closed the connection");
				return -1;
			case EC_TLS_FAILED:
				ec_socket_fail(c, false, "could not send: %s", ec_tls_failure);
				return -1;
		}
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
			ec_socket_fail(c, false, "could not send: %s", strerror(errno));
			return -1;
		}
	}
}

/* Receive up to room bytes: how many, 0 if there are none yet, -1 if it has failed. */
ssize_t
ec_socket_recv(EcConnection *c, char *data, size_t room)
{
	if (c->tls)
	{
		size_t		done;
		EcTlsResult result = ec_tls_recv(c->tls, data, room, &done);

		c->recv_wants_write = result == EC_TLS_WANTS_WRITE;
		switch (result)
		{
			case EC_TLS_DONE:
				return (ssize_t) done;
			case EC_TLS_WANTS_READ:
			case EC_TLS_WANTS_WRITE:
				return 0;
			case EC_TLS_CLOSED:
				ec_socket_fail(c, false, "the server closed the connection");
				return -1;
			case EC_TLS_FAILED:
				ec_socket_fail(c, false, "could not receive: %s", ec_tls_failure);
				return -1;
		}
	}
	for (;;)
	{
		ssize_t		n = recv(c->fd, data, room, c->linger ? 0 : MSG_DONTWAIT);

		if (n > 0)
		{
			c->linger = false;	/* once, so that who trickles meets the deadline */
			return n;
		}
		if (n == 0)
		{
			ec_socket_fail(c, false, "the server closed the connection");
			return -1;
		}
		/* interrupted while it waited: there is something to serve first */
		if (errno == EAGAIN || errno == EWOULDBLOCK || (errno == EINTR && c->linger))
			return 0;
		if (errno != EINTR)
		{
			ec_socket_fail(c, false, "could not receive: %s", strerror(errno));
			return -1;
		}
	}
}
