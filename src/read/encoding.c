/*-------------------------------------------------------------------------
 *
 * encoding.c
 *	  Text in the server encoding and in UTF-8, which the cache has.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "read/encoding.h"

static const char *convert(const char *s, size_t *len, int from, int to);

/*
 * Text in one encoding as another; the same pointer where there is nothing to
 * convert, NULL where it cannot be done.  Never throws for the content's sake.
 */
static const char *
convert(const char *s, size_t *len, int from, int to)
{
	Oid			proc;
	char	   *dst;
	size_t		size;

	if (from == to || from == PG_SQL_ASCII || to == PG_SQL_ASCII)
		return s;
	proc = FindDefaultConversionProc(from, to);
	size = *len * MAX_CONVERSION_GROWTH + 1;
	if (!OidIsValid(proc) || size > MaxAllocSize)
		return NULL;
	dst = palloc(size);
	if (pg_do_encoding_conversion_buf(proc, from, to, (unsigned char *) s, (int) *len,
									  (unsigned char *) dst, (int) size, true) != (int) *len)
		return NULL;
	*len = strlen(dst);
	return dst;
}

/* What the server encoding's bytes are in UTF-8, or NULL. */
const char *
ec_encoding_to_utf8(const char *s, size_t *len)
{
	if (GetDatabaseEncoding() == PG_SQL_ASCII && !pg_verify_mbstr(PG_UTF8, s, (int) *len, true))
		return NULL;
	return convert(s, len, GetDatabaseEncoding(), PG_UTF8);
}

/* And back, for bytes from the cache, which may be anything: NULL if they are not UTF-8. */
const char *
ec_encoding_from_utf8(const char *s, size_t *len)
{
	if (!pg_verify_mbstr(PG_UTF8, s, (int) *len, true))
		return NULL;
	return convert(s, len, PG_UTF8, GetDatabaseEncoding());
}
