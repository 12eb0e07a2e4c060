/*-------------------------------------------------------------------------
 *
 * waitevent.c
 *	  What our waits are called in pg_stat_activity.
 *
 * From PostgreSQL 17 on each wait has a name of its own.  The names are registered once, as the
 * shared memory is made, since that takes a lock and may throw, while some waits may do neither.
 * Before 17 all of them are "Extension".
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "waitevent.h"

/* The order is that of EcWaitEvent. */
static const char *const names[] = {
	"EchocacheConnect", "EchocacheTlsHandshake", "EchocacheRead", "EchocacheMarker",
	"EchocacheStore", "EchocacheCommand", "EchocacheCrawler", "EchocacheRoom", "EchocacheFill",
	"EchocacheKey", "EchocacheLease", "EchocacheRecovery", "EchocacheWorkerMain",
	"EchocacheBuilderMain", "EchocacheAuditorMain", "EchocacheLauncherMain", "EchocacheVacate"
};

StaticAssertDecl(lengthof(names) == EC_NWAITEVENTS, "a wait event has no name");

/* By the postmaster, for all that it forks. */
static uint32 ids[EC_NWAITEVENTS];

/*
 * Register the names, in the hook that makes our shared memory.  Throws where other extensions
 * have used up what PostgreSQL has room for.
 */
void
ec_waitevent_init(void)
{
	for (int e = 0; e < EC_NWAITEVENTS; e++)
		ids[e] = ec_compat_wait_event(names[e]);
}

/* What PostgreSQL's functions that wait are to be told.  Never throws. */
uint32
ec_waitevent_of(EcWaitEvent event)
{
	return ids[event];
}
