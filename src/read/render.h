/*-------------------------------------------------------------------------
 *
 * render.h
 *	  From a row that this transaction has written to its document.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_RENDER_H
#define ECHOCACHE_READ_RENDER_H

#include "fmgr.h"

#include "attachments/configuration.h"
#include "commit/pending.h"

/* A row that is wanted, and what came of it. */
typedef struct EcRow
{
	const char *id;				/* the key column's text, server encoding */
	EcPlace		place;			/* for ec_render_written() */
	int			matches;		/* rows found with it: none, one, or (an error) more */
	bool		same_id;		/* the row's own id is this very text, not merely equal */
	text	   *json;			/* server encoding */
	char	   *owner;			/* the owner column's text, NULL: none */
} EcRow;

extern void ec_render_written(EcAttachment *att, EcRow *rows, int n, Size most);
extern bool ec_render_cacheable(const EcRow *row, const char **value, size_t *len);

#endif							/* ECHOCACHE_READ_RENDER_H */
