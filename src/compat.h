/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  What differs between PostgreSQL 15 and 18.  PG_VERSION_NUM appears here
 *	  and nowhere else.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_COMPAT_H
#define ECHOCACHE_COMPAT_H

#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"
#if PG_VERSION_NUM >= 160000
/* for what object_aclcheck() and object_ownercheck() want to know below */
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "varatt.h"				/* which was part of postgres.h */
#endif

#if PG_VERSION_NUM < 150000
#error "echocache needs PostgreSQL 15 or later"
#endif

/* A wait set that lives as long as the backend. */
#if PG_VERSION_NUM >= 170000
#define ec_compat_create_wait_set(n)	CreateWaitEventSet(NULL, (n))
#else
#define ec_compat_create_wait_set(n)	CreateWaitEventSet(TopMemoryContext, (n))
#endif

/* This process's index into ec_shmem->entered. */
#if PG_VERSION_NUM >= 170000
#define ec_compat_proc_slot()	((int) MyProcNumber)
#else
#define ec_compat_proc_slot()	((int) MyProc->pgprocno)
#endif

/* All settings, of which *n is set to the number. */
#if PG_VERSION_NUM >= 160000
#define ec_compat_guc_variables(n)		get_guc_variables(n)
#else
#define ec_compat_guc_variables(n)		(*(n) = GetNumConfigOptions(), get_guc_variables())
#endif

#if PG_VERSION_NUM >= 160000
#define ec_compat_guc_malloc(size)		guc_malloc(LOG, (size))
#define ec_compat_guc_free(p)			guc_free(p)
#else
#define ec_compat_guc_malloc(size)		malloc(size)
#define ec_compat_guc_free(p)			free(p)
#endif

#if PG_VERSION_NUM < 160000
#define ec_compat_owns_relation(relid, role)	pg_class_ownercheck((relid), (role))
#define ec_compat_owns_database(oid, role)		pg_database_ownercheck((oid), (role))
#define ec_compat_namespace_aclcheck			pg_namespace_aclcheck
#define ec_compat_proc_aclcheck				pg_proc_aclcheck
#else
#define ec_compat_namespace_aclcheck(oid, role, mode) \
	object_aclcheck(NamespaceRelationId, (oid), (role), (mode))
#define ec_compat_proc_aclcheck(oid, role, mode) \
	object_aclcheck(ProcedureRelationId, (oid), (role), (mode))
#define ec_compat_owns_relation(relid, role) \
	object_ownercheck(RelationRelationId, (relid), (role))
#define ec_compat_owns_database(oid, role) \
	object_ownercheck(DatabaseRelationId, (oid), (role))
#endif

/* What ExecutorRun_hook is called with, behind the query. */
#if PG_VERSION_NUM >= 180000
#define ec_compat_executor_run_args		ScanDirection direction, uint64 count
#define ec_compat_executor_run_values	direction, count
#else
#define ec_compat_executor_run_args		ScanDirection direction, uint64 count, bool execute_once
#define ec_compat_executor_run_values	direction, count, execute_once
#endif

/* Is the column computed when it is read?  Then no stored row, nor a trigger's, has it. */
#if PG_VERSION_NUM >= 180000
#define ec_compat_is_virtual(attr)	((attr)->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
#else
#define ec_compat_is_virtual(attr)	false
#endif

/* The wait event of this name, for pg_stat_activity; "Extension" where extensions have none. */
#if PG_VERSION_NUM >= 170000
#define ec_compat_wait_event(name)	WaitEventExtensionNew(name)
#else
#define ec_compat_wait_event(name)	((void) (name), PG_WAIT_EXTENSION)
#endif

#endif							/* ECHOCACHE_COMPAT_H */
