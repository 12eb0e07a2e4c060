/*-------------------------------------------------------------------------
 *
 * check.c
 *	  What can be attached: checks of the arguments of echocache_attach().
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/sysattr.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "nodes/nodes.h"
#include "optimizer/optimizer.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "attachments/check.h"
#include "attachments/filter.h"

static void check_kind(Relation rel);
static bool is_unique_on(Relation index, Relation rel, AttrNumber attno);

/*
 * Throws unless triggers see every change of the relation, and a crash takes back nothing
 * that the write-ahead log has.
 */
static void
check_kind(Relation rel)
{
	const char *why = NULL;

	if (IsCatalogRelation(rel) || IsToastRelation(rel) ||
		RelationGetNamespace(rel) == get_namespace_oid("echocache", true))
		why = "Catalogs cannot have triggers of their own.";
	else
		switch (rel->rd_rel->relkind)
		{
			case RELKIND_RELATION:
			case RELKIND_PARTITIONED_TABLE:
				break;
			case RELKIND_VIEW:
			case RELKIND_MATVIEW:
				why = "A view's rows change without its triggers being told.";
				break;
			case RELKIND_FOREIGN_TABLE:
				why = "A foreign table's rows can be changed on the other side.";
				break;
			default:
				why = "It has no rows that triggers could follow.";
		}
	if (why == NULL && rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		why = "Other sessions do not see a temporary table's rows.";
	else if (why == NULL && rel->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		why = "A crash empties an unlogged table without any trigger being told.";
	else if (why == NULL && OidIsValid(rel->rd_rel->reloftype))
		why = "A typed table's columns change with its type.";
	if (why)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot attach \"%s\"", RelationGetRelationName(rel)),
				 errdetail_internal("%s", why),
				 errhint("Attach an ordinary or partitioned table.")));
}

/*
 * Throws unless triggers can follow this table and all its partitions.  The caller has the
 * table open and locked; its partitions are locked here, in AccessShareLock.
 */
void
ec_check_relation(Relation rel)
{
	ListCell   *lc;

	Assert(CheckRelationLockedByMe(rel, ShareRowExclusiveLock, true));
	check_kind(rel);
	if (rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return;
	foreach(lc, find_all_inheritors(RelationGetRelid(rel), AccessShareLock, NULL))
	{
		Relation	partition = relation_open(lfirst_oid(lc), NoLock);

		check_kind(partition);
		relation_close(partition, NoLock);
	}
}

/* The column of the primary key, copied.  Throws unless the table has one with one column. */
char *
ec_check_find_key(Relation rel)
{
	Oid			oid;
	Relation	index;
	char	   *key = NULL;
	int			n;

	(void) RelationGetIndexList(rel);	/* sets rd_pkindex */
	oid = rel->rd_pkindex;
	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("table \"%s\" has no primary key", RelationGetRelationName(rel)),
				 errhint("Add one, or name a unique column with key_column => '...'.")));
	index = index_open(oid, AccessShareLock);
	n = index->rd_index->indnkeyatts;
	if (n == 1)
		key = get_attname(RelationGetRelid(rel), index->rd_index->indkey.values[0], false);
	index_close(index, AccessShareLock);
	if (n != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("the primary key of table \"%s\" has %d columns",
						RelationGetRelationName(rel), n),
				 errdetail("A document's key is one column."),
				 errhint("Name a column that is unique by itself with key_column => '...'.")));
	return key;
}

/*
 * Does the unique index say that the column is unique?  An index of a partitioned table
 * contains the partition key, so it cannot say that of any other column.  There an index
 * over the column and the partition key is the best that can be had, and is accepted.
 */
static bool
is_unique_on(Relation index, Relation rel, AttrNumber attno)
{
	bool		has = false;

	if (!index->rd_index->indisunique || !index->rd_index->indisvalid ||
		RelationGetIndexPredicate(index) != NIL)
		return false;
	for (int i = 0; i < index->rd_index->indnkeyatts; i++)
	{
		AttrNumber	attr = index->rd_index->indkey.values[i];
		bool		partition_key = false;

		if (attr == attno)
		{
			has = true;
			continue;
		}
		if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		{
			PartitionKey key = RelationGetPartitionKey(rel);

			for (int p = 0; p < get_partition_natts(key); p++)
				partition_key |= get_partition_col_attnum(key, p) == attr && attr != 0;
		}
		if (!partition_key)
			return false;
	}
	return has;
}

/* Throws unless the column exists, is unique and can be compared.  The table is locked. */
void
ec_check_key(Relation rel, const char *key)
{
	AttrNumber	attno = get_attnum(RelationGetRelid(rel), key);
	bool		unique = false;
	ListCell   *lc;

	if (attno <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of table \"%s\" does not exist", key,
						RelationGetRelationName(rel))));
	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		unique |= is_unique_on(index, rel, attno);
		index_close(index, AccessShareLock);
	}
	if (!unique)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("column \"%s\" of table \"%s\" is not unique", key,
						RelationGetRelationName(rel)),
				 errhint("Create a unique index on it.")));
	if (!OidIsValid(lookup_type_cache(get_atttype(RelationGetRelid(rel), attno),
									  TYPECACHE_EQ_OPR)->eq_opr))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("the type of column \"%s\" has no equality operator", key)));
}

/* Throws unless the excluded columns and the owner column are ones that can be so. */
void
ec_check_columns(EcAttaching *a)
{
	Oid			relid = RelationGetRelid(a->rel);
	ListCell   *lc;

	foreach(lc, a->exclude)
	{
		const char *column = lfirst(lc);

		if (get_attnum(relid, column) <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of table \"%s\" does not exist", column,
							RelationGetRelationName(a->rel)),
					 errdetail("It is in the list of excluded columns.")));
		if (strcmp(column, a->key) == 0 || (a->owner && strcmp(column, a->owner) == 0))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("column \"%s\" cannot be excluded", column),
					 errdetail("A document shows its key and its owner.")));
	}
	if (a->owner == NULL)
		return;
	if (get_attnum(relid, a->owner) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of table \"%s\" does not exist", a->owner,
						RelationGetRelationName(a->rel)),
				 errdetail("It is given as the owner.")));
	switch (get_atttype(relid, get_attnum(relid, a->owner)))
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case NAMEOID:
		case UUIDOID:
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" has a type that owners cannot have", a->owner),
					 errhint("Owners are integers, uuids or character strings.")));
	}
}

/*
 * Throws unless the filter is one boolean expression whose result depends on nothing but
 * the row's columns.  Replaces it by what ruleutils makes of it, with every name qualified,
 * so that it means the same in every session, and notes which columns and functions it uses.
 * 0A000, where that text would call other functions: NULLIF and the like have an operator that
 * no text qualifies.
 */
void
ec_check_filter(EcAttaching *a)
{
	Node	   *expr;
	Bitmapset  *attnos = NULL;
	int			attno = -1;

	expr = ec_filter_parse(a->rel, a->filter, false);
	if (contain_mutable_functions(expr))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("functions in the filter must be IMMUTABLE"),
				 errdetail("A cached document does not notice that anything but its row has "
						   "changed.")));
	pull_varattnos(expr, 1, &attnos);
	while ((attno = bms_next_member(attnos, attno)) >= 0)
	{
		int			column = attno + FirstLowInvalidHeapAttributeNumber;

		if (column <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
					 errmsg("the filter cannot use system columns or the whole row")));
		a->filter_columns = lappend(a->filter_columns,
									get_attname(RelationGetRelid(a->rel), column, false));
	}

	a->filter = ec_filter_deparse(RelationGetRelid(a->rel), expr);
	a->filter_calls = ec_filter_calls(expr);
	if (strcmp(ec_filter_calls(ec_filter_parse(a->rel, a->filter, true)), a->filter_calls) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the filter cannot be stored"),
				 errdetail("It would call other functions as \"%s\".", a->filter),
				 errhint("Write OPERATOR(schema.=), in place of IS DISTINCT FROM, NULLIF or "
						 "CASE ... WHEN.")));
}
