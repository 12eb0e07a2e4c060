# EchoCache.pm: what the TAP tests need around PostgreSQL::Test::Cluster: a
# PostgreSQL with the extension loaded, memcached servers that can be stopped,
# killed and frozen, a client that speaks to them in plain protocol (as any
# client in any language would), and a server that misbehaves.
#
# Every server is started on a port of its own in a folder of its own and is
# gone when the test ends, however it ends.  Nothing here waits without a limit.
#
# With DESTDIR in the environment the extension is taken from there (`make
# install DESTDIR=...`), so that an older copy on the machine is never tested.
#
# Copyright (c) 2026, echocache developers

package EchoCache;

use strict;
use warnings;

use Carp;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
  new_node
  session
  setting
  long_lease
  short_lease
  wait_state
  wait_for
  await_builder
  eventually
  seconds
  machine_adds
  in_time
  memcached
  rogue
  proxy
  stop_at
  go_on
  coherent
  holds
  misses
  marked
  invalidated
);

# A statement, a poll or an exchange that takes longer than this has hung, on a busy machine, too.
our $patience = 60;

# The statements of a poll are not worth a line each in the log.
our $quiet = 0;

# Servers to take down at the end.
my @servers;

# A new PostgreSQL, initialized, configured for these memcached servers and
# started, without the extension created.  Options: hosts (array of memcached or
# rogue servers, or of strings for echocache.hosts), preload => 0 to leave out
# shared_preload_libraries, conf => more lines for postgresql.conf.
sub new_node
{
	my ($name, %opt) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
	if (my $stage = $ENV{DESTDIR})
	{
		# Debian's packages have extension_destdir; from 18 there is a setting for everybody.
		my $lib = $node->config_data('--pkglibdir');
		my $share = $node->config_data('--sharedir');
		my $control = $node->pg_version >= 18 ? "extension_control_path = '$stage$share:\$system'"
		  : "extension_destdir = '$stage'";
		$node->append_conf('postgresql.conf',
			"$control\ndynamic_library_path = '$stage$lib:\$libdir'");
	}
	if ($opt{preload} // 1)
	{
		my $hosts = join(',', map { ref $_ ? $_->address : $_ } @{ $opt{hosts} // [] });
		$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = 'echocache'
echocache.enabled = on
echocache.hosts = '$hosts'
echocache.retry_interval = '50ms'
# Most tests are about memcached; those of the second tier set their own.
echocache.local_memory = 0
# The auditor would be seen in what memcached counts.
echocache.audit_rate = 0
# A new cluster waits so long before it uses a memcached.
echocache.lease = '1s'
# A busy machine's memcached may take longer than the default; tests of waiting set their own.
echocache.timeout = '5s'
echocache.commit_timeout = '5s'
CONF
	}
	$node->append_conf('postgresql.conf', $opt{conf}) if defined $opt{conf};
	# A commit waits as long as a read, unless the test says otherwise.
	$node->append_conf('postgresql.conf', "echocache.commit_timeout = '$1'")
	  if ($opt{conf} // '') =~ /^echocache\.timeout = '(.*)'/m && $opt{conf} !~ /commit_timeout/;
	$node->start;
	return $node;
}

# A psql session that stays open; see EchoCache::Session.
sub session { return EchoCache::Session->new(@_); }

# Start a memcached; see EchoCache::Memcached.
sub memcached
{
	my $server = EchoCache::Memcached->new(@_);
	push @servers, $server;
	$server->start;
	return $server;
}

# Start a server that accepts connections and says nothing, or says only what it
# is given; see EchoCache::Rogue.
sub rogue
{
	my $server = EchoCache::Rogue->new(@_);
	push @servers, $server;
	return $server;
}

# What an honest server answers about the key by which a worker knows whose the keys are: a rogue
# that does not keep it is never used.  $kept is its memory, a hash that starts empty.
sub keep_lease
{
	my ($kept, $verb, $rest, $value) = @_;
	my ($opaque) = $rest =~ / O(\d+)/;
	my $token = $kept->{token} // 0;

	if ($verb eq 'mg')
	{
		return "EN\r\n" if !defined $kept->{lease};
		return 'VA ' . (length($kept->{lease}) - 2) . " c$token O$opaque\r\n$kept->{lease}";
	}
	return "NS O$opaque\r\n" if $rest =~ / ME\b/ ? defined $kept->{lease} : $rest !~ / C$token\b/;
	$kept->{token} = $token + 1;
	$kept->{lease} = $value;
	return "HD c$kept->{token} O$opaque\r\n";
}

# For a rogue: answer these bytes of a client, request by request.  What is about the lease's key
# keep_lease() answers, with $kept; it is a new memcached; all else the code answers, from the verb,
# the opaque and the rest.
sub answer_requests
{
	my ($kept, $bytes, $code) = @_;
	my $answer = '';

	while ($bytes =~ s/\A(\S+)([^\r\n]*)\r\n//)
	{
		my ($verb, $rest) = ($1, $2);
		my $value = $verb eq 'ms' && $rest =~ /\A \S+ (\d+)/ ? substr $bytes, 0, $1 + 2, '' : '';
		my ($opaque) = $rest =~ / O(\d+)/;

		$answer .= $verb eq 'version' ? "VERSION 1.6.38\r\n"
		  : $rest =~ /\A _echocache / ? keep_lease($kept, $verb, $rest, $value)
		  : $code->($verb, $opaque, $rest);
	}
	return $answer;
}

# Start a proxy before a server; see EchoCache::Proxy.
sub proxy
{
	my $proxy = EchoCache::Proxy->new(@_);
	push @servers, $proxy;
	return $proxy;
}

# Send the session's statement and wait until it has stopped at this wait point,
# which the other session holds until go_on().
sub stop_at
{
	my ($holder, $point, $session, $sql) = @_;

	$holder->run("SELECT pg_advisory_lock(hashtext('$point'))");
	$session->run("SET echocache.wait_point = '$point'");
	$session->send($sql);
	wait_for("the session to reach $point", sub {
		# This lock, not one of echocache's own, which are advisory ones as well.
		return $holder->run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1
			AND objid = (hashtext('$point')::bigint & x'FFFFFFFF'::bigint)::oid AND NOT granted AND pid = " . $session->pid) == 1;
	});
	return;
}

# Let the session go on from its wait point; returns what its statement did.
sub go_on
{
	my ($holder, $session) = @_;
	my $result;

	$holder->run('SELECT pg_advisory_unlock_all()');
	$result = $session->finish;
	my $messages = $session->{messages};
	$session->run('RESET echocache.wait_point');
	$session->{messages} = $messages;
	return $result;
}

# Test: what the servers hold of the table "session", as a plain client reads it,
# and what SQL reads through the cache, is what the table has, byte for byte.  With
# filled => 1 every document must come to be in the cache by being read.
sub coherent
{
	my ($session, $servers, $name, %opt) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	local $quiet = 1;
	my $hash = sub { return map { split /\t/, $_, 2 } split /\n/, $session->run($_[0]) };
	my %table = $hash->(q{SELECT 'session:' || id || E'\t' || row_to_json(session) FROM session});
	my @wrong;
	my $look = sub {
		for my $server (@$servers)
		{
			my %held = $server->contents('session:');

			push @wrong, map { $server->address . " holds $_ as $held{$_}" }
			  grep { $held{$_} ne 'null' && $held{$_} ne ($table{$_} // '') } keys %held;
		}
	};
	my $read = sub {
		my %read = $hash->(q{SELECT 'session:' || d.id || E'\t' || d.session
			FROM (SELECT array_agg(id) AS ids FROM session GROUP BY id / 500) c, echocache_get_sessions(c.ids) d});

		push @wrong, map { "SQL reads $_ as " . ($read{$_} // 'nothing') }
		  grep { ($read{$_} // '') ne ($table{$_} // '') } keys %{ { %table, %read } };
		return;
	};

	$look->();
	$read->();
	$look->();
	if ($opt{filled} && !@wrong && !eval { wait_for('all documents to be cached', sub {
		my %held = map { $_->contents('session:') } @$servers;
		my @missing = grep { ($held{$_} // '') ne $table{$_} } keys %table;
		$read->() if @missing;
		return !@missing || @wrong;
	}); 1 })
	{
		push @wrong, $@;
	}
	return ok(!@wrong, $name) || diag(join "\n", @wrong[ 0 .. ($#wrong < 20 ? $#wrong : 20) ]);
}

# Change settings in the configuration file, reload, and wait until the session
# has read it: so then have the postmaster and every later session.
sub setting
{
	my ($session, %settings) = @_;
	my $before = $session->run('SELECT pg_conf_load_time()');

	# As in new_node().
	$settings{'echocache.commit_timeout'} //= $settings{'echocache.timeout'} if $settings{'echocache.timeout'};
	$session->run("ALTER SYSTEM SET $_ = '$settings{$_}'") for sort keys %settings;
	$session->run('SELECT pg_reload_conf()');
	wait_for('the configuration to be read', sub {
		return $session->run('SELECT pg_conf_load_time()') ne $before;
	});
	return;
}

# From here to short_lease() no worker renews its lease, as a rule: what is counted at
# these servers is of the test's doing.  They are not to go away meanwhile.
sub long_lease
{
	my ($session, @servers) = @_;

	setting($session, 'echocache.lease' => '60s');
	for my $server (@servers)
	{
		# the second renewal says that the server is UP, and is the last one for long; of every database
		wait_for('long leases', sub {
			my @leases = $server->leases;

			return @leases && !grep { ($server->get($_) // '') !~ / 60000 1 / } @leases;
		});
	}
	return;
}

sub short_lease
{
	my ($session) = @_;

	setting($session, 'echocache.lease' => '1s');
	return;
}

# Poll until the code answers true; the test dies when it does not.
sub wait_for
{
	my ($what, $code) = @_;
	my $end = time + $patience;
	local $quiet = 1;

	until ($code->())
	{
		croak "waited $patience s for $what" if time > $end;
		sleep 0.02;
	}
	return;
}

# Test: the code answers true sooner or later.
sub eventually
{
	my ($name, $code) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(eval { wait_for($name, $code); 1 }, $name) || diag($@);
}

# Wait until every server, or the given ones, are in this state.
sub wait_state
{
	my ($session, $state, @servers) = @_;
	my $list = join(',', map { "'" . $_->address . "'" } @servers);
	my $where = @servers ? "WHERE server IN ($list)" : '';

	wait_for("state $state", sub {
		return $session->run("SELECT coalesce(bool_and(state = '$state'), false)
			FROM echocache_servers $where") eq 't';
	});
	return;
}

# Wait until the builder has made all that commits have handed to it.
sub await_builder
{
	my ($session) = @_;

	wait_for('the builder', sub {
		return $session->run('SELECT coalesce(sum(builds_waiting), 0) FROM echocache_stats') eq '0';
	});
	return;
}

# How long the code takes.
sub seconds
{
	my ($code) = @_;
	my $start = time;

	$code->();
	return time - $start;
}

# What a busy machine adds just now to a few statements, in seconds: what so many take
# that wait for nothing.  On an idle one this is next to nothing.
sub machine_adds
{
	my ($session, $statements) = @_;
	local $quiet = 1;

	return seconds(sub { $session->run('SELECT 1') for 1 .. $statements // 20 });
}

# Test: this took no longer than it may, and than the machine adds to it.  The session
# is one that can run a statement.
sub in_time
{
	my ($session, $took, $limit, $name, $statements) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return cmp_ok($took, '<', $limit + machine_adds($session, $statements), $name);
}

# Test: the server holds exactly this value under the key, or, for undef, none.
# A commit does not wait until its last request has been answered, so a marker
# may be seen first; anything else is final.
sub holds
{
	my ($server, $key, $value, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is($server->settled($key, ($value // '') eq 'null' ? 0.5 : undef), $value, $name);
}

# Test: a client that asks for the key is told that there is none.
sub misses
{
	my ($server, $key, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return holds($server, $key, undef, $name);
}

# Test: the key holds a marker now, and nothing is about to replace it.
sub marked
{
	my ($server, $key, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return holds($server, $key, 'null', $name);
}

# Test: a client that asks for the key is sent to the database, by a miss or by
# a marker.
sub invalidated
{
	my ($server, $key, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is($server->get($key) // 'null', 'null', $name);
}

# Take down what is still running, and keep the exit code that the test had.
END
{
	my $exit_code = $?;
	$_->stop for @servers;
	$? = $exit_code;
}


# A psql session that stays open.  Arguments: the node; dbname, user, sql (run
# first).
package EchoCache::Session;

use Test::More;

# It would log every statement of every poll, and documents of a megabyte whole.
{
	no warnings 'redefine';
	*PostgreSQL::Test::BackgroundPsql::note = sub { };
}

sub new
{
	my ($class, $node, %opt) = @_;
	my $psql = $node->background_psql($opt{dbname} // 'postgres',
		on_error_stop => 0,
		extra_params => defined $opt{user} ? [ '-U', $opt{user} ] : []);
	my $self = bless { psql => $psql }, $class;

	$psql->set_query_timer_restart;
	$self->{pid} = $self->run('\set VERBOSITY verbose
		SELECT pg_backend_pid();');
	$self->run($opt{sql}) if defined $opt{sql};
	return $self;
}

sub pid { return $_[0]->{pid}; }

# Run SQL; returns its output, or undef when there was an error.
sub attempt
{
	my ($self, $sql) = @_;

	$self->{psql}->{stderr} = '';
	return $self->_result($sql, $self->{psql}->query($sql));
}

sub _result
{
	my ($self, $sql, $out) = @_;

	$self->{messages} = $self->{psql}->{stderr};
	note map { substr($_, 0, 300) . "\n" } $sql, $out, $self->{messages} unless $EchoCache::quiet;
	return $self->{messages} =~ /(?:ERROR|FATAL|PANIC):  / ? undef : $out;
}

# Run SQL that must succeed; returns its output.
sub run
{
	my ($self, $sql) = @_;

	return $self->attempt($sql) // Carp::croak("\"$sql\" failed: $self->{messages}");
}

# Run SQL that must fail; returns "SQLSTATE: message", with DETAIL and HINT on
# lines of their own, or 'no error'.
sub error
{
	my ($self, $sql) = @_;

	return 'no error' if defined $self->attempt($sql);
	return $self->messages;
}

# What the last statement said on stderr, from its severity on.
sub messages
{
	my ($self) = @_;
	my $text = $self->{messages};

	$text =~ s/^psql:<stdin>:\d+: //mg;
	$text =~ s/^ERROR:  //mg;
	$text =~ s/^LOCATION:.*\n?//mg;
	return $text;
}

# Send one statement without waiting for it; finish() waits for it and returns
# what attempt() would.
sub send
{
	my ($self, $sql) = @_;
	my $psql = $self->{psql};

	$psql->{stderr} = '';
	$self->{early} = $psql->query_until(qr/sent\n/, "\\echo sent\n$sql;\n") =~ s/\Asent\n//r;
	return;
}

sub finish
{
	my ($self) = @_;
	my $late = $self->{psql}->query('');

	return $self->_result('(sent before)', $self->{early} . $late);
}

sub quit { return $_[0]->{psql}->quit; }


# A memcached.  Options: socket => 1 for a unix socket, host (127.0.0.1), port (a free
# one), args (more arguments), binary (the memcached that EC_MEMCACHED names, or else the
# machine's).  The port or the path stays the same over stop and start.
# How the test's own client connects: tls => [ options of openssl s_client ], login =>
# [ user name, password ].
package EchoCache::Memcached;

use IO::Select;
use IO::Socket::IP;
use IO::Socket::UNIX;
use POSIX ();
use Socket qw(AF_UNIX PF_UNSPEC SOCK_STREAM);
use Time::HiRes qw(sleep time);

sub new
{
	my ($class, %opt) = @_;
	my $self = bless { host => $opt{host} // '127.0.0.1', args => $opt{args} // [], sent => 0,
		binary => $opt{binary} // $ENV{EC_MEMCACHED} // 'memcached',
		tls => $opt{tls}, login => $opt{login} }, $class;

	if ($opt{socket})
	{
		$self->{path} = PostgreSQL::Test::Utils::tempdir_short() . '/memcached.sock';
	}
	else
	{
		$self->{port} = $opt{port} // PostgreSQL::Test::Cluster::get_free_port();
	}
	return $self;
}

# As echocache.hosts writes it and echocache_servers shows it.
sub address
{
	my ($self) = @_;

	return $self->{path} if defined $self->{path};
	return $self->{host} =~ /:/ ? "[$self->{host}]:$self->{port}" : "$self->{host}:$self->{port}";
}

sub port { return $_[0]->{port}; }

sub start
{
	my ($self) = @_;
	my @where = defined $self->{path} ? ('-s', $self->{path})
	  : ('-l', $self->{host}, '-p', $self->{port}, '-U', '0');
	my $pid = fork;

	die "cannot fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		# What memcached has to say belongs in the test's log, not in its TAP.
		open STDOUT, '>&', \*STDERR;
		exec $self->{binary}, @where, '-m', '64', '-t', '2', @{ $self->{args} }
		  or POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	EchoCache::wait_for('memcached ' . $self->address, sub { return defined $self->connect; });
	return;
}

# Kill it at once; its memory is gone.
sub stop
{
	my ($self) = @_;

	return unless defined $self->{pid};
	kill 'KILL', $self->{pid};
	waitpid $self->{pid}, 0;
	delete $self->{pid};
	delete $self->{connection};
	waitpid delete $self->{client}, 0 if defined $self->{client};
	unlink $self->{path} if defined $self->{path};
	return;
}

# Frozen, it accepts connections and never answers; its memory stays.  A signal
# takes its time: wait until every thread has stopped.
sub freeze
{
	my ($self) = @_;

	kill 'STOP', $self->{pid};
	EchoCache::wait_for('memcached to freeze', sub {
		return !grep { PostgreSQL::Test::Utils::slurp_file($_) !~ /\) T / } glob "/proc/$self->{pid}/task/*/stat";
	});
	return;
}

sub thaw { kill 'CONT', $_[0]->{pid}; return; }

# The client's connection: opened when first needed, undef if that fails.
sub connect
{
	my ($self) = @_;

	return $self->{connection} if defined $self->{connection};
	$self->{connection} = defined $self->{path}
	  ? IO::Socket::UNIX->new(Peer => $self->{path})
	  : IO::Socket::IP->new(PeerHost => $self->{host}, PeerPort => $self->{port});
	$self->_s_client if defined $self->{connection} && defined $self->{tls};
	if (defined $self->{connection} && defined $self->{login})
	{
		my $login = join ' ', @{ $self->{login} };

		$self->exchange('set login 0 0 ' . length($login) . "\r\n$login\r\n", qr/\r\n/) eq "STORED\r\n"
		  or die 'no login at ' . $self->address;
	}
	return $self->{connection};
}

# By TLS the connection is one to an openssl s_client, which ends with the server's
# end of its own connection.
sub _s_client
{
	my ($self) = @_;
	my ($ours, $theirs) = IO::Socket::UNIX->socketpair(AF_UNIX, SOCK_STREAM, PF_UNSPEC)
	  or die "no socket pair: $!";
	my $pid = fork;

	die "cannot fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		open STDIN, '<&', $theirs;
		open STDOUT, '>&', $theirs;
		exec qw(openssl s_client -quiet -connect), $self->address, @{ $self->{tls} }
		  or POSIX::_exit(127);
	}
	$self->{client} = $pid;
	$self->{connection} = $ours;
	return;
}

# Send raw bytes; read until the pattern or the function says that the answer is
# whole.
sub exchange
{
	my ($self, $request, $whole) = @_;
	my $connection = $self->connect or die 'no connection to ' . $self->address;
	my $end = time + $EchoCache::patience;
	my $answer = '';

	syswrite($connection, $request) == length $request or die "cannot send: $!";
	$self->{sent} += length $request;
	until (ref $whole eq 'CODE' ? $whole->($answer) : $answer =~ $whole)
	{
		my $left = $end - time;

		die "no answer to $request from " . $self->address if $left <= 0;
		# A child of ours that ends interrupts it.
		IO::Select->new($connection)->can_read($left) or next;
		sysread($connection, $answer, 65536, length $answer)
		  or $!{EINTR}
		  or die 'connection closed by ' . $self->address;
	}
	return $answer;
}

# The value of a key as a plain client's `get` sees it, undef for a miss.
sub get { return $_[0]->_get($_[1])->{value}; }

# The same, but a marker that is about to be replaced is waited out.  Where one may be there
# to stay, a limit says how long it is looked at.
sub settled
{
	my ($self, $key, $limit) = @_;
	my $end = time + ($limit // $EchoCache::patience);
	my $value;

	while (defined($value = $self->get($key)) && $value eq 'null' && time < $end)
	{
		sleep 0.005;
	}
	return $value;
}

# The client flags of a key.
sub flags { return $_[0]->_get($_[1])->{flags}; }

sub _get
{
	my ($self, $key) = @_;
	my $answer = $self->exchange("get $key\r\n", sub {
		return 1 if $_[0] =~ /\A(?:END\r\n|\w*ERROR.*\r\n)/;
		return $_[0] =~ /\AVALUE \S+ \d+ (\d+)\r\n/ && length $_[0] >= $+[0] + $1 + length "\r\nEND\r\n";
	});

	return {} if $answer eq "END\r\n";
	$answer =~ /\AVALUE \Q$key\E (\d+) (\d+)\r\n(.*)\r\nEND\r\n\z/s or die "answer to get: $answer";
	return { flags => $1, value => $3 };
}

# Seconds that a key has left, -1 for no expiry, undef for a miss.
sub ttl
{
	my ($self, $key) = @_;

	return $self->exchange("mg $key t\r\n", qr/\r\n/) =~ /^(?:HD|OK) t(-?\d+)/ ? $1 : undef;
}

# All keys with this beginning and their values (JSON), as a list.
sub contents
{
	my ($self, $head) = @_;
	my @keys = grep { /^\Q$head/ } $self->keys;
	my @contents;

	while (my @some = splice @keys, 0, 100)
	{
		push @contents, $self->exchange("get @some\r\n", qr/^(?:END|\w*ERROR.*)\r\n\z/m) =~
		  /^VALUE (\S+) \d+ \d+\r\n(.*)\r$/mg;
	}
	return @contents;
}

# Store a value as a foreign client could.
sub set
{
	my ($self, $key, $value) = @_;

	$self->exchange("set $key 0 0 " . length($value) . "\r\n$value\r\n", qr/\r\n/) eq "STORED\r\n"
	  or die "could not set $key";
	return;
}

sub delete { $_[0]->exchange("delete $_[1]\r\n", qr/\r\n/); return; }

sub flush { $_[0]->exchange("flush_all\r\n", qr/OK\r\n/); return; }

# memcached's own counters.
sub stats
{
	my ($self) = @_;

	return { $self->exchange("stats\r\n", qr/^END\r\n/m) =~ /^STAT (\S+) (.*)\r$/mg };
}

# Bytes that everybody but this client has ever sent to this server.
sub traffic
{
	my ($self) = @_;
	my $stats = $self->stats;

	return $stats->{bytes_read} - $self->{sent};
}

# All keys held, in order, decoded.  The crawler serves one at a time.
sub keys
{
	my ($self) = @_;

	return grep { !/_echocache\z/ } $self->_all_keys;
}

# The keys of leases among them, which keys() leaves out: one for each database's prefix.
sub leases { return grep { /_echocache\z/ } $_[0]->_all_keys; }

sub _all_keys
{
	my ($self) = @_;
	my ($answer, @keys);

	EchoCache::wait_for('memcached to list its keys', sub {
		$answer = $self->exchange("lru_crawler metadump hash\r\n", qr/^(?:END|BUSY.*)\r\n/m);
		return $answer !~ /^BUSY/;
	});
	@keys = $answer =~ /^key=(\S+)/mg;
	s/%([0-9A-Fa-f]{2})/chr hex $1/ge for @keys;
	return sort @keys;
}


# A server that is no memcached.  Options: answer => bytes sent for whatever is
# received (none: it never answers), or a function that makes them of it.
package EchoCache::Rogue;

use IO::Select;
use IO::Socket::INET;
use POSIX ();

# An answer that ends in this is not given: the connection is closed.
use constant HANG_UP => "\0hang up";

sub new
{
	my ($class, %opt) = @_;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $journal = PostgreSQL::Test::Utils::tempdir() . "/rogue.$port";
	my $listener = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1',
		LocalPort => $port,
		ReuseAddr => 1,
		Listen => 100) or die "cannot listen on $port: $!";

	PostgreSQL::Test::Utils::append_to_file($journal, '');
	my $pid = fork;
	die "cannot fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		_serve($listener, $journal, $opt{answer});
		POSIX::_exit(0);
	}
	close $listener;
	return bless { port => $port, journal => $journal, pid => $pid }, $class;
}

# The child: a byte in the journal for each connection.
sub _serve
{
	my ($listener, $journal, $answer) = @_;
	my $select = IO::Select->new($listener);

	$SIG{PIPE} = 'IGNORE';
	while (1)
	{
		for my $socket ($select->can_read)
		{
			if ($socket == $listener)
			{
				PostgreSQL::Test::Utils::append_to_file($journal, 'c');
				$select->add($listener->accept);
			}
			elsif (sysread $socket, my $request, 65536)
			{
				my $bytes = ref $answer ? $answer->($request) : $answer;

				if (defined $bytes && $bytes =~ /\Q${\HANG_UP}\E\z/)
				{
					$select->remove($socket);
					close $socket;
					next;
				}
				syswrite $socket, $bytes if defined $bytes;
			}
			else
			{
				$select->remove($socket);
				close $socket;
			}
		}
	}
	return;
}

sub address { return "127.0.0.1:$_[0]->{port}"; }

# How many connections there have been.
sub connections { return -s $_[0]->{journal}; }

sub stop
{
	my ($self) = @_;

	return unless defined $self->{pid};
	kill 'KILL', $self->{pid};
	waitpid $self->{pid}, 0;
	delete $self->{pid};
	return;
}


# The proxy of test/fault/proxy.pl before a server.  Its address is what
# echocache.hosts needs; the test itself talks to the server directly.
package EchoCache::Proxy;

use IO::Select;
use IPC::Open2;

sub new
{
	my ($class, $server) = @_;
	my $program = $INC{'EchoCache.pm'} =~ s{perl/EchoCache\.pm\z}{fault/proxy.pl}r;
	my $self = bless {}, $class;

	$self->{pid} = open2($self->{out}, $self->{in}, $^X, $program, $server->address);
	$self->_line =~ /\Aport (\d+)\z/ or die 'the proxy does not start';
	$self->{port} = $1;
	return $self;
}

sub address { return "127.0.0.1:$_[0]->{port}"; }

# Give the proxy a command, as its banner describes them.
sub tell
{
	my ($self, $command) = @_;

	print { $self->{in} } "$command\n";
	my $answer = $self->_line;
	die "$command: $answer" if $answer =~ /\Aerror/;
	return $answer;
}

# What it says about itself, in a hash.
sub state { return { $_[0]->tell('state') =~ /(\w+)=(\d+)/g }; }

# Wait until it holds something that goes up, or down.
sub holding
{
	my ($self, $way) = @_;

	EchoCache::wait_for("the proxy to hold something that goes $way", sub { return $self->state->{"held_$way"} > 0; });
	return;
}

sub _line
{
	my ($self) = @_;

	# a signal, of a child that has ended, say, interrupts the wait
	my $end = time + $EchoCache::patience;
	until (IO::Select->new($self->{out})->can_read(1))
	{
		die 'the proxy does not answer' if time > $end;
	}
	my $line = readline $self->{out};
	die 'the proxy has ended' unless defined $line;
	chomp $line;
	return $line;
}

sub stop
{
	my ($self) = @_;

	return unless defined $self->{pid};
	kill 'KILL', $self->{pid};
	waitpid $self->{pid}, 0;
	delete $self->{pid};
	return;
}

1;
