# Authentication and TLS towards memcached: whom echocache trusts and by whom it is
# trusted, what it says when that goes wrong, that nothing but the cache suffers, and
# that documents are right in either case.  The servers are real ones, with -Y and -Z.
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

#
# Certificates.
#
my $dir = PostgreSQL::Test::Utils::tempdir();
my @ec = qw(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes);

sub openssl
{
	my ($command, @args) = @_;

	system("openssl @{[ map { qq('$_') } $command, @args ]} 2>>$dir/openssl.log") == 0
	  or die "openssl $command: " . slurp_file("$dir/openssl.log");
	return;
}

sub authority
{
	my ($name) = @_;

	openssl('req', '-x509', @ec, '-days', 10, '-subj', "/CN=$name", '-keyout', "$dir/$name.key", '-out', "$dir/$name.crt");
	return;
}

# A certificate and its key, signed by this authority, for these names.
sub certificate
{
	my ($name, $authority, $names, $days) = @_;

	openssl('req', '-new', @ec, '-subj', "/CN=$name", '-addext', "subjectAltName=$names",
		'-keyout', "$dir/$name.key", '-out', "$dir/$name.csr");
	openssl('x509', '-req', '-in', "$dir/$name.csr", '-CA', "$dir/$authority.crt", '-CAkey', "$dir/$authority.key",
		'-CAcreateserial', '-copy_extensions', 'copy', '-days', $days // 10, '-out', "$dir/$name.crt");
	chmod 0600, "$dir/$name.key";
	return;
}

authority($_) for qw(ours theirs);
certificate('server', 'ours', 'IP:127.0.0.1,DNS:localhost');
certificate('elsewhere', 'ours', 'DNS:cache.example.org,IP:127.0.0.2');
certificate('expired', 'ours', 'IP:127.0.0.1', 0);	# long before it is used
certificate('client', 'ours', 'DNS:client');

#
# Servers.
#
sub write_file
{
	my ($file, $text, $mode) = @_;

	unlink $file;
	append_to_file($file, $text);
	chmod $mode // 0600, $file;
	return;
}

# Options of a memcached with this certificate, and of the test's client for it.
sub tls
{
	my ($certificate, $options) = @_;

	return (args => [ '-Z', '-o', "ssl_chain_cert=$dir/$certificate.crt,ssl_key=$dir/$certificate.key" . ($options // '') ],
		tls => [ '-verify_return_error', '-CAfile', "$dir/ours.crt" ]);
}

write_file("$dir/users", "alice:right-password\nbob:other:password\n");
my $plain = memcached();
my $login = memcached(args => [ '-Y', "$dir/users" ], login => [ 'alice', 'right-password' ]);
my $tls = memcached(tls('server'));
my $elsewhere = memcached(tls('elsewhere'));
my $expired = memcached(tls('expired'), tls => []);
my $mutual = memcached(tls('server', ",ssl_verify_mode=2,ssl_ca_cert=$dir/ours.crt"),
	tls => [ '-CAfile', "$dir/ours.crt", '-cert', "$dir/client.crt", '-key', "$dir/client.key" ]);
my %both = tls('server');
push @{ $both{args} }, '-Y', "$dir/users";
my $both = memcached(%both, login => [ 'bob', 'other:password' ]);

# What the system trusts, for the servers of this test.
$ENV{SSL_CERT_FILE} = "$dir/ours.crt";
my $node = new_node('main', hosts => [$plain], conf => <<"CONF");
log_min_messages = debug1
log_statement = none
echocache.retry_interval = '20ms'
listen_addresses = '127.0.0.1'
ssl = on
ssl_cert_file = '$dir/server.crt'
ssl_key_file = '$dir/server.key'
CONF
my $s = session($node, sql => q{
	CREATE EXTENSION echocache;
	CREATE TABLE session (id bigint PRIMARY KEY, title text);
	SELECT echocache_attach('session');
	INSERT INTO session SELECT g, 'first' FROM generate_series(1, 20) g});
my $other = session($node);
my %default = map { ("echocache.$_" => '') } qw(username password password_file tls_ca_file tls_cert_file tls_key_file);
@default{qw(echocache.tls echocache.tls_verify echocache.timeout)} = qw(off ca 5s);

# Change settings, as "username => ..." and so on.
sub set
{
	my (%settings) = @_;

	return setting($s, map { ("echocache.$_" => $settings{$_}) } keys %settings);
}

# This is the only server now, with these settings; the others have their defaults.
sub use_server
{
	my ($server, %settings) = @_;
	my %all = (%default, map { ("echocache.$_" => $settings{$_}) } keys %settings);
	my $address = $settings{hosts} // $server->address;

	setting($s, %all, 'echocache.hosts' => 'localhost:1');
	wait_for('no server', sub { return $s->run('SELECT server FROM echocache_servers') eq 'localhost:1' });
	setting($s, 'echocache.hosts' => $address);
	wait_for('the new server', sub { return $s->run('SELECT server FROM echocache_servers') eq $address });
	return;
}

my $reason = "SELECT coalesce(last_error, '') FROM echocache_servers WHERE state = 'DOWN'";
my $round = 0;

# Tests: a commit and reads are right, whatever the server is like.
sub rows_are_right
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$round++;
	$s->run("UPDATE session SET title = 'round $round' WHERE id = 1");
	return is($s->run('SELECT echocache_get_session(1)'), qq({"id":1,"title":"round $round"}), "$what: reads and commits go on");
}

# Tests: the server is DOWN, for this reason, and nobody but the cache suffers.
sub refused
{
	my ($what, $why) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my $said;

	# The reason may still be that of before.
	eval { wait_for($what, sub { return ($said = $s->run($reason)) =~ $why }) };
	like($said, $why, "$what: the server is DOWN, and says why");
	return rows_are_right($what);
}

# Tests: the server is UP, and a plain client of it finds the documents.
sub accepted
{
	my ($what, $server) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	eventually("$what: UP", sub { return $s->run('SELECT state FROM echocache_servers') eq 'UP' });
	rows_are_right($what);
	holds($server, 'session:1', qq({"id":1,"title":"round $round"}), "$what: a plain client finds the document");
	return;
}

#
# Who may see the settings, and what they may be.
#
$node->safe_psql('postgres', 'CREATE ROLE app LOGIN');
my $app = session($node, user => 'app');
my @secret = qw(username password password_file);
setting($s, 'echocache.password' => 'no-one-sees-this');
like($app->error("SHOW echocache.$_"), qr/^42501: /, "an ordinary role may not SHOW $_") for @secret;
is($app->run("SELECT count(*) FROM pg_settings WHERE name IN (@{[ join ', ', map { qq('echocache.$_') } @secret ]})"), 0,
	'nor find them in pg_settings');
unlike($app->run('SHOW ALL'), qr/no-one-sees-this/, 'nor in SHOW ALL');
is($s->run('SHOW echocache.password'), '********', 'a superuser sees as much as that there is such a setting');
$app->quit;
setting($s, 'echocache.password' => '');
for my $case (
	[ username => 'a b', 'space' ], [ username => 'a:b', 'colon' ], [ username => "a\tb", 'tab' ], [ username => 'x' x 65, 'length' ],
	[ password => 'a b', 'space' ], [ password => "a\nb", 'line end' ], [ password => 'x' x 257, 'length' ])
{
	my ($name, $value, $what) = @$case;

	like($s->error("ALTER SYSTEM SET echocache.$name = '$value'"), qr/^22023: .*\nDETAIL:  A (?:user name|password) has at most \d+ bytes, /s,
		"$name: $what");
}

#
# Authentication.
#
accepted('no authentication', $plain);
use_server($login);
refused('a server that asks who we are', qr/^the server asks for a user name and password/);
set(username => 'alice');
refused('a user name and no password', qr/^echocache\.username is set, and no password$/);
set(password => 'wrong-password');
eventually('a wrong password is refused', sub { return $s->run($reason) =~ /^the server refused the user name or password/ });
my $counted = q{SELECT bypass_server, errors, timeouts FROM echocache_stats WHERE name = 'session'};
my ($bypassed, @failed) = split /\|/, $s->run($counted);
$s->run('SELECT echocache_get_session(1)') for 1 .. 20;
is($s->run($counted), join('|', $bypassed + 20, @failed), 'then no read asks the server');
refused('a wrong password', qr/^the server refused/);
set(password => 'right-password');
accepted('the right password, on reload', $login);
is($s->run(q{SELECT error FROM echocache_health()}), '', 'echocache_health is content');
my $opened = $login->stats->{total_connections};
$s->run("UPDATE session SET title = 'again' WHERE id = $_; SELECT echocache_get_session($_)") for 1 .. 10;
is($login->stats->{total_connections}, $opened, 'one login serves many transactions');

# A password in force is replaced: connections from before are not used any more.
set(password => 'wrong-password');
$s->run('SELECT echocache_get_session(1)');
refused('a password that has become wrong', qr/^the server refused/);

# The file goes before the setting.
write_file("$dir/password", "right-password\nnot this\n");
set(password_file => "$dir/password");
accepted('the right password, in a file', $login);
write_file($node->data_dir . '/cache-password', "right-password\r\n", 0640);
set(password_file => 'cache-password');
accepted('a file in the data directory, readable by a group', $login);
for my $case (
	[ 'readable by others', "right-password\n", 0604, qr/^echocache\.password_file is accessible to others/ ],
	[ 'writable by others', "right-password\n", 0602, qr/^echocache\.password_file is accessible to others/ ],
	[ 'empty', '', 0600, qr/^the first line of echocache\.password_file is no password$/ ],
	[ 'with an empty first line', "\nright-password\n", 0600, qr/is no password$/ ],
	[ 'with a line of two words', "right password\n", 0600, qr/is no password$/ ],
	[ 'with a line that is too long', 'x' x 257 . "\n", 0600, qr/is no password$/ ],
	[ 'of zeros', "\0" x 10, 0600, qr/holds a NUL$/ ])
{
	my ($what, $text, $mode, $why) = @$case;

	write_file("$dir/password.bad", $text, $mode);
	set(password_file => "$dir/password.bad");
	$s->run('SELECT echocache_get_session(1)');
	refused("a password file $what", $why);
	set(password_file => "$dir/password");
	wait_state($s, 'UP');
}
set(password_file => "$dir/no-such-file");
$s->run('SELECT echocache_get_session(1)');
refused('a password file that is not there', qr/^echocache\.password_file cannot be read: No such file/);
set(password_file => $dir);
eventually('a password file that is a directory', sub { return $s->run($reason) eq 'echocache.password_file is not a regular file' });

# A server that does not ask is told all the same, and does not keep it.
use_server($plain, username => 'alice', password => 'right-password');
accepted('a server that asks for no password', $plain);
misses($plain, 'echocache', 'does not keep the password that it was told');
is(join(' ', grep { !/^session:/ } $plain->keys), '', 'under no key');

#
# TLS.
#
use_server($tls, tls => 'on', tls_ca_file => "$dir/ours.crt");
accepted('TLS', $tls);
is($s->run(q{SELECT error FROM echocache_health()}), '', 'echocache_health is content');
$opened = $tls->stats->{total_connections};
$s->run("UPDATE session SET title = 'again' WHERE id = $_; SELECT echocache_get_session($_)") for 1 .. 10;
is($tls->stats->{total_connections}, $opened, 'one handshake serves many transactions');

# Files are relative to the data directory, and read again on reload.
write_file($node->data_dir . '/cache-ca.crt', slurp_file("$dir/ours.crt"));
my $worker = sub { return $s->run(q{SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = 'echocache worker'}) };
my $ended = $worker->();
set(tls_ca_file => 'cache-ca.crt');
$s->run('SELECT echocache_get_session(1)');
accepted('a file in the data directory', $tls);
wait_for('the worker that follows on a reload to have read it, too', sub {
	my $pid = $worker->();

	return $pid != $ended && slurp_file($node->logfile) =~ /\[$pid\] DEBUG:  echocache: connected to server/;
});
write_file($node->data_dir . '/cache-ca.crt', slurp_file("$dir/theirs.crt"));
is($s->run('SELECT echocache_disconnect() || echocache_get_session(1)::text'), qq(1{"id":1,"title":"round $round"}), 'files are not read for every connection');
is($s->run('SELECT state FROM echocache_servers'), 'UP', 'so that one which is just being replaced does no harm');
$s->run('SELECT pg_reload_conf()');
eventually('but on reload', sub {
	$s->run('SELECT echocache_disconnect(), echocache_get_session(1)');
	return $s->run($reason) =~ /certificate is not accepted/;
});

for my $case (
	[ 'signed by somebody else', $tls, { tls_ca_file => "$dir/theirs.crt" }, qr/certificate is not accepted: unable to get local issuer/ ],
	[ 'that has expired', $expired, {}, qr/certificate is not accepted: certificate has expired/ ],
	[ 'for another host', $elsewhere, {}, undef ],
	[ 'for another host, with tls_verify = full', $elsewhere, { tls_verify => 'full' }, qr/certificate is not accepted: IP address mismatch/ ],
	[ 'for this host, with tls_verify = full', $tls, { tls_verify => 'full' }, undef ],
	[ 'for this host by its name', $tls, { tls_verify => 'full', hosts => 'localhost:' . $tls->port }, undef ],
	[ 'for another host name', $elsewhere, { tls_verify => 'full', hosts => 'localhost:' . $elsewhere->port }, qr/certificate is not accepted: [Hh]ostname mismatch/ ],
	[ 'that the system trusts', $tls, { tls_ca_file => '' }, undef ],
	[ 'that the system trusts, for another host', $elsewhere, { tls_ca_file => '' }, qr/certificate is not accepted: IP address mismatch/ ],
	[ 'that nobody looks at', $expired, { tls_ca_file => "$dir/theirs.crt", tls_verify => 'none' }, undef ])
{
	my ($what, $server, $settings, $why) = @$case;

	use_server($server, tls => 'on', tls_ca_file => "$dir/ours.crt", %$settings);
	$why ? refused("a certificate $what", $why) : accepted("a certificate $what", $server);
}
for my $case (
	[ 'CA', { tls_ca_file => "$dir/no-such-file" }, qr/^could not load echocache\.tls_ca_file: No such file/ ],
	[ 'CA of nonsense', { tls_ca_file => "$dir/users" }, qr/^could not load echocache\.tls_ca_file: / ],
	[ 'certificate', { tls_cert_file => "$dir/no-such-file" }, qr/^could not load echocache\.tls_cert_file: No such file/ ],
	[ 'key', { tls_cert_file => "$dir/client.crt", tls_key_file => "$dir/no-such-file" }, qr/^could not load echocache\.tls_key_file: No such file/ ],
	[ 'key of another certificate', { tls_cert_file => "$dir/client.crt", tls_key_file => "$dir/server.key" }, qr/^could not load echocache\.tls_key_file: key values mismatch/ ])
{
	my ($what, $settings, $why) = @$case;

	use_server($tls, tls => 'on', tls_ca_file => "$dir/ours.crt", %$settings);
	refused("a wrong file: $what", $why);
}

# The server wants a certificate from us.
use_server($mutual, tls => 'on', tls_ca_file => "$dir/ours.crt");
# It tells us why, but its end of the connection may be gone before we hear of it.
refused('a server that asks for a certificate', qr/certificate required|closed the connection|reset by peer|Broken pipe/);
set(tls_cert_file => "$dir/client.crt", tls_key_file => "$dir/client.key");
accepted('with a certificate of ours', $mutual);
write_file("$dir/open.key", slurp_file("$dir/client.key"), 0644);
set(tls_key_file => "$dir/open.key");
$s->run('SELECT echocache_get_session(1)');
refused('a key accessible to others', qr/^the file of the private key \(echocache\.tls_key_file\) is accessible to others/);
write_file("$dir/both.pem", slurp_file("$dir/client.crt") . slurp_file("$dir/client.key"));
set(tls_cert_file => "$dir/both.pem", tls_key_file => '');
accepted('certificate and key in one file', $mutual);
openssl(qw(ec -aes128 -passout pass:x -in), "$dir/client.key", '-out', "$dir/locked.key");
chmod 0600, "$dir/locked.key";
set(tls_cert_file => "$dir/client.crt", tls_key_file => "$dir/locked.key");
$s->run('SELECT echocache_get_session(1)');
refused('a key with a passphrase', qr/^could not load echocache\.tls_key_file: /);

# One speaks TLS, the other does not, or nobody answers at all.
use_server($tls, timeout => '300ms');
refused('a plain connection to a TLS server', qr/^no answer within 300 ms$|^the server closed the connection|^could not receive/);
use_server($plain, timeout => '300ms', tls => 'on', tls_ca_file => "$dir/ours.crt");
refused('a TLS connection to a plain server', qr/TLS handshake/);
my $talker = rogue(answer => "ERROR\r\n");
use_server($talker, tls => 'on', tls_ca_file => "$dir/ours.crt");
refused('a TLS connection to something else', qr/^TLS handshake: wrong version number/);
my $silent = rogue();
use_server($silent, tls => 'on', tls_ca_file => "$dir/ours.crt", timeout => '300ms');
refused('a server that never answers the handshake', qr/^no TLS handshake within 300 ms$/);
my $eager = rogue(answer => "CLIENT_ERROR right-password\r\n");
use_server($eager, username => 'alice', password => 'right-password');
refused('a server that repeats the password', qr/^the server refused the user name or password/);
use_server(rogue(answer => "STORED\r\nSTORED\r\n"), username => 'alice', password => 'right-password');
refused('a server that welcomes us twice', qr/^an answer to the authentication that is not understood$/);

# A connection that is cut off anywhere.
my $proxy = proxy($both);
my @secure = (tls => 'on', tls_ca_file => "$dir/ours.crt", username => 'bob', password => 'other:password');
use_server($proxy, @secure);
accepted('TLS and a password', $both);
my @wrong;
for my $case ((map { [ 'down', $_ ] } 0, 1, 5, 100, 600, 800, 1000, 1200, 1300), (map { [ 'up', $_ ] } 0, 100, 400, 500, 600, 700))
{
	my ($way, $n) = @$case;

	wait_state($s, 'UP');
	$s->run('SELECT echocache_disconnect()');
	$proxy->tell("cut $way $n");
	$round++;
	$s->run("UPDATE session SET title = 'round $round' WHERE id = 1");
	my $read = $s->run('SELECT echocache_get_session(1)');
	push @wrong, "$way $n: $read" if $read ne qq({"id":1,"title":"round $round"});
	$proxy->tell('pass');
}
is_deeply(\@wrong, [], 'a connection that is cut off anywhere in its beginning: every read is right');
$proxy->tell('delay down 30');
$s->run('SELECT echocache_disconnect()');
accepted('a slow line', $both);
$proxy->tell('pass');

#
# Documents, with both.
#
use_server($both, @secure);
wait_state($s, 'UP');
my $doc = sub { my ($id, $title) = @_; return qq({"id":$id,"title":"$title"}) };
$s->run(q{INSERT INTO session VALUES (100, 'new')});
holds($both, 'session:100', $doc->(100, 'new'), 'an insert');
$s->run(q{UPDATE session SET title = 'newer' WHERE id = 100});
holds($both, 'session:100', $doc->(100, 'newer'), 'an update');
$s->run(q{BEGIN; UPDATE session SET title = 'never' WHERE id = 100; ROLLBACK});
holds($both, 'session:100', $doc->(100, 'newer'), 'a rollback');
$s->run('DELETE FROM session WHERE id = 100');
is($both->settled('session:100', 0.5) // 'null', 'null', 'a delete');
$s->run('SELECT echocache_get_session(2)');
holds($both, 'session:2', $s->run('SELECT row_to_json(session) FROM session WHERE id = 2'), 'a fill');

for my $size (16_000, 16_384, 100_000, 900_000)
{
	my $hits = $s->run(q{SELECT hits FROM echocache_stats WHERE name = 'session'});
	my $title = qq{(SELECT string_agg(md5(g::text), '') FROM generate_series(1, $size / 32) g)};

	$s->run("UPDATE session SET title = $title WHERE id = 3");
	my $want = $s->run("SELECT md5(row_to_json(session)::text) FROM session WHERE id = 3");
	wait_for('the document', sub { return ($both->get('session:3') // 'null') ne 'null' });
	is($s->run('SELECT md5(echocache_get_session(3)::text)'), $want, "a document of $size bytes, stored at commit");
	$both->delete('session:3');
	$s->run('SELECT echocache_get_session(3) IS NULL');
	is($s->run('SELECT md5(echocache_get_session(3)::text)'), $want, 'and loaded by a read');
	is($s->run(q{SELECT hits FROM echocache_stats WHERE name = 'session'}), $hits + 2, 'both are hits');
}
$s->run(q{INSERT INTO session SELECT g, repeat('x', g % 3000) FROM generate_series(1001, 4000) g});
coherent($s, [$both], 'thousands of documents at once', filled => 1);
my @mine = grep { /^session:/ } $both->keys;
cmp_ok(scalar @mine, '>', 3000, 'thousands of keys');
is($s->run('SELECT echocache_detach()'), scalar @mine, 'are listed by the server and invalidated');
is(scalar(grep { /^session:/ } $both->keys), 0, 'all of them');
$s->run(q{SELECT echocache_attach('session')});
wait_state($s, 'UP');

# A backend whose own client has come by TLS: what goes wrong with one does not
# disturb the other.
for my $ca (qw(theirs ours))
{
	my $says = $ca eq 'ours' ? '' : 'TLS handshake: the certificate is not accepted: unable to get local issuer certificate';

	set(tls_ca_file => "$dir/$ca.crt");
	wait_state($s, 'UP') if $ca eq 'ours';
	my $out = $node->safe_psql('postgres', q{
		SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid();
		\pset null ''
		SELECT DISTINCT echocache_disconnect() * 0, error, length(repeat('x', 100000)) FROM generate_series(1, 20), echocache_health();
		SELECT echocache_get_session(3) IS NOT NULL;}, connstr => 'host=127.0.0.1 dbname=postgres sslmode=require port=' . $node->port);
	is($out, "t\n0|$says|100000\nt", "a client's TLS and the cache's, " . ($says ? 'which fails' : 'which works'));
}

# The server goes away while nobody looks.
$s->run('SELECT echocache_get_session(1)');
$both->stop;
$both->start;
accepted('a server that was started again', $both);

# It freezes between marker and document: the COMMIT callback cannot get rid of ten
# megabytes, and waits no longer than it may.
SKIP:
{
	skip 'built without wait points', 4 if $s->run(q{SELECT count(*) FROM pg_settings WHERE name = 'echocache.wait_point'}) == 0;
	set(timeout => '900ms');
	wait_state($s, 'UP');
	my $writer = session($node);
	stop_at($other, 'before-store', $writer, q{UPDATE session SET title = repeat('y', 900000) WHERE id BETWEEN 1 AND 12});
	$both->freeze;
	isnt(go_on($other, $writer), undef, 'a server freezes before the documents are sent: the commit succeeds');
	like($s->run('SELECT last_error FROM echocache_servers'), qr/^no room to send within 900 ms$|^no answer within 900 ms$/, 'and why is shown');
	is($s->run('SELECT length(echocache_get_session(12)::text)'), 900000 + length '{"id":12,"title":""}', 'reads are right');
	$both->thaw;
	set(timeout => '5s');
	wait_state($s, 'UP');
	coherent($s, [$both], 'afterwards the cache is what the table is', filled => 1);
	$writer->quit;
}

# Over a unix socket there is no TLS.
my $socket = memcached(socket => 1);
use_server($socket, @secure);
accepted('a unix socket, with TLS on', $socket);

# In the end.
$_->quit for $s, $other;
my @lines = grep { /LOG:  echocache:|server process|PANIC/ } split /\n/, slurp_file($node->logfile);
cmp_ok(scalar(@lines), '>', 50, 'the log tells what has happened');
is(join("\n", grep { /right-password|wrong-password|other:password/ } @lines), '', 'and no password');
is(join("\n", grep { /PANIC|server process/ } @lines), '', 'nothing has crashed');
$node->stop;
done_testing();
