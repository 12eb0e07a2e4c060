#!/usr/bin/perl
# structure.pl: is src/ in the shape that src/README.md says?  Prints TAP.
#
#	perl test/structure.pl
#
# Each .c file has a header of its own name; an exported name begins with that of its file;
# no two files include one another, directly or over others; no file is over 600 lines, no
# function over 80, no line over 100 columns; PG_VERSION_NUM is in compat.h alone; and
# typedefs.list is up to date.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Find qw(find);
use Test::More;

chdir dirname(abs_path(__FILE__)) . '/..' or die "cannot go to the source: $!";

my (%text, %includes);

find({ no_chdir => 1, wanted => sub {
	return unless m{^src/.*\.[ch]\z};
	open my $file, '<', $_ or die "$_: $!";
	local $/ = undef;
	$text{$_} = <$file>;
} }, 'src');
cmp_ok(scalar keys %text, '>', 100, 'there are sources');

sub none
{
	my ($name, @found) = @_;

	return is(join("\n", @found), '', $name);
}

# A file is its .c and its .h.
for my $path (sort keys %text)
{
	my $file = $path =~ s/\.[ch]\z//r;

	while ($text{$path} =~ /^#include "([^"]+)\.h"/mg)
	{
		$includes{$file}{"src/$1"} = 1 if exists $text{"src/$1.h"} && "src/$1" ne $file;
	}
}

none('each .c file has a header of its own name',
	grep { /\.c\z/ && !exists $text{ s/\.c\z/.h/r } } sort keys %text);

# What is reached from a file over its includes must not lead back to it.
sub reaches
{
	my ($from, $to, $seen) = @_;

	for my $next (sort keys %{ $includes{$from} // {} })
	{
		return "$from -> $to" if $next eq $to;
		next if $seen->{$next}++;
		my $path = reaches($next, $to, $seen);
		return "$from -> $path" if $path;
	}
	return;
}

none('no include circle', grep { defined } map { reaches($_, $_, {}) } sort keys %includes);

my (@names, @long_files, @long_functions, @long_lines);

for my $path (sort keys %text)
{
	my ($file) = $path =~ m{([^/]+)\.[ch]\z};
	my @lines = split /\n/, $text{$path};
	my $start;

	push @long_files, "$path: " . @lines if @lines > 600;
	for my $i (0 .. $#lines)
	{
		my $line = $lines[$i];

		1 while $line =~ s/^([^\t]*)\t/$1 . ' ' x (4 - length($1) % 4)/e;
		push @long_lines, "$path:" . ($i + 1) if length $line > 100;
		$start = $i if $lines[$i] eq '{';
		next unless $lines[$i] eq '}' && defined $start;
		push @long_functions, "$path:" . $start . ': ' . ($i - $start + 1) if $i - $start + 1 > 80;
		undef $start;
	}
	next unless $path =~ /\.h\z/;
	my $code = $text{$path} =~ s{/\*.*?\*/}{}sgr;
	while ($code =~ /^(?:extern|static inline)\b[^;{(]*?\b(\w+)\s*(?:\(|\[|;)/mg)
	{
		push @names, "$path: $1" unless $1 =~ /^(?:ec_\Q$file\E(?:_|\z)|echocache_|_PG_init\z)/;
	}
	push @names, map { "$path: $_" } grep { !/^ec_\Q$file\E/ } $code =~ /^#define\s+(ec_\w+)/mg;
}
none('an exported name begins with that of its file', @names);
none('no file over 600 lines', @long_files);
none('no function over 80 lines', @long_functions);
none('no line over 100 columns', @long_lines);
none('PG_VERSION_NUM is in compat.h alone',
	grep { $_ ne 'src/compat.h' && $text{$_} =~ /PG_VERSION_NUM/ } sort keys %text);

open my $list, '<', 'typedefs.list' or die "typedefs.list: $!";
my @sources = map { sort glob } 'src/*.[ch]', 'src/*/*.[ch]', 'test/*/*.[ch]';
is(`"$^X" test/typedefs.pl @sources`, do { local $/ = undef; <$list> }, 'typedefs.list is up to date (make typedefs.list)');

done_testing();
