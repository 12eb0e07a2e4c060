# A worker for every database that has the extension, whichever way it came about,
# in nobody's way, and there again after it was killed.
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
use Time::HiRes qw(sleep time);

# New databases are looked for every ten seconds, on a busy machine perhaps later.
$EchoCache::patience = 80;

# A command that has waited for a worker to go of itself would take longer; DROP
# DATABASE and its like give up after 5 s.
my $at_once = 4;

my $memcached = memcached();
my $node = new_node('main', hosts => [$memcached], conf => "max_worker_processes = 20\nlog_statement = none\nlog_min_messages = debug1\n");
my $s = session($node, dbname => 'template1');
my $address = $memcached->address;

my $create = q{CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, title text);
	INSERT INTO session SELECT g, 'first' FROM generate_series(1, 3) g;
	SELECT echocache_attach('session')};

sub row { my ($id, $title) = @_; return qq({"id":$id,"title":"$title"}); }

# The pids of the workers of a database.
sub workers
{
	my ($database) = @_;

	return split /\n/, $s->run("SELECT pid FROM pg_stat_activity
		WHERE backend_type = 'echocache worker' AND datname = '$database' ORDER BY pid");
}

sub launcher { return $s->run(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'echocache launcher'}); }

# Wait until the database's one worker has everything UP; returns its pid.
sub worker_of
{
	my ($database, $session) = @_;
	my @pids;

	wait_for("the worker of $database", sub { return (@pids = workers($database)) == 1; });
	wait_state($session, 'UP');
	return (workers($database))[0];
}

# Test: a command of this database is done at once, and its documents are coherent.
sub follows
{
	my ($session, $prefix, $title, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$session->run("UPDATE session SET title = '$title' WHERE id = 1");
	is($session->run('SELECT echocache_get_session(1)'), row(1, $title), "$label: SQL reads what was written");
	eventually("$label: a plain client too", sub {
		$session->run('SELECT echocache_get_session(1)');
		return ($memcached->get("${prefix}session:1") // '') eq row(1, $title);
	});
	return;
}

# Test: the statement succeeds at once.
sub at_once
{
	my ($session, $sql, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $took = seconds(sub { is($session->error($sql), 'no error', $label) });

	in_time($session, $took, $at_once, "$label: at once");
	return;
}

#
# CREATE and DROP EXTENSION.
#
eventually('pg_stat_activity shows the launcher', sub { return launcher() ne '' });
is(workers('postgres'), 0, 'a database without the extension has no worker');
sub starts { return scalar(() = slurp_file($node->logfile) =~ /starting background worker process "echocache worker/g); }
wait_for('the launcher to have looked', sub { return starts() > 0 });
my $plain = session($node);
my $starts = starts();
for (1 .. 3)
{
	$plain->run('DROP EXTENSION plpgsql; CREATE EXTENSION plpgsql');
	sleep 1;	# the launcher's nap
}
is(starts(), $starts, 'for the extension of somebody else no database is looked at again');
$plain->quit;
my $p = session($node, sql => $create);
my $pid = worker_of('postgres', $p);
ok($pid, 'CREATE EXTENSION: a worker');
follows($p, '', 'created', 'CREATE EXTENSION');
eventually('pg_stat_activity shows it idle, in no transaction', sub {
	return $s->run("SELECT state, xact_start IS NULL, backend_xmin IS NULL FROM pg_stat_activity WHERE pid = $pid") eq 'idle|t|t';
});
at_once($p, 'DROP EXTENSION echocache', 'DROP EXTENSION');
eventually('DROP EXTENSION: no worker', sub { return workers('postgres') == 0; });
is($memcached->get('session:1'), undef, 'and no document');
at_once($p, q{BEGIN; CREATE EXTENSION echocache; ROLLBACK}, 'CREATE EXTENSION, rolled back');
at_once($p, q{CREATE EXTENSION echocache; SELECT echocache_attach('session')}, 'CREATE EXTENSION again');
worker_of('postgres', $p);
follows($p, '', 'created again', 'CREATE EXTENSION again');
at_once($p, q{BEGIN; DROP EXTENSION echocache; ROLLBACK}, 'DROP EXTENSION, rolled back');
worker_of('postgres', $p);
follows($p, '', 'not dropped', 'DROP EXTENSION, rolled back');

#
# Another prefix: the keys of the old one go, and everybody uses the new one.
#
$p->run('SELECT echocache_get_session(id) FROM session');
my $other = session($node);
$other->run('SELECT echocache_get_session(1)');
$p->run(q{ALTER DATABASE postgres SET echocache.key_prefix = 'p:'});
$p->run('SELECT pg_reload_conf()');
eventually('ALTER DATABASE ... SET echocache.key_prefix: the old keys are purged', sub { return !grep { /^session:/ } $memcached->keys; });
worker_of('postgres', $p);
follows($p, 'p:', 'with a prefix', 'a session from before');
is($other->run('SELECT echocache_get_session(1)'), row(1, 'with a prefix'), 'and another one');
my $new = session($node);
follows($new, 'p:', 'by a new session', 'a session since');
is($other->run('SELECT echocache_get_session(1)'), row(1, 'by a new session'), 'which the old ones see');
$new->quit;
is_deeply([ grep { !/^p:session:|_echocache$/ } $memcached->keys ], [], 'no document without the prefix');

#
# A second database, and ways to get one from another.
#
$s->run('CREATE DATABASE one');
$s->run(q{ALTER DATABASE one SET echocache.key_prefix = 'one:'});
my $one = session($node, dbname => 'one', sql => $create);
worker_of('one', $one);
follows($one, 'one:', 'one', 'a second database');
is($p->run('SELECT echocache_get_session(1)'), row(1, 'by a new session'), 'the first one has its own');
$one->quit;

at_once($s, 'ALTER DATABASE one RENAME TO eins', 'ALTER DATABASE RENAME');
$one = session($node, dbname => 'eins');
worker_of('eins', $one);
follows($one, 'one:', 'renamed', 'ALTER DATABASE RENAME');
$one->quit;

at_once($s, 'CREATE DATABASE two TEMPLATE eins', 'CREATE DATABASE TEMPLATE');
$s->run(q{ALTER DATABASE two SET echocache.key_prefix = 'two:'});
my $two = session($node, dbname => 'two');
$one = session($node, dbname => 'eins');
worker_of('two', $two);
follows($two, 'two:', 'copied', 'CREATE DATABASE TEMPLATE: the copy');
worker_of('eins', $one);
is($one->run('SELECT echocache_get_session(1)'), row(1, 'renamed'), 'CREATE DATABASE TEMPLATE: the original has its own');
follows($one, 'one:', 'copied from', 'CREATE DATABASE TEMPLATE: the original');
is($two->run('SELECT echocache_get_session(1)'), row(1, 'copied'), 'CREATE DATABASE TEMPLATE: the copy has its own');

# A copy that forgets the prefix must not be taken for the original, nor the other way round.
$one->quit;
at_once($s, 'CREATE DATABASE three TEMPLATE eins', 'CREATE DATABASE TEMPLATE, with the prefix that another database has');
$s->run(q{ALTER DATABASE three SET echocache.key_prefix = 'one:'});
$one = session($node, dbname => 'eins');
my $three = session($node, dbname => 'three');
worker_of('eins', $one);
wait_for('the worker of three', sub { return workers('three') == 1; });
my @wrong;
for my $i (1 .. 20)
{
	my $last = $i - $i % 3;

	$one->run("UPDATE session SET title = 'one $i' WHERE id = 2");
	$three->run("UPDATE session SET title = 'three $i' WHERE id = 2") if $i == $last;
	for ([ 'one', $one->run('SELECT echocache_get_session(2)'), row(2, "one $i") ],
		[ 'three', $three->run('SELECT echocache_get_session(2)'), row(2, $last ? "three $last" : 'first') ])
	{
		my ($who, $got, $expected) = @$_;
		push @wrong, "round $i, $who: $got" if $got ne $expected;
	}
	my $plain = $memcached->get('one:session:2') // 'null';
	push @wrong, "round $i, a plain client: $plain" unless $plain eq 'null' || $plain eq row(2, "one $i");
}
is_deeply(\@wrong, [], 'two databases with one prefix: each reads its own, and a plain client what the first has');
$three->quit;

at_once($s, 'DROP DATABASE three', 'DROP DATABASE');
is(workers('three'), 0, 'DROP DATABASE: no worker');
$one->quit;
$two->quit;

# By way of a dump.
$s->run('CREATE DATABASE restored');
$s->run(q{ALTER DATABASE restored SET echocache.key_prefix = 'restored:'});
$memcached->set('restored:session:1', row(1, 'from a former life'));
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, 'eins' ], 'pg_dump');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, 'restored' ], 'restored');
my $restored = session($node, dbname => 'restored');
worker_of('restored', $restored);
invalidated($memcached, 'restored:session:1', 'a restored dump: what an earlier life left in the cache is gone');
is($restored->run('SELECT echocache_get_session(1)'), row(1, 'copied from'), 'and is not read');
follows($restored, 'restored:', 'restored', 'a restored dump');
$restored->quit;

# From a template that has the extension.
$s->run('CREATE EXTENSION echocache');
at_once($s, 'CREATE DATABASE four', 'CREATE DATABASE from a template1 with the extension');
is(workers('template1'), 0, 'which has no worker: nobody could copy it');
$s->run(q{ALTER DATABASE four SET echocache.key_prefix = 'four:'});
my $four = session($node, dbname => 'four', sql => $create =~ s/CREATE EXTENSION echocache;//r);
worker_of('four', $four);
follows($four, 'four:', 'four', 'CREATE DATABASE from a template1 with the extension');
$s->run('DROP EXTENSION echocache');
$four->quit;

#
# Killed: the worker, then the launcher.
#
$pid = worker_of('postgres', $p);
$p->run('SELECT echocache_get_session(1)');
$s->run("SELECT pg_terminate_backend($pid)");
wait_for('another worker', sub { my @pids = workers('postgres'); return @pids == 1 && $pids[0] != $pid; });
is($p->run('SELECT state FROM echocache_servers'), 'UP', 'a worker killed: the server stays UP');
holds($memcached, 'p:session:1', row(1, 'by a new session'), 'and its documents stay');
# A wait for the server that is frozen below is not to outlast the time without a worker.
$pid = worker_of('postgres', $p);
$node->append_conf('postgresql.conf', "echocache.timeout = '500ms'\n");
$s->run('SELECT pg_reload_conf()');
wait_for('another worker', sub { my @pids = workers('postgres'); return @pids == 1 && $pids[0] != $pid; });
my $took = seconds(sub {
	for (1 .. 5)
	{
		my $killed = worker_of('postgres', $p);
		$s->run("SELECT pg_terminate_backend($killed)");
		wait_for('another worker', sub { my @pids = workers('postgres'); return @pids == 1 && $pids[0] != $killed; });
	}
});
cmp_ok($took, '>', 0.1 + 0.2 + 0.4 + 0.8, 'killed again and again: it takes its time to come back');

# What came up while there was none.
$pid = worker_of('postgres', $p);
$p->run('SELECT echocache_get_session(id) FROM session');
$memcached->freeze;
$s->run("SELECT pg_terminate_backend($pid)");
$p->run(q{UPDATE session SET title = 'without a worker'});
is($other->run('SELECT echocache_get_session(3)'), row(3, 'without a worker'), 'without a worker: SQL reads what was written');
$memcached->thaw;
is($other->run('SELECT echocache_get_session(2)'), row(2, 'without a worker'), 'and once the server answers again');
worker_of('postgres', $p);
for my $id (1 .. 3)
{
	my $value = $memcached->get("p:session:$id") // 'null';
	ok($value eq 'null' || $value eq row($id, 'without a worker'), 'nor does a plain client once the worker is back');
}
$node->append_conf('postgresql.conf', "echocache.timeout = '5s'\n");
# A reload starts a new one at once, whatever the backoff was.
$pid = worker_of('postgres', $p);
$took = seconds(sub {
	$s->run('SELECT pg_reload_conf()');
	wait_for('another worker', sub { my @pids = workers('postgres'); return @pids == 1 && $pids[0] != $pid; });
});
in_time($s, $took, 2, 'a reload starts another at once');

my $launcher = launcher();
$s->run("SELECT pg_terminate_backend($launcher)");
wait_for('another launcher', sub { my $new = launcher(); return $new ne '' && $new ne $launcher; });
worker_of('postgres', $p);
follows($p, 'p:', 'with another launcher', 'a launcher killed');
# It looks at every database; by then a second worker of one would be there.
at_once($s, 'CREATE DATABASE five', 'CREATE DATABASE after that');
$s->run(q{ALTER DATABASE five SET echocache.key_prefix = 'five:'});
my $five = session($node, dbname => 'five', sql => $create);
worker_of('five', $five);
is($s->run(q{SELECT string_agg(DISTINCT datname || ' ' || n, ', ') FROM (SELECT datname, count(*) AS n FROM pg_stat_activity
	WHERE backend_type = 'echocache worker' GROUP BY datname HAVING count(*) > 1) t}), '', 'a launcher killed: still one worker for each database');
follows($five, 'five:', 'five', 'a database created after that');
$five->quit;

#
# While the worker waits for a server, for as long as echocache.timeout lets it.
#
$node->append_conf('postgresql.conf', "echocache.timeout = '30s'\n");
$memcached->freeze;
$node->append_conf('postgresql.conf', "echocache.hosts = '$address:2'\n");
$s->run('SELECT pg_reload_conf()');
my $activity = '';
eventually('a worker that waits for a server says so', sub {
	$activity = $s->run(q{SELECT state || ' ' || query FROM pg_stat_activity WHERE backend_type = 'echocache worker' AND datname = 'five'});
	return $activity =~ /^active .*\Q$address\E/;
}) or diag($activity);
is($s->run(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'echocache worker' AND datname = 'five' AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL)}), 0,
	'and is in no transaction');
at_once($s, 'DROP DATABASE five', 'DROP DATABASE while its worker waits for a server');
at_once($s, 'ALTER DATABASE four RENAME TO vier', 'ALTER DATABASE RENAME while its worker waits for a server');
at_once($s, 'CREATE DATABASE copy TEMPLATE eins', 'CREATE DATABASE TEMPLATE while its worker waits for a server');
at_once($s, 'CREATE DATABASE six', 'CREATE DATABASE while workers wait for a server');
my $six = session($node, dbname => 'six');
at_once($six, 'CREATE EXTENSION echocache', 'CREATE EXTENSION while workers wait for a server');
at_once($six, 'DROP EXTENSION echocache', 'DROP EXTENSION while workers wait for a server');
at_once($s, 'CHECKPOINT', 'anything else');
$memcached->thaw;
$node->append_conf('postgresql.conf', "echocache.timeout = '5s'\n");
$s->run('SELECT pg_reload_conf()');
worker_of('postgres', $p);
follows($p, 'p:', 'at the end', 'after all that');
my $machine = machine_adds($s);
$took = seconds(sub { $node->stop('fast') });
cmp_ok($took, '<', 10 + $machine, 'a fast shutdown is not held up');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no backend crashed');

done_testing();
