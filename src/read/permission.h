/*-------------------------------------------------------------------------
 *
 * permission.h
 *	  May the current role read this document?
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_PERMISSION_H
#define ECHOCACHE_READ_PERMISSION_H

#include "attachments/configuration.h"

extern void ec_permission_check(EcAttachment *att);
extern EcAttachment *ec_permission_lock(EcAttachment *att, bool *as_owner);
extern bool ec_permission_by_row(EcAttachment *att);

#endif							/* ECHOCACHE_READ_PERMISSION_H */
