#!/usr/bin/env python3
"""test_input.py - bad and heavy requests: each gets a clear error or an answer, and the cluster is well afterwards. Also:
every row that was executed is counted, once."""

import tempfile

from cases import case, main, note
from cluster import Cluster, Front, Process, by_hand, check, same


def refused(r, status, *words):
    same(r.status, status, f"exit status ({r.err.strip()[-200:]!r})")
    missing = [w for w in words if w not in r.err]
    check(not missing, f"the error does not say {missing}: {r.err.strip()!r}")
    same(r.out, "", "standard output of a refused request")
    same(len(r.err.strip().splitlines()), 1, f"lines of error: {r.err!r}")


@case
def bad_requests_are_refused_in_one_line(p):
    with Cluster(p, p.golden("mixtral"), workers=2, max_context=200) as c:
        before = c.generate(prompt="the sea is", max_tokens=8, logprobs=2)
        refused(c.cadre("generate", prompt=""), 1, "INVALID_ARGUMENT", "empty")
        refused(c.say("generate", "", "-"), 1, "INVALID_ARGUMENT", "empty")
        refused(c.cadre("generate", prompt="x " * 300, max_tokens=4), 1, "context is 200", "tokens")
        refused(c.cadre("generate", prompt="x", max_tokens=-1), 2, "max-tokens", "-1")
        refused(c.cadre("generate", prompt="x", temperature=-0.5), 2, "temperature", "-0.5")
        refused(c.cadre("generate", prompt="x", temperature="nan"), 2, "temperature")
        refused(c.cadre("generate", prompt="x", temperature="warm"), 2, "temperature", "warm")
        refused(c.cadre("generate", prompt="x", top_p=1.5), 2, "top-p", "1.5")
        refused(c.cadre("generate", "--json", prompt="x", logprobs=21), 2, "logprobs")
        refused(c.cadre("generate", prompt="x", logprobs=1), 2, "--json")
        refused(c.cadre("generate"), 2, "--prompt")
        refused(c.cadre("generate", prompt="x", prompt_file="/dev/null"), 2, "exactly one")
        refused(c.cadre("generate", prompt_file="/nowhere/at/all"), 1, "/nowhere/at/all")
        refused(c.cadre("generate", prompt="x", stop=""), 1, "stop")
        refused(c.cadre("generate", prompt="x", stop="y" * 1000), 1, "stop", "1000")
        refused(c.say("generate", b"one \xff two", "-"), 1, "UTF-8", "0xff")
        refused(c.say("generate", b"half a character \xe2\x82", "-"), 1, "UTF-8")
        refused(c.say("generate", b"half a character \xe2\x82", "-", "--chat"), 1, "UTF-8")
        refused(c.say("tokenize", b"\xc0\x80", prompt_file="-"), 1, "UTF-8")
        check(c.say("generate", b"a NUL \0 is a character", "-", max_tokens=2).status in (0, 1), "a NUL in a prompt")
        same(c.generate(prompt="the sea is", max_tokens=8, logprobs=2), before, "the same request afterwards")
        c.idle()


@case
def heavy_prompts(p):
    texts = [b"all work and no play ", b"x", "\N{GRINNING FACE}".encode(), b"\n"]
    with Cluster(p, p.golden("mixtral"), workers=2) as c, tempfile.NamedTemporaryFile() as f:
        for size, words in ((4_000_000, ["256"]), (10_000_000, ["bytes"]), (80_000_000, [])):
            for text in texts[: 1 if size > 4_000_000 else None]:
                f.seek(0)
                f.truncate()
                f.write(text * (size // len(text)))
                f.flush()
                with c.start("generate", prompt_file=f.name, max_tokens=4) as big:
                    quick = c.cadre("generate", prompt="meanwhile", max_tokens=4).good("a request meanwhile")
                    r = big.wait()
                refused(r, 1, *words)
                note(
                    f"{size} bytes of {text[:4]!r} refused after {r.seconds:.1f} s, a short request meanwhile took "
                    f"{quick.seconds:.2f} s: {r.err.strip()}"
                )
        same(c.status()["state"], "serving", "state")


@case
def a_prompt_that_fills_the_context(p):
    with Cluster(p, p.golden("olmoe"), workers=2, max_context=64) as c:
        full = c.generate(prompt="x" * 60, max_tokens=4, temperature=1, seed=1)
        same(full["usage"]["total_tokens"], 64, "tokens of a full context (choose another seed if the model ends early)")
        refused(c.cadre("generate", prompt="x" * 60, max_tokens=5), 1, "60", "64")
        refused(c.cadre("generate", prompt="x" * 65, max_tokens=1), 1, "64")
        whole = c.generate(prompt="x" * 64, max_tokens=0)
        same(
            (whole["usage"]["total_tokens"], whole["finish_reason"]),
            (64, "length"),
            "a prompt as long as the context, nothing to generate",
        )


@case
def rows_are_counted_where_they_run(p):
    for family, k, layers, fabric in (("mixtral", 2, 2, "mem"), ("qwen2_moe", 3, 2, "mpi"), ("cadre_moe_all", 4, 2, "mem")):
        with Cluster(p, p.golden(family), workers=3, fabric=fabric) as c:
            with Process([p.load, "--connect", c.endpoint, "--count", "20", "--prompt", "60", "--tokens", "40"]) as asked:
                told = [line.split() for line in asked.wait().good("load").out.splitlines()]
            a = c.generate(prompt="and one more", max_tokens=9)
            tokens = sum(int(x[4]) + int(x[6]) - 1 for x in told) + a["usage"]["total_tokens"] - 1
            s, e = c.idle(), c.experts()
            same(s["preemptions"], 0, "preemptions")
            same((s["layers"], s["topk"]), (layers, k), "layers and k")
            rows = sum(sum(layer["rows"]) for layer in e["layers"])
            same(rows, tokens * k * layers, f"{family}, {fabric}: rows, {tokens} tokens x {k} x {layers} layers")
            same((sum(e["worker_rows"]), sum(w["rows"] for w in s["workers"])), (rows, rows), "rows by worker")
            same([sum(layer["rows"]) for layer in e["layers"]], [tokens * k] * layers, "rows by layer")
            same(s["prompt_tokens"] + s["generated_tokens"], tokens + len(told) + 1, "tokens in status")


@case
def sixty_four_at_once(p):
    for fabric in ("mem", "mpi"):
        with Cluster(p, p.golden("qwen3_moe"), workers=4, fabric=fabric, max_batch=64) as c:
            with Process([p.load, "--connect", c.endpoint, "--count", "64", "--prompt", "150", "--tokens", "100"]) as asked:
                r = asked.wait().good("load")
            same(len(r.out.splitlines()), 64, "answers")
            s = c.idle()
            same((s["finished"], s["failed"], s["cancelled"]), (64, 0, 0), "finished, failed, cancelled")
            note(f"{fabric}: 64 requests in {r.seconds:.1f} s")


@case
def more_than_the_queue_holds_is_refused_early(p):
    with by_hand(p, p.golden("mixtral"), "--workers", "1", "--max-batch", "1", "--max-queue", "8") as (_, listen, control):
        with Process([p.worker, "--connect", control]):
            front = Front(p, listen)
            front.cadre("status", "-q", "--wait", "30").good("status")
            with Process(
                [
                    p.load,
                    "--connect",
                    listen,
                    "--count",
                    "300",
                    "--at-once",
                    "300",
                    "--prompt",
                    "20",
                    "--tokens",
                    "200",
                    "--whole",
                ]
            ) as asked:
                lines = asked.wait().out.splitlines()
            good = [line for line in lines if " OK length " in line]
            refusals = [line for line in lines if " RESOURCE_EXHAUSTED " in line]
            check(len(good) >= 8 and len(refusals) > 0, f"{len(good)} answered, {len(refusals)} refused")
            same(len(good) + len(refusals), 300, "answered or refused")
            front.generate(prompt="afterwards", max_tokens=4)
            note(f"{len(refusals)} of 300 refused")


if __name__ == "__main__":
    main()
