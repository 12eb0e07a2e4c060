# What a filter and a document's function use: it is not dropped without the attachment, renames are
# followed in all open sessions, and dump, restore and a copied catalog keep both.
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
	CREATE ROLE app LOGIN;
	CREATE SCHEMA lib AUTHORIZATION app;
	GRANT CREATE ON SCHEMA public TO app;
	SET ROLE app;
	CREATE TYPE lib.mood AS ENUM ('sad', 'ok', 'o''neil');
	CREATE DOMAIN lib.title AS text CHECK (length(VALUE) < 100);
	CREATE TYPE lib.pair AS (a int, b lib.title);
	CREATE FUNCTION lib.keep(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN $1 <> 'hidden'; END$$;
	CREATE FUNCTION lib.same(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 = $2';
	CREATE OPERATOR lib.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = lib.same);
	CREATE COLLATION lib.plain (LOCALE = 'C');
	CREATE TABLE session (id int PRIMARY KEY, title text NOT NULL, mood lib.mood NOT NULL, pair lib.pair);
	INSERT INTO session VALUES (1, 'one', 'ok', '(1,x)'), (2, 'hidden', 'ok', '(1,x)'), (3, 'three', 'sad', '(1,x)');
	RESET ROLE});
my $app = session($node, sql => 'SET ROLE app');
my $open = session($node);
my @expected = ('{"id":1,"title":"one","mood":"ok","pair":{"a":1,"b":"x"}}', '', '');
my $filter = q{lib.keep(title) AND title OPERATOR(lib.===) title AND mood IN ('ok', 'o''neil') AND (pair).b::lib.title = 'x' AND title COLLATE lib.plain > ''};

wait_state($s, 'UP');

# The documents, read in a session that has plans and in a new one, and by a writer.
sub documents
{
	my ($name, @want) = @_;

	$s->run('SELECT echocache_flush_all()');
	for my $session ($open, session($node))
	{
		is($session->run("SELECT coalesce(echocache_get('session', $_)::text, '')"), $want[ $_ - 1 ], "$name: row $_") for 1 .. 3;
	}
	is($open->run('UPDATE session SET title = title WHERE id = 1'), '', "$name: a write");
	is($s->run(q{SELECT stale, "foreign" FROM echocache_verify('session')}), '0|0', "$name: nothing is stale");
	is($s->run(q{SELECT count(*) FROM echocache_documents WHERE name = 'session' AND suspended IS NULL}), 1, "$name: it is cached");
	return;
}

$app->run("SELECT echocache_attach('session', filter => \$f\$$filter\$f\$)");
documents('attached', @expected);

#
# Renames.
#
my @renames = (
	[ 'FUNCTION lib.keep(text) RENAME TO kept', 'FUNCTION lib.kept(text) RENAME TO keep' ],
	[ 'ROUTINE lib.same(text, text) RENAME TO alike', 'ROUTINE lib.alike(text, text) RENAME TO same' ],
	[ 'FUNCTION lib.keep(text) SET SCHEMA public', 'FUNCTION public.keep(text) SET SCHEMA lib' ],
	[ 'OPERATOR lib.=== (text, text) SET SCHEMA public', 'OPERATOR public.=== (text, text) SET SCHEMA lib' ],
	[ q{TYPE lib.mood RENAME VALUE 'ok' TO 'fine'}, q{TYPE lib.mood RENAME VALUE 'fine' TO 'ok'}, sub { return map { s/"ok"/"fine"/r } @_ } ],
	[ q{TYPE lib.mood RENAME VALUE 'o''neil' TO 'a ''quoted'' "one"'}, q{TYPE lib.mood RENAME VALUE 'a ''quoted'' "one"' TO 'o''neil'} ],
	[ 'TYPE lib.mood RENAME TO feeling', 'TYPE lib.feeling RENAME TO mood' ],
	[ 'TYPE lib.mood SET SCHEMA public', 'TYPE public.mood SET SCHEMA lib' ],
	[ 'DOMAIN lib.title RENAME TO "a Title"', 'DOMAIN lib."a Title" RENAME TO title' ],
	[ 'TYPE lib.pair RENAME ATTRIBUTE b TO c', 'TYPE lib.pair RENAME ATTRIBUTE c TO b', sub { return map { s/"b"/"c"/r } @_ } ],
	[ 'COLLATION lib.plain RENAME TO simple', 'COLLATION lib.simple RENAME TO plain' ],
	[ 'TABLE session RENAME COLUMN mood TO feeling', 'TABLE session RENAME COLUMN feeling TO mood', sub { return map { s/"mood"/"feeling"/r } @_ } ],
	[ 'SCHEMA lib RENAME TO "a Lib"', 'SCHEMA "a Lib" RENAME TO lib' ]);

for my $rename (@renames)
{
	my ($there, $back, $change) = @$rename;

	$s->run("ALTER $there");
	documents("ALTER $there", $change ? $change->(@expected) : @expected);
	$s->run("BEGIN; ALTER $back; ROLLBACK");
	documents('rolled back', $change ? $change->(@expected) : @expected) if $there =~ /^SCHEMA/;
	$s->run("ALTER $back");
}
documents('all as it was', @expected);

# A rename is held up by a busy table only if the filter may have the name; nor does code of the
# filter's owner run as whoever renames.
$app->run(q{CREATE FUNCTION lib.spy(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
	$$BEGIN RAISE LOG 'spy, as %', current_user; RETURN true; END$$;
	CREATE DOMAIN lib.spied AS text CHECK (lib.spy(VALUE));
	CREATE TABLE spied (id int PRIMARY KEY, tags lib.spied[]);
	SELECT echocache_attach('spied', name => 'spied', filter => $$tags <> ARRAY['a']::lib.spied[]$$)});
my $offset = -s $node->logfile;
$s->run('ALTER TABLE spied RENAME COLUMN tags TO labels; ALTER FUNCTION lib.keep(text) RENAME TO kept; ALTER FUNCTION lib.kept(text) RENAME TO keep');
unlike(slurp_file($node->logfile, $offset), qr/spy, as/, "a rename runs none of the owner's code");
like($s->run(q{SELECT filter FROM echocache.document WHERE name = 'spied'}), qr/labels/, 'a column of a filter');
$app->run('BEGIN; LOCK TABLE spied');
is($s->error(q{SET lock_timeout = '2s'; ALTER FUNCTION lib.keep(text) RENAME TO kept; ALTER FUNCTION lib.kept(text) RENAME TO keep}), 'no error', 'a busy table, whose filter is about something else');
is($s->error(q{ALTER TABLE session RENAME COLUMN title TO name; ALTER TABLE session RENAME COLUMN name TO title}), 'no error', 'nor for a column of another one');
$app->run('ROLLBACK');

# What has changed while a rename waits is left alone.  (If both write at the same moment the rename
# fails, as two of PostgreSQL's own can.)
$app->run(q{CREATE TABLE busy (id int PRIMARY KEY); SELECT echocache_attach('busy', 'busy', filter => 'lib.keep(id::text)'); CREATE TABLE other (id int PRIMARY KEY)});
$open->run('BEGIN; LOCK TABLE busy');
$app->run('RESET ROLE');
$app->send('ALTER FUNCTION lib.keep(text) RENAME TO kept');
wait_for('the rename to wait', sub { return $s->run('SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = ' . $app->pid) });
my $again = session($node);
$again->send(q{SELECT echocache_detach('busy'); SELECT echocache_attach('other', 'busy')});
wait_for('the detach to wait', sub { return $s->run('SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = ' . $again->pid) });
$open->run('COMMIT');
$app->finish;
$again->finish;
is($s->run(q{SELECT filter IS NULL, relation FROM echocache.document WHERE name = 'busy'}), 't|other', 'another table has the name meanwhile: it has no filter');
$s->run(q{SELECT echocache_detach('busy'); DROP TABLE busy, other;
	DO $$BEGIN IF to_regprocedure('lib.kept(text)') IS NOT NULL THEN ALTER FUNCTION lib.kept(text) RENAME TO keep; END IF; END$$});
$app->run(q{SET ROLE app; SELECT echocache_detach('spied'); DROP TABLE spied});

# The text of a constant does not depend on who attaches or renames.
$s->run(q{SET datestyle = 'SQL, DMY'; SET intervalstyle = 'sql_standard';
	CREATE TABLE dated (id int PRIMARY KEY, d date, i interval, f float8, r regclass);
	CREATE INDEX dated_d ON dated (d);
	SELECT echocache_attach('dated', 'dated', filter => $$d >= '01/02/2020' AND i > '-1 2:03:04' AND f <> 0.1::float8 AND r <> 'dated_d'::regclass$$)});
my $stored = q{SELECT filter FROM echocache.document WHERE name = 'dated'};
my $dated = $s->run($stored);
like($dated, qr/'2020-02-01'::date.*::interval.*'public\.dated_d'::regclass/, 'ISO, whoever attaches');
$s->run(q{SET datestyle = 'German'; SET extra_float_digits = -5; ALTER INDEX dated_d RENAME TO dated_e});
is($s->run($stored), $dated =~ s/dated_d/dated_e/r, 'the same text, whoever renames');
$s->run('RESET datestyle; RESET intervalstyle; RESET extra_float_digits');
$s->run('CREATE TABLE owned (id int PRIMARY KEY, r regrole, n regnamespace)');
like($s->error("SELECT echocache_attach('owned', 'owned', filter => \$\$$_\$\$)"), qr/^0A000: the filter cannot have a constant of type reg/, "refused: $_")
  for q{r <> 'app'::regrole}, q{n <> 'lib'::regnamespace};
like($s->error(q{SELECT echocache_attach('owned', 'owned', filter => $$ARRAY[r] <> '{app}'::regrole[]$$)}), qr/^0A000/, 'nor in an array');
is($s->error(q{SELECT echocache_attach('owned', 'owned', filter => $$CASE WHEN id > 0 THEN r END IS NULL$$)}), 'no error', 'but NULL');
is($s->run(q{INSERT INTO owned VALUES (1); SELECT echocache_get('owned', 1)}), '{"id":1,"r":null,"n":null}', 'and it can be read');
$s->run(q{SELECT echocache_detach('owned'); DROP TABLE owned});
$s->run(q{SELECT echocache_detach('dated'); DROP TABLE dated});

# Another overload is used once the column has another type: the dependencies follow.
$s->run(q{CREATE FUNCTION lib.some(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
	CREATE FUNCTION lib.some(bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
	CREATE TABLE num (id int PRIMARY KEY, n int); SELECT echocache_attach('num', 'num', filter => 'lib.some(n)');
	ALTER TABLE num ALTER n TYPE bigint});
wait_for('the other one to be needed', sub { return $s->error('BEGIN; DROP FUNCTION lib.some(bigint); ROLLBACK') =~ /2BP01/ });
$s->run('ROLLBACK; DROP FUNCTION lib.some(int)');
is($s->run(q{SELECT count(*) FROM echocache.document WHERE name = 'num'}), 1, 'nothing depends on the one that is not used');
$s->run(q{SELECT echocache_detach('num'); DROP TABLE num});

#
# Drops: refused, or a detach.
#
my @objects = ('FUNCTION lib.keep(text)', 'OPERATOR lib.=== (text, text)', 'FUNCTION lib.same(text, text)', 'TYPE lib.mood', 'DOMAIN lib.title', 'COLLATION lib.plain', 'SCHEMA lib');

for my $object (@objects)
{
	like($app->error("DROP $object"), qr/^2BP01: cannot drop .* because other objects depend on it\nDETAIL:  (?s:.*)trigger echocache_row_session on table (?:public\.)?session depends on/, "refused: DROP $object");
	documents("after that", @expected) if $object =~ /keep/;
	$app->run("BEGIN; DROP $object CASCADE");
	like($app->{messages}, qr/NOTICE:  00000: document "session" of table "session" is detached/, "DROP $object CASCADE detaches");
	is($app->run(q{RESET ROLE; SELECT count(*) FROM echocache_documents}), 0, 'the attachment is gone');
	is($app->run(q{SELECT count(*) FROM pg_trigger WHERE tgname ~ '^echocache_'}), 0, 'its triggers, too');
	$app->run('ROLLBACK; SET ROLE app');
}
documents('after rolled back drops', @expected);
$app->run('BEGIN; DROP TRIGGER echocache_row_session ON session; DROP FUNCTION lib.keep(text)');
is($app->run(q{RESET ROLE; SELECT count(*) FROM echocache_documents}), 1, 'DROP TRIGGER detaches nothing, and nothing depends on the function any more');
$app->run('ROLLBACK; SET ROLE app');
$s->run('ALTER TABLE session ALTER COLUMN title TYPE varchar');
documents('a column of the filter has another type', @expected);
$s->run('ALTER TABLE session ALTER COLUMN title TYPE text');
$s->run('REASSIGN OWNED BY app TO app');

#
# Dump and restore: what was there is there, and depends on what it did.
#
$s->run(q{CREATE TABLE message (id int PRIMARY KEY, thread int);
	CREATE TABLE thread (id int PRIMARY KEY);
	CREATE FUNCTION lib.thread(thread) RETURNS json LANGUAGE sql STABLE AS $$SELECT json_build_object('id', $1.id, 'n', (SELECT count(*) FROM public.message m WHERE m.thread = $1.id))$$;
	SELECT echocache_attach('message', 'message'), echocache_attach('thread', 'thread', document => 'lib.thread');
	SELECT echocache_attach_dependent('message', 'thread', 'thread')});
my $documents = 'SELECT name, relation, document FROM echocache_documents WHERE suspended IS NULL ORDER BY 1';
my $dir = PostgreSQL::Test::Utils::tempdir();
my $dependencies = q{SELECT pg_describe_object(refclassid, refobjid, refobjsubid) FROM pg_depend
	WHERE classid = 'pg_trigger'::regclass AND objid = (SELECT oid FROM pg_trigger WHERE tgname = 'echocache_row_session' AND tgrelid = 'public.session'::regclass)
	AND deptype = 'n' ORDER BY 1};
my $depends = $s->run($dependencies);

like($depends, qr/^function lib\.keep\(text\)$/m, 'the catalog has the dependencies');
unlike($depends, qr/of table/, 'none is on a column of the table');
$node->command_ok([ 'pg_dump', '-f', "$dir/plain", $node->connstr('postgres') ], 'pg_dump');
$node->command_ok([ 'pg_dump', '-Fd', '-f', "$dir/dir", $node->connstr('postgres') ], 'pg_dump -Fd');
$node->command_ok([ 'pg_dump', '-a', '--disable-triggers', '-f', "$dir/data", $node->connstr('postgres') ], 'pg_dump --data-only');
$node->command_ok([ 'pg_dump', '--clean', '--if-exists', '-f', "$dir/clean", $node->connstr('postgres') ], 'pg_dump --clean');

my %ways = (
	plain => sub { return [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/plain", $_[0] ] },
	clean => sub { return [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/clean", $_[0] ] },
	jobs => sub { return [ 'pg_restore', '-e', '-j', '4', '-d', $_[0], "$dir/dir" ] },
	sections => sub { return map { [ 'pg_restore', '-e', "--section=$_", '-d', $_[0], "$dir/dir" ] } qw(pre-data data post-data) },
	again => sub { return [ 'pg_restore', '-e', '--clean', '--if-exists', '-d', $_[0], "$dir/dir" ] });

sub restored
{
	my ($database, $way) = @_;
	my $session = session($node, dbname => $database);

	wait_for("$way: the dependencies", sub { return $session->run($dependencies) eq $depends });
	like($session->error('DROP FUNCTION lib.keep(text)'), qr/^2BP01/, "$way: a drop is refused");
	is($session->run(q{SELECT count(*) FROM session}), 3, "$way: the rows");
	is($session->run($documents), "message|message|\nsession|session|\nthread|thread|lib.thread", "$way: the attachments");
	wait_state($session, 'UP');
	is($session->run("SELECT coalesce(echocache_get('session', $_)::text, '')"), $expected[ $_ - 1 ], "$way: row $_") for 1 .. 3;
	return;
}

for my $way (qw(plain jobs sections clean again))
{
	$s->run("CREATE DATABASE $way; ALTER DATABASE $way SET echocache.key_prefix = '$way:'") unless $way =~ /clean|again/;
	my $database = $way =~ /clean/ ? 'plain' : $way eq 'again' ? 'jobs' : $way;
	my @commands = $ways{$way}->($node->connstr($database));
	my $ok = 1;

	$ok &&= PostgreSQL::Test::Utils::run_log($_) for @commands;
	ok($ok, "$way: restores");
	restored($database, $way);
}

# Data only, into a database that has the tables, the functions and the triggers.
my $data = session($node, dbname => 'plain');
$data->run('TRUNCATE session, message, thread, echocache.document, echocache.dependent, echocache.outbox');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/data", $node->connstr('plain') ], 'data only: restores');
restored('plain', 'data only');

# pg_upgrade brings the rows as files: nothing is recorded until the database's worker is there.
$s->run(q{DELETE FROM pg_depend WHERE classid = 'pg_trigger'::regclass AND deptype = 'n'
	AND objid = (SELECT oid FROM pg_trigger WHERE tgname = 'echocache_row_session') AND refobjid <> 'echocache_row_trigger'::regproc});
isnt($s->run($dependencies), $depends, 'as after pg_upgrade');
$node->restart;
$s = session($node);
wait_for('the dependencies', sub { return $s->run($dependencies) eq $depends });
$open = session($node);
wait_state($s, 'UP');
documents('as after pg_upgrade', @expected);

#
# A document's function, likewise.
#
$s->run(q{SELECT echocache_detach('session');
	CREATE FUNCTION lib.doc(session) RETURNS json LANGUAGE sql STABLE AS $$SELECT json_build_object('id', $1.id, 'it', $1.title)$$;
	SELECT echocache_attach('session', document => 'lib.doc')});
like($s->error('DROP FUNCTION lib.doc(session)'), qr/^2BP01: cannot drop function lib\.doc\(session\) because other objects depend on it/, 'a document\'s function: refused');
like($s->error('DROP SCHEMA lib'), qr/^2BP01/, 'its schema: refused');
$s->run('ALTER FUNCTION lib.doc(session) RENAME TO made; ALTER SCHEMA lib RENAME TO lib2');
is($s->run(q{SELECT echocache_get('session', 1)}), '{"id" : 1, "it" : "one"}', 'renames are followed');
$s->run('DROP FUNCTION lib2.made(session) CASCADE');
like($s->{messages}, qr/document "session" of table "session" is detached/, 'CASCADE detaches');
is($s->run(q{SELECT count(*) FROM pg_trigger WHERE tgname ~ '^echocache_' AND tgrelid = 'session'::regclass}), 0, 'and drops the triggers');
is($s->run('UPDATE session SET title = title'), '', 'a write');

done_testing();
