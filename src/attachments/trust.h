/*-------------------------------------------------------------------------
 *
 * trust.h
 *	  Whose code may run as the owner of an attached table.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_TRUST_H
#define ECHOCACHE_ATTACHMENTS_TRUST_H

extern Oid	ec_trust_function(Oid function, Oid relowner);
extern Oid	ec_trust_type(Oid type, Oid relowner);

#endif							/* ECHOCACHE_ATTACHMENTS_TRUST_H */
