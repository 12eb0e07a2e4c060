# The names of hosts, a resolver and the network that no other program sees: the test that uses
# this runs in namespaces of its own.  It is skipped where the kernel makes none for users.
#
#	use PrivateNames;		# before all others
#	hosts('127.0.0.3 cache');	# /etc/hosts, from now on
#
# Copyright (c) 2026, echocache developers

package PrivateNames;

use strict;
use warnings;

use Exporter qw(import);
use File::Temp;
use Socket qw(PF_INET SOCK_DGRAM);
use Test::More;

our @EXPORT = qw(hosts);
our @EXPORT_OK = qw(etc);

my $etc;

BEGIN
{
	my @namespaces = qw(unshare --user --map-current-user --keep-caps --net --mount --);

	if (!$ENV{EC_NAMESPACES})
	{
		my $refused = `@namespaces true 2>&1`;

		plan(skip_all => "no namespaces here: $refused") if $? != 0;
		$ENV{EC_NAMESPACES} = 1;
		exec @namespaces, $^X, (map { "-I$_" } @INC), $0 or die "no unshare: $!";
	}
}

# Write a file of /etc, in place: it is mounted.
sub etc
{
	my ($name, @lines) = @_;

	open my $file, '>', "$etc/$name" or die "$etc/$name: $!";
	print $file join '', map { "$_\n" } @lines;
	close $file or die "$etc/$name: $!";
	return;
}

# Which addresses names have, a line of /etc/hosts for each.
sub hosts
{
	my (@lines) = @_;

	etc('hosts', @lines);
	return;
}

# The loopback device, up: SIOCSIFFLAGS, IFF_UP.
{
	my $request = pack 'a16 s x22', 'lo', 1;

	socket(my $socket, PF_INET, SOCK_DGRAM, 0) or die "no socket: $!";
	ioctl($socket, 0x8914, $request) or die "the loopback device does not come up: $!";
}

$etc = File::Temp->newdir();
etc('hosts');
etc('nsswitch.conf', 'hosts: files', 'passwd: files', 'group: files');
etc('resolv.conf');
for my $name (qw(hosts nsswitch.conf resolv.conf))
{
	next if !-e "/etc/$name" && $name eq 'nsswitch.conf';	# the default does
	system('mount', '--bind', "$etc/$name", "/etc/$name") == 0 or die "/etc/$name cannot be private";
}

1;
