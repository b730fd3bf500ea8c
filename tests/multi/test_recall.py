#!/usr/bin/env python3
"""test_recall.py - a cluster with a journal ends under load, in one way or another, and is started again: clients go on by
themselves, and what they have in the end is what they would have had."""

import json
import os
import signal
import socket
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cases import case, main, note
from cluster import Cluster, Front, Process, check, run, same, until

COUNT = 384


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Place:
    """Where a cluster comes back to: two ports and a journal."""

    def __init__(self, p, folder, *words):
        self.p, self.words = p, words
        self.listen, self.control = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
        self.journal = Path(folder) / "journal"

    def coordinator(self, on_death="end"):
        doors = ["--listen", self.listen, "--control", self.control, "--journal", self.journal]
        lease = ["--lease", "3"] if self.p.slow > 1 else []
        shm = ["--fabric", "shm", "--on-death", on_death]
        return Process([self.p.coordinator, self.p.golden("mixtral"), "--workers", "2", *shm, *doors, *lease, *self.words])

    def worker(self, rank, *words):
        shm = ["--fabric", "shm", "--rank", str(rank), "--size", "2", "--threads", "1"]
        return Process([self.p.worker, *shm, "--connect", self.control, *words])

    def front(self, c):
        front = Front(self.p, self.listen)
        front.cadre("status", "-q", "--wait", "60").good(f"status --wait: {c.err()[-600:]}")
        return front

    @contextmanager
    def cluster(self):
        """A coordinator and two workers; gives a Front and the coordinator."""
        with ExitStack() as stack:
            c = stack.enter_context(self.coordinator())
            for rank in range(2):
                stack.enter_context(self.worker(rank))
            yield self.front(c), c


def kill_coordinator(front, coordinator):
    coordinator.send(signal.SIGKILL)


def kill_worker(front, coordinator):
    """The coordinator notices and ends, as it was told to."""
    os.kill(front.status()["workers"][1]["pid"], signal.SIGKILL)


def stop_now(front, coordinator):
    coordinator.send(signal.SIGTERM)
    front.until_status(lambda s: s["state"] == "draining", "it drains")
    coordinator.send(signal.SIGTERM)


ENDS = [kill_coordinator, kill_worker, stop_now, kill_coordinator]


def load_words(p, place):
    return [p.load, "--connect", place.listen, "--count", str(COUNT), "--at-once", str(COUNT), "--prompt", "20", "--tokens", "160"]


@case
def ends_under_load(p):
    with tempfile.TemporaryDirectory() as folder:
        place = Place(p, folder)
        with place.cluster() as (_, c):
            wanted = run(load_words(p, place), 150).good("undisturbed").out
            c.send(signal.SIGTERM)
            same(c.wait(60).status, 0, "an orderly end")
        with ExitStack() as stack:
            asked, caught = None, 0
            for end in ENDS:
                with place.cluster() as (front, c):
                    if not asked:
                        asked = stack.enter_context(Process(load_words(p, place)))
                        front.until_status(lambda s: s["waiting"] + s["running"] + s["finished"] >= COUNT, "all are accepted")
                    s = front.until_status(lambda s: s["finished"] >= 10 or not s["running"] + s["waiting"], "some have finished")
                    note(f"{end.__name__} with {s['finished']} finished, {s['running']} running, {s['waiting']} waiting")
                    caught += s["running"] + s["waiting"]
                    end(front, c)
                    c.wait(20 * p.slow)
            check(caught, "killed too late to matter")
            with place.cluster() as (front, c):
                r = asked.wait(150)
                check(r.status == 0, f"every request finishes: {r.status} {r.err[-400:]!r} {r.out[-300:]!r}")
                same(r.out.splitlines(), wanted.splitlines(), "the answers of undisturbed runs")
                c.send(signal.SIGTERM)
                same(c.wait(60).status, 0, "an orderly end")
        told = run([p.cadre, "journal", place.journal]).good("cadre journal").out
        check("start" in told and "requests" in told, f"the journal can be read: {told[-400:]!r}")
        check("torn" not in told and "damaged" not in told, f"the journal is whole: {told[-400:]!r}")


def events(front, kind):
    told = front.cadre("events", "--json").good("events").out.splitlines()
    return [e for e in map(json.loads, told) if e["kind"] == kind]


@case
def workers_outlive_the_coordinator(p):
    """It is killed again and again, and comes back to the same workers: weights and the state of sequences are still there."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Place(p, folder)
        c = stack.enter_context(place.coordinator("recover"))
        workers = [stack.enter_context(place.worker(rank)) for rank in range(2)]
        front = place.front(c)
        wanted = run(load_words(p, place), 150).good("undisturbed").out
        asked = stack.enter_context(Process(load_words(p, place)))
        front.until_status(lambda s: s["waiting"] + s["running"] + s["finished"] >= 2 * COUNT, "all are accepted")
        kept = 0
        for _ in range(4):
            front.until_status(lambda s: s["finished"] >= 10 or not s["running"] + s["waiting"], "some have finished")
            kill_coordinator(front, c)
            c.wait(20)
            c = stack.enter_context(place.coordinator("recover"))
            front = place.front(c)
            kept += sum(e["figures"]["positions"] for e in events(front, "worker-kept"))
            same(len(events(front, "worker-kept")), 2, "workers that were kept")
            same(sorted(w["pid"] for w in front.status()["workers"]), sorted(w.pid for w in workers), "the same processes")
        r = asked.wait(150)
        check(r.status == 0, f"every request finishes: {r.status} {r.err[-400:]!r}")
        same(r.out.splitlines(), wanted.splitlines(), "the answers of undisturbed runs")
        check(kept > 0, "keys and values that were kept")
        note(f"{kept} positions were kept")
        c.send(signal.SIGTERM)
        for process in (c, *workers):
            same(process.wait(60).status, 0, f"{process.argv[0]}: {process.err()[-300:]}")


def alone(serve, coordinator):
    os.kill(coordinator, signal.SIGKILL)


def with_a_worker(serve, coordinator):
    for pid in (coordinator, serve.named("cadre-worker")[0]):
        os.kill(pid, signal.SIGKILL)


def while_a_worker_comes(serve, coordinator):
    workers = serve.named("cadre-worker")
    os.kill(workers[0], signal.SIGKILL)
    until(lambda: set(serve.named("cadre-worker")) - set(workers), "another worker")
    os.kill(coordinator, signal.SIGKILL)


@case
def who_is_gone_is_not_waited_for(p):
    """One dies with the coordinator: the other keeps what it has, and a successor comes while it serves."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Place(p, folder)
        c = stack.enter_context(place.coordinator("recover"))
        workers = [stack.enter_context(place.worker(rank)) for rank in range(2)]
        front = place.front(c)
        wanted = run(load_words(p, place), 150).good("undisturbed").out
        asked = stack.enter_context(Process(load_words(p, place)))
        front.until_status(lambda s: s["waiting"] + s["running"] + s["finished"] >= 2 * COUNT, "all are accepted")
        for process in (c, workers[1]):
            process.send(signal.SIGKILL)
            process.wait(20)
        successor = stack.enter_context(place.worker(1))
        c = stack.enter_context(place.coordinator("recover"))
        front = place.front(c)
        same([e["rank"] for e in events(front, "worker-kept")], [0], "who was kept")
        front.until_status(lambda s: s["state"] == "serving" and s["workers"][1]["pid"] == successor.pid, "its successor", 60)
        r = asked.wait(150)
        check(r.status == 0, f"every request finishes: {r.status} {r.err[-400:]!r}")
        same(r.out.splitlines(), wanted.splitlines(), "the answers of undisturbed runs")
        c.send(signal.SIGTERM)
        for process in (c, workers[0], successor):
            same(process.wait(60).status, 0, f"{process.argv[0]}: {process.err()[-300:]}")


@case
def others_than_at_first(p):
    """Of a cluster that grew and shrank: those that are there now come back, not those that it began with."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Place(p, folder, "--max-workers", "3")
        c = stack.enter_context(place.coordinator("recover"))
        words = [p.worker, "--fabric", "shm", "--threads", "1", "--connect", place.control]
        workers = [stack.enter_context(Process(words)) for _ in range(3)]
        front = place.front(c)
        wanted = front.generate(prompt="once", max_tokens=8)
        front.until_status(lambda s: sum(w["state"] == "ready" and w["experts"] > 0 for w in s["workers"]) == 3, "three workers")
        front.cadre("drain", "0").good("drain")
        stay = sorted(w["pid"] for w in front.status()["workers"] if w["state"] == "ready")
        for _ in range(2):
            kill_coordinator(front, c)
            c.wait(20)
            c = stack.enter_context(place.coordinator("recover"))
            front = place.front(c)
            same(sorted(e["rank"] for e in events(front, "worker-kept")), [1, 2], "who was kept")
            same(sorted(w["pid"] for w in front.status()["workers"] if w["state"] == "ready"), stay, "the same processes")
            same(front.generate(prompt="once", max_tokens=8), wanted, "the same answer")


@case
def serve_starts_its_coordinator_again(p):
    """At the same endpoints, though their ports were the system's choice; its workers have not moved, if they live."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(p, folder)
        with Cluster(p, p.golden("mixtral"), workers=2, fabric="shm", journal=place.journal) as c:
            place.listen = c.endpoint
            wanted = run(load_words(p, place), 150).good("undisturbed").out
            workers = c.process.named("cadre-worker")
            with Process(load_words(p, place)) as asked:
                c.until_status(lambda s: s["waiting"] + s["running"] + s["finished"] >= 2 * COUNT, "all are accepted")
                for strike in (alone, with_a_worker, while_a_worker_comes):
                    c.until_status(lambda s: s["finished"] >= 10 or not s["running"] + s["waiting"], "some have finished")
                    [before] = c.process.named("cadre-coordinator")
                    strike(c.process, before)
                    until(lambda: c.process.named("cadre-coordinator") not in ([], [before]), "another coordinator")
                    c.until_status(lambda s: s["state"] == "serving", "it serves")
                    if strike == alone:
                        same(c.process.named("cadre-worker"), workers, "the same workers")
                r = asked.wait(150)
                check(r.status == 0, f"every request finishes: {r.status} {r.err[-400:]!r}")
                same(r.out.splitlines(), wanted.splitlines(), "the answers of undisturbed runs")
            same(c.stop().status, 0, "an orderly end")


@case
def workers_do_not_wait_for_ever(p):
    """Nor go on with a coordinator that knows nothing of them."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Place(p, folder)
        c = stack.enter_context(place.coordinator("recover"))
        short, long = stack.enter_context(place.worker(0, "--hold", "1")), stack.enter_context(place.worker(1))
        place.front(c)
        c.send(signal.SIGKILL)
        c.wait(20)
        r = short.wait(30)
        check(r.status == 3 and "no coordinator came back" in r.err, f"a worker that waited: {r.status} {r.err[-300:]!r}")
        place.journal = Path(folder) / "another"
        stack.enter_context(place.coordinator("recover"))
        r = long.wait(30)
        check(r.status == 1 and "start it again" in r.err, f"a worker of another cluster: {r.status} {r.err[-300:]!r}")


@case
def a_journal_has_one_owner(p):
    with tempfile.TemporaryDirectory() as folder:
        place = Place(p, folder)
        with place.cluster() as (front, _):
            told = front.status()["journal"]
            check(told["dir"] == str(place.journal) and not told["fault"], f"status tells of it: {told}")
            doors = ["--listen", "tcp://127.0.0.1:*", "--control", "tcp://127.0.0.1:*"]
            r = run([p.coordinator, p.golden("mixtral"), *doors, "--journal", place.journal])
            same(r.status, 1, "exit status")
            check("belongs to another coordinator" in r.err, f"it says why: {r.err!r}")


if __name__ == "__main__":
    main()
