/*-------------------------------------------------------------------------
 *
 * version.h
 *	  Which versions of the extension's objects this library works with.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_VERSION_H
#define ECHOCACHE_VERSION_H

extern bool ec_version_fits(const char *objects);
extern void ec_version_report(int elevel, const char *objects);

#endif							/* ECHOCACHE_VERSION_H */
