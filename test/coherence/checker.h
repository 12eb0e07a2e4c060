/*-------------------------------------------------------------------------
 *
 * checker.h
 *	  Is the cache coherent?  Writers, readers and faults at work on a few documents,
 *	  and a book of what is known of each, against which every read is judged.
 *
 * Registers.  A row that documents are made of is a register: a session is one, a
 * thread is its own row and SLOTS posts.  Everything that changes what a read of a
 * register may show is an event, and every event has a number, drawn from one sequence
 * while the register is locked (the row's lock, for what updates it; also an advisory
 * lock, for what makes it come or go).  So the order of the numbers is the order of
 * the commits, and a document carries the numbers of the events that wrote its
 * rows: their versions.
 *
 * The book.  A version is, in this order, UNKNOWN, KNOWN (the statement has returned), SENT
 * (COMMIT is on its way) and COMMITTED (COMMIT has returned), or ABORTED (rolled back, or
 * overtaken within its own transaction), or LOST (by a crash before it was flushed, or
 * by a promotion).  What is known committed is a register's floor; the newest version
 * that any reader has had is its sight.  Both come twice, hard and soft: soft is
 * what synchronous_commit = off lets a crash take back.
 *
 * A reader notes both, then reads, then judges:
 *
 *	stale		an older version than the one known committed
 *	deleted		a row, though it had been deleted for good when we began
 *	absent		SQL says there is none, though nobody can have deleted it
 *	dirty		a version that was not SENT yet, or never COMMITTED at all
 *	ahead		a plain client had what was not flushed, or what a crash took back
 *	backwards	an older version than this reader has had, or than any had when we began
 *	torn		a part of what one transaction did to a document
 *	repeat		two answers in one REPEATABLE READ transaction
 *	foreign		not this document, or not a whole one
 *	own			a transaction that does not see its own change
 *	rest		nobody writes, and the cached bytes, or SQL's, are not those of the row
 *
 * The marker `null` and a miss are always right for a plain client.  While PostgreSQL does
 * not reach a server that plain clients do reach, these may have stale, deleted or
 * backwards answers of it: such are counted apart (watch.c).
 *
 * checker.c starts and stops it all, book.c keeps the book, judge.c judges reads,
 * client.c talks to the servers, writer.c (with transaction.c) and reader.c are the
 * two kinds of threads, faults.c is the thread that breaks things, watch.c the one that
 * sees which servers PostgreSQL reaches, rest.c compares book, table and cache.  The
 * tables are made by setup.sql, the servers by run.sh, and control.sh does to them what
 * faults.c asks for.
 *
 * Exit status: 0 nothing found, 1 something found, 2 could not tell.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef CHECKER_H
#define CHECKER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libpq-fe.h>

#define SLOTS			4		/* posts of a thread */
#define PARTS			(1 + SLOTS) /* registers of a document, at most */
#define MAX_DOCS		512
#define MAX_REGISTERS	1024
#define MAX_VERSIONS	(1L << 26)
#define MAX_EVENTS		4096	/* of one transaction */
#define MAX_SERVERS		2
#define MAX_STATEMENTS	64		/* prepared, of one connection */
#define MANY			8		/* documents of one echocache_get_many */
#define BATCH			64		/* of pipelined plain reads */
#define VALUE_MAX		(2 * 1024 * 1024)

typedef enum Kind
{
	STALE, DELETED, ABSENT, DIRTY, AHEAD, BACKWARDS, TORN, REPEAT, FOREIGN, OWN, REST, KINDS
} Kind;

enum						/* a version's state */
{
	UNKNOWN, KNOWN, SENT, COMMITTED, ABORTED, LOST
};

enum						/* bits: what readers and writers have to say of a version */
{
	SEEN = 1,				/* some reader had it */
	SEEN_PLAIN = 2,			/* ... from a memcached */
	SEEN_UNKNOWN = 4,		/* ... before its writer knew its number */
	AUTOCOMMIT = 8,			/* its statement was its transaction: UNKNOWN until COMMITTED */
	ASYNC = 16,				/* committed with synchronous_commit = off */
	TOLD = 32				/* reported already */
};

/* Counters besides the findings; the order is that of counter_name. */
enum
{
	N_PLAIN_HITS, N_PLAIN_MARKERS, N_PLAIN_MISSES, N_SQL, N_SQL_TRANSACTION, N_SQL_REPEATABLE,
	N_SQL_MANY, N_OWN, N_UNJUDGED, N_COMMITTED, N_ASYNC, N_AUTOCOMMIT, N_PREPARED, N_BULK,
	N_TRUNCATED, N_MOVED, N_ROLLED_BACK, N_PARTLY, N_FAILED, N_CONNECTIONS_LOST, N_UNSURE,
	N_COMMITS_LOST, N_PREPARED_KEPT, N_TWO_ROWS, N_BRIEFLY_DOWN, N_RESTS, N_ROWS_AT_REST, N_CACHED_AT_REST,
	N_LOCAL_HITS, N_LOCAL_EVICTIONS, N_AUDITED, N_AUDIT_ALARMS,
	COUNTERS
};

enum						/* what is timed */
{
	T_READ, T_COMMIT, TIMES
};

/* The order is that of fault_name; NO_FAULT stands for a server that is DOWN without one. */
typedef enum Fault
{
	NO_FAULT, F_FREEZE, F_KILL, F_FLUSH, F_EVICT, F_CUT, F_HOLD, F_DELAY, F_RESET, F_TERMINATE,
	F_CRASH, F_STOP, F_PROMOTE, FAULTS
} Fault;

typedef enum How
{
	BY_PLAIN, BY_SQL
} How;

typedef struct Doc
{
	const char *name;			/* session or thread */
	int			id;
	int			reg;			/* its first register, the row that has its key */
	int			nregs;
	int			server;
	char		id_text[12];
	char		key[80];
} Doc;

/* A plain memcached client. */
typedef struct Plain
{
	int			server;
	int			fd;				/* -1: not connected */
	bool		meta;			/* mg, or the classic get */
	size_t		start;			/* of what is not consumed yet */
	size_t		len;
	char	   *buf;			/* of VALUE_MAX */
} Plain;

/* What a statement did to a register; see the top. */
typedef struct Event
{
	long		version;
	int			reg;
	bool		present;
} Event;

/* What one transaction did to one document, if that was more than one thing. */
typedef struct Together
{
	int			n;
	Event		events[PARTS];
} Together;

/* What is known before a read of a document begins. */
typedef struct Before
{
	double		time;
	unsigned	life;			/* of the cluster, see life */
	unsigned	era;			/* see plain_era */
	uint64_t	floor[PARTS];
	uint64_t	soft_floor[PARTS];
	uint64_t	sight[PARTS];
	uint64_t	soft_sight[PARTS];
} Before;

#define MAX_PREPARED	2		/* of a writer, at one time */

typedef struct Prepared
{
	enum
	{
		FREE, PREPARING, PREPARED, COMMITTING, ROLLING_BACK
	}			status;			/* the -ING ones when the answer has been lost */
	char		gid[48];
	double		since;
	Event	   *events;
	int			nevents;
} Prepared;

/* One thread, writer or reader; nobody else touches it while it runs and is not parked. */
typedef struct Worker
{
	int			id;
	char		name[24];
	bool		writer;
	uint64_t	random;

	/* the connection */
	PGconn	   *conn;
	bool		lost;			/* it is gone; the open transaction with it */
	bool		failed;			/* the open transaction is: only ROLLBACK helps */
	const char *statements[MAX_STATEMENTS];
	int			nstatements;

	/* a reader's */
	Plain		plain[MAX_SERVERS];
	long		last[MAX_REGISTERS];	/* newest version it has had */
	unsigned	last_life;		/* of the cluster, which last is of */

	/* a writer's */
	Event		events[MAX_EVENTS]; /* of its open transaction, or of one with unknown end */
	int			nevents;
	bool		old_snapshot;	/* the open transaction keeps its snapshot */
	bool		async;			/* and commits so */
	uint64_t	lsn;			/* its commit record is beyond this */
	char		xid[24];		/* of the open transaction */
	bool		unsure;			/* the answer to COMMIT has been lost */
	unsigned	unsure_life;
	Prepared	prepared[MAX_PREPARED];
	long		gids;			/* used so far */
	long		transactions;
} Worker;

/* Settings: set by main before any thread starts. */
extern const char *mode;
extern bool naive;				/* nothing of echocache is there */
extern enum CacheAside
{
	NOT_ASIDE, ASIDE_DELETE, ASIDE_SET
}			aside;				/* clients keep the cache, as applications do */
extern bool faults_on;
extern bool strict;				/* echocache.fallback = off */
extern double seconds;
extern uint64_t seed;
extern int	nkeys;				/* sessions 1 to nkeys */
extern int	nthreads;
extern int	nwriters;
extern int	nplain;				/* readers of the two kinds */
extern int	nsql;
extern int	think_us;			/* a writer's pause, when there is one, is twice this at most */
extern int	plain_rate;			/* reads in a second of all plain readers together, at most */
extern int	max_body;			/* bytes */
extern int	min_body;			/* what every document has at least */
extern int	nservers;
extern Doc	docs[MAX_DOCS];
extern int	ndocs;
extern int	nregisters;			/* they are numbered from 1 */
extern const char *server_host[MAX_SERVERS];	/* where plain clients find them */
extern const char *server_port[MAX_SERVERS];
extern const char *server_name[MAX_SERVERS];	/* as PostgreSQL has them */
extern const char *local_memory;	/* echocache's setting; NULL: there is no echocache */
extern const char *server_log;	/* PostgreSQL's; its lines begin with the time, by %n */
extern double clock_offset;		/* that clock less now() */
extern _Atomic(const char *) conninfo;
extern Worker *workers;			/* the writers first */
extern int	nworkers;

/*
 * The book.  Floors and sights hold version << 1 | present, and only grow; a
 * plain maximum is right because a register's events are numbered in commit order.
 * Only when the cluster has been started anew are soft ones set back, or after a
 * promotion all of them, by faults.c while no writer is at work.
 */
extern _Atomic uint8_t *state;	/* of each version; written by its writer */
extern _Atomic uint8_t *marks;	/* of each version; bits are only ever added, by anyone */
extern _Atomic int32_t *owner;	/* of each version its register, 0 if not known */
extern _Atomic uint64_t *beyond;	/* of an asynchronous one: its commit record is after this */
extern _Atomic(Together *) *together;	/* of each version */
extern _Atomic uint64_t floors[MAX_REGISTERS];	/* newest COMMITTED event; raised by writers */
extern _Atomic uint64_t soft_floors[MAX_REGISTERS];
extern _Atomic uint64_t sights[MAX_REGISTERS];	/* newest version in hand; raised by readers */
extern _Atomic uint64_t soft_sights[MAX_REGISTERS];
extern _Atomic uint64_t vanishing[MAX_REGISTERS];	/* newest SENT event that leaves it absent */
extern _Atomic long newest;		/* version in the book */

extern _Atomic bool stop;		/* readers and faults end; writers once stop_writers is set, too */
extern _Atomic bool stop_writers;
extern _Atomic bool all_async;	/* nobody is to commit synchronously: a crash is to come */

/*
 * The life of the cluster, which grows when it has been started anew and the book has
 * been set right.  Until then the gate is closed: nobody connects.
 */
extern _Atomic unsigned life;
extern _Atomic bool gate_closed;

/* Odd while plain reads cannot be judged (between two timelines). */
extern _Atomic unsigned plain_era;

/* book.c */
extern void book_open(void);
extern double now(void);
extern void die(const char *fmt,...) __attribute__((format(printf, 1, 2), noreturn));
extern void note_version(long version);
extern void set_state(long version, int to);
extern void raise_to(_Atomic uint64_t *what, uint64_t value);
extern void note(int reg, const char *who, const char *what, long version);
extern double overtaken_at(int reg, long version);
extern void found(Kind kind, int reg, const char *fmt,...) __attribute__((format(printf, 3, 4)));
extern void count(int which);
extern void count_more(int which, long n);
extern void count_apart(Fault fault, double staleness);
extern void count_fault(Fault fault);
extern void forget_count(int which);
extern void note_time(int which, double since);
extern void note_lost_autocommit(int reg);
extern void check_book(void);
extern long report(const char *table);
extern const char *const kind_name[];
extern const char *const fault_name[];

/* client.c */
extern void plain_open(Plain *p, int server);
extern bool plain_write(Plain *p, const char *bytes, size_t len);
extern bool plain_send(Plain *p, Doc *const *wanted, int n);
extern bool plain_next(Plain *p, char **value, size_t *len);
extern bool plain_get(Plain *p, Doc *doc, char **value, size_t *len);
extern bool plain_command(Plain *p, const char *request, size_t len, char *answer, size_t size);
extern bool plain_set(Plain *p, Doc *doc, const char *value);
extern bool plain_delete(Plain *p, Doc *doc);
extern bool sql_connect(Worker *w);
extern void sql_close(Worker *w);
extern const char *prepared(Worker *w, const char *text);
extern bool excusable(Worker *w, const PGresult *res);
extern PGresult *sql(Worker *w, const char *text, const char *p1, const char *p2, const char *p3);
extern const char *value_of(const PGresult *res);
extern void run(Worker *w, const char *text);

/* judge.c */
extern bool parse(const Doc *doc, const char *text, size_t len, long versions[PARTS]);
extern void look(const Doc *doc, Before *b);
extern void judge(Worker *w, How how, const char *by, const Doc *doc, const Before *b,
				  const char *text, size_t len);
extern void judge_absent(Worker *w, const char *by, const Doc *doc, const Before *b);

/* watch.c */
extern void watch_open(void);
extern void *watch_main(void *arg);
extern void suspect(Kind kind, int reg, long version, int server, double begin, double end,
					const char *text);
extern void set_fault(int server, Fault fault);
extern bool wait_all_up(double limit);
extern bool was_away(double since);
extern void judge_suspects(bool all);

/* rest.c */
extern PGresult *row_of(Worker *w, const Doc *doc, const char **text);
extern void settle(Worker *w, bool timeline_changed);
extern void check_rest(Worker *w, bool final);

/* faults.c */
extern void control_open(const char *command);
extern void control_close(void);
extern void *faults_main(void *arg);
extern bool choose_faults(const char *list);
extern bool saw_all_faults(void);
extern void park(void);
extern void pause_writers(void);
extern void resume_writers(void);

/* checker.c */
extern int	pick(Worker *w, int n);
extern bool chance(Worker *w, int percent);
extern Doc *pick_doc(Worker *w);
extern void think(Worker *w);
extern Doc *doc_of(int reg);

/* transaction.c */
extern void add_event(Worker *w, int reg, long version, bool present);
extern int	add_events(Worker *w, PGresult *res);
extern void undo_to(Worker *w, int mark, const char *why);
extern void commit_events(Worker *w, Event *events, int n, bool async);
extern void begin(Worker *w);
extern void commit(Worker *w);
extern void rollback(Worker *w);
extern void prepare(Worker *w, Prepared *p);
extern void end_prepared(Worker *w, Prepared *p, bool commit);
extern void find_out(Worker *w, Worker *by);
extern void reconnect(Worker *w);

/* writer.c, reader.c */
extern void *writer_main(void *worker);
extern void *reader_main(void *worker);
extern const char *read_text(const Doc *doc);

#endif							/* CHECKER_H */
