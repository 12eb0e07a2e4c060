/*-------------------------------------------------------------------------
 *
 * key.h
 *	  From an attachment's name and a row's id to memcached's key.
 *
 * Pure: no PostgreSQL header (see wire.h).
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_PROTOCOL_KEY_H
#define ECHOCACHE_PROTOCOL_KEY_H

#include <stdbool.h>
#include <stddef.h>

#define EC_NAME_MAX		63		/* of an attachment: [a-z][a-z0-9_]{0,62} */
#define EC_PREFIX_MAX	64		/* of echocache.key_prefix: 0x21..0x7e, no '%' */

/* Is it an attachment's name, [a-z][a-z0-9_]{0,62}? */
extern bool ec_key_valid_name(const char *name);

/* May it be echocache.key_prefix: at most EC_PREFIX_MAX bytes of 0x21..0x7e, none of them '%'? */
extern bool ec_key_valid_prefix(const char *prefix);

/*
 * Write <prefix><name>:<id> to dst, which holds EC_KEY_MAX bytes; the id's bytes outside
 * 0x21..0x7e, and '%', percent-encoded with upper-case hex.  Returns the length (there is no
 * final NUL), or 0 when the key would be longer than EC_KEY_MAX: the document of such a row is
 * never cached.  The id is in UTF-8.
 */
extern size_t ec_key_build(char *dst, const char *prefix, const char *name,
						   const char *id, size_t idlen);

/*
 * The part before the id, <prefix><name>: ; at most EC_PREFIX_MAX + EC_NAME_MAX + 1
 * bytes, which always fit.  A key belongs to the attachment if and only if it starts so.
 */
extern size_t ec_key_head(char *dst, const char *prefix, const char *name);

/*
 * The id of which src is the encoding, in a key behind its head; dst holds srclen
 * bytes.  Returns the length, or -1 where a '%' does not begin an encoded byte.
 * Accepts more than ec_key_build() makes: whether the key is that of its id is for
 * the caller to see, by building it again.
 */
extern int	ec_key_decode(char *dst, const char *src, size_t srclen);

#endif							/* ECHOCACHE_PROTOCOL_KEY_H */
