/*-------------------------------------------------------------------------
 *
 * faults.c
 *	  What goes wrong, and when: chosen by the seed, done by control.sh.
 *
 * One thread breaks something, mends it, waits until PostgreSQL uses all servers
 * again, and from time to time lets the writers rest and compares everything.  When
 * the cluster has gone down, nobody connects before the book has been set right:
 * the gate is closed before the fault, and opened when the writers are parked and
 * rest.c has settled the book.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checker.h"

#define PROXIED		1			/* the server that PostgreSQL reaches by the proxy */

static FILE *control_in;		/* to control.sh */
static FILE *control_out;		/* from it */
static pid_t control_pid;

/* Backends of the checker's threads, but for those that keep it going. */
#define VICTIMS "application_name ~ '^coherence [wps][0-9]'"

static bool chosen[FAULTS];
static _Atomic int rounds;		/* all that are chosen have been done so often */

static pthread_mutex_t park_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t park_changed = PTHREAD_COND_INITIALIZER;
static _Atomic bool pausing;	/* written under park_lock */
static int	parked;				/* under park_lock */

static Worker conductor = {.name = "faults"};

_Atomic(const char *) conninfo = "";
_Atomic bool all_async = false;

/* ---------------------------------------------------------------- writers at rest */

/* A writer, between two transactions: rest, if that is wanted. */
void
park(void)
{
	if (!atomic_load(&pausing))
		return;
	pthread_mutex_lock(&park_lock);
	parked++;
	pthread_cond_broadcast(&park_changed);
	while (pausing)
		pthread_cond_wait(&park_changed, &park_lock);
	parked--;
	pthread_mutex_unlock(&park_lock);
}

/* Return when all writers rest. */
void
pause_writers(void)
{
	pthread_mutex_lock(&park_lock);
	pausing = true;
	while (parked < nwriters)
		pthread_cond_wait(&park_changed, &park_lock);
	pthread_mutex_unlock(&park_lock);
}

void
resume_writers(void)
{
	pthread_mutex_lock(&park_lock);
	pausing = false;
	pthread_cond_broadcast(&park_changed);
	pthread_mutex_unlock(&park_lock);
}

/* ---------------------------------------------------------------- control.sh */

/* Have a command carried out; its answer, without the "ok". */
static const char *
control(const char *fmt,...)
{
	static char answer[500];
	va_list		args;
	char		text[200];

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (fprintf(control_in, "%s\n", text) < 0 || fflush(control_in) != 0 ||
		fgets(answer, sizeof(answer), control_out) == NULL || strncmp(answer, "ok", 2) != 0)
		die("control.sh on \"%s\": %s", text, answer);
	answer[strcspn(answer, "\n")] = '\0';
	return answer + 2;
}

/* Start it; no other thread runs yet. */
void
control_open(const char *command)
{
	int			in[2];
	int			out[2];

	signal(SIGPIPE, SIG_IGN);
	if (pipe(in) != 0 || pipe(out) != 0 || (control_pid = fork()) < 0)
		die("cannot start %s", command);
	if (control_pid == 0)
	{
		dup2(in[0], 0);
		dup2(out[1], 1);
		close(in[0]);
		close(in[1]);
		close(out[0]);
		close(out[1]);
		execlp("bash", "bash", command, (char *) NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	control_in = fdopen(in[1], "w");
	control_out = fdopen(out[0], "r");
	(void) control("hello");
}

/* Let it end; the proxy ends with it. */
void
control_close(void)
{
	fclose(control_in);
	(void) waitpid(control_pid, NULL, 0);
}

/* ---------------------------------------------------------------- the schedule */

/* Which faults there are to be: a list of names, "all" (but promote), or "none". */
bool
choose_faults(const char *list)
{
	char	   *copy = strdup(list);

	for (char *name = strtok(copy, ","); name; name = strtok(NULL, ","))
	{
		bool		known = strcmp(name, "none") == 0;

		for (int f = 1; f < FAULTS; f++)
			if (strcmp(name, fault_name[f]) == 0 || (strcmp(name, "all") == 0 && f != F_PROMOTE))
				known = chosen[f] = faults_on = true;
		if (!known)
			return false;
	}
	free(copy);
	return true;
}

/* So many milliseconds, between these. */
static void
nap(int from, int to)
{
	usleep((from + pick(&conductor, to - from + 1)) * 1000);
}

/* A connection for the conductor, whatever it takes. */
static void
connect_conductor(void)
{
	double		since = now();

	while (!sql_connect(&conductor))
	{
		if (now() - since > 60)
			die("PostgreSQL does not come back");
		usleep(10000);
	}
	conductor.failed = false;
}

static void
need_conductor(void)
{
	conductor.failed = false;
	if (conductor.lost || conductor.conn == NULL)
		connect_conductor();
}

/* The pid of some backend, as text; "" if there is none. */
static const char *
pick_backend(const char *query)
{
	static char pid[20];
	PGresult   *res;

	need_conductor();
	res = sql(&conductor, query, NULL, NULL, NULL);
	pid[0] = '\0';
	if (res && PQntuples(res) > 0)
		snprintf(pid, sizeof(pid), "%s", PQgetvalue(res, pick(&conductor, PQntuples(res)), 0));
	PQclear(res);
	return pid;
}

/* ---------------------------------------------------------------- PostgreSQL */

/* The cluster has gone down and is up again: set the book right, and let all in. */
static void
new_life(bool timeline_changed)
{
	connect_conductor();
	pause_writers();
	settle(&conductor, timeline_changed);
	atomic_fetch_add(&life, 1);
	atomic_store(&all_async, false);
	atomic_store(&gate_closed, false);
	resume_writers();
}

/*
 * Half of the time nobody flushes anything for a while before the cluster goes down,
 * so that commits are lost.
 */
static void
before_crash(void)
{
	if (chance(&conductor, 50))
		return;
	atomic_store(&all_async, true);
	nap(50, 300);
}

/* Kill a backend: the postmaster ends all others, and starts anew. */
static void
crash(void)
{
	const char *pid = pick_backend("SELECT pid FROM pg_stat_activity WHERE " VICTIMS
								   " ORDER BY application_name");

	if (pid[0] == '\0')
		return;
	before_crash();
	atomic_store(&gate_closed, true);
	(void) control("kill9 %s", pid);
	while (!conductor.lost)
	{
		run(&conductor, "SELECT");
		conductor.failed = false;
		usleep(1000);
	}
	new_life(false);
}

static void
stop_and_start(void)
{
	before_crash();
	atomic_store(&gate_closed, true);
	(void) control("pg stop");
	nap(0, 300);
	(void) control("pg start");
	new_life(false);
}

/* The primary is lost, with what its standby has not received. */
static void
promote(void)
{
	(void) control("standby");
	nap(300, 800);
	(void) control("detach");
	nap(20, 300);
	atomic_store(&gate_closed, true);
	atomic_fetch_add(&plain_era, 1);
	atomic_store(&conninfo, strdup(control("promote")));
	new_life(true);
	/* the new primary purges what the old one may have cached, before it uses a server */
	if (!wait_all_up(60))
		die("a server is not UP a minute after a promotion");
	atomic_fetch_add(&plain_era, 1);
}

/* End some connections, perhaps that of echocache's own worker. */
static void
terminate(void)
{
	for (int n = 1 + pick(&conductor, 3); n > 0; n--)
	{
		const char *pid = pick_backend("SELECT pid FROM pg_stat_activity WHERE " VICTIMS
									   " OR backend_type LIKE 'echocache%'"
									   " ORDER BY application_name");

		note(0, "faults", "terminate pid", atol(pid));
		if (pid[0])
			PQclear(sql(&conductor, "SELECT pg_terminate_backend($1::int)", pid, NULL, NULL));
		nap(0, 50);
	}
}

/* While something else is wrong, PostgreSQL may go down, too. */
static void
perhaps_crash(void)
{
	int			dice = pick(&conductor, 100);

	if (dice < 8 && chosen[F_CRASH])
	{
		count_fault(F_CRASH);
		note(0, "faults", "crash meanwhile", 0);
		crash();
	}
	else if (dice < 16 && chosen[F_STOP])
	{
		count_fault(F_STOP);
		note(0, "faults", "stop meanwhile", 0);
		stop_and_start();
	}
	else if (dice < 24 && chosen[F_TERMINATE])
	{
		count_fault(F_TERMINATE);
		note(0, "faults", "terminate meanwhile", 0);
		terminate();
	}
}

/* ---------------------------------------------------------------- memcached */

static void
freeze(int server)
{
	(void) control("memcached freeze %d", server);
	nap(20, 900);
	perhaps_crash();
	(void) control("memcached thaw %d", server);
}

static void
kill_memcached(int server)
{
	(void) control("memcached kill %d", server);
	nap(0, 500);
	perhaps_crash();
	(void) control("memcached start %d", server);
}

static void
flush(int server)
{
	char		answer[40];

	(void) plain_command(&conductor.plain[server], "flush_all\r\n", 11, answer, sizeof(answer));
}

/* Items of every size, more than there is room for; most as small as markers, which go, too. */
static void
evict(int server)
{
	static char value[8192];
	static long filler;
	char		request[8400];
	char		answer[40];

	memset(value, 'e', sizeof(value));
	for (int i = 0; i < 30000; i++)
	{
		int			size = i % 20 == 0 ? pick(&conductor, 8000)
			: 4 + pick(&conductor, i % 3 ? 20 : 600);
		int			n = snprintf(request, sizeof(request), "set filler:%ld 0 0 %d%s\r\n%.*s\r\n",
								 filler++, size, i % 100 ? " noreply" : "", size, value);

		if (i % 100)
		{
			if (!plain_write(&conductor.plain[server], request, n))
				return;
		}
		else if (!plain_command(&conductor.plain[server], request, n, answer, sizeof(answer)))
			return;
	}
}

/* ---------------------------------------------------------------- the network */

static void
cut(void)
{
	(void) control("proxy cut %s %d", chance(&conductor, 50) ? "up" : "down",
				   1 + pick(&conductor, 4000));
	nap(50, 700);
	perhaps_crash();
	(void) control("proxy pass");
}

/*
 * Held back; and, half of the time, let go only when PostgreSQL has given those connections
 * up, made new ones, and uses the server again.
 */
static void
hold(void)
{
	const char *way = chance(&conductor, 70) ? "up" : "down";

	(void) control("proxy hold %s", way);
	nap(50, 700);
	perhaps_crash();
	if (chance(&conductor, 60))
	{
		(void) control("proxy keep %s", way);
		(void) wait_all_up(5);
		nap(0, 300);
	}
	(void) control("proxy release %s", way);
}

static void
delay(void)
{
	(void) control("proxy delay %s %d", chance(&conductor, 50) ? "up" : "down",
				   5 + pick(&conductor, 400));
	nap(100, 700);
	(void) control("proxy pass");
}

/* ---------------------------------------------------------------- one after the other */

static void
inflict(Fault fault)
{
	int			server = pick(&conductor, nservers);

	if (fault == F_CUT || fault == F_HOLD || fault == F_DELAY || fault == F_RESET)
		server = PROXIED;
	count_fault(fault);
	note(0, "faults", fault_name[fault], server);
	set_fault(server, fault);
	switch (fault)
	{
		case F_FREEZE:
			freeze(server);
			break;
		case F_KILL:
			kill_memcached(server);
			break;
		case F_FLUSH:
			flush(server);
			break;
		case F_EVICT:
			evict(server);
			break;
		case F_CUT:
			cut();
			break;
		case F_HOLD:
			hold();
			break;
		case F_DELAY:
			delay();
			break;
		case F_RESET:
			(void) control("proxy reset");
			break;
		case F_TERMINATE:
			terminate();
			break;
		case F_CRASH:
			crash();
			break;
		case F_STOP:
			stop_and_start();
			break;
		case F_PROMOTE:
			promote();
			break;
		case NO_FAULT:
		case FAULTS:
			break;
	}
	if (!wait_all_up(60))
		die("a server is not UP a minute after %s", fault_name[fault]);
	set_fault(server, NO_FAULT);
	note(0, "faults", "mended, and all servers UP", server);
}

/* Let the writers rest, and compare everything. */
static void
rest(void)
{
	need_conductor();
	pause_writers();
	/* what was committed last may have found a server away; its prepared ones hold it up */
	if (wait_all_up(1))
		check_rest(&conductor, false);
	resume_writers();
}

/* Every fault has its turn before any has its second, in an order of the seed. */
static Fault
next_fault(void)
{
	static bool done[FAULTS];
	int			left = 0;
	int			n;

	for (int f = 1; f < FAULTS; f++)
		left += chosen[f] && !done[f];
	if (left == 0)
	{
		atomic_fetch_add(&rounds, 1);
		memset(done, 0, sizeof(done));
		for (int f = 1; f < FAULTS; f++)
			left += chosen[f];
	}
	n = pick(&conductor, left);
	for (int f = 1; f < FAULTS; f++)
		if (chosen[f] && !done[f] && n-- == 0)
		{
			done[f] = true;
			return f;
		}
	return NO_FAULT;
}

/* Has there been one of each? */
bool
saw_all_faults(void)
{
	return atomic_load(&rounds) > 0;
}

void *
faults_main(void *arg)
{
	int			pause_ms = *(int *) arg;

	conductor.random = seed * 1000 + 999;
	conductor.lost = true;
	for (int i = 0; i < nservers; i++)
		plain_open(&conductor.plain[i], i);
	while (!atomic_load(&stop))
	{
		nap(pause_ms / 2, pause_ms);
		if (atomic_load(&stop))
			break;
		inflict(next_fault());
		if (chance(&conductor, 50))
			rest();
	}
	sql_close(&conductor);
	return NULL;
}
