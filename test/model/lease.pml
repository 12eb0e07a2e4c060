/*-------------------------------------------------------------------------
 *
 * lease.pml
 *	  Who owns the keys: two clusters with one prefix on one memcached.
 *
 * The model of "Who owns the keys" in src/README.md: the lease's key, one document of that
 * prefix, and each cluster's worker.  Any item may vanish at any time (evicted, flushed,
 * memcached begun anew); any request may time out and be applied late, or never, also
 * after its cluster has ended; any process may stand still for as long as it likes.  How long
 * memcached keeps an item is not in the model: nothing relies on it.
 *
 * Time: a tick is half a lease, and all timers run down together.  An owner trusts its
 * lease for VALID ticks, a candidate has to see the item unchanged for WAIT ticks.
 *
 * CRASHES: a cluster may end and begin again at any time.  FAILURES: an exchange of some
 * backend's may fail, the lease is still held.  RELEASE: a cluster may be shut down.
 * STORES=c: there are fills and commits of cluster c.  READS=c: there are reads of
 * cluster c, and DOCUMENTS_OF=d: cluster d stores whatever it may.  PROMOTION: cluster 1 is a
 * promoted standby of cluster 0, which does not know; it may put its claim over a lease also when it
 * has had the lease before, which the code does not, since that may be one promoted later.
 * STANDBY: cluster 0 has a hot standby.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef VALID
#define VALID		2
#endif
#ifndef WAIT
#define WAIT		2
#endif
#define CLUSTERS	2
#ifdef STANDBY
#define READERS		3
#else
#define READERS		2
#endif
#define STANDBY_OF_0	2
#define NOBODY		3

/* The lease's key: what kind of item, and whose. */
#define ABSENT		0
#define CLAIM		1			/* somebody would like to have it */
#define PROMOTED	2			/* a claim of a promoted standby: it was put over a lease */
#define LEASE		3
#define FREE		4			/* its owner has been shut down */
byte kind, owner = NOBODY;
#ifdef STANDBY
bit ready;						/* of a lease: its owner has purged */
#endif
bit same[READERS];				/* it is still what the worker has seen */
byte late[CLUSTERS];			/* a request under way that has timed out: to make it what, */
bit late_add[CLUSTERS];			/* if there is none, */
bit late_same[CLUSTERS];		/* or if it is still the one that the sender had seen */

/* The document: whose it is, if it is one, and whose marker is there. */
byte doc = NOBODY, marker = NOBODY;

/* In each cluster's shared memory. */
bit up[READERS];				/* the state word says UP */
byte until[READERS];			/* lease_until: time left */
bit word[READERS];				/* it is still the word that the backend has seen */

/* The worker's own */
byte seen[READERS];				/* time left until the item has been unchanged for WAIT */
bit seen_any[READERS];
bit purge[CLUSTERS];			/* somebody else may have been here since */
bit has[CLUSTERS];				/* for the promise only: it has had the lease, and not lost it */

#ifdef NEVER_AT_ONCE
bit again[CLUSTERS];			/* begun again, and no time has passed since */
#endif

#ifdef WITHOUT_DEADLINE
#define SERVES(c)	up[c]
#else
#define SERVES(c)	(up[c] && until[c] > 0)
#endif

inline check()
{
	assert(!(SERVES(0) && SERVES(1)));
	assert(!(SERVES(0) && doc == 1));
	assert(!(SERVES(1) && doc == 0));
#ifdef STANDBY
	assert(!(SERVES(STANDBY_OF_0) && doc == 1))
#endif
}

inline put(k, o)
{
	kind = k;
	owner = o;
#ifdef STANDBY
	ready = 0;
#endif
	same[0] = 0;
	same[1] = 0;
#ifdef STANDBY
	same[STANDBY_OF_0] = 0;
#endif
	late_same[0] = 0;
	late_same[1] = 0
}

#ifdef WITHOUT_TOKEN
#define MATCHES(c)	true
#define LATE_MATCHES(c)	true
#else
#define MATCHES(c)	same[c]
#define LATE_MATCHES(c)	late_same[c]
#endif

#define FORGET(c)	late[c] = 0; late_add[c] = 0; late_same[c] = 0

/* Change the item by its token, to a claim or a lease of ours. */
inline cas(c, k)
{
	ok = 0;
	if
	:: MATCHES(c) -> put(k, c); same[c] = 1; ok = 1
	:: !MATCHES(c)
	:: FORGET(c); late[c] = k; late_same[c] = same[c]		/* no answer in time */
	fi
}

inline add(c, k)
{
	ok = 0;
	if
	:: kind == ABSENT -> put(k, c); same[c] = 1; ok = 1
	:: kind != ABSENT
	:: FORGET(c); late[c] = k; late_add[c] = 1
	fi
}

inline change(c, to)
{
	up[c] = to;
	word[c] = 0;
	check()
}

/* It is somebody else's now, or may have been. */
inline lose(c)
{
	purge[c] = 1;
	has[c] = 0;
#ifndef LOST_BUT_UP
	if
	:: up[c] -> change(c, 0)
	:: else
	fi
#endif
}

#if defined(COUNTS_ON)
#define WAITED(c)	(seen_any[c] && seen[c] == 0)
#else
#define WAITED(c)	(seen_any[c] && seen[c] == 0 && same[c])
#endif

#ifdef READD_LATE
#define RIGHTFUL(c)	true
#else
#define RIGHTFUL(c)	(until[c] > 0)
#endif

/* From now on the item has to stay as it is. */
inline begin_to_wait(c)
{
#ifdef COUNTS_ON
	seen[c] = (seen_any[c] -> seen[c] : WAIT);
#else
	seen[c] = WAIT;
#endif
	seen_any[c] = 1;
	same[c] = 1
}

#define OURS		(owner == c)
#ifdef OWN_CLAIM_IS_A_LEASE
#define OUR_LEASE	(OURS && kind != ABSENT)
#else
#define OUR_LEASE	(OURS && kind == LEASE)
#endif
#ifdef PROMOTION
#define FREE_FOR_US	(kind == FREE && (OURS || c == 1 && owner == 0))
#else
#define FREE_FOR_US	(kind == FREE && OURS)
#endif
#define A_CLAIM		(kind == CLAIM || kind == PROMOTED && OURS)

/*
 * An exchange takes no time here, which is the worst case: the time of a lease counts from
 * before the request, the time of waiting from after the answer.  Between any two
 * steps there may be any time.
 */
proctype Worker(byte c)
{
	bit ok, ask, force;

begin:
	/* a start of the cluster */
	atomic {
		until[c] = 0; seen[c] = 0; seen_any[c] = 0; same[c] = 0;
		purge[c] = 1; has[c] = 0; word[c] = 0; up[c] = 0;
#ifdef PURGE_FIRST
		assert(has[c]);
		doc = NOBODY; marker = NOBODY
#endif
	};
round:
	if
#ifdef CRASHES
	::
#ifdef NEVER_AT_ONCE
		again[c] = 1;
#endif
		goto begin
#endif
#ifdef RELEASE
	/* a shutdown; what we hold is a lease, as far as we know */
#ifdef CLAIM_MADE_FREE
	:: has[c] ->
#else
	:: has[c] && same[c] && kind == LEASE && OURS ->
#endif
#ifndef FREE_WHILE_UP
		atomic { until[c] = 0; change(c, 0) };
#endif
		atomic {
			if
			:: same[c] -> cas(c, FREE)
			:: else
			fi
		};
		goto begin
#endif
#ifdef FAILURES
	:: atomic { up[c] -> change(c, 0) }				/* a failed exchange: DOWN */
#endif
	:: true
	fi;
	/* what is there, and what does it mean? */
	atomic {
		ok = 0; ask = 0;
		if
#ifdef PROMOTION
		:: c == 1 && kind == LEASE && owner == 0 && !force -> lose(c); ask = 1
#endif
		:: OUR_LEASE -> same[c] = 1; ok = 1		/* nobody else can have had it since */
		:: FREE_FOR_US -> lose(c); same[c] = 1; ok = 1
		:: !OUR_LEASE && A_CLAIM && RIGHTFUL(c) -> same[c] = 1; ok = 1
		:: kind == ABSENT -> ask = 1
		:: else ->
			lose(c);
			if
			:: WAITED(c) -> ok = 1
			:: !same[c] || !seen_any[c] -> begin_to_wait(c)
			:: else
			fi
		fi
	};
	if
	:: ok -> goto take
	:: !ok && !ask -> goto round
	:: !ok && ask
	fi;
	atomic {
#ifdef PROMOTION
		if
		:: c == 1 && kind == LEASE && owner == 0 && !force ->
			same[c] = 1;
			seen_any[c] = 0;
#ifdef PROMOTED_AT_ONCE
			force = 1;
			goto take
#else
			cas(c, PROMOTED);
			if
			:: ok -> force = 1; begin_to_wait(c)	/* once */
			:: else
			fi;
			goto round
#endif
		:: else
		fi;
#endif
#ifdef READD_AS_LEASE
		if
		:: RIGHTFUL(c) ->
			add(c, LEASE);
			if
			:: ok -> until[c] = VALID; check()
			:: else
			fi;
			goto round
		:: else
		fi;
#endif
		add(c, CLAIM);
		if
		:: ok && RIGHTFUL(c)						/* still, now that it is there */
		:: ok && !RIGHTFUL(c) ->
			lose(c);
			begin_to_wait(c);
#ifndef ABSENT_IS_FREE
			goto round
#endif
		:: !ok ->
			if
			:: !RIGHTFUL(c) -> lose(c)
			:: else
			fi;
			goto round
		fi
	};

take:
	atomic {
		cas(c, LEASE);
		if
		:: ok
		:: !ok -> goto round
		fi;
#ifdef STANDBY
		ready = !purge[c];
#endif
#ifdef COUNTED_FROM_ANSWER
	};
	atomic {
#endif
		until[c] = VALID;
		seen[c] = 0; seen_any[c] = 0;
		has[c] = 1; ok = 0; ask = 0;
		check()
	};
	if
	:: purge[c] ->
#ifdef UP_WITHOUT_PURGE
		purge[c] = 0
#else
		atomic { assert(has[c]); doc = NOBODY; marker = NOBODY; purge[c] = 0 }
#endif
	:: !purge[c]
	fi;
	if
	:: atomic {
			!up[c] ->
#ifdef NEVER_AT_ONCE
			assert(!again[c]);
#endif
			change(c, 1)
		}
	:: up[c]
	fi;
	goto round
}

/* A read believes a hit if the word is the same after the answer, and the lease still good. */
proctype Reads(byte c)
{
	byte found = NOBODY;

	do
	:: atomic { up[c] -> word[c] = 1 };
#ifdef HIT_CHECKED_BEFORE_ANSWER
		until[c] > 0;
#endif
		atomic { found = doc };
		atomic {
			if
#ifdef WITHOUT_DEADLINE
			:: true
#elif defined(HIT_CHECKED_BEFORE_ANSWER)
			:: word[c]
#elif defined(HIT_WITHOUT_WORD)
			:: until[c] > 0
#else
			:: word[c] && until[c] > 0
#endif
				-> assert(found == NOBODY || found == c)
			:: else
			fi;
			found = NOBODY;
			word[c] = 0
		}
	od
}

/* A fill or a commit looks at the clock once it has its marker's token, and then stores. */
proctype Stores(byte c)
{
	do
	:: up[c];
#ifdef STORE_CHECKED_BEFORE_MARKER
		until[c] > 0;
#endif
		atomic { doc = NOBODY; marker = c };
#if !defined(STORE_CHECKED_BEFORE_MARKER) && !defined(WITHOUT_DEADLINE)
		if
		:: until[c] > 0
		:: else -> goto next
		fi;
#endif
		/* it may be applied as late as it likes */
		atomic {
			if
			:: marker == c -> doc = c; marker = NOBODY; check()
			:: true
			fi
		};
next:
		skip
	od
}

#ifdef STANDBY
/*
 * The worker of a hot standby: it only looks.  A token that has changed since it looked
 * the last time is one that nobody else has seen for longer than that.
 */
#ifdef STANDBY_IGNORES_READY
#define READY		true
#else
#define READY		ready
#endif

proctype Standby()
{
	do
	:: atomic {
			if
			:: kind == LEASE && owner == 0 && READY ->
				if
#ifdef STANDBY_TRUSTS_WHAT_IT_SEES
				:: true -> until[STANDBY_OF_0] = VALID; change(STANDBY_OF_0, 1)
#else
				:: !same[STANDBY_OF_0] && seen[STANDBY_OF_0] > until[STANDBY_OF_0] ->
					until[STANDBY_OF_0] = seen[STANDBY_OF_0];
					change(STANDBY_OF_0, 1)
				:: else
#endif
				fi
			:: else ->
				if
				:: up[STANDBY_OF_0] -> change(STANDBY_OF_0, 0)
				:: else
				fi
			fi;
			seen[STANDBY_OF_0] = VALID;				/* from this look on */
			same[STANDBY_OF_0] = 1
		}
	od
}
#endif

#define TICK(t)		t = t - (t > 0)

proctype Time()
{
	do
	:: d_step {
#ifdef NEVER_AT_ONCE
			again[0] = 0;
			again[1] = 0;
#endif
			TICK(until[0]);
			TICK(until[1]);
			TICK(seen[0]);
			TICK(seen[1]);
#ifdef STANDBY
			TICK(until[STANDBY_OF_0]);
			TICK(seen[STANDBY_OF_0]);
#endif
		}
	od
}

#define LATE(c) \
	atomic { late[c] != 0 -> \
		if \
		:: late_add[c] && kind == ABSENT -> put(late[c], c) \
		:: !late_add[c] && LATE_MATCHES(c) -> put(late[c], c) \
		:: else \
		fi; \
		FORGET(c) }

proctype Memcached()
{
	do
	:: atomic { kind != ABSENT -> put(ABSENT, NOBODY) }
	:: atomic { doc != NOBODY || marker != NOBODY -> doc = NOBODY; marker = NOBODY }
	:: LATE(0)
	:: LATE(1)
#ifdef DOCUMENTS_OF
	:: atomic { SERVES(DOCUMENTS_OF) -> doc = DOCUMENTS_OF; check() }
#endif
	od
}

init
{
	atomic {
		run Worker(0);
		run Worker(1);
#ifdef STORES
		run Stores(STORES);
#endif
#ifdef READS
		run Reads(READS);
#endif
#ifdef STANDBY
		run Standby();
#endif
		run Time();
		run Memcached()
	}
}
