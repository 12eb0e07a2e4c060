/*-------------------------------------------------------------------------
 *
 * main.c
 *	  Run the unit tests of every file and print one TAP stream.
 *
 * The plan comes last: a test that dies half-way leaves none, and so cannot
 * pass for a success.  Exits with 1 if any test failed.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "tap.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

static const struct
{
	const char *name;
	void		(*run) (void);
}			tests[] = {
	{"key", test_key},
	{"leaseline", test_leaseline},
	{"wire", test_wire},
};

static int	n_tests = 0;
static int	n_failed = 0;

bool
tap_ok(bool passed, const char *name, ...)
{
	va_list		args;

	n_tests++;
	if (!passed)
		n_failed++;

	printf("%s %d - ", passed ? "ok" : "not ok", n_tests);
	va_start(args, name);
	vprintf(name, args);
	va_end(args);
	putchar('\n');
	return passed;
}

void
tap_diag(const char *message, ...)
{
	va_list		args;

	fputs("# ", stdout);
	va_start(args, message);
	vprintf(message, args);
	va_end(args);
	putchar('\n');
}

int
main(void)
{
	size_t		i;

	/* What was printed before a crash tells where it was. */
	setvbuf(stdout, NULL, _IOLBF, 0);

	for (i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
	{
		tap_diag("%s", tests[i].name);
		tests[i].run();
	}

	printf("1..%d\n", n_tests);
	if (n_failed > 0)
		tap_diag("%d of %d tests failed", n_failed, n_tests);
	return n_failed > 0 ? 1 : 0;
}
