/*-------------------------------------------------------------------------
 *
 * wire.c
 *	  memcached's meta protocol: requests as bytes, answers as structures.
 *
 * Invariant: an answer is either wholly understood or EC_REPLY_MALFORMED.
 * Nothing is skipped on the way: every byte of a line is accounted for by the
 * shape of its kind, every number is decimal in the one way memcached writes
 * it and within its type, and whatever reaches the caller in text is printable.
 * What memcached may add in a later version (a flag, a field of metadump) is
 * tolerated only where its shape says where it ends.
 *
 * Pure: see wire.h.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "wire.h"

#include <string.h>

/* What may follow the first word of an answer. */
typedef enum EcTail
{
	EC_TAIL_NONE,				/* nothing */
	EC_TAIL_ANY,				/* nothing, or a space and text */
	EC_TAIL_TEXT				/* a space and text that does not start with one */
} EcTail;

typedef struct EcWord
{
	const char *word;
	size_t		len;
	EcReplyKind kind;
	EcTail		tail;
} EcWord;

#define EC_WORD(word, kind, tail)	{word, sizeof(word) - 1, kind, tail}

/* The answers that are words, not the two letters of the meta commands. */
static const EcWord ec_words[] = {
	EC_WORD("STAT", EC_REPLY_STAT, EC_TAIL_TEXT),
	EC_WORD("END", EC_REPLY_END, EC_TAIL_NONE),
	EC_WORD("OK", EC_REPLY_OK, EC_TAIL_NONE),
	EC_WORD("RESET", EC_REPLY_OK, EC_TAIL_NONE),
	EC_WORD("STORED", EC_REPLY_STORED, EC_TAIL_NONE),
	EC_WORD("VERSION", EC_REPLY_VERSION, EC_TAIL_TEXT),
	EC_WORD("BUSY", EC_REPLY_BUSY, EC_TAIL_ANY),
	EC_WORD("ERROR", EC_REPLY_ERROR, EC_TAIL_ANY),
	EC_WORD("CLIENT_ERROR", EC_REPLY_CLIENT_ERROR, EC_TAIL_ANY),
	EC_WORD("SERVER_ERROR", EC_REPLY_SERVER_ERROR, EC_TAIL_ANY),
};

static EcReplyKind ec_parse_line(const char *line, const char *end, EcReply *reply);
static EcReplyKind ec_parse_meta(const char *line, const char *end, EcReply *reply);
static EcReplyKind ec_parse_word(const char *line, const char *end, EcReply *reply);
static EcReplyKind ec_parse_dump(const char *line, const char *end, EcReply *reply);
static bool ec_parse_flags(const char *p, const char *end, EcReply *reply);
static bool ec_parse_number(const char **p, const char *end, uint64_t max, uint64_t *value);
static char *ec_put(char *p, const char *src, size_t len);
static char *ec_put_number(char *p, uint64_t value);
static char *ec_put_command(char *p, const char *command, const char *key, size_t keylen);
static char *ec_put_ttl(char *p, int64_t ttl);
static size_t ec_put_opaque(char *dst, char *p, uint32_t opaque);

/* Is it a byte of a key or of a flag's token: 0x21..0x7e? */
static inline bool
ec_is_graphic(char c)
{
	return c > 0x20 && c < 0x7f;
}

static inline bool
ec_is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The value of a hexadecimal digit, or -1. */
static inline int
ec_hex_value(char c)
{
	if (ec_is_digit(c))
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/*
 * Parse the answer line at the head of buf[0..len); see wire.h.  Only the line
 * is looked at, never what follows it, so the answer does not depend on how
 * much of the stream has arrived behind it.
 */
void
ec_reply_parse(const char *buf, size_t len, EcReply *reply)
{
	size_t		limit = len < EC_LINE_MAX ? len : EC_LINE_MAX;
	const char *nl = limit > 0 ? memchr(buf, '\n', limit) : NULL;

	memset(reply, 0, sizeof(*reply));

	if (nl == NULL)
	{
		reply->kind = len < EC_LINE_MAX ? EC_REPLY_INCOMPLETE : EC_REPLY_MALFORMED;
		return;
	}

	reply->kind = ec_parse_line(buf, nl, reply);
	if (reply->kind == EC_REPLY_MALFORMED)
	{
		/* Leave nothing half understood behind. */
		memset(reply, 0, sizeof(*reply));
		reply->kind = EC_REPLY_MALFORMED;
		return;
	}
	reply->line_len = (size_t) (nl - buf) + 1;
}

/*
 * Parse a line that ends before the \n at nl.  Returns its kind; the fields of
 * reply are of use only if that is not EC_REPLY_MALFORMED.
 */
static EcReplyKind
ec_parse_line(const char *line, const char *nl, EcReply *reply)
{
	const char *end = nl;
	bool		has_cr = nl > line && nl[-1] == '\r';

	if (has_cr)
		end--;

	/* Of all answers, metadump's lines alone end in a bare \n. */
	if (end - line > 4 && memcmp(line, "key=", 4) == 0)
		return ec_parse_dump(line, end, reply);
	if (!has_cr)
		return EC_REPLY_MALFORMED;

	/* "OK" has the looks of a meta answer, and is none. */
	if (end - line >= 2 && (end - line == 2 || line[2] == ' ') && line[0] != 'O')
		return ec_parse_meta(line, end, reply);
	return ec_parse_word(line, end, reply);
}

/* Parse the answer of a meta command: two letters, a size if they are VA, flags. */
static EcReplyKind
ec_parse_meta(const char *line, const char *end, EcReply *reply)
{
	const char *p = line + 2;
	EcReplyKind kind = EC_REPLY_MALFORMED;

	switch (line[0])
	{
		case 'V':
			if (line[1] == 'A')
			{
				uint64_t	size;

				if (p == end)
					return EC_REPLY_MALFORMED;
				p++;			/* the space */
				if (!ec_parse_number(&p, end, EC_VALUE_MAX, &size))
					return EC_REPLY_MALFORMED;
				reply->value_len = (size_t) size;
				kind = EC_REPLY_VA;
			}
			break;
		case 'H':
			if (line[1] == 'D')
				kind = EC_REPLY_HD;
			break;
		case 'E':
			if (line[1] == 'N')
				kind = EC_REPLY_EN;
			else if (line[1] == 'X')
				kind = EC_REPLY_EX;
			break;
		case 'N':
			if (line[1] == 'F')
				kind = EC_REPLY_NF;
			else if (line[1] == 'S')
				kind = EC_REPLY_NS;
			break;
		case 'M':
			/* A barrier's answer that carries anything is not ours. */
			if (line[1] == 'N' && p == end)
				kind = EC_REPLY_MN;
			break;
		default:
			break;
	}

	if (kind == EC_REPLY_MALFORMED || !ec_parse_flags(p, end, reply))
		return EC_REPLY_MALFORMED;
	return kind;
}

/*
 * Parse what follows a meta answer's code: flags, each a space, a letter and
 * what belongs to it.  A flag that we never ask for is skipped if it has this
 * shape; one that we do ask for must be a number of its type and come once.
 */
static bool
ec_parse_flags(const char *p, const char *end, EcReply *reply)
{
	uint64_t	value;

	while (p < end)
	{
		char		flag;

		if (*p++ != ' ' || p == end)
			return false;
		flag = *p++;

		switch (flag)
		{
			case 'c':
				if (reply->has_cas || !ec_parse_number(&p, end, UINT64_MAX, &reply->cas))
					return false;
				reply->has_cas = true;
				break;
			case 'O':
				if (reply->has_opaque || !ec_parse_number(&p, end, UINT32_MAX, &value))
					return false;
				reply->opaque = (uint32_t) value;
				reply->has_opaque = true;
				break;
			case 't':
				if (reply->has_ttl)
					return false;
				if (end - p >= 2 && p[0] == '-' && p[1] == '1')
				{
					reply->ttl = -1;
					p += 2;
				}
				else if (ec_parse_number(&p, end, UINT32_MAX, &value))
					reply->ttl = (int64_t) value;
				else
					return false;
				reply->has_ttl = true;
				break;
			case 's':
				if (reply->has_size || !ec_parse_number(&p, end, UINT64_MAX, &reply->size))
					return false;
				reply->has_size = true;
				break;
			case 'f':
				if (reply->has_flags || !ec_parse_number(&p, end, UINT32_MAX, &value))
					return false;
				reply->client_flags = (uint32_t) value;
				reply->has_flags = true;
				break;
			default:
				if (!((flag >= 'a' && flag <= 'z') || (flag >= 'A' && flag <= 'Z')))
					return false;
				while (p < end && ec_is_graphic(*p))
					p++;
				break;
		}
		/* The next round, or the end of the loop, sees that the flag ends here. */
	}
	return true;
}

/* Parse an answer that is a word, alone or with text, into the kind it stands for. */
static EcReplyKind
ec_parse_word(const char *line, const char *end, EcReply *reply)
{
	size_t		len = (size_t) (end - line);
	size_t		i;

	for (i = 0; i < sizeof(ec_words) / sizeof(ec_words[0]); i++)
	{
		const EcWord *w = &ec_words[i];
		const char *p = line + w->len;

		if (len < w->len || memcmp(line, w->word, w->len) != 0)
			continue;

		if (w->tail == EC_TAIL_NONE)
			return p == end ? w->kind : EC_REPLY_MALFORMED;

		if (p < end && *p++ != ' ')
			return EC_REPLY_MALFORMED;
		if (w->tail == EC_TAIL_TEXT && (p == end || *p == ' '))
			return EC_REPLY_MALFORMED;

		reply->text = p;
		reply->text_len = (size_t) (end - p);

		/* A statistic may be a path, in any encoding; all the rest is ASCII. */
		for (; p < end; p++)
		{
			unsigned char c = (unsigned char) *p;

			if (c < 0x20 || c == 0x7f || (c > 0x7f && w->kind != EC_REPLY_STAT))
				return EC_REPLY_MALFORMED;
		}
		return w->kind;
	}
	return EC_REPLY_MALFORMED;
}

/*
 * Parse a line of metadump, known to begin with key= : the key, as it is
 * encoded, then exp=, then fields that differ from version to version, with a
 * space after the last of them since 1.6.39.
 */
static EcReplyKind
ec_parse_dump(const char *line, const char *end, EcReply *reply)
{
	const char *key = line + 4;
	const char *p = key;
	uint64_t	expiry;

	while (p < end && ec_is_graphic(*p))
		p++;
	if (p == key || p - key > 3 * EC_KEY_MAX)
		return EC_REPLY_MALFORMED;
	reply->text = key;
	reply->text_len = (size_t) (p - key);

	if (end - p < 5 || memcmp(p, " exp=", 5) != 0)
		return EC_REPLY_MALFORMED;
	p += 5;
	if (p < end && *p == '-')
		p++;
	if (!ec_parse_number(&p, end, INT64_MAX, &expiry))
		return EC_REPLY_MALFORMED;
	if (p < end && *p != ' ')
		return EC_REPLY_MALFORMED;

	for (; p < end; p++)
	{
		if (!ec_is_graphic(*p) && *p != ' ')
			return EC_REPLY_MALFORMED;
	}
	return EC_REPLY_DUMP;
}

/*
 * Take a decimal number of at most max (at least 9) from *p, which is moved
 * behind it.  False without a digit, above max, and for 0 followed by a digit:
 * memcached writes a number in one way, and echoes our opaque as we wrote it.
 */
static bool
ec_parse_number(const char **p, const char *end, uint64_t max, uint64_t *value)
{
	const char *s = *p;
	uint64_t	v = 0;

	if (s == end || !ec_is_digit(*s))
		return false;
	if (*s == '0' && end - s > 1 && ec_is_digit(s[1]))
		return false;

	for (; s < end && ec_is_digit(*s); s++)
	{
		uint64_t	digit = (uint64_t) (*s - '0');

		if (v > (max - digit) / 10)
			return false;
		v = v * 10 + digit;
	}
	*p = s;
	*value = v;
	return true;
}

/* Append len bytes; returns the new end. */
static inline char *
ec_put(char *p, const char *src, size_t len)
{
	memcpy(p, src, len);
	return p + len;
}

#define ec_put_literal(p, s)	ec_put(p, s, sizeof(s) - 1)

/* Append a number in decimal; returns the new end. */
static char *
ec_put_number(char *p, uint64_t value)
{
	char		digits[20];		/* as many as UINT64_MAX has */
	char	   *first = digits + sizeof(digits);

	do
	{
		*--first = (char) ('0' + value % 10);
		value /= 10;
	} while (value > 0);
	return ec_put(p, first, (size_t) (digits + sizeof(digits) - first));
}

/*
 * Append a command of two letters, a space and the key; returns the new end, or
 * NULL if the length is not a key's, since the request would not fit.
 */
static char *
ec_put_command(char *p, const char *command, const char *key, size_t keylen)
{
	if (keylen == 0 || keylen > EC_KEY_MAX)
		return NULL;
	p = ec_put(p, command, 2);
	*p++ = ' ';
	return ec_put(p, key, keylen);
}

/*
 * Append the T flag.  memcached keeps the low 32 bits of what it is sent, so
 * that an absolute time after January 2038 would be one long past: the latest
 * that it can express is sent instead.
 */
static char *
ec_put_ttl(char *p, int64_t ttl)
{
	p = ec_put_literal(p, " T");
	if (ttl < 0)
		return ec_put_literal(p, "-1");
	return ec_put_number(p, ttl < INT32_MAX ? (uint64_t) ttl : INT32_MAX);
}

/* Append the O flag and the line end, the last of every request; returns the line's length. */
static size_t
ec_put_opaque(char *dst, char *p, uint32_t opaque)
{
	p = ec_put_literal(p, " O");
	p = ec_put_number(p, opaque);
	p = ec_put_literal(p, "\r\n");
	return (size_t) (p - dst);
}

/* mg with the value and the CAS token, and renewal if touch_ttl >= 0; see wire.h. */
size_t
ec_wire_get(char *dst, const char *key, size_t keylen, int64_t touch_ttl, uint32_t opaque)
{
	char	   *p = ec_put_command(dst, "mg", key, keylen);

	if (p == NULL)
		return 0;
	p = ec_put_literal(p, " v c");
	if (touch_ttl >= 0)
		p = ec_put_ttl(p, touch_ttl);
	return ec_put_opaque(dst, p, opaque);
}

/* mg that renews the TTL and returns the size alone; see wire.h. */
size_t
ec_wire_touch(char *dst, const char *key, size_t keylen, int64_t ttl, uint32_t opaque)
{
	char	   *p = ec_put_command(dst, "mg", key, keylen);

	if (p == NULL)
		return 0;
	p = ec_put_literal(p, " s");
	p = ec_put_ttl(p, ttl);
	return ec_put_opaque(dst, p, opaque);
}

/* mg for the size alone; see wire.h. */
size_t
ec_wire_look(char *dst, const char *key, size_t keylen, uint32_t opaque)
{
	char	   *p = ec_put_command(dst, "mg", key, keylen);

	if (p == NULL)
		return 0;
	return ec_put_opaque(dst, ec_put_literal(p, " s"), opaque);
}

/* mg for all that there is to know of an item; see wire.h. */
size_t
ec_wire_inspect(char *dst, const char *key, size_t keylen, uint32_t opaque)
{
	char	   *p = ec_put_command(dst, "mg", key, keylen);

	if (p == NULL)
		return 0;
	return ec_put_opaque(dst, ec_put_literal(p, " v c f"), opaque);
}

/* The first line of ms; see wire.h. */
size_t
ec_wire_set(char *dst, const char *key, size_t keylen, size_t value_len,
			char mode, uint64_t cas, int64_t ttl, bool quiet, uint32_t opaque)
{
	char	   *p = ec_put_command(dst, "ms", key, keylen);

	if (p == NULL)
		return 0;
	*p++ = ' ';
	p = ec_put_number(p, value_len);
	if (cas == 0)
		p = ec_put_literal(p, " c");
	else
	{
		p = ec_put_literal(p, " C");
		p = ec_put_number(p, cas);
	}
	if (mode != 0)
	{
		p = ec_put_literal(p, " M");
		*p++ = mode;
	}
	/* Without T an item does not expire, which is what T0 says as well. */
	if (ttl != 0)
		p = ec_put_ttl(p, ttl);
	if (quiet)
		p = ec_put_literal(p, " q");
	return ec_put_opaque(dst, p, opaque);
}

/* md; see wire.h. */
size_t
ec_wire_delete(char *dst, const char *key, size_t keylen,
			   uint64_t cas, bool quiet, uint32_t opaque)
{
	char	   *p = ec_put_command(dst, "md", key, keylen);

	if (p == NULL)
		return 0;
	if (cas != 0)
	{
		p = ec_put_literal(p, " C");
		p = ec_put_number(p, cas);
	}
	if (quiet)
		p = ec_put_literal(p, " q");
	return ec_put_opaque(dst, p, opaque);
}

/* ma; see wire.h. */
size_t
ec_wire_arithmetic(char *dst, const char *key, size_t keylen, bool subtract, uint64_t delta,
				   uint32_t opaque)
{
	char	   *p = ec_put_command(dst, "ma", key, keylen);

	if (p == NULL)
		return 0;
	p = ec_put(p, subtract ? " MD" : " MI", 3);
	p = ec_put_literal(p, " D");
	p = ec_put_number(p, delta);
	p = ec_put_literal(p, " v c");
	return ec_put_opaque(dst, p, opaque);
}

/* mn: answered when everything before it on the connection has been. */
size_t
ec_wire_barrier(char *dst)
{
	return (size_t) (ec_put_literal(dst, "mn\r\n") - dst);
}

/* lru_crawler metadump: of the hash table, since a walk of the LRUs can miss keys. */
size_t
ec_wire_metadump(char *dst)
{
	return (size_t) (ec_put_literal(dst, "lru_crawler metadump hash\r\n") - dst);
}

/* flush_all: every item that is there now is gone, at once. */
size_t
ec_wire_flush(char *dst)
{
	return (size_t) (ec_put_literal(dst, "flush_all\r\n") - dst);
}

/* stats, of a group or (NULL) in general; see wire.h. */
size_t
ec_wire_stats(char *dst, const char *group)
{
	char	   *p = ec_put_literal(dst, "stats");

	if (group != NULL)
	{
		size_t		len = strlen(group);
		size_t		i;

		if (len == 0 || len > EC_KEY_MAX)
			return 0;
		for (i = 0; i < len; i++)
		{
			if (!ec_is_graphic(group[i]) && group[i] != ' ')
				return 0;
		}
		*p++ = ' ';
		p = ec_put(p, group, len);
	}
	p = ec_put_literal(p, "\r\n");
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
	p = ec_put_literal(p, "set echocache 0 -1 ");
	p = ec_put_number(p, userlen + 1 + passwordlen);
	p = ec_put_literal(p, "\r\n");
	p = ec_put(p, user, userlen);
	*p++ = ' ';
	p = ec_put(p, password, passwordlen);
	p = ec_put_literal(p, "\r\n");
	return (size_t) (p - dst);
}

/*
 * Decode metadump's percent-encoding of a key; see wire.h.  A key can hold any
 * byte if it was stored base64-encoded or by the binary protocol.  One with a
 * space or a line end, sent in a request, would be a second request: so bytes
 * that no key of ours has are refused here, before anybody can send them.
 */
int
ec_wire_decode_key(char *dst, const char *src, size_t srclen)
{
	const char *end = src + srclen;
	int			len = 0;

	while (src < end)
	{
		char		c = *src++;

		if (c == '%')
		{
			int			high = src < end ? ec_hex_value(*src++) : -1;
			int			low = src < end ? ec_hex_value(*src++) : -1;

			if (high < 0 || low < 0)
				return -1;
			c = (char) (high << 4 | low);
		}
		if (!ec_is_graphic(c) || len == EC_KEY_MAX)
			return -1;
		dst[len++] = c;
	}
	return len > 0 ? len : -1;
}
