/*-------------------------------------------------------------------------
 *
 * test_key.c
 *	  Unit tests of src/protocol/key.c.
 *
 * Keys are written into allocations of exactly the size that key.h promises to
 * keep to, so that the address sanitizer sees a byte too many.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "protocol/key.h"
#include "protocol/wire.h"
#include "tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Is the key of this id the expected one?  expected NULL: there is to be none. */
static void
key_is(const char *prefix, const char *name, const char *id, size_t idlen,
	   const char *expected, const char *what)
{
	char	   *dst = malloc(EC_KEY_MAX);
	char	   *exact_id = malloc(idlen > 0 ? idlen : 1);
	size_t		expected_len = expected != NULL ? strlen(expected) : 0;
	size_t		len;

	memcpy(exact_id, id, idlen);
	len = ec_key_build(dst, prefix, name, exact_id, idlen);
	if (!tap_ok(len == expected_len && (len == 0 || memcmp(dst, expected, len) == 0),
				"%s", what))
	{
		tap_diag("expected: %s", expected != NULL ? expected : "no key");
		tap_diag("found: %.*s (%zu bytes)", (int) len, dst, len);
	}
	free(exact_id);
	free(dst);
}

/* A string of n times c, in static storage; n < 600. */
static const char *
repeated(char c, size_t n)
{
	static char buf[4][600];
	static int	turn = 0;
	char	   *s = buf[turn++ % 4];

	memset(s, c, n);
	s[n] = '\0';
	return s;
}

static void
test_names(void)
{
	static const char *const good[] = {"a", "z", "session", "a_", "a0", "user_2", "zz9_"};
	static const char *const bad[] = {"", "A", "_a", "0a", "a-b", "a:b", "a b", "aB", "a%",
	"a\n", "\303\251", "a\303\251", "a`", "a{", "`", "{", "a/", "a."};
	size_t		i;
	int			c;
	bool		fine;

	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		tap_ok(ec_key_valid_name(good[i]), "\"%s\" is a name", good[i]);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		tap_ok(!ec_key_valid_name(bad[i]), "bad name %zu is refused", i);

	tap_ok(ec_key_valid_name(repeated('n', EC_NAME_MAX)), "a name of 63 bytes is one");
	tap_ok(!ec_key_valid_name(repeated('n', EC_NAME_MAX + 1)), "a name of 64 bytes is none");

	fine = true;
	for (c = 1; c < 256; c++)
	{
		char		first[2] = {(char) c, '\0'};
		char		second[3] = {'a', (char) c, '\0'};
		bool		letter = c >= 'a' && c <= 'z';

		if (ec_key_valid_name(first) != letter ||
			ec_key_valid_name(second) != (letter || (c >= '0' && c <= '9') || c == '_'))
		{
			tap_diag("byte 0x%02x", (unsigned) c);
			fine = false;
		}
	}
	tap_ok(fine, "every byte is right as a name's first and second");
}

static void
test_prefixes(void)
{
	int			c;
	bool		fine = true;

	tap_ok(ec_key_valid_prefix(""), "no prefix is a prefix");
	tap_ok(ec_key_valid_prefix("db1:"), "a plain prefix is one");
	tap_ok(ec_key_valid_prefix(repeated('p', EC_PREFIX_MAX)), "a prefix of 64 bytes is one");
	tap_ok(!ec_key_valid_prefix(repeated('p', EC_PREFIX_MAX + 1)),
		   "a prefix of 65 bytes is none");

	for (c = 1; c < 256; c++)
	{
		char		first[2] = {(char) c, '\0'};
		char		second[3] = {'p', (char) c, '\0'};
		bool		good = c >= 0x21 && c <= 0x7e && c != '%';

		if (ec_key_valid_prefix(first) != good || ec_key_valid_prefix(second) != good)
		{
			tap_diag("byte 0x%02x", (unsigned) c);
			fine = false;
		}
	}
	tap_ok(fine, "every byte is right as a prefix's first and second");
}

static void
test_heads(void)
{
	const char *prefix = repeated('p', EC_PREFIX_MAX);
	const char *name = repeated('n', EC_NAME_MAX);
	char	   *dst = malloc(EC_PREFIX_MAX + EC_NAME_MAX + 1);
	size_t		len;

	len = ec_key_head(dst, "", "session");
	tap_ok(len == 8 && memcmp(dst, "session:", 8) == 0, "head without a prefix");
	len = ec_key_head(dst, "db1:", "session");
	tap_ok(len == 12 && memcmp(dst, "db1:session:", 12) == 0, "head with a prefix");
	len = ec_key_head(dst, prefix, name);
	tap_ok(len == 128 && memcmp(dst, prefix, 64) == 0 && memcmp(dst + 64, name, 63) == 0 &&
		   dst[127] == ':', "the longest head fits");
	free(dst);
}

static void
test_keys(void)
{
	char		expected[EC_KEY_MAX + 50];
	char	   *dst = malloc(EC_KEY_MAX);
	char		all[256];
	int			c;
	bool		fine = true;
	size_t		n;

	key_is("", "session", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", 36,
		   "session:f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "a uuid");
	key_is("", "session", "-9223372036854775808", 20,
		   "session:-9223372036854775808", "a bigint");
	key_is("db1/", "user", "42", 2, "db1/user:42", "a prefix");
	key_is("", "session", "", 0, "session:", "an empty id");
	key_is("", "session", "a b", 3, "session:a%20b", "a space");
	key_is("", "session", "100%", 4, "session:100%25", "a per cent sign");
	key_is("", "session", "%20", 3, "session:%2520", "what looks encoded is encoded again");
	key_is("", "session", "\303\251", 2, "session:%C3%A9", "UTF-8, hex in upper case");
	key_is("", "session", "x\r\nflush_all\r\n", 14,
		   "session:x%0D%0Aflush_all%0D%0A", "a line end cannot end a request");
	key_is("", "session", "a\0b", 3, "session:a%00b", "a NUL");
	key_is("", "session", "\177\200\377", 3, "session:%7F%80%FF", "bytes over 0x7e");
	key_is("", "session", "!~:;/", 5, "session:!~:;/", "printable bytes stay");

	/* Each byte alone: encoded or as it is, and never the same as another's. */
	for (c = 0; c < 256; c++)
	{
		char		byte = (char) c;
		char		want[16];
		size_t		len = ec_key_build(dst, "", "s", &byte, 1);

		if (c >= 0x21 && c <= 0x7e && c != '%')
			snprintf(want, sizeof(want), "s:%c", c);
		else
			snprintf(want, sizeof(want), "s:%%%02X", (unsigned) c);
		if (len != strlen(want) || memcmp(dst, want, len) != 0)
		{
			tap_diag("byte 0x%02x", (unsigned) c);
			fine = false;
		}
		all[c] = byte;
	}
	tap_ok(fine, "every byte is encoded as it should be");
	key_is("", "s", all, sizeof(all), NULL, "all of them in one id are too long");

	/* "session:" is 8 bytes, so 242 are left. */
	snprintf(expected, sizeof(expected), "session:%s", repeated('x', 241));
	key_is("", "session", repeated('x', 241), 241, expected, "a key of 249 bytes");
	snprintf(expected, sizeof(expected), "session:%s", repeated('x', 242));
	key_is("", "session", repeated('x', 242), 242, expected, "a key of 250 bytes");
	key_is("", "session", repeated('x', 243), 243, NULL, "251 bytes are no key");
	key_is("", "session", repeated('x', 500), 500, NULL, "508 bytes are no key");

	/* The last of the id is an encoded byte: three bytes fit or none. */
	for (n = 238; n <= 242; n++)
	{
		char		id[300];

		snprintf(id, sizeof(id), "%s ", repeated('x', n));
		snprintf(expected, sizeof(expected), "session:%s%%20", repeated('x', n));
		key_is("", "session", id, n + 1, n + 11 <= EC_KEY_MAX ? expected : NULL,
			   n + 11 <= EC_KEY_MAX ? "an encoded byte fits at the end"
			   : "an encoded byte does not fit at the end");
	}

	/* With the longest head 122 bytes are left. */
	snprintf(expected, sizeof(expected), "%s%s:%s", repeated('p', 64), repeated('n', 63),
			 repeated('x', 122));
	key_is(repeated('p', 64), repeated('n', 63), repeated('x', 122), 122, expected,
		   "the longest prefix and name, 250 bytes");
	key_is(repeated('p', 64), repeated('n', 63), repeated('x', 123), 123, NULL,
		   "the longest prefix and name, 251 bytes");
	free(dst);
}

/* Does the encoded id decode to this, and (unless it is lax) is it the encoding of that? */
static void
decodes_to(const char *encoded, const char *id, size_t idlen, bool lax, const char *what)
{
	size_t		srclen = strlen(encoded);
	char	   *exact = malloc(srclen > 0 ? srclen : 1);
	char	   *dst = malloc(srclen > 0 ? srclen : 1);
	char		key[EC_KEY_MAX];
	int			len;
	size_t		keylen;

	memcpy(exact, encoded, srclen);
	len = ec_key_decode(dst, exact, srclen);
	if (!tap_ok(len == (int) idlen && memcmp(dst, id, idlen) == 0, "%s", what))
		tap_diag("found %d bytes", len);
	keylen = ec_key_build(key, "", "s", id, idlen);
	tap_ok(lax != (keylen == srclen + 2 && memcmp(key + 2, encoded, srclen) == 0),
		   "%s: %s", what, lax ? "is not what we would make" : "and back");
	free(exact);
	free(dst);
}

static void
test_decoding(void)
{
	static const char *const bad[] = {"%", "a%", "%4", "%zz", "%4g", "%%41", "a%2", "%-1"};
	char		all[256];
	char		key[3 * 256];
	char		dst[3 * 256];
	size_t		i;
	bool		fine = true;

	decodes_to("1", "1", 1, false, "decode: a number");
	decodes_to("", "", 0, false, "decode: an empty id");
	decodes_to("Z%C3%BCrich%20100%20%25", "Z\303\274rich 100 %", 13, false, "decode: encoded bytes");
	decodes_to("%00", "\0", 1, false, "decode: a zero byte");
	decodes_to("%c3%bc", "\303\274", 2, true, "decode: lower-case hex");
	decodes_to("%41", "A", 1, true, "decode: what need not be encoded");
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		tap_ok(ec_key_decode(dst, bad[i], strlen(bad[i])) == -1, "decode: \"%s\" is refused", bad[i]);

	/* every byte, some at a time, for a key holds no more */
	for (i = 0; i < 256; i++)
		all[i] = (char) i;
	for (i = 0; i < 256; i += 32)
	{
		size_t		len = ec_key_build(key, "p/", "s", all + i, 32);

		fine &= len > 4 && ec_key_decode(dst, key + 4, len - 4) == 32 &&
			memcmp(dst, all + i, 32) == 0;
	}
	tap_ok(fine, "decode: every byte comes back");
}

void
test_key(void)
{
	test_names();
	test_prefixes();
	test_heads();
	test_keys();
	test_decoding();
}
