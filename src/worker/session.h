/*-------------------------------------------------------------------------
 *
 * session.h
 *	  How the launcher and the workers begin: signals, and settings of their own.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_WORKER_SESSION_H
#define ECHOCACHE_WORKER_SESSION_H

extern void ec_session_begin(Oid dboid);
extern bool ec_session_launcher_is_ours(void);

#endif							/* ECHOCACHE_WORKER_SESSION_H */
