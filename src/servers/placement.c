/*-------------------------------------------------------------------------
 *
 * placement.c
 *	  This backend's copy of the topology, and which server a key lives on.
 *
 * Placement is libmemcached's weighted ketama, so every client that is built on libmemcached
 * finds our keys.
 *
 * Invariant: while the backend is in the topology, the copy is of the generation that it has
 * entered (topology.c).  Entering a newer generation replaces the copy and closes the
 * connections, which are to servers of the old one.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <libmemcached/memcached.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "utils/memutils.h"

#include "guc.h"
#include "protocol/reply.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"

/* So much free memory a backend keeps that reads or writes documents. */
#define KEEP_FREE	(2 * 1024 * 1024)

EcPlacement	ec_placement;

static memcached_st *placement = NULL;	/* NULL: a single server */

/* What ec_placement_on_change() was told, at the start of the backend. */
static void (*before_change) (void) = NULL;

/*
 * An exchange is under way in which nothing else may be asked.  Set and reset by
 * ec_round_run(), around what runs meanwhile, and reset at the end of the transaction, for
 * after an error.
 */
static bool barred = false;

static void keep_free_memory(void);
static void load_prefix(void);
static memcached_st *make_placement(const EcServer *servers, int n);
static bool load_topology(uint64 generation);

/*
 * Have malloc() keep KEEP_FREE of free memory.  glibc returns to the kernel what is above
 * 128 kB by default.  The memory for the next document, and for all copies of it on its way
 * to the client, is then faulted in page by page, which takes most of the time of a large hit.
 */
static void
keep_free_memory(void)
{
#if defined(M_TRIM_THRESHOLD) && defined(M_MMAP_THRESHOLD)
	(void) mallopt(M_MMAP_THRESHOLD, KEEP_FREE / 2);
	(void) mallopt(M_TRIM_THRESHOLD, KEEP_FREE);
#endif
}

/* Have this called before another generation takes the place of the present one.  Called once. */
void
ec_placement_on_change(void (*callback) (void))
{
	before_change = callback;
}

/* While barred, ec_placement_enter() finds the cache disabled. */
void
ec_placement_bar(bool bar)
{
	barred = bar;
}

/* Copy what this database's keys begin with.  ec_shmem->lock is held. */
static void
load_prefix(void)
{
	EcDatabase *db = ec_state_database();

	Assert(LWLockHeldByMe(ec_shmem->lock));
	strlcpy(ec_placement.prefix, db ? db->prefix : ec_guc_key_prefix, sizeof(ec_placement.prefix));
	ec_placement.has_slot = db != NULL;
}

/* The placement of keys on these servers; NULL: there is but one.  Throws out of memory. */
static memcached_st *
make_placement(const EcServer *servers, int n)
{
	memcached_return_t rc = MEMCACHED_MEMORY_ALLOCATION_FAILURE;
	memcached_st *memc;
	const char *why;

	if (n <= 1)
		return NULL;
	memc = memcached_create(NULL);
	if (memc != NULL)
		rc = memcached_behavior_set(memc, MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED, 1);
	for (int i = 0; i < n && rc == MEMCACHED_SUCCESS; i++)
	{
		if (servers[i].port == 0)
			rc = memcached_server_add_unix_socket_with_weight(memc, servers[i].host,
															  servers[i].weight);
		else
			rc = memcached_server_add_with_weight(memc, servers[i].host, servers[i].port,
												  servers[i].weight);
	}
	if (rc == MEMCACHED_SUCCESS)
		return memc;
	why = memcached_strerror(NULL, rc);
	if (memc)
		memcached_free(memc);
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("could not compute the placement of cache keys: %s", why)));
}

/*
 * Copy the topology of this generation, which the backend has entered, and make the
 * placement for it.  Connections of the generation before are closed.  false: there is a
 * newer one, which is to be entered instead.  Throws out of memory, with no copy left.
 */
static bool
load_topology(uint64 generation)
{
	EcServer   *servers;
	bool		enabled;
	int			n;

	Assert(ec_topology_is_entered());
	if (ec_placement.server == NULL)
		keep_free_memory();
	before_change();

	servers = MemoryContextAlloc(TopMemoryContext, sizeof(EcServer) * EC_MAX_SERVERS);
	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	if (!ec_shmem_is_current(generation))
	{
		LWLockRelease(ec_shmem->lock);
		pfree(servers);
		return false;
	}
	enabled = ec_shmem->enabled;
	n = ec_shmem->nservers;
	memcpy(servers, ec_shmem->server, n * sizeof(EcServer));
	load_prefix();
	LWLockRelease(ec_shmem->lock);

	/* from here until all is done there is no copy; connections are closed, so none is needed */
	ec_placement.generation = 0;
	ec_placement.nservers = 0;
	if (placement)
		memcached_free(placement);
	placement = NULL;
	if (ec_placement.server)
		pfree(ec_placement.server);
	ec_placement.server = servers;
	placement = make_placement(servers, n);
	ec_placement.nservers = n;
	ec_placement.enabled = enabled;
	ec_placement.generation = generation;
	return true;
}

/*
 * Enter the topology, whether the cache is on or not, until ec_topology_leave().  Returns
 * whether it is on.  Throws out of memory only; what was entered then, the end of the
 * (sub)transaction leaves.
 */
bool
ec_placement_enter_always(void)
{
	for (;;)
	{
		uint64		generation = ec_topology_enter();

		if (generation == ec_placement.generation || load_topology(generation))
			break;
		ec_topology_leave();
	}
	if (!ec_placement.has_slot)
	{
		/* has the database got one meanwhile? */
		LWLockAcquire(ec_shmem->lock, LW_SHARED);
		load_prefix();
		LWLockRelease(ec_shmem->lock);
	}
	return ec_placement.enabled;
}

/*
 * Enter the topology, until ec_topology_leave(), if the cache is on.  false: it is off, and
 * nothing is entered.  Throws as ec_placement_enter_always() does.
 */
bool
ec_placement_enter(void)
{
	if (barred)
		return false;
	if (ec_placement_enter_always())
		return true;
	ec_topology_leave();
	return false;
}

/*
 * Enter the topology once more, until ec_topology_leave(), if it is still of this generation,
 * and the backend's copy as well.  false: it is not, and nothing is entered.  The backend has
 * entered that generation before, in this transaction.  Never throws.
 */
bool
ec_placement_enter_again(uint64 generation)
{
	if (ec_topology_enter() == generation && ec_placement.generation == generation)
		return true;
	ec_topology_leave();
	return false;
}

/* How many servers there are, in the topology that the backend has entered. */
int
ec_placement_size(void)
{
	return ec_placement.nservers;
}

/* The generation of which the copy is. */
uint64
ec_placement_generation(void)
{
	return ec_placement.generation;
}

/* What this database's keys begin with, in the topology that the backend has entered. */
const char *
ec_placement_prefix(void)
{
	return ec_placement.prefix;
}

/* The name of a server, as echocache_servers shows it; lasts as long as the topology. */
const char *
ec_placement_name(int server)
{
	Assert(server >= 0 && server < ec_placement.nservers);
	return ec_placement.server[server].name;
}

/* The server that the key lives on, for as long as the backend stays in the topology. */
int
ec_placement_of(const char *key, int keylen)
{
	Assert(ec_topology_is_entered());
	return placement ? (int) memcached_generate_hash(placement, key, keylen) : 0;
}

/*
 * Would the server take a value of this size?  As far as it has told its
 * item_size_max; an item carries some 50 bytes of its own.
 */
bool
ec_placement_fits(int server, int keylen, size_t valuelen)
{
	uint64		max = pg_atomic_read_u64(&ec_shmem->server[server].item_max);

	return max == 0 || valuelen + keylen + 64 <= max;
}

/* The size of the largest value that any server would take, as far as they have told. */
size_t
ec_placement_largest(void)
{
	uint64		largest = 0;

	for (int i = 0; i < ec_placement.nservers; i++)
	{
		uint64		max = pg_atomic_read_u64(&ec_shmem->server[i].item_max);

		if (max == 0)
			return EC_VALUE_MAX;
		largest = Max(largest, max);
	}
	return largest;
}
