#!/usr/bin/env python3
"""bench_start.py - how long a cluster takes to serve from a pack, and how much memory its workers take; beside the
same from the checkpoint it was made of, which every worker converts and copies.

Both have their files in the page cache. The answers to one prompt must be the same ids. A reading of the pack's bytes from the
cache in the same run says how much of the time that alone would take.

usage: bench_start.py --build DIR MODEL [--weights q8] [--workers 4] [--rounds 3] [--check]"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "multi"))
from cluster import Cluster, Programs, run  # noqa: E402

FLOOR_S = 2.0  # to serve from a pack of 4 GB


def arguments():
    a = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    a.add_argument("--build", required=True)
    a.add_argument("model")
    a.add_argument("--weights", default="q8", choices=["bf16", "f32", "q8", "q4", "stored"])
    a.add_argument("--workers", type=int, default=4)
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--check", action="store_true", help=f"exit 1 when a pack takes more than {FLOOR_S} s, or the answers differ")
    return a.parse_args()


def own_mib(pid):
    """Resident pages, those of files shared out among who maps them; and of these what the process has written."""
    rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    kib = {k: int(v.split()[0]) for k, v in rows.items()}
    return kib["Pss"] / 1024, kib["Private_Dirty"] / 1024


def start(p, model, o, **options):
    """Seconds to the banner, the answer, and each worker's memory."""
    began = time.monotonic()
    with Cluster(p, model, workers=o.workers, fabric="shm", **options) as c:
        took = time.monotonic() - began
        ids = c.generate(prompt="the sea is", max_tokens=8)["token_ids"]
        memory = [own_mib(w["pid"]) for w in c.status()["workers"]]
        c.stop()
    return took, ids, memory


def read_s(path):
    began, buffer = time.monotonic(), bytearray(16 << 20)
    with open(path, "rb", buffering=0) as f:
        while f.readinto(buffer):
            pass
    return time.monotonic() - began


def main():
    o = arguments()
    p = Programs(o.build, ".")
    with tempfile.TemporaryDirectory(dir=Path(o.model).resolve().parent) as folder:
        pack = Path(folder, "pack")
        made = run([p.cadre, "pack", o.model, "-o", pack, "--weights", o.weights, "-q"], 3600).good("pack").seconds
        file = pack / "weights.pack"
        read_s(file)
        reading = min(read_s(file) for _ in range(o.rounds))
        rounds = [(start(p, str(pack), o), start(p, o.model, o, weights=o.weights)) for _ in range(o.rounds)]
        gib = file.stat().st_size / 2**30
    times = [sorted(r[k][0] for r in rounds)[o.rounds // 2] for k in (0, 1)]
    equal = all(a[1] == b[1] for a, b in rounds)
    pss, own = ([max(m[i] for m in rounds[-1][k][2]) for k in (0, 1)] for i in (0, 1))
    print(f"{Path(o.model).name} as {o.weights}: {gib:.2f} GiB, packed in {made:.1f} s; {o.workers} workers, files in the page cache")
    print(f"{'from':<12} {'serves after s':>15} {'MiB per worker':>15} {'of these written':>17}")
    for k, name in enumerate(("the pack", "checkpoint")):
        print(f"{name:<12} {times[k]:15.2f} {pss[k]:15.0f} {own[k]:17.0f}")
    print(f"reading the pack once takes {reading:.2f} s ({gib / reading:.1f} GiB/s); answers {'equal' if equal else 'DIFFER'}")
    record = {"bench": "start", "weights": o.weights, "gib": gib, "workers": o.workers, "pack_s": times[0], "checkpoint_s": times[1],
              "ratio": times[1] / times[0], "reading_s": reading, "pack_mib": pss[0], "checkpoint_mib": pss[1],
              "pack_own_mib": own[0], "checkpoint_own_mib": own[1], "equal": equal}
    print(json.dumps(record))
    return 1 if o.check and (not equal or times[0] > FLOOR_S) else 0


if __name__ == "__main__":
    sys.exit(main())
