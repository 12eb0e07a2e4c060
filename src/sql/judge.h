/*-------------------------------------------------------------------------
 *
 * judge.h
 *	  Is a document right that a server holds?
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_SQL_JUDGE_H
#define ECHOCACHE_SQL_JUDGE_H

#include "net/request.h"
#include "sql/verify_keys.h"

extern bool ec_judge_is_ours(EcVerify *verify, EcVerifyKey *key, EcRequest *req);
extern void ec_judge_look(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n);
extern int	ec_judge_invalidate(EcVerify *verify, EcVerifyKey *keys, EcRequest *reqs, int n);

#endif							/* ECHOCACHE_SQL_JUDGE_H */
