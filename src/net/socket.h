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

#include "deadline.h"
#include "net/failure.h"
#include "net/request.h"
#include "net/tls.h"

#define EC_OUT_SIZE		(32 * 1024)
#define EC_IN_SIZE		(64 * 1024)

/*
 * By TLS a record must end where a request ends, or where its value does.  memcached waits for
 * the socket though OpenSSL still holds the rest of a record for it: when a value takes the
 * record's first part, what follows is seen only with the next record, which never comes (1.6.18;
 * 20 pipelined sets of 2 kB are enough).  So no more is gathered than one record holds.
 */
#define EC_TLS_RECORD_MAX	(16 * 1024)

/*
 * How long recv() itself waits, at first.  Most answers are there sooner, and it takes two
 * system calls less than asking, waiting for the socket, and asking again.  An interrupt
 * that comes just before is served so much later.
 */
#define EC_LINGER_MS	20

/*
 * The states of a connection.
 *
 *	from				to				when
 *	CLOSED				CONNECTING		an exchange begins, or is made anew
 *	CONNECTING			HANDSHAKE		the socket is connected, and TLS is wanted
 *	CONNECTING,
 *	HANDSHAKE			AUTHENTICATING	a user name is to be told
 *	CONNECTING,
 *	HANDSHAKE,
 *	AUTHENTICATING		BUSY			the connection is open: the requests go now
 *	BUSY				IDLE			the exchange is over, all is answered
 *	IDLE				BUSY			another exchange begins
 *	all but CLOSED,
 *	IDLE				FAILED			something has gone wrong: failure says what
 *	all but CLOSED		CLOSED			ec_socket_close()
 *
 * A state other than CLOSED and IDLE, outside of an exchange, is what an error left behind
 * that was thrown in the middle of one.  The next exchange, or the end of the transaction,
 * closes such a connection.
 */
typedef enum EcConnectionState
{
	EC_CONNECTION_CLOSED,
	EC_CONNECTION_CONNECTING,
	EC_CONNECTION_HANDSHAKE,	/* of TLS */
	EC_CONNECTION_AUTHENTICATING,
	EC_CONNECTION_IDLE,
	EC_CONNECTION_BUSY,
	EC_CONNECTION_FAILED
} EcConnectionState;

/* Which of the requests of an exchange want an answer when they are carried out. */
typedef enum EcAsk
{
	EC_ASK_USUAL,				/* all but those that are quiet and have one behind them */
	EC_ASK_LOUD,				/* all, so that an error tells whose it is */
	EC_ASK_SILENT				/* none; nobody waits */
} EcAsk;

/* When may an exchange that has failed be made anew, on another connection? */
typedef enum EcRetry
{
	EC_RETRY_NEVER,
	EC_RETRY_IF_UNCLEAR,		/* after an error that may belong to another request */
	EC_RETRY_ALWAYS				/* the connection may have been dead before */
} EcRetry;

/* What one exchange does on one connection; by connection.c. */
typedef struct EcExchange
{
	EcRequest  *reqs;			/* the caller's array */
	int			last,			/* indexes into it, chained by next, -1: none left: */
				send,			/* the next to be sent, */
				recv;			/* the next to be answered */
	EcAsk		ask;
	EcRetry		retry;
	const char *big;			/* a value too large for the buffer, sent from where it lies */
	size_t		big_len,
				big_sent;
	char	   *value;			/* where the value goes that is received, */
	size_t		value_missing;	/* and how much of it is to come; NULL: none is */
	EcDeadline	idle_since;		/* until when the connection was not used; 0: it was not open */
	uint64		taken;			/* bytes that have arrived, */
	uint64		limit;			/* and how many may */
	uint64		renewed;		/* taken, when exchange.c renewed the deadline */
	bool		asks_version;	/* the server's version is asked for, and not known yet */
	int			untold;			/* an old memcached has this value now, and is to be asked for its
								 * token; -1: none */
	bool		refused;		/* it has not stored it, and is yet to answer that question */
} EcExchange;

typedef struct EcConnection
{
	EcConnectionState state;
	uint64		serial;			/* of this opening, among all of this process; from 1 on */
	int			server;			/* in the topology that the backend has entered */
	pgsocket	fd;
	EcTls	   *tls;			/* NULL: plain */
	uint32		settings;		/* ec_guc_transport_serial when it was opened */
	bool		kept;			/* counted against pool_size */
	bool		answered;		/* it has answered a request, which is logged once */
	int			version;		/* of the memcached at the other end; 0: not known yet */
	EcDeadline	used_at;		/* when the last exchange on it was answered; 0: none was */
	WaitEventSet *set;			/* latch, postmaster, this socket */
	uint32		waiting_for;	/* the socket's events in set */
	char	   *buffers;		/* out, then in */
	size_t		out_len,
				out_sent;
	size_t		in_start,
				in_end;
	uint32		opaque_send,	/* of the next request, and of the next answer */
				opaque_recv;
	uint32		opaque_silent;	/* from here to opaque_recv at its start: asked silently */
	EcExchange	exchange;
	EcFailure	failure;		/* of state FAILED */
} EcConnection;

#define ec_socket_out(c) ((c)->buffers)
#define ec_socket_in(c)	((c)->buffers + EC_OUT_SIZE)

extern void ec_socket_close(EcConnection *c);
extern void ec_socket_fail(EcConnection *c, const char *fmt,...) pg_attribute_printf(2, 3);
extern bool ec_socket_open(EcConnection *c, int server);
extern bool ec_socket_establish(EcConnection *c);
extern ssize_t ec_socket_send(EcConnection *c, const char *data, size_t len);
extern ssize_t ec_socket_recv(EcConnection *c, char *data, size_t room, bool wait);

#endif							/* ECHOCACHE_NET_SOCKET_H */
