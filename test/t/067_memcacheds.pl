# Memcacheds that lack something: too old, without CAS, with commands that are refused, or a proxy
# in front.  last_error says what it is.  And another memcached at the address of the one before,
# older or newer: no value is ever taken for commands.
#
# With EC_MEMCACHED in the environment that is the memcached which is tested, and the machine's
# the other one.
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
my $node = new_node('main', hosts => [$memcached], conf => "echocache.marker_ttl = '1h'\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE doc (id int PRIMARY KEY, v text);
	SELECT echocache_attach('doc', 'doc')});

sub state { return $s->run('SELECT state FROM echocache_servers'); }

sub use_server
{
	my ($address) = @_;

	setting($s, 'echocache.hosts' => $address);
	wait_for('the new server', sub { return $s->run('SELECT server FROM echocache_servers') eq $address });
	return;
}

# Test: this server is not used, and says why.
sub lacks
{
	my ($server, $why, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	use_server($server->address);
	eventually($name, sub { return ($s->run('SELECT last_error FROM echocache_servers') // '') =~ $why })
	  or diag($s->run('SELECT state, last_error FROM echocache_servers'));
	isnt(state(), 'UP', 'which is not UP');
	return is($s->run(q{SELECT echocache_get('doc', 1)}), $s->run('SELECT row_to_json(doc) FROM doc WHERE id = 1'), 'the table answers');
}

#
# All that is said to a memcached, to this one.
#
wait_state($s, 'UP');
$s->run(q{INSERT INTO doc SELECT g, 'first' FROM generate_series(1, 10) g});
holds($memcached, 'doc:1', '{"id":1,"v":"first"}', 'a commit writes through: it has the token of its marker');
$s->run(q{UPDATE doc SET v = 'large' || repeat('x', 100000) WHERE id = 2});
is(length $memcached->settled('doc:2'), 100020, 'a large document');
$memcached->delete('doc:1');
is($s->run(q{SELECT echocache_get('doc', 1)}), '{"id":1,"v":"first"}', 'a miss');
holds($memcached, 'doc:1', '{"id":1,"v":"first"}', 'is filled');
$s->run('DELETE FROM doc WHERE id = 3');
misses($memcached, 'doc:3', 'a marker is removed by its token');
$memcached->set('doc:4', '{"id":99,"v":"forged"}');
is($s->run(q{SELECT echocache_get('doc', 4)}), '{"id":4,"v":"first"}', 'a document of another id is not believed');
isnt($memcached->settled('doc:4') // '', '{"id":99,"v":"forged"}', 'and goes');
$memcached->set('doc:5', '{"id":5,"v":"stale"}');
like($s->run(q{SELECT * FROM echocache_verify('doc')}), qr/\|/, 'verify');
isnt($memcached->settled('doc:5'), '{"id":5,"v":"stale"}', 'removes what is stale, by its token');
$s->run(q{SELECT echocache_invalidate('doc', 6)});
misses($memcached, 'doc:6', 'invalidate');
$s->run(q{SELECT echocache_refresh('doc', 6)});
holds($memcached, 'doc:6', '{"id":6,"v":"first"}', 'refresh');
$s->run(q{BEGIN; UPDATE doc SET v = 'bulk'; INSERT INTO doc SELECT g, 'more' FROM generate_series(100, 300) g; COMMIT});
invalidated($memcached, 'doc:1', 'quiet markers');
is($s->run(q{SELECT echocache_warm('doc')}) > 200 ? 'many' : 'few', 'many', 'warm');
holds($memcached, 'doc:300', '{"id":300,"v":"more"}', 'loads all');
is($s->run(q{SELECT echocache_kv_add('k', 'a'), echocache_kv_add('k', 'b'), echocache_kv_replace('none', 'c'),
	echocache_kv_append('k', 'z'), echocache_kv_get('k')}), 't|f|f|t|az', 'a value that is not stored takes nothing from the next answer');
is($s->run(q{SELECT echocache_kv_set('n', '5'), echocache_kv_incr('n', 2), echocache_kv_incr('none', 2)}), 't|7|', 'arithmetic');
$s->run('TRUNCATE doc');
is_deeply([ grep { /^doc/ } $memcached->keys ], [], 'a purge');
is(state(), 'UP', 'all the time it is UP');
is($s->run('SELECT sum(errors) FROM echocache_stats'), 0, 'and nothing has failed');
unlike(slurp_file($node->logfile), qr/is down/, 'not for an instant');

#
# Another one at its address, while nobody looks.  The value of a line that a memcached does not
# understand would be commands to it.
#
my $evil = "x\r\nset planted 0 0 1\r\ny\r\nflush_all\r\n";
for my $case ([ 'the machine\'s memcached', 'memcached' ], [ 'the memcached that is tested', $ENV{EC_MEMCACHED} // 'memcached' ])
{
	my ($what, $binary) = @$case;

	for my $round (1 .. 3)
	{
		$memcached->stop;
		$memcached->{binary} = $binary;
		$memcached->start;
		$memcached->set('mine', 'kept');
		my $fresh = session($node);
		$fresh->attempt(qq{SELECT echocache_kv_set('evil', '$evil')});
		is($memcached->get('planted'), undef, "$what begins at the address: no value is taken for commands");
		is($memcached->get('mine'), 'kept', 'nor flushes it');
		$fresh->quit;
		wait_state($s, 'UP');
		$s->run(qq{INSERT INTO doc VALUES ($round, E'round\\r\\n') ON CONFLICT (id) DO UPDATE SET v = doc.v || 'x'});
		is($s->run(qq{SELECT echocache_get('doc', $round)}), $s->run("SELECT row_to_json(doc) FROM doc WHERE id = $round"), 'it is used');
		is($s->run(qq{SELECT echocache_kv_set('evil', '$evil')}), 't', 'such a value is stored');
		is($memcached->get('evil'), $evil, 'as it is');
	}
}

#
# Those that lack something.
#
my $without_cas = memcached(args => ['-C']);
lacks($without_cas, qr/^the server does not number its items: start memcached without -C/, 'a memcached without CAS is named so');

my %kept;
my $nothing = rogue(answer => "ERROR\r\n");
lacks($nothing, qr/^the server does not know memcached's meta commands: .* or a proxy/, 'so is one without meta commands');
my $nutcracker = rogue(answer => EchoCache::Rogue::HANG_UP);
lacks($nutcracker, qr/^the server closed the connection and answered nothing: is it a proxy/, 'and a proxy that hangs up at them');

# A server of this version: it has no items.
sub of_version
{
	my ($version) = @_;

	return rogue(answer => sub {
		my ($bytes) = @_;
		my $answer = '';

		while ($bytes =~ s/\A(\S+)([^\r\n]*)\r\n//)
		{
			$answer .= $1 eq 'version' ? "VERSION $version\r\n" : $1 eq 'mg' ? "EN\r\n" : "ERROR\r\n";
		}
		return $answer;
	});
}
for my $version ('1.4.33', '1.5.22', '1.6.8', '0.0.1')
{
	lacks(of_version($version), qr/^memcached \Q$version\E is too old: echocache needs 1\.6\.9 or newer$/, "memcached $version is too old");
}

# What does not tell its version, or tells another thing's, is taken for a new memcached.
for my $case ([ 'ERROR' => "ERROR\r\n" ], [ 'a proxy\'s version' => "VERSION mcrouter 0.41\r\n" ], [ 'no number' => "VERSION unknown\r\n" ])
{
	my ($what, $answer) = @$case;
	my %kept;
	my $proxy = rogue(answer => sub {
		my ($bytes) = @_;

		return $answer if $bytes eq "version\r\n";
		return EchoCache::answer_requests(\%kept, $bytes, sub {
			my ($verb, $opaque, $rest) = @_;

			return { mn => "MN\r\n", stats => "END\r\n", lru_crawler => "END\r\n", mg => "EN\r\n" }->{$verb}
			  // ($rest =~ / q\b/ ? '' : "HD c1 O$opaque\r\n");
		});
	});

	use_server($proxy->address);
	wait_state($s, 'UP');
	ok(1, "a server that answers $what to \"version\" is used");
}

#
# One that does not tell its keys.
#
my $silent = memcached(args => [ '-o', 'no_lru_crawler' ]);
lacks($silent, qr/^the server refuses "lru_crawler metadump hash".*; allow it, run echocache_flush_all\(\), or set echocache\.flush_on_start$/,
	'a memcached that does not tell its keys says what can be done');
is(state(), 'RECOVERING', 'it waits for that');
$silent->set('mine', 'x');
setting($s, 'echocache.flush_on_start' => 'on');
wait_state($s, 'UP');
is($silent->get('mine'), undef, 'with echocache.flush_on_start it has been flushed');
like(slurp_file($node->logfile), qr/server "\Q${\$silent->address}\E" was flushed, since it does not tell its keys/, 'which is logged');
$s->run(q{SELECT echocache_get('doc', 1)});
ok(defined $silent->settled('doc:1'), 'and is used');
$silent->set('mine', 'x');
$s->run('TRUNCATE doc');
is($s->run(q{SELECT echocache_get('doc', 1)}), '', 'a purge of one table: what is there is not read');
wait_state($s, 'UP');
is($silent->get('mine'), undef, 'the worker flushes for it, too');
is($silent->get('doc:1'), undef, 'the old document is gone');

# A crawler that is busy is no reason for it.
my %crawler;
my $flushed = PostgreSQL::Test::Utils::tempdir() . '/flushed';
my $busy = rogue(answer => sub {
	return EchoCache::answer_requests(\%crawler, $_[0], sub {
		my ($verb, $opaque, $rest) = @_;

		append_to_file($flushed, 'x') if $verb eq 'flush_all';
		return { mn => "MN\r\n", stats => "END\r\n", mg => "EN\r\n", flush_all => "OK\r\n",
			lru_crawler => "BUSY currently processing crawler request\r\n" }->{$verb} // ($rest =~ / q\b/ ? '' : "HD c1 O$opaque\r\n");
	});
});
lacks($busy, qr/BUSY|currently processing/, 'a server whose crawler is busy is waited for');
ok(!-e $flushed, 'and not flushed');

my $stubborn = memcached(args => [ '-F', '-o', 'no_lru_crawler' ]);
lacks($stubborn, qr/^the server refuses "flush_all": flush_all not allowed; nor does it tell its keys .*: allow one of the two$/, 'one that refuses both says so');

# Nothing is flushed that tells its keys.
my $other = memcached();
$other->set('mine', 'x');
use_server($other->address);
wait_state($s, 'UP');
is($other->get('mine'), 'x', 'a server that tells its keys is not flushed');

$s->quit;
$node->stop;
done_testing();
