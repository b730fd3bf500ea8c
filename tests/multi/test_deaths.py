#!/usr/bin/env python3
"""test_deaths.py - workers of `cadre serve` die under load: every request finishes, with the bits of an undisturbed run, each token
once; another worker takes the place of the dead one; and what cannot go on says so."""

import json
import os
import random
import re
import signal
import time

from cases import case, main, note
from cluster import Cluster, Process, check, mpirun, run, same, until

WORKERS = 4
LOAD = ["--count", "192", "--at-once", "32", "--prompt", "60", "--tokens", "190"]
TOKENS = 2500  # and more have then been generated


def fabrics(p):
    return ["shm", "ucx", "auto"]


def pids(status):
    return [w["pid"] for w in status["workers"]]


def whole(status):
    return status["state"] == "serving" and all(w["state"] == "ready" for w in status["workers"])


def kill_in_the_middle(c, victims, wanted, what):
    """Kills them when some tokens are there; False when all answers were there first."""
    before = c.status()
    tokens = before["generated_tokens"] + random.randrange(50, TOKENS)
    with Process([c.programs.load, "--connect", c.endpoint, *LOAD]) as asked:
        c.until_status(lambda s: s["generated_tokens"] >= tokens or not asked.running(), "some tokens")
        caught = asked.running()
        for victim in victims if caught else []:
            os.kill(pids(before)[victim], signal.SIGKILL)
        r = asked.wait(120)
        check(r.status == 0, f"{what}: every request finishes: {r.status} {r.err[-400:]!r} {r.out[-300:]!r}")
        same(r.out.splitlines(), wanted.splitlines(), f"{what}: the answers of an undisturbed run")
    return caught


def one_disturbed_run(c, victims, wanted, what):
    """And waits for the successors."""
    before = c.status()
    killed = time.monotonic()
    check(any(kill_in_the_middle(c, victims, wanted, what) for _ in range(10)), f"{what}: always too late")
    lost = [pids(before)[v] for v in victims]
    after = c.until_status(lambda s: whole(s) and not set(lost) & set(pids(s)), f"{what}: a successor serves", 30 * c.programs.slow)
    same(after["failed"], before["failed"], f"{what}: failed requests")
    check(c.process.running(), f"{what}: serve goes on")
    note(f"{what}: all as before after {time.monotonic() - killed:.1f} s")


def events_tell(c, victim):
    """Each death, and the phases of what followed."""
    told = [json.loads(line) for line in c.cadre("events", "--json").good("events").out.splitlines()]
    same([e["number"] for e in told], list(range(1, len(told) + 1)), "events in order, none missing")
    dead = [e["number"] for e in told if e["kind"] == "worker-dead" and e["rank"] == victim]
    check(dead, f"worker {victim} died: {told}")
    begun = [e["number"] for e in told if e["kind"] == "epoch-begun" and e["number"] > dead[0]]
    done = [e for e in told if e["kind"] == "recovered" and begun and e["number"] > begun[0]]
    check(done, f"all answers went on: {told}")
    check({"detect_us", "decide_us", "reload_us", "first_step_us", "recompute_us", "silent_us"} == set(done[0]["figures"]), done[0])


def undisturbed(c):
    return run([c.programs.load, "--connect", c.endpoint, *LOAD], 120).good("undisturbed").out


def serve(p, fabric, **options):
    return Cluster(p, p.golden("mixtral"), workers=WORKERS, fabric=fabric, **options)


@case
def each_worker_in_turn(p):
    for i, fabric in enumerate(fabrics(p)):
        with serve(p, fabric) as c:
            wanted = undisturbed(c)
            for n in range(12 if p.soak else 1):
                one_disturbed_run(c, [(n + i) % WORKERS], wanted, f"{fabric}, worker {(n + i) % WORKERS}")
            events_tell(c, i % WORKERS)
            same(c.stop().status, 0, "serve")


@case
def an_idle_worker(p):
    with serve(p, "ucx") as c:
        wanted = undisturbed(c)
        c.idle()
        victim = pids(c.status())[3]
        os.kill(victim, signal.SIGKILL)
        c.until_status(lambda s: whole(s) and victim not in pids(s), "a successor serves", 30 * p.slow)
        same(undisturbed(c), wanted, "the answers")
        same(c.stop().status, 0, "serve")


@case
def pairs(p):
    for fabric in fabrics(p) if p.soak else ["shm"]:
        with serve(p, fabric) as c:
            wanted = undisturbed(c)
            for a in range(WORKERS if p.soak else 1):
                one_disturbed_run(c, [a, (a + 2) % WORKERS], wanted, f"{fabric}, workers {a} and {(a + 2) % WORKERS}")
            same(c.stop().status, 0, "serve")


@case
def all_of_them(p):
    """Nobody is left who holds the model: requests wait for the successors."""
    with serve(p, "shm") as c:
        one_disturbed_run(c, range(WORKERS), undisturbed(c), "shm, all workers")
        same(c.stop().status, 0, "serve")


def kill_all_at_once(c):
    """Who launched the workers."""
    os.kill(next(iter(c.process.named("orterun") + c.process.named("mpirun") + c.process.named("prterun"))), signal.SIGKILL)


@case
def those_that_stand_and_fall_together(p):
    """A world of MPI, threads of a process: all are started again, and every answer goes on."""
    for fabric, victims in {"mpi": [2], "mem": [0], "mpi-alltoallv": [1]}.items() if p.soak else {"mpi": [2], "mem": [0]}.items():
        with serve(p, fabric) as c:
            wanted = undisturbed(c)
            one_disturbed_run(c, victims, wanted, f"{fabric}, worker {victims[0]}")
            if fabric == "mpi":
                before = pids(c.status())
                kill_all_at_once(c)
                c.until_status(lambda s: whole(s) and not set(before) & set(pids(s)), "another mpirun", 30 * p.slow)
                same(undisturbed(c), wanted, "the answers")
            same(c.stop().status, 0, "serve")


@case
def ranks_of_a_launcher(p):
    """By `cadre serve --launcher mpirun`, and as ranks: only the worker is lost, and its supervisor starts another."""
    from_outside = {"job": mpirun(WORKERS), "env": p.mpi_env()}
    for how, options in {"by mpirun": {"workers": WORKERS, "launcher": "mpirun"}, "as ranks": from_outside}.items():
        with Cluster(p, p.golden("mixtral"), fabric="shm", **options) as c:
            one_disturbed_run(c, [2], undisturbed(c), how)
            same(c.process.err().count("another is started"), 1, f"{how}: supervisors that say so")
            same(c.stop(signal.SIGUSR1).status, 0, how)


@case
def while_it_loads(p):
    """One dies before there is anything to serve with: another comes, and the cluster with it."""
    with Process([p.cadre, "serve", p.golden("mixtral"), "--workers", "3", "--fabric", "shm", "--threads", "1", "--listen", "tcp://127.0.0.1:*"]) as c:
        victims = until(lambda: len(w := c.named("cadre-worker")) == 3 and w, "three workers")
        os.kill(victims[1], signal.SIGKILL)
        until(lambda: "\n  clients" in c.out(), f"it serves all the same {c.err()[-900:]}")
        c.send(signal.SIGTERM)
        same(c.wait().status, 0, f"serve {c.err()[-900:]}")


@case
def while_it_drains(p):
    """Others finish what it had; where they cannot, what is cut is said."""
    for fabric, status in {"shm": 0, "mem": 1}.items():
        with serve(p, fabric) as c, Process([p.load, "--connect", c.endpoint, *LOAD, "--whole"]) as asked:
            s = c.until_status(lambda s: s["running"] and s["running"] + s["waiting"] + s["finished"] >= 32, "requests inside")
            c.process.send(signal.SIGTERM)
            until(lambda: "draining: " in c.process.err(), "it drains")
            os.kill(pids(s)[1], signal.SIGKILL)
            ended = c.process.wait()
            same(ended.status, status, f"{fabric}: serve {ended.err[-900:]}")
            check(status == 0 or re.search(r"\d+ requests are cut", ended.err), f"{fabric}: what was cut {ended.err[-900:]}")
            asked.wait()


@case
def a_stopped_worker(p):
    """It is taken for dead, ends when it goes on, and another comes."""
    with serve(p, "shm") as c:
        wanted = undisturbed(c)
        victim = pids(c.status())[2]
        with Process([p.load, "--connect", c.endpoint, *LOAD]) as asked:
            c.until_status(lambda s: s["running"], "requests running")
            os.kill(victim, signal.SIGSTOP)
            same(asked.wait(120).good("load").out, wanted, "the answers of an undisturbed run")
        c.until_status(lambda s: s["state"] == "serving" and s["workers"][2]["state"] == "dead", "it is taken for dead")
        os.kill(victim, signal.SIGCONT)
        c.until_status(lambda s: whole(s) and victim not in pids(s), "a successor serves", 30 * p.slow)
        check(re.search(rf"worker rank 2 \(pid {victim}\) ended with status 1", c.process.err()), "serve says what happened")
        same(c.stop().status, 0, "serve")


@case
def a_worker_that_dies_again_and_again(p):
    """It is given up; the others go on."""
    with serve(p, "shm") as c:
        wanted = undisturbed(c)
        seen = set()
        for _ in range(5):
            s = c.until_status(lambda s: whole(s) and pids(s)[1] not in seen, "it is there again", 30 * p.slow)
            seen.add(pids(s)[1])
            os.kill(pids(s)[1], signal.SIGKILL)
        c.until_status(lambda s: s["state"] == "serving" and s["workers"][1]["state"] == "dead", "they go on without it")
        check("that was 5 times within 60 s, so it is not started again" in c.process.err(), c.process.err()[-400:])
        same(undisturbed(c), wanted, "the answers of three workers")
        same(c.stop().status, 0, "serve")


if __name__ == "__main__":
    main()
