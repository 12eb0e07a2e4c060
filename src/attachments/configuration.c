/*-------------------------------------------------------------------------
 *
 * configuration.c
 *	  From the extension's tables and the catalogs to an attachment.
 *
 * Reading takes what echocache.document and echocache.dependent say as it is.  An
 * attachment is resolved at its first use only, so that one whose table or column is gone
 * is in no other attachment's way.  This file keeps nothing, and locks no attached table.
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
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "attachments/catalog.h"
#include "attachments/configuration.h"
#include "attachments/firing.h"
#include "attachments/slot.h"
#include "compat.h"

static EcAttachment *read_attachment(HeapTuple tuple, TupleDesc desc);
static void read_dependents(List *attachments);
static bool type_is_plain(Oid type);
static const char *why_suspended(EcAttachment *att);
static void resolve_column(EcAttachment *att, EcColumn *column);
static bool key_is_exact(const EcColumn *key);

/*
 * The rows of echocache.document as attachments, in the current memory context.  NIL, too,
 * if the extension has just gone.
 */
List *
ec_configuration_read(void)
{
	List	   *attachments = NIL;
	Relation	rel = ec_catalog_try_open(EC_CATALOG_DOCUMENT, AccessShareLock);
	SysScanDesc scan;
	HeapTuple	tuple;

	if (rel == NULL)
		return NIL;
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		attachments = lappend(attachments, read_attachment(tuple, RelationGetDescr(rel)));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	read_dependents(attachments);
	return attachments;
}

/* The attachment that this row of echocache.document is; not resolved. */
static EcAttachment *
read_attachment(HeapTuple tuple, TupleDesc desc)
{
	EcAttachment *att = palloc0(sizeof(EcAttachment));
	Datum		values[Natts_ec_document];
	bool		nulls[Natts_ec_document];

	heap_deform_tuple(tuple, desc, values, nulls);
	strlcpy(att->name, TextDatumGetCString(values[Anum_ec_document_name - 1]), sizeof(att->name));
	att->relid = DatumGetObjectId(values[Anum_ec_document_relation - 1]);
	namestrcpy(&att->key.name, NameStr(*DatumGetName(values[Anum_ec_document_key_column - 1])));
	att->has_owner = !nulls[Anum_ec_document_owner_column - 1];
	if (att->has_owner)
		namestrcpy(&att->owner.name,
				   NameStr(*DatumGetName(values[Anum_ec_document_owner_column - 1])));
	if (!nulls[Anum_ec_document_filter - 1])
		att->filter = TextDatumGetCString(values[Anum_ec_document_filter - 1]);
	att->filter_columns = ec_catalog_names(values[Anum_ec_document_filter_columns - 1]);
	att->filter_calls = TextDatumGetCString(values[Anum_ec_document_filter_calls - 1]);
	att->exclude = ec_catalog_names(values[Anum_ec_document_exclude - 1]);
	att->ttl = nulls[Anum_ec_document_ttl - 1] ? -1 :
		DatumGetInt32(values[Anum_ec_document_ttl - 1]);
	att->policy = strcmp(TextDatumGetCString(values[Anum_ec_document_policy - 1]),
						 "invalidate") == 0 ? EC_INVALIDATE : EC_WRITE_THROUGH;
	if (!nulls[Anum_ec_document_document - 1])
		att->function_name = TextDatumGetCString(values[Anum_ec_document_document - 1]);
	att->touch_on_read = DatumGetBool(values[Anum_ec_document_touch_on_read - 1]);
	att->context = CurrentMemoryContext;
	return att;
}

/* Add the rows of echocache.dependent, each to its attachment. */
static void
read_dependents(List *attachments)
{
	Relation	rel = ec_catalog_try_open(EC_CATALOG_DEPENDENT, AccessShareLock);
	SysScanDesc scan;
	HeapTuple	tuple;

	if (rel == NULL)
		return;					/* the extension has just gone */
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
		foreach(lc, attachments)
		{
			EcAttachment *att = lfirst(lc);
			EcDependent *dependent = NULL;
			ListCell   *ld;

			if (strcmp(att->name, name) != 0)
				continue;
			foreach(ld, att->dependents)
				if (((EcDependent *) lfirst(ld))->relid == relid)
					dependent = lfirst(ld);
			if (dependent == NULL)
			{
				dependent = palloc0(sizeof(EcDependent));
				dependent->relid = relid;
				att->dependents = lappend(att->dependents, dependent);
			}
			dependent->keys =
				lappend(dependent->keys,
						pstrdup(NameStr(*DatumGetName(values[Anum_ec_dependent_key_column - 1]))));
		}
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

/* Is what a value of this type looks like in JSON independent of every setting? */
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
 * Look up what the configuration refers to.  Throws 42P01 when the table is gone, and
 * 42703 when a column is.  Takes no lock: DDL sends an invalidation, and whatever is
 * rendered or locked later looks at the table itself.
 */
void
ec_configuration_resolve(EcAttachment *att)
{
	MemoryContext old = MemoryContextSwitchTo(att->context);
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(att->relid));
	Form_pg_class class;
	Bitmapset  *all = NULL;
	int			natts;

	Assert(!att->resolved && att->context != NULL);
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table of document \"%s\" does not exist any more", att->name),
				 errhint("Run SELECT echocache_detach('%s').", att->name)));
	class = (Form_pg_class) GETSTRUCT(tuple);
	att->relowner = class->relowner;
	att->namespace = class->relnamespace;
	att->partitioned = class->relkind == RELKIND_PARTITIONED_TABLE;
	natts = class->relnatts;
	ReleaseSysCache(tuple);

	att->columns = att->depends = NULL;
	att->has_virtual = false;
	att->render_all = att->render_timezone = false;
	for (AttrNumber attno = 1; attno <= natts; attno++)
	{
		Form_pg_attribute attr;
		bool		excluded = false;
		bool		filtered = false;
		ListCell   *lc;

		tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(att->relid), Int16GetDatum(attno));
		if (!HeapTupleIsValid(tuple))
			continue;
		attr = (Form_pg_attribute) GETSTRUCT(tuple);
		if (!attr->attisdropped)
		{
			foreach(lc, att->exclude)
				excluded |= strcmp(lfirst(lc), NameStr(attr->attname)) == 0;
			foreach(lc, att->filter_columns)
				filtered |= strcmp(lfirst(lc), NameStr(attr->attname)) == 0;
			if (!excluded)
			{
				att->columns = bms_add_member(att->columns, attno);
				if (attr->atttypid == TIMESTAMPTZOID)
					att->render_timezone = true;
				else if (!type_is_plain(attr->atttypid))
					att->render_all = true;
			}
			if (!excluded || filtered)
			{
				att->depends = bms_add_member(att->depends, attno);
				att->has_virtual |= ec_compat_is_virtual(attr);
			}
			all = bms_add_member(all, attno);
		}
		ReleaseSysCache(tuple);
	}
	/* a virtual column changes with columns that need not be shown themselves */
	if (att->has_virtual)
		att->depends = all;

	resolve_column(att, &att->key);
	if (att->has_owner)
		resolve_column(att, &att->owner);
	att->key_exact = key_is_exact(&att->key);
	att->function = ec_configuration_function(att);
	if (att->function_name || !att->key.plain || (att->has_owner && !att->owner.plain))
		att->render_all = true;
	att->slot = ec_slot_claim(att->relid, att->name);
	att->suspended = why_suspended(att);
	MemoryContextSwitchTo(old);
	att->resolved = true;
}

/*
 * The function, found by its name.  The current role's rights do not matter: a role that
 * writes need not be one that reads.  InvalidOid: there is none, or not any more.
 * The attachment may be unresolved.
 */
Oid
ec_configuration_function(EcAttachment *att)
{
	char	   *schema;
	char	   *name;
	Oid			argtype = get_rel_type_id(att->relid);

	if (!att->function_name)
		return InvalidOid;
	DeconstructQualifiedName(textToQualifiedNameList(cstring_to_text(att->function_name)),
							 &schema, &name);
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name),
						   PointerGetDatum(buildoidvector(&argtype, 1)),
						   ObjectIdGetDatum(get_namespace_oid(schema, true)));
}

/*
 * Why the attachment is not cached: not every change of its tables is seen, or it has no slot,
 * or no function any more.  NULL: it is cached.
 */
static const char *
why_suspended(EcAttachment *att)
{
	const char *reason;
	ListCell   *lc;

	if (att->slot == NULL)
		return psprintf("all %d places for attached tables are taken", EC_MAX_ATTACHMENTS);
	if (att->function_name && !OidIsValid(att->function))
		return psprintf("function %s does not exist any more", att->function_name);
	reason = ec_firing_problem(att->relid, att->name, false);
	foreach(lc, att->dependents)
		if (reason == NULL)
			reason = ec_firing_problem(((EcDependent *) lfirst(lc))->relid, att->name, true);
	return reason;
}

/* Look up a column that ids or owners are compared with.  Throws 42703 when it is gone. */
static void
resolve_column(EcAttachment *att, EcColumn *column)
{
	HeapTuple	tuple = SearchSysCacheAttName(att->relid, NameStr(column->name));
	Oid			in,
				out;
	bool		varlena;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of document \"%s\" does not exist any more",
						NameStr(column->name), att->name),
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
	fmgr_info_cxt(in, &column->in, att->context);
	fmgr_info_cxt(out, &column->out, att->context);
}

/*
 * Are two ids equal for the column just when their texts are equal?  Then one query finds
 * the rows of many ids.  For numeric 1.0 = 1.00, and for citext A = a, so they are not exact.
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
