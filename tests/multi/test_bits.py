#!/usr/bin/env python3
"""test_bits.py - promise 1 through the front door: the same request gives the same tokens and the same bits of every logprob,
whatever the cluster looks like and whoever else is being served.

Two kinds of probes are sent to every cluster and compared with what one worker with one thread says: requests of `cadre
generate` (text and chat, greedy and sampled), and numbered requests of the program `load` (token ids), whose lines hold a hash
over all bits.
"""

import tempfile
from contextlib import ExitStack

from cases import case, main, note, skip
from cluster import Cluster, Process, check, same

LONG = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. "
PROBES = [
    {"prompt": "the sea is", "max_tokens": 30},
    {"prompt": LONG, "max_tokens": 12},
    {"prompt": LONG[:70], "max_tokens": 40, "temperature": 0.8, "top_p": 0.9, "seed": 7},
    {"prompt": "zebra crossing", "max_tokens": 40, "temperature": 1.1, "seed": 99},
    {"prompt": "a", "max_tokens": 60, "temperature": 1.5, "top_k": 40, "min_p": 0.01, "seed": 9000000000},
    {"prompt": "Name three rivers.", "chat": True, "max_tokens": 24, "temperature": 1, "seed": 1},
]
LOAD = ["--count", "12", "--prompt", "70", "--tokens", "40"]
PROCESSES = ["shm", "ucx", "auto"]
FAMILIES = ["qwen2_moe", "qwen3_moe", "olmoe", "cadre_moe_score", "llama"]


def lines(p, cluster, *words):
    with Process([p.load, "--connect", cluster.endpoint, *words]) as asked:
        return asked.wait().good("load").out.splitlines()


def answers(p, cluster, *words):
    """What a cluster says to all probes, sent at once."""
    with ExitStack() as stack:
        started = []
        for probe in PROBES:
            flags = ["--chat"] if probe.get("chat") else []
            options = {k: v for k, v in probe.items() if k != "chat"}
            started.append(stack.enter_context(cluster.start("generate", "--json", *flags, logprobs=3, **options)))
        told = [x.wait().good("generate").json() for x in started]
    for answer in told:
        del answer["timing"]
    return told + lines(p, cluster, *LOAD, *words)


def compare(got, wanted, what):
    for i, (g, w) in enumerate(zip(got, wanted)):
        if g != w and isinstance(g, dict):
            keys = [k for k in w if g.get(k) != w[k]]
            same({k: g.get(k) for k in keys}, {k: w[k] for k in keys}, f"probe {i} on {what}")
        same(g, w, f"probe {i} on {what}")
    same(len(got), len(wanted), f"answers on {what}")


def reference(p, family, **options):
    with Cluster(p, p.golden(family), workers=1, **options) as c:
        told = answers(p, c, "--at-once", "1")
        tokens = sum(a["usage"]["completion_tokens"] for a in told if isinstance(a, dict))
        check(tokens > 60, f"the probes of {family} are too short to prove anything: {tokens} tokens")
        return told


def check_shapes(p, family, wanted, shapes, **options):
    for workers, fabric, threads in shapes:
        what = f"{family}, {workers} workers, {fabric}, {threads} threads, {options}"
        with Cluster(p, p.golden(family), **{**options, "workers": workers, "fabric": fabric, "threads": threads}) as c:
            compare(answers(p, c), wanted, what)


def check_matrix(p, fabric, weights):
    wanted = reference(p, "mixtral", weights=weights)
    shapes = [(workers, fabric, threads) for workers in (1, 2, 3, 4, 8) for threads in (1, 2)]
    check_shapes(p, "mixtral", wanted, shapes, weights=weights)


@case
def mem_f32(p):
    check_matrix(p, "mem", "f32")


@case
def mem_bf16(p):
    check_matrix(p, "mem", "bf16")


@case
def mpi_f32(p):
    check_matrix(p, "mpi", "f32")


@case
def mpi_bf16(p):
    check_matrix(p, "mpi", "bf16")


@case
def processes(p):
    """Whatever carries the tokens between them."""
    wanted = reference(p, "mixtral")
    for fabric in PROCESSES:
        check_shapes(p, "mixtral", wanted, [(1, fabric, 1), (2, fabric, 2), (3, fabric, 1), (8, fabric, 1)])
    check_shapes(p, "mixtral", wanted, [(2, "mpi-alltoallv", 2), (4, "mpi-alltoallv", 1)])


@case
def settings(p):
    """Whatever the tokens travel as: one worker, which sends nothing, rounds the same way."""
    plain = reference(p, "mixtral")
    for options in (
        {"payload": "int8", "combine_payload": "bf16"},
        {"combine": "fused"},
        {"microbatches": 2},
        {"payload": "int8", "combine": "fused", "microbatches": 2},
    ):
        wanted = reference(p, "mixtral", **options)
        check("payload" not in options or wanted != plain, f"{options} changes nothing: is it heard at all?")
        check_shapes(p, "mixtral", wanted, [(2, "shm", 2), (3, "shm", 1)], **options)


@case
def families_mem(p):
    for family in FAMILIES:
        wanted = reference(p, family, weights="f32")
        check_shapes(p, family, wanted, [(3, "mem", 2), (4, "mem", 1)], weights="f32")


@case
def families_mpi(p):
    for family in FAMILIES:
        wanted = reference(p, family)
        check_shapes(p, family, wanted, [(2, "mpi", 2)])


@case
def chunks(p):
    wanted = reference(p, "mixtral")
    for budget, batch in ((1, 1), (3, 2), (7, 4), (64, 16), (1024, 64)):
        check_shapes(p, "mixtral", wanted, [(2, "mem", 1)], step_tokens=budget, max_batch=batch)


PLACEMENTS = {
    "reversed": "* 0-1 2\n* 2-4 1\n* 5-7 0\n",
    "uneven, another in every layer": "0 0-6 0\n0 7 2\n1 0 1\n1 1-7 2\n",
    "one idle worker": "* * 1\n",
    "replicas": "# everywhere, but some\n* * 0-2\n* 3 1\n1 4-5 0,2\n",
}


@case
def placements(p):
    wanted = reference(p, "mixtral")
    for name, text in PLACEMENTS.items():
        with tempfile.NamedTemporaryFile("w", suffix=".placement") as f:
            f.write(text)
            f.flush()
            for fabric in ("mem", "shm", "mpi"):
                with Cluster(p, p.golden("mixtral"), workers=3, fabric=fabric, placement=f.name) as c:
                    compare(answers(p, c), wanted, f"placement {name}, {fabric}")
                    rows = c.experts()["worker_rows"]
                    if name == "one idle worker":
                        same([rows[0], rows[2]], [0, 0], "rows of workers that hold nothing")
                    if name == "replicas":
                        check(min(rows) > 0, f"all replicas are used: {rows}")


@case
def alone_and_among_sixteen(p):
    for family in ("mixtral", "qwen2_moe"):
        with Cluster(p, p.golden(family), workers=4, fabric="mpi", max_batch=32) as c:
            alone = answers(p, c, "--at-once", "1")
            with Process(
                [
                    p.load,
                    "--connect",
                    c.endpoint,
                    "--first",
                    "100",
                    "--count",
                    "10000",
                    "--at-once",
                    "16",
                    "--prompt",
                    "40",
                    "--tokens",
                    "200",
                    "--whole",
                ]
            ) as others:
                c.until_status(lambda s: s["running"] >= 16, "sixteen others running")
                compare(answers(p, c), alone, f"{family}, among sixteen others")
                check(others.running(), "the others ended too early")
            compare(answers(p, c), alone, f"{family}, afterwards")


@case
def after_preemption_and_recompute(p):
    words = ["--count", "20", "--prompt", "50", "--tokens", "70"]
    with Cluster(p, p.golden("mixtral"), workers=2, max_context=128) as c:
        wanted = lines(p, c, *words, "--at-once", "1"), lines(p, c, *words, "--whole")
        same(c.status()["preemptions"], 0, "preemptions with room for all")
    for fabric, step_tokens in (("mem", 64), ("mpi", 20)):
        with Cluster(
            p,
            p.golden("mixtral"),
            workers=2,
            max_context=128,
            kv_tokens=176,
            max_batch=16,
            step_tokens=step_tokens,
            fabric=fabric,
        ) as c:
            for i, more in enumerate(([], ["--whole"])):
                same(lines(p, c, *words, *more), wanted[i], f"{fabric}, few pages, {' '.join(more)}")
            s = c.idle()
            check(s["preemptions"] > 0, f"nothing was preempted: {s}")
            note(f"{fabric}: {s['preemptions']} preemptions, {s['prompt_tokens']} prompt tokens")


@case
def instruction_sets_agree(p):
    with open("/proc/cpuinfo") as f:
        flags = f.read()
    if "avx512f" not in flags:
        skip("no AVX-512 here")
    for weights in ("f32", "bf16"):
        wanted = reference(p, "qwen3_moe", isa="avx512", weights=weights)
        with Cluster(p, p.golden("qwen3_moe"), workers=2, isa="avx2", weights=weights) as c:
            compare(answers(p, c), wanted, f"avx2 against avx512, {weights}")


if __name__ == "__main__":
    main()
