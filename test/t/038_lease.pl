# Who owns the keys.  Of several clusters with one prefix on one memcached, one at a time
# uses the keys; of several databases of one cluster, always the same.  Nobody reads what
# another has stored, a clone leaves its origin's cache alone, and a restart, a crash and a
# promotion go on without waiting longer than a lease.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# The lease of all clusters here, in seconds, as EchoCache.pm has it.
my $lease = 1;
my $m = memcached();
my $conf = "log_statement = none\nrestart_after_crash = on\nmax_wal_senders = 5\nwal_level = replica\nmax_worker_processes = 20\n";
my $node = new_node('main', hosts => [$m], conf => $conf);
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id int PRIMARY KEY, v text);
	INSERT INTO session SELECT g, 'main' FROM generate_series(1, 20) g;
	SELECT echocache_attach('session')});

sub row { my ($id, $v) = @_; return qq({"id":$id,"v":"$v"}); }
sub lease_item { return $m->get('_echocache'); }

# Read everything; returns what was read, as one text for each kind.
sub read_all
{
	my ($session) = @_;

	return join ' ', split /\n/, $session->run(q{SELECT DISTINCT session ->> 'v' FROM echocache_get_sessions(ARRAY(SELECT id FROM session)) ORDER BY 1});
}

# Read until everything is cached.
sub warm
{
	my ($session) = @_;

	wait_state($session, 'UP');
	wait_for('everything to be cached', sub {
		read_all($session);
		my %held = $m->contents('session:');
		return 20 == grep { $_ ne 'null' } values %held;
	});
	return;
}

# What was counted: hits and reads that did not use the cache.
sub hits { return $_[0]->run(q{SELECT hits FROM echocache_stats WHERE name = 'session'}); }

# What others than this test have changed on the server.
sub writes
{
	my $stats = $m->stats;

	return { map { $_ => $stats->{$_} } grep { /^(?:cmd_(?:touch|flush)|(?:delete|touch|incr|decr)_\w+)$/ } keys %$stats };
}

# Test: the session's cluster stays away from the server, and says why.
sub stays_away
{
	my ($session, $why, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	eventually("$name: it says why", sub {
		return $session->run('SELECT last_error FROM echocache_servers') =~ /$why/ });
	is($session->run('SELECT state FROM echocache_servers'), 'RECOVERING', "$name: the server is not UP");
	return;
}

# Test: the server is UP within so many seconds.
sub up_within
{
	my ($session, $limit, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $took = seconds(sub { wait_state($session, 'UP') });

	in_time($session, $took, $limit, "$name: UP in time");
	return;
}

sub clone
{
	my ($name, %opt) = @_;
	my $clone = PostgreSQL::Test::Cluster->new($name);

	$node->backup($name);
	$clone->init_from_backup($node, $name, %opt);
	$clone->append_conf('postgresql.conf', "log_statement = none\n");
	return $clone;
}

#
# A clone of production, started with the same settings.
#
warm($s);
eventually('the lease says whose the keys are', sub {
	return lease_item() =~ /^echocache1 lease \d+ \S+ \d+ \d+ [0-9a-f]{32} [0-9a-f]{32} \d+ 1000 1 \d+ \S+ \S+ postgres$/;
});
my $lease_before = lease_item();
eventually('and is renewed', sub { return lease_item() ne $lease_before });
my $clone = clone('staging');
my %before = $m->contents('session:');
my $before = writes();
my $hits = hits($s);
$clone->start;
my $c = session($clone);
stays_away($c, qr/another cluster uses the keys: database "postgres" of the cluster in ".*main_data/, 'a clone');
$c->run(q{UPDATE session SET v = 'clone'; TRUNCATE session; INSERT INTO session SELECT g, 'clone' FROM generate_series(1, 20) g});
is(read_all($c), 'clone', 'a clone reads its own rows');
$c->run(q{SELECT echocache_purge('session')});
sleep 2.5 * $lease;
stays_away($c, qr/another cluster/, 'for as long as the owner is there');
is_deeply({ $m->contents('session:') }, \%before, 'production\'s cache is as it was');
is_deeply(writes(), $before, 'nothing was deleted there');
is(read_all($s), 'main', 'production reads its own');
is(hits($s), $hits + 20, 'from the cache');
like(slurp_file($clone->logfile), qr/LOG:  echocache: the keys that begin with "" on server "\S+" are not used by database \d+\n.*DETAIL:  another cluster uses the keys.*\n.*HINT:  Give every cluster/, 'the clone has logged it');
is(() = slurp_file($clone->logfile) =~ /another cluster uses the keys/g, 1, 'once');

# A prefix of its own is what it needs; what is under the other one is not its to purge.
$c->run(q{ALTER DATABASE postgres SET echocache.key_prefix = 'staging.'; SELECT pg_reload_conf()});
wait_state($c, 'UP');
is_deeply({ $m->contents('session:') }, \%before, 'with another prefix: production\'s cache is as it was');
is(read_all($c), 'clone', 'and it reads its own');
$c->run(q{ALTER DATABASE postgres RESET echocache.key_prefix; SELECT pg_reload_conf()});
stays_away($c, qr/another cluster/, 'without it again');

# The lease's key is nobody's.
like($s->error(q{SELECT echocache_kv_set('_echocache', 'x')}), qr/^42501: /, 'the key is reserved');

# Where nothing is, the clone may claim the keys, and the owner keeps them.
for my $loss ('delete', 'flush')
{
	$loss eq 'delete' ? $m->delete('_echocache') : $m->flush;
	my $end = time + 2 * $lease;
	my $wrong = 0;

	while (time < $end)
	{
		$wrong++ if read_all($s) ne 'main' || read_all($c) ne 'clone';
		$wrong++ if $c->run('SELECT state FROM echocache_servers') eq 'UP';
		sleep 0.05;
	}
	is($wrong, 0, "the item is lost by $loss: each reads its own, and the owner is the same");
	warm($s);
}
is($s->run('SELECT state FROM echocache_servers'), 'UP', 'the owner is UP');
$m->set('_echocache', 'anything');
stays_away($s, qr/holds what is not a lease|until no other cluster/, 'something else under the key');
is(read_all($s), 'main', 'it reads the table');
$clone->stop;
up_within($s, 5 * $lease, 'it takes the key back after a lease');

#
# A restart, an immediate stop and a crash find the lease again.
#
for my $mode ('fast', 'immediate')
{
	warm($s);
	$node->stop($mode);
	$node->start;
	$s = session($node);
	up_within($s, 0.9 * $lease, "restarted after a stop, $mode");
}
my $log = -s $node->logfile;
kill 'KILL', $s->run('SELECT pg_backend_pid()');
wait_for('the postmaster to notice', sub { return slurp_file($node->logfile, $log) =~ /was terminated by signal 9/ });
$node->poll_query_until('postgres', 'SELECT 1', '1');
$s = session($node);
up_within($s, 0.9 * $lease, 'after a crash');
kill 'TERM', $s->run(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'echocache worker'});
wait_state($s, 'UP');
warm($s);

# memcached begins anew: the owner keeps the keys if that is quick, and waits otherwise.
$m->stop;
$s->run(q{UPDATE session SET v = 'anew'});
$m->start;
wait_state($s, 'UP');
warm($s);
is(read_all($s), 'anew', 'memcached begun anew');

#
# The owner is gone, and the clone has the keys after a lease; the owner comes back and stays away.
#
$clone->start;
$c = session($clone);
stays_away($c, qr/another cluster/, 'the clone again');
my $took = seconds(sub { $node->stop('immediate'); wait_state($c, 'UP') });
in_time($c, $took, 5 * $lease, 'the owner is gone: the clone is UP');
cmp_ok($took, '>', 0.3 * $lease, 'not before a lease is over');
is(read_all($c), 'clone', 'and reads nothing that the owner had left');
warm($c);
is_deeply([ grep { !/"clone"/ } values %{ { $m->contents('session:') } } ], [], 'nor does a plain client');
$node->start;
$s = session($node);
stays_away($s, qr/another cluster uses the keys/, 'the old owner');
is(read_all($s), 'anew', 'reads its own');
$clone->stop;
up_within($s, 5 * $lease, 'and has the keys when the clone is gone');
is(read_all($s), 'anew', 'with nothing that the clone had left');

# The owner's worker stands still, and another cluster takes the keys: backends look at the clock.
warm($s);
my $worker = $s->run(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'echocache worker'});
kill 'STOP', $worker;
$clone->start;
$c = session($clone);
wait_state($c, 'UP');
warm($c);
is($s->run('SELECT state FROM echocache_servers'), 'UP', 'a worker that stands still does not know');
is(read_all($s), 'anew', 'but backends read the table');
$s->run(q{UPDATE session SET v = 'later' WHERE id = 1});
isnt($m->settled('session:1'), row(1, 'later'), 'and store nothing');
is($c->run(q{SELECT echocache_get_session(1)}), row(1, 'clone'), 'the other one reads its own');
kill 'CONT', $worker;
stays_away($s, qr/another cluster uses the keys/, 'the worker goes on');
$clone->stop;
up_within($s, 5 * $lease, 'and has the keys again');
is($s->run(q{SELECT echocache_get_session(1)}), row(1, 'later'), 'with nothing old');

#
# Databases of one cluster.
#
$s->run("CREATE DATABASE $_") for 'da', 'db';
my $attach = sub {
	my ($db, $name) = @_;
	return session($node, dbname => $db, sql => qq{CREATE EXTENSION echocache; CREATE TABLE session (id int PRIMARY KEY, v text);
		INSERT INTO session SELECT g, '$db' FROM generate_series(1, 20) g; SELECT echocache_attach('session', '$name')});
};
my $da = $attach->('da', 'session');
my $db = $attach->('db', 'other');
stays_away($da, qr/database "postgres" of this cluster uses the keys/, 'another database with the same prefix');
stays_away($db, qr/database "postgres" of this cluster uses the keys/, 'a database with another name');
is(read_all($da), 'da', 'it reads its own');
$s->run("ALTER DATABASE $_ SET echocache.key_prefix = '$_:'") for 'da', 'db';
$s->run('SELECT pg_reload_conf()');
wait_state($da, 'UP');
wait_state($db, 'UP');
is(read_all($da), 'da', 'with a prefix of its own');
$db->run(q{SELECT echocache_get('other', 1)});

# They come to one prefix while they run: the one that has it keeps it.
$s->run(q{ALTER DATABASE db SET echocache.key_prefix = 'da:'; SELECT pg_reload_conf()});
stays_away($db, qr/database "da" of this cluster uses the keys/, 'a prefix that is another database\'s');
wait_state($da, 'UP');
$db->run(q{BEGIN; SELECT echocache_detach('other'); SELECT echocache_attach('session'); COMMIT});
$db->run(q{UPDATE session SET v = 'secret of db' WHERE id = 2});
for my $round (1, 2)
{
	is(read_all($da), 'da', "the one that has it reads its own, $round");
	is(read_all($db), 'db secret of db', "and so does the other, $round");
}
for my $round (1 .. 3)
{
	$node->restart;
	($s, $da, $db) = map { session($node, dbname => $_) } 'postgres', 'da', 'db';
	stays_away($db, qr/database "da" of this cluster uses the keys/, "restart $round");
	wait_state($_, 'UP') for $s, $da;
	is(read_all($da), 'da', "restart $round: the one that has it reads its own");
	is(read_all($db), 'db secret of db', "restart $round: and so does the other");
}

# A database without documents gives way.
$da->run('SELECT echocache_detach()');
$db->run(q{SELECT echocache_detach(); SELECT echocache_attach('session')});
wait_state($db, 'UP');
stays_away($da, qr/database "db" of this cluster uses the keys/, 'a database without documents');
is(read_all($db), 'db secret of db', 'the other has the keys');
$_->quit for $da, $db;
$s->run('DROP DATABASE da; DROP DATABASE db');
wait_state($s, 'UP');

#
# A standby believes in its primary's lease only, and takes it over when it is promoted.
#
warm($s);
my $standby = clone('standby', has_streaming => 1);
$standby->start;
my $h = session($standby);
wait_state($h, 'UP');
my $v = read_all($s);
is(read_all($h), $v, 'a standby reads what its primary has');
cmp_ok(hits($h), '>', 0, 'from the cache');
$m->set('_echocache', $m->get('_echocache') =~ s/^(echocache1 lease) \d+/$1 4711/r);
eventually('a lease of another system: the standby stays away', sub { return $h->run('SELECT state FROM echocache_servers') ne 'UP' });
wait_state($s, 'UP');
wait_state($h, 'UP');

# The primary is dead.
$s->run(q{UPDATE session SET v = 'last'});
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
warm($s);
$node->stop('immediate');
$h->run('SELECT pg_promote()');
up_within($h, 5 * $lease, 'promoted');
is(read_all($h), 'last', 'promoted: what it has');
warm($h);

# The old primary comes back, and stays away.
$node->start;
$s = session($node);
stays_away($s, qr/another cluster uses the keys: .*standby_data/, 'the old primary');
$s->run(q{UPDATE session SET v = 'nobody sees this'});
is(read_all($h), 'last', 'and changes nothing there');
$standby->stop;
wait_state($s, 'UP');

# A standby is promoted while its primary runs: the primary gives way, also if it has renewed its
# lease just before the claim arrives.
my $proxy = proxy($m);
$standby = clone('standby2', has_streaming => 1);
$standby->append_conf('postgresql.conf', "echocache.hosts = '" . $proxy->address . "'\n");
$standby->start;
$h = session($standby);
wait_state($h, 'UP');
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
$proxy->tell('hold up ms _echocache');
$h->run('SELECT pg_promote()');
$proxy->holding('up');
my $renewed = lease_item();
wait_for('a renewal', sub { return lease_item() ne $renewed });
$proxy->tell('release up');
up_within($h, 6 * $lease, 'promoted beside its primary');
stays_away($s, qr/another cluster uses the keys: .*standby2_data/, 'the primary');
$h->run(q{UPDATE session SET v = 'promoted'});
is(read_all($h), 'promoted', 'the promoted one reads its own');
is(read_all($s), 'nobody sees this', 'and so does the other');

#
# Promoted when its primary has been silent for a lease: it has the keys at once, without a claim.  It
# stands still, and its own standby is promoted: it does not take the keys from that one when it goes on.
#
$proxy->tell('pass');
$standby->stop('immediate');
wait_state($s, 'UP');
my $second = clone('second', has_streaming => 1);
$second->start;
my $r = session($second);
wait_state($r, 'UP');
$node->stop('immediate');
eventually('a standby notices that its primary is silent', sub { return $r->run('SELECT state FROM echocache_servers') ne 'UP' });
sleep 1.5 * $lease;
$r->run('SELECT pg_promote()');
wait_state($r, 'UP');
unlike(slurp_file($second->logfile), qr/are not used by database/, 'promoted after its primary was silent: nobody else is said to use the keys');
$second->backup('third');
my $third = PostgreSQL::Test::Cluster->new('third');
$third->init_from_backup($second, 'third', has_streaming => 1);
$third->start;
my $t = session($third);
wait_state($t, 'UP');
$r->run(q{UPDATE session SET v = 'second'});
$second->wait_for_catchup($third, 'replay', $second->lsn('insert'));
my @second = (slurp_file($second->data_dir . '/postmaster.pid') =~ /\A(\d+)/, split /\n/, $r->run('SELECT pid FROM pg_stat_activity'));
kill 'STOP', @second;
$t->run('SELECT pg_promote()');
wait_state($t, 'UP');
$t->run(q{UPDATE session SET v = 'third'});
warm($t);
$log = -s $third->logfile;
kill 'CONT', @second;
stays_away($r, qr/another cluster uses the keys: .*third_data/, 'the one that stood still');
sleep 2.5 * $lease;
is($t->run('SELECT state FROM echocache_servers'), 'UP', 'the one that was promoted last is UP');
unlike(slurp_file($third->logfile, $log), qr/are not used by database/, 'all the time');
is(read_all($t), 'third', 'it reads its own');
is(read_all($r), 'second', 'and so does the other');

unlike(slurp_file($_->logfile), qr/PANIC|TRAP|terminated by signal 1[01]/, 'no backend of ' . $_->name . ' crashed') for $node, $clone, $standby, $second, $third;

done_testing();
