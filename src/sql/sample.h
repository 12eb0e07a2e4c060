/*-------------------------------------------------------------------------
 *
 * sample.h
 *	  Some of the keys that an attachment may have documents under, at random.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SQL_SAMPLE_H
#define ECHOCACHE_SQL_SAMPLE_H

#include "sql/verify_keys.h"

extern int	ec_sample_rows(EcVerify *verify, EcVerifyKey *keys, int max);
extern int	ec_sample_list(EcVerify *verify, EcVerifyKey *keys, int max, int64 *lines);

#endif							/* ECHOCACHE_SQL_SAMPLE_H */
