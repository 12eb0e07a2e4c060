# monitoring/: as its README.md says, Debian's exporter asks a real PostgreSQL, and Debian's
# Prometheus the exporter.  Every metric is there that the rules, the console page and the Grafana
# dashboard use; the alerts are as their tests say; the page has data in its graphs, in Chromium,
# and says so when a memcached is down; the dashboard is what Grafana's schema says.
#
# EC_PICTURE=FILE makes doc/monitoring.png's original instead, of a load that takes EC_MINUTES (16):
#	EC_PICTURE=/tmp/monitoring.png bash test/run.sh monitoring
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use File::Copy;
use File::Path;
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $here = $FindBin::RealBin;
my $monitoring = "$here/../../monitoring";
my $folder = PostgreSQL::Test::Utils::tempdir();
my $etc = "$folder/prometheus";			# stands for /etc/prometheus
my $readme = slurp_file("$monitoring/README.md");
my $exporter_port = PostgreSQL::Test::Cluster::get_free_port();
my $prometheus_port = PostgreSQL::Test::Cluster::get_free_port();
my $prometheus = "http://127.0.0.1:$prometheus_port";
my %server;				# what runs, by name: ended when the test ends

END
{
	my $exit_code = $?;

	$_->kill_kill for values %server;
	$? = $exit_code;
}

# Start a program that stays; its log is shown if it does not.
sub start
{
	my ($name, @command) = @_;
	my $log = "$PostgreSQL::Test::Utils::log_path/$name.log";

	$server{$name} = IPC::Run::start(\@command, '<', '/dev/null', '>', $log, '2>&1');
	return;
}

# What a program says, and whether it ended well; it has two minutes.
sub run_program
{
	my (@command) = @_;
	my $out = '';
	my $done = eval { IPC::Run::run(\@command, '<', '/dev/null', '>', \$out, '2>&1', IPC::Run::timeout(120)) };

	return ($done, $out . ($@ // ''));
}

sub program_ok
{
	my ($name, @command) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($done, $out) = run_program(@command);

	return ok($done, $name) || diag($out);
}

sub get
{
	my ($url, %query) = @_;
	my $http = HTTP::Tiny->new(timeout => 20);
	my $answer = $http->get($url . (%query ? '?' . $http->www_form_urlencode(\%query) : ''));

	return $answer->{success} || $url =~ /api/ ? $answer->{content} : undef;
}

# Prometheus' API: data, or the test dies.
sub api
{
	my ($path, %query) = @_;
	my $answer = get("$prometheus/api/v1/$path", %query);
	my $json = eval { decode_json($answer) } or die "$path: $answer";

	die "$path " . join(' ', %query) . ": $json->{error}" if $json->{status} ne 'success';
	return $json->{data};
}

sub query { return api('query', query => $_[0])->{result}; }

# The names of metrics in expressions, without those that rules record.
sub metrics
{
	my %names = map { $_ => 1 } map { /\b(echocache_\w+)/g } @_;

	return sort keys %names;
}

# Test: Prometheus has, sooner or later, every metric of these expressions.
sub has_metrics
{
	my ($name, @expressions) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @wanted = metrics(@expressions);
	my @missing;

	ok(@wanted > 0, "$name: metrics are used");
	return ok(eval { wait_for($name, sub {
		my %there = map { $_ => 1 } @{ api('label/__name__/values') };

		return !(@missing = grep { !$there{$_} } @wanted);
	}); 1 }, "$name: all of them are there") || diag("missing: @missing");
}

# The console page as Chromium has it after a while.
sub page
{
	my ($query, @more) = @_;
	my $profile = PostgreSQL::Test::Utils::tempdir();
	local $ENV{HOME} = $profile;

	my ($done, $html) = run_program('chromium', '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
		'--hide-scrollbars', "--user-data-dir=$profile", '--window-size=1920,1080', '--virtual-time-budget=10000', @more ? @more : '--dump-dom',
		"$prometheus/consoles/echocache.html?$query");
	diag($html) unless $done;
	return $html;
}

# The shell blocks of the README that have this in them.
sub block
{
	my ($pattern) = @_;
	my ($found) = grep { /$pattern/ } $readme =~ /^```sh\n(.*?)^```$/gms;

	return $found // die "README.md has no block with $pattern";
}

#
# The files by themselves.
#
program_ok('the rules are valid', 'promtool', 'check', 'rules', "$monitoring/rules.yml");
program_ok('alerts fire when they should', 'promtool', 'test', 'rules', "$monitoring/rules_test.yml");
my $rules = slurp_file("$monitoring/rules.yml");
my $rules_test = slurp_file("$monitoring/rules_test.yml");
for my $alert ($rules =~ /alert: (\w+)/g)
{
	my @cases = $rules_test =~ /alertname: $alert\n +eval_time: \w+\n +exp_alerts:(.*)/g;

	ok((grep { $_ eq '' } @cases) && (grep { $_ eq ' []' } @cases), "$alert: is tested to fire and not to fire");
	like($readme, qr/^\| `$alert` \| @{[ $rules =~ m{alert: $alert\n.*?severity: (\w+)}s ]} \|/m, "$alert: is in the README");
}

# Grafana's schema: npm has it as TypeScript's types.
my $dashboard_text = slurp_file("$monitoring/grafana-dashboard.json");
my $dashboard = decode_json($dashboard_text);
my $types = "$folder/types";
mkdir $types or die $!;
copy("$here/$_", $types) or die $! for 'package.json', 'package-lock.json';
append_to_file("$types/dashboard.ts", slurp_file("$here/dashboard.ts") . "const dashboard: Checked = $dashboard_text;\nexport default dashboard;\n");
my ($installed, $npm) = run_program('npm', '--prefix', $types, 'ci', '--ignore-scripts', '--no-audit', '--no-fund',
	'--no-update-notifier', '--cache', "$folder/npm-cache", '--fetch-retry-mintimeout=1000', '--fetch-retry-maxtimeout=5000');
ok($installed, q{Grafana's schema is installed, from npm, whose registry must be within reach}) || diag($npm);
my @tsc = ('node', "$types/node_modules/typescript/bin/tsc", '--noEmit', '--strict', '--skipLibCheck',
	'--module', 'esnext', '--moduleResolution', 'bundler', '--target', 'esnext');
program_ok('the dashboard is as the schema says', @tsc, "$types/dashboard.ts");
append_to_file("$types/wrong.ts", slurp_file("$types/dashboard.ts") =~ s/"colorMode": "value"/"colorMode": "valu"/r);
ok(!(run_program(@tsc, "$types/wrong.ts"))[0], 'which would notice a value that Grafana does not know');
my %ids = map { $_->{id} => 1 } @{ $dashboard->{panels} };
is(scalar keys %ids, scalar @{ $dashboard->{panels} }, 'each panel of it has an id of its own');

#
# Two databases of a PostgreSQL, two memcacheds, the exporter and Prometheus, as the README says.
#
my @memcached = map { memcached() } 1 .. 2;
my $node = new_node('main', hosts => \@memcached, conf => <<'CONF');
echocache.local_memory = 8MB
echocache.audit_rate = 20
log_statement = none
max_worker_processes = 20
CONF
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('postgres', 'CREATE DATABASE library');
$node->safe_psql('postgres', q{ALTER DATABASE library SET echocache.key_prefix = 'library.'});
my $shop = session($node, dbname => 'shop', sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE orders (id bigint PRIMARY KEY, status text, total numeric(9,2), note text);
	CREATE TABLE product (id bigint PRIMARY KEY, title text, price numeric(9,2), text text);
	CREATE TABLE basket (id bigint PRIMARY KEY, customer bigint, at timestamptz DEFAULT now());
	CREATE FUNCTION basket_document(basket) RETURNS json LANGUAGE sql STABLE AS $$ SELECT json_build_object('id', $1.id, 'at', $1.at) $$;
	INSERT INTO orders SELECT g, 'new', g % 900, repeat('note ', 50) FROM generate_series(1, 20000) g;
	INSERT INTO product SELECT g, 'product ' || g, g % 400, repeat('text ', 250) FROM generate_series(1, 3000) g;
	INSERT INTO basket SELECT g, g FROM generate_series(1, 5000) g;
	SELECT echocache_attach('orders', 'orders'), echocache_attach('product', 'product')});
my $library = session($node, dbname => 'library', sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE book (id bigint PRIMARY KEY, title text);
	INSERT INTO book SELECT g, 'book ' || g FROM generate_series(1, 1000) g;
	SELECT echocache_attach('book', 'book')});
$shop->run(q{SELECT echocache_attach('basket', 'basket', document => 'basket_document')});
wait_state($_, 'UP') for $shop, $library;

# The role, by the README's own command.
my @role = block('CREATE ROLE') =~ /-c "([^"]+)"/g;
$shop->run($_) for @role;
is($shop->run(q{SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls FROM pg_roles WHERE rolname = 'prometheus'}),
	'f', 'the role of the exporter has no power of its own');
is($shop->run(q{SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
		WHERE (nspname = 'echocache' OR relname IN ('orders', 'product', 'basket')) AND relkind IN ('r', 'p')
			AND has_table_privilege('prometheus', c.oid, 'SELECT')}),
	'0', 'and sees neither the outbox nor a table');

mkdir $etc or die $!;
mkdir "$etc/consoles" or die $!;
copy("$monitoring/$_", "$etc/$_") or die $! for 'queries.yaml', 'rules.yml', 'consoles/echocache.html';

# DATA_SOURCE_NAME and ARGS of a block, here.
sub here
{
	my ($text) = @_;
	my ($host, $port) = ($node->host, $node->port);

	$text =~ s{/etc/prometheus}{$etc}g;
	$text =~ s{host=/run/postgresql dbname}{host=$host port=$port dbname}g;
	$text =~ s{localhost:9187}{127.0.0.1:$exporter_port}g;
	return $text =~ s{scrape_interval: 15s}{scrape_interval: 2s\n  query_log_file: $folder/queries.log}r
	  =~ s{evaluation_interval: 15s}{evaluation_interval: 2s}r;
}

sub start_exporter
{
	my ($text) = @_;
	my ($name) = here($text) =~ /^DATA_SOURCE_NAME='(.*)'$/m;
	my ($args) = here($text) =~ /^ARGS='(.*)'$/m;
	local $ENV{DATA_SOURCE_NAME} = $name;

	delete($server{exporter})->kill_kill if $server{exporter};
	start('exporter', 'prometheus-postgres-exporter', "--web.listen-address=127.0.0.1:$exporter_port",
		$args ? split ' ', $args : "--extend.query-path=$etc/queries.yaml");
	wait_for('the exporter', sub { return defined get("http://127.0.0.1:$exporter_port/metrics"); });
	return;
}

# What the exporter says of the databases, and whether a query of it failed.
sub exporter_sees
{
	my $metrics = get("http://127.0.0.1:$exporter_port/metrics") // '';
	my %databases = map { $_ => 1 } $metrics =~ /^echocache_document_cached\{datname="(\w+)"/mg;
	my ($error) = $metrics =~ /^pg_exporter_last_scrape_error (\d)/m;

	return join(' ', sort keys %databases) . ($error ? ', with errors' : '');
}

start_exporter(block('cat >>'));
is(exporter_sees(), 'shop', 'one database is measured');
start_exporter(block('auto-discover'));
is(exporter_sees(), 'library shop', 'so are two, which the exporter finds');

# What it costs.
$shop->run(q{ALTER ROLE prometheus SET log_min_duration_statement = 0});
start_exporter(block('cat >>') =~ s/ARGS='/ARGS='--disable-default-metrics --disable-settings-metrics --no-collector.database --no-collector.bgwriter /r);
my $log_begin = -s $node->logfile;
exporter_sees();
my $statements = slurp_file($node->logfile, $log_begin);
my @durations = $statements =~ /duration: ([\d.]+) ms  statement: SELECT pg_catalog\.current_database\(\) AS datname, (?!size)/g;
is(scalar @durations, 4, 'a scrape is four queries, and a fifth once a minute');
note "milliseconds: @durations";
$shop->run(q{ALTER ROLE prometheus RESET log_min_duration_statement});
start_exporter(block('auto-discover'));

my ($yaml) = block('scrape_configs') =~ /^cat >\S+prometheus.yml <<'END'\n(.*?)^END$/ms;
append_to_file("$etc/prometheus.yml", here($yaml));
program_ok('the configuration is valid', 'promtool', 'check', 'config', "$etc/prometheus.yml");
start('prometheus', 'prometheus', "--config.file=$etc/prometheus.yml", "--storage.tsdb.path=$folder/tsdb",
	"--web.listen-address=127.0.0.1:$prometheus_port", "--web.console.templates=$etc/consoles", "--web.console.libraries=$etc/consoles");
wait_for('Prometheus', sub { return defined get("$prometheus/-/ready"); });

#
# The picture.
#
sub pgbench
{
	my ($name, $rate, $minutes, $sql) = @_;

	append_to_file("$folder/$name.sql", $sql);
	start($name, 'pgbench', '-n', '-h', $node->host, '-p', $node->port, '-c', 2, '-R', $rate, '-T', 60 * $minutes, '-f', "$folder/$name.sql", 'shop');
	return;
}

sub picture
{
	my ($file) = @_;
	my $minutes = $ENV{EC_MINUTES} || 16;

	pgbench('reads', 120, $minutes, <<'SQL');
\set order random_zipfian(1, 20000, 1.1)
\set product random_zipfian(1, 3000, 1.05)
\set basket random(1, 5000)
SELECT echocache_get('product', :product), echocache_get('product', 1 + :order % 3000);
SELECT echocache_get('orders', :order), echocache_get('basket', :basket);
SQL
	pgbench('writes', 9, $minutes, <<'SQL');
\set order random_zipfian(1, 20000, 1.05)
\set basket random(1, 5000)
UPDATE orders SET total = total + 1 WHERE id = :order;
UPDATE basket SET at = now() WHERE id = :basket;
UPDATE product SET price = price + 1 WHERE id = 1 + :order % 3000;
SQL
	sleep(60 * $minutes * 0.45);
	$memcached[1]->stop;
	sleep(60 * $minutes * 0.2);
	$memcached[1]->start;
	sleep(60 * $minutes * 0.27);
	page('range=900', "--screenshot=$file");
	ok(-s $file, "$file is made");
	return;
}

if ($ENV{EC_PICTURE})
{
	picture($ENV{EC_PICTURE});
	done_testing();
	exit;
}

#
# Something to measure: hits of both kinds, fills, commits.
#
my $next_id = 1;

sub some_load
{
	for (1 .. 3)
	{
		# a fill and shared memory; what a commit has stored, which memcached alone has
		$shop->run("SELECT echocache_get('orders', $next_id)") for 1 .. 3;
		$shop->run("INSERT INTO product VALUES (100000 + $next_id, 'new'); SELECT echocache_get('product', 100000 + $next_id)");
		$shop->run("UPDATE orders SET total = total + 1 WHERE id = $next_id; UPDATE basket SET at = now() WHERE id = $next_id");
		$library->run("SELECT echocache_get('book', $next_id)") for 1 .. 2;
		$next_id++;
		sleep(0.5);
	}
	return;
}

some_load();

#
# Every metric that is used is there.
#
my @columns = slurp_file("$monitoring/queries.yaml") =~ /^(\w+):\n(.*?)(?=^\w|\z)/gms;
while (my ($namespace, $text) = splice @columns, 0, 2)
{
	my @metrics = map { "${namespace}_$_" } $text =~ /^    - "?(\w+)"?: \{usage: (?:GAUGE|COUNTER)/mg;

	push @metrics, map { "${namespace}_${_}_bucket ${namespace}_${_}_sum ${namespace}_${_}_count" } $text =~ /^    - (\w+): \{usage: HISTOGRAM/mg;
	has_metrics("queries.yaml, $namespace", @metrics);
}
my @rules = map { @{ $_->{rules} } } @{ api('rules')->{groups} };
is(scalar @rules, scalar(() = $rules =~ /^ +- (?:alert|record): /mg), 'Prometheus has all rules');
has_metrics('rules.yml', map { $_->{query} } @rules);
eventually('and evaluates them', sub {
	return !grep { $_->{health} ne 'ok' } map { @{ $_->{rules} } } @{ api('rules')->{groups} };
});
for my $rule (grep { $_->{type} eq 'recording' } @rules)
{
	eventually("rules.yml: $rule->{name} has values", sub { return @{ query($rule->{name}) } > 0 || (some_load(), 0)[1]; });
}

my @expressions = map { $_->{expr} } map { @{ $_->{targets} } } @{ $dashboard->{panels} };
has_metrics('grafana-dashboard.json', @expressions);
for my $expression (@expressions)
{
	my $asked = $expression =~ s/\$__(?:rate_interval|range)\b/1m/gr =~ s/\$(?:instance|database)\b/.*/gr;

	eventually('grafana-dashboard.json: there is something for ' . substr($expression, 0, 60), sub { return @{ query($asked) } > 0; });
}

#
# The page.  Two minutes of data are enough for its rates, and a few seconds for a line.
#
sub graphs
{
	my ($html) = @_;
	my %graphs;

	while ($html =~ /id="(\w+)"><svg(.*?)<\/svg>/gs)
	{
		my ($id, $svg) = ($1, $2);
		my %points;

		$points{$1} += $2 while $svg =~ /class="serie" data-name="([^"]+)" data-points="(\d+)"/g;
		$graphs{$id} = \%points;
	}
	return \%graphs;
}

my ($html, $graphs);

# Test: the page comes to be so.  A busy machine's Chromium takes its time.
sub shows
{
	my ($name, $query, $code) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	local $EchoCache::patience = 300;

	return eventually($name, sub {
		some_load();
		# what it shows, not what it is made by
		$html = page($query) =~ s{<script>.*?</script>}{}sr =~ s{\A.*?<!DOCTYPE}{<!DOCTYPE}sr;
		return $html =~ /data-ready="yes"/ && $code->();
	}) || diag($html);
}

my $queries_begin = -s "$folder/queries.log";
shows('the page has data in all its graphs', 'range=900', sub {
	my @kinds = ('commit waits', 'fill from the table', 'memcached', 'shared memory', 'store');

	$graphs = graphs($html);
	return join(' ', sort keys %$graphs) eq 'changes latency reads'
	  && join(', ', sort keys %{ $graphs->{reads} }) eq 'memcached, shared memory, the table'
	  && join(', ', sort keys %{ $graphs->{latency} }) eq join(', ', @kinds)
	  && !grep { $_ < 3 } map { values %$_ } values %$graphs;
}) || diag(explain($graphs));
# What it has asked is in Prometheus' log of queries, with what rules have.
my @asked = map { $_->{params}->{query} } grep { !$_->{ruleGroup} }
  map { decode_json($_) } grep { /\}$/ } split /\n/, slurp_file("$folder/queries.log", $queries_begin);
has_metrics('echocache.html', @asked);
is(scalar(() = $html =~ /data-state="UP"/g), 2, 'both servers are UP');
is_deeply([ sort $html =~ /data-document="(\w+)"/g ], [qw(basket book orders product)], 'all documents of both databases');
like($html, qr/id="verdict"[^>]*><b>All well</, 'all is well');
unlike($html, qr/NaN|undefined|Infinity/, 'nothing is not a number');
shows('one database alone can be looked at', "range=900&database=127.0.0.1:$exporter_port/library", sub {
	return join(' ', $html =~ /data-document="(\w+)"/g) eq 'book';
});
shows('it does not look well when there is nothing to see', 'range=900&database=127.0.0.1:1/nowhere', sub {
	return $html =~ /id="verdict"[^>]*><b>No data</;
});

#
# A memcached that goes away is seen, and told by an alert.
#
$memcached[1]->stop;
wait_state($shop, 'DOWN', $memcached[1]);
my $down = $memcached[1]->address;
{
	local $EchoCache::patience = 300;
	eventually('the alert fires', sub {
		return grep { $_->{labels}->{alertname} eq 'EchocacheServerDown' && $_->{state} eq 'firing'
			  && $_->{labels}->{memcached} eq $down && $_->{annotations}->{summary} eq "memcached $down is DOWN" }
		  @{ api('alerts')->{alerts} };
	});
}
shows('the page says so', 'range=900', sub { return $html =~ /id="verdict"[^>]*><b>Degraded<.*<li>memcached \Q$down\E is DOWN/s; });
like($html, qr/data-state="DOWN"><span>\Q$down\E</, 'and which server it is');

done_testing();
