#!/usr/bin/env python3
"""knock.py HOST PORT... - connects to each port and speaks UCX's own language, which no worker survives. Says how many let it in,
and how many of these are ZeroMQ's, which greet whoever comes and then want a key."""

import selectors
import socket
import struct
import sys
import time

GREETING = b"\xff"  # a connection of ZeroMQ begins with it
TO_OPEN, TO_GREET = 0.25, 10  # seconds; the kernel opens at once, a busy process greets when it can
MAGIC = 0xCAFEBABE12345678  # TCP connections of UCX begin with it
CONNECTION_REQUEST = struct.pack("<BI", 32, 60) + struct.pack("<I", 1) + bytes(56)


def ready(sockets, event, seconds):
    """Those of which that is true before the time is over."""
    end, found = time.monotonic() + seconds, []
    with selectors.DefaultSelector() as selector:
        for s in sockets:
            selector.register(s, event)
        while selector.get_map() and (left := end - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                selector.unregister(key.fileobj)
                found.append(key.fileobj)
    return found


sockets = [socket.socket() for _ in sys.argv[2:]]
for s, port in zip(sockets, sys.argv[2:]):
    s.setblocking(False)
    s.connect_ex((sys.argv[1], int(port)))
let_in = [s for s in ready(sockets, selectors.EVENT_WRITE, TO_OPEN) if not s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)]
greeted = [s for s in ready(let_in, selectors.EVENT_READ, TO_GREET) if s.recv(1) == GREETING]
for s in let_in:
    s.sendall(struct.pack("<Q", MAGIC) + CONNECTION_REQUEST)
print(len(let_in), len(greeted))
