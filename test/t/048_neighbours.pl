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
use IO::Socket::INET;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep);

my @memcached = map { memcached() } 1 .. 2;
my $proxy = proxy($memcached[1]);
my $node = new_node('main', hosts => [ $memcached[0], $proxy ], conf => "echocache.lease = '5s'\nmax_worker_processes = 16\nwal_level = logical\nmax_wal_senders = 5\nmax_replication_slots = 5\nlog_min_messages = debug1\nlog_statement = none\n");

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
# a commit does not wait for the answer to its last request
eventually('which is used then', sub { return grep { ($_->get('market/its:1') // '') eq '{"id":1,"v":2}' } @memcached });
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

#
# A publication for all tables carries no attachments, nor an outbox.
#
my $subscriber = new_node('subscriber', hosts => [ memcached() ], conf => "wal_level = logical\nmax_worker_processes = 16\nlog_statement = none\n");
my $tables = q{
	CREATE EXTENSION echocache;
	CREATE TABLE mine (id int PRIMARY KEY, v int);
	CREATE TABLE theirs (id int PRIMARY KEY, v int);
	CREATE TABLE part (id int PRIMARY KEY, mine int)};
my $sub = session($subscriber, sql => "$tables; SELECT echocache_attach('theirs', 'theirs')");

$s = session($node, sql => q{
	CREATE TABLE theirs (id int PRIMARY KEY, v int);
	CREATE TABLE part (id int PRIMARY KEY, mine int);
	CREATE FUNCTION document(m mine) RETURNS json STABLE LANGUAGE sql AS 'SELECT json_build_object(''id'', m.id)';
	CREATE PUBLICATION everything FOR ALL TABLES});
$sub->run('CREATE SUBSCRIPTION s CONNECTION $$' . $node->connstr('postgres') . '$$ PUBLICATION everything');
wait_for('the copies', sub { return $sub->run(q{SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'}) eq '0' });
is($sub->run('SELECT name FROM echocache.document'), 'theirs', 'what is attached at the publisher is not at the subscriber');
$s->run(q{SELECT echocache_detach('mine'); SELECT echocache_attach('mine', 'mine', document => 'document', ttl => '1 h');
	SELECT echocache_attach_dependent('part', 'mine', 'mine'); SELECT echocache_attach('theirs', 'theirs');
	INSERT INTO theirs VALUES (1, 1); INSERT INTO part VALUES (1, 1)});
$memcached[0]->stop;
$memcached[1]->stop;
$s->run('UPDATE theirs SET v = 2; INSERT INTO theirs VALUES (2, 2)');
cmp_ok($s->run('SELECT count(*) FROM echocache.outbox'), '>', 0, 'the publisher has an outbox');
$_->start for @memcached;
wait_state($s, 'UP');
$s->run(q{SELECT echocache_detach('theirs'); INSERT INTO theirs VALUES (3, 3)});
wait_for('the changes to come', sub { return $sub->run('SELECT count(*) FROM theirs') eq '3' });
is($sub->run(q{SELECT string_agg(name, ' ') FROM echocache.document}) . $sub->run('SELECT count(*) FROM echocache.dependent') . $sub->run('SELECT count(*) FROM echocache.outbox'), 'theirs00', 'nor what is attached, detached or waiting later');
is($sub->run(q{SELECT echocache_get('theirs', 1)}), '{"id":1,"v":2}', 'and the subscriber caches what it has attached');
unlike(slurp_file($subscriber->logfile), qr/ERROR/, 'the replication has met no error');
$sub->run('DROP SUBSCRIPTION s');
$sub->quit;
$subscriber->stop;

#
# Tables of ours in a restore with --disable-triggers.
#
$s->run(q{SELECT echocache_detach('mine'); SELECT echocache_attach('mine', 'mine')});
$s->run(q{CREATE TABLE saved AS SELECT * FROM echocache.document; SELECT echocache_detach('mine')});
my $reader = session($node);
is($reader->attempt(q{SELECT echocache_get('mine', 1)}), undef, 'nothing is attached');
$s->run(q{ALTER TABLE echocache.document DISABLE TRIGGER ALL; INSERT INTO echocache.document SELECT * FROM saved; ALTER TABLE echocache.document ENABLE TRIGGER ALL});
like($reader->run(q{SELECT echocache_get('mine', 1)}), qr/^{"id":1,/, 'what was restored is attached, for all sessions');
is($s->run(q{SELECT count(*) FROM pg_trigger WHERE tgfoid::regproc::text LIKE 'echocache.%' AND tgenabled <> 'A'}), '0', 'and all triggers are as they were made');

#
# Somebody else lists the keys of a memcached, again and again: the list is waited for, and the server
# is not taken for dead.
#
my $big = memcached();
$big->exchange(join('', map { "set other:$_ 0 0 1 noreply\r\nx\r\n" } 1 .. 50_000) . "get other:50000\r\n", qr/END\r\n/);

# Have a list, and throw it away; returns whether there was one.
sub list_keys
{
	my ($socket) = @_;
	my ($piece, $tail) = ('', '');

	syswrite $socket, "lru_crawler metadump hash\r\n";
	while ($tail !~ /(?:\A|\n)(?:END|BUSY.*)\r\n\z/)
	{
		sysread $socket, $piece, 1 << 20 or die 'memcached is gone';
		$tail = substr($tail . $piece, -200);
	}
	return $tail !~ /BUSY/;
}

my $lister = fork // die "cannot fork: $!";
if ($lister == 0)
{
	my $socket = IO::Socket::INET->new($big->address) // POSIX::_exit(1);
	list_keys($socket) while 1;
}
my $socket = IO::Socket::INET->new($big->address);
my $seen_busy = 0;
for (1 .. 20)
{
	$seen_busy += !list_keys($socket);
	sleep 0.02;
}
cmp_ok($seen_busy, '>', 5, 'the crawler is busy most of the time');
my $log = -s $node->logfile;
setting($s, 'echocache.timeout' => '200ms');
setting($s, 'echocache.hosts' => $big->address);
wait_state($s, 'UP', $big);
pass('the server is UP all the same');
$s->run('UPDATE mine SET v = 0');
is($s->error('TRUNCATE mine'), 'no error', 'a TRUNCATE waits for the list');
is($s->run(q{SELECT state FROM echocache_servers}), 'UP', 'the server is UP');
is_deeply([ $s->run(q{SELECT count(*) FROM echocache.outbox}), grep { /^mine/ } $big->_all_keys ], [0], 'nothing is left there');
unlike(slurp_file($node->logfile, $log), qr/is down/, 'and was so all the time');
kill 'KILL', $lister;
waitpid $lister, 0;

$_->quit for $s, $reader;
$node->stop;
done_testing();
