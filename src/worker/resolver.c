/*-------------------------------------------------------------------------
 *
 * resolver.c
 *	  Names of servers are looked up by children of the launcher.
 *
 * A resolver may not answer for a minute, and whoever asks it does nothing else meanwhile: no
 * interrupt is served, no barrier absorbed.  DROP DATABASE, a reload or a shutdown would wait
 * for it.  So each name is looked up by a process of its own, for which nobody waits.
 *
 * Such a child is no process of PostgreSQL's: the launcher makes it by fork(), it detaches
 * from shared memory before it does anything, writes one answer into a pipe, and ends by
 * _exit().  It ends early when its time is over, when it gets any of the usual signals, and when
 * the launcher is gone.  It is the launcher that reaps it.  Should the launcher have died, the
 * child may be the postmaster's by then (in a container, where that is process 1), which takes
 * an unknown child that was killed by a signal for a crash; so it ends by itself, with status 1.
 *
 * Invariant: a name has at most one child, and what a child says is taken only if it is the
 * name's latest.  All by the launcher only.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef HAVE_SYS_PRCTL_H
#include <sys/prctl.h>
#endif

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pg_shmem.h"
#include "utils/ps_status.h"

#include "deadline.h"
#include "guc.h"
#include "servers/address.h"
#include "servers/list.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"
#include "worker/resolver.h"

#define AGAIN_MS		30000	/* how often a name is looked up, */
#define AGAIN_DOWN_MS	1000	/* while its server is down: it may have moved */
#define FAILED_TEXT		"the name \"%s\" could not be looked up: its addresses are those of before"
#define LOOKUP_S		60		/* so long a child may take */
#define FORK_LOGGED_MS	60000	/* how often it is logged that there can be none */

/* The lookup of the name in an entry of echocache.hosts: the one under way, or else the last. */
typedef struct Lookup
{
	char		name[EC_SERVER_NAME_MAX];	/* of the entry; empty: there was none yet */
	bool		failed;			/* the last answer had no address */
	pid_t		pid;			/* of the child; 0: it has ended */
	uint64		serial;			/* among all of this launcher's; 0: there was none yet */
	EcDeadline	due;			/* when to look again, */
	EcDeadline	due_down;		/* while the server is down; */
	EcDeadline	until;			/* when the one under way is given up */
} Lookup;

/* What a child says.  Not longer than what a pipe takes as a whole. */
typedef struct Answer
{
	int			entry;
	uint64		serial;
	int			naddresses;
	union
	{
		struct sockaddr any;
		struct sockaddr_in four;
		struct sockaddr_in6 six;
	}			address[EC_MAX_SERVERS];
} Answer;

StaticAssertDecl(sizeof(Answer) <= PIPE_BUF, "a pipe does not take an answer as a whole");

static Lookup lookups[EC_MAX_SERVERS];	/* of the entries of those numbers */
static int	answers[2] = {-1, -1};	/* a pipe: from the children, to the launcher */

static const EcServer *find_named(const EcHost *h);
static bool is_down(int server);
static bool is_urgent(const EcHost *h);
static void end_child(int signo);
static void fill_answer(Answer *answer, const EcHost *h);
static void look_up(Answer *answer, pid_t launcher);
static void start(int entry);
static void note_failed(Lookup *lookup, const EcHost *h);
static void take_answer(const Answer *answer);
static void reap(Lookup *lookup, bool now);
static void end_all(int code, Datum arg);

/* Once, as the launcher begins.  Throws where the kernel gives no pipe. */
void
ec_resolver_begin(void)
{
	ReserveExternalFD();
	ReserveExternalFD();
	if (pipe(answers) < 0 || !pg_set_noblock(answers[0]) ||
		fcntl(answers[0], F_SETFD, FD_CLOEXEC) < 0 || fcntl(answers[1], F_SETFD, FD_CLOEXEC) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create a pipe: %m")));
	before_shmem_exit(end_all, (Datum) 0);
}

/* The server of an entry for one server, if it has a name to be looked up; else NULL. */
static const EcServer *
find_named(const EcHost *h)
{
	char		name[EC_SERVER_NAME_MAX];
	const EcServer *s;

	ec_list_name(name, h);
	s = h->discover ? NULL : ec_list_find(ec_shmem->server, ec_shmem->nservers, name);
	return s && s->named ? s : NULL;
}

/* Is the server DOWN, for any database, or without an address? */
static bool
is_down(int server)
{
	if (ec_shmem->server[server].naddresses == 0)
		return true;
	for (int d = 0; d < EC_MAX_DATABASES; d++)
		if (OidIsValid(ec_shmem->database[d].dboid) &&
			EC_STATE(ec_state_word(&ec_shmem->database[d], server)) == EC_DOWN)
			return true;
	return false;
}

/*
 * Is the entry's name to be looked up soon, since its server is DOWN, or none is found yet?  (Of
 * several servers one that is DOWN is no reason: each change of the list costs something.)
 */
static bool
is_urgent(const EcHost *h)
{
	const EcServer *s = find_named(h);

	if (s != NULL)
		return is_down((int) (s - ec_shmem->server));
	for (int i = 0; i < ec_shmem->nservers; i++)
		if (ec_list_is_found(&ec_shmem->server[i], h))
			return false;
	return true;
}

/* ---------------------------------------------------------------- the child */

/* Handler of the child's signals. */
static void
end_child(int signo)
{
	_exit(1);
}

/* Look up the entry's name.  Uses no shared memory. */
static void
fill_answer(Answer *answer, const EcHost *h)
{
	EcAddress	found[EC_MAX_SERVERS];

	answer->naddresses = 0;
	for (int i = 0, n = ec_address_look_up(h, found, EC_MAX_SERVERS); i < n; i++)
		if (found[i].len <= sizeof(answer->address[0]))
			memcpy(&answer->address[answer->naddresses++], &found[i].addr, found[i].len);
}

/*
 * The child, with all signals blocked: ask the resolver, write the answer, and end.  Of
 * PostgreSQL's it uses nothing that needs shared memory.
 */
static void
look_up(Answer *answer, pid_t launcher)
{
	static const int ending[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGALRM, SIGPIPE, SIGUSR1,
	SIGUSR2};
	const EcHost *h = &ec_guc_host_list->host[answer->entry];
	sigset_t	none;

	for (int i = 1; i < NSIG; i++)
		(void) signal(i, SIG_DFL);
	for (int i = 0; i < lengthof(ending); i++)
		(void) signal(ending[i], end_child);
	(void) alarm(LOOKUP_S);
#ifdef HAVE_SYS_PRCTL_H
	(void) prctl(PR_SET_PDEATHSIG, SIGTERM);
#endif
	if (getppid() != launcher)
		_exit(1);
	PGSharedMemoryDetach();
	MyProcPid = getpid();
	/* what PostgreSQL has opened has low numbers */
	for (int fd = STDERR_FILENO + 1; fd < max_files_per_process + 64; fd++)
		if (fd != answers[1])
			(void) close(fd);
	init_ps_display("echocache resolver");
	(void) sigemptyset(&none);
	(void) sigprocmask(SIG_SETMASK, &none, NULL);

	fill_answer(answer, h);
	_exit(write(answers[1], answer, sizeof(*answer)) == sizeof(*answer) ? 0 : 1);
}

/* ---------------------------------------------------------------- the launcher */

/* Start to look up the name of this entry.  If there can be no child, it is tried again. */
static void
start(int entry)
{
	static uint64 serial = 0;
	static EcDeadline log_at = 0;
	Lookup	   *lookup = &lookups[entry];
	Answer		answer = {.entry = entry,.serial = ++serial};
	pid_t		launcher = MyProcPid;
	sigset_t	all;
	sigset_t	before;
	pid_t		pid;
	int			error;

	(void) sigfillset(&all);
	(void) sigprocmask(SIG_SETMASK, &all, &before);
	pid = fork();
	error = errno;
	if (pid == 0)
		look_up(&answer, launcher);
	(void) sigprocmask(SIG_SETMASK, &before, NULL);

	lookup->serial = answer.serial;
	lookup->due = ec_deadline_in(AGAIN_MS);
	lookup->due_down = ec_deadline_in(AGAIN_DOWN_MS);
	lookup->until = ec_deadline_in(LOOKUP_S * 1000);
	lookup->pid = Max(pid, 0);
	if (pid > 0 || ec_deadline_left(log_at) > 0)
		return;
	log_at = ec_deadline_in(FORK_LOGGED_MS);
	errno = error;
	ereport(LOG,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("echocache: could not start a process to look up the name of server \"%s\": %m",
					lookup->name)));
}

/* Note that the child has ended, if it has; with now it does so at once. */
static void
reap(Lookup *lookup, bool now)
{
	pid_t		ended;

	if (lookup->pid == 0)
		return;
	if (now)
		(void) kill(lookup->pid, SIGKILL);
	do
		ended = waitpid(lookup->pid, NULL, now ? 0 : WNOHANG);
	while (ended < 0 && errno == EINTR);
	if (ended != 0)
		lookup->pid = 0;
}

/* End all lookups; also before the launcher exits. */
static void
end_all(int code, Datum arg)
{
	for (int i = 0; i < EC_MAX_SERVERS; i++)
		reap(&lookups[i], true);
}

/* Look up all names at once, and anew, by what resolv.conf and the like say by now. */
void
ec_resolver_restart(void)
{
	end_all(0, (Datum) 0);
	memset(lookups, 0, sizeof(lookups));
}

/*
 * The name has no address, or the resolver does not say: what was known of it stays.  That is
 * logged when it begins, and last_error of what is UP says so.
 */
static void
note_failed(Lookup *lookup, const EcHost *h)
{
	const EcServer *named = find_named(h);
	char		reason[EC_ERROR_MAX];
	bool		known = false;

	snprintf(reason, sizeof(reason), FAILED_TEXT, h->host);
	for (int i = 0; i < ec_shmem->nservers; i++)
	{
		const EcServer *s = &ec_shmem->server[i];

		if (s->naddresses == 0 || (s != named && !ec_list_is_found(s, h)))
			continue;
		known = true;
		if (!is_down(i))
			ec_state_set_error(i, reason);	/* else there is a better one */
	}
	if (known && !lookup->failed)
		ereport(LOG,
				(errmsg("echocache: " FAILED_TEXT, h->host)));
	lookup->failed = true;
}

/* Take a child's answer; throws as ec_topology_take_addresses() does. */
static void
take_answer(const Answer *answer)
{
	Lookup	   *lookup = &lookups[answer->entry];
	const EcHost *h = &ec_guc_host_list->host[answer->entry];
	EcAddress	address[EC_MAX_SERVERS] = {0};
	char		name[EC_SERVER_NAME_MAX];
	const EcServer *s;

	if (answer->serial != lookup->serial || answer->entry >= ec_guc_host_list->n)
		return;
	ec_list_name(name, h);
	if (strcmp(lookup->name, name) != 0)
		return;
	if (answer->naddresses == 0)
	{
		note_failed(lookup, h);
		return;
	}
	lookup->failed = false;
	for (int i = 0; i < answer->naddresses; i++)
	{
		address[i].len = answer->address[i].any.sa_family == AF_INET6 ?
			sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
		memcpy(&address[i].addr, &answer->address[i], address[i].len);
	}
	if (h->discover)
		ec_topology_take_found(h, address, answer->naddresses);
	else if ((s = find_named(h)) != NULL)
		ec_topology_take_addresses((int) (s - ec_shmem->server), address,
								   Min(answer->naddresses, EC_MAX_ADDRESSES));
}

/*
 * Take what has been looked up, and look up what is due.  Never blocks.  Throws as
 * take_answer() does.
 */
void
ec_resolver_run(void)
{
	Answer		answer;

	while (read(answers[0], &answer, sizeof(answer)) == sizeof(answer))
		take_answer(&answer);
	for (int i = 0; i < EC_MAX_SERVERS; i++)
	{
		Lookup	   *lookup = &lookups[i];
		const EcHost *h = &ec_guc_host_list->host[i];
		char		name[EC_SERVER_NAME_MAX] = "";

		if (i < ec_guc_host_list->n && (h->discover || find_named(h) != NULL))
			ec_list_name(name, h);
		reap(lookup, strcmp(lookup->name, name) != 0 || ec_deadline_left(lookup->until) == 0);
		if (strcmp(lookup->name, name) != 0)
		{
			memset(lookup, 0, sizeof(Lookup));
			strlcpy(lookup->name, name, sizeof(lookup->name));
		}
		if (name[0] != '\0' && lookup->pid == 0 &&
			ec_deadline_left(is_urgent(h) ? lookup->due_down : lookup->due) == 0)
			start(i);
	}
}

/* Sleep as ec_deadline_nap() does; a child's answer ends it as well. */
void
ec_resolver_nap(int ms)
{
	(void) WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT |
							 WL_EXIT_ON_PM_DEATH, answers[0], ms,
							 ec_waitevent_of(EC_WAIT_LAUNCHER));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}
