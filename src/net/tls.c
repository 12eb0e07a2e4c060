/*-------------------------------------------------------------------------
 *
 * tls.c
 *	  TLS on a connection to a memcached server, by OpenSSL.
 *
 * Nothing here throws, allocates from PostgreSQL's memory, serves an interrupt or
 * waits for the network, so that all but ec_tls_open() can be called in the COMMIT
 * callback: what cannot be done at once says what it waits for.
 *
 * PostgreSQL may use OpenSSL in this very process, for its client.  The two share
 * the thread's queue of errors and nothing else: it is emptied before each call of
 * ours, since OpenSSL looks there to tell what a result means, and after it.
 *
 * Two options keep what a server sends from holding us: a call returns after one
 * record that carries no data (no SSL_MODE_AUTO_RETRY), so that the caller sees its
 * deadline pass, and there is no renegotiation.  OpenSSL reads one record at a time
 * (no read-ahead), so that whenever it wants to read, all that has come has been
 * handed on and the socket tells when there is more.
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

char		ec_tls_failure[EC_ERROR_MAX];

/* What the settings and their files say: made at first use, and anew when they change. */
static SSL_CTX *context = NULL;
static uint32 context_serial;

static int	no_passphrase(char *buf, int size, int rwflag, void *userdata);
static const char *first_error(void);
static void fail(const char *what);
static bool load_files(SSL_CTX *ctx);
static bool make_context(void);
static bool expect_host(SSL *ssl, const char *host, bool verify);
static EcTlsResult outcome(SSL *ssl, int rc);

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

static void
fail(const char *what)
{
	snprintf(ec_tls_failure, sizeof(ec_tls_failure), "%s: %s", what, first_error());
	ERR_clear_error();
}

/*
 * Read the files that the settings name; relative paths are relative to the data
 * directory, as we are.  false: ec_tls_failure says what is wrong.
 */
static bool
load_files(SSL_CTX *ctx)
{
	const char *key = ec_guc_tls_key_file[0] != '\0' ? ec_guc_tls_key_file : ec_guc_tls_cert_file;
	struct stat st;

	if (ec_guc_tls_verify != EC_TLS_VERIFY_NONE)
	{
		if (ec_guc_tls_ca_file[0] == '\0')
		{
			if (SSL_CTX_set_default_verify_paths(ctx) != 1)
			{
				fail("could not load the system's certificates");
				return false;
			}
		}
		else if (SSL_CTX_load_verify_locations(ctx, ec_guc_tls_ca_file, NULL) != 1)
		{
			fail("could not load echocache.tls_ca_file");
			return false;
		}
	}
	if (ec_guc_tls_cert_file[0] == '\0')
		return true;

	if (SSL_CTX_use_certificate_chain_file(ctx, ec_guc_tls_cert_file) != 1)
	{
		fail("could not load echocache.tls_cert_file");
		return false;
	}
	if (stat(key, &st) == 0 && !ec_auth_file_is_private(st.st_mode))
	{
		strlcpy(ec_tls_failure, "the file of the private key (echocache.tls_key_file) is "
				"accessible to others: take that permission away", sizeof(ec_tls_failure));
		return false;
	}
	if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1 ||
		SSL_CTX_check_private_key(ctx) != 1)
	{
		fail("could not load echocache.tls_key_file");
		return false;
	}
	return true;
}

/* Have a context for the settings and the files as they are now. */
static bool
make_context(void)
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
		fail("could not set up TLS");
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
	if (!load_files(ctx))
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
 * Tell the server which host we mean, if it has a name, and with verify accept only
 * a certificate for it.
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
 * Begin TLS on a connected socket; host is as echocache.hosts has it.  Reads the
 * files of the settings when they may have changed.  NULL: failed.
 */
EcTls *
ec_tls_open(pgsocket fd, const char *host)
{
	SSL		   *ssl = NULL;

	/* anybody can have a certificate for some name from one whom the system trusts */
	bool		verify_host = ec_guc_tls_verify == EC_TLS_VERIFY_FULL ||
		(ec_guc_tls_verify == EC_TLS_VERIFY_CA && ec_guc_tls_ca_file[0] == '\0');

	ERR_clear_error();
	if (!make_context())
		return NULL;
	ssl = SSL_new(context);
	if (ssl == NULL || SSL_set_fd(ssl, fd) != 1 || !expect_host(ssl, host, verify_host))
	{
		fail("could not begin TLS");
		SSL_free(ssl);
		return NULL;
	}
	SSL_set_connect_state(ssl);
	return ssl;
}

/* What came of a call whose result is rc. */
static EcTlsResult
outcome(SSL *ssl, int rc)
{
	int			system_error = errno;

	switch (SSL_get_error(ssl, rc))
	{
		case SSL_ERROR_NONE:
			return EC_TLS_DONE;
		case SSL_ERROR_WANT_READ:
			return EC_TLS_WANTS_READ;
		case SSL_ERROR_WANT_WRITE:
			return EC_TLS_WANTS_WRITE;
		case SSL_ERROR_ZERO_RETURN:
			return EC_TLS_CLOSED;
		case SSL_ERROR_SYSCALL:
			if (ERR_peek_error() == 0)
			{
				if (system_error == 0)
					return EC_TLS_CLOSED;
				strlcpy(ec_tls_failure, strerror(system_error), sizeof(ec_tls_failure));
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
	strlcpy(ec_tls_failure, first_error(), sizeof(ec_tls_failure));
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
	result = outcome(tls, SSL_do_handshake(tls));
	verified = SSL_get_verify_result(tls);
	if (result == EC_TLS_FAILED && verified != X509_V_OK &&
		SSL_get_verify_mode(tls) != SSL_VERIFY_NONE)
		snprintf(ec_tls_failure, sizeof(ec_tls_failure), "the certificate is not accepted: %s",
				 X509_verify_cert_error_string(verified));
	return result;
}

/* Send some of len bytes: EC_TLS_DONE says that *done of them are on their way. */
EcTlsResult
ec_tls_send(EcTls *tls, const char *data, size_t len, size_t *done)
{
	ERR_clear_error();
	errno = 0;
	return outcome(tls, SSL_write_ex(tls, data, len, done));
}

/* Receive up to room bytes: EC_TLS_DONE says that there are *done. */
EcTlsResult
ec_tls_recv(EcTls *tls, char *data, size_t room, size_t *done)
{
	ERR_clear_error();
	errno = 0;
	return outcome(tls, SSL_read_ex(tls, data, room, done));
}

/*
 * The end of TLS on a socket that is about to be closed.  say_goodbye, where
 * nothing has failed: tell the other side, if that can be done at once.
 */
void
ec_tls_close(EcTls *tls, bool say_goodbye)
{
	ERR_clear_error();
	if (say_goodbye)
		(void) SSL_shutdown(tls);
	SSL_free(tls);
	ERR_clear_error();
}
