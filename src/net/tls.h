/*-------------------------------------------------------------------------
 *
 * tls.h
 *	  TLS on a connection to a memcached server, as connection.c drives it.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_TLS_H
#define ECHOCACHE_TLS_H

#include "shmem.h"

/* One connection's TLS. */
typedef struct ssl_st EcTls;

typedef enum EcTlsResult
{
	EC_TLS_DONE,
	EC_TLS_WANTS_READ,			/* call again when the socket is readable */
	EC_TLS_WANTS_WRITE,			/* or when it is writable, whatever was to be done */
	EC_TLS_CLOSED,				/* by the other side */
	EC_TLS_FAILED				/* ec_tls_failure says why */
} EcTlsResult;

/* Of the last call that did not succeed; words of OpenSSL's and ours, never a server's. */
extern char ec_tls_failure[EC_ERROR_MAX];

extern EcTls *ec_tls_open(pgsocket fd, const char *host);
extern EcTlsResult ec_tls_handshake(EcTls *tls);
extern EcTlsResult ec_tls_send(EcTls *tls, const char *data, size_t len, size_t *done);
extern EcTlsResult ec_tls_recv(EcTls *tls, char *data, size_t room, size_t *done);
extern void ec_tls_close(EcTls *tls, bool say_goodbye);

#endif							/* ECHOCACHE_TLS_H */
