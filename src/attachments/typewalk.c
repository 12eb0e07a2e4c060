/*-------------------------------------------------------------------------
 *
 * typewalk.c
 *	  All types that values of a type, or rows of a table, contain, at whatever level.
 *
 * Any role may make types of which each contains another one, deep and with many ways to the
 * same one.  So there is no recursion, each type is visited once, and a cancel is heeded.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "attachments/typewalk.h"

/* A walk that is under way. */
typedef struct TypeWalk
{
	EcTypeVisitor visit;
	void	   *arg;
	HTAB	   *seen;			/* of Oid; NULL: none yet */
	List	   *todo;			/* of those in it, in the order in which they were met */
} TypeWalk;

static bool meet_type(TypeWalk *walk, Oid type);
static bool meet_columns(TypeWalk *walk, Oid relid);
static bool enter_type(TypeWalk *walk, Oid type);
static bool go_on(TypeWalk *walk, bool found);

/* Visit the type, and note it if others are in it.  What the visitor says. */
static bool
meet_type(TypeWalk *walk, Oid type)
{
	char		typtype = get_typtype(type);
	bool		known;

	if (walk->visit(type, walk->arg))
		return true;
	/* most types are such, and need no hash */
	if (typtype == '\0' || typtype == TYPTYPE_ENUM || typtype == TYPTYPE_PSEUDO ||
		(typtype == TYPTYPE_BASE && !OidIsValid(get_element_type(type))))
		return false;
	if (walk->seen == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(Oid),
		.hcxt = CurrentMemoryContext};

		walk->seen = hash_create("echocache types seen", 16, &ctl,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	(void) hash_search(walk->seen, &type, HASH_ENTER, &known);
	if (!known)
		walk->todo = lappend_oid(walk->todo, type);
	return false;
}

/* Visit the types of the columns of the table, or composite type. */
static bool
meet_columns(TypeWalk *walk, Oid relid)
{
	for (AttrNumber attno = 1;; attno++)
	{
		HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid),
											Int16GetDatum(attno));
		Form_pg_attribute attr;
		Oid			type;

		if (!HeapTupleIsValid(tuple))
			return false;
		attr = (Form_pg_attribute) GETSTRUCT(tuple);
		type = attr->attisdropped ? InvalidOid : attr->atttypid;
		ReleaseSysCache(tuple);
		if (OidIsValid(type) && meet_type(walk, type))
			return true;
	}
}

/* Visit what the type is made of.  A type that is gone by now contains nothing. */
static bool
enter_type(TypeWalk *walk, Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Form_pg_type form;
	Oid			element = InvalidOid;
	Oid			relid = InvalidOid;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_type) GETSTRUCT(tuple);
	if (form->typtype == TYPTYPE_DOMAIN)
		element = form->typbasetype;
	else if (form->typtype == TYPTYPE_COMPOSITE)
		relid = form->typrelid;
	else if (form->typtype == TYPTYPE_RANGE)
		element = get_range_subtype(type);
	else if (form->typtype == TYPTYPE_MULTIRANGE)
		element = get_multirange_range(type);
	else if (IsTrueArrayType(form))
		element = form->typelem;
	ReleaseSysCache(tuple);
	if (OidIsValid(element))
		return meet_type(walk, element);
	return OidIsValid(relid) && meet_columns(walk, relid);
}

/* Visit all that is noted, until the visitor returns true; found: it has done so already. */
static bool
go_on(TypeWalk *walk, bool found)
{
	for (int i = 0; !found && i < list_length(walk->todo); i++)
	{
		CHECK_FOR_INTERRUPTS();
		found = enter_type(walk, list_nth_oid(walk->todo, i));
	}
	if (walk->seen)
		hash_destroy(walk->seen);
	list_free(walk->todo);
	return found;
}

/*
 * Visit this type and all that its values contain, until the visitor returns true, and return
 * that.  Takes no lock; throws what the visitor throws, and a cancel.
 */
bool
ec_typewalk_type(Oid type, EcTypeVisitor visit, void *arg)
{
	TypeWalk	walk = {visit, arg, NULL, NIL};

	return go_on(&walk, meet_type(&walk, type));
}

/* The same for all types that rows of this table, or composite type, contain. */
bool
ec_typewalk_columns(Oid relid, EcTypeVisitor visit, void *arg)
{
	TypeWalk	walk = {visit, arg, NULL, NIL};

	return go_on(&walk, meet_columns(&walk, relid));
}
