#!/usr/bin/env python3
"""test_serve.py - the life of a cluster: started by serve or by hand, asked by every verb, ended by signals."""

import json
import re
import signal
import subprocess
import tempfile
from pathlib import Path

from cases import case, main, note, skip
from cluster import Cluster, Front, Process, check, mpirun, run, same, until

STATUS_KEYS = """state reason model family version numeric_class fabric listen control uptime_us epoch placement_version steps
waiting running finished cancelled expired failed preemptions prompt_tokens generated_tokens max_context max_batch layers experts topk
missing_experts workers health strangers recovery""".split()
WORKER_KEYS = (
    """rank host pid state load_percent placement experts weight_bytes resident_bytes kv_bytes kv_pages kv_pages_used sequences
mapped_bytes buffer_bytes exchange_bytes pack_blobs peer_blobs disk_blobs source_failures rows busy_us wait_us beat_age_us time""".split()
)
TIME_PARTS = "attention dense gate dispatch experts combine wait output scheduler".split()
EXPERTS_KEYS = """activation_ratio balancedness cv domains experts hottest_15_percent imb layers rows std tokens utilisation
worker_rows""".split()
LAYER_KEYS = "activation_ratio balancedness cv hottest_15_percent imb layer rows std utilisation workers".split()
ANSWER_KEYS = "text token_ids logprobs finish_reason usage model seed timing".split()


def check_banner(c, workers):
    text = c.process.out()
    for key in ("model", "cluster", "KV", "clients", "control"):
        check(c.banner(key), f"the banner has no line '{key}': {text!r}")
    lines = re.findall(r"^\s+worker (\d+)\s+experts (\S+)\s+(.*)$", text, re.M)
    same([int(rank) for rank, _, _ in lines], list(range(workers)), "workers in the banner")
    held = set()
    for rank, plan, memory in lines:
        check(
            re.search(r"[\d.]+ \w*B routed \+ +[\d.]+ \w*B resident \+ +[\d.]+ \w*B KV", memory),
            f"memory of worker {rank}: {memory!r}",
        )
        for part in plan.split(","):
            first, _, last = part.partition("-")
            held |= set(range(int(first), int(last or first) + 1))
    same(held, set(range(8)), "experts in the banner's plan")
    check("worker 0: loaded 100%" in c.process.err(), f"no load progress: {c.process.err()!r}")


def check_verbs(c, workers, fabric):
    a = c.cadre("generate", "--json", prompt="the sea is", max_tokens=8, logprobs=2, temperature=1, seed=5).good().json()
    same(sorted(a), sorted(ANSWER_KEYS), "keys of generate --json")
    same(len(a["logprobs"]), len(a["token_ids"]), "logprobs, one per token")
    check(all(len(t["top"]) == 2 for t in a["logprobs"]), "two alternatives per token")
    same(a["usage"]["completion_tokens"], len(a["token_ids"]), "completion_tokens")
    streamed = c.cadre("generate", prompt="the sea is", max_tokens=8, temperature=1, seed=5).good().out
    whole = c.cadre("generate", "--no-stream", prompt="the sea is", max_tokens=8, temperature=1, seed=5).good().out
    same(streamed, a["text"] + "\n", "streamed text against --json")
    same(whole, streamed, "--no-stream against streamed text")
    ids = c.cadre("tokenize", "--json", prompt="the sea is").good().json()["ids"]
    same(c.cadre("tokenize", prompt="the sea is").good().out.split(), [str(i) for i in ids], "tokenize as text")
    same(len(ids), a["usage"]["prompt_tokens"], "tokenize against usage")
    s = c.status()
    same(sorted(s), sorted(STATUS_KEYS), "keys of status --json")
    same(sorted(s["workers"][0]), sorted(WORKER_KEYS), "keys of a worker in status --json")
    for w in s["workers"]:
        time = {part.removesuffix("_us"): us for part, us in w["time"].items()}
        same(sorted(time), sorted(TIME_PARTS), "keys of a worker's time in status --json")
        same(sum(us for part, us in time.items() if part != "scheduler"), w["busy_us"], "time by part against time in steps")
        check(time["experts"] and time["attention"] + time["output"] and time["scheduler"], f"where time went: {time}")
    line = r"^ *rank +attention .* scheduler +in all .*\n" + r"( +\d+( +[\d.]+%){9} +\S+\n)" * workers
    check(re.search(line, c.cadre("status", "--time").good().out, re.M), "status --time as a table")
    same((s["state"], s["fabric"], len(s["workers"])), ("serving", fabric, workers), "status")
    table = c.cadre("status", "--wait", "30").good().out
    check("is serving" in table and len(table.splitlines()) >= 8 + workers, f"status as a table: {table!r}")


def check_experts(c, workers):
    e = c.experts()
    same(sorted(e), sorted(EXPERTS_KEYS), "keys of experts --json")
    same(sorted(e["layers"][0]), sorted(LAYER_KEYS), "keys of a layer in experts --json")
    same(len(e["worker_rows"]), workers, "worker_rows")
    same(sum(e["worker_rows"]), sum(sum(layer["rows"]) for layer in e["layers"]), "rows by worker against rows by expert")
    check(re.search(r"^ +all +\d+ +imb [\d.]+", c.cadre("experts").good().out, re.M), "the table of experts has a sum")
    layer = c.cadre("experts", layer=e["layers"][0]["layer"]).good().out
    check(len(re.findall(r"^ +\d+ +\d+ +\d+ +[\d.]+%", layer, re.M)) >= e["experts"], f"the table of one layer: {layer!r}")
    absent = c.cadre("experts", layer=99)
    check(absent.status == 1 and "99" in absent.err, "a layer that does not exist")


def check_life(p, fabric, workers):
    with Cluster(p, p.golden("mixtral"), workers=workers, fabric=fabric) as c:
        check_banner(c, workers)
        check_verbs(c, workers, fabric)
        check_experts(c, workers)
        ended = c.stop(signal.SIGINT)
        same(ended.status, 0, f"serve after SIGINT ({ended.err[-300:]!r})")
        same(c.cadre("status", "-q").status, 3, "status when nobody answers")


@case
def mem_starts_answers_and_ends(p):
    check_life(p, "mem", 2)


@case
def mpi_starts_answers_and_ends(p):
    check_life(p, "mpi", 2)


@case
def one_worker_and_as_many_as_experts(p):
    for workers in (1, 8):
        with Cluster(p, p.golden("mixtral"), workers=workers) as c:
            check_banner(c, workers)
            same(c.stop().status, 0, f"serve with {workers} workers")


@case
def chat_keeps_history(p):
    with Cluster(p, p.golden("qwen3_moe"), workers=2) as c:
        words = {"max_tokens": 6, "temperature": 1, "seed": 3}
        first = c.say("chat", "one\n", **words).good().out
        both = c.say("chat", "one\ntwo\n", **words).good().out
        fresh = c.say("chat", "two\n", **words).good().out
        check(both.startswith(first), f"the first turn does not depend on later ones: {first!r}, {both!r}")
        check(both[len(first) :] != fresh, "the second turn sees the first")
        reset = c.say("chat", "one\n/reset\ntwo\n", **words).good().out
        same(reset, first + fresh, "after /reset")
        same(c.say("chat", "one\n/quit\ntwo\n", **words).good().out, first, "/quit leaves")
        check(c.say("chat", "one\n", system="be odd", **words).good().out != first, "a system message changes the prompt")
        one = c.generate("--chat", prompt="one", **words)
        same(one["text"] + "\n", first, "generate --chat is the first turn of a chat")
        check("no command" in c.say("chat", "/nonsense\n").good().err, "an unknown command")
        templated = c.cadre("tokenize", "--chat", "--json", prompt="one").good().json()["ids"]
        same(one["usage"]["prompt_tokens"], len(templated), "tokenize --chat against usage")


@case
def a_template_that_refuses_says_why(p):
    with Cluster(p, p.golden("mixtral"), workers=2) as c:
        r = c.cadre("generate", prompt="one", system="be odd", max_tokens=4)
        check(r.status == 1 and "Conversation roles must alternate" in r.err, f"the template's own words: {r.err!r}")
        c.generate("--chat", prompt="one", max_tokens=4)


@case
def stop_strings_and_lengths(p):
    with Cluster(p, p.golden("llama"), workers=2) as c:
        whole = c.generate(prompt="the sea is", max_tokens=24, temperature=1, seed=11)
        same(whole["finish_reason"], "length", "finish reason (choose another seed if the model ends early)")
        middle = whole["text"][len(whole["text"]) // 2 :][:3]
        cut = c.generate(prompt="the sea is", max_tokens=24, temperature=1, seed=11, stop=middle)
        same(
            (cut["finish_reason"], cut["text"]),
            ("stop", whole["text"][: whole["text"].index(middle)]),
            "text before the stop string",
        )
        none = c.generate(prompt="the sea is", max_tokens=0)
        same((none["text"], none["token_ids"], none["finish_reason"]), ("", [], "length"), "--max-tokens 0")
        limit = c.status()["max_context"]
        full = c.generate(prompt="the sea is", temperature=1, seed=11)
        check(
            full["finish_reason"] == "stop" or full["usage"]["total_tokens"] == limit,
            f"without --max-tokens up to the context: {full['usage']}",
        )


def crowd(p):
    """How many requests are more than can run at once and end in time."""
    return 400 // p.slow


def busy(p, c):
    """A crowd of requests, all of them inside."""
    n = crowd(p)
    asked = Process([p.load, "--connect", c.endpoint, "--count", n, "--prompt", "20", "--tokens", "230", "--whole"])
    c.until_status(lambda s: s["running"] and s["running"] + s["waiting"] + s["finished"] == n, f"{n} requests inside")
    return asked


@case
def requests_finish_while_draining(p):
    for number in (signal.SIGTERM, signal.SIGINT):
        with Cluster(p, p.golden("mixtral"), workers=2, drain=30 * p.slow) as c, busy(p, c) as asked:
            c.process.send(number)
            until(lambda: "draining: " in c.process.err(), "the coordinator says that it drains")
            late = c.cadre("generate", prompt="late", max_tokens=4)
            check(late.status == 1 and "UNAVAILABLE" in late.err, f"a request while draining: {late.status} {late.err!r}")
            ended = c.process.wait(60 * p.slow)
            c.process.gone("after a drain")
            same(ended.status, 0, f"serve after signal {number} under load ({ended.err[-300:]!r})")
            r = asked.wait()
            good = [line for line in r.out.splitlines() if " OK length " in line]
            same((r.status, len(good)), (0, crowd(p)), f"requests that were inside ({r.err[-300:]!r})")


@case
def a_second_signal_stops_at_once(p):
    for fabric in ("mem", "mpi"):
        with Cluster(p, p.golden("mixtral"), workers=2, fabric=fabric, max_batch=1) as c, busy(p, c) as asked:
            c.process.send(signal.SIGTERM)
            until(lambda: "finishing" in c.process.err(), "serve says that it drains")
            c.process.send(signal.SIGTERM)
            ended = c.process.wait(10)
            c.process.gone("after the second signal")
            check("at once" in ended.err, f"serve says so: {ended.err[-300:]!r}")
            same(asked.wait(30).status, 1, "requests that cannot have finished")


@case
def what_can_never_fit_is_refused_at_once(p):
    """While others fill the cluster, so that waiting for room would be noticed."""
    with Cluster(p, p.golden("mixtral"), workers=2, max_batch=2, max_context=256, kv_tokens=160) as c:
        others = [p.load, "--connect", c.endpoint, "--count", "100000", "--at-once", "24", "--prompt", "20", "--tokens", "100"]
        with Process([*others, "--whole"]) as asked:
            c.until_status(lambda s: s["waiting"] > 0, "requests running and waiting")
            for words, reason in (
                ({"prompt": "word " * 300, "max_tokens": 1}, r"the prompt has \d+ tokens.* 256"),
                ({"prompt": "x", "max_tokens": 200}, r"max_tokens 200 exceed a worker's KV pages of 161 tokens"),
            ):
                r = c.cadre("generate", **words)
                check(r.status == 1 and re.search(reason, r.err), f"refused with the reason: {r.status} {r.err!r}")
                check(r.seconds < 5 * p.slow, f"it took {r.seconds:.1f} s")
                note(f"{r.seconds:.2f} s: {r.err.strip()}")
            check(asked.running() and c.status()["waiting"], "the others still wait and run")


@case
def threads_have_names(p):
    for fabric in ("mem", "mpi"):
        with Cluster(p, p.golden("mixtral"), workers=2, fabric=fabric) as c:
            found = []
            for pid in c.process.named("cadre-worker") + c.process.named("cadre-coordinator"):
                found += [f.read_text().strip() for f in Path(f"/proc/{pid}/task").glob("*/comm")]
            wanted = ["coordinator", "engine 0", "engine 1", "tokenizer", "worker 0", "worker 1"]
            same(sorted(name for name in found if name in wanted), wanted, f"threads of {fabric}")


@case
def started_by_hand(p):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "endpoints"
        with Process(
            [
                p.coordinator,
                p.golden("olmoe"),
                "--workers",
                "2",
                "--fabric",
                "mpi",
                "--listen",
                "tcp://127.0.0.1:*",
                "--control",
                "tcp://127.0.0.1:*",
                "--endpoint-file",
                file,
            ]
        ) as coordinator:
            text = until(lambda: file.exists() and file.read_text().endswith("\n") and file.read_text(), "the endpoint file")
            listen, control = re.fullmatch(r"listen (\S+)\s+control (\S+)\n", text).groups()
            command = [*mpirun(2), p.worker, "--fabric", "mpi", "--connect", control]
            with Process(command, env=p.mpi_env()) as workers:
                front = Front(p, listen)
                same(front.cadre("status", "-q", "--wait", "30").status, 0, "status --wait")
                same([w["state"] for w in front.status()["workers"]], ["ready", "ready"], "workers")
                front.generate(prompt="by hand", max_tokens=5)
                coordinator.send(signal.SIGTERM)
                same(coordinator.wait().status, 0, "cadre-coordinator")
                same(workers.wait().status, 0, "mpirun")
                coordinator.gone("coordinator")
                workers.gone("workers")


@case
def options_come_from_a_file(p):
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as f:
        f.write("# a cluster\nworkers = 3\nweights = f32\nmax-batch = 5\nmax-context = 100\n")
        f.flush()
        with Cluster(p, p.golden("olmoe"), config=f.name, max_batch=7) as c:
            s = c.status()
            same(
                (len(s["workers"]), s["max_batch"], s["max_context"]),
                (3, 7, 100),
                "workers, max-batch (command line wins), max-context",
            )
            check("f32" in s["numeric_class"], f"class {s['numeric_class']}")


@case
def the_library_works_from_outside(p):
    source = Path(__file__).resolve().parents[2] / "examples/hello.c"
    if not source.exists():
        skip("no examples/hello.c")
    if p.sanitized:
        skip("the library of a sanitizer's build needs the sanitizer")
    with Cluster(p, p.golden("olmoe"), workers=2) as c, tempfile.TemporaryDirectory() as folder:
        for name, link in (
            ("shared", [f"-L{p.build}/client", "-lcadre", f"-Wl,-rpath,{p.build}/client"]),
            ("static", [f"{p.build}/client/libcadre.a", "-lzmq", "-lprotobuf-c", "-lm", "-pthread"]),
        ):
            program = f"{folder}/hello-{name}"
            built = run(
                ["cc", "-Wall", "-Wextra", "-Werror", f"-I{source.parents[1]}/client", str(source), "-o", program, *link]
            )
            built.good(f"cc, {name} library")
            told = run([program, "the sea", c.endpoint]).good(f"hello, {name} library").out
            same(told, c.cadre("generate", prompt="the sea", max_tokens=48).good().out, f"hello's answer, {name} library")
        bad = run([f"{folder}/hello-shared", "x", "tcp://127.0.0.1:1"])
        check(bad.status == 1 and "UNAVAILABLE" in bad.err, f"hello without a server: {bad.status} {bad.err!r}")
    leaks = subprocess.run(
        ["nm", "-D", "--defined-only", f"{p.build}/client/libcadre.so"], capture_output=True, text=True
    ).stdout
    names = [line.split()[-1] for line in leaks.splitlines()]
    check(
        names and all(n.startswith("cadre_") for n in names),
        f"the shared library exports only cadre_*: {[n for n in names if not n.startswith('cadre_')]}",
    )


@case
def missing_experts(p):
    """Experts 1 of layer 0, 0 and 3 of layer 1 are on no worker."""
    told = []
    with tempfile.NamedTemporaryFile("w", suffix=".placement") as f:
        f.write("* * *\n0 1 -\n1 0,3 -\n")
        f.flush()
        for workers, fabric in ((1, "mem"), (3, "mpi")):
            with Cluster(p, p.golden("mixtral"), workers=workers, fabric=fabric, placement=f.name) as c:
                waits = c.cadre("generate", prompt="the sea is", max_tokens=4, timeout=400)
                check(
                    waits.status != 0 and "expert 1 of layer 0 is on no worker (and 2 more)" in waits.err,
                    f"a request that wants all experts: {waits.status} {waits.err!r}",
                )
                a = c.generate("--allow-degraded", prompt="the sea is", max_tokens=8)
                check(a["degraded"], f"the answer is not marked: {a}")
                told.append(a)
                same(c.status()["missing_experts"], 3, "missing_experts in status")
                check("expert 1 of layer 0" in c.cadre("status", "--wait", "30").good().out, "status names what is missing")
                check(re.search(r"^ +1 +none +0 ", c.cadre("experts", layer=0).good().out, re.M), "experts says none")
    same(told[1], told[0], "the same experts missing on 1 worker and on 3")
    with Cluster(p, p.golden("mixtral"), workers=2) as c:
        a = c.generate("--allow-degraded", prompt="the sea is", max_tokens=8)
        check("degraded" not in a, f"nothing is missing, and yet: {a}")


@case
def help_is_whole(p):
    for argv in (
        [p.cadre],
        [p.coordinator],
        [p.worker],
        *([p.cadre, v] for v in "serve generate chat status experts tokenize inspect trace".split()),
    ):
        r = run([*argv, "--help"])
        same((r.status, r.err), (0, ""), f"{argv} --help")
        check(len(r.out) > 200 and "Usage" in r.out or "usage" in r.out, f"{argv} --help: {r.out[:200]!r}")
        check(all(len(line) <= 130 for line in r.out.splitlines()), f"{argv} --help has lines of more than 130 columns")
        bad = run([*argv, "--no-such-option"])
        check(bad.status == 2 and "no-such-option" in bad.err, f"{argv} with an unknown option: {bad.status} {bad.err!r}")


if __name__ == "__main__":
    main()
