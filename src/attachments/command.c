/*-------------------------------------------------------------------------
 *
 * command.c
 *	  What a utility command has done to objects, by their OIDs.
 *
 * A statement names its objects.  While PostgreSQL waits for a lock a name can become that
 * of another object, so a second look by name may find another one.  The object access
 * hook is told the OIDs that the command works on: it notes them here, and what follows the
 * command (ddl.c) goes by them.
 *
 * Commands nest: a function, an event trigger or an extension's script runs others.  Each
 * has an EcCommand on its caller's stack, in a list whose head is the innermost one.
 * ec_command_end() puts back the outer one, also after an error.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "attachments/command.h"

/* The innermost command; NULL: none.  Owned by process_utility() in ddl.c. */
static EcCommand *current = NULL;

/* The command begins.  The caller ends it in a PG_FINALLY. */
void
ec_command_begin(EcCommand *command)
{
	memset(command, 0, sizeof(*command));
	command->context = CurrentMemoryContext;
	command->outer = current;
	current = command;
}

/* The command has ended, with or without an error.  Never throws. */
void
ec_command_end(EcCommand *command)
{
	Assert(current == command);
	current = command->outer;
}

/* The object access hook's: the innermost command does this to the object. */
void
ec_command_note(EcCommandObject what, Oid oid)
{
	MemoryContext old;

	if (current == NULL)
		return;					/* such as temporary tables that go with their session */
	old = MemoryContextSwitchTo(current->context);
	switch (what)
	{
		case EC_COMMAND_CREATED:
			current->created = lappend_oid(current->created, oid);
			break;
		case EC_COMMAND_TYPE:
			current->types = list_append_unique_oid(current->types, oid);
			break;
		case EC_COMMAND_TRIGGERED:
			current->triggered = list_append_unique_oid(current->triggered, oid);
			break;
		case EC_COMMAND_UNTRIGGERED:
			current->untriggered = list_append_unique_oid(current->untriggered, oid);
			break;
		case EC_COMMAND_OWN:
			current->own = true;
			break;
	}
	MemoryContextSwitchTo(old);
}

/* A database's worker was told to leave: the command's end lets it come back. */
void
ec_command_note_vacated(void)
{
	if (current != NULL)
		current->vacated = true;
}
