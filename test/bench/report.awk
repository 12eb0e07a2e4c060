# report.awk: tables from raw.tsv (part, case, system, metric, round, value).
#
# Prints Markdown; writes summary.tsv and, for plots.gp, NAME.dat into `folder`.  Of every
# figure the median of the rounds, the least and the greatest; ratios are taken within each
# round, where what is compared ran on the same machine at the same time.  (A system is a
# peer here and a case is an at: awks have those words for themselves.)
#
# Copyright (c) 2026, echocache developers

BEGIN { FS = OFS = "\t" }

/^# part\t/ { next }
/^#/ { sub(/^# /, ""); header[++nheader] = $0; next }

# What a workload of YCSB writes with, by one name.
$4 ~ /^(update|insert|rmw)_p[0-9]+$/ && $1 == "ycsb-open" { take("write" substr($4, index($4, "_"))) }

{ take($4) }

function take(metric) {
	value[$1, $2, $3, metric, $5] = $6
	if ($5 > rounds[$1, $2, $3, metric]) rounds[$1, $2, $3, metric] = $5
	if (!(($1, $2) in known_case)) { known_case[$1, $2]; cases[$1, ++ncases[$1]] = $2 }
	if (!(($1, $3) in known_system)) { known_system[$1, $3]; systems[$1, ++nsystems[$1]] = $3 }
	if (!(($1, $2, $3, metric) in known)) {
		known[$1, $2, $3, metric]
		all[++nall] = $1 OFS $2 OFS $3 OFS metric
	}
}

# Sorts v[1..n] and sets least, median, greatest.
function sum_up(v, n,    i, j, t) {
	for (i = 2; i <= n; i++)
		for (j = i; j > 1 && v[j - 1] > v[j]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
	least = v[1]; greatest = v[n]
	median = n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
}

# The figure over its rounds; 0 if there is none.
function figure(part, at, peer, metric,    v, n, r) {
	n = 0
	for (r = 1; r <= rounds[part, at, peer, metric]; r++)
		if ((part, at, peer, metric, r) in value)
			v[++n] = value[part, at, peer, metric, r] + 0
	if (n) sum_up(v, n)
	return n
}

# The same of its ratio to `base`.
function ratio(part, at, peer, metric, base,    v, n, r) {
	n = 0
	for (r = 1; r <= rounds[part, at, peer, metric]; r++)
		if (has(part, at, peer, metric, r) && has(part, at, base, metric, r) && get(part, at, base, metric, r) > 0)
			v[++n] = value[part, at, peer, metric, r] / value[part, at, base, metric, r]
	if (n) sum_up(v, n)
	return n
}

function show(x, scale) {
	x /= scale
	if (scale == 0.01) return sprintf("%.2f %%", x)
	if (x >= 100 || x == int(x)) return thousands(sprintf("%.0f", x))
	return sprintf(x >= 10 ? "%.1f" : x >= 0.1 ? "%.2f" : "%.3f", x)
}

function thousands(digits) {
	while (match(digits, /[0-9][0-9][0-9][0-9](,|$)/))
		digits = substr(digits, 1, RSTART) "," substr(digits, RSTART + 1)
	return digits
}

# A table of one metric: a line for each case, a column for each system.  scale: what
# values are divided by; base: the system that ratios are to, or "".
function table(part, metric, title, first, base, scale,    c, s, at, peer, line, n, any, column) {
	if (!ncases[part]) return
	line = "| " first " |"
	n = "|---|"
	for (s = 1; s <= nsystems[part]; s++) {
		any = 0
		for (c = 1; c <= ncases[part]; c++)
			any += (part, cases[part, c], systems[part, s], metric) in known
		column[s] = any > 0
		if (!any) continue
		line = line " " systems[part, s] " |"
		n = n "---|"
	}
	printf "\n%s\n\n%s\n%s\n", title, line, n
	for (c = 1; c <= ncases[part]; c++) {
		at = cases[part, c]
		line = "| " (at ~ /^[0-9]+$/ ? thousands(at) : at) " |"
		any = 0
		for (s = 1; s <= nsystems[part]; s++) {
			if (!column[s]) continue
			peer = systems[part, s]
			if (!figure(part, at, peer, metric)) { line = line " |"; continue }
			any = 1
			line = line " " show(median, scale)
			if (least != greatest) line = line " (" show(least, scale) " to " show(greatest, scale) ")"
			if (base != "" && peer != base && ratio(part, at, peer, metric, base))
				line = line ", ×" sprintf("%.2f", median)
			line = line " |"
		}
		if (any) print line
	}
}

# A table of one system: a line for each of these metrics, a column for each case.  lines:
# "METRIC:SCALE:TITLE" with a | between.
function figures(part, peer, lines,    c, i, n, line, f) {
	line = "\n| |"
	for (c = 1; c <= ncases[part]; c++) line = line " " cases[part, c] " |"
	print line
	for (line = "|---|"; c > 1; c--) line = line "---|"
	print line
	n = split(lines, line_of, "|")
	for (i = 1; i <= n; i++) {
		split(line_of[i], f, ":")
		line = "| " f[3] " |"
		for (c = 1; c <= ncases[part]; c++) {
			if (!figure(part, cases[part, c], peer, f[1])) { line = line " |"; continue }
			line = line " " show(median, f[2])
			if (least != greatest) line = line " (" show(least, f[2]) " to " show(greatest, f[2]) ")"
			line = line " |"
		}
		print line
	}
}

# For gnuplot: a line for each case, of each system median, least and greatest of the
# figure, or of its ratio to `base` if that is not "".
function matrix(part, metric, base, file, scale,    c, s, found) {
	if (!ncases[part]) return
	file = folder "/" file ".dat"
	printf "case" >file
	for (s = 1; s <= nsystems[part]; s++) printf "\t\"%s\"\t\t", systems[part, s] >file
	printf "\n" >file
	for (c = 1; c <= ncases[part]; c++) {
		printf "\"%s\"", cases[part, c] >file
		for (s = 1; s <= nsystems[part]; s++) {
			found = base == "" ? figure(part, cases[part, c], systems[part, s], metric) : \
				ratio(part, cases[part, c], systems[part, s], metric, base)
			if (found)
				printf "\t%g\t%g\t%g", median / scale, least / scale, greatest / scale >file
			else
				printf "\t-\t-\t-" >file
		}
		printf "\n" >file
	}
	close(file)
}

# target NAME OPERATOR LIMIT, of the values v[1..n] of the rounds.
function target(name, operator, limit, v, n,    met) {
	if (!n) { printf "| %s | %s %s | not measured | |\n", name, operator, limit; return }
	sum_up(v, n)
	met = operator == "≤" ? median <= limit : operator == "<" ? median < limit : \
		operator == ">" ? median > limit : median >= limit
	printf "| %s | %s %s | %.3f (%.3f to %.3f) | %s |\n", name, operator, limit, median, least, greatest,
		met ? "met" : "**missed**"
}

function get(part, at, peer, metric, r) {
	return value[part, at, peer, metric, r]
}

function has(part, at, peer, metric, r) {
	return (part, at, peer, metric, r) in value
}

# What `name` of this metric is to `base` in each round, into v; returns how many.
function ratios(part, at, name, base, metric, v,    n, r) {
	n = 0
	for (r = 1; has(part, at, name, metric, r); r++)
		if (has(part, at, base, metric, r) && get(part, at, base, metric, r) > 0)
			v[++n] = get(part, at, name, metric, r) / get(part, at, base, metric, r)
	return n
}

# The targets of the second tier.
function local_targets(    i, part, v, n, c, at, r, way, without, own, documents) {
	split("TCP|unix sockets", way, "|")
	without = "echocache without the tier"
	for (i = 1; i <= 2; i++) {
		part = i == 1 ? "local" : "local-unix"
		own = "local hit by SQL, "
		n = ratios(part, "1 KB", "echocache", "select 1", "us", v)
		target(own "1 KB, to `select 1`, " way[i], "≤", 1.15, v, n)
		n = ratios(part, "1 KB", "echocache", "pgmemcache", "us", v)
		target(own "1 KB, to pgmemcache's get, " way[i], "≤", 0.55, v, n)
		n = ratios(part, "1 KB", "echocache", "PostgreSQL", "us", v)
		target(own "1 KB, to the row by its key, " way[i], "≤", 1, v, n)
		for (c = split("10 KB|chat of 10 KB|session with 20 messages", documents, "|"); c >= 1; c--) {
			n = ratios(part, documents[4 - c], "echocache", "PostgreSQL", "us", v)
			target(own documents[4 - c] ", to the row by its key or its query, " way[i], "≤", 0.6, v, n)
		}
		n = ratios(part, "100 KB", "echocache", "PostgreSQL", "us", v)
		target(own "100 KB, to the row by its key, " way[i], "≤", 0.12, v, n)
		n = ratios(part, "100 KB", "echocache", without, "us", v)
		target(own "100 KB, to one without the tier, " way[i], "<", 1, v, n)
		n = ratios(part "-many", "1 KB", "100 calls without the tier", "one call", "us", v)
		target("100 calls without the tier to one call for 100 local hits, " way[i], "≥", 25, v, n)
	}
	for (c = 1; c <= ncases["local-clients"]; c++) {
		at = cases["local-clients", c]
		n = ratios("local-clients", at, "echocache", "select 1", "throughput", v)
		target("8 clients, local hits of " at ", to the rate of `select 1`", "≥", 0.95, v, n)
	}
	at = "1,000 updates a second"
	for (r = 1; has("local-written", at, "echocache", "local_share", r); r++)
		v[r] = get("local-written", at, "echocache", "local_share", r)
	target("local hits of all reads of one document, 8 clients, while it has " at, ">", 0.99, v, r - 1)
	for (r = 1; has("local-written", at, "echocache", "updates", r); r++)
		v[r] = get("local-written", at, "echocache", "updates", r) / 1000
	target("updates that it did have meanwhile, of these", "≥", 0.95, v, r - 1)
	for (c = 1; c <= ncases["local-commit"]; c++) {
		at = cases["local-commit", c]
		n = ratios("local-commit", at, "echocache", without, "throughput", v)
		target("commits of documents in the tier to commits without the tier, " at, "≥", 0.97, v, n)
	}
}

function targets(    r, n, v, part, at, client, c, i, name, way) {
	split("TCP|unix sockets", way, "|")
	print "\n## Targets\n\n| | target | median (least to greatest) | |\n|---|---|---|---|"
	for (i = 1; i <= 2; i++) {
		part = i == 1 ? "reads" : "reads-unix"
		at = "1 KB"
		for (r = 1; has(part, at, "echocache", "us", r); r++)
			v[r] = get(part, at, "echocache", "us", r) / \
				(get(part, at, "select 1", "us", r) + get(part, at, "plain client", "us", r))
		target("hit by SQL, 1 KB, to `select 1` and a plain get, one CPU, " way[i], "≤", 1.1, v, r - 1)
	}
	for (i = 1; i <= 2; i++) {
		at = "8 clients, fsync on"
		name = "echocache write-through" (i == 2 ? ", unix socket" : "")
		for (r = 1; has("commit", at, name, "throughput", r); r++)
			v[r] = get("commit", at, name, "throughput", r) / \
				get("commit", at, "no trigger", "throughput", r)
		target("commit with write-through, 8 clients, fsync, to no trigger, " way[i],
			"≥", 0.8, v, r - 1)
	}
	for (r = 1; has("bulk", 50000, "echocache", "us", r); r++)
		v[r] = get("bulk", 50000, "echocache", "us", r) / get("bulk", 50000, "no trigger", "us", r)
	target("UPDATE of 50,000 rows, to no trigger", "≤", 1.4, v, r - 1)
	for (r = 1; has("large", "64 rows of 10 MB", "echocache", "us", r); r++)
		v[r] = get("large", "64 rows of 10 MB", "echocache", "us", r) / get("large", "64 rows of 10 MB", "no trigger", "us", r)
	target("UPDATE of 64 rows of 10 MB, time to no trigger", "≤", 1.2, v, r - 1)
	for (r = 1; has("large", "64 rows of 10 MB", "echocache", "peak_kb", r); r++)
		v[r] = get("large", "64 rows of 10 MB", "echocache", "peak_kb", r) / get("large", "64 rows of 10 MB", "no trigger", "peak_kb", r)
	target("UPDATE of 64 rows of 10 MB, peak memory to no trigger", "≤", 1.2, v, r - 1)
	for (r = 1; has("misses", "300 partitions", "echocache", "us", r); r++)
		v[r] = get("misses", "300 partitions", "echocache", "us", r) / get("misses", "300 partitions", "PostgreSQL, unprepared", "us", r)
	target("a miss of a table with 300 partitions to the SELECT", "≤", 3, v, r - 1)
	for (i = 1; i <= 2; i++) {
		part = i == 1 ? "reads-many" : "reads-unix-many"
		for (r = 1; has(part, "1 KB", "one call", "us", r); r++)
			v[r] = get(part, "1 KB", "100 calls", "us", r) / get(part, "1 KB", "one call", "us", r)
		target("100 calls to one for 100 documents, " way[i], "≥", 10, v, r - 1)
	}
	for (i = 1; i <= 8; i++) {
		part = i <= 4 ? "reads" : "reads-unix"
		client = i % 2
		at = int((i - 1) / 2) % 2 ? "chat of 10 KB" : "10 KB"
		n = 0
		# Kernels without CPU times of threads give 0.
		for (r = 1; has(part, at, "plain client", "cpu_servers", r); r++)
			if (get(part, at, "plain client", "cpu_servers", r) > 0)
				v[++n] = (get(part, at, "PostgreSQL", "cpu_servers", r) + \
					client * get(part, at, "PostgreSQL", "cpu_client", r)) / \
					(get(part, at, "plain client", "cpu_servers", r) + \
					client * get(part, at, "plain client", "cpu_client", r))
		target("plain reads to SELECTs by primary key, " at ", for a CPU second of " \
			(client ? "clients and servers" : "the servers alone") ", " way[i <= 4 ? 1 : 2], "≥", 5, v, n)
	}
	at = "function of 1 ms"
	for (r = 1; has("builder", at, "write-through", "cached_in_20ms", r); r++)
		v[r] = get("builder", at, "write-through", "cached_in_20ms", r)
	target("documents of a " at " in memcached within 20 ms of the commit, 200 commits a second",
		"≥", 0.95, v, r - 1)
	for (c = 1; c <= ncases["stampede"]; c++) {
		at = cases["stampede", c]
		n = 0
		for (r = 1; has("stampede", at, "echocache", "builds", r); r++)
			if (n++ == 0 || get("stampede", at, "echocache", "builds", r) > v[1])
				v[1] = get("stampede", at, "echocache", "builds", r)
		target("builds of one document that is missed by " at ", in the worst round", "≤", 3, v, n > 0)
	}
	if (has("stampede-downs", "all rounds", "echocache", "downs", 1)) {
		v[1] = get("stampede-downs", "all rounds", "echocache", "downs", 1)
		target("how often the server was found DOWN meanwhile", "≤", 0, v, 1)
	}
	for (c = 1; c <= ncases["ycsb-open"]; c++) {
		at = cases["ycsb-open", c]
		if (at !~ /^B,/) continue
		for (r = 1; has("ycsb-open", at, "echocache", "read_hit_p99", r); r++)
			v[r] = get("ycsb-open", at, "echocache", "read_hit_p99", r) / 1000
		target("YCSB " at ": 99th percentile of a hit, open loop, ms", "<", 1, v, r - 1)
		for (r = 1; has("ycsb-open", at, "echocache", "hit_ratio", r); r++)
			v[r] = get("ycsb-open", at, "echocache", "hit_ratio", r)
		target("YCSB " at ": hit ratio, each document read once before", ">", 0.99, v, r - 1)
	}
	local_targets()
}

END {
	print "# Benchmark\n"
	for (i = 1; i <= nheader; i++) print "- " header[i]
	print "\nMedian of the rounds (least to greatest), ×ratio: median of the ratios within each round."
	print "What is measured, and how: [README](../README.md)."

	for (i = 1; i <= 2; i++) {
		part = i == 1 ? "reads" : "reads-unix"
		if (!ncases[part]) continue
		print "\n## Reads over " (i == 1 ? "TCP" : "unix sockets")
		print "\nOne client; everything on one CPU. All connections are over " (i == 1 ? "TCP." : "unix sockets.")
		table(part, "us", "Time of a read, µs", "document", "PostgreSQL", 1)
		table(part, "p99", "99th percentile, µs", "document", "", 1)
		table(part, "cpu_servers", "CPU time of a read in PostgreSQL and memcached, µs", "document",
			"PostgreSQL", 1)
		table(part, "cpu_client", "CPU time of a read in the client, µs", "document", "", 1)
		table(part "-many", "us", "Time of 100 documents by `echocache_get_many` and by `echocache_get`, µs", "document",
			"one call", 1)
	}
	if (ncases["commit"]) print "\n## Commits\n\nAn UPDATE of one row by primary key, in a transaction of its own."
	table("commit", "throughput", "Commits in a second", "", "no trigger", 1)
	table("commit", "update_p50", "Median latency, µs", "", "no trigger", 1)
	table("commit", "update_p99", "99th percentile, µs", "", "no trigger", 1)
	if (ncases["bulk"]) print "\n## Bulk updates\n\nOne statement; everything on one CPU."
	table("bulk", "us", "Time of the UPDATE, ms", "rows", "no trigger", 1000)
	if (ncases["large"]) print "\n## Large rows\n\nOne UPDATE of a small column; no document of these is small enough for memcached."
	table("large", "us", "Time of the UPDATE, ms", "", "no trigger", 1000)
	table("large", "peak_kb", "Peak memory of the backend, MB", "", "no trigger", 1024)
	if (ncases["misses"]) print "\n## Misses\n\nA document that is not in memcached, and the same row by `row_to_json`; everything on one CPU."
	table("misses", "us", "Time of a read, µs", "table", "PostgreSQL, unprepared", 1)
	if (ncases["ycsb"]) {
		print "\n## YCSB\n\n16 connections.  Closed loop: each does one operation after the other."
		table("ycsb", "throughput", "Operations in a second, closed loop", "workload", "PostgreSQL", 1)
		table("ycsb", "hit_ratio", "Hit ratio, closed loop", "workload", "", 0.01)
		print "\nOpen loop: operations arrive by chance, at a third of the rate that the slowest of the three reaches"
		print "in the closed loop, the same ones for all; latencies count from the arrival."
		table("ycsb-open", "rate", "Arrivals in a second", "workload", "", 1)
		table("ycsb-open", "hit_ratio", "Hit ratio, open loop", "workload", "", 0.01)
		split("p50 p99 p999", p, " ")
		split("Median|99th percentile|99.9th percentile", name, "|")
		for (i = 1; i <= 3; i++)
			table("ycsb-open", "read_" p[i], name[i] " of a read, µs", "workload", "PostgreSQL", 1)
		table("ycsb-open", "read_hit_p99", "99th percentile of a hit, µs", "workload", "", 1)
		for (i = 1; i <= 3; i++)
			table("ycsb-open", "write_" p[i], name[i] " of an update (D: an insert; F: a read-modify-write), µs",
				"workload", "PostgreSQL", 1)
		table("ycsb-open", "lag_p99", "99th percentile of the wait for a connection and for the thread to wake, µs",
			"workload", "", 1)
	}
	if (ncases["scale-servers"]) print "\n## Scale\n\nYCSB B, 230 B, closed loop, 16 connections where not said."
	table("scale-servers", "throughput", "Operations in a second", "memcached servers", "", 1)
	table("scale-servers", "hit_ratio", "Hit ratio", "memcached servers", "", 0.01)
	table("scale-many", "us", "100 documents in one call of `echocache_get_many`, µs", "memcached servers", "", 1)
	table("scale-connections", "throughput", "Operations in a second", "connections", "PostgreSQL", 1)
	table("scale-connections", "read_p50", "Median of a read, µs", "connections", "PostgreSQL", 1)
	table("scale-connections", "read_p99", "99th percentile of a read, µs", "connections", "PostgreSQL", 1)
	table("scale-keys", "throughput", "Operations in a second", "keys", "PostgreSQL", 1)
	table("scale-keys", "hit_ratio", "Hit ratio", "keys", "", 0.01)
	table("scale-keys", "read_p99", "99th percentile of a read, µs", "keys", "PostgreSQL", 1)
	if (ncases["builder"]) {
		print "\n## Builder\n\nDocuments of a function, made after the commit.  Open loop: 200 commits a second by chance, each" \
			" an UPDATE of\none of 1,000 rows.  With 50 ms that is ten times what the builder can do.  `invalidate`: the same" \
			" table, for which\nnothing is built.  A document that did not come within 2 s (50 ms: 200 ms) counts with that time."
		figures("builder", "write-through", "throughput:1:Commits in a second|cached_p50:1000:Median time from" \
			" commit to new document in memcached, ms|cached_p95:1000:95th percentile, ms|cached_p99:1000:" \
			"99th percentile, ms|cached_max:1000:Longest, ms|cached_in_20ms:0.01:Within 20 ms|" \
			"cached_share:0.01:That came at all|builds:1:`builds`|builds_dropped:1:`builds_dropped`|" \
			"build_errors:1:`build_errors`")
		table("builder", "update_p50", "Median latency of a commit, µs", "", "invalidate", 1)
		table("builder", "update_p95", "95th percentile of it, µs", "", "invalidate", 1)
	}
	if (ncases["stampede"])
		print "\n## Stampede\n\nAll ask at once for a document that takes some 20 ms to compute and is not cached, with the" \
			" default timeout.\nConnected: they have read another one before."
	table("stampede", "builds", "How often it was computed", "", "", 1)
	table("stampede", "read_p50", "Until half of the clients had it, ms", "", "PostgreSQL", 1000)
	table("stampede", "read_max", "Until the last one had it, ms", "", "PostgreSQL", 1000)

	for (i = 1; i <= 2; i++) {
		part = i == 1 ? "local" : "local-unix"
		if (!ncases[part]) continue
		if (i == 1)
			print "\n## Second tier\n\nOf 64 MB; all that is compared uses one memcached.  In no other part there is a second tier."
		print "\n### Reads over " (i == 1 ? "TCP" : "unix sockets") "\n\nOne client; everything on one CPU."
		table(part, "us", "Time of a read, µs", "document", "select 1", 1)
		table(part, "p99", "99th percentile, µs", "document", "", 1)
		table(part, "cpu_servers", "CPU time of a read in PostgreSQL and memcached, µs", "document", "select 1", 1)
		table(part "-many", "us", "Time of 100 documents by `echocache_get_many` and by `echocache_get`, µs", "document",
			"one call", 1)
	}
	if (ncases["local-clients"]) print "\n### Many clients\n\n8 clients in a closed loop, over unix sockets.  Where they read many documents there are 128 MB."
	table("local-clients", "throughput", "Reads in a second", "8 clients read", "select 1", 1)
	table("local-clients", "read_p99", "99th percentile of a read, µs", "8 clients read", "", 1)
	table("local-clients", "local_share", "Reads that the second tier answered", "8 clients read", "", 0.01)
	if (ncases["local-written"]) print "\nThey read one document, which another client updates, without fsync."
	table("local-written", "local_share", "Reads that the second tier answered", "", "", 0.01)
	table("local-written", "hit_share", "Reads that it or memcached answered", "", "", 0.01)
	table("local-written", "throughput", "Reads in a second", "", "echocache without the tier", 1)
	table("local-written", "updates", "Updates in a second that were done meanwhile", "", "", 1)
	if (ncases["local-commit"]) print "\n### Commits\n\nAs under Commits, over unix sockets; all documents are in the second tier."
	table("local-commit", "throughput", "Commits in a second", "", "echocache without the tier", 1)
	table("local-commit", "update_p50", "Median latency, µs", "", "echocache without the tier", 1)
	if (ncases["local-zipfian"]) {
		print "\n### More documents than there is room for\n\nAll are in memcached.  8 clients, closed loop, zipfian 0.99."
		figures("local-zipfian", "echocache", "entries:1:Documents in the second tier|local_share:0.01:Reads that it answered|" \
			"most:0.01:If it had those that are read most|hit_share:0.01:Reads that it or memcached answered|" \
			"evicted_share:0.01:Evictions for each read|throughput:1:Reads in a second|read_p50:1:Median of a read, µs|" \
			"read_p99:1:99th percentile, µs")
	}

	for (i = 1; i <= nall; i++) {
		split(all[i], f, OFS)
		if (f[4] ~ /^(bypass_server|timeouts|errors|unserved)$/ && figure(f[1], f[2], f[3], f[4]) && greatest > 0)
			faults = faults sprintf("\n- %s, %s, %s: %s %d", f[1], f[2], f[3], f[4], greatest)
	}
	if (faults)
		print "\n## Not as it should be\n\nReads while a server was not UP, time-outs and errors of the" \
			" extension during the whole of a part,\nand arrivals of the open loop that were given up" \
			" in the worst round:\n" faults
	if (check) targets()

	print "# part", "case", "system", "metric", "rounds", "min", "median", "max" >(folder "/summary.tsv")
	for (i = 1; i <= nall; i++) {
		split(all[i], f, OFS)
		n = figure(f[1], f[2], f[3], f[4])
		print all[i], n, least, median, greatest >(folder "/summary.tsv")
	}
	matrix("reads", "us", "", "reads", 1)
	matrix("reads-unix", "us", "", "reads-unix", 1)
	matrix("commit", "throughput", "no trigger", "commit", 1)
	matrix("bulk", "us", "no trigger", "bulk", 1)
	matrix("ycsb", "throughput", "", "ycsb-throughput", 1000)
	matrix("ycsb-open", "read_p50", "", "ycsb-p50", 1)
	matrix("ycsb-open", "read_p99", "", "ycsb-p99", 1)
	matrix("ycsb-open", "read_p999", "", "ycsb-p999", 1)
	matrix("scale-servers", "throughput", "", "scale-servers", 1000)
	matrix("scale-connections", "throughput", "", "scale-connections", 1000)
	matrix("scale-keys", "throughput", "", "scale-keys", 1000)
	matrix("stampede", "read_max", "", "stampede-max", 1000)
	matrix("stampede", "builds", "", "stampede-builds", 1)
}
