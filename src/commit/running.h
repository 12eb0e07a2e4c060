/*-------------------------------------------------------------------------
 *
 * running.h
 *	  Statements under way that change rows whose triggers have not fired yet.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_COMMIT_RUNNING_H
#define ECHOCACHE_COMMIT_RUNNING_H

#include "attachments/configuration.h"

extern void ec_running_init(void);
extern bool ec_running_changes(EcAttachment *att);

#endif							/* ECHOCACHE_COMMIT_RUNNING_H */
