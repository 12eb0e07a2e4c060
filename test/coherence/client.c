/*-------------------------------------------------------------------------
 *
 * client.c
 *	  The two ways to the data: a plain memcached client, and libpq.
 *
 * An error that concurrency does not explain ends the program: a run with
 * holes in it must not pass for a verdict.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "checker.h"

/* Connect to the memcached under test; whether to speak meta has been set. */
void
plain_connect(Plain *p)
{
	const char *host = getenv("MEMCACHED_HOST");
	const char *port = getenv("MEMCACHED_PORT");
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *ai;
	struct timeval limit = {.tv_sec = 10};

	if (getaddrinfo(host ? host : "127.0.0.1", port ? port : "11211", &hints, &ai) != 0)
		die("memcached's address is not one");
	p->fd = socket(ai->ai_family, ai->ai_socktype, 0);
	if (p->fd < 0 || connect(p->fd, ai->ai_addr, ai->ai_addrlen) != 0)
		die("memcached: %s", strerror(errno));
	setsockopt(p->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	freeaddrinfo(ai);
	p->buf = malloc(VALUE_MAX);
	if (p->buf == NULL)
		die("out of memory");
}

/* Have at least `upto` bytes in the buffer. */
static void
plain_fill(Plain *p, size_t upto)
{
	while (p->len < upto)
	{
		ssize_t		n = recv(p->fd, p->buf + p->len, VALUE_MAX - 1 - p->len, 0);

		if (n <= 0)
			die("memcached: %s", n == 0 ? "connection closed" : strerror(errno));
		p->len += n;
	}
	p->buf[p->len] = '\0';
}

/*
 * Get a key.  Returns its value, valid until the next call, or NULL for a miss;
 * len is the value's length.
 */
char *
plain_get(Plain *p, int key, size_t *len)
{
	char		request[300];
	char	   *line_end;
	char	   *value;
	size_t		whole;
	int			n;

	n = snprintf(request, sizeof(request),
				 p->meta ? "mg %ssession:%d v\r\n" : "get %ssession:%d\r\n", key_prefix, key);
	if (send(p->fd, request, n, MSG_NOSIGNAL) != n)
		die("memcached: %s", strerror(errno));
	p->len = 0;
	p->buf[0] = '\0';
	while ((line_end = strstr(p->buf, "\r\n")) == NULL)
		plain_fill(p, p->len + 1);
	if (strncmp(p->buf, "EN\r\n", 4) == 0 || strncmp(p->buf, "END\r\n", 5) == 0)
		return NULL;
	if (sscanf(p->buf, p->meta ? "VA %zu" : "VALUE %*s %*u %zu", len) != 1)
		die("memcached answers \"%.60s\"", p->buf);
	value = line_end + 2;
	whole = (value - p->buf) + *len + (p->meta ? 2 : 2 + 5);
	if (whole >= VALUE_MAX)
		die("memcached announces %zu bytes", *len);
	plain_fill(p, whole);
	value[*len] = '\0';
	return value;
}


/* Errors that concurrency may bring: the transaction is over, the run is not. */
static bool
tolerated(const PGresult *res)
{
	const char *code = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	return code && (strcmp(code, "40P01") == 0 || strcmp(code, "40001") == 0 ||
					strcmp(code, "23505") == 0);
}

/*
 * Run a statement with up to two parameters (NULL: none).  Returns NULL after a
 * tolerated error, which fails the writer's open transaction.
 */
PGresult *
sql(Worker *w, const char *text, const char *p1, const char *p2)
{
	const char *params[2] = {p1, p2};
	PGresult   *res = PQexecParams(w->conn, text, p2 ? 2 : p1 ? 1 : 0, NULL, params, NULL, NULL, 0);

	if (PQresultStatus(res) == PGRES_COMMAND_OK || PQresultStatus(res) == PGRES_TUPLES_OK)
		return res;
	if (!w->writer || !tolerated(res))
		die("%s\n%s", text, PQerrorMessage(w->conn));
	PQclear(res);
	w->failed = true;
	return NULL;
}

/* The same, for a statement without parameters whose result is of no interest. */
void
run(Worker *w, const char *text)
{
	PQclear(sql(w, text, NULL, NULL));
}

/* Open the worker's connection, in a session that differs from its neighbours'. */
void
sql_connect(Worker *w)
{
	char		name[100];
	PGconn	   *conn;

	snprintf(name, sizeof(name), "application_name='coherence %s %d'",
			 w->writer ? "writer" : "reader", w->id);
	conn = PQconnectdb(name);
	if (PQstatus(conn) != CONNECTION_OK)
		die("%s", PQerrorMessage(conn));
	w->conn = conn;
	run(w, "SET client_min_messages = error");
	run(w, "SET deadlock_timeout = '20ms'");
	/* A document is the same bytes whoever renders it: let sessions differ. */
	if (w->id % 2)
	{
		run(w, "SET TimeZone = 'Asia/Kolkata'");
		run(w, "SET DateStyle = 'German'");
	}
}
