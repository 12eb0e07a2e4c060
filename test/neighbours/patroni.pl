# Patroni, with etcd: a switchover, a primary that is killed and one that is frozen, under a judge
# who writes and reads all the while, by SQL and as plain clients do.  Nobody is told anything older
# than what was acknowledged, nor anything that the new primary does not have.  The nodes are
# configured as doc/neighbours.md shows it.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use EchoCache;
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

$EchoCache::patience = 180;		# a failover takes its time, and the machine may be busy
my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $bindir = `pg_config --bindir` =~ s/\n//r;
my $m = memcached();
my $etcd_port = free_port();
my %node = map { $_ => { name => $_, port => free_port(), api => free_port(), data => "$dir/$_" } } qw(node1 node2);
my $http = HTTP::Tiny->new(timeout => 10);
my %pid;						# of what was started here, by name

# EchoCache.pm's servers and the nodes' have ports from the same place.
sub free_port { return PostgreSQL::Test::Cluster::get_free_port(); }

# Start a program, its output in a file.
sub start
{
	my ($name, @command) = @_;
	my $pid = fork // die "cannot fork: $!";

	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', "$PostgreSQL::Test::Utils::log_path/$name.log";
		open STDERR, '>&', \*STDOUT;
		exec @command or POSIX::_exit(127);
	}
	return $pid{$name} = $pid;
}

# The postmaster's pid, undef if there is none.
sub postmaster
{
	my ($node) = @_;

	return -e "$node->{data}/postmaster.pid" ? (slurp_file("$node->{data}/postmaster.pid") =~ /\A(\d+)/)[0] : undef;
}

# Run SQL; undef if that fails.
sub sql
{
	my ($node, $sql) = @_;
	my ($out, $err) = ('', '');

	eval { IPC::Run::run([ "$bindir/psql", '-XAtq', '-h', $dir, '-p', $node->{port}, '-U', 'postgres', '-d', 'postgres', '-c', $sql ],
		'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(60)) } or return;
	chomp $out;
	return $out;
}

# What Patroni says of the cluster, a member for each name; nothing if it cannot be asked.
sub members
{
	for my $node (values %node)
	{
		my $answer = $http->get("http://127.0.0.1:$node->{api}/cluster");

		return map { $_->{name} => $_ } @{ decode_json($answer->{content})->{members} } if $answer->{success};
	}
	return;
}

# The other node follows this one, so that a failover loses nothing that was acknowledged, and the
# cache is used.
sub await_cluster
{
	my ($leader, $follower, $what) = @_;

	wait_for($what, sub {
		my %member = members();

		return ($member{$leader->{name}}{role} // '') eq 'leader' && ($member{$follower->{name}}{role} // '') eq 'sync_standby'
		  && (sql($leader, 'SELECT state FROM echocache_servers') // '') eq 'UP';
	});
	return;
}

# Test: the other one becomes the leader, by what the code does; and the judge goes on there.
sub failover
{
	my ($name, $old, $new, $code) = @_;
	my $before = judge();

	$code->();
	ok(eval { wait_for("$name: another leader", sub { my %member = members(); return ($member{$new->{name}}{role} // '') eq 'leader' }); 1 }, "$name: there is another leader") || diag($@);
	ok(eval { wait_for("$name: the cache", sub { return (sql($new, 'SELECT state FROM echocache_servers') // '') eq 'UP' }); 1 }, "$name: which uses the cache") || diag($@);
	progress($name);
	return;
}

# Test: since now there are commits, and hits of each kind.
sub progress
{
	my ($name) = @_;
	my $before = judge();
	my $now;

	ok(eval { wait_for("$name: progress", sub {
		$now = judge();
		return !grep { $now->{$_} < $before->{$_} + 100 } qw(commits plain sql);
	}); 1 }, "$name: commits and reads go on") || diag(explain($before, $now));
	return;
}

#
# The cluster.
#
my $page = slurp_file("$FindBin::RealBin/../../doc/neighbours.md");
my ($yaml) = $page =~ /^```yaml\n(.*?)^```$/ms or die 'no configuration in doc/neighbours.md';

# Put this in the place of what doc/neighbours.md has, which is there.
sub in_place
{
	my ($text, %by) = @_;

	for my $from (sort keys %by)
	{
		$$text =~ s/\Q$from\E/$by{$from}/g or die "doc/neighbours.md does not have $from";
	}
	return;
}

# Where the library is, in a file: Patroni leaves out settings that it does not know.
append_to_file("$dir/stage.conf", '');
if ($ENV{DESTDIR})
{
	my $major = `pg_config --version` =~ s/^\D*(\d+).*/$1/sr;
	my ($lib, $share) = map { `pg_config $_` =~ s/\n//r } '--pkglibdir', '--sharedir';

	append_to_file("$dir/stage.conf", "dynamic_library_path = '$ENV{DESTDIR}$lib:\$libdir'\n"
		. ($major >= 18 ? "extension_control_path = '$ENV{DESTDIR}$share:\$system'\n" : "extension_destdir = '$ENV{DESTDIR}'\n"));
}
for my $node (values %node)
{
	my $text = $yaml;

	in_place(\$text, 'node1' => $node->{name}, '10.0.0.1:5432' => "127.0.0.1:$node->{port}", '10.0.0.1:8008' => "127.0.0.1:$node->{api}",
		'10.0.0.11:2379,10.0.0.12:2379,10.0.0.13:2379' => "127.0.0.1:$etcd_port", '10.0.0.21:11211' => $m->address,
		'10.0.0.0/24' => '127.0.0.1/32', '/var/lib/postgresql/shop' => $node->{data}, '/usr/lib/postgresql/15/bin' => $bindir,
		'/var/run/postgresql' => $dir, ' peer' => ' trust', '/var/lib/postgresql/.pgpass' => "$dir/$node->{name}.pgpass");
	# What the other tests have as well: a busy machine's memcached is not to be taken for dead.
	$text =~ s{^(?=  bin_dir: )}{  custom_conf: $dir/stage.conf\n}m;
	$text .= "    echocache.timeout: 5s\n    echocache.commit_timeout: 5s\n    echocache.lease: 2s\n    fsync: \"off\"\n";
	# One of them has the second tier.
	$text .= "    echocache.local_memory: 16MB\n" if $node->{name} eq 'node2';
	append_to_file("$dir/$node->{name}.yml", $text);
}
my ($one, $two) = @node{qw(node1 node2)};
my $etcd_peer = free_port();
start('etcd', 'etcd', '--data-dir', "$dir/etcd", '--listen-client-urls', "http://127.0.0.1:$etcd_port", '--advertise-client-urls', "http://127.0.0.1:$etcd_port",
	'--listen-peer-urls', "http://127.0.0.1:$etcd_peer", '--initial-advertise-peer-urls', "http://127.0.0.1:$etcd_peer", '--initial-cluster', "default=http://127.0.0.1:$etcd_peer");
wait_for('etcd', sub { return $http->get("http://127.0.0.1:$etcd_port/version")->{success} });
start('node1', 'patroni', "$dir/node1.yml");
wait_for('the first node', sub { return (sql($one, 'SELECT pg_is_in_recovery()') // '') eq 'f' });
start('node2', 'patroni', "$dir/node2.yml");
sql($one, q{
	CREATE EXTENSION echocache;
	CREATE TABLE doc (id int PRIMARY KEY, n bigint NOT NULL);
	CREATE TABLE log (id int, n bigint);
	INSERT INTO doc SELECT g, 1 FROM generate_series(0, 23) g;
	INSERT INTO log SELECT id, n FROM doc;
	SELECT echocache_attach('doc', 'doc')}) // die 'no table';
await_cluster($one, $two, 'the second node');
pass('the cluster is there');

#
# The judge, and three failovers.
#
my ($judge_in, $judge_out) = ('', '');
my $judge = IPC::Run::start([ '/usr/bin/python3', "$FindBin::RealBin/judge.py", "$one->{port},$two->{port}", $m->port ],
	'<pipe', \*JUDGE, '>', \$judge_out, '2>', "$PostgreSQL::Test::Utils::log_path/judge.log", IPC::Run::timeout(1500));
JUDGE->autoflush(1);

# What the judge has counted and found by now.
sub judge
{
	$judge_out = '';
	print JUDGE "tell\n";
	wait_for('the judge', sub { $judge->pump_nb; return $judge_out =~ /\n/ });
	return decode_json($judge_out);
}

progress('at first');
failover('switchover', $one, $two, sub {
	my $answer = $http->post("http://127.0.0.1:$one->{api}/switchover", { content => encode_json({ leader => 'node1', candidate => 'node2' }) });
	$answer->{success} or die "no switchover: $answer->{content}";
});
await_cluster($two, $one, 'the old primary as a standby');

failover('killed', $two, $one, sub { kill 'KILL', postmaster($two) });
await_cluster($one, $two, 'the old primary as a standby');

# The whole node: PostgreSQL's processes and Patroni.
my @frozen = ($pid{node1}, postmaster($one), split /\n/, sql($one, 'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()'));
failover('frozen', $one, $two, sub { kill 'STOP', @frozen });
kill 'CONT', @frozen;
await_cluster($two, $one, 'the node that was frozen as a standby');
progress('in the end');

my $result = judge();
is_deeply({ map { $_ => $result->{$_} } qw(stale differs) }, { stale => 0, differs => 0 }, 'nobody was told anything old') || diag(explain($result->{examples}));
cmp_ok($result->{standby}, '>', 100, 'standbys were read, too');
cmp_ok($result->{misses}, '<', $result->{plain}, 'most plain reads were hits');
note(explain($result));

# Would the judge have noticed?
wait_for('the judge to find what is planted', sub { $m->set('doc:1', '{"id":1,"n":1}'); return judge()->{stale} > 0 });
pass('the judge finds an old document that is planted');
$judge_out = '';
close JUDGE;
$judge->finish;
$result = decode_json($judge_out);
is_deeply({ map { $_ => $result->{$_} } qw(lost forgotten) }, { lost => 0, forgotten => 0 }, 'nothing that was acknowledged is lost, and nothing that is lost was read')
  || diag(explain($result->{examples}));
for my $node ($one, $two)
{
	unlike(slurp_file("$PostgreSQL::Test::Utils::log_path/$node->{name}.log"), qr/PANIC|TRAP|terminated by signal 1[01]/, "no backend of $node->{name} crashed");
}

done_testing();

END
{
	my $exit_code = $?;

	kill 'CONT', @frozen if @frozen;
	$judge->kill_kill if $judge;
	# Patroni first, which would start it anew.
	for my $name (qw(node1 node2 etcd))
	{
		next unless $pid{$name};
		kill 'KILL', $pid{$name};
		waitpid $pid{$name}, 0;
		system("$bindir/pg_ctl", '-D', "$dir/$name", '-s', '-m', 'immediate', 'stop') if -e "$dir/$name/postmaster.pid";
	}
	$? = $exit_code;
}
