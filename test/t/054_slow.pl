# One slow answer is not a dead server: what makes a server DOWN, how long a read and a commit
# wait, and a connection that a network has forgotten.
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

# What a statement takes at most on a machine that is not busy.
my $slack = 1.5;

my $memcached = memcached();
my $proxy = proxy($memcached);
my $node = new_node('main', hosts => [$proxy],
	conf => "echocache.timeout = '500ms'\nechocache.commit_timeout = '3s'\nlog_statement = none\n");
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE item (id int PRIMARY KEY, v text);
	INSERT INTO item SELECT g, 'first' FROM generate_series(1, 20) g;
	SELECT echocache_attach('item', 'item')});
my $other = session($node);

sub document { my ($id, $v) = @_; return qq({"id":$id,"v":"$v"}); }
sub server { return $s->run("SELECT $_[0] FROM echocache_servers"); }
sub counted { return $s->run(q{SELECT timeouts + errors FROM echocache_stats WHERE name = 'item'}); }

# Wait until the session waits for the server.
sub waits
{
	my ($session) = @_;

	wait_for('the commit to wait', sub {
		return $s->run('SELECT state || wait_event_type FROM pg_stat_activity WHERE pid = ' . $session->pid) eq 'activeExtension';
	});
	return;
}

# Only what this test does is to be counted: no renewal of a lease comes in between.
wait_state($s, 'UP');
long_lease($s, $memcached);
sub get { my ($session, $id) = @_; return $session->run("SELECT echocache_get('item', $id)"); }

get($_, 1) for $s, $other;

#
# One read.
#
$proxy->tell('delay down 1500');
my $took = EchoCache::seconds(sub { is(get($s, 1), document(1, 'first'), 'a server is slow: the table answers') });
cmp_ok($took, '>', 0.4, 'after echocache.timeout');
in_time($s, $took, 0.5 + $slack, 'and no later');
is(server('state'), 'UP', 'the server stays UP');
is(server('last_error'), 'no answer within 500 ms', 'with what happened');
is(counted(), 1, 'which is counted');
$proxy->tell('pass');
is(get($s, 1), document(1, 'first'), 'the next one is answered');
is(counted(), 1, 'by the cache');

for my $i (1 .. 3)
{
	$proxy->tell('delay down 1500');
	get($s, 1);
	$proxy->tell('pass');
	get($other, 1);
}
is(server('state'), 'UP', 'three slow answers with others in between are not the end, either');

#
# Three in a row.
#
$memcached->freeze;
get($s, 1) for 1 .. 2;
is(server('state'), 'UP', 'frozen: two reads');
get($other, 1);
is(server('state'), 'DOWN', 'the third one is the end');
$memcached->thaw;
wait_state($s, 'UP');
is(get($s, 1), document(1, 'first'), 'thawed: read again');

# However many wait at the same moment, it is one.
my @many = map { session($node) } 1 .. 6;
get($_, 1) for @many;
$memcached->freeze;
$_->send(q{SELECT echocache_get('item', 1)}) for @many;
is($_->finish, document(1, 'first'), 'frozen, and many read at once') for @many;
is(server('state'), 'UP', 'which counts once');
$memcached->thaw;
is(get($_, 1), document(1, 'first'), 'thawed') for @many;

# A document that takes long is not made by all of them at once, though nobody can store it.
$s->run(q{
	CREATE FUNCTION slow_document(item) RETURNS json LANGUAGE plpgsql STABLE AS $$
	BEGIN
		RAISE LOG 'making: begun';
		PERFORM pg_sleep(0.1);
		RAISE LOG 'making: done';
		RETURN json_build_object('id', $1.id);
	END $$;
	SELECT echocache_detach('item');
	SELECT echocache_attach('item', 'item', document => 'slow_document')});
setting($s, 'echocache.fill_wait' => '60s');
get($_, 2) for @many;
$s->run(q{SELECT echocache_invalidate('item', 1)});
my $log = -s $node->logfile;
$memcached->freeze;
$_->send(q{SELECT echocache_get('item', 1)}) for @many;
is($_->finish, '{"id" : 1}', 'frozen, and many make one document') for @many;
$log = slurp_file($node->logfile, $log);
is(join(' ', $log =~ /making: (\w+)/g), join(' ', ('begun done') x @many), 'one after the other, since none could store it');
is(server('state'), 'UP', 'while the server is UP');
$memcached->thaw;
setting($s, 'echocache.fill_wait' => '1s');
$s->run(q{SELECT echocache_detach('item'); SELECT echocache_attach('item', 'item')});
$_->quit for @many;

#
# A commit has more time.
#
$proxy->tell('delay down 1500');
$took = EchoCache::seconds(sub { $s->run(q{UPDATE item SET v = 'slow' WHERE id = 1}) });
cmp_ok($took, '>', 1, 'a commit waits for a slow answer');
$proxy->tell('pass');
is(server('state'), 'UP', 'which leaves the server UP');
holds($memcached, 'item:1', document(1, 'slow'), 'and the new document there');
$memcached->freeze;
$took = EchoCache::seconds(sub { $s->run(q{UPDATE item SET v = 'frozen' WHERE id = 1}) });
cmp_ok($took, '>', 2.5, 'frozen: a commit waits for echocache.commit_timeout');
in_time($s, $took, 3 + $slack, 'once');
is(server('state'), 'DOWN', 'and that is the end of the server');
$took = EchoCache::seconds(sub { $s->run(q{UPDATE item SET v = 'frozen' WHERE id = 2}) });
in_time($s, $took, $slack, 'the next commit does not wait');
$memcached->thaw;
wait_state($s, 'UP');
is(get($s, $_), document($_, 'frozen'), 'thawed') for 1, 2;

# So have those that change all documents, and others who ask for more than a document.
$proxy->tell('delay down 900');
$s->run('TRUNCATE item');
is($s->run('SELECT echocache_connect()'), 0, 'echocache_connect() meets a slow server');
$proxy->tell('pass');
is(server('state'), 'UP', 'which TRUNCATE has waited for');
is($memcached->get('item:4') // 'nothing', 'nothing', 'and purged');
$s->run(q{INSERT INTO item SELECT g, CASE WHEN g < 3 THEN 'frozen' ELSE 'first' END FROM generate_series(1, 20) g});

# It does not wait for a server that others find DOWN meanwhile.
setting($s, 'echocache.commit_timeout' => '60s');
my $writer = session($node);
get($writer, 3);
$memcached->freeze;
$writer->send(q{UPDATE item SET v = 'others' WHERE id = 3});
waits($writer);
get($other, 1) for 1 .. 3;
$took = EchoCache::seconds(sub { isnt($writer->finish, undef, 'a commit that waits goes on') });
in_time($s, $took, $slack, 'as soon as somebody else has found the server DOWN');
$memcached->thaw;
wait_state($s, 'UP');
is(get($s, 3), document(3, 'others'), 'nothing old is read');

# With fallback = off it is rolled back then.
setting($s, 'echocache.fallback' => 'off');
$memcached->freeze;
$writer->send(q{UPDATE item SET v = 'never' WHERE id = 3});
waits($writer);
like($other->error(q{SELECT echocache_get('item', 1)}), qr/^08006: could not read from the cache: no answer within 500 ms/,
	'fallback = off: a slow read fails') for 1 .. 3;
is($writer->finish, undef, 'and the commit');
like($writer->messages, qr/^08006: could not invalidate cached documents/, 'for that reason');
$memcached->thaw;
setting($s, 'echocache.fallback' => 'on', 'echocache.commit_timeout' => '3s');
wait_state($s, 'UP');
is(get($s, 3), document(3, 'others'), 'it was rolled back');

#
# A network forgets connections that have been idle, and tells nobody.
#
$s->run(q{SELECT echocache_kv_set('counter', '1')});
for my $case ([ 'a read', q{SELECT echocache_get('item', 4)}, document(4, 'first') ],
	[ 'a list', q{SELECT string_agg(document::text, ',') FROM echocache_get_many('item', '{4,5}')}, document(4, 'first') . ',' . document(5, 'first') ],
	[ 'a commit', q{UPDATE item SET v = 'forgotten' WHERE id = 6; SELECT 1}, 1 ],
	[ 'a client that counts', q{SELECT echocache_kv_incr('counter')}, 2 ],
	[ 'a client that stores', q{SELECT echocache_kv_set('counter', '7')}, 't' ])
{
	my ($what, $sql, $result) = @$case;
	my ($before, $accepted);

	get($s, 4);
	get($s, 5);
	$before = counted();
	sleep 2;
	$proxy->tell('forget up');
	$accepted = $proxy->state->{accepted};
	$took = EchoCache::seconds(sub { is($s->run($sql), $result, "$what on a connection that is forgotten") });
	cmp_ok($proxy->state->{accepted}, '>', $accepted, 'is asked once more on a new one');
	in_time($s, $took, ($what eq 'a commit' ? 1.5 : 0.3) + $slack, 'after half of the time');
	is(counted(), $before, 'nothing has failed');
	is(server('state'), 'UP', 'least of all the server');

	# What was sent first comes late: it changes nothing that came after it.
	$s->run(q{SELECT echocache_kv_set('counter', '8')}) if $what =~ /stores/;
	$proxy->tell('release up');
	sleep 0.5;
	is($s->run(q{SELECT echocache_kv_get('counter')}), $what =~ /stores/ ? 8 : $what =~ /counts/ ? 2 : 1, 'what comes late changes nothing');
	is(get($s, 6), document(6, $what =~ /read|list/ ? 'first' : 'forgotten'), 'nor does it bring an old document');
}
holds($memcached, 'item:6', document(6, 'forgotten'), 'the commit has stored the document');

$_->quit for $s, $other, $writer;
$node->stop;
done_testing();
