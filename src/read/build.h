/*-------------------------------------------------------------------------
 *
 * build.h
 *	  Documents that a function of the user's makes of a row.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_BUILD_H
#define ECHOCACHE_READ_BUILD_H

#include "fmgr.h"

#include "attachments/configuration.h"

extern bool ec_build_may_store(EcAttachment *att);
extern char *ec_build_check_function(Oid function, Relation rel);
extern void ec_build_begin(EcAttachment *att, FmgrInfo *function);
extern text *ec_build(EcAttachment *att, FmgrInfo *function, Datum row, bool *isnull);

#endif							/* ECHOCACHE_READ_BUILD_H */
