/*-------------------------------------------------------------------------
 *
 * state.h
 *	  States of servers, for each database: UP, DOWN, RECOVERING or UNOWNED.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SERVERS_STATE_H
#define ECHOCACHE_SERVERS_STATE_H

#include "deadline.h"
#include "shmem.h"

extern EcDatabase *ec_state_database(void);
extern uint64 ec_state_seen(int server);
extern bool ec_state_is_away(int server);
extern void ec_state_await_look(int server);
extern uint64 ec_state_word(EcDatabase *db, int server);
extern bool ec_state_read(EcDatabase *db, int server, uint64 generation, uint64 *word);
extern bool ec_state_swap(EcDatabase *db, int server, uint64 *word, EcState to, bool purge);
extern void ec_state_reset(EcDatabase *db);
extern void ec_state_let_keep(EcDatabase *db, int server);
extern bool ec_state_may_keep(EcDatabase *db, int server);
extern void ec_state_doubt(uint64 generation);
extern bool ec_state_all_noted(int server);
extern bool ec_state_is_unattended(int server);
extern void ec_state_demand_purge(EcDatabase *db);
extern void ec_state_retry_unclaimed(int server);
extern void ec_state_down(uint64 generation, int server, const char *reason);
extern bool ec_state_tell_down(int server);
extern void ec_state_tell_up(int server, int64 removed);
extern void ec_state_slow(uint64 generation, int server, EcDeadline began, const char *reason);
extern bool ec_state_is_silent(int server);
extern void ec_state_answered(int server);
extern void ec_state_set_error(int server, const char *reason);
extern char *ec_state_error(int server);
extern bool ec_state_lease_error(int server, char *reason, TimestampTz *at);
extern const char *ec_state_name(EcState state);

/* Does a lease count?  See servers/lease.c. */
extern int64 ec_state_clock(void);
extern bool ec_state_is_owned(uint64 generation, int server);
extern bool ec_state_is_still(int server, uint64 word);

/* A server's state for this database. */
static inline EcState
ec_state_of(int server)
{
	return EC_STATE(ec_state_seen(server));
}

#endif							/* ECHOCACHE_SERVERS_STATE_H */
