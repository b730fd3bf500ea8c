"""slurm.py - a Slurm cluster on the hosts of a lab, for as long as a `with` lasts. Its daemons need nothing but a folder."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from cases import skip
from cluster import Failed, Process, run, until

CONF = """ClusterName=lab
SlurmctldHost=h0
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=0,sched_interval=1,bf_interval=1,bf_resolution=1,batch_sched_delay=0
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=20
NodeName=h[0-{last}] CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=h[0-{last}] Default=YES MaxTime=INFINITE State=UP
"""
PROGRAMS = ["munged", "slurmctld", "slurmd", "salloc", "srun", "sinfo"]


@contextlib.contextmanager
def slurm(hosts, n):
    """Gives the environment in which salloc and srun find it."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        skip(f"no {', '.join(missing)}")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        key = folder / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        (folder / "slurm.conf").write_text(CONF.format(folder=folder, last=n - 1))
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (folder / "mpi.conf").write_text("PMIxCliTmpDirBase=/dev/shm\n")  # what each host has for itself
        env = {"SLURM_CONF": str(folder / "slurm.conf")}
        files = {"key-file": "key", "socket": "munge.sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        words = [f"--{name}={folder / file}" for name, file in files.items()]
        stack.enter_context(Process(["munged", "--foreground", "--force", *words]))
        until((folder / "munge.sock").exists, "munged")
        daemons = [stack.enter_context(Process([*hosts.on("h0"), "slurmctld", "-D"], env=env))]
        until(lambda: "UP" in run([*hosts.on("h0"), "scontrol", "ping"], env=env).out, "slurmctld")  # nodes tell it only once
        for i in range(n):
            daemons.append(stack.enter_context(Process([*hosts.on(f"h{i}"), "slurmd", "-D", "-N", f"h{i}"], env=env)))
        asked = [*hosts.on("h0"), "sinfo", "--noheader", "--states=idle", "--format=%D"]
        try:
            until(lambda: run(asked, env=env).out.strip() == str(n), "all nodes idle")
            yield env
        except Failed as e:
            e.serve = getattr(e, "serve", "") + "".join(f"{d.argv[4]} {d.argv[5]}: {d.err()[-1200:]}" for d in daemons)
            raise
