# Who waits for the table sees afterwards what SELECT would show him: what has changed meanwhile is
# the table's row-level security, its columns, or what is attached.
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
	CREATE TABLE item (id int PRIMARY KEY, v text);
	INSERT INTO item SELECT g, 'open' FROM generate_series(1, 20) g;
	CREATE ROLE reader LOGIN;
	GRANT SELECT (id, v) ON item TO reader;
	SELECT echocache_attach('item', 'item')});
my $reader = session($node, user => 'reader');
wait_state($s, 'UP');

# What the reader reads while a transaction changes the table, which ends once he waits for it.
sub meanwhile
{
	my ($change, $read, $begin) = @_;
	my $got;

	$reader->run($begin // 'BEGIN');
	$s->run("BEGIN; LOCK TABLE item; $change");
	$reader->send($read);
	wait_for('the reader to wait for the table', sub {
		$s->run("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = " . $reader->pid) > 0;
	});
	$s->run('COMMIT');
	$got = $reader->finish // $reader->messages;
	$reader->attempt('ROLLBACK');
	return $got;
}

# Each on a row that nobody has read before, as the transaction leaves it.
my $id = 0;
for my $what ('a miss', 'REPEATABLE READ', 'the cache is off')
{
	my $begin = $what eq 'REPEATABLE READ' ? 'BEGIN ISOLATION LEVEL REPEATABLE READ' : 'BEGIN';

	setting($s, 'echocache.enabled' => 'off') if $what eq 'the cache is off';
	for my $read ('SELECT v FROM item WHERE id = %d', q{SELECT echocache_get('item', '%d')}, q{SELECT document FROM echocache_get_many('item', '{%d}'::bigint[])})
	{
		$id++;
		is(meanwhile("ALTER TABLE item ENABLE ROW LEVEL SECURITY; UPDATE item SET v = 'secret' WHERE id = $id", sprintf($read, $id), $begin),
			'', "$what: row-level security that has come hides the row: $read");
		$s->run('ALTER TABLE item DISABLE ROW LEVEL SECURITY');
	}
	for my $read ('SELECT row_to_json(item) FROM item WHERE id = %d', q{SELECT echocache_get('item', '%d')}, q{SELECT document FROM echocache_get_many('item', '{%d}'::bigint[])})
	{
		$id++;
		like(meanwhile("ALTER TABLE item ADD extra text DEFAULT 'secret'", sprintf($read, $id), $begin),
			qr/^42501: permission denied for table item/, "$what: a column that has come is not shown: $read");
		$s->run('ALTER TABLE item DROP extra');
	}
}
$_->quit for $s, $reader;
done_testing();
