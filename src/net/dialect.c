/*-------------------------------------------------------------------------
 *
 * dialect.c
 *	  How a request is said to the memcached at the other end, by its version.
 *
 * Reads, deletions and arithmetic are said in one way to all that there is a way to use, and
 * how their answers differ is for reply.c.  What has a value is not: a line that a memcached
 * does not understand makes it take the value for commands.  So nothing that has one is sent
 * before the version is known, on the very connection (connection.c).
 *
 *	before		the memcached
 *	1.6.10		wants the length of a value as a flag, and does not tell the token of what it
 *				has stored: it is asked for it right behind
 *	1.6.13		deletes nothing by a token: an empty value that has expired is stored instead
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "net/dialect.h"
#include "protocol/reply.h"
#include "protocol/wire.h"

#define VERSION_TELLS		EC_VERSION(1, 6, 10)
#define VERSION_REMOVES		EC_VERSION(1, 6, 13)

/*
 * Is all that there will be of an answer to this request, if it is carried out, the answer to
 * a later one?  The server works in order, and tells what goes wrong.
 */
bool
ec_dialect_is_quiet(const EcExchange *ex, const EcRequest *req)
{
	return req->quiet && req->next >= 0 && ex->ask != EC_ASK_LOUD;
}

/*
 * Does a value follow the line of this request?  Its line depends on the server's version then.
 * A removal by a token has an empty one: memcached before 1.6.13 deletes nothing by a token.
 */
bool
ec_dialect_has_value(const EcConnection *c, const EcRequest *req)
{
	switch (req->kind)
	{
		case EC_REQUEST_MARK:
		case EC_REQUEST_SET:
		case EC_REQUEST_STORE:
			return true;
		case EC_REQUEST_REMOVE:
			return c->version < VERSION_REMOVES;
		default:
			return false;
	}
}

/*
 * Is the server one that does not tell the token of what it stores, and is to be asked for it by
 * a request of its own?  That comes right behind on the same connection.  By then the item may
 * be another one, whose token is as good: the caller has the key's lock, so whoever has set a
 * marker in between has timed out, does not know the token, and has ended its change before.
 */
bool
ec_dialect_is_untold(const EcConnection *c, const EcRequest *req)
{
	return c->version < VERSION_TELLS && !req->quiet && c->exchange.ask != EC_ASK_SILENT &&
		(req->kind == EC_REQUEST_MARK || req->kind == EC_REQUEST_SET);
}

/* Write the line of a request to dst, which holds EC_REQUEST_MAX bytes; returns its length. */
size_t
ec_dialect_line(const EcConnection *c, const EcRequest *req, char *dst, uint32 opaque)
{
	const EcExchange *ex = &c->exchange;
	bool		silent = ex->ask == EC_ASK_SILENT;
	bool		old = c->version < VERSION_TELLS;

	switch (req->kind)
	{
		case EC_REQUEST_COMMAND:
		case EC_REQUEST_FLUSH:
			Assert(req->keylen <= EC_REQUEST_MAX);
			memcpy(dst, req->key, req->keylen);
			return req->keylen;
		case EC_REQUEST_GET:
			return ec_wire_get(dst, req->key, req->keylen, req->ttl, opaque);
		case EC_REQUEST_LOOK:
			return ec_wire_look(dst, req->key, req->keylen, opaque);
		case EC_REQUEST_INSPECT:
			return ec_wire_inspect(dst, req->key, req->keylen, opaque);
		case EC_REQUEST_TOUCH:
			return ec_wire_touch(dst, req->key, req->keylen, req->ttl, opaque);
		case EC_REQUEST_MARK:
		case EC_REQUEST_SET:
		case EC_REQUEST_STORE:
			Assert(req->kind != EC_REQUEST_STORE || req->token != 0);
			return ec_wire_set(dst, req->key, req->keylen, req->valuelen, req->mode,
							   req->kind == EC_REQUEST_STORE ? req->token : 0, req->ttl,
							   silent || ec_dialect_is_quiet(ex, req) ||
							   ec_dialect_is_untold(c, req), old, opaque);
		case EC_REQUEST_REMOVE:
			Assert(req->token != 0);
			if (ec_dialect_has_value(c, req))
				return ec_wire_set(dst, req->key, req->keylen, 0, 0, req->token, -1, silent, old,
								   opaque);
			return ec_wire_delete(dst, req->key, req->keylen, req->token, silent, opaque);
		case EC_REQUEST_DELETE:
			return ec_wire_delete(dst, req->key, req->keylen, 0, silent, opaque);
		case EC_REQUEST_INCREMENT:
		case EC_REQUEST_DECREMENT:
			return ec_wire_arithmetic(dst, req->key, req->keylen,
									  req->kind == EC_REQUEST_DECREMENT, req->token, opaque);
	}
	return 0;
}
