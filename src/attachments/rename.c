/*-------------------------------------------------------------------------
 *
 * rename.c
 *	  Columns and functions of documents get other names.
 *
 * The configuration has both by name, so the transaction that renames also writes the
 * configuration: no commit shows a new name in the catalogs and the old one there.  A
 * filter is parsed before the command, while its names are valid, and deparsed after it,
 * so it means the same columns throughout.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"

#include "attachments/affected.h"
#include "attachments/catalog.h"
#include "attachments/configuration.h"
#include "attachments/filter.h"
#include "attachments/rename.h"
#include "compat.h"

/* An attachment for which the table whose column is renamed has a role. */
typedef struct Rename
{
	char	   *name;			/* the attachment's */
	Oid			relid;
	int			role;
	Node	   *filter;			/* as it was parsed with the old name */
} Rename;

/* A function of a document, which may be about to get another name. */
typedef struct DocumentFunction
{
	char	   *name;			/* the attachment's */
	Oid			function;
} DocumentFunction;

static void check_owner(const RangeVar *relation, Oid relid, Oid oldRelId, void *arg);
static void update_configuration(List *renames, RenameStmt *stmt, List *functions);
static void rename_keys(RenameStmt *stmt, List *renames);
static Datum renamed(Datum name, RenameStmt *stmt);
static Datum renamed_array(Datum names, RenameStmt *stmt);

List *
ec_rename_functions(Node *stmt)
{
	List	   *list = NIL;
	ListCell   *lc;

	if (!IsA(stmt, RenameStmt) && !IsA(stmt, AlterObjectSchemaStmt))
		return NIL;
	foreach(lc, ec_affected_with_function())
	{
		EcAttachment *att = lfirst(lc);
		DocumentFunction *made_by = palloc(sizeof(DocumentFunction));

		made_by->name = pstrdup(att->name);
		made_by->function = ec_configuration_function(att);
		list = lappend(list, made_by);
	}
	return list;
}

void
ec_rename_follow_functions(List *functions)
{
	if (functions != NIL)
		update_configuration(NIL, NULL, functions);
}

/* As PostgreSQL checks it before it locks a table whose column is to be renamed. */
static void
check_owner(const RangeVar *relation, Oid relid, Oid oldRelId, void *arg)
{
	if (OidIsValid(relid) && get_rel_relkind(relid) != '\0' &&
		!ec_compat_owns_relation(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(get_rel_relkind(relid)),
					   relation->relname);
}

Oid
ec_rename_lock(RenameStmt *stmt)
{
	return RangeVarGetRelidExtended(stmt->relation, AccessExclusiveLock, RVR_MISSING_OK,
									check_owner, NULL);
}

List *
ec_rename_begin(Oid relid)
{
	List	   *renames = NIL;
	ListCell   *lc;

	foreach(lc, ec_affected_by_table(relid))
	{
		EcAttachment *att = lfirst(lc);
		Rename	   *rename;

		if (ec_affected_role(att, relid) == 0)
			continue;
		rename = palloc0(sizeof(Rename));
		rename->name = pstrdup(att->name);
		rename->relid = att->relid;
		rename->role = ec_affected_role(att, relid);
		if (att->filter)
		{
			Relation	rel = relation_open(att->relid, AccessShareLock);

			rename->filter = ec_filter_parse(rel, att->filter, true);
			relation_close(rel, NoLock);
		}
		renames = lappend(renames, rename);
	}
	return renames;
}

void
ec_rename_follow(List *renames, RenameStmt *stmt)
{
	update_configuration(renames, stmt, NIL);
	rename_keys(stmt, renames);
}

/* The name, or the new one if it is the column that is renamed. */
static Datum
renamed(Datum name, RenameStmt *stmt)
{
	if (strcmp(NameStr(*DatumGetName(name)), stmt->subname) != 0)
		return name;
	return DirectFunctionCall1(namein, CStringGetDatum(stmt->newname));
}

/* The names, with the new one in the place of the old one. */
static Datum
renamed_array(Datum names, RenameStmt *stmt)
{
	Datum	   *elems;
	bool	   *nulls;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(names), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR,
					  &elems, &nulls, &n);
	for (int i = 0; i < n; i++)
		elems[i] = renamed(elems[i], stmt);
	return PointerGetDatum(construct_array(elems, n, NAMEOID, NAMEDATALEN, false,
										   TYPALIGN_CHAR));
}

/* Write the new names of columns, or of functions, into echocache.document. */
static void
update_configuration(List *renames, RenameStmt *stmt, List *functions)
{
	Relation	rel = ec_catalog_open(EC_CATALOG_DOCUMENT, RowExclusiveLock);
	SysScanDesc scan;
	HeapTuple	tuple;

	CommandCounterIncrement();
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[Natts_ec_document];
		bool		nulls[Natts_ec_document];
		bool		changed = false;
		char	   *name;
		ListCell   *lc;

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		name = TextDatumGetCString(values[Anum_ec_document_name - 1]);
		foreach(lc, renames)
		{
			Rename	   *rename = lfirst(lc);

			if (strcmp(rename->name, name) != 0 || !(rename->role & EC_ROLE_OWN))
				continue;
			values[Anum_ec_document_key_column - 1] =
				renamed(values[Anum_ec_document_key_column - 1], stmt);
			if (!nulls[Anum_ec_document_owner_column - 1])
				values[Anum_ec_document_owner_column - 1] =
					renamed(values[Anum_ec_document_owner_column - 1], stmt);
			values[Anum_ec_document_filter_columns - 1] =
				renamed_array(values[Anum_ec_document_filter_columns - 1], stmt);
			values[Anum_ec_document_exclude - 1] =
				renamed_array(values[Anum_ec_document_exclude - 1], stmt);
			if (rename->filter)
				values[Anum_ec_document_filter - 1] =
					CStringGetTextDatum(ec_filter_deparse(rename->relid, rename->filter));
			changed = true;
		}
		foreach(lc, functions)
		{
			DocumentFunction *made_by = lfirst(lc);
			Oid			schema = get_func_namespace(made_by->function);
			char	   *qualified;

			if (strcmp(made_by->name, name) != 0 || !OidIsValid(schema))
				continue;
			qualified = quote_qualified_identifier(get_namespace_name(schema),
												   get_func_name(made_by->function));
			changed |= strcmp(qualified,
							  TextDatumGetCString(values[Anum_ec_document_document - 1])) != 0;
			values[Anum_ec_document_document - 1] = CStringGetTextDatum(qualified);
		}
		if (changed)
		{
			CatalogTupleUpdate(rel, &tuple->t_self,
							   heap_form_tuple(RelationGetDescr(rel), values, nulls));
			CacheInvalidateRelcache(rel);
		}
	}
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
}

/* Write the new names of key columns into echocache.dependent. */
static void
rename_keys(RenameStmt *stmt, List *renames)
{
	Relation	rel = ec_catalog_open(EC_CATALOG_DEPENDENT, RowExclusiveLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[Natts_ec_dependent];
		bool		nulls[Natts_ec_dependent];
		Oid			relid;
		ListCell   *lc;

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		relid = DatumGetObjectId(values[Anum_ec_dependent_relation - 1]);
		foreach(lc, renames)
		{
			Rename	   *rename = lfirst(lc);

			if (strcmp(rename->name,
					   TextDatumGetCString(values[Anum_ec_dependent_document - 1])) != 0 ||
				!(rename->role & EC_ROLE_DEPENDENT) ||
				get_attnum(relid, NameStr(*DatumGetName(values[Anum_ec_dependent_key_column - 1])))
				!= InvalidAttrNumber)
				continue;
			/* the column of that name is gone, so it was this one */
			values[Anum_ec_dependent_key_column - 1] =
				renamed(values[Anum_ec_dependent_key_column - 1], stmt);
			CatalogTupleUpdate(rel, &tuple->t_self,
							   heap_form_tuple(RelationGetDescr(rel), values, nulls));
			CacheInvalidateRelcacheByRelid(ec_catalog_document(false));
		}
	}
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
}
