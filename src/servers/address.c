/*-------------------------------------------------------------------------
 *
 * address.c
 *	  The addresses of a server, and which one of them is used.
 *
 * A name may have several addresses, and a memcached behind each.  It is one server all the
 * same: every process of the cluster uses one of them, EcServer.chosen.  The addresses are in
 * order and no two are the same, so what a resolver says in another order is no change.
 *
 * The first one is chosen, and stays so while it accepts connections.  When it does not, a
 * database's worker looks which one does (ec_address_choose()) and asks the launcher for it, by
 * EcServer.wanted.  The launcher publishes that as a new generation (topology.c): it is another
 * memcached, to be purged before anybody reads from it.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/un.h>

#include "common/ip.h"
#include "storage/lwlock.h"

#include "deadline.h"
#include "guc.h"
#include "net/probe.h"
#include "servers/address.h"

static int	compare(const EcAddress *a, const EcAddress *b);
static void add_address(EcAddress *list, int *n, int max, const struct sockaddr *addr,
						socklen_t len);
static void add_local(EcServer *s);
static int	resolve(const char *host, int port, int flags, EcAddress *list, int max);

/* The order of addresses: by family, IPv4 first, then by their bytes. */
static int
compare(const EcAddress *a, const EcAddress *b)
{
	if (a->addr.ss_family != b->addr.ss_family)
		return a->addr.ss_family - b->addr.ss_family;
	return memcmp(&a->addr, &b->addr, sizeof(a->addr));
}

/*
 * Add an address in its place.  One that is there is not added, and of more than max the first
 * ones stay.
 */
static void
add_address(EcAddress *list, int *n, int max, const struct sockaddr *addr, socklen_t len)
{
	EcAddress	new = {.len = len};
	int			order = 1;
	int			at;

	if (len > sizeof(new.addr))
		return;
	memcpy(&new.addr, addr, len);
	for (at = 0; at < *n; at++)
	{
		order = compare(&new, &list[at]);
		if (order <= 0)
			break;
	}
	if (order == 0 || at == max)
		return;
	*n = Min(*n + 1, max);
	memmove(&list[at + 1], &list[at], (*n - at - 1) * sizeof(EcAddress));
	list[at] = new;
}

/* The addresses of this machine itself, whatever anybody says that "localhost" is (RFC 6761). */
static void
add_local(EcServer *s)
{
	struct sockaddr_in four = {.sin_family = AF_INET,.sin_port = htons(s->port)};
	struct sockaddr_in6 six = {.sin6_family = AF_INET6,.sin6_port = htons(s->port)};

	four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	six.sin6_addr = in6addr_loopback;
	add_address(s->address, &s->naddresses, EC_MAX_ADDRESSES, (struct sockaddr *) &four,
				sizeof(four));
	add_address(s->address, &s->naddresses, EC_MAX_ADDRESSES, (struct sockaddr *) &six,
				sizeof(six));
}

/* The addresses that getaddrinfo() gives, in order; returns how many. */
static int
resolve(const char *host, int port, int flags, EcAddress *list, int max)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM,.ai_flags = AI_NUMERICSERV | flags};
	struct addrinfo *found;
	char		service[16];
	int			n = 0;

	snprintf(service, sizeof(service), "%d", port);
	if (getaddrinfo(host, service, &hints, &found) != 0)
		return 0;
	for (struct addrinfo *a = found; a; a = a->ai_next)
		add_address(list, &n, max, a->ai_addr, a->ai_addrlen);
	freeaddrinfo(found);
	return n;
}

/*
 * Set the addresses of a server that needs no resolver.  false: it has a name, which is to be
 * looked up.  Never throws, and asks nobody.
 */
bool
ec_address_set_fixed(EcServer *s)
{
	s->naddresses = s->chosen = 0;
	if (s->port == 0)
	{
		struct sockaddr_un un = {.sun_family = AF_UNIX};

		strlcpy(un.sun_path, s->host, sizeof(un.sun_path));
		add_address(s->address, &s->naddresses, EC_MAX_ADDRESSES, (struct sockaddr *) &un,
					sizeof(un));
		return true;
	}
	if (pg_strcasecmp(s->host, "localhost") == 0)
	{
		add_local(s);
		return true;
	}
	s->naddresses = resolve(s->host, s->port, AI_NUMERICHOST, s->address, EC_MAX_ADDRESSES);
	return s->naddresses > 0;
}

/*
 * Look up the addresses of a name, in order; returns how many, at most max; 0: it does not
 * resolve.  Blocks for as long as the resolver likes, so it is for the launcher's child alone
 * (worker/resolver.c), and uses no shared memory.  Never throws.
 */
int
ec_address_look_up(const EcHost *h, EcAddress *list, int max)
{
	return resolve(h->host, h->port, 0, list, max);
}

/* Which of the server's addresses is this?  -1: none. */
int
ec_address_find(const EcServer *s, const EcAddress *address)
{
	for (int i = 0; i < s->naddresses; i++)
		if (compare(&s->address[i], address) == 0)
			return i;
	return -1;
}

/* Is the address that is used the same, or is there none in either? */
bool
ec_address_is_same(const EcServer *a, const EcServer *b)
{
	if (a->naddresses == 0 || b->naddresses == 0)
		return a->naddresses == b->naddresses;
	return compare(&a->address[a->chosen], &b->address[b->chosen]) == 0;
}

/* The address as text, for people; text has room for EC_ADDRESS_TEXT.  Asks no resolver. */
char *
ec_address_text(const EcAddress *address, char *text)
{
	if (pg_getnameinfo_all(&address->addr, address->len, text, EC_ADDRESS_TEXT, NULL, 0,
						   NI_NUMERICHOST) != 0)
		strlcpy(text, "?", EC_ADDRESS_TEXT);
	return text;
}

/*
 * The server is DOWN: is there an address that accepts connections, while the one that is used does
 * not?  That is known within echocache.timeout.  Then the launcher is asked for a generation with
 * that one.  false: nothing is to be done with the server in this generation any more.
 *
 * By a database's worker, which has entered the generation; no transaction is open.  Of several
 * workers that ask at the same time the last one counts; one whose generation is over asks for
 * nothing.  Throws for interrupts.
 */
bool
ec_address_choose(int server, uint64 generation)
{
	EcServer   *shared = &ec_shmem->server[server];
	EcServer	s;
	char		from[EC_ADDRESS_TEXT];
	char		to[EC_ADDRESS_TEXT];
	int			best;
	int			launcher;
	bool		asks;

	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	s = *shared;
	asks = ec_shmem_is_current(generation);
	LWLockRelease(ec_shmem->lock);
	if (!asks)
		return false;
	if (s.naddresses < 2)
		return true;
	best = ec_probe(s.address, s.naddresses, s.chosen, ec_deadline_in(ec_guc_timeout));
	if (best < 0 || best == s.chosen)
		return true;

	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	asks = ec_shmem_is_current(generation) &&
		(shared->wanted.len == 0 || compare(&shared->wanted, &s.address[best]) != 0);
	if (asks)
	{
		shared->wanted = s.address[best];
		ec_shmem->republish = true;
	}
	launcher = ec_shmem->launcher_pid;
	LWLockRelease(ec_shmem->lock);
	if (!asks)
		return false;			/* somebody else has, or it is not needed any more */
	ereport(LOG,
			(errmsg("echocache: server \"%s\" does not accept connections at %s, but at %s",
					s.name, ec_address_text(&s.address[s.chosen], from),
					ec_address_text(&s.address[best], to)),
			 errdetail("Every session uses that address from now on.")));
	ec_shmem_wake(launcher);
	return false;
}
