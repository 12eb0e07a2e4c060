/*-------------------------------------------------------------------------
 *
 * topology.c
 *	  Which servers there are, and who goes by which list of them.
 *
 * The topology is published as a generation, and used by processes that have entered it; the
 * rules are in shmem.h.  The postmaster publishes the first generation, the launcher all
 * others.  Neither of them asks a resolver, for which commands and shutdowns would have to wait:
 * names are looked up by children of the launcher (worker/resolver.c).
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "servers/address.h"
#include "servers/list.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"

static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/*
 * The entries of this process into the topology, newest last: the nesting level of the
 * (sub)transaction that owns each, or 0 for one outside of any transaction.  There are several
 * when a read runs within a read.  The end of a (sub)transaction releases what an error in it
 * has left entered, and nothing else.
 */
static int *entries = NULL;
static int	nentries = 0;
static int	max_entries = 0;

static void shmem_startup(void);
static void choose_owners(void);
static void choose_addresses(EcServer *servers, int n);
static bool is_same_list(const EcServer *servers, int n);
static void note_kept(EcDatabase *db, const EcServer *servers, int n, bool *keep);
static void begin_anew(EcDatabase *db, const EcServer *servers, int n, bool may_keep);
static void take_next_prefix(EcDatabase *db, bool held);
static void publish(const EcServer *known, int nknown, bool all);
static bool is_better_owner(const EcDatabase *a, const EcDatabase *b);

/* ---------------------------------------------------------------- publishing */

/*
 * The first generation, by the postmaster as it makes the shared memory: a commit
 * may come before the launcher has begun, and must invalidate what an earlier life left
 * in the cache.
 */
static void
shmem_startup(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	if (pg_atomic_read_u64(&ec_shmem->generation) != 0)
		return;
	ec_shmem->nservers = ec_list_make(ec_shmem->server, NULL, 0);
	ec_shmem->enabled = ec_guc_enabled && !IsBinaryUpgrade;	/* pg_upgrade changes no row */
	ec_shmem->started_at = ec_state_clock();
	pg_atomic_write_u64(&ec_shmem->generation, EC_FIRST_GENERATION);
}

/* Once, from _PG_init, after ec_shmem_init(). */
void
ec_topology_init(void)
{
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

/* Has the database any attachments, as far as shared memory knows?  ec_shmem->lock is held. */
bool
ec_topology_has_attachments(const EcDatabase *db)
{
	for (int i = 0; i < EC_MAX_ATTACHMENTS; i++)
		if (OidIsValid(db->dboid) && ec_shmem->slot[i].dboid == db->dboid)
			return true;
	return false;
}

/*
 * Which other database of this cluster has the keys of this one's prefix?  ec_shmem->lock is
 * held.
 */
EcDatabase *
ec_topology_prefix_owner(const EcDatabase *db)
{
	for (int d = 0; d < EC_MAX_DATABASES; d++)
	{
		EcDatabase *other = &ec_shmem->database[d];

		if (other != db && OidIsValid(other->dboid) && other->owns_prefix &&
			strcmp(other->prefix, db->prefix) == 0)
			return other;
	}
	return NULL;
}

/*
 * Of two databases with one prefix, should a have the keys?  The one that has attachments;
 * else the one that has had them; else the older one.
 */
static bool
is_better_owner(const EcDatabase *a, const EcDatabase *b)
{
	bool		a_has = ec_topology_has_attachments(a);
	bool		b_has = ec_topology_has_attachments(b);

	if (a_has != b_has)
		return a_has;
	if (a->owns_prefix != b->owns_prefix)
		return a->owns_prefix;
	return a->dboid < b->dboid;
}

/*
 * Which database has which prefix in the generation that is about to be published, one for
 * each prefix.  owns_prefix is of the generation before, and false for a prefix that is new to
 * the database.  ec_shmem->lock is held exclusively.
 */
static void
choose_owners(void)
{
	bool		owns[EC_MAX_DATABASES];

	for (int d = 0; d < EC_MAX_DATABASES; d++)
	{
		EcDatabase *db = &ec_shmem->database[d];

		owns[d] = OidIsValid(db->dboid);
		for (int o = 0; o < EC_MAX_DATABASES && owns[d]; o++)
		{
			EcDatabase *other = &ec_shmem->database[o];

			if (o != d && OidIsValid(other->dboid) && strcmp(other->prefix, db->prefix) == 0)
				owns[d] = is_better_owner(db, other);
		}
	}
	for (int d = 0; d < EC_MAX_DATABASES; d++)
		ec_shmem->database[d].owns_prefix = owns[d];
}

/*
 * Which address of each server is used in the generation that is about to be published: the one
 * that a worker wants; else that of the generation before; where it has neither, the first one.
 * ec_shmem->lock is held.
 */
static void
choose_addresses(EcServer *servers, int n)
{
	for (int i = 0; i < n; i++)
	{
		EcServer   *s = &servers[i];
		const EcServer *before = ec_list_find(ec_shmem->server, ec_shmem->nservers, s->name);
		int			at = -1;

		if (before && before->wanted.len > 0)
			at = ec_address_find(s, &before->wanted);
		if (before && at < 0 && before->naddresses > 0)
			at = ec_address_find(s, &before->address[before->chosen]);
		s->chosen = Max(at, 0);
	}
}

/*
 * Are these the servers of the present generation, at the addresses that are used, and is the
 * cache on or off as it was?
 */
static bool
is_same_list(const EcServer *servers, int n)
{
	bool		same = n == ec_shmem->nservers && ec_shmem->enabled == ec_guc_enabled;

	for (int i = 0; i < n && same; i++)
	{
		const EcServer *s = &ec_shmem->server[i];

		same = ec_list_is_same(&servers[i], s) && servers[i].weight == s->weight &&
			ec_address_is_same(&servers[i], s);
	}
	return same;
}

/*
 * Which of these servers has in the present generation, at the same address, what is right for
 * this database, and nothing but what is placed there?  One that is UP and, other than on a
 * standby, need not be purged.  ec_shmem->lock is held exclusively.
 */
static void
note_kept(EcDatabase *db, const EcServer *servers, int n, bool *keep)
{
	for (int i = 0; i < n; i++)
	{
		const EcServer *before = ec_list_find(ec_shmem->server, ec_shmem->nservers,
											  servers[i].name);
		uint64		word;

		if (before == NULL || before->naddresses == 0 ||
			!ec_address_is_same(&servers[i], before))
			continue;
		word = ec_state_word(db, before - ec_shmem->server);
		keep[i] = EC_STATE(word) == EC_UP && !EC_MUST_PURGE(word);
	}
}

/*
 * The servers of the database begin anew: each is purged before anybody reads from it.  With
 * may_keep a server that goes on keeps the documents that are placed on it by the new list, too:
 * as long as the server was UP every change of them has left its marker there.  ec_shmem->lock is
 * held exclusively.
 */
static void
begin_anew(EcDatabase *db, const EcServer *servers, int n, bool may_keep)
{
	bool		keep[EC_MAX_SERVERS] = {false};

	if (may_keep)
		note_kept(db, servers, n, keep);
	ec_state_reset(db);
	for (int i = 0; i < n; i++)
		if (keep[i])
			ec_state_let_keep(db, i);
}

/*
 * The database has another prefix from now on.  held: the keys of the old one were its own,
 * and are to be purged; else they are somebody else's.  ec_shmem->lock is held exclusively.
 */
static void
take_next_prefix(EcDatabase *db, bool held)
{
	db->has_next_prefix = db->owns_prefix = false;
	if (held)
	{
		strlcpy(db->old_prefix, db->prefix, sizeof(db->old_prefix));
		db->old_prefix_generation = pg_atomic_read_u64(&ec_shmem->generation);
		db->has_old_prefix = true;
	}
	strlcpy(db->prefix, db->next_prefix, sizeof(db->prefix));
}

/*
 * Publish what the settings say as a new generation, and say which database has which prefix.
 * Where keys may have moved no server begins as UP: what was left in their old places is purged
 * before anybody reads.  Names have the addresses of the known servers, and each server is used
 * where choose_addresses() says.  Throws out of memory.
 *
 * The new generation is none for a database whose keys stay where they are: with the same
 * servers, prefix and owner a process of the one before places keys as one of this one does.
 * Its servers keep their states, and a process of the one before still makes them DOWN
 * (list_generation; the model: topology.pml, SAME).  So nobody purges what has not changed.
 *
 * Where only the list is another one, a server that was in the list before, and UP, keeps what
 * is placed on it still (may_keep; the model: topology.pml, KEEP).  With all every database
 * begins anew, and nothing is kept: what the servers have may be of another timeline.
 */
static void
publish(const EcServer *known, int nknown, bool all)
{
	EcServer   *servers = palloc(sizeof(EcServer) * EC_MAX_SERVERS);
	int			n = ec_list_make(servers, known, nknown);
	bool		owned[EC_MAX_DATABASES];
	bool		may_keep = !all;

	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	may_keep &= ec_shmem->enabled && ec_guc_enabled;
	choose_addresses(servers, n);
	all |= !is_same_list(servers, n);
	for (int d = 0; d < EC_MAX_DATABASES; d++)
	{
		EcDatabase *db = &ec_shmem->database[d];
		bool		held = false;

		for (int i = 0; i < EC_MAX_SERVERS; i++)
			held |= db->lease_held[i];
		db->standby &= RecoveryInProgress();
		if (db->has_next_prefix)
			take_next_prefix(db, held);
		owned[d] = db->owns_prefix;
	}
	choose_owners();
	/* one that has another prefix has just owned none */
	for (int d = 0; d < EC_MAX_DATABASES; d++)
	{
		EcDatabase *db = &ec_shmem->database[d];
		bool		owns = owned[d] && db->owns_prefix;

		if (all || !owns)
			begin_anew(db, servers, n, may_keep && owns && !db->has_old_prefix);
	}
	if (all)
	{
		ec_state_reset(&ec_shmem->unclaimed);
		memcpy(ec_shmem->server, servers, n * sizeof(EcServer));
		ec_shmem->nservers = n;
		ec_shmem->enabled = ec_guc_enabled;
		pg_atomic_write_u64(&ec_shmem->list_generation,
							pg_atomic_read_u64(&ec_shmem->generation) + 1);
	}
	/* connections are of a generation, and so is what workers want */
	for (int i = 0; i < n; i++)
	{
		ec_shmem->server[i].wanted.len = 0;
		pg_atomic_write_u32(&ec_shmem->server[i].connections, 0);
		pg_atomic_write_u32(&ec_shmem->server[i].kept, 0);
	}
	ec_shmem->republish = false;
	pg_atomic_fetch_add_u64(&ec_shmem->generation, 1);
	LWLockRelease(ec_shmem->lock);

	ereport(all ? LOG : DEBUG1,
			(errmsg_plural("echocache: the cache is %s, with %d server",
						   "echocache: the cache is %s, with %d servers", n,
						   ec_guc_enabled ? "on" : "off", n)));
	for (int d = 0; d < EC_MAX_DATABASES; d++)
		ec_shmem_wake(ec_shmem->database[d].worker_pid);
	pfree(servers);
}

/*
 * Publish what the settings say; names keep their addresses.  all: every database begins anew,
 * as publish() says.  By the launcher only.  Throws out of memory.
 */
void
ec_topology_publish(bool all)
{
	publish(ec_shmem->server, ec_shmem->nservers, all);
}

/*
 * The name of a server has been looked up: these are its addresses, in order.  One that gets its
 * first addresses can be used from now on, and others than before are nothing to anybody as long
 * as the one that is used is among them.  If it is not, there is another server behind the name,
 * and a new generation.  By the launcher only.  Throws out of memory.
 *
 * Nobody sees the other address before that generation.  Whoever took it up in the present one
 * would find UP and a good lease, which are those of the server at the old address, and believe
 * what an unpurged one has.
 */
void
ec_topology_take_addresses(int server, const EcAddress *address, int n)
{
	EcServer   *shared = &ec_shmem->server[server];
	EcServer   *known = palloc(sizeof(EcServer) * EC_MAX_SERVERS);
	EcServer   *s = &known[server];
	char		from[EC_ADDRESS_TEXT];
	char		to[EC_ADDRESS_TEXT];
	bool		new = shared->naddresses == 0;
	int			at = 0;

	Assert(n > 0 && n <= EC_MAX_ADDRESSES);
	memcpy(known, ec_shmem->server, ec_shmem->nservers * sizeof(EcServer));
	memcpy(s->address, address, n * sizeof(EcAddress));
	s->naddresses = n;
	if (!new)
		at = ec_address_find(s, &shared->address[shared->chosen]);
	if (at < 0)
	{
		ereport(LOG,
				(errmsg("echocache: server \"%s\" has another address: %s instead of %s", s->name,
						ec_address_text(&s->address[0], to),
						ec_address_text(&shared->address[shared->chosen], from))));
		publish(known, ec_shmem->nservers, false);
	}
	else
	{
		LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
		memcpy(shared->address, s->address, sizeof(s->address));
		shared->naddresses = n;
		shared->chosen = at;
		for (int d = 0; d < EC_MAX_DATABASES && new; d++)
			ec_shmem_wake(ec_shmem->database[d].worker_pid);
		LWLockRelease(ec_shmem->lock);
	}
	pfree(known);
}

/*
 * The name of an entry of echocache.hosts has been looked up, each address of which is a server:
 * these are all, in order.  If the list of servers is another one by that, it is a new
 * generation.  By the launcher only.  Throws out of memory.
 */
void
ec_topology_take_found(const EcHost *h, const EcAddress *address, int naddresses)
{
	EcServer   *known = palloc(sizeof(EcServer) * 2 * EC_MAX_SERVERS);
	EcServer   *servers = palloc(sizeof(EcServer) * EC_MAX_SERVERS);
	char		name[EC_SERVER_NAME_MAX];
	int			nknown = 0;
	int			used = 0;
	int			n;
	bool		same;

	Assert(naddresses > 0 && naddresses <= EC_MAX_SERVERS);
	for (int i = 0; i < ec_shmem->nservers; i++)
		if (!ec_list_is_found(&ec_shmem->server[i], h))
			known[nknown++] = ec_shmem->server[i];
	for (int i = 0; i < naddresses; i++)
		ec_list_set_found(&known[nknown++], h, &address[i]);
	n = ec_list_make(servers, known, nknown);
	same = n == ec_shmem->nservers;
	for (int i = 0; i < n; i++)
	{
		same = same && ec_list_is_same(&servers[i], &ec_shmem->server[i]);
		used += ec_list_is_found(&servers[i], h);
	}
	if (!same)
	{
		ec_list_name(name, h);
		ereport(LOG,
				(errmsg("echocache: \"%s\" has other addresses: %d, of which %d are servers of it",
						name, naddresses, used),
				 used == naddresses ? 0 :
				 errdetail("An address is a server once, and there can be at most %d servers.",
						   EC_MAX_SERVERS)));
		publish(known, nknown, false);
	}
	pfree(servers);
	pfree(known);
}

/* ---------------------------------------------------------------- entering */

/*
 * Enter the current topology: from here to ec_topology_leave() it stays the one that counts
 * for this process, since nobody trusts a later one before all have left it.  Returns its
 * generation.  Throws out of memory only, with nothing entered, and never where a process that
 * has entered before comes from outside.
 */
uint64
ec_topology_enter(void)
{
	pg_atomic_uint64 *mine = &ec_shmem->entered[ec_compat_proc_slot()];
	uint64		generation;

	if (nentries == max_entries)
	{
		int			more = Max(8, 2 * max_entries);

		if (entries == NULL)
			entries = MemoryContextAlloc(TopMemoryContext, more * sizeof(int));
		else
			entries = repalloc(entries, more * sizeof(int));
		max_entries = more;
	}
	if (nentries > 0)
		generation = pg_atomic_read_u64(mine);
	else
		for (;;)
		{
			generation = pg_atomic_read_u64(&ec_shmem->generation);
			pg_atomic_write_u64(mine, generation);
			pg_memory_barrier();	/* the entry is seen before the check is made */
			if (pg_atomic_read_u64(&ec_shmem->generation) == generation)
				break;
		}
	entries[nentries++] = GetCurrentTransactionNestLevel();
	return generation;
}

/* Leave the topology, once for each time that it was entered.  Never throws. */
void
ec_topology_leave(void)
{
	Assert(ec_topology_is_entered());
	if (--nentries > 0)
		return;
	pg_memory_barrier();
	pg_atomic_write_u64(&ec_shmem->entered[ec_compat_proc_slot()], 0);
}

/* Is this process in the topology?  Whoever places a key or sends a request must be. */
bool
ec_topology_is_entered(void)
{
	return nentries > 0;
}

/*
 * A commit has entered the first generation: the launcher has not taken over from the
 * postmaster yet.  The commit sends its markers as any other does, but no server becomes UP, and
 * the launcher's first generation has every server purged.  A launcher that does not come (for
 * want of max_worker_processes) is logged once a minute.
 */
void
ec_topology_without_launcher(void)
{
	if (!ec_shmem_may_log(&ec_shmem->no_launcher_logged))
		return;
	ereport(LOG,
			(errmsg("echocache: the launcher has not started"),
			 errdetail("No document is read from the cache.  Commits go on as with a launcher, but "
					   "servers that are given by name are not found."),
			 errhint("Perhaps max_worker_processes is too small."),
			 errhidestmt(true), errhidecontext(true)));
}

/*
 * The (sub)transaction at this level ends, and all below it: leave what was entered in
 * them and not left, as happens when an error is thrown in between.  Never throws.
 */
void
ec_topology_at_end(int level)
{
	while (nentries > 0 && entries[nentries - 1] >= level)
		ec_topology_leave();
}

/*
 * Has everybody left the generations before this one?  If not, *pid and *dboid are those of a
 * process that has not.
 */
bool
ec_topology_all_left(uint64 before, int *pid, Oid *dboid)
{
	pg_memory_barrier();
	for (int i = 0; i < ec_shmem->nprocs; i++)
	{
		uint64		in = pg_atomic_read_u64(&ec_shmem->entered[i]);

		if (in == 0 || in >= before)
			continue;
		*pid = GetPGProcByNumber(i)->pid;
		*dboid = GetPGProcByNumber(i)->databaseId;
		return false;
	}
	return true;
}
