/*-------------------------------------------------------------------------
 *
 * connection.c
 *	  An exchange on one connection: requests, and the answers to them.
 *
 * A connection belongs to one backend and one topology.  It carries requests whose answers
 * come in the order of the requests; each answer is checked against its request's opaque.
 *
 * Invariant: at the first surprise (a timeout, an error, an answer that does not match, a
 * byte too many) the connection is FAILED, and nothing is ever read from it again.  While an
 * exchange is under way the connection is not IDLE.  An error that is thrown in between (a
 * cancelled query, say) leaves it so, and the next exchange or the end of the transaction
 * closes it.  So there is no clean-up to forget on any path.
 *
 * Nothing here serves an interrupt.  ec_connection_write() and ec_connection_end() may be
 * called in the COMMIT callback: they do not throw, and allocate nothing.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>

#include "pgstat.h"

#include "compat.h"
#include "net/answer.h"
#include "net/connection.h"
#include "net/dialect.h"
#include "protocol/wire.h"
#include "servers/placement.h"
#include "servers/state.h"

/*
 * So much is sent, and so much received, before the caller looks at the deadline and at
 * interrupts again.  A server that talks without end, or a kernel that takes all that it is
 * given, holds nobody for longer.
 */
#define STEP_BYTES		(256 * 1024)

static void stage_request(EcConnection *c, int i, size_t size);
static void stage(EcConnection *c);
static void skip_quiet(EcConnection *c, const EcReply *reply);
static bool take_answer(EcConnection *c, const EcReply *reply);
static void answered(EcConnection *c);
static bool take_silent_answer(EcConnection *c, const EcReply *reply);
static bool take_untold(EcConnection *c, EcRequest *req, const EcReply *reply);
static bool take_buffered(EcConnection *c, bool *taken);
static ssize_t receive(EcConnection *c, bool wait);
static EcStep read_answers(EcConnection *c, bool wait);
static void reset(EcConnection *c);

/* Put a request into the output buffer of this size; its value too, if that fits. */
static void
stage_request(EcConnection *c, int i, size_t size)
{
	EcExchange *ex = &c->exchange;
	EcRequest  *req = &ex->reqs[i];

	c->out_len += ec_dialect_line(c, req, ec_socket_out(c) + c->out_len, c->opaque_send++);
	/* without a line that announces it, a value would be taken for requests */
	if (!ec_dialect_has_value(c, req))
		return;
	if (req->valuelen + 2 <= size - c->out_len)
	{
		if (req->valuelen > 0)
			memcpy(ec_socket_out(c) + c->out_len, req->value, req->valuelen);
		memcpy(ec_socket_out(c) + c->out_len + req->valuelen, "\r\n", 2);
		c->out_len += req->valuelen + 2;
	}
	else
	{
		ex->big = req->value;
		ex->big_len = req->valuelen;
		ex->big_sent = 0;
	}
	if (ec_dialect_is_untold(c, req))
		ex->untold = i;
}

/*
 * Fill the output buffer with as many requests as fit, whole ones.  Before the first one that
 * has a value the server's version is asked for, and nothing more is sent until it is known.
 */
static void
stage(EcConnection *c)
{
	EcExchange *ex = &c->exchange;
	const size_t size = c->tls ? EC_TLS_RECORD_MAX : EC_OUT_SIZE;

	if (c->out_sent == c->out_len)
		c->out_sent = c->out_len = 0;

	while (ex->big == NULL && !ex->asks_version && size - c->out_len >= EC_REQUEST_MAX)
	{
		char	   *out = ec_socket_out(c) + c->out_len;

		if (ex->untold >= 0)
		{
			EcRequest  *req = &ex->reqs[ex->untold];

			c->out_len += ec_wire_token(out, req->key, req->keylen, c->opaque_send - 1);
			ex->untold = -1;
		}
		else if (ex->send < 0)
			break;
		else if (c->version == 0 && ec_dialect_has_value(c, &ex->reqs[ex->send]))
		{
			c->out_len += ec_wire_version(out);
			ex->asks_version = true;
		}
		else
		{
			stage_request(c, ex->send, size);
			ex->send = ex->reqs[ex->send].next;
		}
	}
}

/* Send what can be sent without waiting, up to STEP_BYTES.  Never throws or allocates. */
EcStep
ec_connection_write(EcConnection *c)
{
	EcExchange *ex = &c->exchange;

	Assert(c->state == EC_CONNECTION_BUSY);
	for (size_t sent = 0; sent < STEP_BYTES;)
	{
		const char *p;
		size_t		len;
		ssize_t		n;

		if (c->out_sent == c->out_len && ex->big == NULL)
		{
			stage(c);
			if (c->out_len == 0)
				return EC_STEP_WAITS;
		}
		if (c->out_sent < c->out_len)
		{
			p = ec_socket_out(c) + c->out_sent;
			len = c->out_len - c->out_sent;
		}
		else if (ex->big_sent < ex->big_len)
		{
			p = ex->big + ex->big_sent;
			len = ex->big_len - ex->big_sent;
		}
		else
		{
			/* behind a big value: its line end, then the next requests */
			ex->big = NULL;
			ex->big_len = ex->big_sent = 0;
			memcpy(ec_socket_out(c), "\r\n", 2);
			c->out_sent = 0;
			c->out_len = 2;
			if (c->tls == NULL)
				stage(c);
			continue;
		}
		n = ec_socket_send(c, p, len);
		if (n <= 0)
			return n == 0 ? EC_STEP_WAITS : EC_STEP_FAILED;
		sent += n;
		if (c->out_sent < c->out_len)
			c->out_sent += n;
		else
			ex->big_sent += n;
	}
	return EC_STEP_MORE;
}

/*
 * This answer is to a request that has been sent.  The quiet requests before it that are not
 * answered yet have been carried out.
 */
static void
skip_quiet(EcConnection *c, const EcReply *reply)
{
	EcExchange *ex = &c->exchange;
	uint32		ahead = reply->opaque - c->opaque_recv;
	int			to = ex->recv;

	if (!reply->has_opaque || ahead >= c->opaque_send - c->opaque_recv)
		return;
	for (; ahead > 0 && ec_dialect_is_quiet(ex, &ex->reqs[to]); ahead--)
		to = ex->reqs[to].next;
	while (ahead == 0 && ex->recv != to)
	{
		ex->reqs[ex->recv].result = EC_DONE;
		answered(c);
	}
}

/*
 * Take one answer: it must be the one to the request that is the next to be answered.
 * false: the connection has failed.  Throws what the callback of a command throws.
 */
static bool
take_answer(EcConnection *c, const EcReply *reply)
{
	EcExchange *ex = &c->exchange;
	EcRequest  *req;
	bool		is_command;

	skip_quiet(c, reply);
	req = &ex->reqs[ex->recv];
	is_command = req->kind == EC_REQUEST_COMMAND || req->kind == EC_REQUEST_FLUSH;
	if (reply->kind == EC_REPLY_SERVER_ERROR &&
		(c->opaque_silent != c->opaque_recv || ec_dialect_is_quiet(ex, req)))
	{
		/* to which of the requests?  find out on a new connection */
		ec_socket_fail(c, "an error that may belong to another request");
		if (ex->retry == EC_RETRY_IF_UNCLEAR)
			ex->retry = EC_RETRY_ALWAYS;
		return false;
	}
	if (!is_command && (reply->has_opaque ? reply->opaque != c->opaque_recv
						: reply->kind == EC_REPLY_HD || reply->kind == EC_REPLY_VA))
	{
		ec_socket_fail(c, "an answer that belongs to another request");
		return false;
	}
	if (ec_dialect_is_untold(c, req) && (ex->refused || reply->kind != EC_REPLY_HD))
		return take_untold(c, req, reply);
	switch (ec_answer_take(req, reply, &c->failure))
	{
		case EC_ANSWER_COMPLETE:
			answered(c);
			return true;
		case EC_ANSWER_VALUE:
			ex->value = VARDATA(req->found);
			ex->value_missing = reply->value_len + 2;
			return true;
		case EC_ANSWER_MORE:
			ex->retry = EC_RETRY_NEVER; /* the callback has had some of it */
			return true;
		case EC_ANSWER_WRONG:
			break;
	}
	c->state = EC_CONNECTION_FAILED;
	return false;
}

/*
 * The next request to be answered has its whole answer: on to the one after it.  Requests
 * that were asked silently before it will not be answered any more.
 */
static void
answered(EcConnection *c)
{
	EcExchange *ex = &c->exchange;

	ec_state_answered(c->server);
	c->opaque_silent = ++c->opaque_recv;
	ex->reqs[ex->recv].connection = c->serial;
	ex->recv = ex->reqs[ex->recv].next;
	if (!c->answered)
	{
		/* not before: what accepts connections need not be alive */
		c->answered = true;
		if (c->kept)
			ereport(DEBUG1,
					(errmsg("echocache: connected to server \"%s\"",
							ec_placement.server[c->server].name),
					 errhidestmt(true), errhidecontext(true)));
	}
}

/*
 * Is this the answer to a request that an earlier exchange asked silently?  Such a request is
 * answered only when its token did not match, which is of no interest any more.
 */
static bool
take_silent_answer(EcConnection *c, const EcReply *reply)
{
	uint32		behind = c->opaque_recv - c->opaque_silent;

	if (behind == 0 || !reply->has_opaque || reply->opaque - c->opaque_silent >= behind ||
		(reply->kind != EC_REPLY_EX && reply->kind != EC_REPLY_NF && reply->kind != EC_REPLY_NS))
		return false;
	c->opaque_silent = reply->opaque + 1;
	return true;
}

/*
 * Take an answer about a value whose token is asked for behind it, other than the token.  If
 * nothing was stored, the answer to the question is still to come, and of no interest.  If there
 * is no item, the value was stored and is gone: its token is 0.  false: the connection has failed.
 */
static bool
take_untold(EcConnection *c, EcRequest *req, const EcReply *reply)
{
	EcExchange *ex = &c->exchange;

	if (reply->kind == EC_REPLY_EN || (ex->refused && reply->kind == EC_REPLY_HD))
	{
		if (!ex->refused)
		{
			req->result = EC_DONE;
			req->token = 0;
		}
		ex->refused = false;
		answered(c);
		return true;
	}
	if (ex->refused)
		ec_socket_fail(c, "an answer that belongs to another request");
	else if (ec_answer_take(req, reply, &c->failure) == EC_ANSWER_COMPLETE)
		ex->refused = true;
	else
		c->state = EC_CONNECTION_FAILED;
	return c->state == EC_CONNECTION_BUSY;
}

/*
 * Take one answer, or a part of a value, from the input buffer; *taken says whether there was
 * any.  false: the connection has failed.  Throws what the callback of a command throws.
 */
static bool
take_buffered(EcConnection *c, bool *taken)
{
	EcExchange *ex = &c->exchange;
	size_t		len = c->in_end - c->in_start;
	const char *in = ec_socket_in(c) + c->in_start;
	EcReply		reply;

	*taken = false;
	if (ex->value != NULL)
	{
		len = Min(ex->value_missing, len);
		memcpy(ex->value, in, len);
		c->in_start += len;
		ex->value += len;
		ex->value_missing -= len;
		if (ex->value_missing > 0)
			return true;
		if (ex->value[-2] != '\r' || ex->value[-1] != '\n')
		{
			ec_socket_fail(c, "a value without an end");
			return false;
		}
		ex->value = NULL;
		ex->reqs[ex->recv].result = EC_DONE;
		answered(c);
		*taken = true;
		return true;
	}
	if (len == 0)
		return true;
	ec_reply_parse(in, len, &reply);
	if (reply.kind == EC_REPLY_INCOMPLETE)
		return true;
	if (reply.kind == EC_REPLY_MALFORMED)
	{
		ec_socket_fail(c, "an answer that is not memcached's");
		return false;
	}
	c->in_start += reply.line_len;
	*taken = true;
	if (ex->asks_version && ex->recv == ex->send)
	{
		ex->asks_version = false;
		if (!ec_answer_take_version(&reply, &c->version, &c->failure))
			c->state = EC_CONNECTION_FAILED;
		return c->state == EC_CONNECTION_BUSY;
	}
	return take_silent_answer(c, &reply) || take_answer(c, &reply);
}

/*
 * Receive what there is, up to a bufferful or the end of a value; how much, as
 * ec_socket_recv() says it.
 */
static ssize_t
receive(EcConnection *c, bool wait)
{
	EcExchange *ex = &c->exchange;
	ssize_t		n;

	if (ex->value != NULL)
	{
		/* the rest of a value goes straight to its place */
		n = ec_socket_recv(c, ex->value, ex->value_missing, wait);
		if (n > 0)
		{
			ex->value += n;
			ex->value_missing -= n;
		}
		return n;
	}
	if (c->in_start > 0)
	{
		memmove(ec_socket_in(c), ec_socket_in(c) + c->in_start, c->in_end - c->in_start);
		c->in_end -= c->in_start;
		c->in_start = 0;
	}
	n = ec_socket_recv(c, ec_socket_in(c) + c->in_end, EC_IN_SIZE - c->in_end, wait);
	if (n > 0)
		c->in_end += n;
	return n;
}

/*
 * Take the answers that have arrived, up to STEP_BYTES; wait as in ec_socket_recv(), for the
 * first bytes only, so that a server that trickles meets the deadline.  Throws what the
 * callback of a command throws.
 */
static EcStep
read_answers(EcConnection *c, bool wait)
{
	EcExchange *ex = &c->exchange;
	uint64		enough = ex->taken + STEP_BYTES;

	while (ex->recv >= 0)
	{
		bool		asked = ex->asks_version;
		bool		taken;
		ssize_t		n;

		if (!take_buffered(c, &taken))
			return EC_STEP_FAILED;
		if (asked && !ex->asks_version)
			return EC_STEP_MORE;	/* there is more to be sent first */
		if (taken)
			continue;
		if (ex->taken >= enough)
			return EC_STEP_MORE;
		n = receive(c, wait);
		if (n <= 0)
			return n == 0 ? EC_STEP_WAITS : EC_STEP_FAILED;
		wait = false;
		ex->taken += n;
		if (ex->taken > ex->limit)
		{
			ec_socket_fail(c, "an answer without end: more than %llu MB",
						   (unsigned long long) (ex->limit >> 20));
			ex->retry = EC_RETRY_NEVER;
			return EC_STEP_FAILED;
		}
	}
	if (c->in_end > c->in_start)
	{
		ec_socket_fail(c, "more answers than requests");
		return EC_STEP_FAILED;
	}
	return EC_STEP_WAITS;
}

/*
 * Do what can be done without waiting, up to STEP_BYTES in either direction.  look: there can
 * be answers by now.  linger: all have been waited for but this connection's, for which we may
 * wait a little.  Throws what ec_socket_open() and the callback of a command throw.
 */
EcStep
ec_connection_step(EcConnection *c, bool look, bool linger)
{
	EcStep		written;
	EcStep		taken;

	if (c->state != EC_CONNECTION_BUSY)
	{
		if (!ec_socket_establish(c))
			return EC_STEP_FAILED;
		if (c->state != EC_CONNECTION_BUSY)
			return EC_STEP_WAITS;
	}
	written = ec_connection_write(c);
	if (written == EC_STEP_FAILED || !look)
		return written;
	pgstat_report_wait_start(ec_waitevent_of(ec_request_wait(&c->exchange.reqs[c->exchange.recv])));
	taken = read_answers(c, linger && c->tls == NULL && !ec_connection_wants_write(c));
	pgstat_report_wait_end();
	return taken == EC_STEP_WAITS ? written : taken;
}

/*
 * Is the connection open and was in use just now, does it owe us no answer, and has the server
 * not closed it, as far as can be told?
 */
bool
ec_connection_is_clear(const EcConnection *c)
{
	char		byte;

	return c->state == EC_CONNECTION_IDLE && c->opaque_silent == c->opaque_send &&
		ec_deadline_in(0) - c->used_at < EC_IDLE_US &&
		recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
		(errno == EAGAIN || errno == EWOULDBLOCK);
}

/*
 * Begin an exchange, whose first request for this connection is reqs[first].  The connection
 * is opened if need be, or opened anew; whether that has failed at once is in its state.
 * Throws what ec_socket_open() throws; not at all where ec_connection_is_ready().
 */
void
ec_connection_begin(EcConnection *c, int server, EcRequest *reqs, int first, EcAsk ask,
					EcRetry retry)
{
	EcExchange *ex = &c->exchange;

	if (!ec_connection_is_ready(c))
		ec_socket_close(c);
	ex->reqs = reqs;
	ex->last = ex->send = ex->recv = first;
	ex->ask = ask;
	ex->retry = retry;
	if (retry == EC_RETRY_IF_UNCLEAR && c->state == EC_CONNECTION_IDLE)
		ex->retry = EC_RETRY_ALWAYS;
	ex->idle_since = c->state == EC_CONNECTION_IDLE ? c->used_at : 0;
	ex->taken = ex->renewed = 0;
	ex->limit = reqs[first].limit > 0 ? reqs[first].limit
		: reqs[first].kind == EC_REQUEST_COMMAND ? EC_COMMAND_MAX : EC_ANSWERS_MAX;
	reset(c);
	if (c->state == EC_CONNECTION_IDLE)
		c->state = EC_CONNECTION_BUSY;
	else
		(void) ec_socket_open(c, server);
}

/* Have the exchange make one more request, reqs[i]. */
void
ec_connection_add(EcConnection *c, int i)
{
	EcExchange *ex = &c->exchange;

	ex->reqs[ex->last].next = i;
	ex->last = i;
}

/* Forget what is in the buffers: nothing of the exchange has been sent or received. */
static void
reset(EcConnection *c)
{
	EcExchange *ex = &c->exchange;

	ex->value = NULL;
	ex->value_missing = 0;
	ex->big = NULL;
	ex->big_len = ex->big_sent = 0;
	ex->untold = -1;
	ex->asks_version = ex->refused = false;
	c->out_len = c->out_sent = c->in_start = c->in_end = 0;
	c->opaque_recv = c->opaque_send;
}

/*
 * The exchange has failed.  A kept connection may have been closed since its last use: what
 * is not answered yet is asked once more on a new one.  Nothing that is sent does harm when
 * it is done twice, unless the caller has said so (EC_RETRY_NEVER).  What carries a token of
 * this connection is not asked again, and finds no item with its token.  false: the exchange
 * is not made anew, or has failed again.
 */
bool
ec_connection_retry(EcConnection *c)
{
	EcExchange *ex = &c->exchange;

	Assert(c->state == EC_CONNECTION_FAILED);
	if (ex->retry != EC_RETRY_ALWAYS || ex->recv < 0)
		return false;			/* or all is answered, and then came more */
	ex->retry = EC_RETRY_NEVER;
	ex->ask = EC_ASK_LOUD;
	ec_socket_close(c);
	reset(c);
	/* no exchange mixes requests that are bound with others */
	for (; ex->recv >= 0 && ec_request_is_bound(&ex->reqs[ex->recv]);
		 ex->recv = ex->reqs[ex->recv].next)
		ex->reqs[ex->recv].result = EC_MISMATCH;
	ex->send = ex->recv;
	return ex->recv < 0 || ec_socket_open(c, c->server);
}

/* The exchange is over.  false: it has failed, and the connection is closed.  Never throws. */
bool
ec_connection_end(EcConnection *c)
{
	c->exchange.reqs = NULL;
	if (c->state == EC_CONNECTION_CLOSED)
		return true;			/* see ec_connection_retry() */
	if (c->state != EC_CONNECTION_FAILED)
	{
		Assert(c->state == EC_CONNECTION_BUSY);
		c->state = EC_CONNECTION_IDLE;
		if (c->exchange.taken > 0)
			c->used_at = ec_deadline_in(0);
		return true;
	}
	ec_socket_close(c);
	return false;
}
