#!/usr/bin/env python3
"""test_strangers.py - somebody who can reach every port of a cluster and has not its key: whatever they send or keep open,
no process ends or grows, and requests are answered as before."""

import os
import random
import resource
import socket
import struct
from contextlib import contextmanager
from pathlib import Path

from cases import case, main, note
from cluster import Cluster, Front, Keys, check, ports, same, until

ROUNDS, SOAK_ROUNDS, KEPT = 4, 1000, 200
FILES = 128  # a process may have, so that connections run out
GROWTH_KIB = 16 << 10


def resident_kib(pid):
    return next(int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))


def files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def sayings(r):
    """Noise, other protocols, and the beginnings of those spoken here."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + b"\0" + bytes(31)
    hello = b"\x04\xc8\x05HELLO\x01\x00" + r.randbytes(192)
    bent = bytearray(greeting + hello)
    for _ in range(r.randrange(1, 9)):
        bent[r.randrange(len(bent))] = r.randrange(256)
    return [
        b"",
        r.randbytes(r.randrange(1, 70000)),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        greeting.replace(b"CURVE", b"NULL\0") + b"\x04\x05\x05READY",
        greeting + hello[: r.randrange(len(hello))],
        bytes(bent),
        greeting + struct.pack(">BQ", 6, 1 << 62) + r.randbytes(100),
        struct.pack("<Q", 0xCAFEBABE12345678)[: r.randrange(1, 8)],
    ]


def harass(port, r, kept):
    """How often it came in contact with the port."""
    n = 0
    for words in sayings(r):
        s = socket.create_connection(("127.0.0.1", port), 10)
        s.settimeout(0.005)
        n += 1
        try:
            s.sendall(words)
            s.recv(4096)
        except OSError:
            pass
        if len(kept) < KEPT and r.random() < 0.3:
            kept.append(s)
        else:
            s.close()
    return n


def network(p):
    return "ucx" if (p.build / "tests/unit/fabric/test_fabric_ucx").exists() else "shm"


def cluster(p):
    keys = Keys(p)
    return Cluster(p, p.golden("mixtral"), fabric=network(p), workers=2, key=keys.cluster, net_devices="lo"), keys


asked = {"prompt": "the sea", "max_tokens": 12}


@contextmanager
def few_files():
    """For what is started inside."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 16 * FILES)), hard))


@case
def more_connections_than_files(p):
    with few_files():
        c, keys = cluster(p)
    with c:
        wanted = c.generate(**asked)
        family = sorted(c.process.family())
        doors = [port for pid in family for port in ports(pid)]
        kept = [socket.socket() for _ in range(FILES * len(doors))]
        for n, s in enumerate(kept):
            s.setblocking(False)
            s.connect_ex(("127.0.0.1", doors[n % len(doors)]))
        c.cadre("status")  # whether it gets in or not, it ends
        for s in kept:
            s.close()
        until(lambda: c.cadre("status").status == 0, "the door free again")
        same(c.generate(**asked), wanted, "the answer afterwards")
        same(sorted(c.process.family()), family, "the processes")


def drains_with(key, p, c):
    """What is said to somebody who asks that a worker leave which is not there."""
    r = Front(p, c.endpoint, key=key).cadre("drain", "7")
    same(r.status, 1, f"drain {r.err!r}")
    return r.err


def check_operators(p, c, keys):
    """With a client's key one asks, with the cluster's one changes it."""
    before = c.status()["strangers"]
    told = drains_with(keys.client, p, c)
    check("PERMISSION_DENIED" in told and "cadre.key" in told, told)
    same(c.status()["strangers"], before + 1, "strangers")
    told = drains_with(keys.cluster, p, c)
    check("no worker 7" in told, told)
    same(c.status()["strangers"], before + 1, "strangers, with an operator's key")


@case
def noise_at_every_port(p):
    r, kept = random.Random(1), []
    ucx = network(p)
    c, keys = cluster(p)
    with c:
        wanted = c.generate(**asked)
        family = sorted(c.process.family())
        check_operators(p, c, keys)
        before = {pid: resident_kib(pid) for pid in family}
        opened = {pid: files(pid) for pid in family}
        doors = {pid: ports(pid) for pid in family}
        knocks = {pid: 0 for pid in family}
        check(sum(map(len, doors.values())) >= (4 if ucx == "ucx" else 2), f"ports of all: {doors}")
        for n in range(SOAK_ROUNDS if p.soak else ROUNDS):
            for pid in family:
                knocks[pid] += sum(harass(port, r, kept) for port in doors[pid])
            if n % 100 == 1:
                same(c.generate(**asked), wanted, "the answer among strangers")
        for s in kept:
            s.close()
        until(lambda: all(files(pid) <= opened[pid] + 4 for pid in family), "strangers' connections gone, with nothing to do")
        same(c.generate(**asked), wanted, "the answer after strangers")
        same(sorted(c.process.family()), family, "the processes")
        for pid in family:
            grown = resident_kib(pid) - before[pid]
            check(p.sanitized or grown < GROWTH_KIB, f"process {pid} grew by {grown} KiB")
        refused = knocks[c.process.named("cadre-coordinator")[0]]
        until(lambda: c.status()["strangers"] >= refused, f"all {refused} connections counted")
        note(f"{sum(knocks.values())} connections to {doors}, {refused} of them to the coordinator")


if __name__ == "__main__":
    main()
