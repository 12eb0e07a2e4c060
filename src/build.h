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

typedef enum EcBuilt
{
	EC_BUILT,
	EC_BUILD_BLOCKED,			/* it would have to wait for a lock */
	EC_BUILD_FAILED				/* it threw, and a WARNING has said so */
} EcBuilt;

extern char *ec_build_check_function(Oid function, Relation rel);
extern bool ec_build_may_store(EcDocument *doc);
extern void ec_build_try(EcDocument *doc);
extern void ec_build_begin(EcDocument *doc, FmgrInfo *function);
extern text *ec_build(EcDocument *doc, FmgrInfo *function, Datum row, bool *isnull);
extern EcBuilt ec_build_guarded(EcDocument *doc, EcRow *rows, int n, bool demote);

#endif							/* ECHOCACHE_BUILD_H */
