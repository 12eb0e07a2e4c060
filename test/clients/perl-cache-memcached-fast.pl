#!/usr/bin/perl
#
# perl-cache-memcached-fast.pl HOST:PORT[:WEIGHT],... ID...
#     Read sessions with Cache::Memcached::Fast.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use Cache::Memcached::Fast;
use JSON::PP;

# Here comes SELECT echocache_get_session(id).
sub from_database { return { from => 'database' }; }

my @servers = map { /^(.*?:\d+)(?::(\d+))?$/; { address => $1, weight => $2 // 1 } } split /,/, shift;
my $cache = Cache::Memcached::Fast->new({ servers => \@servers });

for my $id (@ARGV)
{
	my $text = $cache->get("session:$id");
	my $session = decode_json($text // 'null') // from_database($id);
	utf8::decode($text) if defined $text;
	print encode_json({ id => $id, text => $text, session => $session }), "\n";
}
