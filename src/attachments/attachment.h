/*-------------------------------------------------------------------------
 *
 * attachment.h
 *	  Attachments, as this backend has them cached.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_ATTACHMENT_H
#define ECHOCACHE_ATTACHMENTS_ATTACHMENT_H

#include "fmgr.h"
#include "nodes/pg_list.h"

#include "attachments/configuration.h"

/* How rows of a dependent table are part of documents. */
typedef struct EcDependentMap
{
	EcAttachment *att;
	int			nkeys;
	AttrNumber *keys;
	FmgrInfo   *out;			/* their output functions */
} EcDependentMap;

/* How rows of the attached table, or of a partition of it, map to documents. */
typedef struct EcOwnMap
{
	EcAttachment *att;
	AttrNumber	key;
	int			ndepends;
	AttrNumber *depends;		/* without the key */
} EcOwnMap;

/*
 * How the rows of one table map to documents.  They map to two documents if a partition of
 * an attached table is attached itself.
 */
typedef struct EcRowMap
{
	Oid			relid;			/* hash key */
	List	   *own;			/* of EcOwnMap */
	List	   *dependents;		/* of EcDependentMap */
} EcRowMap;

extern void ec_attachment_init(void);
extern void ec_attachment_reload(void);
extern void ec_attachment_at_xact_end(void);
extern List *ec_attachment_all(void);
extern EcRowMap *ec_attachment_row_map(Oid relid);
extern EcRowMap *ec_attachment_make_row_map(Oid relid);
extern EcAttachment *ec_attachment_by_name(const char *name);
extern EcAttachment *ec_attachment_require(const char *name);
extern EcAttachment *ec_attachment_by_relid(Oid relid);
extern List *ec_attachment_tables(const char *name);
extern List *ec_attachment_names(void);
extern List *ec_attachment_relids(void);
extern void ec_attachment_claim_slots(void);
extern void ec_attachment_free_slots(void);
extern char *ec_attachment_table(EcAttachment *att);
extern int	ec_attachment_key(EcAttachment *att, const char *id, char *dst);
extern int	ec_attachment_ttl(EcAttachment *att);

#endif							/* ECHOCACHE_ATTACHMENTS_ATTACHMENT_H */
