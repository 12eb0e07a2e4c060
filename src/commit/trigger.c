/*-------------------------------------------------------------------------
 *
 * trigger.c
 *	  Triggers on attached tables: note what changes.
 *
 * The triggers are ENABLE ALWAYS, so that logical replication's apply and
 * session_replication_role = replica do not slip past.  They carry the attachment's name as
 * their argument, which survives dump and restore.  A trigger whose attachment does not exist
 * (any more), or that is on a table which is no part of the attachment, does nothing.
 *
 * A trigger only notes, in pending.c, which documents its transaction changes.  It sends
 * nothing to a server, and waits for no lock.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "replication/logicalworker.h"
#include "utils/datum.h"
#include "utils/inval.h"
#include "utils/rel.h"

#include "attachments/affected.h"
#include "attachments/attachment.h"
#include "attachments/catalog.h"
#include "attachments/configuration.h"
#include "attachments/depend.h"
#include "commit/pending.h"
#include "commit/trigger.h"
#include "read/usercode.h"
#include "read/act.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(echocache_row_trigger);
PG_FUNCTION_INFO_V1(echocache_truncate_trigger);
PG_FUNCTION_INFO_V1(echocache_dependent_trigger);
PG_FUNCTION_INFO_V1(echocache_document_trigger);
PG_FUNCTION_INFO_V1(echocache_replication_trigger);

static TriggerData *trigger_data(FunctionCallInfo fcinfo, TriggerEvent when);
static bool same(TupleTableSlot *old, TupleTableSlot *new, AttrNumber attno);
static void note(EcAttachment *att, TupleTableSlot *slot, AttrNumber key, FmgrInfo *out,
				 Relation written);

/*
 * The trigger data of a call.  Throws 39P01 if the function is not called by a trigger of
 * this kind with one argument, and 55000 if the library is not preloaded.
 */
static TriggerData *
trigger_data(FunctionCallInfo fcinfo, TriggerEvent when)
{
	TriggerData *data = (TriggerData *) fcinfo->context;

	ec_shmem_require();
	if (!CALLED_AS_TRIGGER(fcinfo) ||
		(data->tg_event & (TRIGGER_EVENT_ROW | TRIGGER_EVENT_TIMINGMASK)) != when ||
		data->tg_trigger->tgnargs != 1)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function is for triggers that echocache_attach() creates")));
	return data;
}

/*
 * Is a column unchanged?  The bytes are compared, so an equal value that is stored otherwise
 * counts as a change.  Toasted values are only fetched when their sizes agree.
 */
static bool
same(TupleTableSlot *old, TupleTableSlot *new, AttrNumber attno)
{
	Form_pg_attribute attr = TupleDescAttr(new->tts_tupleDescriptor, attno - 1);
	bool		oldnull,
				newnull;
	Datum		oldvalue = slot_getattr(old, attno, &oldnull);
	Datum		newvalue = slot_getattr(new, attno, &newnull);

	if (oldnull || newnull)
		return oldnull == newnull;
	return datum_image_eq(oldvalue, newvalue, attr->attbyval, attr->attlen);
}

/*
 * Note that the document changes whose id this row has in the key column.  If the row is the
 * document's own, and exists now, written is the table that it was written to; else written
 * is NULL.  A NULL in the column is no id.  Throws what the column's output function and
 * ec_pending_key() throw.
 */
static void
note(EcAttachment *att, TupleTableSlot *slot, AttrNumber key, FmgrInfo *out, Relation written)
{
	EcPlace		place = {InvalidOid};
	bool		isnull;
	Datum		value = slot_getattr(slot, key, &isnull);
	char	   *id;
	int			nestlevel;

	if (isnull)
		return;
	nestlevel = att->key.plain ? 0 : ec_act_begin_output(att);
	id = OutputFunctionCall(out, value);
	ec_act_end_output(nestlevel);
	if (written)
	{
		place.table = RelationGetRelid(written);
		place.filenode = written->rd_rel->relfilenode;
		place.tid = slot->tts_tid;
	}
	ec_pending_key(att->relid, id, &place);
	pfree(id);
}

/*
 * On the attached table and its partitions: AFTER INSERT OR UPDATE OR DELETE, FOR EACH ROW.
 * An update of columns that neither the document nor the filter depends on changes nothing.
 */
Datum
echocache_row_trigger(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, TRIGGER_EVENT_ROW | TRIGGER_EVENT_AFTER);
	EcOwnMap   *map = ec_affected_own_map(data->tg_relation, data->tg_trigger->tgargs[0]);

	if (map == NULL)
		return PointerGetDatum(NULL);
	ec_usercode_learn(map->att);
	if (!TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		note(map->att, data->tg_trigslot, map->key, &map->att->key.out,
			 TRIGGER_FIRED_BY_INSERT(data->tg_event) ? data->tg_relation : NULL);
	else if (!same(data->tg_trigslot, data->tg_newslot, map->key))
	{
		note(map->att, data->tg_trigslot, map->key, &map->att->key.out, NULL);
		note(map->att, data->tg_newslot, map->key, &map->att->key.out, data->tg_relation);
	}
	else
	{
		for (int i = 0; i < map->ndepends; i++)
		{
			if (same(data->tg_trigslot, data->tg_newslot, map->depends[i]))
				continue;
			note(map->att, data->tg_newslot, map->key, &map->att->key.out, data->tg_relation);
			break;
		}
	}
	return PointerGetDatum(NULL);
}

/*
 * On a dependent table: AFTER INSERT OR UPDATE OR DELETE, FOR EACH ROW.  A row that moves from
 * one document to another changes both.  Only the function knows which columns the document
 * shows, so a change of any column counts.
 */
Datum
echocache_dependent_trigger(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, TRIGGER_EVENT_ROW | TRIGGER_EVENT_AFTER);
	TupleTableSlot *old = data->tg_trigslot;
	TupleTableSlot *new = TRIGGER_FIRED_BY_UPDATE(data->tg_event) ? data->tg_newslot : NULL;
	EcDependentMap *map = ec_affected_dependent_map(data->tg_relation,
													data->tg_trigger->tgargs[0]);
	bool		changed = new == NULL;

	if (map == NULL)
		return PointerGetDatum(NULL);
	for (AttrNumber attno = 1; !changed && attno <= new->tts_tupleDescriptor->natts; attno++)
		changed = !TupleDescAttr(new->tts_tupleDescriptor, attno - 1)->attisdropped &&
			!same(old, new, attno);
	for (int i = 0; changed && i < map->nkeys; i++)
	{
		note(map->att, old, map->keys[i], &map->out[i], NULL);
		if (new != NULL && !same(old, new, map->keys[i]))
			note(map->att, new, map->keys[i], &map->out[i], NULL);
	}
	return PointerGetDatum(NULL);
}

/*
 * On attached and dependent tables: BEFORE TRUNCATE, FOR EACH STATEMENT.  Every document of
 * the attachment changes.  Anybody may create such a trigger on a table of their own; if the
 * table has no role for the attachment, nothing is noted.
 */
Datum
echocache_truncate_trigger(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, TRIGGER_EVENT_BEFORE);
	EcAttachment *att = ec_attachment_by_name(data->tg_trigger->tgargs[0]);

	if (att != NULL && ec_affected_role(att, RelationGetRelid(data->tg_relation)) != 0)
		ec_pending_whole(att->relid);
	return PointerGetDatum(NULL);
}

/*
 * On echocache.document and echocache.dependent: AFTER any change but those that
 * echocache_attach() and echocache_detach() make, FOR EACH STATEMENT.  Every backend loads the
 * configuration anew, and all documents change.  This is how a restored dump gets its
 * attachments, whose keys may be in the cache from an earlier life.
 */
Datum
echocache_document_trigger(PG_FUNCTION_ARGS)
{
	ListCell   *lc;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function is for a trigger of the extension")));
	ec_shmem_require();
	CacheInvalidateRelcacheByRelid(ec_catalog_document(false));
	CommandCounterIncrement();
	foreach(lc, ec_attachment_relids())
		ec_pending_whole(lfirst_oid(lc));
	ec_depend_record_at_commit(true);
	return PointerGetDatum(NULL);
}

/*
 * On the extension's own tables: BEFORE INSERT OR UPDATE OR DELETE, FOR EACH ROW.  Keeps out
 * what logical replication brings: it is about another cluster's attachments and servers.
 */
Datum
echocache_replication_trigger(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function is for a trigger of the extension")));
	if (IsLogicalWorker())
		return PointerGetDatum(NULL);
	return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(data->tg_event) ? data->tg_newtuple
						   : data->tg_trigtuple);
}
