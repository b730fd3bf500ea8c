#!/usr/bin/env python3
"""hold.py - a test program whose one case holds a cluster until it is told to end; test_faults.py ends it."""

from cases import case, main, note
from cluster import Cluster


@case
def a_cluster_that_stays(p):
    with Cluster(p, p.golden("mixtral"), workers=2, fabric="mpi") as c:
        note("holding")
        c.process.wait(600)


if __name__ == "__main__":
    main()
