# A filter has its functions by name.  A function that somebody else puts in the place of one
# that is gone does not run as the table's owner.
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
my $node = new_node('main', hosts => [$memcached]);
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE ROLE owner LOGIN;
	CREATE ROLE mallory LOGIN;
	CREATE ROLE deputy LOGIN;
	GRANT owner TO deputy;
	CREATE SCHEMA lib;
	GRANT USAGE, CREATE ON SCHEMA lib TO owner, mallory, deputy;
	GRANT CREATE ON SCHEMA public TO owner;
	SET ROLE owner;
	CREATE FUNCTION lib.f(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
	CREATE TABLE session (id int PRIMARY KEY, title text);
	SELECT echocache_attach('session', filter => 'lib.f(title)');
	INSERT INTO session VALUES (1, 'a');
	RESET ROLE});
my $open = session($node);
my $planted = q{CREATE FUNCTION lib.f(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
	$$BEGIN RAISE LOG 'planted, as %', current_user; RETURN true; END$$};
my @reads = ('SELECT echocache_get_session(1)', 'SELECT echocache_refresh_session(1)',
	q{SELECT echocache_warm('session')}, q{SELECT * FROM echocache_verify('session')});

wait_state($s, 'UP');
is($open->run($reads[0]), '{"id":1,"title":"a"}', 'the filter works');
$open->run($_) for @reads;

sub refused
{
	my ($session, $when) = @_;

	$s->run('SELECT echocache_flush_all()');
	for my $sql (@reads, q{UPDATE session SET title = title || 'x'})
	{
		my $error = $session->error($sql);

		# a plan that somebody has made before may say so in its own words
		unlike($error, qr/planted/, "$when: $sql");
	}
	my $error = $session->error($reads[0]);
	like($error, qr/^42501: function lib\.f\(text\) cannot be used in the filter\nDETAIL:  It belongs to role "mallory"/, "$when: a read says why");
	unlike(slurp_file($node->logfile), qr/LOG:  planted/, "$when: nothing of hers has run");
	return;
}

$s->run("ALTER FUNCTION lib.f(text) RENAME TO g; SET ROLE mallory; $planted; RESET ROLE");
refused($open, 'renamed, in a session that has plans');
refused(session($node), 'renamed, in a new session');

$s->run('DROP FUNCTION lib.f(text); ALTER FUNCTION lib.g(text) RENAME TO f');
is($open->run($reads[0]), '{"id":1,"title":"a"}', 'its name is back, and the filter works');
$open->run(q{UPDATE session SET title = 'b'});

$s->run("DROP FUNCTION lib.f(text); SET ROLE mallory; $planted; RESET ROLE");
refused($open, 'dropped, in a session that has plans');
refused(session($node), 'dropped, in a new session');

# Who may act as the owner may make his filters' functions; others may not, from the start.
$s->run('ALTER FUNCTION lib.f(text) OWNER TO deputy');
is($open->run($reads[0]), '{"id":1,"title":"b"}', 'the function of a member of the owner');
$s->run(q{ALTER FUNCTION lib.f(text) OWNER TO mallory; SELECT echocache_detach()});
like($s->error(q{SELECT echocache_attach('session', filter => 'lib.f(title)')}), qr/^42501: function lib\.f\(text\) cannot be used in the filter/, "an attach refuses somebody else's");

done_testing();
