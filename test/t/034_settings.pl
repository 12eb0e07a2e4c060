# A malformed setting: the server does not start with it, a reload keeps the old value; and
# a password is never told to anybody, whatever is wrong with it.
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

my $dir = PostgreSQL::Test::Utils::tempdir();
my $right = 'tr0ub4dor-and-3';
append_to_file("$dir/users", "alice:$right\n");
chmod 0644, "$dir/users";
chmod 0755, $dir;
my $memcached = memcached(args => [ '-Y', "$dir/users" ], login => [ 'alice', $right ]);
my $node = new_node('main', hosts => [$memcached], conf => "log_statement = none\nlog_error_verbosity = verbose\n");
my $s = session($node, sql => 'CREATE EXTENSION echocache; CREATE ROLE nobody LOGIN');

#
# Each is [ setting, a malformed value, what PostgreSQL says of it ].
#
my @malformed = (
	[ enabled => 'perhaps', qr/parameter "echocache.enabled" requires a Boolean value/ ],
	[ fallback => 'never', qr/parameter "echocache.fallback" requires a Boolean value/ ],
	[ tls => 'enabled', qr/parameter "echocache.tls" requires a Boolean value/ ],
	[ tls_verify => 'some', qr/invalid value for parameter "echocache.tls_verify": "some"/ ],
	[ hosts => 'a,,b', qr/invalid value for parameter "echocache.hosts": "a,,b"/ ],
	[ ttl => '-1', qr/-1 s? ?is outside the valid range for parameter "echocache.ttl"/ ],
	[ ttl => '1 kB', qr/invalid value for parameter "echocache.ttl": "1 kB"/ ],
	[ timeout => '2min', qr/120000 ms is outside the valid range for parameter "echocache.timeout"/ ],
	[ pool_size => 'many', qr/invalid value for parameter "echocache.pool_size": "many"/ ],
	[ key_prefix => 'a b', qr/invalid value for parameter "echocache.key_prefix": "a b"/ ],
	[ username => 'a:b', qr/invalid value for parameter "echocache.username": "a:b"/ ],
	[ password => 'open sesame now', qr/invalid value for parameter "echocache.password"$/m ]);

# Lines of the log from here on.
sub logged { return substr slurp_file($node->logfile), $_[0]; }

# Have this line in the configuration file beside the others, reload, and wait for the reload.
my $conf = slurp_file($node->data_dir . '/postgresql.conf');
sub configure
{
	my ($line) = @_;
	my $file = $node->data_dir . '/postgresql.conf';

	unlink $file;
	append_to_file($file, "$conf$line\n");
	return;
}

sub reload
{
	my $before = $s->run('SELECT pg_conf_load_time()');

	configure(@_);
	$s->run('SELECT pg_reload_conf()');
	wait_for('the configuration to be read', sub { return $s->run('SELECT pg_conf_load_time()') ne $before });
	return;
}

#
# Reload.
#
my $values = q{SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name LIKE 'echocache.%'};
my $before = $s->run($values);
for my $case (@malformed)
{
	my ($name, $value, $says) = @$case;
	my $from = -s $node->logfile;

	reload("echocache.$name = '$value'");
	is($s->run($values), $before, "$name = '$value': a reload keeps what was there");
	like(logged($from), $says, 'and says so');
	is($node->safe_psql('postgres', $values), $before, 'new sessions have it, too') if $name =~ /hosts|password/;
}
reload('');

#
# Start.
#
$s->quit;
$node->stop;
for my $case (@malformed, [ fallbak => 'off', qr/invalid configuration parameter name "echocache.fallbak"/ ])
{
	my ($name, $value, $says) = @$case;
	my $from = -s $node->logfile;

	configure("echocache.$name = '$value'");
	ok(!$node->start(fail_ok => 1), "$name = '$value': the server does not start");
	like(logged($from), qr/FATAL:  (?:\w+: )?$says/, 'and says why');
}
configure('');
append_to_file($node->data_dir . '/postgresql.auto.conf', "echocache.timeout = '0'\n");
ok(!$node->start(fail_ok => 1), 'nor with one from ALTER SYSTEM');
$node->adjust_conf('postgresql.auto.conf', 'echocache.timeout', undef);
# What is right is taken, whatever the case of the name.
configure("EchoCache.Fill_Wait = '2s'");
$node->start;
$s = session($node);
is($s->run('SHOW echocache.fill_wait'), '2s', 'a setting whose name is written otherwise');

#
# Passwords: the right one, wrong ones, malformed ones, set in every way.
#
my @secrets = ($right, 'wrong-but-valid', 'open sesame now', 'guess of mine', 'guess-of-mine');
my $nobody = session($node, user => 'nobody');
my $reason = 'SELECT last_error FROM echocache_servers';

$s->run(q{ALTER SYSTEM SET echocache.username = 'alice'});
reload('');
eventually('a user name and no password', sub { return $s->run($reason) =~ /^echocache\.username is set, and no password/ });
reload("echocache.password = 'wrong-but-valid'");
eventually('a wrong password', sub { return $s->run($reason) =~ /^the server refused the user name or password/ });
reload("echocache.password = 'open sesame now'");
eventually('a malformed one: the wrong one stays', sub { return $s->run($reason) =~ /^the server refused the user name or password/ });
reload("echocache.password = '$right'");
wait_state($s, 'UP');
pass('the right password');
reload("echocache.password = 'open sesame now'");
is($s->run('SELECT echocache_connect()'), 1, 'a malformed one: the right one stays');
for my $session ($s, $nobody)
{
	for my $value ('guess of mine', 'guess-of-mine')
	{
		for my $sql ("ALTER SYSTEM SET echocache.password = '$value'", "SET echocache.password = '$value'", "SET LOCAL EchoCache.Password TO '$value'",
			qq{SET "echocache"."password" = '$value'}, "SELECT set_config('echocache.password', '$value', false)",
			"ALTER ROLE nobody SET echocache.password = '$value'", "ALTER DATABASE postgres SET echocache.password = '$value'",
			"CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET echocache.password = '$value' AS 'SELECT 1'",
			"DO \$\$ BEGIN EXECUTE 'SET echocache.password = ''$value'''; END \$\$",
			"DO \$\$ BEGIN EXECUTE 'ALTR SYSTEM SET echocache.password = ''$value'''; END \$\$",
			"ALTER SYSTEM SET echocache.password = '$value' please")
		{
			next if $session == $s && $value eq 'guess-of-mine' && $sql =~ /^ALTER SYSTEM SET \S+ = '[^']*'$/;
			my $error = $session->error($sql);

			isnt($error, 'no error', $sql);
			unlike($error =~ s/\nLINE \d+:.*//sr =~ s/^(?:CONTEXT|QUERY):.*//msr, qr/guess.of.mine/, 'the message does not repeat it');
		}
	}
}
$s->run("ALTER SYSTEM SET echocache.password = '$right'");
reload('');
is($s->run('SELECT echocache_connect()'), 1, 'the right one, by ALTER SYSTEM');
$s->run('SET force_parallel_mode = on') if $node->pg_version < 16;
$s->run('SET debug_parallel_query = on') if $node->pg_version >= 16;
is($s->run(q{SELECT current_setting('echocache.password')}), '********', 'a parallel worker shows what its leader shows');
$s->run('SELECT echocache_disconnect()');
is($s->run('SELECT echocache_connect()'), 1, 'and the password is still there');

# What is shown.
is($s->run('SHOW echocache.password'), '********', 'SHOW, as a superuser');
for my $sql ('SHOW ALL', 'SELECT * FROM pg_settings', 'SELECT name, error FROM pg_file_settings', 'SELECT * FROM pg_db_role_setting',
	'SELECT * FROM echocache_servers', 'SELECT * FROM echocache_health()')
{
	my $shown = $s->run($sql);

	is(join(' ', grep { index($shown, $_) >= 0 } @secrets), '', "$sql shows none");
}
# A restart with a malformed one.
$_->quit for $s, $nobody;
$node->stop;
configure("echocache.password = 'open sesame now'");
$node->adjust_conf('postgresql.auto.conf', 'echocache.password', undef);
ok(!$node->start(fail_ok => 1), 'a start with a malformed password');
configure("echocache.password = '$right'");
$node->start;
$s = session($node);
wait_state($s, 'UP');
is($s->run('SELECT echocache_connect()'), 1, 'and with the right one');
$s->quit;
$node->stop;
my $log = slurp_file($node->logfile);
for my $secret (@secrets)
{
	is(join("\n", grep { index($_, $secret) >= 0 } split /\n/, $log), '', "\"$secret\" is nowhere in the log");
}
unlike($log, qr/PANIC|terminated by signal/, 'nothing has crashed');
done_testing();
