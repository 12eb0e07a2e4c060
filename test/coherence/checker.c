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

#include <libmemcached/memcached.h>

#include "checker.h"

#define MAX_WORKERS		64

const char *mode = "echocache";
bool		naive = false;
enum CacheAside aside = NOT_ASIDE;
bool		faults_on = false;
bool		strict = false;
double		seconds = 10;
uint64_t	seed = 0;
int			nkeys = 120;
int			nthreads = 32;
int			nwriters = 6;
int			nplain = 2;
int			nsql = 4;
int			think_us = 1000;
int			plain_rate = 40000;
int			max_body = 20000;
int			min_body = 0;
int			nservers = 0;
const char *server_host[MAX_SERVERS];
const char *server_port[MAX_SERVERS];
const char *server_name[MAX_SERVERS];
const char *local_memory = NULL;
const char *server_log = NULL;
Doc			docs[MAX_DOCS];
int			ndocs;
int			nregisters;
Worker	   *workers;
int			nworkers;
_Atomic bool stop = false;
_Atomic bool stop_writers = false;
_Atomic unsigned life = 1;
_Atomic bool gate_closed = false;
_Atomic unsigned plain_era = 0;

static _Atomic bool stop_watch = false;
static int	doc_index[MAX_REGISTERS];

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

/* Some are asked for more often than others. */
Doc *
pick_doc(Worker *w)
{
	return &docs[chance(w, 30) ? pick(w, ndocs) % 16 * (ndocs / 16) : pick(w, ndocs)];
}

/* Pause, half of the time. */
void
think(Worker *w)
{
	if (think_us > 0 && chance(w, 50))
		usleep(pick(w, think_us * 2));
}

Doc *
doc_of(int reg)
{
	return &docs[doc_index[reg]];
}

static void
usage(void)
{
	die("usage: checker --servers HOST:PORT[,HOST:PORT] [--mode echocache|uncached|naive-set|"
		"naive-delete|client-delete|client-set] [--seconds S] [--seed N] [--faults all|NAME,...]"
		" [--control SCRIPT] [--pause MS] [--strict] [--keys N] [--threads N] [--writers N]"
		" [--plain N] [--sql N] [--think MICROSECONDS] [--rate N] [--body BYTES] [--least BYTES]"
		" [--table FILE] [--log FILE]");
}

/* Where plain clients find the servers, in the order in which echocache.hosts has them. */
static void
take_servers(char *list)
{
	for (char *item = strtok(list, ","); item; item = strtok(NULL, ","))
	{
		char	   *colon = strrchr(item, ':');

		if (colon == NULL || nservers == MAX_SERVERS)
			usage();
		*colon = '\0';
		server_host[nservers] = item;
		server_port[nservers++] = colon + 1;
	}
}

/* The documents and their registers, and the keys that they have in a memcached. */
static void
make_docs(const char *prefix)
{
	int			reg = 1;

	for (int i = 0; i < nkeys + nthreads; i++)
	{
		Doc		   *doc = &docs[ndocs];

		doc->name = i < nkeys ? "session" : "thread";
		doc->id = i < nkeys ? i + 1 : i - nkeys + 1;
		doc->nregs = i < nkeys ? 1 : PARTS;
		doc->reg = reg;
		snprintf(doc->id_text, sizeof(doc->id_text), "%d", doc->id);
		snprintf(doc->key, sizeof(doc->key), "%s%s:%d", prefix, doc->name, doc->id);
		for (int part = 0; part < doc->nregs; part++)
			doc_index[reg++] = ndocs;
		ndocs++;
	}
	nregisters = reg - 1;
}

/* On which server each document is, as libmemcached has it for echocache.hosts. */
static void
place_docs(char *hosts)
{
	memcached_st *mc = memcached_create(NULL);
	int			n = 0;
	char	   *save;

	if (mc == NULL ||
		memcached_behavior_set(mc, MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED, 1) != MEMCACHED_SUCCESS)
		die("libmemcached does not work");
	for (char *item = strtok_r(hosts, ",", &save); item; item = strtok_r(NULL, ",", &save))
	{
		char		host[200];
		char		name[220];
		unsigned	port;
		unsigned	weight = 1;

		if (sscanf(item, " %199[^:]:%u:%u", host, &port, &weight) < 2 ||
			memcached_server_add_with_weight(mc, host, port, weight) != MEMCACHED_SUCCESS ||
			n == nservers)
			die("echocache.hosts has \"%s\"", item);
		snprintf(name, sizeof(name), "%s:%u", host, port);
		server_name[n++] = strdup(name);
	}
	if (n != nservers)
		die("echocache.hosts has %d servers", n);
	for (int i = 0; i < ndocs && nservers > 1; i++)
		docs[i].server = memcached_generate_hash(mc, docs[i].key, strlen(docs[i].key));
	memcached_free(mc);
}

static char *
show(Worker *w, const char *text)
{
	PGresult   *res = sql(w, text, NULL, NULL, NULL);
	char	   *value;

	if (res == NULL)
		die("%s failed", text);
	value = strdup(PQgetvalue(res, 0, 0));
	PQclear(res);
	return value;
}

/*
 * At rest a server is not to be DOWN just because the machine is slow, nor a fill to lose its
 * marker: memcached counts in whole seconds, so one that lives for a second may end at once.
 */
static void
be_patient(Worker *w, bool patient)
{
	run(w, patient ? "ALTER SYSTEM SET echocache.timeout = '5s'"
		: "ALTER SYSTEM RESET echocache.timeout");
	run(w, patient ? "ALTER SYSTEM SET echocache.marker_ttl = '30s'"
		: "ALTER SYSTEM RESET echocache.marker_ttl");
	run(w, "SELECT pg_reload_conf()");
	usleep(100000);
	if (patient && !wait_all_up(30))
		die("a server is not UP in the end");
}

/*
 * Everything is to be right at rest, and SQL reads have filled the cache; which they do
 * only when all commits are flushed (G4), so that is seen to.  If a server was away
 * meanwhile they cannot have: then once more.
 */
static void
check_rest_finally(Worker *w)
{
	run(w, "SELECT pg_logical_emit_message(true, 'coherence', 'flush')");
	for (int try = 0; try < 5; try++)
	{
		double		since = now();

		forget_count(N_ROWS_AT_REST);
		forget_count(N_CACHED_AT_REST);
		check_rest(w, true);
		if (naive)
			return;
		usleep(50000);			/* for the watch to see */
		if (!was_away(since))
			return;
		note(0, "checker", "a server was away at rest", 0);
		if (!wait_all_up(30))
			die("a server is not UP at rest");
	}
}

static void
start(pthread_t *thread, void *(*run_it) (void *), void *arg)
{
	if (pthread_create(thread, NULL, run_it, arg) != 0)
		die("cannot start a thread");
}

int
main(int argc, char **argv)
{
	static const struct option options[] = {
		{"mode", required_argument, NULL, 'm'},
		{"servers", required_argument, NULL, 'S'},
		{"seconds", required_argument, NULL, 's'},
		{"seed", required_argument, NULL, 'r'},
		{"faults", required_argument, NULL, 'f'},
		{"control", required_argument, NULL, 'c'},
		{"pause", required_argument, NULL, 'p'},
		{"strict", no_argument, NULL, 'x'},
		{"keys", required_argument, NULL, 'k'},
		{"threads", required_argument, NULL, 'T'},
		{"writers", required_argument, NULL, 'w'},
		{"plain", required_argument, NULL, 'P'},
		{"sql", required_argument, NULL, 'q'},
		{"think", required_argument, NULL, 't'},
		{"rate", required_argument, NULL, 'n'},
		{"body", required_argument, NULL, 'b'},
		{"least", required_argument, NULL, 'B'},
		{"table", required_argument, NULL, 'o'},
		{"log", required_argument, NULL, 'l'},
		{NULL, 0, NULL, 0}
	};
	pthread_t	threads[MAX_WORKERS];
	pthread_t	watch;
	pthread_t	breaker;
	const char *control = NULL;
	const char *table = NULL;
	int			pause_ms = 800;
	static Worker last = {.name = "last"};
	int			c;

	setvbuf(stdout, NULL, _IOLBF, 0);
	seed = (uint64_t) time(NULL);
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		switch (c)
		{
			case 'm':
				mode = optarg;
				break;
			case 'S':
				take_servers(optarg);
				break;
			case 's':
				seconds = atof(optarg);
				break;
			case 'r':
				seed = strtoull(optarg, NULL, 10);
				break;
			case 'f':
				if (!choose_faults(optarg))
					usage();
				break;
			case 'c':
				control = optarg;
				break;
			case 'p':
				pause_ms = atoi(optarg);
				break;
			case 'x':
				strict = true;
				break;
			case 'k':
				nkeys = atoi(optarg);
				break;
			case 'T':
				nthreads = atoi(optarg);
				break;
			case 'w':
				nwriters = atoi(optarg);
				break;
			case 'P':
				nplain = atoi(optarg);
				break;
			case 'q':
				nsql = atoi(optarg);
				break;
			case 't':
				think_us = atoi(optarg);
				break;
			case 'n':
				plain_rate = atoi(optarg);
				break;
			case 'b':
				max_body = atoi(optarg);
				break;
			case 'B':
				min_body = atoi(optarg);
				break;
			case 'o':
				table = optarg;
				break;
			case 'l':
				server_log = optarg;
				break;
			default:
				usage();
		}
	}
	naive = strcmp(mode, "echocache") != 0;
	if (strcmp(mode, "client-delete") == 0)
		aside = ASIDE_DELETE;
	else if (strcmp(mode, "client-set") == 0)
		aside = ASIDE_SET;
	else if (naive && strncmp(mode, "naive-", 6) != 0 && strcmp(mode, "uncached") != 0)
		usage();
	if (naive)
		nthreads = 0;
	nworkers = nwriters + nplain + nsql;
	if (optind != argc || nservers < 1 || nkeys < MANY || nthreads < 0 ||
		nkeys + nthreads > MAX_DOCS || nkeys + nthreads * PARTS >= MAX_REGISTERS || nwriters < 1 ||
		nplain < 1 || nsql < 0 || nworkers > MAX_WORKERS || seconds <= 0 || max_body < 1 ||
		min_body < 0 || plain_rate < 1 || pause_ms < 1 ||
		(faults_on && (naive || nservers != 2 || control == NULL)))
		usage();

	book_open();
	if (!sql_connect(&last))
		die("cannot connect");
	make_docs(naive ? "" : show(&last, "SHOW echocache.key_prefix"));
	if (!naive)
	{
		place_docs(show(&last, "SHOW echocache.hosts"));
		local_memory = show(&last, "SHOW echocache.local_memory");
	}
	sql_close(&last);
	if (control)
		control_open(control);

	workers = calloc(nworkers, sizeof(Worker));
	if (workers == NULL)
		die("out of memory");
	for (int i = 0; i < nworkers; i++)
	{
		Worker	   *w = &workers[i];

		w->writer = i < nwriters;
		w->id = w->writer ? i : i - nwriters;
		snprintf(w->name, sizeof(w->name), "%s%d", w->writer ? "w" : w->id < nplain ? "p" : "s",
				 w->id);
		w->random = seed * 1000 + i;
		if (!sql_connect(w))
			die("cannot connect");
		for (int s = 0; s < nservers; s++)
		{
			plain_open(&w->plain[s], s);
			w->plain[s].meta = w->id % 2;
		}
	}
	if (!naive)
	{
		watch_open();
		start(&watch, watch_main, &stop_watch);
		if (!wait_all_up(30))
			die("a server is not UP");
	}

	for (int i = 0; i < nworkers; i++)
		start(&threads[i], workers[i].writer ? writer_main : reader_main, &workers[i]);
	if (faults_on)
		start(&breaker, faults_main, &pause_ms);
	usleep(seconds * 1e6);
	/* a slow machine may take longer to have each fault once */
	while (faults_on && !saw_all_faults())
		usleep(10000);

	/* what is broken is mended, what is prepared is ended, then the readers stop */
	atomic_store(&stop, true);
	if (faults_on)
		pthread_join(breaker, NULL);
	atomic_store(&stop_writers, true);
	for (int i = 0; i < nworkers; i++)
		pthread_join(threads[i], NULL);
	if (!naive && !wait_all_up(30))
		die("a server is not UP in the end");

	if (!sql_connect(&last))
		die("cannot connect");
	for (int s = 0; s < nservers; s++)
		plain_open(&last.plain[s], s);
	if (!naive)
		be_patient(&last, true);
	check_rest_finally(&last);
	if (!naive)
	{
		be_patient(&last, false);
		atomic_store(&stop_watch, true);
		pthread_join(watch, NULL);
		judge_suspects(true);
	}
	check_book();
	if (control)
		control_close();
	return report(table) > 0 ? 1 : 0;
}
