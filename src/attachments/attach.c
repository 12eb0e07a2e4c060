/*-------------------------------------------------------------------------
 *
 * attach.c
 *	  echocache_attach(): attach a table.
 *
 * An attach changes every document of the name.  So the commit that attaches a table
 * invalidates all keys of the name, which an earlier attachment may have left behind.
 *
 * The caller must own the table.  The configuration is written without a look at the
 * caller's rights on echocache.document; the triggers are created with the caller's rights.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "attachments/attach.h"
#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/check.h"
#include "attachments/configuration.h"
#include "attachments/depend.h"
#include "attachments/slot.h"
#include "attachments/triggers.h"
#include "commit/pending.h"
#include "compat.h"
#include "protocol/key.h"
#include "read/build.h"
#include "read/fetch.h"
#include "servers/state.h"
#include "shmem.h"
#include "sql/support.h"

PG_FUNCTION_INFO_V1(echocache_attach);

static void insert_configuration(EcAttaching *a);
static void warn_shared_keys(const char *name);
static void check_table(EcAttaching *a);
static void check_free(EcAttaching *a);
static void check_options(EcAttaching *a, FunctionCallInfo fcinfo);

/*
 * Write the row of echocache.document.  The caller's rights on that table do not matter.
 * Throws what the table's unique indexes throw.
 */
static void
insert_configuration(EcAttaching *a)
{
	Relation	rel = ec_catalog_open(EC_CATALOG_DOCUMENT, RowExclusiveLock);
	Datum		values[Natts_ec_document] = {0};
	bool		nulls[Natts_ec_document] = {0};
	HeapTuple	tuple;

	values[Anum_ec_document_name - 1] = CStringGetTextDatum(a->name);
	values[Anum_ec_document_relation - 1] = ObjectIdGetDatum(a->relid);
	values[Anum_ec_document_key_column - 1] =
		DirectFunctionCall1(namein, CStringGetDatum(a->key));
	nulls[Anum_ec_document_owner_column - 1] = a->owner == NULL;
	if (a->owner)
		values[Anum_ec_document_owner_column - 1] =
			DirectFunctionCall1(namein, CStringGetDatum(a->owner));
	nulls[Anum_ec_document_filter - 1] = a->filter == NULL;
	if (a->filter)
		values[Anum_ec_document_filter - 1] = CStringGetTextDatum(a->filter);
	values[Anum_ec_document_filter_columns - 1] = ec_catalog_names_datum(a->filter_columns);
	values[Anum_ec_document_filter_calls - 1] =
		CStringGetTextDatum(a->filter ? a->filter_calls : "");
	values[Anum_ec_document_exclude - 1] = ec_catalog_names_datum(a->exclude);
	nulls[Anum_ec_document_ttl - 1] = a->ttl < 0;
	values[Anum_ec_document_ttl - 1] = Int32GetDatum((int32) a->ttl);
	values[Anum_ec_document_policy - 1] = CStringGetTextDatum(a->policy);
	nulls[Anum_ec_document_document - 1] = a->function == NULL;
	if (a->function)
		values[Anum_ec_document_document - 1] = CStringGetTextDatum(a->function);
	values[Anum_ec_document_touch_on_read - 1] = BoolGetDatum(a->touch_on_read);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	CatalogTupleInsert(rel, tuple); /* unique indexes included */
	CacheInvalidateRelcache(rel);
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
}

/* Two databases with one prefix use the same keys for attachments of the same name. */
static void
warn_shared_keys(const char *name)
{
	EcDatabase *mine = ec_state_database();

	for (int i = 0; mine != NULL && i < EC_MAX_DATABASES; i++)
	{
		EcDatabase *db = &ec_shmem->database[i];

		if (db == mine || !OidIsValid(db->dboid) || strcmp(db->prefix, mine->prefix) != 0)
			continue;
		ereport(WARNING_CLIENT_ONLY,
				(errmsg("another database uses cache keys with the same prefix"),
				 errdetail("Of one of them only the documents are cached: \"%s\" may not be.",
						   name),
				 errhint("Use ALTER DATABASE ... SET echocache.key_prefix, then "
						 "SELECT pg_reload_conf().")));
		return;
	}
}

/*
 * Throws unless the current role owns the table, and triggers can follow it.  Opens it, and
 * locks it as CREATE TRIGGER does: no writer is under way without our trigger.
 */
static void
check_table(EcAttaching *a)
{
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(a->relid)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", a->relid)));
	if (!ec_compat_owns_relation(a->relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(a->relid));
	a->rel = relation_open(a->relid, ShareRowExclusiveLock);
	ec_check_relation(a->rel);
}

/* Throws if the table is attached already, or the name is taken. */
static void
check_free(EcAttaching *a)
{
	EcAttachment *attached = ec_attachment_by_relid(a->relid);

	if (attached != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("table \"%s\" is attached already, as document \"%s\"",
						RelationGetRelationName(a->rel), attached->name),
				 errhint("To attach it anew, run SELECT echocache_detach('%s') first.",
						 attached->name)));
	attached = ec_attachment_by_name(a->name);
	if (attached != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("there is a document \"%s\" already, of table \"%s\"", a->name,
						get_rel_name(attached->relid)),
				 errhint("Give this one another name.")));
}

/* Take over the other arguments; throws unless the table can be attached with them. */
static void
check_options(EcAttaching *a, FunctionCallInfo fcinfo)
{
	a->key = PG_ARGISNULL(2) ? ec_check_find_key(a->rel) : pstrdup(NameStr(*PG_GETARG_NAME(2)));
	ec_check_key(a->rel, a->key);
	a->owner = PG_ARGISNULL(3) ? NULL : pstrdup(NameStr(*PG_GETARG_NAME(3)));
	if (!PG_ARGISNULL(5))
		a->exclude = ec_catalog_names(PG_GETARG_DATUM(5));
	ec_check_columns(a);
	if (!PG_ARGISNULL(4))
	{
		a->filter = text_to_cstring(PG_GETARG_TEXT_PP(4));
		ec_check_filter(a);
	}
	a->ttl = PG_ARGISNULL(6) ? -1 : ec_support_seconds(PG_GETARG_INTERVAL_P(6));
	a->policy = PG_ARGISNULL(7) ? "write-through" : text_to_cstring(PG_GETARG_TEXT_PP(7));
	if (strcmp(a->policy, "write-through") != 0 && strcmp(a->policy, "invalidate") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid policy \"%s\"", a->policy),
				 errhint("A policy is \"write-through\" or \"invalidate\".")));
	if (!PG_ARGISNULL(8))
	{
		if (a->exclude != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a document made by a function cannot exclude columns"),
					 errhint("Let the function leave them out.")));
		a->function = ec_build_check_function(PG_GETARG_OID(8), a->rel);
	}
	a->touch_on_read = !PG_ARGISNULL(9) && PG_GETARG_BOOL(9);
}

/* SQL: attach a table. */
Datum
echocache_attach(PG_FUNCTION_ARGS)
{
	EcAttaching a = {0};
	EcAttachment *att;

	ec_shmem_require();
	PreventCommandIfReadOnly("echocache_attach()");
	for (int i = 0; i < 2; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("the %s to attach cannot be NULL", i == 0 ? "table" : "name")));
	a.relid = PG_GETARG_OID(0);
	a.schema = get_namespace_name(get_func_namespace(fcinfo->flinfo->fn_oid));
	a.name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!ec_key_valid_name(a.name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid document name \"%s\"", a.name),
				 errhint("A name has 1 to 63 lower-case letters, digits and underscores, and "
						 "begins with a letter.")));
	check_table(&a);
	check_free(&a);
	check_options(&a, fcinfo);
	warn_shared_keys(a.name);
	relation_close(a.rel, NoLock);	/* ALTER TABLE wants it closed; the lock stays */
	/* those that an earlier attachment has left do nothing, but have the names */
	ec_triggers_drop(a.relid, a.name, false);
	/* the triggers first: a warning that they do not fire yet would be of no use */
	ec_triggers_create(a.relid, a.name, a.schema, false);
	ec_slot_note_attach(a.relid);
	if (!ec_slot_try(a.relid, a.name))
		ec_attachment_free_slots();
	ec_slot_require(a.relid, a.name);
	insert_configuration(&a);
	ec_pending_whole(a.relid);
	att = ec_attachment_by_name(a.name);
	if (att != NULL)
	{
		(void) ec_depend_record(att, true, true);
		if (a.function)
			ec_fetch_try(att);
	}
	PG_RETURN_VOID();
}
