#!/usr/bin/env python3
"""test_elastic.py - workers join a cluster that serves, and leave it: no request fails, and every answer has the same bits."""

import json
import os
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path

from cases import case, main, note
from cluster import Cluster, Front, Process, check, run, same, until

COUNT = 400

FROM = "pack_blobs peer_blobs disk_blobs source_failures".split()


class Growing:
    """A coordinator for up to six workers that begins with two, which it gives their ranks."""

    def __init__(self, p, stack, fabric, folder, memory=(0, 0), fits=True):
        self.p, self.stack, self.fabric = p, stack, fabric
        told = Path(folder, "endpoints")
        words = ["--workers", "2", "--max-workers", "6", "--fabric", fabric, "--kv-tokens", "4096", "--endpoint-file", told]
        doors = ["--listen", "tcp://127.0.0.1:*", "--control", "tcp://127.0.0.1:*"]
        lease = ["--lease", "5"] if p.slow > 1 else ["--lease", "2"]
        self.coordinator = stack.enter_context(Process([p.coordinator, p.golden("mixtral"), *words, *doors, *lease]))
        until(told.exists, "the endpoints")
        _, listen, _, self.control = told.read_text().split()
        self.workers = {}
        for bytes in memory:
            self.join(1, "--memory", str(bytes))
        if not fits:
            return
        self.front = Front(p, listen)
        self.front.cadre("status", "-q", "--wait", "60").good(f"status --wait: {self.coordinator.err()[-600:]}")

    def join(self, n, *words):
        words = ["--fabric", self.fabric, "--threads", "1", "--connect", self.control, *words]
        for _ in range(n):
            process = self.stack.enter_context(Process([self.p.worker, *words]))
            self.workers[process.pid] = process

    def serving(self, n):
        return lambda s: s["state"] == "serving" and sum(w["state"] == "ready" and w["experts"] > 0 for w in s["workers"]) == n

    def drain(self, rank):
        process = self.workers[self.front.status()["workers"][rank]["pid"]]
        self.front.cadre("drain", str(rank)).good(f"drain {rank}")
        same(process.wait(30).status, 0, f"exit status of worker {rank}: {process.err()[-300:]}")


def figures(front, kind):
    told = [json.loads(line) for line in front.cadre("events", "--json").good("events").out.splitlines()]
    return [e["figures"] for e in told if e["kind"] == kind]


def from_peers(c, fabric):
    """Who comes has its experts from those who serve; what a leaving one had goes to the others from it. (Of several that come at
    once one may ask for what was given to another meanwhile; that is on disk.)"""
    came, begun = figures(c.front, "worker-ready"), figures(c.front, "epoch-begun")
    check(all(f["peer_blobs"] == 0 and f["disk_blobs"] > 0 for f in came[:2]), f"the first two load from disk: {came}")
    check(came[2]["peer_blobs"] > 0 and came[2]["disk_blobs"] == 0, f"the first newcomer, from the others: {came}")
    check(not any(f["source_failures"] for f in came + begun), f"nobody failed to give: {came} {begun}")
    moved, loaded = (sum(f[k] for f in begun) for k in ("peer_blobs", "disk_blobs"))
    check(moved > 0, f"of what those had that left: {begun}")
    note(f"{fabric}: {sum(f['peer_blobs'] for f in came)} blobs for newcomers, {moved} of {moved + loaded} when some left")


def grows_and_shrinks(p, fabric):
    words = ["--count", str(COUNT), "--at-once", "24", "--prompt", "20", "--tokens", "100"]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        c = Growing(p, stack, fabric, folder)
        load = [p.load, "--connect", c.front.endpoint, *words]
        wanted = run(load, 150).good("two workers, undisturbed").out
        asked = stack.enter_context(Process(load))
        c.front.until_status(lambda s: s["finished"] >= COUNT + 10, "some have finished")
        for n in (3, 6):
            c.join(n - len(c.workers))
            c.front.until_status(c.serving(n), f"{n} workers, each with experts")
        s = c.front.status()
        check(min(w["experts"] for w in s["workers"]) >= 2, f"everyone has a part: {[w['experts'] for w in s['workers']]}")
        under_load = s["running"] + s["waiting"]
        for rank in (0, 3, 5):
            c.drain(rank)
        s = c.front.until_status(c.serving(3), "three are left")
        same([w["state"] for w in s["workers"]], ["left", "ready", "ready", "left", "ready", "left"], "who is there")
        note(f"{fabric}: {under_load} requests in there when six served, {s['running'] + s['waiting']} when three were left")
        r = asked.wait(150)
        check(r.status == 0, f"every request finishes: {r.status} {r.err[-400:]!r}")
        same(r.out.splitlines(), wanted.splitlines(), "the answers of two undisturbed workers")
        check(under_load, "the load was over too early to matter")
        from_peers(c, fabric)
        c.join(1)
        c.front.until_status(c.serving(4), "another in a place that is free again")
        for words, told in (("7", "no worker 7"), ("0", "no worker 0") if s["workers"][0]["state"] != "left" else ("9", "no worker 9")):
            r = c.front.cadre("drain", words)
            check(r.status == 1 and told in r.err, f"drain {words}: {r.status} {r.err!r}")
        c.coordinator.send(15)
        same(c.coordinator.wait(60).status, 0, "an orderly end")


@case
def grows_and_shrinks_shm(p):
    grows_and_shrinks(p, "shm")


@case
def grows_and_shrinks_auto(p):
    if p.soak:
        for fabric in ("auto", "ucx"):
            grows_and_shrinks(p, fabric)


@case
def nobody_may_leave(p):
    """The last one, or when the others could not hold the model."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        c = Growing(p, stack, "shm", folder)
        c.drain(0)
        r = c.front.cadre("drain", "1")
        check(r.status == 1 and "no other" in r.err, f"the last one: {r.status} {r.err!r}")
        check(c.front.generate(prompt="still", max_tokens=4)["text"] is not None, "it goes on")


@case
def unequal_memory(p):
    """Who may use more holds more; the answer is the same."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        c = Growing(p, stack, "shm", folder)
        wanted, workers = c.front.generate(prompt="once", max_tokens=8), c.front.status()["workers"]
        experts = sum(w["weight_bytes"] for w in workers)
        others = max(sum(w[f"{part}_bytes"] for part in ("resident", "kv", "buffer", "exchange")) for w in workers)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        c = Growing(p, stack, "shm", folder, [others + experts * 3 // 10, others + experts + 4096])
        held = sorted(w["experts"] for w in c.front.status()["workers"])
        check(held in ([2, 14], [4, 12]), f"experts of both, over two layers, by who has which rank: {held}")
        same(c.front.generate(prompt="once", max_tokens=8), wanted, "the answer")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        c = Growing(p, stack, "shm", folder, [others // 2, others + experts + 4096], fits=False)
        r = c.coordinator.wait(30)
        check(r.status == 1 and "does not fit" in r.err, f"too little: {r.status} {r.err[-300:]!r}")


@case
def under_serve(p):
    """What joins is nobody's child; what was asked to leave is not started again."""
    with Cluster(p, p.golden("mixtral"), workers=2, max_workers=3, fabric="shm") as c:
        wanted = c.generate(prompt="once", max_tokens=8)
        with Process([p.worker, "--fabric", "shm", "--threads", "1", "--connect", c.status()["control"]]) as third:
            c.until_status(lambda s: sum(w["state"] == "ready" and w["experts"] > 0 for w in s["workers"]) == 3, "three workers")
            c.cadre("drain", "0").good("drain")
            until(lambda: "has left" in c.process.err(), "serve says that it has left")
            same(c.generate(prompt="once", max_tokens=8), wanted, "the answer of other workers")
            same([w["state"] for w in c.status()["workers"]], ["left", "ready", "ready"], "who is there")
            same(c.stop().status, 0, "an orderly end")
            same(third.wait(30).status, 0, "exit status of the one that joined")


@case
def waits_for_another(p):
    """Where one alone cannot hold the model that is said at the start, and of two that serve one dies: what was asked waits for
    whoever comes, and its answers are the same."""
    words = ["--count", "64", "--at-once", "16", "--prompt", "20", "--tokens", "100"]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        c = Growing(p, stack, "shm", folder)
        wanted, workers = run([p.load, "--connect", c.front.endpoint, *words], 120).good("undisturbed").out, c.front.status()["workers"]
        room = max(sum(w[f"{part}_bytes"] for part in ("weight", "resident", "kv", "buffer", "exchange")) for w in workers) + 4096
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        c = Growing(p, stack, "shm", folder, [room, room])
        check(c.front.status()["recovery"]["without_one"], f"one alone could not: {c.front.status()['recovery']}")
        asked = stack.enter_context(Process([p.load, "--connect", c.front.endpoint, *words]))
        s = c.front.until_status(lambda s: s["generated_tokens"] > 200, "some tokens")
        c.workers[s["workers"][1]["pid"]].send(signal.SIGKILL)
        s = c.front.until_status(lambda s: s["workers"][1]["state"] == "dead" and s["state"] == "recovering", "requests wait")
        check(s["running"] + s["waiting"] > 0 and not s["failed"] and asked.running(), f"none has failed: {s['failed']}")
        c.join(1, "--memory", str(room))
        same(asked.wait(120).good("what waited").out.splitlines(), wanted.splitlines(), "the answers of an undisturbed run")
        c.coordinator.send(signal.SIGTERM)
        same(c.coordinator.wait(60).status, 0, "an orderly end")


@case
def from_a_pack(p):
    """What a dead worker held is mapped by the others; the answers are those of the model it was made of, in that format. And
    who holds it corrupt has it from another."""
    with Cluster(p, p.golden("mixtral"), workers=2, fabric="shm", weights="q4") as c:
        wanted = c.generate(prompt="once", max_tokens=8)
    with tempfile.TemporaryDirectory() as folder:
        pack = str(Path(folder, "mixtral"))
        for said in ("made in", "was there already"):
            made = run([p.cadre, "pack", p.golden("mixtral"), "-o", pack, "--weights", "q4"]).good("pack")
            check(said in made.out, f"pack: {made.out!r}")
        with Cluster(p, pack, workers=3, fabric="shm") as c:
            same(c.generate(prompt="once", max_tokens=8), wanted, "the answer, from a pack")
            before = c.status()["workers"]
            for w in before:
                check(w["mapped_bytes"] > w["weight_bytes"] > 0, f"all experts are mapped, and other weights: {w}")
                same([w[k] for k in FROM], [w["experts"], 0, 0, 0], "where they came from")
            told = run([p.cadre, "inspect", pack, "--json", "--workers", "3"]).good("inspect").json()["workers"]
            same([w["mapped_bytes"] for w in before], [w["mapped_bytes"] for w in told], "bytes mapped, as told before")
            victim = before[1]["pid"]
            os.kill(victim, signal.SIGKILL)
            there = lambda ws: ws[1]["pid"] != victim and all(w["state"] == "ready" and w["experts"] > 0 for w in ws)
            after = c.until_status(lambda s: s["state"] == "serving" and there(s["workers"]), "a successor", 30 * p.slow)
            for w, old in zip(after["workers"], before, strict=True):
                others = [x["mapped_bytes"] - x["weight_bytes"] for x in (w, old)]
                same(*others, f"what else is mapped, of worker {w['rank']}")
                check(w["pack_blobs"] >= w["experts"], f"all that it holds has been mapped: {w}")
            same(c.generate(prompt="once", max_tokens=8), wanted, "the answer after a death")
            for kind in ("worker-ready", "epoch-begun"):
                told = figures(c, kind)
                check(sum(f["pack_blobs"] for f in told) > 0, f"mapped: {told}")
                same([f["disk_blobs"] + f["peer_blobs"] for f in told], [0] * len(told), "blobs from elsewhere")
            same(c.stop().status, 0, "serve")
        r = run([p.cadre, "serve", pack, "--workers", "1", "--weights", "bf16"])
        check(r.status == 1 and "holds q4" in r.err, f"in another format: {r.status} {r.err!r}")
        weights = bytearray(Path(pack, "weights.pack").read_bytes())
        weights[weights.rindex(b"CDXB") + 500] ^= 1  # in the last expert's payload
        Path(pack, "weights.pack").write_bytes(weights)
        r = run([p.cadre, "pack", "--verify", pack])
        check(r.status == 1 and "layer 1, expert 7" in r.err, f"verify: {r.status} {r.err!r}")
        with Process([p.cadre, "serve", pack, "--workers", "2", "--fabric", "shm", "--listen", "tcp://127.0.0.1:*"]) as c:
            ended = c.wait(60 * p.slow)
            check(ended.status == 1 and "layer 1, expert 7" in ended.err, f"nobody has it: {ended.status} {ended.err[-400:]!r}")


if __name__ == "__main__":
    main()
