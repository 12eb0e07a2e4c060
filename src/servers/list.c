/*-------------------------------------------------------------------------
 *
 * list.c
 *	  The list of servers that the settings and the resolver make.
 *
 * An entry of echocache.hosts is one server.  One that begins with dns+ is a name each address of
 * which is a server, with that address for a name: as such a plain client places keys on it, and
 * as such it is the same server in another list.  As long as the name has never been looked up, a
 * server without an address stands for it, which is DOWN.
 *
 * Invariant: the list depends on the settings and the set of a name's addresses, in whatever
 * order a resolver gives them; it is never empty, and no name is in it twice.
 *
 * Copyright (c) 2026, echocache developers
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "port/atomics.h"

#include "servers/address.h"
#include "servers/list.h"

static void begin_server(EcServer *s, const EcHost *h);
static bool is_named_in_settings(const char *name);
static int	add_found(EcServer *servers, int n, int max, const EcHost *h, const EcServer *known,
					  int nknown);

/* What a server is called; name has room for EC_SERVER_NAME_MAX. */
void
ec_list_name(char *name, const EcHost *h)
{
	if (h->port == 0)
		strlcpy(name, h->host, EC_SERVER_NAME_MAX);
	else if (strchr(h->host, ':'))
		snprintf(name, EC_SERVER_NAME_MAX, "[%s]:%d", h->host, h->port);
	else
		snprintf(name, EC_SERVER_NAME_MAX, "%s%s:%d", h->discover ? "dns+" : "", h->host, h->port);
}

/* Begin a server by an entry, without an address. */
static void
begin_server(EcServer *s, const EcHost *h)
{
	memset(s, 0, sizeof(EcServer));
	ec_list_name(s->name, h);
	strlcpy(s->host, h->host, sizeof(s->host));
	s->port = h->port;
	s->weight = h->weight;
	pg_atomic_init_u32(&s->connections, 0);
	pg_atomic_init_u32(&s->kept, 0);
	pg_atomic_init_u64(&s->item_max, 0);
	pg_atomic_init_u32(&s->room_wanted, 0);
	pg_atomic_init_u64(&s->slow, 0);
	pg_atomic_init_u64(&s->told_old, 0);
	pg_atomic_init_u64(&s->prepared_logged, 0);
	pg_atomic_init_u32(&s->told, EC_RECOVERING);
	pg_atomic_init_u32(&s->untold, 0);
	pg_atomic_init_u64(&s->removed, 0);
	for (int state = 0; state <= EC_UP; state++)
		pg_atomic_init_u64(&s->told_at[state], 0);
}

/* The server of this name; NULL: there is none. */
const EcServer *
ec_list_find(const EcServer *servers, int n, const char *name)
{
	for (int i = 0; i < n; i++)
		if (strcmp(servers[i].name, name) == 0)
			return &servers[i];
	return NULL;
}

/* Have both the same name, and by the same entry? */
bool
ec_list_is_same(const EcServer *a, const EcServer *b)
{
	return strcmp(a->name, b->name) == 0 && strcmp(a->found_by, b->found_by) == 0;
}

/* Is this the server at an address of the entry's name? */
bool
ec_list_is_found(const EcServer *s, const EcHost *h)
{
	return h->discover && s->port == h->port && s->naddresses > 0 &&
		strcmp(s->found_by, h->host) == 0;
}

/*
 * Why a standby cannot know which keys its primary has on this server, and by which address; NULL:
 * it does.  What one resolver finds another one need not.
 */
const char *
ec_list_unsure(const EcServer *servers, int n, int server)
{
	for (int i = 0; i < n; i++)
		if (servers[i].found_by[0] != '\0')
			return "which servers its primary has found is not known";
	return servers[server].naddresses > 1 ? "which of its addresses is in use is not known" : NULL;
}

/* The server at an address of the entry's name. */
void
ec_list_set_found(EcServer *s, const EcHost *h, const EcAddress *address)
{
	EcHost		at = {.port = h->port,.weight = h->weight};

	(void) ec_address_text(address, at.host);
	begin_server(s, &at);
	strlcpy(s->found_by, h->host, sizeof(s->found_by));
	s->address[0] = *address;
	s->naddresses = 1;
}

/* Is there an entry for one server of this name? */
static bool
is_named_in_settings(const char *name)
{
	for (int i = 0; i < ec_guc_host_list->n; i++)
	{
		char		other[EC_SERVER_NAME_MAX];

		ec_list_name(other, &ec_guc_host_list->host[i]);
		if (strcmp(name, other) == 0)
			return true;
	}
	return false;
}

/*
 * Add to the n servers those at the known addresses of the entry's name, up to max servers in
 * all.  One that has an entry of its own is that entry's.  Returns how many there are then.
 */
static int
add_found(EcServer *servers, int n, int max, const EcHost *h, const EcServer *known, int nknown)
{
	bool		any = false;

	for (int k = 0; k < nknown; k++)
	{
		if (!ec_list_is_found(&known[k], h))
			continue;
		any = true;
		if (n < max && !is_named_in_settings(known[k].name) &&
			ec_list_find(servers, n, known[k].name) == NULL)
			ec_list_set_found(&servers[n++], h, &known[k].address[0]);
	}
	if (!any)
	{
		begin_server(&servers[n], h);
		strlcpy(servers[n++].found_by, h->host, EC_HOST_MAX);
	}
	return n;
}

/*
 * Make the list of servers; returns how many there are, from 1 to EC_MAX_SERVERS.  What names
 * have for addresses is what the known servers have; one that needs no resolver has its own.
 * Never throws, and asks nobody.
 */
int
ec_list_make(EcServer *servers, const EcServer *known, int nknown)
{
	int			entries = ec_guc_host_list->n;
	int			n = 0;

	for (int e = 0; e < entries; e++)
	{
		const EcHost *h = &ec_guc_host_list->host[e];
		EcServer   *s = &servers[n];
		const EcServer *k;

		if (h->discover)
		{
			/* each entry that is still to come has room for one */
			n = add_found(servers, n, EC_MAX_SERVERS - (entries - e - 1), h, known, nknown);
			continue;
		}
		begin_server(s, h);
		s->named = !ec_address_set_fixed(s);
		k = s->named ? ec_list_find(known, nknown, s->name) : NULL;
		if (k != NULL)
		{
			s->naddresses = k->naddresses;
			memcpy(s->address, k->address, sizeof(s->address));
		}
		n++;
	}
	return n;
}
