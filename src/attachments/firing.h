/*-------------------------------------------------------------------------
 *
 * firing.h
 *	  Do our triggers see every change of a table?
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_FIRING_H
#define ECHOCACHE_ATTACHMENTS_FIRING_H

extern const char *ec_firing_problem(Oid relid, const char *name, bool dependent);

#endif							/* ECHOCACHE_ATTACHMENTS_FIRING_H */
