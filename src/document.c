/*-------------------------------------------------------------------------
 *
 * document.c
 *	  Attached documents: their configuration, as this backend has it cached.
 *
 * The configuration lives in the table echocache.document.  A backend keeps it
 * in memory and drops it whenever that table, or an attached one, sends a
 * relcache invalidation; what was dropped is freed at the end of the
 * transaction, so a pointer to a document may be held until then.  Looking a
 * document up takes no lock on its table: a cache hit must not wait for DDL.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "utils/varlena.h"

#include "attach.h"
#include "cluster.h"
#include "compat.h"
#include "document.h"
#include "guc.h"
#include "render.h"

/* What a value of this type is in JSON depends on no setting. */
static bool
type_is_plain(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case CHAROID:
		case NAMEOID:
		case UUIDOID:
		case JSONOID:
		case JSONBOID:
		case NUMERICOID:
		case DATEOID:
		case TIMESTAMPOID:
			return true;
		default:
			return false;
	}
}

/* The loaded configuration; NULL: not loaded, or dropped. */
static MemoryContext cache_context = NULL;
static List *documents;			/* of EcDocument */
static HTAB *row_maps;			/* of EcRowMap, by relid */
static Oid	catalog_oid = InvalidOid;	/* echocache.document */
static bool cache_stale = false;
static bool stale_at_end = false;	/* ... when the transaction is over */

/* What was dropped in this transaction: lists of EcDocument, each with its context. */
typedef struct Dropped
{
	MemoryContext context;
	List	   *documents;
} Dropped;

static List *dropped_list = NIL;

static void invalidate(Datum arg, Oid relid);
static void load(void);
static void free_plans(EcDocument *doc);
static bool is_attached_now(Oid relid);
static EcDocument *read_document(HeapTuple tuple, TupleDesc desc);
static void read_dependents(void);
static void resolve(EcDocument *doc);
static bool triggers_fire(Oid relid, const char *name, const char *row, const char *truncate);
static bool all_triggers_fire(EcDocument *doc);
static EcRowMap *row_map(Oid relid);
static bool is_part(Oid relid, Oid whole);
static bool is_family(Oid relid, Oid other);
static void resolve_column(EcDocument *doc, EcColumn *column);
static bool type_contains(Oid type, Oid rowtype);
static bool shows_type(Oid relid, Oid rowtype);
static bool depends_on_type(EcDocument *doc, Oid rowtype);
static bool key_is_exact(const EcColumn *key);

/* Once per backend. */
void
ec_document_init(void)
{
	CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
}

/* Relcache callback: only note it; nothing may be freed here. */
static void
invalidate(Datum arg, Oid relid)
{
	ListCell   *lc;

	if (cache_context == NULL)
		cache_stale = true;		/* it is being loaded, perhaps */
	if (cache_stale)
		return;
	if (relid == InvalidOid || relid == catalog_oid ||
		hash_search(row_maps, &relid, HASH_FIND, NULL) != NULL)
	{
		cache_stale = true;
		return;
	}
	foreach(lc, documents)
	{
		EcDocument *doc = lfirst(lc);
		ListCell   *ld;

		cache_stale |= doc->relid == relid;
		foreach(ld, doc->dependents)
			cache_stale |= ((EcDependent *) lfirst(ld))->relid == relid;
	}
}

/*
 * Catalogs are changing in a way that no invalidation of a table of ours tells: every
 * backend, and after the transaction this one too, loads the configuration anew.
 */
void
ec_document_reload(void)
{
	CacheInvalidateRelcacheByRelid(ec_document_catalog(false));
	stale_at_end = true;
}

/* At the end of a transaction: free what was dropped in it. */
void
ec_document_at_xact_end(void)
{
	ListCell   *lc;

	cache_stale |= stale_at_end;
	stale_at_end = false;
	foreach(lc, dropped_list)
	{
		Dropped    *dropped = lfirst(lc);
		ListCell   *ld;

		foreach(ld, dropped->documents)
			free_plans(lfirst(ld));
		MemoryContextDelete(dropped->context);
	}
	list_free_deep(dropped_list);
	dropped_list = NIL;
}

/* They live outside of the document's context. */
static void
free_plans(EcDocument *doc)
{
	SPIPlanPtr	plans[] = {doc->plan_one[0], doc->plan_one[1], doc->plan_many[0],
	doc->plan_many[1], doc->plan_row};

	for (int i = 0; i < lengthof(plans); i++)
		if (plans[i] != NULL)
			SPI_freeplan(plans[i]);
}

/* A table of the extension's own, which must be there. */
Oid
ec_relation(const char *name)
{
	return get_relname_relid(name, get_namespace_oid("echocache", false));
}

/* OID of echocache.document; InvalidOid if missing_ok and there is no extension. */
Oid
ec_document_catalog(bool missing_ok)
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

/*
 * Have the configuration in memory, as of now.  In a database without the
 * extension (or while it is being dropped) it is empty.
 */
static void
load(void)
{
	MemoryContext context;
	MemoryContext old;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(EcRowMap)};

	AcceptInvalidationMessages();
	if (cache_context != NULL && !cache_stale)
		return;

	if (cache_context != NULL)
	{
		Dropped    *dropped;

		old = MemoryContextSwitchTo(TopMemoryContext);
		dropped = palloc(sizeof(Dropped));
		dropped->context = cache_context;
		dropped->documents = documents;
		dropped_list = lappend(dropped_list, dropped);
		MemoryContextSwitchTo(old);
		cache_context = NULL;
	}
	catalog_oid = ec_document_catalog(true);

	context = AllocSetContextCreate(CurrentMemoryContext, "echocache documents",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	ctl.hcxt = context;
	row_maps = hash_create("echocache row maps", 32, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	documents = NIL;

	/* an invalidation from here on makes it stale again; an error leaves nothing loaded */
	cache_stale = false;
	if (OidIsValid(catalog_oid))
	{
		rel = table_open(catalog_oid, AccessShareLock);
		scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
		while (HeapTupleIsValid(tuple = systable_getnext(scan)))
			documents = lappend(documents, read_document(tuple, RelationGetDescr(rel)));
		systable_endscan(scan);
		table_close(rel, AccessShareLock);
		read_dependents();
	}
	else
		cache_stale = true;		/* which OID to look out for is not known yet */
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, CacheMemoryContext);
	cache_context = context;
}

/* A name[] as a list of strings. */
List *
ec_name_list(Datum array)
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

/* One row of echocache.document; the rest is looked up at first use, by resolve(). */
static EcDocument *
read_document(HeapTuple tuple, TupleDesc desc)
{
	EcDocument *doc = palloc0(sizeof(EcDocument));
	Datum		values[Natts_ec_document];
	bool		nulls[Natts_ec_document];

	heap_deform_tuple(tuple, desc, values, nulls);
	strlcpy(doc->name, TextDatumGetCString(values[Anum_ec_document_name - 1]), sizeof(doc->name));
	doc->relid = DatumGetObjectId(values[Anum_ec_document_relation - 1]);
	namestrcpy(&doc->key.name, NameStr(*DatumGetName(values[Anum_ec_document_key_column - 1])));
	doc->has_owner = !nulls[Anum_ec_document_owner_column - 1];
	if (doc->has_owner)
		namestrcpy(&doc->owner.name,
				   NameStr(*DatumGetName(values[Anum_ec_document_owner_column - 1])));
	if (!nulls[Anum_ec_document_filter - 1])
		doc->filter = TextDatumGetCString(values[Anum_ec_document_filter - 1]);
	doc->filter_columns = ec_name_list(values[Anum_ec_document_filter_columns - 1]);
	doc->exclude = ec_name_list(values[Anum_ec_document_exclude - 1]);
	doc->ttl = nulls[Anum_ec_document_ttl - 1] ? -1 :
		DatumGetInt32(values[Anum_ec_document_ttl - 1]);
	doc->policy = strcmp(TextDatumGetCString(values[Anum_ec_document_policy - 1]),
						 "invalidate") == 0 ? EC_INVALIDATE : EC_WRITE_THROUGH;
	if (!nulls[Anum_ec_document_document - 1])
		doc->function_name = TextDatumGetCString(values[Anum_ec_document_document - 1]);
	doc->touch_on_read = DatumGetBool(values[Anum_ec_document_touch_on_read - 1]);
	doc->context = CurrentMemoryContext;
	return doc;
}

/* The rows of echocache.dependent, each to its document. */
static void
read_dependents(void)
{
	Oid			oid = ec_relation("dependent");
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (!OidIsValid(oid))
		return;					/* the extension is being dropped */
	rel = table_open(oid, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[Natts_ec_dependent];
		bool		nulls[Natts_ec_dependent];
		char	   *name;
		Oid			relid;
		ListCell   *lc;

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		name = TextDatumGetCString(values[Anum_ec_dependent_document - 1]);
		relid = DatumGetObjectId(values[Anum_ec_dependent_relation - 1]);
		foreach(lc, documents)
		{
			EcDocument *doc = lfirst(lc);
			EcDependent *dependent = NULL;
			ListCell   *ld;

			if (strcmp(doc->name, name) != 0)
				continue;
			foreach(ld, doc->dependents)
				if (((EcDependent *) lfirst(ld))->relid == relid)
					dependent = lfirst(ld);
			if (dependent == NULL)
			{
				dependent = palloc0(sizeof(EcDependent));
				dependent->relid = relid;
				doc->dependents = lappend(doc->dependents, dependent);
			}
			dependent->keys =
				lappend(dependent->keys,
						pstrdup(NameStr(*DatumGetName(values[Anum_ec_dependent_key_column - 1]))));
		}
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

/*
 * Look up what the configuration refers to.  Throws when the table or a column
 * is gone.  No lock is taken: DDL sends an invalidation, and what is rendered
 * or locked later looks at the table itself.
 */
static void
resolve(EcDocument *doc)
{
	MemoryContext old = MemoryContextSwitchTo(doc->context);
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(doc->relid));
	Form_pg_class class;
	Bitmapset  *all = NULL;
	int			natts;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table of document \"%s\" does not exist any more", doc->name),
				 errhint("Run SELECT echocache_detach('%s').", doc->name)));
	class = (Form_pg_class) GETSTRUCT(tuple);
	doc->relowner = class->relowner;
	doc->namespace = class->relnamespace;
	doc->partitioned = class->relkind == RELKIND_PARTITIONED_TABLE;
	natts = class->relnatts;
	ReleaseSysCache(tuple);

	doc->columns = doc->depends = NULL;
	doc->has_virtual = false;
	doc->render_all = doc->render_timezone = false;
	for (AttrNumber attno = 1; attno <= natts; attno++)
	{
		Form_pg_attribute att;
		bool		excluded = false;
		bool		filtered = false;
		ListCell   *lc;

		tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(doc->relid), Int16GetDatum(attno));
		if (!HeapTupleIsValid(tuple))
			continue;
		att = (Form_pg_attribute) GETSTRUCT(tuple);
		if (!att->attisdropped)
		{
			foreach(lc, doc->exclude)
				excluded |= strcmp(lfirst(lc), NameStr(att->attname)) == 0;
			foreach(lc, doc->filter_columns)
				filtered |= strcmp(lfirst(lc), NameStr(att->attname)) == 0;
			if (!excluded)
			{
				doc->columns = bms_add_member(doc->columns, attno);
				if (att->atttypid == TIMESTAMPTZOID)
					doc->render_timezone = true;
				else if (!type_is_plain(att->atttypid))
					doc->render_all = true;
			}
			if (!excluded || filtered)
			{
				doc->depends = bms_add_member(doc->depends, attno);
				doc->has_virtual |= ec_att_is_virtual(att);
			}
			all = bms_add_member(all, attno);
		}
		ReleaseSysCache(tuple);
	}
	/* a virtual column changes with columns that need not be shown themselves */
	if (doc->has_virtual)
		doc->depends = all;

	resolve_column(doc, &doc->key);
	if (doc->has_owner)
		resolve_column(doc, &doc->owner);
	doc->key_exact = key_is_exact(&doc->key);
	doc->function = ec_document_function(doc);
	if (doc->function_name || !doc->key.plain || (doc->has_owner && !doc->owner.plain))
		doc->render_all = true;
	doc->slot = ec_document_slot(doc->relid, doc->name);
	doc->suspended = doc->slot == NULL || !all_triggers_fire(doc) ||
		(doc->function_name && !OidIsValid(doc->function));
	MemoryContextSwitchTo(old);
	doc->resolved = true;
}

/*
 * The function that makes the document, found by its name whatever the current role
 * may do (it writes, perhaps, and does not read); InvalidOid: none, or not any more.
 */
Oid
ec_document_function(EcDocument *doc)
{
	char	   *schema;
	char	   *name;
	Oid			argtype = get_rel_type_id(doc->relid);

	if (!doc->function_name)
		return InvalidOid;
	DeconstructQualifiedName(textToQualifiedNameList(cstring_to_text(doc->function_name)),
							 &schema, &name);
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name),
						   PointerGetDatum(buildoidvector(&argtype, 1)),
						   ObjectIdGetDatum(get_namespace_oid(schema, true)));
}

/* Are both of our triggers for the document there, and enabled as we made them? */
static bool
triggers_fire(Oid relid, const char *name, const char *row, const char *truncate)
{
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		has_row = false;
	bool		has_truncate = false;

	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, TriggerRelidNameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);
		char	   *function;
		bool		isnull;
		bytea	   *args;

		if (trigger->tgenabled != TRIGGER_FIRES_ALWAYS || trigger->tgnargs != 1)
			continue;
		function = get_func_name(trigger->tgfoid);
		args = DatumGetByteaPP(heap_getattr(tuple, Anum_pg_trigger_tgargs,
											RelationGetDescr(rel), &isnull));
		if (function == NULL || strcmp(VARDATA_ANY(args), name) != 0)
			continue;
		has_row |= strcmp(function, row) == 0;
		has_truncate |= strcmp(function, truncate) == 0;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return has_row && has_truncate;
}

/*
 * Is every change seen?  Rows of tables that inherit from a dependent one are
 * seen by the document's function, but not by our trigger.
 */
static bool
all_triggers_fire(EcDocument *doc)
{
	bool		fire = triggers_fire(doc->relid, doc->name, "echocache_row_trigger",
									 "echocache_truncate_trigger");
	ListCell   *lc;

	foreach(lc, doc->dependents)
	{
		EcDependent *dependent = lfirst(lc);

		fire = fire && triggers_fire(dependent->relid, doc->name, "echocache_dependent_trigger",
									 "echocache_truncate_trigger") &&
			(get_rel_relkind(dependent->relid) == RELKIND_PARTITIONED_TABLE ||
			 find_inheritance_children(dependent->relid, NoLock) == NIL);
	}
	return fire;
}

static void
resolve_column(EcDocument *doc, EcColumn *column)
{
	HeapTuple	tuple = SearchSysCacheAttName(doc->relid, NameStr(column->name));
	Oid			in,
				out;
	bool		varlena;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of document \"%s\" does not exist any more",
						NameStr(column->name), doc->name),
				 errhint("Detach the document and attach the table again.")));
	column->type = ((Form_pg_attribute) GETSTRUCT(tuple))->atttypid;
	/* so that char(n) is padded; an id too long for varchar(n) is just not there */
	column->typmod = column->type == BPCHAROID ?
		((Form_pg_attribute) GETSTRUCT(tuple))->atttypmod : -1;
	column->collation = ((Form_pg_attribute) GETSTRUCT(tuple))->attcollation;
	ReleaseSysCache(tuple);
	/* JSON has dates in ISO whatever DateStyle is; their own output has not */
	column->plain = type_is_plain(column->type) && column->type != DATEOID &&
		column->type != TIMESTAMPOID;
	getTypeInputInfo(column->type, &in, &column->ioparam);
	getTypeOutputInfo(column->type, &out, &varlena);
	fmgr_info_cxt(in, &column->in, doc->context);
	fmgr_info_cxt(out, &column->out, doc->context);
}

/*
 * Are two ids equal for the column just when their texts are?  If so many rows
 * are found by one query.  (numeric has 1.0 = 1.00, citext has A = a.)
 */
static bool
key_is_exact(const EcColumn *key)
{
	switch (key->type)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case UUIDOID:
			return true;
		case TEXTOID:
		case VARCHAROID:
			return get_collation_isdeterministic(key->collation);
		default:
			return false;
	}
}

/* Documents by name; NULL when there is none. */
EcDocument *
ec_document_by_name(const char *name)
{
	ListCell   *lc;

	load();
	foreach(lc, documents)
	{
		EcDocument *doc = lfirst(lc);

		if (strcmp(doc->name, name) == 0)
		{
			if (!doc->resolved)
				resolve(doc);
			return doc;
		}
	}
	return NULL;
}

/* The same; throws 42704 with what to do when there is none. */
EcDocument *
ec_document_require(const char *name)
{
	EcDocument *doc;

	ec_require_preload();
	doc = ec_document_by_name(name);
	if (doc == NULL)
	{
		(void) ec_document_catalog(false);
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no document \"%s\"", name),
				 errhint("Attach its table with echocache_attach(); the view "
						 "echocache_documents lists what is attached.")));
	}
	return doc;
}

/* By the attached table; NULL when it is not attached. */
EcDocument *
ec_document_by_relid(Oid relid)
{
	ListCell   *lc;

	load();
	foreach(lc, documents)
	{
		EcDocument *doc = lfirst(lc);

		if (doc->relid == relid)
		{
			if (!doc->resolved)
				resolve(doc);
			return doc;
		}
	}
	return NULL;
}

/*
 * The table of a document, and behind it those that are part of it; any may be gone or
 * changed.  NIL: there is no such document.
 */
List *
ec_document_tables(const char *name)
{
	List	   *tables = NIL;
	ListCell   *lc;

	load();
	foreach(lc, documents)
	{
		EcDocument *doc = lfirst(lc);
		ListCell   *ld;

		if (strcmp(doc->name, name) != 0)
			continue;
		tables = list_make1_oid(doc->relid);
		foreach(ld, doc->dependents)
			tables = lappend_oid(tables, ((EcDependent *) lfirst(ld))->relid);
	}
	return tables;
}

/* Does a value of this type contain one of the row type? */
static bool
type_contains(Oid type, Oid rowtype)
{
	Oid			element;
	bool		contains = false;

	type = getBaseType(type);
	if (type == rowtype)
		return true;
	element = get_element_type(type);
	if (OidIsValid(element))
		return type_contains(element, rowtype);
	if (get_typtype(type) == TYPTYPE_COMPOSITE)
	{
		TupleDesc	desc = lookup_rowtype_tupdesc(type, -1);

		for (int i = 0; i < desc->natts && !contains; i++)
			contains = !TupleDescAttr(desc, i)->attisdropped &&
				type_contains(TupleDescAttr(desc, i)->atttypid, rowtype);
		ReleaseTupleDesc(desc);
	}
	return contains;
}

/* Has the table a column that contains such a row? */
static bool
shows_type(Oid relid, Oid rowtype)
{
	for (AttrNumber attno = 1; OidIsValid(rowtype); attno++)
	{
		HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid),
											Int16GetDatum(attno));
		Form_pg_attribute att;
		bool		shows;

		if (!HeapTupleIsValid(tuple))
			return false;
		att = (Form_pg_attribute) GETSTRUCT(tuple);
		shows = !att->attisdropped && type_contains(att->atttypid, rowtype);
		ReleaseSysCache(tuple);
		if (shows)
			return true;
	}
	return false;
}

/* The same for a document's own table, and those that are part of it. */
static bool
depends_on_type(EcDocument *doc, Oid rowtype)
{
	bool		depends = shows_type(doc->relid, rowtype);
	ListCell   *lc;

	foreach(lc, doc->dependents)
		depends |= shows_type(((EcDependent *) lfirst(lc))->relid, rowtype);
	return depends;
}

/* Is the table the whole one, or its partition at some level? */
static bool
is_part(Oid relid, Oid whole)
{
	return relid == whole ||
		(get_rel_relispartition(relid) && list_member_oid(get_partition_ancestors(relid), whole));
}

/* Is one of the tables the other, or its partition or child at some level? */
static bool
is_family(Oid relid, Oid other)
{
	return is_part(relid, other) ||
		list_member_oid(find_all_inheritors(relid, NoLock, NULL), other);
}

/* What the table is to the document: EC_ROLE_OWN and EC_ROLE_DEPENDENT, 0 for neither. */
int
ec_document_role(EcDocument *doc, Oid relid)
{
	int			role = is_family(relid, doc->relid) ? EC_ROLE_OWN : 0;
	ListCell   *lc;

	foreach(lc, doc->dependents)
		if (is_family(relid, ((EcDependent *) lfirst(lc))->relid))
			role |= EC_ROLE_DEPENDENT;
	return role;
}

/*
 * The documents that a change of this table's (or composite type's) definition
 * concerns: those that it has a role for, and those with columns of its row type.
 * EcDocument may be unresolved: only name, relid, columns' names, filter and
 * dependents are to be used.
 */
List *
ec_documents_touching(Oid relid)
{
	List	   *found = NIL;
	ListCell   *lc;

	load();
	foreach(lc, documents)
	{
		EcDocument *doc = lfirst(lc);

		if (ec_document_role(doc, relid) != 0 || depends_on_type(doc, get_rel_type_id(relid)))
			found = lappend(found, doc);
	}
	return found;
}

/* Is any document not cached, as far as we know, because not every change of it is seen? */
bool
ec_documents_suspended(void)
{
	ListCell   *lc;

	load();
	foreach(lc, documents)
		if (((EcDocument *) lfirst(lc))->suspended)
			return true;
	return false;
}

/* The documents that functions make; they may be unresolved, as above. */
List *
ec_documents_with_function(void)
{
	List	   *found = NIL;
	ListCell   *lc;

	load();
	foreach(lc, documents)
		if (((EcDocument *) lfirst(lc))->function_name)
			found = lappend(found, lfirst(lc));
	return found;
}

/* The documents whose table has a column with this type in it; see above. */
List *
ec_documents_showing(Oid type)
{
	List	   *found = NIL;
	ListCell   *lc;

	load();
	foreach(lc, documents)
		if (depends_on_type(lfirst(lc), type))
			found = lappend(found, lfirst(lc));
	return found;
}

/* The names of all attached documents, copied. */
List *
ec_document_names(void)
{
	List	   *names = NIL;
	ListCell   *lc;

	load();
	foreach(lc, documents)
		names = lappend(names, pstrdup(((EcDocument *) lfirst(lc))->name));
	return names;
}

/* This table's entry among the row maps, made if need be. */
static EcRowMap *
row_map(Oid relid)
{
	bool		found;
	EcRowMap   *map = hash_search(row_maps, &relid, HASH_ENTER, &found);

	if (!found)
		memset((char *) map + sizeof(Oid), 0, sizeof(EcRowMap) - sizeof(Oid));
	return map;
}

/* Is the table attached, as the configuration has it at this moment? */
static bool
is_attached_now(Oid relid)
{
	ListCell   *lc;

	cache_stale = true;			/* its invalidation may be yet to come */
	load();
	foreach(lc, documents)
		if (((EcDocument *) lfirst(lc))->relid == relid)
			return true;
	return false;
}

/*
 * The worker's, as it starts: every attached document has its slot, if one is to
 * be had, so that all databases know its keys (kv.c), and not only once a backend
 * has used it.  In a transaction.
 *
 * A slot may be claimed just after the commit of a detach has given it up.  So look
 * again, and give it up ourselves; but not one that an attach has got meanwhile,
 * which holds this lock on its table.
 */
void
ec_document_claim_slots(void)
{
	List	   *relids = NIL;
	ListCell   *lc;

	load();
	foreach(lc, documents)
	{
		EcDocument *doc = lfirst(lc);

		if (ec_document_slot(doc->relid, doc->name) != NULL)
			relids = lappend_oid(relids, doc->relid);
	}
	foreach(lc, relids)
	{
		Oid			relid = lfirst_oid(lc);

		if (is_attached_now(relid) ||
			!ConditionalLockRelationOid(relid, ShareRowExclusiveLock))
			continue;
		if (!is_attached_now(relid))
			ec_document_slot_free(relid);
		UnlockRelationOid(relid, ShareRowExclusiveLock);
	}
}

/*
 * How rows of rel, the attached table or a partition of it, map to the
 * document of that name; NULL when it is not attached (any more).  Anybody may create
 * a trigger with our function and any name on a table of his own, whose columns are others.
 */
EcRowMap *
ec_document_row_map(Relation rel, const char *name)
{
	Oid			relid = RelationGetRelid(rel);
	EcRowMap   *map;
	EcDocument *doc;
	MemoryContext old;
	int			attno = -1;

	load();
	map = hash_search(row_maps, &relid, HASH_FIND, NULL);
	if (map != NULL && map->doc != NULL && strcmp(map->doc->name, name) == 0)
		return map;

	doc = ec_document_by_name(name);
	if (doc == NULL || !is_part(relid, doc->relid))
		return NULL;
	old = MemoryContextSwitchTo(doc->context);
	map = row_map(relid);
	map->key = get_attnum(relid, NameStr(doc->key.name));
	map->depends = palloc(bms_num_members(doc->depends) * sizeof(AttrNumber));
	map->ndepends = 0;
	while ((attno = bms_next_member(doc->depends, attno)) >= 0)
	{
		AttrNumber	here = attno;

		if (relid != doc->relid)
			here = get_attnum(relid, get_attname(doc->relid, attno, false));
		if (here != map->key)
			map->depends[map->ndepends++] = here;
	}
	map->doc = doc;
	MemoryContextSwitchTo(old);
	return map;
}

/*
 * How rows of rel, a dependent table of the document of that name or a partition
 * of one, map to the document; NULL when it is not (any more).
 */
EcDependentMap *
ec_document_dependent_map(Relation rel, const char *name)
{
	Oid			relid = RelationGetRelid(rel);
	EcRowMap   *map;
	EcDependentMap *mine;
	EcDocument *doc;
	EcDependent *dependent = NULL;
	MemoryContext old;
	ListCell   *lc;

	load();
	map = hash_search(row_maps, &relid, HASH_FIND, NULL);
	if (map != NULL)
		foreach(lc, map->dependents)
			if (strcmp(((EcDependentMap *) lfirst(lc))->doc->name, name) == 0)
				return lfirst(lc);

	doc = ec_document_by_name(name);
	if (doc == NULL)
		return NULL;
	foreach(lc, doc->dependents)
		if (is_family(relid, ((EcDependent *) lfirst(lc))->relid))
			dependent = lfirst(lc);
	if (dependent == NULL)
		return NULL;
	old = MemoryContextSwitchTo(doc->context);
	mine = palloc0(sizeof(EcDependentMap));
	mine->doc = doc;
	mine->keys = palloc(list_length(dependent->keys) * sizeof(AttrNumber));
	mine->out = palloc(list_length(dependent->keys) * sizeof(FmgrInfo));
	foreach(lc, dependent->keys)
	{
		AttrNumber	attno = get_attnum(relid, lfirst(lc));
		Oid			out;
		bool		varlena;

		if (attno == InvalidAttrNumber)
			continue;			/* on its way out */
		getTypeOutputInfo(get_atttype(relid, attno), &out, &varlena);
		fmgr_info_cxt(out, &mine->out[mine->nkeys], doc->context);
		mine->keys[mine->nkeys++] = attno;
	}
	map = row_map(relid);
	map->dependents = lappend(map->dependents, mine);
	MemoryContextSwitchTo(old);
	return mine;
}

/*
 * What comes back from the column's own type for this text, under the settings
 * that documents are rendered with.  Throws what the type's input function throws.
 * A type that is not built in may be a domain, whose checks are the table owner's code.
 */
char *
ec_column_canonical(EcDocument *doc, EcColumn *column, const char *input)
{
	bool		built_in = column->type < FirstNormalObjectId;
	int			nestlevel = built_in && !column->plain ? ec_render_begin(doc) : 0;
	EcActing	before;
	char	   *text;

	if (!built_in)
		ec_act_begin(doc, true, &before);
	text = OutputFunctionCall(&column->out, ec_column_datum(column, input));
	if (!built_in)
		ec_act_end(&before);
	ec_render_end(nestlevel);
	return text;
}

Datum
ec_column_datum(EcColumn *column, const char *text)
{
	return InputFunctionCall(&column->in, unconstify(char *, text), column->ioparam,
							 column->typmod);
}

/*
 * The cache key of the document with this id (the key column's text, in the
 * server encoding); dst holds EC_KEY_MAX bytes.  0: it is never cached.  The topology is
 * entered.
 */
int
ec_document_key(EcDocument *doc, const char *id, char *dst)
{
	size_t		len = strlen(id);

	for (const char *p = id; *p; p++)
	{
		if (!IS_HIGHBIT_SET(*p))
			continue;
		/* an id that UTF-8 cannot express has no key, as one that is too long has none */
		id = ec_to_utf8(id, &len);
		if (id == NULL)
			return 0;
		break;
	}
	return (int) ec_key_build(dst, ec_cluster_prefix(), doc->name, id, len);
}

int
ec_document_ttl(EcDocument *doc)
{
	return doc->ttl >= 0 ? doc->ttl : ec_ttl;
}
