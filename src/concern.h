/*-------------------------------------------------------------------------
 *
 * concern.h
 *	  Which documents a change concerns: of a row, a table, a type or a function.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_CONCERN_H
#define ECHOCACHE_CONCERN_H

#include "document.h"

/* What a table is to a document: ec_document_role(). */
#define EC_ROLE_OWN			1	/* the attached table, or above or below it */
#define EC_ROLE_DEPENDENT	2	/* the same for a dependent one */

extern int	ec_document_role(EcDocument *doc, Oid relid);
extern List *ec_documents_touching(Oid relid);
extern bool ec_documents_suspended(void);
extern List *ec_documents_with_function(void);
extern List *ec_documents_showing(Oid type);
extern EcOwnMap *ec_document_own_map(Relation rel, const char *name);
extern EcDependentMap *ec_document_dependent_map(Relation rel, const char *name);

#endif							/* ECHOCACHE_CONCERN_H */
