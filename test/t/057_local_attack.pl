# What others might do with the second tier, documents in shared memory: who may read keeps no
# commit waiting by it, and a purge is one whatever an attachment was called for a while.
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
my $node = new_node('main', hosts => [$memcached], conf => qq{
	echocache.local_memory = '64MB'
	log_statement = none
});
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE ROLE reader LOGIN;
	CREATE TABLE item (id int PRIMARY KEY, v text, n int DEFAULT 0);
	ALTER TABLE item ALTER v SET STORAGE EXTERNAL;
	INSERT INTO item VALUES (1, repeat('x', 3500000)), (2, 'small');
	GRANT SELECT ON item TO reader;
	SELECT echocache_attach('item', 'item')});
wait_state($s, 'UP');

sub get { return "SELECT left(echocache_get('item', '$_[0]')::text, 20)"; }
sub local_hits { return $s->run(q{SELECT local_hits FROM echocache_stats WHERE name = 'item'}); }

# Have the tier answer for a document.
sub keep
{
	my ($id) = @_;

	wait_for("document $id to be kept", sub {
		my $before = local_hits();

		$s->run(get($id));
		return local_hits() > $before;
	});
	return;
}

#
# Readers that take turns, each copying a document of several megabytes all the time.
#
my $longest = 60;
my @readers = map { session($node, user => 'reader', sql => "SET statement_timeout = '${longest}s'") } 1 .. 10;
for my $id (1, 2)
{
	my ($took, $before);

	keep($id);
	$before = local_hits();
	$_->send("SELECT count(echocache_get('item', '$id')) FROM (SELECT generate_series(1, 100000000)) g") for @readers;
	wait_for('readers to read', sub { return local_hits() > $before + 20; });
	$took = seconds(sub { $s->run("UPDATE item SET n = n + 1 WHERE id = $id") });
	cmp_ok($took, '<', $longest / 3, "a commit is not kept waiting by those who read its document all the time: $id");
	eventually('while all of them read on', sub {
		return !grep { $s->run('SELECT state FROM pg_stat_activity WHERE pid = ' . $_->pid) ne 'active' } @readers;
	});
	$s->run('SELECT pg_cancel_backend(' . $_->pid . ')') for @readers;
	$_->finish for @readers;
}
$_->quit for @readers;
is($s->run(q{SELECT echocache_get('item', '2')->>'n'}), '1', 'and is read');
$s->run('DELETE FROM item; SELECT pg_sleep(0)');
is($s->run('SELECT used, entries FROM echocache_memory WHERE name IS NULL'), '0|0', 'no memory is left held');

#
# An attach that is rolled back has told shared memory another name, by which other databases know
# whose keys they must leave alone.
#
$s->run(q{INSERT INTO item VALUES (1, 'one')});
$s->run('CREATE DATABASE neighbour');
my $neighbour = session($node, dbname => 'neighbour', sql => q{ALTER DATABASE neighbour SET echocache.key_prefix = 'neighbour_'});
$neighbour->quit;
$neighbour = session($node, dbname => 'neighbour', sql => 'CREATE EXTENSION echocache');
my $other = session($node);
my $belongs = qr/^42501: cache key "item:1" belongs to a document/;
like($neighbour->error(q{SELECT echocache_kv_set('item:1', '{"id":1}')}), $belongs, 'a key of another database');
$s->run(get(1));
for (
	[ 'an attach', q{BEGIN; SELECT echocache_detach('item'); SELECT echocache_attach('item', 'another'); ROLLBACK} ],
	[ 'two', q{BEGIN; SELECT echocache_detach('item'); SELECT echocache_attach('item', 'another');
		SAVEPOINT a; SELECT echocache_detach('another'); SELECT echocache_attach('item', 'third'); RELEASE a; ROLLBACK} ],
	[ 'one of a subtransaction', q{BEGIN; SAVEPOINT a; SELECT echocache_detach('item'); SELECT echocache_attach('item', 'another'); ROLLBACK TO a; COMMIT} ])
{
	my ($what, $sql) = @$_;
	my $before;

	$other->run($sql);
	like($neighbour->error(q{SELECT echocache_kv_set('item:1', '{"id":1}')}), $belongs, "and after $what is rolled back");
	keep(1);
	$before = local_hits();
	$s->run(q{SELECT echocache_purge('item')});
	$s->run(get(1));
	is(local_hits(), $before, 'a purge leaves nothing in shared memory');
}

$_->quit for $s, $other, $neighbour;
done_testing();
