/*-------------------------------------------------------------------------
 *
 * owner.c
 *	  The owner that a caller asks for, and the member by which a document shows it.
 *
 * The owner of a hit is checked on the cached bytes: they must have the very member that
 * row_to_json would make of the owner's value.
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

static char *owner_member(EcAttachment *att, const char *owner, int *len, int *namelen);

/*
 * The member that a document of this owner shows, in UTF-8 as the cache has it; owner is the
 * column's canonical text.  Throws 22021 if UTF-8 cannot express it.
 */
static char *
owner_member(EcAttachment *att, const char *owner, int *len, int *namelen)
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

/*
 * The owner that a caller asks for by this text; NULL: the caller asks for none.  Throws 55000
 * if the attachment has no owner column, and what the column's type throws.
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
	owner->member = owner_member(att, owner->text, &owner->memberlen, &owner->namelen);
}
