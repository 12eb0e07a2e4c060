/*-------------------------------------------------------------------------
 *
 * answer.c
 *	  What an answer means for the request that it is to.
 *
 * Invariant: a request gets a result only from an answer that memcached gives to requests of
 * its kind, with all that was asked for.  Whatever else comes is EC_ANSWER_WRONG, and the
 * connection is given up: what follows on it could belong to anything.
 *
 * Whether the answer is to this request is for connection.c to see, by its opaque.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "net/answer.h"

/* So much of what a server says is repeated. */
#define SAID_MAX	100

#define KIND(kind)	(1 << (kind))

/* Requests that change no value; those answered by one; those that set one whatever is there. */
#define READS \
	(KIND(EC_REQUEST_GET) | KIND(EC_REQUEST_LOOK) | KIND(EC_REQUEST_INSPECT) | \
	 KIND(EC_REQUEST_TOUCH))
#define ARITHMETIC	(KIND(EC_REQUEST_INCREMENT) | KIND(EC_REQUEST_DECREMENT))
#define VALUED		(KIND(EC_REQUEST_GET) | KIND(EC_REQUEST_INSPECT) | ARITHMETIC)
#define SETS		(KIND(EC_REQUEST_MARK) | KIND(EC_REQUEST_SET))
#define CONDITIONAL	(KIND(EC_REQUEST_STORE) | KIND(EC_REQUEST_REMOVE))
#define COMMANDS	(KIND(EC_REQUEST_COMMAND) | KIND(EC_REQUEST_FLUSH))

static bool says(const EcReply *reply, const char *text);
static bool is_unauthenticated(const EcReply *reply);
static bool may_follow(const EcRequest *req, const EcReply *reply);
static EcAnswer make_room(EcRequest *req, const EcReply *reply, EcFailure *failure);
static void refuse(EcRequest *req, const EcReply *reply);
static EcAnswer take_line(EcRequest *req, const EcReply *reply, EcFailure *failure);
static EcAnswer wrong(const EcReply *reply, EcFailure *failure);

/* Is this the text of the answer? */
static bool
says(const EcReply *reply, const char *text)
{
	return reply->text_len == strlen(text) && memcmp(reply->text, text, strlen(text)) == 0;
}

/* Is this what a server says that wants to be told who we are first? */
static bool
is_unauthenticated(const EcReply *reply)
{
	return reply->kind == EC_REPLY_CLIENT_ERROR && says(reply, "unauthenticated");
}

/* Is the answer one that a request of this kind can have, with all that was asked for? */
static bool
may_follow(const EcRequest *req, const EcReply *reply)
{
	int			kind = KIND(req->kind);

	switch (reply->kind)
	{
		case EC_REPLY_HD:
			return (kind & VALUED) == 0 && (kind != KIND(EC_REQUEST_LOOK) || reply->has_size) &&
				((kind & SETS) == 0 || reply->has_cas || req->quiet);
		case EC_REPLY_VA:
			return (kind & VALUED) != 0 && reply->has_cas &&
				(kind != KIND(EC_REQUEST_INSPECT) || reply->has_flags);
		case EC_REPLY_EN:
			return (kind & READS) != 0;
		case EC_REPLY_NF:
			return (kind & SETS) == 0;
		case EC_REPLY_EX:
			return (kind & CONDITIONAL) != 0;
		case EC_REPLY_NS:
			return req->value != NULL;
		case EC_REPLY_SERVER_ERROR:
			return req->value != NULL || (kind & ARITHMETIC) != 0;
		case EC_REPLY_CLIENT_ERROR:
			/* requests are well-formed, so only arithmetic can be the client's error */
			return (kind & ARITHMETIC) != 0;
		default:
			return false;
	}
}

/* A value follows: have room for it, with the line end behind it.  Never throws. */
static EcAnswer
make_room(EcRequest *req, const EcReply *reply, EcFailure *failure)
{
	req->token = reply->cas;
	req->client_flags = reply->client_flags;
	req->lifetime = reply->has_ttl ? reply->ttl : -1;
	req->found_len = reply->value_len;
	req->found = palloc_extended(VARHDRSZ + reply->value_len + 2,
								 MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
	if (req->found == NULL)
	{
		ec_failure_set(failure, ERRCODE_OUT_OF_MEMORY, "out of memory for a value of %zu bytes",
					   reply->value_len);
		failure->ours = true;
		return EC_ANSWER_WRONG;
	}
	SET_VARSIZE(req->found, VARHDRSZ + reply->value_len);
	return EC_ANSWER_VALUE;
}

/* Keep what the server says when it does not carry out a request. */
static void
refuse(EcRequest *req, const EcReply *reply)
{
	EcFailure	failure;
	int			len = (int) Min(reply->text_len, SAID_MAX);

	if ((KIND(req->kind) & COMMANDS) != 0)
		ec_failure_set(&failure, reply->kind == EC_REPLY_BUSY ||
					   says(reply, "locked try again later") ? ERRCODE_OBJECT_IN_USE
					   : ERRCODE_FEATURE_NOT_SUPPORTED,
					   "the server refuses \"%.*s\"%s%.*s", req->keylen - 2, req->key,
					   len > 0 ? ": " : "", len, reply->text ? reply->text : "");
	else
		ec_failure_set(&failure, says(reply, "object too large for cache")
					   ? ERRCODE_PROGRAM_LIMIT_EXCEEDED : ERRCODE_OUT_OF_MEMORY,
					   "the server said \"%.*s\"", len, reply->text);
	req->failure = ec_failure_copy(&failure);
}

/* The answer is nothing that can be worked with: say so, in the server's words or in ours. */
static EcAnswer
wrong(const EcReply *reply, EcFailure *failure)
{
	if (is_unauthenticated(reply))
		ec_failure_set(failure, ERRCODE_CONNECTION_FAILURE,
					   "the server asks for a user name and password (echocache.username)");
	else if (reply->kind == EC_REPLY_CLIENT_ERROR || reply->kind == EC_REPLY_SERVER_ERROR)
		ec_failure_set(failure, ERRCODE_CONNECTION_FAILURE, "the server said \"%.*s\"",
					   (int) Min(reply->text_len, SAID_MAX), reply->text);
	else if (reply->kind == EC_REPLY_ERROR && reply->text_len == 0)
		ec_failure_set(failure, ERRCODE_CONNECTION_FAILURE,
					   "the server does not know memcached's meta commands: it is a memcached "
					   "before 1.6.9, or a proxy that does not pass them on; name the memcached "
					   "itself in echocache.hosts");
	else
		ec_failure_set(failure, ERRCODE_CONNECTION_FAILURE, "an answer that is not understood");
	return EC_ANSWER_WRONG;
}

/* A line of the answer to a command.  Throws what the request's callback throws. */
static EcAnswer
take_line(EcRequest *req, const EcReply *reply, EcFailure *failure)
{
	switch (reply->kind)
	{
		case EC_REPLY_STAT:
		case EC_REPLY_DUMP:
			if (req->callback && !req->callback(reply, req->arg))
				req->callback = NULL;
			return EC_ANSWER_MORE;
		case EC_REPLY_OK:
			if (req->kind == EC_REQUEST_COMMAND)
				return EC_ANSWER_MORE;	/* a newer memcached's, before a dump */
			req->result = EC_DONE;
			return EC_ANSWER_COMPLETE;
		case EC_REPLY_END:
		case EC_REPLY_MN:
			if (req->kind == EC_REQUEST_FLUSH)
				return wrong(reply, failure);
			req->result = EC_DONE;
			return EC_ANSWER_COMPLETE;
		case EC_REPLY_ERROR:
		case EC_REPLY_BUSY:
		case EC_REPLY_CLIENT_ERROR:
		case EC_REPLY_SERVER_ERROR:
			if (is_unauthenticated(reply))
				return wrong(reply, failure);
			refuse(req, reply);
			req->result = EC_REFUSED;
			return EC_ANSWER_COMPLETE;
		default:
			return wrong(reply, failure);
	}
}

/*
 * Does the server say that it has no connection for us?  It serves those who have one, so
 * *failure is ours.  Never throws.
 */
bool
ec_answer_is_no_room(const EcReply *reply, EcFailure *failure)
{
	if (reply->kind != EC_REPLY_ERROR || !says(reply, "Too many open connections"))
		return false;
	ec_failure_set(failure, ERRCODE_INSUFFICIENT_RESOURCES, "the server said \"ERROR %.*s\"",
				   (int) Min(reply->text_len, SAID_MAX), reply->text);
	failure->ours = failure->no_room = true;
	return true;
}

/*
 * Take an answer to this request, and say what it means.  Throws only what the callback of a
 * command throws.
 */
EcAnswer
ec_answer_take(EcRequest *req, const EcReply *reply, EcFailure *failure)
{
	if (ec_answer_is_no_room(reply, failure))
		return EC_ANSWER_WRONG;
	if ((KIND(req->kind) & COMMANDS) != 0)
		return take_line(req, reply, failure);
	if (!may_follow(req, reply))
		return wrong(reply, failure);
	/* an append to a memcached before 1.6.13 tells 0 */
	if (reply->has_cas && reply->cas == 0 && reply->kind != EC_REPLY_NS &&
		req->mode != 'A' && req->mode != 'P')
	{
		ec_failure_set(failure, ERRCODE_CONNECTION_FAILURE,
					   "the server does not number its items: start memcached without -C "
					   "(--disable-cas)");
		return EC_ANSWER_WRONG;
	}
	switch (reply->kind)
	{
		case EC_REPLY_VA:
			return make_room(req, reply, failure);
		case EC_REPLY_HD:
			if (reply->has_cas)
				req->token = reply->cas;
			req->found_len = reply->has_size ? reply->size : 0;
			req->result = EC_DONE;
			break;
		case EC_REPLY_EX:
			req->result = EC_MISMATCH;
			break;
		case EC_REPLY_NS:
			req->result = req->mode != 0 ? EC_MISMATCH : EC_REFUSED;
			break;
		case EC_REPLY_SERVER_ERROR:
			refuse(req, reply);
			req->result = EC_REFUSED;
			break;
		case EC_REPLY_CLIENT_ERROR:
			refuse(req, reply);
			req->result = EC_MISMATCH;
			break;
		default:
			req->result = EC_ABSENT;	/* EN, NF */
			break;
	}
	return EC_ANSWER_COMPLETE;
}

/*
 * Take the answer to "version".  A server that does not tell, or tells what is not a version of
 * memcached's, is taken for a new one.  false: it is too old, or this is no answer; *failure
 * says so.  Never throws.
 */
bool
ec_answer_take_version(const EcReply *reply, int *version, EcFailure *failure)
{
	if (ec_answer_is_no_room(reply, failure))
		return false;
	if (reply->kind != EC_REPLY_VERSION && reply->kind != EC_REPLY_ERROR)
	{
		(void) wrong(reply, failure);
		return false;
	}
	*version = reply->kind == EC_REPLY_VERSION ? ec_reply_version(reply->text, reply->text_len)
		: EC_VERSION_UNKNOWN;
	if (*version >= EC_VERSION_OLDEST)
		return true;
	ec_failure_set(failure, ERRCODE_CONNECTION_FAILURE,
				   "memcached %.*s is too old: echocache needs 1.6.9 or newer",
				   (int) Min(reply->text_len, SAID_MAX), reply->text);
	return false;
}
