/*-------------------------------------------------------------------------
 *
 * leaseline.h
 *	  The value of a lease's key: one line that says whose the keys of a prefix are.
 *
 * Pure: see wire.h.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_PROTOCOL_LEASELINE_H
#define ECHOCACHE_PROTOCOL_LEASELINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EC_LEASE_LINE_MAX	1280	/* no line that is written is longer */
#define EC_LEASE_KEY_END	"_echocache"	/* stands after the prefix */
#define EC_LEASE_ID_MAX		36		/* of a boot id, in bytes */
#define EC_LEASE_RANDOM		32		/* hexadecimal digits of a random number */
#define EC_LEASE_HOST_MAX	64		/* what is longer is cut off: people read it */
#define EC_LEASE_PATH_MAX	160
#define EC_LEASE_NAME_MAX	64

typedef enum EcLeaseKind
{
	EC_LEASE_UNKNOWN,			/* not a line of ours */
	EC_LEASE_CLAIM,				/* somebody would like to have the keys */
	EC_LEASE_PROMOTED,			/* a claim of a promoted standby, put over a lease */
	EC_LEASE_LEASE				/* the keys are somebody's */
} EcLeaseKind;

typedef struct EcLeaseLine
{
	EcLeaseKind kind;
	/* the cluster: these five are the same for nobody else on this machine */
	uint64_t	system_identifier;
	char		boot_id[EC_LEASE_ID_MAX + 1];	/* of the kernel; empty: not known */
	uint64_t	device;			/* of the data directory */
	uint64_t	inode;
	char		life[EC_LEASE_RANDOM + 1];	/* drawn at each start of the cluster */
	char		nonce[EC_LEASE_RANDOM + 1]; /* drawn for each write */
	uint32_t	database;		/* OID */
	int			lease_ms;		/* how long the owner trusts it, and others wait */
	bool		ready;			/* of a lease: its owner has purged, and is UP */
	/* for people */
	int64_t		written_at;		/* Unix time */
	char		host[EC_LEASE_HOST_MAX + 1];
	char		data_directory[EC_LEASE_PATH_MAX + 1];
	char		database_name[EC_LEASE_NAME_MAX + 1];
} EcLeaseLine;

/* Writes at most EC_LEASE_LINE_MAX bytes to dst, without a final NUL; returns how many. */
extern size_t ec_leaseline_format(char *dst, const EcLeaseLine *line);

/*
 * Take apart what a server has under the key, which may be anything.  false, and
 * EC_LEASE_UNKNOWN: it is not a line of this version.  What is for people holds no byte but
 * 0x20..0x7e, whatever was there.
 */
extern bool ec_leaseline_parse(const char *src, size_t len, EcLeaseLine *line);

#endif							/* ECHOCACHE_PROTOCOL_LEASELINE_H */
