/*-------------------------------------------------------------------------
 *
 * latency.h
 *	  How long reads and commits take: a histogram for each attachment and kind.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_ATTACHMENTS_LATENCY_H
#define ECHOCACHE_ATTACHMENTS_LATENCY_H

#include "shmem.h"

/* A histogram as it is at one moment. */
typedef struct EcLatency
{
	uint64		count;			/* the sum of all buckets */
	uint64		bucket[EC_LATENCY_BUCKETS];
	uint64		sum_ns;
	uint64		max_ns;
} EcLatency;

extern void ec_latency_reset(EcSlot *slot);
extern void ec_latency_add(EcSlot *slot, EcLatencyKind kind, int64 ns);
extern const char *ec_latency_name(EcLatencyKind kind);
extern uint64 ec_latency_bound(int bucket);
extern void ec_latency_read(EcSlot *slot, EcLatencyKind kind, EcLatency *latency);
extern uint64 ec_latency_percentile(const EcLatency *latency, double part);

#endif							/* ECHOCACHE_ATTACHMENTS_LATENCY_H */
