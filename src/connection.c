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
#include "connection.h"
#include "guc.h"

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

char		ec_last_failure[EC_ERROR_MAX];
bool		ec_last_failure_timed_out;

static bool is_unauthenticated(const EcReply *reply);
static void conn_reset(Conn *c);
static void conn_stage(Conn *c, EcOp *ops);
static bool conn_answer(Conn *c, EcOp *ops, const EcReply *reply);
static bool conn_command_line(Conn *c, EcOp *op, const EcReply *reply);
static bool conn_quiet_answer(Conn *c, const EcReply *reply);
static bool is_quiet(const Conn *c, const EcOp *op);
static void conn_skip_quiet(Conn *c, EcOp *ops, const EcReply *reply);
static void conn_answered(Conn *c, const EcOp *op);
static bool conn_read(Conn *c, EcOp *ops);

/*
 * Is all that there will be of an answer to this request, if it is carried out, the answer to
 * a later one?  The server works in order, and tells what goes wrong.
 */
static bool
is_quiet(const Conn *c, const EcOp *op)
{
	return op->quiet && op->next >= 0 && !c->loud;
}

/* Fill the output buffer with as many requests as fit, whole ones. */
static void
conn_stage(Conn *c, EcOp *ops)
{
	const size_t size = c->tls ? TLS_RECORD_MAX : EC_OUT_SIZE;

	if (c->out_sent == c->out_len)
		c->out_sent = c->out_len = 0;

	while (c->send_op >= 0 && c->big == NULL && size - c->out_len >= EC_REQUEST_MAX)
	{
		EcOp	   *op = &ops[c->send_op];
		char	   *dst = ec_conn_out(c) + c->out_len;
		uint32		opaque = c->opaque_send++;
		const char *value = NULL;	/* only behind what announces it: else it is requests */
		size_t		room;

		switch (op->kind)
		{
			case EC_OP_COMMAND:
			case EC_OP_FLUSH:
				memcpy(dst, op->key, op->keylen);
				c->out_len += op->keylen;
				break;
			case EC_OP_GET:
				c->out_len += ec_wire_get(dst, op->key, op->keylen, op->ttl, opaque);
				break;
			case EC_OP_LOOK:
				c->out_len += ec_wire_look(dst, op->key, op->keylen, opaque);
				break;
			case EC_OP_INSPECT:
				c->out_len += ec_wire_inspect(dst, op->key, op->keylen, opaque);
				break;
			case EC_OP_TOUCH:
				c->out_len += ec_wire_touch(dst, op->key, op->keylen, op->ttl, opaque);
				break;
			case EC_OP_MARK:
			case EC_OP_SET:
			case EC_OP_STORE:
				value = op->value;
				c->out_len += ec_wire_set(dst, op->key, op->keylen, op->valuelen, op->mode,
										  op->kind == EC_OP_STORE ? op->token : 0,
										  op->ttl, c->quiet || is_quiet(c, op), opaque);
				break;
			case EC_OP_REMOVE:
			case EC_OP_DELETE:
				c->out_len += ec_wire_delete(dst, op->key, op->keylen,
											 op->kind == EC_OP_REMOVE ? op->token : 0,
											 c->quiet, opaque);
				break;
			case EC_OP_INCREMENT:
			case EC_OP_DECREMENT:
				c->out_len += ec_wire_arithmetic(dst, op->key, op->keylen,
												 op->kind == EC_OP_DECREMENT, op->token, opaque);
				break;
		}
		room = size - c->out_len;
		if (value != NULL)
		{
			if (op->valuelen + 2 <= room)
			{
				memcpy(ec_conn_out(c) + c->out_len, value, op->valuelen);
				memcpy(ec_conn_out(c) + c->out_len + op->valuelen, "\r\n", 2);
				c->out_len += op->valuelen + 2;
			}
			else
			{
				c->big = value;
				c->big_len = op->valuelen;
				c->big_sent = 0;
			}
		}
		c->send_op = op->next;
	}
}

/* Send what can be sent without blocking.  false: failed. */
bool
ec_conn_write(Conn *c, EcOp *ops)
{
	for (;;)
	{
		const char *p;
		size_t		len;
		ssize_t		n;

		if (c->out_sent == c->out_len && c->big == NULL)
		{
			conn_stage(c, ops);
			if (c->out_len == 0)
				return true;
		}
		if (c->out_sent < c->out_len)
		{
			p = ec_conn_out(c) + c->out_sent;
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
			memcpy(ec_conn_out(c), "\r\n", 2);
			c->out_sent = 0;
			c->out_len = 2;
			if (c->tls == NULL)
				conn_stage(c, ops);
			continue;
		}
		n = ec_conn_send(c, p, len);
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
conn_skip_quiet(Conn *c, EcOp *ops, const EcReply *reply)
{
	uint32		ahead = reply->opaque - c->opaque_recv;
	int			to = c->recv_op;

	if (!reply->has_opaque || ahead >= c->opaque_send - c->opaque_recv)
		return;
	for (; ahead > 0 && is_quiet(c, &ops[to]); ahead--)
		to = ops[to].next;
	while (ahead == 0 && c->recv_op != to)
	{
		ops[c->recv_op].result = EC_DONE;
		conn_answered(c, &ops[c->recv_op]);
	}
}

/*
 * Take one answer: it must be the one to recv_op.  false: it is not, or it is
 * nothing that may follow such a request.
 */
static bool
conn_answer(Conn *c, EcOp *ops, const EcReply *reply)
{
	EcOp	   *op;
	bool		arithmetic;

	conn_skip_quiet(c, ops, reply);
	op = &ops[c->recv_op];
	arithmetic = op->kind == EC_OP_INCREMENT || op->kind == EC_OP_DECREMENT;
	if (reply->kind == EC_REPLY_SERVER_ERROR &&
		(c->opaque_quiet != c->opaque_recv || is_quiet(c, op)))
	{
		/* to which of the requests?  find out on a new connection */
		ec_conn_fail(c, false, "an error that may belong to another request");
		c->suspect = true;
		return false;
	}
	if (op->kind == EC_OP_COMMAND || op->kind == EC_OP_FLUSH)
		return conn_command_line(c, op, reply);

	if (reply->has_opaque ? reply->opaque != c->opaque_recv
		: (reply->kind == EC_REPLY_HD || reply->kind == EC_REPLY_VA))
	{
		ec_conn_fail(c, false, "an answer that belongs to another request");
		return false;
	}
	switch (reply->kind)
	{
		case EC_REPLY_HD:
			if (op->kind == EC_OP_GET || op->kind == EC_OP_INSPECT || arithmetic ||
				(op->kind == EC_OP_LOOK && !reply->has_size) ||
				((op->kind == EC_OP_MARK || op->kind == EC_OP_SET) && !reply->has_cas))
				break;
			if (reply->has_cas)
				op->token = reply->cas;
			op->found_len = reply->has_size ? reply->size : 0;
			op->result = EC_DONE;
			goto done;
		case EC_REPLY_VA:
			if ((op->kind != EC_OP_GET && op->kind != EC_OP_INSPECT && !arithmetic) ||
				!reply->has_cas || (op->kind == EC_OP_INSPECT && !reply->has_flags))
				break;
			op->token = reply->cas;
			op->client_flags = reply->client_flags;
			op->found_len = reply->value_len;
			/* with room for the line end behind it; no error if there is no memory */
			op->found = palloc_extended(VARHDRSZ + reply->value_len + 2,
										MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
			if (op->found == NULL)
			{
				ec_conn_fail(c, false, "out of memory for a value of %zu bytes", reply->value_len);
				return false;
			}
			SET_VARSIZE(op->found, VARHDRSZ + reply->value_len);
			c->value = VARDATA(op->found);
			c->value_missing = reply->value_len + 2;
			return true;
		case EC_REPLY_EN:
		case EC_REPLY_NF:
			if (reply->kind == EC_REPLY_EN && op->kind != EC_OP_GET && op->kind != EC_OP_TOUCH &&
				op->kind != EC_OP_LOOK && op->kind != EC_OP_INSPECT)
				break;
			if (reply->kind == EC_REPLY_NF && (op->kind == EC_OP_MARK || op->kind == EC_OP_SET))
				break;
			op->result = EC_ABSENT;
			goto done;
		case EC_REPLY_EX:
			if (op->kind != EC_OP_STORE && op->kind != EC_OP_REMOVE)
				break;
			op->result = EC_MISMATCH;
			goto done;
		case EC_REPLY_NS:
			if (op->value == NULL)
				break;
			op->result = op->mode != 0 ? EC_MISMATCH : EC_REFUSED;
			goto done;
		case EC_REPLY_SERVER_ERROR:
		case EC_REPLY_CLIENT_ERROR:
			/* of requests that are well-formed, only arithmetic can be the client's error */
			if (reply->kind == EC_REPLY_CLIENT_ERROR ? !arithmetic
				: (op->value == NULL && !arithmetic))
				break;
			snprintf(ec_last_failure, sizeof(ec_last_failure), "the server said \"%.*s\"",
					 (int) Min(reply->text_len, 100), reply->text);
			op->result = reply->kind == EC_REPLY_CLIENT_ERROR ? EC_MISMATCH : EC_REFUSED;
			goto done;
		default:
			break;
	}
	if (is_unauthenticated(reply))
		ec_conn_fail(c, false, EC_UNAUTHENTICATED);
	else if (reply->kind == EC_REPLY_CLIENT_ERROR || reply->kind == EC_REPLY_SERVER_ERROR)
		ec_conn_fail(c, false, "the server said \"%.*s\"",
				  (int) Min(reply->text_len, 100), reply->text);
	else
		ec_conn_fail(c, false, "an answer that is not understood");
	return false;

done:
	conn_answered(c, op);
	return true;
}

/* recv_op has its whole answer: on to the next.  Older quiet requests are history. */
static void
conn_answered(Conn *c, const EcOp *op)
{
	c->opaque_quiet = ++c->opaque_recv;
	c->recv_op = op->next;
	if (!c->announced)
	{
		/* not before: what accepts connections need not be alive */
		c->announced = true;
		if (c->kept)
			ereport(LOG,
					(errmsg("echocache: connected to server \"%s\"",
							ec_topology.server[c->server].name),
					 errhidestmt(true), errhidecontext(true)));
	}
}

/* The same for a line of the answer to a command. */
static bool
conn_command_line(Conn *c, EcOp *op, const EcReply *reply)
{
	switch (reply->kind)
	{
		case EC_REPLY_STAT:
		case EC_REPLY_DUMP:
			if (op->callback && !op->callback(reply, op->arg))
				op->callback = NULL;
			return true;
		case EC_REPLY_OK:
			if (op->kind == EC_OP_COMMAND)
				return true;	/* a newer memcached's, before a dump */
			op->result = EC_DONE;
			break;
		case EC_REPLY_END:
		case EC_REPLY_MN:
			if (op->kind == EC_OP_FLUSH)
			{
				ec_conn_fail(c, false, "an answer that is not understood");
				return false;
			}
			op->result = EC_DONE;
			break;
		case EC_REPLY_ERROR:
		case EC_REPLY_BUSY:
		case EC_REPLY_CLIENT_ERROR:
		case EC_REPLY_SERVER_ERROR:
			if (is_unauthenticated(reply))
			{
				ec_conn_fail(c, false, EC_UNAUTHENTICATED);
				return false;
			}
			snprintf(ec_last_failure, sizeof(ec_last_failure), "the server refuses \"%.*s\": %.*s",
					 op->keylen - 2, op->key, (int) Min(reply->text_len, 100),
					 reply->text ? reply->text : "");
			op->result = EC_REFUSED;
			break;
		default:
			ec_conn_fail(c, false, "an answer that is not understood");
			return false;
	}
	conn_answered(c, op);
	return true;
}

/*
 * Is this the answer to one of ec_send()'s quiet requests?  They are answered
 * only when the token did not match, which is of no interest any more.
 */
static bool
conn_quiet_answer(Conn *c, const EcReply *reply)
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
conn_read(Conn *c, EcOp *ops)
{
	while (c->recv_op >= 0)
	{
		char	   *dst;
		size_t		room;
		ssize_t		n;

		if (c->value_missing > 0 && c->in_end > c->in_start)
		{
			size_t		take = Min(c->value_missing, c->in_end - c->in_start);

			memcpy(c->value, ec_conn_in(c) + c->in_start, take);
			c->in_start += take;
			c->value += take;
			c->value_missing -= take;
			if (c->value_missing > 0)
				continue;
		}
		else if (c->value_missing == 0 && c->in_end > c->in_start && c->value == NULL)
		{
			EcReply		reply;

			ec_wire_parse(ec_conn_in(c) + c->in_start, c->in_end - c->in_start, &reply);
			if (reply.kind == EC_REPLY_MALFORMED)
			{
				ec_conn_fail(c, false, "an answer that is not memcached's");
				return false;
			}
			if (reply.kind != EC_REPLY_INCOMPLETE)
			{
				c->in_start += reply.line_len;
				if (!conn_quiet_answer(c, &reply) && !conn_answer(c, ops, &reply))
					return false;
				continue;
			}
		}

		if (c->value != NULL && c->value_missing == 0)
		{
			if (c->value[-2] != '\r' || c->value[-1] != '\n')
			{
				ec_conn_fail(c, false, "a value without an end");
				return false;
			}
			c->value = NULL;
			ops[c->recv_op].result = EC_DONE;
			conn_answered(c, &ops[c->recv_op]);
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
				memmove(ec_conn_in(c), ec_conn_in(c) + c->in_start, c->in_end - c->in_start);
				c->in_end -= c->in_start;
				c->in_start = 0;
			}
			dst = ec_conn_in(c) + c->in_end;
			room = EC_IN_SIZE - c->in_end;
		}
		n = ec_conn_recv(c, dst, room);
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
		ec_conn_fail(c, false, "more answers than requests");
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
ec_conn_step(Conn *c, EcOp *ops, bool look, bool linger)
{
	bool		ok;

	if (c->state != CONN_READY)
	{
		if (!ec_conn_establish(c))
			return false;
		if (c->state != CONN_READY)
			return true;
	}
	if (!ec_conn_write(c, ops))
		return false;
	if (!look)
		return true;
	c->linger = linger && c->tls == NULL && !ec_conn_wants_write(c);
	pgstat_report_wait_start(PG_WAIT_EXTENSION);
	ok = conn_read(c, ops);
	pgstat_report_wait_end();
	return ok;
}

/*
 * Is the connection open, does it owe us no answer, and has the server not closed
 * it, as far as we can tell?
 */
bool
ec_conn_is_idle(const Conn *c)
{
	char		byte;

	return c->state == CONN_READY && !c->busy && c->opaque_quiet == c->opaque_send &&
		recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
		(errno == EAGAIN || errno == EWOULDBLOCK);
}

/* Ready for an exchange on this connection, which is opened if need be, or opened anew. */
void
ec_conn_begin(Conn *c, int server)
{
	if (c->state != CONN_CLOSED && !ec_conn_is_ready(c))
		ec_conn_close(c);
	c->server = server;
	c->suspect = c->state == CONN_READY;
	c->retried = c->loud = c->failed = c->timed_out = false;
	c->progress = 0;
	conn_reset(c);
	if (c->state == CONN_CLOSED)
		(void) ec_conn_open(c, server);
	c->busy = true;
}

/* Nothing sent, nothing received. */
static void
conn_reset(Conn *c)
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
ec_conn_retry(Conn *c)
{
	ec_conn_close(c);
	if (!c->suspect || c->retried)
		return false;
	c->retried = c->loud = true;
	c->failed = false;
	conn_reset(c);
	c->busy = true;
	c->send_op = c->recv_op;
	return ec_conn_open(c, c->server);
}

/* The exchange is over: report a failure, after which the server is DOWN. */
bool
ec_conn_end(Conn *c)
{
	if (!c->failed)
	{
		c->busy = false;
		return true;
	}
	ec_conn_close(c);
	strlcpy(ec_last_failure, c->reason, sizeof(ec_last_failure));
	ec_last_failure_timed_out = c->timed_out;
	ec_server_down(ec_topology.generation, c->server, c->reason);
	return false;
}
