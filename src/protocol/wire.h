/*-------------------------------------------------------------------------
 *
 * wire.h
 *	  Requests of memcached's meta protocol, as bytes.
 *
 * Pure: no PostgreSQL header, no allocation, no I/O, no global state, so that the same object
 * is linked into the extension, the unit tests and the fuzzer.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_PROTOCOL_WIRE_H
#define ECHOCACHE_PROTOCOL_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EC_KEY_MAX			250		/* memcached's limit, in bytes */
#define EC_REQUEST_MAX		512		/* no request line is longer than this */
#define EC_USER_MAX			64		/* a user name for ec_wire_auth(), in bytes */
#define EC_PASSWORD_MAX		256		/* and a password */

/* The one value of every marker: JSON null, "ask the database". */
#define EC_MARKER			"null"
#define EC_MARKER_LEN		4

/* Is it a byte of a key or of a flag's token: 0x21..0x7e? */
static inline bool
ec_wire_is_graphic(char c)
{
	return c > 0x20 && c < 0x7f;
}

/* The value of a hexadecimal digit, or -1. */
static inline int
ec_wire_hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/*
 * Take a character at *src, or a percent sign and two hexadecimal digits, as the byte that it
 * stands for.  Returns false if the digits are not there.
 */
static inline bool
ec_wire_percent(const char **src, const char *end, char *byte)
{
	int			high;
	int			low;

	*byte = *(*src)++;
	if (*byte != '%')
		return true;
	high = *src < end ? ec_wire_hex_value(*(*src)++) : -1;
	low = *src < end ? ec_wire_hex_value(*(*src)++) : -1;
	*byte = (char) ((unsigned) high << 4 | (unsigned) low);
	return high >= 0 && low >= 0;
}

/*
 * Requests.  Each writes at most EC_REQUEST_MAX bytes to dst, without a final NUL, and returns
 * how many.  Keys are 1 to EC_KEY_MAX bytes (else nothing is written that could be sent, and 0
 * returned) of 0x21..0x7e (which is not looked at: ec_key_* and ec_wire_decode_key make no
 * others).
 *
 * A ttl is what memcached calls exptime: seconds up to 30 days, above that a Unix time, 0 for
 * no expiry, below 0 expired at once.
 */

/* mg: value and CAS token; with touch_ttl >= 0 the TTL is renewed as well. */
extern size_t ec_wire_get(char *dst, const char *key, size_t keylen,
						  int64_t touch_ttl, uint32_t opaque);

/* mg without the value: renew the TTL, answer HD with s (size) or EN. */
extern size_t ec_wire_touch(char *dst, const char *key, size_t keylen,
							int64_t ttl, uint32_t opaque);

/* mg that changes nothing: the size alone (HD with s, or EN). */
extern size_t ec_wire_look(char *dst, const char *key, size_t keylen, uint32_t opaque);

/* mg that changes nothing: value, CAS token and client flags. */
extern size_t ec_wire_inspect(char *dst, const char *key, size_t keylen, uint32_t opaque);

/*
 * ms: the first line; the caller sends the value_len bytes and \r\n after it.  cas 0:
 * unconditional, and the new token is asked for (c).  Otherwise the store succeeds only if the
 * item still carries that token.  mode 0 sets, 'E' adds (meta mode ME), 'R' replaces, 'A'
 * appends, 'P' prepends.  quiet: HD is not answered, whatever goes wrong is.
 *
 * old: for memcached before 1.6.10, which wants the length as a flag and would take the value of
 * any other line for commands, as newer ones would the value of this one.  It does not tell the
 * token.
 */
extern size_t ec_wire_set(char *dst, const char *key, size_t keylen,
						  size_t value_len, char mode, uint64_t cas,
						  int64_t ttl, bool quiet, bool old, uint32_t opaque);

/* mg for the CAS token alone (HD with c, or EN). */
extern size_t ec_wire_token(char *dst, const char *key, size_t keylen, uint32_t opaque);

/*
 * md: with cas != 0 only if the item carries that token.  quiet: HD is not
 * answered, so that a barrier after many of them confirms them all; NF, EX and
 * errors are answered nonetheless, before the barrier.
 */
extern size_t ec_wire_delete(char *dst, const char *key, size_t keylen,
							 uint64_t cas, bool quiet, uint32_t opaque);

/*
 * ma: add delta to the number that the value is, or subtract it, down to 0 at most; the new
 * number comes as a value, with its CAS token.
 */
extern size_t ec_wire_arithmetic(char *dst, const char *key, size_t keylen,
								 bool subtract, uint64_t delta, uint32_t opaque);

extern size_t ec_wire_barrier(char *dst);	/* mn */
extern size_t ec_wire_version(char *dst);	/* version */
extern size_t ec_wire_metadump(char *dst);	/* lru_crawler metadump hash */
extern size_t ec_wire_flush(char *dst); /* flush_all */

/* stats [group]; 0 if the group is not 1 to EC_KEY_MAX bytes of 0x20..0x7e. */
extern size_t ec_wire_stats(char *dst, const char *group);

/*
 * The text protocol's authentication: a set, of any key, whose value is user name
 * and password.  The whole request, value included; 0 if one of the two is empty or
 * not valid.  A server that does not ask for authentication takes it for an
 * ordinary set: it gets an item that has expired already, so that nobody reads a
 * password there.
 */
extern size_t ec_wire_auth(char *dst, const char *user, const char *password);

/*
 * Can these be sent, and be in memcached's file of "user:password" lines?  It takes
 * the request's value apart at spaces, and the line at the first colon.
 */
extern bool ec_wire_valid_user(const char *user);
extern bool ec_wire_valid_password(const char *password);

/*
 * Decode metadump's percent-encoding of a key.  Returns the length, or -1 when it is not
 * valid, empty, longer than EC_KEY_MAX, or when the key holds a byte outside 0x21..0x7e:
 * memcached can hold such keys, but they are never ours, and in a request they could pass for
 * another one.  So -1 says to skip the line; it is no reason to mistrust the server.  dst
 * holds EC_KEY_MAX bytes.
 */
extern int	ec_wire_decode_key(char *dst, const char *src, size_t srclen);

#endif							/* ECHOCACHE_PROTOCOL_WIRE_H */
