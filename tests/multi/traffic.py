#!/usr/bin/env python3
"""traffic.py - one end of some traffic between two hosts of a lab.

    count HOST           says "up", then how many datagrams came before the first that says "end"
    datagrams HOST N     sends N datagrams, and then ends enough for one of them to get through
    take HOST            says "up", then how long all that one connection brought took, in seconds
    stream HOST BYTES    sends so much through one
"""

import socket
import sys
import time

PORT = 777
ENDS = 50


def count(host):
    with socket.socket(type=socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)  # SO_RCVBUFFORCE: nothing is lost for want of room
        s.bind((host, PORT))
        s.settimeout(20)
        print("up", flush=True)
        n = 0
        while s.recv(9) != b"end":
            n += 1
        print(n)


def datagrams(host, n):
    with socket.socket(type=socket.SOCK_DGRAM) as s:
        for i in range(int(n) + ENDS):
            s.sendto(b"word" if i < int(n) else b"end", (host, PORT))


def take(host):
    with socket.create_server((host, PORT)) as listener:
        listener.settimeout(20)
        print("up", flush=True)
        s, _ = listener.accept()
        with s:
            s.settimeout(20)
            started = time.monotonic()
            while s.recv(1 << 16):
                pass
        print(time.monotonic() - started)


def stream(host, n):
    with socket.create_connection((host, PORT), 20) as s:
        s.sendall(bytes(int(n)))


if __name__ == "__main__":
    {"count": count, "datagrams": datagrams, "take": take, "stream": stream}[sys.argv[1]](*sys.argv[2:])
