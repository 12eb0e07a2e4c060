/*-------------------------------------------------------------------------
 *
 * inherit.h
 *	  Parents and children of a table, be they partitions or not.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_INHERIT_H
#define ECHOCACHE_ATTACHMENTS_INHERIT_H

#include "nodes/pg_list.h"

extern List *ec_inherit_parents(Oid relid);
extern List *ec_inherit_children(Oid relid);
extern List *ec_inherit_tree(Oid relid);

#endif							/* ECHOCACHE_ATTACHMENTS_INHERIT_H */
