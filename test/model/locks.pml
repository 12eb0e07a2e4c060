/*-------------------------------------------------------------------------
 *
 * locks.pml
 *	  Nobody waits in a circle: two documents with a key each.
 *
 * The order of src/commit/commit.c: first attachment locks, for which only a bulk writer
 * waits, then keys by hash, waiting for storers only.  A fill waits for nothing while it
 * holds anything; a prepared transaction waits like a writer and ends when somebody says so.
 * (Rows and tables are locked before all of these, so they are left out.)  What is looked for
 * is an invalid end state.
 *
 * KEYS_UNSORTED, BULK_SHARES_FIRST and FILL_WAITS_FOR_ATTACHMENT_LOCK leave a rule out.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
byte share[2], bulk[2];				/* attachment locks */
bit store[2];						/* keys */
byte invalidate[2];

/* pre_commit_keys(): store if it is free, else invalidate, and store once more. */
inline lock_key(k)
{
	atomic {
		if
		:: shared[k] && store[k] == 0 && invalidate[k] == 0 -> store[k] = 1; stores[k] = 1
		:: else
		fi
	};
	if
	:: stores[k]
	:: else ->
		atomic { store[k] == 0 -> invalidate[k]++; invalidates[k] = 1 };
		atomic {
			if
			:: shared[k] && store[k] == 0 && invalidate[k] == 1 -> store[k] = 1; stores[k] = 1
			:: else
			fi
		}
	fi
}

inline share_attachment(k)
{
	atomic {
		if
		:: !prepare && bulk[k] == 0 -> share[k]++; shared[k] = 1
		:: else
		fi
	}
}

inline give_back(k)
{
	store[k] = store[k] && !stores[k];
	invalidate[k] = invalidate[k] - invalidates[k];
	share[k] = share[k] - shared[k];
	stores[k] = 0; invalidates[k] = 0; shared[k] = 0
}

/* Changes both documents; prepare: and is prepared, and ended by another backend. */
proctype Writer(bit prepare)
{
	bit shared[2], stores[2], invalidates[2];

	share_attachment(0);
	share_attachment(1);
#ifdef KEYS_UNSORTED
	if
	:: true -> lock_key(0); lock_key(1)
	:: true -> lock_key(1); lock_key(0)
	fi;
#else
	lock_key(0);
	lock_key(1);
#endif
	d_step { give_back(0); give_back(1) }
}

/* Changes everything: pre_commit_bulk(). */
proctype Bulk()
{
#ifdef BULK_SHARES_FIRST
	atomic { bulk[0] == 0 -> share[0]++ };
	atomic { share[0] == 1 -> share[0]--; bulk[0]++ };
#else
	atomic { share[0] == 0 -> bulk[0]++ };
#endif
	atomic { share[1] == 0 -> bulk[1]++ };
	d_step { bulk[0]--; bulk[1]-- }
}

/* lock_keys() and set_markers(). */
proctype Fill(byte k)
{
#ifdef FILL_WAITS_FOR_ATTACHMENT_LOCK
	atomic {
		if
		:: store[k] == 0 && invalidate[k] == 0 -> store[k] = 1
		:: else -> goto table
		fi
	};
	atomic { bulk[k] == 0 -> share[k]++ };
#else
	atomic {
		if
		:: bulk[k] == 0 -> share[k]++
		:: else -> goto table
		fi
	};
	atomic {
		if
		:: store[k] == 0 && invalidate[k] == 0 -> store[k] = 1
		:: else -> share[k]--; goto table
		fi
	};
#endif
	d_step { store[k] = 0; share[k]-- };
table:
	skip
}

init
{
	atomic {
		run Writer(0); run Writer(0); run Writer(1);
		run Bulk(); run Bulk();
		run Fill(0); run Fill(1)
	}
}
