/*-------------------------------------------------------------------------
 *
 * shape.h
 *	  The document of a row, as row_to_json makes it.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_SHAPE_H
#define ECHOCACHE_READ_SHAPE_H

#include "executor/tuptable.h"
#include "utils/relcache.h"

#include "attachments/configuration.h"

/* A member of a document. */
typedef struct EcCell
{
	AttrNumber	attno;			/* the column, in the attached table's layout */
	bool		is_text;		/* the value's bytes are its text */
	EcJsonKind	kind;
	FmgrInfo	function;		/* gives the value's text; for EC_JSON_OTHER the JSON */
	int			namelen;
	char	   *name;			/* what goes before the value */
} EcCell;

/* What documents of an attachment look like. */
typedef struct EcShape
{
	AttrNumber	key;			/* the column of ids */
	int			ncells;
	EcCell		cells[FLEXIBLE_ARRAY_MEMBER];
} EcShape;

extern EcShape *ec_shape_make(EcAttachment *att, Relation rel);
extern text *ec_shape_document(EcShape *shape, TupleTableSlot *slot, Size size);

#endif							/* ECHOCACHE_READ_SHAPE_H */
