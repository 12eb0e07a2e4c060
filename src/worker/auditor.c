/*-------------------------------------------------------------------------
 *
 * auditor.c
 *	  The auditor: compares cached documents to their rows, a few at a time.
 *
 * The launcher starts it in one database at a time, for a turn, and not at all where PostgreSQL has
 * no slot for it.  A turn is as many documents as echocache.audit_rate makes of the time between
 * two turns.  They are found in rounds, each for one attachment: on a page of its table at random,
 * and now and then in the servers' lists of their keys, since a key without a row is nowhere else.
 * All of it are short transactions, which write nothing, and wait for no lock of the fence, nor, to
 * speak of, for any other.
 *
 * Why there is no false alarm.  For what memcached has, that is echocache_verify()'s argument
 * (sql/judge.c).  What the second tier has is read under the key's store lock and the attachment
 * lock, and so is the snapshot taken: no writer is between its lock and its end then, so that the
 * snapshot shows the row that the document was made of.  What a fill or a promotion puts there
 * later is of no concern.  Neither argument is about code: a function that is not what it is
 * declared to be makes one document now and another one then.  So whatever seems wrong is looked at
 * again, a second later and in another transaction, and is an alarm only if it is wrong once more,
 * while the database makes the very document that it made before.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "attachments/attachment.h"
#include "attachments/configuration.h"
#include "attachments/slot.h"
#include "attachments/storage.h"
#include "commit/locks.h"
#include "deadline.h"
#include "guc.h"
#include "net/request.h"
#include "protocol/key.h"
#include "read/entries.h"
#include "read/fetch.h"
#include "read/local.h"
#include "read/render.h"
#include "read/usercode.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "shmem.h"
#include "sql/batch.h"
#include "sql/judge.h"
#include "sql/sample.h"
#include "sql/verify_keys.h"
#include "worker/auditor.h"
#include "worker/helper.h"

/* So many documents are a turn, or those of a second, if that is more. */
#define TURN_DOCUMENTS	60

/*
 * A turn is over after so long, for other databases to have theirs; so is a transaction, if
 * echocache.build_timeout is not shorter; and so are the second looks.
 */
#define TURN_MS			10000

/* Documents that are looked at together; and what a round counts for that finds fewer. */
#define SLICE			20
#define ROUND_LEAST		2

/* From the first look at what seems wrong to the second one. */
#define AGAIN_MS		1000
#define SUSPECTS_MAX	100

/* So many keys of a server's list are as much work as one document. */
#define LIST_KEYS		100

/* Wait so long for a lock that reading a document takes. */
#define LOCK_WAIT		"20ms"

/* Alarms of an attachment that are logged in a minute. */
#define LOGS_PER_MINUTE	10

/* What seems to be wrong, and what came of the second look. */
typedef struct Suspect
{
	char		name[EC_NAME_MAX + 1];	/* of the attachment */
	Oid			relid;
	uint64		generation;
	bool		local;			/* in the second tier */
	EcVerifyKey key;
	text	   *made;			/* the document that the database makes; NULL: none */

	bool		wrong;			/* it is; it has been invalidated */
	bool		ours;			/* we could have made it, some time */
	const char *where;
	EcSlot	   *slot;
} Suspect;

/* A turn, and its present round. */
typedef struct Audit
{
	EcVerify	verify;			/* begun anew in each transaction; random is kept */
	EcDeadline	end;			/* of the turn, or of the second looks */
	MemoryContext turn;			/* of names and suspects */
	MemoryContext round;		/* of keys */
	List	   *names;			/* of the attachments */
	List	   *suspects;
	Suspect    *suspect;		/* that is looked at again */

	const char *name;			/* the round's attachment */
	Oid			relid;
	uint64		generation;		/* that its keys are of */
	bool		list;			/* the servers list their keys */
	int			want;			/* documents, of each tier */
	int			slice;			/* of them in one transaction */
	EcVerifyKey *keys;			/* that memcached has */
	int			nkeys;
	EcVerifyKey *locals;		/* that the second tier may have */
	int			nlocals;
	int			first;			/* of the slice; nslice in it */
	int			nslice;
	int			looked;			/* documents so far */
} Audit;

static int	turn_documents(void);
static bool begin_batch(Audit *audit, const char *name, Oid relid, uint64 generation);
static void find_names(void *arg);
static int	arrange(EcVerify *verify, EcVerifyKey *keys, int n);
static void list_keys(Audit *audit);
static void find_keys(void *arg);
static text *made_of(const EcRow *row);
static bool is_same(const text *a, const text *b);
static void note(Audit *audit, EcVerifyKey *keys, int n, int right, bool local);
static int	judge_locals(Audit *audit, EcVerifyKey *keys, int n, int most);
static void look(void *arg);
static void look_at_locals(void *arg);
static void look_again(void *arg);
static bool may_log(EcSlot *slot);
static void alarm_of(const Suspect *suspect);
static void run(Audit *audit, void (*work) (void *arg));
static int	go_round(Audit *audit, int left);
static void confirm(Audit *audit);

/* As many documents are a turn. */
static int
turn_documents(void)
{
	return Max(ec_guc_audit_rate, TURN_DOCUMENTS);
}

/* From the beginning of a turn to that of the database's next one, in ms. */
int
ec_auditor_interval(void)
{
	return turn_documents() * 1000 / Max(ec_guc_audit_rate, 1);
}

/*
 * Begin a transaction's work on an attachment; if its keys are known already, on those of this
 * table, and of this generation.  Returns false where there is nothing to look at: it is gone, or
 * not cached, or somebody has locked the table.
 */
static bool
begin_batch(Audit *audit, const char *name, Oid relid, uint64 generation)
{
	EcAttachment *att = ec_attachment_by_name(name);
	uint64		random = audit->verify.random;

	if (att == NULL || att->suspended || att->slot == NULL ||
		(OidIsValid(relid) && att->relid != relid) ||
		!ConditionalLockRelationOid(att->relid, AccessShareLock))
		return false;
	memset(&audit->verify, 0, sizeof(EcVerify));
	audit->verify.random = random;
	ec_batch_begin(&audit->verify.batch, "the auditor", name);
	audit->verify.batch.lock_busy = true;	/* no bulk writer is waited for */
	audit->verify.generation = generation;
	return true;
}

/* Work: the names of the attachments. */
static void
find_names(void *arg)
{
	Audit	   *audit = arg;

	MemoryContextSwitchTo(audit->turn);
	audit->names = ec_attachment_names();
}

/* Have each key once, in random order; returns how many. */
static int
arrange(EcVerify *verify, EcVerifyKey *keys, int n)
{
	int			end = Min(n, 1);

	qsort(keys, n, sizeof(EcVerifyKey), ec_verify_keys_compare);
	for (int i = 1; i < n; i++)
		if (ec_verify_keys_compare(&keys[end - 1], &keys[i]) != 0)
			keys[end++] = keys[i];
	for (int i = end - 1; i > 0; i--)
	{
		int			other = (int) (ec_verify_keys_random(verify) % (i + 1));
		EcVerifyKey key = keys[i];

		keys[i] = keys[other];
		keys[other] = key;
	}
	return end;
}

/* Have keys from the servers' lists.  The longer they are the later the next; much, if it fails. */
static void
list_keys(Audit *audit)
{
	EcDatabase *db = ec_state_database();
	int64		lines = 0;
	int64		next_ms = ec_auditor_interval();

	if (db == NULL)
		return;
	db->audit_list_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 10 * next_ms);
	audit->nkeys = ec_sample_list(&audit->verify, audit->keys, audit->want, &lines);
	next_ms = Max(next_ms, lines * 1000 / LIST_KEYS / Max(ec_guc_audit_rate, 1));
	db->audit_list_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), next_ms);
}

/* Work: the keys of a round, in random order. */
static void
find_keys(void *arg)
{
	Audit	   *audit = arg;
	EcVerify   *verify = &audit->verify;

	MemoryContextSwitchTo(audit->round);
	if (!begin_batch(audit, audit->name, InvalidOid, 0))
		return;
	audit->relid = verify->batch.att->relid;
	audit->slice = ec_usercode_runs(verify->batch.att) ? 1 : SLICE;
	if (audit->list)
		list_keys(audit);
	else
		audit->nkeys = ec_sample_rows(verify, audit->keys, EC_BATCH_MAX);
	audit->generation = verify->generation;
	if (audit->nkeys == 0)
		return;
	audit->nkeys = arrange(verify, audit->keys, audit->nkeys);
	if (ec_entries_exist())
	{
		memcpy(audit->locals, audit->keys, audit->nkeys * sizeof(EcVerifyKey));
		audit->nlocals = audit->nkeys;
	}
	audit->nkeys = ec_verify_keys_look(verify, audit->keys, audit->nkeys);
	audit->nkeys = Min(audit->nkeys, audit->want);
}

/* The document that was made of a row, as it would be cached; NULL: none. */
static text *
made_of(const EcRow *row)
{
	const char *value;
	size_t		len;

	if (row == NULL || !ec_render_cacheable(row, &value, &len))
		return NULL;
	return cstring_to_text_with_len(value, (int) len);
}

static bool
is_same(const text *a, const text *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return VARSIZE(a) == VARSIZE(b) && memcmp(a, b, VARSIZE(a)) == 0;
}

/* Of these keys so many were right.  Those that are wrong are to be looked at again. */
static void
note(Audit *audit, EcVerifyKey *keys, int n, int right, bool local)
{
	MemoryContext old = MemoryContextSwitchTo(audit->turn);
	int			looked = right;

	for (int i = 0; i < n; i++)
	{
		Suspect    *suspect;

		if (!keys[i].wrong)
			continue;
		looked++;
		suspect = palloc0(sizeof(Suspect));
		strlcpy(suspect->name, audit->name, sizeof(suspect->name));
		suspect->relid = audit->relid;
		suspect->generation = audit->generation;
		suspect->local = local;
		suspect->key = keys[i];
		suspect->key.key = pstrdup(keys[i].key);
		suspect->key.id = keys[i].id ? pstrdup(keys[i].id) : NULL;
		suspect->made = made_of(keys[i].row);
		audit->suspects = lappend(audit->suspects, suspect);
	}
	audit->looked += looked;
	ec_slot_count(audit->verify.batch.att->slot, EC_AUDITED, looked);
	MemoryContextSwitchTo(old);
}

/*
 * Compare what the second tier has under these keys, the first most of them, to the rows.  wrong
 * says which of them differ.  A key that is locked is left out: a writer is at it.  So are all,
 * if rows may be missing, of tables that were being rewritten.  Returns how many were right.
 * Throws what ec_batch_enter() and ec_fetch() throw.
 */
static int
judge_locals(Audit *audit, EcVerifyKey *keys, int n, int most)
{
	EcBatch    *batch = &audit->verify.batch;
	EcAttachment *att;
	EcRow	   *rows = palloc0(n * sizeof(EcRow));
	EcVerifyKey **found = palloc(n * sizeof(EcVerifyKey *));
	struct varlena **bytes = palloc(n * sizeof(struct varlena *));
	size_t	   *lens = palloc(n * sizeof(size_t));
	int			nfound = 0;
	int			right = 0;
	Snapshot	snapshot;
	uint64		since = ec_storage_now();
	bool		whole;

	for (int i = 0; i < n; i++)
		keys[i].wrong = false;
	if (!ec_batch_enter(batch))
		return 0;
	att = batch->att;
	for (int i = 0; i < n && nfound < most; i++)
	{
		EcVerifyKey *key = &keys[i];
		uint64		hash;

		if (key->id == NULL)
			continue;
		hash = ec_locks_hash(att->relid, key->id, (int) strlen(key->id));
		if (!ec_locks_key(hash, EC_LOCK_STORE, false))
			continue;
		bytes[nfound] = ec_local_peek(att, hash, key->id, &lens[nfound]);
		if (bytes[nfound] == NULL)
		{
			ec_locks_release_key(hash, EC_LOCK_STORE);
			continue;
		}
		rows[nfound].id = key->id;
		key->row = &rows[nfound];
		found[nfound++] = key;
	}
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	for (int f = 0; f < nfound; f++)
		ec_locks_release_key(ec_locks_hash(att->relid, rows[f].id, (int) strlen(rows[f].id)),
							 EC_LOCK_STORE);
	ec_batch_unlock(batch);
	ec_batch_leave(batch);
	whole = ec_fetch(att, rows, nfound, snapshot, since, true);
	UnregisterSnapshot(snapshot);
	for (int f = 0; f < nfound && whole; f++)
	{
		const char *value;
		size_t		len;

		found[f]->wrong = !ec_render_cacheable(&rows[f], &value, &len) || len != lens[f] ||
			memcmp(value, VARDATA(bytes[f]), len) != 0;
		right += !found[f]->wrong;
	}
	return right;
}

/* Work: look at a slice of what memcached has. */
static void
look(void *arg)
{
	Audit	   *audit = arg;
	EcVerify   *verify = &audit->verify;
	EcVerifyKey *keys = audit->keys + audit->first;
	EcRequest  *reqs = palloc(audit->nslice * sizeof(EcRequest));

	MemoryContextSwitchTo(audit->round);
	if (!begin_batch(audit, audit->name, audit->relid, audit->generation) ||
		!ec_batch_enter(&verify->batch))
		return;
	ec_verify_keys_check_topology(verify);
	ec_judge_look(verify, keys, reqs, audit->nslice);
	ec_batch_leave(&verify->batch);
	note(audit, keys, audit->nslice, (int) verify->matching, false);
}

/* Work: look at a slice of what the second tier may have; if code of a user's runs, at one. */
static void
look_at_locals(void *arg)
{
	Audit	   *audit = arg;
	EcVerifyKey *keys = audit->locals + audit->first;

	MemoryContextSwitchTo(audit->round);
	if (begin_batch(audit, audit->name, audit->relid, audit->generation))
		note(audit, keys, audit->nslice,
			 judge_locals(audit, keys, audit->nslice, audit->slice), true);
}

/*
 * Work: look at a suspect again.  If it is wrong still, and the database makes the same document as
 * before, it is invalidated.
 */
static void
look_again(void *arg)
{
	Audit	   *audit = arg;
	Suspect    *suspect = audit->suspect;
	EcVerify   *verify = &audit->verify;
	EcVerifyKey *key = &suspect->key;
	EcRequest	req;

	MemoryContextSwitchTo(audit->turn);
	if (!begin_batch(audit, suspect->name, suspect->relid, suspect->generation))
		return;
	suspect->slot = verify->batch.att->slot;
	key->done = false;
	if (suspect->local)
	{
		(void) judge_locals(audit, key, 1, 1);
		if (!key->wrong || !is_same(made_of(key->row), suspect->made))
			return;
		ec_local_drop(verify->batch.att,
					  ec_locks_hash(suspect->relid, key->id, (int) strlen(key->id)));
		suspect->ours = suspect->wrong = true;
		return;
	}
	if (!ec_batch_enter(&verify->batch))
		return;
	ec_verify_keys_check_topology(verify);
	ec_judge_look(verify, key, &req, 1);
	if (key->wrong && is_same(made_of(key->row), suspect->made))
	{
		(void) ec_judge_invalidate(verify, key, &req, 1);
		suspect->wrong = key->wrong;
		suspect->where = pstrdup(ec_placement_name(key->server));
	}
	ec_batch_leave(&verify->batch);
	if (!suspect->wrong)
		return;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	suspect->ours = ec_judge_is_ours(verify, key, &req);
	SPI_finish();
}

/*
 * May another alarm of this attachment be logged?  audit_logged has the minute, and how many
 * were logged in it.  There is one auditor at a time.
 */
static bool
may_log(EcSlot *slot)
{
	uint64		minute = (uint64) (GetCurrentTimestamp() / USECS_PER_MINUTE);
	uint64		logged = pg_atomic_read_u64(&slot->audit_logged);
	uint64		n = logged >> 8 == minute ? logged & 0xff : 0;

	if (n == LOGS_PER_MINUTE)
		return false;
	pg_atomic_write_u64(&slot->audit_logged, minute << 8 | (n + 1));
	return true;
}

/* Count an alarm, and log it. */
static void
alarm_of(const Suspect *suspect)
{
	char	   *key = pstrdup(suspect->key.key);

	ec_slot_count(suspect->slot, suspect->ours ? EC_AUDIT_STALE : EC_AUDIT_FOREIGN, 1);
	if (!may_log(suspect->slot))
		return;
	for (char *p = key; *p; p++)
		if (*p < 0x21 || *p > 0x7e)
			*p = '?';			/* no key that we would make */
	ereport(WARNING,
			(errmsg("echocache: the cache had %s document under key \"%s\"",
					suspect->ours ? "a stale" : "a foreign", key),
			 suspect->local ? errdetail("Shared memory had it, for document \"%s\".  It has been "
										"invalidated.", suspect->name)
			 : errdetail("Server \"%s\" had it, for document \"%s\".  It has been invalidated.",
						 suspect->where, suspect->name),
			 suspect->ours ? errhint("The database has another document there, or none.  "
									 "\"When the auditor finds something\" in doc/failures.md "
									 "says what may have happened.")
			 : errhint("Something else than echocache stores under these keys.")));
}

/* Do some work in a transaction.  What it throws is no alarm: the document is left to others. */
static void
run(Audit *audit, void (*work) (void *arg))
{
	int			limit = ec_guc_build_timeout > 0 ? Min(ec_guc_build_timeout, TURN_MS) : TURN_MS;
	ErrorData  *error = ec_helper_run(work, audit, limit);

	if (error == NULL)
		return;
	ereport(DEBUG1,
			(errmsg_internal("echocache: the auditor left something out: %s", error->message)));
	FreeErrorData(error);
}

/* Look at some documents of an attachment, so many at most; returns what that counts for. */
static int
go_round(Audit *audit, int left)
{
	EcDatabase *db = ec_state_database();

	audit->list = db != NULL && db->audit_list_at <= GetCurrentTimestamp();
	audit->want = Min(audit->list ? Max(left / 2, 1) : Min(left, SLICE), EC_BATCH_MAX);
	audit->nkeys = audit->nlocals = audit->looked = 0;
	MemoryContextSwitchTo(audit->round);
	MemoryContextReset(audit->round);
	audit->keys = palloc(EC_BATCH_MAX * sizeof(EcVerifyKey));
	audit->locals = palloc(EC_BATCH_MAX * sizeof(EcVerifyKey));
	pgstat_report_activity(STATE_RUNNING, psprintf("looking at documents %s", audit->name));
	run(audit, find_keys);
	for (audit->first = 0; audit->first < audit->nkeys && ec_deadline_left(audit->end) > 0;
		 audit->first += audit->slice)
	{
		audit->nslice = Min(audit->slice, audit->nkeys - audit->first);
		run(audit, look);
	}
	for (audit->first = 0; audit->first < audit->nlocals && audit->looked < 2 * audit->want &&
		 ec_deadline_left(audit->end) > 0; audit->first += SLICE)
	{
		audit->nslice = Min(SLICE, audit->nlocals - audit->first);
		run(audit, look_at_locals);
	}
	return Max(audit->looked, ROUND_LEAST);
}

/*
 * After a while, look at the suspects again, and tell of those that are wrong.  What there is no
 * time for another turn finds.
 */
static void
confirm(Audit *audit)
{
	EcDeadline	again = ec_deadline_in(AGAIN_MS);
	ListCell   *lc;

	while (ec_deadline_left(again) > 0 && !ec_helper_is_over())
		ec_deadline_nap(ec_deadline_left(again), EC_WAIT_AUDITOR);
	MemoryContextSwitchTo(audit->turn);
	audit->end = ec_deadline_in(TURN_MS);
	foreach(lc, audit->suspects)
	{
		if (ec_helper_is_over() || ec_deadline_left(audit->end) == 0)
			return;
		audit->suspect = lfirst(lc);
		run(audit, look_again);
		if (audit->suspect->wrong)
			alarm_of(audit->suspect);
	}
}

/* The process: a turn. */
void
echocache_auditor_main(Datum arg)
{
	Audit		audit = {0};
	int			left;

	ec_helper_begin(EC_AUDITOR);
	left = turn_documents();
	SetConfigOption("lock_timeout", LOCK_WAIT, PGC_SUSET, PGC_S_OVERRIDE);
	audit.turn = AllocSetContextCreate(TopMemoryContext, "echocache audit",
									   ALLOCSET_DEFAULT_SIZES);
	audit.round = AllocSetContextCreate(TopMemoryContext, "echocache audit round",
										ALLOCSET_DEFAULT_SIZES);
	if (!pg_strong_random(&audit.verify.random, sizeof(audit.verify.random)))
		proc_exit(0);
	MemoryContextSwitchTo(audit.turn);
	audit.end = ec_deadline_in(TURN_MS);
	run(&audit, find_names);
	while (!ec_helper_is_over() && audit.names != NIL && left > 0 &&
		   ec_deadline_left(audit.end) > 0 && list_length(audit.suspects) < SUSPECTS_MAX &&
		   ec_guc_audit_rate > 0 && !RecoveryInProgress())
	{
		audit.name = list_nth(audit.names, ec_verify_keys_random(&audit.verify) %
							  list_length(audit.names));
		left -= go_round(&audit, left);
	}
	if (audit.suspects != NIL)
		confirm(&audit);
	proc_exit(0);
}
