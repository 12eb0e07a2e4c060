# PgxnMeta.pm: what PGXN's Meta Spec 1.0.0 asks of a META.json.
#
# problems() takes the text of a file and returns what is wrong with it, one line for each
# fault, such as "provides.echocache.version: not a semantic version"; none if it is valid.
#
# Copyright (c) 2026, echocache developers

package PgxnMeta;

use strict;
use warnings;

use Exporter 'import';
use JSON::PP ();

our @EXPORT_OK = qw(problems);

my $term = qr/\A[^\x00-\x1f\x7f\/\\]{2,}\z/;		# names, tags
my $number = qr/(?:0|[1-9][0-9]*)/;
my $semver = qr/\A$number\.$number\.$number(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?\z/;
my $bound = qr/(?:[<>!=]=|[<>])?\s*(?:0|$number\.$number\.$number(?:[-+][0-9A-Za-z.+-]+)?)/;
my $range = qr/\A\s*$bound\s*(?:,\s*$bound\s*)*\z/;
my $url = qr{\A[a-z][a-z0-9+.-]*://[^\s/]+\S*\z};
my %licenses = map { $_ => 1 } qw(agpl_3 apache_1_1 apache_2_0 artistic_1 artistic_2 bsd freebsd gfdl_1_2 gfdl_1_3
	gpl_1 gpl_2 gpl_3 lgpl_2_1 lgpl_3_0 mit mozilla_1_0 mozilla_1_1 openssl perl_5 postgresql qpl_1_0 ssleay sun zlib
	open_source restricted unrestricted unknown);
my @found;

sub fault { my ($where, $what) = @_; push @found, "$where: $what"; return; }

sub text
{
	my ($where, $value, $like, $what) = @_;

	return fault($where, 'not a string') if ref $value || !defined $value || $value eq '';
	fault($where, $what) if defined $like && $value !~ $like;
	return;
}

sub texts
{
	my ($where, $value, $like, $what) = @_;

	return text($where, $value, $like, $what) if ref $value ne 'ARRAY';
	fault($where, 'an empty list') unless @$value;
	text("$where\[$_]", $value->[$_], $like, $what) for 0 .. $#$value;
	return;
}

# A map with these keys, each with the check of its value; a "!" marks one that must be there.  Keys
# that begin with "x_" are anybody's own.
sub map_of
{
	my ($where, $value, %keys) = @_;
	my %checks = map { s/!//r => $keys{$_} } keys %keys;

	return fault($where, 'not a map') if ref $value ne 'HASH';
	my $prefix = $where eq '' ? '' : "$where.";
	for my $key (map { s/!//r } grep { /!/ } sort keys %keys)
	{
		fault("$prefix$key", 'missing') unless exists $value->{$key};
	}
	for my $key (sort keys %$value)
	{
		next if $key =~ /\Ax_/i;
		$checks{$key} ? $checks{$key}->("$prefix$key", $value->{$key}) : fault("$prefix$key", 'no key of the spec');
	}
	return;
}

# A map whose keys are names.
sub map_by_name
{
	my ($where, $value, $check) = @_;

	return fault($where, 'not a map') if ref $value ne 'HASH';
	fault($where, 'empty') unless %$value;
	for my $key (sort keys %$value)
	{
		fault("$where.$key", 'no name') if $key !~ $term;
		$check->("$where.$key", $value->{$key});
	}
	return;
}

sub version { return text(@_[0, 1], $semver, 'not a semantic version'); }
sub version_range { return text(@_[0, 1], $range, 'not a version range'); }
sub link_to { return text(@_[0, 1], $url, 'not a URL'); }
sub string { return text(@_[0, 1]); }

sub one_of
{
	my %known = map { $_ => 1 } @_;

	return sub { my ($where, $value) = @_; fault($where, 'none of ' . join(', ', sort keys %known)) if ref $value || !$known{ $value // '' }; return };
}

sub license
{
	my ($where, $value) = @_;

	return map_by_name($where, $value, \&link_to) if ref $value eq 'HASH';
	for my $name (ref $value ? @$value : $value)
	{
		fault($where, "\"$name\" is no license of the spec") unless $licenses{$name};
	}
	return;
}

sub provides
{
	my ($where, $value) = @_;

	return map_by_name($where, $value, sub {
		map_of(@_, 'file!' => \&string, 'version!' => \&version, abstract => \&string, docfile => \&string);
	});
}

sub prereqs
{
	my ($where, $value) = @_;
	my $relations = sub { my $requires = sub { map_by_name(@_, \&version_range) };
		map_of(@_, map { $_ => $requires } qw(requires recommends suggests conflicts)) };

	return map_of($where, $value, map { $_ => $relations } qw(configure build runtime test develop));
}

sub resources
{
	my ($where, $value) = @_;
	my $mail = sub { text(@_, qr/\A[^\s\@]+\@[^\s\@]+\z/, 'no address') };

	return map_of($where, $value,
		homepage => \&link_to,
		bugtracker => sub { map_of(@_, web => \&link_to, mailto => $mail) },
		repository => sub { map_of(@_, url => \&link_to, web => \&link_to,
			type => sub { text(@_, qr/\A[a-z]+\z/, 'not in lower case') }) });
}

sub problems
{
	my ($json) = @_;
	my $meta = eval { JSON::PP->new->utf8->decode($json) };

	@found = ();
	return ("not JSON: $@") unless defined $meta;
	map_of('', $meta,
		'name!' => sub { text(@_, $term, 'no name') },
		'version!' => \&version,
		'abstract!' => \&string,
		'maintainer!' => sub { texts(@_) },
		'license!' => \&license,
		'provides!' => \&provides,
		'meta-spec!' => sub { map_of(@_, 'version!' => \&version, url => \&link_to) },
		description => \&string,
		generated_by => \&string,
		tags => sub { my ($where, $value) = @_; fault($where, 'not a list') if ref $value ne 'ARRAY';
			texts($where, $value, qr/\A[^\x00-\x1f\/\\]{1,255}\z/, 'no tag') },
		no_index => sub { my $list = sub { texts(@_) }; map_of(@_, file => $list, directory => $list) },
		prereqs => \&prereqs,
		release_status => one_of(qw(stable testing unstable)),
		resources => \&resources);
	return @found;
}

1;
