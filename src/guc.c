/*-------------------------------------------------------------------------
 *
 * guc.c
 *	  All settings: units, bounds, check hooks.
 *
 * Invariant: a variable here has a value that its check hook has accepted.  A value that is
 * malformed is refused: at start, so that the server does not start, and on a reload, so that
 * the old value stays in force.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>
#include <limits.h>
#include <sys/un.h>

#include "nodes/makefuncs.h"
#include "nodes/value.h"
#include "utils/guc_tables.h"

#include "compat.h"
#include "guc.h"
#include "password.h"
#include "protocol/key.h"
#include "protocol/wire.h"
#include "shmem.h"

/* of echocache.local_memory, in MB */
#define MAX_LOCAL_MEMORY	(SIZEOF_SIZE_T > 4 ? 256 * 1024 : 1024)

bool		ec_guc_enabled = false;
char	   *ec_guc_hosts = NULL;
const EcHostList *ec_guc_host_list = NULL;
int			ec_guc_ttl = 1800;
bool		ec_guc_fallback = true;
int			ec_guc_pool_size = 100;
int			ec_guc_timeout = 100;
int			ec_guc_commit_timeout = 1000;
int			ec_guc_retry_interval = 1000;
bool		ec_guc_flush_on_start = false;
int			ec_guc_marker_ttl = 30;
int			ec_guc_lease = 10000;
int			ec_guc_fill_wait = 1000;
int			ec_guc_local_memory = 64;
int			ec_guc_build_timeout = 5000;
int			ec_guc_audit_rate = 1;
int			ec_guc_max_write_through = 64;
char	   *ec_guc_key_prefix = NULL;
char	   *ec_guc_username = NULL;
char	   *ec_guc_password_file = NULL;
bool		ec_guc_tls = false;
char	   *ec_guc_tls_ca_file = NULL;
char	   *ec_guc_tls_cert_file = NULL;
char	   *ec_guc_tls_key_file = NULL;
int			ec_guc_tls_verify = EC_TLS_VERIFY_CA;
uint32		ec_guc_transport_serial = 0;
bool		ec_guc_tls_files_stale = false;
#ifdef ECHOCACHE_WAIT_POINTS
char	   *ec_guc_wait_point = NULL;
#endif

/* The value of echocache.password as PostgreSQL knows it; see password.c. */
static char *masked_password = NULL;

#define HOSTS_HINT \
	"Separate servers by commas: host[:port[:weight]], [ipv6]:port, dns+name[:port[:weight]], " \
	"or the absolute path of a unix socket."
#define DISCOVER "dns+"

static const struct config_enum_entry tls_verify_options[] = {
	{"ca", EC_TLS_VERIFY_CA, false},
	{"full", EC_TLS_VERIFY_FULL, false},
	{"none", EC_TLS_VERIFY_NONE, false},
	{NULL, 0, false}
};

static bool parse_number(const char *s, size_t len, int max, int *result);
static const char *parse_host(const char *item, size_t len, EcHost *host);
static bool check_hosts(char **newval, void **extra, GucSource source);
static void assign_hosts(const char *newval, void *extra);
static bool check_key_prefix(char **newval, void **extra, GucSource source);
static bool check_username(char **newval, void **extra, GucSource source);
static void transport_assigned(const char *oldval, const char *newval);
static void assign_username(const char *newval, void *extra);
static void assign_password(const char *newval, void *extra);
static void assign_password_file(const char *newval, void *extra);
static void assign_tls(bool newval, void *extra);
static void assign_tls_ca_file(const char *newval, void *extra);
static void assign_tls_cert_file(const char *newval, void *extra);
static void assign_tls_key_file(const char *newval, void *extra);
static void assign_tls_verify(int newval, void *extra);
static void define_cache(void);
static void define_times(void);
static void define_login(void);
static void define_tls(void);
static List *placeholders(void);
static void refuse_malformed(List *wanted);

/* A decimal number from 1 to max, and nothing else. */
static bool
parse_number(const char *s, size_t len, int max, int *result)
{
	long		n = 0;

	if (len == 0 || len > 9)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if (s[i] < '0' || s[i] > '9')
			return false;
		n = n * 10 + (s[i] - '0');
	}
	if (n < 1 || n > max)
		return false;
	*result = (int) n;
	return true;
}

/*
 * One item of echocache.hosts: host[:port[:weight]], [v6][:port[:weight]],
 * dns+name[:port[:weight]] or the absolute path of a unix socket.  Returns what is wrong with it,
 * or NULL.
 */
static const char *
parse_host(const char *item, size_t len, EcHost *host)
{
	const char *end = item + len;
	const char *name;
	const char *rest;
	const char *colon;
	size_t		namelen;

	host->port = 11211;
	host->weight = 1;

	if (len == 0)
		return "is empty";
	host->discover = len > strlen(DISCOVER) && strncmp(item, DISCOVER, strlen(DISCOVER)) == 0;
	if (host->discover)
	{
		item += strlen(DISCOVER);
		len -= strlen(DISCOVER);
		if (item[0] == '[' || item[0] == '/')
			return "has no name after " DISCOVER;
	}
	name = item;
	if (memchr(item, '/', len) != NULL)
	{
		struct sockaddr_un un;

		if (item[0] != '/')
			return "is a socket path that is not absolute";
		if (len >= sizeof(un.sun_path) || len >= EC_HOST_MAX)
			return "is a socket path that is too long";
		memcpy(host->host, item, len);
		host->host[len] = '\0';
		host->port = 0;
		return NULL;
	}
	if (item[0] == '[')
	{
		const char *close = memchr(item, ']', len);

		if (close == NULL)
			return "has no closing bracket";
		name = item + 1;
		namelen = close - name;
		rest = close + 1;
	}
	else
	{
		rest = memchr(item, ':', len);
		if (rest == NULL)
			rest = end;
		namelen = rest - item;
	}
	if (namelen == 0)
		return "has no host name";
	if (namelen >= EC_HOST_MAX)
		return "has a host name that is too long";
	for (size_t i = 0; i < namelen; i++)
	{
		unsigned char c = name[i];

		if (!isalnum(c) && strchr(item[0] == '[' ? ":.%-_" : ".-_", c) == NULL)
			return "has a character that cannot stand in a host name";
	}
	memcpy(host->host, name, namelen);
	host->host[namelen] = '\0';

	if (rest == end)
		return NULL;
	if (*rest++ != ':')
		return "has something other than a port after the host";
	colon = memchr(rest, ':', end - rest);
	if (!parse_number(rest, (colon ? colon : end) - rest, 65535, &host->port))
		return "has a port that is not a number from 1 to 65535";
	if (colon && !parse_number(colon + 1, end - colon - 1, 1000, &host->weight))
		return "has a weight that is not a number from 1 to 1000";
	return NULL;
}

/* Refuse a list with any malformed item; the old list then stays in force. */
static bool
check_hosts(char **newval, void **extra, GucSource source)
{
	EcHostList *list;
	const char *p = *newval;
	bool		more = true;

	list = ec_compat_guc_malloc(offsetof(EcHostList, host) + EC_MAX_SERVERS * sizeof(EcHost));
	if (list == NULL)
		return false;
	memset(list, 0, offsetof(EcHostList, host) + EC_MAX_SERVERS * sizeof(EcHost));

	while (more)
	{
		const char *comma = strchr(p, ',');
		size_t		len = comma ? (size_t) (comma - p) : strlen(p);
		const char *item = p;
		const char *wrong;
		EcHost	   *host;

		more = comma != NULL;
		p += len + 1;
		while (len > 0 && (*item == ' ' || *item == '\t'))
			item++, len--;
		while (len > 0 && (item[len - 1] == ' ' || item[len - 1] == '\t'))
			len--;

		if (list->n == EC_MAX_SERVERS)
		{
			GUC_check_errdetail("Item %d, \"%.*s\", is one too many: there can be at most %d "
								"servers.", list->n + 1, (int) len, item, EC_MAX_SERVERS);
			GUC_check_errhint(HOSTS_HINT);
			ec_compat_guc_free(list);
			return false;
		}
		host = &list->host[list->n];
		wrong = parse_host(item, len, host);
		for (int i = 0; wrong == NULL && i < list->n; i++)
			if (list->host[i].port == host->port && list->host[i].discover == host->discover &&
				strcmp(list->host[i].host, host->host) == 0)
				wrong = "is listed twice";
		if (wrong)
		{
			GUC_check_errdetail("Item %d, \"%.*s\", %s.", list->n + 1, (int) len, item, wrong);
			GUC_check_errhint(HOSTS_HINT);
			ec_compat_guc_free(list);
			return false;
		}
		list->n++;
	}
	*extra = list;
	return true;
}

/* Have the list that check_hosts() has made. */
static void
assign_hosts(const char *newval, void *extra)
{
	ec_guc_host_list = extra;
}

/*
 * A session with a prefix of its own would miss what the others cache.  So the setting is what
 * the database's worker sees, and a session cannot set it.
 */
static bool
check_key_prefix(char **newval, void **extra, GucSource source)
{
	if (!ec_key_valid_prefix(*newval))
	{
		GUC_check_errdetail("A prefix has at most %d bytes, printable ASCII characters "
							"without space and \"%%\".", EC_PREFIX_MAX);
		return false;
	}
	if (source == PGC_S_SESSION || source == PGC_S_CLIENT)
	{
		GUC_check_errdetail("All sessions of a database share its documents, so they "
							"share the prefix too.");
		GUC_check_errhint("Use ALTER SYSTEM or ALTER DATABASE ... SET, then "
						  "SELECT pg_reload_conf().");
		return false;
	}
	return true;
}

/* A user name that could not be sent is refused. */
static bool
check_username(char **newval, void **extra, GucSource source)
{
	if (ec_wire_valid_user(*newval))
		return true;
	GUC_check_errdetail("A user name has at most %d bytes, without spaces, colons and control "
						"characters.", EC_USER_MAX);
	return false;
}

/*
 * A setting by which connections are opened is assigned.  If its value has changed, connections
 * that were opened before are out of date.  Every reload assigns what the configuration files
 * have, changed or not, so the files that settings name may be others by now in any case.
 */
static void
transport_assigned(const char *oldval, const char *newval)
{
	if (oldval != NULL && strcmp(oldval, newval) != 0)
		ec_guc_transport_serial++;
	ec_guc_tls_files_stale = true;
}

static void
assign_username(const char *newval, void *extra)
{
	transport_assigned(ec_guc_username, newval);
}

static void
assign_password(const char *newval, void *extra)
{
	transport_assigned(ec_password_secret(), extra);
	ec_password_assign(extra);
}

static void
assign_password_file(const char *newval, void *extra)
{
	transport_assigned(ec_guc_password_file, newval);
}

static void
assign_tls(bool newval, void *extra)
{
	if (newval != ec_guc_tls)
		ec_guc_transport_serial++;
}

static void
assign_tls_ca_file(const char *newval, void *extra)
{
	transport_assigned(ec_guc_tls_ca_file, newval);
}

static void
assign_tls_cert_file(const char *newval, void *extra)
{
	transport_assigned(ec_guc_tls_cert_file, newval);
}

static void
assign_tls_key_file(const char *newval, void *extra)
{
	transport_assigned(ec_guc_tls_key_file, newval);
}

static void
assign_tls_verify(int newval, void *extra)
{
	if (newval != ec_guc_tls_verify)
		ec_guc_transport_serial++;
	ec_guc_tls_files_stale = true;
}

/* What decides whether documents are cached, and where. */
static void
define_cache(void)
{
	DefineCustomBoolVariable("echocache.enabled",
							 "Turns the cache on.",
							 "Off: no call to a cache server of any kind; reads go to the table.",
							 &ec_guc_enabled, false, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("echocache.hosts",
							   "The memcached servers.",
							   "Comma-separated: host[:port[:weight]], [ipv6]:port, "
							   "dns+name[:port[:weight]] (each address a server), or a socket "
							   "path.",
							   &ec_guc_hosts, "localhost:11211", PGC_SIGHUP, 0,
							   check_hosts, assign_hosts, NULL);
	DefineCustomStringVariable("echocache.key_prefix",
							   "Namespace of the cache keys, for example one for each database.",
							   NULL,
							   &ec_guc_key_prefix, "", PGC_SUSET, 0,
							   check_key_prefix, NULL, NULL);
	DefineCustomBoolVariable("echocache.fallback",
							 "Goes on without the cache when it cannot be reached.",
							 "Off: reads that need the cache fail, and commits that cannot "
							 "invalidate the old document are aborted.",
							 &ec_guc_fallback, true, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("echocache.flush_on_start",
							 "Flushes servers that do not tell their keys.",
							 "On: the worker flushes such a server in place of a purge, other "
							 "people's keys included.",
							 &ec_guc_flush_on_start, false, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("echocache.max_write_through",
							"A transaction that changes more documents than this invalidates "
							"them instead of storing them.",
							NULL,
							&ec_guc_max_write_through, 64, 0, 10000, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("echocache.pool_size",
							"Connections that the whole cluster keeps open to one server.",
							"A backend over that opens one for its transaction and closes it "
							"after.",
							&ec_guc_pool_size, 100, 0, 100000, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
}

/* Lifetimes, and how long to wait. */
static void
define_times(void)
{
	DefineCustomIntVariable("echocache.ttl",
							"Lifetime of a cached document.",
							"0 means no expiry.",
							&ec_guc_ttl, 1800, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("echocache.marker_ttl",
							"Lifetime of markers.",
							NULL,
							&ec_guc_marker_ttl, 30, 1, 3600, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("echocache.timeout",
							"Deadline of one exchange with the cache, connecting included.",
							NULL,
							&ec_guc_timeout, 100, 1, 60 * 1000, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("echocache.commit_timeout",
							"How long a commit waits for a server to confirm that documents are "
							"invalidated.",
							"It waits no longer than until the server is DOWN.",
							&ec_guc_commit_timeout, 1000, 1, 60 * 1000, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("echocache.lease",
							"How long a cluster that is gone keeps the keys of its prefix "
							"to itself.",
							"One value for all clusters that share a memcached server.",
							&ec_guc_lease, 10 * 1000, 1000, 60 * 1000, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("echocache.fill_wait",
							"How long a read waits for somebody else's fill of the same "
							"document before it reads the table.",
							NULL,
							&ec_guc_fill_wait, 1000, 0, 60 * 1000, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("echocache.local_memory",
							"How much shared memory keeps documents, in front of memcached.",
							"0: none does.",
							&ec_guc_local_memory, 64, 0, MAX_LOCAL_MEMORY, PGC_POSTMASTER,
							GUC_UNIT_MB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("echocache.build_timeout",
							"How long the builder works on one document at most.",
							"0: without a limit.",
							&ec_guc_build_timeout, 5000, 0, 3600 * 1000, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("echocache.audit_rate",
							"How many cached documents of each database are compared to their "
							"rows in a second, at most.",
							"0: none.",
							&ec_guc_audit_rate, 1, 0, 1000, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("echocache.retry_interval",
							"How often a server that is down is probed.",
							NULL,
							&ec_guc_retry_interval, 1000, 10, 3600 * 1000, PGC_SIGHUP,
							GUC_UNIT_MS, NULL, NULL, NULL);
}

/* Who we are to the servers. */
static void
define_login(void)
{
	DefineCustomStringVariable("echocache.username",
							   "User name for the memcached servers.",
							   "Empty: no authentication.",
							   &ec_guc_username, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_username, assign_username, NULL);
	DefineCustomStringVariable("echocache.password",
							   "Password for the memcached servers.",
							   "echocache.password_file, if it is set, has precedence.",
							   &masked_password, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   ec_password_check, assign_password, NULL);
	DefineCustomStringVariable("echocache.password_file",
							   "File whose first line is the password for the memcached servers.",
							   "A relative path is relative to the data directory.",
							   &ec_guc_password_file, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, assign_password_file, NULL);
}

/* How connections are encrypted. */
static void
define_tls(void)
{
	DefineCustomBoolVariable("echocache.tls",
							 "Connects to the memcached servers by TLS.",
							 "Unix sockets excepted.",
							 &ec_guc_tls, false, PGC_SIGHUP, 0, NULL, assign_tls, NULL);
	DefineCustomStringVariable("echocache.tls_ca_file",
							   "Certificates of the authorities that may vouch for a memcached "
							   "server.",
							   "Empty: those that the system trusts.",
							   &ec_guc_tls_ca_file, "", PGC_SIGHUP, 0,
							   NULL, assign_tls_ca_file, NULL);
	DefineCustomStringVariable("echocache.tls_cert_file",
							   "Certificate to present to the memcached servers.",
							   "Empty: none.",
							   &ec_guc_tls_cert_file, "", PGC_SIGHUP, 0,
							   NULL, assign_tls_cert_file, NULL);
	DefineCustomStringVariable("echocache.tls_key_file",
							   "Private key of that certificate.",
							   "Empty: it is in echocache.tls_cert_file.",
							   &ec_guc_tls_key_file, "", PGC_SIGHUP, 0,
							   NULL, assign_tls_key_file, NULL);
	DefineCustomEnumVariable("echocache.tls_verify",
							 "How much of a memcached server's certificate is verified.",
							 "ca: a trusted authority has signed it; full: and it is for that "
							 "host; none: nothing.",
							 &ec_guc_tls_verify, EC_TLS_VERIFY_CA, tls_verify_options, PGC_SIGHUP,
							 0, NULL, assign_tls_verify, NULL);
}

/*
 * What the configuration file, or the command line, says of our settings: a list of DefElem.
 * Until the settings are defined PostgreSQL keeps it as placeholders, unchecked.
 */
static List *
placeholders(void)
{
	int			n;
	struct config_generic **all = ec_compat_guc_variables(&n);
	List	   *found = NIL;

	for (int i = 0; i < n; i++)
	{
		const char *value;

		if ((all[i]->flags & GUC_CUSTOM_PLACEHOLDER) == 0 ||
			pg_strncasecmp(all[i]->name, "echocache.", strlen("echocache.")) != 0)
			continue;
		value = GetConfigOption(all[i]->name, true, false);
		if (value)
			found = lappend(found, makeDefElem(pstrdup(all[i]->name),
											   (Node *) makeString(pstrdup(value)), -1));
	}
	return found;
}

/*
 * Refuse to start with a value that is malformed, or for a setting that there is not, as
 * PostgreSQL does for settings of its own.  (A definition meets a malformed placeholder with a
 * WARNING and the default: the servers would be localhost's, TLS would be off.)  The words are
 * PostgreSQL's.
 */
static void
refuse_malformed(List *wanted)
{
	ListCell   *lc;

	foreach(lc, wanted)
	{
		DefElem    *setting = lfirst(lc);

		(void) set_config_option(setting->defname, strVal(setting->arg), PGC_POSTMASTER,
								 PGC_S_FILE, GUC_ACTION_SET, false, FATAL, false);
	}
}

/*
 * Define the settings and reserve their prefix.  Called once, from _PG_init, in the
 * postmaster.  Ends it where a setting is malformed.
 */
void
ec_guc_init(void)
{
	List	   *wanted = placeholders();

	ec_password_init();
	define_cache();
	define_times();
	define_login();
	define_tls();
#ifdef ECHOCACHE_WAIT_POINTS
	DefineCustomStringVariable("echocache.wait_point",
							   "Test builds only: where this session stops.",
							   NULL,
							   &ec_guc_wait_point, "", PGC_USERSET, 0,
							   NULL, NULL, NULL);
#endif
	MarkGUCPrefixReserved("echocache");
	refuse_malformed(wanted);
}
