# Changes of documents that no row trigger sees: a partition that is detached in two
# transactions, or truncated by logical replication; triggers of ours that somebody disables
# or replaces; objects that a document shows by their names or through a cast; and slots of
# attachments that are gone.
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
my $node = new_node('main', hosts => [$memcached], conf => "wal_level = logical\nmax_prepared_transactions = 5\nlog_statement = none\n");
my $s = session($node, sql => 'CREATE EXTENSION echocache');
my $other = session($node);

wait_state($s, 'UP');

sub read_sql { return $other->run("SELECT echocache_get('$_[0]', $_[1])"); }

# Test: read twice, the document is cached and is this.
sub cached
{
	my ($name, $id, $value, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_for("$label to be filled", sub { return read_sql($name, $id) eq $value && ($memcached->get("$name:$id") // '') eq $value; });
	return pass($label);
}

# Test: neither SQL nor a plain client is given anything but this ('' for no row), and no document is stale.
sub right
{
	my ($name, $id, $value, $label, %opt) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(read_sql($name, $id), $value, "$label: SQL");
	like($memcached->settled("$name:$id") // 'null', qr/^(?:\Q$value\E|null)$/, "$label: a plain client") if $value ne '';
	like($memcached->settled("$name:$id") // 'null', qr/^null$/, "$label: a plain client") if $value eq '';
	return if $opt{suspended};	# and cannot be verified
	return is($other->run("SELECT stale FROM echocache_verify('$name')"), '0', "$label: verify");
}

#
# DETACH PARTITION ... CONCURRENTLY.
#
$s->run(q{CREATE TABLE part(id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
	CREATE TABLE part_a PARTITION OF part FOR VALUES FROM (0) TO (10);
	CREATE TABLE part_b PARTITION OF part FOR VALUES FROM (10) TO (20);
	INSERT INTO part VALUES (1, 0), (11, 0), (12, 0);
	SELECT echocache_attach('part', 'part')});
cached('part', 11, '{"id":11,"v":0}', 'before DETACH CONCURRENTLY');
cached('part', 12, '{"id":12,"v":0}', 'another row');
{
	my $holder = session($node, sql => 'BEGIN; SELECT count(*) FROM part');
	my $writer = session($node, sql => 'BEGIN; UPDATE part SET v = 1 WHERE id = 12');
	my $detacher = session($node);

	$detacher->send('ALTER TABLE part DETACH PARTITION part_b CONCURRENTLY');
	wait_for('the first transaction of it', sub { return $s->run(q{SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = 'part_b'::regclass}) eq 't' });
	right('part', 11, '', 'while it waits');
	$writer->run('COMMIT');
	right('part', 12, '', 'a writer that began before commits while it waits');
	$s->run('UPDATE part_b SET v = 2');
	right('part', 11, '', 'the partition is changed while it waits');
	$s->run('SELECT pg_cancel_backend(' . $detacher->pid . ')');
	ok(!defined $detacher->finish, 'it is cancelled');
	right('part', 11, '', 'after the cancel');
	$s->run('UPDATE part_b SET v = 3; DELETE FROM part_b WHERE id = 12');
	right('part', 11, '', 'the partition is changed after the cancel');
	right('part', 12, '', 'a row of the partition is deleted');
	$holder->run('COMMIT');
	cached('part', 1, '{"id":1,"v":0}', 'what is left is cached');
	$s->run('ALTER TABLE part DETACH PARTITION part_b FINALIZE');
	right('part', 11, '', 'after FINALIZE');
	$s->run('UPDATE part_b SET v = 4');
	$s->run('ALTER TABLE part ATTACH PARTITION part_b FOR VALUES FROM (10) TO (20)');
	cached('part', 11, '{"id":11,"v":4}', 'attached again');
	$s->run('UPDATE part SET v = 5');
	holds($memcached, 'part:11', '{"id":11,"v":5}', 'and written through');
	like($s->error('BEGIN; ALTER TABLE part DETACH PARTITION part_b CONCURRENTLY'), qr/^25001: /, 'in a transaction block it is refused');
	$s->run('ROLLBACK');
	holds($memcached, 'part:11', '{"id":11,"v":5}', 'and has invalidated nothing');
	$s->run('ALTER TABLE part DETACH PARTITION part_b CONCURRENTLY');
	right('part', 11, '', 'without waiting');
	$s->run('ALTER TABLE part ATTACH PARTITION part_b FOR VALUES FROM (10) TO (20)');
	cached('part', 11, '{"id":11,"v":5}', 'attached again');
	$s->run('CREATE TABLE part_c PARTITION OF part FOR VALUES FROM (20) TO (30)');
	holds($memcached, 'part:11', '{"id":11,"v":5}', 'a new partition invalidates nothing');
}

#
# TRUNCATE of partitions, by hand and by logical replication.
#
$s->run('INSERT INTO part VALUES (21, 0)');
cached('part', 21, '{"id":21,"v":0}', 'a row of a later partition');
$s->run('TRUNCATE part_c');
right('part', 21, '', 'TRUNCATE of a later partition');
{
	my $origin = PostgreSQL::Test::Cluster->new('origin');

	$origin->init(allows_streaming => 'logical');
	$origin->start;
	$origin->safe_psql('postgres', q{CREATE TABLE part(id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
		CREATE TABLE part_a PARTITION OF part FOR VALUES FROM (0) TO (10);
		CREATE TABLE part_b PARTITION OF part FOR VALUES FROM (10) TO (20);
		CREATE TABLE part_c PARTITION OF part FOR VALUES FROM (20) TO (30);
		CREATE TABLE whole(id int PRIMARY KEY, v int);
		INSERT INTO part VALUES (1, 7), (11, 7), (21, 7); INSERT INTO whole VALUES (1, 7);
		CREATE PUBLICATION p FOR TABLE part, whole});
	$s->run(q{TRUNCATE part; CREATE TABLE whole(id int PRIMARY KEY, v int); SELECT echocache_attach('whole', 'whole')});
	$s->run('CREATE SUBSCRIPTION s CONNECTION ' . q{'} . $origin->connstr . q{ dbname=postgres' PUBLICATION p});
	$origin->wait_for_catchup('s');
	for ([ 'part', 11 ], [ 'part', 21 ], [ 'whole', 1 ])
	{
		cached($_->[0], $_->[1], qq({"id":$_->[1],"v":7}), "replicated: $_->[0] $_->[1]");
	}
	$origin->safe_psql('postgres', 'TRUNCATE part_b');
	$origin->wait_for_catchup('s');
	right('part', 11, '', 'TRUNCATE of a partition, replicated');
	$origin->safe_psql('postgres', 'INSERT INTO part VALUES (12, 8)');
	$origin->wait_for_catchup('s');
	cached('part', 12, '{"id":12,"v":8}', 'replicated after it');
	$origin->safe_psql('postgres', 'TRUNCATE part, whole');
	$origin->wait_for_catchup('s');
	right('part', 21, '', 'TRUNCATE of a partitioned table, replicated');
	right('part', 12, '', 'another partition of it');
	right('whole', 1, '', 'TRUNCATE of a plain table, replicated');
	$s->run('DROP SUBSCRIPTION s');
	$origin->stop;
	$s->run(q{DROP TABLE whole; INSERT INTO part VALUES (1, 0), (11, 0), (21, 0)});
}

#
# Triggers of ours that do not see everything any more.
#
my $suspended = qr/WARNING:  01000: document "\w+" is not cached while its triggers do not fire/;

# Do something to a trigger, change a row behind it, and mend it.
sub suspends
{
	my ($name, $id, $label, $break, $change, $value, $mend) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	cached($name, $id, read_sql($name, $id), "$label: before");
	$s->run($break);
	like($s->messages, $suspended, "$label: a warning");
	like($s->run("SELECT suspended FROM echocache_documents WHERE name = '$name'"), qr/^a trigger of echocache on public\.${name}\w* is disabled, changed or gone$/, "$label: the view says so");
	invalidated($memcached, "$name:$id", "$label: invalidated");
	$s->run($change);
	right($name, $id, $value, "$label: a change behind it", suspended => 1);
	read_sql($name, $id);
	invalidated($memcached, "$name:$id", "$label: a read does not fill");
	$s->run($mend);
	cached($name, $id, $value, "$label: mended");
	is($s->run("SELECT suspended FROM echocache_documents WHERE name = '$name'"), '', "$label: and the view");
	return;
}

my ($row, $truncate) = map { $s->run("SELECT quote_ident(tgname) FROM pg_trigger WHERE tgrelid = 'part'::regclass AND tgfoid = 'echocache_${_}_trigger'::regproc") } qw(row truncate);

suspends('part', 11, 'disabled on a partition below an enabled root', "ALTER TABLE part_b DISABLE TRIGGER $row", 'UPDATE part SET v = 21', '{"id":11,"v":21}',
	"ALTER TABLE part_b ENABLE ALWAYS TRIGGER $row");
suspends('part', 11, 'a root that is enabled again alone', "ALTER TABLE part DISABLE TRIGGER $row; ALTER TABLE ONLY part ENABLE ALWAYS TRIGGER $row", 'UPDATE part SET v = 22', '{"id":11,"v":22}',
	"ALTER TABLE part ENABLE ALWAYS TRIGGER $row");
suspends('part', 11, 'origin only', "ALTER TABLE part_b ENABLE TRIGGER $row", 'SET session_replication_role = replica; UPDATE part SET v = 23; RESET session_replication_role', '{"id":11,"v":23}',
	"ALTER TABLE part_b ENABLE ALWAYS TRIGGER $row");
$s->run(q{CREATE TABLE plain(id int PRIMARY KEY, v int, w int); INSERT INTO plain VALUES (1, 0, 0); SELECT echocache_attach('plain', 'plain')});
my $create = 'CREATE OR REPLACE TRIGGER echocache_row_plain AFTER';
my $execute = q{FOR EACH ROW EXECUTE FUNCTION echocache_row_trigger('plain')};
my $again = "$create INSERT OR UPDATE OR DELETE ON plain $execute; ALTER TABLE plain ENABLE ALWAYS TRIGGER echocache_row_plain";
my $n = 0;

for ([ 'for DELETE only', "$create DELETE ON plain $execute" ], [ 'with a condition', "$create INSERT OR UPDATE OR DELETE ON plain FOR EACH ROW WHEN (false) EXECUTE FUNCTION echocache_row_trigger('plain')" ],
	[ 'with a column list', "$create INSERT OR UPDATE OF w OR DELETE ON plain $execute" ], [ 'for another name', "$create INSERT OR UPDATE OR DELETE ON plain FOR EACH ROW EXECUTE FUNCTION echocache_row_trigger('other')" ],
	[ 'for another function', "CREATE OR REPLACE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; $create INSERT OR UPDATE OR DELETE ON plain FOR EACH ROW EXECUTE FUNCTION nothing()" ],
	[ 'dropped', 'DROP TRIGGER echocache_row_plain ON plain' ], [ 'disabled', 'ALTER TABLE plain DISABLE TRIGGER echocache_row_plain' ], [ 'disabled with all', 'ALTER TABLE plain DISABLE TRIGGER ALL' ])
{
	my ($label, $break) = @$_;

	$n++;
	$break .= '; ALTER TABLE plain ENABLE ALWAYS TRIGGER echocache_row_plain' if $break =~ /REPLACE TRIGGER/;
	suspends('plain', 1, "a row trigger $label", $break, "UPDATE plain SET v = $n", qq({"id":1,"v":$n,"w":0}), "$again; ALTER TABLE plain ENABLE ALWAYS TRIGGER echocache_truncate_plain");
}
suspends('plain', 1, 'a truncate trigger disabled', 'ALTER TABLE plain DISABLE TRIGGER echocache_truncate_plain', 'TRUNCATE plain; INSERT INTO plain VALUES (1, 20, 0)', '{"id":1,"v":20,"w":0}',
	'ALTER TABLE plain ENABLE ALWAYS TRIGGER echocache_truncate_plain');
suspends('plain', 1, 'a truncate trigger dropped', 'DROP TRIGGER echocache_truncate_plain ON plain', 'TRUNCATE plain; INSERT INTO plain VALUES (1, 21, 0)', '{"id":1,"v":21,"w":0}',
	q{CREATE TRIGGER echocache_truncate_plain BEFORE TRUNCATE ON plain EXECUTE FUNCTION echocache_truncate_trigger('plain'); ALTER TABLE plain ENABLE ALWAYS TRIGGER echocache_truncate_plain});
suspends('plain', 1, 'as a restore does it', 'ALTER TABLE plain DISABLE TRIGGER ALL', 'UPDATE plain SET v = 21', '{"id":1,"v":21,"w":0}', 'ALTER TABLE plain ENABLE TRIGGER ALL');
suspends('part', 11, 'as a restore does it with a partition', 'ALTER TABLE part_b DISABLE TRIGGER USER', 'UPDATE part SET v = 24', '{"id":11,"v":24}', 'ALTER TABLE part_b ENABLE TRIGGER USER');
suspends('part', 11, 'as a restore does it with a partitioned table', 'ALTER TABLE part DISABLE TRIGGER ALL', 'UPDATE part SET v = 25', '{"id":11,"v":25}', 'ALTER TABLE part ENABLE TRIGGER ALL');
is($s->run(q{SELECT count(*) FROM pg_trigger WHERE tgfoid::regproc::text LIKE 'echocache%' AND tgenabled <> 'A'}), '0', 'all triggers are as they were made');
# A trigger that is not ours concerns nobody.
$s->run('CREATE TRIGGER mine AFTER UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION nothing()');
$s->run('DROP TRIGGER mine ON plain');
holds($memcached, 'plain:1', '{"id":1,"v":21,"w":0}', 'a trigger of the user comes and goes');

#
# Names of objects, casts, row types of views.
#
$s->run(q{CREATE TABLE named(id int PRIMARY KEY); CREATE SCHEMA room; CREATE TYPE kind AS ENUM ('a'); CREATE ROLE somebody; CREATE FUNCTION does(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
	CREATE TYPE holder AS (c regclass[]); CREATE DOMAIN classes AS regclass;
	CREATE TABLE names(id int PRIMARY KEY, c classes, t regtype, p regprocedure, r regrole, n regnamespace, h holder);
	INSERT INTO names VALUES (1, 'named', 'kind', 'does(int)', 'somebody', 'room', ROW(ARRAY['named'::regclass]));
	SELECT echocache_attach('names', 'names')});
sub names { return $s->run(q{SET search_path = pg_catalog; SELECT row_to_json(x) FROM public.names x; RESET search_path}); }
for my $sql ('ALTER TABLE named RENAME TO renamed', 'ALTER TYPE kind RENAME TO sort', 'ALTER FUNCTION does(int) RENAME TO did', 'ALTER ROLE somebody RENAME TO nobody', 'ALTER SCHEMA room RENAME TO hall',
	'ALTER TABLE renamed SET SCHEMA hall', 'DROP TABLE hall.renamed', 'DROP FUNCTION did(int)', 'DROP ROLE nobody', 'DROP SCHEMA hall', 'DROP TYPE sort')
{
	my $before = names();

	cached('names', 1, $before, "before $sql");
	$s->run($sql);
	isnt(names(), $before, "$sql changes the document");
	right('names', 1, names(), $sql);
}
cached('names', 1, names(), 'names, at last');
$s->run('CREATE TEMP TABLE temporary(i int); DROP TABLE temporary');
holds($memcached, 'names:1', names(), 'a temporary table that goes is nobody');

$s->run(q{CREATE TYPE colour AS ENUM ('red'); CREATE FUNCTION colour_json(colour) RETURNS json IMMUTABLE LANGUAGE sql AS $$SELECT '"a colour"'::json$$;
	CREATE TABLE painted(id int PRIMARY KEY, c colour); INSERT INTO painted VALUES (1, 'red'); SELECT echocache_attach('painted', 'painted')});
cached('painted', 1, '{"id":1,"c":"red"}', 'before CREATE CAST');
$s->run('CREATE CAST (colour AS json) WITH FUNCTION colour_json(colour)');
right('painted', 1, '{"id":1,"c":"a colour"}', 'CREATE CAST');
cached('painted', 1, '{"id":1,"c":"a colour"}', 'after CREATE CAST');
$s->run('DROP CAST (colour AS json)');
right('painted', 1, '{"id":1,"c":"red"}', 'DROP CAST');
cached('painted', 1, '{"id":1,"c":"red"}', 'after DROP CAST');
$s->run(q{ALTER TYPE colour RENAME VALUE 'red' TO 'crimson'});
right('painted', 1, '{"id":1,"c":"crimson"}', 'an enum value renamed');

$s->run(q{CREATE VIEW seen AS SELECT 1 AS a; CREATE TABLE viewed(id int PRIMARY KEY, v seen); INSERT INTO viewed VALUES (1, ROW(5)); SELECT echocache_attach('viewed', 'viewed')});
cached('viewed', 1, '{"id":1,"v":{"a":5}}', 'a column of a view\'s row type');
if (defined $s->attempt('CREATE OR REPLACE VIEW seen AS SELECT 1 AS a, 2 AS b'))
{
	right('viewed', 1, $s->run('SELECT row_to_json(x) FROM viewed x'), 'CREATE OR REPLACE VIEW');
}
$s->run('ALTER VIEW seen RENAME COLUMN a TO z');
right('viewed', 1, $s->run('SELECT row_to_json(x) FROM viewed x'), 'a column of the view is renamed');

#
# Slots.
#
sub slots { return $s->run(q{SELECT count(*) FROM echocache_stats}); }
$s->run(q{SELECT echocache_detach('painted'); SELECT echocache_detach('viewed'); SELECT echocache_detach('names')});
$s->run(q{BEGIN; SELECT echocache_detach('plain'); PREPARE TRANSACTION 'd'});
$s->run(q{COMMIT PREPARED 'd'});
$s->run(q{CREATE TABLE rolled(id int PRIMARY KEY); BEGIN; SELECT echocache_attach('rolled', 'rolled'); PREPARE TRANSACTION 'a'});
$other->run(q{SELECT echocache_get('part', 1)});
$s->run(q{ROLLBACK PREPARED 'a'});
# 512 in all, of which one is "part"; then one more.
for my $from (map { 1 + 73 * $_ } 0 .. 6)
{
	my $to = $from + 72;

	$s->run(qq{DO \$\$ BEGIN FOR i IN $from..$to LOOP EXECUTE format('CREATE TABLE s%s(id int PRIMARY KEY)', i); PERFORM echocache_attach(('s' || i)::regclass, 's' || i); END LOOP; END \$\$});
}
is($s->run('SELECT count(*) FROM echocache_documents'), '512', 'detached and rolled back in PREPARE: 512 tables can be attached');
$s->run(q{CREATE TABLE more(id int PRIMARY KEY)});
like($s->error(q{SELECT echocache_attach('more', 'more')}), qr/^54000: too many tables are attached\nDETAIL:  .*512\.\nHINT:  /, 'the 513th is refused');
is($s->run(q{SELECT count(*) FROM pg_trigger WHERE tgrelid = 'more'::regclass}), '0', 'and leaves nothing');
$s->run(q{BEGIN; SELECT echocache_detach('s7'); PREPARE TRANSACTION 'd'});
like($s->error(q{SELECT echocache_attach('more', 'more')}), qr/^54000: /, 'a detach that is only prepared keeps its slot');
$s->run(q{COMMIT PREPARED 'd'});
is($s->error(q{SELECT echocache_attach('more', 'more')}), 'no error', 'one that is committed gives it back');

$node->stop;
done_testing();
