# META.json is what PGXN's Meta Spec asks for, and says what the extension says of itself.
#
# Copyright (c) 2026, echocache developers

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use JSON::PP ();
use PgxnMeta qw(problems);
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::RealBin/../..";
my $json = slurp_file("$root/META.json");
my $control = slurp_file("$root/echocache.control");

is(join("\n", problems($json)), '', 'META.json is valid');

my $meta = JSON::PP->new->utf8->decode($json);
my $provided = $meta->{provides}{echocache};
my ($comment) = $control =~ /^comment = '(.*)'$/m;
my ($version) = $control =~ /^default_version = '(.*)'$/m;

is($meta->{name}, 'echocache', 'the name');
is(lcfirst $meta->{abstract}, $comment, 'the abstract is the comment of echocache.control');
is($provided->{abstract}, $meta->{abstract}, "and the extension's");
is($meta->{version}, "$version.0", 'the version is that of echocache.control');
is($provided->{version}, $meta->{version}, "and the extension's");
is($provided->{file}, "sql/echocache--$version.sql", 'the file is that of the version');
ok(-e "$root/$provided->{$_}", "$_ is there") for qw(file docfile);
is($meta->{prereqs}{runtime}{requires}{PostgreSQL}, '15.0.0', 'PostgreSQL 15 is required');
like(slurp_file("$root/$_"), qr/PostgreSQL 15 to 18/, "$_ says so, too") for qw(README.md CHANGELOG.md);
ok($meta->{resources}{homepage}, 'there is a home page');

# The validator finds what is wrong.
for my $case (
	[ 'no JSON', sub { $_[0] = {}; 'x' }, qr/^not JSON/ ],
	[ 'no name', sub { delete $_[0]{name} }, qr/^name: missing$/ ],
	[ 'a short version', sub { $_[0]{version} = '1.0' }, qr/^version: not a semantic version$/ ],
	[ 'a version with a leading zero', sub { $_[0]{provides}{echocache}{version} = '01.0.0' }, qr/^provides\.echocache\.version: / ],
	[ 'an unknown license', sub { $_[0]{license} = 'postgres' }, qr/^license: / ],
	[ 'an extension without its file', sub { delete $_[0]{provides}{echocache}{file} }, qr/^provides\.echocache\.file: missing$/ ],
	[ 'no extension', sub { $_[0]{provides} = {} }, qr/^provides: empty$/ ],
	[ 'an unknown key', sub { $_[0]{author} = 'x' }, qr/^author: no key/ ],
	[ 'a key of our own', sub { $_[0]{x_own} = 'x' }, qr/^$/ ],
	[ 'an unknown phase', sub { $_[0]{prereqs}{install} = {} }, qr/^prereqs\.install: no key/ ],
	[ 'a range', sub { $_[0]{prereqs}{runtime}{requires}{PostgreSQL} = '>= 15.0.0, < 19.0.0' }, qr/^$/ ],
	[ 'a malformed range', sub { $_[0]{prereqs}{runtime}{requires}{PostgreSQL} = '15+' }, qr/PostgreSQL: not a version range$/ ],
	[ 'an unknown status', sub { $_[0]{release_status} = 'beta' }, qr/^release_status: none of/ ],
	[ 'a page that is no URL', sub { $_[0]{resources}{homepage} = 'echocache' }, qr/^resources\.homepage: not a URL$/ ],
	[ 'tags that are no list', sub { $_[0]{tags} = 'cache' }, qr/^tags: not a list$/ ],
	[ 'no spec', sub { delete $_[0]{'meta-spec'} }, qr/^meta-spec: missing$/ ])
{
	my ($name, $change, $problem) = @$case;
	my $copy = JSON::PP->new->utf8->decode($json);
	my $result = $change->($copy);

	like(join("\n", problems($name eq 'no JSON' ? '{' : JSON::PP->new->utf8->encode($copy))), $problem, $name);
}

done_testing();
