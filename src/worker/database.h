/*-------------------------------------------------------------------------
 *
 * database.h
 *	  Databases that have the extension: their slots, and which may have a worker.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_WORKER_DATABASE_H
#define ECHOCACHE_WORKER_DATABASE_H

#include "access/xact.h"

#include "shmem.h"

/* Why a database has no slot; for EC_MAX_DATABASES. */
#define EC_DATABASE_NO_ROOM	"more than %d databases have the extension"

/* What pg_stat_activity calls a database's worker, and its helpers. */
#define EC_DATABASE_WORKER	"echocache worker"
#define EC_DATABASE_BUILDER	"echocache builder"
#define EC_DATABASE_AUDITOR	"echocache auditor"

extern void ec_database_rescan_at_commit(void);
extern void ec_database_at_xact_end(XactEvent event);
extern void ec_database_demand_dependencies(bool anew);
extern bool ec_database_begin_helper(EcHelper helper);
extern void ec_database_helper_gone(EcHelper helper);
extern void ec_database_ban(Oid dboid);
extern void ec_database_unban(void);
extern bool ec_database_is_banned(Oid dboid);
extern EcDatabase *ec_database_find(Oid dboid);
extern bool ec_database_has_room(void);
extern void ec_database_free(Oid dboid);
extern void ec_database_worker_gone(void);
extern bool ec_database_has_other_worker(void);
extern EcDatabase *ec_database_claim(void);
extern const char *ec_database_owner_reason(EcDatabase *db);

#endif							/* ECHOCACHE_WORKER_DATABASE_H */
