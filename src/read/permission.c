/*-------------------------------------------------------------------------
 *
 * permission.c
 *	  May the current role read this document?
 *
 * A hit touches no table, so PostgreSQL checks nothing: the privileges that the same SELECT
 * would need are checked here.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"

#include "attachments/attachment.h"
#include "attachments/configuration.h"
#include "compat.h"
#include "read/permission.h"

/*
 * Throws 42501 unless the current role may read documents of the attachment.  As in SQL it
 * needs USAGE on the schema, and SELECT on the table or on each column that the document
 * shows.  It also needs EXECUTE on the function, if there is one, whose grant stands for
 * everything that the function reads.  Throws 42883 if the function is gone.
 */
void
ec_permission_check(EcAttachment *att)
{
	Oid			user = GetUserId();
	int			attno = -1;

	if (ec_compat_namespace_aclcheck(att->namespace, user, ACL_USAGE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_SCHEMA, get_namespace_name(att->namespace));
	if (att->function_name && !OidIsValid(att->function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s of document \"%s\" does not exist any more",
						att->function_name, att->name),
				 errhint("Create it again, or detach the document and attach the table again.")));
	if (pg_class_aclcheck(att->relid, user, ACL_SELECT) != ACLCHECK_OK)
		while ((attno = bms_next_member(att->columns, attno)) >= 0)
			if (pg_attribute_aclcheck(att->relid, attno, user, ACL_SELECT) != ACLCHECK_OK)
				aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(att->relid));
	if (att->function_name &&
		ec_compat_proc_aclcheck(att->function, user, ACL_EXECUTE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(att->function));
}

/*
 * Before the table of an attachment is read: lock it, as any query does, and check the permission
 * for what is attached then.  Waiting may take long: row-level security, columns and the
 * attachment itself may be others afterwards, but stay as long as the lock.  Returns the
 * attachment as it is now.  *as_owner: may the table's owner read for the caller?  Not under
 * row-level security.  Throws 42704 if it is gone, and what ec_permission_check() throws.
 */
EcAttachment *
ec_permission_lock(EcAttachment *att, bool *as_owner)
{
	EcAttachment *now = att;
	Oid			locked;

	do
	{
		locked = now->relid;
		LockRelationOid(locked, AccessShareLock);
		now = ec_attachment_require(att->name);
		ec_permission_check(now);
	} while (now->relid != locked);
	*as_owner = !ec_permission_by_row(now);
	return now;
}

/* Does row-level security apply to the current role? */
bool
ec_permission_by_row(EcAttachment *att)
{
	return check_enable_rls(att->relid, InvalidOid, true) == RLS_ENABLED;
}
