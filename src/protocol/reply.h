/*-------------------------------------------------------------------------
 *
 * reply.h
 *	  memcached's answers: from bytes to structures.
 *
 * Pure: no PostgreSQL header (see wire.h).  Nothing that a server sends is trusted:
 * every length and number is bounded here.  An answer that is not understood is
 * EC_REPLY_MALFORMED, and the caller then drops the connection.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_PROTOCOL_REPLY_H
#define ECHOCACHE_PROTOCOL_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EC_LINE_MAX			2048	/* an answer line over this is malformed */
#define EC_VALUE_MAX		(256u * 1024 * 1024)	/* so is an announced value over this */

typedef enum EcReplyKind
{
	EC_REPLY_INCOMPLETE,		/* no whole line yet: read more and call again */
	EC_REPLY_MALFORMED,			/* not something memcached says: drop the connection */
	EC_REPLY_HD,				/* done; before 1.6.10 the server says OK */
	EC_REPLY_VA,				/* a value of value_len bytes and \r\n follow the line */
	EC_REPLY_EN,				/* miss (of mg); with the opaque since 1.6.18 only */
	EC_REPLY_NF,				/* not found */
	EC_REPLY_NS,				/* not stored; a c0 that comes with it is no token */
	EC_REPLY_EX,				/* exists: the CAS token does not match */
	EC_REPLY_MN,				/* the barrier's answer */
	EC_REPLY_END,				/* END, the last line of stats and of metadump */
	EC_REPLY_OK,				/* OK (alone), RESET */
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
	bool		has_size;
	bool		has_flags;
	bool		has_ttl;
	uint64_t	cas;			/* c: the item's CAS token */
	uint32_t	opaque;			/* O: decimal, as the request sent it */
	uint64_t	size;			/* s: the value's length */
	uint32_t	client_flags;	/* f */
	int64_t		ttl;			/* t: seconds left; -1: no end */
	size_t		value_len;		/* of EC_REPLY_VA, at most EC_VALUE_MAX */
	const char *text;			/* into the buffer: see the kinds; else NULL */
	size_t		text_len;		/* may be 0, but not of STAT, VERSION, DUMP */
} EcReply;

/*
 * Parse one answer line at the head of buf[0..len).  Never reads past len.  With
 * EC_REPLY_INCOMPLETE nothing is consumed; a line of EC_LINE_MAX bytes without an end is
 * EC_REPLY_MALFORMED.  Lines end in \r\n, those of metadump in a bare \n.  Text is printable
 * ASCII, so that it can go into a message as it is; STAT's may hold bytes over 0x7f too, but
 * no control characters.
 */
extern void ec_reply_parse(const char *buf, size_t len, EcReply *reply);

/*
 * A memcached's version, as it says it, as a number: EC_VERSION(1, 6, 18) for "1.6.18" and
 * whatever follows that; EC_VERSION_UNKNOWN, which is above all others, for what does not begin
 * with three numbers.
 */
#define EC_VERSION(a, b, c)	((a) * 1000000 + (b) * 1000 + (c))
#define EC_VERSION_UNKNOWN	INT32_MAX

extern int	ec_reply_version(const char *text, size_t len);

#endif							/* ECHOCACHE_PROTOCOL_REPLY_H */
