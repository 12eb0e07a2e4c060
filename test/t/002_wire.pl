# What a plain client sees: exact bytes, client flags, lifetimes, markers and
# keys; that nothing is sent when nothing changed; and that what does not fit
# into memcached is never left there in an older version.
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
my $s = session($node, sql => 'CREATE EXTENSION echocache');
wait_state($s, 'UP');

# One counter of echocache_stats.
sub counter
{
	my ($what, $document) = @_;
	return $s->run("SELECT $what FROM echocache_stats WHERE name = '$document'");
}

#
# The bytes.
#
$s->run(q{
	CREATE TYPE mood AS ENUM ('sad', 'merry');
	CREATE TABLE wide (
		id uuid PRIMARY KEY, t text, n numeric, f float8, b boolean, ts timestamptz, d date, i interval,
		bin bytea, j json, jb jsonb, a int[], m mood, r int4range, c regclass, nothing text);
	SELECT echocache_attach('wide', 'wide')});
my $uuid = 'c0ffee00-0000-4000-8000-00000000000a';

# Whatever the writer's own settings are.
my $w = session($node, sql => q{
	SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'German'; SET IntervalStyle = 'iso_8601';
	SET extra_float_digits = 0; SET bytea_output = 'escape'; SET search_path = public;
	SET client_encoding = 'LATIN1'});
$w->run(qq{INSERT INTO wide VALUES (upper('$uuid')::uuid, U&'quote " backslash \\\\ line\\000a tab\\0009 \\00e9 \\20ac \\+01f600',
	1.50, 0.1::float8 + 0.2, true, '2026-01-02 03:04:05.678+00', '2026-01-02', '1 day 02:03:04',
	'\\x00ff7f', '{"spaces":  "kept"}', '{"b": 1, "a": null}', '{1,NULL,3}', 'merry', '[1,5)', 'public.wide', NULL)});
my $bytes = join '', qq({"id":"$uuid","t":"quote \\" backslash \\\\ line\\n tab\\t \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80",),
  q{"n":1.50,"f":0.30000000000000004,"b":true,"ts":"2026-01-02T03:04:05.678+00:00","d":"2026-01-02",},
  q{"i":"1 day 02:03:04","bin":"\\\\x00ff7f","j":{"spaces":  "kept"},"jb":{"a": null, "b": 1},},
  q{"a":[1,null,3],"m":"merry","r":"[1,5)","c":"public.wide","nothing":null} . '}';
holds($memcached, "wide:$uuid", $bytes, 'exact bytes, in UTF-8, under canonical settings');
is($memcached->flags("wide:$uuid"), 0, 'client flags 0');
is($w->run('SELECT 0.1::float8 + 0.2'), '0.3', "the writer's own settings are as they were");

# A hit and a miss are the same bytes, for a reader with settings of its own.
my $query = "SELECT encode(convert_to(echocache_get('wide', '\U$uuid\E')::text, 'UTF8'), 'hex')";
my $hit = $w->run($query);
is($hit, unpack('H*', $bytes), 'a hit hands on the cached bytes');
$memcached->delete("wide:$uuid");
is($w->run($query), $hit, 'a miss renders the same');
holds($memcached, "wide:$uuid", $bytes, 'and has stored it');
is($w->run("BEGIN ISOLATION LEVEL REPEATABLE READ; $query; COMMIT"), $hit, 'so does a read that bypasses the cache');
is(counter('hits', 'wide') . '/' . counter('misses', 'wide') . '/' . counter('fills', 'wide'), '1/1/1',
	'hits, misses and fills were counted');
$w->quit;

# The document is row_to_json of the row.
$s->run(q{SET TimeZone = 'UTC'; SET search_path = pg_catalog});
is(unpack('H*', $memcached->get("wide:$uuid")),
	$s->run("SELECT encode(convert_to(row_to_json(w)::text, 'UTF8'), 'hex') FROM public.wide w"),
	'byte for byte what row_to_json gives');
$s->run('RESET ALL');

#
# Lifetimes.
#
$s->run(q{
	CREATE TABLE plain (id bigint PRIMARY KEY, v text);
	CREATE TABLE short (id bigint PRIMARY KEY, v text);
	CREATE TABLE month (id bigint PRIMARY KEY, v text);
	CREATE TABLE forever (id bigint PRIMARY KEY, v text);
	SELECT echocache_attach('plain', 'plain'), echocache_attach('short', 'short', ttl => '90 s'),
		echocache_attach('month', 'month', ttl => '40 days'), echocache_attach('forever', 'forever', ttl => '0');
	INSERT INTO plain VALUES (1, 'a'); INSERT INTO short VALUES (1, 'a');
	INSERT INTO month VALUES (1, 'a'); INSERT INTO forever VALUES (1, 'a')});

# Is this what is left, a few seconds later at the most, of a lifetime?  memcached's
# clock may be behind by one, which shows in a lifetime sent as a date.
sub lives
{
	my ($key, $seconds, $name) = @_;
	$memcached->settled($key, 0.5);
	my $ttl = $memcached->ttl($key) // 'missing';

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($ttl, $seconds, $name) if $seconds < 0 || $ttl eq 'missing';
	return ok($ttl <= $seconds + 2 && $ttl > $seconds - 10, $name) || diag("$key has $ttl s left, not $seconds");
}

lives('plain:1', 1800, 'echocache.ttl');
lives('short:1', 90, "the document's own ttl");
lives('month:1', 40 * 86400, 'over 30 days, which memcached would take for a date');
lives('forever:1', -1, 'no expiry');
holds($memcached, 'month:1', '{"id":1,"v":"a"}', 'and has not expired at once');

$memcached->exchange("mg plain:1 T5\r\n", qr/^(?:HD|OK)/);
is($s->run(q{SELECT echocache_touch('plain', 1)}), 't', 'touch finds it');
lives('plain:1', 1800, 'touch renews the lifetime');
is($s->run(q{SELECT echocache_touch('plain', 1, '45 days')}), 't', 'touch with a lifetime');
lives('plain:1', 45 * 86400, 'over 30 days as well');
is($s->run(q{SELECT echocache_touch('plain', 1, '1 min')}), 't', 'touch with a lifetime');
lives('plain:1', 60, 'a short one');
$s->run(q{UPDATE plain SET v = 'b'});
lives('plain:1', 1800, 'a write renews it');
holds($memcached, 'plain:1', '{"id":1,"v":"b"}', 'with the new document');
is($s->run(q{SELECT echocache_touch('plain', 2)}), 'f', 'touch does not find what is not there');
misses($memcached, 'plain:2', 'and stores nothing');
$memcached->delete('plain:1');
is($s->run(q{SELECT echocache_touch('plain', 1)}), 'f', 'touch does not find what is not cached');
misses($memcached, 'plain:1', 'and stores nothing there either');

setting($s, 'echocache.ttl' => '77 s');
$s->run(q{UPDATE plain SET v = 'c'; UPDATE short SET v = 'c'});
lives('plain:1', 77, 'echocache.ttl can be changed');
lives('short:1', 90, "and does not touch a document's own");
setting($s, 'echocache.ttl' => '0');
$s->run(q{UPDATE plain SET v = 'd'});
lives('plain:1', -1, 'echocache.ttl = 0 is no expiry');
setting($s, 'echocache.ttl' => '60 d');
$s->run(q{UPDATE plain SET v = 'e'});
lives('plain:1', 60 * 86400, 'echocache.ttl over 30 days');
setting($s, 'echocache.ttl' => '1800 s');

#
# Markers: invalidated, or written by a bulk.
#
setting($s, 'echocache.max_write_through' => '3', 'echocache.marker_ttl' => '20 s');
$s->run(q{INSERT INTO plain SELECT g, 'bulk' FROM generate_series(101, 110) g});
marked($memcached, 'plain:101', 'a marker is the JSON text null');
is($memcached->flags('plain:101'), 0, 'client flags 0 too');
lives('plain:101', 20, 'echocache.marker_ttl');
is($s->run(q{SELECT echocache_get('plain', 101)}), '{"id":101,"v":"bulk"}', 'a read passes over it');
holds($memcached, 'plain:101', '{"id":101,"v":"bulk"}', 'and puts the document in its place');
lives('plain:101', 1800, 'with the lifetime of a document');
setting($s, 'echocache.max_write_through' => '64');

$s->run(q{CREATE TABLE shy (id bigint PRIMARY KEY, v text);
	SELECT echocache_attach('shy', 'shy', policy => 'invalidate');
	INSERT INTO shy VALUES (1, 'a')});
misses($memcached, 'shy:1', 'policy invalidate stores nothing at a commit');
is($s->run(q{SELECT echocache_get('shy', 1)}), '{"id":1,"v":"a"}', 'a read does');
holds($memcached, 'shy:1', '{"id":1,"v":"a"}', 'store it');
$s->run(q{UPDATE shy SET v = 'b'});
misses($memcached, 'shy:1', 'the next commit removes it');

#
# No traffic.
#
$s->run(q{
	CREATE TABLE quiet (id bigint PRIMARY KEY, v text, owner int, seen timestamptz, gone boolean DEFAULT false);
	CREATE TABLE unrelated (id bigint PRIMARY KEY, v text);
	SELECT echocache_attach('quiet', 'quiet', exclude => '{seen}', filter => 'NOT gone', owner_column => 'owner');
	INSERT INTO quiet VALUES (1, 'a', 7, now(), false), (2, 'hidden', 7, now(), true);
	INSERT INTO unrelated VALUES (1, 'a')});
my $document = '{"id":1,"v":"a","owner":7,"gone":false}';
holds($memcached, 'quiet:1', $document, 'an excluded column is left out');
wait_state($s, 'UP');
long_lease($s, $memcached);
for my $sql (
	q{UPDATE quiet SET seen = now()},
	q{UPDATE quiet SET v = v, id = id},
	q{INSERT INTO quiet VALUES (1, 'b', 7) ON CONFLICT DO NOTHING},
	q{UPDATE unrelated SET v = 'b'; DELETE FROM unrelated},
	q{BEGIN; UPDATE quiet SET v = 'b'; ROLLBACK},
	q{BEGIN; SAVEPOINT a; UPDATE quiet SET v = 'b'; ROLLBACK TO a; COMMIT},
	q{UPDATE quiet SET v = 'b' WHERE false},
	q{SELECT * FROM quiet},
	q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT echocache_get('quiet', 1); COMMIT},
	q{SELECT echocache_get('quiet', NULL)})
{
	my $before = $memcached->traffic;
	$s->run($sql);
	is($memcached->traffic, $before, "not a byte sent: $sql");
}
holds($memcached, 'quiet:1', $document, 'and the document is as it was');
{
	my $before = $memcached->traffic;
	$s->run(q{UPDATE quiet SET v = 'b'  WHERE id = 1});
	cmp_ok($memcached->traffic, '>', $before, 'while a change of the document is counted as traffic');
}

# One pipelined exchange, not one round trip a key: a server sees few reads.
{
	$s->run(q{INSERT INTO plain SELECT g, 'many' FROM generate_series(1001, 1050) g});
	my $before = $memcached->stats;
	is($s->run(q{SELECT count(*) FROM echocache_get_many('plain', ARRAY(SELECT generate_series(1001, 1050)::bigint))}),
		50, 'fifty documents');
	my $after = $memcached->stats;
	is($after->{get_hits} - $before->{get_hits}, 50, 'are fifty gets');
	my $sent = $memcached->traffic;
	$s->run(q{SELECT count(*) FROM echocache_get_many('plain', ARRAY[]::bigint[])});
	is($memcached->traffic, $sent, 'none are none');
}

#
# Keys.
#
$s->run(q{CREATE TABLE named (name text PRIMARY KEY, v int);
	SELECT echocache_attach('named', 'named')});
my %keys = (
	'with space' => 'named:with%20space',
	'100%' => 'named:100%25',
	"tab\tnewline\n" => 'named:tab%09newline%0A',
	"caf\xc3\xa9" => 'named:caf%C3%A9',
	'a:b/c?d' => 'named:a:b/c?d',
	'' => 'named:',
	"\x7f~!" => 'named:%7F~!');
for my $id (sort keys %keys)
{
	my $literal = "convert_from('\\x" . unpack('H*', $id) . "', 'UTF8')";
	$s->run("INSERT INTO named VALUES ($literal, 1)");
	holds($memcached, $keys{$id}, $s->run("SELECT row_to_json(n) FROM named n WHERE name = $literal"),
		"key $keys{$id}");
	my $planted = $s->run("SELECT row_to_json(n) FROM (SELECT name, 'memcached' AS \"from\" FROM named WHERE name = $literal) n");
	$memcached->set($keys{$id}, $planted);
	is($s->run("SELECT echocache_get('named', $literal)"), $planted, 'is the key that SQL reads');
	$s->run("DELETE FROM named WHERE name = $literal");
	misses($memcached, $keys{$id}, 'and that a delete clears');
}

# A key has 250 bytes at the most: 'named:' and 244 of the name.
my ($fits, $long, $encoded) = ('x' x 244, 'x' x 245, ' ' x 82);
$s->run("INSERT INTO named VALUES ('$fits', 1)");
holds($memcached, "named:$fits", qq({"name":"$fits","v":1}), 'a key of 250 bytes');
for my $id ($long, $encoded)
{
	my ($before, $skipped) = ($memcached->traffic, counter('bypass_key', 'named'));
	$s->run("INSERT INTO named VALUES ('$id', 1)");
	is($s->run("SELECT echocache_get('named', '$id')"), qq({"name":"$id","v":1}),
		'a row whose key is longer is read from the table');
	is($memcached->traffic, $before, 'and never cached');
	cmp_ok(counter('bypass_key', 'named'), '>', $skipped, 'and counted as a bypass');
	is($s->run("UPDATE named SET v = 2 WHERE name = '$id'; SELECT echocache_get('named', '$id')"),
		qq({"name":"$id","v":2}), 'also after a change');
}
is($s->run("SELECT count(*) FROM echocache_get_many('named', ARRAY['$fits', '$long', '$encoded'])"), 3,
	'get_many mixes both kinds');
$s->run(qq{UPDATE named SET name = '$long' || 'y' WHERE name = '$fits'});
misses($memcached, "named:$fits", 'a key that becomes too long is invalidated under its old name');

#
# Size.
#
my $big = "UPDATE plain SET v = repeat('x', 1024 * 1024) WHERE id = 1";
$s->run(q{UPDATE plain SET v = 'small' WHERE id = 1});
holds($memcached, 'plain:1', '{"id":1,"v":"small"}', 'a small document');
$s->run($big);
invalidated($memcached, 'plain:1', 'grown over 1 MB it is invalidated, not left in its old version');
my $opened = $memcached->stats->{total_connections};
is($s->run(q{SELECT length(echocache_get('plain', 1)::text)}), 1024 * 1024 + length '{"id":1,"v":""}',
	'and read from the table');
is($memcached->stats->{total_connections}, $opened, 'over the connection that there is: nothing confuses the server');
invalidated($memcached, 'plain:1', 'which does not store it either');
is($s->run(q{SELECT count(*) FROM echocache_get_many('plain', '{1,101}'::bigint[])}), 2, 'get_many reads it too');
invalidated($memcached, 'plain:1', 'without storing it');
is($s->run(q{SELECT state FROM echocache_servers}), 'UP', 'which is no fault of the server');
$s->run("INSERT INTO plain VALUES (7001, 'a'), (7002, 'b'), (7003, 'c')");
$s->run("BEGIN; UPDATE plain SET v = repeat(E'\\n', 1024 * 1024) WHERE id IN (7001, 7002); "
	. 'DELETE FROM plain WHERE id = 7003; COMMIT');
misses($memcached, 'plain:7003', 'next to two that are too large, a deleted one goes');
is($s->run(q{SELECT count(*) FROM echocache_get_many('plain', '{7001,7002,7003}'::bigint[])}), 2, 'and the two are read');
is($memcached->stats->{total_connections}, $opened, 'nothing of them was taken for requests');
$s->run(q{UPDATE plain SET v = 'small again' WHERE id = 1});
holds($memcached, 'plain:1', '{"id":1,"v":"small again"}', 'shrunk it is cached again');

# Around the limit no size may leave the old version behind.
for my $size (1024 * 1024 - 1000, 1024 * 1024 - 200, 1024 * 1024 - 100, 1024 * 1024 - 60, 1024 * 1024 - 15)
{
	$s->run("UPDATE plain SET v = 'before $size' WHERE id = 1");
	$s->run("UPDATE plain SET v = repeat('y', $size) WHERE id = 1");
	my $value = $memcached->settled('plain:1', 0.5) // 'null';
	ok($value eq 'null' || $value eq '{"id":1,"v":"' . 'y' x $size . '"}', "a value of $size bytes and some");
}
is($s->run(q{SELECT state FROM echocache_servers}), 'UP', 'and the server is still UP');
$s->run(q{UPDATE plain SET v = repeat('z', 1000 * 1000) WHERE id = 1});
holds($memcached, 'plain:1', '{"id":1,"v":"' . 'z' x 1_000_000 . '"}', 'a document of 1,000,000 bytes is cached');

#
# What memcached holds is not trusted.
#
for my $bad ('', 'x', '[1]', '"text"', "{\"id\":1,\"v\":\"\xff\xfe\"}", 'nullx', "\0", '{"id":1,"v":"' . "\xc3" . '"}')
{
	my $shown = $bad =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ger;
	$s->run(q{UPDATE plain SET v = 'true' WHERE id = 1});
	$memcached->set('plain:1', $bad);
	is($s->run(q{SELECT echocache_get('plain', 1)}), '{"id":1,"v":"true"}', "not a document: '$shown'");
	holds($memcached, 'plain:1', '{"id":1,"v":"true"}', 'is replaced');
}

#
# What else a caller can do with one document.
#
is($s->run(q{SELECT echocache_invalidate('plain', 1)}), 't', 'invalidate');
invalidated($memcached, 'plain:1', 'invalidates');
is($s->run(q{SELECT echocache_refresh('plain', 1)}), 't', 'refresh');
holds($memcached, 'plain:1', '{"id":1,"v":"true"}', 'stores the row');
$memcached->set('plain:1', '{"forged":true}');
is($s->run(q{SELECT echocache_refresh('plain', 1)}), 't', 'refresh');
holds($memcached, 'plain:1', '{"id":1,"v":"true"}', 'whatever was there');
$memcached->set('plain:999', '{"forged":true}');
is($s->run(q{SELECT echocache_refresh('plain', 999)}), 'f', 'refresh of no row');
invalidated($memcached, 'plain:999', 'invalidates');

done_testing();
