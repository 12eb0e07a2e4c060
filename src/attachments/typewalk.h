/*-------------------------------------------------------------------------
 *
 * typewalk.h
 *	  All types that values of a type, or rows of a table, contain, at whatever level.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_TYPEWALK_H
#define ECHOCACHE_ATTACHMENTS_TYPEWALK_H

/* Called with each type once or several times; true ends the walk.  Takes no lock. */
typedef bool (*EcTypeVisitor) (Oid type, void *arg);

extern bool ec_typewalk_type(Oid type, EcTypeVisitor visit, void *arg);
extern bool ec_typewalk_columns(Oid relid, EcTypeVisitor visit, void *arg);

#endif							/* ECHOCACHE_ATTACHMENTS_TYPEWALK_H */
