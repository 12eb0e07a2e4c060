# A filter has its functions by name.  A function that somebody else puts in the place of one
# that is gone does not run as the table's owner.  Neither do the checks of somebody else's
# domain, nor a document's function that belongs to somebody else.
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

# A rename is followed, so the new owner of the name is nobody.
$s->run("ALTER FUNCTION lib.f(text) RENAME TO g; SET ROLE mallory; $planted; RESET ROLE");
for my $session ($open, session($node))
{
	$s->run('SELECT echocache_flush_all()');
	is($session->error($_), 'no error', "renamed: $_") for @reads, q{UPDATE session SET title = title || 'x'};
}
unlike(slurp_file($node->logfile), qr/LOG:  planted/, 'nothing of hers has run');
$s->run('DROP FUNCTION lib.f(text); ALTER FUNCTION lib.g(text) RENAME TO f');
like($open->run($reads[0]), qr/"title":"axx"/, 'its name is back, and the filter works: the writes went on meanwhile');

# A drop is refused where the catalog has the dependency, which it may not have yet after pg_upgrade.
sub drop_function
{
	$s->run(q{DELETE FROM pg_depend WHERE classid = 'pg_trigger'::regclass AND refclassid = 'pg_proc'::regclass AND refobjid = to_regproc('lib.f');
		DROP FUNCTION lib.f(text)});
	return;
}

$open->run(q{UPDATE session SET title = 'b'});
drop_function();
$s->run("SET ROLE mallory; $planted; RESET ROLE");
refused($open, 'dropped, in a session that has plans');
refused(session($node), 'dropped, in a new session');

# Between the check and the query: the filter is what it was, and not what has its name by now.
# (The table is locked.)
SKIP:
{
	skip 'built without wait points', 5 if $s->run(q{SELECT count(*) FROM pg_settings WHERE name = 'echocache.wait_point'}) == 0;
	my $holder = session($node);

	for my $point (qw(fill-marked fetch-checked))
	{
		my $session = session($node);

		drop_function();
		$s->run(q{SET ROLE owner;
			CREATE FUNCTION lib.f(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
			RESET ROLE; SELECT echocache_flush_all()});
		stop_at($holder, $point, $session, $reads[0]);
		drop_function();
		$s->run("SET ROLE mallory; $planted; RESET ROLE");
		is(go_on($holder, $session) // '', '', "the function changes, $point: no document");
		like($session->{messages}, $point eq 'fill-marked' ? qr/ERROR:  42501: function lib\.f/ : qr/ERROR:  42883: function with OID \d+ does not exist/, 'the read says why');
	}
	unlike(slurp_file($node->logfile), qr/LOG:  planted/, 'nothing of hers has run');
}

# Who may act as the owner may make his filters' functions; others may not, from the start.
$s->run('ALTER FUNCTION lib.f(text) OWNER TO deputy');
like($open->run($reads[0]), qr/"title":"bx+"/, 'the function of a member of the owner');
$s->run(q{ALTER FUNCTION lib.f(text) OWNER TO mallory; SELECT echocache_detach()});
like($s->error(q{SELECT echocache_attach('session', filter => 'lib.f(title)')}), qr/^42501: function lib\.f\(text\) cannot be used in the filter/, "an attach refuses somebody else's");

# Checks of a domain are its owner's code, wherever the filter makes a value of it.
my $offset = -s $node->logfile;
$s->run(q{SET ROLE mallory;
	CREATE DOMAIN lib.d AS text;
	CREATE TYPE lib.c AS (d lib.d);
	SET ROLE owner;
	CREATE DOMAIN lib.o AS lib.d;
	CREATE DOMAIN lib.mine AS text;
	CREATE FUNCTION lib.of(lib.d) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
	RESET ROLE});
for my $filter ('title::lib.d IS NOT NULL', 'title::lib.o IS NOT NULL', 'ARRAY[title]::lib.d[] IS NOT NULL', q{'{a}'::lib.d[] IS NOT NULL},
	'title::lib.c IS NOT NULL', q{'(a)'::lib.c IS NOT NULL}, 'ROW(title)::lib.c IS NOT NULL', 'lib.of(title)')
{
	my $error = $s->error("SET ROLE owner; SELECT echocache_attach('session', filter => \$\$$filter\$\$)");
	like($error, qr/^42501: type \S+ cannot be used in the filter\nDETAIL:  It belongs to role "mallory"/, "refused: $filter");
}
like($s->error(q{SELECT echocache_attach('session', filter => $$'{a}'::lib.mine[] IS NOT NULL$$)}),
	qr/^0A000: the filter cannot have a constant of type lib\.mine\[\]/, "checks of domains do not run where a filter is read");
$s->run(q{SELECT echocache_attach('session', filter => $$title::lib.mine IS NOT NULL AND ARRAY[title, 'a']::lib.mine[] IS NOT NULL$$);
	RESET ROLE;
	UPDATE session SET title = 'c'});
$open->run($_) for @reads;
$s->run(q{DELETE FROM pg_depend WHERE classid = 'pg_trigger'::regclass AND refclassid = 'pg_type'::regclass;
	DROP DOMAIN lib.mine; SET ROLE mallory;
	CREATE FUNCTION lib.spy(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
	$$BEGIN RAISE LOG 'planted, as %', current_user; RETURN true; END$$;
	CREATE DOMAIN lib.mine AS text CHECK (lib.spy(VALUE));
	RESET ROLE; SELECT echocache_flush_all()});
for my $session ($open, session($node))
{
	like($session->error($reads[0]), qr/^42501: type lib\.mine cannot be used in the filter/, "a planted domain: a read says why");
	$session->error($_) for @reads, q{UPDATE session SET title = title || 'x'};
}
unlike(slurp_file($node->logfile, $offset), qr/LOG:  planted/, 'nothing of hers has run');
$s->run(q{DROP DOMAIN lib.mine; SET ROLE owner; CREATE DOMAIN lib.mine AS text; RESET ROLE; SELECT echocache_flush_all()});
like($open->run($reads[0]), qr/"title":"c/, 'it is back, and the filter works');
$s->run('ALTER DOMAIN lib.mine OWNER TO mallory; SELECT echocache_flush_all()');
like($open->error($reads[0]), qr/^42501: type lib\.mine cannot be used in the filter/, 'a domain that is given away');
$s->run(q{SELECT echocache_detach()});

# A document's function is its owner's code.
my $doc = q{CREATE OR REPLACE FUNCTION lib.doc(session) RETURNS json LANGUAGE plpgsql STABLE AS
	$$BEGIN RAISE LOG 'planted, as %', current_user; RETURN row_to_json($1); END$$};
my $strange = qr/^42501: function lib\.doc cannot make documents of table "session"\nDETAIL:  It belongs to role "mallory"/;
$s->run("SET ROLE mallory; $doc; RESET ROLE; SELECT echocache_flush_all()");
like($s->error(q{SET ROLE owner; SELECT echocache_attach('session', document => 'lib.doc')}), $strange, 'an attach refuses it');
unlike(slurp_file($node->logfile, $offset), qr/LOG:  planted/, 'nothing has run');
$s->run(q{RESET ROLE; ALTER FUNCTION lib.doc(session) OWNER TO deputy; SET ROLE owner;
	SELECT echocache_attach('session', document => 'lib.doc'); RESET ROLE});
like($open->run($reads[0]), qr/"title":"c/, 'that of a member of the owner makes documents');
$offset = -s $node->logfile;
$s->run("ALTER FUNCTION lib.doc(session) OWNER TO mallory; SET ROLE mallory; $doc; RESET ROLE; SELECT echocache_flush_all()");
for my $session ($open, session($node))
{
	like($session->error($reads[0]), $strange, 'given away: a read says why');
	$session->run(q{UPDATE session SET title = title || 'x'});
}
unlike(slurp_file($node->logfile, $offset), qr/LOG:  planted/, 'nothing of hers has run');

done_testing();
