# README.md and doc/: every fenced block is executed, or is of a kind that cannot be; an owner
# who is no superuser gets from the installation to a cached row by what README says, and out
# again by what doc/upgrading.md says; every function, column and setting has its entry.
#
# What a block is, its first line says:
#   sql      Run in one session of a superuser, in a database of the page's own; or, after a line
#            "-- as ROLE, in the database NAME", in a new session of that role.  Lines that begin
#            with "-->" are what the statement before them returns.
#   sh       Run by bash in a copy of the source, with a sudo, an apt-get and an nc that do no harm.
#   console  Commands after "$ ", and what they print.
#   ini      Lines of postgresql.conf.
#   text     Not run: a drawing, or what another machine is needed for.
#   c, go, js, perl, php, python, ruby: test/clients/clients.pl has them.
#   yaml     test/neighbours/patroni.pl runs it.
# A line "<!-- test: CONDITION -->" before a block says what holds while it is run.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::RealBin/../..";
my @pages = map { s{^\Q$root\E/}{}r } glob "$root/doc/*.md";
my %text = map { $_ => slurp_file("$root/$_") } 'README.md', 'CHANGELOG.md', @pages;
my $memcached = memcached();
my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
my $stage = PostgreSQL::Test::Utils::tempdir() . '/stage';
my $source = PostgreSQL::Test::Utils::tempdir() . '/source';
my $shims = PostgreSQL::Test::Utils::tempdir() . '/bin';
my %statements;					# of a page: what was run
my $node;
my $s;							# the session of a page

# Put an executable bash script into the folder that comes first in the path.
sub shim
{
	my ($name, $script) = @_;

	append_to_file("$shims/$name", "#!/bin/bash\n$script\n");
	chmod 0755, "$shims/$name";
	return;
}

# Run a script by bash in the copy of the source; returns what it prints and its status.
sub bash
{
	my ($script) = @_;
	local $ENV{PATH} = "$shims:" . dirname(`$pg_config --bindir` =~ s/\n//r . '/x') . ":$ENV{PATH}";
	local $ENV{DESTDIR} = $stage;
	local $ENV{MAKEFLAGS} = '-- with_llvm=no';	# which takes minutes, and is not README's
	local $ENV{PGHOST} = $node ? $node->host : '';
	local $ENV{PGPORT} = $node ? $node->port : '';
	local $ENV{LC_ALL} = 'C.UTF-8';

	append_to_file("$shims/script", "set -e\ncd '$source'\n$script");
	my $output = `bash '$shims/script' 2>&1 </dev/null`;
	my $status = $?;
	unlink "$shims/script";
	return ($output, $status);
}

# ---------------------------------------------------------------- the kinds of blocks

# A block's statements, each with what it returns; the page's session if it names no role.
sub run_sql
{
	my ($page, $block) = @_;
	my ($role, $database) = $block =~ /\A-- as (a superuser|\w+), in the database (\w+)\n/;
	my $session = !defined $role ? $s : session($node, dbname => $database, sql => '\pset null NULL',
		$role eq 'a superuser' ? () : (user => $role));

	while ($block =~ /\G((?:(?!-->).*\n)*?(?!-->).*?;[^;\n]*\n(?!\$\$))((?:-->.*\n)*)/gc)
	{
		my ($sql, $expected) = ($1, $2);
		my $result = $session->attempt($sql);

		$result = 'ERROR:  ' . $session->messages =~ s/\n.*//sr unless defined $result;
		# as the reader has the server
		$result =~ s/\Q${\$memcached->address}\E/localhost:11211/g;
		is($result, join("\n", map { s/^ //r } $expected =~ /^-->(.*)$/mg), "$page: " . $sql =~ s/\s+/ /gr);
		wait_up($database) if $sql =~ /CREATE EXTENSION/;
		$statements{$page} .= $sql;
	}
	is(substr($block, pos($block) // 0), '', "$page: nothing of the block is left out");
	$session->quit if defined $role;
	return;
}

# Until this database's worker has looked at the server.
sub wait_up
{
	my ($database) = @_;
	my $session = session($node, dbname => $database);

	wait_state($session, 'UP');
	$session->quit;
	return;
}

# Commands; the restart of the service is one of our own server.
sub run_sh
{
	my ($page, $block) = @_;

	if ($block eq "sudo systemctl restart postgresql\n")
	{
		$node->restart;
		pass("$page: the server is restarted");
		return;
	}
	if ($block =~ /^PG=/)
	{
		my $major = `$pg_config --version` =~ s/^\D*(\d+).*/$1/sr;

		$block =~ s/^PG=\d+$/PG=$major/m;
		$block =~ s{/usr/lib/postgresql/\$PG/bin/pg_config}{$pg_config}g unless -x "/usr/lib/postgresql/$major/bin/pg_config";
	}
	my ($output, $status) = bash($block);
	is($status, 0, "$page: " . $block =~ s/\n.*//sr) or diag($output);
	return;
}

# Commands and what they print.  A commit does not wait for memcached's last answer, so for
# an instant they may print something else.
sub run_console
{
	my ($page, $block) = @_;

	for my $step (split /^(?=\$ )/m, $block)
	{
		my ($command, $expected) = $step =~ /\A\$ (.*)\n(.*)\z/s or die "no command in \"$step\"";
		my $output;

		($command, $expected) = $step =~ /\A\$ (.*?)\n(.*)\z/s;
		eval { EchoCache::wait_for($command, sub { ($output) = bash($command); return $output =~ s/\r//gr eq $expected }) };
		is($output =~ s/\r//gr, $expected, "$page: $command");
	}
	return;
}

# Lines of postgresql.conf: the server's own when there is none yet, else PostgreSQL says what
# it thinks of them.
sub run_ini
{
	my ($page, $block) = @_;

	if (!$node)
	{
		$block =~ s/'localhost:11211'/"'" . $memcached->address . "'"/e or die 'no server in README';
		local $ENV{DESTDIR} = $stage;
		# the second tier is off by default, and doc/ shows what it does
		$node = new_node('main', preload => 0,
			conf => "$block\nechocache.retry_interval = '50ms'\nechocache.timeout = '5s'\nechocache.lease = '1s'\nechocache.local_memory = '16MB'");
		pass("$page: the server is configured");
		return;
	}
	my $conf = $node->data_dir . '/postgresql.conf';
	my $before = slurp_file($conf);
	$node->append_conf('postgresql.conf', $block);
	is($s->run('SELECT name, error FROM pg_file_settings WHERE error IS NOT NULL'), '', "$page: settings that PostgreSQL takes");
	unlink $conf;
	append_to_file($conf, $before);
	return;
}

my %kinds = (sql => \&run_sql, sh => \&run_sh, console => \&run_console, ini => \&run_ini);
# where what others look at may stand: lines of programs, clients.pl; configurations, neighbours/*.pl
my %programs = ('README.md' => qr/^python$/, 'doc/clients.md' => qr/^(?:c|go|js|perl|php|python|ruby)$/, 'doc/neighbours.md' => qr/^yaml$/);

# What holds while a block is run; returns what undoes it.
my %conditions = (
	'memcached is stopped' => sub { $memcached->stop; return sub { $memcached->start; wait_state($s, 'UP') } },
	'memcached is stopped, and echocache.fallback is off' => sub {
		setting($s, 'echocache.fallback' => 'off');
		$memcached->stop;
		wait_state($s, 'DOWN');
		return sub { $memcached->start; setting($s, 'echocache.fallback' => 'on'); wait_state($s, 'UP') };
	},
	'from here on the library is not preloaded' => sub {
		$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
		$node->restart;
		return sub { };
	});

# All blocks of a page, in order.
sub run_page
{
	my ($page) = @_;
	my $blocks = 0;

	while ($text{$page} =~ /^(?:<!-- test: (.*?) -->\n+)?```(.*)\n((?s:.*?))^```$/mg)
	{
		my ($condition, $kind, $block) = ($1, $2, $3);
		my $undo = sub { };

		if (defined $condition)
		{
			ok($conditions{$condition}, "$page: \"$condition\" is a condition") or next;
			$undo = $conditions{$condition}->();
		}
		if ($kinds{$kind})
		{
			$kinds{$kind}->($page, $block);
		}
		elsif ($kind eq 'text')
		{
			ok(-e "$root/$_", "$page: $_ is there") for $block =~ /^bash (\S+)/mg;
		}
		else
		{
			ok($programs{$page} && $kind =~ $programs{$page}, "$page: \"$kind\" is a kind of block that somebody runs");
		}
		$undo->();
		$blocks++;
	}
	is(2 * $blocks, scalar(() = $text{$page} =~ /^\s*```/mg), "$page: each fence belongs to a block");
	return;
}

# ---------------------------------------------------------------- README: the whole way in

mkdir $_ for $shims, $source;
shim('sudo', 'exec "$@"');
# It says what it would do; what is installed needs no list of packages.
shim('apt-get', '[ -x /usr/bin/apt-get ] || exit 0; exec /usr/bin/apt-get --simulate --quiet "$@"');
shim('nc', '[ "$*" = "localhost 11211" ] || exit 1; exec 3<>/dev/tcp/127.0.0.1/' . $memcached->port . '; cat >&3; cat <&3');
my $built = $ENV{EC_BUILD} // $root;
system('cp', '-a', (grep { !m{/(?:\.git|test|results|regression\.\w+|output_iso|tmp_check)$} } glob "$built/*"), $source) == 0 or die 'no copy of the source';

run_page('README.md');
is($statements{'README.md'} =~ /superuser, in the database shop\nCREATE EXTENSION/, 1, 'README creates the extension as a superuser');
is($statements{'README.md'} =~ /shop_owner, in the database shop\nCREATE TABLE orders/, 1, 'README attaches a table as its owner');

# doc/ is installed, in a folder of its own, and its links lead to one another.
my $docs = "$stage" . `$pg_config --docdir` =~ s/\n//r . '/extension/echocache';
ok(-e "$docs/$_", "$_ is installed") for 'README.md', @pages;

# ---------------------------------------------------------------- each page in a database of its own

for my $page (grep { $_ ne 'doc/upgrading.md' } @pages)
{
	my $database = 'page_' . basename($page, '.md') =~ s/\W/_/gr;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION echocache');
	wait_up($database);
	$s = session($node, dbname => $database, sql => '\pset null NULL');
	run_page($page);
	$s->quit;
	$node->safe_psql('postgres', "DROP DATABASE $database WITH (FORCE)");
}

# ---------------------------------------------------------------- an entry for everything

$s = session($node, dbname => 'shop');
my $reference = join '', @text{@pages};
my $examples = join '', map { $_ // '' } @statements{'README.md', @pages};
my $members = q{FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
	JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
	WHERE extname = 'echocache' AND p.pronamespace = 'public'::regnamespace AND prorettype <> 'trigger'::regtype};
for my $function (split /\n/, $s->run("SELECT DISTINCT proname $members"))
{
	like($reference, qr/`$function\(/, "doc has $function()");
	like($examples, qr/\b$function\(/, "and an example of it");
}
for my $column ((split /\n/, $s->run(q{SELECT DISTINCT attrelid::regclass || '.' || attname FROM pg_attribute
	WHERE attrelid IN ('echocache_documents'::regclass, 'echocache_servers'::regclass, 'echocache_stats'::regclass) AND attnum > 0})),
	map { "echocache_verify.$_" } split /\n/, $s->run("SELECT unnest(proargnames[4:]) $members AND proname = 'echocache_verify'"))
{
	my ($object, $name) = split /\./, $column;

	my ($entry) = $reference =~ /^##+ $object\n(.*?)^##/ms;
	like($entry, qr/`"?$name"?`/, "doc has $object.$name");
}
my $settings = 0;
for my $setting (split /\n/, $s->run(q{SELECT name, CASE WHEN vartype = 'string' THEN coalesce(nullif(boot_val, ''), 'empty') ELSE boot_val END, unit,
	CASE vartype WHEN 'integer' THEN min_val || ' to ' || max_val WHEN 'bool' THEN 'on, off' WHEN 'enum' THEN array_to_string(enumvals, ', ') END, context
	FROM pg_settings WHERE name ~ '^echocache\.' AND name <> 'echocache.wait_point'}))
{
	my ($name, $default, $unit, $bounds, $context) = split /\|/, $setting;
	my ($row) = $text{'doc/configuration.md'} =~ /^\| `\Q$name\E` \|(.*)$/m;
	my @has = map { s/^ +| +$|`//gr } split / \|/, $row // '';

	is($has[0], $default, "doc/configuration.md has the default of $name");
	is($has[1], $unit, 'its unit');
	is($has[2], $bounds, 'its bounds') if $bounds ne '';
	is($has[3], $context, 'its context');
	$settings++;
}
is($settings, scalar(() = $text{'doc/configuration.md'} =~ /^\| `echocache\.\w+` \|/mg), 'and no other');
$s->quit;

# ---------------------------------------------------------------- the whole way out

run_page('doc/upgrading.md');
is(`find '$stage' -type f`, '', 'no file is left');

# ---------------------------------------------------------------- what holds for all pages

# A heading's anchor, as GitHub makes it.
sub anchor { return lc($_[0]) =~ s/[^\w\- ]//gr =~ s/ /-/gr; }

for my $page ('README.md', 'CHANGELOG.md', @pages, 'docker/README.md')
{
	my $content = $text{$page} // slurp_file("$root/$page");
	my $lines = $content =~ tr/\n//;
	my $prose = $content =~ s/^```.*?^```$//msgr;

	cmp_ok($lines, '<', $page eq 'README.md' ? 300 : 401, "$page: $lines lines");
	like($content, qr/\A# .*\n\nThis page answers: /, "$page: says what it answers") if $page =~ /^doc\//;
	unlike($content, qr/withdraw|class lock/i, "$page: has the words of the glossary");
	for my $link ($prose =~ /\]\(([^)\s]+)\)/g)
	{
		my ($file, $fragment) = $link =~ /^([^#]*)#?(.*)$/;
		my $path = $file eq '' ? $page : dirname($page) . "/$file";

		$path =~ s{[^/]+/\.\./}{};
		ok(-e "$root/$path", "$page: $link is there") or next;
		ok((grep { anchor($_) eq $fragment } slurp_file("$root/$path") =~ /^#+ (.*)$/mg), "$page: $link is a heading") if $fragment ne '';
	}
}

done_testing();
