/*-------------------------------------------------------------------------
 *
 * writer.c
 *	  Writers: changes of every kind, in transactions of every shape that may go wrong.
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
#define NUMBER	"nextval('coherence.version')"
#define BODY(size) \
	"'v' || currval('coherence.version') || ' ' || repeat('x', " size ") || ' v' || " \
	"currval('coherence.version')"
#define SESSION_CHANGE "version = " NUMBER ", body = " BODY("$2::int") \
	", updated_at = clock_timestamp()"
#define SESSION_RETURN " RETURNING id, version, is_deleted"
#define THREAD_RETURN " RETURNING coherence.register(id, 0), version, false"
#define POST_RETURN " RETURNING coherence.register(thread, slot), version, false"

/*
 * In REPEATABLE READ and above, who inserts a row in place of one that others have deleted
 * since its snapshot sees both, with one key: that is PostgreSQL's way, by the table alone.
 */
static bool
sees_two_rows(Worker *w, const Doc *doc)
{
	PGresult   *res;
	bool		two;

	if (!w->old_snapshot)
		return false;
	res = sql(w, doc->nregs == 1
			  ? "SELECT FROM coherence.sessions WHERE id = $1 HAVING count(*) > 1"
			  : "SELECT FROM coherence.threads WHERE id = $1 HAVING count(*) > 1 UNION ALL"
			  " SELECT FROM coherence.posts WHERE thread = $1 GROUP BY slot HAVING count(*) > 1",
			  doc->id_text, NULL, NULL);
	two = res && PQntuples(res) > 0;
	PQclear(res);
	if (two)
		count(N_TWO_ROWS);
	return two;
}

/* Within the open transaction: does it see what it has just done? */
static void
check_own(Worker *w, int reg)
{
	Doc		   *doc = doc_of(reg);
	int			part = reg - doc->reg;
	PGresult   *res;
	Event	   *e = NULL;
	long		versions[PARTS] = {0};

	for (int i = 0; i < w->nevents; i++)
		if (w->events[i].reg == reg)
			e = &w->events[i];
	if (e == NULL || w->failed || sees_two_rows(w, doc) || w->failed)
		return;
	res = sql(w, read_text(doc), doc->id_text, NULL, NULL);
	if (res == NULL)
		return;
	count(N_OWN);
	if (value_of(res) && !parse(doc, value_of(res), PQgetlength(res, 0, 0), versions))
		found(FOREIGN, reg, "%s: %s reads its own %.200s", doc->key, w->name, value_of(res));
	/* a post shows only if its thread does */
	else if (versions[part] != (e->present ? e->version : 0) && (part == 0 || versions[0] > 0))
		found(OWN, reg, "%s: %s reads version %ld of register %d after making %s%ld", doc->key,
			  w->name, versions[part], reg, e->present ? "" : "it absent with ", e->version);
	PQclear(res);
}

/* What comes and goes is ordered by this lock; what only changes, by its row's. */
static void
lock_register(Worker *w, int reg)
{
	char		id[12];

	snprintf(id, sizeof(id), "%d", reg);
	PQclear(sql(w, "SELECT pg_advisory_xact_lock($1)", id, NULL, NULL));
}

/* Most are small, some are not. */
static int
body_size(Worker *w)
{
	int			dice = pick(w, 100);

	return min_body + pick(w, dice < 90 ? max_body / 100 + 1 : dice < 99 ? max_body / 10 + 1 : max_body);
}

/* One change of a session that is locked. */
static void
change_session(Worker *w, const char *id, const char *size)
{
	int			dice = pick(w, 100);

	if (dice < 50)
		add_events(w, sql(w, "UPDATE coherence.sessions SET " SESSION_CHANGE " WHERE id = $1"
						  SESSION_RETURN, id, size, NULL));
	else if (dice < 57)
		add_events(w, sql(w, "UPDATE coherence.sessions SET is_deleted = NOT is_deleted, "
						  SESSION_CHANGE " WHERE id = $1" SESSION_RETURN, id, size, NULL));
	else if (dice < 62)
		add_events(w, sql(w, "DELETE FROM coherence.sessions WHERE id = $1"
						  " RETURNING id, " NUMBER ", true", id, NULL, NULL));
	else if (dice < 95)
		add_events(w, sql(w, "INSERT INTO coherence.sessions (id, version, body)"
						  " VALUES ($1, " NUMBER ", " BODY("$2::int") ")"
						  " ON CONFLICT (id) DO UPDATE SET is_deleted = false, " SESSION_CHANGE
						  SESSION_RETURN, id, size, NULL));
	else						/* nothing of the document: no event */
		PQclear(sql(w, "UPDATE coherence.sessions SET secret = $2 WHERE id = $1", id, size, NULL));
}

/* One change of a thread's own row. */
static void
change_thread(Worker *w, const char *id, const char *size)
{
	int			dice = pick(w, 100);

	if (dice < 45)
		add_events(w, sql(w, "UPDATE coherence.threads SET version = " NUMBER ", body = "
						  BODY("$2::int") " WHERE id = $1" THREAD_RETURN, id, size, NULL));
	else if (dice < 52)
		add_events(w, sql(w, "DELETE FROM coherence.threads WHERE id = $1"
						  " RETURNING coherence.register(id, 0), " NUMBER ", true",
						  id, NULL, NULL));
	else
		add_events(w, sql(w, "INSERT INTO coherence.threads (id, version, body)"
						  " VALUES ($1, " NUMBER ", " BODY("$2::int") ")"
						  " ON CONFLICT (id) DO UPDATE SET version = " NUMBER ", body = "
						  BODY("$2::int") THREAD_RETURN, id, size, NULL));
}

/* One change of a post. */
static void
change_post(Worker *w, const char *thread, const char *slot)
{
	int			dice = pick(w, 100);

	if (dice < 40)
		add_events(w, sql(w, "UPDATE coherence.posts SET version = " NUMBER
						  " WHERE thread = $1 AND slot = $2" POST_RETURN, thread, slot, NULL));
	else if (dice < 60)
		add_events(w, sql(w, "DELETE FROM coherence.posts WHERE thread = $1 AND slot = $2"
						  " RETURNING coherence.register(thread, slot), " NUMBER ", true", thread,
						  slot, NULL));
	else
		add_events(w, sql(w, "INSERT INTO coherence.posts (thread, slot, version, body)"
						  " VALUES ($1, $2, " NUMBER ", 'x')"
						  " ON CONFLICT (thread, slot) DO UPDATE SET version = " NUMBER
						  POST_RETURN, thread, slot, NULL));
}

static void
change(Worker *w, int reg)
{
	Doc		   *doc = doc_of(reg);
	char		second[12];

	snprintf(second, sizeof(second), "%d", reg == doc->reg ? body_size(w) : reg - doc->reg);
	if (doc->nregs == 1)
		change_session(w, doc->id_text, second);
	else if (reg == doc->reg)
		change_thread(w, doc->id_text, second);
	else
		change_post(w, doc->id_text, second);
	if (!naive && chance(w, 10))
		check_own(w, reg);
}

/* Change a register, perhaps within savepoints that may be rolled back. */
static void
change_in_levels(Worker *w, int reg, int level)
{
	char		text[60];
	int			mark;

	change(w, reg);
	if (level == 3 || w->failed || !chance(w, 25))
		return;
	mark = w->nevents;
	snprintf(text, sizeof(text), "SAVEPOINT level%d", level);
	run(w, text);
	change_in_levels(w, reg, level + 1);
	if (w->failed)
		return;
	if (chance(w, 50))
	{
		undo_to(w, mark, "rolled back to a savepoint");
		count(N_PARTLY);
		snprintf(text, sizeof(text), "ROLLBACK TO SAVEPOINT level%d", level);
		run(w, text);
		if (!naive)
			check_own(w, reg);
	}
	else
	{
		snprintf(text, sizeof(text), "RELEASE SAVEPOINT level%d", level);
		run(w, text);
	}
}

/* One to four registers, in order so that deadlocks are rare; often of one document. */
static void
write_some(Worker *w)
{
	int			n = 1 + (chance(w, 40) ? pick(w, 4) : 0);
	Doc		   *doc = pick_doc(w);
	int			reg = doc->reg - 1;
	int			last = nregisters;

	if (doc->nregs > 1 && chance(w, 70))
		last = doc->reg + doc->nregs - 1;
	for (int i = 0; i < n && !w->failed; i++)
	{
		reg += 1 + pick(w, doc->nregs);
		if (reg > last)
			break;
		lock_register(w, reg);
		if (!w->failed)
			change_in_levels(w, reg, 1);
	}
}

/* Lock two registers, in order. */
static void
lock_both(Worker *w, int a, int b)
{
	lock_register(w, a < b ? a : b);
	if (!w->failed)
		lock_register(w, a < b ? b : a);
}

/* The key itself changes: the old one becomes absent, the new one comes. */
static void
move_session(Worker *w)
{
	int			from = 1 + pick(w, nkeys);
	int			to = 1 + pick(w, nkeys);
	char		sfrom[12];
	char		sto[12];
	char		size[12];
	PGresult   *res;

	if (from == to)
		return;
	lock_both(w, from, to);
	if (w->failed)
		return;
	snprintf(sfrom, sizeof(sfrom), "%d", from);
	snprintf(sto, sizeof(sto), "%d", to);
	snprintf(size, sizeof(size), "%d", min_body + 7);
	res = sql(w, "UPDATE coherence.sessions SET id = $2::bigint, version = " NUMBER
			  ", body = " BODY("$3::int")
			  " WHERE id = $1 AND NOT EXISTS"
			  " (SELECT FROM coherence.sessions o WHERE o.id = $2::bigint)" SESSION_RETURN,
			  sfrom, sto, size);
	if (res && PQntuples(res) == 1)
	{
		add_event(w, from, atol(PQgetvalue(res, 0, 1)), false);
		count(N_MOVED);
	}
	if (add_events(w, res) == 1 && chance(w, 30))
		change_in_levels(w, to, 1);
}

/* A post goes to another thread. */
static void
move_post(Worker *w)
{
	int			from = 1 + pick(w, nthreads);
	int			to = 1 + pick(w, nthreads);
	int			slot = 1 + pick(w, SLOTS);
	int			reg_from = nkeys + 1 + (from - 1) * PARTS + slot;
	int			reg_to = nkeys + 1 + (to - 1) * PARTS + slot;
	char		sfrom[12];
	char		sto[12];
	char		sslot[12];
	PGresult   *res;

	if (from == to)
		return;
	lock_both(w, reg_from, reg_to);
	if (w->failed)
		return;
	snprintf(sfrom, sizeof(sfrom), "%d", from);
	snprintf(sto, sizeof(sto), "%d", to);
	snprintf(sslot, sizeof(sslot), "%d", slot);
	res = sql(w, "UPDATE coherence.posts SET thread = $2::bigint, version = " NUMBER
			  " WHERE thread = $1 AND slot = $3 AND NOT EXISTS"
			  " (SELECT FROM coherence.posts o WHERE o.thread = $2::bigint AND o.slot = $3)"
			  POST_RETURN, sfrom, sto, sslot);
	if (res && PQntuples(res) == 1)
	{
		add_event(w, reg_from, atol(PQgetvalue(res, 0, 1)), false);
		count(N_MOVED);
	}
	add_events(w, res);
}

/* Many rows in one statement: a range of sessions, all of them, or all posts. */
static void
write_many(Worker *w)
{
	int			dice = pick(w, 100);
	char		first[12];
	char		last[12];
	char		size[12];

	snprintf(size, sizeof(size), "%d", min_body + 3);
	if (dice < 80 || nthreads == 0)
	{
		int			from = 1 + pick(w, nkeys);

		snprintf(first, sizeof(first), "%d", dice < 50 ? from : 1);
		snprintf(last, sizeof(last), "%d", dice < 50 ? from + 2 + pick(w, 40) : nkeys);
		add_events(w, sql(w, "WITH locked AS (SELECT id FROM coherence.sessions"
						  " WHERE id BETWEEN $1 AND $2 ORDER BY id FOR UPDATE)"
						  " UPDATE coherence.sessions s SET version = " NUMBER
						  ", body = " BODY("$3::int") " FROM locked l WHERE l.id = s.id"
						  " RETURNING s.id, s.version, s.is_deleted",
						  first, last, size));
	}
	else
		add_events(w, sql(w, "WITH locked AS (SELECT thread, slot FROM coherence.posts"
						  " ORDER BY thread, slot FOR UPDATE)"
						  " UPDATE coherence.posts p SET version = " NUMBER
						  " FROM locked l WHERE (l.thread, l.slot) = (p.thread, p.slot)"
						  " RETURNING coherence.register(p.thread, p.slot), p.version, false",
						  NULL, NULL, NULL));
	count(N_BULK);
}

/* A table is emptied; its lock stands for every row's. */
static void
write_truncate(Worker *w)
{
	bool		posts = nthreads > 0 && chance(w, 50);
	PGresult   *res;
	int			from = posts ? nkeys + 1 : 1;
	int			to = posts ? nregisters : nkeys;

	run(w, posts ? "TRUNCATE coherence.posts" : "TRUNCATE coherence.sessions");
	if (w->failed)
		return;
	res = sql(w, "SELECT nextval('coherence.version') FROM generate_series(1, $1::int)", "1024",
			  NULL, NULL);
	if (res == NULL)
		return;
	for (int reg = from; reg <= to; reg++)
		if (!posts || reg != doc_of(reg)->reg)
			add_event(w, reg, atol(PQgetvalue(res, reg - from, 0)), false);
	PQclear(res);
	count(N_TRUNCATED);
}

/* A statement that is its own transaction: we learn its version after the commit. */
static void
write_autocommit(Worker *w)
{
	Doc		   *doc = pick_doc(w);
	int			reg = doc->reg + pick(w, doc->nregs);
	char		second[12];
	PGresult   *res;
	double		since = now();

	snprintf(second, sizeof(second), "%d", reg == doc->reg ? body_size(w) : reg - doc->reg);
	if (doc->nregs == 1)
		res = sql(w, "UPDATE coherence.sessions SET " SESSION_CHANGE " WHERE id = $1"
				  SESSION_RETURN, doc->id_text, second, NULL);
	else if (reg == doc->reg)
		res = sql(w, "UPDATE coherence.threads SET version = " NUMBER ", body = "
				  BODY("$2::int") " WHERE id = $1" THREAD_RETURN, doc->id_text, second, NULL);
	else
		res = sql(w, "UPDATE coherence.posts SET version = " NUMBER
				  " WHERE thread = $1 AND slot = $2" POST_RETURN, doc->id_text, second, NULL);
	if (res == NULL && w->lost)
		note_lost_autocommit(reg);
	if (res && PQntuples(res) == 1)
	{
		Event		e = {.version = atol(PQgetvalue(res, 0, 1)), .reg = reg,
			.present = PQgetvalue(res, 0, 2)[0] == 'f'};
		int			expected = 0;

		note_time(T_COMMIT, since);
		if (aside != NOT_ASIDE)
			plain_delete(&w->plain[0], doc);
		note_version(e.version);
		atomic_fetch_or(&marks[e.version], AUTOCOMMIT);
		atomic_compare_exchange_strong(&owner[e.version], &expected, reg);
		commit_events(w, &e, 1, false);
		count(N_AUTOCOMMIT);
	}
	PQclear(res);
	w->failed = false;
}

/* A whole transaction. */
static void
write_transaction(Worker *w)
{
	int			dice = pick(w, 1000);
	Prepared   *slot = NULL;

	begin(w);
	if (w->failed)
		;
	else if (++w->transactions % 1500 == 40 + 100 * w->id && !naive)
		write_truncate(w);			/* rarely, but in a short run too */
	else if (dice < 860)
		write_some(w);
	else if (dice < 930 || nthreads == 0)
		move_session(w);
	else if (dice < 975)
		move_post(w);
	else
		write_many(w);
	think(w);

	/* not in the controls: with few documents what it locks leaves little going on */
	for (int i = 0; i < MAX_PREPARED && !naive; i++)
		if (w->prepared[i].status == FREE)
			slot = &w->prepared[i];
	if (w->failed || chance(w, 20))
		rollback(w);
	else if (slot && !w->async && w->nevents > 0 && w->nevents < 5 && chance(w, 10))
		prepare(w, slot);
	else
		commit(w);
}

/* End prepared transactions that have been left long enough, or all. */
static void
end_some_prepared(Worker *w, bool all)
{
	for (int i = 0; i < MAX_PREPARED && !w->lost; i++)
		if (w->prepared[i].status == PREPARED && (all || !atomic_load(&all_async)) &&
			(all || (now() - w->prepared[i].since > 0.02 && chance(w, 20)) ||
			 now() - w->prepared[i].since > 2))
			end_prepared(w, &w->prepared[i], chance(w, 70));
}

void *
writer_main(void *arg)
{
	Worker	   *w = arg;
	bool		done;

	do
	{
		done = atomic_load(&stop_writers);
		park();
		if (w->lost)
			reconnect(w);
		end_some_prepared(w, done);
		if (done || w->lost)
			continue;
		think(w);
		if (chance(w, 30) && !atomic_load(&all_async))
			write_autocommit(w);
		else
			write_transaction(w);
	} while (!done || w->lost || w->unsure);
	return NULL;
}
