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
#ifndef ECHOCACHE_JSONSCAN_H
#define ECHOCACHE_JSONSCAN_H

#include <stdbool.h>
#include <stddef.h>

/* How far ec_json_member() looks from either end of the object, in bytes. */
#define EC_SCAN_MAX		8192

typedef enum EcMember
{
	EC_MEMBER_EQUAL,			/* the object has exactly this member */
	EC_MEMBER_DIFFERS,			/* it has the name, with another value, or not at all */
	EC_MEMBER_UNKNOWN			/* not within reach, or this is no JSON object */
} EcMember;

/*
 * Does the object json[0..len) have the top-level member member[0..memberlen),
 * written "name":value as row_to_json writes it, or with spaces about?  namelen is the length of the
 * part up to and with the colon.  The cost is bounded by EC_SCAN_MAX, whatever
 * the object's size: the member is found within that of its beginning or end.
 * Never reads outside the object, whatever it holds.
 */
extern EcMember ec_json_member(const char *json, size_t len,
							   const char *member, size_t memberlen, size_t namelen);

/*
 * Has it the member just once, and no other of that name?  Looks at all of the
 * object, which is valid JSON.
 */
extern bool ec_json_has_member(const char *json, size_t len,
							   const char *member, size_t memberlen, size_t namelen);

#endif							/* ECHOCACHE_JSONSCAN_H */
