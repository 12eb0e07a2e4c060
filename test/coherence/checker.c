/*-------------------------------------------------------------------------
 *
 * checker.c
 *	  Starts the threads, stops them, and gives the verdict.  See checker.h.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "checker.h"

#define MAX_THREADS		64

const char *mode = "echocache";
bool		naive = false;
double		seconds = 10;
uint64_t	seed = 0;
int			nkeys = 16;
int			nwriters = 6;
int			nreaders = 6;
int			think_us = 1000;
int			max_body = 2000;
char	   *key_prefix;
_Atomic bool stop = false;

/* splitmix64: each thread its own, so that a seed gives each the same choices again. */
static uint64_t
next_random(Worker *w)
{
	uint64_t	z = (w->random += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* 0 .. n-1 */
int
pick(Worker *w, int n)
{
	return next_random(w) % n;
}

/* Yes in so many of a hundred cases. */
bool
chance(Worker *w, int percent)
{
	return pick(w, 100) < percent;
}

/* Pause, half of the time. */
void
think(Worker *w)
{
	if (think_us > 0 && chance(w, 50))
		usleep(pick(w, think_us * 2));
}

static void
usage(void)
{
	die("usage: checker [--mode echocache|naive-set|naive-delete|uncached] [--seconds S]"
		" [--seed N] [--keys N] [--writers N] [--readers N] [--think MICROSECONDS] [--body BYTES]");
}

int
main(int argc, char **argv)
{
	static const struct option options[] = {
		{"mode", required_argument, NULL, 'm'},
		{"seconds", required_argument, NULL, 's'},
		{"seed", required_argument, NULL, 'r'},
		{"keys", required_argument, NULL, 'k'},
		{"writers", required_argument, NULL, 'w'},
		{"readers", required_argument, NULL, 'R'},
		{"think", required_argument, NULL, 't'},
		{"body", required_argument, NULL, 'b'},
		{NULL, 0, NULL, 0}
	};
	pthread_t	threads[MAX_THREADS];
	Worker	   *workers;
	int			n;
	int			c;

	seed = (uint64_t) time(NULL);
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		switch (c)
		{
			case 'm':
				mode = optarg;
				break;
			case 's':
				seconds = atof(optarg);
				break;
			case 'r':
				seed = strtoull(optarg, NULL, 10);
				break;
			case 'k':
				nkeys = atoi(optarg);
				break;
			case 'w':
				nwriters = atoi(optarg);
				break;
			case 'R':
				nreaders = atoi(optarg);
				break;
			case 't':
				think_us = atoi(optarg);
				break;
			case 'b':
				max_body = atoi(optarg);
				break;
			default:
				usage();
		}
	}
	naive = strcmp(mode, "naive-set") == 0 || strcmp(mode, "naive-delete") == 0 ||
		strcmp(mode, "uncached") == 0;
	n = nwriters + nreaders;
	if (optind != argc || (!naive && strcmp(mode, "echocache") != 0) || nkeys < MANY ||
		nkeys > MAX_KEYS || nwriters < 1 || nreaders < 1 || n > MAX_THREADS || seconds <= 0 ||
		max_body < 1)
		usage();

	book_open();
	workers = calloc(n, sizeof(Worker));
	if (workers == NULL)
		die("out of memory");
	for (int i = 0; i < n; i++)
	{
		Worker	   *w = &workers[i];

		w->writer = i < nwriters;
		w->id = w->writer ? i : i - nwriters;
		w->random = seed * 1000 + i;
		sql_connect(w);
		if (!w->writer)
		{
			w->plain.meta = w->id % 2;
			plain_connect(&w->plain);
		}
	}
	if (naive)
		key_prefix = "";
	else
	{
		PGresult   *res = sql(&workers[nwriters], "SHOW echocache.key_prefix", NULL, NULL);

		key_prefix = strdup(PQgetvalue(res, 0, 0));
		PQclear(res);
	}

	for (int i = 0; i < n; i++)
		if (pthread_create(&threads[i], NULL, workers[i].writer ? writer_main : reader_main,
						   &workers[i]) != 0)
			die("cannot start a thread");
	usleep(seconds * 1e6);
	atomic_store(&stop, true);
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	check_rest(&workers[nwriters]);
	check_book();
	return report() > 0 ? 1 : 0;
}
