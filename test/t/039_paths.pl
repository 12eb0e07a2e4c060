# No path is trusted: what the owner of a database plants in every schema that could be
# searched (operators, functions, aggregates, types, tables that are called like those
# which the extension uses) is never found by it, whatever a superuser or the worker does;
# and what she sets for her database does not keep the worker from its work.
#
# Whatever of hers runs says so in the server's log, which also has what is rolled back.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# The types that the extension uses, and those that they are coerced to.
my @types = map { "pg_catalog.$_" } qw(text name varchar bpchar "char" oid regclass regproc regtype int2 int4 int8 float8
	bool xid json jsonb timestamptz interval bytea uuid _text _name _oid _regclass _int8 anyelement anyarray);
my @operators = qw(= <> < > <= >= || -> ->> ~ ~~);
my @functions = qw(count min max array_agg string_agg json_agg make_interval row_to_json to_json to_jsonb json_typeof
	json_populate_record json_build_object unnest coalesce format_type hashtext lower length now set_config current_setting
	quote_ident text name oid int4 int8 json jsonb bool regclass timestamptz interval pg_lock_status pg_prepared_xact
	servers stats latency latency_buckets warming echocache_check_version echocache_check_install echocache_get echocache_attach echocache_detach);
my @triggers = qw(echocache_row_trigger echocache_truncate_trigger echocache_dependent_trigger document_trigger);
my @tables = qw(pg_locks pg_prepared_xacts pg_class pg_extension pg_trigger document dependent outbox
	echocache_servers echocache_documents echocache_stats echocache_latency echocache_latency_buckets);
my @domains = qw(text name oid int4 int8 bool json jsonb regclass timestamptz interval xid record);
# Where: "$user" of a superuser, what everybody has, one of her own, the extension's own.
my @schemas = qw(postgres public evil ext);

my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached], conf => <<'CONF');
max_prepared_transactions = 10
max_worker_processes = 20
log_statement = none
# frozen, it is DOWN soon
echocache.timeout = '1s'
CONF
my $trusted = '-c search_path=pg_catalog,pg_temp -c role=none -c statement_timeout=0 -c lock_timeout=0'
  . ' -c synchronous_commit=on -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0 -c local_preload_libraries= -c default_transaction_read_only=off -c default_transaction_isolation=read\ committed'
  . ' -c default_transaction_deferrable=off -c exit_on_error=off -c row_security=on -c client_encoding=utf8'
  . ($node->pg_version >= 17 ? ' -c transaction_timeout=0 -c restrict_nonsystem_relation_kind=' : '')
  # a parallel worker begins with the database's own settings, a transaction_timeout among them
  . ' -c max_parallel_workers_per_gather=0';

# A session of a superuser that finds nothing of hers, to look and to prepare.
sub trusted
{
	local $ENV{PGOPTIONS} = $trusted;
	return session($node, dbname => $_[0]);
}

my $s = trusted('postgres');
$s->run(q{CREATE ROLE mallory LOGIN; CREATE DATABASE planted OWNER mallory});

# Those lines of the log, from here on, that say that something of hers has run.
my $looked = 0;
sub ran
{
	my $log = slurp_file($node->logfile, $looked);
	my %ran = map { $_ => 1 } $log =~ /PLANTED: (.*)/g;

	$looked = -s $node->logfile;
	return join "\n", sort keys %ran;
}

sub plant
{
	my ($schema) = @_;
	my @sql = ("CREATE SCHEMA IF NOT EXISTS $schema");
	my $n = 0;
	my $create = sub {
		my ($name, $arguments, $returns, $return) = @_;

		return "CREATE FUNCTION $schema.$name($arguments) RETURNS $returns LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS "
		  . "\$\$BEGIN RAISE LOG 'PLANTED: $schema.$name($arguments) as %', current_user; RETURN $return; END\$\$";
	};

	for my $left (@types)
	{
		for my $right (@types)
		{
			push @sql, $create->('op' . ++$n, "$left, $right", 'pg_catalog.bool', 'true'),
			  map { "CREATE OPERATOR $schema.$_ (LEFTARG = $left, RIGHTARG = $right, FUNCTION = $schema.op$n)" } @operators;
		}
	}
	# In the extension's own schema, not what it makes itself: that would be an error.
	my $is_own = $schema =~ /^(?:public|ext)$/;
	for my $name (@functions)
	{
		my $quoted = qq("$name");
		my @arguments = $is_own && $name =~ /^echocache/ ? ('anyelement', 'VARIADIC pg_catalog._int2')
		  : ('secs pg_catalog.float8', 'VARIADIC pg_catalog._int2', 'anyelement, pg_catalog.text', 'pg_catalog.text, pg_catalog.text',
			'anyelement, pg_catalog.json', $name eq 'count' ? () : '', grep { !/(?<!_)float8/ } @types);

		push @sql, map { $create->($quoted, $_, 'pg_catalog.text', q{'x'}) } @arguments;
	}
	push @sql, $create->('state', 'pg_catalog.bool', 'pg_catalog.bool', 'true'),
	  "CREATE AGGREGATE $schema.count(*) (SFUNC = $schema.state, STYPE = pg_catalog.bool, INITCOND = 'f')";
	push @sql, map { $create->($_, '', 'pg_catalog.trigger', 'NULL') } $is_own ? () : @triggers;
	push @sql, "CREATE FUNCTION $schema.rows(what pg_catalog.text) RETURNS pg_catalog.bool LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS "
	  . "\$\$BEGIN RAISE LOG 'PLANTED: $schema.% as %', what, current_user; RETURN true; END\$\$",
	  (map { "CREATE VIEW $schema.$_ AS SELECT $schema.rows('$_') AS x" } grep { !$is_own || !/^echocache/ } @tables),
	  map { "CREATE DOMAIN $schema.$_ AS pg_catalog.text CHECK ($schema.rows('type $_'))" } @domains;
	return join '', map { "$_;\n" } @sql;
}

my $planted = PostgreSQL::Test::Utils::tempdir() . '/planted.sql';
append_to_file($planted, "SET search_path = pg_catalog, pg_temp; SET client_min_messages = error; BEGIN;\n" . join('', map { plant($_) } @schemas)
	. join('', map { "GRANT USAGE ON SCHEMA $_ TO PUBLIC;\n" } @schemas) . 'COMMIT');
my $seconds = seconds(sub {
	$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $planted, $node->connstr('planted') . ' user=mallory' ],
		'the owner of a database may plant all of it');
});
note "planted in $seconds s";
my $mallory = session($node, dbname => 'planted', user => 'mallory');
$mallory->run('ALTER DATABASE planted SET search_path = evil, "$user", public, ext, pg_catalog');
cmp_ok($s->run(q{SELECT setting FROM pg_db_role_setting, unnest(setconfig) setting WHERE setting ~ 'search_path'}), 'ne', '', 'and have it searched');
$mallory->quit;

#
# That it would be found: in a superuser's own statements it is.
#
my $victim = session($node, dbname => 'planted');
for my $sql (q{SELECT 'a'::pg_catalog.text = 'a'::pg_catalog.text}, q{SELECT count(*)}, q{SELECT now()}, q{SELECT * FROM pg_locks},
	q{SELECT 'a'::text}, q{SELECT 1::pg_catalog.oid = 1::pg_catalog.oid})
{
	$victim->attempt($sql);
	like(ran(), qr/^evil\..* as postgres$/m, "found: $sql");
}
$victim->run('SET search_path = "$user", public, ext');
$victim->attempt(q{SELECT 1::pg_catalog.oid = 'pg_class'::pg_catalog.regclass});
like(ran(), qr/^postgres\..* as postgres$/m, 'an operator that fits better than that of pg_catalog');
$victim->quit;

#
# Everything that a superuser does with the extension, in such a database.
#

# A value for each argument, by its type or else its name.
my %argument = (
	text => q{'1'::pg_catalog.text}, name => q{'id'::pg_catalog.name}, 'uuid' => q{'00000000-0000-0000-0000-000000000001'::pg_catalog.uuid},
	bigint => '1::pg_catalog.int8', 'text[]' => q{'{1}'::pg_catalog._text}, 'uuid[]' => q{'{00000000-0000-0000-0000-000000000001}'::pg_catalog._uuid},
	'bigint[]' => q{'{1}'::pg_catalog._int8}, anyelement => 'NULL::data.session', interval => q{'1 min'::pg_catalog.interval},
	'timestamp with time zone' => q{'infinity'::pg_catalog.timestamptz}, bytea => q{'\x00'::pg_catalog.bytea}, boolean => 'false',
	regclass => q{'data.free'::pg_catalog.regclass}, 'name[]' => q{'{}'::pg_catalog._name}, regproc => 'NULL::pg_catalog.regproc');
my %named = (
	'name text' => q{'made'::pg_catalog.text}, 'ids text' => q{'{1}'::pg_catalog.text}, 'ttl text' => q{'1 min'::pg_catalog.text}, 'key text' => q{'kv'::pg_catalog.text},
	'name new' => q{'new'::pg_catalog.text}, 'filter text' => 'NULL::pg_catalog.text', 'policy text' => q{'invalidate'::pg_catalog.text}, 'owner_column name' => 'NULL::pg_catalog.name');

# Statements that call each function of the extension once, as far as it is not a trigger's.
sub calls
{
	my ($look) = @_;
	my @calls;

	for my $line (split /\n/, $look->run(q{
		SELECT p.pronamespace::regnamespace || '.' || p.proname || '|' ||
			coalesce((SELECT string_agg(coalesce(p.proargnames[n], '') || ' ' || format_type(t, NULL), ';' ORDER BY n)
				FROM unnest(p.proargtypes) WITH ORDINALITY a(t, n)), '')
		FROM pg_extension e JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
			JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
		WHERE e.extname = 'echocache' AND p.prorettype <> 'trigger'::regtype AND p.proname !~ 'detach|attach_dependent'
		ORDER BY p.proname = 'echocache_flush_all', 1}))
	{
		my ($name, $arguments) = split /\|/, $line;

		$arguments =~ s/name text/name new/ if $name =~ /_attach$/;
		push @calls, "SELECT * FROM $name(" . join(', ', map {
			$named{$_} // $argument{ s/^\S* //r } // die "no value for argument $_ of $name" } split /;/, $arguments // '') . ')';
	}
	return @calls;
}

sub exercise
{
	my ($db, $schema, $path) = @_;
	my $look = trusted($db);
	my $all = "$db, the extension in $schema";
	my $state = sub {
		my ($state) = @_;

		wait_for("state $state", sub {
			return $look->run("SELECT bool_and(state OPERATOR(pg_catalog.=) '$state') FROM $schema.echocache_servers") eq 't';
		});
		return;
	};
	my $victim;
	my $do = sub { return map { $victim->run($_) } @_ };
	# Statements, and what they are; nothing of hers may have run.
	my $is_safe = sub { is(ran(), '', "$all: $_[0]"); return; };

	ran();
	$victim = session($node, dbname => $db);
	$victim->run("SET search_path = $path") if defined $path;
	ran();	# psql's own
	# Types and tables in pg_temp, first for both whatever the path: hers by SET ROLE.
	$do->('SET ROLE mallory',
		(map { "CREATE DOMAIN pg_temp.$_ AS pg_catalog.text CHECK (evil.rows('type pg_temp.$_'))" } @domains),
		(map { "CREATE TEMP VIEW $_ AS SELECT evil.rows('pg_temp.$_') AS x" } @tables, 'session', 'made', 'part'), 'RESET ROLE');
	$do->("CREATE EXTENSION echocache SCHEMA $schema");
	$is_safe->('CREATE EXTENSION');
	$state->('UP');
	$is_safe->('the worker starts');

	$look->run(q{CREATE SCHEMA data;
		CREATE TABLE data.session (id int PRIMARY KEY, owner text, title text, at timestamptz DEFAULT now());
		CREATE TABLE data.made (id text PRIMARY KEY, owner text);
		CREATE TABLE data.part (made text, body text);
		CREATE TABLE data.free (id text PRIMARY KEY);
		CREATE TABLE data.tree (id bigint PRIMARY KEY, n int) PARTITION BY HASH (id);
		CREATE TABLE data.tree0 PARTITION OF data.tree FOR VALUES WITH (MODULUS 2, REMAINDER 0);
		CREATE TABLE data.tree1 PARTITION OF data.tree FOR VALUES WITH (MODULUS 2, REMAINDER 1);
		CREATE FUNCTION data.make(m data.made) RETURNS json LANGUAGE sql STABLE AS $$
			SELECT json_build_object('id', m.id, 'owner', m.owner, 'parts', (SELECT count(*) FROM data.part p WHERE p.made = m.id)) $$});
	ran();
	$do->("SELECT $schema.echocache_attach('data.session', owner_column => 'owner', exclude => '{at}', ttl => '1 hour',
			filter => 'title OPERATOR(pg_catalog.<>) ''gone'' AND pg_catalog.length(title) OPERATOR(pg_catalog.>) 0')",
		"SELECT $schema.echocache_attach('data.made', 'made', owner_column => 'owner', document => 'data.make')",
		"SELECT $schema.echocache_attach_dependent('data.part', 'made', 'made')",
		"SELECT $schema.echocache_attach('data.tree', 'tree', policy => 'invalidate')");
	$is_safe->('attach');
	$do->(q{INSERT INTO data.session VALUES (1, '1', 'one'), (2, '2', 'gone')}, q{INSERT INTO data.made VALUES ('1', '1'), ('2', '2')},
		q{INSERT INTO data.part VALUES ('1', 'a')}, q{UPDATE data.session SET title = 'two'}, q{DELETE FROM data.made},
		q{INSERT INTO data.made VALUES ('1', '1')}, q{INSERT INTO data.tree VALUES (1, 1), (2, 2)}, q{UPDATE data.tree SET n = NULL},
		'BEGIN', 'SAVEPOINT a', 'TRUNCATE data.part', 'ROLLBACK TO a', q{UPDATE data.part SET body = 'b'}, 'COMMIT');
	$is_safe->('writes and commits');
	holds($memcached, "$db/session:2", '{"id":2,"owner":"2","title":"two"}', 'which have been written through');
	$do->("SELECT $schema.echocache_invalidate('session', 1)", "SELECT $schema.echocache_get('session', 1)", "SELECT $schema.echocache_get('session', 1)",
		"SELECT $schema.echocache_invalidate('made', '1')", "SELECT $schema.echocache_get('made', '1', '1')", "SELECT $schema.echocache_get('made', '1', '1')",
		"SELECT $schema.echocache_get('session', 9)");
	holds($memcached, "$db/made:1", '{"id" : "1", "owner" : "1", "parts" : 1}', 'a document that a function has made');
	$is_safe->('fills and hits');

	my @calls = calls($look);
	my @failed;
	ran();
	for my $call (@calls)
	{
		push @failed, "$call: " . $victim->messages unless defined $victim->attempt($call);
		is(ran(), '', "$all: $call");
	}
	cmp_ok(scalar @calls, '>', 100, 'calls of functions');
	is(join("\n", grep { !/22P02: (?:the value of cache key|invalid input syntax for type integer)/ } map { s/\n.*//sr } @failed), '',
		'all of which do what they are for, but for ids of another type');
	$do->("SELECT * FROM $schema.$_") for 'echocache_report()', 'echocache_servers', 'echocache_documents', 'echocache_stats', 'echocache_latency', 'echocache_latency_buckets', 'echocache_memory';
	$do->("SELECT dependents, ttl, relation FROM $schema.echocache_documents");
	$is_safe->('the views');
	$memcached->set("$db/session:1", '{"id":1,"owner":"1","title":"older"}');
	is(join('', $do->("SELECT stale FROM $schema.echocache_verify('session')")), 1, 'verify, of a document that is stale');
	# this one has no filter, and columns of simple types
	$do->("SELECT $schema.echocache_get('tree', 1)", "SELECT * FROM $schema.echocache_get_many('tree', '{1,2}'::pg_catalog._int8)",
		"SELECT * FROM $schema.echocache_get_row(NULL::data.tree, 1)");
	$memcached->set("$db/tree:1", '{"id":1,"n":7}');
	is(join('', $do->("SELECT stale FROM $schema.echocache_verify('tree')")), 1, 'and of another');
	$memcached->set("$db/tree:1", '{"id":1,"n":{}}');
	$do->("SELECT * FROM $schema.echocache_get_row(NULL::data.tree, 1)");
	$do->("SELECT $schema.echocache_warm('session')", "SELECT $schema.echocache_purge('session')", "SELECT $schema.echocache_warm('tree')", "SELECT $schema.echocache_purge('tree')");
	$is_safe->('verify, warm and purge');
	$do->('ALTER TABLE data.session RENAME title TO heading', 'ALTER TABLE data.session RENAME TO sessions', 'ALTER TABLE data.sessions RENAME TO session',
		'ALTER TABLE data.session ADD more pg_catalog.text', 'ALTER TABLE data.session ALTER owner TYPE pg_catalog.varchar',
		'CREATE TABLE data.leaf (id bigint PRIMARY KEY, n int)', 'ALTER TABLE data.tree DETACH PARTITION data.tree1', 'DROP TABLE data.leaf',
		'CREATE INDEX ON data.session (heading)', 'ALTER TABLE data.session DISABLE TRIGGER echocache_row_session',
		'ALTER TABLE data.session ENABLE ALWAYS TRIGGER echocache_row_session');
	$is_safe->('DDL');

	#
	# The worker, with rows in the outbox, and a prepared transaction that holds it up.
	#
	$memcached->stop;
	$do->('BEGIN', q{UPDATE data.tree SET n = 3}, "PREPARE TRANSACTION 'held'");
	# more keys than that in one transaction are one row
	$do->("INSERT INTO data.session SELECT i, '1', 'many' FROM pg_catalog.generate_series(${_}001, ${_}999) i") for 1 .. 11;
	$state->('DOWN');
	eventually("$all: many rows become few", sub { return $look->run("SELECT waiting FROM $schema.echocache_servers") < 100; });
	$do->("SELECT $schema.echocache_get('session', 1)", "SELECT $schema.echocache_is_available()", "SELECT * FROM $schema.echocache_health()",
		"SELECT $schema.echocache_purge('session')");
	$is_safe->('with a server DOWN');
	$memcached->start;
	eventually("$all: the worker looks for who holds it up", sub {
		return $look->run("SELECT last_error ~ 'held' FROM $schema.echocache_servers") eq 't';
	});
	$do->("COMMIT PREPARED 'held'");
	$state->('UP');
	is($look->run("SELECT sum(waiting) FROM $schema.echocache_servers"), 0, "$all: the outbox is cleared");
	$is_safe->('the worker');

	my $file = PostgreSQL::Test::Utils::tempdir() . "/$db.sql";
	$node->command_ok([ 'pg_dump', '-f', $file, $node->connstr($db) ], "$all: pg_dump");
	$is_safe->('pg_dump');
	$do->("SELECT $schema.echocache_detach_dependent('data.part', 'made')", "SELECT $schema.echocache_detach('tree')", 'DROP TABLE data.made CASCADE', 'DROP EXTENSION echocache');
	$is_safe->('detach and DROP EXTENSION');
	$_->quit for $look, $victim;
	return;
}

# With her schemas before all others; and with pg_catalog first, where only what fits better is found.
$s->run(qq{CREATE DATABASE $_ TEMPLATE planted OWNER mallory; ALTER DATABASE $_ SET echocache.key_prefix = '$_/'}) for 'first', 'fitting';
$s->run('ALTER DATABASE first SET search_path = evil, "$user", public, ext, pg_catalog');
exercise('first', 'public');
exercise('fitting', 'ext', '"$user", public, ext, evil');

#
# A type whose operators are in a schema where she may create: what fits a domain over it
# better than they do.
#
SKIP: {
	skip 'no citext', 3 unless $s->run(q{SELECT count(*) FROM pg_available_extensions WHERE name = 'citext'});
	$s->run(q{CREATE DATABASE domains; ALTER DATABASE domains SET echocache.key_prefix = 'domains/'});
	my $d = trusted('domains');
	$d->run(q{CREATE EXTENSION echocache SCHEMA public; CREATE EXTENSION citext SCHEMA public; GRANT CREATE ON SCHEMA public TO mallory;
		CREATE SCHEMA data; GRANT USAGE ON SCHEMA data TO mallory;
		CREATE DOMAIN data.key AS public.citext; CREATE TABLE data.keyed (id data.key PRIMARY KEY, t text); INSERT INTO data.keyed VALUES ('a', 'A'), ('b', 'B')});
	my $m = session($node, dbname => 'domains', user => 'mallory');
	$m->run(q{SET search_path = pg_catalog; CREATE FUNCTION public.domains(data.key, data.key) RETURNS bool LANGUAGE plpgsql AS
		$$BEGIN RAISE LOG 'PLANTED: operator on a domain as %', current_user; RETURN true; END$$});
	$m->run("SET search_path = pg_catalog; CREATE OPERATOR public.$_ (LEFTARG = data.key, RIGHTARG = data.key, FUNCTION = public.domains)") for qw(= < > <= >=);
	$m->quit;
	my $wait = sub { wait_for('UP', sub { return $d->run('SELECT public.echocache_is_available()') eq 't' }) };
	$wait->();
	ran();
	$d->run(q{SELECT public.echocache_attach('data.keyed', 'keyed')});
	is($d->run(q{SELECT public.echocache_get('keyed', 'a')}), '{"id":"a","t":"A"}', 'a document by a key of such a domain');
	is($d->run(q{SELECT document FROM public.echocache_get_many('keyed', '{b}'::text[])}), '{"id":"b","t":"B"}', 'by many of them');
	$d->run(q{UPDATE data.keyed SET t = 'x'; SELECT public.echocache_purge('keyed'); SELECT public.echocache_warm('keyed'); SELECT public.echocache_verify('keyed')});
	is(ran(), '', 'and her operator has not run');
	$d->quit;
}

#
# What she can set for her database, all of it at once.  The worker does its work.
#
$s->run(q{CREATE DATABASE hers OWNER mallory; ALTER DATABASE hers SET echocache.key_prefix = 'hers/'});
my @settings = ('role = mallory', 'session_authorization = mallory', 'search_path = evil, pg_temp', 'default_transaction_read_only = on',
	'default_transaction_isolation = serializable', 'default_transaction_deferrable = on', 'row_security = off', 'statement_timeout = 1',
	'lock_timeout = 1', 'idle_in_transaction_session_timeout = 1', 'idle_session_timeout = 1', 'synchronous_commit = off', 'exit_on_error = on',
	($node->pg_version >= 17 ? ('transaction_timeout = 1', q{restrict_nonsystem_relation_kind = 'view, foreign-table'}) : ()),
	($node->pg_version >= 16 ? 'debug_parallel_query' : 'force_parallel_mode') . ' = on', 'enable_seqscan = off', 'transform_null_equals = on',
	'standard_conforming_strings = off', q{DateStyle = 'SQL, DMY'}, 'client_min_messages = error', 'work_mem = 64', 'temp_buffers = 100',
	q{local_preload_libraries = 'nosuch'}, 'transaction_read_only = on', 'transaction_isolation = serializable');
my @refused = ('session_replication_role = replica', 'echocache.key_prefix = x', q{log_statement = 'all'}, q{session_preload_libraries = 'x'},
	'echocache.enabled = off', 'echocache.wait_point_of_mine = x', 'ignore_checksum_failure = on');
my $owner = session($node, user => 'mallory');
for my $setting (@settings)
{
	my $error = $owner->error("ALTER DATABASE hers SET $setting");

	ok($error eq 'no error' || $error =~ /^(?:42501|0A000|22023|55P02|25001)/, "ALTER DATABASE ... SET $setting: " . (split /\n/, $error)[0]);
}
like($owner->error("ALTER DATABASE hers SET $_"), qr/^(?:42501|55P02|42602)/, "is refused: ALTER DATABASE ... SET $_") for @refused;
$owner->quit;
my $h = trusted('hers');
$h->run('SET SESSION AUTHORIZATION postgres');
is($h->run('SELECT current_user, session_user'), 'postgres|postgres', 'a session that looks');
$h->run(q{CREATE EXTENSION echocache SCHEMA public; CREATE SCHEMA data; CREATE TABLE data.session (id int PRIMARY KEY, title text);
	SELECT public.echocache_attach('data.session')});
my $is = sub {
	my ($sql, $value, $name) = @_;

	return eventually($name, sub { return ($h->run("$sql FROM public.echocache_servers") // '') eq $value; });
};
$is->('SELECT bool_and(state = \'UP\')', 't', 'the worker starts with all of that, and the server is UP');
$memcached->stop;
$h->run(q{BEGIN; INSERT INTO data.session VALUES (1, 'one'); PREPARE TRANSACTION 'hers'});
$h->run(q{INSERT INTO data.session SELECT i, 'many' FROM generate_series(}. $_ . '001, ' . $_ . '999) i') for 1 .. 11;
$is->('SELECT sum(waiting) < 100', 't', 'rows of the outbox are collapsed');
$memcached->start;
$is->(q{SELECT last_error ~ 'hers'}, 't', 'who holds the worker up is found');
$h->run(q{COMMIT PREPARED 'hers'});
$is->(q{SELECT bool_and(state = 'UP') AND sum(waiting) = 0}, 't', 'the server is UP, and the outbox is cleared');
$h->run(q{INSERT INTO data.session VALUES (2, 'two')});
holds($memcached, 'hers/session:2', '{"id":2,"title":"two"}', 'documents are cached');
# A worker that is at work while its extension is dropped ends in just that error.
my $all = slurp_file($node->logfile) =~ s/\[(\d+)\] ERROR:  extension "echocache" is not installed in this database(.*?echocache worker" \(PID \1\)) exited with exit code 1/$2/gsr;
unlike($all, qr/PANIC|TRAP:|was terminated by signal|echocache worker.*exited with exit code 1/, 'and nothing has crashed, nor ended in an error');

done_testing();
