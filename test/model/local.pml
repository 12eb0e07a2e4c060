/*-------------------------------------------------------------------------
 *
 * local.pml
 *	  fence.pml with the second tier: an entry in shared memory in front of memcached.
 *
 * The model of src/read/local.c and src/read/promote.c, and of what src/commit/commit.c,
 * src/commit/store.c and src/read/fill.c do with them.  An entry has a value, perhaps the transaction that is changing
 * the document (writer) and perhaps the value that it will have then (next).  As long as writer
 * is in progress the old value is right, since a snapshot that is taken now shows it; from the
 * instant that writer is visible on, next is.
 *
 * What is put into an entry is put by who has claimed it under the key's store lock, before the
 * snapshot was taken, and whose claim is still there.  A writer takes all claims away after it
 * has locked the key.  Several fills may have one claim together: a bit for each reader here.
 *
 * An entry may be dropped at any time, and so may all entries of the attachment be, by its
 * epoch.  Epochs do not come back, so one bit says whether the entry is of the present one
 * (l_current).  An entry of another epoch keeps what it has, and nobody may take it for anything.
 *
 * memcached is as in fence.pml: a marker that is not confirmed aborts its transaction; a process
 * may die at any step, which gives back its locks; the item may vanish or become a marker at any
 * time; step C is sent and not awaited.  A reader may also find memcached away: then its fill
 * sets no marker, and fills the tier only.  Who dies between a commit and its callback takes
 * the shared memory along, so the callback settles the entry in any case.
 *
 * Switches: WRITERS, BULKS, PREPARED, READERS, READS (how many), and one for each rule
 * that can be left out, named where it is used.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef WRITERS
#define WRITERS		2
#endif
#ifndef BULKS
#define BULKS		0
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
#define TXNS		(WRITERS + BULKS + PREPARED)

byte db;						/* transactions that are committed and visible */
byte acked;						/* of which COMMIT has returned */
byte aborted;					/* and those that have ended otherwise */

byte store;						/* the key's lock: who holds it in store mode, */
byte invalidate;				/* and how many in invalidate mode */
byte build;						/* and the lock that fills alone take */
byte share;						/* the attachment lock: storers, */
byte bulk;						/* and bulk writers */

bit  l_here;					/* the entry: is there a value, */
byte l_value;
byte l_writer;					/* who is changing the document, 0: nobody, */
bit  l_has_next;				/* and what it will be */
byte l_next;
byte l_claims;					/* whose fills may put their document here */
bit  l_current;					/* it is of the attachment's present epoch */

/* clear() */
#define L_GONE	l_here = 0; l_value = 0; l_writer = 0; l_has_next = 0; l_next = 0; \
	l_claims = 0; l_current = 0

#include "memcached.pml"

/* A plain client may read at any time, so this is asserted whenever something changes. */
inline check()
{
	assert(kind != DOC || (value & ~db) == 0);		/* G1: nothing uncommitted */
	assert(kind != DOC || (acked & ~value) == 0);	/* G2: nothing older than COMMIT */
#ifndef PROMISE_ONLY
	assert(kind != DOC || value == db);				/* ever the newest: G3, and at rest */
#endif
}

/* The markers' tokens: a transaction's, a reader's. */
#define TXN(t)		((t) + 1)
#define READER(r)	((r) + TXNS + 1)

#define IS_OVER(w)	((db & B((w) - 1)) != 0)	/* committed, and visible to any snapshot */

/* What a reader knows of the mark: nothing yet, or that its transaction has committed. */
#ifdef VERDICT_OF_ANOTHER
#define MARK_IS_NEW		(l_writer != 0 && known == 0)
#define MARK_IS_OVER	(l_writer != 0 && over)
#else
#define MARK_IS_NEW		(l_writer != 0 && l_writer != known)
#define MARK_IS_OVER	(l_writer != 0 && l_writer == known && over)
#endif

/* ec_locks_key(EC_LOCK_STORE) without waiting; mine: how often we hold invalidate. */
#define CAN_FILL		(store == 0 && invalidate == 0)
#define CAN_STORE(mine)	(store == 0 && invalidate == (mine))

inline mark(t)
{
	put(MARKER, 0, t)
}

/* ec_local_claim(): an entry of another epoch is emptied first */
inline claim(r)
{
	if
	:: !l_current ->
#ifndef EPOCH_KEEPS_ENTRY
		L_GONE;
#endif
		l_current = 1
	:: else
	fi;
	if
	:: l_writer == 0 -> l_claims = l_claims | B(r)
	:: else
	fi
}

/* ec_local_put() */
inline put_local(r, v)
{
	if
#ifdef EPOCH_UNCHECKED
	:: (l_claims & B(r)) ->			/* and the document gets the epoch of now */
#else
	:: (l_claims & B(r)) && l_current ->
#endif
		L_GONE; l_here = 1; l_value = v; l_current = 1
	:: else
	fi
}

/* xact_callback(): PRE_COMMIT, COMMIT or ABORT. */
proctype Writer(byte t)
{
	bit shared, holds_store, holds_invalidate, marked;
	byte doc;

	/* lock_keys(): the attachment lock, without waiting; policy "invalidate" never takes it */
	atomic {
		if
		:: bulk == 0 -> share++; shared = 1
		:: true
		fi
	};
	/* the key: store if it is free; else invalidate, waiting, and store once more */
	atomic {
		if
		:: shared && CAN_STORE(0) -> store = TXN(t); holds_store = 1
		:: else
		fi
	};
	if
	:: holds_store
	:: else ->
		atomic { store == 0 -> invalidate++; holds_invalidate = 1 };
		atomic {
			if
			:: shared && CAN_STORE(1) -> store = TXN(t); holds_store = 1
			:: else
			fi
		}
	fi;

	/* ec_local_mark(): the old value stays readable until we are visible */
#ifndef LOCAL_UNMARKED
	atomic {
		if
		:: l_here && l_current && l_writer == 0 ->
			l_writer = TXN(t); marked = 1;
#ifndef FILLER_KEPT
			l_claims = 0
#endif
#ifdef FILLER_KEPT
		:: !(l_here && l_current) && l_writer == 0 ->
			l_here = 0; l_value = 0			/* all but the claims */
#endif
		:: else -> L_GONE					/* two at once: neither's */
		fi
	};
#endif

	/* ec_invalidate_mark(): step A, awaited; render(), while the markers are on their way */
	atomic {
		if
		:: holds_store -> doc = db | B(t)
		:: else
		fi;
		if
		:: mark(TXN(t))
		:: goto ended					/* not confirmed: abort */
		fi
	};
	/* ec_local_next(): it replaces the old value by itself when we are visible */
	atomic {
		if
		:: marked && holds_store && l_writer == TXN(t) && l_current ->
			l_has_next = 1; l_next = doc
		:: true							/* no memory */
		fi
	};

	/* PostgreSQL: visible, the locks are still held; or aborted */
	atomic {
		if
		:: db = db | B(t); check()
		:: goto ended
		fi
	};

	/* COMMIT callback: ec_local_settle(true) */
	atomic {
		if
		:: l_writer == TXN(t) ->
			l_here = l_has_next; l_value = l_next; l_writer = 0; l_has_next = 0; l_next = 0
		:: else
		fi
	};
	/* ec_commit_post(): step C, sent and not awaited; or nothing, or our marker is removed */
	atomic {
		if
		:: holds_store -> store_late(doc, TXN(t))
		:: else
		fi
	};
	atomic {
		if
		:: holds_store -> store = 0
		:: else
		fi;
		invalidate = invalidate - holds_invalidate;
		share = share - shared;
		if
		:: goto told
		:: goto done					/* dies before anybody hears of it */
		fi
	};

told:
	atomic { acked = acked | B(t); check(); goto done };

	/* not in progress any more; then the ABORT callback: ec_local_settle(false) */
ended:
	atomic { aborted = aborted | B(t) };
	atomic {
		if
		:: l_writer == TXN(t) -> l_writer = 0; l_has_next = 0; l_next = 0
		:: else
		fi
	};
	atomic {
		if
		:: holds_store -> store = 0
		:: else
		fi;
		invalidate = invalidate - holds_invalidate;
		share = share - shared
	};
done:
	atomic { shared = 0; holds_store = 0; holds_invalidate = 0; marked = 0; doc = 0 }
}

/* lock_attachments(), mark_all(): the attachment lock alone, waiting for storers; no step C. */
proctype Bulk(byte t)
{
	atomic { share == 0 -> bulk++ };
#ifndef BULK_KEEPS_LOCAL
	l_current = 0;						/* ec_slot_begin_epoch() */
#endif
	atomic {
		if
		:: mark(TXN(t))
		:: goto ended
		fi
	};
	atomic {
		if
		:: db = db | B(t); check()
		:: goto ended
		fi
	};
	atomic { bulk--; if :: goto told :: goto done fi };
told:
	atomic { acked = acked | B(t); check(); goto done };
ended:
	bulk--;
done:
	skip
}

/* PREPARE TRANSACTION, then COMMIT PREPARED by another backend, which calls none of ours. */
proctype Prepared(byte t)
{
	/* lock_keys(true): invalidate only */
	atomic { store == 0 -> invalidate++ };
#ifndef PREPARE_KEEPS_LOCAL
	atomic { L_GONE };
#endif
	atomic {
		if
		:: mark(TXN(t))
		:: goto ended
		fi
	};
	atomic {
		if
		:: db = db | B(t); check()
		:: goto ended					/* ROLLBACK PREPARED */
		fi
	};
	invalidate--;
	atomic { acked = acked | B(t); check(); goto done };
ended:
	invalidate--;
done:
	skip
}

/* ec_read() of one document, READS times. */
proctype Reader(byte r)
{
	byte must;						/* what was acknowledged when the read began */
	byte seen;						/* what this reader has read before */
	byte doc, n;
	byte kept;						/* what is promoted */
	byte known;						/* a writer that was looked at, */
	bit over;						/* and whether it had committed */
	bit marked, away;

	do
	:: n == READS -> break
	:: else ->
		must = acked;
look:
		/* ec_local_read() */
		atomic {
			if
			:: MARK_IS_NEW -> known = l_writer; goto evaluate
#ifdef OLD_WHILE_MARKED
			:: l_writer != 0 && l_here && l_current -> doc = l_value; goto answer
#endif
#ifdef NEXT_BEFORE_VISIBLE
			:: l_writer != 0 && l_has_next && l_current && !(aborted & B(l_writer - 1)) ->
				doc = l_next; goto answer
#endif
#ifdef EPOCH_UNREAD
			:: l_here && l_writer == 0 -> doc = l_value; goto answer
#endif
			:: !MARK_IS_NEW && MARK_IS_OVER && l_has_next && l_current -> doc = l_next; goto answer
			:: !MARK_IS_NEW && !MARK_IS_OVER && l_here && l_current -> doc = l_value; goto answer
			:: else -> goto ask
			fi
		};
evaluate:
		/* not under the lock: the entry is looked at once more */
		atomic { over = IS_OVER(known); goto look };
ask:
		atomic { known = 0; over = 0 };
		/* ec_hit_ask(), and perhaps ec_promote(); or memcached is away, or the table answers */
#ifdef PUT_WITHOUT_LOCK
		atomic {
			if
			:: kind == DOC -> doc = value
			:: kind != DOC -> goto fill
			:: goto table
			fi
		};
		atomic {
			claim(r);
			put_local(r, doc);
			goto answer
		};
#else
		atomic {
			if
			:: kind == DOC -> doc = value; goto answer
			:: kind == DOC -> doc = value; goto promote
			:: kind != DOC -> goto fill
			:: away = 1; goto fill
			:: goto table
			fi
		};
promote:
		/* the hit is the answer; asked once more under the lock, it goes into the tier */
		atomic {
			if
			:: bulk == 0 && CAN_FILL -> share++; store = READER(r); claim(r)
			:: else -> goto answer
			fi
		};
		atomic {
			if
			:: kind == DOC -> kept = value; marked = 1
			:: else
			fi
		};
		atomic {
			if
			:: marked -> put_local(r, kept); marked = 0; kept = 0
			:: else
			fi
		};
		atomic { store = 0; share--; goto answer };
#endif
fill:
		/* the fill lock, but not when memcached is away; who else fills is awaited by looking */
		atomic {
			if
			:: away
			:: !away && build == 0 -> build = READER(r)
			:: !away && build != 0 -> if :: goto look :: goto table fi
			fi
		};
		/* lock_keys(): no lock is waited for */
		atomic {
			if
			:: bulk == 0 && CAN_FILL -> share++; store = READER(r)
			:: else ->
				if
				:: build == READER(r) -> build = 0
				:: else
				fi;
				away = 0;
				goto table
			fi
		};
		/* set_markers(): the claim, a marker, whatever is there, and the locks go */
#ifndef CLAIM_AFTER_SNAPSHOT
		atomic { claim(r) };
#endif
		atomic {
			if
			:: !away -> mark(READER(r)); marked = 1
			:: true									/* not confirmed: nothing is stored */
			fi
		};
		atomic { store = 0; share-- };
		/* ec_fill_read(): a fresh snapshot, however long that takes */
		doc = db;
#ifdef CLAIM_AFTER_SNAPSHOT
		atomic { claim(r) };
#endif
		/* keep() */
		atomic {
			if
			:: put_local(r, doc)
			:: true									/* no memory, or it dies here */
			fi
		};
		/* the store by CAS */
		atomic {
			if
			:: marked -> store_now(doc, READER(r))
			:: marked -> store_late(doc, READER(r))
			:: true
			fi;
			if
			:: build == READER(r) -> build = 0
			:: else
			fi;
			marked = 0;
			away = 0;
			goto answer
		};
table:
		doc = db;
answer:
		atomic {
			assert((doc & ~db) == 0);				/* G1 */
			assert((must & ~doc) == 0);				/* G2 */
			assert((seen & ~doc) == 0);				/* G3 */
			seen = doc;
			must = 0;
			doc = 0;
			known = 0;
			over = 0;
			n++
		}
	od;
	atomic { seen = 0; n = 0 }
}

proctype Memcached()
{
end:
	do
	ITEM_EVENTS
	od
}

/* Eviction, echocache_invalidate(); and echocache_purge(), echocache_flush_all(). */
proctype Memory()
{
end:
	do
	:: atomic { l_here || l_writer != 0 || l_claims != 0 -> L_GONE }
	:: l_current -> l_current = 0
	od
}

init
{
	byte i;

	atomic {
		kind = DOC;									/* the document is cached, of before all */
		l_here = 1;
		l_current = 1;
		run Memcached();
		run Memory();
		i = 0;
		do
		:: i < WRITERS -> run Writer(i); i++
		:: i >= WRITERS && i < WRITERS + BULKS -> run Bulk(i); i++
		:: i >= WRITERS + BULKS && i < TXNS -> run Prepared(i); i++
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
