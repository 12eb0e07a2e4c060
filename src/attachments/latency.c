/*-------------------------------------------------------------------------
 *
 * latency.c
 *	  How long reads and commits take: a histogram for each attachment and kind.
 *
 * The first bucket is for what takes up to 2^SHIFT nanoseconds.  From there on each power of two
 * has four buckets of one width.  The last bucket is for what is beyond all of them.  A bucket
 * includes its upper bound, and not its lower one.  Whatever is in a bucket is told by its upper
 * bound, which, but for the first one, is more than the truth by less than a quarter.
 *
 * Whoever has measured adds to three atomics, of which the third, the maximum, is hardly ever
 * written.  There is no lock, so who reads sees the counts of the same moment only about.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "port/atomics.h"
#include "port/pg_bitutils.h"

#include "attachments/latency.h"

/* The first bucket ends here: a read in shared memory takes a few times as long. */
#define SHIFT		7

/* Buckets of a power of two, as a power of two. */
#define PARTS_LOG2	2
#define PARTS		(1 << PARTS_LOG2)

/* The order is that of EcLatencyKind. */
static const char *const names[] = {"hit", "local_hit", "fill", "marker", "store"};

StaticAssertDecl(lengthof(names) == EC_NLATENCIES, "a kind of latency has no name");

static int	bucket_of(uint64 ns);

/* The bucket for what took so long. */
static int
bucket_of(uint64 ns)
{
	uint64		below = ns > 0 ? ns - 1 : 0;	/* so that a bound is in the bucket that it ends */
	int			power;
	int			bucket;

	if (below < (UINT64CONST(1) << SHIFT))
		return 0;
	power = pg_leftmost_one_pos64(below);
	bucket = 1 + (power - SHIFT) * PARTS + (int) (below >> (power - PARTS_LOG2)) % PARTS;
	return Min(bucket, EC_LATENCY_BUCKETS - 1);
}

/* The upper bound of a bucket in nanoseconds; the last one has none. */
uint64
ec_latency_bound(int bucket)
{
	int			above = bucket - 1;

	Assert(bucket >= 0 && bucket < EC_LATENCY_BUCKETS - 1);
	if (bucket == 0)
		return UINT64CONST(1) << SHIFT;
	return (uint64) (PARTS + 1 + above % PARTS) << (SHIFT - PARTS_LOG2 + above / PARTS);
}

/* Nothing has been measured for this slot.  Never throws. */
void
ec_latency_reset(EcSlot *slot)
{
	for (int k = 0; k < EC_NLATENCIES; k++)
	{
		EcHistogram *histogram = &slot->latency[k];

		for (int b = 0; b < EC_LATENCY_BUCKETS; b++)
			pg_atomic_write_u64(&histogram->bucket[b], 0);
		pg_atomic_write_u64(&histogram->sum_ns, 0);
		pg_atomic_write_u64(&histogram->max_ns, 0);
	}
}

/* It took so long.  NULL for the slot: nothing is counted.  Never throws. */
void
ec_latency_add(EcSlot *slot, EcLatencyKind kind, int64 ns)
{
	EcHistogram *histogram;
	uint64		took = (uint64) Max(ns, 0);
	uint64		max;

	if (slot == NULL)
		return;
	histogram = &slot->latency[kind];
	pg_atomic_fetch_add_u64(&histogram->bucket[bucket_of(took)], 1);
	pg_atomic_fetch_add_u64(&histogram->sum_ns, took);
	max = pg_atomic_read_u64(&histogram->max_ns);
	while (max < took && !pg_atomic_compare_exchange_u64(&histogram->max_ns, &max, took))
		;
}

/* The kind as the views have it. */
const char *
ec_latency_name(EcLatencyKind kind)
{
	return names[kind];
}

/* Read a histogram. */
void
ec_latency_read(EcSlot *slot, EcLatencyKind kind, EcLatency *latency)
{
	EcHistogram *histogram = &slot->latency[kind];

	latency->count = 0;
	for (int b = 0; b < EC_LATENCY_BUCKETS; b++)
	{
		latency->bucket[b] = pg_atomic_read_u64(&histogram->bucket[b]);
		latency->count += latency->bucket[b];
	}
	latency->sum_ns = pg_atomic_read_u64(&histogram->sum_ns);
	latency->max_ns = pg_atomic_read_u64(&histogram->max_ns);
}

/*
 * So many nanoseconds this part of all, above 0 and up to 1, took at most: rounded up to the bound
 * of a bucket, but not beyond the maximum.  Something has been measured.
 */
uint64
ec_latency_percentile(const EcLatency *latency, double part)
{
	uint64		rank = (uint64) ceil(part * (double) latency->count);
	uint64		seen = 0;

	Assert(latency->count > 0);
	for (int b = 0; b < EC_LATENCY_BUCKETS - 1; b++)
	{
		seen += latency->bucket[b];
		if (seen >= rank)
			return Min(ec_latency_bound(b), latency->max_ns);
	}
	return latency->max_ns;
}
