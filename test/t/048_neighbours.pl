# Databases that have nothing to do with one another: what happens in one costs the documents of
# the others nothing.
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

my @memcached = map { memcached() } 1 .. 2;
my $proxy = proxy($memcached[1]);
my $node = new_node('main', hosts => [ $memcached[0], $proxy ], conf => "echocache.lease = '5s'\nmax_worker_processes = 16\nlog_min_messages = debug1\nlog_statement = none\n");

my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE mine (id int PRIMARY KEY, v int);
	SELECT echocache_attach('mine', 'mine');
	INSERT INTO mine SELECT g, g FROM generate_series(1, 20) g});

# Another database with the extension, a document and a prefix.
sub neighbour
{
	my ($name, $prefix) = @_;

	$s->run("CREATE DATABASE $name");
	$s->run("ALTER DATABASE $name SET echocache.key_prefix = '$prefix'");
	my $its = session($node, dbname => $name, sql => q{
		CREATE EXTENSION echocache;
		CREATE TABLE its (id int PRIMARY KEY, v int);
		SELECT echocache_attach('its', 'its')});

	wait_state($its, 'UP');
	$its->run('INSERT INTO its VALUES (1, 1)');
	return $its;
}

# The states, since when they hold, and what plain clients find.
sub seen
{
	return $s->run(q{SELECT string_agg(state || ' since ' || since, ', ' ORDER BY server) FROM echocache_servers}) . ' ' .
	  join(' ', map { my $id = $_; map { $_->get("mine:$id") // () } @memcached } 1 .. 20);
}

sub generations { return scalar(() = slurp_file($node->logfile) =~ /echocache: the cache is on, with/g); }

# Something that makes a generation for somebody else.  locked: a row that is.
sub costs_nothing
{
	my ($what, $code, $locked) = @_;
	my $before = generations();
	my $seen = seen();
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$code->();
	wait_for('a generation', sub { return generations() > $before });
	is(seen(), $seen, "$what: the documents of another database stay, and its servers UP");
	$s->run('UPDATE mine SET v = v + 1 WHERE id <> ' . ($locked // 0));
	is($s->run('SELECT count(*) FROM mine WHERE v = (echocache_get($$mine$$, id) ->> $$v$$)::int'), 20, "$what: and are written and read as before");
	is($s->run(q{SELECT string_agg(DISTINCT state, ' ') FROM echocache_servers}), 'UP', "$what: all the time");
	return;
}

wait_state($s, 'UP');
$s->run('UPDATE mine SET v = v + 1');
my $its = neighbour('shop', 'shop/');
costs_nothing('DROP DATABASE', sub { $its->quit; $s->run('DROP DATABASE shop') });
$its = neighbour('shop', 'shop/');
costs_nothing('DROP EXTENSION', sub { $its->run('DROP EXTENSION echocache CASCADE') });
$its->quit;
$s->run('DROP DATABASE shop');
$its = neighbour('shop', 'shop/');
costs_nothing('another prefix of another database', sub {
	$its->quit;
	$s->run(q{ALTER DATABASE shop SET echocache.key_prefix = 'market/'; SELECT pg_reload_conf()}) });
$its = session($node, dbname => 'shop');
wait_state($its, 'UP');
$its->run('UPDATE its SET v = 2');
is((grep { defined } map { $_->get('market/its:1') } @memcached)[0], '{"id":1,"v":2}', 'which is used then');
is_deeply([ grep { defined } map { $_->get('shop/its:1') } @memcached ], [], 'and the keys of the old one are purged');

#
# A commit of the generation before cannot set its marker: the server is DOWN all the same, or else
# the old document would be read there.
#
my ($id) = grep { defined $memcached[1]->get("mine:$_") } 1 .. 20;
my $writer = session($node);
my $holder = session($node);

stop_at($holder, 'before-markers', $writer, "UPDATE mine SET v = 1000 WHERE id = $id");
costs_nothing('a generation while a commit is under way', sub {
	$its->quit;
	$s->run('DROP DATABASE shop') }, $id);
$proxy->tell("hold up ms mine:$id ");
go_on($holder, $writer);
is($s->run("SELECT echocache_get('mine', $id)"), qq({"id":$id,"v":1000}), 'a marker of the generation before that cannot be set: nothing old is read');
is($s->run("SELECT state FROM echocache_servers WHERE server = '" . $proxy->address . "'") ne 'UP', 1, 'the server is not UP');
$proxy->tell('reset');
$proxy->tell('pass');
wait_state($s, 'UP');
invalidated($memcached[1], "mine:$id", 'before it is UP again the document goes');
is($s->run("SELECT echocache_get('mine', $id)"), qq({"id":$id,"v":1000}), 'and is read right');

$_->quit for $s, $writer, $holder;
$node->stop;
done_testing();
