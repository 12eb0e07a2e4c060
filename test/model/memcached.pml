/*-------------------------------------------------------------------------
 *
 * memcached.pml
 *	  One key of a memcached server, for the models that need just one.
 *
 * A document is the set of the transactions that it shows, a bit for each: "older
 * than commit t" is "bit t is missing", and a lost update is one too.  So a document
 * is made of as many rows as there are writers, each of which changes its own.
 *
 * Every write gives the item a new token, so a store by CAS can succeed only over
 * the marker whose token it carries, and only while that marker is there.  Tokens
 * of markers are numbered by who set them; 0 is one that nobody will ever present
 * (a document's, or a marker of somebody whom the model does not show).
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#define ABSENT		0
#define MARKER		1
#define DOC			2
#define NOBODY		0

#define B(t)		(1 << (t))

byte kind, value, token;

/*
 * A store that is under way: sent and not awaited (step C), or one that timed out.
 * It may be applied at any later time, or never.  One is enough: a store whose
 * token is not the item's any more is dead, and only one of the others is left.
 */
bit late;
byte late_value;

/* Whatever changes the item ends the stores that are under way. */
inline put(k, v, t)
{
	kind = k;
	value = v;
	token = t;
#ifndef STORE_WITHOUT_CAS
	late = 0;
	late_value = 0;
#endif
	check()
}

/* ec_wire_set() with a token.  Answered: it has been done, or the token is another's. */
#ifdef STORE_WITHOUT_CAS
#define MATCHES(t)	true
#else
#define MATCHES(t)	(token == (t))
#endif
inline store_now(v, t)
{
	if
	:: MATCHES(t) -> put(DOC, v, NOBODY)
	:: else
	fi
}

/* The same, sent and not awaited, or not answered in time. */
inline store_late(v, t)
{
	if
	:: MATCHES(t) -> late = 1; late_value = v
	:: else
	fi
}

/*
 * What may happen to the item at any time.  A marker of nobody's stands for every
 * marker that is applied late, twice or by echocache_invalidate(); that the item is
 * gone, for eviction, expiry, a flush, a restart, a late delete.
 */
#define ITEM_EVENTS \
	:: atomic { kind != ABSENT -> put(ABSENT, 0, NOBODY) } \
	:: atomic { !(kind == MARKER && token == NOBODY) -> put(MARKER, 0, NOBODY) } \
	:: atomic { late -> d_step { late = 0; put(DOC, late_value, NOBODY); late_value = 0 } }
