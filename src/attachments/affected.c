/*-------------------------------------------------------------------------
 *
 * affected.c
 *	  Which attachments a change affects: of a row, a table, a type or a function.
 *
 * An attachment too many costs cache misses, an attachment too few leaves stale documents.
 * So partitions, children and what is in composite types count, at whatever level.
 * Nothing here takes a lock that lasts: an answer holds as long as its caller has a lock
 * on what changes.  DDL gets attachments as they are configured, unresolved, since their
 * table may just be going.  A row change gets a resolved attachment; how the row maps to
 * a document is kept with the attachment, since every write asks.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"

#include "attachments/affected.h"
#include "attachments/attachment.h"
#include "attachments/configuration.h"
#include "attachments/inherit.h"
#include "attachments/typewalk.h"

static bool is_name_type(Oid type);
static bool is_wanted(Oid type, void *wanted);
static bool shows_type(Oid relid, Oid type);
static bool depends_on_type(EcAttachment *att, Oid type);
static bool is_family(Oid relid, Oid other);

/* Is the text of such a value the name of an object of the database? */
static bool
is_name_type(Oid type)
{
	switch (type)
	{
		case REGCLASSOID:
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REGCOLLATIONOID:
			return true;
		default:
			return false;
	}
}

/* Is it the type that is looked for, or with InvalidOid one whose values are names? */
static bool
is_wanted(Oid type, void *wanted)
{
	Oid			other = *(Oid *) wanted;

	return OidIsValid(other) ? type == other : is_name_type(type);
}

/*
 * Has the table, or composite type, a column that contains a value of this type, or with
 * InvalidOid the name of an object?  Takes no lock.
 */
static bool
shows_type(Oid relid, Oid type)
{
	return ec_typewalk_columns(relid, is_wanted, &type);
}

/* Has the attached table, or a dependent table of the attachment, such a column? */
static bool
depends_on_type(EcAttachment *att, Oid type)
{
	bool		depends = shows_type(att->relid, type);
	ListCell   *lc;

	foreach(lc, att->dependents)
		depends |= shows_type(((EcDependent *) lfirst(lc))->relid, type);
	return depends;
}

/*
 * Is the table the whole one, or its partition at some level?  One whose DETACH CONCURRENTLY
 * is under way is none any more.
 */
bool
ec_affected_is_part(Oid relid, Oid whole)
{
	return relid == whole ||
		(get_rel_relispartition(relid) && list_member_oid(get_partition_ancestors(relid), whole));
}

/* Is one of the tables the other, or its partition or child at some level? */
static bool
is_family(Oid relid, Oid other)
{
	return ec_affected_is_part(relid, other) ||
		list_member_oid(ec_inherit_tree(relid), other);
}

/*
 * What the table is to the attachment: EC_ROLE_OWN, EC_ROLE_DEPENDENT, both, or 0.
 * The attachment may be unresolved.  Takes no lock.
 */
int
ec_affected_role(EcAttachment *att, Oid relid)
{
	int			role = is_family(relid, att->relid) ? EC_ROLE_OWN : 0;
	ListCell   *lc;

	foreach(lc, att->dependents)
		if (is_family(relid, ((EcDependent *) lfirst(lc))->relid))
			role |= EC_ROLE_DEPENDENT;
	return role;
}

/*
 * The attachments whose documents may change with the definition of this table or
 * composite type: the relation has a role for them, or they have columns of its row type.
 *
 * The attachments may be unresolved: only their name, relid, filter, dependents and the
 * names of columns may be used.  The list is allocated in the current memory context; the
 * attachments in it live as long as the transaction.  Takes no lock, and may throw what
 * reading the configuration throws.
 */
List *
ec_affected_by_table(Oid relid)
{
	List	   *found = NIL;
	Oid			type = get_rel_type_id(relid);
	ListCell   *lc;

	foreach(lc, ec_attachment_all())
	{
		EcAttachment *att = lfirst(lc);

		if (ec_affected_role(att, relid) != 0 ||
			(OidIsValid(type) && depends_on_type(att, type)))
			found = lappend(found, att);
	}
	return found;
}

/* Does this backend know an attachment that is not cached since not every change is seen? */
bool
ec_affected_any_suspended(void)
{
	ListCell   *lc;

	foreach(lc, ec_attachment_all())
		if (((EcAttachment *) lfirst(lc))->suspended)
			return true;
	return false;
}

/*
 * The attachments whose documents show names of objects, in the attached table's columns or
 * in a dependent table's.  They may be unresolved.
 */
List *
ec_affected_by_names(void)
{
	List	   *found = NIL;
	ListCell   *lc;

	foreach(lc, ec_attachment_all())
	{
		EcAttachment *att = lfirst(lc);

		if (!att->names_known)
		{
			att->shows_names = depends_on_type(att, InvalidOid);
			att->names_known = true;
		}
		if (att->shows_names)
			found = lappend(found, att);
	}
	return found;
}

/* The attachments whose function this function is; they may be unresolved. */
List *
ec_affected_by_function(Oid function)
{
	List	   *found = NIL;
	ListCell   *lc;

	foreach(lc, ec_attachment_all())
		if (ec_configuration_function(lfirst(lc)) == function)
			found = lappend(found, lfirst(lc));
	return found;
}

/* The attachments with a column that contains this type.  They may be unresolved. */
List *
ec_affected_by_type(Oid type)
{
	List	   *found = NIL;
	ListCell   *lc;

	foreach(lc, ec_attachment_all())
		if (depends_on_type(lfirst(lc), type))
			found = lappend(found, lfirst(lc));
	return found;
}

/*
 * How rows of rel, the attached table or a partition of it, map to documents of the
 * attachment of that name.  NULL: rel has no part in such an attachment, or not any more.
 * Any role may create a trigger with our function and any name on a table of its own, so
 * the name alone proves nothing.  The caller has rel open and locked.
 */
EcOwnMap *
ec_affected_own_map(Relation rel, const char *name)
{
	Oid			relid = RelationGetRelid(rel);
	EcRowMap   *map = ec_attachment_row_map(relid);
	EcOwnMap   *mine;
	EcAttachment *att;
	MemoryContext old;
	int			attno = -1;
	ListCell   *lc;

	Assert(CheckRelationLockedByMe(rel, AccessShareLock, true));
	if (map != NULL)
		foreach(lc, map->own)
			if (strcmp(((EcOwnMap *) lfirst(lc))->att->name, name) == 0)
				return lfirst(lc);

	att = ec_attachment_by_name(name);
	if (att == NULL || !ec_affected_is_part(relid, att->relid))
		return NULL;
	old = MemoryContextSwitchTo(att->context);
	mine = palloc0(sizeof(EcOwnMap));
	mine->att = att;
	mine->key = get_attnum(relid, NameStr(att->key.name));
	mine->depends = palloc(bms_num_members(att->depends) * sizeof(AttrNumber));
	while ((attno = bms_next_member(att->depends, attno)) >= 0)
	{
		AttrNumber	here = attno;

		if (relid != att->relid)
			here = get_attnum(relid, get_attname(att->relid, attno, false));
		if (here != mine->key)
			mine->depends[mine->ndepends++] = here;
	}
	map = ec_attachment_make_row_map(relid);
	map->own = lappend(map->own, mine);
	MemoryContextSwitchTo(old);
	return mine;
}

/*
 * How rows of rel, a dependent table of the attachment of that name or a partition of
 * one, map to documents.  NULL: rel is no such table, or not any more.  The caller has rel
 * open and locked.
 */
EcDependentMap *
ec_affected_dependent_map(Relation rel, const char *name)
{
	Oid			relid = RelationGetRelid(rel);
	EcRowMap   *map = ec_attachment_row_map(relid);
	EcDependentMap *mine;
	EcAttachment *att;
	EcDependent *dependent = NULL;
	MemoryContext old;
	ListCell   *lc;

	Assert(CheckRelationLockedByMe(rel, AccessShareLock, true));
	if (map != NULL)
		foreach(lc, map->dependents)
			if (strcmp(((EcDependentMap *) lfirst(lc))->att->name, name) == 0)
				return lfirst(lc);

	att = ec_attachment_by_name(name);
	if (att == NULL)
		return NULL;
	foreach(lc, att->dependents)
		if (is_family(relid, ((EcDependent *) lfirst(lc))->relid))
			dependent = lfirst(lc);
	if (dependent == NULL)
		return NULL;
	old = MemoryContextSwitchTo(att->context);
	mine = palloc0(sizeof(EcDependentMap));
	mine->att = att;
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
		fmgr_info_cxt(out, &mine->out[mine->nkeys], att->context);
		mine->keys[mine->nkeys++] = attno;
	}
	map = ec_attachment_make_row_map(relid);
	map->dependents = lappend(map->dependents, mine);
	MemoryContextSwitchTo(old);
	return mine;
}
