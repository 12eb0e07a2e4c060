# PgBouncer in transaction mode: clients share backends, one after another, with all that a session
# leaves in a backend.  Each client reads what SQL shows, nothing of another client's transaction,
# role or temporary table is seen through the cache, and memcached has connections of the backends,
# not of the clients.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $pgbouncer = (grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin')[0] // die 'there is no pgbouncer';
my ($major, $minor) = `$pgbouncer --version` =~ /PgBouncer (\d+)\.(\d+)/ or die 'which PgBouncer is it?';
# From 1.21 on it follows statements that are prepared by the protocol.
my $follows = $major > 1 || $minor >= 21;
my $dir = PostgreSQL::Test::Utils::tempdir();
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $m = memcached();
my $node = new_node('main', hosts => [$m], conf => "log_statement = none\nmax_connections = 40\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id int PRIMARY KEY, v int, title text);
	INSERT INTO session SELECT g, 0, 'first' FROM generate_series(1, 20) g;
	SELECT echocache_attach('session');
	CREATE ROLE alice LOGIN;
	GRANT SELECT ON session TO alice;
	CREATE ROLE bob LOGIN});

#
# In the database "shared" all clients of a role have two backends, in "single" one.
#
my $superuser = $s->run('SELECT current_user');
my $server = "host=" . $node->host . ' port=' . $node->port . ' dbname=postgres';
append_to_file("$dir/users.txt", join '', map { qq{"$_" ""\n} } $superuser, 'alice', 'bob');
append_to_file("$dir/pgbouncer.ini", <<"INI");
[databases]
shared = $server pool_size=2
single = $server pool_size=1

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = trust
auth_file = $dir/users.txt
pool_mode = transaction
max_client_conn = 200
logfile = $PostgreSQL::Test::Utils::log_path/pgbouncer.log
INI
append_to_file("$dir/pgbouncer.ini", "max_prepared_statements = 100\n") if $follows;
my $bouncer = fork // die "cannot fork: $!";
if ($bouncer == 0)
{
	exec $pgbouncer, '-q', "$dir/pgbouncer.ini" or POSIX::_exit(127);
}
wait_for('PgBouncer', sub { return IO::Socket::INET->new("127.0.0.1:$port") });
wait_state($s, 'UP');

# A client of PgBouncer's.
my $pooler = bless { %$node, _host => '127.0.0.1', _port => $port }, ref $node;
sub client { my ($database, %opt) = @_; return session($pooler, dbname => $database, %opt); }

# Read it through the cache by this client.
sub title { my ($client, $id) = @_; return $client->run("SELECT echocache_get_session($id) ->> 'title'"); }

sub hits { return $s->run(q{SELECT hits FROM echocache_stats WHERE name = 'session'}); }

# What others have open at memcached.
sub connections { return $m->stats->{curr_connections}; }

# Read until it is cached.
sub warm
{
	my ($id) = @_;

	wait_for("$id to be cached", sub { $s->run("SELECT echocache_get_session($id)"); return ($m->get("session:$id") // 'null') ne 'null' });
	return;
}

# Test: everybody reads what the table has, and so does a plain client.
sub right
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return coherent($s, [$m], $name, filled => 1);
}

#
# Many clients.
#
my $before = connections();
my @clients = map { client('shared') } 1 .. 30;
my %backends;
my @wrong;
for my $round (1 .. 3)
{
	for my $i (0 .. $#clients)
	{
		my $id = 1 + $i % 20;
		my $text = "round $round of $i";

		$clients[$i]->run("UPDATE session SET title = '$text' WHERE id = $id");
		my $read = title($clients[ ($i + 7) % @clients ], $id);
		push @wrong, "$read, not $text" if $read ne $text;
		$backends{ $clients[$i]->run('SELECT pg_backend_pid()') } = 1;
	}
}
is_deeply(\@wrong, [], '30 clients read what each of them has written');
cmp_ok(keys %backends, '<=', 2, 'over two backends');
cmp_ok(connections() - $before, '<=', 2, 'memcached has a connection for each backend, not for each client');
right('and so in the end');

#
# Transactions, at the same time on both backends.
#
my ($a, $b) = @clients;
warm(1);
my $title = title($b, 1);
$a->run(q{BEGIN; UPDATE session SET title = 'of a' WHERE id = 1});
is(title($a, 1), 'of a', 'in its transaction a client reads its own change');
is(title($b, 1), $title, 'another client does not');
my $hits = hits();
is(title($b, 2), title($b, 2), 'and reads others from the cache');
cmp_ok(hits(), '>', $hits, 'as hits');
$a->run('COMMIT');
is(title($b, 1), 'of a', 'after the commit it does');
$_->quit for @clients;

#
# One backend.
#
($a, $b) = map { client('single') } 1 .. 2;
is($a->run('SELECT pg_backend_pid()'), $b->run('SELECT pg_backend_pid()'), 'two clients have one backend');
$a->run(q{BEGIN; UPDATE session SET title = 'rolled back' WHERE id = 1; SAVEPOINT p; DELETE FROM session WHERE id = 2; ROLLBACK});
is(title($b, 1), 'of a', 'nothing of what another client has rolled back is read');
holds($m, 'session:1', $s->run('SELECT row_to_json(session) FROM session WHERE id = 1'), 'nor is it in memcached');
$a->run('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM session');
$s->run(q{UPDATE session SET title = 'newer' WHERE id = 1});
is(title($a, 1), 'of a', 'REPEATABLE READ reads by its snapshot');
$a->run('COMMIT');
is(title($b, 1), 'newer', 'which the next client has no part of');

# Roles, as far as SQL lets them.
warm(1);
is(substr($a->error('BEGIN; SET LOCAL ROLE bob; SELECT echocache_get_session(1)'), 0, 5), '42501', 'SET LOCAL ROLE: a role without rights reads nothing');
$a->run('ROLLBACK');
is(title($b, 1), 'newer', 'and is another client\'s no more');
$a->run('BEGIN; SET LOCAL ROLE alice');
is(title($a, 1), 'newer', 'a role with rights reads');
$a->run('COMMIT');
is($b->run('SELECT current_user'), $superuser, 'with SET LOCAL it is over then');
my $bob = client('single', user => 'bob');
my $alice = client('single', user => 'alice');
is(substr($bob->error('SELECT echocache_get_session(1)'), 0, 5), '42501', 'a client without rights reads nothing');
is(title($alice, 1), 'newer', 'one with rights does');
$a->run('SET ROLE bob');
is(substr($b->error('SELECT title FROM session'), 0, 5), '42501', 'SET ROLE stays in the backend, as PgBouncer says: the next client is bob by SQL');
is(substr($b->error('SELECT echocache_get_session(1)'), 0, 5), '42501', 'and for the cache');
$b->run('RESET ROLE');

# Settings: what decides where a document is belongs to no session.
is(substr($a->error("SET $_"), 0, 5), '55P02', "nobody has his own $_") for "echocache.enabled = off", "echocache.hosts = ''", "echocache.fallback = off";
like($_->error("SET echocache.key_prefix = 'mine/'"), qr/^(?:42501|22023): /, 'nor his own prefix') for $alice, $a;

# A temporary table of the name, left in the backend.
warm(3);
$a->run(q{CREATE TEMP TABLE session AS SELECT 3 AS id, 0 AS v, 'temporary'::text AS title});
is($b->run('SELECT title FROM session WHERE id = 3'), 'temporary', 'a temporary table of another client\'s is found by SQL');
is(title($b, 3), title($s, 3), 'the cache has the document of the attached one');
$s->run(q{UPDATE session SET title = 'permanent' WHERE id = 3; SELECT echocache_invalidate_session(3)});
is(title($b, 3), 'permanent', 'also when it is read from there');
$b->run(q{UPDATE public.session SET title = 'by b' WHERE id = 3});
is(title($s, 3), 'by b', 'or written');
$a->run(q{UPDATE session SET title = 'temporary, again' WHERE id = 3});
is(title($s, 3), 'by b', 'and a change of the temporary one is none of the document');

# Advisory locks of the session, and everything thrown away, also in the middle.
$a->run('SELECT pg_advisory_lock(g) FROM generate_series(1, 20) g; SELECT pg_advisory_lock(1, g) FROM generate_series(1, 20) g');
$s->run(q{SET statement_timeout = '30s'; UPDATE session SET title = 'locked'});
is(title($s, 4), 'locked', 'advisory locks that a client has left hold up nobody');
$s->run('RESET statement_timeout');
$b->run('BEGIN; UPDATE public.session SET v = v + 1; SELECT pg_advisory_unlock_all(); COMMIT');
right('unlocked by another client, in a transaction that writes');
$hits = hits();
$b->run('DISCARD ALL');
is(title($a, 5), 'locked', 'after DISCARD ALL');
cmp_ok(hits(), '>', $hits, 'the cache is read as before');
is($a->run(q{SELECT count(*) FROM pg_class WHERE relname = 'session'}), 1, 'and the temporary table is gone');

# Prepared statements of SQL, for another client of the same backend.
$a->run('PREPARE get AS SELECT echocache_get_session($1) ->> $$title$$; PREPARE put AS UPDATE session SET title = $2 WHERE id = $1');
for my $n (1 .. 8)
{
	$b->run("EXECUTE put(6, 'prepared $n')");
	push @wrong, $n if $a->run('EXECUTE get(6)') ne "prepared $n";
}
is_deeply(\@wrong, [], 'statements that one client has prepared and another one executes');
$s->run('ALTER TABLE session ADD COLUMN w int');
is($b->run('EXECUTE get(6)'), 'prepared 8', 'also after DDL');
like($b->run('SELECT echocache_get_session(6)'), qr/"w":null/, 'with the new column');
$b->run('DEALLOCATE ALL');

# Clients that die in the middle: PgBouncer closes the backend, or finds it idle.
my $dying = client('single');
$dying->run(q{BEGIN; UPDATE session SET title = 'dying' WHERE id = 7});
$dying->{psql}{run}->signal('KILL');
is(title($b, 7), 'locked', 'a client that dies in its transaction has changed nothing');
$dying = client('single');
$m->freeze;
$dying->send(q{UPDATE session SET title = 'dying' WHERE id = 8});
wait_for('the commit to wait for memcached', sub {
	return $s->run(q{SELECT count(*) FROM pg_stat_activity WHERE query ~ 'dying' AND state = 'active' AND wait_event IS DISTINCT FROM 'ClientRead' AND pid <> pg_backend_pid()}) eq '1' });
$dying->{psql}{run}->signal('KILL');
$m->thaw;
is(title($b, 8), $s->run('SELECT title FROM session WHERE id = 8'), 'one that dies while it commits: the next client reads what SQL has');
wait_state($s, 'UP');
right('and all documents are right');
$_->quit for $a, $b, $alice, $bob;

#
# Under load, by the extended protocol: each client reads at least what it has just committed,
# over whichever backend.
#
append_to_file("$dir/load.sql", <<'SQL');
\set id random(1, 20)
UPDATE session SET v = v + 1 WHERE id = :id RETURNING v AS wrote \gset
SELECT 1 / ((echocache_get_session(:id) ->> 'v')::int >= :wrote)::int AS fine \gset
BEGIN;
UPDATE session SET v = v + 1 WHERE id = :id;
SELECT 1 / ((echocache_get_session(:id) ->> 'v')::int > :wrote)::int AS fine \gset
ROLLBACK;
SQL
for my $protocol ('simple', 'extended', $follows ? 'prepared' : ())
{
	$node->command_ok([ 'pgbench', '-n', '-M', $protocol, '-c', 12, '-t', 25, '-f', "$dir/load.sql",
		'-h', '127.0.0.1', '-p', $port, '-U', $superuser, 'shared' ], "12 clients by the $protocol protocol");
	right("$protocol: all documents are right");
}
is($s->run(q{SELECT stale FROM echocache_verify('session')}), '0', 'and none of them is stale');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no backend crashed');

$s->quit;
$node->stop;
done_testing();

END
{
	my $exit_code = $?;

	if ($bouncer)
	{
		kill 'KILL', $bouncer;
		waitpid $bouncer, 0;
	}
	$? = $exit_code;
}
