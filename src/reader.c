/*-------------------------------------------------------------------------
 *
 * reader.c
 *	  The read path: hits, fills, and the table where the cache must not answer.
 *
 * A read takes what a server that is UP holds; everything else comes from the
 * table.  What a cache holds never raises an error: bytes that are not a document
 * of ours are a miss, and are withdrawn.
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

static void make_owner(EcDocument *doc, const char *text, Owner *owner);
static bool bypass_all(EcDocument *doc, EcItem *items, int n, bool *as_owner);
static void classify(EcDocument *doc, EcItem *items, int n);
static void ask_cache(EcDocument *doc, EcItem *items, int n, const Owner *owner);
static bool take_hit(EcDocument *doc, EcItem *item, EcOp *op, const Owner *owner);
static bool may_fill(EcDocument *doc);
static FillLock lock_item(EcDocument *doc, EcItem *item);
static void unlock_item(EcDocument *doc, EcItem *item);
static void unlock_fills(EcDocument *doc, EcItem *items, int n);
static void lock_for_fill(EcDocument *doc, EcItem *items, int n, const Owner *owner);
static int	read_and_fill(EcDocument *doc, EcItem *items, int n, const char *owner,
						  bool as_owner);
static void lock_table(Oid relid);
static void lock_tables(EcDocument *doc);
static bool enter_for_fill(EcDocument **doc, EcItem *items, int n);
static void make_op(EcOp *op, EcOpKind kind, const EcItem *item);
static bool one_item(EcDocument *doc, const char *id, EcItem *item);

/*
 * All exchanges of one read together wait no longer than echocache.timeout: a
 * server that answers each just in time must not make it a multiple.
 */
static int64 spent_us;

static bool
exchange(EcOp *ops, int n)
{
	EcDeadline	start = ec_deadline(0);
	bool		ok;

	ok = ec_exchange(ops, n, start + Max(ec_timeout * INT64CONST(1000) - spent_us, 1000), 0);
	spent_us += ec_deadline(0) - start;
	return ok;
}

/* Is there so much of that left that a slow answer will not pass for none? */
static bool
time_is_left(void)
{
	return spent_us < ec_timeout * INT64CONST(1000) / 2;
}

/* ---------------------------------------------------------------- checks */

/*
 * May the current role read this document?  As SQL has it: USAGE on the schema, and
 * SELECT on the table or on each column that the document shows; and EXECUTE on the
 * function that makes it, whose grant stands for what that reads.  Throws 42501 if not,
 * 42883 if that function is gone.
 */
void
ec_reader_check(EcDocument *doc)
{
	Oid			user = GetUserId();
	int			attno = -1;

	if (ec_namespace_aclcheck(doc->namespace, user, ACL_USAGE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_SCHEMA, get_namespace_name(doc->namespace));
	if (doc->function_name && !OidIsValid(doc->function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s of document \"%s\" does not exist any more",
						doc->function_name, doc->name),
				 errhint("Create it again, or detach the document and attach the table again.")));
	if (pg_class_aclcheck(doc->relid, user, ACL_SELECT) != ACLCHECK_OK)
		while ((attno = bms_next_member(doc->columns, attno)) >= 0)
			if (pg_attribute_aclcheck(doc->relid, attno, user, ACL_SELECT) != ACLCHECK_OK)
				aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(doc->relid));
	if (doc->function_name && ec_proc_aclcheck(doc->function, user, ACL_EXECUTE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(doc->function));
}

static void
make_owner(EcDocument *doc, const char *text, Owner *owner)
{
	owner->text = NULL;
	if (text == NULL)
		return;
	if (!doc->has_owner)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("document \"%s\" has no owner column", doc->name),
				 errhint("Attach its table with owner_column => '...', or call the "
						 "function without an owner.")));
	owner->text = ec_column_canonical(doc, &doc->owner, text);
	owner->member = ec_document_owner_member(doc, owner->text, &owner->memberlen,
											 &owner->namelen);
}

/*
 * Where nobody may be answered from the cache: count why, mark all items, and
 * say whether the table's owner may read for us (not under row security).
 */
static bool
bypass_all(EcDocument *doc, EcItem *items, int n, bool *as_owner)
{
	EcCounter	why;

	*as_owner = true;
	if (check_enable_rls(doc->relid, InvalidOid, true) == RLS_ENABLED)
	{
		*as_owner = false;
		why = EC_BYPASS_ROW_SECURITY;
	}
	else if (IsolationUsesXactSnapshot() || IsInParallelMode())
		why = EC_BYPASS_ISOLATION;
	else if (doc->suspended || !ec_cluster_enter())
		why = EC_BYPASS_DISABLED;
	else
		return false;
	for (int i = 0; i < n; i++)
		items[i].state = EC_ITEM_TABLE;
	ec_count(doc->slot, why, n);
	return true;
}

/* Which items may the cache answer?  The topology is entered. */
static void
classify(EcDocument *doc, EcItem *items, int n)
{
	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];
		int			idlen = (int) strlen(item->id);

		item->state = EC_ITEM_TABLE;
		item->json = NULL;
		item->keylen = ec_document_key(doc, item->id, item->key);
		if (item->keylen == 0)
			ec_count(doc->slot, EC_BYPASS_KEY, 1);
		else if (ec_pending_has(doc->relid, item->id, idlen))
			ec_count(doc->slot, EC_BYPASS_OWN_CHANGE, 1);
		else
		{
			item->hash = ec_key_hash(doc->relid, item->id, idlen);
			item->server = ec_cluster_place(item->key, item->keylen);
			if (ec_server_state(item->server) == EC_UP)
				item->state = EC_ITEM_ASK;
			else
				ec_count(doc->slot, EC_BYPASS_SERVER, 1);
			if (item->state == EC_ITEM_TABLE && !ec_fallback)
				ereport(ERROR,
						(errcode(ERRCODE_CONNECTION_FAILURE),
						 errmsg("cache server \"%s\" is not available",
								ec_cluster_name(item->server)),
						 errhint("The table is not read instead because echocache.fallback "
								 "is off.")));
		}
	}
}

/* ---------------------------------------------------------------- hits */

static void
make_op(EcOp *op, EcOpKind kind, const EcItem *item)
{
	memset(op, 0, sizeof(EcOp));
	op->kind = kind;
	op->server = item->server;
	op->key = item->key;
	op->keylen = item->keylen;
	op->token = item->token;
	op->ttl = -1;
	if (kind == EC_OP_MARK)
	{
		op->value = EC_MARKER;
		op->valuelen = EC_MARKER_LEN;
		op->ttl = ec_marker_ttl;
	}
}

/*
 * Ask the cache for every item in state ASK; hits become DONE.  What is there
 * but is no document is withdrawn, by its token.
 */
static void
ask_cache(EcDocument *doc, EcItem *items, int n, const Owner *owner)
{
	EcOp		one;
	EcOp	   *ops = n == 1 ? &one : palloc(n * sizeof(EcOp));
	bool		timed_out;
	int			bad = 0;

	for (int i = 0; i < n; i++)
	{
		make_op(&ops[i], EC_OP_GET, &items[i]);
		ops[i].skip = items[i].state != EC_ITEM_ASK;
		if (doc->touch_on_read && !RecoveryInProgress())
			ops[i].ttl = ec_wire_ttl(ec_document_ttl(doc));
	}
	if (!exchange(ops, n))
	{
		(void) ec_cluster_last_failure(&timed_out);
		ec_count(doc->slot, timed_out ? EC_TIMEOUTS : EC_ERRORS, 1);
		if (!ec_fallback)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not read from the cache: %s", ec_cluster_last_failure(NULL)),
					 errhint("The table is not read instead because echocache.fallback is off.")));
	}
	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];
		EcOp	   *op = &ops[i];

		if (op->skip)
			continue;
		if (op->result == EC_FAILED)
			item->state = EC_ITEM_TABLE;
		else if (op->result == EC_DONE && !take_hit(doc, item, op, owner))
		{
			item->token = op->token;
			make_op(op, EC_OP_REMOVE, item);
			bad++;
			continue;
		}
		op->skip = true;
	}
	ec_count(doc->slot, EC_ERRORS, bad);
	if (bad > 0 && !RecoveryInProgress())
		(void) exchange(ops, n);
	if (ops != &one)
		pfree(ops);
}

/* A value from the cache.  false: it is neither a document of ours nor a marker. */
static bool
take_hit(EcDocument *doc, EcItem *item, EcOp *op, const Owner *owner)
{
	const char *value = VARDATA(op->found);
	size_t		len = op->found_len;
	const char *converted;

	if (len == EC_MARKER_LEN && memcmp(value, EC_MARKER, EC_MARKER_LEN) == 0)
	{
		pfree(op->found);
		return true;			/* a marker: still to be asked elsewhere */
	}
	if (len < 2 || len > MaxAllocSize - VARHDRSZ - 2 ||
		value[0] != '{' || value[len - 1] != '}' ||
		(converted = ec_from_utf8(value, &len)) == NULL)
	{
		pfree(op->found);
		return false;
	}
	if (owner->text != NULL)
	{
		switch (ec_json_member(value, op->found_len, owner->member, owner->memberlen,
							   owner->namelen))
		{
			case EC_MEMBER_EQUAL:
				break;
			case EC_MEMBER_DIFFERS:
				ec_count(doc->slot, EC_HITS, 1);
				item->state = EC_ITEM_DONE;
				pfree(op->found);
				return true;
			case EC_MEMBER_UNKNOWN:
				ec_count(doc->slot, EC_BYPASS_OWNER, 1);
				item->state = EC_ITEM_TABLE;
				pfree(op->found);
				return true;
		}
	}
	ec_count(doc->slot, EC_HITS, 1);
	item->state = EC_ITEM_DONE;
	item->json = converted == value ? (text *) op->found
		: cstring_to_text_with_len(converted, (int) len);
	return true;
}

/* ---------------------------------------------------------------- fills */

/* No fill in recovery, nor in a transaction that has written anything, nor ahead of the disk. */
static bool
may_fill(EcDocument *doc)
{
	return doc->slot != NULL && !doc->suspended && !RecoveryInProgress() &&
		!TransactionIdIsValid(GetTopTransactionIdIfAny()) && ec_build_may_store(doc);
}

/* Take the class in share mode and the key in store mode, neither with waiting. */
static FillLock
lock_item(EcDocument *doc, EcItem *item)
{
	FillLock	result = FILL_NO;

	if (!ec_lock_class(doc->relid, EC_LOCK_CLASS_SHARE, false))
		return FILL_NO;			/* a bulk writer is at work */
	if (ec_lock_key(item->hash, EC_LOCK_STORE, false))
	{
		/*
		 * G4: read under the lock, so that who published before us is seen; likewise
		 * who has changed what we know of the document
		 */
		if (ec_commits_flushed(doc->slot) && ec_document_by_name(doc->name) == doc)
			return FILL_LOCKED;
		ec_unlock_key(item->hash, EC_LOCK_STORE);
	}
	else if (ec_lock_key(item->hash, EC_LOCK_WITHDRAW, false))
	{
		/* withdrawers only, perhaps a prepared transaction for hours: do not wait */
		ec_unlock_key(item->hash, EC_LOCK_WITHDRAW);
	}
	else
		result = FILL_BUSY;		/* somebody is about to store */
	ec_unlock_class(doc->relid, EC_LOCK_CLASS_SHARE);
	return result;
}

static void
unlock_item(EcDocument *doc, EcItem *item)
{
	ec_unlock_key(item->hash, EC_LOCK_STORE);
	ec_unlock_class(doc->relid, EC_LOCK_CLASS_SHARE);
}

/* Give up all fills: the table is to answer. */
static void
unlock_fills(EcDocument *doc, EcItem *items, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (items[i].state != EC_ITEM_FILL)
			continue;
		unlock_item(doc, &items[i]);
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
lock_for_fill(EcDocument *doc, EcItem *items, int n, const Owner *owner)
{
	bool		fill = may_fill(doc);
	EcDeadline	deadline = ec_deadline(ec_fill_wait);
	long		delay = 1;
	int			fills = 0;

	for (int i = 0; i < n; i++)
	{
		EcItem	   *item = &items[i];
		FillLock	lock = FILL_NO;
		bool		waited = false;

		if (item->state != EC_ITEM_ASK)
			continue;
		ec_count(doc->slot, EC_MISSES, 1);
		while (fill && fills < EC_FILL_MAX && time_is_left() &&
			   (lock = lock_item(doc, item)) == FILL_BUSY && n == 1 &&
			   ec_remaining(deadline) > 0)
		{
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 Min(delay, ec_remaining(deadline)), PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
			delay = Min(delay * 2, 20);
			waited = true;
			spent_us = 0;		/* how often is bounded by fill_wait, each by its own time */
			ask_cache(doc, item, 1, owner);
			if (item->state != EC_ITEM_ASK)
				break;
		}
		if (lock == FILL_LOCKED && waited)
			ask_cache(doc, item, 1, owner); /* it has probably just been stored */
		if (item->state != EC_ITEM_ASK)
		{
			if (lock == FILL_LOCKED)
				unlock_item(doc, item);
			continue;
		}
		item->state = lock == FILL_LOCKED ? EC_ITEM_FILL : EC_ITEM_TABLE;
		fills += lock == FILL_LOCKED;
		if (lock != FILL_LOCKED)
			ec_count(doc->slot, EC_FILLS_REFUSED, 1);
	}
}

/*
 * Read from the table what is in state TABLE or FILL; store the latter, and
 * release the locks.  as_owner: the table's owner reads.  Returns how many were
 * stored.
 */
static int
read_and_fill(EcDocument *doc, EcItem *items, int n, const char *owner, bool as_owner)
{
	EcOp	   *ops = palloc(n * sizeof(EcOp));
	EcRow	   *rows = palloc(n * sizeof(EcRow));
	EcItem	  **wanted = palloc(n * sizeof(EcItem *));
	int			nrows = 0;
	int			fills = 0;
	int			stored = 0;
	int			refused = 0;

	for (int i = 0; i < n; i++)
	{
		make_op(&ops[i], EC_OP_MARK, &items[i]);
		ops[i].skip = items[i].state != EC_ITEM_FILL;
		fills += !ops[i].skip;
		if (items[i].state == EC_ITEM_DONE)
			continue;
		wanted[nrows] = &items[i];
		rows[nrows++].id = items[i].id;
	}
	if (nrows == 0)
		return 0;

	if (fills > 0)
	{
		ec_wait_point("fill-locked");
		(void) exchange(ops, n);
		ec_count(doc->slot, EC_MARKERS, fills);
		for (int i = 0; i < n; i++)
			items[i].token = ops[i].result == EC_DONE ? ops[i].token : 0;
		ec_wait_point("fill-marked");
	}

	/* a fresh snapshot, after the marker; but in REPEATABLE READ, the transaction's own */
	if (!IsInParallelMode())
		CommandCounterIncrement();
	if (fills > 0 && doc->function_name &&
		ec_build_guarded(doc, rows, nrows, false) == EC_BUILD_BLOCKED)
	{
		/* somebody has locked what the function reads, and may wait for us: no fill */
		unlock_fills(doc, items, n);
		ec_count(doc->slot, EC_FILLS_REFUSED, fills);
		fills = 0;
	}
	if (fills == 0 || !doc->function_name)
		ec_document_fetch(doc, rows, nrows, IsInParallelMode() ? GetActiveSnapshot() :
						  IsolationUsesXactSnapshot() ? GetTransactionSnapshot() :
						  GetLatestSnapshot(), as_owner);

	for (int r = 0; r < nrows; r++)
	{
		EcItem	   *item = wanted[r];
		EcOp	   *op = &ops[item - items];

		if (rows[r].matches > 1 && IsolationUsesXactSnapshot() &&
			ec_pending_has(doc->relid, item->id, (int) strlen(item->id)))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access to document \"%s\" with %s \"%s\"",
							doc->name, NameStr(doc->key.name), item->id),
					 errdetail("Others have deleted its row after this transaction's snapshot, "
							   "which still shows it beside the one that was inserted here."),
					 errhint("The transaction might succeed if retried.")));
		if (rows[r].matches > 1)
			ereport(ERROR,
					(errcode(ERRCODE_CARDINALITY_VIOLATION),
					 errmsg("document \"%s\" has more than one row with %s \"%s\"",
							doc->name, NameStr(doc->key.name), item->id),
					 errhint("The key column of an attached table must be unique.")));
		if (rows[r].matches == 1 &&
			(owner == NULL || (rows[r].owner && strcmp(rows[r].owner, owner) == 0)))
			item->json = rows[r].json;

		op->skip = true;
		if (item->state == EC_ITEM_FILL && item->token != 0)
		{
			const char *value = NULL;
			size_t		len = 0;
			bool		store = ec_document_cacheable(&rows[r], &value, &len) &&
				ec_cluster_fits(item->server, item->keylen, len);

			make_op(op, store ? EC_OP_STORE : EC_OP_REMOVE, item);
			if (!store)
				continue;		/* a value behind a removal would be taken for requests */
			op->value = value;
			op->valuelen = len;
			op->ttl = ec_wire_ttl(ec_document_ttl(doc));
		}
	}
	if (fills > 0)
	{
		ec_wait_point("fill-read");
		if (time_is_left())
			(void) exchange(ops, n);
		else
			ec_send(ops, n, ec_deadline(ec_timeout / 4));	/* it may as well come late */
		for (int i = 0; i < n; i++)
		{
			if (items[i].state != EC_ITEM_FILL)
				continue;
			if (ops[i].kind == EC_OP_STORE && ops[i].result == EC_DONE)
				stored++;
			else if (items[i].json != NULL)
				refused++;
			unlock_item(doc, &items[i]);
		}
		ec_count(doc->slot, EC_FILLS, stored);
		ec_count(doc->slot, EC_FILLS_REFUSED, refused);
	}
	pfree(ops);
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
	EcDocument *doc = ec_document_require(name);
	Owner		owner;
	bool		as_owner;
	bool		entered = false;

	spent_us = 0;
	ec_reader_check(doc);
	make_owner(doc, owner_text, &owner);
	for (int i = 0; i < n; i++)
		items[i].json = NULL;
	if (!bypass_all(doc, items, n, &as_owner))
	{
		bool		done = true;

		classify(doc, items, n);
		ask_cache(doc, items, n, &owner);
		for (int i = 0; i < n; i++)
			done &= items[i].state == EC_ITEM_DONE;
		ec_topology_leave();
		if (done)
			return;
		entered = enter_for_fill(&doc, items, n);
		if (entered)
			lock_for_fill(doc, items, n, &owner);
	}
	(void) read_and_fill(doc, items, n, owner.text, as_owner);
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
lock_tables(EcDocument *doc)
{
	ListCell   *lc;

	lock_table(doc->relid);
	foreach(lc, doc->dependents)
		lock_table(((EcDependent *) lfirst(lc))->relid);
}

/*
 * A fill reads the table, so it takes the table's lock as any query does; that
 * may take long, and nothing else is held meanwhile.  Then enter the topology
 * again.  false: what we knew of the document or the servers has changed; nothing
 * is entered, the table is to answer.
 */
static bool
enter_for_fill(EcDocument **doc, EcItem *items, int n)
{
	EcDocument *before = *doc;
	uint64		generation = ec_cluster_generation();

	lock_tables(before);
	*doc = ec_document_require(before->name);
	if (*doc == before && ec_cluster_enter())
	{
		if (ec_cluster_generation() == generation)
			return true;
		ec_topology_leave();
	}
	ec_reader_check(*doc);
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
one_item(EcDocument *doc, const char *id, EcItem *item)
{
	spent_us = 0;
	ec_reader_check(doc);
	memset(item, 0, offsetof(EcItem, key));
	item->id = ec_column_canonical(doc, &doc->key, id);
	if (check_enable_rls(doc->relid, InvalidOid, true) == RLS_ENABLED || IsInParallelMode() ||
		doc->suspended || RecoveryInProgress() || !ec_cluster_enter())
		return false;
	classify(doc, item, 1);
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
ec_reader_touch(EcDocument *doc, const char *id, int64 ttl)
{
	EcItem		item;
	EcOp		op;

	if (!one_item(doc, id, &item))
		return false;
	make_op(&op, EC_OP_TOUCH, &item);
	op.ttl = ec_wire_ttl(ttl >= 0 ? ttl : ec_document_ttl(doc));
	(void) exchange(&op, 1);
	ec_topology_leave();
	return op.result == EC_DONE && op.found_len != EC_MARKER_LEN;
}

/* Withdraw a document from the cache.  Returns whether there was one. */
bool
ec_reader_invalidate(EcDocument *doc, const char *id)
{
	EcItem		item;
	EcOp		ops[2];
	bool		there;

	if (!one_item(doc, id, &item))
		return false;
	make_op(&ops[0], EC_OP_GET, &item);
	make_op(&ops[1], EC_OP_MARK, &item);
	(void) exchange(ops, 2);
	there = ops[0].result == EC_DONE && ops[0].found_len != EC_MARKER_LEN;
	if (ops[1].result == EC_DONE)
	{
		item.token = ops[1].token;
		make_op(&ops[0], EC_OP_REMOVE, &item);
		(void) exchange(ops, 1);
		ec_count(doc->slot, EC_WITHDRAWALS, there ? 1 : 0);
	}
	ec_topology_leave();
	return there && ops[1].result == EC_DONE;
}

/*
 * Load a document from its row into the cache, whatever is there.  Returns
 * whether it is there now; where it cannot be stored (the row is absent, the
 * transaction has written) it is withdrawn.
 */
bool
ec_reader_refresh(EcDocument *doc, const char *id)
{
	const Owner nobody = {NULL};
	EcItem		item;
	bool		stored = false;

	if (IsolationUsesXactSnapshot())
	{
		/* what we see may be outdated */
		(void) ec_reader_invalidate(doc, id);
		return false;
	}
	if (!one_item(doc, id, &item))
		return false;
	ec_topology_leave();
	if (enter_for_fill(&doc, &item, 1))
	{
		lock_for_fill(doc, &item, 1, &nobody);
		if (item.state == EC_ITEM_FILL)
			stored = read_and_fill(doc, &item, 1, NULL, true) == 1;
		ec_topology_leave();
	}
	if (item.state == EC_ITEM_DONE)
		return item.json != NULL;	/* somebody else has just stored it */
	if (item.state == EC_ITEM_TABLE)
		(void) ec_reader_invalidate(doc, id);
	return stored;
}

/* For those who go over many documents: lock what the query for them will need. */
void
ec_reader_lock_tables(EcDocument *doc)
{
	lock_tables(doc);
}
