/*-------------------------------------------------------------------------
 *
 * c-libmemcached.c
 *	  c-libmemcached HOST:PORT[:WEIGHT],... ID...
 *
 * Read sessions with libmemcached.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libmemcached/memcached.h>

/* Here comes SELECT echocache_get_session(id). */
static const char *
from_database(const char *id)
{
	(void) id;
	return "{\"from\":\"database\"}";
}

/* A string of JSON. */
static void
print_string(const char *text)
{
	putchar('"');
	for (; *text; text++)
		printf(*text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
	putchar('"');
}

int
main(int argc, char **argv)
{
	memcached_st *cache = memcached_create(NULL);

	if (argc < 2)
		return 1;
	memcached_behavior_set(cache, MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED, 1);
	for (char *server = strtok(argv[1], ","); server; server = strtok(NULL, ","))
	{
		char		host[100];
		int			port = MEMCACHED_DEFAULT_PORT;
		int			weight = 1;

		sscanf(server, "%99[^:]:%d:%d", host, &port, &weight);
		memcached_server_add_with_weight(cache, host, port, weight);
	}
	for (int i = 2; i < argc; i++)
	{
		const char *id = argv[i];
		char		key[MEMCACHED_MAX_KEY];
		memcached_return_t rc;
		size_t		length;
		char	   *text;
		const char *session;

		snprintf(key, sizeof(key), "session:%s", id);
		text = memcached_get(cache, key, strlen(key), &length, NULL, &rc);
		session = text && strcmp(text, "null") != 0 ? text : from_database(id);

		printf("{\"id\":\"%s\",\"text\":", id);
		text ? print_string(text) : (void) fputs("null", stdout);
		printf(",\"session\":%s}\n", session);
		free(text);
	}
	memcached_free(cache);
	return 0;
}
