/*-------------------------------------------------------------------------
 *
 * turns.c
 *	  How long do statements take, one against the other?
 *
 * One client; each statement has a connection of its own, since what one system does to its
 * backend is not the others' (echocache keeps memory, say).  They are prepared, $1 is the only
 * parameter (an empty PARAMETER: none).
 *
 * In every round each statement is called CALLS times, in the order given, so that whatever disturbs the machine disturbs them all.
 *
 *	TIMES over 1   a call is that many executions with $1 = 1, 2, ... TIMES
 *	NAME is "-"    run once a round and not timed
 *	SQL is "get"   a plain memcached client gets the key PARAMETER; a miss is an error
 *
 * Those whose names are in the list of -o are called on another server, which listens on PORT.
 *
 * With the first call of a statement that has a result, what it gives is kept, and
 * those whose names are in the list of -e must all give the same.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

#define MAX_STATEMENTS	16
#define MAX_PIDS		(MAX_STATEMENTS + 8)

typedef struct Statement
{
	const char *name;
	int			times;
	const char *parameter;		/* or NULL */
	PGconn	   *conn;			/* NULL: by the memcached client */
} Statement;

static Cache *cache;
static int	pids[MAX_PIDS];		/* whose CPU time is the servers': memcached's, our backends' */
static int	npids;

/* CPU time that all threads of the servers have had, in ns; 0 where the kernel does not say. */
static int64_t
servers_cpu(void)
{
	int64_t		sum = 0;

	for (int i = 0; i < npids; i++)
	{
		char		path[300];
		struct dirent *entry;
		DIR		   *dir;

		snprintf(path, sizeof(path), "/proc/%d/task", pids[i]);
		dir = opendir(path);
		if (dir == NULL)
			die("there is no process %d", pids[i]);
		while ((entry = readdir(dir)) != NULL)
		{
			long long	ns;
			FILE	   *f;

			snprintf(path, sizeof(path), "/proc/%d/task/%.20s/schedstat", pids[i], entry->d_name);
			if (*entry->d_name == '.' || (f = fopen(path, "r")) == NULL)
				continue;
			if (fscanf(f, "%lld", &ns) == 1)
				sum += ns;
			fclose(f);
		}
		closedir(dir);
	}
	return sum;
}

static int64_t
own_cpu(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (int64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* Returns ns.  With `result` not NULL, the first value of the (last) result is copied there. */
static double
one_call(const Statement *s, char **result)
{
	int64_t		start = now_ns();
	char	   *value = NULL;
	size_t		len;

	if (s->conn == NULL)
	{
		value = cache_get(cache, s->parameter, &len);
		if (value == NULL)
			die("%s is not in the cache", s->parameter);
		if (result)
			*result = strdup(value);
		return now_ns() - start;
	}
	for (int i = 1; i <= s->times; i++)
	{
		char		number[12];
		const char *param = s->parameter;
		PGresult   *res;

		if (s->times > 1)
		{
			snprintf(number, sizeof(number), "%d", i);
			param = number;
		}
		res = sql_run(s->conn, "s", param ? 1 : 0, &param);
		if (result && i == s->times && PQntuples(res) > 0)
			*result = strdup(PQgetvalue(res, 0, 0));
		PQclear(res);
	}
	return now_ns() - start;
}

static int
ascending(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

/* Is this one of the names of the list "NAME,NAME..."? */
static bool
is_listed(const char *list, const char *name)
{
	size_t		len = strlen(name);

	for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
		if (strncmp(at, name, len) == 0 && (at[len] == ',' || at[len] == '\0'))
			return true;
	return false;
}

/* Do the statements named in this list give one value, byte for byte? */
static void
check_equal(const Statement *statements, int n, char *list)
{
	char	   *rest;
	char	   *first = NULL;

	for (char *name = strtok_r(list, ",", &rest); name; name = strtok_r(NULL, ",", &rest))
		for (int i = 0; i < n; i++)
		{
			char	   *value = NULL;

			if (strcmp(statements[i].name, name) != 0)
				continue;
			one_call(&statements[i], &value);
			if (value == NULL || (first && strcmp(first, value) != 0))
				die("%s gives \"%.100s\", not \"%.100s\"", name, value ? value : "", first);
			if (first)
				free(value);
			else
				first = value;
		}
	free(first);
}

int
turns_main(int argc, char **argv)
{
	Statement	statements[MAX_STATEMENTS];
	char	   *equal = NULL;
	char	   *others = NULL;
	const char *other_port = NULL;
	double	   *times;
	int			rounds,
				calls,
				n,
				option;

	while ((option = getopt(argc, argv, "+m:p:e:o:")) != -1)
	{
		switch (option)
		{
			case 'm':
				cache = cache_open(optarg);
				break;
			case 'p':
				if (npids == MAX_PIDS - MAX_STATEMENTS)
					die("too many processes");
				pids[npids++] = atoi(optarg);
				break;
			case 'e':
				equal = optarg;
				break;
			case 'o':
				other_port = optarg;
				others = strchr(optarg, ':');
				if (others == NULL)
					die("\"%s\" has no names", optarg);
				*others++ = '\0';
				break;
			default:
				return 1;
		}
	}
	argc -= optind;
	argv += optind;
	rounds = argc > 0 ? atoi(argv[0]) : 0;
	calls = argc > 1 ? atoi(argv[1]) : 0;
	n = (argc - 2) / 4;
	if (rounds < 1 || calls < 1 || n < 1 || n > MAX_STATEMENTS || argc != 2 + 4 * n)
		die("wrong arguments; see load.c");

	times = get_memory(calls * sizeof(double));
	for (int i = 0; i < n; i++)
	{
		char	  **arg = argv + 2 + 4 * i;
		Statement  *s = &statements[i];

		*s = (Statement) {.name = arg[0], .times = atoi(arg[1]), .parameter = *arg[2] ? arg[2] : NULL};
		if (strcmp(arg[3], "get") == 0)
			continue;
		s->conn = sql_open(is_listed(others, s->name) ? other_port : NULL);
		sql_prepare(s->conn, "s", arg[3]);
		pids[npids++] = PQbackendPID(s->conn);
	}
	if (equal)
		check_equal(statements, n, equal);
	for (int round = 1; round <= rounds; round++)
		for (int i = 0; i < n; i++)
		{
			Statement  *s = &statements[i];
			int64_t		servers,
						own;

			if (strcmp(s->name, "-") == 0)
			{
				one_call(s, NULL);
				continue;
			}
			servers = servers_cpu();
			own = own_cpu();
			for (int call = 0; call < calls; call++)
				times[call] = one_call(s, NULL);
			own = own_cpu() - own;
			servers = servers_cpu() - servers;
			qsort(times, calls, sizeof(double), ascending);
			printf("%d\t%s\t%.2f\t%.2f\t%.2f\t%.2f\n", round, s->name, times[calls / 2] / 1e3,
				   times[(int) (calls * 0.99)] / 1e3, servers / 1e3 / calls, own / 1e3 / calls);
		}
	for (int i = 0; i < n; i++)
		PQfinish(statements[i].conn);
	if (cache)
		cache_close(cache);
	return 0;
}
