/*-------------------------------------------------------------------------
 *
 * leaseline.c
 *	  The value of a lease's key: one line that says whose the keys of a prefix are.
 *
 * Fields are separated by one space and their bytes are percent-encoded where they have to be.
 * Whoever reads the line decides by it whether documents may be read, so the parser accepts
 * just what ec_leaseline_format() writes.  Everything else is somebody else's.
 *
 * Pure: see wire.h.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "protocol/leaseline.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MAGIC		"echocache1"
#define NFIELDS		14

typedef struct Field
{
	const char *text;
	size_t		len;
} Field;

static const char *const kinds[] = {NULL, "claim", "promoted", "lease"};

static size_t put_encoded(char *dst, const char *src, size_t max);
static bool split(const char *src, size_t len, Field *fields);
static bool take_number(const Field *field, uint64_t max, uint64_t *value);
static bool take_digits(const Field *field, const char *digits, size_t min, size_t max, char *dst);
static bool take_text(const Field *field, char *dst, size_t max);

/* Percent-encode a text, of which at most max bytes are taken; an empty one becomes "-". */
static size_t
put_encoded(char *dst, const char *src, size_t max)
{
	static const char hex[] = "0123456789ABCDEF";
	char	   *p = dst;

	for (size_t i = 0; i < max && src[i] != '\0'; i++)
	{
		unsigned char c = (unsigned char) src[i];

		if (c > 0x20 && c < 0x7f && c != '%' && (c != '-' || src[1] != '\0'))
			*p++ = (char) c;
		else
		{
			*p++ = '%';
			*p++ = hex[c >> 4];
			*p++ = hex[c & 15];
		}
	}
	if (p == dst)
		*p++ = '-';
	return (size_t) (p - dst);
}

size_t
ec_leaseline_format(char *dst, const EcLeaseLine *line)
{
	char		host[3 * EC_LEASE_HOST_MAX];
	char		path[3 * EC_LEASE_PATH_MAX];
	char		name[3 * EC_LEASE_NAME_MAX];
	char		whole[EC_LEASE_LINE_MAX + 1];
	size_t		hostlen = put_encoded(host, line->host, EC_LEASE_HOST_MAX);
	size_t		pathlen = put_encoded(path, line->data_directory, EC_LEASE_PATH_MAX);
	size_t		namelen = put_encoded(name, line->database_name, EC_LEASE_NAME_MAX);
	int			len;

	len = snprintf(whole, sizeof(whole),
				   MAGIC " %s %" PRIu64 " %s %" PRIu64 " %" PRIu64 " %s %s %" PRIu32
				   " %d %d %" PRIi64 " %.*s %.*s %.*s",
				   kinds[line->kind], line->system_identifier,
				   line->boot_id[0] != '\0' ? line->boot_id : "-", line->device, line->inode,
				   line->life, line->nonce, line->database, line->lease_ms, line->ready ? 1 : 0,
				   line->written_at, (int) hostlen, host, (int) pathlen, path, (int) namelen, name);
	memcpy(dst, whole, (size_t) len);
	return (size_t) len;
}

/* Find the fields behind the magic word: NFIELDS of them, none empty. */
static bool
split(const char *src, size_t len, Field *fields)
{
	const char *end = src + len;
	const size_t magic = strlen(MAGIC " ");
	int			n = 0;

	if (len < magic || memcmp(src, MAGIC " ", magic) != 0)
		return false;
	for (const char *p = src + magic;; p++)
	{
		const char *space = memchr(p, ' ', (size_t) (end - p));

		if (n == NFIELDS)
			return false;
		fields[n].text = p;
		fields[n].len = (size_t) ((space != NULL ? space : end) - p);
		if (fields[n++].len == 0)
			return false;
		if (space == NULL)
			break;
		p = space;
	}
	return n == NFIELDS;
}

/* A number in decimal: no sign, no zero before another digit, not above max. */
static bool
take_number(const Field *field, uint64_t max, uint64_t *value)
{
	*value = 0;
	if (field->len > 1 && field->text[0] == '0')
		return false;
	for (size_t i = 0; i < field->len; i++)
	{
		unsigned	digit = (unsigned) (field->text[i] - '0');

		if (field->text[i] < '0' || field->text[i] > '9' ||
			digit > max || *value > (max - digit) / 10)
			return false;
		*value = *value * 10 + digit;
	}
	return true;
}

/* A text of these characters only. */
static bool
take_digits(const Field *field, const char *digits, size_t min, size_t max, char *dst)
{
	if (field->len < min || field->len > max)
		return false;
	for (size_t i = 0; i < field->len; i++)
		if (field->text[i] == '\0' || strchr(digits, field->text[i]) == NULL)
			return false;
	memcpy(dst, field->text, field->len);
	dst[field->len] = '\0';
	return true;
}

/* A text for people: decoded, and what is not printable ASCII shown as a question mark. */
static bool
take_text(const Field *field, char *dst, size_t max)
{
	static const char hex[] = "0123456789ABCDEF";
	size_t		len = 0;

	if (field->len == 1 && field->text[0] == '-')
	{
		dst[0] = '\0';
		return true;
	}
	for (size_t i = 0; i < field->len; i++)
	{
		int			c = (unsigned char) field->text[i];

		if (c <= 0x20 || c >= 0x7f || len == max)
			return false;
		if (c == '%')
		{
			const char *high = i + 1 < field->len && field->text[i + 1] != '\0' ?
				strchr(hex, field->text[i + 1]) : NULL;
			const char *low = i + 2 < field->len && field->text[i + 2] != '\0' ?
				strchr(hex, field->text[i + 2]) : NULL;

			if (high == NULL || low == NULL)
				return false;
			c = (int) ((high - hex) << 4 | (low - hex));
			i += 2;
		}
		dst[len++] = (char) (c >= 0x20 && c < 0x7f ? c : '?');
	}
	dst[len] = '\0';
	return true;
}

bool
ec_leaseline_parse(const char *src, size_t len, EcLeaseLine *line)
{
	static const char hex[] = "0123456789abcdef";
	Field		fields[NFIELDS];
	const Field *f = fields;
	EcLeaseLine found;
	uint64_t	database;
	uint64_t	lease_ms;
	uint64_t	ready;
	uint64_t	written_at;

	memset(line, 0, sizeof(EcLeaseLine));
	memset(&found, 0, sizeof(EcLeaseLine));
	if (len > EC_LEASE_LINE_MAX || !split(src, len, fields))
		return false;
	for (EcLeaseKind kind = EC_LEASE_CLAIM; kind <= EC_LEASE_LEASE; kind++)
		if (f->len == strlen(kinds[kind]) && memcmp(f->text, kinds[kind], f->len) == 0)
			found.kind = kind;
	if (found.kind == EC_LEASE_UNKNOWN)
		return false;
	f++;
	if (!take_number(f++, UINT64_MAX, &found.system_identifier))
		return false;
	if (f->len != 1 || f->text[0] != '-')
	{
		if (!take_digits(f, "0123456789abcdef-", 2, EC_LEASE_ID_MAX, found.boot_id))
			return false;
	}
	f++;
	if (!take_number(f++, UINT64_MAX, &found.device) ||
		!take_number(f++, UINT64_MAX, &found.inode) ||
		!take_digits(f++, hex, EC_LEASE_RANDOM, EC_LEASE_RANDOM, found.life) ||
		!take_digits(f++, hex, EC_LEASE_RANDOM, EC_LEASE_RANDOM, found.nonce) ||
		!take_number(f++, UINT32_MAX, &database) ||
		!take_number(f++, 3600 * 1000, &lease_ms) ||
		!take_number(f++, 1, &ready) ||
		!take_number(f++, INT64_MAX, &written_at) ||
		!take_text(f++, found.host, EC_LEASE_HOST_MAX) ||
		!take_text(f++, found.data_directory, EC_LEASE_PATH_MAX) ||
		!take_text(f++, found.database_name, EC_LEASE_NAME_MAX))
		return false;
	found.database = (uint32_t) database;
	found.lease_ms = (int) lease_ms;
	found.ready = ready != 0;
	found.written_at = (int64_t) written_at;
	*line = found;
	return true;
}
