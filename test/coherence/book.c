/*-------------------------------------------------------------------------
 *
 * book.c
 *	  What writers know and what readers have found: the book, and the report.
 *
 * Written by all threads at once; everything shared is an atomic that only
 * grows, but for the samples, which have a lock.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "checker.h"

#define MAX_SAMPLES		5		/* findings of a kind told in full */

static const char *const kind_name[KINDS] = {
	"stale", "deleted", "absent", "dirty", "backwards", "foreign", "own", "rest"
};

static const char *const counter_name[COUNTERS] = {
	"committed", "rolled_back", "savepoints_rolled_back", "failed", "truncated",
	"plain_hits", "plain_markers", "plain_misses", "sql_reads", "sql_many", "own_reads",
	"rows_at_rest", "cached_at_rest"
};

_Atomic uint8_t *state;
_Atomic uint8_t *marks;
_Atomic uint64_t floors[MAX_KEYS + 1];
_Atomic uint64_t sights[MAX_KEYS + 1];
_Atomic uint64_t vanishing[MAX_KEYS + 1];

static _Atomic long counters[COUNTERS];
static _Atomic long findings[KINDS];
static _Atomic long max_us[TIMES];

static pthread_mutex_t samples_lock = PTHREAD_MUTEX_INITIALIZER;
static char *samples[KINDS][MAX_SAMPLES];	/* under samples_lock */
static int	nsamples[KINDS];	/* under samples_lock */
static double started;

/* Before anything else.  Pages of the arrays that no version reaches cost nothing. */
void
book_open(void)
{
	state = calloc(MAX_VERSIONS, 1);
	marks = calloc(MAX_VERSIONS, 1);
	if (!state || !marks)
		die("out of memory");
	started = now();
}

/* Seconds, of a clock that nobody sets. */
double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* We cannot tell: no verdict, exit status 2. */
void
die(const char *fmt,...)
{
	va_list		args;

	fputs("checker: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	_exit(2);
}

/* Count a finding, and keep its story if it is among the first. */
void
found(Kind kind, const char *fmt,...)
{
	va_list		args;
	char		text[1000];
	int			n;

	atomic_fetch_add(&findings[kind], 1);
	n = snprintf(text, sizeof(text), "%.3f s %s: ", now() - started, kind_name[kind]);
	va_start(args, fmt);
	vsnprintf(text + n, sizeof(text) - n, fmt, args);
	va_end(args);
	pthread_mutex_lock(&samples_lock);
	if (nsamples[kind] < MAX_SAMPLES)
		samples[kind][nsamples[kind]++] = strdup(text);
	pthread_mutex_unlock(&samples_lock);
}

void
count(int which)
{
	atomic_fetch_add(&counters[which], 1);
}

/* what = max(what, value) */
void
raise_to(_Atomic uint64_t *what, uint64_t value)
{
	uint64_t	old = atomic_load(what);

	while (old < value && !atomic_compare_exchange_weak(what, &old, value))
		;
}

/* Remember the longest of its kind. */
void
note_time(int which, double since)
{
	long		us = (now() - since) * 1e6;
	long		old = atomic_load(&max_us[which]);

	while (old < us && !atomic_compare_exchange_weak(&max_us[which], &old, us))
		;
}

/* A version's state, by its writer. */
void
set_state(long version, int to)
{
	if (version <= 0 || version >= MAX_VERSIONS)
		die("version %ld is beyond the book", version);
	atomic_store(&state[version], to);
}

/* Versions that a reader had, but that turned out never to be committed. */
void
check_book(void)
{
	for (long v = 1; v < MAX_VERSIONS; v++)
	{
		int			m = atomic_load(&marks[v]);

		if (!(m & SEEN) || (m & TOLD))
			continue;
		if (atomic_load(&state[v]) != COMMITTED)
			found(DIRTY, "version %ld was read and never committed", v);
		else if ((m & SEEN_UNKNOWN) && !(m & AUTOCOMMIT))
			found(DIRTY, "version %ld was read before its statement had returned", v);
	}
}

/* One line of JSON for machines, then the same for people.  Returns how much was found. */
long
report(void)
{
	long		all = 0;

	printf("{\"mode\":\"%s\",\"seed\":%llu,\"seconds\":%g,\"keys\":%d,\"writers\":%d,"
		   "\"readers\":%d", mode, (unsigned long long) seed, seconds, nkeys, nwriters, nreaders);
	for (int i = 0; i < COUNTERS; i++)
		printf(",\"%s\":%ld", counter_name[i], counters[i]);
	printf(",\"max_read_ms\":%.1f,\"max_commit_ms\":%.1f", max_us[T_READ] / 1e3,
		   max_us[T_COMMIT] / 1e3);
	for (int i = 0; i < KINDS; i++)
	{
		printf(",\"%s\":%ld", kind_name[i], findings[i]);
		all += findings[i];
	}
	printf("}\n\n%s, seed %llu, %g s: %d writers and %d readers on %d keys\n", mode,
		   (unsigned long long) seed, seconds, nwriters, nreaders, nkeys);
	printf("  did  ");
	for (int i = 0; i < COUNTERS; i++)
		printf(" %s %ld%s", counter_name[i], counters[i], i + 1 < COUNTERS ? "," : "\n");
	printf("  waits longest read %.1f ms, longest commit %.1f ms\n", max_us[T_READ] / 1e3,
		   max_us[T_COMMIT] / 1e3);
	printf("  found");
	for (int i = 0; i < KINDS; i++)
		printf(" %s %ld%s", kind_name[i], findings[i], i + 1 < KINDS ? "," : "\n");
	for (int i = 0; i < KINDS; i++)
		for (int j = 0; j < nsamples[i]; j++)
			printf("    %s\n", samples[i][j]);
	return all;
}
