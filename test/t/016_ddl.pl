# DDL on attached tables: at its commit the documents of the old shape are gone,
# for plain clients and for SQL, and what follows is of the new one; rolled back, it
# has changed nothing.  What would leave an attachment meaningless is refused.
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
my $node = new_node('main', hosts => [$memcached], conf => "timezone = 'UTC'\nlog_statement = none\n");
my $s = session($node, sql => 'CREATE EXTENSION echocache');

# Has been connected all the time, and has everything in its caches.
my $reader = session($node);
wait_state($s, 'UP');

# The table at hand, the document's name, what its rows look like, and a change of one.
my $name = 'session';
my ($shape, $change);

# id => document, as the table has it.
sub documents
{
	my ($session) = @_;
	my $rows = $session->run("SELECT row_to_json(t)->>'id' || ' ' || row_to_json(t)::text FROM ($shape) t");

	return { map { split / /, $_, 2 } split /\n/, $rows };
}

# The same, as SQL reads through the cache.
sub read_through
{
	my ($session, @ids) = @_;
	my %ids = map { $_ => 1 } @ids;
	my $list = join ',', sort keys %ids;

	return { map { split /\|/, $_, 2 } split /\n/, $session->run("SELECT * FROM echocache_get_many('$name', '{$list}'::bigint[])") };
}

# What a plain client is given now, without markers.
sub plain
{
	my %found;

	for my $key (grep { /^\Q$name\E:/ } $memcached->keys)
	{
		my $value = $memcached->get($key);
		$found{ $key =~ s/.*://r } = $value if defined $value && $value ne 'null';
	}
	return \%found;
}

# Test: everything is cached as the table has it.
sub cached
{
	my ($label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $expected = documents($s);
	my $read = {};

	wait_state($s, 'UP');
	eval {
		wait_for('the documents to be cached', sub {
			$read = read_through($reader, sort keys %$expected);
			return keys %{ plain() } == keys %$expected;
		});
	};
	is_deeply($read, $expected, "$label: SQL reads them");
	is_deeply(plain(), $expected, "$label: a plain client finds them");
	return;
}

# Test: of what is in the cache nothing differs from the table, old keys included,
# and SQL reads what the table has.  Nothing has been read since.
sub nothing_old
{
	my ($label, @ids) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $found = plain();
	my $expected = documents($s);
	my %wrong = map { $_ => $found->{$_} }
	  grep { ($expected->{$_} // '') ne $found->{$_} } keys %$found;

	is_deeply(\%wrong, {}, "$label: a plain client finds nothing old");
	is_deeply(read_through($reader, @ids, keys %$expected), $expected, "$label: nor does SQL");
	return;
}

# Test a statement on a table whose documents are cached: rolled back, prevented
# by nothing, committed.  Options: shape, change => new ones, apart => 1 if it cannot run
# in a transaction, uncached => 1 if the documents are not cached afterwards.
sub ddl
{
	my ($label, $sql, %opt) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @ids = sort keys %{ documents($s) };

	$memcached->flush;
	cached("before $label");
	unless ($opt{apart})
	{
		$s->run("BEGIN; $sql; ROLLBACK");
		nothing_old("$label, rolled back", @ids);
		cached("$label, rolled back");
		$s->run("BEGIN; SAVEPOINT a; $sql; ROLLBACK TO a; COMMIT");
		nothing_old("$label, to a savepoint", @ids);
		cached("$label, to a savepoint");
	}
	$s->run($sql);
	like($s->messages, $opt{says}, "$label: and says so") if $opt{says};
	$shape = $opt{shape} if $opt{shape};
	$change = $opt{change} if $opt{change};
	nothing_old($label, @ids);
	return if $opt{uncached};
	cached("after $label");
	$s->run($change);
	nothing_old("after $label, a row changed", @ids);
	cached("after $label, a row changed");
	return;
}

#
# An ordinary table.
#
$s->run(q{
	CREATE TYPE mood AS ENUM ('sad', 'happy');
	CREATE TYPE place AS (x int, y int);
	CREATE TABLE chat (id bigint PRIMARY KEY, owner bigint, title text, secret text, n int DEFAULT 1, gone boolean DEFAULT false,
		uid bigint UNIQUE NOT NULL, feels mood DEFAULT 'sad', at place DEFAULT (1, 2), was timestamptz DEFAULT '2026-01-01');
	SELECT echocache_attach('chat', owner_column => 'owner', filter => 'NOT gone', exclude => '{secret}');
	INSERT INTO chat SELECT g, 7, 'title', 'secret', g, false, 100 + g FROM generate_series(1, 3) g});
$shape = 'SELECT id, owner, title, n, gone, uid, feels, at, was FROM chat';
$change = 'UPDATE chat SET uid = uid + 100 WHERE id = 2';

ddl('ADD COLUMN', 'ALTER TABLE chat ADD COLUMN extra int', shape => 'SELECT id, owner, title, n, gone, uid, feels, at, was, extra FROM chat');
ddl('ADD COLUMN with a default', q{ALTER TABLE chat ADD COLUMN more text DEFAULT 'more'},
	shape => 'SELECT id, owner, title, n, gone, uid, feels, at, was, extra, more FROM chat');
ddl('DROP COLUMN', 'ALTER TABLE chat DROP COLUMN extra', shape => 'SELECT id, owner, title, n, gone, uid, feels, at, was, more FROM chat');
ddl('DROP COLUMN of an excluded one', 'ALTER TABLE chat DROP COLUMN secret');
ddl('RENAME COLUMN', 'ALTER TABLE chat RENAME COLUMN title TO headline',
	shape => 'SELECT id, owner, headline, n, gone, uid, feels, at, was, more FROM chat');
ddl('RENAME COLUMN of the owner', 'ALTER TABLE chat RENAME owner TO user_id',
	shape => 'SELECT id, user_id, headline, n, gone, uid, feels, at, was, more FROM chat');
is($reader->run('SELECT echocache_get_session(1, 7) IS NOT NULL, echocache_get_session(1, 8) IS NULL'), 't|t', 'the owner is still asked for');
ddl('RENAME COLUMN of the filter', 'ALTER TABLE chat RENAME gone TO deleted',
	shape => 'SELECT id, user_id, headline, n, deleted, uid, feels, at, was, more FROM chat');
$s->run('UPDATE chat SET deleted = true WHERE id = 3');
is($reader->run('SELECT echocache_get_session(3)'), '', 'the filter still holds');
$s->run('UPDATE chat SET deleted = false WHERE id = 3');
ddl('ALTER COLUMN TYPE', 'ALTER TABLE chat ALTER n TYPE numeric(10,2) USING n / 2.0');
ddl('ALTER COLUMN TYPE without a rewrite', 'ALTER TABLE chat ALTER headline TYPE varchar');
ddl('ALTER COLUMN TYPE of the owner', 'ALTER TABLE chat ALTER user_id TYPE text');
is($reader->run(q{SELECT echocache_get_session(1, 7) IS NOT NULL, echocache_get_session('1', 'x') IS NULL}), 't|t', 'the owner is asked for by its new type');
ddl('several at once', q{ALTER TABLE chat ADD COLUMN extra int DEFAULT 5, DROP COLUMN more, ALTER n TYPE text},
	shape => 'SELECT id, user_id, headline, n, deleted, uid, feels, at, was, extra FROM chat');
ddl('a default, a constraint, a storage parameter', q{ALTER TABLE chat ALTER n SET DEFAULT '9', ADD CHECK (id > 0), SET (fillfactor = 70)});
ddl('ALTER TYPE ... RENAME VALUE', q{ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'});
ddl('ALTER TYPE ... ADD ATTRIBUTE', 'ALTER TYPE place ADD ATTRIBUTE z int CASCADE');
ddl('ALTER TYPE ... RENAME ATTRIBUTE', 'ALTER TYPE place RENAME ATTRIBUTE x TO a');
ddl('DROP TYPE CASCADE of a column', 'DROP TYPE place CASCADE',
	shape => 'SELECT id, user_id, headline, n, deleted, uid, feels, was, extra FROM chat');
# The table's own name, its schema, its owner.
ddl('ALTER TABLE RENAME', 'ALTER TABLE chat RENAME TO talk',
	shape => 'SELECT id, user_id, headline, n, deleted, uid, feels, was, extra FROM talk', change => 'UPDATE talk SET uid = uid + 100 WHERE id = 2');
ddl('SET SCHEMA', 'CREATE SCHEMA IF NOT EXISTS other; ALTER TABLE talk SET SCHEMA other',
	shape => 'SELECT id, user_id, headline, n, deleted, uid, feels, was, extra FROM other.talk',
	change => 'UPDATE other.talk SET uid = uid + 100 WHERE id = 2');
$s->run('SET search_path = public, other');
ddl('SET TABLESPACE and a rewrite', 'ALTER TABLE talk SET ACCESS METHOD heap; CLUSTER talk USING chat_pkey');
ddl('VACUUM FULL', 'VACUUM FULL talk', apart => 1);

# The key.
ddl('change of the primary key', 'ALTER TABLE talk DROP CONSTRAINT chat_pkey, ADD UNIQUE (id), ADD PRIMARY KEY (uid)');
ddl('ALTER COLUMN TYPE of the key', 'ALTER TABLE talk ALTER id TYPE int');
ddl('RENAME COLUMN of the key', 'ALTER TABLE talk RENAME id TO number; ALTER TABLE talk RENAME number TO id');

sub refused
{
	my ($label, $sql, $pattern) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	cached("before $label");
	like($s->error($sql), $pattern, "$label is refused");
	nothing_old("$label, refused", sort keys %{ documents($s) });
	is_deeply(plain(), documents($s), "$label, refused: and nothing was invalidated");
	return;
}
my $needed = qr/^2BP01: cannot drop column "\w+" because document "session" depends on it\n(?s:.*)HINT:  .*echocache_detach\('session'\).*CASCADE/;
refused('DROP COLUMN of the key', 'ALTER TABLE talk DROP COLUMN id', $needed);
refused('DROP COLUMN of the owner', 'ALTER TABLE talk DROP COLUMN user_id', $needed);
refused('DROP COLUMN of the filter', 'ALTER TABLE talk DROP COLUMN n, DROP COLUMN deleted', $needed);
refused('SET UNLOGGED', 'ALTER TABLE talk SET UNLOGGED', qr/^55006: .*\n(?s:.*)HINT:  .*echocache_detach\('session'\)/);

# Detached and attached again: another shape.
ddl('a new list of excluded columns', q{SELECT echocache_detach(); SELECT echocache_attach('talk', key_column => 'id', owner_column => 'user_id',
		filter => 'NOT deleted', exclude => '{headline,feels}')},
	shape => 'SELECT id, user_id, n, deleted, uid, was, extra FROM talk');

my $suspended = qr/WARNING:  .*document "session" is not cached/;

# Triggers that do not fire: not cached meanwhile.
for my $form ([ 'ALL', 'ALL' ], [ 'USER', 'USER' ], [ 'echocache_session', undef ])
{
	my ($which) = @$form;
	my @triggers = split /\n/, $s->run(q{SELECT tgname FROM pg_trigger WHERE tgrelid = 'talk'::regclass AND tgname LIKE 'echocache%'});
	$which = $triggers[0] if $which =~ /echocache/;

	ddl("DISABLE TRIGGER $which", "ALTER TABLE talk DISABLE TRIGGER $which", uncached => 1, says => $suspended);
	$s->run('UPDATE talk SET uid = uid + 100');
	nothing_old("DISABLE TRIGGER $which, then a change", 1 .. 3);
	is_deeply(plain(), {}, "DISABLE TRIGGER $which: a read does not fill");
	$s->run("ALTER TABLE talk ENABLE TRIGGER $which");
	$s->run('UPDATE talk SET uid = uid + 100');
	nothing_old("ENABLE TRIGGER $which, then a change", 1 .. 3);
	$s->run(join ';', map { "ALTER TABLE talk ENABLE ALWAYS TRIGGER $_" } @triggers);
	cached("ENABLE ALWAYS after DISABLE TRIGGER $which");
	$s->run('UPDATE talk SET uid = uid + 100');
	nothing_old("ENABLE ALWAYS after DISABLE TRIGGER $which, then a change", 1 .. 3);
}

# A trigger that is dropped does not fire either.
my ($dropped) = split /\n/, $s->run(q{SELECT quote_ident(tgname) FROM pg_trigger WHERE tgrelid = 'talk'::regclass AND tgname LIKE 'echocache%' AND tgtype & 32 = 0});
ddl('DROP TRIGGER', "DROP TRIGGER $dropped ON talk", uncached => 1, says => $suspended);
$s->run('UPDATE talk SET uid = uid + 100');
nothing_old('DROP TRIGGER, then a change', 1 .. 3);
is_deeply(plain(), {}, 'DROP TRIGGER: a read does not fill');
my $again = q{SELECT echocache_detach(); SELECT echocache_attach('talk', key_column => 'id', owner_column => 'user_id', filter => 'NOT deleted')};
$s->run($again);
$shape = 'SELECT id, user_id, headline, n, deleted, uid, feels, was, extra FROM talk';
cached('attached again after DROP TRIGGER');

# What the document needs, dropped with CASCADE: detached.
for my $column ('id', 'user_id', 'deleted')
{
	cached("before DROP COLUMN $column CASCADE");
	$s->run("BEGIN; ALTER TABLE talk DROP COLUMN $column CASCADE; ROLLBACK");
	nothing_old("DROP COLUMN $column CASCADE, rolled back", 1 .. 3);
	cached("DROP COLUMN $column CASCADE, rolled back");
	$s->run("CREATE TABLE copy AS TABLE talk; ALTER TABLE talk DROP COLUMN $column CASCADE");
	like($s->messages, qr/NOTICE:  .*document "session" of table "talk" is detached/, "DROP COLUMN $column CASCADE detaches");
	is_deeply(plain(), {}, 'a plain client finds nothing');
	is($s->run('SELECT count(*) FROM echocache_documents'), 0, 'it is no document any more');
	is($s->run(q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'echocache%' AND tgrelid = 'talk'::regclass}), 0, 'and has no triggers');
	like($reader->error('SELECT echocache_get_session(1)'), qr/^\w{5}: .*session/, 'SQL says so');
	$s->run(q{DROP TABLE talk; ALTER TABLE copy RENAME TO talk; ALTER TABLE talk ADD UNIQUE (id);
		SELECT echocache_attach('talk', key_column => 'id', owner_column => 'user_id', filter => 'NOT deleted')});
}
cached('before DROP TABLE');
$s->run('BEGIN; DROP TABLE talk; ROLLBACK');
nothing_old('DROP TABLE, rolled back', 1 .. 3);
cached('DROP TABLE, rolled back');
$s->run('DROP TABLE talk');
is_deeply(plain(), {}, 'DROP TABLE: a plain client finds nothing');
is($s->run('SELECT count(*) FROM echocache_documents'), 0, 'it is no document any more');
like($reader->error('SELECT echocache_get_session(1)'), qr/^\w{5}: .*session/, 'SQL says so');

# With a type or a schema.
$s->run(q{CREATE SCHEMA gone; CREATE DOMAIN gone.key AS bigint;
	CREATE TABLE talk (id gone.key PRIMARY KEY, n int); INSERT INTO talk SELECT g, g FROM generate_series(1, 3) g;
	SELECT echocache_attach('talk')});
($shape, $change) = ('SELECT * FROM talk', 'UPDATE talk SET n = n + 1 WHERE id = 2');
cached('before DROP DOMAIN CASCADE');
$s->run('DROP DOMAIN gone.key CASCADE');
is_deeply(plain(), {}, 'the type of the key dropped with CASCADE: a plain client finds nothing');
is($s->run('SELECT count(*) FROM echocache_documents'), 0, 'and it is no document any more');
$s->run(q{DROP TABLE talk; CREATE TABLE gone.talk (id bigint PRIMARY KEY, n int); INSERT INTO gone.talk SELECT g, g FROM generate_series(1, 3) g;
	SELECT echocache_attach('gone.talk')});
$shape = 'SELECT * FROM gone.talk';
cached('before DROP SCHEMA CASCADE');
$s->run('DROP SCHEMA gone CASCADE');
is_deeply(plain(), {}, 'DROP SCHEMA CASCADE: a plain client finds nothing');
is($s->run('SELECT count(*) FROM echocache_documents'), 0, 'and it is no document any more');

#
# A table that inherits its columns.
#
$s->run(q{CREATE TABLE parent (id bigint, n int DEFAULT 0);
	CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
	INSERT INTO child SELECT g, g FROM generate_series(1, 3) g;
	SELECT echocache_attach('child')});
($shape, $change) = ('SELECT * FROM child', 'UPDATE parent SET n = n + 1 WHERE id = 2');
ddl('ADD COLUMN of a parent', 'ALTER TABLE parent ADD COLUMN extra int DEFAULT 1');
ddl('RENAME COLUMN of a parent', 'ALTER TABLE parent RENAME COLUMN extra TO more');
ddl('RENAME COLUMN of the key in a parent', 'ALTER TABLE parent RENAME COLUMN id TO number; ALTER TABLE parent RENAME COLUMN number TO id');
ddl('ALTER COLUMN TYPE of a parent', 'ALTER TABLE parent ALTER more TYPE text');
ddl('DROP COLUMN of a parent', 'ALTER TABLE parent DROP COLUMN more');
refused('DROP COLUMN of the key in a parent', 'ALTER TABLE parent DROP COLUMN id', qr/^2BP01: .*\n(?s:.*)HINT:  /);
$s->run('SELECT echocache_detach()');

#
# A partitioned table.
#
$s->run(q{CREATE TABLE part (id bigint PRIMARY KEY, n int DEFAULT 0) PARTITION BY RANGE (id);
	CREATE TABLE part_a PARTITION OF part FOR VALUES FROM (1) TO (10);
	CREATE TABLE part_b (extra text, n int DEFAULT 0, id bigint NOT NULL);
	ALTER TABLE part_b DROP COLUMN extra;
	ALTER TABLE part ATTACH PARTITION part_b FOR VALUES FROM (10) TO (20);
	CREATE TABLE part_c PARTITION OF part FOR VALUES FROM (20) TO (30) PARTITION BY RANGE (id);
	CREATE TABLE part_c1 PARTITION OF part_c FOR VALUES FROM (20) TO (30);
	INSERT INTO part VALUES (1), (2), (11), (12), (21), (22);
	SELECT echocache_attach('part')});
($shape, $change) = ('SELECT * FROM part', 'UPDATE part SET n = n + 1');
ddl('ADD COLUMN of a partitioned table', 'ALTER TABLE part ADD COLUMN extra int DEFAULT 1');
ddl('RENAME COLUMN of a partitioned table', 'ALTER TABLE part RENAME COLUMN extra TO more');
ddl('ALTER COLUMN TYPE of a partitioned table', 'ALTER TABLE part ALTER more TYPE text');
ddl('DROP COLUMN of a partitioned table', 'ALTER TABLE part DROP COLUMN more');
ddl('RENAME COLUMN of the key of a partitioned table', 'ALTER TABLE part RENAME COLUMN id TO number; ALTER TABLE part RENAME number TO id');
ddl('ALTER TABLE RENAME of a partition', 'ALTER TABLE part_a RENAME TO part_z');
ddl('a default of a partition', 'ALTER TABLE part_z ALTER n SET DEFAULT 5');
ddl('DETACH PARTITION', 'ALTER TABLE part DETACH PARTITION part_b');
$s->run('UPDATE part_b SET n = 50');
nothing_old('DETACH PARTITION, its rows changed', 1, 2, 11, 12, 21, 22);
ddl('ATTACH PARTITION', 'ALTER TABLE part ATTACH PARTITION part_b FOR VALUES FROM (10) TO (20)');
ddl('DETACH PARTITION CONCURRENTLY', 'ALTER TABLE part DETACH PARTITION part_b CONCURRENTLY', apart => 1);
$s->run('UPDATE part_b SET n = 60');
nothing_old('DETACH PARTITION CONCURRENTLY, its rows changed', 1, 2, 11, 12, 21, 22);
ddl('ATTACH PARTITION again', 'ALTER TABLE part ATTACH PARTITION part_b FOR VALUES FROM (10) TO (20)');
ddl('DETACH of a partition below a partition', 'ALTER TABLE part_c DETACH PARTITION part_c1');
ddl('ATTACH of a partition below a partition', 'ALTER TABLE part_c ATTACH PARTITION part_c1 FOR VALUES FROM (20) TO (30)');
ddl('TRUNCATE of a partition', 'TRUNCATE part_b');
ddl('DROP TABLE of a partition', 'DROP TABLE part_b');
$s->run('CREATE TABLE part_d PARTITION OF part FOR VALUES FROM (30) TO (40); INSERT INTO part VALUES (31)');
cached('with a new partition');
refused('DROP COLUMN of the key of a partitioned table', 'ALTER TABLE part DROP COLUMN id', $needed);
my ($row_trigger) = split /\n/, $s->run(q{SELECT quote_ident(tgname) FROM pg_trigger WHERE tgrelid = 'part_z'::regclass AND tgname LIKE 'echocache%' LIMIT 1});
for my $sql ("DISABLE TRIGGER ALL", "DISABLE TRIGGER USER", "DISABLE TRIGGER $row_trigger", "ENABLE REPLICA TRIGGER $row_trigger")
{
	ddl("$sql of a partition", "ALTER TABLE part_z $sql", uncached => 1, says => $suspended);
	$s->run("ALTER TABLE part_z ENABLE ALWAYS TRIGGER $row_trigger");
	cached("$sql of a partition, undone");
}
$s->run('UPDATE part SET n = n + 1');
nothing_old('after all that', 1, 2, 21, 22, 31);
ddl('DISABLE TRIGGER ALL of a partitioned table', 'ALTER TABLE part DISABLE TRIGGER ALL', uncached => 1, says => $suspended);
$s->run('UPDATE part SET n = n + 1');
nothing_old('DISABLE TRIGGER ALL of a partitioned table, then a change', 1, 2, 21, 22, 31);
is_deeply(plain(), {}, 'a read does not fill');
$s->run('DROP TABLE part');
is($s->run('SELECT count(*) FROM echocache_documents'), 0, 'DROP TABLE of a partitioned table: it is no document any more');

#
# A type within others.
#
$s->run(q{CREATE TYPE grade AS ENUM ('low', 'high'); CREATE TYPE grades AS RANGE (subtype = grade);
	CREATE TABLE pupil (id bigint PRIMARY KEY, one grades, many grades_multirange[]);
	INSERT INTO pupil SELECT g, '[low,high]', ARRAY['{[low,high)}'::grades_multirange] FROM generate_series(1, 3) g;
	SELECT echocache_attach('pupil')});
($shape, $change) = ('SELECT * FROM pupil', 'UPDATE pupil SET one = NULL WHERE id = 2');
ddl('RENAME VALUE of what a range is of', q{ALTER TYPE grade RENAME VALUE 'low' TO 'poor'});
$change = 'UPDATE pupil SET many = NULL WHERE id = 3';
$s->run('ALTER TABLE pupil DROP COLUMN one');
ddl('RENAME VALUE of what a multirange is of', q{ALTER TYPE grade RENAME VALUE 'high' TO 'good'});
$s->run('DROP TABLE pupil');

#
# In one transaction with changes of rows, and with an attach.
#
$s->run(q{CREATE TABLE talk (id bigint PRIMARY KEY, n int); INSERT INTO talk SELECT g, g FROM generate_series(1, 3) g;
	SELECT echocache_attach('talk')});
($shape, $change) = ('SELECT * FROM talk', 'UPDATE talk SET n = n + 1 WHERE id = 2');
ddl('changes before and after ADD COLUMN', 'UPDATE talk SET n = 7 WHERE id = 1; ALTER TABLE talk ADD COLUMN extra int DEFAULT 1; UPDATE talk SET extra = 8 WHERE id = 3');
ddl('detach, DDL and attach', q{SELECT echocache_detach(); ALTER TABLE talk DROP COLUMN extra; UPDATE talk SET n = 9; SELECT echocache_attach('talk', exclude => '{n}')},
	shape => 'SELECT id FROM talk', change => 'UPDATE talk SET n = n + 1');
ddl('ADD and DROP of the same column', 'ALTER TABLE talk ADD COLUMN extra int; ALTER TABLE talk DROP COLUMN extra');

# The name that a command waits for becomes another table's.
$s->run('CREATE TABLE other_talk (id bigint PRIMARY KEY)');
$s->run('BEGIN; ALTER TABLE talk RENAME TO old_talk; ALTER TABLE other_talk RENAME TO talk');
$reader->send('ALTER TABLE talk RENAME COLUMN id TO key');
wait_for('the command to wait', sub {
	return $s->run(q{SELECT wait_event_type FROM pg_stat_activity WHERE pid = } . $reader->pid) eq 'Lock';
});
$s->run('COMMIT');
is($reader->finish, '', 'RENAME COLUMN, and the table gets another name meanwhile');
is($s->run(q{SELECT string_agg(attname || ' of ' || attrelid::regclass, ', ' ORDER BY attrelid) FROM pg_attribute WHERE attnum = 1 AND attrelid IN ('talk'::regclass, 'old_talk'::regclass)}),
	'id of old_talk, key of talk', 'is about the one that has it now, as without echocache');
$s->run('DROP TABLE talk; ALTER TABLE old_talk RENAME TO talk');
ddl('RENAME COLUMN after that', 'ALTER TABLE talk RENAME COLUMN id TO key; ALTER TABLE talk RENAME COLUMN key TO id');

# A command waits for a table without documents, and its name becomes that of one with.
cached('before a swap of names');
$s->run('CREATE TABLE plain_talk (id bigint PRIMARY KEY)');
$s->run('BEGIN; ALTER TABLE plain_talk RENAME TO gone; ALTER TABLE talk RENAME TO plain_talk');
$reader->send('ALTER TABLE plain_talk ADD COLUMN more int DEFAULT 5');
wait_for('the command to wait', sub {
	return $s->run(q{SELECT wait_event_type FROM pg_stat_activity WHERE pid = } . $reader->pid) eq 'Lock';
});
$s->run('COMMIT');
is($reader->finish, '', 'ADD COLUMN, and the name is that of an attached table meanwhile');
is_deeply(plain(), {}, 'whose documents are invalidated');
$s->run('ALTER TABLE plain_talk RENAME TO talk; DROP TABLE gone; ALTER TABLE talk DROP COLUMN more');

# While the server is away, and keeps what it has.
cached('before DDL with the server frozen');
setting($s, 'echocache.timeout' => '500ms');
$memcached->freeze;
$s->run('UPDATE talk SET n = n + 1 WHERE id = 1; ALTER TABLE talk ADD COLUMN extra int DEFAULT 1');
$shape = 'SELECT id, extra FROM talk';
is_deeply(read_through($reader, 1 .. 3), documents($s), 'DDL with the server frozen: SQL reads the new shape');
$memcached->thaw;
wait_state($s, 'UP');
nothing_old('DDL with the server frozen, thawed', 1 .. 3);
cached('DDL with the server frozen, thawed');
# A schema by another name, for sessions that have plans.
$s->run(q{CREATE SCHEMA before; CREATE TABLE before.moved (id int PRIMARY KEY, v int); INSERT INTO before.moved SELECT g, 0 FROM generate_series(1, 9) g;
	SELECT echocache_attach('before.moved', 'moved')});
my $pooled = session($node);
$pooled->run("SELECT echocache_get('moved', $_)") for 1 .. 7;
$s->run('ALTER SCHEMA before RENAME TO afterwards');
is($pooled->run(q{SELECT echocache_get('moved', 8)}), '{"id":8,"v":0}', 'a schema is renamed: a session that has plans reads');
is($pooled->run(q{SELECT d FROM echocache_get_many('moved', '{8,9}') d ORDER BY 1}) =~ tr/\n//, 1, 'and reads many');
is($pooled->error('UPDATE afterwards.moved SET v = 1'), 'no error', 'and writes');
is($s->run(q{SELECT echocache_get('moved', 8)}), '{"id":8,"v":1}', 'which others read');
$pooled->run("BEGIN; SELECT echocache_get('moved', 9); SAVEPOINT a; ALTER SCHEMA afterwards RENAME TO again");
is($pooled->run(q{SELECT echocache_invalidate('moved', 9); SELECT echocache_get('moved', 9)}) =~ /"v":1/, 1, 'renamed in the very transaction');
$pooled->run('ROLLBACK TO a');
is($pooled->run(q{SELECT echocache_get('moved', 7)}), '{"id":7,"v":1}', 'and back');
$pooled->run('COMMIT');
$pooled->quit;

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no backend crashed');

done_testing();
