/*-------------------------------------------------------------------------
 *
 * lease.c
 *	  Whose the keys of a prefix are: the lease on each server.
 *
 * Two clusters may be told to use the same keys of one memcached.  Only one of them may serve
 * them.  Who it is, is said by one more key of that memcached's, <prefix>_echocache.  Its item
 * is a lease, or a claim of somebody who would like to have the lease (protocol/leaseline.c).
 *
 * What is there may vanish at any time, so its absence says nothing.  What counts is time.  An
 * owner trusts its lease for echocache.lease, less a tenth, from before the request that
 * renewed it.  A candidate waits until it has seen one item unchanged for echocache.lease,
 * from after the answer that showed it, and then changes it by its token.  A renewal changes
 * the token; so the owner's last renewal was before the candidate's first look, and is over.
 *
 * Only the database's worker calls what is here.  It publishes its lease in lease_until of
 * shared memory, for backends to look at (ec_state_is_owned() and ec_state_is_still()).
 * src/README.md has the argument, test/model/lease.pml the model.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>
#include <unistd.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "protocol/leaseline.h"
#include "protocol/wire.h"
#include "servers/exchange.h"
#include "servers/lease.h"
#include "servers/list.h"
#include "servers/placement.h"
#include "servers/round.h"
#include "servers/state.h"

/* So long an item is kept that nobody renews.  Nothing depends on it. */
#define KEEP_S	(7 * 24 * 3600)

#define WAITING_REASON \
	"waiting until no other cluster can be using the keys"
#define REFUSED_REASON \
	"the server does not store the key by which clusters know whose the other keys are"

/* What the worker knows of the lease's key on a server.  Times are those of ec_state_clock(). */
typedef struct Lease
{
	/* which key */
	char		server[EC_SERVER_NAME_MAX];
	char		prefix[EC_PREFIX_MAX + 1];
	/* the item that we wait for to stay as it is */
	bool		seen;
	uint64		token;
	size_t		len;
	char		value[EC_LEASE_LINE_MAX];
	int64		since;			/* after the answer that showed it first */
	int64		wait_us;
	/* with or without such a wait */
	int64		looked_at;		/* before the last request */
	char		told[EC_ERROR_MAX]; /* why the keys are not ours, as it was logged last */
} Lease;

/* What is there now. */
typedef struct Item
{
	EcResult	result;			/* EC_DONE: there is one, EC_ABSENT: none */
	uint64		token;
	size_t		len;
	const char *value;
	EcLeaseLine line;
	int64		answered_at;
} Item;

/* This worker's, for each server of the topology. */
static Lease leases[EC_MAX_SERVERS];

/* The database's name, which does not change while it has a worker; empty: not known yet. */
static char database_name[NAMEDATALEN];

static void learn_name(void);
static Lease *find_lease(EcDatabase *db, int server);
static int	lease_key(EcDatabase *db, char *key);
static int	patience(EcDatabase *db, int server);
static void look(EcDatabase *db, int server, Lease *lease, Item *item);
static void make_line(EcDatabase *db, int server, EcLeaseKind kind, char *value, size_t *len);
static EcResult put(EcDatabase *db, int server, EcLeaseKind kind, Item *item);
static bool is_ours(EcDatabase *db, int server, const EcLeaseLine *line);
static bool is_probably_ours(const EcLeaseLine *line);
static bool is_of_our_system(const EcLeaseLine *line);
static bool is_good(EcDatabase *db, int server);
static bool has_waited(const Lease *lease, const Item *item);
static void begin_to_wait(Lease *lease, const Item *item);
static EcLeaseResult keep_off(EcDatabase *db, int server, const char *why, EcState to);
static EcLeaseResult lose(EcDatabase *db, int server, const Item *item);
static EcLeaseResult hold(EcDatabase *db, int server, int64 from, int ms);
static EcLeaseResult take(EcDatabase *db, int server, Item *item);

/*
 * Before the first look.  Not between a look and what follows: the end of a transaction closes
 * a connection that is beyond pool_size.
 */
static void
learn_name(void)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *name;

	if (database_name[0] != '\0')
		return;
	StartTransactionCommand();
	name = get_database_name(MyDatabaseId);
	strlcpy(database_name, name ? name : "?", sizeof(database_name));
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

/* What is known of this server and prefix: nothing, if it is another one than before. */
static Lease *
find_lease(EcDatabase *db, int server)
{
	Lease	   *lease = &leases[server];

	if (strcmp(lease->server, ec_placement_name(server)) != 0 ||
		strcmp(lease->prefix, db->prefix) != 0)
	{
		memset(lease, 0, sizeof(Lease));
		strlcpy(lease->server, ec_placement_name(server), sizeof(lease->server));
		strlcpy(lease->prefix, db->prefix, sizeof(lease->prefix));
	}
	return lease;
}

static int
lease_key(EcDatabase *db, char *key)
{
	return snprintf(key, EC_KEY_MAX, "%s%s", db->prefix, EC_LEASE_KEY_END);
}

/*
 * How many ms to wait for an answer.  A server that others use is not to be DOWN for them because
 * it was slow just once in a renewal, which nobody waits for; but one that is DOWN must not hold
 * up the leases on others.
 */
static int
patience(EcDatabase *db, int server)
{
	return EC_STATE(ec_state_word(db, server)) == EC_DOWN ? ec_guc_timeout
		: Max(ec_guc_timeout, ec_guc_lease / 20);
}

/* Ask the server for the lease's key.  The item's value is in the current memory context. */
static void
look(EcDatabase *db, int server, Lease *lease, Item *item)
{
	char		key[EC_KEY_MAX];
	EcRequest	req;

	ec_request_init(&req, EC_REQUEST_GET, server, key, lease_key(db, key));
	lease->looked_at = ec_state_clock();
	(void) ec_exchange(&req, 1, ec_deadline_in(patience(db, server)), EC_COUNTED);
	*item = (Item) {.answered_at = ec_state_clock(), .result = req.result};
	if (req.result != EC_DONE)
		return;
	item->token = req.token;
	item->value = (char *) req.found + VARHDRSZ;
	item->len = req.found_len;
	(void) ec_leaseline_parse(item->value, item->len, &item->line);
}

/* A value of this kind for the key, other than any before. */
static void
make_line(EcDatabase *db, int server, EcLeaseKind kind, char *value, size_t *len)
{
	const EcIdentity *identity = &ec_shmem->identity;
	EcLeaseLine line = {.kind = kind};
	uint64		word = ec_state_word(db, server);
	uint8		random[EC_LEASE_RANDOM / 2];

	if (!pg_strong_random(random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random number")));
	(void) hex_encode((char *) random, sizeof(random), line.nonce);
	line.system_identifier = GetSystemIdentifier();
	strlcpy(line.boot_id, identity->boot_id, sizeof(line.boot_id));
	line.device = identity->device;
	line.inode = identity->inode;
	strlcpy(line.life, identity->life, sizeof(line.life));
	line.database = MyDatabaseId;
	line.lease_ms = ec_guc_lease;
	line.ready = EC_STATE(word) == EC_UP;
	line.written_at = (int64) time(NULL);
	if (gethostname(line.host, EC_LEASE_HOST_MAX) != 0)
		line.host[0] = '\0';
	strlcpy(line.data_directory, DataDir, sizeof(line.data_directory));
	strlcpy(line.database_name, database_name, sizeof(line.database_name));
	*len = ec_leaseline_format(value, &line);
}

/*
 * Store our line over the item that was seen, by its token, or, if there was none, if there is
 * none still.  EC_DONE: the item is the new one.  EC_MISMATCH: there is another item by now.
 *
 * That goes over the connection of the look, and is never asked anew on another one: a memcached
 * that has begun anew numbers its tokens from 1 again.
 */
static EcResult
put(EcDatabase *db, int server, EcLeaseKind kind, Item *item)
{
	char		key[EC_KEY_MAX];
	char	   *value = palloc(EC_LEASE_LINE_MAX);
	EcRequest	req;
	bool		add = item->result == EC_ABSENT;

	ec_request_init(&req, add ? EC_REQUEST_SET : EC_REQUEST_STORE, server, key, lease_key(db, key));
	make_line(db, server, kind, value, &req.valuelen);
	req.value = value;
	req.mode = add ? 'E' : 0;
	req.ttl = KEEP_S;
	req.token = item->token;
	(void) ec_exchange(&req, 1, ec_deadline_in(patience(db, server)), EC_NO_RETRY | EC_COUNTED);
	if (req.result == EC_ABSENT || (req.result == EC_DONE && req.token == 0))
		return EC_MISMATCH;		/* without a token it is gone again */
	if (req.result == EC_DONE && add)
	{
		item->result = EC_DONE;
		item->token = req.token;
		item->value = value;
		item->len = req.valuelen;
		item->answered_at = ec_state_clock();
		(void) ec_leaseline_parse(value, req.valuelen, &item->line);
	}
	return req.result;
}

/*
 * Is it this cluster, by its directory on the running kernel?  Whichever database it is, since
 * the launcher says which of them has the prefix.  An earlier life of the cluster's has ended;
 * but if ours has held the lease, another life is a twin's, in a container perhaps.
 */
static bool
is_ours(EcDatabase *db, int server, const EcLeaseLine *line)
{
	const EcIdentity *identity = &ec_shmem->identity;

	return is_of_our_system(line) && identity->boot_id[0] != '\0' &&
		strcmp(line->boot_id, identity->boot_id) == 0 &&
		line->device == identity->device && line->inode == identity->inode &&
		(strcmp(line->life, identity->life) == 0 || !db->lease_once[server]);
}

/* Is it this cluster, before the machine was booted?  Not good enough to have the keys at once. */
static bool
is_probably_ours(const EcLeaseLine *line)
{
	const EcIdentity *identity = &ec_shmem->identity;
	char		host[EC_LEASE_HOST_MAX + 1] = "";

	return is_of_our_system(line) && line->inode == identity->inode &&
		gethostname(host, EC_LEASE_HOST_MAX) == 0 && strcmp(line->host, host) == 0 &&
		strncmp(line->data_directory, DataDir, EC_LEASE_PATH_MAX) == 0;
}

static bool
is_of_our_system(const EcLeaseLine *line)
{
	return line->kind != EC_LEASE_UNKNOWN && line->system_identifier == GetSystemIdentifier();
}

/* Can nobody else have the keys now, since our lease is good? */
static bool
is_good(EcDatabase *db, int server)
{
	return (uint64) ec_state_clock() < pg_atomic_read_u64(&db->lease_until[server]);
}

/* Has the item been there, unchanged, for as long as its owner may believe in it? */
static bool
has_waited(const Lease *lease, const Item *item)
{
	return lease->seen && item->result == EC_DONE && lease->token == item->token &&
		lease->len == item->len && memcmp(lease->value, item->value, item->len) == 0 &&
		item->answered_at - lease->since >= lease->wait_us;
}

/* From now on the item has to stay as it is; unless it has done so already. */
static void
begin_to_wait(Lease *lease, const Item *item)
{
	int			ms = Max(ec_guc_lease, item->line.lease_ms);

	/* whoever has given way does not compete with the one that was promoted */
	if (item->line.kind == EC_LEASE_PROMOTED &&
		strcmp(item->line.life, ec_shmem->identity.life) != 0)
		ms *= 2;
	if (item->len > EC_LEASE_LINE_MAX)
	{
		lease->seen = false;	/* nothing of ours, and too long to be compared */
		return;
	}
	if (lease->seen && lease->token == item->token && lease->len == item->len &&
		memcmp(lease->value, item->value, item->len) == 0)
		return;
	lease->seen = true;
	lease->token = item->token;
	lease->len = item->len;
	memcpy(lease->value, item->value, item->len);
	lease->since = item->answered_at;
	lease->wait_us = (int64) ms * 1000;
}

/*
 * The keys are not ours, for this reason: nobody reads from the server, and before anybody does
 * it is purged.  The server, which has answered, becomes what to says: RECOVERING, for markers
 * to be sent, or UNOWNED; the latter it remains until the keys are ours.
 *
 * Another backend may have made it DOWN meanwhile.  That may be overwritten here, since all of
 * the recovery is still to come.  Where a lease was held the word becomes another one in any
 * case: a recovery that is under way has the old one, and must not end with UP.
 */
static EcLeaseResult
keep_off(EcDatabase *db, int server, const char *why, EcState to)
{
	Lease	   *lease = find_lease(db, server);
	bool		held = db->lease_held[server];

	for (;;)
	{
		uint64		word;
		EcState		target;

		LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
		if (!ec_shmem_is_current(ec_placement_generation()))
		{
			LWLockRelease(ec_shmem->lock);
			return EC_LEASE_FAILED;
		}
		pg_atomic_write_u64(&db->lease_until[server], 0);
		pg_atomic_write_u64(&db->may_keep[server], 0);
		db->lease_held[server] = false;
		db->lease_looked[server] = true;
		strlcpy(db->lease_error, why, sizeof(db->lease_error));
		db->lease_error_at = GetCurrentTimestamp();
		word = ec_state_word(db, server);
		target = EC_STATE(word) == EC_UNOWNED ? EC_UNOWNED : to;
		if ((!held && EC_STATE(word) == target && EC_MUST_PURGE(word)) ||
			ec_state_swap(db, server, &word, target, true))
			break;
		LWLockRelease(ec_shmem->lock);
	}
	LWLockRelease(ec_shmem->lock);
	if (strcmp(lease->told, why) != 0 && to == EC_UNOWNED)
		ereport(LOG,
				(errmsg("echocache: the keys that begin with \"%s\" on server \"%s\" are not "
						"used by database %u", db->prefix, ec_placement_name(server), MyDatabaseId),
				 errdetail_internal("%s", why),
				 errhint("Give every cluster and every database that share a memcached an "
						 "echocache.key_prefix of its own.")));
	if (to == EC_UNOWNED)
		strlcpy(lease->told, why, sizeof(lease->told));
	return EC_LEASE_NOT_OURS;
}

/* The keys may be somebody else's: say whose, as far as the item tells. */
static EcLeaseResult
lose(EcDatabase *db, int server, const Item *item)
{
	const EcLeaseLine *line = &item->line;
	char		why[EC_ERROR_MAX];

	if (item->result != EC_DONE || is_ours(db, server, line) || is_probably_ours(line))
		return keep_off(db, server, WAITING_REASON, EC_RECOVERING);
	if (line->kind == EC_LEASE_UNKNOWN)
		strlcpy(why, "the key \"..." EC_LEASE_KEY_END "\" holds what is not a lease", sizeof(why));
	else
		snprintf(why, sizeof(why), "%s: database \"%s\" of the cluster in \"%s\" on host \"%s\"",
				 line->kind == EC_LEASE_LEASE ? "another cluster uses the keys"
				 : "another cluster is about to use the keys",
				 line->database_name, line->data_directory, line->host);
	return keep_off(db, server, why, EC_UNOWNED);
}

/*
 * A lease of so many ms is there, and was not before that time: trust it, less a tenth, from
 * then on.
 */
static EcLeaseResult
hold(EcDatabase *db, int server, int64 from, int ms)
{
	Lease	   *lease = find_lease(db, server);
	bool		current;

	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	current = ec_shmem_is_current(ec_placement_generation());
	if (current)
	{
		pg_atomic_write_u64(&db->lease_until[server], (uint64) from + (uint64) ms * 900);
		db->lease_held[server] = db->lease_looked[server] = true;
		db->lease_once[server] |= !db->standby;	/* else it is the primary's */
	}
	LWLockRelease(ec_shmem->lock);
	lease->seen = false;
	lease->told[0] = '\0';
	return current ? EC_LEASE_OURS : EC_LEASE_FAILED;
}

/* Make the item that was seen our lease. */
static EcLeaseResult
take(EcDatabase *db, int server, Item *item)
{
	int64		from = ec_state_clock();

	switch (put(db, server, EC_LEASE_LEASE, item))
	{
		case EC_DONE:
			return hold(db, server, from, ec_guc_lease);
		case EC_FAILED:
			return EC_LEASE_FAILED;
		case EC_REFUSED:
			return is_good(db, server) ? EC_LEASE_OURS
				: keep_off(db, server, REFUSED_REASON, EC_RECOVERING);
		default:
			/* somebody was faster: the next look says who */
			ec_lease_renew_soon(server);
			return is_good(db, server) ? EC_LEASE_OURS
				: keep_off(db, server, WAITING_REASON, EC_RECOVERING);
	}
}

/*
 * Look at the lease's key on a server, and go by what is there; see the table in src/README.md.
 * EC_LEASE_OURS: lease_until says until when the keys are ours.  EC_LEASE_FAILED: the server
 * has not answered, or there is a newer topology.  EC_LEASE_NOT_OURS: nobody reads from the server
 * any more, and it must be purged.  The topology is entered, no transaction is open.
 */
EcLeaseResult
ec_lease_step(EcDatabase *db, int server)
{
	Lease	   *lease = find_lease(db, server);
	Item		item;

	learn_name();
	look(db, server, lease, &item);
	if (item.result == EC_FAILED)
		return EC_LEASE_FAILED;
	if (item.result == EC_ABSENT)
	{
		switch (put(db, server, EC_LEASE_CLAIM, &item))
		{
			case EC_DONE:
				if (is_good(db, server))
					return take(db, server, &item);
				begin_to_wait(lease, &item);
				break;
			case EC_FAILED:
				return EC_LEASE_FAILED;
			case EC_REFUSED:
				return is_good(db, server) ? EC_LEASE_OURS
					: keep_off(db, server, REFUSED_REASON, EC_RECOVERING);
			default:
				if (is_good(db, server))
					return EC_LEASE_OURS;	/* whose it is now, the next look says */
				break;
		}
		return lose(db, server, &item);
	}
	if (item.line.kind == EC_LEASE_LEASE && is_ours(db, server, &item.line))
		return take(db, server, &item); /* nobody else can have had it since */
	if ((item.line.kind == EC_LEASE_CLAIM ||
		 (item.line.kind == EC_LEASE_PROMOTED && is_ours(db, server, &item.line))) &&
		is_good(db, server))
		return take(db, server, &item);
	if (has_waited(lease, &item))
	{
		if (keep_off(db, server, WAITING_REASON, EC_RECOVERING) == EC_LEASE_FAILED)
			return EC_LEASE_FAILED;
		return take(db, server, &item);
	}
	if (ec_shmem->promoted && !db->lease_forced[server] && !db->lease_once[server] &&
		item.line.kind == EC_LEASE_LEASE && is_of_our_system(&item.line))
	{
		EcResult	result = put(db, server, EC_LEASE_PROMOTED, &item);

		/*
		 * The old primary gives way to it, if it runs; the next look begins the wait.  It may have
		 * renewed its lease just now: then again.  (Who had the keys sees a later primary's.)
		 */
		db->lease_forced[server] = result == EC_DONE;
		if (result == EC_FAILED)
			return EC_LEASE_FAILED;
		return keep_off(db, server, WAITING_REASON, EC_RECOVERING);
	}
	begin_to_wait(lease, &item);
	return lose(db, server, &item);
}

/*
 * Renew the leases that are due: three times in a lease, and soon after a failure, so that a few
 * cost nothing.  To be called often, also in the middle of a long recovery.  The topology is
 * entered, no transaction is open.
 */
void
ec_lease_renew(EcDatabase *db)
{
	for (int i = 0; i < ec_placement_size(); i++)
	{
		EcState		state = EC_STATE(ec_state_word(db, i));

		if (db->lease_held[i] && (state == EC_UP || state == EC_RECOVERING) &&
			ec_state_clock() - find_lease(db, i)->looked_at >= (int64) ec_guc_lease * 1000 / 3)
			if (ec_lease_step(db, i) == EC_LEASE_FAILED)
				find_lease(db, i)->looked_at -= (int64) ec_guc_lease * 1000 / 4;
	}
}

/* Have the next ec_lease_renew() renew this one: it has something new to say. */
void
ec_lease_renew_soon(int server)
{
	leases[server].looked_at = 0;
}

/* In how many ms the next lease is due. */
int
ec_lease_nap(EcDatabase *db)
{
	int			nap = ec_guc_lease / 3;

	for (int i = 0; i < ec_placement_size(); i++)
		if (db->lease_held[i])
		{
			int64		past_ms = (ec_state_clock() - find_lease(db, i)->looked_at) / 1000;

			nap = (int) Min((int64) nap, Max(ec_guc_lease / 3 + 1 - past_ms, 1));
		}
	return nap;
}

/*
 * On a standby, which writes nothing: may hits be believed?  A lease of this database in our
 * system that says that it is UP there is trusted when its token has changed since the look
 * before.  Then it was renewed after that look, and nobody else is UP until a lease after it.
 *
 * What is seen counts as waiting, too, should this standby be promoted.  Of several addresses the
 * primary may mark another one than would be read from here, and so it may of servers found.
 */
EcLeaseResult
ec_lease_watch(EcDatabase *db, int server)
{
	Lease	   *lease = find_lease(db, server);
	const char *unsure = ec_list_unsure(ec_placement.server, ec_placement.nservers, server);
	int64		before = lease->looked_at;
	bool		changed;
	Item		item;

	if (unsure)
		return keep_off(db, server, unsure, EC_RECOVERING);
	look(db, server, lease, &item);
	if (item.result == EC_FAILED)
	{
		lease->seen = false;	/* the look before is no longer the one that showed the item */
		return EC_LEASE_FAILED;
	}
	if (item.result != EC_DONE || item.line.kind != EC_LEASE_LEASE || !item.line.ready ||
		!is_of_our_system(&item.line) || item.line.database != MyDatabaseId)
	{
		lease->seen = false;
		if (item.result == EC_DONE)
			begin_to_wait(lease, &item);
		return keep_off(db, server, "the primary has no lease of the keys, or has not purged yet",
						EC_RECOVERING);
	}
	changed = lease->seen && lease->token != item.token;
	begin_to_wait(lease, &item);
	if (changed)
	{
		if (hold(db, server, before, item.line.lease_ms) == EC_LEASE_FAILED)
			return EC_LEASE_FAILED;
		begin_to_wait(lease, &item);	/* go on watching */
	}
	return is_good(db, server) ? EC_LEASE_OURS : EC_LEASE_NOT_OURS;
}

/* The keys are another database's of this cluster: nothing is asked, nor sent. */
void
ec_lease_refuse(EcDatabase *db, int server, const char *why)
{
	(void) keep_off(db, server, why, EC_UNOWNED);
}
