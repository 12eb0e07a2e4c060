/*-------------------------------------------------------------------------
 *
 * encoding.c
 *	  Text in the server encoding and in UTF-8, which the cache has.
 *
 * What cannot be converted is no error here: it is not cached, or not believed.
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
 * Convert *len bytes from one encoding to another, and set *len.  Returns s itself where there
 * is nothing to convert, and NULL where it cannot be done.  Never throws for the content's
 * sake.
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

/* Bytes of the server encoding in UTF-8; NULL: UTF-8 cannot express them. */
const char *
ec_encoding_to_utf8(const char *s, size_t *len)
{
	if (GetDatabaseEncoding() == PG_SQL_ASCII && !ec_encoding_is_utf8(s, *len))
		return NULL;
	return convert(s, len, GetDatabaseEncoding(), PG_UTF8);
}

/*
 * Bytes from the cache, which may be anything, in the server encoding; NULL: they are not
 * UTF-8, or the server encoding cannot express them.
 */
const char *
ec_encoding_from_utf8(const char *s, size_t *len)
{
	return ec_encoding_is_utf8(s, *len) ? ec_encoding_of_utf8(s, len) : NULL;
}

/* Are these bytes, which may be anything, UTF-8? */
bool
ec_encoding_is_utf8(const char *s, size_t len)
{
	return pg_verify_mbstr(PG_UTF8, s, (int) len, true);
}

/* Bytes known to be UTF-8 in the server encoding; NULL: it cannot express them. */
const char *
ec_encoding_of_utf8(const char *s, size_t *len)
{
	return convert(s, len, PG_UTF8, GetDatabaseEncoding());
}
