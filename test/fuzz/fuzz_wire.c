/*-------------------------------------------------------------------------
 *
 * fuzz_wire.c
 *	  libFuzzer harness of src/protocol/wire.c and reply.c and src/protocol/key.c.
 *
 * An input is what a server sends: it is walked answer by answer, as the client
 * walks it, and each answer must keep the promises of wire.h.  The same bytes
 * then serve as a percent-encoded key and as a row's id, whose key must survive
 * the encoding that metadump gives it.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "protocol/key.h"
#include "protocol/reply.h"
#include "protocol/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As Assert, but never compiled out: the fuzzer reports an abort as a finding. */
#define CHECK(condition) \
	do { \
		if (!(condition)) \
		{ \
			fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

/* A copy of exactly len bytes, so that the sanitizer sees one read too many. */
static char *
copy_of(const char *bytes, size_t len)
{
	char	   *copy = malloc(len > 0 ? len : 1);

	CHECK(copy != NULL);
	memcpy(copy, bytes, len);
	return copy;
}

static bool
is_graphic(char c)
{
	unsigned char u = (unsigned char) c;

	return u >= 0x21 && u <= 0x7e;
}

/* Do both say the same, the address of the text apart? */
static bool
same_reply(const EcReply *a, const EcReply *b)
{
	return a->kind == b->kind && a->line_len == b->line_len &&
		a->has_cas == b->has_cas && a->cas == b->cas &&
		a->has_opaque == b->has_opaque && a->opaque == b->opaque &&
		a->has_size == b->has_size && a->size == b->size &&
		a->has_flags == b->has_flags && a->client_flags == b->client_flags &&
		a->value_len == b->value_len && a->text_len == b->text_len &&
		(a->text == NULL) == (b->text == NULL) &&
		(a->text == NULL || memcmp(a->text, b->text, a->text_len) == 0);
}

/* What wire.h promises of the answer r to buf[0..len), a whole line. */
static void
check_line(const char *buf, size_t len, const EcReply *r)
{
	bool		has_text = r->kind >= EC_REPLY_STAT;
	size_t		i;

	CHECK(r->line_len > 0 && r->line_len <= len && r->line_len <= EC_LINE_MAX);
	CHECK(buf[r->line_len - 1] == '\n');
	CHECK(memchr(buf, '\n', r->line_len - 1) == NULL);
	CHECK(r->kind == EC_REPLY_DUMP || (r->line_len >= 2 && buf[r->line_len - 2] == '\r'));

	CHECK(r->value_len <= EC_VALUE_MAX);
	CHECK(r->kind == EC_REPLY_VA || r->value_len == 0);
	CHECK(r->has_cas || r->cas == 0);
	CHECK(r->has_opaque || r->opaque == 0);
	CHECK(r->has_size || r->size == 0);
	CHECK(r->has_flags || r->client_flags == 0);

	CHECK(has_text == (r->text != NULL));
	CHECK(has_text || r->text_len == 0);
	if (has_text)
	{
		CHECK(r->text >= buf && r->text_len < r->line_len);
		CHECK(r->text + r->text_len < buf + r->line_len);
		for (i = 0; i < r->text_len; i++)
		{
			unsigned char c = (unsigned char) r->text[i];

			CHECK(c >= 0x20 && c != 0x7f);
			CHECK(c < 0x7f || r->kind == EC_REPLY_STAT);
		}
		if (r->kind == EC_REPLY_STAT || r->kind == EC_REPLY_VERSION || r->kind == EC_REPLY_DUMP)
			CHECK(r->text_len > 0 && r->text[0] != ' ');
		if (r->kind == EC_REPLY_DUMP)
			CHECK(r->text_len <= 3 * EC_KEY_MAX);
	}
}

/* Whatever follows the line, or has not come yet, must not change its meaning. */
static void
check_consistency(const char *buf, size_t len, const EcReply *r)
{
	const char *nl = memchr(buf, '\n', len < EC_LINE_MAX ? len : EC_LINE_MAX);
	size_t		whole = nl != NULL ? (size_t) (nl - buf) + 1 : EC_LINE_MAX;
	size_t		step = whole <= 64 ? 1 : whole / 16;
	size_t		cut;
	char	   *exact = copy_of(buf, whole);
	EcReply		again;

	ec_reply_parse(exact, whole, &again);
	CHECK(same_reply(r, &again));
	free(exact);

	for (cut = 0; cut < whole; cut += step)
	{
		ec_reply_parse(buf, cut, &again);
		CHECK(again.kind == EC_REPLY_INCOMPLETE && again.line_len == 0);
	}
	ec_reply_parse(buf, whole - 1, &again);
	CHECK(again.kind == EC_REPLY_INCOMPLETE);
}

/* A key out of metadump is one that can be sent. */
static void
check_decoded(const char *src, size_t srclen)
{
	char	   *exact = copy_of(src, srclen);
	char	   *key = malloc(EC_KEY_MAX);
	int			len = ec_wire_decode_key(key, exact, srclen);
	int			i;

	CHECK(len == -1 || (len > 0 && len <= EC_KEY_MAX && (size_t) len <= srclen));
	for (i = 0; i < len; i++)
		CHECK(is_graphic(key[i]));
	free(key);
	free(exact);
}

static void
walk_answers(const char *buf, size_t len)
{
	size_t		pos = 0;

	for (;;)
	{
		EcReply		r;

		ec_reply_parse(buf + pos, len - pos, &r);
		if (r.kind == EC_REPLY_INCOMPLETE)
		{
			CHECK(r.line_len == 0 && len - pos < EC_LINE_MAX);
			CHECK(len == pos || memchr(buf + pos, '\n', len - pos) == NULL);
			break;
		}
		check_consistency(buf + pos, len - pos, &r);
		if (r.kind == EC_REPLY_MALFORMED)
		{
			CHECK(r.line_len == 0 && r.text == NULL && !r.has_opaque && !r.has_cas);
			break;
		}
		check_line(buf + pos, len - pos, &r);
		if (r.kind == EC_REPLY_DUMP)
			check_decoded(r.text, r.text_len);

		pos += r.line_len;
		if (r.kind == EC_REPLY_VA)
		{
			if (r.value_len + 2 > len - pos)
				break;
			pos += r.value_len + 2;
		}
	}
}

/* A request for this key: bounded, one line, and nothing but printable bytes before its end. */
static void
check_request(const char *request, size_t len, size_t keylen)
{
	size_t		i;

	CHECK(len > keylen && len <= EC_REQUEST_MAX);
	for (i = 0; i < len - 2; i++)
		CHECK(is_graphic(request[i]) || request[i] == ' ');
	CHECK(request[len - 2] == '\r' && request[len - 1] == '\n');
}

static void
check_requests(const char *key, size_t keylen, const char *data, size_t size)
{
	static const char modes[] = {0, 'E', 'R', 'A', 'P'};
	char	   *request = malloc(EC_REQUEST_MAX);
	uint64_t	numbers[3] = {0, 0, 0};

	memcpy(numbers, data, size < sizeof(numbers) ? size : sizeof(numbers));
	check_request(request, ec_wire_get(request, key, keylen, (int64_t) numbers[0],
									   (uint32_t) numbers[1]), keylen);
	check_request(request, ec_wire_touch(request, key, keylen, (int64_t) numbers[0],
										 (uint32_t) numbers[1]), keylen);
	check_request(request, ec_wire_set(request, key, keylen, (size_t) numbers[2],
									   modes[numbers[2] % sizeof(modes)], numbers[1],
									   (int64_t) numbers[0], false, (numbers[2] & 2) != 0,
									   (uint32_t) numbers[2]), keylen);
	check_request(request, ec_wire_delete(request, key, keylen, numbers[0],
										  (numbers[2] & 1) != 0, (uint32_t) numbers[1]), keylen);
	check_request(request, ec_wire_arithmetic(request, key, keylen, (numbers[2] & 1) != 0,
											  numbers[0], (uint32_t) numbers[1]), keylen);
	free(request);
}

/* A user name and a password, whatever they hold, make one request of two lines or none. */
static void
check_auth(const char *data, size_t size)
{
	size_t		half = size / 2;
	char	   *user = malloc(half + 1);
	char	   *password = malloc(size - half + 1);
	char	   *request = malloc(EC_REQUEST_MAX);
	size_t		lines = 0;
	size_t		len;
	size_t		i;

	memcpy(user, data, half);
	memcpy(password, data + half, size - half);
	user[half] = password[size - half] = '\0';
	len = ec_wire_auth(request, user, password);
	CHECK(len <= EC_REQUEST_MAX);
	CHECK((len > 0) == (user[0] != '\0' && password[0] != '\0' && ec_wire_valid_user(user) &&
						ec_wire_valid_password(password)));
	for (i = 0; i < len; i++)
		lines += request[i] == '\n';
	CHECK(len == 0 || (lines == 2 && request[len - 1] == '\n'));
	free(request);
	free(password);
	free(user);
}

/*
 * Build a key of the input: the first bytes say how long prefix and name are,
 * then come these, made valid, then the id as it is.
 */
static void
round_trip(const char *data, size_t size)
{
	static const char name_bytes[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
	char		prefix[EC_PREFIX_MAX + 1];
	char		name[EC_NAME_MAX + 1];
	char		encoded[3 * EC_KEY_MAX];
	size_t		prefix_len;
	size_t		name_len;
	size_t		head_len;
	size_t		full_len;
	size_t		len;
	size_t		pos;
	size_t		i;
	char	   *id;
	char	   *key;
	char	   *head;

	if (size < 2)
		return;
	prefix_len = (unsigned char) data[0] % (EC_PREFIX_MAX + 1);
	name_len = (unsigned char) data[1] % EC_NAME_MAX + 1;
	if (size < 2 + prefix_len + name_len)
		return;
	for (i = 0; i < prefix_len; i++)
	{
		prefix[i] = (char) (0x21 + (unsigned char) data[2 + i] % (0x7f - 0x21));
		if (prefix[i] == '%')
			prefix[i] = '/';
	}
	prefix[prefix_len] = '\0';
	for (i = 0; i < name_len; i++)
		name[i] = name_bytes[(unsigned char) data[2 + prefix_len + i] % (i == 0 ? 26 : 37)];
	name[name_len] = '\0';
	CHECK(ec_key_valid_prefix(prefix));
	CHECK(ec_key_valid_name(name));

	pos = 2 + prefix_len + name_len;
	size -= pos;
	id = copy_of(data + pos, size);

	/* The length as the encoding has it. */
	full_len = prefix_len + name_len + 1;
	for (i = 0; i < size; i++)
		full_len += is_graphic(id[i]) && id[i] != '%' ? 1 : 3;

	key = malloc(EC_KEY_MAX);
	len = ec_key_build(key, prefix, name, id, size);
	CHECK(len == (full_len <= EC_KEY_MAX ? full_len : 0));

	if (len > 0)
	{
		head_len = prefix_len + name_len + 1;
		head = malloc(head_len);
		CHECK(ec_key_head(head, prefix, name) == head_len);
		CHECK(memcmp(head, key, head_len) == 0);
		free(head);

		/* Decoded, the part after the head is the id again. */
		for (i = 0, pos = head_len; pos < len; i++)
		{
			unsigned	byte = (unsigned char) key[pos];

			CHECK(is_graphic(key[pos]));
			if (byte == '%')
			{
				char		hex[3] = {0};

				CHECK(pos + 2 < len);
				memcpy(hex, key + pos + 1, 2);
				CHECK(strspn(hex, "0123456789ABCDEF") == 2);
				byte = (unsigned) strtoul(hex, NULL, 16);
				pos += 3;
			}
			else
				pos++;
			CHECK(i < size && byte == (unsigned char) id[i]);
		}
		CHECK(i == size);

		/* As metadump encodes it, and back. */
		for (i = 0, pos = 0; i < len; i++)
		{
			char		c = key[i];

			if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
				c == '-' || c == '.' || c == '_' || c == '~')
				encoded[pos++] = c;
			else
			{
				char		hex[4];

				snprintf(hex, sizeof(hex), "%%%02X", (unsigned) (unsigned char) c);
				memcpy(encoded + pos, hex, 3);
				pos += 3;
			}
		}
		head = malloc(EC_KEY_MAX);
		CHECK(ec_wire_decode_key(head, encoded, pos) == (int) len);
		CHECK(memcmp(head, key, len) == 0);
		free(head);

		check_requests(key, len, id, size);
	}
	free(key);
	free(id);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *bytes = (const char *) data;

	walk_answers(bytes, size);
	check_decoded(bytes, size);
	check_auth(bytes, size);
	round_trip(bytes, size);
	return 0;
}
