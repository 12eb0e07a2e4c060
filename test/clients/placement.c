/*-------------------------------------------------------------------------
 *
 * placement.c
 *	  On which server does libmemcached's own client look for a key?
 *
 *		placement COUNT HOST:PORT[:WEIGHT]...
 *
 * prints key<TAB>host:port for the keys session:0 .. session:COUNT-1, placed by
 * weighted ketama.  It asks the library's public functions and shares no code
 * with the extension, so that the tests compare two opinions; no server has to
 * run.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libmemcached/memcached.h>

static void
check(memcached_st *mc, memcached_return_t rc, const char *what)
{
	if (rc == MEMCACHED_SUCCESS)
		return;
	fprintf(stderr, "placement: %s: %s\n", what, memcached_strerror(mc, rc));
	exit(1);
}

/* A positive number without anything after it. */
static long
number(const char *text, long max)
{
	char	   *end;
	long		n = strtol(text, &end, 10);

	if (*text == '\0' || *end != '\0' || n < 1 || n > max)
	{
		fprintf(stderr, "placement: \"%s\" is not a number from 1 to %ld\n", text, max);
		exit(1);
	}
	return n;
}

int
main(int argc, char **argv)
{
	memcached_st *mc = memcached_create(NULL);
	long		count;

	if (argc < 3 || mc == NULL)
	{
		fputs("usage: placement COUNT HOST:PORT[:WEIGHT]...\n", stderr);
		return 1;
	}
	count = number(argv[1], 100000000);
	check(mc, memcached_behavior_set(mc, MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED, 1), "ketama");
	for (int i = 2; i < argc; i++)
	{
		char	   *host = strtok(argv[i], ":");
		char	   *port = strtok(NULL, ":");
		char	   *weight = strtok(NULL, "");

		check(mc, memcached_server_add_with_weight(mc, host, number(port ? port : "", 65535),
												   weight ? number(weight, 1000000) : 1), host);
	}
	for (long i = 0; i < count; i++)
	{
		char		key[40];
		int			len = snprintf(key, sizeof(key), "session:%ld", i);
		memcached_return_t rc = MEMCACHED_SUCCESS;	/* it is set for an error only */
		const memcached_instance_st *server = memcached_server_by_key(mc, key, len, &rc);

		check(mc, rc, key);
		printf("%s\t%s:%u\n", key, memcached_server_name(server),
			   (unsigned) memcached_server_port(server));
	}
	memcached_free(mc);
	return 0;
}
