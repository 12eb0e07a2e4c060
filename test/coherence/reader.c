/*-------------------------------------------------------------------------
 *
 * reader.c
 *	  Readers: plain clients, which ask SQL on a miss, and SQL readers of all kinds.
 *
 * Everything that is asked at once is looked up in the book at once, before.
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

#define PIPELINE	16			/* SQL reads sent at once */
#define REPEATED	4			/* documents of one REPEATABLE READ transaction */

/* How this document is read by SQL. */
const char *
read_text(const Doc *doc)
{
	if (aside != NOT_ASIDE)
		return "SELECT coherence.session_document(s) FROM coherence.sessions s WHERE id = $1";
	if (naive)
		return "SELECT coherence.get($1::bigint)";
	if (doc->nregs > 1)
		return "SELECT echocache_get('thread', $1::bigint)";
	return "SELECT echocache_get_session($1::bigint)";
}

/* Judge an answer of SQL; clears it. */
static void
take(Worker *w, const char *by, const Doc *doc, const Before *b, PGresult *res)
{
	const char *text = value_of(res);

	if (text == NULL)
		judge_absent(w, by, doc, b);
	else
		judge(w, BY_SQL, by, doc, b, text, PQgetlength(res, 0, 0));
	PQclear(res);
}

static void
read_sql(Worker *w, Doc *doc)
{
	Before		b;
	PGresult   *res;

	look(doc, &b);
	res = sql(w, read_text(doc), doc->id_text, NULL, NULL);
	if (res)
	{
		take(w, "SQL", doc, &b, res);
		count(N_SQL);
	}
}

/* The next result of a pipeline, or NULL: the connection is gone. */
static PGresult *
next_result(Worker *w)
{
	for (;;)
	{
		PGresult   *res = PQgetResult(w->conn);

		if (res == NULL)
		{
			if (PQstatus(w->conn) != CONNECTION_OK)
			{
				if (!faults_on)
					die("%s", PQerrorMessage(w->conn));
				w->lost = true;
				return NULL;
			}
			continue;
		}
		return res;
	}
}

/*
 * These documents by SQL, all asked for at once: each in a transaction of its
 * own, or all in one.
 */
static void
read_pipeline(Worker *w, Doc **wanted, int n, bool together)
{
	Before		b[PIPELINE];
	int			syncs = together ? 1 : n;
	int			at = 0;

	for (int i = 0; i < n; i++)
		if (prepared(w, read_text(wanted[i])) == NULL)
			return;
	for (int i = 0; i < n; i++)
		look(wanted[i], &b[i]);
	if (!PQenterPipelineMode(w->conn))
		die("%s", PQerrorMessage(w->conn));
	for (int i = 0; i < n; i++)
	{
		const char *params[1] = {wanted[i]->id_text};

		/* where the connection breaks, the results tell */
		(void) PQsendQueryPrepared(w->conn, prepared(w, read_text(wanted[i])), 1, params, NULL,
								   NULL, 0);
		if (!together || i == n - 1)
			(void) PQpipelineSync(w->conn);
	}
	while (syncs > 0)
	{
		PGresult   *res = next_result(w);

		if (res == NULL)
			return;
		switch (PQresultStatus(res))
		{
			case PGRES_PIPELINE_SYNC:
				syncs--;
				PQclear(res);
				break;
			case PGRES_TUPLES_OK:
				if (at == n)
					die("more answers than questions");
				take(w, together ? "SQL (one transaction)" : "SQL (pipeline)", wanted[at], &b[at],
					 res);
				count(together ? N_SQL_TRANSACTION : N_SQL);
				at++;
				break;
			case PGRES_PIPELINE_ABORTED:
				at++;
				PQclear(res);
				break;
			default:
				if (!excusable(w, res))
					die("%s: %s", w->name, PQresultErrorMessage(res));
				at++;
				PQclear(res);
				if (w->lost)
					return;
		}
	}
	if (!PQexitPipelineMode(w->conn))
		die("%s", PQerrorMessage(w->conn));
}

/* Some documents by SQL, each asked for when the one before has been answered. */
static void
read_transaction(Worker *w)
{
	run(w, "BEGIN");
	for (int i = 1 + pick(w, 6); i > 0 && !w->failed; i--)
	{
		Doc		   *doc = pick_doc(w);
		Before		b;
		PGresult   *res;

		look(doc, &b);
		res = sql(w, read_text(doc), doc->id_text, NULL, NULL);
		if (res == NULL)
			break;
		take(w, "SQL (in a transaction)", doc, &b, res);
		count(N_SQL_TRANSACTION);
	}
	run(w, "COMMIT");
}

/*
 * Some documents in one REPEATABLE READ transaction, each twice.  What is older than
 * the transaction's snapshot it must see; so what is known before it begins counts.  The lock
 * keeps TRUNCATE away, which no snapshot does: the locks of a document's function do not last.
 */
static void
read_repeatable(Worker *w)
{
	Doc		   *wanted[REPEATED];
	Before		b[REPEATED];
	char	   *first[REPEATED] = {NULL};

	for (int i = 0; i < REPEATED; i++)
	{
		wanted[i] = pick_doc(w);
		look(wanted[i], &b[i]);
	}
	run(w, "BEGIN ISOLATION LEVEL REPEATABLE READ");
	run(w, "LOCK TABLE coherence.posts IN ACCESS SHARE MODE");
	for (int i = 0; i < 2 * REPEATED && !w->failed; i++)
	{
		Doc		   *doc = wanted[i % REPEATED];
		PGresult   *res = sql(w, read_text(doc), doc->id_text, NULL, NULL);
		const char *text;

		if (res == NULL)
			break;
		count(N_SQL_REPEATABLE);
		text = value_of(res) ? value_of(res) : "";
		if (i < REPEATED)
		{
			first[i] = strdup(text);
			take(w, "SQL (REPEATABLE READ)", doc, &b[i], res);
			continue;
		}
		if (strcmp(text, first[i - REPEATED]) != 0)
			found(REPEAT, doc->reg, "%s: %s gets %.150s and then %.150s", doc->key, w->name,
				  first[i - REPEATED], text);
		PQclear(res);
	}
	run(w, "COMMIT");
	for (int i = 0; i < REPEATED; i++)
		free(first[i]);
}

/* Several documents of one name by one call. */
static void
read_many(Worker *w)
{
	bool		threads = nthreads >= MANY && chance(w, 40);
	int			n = threads ? nthreads : nkeys;
	Doc		   *first = &docs[(threads ? nkeys : 0) + pick(w, n - MANY + 1)];
	char		ids[200] = "{";
	Before		b[MANY];
	bool		got[MANY] = {false};
	PGresult   *res;

	for (int i = 0; i < MANY; i++)
	{
		look(&first[i], &b[i]);
		snprintf(ids + strlen(ids), sizeof(ids) - strlen(ids), "%s%d", i > 0 ? "," : "",
				 first[i].id);
	}
	strcat(ids, "}");
	res = threads
		? sql(w, "SELECT id, document FROM echocache_get_many('thread', $1::bigint[])", ids, NULL,
			  NULL)
		: sql(w, "SELECT id, session FROM echocache_get_sessions($1::bigint[])", ids, NULL, NULL);
	if (res == NULL)
		return;
	for (int row = 0; row < PQntuples(res); row++)
	{
		int			i = atoi(PQgetvalue(res, row, 0)) - first->id;

		if (i < 0 || i >= MANY || got[i])
		{
			found(FOREIGN, 0, "%s asks for %s and gets %s", w->name, ids, PQgetvalue(res, row, 0));
			continue;
		}
		got[i] = true;
		judge(w, BY_SQL, "SQL (many)", &first[i], &b[i], PQgetvalue(res, row, 1),
			  PQgetlength(res, row, 1));
	}
	for (int i = 0; i < MANY; i++)
	{
		if (!got[i])
			judge_absent(w, "SQL (many)", &first[i], &b[i]);
		count(N_SQL_MANY);
	}
	PQclear(res);
}

/* What is never needed, and must never do harm. */
static void
meddle(Worker *w)
{
	static const char *const texts[] = {
		"SELECT echocache_invalidate($2, $1::bigint)",
		"SELECT echocache_refresh($2, $1::bigint)",
		"SELECT echocache_touch($2, $1::bigint)"
	};
	Doc		   *doc = pick_doc(w);

	PQclear(sql(w, texts[pick(w, 3)], doc->id_text, doc->name, NULL));
}

static void
sql_reader(Worker *w)
{
	Doc		   *wanted[PIPELINE];
	int			dice = pick(w, 100);

	if (dice < 55)
	{
		for (int i = 0; i < PIPELINE; i++)
			wanted[i] = pick_doc(w);
		read_pipeline(w, wanted, PIPELINE, chance(w, 25));
	}
	else if (dice < 65)
		read_sql(w, pick_doc(w));
	else if (dice < 75)
		read_transaction(w);
	else if (dice < 85)
		read_repeatable(w);
	else if (dice < 99 || naive)
		naive ? read_sql(w, pick_doc(w)) : read_many(w);
	else
		meddle(w);
	w->failed = false;
}

/* On a miss or a marker, as an application does. */
static void
read_missing(Worker *w, Doc **missing, int n)
{
	if (w->lost)
		return;
	if (aside == NOT_ASIDE)
	{
		if (n > 0)
			read_pipeline(w, missing, n < PIPELINE ? n : PIPELINE, false);
		return;
	}
	for (int i = 0; i < n && i < 4; i++)
	{
		/* the application fills the cache itself */
		Before		b;
		PGresult   *res;

		look(missing[i], &b);
		res = sql(w, read_text(missing[i]), missing[i]->id_text, NULL, NULL);
		if (value_of(res))
			plain_set(&w->plain[0], missing[i], value_of(res));
		if (res)
			take(w, "SQL (fill)", missing[i], &b, res);
		count(N_SQL);
	}
}

/* Pipelined gets from one server; some of what it does not have is then asked of SQL. */
static void
plain_reader(Worker *w)
{
	Plain	   *p = &w->plain[pick(w, nservers)];
	Doc		   *wanted[BATCH];
	Doc		   *missing[BATCH];
	Before		b[BATCH];
	int			n = 0;
	int			nmissing = 0;

	for (int i = 0; i < 4 * BATCH && n < BATCH; i++)
	{
		Doc		   *doc = pick_doc(w);

		if (doc->server == p->server)
			wanted[n++] = doc;
	}
	for (int i = 0; i < n; i++)
		look(wanted[i], &b[i]);
	if (!plain_send(p, wanted, n))
	{
		usleep(5000);
		return;
	}
	for (int i = 0; i < n; i++)
	{
		size_t		len;
		char	   *value;

		if (!plain_next(p, &value, &len))
			return;
		if (value && !(len == 4 && memcmp(value, "null", 4) == 0))
		{
			judge(w, BY_PLAIN, "get", wanted[i], &b[i], value, len);
			count(N_PLAIN_HITS);
			continue;
		}
		count(value ? N_PLAIN_MARKERS : N_PLAIN_MISSES);
		if (chance(w, 25))
			missing[nmissing++] = wanted[i];
	}
	read_missing(w, missing, nmissing);
	w->failed = false;
}

/* Connect again when that is possible, and do without until then. */
static void
try_reconnect(Worker *w)
{
	unsigned	before = atomic_load(&life);

	if (atomic_load(&gate_closed) || !sql_connect(w))
		return;
	count(N_CONNECTIONS_LOST);
	/* perhaps that was the next life's cluster, before the book was ready */
	if (atomic_load(&gate_closed) || before != atomic_load(&life))
		w->lost = true;
	w->failed = false;
}

void *
reader_main(void *arg)
{
	Worker	   *w = arg;
	bool		plain = w->id < nplain;
	double		next = now();

	while (!atomic_load(&stop))
	{
		double		since = now();

		if (w->lost)
		{
			try_reconnect(w);
			if (w->lost && !plain)
			{
				usleep(2000);
				continue;
			}
		}
		if (!plain)
		{
			sql_reader(w);
			note_time(T_READ, since);
			if (chance(w, 10))
				think(w);
			continue;
		}
		plain_reader(w);
		note_time(T_READ, since);
		/* not faster than asked for, nor in one go what was missed meanwhile */
		next += (double) BATCH * nplain / plain_rate;
		since = now();
		if (next > since)
			usleep((next - since) * 1e6);
		else if (next < since - 0.1)
			next = since;
	}
	return NULL;
}
