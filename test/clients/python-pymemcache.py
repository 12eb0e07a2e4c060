#!/usr/bin/python3
#
# python-pymemcache.py HOST:PORT[:WEIGHT],... ID...
#     Read sessions with pymemcache.
#
# Its HashClient spreads keys in a way of its own, and takes another one as hasher.
# With one server there is no need of that: pymemcache.Client(server, ignore_exc=True).
#
# Copyright (c) 2026, echocache developers

import bisect
import hashlib
import json
import struct
import sys

import pymemcache


def md5(text):
    return struct.unpack("<4I", hashlib.md5(text.encode()).digest())


class Ketama:
    """Weighted ketama, as libmemcached computes it."""

    def __init__(self):
        self.names = []

    def add_node(self, name):
        self.build(self.names + [name])

    def remove_node(self, name):
        self.build([other for other in self.names if other != name])

    def build(self, names):
        total = sum(weights[name] for name in names)
        self.names = names
        self.ring = sorted((point, name) for name in names
                           for n in range(40 * len(names) * weights[name] // total)
                           for point in md5(f"{name.removesuffix(':11211')}-{n}"))

    def get_node(self, key):
        if self.ring:
            return self.ring[bisect.bisect(self.ring, (md5(key)[0],)) % len(self.ring)][1]


def from_database(id):
    """Here comes SELECT echocache_get_session(id)."""
    return {"from": "database"}


servers = [server.split(":") for server in sys.argv[1].split(",")]
weights = {f"{host}:{port}": int(*weight or [1]) for host, port, *weight in servers}
cache = pymemcache.HashClient(list(weights), hasher=Ketama, ignore_exc=True)

for id in sys.argv[2:]:
    text = cache.get("session:" + id)
    session = (text and json.loads(text)) or from_database(id)
    print(json.dumps({"id": id, "text": text and text.decode(), "session": session}))
