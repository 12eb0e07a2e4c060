#!/usr/bin/env perl
#
# proxy.pl TARGET [PORT]
#	  A TCP proxy before TARGET (host:port) that does what networks do to people.
#
# It listens on 127.0.0.1, on PORT or on a free one, says "port N", and is then
# steered by lines on its standard input, each answered by one line; the end of
# the input ends it.  "up" is from clients to the server, "down" the way back.
# Rules hold for all connections, present and future, and until "pass".
#
#	hold up|down [REGEX]    keep what comes, from the first piece on that matches
#	forget up|down          hold all of the connections that there are, as a NAT does; not new ones
#	keep up|down            begin to hold no more; where something is held, it stays
#	release up|down         let go what is held, in order, and hold no more
#	delay up|down MS        let every byte arrive that much later
#	trickle up|down MS      one byte in that time
#	cut up|down N           after N more bytes of a connection close both its ends
#	shut up|down            half-close: the receiver sees the end, what comes is lost
#	reset                   close every connection by RST; what is held is lost
#	pass                    no rules; what is held goes on
#	state                   connections=N accepted=N up=N held_up=N down=N held_down=N
#
# What is held outlives its sender: a client that gives up and closes its
# connection does not take back what it has sent, and the server gets it, on a
# connection still open, when it is released.  A network does the same.
#
# Invariant: within one direction of a connection, bytes keep their order, and
# its end comes after all of them.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use List::Util qw(min sum0);
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes qw(time);

my ($target, $port) = @ARGV;
die "usage: proxy.pl HOST:PORT [PORT]\n" unless defined $target && $target =~ /:\d+\z/;

my $listener = IO::Socket::INET->new(
	LocalAddr => '127.0.0.1',
	LocalPort => $port // 0,
	ReuseAddr => 1,
	Blocking => 0,
	Listen => 100) or die "cannot listen: $!\n";

# The rules of each direction: hold (a regex), delay, trickle (seconds), cut (bytes).
my %rule = (up => {}, down => {});

# Bytes received in each direction, connections accepted.
my %received = (up => 0, down => 0);
my $accepted = 0;

# A connection is a hash of two directions.  Each has from and to (sockets;
# undef once finished with), held (bytes, while holding), due (a list of [time,
# bytes]), out (bytes that may go now), eof (the sender is done), cut (bytes it
# may still carry).
my @connections;

$SIG{PIPE} = 'IGNORE';
$| = 1;
print 'port ', $listener->sockport, "\n";

my $commands = '';
while (1)
{
	my $readers = IO::Select->new(\*STDIN, $listener);
	my $writers = IO::Select->new;
	my $next;

	for my $d (map { ($_->{up}, $_->{down}) } @connections)
	{
		$readers->add($d->{from}) if defined $d->{from} && !$d->{eof};
		$writers->add($d->{to}) if defined $d->{to} && length $d->{out};
		$next = $d->{due}[0][0] if @{ $d->{due} } && (!defined $next || $d->{due}[0][0] < $next);
	}
	my $wait = defined $next ? $next - time : undef;
	$wait = 0 if defined $wait && $wait < 0;
	my ($readable, $writable) = IO::Select::select($readers, $writers, undef, $wait);
	my %can = map { fileno($_) => 1 } @{ $readable // [] };

	accept_connections() if $can{ fileno($listener) };
	for my $c (@connections)
	{
		for my $way (qw(up down))
		{
			my $d = $c->{$way};

			take($c, $way) if defined $d->{from} && !$d->{eof} && $can{ fileno($d->{from}) };
			give($c, $way);
		}
	}
	@connections = grep { defined $_->{up}{to} || defined $_->{down}{to} } @connections;

	# Last, so that an answer tells what is so after everything before it.
	if ($can{ fileno(STDIN) })
	{
		sysread(STDIN, $commands, 65536, length $commands) or exit 0;
		print command($1), "\n" while $commands =~ s/\A(.*)\n//;
	}
}

sub accept_connections
{
	while (my $client = $listener->accept)
	{
		my $server = IO::Socket::INET->new(PeerAddr => $target);

		$accepted++;
		next unless $server;	# which closes the client, as a dead server would
		$_->blocking(0) for $client, $server;
		push @connections, {
			up => direction($client, $server, $rule{up}{cut}),
			down => direction($server, $client, $rule{down}{cut}),
		};
	}
	return;
}

sub direction
{
	my ($from, $to, $cut) = @_;

	return { from => $from, to => $to, held => '', due => [], out => '', cut => $cut };
}

# Read what has come, and see what the rules say about it.
sub take
{
	my ($c, $way) = @_;
	my $d = $c->{$way};
	my $rule = $rule{$way};
	my $n = sysread $d->{from}, my $bytes, 65536;

	return if !defined $n && ($!{EAGAIN} || $!{EINTR});
	if (!$n)
	{
		$d->{eof} = 1;
		return;
	}
	$received{$way} += $n;
	return unless defined $d->{to};	# its receiver is gone

	if (!$d->{holding} && defined $rule->{hold} && $bytes =~ $rule->{hold})
	{
		$d->{holding} = 1;
		pass_on($d, $rule, substr $bytes, 0, $-[0]);
		$bytes = substr $bytes, $-[0];
	}
	if ($d->{holding}) { $d->{held} .= $bytes; }
	else { pass_on($d, $rule, $bytes); }
	return;
}

# These bytes go on, sooner or later.
sub pass_on
{
	my ($d, $rule, $bytes) = @_;

	return if $bytes eq '';
	if ($rule->{trickle})
	{
		my $at = @{ $d->{due} } ? $d->{due}[-1][0] : time;

		push @{ $d->{due} }, map { [ $at += $rule->{trickle}, $_ ] } split //, $bytes;
	}
	elsif ($rule->{delay} || @{ $d->{due} })
	{
		push @{ $d->{due} }, [ time + ($rule->{delay} // 0), $bytes ];
	}
	else
	{
		$d->{out} .= $bytes;
	}
	return;
}

# Write what is due.
sub give
{
	my ($c, $way) = @_;
	my $d = $c->{$way};

	$d->{out} .= (shift @{ $d->{due} })->[1] while @{ $d->{due} } && $d->{due}[0][0] <= time;
	return unless defined $d->{to};
	if (length $d->{out})
	{
		my $n = syswrite $d->{to}, $d->{out}, min(length $d->{out}, $d->{cut} // ());

		if (!defined $n && !$!{EAGAIN} && !$!{EINTR})
		{
			# Nobody is there any more; what goes the other way is another matter.
			drop($d);
			return;
		}
		substr $d->{out}, 0, $n // 0, '';
		if (defined $d->{cut} && ($d->{cut} -= $n // 0) == 0)
		{
			finish($_) for $c->{up}, $c->{down};
			return;
		}
	}
	finish($d) if $d->{eof} && $d->{out} eq '' && $d->{held} eq '' && !@{ $d->{due} };
	return;
}

# Nothing goes this way any more: its receiver sees the end.
sub finish
{
	my ($d) = @_;

	shutdown $d->{to}, 1 if defined $d->{to};
	drop($d);
	return;
}

sub drop
{
	my ($d) = @_;

	$d->{to} = undef;
	$d->{held} = $d->{out} = '';
	$d->{due} = [];
	return;
}

# Let go what is held in this direction.
sub release
{
	my ($way, $rule) = @_;

	for my $d (map { $_->{$way} } @connections)
	{
		my $bytes = $d->{held};

		$d->{holding} = 0;
		$d->{held} = '';
		pass_on($d, $rule, $bytes);
	}
	return;
}

# Carry out a command; returns its answer.
sub command
{
	my ($line) = @_;
	my ($verb, $way, $value) = split ' ', $line, 3;
	my $rule = $rule{ $way // '' };

	if ($verb eq 'pass')
	{
		%rule = (up => {}, down => {});
		for my $way (qw(up down))
		{
			for my $d (map { $_->{$way} } @connections)
			{
				$d->{cut} = undef;
				$_->[0] = 0 for @{ $d->{due} };
			}
			release($way, {});
		}
	}
	elsif ($verb eq 'state')
	{
		return sprintf 'connections=%d accepted=%d up=%d held_up=%d down=%d held_down=%d',
		  scalar @connections, $accepted,
		  map { my $way = $_; ($received{$way}, sum0(map { length $_->{$way}{held} } @connections)) } qw(up down);
	}
	elsif ($verb eq 'reset')
	{
		for my $socket (grep { defined } map { ($_->{from}, $_->{to}) } map { ($_->{up}, $_->{down}) } @connections)
		{
			setsockopt $socket, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0) if defined fileno $socket;
			close $socket;	# now: whoever is answered may rely on it
		}
		@connections = ();
	}
	elsif (!$rule) { return "error: not understood: $line"; }
	elsif ($verb eq 'hold')
	{
		$rule->{hold} = defined $value ? qr/$value/ : qr/\A/;
	}
	elsif ($verb eq 'forget') { $_->{$way}{holding} = 1 for @connections; }
	elsif ($verb eq 'keep') { delete $rule->{hold}; }
	elsif ($verb eq 'release')
	{
		delete $rule->{hold};
		release($way, $rule);
	}
	elsif ($verb eq 'delay' || $verb eq 'trickle') { $rule->{$verb} = $value / 1000; }
	elsif ($verb eq 'cut')
	{
		$rule->{cut} = $value;
		$_->{$way}{cut} = $value for @connections;
	}
	elsif ($verb eq 'shut') { finish($_->{$way}) for @connections; }
	else { return "error: not understood: $line"; }
	return 'ok';
}
