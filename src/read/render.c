/*-------------------------------------------------------------------------
 *
 * render.c
 *	  From a row that this transaction has written to its document.
 *
 * A committing writer holds locks of the fence, so it runs no query, and takes no lock that
 * somebody may hold who waits for one of these: the row is fetched from the place where its
 * trigger has seen it last.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/detoast.h"
#include "access/heaptoast.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "utils/snapmgr.h"

#include "attachments/affected.h"
#include "attachments/configuration.h"
#include "attachments/filter.h"
#include "commit/pending.h"
#include "compat.h"
#include "protocol/reply.h"
#include "read/act.h"
#include "read/encoding.h"
#include "read/render.h"
#include "read/shape.h"

static bool is_unique(Relation rel, AttrNumber attno);
static void prepare(EcAttachment *att, Relation rel);
static bool fetch_version(Relation rel, EcPlace *place, Snapshot snapshot,
						  TupleTableSlot *slot);
static Size least_size(EcAttachment *att, TupleTableSlot *slot);
static void render_row(EcAttachment *att, EcRow *row, TupleTableSlot *slot, Size size,
					   ExprState *filter, ExprContext *econtext);
static void render_version(EcAttachment *att, EcRow *row, Size most, Relation root,
						   ExprState *filter, EState *estate);
static void render_written(void *arg);

/*
 * Is there a unique index on just this column, for all rows?  Whether there is a predicate is
 * seen from the index's tuple: to read it would fold its constants, by functions of users.
 */
static bool
is_unique(Relation rel, AttrNumber attno)
{
	bool		unique = false;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		unique |= index->rd_index->indisunique && index->rd_index->indisvalid &&
			index->rd_index->indnkeyatts == 1 && index->rd_index->indkey.values[0] == attno &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);
		index_close(index, AccessShareLock);
	}
	return unique;
}

/*
 * Make what rendering needs, and keep it with the attachment: the shape of its documents, the
 * filter as an expression, and whether ids are unique.
 */
static void
prepare(EcAttachment *att, Relation rel)
{
	MemoryContext old = MemoryContextSwitchTo(att->context);

	EcShape    *shape = ec_shape_make(att, rel);

	att->key_unique = is_unique(rel, shape->key);
	(void) ec_filter_expr(att, rel);
	att->shape = shape;
	MemoryContextSwitchTo(old);
}

/*
 * Fetch the version of a row that this transaction has written last.  It is at the place
 * where its trigger has seen it, or where an update by a trigger within a trigger has moved
 * it on to.  If the table was rewritten since (CLUSTER) there may be no such place any more,
 * which takes a system call to find out; in the file that the row was written to there is.
 */
static bool
fetch_version(Relation rel, EcPlace *place, Snapshot snapshot, TupleTableSlot *slot)
{
	bool		found = false;
	TableScanDesc scan;

	if (rel->rd_rel->relfilenode == place->filenode &&
		table_tuple_fetch_row_version(rel, &place->tid, snapshot, slot))
		return true;
	scan = table_beginscan_tid(rel, snapshot);
	if (table_tuple_tid_valid(scan, &place->tid))
	{
		table_tuple_get_latest_tid(scan, &place->tid);
		found = table_tuple_fetch_row_version(rel, &place->tid, snapshot, slot);
	}
	table_endscan(scan);
	return found;
}

/*
 * So many bytes the document of this row has at least, as far as stored sizes tell: nothing is
 * detoasted.  The text of a jsonb is as a rule about as long as what is stored, and at least a
 * quarter of it, but for a byte or two.
 */
static Size
least_size(EcAttachment *att, TupleTableSlot *slot)
{
	Size		size = 0;
	int			attno = -1;

	while ((attno = bms_next_member(att->columns, attno)) >= 0)
	{
		Form_pg_attribute attr = TupleDescAttr(slot->tts_tupleDescriptor, attno - 1);
		bool		isnull;
		Datum		value = slot_getattr(slot, attno, &isnull);

		if (isnull || attr->attlen != -1)
			continue;
		switch (attr->atttypid)
		{
			case TEXTOID:
			case VARCHAROID:
			case BPCHAROID:
			case JSONOID:
			case XMLOID:
				size += toast_raw_datum_size(value) - VARHDRSZ;
				break;
			case BYTEAOID:
				size += 2 * (toast_raw_datum_size(value) - VARHDRSZ);
				break;
			case JSONBOID:
				size += (toast_raw_datum_size(value) - VARHDRSZ) / 4;
				break;
		}
	}
	return size;
}

/*
 * Render one row, which is in the attached table's layout, if it has the id and passes.  The
 * document has at least size bytes.
 */
static void
render_row(EcAttachment *att, EcRow *row, TupleTableSlot *slot, Size size, ExprState *filter,
		   ExprContext *econtext)
{
	bool		isnull;
	Datum		key = slot_getattr(slot, att->shape->key, &isnull);

	if (isnull || strcmp(OutputFunctionCall(&att->key.out, key), row->id) != 0)
		return;
	row->same_id = true;
	if (filter)
	{
		econtext->ecxt_scantuple = slot;
		if (!ExecQual(filter, econtext))
			return;
	}
	row->matches = 1;
	row->json = ec_shape_document(att->shape, slot, size);
}

/*
 * Fetch the version of a row that was written last, and render it, if there is one, and its
 * document may be small enough.
 */
static void
render_version(EcAttachment *att, EcRow *row, Size most, Relation root, ExprState *filter,
			   EState *estate)
{
	Relation	rel = table_open(row->place.table, NoLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TupleTableSlot *mine = slot;

	if (fetch_version(rel, &row->place, GetActiveSnapshot(), slot))
	{
		TupleConversionMap *map = NULL;
		Size		size;

		if (rel->rd_id != root->rd_id)
			map = convert_tuples_by_name(RelationGetDescr(rel), RelationGetDescr(root));
		if (map)
			mine = execute_attr_map_slot(map->attrMap, slot,
										 MakeSingleTupleTableSlot(RelationGetDescr(root),
																  &TTSOpsVirtual));
		size = least_size(att, mine);
		if (size > most)
			row->matches = 1;	/* no server takes its document, so the marker may as well stay */
		else
			render_row(att, row, mine, size, filter,
					   filter ? GetPerTupleExprContext(estate) : NULL);
		if (mine != slot)
			ExecDropSingleTupleTableSlot(mine);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
}

/* What ec_render_written() is asked for. */
typedef struct Written
{
	EcAttachment *att;
	EcRow	   *rows;
	int			n;
	Size		most;
} Written;

/* Render them, under the settings that documents are rendered with. */
static void
render_written(void *arg)
{
	Written    *written = arg;
	EcAttachment *att = written->att;
	Relation	root;
	Oid			part = att->relid;	/* known to be the table or a partition of it */
	EState	   *estate = NULL;
	ExprState  *filter = NULL;

	PushActiveSnapshot(GetLatestSnapshot());
	root = table_open(att->relid, NoLock);
	if (att->shape == NULL)
		prepare(att, root);
	if (att->filter_expr)
	{
		estate = CreateExecutorState();
		filter = ExecPrepareQual(list_make1(att->filter_expr), estate);
	}
	for (int i = 0; i < written->n; i++)
	{
		EcRow	   *row = &written->rows[i];

		row->matches = 0;
		row->same_id = false;
		row->json = NULL;
		/* another row may have the id, too, or a column be virtual: that takes a query */
		if (!att->key_unique || !OidIsValid(row->place.table) || att->has_virtual)
			continue;
		/* nor has a table its row that was detached, CONCURRENTLY, since the row was written */
		if (row->place.table != part && !ec_affected_is_part(row->place.table, att->relid))
			continue;
		part = row->place.table;
		render_version(att, row, written->most, root, filter, estate);
	}
	if (estate)
		FreeExecutorState(estate);
	table_close(root, NoLock);
	PopActiveSnapshot();
}

/*
 * Render rows that this transaction has written, from where it has written them, as the newest
 * snapshot and the transaction's own changes show them.  No lock is taken: the caller has
 * locked the attached table, and its DML the one that it wrote to.  A row that is not found
 * has no matches, which may mean that it is deleted, or that it would take a query.  One whose
 * document is larger than most has a match and no JSON.  For plain documents only.  Throws what
 * the filter and the types' output functions throw.
 */
void
ec_render_written(EcAttachment *att, EcRow *rows, int n, Size most)
{
	Written		written = {att, rows, n, most};

	ec_act_rendering(att, render_written, &written);
}

/*
 * What of a row goes into the cache: its JSON in UTF-8.  Returns false if nothing does, since
 * several rows have the id, or the row's own id is another text (1.0 for 1.00, whose changes
 * invalidate another key), or UTF-8 cannot express the document.
 */
bool
ec_render_cacheable(const EcRow *row, const char **value, size_t *len)
{
	if (row->matches != 1 || !row->same_id || row->json == NULL)
		return false;
	*len = VARSIZE_ANY_EXHDR(row->json);
	*value = *len > EC_VALUE_MAX ? NULL : ec_encoding_to_utf8(VARDATA_ANY(row->json), len);
	return *value != NULL;
}
