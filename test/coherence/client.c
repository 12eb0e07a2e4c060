/*-------------------------------------------------------------------------
 *
 * client.c
 *	  The two ways to the data: a plain memcached client, and libpq.
 *
 * An error that neither concurrency nor a fault explains ends the program: a run
 * with holes in it must not pass for a verdict.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "checker.h"

/* ---------------------------------------------------------------- memcached */

/* The connection is no more; that needs a fault to explain it. */
static bool
plain_lost(Plain *p, const char *why)
{
	if (!faults_on)
		die("memcached: %s", why);
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
	return false;
}

/* A client of this server; connects when it is first used. */
void
plain_open(Plain *p, int server)
{
	p->server = server;
	p->fd = -1;
	p->buf = malloc(VALUE_MAX);
	if (p->buf == NULL)
		die("out of memory");
}

static bool
plain_connect(Plain *p)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *ai;
	struct timeval limit = {.tv_sec = 10};
	int			on = 1;
	bool		ok;

	p->start = p->len = 0;
	if (getaddrinfo(server_host[p->server], server_port[p->server], &hints, &ai) != 0)
		die("memcached's address is not one");
	p->fd = socket(ai->ai_family, ai->ai_socktype, 0);
	ok = p->fd >= 0 && connect(p->fd, ai->ai_addr, ai->ai_addrlen) == 0;
	freeaddrinfo(ai);
	if (!ok)
		return plain_lost(p, strerror(errno));
	setsockopt(p->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return true;
}

bool
plain_write(Plain *p, const char *bytes, size_t len)
{
	if (p->fd < 0 && !plain_connect(p))
		return false;
	while (len > 0)
	{
		ssize_t		n = send(p->fd, bytes, len, MSG_NOSIGNAL);

		if (n <= 0)
			return plain_lost(p, strerror(errno));
		bytes += n;
		len -= n;
	}
	return true;
}

/* Have at least `upto` bytes that are not consumed. */
static bool
plain_fill(Plain *p, size_t upto)
{
	if (p->start + upto >= VALUE_MAX)
	{
		memmove(p->buf, p->buf + p->start, p->len - p->start);
		p->len -= p->start;
		p->start = 0;
	}
	while (p->len - p->start < upto)
	{
		ssize_t		n = recv(p->fd, p->buf + p->len, VALUE_MAX - 1 - p->len, 0);

		if (n <= 0)
			return plain_lost(p, n == 0 ? "connection closed" : strerror(errno));
		p->len += n;
	}
	return true;
}

/* Have a whole line, without its end; it stays valid until the next call. */
static bool
plain_line(Plain *p, size_t from, char **line, size_t *len)
{
	char	   *end;

	for (;;)
	{
		end = memchr(p->buf + p->start + from, '\n', p->len - p->start - from);
		if (end)
			break;
		if (p->len - p->start > from + 2048)
			die("memcached answers \"%.60s\"", p->buf + p->start + from);
		if (!plain_fill(p, p->len - p->start + 1))
			return false;
	}
	*line = p->buf + p->start + from;
	*len = end + 1 - *line;
	return true;
}

/* Ask for these documents, all at once; then there are n answers to take by plain_next(). */
bool
plain_send(Plain *p, Doc *const *wanted, int n)
{
	char		request[BATCH * 100];
	size_t		len = 0;

	for (int i = 0; i < n; i++)
		len += snprintf(request + len, sizeof(request) - len,
						p->meta ? "mg %s v\r\n" : "get %s\r\n", wanted[i]->key);
	return plain_write(p, request, len);
}

/*
 * The next answer: a value, valid until the next call, or NULL for a miss.  false:
 * the connection has gone, and all answers with it.
 */
bool
plain_next(Plain *p, char **value, size_t *len)
{
	char	   *line;
	size_t		head;
	size_t		whole;

	*value = NULL;
	*len = 0;
	if (p->start == p->len)
		p->start = p->len = 0;
	if (!plain_line(p, 0, &line, &head))
		return false;
	if (strncmp(line, "EN\r\n", 4) == 0 || strncmp(line, "END\r\n", 5) == 0)
	{
		p->start += head;
		return true;
	}
	if (sscanf(line, p->meta ? "VA %zu" : "VALUE %*s %*u %zu", len) != 1)
		die("memcached answers \"%.60s\"", line);
	whole = head + *len + (p->meta ? 2 : 2 + 5);
	if (whole >= VALUE_MAX - 1)
		die("memcached announces %zu bytes", *len);
	if (!plain_fill(p, whole))
		return false;
	*value = p->buf + p->start + head;
	if (memcmp(*value + *len, p->meta ? "\r\n" : "\r\nEND\r\n", p->meta ? 2 : 7) != 0)
		die("memcached's value of %zu bytes does not end as it should", *len);
	(*value)[*len] = '\0';
	p->start += whole;
	return true;
}

bool
plain_get(Plain *p, Doc *doc, char **value, size_t *len)
{
	return plain_send(p, &doc, 1) && plain_next(p, value, len);
}

/* One request whose answer is one line, which goes to answer. */
bool
plain_command(Plain *p, const char *request, size_t len, char *answer, size_t size)
{
	char	   *line;
	size_t		n;

	if (!plain_write(p, request, len) || !plain_line(p, 0, &line, &n))
		return false;
	p->start += n;
	snprintf(answer, size, "%.*s", (int) (n < size ? n : size - 1), line);
	answer[strcspn(answer, "\r\n")] = '\0';
	return true;
}

/* For those controls where clients keep the cache themselves. */
bool
plain_set(Plain *p, Doc *doc, const char *value)
{
	size_t		len = strlen(value);
	char	   *request = malloc(len + 200);
	char		answer[40];
	size_t		n = snprintf(request, len + 200, "set %s 0 0 %zu\r\n%s\r\n", doc->key, len, value);
	bool		ok = plain_command(p, request, n, answer, sizeof(answer));

	free(request);
	return ok;
}

bool
plain_delete(Plain *p, Doc *doc)
{
	char		request[200];
	char		answer[40];
	size_t		n = snprintf(request, sizeof(request), "delete %s\r\n", doc->key);

	return plain_command(p, request, n, answer, sizeof(answer));
}

/* ---------------------------------------------------------------- PostgreSQL */

/* Forget the connection. */
void
sql_close(Worker *w)
{
	if (w->conn)
		PQfinish(w->conn);
	w->conn = NULL;
	w->nstatements = 0;
}

/*
 * Open the worker's connection, in a session that differs from its neighbours'.
 * false: there is nobody to connect to now.
 */
bool
sql_connect(Worker *w)
{
	static const char *const settings = "SET client_min_messages = error;"
		"SET deadlock_timeout = '20ms'";
	char		info[500];
	PGresult   *res;
	bool		ok;

	sql_close(w);
	snprintf(info, sizeof(info), "%s application_name='coherence %s' connect_timeout=5",
			 atomic_load(&conninfo), w->name);
	w->conn = PQconnectdb(info);
	ok = PQstatus(w->conn) == CONNECTION_OK;
	if (ok)
	{
		res = PQexec(w->conn, settings);
		ok = PQresultStatus(res) == PGRES_COMMAND_OK;
		PQclear(res);
	}
	if (ok && w->writer)
	{
		/* a prepared transaction may hold what it waits for, until its writer ends it */
		res = PQexec(w->conn, "SET lock_timeout = '300ms'");
		ok = PQresultStatus(res) == PGRES_COMMAND_OK;
		PQclear(res);
	}
	if (ok)
	{
		/*
		 * A document is the same bytes whoever renders it: let sessions differ.  The
		 * controls do not promise that.
		 */
		res = PQexec(w->conn, w->id % 2 && !naive
					 ? "SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'German'"
					 : "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'");
		ok = PQresultStatus(res) == PGRES_COMMAND_OK;
		PQclear(res);
	}
	if (!ok)
	{
		if (!faults_on)
			die("%s", PQerrorMessage(w->conn));
		sql_close(w);
	}
	w->lost = !ok;
	return ok;
}

/*
 * Is this error one that the run explains?  Concurrency may bring some to a writer, an
 * unreachable cache one to everybody who asked for that; otherwise the connection
 * must have gone, which sets lost.
 */
bool
excusable(Worker *w, const PGresult *res)
{
	static const char *const concurrency[] = {"40P01", "40001", "23505", "55P03"};
	const char *code = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	if (code && w->writer)
		for (size_t i = 0; i < sizeof(concurrency) / sizeof(concurrency[0]); i++)
			if (strcmp(code, concurrency[i]) == 0)
				return true;
	if (code && strict && strcmp(code, "08006") == 0)
		return true;
	if (faults_on &&
		(PQstatus(w->conn) == CONNECTION_BAD || (code && strncmp(code, "57P0", 4) == 0)))
	{
		w->lost = true;
		return true;
	}
	return false;
}

/* The name under which this connection has prepared a statement; NULL if it cannot. */
const char *
prepared(Worker *w, const char *text)
{
	static const char *const names[MAX_STATEMENTS] = {
		"p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9", "p10", "p11", "p12", "p13",
		"p14", "p15", "p16", "p17", "p18", "p19", "p20", "p21", "p22", "p23", "p24", "p25", "p26",
		"p27", "p28", "p29", "p30", "p31", "p32", "p33", "p34", "p35", "p36", "p37", "p38", "p39"
	};
	PGresult   *res;
	int			i;

	for (i = 0; i < w->nstatements; i++)
		if (w->statements[i] == text)
			return names[i];
	if (names[i] == NULL)
		die("too many statements");
	res = PQprepare(w->conn, names[i], text, 0, NULL);
	if (PQresultStatus(res) != PGRES_COMMAND_OK)
	{
		if (!excusable(w, res))
			die("%s\n%s", text, PQerrorMessage(w->conn));
		PQclear(res);
		return NULL;
	}
	PQclear(res);
	w->statements[w->nstatements++] = text;
	return names[i];
}

/*
 * Run a statement with up to three parameters (NULL: none); with one, it is
 * prepared, so its text must be a constant.  Returns NULL after an error that the run
 * explains, which fails the worker's open transaction.
 */
PGresult *
sql(Worker *w, const char *text, const char *p1, const char *p2, const char *p3)
{
	const char *params[3] = {p1, p2, p3};
	PGresult   *res = NULL;
	const char *name;

	if (w->lost)
		w->failed = true;
	if (w->failed && w->lost)
		return NULL;
	if (p1 == NULL)
		res = PQexec(w->conn, text);
	else if ((name = prepared(w, text)) != NULL)
		res = PQexecPrepared(w->conn, name, p3 ? 3 : p2 ? 2 : 1, params, NULL, NULL, 0);
	if (PQresultStatus(res) == PGRES_COMMAND_OK || PQresultStatus(res) == PGRES_TUPLES_OK)
		return res;
	if (res && !excusable(w, res))
		die("%s: %s\n%s", w->name, text, PQresultErrorMessage(res));
	PQclear(res);
	w->failed = true;
	return NULL;
}

/* The one value of a result, or NULL if there is none. */
const char *
value_of(const PGresult *res)
{
	return res && PQntuples(res) > 0 && !PQgetisnull(res, 0, 0) ? PQgetvalue(res, 0, 0) : NULL;
}

/* Run a statement without parameters whose result is of no interest. */
void
run(Worker *w, const char *text)
{
	PQclear(sql(w, text, NULL, NULL, NULL));
}
