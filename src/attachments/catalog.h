/*-------------------------------------------------------------------------
 *
 * catalog.h
 *	  The extension's own tables: found, opened, and their rows written.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_CATALOG_H
#define ECHOCACHE_ATTACHMENTS_CATALOG_H

#include "nodes/pg_list.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"

#define Anum_ec_document_name			1
#define Anum_ec_document_relation		2
#define Anum_ec_document_key_column		3
#define Anum_ec_document_owner_column	4
#define Anum_ec_document_filter			5
#define Anum_ec_document_filter_columns 6
#define Anum_ec_document_filter_calls	7
#define Anum_ec_document_exclude		8
#define Anum_ec_document_ttl			9
#define Anum_ec_document_policy			10
#define Anum_ec_document_document		11
#define Anum_ec_document_touch_on_read	12
#define Natts_ec_document				12

#define Anum_ec_dependent_document		1
#define Anum_ec_dependent_relation		2
#define Anum_ec_dependent_key_column	3
#define Natts_ec_dependent				3

/* Tables of the extension's own. */
typedef enum EcCatalogTable
{
	EC_CATALOG_DOCUMENT,
	EC_CATALOG_DEPENDENT,
	EC_CATALOG_OUTBOX,
	EC_CATALOG_NTABLES
} EcCatalogTable;

/* Its functions for triggers on users' tables. */
typedef enum EcCatalogFunction
{
	EC_CATALOG_ROW_TRIGGER,
	EC_CATALOG_TRUNCATE_TRIGGER,
	EC_CATALOG_DEPENDENT_TRIGGER,
	EC_CATALOG_NFUNCTIONS
} EcCatalogFunction;

extern void ec_catalog_init(void);
extern void ec_catalog_look_again(void);
extern void ec_catalog_at_end(void);
extern bool ec_catalog_is_present(void);
extern void ec_catalog_report_version(int elevel);
extern Oid	ec_catalog_document(bool missing_ok);
extern bool ec_catalog_is_own(Oid relid);
extern bool ec_catalog_is_own_schema(Oid schema);
extern Oid	ec_catalog_function(EcCatalogFunction which);
extern bool ec_catalog_is_trigger_function(Oid function);
extern Relation ec_catalog_try_open(EcCatalogTable which, LOCKMODE lockmode);
extern Relation ec_catalog_open(EcCatalogTable which, LOCKMODE lockmode);
extern List *ec_catalog_names(Datum array);
extern Datum ec_catalog_names_datum(List *names);
extern void ec_catalog_forget(const char *name);
extern void ec_catalog_forget_dependent(const char *name, Oid relid);

#endif							/* ECHOCACHE_ATTACHMENTS_CATALOG_H */
