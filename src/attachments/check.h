/*-------------------------------------------------------------------------
 *
 * check.h
 *	  What can be attached: checks of the arguments of echocache_attach().
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_CHECK_H
#define ECHOCACHE_ATTACHMENTS_CHECK_H

#include "nodes/pg_list.h"
#include "utils/relcache.h"

/* The attachment in the making. */
typedef struct EcAttaching
{
	char	   *schema;			/* where our functions are */
	char	   *name;
	Oid			relid;
	Relation	rel;			/* open while it is checked */
	char	   *key;
	char	   *owner;			/* NULL: none */
	char	   *filter;			/* NULL: none; as given, after ec_check_filter() canonical */
	List	   *filter_columns;
	char	   *filter_calls;	/* as in EcAttachment */
	List	   *exclude;
	int64		ttl;			/* -1: none of its own */
	char	   *policy;
	char	   *function;		/* NULL: none */
	bool		touch_on_read;
} EcAttaching;

extern void ec_check_relation(Relation rel);
extern char *ec_check_find_key(Relation rel);
extern void ec_check_key(Relation rel, const char *key);
extern void ec_check_columns(EcAttaching *a);
extern void ec_check_filter(EcAttaching *a);

#endif							/* ECHOCACHE_ATTACHMENTS_CHECK_H */
