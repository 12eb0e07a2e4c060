/*-------------------------------------------------------------------------
 *
 * jsonscan.h
 *	  Look at one top-level member of a JSON object without parsing the rest.
 *
 * Pure: no PostgreSQL header (see wire.h).
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_PROTOCOL_JSONSCAN_H
#define ECHOCACHE_PROTOCOL_JSONSCAN_H

#include <stddef.h>

/* How far ec_jsonscan_member() looks from either end of the object, in bytes. */
#define EC_SCAN_MAX		8192

typedef enum EcMember
{
	EC_MEMBER_EQUAL,			/* the object has exactly this member */
	EC_MEMBER_DIFFERS,			/* it has the name, with another value, or not at all */
	EC_MEMBER_UNKNOWN			/* not within reach, or this is no JSON object */
} EcMember;

/*
 * Does the object json[0..len) have the top-level member member[0..memberlen)?  The member is
 * written "name":value as row_to_json writes it; the object may have spaces about it.  namelen
 * is the length of the part up to and with the colon.  The cost is bounded by EC_SCAN_MAX,
 * whatever the object's size: the member is found within that of its beginning or end.  Never
 * reads outside the object, whatever it holds.
 */
extern EcMember ec_jsonscan_member(const char *json, size_t len, const char *member,
								   size_t memberlen, size_t namelen);

/*
 * What ec_jsonscan_member() says of the last member of that name, for an object that is valid
 * JSON and is looked at to its end; *found is how many members of that name there are.
 */
extern EcMember ec_jsonscan_find(const char *json, size_t len, const char *member,
								 size_t memberlen, size_t namelen, int *found);

#endif							/* ECHOCACHE_PROTOCOL_JSONSCAN_H */
