/*-------------------------------------------------------------------------
 *
 * fence.pml
 *	  Writers, bulk writers, prepared transactions and readers of one document.
 *
 * The model of src/commit/commit.c and src/read/fill.c with a server that is there: a marker
 * that is not confirmed aborts its transaction (fallback = off; recovery.pml has the
 * outbox).  A process may die at any step, which gives back its locks; the item may
 * vanish or become a marker at any time; step C is sent and not awaited, so it is
 * applied at any later time or never; so is a fill's store that times out.
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

byte store;						/* the key's lock: who holds it in store mode, */
byte invalidate;					/* and how many in invalidate mode */
byte build;						/* and the lock that fills alone take */
byte share;						/* the attachment lock: storers, */
byte bulk;						/* and bulk writers */

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

/* ec_locks_key(EC_LOCK_STORE) without waiting; mine: how often we hold invalidate. */
#ifdef FILL_WITHOUT_LOCK
#define CAN_FILL	true
#else
#define CAN_FILL	(store == 0 && invalidate == 0)
#endif
#define CAN_STORE(mine)	(store == 0 && invalidate == (mine))

inline mark(t)
{
	put(MARKER, 0, t)
}

/* xact_callback(): PRE_COMMIT, COMMIT or ABORT. */
proctype Writer(byte t)
{
	bit shared, holds_store, holds_invalidate;
	byte doc;

#ifdef DOCUMENT_BEFORE_LOCK
	atomic { doc = db | B(t) };		/* the statement's snapshot */
#endif

	/* pre_commit_keys(): the attachment lock, without waiting; policy "invalidate" never takes it */
	atomic {
		if
		:: bulk == 0 -> share++; shared = 1
		:: true
		fi
	};
	/* the key: store if it is free; else invalidate, waiting, and store once more */
#ifdef STORE_WITHOUT_LOCK
	atomic { invalidate++; holds_invalidate = 1; holds_store = 1 };
#else
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
#endif

	/* render(), while the markers are on their way: as early as that may be */
#ifndef DOCUMENT_BEFORE_LOCK
	atomic {
		if
		:: holds_store -> doc = db | B(t)
		:: else
		fi
	};
#endif
	/* ec_invalidate_mark(): step A, awaited */
#ifndef COMMIT_BEFORE_CONFIRMED
	atomic {
		if
		:: mark(TXN(t))
		:: goto ended					/* not confirmed: abort */
		fi
	};
#endif
#ifdef UNLOCK_BEFORE_COMMIT
	d_step {
		if
		:: holds_store -> store = 0
		:: else
		fi;
		invalidate = invalidate - holds_invalidate;
		share = share - shared;
		shared = 0;
		holds_invalidate = 0
	};
#endif

	/* PostgreSQL: visible, the locks are still held; or aborted */
	atomic {
		if
		:: db = db | B(t); check()
		:: goto ended
		fi
	};
#ifdef COMMIT_BEFORE_CONFIRMED
	atomic { acked = acked | B(t); check() };
	atomic { mark(TXN(t)) };
#endif

	/* ec_commit_post(): step C, sent and not awaited; or nothing, or our marker is removed */
	atomic {
		if
		:: holds_store -> store_late(doc, TXN(t))
		:: else
		fi;
		if
		:: goto acknowledged
		:: goto ended					/* dies before anybody hears of it */
		fi
	};

acknowledged:
	atomic {
#ifndef UNLOCK_BEFORE_COMMIT
		if
		:: holds_store -> store = 0
		:: else
		fi;
#endif
		invalidate = invalidate - holds_invalidate;
		share = share - shared
	};
	atomic { acked = acked | B(t); check(); goto done };

ended:
	atomic {
#ifndef UNLOCK_BEFORE_COMMIT
		if
		:: holds_store -> store = 0
		:: else
		fi;
#endif
		invalidate = invalidate - holds_invalidate;
		share = share - shared
	};
done:
	atomic { shared = 0; holds_store = 0; holds_invalidate = 0; doc = 0 }
}

/* pre_commit_bulk(): the attachment lock alone, waiting for those who store just now; no step C. */
proctype Bulk(byte t)
{
#ifndef BULK_WITHOUT_ATTACHMENT_LOCK
	atomic { share == 0 -> bulk++ };
#else
	bulk++;
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
	/* pre_commit_keys(true): invalidate only */
	atomic { store == 0 -> invalidate++ };
	atomic {
		if
		:: mark(TXN(t))
		:: goto ended
		fi
	};
#ifdef PREPARE_DROPS_LOCK
	invalidate--;
#endif
	atomic {
		if
		:: db = db | B(t); check()
		:: goto ended					/* ROLLBACK PREPARED */
		fi
	};
#ifndef PREPARE_DROPS_LOCK
	invalidate--;
#endif
	atomic { acked = acked | B(t); check(); goto done };
ended:
#ifndef PREPARE_DROPS_LOCK
	invalidate--;
#endif
done:
	skip
}

/* ec_read() of one document, READS times. */
proctype Reader(byte r)
{
	byte must;						/* what was acknowledged when the read began */
	byte seen;						/* what this reader has read before */
	byte doc, n;
	bit marked;

	do
	:: n == READS -> break
	:: else ->
#ifdef SNAPSHOT_BEFORE_LOCK
		doc = db;
#endif
		must = acked;
look:
		/* ec_hit_ask() */
		atomic {
			if
			:: kind == DOC -> doc = value; goto answer
			:: kind != DOC
			:: goto table
			fi
		};
		/* lock_keys(): no lock is waited for; who else fills is, by looking again */
		atomic {
			if
			:: build == 0 -> build = READER(r)
			:: build != 0 -> if :: goto look :: goto table fi
			fi
		};
#ifndef FILL_WITHOUT_ATTACHMENT_LOCK
		atomic {
			if
			:: bulk == 0 -> share++
			:: else -> build = 0; goto table
			fi
		};
#endif
		atomic {
			if
			:: CAN_FILL ->
#ifndef FILL_WITHOUT_LOCK
				store = READER(r)
#endif
			:: else ->
#ifndef FILL_WITHOUT_ATTACHMENT_LOCK
				share--;
#endif
				build = 0;
				goto table
			fi
		};
		/* set_markers(): a marker, whatever is there, and the locks go */
#ifdef SNAPSHOT_BEFORE_MARKER
		doc = db;
#endif
		atomic {
			if
			:: mark(READER(r)); marked = 1
			:: true									/* not confirmed: nothing is stored */
			fi
		};
		atomic {
#ifndef FILL_WITHOUT_LOCK
			store = 0;
#endif
#ifndef FILL_WITHOUT_ATTACHMENT_LOCK
			share--
#endif
		};
		/* ec_fill_read(): a fresh snapshot, however long that takes; the store by CAS */
#if !defined(SNAPSHOT_BEFORE_LOCK) && !defined(SNAPSHOT_BEFORE_MARKER)
		doc = db;
#endif
		atomic {
			if
			:: marked -> store_now(doc, READER(r))
			:: marked -> store_late(doc, READER(r))
			:: true									/* or it dies here */
			fi;
			marked = 0;
			build = 0;
			goto answer
		};
table:
		doc = db;
answer:
		atomic {
			assert((must & ~doc) == 0);				/* G2 */
			assert((seen & ~doc) == 0);				/* G3 */
			seen = doc;
			must = 0;
			doc = 0;
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

init
{
	byte i;

	atomic {
		kind = DOC;									/* the document is cached, of before all */
		run Memcached();
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
