/*-------------------------------------------------------------------------
 *
 * reader.c
 *	  The read path: hits, fills, and the table where the cache must not answer.
 *
 * A read takes what a server that is UP holds; everything else comes from the
 * table.  What a cache holds never raises an error: bytes that are not a document
 * of ours are a miss, and are invalidated.
 *
 * A fill holds the key in store mode from before its marker to after its store,
 * so that no writer of the document is between its marker and its end; its
 * snapshot is taken under the lock, after the marker.  Whatever happens to its
 * requests on the way, the store succeeds only over that marker.  The locks of a
 * fill are conditional, and released at once.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "build.h"
#include "cluster.h"
#include "compat.h"
#include "fence.h"
#include "guc.h"
#include "jsonscan.h"
#include "pending.h"
#include "reader.h"
#include "render.h"
#include "waitpoint.h"

/* Documents that one call fills: each takes a lock, of which there are not many. */
#define EC_FILL_MAX		500

/* How the owner is asked for: his text, and the member that his documents show. */
typedef struct Owner
{
	const char *text;			/* NULL: not asked for */
	char	   *member;
	int			memberlen;
	int			namelen;
} Owner;

typedef enum FillLock
{
	FILL_LOCKED,				/* class and key are ours */
	FILL_BUSY,					/* somebody else is about to store */
	FILL_NO						/* not now */
} FillLock;

static void make_owner(EcAttachment *att, const char *text, Owner *owner);
static bool bypass_all(EcAttachment *att, EcItem *items, int n, bool *as_owner);
static void classify(EcAttachment *att, EcItem *items, int n);
static void ask_cache(EcAttachment *att, EcItem *items, int n, const Owner *owner);
static bool take_hit(EcAttachment *att, EcItem *item, EcRequest *req, const Owner *owner);
static bool may_fill(EcAttachment *att);
static FillLock lock_item(EcAttachment *att, EcItem *item);
static void unlock_item(EcAttachment *att, EcItem *item);
static void unlock_fills(EcAttachment *att, EcItem *items, int n);
static void lock_for_fill(EcAttachment *att, EcItem *items, int n, const Owner *owner);
static int	read_and_fill(EcAttachment *att, EcItem *items, int n, const char *owner,
						  bool as_owner);
static void lock_table(Oid relid);
static void lock_tables(EcAttachment *att);
static bool enter_for_fill(EcAttachment **att, EcItem *items, int n);
static void make_request(EcRequest *req, EcRequestKind kind, const EcItem *item);
static bool one_item(EcAttachment *att, const char *id, EcItem *item);

/*
 * All exchanges of one read together wait no longer than echocache.timeout: a
 * server that answers each just in time must not make it a multiple.
 */
static int64 spent_us;

static bool
exchange(EcRequest *reqs, int n)
{
	EcDeadline	start = ec_deadline_in(0);
	bool		ok;

	ok = ec_exchange(reqs, n, start + Max(ec_guc_timeout * INT64CONST(1000) - spent_us, 1000), 0);
	spent_us += ec_deadline_in(0) - start;
	return ok;
}

/* Is there so much of that left that a slow answer will not pass for none? */
static bool
time_is_left(void)
{
	return spent_us < ec_guc_timeout * INT64CONST(1000) / 2;
}

/* ---------------------------------------------------------------- checks */

/*
 * May the current role read this document?  As SQL has it: USAGE on the schema, and
 * SELECT on the table or on each column that the document shows; and EXECUTE on the
 * function that makes it, whose grant stands for what that reads.  Throws 42501 if not,
 * 42883 if that function is gone.
 */
void
ec_permission_check(EcAttachment *att)
{
	Oid			user = GetUserId();
	int			attno = -1;

	if (ec_compat_namespace_aclcheck(att->namespace, user, ACL_USAGE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_SCHEMA, get_namespace_name(att->namespace));
	if (att->function_name && !OidIsValid(att->function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s of document \"%s\" does not exist any more",
						att->function_name, att->name),
				 errhint("Create it again, or detach the document and attach the table again.")));
	if (pg_class_aclcheck(att->relid, user, ACL_SELECT) != ACLCHECK_OK)
		while ((attno = bms_next_member(att->columns, attno)) >= 0)
			if (pg_attribute_aclcheck(att->relid, attno, user, ACL_SELECT) != ACLCHECK_OK)
				aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(att->relid));
	if (att->function_name && ec_compat_proc_aclcheck(att->function, user, ACL_EXECUTE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(att->function));
}

static void
make_owner(EcAttachment *att, const char *text, Owner *owner)
{
	owner->text = NULL;
	if (text == NULL)
		return;
	if (!att->has_owner)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("document \"%s\" has no owner column", att->name),
				 errhint("Attach its table with owner_column => '...', or call the "
						 "function without an owner.")));
	owner->text = ec_column_canonical(att, &att->owner, text);
	owner->member = ec_owner_member(att, owner->text, &owner->memberlen,
											 &owner->namelen);
}

/*
 * Where nobody may be answered from the cache: count why, mark all items, and
 * say whether the table's owner may read for us (not under row security).
 */
static bool
bypass_all(EcAttachment *att, EcItem *items, int n, bool *as_owner)
{
	EcCounter	why;

	*as_owner = true;
	if (check_enable_rls(att->relid, InvalidOid, true) == RLS_ENABLED)
	{
		*as_owner = false;
		why = EC_BYPASS_ROW_SECURITY;
	}
	else if (IsolationUsesXactSnapshot() || IsInParallelMode())
		why = EC_BYPASS_ISOLATION;
	else if (att->suspended || !ec_placement_enter())
		why = EC_BYPASS_DISABLED;
	else
		return false;
	for (int i = 0; i < n; i++)
		items[i].state = EC_ITEM_TABLE;
	ec_slot_count(att->slot, why, n);
	return true;
}

/* Which items may the cache answer?  The topology is entered. */
static void
classify(EcAttachment *att, EcItem *items, int n)
{
	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];
		int			idlen = (int) strlen(item->id);

		item->state = EC_ITEM_TABLE;
		item->json = NULL;
		item->keylen = ec_attachment_key(att, item->id, item->key);
		if (item->keylen == 0)
			ec_slot_count(att->slot, EC_BYPASS_KEY, 1);
		else if (ec_pending_has(att->relid, item->id, idlen))
			ec_slot_count(att->slot, EC_BYPASS_OWN_CHANGE, 1);
		else
		{
			item->hash = ec_locks_hash(att->relid, item->id, idlen);
			item->server = ec_placement_of(item->key, item->keylen);
			if (ec_state_of(item->server) == EC_UP)
				item->state = EC_ITEM_ASK;
			else
				ec_slot_count(att->slot, EC_BYPASS_SERVER, 1);
			if (item->state == EC_ITEM_TABLE && !ec_guc_fallback)
				ereport(ERROR,
						(errcode(ERRCODE_CONNECTION_FAILURE),
						 errmsg("cache server \"%s\" is not available",
								ec_placement_name(item->server)),
						 errhint("The table is not read instead because echocache.fallback "
								 "is off.")));
		}
	}
}

/* ---------------------------------------------------------------- hits */

static void
make_request(EcRequest *req, EcRequestKind kind, const EcItem *item)
{
	memset(req, 0, sizeof(EcRequest));
	req->kind = kind;
	req->server = item->server;
	req->key = item->key;
	req->keylen = item->keylen;
	req->token = item->token;
	req->ttl = -1;
	if (kind == EC_REQUEST_MARK)
	{
		req->value = EC_MARKER;
		req->valuelen = EC_MARKER_LEN;
		req->ttl = ec_guc_marker_ttl;
	}
}

/*
 * Ask the cache for every item in state ASK; hits become DONE.  What is there
 * but is no document is invalidated, by its token.
 */
static void
ask_cache(EcAttachment *att, EcItem *items, int n, const Owner *owner)
{
	EcRequest		one;
	EcRequest	   *reqs = n == 1 ? &one : palloc(n * sizeof(EcRequest));
	bool		timed_out;
	int			bad = 0;

	for (int i = 0; i < n; i++)
	{
		make_request(&reqs[i], EC_REQUEST_GET, &items[i]);
		reqs[i].skip = items[i].state != EC_ITEM_ASK;
		if (att->touch_on_read && !RecoveryInProgress())
			reqs[i].ttl = ec_request_ttl(ec_attachment_ttl(att));
	}
	if (!exchange(reqs, n))
	{
		(void) ec_exchange_last_failure(&timed_out);
		ec_slot_count(att->slot, timed_out ? EC_TIMEOUTS : EC_ERRORS, 1);
		if (!ec_guc_fallback)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not read from the cache: %s", ec_exchange_last_failure(NULL)),
					 errhint("The table is not read instead because echocache.fallback is off.")));
	}
	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];
		EcRequest	   *req = &reqs[i];

		if (req->skip)
			continue;
		if (req->result == EC_FAILED)
			item->state = EC_ITEM_TABLE;
		else if (req->result == EC_DONE && !take_hit(att, item, req, owner))
		{
			item->token = req->token;
			make_request(req, EC_REQUEST_REMOVE, item);
			bad++;
			continue;
		}
		req->skip = true;
	}
	ec_slot_count(att->slot, EC_ERRORS, bad);
	if (bad > 0 && !RecoveryInProgress())
		(void) exchange(reqs, n);
	if (reqs != &one)
		pfree(reqs);
}

/* A value from the cache.  false: it is neither a document of ours nor a marker. */
static bool
take_hit(EcAttachment *att, EcItem *item, EcRequest *req, const Owner *owner)
{
	const char *value = VARDATA(req->found);
	size_t		len = req->found_len;
	const char *converted;

	if (len == EC_MARKER_LEN && memcmp(value, EC_MARKER, EC_MARKER_LEN) == 0)
	{
		pfree(req->found);
		return true;			/* a marker: still to be asked elsewhere */
	}
	if (len < 2 || len > MaxAllocSize - VARHDRSZ - 2 ||
		value[0] != '{' || value[len - 1] != '}' ||
		(converted = ec_encoding_from_utf8(value, &len)) == NULL)
	{
		pfree(req->found);
		return false;
	}
	if (owner->text != NULL)
	{
		switch (ec_jsonscan_member(value, req->found_len, owner->member, owner->memberlen,
							   owner->namelen))
		{
			case EC_MEMBER_EQUAL:
				break;
			case EC_MEMBER_DIFFERS:
				ec_slot_count(att->slot, EC_HITS, 1);
				item->state = EC_ITEM_DONE;
				pfree(req->found);
				return true;
			case EC_MEMBER_UNKNOWN:
				ec_slot_count(att->slot, EC_BYPASS_OWNER, 1);
				item->state = EC_ITEM_TABLE;
				pfree(req->found);
				return true;
		}
	}
	ec_slot_count(att->slot, EC_HITS, 1);
	item->state = EC_ITEM_DONE;
	item->json = converted == value ? (text *) req->found
		: cstring_to_text_with_len(converted, (int) len);
	return true;
}

/* ---------------------------------------------------------------- fills */

/* No fill in recovery, nor in a transaction that has written anything, nor ahead of the disk. */
static bool
may_fill(EcAttachment *att)
{
	return att->slot != NULL && !att->suspended && !RecoveryInProgress() &&
		!TransactionIdIsValid(GetTopTransactionIdIfAny()) && ec_build_may_store(att);
}

/* Take the class in share mode and the key in store mode, neither with waiting. */
static FillLock
lock_item(EcAttachment *att, EcItem *item)
{
	FillLock	result = FILL_NO;

	if (!ec_locks_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE, false))
		return FILL_NO;			/* a bulk writer is at work */
	if (ec_locks_key(item->hash, EC_LOCK_STORE, false))
	{
		/*
		 * G4: read under the lock, so that who published before us is seen; likewise
		 * who has changed what we know of the document
		 */
		if (ec_slot_is_flushed(att->slot) && ec_attachment_by_name(att->name) == att)
			return FILL_LOCKED;
		ec_locks_release_key(item->hash, EC_LOCK_STORE);
	}
	else if (ec_locks_key(item->hash, EC_LOCK_INVALIDATE, false))
	{
		/* invalidators only, perhaps a prepared transaction for hours: do not wait */
		ec_locks_release_key(item->hash, EC_LOCK_INVALIDATE);
	}
	else
		result = FILL_BUSY;		/* somebody is about to store */
	ec_locks_release_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE);
	return result;
}

static void
unlock_item(EcAttachment *att, EcItem *item)
{
	ec_locks_release_key(item->hash, EC_LOCK_STORE);
	ec_locks_release_attachment(att->relid, EC_LOCK_ATTACHMENT_SHARE);
}

/* Give up all fills: the table is to answer. */
static void
unlock_fills(EcAttachment *att, EcItem *items, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (items[i].state != EC_ITEM_FILL)
			continue;
		unlock_item(att, &items[i]);
		items[i].state = EC_ITEM_TABLE;
	}
}

/*
 * Lock what is still in state ASK for filling: FILL where that succeeds, else
 * TABLE.  A single item whose key is held by somebody who is about to store is
 * waited for, by looking again from time to time and outside the lock's queue:
 * DONE, if that brings it.  So of many who miss a document, one builds it.
 */
static void
lock_for_fill(EcAttachment *att, EcItem *items, int n, const Owner *owner)
{
	bool		fill = may_fill(att);
	EcDeadline	deadline = ec_deadline_in(ec_guc_fill_wait);
	long		delay = 1;
	int			fills = 0;

	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];
		FillLock	lock = FILL_NO;
		bool		waited = false;

		if (item->state != EC_ITEM_ASK)
			continue;
		ec_slot_count(att->slot, EC_MISSES, 1);
		while (fill && fills < EC_FILL_MAX && time_is_left() &&
			   (lock = lock_item(att, item)) == FILL_BUSY && n == 1 &&
			   ec_deadline_left(deadline) > 0)
		{
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 Min(delay, ec_deadline_left(deadline)), PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
			delay = Min(delay * 2, 20);
			waited = true;
			spent_us = 0;		/* how often is bounded by fill_wait, each by its own time */
			ask_cache(att, item, 1, owner);
			if (item->state != EC_ITEM_ASK)
				break;
		}
		if (lock == FILL_LOCKED && waited)
			ask_cache(att, item, 1, owner); /* it has probably just been stored */
		if (item->state != EC_ITEM_ASK)
		{
			if (lock == FILL_LOCKED)
				unlock_item(att, item);
			continue;
		}
		item->state = lock == FILL_LOCKED ? EC_ITEM_FILL : EC_ITEM_TABLE;
		fills += lock == FILL_LOCKED;
		if (lock != FILL_LOCKED)
			ec_slot_count(att->slot, EC_FILLS_REFUSED, 1);
	}
}

/*
 * Read from the table what is in state TABLE or FILL; store the latter, and
 * release the locks.  as_owner: the table's owner reads.  Returns how many were
 * stored.
 */
static int
read_and_fill(EcAttachment *att, EcItem *items, int n, const char *owner, bool as_owner)
{
	EcRequest	   *reqs = palloc(n * sizeof(EcRequest));
	EcRow	   *rows = palloc(n * sizeof(EcRow));
	EcItem	  **wanted = palloc(n * sizeof(EcItem *));
	int			nrows = 0;
	int			fills = 0;
	int			stored = 0;
	int			refused = 0;

	for (int i = 0; i < n; i++)
	{
		make_request(&reqs[i], EC_REQUEST_MARK, &items[i]);
		reqs[i].skip = items[i].state != EC_ITEM_FILL;
		fills += !reqs[i].skip;
		if (items[i].state == EC_ITEM_DONE)
			continue;
		wanted[nrows] = &items[i];
		rows[nrows++].id = items[i].id;
	}
	if (nrows == 0)
		return 0;

	if (fills > 0)
	{
		ec_waitpoint("fill-locked");
		(void) exchange(reqs, n);
		ec_slot_count(att->slot, EC_MARKERS, fills);
		for (int i = 0; i < n; i++)
			items[i].token = reqs[i].result == EC_DONE ? reqs[i].token : 0;
		ec_waitpoint("fill-marked");
	}

	/* a fresh snapshot, after the marker; but in REPEATABLE READ, the transaction's own */
	if (!IsInParallelMode())
		CommandCounterIncrement();
	if (fills > 0 && att->function_name &&
		ec_fetch_guarded(att, rows, nrows, false) == EC_FETCH_BLOCKED)
	{
		/* somebody has locked what the function reads, and may wait for us: no fill */
		unlock_fills(att, items, n);
		ec_slot_count(att->slot, EC_FILLS_REFUSED, fills);
		fills = 0;
	}
	if (fills == 0 || !att->function_name)
		ec_fetch(att, rows, nrows, IsInParallelMode() ? GetActiveSnapshot() :
						  IsolationUsesXactSnapshot() ? GetTransactionSnapshot() :
						  GetLatestSnapshot(), as_owner);

	for (int r = 0; r < nrows; r++)
	{
		EcItem	   *item = wanted[r];
		EcRequest	   *req = &reqs[item - items];

		if (rows[r].matches > 1 && IsolationUsesXactSnapshot() &&
			ec_pending_has(att->relid, item->id, (int) strlen(item->id)))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access to document \"%s\" with %s \"%s\"",
							att->name, NameStr(att->key.name), item->id),
					 errdetail("Others have deleted its row after this transaction's snapshot, "
							   "which still shows it beside the one that was inserted here."),
					 errhint("The transaction might succeed if retried.")));
		if (rows[r].matches > 1)
			ereport(ERROR,
					(errcode(ERRCODE_CARDINALITY_VIOLATION),
					 errmsg("document \"%s\" has more than one row with %s \"%s\"",
							att->name, NameStr(att->key.name), item->id),
					 errhint("The key column of an attached table must be unique.")));
		if (rows[r].matches == 1 &&
			(owner == NULL || (rows[r].owner && strcmp(rows[r].owner, owner) == 0)))
			item->json = rows[r].json;

		req->skip = true;
		if (item->state == EC_ITEM_FILL && item->token != 0)
		{
			const char *value = NULL;
			size_t		len = 0;
			bool		store = ec_render_cacheable(&rows[r], &value, &len) &&
				ec_placement_fits(item->server, item->keylen, len);

			make_request(req, store ? EC_REQUEST_STORE : EC_REQUEST_REMOVE, item);
			if (!store)
				continue;		/* a value behind a removal would be taken for requests */
			req->value = value;
			req->valuelen = len;
			req->ttl = ec_request_ttl(ec_attachment_ttl(att));
		}
	}
	if (fills > 0)
	{
		ec_waitpoint("fill-read");
		if (time_is_left())
			(void) exchange(reqs, n);
		else
			ec_exchange_send(reqs, n, ec_deadline_in(ec_guc_timeout / 4));	/* it may as well come late */
		for (int i = 0; i < n; i++)
		{
			if (items[i].state != EC_ITEM_FILL)
				continue;
			if (reqs[i].kind == EC_REQUEST_STORE && reqs[i].result == EC_DONE)
				stored++;
			else if (items[i].json != NULL)
				refused++;
			unlock_item(att, &items[i]);
		}
		ec_slot_count(att->slot, EC_FILLS, stored);
		ec_slot_count(att->slot, EC_FILLS_REFUSED, refused);
	}
	pfree(reqs);
	pfree(rows);
	pfree(wanted);
	return stored;
}

/*
 * Read n documents with distinct ids; with an owner, his only.  Throws what SQL
 * throws for the table (privileges first), and with fallback = off a cache that
 * is not there.
 */
void
ec_read(const char *name, EcItem *items, int n, const char *owner_text)
{
	EcAttachment *att = ec_attachment_require(name);
	Owner		owner;
	bool		as_owner;
	bool		entered = false;

	spent_us = 0;
	ec_permission_check(att);
	make_owner(att, owner_text, &owner);
	for (int i = 0; i < n; i++)
		items[i].json = NULL;
	if (!bypass_all(att, items, n, &as_owner))
	{
		bool		done = true;

		classify(att, items, n);
		ask_cache(att, items, n, &owner);
		for (int i = 0; i < n; i++)
			done &= items[i].state == EC_ITEM_DONE;
		ec_topology_leave();
		if (done)
			return;
		entered = enter_for_fill(&att, items, n);
		if (entered)
			lock_for_fill(att, items, n, &owner);
	}
	(void) read_and_fill(att, items, n, owner.text, as_owner);
	if (entered)
		ec_topology_leave();
}

/* This table, its partitions and their indexes, for reading. */
static void
lock_table(Oid relid)
{
	ListCell   *lc;

	LockRelationOid(relid, AccessShareLock);
	foreach(lc, get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE
			? find_all_inheritors(relid, AccessShareLock, NULL) : list_make1_oid(relid))
	{
		Relation	rel = try_relation_open(lfirst_oid(lc), NoLock);
		ListCell   *li;

		if (rel == NULL)
			continue;
		foreach(li, RelationGetIndexList(rel))
			LockRelationOid(lfirst_oid(li), AccessShareLock);
		relation_close(rel, NoLock);
	}
}

/*
 * All that the document's query will lock, as far as we know, so that it waits for
 * none of it while we hold a lock of ours, whose holder others may wait for: somebody
 * who has locked a partition or an index, and then commits.
 */
static void
lock_tables(EcAttachment *att)
{
	ListCell   *lc;

	lock_table(att->relid);
	foreach(lc, att->dependents)
		lock_table(((EcDependent *) lfirst(lc))->relid);
}

/*
 * A fill reads the table, so it takes the table's lock as any query does; that
 * may take long, and nothing else is held meanwhile.  Then enter the topology
 * again.  false: what we knew of the document or the servers has changed; nothing
 * is entered, the table is to answer.
 */
static bool
enter_for_fill(EcAttachment **att, EcItem *items, int n)
{
	EcAttachment *before = *att;
	uint64		generation = ec_placement_generation();

	lock_tables(before);
	*att = ec_attachment_require(before->name);
	if (*att == before && ec_placement_enter())
	{
		if (ec_placement_generation() == generation)
			return true;
		ec_topology_leave();
	}
	ec_permission_check(*att);
	for (int i = 0; i < n; i++)
		if (items[i].state == EC_ITEM_ASK)
			items[i].state = EC_ITEM_TABLE;
	return false;
}

/* ---------------------------------------------------------------- one key at a time */

/*
 * An item for a function that changes the cache alone.  false: not here (row
 * security, a standby), or not now.
 */
static bool
one_item(EcAttachment *att, const char *id, EcItem *item)
{
	spent_us = 0;
	ec_permission_check(att);
	memset(item, 0, offsetof(EcItem, key));
	item->id = ec_column_canonical(att, &att->key, id);
	if (check_enable_rls(att->relid, InvalidOid, true) == RLS_ENABLED || IsInParallelMode() ||
		att->suspended || RecoveryInProgress() || !ec_placement_enter())
		return false;
	classify(att, item, 1);
	if (item->state == EC_ITEM_ASK)
		return true;
	ec_topology_leave();
	return false;
}

/*
 * Renew the TTL of a cached document; never stores anything.  Returns whether
 * there was one.
 */
bool
ec_read_touch(EcAttachment *att, const char *id, int64 ttl)
{
	EcItem		item;
	EcRequest		req;

	if (!one_item(att, id, &item))
		return false;
	make_request(&req, EC_REQUEST_TOUCH, &item);
	req.ttl = ec_request_ttl(ttl >= 0 ? ttl : ec_attachment_ttl(att));
	(void) exchange(&req, 1);
	ec_topology_leave();
	return req.result == EC_DONE && req.found_len != EC_MARKER_LEN;
}

/* Invalidate a document from the cache.  Returns whether there was one. */
bool
ec_read_invalidate(EcAttachment *att, const char *id)
{
	EcItem		item;
	EcRequest		reqs[2];
	bool		there;

	if (!one_item(att, id, &item))
		return false;
	make_request(&reqs[0], EC_REQUEST_GET, &item);
	make_request(&reqs[1], EC_REQUEST_MARK, &item);
	(void) exchange(reqs, 2);
	there = reqs[0].result == EC_DONE && reqs[0].found_len != EC_MARKER_LEN;
	if (reqs[1].result == EC_DONE)
	{
		item.token = reqs[1].token;
		make_request(&reqs[0], EC_REQUEST_REMOVE, &item);
		(void) exchange(reqs, 1);
		ec_slot_count(att->slot, EC_INVALIDATIONS, there ? 1 : 0);
	}
	ec_topology_leave();
	return there && reqs[1].result == EC_DONE;
}

/*
 * Load a document from its row into the cache, whatever is there.  Returns
 * whether it is there now; where it cannot be stored (the row is absent, the
 * transaction has written) it is invalidated.
 */
bool
ec_read_refresh(EcAttachment *att, const char *id)
{
	const Owner nobody = {NULL};
	EcItem		item;
	bool		stored = false;

	if (IsolationUsesXactSnapshot())
	{
		/* what we see may be outdated */
		(void) ec_read_invalidate(att, id);
		return false;
	}
	if (!one_item(att, id, &item))
		return false;
	ec_topology_leave();
	if (enter_for_fill(&att, &item, 1))
	{
		lock_for_fill(att, &item, 1, &nobody);
		if (item.state == EC_ITEM_FILL)
			stored = read_and_fill(att, &item, 1, NULL, true) == 1;
		ec_topology_leave();
	}
	if (item.state == EC_ITEM_DONE)
		return item.json != NULL;	/* somebody else has just stored it */
	if (item.state == EC_ITEM_TABLE)
		(void) ec_read_invalidate(att, id);
	return stored;
}

/* For those who go over many documents: lock what the query for them will need. */
void
ec_fill_lock_tables(EcAttachment *att)
{
	lock_tables(att);
}
