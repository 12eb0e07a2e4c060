/*-------------------------------------------------------------------------
 *
 * owner.h
 *	  The owner that a caller asks for, and the member by which a document shows it.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_OWNER_H
#define ECHOCACHE_READ_OWNER_H

#include "fmgr.h"

#include "attachments/configuration.h"
#include "read/member.h"

/* The owner that is asked for: its text, and the member that its documents show. */
typedef struct EcOwner
{
	const char *text;			/* NULL: not asked for */
	EcShown		shown;
} EcOwner;

extern void ec_owner_make(EcAttachment *att, const char *text, EcOwner *owner);

#endif							/* ECHOCACHE_READ_OWNER_H */
