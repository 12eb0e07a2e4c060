/*-------------------------------------------------------------------------
 *
 * shmem.h
 *	  The shared memory of the extension: its layout and its allocation.
 *
 * The topology says which servers there are, whether the cache is enabled, and what each
 * database's keys begin with.  It has one writer, the postmaster and then the launcher, and a
 * generation.  Whoever places a key enters the generation before (ec_topology_enter) and
 * leaves it afterwards.  After a new generation is published nothing is purged, and no server
 * becomes UP, before everybody has left the old one.  So two backends never trust two
 * different placements of one key.
 *
 * A server's state is one 64-bit word for each database: an epoch, which grows with every
 * change, and UP, DOWN, RECOVERING or UNOWNED.  Any backend's failed exchange may make the server
 * DOWN; only the database's worker brings it back, by compare-and-swap on the word that the
 * worker began with.  UNOWNED is a server that answers, but on which another cluster or
 * database uses the keys: nothing is sent, as if it were DOWN.
 *
 * lease_until says until when the keys are this database's (servers/lease.c).  The worker
 * writes it.  A backend believes a hit, and stores a document, before that time only.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SHMEM_H
#define ECHOCACHE_SHMEM_H

#include <sys/socket.h>

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/lwlock.h"

#include "protocol/key.h"
#include "protocol/leaseline.h"
#include "protocol/wire.h"

#define EC_MAX_SERVERS		64
#define EC_MAX_DATABASES	64
#define EC_MAX_BANS			16
#define EC_MAX_ATTACHMENTS	512
#define EC_MAX_ADDRESSES	4
#define EC_RING_KEYS		128
#define EC_HOST_MAX			256
#define EC_SERVER_NAME_MAX	(EC_HOST_MAX + 16)
#define EC_ERROR_MAX		320

typedef enum EcState
{
	EC_DOWN = 0,
	EC_RECOVERING = 1,			/* markers are sent, nobody reads */
	EC_UP = 2,
	EC_UNOWNED = 3				/* the keys are somebody else's: as DOWN */
} EcState;

/* A state word: an epoch, whether the server must be purged before it is UP, and its state. */
#define EC_STATE(word)		((EcState) ((word) & 3))
#define EC_MUST_PURGE(word) (((word) & 4) != 0)
#define EC_EPOCH(word)		((word) >> 3)
#define EC_STATE_WORD(epoch, purge, state) \
	(((uint64) (epoch) << 3) | ((purge) ? 4 : 0) | (state))

typedef struct EcAddress
{
	socklen_t	len;
	struct sockaddr_storage addr;
} EcAddress;

/* A server of the current topology. */
typedef struct EcServer
{
	/* by the launcher, with the lock held exclusively, when publishing */
	char		name[EC_SERVER_NAME_MAX];	/* host:port, [v6]:port or a path */
	char		host[EC_HOST_MAX];
	int			port;			/* 0: unix socket */
	int			weight;
	bool		named;			/* its addresses are what a resolver says */
	char		found_by[EC_HOST_MAX];	/* it is, or waits for, an address of this name */

	/* by the launcher, with the lock held exclusively; chosen's only when publishing */
	int			naddresses;		/* 0: the name does not resolve (yet) */
	EcAddress	address[EC_MAX_ADDRESSES];	/* in order: servers/address.c */
	int			chosen;			/* which one everybody uses */

	/* by a database's worker, with the lock held exclusively; reset when publishing */
	EcAddress	wanted;			/* to be chosen instead; len 0: none */

	/* by any backend, with the lock held exclusively */
	char		last_error[EC_ERROR_MAX];
	TimestampTz last_error_at;

	/* atomics, by any backend */
	pg_atomic_uint32 connections;	/* open now, kept and temporary */
	pg_atomic_uint32 kept;		/* counted against pool_size */
	pg_atomic_uint64 item_max;	/* the server's item_size_max; 0: not known */
	pg_atomic_uint32 room_wanted;	/* not 0: a commit or a worker has no connection; which backend
									 * is next at the end of a transaction gives its own up */
	pg_atomic_uint64 slow;		/* timeouts in a row; 0: none.  See ec_state_slow() */
	pg_atomic_uint64 told_old;	/* the generation in which it was logged that it is old */
	pg_atomic_uint64 prepared_logged;	/* when a prepared transaction was that it waits for */

	/* atomics, by any backend: what the log says of its state; see ec_state_tell() */
	pg_atomic_uint32 told;		/* an EcState, UP or DOWN; RECOVERING: nothing yet */
	pg_atomic_uint32 untold;	/* how often it went DOWN since the log said so */
	pg_atomic_uint64 removed;	/* keys invalidated since the log said that it is UP */
	pg_atomic_uint64 told_at[EC_UP + 1];	/* when; TimestampTz */
} EcServer;

/* Processes of a database that come and go. */
typedef enum EcHelper
{
	EC_BUILDER,
	EC_AUDITOR,
	EC_NHELPERS
} EcHelper;

/* A database that has the extension. */
typedef struct EcDatabase
{
	/* by that database's worker, with the lock held exclusively */
	Oid			dboid;			/* InvalidOid: free slot */
	int			worker_pid;		/* 0: none at present */
	char		next_prefix[EC_PREFIX_MAX + 1];	/* of its keys in the next generation, */
	bool		has_next_prefix;	/* if that is another one */
	/* by the launcher, when publishing; the first one by the worker */
	char		prefix[EC_PREFIX_MAX + 1];	/* of its keys in this generation */
	char		old_prefix[EC_PREFIX_MAX + 1];	/* whose keys are still to be purged, */
	bool		has_old_prefix; /* cleared by the worker */
	uint64		old_prefix_generation;	/* in which it was still in use */
	/* whoever holds the lock exclusively decides: database.c, topology.c, slot.c */
	bool		owns_prefix;	/* no other database of this cluster uses the prefix */
	/* atomics: see the banner */
	pg_atomic_uint64 state[EC_MAX_SERVERS];
	/*
	 * By the worker: the state word, DOWN, under which the outbox has a row for
	 * every attachment as a whole, so that writers need not note single keys.
	 */
	pg_atomic_uint64 whole_noted[EC_MAX_SERVERS];
	/*
	 * By echocache_flush_all(), in any database: the state word, RECOVERING, under
	 * which the worker may flush the server, should that refuse to be purged.
	 */
	pg_atomic_uint64 may_flush[EC_MAX_SERVERS];
	/*
	 * By the launcher, when publishing: the state word, RECOVERING, under which the worker may
	 * keep the keys that are placed on the server, when it purges.  0 by the worker, and by a
	 * writer of an older generation: see ec_state_doubt().
	 */
	pg_atomic_uint64 may_keep[EC_MAX_SERVERS];
	/*
	 * Until when the keys on the server are ours, by ec_state_clock(); 0: they are not.
	 * By the worker, with the lock held in share mode; 0 by whoever publishes.
	 */
	pg_atomic_uint64 lease_until[EC_MAX_SERVERS];
	/*
	 * By the worker; whoever publishes clears lease_held and lease_error, too.  lease_held:
	 * the keys have been ours in this generation, and not been lost that we know.
	 */
	bool		lease_held[EC_MAX_SERVERS];
	bool		lease_looked[EC_MAX_SERVERS];	/* the worker knows whose they are, in this life */
	bool		lease_once[EC_MAX_SERVERS]; /* they have been ours in this life */
	bool		lease_forced[EC_MAX_SERVERS];	/* a claim was put over a lease in this life */
	char		lease_error[EC_ERROR_MAX];	/* why they are not, on some server */
	TimestampTz lease_error_at;
	/* by any backend, [1]: to do it anew; and by the worker, how many it has met: see depend.h */
	pg_atomic_uint64 dependency_demands[2];
	uint64		dependency_met[2];
	/* by whoever changed the state, without a lock: shown in the view only */
	TimestampTz since[EC_MAX_SERVERS];
	int			helper_pid[EC_NHELPERS];	/* by the helper, and 0 by whoever frees the slot, with
										 * the lock held exclusively; 0: none */
	TimestampTz audit_list_at;	/* by the auditor: when to have servers list their keys */
	bool		reloading;		/* by the worker, as it ends: start another at once */
	bool		standby;		/* by the worker: the states are those of a hot standby */
} EcDatabase;

/* What is counted for each attachment; the order is that of echocache_stats. */
typedef enum EcCounter
{
	EC_HITS,
	EC_LOCAL_HITS,				/* in shared memory, which are no hits of memcached */
	EC_MISSES,
	EC_BYPASS_DISABLED,
	EC_BYPASS_SERVER,			/* the key's server is not UP */
	EC_BYPASS_ISOLATION,		/* REPEATABLE READ or above, or a parallel worker */
	EC_BYPASS_OWN_CHANGE,		/* the transaction itself has changed the row */
	EC_BYPASS_ROW_SECURITY,
	EC_BYPASS_KEY,				/* no cache key: too long */
	EC_BYPASS_OWNER,			/* the owner could not be told from the cached bytes */
	EC_FILLS,
	EC_FILLS_REFUSED,			/* lock busy, not flushed, written before, token lost */
	EC_WRITE_THROUGHS,
	EC_INVALIDATIONS,				/* committed changes that left no document behind */
	EC_MARKERS,
	EC_ERRORS,					/* failed exchanges, and what was not a document */
	EC_TIMEOUTS,
	EC_FOREIGN_HITS,			/* cached bytes that belong to another key */
	EC_BUILDS,					/* documents that the builder has stored */
	EC_BUILD_ERRORS,			/* and that it could not make */
	EC_BUILDS_DROPPED,			/* for want of room, or since others were at the key */
	EC_LOCAL_EVICTIONS,			/* documents that made room in shared memory for others */
	EC_AUDITED,					/* documents that the auditor has compared */
	EC_AUDIT_STALE,				/* and that were not what the database has */
	EC_AUDIT_FOREIGN,			/* and that echocache cannot have made */
	EC_NCOUNTERS
} EcCounter;

/* What is timed for each attachment. */
typedef enum EcLatencyKind
{
	EC_LATENCY_HIT,				/* a read, all of which the cache had, and some only memcached */
	EC_LATENCY_LOCAL_HIT,		/* a read, all of which shared memory had; not each one is timed */
	EC_LATENCY_FILL,			/* a read for which the table was asked after the cache */
	EC_LATENCY_MARKER,			/* what a commit waited until its documents were invalidated */
	EC_LATENCY_STORE,			/* what it took to send documents after the commit, unanswered */
	EC_NLATENCIES
} EcLatencyKind;

/* From 128 ns to 275 s, and beyond: see latency.c. */
#define EC_LATENCY_BUCKETS	126

/* How often something took how long.  Atomics, by any backend. */
typedef struct EcHistogram
{
	pg_atomic_uint64 bucket[EC_LATENCY_BUCKETS];
	pg_atomic_uint64 sum_ns;
	pg_atomic_uint64 max_ns;
} EcHistogram;

/* Counters of one attachment, and what G4 needs to know of it. */
typedef struct EcSlot
{
	/* with the lock held exclusively */
	Oid			dboid;			/* InvalidOid: free */
	Oid			relid;
	char		name[EC_NAME_MAX + 1];
	/* atomics, by any backend */
	pg_atomic_uint64 async_lsn; /* newest commit that may not be flushed yet */
	pg_atomic_uint64 epoch;		/* of its documents in shared memory; no other slot ever has it */
	pg_atomic_uint64 counter[EC_NCOUNTERS];
	EcHistogram latency[EC_NLATENCIES];
	pg_atomic_uint64 build_logged;	/* when an error of the builder was; a TimestampTz */
	pg_atomic_uint64 audit_logged;	/* by the auditor: see its may_log() */
	pg_atomic_uint64 render_logged; /* when one of a commit's rendering was */
	/*
	 * The echocache_warm() under way: warm_pid is set by compare-and-swap from 0;
	 * the rest is written by that backend, and 0 before it lets go of warm_pid.
	 */
	pg_atomic_uint32 warm_pid;	/* 0: none */
	pg_atomic_uint64 warm_started;	/* a TimestampTz */
	pg_atomic_uint64 warm_total;	/* rows of the table, estimated; 0: not known */
	pg_atomic_uint64 warm_done; /* rows looked at */
	pg_atomic_uint64 warm_stored;	/* documents stored */
} EcSlot;

/* A document that a commit has changed, and that is to be made after it. */
typedef struct EcBuildKey
{
	Oid			relid;			/* of the attached table */
	int			idlen;
	char		id[EC_KEY_MAX];	/* no id is longer that is cached */
} EcBuildKey;

/* The documents of a database that its builder is to make, the oldest first. */
typedef struct EcRing
{
	Oid			dboid;			/* whose keys these are; perhaps one that has left the slot */
	int			first;
	int			n;
	bool		making;			/* the builder is at the first one */
	EcBuildKey	key[EC_RING_KEYS];
} EcRing;

/* Which cluster this is, beside its system identifier.  By the postmaster, at its start. */
typedef struct EcIdentity
{
	char		life[EC_LEASE_RANDOM + 1];	/* a random number for each start */
	char		boot_id[EC_LEASE_ID_MAX + 1];	/* of the kernel that runs; empty: not known */
	uint64		device;			/* of the data directory */
	uint64		inode;
	bool		was_standby;	/* it was started as a standby, and not to recover an archive */
} EcIdentity;

/* The generation that there is from the start, by the postmaster. */
#define EC_FIRST_GENERATION	1

/* As long as this process carries out its command, the database gets no worker. */
typedef struct EcBan
{
	Oid			dboid;
	int			pid;
	TimestampTz until;
} EcBan;

typedef struct EcShared
{
	LWLock	   *lock;			/* topology, slots, errors; held for memory copies only */
	EcIdentity	identity;
	int64		started_at;		/* by ec_state_clock(), by the postmaster */
	bool		promoted;		/* by the launcher: it was started as a standby */

	/* by the launcher, under the lock; read without it, then verified */
	pg_atomic_uint64 generation;
	pg_atomic_uint64 list_generation;	/* the first one with this list, and these states */
	bool		enabled;
	int			nservers;
	EcServer	server[EC_MAX_SERVERS];

	/* atomics, by any backend: when it was logged that there is no launcher, or no slot */
	pg_atomic_uint64 no_launcher_logged;
	pg_atomic_uint64 no_slot_logged;
	pg_atomic_uint64 no_database_logged;

	EcDatabase	database[EC_MAX_DATABASES];
	EcDatabase	unclaimed;		/* its states are those of databases without a slot */
	EcSlot		slot[EC_MAX_ATTACHMENTS];
	pg_atomic_uint64 epochs;	/* of all slots, how many there have been */

	LWLock	   *ring_lock;		/* of all rings; held for memory copies only */
	EcRing		ring[EC_MAX_DATABASES];	/* of the databases in the slots of that number */

	/*
	 * With the lock held exclusively.  launcher_pid is the launcher's.  republish says that
	 * somebody wants a new generation: set by a worker that brings another prefix or wants
	 * another address, by a backend whose attachment wants the prefix, and by whoever frees a
	 * database's slot; reset by the launcher, when publishing.  rescans grows when a database
	 * may have got the extension: by the backend that has created or dropped it, and by whoever
	 * frees a database's slot.  Bans are made and lifted by the backend whose command needs the
	 * database, and cleared by the launcher.  stats_reset is by echocache_stats_reset(), in any
	 * database.
	 */
	int			launcher_pid;	/* 0: there is none */
	bool		republish;
	uint64		rescans;
	EcBan		bans[EC_MAX_BANS];
	TimestampTz stats_reset;

	/* each process writes its own: the generation it is in, 0 for none */
	int			nprocs;
	pg_atomic_uint64 entered[FLEXIBLE_ARRAY_MEMBER];
} EcShared;

extern EcShared *ec_shmem;		/* NULL: not in shared_preload_libraries */

extern void ec_shmem_init(void);
extern void ec_shmem_require(void);
extern void ec_shmem_wake(int pid);
extern bool ec_shmem_may_log(pg_atomic_uint64 *last);

/*
 * Is what a process of this generation calls a server still the same one, with a state that has
 * not begun anew?  There may be a newer generation all the same, for another prefix.  (The states
 * of the database that has it have begun anew.)
 */
static inline bool
ec_shmem_is_listed(uint64 generation)
{
	return pg_atomic_read_u64(&ec_shmem->list_generation) <= generation;
}

/* Is this the generation of the topology that is in force? */
static inline bool
ec_shmem_is_current(uint64 generation)
{
	return pg_atomic_read_u64(&ec_shmem->generation) == generation;
}

#endif							/* ECHOCACHE_SHMEM_H */
