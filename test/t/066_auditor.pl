# The auditor: finds what is cached and wrong, forged documents and those of rows that are not there
# among it, in memcached and in shared memory; logs it with its key, invalidates and counts it.  It
# is quiet where nothing is to be said, runs an owner's code as the builder does, and waits for
# nobody's lock.
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

my $m = memcached();
my $node = new_node('main', hosts => [$m], conf => <<'CONF');
echocache.local_memory = '16MB'
echocache.audit_rate = 100
max_wal_senders = 5
wal_level = replica
log_statement = none
CONF
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE ROLE owner;
	GRANT CREATE ON SCHEMA public TO owner;
	CREATE TABLE item (id int PRIMARY KEY, v text);
	INSERT INTO item SELECT g, 'right' FROM generate_series(1, 50) g;
	CREATE TABLE part (id text PRIMARY KEY, at timestamptz, secret text, hidden bool) PARTITION BY HASH (id);
	CREATE TABLE part_0 PARTITION OF part FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	INSERT INTO part SELECT 'n ° ' || g, '2026-01-01', 'secret', g % 2 = 0 FROM generate_series(1, 20) g;
	ALTER TABLE part ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
	ALTER TABLE part OWNER TO owner;
	CREATE TABLE invalid (id int PRIMARY KEY, v text);
	INSERT INTO invalid SELECT g, 'right' FROM generate_series(1, 20) g;
	SELECT echocache_attach('item', 'item'), echocache_attach('part', 'part', filter => 'NOT hidden', exclude => '{secret}'),
		echocache_attach('invalid', 'invalid', policy => 'invalidate')});

# What the counters say of a document.
sub counted
{
	my ($document, @names) = @_;

	return $s->run("SELECT @{[ join ', ', @names ]} FROM echocache_stats WHERE name = '$document'");
}

# Wait until the auditor has looked at so many documents of each name.
sub await_audited
{
	my ($more, @documents) = @_;

	for my $document (@documents)
	{
		my $before = counted($document, 'audited');
		wait_for("the auditor to look at $document", sub { return counted($document, 'audited') >= $before + $more; });
	}
	return;
}

# The log's lines with alarms; of this key, or all.
sub alarms
{
	my ($key) = @_;
	my $which = defined $key ? qr/"\Q$key\E"/ : qr/"/;

	return grep { /WARNING: .*echocache: the cache had a (stale|foreign) document under key $which/ } split /\n/, slurp_file($node->logfile);
}

# Something is planted under a key: it is found, once.
sub finds
{
	my ($document, $key, $value, $kind, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $before = counted($document, "audit_$kind");

	$m->set($key, $value);
	eventually("$name: found", sub { return counted($document, "audit_$kind") == $before + 1; });
	my $held = $m->get($key);
	ok(!defined $held || $held ne $value, "$name: invalidated");
	is(scalar(my @lines = alarms($key)), 1, "$name: logged once, with its key");
	like($lines[0], qr/a $kind document/, "$name: as $kind");
	return;
}

#
# What is right is left alone.
#
wait_state($s, 'UP');
$s->run(q{SELECT echocache_warm(n) FROM unnest('{item,part,invalid}'::text[]) n});
$s->run(q{SELECT echocache_get('item', id) FROM item; SELECT echocache_get('part', id) FROM part});
await_audited(200, qw(item part invalid));
is(join(' ', alarms()), '', 'nothing is wrong');
is(counted($_, qw(audit_stale audit_foreign)), '0|0', "nothing of $_") for qw(item part invalid);
is(scalar(grep { $_ eq '{"id":7,"v":"right"}' } $m->get('item:7')), 1, 'and nothing is removed');

# Changes go on, also such as are not flushed, roll back, or wait for COMMIT PREPARED.
my $until = time + 5;
while (time < $until)
{
	$s->run(q{UPDATE item SET v = 'other' WHERE id = 1 + (random() * 49)::int});
	$s->run(q{SET synchronous_commit = off; UPDATE item SET v = 'right' WHERE v <> 'right'; RESET synchronous_commit});
	$s->run(q{BEGIN; UPDATE invalid SET v = 'x'; ROLLBACK; UPDATE part SET at = at + interval '1 s' WHERE id LIKE '%3'});
	$s->run(q{SELECT echocache_get('item', id) FROM item; SELECT echocache_get('part', id) FROM part});
}
await_audited(100, qw(item part invalid));
is(join(' ', alarms()), '', 'nothing is wrong while documents change');

#
# What is wrong.
#
finds('item', 'item:1', '{"id":1,"v":"old"}', 'stale', 'an old document');
finds('item', 'item:2', 'rubbish', 'foreign', 'no document');
finds('item', 'item:3', '{"id":4,"v":"right"}', 'foreign', 'another row\'s document');
finds('item', 'item:999', '{"id":999,"v":"none"}', 'stale', 'a document without a row');
finds('item', 'item:abc', '{"id":"abc"}', 'foreign', 'a key that no row can have');
finds('part', 'part:n%20%C2%B0%202', '{"id":"n ° 2","at":"2026-01-01T00:00:00+00:00","hidden":true}', 'stale', 'a row that the filter leaves out');
finds('part', 'part:n%20%C2%B0%201', '{"id":"n ° 1","at":"2026-01-01T00:00:00+00:00","secret":"secret","hidden":false}', 'stale', 'a column that is excluded');
finds('invalid', 'invalid:5', '{"id":5,"v":"old"}', 'stale', 'a document of policy invalidate');
is($s->run(q{SELECT echocache_get('item', 1)}), '{"id":1,"v":"right"}', 'the next read loads what is right');

# A function reads a table that nobody has told of; memcached has lost the document, so it is in
# shared memory alone.
$s->run(q{SET client_min_messages = error; CREATE TABLE price (id int PRIMARY KEY);
	INSERT INTO price SELECT g FROM generate_series(1, 10) g;
	CREATE TABLE rate (rate int); INSERT INTO rate VALUES (1);
	CREATE FUNCTION price_document(p price) RETURNS json STABLE LANGUAGE sql AS $$
		SELECT json_build_object('id', p.id, 'rate', rate) FROM public.rate $$;
	RESET client_min_messages;
	SELECT echocache_attach('price', 'price', document => 'price_document')});
$s->run(q{SELECT echocache_get('price', 9) FROM generate_series(1, 3)});
is($s->run(q{SELECT entries FROM echocache_memory WHERE name = 'price'}), 1, 'a document in shared memory');
setting($s, 'echocache.audit_rate' => 0);
wait_for('the auditor to end', sub { return $s->run(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'echocache auditor'}) == 0; });
$s->run(q{UPDATE rate SET rate = 2});
$m->delete('price:9');
setting($s, 'echocache.audit_rate' => 100);
eventually('the second tier: found', sub { return counted('price', 'audit_stale') == 1; });
is(scalar(my @lines = alarms('price:9')), 1, 'the second tier: logged once, with its key');
like(slurp_file($node->logfile), qr/DETAIL:  Shared memory had it, for document "price"/, 'and where it was');
is($s->run(q{SELECT entries FROM echocache_memory WHERE name = 'price'}), 0, 'the second tier: invalidated');

# Many at once: all are found, but few are logged.
my $logged = () = alarms();
my $before = counted('invalid', 'audit_stale');
$m->set("invalid:$_", qq({"id":$_,"v":"forged"})) for 1 .. 20, 1001 .. 1020;
eventually('many: found', sub { return counted('invalid', 'audit_stale') >= $before + 40; });
cmp_ok(scalar(() = alarms()) - $logged, '<=', 20, 'many: ten in a minute are logged');
is(scalar(grep { !defined $_ || !/forged/ } map { $m->get("invalid:$_") } 1 .. 20, 1001 .. 1020), 40, 'many: invalidated');

#
# Code of an owner's: as the owner, confined, and no alarm where it is not what it says that it is.
#
$s->run(q{SET client_min_messages = error; SET ROLE owner;
	CREATE TABLE made (id int PRIMARY KEY, v int);
	INSERT INTO made SELECT g, g FROM generate_series(1, 10) g;
	CREATE TABLE notes (note text);
	CREATE FUNCTION made_document(m made) RETURNS json STABLE LANGUAGE plpgsql AS $$
		DECLARE
			could text = '';
		BEGIN
			BEGIN
				EXECUTE 'ALTER ROLE owner SUPERUSER';
				could = could || 'role ';
			EXCEPTION WHEN OTHERS THEN NULL;
			END;
			BEGIN
				EXECUTE 'INSERT INTO public.notes VALUES (''written'')';
				could = could || 'write ';
			EXCEPTION WHEN OTHERS THEN NULL;
			END;
			BEGIN
				EXECUTE 'RESET SESSION AUTHORIZATION';
				could = could || 'session ';
			EXCEPTION WHEN OTHERS THEN NULL;
			END;
			PERFORM set_config('search_path', 'public', false);
			RETURN json_build_object('id', m.id, 'v', m.v, 'who', current_user, 'could', could);
		END $$;
	CREATE TABLE moody (id int PRIMARY KEY);
	INSERT INTO moody SELECT g FROM generate_series(1, 10) g;
	CREATE FUNCTION moody_document(m moody) RETURNS json STABLE LANGUAGE sql AS $$
		SELECT json_build_object('id', m.id, 'at', now()) $$;
	CREATE TABLE broken (id int PRIMARY KEY, v int);
	INSERT INTO broken SELECT g, 1 FROM generate_series(1, 10) g;
	CREATE FUNCTION broken_document(b broken) RETURNS json STABLE LANGUAGE sql AS $$
		SELECT json_build_object('id', b.id, 'v', 1 / b.v) $$;
	RESET ROLE; RESET client_min_messages;
	SELECT echocache_attach('made', 'made', document => 'made_document'), echocache_attach('moody', 'moody', document => 'moody_document'),
		echocache_attach('broken', 'broken', document => 'broken_document');
	SELECT echocache_warm(n) FROM unnest('{made,moody,broken}'::text[]) n});
await_audited(50, qw(made moody broken));
is(counted($_, qw(audit_stale audit_foreign)), '0|0', "nothing is wrong with $_") for qw(made moody broken);
is($m->get('made:3'), '{"id" : 3, "v" : 3, "who" : "owner", "could" : ""}', 'an owner\'s function runs as the owner, confined');
is($s->run(q{SELECT rolsuper, (SELECT count(*) FROM notes) FROM pg_roles WHERE rolname = 'owner'}), 'f|0', 'and has done nothing');
finds('made', 'made:3', '{"id" : 3, "v" : 4, "who" : "owner", "could" : ""}', 'stale', 'a function\'s document');

#
# Nobody's lock is waited for, and nobody waits for the auditor.
#
my $other = session($node);
$s->run(q{SELECT echocache_warm('invalid')});
$other->run(q{BEGIN; LOCK TABLE item, part_0 IN ACCESS EXCLUSIVE MODE});
await_audited(50, 'invalid');
pass('a table, or a partition, that is locked keeps it from nothing else');
$other->run(q{ROLLBACK});
await_audited(10, 'item');
for my $n (1 .. 3)
{
	$s->run("CREATE DATABASE other$n");
	my $in = session($node, dbname => "other$n", sql => q{
		ALTER DATABASE } . "other$n" . q{ SET echocache.key_prefix = 'o} . $n . q{:';
		CREATE EXTENSION echocache; CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1); SELECT echocache_attach('item', 'item')});
	sleep rand 2;
	$in->quit;
	is($s->run("DROP DATABASE other$n"), '', "a database is dropped, $n");
}
is($s->run(q{SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND backend_type = 'echocache auditor' AND now() - xact_start > interval '5 s'}), 0, 'no transaction is long');

#
# Quiet.
#
sub quiet
{
	my ($name, $session) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $alarms = () = alarms();

	# what is under way ends
	wait_for('the auditor to end', sub { return $s->run(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'echocache auditor'}) == 0; });
	my $audited = $s->run('SELECT sum(audited), sum(audit_stale), sum(audit_foreign) FROM echocache_stats');
	$m->set('item:20', '{"id":20,"v":"forged"}');
	sleep 4;
	is($s->run('SELECT sum(audited), sum(audit_stale), sum(audit_foreign) FROM echocache_stats'), $audited, "$name: nothing is looked at");
	is($m->get('item:20'), '{"id":20,"v":"forged"}', "$name: nor removed");
	is(scalar(() = alarms()), $alarms, "$name: nor logged");
	return;
}
setting($s, 'echocache.audit_rate' => 0);
quiet('audit_rate = 0');
setting($s, 'echocache.audit_rate' => 100, 'echocache.enabled' => 'off');
sleep 2;
quiet('enabled = off');
setting($s, 'echocache.enabled' => 'on');
wait_state($s, 'UP');

# A server that is away, and one that comes back.
$s->run(q{SELECT echocache_warm('item')});
$m->stop;
$s->run(q{UPDATE item SET v = 'meanwhile'});
sleep 2;
my $alarms = () = alarms();
$m->start;
wait_state($s, 'UP');
$s->run(q{SELECT echocache_warm('item')});
await_audited(100, 'item');
is(scalar(() = alarms()), $alarms, 'no alarm for a server that was away');

# A standby has none.
$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
my $r = session($standby);
wait_state($r, 'UP');
$r->run(q{SELECT echocache_get('item', 1)});
setting($s, 'echocache.audit_rate' => 0);
$m->set('item:21', '{"id":21,"v":"forged"}');
sleep 4;
is($r->run('SELECT coalesce(sum(audited), 0) FROM echocache_stats'), 0, 'a standby audits nothing');
unlike(slurp_file($standby->logfile), qr/the cache had a/, 'and logs nothing');
$r->quit;
$standby->stop;

#
# Afterwards it goes on, as soon as it is switched on.
#
setting($s, 'echocache.audit_rate' => 1000);
eventually('what was planted meanwhile is found', sub { return !defined $m->get('item:21'); });
is(scalar(() = alarms('item:21')), 1, 'and logged');
$s->run(q{DROP EXTENSION echocache CASCADE});
sleep 2;
unlike(slurp_file($node->logfile), qr/(ERROR|FATAL|PANIC|TRAP).*(auditor)/, 'it ends without an error');

$s->quit;
$other->quit;
$node->stop;
done_testing();
