/*-------------------------------------------------------------------------
 *
 * request.h
 *	  A request to a memcached server, and what came of it.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_NET_REQUEST_H
#define ECHOCACHE_NET_REQUEST_H

#include "net/failure.h"
#include "protocol/reply.h"
#include "waitevent.h"

typedef enum EcRequestKind
{
	EC_REQUEST_GET,				/* value and token; EC_ABSENT: there is none */
	EC_REQUEST_LOOK,			/* found_len says how long the value is; changes nothing */
	EC_REQUEST_INSPECT,			/* value, token, client flags and lifetime; changes nothing */
	EC_REQUEST_TOUCH,			/* renew the TTL; found_len says how long the value is */
	EC_REQUEST_MARK,			/* set the marker, whatever is there; token is learned */
	EC_REQUEST_STORE,			/* value, only over our marker (token) */
	EC_REQUEST_SET,				/* value, whatever is there: never for a document's key */
	EC_REQUEST_REMOVE,			/* only our marker (token) */
	EC_REQUEST_DELETE,			/* whatever is there */
	EC_REQUEST_INCREMENT,		/* by the amount in token; found is the new number */
	EC_REQUEST_DECREMENT,
	EC_REQUEST_COMMAND,			/* see ec_exchange_command() */
	EC_REQUEST_FLUSH			/* see ec_exchange_flush() */
} EcRequestKind;

/* Called for each line of a command's answer; false: the caller wants no more of them. */
typedef bool (*EcLineCallback) (const EcReply *line, void *arg);

typedef enum EcResult
{
	EC_PENDING,					/* not asked yet */
	EC_DONE,
	EC_ABSENT,					/* no such key */
	EC_MISMATCH,				/* there, but not with our token, or not what the mode or an
								 * increment wants */
	EC_REFUSED,					/* the server said no: too large, out of memory */
	EC_FAILED					/* not confirmed: it may or may not have happened, or yet happen */
} EcResult;

typedef struct EcRequest
{
	EcRequestKind kind;
	int			server;
	bool		skip;			/* leave this one out, and its result as it is */
	bool		unasked;		/* private: false, but within ec_exchange_pieces() */
	bool		quiet;			/* MARK: the token is not wanted */
	const char *key;			/* COMMAND, FLUSH: the whole request */
	int			keylen;
	const char *value;
	size_t		valuelen;
	char		mode;			/* SET: 0, or one of ec_wire_set()'s */
	int64		ttl;			/* seconds; 0: none; -1 for GET: do not touch */
	uint64		token;			/* in for STORE and REMOVE, an amount for INCREMENT and DECREMENT,
								 * out for GET, INSPECT and MARK */
	uint64		connection;		/* out: on which it was answered; in for STORE and REMOVE: on which
								 * the token was learned, no other may carry it; 0: any may */
	EcResult	result;
	const EcFailure *failure;	/* of EC_REFUSED and EC_FAILED; NULL: not asked at all */
	struct varlena *found;		/* GET, INSPECT: the value, palloc'd in the caller's context */
	size_t		found_len;
	uint32		client_flags;	/* INSPECT */
	int64		lifetime;		/* INSPECT: seconds left; -1: no end, or not said */
	EcLineCallback callback;	/* COMMAND */
	void	   *arg;
	uint64		limit;			/* COMMAND: so many bytes of answer, and no more; 0: see below */
	int			next;			/* private: the next one on the same connection, -1: none */
} EcRequest;

/*
 * What one exchange takes in from one server at most, in bytes: values, and the lines of a
 * command's answer, unless the request has a limit of its own.  This bounds what a server can
 * make a backend keep in memory.
 */
#define EC_ANSWERS_MAX		(UINT64CONST(1024) * 1024 * 1024)
#define EC_COMMAND_MAX		(UINT64CONST(16) * 1024 * 1024)

/* Markers in one exchange of many; each exchange has a deadline of its own. */
#define EC_MARK_BATCH		1000

/* Is the request for one connection only, that on which its token was learned? */
static inline bool
ec_request_is_bound(const EcRequest *req)
{
	return (req->kind == EC_REQUEST_STORE || req->kind == EC_REQUEST_REMOVE) &&
		req->connection != 0;
}

/* Does it no harm if the request is carried out once more, at any later time? */
static inline bool
ec_request_may_be_late(const EcRequest *req)
{
	switch (req->kind)
	{
		case EC_REQUEST_TOUCH:
		case EC_REQUEST_SET:
		case EC_REQUEST_INCREMENT:
		case EC_REQUEST_DECREMENT:
		case EC_REQUEST_FLUSH:
			return false;
		default:
			return true;
	}
}

extern EcWaitEvent ec_request_wait(const EcRequest *req);
extern const char *ec_request_reason(const EcRequest *req);
extern int64 ec_request_ttl(int64 seconds);
extern void ec_request_mark(EcRequest *req, int server, const char *key, int keylen);
extern void ec_request_init(EcRequest *req, EcRequestKind kind, int server, const char *key,
							int keylen);

#endif							/* ECHOCACHE_NET_REQUEST_H */
