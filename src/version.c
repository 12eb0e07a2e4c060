/*-------------------------------------------------------------------------
 *
 * version.c
 *	  Which versions of the extension's objects this library works with.
 *
 * The objects of a database are of the version that its last CREATE EXTENSION or ALTER EXTENSION
 * UPDATE has made, and the library is of the version that the running server was started with.
 * An installed package changes neither.  So a library works with the objects of its own version,
 * and with those of each earlier version with the same major number, for as long as the database
 * keeps them.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "version.h"

/* From the control file, by the Makefile. */
#ifndef ECHOCACHE_VERSION
#error "ECHOCACHE_VERSION is not defined"
#endif

typedef struct Version
{
	int			major;
	int			minor;
} Version;

static Version parse(const char *text);

/* Of "1.2" and of "1.2~test".  What is not of this form is later than any version. */
static Version
parse(const char *text)
{
	Version		version;
	int			len;

	if (!isdigit((unsigned char) text[0]) ||
		sscanf(text, "%4d.%4d%n", &version.major, &version.minor, &len) != 2 ||
		isdigit((unsigned char) text[len]))
		version.major = version.minor = PG_INT32_MAX;
	return version;
}

/* Can the library work with objects of this version? */
bool
ec_version_fits(const char *objects)
{
	Version		library = parse(ECHOCACHE_VERSION);
	Version		version = parse(objects);

	return version.major == library.major && version.minor <= library.minor;
}

/* Say that it cannot.  Throws 55000 with ERROR. */
void
ec_version_report(int elevel, const char *objects)
{
	Version		library = parse(ECHOCACHE_VERSION);

	Assert(!ec_version_fits(objects));
	ereport(elevel,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the library of extension \"echocache\" has version %s and cannot use "
					"objects of version %s", ECHOCACHE_VERSION, objects),
			 errdetail("It can use those of version %d.0 to %s.", library.major,
					   ECHOCACHE_VERSION),
			 parse(objects).major < library.major ?
			 errhint("Run ALTER EXTENSION echocache UPDATE.") :
			 errhint("Install echocache %s or later, and restart PostgreSQL.", objects)));
}
