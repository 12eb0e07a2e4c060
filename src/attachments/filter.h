/*-------------------------------------------------------------------------
 *
 * filter.h
 *	  The filter of an attachment: from SQL to an expression, and back.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_FILTER_H
#define ECHOCACHE_ATTACHMENTS_FILTER_H

#include "nodes/nodes.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"

#include "attachments/configuration.h"

extern Node *ec_filter_parse(Relation rel, const char *filter, bool canonical);
extern char *ec_filter_calls(Node *expr);
extern bool ec_filter_has_names(const EcAttachment *att);
extern Expr *ec_filter_expr(EcAttachment *att, Relation rel);
extern Expr *ec_filter_as_owner(EcAttachment *att, LOCKMODE lockmode);
extern Node *ec_filter_reread(EcAttachment *att);
extern char *ec_filter_deparse(Oid relid, Node *expr);

#endif							/* ECHOCACHE_ATTACHMENTS_FILTER_H */
