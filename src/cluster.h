/*-------------------------------------------------------------------------
 *
 * cluster.h
 *	  The memcached servers: placement, connections, exchanges with a deadline.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_CLUSTER_H
#define ECHOCACHE_CLUSTER_H

#include "topology.h"
#include "wire.h"

typedef enum EcRequestKind
{
	EC_REQUEST_GET,					/* value and token; absent: EC_ABSENT */
	EC_REQUEST_LOOK,					/* found_len says how long the value is; changes nothing */
	EC_REQUEST_INSPECT,				/* value, token and client flags; changes nothing */
	EC_REQUEST_TOUCH,				/* renew the TTL; found_len says how long the value is */
	EC_REQUEST_MARK,					/* set the marker, whatever is there; token is learned */
	EC_REQUEST_STORE,				/* value, only over our marker (token) */
	EC_REQUEST_SET,					/* value, whatever is there: never for a document's key */
	EC_REQUEST_REMOVE,				/* only our marker (token) */
	EC_REQUEST_DELETE,				/* whatever is there */
	EC_REQUEST_INCREMENT,			/* by the amount in token; found is the new number */
	EC_REQUEST_DECREMENT,
	EC_REQUEST_COMMAND,				/* see ec_exchange_command() */
	EC_REQUEST_FLUSH					/* see ec_exchange_flush() */
} EcRequestKind;

/* Called for each line of a command's answer; false: no more of them, please. */
typedef bool (*EcLineCallback) (const EcReply *line, void *arg);

typedef enum EcResult
{
	EC_PENDING,					/* not asked yet */
	EC_DONE,
	EC_ABSENT,					/* no such key */
	EC_MISMATCH,				/* there, but not with our token; or not what mode, increment want */
	EC_REFUSED,					/* the server said no: too large, out of memory */
	EC_FAILED					/* not confirmed: it may or may not have happened, or yet happen */
} EcResult;

typedef struct EcRequest
{
	EcRequestKind	kind;
	int			server;
	bool		skip;			/* leave this one out, and its result as it is */
	bool		quiet;			/* MARK: the token is not wanted */
	bool		once;			/* private: see ec_exchange_once() */
	const char *key;
	int			keylen;
	const char *value;
	size_t		valuelen;
	char		mode;			/* SET: 0, or one of ec_wire_set()'s */
	int64		ttl;			/* seconds, 0: none, -1 for GET: do not touch */
	uint64		token;			/* in for STORE and REMOVE, out for GET, INSPECT and MARK; an amount */
	EcResult	result;
	struct varlena *found;		/* GET, INSPECT: the value, palloc'd in the caller's context */
	size_t		found_len;
	uint32		client_flags;	/* INSPECT */
	EcLineCallback callback;	/* COMMAND */
	void	   *arg;
	int			next;			/* private: the next one on the same connection */
} EcRequest;

/* Markers in one exchange of many; each exchange has a deadline of its own. */
#define EC_MARK_BATCH		1000

/* A flag of ec_exchange */
#define EC_RENEW_DEADLINE	0x01	/* with every piece that arrives; one server only */

/* An absolute time, in microseconds of the monotonic clock. */
typedef int64 EcDeadline;

/*
 * Enter the topology (shmem.h) and have its servers and placement at hand.
 * false: the cache is disabled or not published yet; nothing was entered.
 */
extern bool ec_placement_enter(void);

/* Enter it in any case; false: it is one without a cache. */
extern bool ec_placement_enter_always(void);
extern int	ec_placement_size(void);
extern uint64 ec_placement_generation(void);
extern const char *ec_placement_prefix(void);
extern int	ec_placement_of(const char *key, int keylen);
extern const char *ec_placement_name(int server);
extern bool ec_placement_fits(int server, int keylen, size_t valuelen);

/* A request to set the marker on this key. */
extern void ec_request_mark(EcRequest *req, int server, const char *key, int keylen);

extern EcDeadline ec_deadline_in(int ms);
extern int	ec_deadline_left(EcDeadline deadline);

extern bool ec_exchange(EcRequest *reqs, int nreqs, EcDeadline deadline, int flags);
extern bool ec_exchange_meanwhile(EcRequest *reqs, int nreqs, EcDeadline deadline, int flags,
								  void (*meanwhile) (void *arg), void *arg);
extern bool ec_exchange_marks(EcRequest *reqs, int nreqs, EcDeadline deadline,
					void (*meanwhile) (void *arg), void *arg);
extern void ec_exchange_once(EcRequest *req);
extern void ec_exchange_send(EcRequest *reqs, int nreqs, EcDeadline deadline);
extern EcResult ec_exchange_command(int server, const char *request, size_t len,
							 EcLineCallback callback, void *arg);
extern EcResult ec_exchange_flush(int server);
extern const char *ec_exchange_last_failure(bool *timed_out);

extern int	ec_exchange_disconnect(void);
extern void ec_exchange_at_xact_end(void);

/* TTL as memcached wants it: over 30 days as an absolute time. */
extern int64 ec_request_ttl(int64 seconds);

#endif							/* ECHOCACHE_CLUSTER_H */
