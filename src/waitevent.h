/*-------------------------------------------------------------------------
 *
 * waitevent.h
 *	  What our waits are called in pg_stat_activity.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_WAITEVENT_H
#define ECHOCACHE_WAITEVENT_H

/* What a process of ours waits for; the order is that of the names in waitevent.c. */
typedef enum EcWaitEvent
{
	EC_WAIT_CONNECT,			/* to be connected to a server, and told who we are */
	EC_WAIT_HANDSHAKE,			/* the handshake of TLS */
	EC_WAIT_READ,				/* a value, or whether there is one */
	EC_WAIT_MARKER,				/* a marker is to be confirmed */
	EC_WAIT_STORE,				/* a value is to be stored, changed or removed */
	EC_WAIT_COMMAND,			/* a list of keys, what a server says of itself, a flush */
	EC_WAIT_CRAWLER,			/* a server's crawler is at work for somebody else */
	EC_WAIT_ROOM,				/* a server has no connection for this process */
	EC_WAIT_FILL,				/* somebody else makes the document */
	EC_WAIT_KEY,				/* somebody else is at a document, or at all of a name */
	EC_WAIT_LEASE,				/* a commit right after a start: whose are the keys? */
	EC_WAIT_RECOVERY,			/* the worker: until a server that is not UP is tried again */
	EC_WAIT_WORKER,				/* the worker, with nothing to do */
	EC_WAIT_BUILDER,			/* the builder, likewise */
	EC_WAIT_AUDITOR,			/* the auditor, until it looks again at what seems wrong */
	EC_WAIT_LAUNCHER,			/* the launcher, likewise */
	EC_WAIT_VACATE,				/* a command needs a database: its worker is to leave */
	EC_NWAITEVENTS
} EcWaitEvent;

extern void ec_waitevent_init(void);
extern uint32 ec_waitevent_of(EcWaitEvent event);

#endif							/* ECHOCACHE_WAITEVENT_H */
