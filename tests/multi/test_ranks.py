#!/usr/bin/env python3
"""test_ranks.py - `cadre serve` started once per worker, by mpirun or by hand: one of the ranks runs the coordinator too."""

import os
import signal
import tempfile
from pathlib import Path

from cases import case, main, note
from cluster import Cluster, Process, check, mpirun, run, same, until

ASKED = {"prompt": "once upon", "max_tokens": 12, "logprobs": 2}


def alone(p):
    with Cluster(p, p.golden("mixtral"), workers=1) as c:
        return c.generate(**ASKED)


CROWD = 60  # requests


def check_drain(p, c):
    """mpirun hands SIGUSR1 to its ranks: what is inside is finished, more is refused with the reason."""
    with Process([p.load, "--connect", c.endpoint, "--count", CROWD, "--prompt", "20", "--tokens", "230", "--whole"]) as asked:
        c.until_status(lambda s: s["running"] and s["running"] + s["waiting"] + s["finished"] >= CROWD, "requests inside")
        c.process.send(signal.SIGUSR1)
        until(lambda: "draining: " in c.process.err(), "the coordinator says that it drains")
        late = c.cadre("generate", prompt="late", max_tokens=4)
        check(late.status == 1 and "UNAVAILABLE" in late.err, f"a request while draining: {late.status} {late.err!r}")
        ended = c.process.wait()
        same(ended.status, 0, f"mpirun {ended.err[-600:]!r}")
        c.process.gone("after a drain")
        same(asked.wait().out.count(" OK length "), CROWD, "requests that were inside")


@case
def under_mpirun(p):
    """Both exchanges; the same bits as alone."""
    wanted = alone(p)
    for fabric in (None, "mpi"):
        with Cluster(p, p.golden("mixtral"), job=mpirun(2), env=p.mpi_env(), **({"fabric": fabric} if fabric else {})) as c:
            same(c.generate(**ASKED), wanted, f"{fabric or 'auto'} under mpirun")
            same(len(c.process.named("cadre-coordinator")), 1, "coordinators")
            same(len(c.process.named("cadre-worker")), 2, "workers")
            check_drain(p, c)


@case
def by_hand(p):
    """Ranks come in any order, a file of before is not believed, and none is left."""
    wanted = alone(p)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "endpoints")
        words = [p.cadre, "serve", p.golden("mixtral"), "--threads", "1", "--size", "2", "--endpoint-file", file, "--rank", "1"]
        file.write_text("listen tcp://127.0.0.1:1\ncontrol tcp://127.0.0.1:1\nlaunch -\n")  # of one that was killed
        with Process(words) as other:
            with Cluster(p, p.golden("mixtral"), rank=0, size=2, endpoint_file=file, control="tcp://127.0.0.1:*") as c:
                same(file.read_text().split()[1], c.endpoint, "where clients come, by the file")
                same(c.generate(**ASKED), wanted, "by hand")
                same(c.stop().status, 0, "rank 0")
                same(other.wait().status, 0, "rank 1")
            same(os.listdir(folder), [], "files")


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def serves_with(c, ranks):
    def alive():
        s = c.status()
        return s["state"] == "serving" and [w["rank"] for w in s["workers"] if w["state"] == "ready"] == ranks

    until(alive, f"serving with workers {ranks}")


@case
def a_supervisor_dies(p):
    """Its worker goes with it; by hand and with mpirun --enable-recovery the others go on. A worker's death: test_deaths."""
    job = mpirun(3)
    job[1:1] = ["--enable-recovery"]
    with Cluster(p, p.golden("mixtral"), job=job, env=p.mpi_env(), fabric="shm") as c:
        wanted = c.generate(**ASKED)
        worker = c.status()["workers"][2]["pid"]
        os.kill(parent(worker), signal.SIGKILL)
        serves_with(c, [0, 1])
        same(c.generate(**ASKED), wanted, "the answer of two")
        check(worker not in c.process.family(), "the worker of the dead supervisor")
        c.process.send(signal.SIGUSR1)
        c.process.wait(20 * p.slow)
        c.process.gone("after a drain")


@case
def a_rank_of_a_world_dies(p):
    """The world is started again inside the launch, as often as it dies; when the head does, nothing is left."""
    with Cluster(p, p.golden("mixtral"), job=mpirun(2), env=p.mpi_env(), fabric="mpi") as c:
        wanted = c.generate(**ASKED)
        before = [w["pid"] for w in c.status()["workers"]]
        os.kill(before[1], signal.SIGKILL)
        same(c.generate(**ASKED), wanted, "the answer across a death")
        check(not {*before} & {w["pid"] for w in c.status()["workers"]}, "the whole world is another")
        os.kill(parent(c.process.named("cadre-coordinator")[0]), signal.SIGKILL)
        ended = c.process.wait(20 * p.slow)
        check(ended.status, f"exit status of mpirun {ended.err[-600:]!r}")
        c.process.gone("after the head died")


@case
def ranks_that_cannot_be(p):
    far = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}
    with tempfile.NamedTemporaryFile("w") as f:
        f.write("hello\n")
        f.flush()
        for words, env, says, status in (
            (["--rank", "1", "--size", "2"], {}, "--endpoint-file", 2),
            (["--rank", "1"], {}, "give --size", 2),
            (["--rank", "1", "--size", "2", "--endpoint-file", f.name, "--fabric", "mem"], {}, "each rank is one worker", 2),
            (["--rank", "1", "--size", "2", "--endpoint-file", f.name, "--workers", "3"], {}, "--workers 3", 2),
            (["--rank", "1", "--size", "2", "--endpoint-file", f.name], {}, "no file of endpoints", 1),
            (["--coordinator-node", "h1"], {}, "--coordinator-node", 2),
            ([], far, "rank 1 of 3 (by Open MPI) cannot know where rank 0 runs", 2),
            (["--control", "tcp://127.0.0.1:5771"], far, "the 3 ranks are on several", 2),
            (["--fabric", "shm", "--endpoint-file", f.name], far, "--fabric shm stays on one host", 2),
        ):
            r = run([p.cadre, "serve", p.golden("mixtral"), *words], env=env)
            check(r.status == status and says in r.err, f"{words}: {r.status} {r.err!r}")
            same(len(r.err.splitlines()), 1, f"lines for {words}: {r.err!r}")
            note(r.err.strip()[:300])


if __name__ == "__main__":
    main()
