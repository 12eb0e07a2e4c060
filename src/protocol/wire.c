/*-------------------------------------------------------------------------
 *
 * wire.c
 *	  Requests of memcached's meta protocol, as bytes.
 *
 * Invariant: a request is whole and well-formed, or nothing at all.  No byte that a caller
 * hands in can end a line early or begin another request.
 *
 * Pure: see wire.h.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>

#include "protocol/wire.h"

#define put_literal(p, s)	put(p, s, sizeof(s) - 1)

static char *put_number(char *p, uint64_t value);
static char *put_command(char *p, const char *command, const char *key, size_t keylen);
static char *put_ttl(char *p, int64_t ttl);
static size_t put_opaque(char *dst, char *p, uint32_t opaque);

/* Append len bytes; returns the new end. */
static inline char *
put(char *p, const char *src, size_t len)
{
	memcpy(p, src, len);
	return p + len;
}

/* Append a number in decimal; returns the new end. */
static char *
put_number(char *p, uint64_t value)
{
	char		digits[20];		/* as many as UINT64_MAX has */
	char	   *first = digits + sizeof(digits);

	do
	{
		*--first = (char) ('0' + value % 10);
		value /= 10;
	} while (value > 0);
	return put(p, first, (size_t) (digits + sizeof(digits) - first));
}

/*
 * Append a command of two letters, a space and the key; returns the new end, or
 * NULL if the length is not a key's, since the request would not fit.
 */
static char *
put_command(char *p, const char *command, const char *key, size_t keylen)
{
	if (keylen == 0 || keylen > EC_KEY_MAX)
		return NULL;
	p = put(p, command, 2);
	*p++ = ' ';
	return put(p, key, keylen);
}

/*
 * Append the T flag.  memcached keeps the low 32 bits of what it is sent, so that an absolute
 * time after January 2038 would be one long past: the latest that it can express is sent
 * instead.
 */
static char *
put_ttl(char *p, int64_t ttl)
{
	p = put_literal(p, " T");
	if (ttl < 0)
		return put_literal(p, "-1");
	return put_number(p, ttl < INT32_MAX ? (uint64_t) ttl : INT32_MAX);
}

/* Append the O flag and the line end, the last of every request; returns the line's length. */
static size_t
put_opaque(char *dst, char *p, uint32_t opaque)
{
	p = put_literal(p, " O");
	p = put_number(p, opaque);
	p = put_literal(p, "\r\n");
	return (size_t) (p - dst);
}

/* mg with the value and the CAS token, and renewal if touch_ttl >= 0; see wire.h. */
size_t
ec_wire_get(char *dst, const char *key, size_t keylen, int64_t touch_ttl, uint32_t opaque)
{
	char	   *p = put_command(dst, "mg", key, keylen);

	if (p == NULL)
		return 0;
	p = put_literal(p, " v c");
	if (touch_ttl >= 0)
		p = put_ttl(p, touch_ttl);
	return put_opaque(dst, p, opaque);
}

/* mg that renews the TTL and returns the size alone; see wire.h. */
size_t
ec_wire_touch(char *dst, const char *key, size_t keylen, int64_t ttl, uint32_t opaque)
{
	char	   *p = put_command(dst, "mg", key, keylen);

	if (p == NULL)
		return 0;
	p = put_literal(p, " s");
	p = put_ttl(p, ttl);
	return put_opaque(dst, p, opaque);
}

/* mg for the size alone; see wire.h. */
size_t
ec_wire_look(char *dst, const char *key, size_t keylen, uint32_t opaque)
{
	char	   *p = put_command(dst, "mg", key, keylen);

	if (p == NULL)
		return 0;
	return put_opaque(dst, put_literal(p, " s"), opaque);
}

/* mg for all that there is to know of an item; see wire.h. */
size_t
ec_wire_inspect(char *dst, const char *key, size_t keylen, uint32_t opaque)
{
	char	   *p = put_command(dst, "mg", key, keylen);

	if (p == NULL)
		return 0;
	return put_opaque(dst, put_literal(p, " v c f t"), opaque);
}

/* mg for the CAS token alone; see wire.h. */
size_t
ec_wire_token(char *dst, const char *key, size_t keylen, uint32_t opaque)
{
	char	   *p = put_command(dst, "mg", key, keylen);

	if (p == NULL)
		return 0;
	return put_opaque(dst, put_literal(p, " c"), opaque);
}

/* The first line of ms; see wire.h. */
size_t
ec_wire_set(char *dst, const char *key, size_t keylen, size_t value_len,
			char mode, uint64_t cas, int64_t ttl, bool quiet, bool old, uint32_t opaque)
{
	char	   *p = put_command(dst, "ms", key, keylen);

	if (p == NULL)
		return 0;
	*p++ = ' ';
	if (old)
		*p++ = 'S';
	p = put_number(p, value_len);
	if (cas == 0 && !old)
		p = put_literal(p, " c");
	else if (cas != 0)
	{
		p = put_literal(p, " C");
		p = put_number(p, cas);
	}
	if (mode != 0)
	{
		p = put_literal(p, " M");
		*p++ = mode;
	}
	/* Without T an item does not expire, which is what T0 says as well. */
	if (ttl != 0)
		p = put_ttl(p, ttl);
	if (quiet)
		p = put_literal(p, " q");
	return put_opaque(dst, p, opaque);
}

/* md; see wire.h. */
size_t
ec_wire_delete(char *dst, const char *key, size_t keylen,
			   uint64_t cas, bool quiet, uint32_t opaque)
{
	char	   *p = put_command(dst, "md", key, keylen);

	if (p == NULL)
		return 0;
	if (cas != 0)
	{
		p = put_literal(p, " C");
		p = put_number(p, cas);
	}
	if (quiet)
		p = put_literal(p, " q");
	return put_opaque(dst, p, opaque);
}

/* ma; see wire.h. */
size_t
ec_wire_arithmetic(char *dst, const char *key, size_t keylen, bool subtract, uint64_t delta,
				   uint32_t opaque)
{
	char	   *p = put_command(dst, "ma", key, keylen);

	if (p == NULL)
		return 0;
	p = put(p, subtract ? " MD" : " MI", 3);
	p = put_literal(p, " D");
	p = put_number(p, delta);
	p = put_literal(p, " v c");
	return put_opaque(dst, p, opaque);
}

/* mn: answered when everything before it on the connection has been. */
size_t
ec_wire_barrier(char *dst)
{
	return (size_t) (put_literal(dst, "mn\r\n") - dst);
}

/* version: of the server; a proxy answers for itself. */
size_t
ec_wire_version(char *dst)
{
	return (size_t) (put_literal(dst, "version\r\n") - dst);
}

/* lru_crawler metadump: of the hash table, since a walk of the LRUs can miss keys. */
size_t
ec_wire_metadump(char *dst)
{
	return (size_t) (put_literal(dst, "lru_crawler metadump hash\r\n") - dst);
}

/* flush_all: every item that is there now is gone, at once. */
size_t
ec_wire_flush(char *dst)
{
	return (size_t) (put_literal(dst, "flush_all\r\n") - dst);
}

/* stats, of a group or (NULL) in general; see wire.h. */
size_t
ec_wire_stats(char *dst, const char *group)
{
	char	   *p = put_literal(dst, "stats");

	if (group != NULL)
	{
		size_t		len = strlen(group);
		size_t		i;

		if (len == 0 || len > EC_KEY_MAX)
			return 0;
		for (i = 0; i < len; i++)
		{
			if (!ec_wire_is_graphic(group[i]) && group[i] != ' ')
				return 0;
		}
		*p++ = ' ';
		p = put(p, group, len);
	}
	p = put_literal(p, "\r\n");
	return (size_t) (p - dst);
}

/* Up to EC_USER_MAX bytes, of which none is a space, a colon or a control character. */
bool
ec_wire_valid_user(const char *user)
{
	size_t		len;

	for (len = 0; user[len] != '\0'; len++)
	{
		unsigned char c = (unsigned char) user[len];

		if (len == EC_USER_MAX || c <= 0x20 || c == 0x7f || c == ':')
			return false;
	}
	return true;
}

/* Up to EC_PASSWORD_MAX bytes, of which none is a space or belongs to a line end. */
bool
ec_wire_valid_password(const char *password)
{
	size_t		len = strcspn(password, " \r\n");

	return len <= EC_PASSWORD_MAX && password[len] == '\0';
}

/* Authentication; see wire.h.  memcached looks at the length and the value alone. */
size_t
ec_wire_auth(char *dst, const char *user, const char *password)
{
	size_t		userlen = strlen(user);
	size_t		passwordlen = strlen(password);
	char	   *p = dst;

	if (userlen == 0 || passwordlen == 0 || !ec_wire_valid_user(user) ||
		!ec_wire_valid_password(password))
		return 0;
	p = put_literal(p, "set echocache 0 -1 ");
	p = put_number(p, userlen + 1 + passwordlen);
	p = put_literal(p, "\r\n");
	p = put(p, user, userlen);
	*p++ = ' ';
	p = put(p, password, passwordlen);
	p = put_literal(p, "\r\n");
	return (size_t) (p - dst);
}

/*
 * Decode metadump's percent-encoding of a key; see wire.h.  A key can hold any byte if it was
 * stored base64-encoded or by the binary protocol.  One with a space or a line end, sent in a
 * request, would be a second request: so bytes that no key of ours has are refused here, before
 * anybody can send them.
 */
int
ec_wire_decode_key(char *dst, const char *src, size_t srclen)
{
	const char *end = src + srclen;
	int			len = 0;

	while (src < end)
	{
		char		c;

		if (!ec_wire_percent(&src, end, &c))
			return -1;
		if (!ec_wire_is_graphic(c) || len == EC_KEY_MAX)
			return -1;
		dst[len++] = c;
	}
	return len > 0 ? len : -1;
}
