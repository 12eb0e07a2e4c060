/*-------------------------------------------------------------------------
 *
 * writer.c
 *	  Writers: transactions of every shape that may go wrong.
 *
 * A writer enters each event in the book when its statement has returned, and
 * what becomes of it in the order that the top of checker.h gives: nothing is SENT
 * before COMMIT is on its way, nor COMMITTED before it has returned.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checker.h"

/* version's expression comes first in the row, so body uses the number it has drawn. */
#define CHANGE \
	"version = nextval('coherence.version'), " \
	"body = 'v' || currval('coherence.version') || ' ' || repeat('x', $2::int), " \
	"updated_at = clock_timestamp()"
#define RETURN " RETURNING id, version, is_deleted"

/*
 * A statement of the open transaction has made this event.  Only what leaves a
 * document has a state: a key change is one number for two keys, and the old
 * one's absence must not stand for the new one's document.
 */
static void
add_event(Worker *w, int key, long version, bool present)
{
	if (w->nevents == MAX_EVENTS)
		die("too many events in one transaction");
	if (present)
		set_state(version, KNOWN);
	w->events[w->nevents++] = (Event) {.version = version, .key = key, .present = present};
}

/* Enter the rows (id, version, is_deleted) of a changing statement; returns how many. */
static int
add_events(Worker *w, PGresult *res)
{
	int			n = res ? PQntuples(res) : 0;

	for (int i = 0; i < n; i++)
		add_event(w, atoi(PQgetvalue(res, i, 0)), atol(PQgetvalue(res, i, 1)),
				  PQgetvalue(res, i, 2)[0] == 'f');
	PQclear(res);
	return n;
}

/* The events from `mark` on will never be. */
static void
undo_to(Worker *w, int mark)
{
	while (w->nevents > mark)
		if (w->events[--w->nevents].present)
			set_state(w->events[w->nevents].version, ABORTED);
}

/*
 * Events that a later event of the same key in the same transaction has
 * overtaken were never there for others: drop them.
 */
static void
keep_last(Worker *w)
{
	int			kept = 0;

	for (int i = 0; i < w->nevents; i++)
	{
		bool		last = true;

		for (int j = i + 1; j < w->nevents && last; j++)
			last = w->events[j].key != w->events[i].key;
		if (last)
			w->events[kept++] = w->events[i];
		else if (w->events[i].present)
			set_state(w->events[i].version, ABORTED);
	}
	w->nevents = kept;
}

static void
commit(Worker *w)
{
	PGresult   *res;
	double		since;

	keep_last(w);
	for (int i = 0; i < w->nevents; i++)
	{
		if (w->events[i].present)
			set_state(w->events[i].version, SENT);
		else
			raise_to(&vanishing[w->events[i].key], w->events[i].version);
	}
	since = now();
	res = sql(w, "COMMIT", NULL, NULL);
	note_time(T_COMMIT, since);
	if (res == NULL || strcmp(PQcmdStatus(res), "COMMIT") != 0)
	{
		undo_to(w, 0);
		count(N_FAILED);
	}
	else
	{
		for (int i = 0; i < w->nevents; i++)
		{
			Event	   *e = &w->events[i];

			if (e->present)
				set_state(e->version, COMMITTED);
			raise_to(&floors[e->key], (uint64_t) e->version << 1 | e->present);
		}
		count(N_COMMITTED);
	}
	w->nevents = 0;
	w->failed = false;
	PQclear(res);
}

static void
rollback(Worker *w)
{
	undo_to(w, 0);
	count(w->failed ? N_FAILED : N_ROLLED_BACK);
	w->failed = false;
	run(w, "ROLLBACK");
}

/* Within the open transaction: does it see what it has just done to the key? */
static void
check_own(Worker *w, int key)
{
	char		id[12];
	PGresult   *res;
	Event	   *e = NULL;
	long		version = 0;

	for (int i = 0; i < w->nevents; i++)
		if (w->events[i].key == key)
			e = &w->events[i];
	if (e == NULL || w->failed)
		return;
	snprintf(id, sizeof(id), "%d", key);
	res = sql(w, "SELECT echocache_get_session($1::bigint)", id, NULL);
	if (res == NULL)
		return;
	count(N_OWN);
	if (!PQgetisnull(res, 0, 0) &&
		sscanf(PQgetvalue(res, 0, 0), "{\"id\":%*d,\"version\":%ld,", &version) != 1)
		version = -1;
	if (version != (e->present ? e->version : 0))
		found(OWN, "key %d: writer %d reads version %ld after making %s%ld", key, w->id,
			  version, e->present ? "" : "it absent with ", e->version);
	PQclear(res);
}

/* What comes and goes is ordered by this lock; what only changes, by its row's. */
static void
lock_key(Worker *w, int key)
{
	char		id[12];

	snprintf(id, sizeof(id), "%d", key);
	PQclear(sql(w, "SELECT pg_advisory_xact_lock($1)", id, NULL));
}

/* One change of a key that is locked. */
static void
change(Worker *w, int key)
{
	char		id[12];
	char		size[12];
	int			dice = pick(w, 100);

	snprintf(id, sizeof(id), "%d", key);
	snprintf(size, sizeof(size), "%d", pick(w, max_body));
	if (dice < 50)
		add_events(w, sql(w, "UPDATE coherence.sessions SET " CHANGE " WHERE id = $1" RETURN,
						  id, size));
	else if (dice < 60)
		add_events(w, sql(w, "UPDATE coherence.sessions SET is_deleted = NOT is_deleted, " CHANGE
						  " WHERE id = $1" RETURN, id, size));
	else if (dice < 70)
		add_events(w, sql(w, "DELETE FROM coherence.sessions WHERE id = $1"
						  " RETURNING id, nextval('coherence.version'), true", id, NULL));
	else if (dice < 95)
		add_events(w, sql(w, "INSERT INTO coherence.sessions (id, version, body)"
						  " VALUES ($1, nextval('coherence.version'),"
						  " 'v' || currval('coherence.version') || ' ' || repeat('x', $2::int))"
						  " ON CONFLICT (id) DO UPDATE SET is_deleted = false, " CHANGE RETURN,
						  id, size));
	else						/* nothing of the document: no event */
		PQclear(sql(w, "UPDATE coherence.sessions SET secret = $2 WHERE id = $1", id, size));
	if (!naive && chance(w, 10))
		check_own(w, key);
}

/* Change a key, perhaps within savepoints that may be rolled back. */
static void
change_in_levels(Worker *w, int key, int level)
{
	char		text[60];
	int			mark = w->nevents;

	change(w, key);
	if (level == 3 || w->failed || !chance(w, 30))
		return;
	mark = w->nevents;
	snprintf(text, sizeof(text), "SAVEPOINT level%d", level);
	run(w, text);
	change_in_levels(w, key, level + 1);
	if (w->failed)
		return;
	if (chance(w, 50))
	{
		undo_to(w, mark);
		count(N_PARTLY);
		snprintf(text, sizeof(text), "ROLLBACK TO SAVEPOINT level%d", level);
		run(w, text);
		if (!naive)
			check_own(w, key);
	}
	else
	{
		snprintf(text, sizeof(text), "RELEASE SAVEPOINT level%d", level);
		run(w, text);
	}
}

/* One to four keys, in order so that deadlocks are rare. */
static void
write_keys(Worker *w)
{
	int			n = 1 + (chance(w, 40) ? pick(w, 4) : 0);
	int			key = 0;

	for (int i = 0; i < n && key < nkeys && !w->failed; i++)
	{
		key += 1 + pick(w, i == 0 ? nkeys : 4);
		if (key > nkeys)
			break;
		lock_key(w, key);
		if (!w->failed)
			change_in_levels(w, key, 1);
	}
}

/* The key itself changes: the old one becomes absent, the new one comes. */
static void
write_key_change(Worker *w)
{
	int			from = 1 + pick(w, nkeys);
	int			to = 1 + pick(w, nkeys);
	char		sfrom[12];
	char		sto[12];
	PGresult   *res;

	if (from == to)
		return;
	lock_key(w, from < to ? from : to);
	if (!w->failed)
		lock_key(w, from < to ? to : from);
	if (w->failed)
		return;
	snprintf(sfrom, sizeof(sfrom), "%d", from);
	snprintf(sto, sizeof(sto), "%d", to);
	res = sql(w, "UPDATE coherence.sessions SET id = $2::bigint,"
			  " version = nextval('coherence.version'),"
			  " body = 'v' || currval('coherence.version') || ' moved'"
			  " WHERE id = $1 AND NOT EXISTS"
			  " (SELECT FROM coherence.sessions o WHERE o.id = $2::bigint)" RETURN, sfrom, sto);
	if (res && PQntuples(res) == 1)
		add_event(w, from, atol(PQgetvalue(res, 0, 1)), false);
	if (add_events(w, res) == 1 && chance(w, 30))
		change_in_levels(w, to, 1);
}

/* Every row at once, in one statement. */
static void
write_all(Worker *w)
{
	add_events(w, sql(w, "WITH locked AS (SELECT id FROM coherence.sessions ORDER BY id FOR UPDATE)"
					  " UPDATE coherence.sessions s SET"
					  " version = nextval('coherence.version'),"
					  " body = 'v' || currval('coherence.version') || ' all'"
					  " FROM locked l WHERE l.id = s.id RETURNING s.id, s.version, s.is_deleted",
					  NULL, NULL));
}

/* The table is emptied; its lock stands for every key's. */
static void
write_truncate(Worker *w)
{
	PGresult   *res;

	run(w, "TRUNCATE coherence.sessions");
	if (w->failed)
		return;
	for (int key = 1; key <= nkeys; key++)
	{
		res = sql(w, "SELECT nextval('coherence.version')", NULL, NULL);
		add_event(w, key, atol(PQgetvalue(res, 0, 0)), false);
		PQclear(res);
	}
	count(N_TRUNCATED);
}

/* A statement that is its own transaction: we learn its version after the commit. */
static void
write_autocommit(Worker *w)
{
	char		id[12];
	char		size[12];
	PGresult   *res;
	double		since = now();

	snprintf(id, sizeof(id), "%d", 1 + pick(w, nkeys));
	snprintf(size, sizeof(size), "%d", pick(w, max_body));
	res = sql(w, "UPDATE coherence.sessions SET " CHANGE " WHERE id = $1" RETURN, id, size);
	note_time(T_COMMIT, since);
	if (res && PQntuples(res) == 1)
	{
		long		version = atol(PQgetvalue(res, 0, 1));

		bool		present = PQgetvalue(res, 0, 2)[0] == 'f';

		if (present)
			set_state(version, COMMITTED);
		atomic_fetch_or(&marks[version], AUTOCOMMIT);
		raise_to(&floors[atoi(id)], (uint64_t) version << 1 | present);
		count(N_COMMITTED);
	}
	PQclear(res);
	w->failed = false;
}

void *
writer_main(void *arg)
{
	Worker	   *w = arg;

	while (!atomic_load(&stop))
	{
		int			dice = pick(w, 1000);

		think(w);
		if (dice < 300)
		{
			write_autocommit(w);
			continue;
		}
		run(w, "BEGIN");
		if (dice < 880)
			write_keys(w);
		else if (dice < 960)
			write_key_change(w);
		else if (dice < 995)
			write_all(w);
		else
			write_truncate(w);
		think(w);
		if (w->failed || chance(w, 25))
			rollback(w);
		else
			commit(w);
	}
	PQfinish(w->conn);
	return NULL;
}
