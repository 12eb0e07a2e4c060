/*-------------------------------------------------------------------------
 *
 * configuration.h
 *	  From the extension's tables and the catalogs to an attachment.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_CONFIGURATION_H
#define ECHOCACHE_ATTACHMENTS_CONFIGURATION_H

#include "executor/spi.h"
#include "fmgr.h"
#include "nodes/pg_list.h"

#include "protocol/key.h"
#include "shmem.h"

typedef enum EcPolicy
{
	EC_WRITE_THROUGH,
	EC_INVALIDATE
} EcPolicy;

/* How row_to_json writes a column's value; see read/member.c. */
typedef enum EcJsonKind
{
	EC_JSON_UNKNOWN,			/* not looked up yet */
	EC_JSON_NUMBER,				/* the value's text as it is */
	EC_JSON_STRING,				/* the value's text as a string */
	EC_JSON_OTHER				/* only row_to_json knows */
} EcJsonKind;

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
	/* by read/member.c, at first use: what a document's member of the column begins with */
	EcJsonKind	json_kind;
	int			json_namelen;
	char	   *json_name;		/* in UTF-8; NULL: cannot be expressed there */
} EcColumn;

/* A dependent table, and its columns that hold the key of a row's document. */
typedef struct EcDependent
{
	Oid			relid;
	List	   *keys;			/* names, of char * */
} EcDependent;

/* The parameters of a query, at most. */
#define EC_QUERY_ARGS	3

/* A query of ours on an attached table; see read/query.h. */
typedef struct EcQuery
{
	SPIPlanPtr	plan;			/* NULL: not prepared yet */
	struct EcAttachment *att;
	int			nargs;
	Oid			argtypes[EC_QUERY_ARGS];
} EcQuery;

/*
 * An attached table, as this backend has it cached.  A pointer stays valid to the end of
 * the transaction, even when the attachment changes or goes meanwhile.
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
	char	   *filter_calls;	/* the functions that it calls, see ec_filter_calls() */
	List	   *exclude;		/* names, of char * */
	int			ttl;			/* s, -1: echocache.ttl */
	EcPolicy	policy;
	bool		touch_on_read;	/* a hit renews the TTL */
	char	   *function_name;	/* the function, qualified; NULL: row_to_json */
	Oid			function;		/* InvalidOid: it is gone */
	List	   *dependents;		/* of EcDependent */
	Bitmapset  *columns;		/* attribute numbers that the document shows */
	Bitmapset  *depends;		/* those that it depends on: also the filter's */
	bool		has_virtual;	/* one of them is virtual: only a query gets its value */
	bool		render_timezone;	/* the document depends on TimeZone */
	bool		render_all;		/* the document may depend on any setting */
	EcSlot	   *slot;			/* NULL: none was free */
	/* made at first use; [1] for the table's owner, whom row level security does not bind */
	EcQuery		query_one[2];
	EcQuery		query_many[2];
	SPIPlanPtr	plan_row;		/* from JSON back to a row */
	struct EcShape *shape;		/* of the document; made at first use by read/render.c */
	Expr	   *filter_expr;	/* see ec_filter_expr() */
	bool		key_unique;		/* an index says that ids are unique; made at first use */
	bool		code_unknowable;	/* looking that up was tried before a commit, and has failed */
	bool		code_known;		/* the next ones were looked up; by read/usercode.c, at first use */
	bool		runs_code;		/* making a document may run code of a user's */
	bool		is_plain;		/* and none that is not in C */
	bool		by_variables;	/* it needs no settings at a commit: see ec_act_rendering() */
	const char *suspended;		/* why it is not cached, for people to read; NULL: it is */
	bool		names_known;	/* the next one is known */
	bool		shows_names;	/* a column contains names of objects; see ec_affected_by_names() */
	bool		resolved;		/* the fields that are not in the configuration are set */
	MemoryContext context;
} EcAttachment;

extern List *ec_configuration_read(void);
extern void ec_configuration_resolve(EcAttachment *att);
extern Oid	ec_configuration_function(EcAttachment *att);

#endif							/* ECHOCACHE_ATTACHMENTS_CONFIGURATION_H */
