/*-------------------------------------------------------------------------
 *
 * connection.c
 *	  An exchange on one connection: requests, and the answers to them.
 *
 * A connection belongs to one backend and one topology.  It carries requests
 * whose answers come in the same order; each is checked against its opaque.
 * At the first surprise (a timeout, an error, an answer that does not match, a
 * byte too many) it is closed, and nothing is ever read from it again.  While
 * an exchange is under way the connection is marked busy: an error thrown in
 * between (a cancelled query, say) leaves it so, and the end of the transaction
 * closes it.  So there is no clean-up to forget on any path.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "pgstat.h"


#include "compat.h"
#include "net/connection.h"
#include "net/request.h"
#include "net/socket.h"
#include "protocol/reply.h"
#include "protocol/wire.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "shmem.h"

/*
 * By TLS a record must end where a request ends, or where its value does.  memcached
 * waits for the socket though OpenSSL still holds the rest of a record for it: when a
 * value takes the record's first part, what follows is seen only with the next record,
 * which never comes (1.6.18; 20 pipelined sets of 2 kB are enough).  So no more
 * requests are gathered than one record holds.
 */
#define TLS_RECORD_MAX	(16 * 1024)

#define EC_UNAUTHENTICATED \
	"the server asks for a user name and password (echocache.username)"

static bool is_quiet(const EcConnection *c, const EcRequest *req);
static void conn_stage(EcConnection *c, EcRequest *reqs);
static bool is_unauthenticated(const EcReply *reply);
static void refused(EcRequest *req, const EcReply *reply);
static void conn_skip_quiet(EcConnection *c, EcRequest *reqs, const EcReply *reply);
static bool conn_answer(EcConnection *c, EcRequest *reqs, const EcReply *reply);
static void conn_answered(EcConnection *c, const EcRequest *req);
static bool conn_command_line(EcConnection *c, EcRequest *req, const EcReply *reply);
static bool conn_quiet_answer(EcConnection *c, const EcReply *reply);
static bool conn_read(EcConnection *c, EcRequest *reqs);
static void conn_reset(EcConnection *c);

/*
 * Is all that there will be of an answer to this request, if it is carried out, the answer to
 * a later one?  The server works in order, and tells what goes wrong.
 */
static bool
is_quiet(const EcConnection *c, const EcRequest *req)
{
	return req->quiet && req->next >= 0 && !c->loud;
}

/* Fill the output buffer with as many requests as fit, whole ones. */
static void
conn_stage(EcConnection *c, EcRequest *reqs)
{
	const size_t size = c->tls ? TLS_RECORD_MAX : EC_OUT_SIZE;

	if (c->out_sent == c->out_len)
		c->out_sent = c->out_len = 0;

	while (c->send_op >= 0 && c->big == NULL && size - c->out_len >= EC_REQUEST_MAX)
	{
		EcRequest	   *req = &reqs[c->send_op];
		char	   *dst = ec_socket_out(c) + c->out_len;
		uint32		opaque = c->opaque_send++;
		const char *value = NULL;	/* only behind what announces it: else it is requests */
		size_t		room;

		switch (req->kind)
		{
			case EC_REQUEST_COMMAND:
			case EC_REQUEST_FLUSH:
				memcpy(dst, req->key, req->keylen);
				c->out_len += req->keylen;
				break;
			case EC_REQUEST_GET:
				c->out_len += ec_wire_get(dst, req->key, req->keylen, req->ttl, opaque);
				break;
			case EC_REQUEST_LOOK:
				c->out_len += ec_wire_look(dst, req->key, req->keylen, opaque);
				break;
			case EC_REQUEST_INSPECT:
				c->out_len += ec_wire_inspect(dst, req->key, req->keylen, opaque);
				break;
			case EC_REQUEST_TOUCH:
				c->out_len += ec_wire_touch(dst, req->key, req->keylen, req->ttl, opaque);
				break;
			case EC_REQUEST_MARK:
			case EC_REQUEST_SET:
			case EC_REQUEST_STORE:
				value = req->value;
				c->out_len += ec_wire_set(dst, req->key, req->keylen, req->valuelen, req->mode,
										  req->kind == EC_REQUEST_STORE ? req->token : 0,
										  req->ttl, c->quiet || is_quiet(c, req), opaque);
				break;
			case EC_REQUEST_REMOVE:
			case EC_REQUEST_DELETE:
				c->out_len += ec_wire_delete(dst, req->key, req->keylen,
											 req->kind == EC_REQUEST_REMOVE ? req->token : 0,
											 c->quiet, opaque);
				break;
			case EC_REQUEST_INCREMENT:
			case EC_REQUEST_DECREMENT:
				c->out_len += ec_wire_arithmetic(dst, req->key, req->keylen,
												 req->kind == EC_REQUEST_DECREMENT, req->token, opaque);
				break;
		}
		room = size - c->out_len;
		if (value != NULL)
		{
			if (req->valuelen + 2 <= room)
			{
				memcpy(ec_socket_out(c) + c->out_len, value, req->valuelen);
				memcpy(ec_socket_out(c) + c->out_len + req->valuelen, "\r\n", 2);
				c->out_len += req->valuelen + 2;
			}
			else
			{
				c->big = value;
				c->big_len = req->valuelen;
				c->big_sent = 0;
			}
		}
		c->send_op = req->next;
	}
}

/* Send what can be sent without blocking.  false: failed. */
bool
ec_connection_write(EcConnection *c, EcRequest *reqs)
{
	for (;;)
	{
		const char *p;
		size_t		len;
		ssize_t		n;

		if (c->out_sent == c->out_len && c->big == NULL)
		{
			conn_stage(c, reqs);
			if (c->out_len == 0)
				return true;
		}
		if (c->out_sent < c->out_len)
		{
			p = ec_socket_out(c) + c->out_sent;
			len = c->out_len - c->out_sent;
		}
		else if (c->big_sent < c->big_len)
		{
			p = c->big + c->big_sent;
			len = c->big_len - c->big_sent;
		}
		else
		{
			/* behind a big value: its line end, then the next requests */
			c->big = NULL;
			c->big_len = c->big_sent = 0;
			memcpy(ec_socket_out(c), "\r\n", 2);
			c->out_sent = 0;
			c->out_len = 2;
			if (c->tls == NULL)
				conn_stage(c, reqs);
			continue;
		}
		n = ec_socket_send(c, p, len);
		if (n <= 0)
			return n == 0;
		if (c->out_sent < c->out_len)
			c->out_sent += n;
		else
			c->big_sent += n;
	}
}

/* Is this what a server says that wants to be told who we are first? */
static bool
is_unauthenticated(const EcReply *reply)
{
	const char	text[] = "unauthenticated";

	return reply->kind == EC_REPLY_CLIENT_ERROR && reply->text_len == strlen(text) &&
		memcmp(reply->text, text, strlen(text)) == 0;
}

/*
 * This answer is to a request that has been sent.  If those before it that are
 * not answered yet are quiet ones, they have been carried out.
 */
static void
conn_skip_quiet(EcConnection *c, EcRequest *reqs, const EcReply *reply)
{
	uint32		ahead = reply->opaque - c->opaque_recv;
	int			to = c->recv_op;

	if (!reply->has_opaque || ahead >= c->opaque_send - c->opaque_recv)
		return;
	for (; ahead > 0 && is_quiet(c, &reqs[to]); ahead--)
		to = reqs[to].next;
	while (ahead == 0 && c->recv_op != to)
	{
		reqs[c->recv_op].result = EC_DONE;
		conn_answered(c, &reqs[c->recv_op]);
	}
}

/*
 * Take one answer: it must be the one to recv_op.  false: it is not, or it is
 * nothing that may follow such a request.
 */
static bool
conn_answer(EcConnection *c, EcRequest *reqs, const EcReply *reply)
{
	EcRequest	   *req;
	bool		arithmetic;

	conn_skip_quiet(c, reqs, reply);
	req = &reqs[c->recv_op];
	arithmetic = req->kind == EC_REQUEST_INCREMENT || req->kind == EC_REQUEST_DECREMENT;
	if (reply->kind == EC_REPLY_SERVER_ERROR &&
		(c->opaque_quiet != c->opaque_recv || is_quiet(c, req)))
	{
		/* to which of the requests?  find out on a new connection */
		ec_socket_fail(c, false, "an error that may belong to another request");
		c->suspect = true;
		return false;
	}
	if (req->kind == EC_REQUEST_COMMAND || req->kind == EC_REQUEST_FLUSH)
		return conn_command_line(c, req, reply);

	if (reply->has_opaque ? reply->opaque != c->opaque_recv
		: (reply->kind == EC_REPLY_HD || reply->kind == EC_REPLY_VA))
	{
		ec_socket_fail(c, false, "an answer that belongs to another request");
		return false;
	}
	switch (reply->kind)
	{
		case EC_REPLY_HD:
			if (req->kind == EC_REQUEST_GET || req->kind == EC_REQUEST_INSPECT || arithmetic ||
				(req->kind == EC_REQUEST_LOOK && !reply->has_size) ||
				((req->kind == EC_REQUEST_MARK || req->kind == EC_REQUEST_SET) && !reply->has_cas))
				break;
			if (reply->has_cas)
				req->token = reply->cas;
			req->found_len = reply->has_size ? reply->size : 0;
			req->result = EC_DONE;
			goto done;
		case EC_REPLY_VA:
			if ((req->kind != EC_REQUEST_GET && req->kind != EC_REQUEST_INSPECT && !arithmetic) ||
				!reply->has_cas || (req->kind == EC_REQUEST_INSPECT && !reply->has_flags))
				break;
			req->token = reply->cas;
			req->client_flags = reply->client_flags;
			req->found_len = reply->value_len;
			/* with room for the line end behind it; no error if there is no memory */
			req->found = palloc_extended(VARHDRSZ + reply->value_len + 2,
										MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
			if (req->found == NULL)
			{
				ec_socket_fail(c, false, "out of memory for a value of %zu bytes", reply->value_len);
				return false;
			}
			SET_VARSIZE(req->found, VARHDRSZ + reply->value_len);
			c->value = VARDATA(req->found);
			c->value_missing = reply->value_len + 2;
			return true;
		case EC_REPLY_EN:
		case EC_REPLY_NF:
			if (reply->kind == EC_REPLY_EN && req->kind != EC_REQUEST_GET && req->kind != EC_REQUEST_TOUCH &&
				req->kind != EC_REQUEST_LOOK && req->kind != EC_REQUEST_INSPECT)
				break;
			if (reply->kind == EC_REPLY_NF && (req->kind == EC_REQUEST_MARK || req->kind == EC_REQUEST_SET))
				break;
			req->result = EC_ABSENT;
			goto done;
		case EC_REPLY_EX:
			if (req->kind != EC_REQUEST_STORE && req->kind != EC_REQUEST_REMOVE)
				break;
			req->result = EC_MISMATCH;
			goto done;
		case EC_REPLY_NS:
			if (req->value == NULL)
				break;
			req->result = req->mode != 0 ? EC_MISMATCH : EC_REFUSED;
			goto done;
		case EC_REPLY_SERVER_ERROR:
		case EC_REPLY_CLIENT_ERROR:
			/* of requests that are well-formed, only arithmetic can be the client's error */
			if (reply->kind == EC_REPLY_CLIENT_ERROR ? !arithmetic
				: (req->value == NULL && !arithmetic))
				break;
			refused(req, reply);
			req->result = reply->kind == EC_REPLY_CLIENT_ERROR ? EC_MISMATCH : EC_REFUSED;
			goto done;
		default:
			break;
	}
	if (is_unauthenticated(reply))
		ec_socket_fail(c, false, EC_UNAUTHENTICATED);
	else if (reply->kind == EC_REPLY_CLIENT_ERROR || reply->kind == EC_REPLY_SERVER_ERROR)
		ec_socket_fail(c, false, "the server said \"%.*s\"",
				  (int) Min(reply->text_len, 100), reply->text);
	else
		ec_socket_fail(c, false, "an answer that is not understood");
	return false;

done:
	conn_answered(c, req);
	return true;
}

/* Keep what the server says when it does not carry out a request. */
static void
refused(EcRequest *req, const EcReply *reply)
{
	const char	too_large[] = "object too large for cache";
	EcFailure	failure;
	int			len = (int) Min(reply->text_len, 100);
	bool		is_too_large = reply->text_len == strlen(too_large) &&
		memcmp(reply->text, too_large, strlen(too_large)) == 0;

	if (req->kind == EC_REQUEST_COMMAND || req->kind == EC_REQUEST_FLUSH)
		ec_failure_set(&failure, ERRCODE_FEATURE_NOT_SUPPORTED, false,
					   "the server refuses \"%.*s\": %.*s", req->keylen - 2, req->key, len,
					   reply->text ? reply->text : "");
	else
		ec_failure_set(&failure, is_too_large ? ERRCODE_PROGRAM_LIMIT_EXCEEDED
					   : ERRCODE_OUT_OF_MEMORY, false, "the server said \"%.*s\"", len, reply->text);
	req->failure = ec_failure_copy(&failure);
}

/* recv_op has its whole answer: on to the next.  Older quiet requests are history. */
static void
conn_answered(EcConnection *c, const EcRequest *req)
{
	c->opaque_quiet = ++c->opaque_recv;
	c->recv_op = req->next;
	if (!c->announced)
	{
		/* not before: what accepts connections need not be alive */
		c->announced = true;
		if (c->kept)
			ereport(LOG,
					(errmsg("echocache: connected to server \"%s\"",
							ec_placement.server[c->server].name),
					 errhidestmt(true), errhidecontext(true)));
	}
}

/* The same for a line of the answer to a command. */
static bool
conn_command_line(EcConnection *c, EcRequest *req, const EcReply *reply)
{
	switch (reply->kind)
	{
		case EC_REPLY_STAT:
		case EC_REPLY_DUMP:
			if (req->callback && !req->callback(reply, req->arg))
				req->callback = NULL;
			return true;
		case EC_REPLY_OK:
			if (req->kind == EC_REQUEST_COMMAND)
				return true;	/* a newer memcached's, before a dump */
			req->result = EC_DONE;
			break;
		case EC_REPLY_END:
		case EC_REPLY_MN:
			if (req->kind == EC_REQUEST_FLUSH)
			{
				ec_socket_fail(c, false, "an answer that is not understood");
				return false;
			}
			req->result = EC_DONE;
			break;
		case EC_REPLY_ERROR:
		case EC_REPLY_BUSY:
		case EC_REPLY_CLIENT_ERROR:
		case EC_REPLY_SERVER_ERROR:
			if (is_unauthenticated(reply))
			{
				ec_socket_fail(c, false, EC_UNAUTHENTICATED);
				return false;
			}
			refused(req, reply);
			req->result = EC_REFUSED;
			break;
		default:
			ec_socket_fail(c, false, "an answer that is not understood");
			return false;
	}
	conn_answered(c, req);
	return true;
}

/*
 * Is this the answer to one of ec_exchange_send()'s quiet requests?  They are answered
 * only when the token did not match, which is of no interest any more.
 */
static bool
conn_quiet_answer(EcConnection *c, const EcReply *reply)
{
	uint32		behind = c->opaque_recv - c->opaque_quiet;

	if (behind == 0 || !reply->has_opaque || reply->opaque - c->opaque_quiet >= behind ||
		(reply->kind != EC_REPLY_EX && reply->kind != EC_REPLY_NF && reply->kind != EC_REPLY_NS))
		return false;
	c->opaque_quiet = reply->opaque + 1;
	return true;
}

/* Read what has arrived.  false: failed. */
static bool
conn_read(EcConnection *c, EcRequest *reqs)
{
	while (c->recv_op >= 0)
	{
		char	   *dst;
		size_t		room;
		ssize_t		n;

		if (c->value_missing > 0 && c->in_end > c->in_start)
		{
			size_t		take = Min(c->value_missing, c->in_end - c->in_start);

			memcpy(c->value, ec_socket_in(c) + c->in_start, take);
			c->in_start += take;
			c->value += take;
			c->value_missing -= take;
			if (c->value_missing > 0)
				continue;
		}
		else if (c->value_missing == 0 && c->in_end > c->in_start && c->value == NULL)
		{
			EcReply		reply;

			ec_reply_parse(ec_socket_in(c) + c->in_start, c->in_end - c->in_start, &reply);
			if (reply.kind == EC_REPLY_MALFORMED)
			{
				ec_socket_fail(c, false, "an answer that is not memcached's");
				return false;
			}
			if (reply.kind != EC_REPLY_INCOMPLETE)
			{
				c->in_start += reply.line_len;
				if (!conn_quiet_answer(c, &reply) && !conn_answer(c, reqs, &reply))
					return false;
				continue;
			}
		}

		if (c->value != NULL && c->value_missing == 0)
		{
			if (c->value[-2] != '\r' || c->value[-1] != '\n')
			{
				ec_socket_fail(c, false, "a value without an end");
				return false;
			}
			c->value = NULL;
			reqs[c->recv_op].result = EC_DONE;
			conn_answered(c, &reqs[c->recv_op]);
			continue;
		}

		if (c->value_missing > 0)
		{
			/* the rest of a value goes straight to its place */
			dst = c->value;
			room = c->value_missing;
		}
		else
		{
			if (c->in_start > 0)
			{
				memmove(ec_socket_in(c), ec_socket_in(c) + c->in_start, c->in_end - c->in_start);
				c->in_end -= c->in_start;
				c->in_start = 0;
			}
			dst = ec_socket_in(c) + c->in_end;
			room = EC_IN_SIZE - c->in_end;
		}
		n = ec_socket_recv(c, dst, room);
		if (n <= 0)
			return n == 0;
		c->progress += n;
		if (c->value_missing > 0)
		{
			c->value += n;
			c->value_missing -= n;
		}
		else
			c->in_end += n;
	}
	if (c->in_end > c->in_start)
	{
		ec_socket_fail(c, false, "more answers than requests");
		return false;
	}
	return true;
}

/*
 * Do whatever can be done without waiting; look says whether there can be answers
 * yet, linger that all have been waited for but this connection's, for which we may
 * wait a little.  false: the connection has failed.
 */
bool
ec_connection_step(EcConnection *c, EcRequest *reqs, bool look, bool linger)
{
	bool		ok;

	if (c->state != EC_CONNECTION_READY)
	{
		if (!ec_socket_establish(c))
			return false;
		if (c->state != EC_CONNECTION_READY)
			return true;
	}
	if (!ec_connection_write(c, reqs))
		return false;
	if (!look)
		return true;
	c->linger = linger && c->tls == NULL && !ec_socket_wants_write(c);
	pgstat_report_wait_start(PG_WAIT_EXTENSION);
	ok = conn_read(c, reqs);
	pgstat_report_wait_end();
	return ok;
}

/*
 * Is the connection open, does it owe us no answer, and has the server not closed
 * it, as far as we can tell?
 */
bool
ec_connection_is_idle(const EcConnection *c)
{
	char		byte;

	return c->state == EC_CONNECTION_READY && !c->busy && c->opaque_quiet == c->opaque_send &&
		recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
		(errno == EAGAIN || errno == EWOULDBLOCK);
}

/* Ready for an exchange on this connection, which is opened if need be, or opened anew. */
void
ec_connection_begin(EcConnection *c, int server)
{
	if (c->state != EC_CONNECTION_CLOSED && !ec_connection_is_ready(c))
		ec_socket_close(c);
	c->server = server;
	c->suspect = c->state == EC_CONNECTION_READY;
	c->retried = c->loud = c->failed = false;
	c->progress = 0;
	conn_reset(c);
	if (c->state == EC_CONNECTION_CLOSED)
		(void) ec_socket_open(c, server);
	c->busy = true;
}

/* Nothing sent, nothing received. */
static void
conn_reset(EcConnection *c)
{
	c->value = NULL;
	c->value_missing = 0;
	c->out_len = c->out_sent = c->in_start = c->in_end = 0;
	c->big = NULL;
	c->big_len = c->big_sent = 0;
	c->opaque_recv = c->opaque_send;
}

/*
 * A kept connection may have been closed since its last use: what is not
 * answered yet is asked once more on a new one.  Nothing we send does harm when
 * it is done twice.  false: no, it has failed.
 */
bool
ec_connection_retry(EcConnection *c)
{
	ec_socket_close(c);
	if (!c->suspect || c->retried)
		return false;
	c->retried = c->loud = true;
	c->failed = false;
	conn_reset(c);
	c->busy = true;
	c->send_op = c->recv_op;
	return ec_socket_open(c, c->server);
}

/* The exchange is over: report a failure, after which the server is DOWN. */
bool
ec_connection_end(EcConnection *c)
{
	if (!c->failed)
	{
		c->busy = false;
		return true;
	}
	ec_socket_close(c);
	ec_state_down(ec_placement.generation, c->server, c->failure.reason);
	return false;
}
