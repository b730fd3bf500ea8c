#!/usr/bin/env python3
"""knock.py HOST PORT... - connects to each port and speaks UCX's own language, which no worker survives. Says how many let it in,
and how many of these are ZeroMQ's, which greet whoever comes and then want a key."""

import selectors
import socket
import struct
import sys
import time

GREETING = b"\xff"  # a connection of ZeroMQ begins with it
PATIENCE = 0.25  # seconds; whoever listens answers at once
MAGIC = 0xCAFEBABE12345678  # TCP connections of UCX begin with it
CONNECTION_REQUEST = struct.pack("<BI", 32, 60) + struct.pack("<I", 1) + bytes(56)

selector, let_in, greeted = selectors.DefaultSelector(), 0, 0
for port in sys.argv[2:]:
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex((sys.argv[1], int(port)))
    selector.register(s, selectors.EVENT_WRITE)
end = time.monotonic() + PATIENCE
while selector.get_map() and (left := end - time.monotonic()) > 0:
    for key, ready in selector.select(left):
        if ready & selectors.EVENT_READ:
            try:
                greeted += key.fileobj.recv(1) == GREETING
            except ConnectionError:
                pass
        elif not key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            key.fileobj.sendall(struct.pack("<Q", MAGIC) + CONNECTION_REQUEST)
            let_in += 1
            selector.modify(key.fileobj, selectors.EVENT_READ)
            continue
        selector.unregister(key.fileobj)
print(let_in, greeted)
