/*-------------------------------------------------------------------------
 *
 * attach.h
 *	  Attach and detach tables; the configuration table, as
 *	  sql/echocache--1.0.sql makes it.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACH_H
#define ECHOCACHE_ATTACH_H

#include "utils/rel.h"

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

/* Invalidate all documents of a table that is being detached; how many there were. */
extern int64 ec_detach_invalidate(const char *name, Oid relid, bool extension);
extern void ec_check_relation(Relation rel);
extern void ec_triggers_create(Oid relid, const char *name, const char *schema,
									  bool dependent);
extern void ec_triggers_drop(Oid relid, const char *name, bool dependent);
extern void ec_catalog_forget(const char *name);

#endif							/* ECHOCACHE_ATTACH_H */
