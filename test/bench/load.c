/*-------------------------------------------------------------------------
 *
 * load.c
 *	  The benchmarks' load generator.
 *
 *		load turns [-m SERVERS] [-p PID]... [-e NAME,NAME...] [-o PORT:NAME,NAME...]
 *			ROUNDS CALLS {NAME TIMES PARAMETER SQL}...
 *
 * One client, statements in turns: what does one cost? (turns.c)  Prints,
 * for each round and name, a line of round, name, median µs of a call, its 99th
 * percentile, CPU µs of a call in the servers (our backends and each PID of -p), and
 * in this program.
 *
 *		load run [-c CONNECTIONS] [-t SECONDS] [-r RATE | -b] [-S SEED]
 *			[-n RECORDS] [-N HIGHEST ID] [-d DISTRIBUTION] [-x MIX] [-w ID] [-q]
 *			[-m SERVERS -k KEY PREFIX] [-R SQL] [-U SQL] [-I SQL] [-s BYTES]
 *			[-p MS [-g MS]]
 *
 * Many connections, operations drawn at random: how many in a second, and how long
 * did each take, counted from when it was due? (run.c)  Prints lines of metric, value.
 *
 * The database is that of libpq's environment.  SERVERS: as in echocache.hosts.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#include "load.h"

int
main(int argc, char **argv)
{
	/*
	 * Keep the memory of a result for the next one.  By default free() returns a
	 * large result's to the kernel and the next one faults it in again, page by
	 * page: more time than the server takes, and our own.
	 */
	mallopt(M_TRIM_THRESHOLD, 64 * 1024 * 1024);
	mallopt(M_TOP_PAD, 1024 * 1024);

	if (argc > 1 && strcmp(argv[1], "turns") == 0)
		return turns_main(argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], "run") == 0)
		return run_main(argc - 1, argv + 1);
	fputs("usage: load turns ... | load run ..., see load.c\n", stderr);
	return 1;
}
