/*-------------------------------------------------------------------------
 *
 * request.c
 *	  A request to a memcached server, and what came of it.
 *
 * A request carries all that is to be known of it: what is asked, of whom, the result, and
 * why there is none.  Key and value are not copied; they must stay where they are for as
 * long as the exchange lasts.
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

/* What a process waits for that has sent this request. */
EcWaitEvent
ec_request_wait(const EcRequest *req)
{
	switch (req->kind)
	{
		case EC_REQUEST_GET:
		case EC_REQUEST_LOOK:
		case EC_REQUEST_INSPECT:
		case EC_REQUEST_TOUCH:
			return EC_WAIT_READ;
		case EC_REQUEST_MARK:
			return EC_WAIT_MARKER;
		case EC_REQUEST_STORE:
		case EC_REQUEST_SET:
		case EC_REQUEST_REMOVE:
		case EC_REQUEST_DELETE:
		case EC_REQUEST_INCREMENT:
		case EC_REQUEST_DECREMENT:
			return EC_WAIT_STORE;
		case EC_REQUEST_COMMAND:
		case EC_REQUEST_FLUSH:
			return EC_WAIT_COMMAND;
	}
	return EC_WAIT_COMMAND;
}

/* Why the request was refused or not answered, as a phrase that lasts as long as it does. */
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

/* Make it a request to set the marker on this key. */
void
ec_request_mark(EcRequest *req, int server, const char *key, int keylen)
{
	ec_request_init(req, EC_REQUEST_MARK, server, key, keylen);
	req->value = EC_MARKER;
	req->valuelen = EC_MARKER_LEN;
	req->ttl = ec_guc_marker_ttl;
}

/* Make it a request of this kind, without a value, that renews no lifetime. */
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
