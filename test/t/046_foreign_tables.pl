# Documents that are made of foreign tables, by a function or for a filter: the builder makes
# them.  At a commit a wrapper's own transaction would come too late, which is a PANIC.
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
my $s = session($node, sql => q{CREATE EXTENSION echocache; CREATE EXTENSION postgres_fdw});
my $host = $node->host;
my $port = $node->port;
my $log = -s $node->logfile;

# The server is this very one.
$s->run(qq{
	CREATE SERVER self FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER self;
	CREATE TABLE far (id int PRIMARY KEY, v text);
	INSERT INTO far VALUES (1, 'from afar');
	CREATE FOREIGN TABLE simple (id int, v text) SERVER self OPTIONS (table_name 'far');
	CREATE FOREIGN TABLE estimated (id int, v text) SERVER self OPTIONS (table_name 'far', use_remote_estimate 'true');
	CREATE VIEW shown AS SELECT * FROM simple;
	CREATE TABLE parts (id int, v text) PARTITION BY RANGE (id);
	CREATE FOREIGN TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10) SERVER self OPTIONS (table_name 'far', use_remote_estimate 'true')});
wait_state($s, 'UP');

for my $far (qw(simple estimated shown parts))
{
	my $document = qq({"id" : 1, "n" : %d, "far" : "from afar"});

	$s->run(qq{
		CREATE TABLE of_$far (id int PRIMARY KEY, n int);
		CREATE FUNCTION make_$far(r of_$far) RETURNS json STABLE LANGUAGE plpgsql AS \$\$
			BEGIN RETURN json_build_object('id', r.id, 'n', r.n, 'far', (SELECT v FROM public.$far f WHERE f.id = r.id)); END \$\$;
		SELECT echocache_attach('of_$far', 'of_$far', document => 'make_$far')});
	for my $when ('before anything is planned', 'with a plan that is kept')
	{
		my $writer = session($node);
		my $n = $when =~ /kept/ ? 2 : 1;

		if ($n == 2) { $writer->run("SELECT echocache_refresh('of_$far', 1)") for 1 .. 7; }
		is($writer->error($n == 1 ? "INSERT INTO of_$far VALUES (1, 1)" : "UPDATE of_$far SET n = 2"), 'no error', "$far, $when: a commit");
		is($writer->messages, '', 'which says nothing');
		await_builder($s);
		holds($memcached, "of_$far:1", sprintf($document, $n), 'and the builder makes the document');
		is($s->run("SELECT echocache_get('of_$far', 1)"), sprintf($document, $n), 'which is read');
		$writer->quit;
	}
}

# A filter, and a function that does not let on.
$s->run(q{
	CREATE TABLE filtered (id int PRIMARY KEY, n int);
	CREATE FUNCTION is_far(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN EXISTS (SELECT FROM public.simple WHERE id = $1); END $$;
	SELECT echocache_attach('filtered', 'filtered', filter => 'is_far(id)');
	CREATE TABLE quiet (id int PRIMARY KEY, n int);
	CREATE FUNCTION make_quiet(r quiet) RETURNS json STABLE LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM v FROM public.simple;
			RETURN json_build_object('id', r.id, 'far', true);
		EXCEPTION WHEN OTHERS THEN
			RETURN json_build_object('id', r.id, 'far', false);
		END $$;
	SELECT echocache_attach('quiet', 'quiet', document => 'make_quiet')});
is($s->error('INSERT INTO filtered VALUES (1, 1), (2, 2)'), 'no error', 'a filter that reads a foreign table: a commit');
is($s->run(q{SELECT echocache_get('filtered', 1), echocache_get('filtered', 2)}), '{"id":1,"n":1}|', 'and reads');
is($s->error('INSERT INTO quiet VALUES (1, 1)'), 'no error', 'a function that catches the error: a commit');
# One that reads it in the transaction as well, so that the wrapper's callback is there.
is($s->error('BEGIN; SELECT * FROM simple; UPDATE of_simple SET n = 3; COMMIT'), 'no error', 'a transaction that reads foreign tables');
is($s->run(q{SELECT echocache_get('of_simple', 1)}), '{"id" : 1, "n" : 3, "far" : "from afar"}', 'and its document');
unlike(slurp_file($node->logfile, $log), qr/PANIC|was terminated by signal/, 'nothing has crashed');

$s->quit;
$node->stop;
done_testing();
