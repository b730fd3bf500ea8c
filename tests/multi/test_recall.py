#!/usr/bin/env python3
"""test_recall.py - a cluster with a journal ends under load, in one way or another, and is started again: clients go on by
themselves, and what they have in the end is what they would have had."""

import os
import signal
import socket
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cases import case, main, note
from cluster import Front, Process, check, run, same, until

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

    @contextmanager
    def cluster(self):
        """A coordinator and two workers; gives a Front and the coordinator."""
        p = self.p
        doors = ["--listen", self.listen, "--control", self.control, "--journal", self.journal]
        lease = ["--lease", "3"] if p.slow > 1 else []
        shm = ["--fabric", "shm", "--on-death", "end"]
        with ExitStack() as stack:
            c = stack.enter_context(
                Process([p.coordinator, p.golden("mixtral"), "--workers", "2", *shm, *doors, *lease, *self.words])
            )
            for rank in range(2):
                words = ["--fabric", "shm", "--rank", str(rank), "--size", "2", "--threads", "1"]
                stack.enter_context(Process([p.worker, *words, "--connect", self.control]))
            front = Front(p, self.listen)
            front.cadre("status", "-q", "--wait", "60").good(f"status --wait: {c.err()[-600:]}")
            yield front, c


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
