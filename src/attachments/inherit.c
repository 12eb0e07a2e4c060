/*-------------------------------------------------------------------------
 *
 * inherit.c
 *	  Parents and children of a table, be they partitions or not.
 *
 * PostgreSQL's own functions for that throw when a table goes meanwhile, unless each is
 * locked.  A hook is called for tables that it has not locked, and that are just going:
 * what is gone has no relatives.  A partition whose DETACH CONCURRENTLY is under way counts
 * as one.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "attachments/inherit.h"

static List *relatives(Oid relid, bool parents);

/* The parents or the children of this table, by pg_inherits. */
static List *
relatives(Oid relid, bool parents)
{
	List	   *found = NIL;
	Relation	rel = table_open(InheritsRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, parents ? Anum_pg_inherits_inhrelid : Anum_pg_inherits_inhparent,
				BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, parents ? InheritsRelidSeqnoIndexId : InheritsParentIndexId,
							  true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_inherits form = (Form_pg_inherits) GETSTRUCT(tuple);

		found = lappend_oid(found, parents ? form->inhparent : form->inhrelid);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* The tables that this one inherits from directly, or is a partition of.  Locks none. */
List *
ec_inherit_parents(Oid relid)
{
	return relatives(relid, true);
}

/* The tables that inherit from this one directly, or are partitions of it.  Locks none. */
List *
ec_inherit_children(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool		has;

	if (!HeapTupleIsValid(tuple))
		return NIL;
	has = ((Form_pg_class) GETSTRUCT(tuple))->relhassubclass;
	ReleaseSysCache(tuple);
	return has ? relatives(relid, false) : NIL;
}

/* The table, and all that inherit from it at any level.  Locks none. */
List *
ec_inherit_tree(Oid relid)
{
	List	   *tree = list_make1_oid(relid);

	/* it grows while it is gone through */
	for (int i = 0; i < list_length(tree); i++)
		tree = list_concat_unique_oid(tree, ec_inherit_children(list_nth_oid(tree, i)));
	return tree;
}
