/*-------------------------------------------------------------------------
 *
 * configuration.c
 *	  From the extension's tables and the catalogs to an attached document.
 *
 * Reading takes what echocache.document and echocache.dependent say as it is.
 * Only at a document's first use is it resolved, so that one whose table or
 * column is gone is in nobody's way but its own.  Nothing is kept here, and no
 * attached table is locked.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "attach.h"
#include "compat.h"
#include "configuration.h"

static EcDocument *read_document(HeapTuple tuple, TupleDesc desc);
static void read_dependents(List *documents);
static bool type_is_plain(Oid type);
static bool triggers_fire(Oid relid, const char *name, const char *row, const char *truncate);
static bool all_triggers_fire(EcDocument *doc);
static void resolve_column(EcDocument *doc, EcColumn *column);
static bool key_is_exact(const EcColumn *key);

/* The rows of echocache.document, each a document. */
List *
ec_documents_read(Oid catalog)
{
	List	   *documents = NIL;
	Relation	rel = table_open(catalog, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		documents = lappend(documents, read_document(tuple, RelationGetDescr(rel)));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	read_dependents(documents);
	return documents;
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

/* One row of echocache.document; the rest is looked up at first use, by ec_document_resolve(). */
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
read_dependents(List *documents)
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

/*
 * Look up what the configuration refers to.  No lock is taken: DDL sends an
 * invalidation, and what is rendered or locked later looks at the table itself.
 */
void
ec_document_resolve(EcDocument *doc)
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
