/*-------------------------------------------------------------------------
 *
 * transaction.c
 *	  A writer's transactions, and what it enters in the book of them.
 *
 * An event is entered when its statement has returned, and what becomes of it in
 * the order that the top of checker.h gives: nothing is SENT before COMMIT is on its
 * way, nor COMMITTED before it has returned.  When the answer to COMMIT does not
 * come, the transaction's id tells what has become of it, or, if the cluster has gone
 * down meanwhile, the rows do (rest.c).
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

/* ---------------------------------------------------------------- events */

/*
 * A statement of the open transaction has made this event.  Only what leaves a
 * row has a state: a key change is one number for two registers, and the old
 * one's absence must not stand for the new one's row.
 */
void
add_event(Worker *w, int reg, long version, bool present)
{
	int			expected = 0;

	if (w->nevents == MAX_EVENTS)
		die("too many events in one transaction");
	if (reg < 1 || reg > nregisters)
		die("there is no register %d", reg);
	note_version(version);
	if (present)
	{
		set_state(version, KNOWN);
		/* who has read it already has said the same, or will be found out */
		if (!atomic_compare_exchange_strong(&owner[version], &expected, reg) && expected != reg)
			found(FOREIGN, reg, "version %ld of register %d was read as one of %d", version, reg,
				  expected);
	}
	w->events[w->nevents++] = (Event) {.version = version, .reg = reg, .present = present};
	note(reg, w->name, present ? "written" : "made absent", version);
}

/* Enter the rows (register, version, absent) of a changing statement; returns how many. */
int
add_events(Worker *w, PGresult *res)
{
	int			n = res ? PQntuples(res) : 0;

	for (int i = 0; i < n; i++)
		add_event(w, atoi(PQgetvalue(res, i, 0)), atol(PQgetvalue(res, i, 1)),
				  PQgetvalue(res, i, 2)[0] == 'f');
	PQclear(res);
	return n;
}

/* These events will never be. */
static void
abort_events(Worker *w, Event *events, int n, const char *why)
{
	for (int i = 0; i < n; i++)
	{
		note(events[i].reg, w->name, why, events[i].version);
		if (events[i].present)
			set_state(events[i].version, ABORTED);
	}
}

/* The events from `mark` on will never be. */
void
undo_to(Worker *w, int mark, const char *why)
{
	abort_events(w, w->events + mark, w->nevents - mark, why);
	w->nevents = mark;
}

/*
 * Events that a later event of the same register in the same transaction has
 * overtaken were never there for others: drop them.
 */
static void
keep_last(Worker *w)
{
	int			last[MAX_REGISTERS];
	int			kept = 0;

	for (int i = 0; i < w->nevents; i++)
		last[w->events[i].reg] = i;
	for (int i = 0; i < w->nevents; i++)
	{
		if (last[w->events[i].reg] == i)
			w->events[kept++] = w->events[i];
		else
			abort_events(w, &w->events[i], 1, "overtaken in its transaction");
	}
	w->nevents = kept;
}

/* What these events, of one transaction, do to one document belongs together. */
static void
tie(Event *events, int n)
{
	for (int i = 0; i < n; i++)
	{
		Doc		   *doc = doc_of(events[i].reg);
		Together   *t;
		bool		first = doc->nregs > 1;

		for (int j = 0; j < i && first; j++)
			first = doc_of(events[j].reg) != doc;
		if (!first)
			continue;
		t = calloc(1, sizeof(Together));
		if (t == NULL)
			die("out of memory");
		for (int j = i; j < n; j++)
			if (doc_of(events[j].reg) == doc && t->n < PARTS)
				t->events[t->n++] = events[j];
		if (t->n < 2)
		{
			free(t);
			continue;
		}
		for (int j = 0; j < t->n; j++)
			if (t->events[j].present)
				atomic_store(&together[t->events[j].version], t);
	}
}

/* COMMIT, or COMMIT PREPARED, is about to be sent. */
static void
send_events(Worker *w, Event *events, int n, bool async)
{
	tie(events, n);
	for (int i = 0; i < n; i++)
	{
		Event	   *e = &events[i];

		note(e->reg, w->name, "commit sent", e->version);
		if (!e->present)
		{
			raise_to(&vanishing[e->reg], e->version);
			continue;
		}
		if (async)
		{
			atomic_store(&beyond[e->version], w->lsn);
			atomic_fetch_or(&marks[e->version], ASYNC);
		}
		set_state(e->version, SENT);
	}
}

/* It has returned. */
void
commit_events(Worker *w, Event *events, int n, bool async)
{
	for (int i = 0; i < n; i++)
	{
		Event	   *e = &events[i];

		if (e->present)
			set_state(e->version, COMMITTED);
		/* before it is in the floors, so that overtaken_at() finds it */
		note(e->reg, w->name, async ? "committed, asynchronously" : "committed", e->version);
		raise_to(async ? &soft_floors[e->reg] : &floors[e->reg],
				 (uint64_t) e->version << 1 | e->present);
	}
	count(N_COMMITTED);
	if (async)
		count(N_ASYNC);
}

/* ---------------------------------------------------------------- caches that clients keep */

/*
 * The controls where the application keeps the cache: documents as they are before the commit,
 * and after it a set or a delete of each.  Only then is the change known committed.
 */
typedef struct Aside
{
	int			n;
	Doc		   *docs[MAX_EVENTS];
	char	   *text[MAX_EVENTS];
} Aside;

static void
aside_before(Worker *w, Aside *a)
{
	a->n = 0;
	for (int i = 0; i < w->nevents && aside != NOT_ASIDE; i++)
	{
		const char *text = NULL;
		PGresult   *res = NULL;

		a->docs[a->n] = doc_of(w->events[i].reg);
		if (aside == ASIDE_SET && w->events[i].present)
			res = row_of(w, a->docs[a->n], &text);
		a->text[a->n++] = text ? strdup(text) : NULL;
		PQclear(res);
	}
}

static void
aside_after(Worker *w, Aside *a, bool committed)
{
	for (int i = 0; i < a->n; i++)
	{
		if (committed && a->text[i])
			plain_set(&w->plain[0], a->docs[i], a->text[i]);
		else if (committed)
			plain_delete(&w->plain[0], a->docs[i]);
		free(a->text[i]);
	}
}

/* ---------------------------------------------------------------- transactions */

/* Begin; if the answer to COMMIT should be lost, its id will tell. */
void
begin(Worker *w)
{
	static const char *const begins[] = {
		"BEGIN; SELECT pg_current_xact_id()",
		"BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()",
		"BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT pg_current_xact_id()"
	};
	int			dice = pick(w, 20);
	PGresult   *res = sql(w, begins[dice == 0 ? 2 : dice <= 2 ? 1 : 0], NULL, NULL, NULL);

	w->async = false;
	w->old_snapshot = dice <= 2;
	if (res == NULL)
		return;
	snprintf(w->xid, sizeof(w->xid), "%s", PQgetvalue(res, 0, 0));
	PQclear(res);
	if (atomic_load(&all_async) || chance(w, 15))
	{
		run(w, "SET LOCAL synchronous_commit = off");
		w->async = true;
	}
}

/* The transaction has failed, or its connection is gone before COMMIT was sent. */
static void
give_up(Worker *w)
{
	undo_to(w, 0, "failed");
	count(N_FAILED);
	if (!w->lost)
		run(w, "ROLLBACK");
	w->failed = false;
}

void
commit(Worker *w)
{
	Aside		a;
	PGresult   *res;
	double		since;
	bool		ok;

	keep_last(w);
	aside_before(w, &a);
	if (w->async)
	{
		unsigned	hi;
		unsigned	lo;

		res = sql(w, "SELECT pg_current_wal_insert_lsn()", NULL, NULL, NULL);
		if (res && sscanf(PQgetvalue(res, 0, 0), "%X/%X", &hi, &lo) == 2)
			w->lsn = (uint64_t) hi << 32 | lo;
		PQclear(res);
	}
	if (w->failed)
	{
		aside_after(w, &a, false);
		give_up(w);
		return;
	}
	w->unsure_life = atomic_load(&life);
	send_events(w, w->events, w->nevents, w->async);
	since = now();
	res = sql(w, "COMMIT", NULL, NULL, NULL);
	ok = res && strcmp(PQcmdStatus(res), "COMMIT") == 0;
	PQclear(res);
	aside_after(w, &a, ok);
	if (ok)
	{
		note_time(T_COMMIT, since);
		commit_events(w, w->events, w->nevents, w->async);
	}
	else if (w->lost)
	{
		/* to be found out when we are connected again; the events stay until then */
		w->unsure = true;
		count(N_UNSURE);
		for (int i = 0; i < w->nevents; i++)
			note(w->events[i].reg, w->name, "its commit's answer is lost", w->events[i].version);
		return;
	}
	else
	{
		undo_to(w, 0, "its commit failed");
		count(N_FAILED);
	}
	w->nevents = 0;
	w->failed = false;
}

void
rollback(Worker *w)
{
	if (w->failed)
	{
		give_up(w);
		return;
	}
	undo_to(w, 0, "rolled back");
	count(N_ROLLED_BACK);
	run(w, "ROLLBACK");
	w->failed = false;
}

/* ---------------------------------------------------------------- two phases */

static bool
gid_exists(Worker *by, const char *gid)
{
	PGresult   *res = sql(by, "SELECT FROM pg_prepared_xacts WHERE gid = $1", gid, NULL, NULL);
	bool		exists;

	if (res == NULL)
		return false;
	exists = PQntuples(res) > 0;
	PQclear(res);
	return exists;
}

static void
forget_prepared(Prepared *p)
{
	free(p->events);
	p->events = NULL;
	p->status = FREE;
}

/* Prepare the open transaction, and leave it for a while. */
void
prepare(Worker *w, Prepared *p)
{
	char		text[80];

	keep_last(w);
	p->nevents = w->nevents;
	p->events = malloc((w->nevents + 1) * sizeof(Event));
	if (p->events == NULL)
		die("out of memory");
	memcpy(p->events, w->events, w->nevents * sizeof(Event));
	w->nevents = 0;
	snprintf(p->gid, sizeof(p->gid), "%s %ld", w->name, ++w->gids);
	snprintf(text, sizeof(text), "PREPARE TRANSACTION '%s'", p->gid);
	for (int i = 0; i < p->nevents; i++)
		note(p->events[i].reg, w->name, "prepare sent", p->events[i].version);
	p->since = now();
	p->status = PREPARING;
	run(w, text);
	if (!w->failed)
	{
		p->status = PREPARED;
		count(N_PREPARED);
	}
	else if (!w->lost)
	{
		abort_events(w, p->events, p->nevents, "could not be prepared");
		forget_prepared(p);
		run(w, "ROLLBACK");
		count(N_FAILED);
	}
	w->failed = false;
}

/* And end it. */
void
end_prepared(Worker *w, Prepared *p, bool commit)
{
	char		text[80];
	double		since = now();

	snprintf(text, sizeof(text), "%s PREPARED '%s'", commit ? "COMMIT" : "ROLLBACK", p->gid);
	if (commit)
	{
		send_events(w, p->events, p->nevents, false);
		p->status = COMMITTING;
	}
	else
	{
		abort_events(w, p->events, p->nevents, "rolled back, prepared");
		p->status = ROLLING_BACK;
	}
	run(w, text);
	if (w->lost)
	{
		w->failed = false;
		return;
	}
	if (w->failed)
		die("%s failed", text);
	if (commit)
	{
		note_time(T_COMMIT, since);
		commit_events(w, p->events, p->nevents, false);
	}
	else
		count(N_ROLLED_BACK);
	forget_prepared(p);
}

/* ---------------------------------------------------------------- lost answers */

/*
 * What has become of a writer's transactions whose ends it has not heard of?  by has
 * a connection, and is the writer itself, or another while the writer is parked.
 */
void
find_out(Worker *w, Worker *by)
{
	/* a prepared transaction is there or not, whatever has happened to the cluster */
	for (int i = 0; i < MAX_PREPARED; i++)
	{
		Prepared   *p = &w->prepared[i];
		bool		exists;

		if (p->status == FREE || p->status == PREPARED)
			continue;
		exists = gid_exists(by, p->gid);
		if (by->lost)
			return;
		if (exists && p->status != ROLLING_BACK)
			p->status = PREPARED;
		else if (exists)
			end_prepared(by, p, false);
		else
		{
			if (p->status == COMMITTING)
				commit_events(w, p->events, p->nevents, false);
			else if (p->status == PREPARING)
				abort_events(w, p->events, p->nevents, "was not prepared");
			forget_prepared(p);
		}
		if (by->lost)
			return;
	}

	/* of another life, its id may be somebody else's by now: the rows have told */
	while (w->unsure && w->unsure_life == atomic_load(&life))
	{
		PGresult   *res = sql(by, "SELECT pg_xact_status($1::xid8)", w->xid, NULL, NULL);
		const char *status = res ? PQgetvalue(res, 0, 0) : "";

		if (strcmp(status, "committed") == 0)
			commit_events(w, w->events, w->nevents, w->async);
		else if (strcmp(status, "aborted") == 0)
			abort_events(w, w->events, w->nevents, "had not been committed");
		else if (strcmp(status, "in progress") != 0 && !by->lost)
			die("transaction %s is \"%s\"", w->xid, status);
		w->unsure = strcmp(status, "committed") != 0 && strcmp(status, "aborted") != 0;
		PQclear(res);
		if (by->lost)
			return;
		if (w->unsure)
			usleep(5000);
		else
			w->nevents = 0;
	}
}

/* Connect again, and find out. */
void
reconnect(Worker *w)
{
	count(N_CONNECTIONS_LOST);
	while (w->lost)
	{
		unsigned	before;

		park();
		before = atomic_load(&life);
		if (atomic_load(&gate_closed) || !sql_connect(w))
		{
			usleep(2000);
			continue;
		}
		/* perhaps that was the next life's cluster, before the book was ready */
		if (atomic_load(&gate_closed) || before != atomic_load(&life))
		{
			w->lost = true;
			continue;
		}
		w->failed = false;
		find_out(w, w);
	}
	w->failed = false;
}
