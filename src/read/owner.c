/*-------------------------------------------------------------------------
 *
 * owner.c
 *	  The owner that a caller asks for, and the member by which a document shows him.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "attachments/column.h"
#include "attachments/configuration.h"
#include "read/act.h"
#include "read/encoding.h"
#include "read/owner.h"

/*
 * The member that a document of this owner shows, in UTF-8 as the cache has it.
 * owner is the column's canonical text.
 */
char *
ec_owner_member(EcAttachment *att, const char *owner, int *len, int *namelen)
{
	int			nestlevel = ec_act_begin_output(att);
	char	   *member = ec_column_member(&att->owner, ec_column_datum(&att->owner, owner), false,
										  len, namelen);
	size_t		namesize = *namelen;
	size_t		size = *len;

	ec_act_end_output(nestlevel);
	/* the name too may have grown */
	if (ec_encoding_to_utf8(member, &namesize) == NULL ||
		(member = unconstify(char *, ec_encoding_to_utf8(member, &size))) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("the owner cannot be expressed in UTF-8")));
	*len = (int) size;
	*namelen = (int) namesize;
	return member;
}

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
	owner->member = ec_owner_member(att, owner->text, &owner->memberlen,
											 &owner->namelen);
}
