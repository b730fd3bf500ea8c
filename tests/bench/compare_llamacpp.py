#!/usr/bin/env python3
"""compare_llamacpp.py - Cadre beside llama.cpp on this machine, in turns, and both beside what the machine can do.

usage: compare_llamacpp.py [--build DIR] [--models DIR] [--rounds N] [--only big|smollm2|ep] [--check]

big:     3.44 billion random weights (tools/random_moe.py), the same numbers for both: q8 against Q8_0, q4 against Q4_0
smollm2: SmolLM2-135M-Instruct; theirs dense, ours dense (every FFN cut into experts, all of them active) and upcycled
ep:      the big model on one worker with two threads, on two workers with one each, and on four, through `cadre serve`

Ours is bench_solo (one process, two threads, no server), theirs llama-cpp-python, pinned and built for this processor in a
private environment under the cache directory (half a gigabyte to build, ten of models). Both read a prompt of 512 tokens and
answer 1, 8 and 32 sequences of random tokens that differ; each gets logits where a server needs them. A round is one run of
each, of alternating order; medians of the rounds are printed, with ceilings measured by bench_solo right beside each case.
Beforehand both sides of big read the same prompt, and how far their logits agree is printed.
The last line is JSON. --check: exit 1 below the floors."""

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PEER, GGUF = "llama-cpp-python==0.3.36", "gguf==0.19.0"
CASES = ("prefill_512", "first_16", "decode_1", "decode_8", "decode_32")
# Of the ceiling, and times the peer's rate: where one holds and the other does not, the part of the ceiling binds.
FLOORS = {
    "q8": {"prefill_512": (0.25, 3.5), "decode_1": (0.75, 1.2), "decode_8": (0.70, 1.6), "decode_32": (0.60, 2.5)},
    "q4": {"prefill_512": (0, 3.5), "decode_1": (0.65, 1.1), "decode_32": (0.55, 3.0)},
}  # fmt: skip
MEMORY = {"q8": 1.0, "q4": 0.5}  # at most, of the peer's
ASKED, LIKELIEST = 32, 5  # tokens of the prompt whose logits are compared; of those tokens that may follow it


def run(*command, **more):
    r = subprocess.run([str(c) for c in command], capture_output=True, text=True, **more)
    if r.returncode:
        raise SystemExit(f"{' '.join(str(c) for c in command)}: exit status {r.returncode}\n{r.stdout[-2000:]}{r.stderr[-2000:]}")
    return r.stdout


def last_json(text):
    return json.loads(text.strip().splitlines()[-1])


def discard(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def softmax(logits):
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    total = sum(weights)
    return [w / total for w in weights]


def agreement(ours, theirs):
    """Of two rows of logits: correlation, divergence of our distribution from theirs in nats, likeliest tokens in common."""
    if len(ours) != len(theirs):
        raise SystemExit(f"the vocabularies differ: {len(ours)} and {len(theirs)}")

    def likeliest(logits):
        return sorted(range(len(logits)), key=logits.__getitem__, reverse=True)[:LIKELIEST]

    return {
        "correlation": statistics.correlation(ours, theirs),
        "divergence": sum(q * math.log(q / p) for p, q in zip(softmax(ours), softmax(theirs)) if q and p),
        "likeliest_in_common": len(set(likeliest(ours)) & set(likeliest(theirs))),
        "same_likeliest": likeliest(ours)[0] == likeliest(theirs)[0],
    }


class Bench:
    def __init__(self, o):
        self.build, self.models, self.rounds = o.build.resolve(), o.models, o.rounds
        self.cadre, self.solo = self.build / "cli/cadre", self.build / "tests/bench/bench_solo"
        self.env = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cadre/bench-venv"
        self.python = self.env / "bin/python"
        self.missed = []
        for path in (self.cadre, self.solo):
            if not path.exists():
                raise SystemExit(f"{path} is missing; build with meson, or name the folder with --build")
        self.models.mkdir(parents=True, exist_ok=True)

    # ---- what is compared ----
    def prepare(self):
        if not self.python.exists():
            venv.create(self.env, with_pip=True)
        have = run(self.python, "-m", "pip", "list", "--format", "freeze").splitlines()
        if PEER.replace("llama-cpp-python", "llama_cpp_python") not in have and PEER not in have:
            print(f"building {PEER} for this processor ...", flush=True)
            native = {**os.environ, "CMAKE_ARGS": "-DGGML_NATIVE=ON"}
            run(self.python, "-m", "pip", "install", "--no-binary", "llama-cpp-python", PEER, env=native)
        if GGUF not in have:
            run(self.python, "-m", "pip", "install", GGUF)
        self.info = last_json(run(self.python, HERE / "llamacpp_peer.py", "info"))
        print(f"llama-cpp-python {self.info['version']}: {self.info['system']}\n")

    def made(self, path, *command):
        """The file or folder `path`; `command` with where to write after it makes it. Its name is given to it when it is whole."""
        if path.exists():
            return path
        print(f"making {path} ...", flush=True)
        beside = path.with_name(f"unfinished-{path.name}")
        try:
            discard(beside)  # what a killed run has left
            run(*command, beside)
            os.replace(beside, path)
        finally:
            discard(beside)
        return path

    def big(self, fmt):
        """Our pack and their file of one model."""
        dense = self.made(self.models / "random-3.4b", self.python, ROOT / "tools/random_moe.py", "--tokenizer",
                          ROOT / "tests/golden/data/mixtral")  # fmt: skip
        pack = self.made(self.models / f"random-3.4b-{fmt}", self.cadre, "pack", dense, "--weights", fmt, "--quiet", "--output")
        theirs = self.models / f"random-3.4b-{fmt}.gguf"
        return pack, self.made(theirs, self.python, HERE / "llamacpp_peer.py", "gguf", dense, fmt)

    # ---- measuring ----
    def ours(self, model, *options):
        return last_json(run(self.solo, model, "--threads", 2, "--rounds", 1, *options))

    def theirs(self, path):
        return last_json(run(self.python, HERE / "llamacpp_peer.py", "bench", path, 2))

    def agree(self, pack, gguf, fmt):
        """How far both sides' logits after the same prompt are from each other."""
        draw = random.Random(1)
        ids = ",".join(str(draw.randrange(1000)) for _ in range(ASKED))
        ours = last_json(run(self.solo, pack, "--threads", 2, "--logits", ids))
        theirs = last_json(run(self.python, HERE / "llamacpp_peer.py", "logits", gguf, 2, ids))
        a = agreement(ours, theirs)
        print(f"logits after a prompt of {ASKED}, {fmt} / {fmt.upper()}_0: correlation {a['correlation']:.4f}, divergence"
              f" {a['divergence']:.4f} nats, {a['likeliest_in_common']} of the {LIKELIEST} likeliest tokens in common,"
              f" the likeliest {'the same' if a['same_likeliest'] else 'another'}")  # fmt: skip
        return a

    def turns(self, sides):
        """sides: name -> function. name -> results of the rounds; the order turns round every time."""
        results = {name: [] for name in sides}
        for i in range(self.rounds):
            for name in list(sides)[:: -1 if i % 2 else 1]:
                results[name].append(sides[name]())
        return results

    def floor(self, what, value, floor, at_least=True):
        if floor and not (value >= floor if at_least else value <= floor):
            self.missed.append(f"{what}: {value:.3f}, {'at least' if at_least else 'at most'} {floor:.3f}")

    # ---- the three comparisons ----
    def compare_big(self):
        out = {}
        for fmt in ("q8", "q4"):
            pack, gguf = self.big(fmt)
            logits = self.agree(pack, gguf, fmt)
            results = self.turns({"ours": lambda: self.ours(pack), "theirs": lambda: self.theirs(gguf)})
            out[fmt] = self.table(f"3.44 billion random weights, {fmt} / {fmt.upper()}_0", results, FLOORS[fmt])
            out[fmt]["logits"] = logits
            self.floor(f"memory as {fmt}, of theirs", out[fmt]["memory_ratio"], MEMORY[fmt], at_least=False)
        return out

    def compare_smollm2(self):
        out = {}
        source = sorted((self.models.parent / "upcycle").glob("*.gguf"))
        moe, exact = self.models / "smollm2-moe", self.models / "smollm2-exact"
        if not source or not moe.exists() or not exact.exists():
            raise SystemExit("SmolLM2 is missing: run deploy/quickstart.sh and deploy/test.sh first")
        for fmt in ("q8", "q4"):
            gguf = self.models / f"smollm2-{fmt}.gguf"
            self.made(gguf, self.python, HERE / "llamacpp_peer.py", "again", source[0], fmt)
            results = self.turns({
                "theirs": lambda: self.theirs(gguf),
                "ours": lambda: self.ours(exact, "--weights", fmt),
                "moe": lambda: self.ours(moe, "--weights", fmt),
            })  # fmt: skip
            out[fmt] = self.table(f"SmolLM2-135M dense, {fmt} / {fmt.upper()}_0", results, {})
            out[fmt + "_upcycled"] = self.table(f"ours upcycled, theirs dense, {fmt} / {fmt.upper()}_0",
                                                {"ours": results["moe"], "theirs": results["theirs"]}, {})  # fmt: skip
        return out

    def table(self, title, results, floors):
        def median(side, case, key):
            return statistics.median(r[case][key] for r in results[side])

        print(f"{title}\n{'':12} {'ours/s':>9} {'ms':>9} {'of the ceiling':>15} {'theirs/s':>9} {'ms':>9} {'ratio':>7}")
        out = {}
        for case in CASES:
            a, b = median("ours", case, "tokens_per_s"), median("theirs", case, "tokens_per_s")
            part, floor = median("ours", case, "of_ceiling"), floors.get(case, (0, 0))
            print(f"{case:12} {a:9.1f} {median('ours', case, 'ms'):9.1f} {100 * part:13.1f} % {b:9.1f} {median('theirs', case, 'ms'):9.1f} {a / b:6.2f}x")
            out[case] = {"ours": round(a, 2), "of_ceiling": round(part, 4), "theirs": round(b, 2), "ratio": round(a / b, 3)}
            self.floor(f"{title}, {case}, of the ceiling", part, floor[0])
            if not floor[0]:
                self.floor(f"{title}, {case}, times theirs", a / b, floor[1])
            elif part >= floor[0] and a / b < floor[1]:
                print(f"{'':12} less than {floor[1]} times theirs; the part of the ceiling is what binds")
        memory = [statistics.median(r["peak_mib"] for r in results[side]) for side in ("ours", "theirs")]
        out["peak_mib"], out["memory_ratio"] = [round(m, 1) for m in memory], round(memory[0] / memory[1], 3)
        for case in ("prefill_512", "decode_8"):
            kept = [statistics.median(r[case + "_beside"] for r in results[side]) for side in ("ours", "theirs")]
            out[case + "_beside"] = [round(k, 3) for k in kept]
            print(f"{case} beside a busy process: ours keeps {100 * kept[0]:.1f} %, theirs {100 * kept[1]:.1f} %")
            fair = results["ours"][0]["beside_floor"]  # its fair share of the cores, as bench_solo counts it
            self.floor(f"{title}, {case}, kept beside a busy process", kept[0], floors and fair)
        machine = {k: max(r[k] for r in results["ours"]) for k in ("read_gbs", "gops")}
        print(f"peak memory  {memory[0]:.0f} MiB, theirs {memory[1]:.0f} MiB: {memory[0] / memory[1]:.2f}x")
        print(f"at best the machine reads {machine['read_gbs']:.1f} GB/s and takes {machine['gops']:.0f} GOP/s\n")
        return {**out, **machine}

    def compare_ep(self):
        pack, _ = self.big("q8")
        out = {}
        print(f"{'':10} {'decode, 32':>11} {'to baseline':>12} {'prefill':>9} {'to baseline':>12}   a worker's time")
        for workers, floor in ((2, 0.90), (4, 0.78)):
            rounds = [last_json(run(self.build / "tests/bench/bench_engine", self.cadre, pack, "--fabric", "shm", "--workers", workers,
                                    "--concurrent", 32, "--tokens", 48, "--prefill")) for _ in range(self.rounds)]  # fmt: skip
            f = {k: statistics.median(r[k] for r in rounds) for k in ("many", "ratio_many", "prefill", "ratio_prefill")}
            f["time"] = {part: statistics.median(r["time"][part] for r in rounds) for part in rounds[0]["time"]}
            print(f"{workers} workers  {f['many']:11.1f} {f['ratio_many']:11.2f}x {f['prefill']:9.1f} {f['ratio_prefill']:11.2f}x"
                  f"   {', '.join(f'{part} {100 * share:.0f}' for part, share in f['time'].items() if share > 0.005)} %")  # fmt: skip
            out[workers] = f
            self.floor(f"{workers} workers, decode", f["ratio_many"], floor)
            self.floor(f"{workers} workers, prefill", f["ratio_prefill"], floor)
        print()
        return out


def main():
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cadre/models"
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--build", type=Path, default=ROOT / "build")
    a.add_argument("--models", type=Path, default=home, help="where models are, and are made")
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--only", choices=["big", "smollm2", "ep"])
    a.add_argument("--check", action="store_true", help="exit 1 below the floors")
    o = a.parse_args()
    b = Bench(o)
    b.prepare()
    parts = {"big": b.compare_big, "smollm2": b.compare_smollm2, "ep": b.compare_ep}
    figures = {name: part() for name, part in parts.items() if o.only in (None, name)}
    for line in b.missed:
        print(f"MISSED  {line}")
    print(json.dumps({"bench": "compare_llamacpp", "peer": b.info["version"], "missed": len(b.missed), **figures}))
    return 1 if o.check and b.missed else 0


if __name__ == "__main__":
    sys.exit(main())
