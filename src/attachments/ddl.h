/*-------------------------------------------------------------------------
 *
 * ddl.h
 *	  What DDL statements do to attached tables.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_DDL_H
#define ECHOCACHE_ATTACHMENTS_DDL_H

extern void ec_ddl_init(void);

#endif							/* ECHOCACHE_ATTACHMENTS_DDL_H */
