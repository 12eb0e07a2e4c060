/*-------------------------------------------------------------------------
 *
 * document.h
 *	  Attached documents: their configuration, as this backend has it cached.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_DOCUMENT_H
#define ECHOCACHE_DOCUMENT_H

#include "executor/spi.h"
#include "fmgr.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

#include "shmem.h"

typedef enum EcPolicy
{
	EC_WRITE_THROUGH,
	EC_INVALIDATE
} EcPolicy;

/* A column that ids or owners are compared with. */
typedef struct EcColumn
{
	NameData	name;
	Oid			type;
	FmgrInfo	in;
	Oid			ioparam;
	int32		typmod;
	Oid			collation;
	bool		plain;			/* its text depends on no setting */
	FmgrInfo	out;
} EcColumn;

/* A table whose rows are part of a document, and its columns that hold the document's key. */
typedef struct EcDependent
{
	Oid			relid;
	List	   *keys;			/* names, of char * */
} EcDependent;

/*
 * An attached table, as this backend has it cached.  A pointer stays valid to
 * the end of the transaction, even when the attachment changes meanwhile.
 */
typedef struct EcAttachment
{
	char		name[EC_NAME_MAX + 1];
	Oid			relid;
	Oid			relowner;
	Oid			namespace;
	bool		partitioned;
	EcColumn	key;
	bool		key_exact;		/* equal ids have equal text */
	bool		has_owner;
	EcColumn	owner;
	char	   *filter;			/* SQL, canonical; NULL: none */
	List	   *filter_columns; /* names of those in it, of char * */
	List	   *exclude;		/* names, of char * */
	int			ttl;			/* s, -1: echocache.ttl */
	EcPolicy	policy;
	bool		touch_on_read;	/* a hit renews the TTL */
	char	   *function_name;	/* what makes the document of a row, qualified; NULL: row_to_json */
	Oid			function;		/* InvalidOid: it is gone */
	List	   *dependents;		/* of EcDependent */
	Bitmapset  *columns;		/* attribute numbers that the document shows */
	Bitmapset  *depends;		/* those that it depends on: the filter's too */
	bool		has_virtual;	/* one of them is virtual: only a query gets its value */
	bool		render_timezone;	/* its text depends on TimeZone, ... */
	bool		render_all;		/* ... or perhaps on any setting */
	EcSlot *slot;		/* NULL: none was free */
	/* made at first use; [1] as the table's owner, whom FORCE ROW LEVEL SECURITY does not bind */
	SPIPlanPtr	plan_one[2];
	SPIPlanPtr	plan_many[2];
	SPIPlanPtr	plan_row;		/* from JSON back to a row */
	TupleDesc	shape;			/* of the document as a record; made at first use, */
	Expr	   *filter_expr;	/* as are these: the filter, */
	bool		key_unique;		/* and whether an index says that ids are unique */
	bool		suspended;		/* not cached: a trigger of ours is disabled or gone, no slot or no
								 * function */
	bool		resolved;		/* the fields that are not in the configuration are set */
	MemoryContext context;
} EcAttachment;

/* How rows of one table are part of another's document. */
typedef struct EcDependentMap
{
	EcAttachment *att;
	int			nkeys;
	AttrNumber *keys;
	FmgrInfo   *out;			/* their output functions */
} EcDependentMap;

/* How rows of the attached table, or of a partition of it, map to the document. */
typedef struct EcOwnMap
{
	EcAttachment *att;
	AttrNumber	key;
	int			ndepends;
	AttrNumber *depends;		/* the key's not among them */
} EcOwnMap;

/* How the rows of one table map to documents: to two, if a partition is attached itself. */
typedef struct EcRowMap
{
	Oid			relid;			/* hash key */
	List	   *own;			/* of EcOwnMap */
	List	   *dependents;		/* of EcDependentMap */
} EcRowMap;

extern void ec_attachment_init(void);
extern Oid	ec_catalog_document(bool missing_ok);
extern EcAttachment *ec_attachment_by_name(const char *name);
extern EcAttachment *ec_attachment_require(const char *name);
extern EcAttachment *ec_attachment_by_relid(Oid relid);
extern List *ec_attachment_names(void);
extern void ec_attachment_claim_slots(void);
extern List *ec_attachment_tables(const char *name);
extern Oid	ec_catalog_relation(const char *name);
extern void ec_attachment_reload(void);
extern void ec_attachment_at_xact_end(void);

/*
 * All attached documents, as of now; they may be unresolved.  The list, too, stays valid to
 * the end of the transaction.  Loads the configuration if it has changed: throws what
 * reading the extension's tables throws, and locks these only while it does.
 */
extern List *ec_attachment_all(void);

/*
 * This table's entry among the row maps; NULL when nobody has made it since the
 * configuration was loaded, which is done as above.  It stays valid as a document does.
 */
extern EcRowMap *ec_attachment_row_map(Oid relid);

/*
 * The same, made if need be, and then empty.  It belongs to the configuration that was
 * loaded last, since this loads nothing: only documents of that one may go into it, so
 * nothing may be looked up in between.  Throws when memory is out; once it is made, any
 * invalidation of the table drops the configuration.  Neither expects a lock on the table,
 * nor takes one.
 */
extern EcRowMap *ec_attachment_make_row_map(Oid relid);

extern Datum ec_column_datum(EcColumn *column, const char *text);
extern char *ec_column_canonical(EcAttachment *att, EcColumn *column, const char *input);
extern int	ec_attachment_key(EcAttachment *att, const char *id, char *dst);
extern int	ec_attachment_ttl(EcAttachment *att);

#endif							/* ECHOCACHE_DOCUMENT_H */
