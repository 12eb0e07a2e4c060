/*-------------------------------------------------------------------------
 *
 * request.c
 *	  A request to a memcached server, and what came of it.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "guc.h"
#include "net/request.h"
#include "protocol/wire.h"

/* Say why a request has failed. */
void
ec_failure_set(EcFailure *failure, int sqlstate, bool timed_out, const char *fmt,...)
{
	va_list		args;

	va_start(args, fmt);
	vsnprintf(failure->reason, sizeof(failure->reason), fmt, args);
	va_end(args);
	failure->sqlstate = sqlstate;
	failure->timed_out = timed_out;
}

/*
 * A copy that lasts as long as the current memory context, for the requests that it is
 * about.  Never throws: without memory it says so.
 */
const EcFailure *
ec_failure_copy(const EcFailure *failure)
{
	static const EcFailure no_memory = {ERRCODE_OUT_OF_MEMORY, false, "out of memory"};
	EcFailure  *copy = palloc_extended(sizeof(EcFailure), MCXT_ALLOC_NO_OOM);

	if (copy == NULL)
		return &no_memory;
	*copy = *failure;
	return copy;
}

/* Why it was refused or not answered, as a phrase. */
const char *
ec_request_reason(const EcRequest *req)
{
	return req->failure ? req->failure->reason : "the server is known to be down";
}

/* A lifetime as memcached wants it: more than 30 days is an absolute time. */
int64
ec_request_ttl(int64 seconds)
{
	if (seconds > 30 * 24 * 3600)
		return (int64) time(NULL) + seconds;
	return seconds;
}

/* A request to set the marker on this key. */
void
ec_request_mark(EcRequest *req, int server, const char *key, int keylen)
{
	memset(req, 0, sizeof(EcRequest));
	req->kind = EC_REQUEST_MARK;
	req->server = server;
	req->key = key;
	req->keylen = keylen;
	req->value = EC_MARKER;
	req->valuelen = EC_MARKER_LEN;
	req->ttl = ec_guc_marker_ttl;
}

/* A request without a value. */
void
ec_request_init(EcRequest *req, EcRequestKind kind, int server, const char *key, int keylen)
{
	memset(req, 0, sizeof(EcRequest));
	req->kind = kind;
	req->server = server;
	req->key = key;
	req->keylen = keylen;
	req->ttl = -1;
}
