/*-------------------------------------------------------------------------
 *
 * echocache.c
 *	  Module magic and _PG_init, which calls each module's init; nothing else.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "attachments/attachment.h"
#include "attachments/ddl.h"
#include "attachments/object.h"
#include "commit/running.h"
#include "commit/xact.h"
#include "echocache.h"
#include "guc.h"
#include "read/act.h"
#include "read/entries.h"
#include "servers/exchange.h"
#include "servers/topology.h"
#include "shmem.h"
#include "worker/launcher.h"

PG_MODULE_MAGIC;

/*
 * Install everything, in the postmaster.  A library that is not preloaded installs nothing:
 * its functions say so, in ec_shmem_require().
 */
void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	ec_guc_init();
	ec_shmem_init();
	ec_entries_init();
	ec_topology_init();
	ec_attachment_init();
	ec_exchange_init();
	ec_xact_init();
	ec_running_init();
	ec_ddl_init();
	ec_object_init();
	ec_act_init();
	ec_launcher_init();
}
