# echocache_report(): one text that says what is attached, whether it is cached and why not, how
# the servers are, and what is to be done about each.  It says "All is well." if nothing is.
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

my ($a, $b) = (memcached(), memcached());
my $node = new_node('main', hosts => [ $a, $b ], conf => "echocache.local_memory = '4MB'\n");
my $s = session($node, sql => q{CREATE EXTENSION echocache});

# The report, without line breaks to speak of.
sub report { return $s->run('SELECT echocache_report()'); }

# Test: the report has a line with this, and what to do about it.
sub finds
{
	my ($line, $todo, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return like(report(), qr/^! $line[^\n]*\n    -> [^\n]*$todo/m, $name);
}

finds('No table is attached\.', 'echocache_attach', 'nothing is attached');
$s->run(q{CREATE TABLE item (id int PRIMARY KEY, v text); INSERT INTO item SELECT g, 'x' FROM generate_series(1, 20) g;
	CREATE TABLE other (id int PRIMARY KEY); SELECT echocache_attach('item', 'item'), echocache_attach('other', 'other')});
wait_state($s, 'UP');
$s->run(q{SELECT echocache_get('item', g) FROM generate_series(1, 20) g, generate_series(1, 5)});
$s->run(q{UPDATE item SET v = 'y' WHERE id = 1});

#
# Nothing is wrong.
#
my $well = report();
like($well, qr/^echocache 1\.0, database "postgres", \d{4}-\d\d-\d\d[^\n]*\nAll is well\.\n/, 'it begins with the verdict');
unlike($well, qr/^!|->/m, 'nothing is to be done');
like($well, qr/^  item: 80\.0 % of 100 reads by SQL answered by the cache \(shared memory 80\.0 %, memcached 0\.0 %\)$/m, 'reads, by who answers');
like($well, qr/^  other: no reads by SQL yet$/m, 'none yet');
like($well, qr/^  \Q${\$_->address}\E: UP since \d{4}-[^\n]*\d$/m, 'a server') for $a, $b;
like($well, qr/^  reads of the table: half within [\d.]+ ms, 99 % within [\d.]+ ms, at most [\d.]+ ms; 20 timed \(fill of item\)$/m, 'how long a miss takes');
like($well, qr/^  commits that invalidate: [^\n]*; \d+ timed \(marker of item\)$/m, 'and a commit');
like($well, qr/^  The auditor is off: echocache\.audit_rate is 0\.$/m, 'the auditor');
like($well, qr/^  shared memory: [^\n]* used by 20 documents$/m, 'shared memory');
is($well =~ tr/\n//, () = $well =~ /^(?:echocache|All|Documents|Servers|Slowest|Auditor|Memory|  |$)/mg, 'that is all there is');

#
# Documents.
#
$s->run(q{ALTER TABLE other DISABLE TRIGGER ALL});
finds('other: not cached, since [^\n]+', 'Mend that', 'a document that is not cached, and why');
like(report(), qr/^One thing is to be looked at: it has a "!"\.$/m, 'the verdict has the number');
$s->run(q{ALTER TABLE other ENABLE TRIGGER ALL});
like(report(), qr/^All is well\.$/m, 'mended');
$s->run(q{SELECT echocache_get('item', -g) FROM generate_series(1, 1000) g});
finds('item: 7\.\d % of 1,100 reads', 'misses 1020', 'a document that the cache seldom has');
$s->run(q{SELECT echocache_stats_reset()});
like(report(), qr/^All is well\.$/m, 'from now on');
$s->run(q{CREATE TABLE made (id int PRIMARY KEY); CREATE FUNCTION make(made) RETURNS json LANGUAGE plpgsql AS
	$$ BEGIN IF $1.id = 1 THEN RAISE 'no'; END IF; RETURN row_to_json($1); END $$;
	SELECT echocache_attach('made', 'made', document => 'make'); INSERT INTO made VALUES (1)});
wait_for('the builder to fail', sub { return $s->run(q{SELECT build_errors FROM echocache_stats WHERE name = 'made'}) > 0; });
finds('made: 1 documents? could not be built', 'log', 'a document whose function fails');
$s->run(q{SELECT echocache_detach('made')});

#
# Servers.
#
$b->stop;
$s->attempt("SELECT echocache_get('other', $_)") for 1 .. 50;
wait_state($s, 'DOWN', $b);
finds("\Q${\$b->address}\E: DOWN since [^\n]*, could not connect[^\n]*", 'read from the table', 'a server that is down, and why');
$s->run(q{INSERT INTO other SELECT generate_series(1, 50)});
like(report(), qr/^! \Q${\$b->address}\E: DOWN since [^\n]*; \d+ entries in the outbox$/m, 'what waits for it');
$b->start;
wait_state($s, 'UP');
like(report(), qr/^All is well\.$/m, 'back');

#
# Settings.
#
setting($s, 'echocache.max_write_through' => 1000);
finds('max_locks_per_transaction is 64, echocache\.max_write_through 1000', 'raise the former', 'more documents than locks');
setting($s, 'echocache.max_write_through' => 64);
$s->run(q{CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id)});
$s->run("CREATE TABLE part$_ PARTITION OF part FOR VALUES FROM ($_) TO (" . ($_ + 1) . ')') for 1 .. 65;
$s->run(q{SELECT echocache_attach('part', 'part')});
finds('max_locks_per_transaction is 64, and public\.part has 65 partitions', 'raise it', 'more partitions than locks');
$s->run(q{SELECT echocache_detach('part')});
setting($s, 'echocache.enabled' => 'off');
finds('The cache is off', 'echocache\.enabled = on', 'the cache is off');
setting($s, 'echocache.enabled' => 'on');
wait_state($s, 'UP');

#
# Who may ask, and whose code runs.
#
$s->run(q{CREATE ROLE monitor LOGIN IN ROLE pg_monitor; CREATE ROLE nobody LOGIN;
	CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC; CREATE TABLE ran (who text); GRANT ALL ON ran TO PUBLIC;
	CREATE FUNCTION evil.format(text, text, text) RETURNS text LANGUAGE sql AS $$ INSERT INTO public.ran VALUES ('format'); SELECT '' $$;
	CREATE FUNCTION evil.eq(text, text) RETURNS bool LANGUAGE sql AS $$ INSERT INTO public.ran VALUES ('='); SELECT true $$;
	CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
	CREATE VIEW evil.pg_settings AS SELECT 'evil'::text AS name, 'evil'::text AS setting});
my $monitor = session($node, user => 'monitor');
my $text = qr/^echocache 1\.0, database "postgres"[^\n]*\nAll is well\.$/m;
like($monitor->run('SELECT echocache_report()'), $text, 'pg_monitor may ask');
$s->run(q{SET search_path = evil, pg_catalog, public});
like(report(), $text, 'with another search_path');
$s->run(q{CREATE TEMP VIEW pg_settings AS SELECT 'evil'::text AS name, 'evil'::text AS setting; SET search_path = pg_temp, evil, pg_catalog, public});
like(report(), $text, 'with objects in pg_temp');
$s->run('RESET search_path');
is($s->run('SELECT count(*) FROM ran'), 0, 'nobody else\'s code runs');
my $nobody = session($node, user => 'nobody');
like($nobody->error('SELECT echocache_report()'), qr/^42501: permission denied for function echocache_report/, 'others may not');

$_->quit for $s, $monitor, $nobody;
done_testing();
