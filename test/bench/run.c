/*-------------------------------------------------------------------------
 *
 * run.c
 *	  Many connections, operations at random, in a closed or an open loop.
 *
 *	-c N		connections, each a thread with its own libpq connection and its own
 *				to each memcached (default 1)
 *	-t SECONDS	how long (1); before that a quarter of a second does not count
 *	-r RATE		open loop: arrivals by chance (Poisson), RATE a second in the mean
 *	-b			a burst: all connections do one operation, at the same time
 *	-S SEED		of everything that is drawn (1)
 *	-n N		ids 1 to N are there (1)
 *	-N ID		the highest id that is there, if others were inserted (N)
 *	-d			uniform; zipfian (0.99, scattered over the ids, as YCSB's); latest (zipfian
 *				from the newest id back)
 *	-x MIX		weights: read=95,update=5,insert=0,rmw=0 (read=1)
 *	-w ID		every connection reads this id first, so that its caches are warm
 *	-m, -k		read memcached first, the key is KEY PREFIX and the id
 *	-R SQL		gives the document $1; without -m always used, else upon a miss or a marker
 *	-q			that of -R has no $1, and what it gives is not looked at
 *	-U, -I SQL	update and insert $1, with the text $2 of -s BYTES (100)
 *	-p MS		ask memcached every so often after an update for what it wrote: -U returns a
 *				counter, which is the document's member "n".  With -r, and updates alone
 *	-g MS		how long to ask (1000)
 *
 * Without -r and -b the loop is closed: each connection does one operation after the
 * other, which tells the throughput.  It does not tell latencies as clients see
 * them: while the system stalls, the operations that would have met the stall are
 * not made.  In the open loop they are due whether the system is ready or not: an
 * operation's latency counts from when it was due, its waiting for a free
 * connection (and for the thread to be woken) included.
 *
 * How long until memcached has the new document (-p) counts from when the update had
 * returned.  A document that did not come counts with the whole time of -g.
 *
 * Operation i is the same, whoever runs it: it is drawn from the seed and i.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

#define MAX_CONNECTIONS 1000
#define RUN_IN_NS		((int64_t) 250 * 1000 * 1000)
#define WINDOW			65536	/* inserts under way at a time, at most */
#define THETA			0.99
#define SOON_NS			((int64_t) 20 * 1000 * 1000)

/* Kinds of operations, and under what their latencies are counted. */
typedef enum Kind
{
	READ_HIT,
	READ_MISS,
	UPDATE,
	INSERT,
	RMW,
	LAG,						/* from due to begun */
	CACHED,						/* from updated to in memcached */
	NKINDS
} Kind;

static const char *const kind_names[] = {
	"read_hit", "read_miss", "update", "insert", "rmw", "lag", "cached"
};

typedef enum Distribution
{
	UNIFORM,
	ZIPFIAN,
	LATEST
} Distribution;

typedef struct Worker
{
	pthread_t	thread;
	PGconn	   *conn;
	Cache	   *cache;
	char	   *payload;
	Histogram  *latency[NKINDS];
	int64_t		markers;
	int64_t		absent;
	int64_t		unserved;		/* arrivals that we gave up */
	int64_t		written_id;		/* by the last update, and the counter that it returned */
	int64_t		written;
	int64_t		soon;			/* documents that memcached had within SOON_NS */
	int64_t		not_cached;		/* and those that did not come */
} Worker;

/* What was asked for; not changed after the threads have started. */
static int	connections = 1;
static double seconds = 1;
static double rate;
static bool burst;
static uint64_t seed = 1;
static int64_t records = 1;
static Distribution distribution = UNIFORM;
static double mix[NKINDS] = {[READ_HIT] = 1};
static int64_t warm_id;
static const char *servers;
static const char *key_prefix = "";
static const char *read_sql;
static bool unchecked;
static const char *update_sql;
static const char *insert_sql;
static int	payload_bytes = 100;
static int64_t poll_ns;
static int64_t patience_ns = (int64_t) 1000 * 1000 * 1000;

/* The schedule: offsets in ns from `begin`; NULL in the closed loop. */
static int64_t *schedule;
static int64_t narrivals;

static pthread_barrier_t ready;
static int64_t begin;			/* set by main between the two times that `ready` is passed */
static int64_t end;
static int64_t give_up;
static atomic_int_least64_t next_operation;

/* Ids that inserts have made: all up to `last` are committed, as YCSB has it. */
static pthread_mutex_t insert_lock = PTHREAD_MUTEX_INITIALIZER;
static int64_t next_id;
static atomic_int_least64_t last_id;
static bool committed[WINDOW];

/* ---------------------------------------------------------------- chance */

typedef uint64_t Random;

/* splitmix64 */
static uint64_t
draw(Random *r)
{
	uint64_t	z = (*r += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

/* In (0, 1]. */
static double
draw_fraction(Random *r)
{
	return ((draw(r) >> 11) + 1) * 0x1p-53;
}

/* The integral of x^-THETA, and its inverse. */
static double
area(double x)
{
	return (pow(x, 1 - THETA) - 1) / (1 - THETA);
}

static double
area_inverse(double a)
{
	return pow(1 + a * (1 - THETA), 1 / (1 - THETA));
}

/*
 * A rank from 1 to n with probability proportional to rank^-THETA, by
 * rejection-inversion (Hörmann and Derflinger 1996): exact, and no table for n.
 */
static int64_t
draw_zipfian(Random *r, int64_t n)
{
	double		low = area(1.5) - 1;
	double		high = area(n + 0.5);

	for (;;)
	{
		double		u = high + draw_fraction(r) * (low - high);
		double		k = floor(area_inverse(u) + 0.5);

		if (k < 1)
			k = 1;
		if (k > n)
			k = n;
		if (u >= area(k + 0.5) - pow(k, -THETA))
			return (int64_t) k;
	}
}

/* YCSB scatters the popular ranks over the ids by FNV-1a. */
static uint64_t
scatter(uint64_t value)
{
	uint64_t	hash = 0xcbf29ce484222325;

	for (int i = 0; i < 8; i++, value >>= 8)
		hash = (hash ^ (value & 0xff)) * 0x100000001b3;
	return hash;
}

static int64_t
draw_id(Random *r)
{
	int64_t		id;

	switch (distribution)
	{
		case UNIFORM:
			return 1 + (int64_t) (draw(r) % records);
		case ZIPFIAN:
			return 1 + (int64_t) (scatter(draw_zipfian(r, records)) % records);
		case LATEST:
			id = atomic_load(&last_id) + 1 - draw_zipfian(r, records);
			return id < 1 ? 1 : id;
	}
	return 1;
}

static Kind
draw_kind(Random *r)
{
	double		sum = 0;
	double		point;

	for (Kind k = 0; k < NKINDS; k++)
		sum += mix[k];
	point = draw_fraction(r) * sum;
	for (Kind k = 0; k < NKINDS; k++)
		if ((point -= mix[k]) <= 0)
			return k;
	return READ_HIT;
}

/* ---------------------------------------------------------------- operations */

/* Is this the JSON object of that id?  It comes first. */
static bool
is_document_of(const char *json, int64_t id)
{
	static const char member[] = "{\"id\"";

	if (strncmp(json, member, strlen(member)) != 0)
		return false;
	json += strlen(member);
	json += strspn(json, " :");
	return strtoll(json, NULL, 10) == id;
}

/* As an application reads: memcached if there is one, upon a miss or a marker SQL. */
static Kind
read_document(Worker *w, int64_t id)
{
	char		key[250];
	char		number[24];
	const char *param = number;
	PGresult   *res;

	if (w->cache)
	{
		char	   *value;
		size_t		len;

		snprintf(key, sizeof(key), "%s%lld", key_prefix, (long long) id);
		value = cache_get(w->cache, key, &len);
		if (value && strcmp(value, "null") == 0)
			w->markers++;
		else if (value && !is_document_of(value, id))
			die("the cache has \"%.100s\" as %s", value, key);
		else if (value)
			return READ_HIT;
	}
	snprintf(number, sizeof(number), "%lld", (long long) id);
	res = sql_run(w->conn, "read", unchecked ? 0 : 1, &param);
	if (unchecked)
		;
	else if (PQntuples(res) == 0 || PQgetisnull(res, 0, 0))
		w->absent++;
	else if (!is_document_of(PQgetvalue(res, 0, 0), id))
		die("the database gives \"%.100s\" for %lld", PQgetvalue(res, 0, 0), (long long) id);
	PQclear(res);
	return READ_MISS;
}

static void
write_document(Worker *w, const char *statement, int64_t id, Random *r)
{
	char		number[24];
	const char *params[2] = {number, w->payload};
	PGresult   *res;

	for (int i = 0; i < payload_bytes; i += 16)
		snprintf(w->payload + i, payload_bytes - i + 1, "%016llx", (unsigned long long) draw(r));
	snprintf(number, sizeof(number), "%lld", (long long) id);
	res = sql_run(w->conn, statement, 2, params);
	if (poll_ns > 0)
	{
		if (PQntuples(res) != 1)
			die("the update of %lld returns no counter", (long long) id);
		w->written_id = id;
		w->written = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
	}
	PQclear(res);
}

static void
insert_document(Worker *w, Random *r)
{
	int64_t		id;
	int64_t		last;

	pthread_mutex_lock(&insert_lock);
	id = next_id++;
	pthread_mutex_unlock(&insert_lock);

	write_document(w, "insert", id, r);

	pthread_mutex_lock(&insert_lock);
	committed[id % WINDOW] = true;
	for (last = atomic_load(&last_id); committed[(last + 1) % WINDOW]; last++)
		committed[(last + 1) % WINDOW] = false;
	atomic_store(&last_id, last);
	pthread_mutex_unlock(&insert_lock);
}

/* Operation number i; returns what it turned out to be. */
static Kind
operate(Worker *w, int64_t i)
{
	Random		r = seed * 0x2545f4914f6cdd1d + (uint64_t) i * 0xd1342543de82ef95;
	Kind		kind = draw_kind(&r);
	int64_t		id;

	if (kind == INSERT)
	{
		insert_document(w, &r);
		return kind;
	}
	id = draw_id(&r);
	if (kind == READ_HIT || kind == RMW)
	{
		Kind		found = read_document(w, id);

		if (kind == READ_HIT)
			return found;
	}
	write_document(w, "update", id, &r);
	return kind;
}

/* ---------------------------------------------------------------- the loops */

static void
sleep_until(int64_t ns)
{
	struct timespec ts = {ns / 1000000000, ns % 1000000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) != 0)
		;
}

/* Does memcached have what this worker has just written, or something newer? */
static bool
is_cached(Worker *w)
{
	static const char member[] = "\"n\"";
	char		key[250];
	char	   *value;
	size_t		len;

	snprintf(key, sizeof(key), "%s%lld", key_prefix, (long long) w->written_id);
	value = cache_get(w->cache, key, &len);
	if (value == NULL || strcmp(value, "null") == 0)
		return false;
	if (!is_document_of(value, w->written_id) || (value = strstr(value, member)) == NULL)
		die("memcached has no such document as %s", key);
	value += strlen(member);
	value += strspn(value, " :");
	return strtoll(value, NULL, 10) >= w->written;
}

/* Ask until it has.  Returns how long that took; -1: it did not come. */
static int64_t
wait_until_cached(Worker *w, int64_t since)
{
	for (;;)
	{
		bool		cached = is_cached(w);
		int64_t		now = now_ns();

		if (cached)
			return now - since;
		if (now - since >= patience_ns)
			return -1;
		sleep_until(now + poll_ns);
	}
}

static void
closed_loop(Worker *w)
{
	int64_t		start;

	while ((start = now_ns()) < end)
	{
		Kind		kind = operate(w, atomic_fetch_add(&next_operation, 1));

		if (start >= begin)
			histogram_add(w->latency[kind], now_ns() - start);
	}
}

static void
open_loop(Worker *w)
{
	int64_t		i;

	while ((i = atomic_fetch_add(&next_operation, 1)) < narrivals)
	{
		int64_t		due = begin + schedule[i];
		int64_t		start;
		int64_t		done;
		int64_t		wait = 0;
		Kind		kind;

		if (now_ns() > give_up)
		{
			w->unserved++;
			continue;
		}
		sleep_until(due);
		start = now_ns();
		kind = operate(w, i);
		done = now_ns();
		if (poll_ns > 0)
			wait = wait_until_cached(w, done);
		if (due < begin)
			continue;
		histogram_add(w->latency[kind], done - due);
		histogram_add(w->latency[LAG], start - due);
		if (poll_ns == 0)
			continue;
		histogram_add(w->latency[CACHED], wait < 0 ? patience_ns : wait);
		w->soon += wait >= 0 && wait <= SOON_NS;
		w->not_cached += wait < 0;
	}
}

static void *
work(void *arg)
{
	Worker	   *w = arg;

	/* Wake us when an arrival is due, not up to 50 µs later. */
	prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0);
	w->payload = get_memory(payload_bytes + 1);
	for (Kind k = 0; k < NKINDS; k++)
		w->latency[k] = histogram_new();
	if (servers)
		w->cache = cache_open(servers);
	w->conn = sql_open(NULL);
	if (read_sql)
		sql_prepare(w->conn, "read", read_sql);
	if (update_sql)
		sql_prepare(w->conn, "update", update_sql);
	if (insert_sql)
		sql_prepare(w->conn, "insert", insert_sql);
	if (warm_id)
		read_document(w, warm_id);
	w->markers = 0;
	w->absent = 0;

	pthread_barrier_wait(&ready);
	pthread_barrier_wait(&ready);
	if (schedule)
		open_loop(w);
	else
		closed_loop(w);

	PQfinish(w->conn);
	if (w->cache)
		cache_close(w->cache);
	return NULL;
}

/* ---------------------------------------------------------------- main */

static void
make_schedule(void)
{
	Random		r = ~seed;
	double		mean = 1e9 / rate;
	double		at = -RUN_IN_NS;

	if (burst)
	{
		narrivals = connections;
		schedule = get_memory(narrivals * sizeof(int64_t));
		return;
	}
	for (int64_t room = 0; at < seconds * 1e9; narrivals++)
	{
		if (narrivals == room)
		{
			room = room ? 2 * room : 1024;
			schedule = realloc(schedule, room * sizeof(int64_t));
			if (schedule == NULL)
				die("out of memory");
		}
		schedule[narrivals] = (int64_t) at;
		at -= log(draw_fraction(&r)) * mean;
	}
}

static void
print_latency(const char *name, const Histogram *h)
{
	if (histogram_count(h) == 0)
		return;
	printf("%s_count\t%lld\n", name, (long long) histogram_count(h));
	printf("%s_p50\t%.1f\n", name, histogram_us(h, 0.5));
	printf("%s_p95\t%.1f\n", name, histogram_us(h, 0.95));
	printf("%s_p99\t%.1f\n", name, histogram_us(h, 0.99));
	printf("%s_p999\t%.1f\n", name, histogram_us(h, 0.999));
	printf("%s_max\t%.1f\n", name, histogram_us(h, 1));
}

static void
print_results(const Worker *workers)
{
	Histogram  *sum[NKINDS];
	Histogram  *reads = histogram_new();
	int64_t		operations = 0;
	int64_t		polled;
	int64_t		markers = 0,
				absent = 0,
				unserved = 0,
				soon = 0,
				not_cached = 0;

	for (Kind k = 0; k < NKINDS; k++)
	{
		sum[k] = histogram_new();
		for (int i = 0; i < connections; i++)
			histogram_merge(sum[k], workers[i].latency[k]);
		if (k == READ_HIT || k == READ_MISS)
			histogram_merge(reads, sum[k]);
		if (k < LAG)
			operations += histogram_count(sum[k]);
	}
	for (int i = 0; i < connections; i++)
	{
		markers += workers[i].markers;
		absent += workers[i].absent;
		unserved += workers[i].unserved;
		soon += workers[i].soon;
		not_cached += workers[i].not_cached;
	}
	if (absent > 0 && mix[INSERT] == 0)
		die("%lld reads found no document", (long long) absent);

	printf("throughput\t%.1f\n", operations / seconds);
	printf("unserved\t%lld\n", (long long) unserved);
	if (servers && histogram_count(reads) > 0)
	{
		printf("hit_ratio\t%.5f\n",
			   (double) histogram_count(sum[READ_HIT]) / histogram_count(reads));
		printf("markers\t%lld\n", (long long) markers);
	}
	polled = histogram_count(sum[CACHED]);
	if (polled > 0)
	{
		printf("cached_share\t%.5f\n", (double) (polled - not_cached) / polled);
		printf("cached_in_20ms\t%.5f\n", (double) soon / polled);
	}
	for (Kind k = 0; k < NKINDS; k++)
		print_latency(kind_names[k], sum[k]);
	print_latency("read", reads);
}

static void
parse_mix(char *list)
{
	char	   *rest;

	memset(mix, 0, sizeof(mix));
	for (char *s = strtok_r(list, ",", &rest); s; s = strtok_r(NULL, ",", &rest))
	{
		char		name[20];
		double		weight;
		Kind		kind;

		if (sscanf(s, "%19[a-z]=%lf", name, &weight) != 2)
			die("\"%s\" is no part of a mix", s);
		for (kind = UPDATE; kind < LAG && strcmp(kind_names[kind], name) != 0; kind++)
			;
		if (strcmp(name, "read") == 0)
			kind = READ_HIT;
		if (kind == LAG)
			die("there is no operation \"%s\"", name);
		mix[kind] = weight;
	}
}

static Distribution
parse_distribution(const char *name)
{
	if (strcmp(name, "uniform") == 0)
		return UNIFORM;
	if (strcmp(name, "zipfian") == 0)
		return ZIPFIAN;
	if (strcmp(name, "latest") == 0)
		return LATEST;
	die("there is no distribution \"%s\"", name);
}

int
run_main(int argc, char **argv)
{
	Worker	   *workers;
	int64_t		highest = 0;
	int			option;

	while ((option = getopt(argc, argv, "bc:d:g:I:k:m:n:N:p:qr:R:s:S:t:U:w:x:")) != -1)
	{
		switch (option)
		{
			case 'b':
				burst = true;
				break;
			case 'c':
				connections = atoi(optarg);
				break;
			case 'd':
				distribution = parse_distribution(optarg);
				break;
			case 'g':
				patience_ns = (int64_t) (atof(optarg) * 1e6);
				break;
			case 'I':
				insert_sql = optarg;
				break;
			case 'k':
				key_prefix = optarg;
				break;
			case 'm':
				servers = optarg;
				break;
			case 'n':
				records = atoll(optarg);
				break;
			case 'N':
				highest = atoll(optarg);
				break;
			case 'p':
				poll_ns = (int64_t) (atof(optarg) * 1e6);
				break;
			case 'q':
				unchecked = true;
				break;
			case 'r':
				rate = atof(optarg);
				break;
			case 'R':
				read_sql = optarg;
				break;
			case 's':
				payload_bytes = atoi(optarg);
				break;
			case 'S':
				seed = strtoull(optarg, NULL, 10);
				break;
			case 't':
				seconds = atof(optarg);
				break;
			case 'U':
				update_sql = optarg;
				break;
			case 'w':
				warm_id = atoll(optarg);
				break;
			case 'x':
				parse_mix(optarg);
				break;
			default:
				return 1;
		}
	}
	if (optind != argc || connections < 1 || connections > MAX_CONNECTIONS || seconds <= 0 ||
		records < 1 || payload_bytes < 1 || (burst && rate > 0) ||
		((mix[READ_HIT] > 0 || mix[RMW] > 0 || warm_id) && read_sql == NULL) ||
		((mix[UPDATE] > 0 || mix[RMW] > 0) && update_sql == NULL) ||
		(mix[INSERT] > 0 && insert_sql == NULL) ||
		(poll_ns > 0 && (servers == NULL || rate <= 0 || mix[READ_HIT] > 0 || mix[INSERT] > 0 ||
						 mix[RMW] > 0)))
		die("wrong arguments; see load.c");

	atomic_store(&last_id, highest > records ? highest : records);
	next_id = atomic_load(&last_id) + 1;
	if (burst || rate > 0)
		make_schedule();

	pthread_barrier_init(&ready, NULL, connections + 1);
	workers = get_memory(connections * sizeof(Worker));
	for (int i = 0; i < connections; i++)
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
			die("could not create a thread");
	pthread_barrier_wait(&ready);
	/* In a burst all threads shall sleep by then; else the run-in. */
	begin = now_ns() + RUN_IN_NS;
	end = begin + (int64_t) (seconds * 1e9);
	/* An overload shows in the latencies; but it shall not last for ever. */
	give_up = end + (int64_t) (2 * seconds * 1e9) + (int64_t) 60 * 1000000000 * burst;
	pthread_barrier_wait(&ready);
	for (int i = 0; i < connections; i++)
		pthread_join(workers[i].thread, NULL);
	print_results(workers);
	return 0;
}
