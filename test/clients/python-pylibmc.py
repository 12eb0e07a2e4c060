#!/usr/bin/python3
#
# python-pylibmc.py HOST:PORT[:WEIGHT],... ID...
#     Read sessions with pylibmc.
#
# Copyright (c) 2026, echocache developers

import json
import sys

import pylibmc


def from_database(id):
    """Here comes SELECT echocache_get_session(id)."""
    return {"from": "database"}


servers = sys.argv[1].split(",")
cache = pylibmc.Client(servers, behaviors={"ketama_weighted": True})

for id in sys.argv[2:]:
    try:
        text = cache.get("session:" + id)
    except pylibmc.Error:       # as good as a miss
        text = None
    session = (text and json.loads(text)) or from_database(id)
    print(json.dumps({"id": id, "text": text and text.decode(), "session": session}))
