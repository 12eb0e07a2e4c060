# The list of servers changes, and a server that stays keeps its documents: but not if a transaction
# that goes by the old list could not invalidate them there.
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

my ($one, $two, $three) = map { memcached() } 1 .. 3;
my $proxy = proxy($one);
my $node = new_node('main', hosts => [ $proxy, $two ],
	conf => "echocache.timeout = '2s'\nmax_prepared_transactions = 5\nlog_statement = none\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, title text);
	SELECT echocache_attach('session')});

plan(skip_all => 'built without wait points')
  if $s->run(q{SELECT count(*) FROM pg_settings WHERE name = 'echocache.wait_point'}) == 0;

my $holder = session($node);
my $writer = session($node);

wait_state($s, 'UP');
$s->run(q{INSERT INTO session SELECT g, 'first' FROM generate_series(1, 200) g});
coherent($s, [ $one, $two ], 'all documents are cached', filled => 1);
my @before = $one->keys;

# A prepared transaction: its row of the outbox is not to be seen, and it is not waited for.
stop_at($holder, 'before-markers', $writer, q{BEGIN; TRUNCATE session; PREPARE TRANSACTION 'p'});
setting($s, 'echocache.hosts' => join ',', map { $_->address } $two, $three, $proxy);
wait_for('the new servers', sub { return $s->run('SELECT count(*) FROM echocache_servers') == 3; });
wait_for('the servers to answer', sub { return $s->run('SELECT DISTINCT state FROM echocache_servers') eq 'RECOVERING'; });
$proxy->tell('hold up metadump');
go_on($holder, $writer);
is($s->run('SELECT count(*) FROM pg_prepared_xacts'), 1, 'it is prepared, though a server does not tell its keys');
$proxy->tell('pass');
wait_state($s, 'UP');
is(join(' ', $one->keys), '', 'the server that stays keeps nothing');
$s->run(q{COMMIT PREPARED 'p'});
is($s->run('SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT generate_series(1, 200)::bigint))'), 0, 'so nothing is read that is not there any more');

# Without such a one it does keep.
$s->run(q{INSERT INTO session SELECT g, 'second' FROM generate_series(1, 200) g});
coherent($s, [ $one, $two, $three ], 'all documents are cached', filled => 1);
@before = $one->keys;
setting($s, 'echocache.hosts' => join ',', map { $_->address } $proxy, $two);
wait_for('the new servers', sub { return $s->run('SELECT count(*) FROM echocache_servers') == 2; });
wait_state($s, 'UP');
is(join(' ', $one->keys), join(' ', @before), 'otherwise what is on a server stays, whatever its place in the list');
coherent($s, [ $one, $two ], 'and is right', filled => 1);

done_testing();
