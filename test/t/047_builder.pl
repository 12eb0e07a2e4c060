# No burden: nobody's code runs in a commit, a document that cannot be made fails none, no commit
# waits for somebody who makes one, and a miss takes the locks of a SELECT and a few more.  What
# is not plain is made by the builder.
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
my $proxy = proxy($memcached);
my $node = new_node('main', hosts => [$proxy], conf => "max_worker_processes = 12\nlog_statement = none\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE composed (id int PRIMARY KEY, v int, slow float8 DEFAULT 0);
	CREATE FUNCTION composed_document(c composed) RETURNS json STABLE LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM pg_sleep(c.slow);
			RETURN json_build_object('id', c.id, 'v', 100 / c.v,
				'by', (SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid()));
		END $$;
	SELECT echocache_attach('composed', 'composed', document => 'composed_document')});
my $other = session($node);

# What the counters say of a document.
sub counted
{
	my ($document, @names) = @_;

	return $s->run("SELECT @{[ join ', ', @names ]} FROM echocache_stats WHERE name = '$document'");
}

wait_state($s, 'UP');

#
# The builder makes it, and the commit does not.
#
$s->run('INSERT INTO composed VALUES (1, 2)');
await_builder($s);
holds($memcached, 'composed:1', '{"id" : 1, "v" : 50, "by" : "echocache builder"}', 'the builder has made the document');
is(counted('composed', qw(builds build_errors builds_dropped write_throughs)), '1|0|0|0', 'which is counted');
is($s->run(q{SELECT echocache_get('composed', 1)}), '{"id" : 1, "v" : 50, "by" : "echocache builder"}', 'and is a hit');
$s->run(q{UPDATE composed SET v = 4});
await_builder($s);
holds($memcached, 'composed:1', '{"id" : 1, "v" : 25, "by" : "echocache builder"}', 'the next change, too');

# The writer has released the key by then, however long its own end takes.
my $writer = session($node);
stop_at($other, 'after-store', $writer, 'UPDATE composed SET v = 20');
await_builder($s);
holds($memcached, 'composed:1', '{"id" : 1, "v" : 5, "by" : "echocache builder"}', 'the builder does not wait for the end of the commit');
go_on($other, $writer);
$writer->run("SET echocache.wait_point = ''");

# One that takes its time.
my $took = EchoCache::seconds(sub { $s->run('UPDATE composed SET slow = 3, v = 5') });
in_time($s, $took, 1.5, 'a commit does not wait for a slow function');
marked($memcached, 'composed:1', 'until it is made there is a marker');
$took = EchoCache::seconds(sub { $s->run('UPDATE composed SET slow = 0, v = 10') });
in_time($s, $took, 1.5, 'nor does one while the document is being made');
await_builder($s);
holds($memcached, 'composed:1', '{"id" : 1, "v" : 10, "by" : "echocache builder"}', 'and what is cached in the end is the newest');

#
# It cannot be made, or takes too long.
#
my $log = -s $node->logfile;
$s->run('UPDATE composed SET v = 0');
is($s->messages, '', 'a commit whose document cannot be made says nothing');
await_builder($s);
marked($memcached, 'composed:1', 'there is none');
is(counted('composed', 'build_errors'), 1, 'which is counted');
$s->run('UPDATE composed SET slow = 0.001');
await_builder($s);
is(counted('composed', 'build_errors'), 2, 'each time');
my @warnings = slurp_file($node->logfile, $log) =~ /WARNING:  (echocache: document .*)/g;
is_deeply(\@warnings, ['echocache: document "composed" with id "1" could not be made: division by zero'], 'and logged once');
like($s->error(q{SELECT echocache_get('composed', 1)}), qr/^22012: division by zero/, 'who reads it gets the error');
setting($s, 'echocache.build_timeout' => '100ms');
$s->run('UPDATE composed SET v = 1, slow = 600');
wait_for('the timeout', sub { return counted('composed', 'build_errors') == 3 });
pass('echocache.build_timeout ends a function that takes longer');
$s->run('UPDATE composed SET slow = 0');
await_builder($s);
holds($memcached, 'composed:1', '{"id" : 1, "v" : 100, "by" : "echocache builder"}', 'and the builder goes on');

#
# More than it can do: what is dropped costs a miss, and nothing else.
#
setting($s, 'echocache.build_timeout' => '60s');
$s->run('SELECT echocache_stats_reset(); INSERT INTO composed VALUES (2, 1, 600)');
wait_for('the builder to be busy', sub { return $s->run(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'echocache builder' AND wait_event = 'PgSleep'}) eq '1' });
$s->run("INSERT INTO composed SELECT g, 1, 0 FROM generate_series($_, $_ + 49) g") for 1000, 1050, 1100, 1150;
is(counted('composed', qw(builds_waiting builds_dropped)), '128|73', 'the ring is bounded, and what does not fit is dropped');
$s->run('UPDATE composed SET v = 2 WHERE id = 1000');
is(counted('composed', qw(builds_waiting builds_dropped)), '128|73', 'a key that waits already is not added');
is($s->run(q{SELECT echocache_get('composed', 1199)}), '{"id" : 1199, "v" : 100, "by" : "client backend"}', 'a reader makes what was dropped');
holds($memcached, 'composed:1199', '{"id" : 1199, "v" : 100, "by" : "client backend"}', 'and caches it');
$s->run(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'echocache builder'});
await_builder($s);
holds($memcached, 'composed:1000', '{"id" : 1000, "v" : 50, "by" : "echocache builder"}', 'cancelled, the builder goes on with the next one');
is(counted('composed', 'build_errors'), 1, 'which counts as an error');

# One that is killed: the next one leaves the key that it was at, which may be why, to whoever reads it.
$s->run(q{INSERT INTO composed VALUES (3, 1, 600)});
wait_for('the builder to be busy', sub { return $s->run(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'echocache builder' AND wait_event = 'PgSleep'}) eq '1' });
$s->run(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'echocache builder'});
$s->run(q{UPDATE composed SET v = 5 WHERE id = 1000});
await_builder($s);
holds($memcached, 'composed:1000', '{"id" : 1000, "v" : 20, "by" : "echocache builder"}', 'a builder that is ended is followed by another');
marked($memcached, 'composed:3', 'which does not begin where it has ended');

#
# It is not asked in vain, and is nobody's hindrance.
#
$s->run(q{SELECT echocache_detach('composed'); SELECT echocache_attach('composed', 'composed', document => 'composed_document', policy => 'invalidate')});
$s->run('SELECT echocache_stats_reset(); UPDATE composed SET v = 1 WHERE id = 1');
is(counted('composed', qw(builds_waiting builds builds_dropped build_errors)), '0|0|0|0', 'policy => invalidate does not feed it');
$s->run('CREATE DATABASE gone');
$s->run(q{ALTER DATABASE gone SET echocache.key_prefix = 'gone/'});
{
	my $gone = session($node, dbname => 'gone', sql => q{
		CREATE EXTENSION echocache;
		CREATE TABLE session (id int PRIMARY KEY, v text);
		CREATE FUNCTION document(s session) RETURNS json STABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); RETURN '{}'; END $$;
		SELECT echocache_attach('session', document => 'document')});

	wait_state($gone, 'UP');
	$gone->run(q{INSERT INTO session VALUES (1, 'a')});
	wait_for('its builder', sub { return $s->run(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'echocache builder' AND datname = 'gone' AND wait_event = 'PgSleep'}) eq '1' });
	$gone->quit;
	wait_for('its client to be gone', sub { return $s->run(q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'gone' AND backend_type = 'client backend'}) eq '0' });
}
is($s->error('DROP DATABASE gone'), 'no error', 'a builder at work leaves for DROP DATABASE');
wait_state($s, 'UP');

#
# Plain documents are the commit's; what cannot be rendered does not fail it.
#
$s->run(q{
	CREATE TYPE mood AS ENUM ('sad', 'glad');
	CREATE TABLE plain (id int PRIMARY KEY, v int, m mood DEFAULT 'glad');
	SELECT echocache_attach('plain', 'plain', filter => '10 / v > 0');
	SELECT echocache_stats_reset()});
$s->run('INSERT INTO plain VALUES (1, 1)');
holds($memcached, 'plain:1', '{"id":1,"v":1,"m":"glad"}', 'a document with an enum, and a filter of built-in operators, is plain');
is(counted('plain', qw(write_throughs builds)), '1|0', 'the commit has stored it');
is($s->error('UPDATE plain SET v = 0'), 'no error', 'a commit whose document cannot be rendered commits');
like($s->messages, qr/WARNING:  22012: document "plain" could not be rendered: division by zero/, 'with a WARNING');
invalidated($memcached, 'plain:1', 'and invalidates the old one');
like($s->error(q{SELECT echocache_get('plain', 1)}), qr/^22012: division by zero/, 'who reads it gets the error');
$s->run(q{CREATE FUNCTION of_sql(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 > 0; END';
	SELECT echocache_detach('plain'); SELECT echocache_attach('plain', 'plain', filter => 'of_sql(v)')});
$s->run('SELECT echocache_stats_reset(); UPDATE plain SET v = 2');
await_builder($s);
is(counted('plain', qw(write_throughs builds)), '0|1', 'one with a filter in another language is the builder\'s');

#
# What is no function call may be one all the same.
#
$s->run(q{
	CREATE FUNCTION sees(anyelement) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN true; END $$;
	CREATE DOMAIN seen AS int CHECK (sees(VALUE));
	CREATE FUNCTION mood_json(mood) RETURNS json IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN '"moody"'; END $$;
	CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood)});
for ([ 15, 'a cast to a domain', 'v::seen IS NOT NULL' ], [ 15, 'a call', 'sees(v)' ], [ 15, 'a call in a CASE', 'CASE WHEN v > 0 THEN sees(v) ELSE false END' ],
	[ 16, 'JSON_OBJECT, which casts', q{JSON_OBJECT('a': m RETURNING jsonb) IS NOT NULL} ], [ 17, 'JSON_VALUE, which makes a domain', q{v > 0 AND JSON_VALUE(jsonb '{"a": 1}', '$.a' RETURNING seen) IS NOT NULL} ])
{
	my ($since, $what, $filter) = @$_;

	next if $node->pg_version < $since;
	$s->run(q{DROP TABLE IF EXISTS tricky; CREATE TABLE tricky (id int PRIMARY KEY, v int, m mood DEFAULT 'glad')});
	$s->run("SELECT echocache_attach('tricky', 'tricky', exclude => '{m}', filter => " . q{$f$} . $filter . q{$f$)});
	$s->run('INSERT INTO tricky VALUES (1, 1)');
	await_builder($s);
	is(counted('tricky', qw(write_throughs builds)), '0|1', "a filter with $what is the builder's");
}

#
# A function that may see the temporary tables of whoever makes the document: in such a session it
# makes none for others.
#
$s->run(q{
	CREATE TABLE shown (id int PRIMARY KEY);
	CREATE TABLE beside (n int);
	INSERT INTO beside VALUES (1);
	CREATE FUNCTION shown_document(s shown) RETURNS json STABLE LANGUAGE sql SET search_path = public AS 'SELECT json_build_object(''id'', s.id, ''n'', (SELECT n FROM beside))';
	SELECT echocache_attach('shown', 'shown', document => 'shown_document');
	INSERT INTO shown VALUES (1)});
await_builder($s);
{
	my $temp = session($node, sql => 'CREATE TEMPORARY TABLE beside (n int); INSERT INTO beside VALUES (2)');

	like($temp->error(q{SELECT echocache_warm('shown')}), qr/^55000: echocache_warm\(\) cannot make documents of "shown" in this session/, 'a session with temporary tables does not warm');
	like($temp->error(q{SELECT * FROM echocache_verify('shown')}), qr/^55000: echocache_verify\(\) cannot make documents of "shown" in this session/, 'nor verify');
	$temp->run(q{SELECT echocache_invalidate('shown', 1); SELECT echocache_get('shown', 1)});
	$temp->quit;
}
is($s->run(q{SELECT echocache_get('shown', 1)}), '{"id" : 1, "n" : 1}', 'and what it makes for itself is not cached');

#
# A connection that is closed while a document is made says nothing of the server.
#
$log = -s $node->logfile;
$s->run('UPDATE composed SET v = 1, slow = 0; UPDATE composed SET v = 2, slow = 3 WHERE id = 1; SELECT echocache_invalidate($$composed$$, 1)');
$other->send(q{SELECT echocache_get('composed', 1)});
wait_for('the fill to be busy', sub { return $s->run('SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $other->pid) eq 'PgSleep' });
$proxy->tell('reset');
is($other->finish, '{"id" : 1, "v" : 50, "by" : "client backend"}', 'a fill whose connection was closed meanwhile');
unlike(slurp_file($node->logfile, $log), qr/is down/, 'leaves the server UP');

#
# A miss takes what a SELECT takes, and a constant more.
#
$s->run(q{CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)});
$s->run("CREATE TABLE parts_$_ PARTITION OF parts FOR VALUES FROM (${_}0) TO (${_}9)") for 1 .. 300;
$s->run(q{SELECT echocache_attach('parts', 'parts'); INSERT INTO parts SELECT g * 10, 'v' FROM generate_series(1, 300) g});
my $locks = 'SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()';
for my $round (1 .. 8)	# PostgreSQL keeps a plan after five
{
	my $id = 10 * $round;

	$other->run("BEGIN; SELECT * FROM parts WHERE id = $id");
	my $select = $other->run($locks);
	$other->run("COMMIT; BEGIN; SELECT echocache_get('parts', $id)");
	my $miss = $other->run($locks);
	$other->run('COMMIT');
	cmp_ok($miss, '<=', $select + 12, "300 partitions, miss $round: $miss locks, of a SELECT $select");
}

$_->quit for $s, $other;
$node->stop;
done_testing();
