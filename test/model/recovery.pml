/*-------------------------------------------------------------------------
 *
 * recovery.pml
 *	  A server that fails at any time: its state, the outbox, the worker.
 *
 * The model of ec_invalidate_mark() in src/commit/invalidate.c, of src/worker/recovery.c, of
 * src/servers/outbox.c and of the state word in src/servers/state.c: one key, one server,
 * fallback = on.  Any exchange may fail at any time, and any backend of any database may find
 * the server DOWN at any time; what failed may be applied later; the item may vanish; the whole
 * cluster may crash and start again (CRASHES), which leaves prepared transactions with their
 * locks, the rows of the outbox, the item, and what is under way to it.
 *
 * With UNCLAIMED the database has no slot in shared memory, at first and after a crash: the state
 * is the one that all such databases share, and nobody makes the server UP before the worker
 * comes and claims a slot.  With LEAVES the worker ends between two rounds, when it likes, and
 * comes again; it gives up the slot or not.
 *
 * A state word is compared in two places only: by the worker with the one that it has
 * read, and with the one of whole_noted.  So instead of an epoch that grows without
 * end there are two bits, "it is still that word", which every change clears.
 *
 * Switches: WRITERS, PREPARED, READERS, READS, CRASHES, UNCLAIMED, LEAVES; STANDBY, which asserts
 * what a hot standby goes by; and one for each rule that can be left out, named where it is used.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef WRITERS
#define WRITERS		2
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
#ifndef CRASHES
#define CRASHES		0
#endif
#ifndef UNCLAIMED
#define UNCLAIMED	0
#endif
#ifndef LEAVES
#define LEAVES		0
#endif
#define TXNS		(WRITERS + PREPARED)

#define DOWN		0
#define RECOVERING	1
#define UP			2

byte state = UP;				/* EcDatabase.state: the word's state, */
bit purge;						/* and whether it must be purged first */
bit same;						/* it is still the word that the worker has read */
bit noted;						/* it is whole_noted: the outbox has a row for everything */
bit slot = !UNCLAIMED;			/* the database has a slot; else state is EcShared.unclaimed's */
bit attended = !UNCLAIMED;		/* EcDatabase.worker_pid: the worker is there */

byte db;						/* transactions that are committed and visible */
byte acked;						/* of which COMMIT has returned */
byte invalidated;					/* whose marker is confirmed, or the worker's for them */
byte rows;						/* who has a visible row in the outbox, or OTHER */
bit whole;						/* there is one for all documents */

byte store, invalidate;			/* the key's lock, as in fence.pml */
byte outbox;					/* who holds the outbox lock, shared */

#if CRASHES
byte crashes;
byte alive;						/* processes that would die in a crash, */
byte dies;						/* and that are about to */
bit prepared;
#define BEGIN(p)	alive = alive | B(p)
#define END(p)		alive = alive & ~B(p)
#define UNLESS_CRASH(p) \
	unless { atomic { (dies & B(p)) -> dies = dies & ~B(p) } }
#else
#define BEGIN(p)	skip
#define END(p)		skip
#define UNLESS_CRASH(p)
#endif

#include "memcached.pml"

inline check()
{
	assert(kind != DOC || (value & ~db) == 0);						/* G1 */
	assert(kind != DOC || (acked & invalidated & ~value) == 0);		/* G2, plain clients */
	assert(kind != DOC || state != UP || (acked & ~value) == 0);	/* and the others, when UP */
#ifdef STANDBY
	assert(kind != DOC || (db & ~value) == 0 || rows != 0 || whole);	/* and a standby's */
#endif
#ifndef PROMISE_ONLY
	assert(kind != DOC || state != UP || value == db);				/* the newest: G3, rest */
	assert(state != UP || (rows == 0 && !whole));					/* no row is visible */
#endif
}

#define TXN(t)		((t) + 1)
#define READER(r)	((r) + TXNS + 1)
#define PROC(r)		((r) + TXNS)	/* a reader's number among the processes */
#define WORKER		(TXNS + READERS)
#define OTHER		B(7)			/* a row about another document */

inline change(to)
{
	state = to;
	same = 0;
#ifndef WHOLE_NOTE_UNKEYED
	noted = 0;
#endif
	check()
}

/* ec_state_down(), after an exchange has failed */
inline server_down()
{
	atomic {
		if
		:: state != DOWN -> change(DOWN)
		:: else
		fi
	}
}

/*
 * A reader's exchange has failed: it is refused, or three in a row were too slow.  Else the server
 * stays as it is (ec_state_slow()); what was sent may be applied later all the same.
 */
inline failed_read()
{
	if
	:: server_down()
	:: true
	fi
}

/*
 * ec_exchange_marks(): what is not confirmed makes the server DOWN; it may be applied later.  So
 * may a marker that was sent a second time, on a new connection.
 */
inline send_marker(t)
{
	atomic {
		if
		:: put(MARKER, 0, TXN(t)); confirmed = 1
		:: true
		fi
	};
	if
	:: confirmed
	:: else -> server_down()
	fi
}

/* ec_state_is_unattended(): whoever comes next purges the server first */
#ifdef UNATTENDED_IS_ENOUGH
#define PURGED_FIRST	(!attended && state == DOWN)
#elif defined(PURGE_IS_ENOUGH)
#define PURGED_FIRST	(state == DOWN && purge)
#else
#define PURGED_FIRST	(!slot || !attended && state == DOWN && purge)
#endif

/* ec_invalidate_mark(): confirmed, or a row, or one of somebody else's that will do */
inline step_a(t)
{
	if
	:: state != DOWN -> send_marker(t)
	:: state == DOWN
	fi;
	if
	:: confirmed
	:: !confirmed ->
#ifndef WITHOUT_OUTBOX_LOCK
		outbox = outbox | B(t);
#endif
#ifndef STATE_NOT_READ_AGAIN
		if
		:: state != DOWN -> send_marker(t)
		:: state == DOWN
		fi;
#endif
		atomic {
			if
			:: confirmed
			:: !confirmed && state == DOWN && noted				/* ec_state_all_noted() */
#ifdef ROW_SKIPPED_IF_ONE_IS_THERE
			:: !confirmed && rows != 0
			:: !confirmed && rows == 0 && !(state == DOWN && noted) -> row = 1
#else
			:: !confirmed && !(state == DOWN && noted) -> row = 1; one = PURGED_FIRST
#endif
			fi
		};
#if UNCLAIMED || LEAVES
		if
#ifdef NO_ROW_AT_ALL
		:: one -> row = 0
#else
		:: one -> row = (rows == 0 && !whole)					/* ec_outbox_has() */
#endif
		:: !one
		fi;
		one = 0
#endif
	fi
}

inline visible(t)
{
	db = db | B(t);
	rows = rows | (row * B(t));
	invalidated = invalidated | (confirmed * B(t));
	check()
}

proctype Writer(byte t)
{
	bit holds_store, holds_invalidate, confirmed, row, one;
	byte doc;

	{
		/* pre_commit_keys() */
		atomic {
			if
			:: store == 0 && invalidate == 0 -> store = TXN(t); holds_store = 1
			:: store == 0 -> invalidate++; holds_invalidate = 1
			fi;
			BEGIN(t);
			doc = holds_store * (db | B(t))
		};
		step_a(t);
		atomic {
			if
			:: visible(t)
			:: goto ended										/* abort */
			fi
		};
		/* ec_commit_post(), whatever the state is */
		atomic {
			if
			:: holds_store && confirmed -> store_late(doc, TXN(t))
			:: else
			fi
		};
		atomic {
			store = (holds_store -> 0 : store);
			invalidate = invalidate - holds_invalidate;
			outbox = outbox & ~B(t)
		};
		atomic { acked = acked | B(t); check(); END(t); goto done };
ended:
		atomic {
			store = (holds_store -> 0 : store);
			invalidate = invalidate - holds_invalidate;
			outbox = outbox & ~B(t);
			END(t)
		}
	}
	UNLESS_CRASH(t);
done:
	atomic { holds_store = 0; holds_invalidate = 0; confirmed = 0; row = 0; one = 0; doc = 0 }
}

/* PREPARE TRANSACTION, and whoever ends it, in this life of the cluster or the next. */
proctype Prepared(byte t)
{
	bit confirmed, row, one, gone;

	{
		atomic { store == 0 -> invalidate++; BEGIN(t) };
		step_a(t);
		atomic {
			if
			:: END(t);
#if CRASHES
				prepared = 1;
#endif
#ifdef PREPARE_DROPS_OUTBOX_LOCK
				outbox = outbox & ~B(t);
#endif
#ifdef PREPARE_DROPS_LOCK
				invalidate--;
#endif
				goto second
			:: invalidate--; outbox = outbox & ~B(t); END(t); goto done
			fi
		}
	}
	UNLESS_CRASH(t);
	goto done;
second:
	/* COMMIT PREPARED or ROLLBACK PREPARED: no callback, so nothing is sent */
	atomic {
		if
		:: visible(t)
		:: gone = 1
		fi
	};
	atomic {
#ifndef PREPARE_DROPS_LOCK
		invalidate--;
#endif
		outbox = outbox & ~B(t);
#if CRASHES
		prepared = 0
#endif
	};
	atomic {
		if
		:: !gone -> acked = acked | B(t); check()
		:: gone
		:: true								/* it commits, and dies before it says so */
		fi
	};
done:
	atomic { confirmed = 0; row = 0; one = 0; gone = 0 }
}

/* ec_read() of one document. */
proctype Reader(byte r)
{
	byte must, seen, doc, n;
	bit marked, failed;

	do
	:: n == READS -> break
	:: else ->
		{
			/* ec_hit_classify() */
			atomic {
				must = acked;
				BEGIN(PROC(r));
				if
#ifdef READER_IGNORES_STATE
				:: true
#else
				:: state == UP
				:: state != UP -> goto table
#endif
				fi
			};
look:
			/* ec_hit_ask() */
			atomic {
				if
				:: kind == DOC -> doc = value; goto answer
				:: kind != DOC
				:: failed = 1
				fi
			};
			if
			:: failed -> failed_read(); goto table
			:: else
			fi;
			/* lock_keys(), and claim_or_await() looking again: the state is not */
			atomic {
				if
				:: store == 0 && invalidate == 0 -> store = READER(r)
				:: goto look
				:: store != 0 || invalidate != 0 -> goto table
				fi
			};
			/* set_markers(), after which the lock goes; ec_fill_read() */
			atomic {
				if
				:: put(MARKER, 0, READER(r)); marked = 1
				:: failed = 1
				fi
			};
			if
			:: failed -> failed_read()
			:: else
			fi;
			failed = 0;
			store = 0;
			doc = db;
			atomic {
				if
				:: marked -> store_now(doc, READER(r))
				:: marked -> store_late(doc, READER(r))			/* ec_exchange_send() */
				:: marked -> store_late(doc, READER(r)); failed = 1
				:: !marked
				fi;
				marked = 0
			};
			if
			:: failed -> failed_read()
			:: else
			fi;
			goto answer;
table:
			doc = db;
answer:
			atomic {
				assert((must & ~doc) == 0);						/* G2 */
				assert((seen & ~doc) == 0);						/* G3 */
				END(PROC(r));
				seen = doc
			}
		}
		UNLESS_CRASH(PROC(r));
		atomic { must = 0; doc = 0; marked = 0; failed = 0; n++ }
	od;
	atomic { seen = 0; n = 0 }
}

/* echocache_worker_main(): round after round, until nobody is left who may need it. */
proctype Worker()
{
	byte found;						/* the rows of the snapshot */
	bit all;						/* and whether there was a whole one */
	bit must_purge, ok;

restart:
	{
		BEGIN(WORKER);
#if UNCLAIMED || LEAVES
		/* ec_database_claim() */
		atomic {
			attended = 1;
			if
			:: slot
			:: !slot ->
				slot = 1;
#ifdef CLAIM_WITHOUT_PURGE
				purge = 0;
#else
				purge = 1;
#endif
				change(RECOVERING)
			fi
		};
#endif
round:
end:
		atomic {
			if
			:: state != UP ->
				found = 0; all = 0; ok = 0;
				must_purge = purge;
				same = 1;				/* ec_recovery_run(): ec_state_read() */
				if
				:: state == DOWN -> goto probe
				:: state == RECOVERING -> goto recovering
				fi
#if LEAVES
			:: true ->
				found = 0; all = 0; ok = 0; must_purge = 0;
				attended = 0;
				if
				:: true
				:: slot = 0; change(RECOVERING)		/* ec_database_free() */
				:: slot = 0; change(DOWN)
				fi;
				goto restart
#endif
			fi
		};

probe:
		atomic {
			if
			:: true -> goto collapse	/* no answer, still DOWN */
			:: true
			fi
		};
#ifdef SNAPSHOT_BEFORE_RECOVERING
		atomic { found = rows; all = whole };
#endif
		atomic {
			if
			:: same -> change(RECOVERING); same = 1
			:: else -> goto round
			fi
		};

recovering:
#ifndef WITHOUT_OUTBOX_LOCK
		/* ec_outbox_is_free(), tried again and again; the word is read anew each time */
		atomic {
			if
			:: outbox == 0
			:: outbox != 0 -> goto round
			fi
		};
#endif
#ifndef SNAPSHOT_BEFORE_RECOVERING
look:
		atomic { found = rows; all = whole };	/* read_rows(), a transaction of its own */
#endif
		atomic {
			if
			:: found == 0 && !all && !must_purge -> goto bring_up
			:: else
			fi
		};
		/* invalidate(), confirmed: markers for keys; a purge deletes */
		atomic {
			if
			:: all || must_purge -> put(ABSENT, 0, NOBODY); ok = 1
			:: !all && !must_purge && found != OTHER -> put(MARKER, 0, NOBODY); ok = 1
#if UNCLAIMED || LEAVES
			:: !all && !must_purge && found == OTHER -> ok = 1
#endif
			:: true						/* failed; it may be applied later */
			fi;
		};
		if
		:: ok
		:: else -> server_down(); goto round
		fi;
		/* delete_rows(): exactly those */
		atomic {
			invalidated = invalidated | (found & ~OTHER);
			rows = rows & ~found;
			whole = whole && !all;
#ifdef WHOLE_NOTE_UNKEYED
			noted = noted && !all;
#endif
			found = 0; all = 0; must_purge = 0; ok = 0;
#ifndef SNAPSHOT_BEFORE_RECOVERING
			goto look
#endif
		};
bring_up:
		atomic {
			if
#ifdef UP_WITHOUT_SWAP
			:: true -> purge = 0; change(UP)
#else
			:: same -> purge = 0; change(UP)
			:: !same
#endif
			fi;
			goto round
		};

collapse:
		atomic {
			same = 1;					/* collapse(): ec_state_read() */
			if
			:: state != DOWN || noted -> goto round
			:: else
			fi
		};
		atomic {
			found = rows;
			if
			:: found == 0 -> goto round
			:: else
			fi
		};
		atomic { whole = 1; rows = rows & ~found };
		atomic {
#ifdef WHOLE_NOTE_UNKEYED
			noted = 1;
#else
			noted = same;				/* whole_noted = word */
#endif
			goto round
		};
	}
#if CRASHES
	unless { atomic { (dies & B(WORKER)) -> dies = dies & ~B(WORKER); goto restart } }
#endif
}

proctype Memcached()
{
end:
	do
	ITEM_EVENTS
	/* somebody else, of any database, has had an exchange fail */
	:: atomic { state != DOWN -> change(DOWN) }
#if UNCLAIMED || LEAVES
	/* somebody has changed another document, and holds the outbox lock for just this */
	:: atomic { state == DOWN -> rows = rows | OTHER }
	/* ec_state_retry_unclaimed(), by the worker of another database */
	:: atomic { !slot && state == DOWN -> change(RECOVERING) }
#endif
#if LEAVES
	/* ec_state_demand_purge(), by the launcher, which has found no place for a worker */
	:: atomic { slot && !attended && state == DOWN && !purge -> purge = 1; change(DOWN) }
#endif
	od
}

#if CRASHES
#ifndef START_STATE
#define START_STATE	RECOVERING
#endif
/* The cluster crashes, and starts: shmem_startup(). */
proctype Postmaster()
{
end:
	do
	:: atomic {
			crashes < CRASHES && dies == 0 ->
			crashes++;
			dies = alive;
			alive = 0;
			store = 0;
			invalidate = prepared;
			outbox = outbox & (prepared * B(WRITERS));
			same = 0;
			noted = 0;
			slot = !UNCLAIMED;
			attended = !UNCLAIMED;
			purge = (START_STATE == RECOVERING);
			state = START_STATE
		}
	od
}
#endif

init
{
	byte i;

	atomic {
		kind = DOC;									/* cached, of before all */
		if
		:: !slot -> state = RECOVERING
		:: slot
		fi;
		run Worker();
		run Memcached();
#if CRASHES
		run Postmaster();
#endif
		i = 0;
		do
		:: i < WRITERS -> run Writer(i); i++
		:: i >= WRITERS && i < TXNS -> run Prepared(i); i++
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
