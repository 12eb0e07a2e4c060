/*-------------------------------------------------------------------------
 *
 * catalog.c
 *	  The extension's own tables: found, opened, and their rows written.
 *
 * A relation is one of ours if it has the name, is a member of the extension (pg_depend),
 * and has the columns that the code knows.  Its name alone proves nothing: whoever owns a
 * database may create a schema "echocache" with whatever is in it.  Without all of our
 * tables the extension counts as absent, also while it is being created or dropped, and
 * no hook does anything.  It counts as absent, too, while its objects are of a version that
 * this library cannot use (version.h).  Then whoever reads a document, or writes to an attached
 * table, is refused; the worker has given the database's slot up, and the one that comes when
 * the versions fit purges the servers.
 *
 * Each backend keeps what it has found until a relcache invalidation says otherwise: of one of
 * our tables, or of any relation as long as the extension is absent.  Whoever opens one of our
 * tables uses ec_catalog_open(), which looks at the columns again, under the lock.
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
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "attachments/catalog.h"
#include "version.h"

#define EXTENSION	"echocache"
#define SCHEMA		"echocache"

typedef struct Column
{
	const char *name;
	Oid			type;
	bool		notnull;
} Column;

/* In the order of the Anum_ec_ numbers. */
static const Column document_columns[] = {
	{"name", TEXTOID, true},
	{"relation", REGCLASSOID, true},
	{"key_column", NAMEOID, true},
	{"owner_column", NAMEOID, false},
	{"filter", TEXTOID, false},
	{"filter_columns", NAMEARRAYOID, true},
	{"filter_calls", TEXTOID, true},
	{"exclude", NAMEARRAYOID, true},
	{"ttl", INT4OID, false},
	{"policy", TEXTOID, true},
	{"document", TEXTOID, false},
	{"touch_on_read", BOOLOID, true},
};

static const Column dependent_columns[] = {
	{"document", TEXTOID, true},
	{"relation", REGCLASSOID, true},
	{"key_column", NAMEOID, true},
};

static const Column outbox_columns[] = {
	{"id", INT8OID, true},
	{"server", TEXTOID, true},
	{"document", TEXTOID, true},
	{"key", TEXTOID, false},
	{"since", TIMESTAMPTZOID, true},
};

StaticAssertDecl(lengthof(document_columns) == Natts_ec_document, "columns of document");
StaticAssertDecl(lengthof(dependent_columns) == Natts_ec_dependent, "columns of dependent");

static const struct
{
	const char *name;
	int			natts;
	const Column *columns;
}			tables[EC_CATALOG_NTABLES] = {
	[EC_CATALOG_DOCUMENT] = {"document", lengthof(document_columns), document_columns},
	[EC_CATALOG_DEPENDENT] = {"dependent", lengthof(dependent_columns), dependent_columns},
	[EC_CATALOG_OUTBOX] = {"outbox", lengthof(outbox_columns), outbox_columns},
};

static const char *const functions[EC_CATALOG_NFUNCTIONS] = {
	[EC_CATALOG_ROW_TRIGGER] = "echocache_row_trigger",
	[EC_CATALOG_TRUNCATE_TRIGGER] = "echocache_truncate_trigger",
	[EC_CATALOG_DEPENDENT_TRIGGER] = "echocache_dependent_trigger",
};

/* What this backend has found. */
static bool looked = false;		/* the rest is what there is now */
static bool disturbed = false;	/* an invalidation has come while it was looked for */
static bool present = false;	/* all tables and functions are there */
static char unusable[NAMEDATALEN];	/* the version, if the library cannot use it; else empty */
static Oid	table_oid[EC_CATALOG_NTABLES];
static Oid	function_oid[EC_CATALOG_NFUNCTIONS];

static void invalidate(Datum arg, Oid relid);
static bool has_columns(TupleDesc desc, EcCatalogTable which);
static bool find_extension(Oid *oid, Oid *schema, char *version);
static Oid	find_table(EcCatalogTable which, Oid schema, Oid extension);
static Oid	find_function(EcCatalogFunction which, Oid schema, Oid extension);
static void look(void);
static void throw_absent(void);

/* Once, before any backend looks. */
void
ec_catalog_init(void)
{
	CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
}

/* Relcache callback: look again, if it may be about one of our tables.  Never throws. */
static void
invalidate(Datum arg, Oid relid)
{
	bool		ours = !present || !OidIsValid(relid);

	for (int i = 0; i < EC_CATALOG_NTABLES; i++)
		ours |= table_oid[i] == relid;
	if (!ours)
		return;
	looked = false;
	disturbed = true;
}

/*
 * Members come to and leave the extension without a relcache invalidation.  Whoever changes
 * that calls this: every backend looks again.
 */
void
ec_catalog_look_again(void)
{
	if (present)
		CacheInvalidateRelcacheByRelid(table_oid[EC_CATALOG_DOCUMENT]);
	looked = false;
}

/*
 * A (sub)transaction is over.  A function of the extension's that it had dropped may be back,
 * and comes without a relcache invalidation.  Never throws.
 */
void
ec_catalog_at_end(void)
{
	if (!present)
		looked = false;
}

/* Are these the columns that the code knows, and no others? */
static bool
has_columns(TupleDesc desc, EcCatalogTable which)
{
	if (desc->natts != tables[which].natts)
		return false;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);
		const Column *column = &tables[which].columns[i];

		if (attr->attisdropped || attr->atttypid != column->type ||
			(column->notnull && !attr->attnotnull) ||
			strcmp(NameStr(attr->attname), column->name) != 0)
			return false;
	}
	return true;
}

/*
 * The extension, the schema that its functions are in, and the version of its objects, of which
 * NAMEDATALEN bytes with the final NUL are taken.  false: there is none.
 */
static bool
find_extension(Oid *oid, Oid *schema, char *version)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;
	bool		isnull;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(EXTENSION));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	if (found)
	{
		*oid = ((Form_pg_extension) GETSTRUCT(tuple))->oid;
		*schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
		text_to_cstring_buffer(DatumGetTextPP(heap_getattr(tuple, Anum_pg_extension_extversion,
														   RelationGetDescr(rel), &isnull)),
							   version, NAMEDATALEN);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* The table, if it is the extension's and as it was made; else InvalidOid.  Takes no lock. */
static Oid
find_table(EcCatalogTable which, Oid schema, Oid extension)
{
	Oid			oid = get_relname_relid(tables[which].name, schema);
	HeapTuple	tuple;
	bool		ours;

	if (!OidIsValid(oid) || getExtensionOfObject(RelationRelationId, oid) != extension)
		return InvalidOid;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(oid));
	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	ours = ((Form_pg_class) GETSTRUCT(tuple))->relkind == RELKIND_RELATION &&
		((Form_pg_class) GETSTRUCT(tuple))->relpersistence == RELPERSISTENCE_PERMANENT &&
		((Form_pg_class) GETSTRUCT(tuple))->relam == HEAP_TABLE_AM_OID &&
		((Form_pg_class) GETSTRUCT(tuple))->relnatts == tables[which].natts;
	ReleaseSysCache(tuple);
	for (int i = 0; ours && i < tables[which].natts; i++)
	{
		const Column *column = &tables[which].columns[i];
		Form_pg_attribute attr;

		tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(oid), Int16GetDatum(i + 1));
		if (!HeapTupleIsValid(tuple))
			return InvalidOid;
		attr = (Form_pg_attribute) GETSTRUCT(tuple);
		ours = !attr->attisdropped && attr->atttypid == column->type &&
			(!column->notnull || attr->attnotnull) &&
			strcmp(NameStr(attr->attname), column->name) == 0;
		ReleaseSysCache(tuple);
	}
	return ours ? oid : InvalidOid;
}

/* The function without arguments, if it is the extension's; else InvalidOid. */
static Oid
find_function(EcCatalogFunction which, Oid schema, Oid extension)
{
	Oid			oid = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
									  CStringGetDatum(functions[which]),
									  PointerGetDatum(buildoidvector(NULL, 0)),
									  ObjectIdGetDatum(schema));

	return OidIsValid(oid) && getExtensionOfObject(ProcedureRelationId, oid) == extension ?
		oid : InvalidOid;
}

/* Find all that is ours.  After an error, such as a cancel, there is no answer yet. */
static void
look(void)
{
	Oid			extension = InvalidOid;
	Oid			schema;
	Oid			function_schema = InvalidOid;
	bool		all;
	char		version[NAMEDATALEN];

	disturbed = false;
	present = false;
	unusable[0] = '\0';
	memset(table_oid, 0, sizeof(table_oid));
	memset(function_oid, 0, sizeof(function_oid));
	/* the schema first: it is in a cache, the extension is not */
	schema = get_namespace_oid(SCHEMA, true);
	all = OidIsValid(schema) && find_extension(&extension, &function_schema, version);
	if (all && !ec_version_fits(version))
	{
		strlcpy(unusable, version, sizeof(unusable));
		all = false;
	}
	for (int i = 0; all && i < EC_CATALOG_NTABLES; i++)
		all = OidIsValid(table_oid[i] = find_table(i, schema, extension));
	for (int i = 0; all && i < EC_CATALOG_NFUNCTIONS; i++)
		all = OidIsValid(function_oid[i] = find_function(i, function_schema, extension));
	present = all;
	looked = !disturbed;
}

/*
 * Is the extension in this database, with all that the code needs of it?  Every hook asks
 * this first.  false, too, outside of a transaction.
 */
bool
ec_catalog_is_present(void)
{
	if (!IsTransactionState() || !OidIsValid(MyDatabaseId))
		return false;
	while (!looked)
		look();
	return present;
}

/*
 * If the extension is there, but its objects are of a version that this library cannot use, say
 * so; with ERROR that is thrown, as 55000.
 */
void
ec_catalog_report_version(int elevel)
{
	if (!ec_catalog_is_present() && unusable[0] != '\0')
		ec_version_report(elevel, unusable);
}

/* Throws 42704 or 55000, always: this database has no extension that could be used. */
static void
throw_absent(void)
{
	ec_catalog_report_version(ERROR);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("extension \"echocache\" is not installed in this database"),
			 errhint("Run CREATE EXTENSION echocache.")));
}

/* OID of echocache.document.  Without the extension InvalidOid if missing_ok, else an error. */
Oid
ec_catalog_document(bool missing_ok)
{
	if (ec_catalog_is_present())
		return table_oid[EC_CATALOG_DOCUMENT];
	if (!missing_ok)
		throw_absent();
	return InvalidOid;
}

/* Is this one of the extension's own tables? */
bool
ec_catalog_is_own(Oid relid)
{
	if (!ec_catalog_is_present())
		return false;
	for (int i = 0; i < EC_CATALOG_NTABLES; i++)
		if (table_oid[i] == relid)
			return true;
	return false;
}

/* Is this the schema of the extension's own tables? */
bool
ec_catalog_is_own_schema(Oid schema)
{
	return ec_catalog_is_present() &&
		get_rel_namespace(table_oid[EC_CATALOG_DOCUMENT]) == schema;
}

/* A function of the extension's for triggers; InvalidOid without the extension. */
Oid
ec_catalog_function(EcCatalogFunction which)
{
	return ec_catalog_is_present() ? function_oid[which] : InvalidOid;
}

/* Is this one of the extension's functions for triggers on users' tables? */
bool
ec_catalog_is_trigger_function(Oid function)
{
	for (int i = 0; i < EC_CATALOG_NFUNCTIONS; i++)
		if (OidIsValid(function) && ec_catalog_function(i) == function)
			return true;
	return false;
}

/*
 * Open one of our tables; NULL if the extension is absent, or has just gone.  Waits for the
 * lock, which the caller has with the table, and has not with NULL.  Throws what waiting for a
 * lock and a look at the system catalogs throw.
 */
Relation
ec_catalog_try_open(EcCatalogTable which, LOCKMODE lockmode)
{
	Relation	rel;

	Assert(lockmode != NoLock);
	if (!ec_catalog_is_present())
		return NULL;
	rel = try_table_open(table_oid[which], lockmode);
	if (rel == NULL)
		return NULL;
	/* before we had the lock its owner may have changed it */
	if (has_columns(RelationGetDescr(rel), which))
		return rel;
	table_close(rel, lockmode);
	return NULL;
}

/* Open one of our tables.  Throws 42704 or 55000 if the extension is absent. */
Relation
ec_catalog_open(EcCatalogTable which, LOCKMODE lockmode)
{
	Relation	rel = ec_catalog_try_open(which, lockmode);

	if (rel == NULL)
		throw_absent();
	return rel;
}

/* A name[] as a list of strings, in the current memory context. */
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

/* A list of strings as a name[]. */
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

/*
 * Take the attachment out of the configuration, with its dependent tables.  No permission is
 * looked at.  Does nothing if there is none of that name.
 */
void
ec_catalog_forget(const char *name)
{
	Relation	rel = ec_catalog_open(EC_CATALOG_DOCUMENT, RowExclusiveLock);
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
 * Take a dependent table, or with InvalidOid all of them, from the attachment.  No permission
 * is looked at.
 */
void
ec_catalog_forget_dependent(const char *name, Oid relid)
{
	Relation	rel = ec_catalog_open(EC_CATALOG_DEPENDENT, RowExclusiveLock);
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
