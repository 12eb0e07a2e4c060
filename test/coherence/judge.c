/*-------------------------------------------------------------------------
 *
 * judge.c
 *	  Judgement of what a reader has got, against what was known before it asked.
 *
 * Each register of a document is judged by itself, then whether they go together.
 * Known and not shown, shown and known gone, older than known: that is a finding,
 * or, for a plain client, a suspicion until watch.c knows whether PostgreSQL
 * reached the server.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checker.h"

/*
 * The versions that a document shows, 0 for a post that is not there.  A whole document ends
 * with its version, as the end of its body.  false: it is none, or not this one.
 */
bool
parse(const Doc *doc, const char *text, size_t len, long versions[PARTS])
{
	char		head[100];
	char		tail[40];
	char		deleted;
	int			id;
	int			at = 0;
	size_t		n;
	const char *p;

	memset(versions, 0, PARTS * sizeof(long));
	if (doc->nregs == 1)
	{
		if (sscanf(text, "{\"id\":%d,\"version\":%ld,\"is_deleted\":%c", &id, &versions[0],
				   &deleted) != 3 || deleted != 'f')
			return false;
		n = snprintf(head, sizeof(head), "\"body\":\"v%ld ", versions[0]);
		p = strstr(text, head);
	}
	else
	{
		if (sscanf(text, "{\"id\" : %d, \"version\" : %ld, \"posts\" : \"%n", &id, &versions[0],
				   &at) != 2 || at == 0)
			return false;
		for (p = text + at; *p != '"'; p += n)
		{
			int			slot;
			long		version;
			int			used = 0;

			if (sscanf(p, "%d:%ld %n", &slot, &version, &used) != 2 || used == 0 || slot < 1 ||
				slot > SLOTS || versions[slot] != 0 || version <= 0 || version >= MAX_VERSIONS)
				return false;
			versions[slot] = version;
			n = used;
		}
		n = snprintf(head, sizeof(head), "\", \"body\" : \"v%ld ", versions[0]);
		if (strncmp(p, head, n) != 0)
			p = NULL;
	}
	n = snprintf(tail, sizeof(tail), " v%ld\"}", versions[0]);
	return id == doc->id && versions[0] > 0 && versions[0] < MAX_VERSIONS && p != NULL &&
		len > n && memcmp(text + len - n, tail, n) == 0;
}

/* Note what is known of a document, before a read of it begins. */
void
look(const Doc *doc, Before *b)
{
	b->life = atomic_load(&life);
	b->era = atomic_load(&plain_era);
	b->time = now();
	for (int i = 0; i < doc->nregs; i++)
	{
		b->floor[i] = atomic_load(&floors[doc->reg + i]);
		b->soft_floor[i] = atomic_load(&soft_floors[doc->reg + i]);
		b->sight[i] = atomic_load(&sights[doc->reg + i]);
		b->soft_sight[i] = atomic_load(&soft_sights[doc->reg + i]);
	}
}

/* The newer of two, the soft one only if it is still of this life. */
static uint64_t
newer(uint64_t hard, uint64_t soft, bool same_life)
{
	return same_life && soft > hard ? soft : hard;
}

/*
 * A finding; or a suspicion, if it may be excused for a plain client.  version is what
 * was read of the register.
 */
static void
report_read(Worker *w, How how, Kind kind, const Doc *doc, int reg, const Before *b, long version,
			const char *fmt,...)
{
	char		text[600];
	va_list		args;
	double		t = now();

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (!naive)
		note(reg, w->name, kind_name[kind], version);
	if (how == BY_PLAIN && !naive &&
		(kind == STALE || kind == DELETED || kind == BACKWARDS || kind == ABSENT))
		suspect(kind, reg, version, doc->server, b->time, t, text);
	else
		found(kind, reg, "%s", text);
}

/*
 * A plain client has a version that was committed asynchronously: it must have been flushed
 * by now.  flushed is how far we know that.
 */
static void
check_flushed(Worker *w, const Doc *doc, int reg, const Before *b, long version)
{
	static _Atomic uint64_t flushed = 0;
	uint64_t	lsn = atomic_load(&beyond[version]);
	unsigned	hi;
	unsigned	lo;
	PGresult   *res;

	if (lsn == 0 || atomic_load(&flushed) > lsn || w->lost || w->conn == NULL)
		return;
	res = sql(w, "SELECT pg_current_wal_flush_lsn()", NULL, NULL, NULL);
	if (res && sscanf(PQgetvalue(res, 0, 0), "%X/%X", &hi, &lo) == 2)
	{
		uint64_t	at = (uint64_t) hi << 32 | lo;

		raise_to(&flushed, at);
		if (at <= lsn && b->life == atomic_load(&life) && !atomic_load(&gate_closed))
			report_read(w, BY_PLAIN, AHEAD, doc, reg, b, version,
						"%s: %s gets version %ld, whose commit is after %X/%X; flushed is %X/%X",
						doc->key, w->name, version, (unsigned) (lsn >> 32), (unsigned) lsn,
						hi, lo);
	}
	PQclear(res);
}

/* A register is shown with this version. */
static void
judge_version(Worker *w, How how, const char *by, const Doc *doc, int part, const Before *b,
			  long version)
{
	int			reg = doc->reg + part;
	bool		same = b->life == atomic_load(&life);
	uint64_t	floor = newer(b->floor[part], b->soft_floor[part], same);
	uint64_t	sight = newer(b->sight[part], b->soft_sight[part], same);
	int			s = atomic_load(&state[version]);
	int			expected = 0;
	int			m;

	atomic_compare_exchange_strong(&owner[version], &expected, reg);
	m = atomic_fetch_or(&marks[version], SEEN | (how == BY_PLAIN ? SEEN_PLAIN : 0) |
						(s == UNKNOWN ? SEEN_UNKNOWN : 0));
	if (expected != 0 && expected != reg)
	{
		report_read(w, how, FOREIGN, doc, reg, b, version,
					"%s: %s gets by %s version %ld of register %d", doc->key, w->name, by, version,
					expected);
		return;
	}
	if (s == KNOWN || s == ABORTED || (s == LOST && (how == BY_SQL || same)))
	{
		atomic_fetch_or(&marks[version], TOLD);
		report_read(w, how, s == LOST ? AHEAD : DIRTY, doc, reg, b, version,
					"%s: %s gets by %s version %ld, which is %s", doc->key, w->name, by, version,
					s == KNOWN ? "not committed yet" : s == ABORTED ? "rolled back" :
					"of another life");
	}
	else if (version < (long) (floor >> 1) && !(floor & 1))
		report_read(w, how, DELETED, doc, reg, b, version,
					"%s: %s gets by %s version %ld, deleted by %ld", doc->key, w->name, by,
					version, (long) (floor >> 1));
	else if (version < (long) (floor >> 1))
		report_read(w, how, STALE, doc, reg, b, version,
					"%s: %s gets by %s version %ld, %ld is committed", doc->key, w->name, by,
					version, (long) (floor >> 1));
	else if (version < (long) (sight >> 1) || version < w->last[reg])
		report_read(w, how, BACKWARDS, doc, reg, b, version,
					"%s: %s gets by %s version %ld, %s %ld", doc->key, w->name, by, version,
					version < w->last[reg] ? "and has had" : "somebody has had",
					version < w->last[reg] ? w->last[reg] : (long) (sight >> 1));
	else
	{
		/* what SQL shows may be lost in a crash, if its commit is asynchronous */
		bool		soft = how == BY_SQL && (s == UNKNOWN || (m & ASYNC));

		if (b->life == w->last_life)
			w->last[reg] = version;
		if (!soft || same)
			raise_to(soft ? &soft_sights[reg] : &sights[reg], (uint64_t) version << 1 | 1);
	}
	if (how == BY_PLAIN && (m & ASYNC))
		check_flushed(w, doc, reg, b, version);
}

/* A post is not shown, though its thread is: can anybody have deleted it? */
static void
judge_missing(Worker *w, How how, const char *by, const Doc *doc, int part, const Before *b)
{
	int			reg = doc->reg + part;
	bool		same = b->life == atomic_load(&life);
	uint64_t	floor = newer(b->floor[part], b->soft_floor[part], same);
	uint64_t	sight = newer(b->sight[part], b->soft_sight[part], same);
	uint64_t	gone = atomic_load(&vanishing[reg]);

	if ((floor & 1) && gone <= floor >> 1)
		report_read(w, how, ABSENT, doc, reg, b, (long) (floor >> 1) - 1,
					"%s: %s gets by %s no post %d, %ld is committed", doc->key, w->name, by, part,
					(long) (floor >> 1));
	else if ((sight & 1) && gone <= sight >> 1 && floor <= sight)
		report_read(w, how, BACKWARDS, doc, reg, b, (long) (sight >> 1) - 1,
					"%s: %s gets by %s no post %d, %ld was read", doc->key, w->name, by, part,
					(long) (sight >> 1));
}

/* What one transaction did to a document shows all at once. */
static void
judge_together(Worker *w, How how, const char *by, const Doc *doc, const Before *b,
			   const long versions[PARTS])
{
	for (int i = 0; i < doc->nregs; i++)
	{
		Together   *t = versions[i] > 0 ? atomic_load(&together[versions[i]]) : NULL;

		for (int j = 0; t && j < t->n; j++)
		{
			Event	   *e = &t->events[j];
			int			part = e->reg - doc->reg;

			if (part < 0 || part >= doc->nregs || part == i)
				continue;
			if (versions[part] > 0 ? versions[part] < e->version
				: e->present && atomic_load(&vanishing[e->reg]) <= (uint64_t) e->version)
				report_read(w, how, TORN, doc, e->reg, b, versions[part],
							"%s: %s gets by %s register %d with version %ld, without %s%ld of the"
							" same transaction", doc->key, w->name, by, doc->reg + i, versions[i],
							e->present ? "" : "the deletion ", e->version);
		}
	}
}

/* Judge a document that a read which began at b has got. */
void
judge(Worker *w, How how, const char *by, const Doc *doc, const Before *b, const char *text,
	  size_t len)
{
	long		versions[PARTS];

	/* between two timelines nobody can say what a plain client ought to see */
	if (how == BY_PLAIN && (b->era % 2 == 1 || b->era != atomic_load(&plain_era)))
	{
		count(N_UNJUDGED);
		return;
	}
	if (w->last_life != b->life)
	{
		memset(w->last, 0, sizeof(w->last));
		w->last_life = b->life;
	}
	if (!parse(doc, text, len, versions))
	{
		report_read(w, how, FOREIGN, doc, doc->reg, b, 0, "%s: %s gets by %s %.200s", doc->key,
					w->name, by, text);
		return;
	}
	for (int i = 0; i < doc->nregs; i++)
	{
		if (versions[i] > 0)
			judge_version(w, how, by, doc, i, b, versions[i]);
		else
			judge_missing(w, how, by, doc, i, b);
	}
	judge_together(w, how, by, doc, b, versions);
}

/* Judge SQL's answer that there is no such document. */
void
judge_absent(Worker *w, const char *by, const Doc *doc, const Before *b)
{
	bool		same = b->life == atomic_load(&life);
	uint64_t	floor = newer(b->floor[0], b->soft_floor[0], same);

	if ((floor & 1) && atomic_load(&vanishing[doc->reg]) <= floor >> 1)
		report_read(w, BY_SQL, ABSENT, doc, doc->reg, b, 0,
					"%s: %s gets by %s nothing, %ld is committed", doc->key, w->name, by,
					(long) (floor >> 1));
}
