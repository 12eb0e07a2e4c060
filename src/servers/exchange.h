/*-------------------------------------------------------------------------
 *
 * exchange.h
 *	  Exchanges with all servers at once, under one deadline.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SERVERS_EXCHANGE_H
#define ECHOCACHE_SERVERS_EXCHANGE_H

#include "deadline.h"
#include "net/request.h"
#include "servers/round.h"

extern void ec_exchange_init(void);
extern int	ec_exchange_disconnect(void);
extern void ec_exchange_at_xact_end(void);
extern bool ec_exchange(EcRequest *reqs, int nreqs, EcDeadline deadline, int flags);
extern bool ec_exchange_pieces(EcRequest *reqs, int nreqs, EcDeadline deadline, int flags,
							   int64 *longest_us);
extern bool ec_exchange_marks(EcRequest *reqs, int nreqs, EcDeadline deadline,
							  void (*meanwhile) (void *arg), void *arg);
extern void ec_exchange_once(EcRequest *req);
extern void ec_exchange_send(EcRequest *reqs, int nreqs, EcDeadline deadline);
extern EcResult ec_exchange_command(int server, const char *request, size_t len,
									EcLineCallback callback, void *arg, int flags);
extern void ec_exchange_list(EcRequest *req, EcDeadline last, int flags, EcFailure *failure);
extern EcResult ec_exchange_flush(int server, EcFailure *failure);

#endif							/* ECHOCACHE_SERVERS_EXCHANGE_H */
