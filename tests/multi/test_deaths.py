#!/usr/bin/env python3
"""test_deaths.py - workers of `cadre serve` die under load: every request finishes, with the bits of an undisturbed run, each token
once; another worker takes the place of the dead one; and what cannot go on says so."""

import contextlib
import json
import os
import random
import re
import signal
import tempfile
import time

from cases import case, main, note
from cluster import Cluster, Front, Process, by_hand, check, mpirun, run, same, until

WORKERS = 4
LOAD = ["--count", "192", "--at-once", "32", "--prompt", "60", "--tokens", "190"]
TOKENS = 2500  # and more have then been generated


def fabrics(p):
    return ["shm", "ucx", "auto"]


def pids(status):
    return [w["pid"] for w in status["workers"]]


def whole(status):
    return status["state"] == "serving" and all(w["state"] == "ready" for w in status["workers"])


def strike_in_the_middle(c, how, wanted, tokens, what):
    """Sends each of the ranks in how its signal when some tokens are there; False when all answers were there first."""
    before = c.status()
    with Process([c.programs.load, "--connect", c.endpoint, *LOAD]) as asked:
        c.until_status(lambda s: s["generated_tokens"] >= before["generated_tokens"] + tokens or not asked.running(), "some tokens")
        caught = asked.running()
        for victim, number in how.items() if caught else ():
            os.kill(pids(before)[victim], number)
        r = asked.wait(120)
        check(r.status == 0, f"{what}: every request finishes: {r.status} {r.err[-400:]!r} {r.out[-300:]!r}")
        same(r.out.splitlines(), wanted.splitlines(), f"{what}: the answers of an undisturbed run")
    return caught


def let_go_on(c, stopped, what):
    """Those that were stopped, now that they are taken for dead; they end, and serve says so."""
    for rank, pid in stopped.items():
        c.until_status(lambda s: s["workers"][rank]["state"] == "dead", f"{what}: it is taken for dead", 10 * c.programs.slow)
        os.kill(pid, signal.SIGCONT)
    for rank, pid in stopped.items():
        until(lambda: f"worker rank {rank} (pid {pid}) ended with status 1" in c.process.err(), f"{what}: serve says what happened")


def one_disturbed_run(c, how, wanted, what, draw=random):
    """And waits for the successors."""
    before = c.status()
    struck = time.monotonic()
    check(any(strike_in_the_middle(c, how, wanted, draw.randrange(50, TOKENS), what) for _ in range(10)), f"{what}: always too late")
    lost = {v: pids(before)[v] for v in how}
    let_go_on(c, {v: pid for v, pid in lost.items() if how[v] == signal.SIGSTOP}, what)
    gone = set(lost.values())
    after = c.until_status(lambda s: whole(s) and not gone & set(pids(s)), f"{what}: a successor serves", 30 * c.programs.slow)
    same(after["failed"], before["failed"], f"{what}: failed requests")
    check(c.process.running(), f"{what}: serve goes on")
    note(f"{what}: all as before after {time.monotonic() - struck:.1f} s")


def killed(*victims):
    return {v: signal.SIGKILL for v in victims}


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


def ask(c):
    return run([c.programs.load, "--connect", c.endpoint, *LOAD], 120).good("undisturbed").out


def undisturbed(p, known=[]):
    """What one worker alone says, and so every cluster."""
    if not known:
        with serve(p, "shm", workers=1) as c:
            known.append(ask(c))
    return known[0]


def serve(p, fabric, **options):
    return Cluster(p, p.golden("mixtral"), fabric=fabric, **{"workers": WORKERS, **options})


def first_victim(seed, workers):
    """Every rank in turn, for each of the six kinds of cluster."""
    return (seed + seed // 6) % workers


def draw_strikes(draw, first, workers):
    """One worker or two, killed or stopped."""
    victims = [first, *draw.sample([w for w in range(workers) if w != first], draw.randrange(2))]
    return {v: draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP)) for v in victims}


def events_tell_how_long(c, seconds):
    told = [json.loads(line) for line in c.cadre("events", "--json").good("events").out.splitlines()]
    silent = [e["figures"]["silent_us"] / 1e6 for e in told if e["kind"] == "recovered"]
    check(all(s < seconds for s in silent), f"nobody had a token for {silent} s, wanted less than {seconds} each")


@case
def by_seed(p):
    """Every worker in turn, alone and with another, of 4 and of 6; few enough on one cluster that serve gives none up."""
    kinds = [(fabric, workers) for workers in (4, 6) for fabric in fabrics(p)]
    seeds = range(50 if p.soak else 5)
    for number, (fabric, workers) in enumerate(kinds):
        mine = seeds[number :: len(kinds)]
        for few in (mine[i : i + 4] for i in range(0, len(mine), 4)):
            with serve(p, fabric, workers=workers) as c:
                for seed in few:
                    draw = random.Random(seed)
                    how = draw_strikes(draw, first_victim(seed, workers), workers)
                    said = ", ".join(f"{v} {'killed' if n == signal.SIGKILL else 'stopped'}" for v, n in how.items())
                    one_disturbed_run(c, how, undisturbed(p), f"seed {seed}: {fabric}, {workers} workers, {said}", draw)
                events_tell(c, first_victim(few[0], workers))
                if p.soak and p.slow == 1:
                    events_tell_how_long(c, 6)
                same(c.stop().status, 0, "serve")


@case
def one_that_goes_on_when_another_has_its_place(p):
    """It was stopped, and declared dead; its successor serves. It harms nobody, is told, and ends."""
    wanted = undisturbed(p)
    for fabric in fabrics(p) if p.soak else ["auto"]:
        with by_hand(p, p.golden("mixtral"), "--workers", 3, "--fabric", fabric) as (c, endpoint, control), contextlib.ExitStack() as all_of:

            def start(rank):
                words = ["--rank", rank, "--size", 3, "--fabric", fabric, "--threads", 1]
                return all_of.enter_context(Process([p.worker, "--connect", control, *words]))

            front = Front(p, endpoint)
            workers = [start(rank) for rank in range(3)]
            front.until_status(whole, "it serves")
            with Process([p.load, "--connect", endpoint, *LOAD]) as asked:
                front.until_status(lambda s: s["running"], "requests running")
                workers[1].send(signal.SIGSTOP)
                front.until_status(lambda s: s["workers"][1]["state"] == "dead", "it is taken for dead")
                successor = start(1)
                front.until_status(lambda s: whole(s) and s["workers"][1]["pid"] == successor.pid, "its successor serves")
                workers[1].send(signal.SIGCONT)
                same(asked.wait(120).good("load").out, wanted, "the answers of an undisturbed run")
            ended = workers[1].wait()
            check(ended.status == 1 and "taken for dead" in ended.err, f"it is told: {ended.status} {ended.err[-300:]!r}")
            same(run([p.load, "--connect", endpoint, *LOAD], 120).good("load").out, wanted, "the answers afterwards")
            check(whole(front.status()) and all(w.running() for w in (workers[0], successor, workers[2])), "the others go on")
            c.send(signal.SIGTERM)
            same(c.wait().status, 0, "the coordinator")


@case
def an_idle_worker(p):
    with serve(p, "ucx") as c:
        c.idle()
        victim = pids(c.status())[3]
        os.kill(victim, signal.SIGKILL)
        c.until_status(lambda s: whole(s) and victim not in pids(s), "a successor serves", 30 * p.slow)
        same(ask(c), undisturbed(p), "the answers")
        same(c.stop().status, 0, "serve")


@case
def all_of_them(p):
    """Nobody is left who holds the model: requests wait for the successors."""
    with serve(p, "shm") as c:
        one_disturbed_run(c, killed(*range(WORKERS)), undisturbed(p), "shm, all workers")
        same(c.stop().status, 0, "serve")


def kill_all_at_once(c):
    """Who launched the workers."""
    os.kill(next(iter(c.process.named("orterun") + c.process.named("mpirun") + c.process.named("prterun"))), signal.SIGKILL)


@case
def those_that_stand_and_fall_together(p):
    """A world of MPI, threads of a process: all are started again, and every answer goes on."""
    for fabric, victims in {"mpi": [2], "mem": [0], "mpi-alltoallv": [1]}.items() if p.soak else {"mpi": [2], "mem": [0]}.items():
        with serve(p, fabric) as c:
            one_disturbed_run(c, killed(*victims), undisturbed(p), f"{fabric}, worker {victims[0]}")
            if fabric == "mpi":
                before = pids(c.status())
                kill_all_at_once(c)
                c.until_status(lambda s: whole(s) and not set(before) & set(pids(s)), "another mpirun", 30 * p.slow)
                same(ask(c), undisturbed(p), "the answers")
            same(c.stop().status, 0, "serve")


@case
def ranks_of_a_launcher(p):
    """By `cadre serve --launcher mpirun`, and as ranks: only the worker is lost, and its supervisor starts another."""
    from_outside = {"job": mpirun(WORKERS), "env": p.mpi_env()}
    for how, options in {"by mpirun": {"workers": WORKERS, "launcher": "mpirun"}, "as ranks": from_outside}.items():
        with Cluster(p, p.golden("mixtral"), fabric="shm", **options) as c:
            one_disturbed_run(c, killed(2), undisturbed(p), how)
            same(c.process.err().count("another is started"), 1, f"{how}: supervisors that say so")
            same(c.stop(signal.SIGUSR1).status, 0, how)


def another_coordinator(c, before):
    until(lambda: c.process.named("cadre-coordinator") not in ([], [before]), "another coordinator")


def strike_with_coordinator(c, order, pid, victim):
    """A worker and the coordinator, in one of the ORDERS."""
    [coordinator] = c.process.named("cadre-coordinator")
    if order == "a worker first":
        os.kill(pid, signal.SIGKILL)
        c.until_status(lambda s: s["workers"][victim]["state"] != "ready" or s["workers"][victim]["pid"] != pid, "it is missed")
    os.kill(coordinator, signal.SIGKILL)
    if order == "a worker that holds on":
        another_coordinator(c, coordinator)
    if order == "a worker that was kept":
        another_coordinator(c, coordinator)
        c.until_status(lambda s: s["state"] == "serving", "it serves again")
    if order != "a worker first":
        os.kill(pid, signal.SIGKILL)


ORDERS = ["both at once", "a worker that holds on", "a worker first", "a worker that was kept"]


@case
def with_the_coordinator(p):
    """It is killed as well, before, after or with a worker; serve starts both again, and nothing is lost."""
    for seed in range(24 if p.soak else 2):
        draw, order, fabric = random.Random(seed), ORDERS[seed % len(ORDERS)], fabrics(p)[seed // len(ORDERS) % 3]
        victim, what = draw.randrange(WORKERS), f"seed {seed}: {fabric}, the coordinator and {order}"
        with tempfile.TemporaryDirectory() as folder, serve(p, fabric, journal=f"{folder}/journal") as c:
            tokens, pid = draw.randrange(50, TOKENS), pids(c.status())[victim]
            with Process([p.load, "--connect", c.endpoint, *LOAD]) as asked:
                c.until_status(lambda s: s["generated_tokens"] >= tokens or not asked.running(), "some tokens")
                caught = asked.running()
                strike_with_coordinator(c, order, pid, victim)
                r = asked.wait(120)
            check(r.status == 0, f"{what}: every request finishes: {r.status} {r.err[-400:]!r}")
            same(r.out.splitlines(), undisturbed(p).splitlines(), f"{what}: the answers of an undisturbed run")
            c.until_status(lambda s: whole(s) and pid not in pids(s), f"{what}: a successor serves", 30 * p.slow)
            note(f"{what}, worker {victim}{'' if caught else ' (too late)'}")
            same(c.stop().status, 0, "serve")


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
def a_worker_that_dies_again_and_again(p):
    """It is given up; the others go on."""
    with serve(p, "shm") as c:
        seen = set()
        for _ in range(5):
            s = c.until_status(lambda s: whole(s) and pids(s)[1] not in seen, "it is there again", 30 * p.slow)
            seen.add(pids(s)[1])
            os.kill(pids(s)[1], signal.SIGKILL)
        c.until_status(lambda s: s["state"] == "serving" and s["workers"][1]["state"] == "dead", "they go on without it")
        check("that was 5 times within 60 s, so it is not started again" in c.process.err(), c.process.err()[-400:])
        same(ask(c), undisturbed(p), "the answers of three workers")
        same(c.stop().status, 0, "serve")


if __name__ == "__main__":
    main()
