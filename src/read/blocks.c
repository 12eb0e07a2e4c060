/*-------------------------------------------------------------------------
 *
 * blocks.c
 *	  Memory of the second tier: bytes in chains of blocks of one size.
 *
 * Documents have all sizes, and come and go in any order for as long as the server runs.  In
 * blocks of one size the memory cannot become fragmented: what is free can be had, whatever it
 * was before, so evicting as many bytes as are wanted is always enough.  To give a chain back
 * takes two assignments, neither throws nor allocates, and may be done in the COMMIT callback.
 * (A dsa_area does neither: large objects need pages in a row, and its freeing may throw.)
 *
 * A chain has one owner, who alone changes it: whoever took it, until it is put into an entry,
 * then that entry (local.c).  Others hold it while they read it, which the owner's lock need not
 * wait for: the memory is free when the last of all has given the chain back.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "read/blocks.h"

static const EcChain none = {0};

static char *block(const EcBlocks *blocks, int i);
static void copy(const EcBlocks *blocks, const EcChain *chain, Size at, char *dst,
				 const char *src, Size len);

static char *
block(const EcBlocks *blocks, int i)
{
	return blocks->data + (Size) i * EC_BLOCK_SIZE;
}

/* Make blocks of the memory at place, all free.  By the postmaster. */
void
ec_blocks_make(EcBlocks *blocks, LWLock *lock, void *place, Size size)
{
	Size		each = EC_BLOCK_SIZE + sizeof(int) + sizeof(pg_atomic_uint32);
	int			n = (int) (size / each);

	blocks->lock = lock;
	blocks->nblocks = blocks->nfree = n;
	blocks->free = n > 0 ? 0 : -1;
	blocks->data = place;
	blocks->next = (int *) (blocks->data + (Size) n * EC_BLOCK_SIZE);
	blocks->holders = (pg_atomic_uint32 *) (blocks->next + n);
	for (int i = 0; i < n; i++)
	{
		blocks->next[i] = i + 1 < n ? i + 1 : -1;
		pg_atomic_init_u32(&blocks->holders[i], 0);
	}
}

/* Take a chain for so many bytes, at least one.  false: there is not enough.  Never throws. */
bool
ec_blocks_take(EcBlocks *blocks, Size len, EcChain *chain)
{
	int			n = (int) ((len + EC_BLOCK_SIZE - 1) / EC_BLOCK_SIZE);
	bool		ok;

	Assert(len > 0);
	*chain = none;
	LWLockAcquire(blocks->lock, LW_EXCLUSIVE);
	ok = n <= blocks->nfree;
	if (ok)
	{
		chain->n = n;
		chain->len = (uint32) len;
		chain->first = chain->last = blocks->free;
		for (int i = 1; i < n; i++)
			chain->last = blocks->next[chain->last];
		blocks->free = blocks->next[chain->last];
		blocks->nfree -= n;
		pg_atomic_write_u32(&blocks->holders[chain->first], 1);
	}
	LWLockRelease(blocks->lock);
	return ok;
}

/*
 * Hold a chain as well, whose owner keeps it meanwhile; to be given back as the owner does.  What
 * comes before that must not throw.
 */
void
ec_blocks_hold(EcBlocks *blocks, const EcChain *chain)
{
	Assert(chain->n > 0);
	pg_atomic_fetch_add_u32(&blocks->holders[chain->first], 1);
}

/* Give a chain back, which is none then; its memory, if nobody else holds it.  Never throws. */
void
ec_blocks_give(EcBlocks *blocks, EcChain *chain)
{
	if (chain->n == 0)
		return;
	Assert(pg_atomic_read_u32(&blocks->holders[chain->first]) > 0);
	if (pg_atomic_sub_fetch_u32(&blocks->holders[chain->first], 1) == 0)
	{
		LWLockAcquire(blocks->lock, LW_EXCLUSIVE);
		blocks->next[chain->last] = blocks->free;
		blocks->free = chain->first;
		blocks->nfree += chain->n;
		LWLockRelease(blocks->lock);
	}
	*chain = none;
}

/* Copy bytes of a chain to dst, or, where that is NULL, from src into the chain. */
static void
copy(const EcBlocks *blocks, const EcChain *chain, Size at, char *dst, const char *src, Size len)
{
	int			b = chain->first;

	Assert(at + len <= chain->len);
	for (; at >= EC_BLOCK_SIZE; at -= EC_BLOCK_SIZE)
		b = blocks->next[b];
	while (len > 0)
	{
		Size		n = Min(len, EC_BLOCK_SIZE - at);
		char	   *piece = block(blocks, b) + at;

		if (dst)
		{
			memcpy(dst, piece, n);
			dst += n;
		}
		else
		{
			memcpy(piece, src, n);
			src += n;
		}
		len -= n;
		at = 0;
		b = blocks->next[b];
	}
}

/* Write bytes into a chain that nobody else sees yet. */
void
ec_blocks_write(EcBlocks *blocks, const EcChain *chain, Size at, const char *src, Size len)
{
	copy(blocks, chain, at, NULL, src, len);
}

/* Read bytes of a chain that the caller holds, or whose owner keeps it meanwhile. */
void
ec_blocks_read(const EcBlocks *blocks, const EcChain *chain, Size at, char *dst, Size len)
{
	copy(blocks, chain, at, dst, NULL, len);
}

/* The first EC_BLOCK_SIZE bytes of a chain, or as many as there are. */
const char *
ec_blocks_first(const EcBlocks *blocks, const EcChain *chain)
{
	Assert(chain->n > 0);
	return block(blocks, chain->first);
}
