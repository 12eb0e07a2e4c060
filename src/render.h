/*-------------------------------------------------------------------------
 *
 * render.h
 *	  From a row to its document: the same bytes, whoever asks.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_RENDER_H
#define ECHOCACHE_RENDER_H

#include "document.h"
#include "pending.h"

/* A row that somebody wants, and what came of it. */
typedef struct EcRow
{
	const char *id;				/* the key column's text, server encoding */
	EcPlace		place;			/* for ec_document_written() */
	int			matches;		/* rows found with it: none, one, or (an error) more */
	bool		same_id;		/* the row's own id is the same text, not merely equal */
	text	   *json;			/* server encoding */
	char	   *owner;			/* the owner column's text, NULL: none */
} EcRow;

/* Where code that makes documents finds what it does not qualify. */
#define EC_SEARCH_PATH	"pg_catalog, pg_temp"

/* Who somebody was before he acted for another. */
typedef struct EcActing
{
	Oid			user;
	int			sec_context;
	int			nestlevel;
	bool		read_only;
} EcActing;

extern const char *ec_to_utf8(const char *s, size_t *len);
extern const char *ec_from_utf8(const char *s, size_t *len);

extern Node *ec_filter_parse(Relation rel, const char *filter, bool canonical);
extern char *ec_filter_deparse(Oid relid, Node *expr);
extern int	ec_render_begin(EcDocument *doc);
extern void ec_render_end(int nestlevel);
extern void ec_act_begin(EcDocument *doc, bool as_owner, EcActing *before);
extern void ec_act_end(const EcActing *before);
extern bool ec_guarded(void (*work) (void *arg), void *arg);
extern char *ec_document_table(EcDocument *doc);

extern void ec_document_fetch(EcDocument *doc, EcRow *rows, int n, Snapshot snapshot,
							  bool as_owner);
extern void ec_document_written(EcDocument *doc, EcRow *rows, int n, Snapshot snapshot);
extern bool ec_document_cacheable(const EcRow *row, const char **value, size_t *len);
extern char *ec_column_member(EcColumn *column, Datum value, bool isnull, int *len,
							  int *namelen);
extern char *ec_document_owner_member(EcDocument *doc, const char *owner, int *len,
									  int *namelen);
extern char *ec_document_any_id(EcDocument *doc);

#endif							/* ECHOCACHE_RENDER_H */
