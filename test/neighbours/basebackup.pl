# pg_basebackup of a cluster that goes on writing, with documents to invalidate on a server that is
# away: a standby made of it reads nothing older than its own tables, and what was waiting in the backup
# is not forgotten; a copy that is started as a cluster of its own, with the same settings, leaves the
# original's cache alone until that has gone, and its own outbox does no harm.
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
my @m = map { memcached() } 1 .. 2;
my $node = new_node('main', hosts => \@m, conf => "log_statement = none\nmax_wal_senders = 5\nwal_level = replica\nmax_worker_processes = 20\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id int PRIMARY KEY, v int, title text);
	INSERT INTO session SELECT g, 0, 'main' FROM generate_series(1, 40) g;
	SELECT echocache_attach('session')});
wait_state($s, 'UP');
append_to_file("$dir/load.sql", <<'SQL');
\set id random(1, 40)
UPDATE session SET v = v + 1 WHERE id = :id RETURNING v AS wrote \gset
SELECT 1 / ((echocache_get_session(:id) ->> 'v')::int >= :wrote)::int AS fine \gset
\sleep 2 ms
SQL
my $output = '';
my $load = IPC::Run::start([ 'pgbench', '-n', '-c', 3, '-T', 600, '-f', "$dir/load.sql", '-h', $node->host, '-p', $node->port, 'postgres' ],
	'<', \undef, '>', \$output, '2>&1');

sub written { return $s->run('SELECT sum(v) FROM session'); }

# Go on when so many changes have been committed.
sub await_writes { my ($more) = @_; my $from = written(); wait_for('writers', sub { return written() > $from + $more }); return; }

# Test: while the original is written, no document is older than the row in the same session before.
sub never_older
{
	my ($session, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	local $EchoCache::quiet = 1;

	is($session->run(q{
		DO $$ DECLARE k int; t int; d int; BEGIN
			FOR i IN 1 .. 2000 LOOP
				k := 1 + i % 40;
				SELECT s.v INTO t FROM session s WHERE s.id = k;
				d := echocache_get_session(k) ->> 'v';
				IF d IS NULL OR d < t THEN RAISE EXCEPTION 'session %: the row has %, the document %', k, t, d; END IF;
			END LOOP;
		END $$; SELECT 'right'}), 'right', $name);
	return;
}

#
# Two backups while commits go on, the second one when a server is away, for which keys are waiting.
#
await_writes(50);
$node->backup('writing');
await_writes(50);
$m[1]->freeze;
setting($s, 'echocache.commit_timeout' => '200ms', 'echocache.timeout' => '200ms');
wait_for('the outbox', sub { return $s->run('SELECT count(*) FROM echocache.outbox') > 0 });
await_writes(50);
$node->backup('waiting');
await_writes(20);
$load->pump_nb;
ok($load->pumpable, 'writers go on') || diag($output);

#
# A standby of the second one: it does not believe the server that is behind.
#
sub copy
{
	my ($name, $backup, %opt) = @_;
	my $copy = PostgreSQL::Test::Cluster->new($name);

	$copy->init_from_backup($node, $backup, %opt);
	$copy->append_conf('postgresql.conf', "log_statement = none\n");
	$copy->start;
	return $copy;
}
my $standby = copy('standby', 'waiting', has_streaming => 1);
my $h = session($standby);
wait_state($h, 'UP', $m[0]);
never_older($h, 'a standby of a backup, with a server away: nothing older than its own rows');
isnt($h->run("SELECT state FROM echocache_servers WHERE server = '" . $m[1]->address . "'"), 'UP', 'the server that is away is not used');
$m[1]->thaw;
setting($s, 'echocache.commit_timeout' => '5s', 'echocache.timeout' => '5s');
wait_state($s, 'UP');
wait_state($h, 'UP');
never_older($h, 'nor when it is back');
is($h->run('SELECT count(*) FROM echocache.outbox'), '0', 'and nothing is waiting on the standby, either');
my $hits = $h->run(q{SELECT hits FROM echocache_stats WHERE name = 'session'});
cmp_ok($hits, '>', 0, 'it has read from the cache');

#
# A copy beside the original, with the same servers and prefix, of either backup.
#
for my $backup ('writing', 'waiting')
{
	my $copy = copy("copy_$backup", $backup);
	my $c = session($copy);

	eventually("$backup: the copy says why it stays away", sub {
		return $c->run('SELECT bool_and(last_error ~ $$another cluster uses the keys: .*main_data$$) FROM echocache_servers') eq 't' });
	$c->run(q{UPDATE session SET title = 'copy'; DELETE FROM session WHERE id > 30});
	$c->run(q{TRUNCATE session; INSERT INTO session SELECT g, -1, 'copy' FROM generate_series(1, 40) g});
	is($c->run(q{SELECT string_agg(DISTINCT session ->> 'title', ' ') FROM echocache_get_sessions(ARRAY(SELECT generate_series(1, 40)))}), 'copy', "$backup: it reads its own rows");
	await_writes(50);
	is_deeply([ grep { /"copy"/ } map { my %held = $_->contents('session:'); values %held } @m ], [], "$backup: and stores none of them");
	is($s->run(q{SELECT string_agg(DISTINCT state, ' ') FROM echocache_servers}), 'UP', "$backup: the original goes on");
	never_older($s, "$backup: and reads what it has");
	never_older($h, "$backup: and so does its standby");
	$c->quit;
	$copy->stop;
}
$load->pump_nb;
ok($load->pumpable, 'no writer has met an error') || diag($output);
$load->signal('INT');
$load->finish;
unlike($output, qr/ERROR|aborted/, 'nor until now') || diag($output);

# With a prefix of its own, as doc/upgrading.md says, a copy is a cluster like any other; what was waiting
# in the backup is for keys that are not its own.
my $own = PostgreSQL::Test::Cluster->new('own');
$own->init_from_backup($node, 'waiting');
$own->append_conf('postgresql.conf', "log_statement = none\nechocache.key_prefix = 'own/'\n");
$own->start;
my $o = session($own);
my %before = map { $_->contents('session:') } @m;
wait_state($o, 'UP');
$o->run(q{UPDATE session SET title = 'own'});
is($o->run(q{SELECT string_agg(DISTINCT session ->> 'title', ' ') FROM echocache_get_sessions(ARRAY(SELECT generate_series(1, 40)))}), 'own', 'with a prefix of its own: it reads its own rows');
cmp_ok(scalar(grep { /^own\/session:/ } map { $_->keys } @m), '>', 0, 'which are cached');
is($o->run('SELECT count(*) FROM echocache.outbox'), '0', 'what was waiting in the backup waits no more');
is_deeply({ map { $_->contents('session:') } @m }, \%before, 'and the original\'s documents are as they were');
coherent($s, \@m, 'which are right', filled => 1);

# The original dies, and its standby goes on.
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
my $sum = written();
$node->stop('immediate');
$h->run('SELECT pg_promote()');
wait_state($h, 'UP');
is($h->run('SELECT sum(v) FROM session'), $sum, 'promoted: it has everything');
coherent($h, \@m, 'and its documents are right', filled => 1);
unlike(slurp_file($_->logfile), qr/PANIC|TRAP|terminated by signal/, 'no backend of ' . $_->name . ' crashed') for $node, $standby, $own;

eval { $_->quit } for $s, $h, $o;
done_testing();
