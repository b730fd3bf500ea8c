#!/usr/bin/env python3
"""test_hosts.py - clusters over three hosts, which are network namespaces of this one: the same bits as one worker alone, by
every fabric that crosses hosts; and what is said when a host or its network is lost."""

import json
import os
import signal
import struct
import tempfile
from pathlib import Path

from cases import case, main, note
from cluster import Cluster, Failed, Front, Process, check, ports, run, same, until
from lab import REACH, lab
from slurm import slurm

PROBES = [
    {"prompt": "the sea is", "max_tokens": 30},
    {"prompt": "It was the best of times, it was the worst of times, it was the age of wisdom", "max_tokens": 20},
    {"prompt": "zebra crossing", "max_tokens": 40, "temperature": 1.1, "seed": 99},
]
SIX = {"workers": 6, "hosts": "h0:2,h1:2,h2:2", "listen": "tcp://*:*", "env": REACH}


def six(p, there, fabric, model="mixtral", **options):
    """Started on h0, two workers on each host."""
    return Cluster(p, p.golden(model), within=there.on("h0"), fabric=fabric, **{**SIX, **options})


def answers(front):
    return [front.generate(logprobs=3, **probe) for probe in PROBES]


def from_afar(p, hosts, cluster, host):
    """The verbs of cadre as somebody on another host gives them."""
    return Front(p, f"tcp://h0:{cluster.endpoint.rsplit(':', 1)[1]}", hosts.on(host), cluster.key)


def let_in(hosts, source, doors):
    """How many of the doors of h1 open for somebody on source, and how many of these are ZeroMQ's."""
    knock = ["python3", str(Path(__file__).with_name("knock.py")), "h1"]
    return [int(n) for n in run([*hosts.on(source), *knock, *map(str, doors)]).good("knocking").out.split()]


def check_doors(hosts, fabric, c):
    """Where UCX listens, who comes from no member's host is not heard, whatever it says; with auto nor who is on the same host.
    A worker's one other door is its mover's, where ZeroMQ asks for a key."""
    workers = [pid for pid in hosts.pids("h1") if pid in c.process.named("cadre-worker")]
    doors = [port for pid in workers for port in ports(pid)]
    check(len(doors) >= 3 * len(workers), f"ports of workers {workers}: {doors}")
    strangers = ["h3"] + ["h1"] * (fabric == "auto")
    movers = [len(workers)] * 2
    same([let_in(hosts, host, doors) for host in strangers], [movers] * len(strangers), f"doors that opened for {strangers}")
    same([pid for pid in hosts.pids("h1") if pid in c.process.named("cadre-worker")], workers, "the workers afterwards")


def check_bits(p, fabric):
    with Cluster(p, p.golden("mixtral"), workers=1) as alone:
        wanted = answers(alone)
    with lab(4) as hosts:
        with six(p, hosts, fabric) as c:
            if fabric != "mpi":
                check_doors(hosts, fabric, c)
            for host in ("h0", "h2"):
                got = answers(from_afar(p, hosts, c, host))
                for g, w in zip(got, wanted):
                    same(g, w, f"{fabric}, asked from {host}")
            same([w["host"] for w in c.status()["workers"]], ["h0", "h0", "h1", "h1", "h2", "h2"], "where the workers are")
            same(c.stop().status, 0, "serve")
        same([hosts.pids(h) for h in ("h0", "h1", "h2")], [[], [], []], "what is left on the hosts")


@case
def the_lab_itself(p):
    """Faults do what they say: one packet each way, with a listener that waits for it."""
    listen = "import socket,sys; s=socket.socket(type=socket.SOCK_DGRAM); s.bind((sys.argv[1],7)); s.settimeout({}); "
    listen += "print(end='up', flush=True); print(s.recv(9).decode())"
    send = "import socket,sys; socket.socket(type=socket.SOCK_DGRAM).sendto(b'word', (sys.argv[1],7))"

    def passes(source, target, wait):
        with Process([*hosts.on(target), "python3", "-c", listen.format(wait), target]) as listener:
            until(lambda: listener.out() or not listener.running(), "the listener")
            run([*hosts.on(source), "python3", "-c", send, target])
            return "word" in (listener.wait(), listener.out())[1]

    with lab(3) as hosts:
        check(passes("h0", "h1", 20), "packets get through")
        hosts.fault("h0", "drop", "h1")
        check(not passes("h0", "h1", 0.5), "a dropped direction")
        check(passes("h1", "h0", 20) and passes("h0", "h2", 20), "the other directions")
        hosts.fault("h0", "clear")
        check(passes("h0", "h1", 20), "after the drop")
        hosts.fault("h1", "down")
        check(not passes("h0", "h1", 0.5) and not passes("h1", "h0", 0.5), "a link that is down")
        hosts.fault("h1", "up")
        check(passes("h0", "h1", 20), "a link that is up again")
        try:
            hosts.fault("h1", "loss", "100")
            check(not passes("h0", "h1", 0.5), "all packets lost")
            hosts.fault("h1", "loss", "0")
            check(passes("h0", "h1", 20), "none lost any more")
        except Failed as e:
            check("loss needs" in str(e), e)
            note(e)
        same(run([*hosts.on("h2"), "hostname"]).good().out, "h2\n", "a host's name")
    same(run(["ip", "netns"]).out.count(hosts.name), 0, "namespaces left")


def traffic(hosts, source, sends, target, takes, much):
    """What the receiving end of traffic.py says in the end, as a number."""
    program = ["python3", str(Path(__file__).with_name("traffic.py"))]
    with Process([*hosts.on(target), *program, takes, target]) as receiver:
        until(lambda: receiver.out() or not receiver.running(), "the receiver")
        run([*hosts.on(source), *program, sends, target, str(much)]).good(sends)
        return float(receiver.wait().good(takes).out.split()[-1])


@case
def links_that_lose_or_are_slow(p):
    """A share of the packets is lost, one way; bytes leave a host at the rate that is set, and arrive there at any."""
    sent, share, stream, rate, burst = 500, 0.3, 1500000, 2000000, 256 << 10
    with lab(2) as hosts:
        try:
            hosts.fault("h1", "loss", str(100 * share))
            got = traffic(hosts, "h0", "datagrams", "h1", "count", sent)
            note(f"{got:.0f} of {sent} packets came, {share:.0%} are to be lost")
            check(abs(got / sent - (1 - share)) < 0.12, f"{got:.0f} of {sent} packets came")  # six deviations
            same(traffic(hosts, "h1", "datagrams", "h0", "count", sent), sent, "packets of the other direction")
            hosts.fault("h1", "loss", "0")
        except Failed as e:
            check("loss needs" in str(e), e)
            note(e)
        hosts.fault("h1", "rate", f"{8 * rate // 1000000}mbit")
        slow = traffic(hosts, "h1", "stream", "h0", "take", stream)
        fast = traffic(hosts, "h0", "stream", "h1", "take", stream)
        hosts.fault("h1", "rate", "none")
        free = traffic(hosts, "h1", "stream", "h0", "take", stream)
        least = (stream - burst) / rate
        note(f"{stream} bytes at {rate} a second: {slow:.2f} s; there {fast:.3f} s, and when the limit is gone {free:.3f} s")
        check(0.9 * least < slow < 8 * least, f"{stream} bytes took {slow:.2f} s at {rate} a second")
        check(fast < slow / 2 and free < slow / 2, f"without a limit they took {fast:.2f} s and {free:.2f} s, with one {slow:.2f} s")


@case
def mpi(p):
    check_bits(p, "mpi")


@case
def ucx(p):
    check_bits(p, "ucx")


@case
def auto(p):
    check_bits(p, "auto")


def hops(front):
    return front.cadre("status", "--links", "--json").good().json()["hops"]


def chosen(file):
    """The home and the experts of each token in each layer, as a trace has them (docs/TRACE.md)."""
    data, at = Path(file).read_bytes(), 8
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        at += 8 + size
        if kind == 1:
            _, _, _, k, layers = struct.unpack_from("<5I", data, at - size)
            cell = (8 + 4 * k + 2 * k + 3) // 4 * 4
        if kind != 3:
            continue
        home, rows = struct.unpack_from("<II", data, at - size)
        for row in range(rows):
            first = at - size + 16 + row * (24 + layers * cell) + 24 + 8 + 4 * k
            for layer in range(layers):
                yield home, struct.unpack_from(f"<{k}H", data, first + layer * cell)


def expected_copies(file, workers):
    """From who chose what: copies of tokens that cross to another host, once for each host and once for each worker."""
    of = {}
    for w in workers:
        first, _, last = w["placement"].partition("-")
        of.update({e: w["rank"] for e in range(int(first), int(last or first) + 1)})
    host = {w["rank"]: w["host"] for w in workers}
    once = each = 0
    for home, experts in chosen(file):
        far = {of[e] for e in experts if host[of[e]] != host[home]}
        once += len({host[w] for w in far})
        each += len(far)
    return once, each


@case
def two_hops(p):
    """The same bits when tokens cross once; what crossed is counted, what would have in one hop, and the answers beside it: as
    many as the routes demand, which a trace records, and not one more.
    Every worker of another host than the home's has one expert, so in one hop there are as many copies as answers."""
    with Cluster(p, p.golden("olmoe"), workers=1) as alone:
        wanted = answers(alone)
    width = json.loads(Path(p.golden("olmoe"), "config.json").read_text())["hidden_size"] * 4
    with lab(3) as hosts:
        for fabric in ("ucx", "auto"):
            with tempfile.TemporaryDirectory() as folder, six(p, hosts, fabric, model="olmoe", dispatch="two-hop") as c:
                file = str(Path(folder, "routing.trace"))
                with c.start("trace", out=file) as tracer:
                    until(lambda: "recording" in tracer.err(), "the recording began")
                    for got, want in zip(answers(c), wanted):
                        same(got, want, f"{fabric}, two hops")
                    tracer.send(signal.SIGINT)
                    same(tracer.wait().status, 0, "exit status of trace")
                once, each = expected_copies(file, c.status()["workers"])
                until(lambda: (h := hops(c))["far_answers"] >= each and h["far_direct"] >= each, "all workers' counts", 10 * p.slow)
                h = hops(c)
                same([h["hosts"], h["direct_steps"], h["two_from"]], [3, 0, 1], "hosts, steps in one hop, and from how many tokens in two")
                check(h["two_hop_steps"] and 0 < h["far_rows"] < h["far_direct"], h)
                same([h["far_rows"], h["far_direct"], h["far_answers"]], [once, each, each], "copies and answers, by the routes")
                same(h["far_dispatch_bytes"], h["far_rows"] * width, "bytes of dispatches")
                same(h["far_combine_bytes"], h["far_answers"] * width, "bytes of answers")
                note(f"{fabric}: {h}")


@case
def a_slow_network_is_crossed_once(p):
    """Nobody said how to dispatch: the links did, at the start, and what follows from the figures is done. A machine that is
    busy then may hide how fast a host's inside is, or leave no time to learn of the links: then nothing is claimed of it; nor
    where all that the measurement sent fitted the bucket of tokens by which the lab makes a link slow."""
    with Cluster(p, p.golden("olmoe"), workers=1) as alone:
        wanted = answers(alone)
    with lab(3) as hosts:
        for host in ("h0", "h1", "h2"):
            hosts.fault(host, "rate", "8mbit")
        with six(p, hosts, "auto", model="olmoe") as c:
            h = hops(c)
            known = h["between_rate"] and h["inside_rate"]
            slow = h["between_rate"] < 4e6  # of a megabyte a second; else the bucket held what was sent
            if known and slow and h["inside_rate"] > 10 * h["between_rate"] and h["inside_latency_ns"] < 2e6:
                check(h["two_from"], f"two hops on such links: {h}")
            if not known:
                same(h["two_from"], 0, "two hops while links are not known")
            for got, want in zip(answers(c), wanted):
                same(got, want, "over a slow network")
            h = hops(c)
            if h["two_from"] <= 8:  # a prompt has more
                same(h["two_hop_steps"] > 0, h["two_from"] > 0, f"steps in two hops: {h}")
            note(h)


@case
def in_a_slurm_job(p):
    """serve as the job's command: srun starts the workers, or mpirun an MPI world; neither is told of any host."""
    with Cluster(p, p.golden("mixtral"), workers=1) as alone:
        wanted = answers(alone)
    with lab(3) as hosts, slurm(hosts, 3) as env:
        job = ["salloc", "--quiet", "-N3", "-n6", "--ntasks-per-node=2"]
        for fabric in ("auto", "mpi"):
            with six(p, hosts, fabric, hosts=None, job=job, env={**REACH, **env}) as c:
                asked = from_afar(p, hosts, c, "h1")
                for got, want in zip(answers(asked), wanted):
                    same(got, want, f"{fabric} in a Slurm job")
                same([w["host"] for w in asked.status()["workers"]], ["h0", "h0", "h1", "h1", "h2", "h2"], "where the workers are")
                os.kill(next(pid for pid in hosts.pids("h0") if pid in c.process.named("cadre")), signal.SIGTERM)
                same(c.process.wait().status, 0, "serve")


def check_loss(p, fabric, fault, *mend):
    """The answers stay. Workers of the host come back with mpirun, if that ended everybody; else the others go on."""
    with lab(3) as hosts, six(p, hosts, fabric) as c:
        front = from_afar(p, hosts, c, "h0")
        wanted = front.generate(prompt="x", max_tokens=4)
        before = {w["pid"] for w in front.status()["workers"] if w["host"] == fault[0]}
        hosts.fault(*fault)
        until(lambda: " is dead: " in c.process.err(), f"the loss of {fault[0]}")
        if mend:
            hosts.fault(*mend)

        def serves():
            check(c.process.running(), f"serve goes on {c.process.err()[-900:]}")
            s = front.status()
            ready = {w["pid"] for w in s["workers"] if w["state"] == "ready"}
            return s["state"] == "serving" and len(ready) >= 4 and not before & ready

        until(serves, f"{fabric}: it serves without the lost", 60 * p.slow)
        same(front.generate(prompt="x", max_tokens=4), wanted, f"{fabric}: the answer")


@case
def nothing_survives_the_supervisor(p):
    """On no host."""
    for fabric in ("mpi", "auto"):
        with lab(3) as hosts, six(p, hosts, fabric) as c:
            check(all(hosts.pids(h) for h in ("h0", "h1", "h2")), "something runs on every host")
            os.kill(next(pid for pid in hosts.pids("h0") if pid in c.process.named("cadre")), signal.SIGKILL)
            until(lambda: not any(hosts.pids(h) for h in ("h0", "h1", "h2")), f"{fabric}: the end of all processes", 20 * p.slow)


@case
def a_host_dies(p):
    """And could be used again at once."""
    for fabric in ("mpi", "auto"):
        check_loss(p, fabric, ("h2", "kill"))


@case
def a_host_is_cut_off(p):
    for fabric in ("mpi", "auto"):
        check_loss(p, fabric, ("h1", "down"), "h1", "up")


if __name__ == "__main__":
    main()
