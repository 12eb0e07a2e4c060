/*-------------------------------------------------------------------------
 *
 * command.h
 *	  What a utility command has done to objects, by their OIDs.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_COMMAND_H
#define ECHOCACHE_ATTACHMENTS_COMMAND_H

#include "nodes/pg_list.h"

/* A command that is being carried out; see command.c. */
typedef struct EcCommand
{
	struct EcCommand *outer;	/* the command that this one runs inside of */
	MemoryContext context;		/* of the lists */
	List	   *created;		/* OIDs of relations that were created */
	List	   *types;			/* OIDs of types that were altered */
	List	   *triggered;		/* OIDs of relations where triggers of ours were changed */
	List	   *untriggered;	/* OIDs of relations where row triggers of ours were dropped */
	bool		own;			/* an object of the extension was altered */
	bool		vacated;		/* a database's worker was told to leave */
} EcCommand;

/* What of it is noted. */
typedef enum EcCommandObject
{
	EC_COMMAND_CREATED,
	EC_COMMAND_TYPE,
	EC_COMMAND_TRIGGERED,
	EC_COMMAND_UNTRIGGERED,
	EC_COMMAND_OWN
} EcCommandObject;

extern void ec_command_begin(EcCommand *command);
extern void ec_command_end(EcCommand *command);
extern void ec_command_note(EcCommandObject what, Oid oid);
extern void ec_command_note_vacated(void);

#endif							/* ECHOCACHE_ATTACHMENTS_COMMAND_H */
