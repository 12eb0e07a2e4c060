/*-------------------------------------------------------------------------
 *
 * state.c
 *	  States of servers, for each database: UP, DOWN, RECOVERING or UNOWNED.
 *
 * A state is one word with an epoch (shmem.h).  Any process makes a server DOWN by an exchange
 * that fails (ec_round_blame()).  Anything else the database's worker makes of it, by
 * compare-and-swap on the word that it has seen.  There are three exceptions: a new generation
 * resets the words of the databases whose keys it moves, ec_topology_publish(); the states of
 * databases without a slot have no worker of their own, so any worker has a server tried again
 * there, ec_state_retry_unclaimed(); and where PostgreSQL has no place for a worker the launcher
 * sees to it that the next one purges what is DOWN, ec_state_demand_purge().
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "deadline.h"
#include "servers/state.h"
#include "shmem.h"

/* See ec_state_slow().  A word of EcServer.slow: when the last timeout was, and how many. */
#define SLOW_MAX	3
#define SLOW_WORD(at, n)	(((uint64) (at) << 2) | (n))
#define SLOW_AT(word)		((EcDeadline) ((word) >> 2))
#define SLOW_COUNT(word)	((int) ((word) & 3))

/* See ec_state_await_look(). */
#define START_MS	2000
#define LOOK_NAP_MS	5

static bool make_down(EcDatabase *db, int server);
static bool may_tell(EcServer *s, EcState state);

/*
 * This database's slot, or NULL when its worker has not claimed one yet.  Slots are claimed
 * and freed under ec_shmem->lock; the oid is checked without it, which at worst sees a slot a
 * moment too late.
 */
EcDatabase *
ec_state_database(void)
{
	static EcDatabase *cached = NULL;

	if (cached != NULL && cached->dboid == MyDatabaseId)
		return cached;
	for (int i = 0; i < EC_MAX_DATABASES; i++)
	{
		if (ec_shmem->database[i].dboid == MyDatabaseId)
		{
			cached = &ec_shmem->database[i];
			return cached;
		}
	}
	return NULL;
}

/*
 * A server's state word for this database, to be looked at.  Without a slot nobody makes it UP:
 * what an earlier life left in the cache must be invalidated, and nothing be read.
 */
uint64
ec_state_seen(int server)
{
	EcDatabase *db = ec_state_database();

	if (db == NULL)
		db = &ec_shmem->unclaimed;
	if (db->standby && !RecoveryInProgress())
		return EC_STATE_WORD(0, true, EC_RECOVERING);	/* just promoted */
	return pg_atomic_read_u64(&db->state[server]);
}

/* Is nothing to be sent to the server, so that changes go to its outbox? */
bool
ec_state_is_away(int server)
{
	EcState		state = ec_state_of(server);

	return state == EC_DOWN || state == EC_UNOWNED;
}

/*
 * A commit right after a start: wait until the worker has looked whose the keys on this server are,
 * but no longer than START_MS after the start.  So a clone's first TRUNCATE does not empty the
 * cache of its origin.  Afterwards, and where there is no worker, a commit that sends markers
 * costs an owner misses at most.  Throws for interrupts.
 */
void
ec_state_await_look(int server)
{
	for (;;)
	{
		EcDatabase *db = ec_state_database();

		if ((db != NULL && db->lease_looked[server]) || ec_state_of(server) == EC_DOWN ||
			ec_state_clock() - ec_shmem->started_at > START_MS * INT64CONST(1000))
			return;
		ec_deadline_nap(LOOK_NAP_MS, EC_WAIT_LEASE);
	}
}

/*
 * The clock of leases, in microseconds.  It is read without a system call, never set, and
 * goes on while the machine sleeps, where there is such a one.
 */
int64
ec_state_clock(void)
{
	struct timespec ts;

#ifdef CLOCK_BOOTTIME
	clock_gettime(CLOCK_BOOTTIME, &ts);
#else
	clock_gettime(CLOCK_MONOTONIC, &ts);
#endif
	return (int64) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/*
 * Are the keys on this server ours, in the generation that the caller has entered?  Asked
 * before a document is stored, when the marker's token is known.  The store itself may come as
 * late as it likes: whoever has the keys after us purges, and takes the marker away.  Never
 * throws.
 *
 * The generation is looked at last: lease_until is of a newer one only after that was published.
 */
bool
ec_state_is_owned(uint64 generation, int server)
{
	EcDatabase *db = ec_state_database();
	uint64		until;

	if (db == NULL)
		return false;
	until = pg_atomic_read_u64(&db->lease_until[server]);
	pg_read_barrier();
	return (uint64) ec_state_clock() < until && ec_shmem_is_current(generation);
}

/*
 * Asked after an answer: has the server been UP since the caller saw that word, and are the
 * keys still ours?  Then what was answered was ours.
 */
bool
ec_state_is_still(int server, uint64 word)
{
	EcDatabase *db = ec_state_database();

	return db != NULL && EC_STATE(word) == EC_UP &&
		(uint64) ec_state_clock() < pg_atomic_read_u64(&db->lease_until[server]) &&
		ec_state_seen(server) == word;
}

/* A server's state word.  To change it, see ec_state_read(). */
uint64
ec_state_word(EcDatabase *db, int server)
{
	return pg_atomic_read_u64(&db->state[server]);
}

/*
 * The state word, for a process that has entered this generation.  false: there is a newer
 * one, and the words are about its servers.  Words are reset together with the generation, so a
 * word that was read here cannot be swapped after that.
 */
bool
ec_state_read(EcDatabase *db, int server, uint64 generation, uint64 *word)
{
	bool		current;

	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	current = ec_shmem_is_current(generation);
	*word = ec_state_word(db, server);
	LWLockRelease(ec_shmem->lock);
	return current;
}

/*
 * Change a state that is still the word that the caller saw; *word becomes the new one.  The
 * epoch grows, so that everybody else who works on the old word finds out.
 */
bool
ec_state_swap(EcDatabase *db, int server, uint64 *word, EcState to, bool purge)
{
	uint64		from = *word;
	uint64		new = EC_STATE_WORD(EC_EPOCH(from) + 1, purge, to);

	if (!pg_atomic_compare_exchange_u64(&db->state[server], &from, new))
		return false;
	*word = new;
	db->since[server] = GetCurrentTimestamp();
	return true;
}

/*
 * A new start: every server of this database must be purged, and is not ours before its lease
 * has been looked at.  It is RECOVERING, so that commits send markers meanwhile; but where the
 * keys were somebody else's, they probably are still, and nothing is sent.  ec_shmem->lock is
 * held exclusively.  Never throws.
 */
void
ec_state_reset(EcDatabase *db)
{
	EcState		to = EC_RECOVERING;

	db->lease_error[0] = '\0';
	for (int i = 0; i < EC_MAX_SERVERS; i++)
		if (EC_STATE(ec_state_word(db, i)) == EC_UNOWNED)
			to = EC_UNOWNED;
	for (int i = 0; i < EC_MAX_SERVERS; i++)
	{
		uint64		word;

		do
			word = ec_state_word(db, i);
		while (!ec_state_swap(db, i, &word, to, true));
		pg_atomic_write_u64(&db->lease_until[i], 0);
		db->lease_held[i] = false;
	}
}

/*
 * The server was UP in the generation before, and is in the next one, too: as long as its word is
 * the one that it has been reset to, RECOVERING, what is placed on it may be kept.
 * ec_shmem->lock is held exclusively.  Never throws.
 */
void
ec_state_let_keep(EcDatabase *db, int server)
{
	uint64		word = ec_state_word(db, server);

	if (EC_STATE(word) == EC_RECOVERING)
		pg_atomic_write_u64(&db->may_keep[server], word);
}

/*
 * The server must be purged: may what is placed on it be kept?  Asked when everybody has left
 * older generations.
 */
bool
ec_state_may_keep(EcDatabase *db, int server)
{
	return pg_atomic_read_u64(&db->may_keep[server]) == ec_state_word(db, server);
}

/*
 * A writer of this generation, which it has not left yet, could not confirm on some server that
 * a document is gone.  If there is a newer list by now, that server was not made DOWN, and what
 * the writer has seen of states was perhaps about others: then the database's servers keep
 * nothing.  If there is none under the lock, the server was DOWN before any newer list, or there
 * is a row in its outbox and its lock is held.  Takes ec_shmem->lock.  Never throws.
 */
void
ec_state_doubt(uint64 generation)
{
	EcDatabase *db = ec_state_database();

	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	for (int i = 0; i < EC_MAX_SERVERS; i++)
		if (db != NULL && !ec_shmem_is_listed(generation))
			pg_atomic_write_u64(&db->may_keep[i], 0);
	LWLockRelease(ec_shmem->lock);
}

/*
 * Has the outbox a row for every attachment as a whole, for as long as this server stays away?
 * The caller holds the server's outbox lock: the worker takes the rows up only when the state
 * has changed and the caller's transaction has ended.
 */
bool
ec_state_all_noted(int server)
{
	EcDatabase *db = ec_state_database();
	uint64		word;

	if (db == NULL)
		return false;
	word = ec_state_word(db, server);
	return (EC_STATE(word) == EC_DOWN || EC_STATE(word) == EC_UNOWNED) &&
		pg_atomic_read_u64(&db->whole_noted[server]) == word;
}

/*
 * Has the database no worker now, and will the next one purge this server before it is UP?  Then
 * a row of the outbox that is there does for the caller's changes, too, whichever keys it is
 * about.  The caller holds the server's outbox lock to the end of its transaction.
 *
 * The purge comes after that end, and nobody deletes the row before it.  Only a worker does
 * either, once it has claimed the database and then found the lock free.  If one had found it
 * free before the caller took it, the caller would see the claim here, and any other finds it
 * held.  (The rows of a server that is not in the topology any more are deleted without a look
 * at the lock; nobody needs them.)
 */
bool
ec_state_is_unattended(int server)
{
	EcDatabase *db = ec_state_database();
	uint64		word;

	if (db == NULL)
		return true;			/* ec_database_claim(): every server is purged */
	if (db->worker_pid != 0)
		return false;
	word = ec_state_word(db, server);
	return (EC_STATE(word) == EC_DOWN || EC_STATE(word) == EC_UNOWNED) && EC_MUST_PURGE(word);
}

/*
 * No worker can be had for this database now, and there is none.  What is DOWN is to be purged by
 * the worker that comes one day, so that until then the outbox does not grow.  For the launcher.
 * Never throws.
 */
void
ec_state_demand_purge(EcDatabase *db)
{
	for (int i = 0; i < ec_shmem->nservers; i++)
	{
		uint64		word = ec_state_word(db, i);

		/* not ec_state_swap(): since when it is DOWN stays as it is */
		if (EC_STATE(word) == EC_DOWN && !EC_MUST_PURGE(word))
			(void) pg_atomic_compare_exchange_u64(&db->state[i], &word,
												  EC_STATE_WORD(EC_EPOCH(word) + 1, true, EC_DOWN));
	}
}

/* Make a server DOWN for this database, unless it is.  Returns whether it was not. */
static bool
make_down(EcDatabase *db, int server)
{
	uint64		word;

	do
	{
		word = ec_state_word(db, server);
		if (EC_STATE(word) == EC_DOWN)
			return false;
	} while (!ec_state_swap(db, server, &word, EC_DOWN, EC_MUST_PURGE(word)));
	if (db->worker_pid != MyProcPid)
		ec_shmem_wake(db->worker_pid);
	return true;
}

/* A server that is UP for a database is worth a try for those that have no slot, too. */
void
ec_state_retry_unclaimed(int server)
{
	uint64		word = ec_state_word(&ec_shmem->unclaimed, server);

	if (EC_STATE(word) == EC_DOWN)
		(void) ec_state_swap(&ec_shmem->unclaimed, server, &word, EC_RECOVERING, true);
}

/*
 * An exchange with this server has failed: it is DOWN for every database, and nobody waits for
 * it again until a worker has brought it back.  May be called in the COMMIT callback: never throws.
 */
void
ec_state_down(uint64 generation, int server, const char *reason)
{
	bool		changed;
	EcServer   *s = &ec_shmem->server[server];

	if (!ec_shmem_is_listed(generation))
		return;					/* no server of the present topology */

	changed = make_down(&ec_shmem->unclaimed, server);
	for (int d = 0; d < EC_MAX_DATABASES; d++)
		if (OidIsValid(ec_shmem->database[d].dboid))
			changed |= make_down(&ec_shmem->database[d], server);

	ec_state_set_error(server, reason);
	if (!changed)
		return;
	(void) pg_atomic_fetch_add_u32(&s->untold, 1);
	if (!ec_state_tell_down(server))
		ereport(DEBUG1,
				(errmsg("echocache: server \"%s\" is down: %s", s->name, reason),
				 errhidestmt(true), errhidecontext(true)));
}

/*
 * Is the log to say that the server is in this state, UP or DOWN?  Not if it says so already, nor
 * twice in a minute, however often the state changes: then a worker, which looks at its servers
 * from time to time, has it said later.  The process that is told so is the one that logs.
 */
static bool
may_tell(EcServer *s, EcState state)
{
	if (pg_atomic_read_u32(&s->told) == (uint32) state || !ec_shmem_may_log(&s->told_at[state]))
		return false;
	pg_atomic_write_u32(&s->told, state);
	return true;
}

/*
 * The server is DOWN, for some database: have the log say so, and why, if it is to.  Returns
 * whether it was.  Never throws.
 */
bool
ec_state_tell_down(int server)
{
	EcServer   *s = &ec_shmem->server[server];
	char		reason[EC_ERROR_MAX];
	int			times;

	if (!may_tell(s, EC_DOWN))
		return false;
	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	strlcpy(reason, s->last_error, sizeof(reason));
	LWLockRelease(ec_shmem->lock);
	times = (int) pg_atomic_exchange_u32(&s->untold, 0);
	ereport(LOG,
			(errmsg("echocache: server \"%s\" is down: %s", s->name, reason),
			 times < 2 ? 0 :
			 errdetail("It went down %d times since this was logged last.", times),
			 errhidestmt(true), errhidecontext(true)));
	return true;
}

/* The server is UP, and so many keys were invalidated on it just now: have the log say so. */
void
ec_state_tell_up(int server, int64 removed)
{
	EcServer   *s = &ec_shmem->server[server];

	(void) pg_atomic_fetch_add_u64(&s->removed, removed);
	if (!may_tell(s, EC_UP))
		return;
	removed = (int64) pg_atomic_exchange_u64(&s->removed, 0);
	ereport(LOG,
			(errmsg_plural("echocache: server \"%s\" is up, %lld old key was invalidated",
						   "echocache: server \"%s\" is up, %lld old keys were invalidated",
						   removed, s->name, (long long) removed)));
}

/*
 * A read that began at that time was not answered in time.  The server is DOWN once SLOW_MAX have
 * ended so in a row: each begun after the one before had ended, and without an answer to anybody
 * in between.  So a server, or a machine, that stands still for a moment is not taken for dead,
 * however many wait for it just then.  Never throws.
 */
void
ec_state_slow(uint64 generation, int server, EcDeadline began, const char *reason)
{
	pg_atomic_uint64 *slow = &ec_shmem->server[server].slow;
	uint64		word = pg_atomic_read_u64(slow);
	int			count;

	if (!ec_shmem_is_listed(generation))
		return;
	do
	{
		count = SLOW_COUNT(word);
		if (count > 0 && began < SLOW_AT(word))
			return;				/* it waited beside that one, not after it */
		count = Min(count + 1, SLOW_MAX);
	} while (!pg_atomic_compare_exchange_u64(slow, &word, SLOW_WORD(ec_deadline_in(0), count)));
	if (count == SLOW_MAX)
		ec_state_down(generation, server, reason);
	else
		ec_state_set_error(server, reason);
}

/* Has nobody had an answer from the server since somebody has waited for one in vain? */
bool
ec_state_is_silent(int server)
{
	return pg_atomic_read_u64(&ec_shmem->server[server].slow) != 0;
}

/* The server has answered a request.  Never throws. */
void
ec_state_answered(int server)
{
	if (pg_atomic_read_u64(&ec_shmem->server[server].slow) != 0)
		pg_atomic_write_u64(&ec_shmem->server[server].slow, 0);
}

/*
 * Note why a server is not UP, for the view; an empty reason: nothing is known any more.
 * Takes ec_shmem->lock, which the caller does not hold.  Never throws.
 */
void
ec_state_set_error(int server, const char *reason)
{
	EcServer   *s = &ec_shmem->server[server];

	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	strlcpy(s->last_error, reason, EC_ERROR_MAX);
	s->last_error_at = GetCurrentTimestamp();
	LWLockRelease(ec_shmem->lock);
}

/*
 * Why a server is not UP, palloc'd; empty if nothing is known.  Takes ec_shmem->lock, which
 * the caller does not hold.  Throws out of memory only.
 */
char *
ec_state_error(int server)
{
	char		reason[EC_ERROR_MAX];
	TimestampTz at;

	if (ec_state_lease_error(server, reason, &at))
		return pstrdup(reason);
	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	strlcpy(reason, ec_shmem->server[server].last_error, sizeof(reason));
	LWLockRelease(ec_shmem->lock);
	return pstrdup(reason);
}

/*
 * Is this server not UP because its keys are not ours, for this database?  Then *reason says
 * why, and *at since when that is known.  Takes ec_shmem->lock, which the caller does not
 * hold.  Never throws.
 */
bool
ec_state_lease_error(int server, char *reason, TimestampTz *at)
{
	EcDatabase *db = ec_state_database();
	EcState		state = ec_state_of(server);

	if (db == NULL || (state != EC_UNOWNED && state != EC_RECOVERING))
		return false;
	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	strlcpy(reason, db->lease_held[server] ? "" : db->lease_error, EC_ERROR_MAX);
	*at = db->lease_error_at;
	LWLockRelease(ec_shmem->lock);
	return reason[0] != '\0';
}

/* What users call a state. */
const char *
ec_state_name(EcState state)
{
	switch (state)
	{
		case EC_DOWN:
			return "DOWN";
		case EC_RECOVERING:
		case EC_UNOWNED:
			return "RECOVERING";
		case EC_UP:
			return "UP";
	}
	return "?";
}
