/*-------------------------------------------------------------------------
 *
 * flush.pml
 *	  Ahead of the disk (G4): commits that are visible before they are flushed.
 *
 * Writers that commit with synchronous_commit on or off, and readers that fill; the
 * WAL may be flushed up to its end at any time.  The assertion is that a cached
 * document shows flushed commits only, at every instant: so a crash, which takes
 * back the others, needs no step of its own.  The fence is that of fence.pml.
 *
 * STORE_UNFLUSHED, FILL_UNFLUSHED, FLUSH_SEEN_BEFORE_LOCK and PUBLISHED_AFTER_UNLOCK leave a
 * rule out.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#define WRITERS		3
#define READERS		2

byte db;						/* visible transactions */
byte durable;					/* those whose commit record is flushed */
byte wal;						/* the end of the WAL: commit records so far */
byte flushed;					/* and how far it is flushed */
byte lsn[WRITERS];
byte async_lsn;					/* EcSlot.async_lsn */

byte store, invalidate;			/* the key's lock, as in fence.pml */

#include "memcached.pml"

inline check()
{
	assert(kind != DOC || (value & ~durable) == 0);
}

#define TXN(t)		((t) + 1)
#define READER(r)	((r) + WRITERS + 1)

/* XLogFlush() */
inline flush(upto)
{
	flushed = (upto > flushed -> upto : flushed);
	durable = (lsn[0] != 0 && lsn[0] <= flushed) +
		(lsn[1] != 0 && lsn[1] <= flushed) * 2 +
		(lsn[2] != 0 && lsn[2] <= flushed) * 4
}

proctype Writer(byte t)
{
	bit holds_store, holds_invalidate;
	byte doc;

	atomic {
		if
		:: store == 0 && invalidate == 0 -> store = TXN(t); holds_store = 1
		:: store == 0 -> invalidate++; holds_invalidate = 1
		fi
	};
	atomic {
		if
		:: holds_store -> doc = db | B(t)
		:: else
		fi;
		put(MARKER, 0, TXN(t))
	};

	/* RecordTransactionCommit() */
	atomic { wal++; lsn[t] = wal };
	atomic {
		if
		:: flush(lsn[t])
		:: true								/* synchronous_commit = off */
		fi
	};
	db = db | B(t);							/* ProcArrayEndTransaction() */

	/* ec_commit_post() */
	atomic {
		if
#ifdef STORE_UNFLUSHED
		:: true ->
#else
		:: lsn[t] <= flushed ->
#endif
			if
			:: holds_store -> store_late(doc, TXN(t))
			:: else
			fi
#ifndef STORE_UNFLUSHED
		:: else ->
#ifndef PUBLISHED_AFTER_UNLOCK
			async_lsn = (lsn[t] > async_lsn -> lsn[t] : async_lsn)
#endif
#endif
		fi
	};
	atomic {
		if
		:: holds_store -> store = 0
		:: else
		fi;
		invalidate = invalidate - holds_invalidate
	};
#ifdef PUBLISHED_AFTER_UNLOCK
	atomic { async_lsn = (lsn[t] > flushed && lsn[t] > async_lsn -> lsn[t] : async_lsn) };
#endif
	atomic { doc = 0; holds_store = 0; holds_invalidate = 0 }
}

/* A miss, and its fill; the cache's answers are fence.pml's affair. */
proctype Reader(byte r)
{
	byte doc;

#ifdef FLUSH_SEEN_BEFORE_LOCK
	async_lsn <= flushed;
#endif
	/* lock_keys(): under the lock, ec_slot_is_flushed() */
	atomic {
		if
		:: store == 0 && invalidate == 0 -> store = READER(r)
		:: goto table
		fi
	};
#if !defined(FLUSH_SEEN_BEFORE_LOCK) && !defined(FILL_UNFLUSHED)
	atomic {
		if
		:: async_lsn <= flushed
		:: else -> store = 0; goto table
		fi
	};
#endif
	atomic { put(MARKER, 0, READER(r)) };
	store = 0;
	doc = db;
	atomic {
		if
		:: true -> store_now(doc, READER(r))
		:: true -> store_late(doc, READER(r))
		fi;
		doc = 0
	};
table:
	skip
}

proctype WalWriter()
{
end:
	do
	:: atomic { flushed < wal -> flush(wal) }
	od
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
	atomic {
		kind = DOC;
		run WalWriter();
		run Memcached();
		run Writer(0); run Writer(1); run Writer(2);
		run Reader(0); run Reader(1)
	}
}
