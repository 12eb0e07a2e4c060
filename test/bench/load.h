/*-------------------------------------------------------------------------
 *
 * load.h
 *	  The benchmarks' client: see load.c.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libpq-fe.h>

typedef struct Cache Cache;

/* client.c */
extern void die(const char *fmt,...) __attribute__((format(printf, 1, 2), noreturn));
extern void *get_memory(size_t size);
extern int64_t now_ns(void);
extern Cache *cache_open(const char *servers);
extern char *cache_get(Cache *cache, const char *key, size_t *len);
extern void cache_close(Cache *cache);
extern PGconn *sql_open(const char *port);
extern void sql_prepare(PGconn *conn, const char *name, const char *sql);
extern PGresult *sql_run(PGconn *conn, const char *name, int n, const char *const *params);

/* histogram.c */
typedef struct Histogram Histogram;

extern Histogram *histogram_new(void);
extern void histogram_add(Histogram *h, int64_t ns);
extern void histogram_merge(Histogram *into, const Histogram *h);
extern int64_t histogram_count(const Histogram *h);
extern double histogram_us(const Histogram *h, double fraction);

/* turns.c, run.c */
extern int	turns_main(int argc, char **argv);
extern int	run_main(int argc, char **argv);

#endif							/* LOAD_H */
