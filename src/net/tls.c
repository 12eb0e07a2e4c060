/*-------------------------------------------------------------------------
 *
 * tls.c
 *	  TLS on a connection to a memcached server, by OpenSSL.
 *
 * Nothing here throws, allocates from PostgreSQL's memory, serves an interrupt or
 * waits for the network.  So all but ec_tls_open(), which reads files, may be called in
 * the COMMIT callback: what cannot be done at once is EC_TLS_WAITS.
 *
 * PostgreSQL may use OpenSSL in this very process, for its client.  The two share the
 * thread's queue of errors and nothing else.  The queue is emptied before each call of
 * ours, since OpenSSL looks there to tell what a result means, and after it.
 *
 * Two options keep a server from holding us.  A call returns after one record that carries
 * no data (no SSL_MODE_AUTO_RETRY), so that the caller sees its deadline pass; and there is
 * no renegotiation.  OpenSSL reads one record at a time (no read-ahead).  So whenever it
 * wants to read, all that has come has been handed on, and the socket tells when there is
 * more.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <sys/stat.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "guc.h"
#include "net/auth.h"
#include "net/tls.h"
#include "shmem.h"

/*
 * What the settings and their files say: made at first use, and anew when they change.
 * It belongs to the backend and is not about any connection.
 */
static SSL_CTX *context = NULL;
static uint32 context_serial;

static int	no_passphrase(char *buf, int size, int rwflag, void *userdata);
static const char *first_error(void);
static void explain(char *failure, const char *what);
static bool load_files(SSL_CTX *ctx, char *failure);
static bool make_context(char *failure);
static bool expect_host(SSL *ssl, const char *host, bool verify);
static EcTlsResult outcome(EcTls *tls, int rc, bool receiving);

/* A key with a passphrase would be asked for on a terminal that we do not have. */
static int
no_passphrase(char *buf, int size, int rwflag, void *userdata)
{
	return 0;
}

/* OpenSSL's words for what went wrong first, from which the rest followed. */
static const char *
first_error(void)
{
	unsigned long code = ERR_peek_error();
	const char *reason;

	/* a missing file, say */
	if (code != 0 && ERR_GET_LIB(code) == ERR_LIB_SYS)
		return strerror(ERR_GET_REASON(code));
	reason = code != 0 ? ERR_reason_error_string(code) : NULL;
	return reason ? reason : "unknown error";
}

/* Write what could not be done, and why, to failure, which has room for EC_ERROR_MAX bytes. */
static void
explain(char *failure, const char *what)
{
	snprintf(failure, EC_ERROR_MAX, "%s: %s", what, first_error());
	ERR_clear_error();
}

/*
 * Read the files that the settings name.  A relative path is relative to the data
 * directory, in which every process of PostgreSQL works.  false: failure says what is wrong.
 */
static bool
load_files(SSL_CTX *ctx, char *failure)
{
	const char *key = ec_guc_tls_key_file[0] != '\0' ? ec_guc_tls_key_file : ec_guc_tls_cert_file;
	struct stat st;

	if (ec_guc_tls_verify != EC_TLS_VERIFY_NONE)
	{
		if (ec_guc_tls_ca_file[0] == '\0')
		{
			if (SSL_CTX_set_default_verify_paths(ctx) != 1)
			{
				explain(failure, "could not load the system's certificates");
				return false;
			}
		}
		else if (SSL_CTX_load_verify_locations(ctx, ec_guc_tls_ca_file, NULL) != 1)
		{
			explain(failure, "could not load echocache.tls_ca_file");
			return false;
		}
	}
	if (ec_guc_tls_cert_file[0] == '\0')
		return true;

	if (SSL_CTX_use_certificate_chain_file(ctx, ec_guc_tls_cert_file) != 1)
	{
		explain(failure, "could not load echocache.tls_cert_file");
		return false;
	}
	if (stat(key, &st) == 0 && !ec_auth_file_is_private(st.st_mode))
	{
		strlcpy(failure, "the file of the private key (echocache.tls_key_file) is accessible to "
				"others: take that permission away", EC_ERROR_MAX);
		return false;
	}
	if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1 ||
		SSL_CTX_check_private_key(ctx) != 1)
	{
		explain(failure, "could not load echocache.tls_key_file");
		return false;
	}
	return true;
}

/* Have a context for the settings and the files as they are now.  false: failure says why not. */
static bool
make_context(char *failure)
{
	SSL_CTX    *ctx;

	if (context != NULL && context_serial == ec_guc_transport_serial && !ec_guc_tls_files_stale)
		return true;
	if (context != NULL)
		SSL_CTX_free(context);	/* connections that are open keep it */
	context = NULL;

	ctx = SSL_CTX_new(TLS_client_method());
	if (ctx == NULL || SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1)
	{
		explain(failure, "could not set up TLS");
		SSL_CTX_free(ctx);
		return false;
	}
	SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	SSL_CTX_clear_mode(ctx, SSL_MODE_AUTO_RETRY);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_verify(ctx, ec_guc_tls_verify == EC_TLS_VERIFY_NONE ? SSL_VERIFY_NONE :
					   SSL_VERIFY_PEER, NULL);
	if (!load_files(ctx, failure))
	{
		SSL_CTX_free(ctx);
		return false;
	}
	context = ctx;
	context_serial = ec_guc_transport_serial;
	ec_guc_tls_files_stale = false;
	return true;
}

/*
 * Tell the server which host is meant, if the host has a name, and with verify accept only
 * a certificate for that host.
 */
static bool
expect_host(SSL *ssl, const char *host, bool verify)
{
	struct in_addr v4;
	struct in6_addr v6;
	char		address[EC_HOST_MAX];

	/* without the zone of a link-local address */
	strlcpy(address, host, sizeof(address));
	address[strcspn(address, "%")] = '\0';
	if (inet_pton(AF_INET, address, &v4) == 1 || inet_pton(AF_INET6, address, &v6) == 1)
		return !verify || X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), address) == 1;
	if (SSL_set_tlsext_host_name(ssl, host) != 1)
		return false;
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return !verify || SSL_set1_host(ssl, host) == 1;
}

/*
 * Begin TLS on a connected socket; host is the name or address of echocache.hosts.  Reads the
 * files of the settings when they may have changed.  NULL: it cannot be done, for the reason that
 * is written to failure, which has room for EC_ERROR_MAX bytes.
 */
EcTls *
ec_tls_open(pgsocket fd, const char *host, char *failure)
{
	EcTls	   *tls;

	/* anybody can have a certificate for some name from an authority that the system trusts */
	bool		verify_host = ec_guc_tls_verify == EC_TLS_VERIFY_FULL ||
		(ec_guc_tls_verify == EC_TLS_VERIFY_CA && ec_guc_tls_ca_file[0] == '\0');

	ERR_clear_error();
	if (!make_context(failure))
		return NULL;
	tls = calloc(1, sizeof(EcTls));
	if (tls == NULL)
	{
		strlcpy(failure, "out of memory", EC_ERROR_MAX);
		return NULL;
	}
	tls->ssl = SSL_new(context);
	if (tls->ssl == NULL || SSL_set_fd(tls->ssl, fd) != 1 ||
		!expect_host(tls->ssl, host, verify_host))
	{
		explain(failure, "could not begin TLS");
		SSL_free(tls->ssl);
		free(tls);
		return NULL;
	}
	SSL_set_connect_state(tls->ssl);
	return tls;
}

/*
 * What came of a call whose result is rc.  receiving: the call takes bytes in, or shakes
 * hands, so the connection is to be told when it waits to send first.
 */
static EcTlsResult
outcome(EcTls *tls, int rc, bool receiving)
{
	int			system_error = errno;
	int			what = SSL_get_error(tls->ssl, rc);

	if (receiving)
		tls->reads_by_writing = what == SSL_ERROR_WANT_WRITE;
	switch (what)
	{
		case SSL_ERROR_NONE:
			return EC_TLS_DONE;
		case SSL_ERROR_WANT_READ:
		case SSL_ERROR_WANT_WRITE:
			return EC_TLS_WAITS;
		case SSL_ERROR_ZERO_RETURN:
			return EC_TLS_CLOSED;
		case SSL_ERROR_SYSCALL:
			if (ERR_peek_error() == 0)
			{
				if (system_error == 0)
					return EC_TLS_CLOSED;
				strlcpy(tls->failure, strerror(system_error), sizeof(tls->failure));
				return EC_TLS_FAILED;
			}
			break;
		default:
			break;
	}
#ifdef SSL_R_UNEXPECTED_EOF_WHILE_READING
	/* every answer tells its length, so there is nothing to cut off unnoticed */
	if (ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
	{
		ERR_clear_error();
		return EC_TLS_CLOSED;
	}
#endif
	strlcpy(tls->failure, first_error(), sizeof(tls->failure));
	ERR_clear_error();
	return EC_TLS_FAILED;
}

/* Go on with the handshake; the server's certificate is verified in it. */
EcTlsResult
ec_tls_handshake(EcTls *tls)
{
	EcTlsResult result;
	long		verified;

	ERR_clear_error();
	errno = 0;
	result = outcome(tls, SSL_do_handshake(tls->ssl), true);
	verified = SSL_get_verify_result(tls->ssl);
	if (result == EC_TLS_FAILED && verified != X509_V_OK &&
		SSL_get_verify_mode(tls->ssl) != SSL_VERIFY_NONE)
		snprintf(tls->failure, sizeof(tls->failure), "the certificate is not accepted: %s",
				 X509_verify_cert_error_string(verified));
	return result;
}

/* Send some of len bytes: EC_TLS_DONE says that *done of them are on their way. */
EcTlsResult
ec_tls_send(EcTls *tls, const char *data, size_t len, size_t *done)
{
	ERR_clear_error();
	errno = 0;
	return outcome(tls, SSL_write_ex(tls->ssl, data, len, done), false);
}

/* Receive up to room bytes: EC_TLS_DONE says that there are *done. */
EcTlsResult
ec_tls_recv(EcTls *tls, char *data, size_t room, size_t *done)
{
	ERR_clear_error();
	errno = 0;
	return outcome(tls, SSL_read_ex(tls->ssl, data, room, done), true);
}

/*
 * The end of TLS on a socket that is about to be closed.  say_goodbye, where nothing has
 * failed: tell the other side, if that can be done at once.
 */
void
ec_tls_close(EcTls *tls, bool say_goodbye)
{
	ERR_clear_error();
	if (say_goodbye)
		(void) SSL_shutdown(tls->ssl);
	SSL_free(tls->ssl);
	ERR_clear_error();
	free(tls);
}
