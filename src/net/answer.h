/*-------------------------------------------------------------------------
 *
 * answer.h
 *	  What an answer means for the request that it is to.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_NET_ANSWER_H
#define ECHOCACHE_NET_ANSWER_H

#include "net/failure.h"
#include "net/request.h"

typedef enum EcAnswer
{
	EC_ANSWER_COMPLETE,			/* the request has its result */
	EC_ANSWER_VALUE,			/* a value follows, for which found has room */
	EC_ANSWER_MORE,				/* a line of several */
	EC_ANSWER_WRONG				/* nothing that may follow such a request; failure says why */
} EcAnswer;

/* The oldest memcached that there is a way to use. */
#define EC_VERSION_OLDEST	EC_VERSION(1, 6, 9)

extern bool ec_answer_is_no_room(const EcReply *reply, EcFailure *failure);
extern EcAnswer ec_answer_take(EcRequest *req, const EcReply *reply, EcFailure *failure);
extern bool ec_answer_take_version(const EcReply *reply, int *version, EcFailure *failure);

#endif							/* ECHOCACHE_NET_ANSWER_H */
