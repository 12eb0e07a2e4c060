/*-------------------------------------------------------------------------
 *
 * client.c
 *	  A plain memcached client on sockets, and libpq.
 *
 * Whatever goes wrong ends the program: a measurement with holes in it is none.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <arpa/inet.h>
#include <time.h>
#include <unistd.h>

#include <libmemcached/memcached.h>

#include "load.h"

#define MAX_SERVERS	16
#define BUFFER_SIZE	(2 * 1024 * 1024)

struct Cache
{
	int			n;
	int			fd[MAX_SERVERS];
	memcached_st *placement;	/* NULL: one server */
	size_t		len;
	char		buf[BUFFER_SIZE];
};

void
die(const char *fmt,...)
{
	va_list		args;

	fputs("load: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	/* Other threads may be running: nothing but the end. */
	_exit(1);
}

/* Zeroed. */
void *
get_memory(size_t size)
{
	void	   *p = calloc(1, size);

	if (p == NULL)
		die("out of memory");
	return p;
}

int64_t
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* ---------------------------------------------------------------- memcached */

static int
connect_tcp(const char *address, int port)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
	int			fd = socket(AF_INET, SOCK_STREAM, 0);
	int			on = 1;

	if (inet_pton(AF_INET, address, &in.sin_addr) != 1)
		die("\"%s\" is no address", address);
	if (fd < 0 || connect(fd, (struct sockaddr *) &in, sizeof(in)) != 0)
		die("memcached %s:%d: %s", address, port, strerror(errno));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static int
connect_unix(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int			fd = socket(AF_UNIX, SOCK_STREAM, 0);

	if (strlen(path) >= sizeof(un.sun_path))
		die("\"%s\" is too long for a socket", path);
	strcpy(un.sun_path, path);
	if (fd < 0 || connect(fd, (struct sockaddr *) &un, sizeof(un)) != 0)
		die("memcached at %s: %s", path, strerror(errno));
	return fd;
}

/*
 * Connect to these servers, "address:port,..." or the path of a socket, as
 * echocache.hosts has them.  Keys are placed as the extension places them.
 */
Cache *
cache_open(const char *servers)
{
	struct timeval limit = {.tv_sec = 60};
	Cache	   *cache = get_memory(sizeof(Cache));
	char	   *list = strdup(servers);
	char	   *rest;

	cache->placement = memcached_create(NULL);
	memcached_behavior_set(cache->placement, MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED, 1);
	for (char *s = strtok_r(list, ",", &rest); s; s = strtok_r(NULL, ",", &rest))
	{
		char	   *colon = strchr(s, ':');
		int			fd;

		if (cache->n == MAX_SERVERS)
			die("too many memcached servers");
		if (*s == '/')
		{
			fd = connect_unix(s);
			memcached_server_add_unix_socket_with_weight(cache->placement, s, 1);
		}
		else
		{
			if (colon == NULL)
				die("\"%s\" has no port", s);
			*colon = '\0';
			fd = connect_tcp(s, atoi(colon + 1));
			memcached_server_add_with_weight(cache->placement, s, atoi(colon + 1), 1);
		}
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
		cache->fd[cache->n++] = fd;
	}
	free(list);
	if (cache->n == 1)
	{
		memcached_free(cache->placement);
		cache->placement = NULL;
	}
	return cache;
}

void
cache_close(Cache *cache)
{
	for (int i = 0; i < cache->n; i++)
		close(cache->fd[i]);
	if (cache->placement)
		memcached_free(cache->placement);
	free(cache);
}

/* Have at least `upto` bytes of the answer. */
static void
receive(Cache *cache, int fd, size_t upto)
{
	while (cache->len < upto)
	{
		ssize_t		n = recv(fd, cache->buf + cache->len, BUFFER_SIZE - 1 - cache->len, 0);

		if (n <= 0)
			die("memcached: %s", n == 0 ? "connection closed" : strerror(errno));
		cache->len += n;
	}
	cache->buf[cache->len] = '\0';
}

/* The value, until the next call; NULL: a miss. */
char *
cache_get(Cache *cache, const char *key, size_t *len)
{
	char		request[300];
	char	   *end;
	size_t		whole;
	int			fd = cache->fd[0];
	int			n = snprintf(request, sizeof(request), "get %s\r\n", key);

	if (cache->placement)
		fd = cache->fd[memcached_generate_hash(cache->placement, key, strlen(key))];
	if (send(fd, request, n, MSG_NOSIGNAL) != n)
		die("memcached: %s", strerror(errno));
	cache->len = 0;
	do
	{
		receive(cache, fd, cache->len + 1);
		end = strstr(cache->buf, "\r\n");
	} while (end == NULL);
	if (strncmp(cache->buf, "END\r\n", 5) == 0)
		return NULL;
	if (sscanf(cache->buf, "VALUE %*s %*u %zu", len) != 1)
		die("memcached answers \"%.60s\"", cache->buf);
	whole = end + 2 - cache->buf + *len + strlen("\r\nEND\r\n");
	if (whole >= BUFFER_SIZE)
		die("memcached announces %zu bytes", *len);
	receive(cache, fd, whole);
	end[2 + *len] = '\0';
	return end + 2;
}

/* ---------------------------------------------------------------- PostgreSQL */

/* libpq's environment says where; with a port not NULL, the server that listens on that one. */
PGconn *
sql_open(const char *port)
{
	char		where[32] = "";
	PGconn	   *conn;

	if (port)
		snprintf(where, sizeof(where), "port=%s", port);
	conn = PQconnectdb(where);
	if (PQstatus(conn) != CONNECTION_OK)
		die("%s", PQerrorMessage(conn));
	return conn;
}

/* VACUUM and the like can be prepared, too. */
void
sql_prepare(PGconn *conn, const char *name, const char *sql)
{
	PGresult   *res = PQprepare(conn, name, sql, 0, NULL);

	if (PQresultStatus(res) != PGRES_COMMAND_OK)
		die("%s\n%s", sql, PQerrorMessage(conn));
	PQclear(res);
}

PGresult *
sql_run(PGconn *conn, const char *name, int n, const char *const *params)
{
	PGresult   *res = PQexecPrepared(conn, name, n, params, NULL, NULL, 0);

	if (PQresultStatus(res) != PGRES_TUPLES_OK && PQresultStatus(res) != PGRES_COMMAND_OK)
		die("%s", PQerrorMessage(conn));
	return res;
}
