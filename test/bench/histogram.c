/*-------------------------------------------------------------------------
 *
 * histogram.c
 *	  Latencies, to within 1 %, from a nanosecond to hours.
 *
 * A power of two is divided into equal buckets; a value is reported as the
 * middle of its bucket, the greatest exactly.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "load.h"

#define SUB_BITS	6			/* 64 buckets for each power of two */
#define SUB			(1 << SUB_BITS)
#define BUCKETS		(SUB * 40)

struct Histogram
{
	int64_t		n;
	int64_t		greatest;
	int64_t		count[BUCKETS];
};

Histogram *
histogram_new(void)
{
	return get_memory(sizeof(Histogram));
}

static int
bucket_of(int64_t ns)
{
	int			shift;
	int			bucket;

	if (ns < SUB)
		return ns < 0 ? 0 : (int) ns;
	shift = 63 - __builtin_clzll(ns) - SUB_BITS;
	bucket = SUB * (shift + 1) + (int) (ns >> shift) - SUB;
	return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static double
middle_of(int bucket)
{
	int			shift = bucket / SUB - 1;

	if (shift < 0)
		return bucket;
	return ((int64_t) (SUB + bucket % SUB) << shift) + ((int64_t) 1 << shift) / 2.0;
}

void
histogram_add(Histogram *h, int64_t ns)
{
	h->n++;
	h->count[bucket_of(ns)]++;
	if (ns > h->greatest)
		h->greatest = ns;
}

void
histogram_merge(Histogram *into, const Histogram *h)
{
	into->n += h->n;
	if (h->greatest > into->greatest)
		into->greatest = h->greatest;
	for (int i = 0; i < BUCKETS; i++)
		into->count[i] += h->count[i];
}

int64_t
histogram_count(const Histogram *h)
{
	return h->n;
}

/* This fraction of the values are not above the result; 1: the greatest. */
double
histogram_us(const Histogram *h, double fraction)
{
	int64_t		below = 0;

	if (h->n == 0)
		return 0;
	for (int i = 0; i < BUCKETS && fraction < 1; i++)
	{
		below += h->count[i];
		if (below >= fraction * h->n)
		{
			double		us = middle_of(i) / 1e3;

			return us < h->greatest / 1e3 ? us : h->greatest / 1e3;
		}
	}
	return h->greatest / 1e3;
}
