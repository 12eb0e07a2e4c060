/*-------------------------------------------------------------------------
 *
 * tls.h
 *	  TLS on a connection to a memcached server, as socket.c drives it.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_NET_TLS_H
#define ECHOCACHE_NET_TLS_H

#include "shmem.h"

/* One connection's TLS. */
typedef struct EcTls
{
	struct ssl_st *ssl;
	bool		reads_by_writing;	/* the handshake, or the receiving, waits to send first */
	char		failure[EC_ERROR_MAX];	/* why the last call was EC_TLS_FAILED; words of
										 * OpenSSL's and ours, never a server's */
} EcTls;

typedef enum EcTlsResult
{
	EC_TLS_DONE,
	EC_TLS_WAITS,				/* for the socket: call again with the same arguments */
	EC_TLS_CLOSED,				/* by the other side */
	EC_TLS_FAILED				/* failure says why */
} EcTlsResult;

extern EcTls *ec_tls_open(pgsocket fd, const char *host, char *failure);
extern EcTlsResult ec_tls_handshake(EcTls *tls);
extern EcTlsResult ec_tls_send(EcTls *tls, const char *data, size_t len, size_t *done);
extern EcTlsResult ec_tls_recv(EcTls *tls, char *data, size_t room, size_t *done);
extern void ec_tls_close(EcTls *tls, bool say_goodbye);

#endif							/* ECHOCACHE_NET_TLS_H */
