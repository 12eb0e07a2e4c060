# Bytes that belong to another key: planted by a client, or brought by a server that mixes up
# its answers.  They are a miss, whoever asks and however; they are invalidated and counted.
# And what a document shows of its key is found, whatever the key's type, name and place.
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
my $node = new_node('main', hosts => [$memcached], conf => "log_statement = none\n");
my $s = session($node, sql => 'CREATE EXTENSION echocache');

# A counter of a document.
sub counted
{
	my ($what, $name) = @_;

	return $s->run("SELECT $what FROM echocache_stats WHERE name = '" . ($name // 'session') . "'");
}

# Test: the statement, run where the cache holds another key's document under this one,
# answers this, and the wrong document has gone; so many other documents are hits beside it.
sub unbelieved
{
	my ($key, $planted, $sql, $answer, $name, $beside) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($document) = $key =~ /\A(\w+):/;
	my ($foreign, $hits) = (counted('foreign_hits', $document), counted('hits', $document));

	$memcached->set($key, $planted);
	is($s->run($sql), $answer, $name);
	is(counted('foreign_hits', $document) - $foreign, 1, 'it is counted');
	is(counted('hits', $document) - $hits, $beside // 0, 'and not as a hit');
	isnt($memcached->settled($key) // '', $planted, 'the other document has gone');
	return;
}

# Test: this is a hit, twice.
sub hit
{
	my ($sql, $answer, $name, $document) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($hits, $foreign) = (counted('hits', $document), counted('foreign_hits', $document));

	is($s->run($sql), $answer, $name);
	is($s->run($sql), $answer, 'and again');
	is(counted('hits', $document) - $hits, 2, 'from the cache');
	is(counted('foreign_hits', $document), $foreign, 'which is believed');
	return;
}

#
# Another row's document under a key, by every function that reads.
#
$s->run(q{
	CREATE TABLE session (id bigint PRIMARY KEY, owner int, title text);
	SELECT echocache_attach('session', owner_column => 'owner');
	INSERT INTO session SELECT g, g, 'of ' || g FROM generate_series(1, 20) g});
wait_state($s, 'UP');
my $of = sub { return qq({"id":$_[0],"owner":$_[0],"title":"of $_[0]"}) };

$s->run("SELECT echocache_get_session($_)") for 1 .. 20;
hit('SELECT echocache_get_session(1)', $of->(1), 'a document of its own is a hit');
unbelieved('session:1', $of->(2), 'SELECT echocache_get_session(1)', $of->(1), "another row's document is not the answer");
hit('SELECT echocache_get_session(1)', $of->(1), 'the right one is cached instead');
unbelieved('session:1', $of->(2), 'SELECT echocache_get_session(1, 1)', $of->(1), 'nor to its owner');
unbelieved('session:1', $of->(2), 'SELECT echocache_get_session(1, 2)', '', "nor to the other one's");
unbelieved('session:2', $of->(3), q{SELECT string_agg(session::text, '' ORDER BY id) FROM echocache_get_sessions(ARRAY[1, 2])},
	$of->(1) . $of->(2), 'nor among many', 1);
unbelieved('session:1', $of->(2), q{SELECT title FROM echocache_get_row(NULL::session, '1')}, 'of 1', 'nor as a row');
unbelieved('session:1', '{"id":"1","owner":1,"title":"x"}', 'SELECT echocache_get_session(1)', $of->(1), 'nor one with a like id');
unbelieved('session:1', '{"id":11,"owner":1,"title":"x"}', 'SELECT echocache_get_session(1)', $of->(1), 'nor with a longer one');
unbelieved('session:11', '{"id":1,"owner":1,"title":"x"}', 'SELECT echocache_get_session(11)', $of->(11), 'nor with a shorter one');
unbelieved('session:1', '{"owner":1,"title":"x","x":{"id":1}}', 'SELECT echocache_get_session(1)', $of->(1),
	'nor one that has the id further down');
unbelieved('session:1', '{"title":"\"id\":1,"}', 'SELECT echocache_get_session(1)', $of->(1), 'or in a string');
unbelieved('session:1', '{}', 'SELECT echocache_get_session(1)', $of->(1), 'nor an empty one');
unbelieved('session:99', $of->(2), 'SELECT echocache_get_session(99)', '', 'nor where there is no row');

# REPEATABLE READ and a transaction of the row's own do not ask.
$memcached->set('session:1', $of->(2));
is($s->run('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT echocache_get_session(1); COMMIT'), $of->(1), 'REPEATABLE READ reads the table');
is($s->run('SELECT echocache_get_session(1)'), $of->(1), 'READ COMMITTED does not believe it');

# A sliding lifetime.
$s->run(q{CREATE TABLE sliding (id text PRIMARY KEY, v int);
	SELECT echocache_attach('sliding', 'sliding', touch_on_read => true, ttl => '1 hour');
	INSERT INTO sliding VALUES ('a', 1), ('b', 2)});
wait_for('a document of it', sub { $s->run(q{SELECT echocache_get('sliding', 'b')}); ($memcached->get('sliding:b') // '') =~ /"v":2/ });
unbelieved('sliding:a', '{"id":"b","v":2}', q{SELECT echocache_get('sliding', 'a')}, '{"id":"a","v":1}', 'nor one that is touched');
hit(q{SELECT echocache_get('sliding', 'a')}, '{"id":"a","v":1}', 'its own is a hit', 'sliding');

#
# Documents that a function makes, which may write the key with spaces, and anywhere.
#
$s->run(q{CREATE TABLE composed (id int PRIMARY KEY, v text);
	CREATE FUNCTION made(c composed) RETURNS jsonb STABLE LANGUAGE sql AS
		$$ SELECT jsonb_build_object('a', c.v, 'id', c.id, 'x', jsonb_build_object('id', 4711)) $$;
	SELECT echocache_attach('composed', 'composed', document => 'made');
	INSERT INTO composed VALUES (1, 'one'), (2, 'two')});
my $made = sub { return qq({"a": "$_[1]", "x": {"id": 4711}, "id": $_[0]}) };
wait_for('a composed one', sub { $s->run(q{SELECT echocache_get('composed', 1)}); ($memcached->get('composed:1') // '') =~ /one/ });
await_builder($s);
hit(q{SELECT echocache_get('composed', 1)}, $made->(1, 'one'), 'a document that a function makes is a hit', 'composed');
unbelieved('composed:1', $made->(2, 'two'), q{SELECT echocache_get('composed', 1)}, $made->(1, 'one'), "another row's is not");

#
# The key is found for every type that ids may have, under any name, in any place.
#
my $n = 0;

# Tests: rows with these two ids, as text, are hits, and not for one another.
sub found
{
	my ($type, $a, $b, $name, %opt) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $table = 'k' . ++$n;
	my $key = $opt{key} // 'id';
	my ($before, $after) = ($opt{before} // '', $opt{after} // '');
	my $get = sub { return "SELECT echocache_get('$table', \$q\$$_[0]\$q\$::text)" };

	$s->run(qq{CREATE TABLE $table ($before "$key" $type PRIMARY KEY$after, v text DEFAULT 'v');
		SELECT echocache_attach('$table', '$table')});
	$s->run(qq{INSERT INTO $table ("$key") VALUES (\$q\$$_\$q\$)}) for $a, $b;
	my ($row_a, $row_b) = map { $s->run(qq{SELECT row_to_json(t) FROM $table t WHERE "$key" = \$q\$$_\$q\$}) } $a, $b;
	my $id_a = $s->run(qq{SELECT format('%s', "$key") FROM $table WHERE "$key" = \$q\$$a\$q\$});
	my $key_a = "$table:" . $id_a =~ s/([^\x21-\x7e]|%)/sprintf '%%%02X', ord $1/ger;

	$s->run($get->($_)) for $a, $b;
	await_builder($s);
	hit($get->($a), $row_a, "$name: a hit", $table);
	hit($get->($b), $row_b, 'so is the other', $table);
	unbelieved($key_a, $row_b, $get->($a), $row_a, 'but not in its place');
	return;
}

$s->run(q{
	CREATE TYPE mood AS ENUM ('sad', 'ok');
	CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');
	CREATE DOMAIN small AS int CHECK (VALUE < 100);
	CREATE TYPE animal AS ENUM ('cat', 'dog');
	CREATE FUNCTION animal_json(animal) RETURNS json IMMUTABLE LANGUAGE sql AS $$ SELECT json_build_object('animal', $1::text) $$;
	CREATE CAST (animal AS json) WITH FUNCTION animal_json(animal)});
found('int', 1, 2, 'int');
found('smallint', 1, 2, 'smallint');
found('bigint', -1, '9223372036854775807', 'bigint');
found('text', 'a', 'b', 'text');
found('text', 'a "quoted" \\ back', "tab\tand /", 'text with what JSON escapes');
found('varchar(20)', 'a', 'b', 'varchar');
found('char(5)', 'a    ', 'b    ', 'char(n)');
found('name', 'a', 'b', 'name');
found('uuid', '00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002', 'uuid');
found('oid', '1', '4294967295', 'oid');
found('numeric', '1.50', 'NaN', 'numeric');
found('boolean', 't', 'f', 'boolean');
found('date', '2026-01-31', 'infinity', 'date');
found('timestamp', '2026-01-31 12:00:00', '2026-02-01 12:00:00.5', 'timestamp');
found('timestamptz', '2026-01-31 12:00:00+00', '2026-02-01 12:00:00+00', 'timestamptz');
found('float8', '1.5', '-1e+100', 'float8');
found('interval', '1 day', '02:00:00', 'interval');
found('inet', '127.0.0.1', '::1', 'inet');
found('bytea', '\x01', '\x02', 'bytea');
found('int[]', '{1,2}', '{3}', 'an array');
found('mood', 'sad', 'ok', 'an enum');
found('email', 'a@b', 'c@d', 'a domain over text');
found('small', 1, 2, 'a domain over int');
found('animal', 'cat', 'dog', 'a type with a cast to json');
found('int', 1, 2, 'a name that JSON escapes', key => 'the ""id"" \\ it' =~ s/""/""/gr);
found('int', 1, 2, 'behind a large column', before => "big text DEFAULT repeat('x', 50000),");
found('int', 1, 2, 'before a large column', after => ", big text DEFAULT repeat('x', 50000)");
found('int', 1, 2, 'between two large columns', before => q~big text DEFAULT repeat('{"id":2,', 20000),~, after => ", large text DEFAULT repeat('x', 50000)");
found('text', 'a', 'b', 'and as text', before => q{big text DEFAULT repeat('\\"', 20000),}, after => ", large text DEFAULT repeat('x', 50000)");

#
# A server that answers every get with one and the same document, of another key; but for the
# key by which a worker knows whose the keys are.
#
$s->run(q{UPDATE session SET title = 'of ' || id});
my $answer = $of->(7);
my %kept;
my $rogue = rogue(answer => sub {
	return EchoCache::answer_requests(\%kept, $_[0], sub {
		my ($verb, $opaque, $rest) = @_;
		my $quiet = $rest =~ / q\b/;

		return $verb eq 'mg' ? 'VA ' . length($answer) . " c1 O$opaque\r\n$answer\r\n"
		  : $verb eq 'ms' ? ($quiet ? '' : "HD c1 O$opaque\r\n")
		  : $verb eq 'md' ? ($quiet ? '' : "HD O$opaque\r\n")
		  : $verb eq 'mn' ? "MN\r\n"
		  : "END\r\n";
	});
});
setting($s, 'echocache.hosts' => $rogue->address);
wait_for('the new server', sub { return $s->run('SELECT server FROM echocache_servers') eq $rogue->address });
wait_state($s, 'UP');
my $before = counted('foreign_hits');
is($s->run("SELECT echocache_get_session($_)"), $of->($_), "session $_ is read as it is") for 1 .. 9;
is($s->run(q{SELECT string_agg(session::text, '' ORDER BY id::int) FROM echocache_get_sessions(ARRAY(SELECT generate_series(1, 20)))}),
	join('', map { $of->($_) } 1 .. 20), 'so are many');
is(counted('foreign_hits') - $before, 8 + 19, 'what belongs to another key is counted');

done_testing();
