/*-------------------------------------------------------------------------
 *
 * socket.h
 *	  One connection to a memcached server: open, send, receive, close.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_NET_SOCKET_H
#define ECHOCACHE_NET_SOCKET_H

#include "storage/latch.h"

#include "net/request.h"
#include "net/tls.h"
#include "shmem.h"

#define EC_OUT_SIZE		(32 * 1024)
#define EC_IN_SIZE		(64 * 1024)

/*
 * How long we wait in recv() itself, at first: most answers are there sooner, and it
 * takes two system calls less than asking, waiting for the socket, and asking again.
 * An interrupt that comes just before it is served so much later.
 */
#define EC_LINGER_MS	20

typedef enum EcConnectionState
{
	EC_CONNECTION_CLOSED,
	EC_CONNECTION_CONNECTING,
	EC_CONNECTION_HANDSHAKE,	/* of TLS */
	EC_CONNECTION_AUTHENTICATING,
	EC_CONNECTION_READY
} EcConnectionState;

typedef struct EcConnection
{
	EcConnectionState state;
	int			server;
	pgsocket	fd;
	EcTls	   *tls;			/* NULL: plain */
	uint32		handshake_events;	/* what the handshake waits for */
	bool		recv_wants_write;	/* TLS has something to say before it receives */
	uint32		settings;		/* ec_guc_transport_serial when it was opened */
	bool		kept;			/* counted against pool_size */
	bool		busy;			/* an exchange is (or was left) under way */
	bool		suspect;		/* what fails may be for what was before: ask anew on another */
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
	uint32		opaque_quiet;	/* from here to opaque_recv at its start: ec_exchange_send()'s */
	bool		quiet;			/* do not ask for an answer where all is well */
	bool		linger;			/* recv() may wait for EC_LINGER_MS */

	/* the exchange under way */
	int			last_op,
				send_op,
				recv_op;		/* indexes into the caller's array, -1: none left */
	char	   *value;			/* GET: where the value goes, and how much is missing */
	size_t		value_missing;
	bool		retried;
	bool		loud;			/* every request wants an answer */
	size_t		progress;		/* bytes that have arrived */
	bool		failed;			/* and why: */
	EcFailure	failure;
} EcConnection;

#define ec_socket_out(c) ((c)->buffers)
#define ec_socket_in(c)	((c)->buffers + EC_OUT_SIZE)

extern void ec_socket_close(EcConnection *c);
extern void ec_socket_fail(EcConnection *c, bool timed_out, const char *fmt,...)
			pg_attribute_printf(3, 4);
extern bool ec_socket_open(EcConnection *c, int server);
extern bool ec_socket_establish(EcConnection *c);
extern ssize_t ec_socket_send(EcConnection *c, const char *data, size_t len);
extern ssize_t ec_socket_recv(EcConnection *c, char *data, size_t room);

/* Has it anything left to send, or yet to be connected? */
static inline bool
ec_socket_wants_write(const EcConnection *c)
{
	return c->state == EC_CONNECTION_CONNECTING || c->out_sent < c->out_len ||
		c->big_sent < c->big_len;
}

#endif							/* ECHOCACHE_NET_SOCKET_H */
