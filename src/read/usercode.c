/*-------------------------------------------------------------------------
 *
 * usercode.c
 *	  Does code of a user's run where a document is made?
 *
 * What is built in leaves nothing behind in a session, so making a document with nothing else
 * needs no subtransaction.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "attachments/configuration.h"
#include "attachments/filter.h"
#include "read/act.h"
#include "read/usercode.h"

static bool is_users(Oid function, void *arg);
static bool contains_code(Node *node, void *arg);

/* Is the function one that users have created? */
static bool
is_users(Oid function, void *arg)
{
	return function >= FirstNormalObjectId;
}

/* Does the expression call a function that users have created, or check a domain? */
static bool
contains_code(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if (IsA(node, CoerceToDomain) || check_functions_in_node(node, is_users, NULL))
		return true;
	return expression_tree_walker(node, contains_code, arg);
}

/*
 * May code of a user's run where a document is made: a builder, a function in the filter, a
 * cast to json?  Locks the table, as making the document does, at the attachment's first use.
 * Throws what the filter throws.
 */
bool
ec_usercode_runs(EcAttachment *att)
{
	Relation	rel;
	EcActing	before;
	int			attno = -1;

	if (att->function_name)
		return true;
	if (att->code_known)
		return att->runs_code;
	/* the filter may name what is in a schema that the caller may not use, but the owner may */
	ec_act_begin(att, true, &before);
	rel = table_open(att->relid, AccessShareLock);
	att->runs_code = att->filter &&
		contains_code(ec_filter_parse(rel, att->filter, true), NULL);
	while (!att->runs_code && (attno = bms_next_member(att->columns, attno)) >= 0)
		att->runs_code = get_atttype(att->relid, attno) >= FirstNormalObjectId;
	att->code_known = true;
	table_close(rel, NoLock);
	ec_act_end(&before);
	return att->runs_code;
}
