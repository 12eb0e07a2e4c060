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
	EcPlace		place;			/* for ec_render_written() */
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

extern const char *ec_encoding_to_utf8(const char *s, size_t *len);
extern const char *ec_encoding_from_utf8(const char *s, size_t *len);

extern Node *ec_filter_parse(Relation rel, const char *filter, bool canonical);
extern char *ec_filter_deparse(Oid relid, Node *expr);
extern int	ec_act_begin_output(EcAttachment *att);
extern void ec_act_end_output(int nestlevel);
extern void ec_act_begin(EcAttachment *att, bool as_owner, EcActing *before);
extern void ec_act_end(const EcActing *before);
extern bool ec_act_guarded(void (*work) (void *arg), void *arg);
extern char *ec_attachment_table(EcAttachment *att);

extern void ec_fetch(EcAttachment *att, EcRow *rows, int n, Snapshot snapshot,
							  bool as_owner);
extern void ec_render_written(EcAttachment *att, EcRow *rows, int n, Snapshot snapshot);
extern bool ec_render_cacheable(const EcRow *row, const char **value, size_t *len);
extern char *ec_column_member(EcColumn *column, Datum value, bool isnull, int *len,
							  int *namelen);
extern char *ec_owner_member(EcAttachment *att, const char *owner, int *len,
									  int *namelen);
extern char *any_id(EcAttachment *att);

#endif							/* ECHOCACHE_RENDER_H */
