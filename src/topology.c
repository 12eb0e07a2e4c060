/*-------------------------------------------------------------------------
 *
 * topology.c
 *	  Which servers there are, and who goes by which list of them.
 *
 * The topology is published as a generation, and used by those who have entered it;
 * the rules are in shmem.h.  The postmaster publishes the first one, all others the launcher,
 * which also resolves names: that can block for long.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <netdb.h>
#include <sys/un.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "topology.h"

/* By then the launcher has taken over from the postmaster, or will not. */
#define FIRST_TOPOLOGY_MS	5000

/*
 * How often this process has entered the topology (a read within a read, or
 * within what renders a document at commit), and at which nesting level first.
 */
static int	entered_depth = 0;
static int	entered_level = 0;

static void resolve_server(EcServer *s, bool numeric);
static int	make_servers(EcServer *servers);

/* ---------------------------------------------------------------- publishing */

/*
 * The addresses of a server; with numeric, only what needs no resolver.  (localhost is in the
 * hosts file, and the postmaster looks it up for listen_addresses as well.)
 */
static void
resolve_server(EcServer *s, bool numeric)
{
	struct addrinfo hints = {0};
	struct addrinfo *list;
	char		port[16];

	s->naddresses = 0;
	if (s->port == 0)
	{
		struct sockaddr_un *un = (struct sockaddr_un *) &s->address[0].addr;

		memset(&s->address[0], 0, sizeof(EcAddress));
		un->sun_family = AF_UNIX;
		strlcpy(un->sun_path, s->host, sizeof(un->sun_path));
		s->address[0].len = sizeof(struct sockaddr_un);
		s->naddresses = 1;
		return;
	}
	hints.ai_socktype = SOCK_STREAM;
	hints.ai_flags = AI_NUMERICSERV;
	if (numeric && strcmp(s->host, "localhost") != 0)
		hints.ai_flags |= AI_NUMERICHOST;
	snprintf(port, sizeof(port), "%d", s->port);
	if (getaddrinfo(s->host, port, &hints, &list) != 0)
		return;
	for (struct addrinfo *a = list; a && s->naddresses < EC_MAX_ADDRESSES; a = a->ai_next)
	{
		EcAddress  *address = &s->address[s->naddresses];

		if (a->ai_addrlen > sizeof(address->addr))
			continue;
		memset(address, 0, sizeof(EcAddress));
		memcpy(&address->addr, a->ai_addr, a->ai_addrlen);
		address->len = a->ai_addrlen;
		s->naddresses++;
	}
	freeaddrinfo(list);
}

/* The servers that the settings name, with the addresses of those that need no resolver. */
static int
make_servers(EcServer *servers)
{
	int			n = ec_guc_host_list->n;

	for (int i = 0; i < n; i++)
	{
		const EcHost *h = &ec_guc_host_list->host[i];
		EcServer   *s = &servers[i];

		memset(s, 0, sizeof(EcServer));
		strlcpy(s->host, h->host, sizeof(s->host));
		s->port = h->port;
		s->weight = h->weight;
		if (h->port == 0)
			strlcpy(s->name, h->host, sizeof(s->name));
		else
			snprintf(s->name, sizeof(s->name), strchr(h->host, ':') ? "[%s]:%d" : "%s:%d",
					 h->host, h->port);
		resolve_server(s, true);
		pg_atomic_init_u32(&s->connections, 0);
		pg_atomic_init_u32(&s->kept, 0);
		pg_atomic_init_u64(&s->item_max, 0);
	}
	return n;
}

/*
 * The first generation, by the postmaster as it makes the shared memory: a commit
 * may come before the launcher has begun, and must invalidate what an earlier life left
 * in the cache.
 */
void
ec_topology_init(void)
{
	pg_atomic_init_u64(&ec_shmem->generation, EC_FIRST_GENERATION);
	pg_atomic_init_u64(&ec_shmem->first_entered, 0);
	ec_shmem->nservers = make_servers(ec_shmem->server);
	ec_shmem->enabled = ec_guc_enabled;
}

/*
 * Publish what the settings say as a new generation.  Every server begins as
 * RECOVERING: keys may have moved, and what was left where they were before is
 * purged before anybody reads.  Names keep the addresses that are known.
 */
void
ec_topology_publish(void)
{
	EcServer   *servers = palloc(sizeof(EcServer) * EC_MAX_SERVERS);
	int			n = make_servers(servers);

	for (int i = 0; i < n; i++)
	{
		EcServer   *s = &servers[i];

		for (int old = 0; s->naddresses == 0 && old < ec_shmem->nservers; old++)
		{
			if (strcmp(ec_shmem->server[old].name, s->name) != 0)
				continue;
			s->naddresses = ec_shmem->server[old].naddresses;
			memcpy(s->address, ec_shmem->server[old].address, sizeof(s->address));
		}
	}

	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	ec_state_reset(&ec_shmem->unclaimed);
	for (int d = 0; d < EC_MAX_DATABASES; d++)
	{
		EcDatabase *db = &ec_shmem->database[d];

		ec_state_reset(db);
		db->standby = false;
		if (!db->has_next_prefix)
			continue;
		strlcpy(db->old_prefix, db->prefix, sizeof(db->old_prefix));
		strlcpy(db->prefix, db->next_prefix, sizeof(db->prefix));
		db->old_prefix_generation = pg_atomic_read_u64(&ec_shmem->generation);
		db->has_old_prefix = true;
		db->has_next_prefix = false;
	}
	memcpy(ec_shmem->server, servers, n * sizeof(EcServer));
	ec_shmem->nservers = n;
	ec_shmem->enabled = ec_guc_enabled;
	ec_shmem->republish = false;
	pg_atomic_fetch_add_u64(&ec_shmem->generation, 1);
	LWLockRelease(ec_shmem->lock);

	ereport(LOG,
			(errmsg_plural("echocache: the cache is %s, with %d server",
						   "echocache: the cache is %s, with %d servers", n,
						   ec_guc_enabled ? "on" : "off", n)));
	for (int d = 0; d < EC_MAX_DATABASES; d++)
		ec_shmem_wake(ec_shmem->database[d].worker_pid);
	pfree(servers);
}

/*
 * Resolve the names again.  A server that gets its first addresses can be used
 * now; other addresses than before are other servers, and a new topology.
 */
void
ec_topology_resolve_names(void)
{
	bool		changed = false;

	for (int i = 0; i < ec_shmem->nservers; i++)
	{
		EcServer   *shared = &ec_shmem->server[i];
		EcServer   *s = palloc(sizeof(EcServer));

		*s = *shared;
		resolve_server(s, true);
		if (s->naddresses == 0)
		{
			/* a name; may block for as long as the resolver likes */
			resolve_server(s, false);
			if (s->naddresses > 0 &&
				(s->naddresses != shared->naddresses ||
				 memcmp(s->address, shared->address, s->naddresses * sizeof(EcAddress)) != 0))
			{
				changed |= shared->naddresses > 0;
				LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
				memcpy(shared->address, s->address, sizeof(s->address));
				shared->naddresses = s->naddresses;
				LWLockRelease(ec_shmem->lock);
			}
		}
		pfree(s);
		CHECK_FOR_INTERRUPTS();
	}
	if (changed)
		ec_topology_publish();
}

/* ---------------------------------------------------------------- entering */

/*
 * Enter the current topology: from here to ec_topology_leave() it stays the
 * one that counts for us, since nobody trusts a later one before we have left.
 * Returns its generation.  Never throws.
 */
uint64
ec_topology_enter(void)
{
	pg_atomic_uint64 *mine = &ec_shmem->entered[ec_compat_proc_slot()];
	uint64		generation;

	if (entered_depth > 0)
	{
		entered_depth++;
		return pg_atomic_read_u64(mine);
	}
	for (;;)
	{
		generation = pg_atomic_read_u64(&ec_shmem->generation);
		pg_atomic_write_u64(mine, generation);
		pg_memory_barrier();	/* the entry is seen before the check is made */
		if (pg_atomic_read_u64(&ec_shmem->generation) == generation)
			break;
	}
	entered_depth = 1;
	entered_level = GetCurrentTransactionNestLevel();
	return generation;
}

/* Leave it again. */
void
ec_topology_leave(void)
{
	Assert(entered_depth > 0);
	if (--entered_depth > 0)
		return;
	pg_memory_barrier();
	pg_atomic_write_u64(&ec_shmem->entered[ec_compat_proc_slot()], 0);
}

/* Is there none newer? */
bool
ec_topology_is_current(uint64 generation)
{
	return pg_atomic_read_u64(&ec_shmem->generation) == generation;
}

/*
 * Is there a launcher that goes on from this generation?  Without one (for want of
 * max_worker_processes) no server comes UP, nothing clears the outbox, and the cache is as
 * good as off: after a moment nobody who commits shall ask for it.
 */
bool
ec_topology_is_served(uint64 generation)
{
	uint64		now = GetCurrentTimestamp();
	uint64		since = 0;

	return generation != EC_FIRST_GENERATION ||
		pg_atomic_compare_exchange_u64(&ec_shmem->first_entered, &since, now) ||
		!TimestampDifferenceExceeds(since, now, FIRST_TOPOLOGY_MS);
}

/*
 * What was entered first in the (sub)transaction at this level, or below it, is
 * left with its end.  Deeper entries that an error has skipped stay counted until
 * the first one goes, which errs on the safe side.
 */
void
ec_topology_at_end(int level)
{
	if (entered_depth == 0 || entered_level < level)
		return;
	entered_depth = 1;
	ec_topology_leave();
}

/* Has everybody left the generations before this one? */
bool
ec_topology_all_left(uint64 before)
{
	pg_memory_barrier();
	for (int i = 0; i < ec_shmem->nprocs; i++)
	{
		uint64		in = pg_atomic_read_u64(&ec_shmem->entered[i]);

		if (in != 0 && in < before)
			return false;
	}
	return true;
}
