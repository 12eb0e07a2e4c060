/*-------------------------------------------------------------------------
 *
 * state.c
 *	  States of servers: UP, DOWN or RECOVERING, for each database.
 *
 * A state is one word with an epoch (shmem.h).  Any process makes a server DOWN when an
 * exchange fails; only the database's worker makes it RECOVERING and UP, by compare-and-swap on
 * the word that it has seen.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "servers/state.h"
#include "shmem.h"

static bool make_down(EcDatabase *db, int server);

/*
 * This database's slot, or NULL when its worker has not claimed one yet; the launcher is then
 * told.  Slots are claimed and freed under the lock; the oid is checked without it, which at
 * worst sees a slot a moment too late.
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
 * A server's state for this database.  Without a slot nobody makes it UP: what an
 * earlier life left in the cache must be invalidated, and nothing be read.
 */
EcState
ec_state_of(int server)
{
	EcDatabase *db = ec_state_database();

	if (db == NULL)
		db = &ec_shmem->unclaimed;
	if (db->standby && !RecoveryInProgress())
		return EC_RECOVERING;	/* just promoted: the launcher has not seen it yet */
	return EC_STATE(pg_atomic_read_u64(&db->state[server]));
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

/* A new start: every server of this database is RECOVERING, and must be purged. */
void
ec_state_reset(EcDatabase *db)
{
	for (int i = 0; i < EC_MAX_SERVERS; i++)
	{
		uint64		word;

		do
			word = ec_state_word(db, i);
		while (!ec_state_swap(db, i, &word, EC_RECOVERING, true));
	}
}

/*
 * Has the outbox a row for every attachment as a whole, for as long as this server stays DOWN?
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
	return EC_STATE(word) == EC_DOWN && pg_atomic_read_u64(&db->whole_noted[server]) == word;
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
 * it again until a worker has brought it back.  The process that changes the state logs it, so
 * that it is logged once.  May be called in the COMMIT callback: never throws.
 */
void
ec_state_down(uint64 generation, int server, const char *reason)
{
	bool		changed;
	EcServer   *s = &ec_shmem->server[server];

	if (!ec_shmem_is_current(generation))
		return;					/* no server of the present topology */

	changed = make_down(&ec_shmem->unclaimed, server);
	for (int d = 0; d < EC_MAX_DATABASES; d++)
		if (OidIsValid(ec_shmem->database[d].dboid))
			changed |= make_down(&ec_shmem->database[d], server);

	ec_state_set_error(server, reason);
	if (changed)
		ereport(LOG,
				(errmsg("echocache: server \"%s\" is down: %s", s->name, reason),
				 errhidestmt(true), errhidecontext(true)));
}

/* Note why a server is not UP, for the view. */
void
ec_state_set_error(int server, const char *reason)
{
	EcServer   *s = &ec_shmem->server[server];

	LWLockAcquire(ec_shmem->lock, LW_EXCLUSIVE);
	strlcpy(s->last_error, reason, EC_ERROR_MAX);
	s->last_error_at = GetCurrentTimestamp();
	LWLockRelease(ec_shmem->lock);
}

/* Why a server is not UP, palloc'd; empty if nothing is known. */
char *
ec_state_error(int server)
{
	char		reason[EC_ERROR_MAX];

	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	strlcpy(reason, ec_shmem->server[server].last_error, sizeof(reason));
	LWLockRelease(ec_shmem->lock);
	return pstrdup(reason);
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
			return "RECOVERING";
		case EC_UP:
			return "UP";
	}
	return "?";
}
