/*-------------------------------------------------------------------------
 *
 * book.c
 *	  What writers know and what readers have found: the book, and the report.
 *
 * Written by all threads at once; everything shared is an atomic that only
 * grows, but for the histories and the samples, which have locks.
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

#define MAX_SAMPLES		3		/* findings of a kind told in full */
#define HISTORY			512		/* entries kept of a register */
#define HISTORY_TOLD	60		/* and told */
#define FAULTS_TOLD		12		/* with it; register 0 stands for the servers */
#define SAMPLE_SIZE		8192

const char *const kind_name[KINDS] = {
	"stale", "deleted", "absent", "dirty", "ahead", "backwards", "torn", "repeat", "foreign",
	"own", "rest"
};

const char *const fault_name[FAULTS] = {
	"none", "freeze", "kill", "flush", "evict", "cut", "hold", "delay", "reset", "terminate",
	"crash", "stop", "promote"
};

static const char *const counter_name[COUNTERS] = {
	"plain_hits", "plain_markers", "plain_misses", "sql_reads", "sql_in_transactions",
	"sql_repeatable", "sql_many", "own_reads", "unjudged", "committed", "asynchronous",
	"autocommit", "prepared", "bulk", "truncated", "moved", "rolled_back",
	"savepoints_rolled_back", "failed", "connections_lost", "unsure", "commits_lost",
	"prepared_across_crash", "two_rows_in_snapshot", "down_only_in_log", "rests", "rows_at_rest", "cached_at_rest",
	"local_hits", "local_evictions", "audited", "audit_alarms"
};

_Atomic uint8_t *state;
_Atomic uint8_t *marks;
_Atomic int32_t *owner;
_Atomic uint64_t *beyond;
_Atomic(Together *) *together;
_Atomic uint64_t floors[MAX_REGISTERS];
_Atomic uint64_t soft_floors[MAX_REGISTERS];
_Atomic uint64_t sights[MAX_REGISTERS];
_Atomic uint64_t soft_sights[MAX_REGISTERS];
_Atomic uint64_t vanishing[MAX_REGISTERS];
_Atomic long newest;

static _Atomic long counters[COUNTERS];
static _Atomic long findings[KINDS];
static _Atomic long faults[FAULTS];
static _Atomic long apart[FAULTS];	/* stale plain reads, by what cut the server off */
static _Atomic long apart_us[FAULTS];	/* the longest of them */
static _Atomic long max_us[TIMES];

/* What has happened to a register, newest last; a ring. */
typedef struct History
{
	pthread_mutex_t lock;
	long		n;				/* entries ever made */
	struct
	{
		double		time;
		const char *who;
		const char *what;
		long		version;
	}			entry[HISTORY];
} History;

static History history[MAX_REGISTERS];

static pthread_mutex_t samples_lock = PTHREAD_MUTEX_INITIALIZER;
static char *samples[KINDS][MAX_SAMPLES];	/* under samples_lock */
static int	nsamples[KINDS];	/* under samples_lock */
static double started;
double		clock_offset;

/* Statements without a transaction around them, whose answers were lost: of each
 * register, how many.  The version is in no one's hands. */
static _Atomic int lost_autocommits[MAX_REGISTERS];

/* Before anything else.  Pages of the arrays that no version reaches cost nothing. */
void
book_open(void)
{
	struct timespec ts;

	state = calloc(MAX_VERSIONS, sizeof(*state));
	marks = calloc(MAX_VERSIONS, sizeof(*marks));
	owner = calloc(MAX_VERSIONS, sizeof(*owner));
	beyond = calloc(MAX_VERSIONS, sizeof(*beyond));
	together = calloc(MAX_VERSIONS, sizeof(*together));
	if (!state || !marks || !owner || !beyond || !together)
		die("out of memory");
	for (int i = 0; i < MAX_REGISTERS; i++)
		pthread_mutex_init(&history[i].lock, NULL);
	started = now();
	clock_gettime(CLOCK_REALTIME, &ts);
	clock_offset = ts.tv_sec + ts.tv_nsec / 1e9 - started;
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

	fflush(stdout);
	fprintf(stderr, "checker: seed %llu, %.3f s: ", (unsigned long long) seed, now() - started);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	_exit(2);
}

/* Something has happened to a register. */
void
note(int reg, const char *who, const char *what, long version)
{
	History    *h = &history[reg];
	int			i;

	pthread_mutex_lock(&h->lock);
	i = h->n++ % HISTORY;
	h->entry[i].time = now();
	h->entry[i].who = who;
	h->entry[i].what = what;
	h->entry[i].version = version;
	pthread_mutex_unlock(&h->lock);
}

/* When something newer than this version was first known committed, as far as we remember. */
double
overtaken_at(int reg, long version)
{
	History    *h = &history[reg];
	double		at = now();

	pthread_mutex_lock(&h->lock);
	for (long i = h->n - 1; i >= 0 && i >= h->n - HISTORY; i--)
	{
		long		v = h->entry[i % HISTORY].version;

		if (v > version && strstr(h->entry[i % HISTORY].what, "committed"))
			at = h->entry[i % HISTORY].time;
	}
	pthread_mutex_unlock(&h->lock);
	return at;
}

/* The end of a register's history as text. */
static int
tell_history(int reg, int told, char *text, size_t size)
{
	History    *h = &history[reg];
	size_t		used = 0;

	text[0] = '\0';
	pthread_mutex_lock(&h->lock);
	for (long i = h->n > told ? h->n - told : 0; i < h->n && used < size; i++)
		used += snprintf(text + used, size - used, "\n        %10.6f %-10s %8ld %s",
						 h->entry[i % HISTORY].time - started, h->entry[i % HISTORY].who,
						 h->entry[i % HISTORY].version, h->entry[i % HISTORY].what);
	pthread_mutex_unlock(&h->lock);
	return used;
}

/*
 * Count a finding, and keep its story if it is among the first, with what the book has
 * of the register (0: of none).
 */
void
found(Kind kind, int reg, const char *fmt,...)
{
	va_list		args;
	char		text[SAMPLE_SIZE];
	size_t		n;

	atomic_fetch_add(&findings[kind], 1);
	pthread_mutex_lock(&samples_lock);
	if (nsamples[kind] < MAX_SAMPLES)
	{
		n = snprintf(text, sizeof(text), "%.6f s %s: ", now() - started, kind_name[kind]);
		va_start(args, fmt);
		n += vsnprintf(text + n, sizeof(text) - n, fmt, args);
		va_end(args);
		if (reg > 0 && n < sizeof(text))
			n += tell_history(reg, HISTORY_TOLD, text + n, sizeof(text) - n);
		if (n < sizeof(text))
			tell_history(0, FAULTS_TOLD, text + n, sizeof(text) - n);
		samples[kind][nsamples[kind]++] = strdup(text);
	}
	pthread_mutex_unlock(&samples_lock);
}

void
count(int which)
{
	atomic_fetch_add_explicit(&counters[which], 1, memory_order_relaxed);
}

void
count_more(int which, long n)
{
	atomic_fetch_add(&counters[which], n);
}

void
forget_count(int which)
{
	atomic_store(&counters[which], 0);
}

/* A maximum. */
static void
raise_long(_Atomic long *what, long value)
{
	long		old = atomic_load(what);

	while (old < value && !atomic_compare_exchange_weak(what, &old, value))
		;
}

/* A plain client's old answer from a server that PostgreSQL did not reach, because of this. */
void
count_apart(Fault fault, double staleness)
{
	atomic_fetch_add(&apart[fault], 1);
	raise_long(&apart_us[fault], staleness * 1e6);
}

void
count_fault(Fault fault)
{
	atomic_fetch_add(&faults[fault], 1);
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
	raise_long(&max_us[which], (now() - since) * 1e6);
}

/* This number has been drawn. */
void
note_version(long version)
{
	if (version <= 0 || version >= MAX_VERSIONS)
		die("version %ld is beyond the book", version);
	raise_long(&newest, version);
}

/* A version's state, by its writer. */
void
set_state(long version, int to)
{
	note_version(version);
	atomic_store(&state[version], to);
}

void
note_lost_autocommit(int reg)
{
	atomic_fetch_add(&lost_autocommits[reg], 1);
	note(reg, "?", "the answer to a statement has been lost", 0);
}

/* Versions that a reader had, but that turned out never to be committed. */
void
check_book(void)
{
	for (long v = 1; v < MAX_VERSIONS && v <= newest + 10000; v++)
	{
		int			m = atomic_load(&marks[v]);
		int			s = atomic_load(&state[v]);
		int			reg = atomic_load(&owner[v]);

		if (!(m & SEEN) || (m & TOLD))
			continue;
		/* a lost statement may have been committed, once */
		if (s == UNKNOWN && reg > 0 && atomic_fetch_sub(&lost_autocommits[reg], 1) > 0)
			continue;
		if (s == LOST)
		{
			if (m & SEEN_PLAIN)
				found(AHEAD, reg, "version %ld was read from the cache, and lost in a crash", v);
			else if (!(m & ASYNC))
				found(DIRTY, reg, "version %ld was read, and lost in a crash", v);
		}
		else if (s != COMMITTED)
			found(DIRTY, reg, "version %ld was read and never committed (%d)", v, s);
		else if ((m & SEEN_UNKNOWN) && !(m & AUTOCOMMIT))
			found(DIRTY, reg, "version %ld was read before its statement had returned", v);
	}
}

/* All answers that were judged. */
static long
reads(void)
{
	return counters[N_PLAIN_HITS] + counters[N_PLAIN_MARKERS] + counters[N_PLAIN_MISSES] +
		counters[N_SQL] + counters[N_SQL_TRANSACTION] + counters[N_SQL_REPEATABLE] +
		counters[N_SQL_MANY] + counters[N_OWN];
}

/*
 * One line of JSON for machines, then the same for people; and a row of the table of all
 * runs, appended to that file.  Returns how much was found.
 */
long
report(const char *table)
{
	long		all = 0;
	long		napart = 0;
	long		nfaults = 0;
	long		longest = 0;
	double		took = now() - started;
	FILE	   *f;

	for (int i = 0; i < KINDS; i++)
		all += findings[i];
	for (int i = 0; i < FAULTS; i++)
	{
		napart += apart[i];
		nfaults += faults[i];
		if (apart_us[i] > longest)
			longest = apart_us[i];
	}

	printf("{\"mode\":\"%s\",\"seed\":%llu,\"started\":%.3f,\"seconds\":%.1f,\"documents\":%d,"
		   "\"writers\":%d,\"readers\":%d,\"reads\":%ld", mode, (unsigned long long) seed,
		   started + clock_offset, took, ndocs, nwriters, nplain + nsql, reads());
	for (int i = 0; i < COUNTERS; i++)
		printf(",\"%s\":%ld", counter_name[i], counters[i]);
	printf(",\"max_read_ms\":%.1f,\"max_commit_ms\":%.1f", max_us[T_READ] / 1e3,
		   max_us[T_COMMIT] / 1e3);
	printf(",\"faults\":%ld", nfaults);
	for (int i = 1; i < FAULTS; i++)
		printf(",\"fault_%s\":%ld", fault_name[i], faults[i]);
	printf(",\"apart\":%ld,\"apart_longest_ms\":%.1f,\"violations\":%ld", napart, longest / 1e3,
		   all);
	for (int i = 0; i < KINDS; i++)
		printf(",\"%s\":%ld", kind_name[i], findings[i]);

	printf("}\n\n%s, seed %llu, %.0f s: %d writers, %d plain and %d SQL readers on %d documents\n",
		   mode, (unsigned long long) seed, took, nwriters, nplain, nsql, ndocs);
	printf("  reads   %ld checked:", reads());
	for (int i = 0; i < N_COMMITTED; i++)
		printf(" %s %ld%s", counter_name[i], counters[i], i + 1 < N_COMMITTED ? "," : "\n");
	printf("  writes ");
	for (int i = N_COMMITTED; i < COUNTERS; i++)
		printf(" %s %ld%s", counter_name[i], counters[i], i + 1 < COUNTERS ? "," : "\n");
	printf("  waits   longest read %.1f ms, longest commit %.1f ms\n", max_us[T_READ] / 1e3,
		   max_us[T_COMMIT] / 1e3);
	if (nfaults > 0)
	{
		printf("  faults  %ld:", nfaults);
		for (int i = 1; i < FAULTS; i++)
			if (faults[i] > 0)
				printf(" %s %ld", fault_name[i], faults[i]);
		printf("\n  apart   %ld old answers to plain clients of a server that PostgreSQL did not"
			   " reach", napart);
		for (int i = 0; i < FAULTS; i++)
			if (apart[i] > 0)
				printf("; %s %ld, the oldest by %.0f ms", fault_name[i], apart[i],
					   apart_us[i] / 1e3);
		printf("\n");
	}
	printf("  found  ");
	for (int i = 0; i < KINDS; i++)
		printf(" %s %ld%s", kind_name[i], findings[i], i + 1 < KINDS ? "," : "\n");
	for (int i = 0; i < KINDS; i++)
		for (int j = 0; j < nsamples[i]; j++)
			printf("    %s\n", samples[i][j]);

	if (table && (f = fopen(table, "a")) != NULL)
	{
		fprintf(f, "| %s | %s | %llu | %.0f s | %ld | %ld | %ld | %ld | %ld | %ld |", mode,
				local_memory ? local_memory : "", (unsigned long long) seed, took, reads(),
				counters[N_LOCAL_HITS], counters[N_LOCAL_EVICTIONS], counters[N_COMMITTED],
				nfaults, all);
		for (int i = 0; i < KINDS; i++)
			fprintf(f, " %ld |", findings[i]);
		if (napart > 0)
			fprintf(f, " %ld (%.1f s) |\n", napart, longest / 1e6);
		else
			fprintf(f, " 0 |\n");
		fclose(f);
	}
	return all;
}
