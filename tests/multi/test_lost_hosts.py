#!/usr/bin/env python3
"""test_lost_hosts.py - clusters over three hosts, which are network namespaces of this one, lose one of them under load, or part of
its network: every request finishes with the bits of an undisturbed run, and the host's workers join again when it is back.

The coordinator's host stays. Workers are started one by one, as by a supervisor on each host."""

import contextlib
import random
import signal
import tempfile
from pathlib import Path

from cases import case, main, note, skip
from cluster import Cluster, Front, Keys, Process, check, run, same, until
from lab import lab

WORKERS, ON_EACH = 6, 2
LOAD = ["--count", "128", "--at-once", "32", "--prompt", "60", "--tokens", "190"]
TOKENS = 2000  # and more have then been generated


def whole(status):
    return status["state"] == "serving" and all(w["state"] == "ready" for w in status["workers"])


def dead(status):
    return [w["rank"] for w in status["workers"] if w["state"] not in ("ready", "suspect", "loading", "connected")]


class ThreeHosts(contextlib.ExitStack):
    """A coordinator on h0 and two workers on each host, started by hand."""

    def __init__(self, p, fabric):
        super().__init__()
        self.p, self.fabric, self.worker = p, fabric, {}

    def __enter__(self):
        super().__enter__()
        p = self.p
        try:
            self.lab = self.enter_context(lab(3))
            self.keys = Keys(p)
            file = Path(self.enter_context(tempfile.TemporaryDirectory())) / "endpoints"
            doors = ["--listen", "tcp://*:*", "--control", "tcp://*:*", "--endpoint-file", file, "--key", self.keys.cluster]
            words = [p.coordinator, p.golden("mixtral"), "--workers", WORKERS, "--fabric", self.fabric, *doors]
            self.coordinator = self.enter_context(Process([*self.lab.on("h0"), *words]))
            until(lambda: file.exists() and file.read_text().endswith("\n"), "the endpoint file")
            said = file.read_text().split()
            self.endpoint, self.control = (f"tcp://h0:{where.rsplit(':', 1)[1]}" for where in (said[1], said[3]))
            self.front = Front(p, self.endpoint, self.lab.on("h0"), self.keys.client)
            for rank in range(WORKERS):
                self.start(rank)
            self.front.until_status(whole, f"{self.fabric}: it serves")
        except BaseException:
            self.close()
            raise
        return self

    def start(self, rank):
        words = ["--connect", self.control, "--key", self.keys.cluster, "--rank", rank, "--size", WORKERS, "--fabric", self.fabric]
        words = [*self.lab.on(f"h{rank // ON_EACH}"), self.p.worker, *words]
        self.worker[rank] = self.enter_context(Process(words))

    def load(self):
        return Process([*self.lab.on("h0"), self.p.load, "--connect", self.endpoint, "--key", self.keys.client, *LOAD])

    def stop(self):
        self.coordinator.send(signal.SIGTERM)
        ended = self.coordinator.wait()
        same(ended.status, 0, f"the coordinator {ended.err[-600:]!r}")

    def recover(self):
        """What became of a process that was taken for dead is over, and another comes, until all are there."""

        def again():
            s = self.front.status()
            for rank in dead(s):
                if not self.worker[rank].running():
                    self.start(rank)
            return whole(s) and s

        return until(again, f"{self.fabric}: all are there again {self.coordinator.err()[-900:]}")


def undisturbed(p, known=[]):
    """What one worker alone says, and so every cluster."""
    if not known:
        with Cluster(p, p.golden("mixtral"), workers=1) as c:
            known.append(run([p.load, "--connect", c.endpoint, *LOAD], 120).good("undisturbed").out)
    return known[0]


def strike(c, fault, tokens, what):
    """Whatever the fault costs, no answer. False when all answers were there before it."""
    before = c.front.status()
    with c.load() as asked:
        c.front.until_status(lambda s: s["generated_tokens"] >= before["generated_tokens"] + tokens or not asked.running(), "some tokens")
        caught = asked.running()
        fault()
        ended = asked.wait(120)
    check(ended.status == 0, f"{what}: every request finishes: {ended.err[-400:]!r} {c.coordinator.err()[-1500:]}")
    same(ended.out.splitlines(), undisturbed(c.p).splitlines(), f"{what}: the answers of an undisturbed run")
    after = c.front.status()
    same(after["failed"], before["failed"], f"{what}: failed requests")
    lost = [] if not caught else dead(after)
    check(lost or not caught, f"{what}: nobody is missing {after['workers']}")
    note(f"{what}: lost {lost}")
    return caught


def lose(p, seed, fabric, what, faults, back):
    """The words of netlab of a fault, and of its end."""
    draw = random.Random(seed)
    with ThreeHosts(p, fabric) as c:

        def fault():
            for words in faults:
                c.lab.fault(*words)

        for _ in range(10):
            caught = strike(c, fault, draw.randrange(50, TOKENS), f"seed {seed}: {fabric}, {what}")
            for words in back:
                c.lab.fault(*words)
            c.recover()
            if caught:
                break
        check(caught, "always too late")
        with c.load() as asked:
            same(asked.wait(120).good("load").out, undisturbed(p), f"{what}: the answers when all are back")
        c.stop()


def only_soak(p):
    if not p.soak:
        skip("left to soak runs")


def each(p, what, faults, back):
    for seed in range(6 if p.soak else 1):
        lose(p, seed, ("auto", "ucx")[seed % 2], what, faults, back)


@case
def a_whole_host(p):
    """Its workers die and its link goes, at once."""
    each(p, "h2 is lost", [("h2", "kill"), ("h2", "down")], [("h2", "up")])


@case
def a_host_that_is_cut_off(p):
    """And does not know; when the link is back its workers hear that others have their place."""
    only_soak(p)
    each(p, "h1 is cut off", [("h1", "down")], [("h1", "up")])


@case
def one_way(p):
    only_soak(p)
    each(p, "h2 does not hear h1", [("h1", "drop", "h2")], [("h1", "pass", "h2")])


@case
def a_host_that_stands_still(p):
    only_soak(p)
    each(p, "h1 stands still", [("h1", "stop")], [("h1", "cont")])


if __name__ == "__main__":
    main()
