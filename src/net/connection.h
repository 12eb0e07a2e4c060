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
#include "shmem.h"

extern bool ec_connection_write(EcConnection *c, EcRequest *reqs);
extern bool ec_connection_step(EcConnection *c, EcRequest *reqs, bool look, bool linger);
extern bool ec_connection_is_idle(const EcConnection *c);
extern void ec_connection_begin(EcConnection *c, int server);
extern bool ec_connection_retry(EcConnection *c);
extern bool ec_connection_end(EcConnection *c);

/* The socket's events that it waits for. */
static inline uint32
ec_connection_events(const EcConnection *c)
{
	if (c->state == EC_CONNECTION_HANDSHAKE)
		return c->handshake_events;
	return (c->state == EC_CONNECTION_CONNECTING ? 0 : WL_SOCKET_READABLE) |
		(ec_socket_wants_write(c) || c->recv_wants_write ? WL_SOCKET_WRITEABLE : 0);
}

/* Can it take requests at once, opened under the settings that there are now? */
static inline bool
ec_connection_is_ready(const EcConnection *c)
{
	return c->state == EC_CONNECTION_READY && !c->busy && c->settings == ec_guc_transport_serial;
}

#endif							/* ECHOCACHE_NET_CONNECTION_H */
