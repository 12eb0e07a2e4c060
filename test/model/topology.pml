/*-------------------------------------------------------------------------
 *
 * topology.pml
 *	  Another list of servers, another prefix, the cache off and on again.
 *
 * The model of the topology in src/servers/topology.c, of ec_topology_publish() there and of those
 * who enter and leave: one document that lives in one of two places, depending on the
 * generation.  What was left in a place when it went out of use is still there when
 * it comes back; at the beginning place 1 has an old document from before.
 *
 * MOVE: generation 1 has the document in place 0, 2 in place 1, 3 in place 0 again.
 * OFF: it is always in place 0, and generation 2 is "off".
 * SAME: it is always in place 0, the generations are other databases', and no state begins anew.
 * KEEP: both places are servers of every list.  One that was UP keeps what is placed on it, and
 * loses what is not.  With STAY as well the document is always in place 0.
 *
 * Ten rules, each of which has a switch, are what src/ must keep: the worker takes a
 * state word together with the generation that it has entered; who commits while the cache is
 * off locks all the same; a writer keeps its locks when it leaves the topology, before its change
 * is visible; who attaches a table does not leave before that; a key's place changes with the
 * generation only; it is the same for everybody, also where a server's name has several
 * addresses; a failure counts for as long as the states do that it is about; a server keeps
 * nothing unless it was UP, what is placed elsewhere is removed, and who cannot confirm a marker
 * by an older list sees to it that nothing is kept.
 *
 * Both places share the state word, as the first server of each list does.  With
 * FAILURES any exchange may fail.  The rest is as in fence.pml and recovery.pml.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef WRITERS
#define WRITERS		1
#endif
#ifndef PREPARED
#define PREPARED	0
#endif
#ifndef READERS
#define READERS		1
#endif
#ifndef READS
#define READS		1
#endif
#ifndef GENERATIONS
#define GENERATIONS	3
#endif
#ifndef ATTACHERS
#define ATTACHERS	0
#endif
#define TXNS		(WRITERS + PREPARED + ATTACHERS)

#if defined(OFF)
#define PLACE(g)	0
#define ON(g)		((g) != 2)
#elif defined(SAME) || defined(STAY)
#define PLACE(g)	0
#define ON(g)		true
#else
#define PLACE(g)	((g) == 2)
#define ON(g)		true
#endif
#define PLACES		2

#define ABSENT		0
#define MARKER		1
#define DOC			2
#define NOBODY		0
#define B(t)		(1 << (t))

#define DOWN		0
#define RECOVERING	1
#define UP			2

byte kind[PLACES], value[PLACES], token[PLACES];
bit late[PLACES];
byte late_value[PLACES];

#define ANCIENT		B(7)		/* a transaction of before, which place 1 does not show */
bit attached = (ATTACHERS == 0);	/* is the table? */
byte db = ANCIENT;
byte acked = ANCIENT;
byte store, invalidate;			/* the key's lock */

byte generation = 1;			/* EcShared.generation */
bit is_on = 1;				/* EcShared.enabled */
bit publishing;					/* the launcher holds the lock */
byte entered[TXNS + READERS + 1];
#ifdef PLACE_AT_ONCE
bit prefix;						/* EcDatabase.prefix: where keys live from now on */
#endif

byte state = UP;
bit purge;
bit same;						/* the word is still the one that the worker has read */
#ifdef KEEP
bit clean[PLACES];				/* it was UP by this list, so what is placed elsewhere is gone */
bit may_keep[PLACES];			/* EcDatabase.may_keep */
#endif
#ifdef FAILURES
byte rows[PLACES];				/* the outbox, and its locks, by the server's name */
byte outbox[PLACES];
#endif

/*
 * What a reader would find that begins now: he enters the present generation.  (While
 * one is being published, nothing is UP.)
 */
#ifdef PLACE_AT_ONCE
#define HERE		prefix
#else
#define HERE		PLACE(generation)
#endif
inline check()
{
	assert(!(attached && state == UP && is_on && kind[HERE] == DOC &&
			 (value[HERE] & ~db) != 0));
	assert(!(attached && state == UP && is_on && kind[HERE] == DOC &&
			 (acked & ~value[HERE]) != 0))
}

inline put(p, k, v, t)
{
	kind[p] = k;
	value[p] = v;
	token[p] = t;
	late[p] = 0;
	late_value[p] = 0;
	check()
}

inline store_late(p, v, t)
{
	if
	:: token[p] == t -> late[p] = 1; late_value[p] = v
	:: else
	fi
}

#define TXN(t)		((t) + 1)
#define READER(r)	((r) + TXNS + 1)
#define PROC(r)		((r) + TXNS)
#define WORKER		(TXNS + READERS)

inline change(to)
{
	state = to;
	same = 0;
	check()
}

/* ec_topology_enter(): g, and on; p: our slot */
inline enter(p)
{
	do
	:: g = generation;
		entered[p] = g;
#ifndef ENTERED_WITHOUT_LOOKING_AGAIN
		if
		:: generation == g -> break
		:: else
		fi
#else
		break
#endif
	od;
	on = is_on;
	/* the list that we have; or load_topology(), perhaps a later one than we have entered */
	atomic {
		if
		:: place = PLACE(g)
		:: !publishing && generation != g -> place = PLACE(generation)
#ifdef ADDRESS_OF_EACH
		:: place = !PLACE(g)
#endif
		fi
	}
}

#ifdef PLACE_AT_ONCE
#define THERE		prefix		/* ec_attachment_key() */
#else
#define THERE		place
#endif

#define LEAVE(p)	entered[p] = 0

/* ec_state_down(): the states are still those of the caller's generation */
#if defined(SAME) && !defined(FAILURE_IS_FORGOTTEN)
#define IN_FORCE	true
#else
#define IN_FORCE	(generation == g)
#endif

inline server_down()
{
	if
	:: !IN_FORCE
	:: else ->
		atomic {
			if
			:: state != DOWN ->
#ifdef KEEP
				may_keep[PLACE(generation)] = 0;	/* it is another word */
#endif
				change(DOWN)
			:: else
			fi
		}
	fi
}

#ifdef FAILURES
inline send_marker(t)
{
	atomic {
		if
		:: put(place, MARKER, 0, TXN(t)); confirmed = 1
		:: true
		fi
	};
	if
	:: confirmed
	:: else -> server_down()
	fi
}
#endif

/* ec_invalidate_mark() */
inline step_a(t)
{
#ifdef FAILURES
	if
	:: state != DOWN -> send_marker(t)
	:: state == DOWN
	fi;
	if
	:: confirmed
	:: !confirmed ->
		outbox[place] = outbox[place] | B(t);
		if
		:: state != DOWN -> send_marker(t)
		:: state == DOWN
		fi;
#if defined(KEEP)
		/* by the word of another server it may seem that there need be none */
		if
		:: row = !confirmed
		:: generation != g -> row = 0
		fi
#else
		row = !confirmed
#endif
	fi;
#if defined(KEEP) && !defined(KEPT_IN_DOUBT)
	/* ec_state_doubt() */
	atomic {
		confirmed || !publishing;
		if
		:: !confirmed && generation != g -> may_keep[0] = 0; may_keep[1] = 0
		:: else
		fi
	}
#endif
#else
	atomic { place = THERE; put(place, MARKER, 0, TXN(t)); confirmed = 1 }
#endif
}

inline visible(t)
{
	db = db | B(t);
#ifdef FAILURES
	rows[place] = rows[place] | (row * B(t));
#endif
	check()
}

inline unlock(t)
{
	store = (holds_store -> 0 : store);
	invalidate = invalidate - holds_invalidate;
#ifdef FAILURES
	outbox[0] = outbox[0] & ~B(t);
	outbox[1] = outbox[1] & ~B(t);
#endif
}

/* While the cache is off the key is locked all the same, and nothing is sent. */
#ifdef OFF_IS_NOT_LOCKED
#define LOCKS		is_on
#else
#define LOCKS		true
#endif

/* Step 2, in the topology for as long as it takes: the locks stay. */
inline mark(t)
{
	enter(t);
	if
	:: on -> step_a(t)
	:: !on
	fi;
	LEAVE(t);
#ifdef UNLOCKED_BY_LEAVING
	atomic { unlock(t); holds_store = 0; holds_invalidate = 0 }
#endif
}

/*
 * ec_commit_pre(), ec_commit_post().  The store is sent whatever the generation is by then,
 * which is more than src/ does.
 */
proctype Writer(byte t)
{
	byte g, place, doc;
	bit on, holds_store, holds_invalidate, confirmed, row;

	atomic {
		if
		:: LOCKS && store == 0 && invalidate == 0 -> store = TXN(t); holds_store = 1
		:: LOCKS && store == 0 -> invalidate++; holds_invalidate = 1
		:: !LOCKS
		fi;
		doc = holds_store * (db | B(t))
	};
	mark(t);
	atomic { visible(t) };
	atomic {
		if
		:: holds_store && confirmed -> store_late(place, doc, TXN(t))
		:: else
		fi
	};
	atomic { unlock(t) };
	atomic { acked = acked | B(t); check() };
	atomic { g = 0; place = 0; doc = 0; on = 0; holds_store = 0; holds_invalidate = 0;
		confirmed = 0; row = 0 }
}

/* The locks stay with the prepared transaction. */
proctype Prepared(byte t)
{
	byte g, place;
	bit on, holds_store, holds_invalidate, confirmed, row;

	atomic {
		if
		:: LOCKS && store == 0 -> invalidate++; holds_invalidate = 1
		:: !LOCKS
		fi
	};
	mark(t);
	atomic { visible(t) };							/* COMMIT PREPARED */
	atomic { unlock(t) };
	atomic { acked = acked | B(t); check() };
	atomic { g = 0; place = 0; on = 0; holds_invalidate = 0; confirmed = 0; row = 0 }
}

/*
 * A transaction that attaches the table: it purges the place that it knows, and is in the
 * topology to its end.  Whoever purges another place before does not know what to look for.
 */
proctype Attacher(byte t)
{
	byte g, place;
	bit on, holds_store, holds_invalidate;

	atomic { store == 0 -> invalidate++; holds_invalidate = 1 };
	enter(t);
	atomic { put(place, ABSENT, 0, NOBODY) };
#ifdef ATTACH_LEAVES_EARLY
	LEAVE(t);
#endif
	atomic { attached = 1; check() };
	LEAVE(t);										/* at_end() */
	atomic { unlock(t) };
	atomic { g = 0; place = 0; on = 0; holds_invalidate = 0 }
}

/* ec_read() */
proctype Reader(byte r)
{
	byte must, seen, g, first, place, doc, n;
	bit on, marked, failed;

	do
	:: n == READS -> break
	:: else ->
		must = acked;
		enter(PROC(r));
		if
		:: attached && on && state == UP
		:: !attached || !on || state != UP -> LEAVE(PROC(r)); goto table
		fi;
		atomic {
			if
			:: kind[THERE] == DOC -> doc = value[THERE]
			:: kind[THERE] != DOC
#ifdef FAILURES
			:: failed = 1
#endif
			fi
		};
		if
		:: failed -> server_down()
		:: true						/* or it was only slow: ec_state_slow() */
		fi;
		LEAVE(PROC(r));
		if
		:: doc != 0 -> goto answer
		:: failed -> goto table
		:: else
		fi;

		/* ec_fill_enter(): once more, and nothing may have changed */
		first = g;
		enter(PROC(r));
		if
		:: on && g == first
		:: else -> LEAVE(PROC(r)); goto table
		fi;
		atomic {
			if
			:: store == 0 && invalidate == 0 -> store = READER(r)
			:: else -> LEAVE(PROC(r)); goto table
			fi
		};
		atomic {
			if
			:: place = THERE; put(place, MARKER, 0, READER(r)); marked = 1
#ifdef FAILURES
			:: failed = 1
#endif
			fi
		};
		store = 0;
		LEAVE(PROC(r));
		doc = db;
		/* ec_fill_read(): in the topology again, if it is the same; in time, late, or not at all */
		enter(PROC(r));
		atomic {
			if
			:: marked && g == first -> store_late(place, doc, READER(r))
			:: true
			fi;
			marked = 0
		};
#ifdef FAILURES
		if
		:: server_down()
		:: true
		fi;
#endif
		LEAVE(PROC(r));
		goto answer;
table:
		doc = db;
answer:
		atomic {
			assert((must & ~doc) == 0);				/* G2 */
			assert((seen & ~doc) == 0);				/* G3 */
			seen = doc;
			must = 0; doc = 0; g = 0; first = 0; place = 0; on = 0; failed = 0;
			n++
		}
	od;
	atomic { seen = 0; n = 0 }
}

/* ec_topology_publish() */
proctype Launcher()
{
	do
	:: generation == GENERATIONS -> break
	:: generation < GENERATIONS ->
#ifdef PLACE_AT_ONCE
		prefix = PLACE(generation + 1);				/* ec_database_claim() */
#endif
#ifdef KEEP
		/* begin_anew() */
		atomic {
			publishing = 1;
#ifdef KEPT_WHATEVER_IT_WAS
			may_keep[0] = 1;
			may_keep[1] = 1;
#else
			clean[PLACE(generation)] = (state == UP);
			may_keep[0] = clean[0];
			may_keep[1] = clean[1];
#endif
			clean[0] = 0;
			clean[1] = 0;
			purge = 1;
			change(RECOVERING)
		};
#elif !defined(SAME)
		atomic { publishing = 1; purge = 1; change(RECOVERING) };
#endif
		is_on = ON(generation + 1);
		generation++;
		publishing = 0
	od
}

#ifdef USED_BEFORE_ALL_HAVE_LEFT
#define HAS_LEFT(p)		true
#else
#define HAS_LEFT(p)		(entered[p] == 0 || entered[p] >= g)
#endif
#if TXNS + READERS == 2
#define ALL_HAVE_LEFT	(HAS_LEFT(0) && HAS_LEFT(1))
#elif TXNS + READERS == 3
#define ALL_HAVE_LEFT	(HAS_LEFT(0) && HAS_LEFT(1) && HAS_LEFT(2))
#endif

/* echocache_worker_main() */
proctype Worker()
{
	byte g, place, found;
	bit on, must_purge, ok;

round:
end:
	/* not before there is something to do */
	generation != g || (on && state != UP);
	enter(WORKER);
	if
	:: on
	:: !on -> goto leave
	fi;

	/* ec_recovery_run(): the word is that of the generation which we have entered */
#ifdef WORD_OF_ANY_GENERATION
	atomic { same = 1; must_purge = purge };
#else
	atomic {
		if
		:: !publishing && generation == g -> same = 1; must_purge = purge
		:: else -> goto leave
		fi
	};
#endif
	if
	:: state == UP -> goto others
	:: state == RECOVERING
	:: state == DOWN ->
#ifdef FAILURES
		atomic {									/* the probe */
			if
			:: same -> change(RECOVERING); same = 1
			:: true -> goto others
			fi
		}
#else
		goto leave
#endif
	fi;

	if
	:: ALL_HAVE_LEFT
	:: else -> goto others
	fi;
#ifdef FAILURES
	if
	:: outbox[place] == 0
	:: else -> goto others
	fi;
#endif
#ifdef KEEP
	/*
	 * ec_purge_misplaced(), on this server and on the other one.  (If that does not come to it, it
	 * keeps nothing, as without KEEP.)
	 */
	atomic {
		must_purge = must_purge && !may_keep[place];
		if
		:: !clean[1 - place] ->
#ifndef MISPLACED_STAYS
			put(1 - place, ABSENT, 0, NOBODY);
#endif
			clean[1 - place] = (!publishing && generation == g)
		:: else
		fi
	};
#endif
look:
#ifdef FAILURES
	found = rows[place];
#endif
	if
	:: found == 0 && !must_purge -> goto bring_up
	:: else
	fi;
#ifndef UP_WITHOUT_PURGE
	/* invalidate(); a changed prefix means that the keys of both are removed */
	atomic {
		if
		:: must_purge && attached -> put(THERE, ABSENT, 0, NOBODY); ok = 1
		:: must_purge && !attached -> ok = 1
		:: !must_purge -> put(place, MARKER, 0, NOBODY); ok = 1
#ifdef FAILURES
		:: true
#endif
		fi;
	};
	if
	:: ok
	:: else -> server_down(); goto others
	fi;
#endif
	atomic {
#ifdef FAILURES
		rows[place] = rows[place] & ~found;			/* delete_rows() */
#endif
		found = 0; must_purge = 0; ok = 0;
		goto look
	};
bring_up:
	atomic {
		if
#ifdef UP_WITHOUT_EPOCH
		:: state == RECOVERING -> purge = 0; change(UP)
		:: state != RECOVERING
#else
		:: same -> purge = 0; change(UP)
		:: else
#endif
		fi
	};

others:
#ifdef FAILURES
#ifndef KEEP
	/* ec_recovery_clear_late_rows(): those of a server that is none of ours */
	rows[1 - place] = 0;
#endif
#endif
leave:
	atomic { found = 0; must_purge = 0; ok = 0; LEAVE(WORKER); goto round }
}

#define LATE(p) \
	atomic { \
		late[p] -> d_step { late[p] = 0; put(p, DOC, late_value[p], NOBODY); late_value[p] = 0 } \
	}

proctype Memcached()
{
end:
	do
	:: LATE(0)
#if !defined(OFF) && !defined(SAME)
	:: LATE(1)
#endif
	od
}

init
{
	byte i;

	atomic {
		if
		:: kind[0] = DOC; value[0] = ANCIENT
		:: true
		fi;
#if !defined(OFF) && !defined(SAME)
		kind[1] = DOC;								/* and it is old */
#endif
		run Launcher();
		run Worker();
		run Memcached();
		i = 0;
		do
		:: i < WRITERS -> run Writer(i); i++
		:: i >= WRITERS && i < WRITERS + PREPARED -> run Prepared(i); i++
		:: i >= WRITERS + PREPARED && i < TXNS -> run Attacher(i); i++
		:: i == TXNS -> break
		od;
		i = 0;
		do
		:: i < READERS -> run Reader(i); i++
		:: i == READERS -> break
		od;
		i = 0
	}
}
