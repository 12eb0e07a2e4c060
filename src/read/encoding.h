/*-------------------------------------------------------------------------
 *
 * encoding.h
 *	  Text in the server encoding and in UTF-8, which the cache has.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_ENCODING_H
#define ECHOCACHE_READ_ENCODING_H

#include "fmgr.h"

extern const char *ec_encoding_to_utf8(const char *s, size_t *len);
extern const char *ec_encoding_from_utf8(const char *s, size_t *len);
extern bool ec_encoding_is_utf8(const char *s, size_t len);
extern const char *ec_encoding_of_utf8(const char *s, size_t *len);

#endif							/* ECHOCACHE_READ_ENCODING_H */
