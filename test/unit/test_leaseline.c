/*-------------------------------------------------------------------------
 *
 * test_leaseline.c
 *	  Unit tests of src/protocol/leaseline.c.
 *
 * Lines are parsed in allocations of exactly their size, so that the address sanitizer sees
 * a byte that is read behind them.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "protocol/leaseline.h"
#include "tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIFE	"0123456789abcdef0123456789abcdef"
#define NONCE	"fedcba9876543210fedcba9876543210"
#define BOOT	"3f2c1a90-1111-2222-3333-444455556666"
#define LINE	"echocache1 lease 7123 " BOOT " 64769 1234 " LIFE " " NONCE \
	" 16384 10000 1 1700000000 db1 /var/lib/postgresql/15/main shop"

static bool
parses(const char *text, size_t len, EcLeaseLine *line)
{
	char	   *exact = malloc(len > 0 ? len : 1);
	bool		ok;

	memcpy(exact, text, len);
	ok = ec_leaseline_parse(exact, len, line);
	free(exact);
	return ok;
}

/* It is not a line of ours, and nothing of it is handed on. */
static void
is_unknown(const char *text, size_t len, const char *what)
{
	EcLeaseLine line;
	EcLeaseLine nothing;

	memset(&nothing, 0, sizeof(nothing));
	tap_ok(!parses(text, len, &line) && memcmp(&line, &nothing, sizeof(line)) == 0, "%s", what);
}

/* The line with the first occurrence of a text replaced is none of ours. */
static void
is_unknown_with(const char *old, const char *new, const char *what)
{
	char		text[4096];
	const char *at = strstr(LINE, old);

	snprintf(text, sizeof(text), "%.*s%s%s", (int) (at - LINE), LINE, new, at + strlen(old));
	is_unknown(text, strlen(text), what);
}

static void
test_round_trip(void)
{
	EcLeaseLine line;
	EcLeaseLine again;
	char	   *dst = malloc(EC_LEASE_LINE_MAX);
	size_t		len;

	tap_ok(parses(LINE, strlen(LINE), &line) && line.kind == EC_LEASE_LEASE &&
		   line.system_identifier == 7123 && strcmp(line.boot_id, BOOT) == 0 &&
		   line.device == 64769 && line.inode == 1234 && strcmp(line.life, LIFE) == 0 &&
		   strcmp(line.nonce, NONCE) == 0 && line.database == 16384 && line.lease_ms == 10000 &&
		   line.ready && line.written_at == 1700000000 && strcmp(line.host, "db1") == 0 &&
		   strcmp(line.data_directory, "/var/lib/postgresql/15/main") == 0 &&
		   strcmp(line.database_name, "shop") == 0, "a line is taken apart");
	len = ec_leaseline_format(dst, &line);
	tap_ok(len == strlen(LINE) && memcmp(dst, LINE, len) == 0, "and written as it was");

	memset(line.host, 0xff, EC_LEASE_HOST_MAX);
	memset(line.data_directory, ' ', EC_LEASE_PATH_MAX);
	memset(line.database_name, '%', EC_LEASE_NAME_MAX);
	line.kind = EC_LEASE_PROMOTED;
	line.system_identifier = line.device = line.inode = UINT64_MAX;
	line.database = UINT32_MAX;
	line.written_at = INT64_MAX;
	line.lease_ms = 60000;
	line.boot_id[0] = '\0';
	len = ec_leaseline_format(dst, &line);
	tap_ok(len <= EC_LEASE_LINE_MAX && parses(dst, len, &again) && again.kind == line.kind &&
		   again.system_identifier == UINT64_MAX && again.inode == UINT64_MAX &&
		   again.database == UINT32_MAX && again.written_at == INT64_MAX &&
		   again.boot_id[0] == '\0' && strspn(again.host, "?") == EC_LEASE_HOST_MAX &&
		   strspn(again.data_directory, " ") == EC_LEASE_PATH_MAX &&
		   strspn(again.database_name, "%") == EC_LEASE_NAME_MAX, "so is the longest");

	memset(line.host, 0, sizeof(line.host));
	strcpy(line.data_directory, "-");
	strcpy(line.database_name, "a-b\n\r\t\"c");
	len = ec_leaseline_format(dst, &line);
	tap_ok(memchr(dst, '\n', len) == NULL && parses(dst, len, &again) && again.host[0] == '\0' &&
		   strcmp(again.data_directory, "-") == 0 &&
		   strcmp(again.database_name, "a-b???\"c") == 0, "an empty text, a dash, control characters");
	free(dst);
}

void
test_leaseline(void)
{
	char		text[EC_LEASE_LINE_MAX + 2];
	EcLeaseLine line;
	int			parsed = 0;

	test_round_trip();
	is_unknown("", 0, "nothing");
	is_unknown("null", 4, "a marker");
	is_unknown("{\"id\":1}", 8, "a document");
	is_unknown_with("echocache1", "echocache2", "another version's");
	is_unknown_with("lease", "leases", "another kind");
	is_unknown_with("lease", "", "an empty field");
	is_unknown_with(" 7123", "", "a field too few");
	is_unknown_with(" shop", " shop more", "a field too many");
	is_unknown_with(" shop", " shop ", "a space at the end");
	is_unknown_with("7123", "-1", "a sign");
	is_unknown_with("7123", "07123", "a zero before a number");
	is_unknown_with("7123", "18446744073709551616", "a number that is too large");
	is_unknown_with("16384", "4294967296", "an OID that is too large");
	is_unknown_with("10000", "99999999", "a lease of more than an hour");
	is_unknown_with(" 1 17", " 2 17", "neither ready nor not");
	is_unknown_with("3f2c", "3F2C", "a boot id of other characters");
	is_unknown_with(LIFE, LIFE "0", "a random number that is too long");
	is_unknown_with(NONCE, "fedcba98", "a random number that is too short");
	is_unknown_with("db1", "db%", "an escape that ends early");
	is_unknown_with("db1", "db%2", "and later");
	is_unknown_with("db1", "db%zz", "an escape that is none");
	is_unknown_with("db1", "db\n1", "a line end");
	is_unknown_with("db1", "db\xc3\xa4", "a byte that should be encoded");
	is_unknown_with("db1", "0123456789012345678901234567890123456789012345678901234567890123456789",
					"a text that is too long");
	is_unknown("echocache1 lease 7123\0 a", 24, "a zero byte");
	memset(text, 'x', sizeof(text));
	memcpy(text, LINE " ", strlen(LINE " "));
	is_unknown(text, sizeof(text), "a line that is too long");
	for (size_t len = 0; len < strlen(LINE); len++)
		parsed += parses(LINE, len, &line) && len <= strlen(LINE) - strlen("shop");
	tap_ok(parsed == 0, "a line that ends early");
}
