#!/usr/bin/env python3
"""bench_recovery.py - how long a worker's death holds up the clients of `cadre serve`, phase by phase, over several kills.

Each kill is a kill -9 in the middle of numbered requests, each worker in turn. The answers must be those of the same requests
undisturbed, before and after, the baseline of the same run: how much longer they took is what a death costs in all. The
phases' times are the coordinator's own (`cadre status`).

usage: bench_recovery.py --build DIR MODEL [--fabric shm] [--workers 4] [--kills 20] [--tokens 96] [--replicas] [--check]

--replicas: every expert lives on two workers, so nothing must be loaded. tools/random_moe.py makes a model of 3.4 billion
weights."""

import argparse
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "multi"))
from cluster import Cluster, Failed, Process, Programs, check, run  # noqa: E402

PHASES = {
    "detect": "found dead",
    "decide": "the others told",
    "reload": "what was lost loaded",
    "first_step": "a step committed",
    "recompute": "all answers gone on",
}
FLOOR_MS, REPLICAS_MS = 6000, 1000  # for so long at most nobody may have a token; with replicas of all experts


def arguments():
    a = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    a.add_argument("--build", required=True)
    a.add_argument("model")
    a.add_argument("--fabric", default="shm", choices=["shm", "ucx", "auto"])
    a.add_argument("--workers", type=int, default=4)
    a.add_argument("--kills", type=int, default=20)
    a.add_argument("--replicas", action="store_true", help="every expert on two workers")
    a.add_argument("--at-once", type=int, default=16)
    a.add_argument("--tokens", type=int, default=96, help="longest answer; also longest prompt")
    a.add_argument("--check", action="store_true", help="exit 1 when a request was lost, a bit differed, or it took too long")
    return a.parse_args()


def percentile(values, q):
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


def whole(s):
    return s["state"] == "serving" and all(w["state"] == "ready" for w in s["workers"])


class Bench:
    def __init__(self, o):
        self.o = o
        self.times, self.stood, self.lost, self.equal = {name: [] for name in PHASES}, [], 0, True
        self.alone, self.killed = [], []  # seconds that the same requests took

    def load(self, c):
        o = self.o
        words = ["--count", str(3 * o.at_once), "--at-once", str(o.at_once)]
        return [c.programs.load, "--connect", c.endpoint, *words, "--prompt", str(o.tokens), "--tokens", str(o.tokens)]

    def undisturbed(self, c):
        before, began = c.until_status(whole, "all workers are there", 120), time.monotonic()
        answers = run(self.load(c), 600).good("undisturbed").out
        self.alone.append(time.monotonic() - began)
        self.tokens = c.status()["generated_tokens"] - before["generated_tokens"]
        self.wanted = getattr(self, "wanted", answers)
        self.equal = self.equal and answers == self.wanted

    def kill(self, c, rank):
        before = c.until_status(whole, "all workers are there", 120)
        at = before["generated_tokens"] + random.randrange(self.tokens // 10, self.tokens // 2)
        began = time.monotonic()
        with Process(self.load(c)) as asked:
            c.until_status(lambda s: s["generated_tokens"] >= at, "some tokens", 600)
            os.kill(before["workers"][rank]["pid"], signal.SIGKILL)
            r = asked.wait(600)
        self.killed.append(time.monotonic() - began)
        self.lost += c.status()["failed"] - before["failed"]
        self.equal = self.equal and r.status == 0 and r.out == self.wanted
        what = "a recovery under load; when requests end before a death is seen, ask for more --tokens"
        told = c.until_status(lambda s: s["recovery"]["detect_us"] != before["recovery"]["detect_us"] and s, what, 20)["recovery"]
        for name in PHASES:
            self.times[name].append(told[name + "_us"] / 1e3)
        self.stood.append(sum(told[name + "_us"] for name in PHASES if name != "recompute") / 1e3)

    def table(self):
        total = sum(sum(v) for v in self.times.values())
        print(f"{'phase':<12} {'until':<24} {'p50 ms':>9} {'p99 ms':>9} {'share':>7}")
        for name, what in PHASES.items():
            v = self.times[name]
            print(f"{name:<12} {what:<24} {percentile(v, 0.5):9.1f} {percentile(v, 0.99):9.1f} {100 * sum(v) / total:6.1f}%")
        print(f"{'in all':<12} {'nobody had a token':<24} {percentile(self.stood, 0.5):9.1f} {percentile(self.stood, 0.99):9.1f}")
        print(f"the same requests took {self.alone_s():.2f} s undisturbed, {percentile(self.killed, 0.5):.2f} s (p50) with a death in them")
        print(f"{len(self.stood)} kills; {self.lost} requests lost; bits {'equal' if self.equal else 'DIFFER'}")

    def alone_s(self):
        return sum(self.alone) / len(self.alone)

    def record(self):
        o = self.o
        of = {name: {"p50_ms": percentile(v, 0.5), "p99_ms": percentile(v, 0.99)} for name, v in self.times.items()}
        of["stood_still"] = {"p50_ms": percentile(self.stood, 0.5), "p99_ms": percentile(self.stood, 0.99)}
        return {
            "bench": "recovery",
            "model": Path(o.model).name,
            "fabric": o.fabric,
            "workers": o.workers,
            "kills": o.kills,
            "lost": self.lost,
            "bits_equal": self.equal,
            "replicas": o.replicas,
            "undisturbed_s": self.alone_s(),
            "with_a_death_p50_s": percentile(self.killed, 0.5),
            "ratio": percentile(self.killed, 0.5) / self.alone_s(),
            "undisturbed_tokens_per_s": self.tokens / self.alone_s(),
            **of,
        }


def twice(file, o):
    """A placement: expert e on workers e and e + 1."""
    config = json.loads(Path(o.model, "config.json").read_text())
    experts = next(config[k] for k in ("num_local_experts", "num_experts", "n_routed_experts") if k in config)
    for e in range(experts):
        file.write(f"* {e} {e % o.workers},{(e + 1) % o.workers}\n")
    file.flush()
    return file.name


def main():
    o = arguments()
    b = Bench(o)
    with tempfile.NamedTemporaryFile("w") as file:
        options = {"placement": twice(file, o)} if o.replicas else {}
        with Cluster(Programs(o.build, "."), o.model, workers=o.workers, fabric=o.fabric, **options) as c:
            b.undisturbed(c)
            for k in range(o.kills):
                b.kill(c, k % o.workers)
            b.undisturbed(c)
            check(c.stop().status == 0, "serve did not end in order")
    b.table()
    good = b.equal and not b.lost and percentile(b.stood, 0.99) <= (REPLICAS_MS if o.replicas else FLOOR_MS)
    print(json.dumps(b.record()))
    return 0 if good or not o.check else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as e:
        sys.exit(f"bench_recovery: {e}")
