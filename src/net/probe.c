/*-------------------------------------------------------------------------
 *
 * probe.c
 *	  Which of several addresses accepts connections.
 *
 * All are tried at the same time, so that one that is silent takes no time from the others, and
 * one deadline does for all.  Nothing is sent.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "storage/fd.h"

#include "net/probe.h"

/* How often the sockets are looked at. */
#define PROBE_NAP_MS	5

#define NOT_YET			(-2)

typedef enum ProbeState
{
	PROBE_PENDING,
	PROBE_ACCEPTED,
	PROBE_FAILED
} ProbeState;

/* A connection that is tried. */
typedef struct Probe
{
	ProbeState	state;
	pgsocket	fd;				/* PGINVALID_SOCKET: none */
} Probe;

static bool begin(Probe *p, const EcAddress *address);
static void look(Probe *p);
static void end(Probe *p);
static int	find_best(const Probe *probes, int n, int prefer, bool over);

/*
 * Begin to connect to the address.  false: this process is short of descriptors or memory, which
 * says nothing about the address.  Never throws.
 */
static bool
begin(Probe *p, const EcAddress *address)
{
	if (!AcquireExternalFD())
		return false;
	p->fd = socket(address->addr.ss_family, SOCK_STREAM, 0);
	if (p->fd == PGINVALID_SOCKET)
	{
		int			error = errno;

		ReleaseExternalFD();
		p->state = PROBE_FAILED;
		return error == EAFNOSUPPORT;
	}
	if (!pg_set_noblock(p->fd))
		p->state = PROBE_FAILED;
	else if (connect(p->fd, (const struct sockaddr *) &address->addr, address->len) == 0)
		p->state = PROBE_ACCEPTED;
	else if (errno != EINPROGRESS)
		p->state = PROBE_FAILED;
	return true;
}

/* Has the connection been accepted, or refused, by now? */
static void
look(Probe *p)
{
	struct pollfd ready = {.fd = p->fd,.events = POLLOUT};
	int			error = 0;
	socklen_t	len = sizeof(error);

	if (p->state != PROBE_PENDING || poll(&ready, 1, 0) <= 0)
		return;
	if (getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	p->state = error == 0 ? PROBE_ACCEPTED : PROBE_FAILED;
}

static void
end(Probe *p)
{
	if (p->fd == PGINVALID_SOCKET)
		return;
	close(p->fd);
	ReleaseExternalFD();
}

/*
 * The one at prefer, if it has accepted; else the first in order that has.  Whoever comes before
 * is waited for: NOT_YET, unless the time is over.  -1: none has.
 */
static int
find_best(const Probe *probes, int n, int prefer, bool over)
{
	if (probes[prefer].state == PROBE_ACCEPTED)
		return prefer;
	if (probes[prefer].state == PROBE_PENDING && !over)
		return NOT_YET;
	for (int i = 0; i < n; i++)
	{
		if (probes[i].state == PROBE_ACCEPTED)
			return i;
		if (probes[i].state == PROBE_PENDING && !over)
			return NOT_YET;
	}
	return -1;
}

/*
 * Which of the addresses accepts a connection?  The one at prefer, or, if that refuses or is
 * silent until the deadline, the first in order that does; -1: none.  While this process is
 * short of descriptors the answer is prefer: nothing is known then.  Throws for interrupts, with
 * sockets left open: by background workers only, which end by any error.
 */
int
ec_probe(const EcAddress *addresses, int n, int prefer, EcDeadline deadline)
{
	Probe		probes[EC_MAX_ADDRESSES];
	int			best = NOT_YET;

	Assert(n > 0 && n <= EC_MAX_ADDRESSES && prefer >= 0 && prefer < n);
	for (int i = 0; i < n; i++)
		probes[i] = (Probe) {PROBE_PENDING, PGINVALID_SOCKET};
	for (int i = 0; i < n && best == NOT_YET; i++)
		if (!begin(&probes[i], &addresses[i]))
			best = prefer;
	while (best == NOT_YET)
	{
		int			left = ec_deadline_left(deadline);

		for (int i = 0; i < n; i++)
			look(&probes[i]);
		best = find_best(probes, n, prefer, left == 0);
		if (best == NOT_YET)
			ec_deadline_nap(Min(left, PROBE_NAP_MS), EC_WAIT_CONNECT);
	}
	for (int i = 0; i < n; i++)
		end(&probes[i]);
	return best;
}
