/*-------------------------------------------------------------------------
 *
 * checker.h
 *	  Is the cache coherent?  Writers and readers at work on a few keys, and a
 *	  book of what each writer knows, against which every read is judged.
 *
 * The book.  Everything that changes what a read of a key may answer is an
 * event, and every event has a number, drawn from one sequence while the key is
 * locked (the row's lock, for what updates it; also an advisory lock of the key,
 * for what makes it come or go).  So the order of the numbers is the order of
 * the commits, and a document carries the number of the event that wrote it: its
 * version.  A number is, in this order, UNKNOWN, KNOWN (the statement has
 * returned), SENT (COMMIT is on its way) and COMMITTED (COMMIT has returned), or
 * ABORTED: rolled back, or overtaken within its own transaction.
 *
 * A reader notes the key's newest COMMITTED event, then reads, then judges:
 *
 *	stale		an older version than the one noted
 *	deleted		a document, though it had been deleted for good when we began
 *	absent		SQL says there is none, though nobody can have deleted it
 *	dirty		a version that was not SENT yet, or never COMMITTED at all
 *	backwards	an older version than some reader had in hand when we began
 *	foreign		not a document of this key, or not a whole one
 *	own			a transaction that does not see its own change
 *	rest		after all: cached bytes, or SQL's, that are not row_to_json of the row
 *
 * The marker `null` and a miss are always right for a plain client.
 *
 * checker.c starts and stops it all, book.c keeps the book, client.c talks to
 * the servers, writer.c and reader.c are the two kinds of threads.  The tables
 * and the functions are made by run.sh.  Connections: libpq's environment, and
 * MEMCACHED_HOST and MEMCACHED_PORT, a memcached that must be ours alone.  Exit
 * status: 0 nothing found, 1 something found, 2 could not tell.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef CHECKER_H
#define CHECKER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>

#include <libpq-fe.h>

#define MAX_KEYS		64
#define MAX_VERSIONS	(1L << 24)
#define MAX_EVENTS		4096	/* of one transaction */
#define MANY			4		/* keys of one echocache_get_sessions */
#define VALUE_MAX		(2 * 1024 * 1024)

typedef enum Kind
{
	STALE, DELETED, ABSENT, DIRTY, BACKWARDS, FOREIGN, OWN, REST, KINDS
} Kind;

enum						/* a version's state */
{
	UNKNOWN, KNOWN, SENT, COMMITTED, ABORTED
};

enum						/* bits: what readers and writers have to say of a version */
{
	SEEN = 1,				/* some reader had it */
	SEEN_UNKNOWN = 2,		/* ... before its writer knew its number */
	AUTOCOMMIT = 4,			/* its statement was its transaction: UNKNOWN until COMMITTED */
	TOLD = 8				/* reported already */
};

enum						/* counters besides the findings */
{
	N_COMMITTED, N_ROLLED_BACK, N_PARTLY, N_FAILED, N_TRUNCATED, N_HITS, N_MARKERS, N_MISSES,
	N_SQL, N_SQL_MANY, N_OWN, N_ROWS, N_RESTING, COUNTERS
};

enum						/* what is timed */
{
	T_READ, T_COMMIT, TIMES
};

/* A plain memcached client. */
typedef struct Plain
{
	int			fd;
	bool		meta;			/* mg, or the classic get */
	size_t		len;			/* bytes in buf */
	char	   *buf;			/* of VALUE_MAX */
} Plain;

/* What a statement did to a key; see the top. */
typedef struct Event
{
	long		version;
	int			key;
	bool		present;
} Event;

/* One thread, writer or reader; nobody else touches it while it runs. */
typedef struct Worker
{
	int			id;
	bool		writer;
	uint64_t	random;
	PGconn	   *conn;
	Plain		plain;			/* a reader's */
	Event		events[MAX_EVENTS]; /* a writer's, of its open transaction */
	int			nevents;
	bool		failed;			/* the open transaction is: only ROLLBACK helps */
} Worker;

/* Settings: set by main before any thread starts. */
extern const char *mode;
extern bool naive;				/* coherence.get() reads, and nothing of echocache is there */
extern double seconds;
extern uint64_t seed;
extern int	nkeys;				/* the keys are 1 to nkeys */
extern int	nwriters;
extern int	nreaders;
extern int	think_us;			/* a pause, when there is one, is twice this at most */
extern int	max_body;			/* bytes */
extern char *key_prefix;

/*
 * The book.  floors and sights hold version << 1 | present, and only grow; a
 * plain maximum is right because a key's events are numbered in commit order.
 */
extern _Atomic uint8_t *state;	/* of each version; written by its writer */
extern _Atomic uint8_t *marks;	/* of each version; bits are only ever added, by anyone */
extern _Atomic uint64_t floors[MAX_KEYS + 1];	/* newest COMMITTED event; raised by writers */
extern _Atomic uint64_t sights[MAX_KEYS + 1];	/* newest version in hand; raised by readers */
extern _Atomic uint64_t vanishing[MAX_KEYS + 1];	/* newest SENT event that leaves it absent */

extern _Atomic bool stop;		/* threads end after their read or transaction */

/* book.c */
extern void book_open(void);
extern void set_state(long version, int to);
extern void raise_to(_Atomic uint64_t *what, uint64_t value);
extern void found(Kind kind, const char *fmt,...) __attribute__((format(printf, 2, 3)));
extern void count(int which);
extern double now(void);
extern void note_time(int which, double since);
extern void check_book(void);
extern long report(void);
extern void die(const char *fmt,...) __attribute__((format(printf, 1, 2), noreturn));

/* client.c */
extern void plain_connect(Plain *p);
extern char *plain_get(Plain *p, int key, size_t *len);
extern void sql_connect(Worker *w);
extern PGresult *sql(Worker *w, const char *text, const char *p1, const char *p2);
extern void run(Worker *w, const char *text);

/* checker.c */
extern int	pick(Worker *w, int n);
extern bool chance(Worker *w, int percent);
extern void think(Worker *w);

/* writer.c, reader.c */
extern void *writer_main(void *worker);
extern void *reader_main(void *worker);
extern void check_rest(Worker *w);

#endif							/* CHECKER_H */
