# DDL, reads and writes of ordinary roles beside attach, detach, attach_dependent and
# DROP EXTENSION, for EC_RACE_SECONDS: nobody crashes, nothing fails in a way that the same
# statements without echocache would not, and in the end no cached document is stale.  An
# attachment that a command looked up may be gone, or another one, at every point of it.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;

my $seconds = $ENV{EC_RACE_SECONDS} // 30;
my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached], conf => "restart_after_crash = on\ndeadlock_timeout = '100ms'\nlog_statement = none\nlog_min_messages = warning\n");
my $s = session($node, sql => 'CREATE EXTENSION echocache; CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN;
	GRANT ALL ON SCHEMA public TO alice, bob');
my $a = session($node, user => 'alice');
my $tables = 12;

$a->run(<<"SQL");
CREATE TYPE pair AS (a int, b text);
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE FUNCTION with_parts(r anyelement) RETURNS json STABLE LANGUAGE sql AS 'SELECT to_json(r)';
DO \$\$
BEGIN
	FOR i IN 1..$tables LOOP
		EXECUTE format('CREATE TABLE r%s(id int PRIMARY KEY, v int, p pair, m mood)', i);
		EXECUTE format('INSERT INTO r%s SELECT n, n FROM generate_series(1, 20) n', i);
		EXECUTE format('CREATE FUNCTION f%s(r r%s) RETURNS json STABLE LANGUAGE sql AS ''SELECT json_build_object(''''id'''', r.id, ''''v'''', r.v)''', i, i);
		EXECUTE format('CREATE TABLE d%s(id int PRIMARY KEY, r int)', i);
	END LOOP;
	CREATE TABLE part(id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
	CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (10);
	CREATE TABLE part2 PARTITION OF part FOR VALUES FROM (10) TO (20);
	INSERT INTO part SELECT n, n FROM generate_series(0, 19) n;
END\$\$;
SQL
$s->run('GRANT ALL ON ALL TABLES IN SCHEMA public TO bob');
$a->quit;

# What each of them does again and again; %N is a number of a table.
my %work = (
	attach => [ 'alice', q{SELECT echocache_attach('r%N', 'r%N')}, q{SELECT echocache_detach('r%N')}, q{SELECT echocache_attach('r%N', 'r%N', document => 'f%N')},
		q{SELECT echocache_attach_dependent('d%N', 'r', 'r%N')}, q{SELECT echocache_detach_dependent('d%N', 'r%N')}, q{SELECT echocache_detach('r%N')},
		q{SELECT echocache_attach('part', 'part')}, q{SELECT echocache_detach('part')} ],
	alter => [ 'alice', 'ALTER TABLE r%N ADD x int', 'ALTER TABLE r%N RENAME v TO w', 'ALTER TABLE r%N RENAME w TO v', 'ALTER TABLE r%N DROP COLUMN x', 'ALTER TABLE r%N DISABLE TRIGGER USER',
		'ALTER TABLE r%N ENABLE ALWAYS TRIGGER USER', 'CREATE INDEX CONCURRENTLY IF NOT EXISTS i%N ON r%N(v)', 'DROP INDEX IF EXISTS i%N', 'ALTER TABLE d%N RENAME r TO q', 'ALTER TABLE d%N RENAME q TO r',
		'TRUNCATE r%N', 'INSERT INTO r%N SELECT n, n FROM generate_series(1, 20) n ON CONFLICT DO NOTHING', q{ALTER TYPE pair ADD ATTRIBUTE c%N int}, 'ALTER TYPE pair DROP ATTRIBUTE IF EXISTS c%N',
		q{ALTER TYPE mood RENAME VALUE 'glad' TO 'happy'}, q{ALTER TYPE mood RENAME VALUE 'happy' TO 'glad'} ],
	drop => [ 'alice', 'BEGIN; CREATE TEMP TABLE tt(a int) ON COMMIT DROP; CREATE TEMP TABLE tu(a int) ON COMMIT DROP; COMMIT', 'CREATE TABLE s%N(a int, v int)', 'DROP TABLE s%N', 'DROP FUNCTION f%N(r%N) CASCADE',
		q{CREATE OR REPLACE FUNCTION f%N(r r%N) RETURNS json STABLE LANGUAGE sql AS 'SELECT to_json(r)'}, 'ALTER TABLE part DETACH PARTITION part2 CONCURRENTLY', 'ALTER TABLE part DETACH PARTITION part2 FINALIZE',
		'ALTER TABLE part ATTACH PARTITION part2 FOR VALUES FROM (10) TO (20)', 'DROP TABLE d%N', 'CREATE TABLE d%N(id int PRIMARY KEY, r int)',
		'BEGIN; ALTER TABLE r%N RENAME TO rx%N; ALTER TABLE d%N RENAME TO r%N; ALTER TABLE r%N RENAME TO d%N; ALTER TABLE rx%N RENAME TO r%N; COMMIT', 'ROLLBACK' ],
	write => [ 'bob', 'UPDATE r%N SET id = id WHERE false', 'UPDATE r%N SET v = v + 1 WHERE id = 1 + %N', 'UPDATE r%N SET v = v + 1', 'INSERT INTO d%N VALUES (%N, 3) ON CONFLICT DO NOTHING',
		'DELETE FROM d%N', 'UPDATE part SET v = v + 1', 'BEGIN; UPDATE r%N SET v = v + 1; DELETE FROM r%N WHERE id = 20; ROLLBACK' ],
	read => [ 'bob', q{SELECT echocache_get('r%N', 1 + %N)}, q{SELECT count(*) FROM echocache_get_many('r%N', '{1,2,3,4,5}'::bigint[])}, q{SELECT echocache_get('part', %N)}, q{SELECT echocache_get('part', 10)} ],
	extension => [ '', 'SELECT pg_sleep(4)', 'DROP EXTENSION echocache', 'CREATE EXTENSION echocache', q{DO $$ BEGIN PERFORM echocache_verify('part'); EXCEPTION WHEN OTHERS THEN END $$} ],
);
my $dir = PostgreSQL::Test::Utils::tempdir;
my $psql = $node->installed_command('psql');
my @pids;

for my $name (sort keys %work)
{
	for my $copy (1 .. ($name eq 'extension' ? 1 : 2))
	{
		my ($user, @statements) = @{ $work{$name} };
		my $file = "$dir/$name$copy";
		my $sql = "\\set VERBOSITY verbose\nSET lock_timeout = '2s';\nSET statement_timeout = '10s';\n";

		srand(4711 + $copy + length $name);
		for my $round (1 .. ($name eq 'extension' ? 1 : 20))
		{
			for my $statement ($name eq 'extension' ? @statements : map { $statements[ rand @statements ] } @statements)
			{
				my $n = 1 + int rand $tables;

				$sql .= ($statement =~ s/%N/$n/gr) . ";\n";
			}
			$sql .= "ROLLBACK;\n" if $name eq 'drop';
		}
		PostgreSQL::Test::Utils::append_to_file("$file.sql", $sql);
		my $pid = fork // die;

		if ($pid == 0)
		{
			# the extension comes and goes for a third of the time
			my $end = time + ($name eq 'extension' ? $seconds / 3 : $seconds);

			open STDOUT, '>', '/dev/null';
			open STDERR, '>', "$file.log";
			system($psql, '-X', '-q', '-d', $node->connstr('postgres'), ($user ? ('-U', $user) : ()), '-f', "$file.sql") while time < $end;
			POSIX::_exit(0);
		}
		push @pids, $pid;
	}
}
waitpid $_, 0 for @pids;

# What these statements may fail with, in any database where others do the same.
my %may = map { $_ => 1 } qw(25P01 25P02 2BP01 40001 40P01 42501 42601 42703 42704 42710 42701 42723 42809 42883 42P01 42P07 42P13 42P16 42P17 42602 55000 55006 55P03 57014 0A000 23505 22023 42P22 42804);
my (%seen, @bad);

for my $log (glob "$dir/*.log")
{
	for (split /\n/, PostgreSQL::Test::Utils::slurp_file($log))
	{
		next unless /(?:ERROR|FATAL|PANIC|server closed|connection to server)(?::  (\w{5}): )?(.*)/;
		my ($state, $text) = ($1 // 'none', $2);

		$seen{$state}++;
		# PostgreSQL's own words for an object that went while it was being looked at
		next if $may{$state} || ($state eq 'XX000' && $text =~ /^(tuple concurrently (updated|deleted)|could not open relation with OID|cache lookup failed|could not find tuple for|relation \d+ deleted|could not find trigger)/);
		push @bad, "$log: $_";
	}
}
note join ', ', map { "$_: $seen{$_}" } sort keys %seen;
is(join("\n", @bad[ 0 .. ($#bad < 20 ? $#bad : 20) ]), '', 'nothing fails in an unexpected way');
is(session($node)->run('SELECT 1'), '1', 'the server is there');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/was terminated by signal|TRAP:|PANIC/, 'and no process has crashed');

# What is attached now is cached as the tables have it.
$s = session($node, sql => 'CREATE EXTENSION IF NOT EXISTS echocache');
wait_state($s, 'UP');
for my $name (split /\n/, $s->run('SELECT name FROM echocache.document ORDER BY 1'))
{
	my $stale = $s->attempt("SELECT stale FROM echocache_verify('$name')");

	is($stale, '0', "no cached document of $name is stale") if defined $stale;
}
# As fast as can be: tables go while others are detached and attached.  None of this may fail.
$s->run('SELECT echocache_detach(name) FROM echocache.document');
$a = session($node, user => 'alice', sql => q{DO $$ BEGIN FOR i IN 1..60 LOOP EXECUTE format('CREATE TABLE x%s(id int PRIMARY KEY)', i); PERFORM echocache_attach(('x' || i)::regclass, 'x' || i); END LOOP; END $$});
PostgreSQL::Test::Utils::append_to_file("$dir/drop", "CREATE TEMP TABLE t1(a int); CREATE TEMP TABLE t2(a int); CREATE TEMP TABLE t3(a int); DROP TABLE t1, t2, t3;\n");
PostgreSQL::Test::Utils::append_to_file("$dir/attach", "\\set n random(1, 60)\nSELECT echocache_detach('x' || :n);\nSELECT echocache_attach(('x' || :n)::regclass, 'x' || :n);\n");
my @status;

for ([ 3, 'drop' ], [ 1, 'attach' ])
{
	my ($clients, $script) = @$_;
	my $pid = fork // die;

	if ($pid == 0)
	{
		open STDOUT, '>', "$dir/$script.out";
		open STDERR, '>&', \*STDOUT;
		exec $node->installed_command('pgbench'), '-n', '-U', 'alice', '-T', $seconds, '-c', $clients, '-f', "$dir/$script", $node->connstr('postgres');
	}
	push @status, [ $pid, $script ];
}
for (@status)
{
	my ($pid, $script) = @$_;

	waitpid $pid, 0;
	is($?, 0, "$script beside the other") || diag(PostgreSQL::Test::Utils::slurp_file("$dir/$script.out"));
}
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/was terminated by signal|TRAP:|PANIC/, 'no process has crashed');
$node->stop;
done_testing();
