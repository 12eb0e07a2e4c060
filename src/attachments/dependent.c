/*-------------------------------------------------------------------------
 *
 * dependent.c
 *	  Tables whose rows are part of another table's documents.
 *
 * A row of a dependent table holds the key of the document that it is part of.  A change
 * of the row is a change of that document, and its trigger notes the key.
 *
 * There is one level only.  A row that knows just its parent would have to look up the
 * document's key in the parent's row.  Another transaction may be moving the parent to
 * another document at that moment, and neither transaction sees the other's row.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/check.h"
#include "attachments/configuration.h"
#include "attachments/dependent.h"
#include "attachments/triggers.h"
#include "commit/pending.h"
#include "compat.h"

PG_FUNCTION_INFO_V1(echocache_attach_dependent);
PG_FUNCTION_INFO_V1(echocache_detach_dependent);

static void check_owns(EcAttachment *att, Oid relid);
static EcAttachment *lock_tables(const char *name, Oid relid, LOCKMODE mode);
static bool same_ids(Oid a, Oid b);
static void check_type(EcAttachment *att, Oid relid, const char *key);
static void check_reference(EcAttachment *att, Relation rel, const char *key);

/* Throws unless the current role owns both the attached table and the dependent one. */
static void
check_owns(EcAttachment *att, Oid relid)
{
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	if (!ec_compat_owns_relation(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(relid));
	if (!ec_compat_owns_relation(att->relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(att->relid));
}

/*
 * The attachment, with its table locked in AccessShareLock, so that nobody detaches it, and
 * the dependent table locked in this mode; both to the end of the transaction.  Throws if
 * there is no attachment of that name, or the current role does not own both tables.
 */
static EcAttachment *
lock_tables(const char *name, Oid relid, LOCKMODE mode)
{
	EcAttachment *att = ec_attachment_require(name);
	Oid			locked = InvalidOid;

	while (att->relid != locked)
	{
		check_owns(att, relid);
		locked = att->relid;
		LockRelationOid(locked, AccessShareLock);
		LockRelationOid(relid, mode);
		att = ec_attachment_require(name);
	}
	return att;
}

/* Has every id one text in both types? */
static bool
same_ids(Oid a, Oid b)
{
	const Oid	kinds[][3] = {{INT2OID, INT4OID, INT8OID}, {TEXTOID, VARCHAROID, TEXTOID}};

	for (int k = 0; k < 2; k++)
	{
		bool		has_a = false;
		bool		has_b = false;

		for (int i = 0; i < 3; i++)
		{
			has_a |= kinds[k][i] == a;
			has_b |= kinds[k][i] == b;
		}
		if (has_a && has_b)
			return true;
	}
	return a == b;
}

/* Throws unless the column can hold keys of the attachment, as the types of both are now. */
static void
check_type(EcAttachment *att, Oid relid, const char *key)
{
	HeapTuple	tuple = SearchSysCacheAttName(relid, key);
	Form_pg_attribute attr;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of table \"%s\" does not exist", key,
						get_rel_name(relid))));
	attr = (Form_pg_attribute) GETSTRUCT(tuple);
	if (!att->key_exact)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("document \"%s\" cannot have dependent tables", att->name),
				 errdetail("Equal keys of type %s can have different texts, so a dependent row "
						   "does not tell which cached document it is part of.",
						   format_type_be(att->key.type)),
				 errhint("Key columns can be integers, uuids, text and varchar.")));
	if (attr->attnum <= 0 || !same_ids(attr->atttypid, att->key.type) || ec_compat_is_virtual(attr))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of table \"%s\" cannot hold keys of document \"%s\"", key,
						get_rel_name(relid), att->name),
				 errdetail("The key of the document has type %s.", format_type_be(att->key.type))));
	ReleaseSysCache(tuple);
}

/*
 * After a change of the tables of an attachment: throws unless all columns of its dependent
 * tables can still hold its keys.  The attachment is resolved.
 */
void
ec_dependent_check_keys(EcAttachment *att)
{
	ListCell   *lc;

	Assert(att->resolved);
	foreach(lc, att->dependents)
	{
		EcDependent *dependent = lfirst(lc);
		ListCell   *lk;

		foreach(lk, dependent->keys)
			check_type(att, dependent->relid, lfirst(lk));
	}
}

/* Throws if a foreign key says that the column holds keys of another table. */
static void
check_reference(EcAttachment *att, Relation rel, const char *key)
{
	AttrNumber	attno = get_attnum(RelationGetRelid(rel), key);
	Oid			other = InvalidOid;
	bool		ours = false;
	ListCell   *lc;

	foreach(lc, RelationGetFKeyList(rel))
	{
		ForeignKeyCacheInfo *fk = lfirst(lc);

		if (fk->nkeys != 1 || fk->conkey[0] != attno)
			continue;
		if (fk->confrelid == att->relid &&
			fk->confkey[0] == get_attnum(att->relid, NameStr(att->key.name)))
			ours = true;
		else
			other = fk->confrelid;
	}
	if (OidIsValid(other) && !ours)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" of table \"%s\" does not refer to the key of document "
						"\"%s\"", key, RelationGetRelationName(rel), att->name),
				 errdetail("It refers to table \"%s\"; but which document that row is part of may "
						   "change at the same moment as this one.", get_rel_name(other)),
				 errhint("Add a column with the document's key to table \"%s\".",
						 RelationGetRelationName(rel))));
}

/* SQL: rows of this table are part of the document whose key they have in this column. */
Datum
echocache_attach_dependent(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	char	   *key = NameStr(*PG_GETARG_NAME(1));
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(2));
	EcAttachment *att;
	Oid			attached;
	bool		has_triggers = false;
	Relation	rel;
	Relation	catalog;
	Datum		values[Natts_ec_dependent];
	bool		nulls[Natts_ec_dependent] = {0};
	ListCell   *lc;

	PreventCommandIfReadOnly("echocache_attach_dependent()");
	/* as CREATE TRIGGER locks it: no writer is under way without our trigger */
	att = lock_tables(name, relid, ShareRowExclusiveLock);
	attached = att->relid;
	if (!att->function_name)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("document \"%s\" is made of one row", name),
				 errdetail("No row of another table is part of it."),
				 errhint("Attach its table with document => 'a function' to make documents of "
						 "several tables.")));
	rel = relation_open(relid, NoLock);
	ec_check_relation(rel);
	if (rel->rd_rel->relkind == RELKIND_RELATION &&
		find_inheritance_children(relid, NoLock) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot attach \"%s\"", RelationGetRelationName(rel)),
				 errdetail("Other tables inherit from it; triggers do not follow their rows.")));
	check_type(att, relid, key);
	check_reference(att, rel, key);
	foreach(lc, att->dependents)
	{
		EcDependent *dependent = lfirst(lc);
		ListCell   *lk;

		if (dependent->relid != relid)
			continue;
		has_triggers = true;
		foreach(lk, dependent->keys)
			if (strcmp(lfirst(lk), key) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_OBJECT),
						 errmsg("table \"%s\" is part of document \"%s\" already, by column \"%s\"",
								RelationGetRelationName(rel), name, key)));
	}
	relation_close(rel, NoLock);	/* ALTER TABLE wants it closed; the lock stays */

	/* a trigger that an earlier attachment has left does nothing, but has the name */
	if (!has_triggers)
	{
		ec_triggers_drop(relid, name, true);
		ec_triggers_create(relid, name,
						   get_namespace_name(get_func_namespace(fcinfo->flinfo->fn_oid)), true);
	}

	/* the caller's rights on echocache.dependent do not matter */
	catalog = ec_catalog_open(EC_CATALOG_DEPENDENT, RowExclusiveLock);
	values[Anum_ec_dependent_document - 1] = CStringGetTextDatum(name);
	values[Anum_ec_dependent_relation - 1] = ObjectIdGetDatum(relid);
	values[Anum_ec_dependent_key_column - 1] = DirectFunctionCall1(namein, CStringGetDatum(key));
	CatalogTupleInsert(catalog, heap_form_tuple(RelationGetDescr(catalog), values, nulls));
	table_close(catalog, RowExclusiveLock);
	CacheInvalidateRelcacheByRelid(ec_catalog_document(false));
	CommandCounterIncrement();
	ec_pending_whole(attached);
	PG_RETURN_VOID();
}

/* SQL: rows of this table are no part of such documents any more. */
Datum
echocache_detach_dependent(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	EcAttachment *att;
	Oid			attached;
	bool		found = false;
	ListCell   *lc;

	PreventCommandIfReadOnly("echocache_detach_dependent()");
	att = lock_tables(name, relid, AccessExclusiveLock);	/* as DROP TRIGGER will */
	attached = att->relid;
	foreach(lc, att->dependents)
		found |= ((EcDependent *) lfirst(lc))->relid == relid;
	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" is not part of document \"%s\"", get_rel_name(relid), name),
				 errhint("The view echocache_documents lists what is.")));
	ec_catalog_forget_dependent(name, relid);
	ec_triggers_drop(relid, name, true);
	ec_pending_whole(attached);
	PG_RETURN_VOID();
}
