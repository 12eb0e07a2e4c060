/*-------------------------------------------------------------------------
 *
 * build.h
 *	  Documents that a function of the user's makes of a row.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_BUILD_H
#define ECHOCACHE_BUILD_H

#include "render.h"

typedef enum EcFetched
{
	EC_FETCH_DONE,
	EC_FETCH_BLOCKED,			/* it would have to wait for a lock */
	EC_FETCH_FAILED				/* it threw, and a WARNING has said so */
} EcFetched;

extern char *ec_build_check_function(Oid function, Relation rel);
extern bool ec_build_may_store(EcAttachment *att);
extern void ec_fetch_try(EcAttachment *att);
extern void ec_build_begin(EcAttachment *att, FmgrInfo *function);
extern text *ec_build(EcAttachment *att, FmgrInfo *function, Datum row, bool *isnull);
extern EcFetched ec_fetch_guarded(EcAttachment *att, EcRow *rows, int n, bool demote);

#endif							/* ECHOCACHE_BUILD_H */
