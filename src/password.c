/*-------------------------------------------------------------------------
 *
 * password.c
 *	  The setting echocache.password, kept out of sight.
 *
 * Invariant: PostgreSQL never has the password as the value of the setting, and nothing that
 * is logged, shown or answered has it, whatever is wrong with it.
 *
 * PostgreSQL shows values in more places than one would think of.  A reload logs every value
 * that has changed ("parameter ... changed to ..."), an error about a value repeats it, and a
 * statement that fails is logged whole.  So the check hook takes the password away and leaves a
 * mask, always the same one, so that no change is ever seen; the password goes with the value's
 * "extra", which PostgreSQL hands to the assign hook and to nobody else.  An error about the
 * password is in our words.  A statement that seems to be about the setting is left out of
 * whatever is logged while it runs.
 *
 * What remains is log_statement and the like, by which an administrator has asked for
 * statements to be logged, and the configuration file itself with its view,
 * pg_file_settings.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "tcop/tcopprot.h"
#include "utils/elog.h"
#include "utils/guc.h"

#include "compat.h"
#include "password.h"
#include "protocol/wire.h"

/* What the setting shows, set or not. */
#define MASK	"********"

/* Part of the value's "extra"; assigned together with the value. */
static const char *secret = NULL;

static emit_log_hook_type prev_emit_log_hook = NULL;

static bool is_about_password(const char *text);
static void emit_log(ErrorData *edata);

/* Once, from _PG_init. */
void
ec_password_init(void)
{
	prev_emit_log_hook = emit_log_hook;
	emit_log_hook = emit_log;
}

/* The password that is in force; "" for none.  Lasts until the next reload. */
const char *
ec_password_secret(void)
{
	return secret ? secret : "";
}

/*
 * Take the password out of the value.  A value that is the mask leaves the password as it is: a
 * parallel worker is given the settings that its leader shows.
 */
bool
ec_password_check(char **newval, void **extra, GucSource source)
{
	const char *wanted = strcmp(*newval, MASK) == 0 ? ec_password_secret() : *newval;
	char	   *mask;
	char	   *copy;

	if (!ec_wire_valid_password(wanted))
	{
		GUC_check_errmsg("invalid value for parameter \"%s\"", "echocache.password");
		GUC_check_errdetail("A password has at most %d bytes, without spaces and line ends.",
							EC_PASSWORD_MAX);
		return false;
	}
	mask = ec_compat_guc_malloc(sizeof(MASK));
	copy = ec_compat_guc_malloc(strlen(wanted) + 1);
	if (mask == NULL || copy == NULL)
	{
		if (mask)
			ec_compat_guc_free(mask);
		if (copy)
			ec_compat_guc_free(copy);
		GUC_check_errmsg("out of memory");
		return false;
	}
	strcpy(mask, MASK);
	strcpy(copy, wanted);
	explicit_bzero(*newval, strlen(*newval));
	ec_compat_guc_free(*newval);
	*newval = mask;
	*extra = copy;
	return true;
}

/* Have the password that ec_password_check() has taken out. */
void
ec_password_assign(void *extra)
{
	secret = extra;
}

/* Does the text, a statement perhaps, name the setting in any way of writing it? */
static bool
is_about_password(const char *text)
{
	return text != NULL && strcasestr(text, "echocache") != NULL &&
		strcasestr(text, "password") != NULL;
}

/* A message is about to be logged: leave out statements that may tell the password. */
static void
emit_log(ErrorData *edata)
{
	if (prev_emit_log_hook)
		prev_emit_log_hook(edata);
	if (is_about_password(debug_query_string))
		edata->hide_stmt = true;
	if (is_about_password(edata->context))
		edata->hide_ctx = true;
	if (is_about_password(edata->internalquery))
	{
		edata->internalquery = NULL;
		edata->internalpos = 0;
	}
}
