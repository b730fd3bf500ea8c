#!/usr/bin/env python3
"""test_faults.py - things die, stall or leave: a worker, the coordinator, the supervisor, a client. Nothing hangs, nothing is
left, and whoever is told why is told the right name."""

import os
import re
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from cases import case, leftovers, main, note
from cluster import Cluster, Front, Process, by_hand, check, mpirun, run, same, until

PROCESSES = ["shm", "ucx"]  # fabrics whose workers are children of serve
WORK = ["--count", "100000", "--at-once", "24", "--prompt", "20", "--tokens", "230", "--whole"]


def under_load(p, cluster, stack, *words):
    """Requests that keep the cluster busy until something happens to it."""
    asked = stack.enter_context(Process([p.load, "--connect", cluster.endpoint, *(words or WORK)]))
    cluster.until_status(lambda s: s["running"] > 0, "requests running")
    return asked


def check_clients(asked, what):
    """The clients are told, the cluster's own reason if it had time to give one; returns how long that took."""
    started = time.monotonic()
    r = asked.wait(30)
    check(r.status == 1 and "UNAVAILABLE" in r.out, f"{what}: clients are told UNAVAILABLE: {r.status} {r.err[-300:]!r}")
    note(f"{what}: clients knew {time.monotonic() - started:.1f} s after the end: {(r.err.splitlines() or ['nothing'])[0]}")


def check_death(p, fabric, victim_of, wanted, **options):
    with ExitStack() as stack:
        c = stack.enter_context(Cluster(p, p.golden("mixtral"), workers=3, fabric=fabric, **options))
        asked = under_load(p, c, stack)
        pid = victim_of(c)
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        ended = c.process.wait(20)
        took = time.monotonic() - killed
        c.process.gone("after a death")
        check(ended.status not in (0, None), f"serve's exit status {ended.status}")
        check(took < 5 * p.slow, f"serve ended {took:.1f} s after the death")
        check(re.search(wanted(pid), ended.err), f"serve names the dead: {ended.err[-600:]!r}, wanted {wanted(pid)}")
        check_clients(asked, f"{fabric}, {pid}")
        note(f"{fabric}: ended after {took:.2f} s")


def worker_of(rank):
    return lambda c: c.status()["workers"][rank]["pid"]


@case
def told_to_end_with_a_worker(p):
    """--on-death end. Otherwise another is started: test_deaths."""
    check_death(p, "mpi", worker_of(2), lambda pid: rf"worker 2 \(\S+ pid {pid}\) is dead", on_death="end")
    check_death(p, "mem", worker_of(0), lambda pid: rf"the worker process \(pid {pid}\) was killed by signal 9", on_death="end")


@case
def the_coordinator_dies_under_load(p):
    for fabric in ("mem", "mpi", *PROCESSES):
        check_death(
            p,
            fabric,
            lambda c: c.process.named("cadre-coordinator")[0],
            lambda pid: rf"the coordinator \(pid {pid}\) was killed by signal 9",
        )


@case
def workers_by_hand_end_with_their_coordinator(p):
    """If they are told to; else they wait for another (test_recall)."""
    for fabric in ("mem", "mpi", *PROCESSES):
        with by_hand(p, p.golden("mixtral"), "--workers", "2") as (coordinator, listen, control):
            start = [p.worker, "--workers", "2"] if fabric == "mem" else [*mpirun(2), p.worker, "--fabric", fabric]
            with Process([*start, "--connect", control, "--hold", "0"], env=p.mpi_env()) as workers:
                Front(p, listen).cadre("status", "-q", "--wait", "30").good("status")
                coordinator.send(signal.SIGKILL)
                r = workers.wait(5 * p.slow)
                check(
                    r.status == 1 and f"the connection to the coordinator at {control} was lost" in r.err,
                    f"{r.status} {r.err!r}",
                )


@case
def workers_that_stand_still_within_their_lease_change_no_bit(p):
    """Each in turn for 100 to 300 ms, again and again; the lease leaves room for a machine with other things to do."""
    numbered = ["--count", "64", "--at-once", "16", "--prompt", "100", "--tokens", "150"]
    for fabric in PROCESSES:
        with Cluster(p, p.golden("mixtral"), workers=3, fabric=fabric, lease=3 * p.slow) as c:
            wanted = run([p.load, "--connect", c.endpoint, *numbered]).good("load").out
            workers = [w["pid"] for w in c.status()["workers"]]
            stops = 0
            with Process([p.load, "--connect", c.endpoint, *numbered]) as asked:
                while asked.running():
                    os.kill(workers[stops % 3], signal.SIGSTOP)
                    time.sleep((0.1, 0.2, 0.3)[stops // 3 % 3])
                    os.kill(workers[stops % 3], signal.SIGCONT)
                    time.sleep(0.05)
                    stops += 1
                same(asked.wait().good("load").out, wanted, f"{fabric}: answers of workers that stood still {stops} times")
            check(all(w["pid"] in workers and w["state"] == "ready" for w in c.status()["workers"]), "all are still there")
            same(c.stop().status, 0, "serve")
            note(f"{fabric}: {stops} stops")


@case
def nothing_survives_the_supervisor(p):
    for fabric in ("mem", "mpi", *PROCESSES):
        with ExitStack() as stack:
            c = stack.enter_context(Cluster(p, p.golden("mixtral"), workers=2, fabric=fabric))
            under_load(p, c, stack)
            os.kill(c.process.pid, signal.SIGKILL)
            c.process.wait()
            c.process.gone(f"{fabric}, after the supervisor was killed", 10 * p.slow)


@case
def nothing_survives_a_test_that_is_ended(p):
    """Neither processes nor files: a suite that hits its time limit is ended so."""
    hold = [sys.executable, Path(__file__).with_name("hold.py"), "--build", p.build, "--data", p.data]
    with Process([*hold, "--sanitize", "some" if p.sanitized else "none"]) as test:
        until(lambda: not test.running() or "# holding" in test.out(), "a cluster inside the test", 60 * p.slow)
        check(len(test.named("cadre-worker")) == 2, f"its workers run: {test.out()!r} {test.err()!r}")
        test.send(signal.SIGTERM)
        same(test.wait().status, 128 + signal.SIGTERM, "the test's exit status")
        test.gone("after the test was ended")


@case
def files_of_a_cluster_go_with_it(p):
    """Also when serve is killed; only an mpirun that loses its parent and its ranks at once may forget its own files."""

    def left(ending):
        names = [f.name for f in leftovers()]
        return [n for n in names if ending == signal.SIGTERM or not n.startswith(("ompi.", "vader_segment."))]

    for fabric in ("mem", *PROCESSES, "mpi"):  # last the one whose files may stay
        for ending in (signal.SIGTERM, signal.SIGKILL):
            with Cluster(p, p.golden("mixtral"), workers=2, fabric=fabric) as c:
                c.generate(prompt="x", max_tokens=2)
                c.process.send(ending)
                c.process.wait()
                c.process.gone(f"{fabric}, after {ending}", 10 * p.slow)
                same(left(ending), [], f"files of {fabric} after {ending}")


@case
def an_interrupted_client_cancels_in_the_cluster(p):
    with ExitStack() as stack:
        c = stack.enter_context(Cluster(p, p.golden("mixtral"), workers=2, max_batch=4))
        others = under_load(p, c, stack)
        asked = [
            stack.enter_context(c.start("generate", prompt="the sea", max_tokens=240, temperature=3, seed=i)) for i in range(12)
        ]
        c.until_status(lambda s: s["running"] + s["waiting"] >= 30, "requests inside")
        for a in asked:
            a.send(signal.SIGINT)
        ended = [a.wait(10) for a in asked]
        stopped = [r for r in ended if r.status == 130]
        # One that the signal ends outright (-SIGINT) had yet to begin: it watches for signals before it asks anything.
        check(all(r.status in (0, 130, -signal.SIGINT) for r in ended), f"exit statuses {[r.status for r in ended]}")
        check(len(stopped) >= 6, f"only {len(stopped)} of {len(ended)} were interrupted in time")
        check(all("cancelled after" in r.err for r in stopped), "what an interrupted client says")
        same(c.status()["cancelled"], len(stopped), "cancelled in the cluster")
        others.send(signal.SIGKILL)
        s = c.idle(20)
        check(s["cancelled"] > len(stopped), "requests of a killed client count as cancelled")
        c.generate(prompt="still here", max_tokens=4)


@case
def an_interrupted_answer_of_a_chat_is_cancelled(p):
    with ExitStack() as stack:
        c = stack.enter_context(Cluster(p, p.golden("qwen3_moe"), workers=2, max_batch=2))
        under_load(p, c, stack)
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as stdin, os.fdopen(writer, "wb", 0) as say:
            talk = stack.enter_context(c.start("chat", temperature=3, seed=4, stdin=stdin))
            say.write(b"one\n")
            c.until_status(lambda s: s["running"] + s["waiting"] > 24, "the turn inside")
            talk.send(signal.SIGINT)
            until(lambda: "(cancelled)" in talk.err(), "the chat says that the answer was cancelled")
            same(c.status()["cancelled"], 1, "cancelled in the cluster")
            say.write(b"/quit\n")
            same(talk.wait(10).status, 0, "the chat goes on and is left")


@case
def a_slow_client_slows_nobody(p):
    with ExitStack() as stack:
        c = stack.enter_context(Cluster(p, p.golden("mixtral"), workers=2, max_batch=4))
        held = under_load(p, c, stack, "--count", "60", "--at-once", "2", *WORK[4:])
        os.kill(held.pid, signal.SIGSTOP)
        for i in range(4):
            c.generate(prompt="quick", max_tokens=50, temperature=1, seed=i)
        check(held.running(), "the slow client is still there")
        os.kill(held.pid, signal.SIGCONT)
        r = held.wait().good("the slow client")
        same(len(r.out.splitlines()), 60, "its answers")
        same(c.stop().status, 0, "serve")


@case
def a_stopped_client_does_not_hold_up_the_drain(p):
    with ExitStack() as stack:
        c = stack.enter_context(Cluster(p, p.golden("mixtral"), workers=2))
        held = under_load(p, c, stack)
        asked = stack.enter_context(c.start("generate", prompt="the sea", max_tokens=240, temperature=3, seed=1))
        until(lambda: asked.out() or not asked.running(), "an answer that has begun, or is already over")
        os.kill(held.pid, signal.SIGSTOP)
        ended = c.stop(signal.SIGTERM)
        same(ended.status, 0, f"serve: {ended.err[-300:]!r}")
        check(ended.seconds < 25, "it did not need all of its time to drain")
        asked.wait(10).good("a request that ran meanwhile")


@case
def deadlines_end_requests(p):
    with Cluster(p, p.golden("mixtral"), workers=2, max_batch=1) as c:
        with ExitStack() as stack:
            under_load(p, c, stack)
            r = c.cadre("generate", prompt="late", max_tokens=200, timeout=300)
            check(r.status == 1 and "DEADLINE_EXCEEDED" in r.err, f"a request with a deadline: {r.status} {r.err!r}")
            check(r.seconds < 5 * p.slow, f"it took {r.seconds:.1f} s")


if __name__ == "__main__":
    main()
