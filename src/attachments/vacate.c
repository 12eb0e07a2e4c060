/*-------------------------------------------------------------------------
 *
 * vacate.c
 *	  Commands that need a database for themselves: its worker leaves.
 *
 * DROP DATABASE, a copy of a database, its rename and its move fail while anybody is
 * connected to it, and the database's worker always is.  So the worker is told to leave,
 * once PostgreSQL has accepted the command, and may come back as soon as the command has
 * ended, however it ends.  A command that PostgreSQL refuses disturbs nobody.
 *
 * DROP DATABASE calls the object access hook between its check of permission and its look
 * at who is connected.  The other commands have no such place, so what PostgreSQL looks at
 * first is looked at here in the same way: read-only, a transaction block, the objects
 * named, and what the role may do.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "attachments/command.h"
#include "attachments/vacate.h"
#include "compat.h"
#include "shmem.h"
#include "waitevent.h"
#include "worker/database.h"

/* PostgreSQL waits so long for others to leave. */
#define LEAVE_MS	5000

static bool may_create_databases(void);
static bool is_template(Oid dboid);
static Oid	wanted_by_create(CreatedbStmt *stmt);
static Oid	wanted_by_rename(RenameStmt *stmt);
static Oid	wanted_by_move(AlterDatabaseStmt *stmt);
static bool has_worker(Oid dboid);
static void vacate(Oid dboid);

/* Has the current role the right to create databases? */
static bool
may_create_databases(void)
{
	HeapTuple	tuple;
	bool		createdb;

	if (superuser())
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (!HeapTupleIsValid(tuple))
		return false;
	createdb = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
	ReleaseSysCache(tuple);
	return createdb;
}

/* May every role that creates databases copy this one? */
static bool
is_template(Oid dboid)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(dboid));
	bool		istemplate;

	if (!HeapTupleIsValid(tuple))
		return false;
	istemplate = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
	ReleaseSysCache(tuple);
	return istemplate;
}

/* The database that CREATE DATABASE will copy, as createdb() looks at it; InvalidOid: it fails. */
static Oid
wanted_by_create(CreatedbStmt *stmt)
{
	const char *template = "template1";
	Oid			dboid;
	ListCell   *lc;

	foreach(lc, stmt->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "template") == 0 && option->arg)
			template = defGetString(option);
	}
	dboid = get_database_oid(template, true);
	if (!OidIsValid(dboid) || !may_create_databases() ||
		OidIsValid(get_database_oid(stmt->dbname, true)))
		return InvalidOid;
	return is_template(dboid) || ec_compat_owns_database(dboid, GetUserId()) ? dboid : InvalidOid;
}

/* The database that ALTER DATABASE ... RENAME will rename, as RenameDatabase() looks at it. */
static Oid
wanted_by_rename(RenameStmt *stmt)
{
	Oid			dboid = get_database_oid(stmt->subname, true);

	if (!OidIsValid(dboid) || !ec_compat_owns_database(dboid, GetUserId()) ||
		!may_create_databases() || OidIsValid(get_database_oid(stmt->newname, true)))
		return InvalidOid;
	return dboid;
}

/* The database that ALTER DATABASE ... SET TABLESPACE will move, as movedb() looks at it. */
static Oid
wanted_by_move(AlterDatabaseStmt *stmt)
{
	bool		moves = false;
	Oid			dboid;
	ListCell   *lc;

	foreach(lc, stmt->options)
		moves |= strcmp(lfirst_node(DefElem, lc)->defname, "tablespace") == 0;
	if (!moves)
		return InvalidOid;
	dboid = get_database_oid(stmt->dbname, true);
	return OidIsValid(dboid) && ec_compat_owns_database(dboid, GetUserId()) ? dboid : InvalidOid;
}

/*
 * Before a command: if it will copy, rename or move a database, and PostgreSQL is going to
 * accept that, tell the database's worker to leave and wait until it has.  Does nothing
 * else; takes no lock.
 */
void
ec_vacate_for_statement(Node *stmt, bool toplevel)
{
	Oid			dboid = InvalidOid;

	if (!IsTransactionState() || XactReadOnly || RecoveryInProgress())
		return;
	if (IsA(stmt, CreatedbStmt) && !IsInTransactionBlock(toplevel))
		dboid = wanted_by_create((CreatedbStmt *) stmt);
	else if (IsA(stmt, AlterDatabaseStmt) && !IsInTransactionBlock(toplevel))
		dboid = wanted_by_move((AlterDatabaseStmt *) stmt);
	else if (IsA(stmt, RenameStmt) && ((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
		dboid = wanted_by_rename((RenameStmt *) stmt);
	vacate(dboid);
}

/* DROP DATABASE has found that the role may drop this database, and has it locked. */
void
ec_vacate_for_drop(Oid dboid)
{
	if (!is_template(dboid))
		vacate(dboid);
}

/*
 * Is a worker or builder of ours connected to this database?  A worker may be about to look
 * whether the extension is there, or to claim its slot: so the slot does not tell.
 */
static bool
has_worker(Oid dboid)
{
	for (int i = 0; i < ec_shmem->nprocs; i++)
	{
		PGPROC	   *proc = GetPGProcByNumber(i);
		int			pid = proc->pid;
		const char *type;

		if (pid == 0 || proc->databaseId != dboid)
			continue;
		type = GetBackgroundWorkerTypeByPid(pid);
		if (type != NULL && (strcmp(type, EC_DATABASE_WORKER) == 0 ||
							 strcmp(type, EC_DATABASE_BUILDER) == 0))
			return true;
	}
	return false;
}

/*
 * Tell the worker of this database to leave, and wait until it has, for as long as
 * PostgreSQL would: it lets only a superuser end a superuser's process WITH (FORCE).
 */
static void
vacate(Oid dboid)
{
	TimestampTz start = GetCurrentTimestamp();

	if (!OidIsValid(dboid) || dboid == MyDatabaseId)
		return;
	ec_command_note_vacated();
	ec_database_ban(dboid);
	while (has_worker(dboid) &&
		   !TimestampDifferenceExceeds(start, GetCurrentTimestamp(), LEAVE_MS))
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10,
						 ec_waitevent_of(EC_WAIT_VACATE));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* The command has ended, with or without an error: the worker may come back. */
void
ec_vacate_end(void)
{
	ec_database_unban();
}
