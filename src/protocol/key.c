/*-------------------------------------------------------------------------
 *
 * key.c
 *	  From an attachment's name and a row's id to memcached's key.
 *
 * Invariant: a key is 1 to EC_KEY_MAX bytes of 0x21..0x7e, so that nothing an id holds can
 * end a request early.  Two rows of an attachment never share a key, nor do two attachments
 * of one prefix.  The encoding is one-to-one, and neither a name nor an encoding holds what
 * ends it: ':' ends the name, and '%' starts an encoded byte only, since a '%' of the id is
 * encoded itself.
 *
 * Pure: see wire.h.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <string.h>

#include "protocol/key.h"
#include "protocol/wire.h"

/* [a-z][a-z0-9_]{0,62}; see key.h.  The locale has no say in it. */
bool
ec_key_valid_name(const char *name)
{
	size_t		i;

	if (!(name[0] >= 'a' && name[0] <= 'z'))
		return false;
	for (i = 1; name[i] != '\0'; i++)
	{
		char		c = name[i];

		if (i == EC_NAME_MAX)
			return false;
		if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'))
			return false;
	}
	return true;
}

/* At most EC_PREFIX_MAX bytes of 0x21..0x7e without '%', or none; see key.h. */
bool
ec_key_valid_prefix(const char *prefix)
{
	size_t		i;

	for (i = 0; prefix[i] != '\0'; i++)
	{
		if (i == EC_PREFIX_MAX || prefix[i] <= 0x20 || prefix[i] >= 0x7f || prefix[i] == '%')
			return false;
	}
	return true;
}

/* <prefix><name>: of a valid prefix and name; see key.h. */
size_t
ec_key_head(char *dst, const char *prefix, const char *name)
{
	size_t		prefix_len = strlen(prefix);
	size_t		name_len = strlen(name);

	memcpy(dst, prefix, prefix_len);
	memcpy(dst + prefix_len, name, name_len);
	dst[prefix_len + name_len] = ':';
	return prefix_len + name_len + 1;
}

/* <prefix><name>:<id>, or 0 if that is too long for memcached; see key.h. */
size_t
ec_key_build(char *dst, const char *prefix, const char *name, const char *id, size_t idlen)
{
	static const char hex[] = "0123456789ABCDEF";
	size_t		len = ec_key_head(dst, prefix, name);
	size_t		i;

	for (i = 0; i < idlen; i++)
	{
		unsigned char c = (unsigned char) id[i];

		if (c > 0x20 && c < 0x7f && c != '%')
		{
			if (len + 1 > EC_KEY_MAX)
				return 0;
			dst[len++] = (char) c;
		}
		else
		{
			if (len + 3 > EC_KEY_MAX)
				return 0;
			dst[len++] = '%';
			dst[len++] = hex[c >> 4];
			dst[len++] = hex[c & 0x0f];
		}
	}
	return len;
}

/* From a key's part behind the head to the id; see key.h. */
int
ec_key_decode(char *dst, const char *src, size_t srclen)
{
	const char *end = src + srclen;
	int			len = 0;

	while (src < end)
		if (!ec_wire_percent(&src, end, &dst[len++]))
			return -1;
	return len;
}
