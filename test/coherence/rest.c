/*-------------------------------------------------------------------------
 *
 * rest.c
 *	  While no writer is at work: does the table agree with the book, and the cache with
 *	  the table?
 *
 * After a crash some of the book is unknown, and some of it was lost: what the rows
 * are is what has been committed, from then on durably.  What the book says to be
 * committed for good and is not there would be PostgreSQL's failure or the
 * checker's; a checker that is wrong must not pass for an answer, so it ends the run.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checker.h"

/* What is in the tables: of each register the version, 0 if there is no row; and whether
 * the row counts as there. */
typedef struct Rows
{
	long		version[MAX_REGISTERS];
	bool		present[MAX_REGISTERS];
} Rows;

static void
read_rows(Worker *w, Rows *rows)
{
	PGresult   *res = sql(w, "SELECT id, version, NOT is_deleted FROM coherence.sessions"
						  " UNION ALL SELECT coherence.register(id, 0), version, true"
						  " FROM coherence.threads"
						  " UNION ALL SELECT coherence.register(thread, slot), version, true"
						  " FROM coherence.posts", NULL, NULL, NULL);

	if (res == NULL)
		die("cannot read the tables");
	memset(rows, 0, sizeof(*rows));
	for (int i = 0; i < PQntuples(res); i++)
	{
		int			reg = atoi(PQgetvalue(res, i, 0));

		if (reg < 1 || reg > nregisters)
			die("there is no register %d", reg);
		rows->version[reg] = atol(PQgetvalue(res, i, 1));
		rows->present[reg] = PQgetvalue(res, i, 2)[0] == 't';
	}
	PQclear(res);
}

/* A document as the table has it: the text of it, NULL if there is none, valid with the result. */
PGresult *
row_of(Worker *w, const Doc *doc, const char **text)
{
	PGresult   *res = sql(w, doc->nregs > 1
						  ? "SELECT coherence.thread_document(t) FROM coherence.threads t"
						  " WHERE id = $1"
						  : "SELECT coherence.session_document(s) FROM coherence.sessions s"
						  " WHERE id = $1",
						  doc->id_text, NULL, NULL);

	*text = value_of(res);
	return res;
}

/* ---------------------------------------------------------------- after a crash */

/* On another timeline, prepared transactions may be gone, or be here again. */
static void
settle_prepared(Worker *w)
{
	PGresult   *res = sql(w, "SELECT gid FROM pg_prepared_xacts", NULL, NULL, NULL);

	if (res == NULL)
		die("cannot read pg_prepared_xacts");
	for (int i = 0; i < nwriters; i++)
		for (int j = 0; j < MAX_PREPARED; j++)
		{
			Prepared   *p = &workers[i].prepared[j];
			bool		exists = false;

			for (int row = 0; row < PQntuples(res); row++)
				exists |= strcmp(PQgetvalue(res, row, 0), p->gid) == 0;
			if (p->status == FREE || exists)
				continue;
			/* whether it was committed the rows will tell */
			for (int k = 0; k < p->nevents; k++)
				if (p->events[k].present && p->status == PREPARED)
					set_state(p->events[k].version, LOST);
			free(p->events);
			p->events = NULL;
			p->status = FREE;
		}
	for (int row = 0; row < PQntuples(res); row++)
	{
		bool		ours = false;
		char		text[100];

		for (int i = 0; i < nwriters; i++)
			for (int j = 0; j < MAX_PREPARED; j++)
				ours |= workers[i].prepared[j].status != FREE &&
					strcmp(PQgetvalue(res, row, 0), workers[i].prepared[j].gid) == 0;
		if (ours)
			continue;
		/* its end was on the other timeline */
		snprintf(text, sizeof(text), "ROLLBACK PREPARED '%s'", PQgetvalue(res, row, 0));
		run(w, text);
	}
	PQclear(res);
}

/* Does what the book has for certain agree with this row? */
static void
check_durable(int reg, const Rows *rows)
{
	uint64_t	floor = atomic_load(&floors[reg]);
	long		version = rows->version[reg];

	if (version > 0 ? version < (long) (floor >> 1) ||
		(version == (long) (floor >> 1) && rows->present[reg] != (bool) (floor & 1))
		: (floor & 1) && atomic_load(&vanishing[reg]) <= floor >> 1)
		die("register %d: the book has %s%ld for certain, the table %ld", reg,
			floor & 1 ? "" : "its absence by ", (long) (floor >> 1), version);
}

/* What this register is now is what has been committed. */
static void
settle_register(int reg, const Rows *rows, bool timeline_changed)
{
	long		version = rows->version[reg];
	uint64_t	gone = atomic_load(&vanishing[reg]) << 1;
	uint64_t	floor = version > 0 ? (uint64_t) version << 1 | rows->present[reg] : gone;

	if (version > 0)
	{
		int			expected = 0;

		note_version(version);
		if (atomic_load(&state[version]) == UNKNOWN)
			atomic_fetch_or(&marks[version], AUTOCOMMIT);
		set_state(version, COMMITTED);
		atomic_compare_exchange_strong(&owner[version], &expected, reg);
	}
	if (timeline_changed)
	{
		atomic_store(&floors[reg], floor);
		atomic_store(&sights[reg], 0);
	}
	else
		raise_to(&floors[reg], floor);
	atomic_store(&soft_floors[reg], 0);
	atomic_store(&soft_sights[reg], 0);
	note(reg, "checker", version == 0 ? "is absent after a crash" : rows->present[reg]
		 ? "is committed, after a crash" : "is committed as deleted, after a crash",
		 version > 0 ? version : (long) (gone >> 1));
}

/* The versions that are newer than what is there are lost. */
static void
settle_versions(const Rows *rows, bool timeline_changed)
{
	for (long v = 1; v <= newest; v++)
	{
		int			s = atomic_load(&state[v]);
		int			reg = atomic_load(&owner[v]);

		if ((s != COMMITTED && s != SENT) || reg == 0)
			continue;
		if (v <= rows->version[reg] || (rows->version[reg] == 0 && v <= (long) vanishing[reg]))
		{
			set_state(v, COMMITTED);
			continue;
		}
		if (s == COMMITTED && !timeline_changed && !(atomic_load(&marks[v]) & ASYNC))
			die("register %d: version %ld was committed for certain, the table has %ld", reg, v,
				rows->version[reg]);
		set_state(v, LOST);
		/* on the other timeline it was committed, and could be read */
		if (timeline_changed)
			atomic_fetch_or(&marks[v], TOLD);
		note(reg, "checker", timeline_changed ? "lost in a promotion" : "lost in a crash", v);
		if (s == COMMITTED)
			count(N_COMMITS_LOST);
	}
}

/*
 * The cluster has started anew; all writers are parked, the gate is closed.  Set the book
 * right, and let the next versions be greater than any that was ever seen.
 */
void
settle(Worker *w, bool timeline_changed)
{
	static Rows rows;
	char		text[100];
	PGresult   *res;

	run(w, "SET synchronous_commit = on");
	if (timeline_changed)
		settle_prepared(w);
	for (int i = 0; i < nwriters; i++)
	{
		/* their ends are facts; those of others only rows can tell */
		workers[i].unsure = false;
		find_out(&workers[i], w);
	}
	for (int i = 0; i < nwriters; i++)
		for (int j = 0; j < MAX_PREPARED; j++)
			if (workers[i].prepared[j].status == PREPARED)
				count(N_PREPARED_KEPT);
	read_rows(w, &rows);
	for (int reg = 1; reg <= nregisters; reg++)
	{
		if (!timeline_changed)
			check_durable(reg, &rows);
		settle_register(reg, &rows, timeline_changed);
	}
	settle_versions(&rows, timeline_changed);
	for (int i = 0; i < nwriters; i++)
		workers[i].nevents = 0;

	res = sql(w, "SELECT last_value FROM coherence.version", NULL, NULL, NULL);
	if (res == NULL)
		die("cannot read the sequence");
	note_version(atol(PQgetvalue(res, 0, 0)));
	PQclear(res);
	snprintf(text, sizeof(text), "SELECT setval('coherence.version', %ld)", newest + 10000);
	run(w, text);
	if (w->lost)
		die("the cluster has crashed once more");
}

/* ---------------------------------------------------------------- at rest */

/* The book against the table: both must know the same. */
static void
check_rows(const Rows *rows)
{
	for (int reg = 1; reg <= nregisters; reg++)
	{
		uint64_t	hard = atomic_load(&floors[reg]);
		uint64_t	soft = atomic_load(&soft_floors[reg]);
		uint64_t	floor = soft > hard ? soft : hard;
		long		version = rows->version[reg];

		if (floor != 0 && rows->present[reg] != (bool) (floor & 1))
			die("register %d: the book says %s by %ld, the table does not", reg,
				floor & 1 ? "present" : "absent", (long) (floor >> 1));
		/* a statement whose answer was lost has a version that the book does not */
		if (version > 0 && (version < (long) (floor >> 1) ||
							(version > (long) (floor >> 1) && state[version] != UNKNOWN)))
			die("register %d: the book says %ld, the table %ld", reg, (long) (floor >> 1),
				version);
	}
}

/* One document: cached bytes, and SQL's answer, against the row. */
static void
check_document(Worker *w, Doc *doc, bool invalidate, bool counts)
{
	const char *want;
	PGresult   *row = row_of(w, doc, &want);
	PGresult   *res;
	char	   *value = NULL;
	size_t		len;
	const char *got;

	if (want && counts)
		count(N_ROWS_AT_REST);
	(void) plain_get(&w->plain[doc->server], doc, &value, &len);
	if (value && strcmp(value, "null") != 0)
	{
		if (want == NULL || strcmp(value, want) != 0)
			found(REST, doc->reg, "%s: cached as %.200s, its row is %.200s", doc->key, value,
				  want ? want : "absent");
		else if (counts)
			count(N_CACHED_AT_REST);
	}
	if (invalidate)
		PQclear(sql(w, "SELECT echocache_invalidate($2, $1::bigint)", doc->id_text, doc->name,
					NULL));
	res = sql(w, read_text(doc), doc->id_text, NULL, NULL);
	if (res == NULL)
	{
		PQclear(row);
		w->failed = false;
		return;
	}
	got = value_of(res);
	if (got ? want == NULL || strcmp(got, want) != 0 : want != NULL)
		found(REST, doc->reg, "%s: by SQL %.200s, its row is %.200s", doc->key,
			  got ? got : "absent", want ? want : "absent");
	PQclear(res);
	PQclear(row);
}

/*
 * Compare everything, while no writer is at work.  In the end three times: as it was left
 * behind; as SQL reads left it, and then invalidated; as SQL reads filled it.
 */
void
check_rest(Worker *w, bool final)
{
	static Rows rows;

	run(w, "SET TimeZone = 'UTC'");
	run(w, "SET DateStyle = 'ISO'");
	read_rows(w, &rows);
	check_rows(&rows);
	count(N_RESTS);
	for (int round = 0; round < (final ? 3 : 1); round++)
		for (int i = 0; i < ndocs && !w->lost; i++)
			check_document(w, &docs[i], round == 1 && !naive, final && round == 2);
}
