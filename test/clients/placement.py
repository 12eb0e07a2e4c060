#!/usr/bin/python3
#
# placement.py
#     On which server does pylibmc store a key?
#
#         placement.py COUNT HOST:PORT[:WEIGHT]...
#
# prints key<TAB>host:port for the keys session:0 .. session:COUNT-1, placed by
# weighted ketama.  pylibmc does not say where it puts a key, so this one really
# sets them all, and asks each server by a plain socket which of them it has.  The
# servers must run, and be the test's own: the keys are deleted again.
#
# Copyright (c) 2026, echocache developers

import socket
import sys

import pylibmc


def holds(host, port, keys):
    """The keys that the server has, asked for 100 at a time."""
    found = set()
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        answers = sock.makefile("rb")
        for at in range(0, len(keys), 100):
            sock.sendall(b"get " + b" ".join(k.encode() for k in keys[at:at + 100]) + b"\r\n")
            while (line := answers.readline()) != b"END\r\n":
                word, key, _flags, length = line.split()
                if word != b"VALUE":
                    raise SystemExit(f"placement.py: {host}:{port} answers {line!r}")
                answers.read(int(length) + 2)
                found.add(key.decode())
    return found


def main():
    if len(sys.argv) < 3:
        raise SystemExit("usage: placement.py COUNT HOST:PORT[:WEIGHT]...")
    keys = [f"session:{i}" for i in range(int(sys.argv[1]))]
    servers = sys.argv[2:]
    client = pylibmc.Client(servers, behaviors={"ketama_weighted": True})
    if failed := client.set_multi({key: "x" for key in keys}):
        raise SystemExit(f"placement.py: {len(failed)} keys were not set")
    place = {}
    for server in servers:
        host, port = server.split(":")[:2]
        for key in holds(host, port, keys):
            if key in place:
                raise SystemExit(f"placement.py: {key} is on two servers")
            place[key] = f"{host}:{port}"
    client.delete_multi(keys)
    for key in keys:
        print(f"{key}\t{place[key]}")


main()
