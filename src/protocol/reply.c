/*-------------------------------------------------------------------------
 *
 * reply.c
 *	  memcached's answers: from bytes to structures.
 *
 * Invariant: an answer is either wholly understood or EC_REPLY_MALFORMED.  Nothing is skipped
 * on the way: every byte of a line is accounted for by the shape of its kind, every number is
 * decimal in the one way memcached writes it and within its type, and whatever reaches the
 * caller in text is printable.  What memcached may add in a later version (a flag, a field of
 * metadump) is tolerated only where its shape says where it ends.
 *
 * Pure: see reply.h.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>

#include "protocol/reply.h"
#include "protocol/wire.h"

/* What may follow the first word of an answer. */
typedef enum Tail
{
	TAIL_NONE,					/* nothing */
	TAIL_ANY,					/* nothing, or a space and text */
	TAIL_TEXT					/* a space and text that does not start with one */
} Tail;

typedef struct Word
{
	const char *word;
	size_t		len;
	EcReplyKind kind;
	Tail		tail;
} Word;

#define WORD(word, kind, tail)	{word, sizeof(word) - 1, kind, tail}

/* The answers that are words, not the two letters of the meta commands. */
static const Word words[] = {
	WORD("STAT", EC_REPLY_STAT, TAIL_TEXT),
	WORD("END", EC_REPLY_END, TAIL_NONE),
	WORD("OK", EC_REPLY_OK, TAIL_NONE),
	WORD("RESET", EC_REPLY_OK, TAIL_NONE),
	WORD("STORED", EC_REPLY_STORED, TAIL_NONE),
	WORD("VERSION", EC_REPLY_VERSION, TAIL_TEXT),
	WORD("BUSY", EC_REPLY_BUSY, TAIL_ANY),
	WORD("ERROR", EC_REPLY_ERROR, TAIL_ANY),
	WORD("CLIENT_ERROR", EC_REPLY_CLIENT_ERROR, TAIL_ANY),
	WORD("SERVER_ERROR", EC_REPLY_SERVER_ERROR, TAIL_ANY),
};

static EcReplyKind parse_line(const char *line, const char *nl, EcReply *reply);
static EcReplyKind parse_meta(const char *line, const char *end, EcReply *reply);
static bool parse_flags(const char *p, const char *end, EcReply *reply);
static EcReplyKind parse_word(const char *line, const char *end, EcReply *reply);
static EcReplyKind parse_dump(const char *line, const char *end, EcReply *reply);
static bool parse_number(const char **p, const char *end, uint64_t max, uint64_t *value);

/* Is it a decimal digit, in any locale? */
static inline bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/*
 * Parse the answer line at the head of buf[0..len); see reply.h.  Only the line is looked at,
 * never what follows it, so the answer does not depend on how much of the stream has arrived
 * behind it.
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

	reply->kind = parse_line(buf, nl, reply);
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
parse_line(const char *line, const char *nl, EcReply *reply)
{
	const char *end = nl;
	bool		has_cr = nl > line && nl[-1] == '\r';

	if (has_cr)
		end--;

	/* Of all answers, metadump's lines alone end in a bare \n. */
	if (end - line > 4 && memcmp(line, "key=", 4) == 0)
		return parse_dump(line, end, reply);
	if (!has_cr)
		return EC_REPLY_MALFORMED;

	/* "OK" alone looks like a meta answer, and is none of ours, which have an opaque */
	if (end - line >= 2 && (end - line == 2 ? line[0] != 'O' : line[2] == ' '))
		return parse_meta(line, end, reply);
	return parse_word(line, end, reply);
}

/*
 * Parse the answer of a meta command: two letters, a size if they are VA, flags.  Before 1.6.10
 * memcached says OK for HD; before 1.6.18 it puts two spaces behind most of the codes.
 */
static EcReplyKind
parse_meta(const char *line, const char *end, EcReply *reply)
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
				if (!parse_number(&p, end, EC_VALUE_MAX, &size))
					return EC_REPLY_MALFORMED;
				reply->value_len = (size_t) size;
				kind = EC_REPLY_VA;
			}
			break;
		case 'H':
			if (line[1] == 'D')
				kind = EC_REPLY_HD;
			break;
		case 'O':
			if (line[1] == 'K')
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

	if (kind != EC_REPLY_VA && end - p > 2 && p[1] == ' ')
		p++;
	if (kind == EC_REPLY_MALFORMED || !parse_flags(p, end, reply))
		return EC_REPLY_MALFORMED;
	return kind;
}

/*
 * Parse what follows a meta answer's code: flags, each a space, a letter and what belongs to
 * it.  One whose type is known is a number of that type and comes once; any other is skipped
 * if it has this shape.
 */
static bool
parse_flags(const char *p, const char *end, EcReply *reply)
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
				if (reply->has_cas || !parse_number(&p, end, UINT64_MAX, &reply->cas))
					return false;
				reply->has_cas = true;
				break;
			case 'O':
				if (reply->has_opaque || !parse_number(&p, end, UINT32_MAX, &value))
					return false;
				reply->opaque = (uint32_t) value;
				reply->has_opaque = true;
				break;
			case 't':
				/* seconds left, -1 for no expiry */
				if (reply->has_ttl)
					return false;
				reply->ttl = -1;
				if (end - p >= 2 && p[0] == '-' && p[1] == '1')
					p += 2;
				else if (!parse_number(&p, end, UINT32_MAX, &value))
					return false;
				else
					reply->ttl = (int64_t) value;
				reply->has_ttl = true;
				break;
			case 's':
				if (reply->has_size || !parse_number(&p, end, UINT64_MAX, &reply->size))
					return false;
				reply->has_size = true;
				break;
			case 'f':
				if (reply->has_flags || !parse_number(&p, end, UINT32_MAX, &value))
					return false;
				reply->client_flags = (uint32_t) value;
				reply->has_flags = true;
				break;
			default:
				if (!((flag >= 'a' && flag <= 'z') || (flag >= 'A' && flag <= 'Z')))
					return false;
				while (p < end && ec_wire_is_graphic(*p))
					p++;
				break;
		}
		/* The next round, or the end of the loop, sees that the flag ends here. */
	}
	return true;
}

/* Parse an answer that is a word, alone or with text, into the kind it stands for. */
static EcReplyKind
parse_word(const char *line, const char *end, EcReply *reply)
{
	size_t		len = (size_t) (end - line);
	size_t		i;

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++)
	{
		const Word *w = &words[i];
		const char *p = line + w->len;

		if (len < w->len || memcmp(line, w->word, w->len) != 0)
			continue;

		if (w->tail == TAIL_NONE)
			return p == end ? w->kind : EC_REPLY_MALFORMED;

		if (p < end && *p++ != ' ')
			return EC_REPLY_MALFORMED;
		if (w->tail == TAIL_TEXT && (p == end || *p == ' '))
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
 * Parse a line of metadump, known to begin with key= : the key, as it is encoded, then exp=,
 * then fields that differ from version to version, with a space after the last of them since
 * 1.6.39.
 */
static EcReplyKind
parse_dump(const char *line, const char *end, EcReply *reply)
{
	const char *key = line + 4;
	const char *p = key;
	uint64_t	expiry;

	while (p < end && ec_wire_is_graphic(*p))
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
	if (!parse_number(&p, end, INT64_MAX, &expiry))
		return EC_REPLY_MALFORMED;
	if (p < end && *p != ' ')
		return EC_REPLY_MALFORMED;

	for (; p < end; p++)
	{
		if (!ec_wire_is_graphic(*p) && *p != ' ')
			return EC_REPLY_MALFORMED;
	}
	return EC_REPLY_DUMP;
}

/*
 * Take a decimal number of at most max (at least 9) from *p, which is moved behind it.  False
 * without a digit, above max, and for 0 followed by a digit: memcached writes a number in one
 * way, and echoes our opaque as we wrote it.
 */
static bool
parse_number(const char **p, const char *end, uint64_t max, uint64_t *value)
{
	const char *s = *p;
	uint64_t	v = 0;

	if (s == end || !is_digit(*s))
		return false;
	if (*s == '0' && end - s > 1 && is_digit(s[1]))
		return false;

	for (; s < end && is_digit(*s); s++)
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

/* The version that a server says, as a number; see reply.h.  A part above 999 counts as 999. */
int
ec_reply_version(const char *text, size_t len)
{
	const char *end = text + len;
	int			version = 0;

	for (int part = 0; part < 3; part++)
	{
		uint64_t	number;

		if ((part > 0 && (text == end || *text++ != '.')) ||
			!parse_number(&text, end, UINT32_MAX, &number))
			return EC_VERSION_UNKNOWN;
		version = version * 1000 + (number < 999 ? (int) number : 999);
	}
	return version;
}
