/*-------------------------------------------------------------------------
 *
 * waiting.c
 *	  Whom the recovery of a server waits for.
 *
 * A server stays RECOVERING while a process is in an older generation of the topology, and
 * while a transaction holds the server's outbox lock.  Both are over in an instant as a rule.
 * What lasts longer is named in the server's last_error, by process, database and
 * transaction, since somebody may have to end it.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "servers/outbox.h"
#include "servers/placement.h"
#include "servers/state.h"
#include "servers/topology.h"
#include "shmem.h"
#include "worker/waiting.h"

/* What is over sooner is not worth a word. */
#define PATIENCE_MS		1000

/* This worker's wait for each server. */
typedef struct Waiting
{
	TimestampTz since;			/* 0: it does not wait */
	char		reason[EC_ERROR_MAX];	/* what last_error was told; empty: nothing yet */
} Waiting;

static Waiting waiting[EC_MAX_SERVERS];

static bool find_reason(int server, char *reason);
static void warn_prepared(const char *server, const EcOutboxHolder *holder);

/*
 * Why must the server stay RECOVERING now?  false: it need not.  A transaction of its own
 * begins and ends here.
 */
static bool
find_reason(int server, char *reason)
{
	MemoryContext context = CurrentMemoryContext;
	EcOutboxHolder holder = {0};
	int			pid = 0;
	Oid			dboid = InvalidOid;
	bool		wait;

	reason[0] = '\0';
	StartTransactionCommand();
	if (!ec_topology_all_left(ec_placement_generation(), &pid, &dboid))
	{
		char	   *database = OidIsValid(dboid) ? get_database_name(dboid) : NULL;

		wait = true;
		snprintf(reason, EC_ERROR_MAX, "waiting for process %d in database \"%s\", which uses an "
				 "older list of servers", pid, database ? database : "?");
	}
	else
	{
		wait = !ec_outbox_is_free(ec_placement_name(server), &holder);
		if (wait && holder.gid[0] != '\0')
			snprintf(reason, EC_ERROR_MAX, "waiting for prepared transaction \"%s\" in database "
					 "\"%s\"", holder.gid, get_database_name(MyDatabaseId));
		else if (wait && holder.pid != 0)
			snprintf(reason, EC_ERROR_MAX, "waiting for the transaction of process %d in database "
					 "\"%s\"", holder.pid, get_database_name(MyDatabaseId));
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	if (wait && holder.gid[0] != '\0' && strcmp(waiting[server].reason, reason) != 0 &&
		ec_shmem_may_log(&ec_shmem->server[server].prepared_logged))
		warn_prepared(ec_placement_name(server), &holder);
	return wait;
}

/* A prepared transaction may need somebody's attention. */
static void
warn_prepared(const char *server, const EcOutboxHolder *holder)
{
	ereport(WARNING,
			(errmsg("echocache: server \"%s\" cannot be used before the prepared "
					"transaction \"%s\" has ended", server, holder->gid),
			 errdetail("It has changed documents while the server was down."),
			 errhint("Use COMMIT PREPARED or ROLLBACK PREPARED.")));
}

/*
 * Must the server stay RECOVERING for now?  The topology is entered, no transaction is open.
 * If it must for long, or for a prepared transaction, last_error says why.
 */
bool
ec_waiting_is_needed(int server)
{
	Waiting    *mine = &waiting[server];
	TimestampTz now = GetCurrentTimestamp();
	char		reason[EC_ERROR_MAX];

	if (!find_reason(server, reason))
	{
		if (mine->reason[0] != '\0')
			ec_state_set_error(server, "");
		memset(mine, 0, sizeof(Waiting));
		return false;
	}
	if (mine->since == 0)
		mine->since = now;
	if (reason[0] != '\0' &&
		(strncmp(reason, "waiting for prepared", 20) == 0 ||
		 TimestampDifferenceExceeds(mine->since, now, PATIENCE_MS)))
	{
		ec_state_set_error(server, reason);
		strlcpy(mine->reason, reason, sizeof(mine->reason));
	}
	return true;
}
