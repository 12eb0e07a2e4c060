/*-------------------------------------------------------------------------
 *
 * attach.c
 *	  Attach and detach tables.
 *
 * A change of the attachments is a change of every document of the table, and
 * goes through the fence: keys that an earlier life of the name left behind are
 * purged at the commit that attaches it, those of a detached one before it.
 *
 * The configuration is written with the rights of its owner, the triggers are
 * created with the caller's, who must own the table.
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
#include "catalog/catalog.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/nodes.h"
#include "optimizer/optimizer.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "admin.h"
#include "attach.h"
#include "build.h"
#include "cluster.h"
#include "compat.h"
#include "configuration.h"
#include "dependent.h"
#include "document.h"
#include "fence.h"
#include "outbox.h"
#include "render.h"

PG_FUNCTION_INFO_V1(echocache_attach);
PG_FUNCTION_INFO_V1(echocache_detach);

/* The attachment in the making. */
typedef struct Attachment
{
	char	   *schema;			/* where our functions are */
	char	   *name;
	Oid			relid;
	Relation	rel;			/* open while it is checked */
	char	   *key;
	char	   *owner;			/* NULL: none */
	char	   *filter;			/* NULL: none; else as it was given, then canonical */
	List	   *filter_columns;
	List	   *exclude;
	int64		ttl;			/* -1: none of its own */
	char	   *policy;
	char	   *function;		/* NULL: none */
	bool		touch_on_read;
} Attachment;

static void check_kind(Relation rel);
static void warn_shared_keys(const char *name);
static char *find_key(Relation rel);
static void check_key(Relation rel, const char *key);
static bool unique_on(Relation index, Relation rel, AttrNumber attno);
static void check_columns(Attachment *a);
static void check_filter(Attachment *a);
static Datum ec_catalog_names_datum(List *names);
static void insert_configuration(Attachment *a);
static void run(const char *fmt,...) pg_attribute_printf(1, 2);

/* ---------------------------------------------------------------- checks */

/* Only where triggers see every change, and a crash forgets nothing else. */
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

/* The primary key's column, which must be one. */
static char *
find_key(Relation rel)
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
 * Does the unique index say that the column is unique?  For a partitioned table
 * no index can say that of a column that is not its partition key; then one that
 * has just the partition key beside it is taken for the best that can be said.
 */
static bool
unique_on(Relation index, Relation rel, AttrNumber attno)
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

static void
check_key(Relation rel, const char *key)
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

		unique |= unique_on(index, rel, attno);
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

/* The excluded columns and the owner. */
static void
check_columns(Attachment *a)
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
 * The filter is one boolean expression over the row's columns whose result
 * depends on nothing else.  It becomes what ruleutils makes of it, with every
 * name qualified, so that it means the same in every session.
 */
static void
check_filter(Attachment *a)
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
}

/* Can triggers follow this table, which is open and locked?  So must its partitions be. */
void
ec_check_relation(Relation rel)
{
	ListCell   *lc;

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

/* ---------------------------------------------------------------- catalog and triggers */

static Datum
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

/* With the rights of the table's owner, who has created the extension. */
static void
insert_configuration(Attachment *a)
{
	Relation	rel = table_open(ec_catalog_document(false), RowExclusiveLock);
	Datum		values[Natts_ec_document] = {0};
	bool		nulls[Natts_ec_document] = {0};
	HeapTuple	tuple;

	values[Anum_ec_document_name - 1] = CStringGetTextDatum(a->name);
	values[Anum_ec_document_relation - 1] = ObjectIdGetDatum(a->relid);
	values[Anum_ec_document_key_column - 1] =
		DirectFunctionCall1(namein, CStringGetDatum(a->key));
	nulls[Anum_ec_document_owner_column - 1] = a->owner == NULL;
	if (a->owner)
		values[Anum_ec_document_owner_column - 1] =
			DirectFunctionCall1(namein, CStringGetDatum(a->owner));
	nulls[Anum_ec_document_filter - 1] = a->filter == NULL;
	if (a->filter)
		values[Anum_ec_document_filter - 1] = CStringGetTextDatum(a->filter);
	values[Anum_ec_document_filter_columns - 1] = ec_catalog_names_datum(a->filter_columns);
	values[Anum_ec_document_exclude - 1] = ec_catalog_names_datum(a->exclude);
	nulls[Anum_ec_document_ttl - 1] = a->ttl < 0;
	values[Anum_ec_document_ttl - 1] = Int32GetDatum((int32) a->ttl);
	values[Anum_ec_document_policy - 1] = CStringGetTextDatum(a->policy);
	nulls[Anum_ec_document_document - 1] = a->function == NULL;
	if (a->function)
		values[Anum_ec_document_document - 1] = CStringGetTextDatum(a->function);
	values[Anum_ec_document_touch_on_read - 1] = BoolGetDatum(a->touch_on_read);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	CatalogTupleInsert(rel, tuple); /* unique indexes included */
	CacheInvalidateRelcache(rel);
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
}

/* Run a utility command through SPI, which is connected. */
static void
run(const char *fmt,...)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, fmt);
		needed = appendStringInfoVA(&sql, fmt, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&sql, needed);
	}
	if (SPI_execute(sql.data, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not run \"%s\"", sql.data);
	pfree(sql.data);
}

/*
 * The triggers for the document of this name: its own table's, or those of a
 * dependent one.  They belong to the extension, as far as DROP goes: DROP EXTENSION takes
 * them along.
 */
void
ec_triggers_create(Oid relid, const char *name, const char *schema, bool dependent)
{
	const char *functions = quote_identifier(schema);
	const char *rel = quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
												 get_rel_name(relid));
	const char *kind = dependent ? "dependent" : "row";
	char		suffix[41];
	char		trigger[2][NAMEDATALEN];
	int			n = 0;

	/* a table may be part of several documents, whose names may begin alike */
	snprintf(suffix, sizeof(suffix), "%s", name);
	if (dependent && strlen(name) > 33)
		snprintf(suffix, sizeof(suffix), "%.24s_%08x", name,
				 hash_bytes((const unsigned char *) name, (int) strlen(name)));
	SPI_connect();
	snprintf(trigger[n], NAMEDATALEN, "echocache_%s_%s", kind, suffix);
	run("CREATE TRIGGER %s AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW "
		"EXECUTE FUNCTION %s.echocache_%s_trigger('%s')", trigger[n++], rel, functions, kind, name);
	/* a table that is its own dependent has one already */
	if (!dependent || linitial_oid(ec_attachment_tables(name)) != relid)
	{
		snprintf(trigger[n], NAMEDATALEN, "echocache_truncate_%s%s",
				 dependent ? "dependent_" : "", suffix);
		run("CREATE TRIGGER %s BEFORE TRUNCATE ON %s FOR EACH STATEMENT "
			"EXECUTE FUNCTION %s.echocache_truncate_trigger('%s')", trigger[n++], rel, functions,
			name);
	}
	for (int i = 0; i < n; i++)
	{
		/* ONLY: early releases of 14 fail for partitions, which do not have the second trigger */
		run("ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %s", rel, trigger[i]);
		run("ALTER TRIGGER %s ON %s DEPENDS ON EXTENSION echocache", trigger[i], rel);
	}
	run("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", rel, trigger[0]);
	SPI_finish();
}

/*
 * Drop the triggers for the document of this name, whatever they are called; of
 * a table that is its own dependent, with dependent only those that make it one.
 */
void
ec_triggers_drop(Oid relid, const char *name, bool dependent)
{
	Relation	rel = table_open(relid, AccessShareLock);
	const char *qualified = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
													   RelationGetRelationName(rel));
	bool		own = dependent && linitial_oid(ec_attachment_tables(name)) == relid;
	List	   *found = NIL;
	ListCell   *lc;

	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		Trigger    *t = &rel->trigdesc->triggers[i];
		char	   *function = get_func_name(t->tgfoid);

		if (t->tgnargs == 1 && strcmp(t->tgargs[0], name) == 0 && !t->tgisclone &&
			(strcmp(function, "echocache_dependent_trigger") == 0 ||
			 (!own && (strcmp(function, "echocache_row_trigger") == 0 ||
					   strcmp(function, "echocache_truncate_trigger") == 0))))
			found = lappend(found, pstrdup(t->tgname));
	}
	table_close(rel, NoLock);
	SPI_connect();
	foreach(lc, found)
		run("DROP TRIGGER %s ON %s", quote_identifier(lfirst(lc)), qualified);
	SPI_finish();
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

/*
 * Invalidate every document of a table that is being detached, and keep anybody
 * from storing another until this transaction has ended.  Returns how many keys
 * there were.  What cannot be reached now goes into the outbox.
 */
int64
ec_detach_invalidate(const char *name, Oid relid, bool extension)
{
	int64		removed = 0;

	ec_slot_note_detach(relid);
	(void) ec_locks_attachment(relid, EC_LOCK_ATTACHMENT_INVALIDATE, true);
	if (!ec_placement_enter_always())
	{
		/* when the cache is on again, its purge will not know the name */
		for (int i = 0; i < ec_placement_size() && !extension; i++)
			ec_outbox_add(ec_placement_name(i), name, NULL, 0);
		ec_topology_leave();
	}
	else
	{
		bool		confirmed = ec_invalidate_all(name, &removed, !extension);

		ec_topology_leave();
		if (extension && !confirmed)
			ereport(WARNING,
					(errmsg("cached documents of \"%s\" could not be invalidated from every server",
							name),
					 errdetail("They can be read there until they expire.")));
	}
	return removed;
}

/* Databases with one prefix use one another's keys, if they have documents of one name. */
static void
warn_shared_keys(const char *name)
{
	EcDatabase *mine = ec_state_database();

	for (int i = 0; mine != NULL && i < EC_MAX_DATABASES; i++)
	{
		EcDatabase *db = &ec_shmem->database[i];

		if (db == mine || !OidIsValid(db->dboid) || strcmp(db->prefix, mine->prefix) != 0)
			continue;
		ereport(WARNING,
				(errmsg("another database uses cache keys with the same prefix"),
				 errdetail("If it has a document \"%s\" too, only one of the two is cached.", name),
				 errhint("Use ALTER DATABASE ... SET echocache.key_prefix, then "
						 "SELECT pg_reload_conf().")));
		return;
	}
}

/* ---------------------------------------------------------------- SQL functions */

Datum
echocache_attach(PG_FUNCTION_ARGS)
{
	Attachment	a = {0};
	Oid			relid;
	EcAttachment *attached;

	ec_shmem_require();
	PreventCommandIfReadOnly("echocache_attach()");
	for (int i = 0; i < 2; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("the %s to attach cannot be NULL", i == 0 ? "table" : "name")));
	relid = a.relid = PG_GETARG_OID(0);
	a.schema = get_namespace_name(get_func_namespace(fcinfo->flinfo->fn_oid));
	a.name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!ec_key_valid_name(a.name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid document name \"%s\"", a.name),
				 errhint("A name has 1 to 63 lower-case letters, digits and underscores, and "
						 "begins with a letter.")));
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	if (!ec_compat_owns_relation(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(relid));

	/* as CREATE TRIGGER locks it: no writer is under way without our trigger */
	a.rel = relation_open(relid, ShareRowExclusiveLock);
	ec_check_relation(a.rel);

	attached = ec_attachment_by_relid(relid);
	if (attached != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("table \"%s\" is attached already, as document \"%s\"",
						RelationGetRelationName(a.rel), attached->name),
				 errhint("To attach it anew, run SELECT echocache_detach('%s') first.",
						 attached->name)));
	attached = ec_attachment_by_name(a.name);
	if (attached != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("there is a document \"%s\" already, of table \"%s\"", a.name,
						get_rel_name(attached->relid)),
				 errhint("Give this one another name.")));

	a.key = PG_ARGISNULL(2) ? find_key(a.rel) : pstrdup(NameStr(*PG_GETARG_NAME(2)));
	check_key(a.rel, a.key);
	a.owner = PG_ARGISNULL(3) ? NULL : pstrdup(NameStr(*PG_GETARG_NAME(3)));
	if (!PG_ARGISNULL(5))
		a.exclude = ec_catalog_names(PG_GETARG_DATUM(5));
	check_columns(&a);
	if (!PG_ARGISNULL(4))
	{
		a.filter = text_to_cstring(PG_GETARG_TEXT_PP(4));
		check_filter(&a);
	}
	a.ttl = PG_ARGISNULL(6) ? -1 : ec_support_seconds(PG_GETARG_INTERVAL_P(6));
	a.policy = PG_ARGISNULL(7) ? "write-through" : text_to_cstring(PG_GETARG_TEXT_PP(7));
	if (strcmp(a.policy, "write-through") != 0 && strcmp(a.policy, "invalidate") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid policy \"%s\"", a.policy),
				 errhint("A policy is \"write-through\" or \"invalidate\".")));

	if (!PG_ARGISNULL(8))
	{
		if (a.exclude != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a document made by a function cannot exclude columns"),
					 errhint("Let the function leave them out.")));
		a.function = ec_build_check_function(PG_GETARG_OID(8), a.rel);
	}
	a.touch_on_read = !PG_ARGISNULL(9) && PG_GETARG_BOOL(9);

	warn_shared_keys(a.name);
	relation_close(a.rel, NoLock);	/* ALTER TABLE wants it closed; the lock stays */
	/* the triggers first: nobody need be warned that they do not fire yet */
	ec_triggers_create(relid, a.name, a.schema, false);
	ec_slot_note_attach(relid);
	insert_configuration(&a);
	ec_fence_note_whole(relid);
	if (a.function)
		ec_fetch_try(ec_attachment_by_name(a.name));
	PG_RETURN_VOID();
}

Datum
echocache_detach(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	List	   *tables;
	Oid			relid;
	int64		removed;
	ListCell   *lc;

	ec_shmem_require();
	PreventCommandIfReadOnly("echocache_detach()");
	/* while we wait for the locks the name may become that of another's table */
	do
	{
		tables = ec_attachment_tables(name);
		if (tables == NIL)
			(void) ec_attachment_require(name);	/* throws */
		relid = linitial_oid(tables);
		if (!superuser() && !ec_compat_owns_relation(relid, GetUserId()))
			aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(relid));
		foreach(lc, tables)
			LockRelationOid(lfirst_oid(lc), AccessExclusiveLock);	/* as DROP TRIGGER will */
	} while (!equal(tables, ec_attachment_tables(name)));
	removed = ec_detach_invalidate(name, relid, false);
	ec_catalog_forget(name);
	foreach(lc, tables)
		ec_triggers_drop(lfirst_oid(lc), name, false);
	PG_RETURN_INT64(removed);
}
