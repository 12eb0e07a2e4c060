/*-------------------------------------------------------------------------
 *
 * latency.c
 *	  How long do statements take, one against the other?
 *
 *		latency ROUNDS CALLS {NAME TIMES PARAMETER SQL}...
 *
 * One connection (libpq's environment), statements prepared, $1 the only
 * parameter (an empty PARAMETER: none).  In every round each statement is called
 * CALLS times, in the order given, so that whatever disturbs the machine
 * disturbs them all.  TIMES over 1: a call is that many executions with $1 = 1,
 * 2, ... TIMES.  A statement named "-" is run once a round and not timed.
 *
 * Prints, for each round and name, a line of round, name, median µs of a call.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libpq-fe.h>

#define MAX_STATEMENTS	16

typedef struct Statement
{
	const char *name;
	int			times;
	const char *parameter;		/* or NULL */
	char		prepared[16];
} Statement;

static double
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e6 + ts.tv_nsec / 1e3;
}

/* Take a result as it should be, or end the program. */
static void
finish(PGconn *conn, PGresult *res, const char *what)
{
	ExecStatusType status = PQresultStatus(res);

	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
	{
		fprintf(stderr, "latency: %s: %s", what, PQerrorMessage(conn));
		exit(1);
	}
	PQclear(res);
}

static double
one_call(PGconn *conn, const Statement *s)
{
	double		start = now_us();

	for (int i = 1; i <= s->times; i++)
	{
		char		number[12];
		const char *value = s->parameter;

		if (s->times > 1)
		{
			snprintf(number, sizeof(number), "%d", i);
			value = number;
		}
		finish(conn, PQexecPrepared(conn, s->prepared, value ? 1 : 0, &value, NULL, NULL, 0),
			   s->name);
	}
	return now_us() - start;
}

static int
ascending(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

int
main(int argc, char **argv)
{
	Statement	statements[MAX_STATEMENTS];
	int			n = (argc - 3) / 4;
	int			rounds = argc > 1 ? atoi(argv[1]) : 0;
	int			calls = argc > 2 ? atoi(argv[2]) : 0;
	double	   *times;
	PGconn	   *conn;

	if (rounds < 1 || calls < 1 || n < 1 || n > MAX_STATEMENTS || argc != 3 + 4 * n)
	{
		fputs("usage: latency ROUNDS CALLS {NAME TIMES PARAMETER SQL}...\n", stderr);
		return 1;
	}

	/*
	 * Keep the memory of a result for the next one.  By default free() returns a
	 * large result's to the kernel and the next one faults it in again, page by
	 * page: more time than the server takes, and our own.
	 */
	mallopt(M_TRIM_THRESHOLD, 64 * 1024 * 1024);
	mallopt(M_TOP_PAD, 1024 * 1024);

	times = malloc(calls * sizeof(double));
	conn = PQconnectdb("");
	if (times == NULL || PQstatus(conn) != CONNECTION_OK)
	{
		fprintf(stderr, "latency: %s", PQerrorMessage(conn));
		return 1;
	}
	for (int i = 0; i < n; i++)
	{
		char	  **arg = argv + 3 + 4 * i;
		Statement  *s = &statements[i];

		*s = (Statement) {.name = arg[0], .times = atoi(arg[1]), .parameter = *arg[2] ? arg[2] : NULL};
		snprintf(s->prepared, sizeof(s->prepared), "s%d", i);
		/* VACUUM and the like can be prepared, too. */
		finish(conn, PQprepare(conn, s->prepared, arg[3], 0, NULL), arg[3]);
	}
	for (int round = 1; round <= rounds; round++)
		for (int i = 0; i < n; i++)
		{
			Statement  *s = &statements[i];

			if (strcmp(s->name, "-") == 0)
			{
				one_call(conn, s);
				continue;
			}
			for (int call = 0; call < calls; call++)
				times[call] = one_call(conn, s);
			qsort(times, calls, sizeof(double), ascending);
			printf("%d\t%s\t%.2f\n", round, s->name, times[calls / 2]);
		}
	PQfinish(conn);
	return 0;
}
