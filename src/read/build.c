/*-------------------------------------------------------------------------
 *
 * build.c
 *	  Documents that a function of the user's makes of a row.
 *
 * The function runs as the owner of the attached table, whoever reads, in a read-only,
 * security-restricted context with a search path of pg_catalog, pg_temp, and under the settings
 * that all documents are rendered with.  So its result depends on nothing but the data;
 * ec_build_may_store() knows the one exception.  The document must show the key, and the owner
 * if there is one, at top level and as the row has them, since a hit's key and owner are checked
 * on the cached bytes.
 *
 * The function reads tables that we know nothing of, and may take its time: no lock of the
 * fence is held meanwhile, nor the topology entered.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "attachments/column.h"
#include "attachments/configuration.h"
#include "attachments/trust.h"
#include "compat.h"
#include "protocol/jsonscan.h"
#include "read/build.h"

/* A call of a document's function that is under way. */
typedef struct Call
{
	Oid			relid;			/* the attached table */
	const char *id;
	struct Call *outer;			/* the call within which it was made */
} Call;

/*
 * The calls under way, innermost first.  Each is on the stack of call(), which takes it off
 * the list however the function ends.
 */
static Call *calls = NULL;

static bool lacks_temp(HeapTuple tuple);
static void check_rights(Oid function, const char *name, const char *table, Oid relowner);
static void check_member(EcAttachment *att, text *json, EcColumn *column, Datum value,
						 bool isnull);
static void function_error(void *arg);
static Datum call(EcAttachment *att, FmgrInfo *function, Datum row, bool *isnull);

/*
 * Has the function a search path of its own that lacks pg_temp?  Then PostgreSQL searches
 * pg_temp before all other schemas.
 */
static bool
lacks_temp(HeapTuple tuple)
{
	const char *prefix = "search_path=";
	Datum		config;
	bool		isnull;
	Datum	   *settings;
	int			n;

	config = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_proconfig, &isnull);
	if (isnull)
		return false;
	deconstruct_array(DatumGetArrayTypeP(config), TEXTOID, -1, false, TYPALIGN_INT, &settings,
					  NULL, &n);
	for (int i = 0; i < n; i++)
	{
		char	   *setting = TextDatumGetCString(settings[i]);
		List	   *schemas = NIL;
		bool		has_temp = false;
		ListCell   *lc;

		if (strncmp(setting, prefix, strlen(prefix)) != 0)
			continue;
		(void) SplitIdentifierString(setting + strlen(prefix), ',', &schemas);
		foreach(lc, schemas)
			has_temp |= strcmp(lfirst(lc), "pg_temp") == 0;
		if (!has_temp)
			return true;
	}
	return false;
}

/*
 * May what this session builds be cached for everybody?  Not if it may come from the
 * session's own temporary tables.
 */
bool
ec_build_may_store(EcAttachment *att)
{
	Oid			temp;
	Oid			toast;
	HeapTuple	tuple;
	bool		may;

	if (!att->function_name)
		return true;
	GetTempNamespaceState(&temp, &toast);
	if (!OidIsValid(temp))
		return true;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(att->function));
	if (!HeapTupleIsValid(tuple))
		return false;
	may = !lacks_temp(tuple);
	ReleaseSysCache(tuple);
	return may;
}

/*
 * Throws 42501 unless the table's owner may execute the function, and its owner, who can make
 * another one of it, may act as the table's owner, as whom it runs.
 */
static void
check_rights(Oid function, const char *name, const char *table, Oid relowner)
{
	Oid			stranger;

	if (ec_compat_proc_aclcheck(function, relowner, ACL_EXECUTE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(function));
	stranger = ec_trust_function(function, relowner);
	if (OidIsValid(stranger))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("function %s cannot make documents of table \"%s\"", name, table),
				 errdetail("It belongs to role \"%s\", and would run as the table's owner.",
						   GetUserNameFromId(stranger, true)),
				 errhint("A document's function belongs to the table's owner or to a superuser.")));
}

/*
 * May the function make documents of the table's rows, and may the table's owner execute it?
 * Throws 42P13 or 42501 if not, and 42883 if there is no such function.  Returns the
 * function's qualified name, which the configuration keeps: an OID would not survive dump or
 * pg_upgrade.
 */
char *
ec_build_check_function(Oid function, Relation rel)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	const char *why = NULL;
	char	   *name;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", function)));
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	name = quote_qualified_identifier(get_namespace_name(proc->pronamespace),
									  NameStr(proc->proname));
	if (proc->prokind != PROKIND_FUNCTION || proc->proretset)
		why = "It is not an ordinary function.";
	else if (proc->pronargs != 1 || proc->proargtypes.values[0] != rel->rd_rel->reltype)
		why = "Its one argument must be of the table's row type.";
	else if (proc->prorettype != JSONOID && proc->prorettype != JSONBOID)
		why = "It must return json or jsonb.";
	if (why)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s cannot make documents of table \"%s\"", name,
						RelationGetRelationName(rel)),
				 errdetail_internal("%s", why),
				 errhint("Write a function f(%s) RETURNS json STABLE.",
						 RelationGetRelationName(rel))));
	check_rights(function, name, RelationGetRelationName(rel), rel->rd_rel->relowner);
	if (lacks_temp(tuple))
		ereport(WARNING_CLIENT_ONLY,
				(errmsg("the search_path of function %s lacks pg_temp", name),
				 errdetail("So temporary tables of whoever reads come before all "
						   "others: what is built in a session that has any is not cached."),
				 errhint("Put it last: ALTER FUNCTION %s SET search_path = ..., pg_temp.", name)));
	if (proc->provolatile == PROVOLATILE_VOLATILE)
		ereport(WARNING_CLIENT_ONLY,
				(errmsg("function %s is declared VOLATILE", name),
				 errdetail("A document changes only when a row of its tables does."),
				 errhint("Declare it STABLE.")));
	ReleaseSysCache(tuple);
	return name;
}

/*
 * Throws 42P13 unless the document shows this column as the row has it, once.  A NULL need not
 * be shown.
 */
static void
check_member(EcAttachment *att, text *json, EcColumn *column, Datum value, bool isnull)
{
	int			len;
	int			namelen;
	int			found;
	char	   *member = ec_column_member(column, value, isnull, &len, &namelen);
	EcMember	result = ec_jsonscan_find(VARDATA_ANY(json), VARSIZE_ANY_EXHDR(json), member,
										  len, namelen, &found);

	if ((result == EC_MEMBER_EQUAL && found == 1) ||
		(result == EC_MEMBER_DIFFERS && found == 0 && isnull))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
			 errmsg("function %s does not show column \"%s\" of the row",
					att->function_name, NameStr(column->name)),
			 errdetail("Document \"%s\" must be an object with the member %s at top level, "
					   "and no other of that name.", att->name, member),
			 errhint("Let the function copy the column.")));
}

/* Error context: whose function it was, and what its search path is. */
static void
function_error(void *arg)
{
	EcAttachment *att = arg;

	if (geterrcode() == ERRCODE_UNDEFINED_TABLE || geterrcode() == ERRCODE_UNDEFINED_FUNCTION)
		errhint("It runs with search_path = pg_catalog: qualify names with their schema, or add "
				"SET search_path = ..., pg_temp to the function.");
	errcontext("function %s of document \"%s\"", att->function_name, att->name);
}

/*
 * Look the function up, before a query whose rows it is to make documents of.  An FmgrInfo is
 * not reentrant, and the function may read documents itself, so each query has one of its own.
 * Throws what check_rights() throws.
 */
void
ec_build_begin(EcAttachment *att, FmgrInfo *function)
{
	check_rights(att->function, att->function_name, get_rel_name(att->relid), att->relowner);
	fmgr_info(att->function, function);
}

/*
 * Call the function as the table's owner.  The function may read other documents, but not the
 * one that it is to make, nor one whose function reads that: throws 42P13 then.
 */
static Datum
call(EcAttachment *att, FmgrInfo *function, Datum row, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 1);
	Call		this = {att->relid, NULL, calls};
	Oid			user;
	int			sec_context;
	Datum		key;
	Datum		result;
	bool		null;

	key = GetAttributeByName(DatumGetHeapTupleHeader(row), NameStr(att->key.name), &null);
	this.id = null ? "" : OutputFunctionCall(&att->key.out, key);
	for (Call *outer = calls; outer; outer = outer->outer)
		if (outer->relid == this.relid && strcmp(outer->id, this.id) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
					 errmsg("document \"%s\" with %s \"%s\" is made of itself", att->name,
							NameStr(att->key.name), this.id),
					 errdetail("Its function reads the document that it is to make.")));

	calls = &this;
	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(att->relowner, sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS);
	Assert(InSecurityRestrictedOperation());
	InitFunctionCallInfoData(*fcinfo, function, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = row;
	fcinfo->args[0].isnull = false;
	PG_TRY();
	{
		result = FunctionCallInvoke(fcinfo);
	}
	PG_FINALLY();
	{
		calls = this.outer;
	}
	PG_END_TRY();
	*isnull = fcinfo->isnull;
	SetUserIdAndSecContext(user, sec_context);
	return result;
}

/*
 * The document of this row, a composite value of the table's type; NULL, if the function
 * returns that: then the row has no document.  The caller has called ec_act_begin(), and the
 * active snapshot is what the function sees.  Throws what the function throws, and 42P13 if the
 * document does not show key or owner.
 */
text *
ec_build(EcAttachment *att, FmgrInfo *function, Datum row, bool *isnull)
{
	ErrorContextCallback context = {error_context_stack, function_error, att};
	HeapTupleHeader header = DatumGetHeapTupleHeader(row);
	Datum		value;
	text	   *json = NULL;

	error_context_stack = &context;
	value = call(att, function, row, isnull);

	if (!*isnull)
	{
		const char *p;
		size_t		len;

		if (get_func_rettype(function->fn_oid) == JSONBOID)
			value = DirectFunctionCall1(jsonb_out, value);
		else
			value = DirectFunctionCall1(json_out, value);
		/* a document begins and ends with its braces */
		p = DatumGetCString(value);
		p += strspn(p, " \t\r\n");
		for (len = strlen(p); len > 0 && strchr(" \t\r\n", p[len - 1]); len--)
			;
		json = cstring_to_text_with_len(p, (int) len);
		for (int i = 0; i < 1 + att->has_owner; i++)
		{
			EcColumn   *column = i == 0 ? &att->key : &att->owner;
			bool		null;
			Datum		datum = GetAttributeByName(header, NameStr(column->name), &null);

			check_member(att, json, column, datum, null);
		}
	}
	error_context_stack = context.previous;
	return json;
}
