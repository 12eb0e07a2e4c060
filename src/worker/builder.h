/*-------------------------------------------------------------------------
 *
 * builder.h
 *	  The builder of a database: makes the documents that commits do not.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_WORKER_BUILDER_H
#define ECHOCACHE_WORKER_BUILDER_H

extern PGDLLEXPORT void echocache_builder_main(Datum arg);

#endif							/* ECHOCACHE_WORKER_BUILDER_H */
