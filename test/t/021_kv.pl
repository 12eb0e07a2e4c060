# The key/value client where several servers, faults, other databases and other
# clients come in; what echocache_flush_all() is good for.
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

my $memcached = memcached();
my $second = memcached();
my $node = new_node('main', hosts => [ $memcached, $second ], conf => "echocache.timeout = '20s'\nlog_statement = none\n");
my $s = session($node, sql => 'CREATE EXTENSION echocache');
my $other = session($node);
wait_state($s, 'UP');

# Use these servers and no others: one that was removed is used until the launcher has seen it.
sub use_servers
{
	my (@servers) = @_;

	setting($s, 'echocache.hosts' => join ',', map { $_->address } @servers);
	wait_for('the new servers', sub {
		return $s->run('SELECT server FROM echocache_servers') eq join "\n", map { $_->address } @servers;
	});
	return;
}

#
# What other clients see, and leave.
#
$s->run(q{SELECT echocache_kv_set('k' || i, 'v' || i) FROM generate_series(1, 200) i});
my %on = map { $_ => [ ($_ == 1 ? $memcached : $second)->keys ] } 1, 2;
ok(@{ $on{1} } > 20 && @{ $on{2} } > 20 && @{ $on{1} } + @{ $on{2} } == 200, 'keys are spread over the servers');
my ($here, $there) = map { $on{$_}[0] } 1, 2;
is($memcached->get($here), $here =~ s/k/v/r, 'another client finds a value where it expects it');
is($memcached->flags($here), 0, 'with client flags 0');
is($s->run(q{SELECT count(*) FROM echocache_kv_get_multi((SELECT array_agg('k' || i) FROM generate_series(1, 200) i)) WHERE value = 'v' || substr(key, 2)}),
	200, 'many keys of both servers at once');
$memcached->exchange("set $here 7 0 5\r\n12345\r\n", qr/STORED/);
is($s->run("SELECT echocache_kv_get('$here')"), 12345, 'a value with client flags comes as it is');
is($s->run("SELECT echocache_kv_incr('$here')"), 12346, 'and can be counted up');
is($memcached->flags($here), 7, 'which leaves the flags alone');

#
# Lifetimes, as memcached counts them.
#
sub ttl_is
{
	my ($call, $min, $max, $name) = @_;
	my $ttl;
	my $took = seconds(sub { $s->run("SELECT echocache_kv_$call"); $ttl = $memcached->ttl($here) // 'none' });
	# Of what is left the seconds that pass meanwhile are gone; for ever stays for ever.
	$min -= int $took if $min > 0;
	return ok($ttl =~ /\A-?\d+\z/ && $ttl >= $min && $ttl <= $max, "$name ($ttl)");
}
my $month = 30 * 86400;
ttl_is("set('$here', 'x')", -1, -1, 'left out: no expiry');
ttl_is("set('$here', 'x', interval '0')", -1, -1, 'zero: no expiry');
ttl_is("set('$here', 'x', NULL::interval)", -1, -1, 'NULL: no expiry');
ttl_is("set('$here', 'x', interval '100 s')", 98, 100, 'seconds');
ttl_is("touch('$here', interval '30 days')", $month - 2, $month, 'touch, 30 days');
ttl_is("touch('$here', interval '30 days 1 s')", $month - 2, $month + 3, 'touch, more than 30 days: sent as absolute time');
ttl_is("get_and_touch('$here', interval '400 days')", 400 * 86400 - 2, 400 * 86400 + 3, 'get and touch, 400 days');
ttl_is("touch('$here', timestamptz 'infinity')", -1, -1, 'infinity: no expiry');
ttl_is("touch('$here', clock_timestamp() + interval '50 s')", 48, 50, 'a point in time');
ttl_is("replace('$here', 'x', clock_timestamp() + interval '400 days')", 400 * 86400 - 2, 400 * 86400 + 3, 'one that is far');
ttl_is("set('$here', 'x', interval '0.001 s')", 0, 1, 'less than a second is one');
ttl_is("set('$here', 'x', timestamptz '2500-01-01')", 3600, 2**31, 'after 2038: as late as memcached can');
$s->run("SELECT echocache_kv_set('$here', '1', interval '100 s'), echocache_kv_incr('$here'), echocache_kv_append('$here', '1')");
ok($memcached->ttl($here) > 90, 'counting and appending leave the lifetime alone');
is($memcached->get($here), '21', 'and do what they say');

#
# A server that is away: an error, the first time within the timeout, then at once.
#
$second->stop;
is($s->run("SELECT echocache_kv_get('$here')"), '21', 'the server that is there goes on');
like($s->error("SELECT echocache_kv_get('$there')"), qr/^08006: cache server "\Q${\$second->address}\E" (?:has not answered\nDETAIL:  |is not available\nDETAIL:  It is known to be down: )could not connect/,
	'the other one is an error');
for my $call ("get('$there')", "set('$there', 'x')", "incr('$there')", "get_multi('{$here,$there}')")
{
	like($s->error("SELECT echocache_kv_$call"), qr/^08006: .* is not available\nDETAIL:  It is known to be down: could not connect/, "and known to be: $call");
}
is($s->run('SELECT string_agg(DISTINCT server, chr(32)) FROM echocache_kv_stats()'), $memcached->address, 'the statistics are of those that answer');
is($s->run('SELECT echocache_flush_all()'), 1, 'and those are flushed');
is_deeply([ $memcached->keys ], [], 'indeed');
$second->start;
wait_state($s, 'UP');
is($s->run("SELECT echocache_kv_set('$there', 'back')"), 't', 'it is back');
like($s->error("SELECT echocache_kv_set('$there', repeat('x', 2000000))"), qr/^54000: /, 'too large a value is an error');
is($second->get($there), 'back', 'and does not cost the old one');
is($s->run("SELECT echocache_kv_set('$there', repeat('x', 1000000)), echocache_kv_append('$there', repeat('x', 500000))"), 't|f',
	'appended to what would become too large, nothing is');

setting($s, 'echocache.timeout' => '1s');
$second->freeze;
my $took = seconds(sub { like($s->error("SELECT echocache_kv_add('$there', 'x')"), qr/^08006: /, 'frozen: an error') });
in_time($other, $took, 2, "within the timeout ($took s)");
$s->attempt("SELECT echocache_kv_add('$there', 'x')") for 2 .. 3;
$took = seconds(sub { $s->attempt("SELECT echocache_kv_add('$there', 'x')") for 1 .. 10 });
in_time($other, $took, 0.9, "and then at once (ten: $took s)");
$second->thaw;
setting($s, 'echocache.timeout' => '20s');
wait_state($s, 'UP');

#
# What must not happen twice does not; the rest is asked again.
#
my $proxy = proxy($memcached);
use_servers($proxy);
wait_state($s, 'UP', $proxy);
long_lease($s, $memcached);
$memcached->set('n', 0);
is($s->run(q{SELECT echocache_kv_incr('n')}), 1, 'through a proxy');
$proxy->tell('hold down');
$s->send(q{SELECT echocache_kv_get('n')});
$proxy->holding('down');
$proxy->tell('keep down');
$proxy->tell('reset');
is($s->finish, 1, 'a get whose connection breaks is asked again');
$proxy->tell('pass');
for my $call (q{incr('n')}, q{decr('n', 5)}, q{append('n', '7')}, q{prepend('n', '1')}, q{delete('n')}, q{add('n', '5')}, q{replace('n', '6')})
{
	my $was = $memcached->get('n');
	my %becomes = (incr => ($was // 0) + 1, decr => 0, append => ($was // '') =~ s/\s*\z/7/r, prepend => '1' . ($was // ''), delete => undef, add => 5, replace => 6);
	my $is = sub { return ($memcached->get('n') // 'gone') =~ s/ +\z//r };
	my $shall = $becomes{ $call =~ s/\(.*//r } // 'gone';

	# a connection on which the memcached has told its version: else that is what is held
	$s->run(q{SELECT echocache_kv_set('other', 'x')});
	$proxy->tell('hold down');
	$s->send("SELECT echocache_kv_$call");
	# what the proxy holds may be another's answer, a renewal's of the lease
	wait_for("$call to be carried out", sub { return $is->() eq $shall });
	$proxy->tell('reset');
	is($s->finish, undef, "$call: its connection breaks");
	like($s->messages, qr/^08006: cache server .* has not answered\nDETAIL:  .*\nHINT:  The request may have been carried out, or may be yet\./, 'which is an error that says so');
	$proxy->tell('pass');
	wait_state($s, 'UP', $proxy);
	is($is->(), $shall, 'it has happened once');
}
$s->run(q{SELECT echocache_kv_set('other', 'x')});
my $cas = $s->run(q{SELECT cas FROM echocache_kv_gets('n')});
$proxy->tell('hold down');
$s->send("SELECT echocache_kv_cas('n', 'by cas', $cas)");
wait_for('the CAS to be carried out', sub { return $memcached->get('n') eq 'by cas' });
$proxy->tell('reset');
is($s->finish, undef, 'a CAS that may have been carried out');
$proxy->tell('pass');
wait_state($s, 'UP', $proxy);
is($memcached->get('n'), 'by cas', 'and was, is not said to have lost');

# A kept connection that was closed meanwhile is noticed before anything is sent.
$memcached->set('n', 0);
$s->run('SELECT echocache_connect()');
$proxy->tell('reset');
is($s->run(q{SELECT echocache_kv_incr('n')}), 1, 'a connection that was reset');
$proxy->tell('shut down');
$proxy->tell('pass');
sleep 0.2;    # for the end to arrive: before that nobody can know
is($s->run(q{SELECT echocache_kv_incr('n')}), 2, 'one that the server has closed');

# Nor is an answer taken for that of a write-through before it, which nobody has read yet.
$s->run(q{CREATE TABLE session (id int PRIMARY KEY, title text); SELECT echocache_attach('session');
	INSERT INTO session VALUES (1, 'one')});
stop_at($other, 'before-store', $s, q{UPDATE session SET title = 'two'});
$memcached->delete('session:1');
go_on($other, $s);
is($s->run(q{SELECT echocache_kv_incr('n', 10)}), 12, 'after a write-through that failed');
is($memcached->get('n'), 12, 'once');

#
# Nobody but the fence stores to a document's key.
#
# A store is under way while the document is attached: the attach waits for it, then purges.
$proxy->tell('hold up ^ms late:1');
$s->send(q{SELECT echocache_kv_set('late:1', '{"id":1,"title":"forged"}')});
$proxy->holding('up');
$other->run(q{CREATE TABLE late (id int PRIMARY KEY, title text); INSERT INTO late VALUES (1, 'right')});
$other->run(q{BEGIN; SELECT echocache_attach('late', 'late')});
$other->send('COMMIT');
my $watch = session($node);
wait_for('the attach to wait', sub { return $watch->run('SELECT wait_event FROM pg_stat_activity WHERE pid = ' . $other->pid) eq 'advisory' });
$proxy->tell('release up');
is($s->finish, 't', 'a store of before the attach');
ok(defined $other->finish, 'for which the attach waits');
misses($memcached, 'late:1', 'and which it purges');
is($s->run(q{SELECT echocache_get('late', 1)}), '{"id":1,"title":"right"}', 'nobody reads it');
$watch->quit;
short_lease($s);

use_servers($memcached, $second);
wait_state($s, 'UP', $memcached, $second);

# Keys of other databases, of which no backend has used the document since the start.
$s->run('CREATE DATABASE two');
$s->run(q{ALTER DATABASE two SET echocache.key_prefix = 'two.'});
my $two = session($node, dbname => 'two', sql => q{CREATE EXTENSION echocache; CREATE TABLE note (id int PRIMARY KEY, body text)});
wait_state($two, 'UP');
$two->run(q{SELECT echocache_attach('note', 'note'); INSERT INTO note SELECT i, 'body' FROM generate_series(1, 20) i});
my $refused = qr/^42501: cache key "two\.note:1" belongs to a document\nDETAIL:  Keys that begin with "two\.note:" are those of a document "note" in another database\./;
like($s->error(q{SELECT echocache_kv_set('two.note:1', 'forged')}), $refused, 'a document of another database');
like($s->error(q{SELECT echocache_kv_get('two.note:1')}), $refused, 'is not read either');
is($s->run(q{SELECT echocache_kv_set('note:1', 'mine'), echocache_kv_set('two.notes', 'mine')}), 't|t', 'without its prefix it is nobody\'s');
is($two->run(q{SELECT echocache_kv_set('note:1', 'mine')}), 't', 'there, too');
$_->quit for $s, $other, $two;
$node->restart;
$s = session($node);
$other = session($node);
my $forged = $s->attempt(q{SELECT echocache_kv_set('two.note:1', '{"id":1,"body":"forged"}')});
wait_for('the worker to make its documents known', sub { return $s->error(q{SELECT echocache_kv_get('two.note:1')}) =~ /$refused/ });
pass('after a restart as well, once that database\'s worker has started' . ($forged ? ' (not before)' : ''));
$two = session($node, dbname => 'two');
wait_state($two, 'UP');
is(scalar(grep { /forged/ } map { $_->contents('two.') } $memcached, $second), 0, 'and what came before that is purged');

# While a prefix changes, both count.
$second->stop;
$s->attempt("SELECT echocache_kv_get('$there')");
$s->run(q{ALTER DATABASE two SET echocache.key_prefix = 'zwei.'});
$s->run('SELECT pg_reload_conf()');
wait_for('the new prefix', sub { return $s->error(q{SELECT echocache_kv_get('zwei.note:1')}) =~ /^42501: / });
like($s->error(q{SELECT echocache_kv_get('two.note:1')}), $refused, 'the old prefix is not free yet');
$second->start;
eventually('when it is purged everywhere, it is', sub { return $s->error(q{SELECT echocache_kv_set('two.note:1', 'free')}) eq 'no error' });
like($s->error(q{SELECT echocache_kv_get('zwei.note:1')}), qr/^42501: /, 'and the new one is taken');
$two->quit;
$s->run('DROP DATABASE two');
eventually('of a database that is dropped, nothing is left', sub { return $s->error(q{SELECT echocache_kv_get('zwei.note:1')}) eq 'no error' });

# Text is in UTF-8 whatever the database's encoding is.
$s->run(q{CREATE DATABASE latin ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0});
my $latin = session($node, dbname => 'latin', sql => q{SET client_encoding = 'UTF8'; CREATE EXTENSION echocache});
wait_for('its prefix to be another database\'s', sub { return $latin->run('SELECT last_error FROM echocache_servers') =~ /of this cluster uses/; });
$latin->run(q{SELECT echocache_kv_set('latin', 'Zürich')});
is($s->run(q{SELECT echocache_kv_get('latin') = 'Zürich', echocache_kv_get_bytea('latin')}), 't|\x5ac3bc72696368', 'text from a LATIN1 database');
$s->run(q{SELECT echocache_kv_set('latin', 'Genève'), echocache_kv_set('tokyo', '東京')});
is($latin->run(q{SELECT echocache_kv_get('latin') = 'Genève'}), 't', 'and back');
like($latin->error(q{SELECT echocache_kv_get('tokyo')}), qr/^22021: the value of cache key "tokyo" is not text/, 'what it has no characters for is an error');
is($latin->run(q{SELECT echocache_kv_get_bytea('tokyo')}), '\xe69db1e4baac', 'but for bytea');
$latin->quit;
$s->run('DROP DATABASE latin');

# A memcached that is full and evicts nothing.
my $small = memcached(args => [ '-M', '-m', '2' ]);
use_servers($small);
wait_state($s, 'UP', $small);
like($s->error(q{SELECT echocache_kv_set('full' || i, repeat('x', 100000)) FROM generate_series(1, 100) i}),
	qr/^53200: cache server "\Q${\$small->address}\E" does not store key "full\d+"\nDETAIL:  .*out of memory/, 'a memcached that is full');
is($s->run('SELECT state FROM echocache_servers'), 'UP', 'is none that is down');
# Not even a marker finds room there: then the document must go.
$small->set("session:$_", '{}') for 2 .. 5;
like($s->error(q{SELECT echocache_kv_set('small' || i, 'null', ttl => '0') FROM generate_series(1, 100000) i}), qr/^53200: /, 'full of small items');
$s->run(q{INSERT INTO session SELECT i, 'bulk' FROM generate_series(2, 100) i});
is(join(' ', map { $small->get("session:$_") // '-' } 2 .. 5), '- - - -', 'a bulk invalidates documents where no marker is stored');
is($s->run('SELECT state FROM echocache_servers'), 'UP', 'from a server that is not down');
$s->run('DELETE FROM session WHERE id > 1');

#
# A server that does not tell its keys cannot be purged: it stays RECOVERING until
# a superuser has it flushed.
#
my $silent = memcached(args => [ '-o', 'no_lru_crawler' ]);
my $silent_state = sub { return $s->run('SELECT state FROM echocache_servers') };
my $recovering = sub {
	my ($name) = @_;
	eventually("$name: RECOVERING", sub {
		return $s->run(q{SELECT state = 'RECOVERING' AND last_error ~ 'refuses "lru_crawler metadump hash"' FROM echocache_servers}) eq 't' });
	sleep 0.5;
	return is($silent_state->(), 'RECOVERING', 'and stays so');
};
$silent->set('session:1', '{"id":1,"title":"of an earlier life"}');
use_servers($silent);
$recovering->('a server that does not tell its keys');
is($s->run(q{SELECT echocache_get_session(1) ->> 'title'}), 'two', 'what it has is not read');
is($s->run(q{SELECT echocache_kv_set('mine', 'x')}), 't', 'the key/value client may use it');
is($s->run('SELECT echocache_flush_all()'), 1, 'flushed');
wait_state($s, 'UP', $silent);
is($silent->get('session:1'), undef, 'it is UP, without what it had');
is($s->run(q{SELECT echocache_get_session(1) ->> 'title'}), 'two', 'reads fill it');
holds($silent, 'session:1', '{"id":1,"title":"two"}', 'again');

# A flush of before does not count for what came after it.
is($s->run('SELECT echocache_flush_all()'), 1, 'flushed while it is UP');
$s->run(q{SELECT echocache_get_session(1), echocache_kv_set('mine', 'x')});
$s->run('TRUNCATE session');
$recovering->('then the table is truncated');
is($silent->get('mine'), 'x', 'nobody has flushed it');
is($s->run('SELECT echocache_get_session(1)'), '', 'nor does anybody read it');
is($s->run('SELECT echocache_flush_all()'), 1, 'flushed again');
wait_state($s, 'UP', $silent);
is($silent->get('session:1'), undef, 'it is without the old document');
# Nor for another start of the same server.
$s->run(q{INSERT INTO session VALUES (1, 'three'); SELECT echocache_kv_set('mine', 'x')});
setting($s, 'echocache.enabled' => 'off');
wait_for('off', sub { return $s->run('SELECT echocache_is_available()') eq 'f' });
$s->run(q{UPDATE session SET title = 'four'});
setting($s, 'echocache.enabled' => 'on');
$recovering->('switched off and on');
is($silent->get('mine'), 'x', 'nobody has flushed it');
is($s->run(q{SELECT echocache_get_session(1) ->> 'title'}), 'four', 'nor does anybody read it');
$s->run('SELECT echocache_flush_all()');
wait_state($s, 'UP', $silent);
is($s->run(q{SELECT echocache_get_session(1) ->> 'title'}), 'four', 'flushed again');

# Markers that a flush takes away open no hole.
stop_at($other, 'before-store', $s, q{UPDATE session SET title = 'five'});
is($other->run('SELECT echocache_flush_all()'), 1, 'flushed between a commit and its write-through');
go_on($other, $s);
is($silent->settled('session:1'), undef, 'which is not stored then');
stop_at($other, 'after-markers', $s, q{UPDATE session SET title = 'six'});
$other->run('SELECT echocache_flush_all()');
is($other->run(q{SELECT echocache_get_session(1) ->> 'title'}), 'five', 'flushed before a commit, a reader finds the old row');
is($silent->get('session:1'), undef, 'and does not store it');
go_on($other, $s);
is($other->run(q{SELECT echocache_get_session(1) ->> 'title'}), 'six', 'after the commit, the new one');

# One that cannot be flushed says why.
my $stubborn = memcached(args => [ '-F', '-o', 'no_lru_crawler' ]);
use_servers($stubborn, $memcached);
wait_state($s, 'UP', $memcached);
$memcached->set('mine', 'x');
like($s->error('SELECT echocache_flush_all()'), qr/^0A000: cache server "\Q${\$stubborn->address}\E" cannot be flushed\nDETAIL:  the server refuses "flush_all": flush_all not allowed/,
	'a server that refuses to be flushed');
is($memcached->get('mine'), undef, 'the others have been');
sleep 0.5;
is($s->run(q{SELECT state FROM echocache_servers WHERE server = '} . $stubborn->address . q{'}), 'RECOVERING', 'and it stays RECOVERING');

done_testing();
