/*-------------------------------------------------------------------------
 *
 * watch.c
 *	  Which servers does PostgreSQL reach?  And what plain clients may be excused for.
 *
 * One thread looks at echocache_servers all the time and keeps the intervals in which
 * a server was not UP.  An old answer to a plain client is excused if it was read, in
 * part, within an interval that has seen the server DOWN: then commits went on
 * without invalidating it.  An interval begins when the server was last seen UP,
 * and ends when it became UP, both as PostgreSQL says.  An interval in which it was
 * RECOVERING only, as after a crash, excuses nothing.  DOWN may last for less time than
 * there is between two looks; PostgreSQL's log has every one.
 *
 * It also adds up what the second tier has answered, whose counters a crash sets back.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checker.h"

#define LOOK_US			15000
#define LOOKS_PER_COUNT	10		/* looks at the servers for one at the second tier */
#define LOG_DELAY		1.0		/* seconds, after which a line is in the log for sure */
#define LOG_ROUNDING	0.002	/* its times are in whole milliseconds */
#define MAX_INTERVALS	100000
#define MAX_SUSPECTS	200000

typedef struct Interval
{
	double		from;
	double		to;				/* while it is open: for ever */
	bool		down;			/* it has been DOWN */
	Fault		fault;
} Interval;

typedef struct Server
{
	Interval   *interval;
	int			n;
	bool		away;			/* the last interval is open */
	double		seen_up;		/* when last */
	double		up_since;		/* when it became so, by PostgreSQL's clock */
	Fault		fault;			/* what is, or was last, done to it */
} Server;

/* An old answer to a plain client, until we know whether it is excused. */
typedef struct Suspect
{
	Kind		kind;
	int			reg;
	int			server;
	double		begin;
	double		end;
	double		staleness;
	char	   *text;
} Suspect;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Server servers[MAX_SERVERS]; /* under lock */
static Suspect *suspects;		/* under lock */
static int	nsuspects;			/* under lock */
static double looked;			/* when the last look began that saw all; under lock */
static Worker watcher = {.name = "watch"};
static bool fresh;				/* connected anew: intervals may be a start's */

/* Before the threads start; waits until PostgreSQL has found the servers. */
void
watch_open(void)
{
	suspects = calloc(MAX_SUSPECTS, sizeof(Suspect));
	for (int i = 0; i < nservers; i++)
	{
		servers[i].interval = calloc(MAX_INTERVALS, sizeof(Interval));
		servers[i].seen_up = now();
		if (!servers[i].interval)
			die("out of memory");
	}
	if (!suspects)
		die("out of memory");
}

/* From now on this is why the server is away, if it is. */
void
set_fault(int server, Fault fault)
{
	pthread_mutex_lock(&lock);
	servers[server].fault = fault;
	if (servers[server].away)
		servers[server].interval[servers[server].n - 1].fault = fault;
	pthread_mutex_unlock(&lock);
}

/* A plain client has had something old, this version of the register. */
void
suspect(Kind kind, int reg, long version, int server, double begin, double end, const char *text)
{
	double		staleness = end - overtaken_at(reg, version);

	pthread_mutex_lock(&lock);
	if (nsuspects == MAX_SUSPECTS)
		found(kind, reg, "%s (and too many to look into)", text);
	else
		suspects[nsuspects++] = (Suspect) {
			.kind = kind,.reg = reg,.server = server,.begin = begin,.end = end,
			.staleness = staleness,.text = strdup(text)
		};
	pthread_mutex_unlock(&lock);
}

/* Does the log say that the server became DOWN in this interval? */
static bool
logged_down(int server, const Interval *interval)
{
	FILE	   *f = server_log ? fopen(server_log, "r") : NULL;
	char		line[1000];
	char		what[300];
	bool		logged = false;

	snprintf(what, sizeof(what), "echocache: server \"%s\" is down: ", server_name[server]);
	while (f && !logged && fgets(line, sizeof(line), f))
	{
		double		at = strtod(line, NULL) - clock_offset;

		logged = strstr(line, what) && at > interval->from - LOG_ROUNDING &&
			at < interval->to + LOG_ROUNDING;
	}
	if (f)
		fclose(f);
	return logged;
}

/* Excuse or report what can be judged by now; in the end, all. */
void
judge_suspects(bool all)
{
	int			kept = 0;

	pthread_mutex_lock(&lock);
	for (int i = 0; i < nsuspects; i++)
	{
		Suspect    *s = &suspects[i];
		Server	   *server = &servers[s->server];
		Interval   *excuse = NULL;

		for (int j = server->n - 1; j >= 0 && !excuse; j--)
		{
			Interval   *interval = &server->interval[j];

			if (interval->from >= s->end || s->begin >= interval->to)
				continue;
			if (!interval->down && (interval->down = logged_down(s->server, interval)))
				count(N_BRIEFLY_DOWN);
			if (interval->down)
				excuse = interval;
		}
		if (!excuse && !all &&
			(looked <= s->end || server->away || now() < s->end + LOG_DELAY))
		{
			suspects[kept++] = *s;
			continue;
		}
		/* with fallback = off nothing is committed meanwhile */
		if (excuse && !strict)
			count_apart(excuse->fault, s->staleness);
		else
			found(s->kind, s->reg, "%s (read from %.6f s before now to %.6f s, %s)", s->text,
				  now() - s->begin, now() - s->end,
				  excuse ? "fallback is off" : "the server was not DOWN");
		free(s->text);
	}
	nsuspects = kept;
	pthread_mutex_unlock(&lock);
}

/*
 * One row of echocache_servers: the state, and since when it is so, by PostgreSQL's clock
 * and by ours, by which the look began.
 */
static void
take_server(int i, const char *server_state, double stamp, double since, double begun)
{
	Server	   *s = &servers[i];
	bool		up = strcmp(server_state, "UP") == 0;

	if (!s->away && (!up || stamp != s->up_since))
	{
		if (s->n == MAX_INTERVALS)
			die("too many intervals");
		/* one that we have only seen the end of may have been anything */
		s->interval[s->n++] = (Interval) {
			.from = s->seen_up,.to = 1e18,.down = up && s->up_since > 0 && !fresh,
			.fault = s->fault
		};
		s->away = true;
		note(0, "watch", up ? "was away" : "is away", i);
	}
	if (s->away)
	{
		if (strcmp(server_state, "DOWN") == 0)
			s->interval[s->n - 1].down = true;
		if (up)
		{
			s->interval[s->n - 1].to = since + 0.001;
			s->away = false;
			note(0, "watch", "is UP", i);
		}
	}
	if (up)
	{
		s->up_since = stamp;
		s->seen_up = begun;
	}
}

/* Look at all servers once. */
static void
look_at_servers(void)
{
	double		begun = now();
	PGresult   *res = sql(&watcher, "SELECT state, extract(epoch FROM since),"
						  " extract(epoch FROM clock_timestamp() - since) FROM echocache_servers",
						  NULL, NULL, NULL);
	double		at = now();

	if (res == NULL)
		return;
	/* right after a start, before echocache's launcher has told of them, there are none */
	if (PQntuples(res) != nservers && (PQntuples(res) > 0 || !faults_on))
		die("PostgreSQL has %d servers", PQntuples(res));
	if (PQntuples(res) == 0)
	{
		PQclear(res);
		return;
	}
	pthread_mutex_lock(&lock);
	for (int i = 0; i < nservers; i++)
		take_server(i, PQgetvalue(res, i, 0), atof(PQgetvalue(res, i, 1)),
					at - atof(PQgetvalue(res, i, 2)), begun);
	looked = begun;
	fresh = false;
	pthread_mutex_unlock(&lock);
	PQclear(res);
	judge_suspects(false);
}

/*
 * Count what the second tier and the auditor have done since the last time.  The counters begin anew with the
 * cluster, and what they had until then since the last time is not counted.
 */
static void
count_stats(void)
{
	static const int which[] = {N_LOCAL_HITS, N_LOCAL_EVICTIONS, N_AUDITED, N_AUDIT_ALARMS};
	static long before[4];
	PGresult   *res = sql(&watcher, "SELECT sum(local_hits), sum(local_evictions),"
						  " sum(audited), sum(audit_stale) + sum(audit_foreign)"
						  " FROM echocache_stats", NULL, NULL, NULL);

	if (res == NULL)
		return;
	for (int i = 0; i < 4; i++)
	{
		long		n = atol(PQgetvalue(res, 0, i));

		count_more(which[i], n < before[i] ? n : n - before[i]);
		before[i] = n;
	}
	PQclear(res);
}

void *
watch_main(void *arg)
{
	_Atomic bool *end = arg;
	long		looks = 0;

	watcher.lost = true;
	while (!atomic_load(end))
	{
		watcher.failed = false;
		if (watcher.lost)
			fresh = sql_connect(&watcher);
		if (!watcher.lost)
			look_at_servers();
		if (!watcher.lost && looks++ % LOOKS_PER_COUNT == 0)
			count_stats();
		usleep(LOOK_US);
	}
	if (!watcher.lost)
		count_stats();
	sql_close(&watcher);
	return NULL;
}

/* Wait until all servers have been seen UP, at a look that began after now. */
bool
wait_all_up(double limit)
{
	double		since = now();

	while (now() - since < limit)
	{
		bool		all = true;

		pthread_mutex_lock(&lock);
		for (int i = 0; i < nservers; i++)
			all &= !servers[i].away && servers[i].seen_up > since;
		pthread_mutex_unlock(&lock);
		if (all)
			return true;
		usleep(5000);
	}
	return false;
}

/* Since then, has a server been away? */
bool
was_away(double since)
{
	bool		away = false;

	pthread_mutex_lock(&lock);
	for (int i = 0; i < nservers; i++)
		away |= servers[i].n > 0 && servers[i].interval[servers[i].n - 1].to > since;
	pthread_mutex_unlock(&lock);
	return away;
}
