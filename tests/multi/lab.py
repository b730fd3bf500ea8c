"""lab.py - several hosts on this machine (deploy/netlab), up inside a `with` and gone afterwards."""

import contextlib
import os
from pathlib import Path

from cases import skip
from cluster import Failed, run

NETLAB = Path(__file__).resolve().parents[2] / "deploy/netlab"


class Lab:
    """Hosts h0, h1, ... and what can happen to them."""

    def __init__(self):
        self.name = f"test-{os.getpid()}"

    def netlab(self, *words):
        result = run([NETLAB / "netlab", "-n", self.name, *words])
        if result.status == 77:
            skip(result.err.strip())
        if result.status:
            raise Failed(f"netlab {' '.join(words)}: {result.err.strip()}")
        return result.out

    def on(self, host):
        """The words that run the words after them on a host."""
        return [str(NETLAB / "netlab"), "-n", self.name, "exec", host]

    def fault(self, host, *words):
        self.netlab("fault", host, *words)

    def pids(self, host):
        return [int(pid) for pid in self.netlab("pids", host).split()]


# How mpirun gets to the other hosts, and by which network.
REACH = {
    "OMPI_MCA_plm_rsh_agent": str(NETLAB / "rsh"),
    "OMPI_MCA_oob_tcp_if_include": "eth0",
    "OMPI_MCA_btl_tcp_if_include": "eth0",
}


@contextlib.contextmanager
def lab(hosts):
    it = Lab()
    it.netlab("up", str(hosts))
    try:
        yield it
    finally:
        it.netlab("down")
