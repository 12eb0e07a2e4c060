/*-------------------------------------------------------------------------
 *
 * trust.c
 *	  Whose code may run as the owner of an attached table.
 *
 * That of roles that may act as this owner anyway: his own, a member's, a superuser's.
 * Whoever owns a function, or a domain, can put other code into it at any time.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "utils/acl.h"
#include "utils/syscache.h"

#include "attachments/trust.h"
#include "attachments/typewalk.h"

/* What is asked of each type that a type contains. */
typedef struct Asked
{
	Oid			relowner;
	Oid			stranger;		/* the answer */
} Asked;

static bool is_strange(Oid type, void *arg);

/*
 * The role that the function belongs to, if this may not act as the table's owner; else
 * InvalidOid.  Throws 42883 if there is no such function.
 */
Oid
ec_trust_function(Oid function, Oid relowner)
{
	HeapTuple	tuple;
	Oid			owner;

	if (function < FirstNormalObjectId)
		return InvalidOid;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", function)));
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	return has_privs_of_role(owner, relowner) ? InvalidOid : owner;
}

/* Can the type's owner have code run where values are made, and is that a stranger? */
static bool
is_strange(Oid type, void *arg)
{
	Asked	   *asked = arg;
	HeapTuple	tuple;
	Form_pg_type form;

	if (type < FirstNormalObjectId)
		return false;
	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_type) GETSTRUCT(tuple);
	/* base types are made by superusers; what is an array of one of these is walked */
	if ((form->typtype == TYPTYPE_DOMAIN || form->typtype == TYPTYPE_COMPOSITE ||
		 form->typtype == TYPTYPE_RANGE) && !has_privs_of_role(form->typowner, asked->relowner))
		asked->stranger = form->typowner;
	ReleaseSysCache(tuple);
	return OidIsValid(asked->stranger);
}

/*
 * A role that may not act as the table's owner and whose code may run where a value of this
 * type is made: the type, or one that it contains, is a domain, composite or range type of
 * this role's.  InvalidOid if there is none.
 */
Oid
ec_trust_type(Oid type, Oid relowner)
{
	Asked		asked = {relowner, InvalidOid};

	(void) ec_typewalk_type(type, is_strange, &asked);
	return asked.stranger;
}
