/*-------------------------------------------------------------------------
 *
 * blocks.h
 *	  Memory of the second tier: bytes in chains of blocks of one size.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#ifndef ECHOCACHE_READ_BLOCKS_H
#define ECHOCACHE_READ_BLOCKS_H

#include "port/atomics.h"
#include "storage/lwlock.h"

#define EC_BLOCK_SIZE	512

/* All blocks.  In shared memory. */
typedef struct EcBlocks
{
	LWLock	   *lock;			/* of what follows; held for some steps along a chain only */
	int			nblocks;
	int			nfree;
	int			free;			/* the first free one; -1: none */
	int		   *next;			/* of each block, the one behind it in its chain */
	pg_atomic_uint32 *holders;	/* of each block that is a chain's first, how many have the chain */
	char	   *data;
} EcBlocks;

/* A chain of blocks with so many bytes in them; n is 0: none. */
typedef struct EcChain
{
	int			n;
	int			first;
	int			last;
	uint32		len;
} EcChain;

extern void ec_blocks_make(EcBlocks *blocks, LWLock *lock, void *place, Size size);
extern bool ec_blocks_take(EcBlocks *blocks, Size len, EcChain *chain);
extern void ec_blocks_hold(EcBlocks *blocks, const EcChain *chain);
extern void ec_blocks_give(EcBlocks *blocks, EcChain *chain);
extern void ec_blocks_write(EcBlocks *blocks, const EcChain *chain, Size at, const char *src,
							Size len);
extern void ec_blocks_read(const EcBlocks *blocks, const EcChain *chain, Size at, char *dst,
						   Size len);
extern const char *ec_blocks_first(const EcBlocks *blocks, const EcChain *chain);

#endif							/* ECHOCACHE_READ_BLOCKS_H */
