# Random SQL (sqlsmith) on attached tables, as a role with rights on them and as a
# superuser, while memcached is killed, frozen and started again: no backend
# crashes or fails for a reason of ours that cannot happen, no lock is left behind, and
# what is cached then is what the tables have.
#
# SQLSMITH_SECONDS (12) is how long, SQLSMITH_SEED (1) what it begins with.  On a
# machine of the same speed a seed gives much the same statements, not the same timing.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $duration = $ENV{SQLSMITH_SECONDS} // 12;
my $seed = $ENV{SQLSMITH_SEED} // 1;

# What the extension itself reports as impossible, by the name of the source file.
my $ours = join '|', map { s{.*/}{}r } glob "$FindBin::RealBin/../../src/{,*/}*.c";

my @memcached = (memcached(), memcached());
my $node = new_node('main', hosts => \@memcached, conf => <<'CONF');
echocache.timeout = '200ms'
log_statement = none
log_min_error_statement = panic
log_error_verbosity = verbose
max_prepared_transactions = 5
autovacuum = off
CONF

# sqlsmith calls no functions that return sets, and knows no arguments that make sense: so
# views have ours.  And it takes all functions of pg_catalog, polymorphic ones wrongly: so what it takes for
# pg_proc has all of ours, and not so many of those.
my $setup = q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, owner bigint, title text, body jsonb, at timestamptz DEFAULT now(), secret text, is_deleted boolean NOT NULL DEFAULT false);
	CREATE TABLE thread (id int PRIMARY KEY, owner text, subject varchar(80));
	CREATE TABLE post (id bigserial PRIMARY KEY, thread int, body text);
	CREATE TABLE part (id bigint PRIMARY KEY, n numeric, at date) PARTITION BY HASH (id);
	CREATE TABLE part0 PARTITION OF part FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE part1 PARTITION OF part FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	CREATE TABLE note (id uuid PRIMARY KEY, author text, body text);
	CREATE FUNCTION thread_document(t thread) RETURNS json LANGUAGE sql STABLE AS $$
		SELECT json_build_object('id', t.id, 'owner', t.owner, 'subject', t.subject,
			'posts', (SELECT json_agg(p.body ORDER BY p.id) FROM public.post p WHERE p.thread = t.id)) $$;
	SELECT echocache_attach('session', owner_column => 'owner', filter => 'NOT is_deleted', exclude => '{secret,is_deleted}');
	SELECT echocache_attach('thread', 'thread', owner_column => 'owner', document => 'thread_document', touch_on_read => true);
	SELECT echocache_attach_dependent('post', 'thread', 'thread');
	SELECT echocache_attach('part', 'part', ttl => '1 h');
	SELECT echocache_attach('note', 'note', owner_column => 'author', policy => 'invalidate');
	CREATE VIEW get AS SELECT id, echocache_get_session(id) AS document, echocache_get_session(id, owner) AS owned FROM session;
	CREATE VIEW get_thread AS SELECT id, echocache_get('thread', id) AS document, echocache_get('thread', id, owner) AS owned FROM thread;
	CREATE VIEW get_others AS SELECT echocache_get('part', id) AS part, echocache_get('note', (SELECT id FROM note LIMIT 1)) AS note FROM part;
	CREATE VIEW get_many AS SELECT id, session FROM echocache_get_sessions((SELECT array_agg(id) FROM session)) UNION ALL
		SELECT id, document FROM echocache_get_many('part', (SELECT array_agg(id) FROM part));
	CREATE VIEW get_rows AS SELECT r.* FROM session s, echocache_get_row(NULL::session, s.id) r;
	CREATE VIEW get_note AS SELECT r.* FROM note n, echocache_get_row(NULL::note, n.id, n.author) r;
	CREATE VIEW change AS SELECT id, echocache_touch_session(id) AS touched, echocache_refresh_session(id) AS refreshed, echocache_invalidate('thread', id) AS invalidated,
		echocache_refresh('thread', id) AS thread, echocache_touch('part', id, interval '1 min') AS part FROM session;
	CREATE VIEW sweep AS SELECT echocache_warm('session', 10) AS session, echocache_warm('thread') AS thread, echocache_purge('part') AS part, v.* FROM echocache_verify('thread', 5, true) v;
	CREATE VIEW kv AS SELECT k, echocache_kv_set(k, 'v' || id) AS set, echocache_kv_get(k) AS get, echocache_kv_incr(k) AS incr, echocache_kv_delete(k) AS gone,
		(SELECT cas FROM echocache_kv_gets(k)) AS cas FROM (SELECT id, 'key' || id AS k FROM session) x;
	CREATE SCHEMA smith;
	GRANT USAGE ON SCHEMA smith TO PUBLIC;
	CREATE VIEW smith.pg_proc AS SELECT * FROM pg_catalog.pg_proc p WHERE proname LIKE 'echocache%' OR
		(oid::bigint % 7 = 0 AND NOT EXISTS (SELECT FROM pg_type t WHERE (t.oid = prorettype OR t.oid = ANY (proargtypes)) AND typtype = 'p') AND proname !~ 'log|wal|terminate|cancel|sleep|lo_|file|advisory');
	GRANT SELECT ON smith.pg_proc TO PUBLIC;
	CREATE VIEW cache AS SELECT echocache_is_available() AS up, echocache_connect() AS connected, h.* FROM echocache_health() h};
my $fill = q{
	INSERT INTO session SELECT i, i % 3, 'title ' || i, '{"a": [1]}', now(), 'secret' FROM generate_series(1, 20) i ON CONFLICT (id) DO UPDATE SET is_deleted = false;
	INSERT INTO thread SELECT i, i % 3, 'subject ' || i FROM generate_series(1, 20) i ON CONFLICT DO NOTHING;
	INSERT INTO post (thread, body) SELECT i % 20, 'post ' || i FROM generate_series(1, 20) i WHERE (SELECT count(*) FROM post) < 100;
	INSERT INTO part SELECT i, i / 3.0, now() FROM generate_series(1, 20) i ON CONFLICT DO NOTHING;
	INSERT INTO note SELECT ('00000000-0000-0000-0000-0000000000' || i)::uuid, 'smith', 'body ' || i FROM generate_series(10, 30) i ON CONFLICT DO NOTHING};

my $s = session($node);
$s->run(q{CREATE ROLE smith LOGIN IN ROLE pg_monitor; CREATE DATABASE super; ALTER DATABASE super SET echocache.key_prefix = 'super/'});
$s->run($setup);
$s->run(q{
	GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO smith;
	REVOKE INSERT, UPDATE, DELETE ON echocache_documents, echocache_servers, echocache_stats FROM smith;
	GRANT USAGE ON SEQUENCE post_id_seq TO smith;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO smith;
	REVOKE EXECUTE ON FUNCTION echocache_stats_reset() FROM smith;
	ALTER TABLE note ENABLE ROW LEVEL SECURITY;
	CREATE POLICY half ON note TO smith USING (body IS NULL OR right(id::text, 1) IN ('0', '2', '4', '6', '8')) WITH CHECK (true)});
my $super = session($node, dbname => 'super', sql => $setup);
for my $session ($s, $super)
{
	wait_state($session, 'UP');
	$session->run($fill);
}

#
# Let them loose.
#
my %smiths;
sub smith
{
	my ($dbname, $user, $seed) = @_;
	my $log = "$PostgreSQL::Test::Utils::log_path/sqlsmith.$seed.log";
	my $pid = fork;

	die "cannot fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		open STDOUT, '>', $log;
		open STDERR, '>&', \*STDOUT;
		exec 'sqlsmith', '--verbose', '--exclude-catalog', "--seed=$seed", '--target=' . $node->connstr($dbname) . " user=$user options='-c search_path=smith,pg_catalog,public'" or POSIX::_exit(127);
	}
	$smiths{$pid} = "sqlsmith as $user with seed $seed";
	diag($smiths{$pid});
	return;
}
END
{
	my $status = $?;
	kill 'KILL', $_ for keys %smiths;
	$? = $status;
}

my $me = getpwuid $<;
smith('postgres', 'smith', $seed);
smith('postgres', 'smith', $seed + 1);
smith('super', $me, $seed + 2);

my $end = time + $duration;
my $refill = sub { $_->attempt($fill) for $s, $super };
for (my $round = 0; time < $end; $round++)
{
	my $server = $memcached[ $round % 2 ];

	sleep 1;
	$refill->();
	if ($round % 4 < 3)
	{
		$server->stop;
		sleep 0.5;
		$server->start;
	}
	else
	{
		$server->freeze;
		sleep 0.5;
		$server->thaw;
	}
}
is(waitpid($_, POSIX::WNOHANG), 0, "$smiths{$_} has run to the end") for keys %smiths;
for my $pid (keys %smiths)
{
	kill 'TERM', $pid;
	waitpid $pid, 0;
	delete $smiths{$pid};
}
my $smiths = q{FROM pg_stat_activity WHERE application_name = 'sqlsmith'};
wait_for('the statements to end', sub { return $s->run("SELECT count(*) $smiths") eq '0' });
setting($s, 'echocache.timeout' => '5s');

#
# What they have left behind.
#
my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:|was terminated by signal|exited with exit code [02-9]/, 'nobody has crashed');
my @impossible = grep { !/connection to client lost/ } $log =~ /((?:ERROR|FATAL):  XX\d{3}: .*\n(?:.*(?:DETAIL|HINT|CONTEXT|QUERY):.*\n)*.*LOCATION:  \w+, (?:.*\/)?(?:$ours):\d+)/g;
is_deeply(\@impossible, [], 'nor was anything impossible');
unlike($log, qr/you don't own a lock/, 'no lock is released that is not held');
# A session that has just ended, or a worker, may hold one for a moment.
eventually('no lock is left', sub { return $s->run(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid NOT IN (1, 2)}) eq '0' });
is($s->run(q{SELECT count(*) FROM pg_prepared_xacts}), 0, 'no prepared transaction');
is($s->run(q{SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'}), 0, 'and no transaction is open');

wait_state($_, 'UP') for $s, $super;
cmp_ok($s->run('SELECT sum(hits) FROM echocache_stats'), '>', 0, 'there were hits');
cmp_ok($s->run('SELECT sum(write_throughs) FROM echocache_stats'), '>', 0, 'and changes');
is($s->run('SELECT sum(waiting) FROM echocache_servers'), 0, 'the outbox is empty');
for my $name ('session', 'thread', 'part', 'note')
{
	is($s->run(qq{SELECT stale, "foreign", busy FROM echocache_verify('$name')}), '0|0|0', "nothing stale of \"$name\"");
	# all of it, loaded now
	$s->run("SELECT echocache_warm('$name')");
	is($s->run(qq{SELECT stale, "foreign", busy, checked = matching FROM echocache_verify('$name')}), '0|0|0|t', 'and nothing missing once it is warm');
}

done_testing();
