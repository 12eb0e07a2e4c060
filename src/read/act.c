/*-------------------------------------------------------------------------
 *
 * act.c
 *	  Acting as the table's owner, under settings that are always the same.
 *
 * Code of the owner's runs between ec_act_begin() and ec_act_end() only.  Nothing that it
 * does to the session outlives the call, and nothing that the session has set or planted
 * changes what the code means.  Four things together see to that: PostgreSQL's
 * security-restricted operation; a level of settings that is undone; a subtransaction that is
 * rolled back, for what belongs to one (cursors, locks, notifications); and a hook that refuses
 * what belongs to the session.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/bytea.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/regproc.h"
#include "utils/resowner.h"
#include "utils/rls.h"

#include "attachments/configuration.h"
#include "read/act.h"

/* The meaning of SQL, and what functions return, depends on these, too. */
static const char *const act_settings[][2] = {
	{"array_nulls", "on"},
	{"default_text_search_config", "pg_catalog.simple"},
	{"gin_fuzzy_search_limit", "0"},
	{"lc_numeric", "C"},
	{"lc_time", "C"},
	{"standard_conforming_strings", "on"},
	{"timezone_abbreviations", "Default"},
	{"transform_null_equals", "off"},
	{"xmlbinary", "base64"},
	{"xmloption", "content"},
};

/*
 * A bit of our own in the security context, beside PostgreSQL's: code of an owner's runs.
 * PostgreSQL hands the bits that it does not know on, to functions within functions and to
 * parallel workers, and restores all of them after an error.
 */
#define SECURITY_ACTING	0x4000

static object_access_hook_type prev_object_access_hook = NULL;

static void object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
						  void *arg);
static bool belongs_to_session(Oid function);
static ErrorData *try_work(void (*work) (void *arg), void *arg, bool contain);
static void set_timezone(void);
static void set_rendering(EcAttachment *att);
static void set_variables(const EcOutput *output);
static void take_role(EcAttachment *att, bool as_owner, EcActing *before);

/* Install the hook: once, from _PG_init. */
void
ec_act_init(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = object_access;
}

/*
 * Does the function change what belongs to the session, and neither to a transaction nor to a
 * level of settings?  Session-level advisory locks: those that are taken would stay, and the
 * session's own could be released.  The seed of random().
 */
static bool
belongs_to_session(Oid function)
{
	switch (function)
	{
		case F_PG_ADVISORY_LOCK_INT8:
		case F_PG_ADVISORY_LOCK_SHARED_INT8:
		case F_PG_TRY_ADVISORY_LOCK_INT8:
		case F_PG_TRY_ADVISORY_LOCK_SHARED_INT8:
		case F_PG_ADVISORY_UNLOCK_INT8:
		case F_PG_ADVISORY_UNLOCK_SHARED_INT8:
		case F_PG_ADVISORY_LOCK_INT4_INT4:
		case F_PG_ADVISORY_LOCK_SHARED_INT4_INT4:
		case F_PG_TRY_ADVISORY_LOCK_INT4_INT4:
		case F_PG_TRY_ADVISORY_LOCK_SHARED_INT4_INT4:
		case F_PG_ADVISORY_UNLOCK_INT4_INT4:
		case F_PG_ADVISORY_UNLOCK_SHARED_INT4_INT4:
		case F_PG_ADVISORY_UNLOCK_ALL:
		case F_SETSEED:
			return true;
		default:
			return false;
	}
}

/* Before a function is called: throws 0A000 if an owner's code may not call it. */
static void
object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId, void *arg)
{
	Oid			user;
	int			sec_context;

	if (prev_object_access_hook)
		prev_object_access_hook(access, classId, objectId, subId, arg);
	if (access != OAT_FUNCTION_EXECUTE || !belongs_to_session(objectId))
		return;
	GetUserIdAndSecContext(&user, &sec_context);
	if (sec_context & SECURITY_ACTING)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("function %s cannot be called where documents are made",
						format_procedure(objectId)),
				 errdetail("It would act on the session of whoever uses the document.")));
}

/*
 * Do some work that only reads, in a subtransaction.  With contain it is rolled back in any case.
 * What the work allocates in the current memory context stays.  Returns what it threw, or NULL.
 */
static ErrorData *
try_work(void (*work) (void *arg), void *arg, bool contain)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(arg);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	if (contain || error)
		RollbackAndReleaseCurrentSubTransaction();
	else
		ReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

/*
 * Do some work that only reads, and contain it: cursors, locks and notifications of an owner's
 * code are gone afterwards.  What the work allocates in the current memory context stays.
 * Throws what the work throws.  In a parallel query there are no subtransactions; there it is
 * the end of the transaction that takes these things back.
 */
void
ec_act_contained(void (*work) (void *arg), void *arg)
{
	ErrorData  *error;

	if (IsInParallelMode())
	{
		work(arg);
		return;
	}
	error = try_work(work, arg, true);
	if (error)
		ReThrowError(error);
}

/*
 * Do some work that only reads for a commit, which is not to fail for its sake.  None of it is
 * a user's code, so nothing of it is left to contain.  Returns false if it has thrown; a WARNING
 * has said so, to the client, and once a minute in the log.  Throws interrupts only.
 */
bool
ec_act_demoted(EcAttachment *att, void (*work) (void *arg), void *arg)
{
	ErrorData  *error = try_work(work, arg, false);

	if (error == NULL)
		return true;
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
		ReThrowError(error);
	ereport(att->slot && ec_shmem_may_log(&att->slot->render_logged) ? WARNING
			: WARNING_CLIENT_ONLY,
			(errcode(error->sqlerrcode),
			 errmsg("document \"%s\" could not be rendered: %s", att->name, error->message),
			 errdetail("It is invalidated from the cache; the change is committed all the same.")));
	FreeErrorData(error);
	return false;
}

/* Set a setting for the present GUC nest level.  Throws what the setting's hooks throw. */
void
ec_act_set(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
}

static void
set_timezone(void)
{
	if (strcmp(pg_get_timezone_name(session_timezone), "UTC") != 0)
		ec_act_set("TimeZone", "UTC");
}

/*
 * Set all that text output depends on, for the present GUC nest level.  Throws what the settings'
 * hooks throw.
 */
void
ec_act_set_output(void)
{
	set_timezone();
	if (DateStyle != USE_ISO_DATES || DateOrder != DATEORDER_MDY)
		ec_act_set("datestyle", "ISO, MDY");
	if (IntervalStyle != INTSTYLE_POSTGRES)
		ec_act_set("intervalstyle", "postgres");
	/* as text: pg_locale.h has the variable, but wants the ICU headers */
	if (strcmp(GetConfigOption("lc_monetary", false, false), "C") != 0)
		ec_act_set("lc_monetary", "C");
	if (extra_float_digits != 1)
		ec_act_set("extra_float_digits", "1");
	if (bytea_output != BYTEA_OUTPUT_HEX)
		ec_act_set("bytea_output", "hex");
	ec_act_set("search_path", EC_SEARCH_PATH);
}

/* Set what text output depends on, as far as documents of this attachment need it. */
static void
set_rendering(EcAttachment *att)
{
	if (att->render_all)
		ec_act_set_output();
	else if (att->render_timezone)
		set_timezone();
}

/*
 * From here to ec_act_end_output() text output does not depend on the session's settings, as
 * far as documents of this attachment need it.  Returns what ec_act_end_output() wants.  An
 * error in between restores the settings, too.  (postgres_fdw's set_transmission_modes() is
 * the precedent.)  This is for output of built-in types; where code of a user's may run,
 * ec_act_begin() is needed.
 */
int
ec_act_begin_output(EcAttachment *att)
{
	int			nestlevel;

	if (!att->render_all && !att->render_timezone)
		return 0;
	nestlevel = NewGUCNestLevel();
	set_rendering(att);
	return nestlevel;
}

/* Restore the settings; 0: nothing was set. */
void
ec_act_end_output(int nestlevel)
{
	if (nestlevel > 0)
		AtEOXact_GUC(true, nestlevel);
}

/* Set the variables of PostgreSQL's that output functions of built-in types read. */
static void
set_variables(const EcOutput *output)
{
	session_timezone = output->timezone;
	DateStyle = output->date_style;
	DateOrder = output->date_order;
	IntervalStyle = output->interval_style;
	extra_float_digits = output->float_digits;
	bytea_output = output->bytea;
}

/* Be the table's owner, or oneself still, in a security-restricted operation. */
static void
take_role(EcAttachment *att, bool as_owner, EcActing *before)
{
	GetUserIdAndSecContext(&before->user, &before->sec_context);
	SetUserIdAndSecContext(as_owner ? att->relowner : before->user,
						   before->sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION | SECURITY_ACTING |
						   (as_owner ? SECURITY_NOFORCE_RLS : 0));
}

/*
 * Do some work that renders plain documents, for a commit, as the table's owner, and so that
 * they do not depend on the session's settings.  Where by_variables says so there are only a
 * few variables that functions read.  They are set for the length of the work, without the
 * machinery of settings: a level of settings that is undone takes longer than all the rest, and
 * TimeZone is reported to the client, for which PostgreSQL goes through all settings once more.
 * Nothing sees the variables disagree with the settings, and nothing changes a setting
 * meanwhile, as no code of a user's runs.  Throws what the work throws, with the variables put
 * back, and what ec_act_begin() throws.
 */
void
ec_act_rendering(EcAttachment *att, void (*work) (void *arg), void *arg)
{
	static EcOutput fixed = {NULL, USE_ISO_DATES, DATEORDER_MDY, INTSTYLE_POSTGRES, 1,
	BYTEA_OUTPUT_HEX};
	EcOutput	before = {session_timezone, DateStyle, DateOrder, IntervalStyle,
	extra_float_digits, bytea_output};
	EcActing	acting;

	Assert(att->code_known && att->is_plain);
	if (!att->by_variables)
	{
		ec_act_begin(att, true, &acting);
		work(arg);
		ec_act_end(&acting);
		return;
	}
	if (fixed.timezone == NULL)
		fixed.timezone = pg_tzset("UTC");
	if (fixed.timezone == NULL)
		elog(ERROR, "there is no time zone UTC");
	take_role(att, true, &acting);
	set_variables(&fixed);
	PG_TRY();
	{
		work(arg);
	}
	PG_FINALLY();
	{
		set_variables(&before);
		SetUserIdAndSecContext(acting.user, acting.sec_context);
	}
	PG_END_TRY();
}

/*
 * From here to ec_act_end(), or to an error, code of the table's owner may run: a filter, a
 * document's function, what checks the values of a domain or casts a type.  Neither the caller
 * (a superuser, perhaps) nor the owner may come to harm by the other:
 *
 * - The code runs as the owner, in a security-restricted operation, as CREATE INDEX would run
 *   it.  Nothing of it outlives the call: no setting, no trigger that is still to fire, no
 *   temporary table.  It does not write.
 * - Names in the code, and in our own queries, mean the same whoever calls.  What the caller
 *   has planted in a schema is not found, and pg_temp comes last.  The settings on which the
 *   meaning of SQL depends have fixed values.
 *
 * Without as_owner, under row-level security, all that holds but for the role: the caller
 * reads for itself, as the functions of policies run.
 *
 * Throws what setting a setting throws; an error restores everything, at the end of the
 * (sub)transaction.
 */
void
ec_act_begin(EcAttachment *att, bool as_owner, EcActing *before)
{
	take_role(att, as_owner, before);
	before->nestlevel = NewGUCNestLevel();
	before->read_only = XactReadOnly;
	set_rendering(att);
	if (!att->render_all && !att->filter)
		return;					/* built-in types only, and names that are qualified */
	if (!att->render_all)
		ec_act_set("search_path", EC_SEARCH_PATH);
	for (int i = 0; i < lengthof(act_settings); i++)
		if (strcmp(GetConfigOption(act_settings[i][0], false, false), act_settings[i][1]) != 0)
			ec_act_set(act_settings[i][0], act_settings[i][1]);
	if (as_owner && !row_security)
		ec_act_set("row_security", "on");

	/*
	 * Assigned, since from 16 on transaction_read_only cannot be set for a GUC nest level.  After
	 * an error the end of the (sub)transaction restores it.
	 */
	XactReadOnly = true;
}

/*
 * End what ec_act_begin() began: the caller is itself again, and whatever the code has set is
 * undone.
 */
void
ec_act_end(const EcActing *before)
{
	Assert(InSecurityRestrictedOperation());
	AtEOXact_GUC(false, before->nestlevel);
	XactReadOnly = before->read_only;
	SetUserIdAndSecContext(before->user, before->sec_context);
}

/*
 * Do some work that may throw for what others have made: what is in the cache, a filter, an
 * attachment that cannot be resolved.  Returns what it threw, or NULL.  The work is contained.
 * An error that is no fault of the input (a cancel, no memory, an internal error) is thrown all
 * the same.
 */
ErrorData *
ec_act_caught(void (*work) (void *arg), void *arg)
{
	ErrorData  *error = try_work(work, arg, true);

	if (error == NULL)
		return NULL;
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_INTERNAL_ERROR:
			ReThrowError(error);
	}
	return error;
}

/* ec_act_caught() for those who do not mind what it threw: returns whether it was nothing. */
bool
ec_act_guarded(void (*work) (void *arg), void *arg)
{
	ErrorData  *error = ec_act_caught(work, arg);

	if (error != NULL)
		FreeErrorData(error);
	return error == NULL;
}
