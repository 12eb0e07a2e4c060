/*-------------------------------------------------------------------------
 *
 * admin.h
 *	  SQL functions about the cache itself.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ADMIN_H
#define ECHOCACHE_ADMIN_H

#include "utils/timestamp.h"

/*
 * A lifetime in seconds, rounded up; throws 22023 for one that is negative, that
 * has months (a month has no fixed length) or that does not fit.
 */
extern int64 ec_ttl_from_interval(const Interval *interval);

#endif							/* ECHOCACHE_ADMIN_H */
