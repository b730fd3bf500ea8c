#!/usr/bin/env python3
"""test_partitions.py - hosts whose links fail, between processes of the exchange (test_chaos in a lab)."""

from cases import case, main, note
from cluster import run
from lab import NETLAB, lab


def chaos(p, fabric, seed):
    """A link down, one that works one way, one that fails for a moment; in soak runs a hundred faults, held to their times."""
    how = ["--faults", "100" if p.soak else "3", *(["--strict"] if p.soak and not p.sanitized else [])]
    with lab(3) as hosts:
        words = [p.chaos, "--fabric", fabric, "--lab", hosts.name, "--netlab", NETLAB / "netlab", "--seed", str(seed), *how]
        note(run(words, 600).good(f"{fabric} between hosts").out)


@case
def ucx(p):
    chaos(p, "ucx", 2)


@case
def auto(p):
    chaos(p, "auto", 1)  # odd: half of the steps in two hops


if __name__ == "__main__":
    main()
