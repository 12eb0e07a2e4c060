/*-------------------------------------------------------------------------
 *
 * act.h
 *	  Acting as the table's owner, under settings that are always the same.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_ACT_H
#define ECHOCACHE_READ_ACT_H

#include "pgtime.h"

#include "attachments/configuration.h"

/* Where code that makes documents finds what it does not qualify. */
#define EC_SEARCH_PATH	"pg_catalog, pg_temp"

/* What ec_act_begin() has changed, for ec_act_end(). */
typedef struct EcActing
{
	Oid			user;
	int			sec_context;
	int			nestlevel;
	bool		read_only;
} EcActing;

/* PostgreSQL's variables that output functions of built-in types read. */
typedef struct EcOutput
{
	pg_tz	   *timezone;
	int			date_style;
	int			date_order;
	int			interval_style;
	int			float_digits;
	int			bytea;
} EcOutput;

extern void ec_act_init(void);
extern void ec_act_set(const char *name, const char *value);
extern void ec_act_set_output(void);
extern int	ec_act_begin_output(EcAttachment *att);
extern void ec_act_end_output(int nestlevel);
extern void ec_act_begin(EcAttachment *att, bool as_owner, EcActing *before);
extern void ec_act_end(const EcActing *before);
extern void ec_act_rendering(EcAttachment *att, void (*work) (void *arg), void *arg);
extern void ec_act_contained(void (*work) (void *arg), void *arg);
extern bool ec_act_demoted(EcAttachment *att, void (*work) (void *arg), void *arg);
extern ErrorData *ec_act_caught(void (*work) (void *arg), void *arg);
extern bool ec_act_guarded(void (*work) (void *arg), void *arg);

#endif							/* ECHOCACHE_READ_ACT_H */
