/*-------------------------------------------------------------------------
 *
 * connection.h
 *	  An exchange on one connection: requests, and the answers to them.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_NET_CONNECTION_H
#define ECHOCACHE_NET_CONNECTION_H

#include "storage/latch.h"

#include "guc.h"
#include "net/request.h"
#include "net/socket.h"

/* A network may have forgotten a connection that was not used for so long, and tells nobody. */
#define EC_IDLE_US		INT64CONST(1000000)

/* What came of taking a connection further. */
typedef enum EcStep
{
	EC_STEP_FAILED,
	EC_STEP_WAITS,				/* nothing more can be done without waiting */
	EC_STEP_MORE				/* there may be more to do, but look at the time first */
} EcStep;

extern bool ec_connection_is_clear(const EcConnection *c);
extern void ec_connection_begin(EcConnection *c, int server, EcRequest *reqs, int first,
								EcAsk ask, EcRetry retry);
extern void ec_connection_add(EcConnection *c, int i);
extern EcStep ec_connection_write(EcConnection *c);
extern EcStep ec_connection_step(EcConnection *c, bool look, bool linger);
extern bool ec_connection_retry(EcConnection *c);
extern bool ec_connection_end(EcConnection *c);

/* Is an exchange under way on it that is to go on? */
static inline bool
ec_connection_is_waiting(const EcConnection *c)
{
	return c->state != EC_CONNECTION_FAILED && c->exchange.recv >= 0;
}

/* Has it anything left to send, or yet to be connected? */
static inline bool
ec_connection_wants_write(const EcConnection *c)
{
	const EcExchange *ex = &c->exchange;

	return c->state == EC_CONNECTION_CONNECTING || c->out_sent < c->out_len ||
		(c->state == EC_CONNECTION_BUSY &&
		 (ex->big != NULL || ex->untold >= 0 || (ex->send >= 0 && !ex->asks_version)));
}

/* The socket's events that it waits for. */
static inline uint32
ec_connection_events(const EcConnection *c)
{
	bool		writes_first = c->tls != NULL && c->tls->reads_by_writing;

	if (c->state == EC_CONNECTION_HANDSHAKE)
		return writes_first ? WL_SOCKET_WRITEABLE : WL_SOCKET_READABLE;
	return (c->state == EC_CONNECTION_CONNECTING ? 0 : WL_SOCKET_READABLE) |
		(ec_connection_wants_write(c) || writes_first ? WL_SOCKET_WRITEABLE : 0);
}

/* Can it take requests at once, opened under the settings that there are now? */
static inline bool
ec_connection_is_ready(const EcConnection *c)
{
	return c->state == EC_CONNECTION_IDLE && c->settings == ec_guc_transport_serial;
}

#endif							/* ECHOCACHE_NET_CONNECTION_H */
