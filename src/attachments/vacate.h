/*-------------------------------------------------------------------------
 *
 * vacate.h
 *	  Commands that need a database for themselves: its worker leaves.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_VACATE_H
#define ECHOCACHE_ATTACHMENTS_VACATE_H

#include "nodes/nodes.h"

extern void ec_vacate_for_statement(Node *stmt, bool toplevel);
extern void ec_vacate_for_drop(Oid dboid);
extern void ec_vacate_end(void);

#endif							/* ECHOCACHE_ATTACHMENTS_VACATE_H */
