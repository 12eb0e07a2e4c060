/*-------------------------------------------------------------------------
 *
 * member.h
 *	  The member by which a document shows a column's value.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_MEMBER_H
#define ECHOCACHE_READ_MEMBER_H

#include "fmgr.h"

#include "attachments/configuration.h"

/* A member as row_to_json writes it, "name":value, in UTF-8 as the cache has it. */
typedef struct EcShown
{
	const char *text;			/* NULL: UTF-8 cannot express it, so no document shows it */
	int			len;
	int			namelen;		/* of the part up to and with the colon */
} EcShown;

extern EcJsonKind ec_member_kind(Oid type);
extern void ec_member_make(EcAttachment *att, EcColumn *column, const char *value,
						   EcShown *shown);

#endif							/* ECHOCACHE_READ_MEMBER_H */
