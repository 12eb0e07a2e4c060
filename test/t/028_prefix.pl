# What a prefix leaves behind: a change that was prepared under another one, a session
# that knew another one, a document that was detached while the cache was off.  No
# read finds anything older than the table.
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
my $node = new_node('main', hosts => [$memcached],
	conf => "log_statement = none\nmax_prepared_transactions = 5\nlog_min_messages = debug1\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id text PRIMARY KEY, title text);
	SELECT echocache_attach('session')});
my $writer = session($node);
my $workers = q{SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = 'echocache worker'};

# Another prefix, and its servers UP: what is stored then has it.
sub prefix
{
	my ($prefix) = @_;

	$s->run("ALTER DATABASE postgres SET echocache.key_prefix = '$prefix'; SELECT pg_reload_conf()");
	$s->run(q{INSERT INTO session VALUES ('probe', '') ON CONFLICT (id) DO NOTHING});
	wait_for("prefix \"$prefix\"", sub {
		$s->run(q{SELECT echocache_refresh_session('probe')});
		return defined $memcached->get("${prefix}session:probe") });
	wait_state($s, 'UP');
}

wait_state($s, 'UP');

# A key that is too long has no place in the cache, until the prefix is shorter.
my $id = 'x' x 235;
prefix('p' x 20);
$s->run(qq{INSERT INTO session VALUES ('$id', 'old'), ('1', 'old')});
is($writer->error(qq{BEGIN; UPDATE session SET title = 'new' WHERE id = '$id'; PREPARE TRANSACTION 'p'}), 'no error',
	'a change of a row whose key is too long is prepared');
prefix('');
like($s->run("SELECT echocache_get_session('$id')"), qr/"old"/, 'under a shorter prefix its document is the old one');
is($writer->error(q{COMMIT PREPARED 'p'}), 'no error', 'until it is committed');
like($s->run("SELECT echocache_get_session('$id')"), qr/"new"/, 'then SQL reads the new one');
like($memcached->get("session:$id") // 'null', qr/"new"|^null$/, 'and a plain client nothing older');

# A session that used the cache before the extension went, and came back with another prefix.
$s->run(q{SELECT echocache_get_session('1')});
my $worker = $s->run($workers);
$s->run('DROP EXTENSION echocache CASCADE');
wait_for('the worker to go', sub { return $s->run($workers) == 0 });
$s->run(q{ALTER DATABASE postgres SET echocache.key_prefix = 'b:'});
$s->run(q{CREATE EXTENSION echocache; SELECT echocache_attach('session')});
wait_for('another worker', sub { return $s->run($workers) != 0 });
wait_state($s, 'UP');
my $reader = session($node);
$reader->run(q{SELECT echocache_get_session('1')});
$s->run(q{UPDATE session SET title = 'after' WHERE id = '1'});
like($reader->run(q{SELECT echocache_get_session('1')}), qr/"after"/, 'a new session reads what one from before writes');
like($memcached->settled('b:session:1', 0.5) // 'null', qr/"after"|^null$/, 'and a plain client nothing older');
$reader->quit;

# Detached while the cache is off: turning it on removes its documents, too.
prefix('');
$s->run(q{CREATE TABLE gone (id int PRIMARY KEY, title text); INSERT INTO gone VALUES (1, 'x'); SELECT echocache_attach('gone', 'gone')});
$s->run(q{SELECT echocache_get('gone', 1)});
holds($memcached, 'gone:1', '{"id":1,"title":"x"}', 'a document');
setting($s, 'echocache.enabled' => 'off');
wait_state($s, 'OFF');
$s->run(q{SELECT echocache_detach('gone')});
setting($s, 'echocache.enabled' => 'on');
wait_for('the cache to be on', sub { return $s->run(q{SELECT state FROM echocache_servers}) ne 'OFF' });
wait_state($s, 'UP');
is($memcached->get('gone:1'), undef, 'is gone when the cache is on again');

# Of two databases with one prefix and no documents, one has the keys.  An attach in the other
# one that is rolled back changes nothing for anybody; one that is committed brings it the keys.
my %db;
for my $name ('first', 'second')
{
	$s->run("CREATE DATABASE $name");
	$s->run("ALTER DATABASE $name SET echocache.key_prefix = 'same:'");
	$db{$name} = session($node, dbname => $name, sql => 'CREATE EXTENSION echocache');
	wait_state($db{$name}, $name eq 'first' ? 'UP' : 'RECOVERING');
}
my $why = 'SELECT last_error FROM echocache_servers';
wait_for('the first database to have the keys', sub { return $db{second}->run($why) =~ /database "first" of this cluster/ });
# One that moves no keys of most databases is logged at DEBUG1.
sub generations { return scalar(() = slurp_file($node->logfile) =~ /echocache: the cache is on, with/g); }
wait_state($s, 'UP');
my $before = generations();
for (1 .. 3)
{
	for my $name ('first', 'second')
	{
		$db{$name}->run(q{BEGIN; CREATE TABLE q (id int PRIMARY KEY); SELECT echocache_attach('q', 'q'); ROLLBACK});
		$db{$name}->run(q{BEGIN; SAVEPOINT a; CREATE TABLE q (id int PRIMARY KEY); SELECT echocache_attach('q', 'q'); ROLLBACK TO a; COMMIT});
		sleep 1;	# the launcher's nap
	}
}
is(generations(), $before, 'an attach that is rolled back makes no generation');
like($db{second}->run($why), qr/database "first" of this cluster/, 'nor does it bring the keys of a prefix');
$db{second}->run(q{CREATE TABLE q (id int PRIMARY KEY); SELECT echocache_attach('q', 'q')});
eventually('one that is committed does', sub { return $db{second}->run('SELECT state FROM echocache_servers') eq 'UP' });
is(generations(), $before + 1, 'with one generation');
$_->quit for values %db;

$_->quit for $s, $writer;
done_testing();
