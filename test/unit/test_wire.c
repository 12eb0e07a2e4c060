/*-------------------------------------------------------------------------
 *
 * test_wire.c
 *	  Unit tests of src/protocol/wire.c and reply.c.
 *
 * The answers are what memcached 1.6.18 sends, unless a comment names another
 * version.  Every answer is parsed from an allocation of exactly its size, and
 * every request is written to one of exactly EC_REQUEST_MAX bytes, so that the
 * address sanitizer sees a byte too many.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "tap.h"
#include "protocol/reply.h"
#include "protocol/wire.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A string literal and its length, NULs inside included. */
#define LIT(s)	(s), sizeof(s) - 1

/* An answer, with the text copied out of the buffer that is freed. */
typedef struct Parsed
{
	EcReply		r;
	char		text[EC_LINE_MAX];
	bool		text_inside;	/* text lies within the line, or is NULL */
} Parsed;

/* Parse len bytes at exactly the end of an allocation. */
static Parsed
parse(const char *bytes, size_t len)
{
	Parsed		p;
	char	   *exact = malloc(len > 0 ? len : 1);

	memcpy(exact, bytes, len);
	memset(&p, 0x5a, sizeof(p));
	ec_reply_parse(exact, len, &p.r);
	p.text_inside = true;
	if (p.r.text != NULL)
	{
		p.text_inside = p.r.text >= exact && p.r.text_len <= len &&
			p.r.text + p.r.text_len <= exact + p.r.line_len;
		if (p.text_inside)
			memcpy(p.text, p.r.text, p.r.text_len);
		p.text[p.text_inside ? p.r.text_len : 0] = '\0';
	}
	free(exact);
	return p;
}

/* Everything about an answer, in one string that a test can compare. */
static const char *
describe(const Parsed *p)
{
	static const char *const kinds[] = {"INCOMPLETE", "MALFORMED", "HD", "VA", "EN", "NF", "NS",
		"EX", "MN", "END", "OK", "STORED", "STAT", "VERSION", "BUSY", "DUMP", "ERROR", "CLIENT_ERROR",
	"SERVER_ERROR"};
	static char buf[EC_LINE_MAX + 300];
	const EcReply *r = &p->r;
	size_t		n;

	n = (size_t) snprintf(buf, sizeof(buf), "%s %zu", kinds[r->kind], r->line_len);
	if (r->kind == EC_REPLY_VA || r->value_len != 0)
		n += (size_t) snprintf(buf + n, sizeof(buf) - n, " value=%zu", r->value_len);
	if (r->has_cas || r->cas != 0)
		n += (size_t) snprintf(buf + n, sizeof(buf) - n, " %scas=%" PRIu64,
							   r->has_cas ? "" : "stray ", r->cas);
	if (r->has_opaque || r->opaque != 0)
		n += (size_t) snprintf(buf + n, sizeof(buf) - n, " %sopaque=%" PRIu32,
							   r->has_opaque ? "" : "stray ", r->opaque);
	if (r->has_size || r->size != 0)
		n += (size_t) snprintf(buf + n, sizeof(buf) - n, " %ssize=%" PRIu64,
							   r->has_size ? "" : "stray ", r->size);
	if (r->has_flags || r->client_flags != 0)
		n += (size_t) snprintf(buf + n, sizeof(buf) - n, " %sflags=%" PRIu32,
							   r->has_flags ? "" : "stray ", r->client_flags);
	if (!p->text_inside)
		snprintf(buf + n, sizeof(buf) - n, " text outside the line");
	else if (r->text != NULL)
		snprintf(buf + n, sizeof(buf) - n, " \"%s\"", p->text);
	else if (r->text_len != 0)
		snprintf(buf + n, sizeof(buf) - n, " stray text_len=%zu", r->text_len);
	return buf;
}

/*
 * Is the answer at the head of bytes what expected describes?  It must be so
 * also when the stream ends right after the line, and every shorter part of the
 * line must be EC_REPLY_INCOMPLETE.
 */
static void
answer_is(const char *bytes, size_t len, const char *expected, const char *what)
{
	Parsed		p = parse(bytes, len);
	size_t		line_len = p.r.line_len;
	size_t		cut;

	if (!tap_ok(strcmp(describe(&p), expected) == 0, "%s", what))
	{
		tap_diag("expected: %s", expected);
		tap_diag("found: %s", describe(&p));
		return;
	}

	for (cut = 0; cut < line_len; cut++)
	{
		p = parse(bytes, cut);
		if (strcmp(describe(&p), "INCOMPLETE 0") != 0)
		{
			tap_ok(false, "%s, cut after %zu bytes, is incomplete", what, cut);
			tap_diag("found: %s", describe(&p));
			return;
		}
	}
	p = parse(bytes, line_len);
	tap_ok(strcmp(describe(&p), expected) == 0, "%s, cut anywhere before its end, is incomplete",
		   what);
}

static void
is_malformed(const char *bytes, size_t len, const char *what)
{
	Parsed		p = parse(bytes, len);

	if (!tap_ok(strcmp(describe(&p), "MALFORMED 0") == 0, "malformed: %s", what))
		tap_diag("found: %s", describe(&p));
}

static void
test_meta_answers(void)
{
	answer_is(LIT("HD\r\n"), "HD 4", "HD");
	answer_is(LIT("HD O4\r\n"), "HD 7 opaque=4", "HD of md");
	answer_is(LIT("HD c7 O1\r\n"), "HD 10 cas=7 opaque=1", "HD of ms");
	answer_is(LIT("HD s4 O2\r\nMN\r\n"), "HD 10 opaque=2 size=4", "HD of a touch");
	answer_is(LIT("HD t29 f0 s4 ka h0 l1 c5 O8\r\n"),
			  "HD 29 cas=5 opaque=8 size=4 flags=0", "HD with every flag");
	answer_is(LIT("HD O8 c5 l1 h0 ka s4 f0 t29\r\n"),
			  "HD 29 cas=5 opaque=8 size=4 flags=0", "HD with every flag, reversed");
	answer_is(LIT("HD W X Z b O3\r\n"), "HD 15 opaque=3", "HD with flags of one letter");
	answer_is(LIT("HD n42 Q~!x= O3\r\n"), "HD 17 opaque=3", "HD with flags yet to be invented");
	answer_is(LIT("HD t-1 s4\r\n"), "HD 11 size=4", "no expiry");
	answer_is(LIT("HD c18446744073709551615 O4294967295\r\n"),
			  "HD 38 cas=18446744073709551615 opaque=4294967295", "the greatest token and opaque");
	answer_is(LIT("HD c0 O0 t0 s0 f0\r\n"),
			  "HD 19 cas=0 opaque=0 size=0 flags=0", "zeros");
	answer_is(LIT("HD f4294967295 t4294967295 s18446744073709551615\r\n"),
			  "HD 50 size=18446744073709551615 flags=4294967295",
			  "the greatest flags, TTL and size");

	answer_is(LIT("VA 4 c3 O2\r\nnull\r\n"), "VA 12 value=4 cas=3 opaque=2", "VA");
	answer_is(LIT("VA 4\r\nnull\r\n"), "VA 6 value=4", "VA without flags");
	answer_is(LIT("VA 0 c13 s0 O1\r\n\r\n"), "VA 16 value=0 cas=13 opaque=1 size=0",
			  "VA of an empty value");
	answer_is(LIT("VA 4 t29 f0 s4 ka h1 l1 c5 O8\r\nnull\r\n"),
			  "VA 31 value=4 cas=5 opaque=8 size=4 flags=0", "VA with every flag");
	answer_is(LIT("VA 1048500 c8 O1\r\n{"), "VA 18 value=1048500 cas=8 opaque=1",
			  "VA whose value has yet to come");
	answer_is(LIT("VA 268435456 O1\r\n"), "VA 17 value=268435456 opaque=1", "VA of EC_VALUE_MAX");
	answer_is(LIT("VA 2\r\n\r\n\r\n"), "VA 6 value=2", "VA whose value is a line end");

	answer_is(LIT("EN\r\n"), "EN 4", "EN before 1.6.18");
	answer_is(LIT("EN O4294967295\r\n"), "EN 16 opaque=4294967295", "EN");
	answer_is(LIT("NF O3\r\n"), "NF 7 opaque=3", "NF");
	answer_is(LIT("NF\r\n"), "NF 4", "NF without an opaque");
	answer_is(LIT("NS c0 O3\r\n"), "NS 10 cas=0 opaque=3", "NS");
	answer_is(LIT("EX O3\r\n"), "EX 7 opaque=3", "EX");
	answer_is(LIT("MN\r\n"), "MN 4", "MN");

	/* as memcached answers before 1.6.18, and before 1.6.10 */
	answer_is(LIT("NF  O3\r\n"), "NF 8 opaque=3", "NF and two spaces");
	answer_is(LIT("HD  O3\r\n"), "HD 8 opaque=3", "HD and two spaces");
	answer_is(LIT("OK  O3\r\n"), "HD 8 opaque=3", "OK and two spaces");
	answer_is(LIT("OK c5 O3\r\n"), "HD 10 cas=5 opaque=3", "OK for HD");
}

static void
test_versions(void)
{
	tap_ok(ec_reply_version(LIT("1.6.18")) == EC_VERSION(1, 6, 18), "version: 1.6.18");
	tap_ok(ec_reply_version(LIT("1.6.9+dfsg")) == EC_VERSION(1, 6, 9), "version: with a suffix");
	tap_ok(ec_reply_version(LIT("2.0.0")) > EC_VERSION(1, 6, 999), "version: 2.0.0");
	tap_ok(ec_reply_version(LIT("1.6.4294967295")) == EC_VERSION(1, 6, 999), "version: a large part");
	tap_ok(ec_reply_version(LIT("1.6")) == EC_VERSION_UNKNOWN &&
		   ec_reply_version(LIT("1.6.")) == EC_VERSION_UNKNOWN &&
		   ec_reply_version(LIT("1..6")) == EC_VERSION_UNKNOWN &&
		   ec_reply_version(LIT("mcrouter 1.6.9")) == EC_VERSION_UNKNOWN &&
		   ec_reply_version("", 0) == EC_VERSION_UNKNOWN &&
		   ec_reply_version(LIT("1.6.4294967296")) == EC_VERSION_UNKNOWN,
		   "version: what is none");
}

static void
test_word_answers(void)
{
	answer_is(LIT("END\r\n"), "END 5", "END");
	answer_is(LIT("OK\r\n"), "OK 4", "OK");
	answer_is(LIT("RESET\r\n"), "OK 7", "RESET");
	answer_is(LIT("STORED\r\nHD\r\n"), "STORED 8", "STORED");
	answer_is(LIT("STAT pid 8495\r\nSTAT uptime 17\r\n"), "STAT 15 \"pid 8495\"", "STAT");
	answer_is(LIT("STAT 22:addr tcp:127.0.0.1:23028\r\n"),
			  "STAT 34 \"22:addr tcp:127.0.0.1:23028\"", "STAT of a connection");
	answer_is(LIT("STAT inter \r\n"), "STAT 13 \"inter \"", "STAT with an empty value");
	answer_is(LIT("STAT inter\r\n"), "STAT 12 \"inter\"", "STAT without a value");
	answer_is(LIT("STAT memory_file /tmp/\303\251\r\n"),
			  "STAT 26 \"memory_file /tmp/\303\251\"", "STAT with a path in UTF-8");
	answer_is(LIT("VERSION 1.6.18\r\n"), "VERSION 16 \"1.6.18\"", "VERSION");
	answer_is(LIT("BUSY currently processing crawler request\r\n"),
			  "BUSY 43 \"currently processing crawler request\"", "BUSY");
	answer_is(LIT("BUSY\r\n"), "BUSY 6 \"\"", "BUSY without text");
	answer_is(LIT("ERROR\r\n"), "ERROR 7 \"\"", "ERROR");
	answer_is(LIT("ERROR Too many open connections\r\n"),
			  "ERROR 33 \"Too many open connections\"", "ERROR with text");
	answer_is(LIT("CLIENT_ERROR bad data chunk\r\nERROR\r\n"),
			  "CLIENT_ERROR 29 \"bad data chunk\"", "CLIENT_ERROR");
	answer_is(LIT("CLIENT_ERROR\r\n"), "CLIENT_ERROR 14 \"\"", "CLIENT_ERROR without text");
	answer_is(LIT("SERVER_ERROR object too large for cache\r\nMN\r\n"),
			  "SERVER_ERROR 41 \"object too large for cache\"", "SERVER_ERROR");
	answer_is(LIT("SERVER_ERROR out of memory storing object\r\n"),
			  "SERVER_ERROR 43 \"out of memory storing object\"", "SERVER_ERROR out of memory");
	answer_is(LIT("SERVER_ERROR\r\n"), "SERVER_ERROR 14 \"\"", "SERVER_ERROR without text");
}

static void
test_dump_answers(void)
{
	char		line[EC_LINE_MAX];
	char		expected[EC_LINE_MAX];
	char		key[3 * EC_KEY_MAX + 2];
	size_t		i;
	int			len;

	answer_is(LIT("key=noexp exp=-1 la=1795393020 cas=13 fetch=no cls=1 size=68\nEND\r\n"),
			  "DUMP 61 \"noexp\"", "a dumped key");
	answer_is(LIT("key=session%3Aa%2520b exp=1795393048 la=1795393018 cas=10 fetch=yes "
				  "cls=1 size=64\n"),
			  "DUMP 82 \"session%3Aa%2520b\"", "a dumped key, encoded");
	answer_is(LIT("key=a exp=-1 la=1795393020 cas=13 fetch=no cls=1 size=68 flags=0 \n"),
			  "DUMP 66 \"a\"", "a dumped key of 1.6.39 and later, with a space at the end");
	answer_is(LIT("key=a exp=-1\r\n"), "DUMP 14 \"a\"", "a dumped key with \\r\\n");
	answer_is(LIT("key=a exp=9223372036854775807\n"), "DUMP 30 \"a\"", "the latest expiry");

	/* A key of 250 bytes that are all encoded is the longest that can be. */
	for (i = 0; i < EC_KEY_MAX; i++)
		memcpy(key + 3 * i, "%3A", 4);
	len = snprintf(line, sizeof(line), "key=%s exp=-1\n", key);
	snprintf(expected, sizeof(expected), "DUMP %d \"%s\"", len, key);
	answer_is(line, (size_t) len, expected, "a dumped key of 250 encoded bytes");
	len = snprintf(line, sizeof(line), "key=%sa exp=-1\n", key);
	is_malformed(line, (size_t) len, "a dumped key of 751 bytes");

	is_malformed(LIT("key=\n"), "key= alone");
	is_malformed(LIT("key= exp=-1\n"), "a dumped key that is empty");
	is_malformed(LIT("key=a\n"), "a dumped key without exp");
	is_malformed(LIT("key=a exp\n"), "a dumped key with half of exp");
	is_malformed(LIT("key=a exp=\n"), "exp without a number");
	is_malformed(LIT("key=a exp=-\n"), "exp with a sign alone");
	is_malformed(LIT("key=a exp=1x\n"), "exp with something behind it");
	is_malformed(LIT("key=a exp=9223372036854775808\n"), "exp too great");
	is_malformed(LIT("key=a  exp=-1\n"), "a dumped key and two spaces");
	is_malformed(LIT("key=a la=1 exp=-1\n"), "a dumped key with exp elsewhere");
	is_malformed(LIT("key=a\0 exp=-1\n"), "a NUL in a dumped key");
	is_malformed(LIT("key=\303\251 exp=-1\n"), "a dumped key that is not encoded");
	is_malformed(LIT("key=a exp=-1 la=\t1\n"), "a tab among the fields of a dumped key");
	is_malformed(LIT("key=a exp=-1\r\r\n"), "\\r\\r\\n after a dumped key");
	is_malformed(LIT("KEY=a exp=-1\n"), "KEY=");
}

static void
test_malformed(void)
{
	static const char *const words[] = {"END", "OK", "RESET", "STORED", "STAT a 1", "VERSION 1", "BUSY x",
		"ERROR", "CLIENT_ERROR x", "SERVER_ERROR x", "HD", "HD O1", "VA 4", "EN", "NF", "NS",
	"EX", "MN"};
	char		line[EC_LINE_MAX];
	size_t		i;
	int			c;
	bool		fine;
	Parsed		p;

	is_malformed(LIT("\n"), "an empty line");
	is_malformed(LIT("\r\n"), "an empty line with \\r");
	is_malformed(LIT("\0\r\n"), "a NUL");
	is_malformed(LIT(" \r\n"), "a space");
	is_malformed(LIT("H\r\n"), "one letter");
	is_malformed(LIT("XX\r\n"), "two letters that mean nothing");
	is_malformed(LIT("HX\r\n"), "HX");
	is_malformed(LIT("VX 4\r\n"), "VX");
	is_malformed(LIT("EF\r\n"), "EF");
	is_malformed(LIT("NX\r\n"), "NX");
	is_malformed(LIT("MX\r\n"), "MX");
	is_malformed(LIT("hd\r\n"), "lower case");
	is_malformed(LIT(" HD\r\n"), "a space before");
	is_malformed(LIT("HDX\r\n"), "three letters");
	is_malformed(LIT("HD\0\r\n"), "a NUL after the code");
	is_malformed(LIT("HD \r\n"), "a space at the end");
	is_malformed(LIT("HD   O1\r\n"), "three spaces");
	is_malformed(LIT("HD  \r\n"), "two spaces alone");
	is_malformed(LIT("HD O1  c1\r\n"), "two spaces behind a flag");
	is_malformed(LIT("VA 4  O1\r\n"), "two spaces behind a size");
	is_malformed(LIT("HD O1 \r\n"), "a space after a flag");
	is_malformed(LIT("HD\tO1\r\n"), "a tab");
	is_malformed(LIT("HD\r\r\n"), "two \\r");
	is_malformed(LIT("HD O1\rX\r\n"), "\\r inside");
	is_malformed(LIT("MN O1\r\n"), "a barrier with an opaque");
	is_malformed(LIT("VA\r\n"), "VA without a size");
	is_malformed(LIT("VA \r\n"), "VA with a space for a size");
	is_malformed(LIT("VA O1\r\n"), "VA with a flag for a size");
	is_malformed(LIT("VA -1 O1\r\n"), "VA of a negative size");
	is_malformed(LIT("VA +4 O1\r\n"), "VA of +4");
	is_malformed(LIT("VA 04 O1\r\n"), "VA of 04");
	is_malformed(LIT("VA 0x4 O1\r\n"), "VA of 0x4");
	is_malformed(LIT("VA 4x O1\r\n"), "VA of 4x");
	is_malformed(LIT("VA 4.0 O1\r\n"), "VA of 4.0");
	is_malformed(LIT("VA  4 O1\r\n"), "VA and two spaces");
	is_malformed(LIT("VA 4\0 O1\r\n"), "VA with a NUL");
	is_malformed(LIT("VA 268435457 O1\r\n"), "VA over EC_VALUE_MAX");
	is_malformed(LIT("VA 4294967296 O1\r\n"), "VA of 4 GB, which is 0 in 32 bits");
	is_malformed(LIT("VA 4294967300 O1\r\n"), "VA of 4 GB and 4, which is 4 in 32 bits");
	is_malformed(LIT("VA 18446744073709551620 O1\r\n"), "VA of 2^64 + 4, which is 4 in 64 bits");
	is_malformed(LIT("VA 99999999999999999999999999 O1\r\n"), "VA of 10^26");

	is_malformed(LIT("HD O\r\n"), "an opaque of nothing");
	is_malformed(LIT("HD O-1\r\n"), "a negative opaque");
	is_malformed(LIT("HD O1x\r\n"), "an opaque with a letter");
	is_malformed(LIT("HD O01\r\n"), "an opaque as we never write it");
	is_malformed(LIT("HD O00\r\n"), "an opaque of 00");
	is_malformed(LIT("HD O4294967296\r\n"), "an opaque of 2^32");
	is_malformed(LIT("HD O1 O1\r\n"), "two opaques");
	is_malformed(LIT("HD O0 O1\r\n"), "two opaques, the first 0");
	is_malformed(LIT("HD c\r\n"), "a token of nothing");
	is_malformed(LIT("HD c-1\r\n"), "a negative token");
	is_malformed(LIT("HD c18446744073709551616\r\n"), "a token of 2^64");
	is_malformed(LIT("HD c18446744073709551620\r\n"), "a token of 2^64 + 4");
	is_malformed(LIT("HD c28446744073709551615\r\n"), "a token of 20 digits");
	is_malformed(LIT("HD c1 c1\r\n"), "two tokens");
	is_malformed(LIT("HD c1 O2 c3\r\n"), "two tokens apart");
	is_malformed(LIT("HD t\r\n"), "a TTL of nothing");
	is_malformed(LIT("HD t-\r\n"), "a TTL of a sign");
	is_malformed(LIT("HD t-2\r\n"), "a TTL of -2");
	is_malformed(LIT("HD t-10\r\n"), "a TTL of -10");
	is_malformed(LIT("HD t4294967296\r\n"), "a TTL of 2^32");
	is_malformed(LIT("HD t1 t1\r\n"), "two TTLs");
	is_malformed(LIT("HD s\r\n"), "a size of nothing");
	is_malformed(LIT("HD s18446744073709551616\r\n"), "a size of 2^64");
	is_malformed(LIT("HD s1 s1\r\n"), "two sizes");
	is_malformed(LIT("HD f\r\n"), "flags of nothing");
	is_malformed(LIT("HD f4294967296\r\n"), "flags of 2^32");
	is_malformed(LIT("HD f1 f1\r\n"), "two flags");
	is_malformed(LIT("HD 4\r\n"), "a number for a flag");
	is_malformed(LIT("HD -\r\n"), "a sign for a flag");
	is_malformed(LIT("HD @x\r\n"), "a flag that is no letter, before A");
	is_malformed(LIT("HD [x\r\n"), "a flag that is no letter, after Z");
	is_malformed(LIT("HD `x\r\n"), "a flag that is no letter, before a");
	is_malformed(LIT("HD {x\r\n"), "a flag that is no letter, after z");
	is_malformed(LIT("HD k\0a\r\n"), "a NUL in an unknown flag");
	is_malformed(LIT("HD k\303\251\r\n"), "a byte over 0x7e in an unknown flag");
	is_malformed(LIT("HD k\177\r\n"), "0x7f in an unknown flag");

	is_malformed(LIT("ENDS\r\n"), "ENDS");
	is_malformed(LIT("END \r\n"), "END and a space");
	is_malformed(LIT("END x\r\n"), "END and text");
	is_malformed(LIT("OK \r\n"), "OK and a space");
	is_malformed(LIT("OK 1\r\n"), "OK and a number");
	is_malformed(LIT("OKAY\r\n"), "OKAY");
	is_malformed(LIT("RESETS\r\n"), "RESETS");
	is_malformed(LIT("STAT\r\n"), "STAT alone");
	is_malformed(LIT("STAT \r\n"), "STAT and a space");
	is_malformed(LIT("STAT  1\r\n"), "STAT without a name");
	is_malformed(LIT("STATS a 1\r\n"), "STATS");
	is_malformed(LIT("STAT a \0\r\n"), "a NUL in STAT");
	is_malformed(LIT("STAT a \0331\r\n"), "an escape in STAT");
	is_malformed(LIT("STAT a \177\r\n"), "0x7f in STAT");
	is_malformed(LIT("VERSION\r\n"), "VERSION alone");
	is_malformed(LIT("VERSION \r\n"), "VERSION of nothing");
	is_malformed(LIT("VERSION \303\251\r\n"), "a byte over 0x7e in VERSION");
	is_malformed(LIT("BUSYx\r\n"), "BUSYx");
	is_malformed(LIT("ERRORx\r\n"), "ERRORx");
	is_malformed(LIT("ERROR \303\251\r\n"), "a byte over 0x7e in ERROR");
	is_malformed(LIT("CLIENT_ERROR a\033[2J\r\n"), "an escape in CLIENT_ERROR");
	is_malformed(LIT("SERVER_ERROR a\0b\r\n"), "a NUL in SERVER_ERROR");
	is_malformed(LIT("SERVER_ERROR a\rb\r\n"), "\\r in SERVER_ERROR");
	is_malformed(LIT("NOTSTARTED no items to crawl\r\n"), "what only other crawls are answered");
	is_malformed(LIT("STORED x\r\n"), "STORED and text");
	is_malformed(LIT("STOREDX\r\n"), "STOREDX");
	is_malformed(LIT("NOT_STORED\r\n"), "an answer of the classic protocol");
	is_malformed(LIT("VALUE session:1 0 4\r\nnull\r\nEND\r\n"), "a value of the classic protocol");
	is_malformed(LIT("null\r\n"), "a value where a line should be");
	is_malformed(LIT("HTTP/1.1 400 Bad Request\r\n"), "another protocol");

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++)
	{
		char		what[40];

		snprintf(line, sizeof(line), "%s\n", words[i]);
		snprintf(what, sizeof(what), "%s without \\r", words[i]);
		is_malformed(line, strlen(line), what);
	}

	/* Whatever byte stands in place of the space, only the space will do. */
	fine = true;
	for (c = 0; c < 256; c++)
	{
		memcpy(line, "HD O1\r\n", 7);
		line[2] = (char) c;
		p = parse(line, 7);
		if (p.r.kind != (c == ' ' ? EC_REPLY_HD : EC_REPLY_MALFORMED))
		{
			tap_diag("byte 0x%02x: %s", (unsigned) c, describe(&p));
			fine = false;
		}
	}
	tap_ok(fine, "only a space separates a code from its flags");

	/* Any single byte of an answer changed: never a crash, never text outside the line. */
	fine = true;
	for (i = 0; i < 29; i++)
	{
		for (c = 0; c < 256; c++)
		{
			memcpy(line, "VA 4 t29 f0 s4 ka h1 c5 O8\r\nn", 29);
			line[i] = (char) c;
			p = parse(line, 29);
			if (!p.text_inside || p.r.line_len > 29 || p.r.value_len > EC_VALUE_MAX)
			{
				tap_diag("byte %zu as 0x%02x: %s", i, (unsigned) c, describe(&p));
				fine = false;
			}
		}
	}
	tap_ok(fine, "an answer with one byte changed stays within bounds");
}

static void
test_limits(void)
{
	char		line[EC_LINE_MAX + 100];
	char	   *big;
	size_t		i;
	bool		fine = true;
	Parsed		p;

	p = parse("", 0);
	tap_ok(strcmp(describe(&p), "INCOMPLETE 0") == 0, "nothing at all is incomplete");
	ec_reply_parse(NULL, 0, &p.r);
	tap_ok(p.r.kind == EC_REPLY_INCOMPLETE, "no buffer at all is incomplete");

	/* The line end as the last byte allowed, then one byte later. */
	memset(line, 'x', sizeof(line));
	memcpy(line, "STAT ", 5);
	memcpy(line + EC_LINE_MAX - 2, "\r\n", 2);
	p = parse(line, EC_LINE_MAX);
	tap_ok(p.r.kind == EC_REPLY_STAT && p.r.line_len == EC_LINE_MAX &&
		   p.r.text_len == EC_LINE_MAX - 7, "a line of EC_LINE_MAX bytes");
	p = parse(line, sizeof(line));
	tap_ok(p.r.kind == EC_REPLY_STAT && p.r.line_len == EC_LINE_MAX,
		   "a line of EC_LINE_MAX bytes, and more behind it");
	p = parse(line, EC_LINE_MAX - 1);
	tap_ok(p.r.kind == EC_REPLY_INCOMPLETE, "a line of EC_LINE_MAX bytes but its last");

	memset(line + EC_LINE_MAX - 2, 'x', 2);
	memcpy(line + EC_LINE_MAX - 1, "\r\n", 2);
	is_malformed(line, EC_LINE_MAX + 1, "a line of EC_LINE_MAX + 1 bytes");
	is_malformed(line, EC_LINE_MAX, "a line of EC_LINE_MAX bytes without an end");
	p = parse(line, EC_LINE_MAX - 1);
	tap_ok(p.r.kind == EC_REPLY_INCOMPLETE, "EC_LINE_MAX - 1 bytes without an end are incomplete");

	/* A megabyte without a line end is looked at as far as EC_LINE_MAX, once. */
	big = malloc(1 << 20);
	memset(big, 'x', 1 << 20);
	is_malformed(big, 1 << 20, "a megabyte without a line end");
	free(big);

	/* Every number of so many nines: taken while it fits, refused from then on. */
	for (i = 1; i < 1000; i++)
	{
		memcpy(line, "HD c", 4);
		memset(line + 4, '9', i);
		memcpy(line + 4 + i, "\r\n", 2);
		p = parse(line, i + 6);
		if (p.r.kind != (i <= 19 ? EC_REPLY_HD : EC_REPLY_MALFORMED))
			fine = false;
	}
	tap_ok(fine, "tokens of 1 to 999 nines");
}

/* A conversation as it arrives, walked as the client walks it. */
static void
test_stream(void)
{
	static const char stream[] =
	"HD c7 O1\r\n"
	"VA 11 c7 O2\r\nMN\r\nEN O3\r\n\r\n"
	"EN O3\r\n"
	"SERVER_ERROR object too large for cache\r\n"
	"STAT pid 1\r\nEND\r\n"
	"key=a exp=-1 la=1 cas=1 fetch=no cls=1 size=64\nEND\r\n"
	"MN\r\n";
	static const EcReplyKind expected[] = {EC_REPLY_HD, EC_REPLY_VA, EC_REPLY_EN,
		EC_REPLY_SERVER_ERROR, EC_REPLY_STAT, EC_REPLY_END, EC_REPLY_DUMP, EC_REPLY_END,
	EC_REPLY_MN};
	size_t		len = sizeof(stream) - 1;
	size_t		pos = 0;
	size_t		n = 0;
	bool		fine = true;

	while (pos < len && n < sizeof(expected) / sizeof(expected[0]))
	{
		Parsed		p = parse(stream + pos, len - pos);

		if (p.r.kind != expected[n])
		{
			tap_diag("answer %zu: %s", n, describe(&p));
			fine = false;
			break;
		}
		pos += p.r.line_len;
		if (p.r.kind == EC_REPLY_VA)
			pos += p.r.value_len + 2;
		n++;
	}
	tap_ok(fine && pos == len && n == sizeof(expected) / sizeof(expected[0]),
		   "a stream of answers, one value looking like answers");
}

/* A request into a buffer of exactly EC_REQUEST_MAX bytes, compared and freed. */
static char *request;

static void
request_is(size_t len, const char *expected, const char *what)
{
	if (!tap_ok(len == strlen(expected) && memcmp(request, expected, len) == 0,
				"request: %s", what))
	{
		tap_diag("expected: %s", expected);
		tap_diag("found: %.*s (%zu bytes)", (int) len, request, len);
	}
}

static void
test_requests(void)
{
	static const int64_t ttls[] = {0, 1, 9, 10, 99, 1800, 2592000, 2592001, 1795393048,
	2147483646, INT32_MAX};
	char		key[EC_KEY_MAX + 1];
	char		expected[EC_REQUEST_MAX];
	bool		fine = true;
	size_t		i;
	size_t		longest;

	request = malloc(EC_REQUEST_MAX);

	request_is(ec_wire_get(request, LIT("session:1"), -1, 1),
			   "mg session:1 v c O1\r\n", "get");
	request_is(ec_wire_get(request, LIT("session:1"), 1800, 4294967295u),
			   "mg session:1 v c T1800 O4294967295\r\n", "get and touch");
	request_is(ec_wire_get(request, LIT("a"), 0, 0), "mg a v c T0 O0\r\n", "get, no expiry");
	request_is(ec_wire_touch(request, LIT("session:1"), 1800, 7),
			   "mg session:1 s T1800 O7\r\n", "touch");
	request_is(ec_wire_touch(request, LIT("session:1"), 0, 7),
			   "mg session:1 s T0 O7\r\n", "touch, no expiry");
	request_is(ec_wire_touch(request, LIT("session:1"), -1, 7),
			   "mg session:1 s T-1 O7\r\n", "touch, expired at once");

	request_is(ec_wire_look(request, LIT("session:1"), 7), "mg session:1 s O7\r\n", "look");
	request_is(ec_wire_inspect(request, LIT("session:1"), 4294967295u),
			   "mg session:1 v c f t O4294967295\r\n", "inspect");

	request_is(ec_wire_set(request, LIT("session:1"), EC_MARKER_LEN, 0, 0, 30, false, false, 7),
			   "ms session:1 4 c T30 O7\r\n", "set, asking for the token");
	request_is(ec_wire_set(request, LIT("session:1"), 0, 0, 0, 0, false, false, 7),
			   "ms session:1 0 c O7\r\n", "set of an empty value, no expiry");
	request_is(ec_wire_set(request, LIT("session:1"), 140000, 0,
						   18446744073709551615u, 1800, false, false, 7),
			   "ms session:1 140000 C18446744073709551615 T1800 O7\r\n", "set by CAS");
	request_is(ec_wire_set(request, LIT("session:1"), 2, 0, 42, 1800, true, false, 7),
			   "ms session:1 2 C42 T1800 q O7\r\n", "set by CAS, quietly");
	request_is(ec_wire_set(request, LIT("k"), 4, 'E', 0, 30, false, false, 7),
			   "ms k 4 c ME T30 O7\r\n", "add");
	request_is(ec_wire_set(request, LIT("k"), 4, 'R', 9, 0, false, false, 7),
			   "ms k 4 C9 MR O7\r\n", "replace by CAS, no expiry");
	request_is(ec_wire_set(request, LIT("k"), 4, 'A', 0, -5, false, false, 7),
			   "ms k 4 c MA T-1 O7\r\n", "append, expired at once");

	request_is(ec_wire_set(request, LIT("k"), 4, 'E', 0, 30, true, true, 7),
			   "ms k S4 ME T30 q O7\r\n", "add to a memcached before 1.6.10");
	request_is(ec_wire_set(request, LIT("k"), 2, 0, 42, 30, false, true, 7),
			   "ms k S2 C42 T30 O7\r\n", "set by CAS, before 1.6.10");
	request_is(ec_wire_token(request, LIT("k"), 7), "mg k c O7\r\n", "the token alone");
	request_is(ec_wire_version(request), "version\r\n", "the version");

	request_is(ec_wire_delete(request, LIT("session:1"), 0, false, 7),
			   "md session:1 O7\r\n", "delete");
	request_is(ec_wire_delete(request, LIT("session:1"), 42, false, 7),
			   "md session:1 C42 O7\r\n", "delete by CAS");
	request_is(ec_wire_delete(request, LIT("session:1"), 0, true, 7),
			   "md session:1 q O7\r\n", "delete, quiet");
	request_is(ec_wire_delete(request, LIT("session:1"), 42, true, 7),
			   "md session:1 C42 q O7\r\n", "delete by CAS, quiet");

	request_is(ec_wire_arithmetic(request, LIT("k"), false, 1, 7),
			   "ma k MI D1 v c O7\r\n", "increment");
	request_is(ec_wire_arithmetic(request, LIT("k"), true, 18446744073709551615u, 7),
			   "ma k MD D18446744073709551615 v c O7\r\n", "decrement");
	request_is(ec_wire_arithmetic(request, LIT("k"), true, 0, 7),
			   "ma k MD D0 v c O7\r\n", "decrement by nothing");

	request_is(ec_wire_barrier(request), "mn\r\n", "barrier");
	request_is(ec_wire_metadump(request), "lru_crawler metadump hash\r\n", "metadump");
	request_is(ec_wire_flush(request), "flush_all\r\n", "flush");
	request_is(ec_wire_stats(request, NULL), "stats\r\n", "stats");
	request_is(ec_wire_stats(request, "settings"), "stats settings\r\n", "stats settings");
	request_is(ec_wire_stats(request, "detail on"), "stats detail on\r\n", "stats of two words");
	request_is(ec_wire_stats(request, ""), "", "stats of no group is none");
	request_is(ec_wire_stats(request, "a\r\nflush_all"), "", "stats with a line end is none");
	request_is(ec_wire_stats(request, "\303\251"), "", "stats with a byte over 0x7e is none");

	/* Numbers, against those of the C library. */
	for (i = 0; i < sizeof(ttls) / sizeof(ttls[0]); i++)
	{
		size_t		len = ec_wire_touch(request, LIT("k"), ttls[i], 7);

		snprintf(expected, sizeof(expected), "mg k s T%" PRId64 " O7\r\n", ttls[i]);
		fine &= len == strlen(expected) && memcmp(request, expected, len) == 0;
	}
	tap_ok(fine, "TTLs as the C library writes them");
	fine = true;
	for (i = 0; i < 64; i++)
	{
		uint64_t	around[3] = {((uint64_t) 1 << i) - 1, (uint64_t) 1 << i,
		((uint64_t) 1 << i) + 1};
		int			j;

		for (j = 0; j < 3; j++)
		{
			size_t		len = ec_wire_delete(request, LIT("k"), around[j], false,
											 (uint32_t) around[j]);

			if (around[j] == 0)
				snprintf(expected, sizeof(expected), "md k O0\r\n");
			else
				snprintf(expected, sizeof(expected), "md k C%" PRIu64 " O%" PRIu32 "\r\n",
						 around[j], (uint32_t) around[j]);
			fine &= len == strlen(expected) && memcmp(request, expected, len) == 0;
		}
	}
	tap_ok(fine, "tokens and opaques as the C library writes them");

	/* memcached keeps 32 bits of a TTL: 2^32 - 1 would be -1, expired at once. */
	request_is(ec_wire_touch(request, LIT("k"), (int64_t) INT32_MAX + 1, 7),
			   "mg k s T2147483647 O7\r\n", "a time after 2038");
	request_is(ec_wire_set(request, LIT("k"), 4, 0, 0, INT64_MAX, false, false, 7),
			   "ms k 4 c T2147483647 O7\r\n", "the latest time");
	request_is(ec_wire_touch(request, LIT("k"), INT64_MIN, 7),
			   "mg k s T-1 O7\r\n", "the earliest time");

	/* The longest of each kind fits, and a key that is none gives no request. */
	memset(key, 'k', sizeof(key));
	longest = ec_wire_set(request, key, EC_KEY_MAX, SIZE_MAX, 'E', UINT64_MAX, INT64_MAX, false, false,
						  UINT32_MAX);
	tap_ok(longest > EC_KEY_MAX && longest <= EC_REQUEST_MAX, "request: the longest set fits");
	tap_ok(ec_wire_get(request, key, EC_KEY_MAX, INT64_MAX, UINT32_MAX) ==
		   EC_KEY_MAX + sizeof("mg  v c T2147483647 O4294967295\r\n") - 1,
		   "request: the longest get fits");
	tap_ok(ec_wire_arithmetic(request, key, EC_KEY_MAX, true, UINT64_MAX, UINT32_MAX) ==
		   EC_KEY_MAX + sizeof("ma  MD D18446744073709551615 v c O4294967295\r\n") - 1,
		   "request: the longest decrement fits");
	tap_ok(ec_wire_get(request, key, EC_KEY_MAX + 1, -1, 1) == 0 &&
		   ec_wire_touch(request, key, EC_KEY_MAX + 1, 1, 1) == 0 &&
		   ec_wire_look(request, key, EC_KEY_MAX + 1, 1) == 0 &&
		   ec_wire_inspect(request, key, EC_KEY_MAX + 1, 1) == 0 &&
		   ec_wire_set(request, key, EC_KEY_MAX + 1, 1, 0, 0, 0, false, false, 1) == 0 &&
		   ec_wire_delete(request, key, EC_KEY_MAX + 1, 0, false, 1) == 0 &&
		   ec_wire_arithmetic(request, key, EC_KEY_MAX + 1, false, 1, 1) == 0,
		   "request: none for a key of 251 bytes");
	tap_ok(ec_wire_get(request, key, 0, -1, 1) == 0 &&
		   ec_wire_touch(request, key, 0, 1, 1) == 0 &&
		   ec_wire_set(request, key, 0, 1, 0, 0, 0, false, false, 1) == 0 &&
		   ec_wire_delete(request, key, 0, 0, false, 1) == 0 &&
		   ec_wire_arithmetic(request, key, 0, false, 1, 1) == 0,
		   "request: none for an empty key");
	memset(expected, 'g', sizeof(expected));
	expected[EC_KEY_MAX + 1] = '\0';
	tap_ok(ec_wire_stats(request, expected) == 0, "request: none for a group of 251 bytes");
	expected[EC_KEY_MAX] = '\0';
	tap_ok(ec_wire_stats(request, expected) == EC_KEY_MAX + 8,
		   "request: stats of a group of 250 bytes");

	free(request);
}

static void
test_auth(void)
{
	char		user[EC_USER_MAX + 2];
	char		password[EC_PASSWORD_MAX + 2];
	char		one[2] = {0};
	bool		fine = true;
	size_t		longest;
	int			c;

	request = malloc(EC_REQUEST_MAX);

	request_is(ec_wire_auth(request, "alice", "secret"),
			   "set echocache 0 -1 12\r\nalice secret\r\n", "authentication");
	request_is(ec_wire_auth(request, "b", ":\t\303\251"),
			   "set echocache 0 -1 6\r\nb :\t\303\251\r\n", "a password of any other bytes");
	request_is(ec_wire_auth(request, "", "secret"), "", "none without a user name");
	request_is(ec_wire_auth(request, "alice", ""), "", "none without a password");
	request_is(ec_wire_auth(request, "alice b", "secret"), "", "none for a user name of two words");
	request_is(ec_wire_auth(request, "alice", "a b"), "", "none for a password of two words");
	request_is(ec_wire_auth(request, "alice", "a\r\nflush_all"), "",
			   "none for a password that holds a request");
	tap_ok(ec_wire_valid_user("") && ec_wire_valid_password(""), "empty is not malformed");

	/* Each byte that there is, alone. */
	for (c = 1; c < 256; c++)
	{
		one[0] = (char) c;
		if (ec_wire_valid_user(one) != (c > 0x20 && c != 0x7f && c != ':') ||
			ec_wire_valid_password(one) != (c != ' ' && c != '\r' && c != '\n'))
		{
			tap_diag("byte 0x%02x", (unsigned) c);
			fine = false;
		}
	}
	tap_ok(fine, "what a user name and a password may hold");

	memset(user, 'u', sizeof(user));
	memset(password, 'p', sizeof(password));
	user[EC_USER_MAX + 1] = password[EC_PASSWORD_MAX + 1] = '\0';
	tap_ok(!ec_wire_valid_user(user) && !ec_wire_valid_password(password), "too long by a byte");
	user[EC_USER_MAX] = password[EC_PASSWORD_MAX] = '\0';
	longest = ec_wire_auth(request, user, password);
	tap_ok(longest > EC_USER_MAX + EC_PASSWORD_MAX && longest <= EC_REQUEST_MAX,
		   "request: the longest authentication fits");

	free(request);
}

/* Decode from and into allocations of exactly the size; expected NULL: it is to fail. */
static void
decodes_to(const char *src, size_t srclen, const char *expected, const char *what)
{
	char	   *exact = malloc(srclen > 0 ? srclen : 1);
	char	   *dst = malloc(EC_KEY_MAX);
	int			want = expected != NULL ? (int) strlen(expected) : -1;
	int			len;

	memcpy(exact, src, srclen);
	len = ec_wire_decode_key(dst, exact, srclen);
	if (!tap_ok(len == want && (len < 0 || memcmp(dst, expected, (size_t) len) == 0),
				"decode: %s", what))
		tap_diag("expected %d bytes, found %d", want, len);
	free(dst);
	free(exact);
}

static void
test_decode(void)
{
	char		encoded[3 * EC_KEY_MAX + 4];
	char		plain[EC_KEY_MAX + 2];
	size_t		i;
	int			c;
	bool		fine = true;

	decodes_to(LIT("session%3A1"), "session:1", "a key");
	decodes_to(LIT("a%2520%3A~%21%22%2B-.%2C%3B%26%5C_"), "a%20:~!\"+-.,;&\\_",
			   "as memcached encodes");
	decodes_to(LIT("session:1"), "session:1", "bytes that need no encoding");
	decodes_to(LIT("session%3a1"), "session:1", "lower-case hex");
	decodes_to(LIT("%25"), "%", "a per cent sign");
	decodes_to(LIT("%2525"), "%25", "once, not twice");

	decodes_to(LIT(""), NULL, "nothing");
	decodes_to(LIT("a%"), NULL, "% at the end");
	decodes_to(LIT("a%3"), NULL, "% and one digit at the end");
	decodes_to(LIT("a%3G"), NULL, "% and no hex");
	decodes_to(LIT("a%G3"), NULL, "% and no hex first");
	decodes_to(LIT("a%%33"), NULL, "two %");
	decodes_to(LIT("a%-1"), NULL, "% and a sign");
	decodes_to(LIT("a% 3"), NULL, "% and a space");
	decodes_to(LIT("a%0x3"), NULL, "% and 0x");
	decodes_to(LIT("a b"), NULL, "a space");
	decodes_to(LIT("a\0b"), NULL, "a NUL");
	decodes_to(LIT("a\303\251"), NULL, "a byte over 0x7e");
	decodes_to(LIT("session%3A1%0D%0Aflush_all%0D%0A"), NULL, "a key that holds a request");
	decodes_to(LIT("session%3A1%20c"), NULL, "a key that holds a space");
	decodes_to(LIT("session%3A%C3%A9"), NULL, "a key that we would have encoded");
	decodes_to(LIT("session%3A%00"), NULL, "a key that holds a NUL");

	for (c = 0; c < 256; c++)
	{
		char		upper[4];
		char		lower[4];
		char		dst[EC_KEY_MAX];
		int			want = c >= 0x21 && c <= 0x7e ? 1 : -1;

		snprintf(upper, sizeof(upper), "%%%02X", (unsigned) c);
		snprintf(lower, sizeof(lower), "%%%02x", (unsigned) c);
		if (ec_wire_decode_key(dst, upper, 3) != want || (want == 1 && dst[0] != (char) c) ||
			ec_wire_decode_key(dst, lower, 3) != want || (want == 1 && dst[0] != (char) c))
		{
			tap_diag("byte 0x%02x", (unsigned) c);
			fine = false;
		}
	}
	tap_ok(fine, "decode: every byte");

	fine = true;
	for (c = 0; c < 256; c++)
	{
		char		low[3] = {'%', '4', (char) c};
		char		high[3] = {'%', (char) c, '1'};
		char		dst[EC_KEY_MAX];
		bool		hex = c != 0 && strchr("0123456789abcdefABCDEF", c) != NULL;
		bool		sendable = c >= '2' && c <= '7';	/* 0x21 to 0x71 */

		if (ec_wire_decode_key(dst, low, 3) != (hex ? 1 : -1) ||
			ec_wire_decode_key(dst, high, 3) != (sendable ? 1 : -1))
		{
			tap_diag("digit 0x%02x", (unsigned) c);
			fine = false;
		}
	}
	tap_ok(fine, "decode: every byte as either digit");

	for (i = 0; i < EC_KEY_MAX; i++)
		memcpy(encoded + 3 * i, "%3A", 4);
	memset(plain, ':', sizeof(plain));
	plain[EC_KEY_MAX] = '\0';
	decodes_to(encoded, 3 * EC_KEY_MAX, plain, "250 bytes, all encoded");
	memcpy(encoded + 3 * EC_KEY_MAX, "%3A", 4);
	decodes_to(encoded, 3 * EC_KEY_MAX + 3, NULL, "251 bytes, all encoded");
	memset(plain, 'k', EC_KEY_MAX + 1);
	plain[EC_KEY_MAX + 1] = '\0';
	decodes_to(plain, EC_KEY_MAX + 1, NULL, "251 bytes as they are");
	plain[EC_KEY_MAX] = '\0';
	decodes_to(plain, EC_KEY_MAX, plain, "250 bytes as they are");
}

void
test_wire(void)
{
	test_meta_answers();
	test_versions();
	test_word_answers();
	test_dump_answers();
	test_malformed();
	test_limits();
	test_stream();
	test_requests();
	test_auth();
	test_decode();
}
