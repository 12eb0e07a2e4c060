/*-------------------------------------------------------------------------
 *
 * precommit.c
 *	  A library that runs SQL in its PRE_COMMIT callback, as other extensions may.
 *
 * Callbacks run in the reverse order of their registration: preloaded before echocache this one
 * runs after the fence has set its markers, preloaded behind it before that.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

static char *precommit_sql = NULL;

static void
callback(XactEvent event, void *arg)
{
	if ((event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PRE_PREPARE) ||
		precommit_sql == NULL || precommit_sql[0] == '\0')
		return;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetTransactionSnapshot());
	if (SPI_execute(precommit_sql, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", precommit_sql);
	PopActiveSnapshot();
	SPI_finish();
}

void
_PG_init(void)
{
	DefineCustomStringVariable("precommit.sql", "What is executed before each commit.", NULL,
							   &precommit_sql, "", PGC_USERSET, 0, NULL, NULL, NULL);
	RegisterXactCallback(callback, NULL);
}
