/*-------------------------------------------------------------------------
 *
 * affected.h
 *	  Which attachments a change affects: of a row, a table, a type or a function.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_AFFECTED_H
#define ECHOCACHE_ATTACHMENTS_AFFECTED_H

#include "nodes/pg_list.h"

#include "attachments/attachment.h"
#include "attachments/configuration.h"

/* What a table is to an attachment: ec_affected_role(). */
#define EC_ROLE_OWN			1	/* the attached table, an ancestor or a descendant */
#define EC_ROLE_DEPENDENT	2	/* a dependent table, an ancestor or a descendant */

extern bool ec_affected_is_part(Oid relid, Oid whole);
extern int	ec_affected_role(EcAttachment *att, Oid relid);
extern List *ec_affected_by_table(Oid relid);
extern bool ec_affected_any_suspended(void);
extern List *ec_affected_by_function(Oid function);
extern List *ec_affected_by_type(Oid type);
extern List *ec_affected_by_names(void);
extern EcOwnMap *ec_affected_own_map(Relation rel, const char *name);
extern EcDependentMap *ec_affected_dependent_map(Relation rel, const char *name);

#endif							/* ECHOCACHE_ATTACHMENTS_AFFECTED_H */
