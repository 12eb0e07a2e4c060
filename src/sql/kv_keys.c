/*-------------------------------------------------------------------------
 *
 * kv_keys.c
 *	  Which keys the key/value client may use.
 *
 * Only a holder of a marker's token stores to a document's key.  The key/value client stores
 * whatever it is told to, so it must never touch such a key, of any database of the cluster.
 * It looks a key up in the documents and uses it under a lock of its own, in share mode, which
 * is released with the answer.  Whoever brings new documents makes their keys known first
 * (EcSlot), waits for all holders of the lock, ec_kv_keys_await(), and purges then.  So a
 * client that has not seen the documents has stored before the purge.  (A request without an
 * answer may come later still, as its error says.)  A process that holds this lock waits for
 * no other.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lock.h"

#include "attachments/attachment.h"
#include "commit/locks.h"
#include "net/request.h"
#include "protocol/key.h"
#include "protocol/reply.h"
#include "protocol/wire.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"
#include "sql/kv_keys.h"

/* Beside documents' keys: those of our own, such as echocache_health()'s. */
#define KV_RESERVED		"_echocache"

static void kv_lock_tag(LOCKTAG *tag);
static bool find_key(const EcRequest *reqs, int n, const char *prefix, const char *name,
					 const EcRequest **found, char *head);
static const EcRequest *find_lease(const EcRequest *reqs, int n, const char *prefix,
								   const EcRequest *before);
static void refuse_documents(const EcRequest *reqs, int n);

/* The tag of the lock that the banner is about: one lock for the whole cluster. */
static void
kv_lock_tag(LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, InvalidOid, 0, 0, EC_LOCKTAG_KV);
}

/*
 * The keys of new documents are known to every client that looks from now on.  Wait for those
 * that looked before: their requests have been answered then.  That takes as long as one
 * exchange at most.  Throws for interrupts.
 */
void
ec_kv_keys_await(void)
{
	LOCKTAG		tag;

	kv_lock_tag(&tag);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	LockRelease(&tag, ExclusiveLock, false);
}

/*
 * Enter the topology; after an error that ends with the (sub)transaction.  Throws
 * 55000 while the cache is off.
 */
void
ec_kv_keys_enter(void)
{
	ec_shmem_require();
	if (!ec_placement_enter())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the cache is disabled"),
				 errhint("Set echocache.enabled = on and reload the configuration.")));
}

/* Is it a key that memcached can hold and that is anybody's?  Throws 22023 or 42501. */
void
ec_kv_keys_check(const char *key, int len)
{
	if (len < 1 || len > EC_KEY_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid cache key"),
				 errdetail("A key has 1 to %d bytes, this one has %d.", EC_KEY_MAX, len)));
	for (int i = 0; i < len; i++)
		if (key[i] <= 0x20 || key[i] >= 0x7f)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid cache key"),
					 errdetail("A key has printable ASCII characters only, and no space.")));
	if (len >= (int) strlen(KV_RESERVED) && memcmp(key, KV_RESERVED, strlen(KV_RESERVED)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cache key \"%.*s\" is reserved", len, key),
				 errdetail("Keys that begin with \"%s\" are the extension's own.", KV_RESERVED)));
}

/* Is a key the attachment's of this prefix and name?  head gets what such keys begin with. */
static bool
find_key(const EcRequest *reqs, int n, const char *prefix, const char *name,
		 const EcRequest **found, char *head)
{
	size_t		len = ec_key_head(head, prefix, name);

	head[len] = '\0';
	for (int i = 0; i < n; i++)
	{
		*found = &reqs[i];
		if (!reqs[i].skip && (size_t) reqs[i].keylen >= len && memcmp(reqs[i].key, head, len) == 0)
			return true;
	}
	return false;
}

/* The request, if any, whose key is that of the lease of this prefix; else the one found before. */
static const EcRequest *
find_lease(const EcRequest *reqs, int n, const char *prefix, const EcRequest *before)
{
	size_t		len = strlen(prefix);

	for (int i = 0; i < n && before == NULL; i++)
		if (!reqs[i].skip && (size_t) reqs[i].keylen == len + strlen(EC_LEASE_KEY_END) &&
			memcmp(reqs[i].key, prefix, len) == 0 &&
			memcmp(reqs[i].key + len, EC_LEASE_KEY_END, strlen(EC_LEASE_KEY_END)) == 0)
			before = &reqs[i];
	return before;
}

/*
 * Throws 42501 if one of the keys is a document's: of this database, as its
 * configuration is now, or of any other that has made it known in shared memory.
 * While a database changes its prefix both count.
 */
static void
refuse_documents(const EcRequest *reqs, int n)
{
	EcDatabase *mine = ec_state_database();
	const EcRequest *req = NULL;
	char		head[EC_PREFIX_MAX + EC_NAME_MAX + 2];
	char		name[EC_NAME_MAX + 1];
	Oid			dboid = MyDatabaseId;
	bool		found = false;
	const EcRequest *lease = NULL;
	ListCell   *lc;

	foreach(lc, ec_attachment_names())
	{
		strlcpy(name, lfirst(lc), sizeof(name));
		found = find_key(reqs, n, ec_placement_prefix(), name, &req, head) ||
			(mine && mine->has_old_prefix && find_key(reqs, n, mine->old_prefix, name, &req, head));
		if (found)
			break;
	}

	LWLockAcquire(ec_shmem->lock, LW_SHARED);
	for (int i = 0; i < EC_MAX_ATTACHMENTS && !found; i++)
	{
		EcSlot	   *slot = &ec_shmem->slot[i];

		for (int d = 0; d < EC_MAX_DATABASES && !found && OidIsValid(slot->dboid); d++)
		{
			EcDatabase *db = &ec_shmem->database[d];

			if (db->dboid != slot->dboid)
				continue;
			strlcpy(name, slot->name, sizeof(name));
			dboid = db->dboid;
			found = find_key(reqs, n, db->prefix, name, &req, head) ||
				(db->has_old_prefix && find_key(reqs, n, db->old_prefix, name, &req, head));
		}
	}
	for (int d = 0; d < EC_MAX_DATABASES && !found; d++)
		if (OidIsValid(ec_shmem->database[d].dboid))
			lease = find_lease(reqs, n, ec_shmem->database[d].prefix, lease);
	lease = find_lease(reqs, n, ec_placement_prefix(), lease);
	LWLockRelease(ec_shmem->lock);

	if (lease)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cache key \"%.*s\" is reserved", lease->keylen, lease->key),
				 errdetail("It says which cluster uses the keys of a prefix.")));
	if (!found)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("cache key \"%.*s\" belongs to a document", req->keylen, req->key),
			 dboid == MyDatabaseId
			 ? errdetail("Keys that begin with \"%s\" are those of document \"%s\".", head, name)
			 : errdetail("Keys that begin with \"%s\" are those of a document \"%s\" in another "
						 "database.", head, name),
			 dboid == MyDatabaseId
			 ? errhint("Use echocache_get() and its sisters for documents.") : 0));
}

/* Throws 54000: the server does not take so large a value; detail says how that is known. */
void
ec_kv_keys_too_large(const EcRequest *req, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("the value of cache key \"%.*s\" is too large for server \"%s\"",
					req->keylen, req->key, ec_placement_name(req->server)),
			 errdetail_internal("%s", detail),
			 errhint("memcached takes items of up to 1 MB, or of what its option -I says.")));
}

/*
 * Enter the topology and take the lock, refuse documents' keys, and say which
 * server each key is on.  Throws 08006 for one that is DOWN, 54000 for a value that
 * it would not take: to send that could take longer than the timeout.
 */
void
ec_kv_keys_begin(EcRequest *reqs, int n)
{
	LOCKTAG		tag;

	ec_shmem_require();
	/* what has to be waited for to know the documents is waited for before our lock is held */
	(void) ec_attachment_all();
	ec_kv_keys_enter();
	kv_lock_tag(&tag);
	(void) LockAcquire(&tag, ShareLock, false, false);
	refuse_documents(reqs, n);
	for (int i = 0; i < n; i++)
	{
		EcRequest  *req = &reqs[i];

		if (req->skip)
			continue;
		req->server = ec_placement_of(req->key, req->keylen);
		if (ec_state_of(req->server) == EC_DOWN)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("cache server \"%s\" is not available", ec_placement_name(req->server)),
					 errdetail("It is known to be down: %s.", ec_state_error(req->server))));
		if (req->valuelen > EC_VALUE_MAX ||
			!ec_placement_fits(req->server, req->keylen, req->valuelen))
			ec_kv_keys_too_large(req, "The request was not sent.");
	}
}

/* All requests have been answered: release the lock, leave the topology. */
void
ec_kv_keys_end(void)
{
	LOCKTAG		tag;

	kv_lock_tag(&tag);
	LockRelease(&tag, ShareLock, false);
	ec_topology_leave();
}
