# What is too large for memcached anyway costs a commit neither time nor memory, and does not fail
# it.
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
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE huge (id int PRIMARY KEY, n int, body text, doc jsonb, raw bytea);
	INSERT INTO huge SELECT g, 0, repeat('x', 20000000) FROM generate_series(1, 4) g;
	INSERT INTO huge SELECT g, 0, NULL, jsonb_build_object('x', repeat('x', 20000000)) FROM generate_series(5, 8) g;
	INSERT INTO huge SELECT g, 0, NULL, NULL, convert_to(repeat('x', 20000000), 'UTF8') FROM generate_series(9, 12) g;
	INSERT INTO huge VALUES (13, 0, repeat('x', 600000), '{}', ''), (14, 0, '', jsonb_build_object('x', repeat('x', 600000)), '');
	SELECT echocache_attach('huge', 'huge')});

# The most memory that the session's backend has had, in kB.
sub peak { return slurp_file('/proc/' . $_[0]->pid . '/status') =~ /^VmHWM:\s+(\d+) kB/m ? $1 : die; }

wait_state($s, 'UP');
my $light = session($node);
$light->run('UPDATE huge SET n = 1 WHERE id > 12');
my $before = peak($light);
$light->run('UPDATE huge SET n = n + 1 WHERE id <= 12');
cmp_ok(peak($light) - $before, '<', 20000, 'a commit of rows of 20 MB takes no memory for them (kB)');
holds($memcached, "huge:$_", $s->run("SELECT row_to_json(huge) FROM huge WHERE id = $_"), "what memcached takes is written through: row $_") for 13, 14;
invalidated($memcached, "huge:$_", "what it does not is not there: row $_") for 1, 5, 9;
is($s->run(q{SELECT length(echocache_get('huge', 1) ->> 'body')}), 20000000, 'and is read');
is($s->error(q{UPDATE huge SET body = repeat('x', 600000000) WHERE id = 13}), 'no error', 'a value of 600 MB commits');
invalidated($memcached, 'huge:13', 'and takes the old document out of the cache');

$_->quit for $s, $light;
$node->stop;
done_testing();
