#!/usr/bin/env python3
"""test_slurm.py - `cadre serve` as the tasks of a Slurm step, and deploy/slurm/cadre.sbatch, on a real Slurm of three nodes."""

import contextlib
import os
import signal
import tempfile
import time
from pathlib import Path

from cases import case, main
from cluster import Cluster, Front, Keys, Process, check, run, same, until
from lab import REACH, lab
from slurm import slurm

SCRIPT = Path(__file__).resolve().parents[2] / "deploy/slurm/cadre.sbatch"
ASKED = {"prompt": "once upon", "max_tokens": 12, "logprobs": 2}
CROWD = 60  # requests
ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def alone(p):
    with Cluster(p, p.golden("mixtral"), workers=1) as c:
        return c.generate(**ASKED)


class Job:
    """A batch job of ours, on storage that all hosts share."""

    def __init__(self, p, hosts, env, folder, *words, **variables):
        self.p, self.hosts, self.env, self.folder = p, hosts, {**REACH, **ROOT, **env}, Path(folder)
        set_by = {"CADRE": p.cadre, "CADRE_STATE": folder, **variables}
        self.env.update({k: str(v) for k, v in set_by.items()})
        self.keys = Keys(p)
        told = ["--parsable", "--nodes=3", f"--output={folder}/log", "--time=10"]
        serve = [p.golden("mixtral"), "--threads", "1", "--listen", "tcp://*:*", "--drain", "15", "--key", self.keys.cluster, *words]
        self.id = self.slurm("sbatch", *told, SCRIPT, *serve).strip()

    def slurm(self, *words):
        return run([*self.hosts.on("h0"), *words], env=self.env).good(words[0]).out

    def log(self):
        file = self.folder / "log"
        return file.read_text() if file.exists() else ""

    def info(self, key):
        words = self.slurm("scontrol", "show", "job", self.id).split()
        return next(w.split("=", 1)[1] for w in words if w.startswith(key + "="))

    def started_soon(self):
        """Slurm would wait for minutes before it starts what was queued again; it needs some seconds: credentials of before are
        void, and told apart from new ones by their second."""
        late = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 10))
        if self.info("JobState") == "PENDING" and self.info("EligibleTime") > late:
            run([*self.hosts.on("h0"), "scontrol", "update", f"JobId={self.id}", "StartTime=now+3"], env=self.env)
        return self.info("JobState") == "RUNNING"

    def serving(self):
        file = self.folder / "endpoint"
        until(lambda: file.exists() or self.log().count("ended with status") > 3, f"the endpoint of job {self.id}")
        check(file.exists(), f"a cluster: {self.log()[-1500:]}")
        front = Front(self.p, file.read_text().split()[1], self.hosts.on("h1"), self.keys.client)
        status = front.cadre("status", "-q", "--wait", "30").status
        same(status, 0, f"status --wait: {self.log()[-1500:]}")
        return front

    def ended(self):
        going = ("RUNNING", "COMPLETING", "PENDING")
        return until(lambda: (s := self.info("JobState")) not in going and s, f"the end of job {self.id}")


def crowd(p, hosts, front):
    words = [p.load, "--connect", front.endpoint, "--key", front.key, "--count", CROWD, "--prompt", "20", "--tokens", "230", "--whole"]
    return Process([*hosts.on("h1"), *words])


def lose_a_node(p, hosts, c, front, wanted):
    """Its daemon and tasks are killed: long before Slurm knows, the others go on."""
    with crowd(p, hosts, front) as asked:
        front.until_status(lambda s: s["running"], "requests inside")
        for pid in hosts.pids("h2"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        same(asked.wait().out.count(" OK length "), CROWD, f"requests over the loss of a node {c.process.err()[-900:]}")
    same([w["state"] for w in front.status()["workers"]], ["ready", "ready", "dead"], "workers")
    same(front.generate(**ASKED), wanted, "by two nodes of three")


@case
def tasks_of_a_step(p):
    """srun without MPI, where the step's first node is where to go; with PMIx and an MPI world, where a file says it."""
    wanted = alone(p)
    with lab(3) as hosts, slurm(hosts, 3) as env, tempfile.TemporaryDirectory() as folder:
        for mpi, options in (("pmix", {"fabric": "mpi", "endpoint_file": Path(folder, "endpoint")}), ("none", {})):
            job = ["srun", f"--mpi={mpi}", "-N3", "-n3", "--kill-on-bad-exit=1"]
            there = {"within": hosts.on("h0"), "job": job, "env": {**REACH, **ROOT, **env}}
            with Cluster(p, p.golden("mixtral"), listen="tcp://*:*", **there, **options) as c:
                front = Front(p, f"tcp://h0:{c.endpoint.rsplit(':', 1)[1]}", hosts.on("h1"), c.key)
                same(front.generate(**ASKED), wanted, f"by srun --mpi={mpi}")
                same([w["host"] for w in front.status()["workers"]], ["h0", "h1", "h2"], "where the workers are")
                if mpi == "none":
                    return lose_a_node(p, hosts, c, front, wanted)
                c.process.send(signal.SIGUSR1)
                same(c.process.wait().status, 0, f"srun {c.process.err()[-900:]!r}")


def kill_one(hosts, host, program):
    programs = {pid: os.path.basename(os.readlink(f"/proc/{pid}/exe")) for pid in hosts.pids(host)}
    os.kill(next(pid for pid, name in programs.items() if name == program), signal.SIGKILL)


@case
def a_batch_job(p):
    """A worker is killed: its task starts another. The coordinator is: the cluster is started again in the job. The time is almost up, says Slurm: the job is queued again.
    It is cancelled: what is inside is answered. Whoever waits for an answer has it, over all of that."""
    wanted = alone(p)
    with lab(3) as hosts, slurm(hosts, 3) as env, tempfile.TemporaryDirectory() as folder:
        job = Job(p, hosts, env, folder, "--listen", "tcp://*:5770")
        front = job.serving()
        with crowd(p, hosts, front) as asked:
            front.until_status(lambda s: s["running"], "requests inside")
            kill_one(hosts, "h2", "cadre-worker")
            until(lambda: "another is started" in job.log(), "another worker")
            kill_one(hosts, "h0", "cadre-coordinator")
            same(asked.wait().out.count(" OK length "), CROWD, f"requests over deaths {job.log()[-1900:]}")
        same(job.serving().generate(**ASKED), wanted, "started again")
        job.slurm("scancel", "--batch", "--signal=USR1", job.id)
        until(lambda: job.info("JobState") == "PENDING", f"the job queued again {job.log()[-900:]}")
        until(job.started_soon, f"the job again {job.log()[-900:]}")
        front = job.serving()
        same(front.generate(**ASKED), wanted, "after the job was queued again")
        with crowd(p, hosts, front) as asked:
            front.until_status(lambda s: s["running"] and s["running"] + s["waiting"] >= CROWD // 2, "requests inside")
            job.slurm("scancel", job.id)
            r = asked.wait()
            same(r.out.count(" OK length ") + r.out.count("UNAVAILABLE"), CROWD, f"requests when cancelled {r.out[-500:]}")
        same(job.ended(), "CANCELLED", "the job")
        until(lambda: "cancelled" in job.log().splitlines()[-1], "the script's last line")
        same(job.info("ExitCode"), "0:0", "its exit status")
        check(not Path(folder, "endpoint").exists(), "the endpoint of a cluster that ended")


@case
def mpirun_in_a_batch_job(p):
    wanted = alone(p)
    with lab(3) as hosts, slurm(hosts, 3) as env, tempfile.TemporaryDirectory() as folder:
        job = Job(p, hosts, env, folder, "--fabric", "mpi", CADRE_LAUNCH="mpirun")
        front = job.serving()
        same(front.generate(**ASKED), wanted, "by mpirun in a batch job")
        same(sorted(w["host"] for w in front.status()["workers"]), ["h0", "h1", "h2"], "where the workers are")
        job.slurm("scancel", "--batch", "--signal=USR1", job.id)
        until(lambda: "queueing again" in job.log(), f"the end of the script {job.log()[-900:]}")
        check("ended: 1 requests finished" in job.log(), f"a drain {job.log()[-900:]}")
        job.slurm("scancel", job.id)


if __name__ == "__main__":
    main()
