# README's examples, in order, in one session: each gives what is written below it.
# (Those of the key/value client are with its tests.)
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
my $s = session($node, sql => '\pset null NULL
	SELECT 1');
my $readme = slurp_file("$FindBin::RealBin/../../README.md") =~ s/^## Key\/value client\n.*?^(?=## )//msr;
my $examples = 0;

for my $block ($readme =~ /^```sql\n(.*?)^```/msg)
{
	next if $block =~ /^-- not run/;
	while ($block =~ /\G((?:(?!-->).*\n)*?(?!-->).*?;[^;\n]*\n(?!\$\$))((?:-->.*\n)*)/g)
	{
		my ($sql, $expected) = ($1, $2);
		my $result = $s->attempt($sql);

		$result = 'ERROR:  ' . $s->messages =~ s/\n.*//sr unless defined $result;
		is($result, join("\n", map { s/^ //r } $expected =~ /^-->(.*)$/mg), 'README: ' . $sql =~ s/\s+/ /gr);
		wait_state($s, 'UP') if $sql =~ /CREATE EXTENSION/;
		$examples++;
	}
}
cmp_ok($examples, '>=', 50, 'README has examples');
# and a line for each function
for my $function (split /\n/, $s->run(q{SELECT DISTINCT proname FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
		JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
	WHERE extname = 'echocache' AND proname LIKE 'echocache%' AND prorettype <> 'trigger'::regtype AND proname !~ '^echocache_(kv_|flush)'}))
{
	like($readme, qr/`$function\(/, "README: $function");
}

done_testing();
