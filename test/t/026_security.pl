# Nobody sees, or does, through the extension what SQL would not let him: every
# object of it, as each kind of role; rights that go; row-level security; code that
# is planted by readers for the owner, or by the owner for readers; settings; keys;
# and a memcached that lies.
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

#
# Who may what.  A new object has to be entered here, or the test fails.  Functions
# are entered once for all that have the name.
#
#	all			everybody
#	reads		everybody who may SELECT what the document shows; @readers has the details
#	owner		everybody on tables of his
#	trigger		everybody, on tables of his; it is for triggers only
#	monitor		pg_monitor
#	granted		superusers and whoever is granted EXECUTE
#	superuser	superusers, whatever is granted
#	nobody		superusers, and it is not for them either
#
my %objects = (
	'extension echocache' => 'all',
	'schema echocache' => 'monitor',
	'table echocache.document' => 'nobody',
	'table echocache.dependent' => 'nobody',
	'table echocache.outbox' => 'nobody',
	'view echocache_documents' => 'monitor',
	'view echocache_servers' => 'monitor',
	'view echocache_stats' => 'monitor',
	'view echocache_latency' => 'monitor',
	'view echocache_latency_buckets' => 'monitor',
	'view echocache_memory' => 'monitor',
	'function echocache_get' => 'reads',
	'function echocache_get_session' => 'reads',
	'function echocache_get_many' => 'reads',
	'function echocache_get_sessions' => 'reads',
	'function echocache_get_row' => 'reads',
	'function echocache_touch' => 'reads',
	'function echocache_touch_session' => 'reads',
	'function echocache_invalidate' => 'reads',
	'function echocache_invalidate_session' => 'reads',
	'function echocache_refresh' => 'reads',
	'function echocache_refresh_session' => 'reads',
	'function echocache_is_available' => 'all',
	'function echocache_attach' => 'owner',
	'function echocache_attach_dependent' => 'owner',
	'function echocache_detach' => 'owner',
	'function echocache_detach_dependent' => 'owner',
	'function echocache_row_trigger' => 'trigger',
	'function echocache_truncate_trigger' => 'trigger',
	'function echocache_dependent_trigger' => 'trigger',
	'function echocache.document_trigger' => 'nobody',
	'function echocache.replication_trigger' => 'nobody',
	'function echocache_health' => 'monitor',
	'function echocache_report' => 'monitor',
	'function echocache.servers' => 'monitor',
	'function echocache.stats' => 'monitor',
	'function echocache.latency' => 'monitor',
	'function echocache.latency_buckets' => 'monitor',
	'function echocache.memory' => 'monitor',
	'function echocache.suspended' => 'monitor',
	'function echocache.warming' => 'monitor',
	'function echocache_warm' => 'granted',
	'function echocache_purge' => 'granted',
	'function echocache_verify' => 'granted',
	'function echocache_connect' => 'granted',
	'function echocache_disconnect' => 'granted',
	'function echocache_stats_reset' => 'granted',
	'function echocache_flush_all' => 'superuser',
	(map { ("function echocache_kv_$_" => 'granted') } qw(get get_bytea gets gets_bytea get_multi get_multi_bytea
		get_and_touch get_and_touch_bytea set add replace append prepend cas touch delete incr decr stats)));

# What a role has on the tables, and what 'reads' say to it for a document that is a row,
# and for one that a function makes: undef is the document.  Always what SQL says.
my @readers = (
	[ 'nobody', 'nothing but USAGE on the schema', 'table', 'table' ],
	[ 'outside', 'all but USAGE on the schema', 'schema', 'schema' ],
	[ 'partial', 'SELECT on some of the columns, and EXECUTE', 'table', 'table' ],
	[ 'columns', 'SELECT on the columns that are shown, and no EXECUTE', undef, 'function' ],
	[ 'reader', 'SELECT on the tables, and EXECUTE', undef, undef ],
	[ 'monitor', 'pg_monitor', 'table', 'table' ],
	[ 'writer', 'INSERT, UPDATE, DELETE and TRUNCATE', 'table', 'table' ]);

# Who can set a setting, and is it hidden from those who are not members of pg_read_all_settings?
my %settings = (
	(map { ("echocache.$_" => 'sighup') } qw(enabled hosts ttl fallback flush_on_start pool_size timeout retry_interval marker_ttl lease
		fill_wait build_timeout audit_rate commit_timeout max_write_through tls tls_ca_file tls_cert_file tls_key_file tls_verify)),
	(map { ("echocache.$_" => 'sighup, hidden') } qw(username password password_file)),
	'echocache.local_memory' => 'postmaster',
	'echocache.key_prefix' => 'superuser',
	'echocache.wait_point' => 'user');	# test builds only

# Every kind of attacker, by what it has.  It may call what all may ('all', 'reads', 'owner' and
# 'trigger', which look themselves), and the functions of this kind besides; see the secret
# settings, or not; and owns a database.
my @attackers = (
	{ role => 'bare', has => 'nothing', with => '' },
	{ role => 'creator', has => 'CREATE on a schema', with => '', sql => 'GRANT CREATE, USAGE ON SCHEMA planted TO creator' },
	{ role => 'landlord', has => 'a database without the extension', with => '', database => 'vacant' },
	{ role => 'owning', has => 'a database with it', with => '', database => 'owned' },
	{ role => 'createdb', has => 'CREATEDB', with => 'CREATEDB' },
	{ role => 'createrole', has => 'CREATEROLE', with => 'CREATEROLE' },
	{ role => 'replicator', has => 'REPLICATION', with => 'REPLICATION' },
	{ role => 'signaller', has => 'pg_signal_backend', with => 'IN ROLE pg_signal_backend' },
	{ role => 'watcher', has => 'pg_monitor', with => 'IN ROLE pg_monitor', calls => 'monitor', settings => 1 },
	{ role => 'auditor', has => 'pg_read_all_settings', with => 'IN ROLE pg_read_all_settings', settings => 1 });

my $password = 'correct-horse-battery';
my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached], conf => <<"CONF");
echocache.username = 'us'
echocache.password = '$password'
echocache.password_file = ''
log_statement = none
CONF
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE ROLE owner LOGIN; CREATE ROLE bypass LOGIN BYPASSRLS; CREATE ROLE granted LOGIN;
	CREATE ROLE nobody LOGIN; CREATE ROLE outside LOGIN; CREATE ROLE partial LOGIN; CREATE ROLE columns LOGIN;
	CREATE ROLE reader LOGIN; CREATE ROLE writer LOGIN; CREATE ROLE monitor LOGIN IN ROLE pg_monitor; CREATE ROLE other LOGIN;
	CREATE SCHEMA app AUTHORIZATION owner;
	CREATE SCHEMA other AUTHORIZATION other;
	CREATE SCHEMA planted AUTHORIZATION reader;
	GRANT USAGE ON SCHEMA planted TO PUBLIC;
	GRANT USAGE ON SCHEMA app TO nobody, partial, columns, reader, writer, monitor, bypass, other, granted;

	-- what a statement does: its rows, or its error
	CREATE SCHEMA test;
	GRANT USAGE ON SCHEMA test TO PUBLIC;
	CREATE FUNCTION test.outcome(sql text) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		result text;
	BEGIN
		EXECUTE 'SELECT string_agg(r::text, '' '') FROM (' || sql || ') r' INTO result;
		RETURN coalesce(result, 'no row');
	EXCEPTION WHEN OTHERS THEN
		RETURN SQLSTATE || ': ' || SQLERRM;
	END $$});
wait_state($s, 'UP');

my %as = map { $_ => session($node, user => $_) }
  qw(owner bypass granted nobody outside partial columns reader writer monitor other);

$as{owner}->run(q{
	CREATE TABLE app.session (id text PRIMARY KEY, owner text, title text, secret text);
	CREATE TABLE app.made (id text PRIMARY KEY, owner text, note text);
	CREATE TABLE app.part (made text, body text);
	CREATE TABLE app.free (id text PRIMARY KEY);
	CREATE FUNCTION app.make(m app.made) RETURNS json LANGUAGE sql STABLE AS $$
		SELECT json_build_object('id', m.id, 'owner', m.owner, 'parts', (SELECT string_agg(body, ',' ORDER BY body) FROM app.part p WHERE p.made = m.id)) $$;
	REVOKE EXECUTE ON FUNCTION app.make FROM PUBLIC;
	SELECT echocache_attach('app.session', owner_column => 'owner', exclude => '{secret}', filter => $$title <> 'gone'$$);
	SELECT echocache_attach('app.made', 'made', owner_column => 'owner', document => 'app.make');
	SELECT echocache_attach_dependent('app.part', 'made', 'made');
	GRANT SELECT ON app.session, app.made TO outside, reader, bypass;
	GRANT EXECUTE ON FUNCTION app.make TO outside, reader, partial, nobody, bypass;
	GRANT SELECT (id) ON app.session, app.made TO partial;
	GRANT SELECT (id, owner, title) ON app.session TO columns;
	GRANT SELECT ON app.made TO columns;
	GRANT INSERT, UPDATE, DELETE, TRUNCATE ON app.session, app.made, app.part TO writer;
	INSERT INTO app.session VALUES ('1', '1', 'one', 'x'), ('2', '2', 'two', 'y'), ('3', '3', 'gone', 'z'),
		('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000001', 'uuid', 'u');
	INSERT INTO app.made SELECT id, owner, 'a note' FROM app.session;
	INSERT INTO app.part SELECT id, 'of ' || id FROM app.made});
my %document = (
	'session:1' => '{"id":"1","owner":"1","title":"one"}',
	'session:2' => '{"id":"2","owner":"2","title":"two"}',
	'made:1' => '{"id" : "1", "owner" : "1", "parts" : "of 1"}',
	'made:2' => '{"id" : "2", "owner" : "2", "parts" : "of 2"}');
holds($memcached, $_, $document{$_}, "$_ is cached") for sort keys %document;

# The outcomes of many statements as some role, in their order.
sub outcomes
{
	my ($user, @statements) = @_;
	my $session = ref $user ? $user : $as{$user};

	return map { s/\A\d+ //r } split /\n/, $session->run(
		"SELECT i || ' ' || replace(test.outcome(s), E'\\n', ' ') FROM unnest(ARRAY["
		. join(', ', map { "\$call\$$_\$call\$" } @statements) . ']) WITH ORDINALITY u(s, i) ORDER BY i');
}

sub outcome { return (outcomes(@_))[0]; }

# Test: all statements end like this for the role, in one line of TAP.
sub all_like
{
	my ($user, $statements, $pattern, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @outcomes = outcomes($user, @$statements);
	my @wrong = grep { $outcomes[$_] !~ $pattern } 0 .. $#outcomes;

	return ok(@outcomes == @$statements && !@wrong, "$name (" . @outcomes . ')')
	  || diag(join "\n", "not $pattern:", map { "$statements->[$_]: $outcomes[$_]" } @wrong);
}

# Have these documents cached, or none of them.
sub prepare
{
	my ($how) = @_;
	my $function = $how eq 'hit' ? 'refresh' : 'invalidate';

	$s->run("SELECT echocache_$function(name, id) FROM unnest('{session,made}'::text[]) name,
		unnest('{1,2,00000000-0000-0000-0000-000000000001}'::text[]) id");
	return;
}

#
# Every object.
#
my (%functions, %seen);
for my $line (split /\n/, $s->run(q{
	SELECT concat_ws('|', i.type, CASE WHEN p.oid IS NULL THEN regexp_replace(i.identity, '^public\.', '')
			ELSE regexp_replace(pronamespace::regnamespace || '.' || proname, '^public\.', '') END,
		p.oid::regprocedure,
		(SELECT string_agg(coalesce(p.proargnames[n], '') || ' ' || format_type(t, NULL), ';' ORDER BY n) FROM unnest(p.proargtypes) WITH ORDINALITY a(t, n)))
	FROM pg_extension e JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
		CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) i
		LEFT JOIN pg_proc p ON i.type = 'function' AND p.oid = d.objid
	WHERE e.extname = 'echocache' AND d.classid <> 'pg_type'::regclass -- of rows, from 17 on
	UNION ALL SELECT 'extension|echocache' ORDER BY 1}))
{
	my ($type, $name, $signature, $arguments) = split /\|/, $line;
	my $object = "$type $name";

	$seen{$object}++;
	push @{ $functions{$name} }, [ $signature, split /;/, $arguments // '' ] if $type eq 'function';
}
is_deeply([ sort keys %seen ], [ sort keys %objects ], 'every object of the extension has an expectation');

# A call of each overload, with something for each argument.
my %argument = (
	'id text' => q{'1'}, 'id uuid' => q{'00000000-0000-0000-0000-000000000001'::uuid}, 'id bigint' => '1::bigint',
	'ids text' => q{'{1,9}'::text}, 'ids text[]' => q{'{1}'::text[]}, 'ids uuid[]' => q{'{00000000-0000-0000-0000-000000000001}'::uuid[]},
	'ids bigint[]' => q{'{1}'::bigint[]},
	'owner text' => q{'1'::text}, 'owner uuid' => q{'00000000-0000-0000-0000-000000000001'::uuid}, 'owner bigint' => '1::bigint',
	'type anyelement' => 'NULL::app.session', 'ttl interval' => q{interval '1 min'}, 'ttl text' => q{'1 min'::text},
	'expires timestamp with time zone' => q{timestamptz 'infinity'}, 'key text' => q{'kv'}, 'keys text[]' => q{'{kv}'::text[]},
	'value text' => q{'text'::text}, 'value bytea' => q{'\x00'::bytea}, 'cas bigint' => '1', 'delta bigint' => '1',
	'max bigint' => '1', 'sample bigint' => '1', 'keys boolean' => 'false',
	'relation regclass' => q{'app.free'::regclass}, 'key_column name' => q{'id'}, 'owner_column name' => 'NULL', 'filter text' => 'NULL',
	'exclude name[]' => q{'{}'}, 'policy text' => 'NULL', 'document regproc' => 'NULL', 'touch_on_read boolean' => 'false');

sub calls
{
	my ($name, $document) = @_;
	my @calls;

	for my $function (@{ $functions{$name} })
	{
		my ($signature, @arguments) = @$function;

		my $call = $objects{"function $name"} eq 'trigger' || $name =~ /trigger$/ ? 'SELECT' : 'SELECT * FROM';

		push @calls, "$call $name(" . join(', ', map {
			$_ eq 'name text' ? "'$document'" : $argument{$_} // die "no value for argument $_ of $signature" } @arguments) . ')';
	}
	return \@calls;
}

for my $name (sort keys %functions)
{
	my $who = $objects{"function $name"};
	my $calls = calls($name, $who eq 'owner' ? 'session' : 'made');
	my $works = qr/^(?:\(|no row)|^22P02: the value of cache key/;
	my $refused = qr/^42501: permission denied for (?:schema echocache|function \Q${\($name =~ s{.*\.}{}r)}\E)/;

	if ($who eq 'all')
	{
		all_like($_, $calls, qr/^\(/, "$name as $_") for 'nobody', 'monitor';
	}
	elsif ($who eq 'owner')
	{
		all_like($_, $calls, qr/^42501: must be owner of table \w+/, "$name as $_") for 'nobody', 'reader', 'granted';
	}
	elsif ($who eq 'trigger')
	{
		all_like($_, $calls, qr/^39P01: this function is for triggers/, "$name as $_") for 'nobody', 'owner';
	}
	elsif ($who ne 'reads')
	{
		all_like('nobody', $calls, $refused, "$name as nobody");
		if ($who eq 'nobody')
		{
			all_like('monitor', $calls, $refused, "$name as monitor");
			next;
		}
		all_like('monitor', $calls, $who eq 'monitor' ? $works : $refused, "$name as monitor");
		$s->run("GRANT EXECUTE ON FUNCTION $_->[0] TO granted") for @{ $functions{$name} };
		all_like('granted', $calls, $name =~ /^echocache\./ ? qr/permission denied for schema/
			: $who eq 'superuser' ? qr/^42501: must be superuser/
			: $name eq 'echocache_report' ? qr/^42501: permission denied for view/ : $works, "$name as one who is granted it");
		all_like($s, $calls, $works, "$name as a superuser");
	}
}

for my $object (sort grep { /^(?:view|table)/ } keys %objects)
{
	my ($type, $name) = split / /, $object;

	like(outcome('nobody', "SELECT * FROM $name"), qr/^42501: permission denied for (?:schema echocache|$type $name)/, "$object as nobody");
	like(outcome('granted', "SELECT * FROM $name"), qr/^42501: /, 'nor as one who may execute everything');
	if ($objects{$object} eq 'monitor')
	{
		unlike(outcome('monitor', "SELECT * FROM $name"), qr/^\d\w{4}: /, "$object as monitor");
	}
	else
	{
		like(outcome('monitor', "SELECT * FROM $name"), qr/^42501: permission denied for table/, "$object as monitor");
	}
	is($s->run("SELECT string_agg(r || ' ' || p, ', ') FROM unnest('{nobody,reader,granted,monitor,owner}'::text[]) r,
			unnest('{INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) p WHERE has_table_privilege(r, '$name', p)"),
		'', 'and nobody may write it');
}
like(outcome('nobody', 'SELECT echocache.stats()'), qr/^42501: permission denied for schema echocache/, 'schema echocache');
is($s->run(q{SELECT string_agg(r, ' ') FROM unnest('{nobody,reader,granted,monitor,owner}'::text[]) r WHERE has_schema_privilege(r, 'echocache', 'CREATE')}), '',
	'nobody may create anything there');
like($as{$_}->error('DROP EXTENSION echocache'), qr/^42501: must be owner of extension/, "$_ may not drop it") for 'nobody', 'owner', 'monitor';

#
# The reads, on a hit as on a miss; SQL says the same.
#
prepare('hit');
my @reads = sort grep { $objects{"function $_"} eq 'reads' } keys %functions;
for my $document ('session', 'made')
{
	my @calls = map { @{ calls($_, $document) } }
	  grep { $document eq 'session' || !/_session|get_row/ } @reads;
	my @gets = grep { /echocache_get/ } @calls;
	my $sql = $document eq 'session' ? q{SELECT id, owner, title FROM app.session WHERE id = '1'}
	  : q{SELECT app.make(m) FROM app.made m WHERE id = '1'};
	my @answers = outcomes('owner', @gets);

	cmp_ok(scalar @gets, '>', 20, "calls that read \"$document\"");
	cmp_ok(scalar(grep { /of 1|one|uuid|0001/ } @answers), '>', @gets / 3, 'of which many give something');
	for my $how ('hit', 'miss')
	{
		for my $expected (@readers)
		{
			my ($user, $has, @refused) = @$expected;
			my $refused = $refused[ $document eq 'made' ];

			prepare($how);
			if ($refused)
			{
				my $said = outcome($user, $sql);

				like($said, qr/^42501: permission denied for $refused/, "SQL as $user, who has $has");
				all_like($user, \@calls, qr/^\Q$said\E$/, "$how: \"$document\" as $user is refused like that");
				is($memcached->settled("$document:1"), $how eq 'hit' ? $document{"$document:1"} : undef, 'and nothing was done');
			}
			else
			{
				# in SQL's case the function would run as the reader, and stop at the table that it reads
				like(outcome($user, $sql), $document eq 'session' ? qr/^\(1,1,one\)$/ : qr/^42501: permission denied for table part/, "SQL as $user, who has $has");
				is_deeply([ outcomes($user, @gets) ], \@answers, "$how: \"$document\" as $user is what the owner gets");
				all_like($user, [ grep { !/echocache_get/ } @calls ], qr/^\([tf]\)$/, 'and touch, invalidate and refresh work');
			}
		}
	}
}
# An id that is none is not told to those who may not read.
$as{owner}->run(q{CREATE TABLE app.num (id bigint PRIMARY KEY, t text); SELECT echocache_attach('app.num', 'num')});
like(outcome('nobody', q{SELECT echocache_get('num', 'x')}), qr/^42501: permission denied for table num/, 'privileges come before the id');
like(outcome('nobody', q{SELECT echocache_get_many('num', '{x}')}), qr/^42501: permission denied for table num/, 'of many too');
like(outcome('nobody', q{SELECT echocache_get_row(NULL::app.num, 'x')}), qr/^42501: permission denied for table num/, 'and of rows');

#
# The check is that of the moment, and of the role of the moment.
#
my $r = $as{reader};
$r->run(q{PREPARE row AS SELECT echocache_get_session('1'); PREPARE made AS SELECT echocache_get('made', '1')});
for my $case (
	[ 'SELECT ON app.session', 'row', 'table session' ],
	[ 'USAGE ON SCHEMA app', 'row', 'schema app' ],
	[ 'SELECT ON app.made', 'made', 'table made' ],
	[ 'EXECUTE ON FUNCTION app.make', 'made', 'function make' ])
{
	my ($right, $statement, $refused) = @$case;
	my $key = $statement eq 'row' ? 'session:1' : 'made:1';

	for my $how ('hit', 'miss')
	{
		prepare($how);
		$r->run('BEGIN');
		is($r->run("EXECUTE $statement"), $document{$key}, "$how: a prepared statement");
		prepare($how);
		$as{owner}->run("REVOKE $right FROM reader");
		like($r->error("EXECUTE $statement"), qr/^42501: permission denied for $refused/, "the next one after REVOKE $right");
		$r->run('ROLLBACK');
		$as{owner}->run("GRANT $right TO reader");
	}
}
prepare('hit');
$as{columns}->run(q{PREPARE row AS SELECT echocache_get_session('1')});
is($as{columns}->run('EXECUTE row'), $document{'session:1'}, 'columns that the document does not show need no right');
$as{owner}->run('REVOKE SELECT (title) ON app.session FROM columns');
like($as{columns}->error('EXECUTE row'), qr/^42501: permission denied for table session/, 'each that it shows does');
$as{owner}->run('GRANT SELECT (title) ON app.session TO columns; ALTER TABLE app.session ADD more text');
like($as{columns}->error('EXECUTE row'), qr/^42501: permission denied for table session/, 'one that is new too');
$as{owner}->run('ALTER TABLE app.session DROP more');
is($as{columns}->run('EXECUTE row'), $document{'session:1'}, 'gone again, not any more');
$s->run('GRANT reader TO nobody');
is($as{nobody}->run(q{SELECT echocache_get_session('1')}), $document{'session:1'}, 'a member of a role');
$s->run('REVOKE reader FROM nobody');
like($as{nobody}->error(q{SELECT echocache_get_session('1')}), qr/^42501: /, 'who is none any more');

for my $switch ('SET ROLE nobody', 'SET SESSION AUTHORIZATION nobody')
{
	my $back = $switch =~ /ROLE/ ? 'RESET ROLE' : 'RESET SESSION AUTHORIZATION';

	is($s->run(q{SELECT echocache_get_session('1')}), $document{'session:1'}, "before $switch");
	$s->run($switch);
	like($s->error(q{SELECT echocache_get_session('1')}), qr/^42501: permission denied for table session/, $switch);
	$s->run($back);
	is($s->run(q{SELECT echocache_get_session('1')}), $document{'session:1'}, $back);
}
$r->run(q{CREATE FUNCTION planted.lend(text) RETURNS json LANGUAGE sql SECURITY DEFINER AS 'SELECT public.echocache_get_session($1)';
	CREATE VIEW planted.look AS SELECT public.echocache_get_session('1');
	GRANT SELECT ON planted.look TO PUBLIC});
is($as{nobody}->run(q{SELECT planted.lend('1')}), $document{'session:1'}, 'SECURITY DEFINER lends what its owner may read');
like($as{nobody}->error('SELECT * FROM planted.look'), qr/^42501: permission denied for table session/, 'a view does not');
$s->run(q{CREATE FUNCTION test.lower(text) RETURNS json LANGUAGE sql SECURITY DEFINER AS 'SELECT public.echocache_get_session($1)';
	ALTER FUNCTION test.lower OWNER TO nobody});
like($s->error(q{SELECT test.lower('1')}), qr/^42501: permission denied for table session/, 'nor SECURITY DEFINER what its owner may not');

#
# Row-level security.
#
$as{owner}->run(q{
	CREATE POLICY own ON app.session FOR SELECT TO reader USING (owner = '1');
	CREATE POLICY own ON app.made FOR SELECT TO reader USING (owner = '1');
	ALTER TABLE app.session ENABLE ROW LEVEL SECURITY;
	ALTER TABLE app.made ENABLE ROW LEVEL SECURITY});
# The same calls for a row that is hidden from the reader and for one that is not there: "2" and "9".
my @hidden = map {
	my $name = $_;
	map { s/'1'|1::bigint/'2'/gr =~ s/'\{1(?:,9)?\}'/'{2}'/gr } grep { !/0000/ } map { @{ calls($name, $_) } }
	  $name =~ /_session|get_row/ ? 'session' : ('session', 'made') } @reads;
my @absent = map { s/(?<!')2(?!')|(?<=')2(?=')|(?<=\{)2(?=\})/9/gr } @hidden;
cmp_ok(scalar(grep { $hidden[$_] ne $absent[$_] } 0 .. $#hidden), '==', @hidden, 'calls for a hidden row, and for none');
for my $how ('hit', 'miss')
{
	prepare($how);
	my @seen = outcomes('reader', @hidden);
	prepare($how);
	is_deeply(\@seen, [ outcomes('reader', @absent) ], "$how: a hidden row is as one that is not there");
	is_deeply([ grep { !/^(?:\(\)|\(f\)|no row)$/ } @seen ], [], 'nothing, or false');
	is($r->run(qq{SELECT echocache_get('$_', '1'), echocache_touch('$_', '1'), echocache_invalidate('$_', '1'), echocache_refresh('$_', '1')}),
		$document{"$_:1"} . '|f|f|f', "a visible row of \"$_\" is read, and no more") for 'session', 'made';
	is($memcached->settled("$_:1"), $how eq 'hit' ? $document{"$_:1"} : undef, 'what is cached stays') for 'session', 'made';
	is($memcached->settled("$_:2"), $how eq 'hit' ? $document{"$_:2"} : undef, 'of the hidden row too') for 'session', 'made';
	is($as{$_}->run(q{SELECT echocache_get_session('2'), echocache_get('made', '2')}), $document{'session:2'} . '|' . $document{'made:2'},
		"$how: $_ is exempt") for 'owner', 'bypass';
}
$as{owner}->run('ALTER TABLE app.session FORCE ROW LEVEL SECURITY; ALTER TABLE app.made FORCE ROW LEVEL SECURITY');
is($as{owner}->run(q{SELECT echocache_get_session('2'), echocache_get('made', '2'), echocache_touch('made', '2')}), '||f', 'forced: the owner is not');
is($as{bypass}->run(q{SELECT echocache_get_session('2'), echocache_get('made', '2')}), $document{'session:2'} . '|' . $document{'made:2'},
	'and BYPASSRLS reads on');
for my $sql (q{SELECT echocache_get_session('1')}, q{SELECT echocache_get_sessions('{1}'::text[])}, q{SELECT * FROM echocache_get_row(NULL::app.session, '1')})
{
	$r->run('SET row_security = off');
	is($r->error($sql) =~ s/\nCONTEXT:.*//sr, $r->error(q{SELECT title FROM app.session WHERE id = '1'}) =~ s/\n\z//r, "row_security = off: SQL's error for $sql");
	like($r->messages, qr/^42501: query would be affected by row-level security policy for table "session"/, 'which is one');
	$r->run('RESET row_security');
}
# The filter, and the function that makes the document, do not get to see what is hidden.
$as{owner}->run(q{
	SELECT echocache_detach('session'), echocache_detach('made');
	CREATE FUNCTION app.peek(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE COST 0.0001 AS $$BEGIN RAISE NOTICE 'peeked at %', $1; RETURN true; END$$;
	CREATE FUNCTION app.tell(m app.made) RETURNS json LANGUAGE plpgsql STABLE AS $$BEGIN RAISE NOTICE 'told of %', m.owner; RETURN json_build_object('id', m.id); END$$;
	SELECT echocache_attach('app.session', filter => 'app.peek(title)');
	SELECT echocache_attach('app.made', 'made', document => 'app.tell')});
$r->run(q{SELECT echocache_get_session('1'), echocache_get('made', '1')});
like($r->messages, qr/peeked at one.*told of 1/s, 'they see a row that is visible');
is($r->run(q{SELECT echocache_get_session('2'), echocache_get('made', '2'), echocache_get_sessions('{1,2}'::text[]), echocache_get_many('made', '{1,2}'::text[])}) =~ /two/, '', 'one that is not');
unlike($r->messages, qr/peeked at two|told of 2/, 'they do not');
$as{owner}->run(q{
	SELECT echocache_detach('session'), echocache_detach('made');
	ALTER TABLE app.session DISABLE ROW LEVEL SECURITY; ALTER TABLE app.made DISABLE ROW LEVEL SECURITY;
	SELECT echocache_attach('app.session', owner_column => 'owner', exclude => '{secret}', filter => $$title <> 'gone'$$);
	SELECT echocache_attach('app.made', 'made', owner_column => 'owner', document => 'app.make');
	SELECT echocache_attach_dependent('app.part', 'made', 'made')});

#
# What a reader plants for the owner: names before those of pg_catalog, types, temporary
# tables, settings.  Each of them would stop the test.
#
$r->run(q{
	CREATE FUNCTION planted.differs(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE EXCEPTION 'planted operator runs as %', current_user; END$$;
	CREATE OPERATOR planted.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = planted.differs);
	CREATE OPERATOR planted.= (LEFTARG = text, RIGHTARG = text, FUNCTION = planted.differs);
	CREATE FUNCTION planted.lower(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE EXCEPTION 'planted function runs as %', current_user; END$$;
	CREATE FUNCTION planted.json_build_object(VARIADIC text[]) RETURNS json LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE EXCEPTION 'planted function runs as %', current_user; END$$;
	CREATE FUNCTION planted.row_to_json(record) RETURNS json LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE EXCEPTION 'planted function runs as %', current_user; END$$;
	CREATE FUNCTION planted.helper() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE EXCEPTION 'planted function runs as %', current_user; END$$;
	CREATE FUNCTION planted.never(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE EXCEPTION 'planted type runs code as %', current_user; END$$;
	CREATE DOMAIN planted.text AS pg_catalog.text CHECK (planted.never(value))});
$as{owner}->run(q{
	CREATE FUNCTION app.shown(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN lower($1) <> 'gone' AND $1::text = $1; END$$;
	CREATE TABLE app.plain (id text PRIMARY KEY, title text, n int);
	CREATE TABLE app.code (id text PRIMARY KEY, title text, n int);
	CREATE TABLE app.func (id text PRIMARY KEY, title text, n int);
	CREATE TABLE app.path (id text PRIMARY KEY, title text, n int);
	CREATE FUNCTION app.func(f app.func) RETURNS json LANGUAGE plpgsql STABLE AS
		$$BEGIN RETURN json_build_object('id', f.id, 'title', lower(f.title)::text, 'same', f.title = f.title, 'user', current_user, 'null', (SELECT NULL = NULL),
			'quoted', 'a\b', 'n', to_char(f.n, '9G999'), 'parts', (SELECT count(*) FROM app.part)); END$$;
	CREATE FUNCTION app.path(f app.path) RETURNS json LANGUAGE plpgsql STABLE SET search_path = app, pg_temp AS
		$$BEGIN RETURN json_build_object('id', f.id, 'parts', (SELECT string_agg(body, ',' ORDER BY body) FROM part)); END$$;
	SELECT echocache_attach('app.plain', 'plain', filter => $$title <> 'gone' AND lower(title) <> 'a\b' AND title::text = title$$);
	SELECT echocache_attach('app.code', 'code', filter => 'app.shown(title)');
	SELECT echocache_attach('app.func', 'func', document => 'app.func(app.func)'::regprocedure::regproc);
	SELECT echocache_attach('app.path', 'path', document => 'app.path(app.path)'::regprocedure::regproc);
	GRANT SELECT, INSERT, UPDATE, DELETE ON app.plain, app.code, app.func, app.path TO reader;
	INSERT INTO app.plain VALUES ('1', 'one', 1), ('2', 'gone', 2); INSERT INTO app.code TABLE app.plain; INSERT INTO app.func TABLE app.plain; INSERT INTO app.path TABLE app.plain});
my @planted = map { ("$_:1", "$_:2") } 'plain', 'code', 'func', 'path';
my %honest = map { $_ => $memcached->settled($_) } @planted;
is($honest{'func:1'}, '{"id" : "1", "title" : "one", "same" : true, "user" : "owner", "null" : null, "quoted" : "a\\\\b", "n" : " 1", "parts" : 4}' =~ s/" 1"/"     1"/r,
	'a document as its function makes it');
my $planter = session($node, user => 'reader', sql => q{
	CREATE TEMP TABLE part AS SELECT 'FORGED'::text AS made, 'FORGED'::text AS body; GRANT ALL ON part TO PUBLIC;
	CREATE TEMP TABLE pg_class AS SELECT 1 AS x; GRANT ALL ON pg_class TO PUBLIC;
	CREATE DOMAIN pg_temp.int4 AS pg_catalog.int4 CHECK (planted.never('x'));
	SET search_path = planted, pg_catalog;
	SET standard_conforming_strings = off; SET escape_string_warning = off; SET backslash_quote = on; SET transform_null_equals = on; SET row_security = off;
	SET lc_numeric = 'C'; SET array_nulls = off; SET DateStyle = german; SET gin_fuzzy_search_limit = 1;
	SET plpgsql.extra_warnings = 'all'});
for my $doc ('plain', 'code', 'func', 'path')
{
	for my $call ("SELECT public.echocache_get('$doc', '1')", "SELECT document FROM public.echocache_get_many('$doc', '{1,2}'::pg_catalog.text[]) LIMIT 1")
	{
		$s->run("SELECT echocache_invalidate('$doc', id) FROM app.$doc");
		is($planter->run($call), $honest{"$doc:1"}, "a miss of the planter: $call");
		is($memcached->settled("$doc:1"), $honest{"$doc:1"}, 'stores what anybody would');
	}
	$s->run("SELECT echocache_invalidate('$doc', '1')");
	is($planter->run("SELECT public.echocache_refresh('$doc', '1')"), 't', 'refresh');
	is($memcached->settled("$doc:1"), $honest{"$doc:1"}, 'likewise');
	$planter->run("UPDATE app.$doc SET n = n + 1; UPDATE app.$doc SET n = n - 1");
	is($planter->{messages}, '', 'his writes');
	is($memcached->settled("$doc:$_"), $honest{"$doc:$_"}, "store what anybody would: $doc:$_") for 1, 2;
}
is($planter->run(q{SELECT title FROM public.echocache_get_row(NULL::app.plain, '1')}), 'one', 'a row');
is($planter->run(q{SHOW search_path}), 'planted, pg_catalog', 'and his settings are his own again');
is($planter->run(q{SHOW transform_null_equals}), 'on', 'all of them');
# One who goes over all documents with such a path.
$s->run('SET search_path = planted, pg_catalog');
for my $doc ('plain', 'code', 'func', 'path')
{
	is($s->run("SELECT public.echocache_purge('$doc') > 0"), 't', "purge of \"$doc\"");
	cmp_ok($s->run("SELECT public.echocache_warm('$doc')"), '>', 0, 'warm');
	is($s->run(qq{SELECT stale + "foreign" FROM public.echocache_verify('$doc')}), 0, 'verify');
	is($memcached->settled("$doc:1"), $honest{"$doc:1"}, 'and the documents are what they were');
}
$s->run('RESET search_path');
# Its columns renamed, the filter is written anew: with the names that it had.
$s->run(q{SET search_path = planted, pg_catalog; ALTER TABLE app.plain RENAME title TO heading; ALTER TABLE app.plain RENAME heading TO title; RESET search_path});
is($s->run(q{SELECT filter FROM echocache_documents WHERE name = 'plain'}), q{((title <> 'gone'::text) AND (lower(title) <> 'a\b'::text) AND (title = title))}, 'a filter is stored as it was');

# A function whose own search path has the reader's temporary tables first: what it makes of them is for him alone.
$as{owner}->run('ALTER FUNCTION app.path(app.path) SET search_path = app');
isnt($planter->run(q{SELECT public.echocache_get('path', '1')}), undef, 'with a search path without pg_temp he may read what he has planted');
invalidated($memcached, 'path:1', 'but it is not cached');
$as{owner}->run('ALTER FUNCTION app.path(app.path) SET search_path = app, pg_temp');
is($planter->run(q{SELECT public.echocache_get('path', '1')}), $honest{'path:1'}, 'gone, it is as before');
$planter->quit;

#
# What the owner of a table plants for readers, the superuser among them.
#
$as{owner}->run(q{
	CREATE TABLE app.loot (x int);
	CREATE SEQUENCE app.seq;
	CREATE FUNCTION app.later() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'deferred trigger fires as %', current_user; END$$;
	CREATE CONSTRAINT TRIGGER later AFTER INSERT ON app.loot DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.later();
	CREATE FUNCTION app.attempts(what text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		sql text;
	BEGIN
		IF current_user <> 'owner' THEN
			RAISE EXCEPTION 'the owner''s code runs as %', current_user;
		END IF;
		FOREACH sql IN ARRAY ARRAY['INSERT INTO app.loot VALUES (1)', 'CREATE TABLE app.created (x int)', 'CREATE TEMP TABLE created (x int)', 'GRANT ALL ON app.session TO PUBLIC',
			'SET ROLE postgres', 'RESET ROLE', 'SET SESSION AUTHORIZATION DEFAULT', 'LISTEN loot', 'DECLARE loot CURSOR WITH HOLD FOR SELECT 1', 'PREPARE loot AS SELECT 1', 'DISCARD TEMP',
			'SET transaction_read_only = off', 'SELECT nextval(''app.seq'')', 'SELECT * FROM test.secret', 'SELECT pg_read_file(''PG_VERSION'')', 'COPY app.loot TO PROGRAM ''true''',
			'SELECT set_config(''search_path'', ''app'', false)', 'SELECT set_config(''app.loot'', ''left behind'', false)', 'SET work_mem = ''1GB''']
		LOOP
			BEGIN
				EXECUTE sql;
				RAISE NOTICE '%: done: %', what, sql;
			EXCEPTION WHEN OTHERS THEN
				RAISE NOTICE '%: %: %', what, SQLSTATE, sql;
			END;
		END LOOP;
	END $$;
	CREATE FUNCTION app.bad_filter(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM app.attempts('filter'); RETURN true; END$$;
	CREATE FUNCTION app.bad_check(text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN IF current_query() ~ 'echocache' THEN PERFORM app.attempts('check'); END IF; RETURN true; END$$;
	CREATE DOMAIN app.bad_key AS text CHECK (app.bad_check(value));
	CREATE TABLE app.by_filter (id text PRIMARY KEY, title text);
	CREATE TABLE app.by_check (id app.bad_key PRIMARY KEY, title app.bad_key);
	CREATE TABLE app.by_function (id text PRIMARY KEY, title text);
	CREATE TABLE app.by_cast (id text PRIMARY KEY, title text);
	CREATE FUNCTION app.bad_function(f app.by_function) RETURNS json LANGUAGE plpgsql STABLE AS $$BEGIN PERFORM app.attempts('function'); RETURN row_to_json(f); END$$;
	CREATE TYPE app.pair AS ENUM ('a', 'b');
	CREATE FUNCTION app.bad_cast(app.pair) RETURNS json LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM app.attempts('cast'); RETURN to_json($1::text); END$$;
	CREATE CAST (app.pair AS json) WITH FUNCTION app.bad_cast(app.pair);
	ALTER TABLE app.by_cast ADD pair app.pair;
	INSERT INTO app.by_filter VALUES ('1', 'x'); INSERT INTO app.by_check VALUES ('1', 'x'); INSERT INTO app.by_function VALUES ('1', 'x'); INSERT INTO app.by_cast VALUES ('1', 'x', 'a')});
$as{owner}->run(q{
	SELECT echocache_attach('app.by_filter', 'by_filter', filter => 'app.bad_filter(title)');
	SELECT echocache_attach('app.by_check', 'by_check');
	SELECT echocache_attach('app.by_cast', 'by_cast');
	SELECT echocache_attach('app.by_function', 'by_function', document => 'app.bad_function')});
$s->run(q{CREATE TABLE test.secret AS SELECT 'secret' AS x; SET app.loot = 'mine'});
my $left_behind = q{SELECT concat_ws(' ', current_user, session_user, current_setting('search_path'), current_setting('app.loot'), current_setting('work_mem'), current_setting('transaction_read_only'),
	(SELECT count(*) FROM pg_listening_channels()), (SELECT count(*) FROM pg_cursors), (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_class WHERE relname = 'created'),
	(SELECT count(*) FROM app.loot), (SELECT is_called FROM app.seq))};
my $clean = $s->run($left_behind);
like($clean, qr/^postgres postgres .* mine 4MB off 0 0 0 0 0 f$/, 'a superuser\'s session');
for my $kind ('filter', 'check', 'function', 'cast')
{
	for my $call ("SELECT echocache_get('by_$kind', '1')", "SELECT echocache_get_many('by_$kind', '{1}'::text[])", "SELECT echocache_refresh('by_$kind', '1')",
		($kind eq 'function' ? () : "SELECT echocache_get_row(NULL::app.by_$kind, '1')"), "SELECT echocache_purge('by_$kind') IS NULL, echocache_warm('by_$kind')",
		"SELECT * FROM echocache_verify('by_$kind')", ($kind eq 'check' ? () : "UPDATE app.by_$kind SET title = title || 'x'"))
	{
		my $before = $call =~ /verify/ ? 'refresh' : 'invalidate';
		$s->run("SELECT echocache_$before('by_$kind', '1')");
		my $result = $s->error($call);
		my @done = $s->{messages} =~ /NOTICE:  00000: \w+: done: (.*)/g;
		my @refused = $s->{messages} =~ /NOTICE:  00000: (\w+: \w{5}: .*)/g;

		is($result, 'no error', "the owner's $kind in a superuser's $call");
		is_deeply([ grep { !/^(?:SELECT set_config|SET work_mem)/ } @done ], [], 'does none of what it attempts');
		if ($call =~ /^UPDATE/) { is(scalar @refused, 0, 'since a commit does not run it'); }
		else { cmp_ok(scalar @refused, '>=', 16, 'but has attempted it'); }
		is($s->run($left_behind), $clean, 'and leaves nothing behind');
	}
}
$s->run(q{SELECT echocache_refresh('by_check', '1')});
$memcached->set('by_check:1', '{"id":"1","title":"older"}');
is($s->run(q{SELECT stale, "foreign" FROM echocache_verify('by_check')}), '1|0', 'nor does verify run a check as whoever verifies, where something is wrong');
$as{owner}->run("SELECT echocache_detach('by_$_')") for 'filter', 'check', 'function', 'cast';

#
# Settings.
#
my %found = map { split /\|/ } split /\n/, $s->run(q{SELECT name, context FROM pg_settings WHERE name LIKE 'echocache.%'});
is_deeply(\%found, { map { $_ => $settings{$_} =~ s/,.*//r } grep { $_ ne 'echocache.wait_point' || $found{$_} } keys %settings }, 'every setting has an expectation');
for my $name (sort keys %settings)
{
	my $value = $name =~ /tls_verify/ ? 'none' : $name =~ /hosts/ ? 'localhost:11212' : $name =~ /prefix|user|password|file/ ? 'x' : '1';

	next if $settings{$name} eq 'user';
	for my $user ('nobody', 'monitor')
	{
		my $refused = $settings{$name} eq 'superuser' ? qr/^42501: permission denied to set parameter/
		  : $settings{$name} eq 'postmaster' ? qr/^55P02: parameter "$name" cannot be changed without restarting the server/
		  : qr/^55P02: parameter "$name" cannot be changed now/;

		like($as{$user}->error("SET $name = '$value'"), $refused, "SET $name as $user");
		like($as{$user}->error("SELECT set_config('$name', '$value', true)"), $refused, 'set_config()');
		like($as{$user}->error("ALTER ROLE $user SET $name = '$value'"), $refused, 'ALTER ROLE');
		like($as{$user}->error("ALTER SYSTEM SET $name = '$value'"), qr/^42501: /, 'ALTER SYSTEM');
		like($as{$user}->error("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET $name = '$value' AS 'SELECT 1'"), $refused, 'a function\'s own');
	}
	$node->command_fails_like([ 'psql', '-X', '-c', 'SELECT 1', $node->connstr('postgres') . " user=nobody options='-c $name=$value'" ],
		qr/parameter "$name" cannot be changed|permission denied to set parameter "$name"/, "-c $name=$value when connecting");
	if ($settings{$name} =~ /hidden/)
	{
		like($as{nobody}->error("SHOW $name"), qr/^42501: /, "SHOW $name");
		like($as{nobody}->error("SELECT current_setting('$name')"), qr/^42501: /, 'current_setting()');
		is($as{nobody}->run("SELECT count(*) FROM pg_settings WHERE name = '$name'"), 0, 'pg_settings');
		unlike($as{nobody}->run('SHOW ALL'), qr/\Q$name\E/, 'SHOW ALL');
	}
}
like($as{nobody}->error('SELECT * FROM pg_file_settings'), qr/^42501: /, 'pg_file_settings is not for everybody');
unlike(slurp_file($node->logfile), qr/\Q$password\E/, 'no password in the log');
like($as{nobody}->error("SET echocache.password = 'a $password'"), qr/^(?!.*$password)55P02/s, 'an error message does not repeat what it refuses');
for my $view ('echocache_servers', 'echocache_documents', 'echocache_stats', 'echocache_latency', 'echocache_latency_buckets', 'echocache_memory', 'echocache_health()', 'echocache_report()')
{
	unlike($as{monitor}->run("SELECT * FROM $view"), qr/\Q$password\E/, "$view shows no password");
}

#
# Keys of the key/value client: none of a document, in whatever database.
#
$s->run(q{CREATE DATABASE elsewhere; ALTER DATABASE elsewhere SET echocache.key_prefix = 'p2/'});
my $elsewhere = session($node, dbname => 'elsewhere', sql => q{CREATE EXTENSION echocache});
wait_state($elsewhere, 'UP');
$elsewhere->run(q{CREATE TABLE far (id text PRIMARY KEY); SELECT echocache_attach('far', 'far'); INSERT INTO far VALUES ('1')});
holds($memcached, 'p2/far:1', '{"id":"1"}', 'a document of another database');
prepare('hit');
my @kv = grep { /echocache_kv_/ && !/kv_stats/ } sort keys %functions;
my $kv_calls = sub {
	my ($key) = @_;

	return [ map { s/'kv'/$key/r =~ s/'\{kv\}'::text\[\]/ARRAY['other', $key]/r } map { @{ calls($_) } } @kv ];
};
for my $key (q{'session:1'}, q{'session:'}, q{'session:%31'}, q{'made:1'}, q{'p2/far:1'}, q{'p2/far:new'}, q{'_echocache_health:1'}, q{'_echocache'})
{
	my @before = map { $memcached->settled($_) } 'session:1', 'made:1', 'p2/far:1';

	all_like('granted', $kv_calls->($key), qr/^42501: cache key ".*" (?:belongs to a document|is reserved)$/, "kv: key $key is refused");
	is_deeply([ map { $memcached->settled($_) } 'session:1', 'made:1', 'p2/far:1' ], \@before, 'and the documents are as before');
}
all_like('granted', $kv_calls->($_), qr/^22023: invalid cache key$/, "kv: key $_ is refused")
  for q{' session:1'}, q{E'x\r\nset session:1 0 0 2\r\n{}\r\n'}, q{E'x\nflush_all'}, q{E'x\r'}, q{E'\x01'}, q{E'x\x7f'}, q{E'x\t'}, q{'é'}, q{''}, q{repeat('x', 251)};
all_like('granted', $kv_calls->($_), qr/^(?:\(|no row)|^22P02: the value of cache key/, "kv: key $_ is anybody's")
  for q{'SESSION:1'}, q{'Session:1'}, q{'sessions:1'}, q{'p2/session:1'}, q{'far:1'}, q{'session'};
is($memcached->settled('session:1'), $document{'session:1'}, 'and no document\'s');
$elsewhere->quit;

#
# Every kind of attacker.
#
$s->run(q{CREATE DATABASE vacant; CREATE DATABASE owned});
for my $attacker (@attackers)
{
	my $role = $attacker->{role};

	$s->run("CREATE ROLE $role LOGIN $attacker->{with}; " . ($attacker->{sql} // ''));
	$s->run("ALTER DATABASE $attacker->{database} OWNER TO $role; ALTER DATABASE $attacker->{database} SET echocache.key_prefix = '$attacker->{database}/'")
	  if $attacker->{database};
	$as{$role} = session($node, user => $role);
}
my $owned = session($node, dbname => 'owned', sql => 'CREATE EXTENSION echocache');
wait_state($owned, 'UP');
my $vacant = session($node, dbname => 'vacant');
my @workers = split /\n/, $s->run(q{SELECT pid FROM pg_stat_activity WHERE backend_type IN ('echocache launcher', 'echocache worker') ORDER BY 1});
is(scalar @workers, 4, 'a launcher and three workers');
my %contents = map { $_ => $s->run("TABLE echocache.$_") } 'document', 'dependent', 'outbox';

# What does not stand in the table of objects: all of it is refused, with 42501 unless it says otherwise.
my @attempts = (
	'ALTER EXTENSION echocache UPDATE', 'ALTER EXTENSION echocache SET SCHEMA planted', 'ALTER EXTENSION echocache DROP FUNCTION echocache_flush_all()',
	'DROP EXTENSION echocache', 'DROP EXTENSION echocache CASCADE', q{COMMENT ON EXTENSION echocache IS 'mine'}, 'DROP SCHEMA echocache CASCADE',
	'CREATE TABLE echocache.x (x int)', q{CREATE FUNCTION echocache.x() RETURNS int LANGUAGE sql AS 'SELECT 1'},
	'GRANT EXECUTE ON FUNCTION echocache_kv_get(text) TO PUBLIC', 'GRANT SELECT ON echocache.outbox TO PUBLIC', 'ALTER FUNCTION echocache_kv_get(text) SECURITY DEFINER', 'DROP FUNCTION echocache_kv_get(text) CASCADE',
	'CREATE OR REPLACE FUNCTION public.echocache_is_available() RETURNS boolean LANGUAGE sql AS $$SELECT true$$',
	'CREATE OR REPLACE VIEW public.echocache_stats AS SELECT 1 AS x', q{CREATE FUNCTION planted.x(text) RETURNS text AS '$libdir/echocache', 'echocache_kv_get' LANGUAGE c},
	q{CREATE FUNCTION planted.x(text) RETURNS text AS 'echocache_kv_get' LANGUAGE internal}, q{LOAD 'echocache'}, q{LOAD '$libdir/echocache'},
	(map { ("INSERT INTO echocache.$_ DEFAULT VALUES", "DELETE FROM echocache.$_", "TRUNCATE echocache.$_", "DO 'BEGIN LOCK TABLE echocache.$_ IN ACCESS SHARE MODE; END'",
		"ALTER TABLE echocache.$_ DISABLE TRIGGER ALL", "COPY echocache.$_ TO STDOUT", "CREATE INDEX ON echocache.$_ ((1))",
		"CREATE TRIGGER x AFTER INSERT ON echocache.$_ FOR EACH STATEMENT EXECUTE FUNCTION echocache_row_trigger('x')",
		"CREATE RULE x AS ON INSERT TO echocache.$_ DO INSTEAD NOTHING", "ALTER TABLE echocache.$_ ENABLE ROW LEVEL SECURITY") } sort keys %contents),
	'CREATE PUBLICATION x FOR TABLE echocache.document', 'REASSIGN OWNED BY postgres TO CURRENT_USER', 'DROP OWNED BY postgres', 'SET ROLE postgres',
	'SET SESSION AUTHORIZATION postgres', 'GRANT postgres TO CURRENT_USER', 'SELECT pg_reload_conf()',
	(map { ("SELECT pg_terminate_backend($_)", "SELECT pg_cancel_backend($_)") } @workers),
	'DROP DATABASE postgres', q{ALTER DATABASE postgres SET echocache.key_prefix = 'x'}, 'ALTER DATABASE postgres SET TABLESPACE pg_default',
	q{ALTER DATABASE owned SET echocache.key_prefix = 'x'}, q{ALTER DATABASE vacant SET echocache.key_prefix = 'x'}, q{ALTER ROLE reader SET echocache.key_prefix = 'x'},
	q{ALTER ROLE ALL SET echocache.key_prefix = 'x'}, 'ALTER DATABASE owned SET session_replication_role = replica', 'GRANT SET ON PARAMETER echocache.key_prefix TO CURRENT_USER',
	'GRANT ALTER SYSTEM ON PARAMETER echocache.hosts TO CURRENT_USER', 'SELECT * FROM pg_file_settings');
# Of the owner of a database, there.
my @attempts_at_home = ('CREATE EXTENSION echocache', @attempts[ grep { $attempts[$_] !~ /planted/ } 0 .. $#attempts ]);

sub all_refused
{
	my ($session, $statements, $name) = @_;
	my @wrong = grep { $_->[1] !~ /^42501: |^55006: cannot drop the currently open database|^2BP01: .* because extension echocache requires it/ } map { [ $_, $session->error($_) ] } @$statements;

	$session->error('RESET ROLE; RESET SESSION AUTHORIZATION') if @wrong;
	return ok(!@wrong, "$name (" . @$statements . ')') || diag(join "\n", map { "$_->[0]: $_->[1]" } @wrong);
}

# A grant by one who may use a thing but not pass it on is a warning.
my @grants = ('GRANT USAGE ON SCHEMA echocache TO PUBLIC', 'GRANT SELECT ON echocache_servers TO PUBLIC', 'GRANT EXECUTE ON FUNCTION echocache_health() TO PUBLIC');

for my $attacker (@attackers)
{
	my ($role, $has) = @{$attacker}{ 'role', 'has' };
	my $may = join '|', 'all', 'reads', 'owner', 'trigger', $attacker->{calls} // ();

	for my $session ($s, $owned)
	{
		my %executes = map { s/^public\.//r => 1 } split /\n/, $session->run(qq{
			SELECT DISTINCT pronamespace::regnamespace || '.' || proname FROM pg_depend d JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
			WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'echocache') AND d.deptype = 'e' AND
				has_function_privilege('$role', p.oid, 'EXECUTE') AND has_schema_privilege('$role', pronamespace, 'USAGE')});

		is_deeply([ sort keys %executes ], [ sort grep { $objects{"function $_"} =~ /^(?:$may)$/ } keys %functions ],
			"who has $has may execute what is for " . ($attacker->{calls} // 'all') . ' in ' . $session->run('SELECT current_database()'));
	}
	for my $kind ('all', 'reads', 'owner', 'trigger', 'monitor', 'granted', 'superuser', 'nobody')
	{
		my @calls = map { @{ calls($_, 'made') } } sort grep { $objects{"function $_"} eq $kind } keys %functions;
		my $pattern = $kind eq 'all' || $kind eq ($attacker->{calls} // '') ? qr/^(?:\(|no row)/
		  : $kind eq 'trigger' ? qr/^39P01: this function is for triggers/
		  : $kind eq 'owner' ? qr/^42501: must be owner of table|^42501: permission denied for schema app/
		  : $kind eq 'reads' ? qr/^42501: permission denied for (?:table|schema|function)/
		  : qr/^42501: permission denied for (?:function|schema echocache)/;

		all_like($role, \@calls, $pattern, "who has $has: what is for $kind");
	}
	all_refused($as{$role}, \@attempts, "who has $has: nothing else");
	$as{$role}->error($_) for @grants;
	for my $name (sort grep { $settings{$_} =~ /hidden/ } keys %settings)
	{
		if ($attacker->{settings})
		{
			unlike($as{$role}->run("SHOW $name"), qr/\Q$password\E/, "who has $has: SHOW $name");
			unlike($as{$role}->run(qq{SELECT s FROM pg_settings s WHERE name = '$name'}), qr/\Q$password\E/, 'pg_settings');
		}
		else
		{
			like($as{$role}->error("SHOW $name"), qr/^42501: /, "who has $has: SHOW $name");
			is($as{$role}->run(qq{SELECT count(*) FROM pg_settings WHERE name = '$name'}), 0, 'pg_settings');
		}
	}
}
is($as{watcher}->run('SHOW echocache.password'), '********', 'a password is not shown to monitors');
for my $home ('vacant', 'owned')
{
	my ($attacker) = grep { ($_->{database} // '') eq $home } @attackers;
	my $there = session($node, dbname => $home, user => $attacker->{role});
	my @there = $home eq 'owned' ? @attempts_at_home[ 1 .. $#attempts_at_home ]
	  : ('CREATE EXTENSION echocache', 'CREATE EXTENSION echocache SCHEMA public', grep { !/echocache_|EXTENSION|SCHEMA echocache|echocache\.(?!key_prefix|hosts)/ } @attempts_at_home);

	all_refused($there, \@there, "who has $attacker->{has}: nothing more there");
	$there->quit;
}
is($s->run(q{SELECT concat_ws(' ', has_schema_privilege('bare', 'echocache', 'USAGE'), has_table_privilege('bare', 'echocache_servers', 'SELECT'),
	has_function_privilege('bare', 'echocache_health()', 'EXECUTE'))}), 'f f f', 'who may use what is for monitors cannot pass it on');
is($s->run("TABLE echocache.$_"), $contents{$_}, "echocache.$_ is what it was") for sort keys %contents;
is($s->run(q{SELECT pid FROM pg_stat_activity WHERE backend_type IN ('echocache launcher', 'echocache worker') ORDER BY 1}), join("\n", @workers), 'the launcher and the workers are who they were');
is($s->run(q{SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolsuper AND rolname <> 'postgres'}), '', 'and nobody has become superuser');
wait_state($_, 'UP') for $s, $owned;
$_->quit for $owned, $vacant, map { delete $as{ $_->{role} } } @attackers;
$s->run('DROP DATABASE owned; DROP DATABASE vacant');
wait_state($s, 'UP');

#
# Attaching, and who owns what.
#
$as{other}->run(q{CREATE TABLE other.mine (id bigint PRIMARY KEY, n int); CREATE FUNCTION other.private(m other.mine) RETURNS json LANGUAGE sql STABLE AS $$SELECT row_to_json(m)$$;
	REVOKE EXECUTE ON FUNCTION other.private FROM PUBLIC; GRANT USAGE ON SCHEMA other TO owner; CREATE TABLE other.part (mine bigint)});
like($as{owner}->error(q{SELECT echocache_attach('other.mine', 'stolen')}), qr/^42501: must be owner of table mine/, 'another\'s table cannot be attached');
like($as{owner}->error(q{SELECT echocache_attach_dependent('other.part', 'mine', 'made')}), qr/^42501: must be owner of table part/, 'nor be made part of one\'s document');
like($as{other}->error(q{SELECT echocache_attach_dependent('other.part', 'mine', 'made')}), qr/^42501: must be owner of table made/, 'nor one\'s table part of another\'s document');
$s->run('ALTER TABLE other.mine OWNER TO owner');
like($as{owner}->error(q{SELECT echocache_attach('other.mine', 'mine', document => 'other.private')}), qr/^42501: permission denied for function private/, 'a function that the owner may not execute');
$as{other}->run('GRANT EXECUTE ON FUNCTION other.private TO owner');
like($as{owner}->error(q{SELECT echocache_attach('other.mine', 'mine', document => 'other.private')}), qr/^42501: function other\.private cannot make documents of table "mine"/, 'one that he may, and that is somebody else\'s');
$as{other}->run('REVOKE EXECUTE ON FUNCTION other.private FROM owner');
$s->run('ALTER FUNCTION other.private OWNER TO CURRENT_USER');
$s->run('GRANT EXECUTE ON FUNCTION other.private TO owner');
$as{owner}->run(q{INSERT INTO other.mine VALUES (1, 1); SELECT echocache_attach('other.mine', 'mine', document => 'other.private'); SELECT echocache_refresh('mine', 1)});
holds($memcached, 'mine:1', '{"id":1,"n":1}', 'one that he may');
$s->run('REVOKE EXECUTE ON FUNCTION other.private FROM owner');
like($as{owner}->error(q{SELECT echocache_get('mine', 1)}), qr/^42501: permission denied for function private/, 'and may not any more');
$s->run('SELECT echocache_invalidate(\'mine\', 1)');
like($s->error(q{SELECT echocache_get('mine', 1)}), qr/^42501: permission denied for function private/, 'it is not run for others either');
$as{owner}->run(q{SELECT echocache_detach('mine')});

# Our triggers on tables that are not the document's.
prepare('hit');
for my $create (
	q{CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON other.strange FOR EACH ROW EXECUTE FUNCTION echocache_row_trigger('%s')},
	q{CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON other.strange FOR EACH ROW EXECUTE FUNCTION echocache_dependent_trigger('%s')},
	q{CREATE TRIGGER t BEFORE TRUNCATE ON other.strange FOR EACH STATEMENT EXECUTE FUNCTION echocache_truncate_trigger('%s')})
{
	for my $table ('(id bigint, made int DEFAULT 4096, owner bigint)', '(x bigint)', '(id text, owner text, title text, made text)')
	{
		for my $document ('session', 'made', 'nosuch')
		{
			$as{other}->run("CREATE TABLE other.strange $table; " . sprintf($create, $document));
			my ($column) = $table =~ /(\w+)/;
			is($as{other}->error("INSERT INTO other.strange VALUES ('1'), ('4096'), (NULL); UPDATE other.strange SET $column = '5'; UPDATE other.strange SET $column = $column;
				DELETE FROM other.strange; TRUNCATE other.strange; DROP TABLE other.strange"), 'no error',
				sprintf("%s('%s') on %s", $create =~ /(echocache_\w+)/, $document, $table));
		}
	}
	is($memcached->settled("$_:1"), $document{"$_:1"}, "\"$_\" is not invalidated") for 'session', 'made';
}
like($as{monitor}->error(q{CREATE TEMP TABLE t (x int); CREATE TRIGGER t AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION echocache.document_trigger()}),
	qr/^42501: permission denied for function echocache\.document_trigger|^42501: permission denied for function document_trigger/, 'nor is the trigger of the configuration for monitors');

# DDL of those who may not: it neither waits for a lock nor invalidates anything.
my $holder = session($node, sql => 'BEGIN; LOCK TABLE app.session IN ACCESS SHARE MODE');
$r->run(q{SET statement_timeout = '60s'});
for my $ddl ('ALTER TABLE app.session DROP COLUMN owner CASCADE', 'ALTER TABLE app.session DROP COLUMN owner', 'ALTER TABLE app.session RENAME owner TO x', 'ALTER TABLE app.session DISABLE TRIGGER ALL',
	'ALTER TABLE app.session SET UNLOGGED', 'DROP TABLE app.session', 'TRUNCATE app.session', 'DROP TRIGGER echocache_row_session ON app.session', 'DROP FUNCTION app.make CASCADE',
	q{SELECT echocache_detach('session')}, q{SELECT echocache_detach_dependent('app.part', 'made')})
{
	like($r->error($ddl), qr/^42501: (?:must be owner of|permission denied for)/, $ddl);
	unlike($r->messages, qr/document "/, 'without a word about documents') unless $ddl =~ /detach|FUNCTION/;
}
$r->run('RESET statement_timeout');
$holder->run('ROLLBACK');
is($memcached->settled("$_:1"), $document{"$_:1"}, "\"$_\" is still cached") for 'session', 'made';
my $worker = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'echocache worker' AND datname = current_database()};
my $pid = $s->run($worker);
like($as{nobody}->error($_), qr/^42501: |^55006: cannot drop the currently open/, $_) for 'DROP DATABASE postgres', 'CREATE DATABASE copy TEMPLATE postgres', 'ALTER DATABASE postgres RENAME TO x';
is($s->run($worker), $pid, 'who may not drop a database does not send its worker away');

# A detach that has waited: the name may be another's by then.
$as{other}->run(q{CREATE TABLE other.a (id int PRIMARY KEY); SELECT echocache_attach('other.a', 'name')});
my @waiting = map { session($node, user => 'other') } 1 .. 3;
my $wait = sub {
	my ($session) = @_;
	wait_for('a lock to be waited for', sub { return $s->run('SELECT wait_event_type FROM pg_stat_activity WHERE pid = ' . $session->pid) eq 'Lock' });
};
$as{other}->run('BEGIN; LOCK TABLE other.a IN ACCESS SHARE MODE');
$waiting[0]->send(q{SELECT echocache_detach('name')});
$wait->($waiting[0]);
$waiting[1]->run('BEGIN');
$waiting[1]->send('LOCK TABLE other.a IN ACCESS SHARE MODE');
$wait->($waiting[1]);
$waiting[2]->send(q{SELECT echocache_detach('name')});
$wait->($waiting[2]);
$as{other}->run('COMMIT');
$waiting[0]->finish;
$waiting[1]->finish;
$as{owner}->run(q{CREATE TABLE app.b (id int PRIMARY KEY); SELECT echocache_attach('app.b', 'name')});
$waiting[1]->run('COMMIT');
is($waiting[2]->finish, undef, 'a detach that waited while the name became another\'s');
like($waiting[2]->messages, qr/^42501: must be owner of table b/, 'is refused');
is($s->run(q{SELECT relation FROM echocache_documents WHERE name = 'name'}), 'app.b', 'and the other\'s document is still there');
$_->quit for @waiting;
$as{owner}->run(q{SELECT echocache_detach('name')});

#
# A memcached that lies: no more than what it says, no error, no SQL.
#
my $lies = sub {
	my ($value, $call) = @_;

	$memcached->set('session:1', $value);
	return outcome('reader', $call);
};
for my $lie ('{"id":"1","owner":"2","title":"another\'s"}', '{"id":"1","owner":"1\'); DROP TABLE app.session; --"}', '{"id":"1","owner":1,"title":{"a":["b"]}}', '{"secret":"what was excluded","id":"1"}')
{
	my $shown = $lie =~ s/"/""/gr;

	is($lies->($lie, q{SELECT echocache_get_session('1')}), qq{("$shown")}, "believed: $lie");
	like($lies->($lie, q{SELECT echocache_get_session('1', '1')}), qr/^\(/, 'with an owner');
	like($lies->($lie, q{SELECT id, owner, title FROM echocache_get_row(NULL::app.session, '1')}), qr/^\(/, 'as a row');
}
for my $lie ('{"id":"2","owner":"1","title":"another\'s"}', '{"id":"1\'); DROP TABLE app.session; --","owner":"1"}', '{}', '{"id":1,"owner":"1"}', '{"secret":"what was excluded"}')
{
	is($lies->($lie, $_), '("{""id"":""1"",""owner"":""1"",""title"":""one""}")', "not believed: $lie")
	  for q{SELECT echocache_get_session('1')}, q{SELECT echocache_get_session('1', '1')};
}
is($lies->('{"id":"1","title":"x"}', q{SELECT echocache_get_session('1', '1')}), '()', 'without the owner it is nobody\'s');
is($lies->('{"id":"1","nested":{"owner":"1"},"owner":"2"}', q{SELECT echocache_get_session('1', '1')}), '()', 'an owner further in is none');
$as{owner}->run(q{CREATE FUNCTION app.small(int) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN IF current_user = 'reader' THEN RAISE EXCEPTION 'as the reader'; END IF; RETURN $1 < 100; END$$;
	CREATE DOMAIN app.small AS int CHECK (app.small(value));
	CREATE TABLE app.typed (id int PRIMARY KEY, n app.small, t timestamptz); INSERT INTO app.typed VALUES (1, 1, '2024-01-01 UTC');
	SELECT echocache_attach('app.typed', 'typed'); GRANT SELECT ON app.typed TO reader});
for my $lie ('{"id":"x"}', '{"id":1,"n":1000}', '{"id":1,"n":{"a":1}}', '{garbage}', '{"id":1,}', '{"id":1', '{"a":' . '[' x 20000 . ']' x 20000 . '}', '{"t":"no time"}', '{"id":1,"n":99999999999999999999}', '{"id":1}}', "{\"id\":\"\0\"}")
{
	$memcached->set('typed:1', $lie);
	is(outcome('reader', q{SELECT id, n, extract(epoch FROM t)::int FROM echocache_get_row(NULL::app.typed, 1)}), '(1,1,1704067200)', 'no row of the table: ' . substr($lie =~ s/\0/\\0/r, 0, 40));
	holds($memcached, 'typed:1', '{"id":1,"n":1,"t":"2024-01-01T00:00:00+00:00"}', 'is replaced');
}
$memcached->set('typed:1', '{"id":1,"n":5}');
is(outcome('reader', q{SELECT id, n, t FROM echocache_get_row(NULL::app.typed, 1)}), '(1,5,)', 'what could be one is believed');
$s->run('CREATE DOMAIN test.typed AS app.typed');
like(outcome('reader', 'SELECT * FROM echocache_get_row(NULL::test.typed, 1)'), qr/^42704: /, 'a domain is no row type of a table');
$memcached->delete('session:1');

#
# A writer needs nothing beyond the table's privileges: with the servers UP, and with them away.
#
$s->run(q{REVOKE ALL ON SCHEMA public FROM PUBLIC;
	REVOKE EXECUTE ON FUNCTION echocache_row_trigger(), echocache_truncate_trigger(), echocache_dependent_trigger() FROM PUBLIC});
my $w = session($node, user => 'writer');
$w->run(q{INSERT INTO app.session VALUES ('w', '1', 'written', NULL); INSERT INTO app.made VALUES ('w', '1'); INSERT INTO app.part VALUES ('w', 'by the writer')});
holds($memcached, 'session:w', '{"id":"w","owner":"1","title":"written"}', 'a writer writes through');
holds($memcached, 'made:w', '{"id" : "w", "owner" : "1", "parts" : "by the writer"}', 'what a function makes, of what he may not read');
like($w->error('SELECT * FROM app.part'), qr/^42501: /, 'which is so');
setting($s, 'echocache.retry_interval' => '10min', 'echocache.timeout' => '500ms');
$memcached->freeze;
$w->run(q{UPDATE app.session SET title = 'while it is away'; INSERT INTO app.part VALUES ('w', 'x'); DELETE FROM app.made});
cmp_ok($s->run('SELECT sum(waiting) FROM public.echocache_servers'), '>', 0, 'and into the outbox');
$w->run('TRUNCATE app.session');
$memcached->thaw;
setting($s, 'echocache.retry_interval' => '50ms', 'echocache.timeout' => '5s');
wait_state(session($node, sql => 'SET search_path = public'), 'UP');
invalidated($memcached, 'session:w', 'all of it is invalidated');
$w->quit;
$s->run(q{GRANT USAGE ON SCHEMA public TO PUBLIC;
	GRANT EXECUTE ON FUNCTION echocache_row_trigger(), echocache_truncate_trigger(), echocache_dependent_trigger() TO PUBLIC});

#
# pg_dump, of one's own tables without any right on the schema echocache.
#
for my $table ('app.free', 'app.session', 'app.made')
{
	my $file = PostgreSQL::Test::Utils::tempdir() . "/$table.sql";

	$node->command_ok([ 'pg_dump', '-U', 'owner', '-t', $table, '-f', $file, $node->connstr('postgres') ], "pg_dump of $table by its owner");
	like(slurp_file($file), qr/CREATE TRIGGER echocache_row_\w+ AFTER/, 'has the trigger') unless $table eq 'app.free';
}
$s->run('CREATE ROLE dumper LOGIN IN ROLE pg_read_all_data');
$node->command_ok([ 'pg_dump', '-U', 'dumper', '-f', PostgreSQL::Test::Utils::tempdir() . '/all.sql', $node->connstr('postgres') ], 'and of everything with pg_read_all_data');

#
# doc/security.md: what it tells to grant is what is needed.
#
my @examples = slurp_file("$FindBin::RealBin/../../doc/security.md") =~ /^```sql\n(.*?)^```/msg;
cmp_ok(scalar @examples, '>=', 2, 'doc/security.md has examples');
is($s->error($_), 'no error', 'doc/security.md: ' . (split /\n/)[0]) for @examples;
$s->run(q{CREATE ROLE operator LOGIN IN ROLE echocache_admin; CREATE ROLE application LOGIN IN ROLE echocache_kv});
$as{$_} = session($node, user => $_) for 'operator', 'application';
for my $name (sort grep { $objects{"function $_"} =~ /granted|monitor/ && !/\./ } keys %functions)
{
	my ($operator, $application) = $name =~ /kv_(?!stats)/ ? (qr/^42501/, qr/^(?:\(|no row|22P02: the value)/) : (qr/^(?:\(|no row)/, qr/^42501/);

	all_like('operator', calls($name, 'made'), $operator, "$name as an echocache_admin");
	all_like('application', calls($name, 'made'), $application, "$name as an echocache_kv");
}
unlike(outcome('operator', "SELECT * FROM $_"), qr/^\d\w{4}: /, "$_ as an echocache_admin") for 'echocache_documents', 'echocache_servers', 'echocache_stats', 'echocache_latency', 'echocache_latency_buckets', 'echocache_memory';

# A session that has just ended, or a worker, may hold one for a moment.
eventually('no lock is left', sub { return $s->run(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid NOT IN (1, 2)}) eq '0' });
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|was terminated by signal/, 'and nobody has crashed');

done_testing();
