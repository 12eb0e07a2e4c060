/*-------------------------------------------------------------------------
 *
 * rename.c
 *	  Columns, functions and whatever else an attachment has by name get other names.
 *
 * The transaction that renames also writes the configuration: no commit shows a new name in
 * the catalogs and the old one there.  A filter is parsed before the command, while its names
 * are valid, and deparsed after it, so it means the same objects throughout.  Where columns get
 * other types it is read anew in between, as PostgreSQL does with a CHECK constraint.
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
#include "catalog/objectaddress.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"

#include "attachments/affected.h"
#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/configuration.h"
#include "attachments/filter.h"
#include "attachments/rename.h"
#include "compat.h"
#include "read/act.h"

/* What an attachment has by name, while the names are valid. */
typedef struct Noted
{
	char	   *name;			/* the attachment's */
	Oid			relid;
	Oid			function;		/* that makes its documents, or InvalidOid */
	char	   *function_text;	/* its name, as it is stored */
	Node	   *filter;			/* or NULL */
	char	   *filter_text;	/* as it is stored */
	char	   *calls;			/* that it makes, as stored */
} Noted;

/* An attachment for which the table whose column is renamed has a role. */
typedef struct Rename
{
	Noted		noted;			/* with the filter, if it is the attached table */
	int			role;
} Rename;

static const char *old_name(Node *stmt, bool *none);
static bool may_have(const EcAttachment *att, const char *name);
static void parse_filter(void *arg);
static void reread_filter(Noted *noted);
static void check_owner(const RangeVar *relation, Oid relid, Oid oldRelId, void *arg);
static bool follow_column(Rename *rename, RenameStmt *stmt, Datum *values, const bool *nulls);
static bool follow_text(const char *name, Datum *values, const bool *nulls, AttrNumber column,
						const char *noted, const char *now);
static bool follow_names(const Noted *noted, Datum *values, const bool *nulls);
static void update_configuration(List *renames, RenameStmt *stmt, List *noted);
static void rename_keys(RenameStmt *stmt, List *renames);
static Datum renamed(Datum name, RenameStmt *stmt);
static Datum renamed_array(Datum names, RenameStmt *stmt);

/*
 * The name that the statement replaces, as a text may have it; NULL: it is not that simple.
 * *none: no filter can have such a name.
 */
static const char *
old_name(Node *stmt, bool *none)
{
	ObjectType	type;
	Node	   *object;
	const char *name = NULL;

	*none = false;
	if (IsA(stmt, AlterEnumStmt))
		name = ((AlterEnumStmt *) stmt)->oldVal;
	else
	{
		bool		rename = IsA(stmt, RenameStmt);
		RangeVar   *relation = rename ? ((RenameStmt *) stmt)->relation
			: ((AlterObjectSchemaStmt *) stmt)->relation;

		type = rename ? ((RenameStmt *) stmt)->renameType
			: ((AlterObjectSchemaStmt *) stmt)->objectType;
		object = rename ? ((RenameStmt *) stmt)->object : ((AlterObjectSchemaStmt *) stmt)->object;
		switch (type)
		{
			case OBJECT_SCHEMA:
			case OBJECT_COLUMN:
			case OBJECT_ATTRIBUTE:
				name = ((RenameStmt *) stmt)->subname;
				break;
			case OBJECT_TABLE:
			case OBJECT_INDEX:
			case OBJECT_VIEW:
			case OBJECT_MATVIEW:
			case OBJECT_FOREIGN_TABLE:
			case OBJECT_SEQUENCE:
				name = relation->relname;
				break;
			case OBJECT_FUNCTION:
			case OBJECT_PROCEDURE:
			case OBJECT_ROUTINE:
			case OBJECT_AGGREGATE:
			case OBJECT_OPERATOR:
				name = strVal(llast(((ObjectWithArgs *) object)->objname));
				break;
			case OBJECT_TYPE:
			case OBJECT_DOMAIN:
			case OBJECT_COLLATION:
			case OBJECT_TSCONFIGURATION:
			case OBJECT_TSDICTIONARY:
				name = strVal(llast((List *) object));
				break;
			case OBJECT_EXTENSION:
				break;
			default:
				*none = true;
		}
	}
	return name == NULL || strpbrk(name, "\"'\\") != NULL ? NULL : name;
}

/* May the attachment's filter have the name, in its text or in what it calls?  NULL: any name. */
static bool
may_have(const EcAttachment *att, const char *name)
{
	return ec_filter_has_names(att) &&
		(name == NULL || strstr(att->filter, name) || strstr(att->filter_calls, name));
}

/* Parse the filter of an attachment, as its owner.  It is copied, and its table locked. */
static void
parse_filter(void *arg)
{
	Noted	   *noted = arg;
	EcAttachment *att = ec_attachment_by_name(noted->name);

	if (att == NULL || att->relid != noted->relid || att->filter == NULL)
		return;
	noted->filter = copyObject((Node *) ec_filter_as_owner(att, AccessShareLock));
	noted->filter_text = pstrdup(att->filter);
	noted->calls = pstrdup(att->filter_calls);
}

/* Make the noted filter anew of the text that is stored now, as its owner. */
static void
reread_filter(Noted *noted)
{
	EcAttachment *att = ec_attachment_by_name(noted->name);
	char	   *calls;

	noted->filter = att != NULL && att->relid == noted->relid ? ec_filter_reread(att) : NULL;
	if (noted->filter == NULL)
		return;
	calls = ec_filter_calls(noted->filter);
	if (strcmp(calls, noted->calls) != 0)
		ereport(NOTICE,
				(errmsg("the filter of document \"%s\" calls other functions, for the new types",
						noted->name),
				 errdetail("Now it calls %s.", *calls ? pnstrdup(calls, strlen(calls) - 1) :
						   "PostgreSQL's own")));
}

List *
ec_rename_note(Node *stmt)
{
	List	   *list = NIL;
	ListCell   *lc;
	const char *name;
	bool		none;

	if (!IsA(stmt, RenameStmt) && !IsA(stmt, AlterObjectSchemaStmt) &&
		!(IsA(stmt, AlterEnumStmt) && ((AlterEnumStmt *) stmt)->oldVal != NULL))
		return NIL;
	name = old_name(stmt, &none);
	if (none)
		return NIL;
	foreach(lc, ec_attachment_all())
	{
		EcAttachment *att = lfirst(lc);
		Noted	   *noted = palloc0(sizeof(Noted));

		noted->name = pstrdup(att->name);
		noted->relid = att->relid;
		if (att->function_name)
		{
			noted->function = ec_configuration_function(att);
			noted->function_text = pstrdup(att->function_name);
		}
		if (may_have(att, name) && !ec_act_guarded(parse_filter, noted))
			noted->filter = NULL;
		if (OidIsValid(noted->function) || noted->filter != NULL)
			list = lappend(list, noted);
	}
	return list;
}

void
ec_rename_follow(List *noted)
{
	if (noted != NIL)
		update_configuration(NIL, NULL, noted);
}

List *
ec_rename_note_types(Oid relid)
{
	List	   *list = NIL;
	ListCell   *lc;

	foreach(lc, ec_affected_by_table(relid))
	{
		EcAttachment *att = lfirst(lc);
		Noted	   *noted;

		if (att->filter == NULL || !(ec_affected_role(att, relid) & EC_ROLE_OWN))
			continue;
		noted = palloc0(sizeof(Noted));
		noted->name = pstrdup(att->name);
		noted->relid = att->relid;
		if (ec_act_guarded(parse_filter, noted) && noted->filter != NULL)
			list = lappend(list, noted);
	}
	return list;
}

void
ec_rename_follow_types(List *noted)
{
	ListCell   *lc;

	foreach(lc, noted)
		reread_filter(lfirst(lc));
	ec_rename_follow(noted);
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
ec_rename_begin_column(Oid relid, List *noted)
{
	List	   *renames = NIL;
	ListCell   *lc;
	ListCell   *ln;

	foreach(lc, ec_affected_by_table(relid))
	{
		EcAttachment *att = lfirst(lc);
		Rename	   *rename;

		if (ec_affected_role(att, relid) == 0)
			continue;
		rename = palloc0(sizeof(Rename));
		rename->noted.name = pstrdup(att->name);
		rename->noted.relid = att->relid;
		rename->role = ec_affected_role(att, relid);
		if (att->filter && (rename->role & EC_ROLE_OWN))
			parse_filter(&rename->noted);
		foreach(ln, noted)
			if (((Noted *) lfirst(ln))->relid == att->relid && rename->noted.filter != NULL)
				((Noted *) lfirst(ln))->filter = NULL;	/* this one cannot change any more */
		renames = lappend(renames, rename);
	}
	return renames;
}

void
ec_rename_follow_column(List *renames, RenameStmt *stmt)
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

/* Put the column's new name into this row of echocache.document.  Returns whether it changes. */
static bool
follow_column(Rename *rename, RenameStmt *stmt, Datum *values, const bool *nulls)
{
	if (!(rename->role & EC_ROLE_OWN))
		return false;
	values[Anum_ec_document_key_column - 1] =
		renamed(values[Anum_ec_document_key_column - 1], stmt);
	if (!nulls[Anum_ec_document_owner_column - 1])
		values[Anum_ec_document_owner_column - 1] =
			renamed(values[Anum_ec_document_owner_column - 1], stmt);
	values[Anum_ec_document_filter_columns - 1] =
		renamed_array(values[Anum_ec_document_filter_columns - 1], stmt);
	values[Anum_ec_document_exclude - 1] =
		renamed_array(values[Anum_ec_document_exclude - 1], stmt);
	(void) follow_names(&rename->noted, values, nulls);
	return true;
}

/*
 * Put into this column of a row of echocache.document what stands for the same object now, if it
 * was another text when that was noted.  Returns whether it changes.  Throws 40001 if the row has
 * neither: somebody else has renamed something meanwhile.
 */
static bool
follow_text(const char *name, Datum *values, const bool *nulls, AttrNumber column,
			const char *noted, const char *now)
{
	char	   *stored;

	if (nulls[column - 1] || strcmp(noted, now) == 0)
		return false;
	stored = TextDatumGetCString(values[column - 1]);
	if (strcmp(stored, now) == 0)
		return false;
	if (strcmp(stored, noted) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("document \"%s\" was changed by somebody else at the same time", name),
				 errhint("Try again.")));
	values[column - 1] = CStringGetTextDatum(now);
	return true;
}

/*
 * Put names as they are now into this row of echocache.document, if it is still about the same
 * table.  Returns whether it changes.  Throws as follow_text() does.
 */
static bool
follow_names(const Noted *noted, Datum *values, const bool *nulls)
{
	Oid			schema = OidIsValid(noted->function) ? get_func_namespace(noted->function)
		: InvalidOid;
	bool		changed = false;

	if (DatumGetObjectId(values[Anum_ec_document_relation - 1]) != noted->relid)
		return false;
	if (OidIsValid(schema))
		changed = follow_text(noted->name, values, nulls, Anum_ec_document_document,
							  noted->function_text,
							  quote_qualified_identifier(get_namespace_name(schema),
														 get_func_name(noted->function)));
	if (noted->filter != NULL)
	{
		changed |= follow_text(noted->name, values, nulls, Anum_ec_document_filter,
							   noted->filter_text,
							   ec_filter_deparse(noted->relid, noted->filter));
		changed |= follow_text(noted->name, values, nulls, Anum_ec_document_filter_calls,
							   noted->calls, ec_filter_calls(noted->filter));
	}
	return changed;
}

/* Write a column's new name, or what is noted, into echocache.document. */
static void
update_configuration(List *renames, RenameStmt *stmt, List *noted)
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
			if (strcmp(((Rename *) lfirst(lc))->noted.name, name) == 0)
				changed |= follow_column(lfirst(lc), stmt, values, nulls);
		foreach(lc, noted)
			if (strcmp(((Noted *) lfirst(lc))->name, name) == 0)
				changed |= follow_names(lfirst(lc), values, nulls);
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

			if (strcmp(rename->noted.name,
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
