# pg_repack on attached tables: with a key, a document's function and dependent rows, and partitioned,
# while others write and read.  The attachments stay as they are, and nobody reads anything old.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $dir = PostgreSQL::Test::Utils::tempdir();
my $m = memcached();
my $node = new_node('main', hosts => [$m], conf => "log_statement = none\nmax_connections = 40\nautovacuum = off\nechocache.build_timeout = '60s'\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE EXTENSION pg_repack;
	CREATE TABLE session (id int PRIMARY KEY, v int, gone int, body text);
	ALTER TABLE session DROP COLUMN gone;
	CREATE INDEX ON session (v);
	CREATE TABLE thread (id int PRIMARY KEY, v int);
	CREATE TABLE post (id serial PRIMARY KEY, thread int, v int);
	CREATE INDEX ON post (thread);
	CREATE FUNCTION made(t thread) RETURNS json STABLE LANGUAGE sql AS
		$$ SELECT json_build_object('id', t.id, 'v', t.v, 'posts', (SELECT sum(p.v) FROM public.post p WHERE p.thread = t.id)) $$;
	CREATE TABLE part (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
	CREATE TABLE part_a PARTITION OF part FOR VALUES FROM (0) TO (20);
	CREATE TABLE part_b PARTITION OF part FOR VALUES FROM (20) TO (1000);
	SELECT echocache_attach('session'), echocache_attach('thread', 'thread', document => 'made'), echocache_attach_dependent('post', 'thread', 'thread'),
		echocache_attach('part', 'part');
	-- bodies that are out of line
	INSERT INTO session SELECT g, 0, (SELECT string_agg(md5(g || ':' || n), '') FROM generate_series(1, 150) n) FROM generate_series(1, 40) g;
	INSERT INTO thread SELECT g, 0 FROM generate_series(1, 40) g;
	INSERT INTO post (thread, v) SELECT t, 0 FROM generate_series(1, 40) t, generate_series(1, 5);
	INSERT INTO part SELECT g, 0 FROM generate_series(1, 40) g;
	-- something to repack
	UPDATE session SET v = v + 1; UPDATE post SET v = v + 1; UPDATE thread SET v = v + 1; UPDATE part SET v = v + 1});
my %document = (
	session => 'SELECT id, row_to_json(t) FROM session t',
	thread => 'SELECT id, made(t) FROM thread t',
	part => 'SELECT id, row_to_json(t) FROM part t');

# What is attached, and what of ours is on the tables.
sub attachments
{
	return $s->run(q{SELECT name, relation, suspended FROM echocache_documents ORDER BY 1}) . "\n" .
	  $s->run(q{SELECT tgrelid::regclass, tgname, tgenabled, tgtype, tgfoid::regproc FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2}) . "\n" .
	  $s->run('SELECT * FROM echocache.document, echocache.dependent');
}

sub files { return $s->run(q{SELECT string_agg(oid::regclass || ' ' || pg_relation_filenode(oid), ', ' ORDER BY 1) FROM pg_class WHERE relname IN ('session', 'thread', 'post', 'part_a', 'part_b')}); }

# id => document, as SQL makes it, and as it is cached.
sub made { return { map { split /\|/, $_, 2 } split /\n/, $s->run($document{ $_[0] }) }; }
sub read_all { return { map { split /\|/, $_, 2 } split /\n/, $s->run("SELECT * FROM echocache_get_many('$_[0]', ARRAY(SELECT id FROM $_[0]))") }; }
sub plain { my %held = $m->contents("$_[0]:"); return { map { s/.*://r => $held{$_} } grep { $held{$_} ne 'null' } keys %held }; }

# Test: everybody reads what SQL has, and sooner or later from the cache.
sub right
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	local $EchoCache::quiet = 1;

	await_builder($s);
	for my $name (sort keys %document)
	{
		my $expected = made($name);
		my $found = plain($name);

		is_deeply({ map { $_ => $found->{$_} } grep { $found->{$_} ne $expected->{$_} } keys %$found }, {}, "$what: a plain client finds nothing old of $name");
		is_deeply(read_all($name), $expected, "$what: SQL reads $name");
		eventually("$what: $name is cached", sub { read_all($name); return keys %{ plain($name) } == keys %$expected });
		is_deeply(plain($name), $expected, "$what: and so for a plain client");
	}
	return;
}

sub repack
{
	my ($what, @arguments) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	# It waits for who has the table locked, and kills nobody.
	return $node->command_ok([ 'pg_repack', '--no-kill-backend', '--wait-timeout=120', '-d', 'postgres', '-h', $node->host, '-p', $node->port, @arguments ], "pg_repack: $what");
}

my @everything = map { ('-t', $_) } qw(session thread post);
wait_state($s, 'UP');
right('before');

#
# At rest.
#
my $open = session($node, sql => q{PREPARE get AS SELECT echocache_get_session(1), echocache_get('thread', 1);
	SELECT echocache_get_session(g), echocache_get('thread', g) FROM generate_series(1, 8) g;
	EXECUTE get});
my $attachments = attachments();
for my $way ([ 'tables', @everything ], [ 'in an order', '-o', 'v', @everything ], [ 'only the indexes', '-x', @everything ], [ 'partitions', '-I', 'part' ])
{
	my ($what, @arguments) = @$way;
	my %before = $m->contents('');
	my $files = files();

	repack($what, @arguments);
	if ($what =~ /index/)
	{
		is_deeply({ $m->contents('') }, \%before, "$what: what is cached stays cached");
	}
	else
	{
		# its trigger is made by an ALTER TABLE, which invalidates the documents
		isnt(files(), $files, "$what: the tables have other files");
		right("$what, as they were");
	}
	is(attachments(), $attachments, "$what: what is attached stays, with its triggers, and nothing else stays");
	like($open->run('EXECUTE get'), qr/"id":1,.*"id" : 1,/, "$what: for a session that was there before");
	is($open->error('UPDATE session SET v = v + 1; UPDATE thread SET v = v + 1; UPDATE post SET v = v + 1; UPDATE part SET v = v + 1'), 'no error', "$what: which writes");
	right($what);
}
$open->quit;

#
# By hand, what happens to a reader when the files are swapped: he has his snapshot already, and in the new
# file all rows are of a later transaction.  His document would lack them, and stay so.
#
$s->run(q{
	CREATE TABLE note (thread int, v int);
	CREATE TABLE noted (id int PRIMARY KEY, v int);
	INSERT INTO note SELECT g, g FROM generate_series(1, 40) g;
	INSERT INTO noted SELECT g, g FROM generate_series(1, 40) g;
	CREATE FUNCTION with_note(n noted) RETURNS json STABLE LANGUAGE sql AS
		$$ SELECT json_build_object('id', n.id, 'note', (SELECT sum(v) FROM public.note WHERE thread = n.id)) $$;
	SELECT echocache_attach('noted', 'noted', document => 'with_note')});
my ($reader, $holder) = (session($node), session($node));
my $type = 'int';
for my $what ('SELECT echocache_get($$noted$$, %d)', 'SELECT echocache_warm($$noted$$)', 'SELECT stale FROM echocache_verify($$noted$$)')
{
	my $id = $what =~ /warm/ ? 2 : 1;

	$type = $type eq 'int' ? 'bigint' : 'int';
	stop_at($holder, 'fetch-checked', $reader, sprintf($what, $id));
	$s->run("ALTER TABLE note ALTER COLUMN v TYPE $type");
	my $result = go_on($holder, $reader);
	$what =~ /_get/ and is($result, '{"id" : 1, "note" : 1}', "$what: reads the rows of a table that was rewritten");
	$what =~ /verify/ and is($result, '0', "$what: finds nothing stale");
	holds($m, "noted:$id", qq({"id" : $id, "note" : $id}), "$what: and so does a plain client");
}
$_->quit for $reader, $holder;
$s->run(q{SELECT echocache_detach('noted')});

#
# While others write and read: nobody reads less than he has just committed, nor what he rolls back.
#
append_to_file("$dir/load.sql", <<'SQL');
\set id random(1, 40)
UPDATE session SET v = v + 1 WHERE id = :id RETURNING v AS wrote \gset
SELECT 1 / ((echocache_get_session(:id) ->> 'v')::int >= :wrote)::int AS fine \gset
UPDATE post SET v = v + 1 WHERE thread = :id;
SELECT sum(v) AS wrote FROM post WHERE thread = :id \gset
SELECT 1 / ((echocache_get('thread', :id) ->> 'posts')::int >= :wrote)::int AS fine \gset
BEGIN;
UPDATE part SET v = v + 1 WHERE id = :id;
SELECT v AS wrote FROM part WHERE id = :id \gset
SELECT 1 / ((echocache_get('part', :id) ->> 'v')::int = :wrote)::int AS fine \gset
COMMIT;
BEGIN;
UPDATE session SET v = -1 WHERE id = :id;
ROLLBACK;
SELECT 1 / ((echocache_get_session(:id) ->> 'v')::int >= 0)::int AS fine \gset
\sleep 2 ms
SQL
my $output = '';
my $load = IPC::Run::start([ 'pgbench', '-n', '-M', 'prepared', '-c', 4, '-T', 600, '-f', "$dir/load.sql", '-h', $node->host, '-p', $node->port, 'postgres' ],
	'<', \undef, '>', \$output, '2>&1');
my $written = sub { return $s->run('SELECT sum(v) FROM session') };
my $sum = $written->();
wait_for('writers', sub { return $written->() > $sum + 50 });
my $applied = 0;
for my $round (1 .. 3)
{
	my $files = files();

	$sum = $written->();
	repack("while others write, $round", @everything);
	repack("partitions while others write, $round", '-I', 'part');
	isnt(files(), $files, 'the tables have other files');
	$applied += $written->() - $sum;
}
cmp_ok($applied, '>', 10, 'rows were changed meanwhile');
$load->pump_nb;
ok($load->pumpable, 'no writer has met an error') || diag($output);
$load->signal('INT');
$load->finish;
unlike($output, qr/ERROR|aborted/, 'nor until now') || diag($output);
is(attachments(), $attachments, 'what is attached is what was attached');
right('in the end');
is($s->run(q{SELECT sum(stale) FROM unnest(ARRAY['session', 'thread', 'part']) n, echocache_verify(n)}), '0', 'and nothing is stale');

is($s->error(q{SELECT echocache_detach('part'); SELECT echocache_attach('part', 'part')}), 'no error', 'a table that was repacked is detached and attached');
right('attached again');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no backend crashed');

$s->quit;
$node->stop;
done_testing();
