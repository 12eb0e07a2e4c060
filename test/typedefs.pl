# typedefs.pl FILE...
#	  The names that the files define by typedef, sorted: typedefs.list, which pgindent and
#	  pg_bsd_indent want beside PostgreSQL's own.  `make typedefs.list` runs this.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

my %names;
local $/;
while (my $source = <>)
{
	$source =~ s{/\*.*?\*/}{}gs;

	# a body ends with a brace in the first column
	$names{$1} = 1 while $source =~ /^typedef\s+(?:struct|union|enum)\b[^;{]*?(?:\{.*?^\})?\s*\b(\w+)\s*;/gms;
	# a function, or a pointer to one
	$names{$1} = 1 while $source =~ /^typedef\b[^;{}]*?\(\s*\*?\s*(\w+)\s*\)\s*\(/gm;
	# another name of a type
	$names{$1} = 1 while $source =~ /^typedef\s+(?!struct|union|enum)[^;{}()]*\b(\w+)\s*(?:\[[^\]]*\]\s*)?;/gm;
}
print map { "$_\n" } sort keys %names;
