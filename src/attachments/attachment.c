/*-------------------------------------------------------------------------
 *
 * attachment.c
 *	  Attachments, as this backend has them cached.
 *
 * The configuration lives in the tables echocache.document and echocache.dependent.  A
 * backend keeps it in memory, and drops it when one of these tables, or an attached
 * one, sends a relcache invalidation.  What is dropped is freed at the end of the
 * transaction, so a pointer to an attachment is valid until then.  It need not be the
 * current one: any lookup may load the configuration anew, give another pointer for the
 * name, or none.  A list of attachments is freed together with them.
 *
 * A lookup takes no lock on the attached table: a cache hit must not wait for DDL.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/configuration.h"
#include "attachments/filter.h"
#include "attachments/slot.h"
#include "guc.h"
#include "protocol/key.h"
#include "read/encoding.h"
#include "read/query.h"
#include "servers/placement.h"
#include "shmem.h"

/* The loaded configuration; NULL: not loaded, or dropped. */
static MemoryContext cache_context = NULL;
static List *attachments;		/* of EcAttachment */
static HTAB *row_maps;			/* of EcRowMap, by relid */
static Oid	catalog_oid = InvalidOid;	/* echocache.document */
static bool cache_stale = false;
static bool stale_at_end = false;	/* it becomes stale when the transaction is over */

/*
 * Syscache callback: some function, operator, cast or type has come, gone or changed, its name
 * perhaps.  A filter has them by name, so it is parsed anew, and they are checked, before a plan
 * is made of it.  Every new table is a type, too, and few filters have names of types.
 */
static void
invalidate_filters(Datum arg, int cacheid, uint32 hash)
{
	ListCell   *lc;

	if (cache_context == NULL || cache_stale)
		return;
	foreach(lc, attachments)
	{
		EcAttachment *att = lfirst(lc);

		cache_stale |= cacheid == TYPEOID ? ec_filter_has_names(att) : att->filter != NULL;
	}
}

/* What was dropped in this transaction: lists of EcAttachment, each with its context. */
typedef struct Dropped
{
	MemoryContext context;
	List	   *attachments;
} Dropped;

static List *dropped_list = NIL;

static void invalidate(Datum arg, Oid relid);
static void invalidate_filters(Datum arg, int cacheid, uint32 hash);
static void invalidate_names(Datum arg, int cacheid, uint32 hash);
static void free_plans(EcAttachment *att);
static void drop(void);
static void load(void);
static bool is_attached_now(Oid relid);

/* Once per backend. */
void
ec_attachment_init(void)
{
	ec_catalog_init();
	CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, invalidate_filters, (Datum) 0);
	CacheRegisterSyscacheCallback(OPEROID, invalidate_filters, (Datum) 0);
	CacheRegisterSyscacheCallback(CASTSOURCETARGET, invalidate_filters, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, invalidate_filters, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, invalidate_names, (Datum) 0);
}

/*
 * Syscache callback: a schema has perhaps been renamed, and queries of ours name it.  As
 * invalidate().
 */
static void
invalidate_names(Datum arg, int cacheid, uint32 hash)
{
	cache_stale = true;
}

/*
 * Relcache callback.  It may come at any moment, so it only notes that the configuration is
 * stale: it frees nothing, reads no catalog and does not throw.
 */
static void
invalidate(Datum arg, Oid relid)
{
	ListCell   *lc;

	if (cache_context == NULL)
		cache_stale = true;		/* it is being loaded, perhaps */
	if (cache_stale)
		return;
	if (relid == InvalidOid || relid == catalog_oid ||
		hash_search(row_maps, &relid, HASH_FIND, NULL) != NULL)
	{
		cache_stale = true;
		return;
	}
	foreach(lc, attachments)
	{
		EcAttachment *att = lfirst(lc);
		ListCell   *ld;

		cache_stale |= att->relid == relid;
		foreach(ld, att->dependents)
			cache_stale |= ((EcDependent *) lfirst(ld))->relid == relid;
	}
}

/*
 * The catalogs change in a way that no relcache invalidation of an attached table tells.
 * Every backend loads the configuration anew: the others when this transaction has
 * committed, this one at its next lookup and once more when the transaction is over.
 */
void
ec_attachment_reload(void)
{
	CacheInvalidateRelcacheByRelid(ec_catalog_document(false));
	stale_at_end = true;
}

/* At the end of a transaction: free what was dropped in it.  Never throws. */
void
ec_attachment_at_xact_end(void)
{
	ListCell   *lc;

	cache_stale |= stale_at_end;
	stale_at_end = false;
	foreach(lc, dropped_list)
	{
		Dropped    *dropped = lfirst(lc);
		ListCell   *ld;

		foreach(ld, dropped->attachments)
			free_plans(lfirst(ld));
		MemoryContextDelete(dropped->context);
	}
	list_free_deep(dropped_list);
	dropped_list = NIL;
}

/* SPI plans live outside of the attachment's memory context. */
static void
free_plans(EcAttachment *att)
{
	for (int i = 0; i < 2; i++)
	{
		ec_query_free(&att->query_one[i]);
		ec_query_free(&att->query_many[i]);
	}
	if (att->plan_row != NULL)
		SPI_freeplan(att->plan_row);
}

/* What is loaded is stale.  It is kept to the end of the transaction, for those who hold it. */
static void
drop(void)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	Dropped    *dropped = palloc(sizeof(Dropped));

	dropped->context = cache_context;
	dropped->attachments = attachments;
	dropped_list = lappend(dropped_list, dropped);
	MemoryContextSwitchTo(old);
	cache_context = NULL;
	attachments = NIL;
	row_maps = NULL;
}

/*
 * Have the configuration in memory, as of now.  It is empty in a database without the
 * extension, and while the extension is being dropped.  Throws what reading it throws, 55000
 * among it when the library cannot use the extension's objects, and then nothing is loaded.
 */
static void
load(void)
{
	MemoryContext context;
	MemoryContext old;
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(EcRowMap)};

	Assert(IsTransactionState());
	AcceptInvalidationMessages();
	if (cache_context != NULL && !cache_stale)
		return;
	if (cache_context != NULL)
		drop();
	catalog_oid = ec_catalog_document(true);
	if (!OidIsValid(catalog_oid))
	{
		ec_catalog_report_version(ERROR);
		return;
	}

	context = AllocSetContextCreate(CurrentMemoryContext, "echocache attachments",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	ctl.hcxt = context;
	row_maps = hash_create("echocache row maps", 32, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	attachments = NIL;

	/* an invalidation from here on makes it stale again; an error leaves nothing loaded */
	cache_stale = false;
	attachments = ec_configuration_read();
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, CacheMemoryContext);
	cache_context = context;
}

/*
 * All attachments; they may be unresolved.  The list lives to the end of the transaction,
 * but a lookup inside a loop over it may make it an old one.
 */
List *
ec_attachment_all(void)
{
	load();
	return attachments;
}

/* How rows of this table map to documents, as far as that is known; NULL: it is not. */
EcRowMap *
ec_attachment_row_map(Oid relid)
{
	load();
	return row_maps ? hash_search(row_maps, &relid, HASH_FIND, NULL) : NULL;
}

/* The entry of this table among the loaded row maps, made if need be.  Loads nothing. */
EcRowMap *
ec_attachment_make_row_map(Oid relid)
{
	bool		found;
	EcRowMap   *map = hash_search(row_maps, &relid, HASH_ENTER, &found);

	if (!found)
		memset((char *) map + sizeof(Oid), 0, sizeof(EcRowMap) - sizeof(Oid));
	return map;
}

/*
 * The attachment of this name, resolved; NULL: there is none.  Throws what resolving it
 * throws, such as 42P01 when its table is gone.
 */
EcAttachment *
ec_attachment_by_name(const char *name)
{
	ListCell   *lc;

	load();
	foreach(lc, attachments)
	{
		EcAttachment *att = lfirst(lc);

		if (strcmp(att->name, name) == 0)
		{
			if (!att->resolved)
				ec_configuration_resolve(att);
			return att;
		}
	}
	return NULL;
}

/* The attachment of this name, resolved.  Throws 42704, with a hint, when there is none. */
EcAttachment *
ec_attachment_require(const char *name)
{
	EcAttachment *att;

	ec_shmem_require();
	att = ec_attachment_by_name(name);
	if (att == NULL)
	{
		(void) ec_catalog_document(false);
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no document \"%s\"", name),
				 errhint("Attach its table with echocache_attach(); the view "
						 "echocache_documents lists what is attached.")));
	}
	return att;
}

/* The attachment of this table, resolved; NULL: the table is not attached itself. */
EcAttachment *
ec_attachment_by_relid(Oid relid)
{
	ListCell   *lc;

	load();
	foreach(lc, attachments)
	{
		EcAttachment *att = lfirst(lc);

		if (att->relid == relid)
		{
			if (!att->resolved)
				ec_configuration_resolve(att);
			return att;
		}
	}
	return NULL;
}

/*
 * The attached table of this name, and behind it the dependent tables.  Any of them may
 * be gone or changed by now.  NIL: there is no such attachment.
 */
List *
ec_attachment_tables(const char *name)
{
	List	   *tables = NIL;
	ListCell   *lc;

	load();
	foreach(lc, attachments)
	{
		EcAttachment *att = lfirst(lc);
		ListCell   *ld;

		if (strcmp(att->name, name) != 0)
			continue;
		tables = list_make1_oid(att->relid);
		foreach(ld, att->dependents)
			tables = lappend_oid(tables, ((EcDependent *) lfirst(ld))->relid);
	}
	return tables;
}

/* The names of all attachments, copied to the current memory context. */
List *
ec_attachment_names(void)
{
	List	   *names = NIL;
	ListCell   *lc;

	load();
	foreach(lc, attachments)
		names = lappend(names, pstrdup(((EcAttachment *) lfirst(lc))->name));
	return names;
}

/* The OIDs of all attached tables, in a list of its own. */
List *
ec_attachment_relids(void)
{
	List	   *relids = NIL;
	ListCell   *lc;

	load();
	foreach(lc, attachments)
		relids = lappend_oid(relids, ((EcAttachment *) lfirst(lc))->relid);
	return relids;
}

/* Is the table attached, as the configuration has it at this moment?  Loads it anew. */
static bool
is_attached_now(Oid relid)
{
	ListCell   *lc;

	cache_stale = true;			/* its invalidation may be yet to come */
	load();
	foreach(lc, attachments)
		if (((EcAttachment *) lfirst(lc))->relid == relid)
			return true;
	return false;
}

/*
 * The database's worker calls this as it starts, in a transaction: every attachment gets
 * its slot, if one is free, so that all databases know its keys (kv_keys.c) before a
 * backend has used the attachment.
 */
void
ec_attachment_claim_slots(void)
{
	ListCell   *lc;

	load();
	foreach(lc, attachments)
	{
		EcAttachment *att = lfirst(lc);

		(void) ec_slot_claim(att->relid, att->name);
	}
	ec_attachment_free_slots();
}

/*
 * Give up slots of this database whose table is not attached any more.  The commit of a
 * detach gives its slot up itself, but not when it was prepared, and a backend that looked
 * before the commit may claim it again afterwards.  A prepared attach that is rolled back
 * leaves one, too.
 *
 * An attach that is under way owns the slot of its table, and a detach needs it until its
 * commit: both lock the table, prepared or not, against the lock that is taken here for a
 * moment, without waiting.
 */
void
ec_attachment_free_slots(void)
{
	List	   *candidates;
	ListCell   *lc;

	cache_stale = true;			/* its invalidation may be yet to come */
	candidates = list_difference_oid(ec_slot_relids(), ec_attachment_relids());
	foreach(lc, candidates)
	{
		Oid			relid = lfirst_oid(lc);

		if (!ConditionalLockRelationOid(relid, ShareRowExclusiveLock))
			continue;
		if (!is_attached_now(relid))
			ec_slot_free(relid);
		UnlockRelationOid(relid, ShareRowExclusiveLock);
	}
}

/* The attached table's name, qualified for a query.  Throws 42P01 when the table is gone. */
char *
ec_attachment_table(EcAttachment *att)
{
	char	   *name = get_rel_name(att->relid);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table of document \"%s\" does not exist any more", att->name)));
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(att->relid)), name);
}

/*
 * The cache key of the document with this id (the key column's text, in the server
 * encoding).  dst holds EC_KEY_MAX bytes; returns the key's length.  0: the document has no
 * key, and is never cached.  Whoever places the key has entered the topology, whose prefix
 * it begins with; verify_keys.c merely compares it.
 */
int
ec_attachment_key(EcAttachment *att, const char *id, char *dst)
{
	size_t		len = strlen(id);

	for (const char *p = id; *p; p++)
	{
		if (!IS_HIGHBIT_SET(*p))
			continue;
		/* an id that UTF-8 cannot express has no key, as one that is too long has none */
		id = ec_encoding_to_utf8(id, &len);
		if (id == NULL)
			return 0;
		break;
	}
	return (int) ec_key_build(dst, ec_placement_prefix(), att->name, id, len);
}

/* The lifetime of a document in seconds: the attachment's own, or echocache.ttl. */
int
ec_attachment_ttl(EcAttachment *att)
{
	return att->ttl >= 0 ? att->ttl : ec_guc_ttl;
}
