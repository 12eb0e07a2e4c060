/*-------------------------------------------------------------------------
 *
 * owner.c
 *	  The owner that a caller asks for, and the member by which a document shows it.
 *
 * The owner of a hit is checked on the cached bytes (member.c), that of a row on the column's
 * text.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "attachments/column.h"
#include "attachments/configuration.h"
#include "read/member.h"
#include "read/owner.h"

/*
 * The owner that a caller asks for by this text; NULL: the caller asks for none.  Throws 55000
 * if the attachment has no owner column, 22021 if UTF-8 cannot express the owner, and what the
 * column's type throws.
 */
void
ec_owner_make(EcAttachment *att, const char *text, EcOwner *owner)
{
	owner->text = NULL;
	if (text == NULL)
		return;
	if (!att->has_owner)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("document \"%s\" has no owner column", att->name),
				 errhint("Attach its table with owner_column => '...', or call the "
						 "function without an owner.")));
	owner->text = ec_column_canonical(att, &att->owner, text);
	ec_member_make(att, &att->owner, owner->text, &owner->shown);
	if (owner->shown.text == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("the owner cannot be expressed in UTF-8")));
}
