/*-------------------------------------------------------------------------
 *
 * dependent.h
 *	  Tables whose rows are part of another table's documents.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_DEPENDENT_H
#define ECHOCACHE_DEPENDENT_H

#include "document.h"

extern void ec_dependent_check_keys(EcAttachment *att);
extern void ec_catalog_forget_dependent(const char *name, Oid relid);

#endif							/* ECHOCACHE_DEPENDENT_H */
