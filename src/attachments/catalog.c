/*-------------------------------------------------------------------------
 *
 * catalog.c
 *	  The extension's own tables: found, and their rows written.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "attachments/catalog.h"

/* A table of the extension's own, which must be there. */
Oid
ec_catalog_relation(const char *name)
{
	return get_relname_relid(name, get_namespace_oid("echocache", false));
}

/* OID of echocache.document; InvalidOid if missing_ok and there is no extension. */
Oid
ec_catalog_document(bool missing_ok)
{
	Oid			namespace = get_namespace_oid("echocache", true);
	Oid			oid = OidIsValid(namespace) ? get_relname_relid("document", namespace) : InvalidOid;

	if (!OidIsValid(oid) && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"echocache\" is not installed in this database"),
				 errhint("Run CREATE EXTENSION echocache.")));
	return oid;
}

/* A name[] as a list of strings. */
List *
ec_catalog_names(Datum array)
{
	List	   *names = NIL;
	Datum	   *elems;
	bool	   *nulls;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(array), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR,
					  &elems, &nulls, &n);
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			names = lappend(names, pstrdup(NameStr(*DatumGetName(elems[i]))));
	return names;
}

Datum
ec_catalog_names_datum(List *names)
{
	Datum	   *elems = palloc((list_length(names) + 1) * sizeof(Datum));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, names)
	{
		Name		name = palloc(sizeof(NameData));

		namestrcpy(name, lfirst(lc));
		elems[n++] = NameGetDatum(name);
	}
	return PointerGetDatum(construct_array(elems, n, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR));
}

/* Take the document out of the configuration, and what is part of it. */
void
ec_catalog_forget(const char *name)
{
	Relation	rel = table_open(ec_catalog_document(false), RowExclusiveLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_ec_document_name, RelationGetDescr(rel),
										 &isnull);

		if (strcmp(TextDatumGetCString(value), name) == 0)
			CatalogTupleDelete(rel, &tuple->t_self);
	}
	systable_endscan(scan);
	CacheInvalidateRelcache(rel);
	table_close(rel, RowExclusiveLock);
	ec_catalog_forget_dependent(name, InvalidOid);
}

/* Take a table, or with InvalidOid all, out of what the document is made of. */
void
ec_catalog_forget_dependent(const char *name, Oid relid)
{
	Relation	rel = table_open(ec_catalog_relation("dependent"), RowExclusiveLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[Natts_ec_dependent];
		bool		nulls[Natts_ec_dependent];

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		if (strcmp(TextDatumGetCString(values[Anum_ec_dependent_document - 1]), name) == 0 &&
			(relid == InvalidOid ||
			 relid == DatumGetObjectId(values[Anum_ec_dependent_relation - 1])))
			CatalogTupleDelete(rel, &tuple->t_self);
	}
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
	CacheInvalidateRelcacheByRelid(ec_catalog_document(false));
	CommandCounterIncrement();
}
