# fallback = off: a commit whose old document somebody could still read does not
# succeed, a read that needs the cache fails, each with an error code and a hint;
# what does not need the cache goes on, and all of it once the server is back.
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

# What is not the wait for a server takes less, on a machine that is not busy.
my $slack = 1;
my $timeout = 1;

my ($a, $b) = (memcached(), memcached());
my $node = new_node('main', hosts => [ $a, $b ],
	conf => "echocache.fallback = off\nechocache.timeout = '1s'\nechocache.lease = '10s'\nmax_prepared_transactions = 5\nlog_statement = none\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE owner (id bigint PRIMARY KEY);
	CREATE TABLE session (id bigint PRIMARY KEY, owner bigint REFERENCES owner ON UPDATE CASCADE ON DELETE CASCADE, v int);
	CREATE TABLE staging (id bigint, owner bigint, v int);
	CREATE TABLE unrelated (id bigint);
	CREATE PROCEDURE twice() LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO unrelated VALUES (2); COMMIT;
		UPDATE session SET v = -1; COMMIT;
	END $$;
	SELECT echocache_attach('session', owner_column => 'owner')});
my $other = session($node);
wait_state($s, 'UP');
$s->run(q{INSERT INTO owner VALUES (7); INSERT INTO session SELECT g, 7, 0 FROM generate_series(1, 200) g;
	INSERT INTO staging VALUES (1000, 7, 0)});

sub row { my ($id, $v) = @_; return qq({"id":$id,"owner":7,"v":$v}); }

# A key on each server.
$s->run('SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session))');
my ($on_a) = map { /:(\d+)/ } grep { $a->get($_) ne 'null' } $a->keys;
my ($on_b) = map { /:(\d+)/ } grep { $b->get($_) ne 'null' } $b->keys;

my $refusal = qr/^08006: could not invalidate cached documents from server "\Q${\$b->address}\E"\n(?s:.*)HINT:  .*echocache\.fallback/;
my $no_read = qr/^08006: .*\n(?s:.*)HINT:  .*echocache\.fallback/;

# Everything that is cached, of both servers, without markers.
sub plain
{
	my %found;

	for my $server ($a, $b)
	{
		for my $key ($server->keys)
		{
			my $value = $server->get($key);
			$found{$key} = $value if defined $value && $value ne 'null';
		}
	}
	return \%found;
}

# Test: whatever is cached is what the table has.
sub nothing_old
{
	my ($label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $found = plain();
	my %rows = map { split /\|/, $_, 2 } split /\n/, $s->run(q{SELECT 'session:' || id, row_to_json(session) FROM session});
	my @wrong = grep { ($rows{$_} // '') ne $found->{$_} } sort keys %$found;

	is_deeply(\@wrong, [], "$label: a plain client finds nothing old");
	return;
}

#
# All is well: strict or not, the same bytes are sent.
#
my %sent;
long_lease($s, $b);
for my $fallback ('on', 'off')
{
	my $lease = $b->get('_echocache');
	setting($s, 'echocache.fallback' => $fallback);
	wait_for('another worker', sub { return $b->get('_echocache') ne $lease; });
	$s->run("UPDATE session SET v = 0 WHERE id = $on_b; SELECT echocache_get_session($on_b)");
	holds($b, "session:$on_b", row($on_b, 0), "fallback = $fallback: cached");
	my $before = $b->traffic;
	$s->run("UPDATE session SET v = v + 1 WHERE id = $on_b");
	$s->run("SELECT echocache_get_session($on_b)") for 1 .. 3;
	holds($b, "session:$on_b", row($on_b, 1), "fallback = $fallback: written through");
	$sent{$fallback} = $b->traffic - $before;
}
cmp_ok($sent{on}, '>', 0, 'fallback = on: something is sent');
is($sent{off}, $sent{on}, 'fallback = off: as many bytes');
setting($s, 'echocache.lease' => '10s');

#
# Every way to change a document, while one server is killed and while it is frozen,
# as the first to notice and when it is known.
#
my @changes = (
	[ 'UPDATE', "UPDATE session SET v = -1 WHERE id = $on_b" ],
	[ 'DELETE', "DELETE FROM session WHERE id = $on_b" ],
	[ 'a change of the key', "UPDATE session SET id = -$on_b WHERE id = $on_b" ],
	[ 'keys on both servers', "BEGIN; UPDATE session SET v = -1 WHERE id = $on_a; UPDATE session SET v = -1 WHERE id = $on_b; COMMIT" ],
	[ 'more than max_write_through', 'UPDATE session SET v = -1' ],
	[ 'INSERT ON CONFLICT', "INSERT INTO session VALUES ($on_b, 7, 0) ON CONFLICT (id) DO UPDATE SET v = -1" ],
	[ 'MERGE', "MERGE INTO session USING (VALUES ($on_b)) s (id) ON session.id = s.id WHEN MATCHED THEN UPDATE SET v = -1", 15 ],
	[ 'a foreign key cascade', 'UPDATE owner SET id = 8 WHERE id = 7' ],
	[ 'TRUNCATE', 'TRUNCATE session' ],
	[ 'a savepoint', "BEGIN; SAVEPOINT x; UPDATE session SET v = -1 WHERE id = $on_b; RELEASE x; COMMIT" ],
	[ 'COMMIT AND CHAIN', "BEGIN; UPDATE session SET v = -1 WHERE id = $on_b; COMMIT AND CHAIN" ],
	[ 'PREPARE TRANSACTION', "BEGIN; UPDATE session SET v = -1 WHERE id = $on_b; PREPARE TRANSACTION 'p'" ],
	[ 'COMMIT in a procedure', 'CALL twice()' ],
	[ 'DDL', 'ALTER TABLE session ADD COLUMN extra int' ],
	[ 'DROP TABLE', 'DROP TABLE session' ],
	[ 'detach', 'SELECT echocache_detach()' ]);
my $before = $s->run('SELECT md5(string_agg(s::text, chr(10) ORDER BY id)) FROM session s');

for my $fault ([ 'killed', sub { $b->stop }, sub { $b->start } ], [ 'frozen', sub { $b->freeze }, sub { $b->thaw } ])
{
	my ($how, $break, $mend) = @$fault;

	for my $when ('first to notice', 'known to be down')
	{
		my $broken;
		for my $change (@changes)
		{
			my ($what, $sql, $since) = @$change;
			next if $since && $node->pg_version < $since;
			unless ($broken)
			{
				$s->run("SELECT echocache_get_session($on_a), echocache_get_session($on_b)");
				$break->();
				$broken = 1;
				if ($when =~ /known/)
				{
					$s->attempt("SELECT echocache_get_session($on_b)") for 1 .. 3;
					wait_state($s, 'DOWN', $b);
				}
			}
			my $took = seconds(sub { like($s->error($sql), $refusal, "$how, $when: $what is refused") });
			in_time($other, $took, ($when =~ /known/ ? 0 : $timeout) + $slack, "$how, $when: $what in time");
			$s->run('ROLLBACK') if $what =~ /CHAIN/;
			is($s->run('SELECT md5(string_agg(s::text, chr(10) ORDER BY id)) FROM session s'), $before, "$how, $when: $what has changed nothing");
			if ($when =~ /first/)
			{
				$mend->();
				$broken = 0;
				wait_state($s, 'UP');
				nothing_old("$how, $when: $what, then back");
			}
		}
		$mend->() if $broken;
		wait_state($s, 'UP');
		nothing_old("$how, $when: all of them, then back");
	}
}
is($s->run('SELECT count(*) FROM pg_prepared_xacts'), 0, 'nothing is left prepared');
cmp_ok($s->run('SELECT count(*) FROM unrelated'), '>', 0, 'what a procedure had committed before stays');
is($s->run('SELECT count(*) FROM echocache.outbox'), 0, 'nothing was put off');

#
# What is read, and what does not need that server.
#
$s->run("SELECT echocache_get_session($on_a), echocache_get_session($on_b)");
$b->freeze;
my $took = seconds(sub { like($other->error("SELECT echocache_get_session($on_b)"), $no_read, 'a read fails') });
in_time($other, $took, $timeout + $slack, 'in time');
like($other->error("SELECT echocache_get_session($on_b)"), $no_read, 'and again') for 2 .. 3;
$took = seconds(sub {
	like($s->error("SELECT echocache_get_session($on_b)"), $no_read, 'so does the next');
	like($s->error("SELECT echocache_get_session($on_b, 7)"), $no_read, 'by owner');
	like($s->error("SELECT * FROM echocache_get_sessions('{$on_a,$on_b}'::bigint[])"), $no_read, 'with one of the other server');
	like($s->error("BEGIN; SELECT v FROM session; SELECT echocache_get_session($on_b)"), $no_read, 'in a transaction');
	$s->run('ROLLBACK');
	like($s->error("SELECT echocache_invalidate_session($on_b)"), $no_read, 'invalidate fails');
	like($s->error("SELECT echocache_refresh_session($on_b)"), $no_read, 'refresh fails');
});
in_time($other, $took, $slack, 'at once');
is($s->run("SELECT echocache_get_session($on_a)"), row($on_a, 0), 'a read of the other server goes on');
is($s->error("UPDATE session SET v = 5 WHERE id = $on_a"), 'no error', 'a commit too');
is($other->run("SELECT echocache_get_session($on_a)"), row($on_a, 5), 'which everybody sees');
holds($a, "session:$on_a", row($on_a, 5), 'and is written through');
is($s->error("SELECT v FROM session; INSERT INTO unrelated VALUES (1); UPDATE session SET v = v WHERE id = $on_b"), 'no error', 'what changes no document goes on');
is($s->run("BEGIN; UPDATE session SET v = 9 WHERE id = $on_b; SELECT echocache_get_session($on_b)"), row($on_b, 9), 'a transaction reads its own change');
$s->run('ROLLBACK');
is($s->run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT echocache_get_session($on_b); COMMIT"), row($on_b, 1), 'a read that never asks the cache goes on');
is($s->error("BEGIN; UPDATE session SET v = 9 WHERE id = $on_b; ROLLBACK"), 'no error', 'a rollback goes on');
is($s->error("BEGIN; SAVEPOINT x; UPDATE session SET v = 9 WHERE id = $on_b; ROLLBACK TO x; INSERT INTO unrelated VALUES (3); COMMIT"), 'no error',
	'a commit whose change of a document was rolled back too');
is($s->run("SELECT state FROM echocache_servers WHERE server = '" . $b->address . "'"), 'DOWN', 'the view says which one');
$b->thaw;
wait_state($s, 'UP');
is($s->run("SELECT echocache_get_session($on_b)"), row($on_b, 1), 'back: a read');
$s->run("UPDATE session SET v = 2 WHERE id = $on_b");
holds($b, "session:$on_b", row($on_b, 2), 'and a write');
is($other->run("SELECT echocache_get_session($on_b)"), row($on_b, 2), 'for everybody');

# Prepared while all was well: that promise is kept with the server away.
$s->run("BEGIN; UPDATE session SET v = 3 WHERE id = $on_b; PREPARE TRANSACTION 'p'");
$b->freeze;
like($other->error("SELECT echocache_get_session($on_b)"), $no_read, 'a read fails');
is($other->error(q{COMMIT PREPARED 'p'}), 'no error', 'COMMIT PREPARED goes on');
$b->thaw;
wait_state($s, 'UP');
nothing_old('COMMIT PREPARED with the server frozen');
is($s->run("SELECT echocache_get_session($on_b)"), row($on_b, 3), 'and its change is read');

#
# A server that comes and goes all the time: nobody can find what a commit has
# replaced, from the moment that it has succeeded.
#
my $stop = PostgreSQL::Test::Utils::tempdir() . '/stop';
my $flapper = fork;
die "cannot fork: $!" unless defined $flapper;
if ($flapper == 0)
{
	until (-e $stop)
	{
		kill 'STOP', $b->{pid};
		sleep 0.01 + rand 0.15;
		kill 'CONT', $b->{pid};
		sleep 0.05 + rand 0.3;
	}
	POSIX::_exit(0);
}
setting($s, 'echocache.timeout' => '50ms');
my ($committed, $refused, $read, $unread, @wrong) = (0, 0, 0, 0);
my $v = 3;
my $began = time;
$EchoCache::quiet = 1;
# Eight seconds, and as long as a busy machine needs to have all of it.
for (my $i = 100; time < $began + 8 || (time < $began + 80 && !($committed && $refused && $read && $unread)); $i++)
{
	if (defined $s->attempt("UPDATE session SET v = $i WHERE id = $on_b"))
	{
		$committed++;
		$v = $i;
	}
	else
	{
		$refused++;
		push @wrong, $s->messages unless $s->messages =~ $refusal;
	}
	my $value = $b->get("session:$on_b") // 'null';
	push @wrong, "plain client: $value instead of $v" unless $value eq 'null' || $value eq row($on_b, $v);
	if (defined($value = $other->attempt("SELECT echocache_get_session($on_b)")))
	{
		$read++;
		push @wrong, "SQL: $value instead of $v" unless $value eq row($on_b, $v);
	}
	else
	{
		$unread++;
		push @wrong, $other->messages unless $other->messages =~ $no_read;
	}
}
$EchoCache::quiet = 0;
append_to_file($stop, '');
waitpid $flapper, 0;
note "$committed commits, $refused refused; $read reads, $unread failed";
is_deeply(\@wrong, [], 'a server that comes and goes: never an older document than the last commit');
cmp_ok($committed, '>', 0, 'with commits');
cmp_ok($refused, '>', 0, 'and refused ones');
cmp_ok($read, '>', 0, 'with reads');
cmp_ok($unread, '>', 0, 'and failed ones');
wait_state($s, 'UP');
nothing_old('at rest');
is($s->run("SELECT echocache_get_session($on_b)"), row($on_b, $v), 'and the last commit is what is read');

# From strict to lenient and back while the server is away.
setting($s, 'echocache.timeout' => '1s');
$s->run("SELECT echocache_get_session($on_b)");
$b->freeze;
like($s->error("UPDATE session SET v = -1 WHERE id = $on_b"), $refusal, 'strict: refused');
setting($s, 'echocache.fallback' => 'on');
is($s->error("UPDATE session SET v = 77 WHERE id = $on_b"), 'no error', 'lenient: put off');
is($s->run("SELECT echocache_get_session($on_b)"), row($on_b, 77), 'and read from the table');
setting($s, 'echocache.fallback' => 'off');
like($s->error("UPDATE session SET v = -1 WHERE id = $on_b"), $refusal, 'strict again: refused');
like($s->error("SELECT echocache_get_session($on_b)"), $no_read, 'and not read');
$b->thaw;
wait_state($s, 'UP');
nothing_old('what was put off is done');
is($s->run("SELECT echocache_get_session($on_b)"), row($on_b, 77), 'back: a read');

# Without the extension nobody would ever invalidate what is cached.
$b->freeze;
like($s->error('DROP EXTENSION echocache CASCADE'), qr/^08006: .*\n(?s:.*)HINT:  /, 'DROP EXTENSION is refused');
$b->thaw;
if ($s->run(q{SELECT count(*) FROM pg_extension WHERE extname = 'echocache'}))
{
	wait_state($s, 'UP');
	is($s->error('DROP EXTENSION echocache CASCADE'), 'no error', 'and goes on when the server is back');
}
is_deeply(plain(), {}, 'DROP EXTENSION has left nothing');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no backend crashed');

done_testing();
