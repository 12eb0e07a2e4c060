#!/usr/bin/python3
"""judge.py: is the cache coherent while the primary changes?

    judge.py PORT,PORT... MEMCACHED_PORT

Writers, readers by SQL and plain readers of memcached, on nodes and a server of 127.0.0.1, until
standard input ends.  Every change of a row has a number, which only grows; the row's document
shows it, and the table log has all that were committed.  One writer changes a row at a time.

    acknowledged   COMMIT has returned, without a warning
    seen           a plain reader has had it

A plain reader may not be told an older number than what was acknowledged, or seen, before it
asked ("stale"), nor one that the last primary does not have ("lost", found in the end).  Who
reads by SQL may not be told an older number than the table had in the same session just before,
nor, on a primary, a newer one than just after ("differs"); on a standby what the cache says may be
newer.  In the end all that was acknowledged is there ("forgotten").

A line on standard input is answered by a line of JSON: what was counted, and what was found.

Copyright (c) 2026, echocache developers
"""
import json
import random
import select
import socket
import sys
import threading
import time

import psycopg2
import psycopg2.extensions

PORTS = [int(port) for port in sys.argv[1].split(",")]
MEMCACHED = int(sys.argv[2])
KEYS = 24
WRITERS = 3
ANSWER = 5.0                    # seconds; a node that is silent for longer is given up

lock = threading.Lock()
ending = threading.Event()
number = 1                      # the last one drawn; 1 is what all rows begin with
acknowledged = {key: 1 for key in range(KEYS)}
seen = {key: 1 for key in range(KEYS)}
ever_seen = set()               # (key, number), by plain readers
counts = {"commits": 0, "plain": 0, "misses": 0, "sql": 0, "standby": 0, "in_doubt": 0}
found = {"stale": 0, "lost": 0, "differs": 0, "forgotten": 0}
examples = []


def count(what):
    with lock:
        counts[what] += 1


def finding(kind, text):
    with lock:
        found[kind] += 1
        if len(examples) < 20:
            examples.append(f"{time.strftime('%T')} {kind}: {text}")


def wait(connection):
    """Instead of libpq's own wait, which has no end with a node that is frozen."""
    deadline = time.monotonic() + ANSWER
    while True:
        state = connection.poll()
        if state == psycopg2.extensions.POLL_OK:
            return
        reading = [connection] if state == psycopg2.extensions.POLL_READ else []
        writing = [connection] if state == psycopg2.extensions.POLL_WRITE else []
        left = deadline - time.monotonic()
        if left <= 0 or not any(select.select(reading, writing, [], left)):
            raise psycopg2.OperationalError("no answer")


def run(connection, sql, *values):
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchone()[0] if cursor.description else None


def connect(primary):
    """To some node, or to one that is no standby; None if there is none just now."""
    for port in random.sample(PORTS, len(PORTS)):
        try:
            connection = psycopg2.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres",
                                          password="secret", application_name="judge")
            connection.autocommit = True
            if not primary or not run(connection, "SELECT pg_is_in_recovery()"):
                return connection
            connection.close()
        except psycopg2.Error:
            pass
    time.sleep(0.1)
    return None


def work(step, primary):
    """Repeat a step; on an error, and now and then, with another connection."""
    connection = None
    until = 0
    while not ending.is_set():
        if connection is None:
            connection = connect(primary)
            until = time.monotonic() + 2 + 4 * random.random()
            continue
        try:
            step(connection)
            if time.monotonic() < until:
                time.sleep(0.01)
                continue
        except psycopg2.Error:
            pass
        connection.close()
        connection = None


def write(mine):
    def step(connection):
        global number
        key = random.choice(mine)
        with lock:
            number += 1
            n = number
        roll_back = random.random() < 0.1
        del connection.notices[:]
        sql = ("BEGIN; INSERT INTO log VALUES (%s, %s); UPDATE doc SET n = %s WHERE id = %s; "
               + ("ROLLBACK" if roll_back else "COMMIT"))
        try:
            run(connection, sql, key, n, n, key)
        except psycopg2.Error:
            count("in_doubt")
            raise
        if roll_back:
            return
        # A wait for the standby that was canceled is a warning.
        if connection.notices:
            count("in_doubt")
            return
        with lock:
            acknowledged[key] = n
            counts["commits"] += 1
    return step


def read(connection):
    key = random.randrange(KEYS)
    standby = run(connection, "SELECT pg_is_in_recovery()")
    before = run(connection, "SELECT n FROM doc WHERE id = %s", key)
    document = run(connection, "SELECT echocache_get('doc', %s)", key)
    after = run(connection, "SELECT n FROM doc WHERE id = %s", key)
    n = document["n"] if document else 0
    if n < before or n > after and not standby:
        finding("differs", f"key {key}, the table had {before}, then {after}, the cache {n}; port "
                f"{connection.info.port}, standby {standby}")
    count("standby" if standby else "sql")


def read_plain():
    server = socket.create_connection(("127.0.0.1", MEMCACHED))
    answer = server.makefile("rb")
    while not ending.is_set():
        keys = random.sample(range(KEYS), 6)
        with lock:
            floor = {key: max(acknowledged[key], seen[key]) for key in keys}
        server.sendall(b"get " + b" ".join(b"doc:%d" % key for key in keys) + b"\r\n")
        while (line := answer.readline()) != b"END\r\n":
            key = int(line.split()[1].split(b":")[1])
            value = answer.read(int(line.split()[3]) + 2)[:-2]
            if value == b"null":
                count("misses")
                continue
            n = json.loads(value)["n"]
            if n < floor[key]:
                finding("stale", f"key {key}: {n}, and {floor[key]} was known")
            with lock:
                seen[key] = max(seen[key], n)
                ever_seen.add((key, n))
                counts["plain"] += 1
        time.sleep(0.003)


def audit():
    """What the last primary has: all that was acknowledged, and all that a plain reader was told."""
    connection = None
    while connection is None:
        connection = connect(True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, n FROM log")
        log = set(cursor.fetchall())
        cursor.execute("SELECT id, n FROM doc")
        table = dict(cursor.fetchall())
    for key, n in sorted(ever_seen - log):
        finding("lost", f"key {key}: {n} was read, and is not there")
    for key, n in acknowledged.items():
        if (key, n) not in log or table[key] < n:
            finding("forgotten", f"key {key}: {n} was acknowledged, the table has {table[key]}")


def tell():
    with lock:
        print(json.dumps({**counts, **found, "examples": examples}), flush=True)


psycopg2.extensions.set_wait_callback(wait)
threads = [threading.Thread(target=work, args=(write([k for k in range(KEYS) if k % WRITERS == w]), True))
           for w in range(WRITERS)]
threads += [threading.Thread(target=work, args=(read, primary)) for primary in (True, True, False)]
threads += [threading.Thread(target=read_plain) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in sys.stdin:
    tell()
ending.set()
for thread in threads:
    thread.join()
audit()
tell()
