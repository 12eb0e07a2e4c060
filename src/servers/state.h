/*-------------------------------------------------------------------------
 *
 * state.h
 *	  States of servers: UP, DOWN or RECOVERING, for each database.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SERVERS_STATE_H
#define ECHOCACHE_SERVERS_STATE_H

#include "shmem.h"

extern EcDatabase *ec_state_database(void);
extern EcState ec_state_of(int server);
extern uint64 ec_state_word(EcDatabase *db, int server);
extern bool ec_state_read(EcDatabase *db, int server, uint64 generation, uint64 *word);
extern bool ec_state_swap(EcDatabase *db, int server, uint64 *word, EcState to, bool purge);
extern void ec_state_reset(EcDatabase *db);
extern bool ec_state_all_noted(int server);
extern void ec_state_retry_unclaimed(int server);
extern void ec_state_down(uint64 generation, int server, const char *reason);
extern void ec_state_set_error(int server, const char *reason);
extern char *ec_state_error(int server);
extern const char *ec_state_name(EcState state);

#endif							/* ECHOCACHE_SERVERS_STATE_H */
