/*-------------------------------------------------------------------------
 *
 * usercode.h
 *	  Does code of a user's run where a document is made?
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_USERCODE_H
#define ECHOCACHE_READ_USERCODE_H

#include "attachments/configuration.h"

extern bool ec_usercode_runs(EcAttachment *att);
extern void ec_usercode_learn(EcAttachment *att);
extern bool ec_usercode_is_plain(const EcAttachment *att);

#endif							/* ECHOCACHE_READ_USERCODE_H */
