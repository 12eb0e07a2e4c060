# Versions of the extension: ALTER EXTENSION UPDATE makes of each earlier version what a fresh
# CREATE EXTENSION makes; new files under a server that runs change nothing until it is restarted;
# a library goes on with the objects of an earlier version, and refuses those that it cannot use,
# in reads, in writes and in its worker, until they fit; and a primary and a standby of two builds
# agree on what is in memcached.
#
# The next version, which is made here of the present one, is the library of this source with
# another version, and a script that adds, replaces and removes objects.
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

my $root = "$FindBin::RealBin/../..";
my ($version) = slurp_file("$root/echocache.control") =~ /^default_version = '(.*)'$/m;
my ($major, $minor) = $version =~ /^(\d+)\.(\d+)/;
my $next = "$major." . ($minor + 1) . '~test';
my $later = ($major + 1) . '.0';
my @earlier = map { m{/echocache--([^/]+?)\.sql\z} && $1 !~ /--/ ? $1 : () } sort glob "$root/sql/*.sql";
my $folder = PostgreSQL::Test::Utils::tempdir();
my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
my $sharedir = `$pg_config --sharedir` =~ s/\n//r;

# ---------------------------------------------------------------- the scripts of this source

is(join(' ', grep { $_ eq $version } @earlier), $version, 'the version of the control file has a script of its own');
for my $script (glob "$root/sql/*.sql")
{
	my ($to) = $script =~ /--([^-]+)\.sql\z/;

	like(slurp_file($script) =~ s/^(?:--|\\echo).*//mgr, qr/\A\s*CREATE FUNCTION \@extschema\@\.echocache_check_version\(version text\) RETURNS void
\s+AS 'MODULE_PATHNAME' LANGUAGE C;
SELECT \@extschema\@\.echocache_check_version\('\Q$to\E'\);
DROP FUNCTION \@extschema\@\.echocache_check_version\(text\);
/, "$script begins with the check that its library works with version $to");
}

# ---------------------------------------------------------------- the next versions

sub check
{
	return qq{CREATE FUNCTION \@extschema\@.echocache_check_version(version text) RETURNS void
    AS 'MODULE_PATHNAME' LANGUAGE C;
SELECT \@extschema\@.echocache_check_version('$_[0]');
DROP FUNCTION \@extschema\@.echocache_check_version(text);
};
}

my $news = q{
CREATE FUNCTION echocache_news() RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_is_available' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_news() IS 'new in this version';
REVOKE ALL ON FUNCTION echocache_news() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION echocache_news() TO pg_monitor;
CREATE TABLE echocache.news (id bigint PRIMARY KEY, about text NOT NULL CHECK (about OPERATOR(pg_catalog.<>) ''));
COMMENT ON TABLE echocache.news IS 'new in this version, too';
SELECT pg_catalog.pg_extension_config_dump('echocache.news', '');
CREATE VIEW echocache_news AS SELECT n.id FROM echocache.news n;
COMMENT ON VIEW echocache_news IS 'and a view of it';
GRANT SELECT ON echocache_news TO pg_monitor;
DROP FUNCTION echocache_connect();
CREATE OR REPLACE FUNCTION echocache_is_available() RETURNS boolean
    AS 'MODULE_PATHNAME', 'echocache_is_available' LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION echocache_is_available() IS 'said otherwise in this version';
};

# Build the library as of this version, and stage it with these scripts added; returns the stage.
# Of what is built already one object knows the version.
sub build
{
	my ($of, %scripts) = @_;
	my $source = "$folder/source-$of";
	my $stage = "$folder/stage-$of";

	mkdir $source;
	system_or_bail('cp', '-a', (grep { !m{/(?:\.git|test|results|regression\.\w+|output_iso|tmp_check)$} }
		glob(($ENV{EC_BUILD} // $root) . '/*')), $source);
	append_to_file("$source/sql/$_", $scripts{$_}) for keys %scripts;
	my $control = slurp_file("$source/echocache.control") =~ s/^default_version = .*/default_version = '$of'/mr;
	unlink "$source/echocache.control";
	append_to_file("$source/echocache.control", $control);
	system_or_bail('make', '-s', '-C', $source, "DESTDIR=$stage", "PG_CONFIG=$pg_config", 'all', 'install');
	return $stage;
}

my $full = slurp_file("$root/sql/echocache--$version.sql");
my %next = ("echocache--$next.sql" => ($full =~ s/check_version\('\Q$version\E'\)/check_version('$next')/r) . $news,
	"echocache--$version--$next.sql" => check($next) . $news);
my $stage_next = build($next, %next);
my $stage_later = build($later, %next, "echocache--$next--$later.sql" => check($later));

# The stage of a server: what is installed on its machine.  Files are replaced as dpkg does it: a
# new one takes the place of the old one, which a server that runs keeps open.
my $installed = "$folder/installed";
sub install { system_or_bail('cp', '-a', '--remove-destination', "$_[0]/.", $installed); return; }

# ---------------------------------------------------------------- what is in a catalog

# All that belongs to the extension, as text without OIDs.
sub catalog
{
	my ($session) = @_;

	return $session->run(q{
		WITH extension AS (SELECT * FROM pg_extension WHERE extname = 'echocache'),
		member AS (SELECT classid, objid FROM pg_depend d, extension e
			WHERE refclassid = 'pg_extension'::regclass AND refobjid = e.oid AND deptype = 'e'),
		piece AS (SELECT classid, objid FROM member
			UNION SELECT d.classid, d.objid FROM pg_depend d JOIN member m ON (refclassid, refobjid) = (m.classid, m.objid) WHERE deptype IN ('i', 'a'))
		SELECT 'extension: ' || extversion || ' ' || extrelocatable || ' ' || extnamespace::regnamespace || ' '
			|| (SELECT string_agg(c::regclass || '=' || w, ',' ORDER BY c::regclass::text) FROM unnest(extconfig, extcondition) u(c, w)) FROM extension
		UNION ALL SELECT 'member: ' || pg_describe_object(classid, objid, 0) || ', comment: ' || coalesce(obj_description(objid, classid::regclass::name), '-') FROM member
		UNION ALL SELECT 'depends: ' || pg_describe_object(d.classid, d.objid, d.objsubid) || ' ' || deptype::text || ' ' || pg_describe_object(refclassid, refobjid, refobjsubid)
			FROM pg_depend d JOIN piece p ON (d.classid, d.objid) = (p.classid, p.objid)
		UNION ALL SELECT 'function: ' || pg_get_functiondef(p.oid) || ' ' || proowner::regrole || ' ' || coalesce(proacl::text, 'default') || ' ' || proisstrict || procost || ' ' || prorows
			FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND objid = p.oid
		UNION ALL SELECT 'relation: ' || c.oid::regclass || ' ' || relkind::text || ' ' || relowner::regrole || ' ' || coalesce(relacl::text, 'default') || ' ' || coalesce(pg_get_viewdef(c.oid), '')
			|| (SELECT string_agg(format(E'\n%s %s %s %s', attname, atttypid::regtype, attnotnull, attacl), '' ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0)
			FROM pg_class c JOIN member m ON m.classid = 'pg_class'::regclass AND objid = c.oid
		UNION ALL SELECT 'index: ' || pg_get_indexdef(indexrelid) FROM pg_index JOIN member m ON m.classid = 'pg_class'::regclass AND objid = indrelid
		UNION ALL SELECT 'constraint: ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(c.oid) FROM pg_constraint c JOIN member m ON m.classid = 'pg_class'::regclass AND objid = conrelid
		UNION ALL SELECT 'trigger: ' || pg_get_triggerdef(t.oid) || ' ' || tgenabled::text FROM pg_trigger t JOIN member m ON m.classid = 'pg_class'::regclass AND objid = tgrelid
		UNION ALL SELECT 'schema: ' || nspname || ' ' || nspowner::regrole || ' ' || coalesce(nspacl::text, 'default') FROM pg_namespace n JOIN member m ON m.classid = 'pg_namespace'::regclass AND objid = n.oid
		UNION ALL SELECT 'initial rights: ' || pg_describe_object(i.classoid, i.objoid, i.objsubid) || ' ' || initprivs::text
			FROM pg_init_privs i JOIN piece p ON (i.classoid, i.objoid) = (p.classid, p.objid)
		ORDER BY 1}) =~ s/pg_toast_\d+/pg_toast_N/gr;
}

# ---------------------------------------------------------------- new files, an old server

my ($m, $m_away) = (memcached(), memcached());
my $conf = "wal_level = replica\nmax_wal_senders = 5\nmax_worker_processes = 20\nlog_statement = none\n";
my $node;
mkdir $installed;
install($ENV{DESTDIR} // die 'DESTDIR has the build that is tested');
{
	local $ENV{DESTDIR} = $installed;
	$node = new_node('main', hosts => [$m], conf => $conf);
}
my $tables = q{
	CREATE TABLE session (id bigint PRIMARY KEY, title text);
	CREATE TABLE thread (id bigint PRIMARY KEY, title text);
	CREATE TABLE message (id bigint PRIMARY KEY, thread_id bigint, body text);
	CREATE FUNCTION made(t thread) RETURNS json STABLE LANGUAGE sql AS
		$$ SELECT json_build_object('id', t.id, 'title', t.title, 'messages', (SELECT count(*) FROM public.message m WHERE m.thread_id = t.id)) $$;
	SELECT echocache_attach('session', filter => 'title <> $$hidden$$', touch_on_read => true),
		echocache_attach('thread', 'thread', document => 'made'), echocache_attach_dependent('message', 'thread_id', 'thread')};
my $s = session($node, sql => "CREATE EXTENSION echocache; $tables");
my $upgraded = q{SELECT extversion FROM pg_extension WHERE extname = 'echocache'};
my $documents = 'SELECT * FROM echocache_documents ORDER BY name';

# Test: writes reach the cache, of both documents, and all of it is what the tables have.
my $written = 0;
sub works
{
	my ($session, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$written++;
	wait_state($session, 'UP');
	$session->run(qq{UPDATE session SET title = 'write $written' WHERE id % 3 = 0;
		DELETE FROM session WHERE id = 1; INSERT INTO session VALUES (1, 'new $written');
		INSERT INTO message VALUES ($written, 1, 'x')});
	coherent($session, [$m], "$name: the rows as documents", filled => 1);
	return is($session->run(q{SELECT echocache_get('thread', 1) ->> 'messages'}), $written, "$name: a document that a function makes");
}

$s->run(q{INSERT INTO session SELECT g, 'first' FROM generate_series(1, 20) g; INSERT INTO thread VALUES (1, 'one')});
works($s, "version $version");
my $attached = $s->run($documents);

install($stage_next);
my $new = session($node);
works($new, 'new files, an old server');
$new->run('CREATE DATABASE another');
$node->safe_psql('postgres', q{ALTER DATABASE another SET echocache.key_prefix = 'another.'});
my $refused = qr/\A55000: the library of extension "echocache" has version \Q$version\E and cannot use objects of version \Q$next\E
DETAIL:  It can use those of version $major\.0 to \Q$version\E\.
HINT:  Install echocache \Q$next\E or later, and restart PostgreSQL\./;
like($new->error('ALTER EXTENSION echocache UPDATE'), $refused, 'it refuses the objects of the new version: it runs the old library');
like(session($node, dbname => 'another')->error('CREATE EXTENSION echocache'), $refused, 'in a new database as well');
is(session($node, dbname => 'another')->error("CREATE EXTENSION echocache VERSION '$version'"), 'no error', 'but not those of its own version');
is($new->run($upgraded), $version, 'a refused update leaves the version');
works($new, 'after a refused update');

# ---------------------------------------------------------------- a new library, old objects

$_->quit for $s, $new;
$node->restart;
$s = session($node);
is($s->run($upgraded), $version, 'a restart leaves the version of the objects');
works($s, 'the new library with the old objects');
is($s->run($documents), $attached, 'the attachments are the same');
my $open = session($node);
is($open->run('SELECT count(*) FROM echocache_get_sessions(ARRAY[1, 2])'), 2, 'a session reads');
is($s->error('ALTER EXTENSION echocache UPDATE'), 'no error', 'ALTER EXTENSION UPDATE');
is($s->run($upgraded), $next, 'leads to the new version');
works($_, 'the new library with the new objects') for $s, $open;
is($s->run($documents), $attached, 'the attachments are the same');
is($s->run('SELECT echocache_news() AND NOT EXISTS (SELECT FROM echocache_news)'), 't', 'what is new is there');
is($s->run('SELECT count(*) FROM echocache.outbox'), 0, 'nothing waits in the outbox');

# Each earlier version, updated, is what is made anew.
$s->run('CREATE DATABASE fresh');
$node->safe_psql('fresh', 'CREATE EXTENSION echocache');
my $fresh = catalog(session($node, dbname => 'fresh'));
cmp_ok(scalar(() = $fresh =~ /^(?:function|relation|trigger|depends): /mg), '>', 200, 'there is something to compare');
is(catalog($s), $fresh, 'the updated database has what a new one has');
for my $from (@earlier)
{
	my $to = $from =~ tr/./_/r;

	$s->run("CREATE DATABASE from_$to");
	$node->safe_psql("from_$to", "CREATE EXTENSION echocache VERSION '$from'; ALTER EXTENSION echocache UPDATE");
	is(catalog(session($node, dbname => "from_$to")), $fresh, "from version $from: the updated database has what a new one has");
	$node->safe_psql('postgres', "DROP DATABASE from_$to WITH (FORCE)");
}
$node->safe_psql('postgres', 'DROP DATABASE fresh WITH (FORCE)');

# A script that forgets the check, to a version that the library cannot use.
append_to_file("$installed$sharedir/extension/echocache--$next--9.0.sql", "-- nothing\n");
like($s->error(q{ALTER EXTENSION echocache UPDATE TO '9.0'}), qr/\A55000: .* has version \Q$next\E and cannot use objects of version 9\.0\n/,
	'an update without the check is refused in the end');
works($s, 'after that');

# ---------------------------------------------------------------- objects that are too new

$_->quit for $s, $open;
my $log = -s $node->logfile;
install($ENV{DESTDIR});
$node->restart;
$s = session($node);
like($s->error('SELECT echocache_get_session(2)'), $refused, 'an older library refuses to read');
like($s->error($_), $refused, "and to write: $_") for q{UPDATE session SET title = 'x'}, q{INSERT INTO session VALUES (77, 'x')}, 'DELETE FROM session',
	'TRUNCATE session', q{INSERT INTO message VALUES (77, 1, 'x')}, q{SELECT echocache_attach('message', 'message')};
is($s->run('SELECT count(*) FROM session'), 20, 'the table itself can be read');
is($s->error('CREATE TABLE other (id int); INSERT INTO other VALUES (1); ALTER TABLE other ADD x int; DROP TABLE other'), 'no error',
	'and other tables be written to');
wait_for('the worker to say why', sub { return slurp_file($node->logfile, $log) =~ /LOG: .* cannot use objects of version \Q$next\E/; });
is($s->run(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'echocache worker' AND datname = 'postgres'}), 0,
	'no worker brings its servers up') or diag slurp_file($node->logfile, $log);
# DDL is not seen.
is($s->error('ALTER TABLE session ADD COLUMN more text DEFAULT $$y$$'), 'no error', 'an attached table can be altered');
is($s->error('BEGIN; DROP EXTENSION echocache; UPDATE session SET id = id; ROLLBACK'), 'no error', 'the extension can be dropped');
$s->quit;

install($stage_next);
$node->restart;
$s = session($node);
works($s, 'with the right library again');

# ---------------------------------------------------------------- objects that are too old

$s->quit;
install($stage_later);
$node->restart;
$s = session($node);
my $too_old = qr/\A55000: the library of extension "echocache" has version \Q$later\E and cannot use objects of version \Q$next\E
DETAIL:  .*
HINT:  Run ALTER EXTENSION echocache UPDATE\./;
like($s->error('SELECT echocache_get_session(2)'), $too_old, 'a library of another major version refuses to read');
like($s->error(q{UPDATE session SET title = 'x'}), $too_old, 'and to write');
$open = session($node);
like($open->error('SELECT echocache_get_session(2)'), $too_old, 'in every session');
is($s->error("ALTER EXTENSION echocache UPDATE TO '$later'"), 'no error', 'ALTER EXTENSION UPDATE');
works($_, 'updated, without a restart') for $s, $open;
$_->quit for $s, $open;
$node->stop;

# ---------------------------------------------------------------- a primary and a standby of two builds

# Its own stage for each.
sub two
{
	my ($stage_primary, $stage_standby, $name) = @_;
	my ($primary, $standby);

	{
		local $ENV{DESTDIR} = $stage_primary;
		$primary = new_node("primary_$name", hosts => [ $m, $m_away ], conf => $conf);
	}
	my $p = session($primary, sql => "CREATE EXTENSION echocache VERSION '$version'; $tables;
		INSERT INTO session SELECT g, 'first' FROM generate_series(1, 200) g");
	wait_state($p, 'UP');
	coherent($p, [ $m, $m_away ], "$name: the primary", filled => 1);
	$primary->backup('backup');
	$standby = PostgreSQL::Test::Cluster->new("standby_$name");
	$standby->init_from_backup($primary, 'backup', has_streaming => 1);
	$standby->append_conf('postgresql.conf', slurp_file($standby->data_dir . '/postgresql.conf') =~ s/\Q$stage_primary\E/$stage_standby/gr);
	$standby->start;
	my $h = session($standby);
	wait_state($h, 'UP');
	return ($primary, $standby, $p, $h);
}

# Test: the standby hits what its primary has stored.
sub hits
{
	my ($primary, $standby, $p, $h, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_state($p, 'UP');
	coherent($p, [ $m, $m_away ], "$name: the primary has cached all", filled => 1);
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
	wait_state($h, 'UP');
	coherent($h, [ $m, $m_away ], "$name: the standby reads what the tables have");
	return eventually("$name: and hits", sub {
		my $hits = q{SELECT sum(hits) FROM echocache_stats WHERE name = 'session'};
		my $before = $h->run($hits);

		$h->run('SELECT count(*) FROM echocache_get_sessions(ARRAY(SELECT id FROM session))');
		return $h->run($hits) > $before;
	});
}

for my $order ([ $ENV{DESTDIR}, $stage_next, 'standby_first' ], [ $stage_next, $ENV{DESTDIR}, 'primary_first' ])
{
	my ($stage_primary, $stage_standby, $name) = @$order;

	$_->flush for $m, $m_away;
	my ($primary, $standby, $p, $h) = two(@$order);
	hits($primary, $standby, $p, $h, $name);
	# What waits for a server that is away crosses in the outbox.
	$m_away->stop;
	$p->run(q{UPDATE session SET title = 'while it is away'});
	cmp_ok($p->run('SELECT count(*) FROM echocache.outbox'), '>', 0, "$name: keys wait in the outbox");
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
	coherent($h, [$m], "$name: the standby reads nothing old meanwhile");
	$m_away->start;
	wait_state($p, 'UP');
	$p->run(q{UPDATE session SET title = 'back' WHERE id % 2 = 0});
	hits($primary, $standby, $p, $h, "$name, after a fault");

	if ($name eq 'primary_first')
	{
		# The objects are updated before the standby has the library.
		is($p->error('ALTER EXTENSION echocache UPDATE'), 'no error', "$name: the primary's objects are updated");
		$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
		like($h->error('SELECT echocache_get_session(2)'), $refused, "$name: an old standby refuses to read, also in a session that has read before");
		$h->quit;
		$standby->append_conf('postgresql.conf', slurp_file($standby->data_dir . '/postgresql.conf') =~ s/\Q$stage_standby\E/$stage_primary/gr);
		$standby->restart;
		$h = session($standby);
		hits($primary, $standby, $p, $h, "$name, restarted with the new library");
	}
	$p->quit;
	$primary->stop;
	$standby->promote;
	wait_for('the promotion', sub { return $h->run('SELECT pg_is_in_recovery()') eq 'f'; });
	wait_state($h, 'UP');
	is($h->error('ALTER EXTENSION echocache UPDATE'), 'no error', "$name: promoted, it can be updated");
	$h->run(q{UPDATE session SET title = 'promoted' WHERE id % 3 = 0});
	coherent($h, [ $m, $m_away ], "$name: promoted, it goes on", filled => 1);
	$h->quit;
	$standby->stop;
}

done_testing();
