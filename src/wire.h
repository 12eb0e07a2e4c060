/*-------------------------------------------------------------------------
 *
 * wire.h
 *	  memcached's meta protocol: requests as bytes, answers as structures.
 *
 * Pure: no PostgreSQL header, no allocation, no I/O, no global state, so that
 * the same object is linked into the extension, the unit tests and the fuzzer.
 * Nothing that a server sends is trusted: every length and number is bounded
 * here, and what is not understood is EC_REPLY_MALFORMED, upon which the caller
 * drops the connection.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_WIRE_H
#define ECHOCACHE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EC_KEY_MAX			250		/* memcached's limit, in bytes */
#define EC_REQUEST_MAX		512		/* no request line is longer than this */
#define EC_LINE_MAX			2048	/* an answer line over this is malformed */
#define EC_VALUE_MAX		(256u * 1024 * 1024)	/* so is an announced value over this */
#define EC_USER_MAX			64		/* a user name for ec_wire_auth(), in bytes */
#define EC_PASSWORD_MAX		256		/* and a password */

/* The one value of every marker: JSON null, "ask the database". */
#define EC_MARKER			"null"
#define EC_MARKER_LEN		4

typedef enum EcReplyKind
{
	EC_REPLY_INCOMPLETE,		/* no whole line yet: read more and call again */
	EC_REPLY_MALFORMED,			/* not something memcached says: drop the connection */
	EC_REPLY_HD,				/* done */
	EC_REPLY_VA,				/* a value of value_len bytes and \r\n follow the line */
	EC_REPLY_EN,				/* miss (of mg); with the opaque since 1.6.18 only */
	EC_REPLY_NF,				/* not found */
	EC_REPLY_NS,				/* not stored; a c0 that comes with it is no token */
	EC_REPLY_EX,				/* exists: the CAS token does not match */
	EC_REPLY_MN,				/* the barrier's answer */
	EC_REPLY_END,				/* END, the last line of stats and of metadump */
	EC_REPLY_OK,				/* OK, RESET */
	EC_REPLY_STORED,			/* STORED: to ec_wire_auth(), welcome */
	EC_REPLY_STAT,				/* STAT name value: both in text */
	EC_REPLY_VERSION,			/* VERSION x: x in text */
	EC_REPLY_BUSY,				/* BUSY ...: the crawler is at work for somebody else */
	EC_REPLY_DUMP,				/* key=... of metadump; text is the encoded key */
	EC_REPLY_ERROR,				/* ERROR [text]: the command is not known, or refused */
	EC_REPLY_CLIENT_ERROR,		/* CLIENT_ERROR text; no opaque, as with all errors */
	EC_REPLY_SERVER_ERROR		/* SERVER_ERROR text */
} EcReplyKind;

typedef struct EcReply
{
	EcReplyKind kind;
	size_t		line_len;		/* bytes of the line, its line end included */
	bool		has_cas;
	bool		has_opaque;
	bool		has_ttl;
	bool		has_size;
	bool		has_flags;
	uint64_t	cas;			/* c: the item's CAS token */
	uint32_t	opaque;			/* O: decimal, as the request sent it */
	int64_t		ttl;			/* t: seconds left, -1 for no expiry */
	uint64_t	size;			/* s: the value's length */
	uint32_t	client_flags;	/* f */
	size_t		value_len;		/* of EC_REPLY_VA, at most EC_VALUE_MAX */
	const char *text;			/* into the buffer: see the kinds; else NULL */
	size_t		text_len;		/* may be 0, but not of STAT, VERSION, DUMP */
} EcReply;

/*
 * Parse one answer line at the head of buf[0..len).  Never reads past len.
 * With EC_REPLY_INCOMPLETE nothing is consumed; a line of EC_LINE_MAX bytes
 * without an end is EC_REPLY_MALFORMED.  Lines end in \r\n, those of metadump
 * in a bare \n.  Text is printable ASCII, so that it can go into a message as
 * it is; STAT's may hold bytes over 0x7f too, but no control characters.
 */
extern void ec_reply_parse(const char *buf, size_t len, EcReply *reply);

/*
 * Requests.  Each writes at most EC_REQUEST_MAX bytes to dst, without a final
 * NUL, and returns how many.  Keys are 1 to EC_KEY_MAX bytes (else nothing is
 * written that could be sent, and 0 returned) of 0x21..0x7e (which is not
 * looked at: ec_key_* and ec_wire_decode_key make no others).
 *
 * A ttl is what memcached calls exptime: seconds up to 30 days, above that a
 * Unix time, 0 for no expiry, below 0 expired at once.
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
 * ms: the first line; the caller sends the value_len bytes and \r\n after it.
 * cas 0: unconditional, and the new token is asked for (c).  Otherwise the
 * store succeeds only if the item still carries that token.  mode 0 sets,
 * 'E' adds (meta mode ME), 'R' replaces, 'A' appends, 'P' prepends.  quiet: HD is
 * not answered, whatever goes wrong is.
 */
extern size_t ec_wire_set(char *dst, const char *key, size_t keylen,
						  size_t value_len, char mode, uint64_t cas,
						  int64_t ttl, bool quiet, uint32_t opaque);

/*
 * md: with cas != 0 only if the item carries that token.  quiet: HD is not
 * answered, so that a barrier after many of them confirms them all; NF, EX and
 * errors are answered nonetheless, before the barrier.
 */
extern size_t ec_wire_delete(char *dst, const char *key, size_t keylen,
							 uint64_t cas, bool quiet, uint32_t opaque);

/*
 * ma: add delta to the number that the value is, or subtract it, down to 0 at
 * most; the new number comes as a value, with its CAS token.
 */
extern size_t ec_wire_arithmetic(char *dst, const char *key, size_t keylen,
								 bool subtract, uint64_t delta, uint32_t opaque);

extern size_t ec_wire_barrier(char *dst);	/* mn */
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
 * Decode metadump's percent-encoding of a key.  Returns the length, or -1 when
 * it is not valid, empty, longer than EC_KEY_MAX, or when the key holds a byte
 * outside 0x21..0x7e: memcached can hold such keys, but they are never ours,
 * and in a request they could pass for another one.  So -1 says to skip the
 * line; it is no reason to mistrust the server.  dst holds EC_KEY_MAX bytes.
 */
extern int	ec_wire_decode_key(char *dst, const char *src, size_t srclen);

#endif							/* ECHOCACHE_WIRE_H */
