/*-------------------------------------------------------------------------
 *
 * column.h
 *	  Columns that ids and owners are compared with: from text to value to JSON.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_COLUMN_H
#define ECHOCACHE_ATTACHMENTS_COLUMN_H

#include "attachments/configuration.h"

extern Datum ec_column_datum(EcColumn *column, const char *text);
extern char *ec_column_canonical(EcAttachment *att, EcColumn *column, const char *input);
extern char *ec_column_member(EcColumn *column, Datum value, bool isnull, int *len,
							  int *namelen);
extern char *ec_column_comparison(const char *left, Oid operator, const char *right, bool any);

#endif							/* ECHOCACHE_ATTACHMENTS_COLUMN_H */
