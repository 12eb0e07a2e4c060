/*-------------------------------------------------------------------------
 *
 * catalog.h
 *	  The extension's own tables: found, and their rows written.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_CATALOG_H
#define ECHOCACHE_ATTACHMENTS_CATALOG_H

#include "nodes/pg_list.h"

#define Anum_ec_document_name			1
#define Anum_ec_document_relation		2
#define Anum_ec_document_key_column		3
#define Anum_ec_document_owner_column	4
#define Anum_ec_document_filter			5
#define Anum_ec_document_filter_columns 6
#define Anum_ec_document_exclude		7
#define Anum_ec_document_ttl			8
#define Anum_ec_document_policy			9
#define Anum_ec_document_document		10
#define Anum_ec_document_touch_on_read	11
#define Natts_ec_document				11

#define Anum_ec_dependent_document		1
#define Anum_ec_dependent_relation		2
#define Anum_ec_dependent_key_column	3
#define Natts_ec_dependent				3

extern Oid	ec_catalog_relation(const char *name);
extern Oid	ec_catalog_document(bool missing_ok);
extern List *ec_catalog_names(Datum array);
extern Datum ec_catalog_names_datum(List *names);
extern void ec_catalog_forget(const char *name);
extern void ec_catalog_forget_dependent(const char *name, Oid relid);

#endif							/* ECHOCACHE_ATTACHMENTS_CATALOG_H */
