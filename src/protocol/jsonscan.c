/*-------------------------------------------------------------------------
 *
 * jsonscan.c
 *	  Look at one top-level member of a JSON object without parsing the rest.
 *
 * The owner of a document is one of its members, and the document may be large.  A table's
 * columns come in a fixed order, so the owner's is near the beginning or near the end, unless
 * large columns stand on both sides of it.  Then the answer is "unknown", and the caller asks
 * the table.  A function is free to order and to space the members as it likes.
 *
 * Scanning from the end works just as well.  Outside of strings a quote can only be the end of
 * one, and a quote within a string has an odd number of backslashes before it.
 *
 * Pure: see jsonscan.h.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <stdbool.h>
#include <string.h>

#include "protocol/jsonscan.h"

static bool is_space(char c);
static EcMember compare(const char *start, const char *end, const char *member,
						size_t memberlen, size_t namelen);
static EcMember from_beginning(const char *json, size_t len, size_t reach, const char *member,
							   size_t memberlen, size_t namelen, int *found);
static EcMember from_end(const char *json, size_t len, const char *member,
						 size_t memberlen, size_t namelen);

/* Is it what JSON takes for a space? */
static bool
is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/*
 * One whole member of the object against the wanted one, spaces around name and
 * value aside; UNKNOWN: another name.
 */
static EcMember
compare(const char *start, const char *end, const char *member, size_t memberlen,
		size_t namelen)
{
	size_t		len;

	while (start < end && is_space(*start))
		start++;
	while (start < end && is_space(end[-1]))
		end--;
	if (end - start < namelen || memcmp(start, member, namelen - 1) != 0)
		return EC_MEMBER_UNKNOWN;
	start += namelen - 1;
	while (start < end && is_space(*start))
		start++;
	if (start == end || *start++ != ':')
		return EC_MEMBER_UNKNOWN;
	while (start < end && is_space(*start))
		start++;
	len = end - start;
	return len == memberlen - namelen && memcmp(start, member + namelen, len) == 0
		? EC_MEMBER_EQUAL : EC_MEMBER_DIFFERS;
}

/*
 * The first member of that name within reach bytes of the beginning; or, if found is given,
 * the last one, and *found grows by how many there are.
 */
static EcMember
from_beginning(const char *json, size_t len, size_t reach, const char *member,
			   size_t memberlen, size_t namelen, int *found)
{
	const char *end = json + (len < reach ? len : reach);
	const char *start = json + 1;
	int			depth = 1;
	bool		in_string = false;
	EcMember	last = EC_MEMBER_DIFFERS;

	for (const char *p = start; p < end; p++)
	{
		if (in_string)
		{
			if (*p == '\\')
				p++;
			else if (*p == '"')
				in_string = false;
			continue;
		}
		switch (*p)
		{
			case '"':
				in_string = true;
				break;
			case '{':
			case '[':
				depth++;
				break;
			case '}':
			case ']':
				depth--;
				break;
			default:
				break;
		}
		if (depth == 0 || (depth == 1 && *p == ','))
		{
			EcMember	result = compare(start, p, member, memberlen, namelen);

			if (result != EC_MEMBER_UNKNOWN)
			{
				if (found == NULL)
					return result;
				(*found)++;
				last = result;
			}
			if (depth == 0)
				return p == json + len - 1 ? last : EC_MEMBER_UNKNOWN;
			start = p + 1;
		}
	}
	return EC_MEMBER_UNKNOWN;
}

/* The last member of that name within EC_SCAN_MAX of the end. */
static EcMember
from_end(const char *json, size_t len, const char *member, size_t memberlen, size_t namelen)
{
	const char *limit = json + (len > EC_SCAN_MAX ? len - EC_SCAN_MAX : 0);
	const char *end = json + len - 1;	/* where the present member ends: at , or } */
	int			depth = 0;
	bool		in_string = false;

	for (const char *p = end - 1; p >= limit; p--)
	{
		if (*p == '"')
		{
			const char *b = p;

			/* in a string, and outside too, the backslashes before it decide */
			while (b > json && b[-1] == '\\')
				b--;
			if (!in_string)
				in_string = true;
			else if ((p - b) % 2 == 0)
				in_string = false;
			continue;
		}
		if (in_string)
			continue;
		if (*p == '}' || *p == ']')
			depth++;
		else if ((*p == '{' || *p == '[') && depth > 0)
			depth--;
		else if (depth == 0 && (*p == ',' || p == json))
		{
			EcMember	result = compare(p + 1, end, member, memberlen, namelen);

			if (result != EC_MEMBER_UNKNOWN)
				return result;
			end = p;
		}
	}
	return EC_MEMBER_UNKNOWN;
}

/* Within reach of either end; see jsonscan.h. */
EcMember
ec_jsonscan_member(const char *json, size_t len, const char *member, size_t memberlen,
				   size_t namelen)
{
	EcMember	result;

	if (len < 2 || json[0] != '{' || json[len - 1] != '}')
		return EC_MEMBER_UNKNOWN;
	result = from_beginning(json, len, EC_SCAN_MAX, member, memberlen, namelen, NULL);
	if (result == EC_MEMBER_UNKNOWN)
		result = from_end(json, len, member, memberlen, namelen);
	return result;
}

/* All of the object; see jsonscan.h. */
EcMember
ec_jsonscan_find(const char *json, size_t len, const char *member, size_t memberlen,
				 size_t namelen, int *found)
{
	*found = 0;
	if (len < 2 || json[0] != '{')
		return EC_MEMBER_UNKNOWN;
	return from_beginning(json, len, len, member, memberlen, namelen, found);
}
