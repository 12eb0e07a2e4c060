/*-------------------------------------------------------------------------
 *
 * guc.h
 *	  The settings, as every module sees them.
 *
 * What decides where a document lives (enabled, hosts, key_prefix) is never used from here by
 * a backend that reads or writes documents: backends would take up a new value at different
 * moments.  The postmaster and then the launcher publish those in shared memory (shmem.h); the
 * worker of a database hands over the prefix of the database.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_GUC_H
#define ECHOCACHE_GUC_H

#include "shmem.h"

typedef struct EcHost
{
	char		host[EC_HOST_MAX];	/* name, address, or path of a unix socket */
	bool		discover;		/* each address of the name is a server */
	int			port;			/* 0 for a unix socket */
	int			weight;
} EcHost;

typedef struct EcHostList
{
	int			n;
	EcHost		host[FLEXIBLE_ARRAY_MEMBER];
} EcHostList;

typedef enum EcTlsVerify
{
	EC_TLS_VERIFY_CA,
	EC_TLS_VERIFY_FULL,
	EC_TLS_VERIFY_NONE
} EcTlsVerify;

extern bool ec_guc_enabled;
extern char *ec_guc_hosts;
extern const EcHostList *ec_guc_host_list;	/* ec_guc_hosts, parsed */
extern int	ec_guc_ttl;				/* s */
extern bool ec_guc_fallback;
extern int	ec_guc_pool_size;
extern int	ec_guc_timeout;			/* ms */
extern int	ec_guc_commit_timeout;	/* ms */
extern int	ec_guc_retry_interval;	/* ms */
extern bool ec_guc_flush_on_start;
extern int	ec_guc_lease;			/* ms */
extern int	ec_guc_marker_ttl;		/* s */
extern int	ec_guc_fill_wait;		/* ms */
extern int	ec_guc_local_memory;	/* MB */
extern int	ec_guc_build_timeout;	/* ms; 0: none */
extern int	ec_guc_audit_rate;	/* documents of a database in a second; 0: none */
extern int	ec_guc_max_write_through;
extern char *ec_guc_key_prefix;
extern char *ec_guc_username;		/* empty: no authentication */
extern char *ec_guc_password_file;
extern bool ec_guc_tls;
extern char *ec_guc_tls_ca_file;
extern char *ec_guc_tls_cert_file;
extern char *ec_guc_tls_key_file;
extern int	ec_guc_tls_verify;		/* EcTlsVerify */
extern uint32 ec_guc_transport_serial;	/* changes when connections are to be opened anew */
extern bool ec_guc_tls_files_stale; /* reset by tls.c, which then reads them */
#ifdef ECHOCACHE_WAIT_POINTS
extern char *ec_guc_wait_point;
#endif

extern void ec_guc_init(void);

#endif							/* ECHOCACHE_GUC_H */
