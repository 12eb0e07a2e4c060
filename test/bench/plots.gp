# plots.gp: plots of what report.awk wrote into the current folder, as SVG.
# Bars are medians, whiskers the least and the greatest of the rounds.
#
# Copyright (c) 2026, echocache developers

set terminal svg size 900,420 font "sans-serif,13" background rgb "white"
set style data histograms
set style histogram errorbars gap 1 lw 1
set style fill solid 0.85 border rgb "white"
set boxwidth 0.9
set errorbars linecolor "black"
set offsets 0, 0, graph 0.05, 0
set grid ytics lc rgb "#dddddd"
set border 3
set tics nomirror out
set key outside below horizontal
set datafile missing "-"
set datafile separator "\t"

# One colour for each system, wherever it is.
colour(name) = strstrt(name, "PostgreSQL") || strstrt(name, "no trigger") ? "#8a8a8a" : \
	strstrt(name, "plain client") ? "#4c9f70" : strstrt(name, "select 1") ? "#d0d0d0" : \
	name eq "pgmemcache delete" ? "#f2b880" : strstrt(name, "pgmemcache") ? "#e08a3c" : \
	name eq "echocache write-through, unix socket" ? "#0b2a5b" : \
	name eq "echocache invalidate" ? "#7ba7e0" : \
	name eq "echocache invalidate, unix socket" ? "#4a6fa5" : "#2f6fc4"
there(name) = int(system("test -e " . name . ".dat && echo 1 || echo 0"))
columns(name) = int(system("head -1 " . name . ".dat | tr -cd '\"' | wc -c")) / 2
title(name, i) = system(sprintf("head -1 %s.dat | cut -d '\"' -f %d", name, 2 * i))

bars = "plot for [i = 1:columns(name)] name . '.dat' " . \
	"using (column(3 * i - 1)):(column(3 * i)):(column(3 * i + 1)):xtic(1) skip 1 " . \
	"title title(name, i) lc rgb colour(title(name, i))"

if (there("reads")) {
	set terminal svg size 900,700
	set output "reads.svg"
	set multiplot layout 2,1 title "Reading a document, one client, one CPU"
	set ylabel "µs, logarithmic"
	set logscale y
	set yrange [1:*]
	set title "over TCP"
	name = "reads"
	eval bars
	set title "over unix sockets"
	name = "reads-unix"
	eval bars
	unset multiplot
	unset logscale y
	set terminal svg size 900,420
}
set yrange [0:*]
if (there("commit")) {
	set output "commit.svg"
	set title "Commits in a second, relative to a table without triggers"
	set ylabel "ratio"
	name = "commit"
	eval bars
}
if (there("bulk")) {
	set output "bulk.svg"
	set title "Time of one UPDATE, relative to a table without triggers"
	set ylabel "ratio"
	set xlabel "rows"
	name = "bulk"
	eval bars
	unset xlabel
}
if (there("ycsb-throughput")) {
	set output "ycsb-throughput.svg"
	set title "YCSB, 16 connections, closed loop"
	set ylabel "thousand operations in a second"
	name = "ycsb-throughput"
	eval bars
}
if (there("ycsb-p99")) {
	set terminal svg size 900,900
	set output "ycsb-latency.svg"
	set multiplot layout 3,1 title "YCSB, latency of a read, open loop"
	set logscale y
	set yrange [1:*]
	set ylabel "µs, logarithmic"
	do for [p in "p50 p99 p999"] {
		set title p eq "p50" ? "median" : p eq "p99" ? "99th percentile" : "99.9th percentile"
		name = "ycsb-" . p
		eval bars
	}
	unset multiplot
	unset logscale y
	set yrange [0:*]
	set terminal svg size 900,420
}
if (there("scale-keys") && there("scale-connections") && there("scale-servers")) {
	set terminal svg size 900,900
	set output "scale.svg"
	set multiplot layout 3,1 title "YCSB B, 230 B, closed loop"
	set title ""
	set ylabel "thousand operations in a second"
	set xlabel "memcached servers"
	name = "scale-servers"
	eval bars
	set xlabel "connections"
	name = "scale-connections"
	eval bars
	set xlabel "keys"
	name = "scale-keys"
	eval bars
	unset multiplot
	unset xlabel
	set terminal svg size 900,420
}
if (there("stampede-max")) {
	set output "stampede.svg"
	set multiplot layout 1,2 title "Many clients miss one slow document at once"
	set key off
	set title "until the last one had it"
	set ylabel "ms"
	name = "stampede-max"
	set key outside below vertical
	eval bars
	set title "how often it was computed"
	set ylabel ""
	name = "stampede-builds"
	eval bars
	unset multiplot
}
