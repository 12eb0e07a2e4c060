/*-------------------------------------------------------------------------
 *
 * dialect.h
 *	  How a request is said to the memcached at the other end, by its version.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_NET_DIALECT_H
#define ECHOCACHE_NET_DIALECT_H

#include "net/request.h"
#include "net/socket.h"

extern bool ec_dialect_is_quiet(const EcExchange *ex, const EcRequest *req);
extern bool ec_dialect_has_value(const EcConnection *c, const EcRequest *req);
extern bool ec_dialect_is_untold(const EcConnection *c, const EcRequest *req);
extern size_t ec_dialect_line(const EcConnection *c, const EcRequest *req, char *dst,
							  uint32 opaque);

#endif							/* ECHOCACHE_NET_DIALECT_H */
