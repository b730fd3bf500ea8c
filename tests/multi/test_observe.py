#!/usr/bin/env python3
"""test_observe.py - what inspect says is what workers allocate; what a trace records is what experts ran; who is
slow is named."""

import json
import os
import signal
import tempfile
import time
from pathlib import Path

import headers
from cases import case, main, note, skip
from cluster import Cluster, Process, check, run, same, until

BYTES = "weight_bytes resident_bytes mapped_bytes kv_bytes buffer_bytes exchange_bytes".split()


def inspect(p, model, **options):
    words = [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), str(value))]
    return run([p.cadre, "inspect", model, "--json", *words]).good("inspect").json()


def inspect_as(p, model, status, weights):
    """Inspect, asked about the cluster that a status shows."""
    first = status["workers"][0]
    return inspect(p, model, workers=len(status["workers"]), batch=status["max_batch"], context=status["max_context"],
                   kv_tokens=first["kv_pages"] * 16, weights=weights)


def check_bytes(p, model, fabric, **options):
    with Cluster(p, model, fabric=fabric, **options) as c:
        status = c.status()
        told = inspect_as(p, model, status, options.get("weights", "bf16"))
        for worker, wanted in zip(status["workers"], told["workers"], strict=True):
            same({k: worker[k] for k in BYTES}, {k: wanted[k] for k in BYTES}, f"worker {worker['rank']} of {Path(model).name}")
        same(c.stop().status, 0, "exit status of serve")


@case
def inspect_is_what_workers_allocate(p):
    check_bytes(p, p.golden("mixtral"), "mem", workers=2)
    check_bytes(p, p.golden("qwen2_moe"), "mem", workers=3, weights="f32", max_batch=5, max_context=40)
    check_bytes(p, p.golden("cadre_moe_rows"), "mpi", workers=2, kv_tokens=333)
    check_bytes(p, p.golden("router_two_stage"), "mem", workers=2)


@case
def inspect_refuses_what_serve_refuses(p):
    for broken in ({"model_type": "mystery"}, {"kv_lora_rank": 8}, {"hidden_act": "gelu"}):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(p.golden("mixtral"))
            for file in source.iterdir():
                (Path(folder) / file.name).write_bytes(file.read_bytes())
            config = Path(folder) / "config.json"
            config.write_text(json.dumps({**json.loads(config.read_text()), **broken}))
            told = run([p.cadre, "inspect", folder])
            served = run([p.cadre, "serve", folder, "--workers", 1, "--listen", "tcp://127.0.0.1:*"])
            check(told.status == 1 and served.status == 1, f"{broken} is refused: {told.status}, {served.status}")
            name = str(next(iter(broken.values())))
            check(name in told.err and name in served.err, f"by name: {told.err!r}, {served.err!r}")


@case
def inspect_of_671_billion_parameters(p):
    with tempfile.TemporaryDirectory() as folder:
        config, tensors, parameters = headers.deepseek_v3(fp8=True)
        files, count = headers.write(folder, config, tensors, 43 << 27)
        run([p.cadre, "inspect", folder])  # the files' pages come from wherever they are
        told = run([p.cadre, "inspect", folder, "--json", "--workers", 32, "--memory", "80GiB", "--context", "32k", "--batch", 64])
        note(f"{count} tensors in {files} files: {told.seconds:.2f} s")
        got = told.good("inspect").json()
        same(got["parameters"], parameters, "parameters")
        check(36e9 < got["active_parameters"] < 39e9, f"{got['active_parameters']} active parameters")
        same((got["layers"], got["dense_layers"], got["experts"], got["topk"]), (61, 3, 256, 8), "layers and experts")
        same(got["kv_bytes_per_token"], 61 * 576 * 2, "KV bytes per token: latent and rope key")
        same(len(got["workers"]), 32, "workers")
        check(got["workers_needed"] is not None, "some number of workers is enough")
        told = run([p.cadre, "inspect", folder, "--workers", 32, "--memory", "12GiB", "--context", "4k", "--batch", 64])
        check("needs more memory, not more workers" in told.good("inspect").out, f"what is whole is too much: {told.out[-300:]!r}")
        told = run([p.cadre, "inspect", folder, "--workers", 32, "--memory", "40GiB", "--context", "4k", "--batch", 64])
        check("not even 64, the most a cluster has" in told.good("inspect").out, f"too many experts: {told.out[-300:]!r}")


def resident(pids):
    """Bytes in memory of some processes: pages that they share count once, pages shared with others in part."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


@case
def inspect_is_near_what_is_resident(p):
    if not p.sparse:
        skip("no -Dmodel_sparse")
    if p.sanitized:
        skip("sanitizers have memory of their own")
    os.environ.pop("MALLOC_PERTURB_", None)  # `meson test` sets it: malloc then fills, and so makes resident, what nobody uses
    sizes = {"kv_tokens": 768, "step_tokens": 64, "max_batch": 4, "max_context": 768}
    with Cluster(p, p.sparse, workers=4, fabric="mpi", **sizes) as c:
        told = inspect(p, p.sparse, workers=4, kv_tokens=768, step_tokens=64, batch=4, context=768)
        prompt = "The sea is wide and nobody knows what the children said to the old man. " * 44
        running = [c.start("generate", prompt=f"{i} {prompt}", max_tokens=4) for i in range(4)]
        for r in running:
            r.wait(300).good("generate")
            r.close()
        wanted = told["expected_resident_bytes"]
        got = resident(w["pid"] for w in c.status()["workers"])
        note(f"inspect {wanted / 2**20:.0f} MiB, resident {got / 2**20:.0f} MiB: {wanted / got - 1:+.1%}")
        check(abs(wanted / got - 1) <= 0.10, f"inspect says {wanted}, the workers have {got} bytes in memory")


def report(p, file, *words):
    return run([p.cadre, "experts", "--report", file, "--json", *words]).good("experts --report").json()


def check_trace(p, fabric):
    model = p.golden("qwen3_moe")
    with tempfile.TemporaryDirectory() as folder, Cluster(p, model, workers=3, fabric=fabric) as c:
        file = str(Path(folder) / "routing.trace")
        with c.start("trace", out=file) as tracer:
            until(lambda: "recording" in tracer.err(), "the recording began")
            with c.start("trace", out=str(Path(folder) / "second")) as second:
                check(second.wait().status == 1 and "one at a time" in second.err(), f"a second recording: {second.err()!r}")
            for i, domain in enumerate(("code", "fine art", None, "code")):
                c.generate(prompt="the sea is"[i:], max_tokens=5 + i, domain=domain)
            run_tokens = c.experts()["tokens"]
            until(lambda: report(p, file)["tokens"] == run_tokens, "all tokens in the file, while it is written")
            tracer.send(signal.SIGINT)
            same(tracer.wait().status, 0, "exit status of trace")
        got, live = report(p, file), c.experts()
        check(got["whole"] and not got["lost"], f"whole, and nothing lost: {got['whole']}, {got['lost']}")
        for mine, theirs in zip(got["all"]["layers"], live["layers"], strict=True):
            same(mine["rows"], sum(theirs["rows"]), f"rows of layer {theirs['layer']}")
            for key in ("imb", "balancedness", "std", "utilisation", "hottest_15_percent", "activation_ratio"):
                check(abs(mine[key] - theirs[key]) < 1e-5 * (1 + theirs[key]), f"{key}: {mine[key]}, {theirs[key]}")
        until(lambda: {d["name"] for d in c.experts()["domains"]} == {"code", "fine art"}, "both domains in cadre experts")
        named = {d["name"]: d for d in got["domains"]}
        same(sorted(named), ["(untagged)", "code", "fine art"], "domains of the trace")
        until(lambda: all(sum(d["rows"]) == sum(l["rows"] for l in named[d["name"]]["layers"]) for d in c.experts()["domains"]),
              "counts per domain as in the trace")
        for d in c.experts()["domains"]:
            same(d["tokens"], named[d["name"]]["tokens"], f"tokens of {d['name']}")
            here, there = d["activation_ratio"], named[d["name"]]["activation_ratio"]
            check(abs(here - there) < 1e-6, f"activation ratio of {d['name']}: {here}, {there}")
        one = report(p, file, "--layer", 1)
        same([l["layer"] for l in one["all"]["layers"]], [1], "layers of --layer 1")
        same(one["all"]["rows"], got["all"]["layers"][1]["rows"], "rows of --layer 1")
        r = run([p.cadre, "experts", "--report", file, "--layer", 77])
        check(r.status == 1 and "no layer 77" in r.err, f"a layer that the trace lacks: {r.err!r}")
        labels = Path(folder) / "labels"
        labels.write_text("code * *\n")
        same(named["code"].get("routing_accuracy"), None, "accuracy without labels")
        all_right = {d["name"]: d for d in report(p, file, "--labels", labels)["domains"]}
        same(all_right["code"]["routing_accuracy"], 1, "accuracy when every expert is expected")
        same(c.stop().status, 0, "exit status of serve")


@case
def traces_are_what_experts_ran_mem(p):
    check_trace(p, "mem")


@case
def traces_are_what_experts_ran_mpi(p):
    check_trace(p, "mpi")


@case
def a_bounded_trace_ends(p):
    with tempfile.TemporaryDirectory() as folder, Cluster(p, p.golden("mixtral"), workers=2) as c:
        file = str(Path(folder) / "routing.trace")
        with c.start("trace", out=file, tokens=7, layers=1) as tracer:
            until(lambda: "recording" in tracer.err(), "the recording began")
            c.generate(prompt="the sea is", max_tokens=10)
            same(tracer.wait().status, 0, "exit status of trace")
        got = report(p, file)
        same((got["tokens"], [l["layer"] for l in got["all"]["layers"]]), (7, [1]), "tokens and layers")
        r = c.cadre("trace", out=file, layers=99)
        check(r.status == 1 and "layer 99 has no experts" in r.err, f"a layer that is not there: {r.err!r}")
    with Cluster(p, p.golden("llama"), workers=1) as c:
        r = c.cadre("trace", out="/dev/null")
        check(r.status == 1 and "no experts" in r.err, f"a dense model: {r.err!r}")


@case
def a_slow_worker_is_named(p):
    """One that runs for a tenth of the time: stopped and continued, never long enough to be suspect."""
    with Cluster(p, p.golden("mixtral"), workers=3, fabric="shm") as c:
        same(c.cadre("status", "--links", "--json").json()["slowest"], None, "before the first step")
        work = ["--count", "100000", "--at-once", "12", "--prompt", "20", "--tokens", "230", "--whole"]
        with Process([p.load, "--connect", c.endpoint, *work]) as asked:
            victim = c.until_status(lambda s: s["running"], "requests running")["workers"][1]["pid"]

            def named():
                for _ in range(20):
                    os.kill(victim, signal.SIGSTOP)
                    time.sleep(0.09)
                    os.kill(victim, signal.SIGCONT)
                    time.sleep(0.01)
                return c.cadre("status", "--links", "--json").json()["slowest"]

            told = until(named, "somebody named as slow")
            same(told["rank"], 1, f"the slow worker: {told}")
            check(asked.running() and c.status()["state"] == "serving", "the cluster goes on")
        table = c.cadre("status", "--links", "--wait", "30").good("status --links").out
        check("worker 1: the others wait for it" in table, f"the table names it: {table!r}")


@case
def links_are_counted(p):
    for fabric in ("mem", "ucx"):
        with Cluster(p, p.golden("mixtral"), workers=3, fabric=fabric) as c:
            run([p.load, "--connect", c.endpoint, "--count", "12", "--tokens", "20"]).good("load")

            def counted():
                links = c.cadre("status", "--links", "--json").json()["links"]
                return all(k["frames"] and k["bytes"] and k["messages"] for k in links) and links

            links = until(counted, "counts of every link")
            same(sorted((k["from"], k["to"]) for k in links), [(a, b) for a in range(3) for b in range(3) if a != b], "the links")
            check(all(k["p50_us"] <= k["p99_us"] for k in links), f"quantiles: {links}")
            told = c.cadre("status", "--links", "--json").json()
            check(told["steps_whole"] and not told["steps_halved"] and [t["rank"] for t in told["tasks"]] == [0, 1, 2], f"{told}")
            check(not any(k["stale"] or k["duplicate"] or k["bad"] for k in links), f"frames were dropped: {links}")
            check(all(k["extra"] <= k["frames"] for k in links), f"frames beyond a message's first: {links}")


@case
def messages_of_several_frames_are_counted(p):
    """Frames hold twice the even share: a long prompt, all of whose experts are on another worker, needs more than one."""
    with tempfile.NamedTemporaryFile("w", suffix=".placement") as f:
        f.write("* * 1\n")
        f.flush()
        with Cluster(p, p.golden("mixtral"), workers=3, fabric="shm", placement=f.name, step_tokens=250) as c:
            run([p.load, "--connect", c.endpoint, "--count", "6", "--prompt", "245", "--tokens", "2"]).good("load")

            def counted():
                links = c.cadre("status", "--links", "--json").json()["links"]
                return sum(k["extra"] for k in links) and links

            links = until(counted, "frames beyond the first of a message")
            check(all(1 in (k["from"], k["to"]) for k in links if k["extra"]), f"only worker 1 has experts: {links}")


if __name__ == "__main__":
    main()
