/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  The launcher, and a worker for each database that has the extension.
 *
 * The launcher publishes the topology: it alone turns echocache.hosts and
 * echocache.enabled into shared memory, and resolves names, which can block for
 * long.  It keeps a worker in each database that has the extension: every database
 * is looked at once, and again when CREATE EXTENSION has run anywhere.
 *
 * A worker brings its database's servers back, one step after the other: DOWN,
 * a probe answers, RECOVERING (writers send markers again, readers still stay
 * away), everybody has left older topologies, a new snapshot of the attachments,
 * purge, UP.  Both changes of state are compare-and-swaps on the word that the
 * worker has seen, so that whatever goes wrong meanwhile, in any backend, is not
 * overlooked.  No transaction is open while it waits for the network.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <netdb.h>
#include <sys/un.h>

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_database.h"
#include "commands/extension.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "cluster.h"
#include "compat.h"
#include "document.h"
#include "guc.h"
#include "purge.h"
#include "worker.h"

#define LAUNCHER_NAP_MS		10000	/* how often new databases are looked for */
#define RESOLVE_INTERVAL_MS 30000	/* how often names are resolved again, */
#define RESOLVE_DOWN_MS		1000	/* while a server is down: it may have moved */
#define BAN_MS				10000	/* a database about to be dropped gets no worker */
#define BACKOFF_MAX_MS		60000

/* Set by a command of this transaction, carried out at its commit. */
static bool rescan_at_commit = false;

static void xact_callback(XactEvent event, void *arg);

/* Once, from _PG_init. */
void
ec_worker_init(void)
{
	BackgroundWorker worker = {0};

	strlcpy(worker.bgw_name, "echocache launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "echocache launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "echocache", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "echocache_launcher_main", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	RegisterBackgroundWorker(&worker);
	RegisterXactCallback(xact_callback, NULL);
}

/* ---------------------------------------------------------------- called by backends */

/* The extension is created or dropped here: look again when that is committed. */
void
ec_worker_rescan_at_commit(void)
{
	rescan_at_commit = true;
}

static void
xact_callback(XactEvent event, void *arg)
{
	EcDatabase *db;

	if (!rescan_at_commit || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
							  event != XACT_EVENT_PREPARE))
		return;
	rescan_at_commit = false;
	if (event == XACT_EVENT_ABORT)
		return;
	LWLockAcquire(ec_shared->lock, LW_EXCLUSIVE);
	ec_shared->rescan = true;
	LWLockRelease(ec_shared->lock);
	db = ec_my_database();
	if (db)
		ec_wake(db->worker_pid);
	ec_wake(ec_shared->launcher_pid);
}

/* The database is about to be dropped: its worker must not be in the way. */
void
ec_worker_leave_database(Oid dboid)
{
	LWLockAcquire(ec_shared->lock, LW_EXCLUSIVE);
	ec_shared->banned = dboid;
	ec_shared->banned_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BAN_MS);
	LWLockRelease(ec_shared->lock);
	for (int i = 0; i < EC_MAX_DATABASES; i++)
		if (ec_shared->database[i].dboid == dboid)
			ec_wake(ec_shared->database[i].worker_pid);
}

static bool
is_banned(Oid dboid)
{
	bool		banned;

	LWLockAcquire(ec_shared->lock, LW_SHARED);
	banned = ec_shared->banned == dboid && GetCurrentTimestamp() < ec_shared->banned_until;
	LWLockRelease(ec_shared->lock);
	return banned;
}

/*
 * Not every server could be purged of this document when it was detached: note
 * it for the worker, in the same transaction.
 */
void
ec_worker_note_withdrawn(const char *name)
{
	Relation	rel = table_open(ec_relation("withdrawn"), RowExclusiveLock);
	Datum		values[2];
	bool		nulls[2] = {false, false};
	int64		id;

	if (!pg_strong_random(&id, sizeof(id)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random number")));
	values[0] = Int64GetDatum(id);
	values[1] = CStringGetTextDatum(name);
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values, nulls));
	table_close(rel, RowExclusiveLock);
}

/* ---------------------------------------------------------------- launcher: topology */

/* The addresses of a server; with numeric, only what needs no resolver. */
static void
resolve_server(EcServer *s, bool numeric)
{
	struct addrinfo hints = {0};
	struct addrinfo *list;
	char		port[16];

	s->naddresses = 0;
	if (s->port == 0)
	{
		struct sockaddr_un *un = (struct sockaddr_un *) &s->address[0].addr;

		memset(&s->address[0], 0, sizeof(EcAddress));
		un->sun_family = AF_UNIX;
		strlcpy(un->sun_path, s->host, sizeof(un->sun_path));
		s->address[0].len = sizeof(struct sockaddr_un);
		s->naddresses = 1;
		return;
	}
	hints.ai_socktype = SOCK_STREAM;
	hints.ai_flags = AI_NUMERICSERV;
	if (numeric && strcmp(s->host, "localhost") != 0)
		hints.ai_flags |= AI_NUMERICHOST;
	snprintf(port, sizeof(port), "%d", s->port);
	if (getaddrinfo(s->host, port, &hints, &list) != 0)
		return;
	for (struct addrinfo *a = list; a && s->naddresses < EC_MAX_ADDRESSES; a = a->ai_next)
	{
		EcAddress  *address = &s->address[s->naddresses];

		if (a->ai_addrlen > sizeof(address->addr))
			continue;
		memset(address, 0, sizeof(EcAddress));
		memcpy(&address->addr, a->ai_addr, a->ai_addrlen);
		address->len = a->ai_addrlen;
		s->naddresses++;
	}
	freeaddrinfo(list);
}

/*
 * Publish what the settings say as a new generation.  Every server begins as
 * RECOVERING: keys may have moved, and what was left where they were before is
 * purged before anybody reads.  Names keep the addresses that are known.
 */
static void
publish(void)
{
	EcServer   *servers = palloc0(sizeof(EcServer) * EC_MAX_SERVERS);
	int			n = ec_host_list->n;

	for (int i = 0; i < n; i++)
	{
		const EcHost *h = &ec_host_list->host[i];
		EcServer   *s = &servers[i];

		strlcpy(s->host, h->host, sizeof(s->host));
		s->port = h->port;
		s->weight = h->weight;
		if (h->port == 0)
			strlcpy(s->name, h->host, sizeof(s->name));
		else
			snprintf(s->name, sizeof(s->name), strchr(h->host, ':') ? "[%s]:%d" : "%s:%d",
					 h->host, h->port);
		resolve_server(s, true);
		for (int old = 0; s->naddresses == 0 && old < ec_shared->nservers; old++)
		{
			if (strcmp(ec_shared->server[old].name, s->name) != 0)
				continue;
			s->naddresses = ec_shared->server[old].naddresses;
			memcpy(s->address, ec_shared->server[old].address, sizeof(s->address));
		}
		pg_atomic_init_u32(&s->connections, 0);
		pg_atomic_init_u32(&s->kept, 0);
		pg_atomic_init_u64(&s->item_max, 0);
	}

	LWLockAcquire(ec_shared->lock, LW_EXCLUSIVE);
	for (int d = 0; d < EC_MAX_DATABASES; d++)
		for (int i = 0; i < EC_MAX_SERVERS; i++)
		{
			EcDatabase *db = &ec_shared->database[d];

			while (!ec_state_swap(db, i, ec_state_word(db, i), EC_RECOVERING))
				;
		}
	memcpy(ec_shared->server, servers, n * sizeof(EcServer));
	ec_shared->nservers = n;
	ec_shared->enabled = ec_enabled;
	ec_shared->republish = false;
	pg_atomic_fetch_add_u64(&ec_shared->generation, 1);
	LWLockRelease(ec_shared->lock);

	ereport(LOG,
			(errmsg_plural("echocache: the cache is %s, with %d server",
						   "echocache: the cache is %s, with %d servers", n,
						   ec_enabled ? "on" : "off", n)));
	for (int d = 0; d < EC_MAX_DATABASES; d++)
		ec_wake(ec_shared->database[d].worker_pid);
	pfree(servers);
}

/*
 * Resolve the names again.  A server that gets its first addresses can be used
 * now; other addresses than before are other servers, and a new topology.
 */
static void
resolve_names(void)
{
	bool		changed = false;

	for (int i = 0; i < ec_shared->nservers; i++)
	{
		EcServer   *shared = &ec_shared->server[i];
		EcServer   *s = palloc(sizeof(EcServer));

		*s = *shared;
		resolve_server(s, true);
		if (s->naddresses == 0)
		{
			/* a name; may block for as long as the resolver likes */
			resolve_server(s, false);
			if (s->naddresses > 0 &&
				(s->naddresses != shared->naddresses ||
				 memcmp(s->address, shared->address, s->naddresses * sizeof(EcAddress)) != 0))
			{
				changed |= shared->naddresses > 0;
				LWLockAcquire(ec_shared->lock, LW_EXCLUSIVE);
				memcpy(shared->address, s->address, sizeof(s->address));
				shared->naddresses = s->naddresses;
				LWLockRelease(ec_shared->lock);
			}
		}
		pfree(s);
		CHECK_FOR_INTERRUPTS();
	}
	if (changed)
		publish();
}

static bool
any_down(void)
{
	for (int d = 0; d < EC_MAX_DATABASES; d++)
		for (int i = 0; i < ec_shared->nservers && ec_shared->database[d].dboid; i++)
			if (EC_STATE(ec_state_word(&ec_shared->database[d], i)) == EC_DOWN)
				return true;
	return false;
}

/* ---------------------------------------------------------------- launcher: workers */

/* What the launcher knows of a database. */
typedef struct Known
{
	Oid			dboid;			/* hash key */
	bool		seen;			/* in the present scan */
	bool		absent;			/* it has no extension, as far as we know */
	BackgroundWorkerHandle *handle; /* NULL: no worker */
	TimestampTz retry_at;
	int			backoff_ms;
} Known;

static bool
has_slot(Oid dboid)
{
	for (int i = 0; i < EC_MAX_DATABASES; i++)
		if (ec_shared->database[i].dboid == dboid)
			return true;
	return false;
}

/* Give up the slot of a database that is gone, or whose extension is. */
static void
free_slot(Oid dboid)
{
	LWLockAcquire(ec_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < EC_MAX_DATABASES; i++)
		if (ec_shared->database[i].dboid == dboid)
			ec_shared->database[i].dboid = InvalidOid;
	for (int i = 0; i < EC_MAX_DOCUMENTS; i++)
		if (ec_shared->document[i].dboid == dboid)
			ec_shared->document[i].dboid = InvalidOid;
	LWLockRelease(ec_shared->lock);
}

/* Bring the list of databases up to date. */
static void
scan_databases(HTAB *known)
{
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	HASH_SEQ_STATUS status;
	Known	   *k;

	hash_seq_init(&status, known);
	while ((k = hash_seq_search(&status)) != NULL)
		k->seen = false;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_database db = (Form_pg_database) GETSTRUCT(tuple);
		bool		found;

		if (!db->datallowconn || db->datistemplate)
			continue;
		k = hash_search(known, &db->oid, HASH_ENTER, &found);
		if (!found)
		{
			memset(k, 0, sizeof(Known));
			k->dboid = db->oid;
		}
		k->seen = true;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();

	hash_seq_init(&status, known);
	while ((k = hash_seq_search(&status)) != NULL)
	{
		if (k->seen || k->handle != NULL)
			continue;
		free_slot(k->dboid);
		hash_search(known, &k->dboid, HASH_REMOVE, NULL);
	}
}

static void
start_worker(Known *k)
{
	BackgroundWorker worker = {0};

	snprintf(worker.bgw_name, BGW_MAXLEN, "echocache worker for database %u", k->dboid);
	strlcpy(worker.bgw_type, "echocache worker", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "echocache", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "echocache_worker_main", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = ObjectIdGetDatum(k->dboid);
	if (RegisterDynamicBackgroundWorker(&worker, &k->handle))
		return;
	k->handle = NULL;
	ereport(LOG,
			(errmsg("echocache: no background worker slot is free for database %u", k->dboid),
			 errdetail("Its documents are not cached."),
			 errhint("Increase max_worker_processes.")));
	k->backoff_ms = BACKOFF_MAX_MS;
}

/*
 * See to the workers: start those that are missing, note which have ended.  Of
 * the databases that have not been looked at yet, one at a time.
 */
static void
mind_workers(HTAB *known)
{
	HASH_SEQ_STATUS status;
	Known	   *k;
	bool		looking = false;
	TimestampTz now = GetCurrentTimestamp();

	hash_seq_init(&status, known);
	while ((k = hash_seq_search(&status)) != NULL)
	{
		pid_t		pid;

		if (k->handle == NULL)
			continue;
		if (GetBackgroundWorkerPid(k->handle, &pid) != BGWH_STOPPED)
		{
			looking |= !has_slot(k->dboid);
			continue;
		}
		pfree(k->handle);
		k->handle = NULL;
		k->absent = !has_slot(k->dboid);
		k->retry_at = TimestampTzPlusMilliseconds(now, k->backoff_ms);
		k->backoff_ms = Min(Max(k->backoff_ms * 2, 100), BACKOFF_MAX_MS);
	}
	hash_seq_init(&status, known);
	while ((k = hash_seq_search(&status)) != NULL)
	{
		if (k->handle != NULL || k->absent || now < k->retry_at || is_banned(k->dboid))
			continue;
		if (!has_slot(k->dboid))
		{
			if (looking)
				continue;
			looking = true;
		}
		start_worker(k);
	}
}

static void
launcher_exit(int code, Datum arg)
{
	LWLockAcquire(ec_shared->lock, LW_EXCLUSIVE);
	ec_shared->launcher_pid = 0;
	LWLockRelease(ec_shared->lock);
}

void
echocache_launcher_main(Datum arg)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid),.entrysize = sizeof(Known)};
	HTAB	   *known;
	MemoryContext context;
	TimestampTz resolved_at = 0;
	TimestampTz scan_at = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	before_shmem_exit(launcher_exit, (Datum) 0);
	LWLockAcquire(ec_shared->lock, LW_EXCLUSIVE);
	ec_shared->launcher_pid = MyProcPid;
	LWLockRelease(ec_shared->lock);

	context = AllocSetContextCreate(TopMemoryContext, "echocache launcher",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	known = hash_create("echocache databases", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	publish();

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		bool		rescan;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			bool		was_enabled = ec_enabled;
			char	   *hosts = pstrdup(ec_hosts);

			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			if (was_enabled != ec_enabled || strcmp(hosts, ec_hosts) != 0)
			{
				publish();
				resolved_at = 0;
			}
			pfree(hosts);
		}

		LWLockAcquire(ec_shared->lock, LW_EXCLUSIVE);
		rescan = ec_shared->rescan;
		ec_shared->rescan = false;
		if (ec_shared->banned != InvalidOid && now >= ec_shared->banned_until)
		{
			ec_shared->banned = InvalidOid;
			rescan = true;
		}
		LWLockRelease(ec_shared->lock);
		if (ec_shared->republish)
			publish();
		if (rescan)
		{
			HASH_SEQ_STATUS status;
			Known	   *k;

			hash_seq_init(&status, known);
			while ((k = hash_seq_search(&status)) != NULL)
			{
				k->absent = false;
				k->backoff_ms = 0;
				k->retry_at = 0;
			}
		}
		if (rescan || now >= scan_at)
		{
			scan_databases(known);
			scan_at = TimestampTzPlusMilliseconds(now, LAUNCHER_NAP_MS);
		}
		mind_workers(known);
		if (TimestampDifferenceExceeds(resolved_at, now, any_down() ? RESOLVE_DOWN_MS
									   : RESOLVE_INTERVAL_MS))
		{
			resolve_names();
			resolved_at = GetCurrentTimestamp();
		}

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 1000, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* ---------------------------------------------------------------- worker */

static Oid	my_dboid;

/* Nobody need wake us any more. */
static void
worker_exit(int code, Datum arg)
{
	LWLockAcquire(ec_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < EC_MAX_DATABASES; i++)
		if (ec_shared->database[i].dboid == my_dboid)
			ec_shared->database[i].worker_pid = 0;
	LWLockRelease(ec_shared->lock);
}

/* Is the extension in this database? */
static bool
extension_exists(void)
{
	bool		exists;

	StartTransactionCommand();
	exists = OidIsValid(get_extension_oid("echocache", true)) &&
		OidIsValid(ec_document_catalog(true));
	CommitTransactionCommand();
	return exists;
}

/*
 * Claim this database's slot, or the one that a worker before us had, whose
 * servers' states still hold.  Another prefix than before means other keys.
 */
static EcDatabase *
claim_slot(void)
{
	EcDatabase *db = NULL;
	EcDatabase *free_db = NULL;

	LWLockAcquire(ec_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < EC_MAX_DATABASES && db == NULL; i++)
	{
		if (ec_shared->database[i].dboid == my_dboid)
			db = &ec_shared->database[i];
		else if (ec_shared->database[i].dboid == InvalidOid && free_db == NULL)
			free_db = &ec_shared->database[i];
	}
	if (db == NULL && free_db != NULL)
	{
		db = free_db;
		strlcpy(db->prefix, ec_key_prefix, sizeof(db->prefix));
		for (int i = 0; i < EC_MAX_SERVERS; i++)
			while (!ec_state_swap(db, i, ec_state_word(db, i), EC_RECOVERING))
				;
		db->dboid = my_dboid;
	}
	else if (db != NULL && strcmp(db->prefix, ec_key_prefix) != 0)
	{
		/* the launcher makes a new generation, which everybody enters with it */
		strlcpy(db->prefix, ec_key_prefix, sizeof(db->prefix));
		ec_shared->republish = true;
	}
	if (db != NULL)
		db->worker_pid = MyProcPid;
	LWLockRelease(ec_shared->lock);
	if (ec_shared->republish)
		ec_wake(ec_shared->launcher_pid);
	return db;
}

/* A row of echocache.withdrawn: a name that was detached while a server was away. */
typedef struct Withdrawn
{
	int64		id;
	char	   *name;
} Withdrawn;

/* Of each server, the rows that its last purge has covered. */
static List *covered[EC_MAX_SERVERS];

/* Read echocache.withdrawn, in a transaction; allocates in the caller's context. */
static List *
read_withdrawn(void)
{
	Relation	rel = table_open(ec_relation("withdrawn"), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	List	   *rows = NIL;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Withdrawn  *row = palloc(sizeof(Withdrawn));
		bool		isnull;

		row->id = DatumGetInt64(heap_getattr(tuple, 1, RelationGetDescr(rel), &isnull));
		row->name = TextDatumGetCString(heap_getattr(tuple, 2, RelationGetDescr(rel), &isnull));
		rows = lappend(rows, row);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return rows;
}

static bool
is_covered(int server, int64 id)
{
	ListCell   *lc;

	foreach(lc, covered[server])
		if (*(int64 *) lfirst(lc) == id)
			return true;
	return false;
}

/* Forget the rows that every server's last purge has covered. */
static void
clear_withdrawn(void)
{
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (covered[0] == NIL)
		return;
	StartTransactionCommand();
	rel = table_open(ec_relation("withdrawn"), RowExclusiveLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		int64		id = DatumGetInt64(heap_getattr(tuple, 1, RelationGetDescr(rel), &isnull));
		bool		everywhere = true;

		for (int i = 0; i < ec_cluster_size(); i++)
			everywhere &= is_covered(i, id);
		if (everywhere)
			CatalogTupleDelete(rel, &tuple->t_self);
	}
	systable_endscan(scan);
	table_close(rel, RowExclusiveLock);
	CommitTransactionCommand();
	for (int i = 0; i < EC_MAX_SERVERS; i++)
	{
		list_free_deep(covered[i]);
		covered[i] = NIL;
	}
}

/*
 * The heads of all keys of ours that a server may have, as of now; the rows of
 * echocache.withdrawn among them go to *withdrawn.
 */
static List *
key_heads(EcDatabase *db, List **withdrawn)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *names;
	List	   *heads = NIL;
	ListCell   *lc;

	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	names = ec_document_names();
	*withdrawn = read_withdrawn();
	foreach(lc, *withdrawn)
		names = lappend(names, ((Withdrawn *) lfirst(lc))->name);
	foreach(lc, names)
	{
		char	   *head = palloc0(EC_PREFIX_MAX + EC_NAME_MAX + 2);

		(void) ec_key_head(head, db->prefix, lfirst(lc));
		heads = lappend(heads, head);
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return heads;
}

/*
 * One server that is not UP: take it as far as it goes.  Returns whether it is
 * UP now; *soon: only somebody who has yet to leave an older topology is in the way.
 */
static bool
recover(EcDatabase *db, int server, bool *soon)
{
	char		request[EC_REQUEST_MAX];
	char		activity[EC_SERVER_NAME_MAX + 32];
	uint64		word = ec_state_word(db, server);
	int64		removed = 0;
	List	   *withdrawn;
	ListCell   *lc;
	MemoryContext old;
	bool		purged;

	if (EC_STATE(word) == EC_DOWN)
	{
		size_t		len = ec_wire_barrier(request);

		if (ec_command(server, request, len, NULL, NULL) != EC_DONE ||
			!ec_state_swap(db, server, word, EC_RECOVERING))
			return false;
		word = ec_state_word(db, server);
	}
	if (EC_STATE(word) != EC_RECOVERING)
		return EC_STATE(word) == EC_UP;
	if (!ec_topology_all_left(ec_cluster_generation()))
	{
		*soon = true;
		return false;
	}

	snprintf(activity, sizeof(activity), "purging server %s", ec_cluster_name(server));
	pgstat_report_activity(STATE_RUNNING, activity);
	/* the snapshot is taken after RECOVERING can be seen: the swap is a barrier */
	purged = ec_purge(server, key_heads(db, &withdrawn), &removed);
	pgstat_report_activity(STATE_IDLE, NULL);
	if (!purged)
	{
		/* it is DOWN if it failed; one that does not tell its keys stays RECOVERING */
		if (ec_state_word(db, server) == word)
			ec_server_error(server, ec_cluster_last_failure(NULL));
		return false;
	}
	if (!ec_state_swap(db, server, word, EC_UP))
		return false;

	old = MemoryContextSwitchTo(TopMemoryContext);
	list_free_deep(covered[server]);
	covered[server] = NIL;
	foreach(lc, withdrawn)
	{
		int64	   *id = palloc(sizeof(int64));

		*id = ((Withdrawn *) lfirst(lc))->id;
		covered[server] = lappend(covered[server], id);
	}
	MemoryContextSwitchTo(old);
	ereport(LOG,
			(errmsg_plural("echocache: server \"%s\" is up, %lld old key was withdrawn",
						   "echocache: server \"%s\" is up, %lld old keys were withdrawn",
						   removed, ec_cluster_name(server), (long long) removed)));
	return true;
}

void
echocache_worker_main(Datum arg)
{
	EcDatabase *db;
	MemoryContext context;
	EcDeadline	probe_at[EC_MAX_SERVERS] = {0};
	uint64		generation = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	my_dboid = DatumGetObjectId(arg);
	if (is_banned(my_dboid))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(my_dboid, InvalidOid, 0);
	if (!extension_exists())
	{
		free_slot(my_dboid);
		proc_exit(0);
	}
	db = claim_slot();
	if (db == NULL)
	{
		ereport(LOG,
				(errmsg("echocache: more than %d databases have the extension",
						EC_MAX_DATABASES),
				 errdetail("The documents of database %u are not cached.", my_dboid)));
		proc_exit(0);
	}
	before_shmem_exit(worker_exit, (Datum) 0);
	pgstat_report_activity(STATE_IDLE, NULL);
	context = AllocSetContextCreate(TopMemoryContext, "echocache worker",
									ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		bool		soon = false;
		bool		all_up = true;
		long		nap = LAUNCHER_NAP_MS;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(context);
		MemoryContextReset(context);

		/*
		 * After a reload begin anew, to see ALTER DATABASE ... SET as well; the
		 * launcher starts another at once.  The states stay as they are.
		 */
		if (ConfigReloadPending || is_banned(my_dboid))
		{
			if (!ConfigReloadPending)
				free_slot(my_dboid);
			proc_exit(0);
		}
		if (!extension_exists())
		{
			free_slot(my_dboid);
			proc_exit(0);
		}

		if (ec_cluster_enter())
		{
			if (generation != ec_cluster_generation())
				memset(probe_at, 0, sizeof(probe_at));
			generation = ec_cluster_generation();
			for (int i = 0; i < ec_cluster_size(); i++)
			{
				if (EC_STATE(ec_state_word(db, i)) == EC_UP)
					continue;
				if (ec_remaining(probe_at[i]) == 0)
				{
					if (recover(db, i, &soon))
						continue;
					probe_at[i] = ec_deadline(soon ? 1 : ec_retry_interval);
				}
				all_up = false;
				nap = Min(nap, Max(ec_remaining(probe_at[i]), 1));
			}
			ec_topology_leave();
			if (all_up)
				clear_withdrawn();
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, nap,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
