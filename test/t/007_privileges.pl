# The cache shows no one a row that SQL would not, on a hit as on a miss, and
# lets nobody do to a document what is not his to do.
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

my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached]);
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE ROLE app LOGIN; CREATE ROLE reader LOGIN; CREATE ROLE columns LOGIN; CREATE ROLE stranger LOGIN; CREATE ROLE writer LOGIN;
	CREATE SCHEMA private AUTHORIZATION app;
	GRANT USAGE ON SCHEMA private TO reader, columns, writer});
wait_state($s, 'UP');

my %as = map { $_ => session($node, user => $_) } qw(app reader columns stranger writer);

$as{app}->run(q{
	CREATE TABLE private.session (id bigint PRIMARY KEY, owner bigint, title text, secret text);
	CREATE TABLE private.mine (id bigint PRIMARY KEY);
	SELECT echocache_attach('private.session', owner_column => 'owner', exclude => '{secret}');
	GRANT SELECT ON private.session TO reader;
	GRANT SELECT (id, owner, title) ON private.session TO columns;
	GRANT INSERT, UPDATE, DELETE, TRUNCATE ON private.session TO writer;
	GRANT SELECT (id) ON private.session TO writer;
	INSERT INTO private.session VALUES (1, 7, 'one', 'x'), (2, 8, 'two', 'y')});
my $one = '{"id":1,"owner":7,"title":"one"}';
holds($memcached, 'session:1', $one, 'the owner of a table may attach it');

#
# Reading.
#
sub hits { return $s->run(q{SELECT hits FROM echocache_stats WHERE name = 'session'}); }

for my $how ('hit', 'miss')
{
	for my $call ('echocache_get_session(1)', 'echocache_get_session(1, 7)', q{echocache_get('session', 1)},
		q{(SELECT session FROM echocache_get_sessions('{1}'::bigint[]))}, q{(SELECT document FROM echocache_get_many('session', '{1}'::bigint[]))})
	{
		for my $user (qw(reader columns))
		{
			$memcached->delete('session:1') if $how eq 'miss';
			$s->run('SELECT echocache_get_session(1)') if $how eq 'hit';
			my $before = hits();
			is($as{$user}->run("SELECT $call"), $one, "$how: $call as $user");
			is(hits() - $before, $how eq 'hit' ? 1 : 0, "was a $how");
		}
		$memcached->delete('session:1') if $how eq 'miss';
		for my $user (qw(stranger writer))
		{
			like($as{$user}->error("SELECT $call"), qr/^42501: permission denied/, "$how: $call as $user is refused");
		}
	}
}
for my $call ('echocache_touch_session(1)', 'echocache_invalidate_session(1)', 'echocache_refresh_session(1)',
	q{echocache_touch('session', 1)}, q{echocache_invalidate('session', 1)}, q{echocache_refresh('session', 1)})
{
	$s->run('SELECT echocache_get_session(1)');
	like($as{stranger}->error("SELECT $call"), qr/^42501: permission denied/, "$call needs SELECT");
	holds($memcached, 'session:1', $one, 'and did nothing');
	is($as{reader}->run("SELECT $call"), 't', "$call with it");
}

# The wrong owner, an absent row and a row that is hidden cannot be told apart.
is($as{reader}->run('SELECT echocache_get_session(1, 8)'), '', 'hit: the wrong owner');
$memcached->delete('session:1');
is($as{reader}->run('SELECT echocache_get_session(1, 8)'), '', 'miss: the wrong owner');
is($as{reader}->run('SELECT echocache_get_session(3, 8)'), '', 'an absent row');
is($as{reader}->run(q{SELECT id FROM echocache_get_sessions('{1,2}'::bigint[], 8::bigint)}), '2', 'get_sessions leaves out what is not his');

# A grant that goes is gone at once.
is($as{reader}->run('SELECT echocache_get_session(1)'), $one, 'before a REVOKE');
$as{app}->run('REVOKE SELECT ON private.session FROM reader');
like($as{reader}->error('SELECT echocache_get_session(1)'), qr/^42501: /, 'after it');
$as{app}->run('GRANT SELECT (id, owner) ON private.session TO reader');
like($as{reader}->error('SELECT echocache_get_session(1)'), qr/^42501: /, 'one column of the document is missing');
$as{app}->run('GRANT SELECT ON private.session TO reader');
is($as{reader}->run('SELECT echocache_get_session(1)'), $one, 'after a GRANT');
$as{app}->run('REVOKE SELECT (id, owner) ON private.session FROM columns');
like($as{columns}->error('SELECT echocache_get_session(1)'), qr/^42501: /, 'a column grant that goes is gone at once');

# Who may write the table writes the cache, without being able to read it.
$as{writer}->run(q{UPDATE private.session SET title = 'written' WHERE id = 1; INSERT INTO private.session VALUES (3, 7, 'three', 'z')});
holds($memcached, 'session:1', '{"id":1,"owner":7,"title":"written"}', 'a writer without SELECT writes through');
holds($memcached, 'session:3', '{"id":3,"owner":7,"title":"three"}', 'new rows too');
$as{writer}->run('DELETE FROM private.session WHERE id = 3');
misses($memcached, 'session:3', 'and removes');

# Whom SECURITY DEFINER and SET ROLE let read.
$s->run('SET ROLE stranger');
like($s->error('SELECT echocache_get_session(1)'), qr/^42501: /, 'SET ROLE counts');
$s->run('RESET ROLE');
$as{app}->run(q{CREATE FUNCTION private.lend(bigint) RETURNS json LANGUAGE sql SECURITY DEFINER AS 'SELECT public.echocache_get_session($1)';
	GRANT USAGE ON SCHEMA private TO stranger});
is($as{stranger}->run('SELECT private.lend(1)'), '{"id":1,"owner":7,"title":"written"}', 'so does SECURITY DEFINER');

#
# Row-level security: those to whom it applies read the table.
#
$as{app}->run(q{ALTER TABLE private.session ENABLE ROW LEVEL SECURITY;
	CREATE POLICY own ON private.session FOR SELECT TO reader USING (owner = 7);
	CREATE POLICY all_of_it ON private.session FOR ALL TO writer USING (true)});
$s->run('SELECT echocache_get_session(1), echocache_get_session(2)');
holds($memcached, 'session:2', '{"id":2,"owner":8,"title":"two"}', 'a superuser fills');
my $before = hits();
is($as{reader}->run('SELECT echocache_get_session(1)'), '{"id":1,"owner":7,"title":"written"}', 'a row that the policy shows');
is($as{reader}->run('SELECT echocache_get_session(2)'), '', 'a cached row that it does not');
is($as{reader}->run('SELECT echocache_get_session(2, 8)'), '', 'not with the right owner either');
is($as{reader}->run(q{SELECT string_agg(id, ' ') FROM echocache_get_sessions('{1,2}'::bigint[])}), '1', 'nor by get_sessions');
is(hits() - $before, 0, 'without a look at the cache');
cmp_ok($s->run(q{SELECT bypass_row_security FROM echocache_stats WHERE name = 'session'}), '>=', 4, 'counted as bypasses');
$memcached->delete('session:2');
is($as{reader}->run('SELECT echocache_get_session(2)'), '', 'nor when it is not cached');
misses($memcached, 'session:2', 'and nothing is stored on his behalf');
$as{app}->run('SELECT echocache_get_session(2)');
holds($memcached, 'session:2', '{"id":2,"owner":8,"title":"two"}', 'the owner of the table is exempt');
$as{app}->run('ALTER TABLE private.session FORCE ROW LEVEL SECURITY');
is($as{app}->run('SELECT echocache_get_session(2)'), '', 'unless it is forced');
$as{writer}->run(q{UPDATE private.session SET title = 'under a policy'});
holds($memcached, "session:$_", $s->run("SELECT row_to_json(x) FROM (SELECT id, owner, title FROM private.session WHERE id = $_) x"),
	"a write under a policy writes through: $_") for 1, 2;
$as{app}->run('ALTER TABLE private.session DISABLE ROW LEVEL SECURITY; ALTER TABLE private.session NO FORCE ROW LEVEL SECURITY');
is($as{reader}->run('SELECT echocache_get_session(2)'), '{"id":2,"owner":8,"title":"under a policy"}', 'without it everybody with SELECT reads again');

#
# What is not everybody's.
#
like($as{stranger}->error(q{SELECT echocache_attach('private.mine', 'mine')}), qr/^42501: /, 'attach needs the table to be his');
like($as{reader}->error(q{SELECT echocache_attach('private.mine', 'mine')}), qr/^42501: must be owner of table mine/, 'and says so');
like($as{reader}->error(q{SELECT echocache_detach('session')}), qr/^42501: must be owner of table session/, 'detach too');
is($s->run(q{SELECT count(*) FROM echocache_documents WHERE name = 'session'}), 1, 'nothing was detached');
like($as{app}->error(q{SELECT echocache_attach('pg_catalog.pg_class', 'catalog')}), qr/^42501: |^42809: /, 'nor a catalog');
# Everything else that is the superuser's or has been granted.
my $shared = qr/^echocache_(?:get|get_session|get_sessions|get_many|touch|touch_session|invalidate|invalidate_session|refresh|refresh_session|get_row|attach|detach|attach_dependent|detach_dependent|is_available)$/;
for my $function (split /\n/, $s->run(q{SELECT proname || ' ' || has_function_privilege('stranger', p.oid, 'EXECUTE')
	FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
		JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
	WHERE extname = 'echocache' AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) GROUP BY 1 ORDER BY 1}))
{
	my ($name, $granted) = split / /, $function;
	next if $name =~ /trigger/;
	is($granted, $name =~ $shared ? 'true' : 'false', "PUBLIC and $name");
}
like($as{app}->error('SELECT echocache_stats_reset()'), qr/^42501: permission denied for function/, 'as it says');
like($as{app}->error("SELECT * FROM $_"), qr/^42501: permission denied/, "PUBLIC and $_")
  for qw(echocache.document echocache_servers echocache_stats echocache_documents);
$s->run('GRANT pg_monitor TO app');
is($as{app}->error("SELECT * FROM $_"), 'no error', "pg_monitor and $_") for qw(echocache_servers echocache_stats echocache_documents);
is($as{app}->error('SELECT * FROM echocache_health()'), 'no error', 'pg_monitor and echocache_health()');
$s->run('REVOKE pg_monitor FROM app');
like($as{app}->error(q{SET echocache.key_prefix = 'other:'}), qr/^42501: /, 'nor is the key prefix');
like($as{app}->error(q{SET echocache.timeout = 1}), qr/^55P02: /, 'nor any setting');

# Detached by its owner.
is($as{app}->run(q{SELECT echocache_detach('session') >= 0}), 't', 'its owner may detach it');
like($as{reader}->error('SELECT echocache_get_session(1)'), qr/^42704: |^42P01: /, 'and then there is no such document');

done_testing();
