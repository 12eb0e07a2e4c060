/*-------------------------------------------------------------------------
 *
 * trigger.c
 *	  Triggers on attached tables: note what changes.  No network here.
 *
 * They are ENABLE ALWAYS, so that logical replication's apply and
 * session_replication_role = replica do not slip past, and carry the document's
 * name as their argument, which survives dump and restore.  A trigger whose
 * document is not attached (any more) does nothing.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "utils/datum.h"
#include "utils/inval.h"
#include "utils/rel.h"

#include "document.h"
#include "fence.h"
#include "render.h"

PG_FUNCTION_INFO_V1(echocache_row_trigger);
PG_FUNCTION_INFO_V1(echocache_truncate_trigger);
PG_FUNCTION_INFO_V1(echocache_document_trigger);

static TriggerData *trigger_data(FunctionCallInfo fcinfo, TriggerEvent when);
static bool same(TupleTableSlot *old, TupleTableSlot *new, AttrNumber attno);
static void note(EcRowMap *map, TupleTableSlot *slot, bool live);

/* Guards: called as the trigger that it is? */
static TriggerData *
trigger_data(FunctionCallInfo fcinfo, TriggerEvent when)
{
	TriggerData *data = (TriggerData *) fcinfo->context;

	ec_require_preload();
	if (!CALLED_AS_TRIGGER(fcinfo) ||
		(data->tg_event & (TRIGGER_EVENT_ROW | TRIGGER_EVENT_TIMINGMASK)) != when ||
		data->tg_trigger->tgnargs != 1)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function is for triggers that echocache_attach() creates")));
	return data;
}

/* Is a column unchanged?  Toasted values are only fetched when their sizes agree. */
static bool
same(TupleTableSlot *old, TupleTableSlot *new, AttrNumber attno)
{
	Form_pg_attribute att = TupleDescAttr(new->tts_tupleDescriptor, attno - 1);
	bool		oldnull,
				newnull;
	Datum		oldvalue = slot_getattr(old, attno, &oldnull);
	Datum		newvalue = slot_getattr(new, attno, &newnull);

	if (oldnull || newnull)
		return oldnull == newnull;
	return datum_image_eq(oldvalue, newvalue, att->attbyval, att->attlen);
}

/* The row's document changes, to this row if it is live; a row without an id has none. */
static void
note(EcRowMap *map, TupleTableSlot *slot, bool live)
{
	bool		isnull;
	Datum		key = slot_getattr(slot, map->key, &isnull);
	char	   *id;
	int			nestlevel;

	if (isnull)
		return;
	nestlevel = map->doc->key.plain ? 0 : ec_render_begin(map->doc);
	id = OutputFunctionCall(&map->doc->key.out, key);
	ec_render_end(nestlevel);
	ec_fence_note_key(map->doc, id, live ? map->relid : InvalidOid, &slot->tts_tid);
	pfree(id);
}

/* AFTER INSERT OR UPDATE OR DELETE, FOR EACH ROW. */
Datum
echocache_row_trigger(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, TRIGGER_EVENT_ROW | TRIGGER_EVENT_AFTER);
	EcRowMap   *map = ec_document_row_map(data->tg_relation, data->tg_trigger->tgargs[0]);

	if (map == NULL)
		return PointerGetDatum(NULL);
	if (!TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		note(map, data->tg_trigslot, TRIGGER_FIRED_BY_INSERT(data->tg_event));
	else if (!same(data->tg_trigslot, data->tg_newslot, map->key))
	{
		note(map, data->tg_trigslot, false);
		note(map, data->tg_newslot, true);
	}
	else
	{
		for (int i = 0; i < map->ndepends; i++)
		{
			if (same(data->tg_trigslot, data->tg_newslot, map->depends[i]))
				continue;
			note(map, data->tg_newslot, true);
			break;
		}
	}
	return PointerGetDatum(NULL);
}

/* BEFORE TRUNCATE, FOR EACH STATEMENT. */
Datum
echocache_truncate_trigger(PG_FUNCTION_ARGS)
{
	TriggerData *data = trigger_data(fcinfo, TRIGGER_EVENT_BEFORE);
	EcDocument *doc = ec_document_by_name(data->tg_trigger->tgargs[0]);

	if (doc != NULL)
		ec_fence_note_whole(doc->relid);
	return PointerGetDatum(NULL);
}

/*
 * AFTER any change of echocache.document but by echocache_attach() and _detach(),
 * FOR EACH STATEMENT: every backend loads it anew.  This is how a restored dump
 * gets its attachments, whose keys may be in the cache from an earlier life.
 */
Datum
echocache_document_trigger(PG_FUNCTION_ARGS)
{
	ListCell   *lc;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function is for a trigger of the extension")));
	ec_require_preload();
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	CommandCounterIncrement();
	foreach(lc, ec_document_names())
	{
		Oid			relid;

		if (ec_document_relid(lfirst(lc), &relid))
			ec_fence_note_whole(relid);
	}
	return PointerGetDatum(NULL);
}
