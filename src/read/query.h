/*-------------------------------------------------------------------------
 *
 * query.h
 *	  Queries of ours on an attached table, which have its filter as an expression.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_QUERY_H
#define ECHOCACHE_READ_QUERY_H

#include "attachments/configuration.h"

extern void ec_query_prepare(EcQuery *query, EcAttachment *att, const char *sql, int nargs,
							 const Oid *argtypes, int cursor_options);
extern void ec_query_free(EcQuery *query);
extern uint64 ec_query_run(EcQuery *query, const Datum *values, const char *nulls, long count);

#endif							/* ECHOCACHE_READ_QUERY_H */
