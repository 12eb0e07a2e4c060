/*-------------------------------------------------------------------------
 *
 * auditor.h
 *	  The auditor: compares cached documents to their rows, a few at a time.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_WORKER_AUDITOR_H
#define ECHOCACHE_WORKER_AUDITOR_H

extern int	ec_auditor_interval(void);
extern PGDLLEXPORT void echocache_auditor_main(Datum arg);

#endif							/* ECHOCACHE_WORKER_AUDITOR_H */
