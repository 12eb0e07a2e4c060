/*-------------------------------------------------------------------------
 *
 * reader.c
 *	  Readers, and their judgement: of each answer, and at the end of what rests.
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

/* What a reader knows of a key before its read begins. */
typedef struct Before
{
	uint64_t	floor;
	uint64_t	sight;
} Before;

static Before
look(int key)
{
	return (Before) {.floor = atomic_load(&floors[key]), .sight = atomic_load(&sights[key])};
}

/* Judge a document that a read which began at `b` has got. */
static void
judge_document(Worker *w, const char *how, int key, Before b, const char *doc, size_t len)
{
	int			id;
	long		version;
	char		deleted;
	char		body[40];
	long		floor = b.floor >> 1;
	long		sight = b.sight >> 1;
	int			s;

	if (sscanf(doc, "{\"id\":%d,\"version\":%ld,\"is_deleted\":%c", &id, &version, &deleted) != 3 ||
		id != key || version <= 0 || version >= MAX_VERSIONS || doc[len - 1] != '}' ||
		snprintf(body, sizeof(body), "\"body\":\"v%ld ", version) < 0 || !strstr(doc, body))
	{
		found(FOREIGN, "key %d: reader %d gets by %s %.150s", key, w->id, how, doc);
		return;
	}
	if (deleted != 'f')
	{
		found(DELETED, "key %d: reader %d gets by %s version %ld, which is a deleted one", key,
			  w->id, how, version);
		return;
	}
	atomic_fetch_or(&marks[version], SEEN);
	s = atomic_load(&state[version]);
	if (s == UNKNOWN)
		atomic_fetch_or(&marks[version], SEEN_UNKNOWN);
	if (s == KNOWN || s == ABORTED)
	{
		atomic_fetch_or(&marks[version], TOLD);
		found(DIRTY, "key %d: reader %d gets by %s version %ld, which is %s", key, w->id, how,
			  version, s == KNOWN ? "not committed yet" : "rolled back");
	}
	else if (version < floor && !(b.floor & 1))
		found(DELETED, "key %d: reader %d gets by %s version %ld, deleted by %ld", key, w->id, how,
			  version, floor);
	else if (version < floor)
		found(STALE, "key %d: reader %d gets by %s version %ld, %ld is committed", key, w->id, how,
			  version, floor);
	else if (version < sight)
		found(BACKWARDS, "key %d: reader %d gets by %s version %ld, %ld has been read", key, w->id,
			  how, version, sight);
	else
		raise_to(&sights[key], (uint64_t) version << 1 | 1);
}

/* Judge SQL's answer that there is no such session. */
static void
judge_absent(Worker *w, const char *how, int key, Before b)
{
	if ((b.floor & 1) && atomic_load(&vanishing[key]) <= b.floor >> 1)
		found(ABSENT, "key %d: reader %d gets by %s nothing, %ld is committed", key, w->id, how,
			  (long) (b.floor >> 1));
}

static void
read_sql(Worker *w, int key, Before b)
{
	char		id[12];
	PGresult   *res;

	snprintf(id, sizeof(id), "%d", key);
	res = sql(w, naive ? "SELECT coherence.get($1::bigint)"
			  : "SELECT echocache_get_session($1::bigint)", id, NULL);
	if (PQgetisnull(res, 0, 0))
		judge_absent(w, "SQL", key, b);
	else
		judge_document(w, "SQL", key, b, PQgetvalue(res, 0, 0), PQgetlength(res, 0, 0));
	PQclear(res);
	count(N_SQL);
}

/* Several keys in a row by one call. */
static void
read_many(Worker *w)
{
	int			first = 1 + pick(w, nkeys - MANY + 1);
	char		ids[100];
	Before		b[MANY];
	bool		got[MANY] = {false};
	PGresult   *res;

	snprintf(ids, sizeof(ids), "{%d,%d,%d,%d}", first, first + 1, first + 2, first + 3);
	for (int i = 0; i < MANY; i++)
		b[i] = look(first + i);
	res = sql(w, "SELECT id, session FROM echocache_get_sessions($1::bigint[])", ids, NULL);
	for (int row = 0; row < PQntuples(res); row++)
	{
		int			i = atoi(PQgetvalue(res, row, 0)) - first;

		if (i < 0 || i >= MANY || got[i])
		{
			found(FOREIGN, "reader %d asks for %s and gets %s", w->id, ids,
				  PQgetvalue(res, row, 0));
			continue;
		}
		got[i] = true;
		judge_document(w, "SQL (many)", first + i, b[i], PQgetvalue(res, row, 1),
					   PQgetlength(res, row, 1));
	}
	for (int i = 0; i < MANY; i++)
		if (!got[i])
			judge_absent(w, "SQL (many)", first + i, b[i]);
	PQclear(res);
	count(N_SQL_MANY);
}

/* As an application does: memcached first, SQL on a miss or a marker (or not at all). */
static void
read_plain(Worker *w, int key, Before b)
{
	size_t		len;
	char	   *value = plain_get(&w->plain, key, &len);

	if (value && !(len == 4 && memcmp(value, "null", 4) == 0))
	{
		judge_document(w, "get", key, b, value, len);
		count(N_HITS);
		return;
	}
	count(value ? N_MARKERS : N_MISSES);
	if (chance(w, 50))
		read_sql(w, key, b);
}

void *
reader_main(void *arg)
{
	Worker	   *w = arg;

	while (!atomic_load(&stop))
	{
		int			dice = pick(w, 100);
		int			key = 1 + pick(w, nkeys);
		Before		b = look(key);
		double		since = now();

		if (dice < 60)
			read_plain(w, key, b);
		else if (dice < 90 || naive)
			read_sql(w, key, b);
		else
			read_many(w);
		note_time(T_READ, since);
		if (chance(w, 10))
			think(w);
	}
	return NULL;
}

/* Until the cache is there, SQL reads fill nothing; 10 s are for a worker to bring it back. */
static void
wait_available(Worker *w)
{
	double		since = now();

	for (;;)
	{
		PGresult   *res = sql(w, "SELECT echocache_is_available()", NULL, NULL);
		bool		available = PQgetvalue(res, 0, 0)[0] == 't';

		PQclear(res);
		if (available)
			return;
		if (now() - since > 10)
			die("the cache is not available after 10 s");
		usleep(50000);
	}
}

/*
 * Compare every key's cached bytes, and SQL's answer, with the row; and our
 * book with the table, for a checker that is wrong must not pass for an answer.
 */
void
check_rest(Worker *w)
{
	run(w, "SET TimeZone = 'UTC'");
	run(w, "SET DateStyle = 'ISO'");
	if (!naive)
		wait_available(w);
	/* as left behind; as the SQL read left it, and then withdrawn; as the SQL read filled it */
	for (int round = 0; round < 3; round++)
		for (int key = 1; key <= nkeys; key++)
		{
			char		id[12];
			PGresult   *row;
			PGresult   *res;
			char	   *want;
			size_t		len;
			char	   *value;
			uint64_t	floor = atomic_load(&floors[key]);

			snprintf(id, sizeof(id), "%d", key);
			row = sql(w, "SELECT row_to_json(d), d.version FROM (SELECT id, version, is_deleted,"
					  " updated_at, body FROM coherence.sessions) d"
					  " WHERE id = $1 AND NOT is_deleted", id, NULL);
			want = PQntuples(row) ? PQgetvalue(row, 0, 0) : NULL;
			if (want && round == 2)
				count(N_ROWS);
			if (floor != 0 && (want == NULL) != !(floor & 1))
				die("key %d: the book says %s, the table does not", key,
					floor & 1 ? "present" : "absent");
			if (want && floor >> 1 != (uint64_t) atol(PQgetvalue(row, 0, 1)))
				die("key %d: the book says %ld, the table %s", key, (long) (floor >> 1),
					PQgetvalue(row, 0, 1));
			value = plain_get(&w->plain, key, &len);
			if (value && strcmp(value, "null") != 0)
			{
				if (want == NULL || strcmp(value, want) != 0)
					found(REST, "key %d: cached as %.150s, its row is %.150s", key, value,
						  want ? want : "absent");
				else if (round == 2)
					count(N_RESTING);
			}
			if (round == 1 && !naive)
				PQclear(sql(w, "SELECT echocache_invalidate_session($1::bigint)", id, NULL));
			res = sql(w, naive ? "SELECT coherence.get($1::bigint)"
					  : "SELECT echocache_get_session($1::bigint)", id, NULL);
			if (PQgetisnull(res, 0, 0) ? want != NULL
				: want == NULL || strcmp(PQgetvalue(res, 0, 0), want) != 0)
				found(REST, "key %d: by SQL %.150s, its row is %.150s", key,
					  PQgetisnull(res, 0, 0) ? "absent" : PQgetvalue(res, 0, 0),
					  want ? want : "absent");
			PQclear(res);
			PQclear(row);
		}
}
