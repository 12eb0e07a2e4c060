/*-------------------------------------------------------------------------
 *
 * attachment.c
 *	  Attachments, as this backend has them cached.
 *
 * The configuration lives in the table echocache.document.  A backend keeps it
 * in memory and drops it whenever that table, or an attached one, sends a
 * relcache invalidation; what was dropped is freed at the end of the
 * transaction, so a pointer to a document may be held until then.  Looking a
 * document up takes no lock on its table: a cache hit must not wait for DDL.
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

#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/configuration.h"
#include "attachments/slot.h"
#include "guc.h"
#include "protocol/key.h"
#include "read/encoding.h"
#include "servers/placement.h"
#include "shmem.h"

/* The loaded configuration; NULL: not loaded, or dropped. */
static MemoryContext cache_context = NULL;
static List *documents;			/* of EcAttachment */
static HTAB *row_maps;			/* of EcRowMap, by relid */
static Oid	catalog_oid = InvalidOid;	/* echocache.document */
static bool cache_stale = false;
static bool stale_at_end = false;	/* ... when the transaction is over */

/* What was dropped in this transaction: lists of EcAttachment, each with its context. */
typedef struct Dropped
{
	MemoryContext context;
	List	   *documents;
} Dropped;

static List *dropped_list = NIL;

static void invalidate(Datum arg, Oid relid);
static void free_plans(EcAttachment *att);
static void load(void);
static bool is_attached_now(Oid relid);

/* Once per backend. */
void
ec_attachment_init(void)
{
	CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
}

/* Relcache callback: only note it; nothing may be freed here. */
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
	foreach(lc, documents)
	{
		EcAttachment *att = lfirst(lc);
		ListCell   *ld;

		cache_stale |= att->relid == relid;
		foreach(ld, att->dependents)
			cache_stale |= ((EcDependent *) lfirst(ld))->relid == relid;
	}
}

/*
 * Catalogs are changing in a way that no invalidation of a table of ours tells: every
 * backend, and after the transaction this one too, loads the configuration anew.
 */
void
ec_attachment_reload(void)
{
	CacheInvalidateRelcacheByRelid(ec_catalog_document(false));
	stale_at_end = true;
}

/* At the end of a transaction: free what was dropped in it. */
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

		foreach(ld, dropped->documents)
			free_plans(lfirst(ld));
		MemoryContextDelete(dropped->context);
	}
	list_free_deep(dropped_list);
	dropped_list = NIL;
}

/* They live outside of the document's context. */
static void
free_plans(EcAttachment *att)
{
	SPIPlanPtr	plans[] = {att->plan_one[0], att->plan_one[1], att->plan_many[0],
	att->plan_many[1], att->plan_row};

	for (int i = 0; i < lengthof(plans); i++)
		if (plans[i] != NULL)
			SPI_freeplan(plans[i]);
}

/*
 * Have the configuration in memory, as of now.  In a database without the
 * extension (or while it is being dropped) it is empty.
 */
static void
load(void)
{
	MemoryContext context;
	MemoryContext old;
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(EcRowMap)};

	AcceptInvalidationMessages();
	if (cache_context != NULL && !cache_stale)
		return;

	if (cache_context != NULL)
	{
		Dropped    *dropped;

		old = MemoryContextSwitchTo(TopMemoryContext);
		dropped = palloc(sizeof(Dropped));
		dropped->context = cache_context;
		dropped->documents = documents;
		dropped_list = lappend(dropped_list, dropped);
		MemoryContextSwitchTo(old);
		cache_context = NULL;
	}
	catalog_oid = ec_catalog_document(true);

	context = AllocSetContextCreate(CurrentMemoryContext, "echocache documents",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	ctl.hcxt = context;
	row_maps = hash_create("echocache row maps", 32, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	documents = NIL;

	/* an invalidation from here on makes it stale again; an error leaves nothing loaded */
	cache_stale = false;
	if (OidIsValid(catalog_oid))
		documents = ec_configuration_read(catalog_oid);
	else
		cache_stale = true;		/* which OID to look out for is not known yet */
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, CacheMemoryContext);
	cache_context = context;
}

/* All attached documents; they may be unresolved. */
List *
ec_attachment_all(void)
{
	load();
	return documents;
}

/* This table's entry among the row maps; NULL: it has none. */
EcRowMap *
ec_attachment_row_map(Oid relid)
{
	load();
	return hash_search(row_maps, &relid, HASH_FIND, NULL);
}

/* The same, made if need be, among those that are loaded. */
EcRowMap *
ec_attachment_make_row_map(Oid relid)
{
	bool		found;
	EcRowMap   *map = hash_search(row_maps, &relid, HASH_ENTER, &found);

	if (!found)
		memset((char *) map + sizeof(Oid), 0, sizeof(EcRowMap) - sizeof(Oid));
	return map;
}

/* Documents by name; NULL when there is none. */
EcAttachment *
ec_attachment_by_name(const char *name)
{
	ListCell   *lc;

	load();
	foreach(lc, documents)
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

/* The same; throws 42704 with what to do when there is none. */
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

/* By the attached table; NULL when it is not attached. */
EcAttachment *
ec_attachment_by_relid(Oid relid)
{
	ListCell   *lc;

	load();
	foreach(lc, documents)
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
 * The table of a document, and behind it those that are part of it; any may be gone or
 * changed.  NIL: there is no such document.
 */
List *
ec_attachment_tables(const char *name)
{
	List	   *tables = NIL;
	ListCell   *lc;

	load();
	foreach(lc, documents)
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

/* The names of all attached documents, copied. */
List *
ec_attachment_names(void)
{
	List	   *names = NIL;
	ListCell   *lc;

	load();
	foreach(lc, documents)
		names = lappend(names, pstrdup(((EcAttachment *) lfirst(lc))->name));
	return names;
}

/* Is the table attached, as the configuration has it at this moment? */
static bool
is_attached_now(Oid relid)
{
	ListCell   *lc;

	cache_stale = true;			/* its invalidation may be yet to come */
	load();
	foreach(lc, documents)
		if (((EcAttachment *) lfirst(lc))->relid == relid)
			return true;
	return false;
}

/*
 * The worker's, as it starts: every attached document has its slot, if one is to
 * be had, so that all databases know its keys (kv.c), and not only once a backend
 * has used it.  In a transaction.
 *
 * A slot may be claimed just after the commit of a detach has given it up.  So look
 * again, and give it up ourselves; but not one that an attach has got meanwhile,
 * which holds this lock on its table.
 */
void
ec_attachment_claim_slots(void)
{
	List	   *relids = NIL;
	ListCell   *lc;

	load();
	foreach(lc, documents)
	{
		EcAttachment *att = lfirst(lc);

		if (ec_slot_claim(att->relid, att->name) != NULL)
			relids = lappend_oid(relids, att->relid);
	}
	foreach(lc, relids)
	{
		Oid			relid = lfirst_oid(lc);

		if (is_attached_now(relid) ||
			!ConditionalLockRelationOid(relid, ShareRowExclusiveLock))
			continue;
		if (!is_attached_now(relid))
			ec_slot_free(relid);
		UnlockRelationOid(relid, ShareRowExclusiveLock);
	}
}

/* The document's table, qualified for a query.  Throws 42P01 when it is gone. */
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
 * The cache key of the document with this id (the key column's text, in the
 * server encoding); dst holds EC_KEY_MAX bytes.  0: it is never cached.  The topology is
 * entered.
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

int
ec_attachment_ttl(EcAttachment *att)
{
	return att->ttl >= 0 ? att->ttl : ec_guc_ttl;
}
